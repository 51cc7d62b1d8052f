package probe

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/superblock"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

// lvmProgram answers as lvm(8) does.
type lvmProgram struct {
	lvs     string
	missing string // the UUID of a physical volume of vg0 that is not there
	pv      string // the physical volume that is there, "" for /dev/mapper/secret
}

func (p lvmProgram) Run(_ context.Context, c tool.Cmd) ([]byte, error) {
	switch c.Args[1] {
	case "vgs":
		return []byte(`{"report":[{"vg":[{"vg_name":"vg0","vg_uuid":"aaaaaa-0001-4567-89ab-cdef-0123-456789","vg_extent_size":"4194304"}]}]}`), nil
	case "pvs":
		more := ""
		if p.missing != "" {
			more = `,{"pv_name":"[unknown]","pv_uuid":"` + p.missing + `","dev_size":"0","vg_name":"vg0"}`
		}
		return []byte(`{"report":[{"pv":[{"pv_name":"` + cmp.Or(p.pv, "/dev/mapper/secret") + `","pv_uuid":"aaaaaa-0002-4567-89ab-cdef-0123-456789","dev_size":"1073741824","vg_name":"vg0"}` + more + `]}]}`), nil
	case "lvs":
		return []byte(p.lvs), nil
	case "vgcfgbackup":
		return nil, os.WriteFile(c.Args[slices.Index(c.Args, "-f")+1], []byte("vg0 { physical_volumes { pv0 { id = \"aaaaaa-0002-4567-89ab-cdef-0123-456789\" } } }"), 0o600)
	}
	return nil, fmt.Errorf("%v was not expected", c.Args)
}

