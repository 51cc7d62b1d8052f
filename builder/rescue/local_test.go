package rescue

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/layout"
)

// TestReplaceBlock: what the administrator wrote stays, byte for byte.
func TestReplaceBlock(t *testing.T) {
	f := filepath.Join(t.TempDir(), "custom.cfg")
	const own = "menuentry 'mine' {\n}\n"
	block := func(s string) []byte { return []byte(localBegin + "\n" + s + "\n" + localEnd + "\n") }
	step := func(b []byte, want string) {
		t.Helper()
		if err := replaceBlock(f, b); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(f)
		if want == "" && !os.IsNotExist(err) || want != "" && string(got) != want {
			t.Errorf("got %q, %v; want %q", got, err, want)
		}
	}
	step(nil, "")
	step(block("a"), string(block("a")))
	step(nil, "")
	if err := os.WriteFile(f, []byte(own), 0o644); err != nil {
		t.Fatal(err)
	}
	step(block("a"), own+string(block("a")))
	step(block("b"), own+string(block("b")))
	step(nil, own)
	if err := os.WriteFile(f, []byte(localBegin+"\nx"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := replaceBlock(f, nil); err == nil {
		t.Error("a block without end is cut")
	}
}

func TestOnFilesystem(t *testing.T) {
	m := func(p string) []layout.Mount { return []layout.Mount{{Path: p}} }
	l := &layout.Layout{Filesystems: []layout.Filesystem{{UUID: "root", Mounts: m("/")}, {UUID: "boot", Mounts: m("/boot")}, {UUID: "b", Mounts: m("/bo")}}}
	if f, rel, err := onFilesystem(l, "/boot/mkcdrec"); err != nil || f.UUID != "boot" || rel != "/mkcdrec" {
		t.Errorf("with /boot: %+v %q %v", f, rel, err)
	}
	l.Filesystems = l.Filesystems[:1]
	if f, rel, err := onFilesystem(l, "/boot/mkcdrec"); err != nil || f.UUID != "root" || rel != "/boot/mkcdrec" {
		t.Errorf("without: %+v %q %v", f, rel, err)
	}
}
