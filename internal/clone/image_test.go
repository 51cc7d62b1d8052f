package clone

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/gpt"
	"github.com/mkcdrec/mkcdrec/internal/probe"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/restore"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

// partImageOf makes an image of an ext4 of 64 MiB.
func partImageOf(t *testing.T, name string) {
	t.Helper()
	src := filepath.Join(t.TempDir(), "src")
	ext4(t, src, "64M")
	run(t, "partclone.ext4", "-q", "-c", "-s", src, "-o", name)
}

// pack runs a compressor that writes to its standard output.
func pack(t *testing.T, name, to string, args ...string) {
	t.Helper()
	if _, err := exec.LookPath(args[0]); err != nil {
		t.Skipf("%s is missing", args[0])
	}
	out, err := exec.Command(args[0], append(args[1:], name)...).Output()
	if err == nil {
		err = os.WriteFile(to, out, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestPartImage: images of partclone in all compressions, and in parts, become the file
// system that they were made of.
func TestPartImage(t *testing.T) {
	needsLoops(t)
	plain := filepath.Join(t.TempDir(), "sda1.ext4-ptcl-img")
	partImageOf(t, plain)
	for name, c := range map[string][]string{"gz": {"gzip", "-c"}, "zst": {"zstd", "-qc"}, "xz": {"xz", "-0c"}, "lz4": {"lz4", "-qc"}, "bz2": {"bzip2", "-c"}, "uncomp": {"cat"}} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			img, dst := filepath.Join(dir, "sda1.ext4-ptcl-img."+name), filepath.Join(dir, "dst")
			pack(t, plain, img, c...)
			src := img
			if name == "gz" { // in parts, and by the name of the first
				run(t, "split", "-a", "2", "-b", "1M", img, img+".")
				if err := os.Remove(img); err != nil {
					t.Fatal(err)
				}
				src = img + ".aa"
			}
			s := &recorder{}
			rep, err := Run(context.Background(), tool.Exec{}, s, Options{Source: []string{src}, Target: []string{dst}, Identity: Keep, Verify: name == "zst"})
			if err != nil || len(rep.NotCovered) > 0 {
				t.Fatalf("%v %+v\n%s", err, rep, s.text.String())
			}
			checkExt4(t, dst)
			if (name == "zst") != strings.Contains(s.text.String(), "phase: comparing") {
				t.Errorf("what was compared:\n%s", s.text.String())
			}
		})
	}
}

// TestPartImageToDevice: a device takes an image after it was confirmed; one that is too
// small, mounted or not confirmed is refused, and stays as it was.
func TestPartImageToDevice(t *testing.T) {
	needsLoops(t)
	dir := t.TempDir()
	img := filepath.Join(dir, "img")
	partImageOf(t, img)
	small, large := filepath.Join(dir, "small"), filepath.Join(dir, "large")
	ext4(t, small, "32M")
	ext4(t, large, "80M")
	dev := map[string]string{"small": loopOver(t, small, 0), "large": loopOver(t, large, 0)}
	clone := func(to string, confirmed bool) error {
		o := Options{Source: []string{img}, Target: []string{dev[to]}, Identity: Keep}
		o.Restore.Outside, o.Restore.Yes = true, true
		if confirmed {
			o.Restore.Wish.Confirmed = []string{probe.Machine{}.Place(dev[to]).Slot()}
		}
		_, err := Run(context.Background(), tool.Exec{}, &recorder{}, o)
		return err
	}
	for _, to := range []string{"small", "large"} {
		before, err := os.ReadFile(filepath.Join(dir, to))
		if err != nil {
			t.Fatal(err)
		}
		if err := clone(to, to == "small"); exit.Code(err) != exit.Refused {
			t.Errorf("%s: %v", to, err)
		}
		if after, err := os.ReadFile(filepath.Join(dir, to)); err != nil || !bytes.Equal(before, after) {
			t.Errorf("%s was written to, %v", to, err)
		}
	}
	mnt := filepath.Join(dir, "mnt")
	if err := os.Mkdir(mnt, 0o755); err != nil {
		t.Fatal(err)
	}
	run(t, "mount", "/dev/"+dev["large"], mnt)
	if err := clone("large", true); exit.Code(err) != exit.Refused || !strings.Contains(err.Error(), "mounted") {
		t.Errorf("a device that is mounted: %v", err)
	}
	run(t, "umount", mnt)
	if err := clone("large", true); err != nil {
		t.Fatal(err)
	}
	checkExt4(t, large)
}

