package clone

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/blockcopy"
	"github.com/mkcdrec/mkcdrec/internal/blockdev"
	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/identity"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/lazyregexp"
	"github.com/mkcdrec/mkcdrec/internal/plan"
	"github.com/mkcdrec/mkcdrec/internal/probe"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/rescue"
	"github.com/mkcdrec/mkcdrec/internal/restore"
	"github.com/mkcdrec/mkcdrec/internal/storage"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

// Values of Options.Identity.
const (
	// Keep gives the target the source's UUIDs: the source is retired.
	Keep = "keep"
	// New gives it others, so that both can be in one machine.
	New = "new"
)

// Options of one clone.
type Options struct {
	// Source and Target are names of disks, without /dev/: the first source goes to the
	// first target.
	Source, Target []string
	Root           string // see OpenOptions
	// Live clones disks that are in use: see OpenLive. Freeze freezes file systems while
	// their blocks are copied.
	Live, Freeze bool
	Identity     string // Keep or New
	// Personal is applied to a system that gets a new identity.
	Personal identity.Personal
	// TargetSize is that of a target that is a new file; 0 for the source's.
	TargetSize quantity.Size
	// Verify compares each copy with its source as soon as it is made, before it is grown
	// or changed: a difference is an error of that step.
	Verify bool
	// Raw copies whole disks byte by byte, with any content.
	Raw bool
	// Map is the name of a map file for a source that fails: GNU ddrescue reads it, too.
	Map string
	// Restore has what a clone has in common with a restore: wishes, --plan, --yes, keys.
	Restore restore.Options

	image *partImage // the source, if it is an image of partclone

	only []string // the disks that are looked at; none for all
}

// Run clones disks, an image directory of Clonezilla, or a backup set. Errors are those of
// restore.Restorer.
func Run(ctx context.Context, run tool.Runner, screen restore.Screen, o Options) (rep *restore.Report, err error) {
	m := probe.Machine{Run: run}
	o.Source, o.Target = devices(m, o.Source), devices(m, o.Target)
	if len(o.Source) == 1 && !m.There(o.Source[0]) {
		if o.image, err = openPartImage(o.Source[0], o.Verify); err != nil {
			return nil, &restore.Untouched{Err: err}
		}
	}
	toFile := len(o.Target) == 1 && isImageFile(m, o.Target[0])
	if err := o.check(m, toFile); err != nil {
		return nil, err
	}
	if o.Restore.Target == "" && !rescue.Inside() {
		// A directory made on the file system of the source would write to the source.
		o.Restore.Target = liveTarget
	}
	o.Restore.NewIdentity, o.Restore.Personal = o.Identity == New, o.Personal
	if toFile {
		rep, err := intoFile(ctx, run, screen, o)
		if err != nil && exit.Code(err) != exit.BadUsage {
			err = &restore.Untouched{Err: err} // the file is removed
		}
		return rep, err
	}
	return runTo(ctx, run, screen, o)
}

// check refuses what can't be cloned, or not in this way.
func (o *Options) check(m probe.Machine, toFile bool) error {
	if len(o.Target) > 1 && slices.ContainsFunc(o.Target, func(t string) bool { return isImageFile(m, t) }) {
		return exit.Usage(errors.New("only one image file can be made at a time: clone each disk by itself"))
	}
	if o.Map != "" && slices.ContainsFunc(slices.Concat(o.Source, o.Target), func(n string) bool { return samePath(n, o.Map) }) {
		return exit.Usage(fmt.Errorf("--map %s: the map file cannot be the source or the target", o.Map))
	}
	for _, s := range o.Source {
		if _, err := os.Stat(s); err != nil && !m.There(s) && !isSet(s) {
			return &restore.Untouched{Err: fmt.Errorf("cannot clone %s: there is no such disk or file", s)}
		}
	}
	if !o.Restore.PlanOnly && !o.Restore.Outside && !rescue.Inside() && !toFile {
		return &exit.Refusal{Reason: "this is not a rescue system, and clonedsk overwrites disks; --outside-rescue-system allows it, --plan shows what it would do"}
	}
	if toFile && o.Restore.Resume {
		return exit.Usage(errors.New("a clone into an image file cannot be resumed: start again, without --resume"))
	}
	if o.Live && rescue.Inside() {
		return exit.Usage(errors.New("--live is for a running system: in the rescue system, unmount the disk and leave it out"))
	}
	return nil
}

