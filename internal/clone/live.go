package clone

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/archive"
	"github.com/mkcdrec/mkcdrec/internal/blockcopy"
	"github.com/mkcdrec/mkcdrec/internal/blockdev"
	"github.com/mkcdrec/mkcdrec/internal/btrfs"
	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/kernel"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/probe"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/rescue"
	"github.com/mkcdrec/mkcdrec/internal/restore"
	"github.com/mkcdrec/mkcdrec/internal/snapshot"
	"github.com/mkcdrec/mkcdrec/internal/storage"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

// live is a source that is in use while it is cloned: the running system's own disks.
type live struct {
	run     tool.Runner
	rep     progress.Reporter
	machine probe.Machine
	freeze  bool
	// room is what a snapshot of a volume may take, by device; thin are those that need none.
	room map[string]quantity.Size
	thin map[string]bool

	made    bool
	rest    map[string]bool   // devices of file systems that nothing has mounted
	volumes map[string]string // device -> its snapshot, "vg0/mkcdrec_clone_1"
	trees   map[string]string // device of a btrfs -> the directory of its snapshots, mounted
}

// Names of snapshots, by which those of a run that was killed are found.
const (
	snapshotTag  = "mkcdrec_clone"
	snapshotDir  = ".mkcdrec-clone"
	snapshotsDir = partsDir + "/btrfs" // where top levels are mounted
)

// OpenLive opens the disks of the running system. A file system of ext or XFS that has the
// same UUID on the target is copied while it is frozen, if freeze is set; others are read
// from a snapshot of LVM or btrfs where one can be made, and as they are otherwise. Snapshots
// are made when the first file is copied. A *exit.Refusal is returned for what can't be
// copied beside itself: what has a name in the kernel that the copy needs, too.
func OpenLive(ctx context.Context, o OpenOptions, identity string, freeze bool) (s *Source, err error) {
	s = &Source{run: o.Run, rep: o.Report, paths: map[string]string{}}
	m := probe.Machine{Run: o.Run, Only: o.Disks}
	if err := s.find(m, o.Disks, func(string) error { return nil }); err != nil {
		return nil, err
	}
	s.live = &live{run: o.Run, rep: o.Report, machine: m, freeze: freeze, rest: map[string]bool{}, volumes: map[string]string{}, trees: map[string]string{}}
	if !o.PlanOnly {
		release, err := restore.Lock(rescue.StateDir) // another clone may be using its snapshots
		if err != nil {
			return nil, err
		}
		err = s.live.sweep(ctx)
		release()
		if err != nil {
			return nil, err
		}
	}
	if err := s.mountRest(m, o.Disks); err != nil {
		return nil, errors.Join(err, unmountBelow(partsDir))
	}
	s.layout, err = m.Read(ctx)
	if err := errors.Join(err, unmountBelow(partsDir)); err != nil {
		return nil, err
	}
	for i := range s.layout.Filesystems {
		f := &s.layout.Filesystems[i]
		if slices.ContainsFunc(f.Mounts, func(m layout.Mount) bool { return strings.HasPrefix(m.Path, partsDir+"/") }) {
			f.Mounts, f.Private = nil, true
			s.live.rest[f.Device] = true
		}
	}
	s.layout.Unsupported = slices.DeleteFunc(s.layout.Unsupported, func(u layout.Unsupported) bool {
		on := (probe.Machine{Run: o.Run}).DisksOf(u.Device)
		return len(on) > 0 && !slices.ContainsFunc(on, func(d string) bool { return slices.Contains(o.Disks, d) })
	})
	s.System = s.layout.Mounted("/") != nil
	if err := s.live.possible(s.layout, identity); err != nil {
		return nil, err
	}
	if s.live.room, s.live.thin, err = s.live.volumesOf(ctx, s.layout); err != nil {
		return nil, err
	}
	for i := range s.layout.Images {
		s.layout.Images[i].File = s.layout.Images[i].Device
	}
	for i := range s.layout.Swap {
		s.layout.Swap[i].Active = true
	}
	s.closed()
	return s, nil
}

