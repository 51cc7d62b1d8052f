package recreate

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/gpt"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/mbr"
	"github.com/mkcdrec/mkcdrec/internal/plan"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/superblock"
	"github.com/mkcdrec/mkcdrec/internal/uuid"
)

const mib = quantity.MiB

// world makes random machines by the programs that make real ones.
type world struct {
	*rand.Rand
	t   *testing.T
	dir string
	l   *layout.Layout
	n   int
}

func (w *world) uuid() string { w.n++; return uuid.From(fmt.Sprint(w.n, w.Int64())) }

func pick[T any](w *world, of ...T) T { return of[w.IntN(len(of))] }

// sparse makes a sparse file.
func (w *world) sparse(name string, size quantity.Size) string {
	f := filepath.Join(w.dir, name)
	if err := errors.Join(os.WriteFile(f, nil, 0o600), os.Truncate(f, int64(size))); err != nil {
		w.t.Fatal(err)
	}
	return f
}

// mkfs makes a file system with random options in a file, and gives what the probe sees;
// nil where the program takes no such options, or is not there.
func (w *world) mkfs(size quantity.Size, sector quantity.Size) *superblock.Info {
	var args []string
	switch w.IntN(8) {
	case 0, 1, 2:
		args = []string{"mke2fs", "-q", "-F", "-t", pick(w, "ext2", "ext3", "ext4", "ext4"), "-b", pick(w, "1024", "2048", "4096", "4096")}
		if w.IntN(3) == 0 {
			args = append(args, "-i", pick(w, "2048", "8192", "65536", "1048576"))
		}
		if w.IntN(4) == 0 {
			args = append(args, "-I", pick(w, "128", "256", "512"))
		}
		if w.IntN(3) == 0 {
			args = append(args, "-O", pick(w, "^has_journal", "bigalloc", "inline_data", "^resize_inode", "sparse_super2", "^flex_bg", "quota", "casefold", "meta_bg,^resize_inode", "^64bit", "mmp", "metadata_csum_seed", "encrypt", "^metadata_csum"))
		}
		if w.IntN(4) == 0 {
			args = append(args, "-m", pick(w, "0", "1", "20", "50"))
		}
		if w.IntN(4) == 0 {
			args = append(args, "-J", "size="+pick(w, "1", "4", "64"))
		}
		args = append(args, "-L", pick(w, "", "root", "sixteen-bytes-xy"))
	case 3, 4:
		args = []string{"mkfs.xfs", "-q", "-f", "-b", "size=" + pick(w, "1024", "4096", "4096"), "-s", "size=" + num(sector)}
		if w.IntN(3) == 0 {
			args = append(args, "-m", pick(w, "crc=0", "reflink=0", "rmapbt=1", "finobt=0,rmapbt=0", "bigtime=0"))
		}
		if w.IntN(4) == 0 {
			args = append(args, "-d", pick(w, "agcount=2", "agcount=16", "sunit=128,swidth=512"))
		}
		if w.IntN(4) == 0 {
			args = append(args, "-n", "size="+pick(w, "4096", "8192", "65536"))
		}
		args = append(args, "-L", pick(w, "", "home", "twelve-bytes"))
	case 5:
		args = []string{"mkfs.btrfs", "-q", "-f", "-n", pick(w, "4096", "16384", "65536"), "-L", pick(w, "", "data")}
		if w.IntN(3) == 0 {
			args = append(args, pick(w, "--mixed", "-Oquota", "-O^no-holes", "--csum=xxhash", "-msingle"))
			if args[len(args)-1] == "--mixed" {
				args[4] = "4096"
			}
		}
	case 6:
		args = []string{"mkfs.fat", "-F", pick(w, "12", "16", "32"), "-S", num(sector), "-n", pick(w, "EFI", "A B")}
		if w.IntN(3) == 0 {
			args = append(args, "-s", pick(w, "1", "2", "8"))
		}
	case 7:
		args = pick(w, []string{"mkfs.exfat"}, []string{"mkfs.f2fs", "-q", "-f"}, []string{"mkfs.jfs", "-q"})
	}
	file := w.sparse("source", size)
	if out, err := program(append(args, file)); err != nil {
		w.t.Logf("no such source: %v: %.100s", args, out)
		return nil
	}
	f, err := os.Open(file)
	if err != nil {
		w.t.Fatal(err)
	}
	defer f.Close()
	i, err := superblock.Probe(f, int64(size))
	if err != nil || i == nil {
		w.t.Fatalf("%v: %v, %v", args, i, err)
	}
	return i
}

