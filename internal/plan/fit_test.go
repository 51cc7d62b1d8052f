package plan

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/lvmtext"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/superblock"
)

const (
	mib = quantity.MiB
	gib = quantity.GiB
)

// part is a partition of a machine for tests.
type part struct {
	size quantity.Size
	what string // "ext4 /home", "xfs /srv", "swap", "pv vg0", "esp", "bios", "raw"; "luks ..." of them
	used quantity.Size
}

type lvol struct {
	name, what string // "pool" for a thin pool, "thin POOL ext4 /srv" for a volume in one
	size, used quantity.Size
}

func uid(n int) string { return fmt.Sprintf("%08d-1111-4222-8333-444444444444", n) }
func lvmUID(n int) string {
	return fmt.Sprintf("aaaaaa-%04d-4567-89ab-cdef-0123-456789", n)
}

// machine makes a layout: disks of partitions, one after the other, and
// volume groups by name.
func machine(label string, sizes []quantity.Size, disks [][]part, groups map[string][]lvol) *layout.Layout {
	l := &layout.Layout{Version: layout.Version, Hostname: "h", Boot: layout.Boot{Firmware: layout.BIOS}}
	n := 0
	// crypt puts LUKS on a device.
	crypt := func(dev *string, what string, size *quantity.Size) string {
		rest, ok := strings.CutPrefix(what, "luks ")
		if ok {
			n++
			*size -= 16 * mib
			l.Crypts = append(l.Crypts, layout.Crypt{Name: fmt.Sprintf("c%d", n), Device: *dev, UUID: uid(n), Size: *size, LUKS: &superblock.LUKS{Version: 2, Cipher: "aes-xts-plain64", Hash: "sha256", KeySize: 512, SectorSize: 512, Offset: 16 << 20}})
			*dev = l.Crypts[len(l.Crypts)-1].Mapper()
		}
		return rest
	}
	content := func(dev, what string, size, used quantity.Size) {
		n++
		if strings.HasPrefix(what, "luks ") {
			what = crypt(&dev, what, &size)
		}
		kind, at, _ := strings.Cut(what, " ")
		fs := layout.Filesystem{Device: dev, Type: kind, UUID: uid(n), Size: size, Used: used, UsedInodes: int64(used) / 30000, Mounts: []layout.Mount{{Path: at}}}
		switch kind {
		case "ext4":
			fs.Ext = &fstype.Ext{BlockSize: 4096, ClusterSize: 4096, InodeSize: 256, Inodes: max(int64(size)/16384, 64), Reserved: int64(size) / 81920, FlexBG: 16, MaxMounts: -1, Errors: 1, JournalBlocks: 4096,
				Features: []string{"has_journal", "ext_attr", "resize_inode", "dir_index", "filetype", "extent", "64bit", "flex_bg", "sparse_super", "large_file", "huge_file", "dir_nlink", "extra_isize", "metadata_csum"}}
		case "xfs":
			fs.XFS = &fstype.XFS{BlockSize: 4096, SectorSize: 512, InodeSize: 512, DirBlock: 4096, AGCount: 4, LogBlocks: 16384, CRC: true, FType: true, FinoBT: true, Reflink: true, SparseIno: true, BigTime: true, InoBTCount: true}
		case "btrfs":
			fs.Btrfs = &fstype.Btrfs{NodeSize: 16384, SectorSize: 4096, Checksum: "crc32c", Features: []string{"extref", "skinny-metadata", "no-holes", "free-space-tree"}, Data: "single", Metadata: "dup", Devices: 1}
		case "esp":
			fs.Type, fs.UUID, fs.Mounts[0].Path = "vfat", "1234-5678", "/boot/efi"
			fs.VFAT = &fstype.VFAT{Bits: 32}
			l.Boot.Firmware, l.Boot.ESP = layout.UEFI, dev
		case "swap":
			l.Swap = append(l.Swap, layout.Swap{Device: dev, UUID: uid(n), Size: size, Active: true})
			return
		default:
			return
		}
		l.Filesystems = append(l.Filesystems, fs)
	}
	pvs := map[string][]layout.PhysicalVolume{}
	for i, parts := range disks {
		name := "sd" + letters(i)
		d := layout.Disk{Name: name, Serial: "OLD-" + name, Size: sizes[i], LogicalSector: 512, PhysicalSector: 512}
		if label != "" {
			d.Table = &layout.Table{Label: label, GUID: uid(900 + i), Signature: "0x12345678"}
		}
		at := mib
		for j, p := range parts {
			dev := name
			if d.Table != nil {
				q := layout.Partition{Number: j + 1, Start: at, Size: p.size, Type: "0x83"}
				if label == layout.GPT {
					q.Type, q.GUID = "0FC63DAF-8483-4772-8E79-3D69D8477DE4", uid(800+10*i+j)
					if p.what == "bios" {
						q.Type = layout.TypeBIOSBoot
					}
				}
				if label == layout.MBR && j >= 3 {
					if j == 3 {
						d.Table.Partitions = append(d.Table.Partitions, layout.Partition{Number: 4, Device: name + "4", Start: at, Size: sizes[i] - at, Type: "0x05"})
					}
					q.Number, q.EBR, q.Start = j+2, at, at+mib
					at += mib
				}
				q.Device = layout.PartitionName(name, q.Number)
				dev = q.Device
				d.Table.Partitions = append(d.Table.Partitions, q)
			}
			at += p.size
			if strings.HasPrefix(p.what, "luks ") {
				p.what = crypt(&dev, p.what, &p.size)
			}
			if vg, ok := strings.CutPrefix(p.what, "pv "); ok {
				n++
				pvs[vg] = append(pvs[vg], layout.PhysicalVolume{Device: dev, UUID: lvmUID(n), Size: p.size})
			} else {
				content(dev, p.what, p.size, p.used)
			}
		}
		l.Disks = append(l.Disks, d)
	}
	for _, name := range []string{"vg0", "vg1"} {
		lvs, ok := groups[name]
		if !ok {
			continue
		}
		n++
		g := layout.VolumeGroup{Name: name, UUID: lvmUID(n), ExtentSize: 4 * mib, PVs: pvs[name]}
		var c strings.Builder
		fmt.Fprintf(&c, "contents = \"Text Format Volume Group\"\nversion = 1\n%s {\n id = %q\n seqno = 4\n format = \"lvm2\"\n status = [\"RESIZEABLE\", \"READ\", \"WRITE\"]\n flags = []\n extent_size = 8192\n max_lv = 0\n max_pv = 0\n metadata_copies = 0\n physical_volumes {\n", name, g.UUID)
		for i, p := range g.PVs {
			fmt.Fprintf(&c, "  pv%d {\n id = %q\n device = \"/dev/%s\"\n status = [\"ALLOCATABLE\"]\n flags = []\n dev_size = %d\n pe_start = 2048\n pe_count = %d\n }\n", i, p.UUID, p.Device, p.Size/512, (p.Size-mib)/(4*mib))
		}
		c.WriteString(" }\n logical_volumes {\n")
		var free []extents
		for i, p := range g.PVs {
			free = append(free, extents{fmt.Sprint("pv", i), 0, int64((p.Size - mib) / (4 * mib))})
		}
		// volume writes one, with its extents from the first that are free.
		volume := func(name, id, status string, size quantity.Size, other string) {
			fmt.Fprintf(&c, "  %s {\n id = %q\n status = [\"READ\", \"WRITE\"%s]\n flags = []\n", name, id, status)
			if other != "" {
				fmt.Fprintf(&c, " segment_count = 1\n segment1 {\n start_extent = 0\n extent_count = %d\n %s\n }\n }\n", size/(4*mib), other)
				return
			}
			lv := &lvmtext.Section{}
			if err := place(lv, int64(size/(4*mib)), &free); err != nil {
				panic(fmt.Sprintf("%s/%s: %v", g.Name, name, err))
			}
			fmt.Fprintf(&c, "%s }\n", lv)
		}
		for _, v := range lvs {
			n++
			lv := layout.LogicalVolume{Name: v.name, UUID: lvmUID(n), Size: v.size}
			if f := strings.Fields(v.what); f[0] == "thin" {
				lv.Type, lv.Pool = layout.TypeThin, f[1]
				volume(v.name, lv.UUID, `, "VISIBLE"`, v.size, fmt.Sprintf("type = \"thin\"\n thin_pool = %q\n transaction_id = 0\n device_id = %d", lv.Pool, n))
			} else if f[0] == "pool" {
				lv.Type, lv.ThinPool = layout.TypeThinPool, &layout.ThinPool{Chunk: 128 * quantity.KiB, Metadata: 8 * mib, Zero: true, Discards: "passdown"}
				volume(v.name, lv.UUID, `, "VISIBLE"`, v.size, fmt.Sprintf("type = \"thin-pool\"\n metadata = \"%s_tmeta\"\n pool = \"%s_tdata\"\n transaction_id = 1\n chunk_size = 256\n discards = \"passdown\"\n zero_new_blocks = 1", v.name, v.name))
				for i, h := range []string{v.name + "_tdata", v.name + "_tmeta", "lvol0_pmspare"} {
					volume(h, lvmUID(n+300+i), "", []quantity.Size{v.size, 8 * mib, 8 * mib}[i], "")
				}
			} else {
				volume(v.name, lv.UUID, `, "VISIBLE"`, v.size, "")
			}
			g.LVs = append(g.LVs, lv)
		}
		c.WriteString(" }\n}\n")
		g.Config = c.String()
		l.VolumeGroup = append(l.VolumeGroup, g)
		for _, v := range lvs {
			if f := strings.SplitN(v.what, " ", 3); f[0] == "thin" {
				v.what = f[2]
			}
			content(name+"/"+v.name, v.what, v.size, v.used)
		}
	}
	return l
}

