package repair

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/layout"
)

// What is loaded is what the boot loader would load.
func TestLoadEntry(t *testing.T) {
	root := t.TempDir()
	put := func(name, text string) {
		t.Helper()
		name = filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	put("boot/vmlinuz", "KERNEL")
	put("boot/ucode", "12345")
	put("boot/initrd", "678")
	for _, c := range []struct{ cfg, initrd, cmdline string }{
		{"menuentry a {\nlinux /boot/vmlinuz root=UUID=1 ro\ninitrd /boot/ucode /boot/initrd\n}", "12345\x00\x00\x00678\x00", "root=UUID=1 ro"},
		{"menuentry a {\nlinux /boot/vmlinuz root=UUID=1\ninitrd /boot/initrd\n}", "678", "root=UUID=1"},
		{"menuentry a {\nlinux /boot/vmlinuz root=UUID=1\n}", "", "root=UUID=1"},
	} {
		put("boot/grub/grub.cfg", c.cfg)
		calls := 0
		e, err := loadEntry(root, &layout.Layout{}, func(kernel, initrd *os.File, cmdline string, flags int) error {
			calls++
			k, _ := io.ReadAll(kernel)
			var i []byte
			if (initrd == nil) != (flags == unix.KEXEC_FILE_NO_INITRAMFS) {
				t.Errorf("flags %d with the initrd %v", flags, initrd)
			}
			if initrd != nil {
				if _, err := initrd.Seek(0, io.SeekStart); err != nil {
					t.Error(err)
				}
				i, _ = io.ReadAll(initrd)
			}
			if string(k) != "KERNEL" || string(i) != c.initrd || cmdline != c.cmdline {
				t.Errorf("loads %q %q %q; want %+v", k, i, cmdline, c)
			}
			return nil
		})
		if err != nil || calls != 1 || e.Linux != "/boot/vmlinuz" {
			t.Errorf("%+v %v, %d calls", e, err, calls)
		}
	}
	_, err := loadEntry(root, &layout.Layout{}, func(*os.File, *os.File, string, int) error { return unix.ENOSYS })
	if !errors.Is(err, unix.ENOSYS) || !strings.Contains(err.Error(), "/boot/vmlinuz") {
		t.Errorf("without kexec: %v", err)
	}
}
