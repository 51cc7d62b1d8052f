// Package plan turns a wanted layout and the disks that are there into an
// ordered list of steps. It is pure: it opens nothing, runs nothing, and
// never guesses a disk.
package plan

import (
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/commands"
	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
)

func refuse(format string, args ...any) error {
	return &exit.Refusal{Reason: fmt.Sprintf(format, args...)}
}

// Wish is what the administrator said about disks.
type Wish struct {
	Map map[string]string // name in the layout -> name of a present disk
	// Sizes are wished for by mount point, or device for swap, in bytes.
	Sizes map[string]quantity.Size
	// Types are wished for by mount point; see convert.
	Types map[string]string
	// Exclude are disks of the layout that are left alone, with all that is on
	// them; see exclude.
	Exclude []string
	// Mirror are disks that get a second one, Unmirror takes RAID1 away; see mirror and unmirror.
	Mirror   []string
	Unmirror bool
	// Firmware is that of the machine to be restored, layout.UEFI or layout.BIOS; "" is
	// that of the old one. See forFirmware.
	Firmware string
	// NewLUKS recreates LUKS devices even where the set has their headers.
	NewLUKS bool
	// Keep has every partition and volume keep its size, on disks of any size.
	Keep bool
	// Confirmed are serial numbers, WWNs or paths of slots of disks that may be
	// overwritten; see Identify.
	Confirmed []string
}

// Disk is a disk the plan overwrites.
type Disk struct {
	Old  string      `json:"old"`
	New  layout.Disk `json:"new"`
	Now  string      `json:"now"`  // what is on it
	Then string      `json:"then"` // what will be
	// Place and Words are as in Present: no part of what the plan makes.
	Place layout.Place `json:"-"`
	Words []string     `json:"-"`
}

// Word is what a person types to confirm the disk, "" when nothing distinguishes it from others.
func (d Disk) Word() string {
	if len(d.Words) == 0 {
		return ""
	}
	return d.Words[0]
}

// Ask is the text of a prompt for Word: "its serial number (X)".
func (d Disk) Ask() string {
	switch w := d.Word(); w {
	case "":
		return "nothing that identifies it: it cannot be confirmed"
	case d.New.Serial:
		return "its serial number (" + w + ")"
	case d.New.WWN:
		return "its WWN (" + w + ")"
	default:
		return "the path of its slot (" + w + ")"
	}
}

// Is reports whether the disk is confirmed by one of the words.
func (d Disk) Is(said ...string) bool { return layout.Present{Words: d.Words}.Is(said...) }

// Plan is what restore will do.
type Plan struct {
	// Layout is what will be there: the set's, fitted to these disks.
	Layout  *layout.Layout    `json:"-"`
	Disks   []Disk            `json:"disks"`
	Devices map[string]string `json:"devices"` // layout's names -> target's
	Steps   []Step            `json:"steps"`

	mapping Mapping
	raw     raw
}

// raw is what is copied to disks byte by byte.
type raw struct {
	blocks map[string]string    // devices of the layout whose blocks are copied, with what is said of it
	boot   map[string]*BootCode // of disks of the layout
	grow   map[string]bool      // those of blocks that are images to be grown
	number map[string]bool      // those of blocks that get the layout's UUID
}

// BootCode is what a BIOS starts from a disk, beside its partitions.
type BootCode struct {
	// Sector is the code in the first sector, before the table: up to 440 bytes.
	Sector []byte
	// Gap is what follows the first sector, before the first partition of an MBR disk.
	Gap []byte
}

// Digest identifies the plan, for the journal. What is on the disks now is no
// part of it, nor what the kernel calls them: a disk that went away and came
// back may have another name.
func (p *Plan) Digest() string {
	short := *p
	if p.mapping != nil {
		m := Mapping{}
		for old, t := range p.mapping {
			if id := cmp.Or(t.WWN, t.Serial); id != "" {
				t.Name = "id-" + id
			}
			m[old] = t
		}
		if q, err := newPlan(p.Layout, m, p.raw); err == nil { // as it did before
			short = *q
		}
	}
	short.Disks = slices.Clone(short.Disks)
	for i := range short.Disks {
		short.Disks[i].Now = ""
	}
	// A group's text is in the step of each of its physical volumes.
	short.Steps = slices.Clone(short.Steps)
	sum, last := "", ""
	shorten := func(config string) string {
		if config != "" && config != last {
			last, sum = config, fmt.Sprintf("%x", sha256.Sum256([]byte(config)))
		}
		if config == "" {
			return ""
		}
		return sum
	}
	for i, s := range short.Steps {
		switch s := s.(type) {
		case *MakePV:
			c := *s
			c.Config = shorten(c.Config)
			short.Steps[i] = &c
		case *RestoreVG:
			c := *s
			c.Config = shorten(c.Config)
			short.Steps[i] = &c
		}
	}
	b, err := json.Marshal(&short)
	if err != nil {
		panic("plan: internal error: " + err.Error())
	}
	return fmt.Sprintf("%x", sha256.Sum256(b))
}

