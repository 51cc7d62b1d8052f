package builder

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"filippo.io/age"
	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/builder/set"
	"github.com/mkcdrec/mkcdrec/internal/archive"
	"github.com/mkcdrec/mkcdrec/internal/btrfs"
	"github.com/mkcdrec/mkcdrec/internal/coverage"
	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/probe"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/snapshot"
)

// Plan is what one run will save, as data.
type Plan struct {
	Layout   *layout.Layout
	Archives []PlannedArchive
	// Images are the devices that are saved block by block.
	Images []*layout.Image
	// LeftOut names what is not saved, each with the rule.
	LeftOut []string
	// Idle are names in exclude_devices that this machine lacks.
	Idle []string
	// NotCovered is what should be saved and can't be: the run ends with exit
	// code 3.
	NotCovered []string
	// Holder is the file system that the set is written to, nil when it has
	// no device; HolderPath is the set's directory on it.
	Holder     *layout.Filesystem
	HolderPath string
	// holderMount is the mount of the holder that has HolderPath, content what else
	// is on it, and holderArchive the number of its archive, from 1; 0 for none.
	holderMount   layout.Mount
	content       *holderContent
	holderArchive int
	// over is what is mounted where the set is written to.
	over *probe.MountInfo
	// mounts is what was mounted when the plan was made.
	mounts []probe.MountInfo
	// only is set if nothing but included and includedDevices is saved: the rule includeRule.
	only            bool
	included        []included
	includedDevices []string
	includeRule     string
	// generic is a plan without a layout: the medium gets what this machine
	// has for any set.
	generic bool
	exclude *archive.Matcher
	level   archive.Level
	// lacking are the devices of file systems that are in NotCovered.
	lacking map[string]bool
	// rules are those by which entries of the layout's Unsupported are left out, by index.
	rules map[int]string
	// patterns are the rules of exclude, as they are configured.
	patterns []string
	// recipients are whom LUKS headers are encrypted for.
	recipients []age.Recipient
	// snapshotPlan is which snapshots the run makes, nil for none, and snapshots are what it has
	// made of it.
	snapshotPlan *snapshot.Plan
	snapshots    *snapshot.Set
	// generation is what the run has to do with increments, nil without them.
	generation *generation
}

// Marks gives what a report of the coverage needs beside the layout.
func (p *Plan) Marks() coverage.Marks {
	return coverage.Marks{Lacking: p.lacking, Rules: p.rules, Exclude: p.patterns, LeftOut: p.LeftOut, NotCovered: p.NotCovered}
}

// PlannedArchive is one file system to be archived.
type PlannedArchive struct {
	File   string // in the set
	Device string
	Type   string
	// Mount is where it is mounted; "" for a file system that is reached through a
	// mount of our own: layout.Filesystem.Private.
	Mount string
	Used  int64 // bytes
	// root is what its root directory is known by.
	root archive.Root
	// inner and leftOut are subvolumes that it has and lacks, by path; apart are
	// those that have archives of their own.
	inner   []string
	apart   []string
	only    []string // the paths that are saved, nil for all
	leftOut map[string]string
}

func (a *PlannedArchive) options(p *Plan) archive.CreateOptions {
	return archive.CreateOptions{Level: p.level, Exclude: p.exclude, Prefix: a.Name(), Inner: a.inner, Apart: a.apart, Only: a.only, LeftOut: a.leftOut}
}

// Name names the archive for people, and in rules: by the mount point, or by the
// device without one.
func (a *PlannedArchive) Name() string {
	if a.Mount == "" {
		return "/dev/" + a.Device
	}
	return a.Mount
}

// open opens the root of what is archived, and makes sure that it is what was
// planned.
func (a *PlannedArchive) open(b *Builder, p *Plan) (*os.File, error) {
	if a.Mount != "" {
		return archive.OpenRoot(a.Mount, a.root)
	}
	f := p.Layout.On(a.Device)
	if f == nil {
		return nil, fmt.Errorf("cannot open /dev/%s: it is not in the layout", a.Device)
	}
	return probe.Machine{Run: b.Run}.OpenRoot(f)
}

