package recreate

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/archive"
	"github.com/mkcdrec/mkcdrec/internal/btrfs"
	"github.com/mkcdrec/mkcdrec/internal/btrfs/btrfstest"
	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/kernel"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/plan"
	"github.com/mkcdrec/mkcdrec/internal/probe"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/storage"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

func blank(t *testing.T, size int64) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	return f
}

func oracle(t *testing.T, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath(args[0]); err != nil {
		t.Skipf("%s is not installed; make test installs it", args[0])
	}
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v: %s", args, err, out)
	}
	// Some versions print names beyond ASCII as \xHH, some don't.
	text, err := archive.Unquote(string(out))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// TestGPT has sgdisk verify and sfdisk dump what we write: gaps in the
// numbers, names beyond ASCII, attribute bits, GUIDs.
func TestGPT(t *testing.T) {
	const guid = "11111111-2222-3333-4444-555555555555"
	tab := &layout.Table{Label: layout.GPT, GUID: guid, Partitions: []layout.Partition{
		{Number: 1, Start: quantity.MiB, Size: quantity.MiB, Type: layout.TypeBIOSBoot, GUID: "AAAAAAAA-2222-3333-4444-555555555555", Name: "biosboot"},
		{Number: 5, Start: 10 * quantity.MiB, Size: 40 * quantity.MiB, Type: layout.TypeESP, GUID: "BBBBBBBB-2222-3333-4444-555555555555", Name: "Größe 日本", Attributes: 1<<2 | 1<<63},
		{Number: 3, Start: 60 * quantity.MiB, Size: 3 * quantity.MiB, Type: "E6D6D379-F507-44C2-A23C-238F2A3DF928", GUID: "CCCCCCCC-2222-3333-4444-555555555555"},
	}}
	for _, size := range []int64{64 << 20, 200<<20 + 512} {
		f := blank(t, size)
		if err := writeTable(f, tab, 512, size); err != nil {
			t.Fatal(err)
		}
		if out := oracle(t, "sgdisk", "-v", f.Name()); !strings.Contains(out, "No problems found") {
			t.Errorf("sgdisk -v:\n%s", out)
		}
		out := oracle(t, "sfdisk", "-d", f.Name())
		for _, want := range []string{"label-id: " + guid, "disk1 : start=        2048, size=        2048", `disk5 : start=       20480, size=       81920, type=C12A7328`, `name="Größe 日本", attrs="LegacyBIOSBootable GUID:63"`, "disk3 : start=      122880, size=        6144", "uuid=CCCCCCCC-2222-3333-4444-555555555555"} {
			if !strings.Contains(out, want) {
				t.Errorf("sfdisk -d has no %q:\n%s", want, out)
			}
		}
	}
}

func TestMBR(t *testing.T) {
	tab := &layout.Table{Label: layout.MBR, Signature: "0xdeadbeef", Partitions: []layout.Partition{
		{Number: 1, Start: quantity.MiB, Size: 10 * quantity.MiB, Type: "0x83", Active: true},
		{Number: 2, Start: 11 * quantity.MiB, Size: 50 * quantity.MiB, Type: "0x05"},
		{Number: 5, Start: 12 * quantity.MiB, Size: 10 * quantity.MiB, Type: "0x82", EBR: 11 * quantity.MiB},
		{Number: 6, Start: 23 * quantity.MiB, Size: 10 * quantity.MiB, Type: "0x8e", EBR: 22 * quantity.MiB},
	}}
	f := blank(t, 64<<20)
	if err := writeTable(f, tab, 512, 64<<20); err != nil {
		t.Fatal(err)
	}
	out := oracle(t, "sfdisk", "-d", f.Name())
	for _, want := range []string{"label-id: 0xdeadbeef", "disk1 : start=        2048, size=       20480, type=83, bootable", "disk6 : start=       47104, size=       20480, type=8e"} {
		if !strings.Contains(out, want) {
			t.Errorf("sfdisk -d has no %q:\n%s", want, out)
		}
	}
	if err := writeTable(blank(t, 16<<20), tab, 512, 16<<20); err == nil {
		t.Error("a table larger than the disk is written")
	}
}

func TestMakeSwap(t *testing.T) {
	f := blank(t, 8<<20)
	if err := makeSwap(f, f.Name(), "11111111-2222-3333-4444-555555555555", "myswap"); err != nil {
		t.Fatal(err)
	}
	out := oracle(t, "blkid", "-p", f.Name())
	for _, want := range []string{`TYPE="swap"`, `LABEL="myswap"`, `UUID="11111111-2222-3333-4444-555555555555"`} {
		if !strings.Contains(out, want) {
			t.Errorf("blkid has no %s: %s", want, out)
		}
	}
	if err := makeSwap(blank(t, 4096), "x", "", ""); err == nil {
		t.Error("swap on 4 KiB is accepted")
	}
}

