// Package clone copies disks with all that is on them onto disks of any size: it gives
// internal/restore the content of a source's disks in the place of a backup set. The
// source is never written to: arrays, LUKS devices, volume groups and file systems are
// opened read-only, and no log is replayed.
package clone

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/agekey"
	"github.com/mkcdrec/mkcdrec/internal/archive"
	"github.com/mkcdrec/mkcdrec/internal/blockcopy"
	"github.com/mkcdrec/mkcdrec/internal/blockdev"
	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/kernel"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/medium"
	"github.com/mkcdrec/mkcdrec/internal/probe"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/repair"
	"github.com/mkcdrec/mkcdrec/internal/rescue"
	"github.com/mkcdrec/mkcdrec/internal/storage"
	"github.com/mkcdrec/mkcdrec/internal/superblock"
	"github.com/mkcdrec/mkcdrec/internal/sysconf"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

// Where the source's file systems are mounted.
const (
	systemDir  = rescue.StateDir + "/clone/system" // as the system has them
	liveTarget = rescue.StateDir + "/target"       // where a running system mounts the target
	partsDir   = rescue.StateDir + "/clone/parts"  // those that the system does not mount
	filesDir   = rescue.StateDir + "/clone/files"  // the one that is copied
)

// Source is the disks that are cloned, open for reading.
type Source struct {
	// System is set if an installed system was found.
	System bool

	run    tool.Runner
	rep    progress.Reporter
	verify bool
	raw    bool // whole disks are copied
	disks  []layout.Disk
	layout *layout.Layout
	keys   [][]byte
	lacks  []string
	lost   []string
	// bad is what could not be read, by devices of the layout.
	bad     map[string][]blockcopy.Extent
	mapFile *mapFile          // nil for none
	paths   map[string]string // of devices of the layout that are called otherwise here: below /dev
	groups  []string          // hidden
	crypts  []string          // open, by their names here
	arrays  []string          // running
	live    *live             // nil if nothing uses the disks
}

// OpenOptions say how a source is opened.
type OpenOptions struct {
	Run    tool.Runner
	Report progress.Reporter
	// Disks are the names of the source's disks, without /dev/.
	Disks []string
	// Root is the device of the root file system where there are several systems.
	Root string
	// KeyFile opens LUKS devices; without it Secret asks. What is not opened is copied
	// as it is.
	KeyFile string
	Secret  func(prompt string) ([]byte, error)
	// Verify compares each copy with what was copied.
	Verify bool
	// PlanOnly has OpenLive leave what a clone that was killed has left.
	PlanOnly bool
}

// Open opens the disks of a source. A *exit.Refusal is returned if they are in use.
func Open(ctx context.Context, o OpenOptions) (s *Source, err error) {
	s = &Source{run: o.Run, rep: o.Report, verify: o.Verify, paths: map[string]string{}}
	m := probe.Machine{Run: o.Run, Only: o.Disks}
	if err := s.find(m, o.Disks, unused(m)); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(systemDir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot open the source: %w", err)
	}
	rep := &repair.Opener{Run: o.Run, Report: o.Report, Target: systemDir, KeyFile: o.KeyFile, Secret: o.Secret, Access: storage.ReadOnly, Bare: true, Apart: true, Loops: loops(o.Disks)}
	opened, err := rep.FromDisks(ctx, o.Disks, o.Root)
	if opened == nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, unmountBelow(partsDir), rep.Unmount(ctx, opened), s.Close(ctx))
			s = nil
		}
	}()
	if s.System = err == nil; !s.System && !errors.Is(err, repair.ErrNoSystem) {
		return s, err
	}
	if s.System {
		if _, err := rep.Mount(ctx, opened); err != nil {
			return s, err
		}
	}
	if err := s.mountRest(m, o.Disks); err != nil {
		return s, err
	}
	if s.layout, err = (probe.Machine{Run: o.Run, Only: o.Disks, System: systemDir}).Read(ctx); err != nil {
		return s, err
	}
	s.keys = rep.Keys()
	crypttab := ""
	if f, err := archive.OpenBelow(systemDir, "etc", false); err == nil {
		f.Close()
		crypttab = readSystem("/etc/crypttab")
	}
	if err := errors.Join(unmountBelow(partsDir), unmountBelow(systemDir)); err != nil {
		return s, err
	}
	return s, s.settle(ctx, opened, crypttab)
}

