package snapshot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/btrfs"
	"github.com/mkcdrec/mkcdrec/internal/interrupt"
	"github.com/mkcdrec/mkcdrec/internal/kernel"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/probe"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/storage"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

// Tag is that of every LVM snapshot of ours; runTag with the run's id is its second one.
const (
	Tag    = "mkcdrec_snapshot"
	runTag = "mkcdrec_run_"
)

// Set is the snapshots of one run.
type Set struct {
	// At is the time just before the first one was made.
	At time.Time

	m      *Maker
	plan   *Plan
	record *record
	made   map[string]bool // devices that have a snapshot
	lost   map[string]bool // devices whose snapshot had to be removed
	live   map[string]bool // parts of a btrfs that have none, by partKey
}

func partKey(device string, m layout.Mount) string { return device + ":" + m.Subvolume }

// defaults fills in what is not for a test.
func (m *Maker) defaults() {
	if m.Records == "" {
		m.Records = DefaultRecords
	}
	if m.snapshot == nil {
		m.subvolumes, m.snapshot, m.remove = btrfs.Subvolumes, btrfs.Snapshot, btrfs.Delete
	}
}

// Make makes the snapshots of a plan, one directly after another. A file system whose snapshot
// can't be made is reported, and has none. An error is that no record could be written, or the
// end of ctx: then nothing is left.
func (m *Maker) Make(ctx context.Context, p *Plan) (*Set, error) {
	m.defaults()
	s := &Set{m: m, plan: p, made: map[string]bool{}, lost: map[string]bool{}, live: map[string]bool{}}
	var err error
	if s.record, err = m.begin(p); err != nil {
		return nil, err
	}
	// LVM suspends a volume while it makes a snapshot. A program that is killed then leaves it
	// suspended, so none is ended by Ctrl-C.
	whole := context.WithoutCancel(ctx)
	for _, t := range p.trees { // mounting takes long, and comes before
		if err := s.top(t); err != nil {
			s.failed(t.fs.Device, err)
			s.record.Btrfs = slices.DeleteFunc(s.record.Btrfs, func(u string) bool { return u == t.fs.UUID }) // nothing of it to remove
			continue
		}
		s.made[t.fs.Device] = true
	}
	s.At = time.Now()
	for _, v := range p.volumes {
		if ctx.Err() != nil {
			break
		}
		if err := m.volume(whole, p.ID, v); err != nil {
			s.failed(v.fs.Device, err)
			continue
		}
		s.made[v.fs.Device] = true
	}
	for _, t := range p.trees {
		if s.made[t.fs.Device] && ctx.Err() == nil {
			s.tree(t)
		}
	}
	if ctx.Err() != nil {
		return nil, interrupt.Err(ctx, errors.Join(context.Cause(ctx), s.Close(ctx)))
	}
	return s, nil
}

func (s *Set) failed(device string, err error) {
	s.m.Report.Warn("/dev/%s is read live, without a snapshot: %v", device, err)
}

// volume makes the snapshot of a logical volume. It can't be written to.
func (m *Maker) volume(ctx context.Context, id string, v volume) error {
	_, name, _ := strings.Cut(v.name, "/")
	if err := CreateVolume(ctx, m.Run, v.fs.Device, name, v.size, true, Tag, runTag+id); err != nil {
		return fmt.Errorf("cannot make a snapshot: %w", err)
	}
	return nil
}

// CreateVolume makes the snapshot name, with tags, of the logical volume origin, GROUP/NAME. size is
// what may be written to the volume meanwhile, 0 for a thin one.
func CreateVolume(ctx context.Context, run tool.Runner, origin, name string, size quantity.Size, readOnly bool, tags ...string) error {
	args := []string{"lvm", "lvcreate", "-q", "-y", "-s"}
	if readOnly {
		args = append(args, "-p", "r")
	}
	args = append(args, "-n", name)
	for _, t := range tags {
		args = append(args, "--addtag", t)
	}
	if size == 0 {
		args = append(args, "-kn", "-ay")
	} else {
		args = append(args, "-L", fmt.Sprintf("%db", size))
	}
	_, err := run.Run(ctx, tool.Cmd{Args: append(args, origin)})
	return err
}

