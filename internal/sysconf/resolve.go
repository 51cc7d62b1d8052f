package sysconf

import (
	"cmp"
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/layout"
)

// State is what a name of a device leads to.
type State int

// States of names.
const (
	Missing State = iota // nothing in the layout is called that
	Left                 // it was on the old machine, and was not restored
	Foreign              // not on a disk of the machine: memory, network, media
	Found                // it was restored
)

// Target is what a name leads to.
type Target struct {
	State State
	// Device is the layout's name of the device that has the content; "" where it
	// is not known.
	Device string
	// Content is the type of what is on it: a file system's, "swap", "LUKS", "LVM",
	// "image"; "" for nothing that is known.
	Content string
	// Right is set for a name that is right on the new machine as it is.
	Right bool
	// Name is what can be written instead: "UUID=...", "PARTUUID=..." or a path.
	Name string
}

// Path is what can be written where only a path will do: by UUID, which lasts, or as the
// kernel calls the device.
func (t Target) Path() string {
	switch r := ParseRef(t.Name); r.Kind {
	case UUID:
		return "/dev/disk/by-uuid/" + strings.TrimPrefix(t.Name, "UUID=")
	case PartUUID:
		return "/dev/disk/by-partuuid/" + strings.TrimPrefix(t.Name, "PARTUUID=")
	}
	return t.Name
}

// Resolver finds the devices that a system's files name in the layout that is
// restored. While a backup makes the layout there is none to look in: probe follows the
// links of the running udev instead, to what is in no layout, such as snapshots that are
// left out (Machine.referred). What names mean by themselves is here for both: ParseRef,
// Ref.Volume and VolumeID.
type Resolver struct {
	l       *layout.Layout
	devices map[string]string
	content map[string]content
	by      map[Kind]map[string][]string // value of a Ref -> devices
	stale   map[string]bool              // "PARTUUID=..." and names that are others now
	crypts  map[string]*CrypttabEntry
	disk    func(string) bool
	after   bool
	direct  bool
}

type content struct{ typ, uuid string }

// Options are what a Resolver can know beside the layout.
type Options struct {
	// Devices maps the layout's names to those of this machine; what is not in it
	// was not restored. Nil stands for everything, under its old name.
	Devices map[string]string
	// Crypttab and Mdadm are the system's own: they name devices, too.
	Crypttab *Crypttab
	Mdadm    *Mdadm
	// SameDisk is set if a disk of the layout is the old machine's own, so that
	// its names by model and serial number are right still. Nil stands for none.
	SameDisk func(disk string) bool
	// After reads names as this machine has them, after files were changed: what the
	// old machine's kernel called a device is not known then.
	After bool
	// Direct is set for a system whose kernels have no initramfs.
	Direct bool
}

// NewResolver makes a resolver for a layout.
func NewResolver(l *layout.Layout, o Options) *Resolver {
	r := &Resolver{l: l, devices: o.Devices, content: map[string]content{}, by: map[Kind]map[string][]string{}, stale: map[string]bool{}, crypts: map[string]*CrypttabEntry{}, disk: o.SameDisk, after: o.After, direct: o.Direct}
	for _, k := range []Kind{Path, UUID, Label, PartUUID, PartLabel, ID, ByPath, Diskseq} {
		r.by[k] = map[string][]string{}
	}
	r.contents()
	if o.Mdadm != nil {
		r.arrays(o.Mdadm)
	}
	r.names()
	if o.Crypttab != nil {
		for _, e := range o.Crypttab.Entries {
			r.crypts[e.Name] = e
		}
	}
	return r
}