// unused refuses a disk that is in use.
func unused(m probe.Machine) func(disk string) error {
	return func(disk string) error {
		why := m.Busy(disk)
		if why == "" {
			return nil
		}
		hint := "unmount it, or boot the rescue system; --live clones a running system"
		if strings.Contains(why, filepath.Dir(partsDir)) {
			hint = "a clone that was killed has left this: unmount it"
		}
		return &exit.Refusal{Reason: fmt.Sprintf("/dev/%s cannot be cloned while it is in use: %s; %s", disk, why, hint)}
	}
}

// find finds the disks, each of which has to be usable.
func (s *Source) find(m probe.Machine, disks []string, usable func(disk string) error) error {
	present, err := m.Disks()
	if err != nil {
		return err
	}
	for _, n := range disks {
		i := slices.IndexFunc(present, func(d layout.Disk) bool { return d.Name == n })
		if i < 0 {
			return fmt.Errorf("cannot clone /dev/%s: there is no such disk", n)
		}
		if err := usable(n); err != nil {
			return err
		}
		s.disks = append(s.disks, present[i])
	}
	return nil
}

// loops are those of the disks that are images behind loop devices.
func loops(disks []string) []string {
	return slices.DeleteFunc(slices.Clone(disks), func(d string) bool { return !strings.HasPrefix(d, "loop") })
}

// readSystem is a file of the mounted system, "" if it can't be read.
func readSystem(name string) string {
	b, err := sysconf.In(systemDir).Read(name)
	if err != nil {
		return ""
	}
	return string(b)
}

// mountRest mounts the file systems on the disks that the system does not mount, so that
// it is known how full they are.
func (s *Source) mountRest(m probe.Machine, disks []string) error {
	devs, err := medium.Devices(loops(disks)...)
	if err != nil {
		return err
	}
	for i, d := range devs {
		on := m.DisksOf(m.Name(d.Name))
		if d.Held || len(on) == 0 || slices.ContainsFunc(on, func(n string) bool { return !slices.Contains(disks, n) }) || m.InUse(d.Name) != "" || !fstype.Of(d.Info.Type).Native() {
			continue
		}
		if d.Info.Type == fstype.TypeBtrfs && slices.ContainsFunc(devs[:i], func(o medium.Device) bool { return o.Info.Type == d.Info.Type && o.Info.UUID == d.Info.UUID }) {
			continue // another device of it
		}
		dir := filepath.Join(partsDir, fmt.Sprint(i))
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("cannot open the source: %w", err)
		}
		if err := medium.Mount(d, dir); err != nil {
			s.rep.Warn("%v", err)
		}
	}
	return nil
}

// unmountBelow unmounts what is mounted at or below a directory.
func unmountBelow(dir string) error {
	mounts, err := probe.Machine{}.Mounts()
	if err != nil {
		return err
	}
	var errs []error
	for _, m := range slices.Backward(mounts) {
		if m.Path == dir || strings.HasPrefix(m.Path, dir+"/") {
			if err := unix.Unmount(m.Path, 0); err != nil {
				errs = append(errs, fmt.Errorf("cannot unmount %s: %w", m.Path, err))
			}
		}
	}
	return errors.Join(errs...)
}

// settle gives the layout the names that the system has for its devices, hides volume
// groups, and records what can't be copied.
func (s *Source) settle(ctx context.Context, opened *layout.Layout, crypttab string) error {
	for _, g := range opened.VolumeGroup {
		if !slices.ContainsFunc(s.layout.VolumeGroup, func(o layout.VolumeGroup) bool { return o.Name == g.Name }) {
			return &exit.Refusal{Reason: "volume group " + g.Name + " has volumes that write when they are activated (thin pools, caches, snapshots or RAID), and can't be cloned directly: make a backup set of the system, and clone that"}
		}
	}
	now := map[string]string{} // name here -> name of the system
	for _, c := range opened.Crypts {
		s.crypts = append(s.crypts, c.Name)
		for _, e := range sysconf.ParseCrypttab(crypttab).Entries {
			r := sysconf.ParseRef(e.Spec)
			if r.Kind == sysconf.UUID && strings.EqualFold(r.Value, c.UUID) || r.Kind == sysconf.Path && r.Value == c.Device {
				now[c.Mapper()] = layout.MapperPrefix + e.Name
			}
		}
	}
	for _, a := range opened.Arrays {
		s.arrays = append(s.arrays, a.Name)
	}
	for i, a := range s.layout.Arrays {
		short := a.Label[strings.Index(a.Label, ":")+1:]
		name := "md" + short
		if strings.Trim(short, "0123456789") != "" || short == "" || slices.ContainsFunc(s.layout.Arrays, func(o layout.Array) bool { return now[o.Name] == name }) {
			name = fmt.Sprint("md", i)
		}
		now[a.Name] = name
	}
	l, err := s.layout.Renamed(now)
	if err != nil {
		return err
	}
	for here, name := range now {
		s.paths[name] = here
	}
	s.layout = l
	for i := range l.Crypts {
		l.Crypts[i].Header = l.Crypts[i].Device // there is one
	}
	for i := range l.Images {
		l.Images[i].File = l.Images[i].Device
	}
	for i := range l.Swap {
		l.Swap[i].Active = true // nobody swaps here, and all of it is cloned
	}
	s.closed()
	for _, g := range l.VolumeGroup {
		hidden, err := storage.HideGroup(ctx, s.run, g.Name)
		if err != nil {
			return err
		}
		s.groups = append(s.groups, g.Name)
		for _, v := range g.LVs {
			if h, ok := hidden[sysconf.DMName(g.Name, v.Name)]; ok {
				s.paths[g.Name+"/"+v.Name] = layout.MapperPrefix + h
			}
		}
	}
	return nil
}