// letters are a disk's by its number: a, b, ... z, aa, ab.
func letters(i int) string {
	if i < 26 {
		return string(rune('a' + i))
	}
	return letters(i/26-1) + letters(i%26)
}

func onto(l *layout.Layout, sizes ...quantity.Size) Mapping {
	m := Mapping{}
	for i, s := range sizes {
		m[l.Disks[i].Name] = disk(fmt.Sprintf("vd%c", 'a'+i), "NEW", s)
	}
	return m
}

func sizesOf(l *layout.Layout) map[string]quantity.Size {
	out := map[string]quantity.Size{}
	for _, d := range l.Disks {
		if d.Table != nil {
			for _, p := range d.Table.Partitions {
				out[p.Device] = p.Size
			}
		}
	}
	for _, g := range l.VolumeGroup {
		for _, v := range g.LVs {
			out[g.Name+"/"+v.Name] = v.Size
		}
	}
	return out
}

func plain() *layout.Layout {
	return machine(layout.GPT, []quantity.Size{20 * gib}, [][]part{{{512 * mib, "esp", 0}, {12 * gib, "ext4 /", 3 * gib}, {gib, "swap", 0}, {6*gib + 400*mib, "xfs /home", gib}}}, nil)
}

func lvm() *layout.Layout {
	return machine(layout.GPT, []quantity.Size{40 * gib}, [][]part{{{mib, "bios", 0}, {gib, "ext4 /boot", 200 * mib}, {38 * gib, "pv vg0", 0}}},
		map[string][]lvol{"vg0": {{"root", "ext4 /", 12 * gib, 3 * gib}, {"home", "xfs /home", 20 * gib, 2 * gib}, {"swap", "swap", 2 * gib, 0}}})
}

