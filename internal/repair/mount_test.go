package repair

import (
	"context"
	"errors"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/medium"
	"github.com/mkcdrec/mkcdrec/internal/probe"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/storage"
	"github.com/mkcdrec/mkcdrec/internal/superblock"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

// What is opened read-only is opened so from the bottom up, and with no program that
// writes: no volume group is activated for writing.
func TestOpenReadOnly(t *testing.T) {
	run := &tool.Recorder{Answers: map[string]string{"lvm": `{"report":[{"lv":[{"lv_name":"root","segtype":"linear"}]}]}`}}
	n := progress.None{}
	r := &Opener{Run: run, Report: n, Target: t.TempDir(), Access: storage.ReadOnly}
	// The disks here have no such group and no root: it ends there.
	if _, err := r.Mount(context.Background(), &layout.Layout{VolumeGroup: []layout.VolumeGroup{{Name: "vg-of-test"}}}); err == nil {
		t.Fatal("a layout without a root was mounted")
	}
	all := strings.Join(run.Calls, "\n")
	if strings.Contains(all, "vgchange -ay") || !strings.Contains(all, "read_only_volume_list") {
		t.Errorf("programs:\n%s", all)
	}
	// What was opened is closed again.
	if last := run.Calls[len(run.Calls)-1]; last != "lvm vgchange -an vg-of-test" {
		t.Errorf("the last program: %s", last)
	}
}

// TestMembers: an array is started of the members that are named, so that mdadm refuses to
// start it for writing where some are missing; a disk whose last partition is a member,
// and that shows its superblock, is not a member.
func TestMembers(t *testing.T) {
	root := t.TempDir()
	for _, d := range []string{"sda", "sdb"} {
		at := root + "/sys/devices/" + d + "/" + d + "1"
		if err := errors.Join(os.MkdirAll(at, 0o755), os.MkdirAll(root+"/sys/class/block", 0o755), os.WriteFile(at+"/partition", []byte("1\n"), 0o644),
			os.Symlink("../../devices/"+d+"/"+d+"1", root+"/sys/class/block/"+d+"1")); err != nil {
			t.Fatal(err)
		}
	}
	md := func(name, uuid string) medium.Device {
		return medium.Device{Name: name, Info: &superblock.Info{MD: &superblock.MD{UUID: uuid}}}
	}
	got := members(probe.Machine{Root: root}, []medium.Device{md("sda", "u"), md("sda1", "u"), md("sdb", "v"), md("sdb1", "u"), md("sdc", "u"), {Name: "sdd", Info: &superblock.Info{}}})
	if want := map[string][]string{"u": {"sda1", "sdb1", "sdc"}, "v": {"sdb"}}; !reflect.DeepEqual(got, want) {
		t.Errorf("%v; want %v", got, want)
	}
}

// TestDegradedHint: the refusal to start an array for writing names what starts it.
func TestDegradedHint(t *testing.T) {
	cause := errors.New("cannot start the RAID array md0")
	for access, want := range map[storage.Access]bool{storage.ReadWrite: true, storage.ReadOnly: false, storage.Degraded: false} {
		err := (&Opener{Access: access}).degraded(cause)
		if !errors.Is(err, cause) || strings.Contains(err.Error(), "run restore mount --degraded") != want {
			t.Errorf("access %d: %v", access, err)
		}
	}
}
