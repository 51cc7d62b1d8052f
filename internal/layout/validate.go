package layout

import (
	"cmp"
	"errors"
	"fmt"
	"path"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/gpt"
	"github.com/mkcdrec/mkcdrec/internal/lazyregexp"
	"github.com/mkcdrec/mkcdrec/internal/superblock"
)

// faults collects everything that is wrong, each with its path.
type faults struct {
	errs []error
	devs map[string]string // device -> where it was defined
	// users are who uses a device.
	users map[string]string
}

func (f *faults) add(where, format string, args ...any) {
	f.errs = append(f.errs, fmt.Errorf("%s: %s", where, fmt.Sprintf(format, args...)))
}

// define notes a device that stands at where.
func (f *faults) define(dev, where string) {
	if !validDevice(dev) {
		f.add(where, "%q is not a device name", dev)
	}
	if first, ok := f.devs[dev]; ok {
		f.add(where, "device %q is defined a second time, first at %s", dev, first)
	}
	f.devs[dev] = where
}

// use notes that a device is taken by what stands at where.
func (f *faults) use(dev, where string) {
	if _, ok := f.devs[dev]; !ok {
		f.add(where, "device %q is not in the layout", dev)
	}
	if first, ok := f.users[dev]; ok {
		f.add(where, "device %q is used a second time, first by %s", dev, first)
	}
	f.users[dev] = where
}

// Validate reports all faults at once, joined, each as "PATH: what".
func (l *Layout) Validate() error {
	f := &faults{devs: map[string]string{}, users: map[string]string{}}
	if l.Version != Version {
		f.add("version", "is %d; this program knows %d", l.Version, Version)
		return errors.Join(f.errs...)
	}
	texts(f, "", reflect.ValueOf(l).Elem())
	for i := range l.Disks {
		where := fmt.Sprintf("disks[%d]", i)
		f.define(l.Disks[i].Name, where)
		l.Disks[i].validate(f, where, f.define)
	}
	l.validateStacks(f)
	if !l.grounded() {
		f.add("crypts", "some are on themselves")
		return errors.Join(f.errs...)
	}
	mounts := map[string]string{}
	for i := range l.Filesystems {
		where := fmt.Sprintf("filesystems[%d]", i)
		l.Filesystems[i].validate(f, where, mounts)
		for _, d := range l.Filesystems[i].Devs() {
			f.use(d, where)
		}
	}
	l.validateSwap(f)
	for i, m := range l.Images {
		where := fmt.Sprintf("images[%d]", i)
		f.use(m.Device, where)
		if m.Size <= 0 || strings.ContainsAny(m.File, "/") || strings.HasPrefix(m.File, ".") {
			f.add(where, "size %d, file %q", m.Size, m.File)
		}
	}
	l.Boot.validate(f, f.devs)
	return errors.Join(f.errs...)
}

// validateStacks checks what makes devices of others.
func (l *Layout) validateStacks(f *faults) {
	// LUKS may be on LVM, and LVM on LUKS: all names first.
	for i := range l.Arrays {
		f.define(l.Arrays[i].Name, fmt.Sprintf("arrays[%d]", i))
	}
	for i := range l.Crypts {
		f.define(l.Crypts[i].Mapper(), fmt.Sprintf("crypts[%d]", i))
	}
	for i := range l.VolumeGroup {
		l.VolumeGroup[i].validate(f, fmt.Sprintf("volumeGroups[%d]", i), f.define)
	}
	for i := range l.Arrays {
		a := &l.Arrays[i]
		where := fmt.Sprintf("arrays[%d]", i)
		a.validate(f, where)
		for _, d := range a.Devs() {
			f.use(d, where)
		}
	}
	for i := range l.Crypts {
		where := fmt.Sprintf("crypts[%d]", i)
		l.Crypts[i].validate(f, where)
		f.use(l.Crypts[i].Device, where)
	}
	for i, g := range l.VolumeGroup {
		for j, p := range g.PVs {
			f.use(p.Device, fmt.Sprintf("volumeGroups[%d].pvs[%d]", i, j))
		}
	}
}