// closed has LUKS devices that nobody opened copied as they are, and names what is not
// copied at all.
func (s *Source) closed() {
	l := s.layout
	l.Unsupported = slices.DeleteFunc(l.Unsupported, func(u layout.Unsupported) bool {
		_, p := l.Partition(u.Device)
		i, err := s.superblock(u.Device)
		if p == nil || err != nil || i == nil || i.Type != superblock.TypeLUKS {
			s.lacks = append(s.lacks, u.What+": "+u.Reason)
			return false
		}
		l.Images = append(l.Images, layout.Image{Device: u.Device, Type: i.Type, UUID: i.UUID, Label: i.Label, Size: p.Size, File: u.Device})
		return true
	})
}

func (s *Source) superblock(dev string) (*superblock.Info, error) {
	return superblock.ProbePath(s.path(dev))
}

// path is the path of a device of the layout on this machine.
func (s *Source) path(dev string) string { return "/dev/" + cmp.Or(s.paths[dev], dev) }

// Close closes what Open has opened.
func (s *Source) Close(ctx context.Context) error {
	errs := []error{unmountBelow(filesDir)}
	if s.live != nil {
		errs = append(errs, s.live.close(ctx))
	}
	for _, g := range s.groups {
		errs = append(errs, storage.ShowGroup(ctx, s.run, g))
	}
	for _, c := range slices.Backward(s.crypts) {
		errs = append(errs, storage.CloseCrypt(ctx, s.run, c))
	}
	for _, a := range s.arrays {
		errs = append(errs, storage.StopArray(ctx, s.run, a))
	}
	return errors.Join(errs...)
}

// Keys are the passphrases that opened LUKS devices.
func (s *Source) Keys() [][]byte { return s.keys }

// Name implements restore.Content.
func (s *Source) Name() string {
	var names []string
	for _, d := range s.disks {
		names = append(names, layout.Present{Disk: d}.Target())
	}
	what := strings.Join(names, " and ")
	if s.System {
		what += ", the system of host " + s.layout.Hostname
	}
	return "Source of the clone: " + what
}

// ID implements restore.Content. The digest is that of the layout without what changes
// from boot to boot.
func (s *Source) ID() (id, digest string) {
	var ids []string
	for _, d := range s.disks {
		ids = append(ids, cmp.Or(d.WWN, d.Serial, d.Name))
	}
	l := *s.layout
	l.Links, l.LeftAlone = nil, nil
	b, err := json.Marshal(&l)
	if err != nil {
		panic("clone: internal error: " + err.Error())
	}
	return "clone of " + strings.Join(ids, " "), fmt.Sprintf("%x", sha256.Sum256(b))
}

// Layout implements restore.Content.
func (s *Source) Layout() *layout.Layout { return s.layout }

// Lacks implements restore.Content.
func (s *Source) Lacks() (lacks, left []string) { return s.lacks, nil }

// Has implements restore.Content. What is missing is known at the end.
func (s *Source) Has(...string) (bool, error) { return true, nil }

// Header implements restore.Content.
func (s *Source) Header(c *layout.Crypt, _ agekey.Keys) ([]byte, error) {
	f, err := os.Open(s.path(c.Device))
	if err != nil {
		return nil, fmt.Errorf("cannot read LUKS header: %w", err)
	}
	defer f.Close()
	b := make([]byte, c.LUKS.Offset)
	if _, err := f.ReadAt(b, 0); err != nil {
		return nil, fmt.Errorf("cannot read LUKS header: %w", err)
	}
	return b, nil
}