// checkFit checks what must hold of any fitted layout.
func checkFit(t *testing.T, was, is *layout.Layout, exact bool) {
	t.Helper()
	if err := is.Validate(); err != nil {
		t.Errorf("not valid: %v", err)
	}
	for _, d := range is.Disks {
		if d.Table == nil || exact {
			continue
		}
		if n := Need(&d); n > d.Size {
			t.Errorf("%s needs %d of %d", d.Name, n, d.Size)
		}
		for _, p := range d.Table.Partitions {
			if p.Start%mib != 0 {
				t.Errorf("%s begins at %d", p.Device, p.Start)
			}
		}
	}
	for i := range is.Filesystems {
		f := &is.Filesystems[i]
		for _, dev := range f.Devs() {
			if size := sizeOf(is, dev); size < min(LeastOn(f), sizeOf(was, dev)) {
				t.Errorf("%s has %s, needs %s", dev, size, LeastOn(f))
			}
		}
	}
	for _, c := range is.Crypts {
		if size := sizeOf(is, c.Device); c.Size != size-quantity.Size(c.LUKS.Offset) {
			t.Errorf("%s has %s inside of %s", c.Name, c.Size, size)
		}
		for _, g := range is.VolumeGroup {
			for _, p := range g.PVs {
				if p.Device == c.Mapper() && p.Size != c.Size {
					t.Errorf("the physical volume on %s has %s of %s", c.Name, p.Size, c.Size)
				}
			}
		}
	}
	// All of it can be made, each thing after what it is on.
	m := Mapping{}
	for _, d := range is.Disks {
		m[d.Name] = Present{Disk: d}
	}
	pl, err := New(is, m)
	if err != nil {
		t.Errorf("cannot be planned: %v", err)
		return
	}
	made := map[string]bool{}
	for _, s := range pl.Steps {
		dev := s.Head().Device
		switch s := s.(type) {
		case *WriteTable:
			for _, p := range s.Table.Partitions {
				made[p.Device] = true
			}
		case *MakeArray:
			made[s.Device] = true
		case *MakeCrypt:
			if !made[s.Device] {
				t.Errorf("step %q comes before %s is there", s, s.Device)
			}
			made[s.Crypt.Mapper()] = true
		case *MakePV, *MakeFS, *MakeSwap:
			if is.Disk(dev) == nil && !made[dev] {
				t.Errorf("step %q comes before %s is there", s, dev)
			}
			made[dev] = true
		case *RestoreVG:
			for _, v := range is.Group(s.Group + "/x").LVs {
				made[s.Group+"/"+v.Name] = v.Pool == ""
			}
		case *MakeThin:
			for _, v := range is.Group(s.Group + "/x").LVs {
				made[s.Group+"/"+v.Name] = true
			}
		}
	}
	for i, g := range is.VolumeGroup {
		if g.Config != was.VolumeGroup[i].Config {
			checkExtents(t, &g)
		}
	}
}

// checkExtents: every volume has its extents, no extent belongs to two, none
// lies behind the end of its physical volume.
func checkExtents(t *testing.T, g *layout.VolumeGroup) {
	t.Helper()
	s, err := lvmtext.Parse(g.Config)
	if err != nil {
		t.Fatal(err)
	}
	vg := s.Get(g.Name)
	type run struct{ first, end int64 }
	taken := map[string][]run{}
	room := quantity.Size(0)
	for _, p := range vg.Get("physical_volumes").Sections() {
		k, _ := p.Int("pe_count")
		room += quantity.Size(k) * g.ExtentSize
	}
	for _, v := range g.LVs {
		if v.ThinPool != nil {
			room -= v.Size + 2*v.ThinPool.Metadata
		}
		if v.Pool == "" && v.ThinPool == nil {
			room -= v.Size
		}
		if lv := vg.Get("logical_volumes", v.Name); v.Pool != "" || v.ThinPool != nil {
			if lv != nil || vg.Get("logical_volumes", v.Name+"_tdata") != nil || vg.Get("logical_volumes", "lvol0_pmspare") != nil {
				t.Errorf("%s is among what vgcfgrestore makes", v.Name)
			}
			continue
		}
		lv := vg.Get("logical_volumes", v.Name)
		n := int64(0)
		segs := lv.Sections()
		if c, _ := lv.Int("segment_count"); int(c) != len(segs) {
			t.Errorf("%s: %d segments, says %d", v.Name, len(segs), c)
		}
		for _, seg := range segs {
			start, _ := seg.Int("start_extent")
			k, _ := seg.Int("extent_count")
			if start != n {
				t.Errorf("%s: a segment begins at %d, not %d", v.Name, start, n)
			}
			n += k
			pv, first := seg.List("stripes")[0].(string), seg.List("stripes")[1].(int64)
			count, _ := vg.Get("physical_volumes", pv).Int("pe_count")
			if first+k > count {
				t.Errorf("%s: extents %d to %d of %s, which has %d", v.Name, first, first+k, pv, count)
			}
			for _, o := range taken[pv] {
				if first < o.end && o.first < first+k {
					t.Fatalf("%s: extents %d to %d of %s are taken", v.Name, first, first+k, pv)
				}
			}
			taken[pv] = append(taken[pv], run{first, first + k})
		}
		if quantity.Size(n)*g.ExtentSize != v.Size {
			t.Errorf("%s has %d extents and %s", v.Name, n, v.Size)
		}
	}
	if room < 0 {
		t.Errorf("%s: %s too much is given away", g.Name, -room)
	}
}

