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

	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
)

// Present is a disk of the machine to be restored.
type Present = layout.Present

// Refused is what cannot be planned safely.
type Refused = exit.Refusal

// Undecided is a refusal for several disks, or none, may take an old one's place.
type Undecided struct {
	exit.Refusal
	Old   layout.Disk
	Least quantity.Size // that the new one must have
	Among []Present
}

func (u *Undecided) Unwrap() error { return &u.Refusal }

func refuse(format string, args ...any) error {
	return &exit.Refusal{Reason: fmt.Sprintf(format, args...)}
}

// Wish is what the administrator said about disks.
type Wish struct {
	Map map[string]string // name in the layout -> name of a present disk
	// Sizes are wished for by mount point, or device for swap, in bytes.
	Sizes map[string]quantity.Size
	// Types are wished for by mount point; see Convert.
	Types map[string]string
	// Exclude are disks of the layout that are left alone, with all that is on
	// them; see Exclude.
	Exclude []string
	// Mirror are disks that get a second one, Unmirror takes RAID1 away; see there.
	Mirror   []string
	Unmirror bool
	// Firmware is that of the machine to be restored, layout.UEFI or layout.BIOS; "" is
	// that of the old one. See ForFirmware.
	Firmware string
	// NewLUKS recreates LUKS devices even where the set has their headers.
	NewLUKS bool
	// Keep has every partition and volume keep its size, whatever the disks.
	Keep bool
	// Confirmed are serial numbers, WWNs or paths of slots of disks that may be
	// overwritten; see Identify.
	Confirmed []string
}

// Mapping maps names of disks in the layout to present disks.
type Mapping map[string]Present

// MapDisks finds a present disk for every disk the layout needs: named by the
// administrator; the same WWN; the same serial number; the only one of the
// same model and size; among those confirmed by serial number; or the only
// disk that is left and large enough, which then has to be confirmed. What
// can't be decided is refused with all candidates.
func MapDisks(want *layout.Layout, have []Present, w Wish) (Mapping, error) {
	m := &mapper{want: want, have: layout.Identify(have), wish: w, out: Mapping{}, taken: map[string]bool{}, least: Minimum(want, w), needed: len(want.Needed())}
	var open []*layout.Disk
	for _, n := range want.Needed() {
		d := want.Disk(n)
		if d == nil {
			return nil, fmt.Errorf("cannot map disks: %s is not in the layout", n)
		}
		open = append(open, d)
	}
	for old := range w.Map {
		if !slices.ContainsFunc(open, func(d *layout.Disk) bool { return d.Name == old }) {
			return nil, refuse("--map %s: the layout needs no disk of that name", old)
		}
	}
	for _, find := range []func(*layout.Disk) ([]Present, error){m.named, m.sameWWN, m.sameSerial, m.sameModel, m.confirmed, m.onlyOne} {
		var rest []*layout.Disk
		for _, d := range open {
			c, err := find(d)
			if err != nil {
				return nil, err
			}
			if len(c) != 1 {
				rest = append(rest, d)
				continue
			}
			if err := m.take(d, c[0]); err != nil {
				return nil, err
			}
		}
		open = rest
	}
	open, err := m.allConfirmed(open)
	if err != nil {
		return nil, err
	}
	if len(open) > 0 {
		return nil, m.undecided(open)
	}
	return m.out, nil
}

type mapper struct {
	want  *layout.Layout
	have  []Present
	wish  Wish
	out   Mapping
	taken map[string]bool
	least map[string]quantity.Size // of the disks, by name
	// needed is how many disks the layout wants.
	needed int
}

func (m *mapper) pick(ok func(Present) bool) []Present {
	var out []Present
	for _, p := range m.have {
		if !m.taken[p.Name] && ok(p) {
			out = append(out, p)
		}
	}
	return out
}

