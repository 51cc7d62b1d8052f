package repair

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/machinetest"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

// opened is a machine on which a system is open: a root in a volume group in a LUKS device on
// an array, and a LUKS device in that group. md9 is not the system's.
func opened(t *testing.T) (*machinetest.Machine, *Opener, *layout.Layout) {
	t.Helper()
	m := machinetest.New(t)
	m.AddDisk("vda", quantity.MiB, "")
	m.AddVirtual("md0", "", quantity.MiB, "vda")
	m.AddVirtual("md9", "", quantity.MiB)
	m.AddVirtual("dm-0", "outer", quantity.MiB, "md0")
	m.AddVirtual("dm-1", "vg0-root", quantity.MiB, "dm-0")
	m.AddVirtual("dm-2", "vg0-more", quantity.MiB, "dm-0")
	m.AddVirtual("dm-3", "inner", quantity.MiB, "dm-2")
	m.Write("/mnt/target/home/file", "")
	for _, at := range [][2]string{{"/dev/vg0/root", "/mnt/target"}, {"/dev/mapper/inner", "/mnt/target/home"}, {"tmpfs", "/run"}} {
		if err := m.Mount(at[0], m.Path(at[1]), "ext4", 0, ""); err != nil {
			t.Fatal(err)
		}
	}
	m.Answer("", "lvm vgchange")
	m.Programs["cryptsetup close"] = func(c tool.Cmd) (string, error) { m.Remove("mapper/" + c.Args[2]); return "", nil }
	m.Programs["mdadm --stop"] = func(c tool.Cmd) (string, error) {
		m.Remove(strings.TrimPrefix(c.Args[2], "/dev/"))
		return "", nil
	}
	l := &layout.Layout{Crypts: []layout.Crypt{{Name: "outer", Device: "md0"}, {Name: "inner", Device: "vg0/more"}}, VolumeGroup: []layout.VolumeGroup{{Name: "vg0"}}, Arrays: []layout.Array{{Name: "md0"}}}
	return m, &Opener{Run: m, Report: progress.None{}, Target: m.Path("/mnt/target")}, l
}

// TestUnmount: a system is written, unmounted and closed from the top down, without what is
// not its own.
func TestUnmount(t *testing.T) {
	closed := []string{"sync", "unmount /mnt/target/home", "unmount /mnt/target", "run cryptsetup close inner", "run lvm vgchange -an vg0", "run cryptsetup close outer", "run mdadm --stop /dev/md0"}
	for name, c := range map[string]struct {
		fail, want string
		did        []string
	}{
		"closed":       {"", "", closed},
		"in use":       {"unmount /mnt/target/home", "is a shell or a program still in there?", closed[:3]},
		"group in use": {"run lvm vgchange", "cannot deactivate volume group vg0", closed},
	} {
		t.Run(name, func(t *testing.T) {
			m, r, l := opened(t)
			if c.fail != "" {
				m.Fail[c.fail] = errors.New("told to fail")
			}
			err := r.Unmount(t.Context(), l)
			if (err == nil) != (c.want == "") || err != nil && (!strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "told to fail")) {
				t.Errorf("Unmount() = %v; want an error with %q", err, c.want)
			}
			if got := m.Did("sync", "unmount", "run"); !slices.Equal(got, c.did) {
				t.Errorf("Unmount() did %q; want %q", got, c.did)
			}
			if !m.Probe().There("md9") || !slices.Contains(m.Mounted(), "tmpfs /run") {
				t.Errorf("Unmount() left %q; want what is not the system's to stay", m.Mounted())
			}
		})
	}
}