// A machine with LVM on LUKS, a thin pool, thin volumes, and snapshots of both
// kinds.
func TestLUKSAndThin(t *testing.T) {
	root := machine(t)
	put := func(p string, b []byte) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(root+p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(root+p, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	// vda2 holds LUKS2, and dm-0 is its inside.
	head := make([]byte, 64<<10)
	copy(head, "LUKS\xba\xbe\x00\x02")
	copy(head[168:], "6d6b6364-7265-4c55-8b53-000000000001")
	copy(head[24:], "label")
	copy(head[4096:], `{"keyslots":{"0":{"key_size":64,"af":{"hash":"sha256"}}},"segments":{"0":{"type":"crypt","offset":"16777216","size":"dynamic","encryption":"aes-xts-plain64","sector_size":512}},"config":{}}`)
	put("/dev/vda2", append(head, make([]byte, 20<<20)...))
	put("/proc/swaps", []byte("Filename\n"))
	pv := make([]byte, 1<<20)
	copy(pv[512:], "LABELONE")
	copy(pv[512+20:], "\x20\x00\x00\x00LVM2 001aaaaaa0002456789abcdef0123456789")
	put("/dev/mapper/secret", pv)
	if err := os.Truncate(root+"/dev/mapper/secret", 1<<30); err != nil {
		t.Fatal(err)
	}
	for p, text := range map[string]string{
		"/sys/block/dm-0/dm/uuid": "CRYPT-LUKS2-6d6b636472654c558b53000000000001-secret\n", "/sys/block/dm-0/dm/name": "secret\n", "/sys/block/dm-0/slaves/vda2/x": "",
		"/sys/class/block/dm-0/size": "2097152\n", "/sys/class/block/vda2/size": "20480\n",
	} {
		put(p, []byte(text))
	}
	lvs := `{"report":[{"lv":[
{"vg_name":"vg0","lv_name":"root","lv_uuid":"aaaaaa-0003-4567-89ab-cdef-0123-456789","lv_size":"4194304","segtype":"linear","origin":"","pool_lv":""},
{"vg_name":"vg0","lv_name":"snap","lv_uuid":"aaaaaa-0004-4567-89ab-cdef-0123-456789","lv_size":"4194304","segtype":"linear","origin":"root","pool_lv":""},
{"vg_name":"vg0","lv_name":"pool","lv_uuid":"aaaaaa-0005-4567-89ab-cdef-0123-456789","lv_size":"8388608","segtype":"thin-pool","chunk_size":"131072","lv_metadata_size":"4194304","zero":"zero","discards":"passdown"},
{"vg_name":"vg0","lv_name":"home","lv_uuid":"aaaaaa-0006-4567-89ab-cdef-0123-456789","lv_size":"16777216","segtype":"thin","origin":"","pool_lv":"pool"},
{"vg_name":"vg0","lv_name":"thinsnap","lv_uuid":"aaaaaa-0007-4567-89ab-cdef-0123-456789","lv_size":"16777216","segtype":"thin","origin":"home","pool_lv":"pool","lv_attr":"Vri---tz-k"},
{"vg_name":"vg0","lv_name":"clone","lv_uuid":"aaaaaa-0008-4567-89ab-cdef-0123-456789","lv_size":"16777216","segtype":"thin","origin":"home","pool_lv":"pool","lv_attr":"Vwi-a-tz--"},
{"vg_name":"vg0","lv_name":"writable","lv_uuid":"aaaaaa-0009-4567-89ab-cdef-0123-456789","lv_size":"16777216","segtype":"thin","origin":"home","pool_lv":"pool","lv_attr":"Vwi---tz-k"},
{"vg_name":"vg0","lv_name":"active","lv_uuid":"aaaaaa-0010-4567-89ab-cdef-0123-456789","lv_size":"16777216","segtype":"thin","origin":"home","pool_lv":"pool","lv_attr":"Vri-a-tz--"},
{"vg_name":"vg0","lv_name":"used","lv_uuid":"aaaaaa-0011-4567-89ab-cdef-0123-456789","lv_size":"4194304","segtype":"linear","origin":"root","pool_lv":"","lv_attr":"swi-aos---"},
{"vg_name":"vg0","lv_name":"infstab","lv_uuid":"aaaaaa-0012-4567-89ab-cdef-0123-456789","lv_size":"16777216","segtype":"thin","origin":"home","pool_lv":"pool","lv_attr":"Vri---tz-k"}]}]}`
	put("/etc/fstab", []byte("/dev/vda1 / ext4 defaults 0 1\n/dev/mapper/vg0-infstab /srv/x ext4 noauto 0 0\n"))
	put("/dev/vg0/clone", append([]byte("CUSTOMER101"), make([]byte, 1<<20)...))
	l, err := Machine{Root: root, Run: lvmProgram{lvs: lvs}}.Read(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if len(l.Crypts) != 1 || l.Crypts[0].Device != "vda2" || l.Crypts[0].Name != "secret" || l.Crypts[0].Size != 1<<30 || *l.Crypts[0].LUKS != (superblock.LUKS{Version: 2, Cipher: "aes-xts-plain64", Hash: "sha256", KeySize: 512, SectorSize: 512, Offset: 16 << 20}) {
		t.Fatalf("%+v", l.Crypts)
	}
	if len(l.VolumeGroup) != 1 || l.VolumeGroup[0].PVs[0].Device != "mapper/secret" {
		t.Fatalf("%+v", l.VolumeGroup)
	}
	g := l.VolumeGroup[0]
	var names []string
	for _, v := range g.LVs {
		names = append(names, v.Name+" "+v.Type+" "+v.Pool)
	}
	if got := strings.Join(names, ", "); got != "root  , pool thin-pool , home thin pool, clone thin pool, writable thin pool, active thin pool, infstab thin pool" {
		t.Errorf("volumes: %s", got)
	}
	if strings.Join(g.Snapshots, ",") != "snap,thinsnap,used" {
		t.Errorf("snapshots: %v", g.Snapshots)
	}
	if !slices.ContainsFunc(l.Images, func(i layout.Image) bool { return i.Device == "vg0/clone" }) {
		t.Errorf("the live clone is not saved: %+v", l.Images)
	}
	for _, n := range []string{"writable", "active", "infstab"} {
		if why := told(l, "vg0/"+n); !strings.Contains(why, "not active") {
			t.Errorf("%s: %q; it has content, and no device to read it from", n, why)
		}
	}
	if why := told(l, "vg0/used"); !strings.Contains(why, "in use") {
		t.Errorf("a snapshot that is in use: %q", why)
	}
	if p := g.LVs[1].ThinPool; p == nil || *p != (layout.ThinPool{Chunk: 128 << 10, Metadata: 4 << 20, Zero: true, Discards: "passdown"}) {
		t.Errorf("pool: %+v", p)
	}
	gone, err := Machine{Root: root, Run: lvmProgram{lvs: lvs, missing: "aaaaaa-0009-4567-89ab-cdef-0123-456789"}}.Read(context.Background())
	if err != nil || len(gone.VolumeGroup) != 0 || gone.Validate() != nil || !slices.ContainsFunc(gone.Unsupported, func(u layout.Unsupported) bool {
		return u.What == "vg0" && u.Device == "mapper/secret:vg0" && strings.Contains(u.Reason, "missing physical volumes (aaaaaa-0009-")
	}) {
		t.Errorf("a group with a part missing: %v %+v", err, gone.Unsupported)
	}
	if got := (Machine{Root: root}).InUse("vda2"); got != "" {
		t.Errorf("vda2 is held by nothing that sysfs tells: %s", got)
	}
	put("/sys/class/block/vda2/holders/dm-0/x", nil)
	if got := (Machine{Root: root}).InUse("vda2"); got != "it is in use by mapper/secret" {
		t.Errorf("InUse = %q", got)
	}
	// On something that is no disk: all of it is told of, and the rest continues.
	if err := os.Rename(root+"/sys/block/dm-0/slaves/vda2", root+"/sys/block/dm-0/slaves/loop0"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(root+"/dev/vda2", root+"/dev/loop0"); err != nil {
		t.Fatal(err)
	}
	put("/sys/class/block/loop0/size", []byte("20480\n"))
	if err := os.RemoveAll(root + "/sys/class/block/vda2/holders"); err != nil {
		t.Fatal(err)
	}
	put("/dev/vda2", make([]byte, 10<<20))
	put("/sys/class/block/vda2/holders/dm-7/x", nil)
	put("/sys/block/dm-7/dm/name", []byte("cryptswap"))
	l, err = Machine{Root: root, Run: lvmProgram{lvs: lvs}}.Read(context.Background())
	if err != nil || len(l.Crypts) != 0 || len(l.VolumeGroup) != 0 || l.Validate() != nil {
		t.Errorf("%v, %v, %+v %+v", err, l.Validate(), l.Crypts, l.VolumeGroup)
	}
	var un []string
	for _, u := range l.Unsupported {
		un = append(un, u.Device+": "+u.Reason)
	}
	for _, w := range []string{"mapper/secret: LUKS on loop0, which is not a disk", "vg0: volume group on mapper/secret, which", "vda2: it is in use by dm-7 (cryptswap), which is not supported"} {
		if !strings.Contains(strings.Join(un, "; "), w) {
			t.Errorf("no %q in %s", w, strings.Join(un, "; "))
		}
	}
	// Swap with a random key is recreated at every start.
	put("/proc/swaps", []byte("Filename\n/dev/dm-7 partition 1 0 -2\n"))
	l, err = Machine{Root: root, Run: lvmProgram{lvs: lvs}}.Read(context.Background())
	if err != nil || slices.ContainsFunc(l.Unsupported, func(u layout.Unsupported) bool { return u.Device == "vda2" }) || slices.ContainsFunc(l.Images, func(i layout.Image) bool { return i.Device == "vda2" }) {
		t.Errorf("%v %+v %+v", err, l.Unsupported, l.Images)
	}
	if err := os.RemoveAll(root + "/sys/class/block/vda2/holders"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(root+"/dev/loop0", root+"/dev/vda2"); err != nil {
		t.Fatal(err)
	}
	// Locked: it is there, and what is on it can't be read.
	if err := os.RemoveAll(root + "/sys/block/dm-0"); err != nil {
		t.Fatal(err)
	}
	l, err = Machine{Root: root, Run: lvmProgram{lvs: lvs}}.Read(context.Background())
	if err != nil || len(l.Crypts) != 0 || !slices.ContainsFunc(l.Unsupported, func(u layout.Unsupported) bool {
		return u.Device == "vda2" && strings.Contains(u.Reason, "LUKS device that is not open")
	}) {
		t.Errorf("%v %+v", err, l.Unsupported)
	}
}

// A GPT disk whose MBR has partitions too is told of.
func TestHybrid(t *testing.T) {
	root := machine(t)
	f, err := os.OpenFile(root+"/dev/vda", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte{0x07}, 446+16+4); err != nil {
		t.Fatal(err)
	}
	l, err := Machine{Root: root, Run: &tool.Recorder{}}.Read(context.Background())
	if err != nil || !slices.ContainsFunc(l.Unsupported, func(u layout.Unsupported) bool { return u.What == "hybrid-mbr:vda" && u.Device == "vda:hybrid-mbr" }) {
		t.Errorf("%v %+v", err, l)
	}
}

// What mountinfo says of a btrfs: its device by name, its subvolume, its
// compression.
func TestBtrfsMounts(t *testing.T) {
	root := t.TempDir()
	if err := os.MkdirAll(root+"/proc/self", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(root+"/sys/fs/btrfs/1111-2222/devices/vda2", 0o755); err != nil {
		t.Fatal(err)
	}
	text := "22 1 0:25 /@ / rw,relatime shared:1 - btrfs /dev/vda2 rw,compress=zstd:1,space_cache=v2,subvolid=256,subvol=/@\n" +
		"23 22 0:25 /@home /home rw - btrfs /dev/vda2 rw,subvolid=257,subvol=/@home\n24 22 0:25 /@/srv /mnt rw - btrfs /dev/vda2 rw,subvol=/@\n25 22 0:5 / /proc rw - proc proc rw\n" +
		"26 22 254:9 / /srv/x rw,relatime - exfat /dev/vda9 rw,uid=1000,gid=1000,fmask=0027,dmask=0027,iocharset=utf8,errors=remount-ro\n"
	if err := os.WriteFile(root+"/proc/self/mountinfo", []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	ms, err := Machine{Root: root}.Mounts()
	if err != nil || len(ms) != 5 {
		t.Fatalf("%v %v", ms, err)
	}
	if m := ms[4]; m.Options != "rw,relatime,uid=1000,gid=1000,fmask=0027,dmask=0027" {
		t.Errorf("%+v", m)
	}
	if m := ms[0]; m.Device != "vda2" || m.Subvolume != "/@" || m.FSID != "1111-2222" || m.Options != "rw,relatime,compress=zstd:1" || m.Root != m.Subvolume {
		t.Errorf("%+v", m)
	}
	if ms[2].Root == ms[2].Subvolume || ms[3].FSID != "" || ms[3].Device != "" {
		t.Errorf("%+v %+v", ms[2], ms[3])
	}
	if busy := (Machine{Root: root}).InUse("vda2"); busy != "it is mounted on /" {
		t.Errorf("%q", busy)
	}
	for p, text := range map[string]string{
		"/sys/block/dm-3/dm/uuid": "LVM-x\n", "/sys/block/dm-3/dm/name": "vg0-root\n",
		"/proc/self/mountinfo": "22 1 254:3 / / rw - ext4 /dev/mapper/vg0-root rw\n",
	} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(root+p), 0o755), os.WriteFile(root+p, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.MkdirAll(root+"/dev/mapper", 0o755), os.Symlink("../dm-3", root+"/dev/mapper/vg0-root"), os.WriteFile(root+"/dev/dm-3", nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	for _, n := range []string{"dm-3", "vg0/root"} {
		if busy := (Machine{Root: root}).InUse(n); busy != "it is mounted on /" {
			t.Errorf("InUse(%s) = %q; want that it is mounted", n, busy)
		}
	}
}

// Disks of other machines, and paths of multipath devices, are not opened: they
// are told of, what is mounted from them is named, and no restore takes them.
func TestAway(t *testing.T) {
	root := machine(t)
	put := func(p, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(root+p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(root+p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	link := func(to, p string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(root+p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(to, root+p); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{"sdb", "sdc", "sdd", "nvme1n1", "nvme2n1", "drbd0", "bcache0"} {
		put("/sys/block/"+d+"/size", "2048\n") // and no /dev/sdb: opening it would fail
	}
	put("/sys/devices/platform/host3/session1/target3:0:0/3:0:0:0/type", "0")
	link("../../devices/platform/host3/session1/target3:0:0/3:0:0:0", "/sys/block/sdb/device")
	for _, d := range []string{"sdc", "sdd"} {
		put("/sys/block/"+d+"/holders/dm-5/dm/x", "")
		put("/sys/class/block/dm-5/slaves/"+d+"/x", "")
	}
	put("/sys/block/dm-5/dm/uuid", "mpath-3600140500000000\n")
	put("/sys/block/dm-5/dm/name", "mpatha\n")
	put("/sys/block/nvme0n1/device/transport", "pcie\n")
	put("/sys/block/nvme1n1/device/transport", "tcp\n")
	put("/sys/block/nvme2n1/device/nvme2/transport", "rdma\n") // below a subsystem
	link("../../block/dm-5", "/sys/dev/block/253:5")
	b, err := os.ReadFile(root + "/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	put("/proc/self/mountinfo", string(b)+"28 22 253:5 / /san rw - xfs /dev/mapper/mpatha rw\n")
	m := Machine{Root: root, Run: &tool.Recorder{}}
	l, err := m.Read(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	want := []layout.Unsupported{{What: "nvme1n1", Device: "nvme1n1", Reason: "it is an NVMe disk over tcp"}, {What: "nvme2n1", Device: "nvme2n1", Reason: "it is an NVMe disk over rdma"},
		{What: "sdb", Device: "sdb", Reason: "it is an iSCSI disk"}, {What: "sdc", Device: "sdc", Reason: "it is a path to the multipath device mpatha"}, {What: "sdd", Device: "sdd", Reason: "it is a path to the multipath device mpatha"}}
	want = append(want, layout.Unsupported{What: "/net", Device: "host:/x", Reason: "a network file system (nfs4)"})
	if !slices.Equal(l.LeftAlone, want) {
		t.Errorf("left alone: %+v", l.LeftAlone)
	}
	for _, d := range l.Disks {
		if d.Name != "vda" && d.Name != "nvme0n1" && d.Name != "sda" {
			t.Errorf("%s is a disk of this machine", d.Name)
		}
	}
	if !slices.Contains(l.Unsupported, layout.Unsupported{What: "/san", Device: "dm-5", Reason: "xfs on dm-5, on sdc, is left alone: it is a path to the multipath device mpatha"}) {
		t.Errorf("mounted from them: %+v", l.Unsupported)
	}
	present, err := m.Present(nil)
	if err != nil {
		t.Fatal(err)
	}
	busy := map[string]string{}
	for _, p := range present {
		busy[p.Name] = p.Busy
	}
	if busy["sdb"] != "it is left alone: it is an iSCSI disk" || busy["sdd"] == "" || busy["nvme2n1"] == "" || busy["nvme0n1"] == busy["sdb"] {
		t.Errorf("in a restore: %q", busy)
	}
}

// Mounts of other machines, of the host of a virtual machine and of FUSE are listed as
// left out, each of them; what may be storage of this machine is not covered.
func TestAwayMounts(t *testing.T) {
	root := machine(t)
	b, err := os.ReadFile(root + "/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	const network, host, fuse = "a network file system", "a directory of the host of this virtual machine", "a FUSE file system"
	for _, c := range []struct{ typ, source, super, why string }{
		{"nfs", "host:/export", "rw,vers=3", network},
		{"nfs4", "[fe80::1]:/export", "rw,vers=4.2", network},
		{"cifs", "//server/share", "rw,username=u", network},
		{"smb3", "//server/share", "rw", network},
		{"ceph", "10.0.0.1:6789,10.0.0.2:6789:/", "rw,name=admin", network},
		{"glusterfs", "server:/volume", "rw", network},
		{"9p", "hostshare", "rw,trans=virtio", host},
		{"virtiofs", "share", "rw", host},
		{"fuse.sshfs", "user@host:/srv", "rw,user_id=0", fuse},
		{"fuse.rclone", "remote:bucket", "rw", fuse},
		{"fuse.glusterfs", "server:/volume", "rw", fuse},
		{"fuse.ceph", "ceph-fuse", "rw", fuse},
		{"fuse", "/dev/fuse", "rw,user_id=0", fuse},
		{"fuse.mergerfs", "1:2", "rw", fuse},
		{"fuse.gvfsd-fuse", "gvfsd-fuse", "rw", ""},
		{"nfsd", "nfsd", "rw", ""},
		{"tmpfs", "tmpfs", "rw", ""},
		{"zfs", "tank/x", "rw", "not supported"},
	} {
		t.Run(c.typ, func(t *testing.T) {
			// Twice, with one source: two file systems of FUSE may have the same.
			text := string(b) + fmt.Sprintf("40 22 0:70 / /mnt/one\\040place rw - %[1]s %[2]s %[3]s\n41 22 0:71 / /mnt/two rw - %[1]s %[2]s %[3]s\n42 22 0:71 /sub /mnt/two/bound rw - %[1]s %[2]s %[3]s\n", c.typ, c.source, c.super)
			if err := os.WriteFile(root+"/proc/self/mountinfo", []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			l := readFake(t, root)
			var left, un []string
			for _, u := range l.LeftAlone {
				if strings.HasPrefix(u.What, "/mnt") {
					left = append(left, u.What+" "+u.Device+" "+u.Reason)
				}
			}
			for _, u := range l.Unsupported {
				if strings.HasPrefix(u.What, "/mnt") {
					un = append(un, u.What+" "+u.Reason)
				}
			}
			list := left
			switch c.why {
			case "":
				if len(left)+len(un) > 0 {
					t.Errorf("named: %q, %q", left, un)
				}
				return
			case "not supported":
				list = un
			}
			if len(list) != 2 || !strings.HasPrefix(list[0], "/mnt/one place ") || !strings.HasPrefix(list[1], "/mnt/two ") || !strings.Contains(list[1], c.why) || c.why != "not supported" && !strings.Contains(list[0], "("+c.typ+")") {
				t.Errorf("listed %q; want both with %q", list, c.why)
			}
			if un != nil && left != nil {
				t.Errorf("both left out, %q, and not covered, %q", left, un)
			}
		})
	}
}

// A mirror of which one half was thrown out is degraded, which is said once. One
// that does not run is named at each of its members.
func TestDegraded(t *testing.T) {
	root := machine(t)
	for i, dev := range []string{"vda2", "nvme0n1p1"} {
		b := make([]byte, 8192)
		le := binary.LittleEndian
		s := b[4096:] // metadata 1.2; linux/raid/md_p.h
		le.PutUint32(s, 0xa92b4efc)
		le.PutUint32(s[4:], 1)
		copy(s[16:], "\x6d\x6b\x63\x64rec\x00\x00\x00\x00\x00\x00\x00\x00\x01fake:root")
		le.PutUint32(s[72:], 1)
		le.PutUint64(s[80:], 2048)
		le.PutUint32(s[92:], 2)
		le.PutUint64(s[128:], 2048)
		le.PutUint64(s[144:], 8)
		le.PutUint32(s[160:], uint32(i))
		le.PutUint32(s[220:], 2)
		le.PutUint16(s[258:], 1)
		f, err := os.OpenFile(root+"/dev/"+dev, os.O_RDWR|os.O_CREATE, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(b, 0); err != nil {
			t.Fatal(err)
		}
		if err := f.Truncate(10 << 20); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	told := func() []string {
		t.Helper()
		l, err := Machine{Root: root, Run: &tool.Recorder{}}.Read(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, u := range l.Unsupported {
			if strings.Contains(u.Reason, "RAID") {
				out = append(out, u.What+": "+u.Reason)
			}
		}
		return out
	}
	if got := strings.Join(told(), "\n"); strings.Count(got, "which is not running") != 2 || !strings.Contains(got, "vda2: member of the RAID array 6d6b6364:72656300:00000000:00000001, which is not running") {
		t.Errorf("not running:\n%s", got)
	}
	for p, text := range map[string]string{"size": "2048", "md/array_state": "clean", "md/level": "raid1", "md/raid_disks": "2", "md/metadata_version": "1.2", "md/dev-vda2/slot": "0", "md/dev-vda2/state": "in_sync"} {
		p = root + "/sys/block/md0/" + p
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(root+"/sys/class/block/vda2", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(root+"/sys/class/block/vda2/size", []byte("20480\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(root+"/dev/md0", make([]byte, 1<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(told(), "\n"); got != "md0: RAID array is degraded: 1 of 2 members; it will be restored like that" {
		t.Errorf("degraded:\n%s", got)
	}
}

// Files with swap on them are recorded: one in use, and one of fstab. A file that
// fstab has and that is not one is a file like others.
func TestSwapFiles(t *testing.T) {
	root := machine(t)
	put := func(p string, b []byte) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(root+p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(root+p, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range []string{"/swapfile", "/srv/my swap"} {
		put(p, make([]byte, 1<<20))
		if out, err := exec.Command("mkswap", "-q", "-U", "11111111-2222-3333-4444-555555555555", "-L", "file", root+p).CombinedOutput(); err != nil {
			t.Fatalf("%v %s", err, out)
		}
	}
	put("/srv/none", make([]byte, 1<<20))
	put("/proc/swaps", []byte("Filename Type Size Used Priority\n/swapfile file 1020 0 -2\n"))
	put("/etc/fstab", []byte("/dev/vda1 / ext4 defaults 0 1\n/srv/my\\040swap none swap sw 0 0\n/swapfile none swap sw 0 0\n/srv/none none swap sw 0 0\n/not/there none swap sw 0 0\n"))
	l, err := Machine{Root: root, Run: &tool.Recorder{}}.Read(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	file := layout.SwapFile{Path: "/swapfile", Mount: "/", Size: 1 << 20, UUID: "11111111-2222-3333-4444-555555555555", Label: "file"}
	other := file
	other.Path = "/srv/my swap"
	if !slices.Equal(l.SwapFiles, []layout.SwapFile{file, other}) || l.Validate() != nil {
		t.Errorf("%+v", l.SwapFiles)
	}
	for _, p := range []string{"swapfile", "/a/../b", "/data", "/database/x", ""} {
		l.SwapFiles = []layout.SwapFile{{Path: p, Mount: "/data", Size: 1 << 20}}
		if err := l.Validate(); err == nil || !strings.Contains(err.Error(), "swapFiles[0]") {
			t.Errorf("%q: %v", p, err)
		}
	}
}
