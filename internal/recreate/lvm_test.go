package recreate

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/plan"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
)

// lvmRestore has the real programs take a group's text, on sparse files behind loop
// devices: pvcreate and vgcfgrestore, without the kernel's device-mapper. size gives the
// size of a physical volume's device. It gives what lvs(8) lists.
func lvmRestore(t *testing.T, g *layout.VolumeGroup, config string, size func(dev string) quantity.Size) (string, error) {
	t.Helper()
	if _, err := exec.LookPath("lvm"); err != nil || os.Getuid() != 0 {
		t.Skip("lvm is not installed, or this is not root; make test has both")
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "text")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	filter, devs := "", []string{}
	for i := range g.PVs {
		img := filepath.Join(dir, fmt.Sprint("pv", i))
		if err := os.WriteFile(img, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(img, int64(size(g.PVs[i].Device))); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command("losetup", "--show", "-f", img).Output()
		if err != nil {
			t.Skip("no loop devices here: ", err)
		}
		dev := strings.TrimSpace(string(out))
		defer exec.Command("losetup", "-d", dev).Run()
		devs = append(devs, dev)
		filter += `"a|^` + dev + `$|", `
	}
	conf := "devices {\n use_devicesfile = 0\n filter = [ " + filter + "\"r|.*|\" ]\n global_filter = [ " + filter + "\"r|.*|\" ]\n}\nglobal {\n event_activation = 0\n}\nbackup {\n backup = 0\n archive = 0\n}\nactivation {\n udev_sync = 0\n udev_rules = 0\n}\n"
	if err := os.WriteFile(filepath.Join(dir, "lvm.conf"), []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	lvm := func(args ...string) (string, error) {
		c := exec.Command("lvm", args...)
		c.Env = append(os.Environ(), "LVM_SYSTEM_DIR="+dir, "DM_DISABLE_UDEV=1", "LVM_SUPPRESS_FD_WARNINGS=1")
		out, err := c.CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%v: %w: %s", args, err, out)
		}
		return string(out), err
	}
	for i, p := range g.PVs {
		if _, err := lvm("pvcreate", "-ff", "-y", "--uuid", p.UUID, "--restorefile", file, devs[i]); err != nil {
			return "", err
		}
	}
	if _, err := lvm("vgcfgrestore", "-f", file, g.Name, "--driverloaded", "n"); err != nil {
		return "", err
	}
	if out, err := lvm("vgck", g.Name, "--driverloaded", "n"); err != nil {
		return out, err
	}
	return lvm("lvs", "-a", "-H", "--noheadings", "-o", "lv_name,lv_size", "--units", "m", g.Name, "--driverloaded", "n")
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
