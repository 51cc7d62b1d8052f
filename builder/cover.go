package builder

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"filippo.io/age"
	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/archive"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/probe"
	"github.com/mkcdrec/mkcdrec/internal/superblock"
)

// Plan is what one run will save, as data.
type Plan struct {
	Layout   *layout.Layout
	Archives []PlannedArchive
	// Images are the devices that are saved block by block.
	Images []*layout.Image
	// LeftOut names what is not saved, each with the rule that says so.
	LeftOut []string
	// NotCovered is what should be saved and can't be: the run ends with exit
	// code 3.
	NotCovered []string
	// Holder is the file system that the set is written to, nil when it has
	// no device; HolderPath is the set's directory on it.
	Holder     *layout.Filesystem
	HolderPath string
	// over is what is mounted where the set is written to.
	over *probe.MountInfo
	// generic is a plan without a layout: the medium gets what this machine
	// has for any set.
	generic bool
	exclude *archive.Matcher
	level   archive.Level
	// recipients are whom LUKS headers are encrypted for.
	recipients []age.Recipient
}

// PlannedArchive is one file system to be archived.
type PlannedArchive struct {
	File   string // in the set
	Device string
	Type   string
	Mount  string
	Used   int64 // bytes
	// inner and leftOut are subvolumes that it has, and has not, by path.
	inner   []string
	leftOut map[string]string
}

func (a *PlannedArchive) options(p *Plan) archive.CreateOptions {
	return archive.CreateOptions{Level: p.level, Exclude: p.exclude, Prefix: a.Mount, Inner: a.inner, LeftOut: a.leftOut}
}

// NewPlan decides what of the layout is saved into dir. It changes the
// layout: what is left out is marked with the reason.
func NewPlan(c *Config, l *layout.Layout, mounts []probe.MountInfo, dir string) (*Plan, error) {
	p := &Plan{Layout: l}
	var err error
	if p.level, err = c.level(); err != nil {
		return nil, err
	}
	if p.exclude, err = archive.NewMatcher(c.Exclude); err != nil {
		return nil, err
	}
	if err := p.holder(dir, mounts); err != nil {
		return nil, err
	}
	p.exclusions(c)
	if err := p.luks(c); err != nil {
		return nil, err
	}
	p.images(c)
	p.groups()
	p.archives()
	p.swapFiles()
	for _, u := range l.LeftAlone {
		p.LeftOut = append(p.LeftOut, fmt.Sprintf("%s: %s", u.What, u.Reason))
	}
	p.unsupported(c)
	if l.Mounted("/") == nil || l.Mounted("/").Excluded != "" {
		return p, errors.New("cannot back up this machine: its root file system is not among what can be saved")
	}
	return p, nil
}

// excludes gives the rule by which something with these names is left out, ""
// for none.
func (c *Config) excludes(names ...string) string {
	for _, n := range names {
		if n != "" && slices.Contains(c.ExcludeDevices, n) {
			return "exclude_devices: " + n
		}
	}
	return ""
}

// exclusions marks the file systems that are left out with the reason.
func (p *Plan) exclusions(c *Config) {
	for i := range p.Layout.Filesystems {
		f := &p.Layout.Filesystems[i]
		names := f.Devs()
		for _, d := range f.Devs() {
			names = append(names, p.Layout.DisksUnder(d)...)
		}
		for _, m := range f.Mounts {
			names = append(names, m.Path)
		}
		f.Excluded = c.excludes(names...)
		switch {
		case p.Holder != nil && f.Device == p.Holder.Device:
			f.Excluded = "it holds the backup set"
		case f.Excluded == "" && !usesDisk(p.Layout, f.Devs()...):
			f.Excluded = "nothing of its disk is mounted"
		}
	}
}

// images decides what is saved block by block.
func (p *Plan) images(c *Config) {
	for i := range p.Layout.Images {
		m := &p.Layout.Images[i]
		rule := c.excludes(append(p.Layout.DisksUnder(m.Device), m.Device)...)
		if rule == "" && p.besideSet(m.Device) {
			rule = "it is on the disk that holds the backup set"
		}
		if rule == "" && !usesDisk(p.Layout, m.Device) {
			rule = "nothing of its disk is mounted"
		}
		if rule != "" {
			p.LeftOut = append(p.LeftOut, fmt.Sprintf("%s (%s): %s", m.Device, m.What(), rule))
			continue
		}
		m.File = manifest.ImageName(m.Device)
		p.Images = append(p.Images, m)
	}
}

