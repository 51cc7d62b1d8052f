package snapshot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/btrfs"
	"github.com/mkcdrec/mkcdrec/internal/kernel"
	"github.com/mkcdrec/mkcdrec/internal/probe"
	"github.com/mkcdrec/mkcdrec/internal/storage"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

// recordVersion is that of the records; maxRecord is the largest one that is read, in bytes.
const (
	recordVersion = 1
	maxRecord     = 1 << 20
)

// record is what a run makes, in a file that is there until all of it is removed. The run has
// the file locked: what a record names whose lock is free is of a run that has ended.
type record struct {
	Version int       `json:"version"`
	ID      string    `json:"id"`
	Made    time.Time `json:"made"`
	Volumes []string  `json:"volumes,omitempty"` // snapshots, "vg0/mkcdrec_snap_ID_0"
	Btrfs   []string  `json:"btrfs,omitempty"`   // UUIDs of those with snapshots

	file *os.File
}

// begin writes the record of a run before anything of it is made.
func (m *Maker) begin(p *Plan) (*record, error) {
	r := &record{Version: recordVersion, ID: p.ID, Made: time.Now().UTC().Truncate(time.Second)}
	for _, v := range p.volumes {
		r.Volumes = append(r.Volumes, v.name)
	}
	for _, t := range p.trees {
		r.Btrfs = append(r.Btrfs, t.fs.UUID)
	}
	fail := func(err error) (*record, error) {
		return nil, fmt.Errorf("cannot record which snapshots are made: %w", err)
	}
	b, err := json.Marshal(r)
	if err != nil {
		return fail(err)
	}
	if err := os.MkdirAll(m.Records, 0o700); err != nil {
		return fail(err)
	}
	if r.file, err = os.OpenFile(filepath.Join(m.Records, p.ID+".json"), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600); err != nil {
		return fail(err)
	}
	err = unix.Flock(int(r.file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		_, err = r.file.Write(b)
	}
	if err = errors.Join(err, r.file.Sync(), syncDir(m.Records)); err != nil {
		return fail(errors.Join(err, os.Remove(r.file.Name()), r.file.Close()))
	}
	return r, nil
}

// syncDir has the entries of a directory survive a crash.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// Close removes the snapshots, and then their record. It is not ended by ctx. What can't be
// removed stays recorded, for the next run.
func (s *Set) Close(ctx context.Context) error {
	if s == nil {
		return nil
	}
	s.made = nil
	return s.m.end(context.WithoutCancel(ctx), s.record)
}

// end removes all that a record names, and the record.
func (m *Maker) end(ctx context.Context, r *record) error {
	defer r.file.Close() // which unlocks it
	if err := m.clear(ctx, r); err != nil {
		return err
	}
	if err := os.Remove(r.file.Name()); err != nil {
		return fmt.Errorf("cannot remove the record of snapshots: %w", err)
	}
	return nil
}

// Sweep removes the snapshots of runs that have ended without removing them.
func (m *Maker) Sweep(ctx context.Context) error {
	m.defaults()
	entries, err := os.ReadDir(m.Records)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot look for snapshots of earlier runs: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if e.Type().IsRegular() && strings.HasSuffix(e.Name(), ".json") {
			errs = append(errs, m.sweep(context.WithoutCancel(ctx), filepath.Join(m.Records, e.Name())))
		}
	}
	return errors.Join(errs...)
}

// sweep removes what one record names if its run has ended.
func (m *Maker) sweep(ctx context.Context, name string) error {
	fail := func(err error) error {
		return fmt.Errorf("cannot remove the snapshots of an earlier run: %w", err)
	}
	f, err := os.OpenFile(name, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fail(err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil // its run still reads them
		}
		return fail(err)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxRecord))
	if err != nil {
		return fail(errors.Join(err, f.Close()))
	}
	r := &record{file: f}
	if json.Unmarshal(b, r) != nil || r.Version != recordVersion || r.ID != strings.TrimSuffix(filepath.Base(name), ".json") {
		if len(b) > 0 {
			return errors.Join(fail(fmt.Errorf("its record %s can't be used; look for volumes with the tag %s (lvs -o +tags), remove them, then the record", name, Tag)), f.Close())
		}
		return m.end(ctx, &record{file: f}) // the run ended before it made any
	}
	m.Report.Note("removing the snapshots of the backup of %s, which has ended without removing them", r.Made.Local().Format("2006-01-02 15:04:05 MST"))
	if err := m.end(ctx, r); err != nil {
		return fail(err)
	}
	return nil
}

