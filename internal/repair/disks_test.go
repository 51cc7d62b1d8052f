package repair

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/medium"
	"github.com/mkcdrec/mkcdrec/internal/superblock"
)

func TestFstabEntries(t *testing.T) {
	text := `# UUID=1 /comment ext4 defaults 0 0
UUID=root / ext4 errors=remount-ro 0 1
UUID="b" /boot	ext4
LABEL=swap none swap sw 0 0
/dev/vg0/swap swap swap sw 0 0
/dev/mapper/vg0-my--data /srv/my\040data/ xfs noatime,nofail 0 2
UUID=x /home btrfs subvol=/@home,compress=zstd:1 0 0
proc /proc proc defaults 0 0
tmpfs /tmp tmpfs size=1g 0 0
server:/export /nfs nfs4 _netdev 0 0
//server/share /smb cifs guest 0 0
/home /srv/home none bind 0 0
/dev/sr0 /media/cd iso9660 ro,noauto 0 0
UUID=short
LABEL=a\040b /quo\011ted ext4 x-a="b,noauto" 0 0
LABEL="a\040b" /data\134x xfs rw 0 0
/dev/shm /shm tmpfs rw 0 0
UUID=y /auto ext4 noauto,auto 0 0
`
	var got []string
	for _, e := range fstabEntries(text) {
		got = append(got, fmt.Sprintf("%q", e))
	}
	want := []string{`{"UUID=\"b\"" "/boot" "defaults"}`, `{"/dev/mapper/vg0-my--data" "/srv/my data" "noatime,nofail"}`, `{"UUID=x" "/home" "subvol=/@home,compress=zstd:1"}`,
		`{"LABEL=a b" "/quo\tted" "x-a=\"b,noauto\""}`, `{"LABEL=\"a b\"" "/data\\x" "rw"}`, `{"UUID=y" "/auto" "noauto,auto"}`}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s", strings.Join(got, "\n"))
	}
}

func TestEntrySubvolume(t *testing.T) {
	known := map[uint64]string{5: "", 256: "@", 257: "@home/x"}
	for options, want := range map[string]string{
		"defaults": "|true", "subvol=@": "@|true", "noatime,subvol=/@home/x/": "@home/x|true", "subvolid=257": "@home/x|true", "subvolid=0x101": "@home/x|true",
		"subvolid=5": "|true", "subvol=/": "|true", "subvolid=300": "|false", "subvolid=x": "|false",
	} {
		v, ok := entry{options: options}.subvolume(known)
		if got := fmt.Sprintf("%s|%v", v, ok); got != want {
			t.Errorf("%s = %s; want %s", options, got, want)
		}
	}
}

func TestFindSpec(t *testing.T) {
	names := map[string]string{"dm-0": "vg0/my-root", "dm-1": "mapper/luks-c-1", "dm-2": "vg0/data"}
	name := func(d string) string {
		if n := names[d]; n != "" {
			return n
		}
		return d
	}
	l := &layout.Layout{
		Disks: []layout.Disk{{Name: "vda", Table: &layout.Table{Label: layout.GPT, Partitions: []layout.Partition{
			{Number: 1, Device: "vda1", GUID: "AAAA-1", Name: "ESP"}, {Number: 2, Device: "vda2", GUID: "AAAA-2"}, {Number: 3, Device: "vda3", GUID: "AAAA-3", Name: "my data"}}}},
			{Name: "vdb", Table: &layout.Table{Label: layout.MBR, Signature: "0xcafe0001", Partitions: []layout.Partition{{Number: 1, Device: "vdb1"}}}}},
		Arrays:      []layout.Array{{Name: "md0", Label: "host:0"}, {Name: "md127", Label: "host:home"}},
		Crypts:      []layout.Crypt{{Name: "luks-c-1", Device: "vda2", UUID: "c-1"}},
		VolumeGroup: []layout.VolumeGroup{{Name: "vg0"}},
	}
	dev := func(n, uuid, label string) medium.Device {
		return medium.Device{Name: n, Info: &superblock.Info{Info: fstype.Info{Type: fstype.TypeExt4, UUID: uuid, Label: label}}}
	}
	devs := []medium.Device{dev("vda1", "1234-ABCD", ""), dev("dm-0", "r", "root"), dev("dm-1", "inner", ""), dev("dm-2", "d", ""), dev("md0", "m0", ""), dev("md127", "m1", ""), dev("vdb1", "b", "usb"), dev("vda3", "l", "a b")}
	crypttab := "# x\nother UUID=zzz none\nsecret UUID=\"C-1\" none luks\nplain\n"
	for spec, want := range map[string]string{
		"UUID=1234-abcd": "vda1", "/dev/disk/by-uuid/1234-ABCD": "vda1", "LABEL=root": "dm-0", "LABEL=": "", "UUID=": "", "LABEL=none": "",
		"PARTUUID=aaaa-1": "vda1", "PARTLABEL=ESP": "vda1", "/dev/disk/by-partlabel/ESP": "vda1", "PARTUUID=cafe0001-01": "vdb1", "PARTLABEL=": "",
		"/dev/vg0/my-root": "dm-0", "/dev/mapper/vg0-my--root": "dm-0", "/dev/mapper/vg0-data": "dm-2", "/dev/mapper/vg0-my-root": "",
		"/dev/mapper/secret": "dm-1", "/dev/mapper/other": "", "/dev/mapper/plain": "",
		"/dev/md0": "md0", "/dev/md/0": "md0", "/dev/md/home": "md127", "/dev/md127": "md127", "/dev/md1": "", "/dev/vda1": "vda1", "/dev/sda1": "", "ID=x": "",
		"LABEL=a b": "vda3", `LABEL="a b"`: "vda3", `LABEL='a b'`: "vda3", `"LABEL=a b"`: "vda3", `/dev/disk/by-label/a\x20b`: "vda3", `LABEL="a b`: "",
		"PARTLABEL=my data": "vda3", `/dev/disk/by-partlabel/my\x20data`: "vda3", "/dev//vda3": "vda3", `UUID="1234-ABCD"`: "vda1", "/dev/disk/by-partuuid/AAAA-3": "vda3",
	} {
		d, ok := (&system{crypttab: crypttab}).find(spec, l, devs, name)
		if d.Name != want || ok != (want != "") {
			t.Errorf("%s is %q, %v; want %q", spec, d.Name, ok, want)
		}
	}
}

