package restore

import (
	"context"
	"reflect"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/medium"
	"github.com/mkcdrec/mkcdrec/internal/recreate"
	"github.com/mkcdrec/mkcdrec/internal/superblock"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

// What is opened read-only is opened so from the bottom up, and with no program that
// writes: no volume group is activated for writing.
func TestOpenReadOnly(t *testing.T) {
	run := &tool.Recorder{Answers: map[string]string{"lvm": `{"report":[{"lv":[{"lv_name":"root","segtype":"linear"}]}]}`}}
	n := &notes{}
	r := &Repair{Run: run, Report: n, Target: t.TempDir(), Access: recreate.ReadOnly}
	// The disks here have no such group and no root: it ends there.
	if _, err := r.Mount(context.Background(), &layout.Layout{VolumeGroup: []layout.VolumeGroup{{Name: "vg-of-test"}}}); err == nil {
		t.Fatal("a layout without a root was mounted")
	}
	all := strings.Join(run.Calls, "\n")
	if strings.Contains(all, "vgchange -ay") || strings.Contains(all, "--run") || !strings.Contains(all, "read_only_volume_list") {
		t.Errorf("programs:\n%s", all)
	}
	// What was opened is closed again.
	if last := run.Calls[len(run.Calls)-1]; last != "lvm vgchange -an vg-of-test" {
		t.Errorf("the last program: %s", last)
	}
	md := func(name, uuid string) medium.Device {
		return medium.Device{Name: name, Info: &superblock.Info{MD: &superblock.MD{UUID: uuid}}}
	}
	by := members([]medium.Device{md("sda1", "u"), md("sdb1", "u"), md("sdc1", "v"), {Name: "sdd", Info: &superblock.Info{}}})
	if got := r.named(by["u"]); !reflect.DeepEqual(got, []string{"sda1", "sdb1"}) {
		t.Errorf("members to read: %v", got)
	}
	r.Access = recreate.ReadWrite
	if got := r.named(by["u"]); got != nil {
		t.Errorf("members to write: %v; want mdadm to look", got)
	}
}