// want records what the root is known by: by the device number that the layout's
// device has, for a btrfs by its UUID and the subvolume. What is at the mount point
// when the plan is made must be that, too; otherwise the archive can't be opened.
func (a *PlannedArchive) want(f *layout.Filesystem, m layout.Mount) {
	root, err := archive.OpenFS(m.Path)
	if err != nil {
		return
	}
	defer root.Close()
	got, err := archive.RootOf(root)
	if err != nil {
		return
	}
	a.root = got
	if f.Type == fstype.TypeBtrfs {
		a.root.FSID = f.UUID
		list, _, err := btrfs.Subvolumes(m.Path)
		i := slices.IndexFunc(list, func(v btrfs.Subvolume) bool { return v.Path == m.Subvolume })
		switch {
		case err != nil:
		case m.Subvolume == "":
			a.root.Subvolume = btrfs.TopLevel
		case i >= 0:
			a.root.Subvolume = list[i].ID
		}
		return
	}
	var st unix.Stat_t
	if unix.Stat("/dev/"+f.Device, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFBLK {
		if a.root.Dev = uint64(st.Rdev); a.root.Dev != got.Dev {
			a.root.Ino = 0 // that of another file system
		}
	}
}

// NewPlan decides what of the layout is saved into dir. It changes the
// layout: an excluded item is marked with the reason.
func NewPlan(c *Config, l *layout.Layout, mounts []probe.MountInfo, dir string) (*Plan, error) {
	p := &Plan{Layout: l, mounts: mounts, lacking: map[string]bool{}, rules: map[int]string{}, patterns: c.Exclude}
	var err error
	if p.level, err = c.level(); err != nil {
		return nil, err
	}
	if p.exclude, err = archive.NewMatcher(c.rules()); err != nil {
		return nil, err
	}
	if err := p.holder(dir, mounts); err != nil {
		return nil, err
	}
	p.include(c)
	p.exclusions(c)
	if err := p.luks(c); err != nil {
		return nil, err
	}
	p.images(c)
	p.groups()
	p.archives()
	p.leaveSets()
	p.swapFiles()
	for _, u := range l.LeftAlone {
		p.LeftOut = append(p.LeftOut, fmt.Sprintf("%s: %s", u.What, u.Reason))
	}
	p.unsupported(c)
	p.idle(c)
	if p.only && len(p.Archives)+len(p.Images) == 0 {
		return p, fmt.Errorf("cannot back up this machine: include names nothing that can be saved: %s%s", strings.Join(c.Include, ", "), p.reasons(""))
	}
	if root := l.Mounted("/"); root == nil || root.Excluded != "" && !l.DataOnly() {
		return p, fmt.Errorf("cannot back up this machine: its root file system is not among what can be saved%s", p.reasons("/: "))
	}
	return p, nil
}

// reasons are lines with what is not covered, those of which the text begins with begin: why there is no plan.
func (p *Plan) reasons(begin string) string {
	const most = 10
	var out strings.Builder
	for _, n := range p.NotCovered {
		if strings.HasPrefix(n, begin) {
			if strings.Count(out.String(), "\n") == most {
				out.WriteString("\n  ...")
				break
			}
			out.WriteString("\n  " + n)
		}
	}
	return out.String()
}

// idle lists the names in exclude_devices that this machine lacks: perhaps with a typing error.
func (p *Plan) idle(c *Config) {
	for _, x := range c.ExcludeDevices {
		there := x == bootLoader || slices.ContainsFunc(p.LeftOut, func(l string) bool {
			return strings.HasSuffix(l, "exclude_devices: "+x) || strings.HasSuffix(l, "exclude_devices: "+strings.TrimPrefix(x, "/dev/"))
		})
		for _, dir := range []string{"/dev/", "/dev/mapper/", "/"} {
			_, err := os.Lstat(filepath.Join(dir, strings.TrimPrefix(x, dir)))
			there = there || err == nil
		}
		if !there {
			p.Idle = append(p.Idle, x)
		}
	}
}

// excludes gives the rule by which something with these names is left out, ""
// for none. Names may begin with "/dev/".
func (c *Config) excludes(names ...string) string {
	for _, n := range names {
		if n != "" && slices.ContainsFunc(c.ExcludeDevices, func(x string) bool { return strings.TrimPrefix(x, "/dev/") == strings.TrimPrefix(n, "/dev/") }) {
			return "exclude_devices: " + n
		}
	}
	return ""
}

// names are those by which a device can be excluded: its own, those below
// /dev/disk, and those of the disks that it is on.
func (p *Plan) names(dev string) []string {
	out := []string{dev}
	for _, d := range append([]string{dev}, p.Layout.DisksUnder(dev)...) {
		out = append(out, d)
		for _, l := range p.Layout.Links[d] {
			out = append(out, "disk/"+l)
		}
	}
	return out
}

// loose reports whether all disks under devices can be unplugged.
func (p *Plan) loose(devs ...string) bool {
	n := 0
	for _, dev := range devs {
		for _, d := range p.Layout.DisksUnder(dev) {
			if n++; !p.Layout.Disk(d).Loose {
				return false
			}
		}
	}
	return n > 0
}

// exclusions marks the file systems that are left out with the reason, and those
// whose files are not in the set though no rule leaves them out.
func (p *Plan) exclusions(c *Config) {
	for i := range p.Layout.Filesystems {
		f := &p.Layout.Filesystems[i]
		var names []string
		for _, d := range f.Devs() {
			names = append(names, p.names(d)...)
		}
		for _, m := range f.Mounts {
			names = append(names, m.Path)
		}
		rule, lacks := c.excludes(names...), ""
		switch {
		case rule != "":
		case p.Holder != nil && f.Device == p.Holder.Device:
			rule, lacks = p.holderRule()
		case p.loose(f.Devs()...):
			rule = manifest.RuleLoose
		}
		if f.Excluded = rule; lacks != "" {
			p.lacks(f, lacks)
		} else if rule == "" && p.only {
			p.partly(f)
		}
	}
}

// lacks enters a file system whose files are not in the set, though no rule leaves
// them out. A restore recreates it only with others of its disk, empty.
func (p *Plan) lacks(f *layout.Filesystem, why string) {
	f.Excluded = why
	p.lacking[f.Device] = true
	at := f.Type
	if len(f.Mounts) > 0 {
		at += " " + f.Mounts[0].Path
	}
	p.NotCovered = append(p.NotCovered, fmt.Sprintf("%s (%s): %s", f.Device, at, why))
}

// images decides what is saved block by block: everything but what a rule leaves
// out. What is on a disk for backups is not, since a restore would have to write to
// the disk that it reads.
func (p *Plan) images(c *Config) {
	for i := range p.Layout.Images {
		m := &p.Layout.Images[i]
		rule := c.excludes(p.names(m.Device)...)
		switch {
		case rule != "":
		case m.Blank:
			rule = manifest.RuleBlank
		case p.loose(m.Device):
			rule = manifest.RuleLoose
		case p.notIncluded(m.Device, "") != "":
			rule = p.includeRule
		case p.besideSet(m.Device):
			p.NotCovered = append(p.NotCovered, fmt.Sprintf("%s (%s): it is on the disk that holds the backup set; name it in exclude_devices if it is not needed", m.Device, m.What()))
			continue
		}
		if rule != "" {
			m.Excluded = rule
			p.LeftOut = append(p.LeftOut, fmt.Sprintf("%s (%s): %s", m.Device, m.What(), rule))
			continue
		}
		m.File = manifest.ImageName(m.Device)
		p.Images = append(p.Images, m)
	}
}

// groups lists what of volume groups is not restored.
func (p *Plan) groups() {
	for _, g := range p.Layout.VolumeGroup {
		if len(g.Snapshots) > 0 {
			p.LeftOut = append(p.LeftOut, fmt.Sprintf("%s: snapshots: %s", g.Name, strings.Join(g.Snapshots, ", ")))
		}
		if len(g.Caches) > 0 {
			p.LeftOut = append(p.LeftOut, fmt.Sprintf("%s: the caches of %s: the volumes are restored without them; lvconvert(8) makes new ones", g.Name, strings.Join(g.Caches, ", ")))
		}
	}
}

// archives plans one for each part of a file system that is not left out.
func (p *Plan) archives() {
	for i := range p.Layout.Filesystems {
		f := &p.Layout.Filesystems[i]
		if f.Excluded != "" {
			if !p.lacking[f.Device] {
				p.LeftOut = append(p.LeftOut, fmt.Sprintf("%s (%s): %s", f.Device, f.Type, f.Excluded))
			}
			continue
		}
		p.leftSnapshots(f)
		for i, m := range f.Parts() { // one that is not in use is in Unsupported
			a := PlannedArchive{File: manifest.ArchiveName(f.Device, m.Path), Device: f.Device, Type: f.Type, Mount: m.Path, inner: f.Inner(m), apart: f.Apart(m), leftOut: map[string]string{}}
			for _, s := range f.Snapshots {
				if rel, ok := strings.CutPrefix("/"+s, strings.TrimSuffix(path.Clean("/"+m.Subvolume), "/")+"/"); ok {
					a.leftOut[rel] = snapshotRule
				}
			}
			var any bool
			if a.only, any = p.onlyPaths(f, m.Path); !any {
				continue
			}
			if i == 0 {
				a.Used = int64(f.Used)
			}
			if m.Path != "" {
				a.want(f, m)
			}
			p.Archives = append(p.Archives, a)
		}
	}
	// Parents before what is mounted in them: restore unpacks in this order.
	slices.SortStableFunc(p.Archives, func(a, b PlannedArchive) int { return strings.Compare(a.Mount, b.Mount) })
	p.distinct()
}

// distinct gives archives names that differ in more than the case of letters: the
// set may be on a file system that does not distinguish it.
func (p *Plan) distinct() {
	seen := map[string]bool{}
	for i := range p.Archives {
		a := &p.Archives[i]
		if low := strings.ToLower(a.File); seen[low] {
			sum := sha256.Sum256([]byte(a.File))
			a.File = fmt.Sprintf("%s~%x.tar.zst", strings.TrimSuffix(a.File, ".tar.zst"), sum[:4])
		} else {
			seen[low] = true
		}
	}
}

// unsupported divides what can't be restored into what a rule leaves out and what
// is missing.
func (p *Plan) unsupported(c *Config) {
	l := p.Layout
	for i, u := range l.Unsupported {
		dev, part, _ := strings.Cut(u.Device, ":") // "vda2:@snap" is a subvolume
		rule := c.excludes(append(p.names(dev), u.Device, part, u.What)...)
		fs := slices.IndexFunc(l.Filesystems, func(f layout.Filesystem) bool { return f.Device == dev })
		switch {
		case rule != "":
		case dev != "" && p.loose(dev):
			rule = manifest.RuleLoose
		case p.over != nil && p.over.Device != "" && dev == p.over.Device && p.content.backupOnly():
			rule = manifest.RuleHolder
		case fs >= 0 && !p.lacking[dev] && l.Filesystems[fs].Excluded != "":
			rule = l.Filesystems[fs].Excluded
		default:
			rule = p.notIncluded(dev, u.What)
		}
		if rule != "" {
			p.rules[i] = rule
			if fs < 0 || l.Filesystems[fs].Excluded == "" {
				p.LeftOut = append(p.LeftOut, fmt.Sprintf("%s: %s", u.What, rule))
			}
			continue
		}
		if fs >= 0 && u.Device == dev && !l.Filesystems[fs].InUse() {
			// Without this a restore would recreate it, empty, in the place of files
			// that are not in the set.
			l.Filesystems[fs].Excluded = u.Reason
			p.lacking[dev] = true
		}
		p.NotCovered = append(p.NotCovered, fmt.Sprintf("%s: %s", u.What, u.Reason))
	}
}

// swapFiles has archives leave swap files out, which a restore recreates. Those
// in excluded file systems are dropped.
func (p *Plan) swapFiles() {
	p.Layout.SwapFiles = slices.DeleteFunc(p.Layout.SwapFiles, func(s layout.SwapFile) bool {
		i := slices.IndexFunc(p.Archives, func(a PlannedArchive) bool {
			return a.Mount == s.Mount && (a.only == nil || slices.ContainsFunc(a.only, func(o string) bool { return layout.Below(s.Path, o) }))
		})
		if i >= 0 {
			p.Archives[i].leftOut[strings.TrimPrefix(strings.TrimPrefix(s.Path, s.Mount), "/")] = "a swap file, which a restore recreates"
		}
		return i < 0
	})
}

// besideSet reports whether a device is on a disk that holds the backup set and
// nothing that the system starts with: a disk for backups.
func (p *Plan) besideSet(dev string) bool {
	if p.Holder == nil || p.Holder.Excluded == "" {
		return false
	}
	disks := p.Layout.DisksUnder(dev)
	on := func(f *layout.Filesystem) bool {
		return f != nil && slices.ContainsFunc(f.Devs(), func(d string) bool {
			return slices.ContainsFunc(p.Layout.DisksUnder(d), func(u string) bool { return slices.Contains(disks, u) })
		})
	}
	return on(p.Holder) && !on(p.Layout.Mounted("/"))
}

const snapshotRule = "a read-only snapshot"

// leftSnapshots lists the snapshots of a btrfs, which are not saved.
func (p *Plan) leftSnapshots(f *layout.Filesystem) {
	switch n := len(f.Snapshots); {
	case n > 3:
		p.LeftOut = append(p.LeftOut, fmt.Sprintf("%s: %d read-only snapshots, %s to %s", f.Device, n, f.Snapshots[0], f.Snapshots[n-1]))
	case n > 0:
		p.LeftOut = append(p.LeftOut, fmt.Sprintf("%s: read-only snapshots: %s", f.Device, strings.Join(f.Snapshots, ", ")))
	}
}

// Left is a path that a rule leaves out of an archive.
type Left struct {
	Archive PlannedArchive
	Path    string // absolute, as rules have it
	Rule    string
	root    *os.File
}

// Measure adds what is at the path, and below it, to m.
func (l Left) Measure(ctx context.Context, m *archive.Meter) error {
	return m.Add(ctx, l.root, strings.TrimPrefix(strings.TrimPrefix(l.Path, strings.TrimSuffix(l.Archive.Name(), "/")), "/"))
}

// List calls fn for everything that would be saved, and left for everything
// that a rule leaves out. What can't be read is entered as not covered.
func (p *Plan) List(ctx context.Context, b *Builder, fn func(a PlannedArchive, m *archive.Member) error, left func(Left)) (total int64, err error) {
	for _, a := range p.Archives {
		root, err := a.open(b, p)
		if err != nil {
			p.NotCovered = append(p.NotCovered, fmt.Sprintf("%s (%s %s): %v", a.Device, a.Type, a.Name(), err))
			continue
		}
		var failed error
		ctx, cancel := context.WithCancel(ctx)
		opt := a.options(p)
		opt.OnMember, opt.OnExcluded = func(m *archive.Member) {
			if failed == nil {
				if failed = fn(a, m); failed != nil {
					cancel()
				}
			}
		}, func(path, rule string) {
			if left != nil {
				left(Left{a, path, rule, root})
			}
		}
		sum, err := archive.Walk(ctx, root, opt)
		cancel()
		root.Close()
		if failed != nil {
			return 0, failed
		}
		if err != nil {
			return 0, err
		}
		for _, x := range sum.NotCovered() {
			p.NotCovered = append(p.NotCovered, filepath.Join(a.Name(), archive.Quote(x.Path))+": "+x.Detail)
		}
		total += sum.Data
	}
	return total, nil
}

// Omitted measures what rules leave out of each archive, which goes through all directories. What can't be read is
// entered as not covered.
func (p *Plan) Omitted(ctx context.Context, b *Builder) (out []coverage.Omitted, err error) {
	out = []coverage.Omitted{}
	at := map[[2]string]int{}
	meters := map[string]*archive.Meter{} // by device: files of several names count once
	var failed error
	_, err = p.List(ctx, b, func(PlannedArchive, *archive.Member) error { return failed }, func(l Left) {
		key := [2]string{l.Archive.Device, l.Rule}
		i, ok := at[key]
		if !ok {
			i, at[key] = len(out), len(out)
			out = append(out, coverage.Omitted{Rule: l.Rule, Device: l.Archive.Device})
		}
		m := meters[l.Archive.Device]
		if m == nil {
			m = &archive.Meter{}
			meters[l.Archive.Device] = m
		}
		files, bytes := m.Files, m.Bytes
		if e := l.Measure(ctx, m); e != nil {
			failed = e
		}
		out[i].Paths, out[i].Files, out[i].Size = out[i].Paths+1, out[i].Files+m.Files-files, out[i].Size+quantity.Size(m.Bytes-bytes)
	})
	slices.SortStableFunc(out, func(a, b coverage.Omitted) int { return cmp.Compare(b.Size, a.Size) })
	return out, errors.Join(err, failed)
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
		return fmt.Errorf("cannot use %s: it is not a directory", dir)
	}
	return nil
}