func (m *mapper) named(d *layout.Disk) ([]Present, error) {
	n, ok := m.wish.Map[d.Name]
	if !ok {
		return nil, nil
	}
	n = strings.TrimPrefix(n, "/dev/")
	c := m.pick(func(p Present) bool { return p.Name == n || p.Is(n) })
	if len(c) == 0 { // several have it: that is said below
		c = m.pick(func(p Present) bool { return n != "" && (p.Serial == n || p.WWN == n) })
	}
	if len(c) != 1 || c[0].Name != n && !c[0].Is(n) {
		return nil, refuse("--map %s=%s: %d disks answer to that name", d.Name, n, len(c))
	}
	return c, nil
}

func (m *mapper) sameWWN(d *layout.Disk) ([]Present, error) {
	if m.several(func(x layout.Disk) bool { return x.WWN == d.WWN }) {
		return nil, nil
	}
	return m.pick(func(p Present) bool { return p.WWN == d.WWN && p.Is(d.WWN) }), nil
}

// several tells whether more than one of the old machine's disks are meant.
func (m *mapper) several(same func(layout.Disk) bool) bool {
	n := 0
	for _, x := range m.want.Disks {
		if same(x) {
			n++
		}
	}
	return n > 1
}

func (m *mapper) sameSerial(d *layout.Disk) ([]Present, error) {
	if m.several(func(x layout.Disk) bool { return x.Serial == d.Serial }) {
		return nil, nil
	}
	return m.pick(func(p Present) bool { return p.Serial == d.Serial && p.Model == d.Model && p.Is(d.Serial) }), nil
}

// sameModel counts only if neither side has two of them, and neither has a
// serial number that says otherwise.
func (m *mapper) sameModel(d *layout.Disk) ([]Present, error) {
	same := func(x layout.Disk) bool { return x.Model != "" && x.Model == d.Model && x.Size == d.Size }
	if m.several(same) || !same(*d) || d.Serial != "" {
		return nil, nil
	}
	return m.pick(func(p Present) bool { return same(p.Disk) && p.Serial == "" }), nil
}

func (m *mapper) free(d *layout.Disk) []Present {
	return m.pick(func(p Present) bool {
		return p.Busy == "" && p.Size >= m.least[d.Name] && (p.LogicalSector == d.LogicalSector || checkSector(m.want, d, p) == nil)
	})
}

func (m *mapper) confirmed(d *layout.Disk) ([]Present, error) {
	if m.unmapped() > 1 {
		return nil, nil // which of them goes where would be a guess
	}
	var out []Present
	for _, p := range m.pick(func(Present) bool { return true }) {
		if p.Is(m.wish.Confirmed...) {
			out = append(out, p)
		}
	}
	return out, nil
}