// program runs one as a step does.
func program(args []string) ([]byte, error) {
	c := exec.Command(args[0], args[1:]...)
	c.Env = append(os.Environ(), fstype.Of(strings.TrimPrefix(args[0], "mkfs.")).Env...)
	return c.CombinedOutput()
}

// content puts something on a device of the layout.
func (w *world) content(dev string, size, sector quantity.Size) {
	if w.IntN(6) == 0 && size >= 16*mib {
		w.l.Swap = append(w.l.Swap, layout.Swap{Device: dev, UUID: w.uuid(), Size: size, Active: true, Label: pick(w, "", "swap")})
		return
	}
	i := w.mkfs(size, sector)
	if i == nil {
		return
	}
	fs := layout.Filesystem{Device: dev, Type: i.Type, UUID: i.UUID, Label: i.Label, Size: quantity.Size(i.Size), Geometry: i.Geometry}
	if len(fs.Keys()) != 1 {
		return
	}
	if fs.Size == 0 {
		fs.Size = size
	}
	if fs.Btrfs != nil && fs.Btrfs.Data == "" {
		fs.Btrfs.Data, fs.Btrfs.Metadata = "single", pick(w, "dup", "single")
		if slices.Contains(fs.Btrfs.Features, "mixed-bg") {
			fs.Btrfs.Metadata = fs.Btrfs.Data
		}
	}
	fs.Used = mib + quantity.Size(w.Int64N(int64(size)*6/10))
	fs.UsedInodes = 10 + w.Int64N(1000)
	fs.Mounts = []layout.Mount{{Path: "/" + strings.ReplaceAll(dev, "/", "-")}}
	w.l.Filesystems = append(w.l.Filesystems, fs)
}

// machine makes a random one.
func (w *world) machine() {
	w.l = &layout.Layout{Version: layout.Version, Hostname: "h", Boot: layout.Boot{Firmware: layout.BIOS}}
	for i := range 1 + w.IntN(2) {
		w.disk(fmt.Sprintf("vd%c", 'a'+i))
	}
	var pvs []layout.PhysicalVolume
	for _, d := range w.l.Disks {
		for _, p := range d.Table.Partitions {
			if !p.Extended() && w.l.On(p.Device) == nil && p.Size > 200*mib && !slices.ContainsFunc(w.l.Swap, func(s layout.Swap) bool { return s.Device == p.Device }) {
				pvs = append(pvs, layout.PhysicalVolume{Device: p.Device, UUID: w.lvmUUID(), Size: p.Size})
			}
		}
	}
	if len(pvs) > 0 {
		w.group(pvs)
	}
}

func (w *world) lvmUUID() string {
	u := strings.ReplaceAll(w.uuid(), "-", "")
	return u[:6] + "-" + u[6:10] + "-" + u[10:14] + "-" + u[14:18] + "-" + u[18:22] + "-" + u[22:26] + "-" + u[26:32]
}