// samePath reports whether two names are those of one file, there or not.
func samePath(a, b string) bool {
	x, err := filepath.Abs(a)
	y, err2 := filepath.Abs(b)
	return err == nil && err2 == nil && x == y
}

// devices gives the names of devices that are called by another one: by a link below
// /dev/disk or elsewhere. What is not a device stays as it is.
func devices(m probe.Machine, names []string) []string {
	out := slices.Clone(names)
	for i, n := range out {
		if m.There(n) {
			continue
		}
		for _, path := range []string{n, "/dev/" + n} {
			st, err := os.Stat(path)
			if err != nil || st.Mode()&os.ModeDevice == 0 {
				continue
			}
			if real, err := filepath.EvalSymlinks(path); err == nil && strings.HasPrefix(real, "/dev/") {
				out[i] = m.Name(strings.TrimPrefix(real, "/dev/"))
			}
		}
	}
	return out
}

// intoFile clones into a new image file, which needs no confirmation.
func intoFile(ctx context.Context, run tool.Runner, screen restore.Screen, o Options) (rep *restore.Report, err error) {
	size, sector := o.TargetSize, quantity.Size(512)
	if disks, err := (probe.Machine{Run: run}).Disks(); err != nil {
		return nil, err
	} else if i := slices.IndexFunc(disks, func(d layout.Disk) bool { return d.Name == o.Source[0] }); i >= 0 {
		size, sector = cmp.Or(size, disks[i].Size), disks[i].LogicalSector
	}
	if o.image != nil {
		size = cmp.Or(size, o.image.layout.Images[0].Size)
	} else if st, err := os.Stat(o.Source[0]); err == nil && st.Mode().IsRegular() {
		size = cmp.Or(size, quantity.Size(st.Size()))
	}
	if size == 0 { // a loop device, a volume
		if d, err := blockcopy.OpenDevice("/dev/" + o.Source[0]); err == nil {
			size = quantity.Size(d.Size())
			d.Close()
		}
	}
	if size == 0 {
		return nil, exit.Usage(fmt.Errorf("%s is a new file: --target-size gives its size", o.Target[0]))
	}
	file, err := newImageFile(ctx, run, o.Target[0], size.AlignUp(quantity.MiB), sector)
	if err != nil {
		return nil, &restore.Untouched{Err: err}
	}
	done := false
	defer func() { err = errors.Join(err, file.close(context.WithoutCancel(ctx), run, done)) }()
	screen.Note("%s is /dev/%s below, until it is finished", o.Target[0], file.loop)
	o.Target = []string{file.loop}
	o.only = []string{file.loop} // all loop devices have the same slot
	o.Restore.Outside, o.Restore.Yes = true, true
	place := probe.Machine{Run: run}.Place(file.loop)
	o.Restore.Wish.Confirmed = []string{place.Slot()}
	rep, err = runTo(ctx, run, screen, o)
	done = err == nil && !o.Restore.PlanOnly
	if err != nil && rep != nil { // nobody continues with a file that is removed
		r := &storage.Tree{Plan: rep.Plan, Own: []string{file.loop}, Run: run, Target: cmp.Or(o.Restore.Target, rescue.TargetDir), Machine: probe.Machine{Run: run}}
		err = errors.Join(err, r.Release(context.WithoutCancel(ctx)))
	}
	return rep, err
}

func runTo(ctx context.Context, run tool.Runner, screen restore.Screen, o Options) (*restore.Report, error) {
	if o.Map != "" && (len(o.Source) != 1 || o.image != nil || isImageDir(o.Source[0]) || isSet(o.Source[0])) {
		return nil, exit.Usage(errors.New("--map is for one disk or disk image"))
	}
	if o.Raw && (o.image != nil || slices.ContainsFunc(o.Source, func(s string) bool { return isImageDir(s) || isSet(s) })) {
		return nil, exit.Usage(errors.New("--raw is for disks and disk images"))
	}
	if o.image != nil {
		return runPartImage(ctx, run, screen, o.image, o)
	}
	if len(o.Source) == 1 && isImageDir(o.Source[0]) {
		return runImageDir(ctx, run, screen, o)
	}
	if len(o.Source) == 1 && isSet(o.Source[0]) {
		if o.Verify {
			return nil, exit.Usage(errors.New("--verify compares with disks and images; for a backup set, run restore mount and restore verify afterwards"))
		}
		ro := o.Restore
		ro.Set = o.Source[0]
		return onlyOnto(ctx, run, screen, o.Target, ro)
	}
	return runDisks(ctx, run, screen, o)
}

