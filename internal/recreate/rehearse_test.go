package recreate

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/commands"
	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/plan"
	"github.com/mkcdrec/mkcdrec/internal/superblock"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

// TestRehearse: a feature that the program here does not know is found by the plan, and
// nothing is written to the device, which is not even there.
func TestRehearse(t *testing.T) {
	oracle(t, "mke2fs", "-V")
	oracle(t, "mkfs.xfs", "-V")
	with := func(features ...string) error {
		disks := []layout.Disk{{Name: "vda", Size: 8 << 40, LogicalSector: 512, PhysicalSector: 512}, {Name: "vdb", Size: 200 << 20, LogicalSector: 512, PhysicalSector: 512}}
		l := &layout.Layout{Version: layout.Version, Hostname: "h", Boot: layout.Boot{Firmware: layout.BIOS}, Disks: disks, Filesystems: []layout.Filesystem{
			{Device: "vda", Type: "ext4", Size: 8 << 40, Geometry: fstype.Geometry{Ext: &fstype.Ext{BlockSize: 4096, ClusterSize: 4096, InodeSize: 256, Inodes: 1 << 28, Features: append([]string{"has_journal", "extent", "64bit", "filetype"}, features...)}}},
			// Of less than 300 MiB, which mkfs.xfs refuses today.
			{Device: "vdb", Type: "xfs", Size: 200 << 20, Geometry: fstype.Geometry{XFS: &fstype.XFS{BlockSize: 4096, SectorSize: 512, InodeSize: 512, DirBlock: 4096, AGCount: 4, LogBlocks: 1368, CRC: true, FType: true, FinoBT: true, SparseIno: true}}}}}
		p, err := plan.Make(l, []layout.Present{{Disk: disks[0]}, {Disk: disks[1]}}, plan.Wish{Map: map[string]string{"vda": "vda", "vdb": "vdb"}})
		if err != nil {
			t.Fatal(err)
		}
		return (&Recreator{Plan: p, Run: tool.Exec{}}).Rehearse(context.Background())
	}
	if err := with(); err != nil {
		t.Errorf("what every version knows: %v", err)
	}
	var r *exit.Refusal
	if err := with("of_the_future"); !errors.As(err, &r) || !strings.Contains(err.Error(), "step 1 would fail: make ext4") || !strings.Contains(err.Error(), "of_the_future") {
		t.Errorf("a feature of a newer version: %v", err)
	}
}

// one is a plan of one step.
func one(s plan.Step) *plan.Plan { return &plan.Plan{Layout: &layout.Layout{}, Steps: []plan.Step{s}} }

// refusedBy gives the refusal of a rehearsal, "" for none. The steps' devices do not exist.
func refusedBy(t *testing.T, r *Recreator) string {
	t.Helper()
	err := r.Rehearse(t.Context())
	var refused *exit.Refusal
	if err == nil {
		return ""
	}
	if !errors.As(err, &refused) || !strings.Contains(err.Error(), "step ") {
		t.Fatalf("not refused: %v", err)
	}
	return err.Error()
}