func (l *Layout) validateSwap(f *faults) {
	for i, s := range l.Swap {
		where := fmt.Sprintf("swap[%d]", i)
		f.use(s.Device, where)
		if s.Size < 40<<10 {
			f.add(where, "size %d is too small for swap", s.Size)
		}
		if s.UUID != "" && !uuidRE().MatchString(s.UUID) {
			f.add(where, "UUID %q", s.UUID)
		}
	}
	for i, s := range l.SwapFiles {
		where := fmt.Sprintf("swapFiles[%d]", i)
		if !CleanPath(s.Path) || s.Path == s.Mount || s.Mount != "/" && !strings.HasPrefix(s.Path, s.Mount+"/") {
			f.add(where, "path %q in %q", s.Path, s.Mount)
		}
		if s.Size < 40<<10 || s.UUID != "" && !uuidRE().MatchString(s.UUID) {
			f.add(where, "size %d, UUID %q", s.Size, s.UUID)
		}
	}
}

var (
	uuidRE   = lazyregexp.New(`^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$`)
	vfatRE   = lazyregexp.New(`^[0-9A-F]{4}-[0-9A-F]{4}$`)
	lvmRE    = lazyregexp.New(`^[0-9A-Za-z]{6}(-[0-9A-Za-z]{4}){5}-[0-9A-Za-z]{6}$`)
	deviceRE = lazyregexp.New(`^[0-9A-Za-z_.+-]+(/[0-9A-Za-z_.+-]+)?$`)
	mdRE     = lazyregexp.New(`^[0-9a-f]{8}(:[0-9a-f]{8}){3}$`)
	cipherRE = lazyregexp.New(`^[a-z0-9][A-Za-z0-9_:()-]*$`)
	sigRE    = lazyregexp.New(`^0x[0-9a-f]{8}$`)
)

func validDevice(d string) bool {
	return deviceRE().MatchString(d) && !strings.Contains("/"+d+"/", "/./") && !strings.Contains("/"+d+"/", "/../") && !strings.HasPrefix(d, "-") && !strings.Contains(d, "/-")
}

// CleanPath reports whether a path can be a mount point of a layout: absolute, without
// "." and "..", doubled or trailing slashes, and text.
func CleanPath(p string) bool { return path.IsAbs(p) && path.Clean(p) == p && Text(p) }

// Text reports whether s is UTF-8 without control characters and line separators: what
// can be shown on a terminal and stand in one line.
func Text(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return unicode.IsControl(r) || r == '\u2028' || r == '\u2029' })
}

// lines are the fields that hold whole files; they may have line ends and tabs.
var lines = []string{"fstab", "config"}

// texts adds a fault for every string, in any field, that is not Text.
func texts(f *faults, where string, v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			texts(f, where, v.Elem())
		}
	case reflect.Slice:
		for i := range v.Len() {
			texts(f, fmt.Sprintf("%s[%d]", where, i), v.Index(i))
		}
	case reflect.Map:
		for _, k := range v.MapKeys() {
			texts(f, where, k)
			texts(f, fmt.Sprintf("%s[%q]", where, k), v.MapIndex(k))
		}
	case reflect.Struct:
		for i := range v.NumField() {
			inner := where
			if t := v.Type().Field(i); !t.Anonymous {
				name, _, _ := strings.Cut(t.Tag.Get("json"), ",")
				inner = strings.TrimPrefix(where+"."+name, ".")
			}
			texts(f, inner, v.Field(i))
		}
	case reflect.String:
		s := v.String()
		if slices.Contains(lines, where[strings.LastIndexByte(where, '.')+1:]) {
			s = strings.NewReplacer("\n", "", "\t", "", "\r", "").Replace(s)
		}
		if !Text(s) {
			f.add(where, "%.100q has control characters or is not UTF-8", v.String())
		}
	}
}