// disk adds one with a table as partitioners, old and new, leave it.
func (w *world) disk(name string) {
	sector := pick(w, quantity.Size(512), 512, 512, 4096)
	d := layout.Disk{Name: name, Serial: "OLD" + name, LogicalSector: sector, PhysicalSector: max(sector, 512), Table: &layout.Table{Label: pick(w, layout.GPT, layout.MBR)}}
	t := d.Table
	gran := pick(w, mib, mib, sector, 63*sector)
	at := pick(w, mib, 63*sector, 34*sector).AlignUp(sector)
	if t.Label == layout.GPT {
		t.GUID = strings.ToUpper(w.uuid())
		t.Entries = pick(w, 0, 0, 128, 256, 1024)
		at = max(at, quantity.Size(1+gpt.Overhead(t.Entries, int64(sector)))*sector)
		t.FirstUsable = pick(w, 0, at)
	} else {
		t.Signature = fmt.Sprintf("0x%08x", w.Uint32())
	}
	var numbers []int
	k := 1 + w.IntN(6)
	logical := 0
	if t.Label == layout.MBR && k > 2 {
		logical = k - 2
		k = 2
	}
	for i := range k {
		numbers = append(numbers, i+1)
	}
	if t.Label == layout.GPT && t.Entries >= 256 {
		numbers[k-1] = 130 + w.IntN(100)
	}
	w.Shuffle(k, func(i, j int) { numbers[i], numbers[j] = numbers[j], numbers[i] })
	size := func() quantity.Size {
		s := quantity.Size(8+w.Int64N(pick(w, int64(60), 700, 3000))) * mib
		return (s + quantity.Size(w.Int64N(int64(mib)))).AlignUp(gran).AlignUp(sector)
	}
	add := func(p layout.Partition) {
		p.Device = layout.PartitionName(name, p.Number)
		if t.Label == layout.GPT {
			p.Type, p.GUID, p.Name = "0FC63DAF-8483-4772-8E79-3D69D8477DE4", strings.ToUpper(w.uuid()), pick(w, "", "Größe")
		}
		t.Partitions = append(t.Partitions, p)
	}
	for _, n := range numbers {
		s := size()
		add(layout.Partition{Number: n, Start: at, Size: s, Type: "0x83", Active: n == 1 && t.Label == layout.MBR})
		at = (at + s).AlignUp(gran).AlignUp(sector)
	}
	if logical > 0 {
		start := at
		order := w.Perm(logical)
		var parts []layout.Partition
		at += gran // the first record, wherever its partition is
		for _, o := range order {
			p := layout.Partition{Number: 5 + o, EBR: start, Type: "0x83"}
			if o > 0 {
				p.EBR, at = at, at+gran
			}
			p.Start, p.Size = at, size()
			at = (at + p.Size).AlignUp(gran).AlignUp(sector)
			parts = append(parts, p)
		}
		add(layout.Partition{Number: 3, Start: start, Size: at - start, Type: pick(w, "0x05", "0x0f")})
		for _, p := range parts {
			add(p)
		}
	}
	tail := quantity.Size(0)
	if t.Label == layout.GPT {
		tail = quantity.Size(gpt.Overhead(max(t.Entries, 128), int64(sector))) * sector
	}
	d.Size = (at + tail + pick(w, 0, 4*mib, 300*mib)).AlignUp(sector)
	w.l.Disks = append(w.l.Disks, d)
	for _, p := range t.Partitions {
		if !p.Extended() && w.IntN(5) > 0 {
			w.content(p.Device, p.Size, sector)
		}
	}
}

