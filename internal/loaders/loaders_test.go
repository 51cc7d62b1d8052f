package loaders

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestPack(t *testing.T) {
	dir := t.TempDir()
	exe := filepath.Join(dir, "exe")
	program := bytes.Repeat([]byte("program "), 1000)
	if err := os.WriteFile(exe, program, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(exe); !errors.Is(err, ErrNone) {
		t.Errorf("Open without a pack = %v", err)
	}
	if p, err := Plain(exe, dir+"/plain0"); err != nil || p != exe {
		t.Errorf("Plain without a pack = %s, %v", p, err)
	}
	pkgs := []Package{{Name: "isolinux", Version: "6.04", Licence: "GPL-2+", Files: []string{"usr/lib/ISOLINUX/isolinux.bin"}}}
	for _, content := range []string{"first", "second, longer"} { // again replaces
		if _, err := Append(exe, []byte("packed"), pkgs, map[string][]byte{"usr/lib/ISOLINUX/isolinux.bin": []byte(content)}); err != nil {
			t.Fatal(err)
		}
		p, err := Open(exe)
		if err != nil || p.String() != "isolinux 6.04" {
			t.Fatalf("Open = %v, %v", p, err)
		}
		if b, err := Self(exe); err != nil || string(b) != "packed" {
			t.Errorf("Self = %q, %v", b, err)
		}
		out := filepath.Join(dir, "out-"+content[:5])
		if err := p.Extract(out); err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(out + "/usr/lib/ISOLINUX/isolinux.bin"); err != nil || string(b) != content {
			t.Errorf("extracted %q, %v; want %q", b, err, content)
		}
	}
	p, err := Plain(exe, dir+"/plain")
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(p); err != nil || !bytes.Equal(b, program) {
		t.Errorf("Plain gives %d bytes, %v; want the program alone", len(b), err)
	}
	b, err := os.ReadFile(exe)
	if err != nil {
		t.Fatal(err)
	}
	b[len(program)+20] ^= 1
	b[len(program)] ^= 1
	if err := os.WriteFile(exe, b, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(exe); err == nil || errors.Is(err, ErrNone) {
		t.Errorf("Open of a damaged pack = %v", err)
	}
	if _, err := Self(exe); err == nil || errors.Is(err, ErrNone) {
		t.Errorf("Self of a damaged program = %v", err)
	}
	// A path that leads out is not followed.
	if _, err := Append(exe, nil, []Package{{Files: []string{"../x"}}}, map[string][]byte{"../x": nil}); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(exe); err == nil {
		t.Error("a pack with ../ is accepted")
	}
}