// newPlan returns the steps that bring a layout onto the disks that were chosen for it, with what is copied byte by
// byte.
func newPlan(want *layout.Layout, m Mapping, r raw) (*Plan, error) {
	p := &Plan{Layout: want, Devices: map[string]string{}, mapping: m, raw: r}
	for _, old := range want.Needed() {
		t, ok := m[old]
		if !ok {
			return nil, fmt.Errorf("cannot plan: disk %s is not mapped", old)
		}
		if err := p.disk(want.Disk(old), t); err != nil {
			return nil, err
		}
	}
	if err := p.stack(want); err != nil {
		return nil, err
	}
	for i := range want.Filesystems {
		if err := p.filesystem(want, &want.Filesystems[i]); err != nil {
			return nil, err
		}
	}
	for i := range want.Swap {
		s := &want.Swap[i]
		if dev, ok := p.Devices[s.Device]; ok {
			p.Steps = append(p.Steps, &MakeSwap{Device: dev, Swap: s})
		}
	}
	for i := range want.Images {
		m := &want.Images[i]
		dev, ok := p.Devices[m.Device]
		if !ok || m.File == "" {
			continue
		}
		if size := want.SizeOf(m.Device); size < m.Size {
			return nil, refuse("%s was saved block by block, and needs the %s that it had; it would get %s", m.Device, m.Size, size)
		}
		p.putImage(want, m, dev)
	}
	p.mounts(want)
	return p, nil
}

// Copied reports whether the file system on a device of the layout is copied block by
// block, and has its files by that.
func (p *Plan) Copied(dev string) bool { return p.raw.blocks[dev] != "" }

// putImage adds the step that writes a device block by block.
func (p *Plan) putImage(want *layout.Layout, m *layout.Image, dev string) {
	s := &PutImage{Device: dev, Image: m, How: p.raw.blocks[m.Device], Size: want.SizeOf(m.Device)}
	if _, q := want.Partition(m.Device); q != nil {
		s.Start = q.Start
	}
	if p.raw.grow[m.Device] && s.Size > m.Size {
		s.Run = [][]string{append(slices.Clone(fstype.Of(m.Type).GrowBy), "/dev/"+dev)}
	}
	if p.raw.number[m.Device] {
		s.UUID = m.UUID
		s.Run = Renumber(m.Type, m.UUID, "/dev/"+dev)
	}
	p.Steps = append(p.Steps, s)
}

// Renumber gives the commands that give the unmounted file system on a device another UUID;
// nil for a type for which none are known.
func Renumber(fsType, uuid, dev string) [][]string {
	if t := fstype.Of(fsType); t.Renumber != nil {
		return t.Renumber(uuid, dev)
	}
	return nil
}

// stack plans arrays, LUKS and groups, each when what it is on is there:
// they may be on one another in any order.
func (p *Plan) stack(want *layout.Layout) error {
	done := map[any]bool{}
	for {
		again := false
		try := func(key any, devs []string, make func() error) error {
			if done[key] || slices.ContainsFunc(devs, func(d string) bool { return p.Devices[d] == "" }) {
				return nil
			}
			done[key], again = true, true
			return make()
		}
		for i := range want.Arrays {
			a := &want.Arrays[i]
			if err := try(a, a.Devs(), func() error { return p.array(a) }); err != nil {
				return err
			}
		}
		for i := range want.Crypts {
			c := &want.Crypts[i]
			if err := try(c, []string{c.Device}, func() error { p.crypt(c); return nil }); err != nil {
				return err
			}
		}
		for i := range want.VolumeGroup {
			g := &want.VolumeGroup[i]
			var devs []string
			for _, v := range g.PVs {
				devs = append(devs, v.Device)
			}
			if err := try(g, devs, func() error { return p.group(g) }); err != nil {
				return err
			}
		}
		if !again {
			break
		}
	}
	// An array or group on a needed disk and on one that is not has nothing on it that is
	// to be restored, or all its disks would be needed: it is left out.
	return nil
}

// crypt brings back a LUKS device and opens it.
func (p *Plan) crypt(c *layout.Crypt) {
	p.Devices[c.Mapper()] = c.Mapper()
	p.Steps = append(p.Steps, &MakeCrypt{Device: p.Devices[c.Device], Crypt: c})
}