// group adds one with linear, striped and mirrored volumes.
func (w *world) group(pvs []layout.PhysicalVolume) {
	extent := pick(w, 4*mib, 4*mib, mib, 32*mib)
	g := layout.VolumeGroup{Name: "vg0", UUID: w.lvmUUID(), ExtentSize: extent, PVs: pvs}
	var b strings.Builder
	fmt.Fprintf(&b, "contents = \"Text Format Volume Group\"\nversion = 1\nvg0 {\nid = %q\nseqno = 4\nformat = \"lvm2\"\nstatus = [\"RESIZEABLE\", \"READ\", \"WRITE\"]\nflags = []\nextent_size = %d\nmax_lv = 0\nmax_pv = 0\nmetadata_copies = 0\nphysical_volumes {\n", g.UUID, extent/512)
	free, used := make([]int64, len(pvs)), make([]int64, len(pvs))
	for i, p := range pvs {
		free[i] = int64((p.Size - mib) / extent)
		fmt.Fprintf(&b, "pv%d {\nid = %q\ndevice = \"/dev/x\"\nstatus = [\"ALLOCATABLE\"]\nflags = []\ndev_size = %d\npe_start = 2048\npe_count = %d\n}\n", i, p.UUID, p.Size/512, free[i])
	}
	b.WriteString("}\nlogical_volumes {\n")
	take := func(pv int, n int64) string {
		s := fmt.Sprintf("\"pv%d\", %d", pv, used[pv])
		used[pv], free[pv] = used[pv]+n, free[pv]-n
		return s
	}
	volume := func(name, status string, n int64, seg string) {
		fmt.Fprintf(&b, "%s {\nid = %q\nstatus = [\"READ\", \"WRITE\"%s]\nflags = []\nsegment_count = 1\nsegment1 {\nstart_extent = 0\nextent_count = %d\n%s\n}\n}\n", name, w.lvmUUID(), status, n, seg)
	}
	for i := range 1 + w.IntN(4) {
		name := fmt.Sprint("lv", i)
		v := layout.LogicalVolume{Name: name, UUID: w.lvmUUID()}
		kind := w.IntN(3)
		if len(pvs) < 2 {
			kind = 0
		}
		n := int64(quantity.Size(20+w.IntN(600))*mib/extent) + 1
		switch {
		case kind == 0 && free[i%len(pvs)] > n:
			volume(name, `, "VISIBLE"`, n, "type = \"striped\"\nstripe_count = 1\nstripes = ["+take(i%len(pvs), n)+"]")
		case kind == 1 && free[0] > n && free[1] > n:
			n *= 2
			v.Type = "striped"
			volume(name, `, "VISIBLE"`, n, "type = \"striped\"\nstripe_count = 2\nstripe_size = 128\nstripes = ["+take(0, n/2)+", "+take(1, n/2)+"]")
		case kind == 2 && free[0] > n+1 && free[1] > n+1:
			v.Type = "raid1"
			for k := range 2 {
				volume(fmt.Sprintf("%s_rmeta_%d", name, k), "", 1, "type = \"striped\"\nstripe_count = 1\nstripes = ["+take(k, 1)+"]")
				volume(fmt.Sprintf("%s_rimage_%d", name, k), "", n, "type = \"striped\"\nstripe_count = 1\nstripes = ["+take(k, n)+"]")
			}
			volume(name, `, "VISIBLE"`, n, fmt.Sprintf("type = \"raid1\"\ndevice_count = 2\nregion_size = 4096\nraids = [\"%s_rmeta_0\", \"%s_rimage_0\", \"%s_rmeta_1\", \"%s_rimage_1\"]", name, name, name, name))
		default:
			continue
		}
		v.Size = quantity.Size(n) * extent
		g.LVs = append(g.LVs, v)
	}
	b.WriteString("}\n}\n")
	g.Config = b.String()
	w.l.VolumeGroup = append(w.l.VolumeGroup, g)
	for _, v := range g.LVs {
		w.content("vg0/"+v.Name, v.Size, 512)
	}
}

// targets are random disks for the machine's.
func (w *world) targets() plan.Mapping {
	m := plan.Mapping{}
	for i, d := range w.l.Disks {
		size := d.Size
		switch w.IntN(4) {
		case 0:
			size = size * quantity.Size(30+w.IntN(69)) / 100
		case 1:
			size = size * quantity.Size(100+w.IntN(300)) / 100
		case 2:
			size += quantity.Size(w.IntN(100)) * 512
		}
		sector := d.LogicalSector
		if w.IntN(5) == 0 {
			sector = pick(w, quantity.Size(512), 4096)
		}
		size = size / sector * sector
		m[d.Name] = layout.Present{Disk: layout.Disk{Name: fmt.Sprintf("sd%c", 'a'+i), Serial: fmt.Sprint("NEW", i), Size: size, LogicalSector: sector, PhysicalSector: sector}}
	}
	return m
}