func (d *Disk) validate(f *faults, where string, define func(dev, where string)) {
	if d.Size <= 0 {
		f.add(where, "size %d", d.Size)
	}
	for _, s := range []struct {
		name string
		v    int64
	}{{"logicalSector", int64(d.LogicalSector)}, {"physicalSector", int64(d.PhysicalSector)}} {
		if s.v < 512 || s.v > 65536 || s.v&(s.v-1) != 0 {
			f.add(where, "%s %d is not a power of two from 512 to 65536", s.name, s.v)
			return
		}
	}
	if d.Table != nil {
		d.Table.validate(f, where+".table", d, define)
	}
}

func (t *Table) validate(f *faults, where string, d *Disk, define func(dev, where string)) {
	switch t.Label {
	case GPT:
		if !uuidRE().MatchString(t.GUID) {
			f.add(where, "GUID %q", t.GUID)
		}
	case MBR:
		if !sigRE().MatchString(t.Signature) {
			f.add(where, "signature %q; want 0x and 8 hex digits", t.Signature)
		}
	default:
		f.add(where, "label %q; want %s or %s", t.Label, GPT, MBR)
	}
	if t.Entries < 0 || t.Entries > gpt.MaxEntries || t.FirstUsable < 0 || t.FirstUsable%d.LogicalSector != 0 {
		f.add(where, "%d entries, partitions from byte %d on", t.Entries, t.FirstUsable)
	}
	for i := range t.Partitions {
		p := &t.Partitions[i]
		pw := fmt.Sprintf("%s.partitions[%d]", where, i)
		define(p.Device, pw)
		p.validate(f, pw, d)
		for j := range i {
			q := &t.Partitions[j]
			if p.Number == q.Number {
				f.add(pw, "number %d is partitions[%d]'s too", p.Number, j)
			}
			if p.overlaps(q) {
				f.add(pw, "overlaps partitions[%d]", j)
			}
		}
	}
}

// Extended reports whether p is the container of logical partitions.
func (p *Partition) Extended() bool {
	n, err := strconv.ParseUint(p.Type, 0, 8)
	return err == nil && (n == 0x05 || n == 0x0f || n == 0x85)
}

// Logical reports whether p is in an extended partition.
func (p *Partition) Logical() bool { return p.EBR > 0 }

func (p *Partition) inside(q *Partition) bool {
	return p.Logical() && q.Extended() && !q.Logical() && p.Start >= q.Start && p.Start+p.Size <= q.Start+q.Size
}

func (p *Partition) overlaps(q *Partition) bool {
	return p.Start < q.Start+q.Size && q.Start < p.Start+p.Size && !p.inside(q) && !q.inside(p)
}

func (p *Partition) validate(f *faults, where string, d *Disk) {
	if p.Start < d.LogicalSector || p.Size <= 0 || p.Start+p.Size > d.Size {
		f.add(where, "bytes %d to %d are not on a disk of %d", p.Start, p.Start+p.Size, d.Size)
	}
	if p.Start%d.LogicalSector != 0 || p.Size%d.LogicalSector != 0 {
		f.add(where, "start or size is not a whole number of sectors")
	}
	if m := p.InMBR; m != nil {
		if typ, err := strconv.ParseUint(m.Type, 0, 8); err != nil || typ == 0 || d.Table.Label != GPT || m.Slot < 0 || m.Slot > 3 {
			f.add(where, "inMBR: type %q in slot %d of a %s table is not an entry of a hybrid MBR", m.Type, m.Slot, d.Table.Label)
		}
	}
	p.validateEntry(f, where, d.Table)
}

// validateEntry checks what depends on the kind of table.
func (p *Partition) validateEntry(f *faults, where string, t *Table) {
	switch t.Label {
	case GPT:
		n := cmp.Or(t.Entries, gpt.MaxEntries)
		if p.Number < 1 || p.Number > n {
			f.add(where, "number %d; want 1 to %d", p.Number, n)
		}
		if !uuidRE().MatchString(p.Type) || !uuidRE().MatchString(p.GUID) {
			f.add(where, "type %q or GUID %q is not a GUID", p.Type, p.GUID)
		}
	case MBR:
		if n, err := strconv.ParseUint(p.Type, 0, 8); err != nil || n == 0 {
			f.add(where, "type %q; want 0x01 to 0xff", p.Type)
		}
		if p.Number < 1 || p.Number > 60 || (p.Number > 4) != p.Logical() {
			f.add(where, "number %d does not fit a partition with EBR %d", p.Number, p.EBR)
		}
	}
}