func ident(uuid, label string) string {
	s := ""
	if uuid != "" {
		s += ", UUID " + uuid
	}
	if label != "" {
		s += ", label " + label
	}
	return s
}

func (p *Plan) disk(d *layout.Disk, t layout.Present) error {
	p.Devices[d.Name] = t.Name
	pd := Disk{Old: d.Name, New: t.Disk, Now: t.Holds, Then: "a file system", Place: t.Place, Words: t.Confirmations()}
	pd.New.Table = nil
	if d.Table != nil {
		if d.LogicalSector != t.LogicalSector {
			return refuse("%s has sectors of %d bytes, and the table of %s is for sectors of %d", t.Target(), t.LogicalSector, d.Name, d.LogicalSector)
		}
		if err := CheckTable(d.Table, d.LogicalSector, t.Size); err != nil {
			return refuse("the partition table of %s cannot be written to %s:\n%v", d.Name, t.Target(), err)
		}
		tab := *d.Table
		tab.Partitions = slices.Clone(d.Table.Partitions)
		for i := range tab.Partitions {
			q := &tab.Partitions[i]
			name := layout.PartitionName(t.Name, q.Number)
			p.Devices[q.Device] = name
			q.Device = name
		}
		s := &WriteTable{Device: t.Name, Table: &tab, Sector: d.LogicalSector, Disk: t.Disk, Boot: p.raw.boot[d.Name], Old: d.Name}
		if s.Boot != nil {
			if err := s.Boot.fits(&tab, d.LogicalSector); err != nil {
				return refuse("the boot code of %s cannot be written to %s: %v", d.Name, t.Target(), err)
			}
		}
		pd.Then = s.holds()
		p.Steps = append(p.Steps, s)
	}
	p.Disks = append(p.Disks, pd)
	return nil
}

// fits reports whether boot code leaves a table and its partitions alone.
func (b *BootCode) fits(t *layout.Table, sector quantity.Size) error {
	if len(b.Sector) > 440 {
		return fmt.Errorf("it has %d bytes, and there is room for 440", len(b.Sector))
	}
	if len(b.Gap) == 0 {
		return nil
	}
	if t.Label != layout.MBR {
		return errors.New("there is no room behind the first sector of a GPT disk")
	}
	for _, q := range t.Partitions {
		if q.Start < sector+quantity.Size(len(b.Gap)) {
			return fmt.Errorf("partition %d begins in it", q.Number)
		}
	}
	return nil
}

func tableName(label string) string {
	if label == layout.GPT {
		return "GPT"
	}
	return "MBR"
}

func (p *Plan) group(g *layout.VolumeGroup) error {
	config, err := Thinless(g)
	if err != nil {
		return err
	}
	if err := checkGroup(p.Layout, g, config); err != nil {
		return refuse("volume group %s cannot be made again:\n%v", g.Name, err)
	}
	for _, pv := range g.PVs {
		p.Steps = append(p.Steps, &MakePV{Device: p.Devices[pv.Device], Group: g.Name, UUID: pv.UUID, Config: config})
	}
	var names, thin []string
	for _, v := range g.LVs {
		p.Devices[g.Name+"/"+v.Name] = g.Name + "/" + v.Name
		if v.ThinPool != nil || v.Pool != "" {
			thin = append(thin, v.Name)
		} else {
			names = append(names, v.Name)
		}
	}
	p.Steps = append(p.Steps, &RestoreVG{Device: p.Devices[g.PVs[0].Device], Group: g.Name, Config: config, Volumes: names})
	if len(thin) > 0 {
		p.Steps = append(p.Steps, &MakeThin{Group: g.Name, Volumes: thin, Run: commands.Lvcreate(g)})
	}
	return nil
}

// array makes a RAID array of the devices that its members are now.
func (p *Plan) array(a *layout.Array) error {
	b := *a
	b.Members, b.Spares = slices.Clone(a.Members), slices.Clone(a.Spares)
	for i := range b.Members {
		b.Members[i].Device = p.Devices[b.Members[i].Device]
	}
	for i := range b.Spares {
		b.Spares[i] = p.Devices[b.Spares[i]]
	}
	p.Devices[a.Name] = a.Name
	p.Steps = append(p.Steps, &MakeArray{Device: a.Name, Array: &b, Run: [][]string{commands.Mdadm(&b)}})
	return nil
}

// SizeOf is the size of a device of this machine once the plan was carried out, 0 for
// one that is not the plan's.
func (p *Plan) SizeOf(dev string) quantity.Size {
	for old, to := range p.Devices {
		if to == dev {
			return p.Layout.SizeOf(old)
		}
	}
	return 0
}