// carryOut does the steps of a plan on sparse files.
func (w *world) carryOut(p *plan.Plan, m plan.Mapping) error {
	sizes := map[string]quantity.Size{} // of the target's devices
	for _, t := range m {
		sizes[t.Name] = t.Size
	}
	for _, g := range p.Layout.VolumeGroup {
		for _, v := range g.LVs {
			sizes["vg0/"+v.Name] = v.Size
		}
	}
	for _, s := range p.Steps {
		switch s := s.(type) {
		case *plan.WriteTable:
			if err := w.table(s, sizes[s.Device]); err != nil {
				return err
			}
			for _, q := range s.Table.Partitions {
				sizes[q.Device] = q.Size
			}
		case *plan.MakeFS:
			file := w.sparse("target", sizes[s.Device])
			for _, c := range s.Run {
				c = slices.Clone(c)
				c[slices.Index(c, "/dev/"+s.Device)] = file
				if out, err := program(c); err != nil {
					return fmt.Errorf("%s, %d bytes: %v: %w: %s", s, sizes[s.Device], c, err, out)
				}
			}
			if err := w.made(s, file, sizes[s.Device]); err != nil {
				return err
			}
		case *plan.MakeSwap:
			f, err := os.OpenFile(w.sparse("target", sizes[s.Device]), os.O_RDWR, 0)
			if err != nil {
				return err
			}
			if err := errors.Join(makeSwap(f, f.Name(), s.Swap.UUID, s.Swap.Label), f.Close()); err != nil {
				return err
			}
		case *plan.RestoreVG:
			if _, err := lvmRestore(w.t, p.Layout.Group("vg0/"), s.Config, func(dev string) quantity.Size { return sizes[p.Devices[dev]] }); err != nil {
				return fmt.Errorf("%s: %w\n%s", s, err, s.Config)
			}
		}
	}
	return nil
}

// table writes one, and has it read by us, sfdisk and sgdisk.
func (w *world) table(s *plan.WriteTable, size quantity.Size) error {
	f, err := os.OpenFile(w.sparse("table", size), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := writeTable(f, s.Table, s.Sector, int64(size)); err != nil {
		return err
	}
	var got []string
	if s.Table.Label == layout.GPT {
		g, err := gpt.Read(f, int64(s.Sector), int64(size))
		if err != nil {
			return err
		}
		for _, p := range g.Partitions {
			got = append(got, fmt.Sprint(p.Number, p.First, p.Last-p.First+1, p.GUID))
		}
	} else {
		m, err := mbr.Read(f, int64(s.Sector))
		if err != nil {
			return err
		}
		for _, p := range m.Partitions {
			got = append(got, fmt.Sprint(p.Number, p.Start, p.Count, ""))
		}
	}
	for _, p := range s.Table.Partitions {
		if want := fmt.Sprint(p.Number, int64(p.Start/s.Sector), int64(p.Size/s.Sector), p.GUID); !slices.Contains(got, want) {
			return fmt.Errorf("partition %s is not in %q", want, got)
		}
	}
	if s.Sector != 512 {
		return nil // the programs take a file's sectors for 512 bytes
	}
	checks := [][]string{{"sfdisk", "-V", f.Name()}}
	if s.Table.Label == layout.GPT {
		checks = append(checks, []string{"sgdisk", "-v", f.Name()})
	}
	for _, c := range checks {
		out, err := exec.Command(c[0], c[1:]...).CombinedOutput()
		if err != nil || c[0] == "sgdisk" && !strings.Contains(string(out), "No problems found") {
			return fmt.Errorf("%v: %w: %s\n%+v", c, err, out, s.Table)
		}
	}
	return nil
}

// made reads back what a program made.
func (w *world) made(s *plan.MakeFS, file string, size quantity.Size) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	i, err := superblock.Probe(f, int64(size))
	switch {
	case err != nil:
		return err
	case i == nil || i.Type != s.FS.Type || !strings.EqualFold(i.UUID, s.FS.UUID) || i.Label != s.FS.Label:
		return fmt.Errorf("%s: %+v was made", s, i)
	case i.Size > int64(size):
		return fmt.Errorf("%s: it has %d bytes on %d", s, i.Size, size)
	}
	return nil
}