// dir is the directory that the run mounts in, at which the kernel is asked for it.
func (m *Maker) dir(id string, at ...string) string {
	return kernel.Of(m.Run).Path(filepath.Join(append([]string{probe.SnapshotMounts + id}, at...)...))
}

// topName is the name of the directory that a btrfs is mounted on.
func topName(uuid string) string { return "btrfs-" + uuid }

// top mounts the top level of a btrfs and makes the directory for its snapshots in it.
func (s *Set) top(t tree) error {
	at := s.m.dir(s.plan.ID, topName(t.fs.UUID))
	if err := os.MkdirAll(at, 0o700); err != nil {
		return fmt.Errorf("cannot mount the btrfs: %w", err)
	}
	if err := storage.MountBtrfs(kernel.Of(s.m.Run), t.fs.Device, t.fs.Others, "", at, unix.MS_NOATIME); err != nil {
		return errors.Join(err, os.Remove(at))
	}
	if err := os.Mkdir(filepath.Join(at, s.plan.Dir()), 0o700); err != nil {
		return errors.Join(fmt.Errorf("cannot make a snapshot: %w", err), s.m.unmount(at))
	}
	return nil
}

// tree makes the snapshots of a btrfs: one of each part, named by its number. A part can't have
// one if it has an active swap file.
func (s *Set) tree(t tree) {
	for i, part := range t.parts {
		if err := s.part(t, part, i); err != nil {
			s.live[partKey(t.fs.Device, part)] = true
			s.m.Report.Warn("the subvolume %q of /dev/%s is read live, without a snapshot: %v", part.Subvolume, t.fs.Device, err)
		}
	}
}

// part makes the snapshot of a part, with snapshots of the subvolumes in it.
func (s *Set) part(t tree, part layout.Mount, i int) error {
	top := s.m.dir(s.plan.ID, topName(t.fs.UUID))
	return Part(top, t.fs, part, filepath.Join(top, s.plan.Dir(), strconv.Itoa(i)), s.m.snapshot)
}

// Part makes the snapshot to of a part of a btrfs whose top level is mounted on top, with snapshots
// of the subvolumes in it. snapshot is btrfs.Snapshot, but for tests.
func Part(top string, f *layout.Filesystem, part layout.Mount, to string, snapshot func(src, dst string) error) error {
	from := filepath.Join(top, part.Subvolume)
	if err := snapshot(from, to); err != nil {
		return err
	}
	for _, inner := range f.Inner(part) { // parents first
		if err := btrfs.SnapshotInner(filepath.Join(from, inner), filepath.Join(to, inner), snapshot); err != nil {
			return err
		}
	}
	return nil
}

// Has reports whether a file system has a snapshot.
func (s *Set) Has(device string) bool { return s != nil && s.made[device] }

// Open opens the root of a part of a file system in its snapshot; nil without one.
func (s *Set) Open(device string, part layout.Mount) (*os.File, error) {
	if !s.Has(device) && (s == nil || !s.lost[device]) {
		return nil, nil
	}
	if s.live[partKey(device, part)] {
		return nil, nil
	}
	for _, t := range s.plan.trees {
		i := slices.IndexFunc(t.parts, func(m layout.Mount) bool { return m.Subvolume == part.Subvolume })
		if t.fs.Device == device && i >= 0 {
			f, err := os.Open(filepath.Join(s.m.dir(s.plan.ID, topName(t.fs.UUID)), s.plan.Dir(), strconv.Itoa(i)))
			if err != nil {
				return nil, fmt.Errorf("cannot open the snapshot of /dev/%s: %w", device, err)
			}
			return f, nil
		}
	}
	for i, v := range s.plan.volumes {
		if v.fs.Device != device {
			continue
		}
		if s.lost[device] {
			return nil, fmt.Errorf("the thin pool %s is nearly full, and its snapshots were removed", v.pool)
		}
		at := s.m.dir(s.plan.ID, strconv.Itoa(i))
		if err := os.MkdirAll(at, 0o700); err != nil {
			return nil, fmt.Errorf("cannot mount the snapshot of /dev/%s: %w", device, err)
		}
		// LVM has frozen the file system: its log has nothing to be replayed.
		var options []string
		if o := part.Owners(); o != "" {
			options = append(options, o)
		}
		k := kernel.Of(s.m.Run)
		if err := k.MountReadOnly("/dev/"+v.name, v.fs.Type, at, options...); err != nil {
			if why := s.Check(context.Background(), device); why != nil {
				return nil, why // it was full before anything was read
			}
			return nil, err
		}
		f, err := os.Open(at)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("cannot open the snapshot of /dev/%s: %w", device, err), k.Unmount(at))
		}
		return f, nil
	}
	return nil, nil
}

