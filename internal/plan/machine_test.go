package plan

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/lvmtext"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/superblock"
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

// steps plans a layout that needs no changes, on disks that were chosen.
func steps(l *layout.Layout, m Mapping) (*Plan, error) {
	return (&Draft{Layout: l, Disks: m}).Plan()
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
			if size := is.SizeOf(dev); size < min(LeastOn(f), was.SizeOf(dev)) {
				t.Errorf("%s has %s, needs %s", dev, size, LeastOn(f))
			}
		}
	}
	for _, c := range is.Crypts {
		if size := is.SizeOf(c.Device); c.Size != size-quantity.Size(c.LUKS.Offset) {
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
		m[d.Name] = layout.Present{Disk: d}
	}
	pl, err := steps(is, m)
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

// raid1 is a btrfs over two disks with subvolumes.
func raid1() *layout.Layout {
	l := machine(layout.GPT, []quantity.Size{10 * gib, 10 * gib}, [][]part{{{256 * mib, "esp", 0}, {9 * gib, "btrfs /", 4 * gib}}, {{9 * gib, "raw", 0}}}, nil)
	fs := &l.Filesystems[1]
	fs.Others, fs.Btrfs.Data, fs.Btrfs.Metadata, fs.Btrfs.Devices, fs.Size = []string{"sdb1"}, "raid1", "raid1", 2, 18*gib
	fs.Subvolumes = []layout.Subvolume{{Path: "@", Default: true}, {Path: "@/var/x"}, {Path: "@home"}}
	fs.Mounts = []layout.Mount{{Path: "/", Subvolume: "@"}, {Path: "/home", Subvolume: "@home"}, {Path: "/bind", Subvolume: "@home"}}
	return l
}
