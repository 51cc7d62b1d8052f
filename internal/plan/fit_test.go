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

	"github.com/mkcdrec/mkcdrec/internal/commands"
	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/lvmtext"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/superblock"
)

const (
	mib = quantity.MiB
	gib = quantity.GiB
)

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
			got, err := fit(c.l, onto(c.l, c.to...), c.wish)
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
		got, err := fit(l, onto(l, l.Disks[0].Size), Wish{})
		if err != nil || !reflect.DeepEqual(sizesOf(got), sizesOf(l)) || len(got.VolumeGroup) > 0 && got.VolumeGroup[0].Config != l.VolumeGroup[0].Config {
			t.Errorf("%v: %v became %v", err, sizesOf(l), sizesOf(got))
		}
	}
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
			got, err := fit(l, m, Wish{})
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
			run, err := commands.Mkfs(f, img, least)
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
	var have []layout.Present
	for i := range l.Disks {
		have = append(have, disk("vd"+letters(i), "N"+letters(i), 60*gib))
	}
	var wish Wish
	for _, h := range have {
		wish.Confirmed = append(wish.Confirmed, h.Serial)
	}
	for b.Loop() {
		m, err := mapDisks(l, have, wish)
		if err != nil {
			b.Fatal(err)
		}
		f, err := fit(l, m, wish)
		if err != nil {
			b.Fatal(err)
		}
		p, err := steps(f, m)
		if err != nil {
			b.Fatal(err)
		}
		if p.Digest(); len(p.Steps) < 2000 {
			b.Fatal(len(p.Steps))
		}
	}
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
			got, err := fit(l, m, Wish{})
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
			p, err := steps(got, m)
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
	if _, err := fit(l, onto(l, 10*gib, 2*gib), Wish{}); err == nil || !strings.Contains(err.Error(), "sdb2 (raid1 md0: ext4 on /)") {
		t.Errorf("one of two disks too small: %v", err)
	}
	// A degraded array is made as it was.
	l.Arrays[0].Members = l.Arrays[0].Members[1:]
	if c := strings.Join(commands.Mdadm(&l.Arrays[0]), " "); !strings.HasSuffix(c, " missing /dev/sdb2") {
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
		got, err := fit(l, onto(l, to, to), Wish{})
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
	got, err := fit(l, onto(l, 20*gib, 20*gib), Wish{})
	if err != nil {
		t.Fatal(err)
	}
	if a, b := sizesOf(l), sizesOf(got); b["sda2"] != a["sda2"] || b["vg0/fast"] != a["vg0/fast"] || b["sda1"] <= a["sda1"] || got.VolumeGroup[0].Config != g.Config {
		t.Errorf("%v became %v", a, b)
	}
	if _, err := fit(l, onto(l, 20*gib, 8*gib), Wish{}); err == nil || !strings.Contains(err.Error(), "LVM with RAID volumes") {
		t.Errorf("a disk too small for them: %v", err)
	}
	if _, err := fit(l, onto(l, 20*gib, 20*gib), Wish{Sizes: map[string]quantity.Size{"/plain": gib}}); err == nil || !strings.Contains(err.Error(), "keeps its sizes") {
		t.Errorf("another size wished for: %v", err)
	}
}

// TestTwoConfirmed: two blank disks that were both confirmed are mapped, two
// that were not are a question.
func TestTwoConfirmed(t *testing.T) {
	l := raid(2, "raid1", 0)
	have := []layout.Present{disk("vdc", "N2", 10*gib), disk("vdb", "N1", 10*gib), disk("vdd", "N3", 10*gib)}
	if _, err := mapDisks(l, have, Wish{}); err == nil {
		t.Error("two of three blank disks were chosen")
	}
	m, err := mapDisks(l, have, Wish{Confirmed: []string{"N1", "N2"}})
	if err != nil || m["sda"].Name != "vdb" || m["sdb"].Name != "vdc" {
		t.Errorf("%v, %v", m, err)
	}
	have[0].Size = 20 * gib
	l.Disks[1].Size, l.Disks[1].Table.Partitions[1].Size = 18*gib, 16*gib
	if m, err = mapDisks(l, have, Wish{Confirmed: []string{"N1", "N2"}}); err != nil || m["sdb"].Name != "vdc" {
		t.Errorf("the larger disk to the larger: %v, %v", m, err)
	}
	// The second one needs more, and the boot loader is on the first: a BIOS does not
	// start when they change places.
	l = raid1()
	l.Disks[1].Table.Partitions[0].Size, l.Filesystems[0].Used = 9*gib, 200*mib
	l.Disks[0].Table.Partitions[1].Size = 6 * gib
	have = []layout.Present{busy(disk("sda", "SET", 2*gib), "it holds the backup set"), disk("sdaa", "N2", 10*gib), disk("sdz", "N1", 10*gib)}
	for _, c := range [][]string{{"N1", "N2"}, {"N2", "N1"}} {
		if m, err = mapDisks(l, have, Wish{Confirmed: c}); err != nil || m["sda"].Serial != c[0] || m["sdb"].Serial != c[1] {
			t.Errorf("equal disks, confirmed in the order %v, change places: %v, %v", c, m, err)
		}
	}
	// In their order they do not fit.
	l = raid(2, "raid1", 0)
	l.Disks[0].Size, l.Disks[1].Size = 10*gib, 11*gib
	l.Disks[0].Table.Partitions[1].Size = 9 * gib
	have = []layout.Present{disk("vdb", "N1", 8*gib), disk("vdc", "N2", 10*gib)}
	if m, err = mapDisks(l, have, Wish{Keep: true, Confirmed: []string{"N1", "N2"}}); err == nil && (m["sda"].Size < Need(&l.Disks[0]) || m["sdb"].Size < Need(&l.Disks[1])) {
		t.Errorf("the one that needs more got the smaller: %v", m)
	}
}