func TestFit(t *testing.T) {
	for _, c := range []struct {
		name string
		l    *layout.Layout
		to   []quantity.Size
		wish Wish
		// want are sizes in MiB, at least and at most, by device.
		want map[string][2]quantity.Size
		err  string
	}{
		{"same", plain(), []quantity.Size{20 * gib}, Wish{}, map[string][2]quantity.Size{"sda2": {12288, 12288}, "sda4": {6544, 6544}}, ""},
		{"a bit larger: as it was", plain(), []quantity.Size{20*gib + 500*mib}, Wish{}, map[string][2]quantity.Size{"sda2": {12288, 12288}}, ""},
		{"60 %", plain(), []quantity.Size{12 * gib}, Wish{}, map[string][2]quantity.Size{"sda1": {512, 512}, "sda2": {3500, 8000}, "sda3": {1024, 1024}, "sda4": {1400, 4000}}, ""},
		{"200 %", plain(), []quantity.Size{40 * gib}, Wish{}, map[string][2]quantity.Size{"sda1": {512, 512}, "sda2": {20000, 28000}, "sda3": {1024, 1024}, "sda4": {10000, 16000}}, ""},
		{"200 %, sizes kept", plain(), []quantity.Size{40 * gib}, Wish{Keep: true}, map[string][2]quantity.Size{"sda2": {12288, 12288}, "sda4": {6544, 6544}}, ""},
		{"swap gives way", plain(), []quantity.Size{6*gib + 100*mib}, Wish{}, map[string][2]quantity.Size{"sda3": {256, 256}}, ""},
		{"too small", plain(), []quantity.Size{4 * gib}, Wish{}, nil, "sda2 (ext4 on /)"},
		{"wished", plain(), []quantity.Size{40 * gib}, Wish{Sizes: map[string]quantity.Size{"/": 10 * gib}}, map[string][2]quantity.Size{"sda2": {10240, 10240}, "sda4": {28000, 29000}}, ""},
		{"wished on the same disk", plain(), []quantity.Size{20 * gib}, Wish{Sizes: map[string]quantity.Size{"/": 5 * gib}}, map[string][2]quantity.Size{"sda2": {5120, 5120}, "sda4": {13500, 13720}}, ""},
		{"wished too large", plain(), []quantity.Size{20 * gib}, Wish{Sizes: map[string]quantity.Size{"/": 50 * gib}}, nil, "too small"},
		{"wished for nothing", plain(), []quantity.Size{20 * gib}, Wish{Sizes: map[string]quantity.Size{"/srv": 5 * gib}}, nil, "the layout has nothing there"},
		{"lvm, 60 %", lvm(), []quantity.Size{24 * gib}, Wish{}, map[string][2]quantity.Size{"sda1": {1, 1}, "sda2": {1024, 1024}, "vg0/root": {3500, 9000}, "vg0/home": {5000, 14000}, "vg0/swap": {2048, 2048}}, ""},
		{"lvm, 200 %", lvm(), []quantity.Size{80 * gib}, Wish{}, map[string][2]quantity.Size{"vg0/root": {18000, 30000}, "vg0/home": {35000, 50000}, "vg0/swap": {2048, 2048}}, ""},
		{"lvm, too small", lvm(), []quantity.Size{5 * gib}, Wish{}, nil, "vg0/home (xfs on /home)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Fit(c.l, onto(c.l, c.to...), c.wish)
			if c.err != "" {
				var r *exit.Refusal
				if !errors.As(err, &r) || !strings.Contains(err.Error(), c.err) {
					t.Fatalf("%v; want a refusal with %q", err, c.err)
				}
				t.Log(err)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			checkFit(t, c.l, got, c.to[0] < c.l.Disks[0].Size*21/20 && c.to[0] >= c.l.Disks[0].Size)
			have := sizesOf(got)
			for dev, w := range c.want {
				if s := have[dev] / mib; s < w[0] || s > w[1] {
					t.Errorf("%s has %d MiB; want %d to %d", dev, s, w[0], w[1])
				}
			}
		})
	}
}

// TestFitSame: on disks of the old size nothing changes, to the byte.
func TestFitSame(t *testing.T) {
	for _, l := range []*layout.Layout{plain(), lvm(), wanted()} {
		got, err := Fit(l, onto(l, l.Disks[0].Size), Wish{})
		if err != nil || !reflect.DeepEqual(sizesOf(got), sizesOf(l)) || len(got.VolumeGroup) > 0 && got.VolumeGroup[0].Config != l.VolumeGroup[0].Config {
			t.Errorf("%v: %v became %v", err, sizesOf(l), sizesOf(got))
		}
	}
}

// randomMachine makes a machine with up to three disks and two groups.
func randomMachine(r *rand.Rand) *layout.Layout {
	label := []string{layout.GPT, layout.MBR}[r.IntN(2)]
	size := func(lo, hi int64) quantity.Size { return quantity.Size(lo+r.Int64N(hi-lo)) * 4 * mib }
	used := func(s quantity.Size) quantity.Size { return mib + quantity.Size(r.Int64N(int64(s)*6/10)) }
	var disks [][]part
	var sizes []quantity.Size
	groups := map[string][]lvol{}
	mount := 0
	at := func() string { mount++; return fmt.Sprintf("/m%d", mount) }
	total := map[string]quantity.Size{}
	for range 1 + r.IntN(3) {
		var parts []part
		sum := 4 * mib
		for range 1 + r.IntN(6) {
			var p part
			switch r.IntN(6) {
			case 0:
				s := size(20, 300)
				p = part{s, "swap", 0}
			case 1, 2:
				p = part{size(200, 4000), "ext4 " + at(), 0}
			case 3:
				p = part{size(200, 4000), "xfs " + at(), 0}
			case 4:
				p = part{size(1000, 8000), "pv " + []string{"vg0", "vg1"}[r.IntN(2)], 0}
				total[p.what[3:]] += p.size - 8*mib
			case 5:
				p = part{size(1, 50), "raw", 0}
			}
			if !strings.HasPrefix(p.what, "pv") {
				p.used = used(p.size)
			}
			if r.IntN(4) == 0 && p.size > 200*mib && p.what != "raw" {
				p.what = "luks " + p.what
				if vg, ok := strings.CutPrefix(p.what, "luks pv "); ok {
					total[vg] -= 16 * mib
				}
			}
			parts = append(parts, p)
			sum += p.size + 2*mib
		}
		disks = append(disks, parts)
		sizes = append(sizes, sum+size(1, 500))
	}
	for vg, room := range total {
		room = room / (4 * mib) * (4 * mib)
		for i := 0; room > 900*mib && i < 5; i++ {
			s := 400*mib + quantity.Size(r.Int64N(int64(room-800*mib)))/(4*mib)*(4*mib)
			s = s / (4 * mib) * (4 * mib)
			groups[vg] = append(groups[vg], lvol{fmt.Sprintf("lv%d", i), []string{"ext4 ", "xfs ", "btrfs "}[r.IntN(3)] + at(), s, used(s)})
			room -= s
		}
		if len(groups[vg]) > 1 && r.IntN(3) == 0 { // the first becomes a pool of the others' like
			p := &groups[vg][0]
			p.what, p.size, p.used = "pool", max(p.size-16*mib, 300*mib), 0
			for i := range 1 + r.IntN(3) {
				s := size(100, 600)
				groups[vg] = append(groups[vg], lvol{fmt.Sprintf("thin%d", i), "thin lv0 ext4 " + at(), s, min(used(s), p.size/4)})
			}
		}
		if len(groups[vg]) > 0 && r.IntN(3) == 0 {
			v := &groups[vg][len(groups[vg])-1]
			if strings.HasPrefix(v.what, "ext4") {
				v.what = "luks " + v.what
			}
		}
		if groups[vg] == nil {
			groups[vg] = []lvol{{"lv0", "ext4 " + at(), 400 * mib, 4 * mib}}
		}
	}
	return machine(label, sizes, disks, groups)
}