// possible refuses what can't be there twice in one running system.
func (v *live) possible(l *layout.Layout, identity string) error {
	var cannot []string
	for _, a := range l.Arrays {
		cannot = append(cannot, fmt.Sprintf("the RAID array %s is running, and its copy would need the same name", a.Name))
	}
	for _, c := range l.Crypts {
		cannot = append(cannot, fmt.Sprintf("the LUKS device %s is open, and its copy would need the same name", c.Name))
	}
	for _, g := range l.VolumeGroup {
		if identity == Keep {
			cannot = append(cannot, fmt.Sprintf("the volume group %s is active, and its copy would have the same name: use --identity new", g.Name))
		}
	}
	for _, m := range l.Images {
		if why := v.machine.InUse(m.Device); why != "" {
			cannot = append(cannot, fmt.Sprintf("/dev/%s (%s) can only be copied block by block, and %s: unmount it", m.Device, m.What(), why))
		}
	}
	if len(cannot) > 0 {
		return &exit.Refusal{Reason: "the running system cannot be cloned: " + strings.Join(cannot, "\n") + "\nboot the rescue system to clone it, or make a backup set with 'mkcdrec path' and clone that"}
	}
	return nil
}

// uses reports whether the running system uses a file system; v may be nil.
func (v *live) uses(f *layout.Filesystem) bool { return v != nil && f.InUse() && !v.rest[f.Device] }

// how returns how a file system in use is copied as files.
func (v *live) how(f *layout.Filesystem) string {
	switch {
	case f.Type == fstype.TypeBtrfs:
		return "from a snapshot of its subvolumes"
	case v.thin[f.Device] || v.room[f.Device] > 0:
		return "from a snapshot of its volume"
	}
	return "while it is in use: files that change meanwhile are listed"
}

// freezes reports whether a file system is copied block by block while it is frozen.
func (v *live) freezes(f *layout.Filesystem) bool {
	return v.uses(f) && v.freeze && len(f.Mounts) > 0 && fstype.Of(f.Type).Freezes
}

// minSnapshot is the least room for a snapshot, in bytes.
const minSnapshot = 32 * quantity.MiB

// volumesOf finds what room snapshots of volumes may take: the free part of each group, in
// the proportion of the volumes' sizes.
func (v *live) volumesOf(ctx context.Context, l *layout.Layout) (room map[string]quantity.Size, thin map[string]bool, err error) {
	room, thin = map[string]quantity.Size{}, map[string]bool{}
	for _, g := range l.VolumeGroup {
		free, err := v.free(ctx, g.Name)
		if err != nil {
			return nil, nil, fmt.Errorf("cannot find the free room of volume group %s: %w", g.Name, err)
		}
		all := quantity.Size(0)
		for _, lv := range g.LVs {
			if f := l.On(g.Name + "/" + lv.Name); f != nil && v.uses(f) && f.Type != fstype.TypeBtrfs && lv.Type != layout.TypeThin {
				all += lv.Size
			}
		}
		for _, lv := range g.LVs {
			dev := g.Name + "/" + lv.Name
			if f := l.On(dev); f == nil || !v.uses(f) || f.Type == fstype.TypeBtrfs {
				continue
			}
			if lv.Type == layout.TypeThin {
				thin[dev] = true
				continue
			}
			n := min(quantity.Size(float64(free)*float64(lv.Size)/float64(all)), lv.Size) / g.ExtentSize * g.ExtentSize
			if n >= minSnapshot {
				room[dev] = n
			}
		}
	}
	return room, thin, nil
}

// free gives the free room of a volume group, in bytes.
func (v *live) free(ctx context.Context, group string) (int64, error) {
	rows, err := v.machine.LVMReport(ctx, "vgs", "vg_name,vg_free")
	if err != nil {
		return 0, err
	}
	i := slices.IndexFunc(rows, func(r map[string]string) bool { return r["vg_name"] == group })
	if i < 0 {
		return 0, errors.New("vgs does not list it")
	}
	return strconv.ParseInt(rows[i]["vg_free"], 10, 64)
}

// snapshots makes all snapshots, right after each other.
func (v *live) snapshots(ctx context.Context, l *layout.Layout) error {
	if v.made {
		return nil
	}
	v.made = true
	for i := range l.Filesystems {
		f := &l.Filesystems[i]
		if !v.uses(f) {
			continue
		}
		if f.Type == fstype.TypeBtrfs {
			if err := v.snapshotBtrfs(f); err != nil {
				return err
			}
			continue
		}
		size := v.room[f.Device]
		if !v.thin[f.Device] && size == 0 {
			continue
		}
		group, _, _ := strings.Cut(f.Device, "/")
		name := fmt.Sprintf("%s_%d", snapshotTag, i)
		if err := snapshot.CreateVolume(ctx, v.run, f.Device, name, size, false, snapshotTag); err != nil {
			return fmt.Errorf("cannot make a snapshot of /dev/%s: %w", f.Device, err)
		}
		v.volumes[f.Device] = group + "/" + name
	}
	return nil
}

