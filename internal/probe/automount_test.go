package probe

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/layout"
)

// TestAutomounts: local file systems that wait for their first use are mounted before
// the mounts are read, those of other machines are not, and one that fails is named.
func TestAutomounts(t *testing.T) {
	m := Machine{Root: t.TempDir()}
	if err := os.MkdirAll(m.Root+"/proc/self", 0o755); err != nil {
		t.Fatal(err)
	}
	info := "22 1 254:1 / / rw - ext4 /dev/vda1 rw\n"
	for i, p := range []string{"/data", "/data/in", "/efi", "/gone", "/net", "/san", "/misc"} {
		if p != "/data/in" {
			info += string(rune('3'+i)) + "0 22 0:5 / " + p + " rw - autofs systemd-1 rw\n"
		}
	}
	write := func() {
		if err := os.WriteFile(m.Root+"/proc/self/mountinfo", []byte(info), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write()
	l := &layout.Layout{Fstab: "UUID=1 /data ext4 x-systemd.automount 0 2\n/dev/vdb1 /data/in ext4 x-systemd.automount\nLABEL=g /gone xfs x-systemd.automount,nofail\nh:/x /net nfs x-systemd.automount\n/dev/sdz /san ext4 _netdev,x-systemd.automount\n"}
	var opened []string
	mounts, err := m.automounted(l, func(p string) error {
		opened = append(opened, p)
		switch p {
		case "/data":
			info += "100 30 8:1 / /data rw - ext4 /dev/vdb2 rw\n101 100 0:5 / /data/in rw - autofs systemd-1 rw\n"
		case "/data/in":
			info += "102 101 8:2 / /data/in rw - ext4 /dev/vdb1 rw\n"
		case "/efi":
			info += "103 50 8:3 / /efi rw - vfat /dev/vda2 rw\n"
		case "/gone":
			return errors.New("no such device")
		}
		write()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(opened, " "); got != "/data /efi /gone /data/in" {
		t.Errorf("opened: %s", got)
	}
	for _, p := range []string{"/data", "/data/in", "/efi"} {
		if !slices.ContainsFunc(mounts, func(mi MountInfo) bool { return mi.Path == p && mi.Type != "autofs" && !mi.Hidden }) {
			t.Errorf("%s is not among the mounts: %+v", p, mounts)
		}
	}
	want := []layout.Unsupported{{What: "/gone", Device: "/gone", Reason: "automount that can't be mounted: no such device"}}
	if !slices.Equal(l.Unsupported, want) {
		t.Errorf("recorded: %+v", l.Unsupported)
	}
}