// A LUKS device that is made with a new key: its options are tried on a file. One whose
// header is in the set is not.
func TestRehearseLUKS(t *testing.T) {
	oracle(t, "cryptsetup", "--version")
	for _, c := range []struct {
		luks   superblock.LUKS
		header string
		want   string
	}{
		{superblock.LUKS{Version: 2, Cipher: "aes-xts-plain64", Hash: "sha256", KeySize: 512, SectorSize: 4096, Offset: 16 << 20}, "", ""},
		{superblock.LUKS{Version: 1, Cipher: "aes-xts-plain64", Hash: "sha1", KeySize: 256, Offset: 2 << 20}, "", ""},
		{superblock.LUKS{Version: 2, Cipher: "aes-xts-plain64", Hash: "of-the-future", KeySize: 512, SectorSize: 512, Offset: 16 << 20}, "", "of-the-future"},
		{superblock.LUKS{Version: 2, Cipher: "aes-xts-plain64", Hash: "sha256", KeySize: 512, SectorSize: 1000, Offset: 16 << 20}, "", "sector size"},
		{superblock.LUKS{Version: 2, Cipher: "aes-xts-plain64", Hash: "of-the-future", KeySize: 512, SectorSize: 512, Offset: 16 << 20}, "header.age", ""},
	} {
		s := &plan.MakeCrypt{Device: "no-such-disk1", Crypt: &layout.Crypt{Name: "secret", Device: "vda1", UUID: "6d6b6364-7265-4c55-8b53-000000000001", Label: "l", Header: c.header, LUKS: &c.luks}}
		got := refusedBy(t, &Recreator{Plan: one(s), Run: tool.Exec{}})
		if (got == "") != (c.want == "") || !strings.Contains(strings.ToLower(got), c.want) {
			t.Errorf("%+v: %q; want %q", c.luks, got, c.want)
		}
	}
}

// mdadm answers as version 4.2 does, which opens members after it has read its options.
type mdadm42 struct {
	unknown string // what it does not know
	first   bool   // opens nothing and reports something else first
	calls   *[]string
}

func (m mdadm42) Run(_ context.Context, c tool.Cmd) ([]byte, error) {
	*m.calls = append(*m.calls, strings.Join(c.Args, " "))
	say := func(code int, text string) ([]byte, error) {
		return nil, &tool.Error{Cmd: c, Code: code, Stderr: text, Err: errors.New("exit status")}
	}
	member := ""
	for i, w := range c.Args {
		switch {
		case m.unknown != "" && strings.HasPrefix(w, m.unknown):
			return say(2, "mdadm: unrecognized option '"+w+"'\nUsage: mdadm --help\n  for help\n")
		case i > 2 && strings.HasPrefix(w, "/") && member == "":
			member = w
		}
	}
	if m.first {
		return say(1, "mdadm: no\n")
	}
	return say(2, "mdadm: cannot open "+member+": No such file or directory\n")
}

func TestRehearseArray(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/mdadm", []byte("#!"), 0o755); err != nil {
		t.Fatal(err)
	}
	array := &layout.Array{Name: "md0", Level: "raid10", Devices: 3, Layout: 0x102, Chunk: 512 << 10, Metadata: "1.2", Data: 1 << 20, Part: 64 << 20, UUID: "11111111:22222222:33333333:44444444", Label: "host:root", Bitmap: true, Spares: []string{"no-such-disk3"},
		Members: []layout.Member{{Device: "no-such-disk1", Role: 1}, {Device: "no-such-disk2", Role: 2}}}
	step := &plan.MakeArray{Device: "md0", Array: array, Run: [][]string{commands.Mdadm(array)}}
	t.Run("fake", func(t *testing.T) {
		t.Setenv("PATH", dir)
		for _, c := range []struct {
			m    mdadm42
			want string
		}{
			{mdadm42{}, ""},
			{mdadm42{unknown: "--data-offset="}, "unrecognized option '--data-offset=1024'"},
			{mdadm42{unknown: "--bitmap="}, "--bitmap=internal"},
			{mdadm42{unknown: "--data-offset=", first: true}, ""}, // nothing is known of that version
		} {
			var calls []string
			c.m.calls = &calls
			got := refusedBy(t, &Recreator{Plan: one(step), Run: c.m})
			if (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
				t.Errorf("%+v: %q; want %q", c.m, got, c.want)
			}
			for _, x := range calls {
				if strings.Contains(x, "no-such-disk") || !strings.Contains(x, " --level=10 --raid-devices=3") || !strings.Contains(x, " missing /") {
					t.Errorf("it ran %s", x)
				}
			}
		}
	})
	t.Run("real", func(t *testing.T) {
		oracle(t, "mdadm", "--version")
		if got := refusedBy(t, &Recreator{Plan: one(step), Run: tool.Exec{}}); got != "" {
			t.Errorf("what every version knows: %s", got)
		}
		for _, w := range []string{"--metadata=7", "--chunk=3", "--layout=x9", "--of-the-future"} {
			bad := step
			bad.Run = [][]string{slices.Insert(slices.Clone(step.Run[0]), 3, w)}
			option, _, _ := strings.Cut(w, "=")
			bad.Run[0] = slices.DeleteFunc(bad.Run[0], func(x string) bool { return x != w && strings.HasPrefix(x, option+"=") })
			if got := refusedBy(t, &Recreator{Plan: one(bad), Run: tool.Exec{}}); got == "" {
				t.Errorf("%s is not refused", w)
			}
		}
	})
}

