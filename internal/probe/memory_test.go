package probe

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// TestDisksOfOverlay: what is on an overlay is on the disk below it; where its writes go is
// no disk. Loop devices over other files are disks of their own.
func TestDisksOfOverlay(t *testing.T) {
	root := t.TempDir()
	for name, text := range map[string]string{
		"/sys/class/block/dm-1/slaves/dm-0/x": "", "/sys/class/block/dm-0/slaves/vda/x": "", "/sys/class/block/dm-0/slaves/loop3/x": "",
		"/sys/block/loop3/loop/backing_file": "/memfd:mkcdrec-overlay (deleted)\n",
		"/sys/block/loop4/loop/backing_file": "/run/mkcdrec/dry-run/disks/vda.img\n",
		"/sys/block/loop5/loop/backing_file": "/dev/vdb\n",
	} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(root+name), 0o755), os.WriteFile(root+name, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	for dev, want := range map[string][]string{"dm-1": {"vda"}, "dm-0": {"vda"}, "loop3": nil, "loop4": {"loop4"}, "loop5": {"vdb"}} {
		if got := (Machine{Root: root}).DisksOf(dev); !slices.Equal(got, want) {
			t.Errorf("DisksOf(%s) = %v; want %v", dev, got, want)
		}
	}
}

// TestUncovered: the members of an array that is read through overlays or loop devices are
// the partitions below.
func TestUncovered(t *testing.T) {
	root := t.TempDir()
	for name, text := range map[string]string{
		"/sys/block/dm-0/slaves/vda3/x": "", "/sys/block/dm-0/slaves/loop3/x": "", "/sys/block/dm-0/dm/name": "mkcdrec0-:md127\n",
		"/sys/block/dm-1/slaves/vdb3/x": "", "/sys/block/dm-1/dm/name": "vg0-root\n",
		"/sys/block/loop3/loop/backing_file": "/memfd:mkcdrec-overlay (deleted)\n",
		"/sys/block/loop4/loop/backing_file": "/srv/disk.img\n",
		"/sys/block/loop5/loop/backing_file": "/dev/vdb2\n",
	} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(root+name), 0o755), os.WriteFile(root+name, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	for dev, want := range map[string]string{"dm-0": "vda3", "dm-1": "dm-1", "loop4": "loop4", "loop5": "vdb2", "sda1": "sda1"} {
		if got := (Machine{Root: root}).uncovered(dev); got != want {
			t.Errorf("uncovered(%s) = %s; want %s", dev, got, want)
		}
	}
}
