package partclone

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// program skips the test when one is missing.
func program(t *testing.T, names ...string) {
	t.Helper()
	for _, n := range names {
		if _, err := exec.LookPath(n); err != nil {
			t.Skipf("%s is not installed; make deps installs it", n)
		}
	}
}

func run(t *testing.T, env []string, name string, args ...string) {
	t.Helper()
	c := exec.Command(name, args...)
	c.Env = append(os.Environ(), env...)
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(c.Args, " "), err, bytes.TrimSpace(out))
	}
}

// content makes a directory with files that leave holes between them.
func content(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for i := range 60 {
		b := bytes.Repeat([]byte(fmt.Sprintf("file %d ", i)), 1+i*i*3)
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("f%d", i)), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestAgainstPartclone: what partclone.restore makes of an image that partclone made of a
// real file system is what we read from it, with nothing written outside of the used
// blocks. Both start from a device full of 0xA5.
func TestAgainstPartclone(t *testing.T) {
	program(t, "partclone.restore")
	type fs struct {
		name, clone string
		size        int64
		tools       []string
		mkfs        func(t *testing.T, img, dir string)
	}
	cmd := func(name string, args ...string) func(*testing.T, string, string) {
		return func(t *testing.T, img, dir string) {
			var a []string
			for _, x := range args {
				a = append(a, strings.NewReplacer("IMG", img, "DIR", dir).Replace(x))
			}
			if name == "mkfs.btrfs" && os.Geteuid() != 0 {
				t.Skip("mkfs.btrfs looks into loop devices: needs root")
			}
			// mkfs.xfs makes less than 300 MiB only for its own tests (libxfs of xfsprogs 5.19).
			run(t, []string{"TEST_DIR=1", "TEST_DEV=1", "QA_CHECK_FS=1"}, name, a...)
		}
	}
	fat := func(t *testing.T, img, dir string) {
		run(t, nil, "mkfs.vfat", "-F", "32", "-s", "1", img)
		run(t, nil, "mcopy", "-s", "-i", img, dir, "::/d")
	}
	options := [][]string{nil, {"-a0"}, {"-a1", "-k1"}, {"-a1", "-k7"}, {"-a1", "-k64", "-K"}, {"-a1", "-k5000"}, {"-a1", "-z", "10485760"}}
	for i, f := range []fs{
		{"ext4 of 1 KiB", "ext4", 16 << 20, []string{"mkfs.ext4"}, cmd("mkfs.ext4", "-q", "-b", "1024", "-d", "DIR", "IMG")},
		{"ext4 of 4 KiB", "ext4", 64<<20 + 12288, []string{"mkfs.ext4"}, cmd("mkfs.ext4", "-q", "-b", "4096", "-d", "DIR", "IMG")},
		{"ext2 of 2 KiB", "ext2", 16 << 20, []string{"mkfs.ext2"}, cmd("mkfs.ext2", "-q", "-b", "2048", "-d", "DIR", "IMG")},
		{"xfs", "xfs", 64 << 20, []string{"mkfs.xfs"}, cmd("mkfs.xfs", "-q", "IMG")},
		{"btrfs", "btrfs", 128 << 20, []string{"mkfs.btrfs"}, cmd("mkfs.btrfs", "-q", "-r", "DIR", "IMG")},
		{"ntfs of 512", "ntfs", 16 << 20, []string{"mkntfs", "ntfscp"}, cmd("mkntfs", "-q", "-Q", "-F", "-c", "512", "IMG")},
		{"ntfs of 4 KiB", "ntfs", 32 << 20, []string{"mkntfs", "ntfscp"}, cmd("mkntfs", "-q", "-Q", "-F", "-c", "4096", "IMG")},
		{"fat32", "fat32", 64 << 20, []string{"mkfs.vfat", "mcopy"}, fat},
		{"exfat", "exfat", 32 << 20, []string{"mkfs.exfat"}, cmd("mkfs.exfat", "IMG")},
		{"f2fs", "f2fs", 128 << 20, []string{"mkfs.f2fs"}, cmd("mkfs.f2fs", "-q", "IMG")},
		{"raw", "imager", 3<<20 + 512, nil, func(t *testing.T, img, dir string) {
			b, err := os.ReadFile(filepath.Join(dir, "f59"))
			if err == nil {
				var w *os.File
				if w, err = os.OpenFile(img, os.O_WRONLY, 0); err == nil {
					_, err = w.WriteAt(b, 12345)
					w.Close()
				}
			}
			if err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel() // partclone waits more than it works
			program(t, append(f.tools, "partclone."+f.clone)...)
			dir := t.TempDir()
			src := filepath.Join(dir, "src")
			if err := os.WriteFile(src, nil, 0o644); err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(src, f.size); err != nil {
				t.Fatal(err)
			}
			files := content(t)
			f.mkfs(t, src, files)
			if f.clone == "ntfs" {
				for i := 1; i < 60; i += 9 {
					name := fmt.Sprintf("f%d", i)
					run(t, nil, "ntfscp", "-q", src, filepath.Join(files, name), name)
				}
			}
			compare(t, f.clone, src, dir, f.size, options[i%len(options)])
		})
	}
}

// compare makes one image and restores it both ways.
func compare(t *testing.T, clone, src, dir string, size int64, opts []string) {
	t.Helper()
	img, target, log := filepath.Join(dir, "img"), filepath.Join(dir, "target"), filepath.Join(dir, "log")
	run(t, nil, "partclone."+clone, append([]string{"-c", "-q", "-s", src, "-O", img, "-L", log}, opts...)...)
	blank := bytes.Repeat([]byte{0xA5}, int(size))
	if err := os.WriteFile(target, blank, 0o644); err != nil {
		t.Fatal(err)
	}
	run(t, nil, "partclone.restore", "-q", "-C", "-s", img, "-O", target, "-L", log)
	want, err := os.ReadFile(target)
	if err != nil {
		t.Fatal(err)
	}
	in, err := os.Open(img)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	m, err := restore(in, blank)
	if err != nil {
		t.Fatalf("%v: %v", opts, err)
	}
	if !bytes.Equal(blank, want) {
		t.Errorf("%v: content differs from that of partclone.restore", opts)
	}
	source, err := os.ReadFile(src)
	if err != nil {
		t.Fatal(err)
	}
	for e := range m.Extents() {
		if !bytes.Equal(blank[e.Offset:][:e.Length], source[e.Offset:][:e.Length]) {
			t.Errorf("%v: bytes %d to %d differ from the source", opts, e.Offset, e.Offset+e.Length)
		}
	}
	t.Logf("%v: %s: %d of %d blocks of %d bytes used, device %d, %s for %d blocks", opts, m.FS, m.UsedBlocks, m.Blocks, m.BlockSize, m.DeviceSize, m.Checksum, m.BlocksPerChecksum)
}
