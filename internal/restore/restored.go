package restore

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/inroot"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/medium"
	"github.com/mkcdrec/mkcdrec/internal/plan"
	"github.com/mkcdrec/mkcdrec/internal/repair"
	"github.com/mkcdrec/mkcdrec/internal/storage"
	"github.com/mkcdrec/mkcdrec/internal/superblock"
)

// Record is what a restore leaves in the restored system, so that an unattended medium
// that stays in the drive does not restore again at every boot.
type Record struct {
	Version  int       `json:"version"`
	Set      string    `json:"set"`      // id
	Manifest string    `json:"manifest"` // SHA-256 of manifest.json
	Host     string    `json:"host"`
	Restored time.Time `json:"restored"`
	// Disks are those that were overwritten: WWN or serial number, sorted.
	Disks []string `json:"disks"`
}

const recordVersion = 1

// RecordFile is where the restored system has its Record. Where that may be on LVM, RAID
// or LUKS, /boot and the EFI system partition have it, too.
const RecordFile = "/var/lib/mkcdrec/restored.json"

const recordName = "mkcdrec-restored.json"

// maxRecord is the largest Record that is read.
const maxRecord = 1 << 20

// Repeated is the refusal to restore what these disks were restored from before.
type Repeated struct {
	exit.Refusal
	Record Record
}

func (r *Repeated) Unwrap() error { return &r.Refusal }

// recordPlace is a file system that has a Record, and where in it.
type recordPlace struct {
	fs        *layout.Filesystem
	mount     layout.Mount
	full, rel string
}

// recordPlaces are where a layout's system has Records.
func recordPlaces(l *layout.Layout) []recordPlace {
	var out []recordPlace
	add := func(full string) {
		var best recordPlace
		for i := range l.Filesystems {
			f := &l.Filesystems[i]
			for _, m := range f.Mounts {
				in := strings.TrimSuffix(m.Path, "/") + "/"
				if rel, ok := strings.CutPrefix(full, in); ok && f.Excluded == "" && (best.fs == nil || len(m.Path) > len(best.mount.Path)) {
					best = recordPlace{f, m, full, rel}
				}
			}
		}
		if best.fs != nil && !slices.ContainsFunc(out, func(p recordPlace) bool { return p.fs == best.fs && p.mount.Subvolume == best.mount.Subvolume }) {
			out = append(out, best)
		}
	}
	add(RecordFile)
	add("/boot/" + recordName)
	for i := range l.Filesystems {
		if f := &l.Filesystems[i]; f.Device == l.Boot.ESP && len(f.Mounts) > 0 {
			add(strings.TrimSuffix(f.Mounts[0].Path, "/") + "/" + recordName)
		}
	}
	return out
}

// diskIDs identify the plan's disks.
func diskIDs(p *plan.Plan) []string {
	var ids []string
	for _, d := range p.Disks {
		ids = append(ids, cmp.Or(d.New.WWN, d.New.Serial, d.New.Name))
	}
	slices.Sort(ids)
	return ids
}

// record writes the Record into the restored system.
func (r *Restorer) record() error {
	b, err := json.MarshalIndent(Record{recordVersion, r.set.Manifest.ID, r.set.Digest, r.set.Manifest.Host, time.Now().UTC(), diskIDs(r.plan)}, "", "  ")
	if err != nil {
		return err
	}
	for _, p := range recordPlaces(r.plan.Layout) {
		f, err := inroot.Create(r.opt.Target, p.full, 0o600)
		if err == nil {
			_, err = f.Write(append(b, '\n'))
			err = errors.Join(err, f.Sync(), f.Close())
		}
		if err != nil {
			return fmt.Errorf("cannot note that the machine is restored: %w", err)
		}
	}
	return nil
}

// before refuses to restore onto disks that have a Record of this set, or of an older one
// of which this set may be a backup. Nothing is written to look.
func (r *Restorer) before(ctx context.Context) error {
	places := recordPlaces(r.content.Layout())
	rec, looked, err := r.findRecord(places)
	if err == nil && rec == nil && looked == 0 {
		rec, looked, err = r.findBelow(ctx, places)
	}
	if err != nil {
		return err
	}
	if rec == nil && looked == 0 && r.known() {
		return &exit.Refusal{Reason: "the disks have parts of this very machine, and it can't be read without writing whether they were restored from the set before: mkcdrec.again (or restore without --once) restores anyway"}
	}
	if rec == nil || !r.repeats(rec) {
		return nil
	}
	return &Repeated{exit.Refusal{Reason: fmt.Sprintf("these disks were restored on %s from the set %s of host %s, and are not restored again by themselves: remove the medium, or start with mkcdrec.again (or run restore without --once)", rec.Restored.UTC().Format("2006-01-02 15:04 UTC"), rec.Set, rec.Host)}, *rec}
}

// repeats reports whether a restore would undo what was done since the recorded one.
func (r *Restorer) repeats(rec *Record) bool {
	for _, id := range diskIDs(r.plan) {
		if !slices.Contains(rec.Disks, id) {
			return false // a new disk among them
		}
	}
	m := r.set.Manifest
	return rec.Set == m.ID && rec.Manifest == r.set.Digest || rec.Host == m.Host && m.Created.After(rec.Restored)
}