// kinds names what a plan that is carried out has, and that must not be missing in the test.
func kinds(was *layout.Layout, p *plan.Plan, m plan.Mapping, converted bool) []string {
	var out []string
	add := func(is bool, kind string) {
		if is {
			out = append(out, kind)
		}
	}
	add(converted, "another type")
	l := p.Layout
	for old, to := range m {
		d := was.Disk(old)
		add(to.Size < d.Size, "smaller disk")
		add(to.Size > d.Size, "larger disk")
		add(to.LogicalSector == 4096, "sectors of 4096 bytes")
	}
	for _, s := range p.Steps {
		switch s := s.(type) {
		case *plan.WriteTable:
			add(true, s.Table.Label)
			add(s.Table.Entries > 128, "long GPT")
			add(slices.ContainsFunc(s.Table.Partitions, func(q layout.Partition) bool { return q.Logical() }), "logical partitions")
		case *plan.MakeFS:
			add(true, s.FS.Type)
		case *plan.RestoreVG:
			for _, v := range l.Group("vg0/").LVs {
				add(true, "volume "+v.Type)
			}
		default:
			add(true, s.Head().Kind)
		}
	}
	return out
}

// TestPlansWork: any plan that is accepted is carried out without an error: what a step
// would refuse is refused by the plan. MKCDREC_SEEDS is how many machines there are, from
// seed MKCDREC_SEED on; by default they are a few that have everything that machines can
// have here.
func TestPlansWork(t *testing.T) {
	seeds := []uint64{20, 33, 35, 37}
	n, err := strconv.Atoi(os.Getenv("MKCDREC_SEEDS"))
	if err == nil {
		first, err := strconv.Atoi(os.Getenv("MKCDREC_SEED"))
		if err != nil {
			first = 1
		}
		seeds = nil
		for i := range n {
			seeds = append(seeds, uint64(first+i))
		}
	}
	for _, tool := range []string{"mke2fs", "mkfs.xfs", "sfdisk", "sgdisk"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed; make test installs it", tool)
		}
	}
	have := map[string]bool{}
	for _, seed := range seeds {
		w := &world{Rand: rand.New(rand.NewPCG(seed, 14)), t: t, dir: t.TempDir()}
		for _, k := range w.try(seed) {
			have[k] = true
		}
	}
	if n > 0 && n < 40 {
		return // too few to have everything
	}
	for _, k := range []string{"another type", "larger disk", "smaller disk", "refused", "sectors of 4096 bytes", layout.GPT, layout.MBR, "long GPT", "logical partitions",
		"make-pv", "make-swap", "volume ", "volume striped", "volume raid1", "ext2", "ext3", "ext4", "xfs", "btrfs", "vfat", "exfat", "f2fs", "jfs"} {
		if _, err := exec.LookPath("mkfs." + k); err != nil && slices.Contains([]string{"ext2", "ext3", "ext4", "xfs", "btrfs", "vfat", "exfat", "f2fs", "jfs"}, k) {
			continue // its program is not installed
		}
		if !have[k] {
			t.Errorf("no plan with %q was carried out: the machines are not what they should be; other seeds?", k)
		}
	}
}

// try carries out plans of one machine, and gives their kinds.
func (w *world) try(seed uint64) (have []string) {
	w.machine()
	if err := w.l.Validate(); err != nil {
		w.t.Fatalf("seed %d: %v", seed, err)
	}
	for range 3 {
		m := w.targets()
		var types map[string]string
		if w.IntN(3) == 0 && len(w.l.Filesystems) > 0 {
			fs := w.l.Filesystems[w.IntN(len(w.l.Filesystems))]
			types = map[string]string{fs.Mounts[0].Path: pick(w, fstype.Names(func(t *fstype.Type) bool { return t.New != nil })...)}
			if plan.Check(w.l, plan.Wish{Types: types}) != nil {
				types = nil
			}
		}
		p, err := accept(w.l, m, types)
		var r *exit.Refusal
		if errors.As(err, &r) {
			have = append(have, "refused")
			continue
		}
		if err == nil {
			have = append(have, kinds(w.l, p, m, types != nil)...)
			err = w.carryOut(p, m)
		}
		if err != nil {
			w.t.Errorf("seed %d: %v", seed, err)
		}
	}
	return have
}

// accept plans as restore does.
func accept(l *layout.Layout, m plan.Mapping, types map[string]string) (*plan.Plan, error) {
	w := plan.Wish{Map: map[string]string{}, Types: types}
	for _, n := range l.Needed() {
		w.Map[n] = m[n].Name
	}
	return plan.Make(l, slices.Collect(maps.Values(m)), w)
}