// onlyOnto restores onto the target's disks, and does not look at others.
func onlyOnto(ctx context.Context, run tool.Runner, screen restore.Screen, target []string, ro restore.Options) (*restore.Report, error) {
	r := &restore.Restorer{Run: run, Machine: probe.Machine{Run: run, Only: target}, Screen: screen}
	return r.Restore(ctx, ro)
}

func runImageDir(ctx context.Context, run tool.Runner, screen restore.Screen, o Options) (*restore.Report, error) {
	if o.Identity == New {
		return nil, &exit.Refusal{Reason: "the file systems in an image of Clonezilla keep their UUIDs: use --identity keep"}
	}
	d, err := openImageDir(o.Source[0], o.Verify)
	if err != nil {
		return nil, &restore.Untouched{Err: err}
	}
	ro := o.Restore
	ro.Content, ro.DataOnly, ro.Draft = d, true, d.draft
	ro.Sources = map[string]string{}
	if dev, err := (probe.Machine{Run: run}).DeviceAt(o.Source[0]); err == nil && dev != "" {
		ro.Sources[dev] = "it holds the image"
	}
	return onlyOnto(ctx, run, screen, o.Target, ro)
}

// runDisks clones disks that are attached, or images of disks.
func runDisks(ctx context.Context, run tool.Runner, screen restore.Screen, o Options) (rep *restore.Report, err error) {
	m := probe.Machine{Run: run}
	for i, s := range o.Source {
		if st, err := os.Stat(s); err != nil || !st.Mode().IsRegular() {
			continue
		}
		if t, ok := over(o.Target, s); ok {
			return nil, &exit.Refusal{Reason: fmt.Sprintf("%s cannot be cloned to itself: /dev/%s is a device over it", s, t)}
		}
		loop, hold, err := attach(ctx, run, s)
		if err != nil {
			return nil, &restore.Untouched{Err: err}
		}
		defer hold.Close() // it ends with it
		screen.Note("%s is /dev/%s below", s, loop)
		o.Source[i] = loop
	}
	if len(o.Source) != len(o.Target) || len(o.Source) == 0 {
		return nil, exit.Usage(fmt.Errorf("%d disks cannot be cloned to %d: each needs one", len(o.Source), len(o.Target)))
	}
	wish := &o.Restore.Wish
	wish.Map = map[string]string{}
	for i, s := range o.Source {
		if slices.ContainsFunc(o.Target, func(t string) bool { return m.Name(t) == m.Name(s) }) {
			return nil, &exit.Refusal{Reason: fmt.Sprintf("/dev/%s cannot be cloned to itself", s)}
		}
		wish.Map[s] = o.Target[i]
	}
	open := OpenOptions{Run: run, Report: screen, Disks: o.Source, Root: o.Root, KeyFile: o.Restore.KeyFile, Secret: screen.Secret, Verify: o.Verify, PlanOnly: o.Restore.PlanOnly}
	var src *Source
	switch {
	case o.Raw:
		src, err = openRaw(open)
	case o.Live:
		src, err = OpenLive(ctx, open, o.Identity, o.Freeze)
	default:
		src, err = Open(ctx, open)
	}
	if err != nil {
		return nil, &restore.Untouched{Err: err}
	}
	defer func() { err = errors.Join(err, src.Close(context.WithoutCancel(ctx))) }()
	if err := o.fits(src); err != nil {
		return nil, &restore.Untouched{Err: err}
	}
	if o.Map != "" && !o.Restore.PlanOnly {
		if src.mapFile, err = openMap(o.Map, int64(src.disks[0].Size), o.Restore.Resume); err != nil {
			return nil, &restore.Untouched{Err: err}
		}
	}
	hide, err := hideLVM(o.Target, slices.Concat(src.crypts, src.arrays))
	if err != nil {
		return nil, &restore.Untouched{Err: err}
	}
	defer os.RemoveAll(hide)
	run = lvmIn{run, hide}
	ro := o.Restore
	ro.Content, ro.DataOnly = src, !src.System
	ro.Sources = map[string]string{}
	for _, d := range o.Source {
		ro.Sources[d] = "it is the source of the clone"
	}
	ro.Known = append(ro.Known, src.Keys()...)
	ro.Draft = func(d *plan.Draft, was func(string) string) error { return src.decide(d, was, o.Identity) }
	if o.Raw {
		ro.Draft = src.decideRaw
	}
	r := &restore.Restorer{Run: run, Machine: probe.Machine{Run: run, Only: o.only}, Screen: screen}
	if rep, err = r.Restore(ctx, ro); err == nil && len(src.bad) > 0 {
		rep.NotCovered = append(rep.NotCovered, src.lostFiles(ctx, rep)...)
	}
	return rep, err
}

