package media

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/stick"
)

const keyID = "0d5f4d2b-5a86-4a0e-8d0a-7a1c5f0e6b11"

func newKey(t *testing.T, size int64) (Key, *os.File, *BIOSLoader) {
	t.Helper()
	l, err := FindBIOS("")
	if err != nil || l.DiskMBR == "" {
		t.Skipf("%v %+v; make test installs isolinux and syslinux-common", err, l)
	}
	k, err := stick.New(keyID, size, 16<<20)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "key"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	// What was there before: a GPT with its copy.
	if err := errors.Join(f.Truncate(size)); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("sgdisk", "-n", "1:0:0", f.Name()).CombinedOutput(); err != nil {
		t.Skipf("sgdisk: %v %s", err, out)
	}
	return Key{k}, f, l
}

// TestKey has sfdisk and file(1)'s eyes on a key through its life: empty, first
// image, second image in the other slot.
func TestKey(t *testing.T) {
	tools(t, "sfdisk")
	const size = 256 << 20
	k, f, l := newKey(t, size)
	if _, err := stick.Read(f); !errors.Is(err, stick.ErrNone) {
		t.Fatalf("a stick with a GPT: %v", err)
	}
	if err := k.Format(f, size, l); err != nil {
		t.Fatal(err)
	}
	dump := func() string {
		t.Helper()
		out, err := exec.Command("sfdisk", "-d", f.Name()).CombinedOutput()
		if err != nil {
			t.Fatalf("sfdisk: %v %s", err, out)
		}
		return strings.ReplaceAll(string(out), f.Name(), "K")
	}
	if d := dump(); strings.Contains(d, "gpt") || strings.Count(d, "start=") != 1 || !strings.Contains(d, "K3 : start=      212992") {
		t.Errorf("an empty key:\n%s", d)
	}
	iso := image(t)
	if err := PartitionSector(iso, l); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(iso)
	if err != nil {
		t.Fatal(err)
	}
	for _, slot := range []int{0, 1, 0} {
		old, err := os.ReadFile(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		total := int64(0)
		if err := k.Put(context.Background(), f, slot, iso, func(n int64) { total += n }); err != nil {
			t.Fatal(err)
		}
		if total != 2*int64(len(b)) {
			t.Errorf("counted %d bytes of %d", total, 2*len(b))
		}
		// Before it is active only the slot has changed.
		now, err := os.ReadFile(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		from, to := k.Slots[slot].Start*512, (k.Slots[slot].Start+k.Slots[slot].Count)*512
		if !bytes.Equal(now[:from], old[:from]) || !bytes.Equal(now[to:], old[to:]) || !bytes.Equal(now[from:from+int64(len(b))], b) {
			t.Errorf("slot %d: something else was written, or not the image", slot)
		}
		if err := k.Activate(f, slot, l); err != nil {
			t.Fatal(err)
		}
		again, err := os.ReadFile(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(again[512:], now[512:]) {
			t.Error("activating wrote more than one sector")
		}
		if a, err := k.Active(f); err != nil || a != slot {
			t.Errorf("active is %d, %v; want %d", a, err, slot)
		}
		d := dump()
		want := fmt.Sprintf("K1 : start=%12d, size=%12d, type=17, bootable", k.Slots[slot].Start, k.Slots[slot].Count-65536)
		if !strings.Contains(d, want) || !strings.Contains(d, "type=ef") || !strings.Contains(d, "K3 : ") {
			t.Errorf("no %q in\n%s", want, d)
		}
		if out, err := exec.Command("sfdisk", "--verify", f.Name()).CombinedOutput(); err != nil || strings.Contains(string(out), "overlap") {
			t.Errorf("sfdisk --verify: %v %s", err, out)
		}
		// Entry 2 is the FAT of the loaders.
		if fat := again[le32(again[470:])*512:]; string(fat[54:59]) != "FAT16" {
			t.Errorf("the EFI partition begins with %q", fat[:64])
		}
	}
	got, err := stick.Read(f)
	if err != nil || *got != *k.Header {
		t.Errorf("read %+v, %v; want %+v", got, err, k.Header)
	}
}

func le32(b []byte) int64 {
	return int64(b[0]) | int64(b[1])<<8 | int64(b[2])<<16 | int64(b[3])<<24
}

// TestKeyRefuses: sizes that don't fit, images too large, headers damaged in
// any byte.
func TestKeyRefuses(t *testing.T) {
	if _, err := stick.New(keyID, 128<<20, 64<<20); err == nil || !strings.Contains(err.Error(), "no room") {
		t.Errorf("a stick too small: %v", err)
	}
	const size = 256 << 20
	k, f, l := newKey(t, size)
	if err := k.Format(f, size, l); err != nil {
		t.Fatal(err)
	}
	big := filepath.Join(t.TempDir(), "big")
	if err := os.WriteFile(big, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(big, 17<<20); err != nil {
		t.Fatal(err)
	}
	if err := k.Put(context.Background(), f, 0, big, func(int64) {}); err == nil || !strings.Contains(err.Error(), "the place for it") {
		t.Errorf("an image too large: %v", err)
	}
	if err := k.Activate(f, 1, l); err == nil {
		t.Error("an empty slot was activated")
	}
	ro, err := os.Open(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	defer ro.Close()
	small := filepath.Join(t.TempDir(), "small")
	if err := os.WriteFile(small, []byte("image"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := k.Put(context.Background(), ro, 0, small, func(int64) {}); err == nil || !strings.Contains(err.Error(), "cannot write the rescue system to the stick") {
		t.Errorf("a stick that can't be written to: %v", err)
	}
	h := make([]byte, 512)
	if _, err := f.ReadAt(h, 512); err != nil {
		t.Fatal(err)
	}
	for i := range h {
		x := bytes.Clone(h)
		x[i] ^= 0x10
		if _, err := stick.Read(bytes.NewReader(append(make([]byte, 512), x...))); err == nil {
			t.Errorf("byte %d wrong, and the header is taken", i)
		}
	}
	if _, err := stick.Read(bytes.NewReader(h[:100])); err == nil {
		t.Error("a stick of 100 bytes is a key")
	}
}