// mdadm.conf has other names for arrays than their superblocks.
func TestNameArrays(t *testing.T) {
	a := []layout.Array{{Name: "md127", Label: "host:home", UUID: "6d6b6364:72656300:00000000:00000001"}, {Name: "md4", UUID: "6d6b6364:72656300:00000000:00000002"}, {Name: "md9", Label: "host:9", UUID: "6d6b6364:72656300:00000000:00000003"}, {Name: "md8", UUID: "6d6b6364:72656300:00000000:00000004"}}
	conf := "# ARRAY /dev/md9 UUID=6d6b6364:72656300:00000000:00000003\nDEVICE partitions\nARRAY /dev/md5 metadata=1.2 name=host:home\n\tUUID=6D6B6364:72656300:00000000:00000001\narray /dev/md/old level=raid1 uuid=6d6b6364:72656300:00000000:00000002\nARRAY <ignore> UUID=6d6b6364:72656300:00000000:00000003\nARRAY\nARRAY \"home\" UUID=6d6b6364:72656300:00000000:00000004\n"
	var devs []medium.Device
	for _, x := range a {
		devs = append(devs, medium.Device{Name: x.Name, Info: &superblock.Info{Info: fstype.Info{Type: fstype.TypeExt4}}})
	}
	for spec, want := range map[string]string{"/dev/md5": "md127", "/dev/md/old": "md4", "/dev/md/9": "md9", "/dev/md9": "md9", "/dev/md/home": "md8", "/dev/md/6": "", "/dev/md7": ""} {
		d, ok := (&system{mdadm: conf}).find(spec, &layout.Layout{Arrays: a}, devs, func(s string) string { return s })
		if d.Name != want || ok != (want != "") {
			t.Errorf("%s is %q, %v; want %q", spec, d.Name, ok, want)
		}
	}
}

func TestLookInto(t *testing.T) {
	d := medium.Device{Name: "vda1", Info: &superblock.Info{Info: fstype.Info{Type: fstype.TypeExt4}}}
	dir := t.TempDir()
	put := func(file, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(file)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if s, err := lookInto(dir, d); s != nil || err != nil {
		t.Error("an empty file system", s, err)
	}
	put("etc/fstab", "UUID=1 / ext4\n")
	if s, err := lookInto(dir, d); s != nil || err != nil {
		t.Error("an fstab that somebody kept", s, err)
	}
	put("usr/lib/os-release", "ID=debian\n")
	put("etc/crypttab", "secret UUID=2 none\n")
	put("etc/mdadm/mdadm.conf", "ARRAY /dev/md5\n")
	if s, err := lookInto(dir, d); err != nil || s == nil || s.fstab != "UUID=1 / ext4\n" || s.crypttab != "secret UUID=2 none\n" || s.subvolume != "" || s.mdadm != "ARRAY /dev/md5\n\n" {
		t.Error("a system", s, err)
	}
}

// TestMountPoint has links that lead out of the system, seen from outside.
func TestMountPoint(t *testing.T) {
	top := filepath.Join(t.TempDir(), "target")
	if err := os.MkdirAll(filepath.Join(top, "data/real"), 0o755); err != nil {
		t.Fatal(err)
	}
	for link, to := range map[string]string{"abs": "/data/real", "up": "../../data", "rel": "data", "out": "/nowhere"} {
		if err := os.Symlink(to, filepath.Join(top, link)); err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string]string{"/": "", "/data": "/data", "/abs": "/data/real", "/up": "/data", "/rel/real": "/data/real", "/new/deep": "/new/deep", "/out": "!", "/../x": "/x"} {
		got, err := mountPoint(top, path)
		if want == "!" && err == nil || want != "!" && (err != nil || got != top+want) {
			t.Errorf("%s is at %s, %v; want %s", path, got, err, want)
		}
	}
	if _, err := os.Lstat("/nowhere"); err == nil {
		t.Error("/nowhere was made")
	}
}

func FuzzFstabEntries(f *testing.F) {
	f.Add("UUID=x /a\\040b xfs noatime 0 2\n")
	f.Add("/dev/vg0/x /../.. btrfs subvolid=5")
	f.Fuzz(func(t *testing.T, text string) {
		for _, e := range fstabEntries(text) {
			if !filepath.IsAbs(e.path) || e.path == "/" || filepath.Clean(e.path) != e.path {
				t.Errorf("%q is mounted at %q", text, e.path)
			}
			e.subvolume(nil)
		}
	})
}