// A swap file has no holes, its directory keeps its times, and no link of a hostile
// set leads it out of the target.
func TestMakeSwapFile(t *testing.T) {
	target, outside := t.TempDir(), t.TempDir()
	old := time.Unix(1e9, 123)
	if err := errors.Join(os.Mkdir(target+"/swap", 0o700), os.WriteFile(target+"/swap/file", []byte("of a run before"), 0o644), os.Chtimes(target+"/swap", old, old), os.Symlink(outside, target+"/out")); err != nil {
		t.Fatal(err)
	}
	r := &Recreator{Target: target, Report: progress.None{}}
	step := func(p string) *plan.MakeSwapFile {
		return &plan.MakeSwapFile{FSType: "ext4", SwapFile: &layout.SwapFile{Path: p, Mount: "/", Size: 3<<20 + 4096, UUID: "11111111-2222-3333-4444-555555555555", Label: "file"}}
	}
	if err := r.makeSwapFile(context.Background(), step("/swap/file")); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(target + "/swap/file")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil || st.Size() != 3<<20+4096 || st.Mode() != 0o600 {
		t.Errorf("%v %v", st.Mode(), st.Size())
	}
	if hole, err := f.Seek(0, 4); err != nil || hole != st.Size() { // SEEK_HOLE
		t.Errorf("a hole at %d, %v", hole, err)
	}
	if out := oracle(t, "blkid", "-p", f.Name()); !strings.Contains(out, `UUID="11111111-2222-3333-4444-555555555555"`) || !strings.Contains(out, `LABEL="file"`) {
		t.Error(out)
	}
	if st, err = os.Stat(target + "/swap"); err != nil || !st.ModTime().Equal(old) || st.Mode().Perm() != 0o700 {
		t.Errorf("its directory: %v %v", st.ModTime(), st.Mode())
	}
	if err := r.makeSwapFile(context.Background(), step("/out/file")); err == nil || !strings.Contains(err.Error(), "cannot make the swap file /out/file: out: ") {
		t.Errorf("through a link: %v", err)
	}
	if left, err := os.ReadDir(outside); err != nil || len(left) > 0 {
		t.Errorf("outside: %v %v", left, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := r.makeSwapFile(ctx, step("/new/dir/file")); !errors.Is(err, context.Canceled) {
		t.Errorf("stopped: %v", err)
	}
	if left, err := os.ReadDir(target + "/new/dir"); err != nil || len(left) > 0 {
		t.Errorf("stopped, and left: %v %v", left, err)
	}
	// A dry run's disks are in memory.
	r.Sparse = true
	big := step("/big")
	big.SwapFile.Size = 1 << 30
	if err := r.makeSwapFile(context.Background(), big); err != nil {
		t.Fatal(err)
	}
	if out := oracle(t, "blkid", "-p", target+"/big"); !strings.Contains(out, `TYPE="swap"`) {
		t.Error(out)
	}
}

// btrfs takes no swap file with copy-on-write; btrfs(8) tells whether it takes ours,
// compression or not.
func TestMakeSwapFileBtrfs(t *testing.T) {
	r := &Recreator{Target: btrfstest.Mount(t, 1, "-m", "single"), Report: progress.None{}}
	s := &plan.MakeSwapFile{FSType: fstype.TypeBtrfs, SwapFile: &layout.SwapFile{Path: "/swap/file", Mount: "/", Size: 16 << 20}}
	if err := r.makeSwapFile(context.Background(), s); err != nil {
		t.Fatal(err)
	}
	if out := btrfstest.Run(t, "lsattr", r.Target+"/swap/file"); !strings.Contains(strings.Fields(out)[0], "C") {
		t.Error(out)
	}
	if out := btrfstest.Run(t, "btrfs", "inspect-internal", "map-swapfile", r.Target+"/swap/file"); !strings.Contains(out, "Resume offset:") {
		t.Error(out)
	}
}

// TestMakeSubs makes the subvolumes of a rolled back SUSE: nested in one that is not
// mounted, with plain directories between.
func TestMakeSubs(t *testing.T) {
	m, d := onLoop(t, 300<<20)
	oracle(t, "mkfs.btrfs", "-q", "/dev/"+d.New.Name)
	f := &layout.Filesystem{Device: "vda", Type: fstype.TypeBtrfs, Private: true, Size: 300 << 20, Geometry: fstype.Geometry{Btrfs: &fstype.Btrfs{NodeSize: 16384, SectorSize: 4096, Checksum: "crc32c"}},
		Mounts: []layout.Mount{{Path: "/", Subvolume: "@/.snapshots/5/snapshot"}, {Path: "/boot/grub2/x86_64-efi", Subvolume: "@/boot/grub2/x86_64-efi"}}}
	for _, p := range []string{"@/boot/grub2/x86_64-efi", "@/var", "@", "@/.snapshots/5/snapshot", "@/.snapshots", "@/usr/local"} {
		f.Subvolumes = append(f.Subvolumes, layout.Subvolume{Path: p, Default: p == "@/.snapshots/5/snapshot"})
	}
	l := &layout.Layout{Version: layout.Version, Hostname: "h", Boot: layout.Boot{Firmware: layout.BIOS}, Disks: []layout.Disk{{Name: "vda", Size: 300 << 20, LogicalSector: 512, PhysicalSector: 512}}, Filesystems: []layout.Filesystem{*f}}
	p, err := plan.Make(l, []layout.Present{{Disk: d.New}}, plan.Wish{Map: map[string]string{"vda": d.New.Name}})
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, s := range p.Steps {
		switch s := s.(type) {
		case *plan.MakeSubs:
			r := &Recreator{Plan: p, Machine: m}
			if err := r.makeSubs(s); err != nil {
				t.Fatal(err)
			}
			if err := r.makeSubs(s); err != nil { // of a run that was stopped
				t.Error(err)
			}
		case *plan.MountFS:
			paths = append(paths, s.Mount.Path+":"+s.Mount.Subvolume)
		}
	}
	if want := []string{":", "/:@/.snapshots/5/snapshot", "/boot/grub2/x86_64-efi:@/boot/grub2/x86_64-efi"}; !slices.Equal(paths, want) {
		t.Errorf("mounts %q; want %q", paths, want)
	}
	dir := t.TempDir()
	if err := storage.MountBtrfs(kernel.Linux{}, d.New.Name, nil, "", dir, 0); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(dir, 0)
	subs, def, err := btrfs.Subvolumes(dir)
	if err != nil || len(subs) != len(f.Subvolumes) {
		t.Fatalf("%v, %v", subs, err)
	}
	for _, s := range subs {
		if (s.ID == def) != (s.Path == "@/.snapshots/5/snapshot") {
			t.Errorf("%s: default %v", s.Path, s.ID == def)
		}
	}
}

// fakeMachine has one disk with a serial number.
func fakeMachine(t *testing.T, serial string) probe.Machine {
	t.Helper()
	root := t.TempDir()
	for p, s := range map[string]string{"/sys/block/sda/size": "2048", "/sys/block/sda/serial": serial, "/proc/self/mountinfo": "1 1 0:1 / / rw - tmpfs tmpfs rw\n", "/proc/swaps": "", "/dev/sda": strings.Repeat("\x00", 1<<20)} {
		if err := os.MkdirAll(filepath.Dir(root+p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(root+p, []byte(s), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for p, to := range map[string]string{"/sys/class/block/sda": "../../block/sda", "/sys/class/block/sda1": "../../block/sda/sda1"} {
		if err := errors.Join(os.MkdirAll(root+"/sys/class/block", 0o755), os.MkdirAll(root+"/sys/block/sda/sda1/partition", 0o755), os.Symlink(to, root+p)); err != nil {
			t.Fatal(err)
		}
	}
	return probe.Machine{Root: root, Run: &tool.Recorder{}}
}

// TestOpenDisk: only the disk of the confirmed plan, and only while it is
// still that disk.
func TestOpenDisk(t *testing.T) {
	p := &plan.Plan{Disks: []plan.Disk{{New: layout.Disk{Name: "sda", Serial: "GOOD", Size: 1 << 20}}}, Steps: []plan.Step{&plan.WriteTable{Device: "sda", Table: &layout.Table{}}}}
	for _, c := range []struct{ serial, disk, want string }{
		{"OTHER", "sda", "not the disk it was"},
		{"GOOD", "sdb", "not in the confirmed plan"},
	} {
		r := &Recreator{Plan: p, Run: &tool.Recorder{}, Machine: fakeMachine(t, c.serial)}
		_, err := r.openDisk(c.disk)
		var ref *exit.Refusal
		if !errors.As(err, &ref) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("openDisk(%s) with serial %s = %v; want a refusal with %q", c.disk, c.serial, err, c.want)
		}
	}
	r := &Recreator{Plan: p, Run: &tool.Recorder{}, Machine: fakeMachine(t, "OTHER")}
	if err := r.free("sda9"); err == nil || !strings.Contains(err.Error(), "there is no /dev/sda9 any more") {
		t.Errorf("a device that went away: %v", err)
	}
	var se *StepError
	if err := r.Do(context.Background(), 0); !errors.As(err, &se) || se.Number != 1 {
		t.Errorf("Do = %v; want a *StepError", err)
	}
}

// TestFailedStep: a program that fails stops the step with its command line,
// exit code and stderr.
func TestFailedStep(t *testing.T) {
	m, d := onLoop(t, 8<<20)
	p := &plan.Plan{Disks: []plan.Disk{d}, Steps: []plan.Step{&plan.MakeFS{Device: d.New.Name, FS: &layout.Filesystem{Type: "ext4"}, Run: [][]string{{"ls", "/no/such/file"}, {"never", "reached"}}}}}
	r := &Recreator{Plan: p, Run: tool.Exec{}, Machine: m}
	err := r.Do(context.Background(), 0)
	var te *tool.Error
	if !errors.As(err, &te) || te.Code != 2 || !strings.Contains(err.Error(), "step 1 failed: make ext4") || !strings.Contains(err.Error(), "No such file") {
		t.Errorf("Do = %v", err)
	}
}