// TestFitRandom: any machine on disks of any size is a valid layout in which
// everything has its least, or a refusal; it never refuses the old size, nor
// twice the least, and the more room there is, the more everything gets.
func TestFitRandom(t *testing.T) {
	if testing.Short() {
		t.Skip("takes long: not with -short")
	}
	r := rand.New(rand.NewPCG(5, 5))
	fitted, refused := 0, 0
	for n := range 400 {
		l := randomMachine(r)
		if err := l.Validate(); err != nil {
			t.Fatalf("machine %d: %v", n, err)
		}
		least := Minimum(l, Wish{})
		for _, percent := range []quantity.Size{30, 60, 90, 100, 150, 300} {
			m := Mapping{}
			exact := true
			enough := true
			for _, name := range l.Needed() {
				d := l.Disk(name)
				s := (d.Size*percent/100 + quantity.Size(r.Int64N(3))*512).AlignUp(512)
				m[name] = disk("v"+name, "N", s)
				exact = exact && s >= Need(d) && s <= d.Size*21/20
				enough = enough && s >= 2*least[name]
			}
			got, err := Fit(l, m, Wish{})
			var ref *exit.Refusal
			switch {
			case err == nil:
				fitted++
				checkFit(t, l, got, exact)
			case !errors.As(err, &ref):
				t.Errorf("machine %d, %d %%: %v", n, percent, err)
			case percent == 100 || percent > 100 && enough:
				t.Errorf("machine %d, %d %%: refused: %v", n, percent, err)
			default:
				refused++
			}
			if t.Failed() {
				t.Logf("machine %d at %d %%: %v became %v", n, percent, sizesOf(l), sizesOf(got))
				return
			}
		}
	}
	if fitted < 600 || refused < 60 {
		t.Errorf("%d fitted, %d refused: the machines are not what they should be", fitted, refused)
	}
	t.Logf("%d fitted, %d refused", fitted, refused)
}

// TestLeast has mke2fs make file systems of the least size, filled by debugfs'
// way of copying: what was used fits.
func TestLeast(t *testing.T) {
	if testing.Short() {
		t.Skip("takes long: not with -short")
	}
	if _, err := exec.LookPath("mke2fs"); err != nil {
		t.Skip("mke2fs is not installed; make test installs it")
	}
	for _, c := range []struct {
		name  string
		files int
		size  int
	}{{"many small", 6000, 3000}, {"few large", 4, 40 << 20}, {"empty files", 9000, 0}} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			src := filepath.Join(dir, "src")
			b := make([]byte, c.size)
			for i := range c.files {
				sub := filepath.Join(src, fmt.Sprint(i%50))
				if err := os.MkdirAll(sub, 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(sub, fmt.Sprint(i)), b, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			blocks := (c.size + 4095) / 4096
			f := &layout.Filesystem{Device: "x", Type: "ext4", UUID: uid(1), Size: 20 * gib, Used: quantity.Size(c.files*blocks*4096 + 60*8192), UsedInodes: int64(c.files) + 62, Mounts: []layout.Mount{{Path: "/"}}, Geometry: plain().Filesystems[1].Geometry}
			least := Least(f)
			img := filepath.Join(dir, "img")
			if err := os.WriteFile(img, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(img, int64(least)); err != nil {
				t.Fatal(err)
			}
			run, err := Mkfs(f, img, least)
			if err != nil {
				t.Fatal(err)
			}
			a := append([]string{}, run[0][:len(run[0])-1]...)
			if out, err := exec.Command(a[0], append(a[1:], "-d", src, img)...).CombinedOutput(); err != nil {
				t.Errorf("%d files of %d bytes do not fit on %s: %v\n%s", c.files, c.size, least, err, out)
			}
		})
	}
}

// BenchmarkFit plans for 100 disks with 1,000 volumes.
func BenchmarkFit(b *testing.B) {
	var disks [][]part
	var sizes []quantity.Size
	groups := map[string][]lvol{}
	for i := range 100 {
		vg := "vg0"
		if i >= 50 {
			vg = "vg1"
		}
		disks = append(disks, []part{{100 * gib, "pv " + vg, 0}})
		sizes = append(sizes, 101*gib)
		for j := range 10 {
			groups[vg] = append(groups[vg], lvol{fmt.Sprintf("lv%d_%d", i, j), fmt.Sprintf("xfs /m%d_%d", i, j), 9 * gib, gib})
		}
	}
	l := machine(layout.GPT, sizes, disks, groups)
	var have []Present
	for i := range l.Disks {
		have = append(have, disk("vd"+letters(i), "N"+letters(i), 60*gib))
	}
	var wish Wish
	for _, h := range have {
		wish.Confirmed = append(wish.Confirmed, h.Serial)
	}
	for b.Loop() {
		m, err := MapDisks(l, have, wish)
		if err != nil {
			b.Fatal(err)
		}
		f, err := Fit(l, m, wish)
		if err != nil {
			b.Fatal(err)
		}
		p, err := New(f, m)
		if err != nil {
			b.Fatal(err)
		}
		if p.Digest(); len(p.Steps) < 2000 {
			b.Fatal(len(p.Steps))
		}
	}
}

// raid gives a machine with an array over one partition of each of n disks,
// and a file system on it.
func raid(n int, level string, chunk quantity.Size) *layout.Layout {
	var sizes []quantity.Size
	var disks [][]part
	a := layout.Array{Name: "md0", Label: "h:root", UUID: "01234567:89abcdef:01234567:89abcdef", Level: level, Metadata: "1.2", Devices: n, Chunk: chunk, Data: mib, Bitmap: level != "raid0"}
	if level == "raid5" {
		a.Layout = 2
	}
	if level == "raid10" {
		a.Layout = 0x102
	}
	for i := range n {
		sizes = append(sizes, 10*gib)
		disks = append(disks, []part{{mib, "bios", 0}, {8 * gib, "raw", 0}})
		a.Members = append(a.Members, layout.Member{Device: fmt.Sprintf("sd%c2", 'a'+i), Role: i})
	}
	l := machine(layout.GPT, sizes, disks, nil)
	each := 8*gib - mib
	k, copies := a.Shares()
	a.Size = each * quantity.Size(k) / quantity.Size(copies)
	if level != "raid0" {
		a.Part = each
	}
	l.Arrays = []layout.Array{a}
	fs := plain().Filesystems[1]
	fs.Device, fs.Size, fs.Used = "md0", a.Size, 2*gib
	l.Filesystems = []layout.Filesystem{fs}
	return l
}

