package plan

import (
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/commands"
	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
)

// TestMirror puts a plain machine on a mirror, plans it for two disks, and takes
// the mirror away again.
func TestMirror(t *testing.T) {
	for _, label := range []string{layout.GPT, layout.MBR} {
		was := machine(label, []quantity.Size{40 * gib}, [][]part{{{gib, "ext4 /boot", 200 * mib}, {8 * gib, "ext4 /", 3 * gib}, {gib, "swap", 0}, {4 * gib, "xfs /home", gib}, {20 * gib, "pv vg0", 0}}},
			map[string][]lvol{"vg0": {{"srv", "ext4 /srv", 19 * gib, gib}}})
		was.Boot = layout.Boot{Firmware: layout.BIOS, Loader: layout.GRUB, Targets: []string{"i386-pc"}, Disks: []string{"sda"}}
		l, err := mirror(was, []string{"/dev/sda"})
		if err != nil {
			t.Fatal(err)
		}
		if len(l.Arrays) != 5 || !slices.Equal(l.Boot.Disks, []string{"sda", "sda-mirror"}) || !slices.Equal(l.Needed(), []string{"sda", "sda-mirror"}) {
			t.Fatalf("%s: %d arrays, %v, %v", label, len(l.Arrays), l.Boot.Disks, l.Needed())
		}
		for _, a := range l.Arrays {
			// What was on the partition has its size again.
			old := slices.Collect(func(yield func(string) bool) {
				for o, n := range l.Moved {
					if n == a.Name && !yield(o) {
						return
					}
				}
			})
			if len(old) != 1 || was.SizeOf(old[0]) != a.Size || strings.Join(l.DisksUnder(a.Name), " ") != "sda sda-mirror" {
				t.Errorf("%s: %+v was %v", label, a, old)
			}
		}
		for _, size := range []quantity.Size{l.Disks[0].Size, 20 * gib, 90 * gib} {
			m := Mapping{"sda": disk("vda", "A", size), "sda-mirror": disk("vdb", "B", size)}
			is, err := fit(l, m, Wish{})
			if err != nil {
				t.Fatalf("%s, %s: %v", label, size, err)
			}
			checkFit(t, l, is, size == l.Disks[0].Size)
			p, err := steps(is, m)
			if err != nil {
				t.Fatal(err)
			}
			if s := text(p); strings.Count(s, "make raid1 array") != 5 || !strings.Contains(s, "make LVM physical volume on /dev/md") || !strings.Contains(s, "on /dev/md1") {
				t.Errorf("%s, %s:\n%s", label, size, s)
			}
		}
		// Two blank disks that were confirmed are enough to go by.
		if m, err := mapDisks(l, []layout.Present{disk("vda", "A", 50*gib), disk("vdb", "B", 50*gib), disk("vdc", "C", 50*gib)}, Wish{Confirmed: []string{"A", "B"}}); err != nil || len(m) != 2 {
			t.Errorf("%v %v", m, err)
		}
		back, err := unmirror(l)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range was.Filesystems {
			at := f.Mounts[0].Path
			if now := back.Mounted(at); now == nil || now.Device != f.Device {
				t.Errorf("%s is on %+v, not %s", at, now, f.Device)
			}
		}
		if len(back.Arrays) != 0 || !slices.Equal(back.Needed(), []string{"sda"}) || !slices.Equal(back.Boot.Disks, []string{"sda"}) {
			t.Errorf("%s: %v, %v", label, back.Needed(), back.Boot.Disks)
		}
		for i, p := range back.Disks[0].Table.Partitions {
			if want := was.Disks[0].Table.Partitions[i]; !want.Extended() && p.Size != want.Size+mirrorData {
				t.Errorf("%s: %+v", label, p)
			}
		}
		if fit, err := fit(back, Mapping{"sda": disk("vda", "A", 40*gib)}, Wish{}); err != nil {
			t.Error(err)
		} else {
			checkFit(t, back, fit, false)
		}
	}
}