// fits refuses what has no effect on a source, and a source of which nothing is known.
func (o *Options) fits(s *Source) error {
	needed := s.layout.Needed()
	for _, d := range o.Source {
		if !slices.Contains(needed, d) {
			return fmt.Errorf("cannot clone /dev/%s: nothing on it can be read: its partition table is damaged, or made for sectors of another size; --raw copies it byte by byte", d)
		}
	}
	switch {
	case s.System:
		return nil
	case o.Root != "":
		return exit.Usage(fmt.Errorf("--root %s: the source has no system", o.Root))
	case o.Personal.Hostname != "" || len(o.Personal.Forget) > 0:
		return exit.Usage(errors.New("--hostname and --forget are for a system, and the source has none"))
	}
	return nil
}

// over finds the loop device among targets that is over a file.
func over(targets []string, file string) (target string, found bool) {
	st, err := os.Stat(file)
	if err != nil {
		return "", false
	}
	for _, t := range targets {
		b, err := os.ReadFile("/sys/class/block/" + t + "/loop/backing_file")
		if err != nil {
			continue
		}
		if under, err := os.Stat(strings.TrimSuffix(string(b), "\n")); err == nil && os.SameFile(st, under) {
			return t, true
		}
	}
	return "", false
}

// hideLVM makes a configuration with which LVM sees the target and nothing else: source
// and target have the same UUIDs. open are the names of the source's open LUKS devices and
// running arrays. It gives its directory. No pattern has a group that may be absent: with
// other patterns beside it LVM does not find such a match.
func hideLVM(target, open []string) (dir string, err error) {
	if dir, err = os.MkdirTemp("", "mkcdrec-clone"); err != nil {
		return "", fmt.Errorf("cannot prepare LVM: %w", err)
	}
	accept := []string{`"r|^/dev/mapper/` + storage.HiddenPrefix + `|"`, `"r|^/dev/mapper/` + blockdev.OverlayPrefix + `[0-9]+-|"`}
	for _, n := range open {
		n = notWord().ReplaceAllString(n, ".")
		accept = append(accept, `"r|^/dev/`+n+`$|"`, `"r|^/dev/mapper/`+n+`$|"`)
	}
	for _, t := range target {
		t = notWord().ReplaceAllString(t, ".")
		accept = append(accept, `"a|^/dev/`+t+`$|"`, `"a|^/dev/`+t+`[0-9]+$|"`, `"a|^/dev/`+t+`p[0-9]+$|"`)
	}
	accept = append(accept, `"a|^/dev/mapper/|"`, `"a|^/dev/md[0-9]+$|"`, `"r|.*|"`)
	only := "filter=[" + strings.Join(accept, ",") + "]"
	text := "devices {\n use_devicesfile=0\n " + only + "\n global_" + only + "\n}\nbackup {\n backup=0\n archive=0\n}\n"
	if err := os.WriteFile(filepath.Join(dir, "lvm.conf"), []byte(text), 0o600); err != nil {
		return "", errors.Join(fmt.Errorf("cannot prepare LVM: %w", err), os.RemoveAll(dir))
	}
	return dir, nil
}