// TestFitArrays: members shrink and grow with what is on the array, and
// mdadm is told of it.
func TestFitArrays(t *testing.T) {
	for _, c := range []struct {
		level  string
		n      int
		chunk  quantity.Size
		layout string
	}{{"raid1", 2, 0, ""}, {"raid0", 3, 512 * quantity.KiB, ""}, {"raid5", 4, 64 * quantity.KiB, "--layout=left-symmetric"}, {"raid6", 5, 512 * quantity.KiB, "--layout=left-asymmetric"}, {"raid10", 4, 512 * quantity.KiB, "--layout=n2"}} {
		l := raid(c.n, c.level, c.chunk)
		if err := l.Validate(); err != nil {
			t.Fatal(c.level, err)
		}
		for _, to := range []quantity.Size{6 * gib, 10 * gib, 20 * gib} {
			var sizes []quantity.Size
			for range c.n {
				sizes = append(sizes, to)
			}
			m := onto(l, sizes...)
			got, err := Fit(l, m, Wish{})
			if err != nil {
				t.Errorf("%s on %s: %v", c.level, to, err)
				continue
			}
			checkFit(t, l, got, to == 10*gib)
			was, is := l.Arrays[0], got.Arrays[0]
			k, copies := is.Shares()
			_, member := got.Partition("sda2")
			most := (member.Size - mib) * quantity.Size(k) / quantity.Size(copies)
			if is.Size > most || is.Size < most-quantity.Size(k)*2*mib || (to == 10*gib) != (is.Size == was.Size) || (to > 10*gib) != (is.Size > was.Size) {
				t.Errorf("%s on %s: array of %s on members of %s, was %s", c.level, to, is.Size, member.Size, was.Size)
			}
			p, err := New(got, m)
			if err != nil {
				t.Fatal(err)
			}
			cmd := strings.Join(first[*MakeArray](t, p).Run[0], " ")
			for _, w := range []string{"--level=" + c.level[4:], fmt.Sprintf("--raid-devices=%d", c.n), "--homehost=h --name=root", "--uuid=" + was.UUID, "--data-offset=1024", c.layout, "/dev/vda2 /dev/vdb2"} {
				if !strings.Contains(cmd, w) {
					t.Errorf("%s: no %q in %s", c.level, w, cmd)
				}
			}
			if (c.level == "raid0") == strings.Contains(cmd, "--size=") {
				t.Errorf("%s: %s", c.level, cmd)
			}
		}
	}
	l := raid(2, "raid1", 0)
	if _, err := Fit(l, onto(l, 10*gib, 2*gib), Wish{}); err == nil || !strings.Contains(err.Error(), "sdb2 (raid1 md0: ext4 on /)") {
		t.Errorf("one of two disks too small: %v", err)
	}
	// A degraded array is made as it was.
	l.Arrays[0].Members = l.Arrays[0].Members[1:]
	if c := strings.Join(Mdadm(&l.Arrays[0]), " "); !strings.HasSuffix(c, " missing /dev/sdb2") {
		t.Error(c)
	}
	l.Arrays[0].Members[0].Role = 2
	if err := l.Validate(); err == nil || !strings.Contains(err.Error(), "has place 2 of 2") {
		t.Errorf("a wrong place: %v", err)
	}
}

// TestFitStriped: a striped volume stays that, side by side on its disks; one
// with RAID volumes keeps every size, and only that.
func TestFitStriped(t *testing.T) {
	l := machine(layout.GPT, []quantity.Size{10 * gib, 10 * gib}, [][]part{{{3 * gib, "ext4 /", gib}, {6 * gib, "pv vg0", 0}}, {{9 * gib, "pv vg0", 0}}},
		map[string][]lvol{"vg0": {{"plain", "ext4 /plain", 5 * gib, gib}, {"fast", "xfs /fast", 6 * gib, gib}}})
	g := &l.VolumeGroup[0]
	g.LVs[1].Type = "striped"
	s, err := lvmtext.Parse(g.Config)
	if err != nil {
		t.Fatal(err)
	}
	free := []extents{{"pv0", 0, 1535}, {"pv1", 0, 2303}}
	linear(s.Get("vg0", "logical_volumes", "plain"), 1280, &free[1])
	if err := placeStriped(s.Get("vg0", "logical_volumes", "fast"), 1536, 2, 128, free); err != nil {
		t.Fatal(err)
	}
	g.Config = s.String()
	for _, to := range []quantity.Size{6 * gib, 30 * gib} {
		got, err := Fit(l, onto(l, to, to), Wish{})
		if err != nil {
			t.Fatal(err)
		}
		s, err := lvmtext.Parse(got.VolumeGroup[0].Config)
		if err != nil {
			t.Fatal(err)
		}
		seg := s.Get("vg0", "logical_volumes", "fast", "segment1")
		n, _ := seg.Int("extent_count")
		k, _ := seg.Int("stripe_size")
		if list := seg.List("stripes"); len(list) != 4 || list[0] == list[2] || k != 128 || quantity.Size(n)*4*mib != got.VolumeGroup[0].LVs[1].Size || n%2 != 0 {
			t.Errorf("on %s: %v, %d extents", to, list, n)
		}
	}
	g.LVs[1].Type = "raid1"
	got, err := Fit(l, onto(l, 20*gib, 20*gib), Wish{})
	if err != nil {
		t.Fatal(err)
	}
	if a, b := sizesOf(l), sizesOf(got); b["sda2"] != a["sda2"] || b["vg0/fast"] != a["vg0/fast"] || b["sda1"] <= a["sda1"] || got.VolumeGroup[0].Config != g.Config {
		t.Errorf("%v became %v", a, b)
	}
	if _, err := Fit(l, onto(l, 20*gib, 8*gib), Wish{}); err == nil || !strings.Contains(err.Error(), "LVM with RAID volumes") {
		t.Errorf("a disk too small for them: %v", err)
	}
	if _, err := Fit(l, onto(l, 20*gib, 20*gib), Wish{Sizes: map[string]quantity.Size{"/plain": gib}}); err == nil || !strings.Contains(err.Error(), "keeps its sizes") {
		t.Errorf("another size wished for: %v", err)
	}
}