// clear unmounts and removes what a record names and is there. Only what also has the names and
// tags of the run is removed.
func (m *Maker) clear(ctx context.Context, r *record) error {
	if r.ID == "" {
		return nil
	}
	var errs []error
	for i := range r.Volumes {
		errs = append(errs, m.unmount(m.dir(r.ID, strconv.Itoa(i))))
	}
	if len(r.Volumes) > 0 {
		errs = append(errs, m.clearVolumes(ctx, r))
	}
	for _, uuid := range r.Btrfs {
		errs = append(errs, m.clearTree(r.ID, uuid))
	}
	if err := os.Remove(m.dir(r.ID)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, fmt.Errorf("cannot remove the directory of snapshots: %w", err))
	}
	return errors.Join(errs...)
}

// unmount ends what is mounted on a directory of ours, and removes that.
func (m *Maker) unmount(at string) error {
	if _, err := os.Lstat(at); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for { // until nothing is mounted there
		err := kernel.Of(m.Run).Unmount(at)
		if errors.Is(err, unix.EINVAL) {
			break
		}
		if err != nil {
			return fmt.Errorf("cannot unmount the snapshot on %s: %w", at, err)
		}
	}
	if err := os.Remove(at); err != nil {
		return fmt.Errorf("cannot remove the directory of a snapshot: %w", err)
	}
	return nil
}

// clearVolumes removes the LVM snapshots of a record.
func (m *Maker) clearVolumes(ctx context.Context, r *record) error {
	rows, err := (probe.Machine{Run: m.Run}).LVMReport(ctx, "lvs", "vg_name,lv_name,lv_tags,origin")
	if err != nil {
		return fmt.Errorf("cannot look for snapshots: %w", err)
	}
	var errs []error
	for _, row := range rows {
		name, tags := row["vg_name"]+"/"+row["lv_name"], strings.Split(row["lv_tags"], ",")
		ours := slices.Contains(tags, Tag) && slices.Contains(tags, runTag+r.ID) && strings.HasPrefix(row["lv_name"], probe.SnapshotVolume) && row["origin"] != ""
		if !ours || !slices.Contains(r.Volumes, name) {
			continue
		}
		if _, err := m.Run.Run(ctx, tool.New("lvm", "lvremove", "-q", "-y", name)); err != nil {
			errs = append(errs, fmt.Errorf("cannot remove the snapshot %s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// clearTree removes a run's snapshots of a btrfs, which is mounted for that if it is not.
func (m *Maker) clearTree(id, uuid string) error {
	if uuid != filepath.Base(uuid) {
		return fmt.Errorf("cannot remove snapshots: %q is not a UUID", uuid)
	}
	at := m.dir(id, topName(uuid))
	dir := filepath.Join(at, probe.SnapshotDir+id)
	if _, err := os.Lstat(dir); err != nil { // of a run that was killed before a reboot
		if err := m.mountAgain(uuid, at); err != nil {
			return err
		}
	}
	list, _, err := m.subvolumes(at)
	if err != nil {
		return errors.Join(err, m.unmount(at))
	}
	slices.SortFunc(list, func(a, b btrfs.Subvolume) int { return strings.Compare(b.Path, a.Path) }) // the inner ones first
	for _, s := range list {
		if strings.HasPrefix(s.Path, probe.SnapshotDir+id+"/") {
			if err := m.remove(filepath.Join(at, s.Path)); err != nil {
				return errors.Join(err, m.unmount(at))
			}
		}
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(fmt.Errorf("cannot remove snapshots: %w", err), m.unmount(at))
	}
	return m.unmount(at)
}

// mountAgain mounts the top level of a btrfs that the machine has in use.
func (m *Maker) mountAgain(uuid, at string) error {
	k := kernel.Of(m.Run)
	mounts, err := (probe.Machine{Run: m.Run, Root: strings.TrimSuffix(k.Path("/"), "/")}).Mounts()
	if err != nil {
		return fmt.Errorf("cannot remove snapshots: %w", err)
	}
	i := slices.IndexFunc(mounts, func(x probe.MountInfo) bool { return x.FSID == uuid && x.Device != "" })
	if i < 0 {
		return fmt.Errorf("cannot remove the snapshots of the btrfs %s: mount it, and back up again", uuid)
	}
	if err := m.unmount(at); err != nil {
		return err
	}
	if err := os.MkdirAll(at, 0o700); err != nil {
		return fmt.Errorf("cannot remove snapshots: %w", err)
	}
	return storage.MountBtrfs(k, mounts[i].Device, nil, "", at, unix.MS_NOATIME)
}
