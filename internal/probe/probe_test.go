package probe

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

// machine makes a fake /sys, /proc and /dev: a virtio disk with a real GPT
// and real file systems in an image, an NVMe disk with an MBR, a blank SCSI
// disk, a CD drive and a loop device.
func machine(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	put := func(p, s string) {
		if err := os.MkdirAll(filepath.Dir(root+p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(root+p, []byte(s), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []struct {
		name string
		size int64
	}{{"vda", 256 << 20}, {"nvme0n1", 64 << 20}, {"sda", 1 << 20}, {"sr0", 0}, {"loop0", 1 << 20}} {
		put("/sys/block/"+d.name+"/size", fmt.Sprint(d.size/512))
		put("/sys/block/"+d.name+"/queue/logical_block_size", "512\n")
		if d.size > 0 {
			put("/dev/"+d.name, "")
			if err := os.Truncate(root+"/dev/"+d.name, d.size); err != nil {
				t.Fatal(err)
			}
		}
	}
	for dev, at := range map[string]string{"vda/vda1": "2048 204800", "vda/vda2": "206848 20480", "nvme0n1/nvme0n1p1": "2048 40960", "nvme0n1/nvme0n1p2": "43008 2", "nvme0n1/nvme0n1p5": "45056 20480"} {
		partition(t, root, dev, at)
	}
	put("/sys/block/vda/serial", "SER1")
	put("/sys/block/nvme0n1/wwid", "eui.0025388b710116a1\n")
	put("/sys/block/nvme0n1/device/model", "Fast  Disk   1   \n")
	put("/sys/block/nvme0n1/device/serial", "N1\n")
	put("/sys/block/sda/device/vpd_pg80", "\x00\x80\x00\x08  SCSI01")
	put("/sys/block/sda/device/wwid", "t10.ATA     DISK   SCSI01")
	put("/proc/sys/kernel/hostname", "fake\n")
	put("/proc/sys/kernel/osrelease", "6.1\n")
	put("/proc/cmdline", "root=/dev/vda1 console=tty0 console=ttyS0,115200\n")
	put("/proc/swaps", "Filename Type Size Used Priority\n/dev/vda2 partition 1 0 -2\n")
	put("/proc/self/mountinfo", strings.Join([]string{
		"22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw",
		"23 22 0:5 / /proc rw - proc proc rw",
		"24 22 254:1 /srv /bind\\040mount rw - ext4 /dev/vda1 rw",
		"25 22 0:40 / /tank rw - zfs tank rw",
		"26 22 0:41 / /net rw - nfs4 host:/x rw",
		"27 22 259:1 / /weird rw - reiserfs /dev/nvme0n1p1 rw", ""}, "\n"))
	put("/boot/grub/grub.cfg", "")
	put("/etc/fstab", "/dev/vda1 / ext4 defaults 0 1\n")
	run := func(stdin string, args ...string) {
		c := exec.Command(args[0], args[1:]...)
		c.Stdin = strings.NewReader(stdin)
		if _, err := exec.LookPath(args[0]); err != nil {
			t.Skipf("%s is not installed; make test installs it", args[0])
		}
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", args, err, out)
		}
	}
	run("label: gpt\nlabel-id: 11111111-2222-3333-4444-555555555555\nfirst-lba: 34\nstart=2048, size=204800, name=\"röot\", attrs=\"LegacyBIOSBootable GUID:63\", uuid=AAAAAAAA-2222-3333-4444-555555555555\nstart=206848, size=20480, type=S\n", "sfdisk", "-q", root+"/dev/vda")
	run("label: dos\nlabel-id: 0xcafe0001\nstart=2048, size=40960, type=83, bootable\nstart=43008, size=80000, type=5\nstart=45056, size=20480, type=83\n", "sfdisk", "-q", root+"/dev/nvme0n1")
	grubAt(t, root+"/dev/vda")
	// Partition devices are files of their own here.
	run("", "mke2fs", "-q", "-F", "-t", "ext4", "-L", "root", "-U", "99999999-2222-3333-4444-555555555555", root+"/dev/vda1", "100M")
	run("", "truncate", "-s", "10M", root+"/dev/vda2")
	run("", "mkswap", "-q", "-L", "sw", "-U", "88888888-2222-3333-4444-555555555555", root+"/dev/vda2")
	put("/dev/nvme0n1p1", strings.Repeat("\x00", 65536+52)+"ReIsErFs"+strings.Repeat("\x00", 1000))
	put("/dev/nvme0n1p5", "")
	run("", "mke2fs", "-q", "-F", "-t", "ext2", root+"/dev/nvme0n1p5", "10M")
	for dev, num := range map[string]string{"vda1": "254:1", "nvme0n1p1": "259:1"} {
		if err := os.MkdirAll(root+"/sys/dev/block", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("../../devices/x/"+dev, root+"/sys/dev/block/"+num); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// partition puts "DISK/PARTITION" into the sysfs of a fake machine: at is its first
// sector and how many it has.
func partition(t *testing.T, root, dev, at string) {
	t.Helper()
	dir := root + "/sys/block/" + dev
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	start, size, _ := strings.Cut(at, " ")
	for f, v := range map[string]string{"partition": dev[strings.LastIndexFunc(dev, func(r rune) bool { return r > '9' })+1:], "start": start, "size": size} {
		if err := os.WriteFile(dir+"/"+f, []byte(v+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRead(t *testing.T) {
	m := Machine{Root: machine(t), Run: &tool.Recorder{}}
	l, err := m.Read(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Validate(); err != nil {
		t.Fatalf("the layout is not valid:\n%v", err)
	}
	var names []string
	for _, d := range l.Disks {
		names = append(names, d.Name+" "+d.Serial+" "+d.WWN+" "+d.Model)
	}
	if got, want := fmt.Sprintf("%q", names), `["nvme0n1 N1 eui.0025388b710116a1 Fast Disk 1" "sda SCSI01  " "vda SER1  "]`; got != want {
		t.Errorf("disks %s; want %s", got, want)
	}
	_, p := l.Partition("vda1")
	if p == nil || p.Name != "röot" || p.Attributes != 1<<63|1<<2 || p.GUID != "AAAAAAAA-2222-3333-4444-555555555555" || p.Start != 1<<20 || p.Size != 100<<20 {
		t.Errorf("vda1 = %+v", p)
	}
	if d, p := l.Partition("nvme0n1p5"); p == nil || d.Table.Signature != "0xcafe0001" || p.EBR != 43008*512 || p.Start != 45056*512 {
		t.Errorf("nvme0n1p5 = %+v", p)
	}
	f := l.Mounted("/")
	if f == nil || f.Device != "vda1" || f.Label != "root" || len(f.Mounts) != 1 || f.Ext == nil {
		t.Errorf("root = %+v; a bind mount must not count", f)
	}
	if len(l.Swap) != 1 || !l.Swap[0].Active || l.Swap[0].Label != "sw" {
		t.Errorf("swap = %+v", l.Swap)
	}
	var un []string
	for _, u := range l.Unsupported {
		un = append(un, u.What+": "+u.Reason)
	}
	slices.Sort(un)
	var images []string
	for _, m := range l.Images {
		images = append(images, m.Device+" "+m.What())
	}
	if got := strings.Join(images, "; "); got != "sda unknown content" {
		t.Errorf("images: %s", got)
	}
	if got, want := strings.Join(un, "; "), "/tank: zfs on tank is not supported; /weird: reiserfs can be saved as an image only, while it is not mounted for writing; nvme0n1p5: ext2 file system that is not mounted: its files can't be saved"; got != want {
		t.Errorf("unsupported:\n%s\nwant\n%s", got, want)
	}
	if fmt.Sprint(l.Kernel.Consoles) != "[tty0 ttyS0,115200]" || l.Boot.Loader != layout.GRUB || l.Boot.Firmware != layout.BIOS || l.Hostname != "fake" {
		t.Errorf("kernel %+v, boot %+v", l.Kernel, l.Boot)
	}
}

// TestBrokenDisks: a disk with a damaged table, or that can't be read, is
// listed, and keeps no other from being used.
func TestBrokenDisks(t *testing.T) {
	root := machine(t)
	gpt := make([]byte, 34*512)
	copy(gpt[446:], "\x00\x00\x02\x00\xee\xff\xff\xff\x01\x00\x00\x00\xff\xff\xff\xff")
	copy(gpt[510:], "\x55\xaaEFI PART and then nonsense")
	if err := os.WriteFile(root+"/dev/sda", append(gpt, make([]byte, 1<<20)...), 0o644); err != nil {
		t.Fatal(err)
	}
	m := Machine{Root: root, Run: &tool.Recorder{}}
	have, err := m.Present(nil)
	if err != nil || len(have) != 3 {
		t.Fatalf("%+v, %v", have, err)
	}
	if have[1].Name != "sda" || have[1].Busy != "" || have[1].Holds != "a damaged partition table" || have[2].Table == nil {
		t.Errorf("%+v", have)
	}
	l, err := m.Read(context.Background())
	if err != nil || !slices.ContainsFunc(l.Unsupported, func(u layout.Unsupported) bool {
		return u.Device == "sda" && strings.Contains(u.Reason, "damaged partition table")
	}) {
		t.Errorf("a backup of such a machine: %v, %+v", err, l)
	}
	if err := os.Remove(root + "/dev/sda"); err != nil {
		t.Fatal(err)
	}
	if have, err = m.Present(nil); err != nil || len(have) != 3 || !strings.Contains(have[1].Busy, "no such file") {
		t.Errorf("a disk that can't be opened: %+v, %v", have, err)
	}
	l, err = m.Read(context.Background())
	if err != nil || l.Validate() != nil || !slices.ContainsFunc(l.Unsupported, func(u layout.Unsupported) bool {
		return u.Device == "sda" && strings.Contains(u.Reason, "no such file")
	}) || l.Mounted("/") == nil {
		t.Errorf("a disk that can't be read is not named, or keeps the others from being saved: %v %+v", err, l.Unsupported)
	}
}

func TestPartitionName(t *testing.T) {
	for in, want := range map[string]string{"sda": "sda3", "vdb": "vdb3", "nvme0n1": "nvme0n1p3", "mmcblk0": "mmcblk0p3"} {
		if got := layout.PartitionName(in, 3); got != want {
			t.Errorf("PartitionName(%s, 3) = %s; want %s", in, got, want)
		}
	}
}

// TestLVM feeds what lvm(8) prints.
func TestLVM(t *testing.T) {
	rows, err := parseReport([]byte(`{"report":[{"lv":[{"vg_name":"vg0","lv_name":"a","lv_size":"10","segtype":"linear"},{"vg_name":"vg0","lv_name":"t","segtype":"thin-pool"}]}],"log":[]}`))
	if err == nil && len(rows) != 2 {
		t.Errorf("parseReport = %v", rows)
	}
	if _, err := parseReport([]byte("WARNING: x")); err == nil {
		t.Error("a report that is no JSON is accepted")
	}
}