// TestBadPartImage: an image that is cut off, has a flipped bit, another version, or blocks
// that do not fit into its size, makes no file; a part that is missing is named.
func TestBadPartImage(t *testing.T) {
	needsLoops(t)
	plain := filepath.Join(t.TempDir(), "img")
	partImageOf(t, plain)
	good, err := os.ReadFile(plain)
	if err != nil {
		t.Fatal(err)
	}
	sum := func(b []byte) []byte { // of the header, anew
		binary.LittleEndian.PutUint32(b[106:], headerSum(b[:106]))
		return b
	}
	for name, c := range map[string]struct {
		damage func([]byte) []byte
		want   string
	}{
		"cut off in its data":     {func(b []byte) []byte { return b[:len(b)-100] }, "cannot restore"},
		"cut off in its map":      {func(b []byte) []byte { return b[:300] }, "cannot read partclone image"},
		"a flipped bit":           {func(b []byte) []byte { b[len(b)/2] ^= 1; return b }, "damaged"},
		"a flipped bit of a map":  {func(b []byte) []byte { b[200] ^= 1; return b }, "cannot read partclone image"},
		"another version":         {func(b []byte) []byte { b[33] = '9'; return b }, "version"},
		"a size that is not its":  {func(b []byte) []byte { binary.LittleEndian.PutUint64(b[52:], 1<<20); return sum(b) }, "cannot read partclone image"},
		"an endless map":          {func(b []byte) []byte { binary.LittleEndian.PutUint64(b[60:], 1<<60); return sum(b) }, "cannot read partclone image"},
		"data behind the last":    {func(b []byte) []byte { return append(b, 'x') }, "data follows"},
		"fewer blocks in the map": {func(b []byte) []byte { b[68] ^= 1; b[76] ^= 1; return sum(b) }, "cannot read partclone image"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			img, dst := filepath.Join(dir, "img"), filepath.Join(dir, "dst")
			if err := os.WriteFile(img, c.damage(bytes.Clone(good)), 0o644); err != nil {
				t.Fatal(err)
			}
			s := &recorder{}
			_, err := Run(context.Background(), tool.Exec{}, s, Options{Source: []string{img}, Target: []string{dst}, Identity: Keep})
			if exit.Code(err) != exit.Failed || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v\n%s", err, s.text.String())
			}
			if all, err := filepath.Glob(dst + "*"); err != nil || len(all) > 0 {
				t.Errorf("%v, %v", all, err)
			}
		})
	}
	dir := t.TempDir()
	img := filepath.Join(dir, "img")
	if err := errors.Join(os.WriteFile(img+".aa", good[:1<<20], 0o644), os.WriteFile(img+".ac", good[1<<20:], 0o644)); err != nil {
		t.Fatal(err)
	}
	if _, err := Run(context.Background(), tool.Exec{}, &recorder{}, Options{Source: []string{img}, Target: []string{filepath.Join(dir, "dst")}, Identity: Keep}); err == nil || !strings.Contains(err.Error(), "img.ab is missing") {
		t.Errorf("a part that is missing: %v", err)
	}
}

// headerSum is partclone's CRC32 (crc32 in its src/checksum.c).
func headerSum(b []byte) uint32 {
	crc := ^uint32(0)
	for _, x := range b {
		crc ^= uint32(x)
		for range 8 {
			crc = crc>>1 ^ 0xEDB88320&-(crc&1)
		}
	}
	return crc
}