func (p *Plan) filesystem(want *layout.Layout, f *layout.Filesystem) error {
	dev, ok := p.Devices[f.Device]
	if !ok {
		return nil
	}
	if p.raw.blocks[f.Device] != "" {
		if size := want.SizeOf(f.Device); size < f.Size {
			return refuse("%s cannot be copied block by block: its file system has %s, and it would get %s", f.Device, f.Size, size)
		}
		p.putImage(want, &layout.Image{Device: f.Device, Type: f.Type, UUID: f.UUID, Label: f.Label, Size: f.Size, File: f.Device}, dev)
		return nil
	}
	for _, d := range f.Devs() {
		if least, size := mkfsLeast(f), want.SizeOf(d); size < least {
			return refuse("%s is too small for %s: its program makes none on less than %s, and there are %s", d, f.Type, least, size)
		}
	}
	run, err := commands.Mkfs(f, "/dev/"+dev, want.SizeOf(f.Device))
	if err != nil {
		return err
	}
	var others []string
	for _, o := range f.Others {
		to, ok := p.Devices[o]
		if !ok {
			return fmt.Errorf("cannot plan: the btrfs on %s is on %s too, which is not mapped", f.Device, o)
		}
		others = append(others, to)
		run[0] = append(run[0], "/dev/"+to)
	}
	p.filesystemOn(f, dev, others, run)
	return nil
}

// filesystemOn adds the steps that make a file system and its subvolumes.
func (p *Plan) filesystemOn(f *layout.Filesystem, dev string, others []string, run [][]string) {
	p.Steps = append(p.Steps, &MakeFS{Device: dev, Others: others, FS: f, Run: run})
	if len(f.Subvolumes) > 0 {
		subs := slices.Clone(f.Subvolumes)
		slices.SortStableFunc(subs, func(a, b layout.Subvolume) int { return strings.Compare(a.Path, b.Path) }) // parents first
		p.Steps = append(p.Steps, &MakeSubs{Device: dev, Others: others, Subs: subs})
	}
}

// mountSteps mount what is in use, parents first.
func (p *Plan) mountSteps(want *layout.Layout) (steps []*MountFS) {
	for i := range want.Filesystems {
		f := &want.Filesystems[i]
		dev, ok := p.Devices[f.Device]
		if !ok || !f.InUse() || f.Excluded != "" {
			continue
		}
		var others []string
		for _, o := range f.Others {
			others = append(others, p.Devices[o])
		}
		for _, m := range f.Parts() {
			steps = append(steps, &MountFS{Device: dev, Others: others, FS: f, Mount: &m})
		}
	}
	slices.SortFunc(steps, func(a, b *MountFS) int { return strings.Compare(a.Mount.Path, b.Mount.Path) })
	return steps
}

// mounts come last, with what needs a mounted file system.
func (p *Plan) mounts(want *layout.Layout) {
	steps := p.mountSteps(want)
	grown := map[string]bool{}
	for _, s := range steps {
		p.Steps = append(p.Steps, s)
		if size := want.SizeOf(s.FS.Device); p.raw.blocks[s.FS.Device] != "" && size > s.FS.Size+quantity.MiB && fstype.Of(s.FS.Type).Grow != nil && !grown[s.Device] {
			grown[s.Device] = true
			p.Steps = append(p.Steps, &GrowFS{Device: s.Device, FS: s.FS, Mount: s.Mount, Size: size})
		}
	}
	for i := range want.SwapFiles {
		s := &want.SwapFiles[i]
		for _, m := range steps {
			if m.Mount.Path == s.Mount && p.raw.blocks[m.FS.Device] == "" { // there with the rest
				p.Steps = append(p.Steps, &MakeSwapFile{Device: m.Device, FSType: m.FS.Type, SwapFile: s})
			}
		}
	}
}

// Confirmable refuses disks that nothing distinguishes from others, before anybody is asked about them.
func (p *Plan) Confirmable() error {
	var errs []error
	for _, d := range p.Disks {
		if d.Word() == "" {
			errs = append(errs, refuse("%s cannot be confirmed: it has neither a serial number nor a WWN, and its slot has no path, so that nothing distinguishes it from the other disks", d.New.Target()))
		}
	}
	return errors.Join(errs...)
}

// Check confirms that every disk the plan destroys was named.
func (p *Plan) Check(confirmed []string) error {
	errs := []error{p.Confirmable()}
	for _, d := range p.Disks {
		if d.Word() != "" && !d.Is(confirmed...) {
			errs = append(errs, refuse("%s is not among the disks that were confirmed (it is confirmed by %s)", d.New.Target(), strings.Join(d.Words, " or ")))
		}
	}
	return errors.Join(errs...)
}
