package recreate

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/plan"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

// lvmRestore has the real programs take a group's text, on sparse files behind loop
// devices: pvcreate and vgcfgrestore, without the kernel's device-mapper. size gives the
// size of a physical volume's device. It gives what lvs(8) lists.
func lvmRestore(t *testing.T, g *layout.VolumeGroup, config string, size func(dev string) quantity.Size) (string, error) {
	t.Helper()
	if _, err := exec.LookPath("lvm"); err != nil || os.Getuid() != 0 {
		t.Skip("lvm is not installed, or this is not root; make test has both")
	}
	var pvs []trialPV
	for _, p := range g.PVs {
		pvs = append(pvs, trialPV{p.UUID, size(p.Device)})
	}
	out, err := tryGroup(t.Context(), tool.Exec{}, t.TempDir(), g.Name, config, pvs, "lvs", "-a", "-H", "--noheadings", "-o", "lv_name,lv_size", "--units", "m", g.Name)
	if errors.As(err, new(loopError)) {
		t.Skip("no loop devices here: ", err)
	}
	return string(out), err
}

// TestGroupText has vgcfgrestore take what is left of a group with history, thin clones,
// integrity and snapshots.
func TestGroupText(t *testing.T) {
	b, err := os.ReadFile("../plan/testdata/odd.vg")
	if err != nil {
		t.Fatal(err)
	}
	g := &layout.VolumeGroup{Name: "vgplan", Config: string(b)}
	for _, id := range []string{"sBd", "aBd", "bBd"} {
		g.PVs = append(g.PVs, layout.PhysicalVolume{Device: id, UUID: id + "3By-FDT8-l1pL-bUqw-y1tl-JpIX-bZ3RcW"})
	}
	size := func(string) quantity.Size { return 300 * quantity.MiB }
	text, err := plan.Thinless(g)
	if err != nil {
		t.Fatal(err)
	}
	out, err := lvmRestore(t, g, text, size)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(strings.Split(strings.TrimSpace(out), "\n")); !strings.Contains(out, "plain") || !strings.Contains(out, "mir ") || strings.Contains(out, "gone") || n < 6 {
		t.Errorf("lvs lists\n%s", out)
	}
	// What the plan's check refuses, the programs refuse.
	for _, broken := range [][2]string{{`stripes = ["pv0", 0]`, `stripes = ["pv7", 0]`}, {`"mir_rimage_0", "mir_rmeta_1"`, `"mir_rimage_7", "mir_rmeta_1"`}} {
		bad := strings.Replace(text, broken[0], broken[1], 1)
		if bad == text {
			t.Fatalf("%q is not in the text:\n%s", broken[0], text)
		}
		if _, err := lvmRestore(t, g, bad, size); err == nil {
			t.Errorf("vgcfgrestore takes %s", broken[1])
		}
	}
}