func TestBtrfs(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mkfs.btrfs looks into loop devices: needs root")
	}
	l := raid1()
	if got := l.Needed(); len(got) != 2 {
		t.Fatalf("needs %v", got)
	}
	is, err := fit(l, onto(l, 7*gib, 7*gib), Wish{})
	if err != nil {
		t.Fatal(err)
	}
	checkFit(t, l, is, false)
	if _, err := fit(l, onto(l, 10*gib, 4*gib), Wish{}); err == nil || !strings.Contains(err.Error(), "sdb1") {
		t.Errorf("a second disk without room for the copies: %v", err)
	}
	p, err := steps(is, onto(l, 7*gib, 7*gib))
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
	run, err := commands.Mkfs(&is.Filesystems[1], devs[0], 600*mib)
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
	if _, err := convert(l, map[string]string{"/": "ext4"}); err == nil || !strings.Contains(err.Error(), "2 subvolumes are mounted") {
		t.Errorf("to ext4: %v", err)
	}
	c, err := convert(plain(), map[string]string{"/home": "btrfs"})
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
		is, err := fit(l, onto(l, size), Wish{Sizes: map[string]quantity.Size{}})
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
	is, err := fit(l, onto(l, 20*gib), Wish{Sizes: map[string]quantity.Size{"/home": 30 * gib}})
	if err != nil || sizesOf(is)["vg0/home"] != 30*gib {
		t.Errorf("a wish: %v", err)
	}
	var ref *exit.Refusal
	if _, err := fit(l, onto(l, 6*gib), Wish{}); !errors.As(err, &ref) || !strings.Contains(err.Error(), "thin pool") {
		t.Errorf("too small: %v", err)
	}
	p, err := steps(l, onto(l, 20*gib))
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
		var p layout.Present
		p.Name, p.Size, p.LogicalSector = "sdb", size*quantity.MiB, 512
		out, err := fit(l, Mapping{"sda": p}, Wish{})
		if err != nil {
			t.Errorf("%d MiB: %v", size, err)
		} else if got := out.Disks[0].Table.Partitions[0].Size; got < 50*quantity.MiB {
			t.Errorf("%d MiB: the partition has %s", size, got)
		}
	}
	var p layout.Present
	p.Name, p.Size, p.LogicalSector = "sdb", 40*quantity.MiB, 512
	if _, err := fit(l, Mapping{"sda": p}, Wish{}); err == nil {
		t.Error("40 MiB: not refused")
	}
}

// TestCheck: wishes that no machine can make come true are refused without one.
func TestCheck(t *testing.T) {
	whole := plain()
	whole.Disks = append(whole.Disks, layout.Disk{Name: "sdb", Size: 4 * gib, LogicalSector: 512, PhysicalSector: 512}, layout.Disk{Name: "sdc", Size: 4 * gib, LogicalSector: 512, PhysicalSector: 512}, layout.Disk{Name: "sdd", Size: gib, LogicalSector: 512, PhysicalSector: 512})
	whole.Arrays = []layout.Array{{Name: "md0", Level: "raid1", Metadata: "1.2", Devices: 2, Members: []layout.Member{{Device: "sdb"}, {Device: "sdc", Role: 1}}}}
	whole.Crypts = []layout.Crypt{{Name: "old", Device: "sda3", LUKS: &superblock.LUKS{Fixed: true}}, {Name: "new", Device: "md0", LUKS: &superblock.LUKS{}}}
	whole.Filesystems = append(whole.Filesystems, layout.Filesystem{Device: "mapper/new", Type: "ext4", Mounts: []layout.Mount{{Path: "/data"}}}, layout.Filesystem{Device: "mapper/old", Type: "ext4", Mounts: []layout.Mount{{Path: "/old"}}})
	whole.Swap = append(whole.Swap, layout.Swap{Device: "sdd", Size: gib, Active: true})
	size := func(at string) Wish { return Wish{Sizes: map[string]quantity.Size{at: gib}} }
	for _, c := range []struct {
		wish Wish
		want string // of the refusal, "" for none
	}{
		{Wish{}, ""},
		{size("/"), ""},
		{Wish{Map: map[string]string{"sda": "vda"}, Keep: true}, ""},
		{size("/nosuch"), "--size /nosuch: the layout has nothing there"},
		{size("/data"), "--size /data: it is on the whole disk sdb, without a partition, and takes all of it"},
		{size("sdd"), "--size sdd: it is on the whole disk sdd"},
		{size("/old"), "--size /old: the LUKS device old keeps its size"},
		{Wish{Exclude: []string{"sdx"}}, "--exclude-disk sdx"},
		{Wish{Mirror: []string{"sdx"}}, "--mirror sdx"},
		{Wish{Map: map[string]string{"sdx": "vda"}}, "--map sdx"},
		{Wish{Types: map[string]string{"/nosuch": "ext4"}}, "--fs-type /nosuch=ext4"},
	} {
		err := Check(whole, c.wish)
		var r *exit.Refusal
		if c.want == "" && err != nil || c.want != "" && (!errors.As(err, &r) || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("Check(%+v) = %v; want %q", c.wish, err, c.want)
		}
	}
}
