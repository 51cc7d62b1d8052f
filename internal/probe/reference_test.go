package probe

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A snapshot that is left out is named when a file of the system may mean it: by its own
// name, or by a UUID or label that is on no device here. One that leads to a device,
// which may be the snapshot's origin, means that device.
func TestSnapshotReferred(t *testing.T) {
	root := machine(t)
	put := func(p, text string) {
		t.Helper()
		if err := errors.Join(os.MkdirAll(filepath.Dir(root+p), 0o755), os.WriteFile(root+p, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	pv := make([]byte, 1<<20)
	copy(pv[512:], "LABELONE")
	copy(pv[512+20:], "\x20\x00\x00\x00LVM2 001aaaaaa0002456789abcdef0123456789")
	put("/dev/sda", string(pv))
	ext := func(dev, uuid, label string) {
		t.Helper()
		put("/dev/"+dev, "")
		if out, err := exec.Command("mke2fs", "-q", "-F", "-t", "ext4", "-U", uuid, "-L", label, root+"/dev/"+dev, "4M").CombinedOutput(); err != nil {
			t.Fatalf("%v %s", err, out)
		}
	}
	ext("vg0/root", "cccccccc-2222-3333-4444-000000000001", "origin") // and of its snapshots, as a rule
	ext("vg0/classic", "cccccccc-2222-3333-4444-000000000002", "was") // active, and its origin has another UUID now
	volume := func(name, number, more string) string {
		return `{"vg_name":"vg0","lv_name":"` + name + `","lv_uuid":"aaaaaa-00` + number + `-4567-89ab-cdef-0123-456789","lv_size":"4194304",` + more + `}`
	}
	thin := `"segtype":"thin","origin":"root","pool_lv":"pool","lv_attr":"Vri---tz-k"`
	lvs := `{"report":[{"lv":[` + strings.Join([]string{
		volume("pool", "03", `"segtype":"thin-pool","chunk_size":"131072","lv_metadata_size":"4194304","zero":"zero","discards":"passdown"`),
		volume("root", "04", `"segtype":"thin","origin":"","pool_lv":"pool","lv_attr":"Vwi-a-tz--"`),
		volume("daily", "05", thin), volume("weekly", "06", thin),
		volume("classic", "07", `"segtype":"linear","origin":"root","pool_lv":"","lv_attr":"swi-a-s---"`),
	}, ",") + `]}]}`
	const none, both = "", "daily weekly"
	files := []string{"/etc/fstab", "/etc/crypttab", "/etc/systemd/system/srv-x.mount", "/usr/lib/systemd/system/dev-x.swap", "/proc/cmdline"}
	for name, c := range map[string]struct{ file, text, want string }{
		"nothing":                 {"/etc/fstab", "", none},
		"UUID of the origin":      {"/etc/fstab", "UUID=CCCCCCCC-2222-3333-4444-000000000001 / ext4 defaults 0 1\n", none},
		"label of the origin":     {"/etc/fstab", "/dev/disk/by-label/origin / ext4 defaults 0 1\n", none},
		"UUID of a partition":     {"/etc/fstab", "UUID=99999999-2222-3333-4444-555555555555 / ext4 defaults 0 1\n", none},
		"what only udev knows":    {"/etc/fstab", "UUID=eeeeeeee-2222-3333-4444-000000000009 /srv ext4 defaults 0 1\n", none},
		"another machine's":       {"/etc/fstab", "UUID=dddddddd-2222-3333-4444-000000000009 /srv ext4 _netdev 0 1\n", none},
		"mounted from elsewhere":  {"/etc/fstab", "UUID=dddddddd-2222-3333-4444-000000000009 /weird ext4 defaults 0 1\n", none},
		"UUID of nothing":         {"/etc/fstab", "UUID=dddddddd-2222-3333-4444-000000000009 /srv ext4 noauto,nofail 0 0\n", both},
		"link to nothing":         {"/etc/fstab", "/dev/disk/by-uuid/dddddddd-2222-3333-4444-000000000009 /srv ext4 noauto 0 0\n", both},
		"label of nothing":        {"/etc/fstab", "LABEL=before /srv ext4 noauto 0 0\n", both},
		"crypttab":                {"/etc/crypttab", "old UUID=dddddddd-2222-3333-4444-000000000009 none luks\n", both},
		"mount unit":              {"/etc/systemd/system/srv-x.mount", "[Mount]\nWhat=/dev/disk/by-uuid/dddddddd-2222-3333-4444-000000000009\nWhere=/srv/x\n", both},
		"swap unit":               {"/usr/lib/systemd/system/dev-x.swap", "[Swap]\nWhat=UUID=dddddddd-2222-3333-4444-000000000009\n", both},
		"kernel":                  {"/proc/cmdline", "root=UUID=dddddddd-2222-3333-4444-000000000009 ro\n", both},
		"dracut's LUKS":           {"/proc/cmdline", "root=/dev/vda1 rd.luks.uuid=luks-dddddddd-2222-3333\n", both},
		"volume UUID":             {"/etc/fstab", "/dev/disk/by-id/dm-uuid-LVM-aaaaaa0001456789abcdef0123456789aaaaaa0005456789abcdef0123456789 /srv ext4 noauto 0 0\n", "daily"},
		"link by name":            {"/etc/fstab", "/dev/disk/by-id/dm-name-vg0-weekly /srv ext4 noauto 0 0\n", "weekly"},
		"unit by name":            {"/etc/systemd/system/srv-x.mount", "[Mount]\nWhat=/dev/vg0/weekly\nWhere=/srv/x\n", "weekly"},
		"dracut's volume":         {"/proc/cmdline", "root=/dev/vda1 rd.lvm.lv=vg0/daily\n", "daily"},
		"snapshot that is active": {"/etc/fstab", "UUID=cccccccc-2222-3333-4444-000000000002 /srv ext4 noauto 0 0\n", "classic"},
		"active, and one other":   {"/etc/fstab", "LABEL=was /a ext4 noauto 0 0\nLABEL=before /b ext4 noauto 0 0\n", "classic daily weekly"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, f := range files {
				put(f, "")
			}
			put("/dev/disk/by-uuid/eeeeeeee-2222-3333-4444-000000000009", "")
			put("/dev/loop7", "")
			put(c.file, c.text)
			l, err := Machine{Root: root, Run: lvmProgram{lvs: lvs, pv: "/dev/sda"}}.Read(context.Background())
			if err != nil || l.Validate() != nil {
				t.Fatal(err, l.Validate())
			}
			if len(l.VolumeGroup) != 1 {
				t.Fatalf("no group: %+v", l.Unsupported)
			}
			var got []string
			for _, v := range []string{"classic", "daily", "weekly"} {
				if told(l, "vg0/"+v) != "" {
					got = append(got, v)
				}
			}
			if g := strings.Join(got, " "); g != c.want {
				t.Errorf("named %q; want %q\n%+v", g, c.want, l.Unsupported)
			}
		})
	}
}

// What a unit or the kernel's command line refers to is not loose.
func TestUnitsUse(t *testing.T) {
	root := machine(t)
	for _, name := range []string{"sdb", "sdc", "sdd"} {
		img := addDisk(t, root, name, 16<<20)
		if out, err := exec.Command("mke2fs", "-q", "-F", "-t", "ext4", "-L", "on-"+name, img).CombinedOutput(); err != nil {
			t.Fatalf("%v %s", err, out)
		}
		if err := os.WriteFile(root+"/sys/block/"+name+"/removable", []byte("1\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for p, text := range map[string]string{"/etc/systemd/system/srv.mount": "[Mount]\nWhat=LABEL=on-sdb\nWhere=/srv\n", "/proc/cmdline": "root=LABEL=on-sdc"} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(root+p), 0o755), os.WriteFile(root+p, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	l := readFake(t, root)
	for name, want := range map[string]bool{"sdb": false, "sdc": false, "sdd": true} {
		if got := l.Disk(name).Loose; got != want {
			t.Errorf("%s: loose %v; want %v", name, got, want)
		}
	}
}