// snapshotBtrfs makes a snapshot of each part of a btrfs that is copied, in a directory of
// its top level, named by the part's number, with snapshots of the subvolumes in it.
func (v *live) snapshotBtrfs(f *layout.Filesystem) error {
	top := filepath.Join(snapshotsDir, strings.ReplaceAll(f.Device, "/", "-"))
	if err := os.MkdirAll(top, 0o700); err != nil {
		return fmt.Errorf("cannot make snapshots of /dev/%s: %w", f.Device, err)
	}
	if err := storage.MountBtrfs(kernel.Linux{}, f.Device, f.Others, "", top, unix.MS_NOATIME); err != nil {
		return err
	}
	v.trees[f.Device] = top
	if err := os.Mkdir(filepath.Join(top, snapshotDir), 0o700); err != nil {
		return fmt.Errorf("cannot make snapshots of /dev/%s: %w", f.Device, err)
	}
	for i, m := range f.Parts() {
		if err := snapshot.Part(top, f, m, filepath.Join(top, snapshotDir, strconv.Itoa(i)), btrfs.Snapshot); err != nil {
			return err
		}
	}
	return nil
}

// openFiles opens the files of a mount of a file system in use; close ends that.
func (v *live) openFiles(ctx context.Context, l *layout.Layout, f *layout.Filesystem, m layout.Mount) (root *os.File, done func() error, err error) {
	if err := v.snapshots(ctx, l); err != nil {
		return nil, nil, err
	}
	unmount := func() error { return unmountBelow(filesDir) }
	switch {
	case f.Type == fstype.TypeBtrfs:
		n := slices.IndexFunc(f.Parts(), func(o layout.Mount) bool { return o.Subvolume == m.Subvolume })
		root, err = os.Open(filepath.Join(v.trees[f.Device], snapshotDir, strconv.Itoa(n)))
	case v.volumes[f.Device] != "":
		if err := blockdev.MountReadOnly("/dev/"+v.volumes[f.Device], f.Type, filesDir); err != nil {
			return nil, nil, err
		}
		root, err = archive.OpenFS(filesDir)
	default:
		root, err = v.machine.OpenRoot(f)
	}
	if err != nil {
		return nil, nil, errors.Join(err, unmount())
	}
	return root, func() error { return errors.Join(root.Close(), unmount(), v.filled(ctx, f)) }, nil
}

// filled gives an error if the snapshot of a file system had too little room: what was
// read from it is not complete.
func (v *live) filled(ctx context.Context, f *layout.Filesystem) error {
	name := v.volumes[f.Device]
	if name == "" || v.thin[f.Device] {
		return nil
	}
	rows, err := v.machine.LVMReport(ctx, "lvs", "vg_name,lv_name,lv_attr")
	if err != nil {
		return fmt.Errorf("cannot check the snapshot of /dev/%s: %w", f.Device, err)
	}
	for _, r := range rows {
		if attr := r["lv_attr"]; r["vg_name"]+"/"+r["lv_name"] == name && len(attr) > 4 && strings.ContainsRune("IS", rune(attr[4])) {
			return fmt.Errorf("cannot copy /dev/%s: more was written to it than its snapshot of %s has room for; start again when less is written, or free more room in the volume group", f.Device, v.room[f.Device])
		}
	}
	return nil
}

// close removes the snapshots.
func (v *live) close(ctx context.Context) error {
	errs := []error{}
	for _, n := range v.volumes {
		errs = append(errs, v.remove(ctx, n))
	}
	for _, top := range v.trees {
		errs = append(errs, removeSnapshots(top), unmountBelow(top))
	}
	return errors.Join(errs...)
}

// removeSnapshots removes the directory of snapshots from the top level of a btrfs.
func removeSnapshots(top string) error {
	all, _, err := btrfs.Subvolumes(top)
	if err != nil {
		return err
	}
	slices.SortFunc(all, func(a, b btrfs.Subvolume) int { return strings.Compare(b.Path, a.Path) }) // the inner ones first
	for _, s := range all {
		if strings.HasPrefix(s.Path, snapshotDir+"/") {
			if err := btrfs.Delete(filepath.Join(top, s.Path)); err != nil {
				return err
			}
		}
	}
	if err := os.Remove(filepath.Join(top, snapshotDir)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot remove snapshots: %w", err)
	}
	return nil
}