// remounted looks again at what is mounted, just before the files are read, and
// enters what has appeared since the plan and is in no archive.
func (b *Builder) remounted(p *Plan, w *set.Writer, dir string) {
	m := probe.Machine{Run: b.Run}
	now, err := m.Mounts()
	if err != nil {
		w.Lacks("what was mounted since the backup was planned: %v", err)
		return
	}
	for _, x := range newMounts(p, now, dir) {
		if disks := m.DisksOf(x.Device); !slices.ContainsFunc(disks, func(d string) bool { return !onUSB(d) }) {
			continue // a stick that was put in
		}
		w.Lacks("%s (%s on %s): it was mounted after the backup was planned", x.Path, x.Type, x.Device)
	}
}

// newMounts gives the mounts of devices that the plan does not know. A file system
// that it knows is saved, left out, or not covered, wherever it is mounted now; a
// loop device's is in a file; that of the set's directory is written to (usbkey mounts
// the stick after the plan).
func newMounts(p *Plan, now []probe.MountInfo, set string) []probe.MountInfo {
	var out []probe.MountInfo
	over := probe.MountOver(now, set)
	for _, x := range now {
		if over != nil && x.Device == over.Device {
			continue
		}
		known := func(o probe.MountInfo) bool { return o.Device == x.Device }
		image := func(i layout.Image) bool { return i.Device == x.Device }
		if x.Device == "" || strings.HasPrefix(x.Device, "loop") || x.Type == fstype.TypeISO || p.generic || p.mounts == nil || slices.ContainsFunc(p.mounts, known) || slices.ContainsFunc(out, known) || p.Layout.On(x.Device) != nil || slices.ContainsFunc(p.Layout.Images, image) {
			continue
		}
		out = append(out, x)
	}
	return out
}