// groups tells what of volume groups does not come back.
func (p *Plan) groups() {
	for _, g := range p.Layout.VolumeGroup {
		if len(g.Snapshots) > 0 {
			p.LeftOut = append(p.LeftOut, fmt.Sprintf("%s: snapshots: %s", g.Name, strings.Join(g.Snapshots, ", ")))
		}
		if len(g.Caches) > 0 {
			p.LeftOut = append(p.LeftOut, fmt.Sprintf("%s: the caches of %s: the volumes come back without; lvconvert(8) makes new ones", g.Name, strings.Join(g.Caches, ", ")))
		}
	}
}

// archives plans one for each part of a file system that is not left out.
func (p *Plan) archives() {
	for i := range p.Layout.Filesystems {
		f := &p.Layout.Filesystems[i]
		if f.Excluded != "" {
			p.LeftOut = append(p.LeftOut, fmt.Sprintf("%s (%s): %s", f.Device, f.Type, f.Excluded))
			continue
		}
		p.snapshots(f)
		for i, m := range f.Parts() { // a file system that is not mounted is told by Unsupported
			a := PlannedArchive{File: manifest.ArchiveName(f.Device, m.Path), Device: f.Device, Type: f.Type, Mount: m.Path, inner: f.Inner(m), leftOut: map[string]string{}}
			for _, s := range f.Snapshots {
				if rel, ok := strings.CutPrefix("/"+s, path.Clean("/"+m.Subvolume)); ok {
					a.leftOut[strings.TrimPrefix(rel, "/")] = snapshotRule
				}
			}
			if i == 0 {
				a.Used = int64(f.Used)
			}
			p.Archives = append(p.Archives, a)
		}
	}
	// Parents before what is mounted in them: restore unpacks in this order.
	slices.SortFunc(p.Archives, func(a, b PlannedArchive) int { return strings.Compare(a.Mount, b.Mount) })
}

// unsupported divides what can't be brought back into what a rule leaves out
// and what is missing.
func (p *Plan) unsupported(c *Config) {
	l := p.Layout
	for _, u := range l.Unsupported {
		rule := c.excludes(u.Device, u.What)
		if rule == "" && p.over != nil && p.over.Device != "" && u.Device == p.over.Device {
			rule = "it holds the backup set"
		}
		fs := slices.IndexFunc(l.Filesystems, func(f layout.Filesystem) bool { return f.Device == u.Device })
		if rule == "" && fs >= 0 {
			rule = l.Filesystems[fs].Excluded
		}
		if rule != "" {
			if fs < 0 {
				p.LeftOut = append(p.LeftOut, fmt.Sprintf("%s: %s", u.What, rule))
			}
			continue
		}
		p.NotCovered = append(p.NotCovered, fmt.Sprintf("%s: %s", u.What, u.Reason))
	}
}

// swapFiles has archives leave swap files out, which a restore makes anew. Those
// in what is left out itself are forgotten.
func (p *Plan) swapFiles() {
	p.Layout.SwapFiles = slices.DeleteFunc(p.Layout.SwapFiles, func(s layout.SwapFile) bool {
		i := slices.IndexFunc(p.Archives, func(a PlannedArchive) bool { return a.Mount == s.Mount })
		if i >= 0 {
			p.Archives[i].leftOut[strings.TrimPrefix(strings.TrimPrefix(s.Path, s.Mount), "/")] = "a swap file, which is made anew"
		}
		return i < 0
	})
}

// besideSet tells whether a device lies on a disk that holds the backup set and
// nothing that the system starts with: a disk for backups.
func (p *Plan) besideSet(dev string) bool {
	if p.Holder == nil {
		return false
	}
	disks := p.Layout.DisksUnder(dev)
	shares := func(f *layout.Filesystem) bool {
		return f != nil && slices.ContainsFunc(f.Devs(), func(d string) bool {
			return slices.ContainsFunc(p.Layout.DisksUnder(d), func(u string) bool { return slices.Contains(disks, u) })
		})
	}
	return shares(p.Holder) && !shares(p.Layout.Mounted("/"))
}

const snapshotRule = "a snapshot, which is not mounted"

// snapshots tells of what is left out of a btrfs.
func (p *Plan) snapshots(f *layout.Filesystem) {
	switch n := len(f.Snapshots); {
	case n > 3:
		p.LeftOut = append(p.LeftOut, fmt.Sprintf("%s: %d snapshots that are not mounted, %s to %s", f.Device, n, f.Snapshots[0], f.Snapshots[n-1]))
	case n > 0:
		p.LeftOut = append(p.LeftOut, fmt.Sprintf("%s: snapshots that are not mounted: %s", f.Device, strings.Join(f.Snapshots, ", ")))
	}
}