// lvcreate's options, and a group's text on loop devices, where that is allowed.
func TestRehearseLVM(t *testing.T) {
	oracle(t, "lvm", "help")
	g := &layout.VolumeGroup{Name: "vg0", LVs: []layout.LogicalVolume{{Name: "pool", Type: layout.TypeThinPool, Size: 48 << 20, ThinPool: &layout.ThinPool{Chunk: 64 << 10, Metadata: 4 << 20, Zero: true, Discards: "passdown"}}, {Name: "thin", Type: layout.TypeThin, Size: 100 << 20, Pool: "pool"}}}
	thin := func() string {
		t.Helper()
		return refusedBy(t, &Recreator{Plan: one(&plan.MakeThin{Group: "vg0", Run: commands.Lvcreate(g)}), Run: tool.Exec{}})
	}
	if got := thin(); got != "" {
		t.Errorf("what every version knows: %s", got)
	}
	g.LVs[0].ThinPool.Discards = "of-the-future"
	if got := thin(); !strings.Contains(got, "of-the-future") {
		t.Errorf("a word of a newer version: %q", got)
	}
	if os.Getuid() != 0 {
		t.Skip("not root: no loop devices")
	}
	const text = `contents = "Text Format Volume Group"
version = 1
vg0 {
	id = "aaaaaa-0001-4567-89ab-cdef-0123-456789"
	seqno = 2
	format = "lvm2"
	status = ["RESIZEABLE", "READ", "WRITE"]
	extent_size = 8192
	max_lv = 0
	max_pv = 0
	physical_volumes {
		pv0 {
			id = "aaaaaa-0002-4567-89ab-cdef-0123-456789"
			device = "/dev/vda2"
			status = ["ALLOCATABLE"]
			dev_size = 204800
			pe_start = 2048
			pe_count = 24
		}
	}
	logical_volumes {
		root {
			id = "aaaaaa-0003-4567-89ab-cdef-0123-456789"
			status = ["READ", "WRITE", "VISIBLE"]
			segment_count = 1
			segment1 {
				start_extent = 0
				extent_count = 4
				type = "striped"
				stripe_count = 1
				stripes = ["pv0", 0]
			}
		}
	}
}
`
	for _, c := range []struct {
		text  string
		loops bool
		want  string
	}{
		{text, true, ""},
		{strings.Replace(text, `["pv0", 0]`, `["pv7", 0]`, 1), true, "pv7"},
		{strings.Replace(text, `["pv0", 0]`, `["pv7", 0]`, 1), false, ""},
	} {
		l := &layout.Layout{Disks: []layout.Disk{{Name: "vda", Size: 100 << 20, LogicalSector: 512}}}
		p := &plan.Plan{Layout: l, Devices: map[string]string{"vda": "no-such-disk"}, Steps: []plan.Step{
			&plan.MakePV{Device: "no-such-disk", Group: "vg0", UUID: "aaaaaa-0002-4567-89ab-cdef-0123-456789", Config: c.text},
			&plan.RestoreVG{Device: "no-such-disk", Group: "vg0", Config: c.text}}}
		got := refusedBy(t, &Recreator{Plan: p, Run: tool.Exec{}, Loops: c.loops})
		if (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("loops %v: %q; want %q", c.loops, got, c.want)
		}
	}
}