// arrays records the names that mdadm.conf(5) gives arrays, which count more than those
// in their superblocks.
func (r *Resolver) arrays(m *Mdadm) {
	for _, a := range m.Arrays {
		for _, b := range r.l.Arrays {
			if a.UUID == "" || a.UUID != PlainUUID(b.UUID) || a.Device == "" || a.Device[0] == '<' {
				continue
			}
			n, below := strings.CutPrefix(a.Device, "/dev/")
			if !below && !isNumber(strings.TrimPrefix(n, "md")) || isNumber(n) {
				n = "md/" + n // without a path, it is below /dev/md
			}
			r.add(Path, n, b.Name)
			if short, ok := strings.CutPrefix(n, "md/"); ok {
				r.number(short, b.Name)
			} else if short, ok := strings.CutPrefix(n, "md"); ok && isNumber(short) {
				r.add(Path, "md/"+short, b.Name)
			}
		}
	}
}

// number records the name /dev/md5 of an array named "5", unless another array has it.
func (r *Resolver) number(name, array string) {
	if n := "md" + name; isNumber(name) && r.l.Array(n) == nil {
		r.add(Path, n, array)
	}
}

func isNumber(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

func (r *Resolver) add(k Kind, value, dev string) {
	if value != "" && dev != "" && !slices.Contains(r.by[k][value], dev) {
		r.by[k][value] = append(r.by[k][value], dev)
	}
}

// contents records what is on devices.
func (r *Resolver) contents() {
	put := func(dev, typ, uuid, label string) {
		r.content[dev] = content{typ, uuid}
		r.add(UUID, strings.ToLower(uuid), dev)
		r.add(Label, label, dev)
	}
	for _, g := range r.l.VolumeGroup {
		for _, p := range g.PVs {
			put(p.Device, "LVM", p.UUID, "")
		}
	}
	for _, c := range r.l.Crypts {
		put(c.Device, "LUKS", c.UUID, c.Label)
	}
	for _, i := range r.l.Images {
		if i.File != "" {
			put(i.Device, cmp.Or(i.Type, "image"), i.UUID, i.Label)
		} else {
			r.add(UUID, strings.ToLower(i.UUID), i.Device)
			r.add(Label, i.Label, i.Device)
		}
	}
	for _, s := range r.l.Swap {
		put(s.Device, "swap", s.UUID, s.Label)
	}
	for _, f := range r.l.Filesystems {
		for _, d := range f.Devs() {
			put(d, cmp.Or(f.Type, "file system"), f.UUID, f.ExactLabel())
		}
	}
}

// names records what devices are called.
func (r *Resolver) names() {
	l := r.l
	for i := range l.Disks {
		d := &l.Disks[i]
		r.add(Path, r.called(d.Name), d.Name)
		if d.Table == nil {
			continue
		}
		for j := range d.Table.Partitions {
			p := &d.Table.Partitions[j]
			r.add(Path, r.called(p.Device), p.Device)
			r.add(PartUUID, strings.ToLower(d.PartUUID(p)), p.Device)
			r.add(PartLabel, p.Name, p.Device)
		}
	}
	for _, a := range l.Arrays {
		r.add(Path, r.called(a.Name), a.Name)
		if n := a.Label[strings.IndexByte(a.Label, ':')+1:]; n != "" {
			r.add(Path, "md/"+n, a.Name)
			r.number(n, a.Name)
			r.add(ID, "md-name-"+a.Label, a.Name)
		}
		r.add(ID, "md-uuid-"+a.UUID, a.Name)
	}
	for i := range l.Crypts {
		c := &l.Crypts[i]
		r.add(Path, c.Mapper(), c.Mapper())
		r.add(ID, "dm-name-"+c.Name, c.Mapper())
		for _, v := range []string{"1", "2"} {
			r.add(ID, "dm-uuid-CRYPT-LUKS"+v+"-"+PlainUUID(c.UUID)+"-"+c.Name, c.Mapper())
		}
	}
	for _, g := range l.VolumeGroup {
		for _, p := range g.PVs {
			r.add(ID, "lvm-pv-uuid-"+p.UUID, p.Device)
		}
		for _, v := range g.LVs {
			dev := g.Name + "/" + v.Name
			r.add(Path, dev, dev)
			r.add(Path, "mapper/"+DMName(g.Name, v.Name), dev)
			r.add(ID, "dm-name-"+DMName(g.Name, v.Name), dev)
			if v.Type != layout.TypeThin { // those get new UUIDs
				r.add(ID, VolumeID(g.UUID, v.UUID), dev)
			}
		}
	}
	for dev := range r.content { // of what is in none of these
		r.add(Path, r.called(dev), dev)
		if vg, lv, ok := strings.Cut(dev, "/"); ok && vg != "mapper" {
			r.add(Path, "mapper/"+DMName(vg, lv), dev)
		}
	}
	r.oldNames()
}

// called is the kernel's name of a device in the files that are read.
func (r *Resolver) called(dev string) string {
	if r.after && r.devices != nil {
		return r.devices[dev]
	}
	return dev
}

// oldNames records what devices of the old machine were called, for files that
// were not changed yet.
func (r *Resolver) oldNames() {
	l := r.l
	if r.after {
		for dev, links := range l.Links {
			if r.same(dev) {
				r.links(dev, links)
			}
		}
		return
	}
	for old, now := range l.Moved {
		r.stale[old] = true
		r.by[Path][old] = []string{now}
	}
	for old, now := range l.PartUUIDs {
		r.stale["PARTUUID="+strings.ToLower(old)] = true
		r.by[PartUUID][strings.ToLower(old)] = []string{now}
	}
	for dev, links := range l.Links {
		r.links(dev, links)
	}
}

func (r *Resolver) links(dev string, names []string) {
	for _, n := range names {
		if ref := ParseRef("/dev/disk/" + n); ref.Kind == ID || ref.Kind == ByPath || ref.Kind == Diskseq {
			r.add(ref.Kind, ref.Value, dev)
		}
	}
}

// DMName is the name of a logical volume below /dev/mapper: hyphens of the names are
// doubled.
func DMName(vg, lv string) string {
	return strings.ReplaceAll(vg, "-", "--") + "-" + strings.ReplaceAll(lv, "-", "--")
}

// LVOfDM gives "vg/lv" for DMName's name of a logical volume, "" for anything else.
func LVOfDM(name string) string {
	n := strings.ReplaceAll(name, "--", "\x00")
	vg, lv, ok := strings.Cut(n, "-")
	if !ok || strings.Contains(lv, "-") {
		return ""
	}
	return strings.ReplaceAll(vg+"/"+lv, "\x00", "-")
}

// VolumeID is the name of a logical volume below /dev/disk/by-id, by the UUIDs of its group and its own.
func VolumeID(group, volume string) string {
	return "dm-uuid-LVM-" + strings.ReplaceAll(group+volume, "-", "")
}

// Volume gives "vg/lv" for a path or ID that has the name of a logical volume, whether or not it is active; "" for others.
func (r Ref) Volume() string {
	prefix := map[Kind]string{ID: "dm-name-", Path: layout.MapperPrefix}[r.Kind]
	if n, ok := strings.CutPrefix(r.Value, prefix); ok && prefix != "" {
		return LVOfDM(n)
	}
	return ""
}

// restored reports whether what is on a device was restored.
func (r *Resolver) restored(dev string) bool {
	if i := slices.IndexFunc(r.l.Images, func(i layout.Image) bool { return i.Device == dev }); i >= 0 && r.l.Images[i].File == "" {
		return false
	}
	return r.devices == nil || r.devices[dev] != ""
}

// now is a device's name on this machine.
func (r *Resolver) now(dev string) string {
	if r.devices == nil {
		return dev
	}
	return r.devices[dev]
}

// Find finds what a name leads to.
func (r *Resolver) Find(ref Ref) Target { return r.find(ref, 0) }

func (r *Resolver) find(ref Ref, depth int) Target {
	if ref.foreign() {
		return Target{State: Foreign, Right: true}
	}
	if ref.Kind == Malformed {
		return Target{}
	}
	found := r.by[ref.Kind][ref.Value]
	if len(found) == 0 && ref.Kind == Path {
		if m, ok := strings.CutPrefix(ref.Value, "mapper/"); ok {
			if t, ok := r.mapping(m, depth); ok {
				return t
			}
		}
	}
	if len(found) == 0 && r.leftAlone(ref) {
		return Target{State: Left}
	}
	var best Target
	for _, dev := range found {
		if t := r.target(ref, dev); t.State > best.State || t.State == best.State && best.Content == "" {
			best = t
		}
	}
	return best
}

// foreign reports what is not on the machine's disks.
func (r Ref) foreign() bool {
	switch r.Kind {
	case Virtual, Medium, Network, File:
		return true
	case Path:
		return strings.HasPrefix(r.Value, "gpt-auto-") || strings.HasPrefix(r.Value, "nbd") || strings.HasPrefix(r.Value, "rbd")
	}
	return false
}

// unstable reports a name that is another one on another disk or after another boot.
func (r Ref) unstable() bool {
	switch r.Kind {
	case ID, ByPath, Diskseq:
		return true
	case Path:
		return strings.HasPrefix(r.Value, "dm-") || strings.HasPrefix(r.Value, "block/") || strings.HasPrefix(r.Value, "disk/")
	}
	return false
}

// mapping finds what a name below /dev/mapper leads to that only crypttab knows: a
// swap device with a new key at every boot, or one that was not open.
func (r *Resolver) mapping(name string, depth int) (Target, bool) {
	if e := r.crypts[name]; e != nil && depth < 4 {
		t := r.find(ParseRef(e.Spec), depth+1)
		if t.State == Foreign || t.State == Missing && !ParseRef(e.Spec).Device() { // a file
			return Target{State: Foreign, Right: true}, true
		}
		content := "image"
		if e.Throwaway() && !HasOption(e.Options, "tmp") {
			content = "swap"
		}
		for _, c := range r.l.Crypts { // open under another name
			if c.Device == t.Device {
				in := r.target(Ref{Kind: Path, Value: c.Mapper()}, c.Mapper())
				in.Right = true
				return in, true
			}
		}
		return Target{State: t.State, Device: t.Device, Content: content, Right: true, Name: "/dev/mapper/" + name}, true
	}
	if u, ok := strings.CutPrefix(name, "luks-"); ok {
		for _, c := range r.l.Crypts {
			if strings.EqualFold(c.UUID, u) {
				t := r.target(Ref{Kind: Path, Value: c.Mapper()}, c.Mapper())
				t.Right = true
				return t, true
			}
		}
	}
	return Target{}, false
}

// leftAlone reports a name that the layout has among what was not supported or not
// the machine's own.
func (r *Resolver) leftAlone(ref Ref) bool {
	is := func(u layout.Unsupported) bool {
		return u.Device != "" && ref.Kind == Path && (u.Device == ref.Value || "mapper/"+u.Device == ref.Value)
	}
	return slices.ContainsFunc(r.l.Unsupported, is) || slices.ContainsFunc(r.l.LeftAlone, is)
}

// target returns what is known of a device that a name leads to.
func (r *Resolver) target(ref Ref, dev string) Target {
	key := ref.Value
	if ref.Kind == PartUUID {
		key = "PARTUUID=" + key
	}
	stale := r.stale[key] && (ref.Kind == Path || ref.Kind == PartUUID)
	if now := r.l.Moved[dev]; now != "" && !r.after && ref.Kind != UUID && ref.Kind != Label {
		dev, stale = now, true // what was on the partition
	}
	t := Target{State: Left, Device: dev, Content: r.content[dev].typ}
	if !r.restored(dev) {
		return t
	}
	t.State = Found
	t.Name = r.name(dev)
	switch {
	case stale:
	case ref.Kind == Path:
		t.Right = r.after || r.now(dev) == dev
	case ref.Kind == ID:
		t.Right = r.lasting(ref.Value) || r.same(dev)
	case ref.Kind == ByPath, ref.Kind == Diskseq:
	default:
		t.Right = true
	}
	return t
}

// lasting reports names below by-id that are not made of the disk's own.
func (r *Resolver) lasting(id string) bool {
	for _, p := range []string{"dm-name-", "dm-uuid-", "md-name-", "md-uuid-", "lvm-pv-uuid-"} {
		if strings.HasPrefix(id, p) {
			return true
		}
	}
	return false
}

// same reports whether all disks below a device are the old machine's.
func (r *Resolver) same(dev string) bool {
	under := r.l.DisksUnder(dev)
	return r.disk != nil && len(under) > 0 && !slices.ContainsFunc(under, func(d string) bool { return !r.disk(d) })
}

// name is the best name of a device: by its content, its partition, or the kernel's.
func (r *Resolver) name(dev string) string {
	if c := r.content[dev]; c.uuid != "" && c.typ != "LVM" {
		return "UUID=" + c.uuid
	}
	if d, p := r.l.Partition(dev); p != nil && d.PartUUID(p) != "" {
		return "PARTUUID=" + d.PartUUID(p)
	}
	return "/dev/" + r.now(dev)
}

// directName is the best name of a device that the kernel finds without an initramfs,
// early_lookup_bdev() in block/early-lookup.c: the partition's, or its own of a disk
// or array. Other devices are there only if an initramfs is part of the kernel.
func (r *Resolver) directName(dev string) string {
	if d, p := r.l.Partition(dev); p != nil && d.PartUUID(p) != "" {
		return "PARTUUID=" + d.PartUUID(p)
	}
	if r.l.Array(dev) != nil { // the kernel takes its number from its superblock
		return "/dev/" + dev
	}
	if _, p := r.l.Partition(dev); p != nil || r.l.Disk(dev) != nil {
		return "/dev/" + r.now(dev)
	}
	return r.name(dev)
}

// At finds what a name leads to in a place that is known to have been mounted, or
// swapped to. Names of which nothing can be known from the layout, as /dev/dm-3 or
// those below by-path in sets without them, are taken for what was mounted there.
func (r *Resolver) At(ref Ref, path string, swap bool) Target {
	t := r.Find(ref)
	if t.State != Missing || ref.Kind == Malformed {
		return t
	}
	loose := !r.after && ref.unstable()
	switch f := r.l.Mounted(path); {
	case loose && swap && len(r.l.Swap) == 1:
		t = r.target(Ref{Kind: ByPath}, r.l.Swap[0].Device)
	case loose && f != nil:
		t = r.target(Ref{Kind: ByPath}, f.Device)
	case path != "" && slices.ContainsFunc(append(slices.Clone(r.l.Unsupported), r.l.LeftAlone...), func(u layout.Unsupported) bool { return u.What == path }):
		t.State = Left
	}
	return t
}

// Entry finds what an entry of fstab mounts or swaps to. What has neither a file
// system nor swap on it can't be mounted, and is missing. A file is where the file
// system is that it is in.
func (r *Resolver) Entry(e *FstabEntry) Target {
	ref := e.Ref()
	if ref.Kind == Network || HasOption(e.Options, "_netdev") && r.Find(ref).State == Missing {
		return Target{State: Foreign, Right: true}
	}
	t := r.At(ref, e.Path(), e.Swap())
	if t.State == Found && (t.Content == "" || t.Content == "LVM" || t.Content == "LUKS") {
		t.State = Missing
		if r.unsupported(t.Device) {
			t.State = Left
		}
	}
	if ref.Kind == File && r.away(ref.Value) {
		t = Target{State: Left}
	}
	for _, o := range []string{"lowerdir", "upperdir", "workdir"} {
		v, _ := Option(e.Options, o)
		for _, d := range strings.Split(v, ":") {
			if strings.HasPrefix(d, "/") && r.away(clean(d)) {
				t = Target{State: Left}
			}
		}
	}
	return t
}

// unsupported reports a device whose content could not be saved.
func (r *Resolver) unsupported(dev string) bool {
	return slices.ContainsFunc(r.l.Unsupported, func(u layout.Unsupported) bool { return u.Device == dev })
}

// away reports a path that was in a file system whose files were not restored.
func (r *Resolver) away(path string) bool {
	best, away := "", false
	for i := range r.l.Filesystems {
		f := &r.l.Filesystems[i]
		for _, m := range f.Mounts {
			if len(m.Path) > len(best) && (path == m.Path || strings.HasPrefix(path, strings.TrimSuffix(m.Path, "/")+"/")) {
				best, away = m.Path, !r.restored(f.Device) || f.Excluded != "" && path != m.Path
			}
		}
	}
	return away
}

// Crypt finds the device of an entry of crypttab. What may be LUKS must have it.
func (r *Resolver) Crypt(e *CrypttabEntry) Target {
	ref := ParseRef(e.Spec)
	if ref.Kind == Virtual { // "none" or a word of a keyscript
		return Target{State: Foreign, Right: true}
	}
	t := r.At(ref, "", false)
	if ref.Kind == File && r.away(ref.Value) {
		return Target{State: Left}
	}
	if t.State == Found && t.Content == "" && !e.Plain() {
		t.State = Left // it was not open, and what is on it could not be saved
	}
	return t
}

// Kernel finds what a kernel parameter or a command of GRUB names. UUIDs of file
// systems are not for a kernel without an initramfs.
func (r *Resolver) Kernel(k KernelRef) Target {
	t := r.kernel(k)
	if (k.Direct || r.direct) && t.Device != "" && (k.Param == "root" || k.Param == "resume") {
		t.Name = r.directName(t.Device)
	}
	return t
}

func (r *Resolver) kernel(k KernelRef) Target {
	found := func(ok bool) Target {
		if ok {
			return Target{State: Found, Right: true}
		}
		return Target{}
	}
	switch k.Form {
	case LUKSUUID:
		return found(r.hasLUKS(PlainUUID(strings.TrimPrefix(k.Text, "luks-"))))
	case ArrayID:
		return found(slices.ContainsFunc(r.l.Arrays, func(a layout.Array) bool { return PlainUUID(a.UUID) == PlainUUID(k.Text) && r.restored(a.Name) }))
	case VG:
		return found(slices.ContainsFunc(r.l.VolumeGroup, func(g layout.VolumeGroup) bool {
			return g.Name == k.Text && slices.ContainsFunc(g.LVs, func(v layout.LogicalVolume) bool { return r.restored(g.Name + "/" + v.Name) })
		}))
	case LV:
		return found(len(r.by[Path][k.Text]) > 0 && r.restored(k.Text))
	case FSUUID:
		return r.Find(Ref{Kind: UUID, Value: strings.ToLower(k.Text)})
	case FSLabel:
		return r.Find(Ref{Kind: Label, Value: k.Text})
	}
	switch k.Param {
	case "root", "real_root":
		return r.At(k.Ref, "/", false)
	case "mount.usr":
		return r.At(k.Ref, "/usr", false)
	case "boot":
		return r.At(k.Ref, "/boot", false)
	case "resume", "real_resume", "RESUME":
		return r.At(k.Ref, "", true)
	}
	return r.At(k.Ref, "", false)
}

// hasLUKS reports whether a LUKS device was restored whose UUID begins with id, as dracut
// takes it.
func (r *Resolver) hasLUKS(id string) bool {
	return id != "" && (slices.ContainsFunc(r.l.Crypts, func(c layout.Crypt) bool {
		return strings.HasPrefix(PlainUUID(c.UUID), id) && r.restored(c.Device)
	}) || slices.ContainsFunc(r.l.Images, func(i layout.Image) bool {
		return i.File != "" && strings.HasPrefix(PlainUUID(i.UUID), id) && r.restored(i.Device)
	}))
}
