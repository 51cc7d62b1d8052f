package plan

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/commands"
	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
)

func twoDisks() *layout.Layout {
	l := machine(layout.GPT, []quantity.Size{10 * gib, 20 * gib}, [][]part{{{mib, "bios", 0}, {9 * gib, "ext4 /", 2 * gib}}, {{10 * gib, "xfs /data", gib}, {gib, "swap", 0}, {8 * gib, "pv vg0", 0}}},
		map[string][]lvol{"vg0": {{"srv", "ext4 /srv", 4 * gib, gib}}})
	l.Boot.Disks = []string{"sda"}
	return l
}

func TestExclude(t *testing.T) {
	l := twoDisks()
	l.SwapFiles = []layout.SwapFile{{Path: "/swapfile", Mount: "/", Size: 64 * mib}, {Path: "/data/swap", Mount: "/data", Size: 64 * mib}}
	if got := l.Needed(); len(got) != 2 {
		t.Fatalf("%v", got)
	}
	is, err := exclude(l, []string{"/dev/sdb"})
	if err != nil {
		t.Fatal(err)
	}
	if got := is.Needed(); !slices.Equal(got, []string{"sda"}) || is.Validate() != nil {
		t.Errorf("needs %v", got)
	}
	p, err := steps(is, onto(is, 10*gib))
	if err != nil {
		t.Fatal(err)
	}
	if last, ok := p.Steps[len(p.Steps)-1].(*MakeSwapFile); !ok || last.SwapFile.Path != "/swapfile" || last.FSType != "ext4" || len(is.SwapFiles) != 1 {
		t.Errorf("the swap file comes last, and the other one is gone: %q, %v", last, is.SwapFiles)
	}
	for _, s := range p.Steps {
		switch s.(type) {
		case *MakePV, *RestoreVG, *MakeSwap:
			t.Errorf("step %q", s)
		}
		if strings.Contains(s.String(), "/data") {
			t.Errorf("step %q", s)
		}
	}
	with := twoDisks()
	with.Images = []layout.Image{{Device: "sdb2", Type: "ntfs", File: "sdb2.img.zst"}, {Device: "sda1", File: "sda1.img.zst"}}
	if x, err := exclude(with, []string{"sdb"}); err != nil || x.Images[0].File != "" || x.Images[0].Excluded != "--exclude-disk sdb" || x.Images[1].File == "" || x.Images[1].Excluded != "" {
		t.Errorf("images: %v, %v", x, err)
	}
	if l.Mounted("/data").Excluded != "" {
		t.Error("the layout itself was changed")
	}
	for disk, want := range map[string]string{"sda": "/ is on it", "sdc": "no disk of that name"} {
		var ref *exit.Refusal
		if _, err := exclude(l, []string{disk}); !errors.As(err, &ref) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", disk, err)
		}
	}
	l.Boot.Disks = []string{"sdb"}
	if _, err := exclude(l, []string{"sdb"}); err == nil || !strings.Contains(err.Error(), "boot loader") {
		t.Errorf("without a boot loader: %v", err)
	}
}

func TestOnly(t *testing.T) {
	l := twoDisks()
	there := []layout.Present{disk("vdx", "SER", 30*gib)}
	p, err := Only(l, Wish{}, "/data", "vdx3", 6*gib, there)
	if err != nil {
		t.Fatal(err)
	}
	var text []string
	for _, s := range p.Steps {
		text = append(text, s.Head().Kind+" "+s.Head().Device)
	}
	if got := strings.Join(text, ", "); got != "make-fs vdx3, mount vdx3" || len(p.Disks) != 1 || p.Disks[0].New.Serial != "SER" {
		t.Errorf("%s; %+v", got, p.Disks)
	}
	if p.Check([]string{"SER"}) != nil || p.Check(nil) == nil {
		t.Error("the disk's serial number is not what confirms it")
	}
	for _, c := range []struct {
		at   string
		size quantity.Size
		want string
	}{{"/nothing", gib, "nothing was mounted there"}, {"/data", gib, "too small"}} {
		var ref *exit.Refusal
		if _, err := Only(l, Wish{}, c.at, "vdx3", c.size, there); !errors.As(err, &ref) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.at, err)
		}
	}
	if _, err := Only(raid1(), Wish{}, "/home", "vdx3", 20*gib, there); err == nil {
		t.Error("a btrfs on two devices went onto one")
	}
}