// Files implements restore.Content: the source's file system is mounted for as long as it
// is copied.
func (s *Source) Files(ctx context.Context, dev string, m layout.Mount, dest string, o archive.ExtractOptions, rep progress.Reporter) (sum *archive.Summary, err error) {
	f := s.layout.On(dev)
	if f == nil {
		return nil, fmt.Errorf("cannot copy %s: the source has no file system on it", dev)
	}
	root, done, err := s.openFiles(ctx, f, m)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, done()) }()
	what := (&layout.Mount{Path: cmp.Or(m.Path, "the root of "+dev)}).Path
	from := archive.CreateOptions{Prefix: m.Path, Inner: f.Inner(m), Apart: f.Apart(m), LeftOut: s.leftOut(f, m), Progress: rep.Phase("copying "+what, int64(f.Used))}
	sum, err = archive.Copy(ctx, root, dest, from, o)
	if err != nil {
		return nil, err
	}
	for _, p := range sum.NotCovered() {
		p.Path = filepath.Join(what, p.Path)
		s.lost = append(s.lost, p.String())
	}
	if !s.verify {
		return sum, nil
	}
	from.Progress = rep.Phase("comparing "+what, int64(f.Used))
	return sum, verifyFiles(ctx, root, dest, o.Below, from, sum.Problems)
}

// openFiles mounts a file system and opens the root of one of its mounts; done unmounts it.
func (s *Source) openFiles(ctx context.Context, f *layout.Filesystem, m layout.Mount) (root *os.File, done func() error, err error) {
	if err := os.MkdirAll(filesDir, 0o700); err != nil {
		return nil, nil, fmt.Errorf("cannot open the source: %w", err)
	}
	if s.live.uses(f) {
		return s.live.openFiles(ctx, s.layout, f, m)
	}
	if f.Type == fstype.TypeBtrfs {
		var others []string
		for _, d := range f.Others {
			others = append(others, cmp.Or(s.paths[d], d))
		}
		err = storage.MountBtrfs(kernel.Of(s.run), cmp.Or(s.paths[f.Device], f.Device), others, m.Subvolume, filesDir, unix.MS_RDONLY)
	} else {
		var opts []string
		if w := m.Owners(); w != "" {
			opts = append(opts, w)
		}
		err = blockdev.MountReadOnly(s.path(f.Device), f.Type, filesDir, opts...)
	}
	if err != nil {
		return nil, nil, err
	}
	if root, err = archive.OpenFS(filesDir); err != nil {
		return nil, nil, errors.Join(err, unmountBelow(filesDir))
	}
	return root, func() error { return errors.Join(root.Close(), unmountBelow(filesDir)) }, nil
}

// leftOut are the paths of a mount that are not copied as files, with the reason: as in a
// backup, swap files and the read-only snapshots that nothing refers to.
func (s *Source) leftOut(f *layout.Filesystem, m layout.Mount) map[string]string {
	out := map[string]string{}
	for _, w := range s.layout.SwapFiles {
		if w.Mount == m.Path {
			out[strings.TrimPrefix(strings.TrimPrefix(w.Path, m.Path), "/")] = "swap file (recreated)"
		}
	}
	if s.live.uses(f) && f.Type == fstype.TypeBtrfs && m.Subvolume == "" {
		out[snapshotDir] = "snapshots of this clone"
	}
	for _, n := range f.Snapshots {
		if rel, ok := strings.CutPrefix("/"+n, strings.TrimSuffix(path.Clean("/"+m.Subvolume), "/")+"/"); ok {
			out[rel] = "read-only snapshot"
			s.rep.Note("%s: the read-only snapshot %s is left out", f.Device, n)
		}
	}
	return out
}

// Blocks implements restore.Content.
func (s *Source) Blocks(ctx context.Context, m *layout.Image, dst *os.File, rep progress.Reporter) error {
	if s.raw {
		return s.blocksRaw(ctx, m, dst, rep)
	}
	return s.copyBlocks(ctx, m, dst, rep)
}

// mapOf gives what is in use of a device of the layout; why is the reason if it is not known,
// and the map has everything then.
func (s *Source) mapOf(dev string) (m *blockcopy.Map, why string, err error) {
	// Past the page cache: it may have what was there before the device was mounted.
	d, err := blockcopy.OpenDevice(s.path(dev))
	if err != nil {
		return nil, "", fmt.Errorf("cannot read /dev/%s: %w", dev, err)
	}
	defer d.Close()
	if s.raw {
		return blockcopy.Whole(d.Size()), "", nil
	}
	m, why = blockcopy.Of(d, d.Size())
	return m, why, nil
}