// sweep removes the snapshots of a run that was killed.
func (v *live) sweep(ctx context.Context) error {
	mounts, err := v.machine.Mounts()
	if err != nil {
		return err
	}
	var errs []error
	for _, m := range mounts {
		if path.Dir(m.Path) == snapshotsDir {
			v.rep.Note("removing the snapshots of /dev/%s, which an earlier clone has left", m.Device)
			errs = append(errs, removeSnapshots(m.Path))
		}
	}
	errs = append(errs, unmountBelow(filesDir), unmountBelow(partsDir))
	if !slices.ContainsFunc(mounts, func(m probe.MountInfo) bool { return strings.Contains(m.Device, "/") }) {
		return errors.Join(errs...) // LVM is not in use, and may not be installed
	}
	rows, err := v.machine.LVMReport(ctx, "lvs", "vg_name,lv_name,lv_tags")
	if err != nil {
		return errors.Join(append(errs, fmt.Errorf("cannot look for snapshots of an earlier clone: %w", err))...)
	}
	for _, r := range rows {
		if slices.Contains(strings.Split(r["lv_tags"], ","), snapshotTag) {
			name := r["vg_name"] + "/" + r["lv_name"]
			v.rep.Note("removing the snapshot %s, which an earlier clone has left", name)
			errs = append(errs, v.remove(ctx, name))
		}
	}
	return errors.Join(errs...)
}

// remove removes the snapshot of a volume.
func (v *live) remove(ctx context.Context, name string) error {
	if _, err := v.run.Run(ctx, tool.Cmd{Args: []string{"lvm", "lvremove", "-q", "-y", name}}); err != nil {
		return fmt.Errorf("cannot remove the snapshot %s: %w", name, err)
	}
	return nil
}

// frozen freezes a file system while fn copies its blocks. beat has to be called at least
// every frozenLimit: a file system that nobody copies any more is thawed by another process.
func (v *live) frozen(f *layout.Filesystem, fn func(dir string, beat func()) error) (err error) {
	dir := f.Mounts[0].Path
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("cannot freeze %s: %w", dir, err)
	}
	defer d.Close()
	if err := apart(d); err != nil {
		return err
	}
	g, err := startGuard(dir)
	if err != nil {
		return fmt.Errorf("cannot freeze %s: %w", dir, err)
	}
	defer g.end()
	if err := unix.IoctlSetInt(int(d.Fd()), fiFreeze, 0); err != nil {
		return fmt.Errorf("cannot freeze %s: %w", dir, err)
	}
	defer func() {
		if thaw := unix.IoctlSetInt(int(d.Fd()), fiThaw, 0); thaw != nil {
			err = errors.Join(err, fmt.Errorf("the copy of %s cannot be used: the file system was thawed while it was copied (%w)", dir, thaw))
		}
	}()
	return fn(dir, g.beat)
}

// fiFreeze and fiThaw are ioctls of a directory, linux/fs.h.
const (
	fiFreeze = 3<<30 | 4<<16 | 'X'<<8 | 119
	fiThaw   = 3<<30 | 4<<16 | 'X'<<8 | 120
)

// apart refuses to freeze a file system to which the output of this program goes: it would
// wait for itself.
func apart(dir *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		return fmt.Errorf("cannot freeze %s: %w", dir.Name(), err)
	}
	for fd := 1; fd <= 2; fd++ {
		var out unix.Stat_t
		if unix.Fstat(fd, &out) == nil && out.Mode&unix.S_IFMT == unix.S_IFREG && out.Dev == st.Dev {
			return &exit.Refusal{Reason: fmt.Sprintf("%s cannot be frozen while the output of this program goes to a file on it: write it to another file system, such as /run", dir.Name())}
		}
	}
	return nil
}

// frozenBlocks copies the blocks in use of a file system while it is frozen.
func (s *Source) frozenBlocks(ctx context.Context, f *layout.Filesystem, m *layout.Image, dst *os.File, rep progress.Reporter) error {
	return s.live.frozen(f, func(dir string, beat func()) error {
		used, why, err := s.mapOf(m.Device)
		if err != nil {
			return err
		}
		if why != "" { // a frozen XFS has something in its log
			if k, err := blockcopy.MountedOn(dir, m.Device); err == nil {
				used = k
			}
		}
		return s.copyUsed(ctx, m, dst, used, beating{rep, beat})
	})
}

// beating calls beat whenever progress is reported.
type beating struct {
	progress.Reporter
	beat func()
}

type beatingCounter struct {
	progress.Counter
	beat func()
}

// Phase implements progress.Reporter.
func (b beating) Phase(name string, total int64) progress.Counter {
	return beatingCounter{b.Reporter.Phase(name, total), b.beat}
}

// Add implements progress.Counter.
func (b beatingCounter) Add(n int64) {
	b.Counter.Add(n)
	b.beat()
}

// Waits implements progress.Waiter.
func (b beatingCounter) Waits(read, write, processor float64) {
	if w, ok := b.Counter.(progress.Waiter); ok {
		w.Waits(read, write, processor)
	}
}