// TestTwoConfirmed: two blank disks that were both confirmed are mapped, two
// that were not are a question.
func TestTwoConfirmed(t *testing.T) {
	l := raid(2, "raid1", 0)
	have := []Present{disk("vdc", "N2", 10*gib), disk("vdb", "N1", 10*gib), disk("vdd", "N3", 10*gib)}
	if _, err := MapDisks(l, have, Wish{}); err == nil {
		t.Error("two of three blank disks were chosen")
	}
	m, err := MapDisks(l, have, Wish{Confirmed: []string{"N1", "N2"}})
	if err != nil || m["sda"].Name != "vdb" || m["sdb"].Name != "vdc" {
		t.Errorf("%v, %v", m, err)
	}
	have[0].Size = 20 * gib
	l.Disks[1].Size, l.Disks[1].Table.Partitions[1].Size = 18*gib, 16*gib
	if m, err = MapDisks(l, have, Wish{Confirmed: []string{"N1", "N2"}}); err != nil || m["sdb"].Name != "vdc" {
		t.Errorf("the larger disk to the larger: %v, %v", m, err)
	}
	// The second one needs more, and the boot loader is on the first: a BIOS does not
	// start when they change places.
	l = raid1()
	l.Disks[1].Table.Partitions[0].Size, l.Filesystems[0].Used = 9*gib, 200*mib
	l.Disks[0].Table.Partitions[1].Size = 6 * gib
	have = []Present{busy(disk("sda", "SET", 2*gib), "it holds the backup set"), disk("sdaa", "N2", 10*gib), disk("sdz", "N1", 10*gib)}
	for _, c := range [][]string{{"N1", "N2"}, {"N2", "N1"}} {
		if m, err = MapDisks(l, have, Wish{Confirmed: c}); err != nil || m["sda"].Serial != c[0] || m["sdb"].Serial != c[1] {
			t.Errorf("equal disks, confirmed in the order %v, change places: %v, %v", c, m, err)
		}
	}
	// In their order they do not fit.
	l = raid(2, "raid1", 0)
	l.Disks[0].Size, l.Disks[1].Size = 10*gib, 11*gib
	l.Disks[0].Table.Partitions[1].Size = 9 * gib
	have = []Present{disk("vdb", "N1", 8*gib), disk("vdc", "N2", 10*gib)}
	if m, err = MapDisks(l, have, Wish{Keep: true, Confirmed: []string{"N1", "N2"}}); err == nil && (m["sda"].Size < Need(&l.Disks[0]) || m["sdb"].Size < Need(&l.Disks[1])) {
		t.Errorf("the one that needs more got the smaller: %v", m)
	}
}

// raid1 is a btrfs over two disks with subvolumes.
func raid1() *layout.Layout {
	l := machine(layout.GPT, []quantity.Size{10 * gib, 10 * gib}, [][]part{{{256 * mib, "esp", 0}, {9 * gib, "btrfs /", 4 * gib}}, {{9 * gib, "raw", 0}}}, nil)
	fs := &l.Filesystems[1]
	fs.Others, fs.Btrfs.Data, fs.Btrfs.Metadata, fs.Btrfs.Devices, fs.Size = []string{"sdb1"}, "raid1", "raid1", 2, 18*gib
	fs.Subvolumes = []layout.Subvolume{{Path: "@", Default: true}, {Path: "@/var/x"}, {Path: "@home"}}
	fs.Mounts = []layout.Mount{{Path: "/", Subvolume: "@"}, {Path: "/home", Subvolume: "@home"}, {Path: "/bind", Subvolume: "@home"}}
	return l
}

func TestBtrfs(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mkfs.btrfs looks into loop devices: needs root")
	}
	l := raid1()
	if got := l.Needed(); len(got) != 2 {
		t.Fatalf("needs %v", got)
	}
	is, err := Fit(l, onto(l, 7*gib, 7*gib), Wish{})
	if err != nil {
		t.Fatal(err)
	}
	checkFit(t, l, is, false)
	if _, err := Fit(l, onto(l, 10*gib, 4*gib), Wish{}); err == nil || !strings.Contains(err.Error(), "sdb1") {
		t.Errorf("a second disk without room for the copies: %v", err)
	}
	p, err := New(is, onto(l, 7*gib, 7*gib))
	if err != nil {
		t.Fatal(err)
	}
	var text []string
	for _, s := range p.Steps {
		b, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(b), `"fsType":"btrfs"`) {
			text = append(text, s.String())
			if !strings.Contains(string(b), `"others":["vdb1"]`) {
				t.Errorf("%s: the other device is missing in %s", s, b)
			}
		}
	}
	want := []string{"make btrfs on /dev/vda2 and vdb1, UUID " + uid(2), "make 3 subvolumes on /dev/vda2: @, @/var/x, @home", "mount subvolume @ of /dev/vda2 on /", "mount subvolume @home of /dev/vda2 on /home"}
	if strings.Join(text, "\n") != strings.Join(want, "\n") {
		t.Errorf("steps:\n%s", strings.Join(text, "\n"))
	}
	if got := l.Filesystems[1].Inner(layout.Mount{Subvolume: "@"}); len(got) != 1 || got[0] != "var/x" {
		t.Errorf("in @ lie %v", got)
	}
	// The program takes the command line, and its file system is what was wanted.
	dir := t.TempDir()
	var devs []string
	for _, n := range []string{"a", "b"} {
		f := filepath.Join(dir, n)
		if err := os.WriteFile(f, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(f, 600<<20); err != nil {
			t.Fatal(err)
		}
		devs = append(devs, f)
	}
	run, err := Mkfs(&is.Filesystems[1], devs[0], 600*mib)
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(run[0][0], append(run[0][1:], devs[1])...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", run, err, out)
	}
	f, err := os.Open(devs[1])
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	i, err := superblock.Probe(f, 600<<20)
	if err != nil || i.Btrfs == nil || i.UUID != uid(2) || i.Btrfs.Devices != 2 || strings.Join(i.Btrfs.Features, ",") != "extref,skinny-metadata,no-holes,free-space-tree" {
		t.Errorf("%+v %v", i, err)
	}
	// It can't become what has no subvolumes, and others can become it.
	if _, err := Convert(l, map[string]string{"/": "ext4"}); err == nil || !strings.Contains(err.Error(), "2 subvolumes are mounted") {
		t.Errorf("to ext4: %v", err)
	}
	c, err := Convert(plain(), map[string]string{"/home": "btrfs"})
	if err != nil || c.Mounted("/home").Btrfs == nil || c.Mounted("/home").XFS != nil || c.Validate() != nil {
		t.Errorf("to btrfs: %v", err)
	}
}