// usesDisk tells whether any file system or swap of the disks under devices is
// in use; a disk that nobody uses is left alone.
func usesDisk(l *layout.Layout, devs ...string) bool {
	var disks []string
	for _, d := range devs {
		disks = append(disks, l.DisksUnder(d)...)
	}
	shares := func(dev string) bool {
		return slices.ContainsFunc(l.DisksUnder(dev), func(d string) bool { return slices.Contains(disks, d) })
	}
	return slices.ContainsFunc(l.Filesystems, func(g layout.Filesystem) bool { return len(g.Mounts) > 0 && shares(g.Device) }) ||
		slices.ContainsFunc(l.Swap, func(s layout.Swap) bool { return s.Active && shares(s.Device) })
}

// holder finds the file system that dir lies on, by device number.
func (p *Plan) holder(dir string, mounts []probe.MountInfo) error {
	if dir == "" {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return fmt.Errorf("cannot use %s: %w", dir, err)
	}
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return fmt.Errorf("cannot use %s: %w", dir, err)
	}
	if real, err = filepath.Abs(real); err != nil {
		return err
	}
	p.over = probe.MountOver(mounts, real)
	for i := range p.Layout.Filesystems {
		f := &p.Layout.Filesystems[i]
		for _, m := range f.Mounts {
			var ms unix.Stat_t
			if unix.Stat(m.Path, &ms) != nil || ms.Dev != st.Dev {
				continue
			}
			if m.Path == "/" {
				return fmt.Errorf("cannot back up to %s: it lies on the root file system, and the file system that holds the set is left out of the backup", dir)
			}
			p.Holder = f
			p.HolderPath = real
			if rel, err := filepath.Rel(m.Path, real); err == nil && !strings.HasPrefix(rel, "..") {
				p.HolderPath = "/" + rel
			} else if mi := slices.IndexFunc(mounts, func(x probe.MountInfo) bool { return x.Device == f.Device && strings.HasPrefix(real+"/", x.Path+"/") }); mi >= 0 {
				p.HolderPath = filepath.Join(mounts[mi].Root, strings.TrimPrefix(real, mounts[mi].Path))
			}
			p.HolderPath = filepath.Clean(p.HolderPath)
			return nil
		}
	}
	return p.inSubvolume(dir)
}

// inSubvolume refuses a directory in a subvolume of a btrfs that is to be saved:
// the set would be a part of itself.
func (p *Plan) inSubvolume(dir string) error {
	if p.over == nil || p.over.Type != superblock.TypeBtrfs {
		return nil
	}
	if f := p.Layout.On(p.over.Device); f != nil {
		return fmt.Errorf("cannot back up to %s: it lies in a subvolume of the btrfs on %s, which is to be saved; mount that subvolume, or take another file system", dir, f.Device)
	}
	return nil
}

// List calls fn for everything that would be saved, and left for everything
// that a rule leaves out.
func (p *Plan) List(ctx context.Context, fn func(a PlannedArchive, m *archive.Member), left func(path, rule string)) (total int64, err error) {
	for _, a := range p.Archives {
		root, err := archive.OpenFS(a.Mount)
		if err != nil {
			return 0, err
		}
		opt := a.options(p)
		opt.OnMember, opt.OnExcluded = func(m *archive.Member) { fn(a, m) }, left
		sum, err := archive.Walk(ctx, root, opt)
		root.Close()
		if err != nil {
			return 0, err
		}
		total += sum.Data
	}
	return total, nil
}

// Probe reads the machine: its layout and mounts, without the disks to skip.
func (b *Builder) Probe(ctx context.Context, skip ...string) (*layout.Layout, []probe.MountInfo, error) {
	m := probe.Machine{Run: b.Run, Skip: skip}
	l, err := m.Read(ctx)
	if err != nil {
		return nil, nil, err
	}
	if err := l.Validate(); err != nil {
		return nil, nil, fmt.Errorf("cannot use this machine's layout:\n%w", err)
	}
	mounts, err := m.Mounts()
	return l, mounts, err
}

// mustDir checks that dir is there and can be written to.
func mustDir(dir string) error {
	st, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("cannot use %s: %w", dir, err)
	}
	if !st.IsDir() {
		return fmt.Errorf("cannot use %s: it is no directory", dir)
	}
	return nil
}