// known reports whether the plan's disks have anything of the set's machine.
func (r *Restorer) known() bool {
	devs, err := medium.Finder{Kernel: r.kernel()}.Devices()
	if err != nil {
		return true
	}
	l := r.content.Layout()
	return slices.ContainsFunc(devs, func(d medium.Device) bool {
		return r.ours(d) && (l.Array(d.Name) != nil || d.Info.MD != nil && slices.ContainsFunc(l.Arrays, func(a layout.Array) bool { return a.UUID == d.Info.MD.UUID }) ||
			d.Info.Type == superblock.TypeLUKS && slices.ContainsFunc(l.Crypts, func(c layout.Crypt) bool { return strings.EqualFold(c.UUID, d.Info.UUID) }) ||
			d.Info.Type == superblock.TypeLVM && slices.ContainsFunc(l.VolumeGroup, func(g layout.VolumeGroup) bool {
				return slices.ContainsFunc(g.PVs, func(p layout.PhysicalVolume) bool { return p.UUID == d.Info.UUID })
			}))
	})
}

// ours reports whether a device is on disks that the plan overwrites.
func (r *Restorer) ours(d medium.Device) bool {
	disks := r.Machine.DisksOf(r.Machine.Name(d.Name))
	return len(disks) > 0 && !slices.ContainsFunc(disks, func(n string) bool {
		return !slices.ContainsFunc(r.plan.Disks, func(p plan.Disk) bool { return p.New.Name == n })
	})
}

// on reports whether a device has the file system of a place, and can be looked into.
func (p recordPlace) on(d medium.Device) bool {
	t := fstype.Of(d.Info.Type)
	return !d.Held && (t.Native() || t.Foreign && t.Common) && strings.EqualFold(d.Info.UUID, p.fs.UUID) && p.fs.UUID != ""
}

// findRecord looks for a Record on the plan's disks, in what can be mounted as it is;
// looked counts the file systems that were looked into.
func (r *Restorer) findRecord(places []recordPlace) (rec *Record, looked int, err error) {
	devs, err := medium.Finder{Kernel: r.kernel()}.Devices()
	if err != nil {
		return nil, 0, err
	}
	dir, err := os.MkdirTemp(r.kernel().Path(os.TempDir()), "mkcdrec-look")
	if err != nil {
		return nil, 0, err
	}
	defer os.Remove(dir)
	for _, p := range places {
		for _, d := range devs {
			if !p.on(d) || !r.ours(d) {
				continue
			}
			if err := repair.Look(r.kernel(), d, devs, dir); err != nil {
				r.Screen.Warn("%v", err)
				continue
			}
			looked++
			got, err := readRecord(dir, filepath.Join(p.mount.Subvolume, p.rel))
			if e := r.kernel().Unmount(dir); e != nil {
				return nil, looked, fmt.Errorf("cannot unmount %s: %w", dir, e)
			}
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				r.Screen.Warn("%v", err)
			}
			if err == nil && (rec == nil || got.Restored.After(rec.Restored)) {
				rec = got
			}
		}
	}
	return rec, looked, nil
}

// readRecord reads a Record of a system that is mounted at root.
func readRecord(root, name string) (*Record, error) {
	f, err := inroot.Open(root, "/"+name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxRecord))
	var rec Record
	if err == nil {
		err = json.Unmarshal(b, &rec)
	}
	if err == nil && rec.Version != recordVersion {
		err = fmt.Errorf("version %d is not known", rec.Version)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", f.Name(), err)
	}
	return &rec, nil
}

// findBelow is findRecord for what is on arrays, LUKS devices and logical volumes,
// which are opened for reading and closed again.
func (r *Restorer) findBelow(ctx context.Context, places []recordPlace) (rec *Record, looked int, err error) {
	l := r.content.Layout()
	if len(l.Arrays)+len(l.Crypts)+len(l.VolumeGroup) == 0 || !r.known() {
		return nil, 0, nil
	}
	nobody := func(string) ([]byte, error) { return nil, repair.ErrNoPassphrase }
	rep := &repair.Opener{Run: r.Run, Report: r.Screen, Target: filepath.Join(os.TempDir(), "mkcdrec-none"), KeyFile: r.opt.KeyFile, Secret: nobody, Access: storage.ReadOnly}
	// What can't be opened so is told by what is found.
	tell := func(err error) {
		if err != nil {
			r.Screen.Note("%v", err)
		}
	}
	tell(rep.StartArrays(ctx, l))
	tell(rep.OpenCrypts(ctx, l))
	for _, g := range l.VolumeGroup {
		tell(storage.ActivateGroup(ctx, r.Run, g.Name, storage.ReadOnly))
	}
	tell(rep.OpenCrypts(ctx, l))
	rec, looked, err = r.findRecord(places)
	return rec, looked, errors.Join(err, rep.Unmount(ctx, l))
}
