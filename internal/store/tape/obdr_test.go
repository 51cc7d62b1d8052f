package tape_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/media"
	"github.com/mkcdrec/mkcdrec/internal/store/tape"
	"github.com/mkcdrec/mkcdrec/internal/store/tape/model"
)

func bootable(t *testing.T) string {
	t.Helper()
	bios, err := media.FindBIOS("")
	if err != nil {
		t.Skip(err)
	}
	big := filepath.Join(t.TempDir(), "big")
	if err := os.WriteFile(big, make([]byte, 3<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	iso := filepath.Join(t.TempDir(), "iso")
	if err := (media.ISO{Label: "MKCDREC", Files: map[string]string{"boot/vmlinuz": big}, Content: map[string][]byte{"isolinux/isolinux.cfg": []byte("x")}, BIOS: bios, Time: time.Unix(1, 0)}).Write(iso); err != nil {
		t.Fatal(err)
	}
	return iso
}

// An OBDR tape is what the firmware wants, and a set's tape behind that.
func TestOBDR(t *testing.T) {
	iso := bootable(t)
	image, err := os.ReadFile(iso)
	if err != nil {
		t.Fatal(err)
	}
	r := &model.Tape{}
	d := &model.Drive{Tape: r}
	archives := map[string][]byte{"a": pack(t, 5), "b": pack(t, 3)}
	w := &tape.Writer{Drives: []tape.Drive{d}, Before: func(d tape.Drive) error { return tape.WriteOBDR(d, iso) }}
	if err := writeSet(t, w, archives); err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		if len(r.Items[i]) != 512 {
			t.Fatalf("block %d has %d bytes", i, len(r.Items[i]))
		}
	}
	var got []byte
	i := 20
	for ; r.Items[i] != nil; i++ {
		if len(r.Items[i]) != 2048 {
			t.Fatalf("block %d has %d bytes", i, len(r.Items[i]))
		}
		got = append(got, r.Items[i]...)
	}
	if !bytes.Equal(got, image) {
		t.Error("the image on the tape is not the image")
	}
	if err := read(t, []tape.Drive{d}, nil, archives); err != nil {
		t.Error(err)
	}
	// Again over it: one of ours.
	if err := writeSet(t, &tape.Writer{Drives: []tape.Drive{d}}, archives); err != nil {
		t.Error(err)
	}
}

// What a drive would not start is found when it is read back.
func TestCheckOBDR(t *testing.T) {
	iso := bootable(t)
	st, err := os.Stat(iso)
	if err != nil {
		t.Fatal(err)
	}
	r := &model.Tape{}
	if err := tape.WriteOBDR(&model.Drive{Tape: r}, iso); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(i [][]byte) [][]byte
		want   string
	}{
		"file mark behind the header": {func(i [][]byte) [][]byte { return append(append(append([][]byte{}, i[:20]...), nil), i[20:]...) }, "the image has 0 bytes on the tape"},
		"19 blocks":                   {func(i [][]byte) [][]byte { return i[1:] }, "block 19 of the header"},
		"one block of 10 KiB":         {func(i [][]byte) [][]byte { return append([][]byte{make([]byte, 10240)}, i[20:]...) }, "block 0 of the header has 10240 bytes"},
		"cut off":                     {func(i [][]byte) [][]byte { return append(append([][]byte{}, i[:300]...), nil) }, "not"},
		"no volume descriptor":        {func(i [][]byte) [][]byte { return damageAt(i, 36, 1) }, "not an ISO 9660"},
		"no boot record":              {func(i [][]byte) [][]byte { return damageAt(i, 37, 8) }, "El Torito"},
		"larger blocks":               {func(i [][]byte) [][]byte { i = append([][]byte{}, i...); i[25] = make([]byte, 4096); return i }, "has 4096 bytes"},
		"blank":                       {func([][]byte) [][]byte { return nil }, "blank"},
	} {
		err := tape.CheckOBDR(&model.Drive{Tape: &model.Tape{Items: c.change(r.Items)}}, st.Size())
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want %q", name, err, c.want)
		}
	}
	if err := tape.WriteOBDR(&model.Drive{Tape: &model.Tape{Capacity: 1 << 20}}, iso); err == nil || !strings.Contains(err.Error(), "too short") {
		t.Errorf("a short tape: %v", err)
	}
	if err := tape.CheckOBDRImage(bytes.NewReader(make([]byte, 1<<20)), tape.MaxOBDR+2048); err == nil || !strings.Contains(err.Error(), "at most") {
		t.Errorf("a large image: %v", err)
	}
	if err := tape.CheckOBDRImage(bytes.NewReader(make([]byte, 1<<20)), 1<<20+1); err == nil || !strings.Contains(err.Error(), "not a multiple of its sectors") {
		t.Errorf("half a sector: %v", err)
	}
}

func damageAt(items [][]byte, at, byteAt int) [][]byte {
	out := append([][]byte{}, items...)
	out[at] = bytes.Clone(out[at])
	out[at][byteAt] ^= 1
	return out
}

func TestCanOBDR(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "sys/class/scsi_tape/nst0/device")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	inquiry := make([]byte, 96)
	for _, c := range []struct {
		sign string
		want bool
	}{{"$DR-10", true}, {"$DR-11", false}, {"", false}} {
		b := bytes.Clone(inquiry)
		copy(b[43:], c.sign)
		if err := os.WriteFile(dir+"/inquiry", b, 0o600); err != nil {
			t.Fatal(err)
		}
		if can, err := tape.CanOBDR(root, "/dev/nst0"); err != nil || can != c.want {
			t.Errorf("%q: %v, %v", c.sign, can, err)
		}
	}
	if _, err := tape.CanOBDR(root, "/dev/nst1"); err == nil {
		t.Error("no error for a drive that is not there")
	}
}