// allConfirmed maps what is left when just as many disks were confirmed: the
// largest gets the largest, and among equals the first one goes to the disk that was
// confirmed first, for a BIOS starts one of them, and the kernel's names change.
// Where that does not fit, the one that needs most gets the largest. All of them
// are overwritten whichever goes where.
func (m *mapper) allConfirmed(open []*layout.Disk) ([]*layout.Disk, error) {
	c := m.pick(func(p Present) bool { return p.Is(m.wish.Confirmed...) })
	if len(open) < 2 || len(c) != len(open) {
		return open, nil
	}
	said := func(p Present) int {
		return slices.IndexFunc(m.wish.Confirmed, func(s string) bool { return p.Is(s) })
	}
	slices.SortStableFunc(c, func(a, b Present) int {
		return cmp.Or(cmp.Compare(b.Size, a.Size), cmp.Compare(said(a), said(b)), byName(a.Name, b.Name))
	})
	slices.SortStableFunc(open, func(a, b *layout.Disk) int { return cmp.Or(cmp.Compare(b.Size, a.Size), byName(a.Name, b.Name)) })
	for i, d := range open {
		if c[i].Size < m.least[d.Name] {
			slices.SortStableFunc(open, func(a, b *layout.Disk) int { return cmp.Compare(m.least[b.Name], m.least[a.Name]) })
			break
		}
	}
	for i, d := range open {
		if err := m.take(d, c[i]); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// byName sorts "sdz" before "sdaa".
func byName(a, b string) int {
	return cmp.Or(cmp.Compare(len(a), len(b)), strings.Compare(a, b))
}

func (m *mapper) unmapped() int { return m.needed - len(m.out) }

func (m *mapper) onlyOne(d *layout.Disk) ([]Present, error) {
	if m.unmapped() > 1 || len(m.wish.Confirmed) > 0 {
		return nil, nil
	}
	return m.free(d), nil
}

func (m *mapper) take(d *layout.Disk, p Present) error {
	if p.Busy != "" {
		return refuse("%s would be overwritten with %s, but %s", p.Target(), d.Name, p.Busy)
	}
	if p.LogicalSector != d.LogicalSector {
		if err := checkSector(m.want, d, p); err != nil {
			return err
		}
	}
	if p.Size < m.least[d.Name] {
		return m.tooSmall(d, p)
	}
	m.out[d.Name] = p
	m.taken[p.Name] = true
	return nil
}

// tooSmall says what d needs, part by part.
func (m *mapper) tooSmall(d *layout.Disk, p Present) error {
	if m.wish.Keep {
		return refuse("the target is too small\n  %-24s %s\n  %-24s %s", "needed for "+d.Name, Need(d), "there on /dev/"+p.Name, p.Size)
	}
	f := &fitter{l: m.want, wish: m.wish, swapShare: 1, size: map[string]quantity.Size{}}
	if err := f.shares(); err != nil {
		return err
	}
	items := []*item{f.item(d.Name, d.Size)}
	if d.Table != nil {
		items = f.items(d)
	}
	return f.refuseDisk(d, p.Size, items)
}

func (m *mapper) undecided(open []*layout.Disk) error {
	var b strings.Builder
	b.WriteString("it is not clear which disk is to be overwritten\n")
	for _, d := range open {
		fmt.Fprintf(&b, "  wanted: %s, at least %s\n", d.Target(), m.least[d.Name])
	}
	for _, p := range m.have {
		why := p.Busy
		switch {
		case m.taken[p.Name]:
			why = "is mapped already"
		case why == "" && p.Size < m.least[open[0].Name]:
			why = "too small"
		case why == "" && p.LogicalSector != open[0].LogicalSector && checkSector(m.want, open[0], p) != nil:
			why = fmt.Sprintf("its sectors have %d bytes", p.LogicalSector)
		case why == "":
			why = "possible; say --map " + open[0].Name + "=" + p.Name
		}
		fmt.Fprintf(&b, "  there:  %s: %s\n", p.Target(), why)
	}
	return &Undecided{Refusal: exit.Refusal{Reason: strings.TrimRight(b.String(), "\n")}, Old: *open[0], Least: m.least[open[0].Name], Among: m.free(open[0])}
}

// Need is the least size of a disk that d's table fits on: the end of the
// last partition, and for GPT the copy of the table behind it.
func Need(d *layout.Disk) quantity.Size {
	if d.Table == nil {
		return d.Size
	}
	end := quantity.Size(0)
	for _, p := range d.Table.Partitions {
		end = max(end, p.Start+p.Size)
	}
	return end + tableTail(d)
}

// Confirms tells whether a disk's serial number or WWN is among those said.
// A disk without either can't be confirmed this way; see Identify for disks that
// others may have the same of.
func Confirms(said []string, d layout.Disk) bool {
	return d.Serial != "" && slices.Contains(said, d.Serial) || d.WWN != "" && slices.Contains(said, d.WWN)
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

// Word is what a person types to confirm the disk, "" when nothing tells it from others.
func (d Disk) Word() string {
	if len(d.Words) == 0 {
		return ""
	}
	return d.Words[0]
}

// Ask says for a prompt what Word is: "its serial number (X)".
func (d Disk) Ask() string {
	switch w := d.Word(); w {
	case "":
		return "what nothing tells: it cannot be confirmed"
	case d.New.Serial:
		return "its serial number (" + w + ")"
	case d.New.WWN:
		return "its WWN (" + w + ")"
	default:
		return "the path of its slot (" + w + ")"
	}
}

// Is tells whether the disk is confirmed by one of the words.
func (d Disk) Is(said ...string) bool { return Present{Words: d.Words}.Is(said...) }

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

// New is Make for a layout that needs no changes, on disks that were chosen.
func New(want *layout.Layout, m Mapping) (*Plan, error) { return newPlan(want, m, raw{}) }

// newPlan is New for a layout of which some is copied byte by byte.
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
		if size := sizeOf(want, m.Device); size < m.Size {
			return nil, refuse("%s was saved block by block, and needs the %s that it had; it would get %s", m.Device, m.Size, size)
		}
		p.putImage(want, m, dev)
	}
	p.mounts(want)
	return p, nil
}

// Copied tells whether the file system on a device of the layout is copied block by
// block, and has its files by that.
func (p *Plan) Copied(dev string) bool { return p.raw.blocks[dev] != "" }

// putImage adds the step that writes a device block by block.
func (p *Plan) putImage(want *layout.Layout, m *layout.Image, dev string) {
	s := &PutImage{Device: dev, Image: m, How: p.raw.blocks[m.Device], Size: sizeOf(want, m.Device)}
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
// they may lie on one another in any order.
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

// LUKSFormat is the command line that recreates a LUKS device; the key comes
// from standard input.
func LUKSFormat(c *layout.Crypt, dev string) []string {
	k := c.LUKS
	a := []string{"cryptsetup", "luksFormat", "--batch-mode", "--type", "luks" + num(k.Version), "--cipher", k.Cipher, "--key-size", num(k.KeySize), "--hash", k.Hash, "--uuid", c.UUID, "--key-file", "-"}
	if k.Version == 2 {
		a = append(a, "--sector-size", num(k.SectorSize), "--offset", num(k.Offset/512))
		if c.Label != "" {
			a = append(a, "--label", c.Label)
		}
	} else {
		a = append(a, "--align-payload", num(k.Offset/512))
	}
	return append(a, dev)
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

func (p *Plan) disk(d *layout.Disk, t Present) error {
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

// fits tells whether boot code leaves a table and its partitions alone.
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
		p.Steps = append(p.Steps, &MakeThin{Group: g.Name, Volumes: thin, Run: Lvcreate(g)})
	}
	return nil
}

// Lvcreate gives the command lines that make a group's thin pools and volumes:
// vgcfgrestore(8) can't bring back what a pool has in its metadata.
func Lvcreate(g *layout.VolumeGroup) [][]string {
	var out [][]string
	for _, v := range g.LVs {
		t := v.ThinPool
		if t == nil {
			continue
		}
		zero := "n"
		if t.Zero {
			zero = "y"
		}
		a := []string{"lvm", "lvcreate", "-y", "--type", "thin-pool", "-L", num(v.Size) + "b", "--poolmetadatasize", num(t.Metadata) + "b", "-c", num(t.Chunk) + "b", "-Z", zero}
		if t.Discards != "" {
			a = append(a, "--discards", t.Discards)
		}
		out = append(out, append(a, "-n", v.Name, g.Name))
	}
	for _, v := range g.LVs {
		if v.Pool != "" {
			out = append(out, []string{"lvm", "lvcreate", "-y", "-W", "n", "-V", num(v.Size) + "b", "--thinpool", v.Pool, "-n", v.Name, g.Name})
		}
	}
	return out
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
	p.Steps = append(p.Steps, &MakeArray{Device: a.Name, Array: &b, Run: [][]string{Mdadm(&b)}})
	return nil
}

// Mdadm gives the command line that makes an array, of the devices that it
// names.
func Mdadm(a *layout.Array) []string {
	c := []string{"mdadm", "--create", "/dev/" + a.Name, "--run", "--force", "--level=" + strings.TrimPrefix(a.Level, "raid"), "--raid-devices=" + num(a.Devices), "--metadata=" + a.Metadata, "--uuid=" + a.UUID}
	if a.Label != "" {
		// "host:name" is a name and the host that it belongs to.
		if host, name, ok := strings.Cut(a.Label, ":"); ok && host != "" {
			c = append(c, "--homehost="+host, "--name="+name)
		} else {
			c = append(c, "--homehost=none", "--name="+a.Label)
		}
	}
	if a.Chunk > 0 {
		c = append(c, "--chunk="+num(a.Chunk/quantity.KiB))
	}
	if w := layoutName(a); w != "" {
		c = append(c, "--layout="+w)
	}
	if a.Part > 0 {
		c = append(c, "--size="+num(a.Part/quantity.KiB))
	}
	if a.Metadata == "1.1" || a.Metadata == "1.2" {
		c = append(c, "--data-offset="+num(a.Data/quantity.KiB))
	}
	if a.Bitmap {
		c = append(c, "--bitmap=internal")
	} else if a.Part > 0 {
		c = append(c, "--bitmap=none")
	}
	if len(a.Spares) > 0 {
		c = append(c, "--spare-devices="+num(len(a.Spares)))
	}
	devs := make([]string, a.Devices)
	for i := range devs {
		devs[i] = "missing"
	}
	for _, m := range a.Members {
		devs[m.Role] = "/dev/" + m.Device
	}
	c = append(c, devs...)
	for _, s := range a.Spares {
		c = append(c, "/dev/"+s)
	}
	return c
}

// layoutName is the word that mdadm has for a layout number; md(4).
func layoutName(a *layout.Array) string {
	switch a.Level {
	case "raid5", "raid6":
		names := []string{"left-asymmetric", "right-asymmetric", "left-symmetric", "right-symmetric", "parity-first", "parity-last"}
		if a.Layout >= 0 && a.Layout < len(names) {
			return names[a.Layout]
		}
	case "raid10":
		near, far := a.Layout&0xff, a.Layout>>8&0xff
		switch {
		case a.Layout>>16&1 != 0:
			return "o" + num(far)
		case far > 1:
			return "f" + num(far)
		case near > 0:
			return "n" + num(near)
		}
	}
	return ""
}

// sizeOf is the size of the device that carries a file system.
func sizeOf(l *layout.Layout, dev string) quantity.Size {
	if _, q := l.Partition(dev); q != nil {
		return q.Size
	}
	if a := l.Array(dev); a != nil {
		return a.Size
	}
	if c := l.Crypt(dev); c != nil {
		return c.Size
	}
	if g := l.Group(dev); g != nil {
		for _, v := range g.LVs {
			if g.Name+"/"+v.Name == dev {
				return v.Size
			}
		}
	}
	if d := l.Disk(dev); d != nil {
		return d.Size
	}
	return 0
}

// SizeOf is the size of a device of this machine once the plan was carried out, 0 for
// one that is not the plan's.
func (p *Plan) SizeOf(dev string) quantity.Size {
	for old, to := range p.Devices {
		if to == dev {
			return sizeOf(p.Layout, old)
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
		if size := sizeOf(want, f.Device); size < f.Size {
			return refuse("%s cannot be copied block by block: its file system has %s, and it would get %s", f.Device, f.Size, size)
		}
		p.putImage(want, &layout.Image{Device: f.Device, Type: f.Type, UUID: f.UUID, Label: f.Label, Size: f.Size, File: f.Device}, dev)
		return nil
	}
	for _, d := range f.Devs() {
		if least, size := mkfsLeast(f), sizeOf(want, d); size < least {
			return refuse("%s is too small for %s: its program makes none on less than %s, and there are %s", d, f.Type, least, size)
		}
	}
	run, err := Mkfs(f, "/dev/"+dev, sizeOf(want, f.Device))
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

// mounts come last, parents first.
func (p *Plan) mounts(want *layout.Layout) {
	var steps []*MountFS
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
	grown := map[string]bool{}
	for _, s := range steps {
		p.Steps = append(p.Steps, s)
		if size := sizeOf(want, s.FS.Device); p.raw.blocks[s.FS.Device] != "" && size > s.FS.Size+quantity.MiB && fstype.Of(s.FS.Type).Grow != nil && !grown[s.Device] {
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

// Check confirms that every disk the plan destroys was named.
func (p *Plan) Check(confirmed []string) error {
	var errs []error
	for _, d := range p.Disks {
		switch {
		case d.Word() == "":
			errs = append(errs, refuse("%s cannot be confirmed: nothing tells it from the other disks", d.New.Target()))
		case !d.Is(confirmed...):
			errs = append(errs, refuse("%s is not among the disks that were confirmed (it is confirmed by %s)", d.New.Target(), strings.Join(d.Words, " or ")))
		}
	}
	return errors.Join(errs...)
}
