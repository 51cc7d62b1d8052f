package probe

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/btrfs"
	"github.com/mkcdrec/mkcdrec/internal/layout"
)

// TestOurSnapshots: the snapshots that another backup reads from, or that one has left, are
// not in the layout, nor lacking in it.
func TestOurSnapshots(t *testing.T) {
	l, g := &layout.Layout{}, &layout.VolumeGroup{Name: "vg0"}
	for _, v := range []map[string]string{
		{"lv_name": SnapshotVolume + "01_0", "origin": "root", "lv_attr": "sri-aos---"},
		{"lv_name": SnapshotVolume + "01_1", "origin": "srv", "pool_lv": "pool", "segtype": "thin", "lv_attr": "Vri-aotz-k"},
		{"lv_name": "root", "segtype": "linear", "lv_size": "4194304"},
	} {
		addVolume(l, g, v, true)
	}
	l.VolumeGroup = []layout.VolumeGroup{*g}
	if len(g.LVs) != 1 || len(g.Snapshots) != 2 || len(l.Unsupported) > 0 || len(snapshotsOf(l)) > 0 {
		t.Errorf("volumes %+v, unsupported %+v, snapshots that may be referred to %q", g, l.Unsupported, snapshotsOf(l))
	}
	list := withoutOurs([]btrfs.Subvolume{{Path: SnapshotDir + "01/0"}, {Path: SnapshotDir + "01/0/var"}, {Path: "@"}, {Path: "@/" + SnapshotDir + "x"}})
	if len(list) != 2 || list[0].Path != "@" {
		t.Errorf("withoutOurs = %+v", list)
	}
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, SnapshotDir+"01/0"), 0o700); err != nil {
		t.Fatal(err)
	}
	top, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer top.Close()
	if filesBeside(top, "", nil) {
		t.Error("a directory with our snapshots counts as a file of the top level")
	}
	root := t.TempDir()
	if err := os.MkdirAll(root+"/proc/self", 0o755); err != nil {
		t.Fatal(err)
	}
	text := "1 1 0:1 / / rw - rootfs rootfs rw\n2 1 253:7 / " + SnapshotMounts + "01/0 ro - ext4 /dev/mapper/x ro\n3 1 0:40 / " + SnapshotMounts + "01/btrfs-x rw - btrfs /dev/vdb rw\n"
	if err := os.WriteFile(root+"/proc/self/mountinfo", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if mounts, err := (Machine{Root: root}).Mounts(); err != nil || len(mounts) != 1 {
		t.Errorf("Mounts = %+v, %v; want that of / only", mounts, err)
	}
}