// Levels are the RAID levels that can be made.
var Levels = []string{"linear", "raid0", "raid1", "raid4", "raid5", "raid6", "raid10"}

// Metadata are the forms of superblocks that arrays are made with.
var Metadata = []string{"0.90", "1.0", "1.1", "1.2"}

func (a *Array) validate(f *faults, where string) {
	if !slices.Contains(Levels, a.Level) {
		f.add(where, "level %q; want %s", a.Level, strings.Join(Levels, ", "))
	}
	if !slices.Contains(Metadata, a.Metadata) {
		f.add(where, "metadata %q", a.Metadata)
	}
	if !mdRE().MatchString(a.UUID) {
		f.add(where, "UUID %q", a.UUID)
	}
	if a.Devices < 1 || len(a.Members) == 0 || len(a.Members) > a.Devices {
		f.add(where, "%d members of %d", len(a.Members), a.Devices)
	}
	seen := map[int]bool{}
	for _, m := range a.Members {
		if m.Role < 0 || m.Role >= a.Devices || seen[m.Role] {
			f.add(where, "%s has place %d of %d", m.Device, m.Role, a.Devices)
		}
		seen[m.Role] = true
	}
	if a.Size <= 0 || min(a.Data, a.Chunk) < 0 || a.Part < 0 {
		f.add(where, "size %d, data at %d, chunk %d, part %d", a.Size, a.Data, a.Chunk, a.Part)
	}
	if strings.HasPrefix(a.Label, "-") {
		f.add(where, "label %q", a.Label)
	}
}

// grounded reports whether following devices down always ends.
func (l *Layout) grounded() bool {
	var ok func(dev string, deep int) bool
	ok = func(dev string, deep int) bool {
		if deep > 16 {
			return false
		}
		if a := l.Array(dev); a != nil {
			return !slices.ContainsFunc(a.Devs(), func(d string) bool { return !ok(d, deep+1) })
		}
		if c := l.Crypt(dev); c != nil {
			return ok(c.Device, deep+1)
		}
		if g := l.Group(dev); g != nil {
			return !slices.ContainsFunc(g.PVs, func(p PhysicalVolume) bool { return !ok(p.Device, deep+1) })
		}
		return true
	}
	for i := range l.Crypts {
		if !ok(l.Crypts[i].Mapper(), 0) {
			return false
		}
	}
	for _, a := range l.Arrays {
		if !ok(a.Name, 0) {
			return false
		}
	}
	return true
}

func (c *Crypt) validate(f *faults, where string) {
	if !uuidRE().MatchString(c.UUID) {
		f.add(where, "UUID %q", c.UUID)
	}
	if strings.ContainsAny(c.Header, "/") || strings.HasPrefix(c.Header, ".") {
		f.add(where, "header %q", c.Header)
	}
	k := c.LUKS
	if k == nil {
		f.add(where, "has no geometry")
		return
	}
	if !validLUKS(k) {
		f.add(where+".luks", "version %d, cipher %q, hash %q, key of %d bits, sectors of %d bytes, data at %d", k.Version, k.Cipher, k.Hash, k.KeySize, k.SectorSize, k.Offset)
	}
	if c.Size <= 0 {
		f.add(where, "size %d", c.Size)
	}
}

func validLUKS(k *superblock.LUKS) bool {
	return (k.Version == 1 || k.Version == 2) && cipherRE().MatchString(k.Cipher) && cipherRE().MatchString(k.Hash) &&
		k.KeySize >= 64 && k.KeySize <= 4096 && k.SectorSize >= 512 && k.SectorSize <= 4096 && k.Offset >= 4096 && k.Offset <= 1<<30
}