// notWord is what has a meaning in patterns of LVM, or in strings of its configuration.
var notWord = lazyregexp.New(`[^\w-]`)

// lvmIn runs programs with LVM's configuration in dir.
type lvmIn struct {
	tool.Runner
	dir string
}

func (l lvmIn) Run(ctx context.Context, c tool.Cmd) ([]byte, error) {
	// A rehearsal has a configuration of its own.
	if !slices.ContainsFunc(c.Env, func(e string) bool { return strings.HasPrefix(e, "LVM_SYSTEM_DIR=") }) {
		c.Env = append(slices.Clone(c.Env), "LVM_SYSTEM_DIR="+l.dir)
	}
	return l.Runner.Run(ctx, c)
}

// decide chooses how each file system is copied: by its used blocks, as files, or as a
// whole. What cannot be done is refused, with all reasons.
func (s *Source) decide(d *plan.Draft, name func(string) string, identity string) error {
	d.Blocks, d.Grow, d.Renumber = map[string]string{}, map[string]bool{}, map[string]bool{}
	var cannot []string
	for i := range d.Layout.Filesystems {
		f := &d.Layout.Filesystems[i]
		was := s.layout.On(name(f.Device))
		if was == nil { // made for another firmware
			continue
		}
		why, err := s.notByBlocks(d, f, was, identity)
		if err != nil {
			return err
		}
		switch {
		case why == "":
			d.Blocks[f.Device], d.Renumber[f.Device] = "the used blocks", identity == New
			if s.live.freezes(was) {
				s.rep.Note("%s is frozen while it is copied: programs that write to it wait", what(f))
			}
		case !f.InUse(): // not mounted, since it can't be: there would be no files
			if identity == Keep && f.Type == was.Type && len(was.Others) == 0 && d.SizeOf(f.Device) >= was.Size {
				d.Blocks[f.Device] = "all blocks"
				s.rep.Note("%s is copied as a whole: it can't be mounted, and %s", what(f), why)
				continue
			}
			cannot = append(cannot, fmt.Sprintf("%s cannot be mounted, so it can only be copied block by block, and %s; give it at least %s, and use --identity keep", what(f), why, was.Size))
		case f.Type == fstype.TypeBtrfs && identity == Keep:
			cannot = append(cannot, fmt.Sprintf("the btrfs on %s cannot be copied block by block (%s), and not as files while its UUID stays: use --identity new", f.Device, why))
		case s.live.uses(was):
			s.rep.Note("%s is copied as files: %s; they are read %s", what(f), why, s.live.how(was))
		default:
			s.rep.Note("%s is copied as files: %s", what(f), why)
		}
	}
	for _, m := range d.Layout.Images {
		if m.File == "" {
			continue
		}
		_, why, err := s.mapOf(name(m.Device))
		if err != nil {
			return err
		}
		d.Blocks[m.Device] = "the used blocks"
		if why != "" {
			d.Blocks[m.Device] = "all blocks"
			s.rep.Note("%s (%s) is copied as a whole: %s", m.Device, m.What(), why)
		}
		if t, size := fstype.Of(m.Type), d.SizeOf(m.Device); t.Mkfs == nil && t.GrowBy != nil && size > m.Size {
			if why = notGrown(why, t.GrowBy[0]); why != "" {
				s.rep.Note("%s (%s) keeps its size of %s in %s: %s", m.Device, m.What(), m.Size, size, why)
			} else {
				d.Grow[m.Device] = true
			}
		}
	}
	if err := s.bootCode(d, name); err != nil {
		return err
	}
	if len(cannot) > 0 {
		return &exit.Refusal{Reason: strings.Join(cannot, "\n")}
	}
	return nil
}

// notGrown gives the reason why a program cannot grow an image, "" if it can. unclean is why
// its map of used blocks was not taken: it is damaged, hibernated or was not unmounted.
func notGrown(unclean, program string) string {
	if unclean != "" {
		return unclean
	}
	if _, err := exec.LookPath(program); err != nil {
		return program + " is missing"
	}
	return ""
}