func TestThinAndLUKS(t *testing.T) {
	l := machine(layout.GPT, []quantity.Size{20 * gib}, [][]part{{{512 * mib, "ext4 /boot", 90 * mib}, {19 * gib, "luks pv vg0", 0}}},
		map[string][]lvol{"vg0": {{"root", "ext4 /", 5 * gib, 2 * gib}, {"pool", "pool", 6 * gib, 0}, {"home", "thin pool xfs /home", 20 * gib, 2 * gib}, {"srv", "thin pool luks ext4 /srv", 3 * gib, gib}}})
	l.VolumeGroup[0].Snapshots = []string{"old"}
	if err := l.Validate(); err != nil {
		t.Fatal(err)
	}
	for _, size := range []quantity.Size{20 * gib, 12 * gib, 100 * gib} {
		is, err := Fit(l, onto(l, size), Wish{Sizes: map[string]quantity.Size{}})
		if err != nil {
			t.Fatal(err)
		}
		checkFit(t, l, is, size == 20*gib)
		got := sizesOf(is)
		if got["vg0/home"] != 20*gib || got["vg0/srv"] != 3*gib {
			t.Errorf("on %s thin volumes have other sizes: %v", size, got)
		}
		if size == 100*gib && got["vg0/pool"] < 12*gib || size == 12*gib && got["vg0/pool"] > 5*gib {
			t.Errorf("on %s the pool has %s", size, got["vg0/pool"])
		}
	}
	is, err := Fit(l, onto(l, 20*gib), Wish{Sizes: map[string]quantity.Size{"/home": 30 * gib}})
	if err != nil || sizesOf(is)["vg0/home"] != 30*gib {
		t.Errorf("a wish: %v", err)
	}
	var ref *exit.Refusal
	if _, err := Fit(l, onto(l, 6*gib), Wish{}); !errors.As(err, &ref) || !strings.Contains(err.Error(), "thin pool") {
		t.Errorf("too small: %v", err)
	}
	p, err := New(l, onto(l, 20*gib))
	if err != nil {
		t.Fatal(err)
	}
	var text []string
	for _, s := range p.Steps {
		text = append(text, s.Head().Kind+" "+s.Head().Device)
		if s, ok := s.(*MakeThin); ok {
			for _, r := range s.Run {
				text = append(text, "  "+strings.Join(r, " "))
			}
		}
	}
	want := `write-table vda
make-luks vda2
make-pv mapper/c2
restore-vg mapper/c2
make-thin vg0
  lvm lvcreate -y --type thin-pool -L 6442450944b --poolmetadatasize 8388608b -c 131072b -Z y --discards passdown -n pool vg0
  lvm lvcreate -y -W n -V 21474836480b --thinpool pool -n home vg0
  lvm lvcreate -y -W n -V 3221225472b --thinpool pool -n srv vg0
make-luks vg0/srv
make-fs vda1
make-fs vg0/root
make-fs vg0/home
make-fs mapper/c13
mount vg0/root
mount vda1
mount vg0/home
mount mapper/c13`
	if got := strings.Join(text, "\n"); got != want {
		t.Errorf("steps:\n%s", got)
	}
}

// TestFitLargerAsWas: a disk that is larger is never too small, whatever its file systems
// are reckoned to need.
func TestFitLargerAsWas(t *testing.T) {
	const disk = 64 * quantity.MiB
	l := &layout.Layout{Version: layout.Version, Boot: layout.Boot{Firmware: layout.BIOS},
		Disks: []layout.Disk{{Name: "sda", Size: disk, LogicalSector: 512, PhysicalSector: 512, Table: &layout.Table{Label: layout.GPT, GUID: "01234567-89AB-CDEF-0123-456789ABCDEF",
			Partitions: []layout.Partition{{Number: 1, Device: "sda1", Start: quantity.MiB, Size: 50 * quantity.MiB, Type: "0FC63DAF-8483-4772-8E79-3D69D8477DE4", GUID: "11234567-89AB-CDEF-0123-456789ABCDEF"}}}}},
		Filesystems: []layout.Filesystem{{Device: "sda1", Type: "ext4", UUID: uid(1), Size: 50 * quantity.MiB, Used: 45 * quantity.MiB, UsedInodes: 100, Geometry: plain().Filesystems[1].Geometry}}}
	for _, size := range []quantity.Size{64, 67, 69, 72, 74, 75, 80, 128, 1000} {
		var p Present
		p.Name, p.Size, p.LogicalSector = "sdb", size*quantity.MiB, 512
		out, err := Fit(l, Mapping{"sda": p}, Wish{})
		if err != nil {
			t.Errorf("%d MiB: %v", size, err)
		} else if got := out.Disks[0].Table.Partitions[0].Size; got < 50*quantity.MiB {
			t.Errorf("%d MiB: the partition has %s", size, got)
		}
	}
	var p Present
	p.Name, p.Size, p.LogicalSector = "sdb", 40*quantity.MiB, 512
	if _, err := Fit(l, Mapping{"sda": p}, Wish{}); err == nil {
		t.Error("40 MiB: not refused")
	}
}
