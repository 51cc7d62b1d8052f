package initramfs

import (
	"bytes"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// TestNames reads what cpio(1) and the usual compressors write: an early
// archive, padding, and the main one.
func TestNames(t *testing.T) {
	dir := t.TempDir()
	make := func(script string) []byte {
		t.Helper()
		c := exec.Command("sh", "-ec", script)
		c.Dir = dir
		out, err := c.Output()
		if err != nil {
			t.Skipf("%s: %v; make test installs what it needs", script, err)
		}
		return out
	}
	early := make(`mkdir -p kernel/x86 && echo code > kernel/x86/microcode && find kernel | cpio -o -H newc 2>/dev/null`)
	main := make(`mkdir -p usr/lib/modules && head -c 300000 /dev/urandom > usr/lib/modules/virtio-blk.ko.xz && ln -s usr/lib lib && printf '%s\n' usr usr/lib usr/lib/modules usr/lib/modules/virtio-blk.ko.xz lib | cpio -o -H newc 2>/dev/null`)
	want := []string{"usr", "usr/lib", "usr/lib/modules", "usr/lib/modules/virtio-blk.ko.xz", "lib"}
	for _, z := range []string{"cat", "gzip", "xz --check=crc32", "zstd -19", "lz4 -l", "bzip2", "xz --format=lzma"} {
		c := exec.Command("sh", "-c", z)
		c.Stdin = bytes.NewReader(main)
		packed, err := c.Output()
		if err != nil {
			t.Logf("%s: %v", z, err)
			continue
		}
		for name, in := range map[string][]byte{"alone": packed, "early": slices.Concat(early, packed), "early, padded": slices.Concat(early, bytes.Repeat([]byte{0}, 1024), packed)} {
			got, err := Names(bytes.NewReader(in))
			if err != nil || !slices.Equal(slices.DeleteFunc(got, func(n string) bool { return strings.HasPrefix(n, "kernel") }), want) {
				t.Errorf("%s, %s: %q, %v", z, name, got, err)
			}
		}
		if _, err := Names(bytes.NewReader(packed[:len(packed)/2])); err == nil {
			t.Errorf("%s: half of it was taken", z)
		}
	}
	for _, bad := range []string{"", "x", "no initramfs at all", "070701short"} {
		if got, err := Names(strings.NewReader(bad)); err == nil {
			t.Errorf("%q: %q", bad, got)
		}
	}
}

// TestContents: only the files that are wanted, and of two with one path the last.
func TestContents(t *testing.T) {
	dir := t.TempDir()
	c := exec.Command("sh", "-ec", `mkdir -p etc kernel && printf code > kernel/x && printf old > etc/crypttab && printf y > etc/y
find . | cpio -o -H newc 2>/dev/null; printf new > etc/crypttab; printf /etc/y > etc/z; ln -s /etc/y etc/l; find etc | cpio -o -H newc 2>/dev/null | gzip`)
	c.Dir = dir
	in, err := c.Output()
	if err != nil {
		t.Skipf("cpio: %v", err)
	}
	got, err := Contents(bytes.NewReader(in), func(p string) bool { return p == "etc/crypttab" || p == "etc/y" || p == "etc/l" })
	if err != nil || len(got) != 2 || string(got["etc/crypttab"]) != "new" || string(got["etc/y"]) != "y" {
		t.Errorf("%q, %v", got, err)
	}
}

func FuzzNames(f *testing.F) {
	f.Add([]byte("070701" + strings.Repeat("00000000", 13) + "x"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < 1<<16 {
			_, _ = Names(bytes.NewReader(b))
			_, _ = Contents(bytes.NewReader(b), func(string) bool { return true })
		}
	})
}