// Check gives an error if the snapshot of a file system was not whole until now: then what was
// read from it may lack something. Of a thick volume it is not if more was written to the volume
// than the snapshot has room for.
func (s *Set) Check(ctx context.Context, device string) error {
	if s == nil {
		return nil
	}
	v := s.volume(device)
	if v == nil || !s.Has(device) {
		return nil
	}
	rows, err := (probe.Machine{Run: s.m.Run}).LVMReport(ctx, "lvs", "vg_name,lv_name,lv_attr,data_percent")
	if err != nil {
		return fmt.Errorf("cannot check the snapshot: %w", err)
	}
	i := slices.IndexFunc(rows, func(r map[string]string) bool { return r["vg_name"]+"/"+r["lv_name"] == v.name })
	if i < 0 {
		return errors.New("the snapshot was removed")
	}
	if broken(rows[i], v.pool != "") {
		why := "the snapshot is damaged"
		if v.pool == "" {
			why = fmt.Sprintf("more was written to the volume than its snapshot of %s has room for", v.size)
		}
		return errors.New(why)
	}
	return nil
}

// broken reports a snapshot that can't be read as a whole, lvs(8): the fifth letter of its
// attributes is I or S for an invalid one, and the ninth F for one that has failed.
func broken(row map[string]string, thin bool) bool {
	attr := row["lv_attr"]
	if len(attr) < 9 || strings.ContainsRune("ISX", rune(attr[4])) || attr[8] == 'F' {
		return true
	}
	full, err := strconv.ParseFloat(row["data_percent"], 64)
	return !thin && (err != nil || full >= 100)
}

// Done removes the snapshot of a volume that was read, so that it takes no more room. It also
// removes those in thin pools that are nearly full by now: a full pool would fail the writes of
// the running system. What can't be removed is removed by Close.
func (s *Set) Done(ctx context.Context, device string) {
	ctx = context.WithoutCancel(ctx)
	if s.volume(device) == nil || !s.Has(device) {
		return
	}
	s.release(ctx, device)
	if !slices.ContainsFunc(s.plan.volumes, func(v volume) bool { return v.pool != "" && s.made[v.fs.Device] }) {
		return
	}
	full, err := s.m.fullPools(ctx, 95, 95)
	for _, v := range s.plan.volumes {
		if v.pool != "" && s.made[v.fs.Device] && (full[v.pool] != "" || err != nil) {
			s.lost[v.fs.Device] = true
			s.release(ctx, v.fs.Device)
		}
	}
}

func (s *Set) release(ctx context.Context, device string) {
	delete(s.made, device)
	i := slices.IndexFunc(s.plan.volumes, func(v volume) bool { return v.fs.Device == device })
	if s.m.unmount(s.m.dir(s.plan.ID, strconv.Itoa(i))) == nil {
		_ = s.m.clearVolumes(ctx, &record{ID: s.plan.ID, Volumes: []string{s.plan.volumes[i].name}}) // Close reports it
	}
}

// volume finds the logical volume that a device is; nil for none.
func (s *Set) volume(device string) *volume {
	for i := range s.plan.volumes {
		if s.plan.volumes[i].fs.Device == device {
			return &s.plan.volumes[i]
		}
	}
	return nil
}