// bootCode has disks without a Linux system that boots keep what a BIOS starts.
func (s *Source) bootCode(d *plan.Draft, name func(string) string) error {
	if s.System {
		return nil // its own boot loader is installed
	}
	d.Boot = map[string]*plan.BootCode{}
	for i := range d.Layout.Disks {
		to := &d.Layout.Disks[i]
		was := s.layout.Disk(name(to.Name))
		if to.Table == nil || was == nil || was.Table == nil {
			continue
		}
		f, err := os.Open(s.path(was.Name))
		if err != nil {
			return fmt.Errorf("cannot read the boot code of /dev/%s: %w", was.Name, err)
		}
		b := &plan.BootCode{Sector: make([]byte, 440)}
		room := min(firstStart(was.Table), firstStart(to.Table)) - to.LogicalSector
		if to.Table.Label == layout.MBR && to.LogicalSector == was.LogicalSector && room > 0 {
			b.Gap = make([]byte, min(room, maxGap))
		}
		_, err = f.ReadAt(b.Sector, 0)
		if err == nil && len(b.Gap) > 0 {
			_, err = f.ReadAt(b.Gap, int64(was.LogicalSector))
		}
		f.Close()
		if err != nil {
			return fmt.Errorf("cannot read the boot code of /dev/%s: %w", was.Name, err)
		}
		if bytes.Count(b.Sector, []byte{0}) < len(b.Sector) {
			d.Boot[to.Name] = b
		}
	}
	return nil
}

// maxGap is the most that is copied of what is before the first partition: boot loaders
// take no more.
const maxGap = quantity.MiB

// firstStart is where the first partition of a table begins, bytes; 0 without partitions.
func firstStart(t *layout.Table) quantity.Size {
	first := quantity.Size(0)
	for _, p := range t.Partitions {
		for _, at := range []quantity.Size{p.Start, p.EBR} {
			if at > 0 && (first == 0 || at < first) {
				first = at
			}
		}
	}
	return first
}

// what names a file system for people.
func what(f *layout.Filesystem) string {
	if len(f.Mounts) > 0 {
		return f.Mounts[0].Path
	}
	return "the " + f.Type + " on " + f.Device
}

// notByBlocks gives the reason why a file system can't be copied by its used blocks, "" if
// it can: its whole size must fit, since all of its structures are made for that.
func (s *Source) notByBlocks(d *plan.Draft, f, was *layout.Filesystem, identity string) (string, error) {
	size := d.SizeOf(f.Device)
	switch {
	case f.Type != was.Type:
		return "its type changes from " + was.Type + " to " + f.Type, nil
	case identity == New && (s.live.uses(was) || !renumbers(f)):
		return "it gets a new UUID", nil
	case len(was.Others) > 0:
		return "it is on several devices", nil
	case size < was.Size:
		return fmt.Sprintf("it gets %s instead of %s", size, was.Size), nil
	case size > was.Size+quantity.MiB && fstype.Of(f.Type).Grow == nil:
		return fmt.Sprintf("a %s can't be grown from %s to %s", f.Type, was.Size, size), nil
	case s.needsSmaller(d, was):
		return "the target has larger sectors", nil
	case s.live.freezes(was):
		return "", nil
	case s.live.uses(was):
		return "it is in use", nil
	}
	_, why, err := s.mapOf(was.Device)
	return why, err
}

// renumbers reports whether the programs are there that give a copy of a file system its UUID.
func renumbers(f *layout.Filesystem) bool {
	cmds := plan.Renumber(f.Type, f.UUID, f.Device)
	return len(cmds) > 0 && !slices.ContainsFunc(cmds, func(c []string) bool {
		_, err := exec.LookPath(c[0])
		return err != nil
	})
}

// needsSmaller reports whether one of the target's disks below a file system has sectors that
// are larger than the source's and than what the file system reads and writes at once.
func (s *Source) needsSmaller(d *plan.Draft, f *layout.Filesystem) bool {
	unit := fstype.Of(f.Type).UnitOf(&f.Geometry)
	return slices.ContainsFunc(s.layout.DisksUnder(f.Device), func(n string) bool {
		old, to := s.layout.Disk(n), d.Disks[n]
		return old != nil && to.LogicalSector > old.LogicalSector && int64(to.LogicalSector) > unit
	})
}

var _ restore.Content = (*Source)(nil)