// TestRaw: a disk is copied byte by byte onto a larger one, whose table has its copy at its
// end; a smaller one is refused.
func TestRaw(t *testing.T) {
	needsLoops(t)
	dir := t.TempDir()
	src := filepath.Join(dir, "src")
	run(t, "truncate", "-s", "64M", src)
	cmd := exec.Command("sfdisk", "-q", src)
	cmd.Stdin = strings.NewReader("label: gpt\nstart=2048,size=100000,name=data\n")
	if out, err := cmd.CombinedOutput(); errors.Is(err, exec.ErrNotFound) {
		t.Skip("sfdisk is missing")
	} else if err != nil {
		t.Fatalf("%v %s", err, out)
	}
	f, err := os.OpenFile(src, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	text := bytes.Repeat([]byte("nothing that is known "), 4000)
	if _, err := f.WriteAt(text, 3<<20); err != nil {
		t.Fatal(err)
	}
	for _, size := range []quantity.Size{64 << 20, 80 << 20} {
		dst := filepath.Join(dir, size.String())
		s := &recorder{}
		rep, err := Run(context.Background(), tool.Exec{}, s, Options{Source: []string{src}, Target: []string{dst}, Identity: Keep, Raw: true, TargetSize: size, Verify: true, Map: dst + ".map"})
		if err != nil || len(rep.NotCovered) > 0 || !strings.Contains(s.text.String(), "step: copy all bytes of") {
			t.Fatalf("%v %+v\n%s", err, rep, s.text.String())
		}
		g, err := os.Open(dst)
		if err != nil {
			t.Fatal(err)
		}
		defer g.Close()
		want, got := make([]byte, 100000*512), make([]byte, 100000*512)
		_, err = f.ReadAt(want, 2048*512)
		_, err2 := g.ReadAt(got, 2048*512)
		if err := errors.Join(err, err2); err != nil || !bytes.Equal(want, got) {
			t.Errorf("the partition differs, %v", err)
		}
		was, err := gpt.Read(f, 512, 64<<20)
		if err != nil {
			t.Fatal(err)
		}
		now, err := gpt.Read(g, 512, int64(size))
		if err != nil || now.FromCopy || now.GUID != was.GUID || len(now.Partitions) != 1 || now.Partitions[0] != was.Partitions[0] {
			t.Errorf("the table is %+v, %v; was %+v", now, err, was)
		}
		if out, err := exec.Command("sgdisk", "-v", dst).CombinedOutput(); err == nil && !strings.Contains(string(out), "No problems found") {
			t.Errorf("sgdisk: %s", out)
		}
		if _, err := g.Seek(0, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		if st, err := g.Stat(); err != nil || st.Sys().(*syscall.Stat_t).Blocks > 20<<11 {
			t.Errorf("zero bytes were written: %v", err)
		}
	}
	var no *exit.Refusal
	dst := filepath.Join(dir, "small")
	_, err = Run(context.Background(), tool.Exec{}, &recorder{}, Options{Source: []string{src}, Target: []string{dst}, Identity: Keep, Raw: true, TargetSize: 32 << 20})
	if !errors.As(err, &no) || exit.Code(err) != exit.Refused || exists(dst) {
		t.Errorf("a smaller disk: %v", err)
	}
}

// TestSameDevice: source and target that are one device by two names are refused.
func TestSameDevice(t *testing.T) {
	needsLoops(t)
	dir := t.TempDir()
	src, link := filepath.Join(dir, "src"), filepath.Join(dir, "by-id")
	ext4(t, src, "64M")
	dev := loopOver(t, src, 0)
	if err := os.Symlink("/dev/"+dev, link); err != nil {
		t.Fatal(err)
	}
	for _, raw := range []bool{false, true} {
		o := Options{Source: []string{dev}, Target: []string{link}, Identity: Keep, Raw: raw}
		o.Restore.Outside = true
		if _, err := Run(context.Background(), tool.Exec{}, &recorder{}, o); exit.Code(err) != exit.Refused || !strings.Contains(err.Error(), "to itself") {
			t.Errorf("raw %v: %v", raw, err)
		}
	}
	// An image file, and the loop device over it.
	o := Options{Source: []string{src}, Target: []string{dev}, Identity: Keep}
	o.Restore.Outside = true
	if _, err := Run(context.Background(), tool.Exec{}, &recorder{}, o); exit.Code(err) != exit.Refused || !strings.Contains(err.Error(), "to itself") {
		t.Errorf("an image and its device: %v", err)
	}
	checkExt4(t, src)
}

// TestPartImageOnto: a device that is a part of a disk takes an image, and nothing but what
// the image has is written to it.
func TestPartImageOnto(t *testing.T) {
	needsLoops(t)
	dir := t.TempDir()
	img, dst := filepath.Join(dir, "img"), filepath.Join(dir, "dst")
	partImageOf(t, img)
	if err := os.WriteFile(dst, bytes.Repeat([]byte{0xA5}, 80<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := openPartImage(img, true)
	if err != nil || p == nil {
		t.Fatal(p, err)
	}
	dev := loopOver(t, dst, 0)
	s := &recorder{confirm: []string{probe.Machine{}.Place(dev).Slot()}}
	_, err = onlyOnto(context.Background(), tool.Exec{}, s, []string{dev}, restore.Options{Content: p, DataOnly: true, Request: restore.Request{Outside: true, Onto: dev}})
	if err != nil || !strings.Contains(s.text.String(), "step: write the image of partition (EXTFS) to /dev/"+dev) {
		t.Fatalf("%v\n%s", err, s.text.String())
	}
	checkExt4(t, dst)
	if _, err = onlyOnto(context.Background(), tool.Exec{}, &recorder{confirm: []string{"x"}}, []string{dev}, restore.Options{Content: p, DataOnly: true, Request: restore.Request{Outside: true, Onto: dev}}); exit.Code(err) != exit.Refused {
		t.Errorf("not confirmed: %v", err)
	}
	small := filepath.Join(dir, "small")
	run(t, "truncate", "-s", "40M", small)
	if _, err = onlyOnto(context.Background(), tool.Exec{}, s, []string{loopOver(t, small, 0)}, restore.Options{Content: p, DataOnly: true, Request: restore.Request{Outside: true, Onto: filepath.Base(small)}}); exit.Code(err) != exit.Refused {
		t.Errorf("no such device: %v", err)
	}
	if _, err = onlyOnto(context.Background(), tool.Exec{}, s, []string{"loop0"}, restore.Options{Content: p, DataOnly: true, Request: restore.Request{Outside: true, Onto: loopOver(t, small, 0)}}); exit.Code(err) != exit.Refused {
		t.Errorf("a small device: %v", err)
	}
}
