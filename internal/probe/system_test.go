package probe

import (
	"os"
	"path/filepath"
	"testing"
)

// TestSystem: of a system that is mounted below a directory, mounts and files are those
// that it has itself.
func TestSystem(t *testing.T) {
	root, system := t.TempDir(), t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(root+"/proc/self/mountinfo", "1 0 0:1 / / rw - rootfs rootfs rw\n"+
		"20 1 8:1 / "+system+" ro - ext4 /dev/sda1 ro\n"+
		"21 20 8:2 / "+system+"/home ro - xfs /dev/sda2 ro\n"+
		"22 1 8:3 / "+system+"-other ro - ext4 /dev/sda3 ro\n"+
		"23 1 8:4 / /mnt/set rw - ext4 /dev/sdb1 rw\n")
	write(root+"/proc/cmdline", "root=/dev/rescue")
	write(root+"/etc/fstab", "the rescue system's")
	write(root+"/outside", "secret")
	write(system+"/etc/fstab", "UUID=1 / ext4 defaults 0 1\n")
	write(system+"/etc/hostname", "web01\n")
	write(system+"/usr/lib/crypttab", "secret /dev/sda3 none\n")
	for link, to := range map[string]string{"/etc/crypttab": "/usr/lib/crypttab", "/etc/up": "../../../../../../.." + root + "/outside", "/data": root} {
		if err := os.Symlink(to, system+link); err != nil {
			t.Fatal(err)
		}
	}
	m := Machine{Root: root, System: system}
	mounts, err := m.Mounts()
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, x := range mounts {
		paths = append(paths, x.Path)
	}
	if len(paths) != 2 || paths[0] != "/" || paths[1] != "/home" {
		t.Errorf("mounts %q", paths)
	}
	if m.file("/etc/fstab") != "UUID=1 / ext4 defaults 0 1" || m.hostname() != "web01" || m.cmdline() != "" || m.file("/etc/crypttab") != "secret /dev/sda3 none" {
		t.Errorf("%q %q %q %q", m.file("/etc/fstab"), m.hostname(), m.cmdline(), m.file("/etc/crypttab"))
	}
	if m.file("/etc/up") != "" || m.exists("/data/outside") || m.file("/data/outside") != "" {
		t.Error("a link of the system led out of it")
	}
	if (Machine{Root: root}).cmdline() == "" {
		t.Error("the running system has no command line")
	}
}