func (g *VolumeGroup) validate(f *faults, where string, define func(dev, where string)) {
	if !validDevice(g.Name) || strings.Contains(g.Name, "/") || g.Name == strings.TrimSuffix(MapperPrefix, "/") {
		f.add(where, "name %q", g.Name)
	}
	if !lvmRE().MatchString(g.UUID) {
		f.add(where, "UUID %q", g.UUID)
	}
	if g.ExtentSize <= 0 {
		f.add(where, "extent size %d", g.ExtentSize)
	}
	if len(g.PVs) == 0 {
		f.add(where, "has no physical volumes")
	}
	if !strings.Contains(g.Config, "physical_volumes") {
		f.add(where+".config", "is not the text of vgcfgbackup")
	}
	for i, p := range g.PVs {
		pw := fmt.Sprintf("%s.pvs[%d]", where, i)
		if !lvmRE().MatchString(p.UUID) {
			f.add(pw, "UUID %q", p.UUID)
		}
		if !strings.Contains(g.Config, p.UUID) {
			f.add(pw, "UUID %s is not in the group's config", p.UUID)
		}
	}
	for i, v := range g.LVs {
		vw := fmt.Sprintf("%s.lvs[%d]", where, i)
		define(g.Name+"/"+v.Name, vw)
		g.validateVolume(f, vw, &v)
	}
}

func (g *VolumeGroup) validateVolume(f *faults, where string, v *LogicalVolume) {
	if v.Size <= 0 || !lvmRE().MatchString(v.UUID) {
		f.add(where, "size %d or UUID %q", v.Size, v.UUID)
	}
	switch {
	case v.Type == TypeThin:
		if !slices.ContainsFunc(g.LVs, func(p LogicalVolume) bool { return p.Name == v.Pool && p.Type == TypeThinPool }) {
			f.add(where, "pool %q is not in the group", v.Pool)
		}
	case v.Type == TypeThinPool:
		if t := v.ThinPool; t == nil || t.Chunk < 64<<10 || t.Chunk > 1<<30 || t.Metadata <= 0 || t.Discards != "" && !slices.Contains([]string{"ignore", "nopassdown", "passdown"}, t.Discards) {
			f.add(where, "thin pool of unknown form")
		}
	case v.Type != "" && !slices.Contains(LVTypes, v.Type):
		f.add(where, "type %q", v.Type)
	}
}

func (s *Filesystem) validate(f *faults, where string, mounts map[string]string) {
	t, re := fstype.Of(s.Type), uuidRE()
	if t.Mkfs == nil {
		f.add(where, "type %q is not one that can be made", s.Type)
		return
	}
	if t.ShortUUID {
		re = vfatRE()
	}
	if !slices.Equal(s.Keys(), []string{t.Key()}) {
		f.add(where, "has no geometry of its type %s, or another's", s.Type)
	}
	for _, x := range t.Faults(&s.Geometry) {
		f.add(where+"."+t.Key(), "%s", x)
	}
	s.validateSubvolumes(f, where)
	if s.UUID != "" && !re.MatchString(s.UUID) {
		f.add(where, "UUID %q", s.UUID)
	}
	if s.Size <= 0 {
		f.add(where, "size %d", s.Size)
	}
	for i, m := range s.Mounts {
		mw := fmt.Sprintf("%s.mounts[%d]", where, i)
		if !CleanPath(m.Path) {
			f.add(mw, "path %q is not absolute and clean", m.Path)
		}
		if m.Subvolume != "" && !slices.ContainsFunc(s.Subvolumes, func(v Subvolume) bool { return v.Path == m.Subvolume }) {
			f.add(mw, "subvolume %q is not in the layout", m.Subvolume)
		}
		if first, ok := mounts[m.Path]; ok {
			f.add(mw, "%s is %s's too", m.Path, first)
		}
		mounts[m.Path] = mw
	}
}

func (s *Filesystem) validateSubvolumes(f *faults, where string) {
	seen := map[string]bool{}
	for i, v := range s.Subvolumes {
		if !CleanPath("/"+v.Path) || v.Path == "" || seen[v.Path] {
			f.add(fmt.Sprintf("%s.subvolumes[%d]", where, i), "path %q", v.Path)
		}
		seen[v.Path] = true
	}
}