// A mirror goes to one of its disks, degraded; what has no copies does not.
func TestExcludeMember(t *testing.T) {
	l := arrays(t, "raid1")
	is, err := exclude(l, []string{"sdb"})
	if err != nil {
		t.Fatal(err)
	}
	if err := is.Validate(); err != nil {
		t.Fatal(err)
	}
	p, err := steps(is, onto(is, is.Disks[0].Size))
	if err != nil {
		t.Fatal(err)
	}
	if c := strings.Join(first[*MakeArray](t, p).Run[0], " "); !strings.Contains(c, "--raid-devices=2") || !strings.HasSuffix(c, " /dev/vda1 missing") {
		t.Errorf("%s", c)
	}
	if _, err := exclude(arrays(t, "raid0"), []string{"sdb"}); err == nil || !strings.Contains(err.Error(), "/ is on it") {
		t.Errorf("half of a RAID0: %v", err)
	}
	b, err := exclude(raid1(), []string{"sdb"})
	if err != nil || len(b.Filesystems[1].Others) != 0 || b.Filesystems[1].Device != "sda2" {
		t.Fatalf("btrfs: %v", err)
	}
	run, err := commands.Mkfs(&b.Filesystems[1], "/dev/vda2", 9*gib)
	if err != nil || slices.Contains(run[0], "raid1") {
		t.Errorf("%v %v", run, err)
	}
}

// arrays is a machine whose root is an array over two disks.
func arrays(t *testing.T, level string) *layout.Layout {
	t.Helper()
	l := machine(layout.GPT, []quantity.Size{10 * gib, 10 * gib}, [][]part{{{9 * gib, "raw", 0}}, {{9 * gib, "raw", 0}}}, nil)
	a := layout.Array{Name: "md0", UUID: "11111111:22222222:33333333:44444444", Level: level, Metadata: "1.2", Devices: 2, Members: []layout.Member{{Device: "sda1", Role: 0}, {Device: "sdb1", Role: 1}}, Data: 16 * mib, Part: 9*gib - 16*mib, Size: 9*gib - 16*mib}
	if level == "raid0" {
		a.Part, a.Chunk, a.Size = 0, 512*quantity.KiB, 2*a.Size
	}
	l.Arrays = []layout.Array{a}
	fs := plain().Filesystems[1]
	fs.Device = "md0"
	l.Filesystems = []layout.Filesystem{fs}
	l.Boot.Disks = []string{"sda", "sdb"}
	if err := l.Validate(); err != nil {
		t.Fatal(err)
	}
	return l
}

// TestOnlyImage: one image goes to a device that is large enough, and its disk is confirmed.
func TestOnlyImage(t *testing.T) {
	l := &layout.Layout{Images: []layout.Image{{Device: "partition", Type: "ntfs", Size: 64 << 20, File: "x"}}}
	disks := []layout.Present{{Disk: layout.Disk{Name: "sdb", Serial: "S1", Size: 1 << 30}}}
	p, err := OnlyImage(l, Wish{}, "sdb2", 100<<20, 8<<20, disks)
	if err != nil {
		t.Fatal(err)
	}
	if s := first[*PutImage](t, p); len(p.Steps) != 1 || s.Device != "sdb2" || s.Start != 8<<20 || !s.Head().Destroys {
		t.Errorf("the steps are %+v", p.Steps)
	}
	if err := p.Check([]string{"S1"}); err != nil {
		t.Error(err)
	}
	var no *exit.Refusal
	if err := p.Check(nil); !errors.As(err, &no) {
		t.Errorf("not confirmed: %v", err)
	}
	if _, err := OnlyImage(l, Wish{}, "sdb2", 63<<20, 0, disks); !errors.As(err, &no) {
		t.Errorf("too small: %v", err)
	}
	if _, err := OnlyImage(&layout.Layout{}, Wish{}, "sdb2", 63<<20, 0, disks); !errors.As(err, &no) {
		t.Errorf("no image: %v", err)
	}
}