// TestMirrorImage: what was saved block by block has its size on the array, be it
// odd, and the disk another one.
func TestMirrorImage(t *testing.T) {
	odd := 200*mib - 17*512*2
	was := machine(layout.GPT, []quantity.Size{20 * gib}, [][]part{{{8 * gib, "ext4 /", 3 * gib}, {odd, "raw", 0}}}, nil)
	was.Images = []layout.Image{{Device: "sda2", Type: "ntfs", Size: odd, File: "sda2.img.zst"}}
	l, err := mirror(was, []string{"sda"})
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []quantity.Size{9 * gib, 20 * gib, 30 * gib} {
		m := Mapping{"sda": disk("vda", "A", size), "sda-mirror": disk("vdb", "B", size)}
		is, err := fit(l, m, Wish{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := steps(is, m); err != nil {
			t.Errorf("%s: %v", size, err)
		}
		for _, a := range is.Arrays {
			if a.Part%quantity.KiB != 0 || a.Size != a.Part || a.Part+a.Data > is.SizeOf(a.Members[0].Device) {
				t.Errorf("%s: mdadm can't make %+v", size, a)
			}
		}
	}
}

// TestMirrorESP: firmware reads either half of the EFI system partition.
func TestMirrorESP(t *testing.T) {
	was := machine(layout.GPT, []quantity.Size{20 * gib}, [][]part{{{300 * mib, "esp", 0}, {8 * gib, "ext4 /", 3 * gib}}}, nil)
	was.Disks[0].Table.Partitions[0].Type = layout.TypeESP
	l, err := mirror(was, []string{"sda"})
	if err != nil {
		t.Fatal(err)
	}
	a := l.Array(l.Boot.ESP)
	if a == nil || a.Metadata != "1.0" || a.Data != 0 || a.Size != 300*mib {
		t.Fatalf("%+v", a)
	}
	for _, d := range l.Disks {
		if p := d.Table.Partitions[0]; p.Type != layout.TypeESP {
			t.Errorf("%+v", p)
		}
	}
	if w := strings.Join(commands.Mdadm(a), " "); strings.Contains(w, "--data-offset") || !strings.Contains(w, "--metadata=1.0") || !strings.Contains(w, "--size=307200") {
		t.Error(w)
	}
	if back, err := unmirror(l); err != nil || back.Boot.ESP != "sda1" || back.Disks[0].Table.Partitions[0].Type != layout.TypeESP {
		t.Errorf("%v %v", back, err)
	}
}

func TestMirrorRefuses(t *testing.T) {
	var r *exit.Refusal
	whole := machine(layout.GPT, []quantity.Size{20 * gib}, [][]part{{{8 * gib, "ext4 /", 3 * gib}}}, nil)
	whole.Disks = append(whole.Disks, layout.Disk{Name: "sdz", Size: gib, LogicalSector: 512})
	for _, c := range []struct {
		l     *layout.Layout
		disks []string
	}{{whole, []string{"sdq"}}, {whole, []string{"sdz"}}, {whole, []string{"sda", "sda"}}, {raid(2, "raid1", 0), []string{"sda"}}} {
		if _, err := mirror(c.l, c.disks); !errors.As(err, &r) {
			t.Errorf("%v: %v", c.disks, err)
		}
	}
	if _, err := unmirror(whole); !errors.As(err, &r) {
		t.Errorf("no RAID1: %v", err)
	}
	if l, err := mirror(whole, nil); err != nil || l != whole {
		t.Error("nothing wished for changes something")
	}
}

// TestMirrorRandom mirrors the disks of many machines, and fits them.
func TestMirrorRandom(t *testing.T) {
	if testing.Short() {
		t.Skip("takes long: not with -short")
	}
	r := rand.New(rand.NewPCG(6, 6))
	fitted := 0
	for n := range 200 {
		was := randomMachine(r)
		if len(was.Needed()) == 0 {
			continue
		}
		name := was.Needed()[r.IntN(len(was.Needed()))]
		l, err := mirror(was, []string{name})
		var ref *exit.Refusal
		if errors.As(err, &ref) {
			continue // RAID already
		}
		if err != nil {
			t.Fatalf("machine %d: %v", n, err)
		}
		for _, percent := range []quantity.Size{60, 100, 200} {
			m := Mapping{}
			for _, name := range l.Needed() {
				m[name] = disk("v"+strings.ReplaceAll(name, "-", ""), "N", (l.Disk(name).Size * percent / 100).AlignUp(512))
			}
			is, err := fit(l, m, Wish{})
			if err != nil {
				if percent >= 100 || !errors.As(err, &ref) {
					t.Errorf("machine %d, %d %%: %v", n, percent, err)
				}
				continue
			}
			fitted++
			checkFit(t, l, is, percent == 100)
			if _, err := steps(is, m); err != nil {
				t.Errorf("machine %d, %d %%: %v", n, percent, err)
			}
			back, err := unmirror(is)
			if err != nil && !errors.As(err, &ref) {
				t.Errorf("machine %d, %d %%: back: %v", n, percent, err)
			}
			if err == nil && percent > 100 {
				if _, err := fit(back, m, Wish{}); err != nil {
					t.Errorf("machine %d, %d %%: back: %v", n, percent, err)
				}
			}
		}
		if t.Failed() {
			return
		}
	}
	if fitted < 150 {
		t.Errorf("%d fitted", fitted)
	}
}
