package bootloader

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/progress"
)

// put writes files below a directory.
func put(t *testing.T, root string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		f := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(f), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(f, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// moved is a machine whose disk is another one, and that lost a data disk.
func moved(t *testing.T) *System {
	t.Helper()
	return movedSystem(t.TempDir(), t.TempDir())
}

func movedSystem(root, sys string) *System {
	l := &layout.Layout{
		Disks: []layout.Disk{
			{Name: "sda", Serial: "S1", Table: &layout.Table{Label: layout.GPT, Partitions: []layout.Partition{{Number: 1, Device: "sda1", GUID: "AAAA0001"}, {Number: 2, Device: "sda2", GUID: "AAAA0002"}, {Number: 3, Device: "sda3", GUID: "AAAA0003"}}}},
			{Name: "sdb"},
		},
		Filesystems: []layout.Filesystem{{Device: "sda1", Type: "ext4", UUID: "1-1", Mounts: []layout.Mount{{Path: "/"}}}, {Device: "sdb", Type: "ext4", UUID: "2-2", Label: "My Data", Mounts: []layout.Mount{{Path: "/srv/my data"}}}},
		Swap:        []layout.Swap{{Device: "sda2", UUID: "3-3"}},
		VolumeGroup: []layout.VolumeGroup{{Name: "vg0", PVs: []layout.PhysicalVolume{{Device: "sda3", UUID: "pv-1"}}}},
		Links:       map[string][]string{"sda": {"by-id/ata-OLD_S1"}, "sda1": {"by-id/ata-OLD_S1-part1"}, "sdb": {"by-id/ata-DATA"}},
		Boot:        layout.Boot{Disks: []string{"sda"}, ESP: "sda1"},
	}
	return &System{Root: root, Layout: l, Devices: map[string]string{"sda": "nvme0n1", "sda1": "nvme0n1p1", "sda2": "nvme0n1p2", "sda3": "nvme0n1p3"}, Report: progress.None{}, sys: sys}
}

// TestDiskFiles: where GRUB is installed by the next update is followed, by debconf's
// database, GRUB's map and SUSE's list.
func TestDiskFiles(t *testing.T) {
	const debconf = "Name: grub-pc/install_devices\nTemplate: grub-pc/install_devices\nValue: /dev/disk/by-id/ata-OLD_S1, /dev/disk/by-id/ata-DATA\nOwners: grub-pc\nVariables:\n CHOICES = /dev/disk/by-id/ata-OLD_S1\n\nName: grub-efi/install_devices\nValue: /dev/disk/by-id/ata-OLD_S1-part1\n\nName: keyboard/x\nValue: /dev/sda\n"
	s := moved(t)
	put(t, s.Root, map[string]string{
		"var/cache/debconf/config.dat":   debconf,
		"boot/grub/device.map":           "# map\n(hd0)\t/dev/disk/by-id/ata-OLD_S1\n(hd1)\t/dev/sdb\n",
		"etc/default/grub_installdevice": "/dev/sda\nactivate\n",
	})
	if err := s.references(); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"/var/cache/debconf/config.dat":   strings.NewReplacer("Value: /dev/disk/by-id/ata-OLD_S1, /dev/disk/by-id/ata-DATA", "Value: /dev/nvme0n1", "Value: /dev/disk/by-id/ata-OLD_S1-part1", "Value: /dev/disk/by-uuid/1-1").Replace(debconf),
		"/boot/grub/device.map":           "# map\n(hd0)\t/dev/nvme0n1\n(hd1)\t/dev/sdb\n",
		"/etc/default/grub_installdevice": "/dev/nvme0n1\nactivate\n",
	} {
		if got := s.read(name); got != want {
			t.Errorf("%s is\n%s; want\n%s", name, got, want)
		}
	}
}

// TestSameDisk: names by serial number stay where the disk is the old one.
func TestSameDisk(t *testing.T) {
	s := moved(t)
	put(t, s.sys, map[string]string{"block/nvme0n1/device/serial": " S1\n"})
	const fstab = "/dev/disk/by-id/ata-OLD_S1-part1 / ext4 defaults 0 1\n"
	put(t, s.Root, map[string]string{"etc/fstab": fstab, "etc/default/grub_installdevice": "/dev/disk/by-id/ata-OLD_S1\n"})
	if err := s.references(); err != nil {
		t.Fatal(err)
	}
	if got := s.read("/etc/fstab"); got != fstab || s.read("/etc/default/grub_installdevice") != "/dev/disk/by-id/ata-OLD_S1\n" {
		t.Errorf("%q", got)
	}
	if p := s.proveReferences(); len(p) > 0 {
		t.Errorf("%q", p)
	}
	put(t, s.sys, map[string]string{"block/nvme0n1/device/serial": "S2\n"})
	if p := s.proveReferences(); len(p) != 1 {
		t.Errorf("another disk: %q", p)
	}
}

// TestUnits: mount and swap units are followed; those of what was not restored do
// not stop the boot.
func TestUnits(t *testing.T) {
	s := moved(t)
	const d = "etc/systemd/system/"
	put(t, s.Root, map[string]string{
		d + "srv-my\\x20data.mount":    "[Unit]\nDescription=Data\n[Mount]\nWhat=/dev/disk/by-label/My\\x20Data\nWhere=/srv/my data\n",
		d + "home.mount":               "[Mount]\nWhat = /dev/sda1 \nWhere=/home\nOptions=noatime\n[Install]\nWantedBy=local-fs.target\n",
		d + "dev-sda2.swap":            "[Swap]\nWhat=/dev/sda2\n",
		d + "nfs.mount":                "[Mount]\nWhat=nas:/x\nWhere=/nfs\nType=nfs\n",
		d + "gone.mount":               "[Mount]\nWhat=UUID=9-9\nWhere=/gone\n",
		d + "off.mount":                "[Mount]\nWhat=UUID=9-9\nWhere=/off\n",
		d + "local-fs.target.wants/.x": "",
	})
	for from, to := range map[string]string{"local-fs.target.requires/srv-my\\x20data.mount": "../srv-my\\x20data.mount", "local-fs.target.wants/gone.mount": "/" + d + "gone.mount", "swap.target.wants/dev-sda2.swap": "../dev-sda2.swap"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(s.Root, d, from)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(to, filepath.Join(s.Root, d, from)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.references(); err != nil {
		t.Fatal(err)
	}
	swap := `dev-disk-by\x2duuid-3\x2d3.swap`
	for name, want := range map[string]string{
		"srv-my\\x20data.mount": "[Unit]\nDescription=Data\n[Mount]\nWhat=/dev/disk/by-label/My\\x20Data\nWhere=/srv/my data\nOptions=nofail\n",
		"home.mount":            "[Mount]\nWhat = /dev/disk/by-uuid/1-1\nWhere=/home\nOptions=noatime\n[Install]\nWantedBy=local-fs.target\n",
		swap:                    "[Swap]\nWhat=/dev/disk/by-uuid/3-3\n",
		"dev-sda2.swap":         "",
		"nfs.mount":             "[Mount]\nWhat=nas:/x\nWhere=/nfs\nType=nfs\n",
	} {
		if got := s.read("/" + d + name); got != want {
			t.Errorf("%s is\n%s; want\n%s", name, got, want)
		}
	}
	tr := s.tree()
	if tr.Exists(d+"local-fs.target.requires/srv-my\\x20data.mount") || !tr.Exists(d+"local-fs.target.wants/srv-my\\x20data.mount") || !tr.Exists(d+"swap.target.wants/"+swap) {
		t.Error(tr.List(d+"local-fs.target.requires"), tr.List(d+"local-fs.target.wants"), tr.List(d+"swap.target.wants"))
	}
	if p := s.proveReferences(); len(p) != 1 || !strings.Contains(p[0], "gone.mount: UUID=9-9 is not among") {
		t.Errorf("%q", p)
	}
}

// TestCards: the address of a card is replaced only where it can be no other.
func TestCards(t *testing.T) {
	const mac, given = "52:54:00:AA:00:01", "52:54:00:aa:00:01"
	files := map[string]string{
		"etc/netplan/01.yaml":                                  "    match:\n      macaddress: \"52:54:00:aa:00:01\"\n",
		"etc/sysconfig/network-scripts/ifcfg-eth0":             "HWADDR=" + mac + "\nMACADDR=" + mac + "\n",
		"etc/systemd/network/10-lan.link":                      "[Match]\nMACAddress=52-54-00-aa-00-01 02:00:00:00:00:09\n",
		"etc/NetworkManager/system-connections/x.nmconnection": "[ethernet]\nmac-address=" + mac + "\ncloned-mac-address=" + given + "\n",
		"etc/udev/rules.d/70-persistent-net.rules":             "# " + given + "\nSUBSYSTEM==\"net\", ATTR{address}==\"" + given + "\", NAME=\"eth0\"\n",
	}
	system := func(now ...string) *System {
		s := moved(t)
		s.Layout.Network = []layout.Interface{{Name: "eth0", MAC: given, Driver: "e1000"}, {Name: "br0", MAC: given, Kind: "bridge", Driver: "bridge"}}
		put(t, s.Root, files)
		for i, m := range now {
			n := "class/net/eth" + string(rune('0'+i))
			put(t, s.sys, map[string]string{n + "/address": m + "\n", n + "/device/x": ""})
		}
		put(t, s.sys, map[string]string{"class/net/lo/address": "00:00:00:00:00:00\n"})
		if err := s.references(); err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := system("52:54:00:bb:00:02")
	up := strings.NewReplacer("macaddress: \"52:54:00:aa:00:01", "macaddress: \"52:54:00:bb:00:02", "HWADDR="+mac, "HWADDR=52:54:00:BB:00:02", "52-54-00-aa-00-01", "52-54-00-bb-00-02", "\nmac-address="+mac, "\nmac-address=52:54:00:BB:00:02", "==\""+given, "==\"52:54:00:bb:00:02")
	for name, text := range files {
		if got, want := s.read("/"+name), up.Replace(text); got != want || got == text {
			t.Errorf("%s is\n%s; want\n%s", name, got, want)
		}
	}
	if st, err := os.Stat(filepath.Join(s.Root, "etc/NetworkManager/system-connections/x.nmconnection")); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", st.Mode(), err)
	}
	for name, s := range map[string]*System{"two new": system("52:54:00:bb:00:02", "52:54:00:bb:00:03"), "the same": system(given, "52:54:00:bb:00:03"), "none": system()} {
		for f, text := range files {
			if got := s.read("/" + f); got != text {
				t.Errorf("%s: %s changed: %s", name, f, got)
			}
		}
	}
	_, _, wrong := changeCards(files["etc/netplan/01.yaml"], []string{given}, []string{"a", "b"})
	if len(wrong) != 1 || !strings.Contains(wrong[0], "52:54:00:aa:00:01 is not in this machine") {
		t.Errorf("%q", wrong)
	}
}

// TestLVMFilter: a filter that hides the new disk from LVM is found.
func TestLVMFilter(t *testing.T) {
	for conf, hidden := range map[string]bool{
		"": false, "devices {\n\t# filter = [ \"r|.*|\" ]\n}": false,
		"devices {\n\tfilter = [ \"a|^/dev/sda|\", \"r|.*|\" ]\n}":                            true,
		"devices {\n\tglobal_filter = [ \"a|^/dev/sda|\",\n\t\t\"r/.*/\" ]\n}":                true,
		"devices {\n\tfilter = [ \"a|^/dev/nvme|\", \"r|.*|\" ]\n}":                           false,
		"devices {\n\tfilter = [ \"r|^/dev/loop|\", \"r{^/dev/zd}\" ]\n}":                     false,
		"devices {\n\tfilter = [ \"r|^/dev/nvme|\", \"a|lvm-pv-uuid|\" ]\n}":                  false,
		"devices/filter=\"r|^/dev/|\"":                                                        true,
		"devices {\n\tfilter = [ \"a|(|\", \"r|.*|\" ]\n}":                                    false,
		"devices {\n\tfilter = [ \"a|/dev/disk/by-id/ata-OLD_S1-part3|\", \"r|.*|\" ]\n}":     true,
		"devices {\n\tfilter = [ \"a|^/dev/disk/by-partuuid/aaaa0003$|\", \"r|^/dev/|\" ]\n}": false,
	} {
		s := moved(t)
		if got := s.checkLVMFilter(conf); len(got) > 0 != hidden {
			t.Errorf("%q: %q; hidden is %v", conf, got, hidden)
		}
	}
}

// TestEditsStayInside: a link of the restored system that leads to a file of the
// rescue system is the system's own, and its files are changed.
func TestEditsStayInside(t *testing.T) {
	s := moved(t)
	outside := filepath.Join(t.TempDir(), "fstab")
	const text = "/dev/sda1 / ext4 defaults 0 1\n"
	put(t, "/", map[string]string{outside: text})
	put(t, s.Root, map[string]string{filepath.Join("/", outside): text, "etc/x": ""})
	if err := os.Symlink(outside, filepath.Join(s.Root, "etc/fstab")); err != nil {
		t.Fatal(err)
	}
	if err := s.references(); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(outside); err != nil || string(b) != text {
		t.Errorf("the file outside is %q, %v", b, err)
	}
	if b, err := os.ReadFile(filepath.Join(s.Root, outside)); err != nil || string(b) != "UUID=1-1 / ext4 defaults 0 1\n" {
		t.Errorf("the system's file is %q, %v", b, err)
	}
	if entries, err := os.ReadDir(filepath.Dir(outside)); err != nil || len(entries) != 1 {
		t.Errorf("%v %v", entries, err)
	}
}

// TestRootWithBrackets: the target's name is not a pattern.
func TestRootWithBrackets(t *testing.T) {
	s := moved(t)
	s.Root = filepath.Join(s.Root, "[target]*")
	put(t, s.Root, map[string]string{"boot/loader/entries/a.conf": "options root=/dev/sda1\n"})
	if err := s.references(); err != nil {
		t.Fatal(err)
	}
	if got := s.read("/boot/loader/entries/a.conf"); got != "options root=UUID=1-1\n" {
		t.Error(got)
	}
}
