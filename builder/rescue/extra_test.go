package rescue

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/initramfs"
	"github.com/mkcdrec/mkcdrec/internal/media"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/rescue"
	"github.com/mkcdrec/mkcdrec/internal/tool"
	"github.com/mkcdrec/mkcdrec/kernelcfg"
)

// warnings keeps what is reported.
type warnings struct {
	progress.None
	said []string
}

func (w *warnings) Note(f string, a ...any) { w.said = append(w.said, fmt.Sprintf(f, a...)) }
func (w *warnings) Warn(f string, a ...any) { w.Note(f, a...) }

// TestAddFiles: files, directories and links are in the rescue system at their paths; what
// it has itself stays.
func TestAddFiles(t *testing.T) {
	dir := t.TempDir()
	if err := errors.Join(os.MkdirAll(dir+"/a/b", 0o755), os.WriteFile(dir+"/a/b/file", []byte("x"), 0o644), os.Symlink("b/file", dir+"/a/link"), os.WriteFile(dir+"/own", []byte("other"), 0o644)); err != nil {
		t.Fatal(err)
	}
	tree, rep := initramfs.New(), &warnings{}
	if err := tree.AddContent(strings.TrimPrefix(dir, "/")+"/own", []byte("ours"), 0o644); err != nil {
		t.Fatal(err)
	}
	b := &Maker{Report: rep, Config: Config{Files: []string{dir + "/a", dir + "/own"}}}
	if err := b.addFiles(tree); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"/a/b/file", "/a/link"} {
		if !tree.Has(dir + f) {
			t.Errorf("Has(%s) = false", f)
		}
	}
	if said := strings.Join(rep.said, "\n"); !strings.Contains(said, "/own: the rescue system has its own") || !strings.Contains(said, "in the memory") {
		t.Errorf("said %q", rep.said)
	}
	b.Config.Files = []string{dir + "/none"}
	if err := b.addFiles(tree); err == nil || !strings.Contains(err.Error(), "rescue.files") {
		t.Errorf("addFiles(missing) = %v; want an error", err)
	}
}

// TestExtraTree: a directory is packed as mksquashfs does, an image is taken as it is, and
// what is neither is refused.
func TestExtraTree(t *testing.T) {
	work, tree := t.TempDir(), t.TempDir()
	if err := errors.Join(os.Mkdir(tree+"/bin", 0o755), os.WriteFile(tree+"/bin/tool", []byte("#!/bin/sh\n"), 0o755), os.Symlink("bin/tool", tree+"/link")); err != nil {
		t.Fatal(err)
	}
	rep := &warnings{}
	b := &Maker{Run: tool.Exec{}, Report: rep, Config: Config{ExtraTree: tree}}
	s := &System{by: b, Initrd: work + "/initrd.img", Kernel: &kernelcfg.Kernel{Config: kernelcfg.Config{"CONFIG_SQUASHFS": "m", "CONFIG_BLK_DEV_LOOP": "m"}}}
	img := &media.ISO{Files: map[string]string{}}
	if _, err := exec.LookPath("mksquashfs"); err != nil {
		t.Skip("mksquashfs is missing")
	}
	if err := s.extraTree(t.Context(), img); err != nil {
		t.Fatal(err)
	}
	file := img.Files[rescue.SecondFile]
	out, err := exec.Command("unsquashfs", "-l", file).Output()
	if err != nil || !strings.Contains(string(out), "squashfs-root/bin/tool") || !strings.Contains(string(out), "squashfs-root/link") {
		t.Errorf("unsquashfs -l: %v\n%s", err, out)
	}
	if said := strings.Join(rep.said, "\n"); !strings.Contains(said, "second system: "+tree) {
		t.Errorf("said %q", said)
	}
	b.Config.ExtraTree = file
	other := &media.ISO{Files: map[string]string{}}
	if err := s.extraTree(t.Context(), other); err != nil || other.Files[rescue.SecondFile] != file {
		t.Errorf("extraTree(image) = %v, %v", other.Files, err)
	}
	s.Kernel.Config = kernelcfg.Config{"CONFIG_BLK_DEV_LOOP": "y"}
	if err := s.extraTree(t.Context(), other); err == nil || !strings.Contains(err.Error(), "CONFIG_SQUASHFS") {
		t.Errorf("extraTree(kernel without squashfs) = %v", err)
	}
	for from, want := range map[string]string{tree + "/bin/tool": "neither a directory nor an image", tree + "/none": "no such file"} {
		b.Config.ExtraTree = from
		if err := s.extraTree(t.Context(), other); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("extraTree(%s) = %v; want %q", from, err, want)
		}
	}
	s.Kernel.Config, b.Config.ExtraTree = nil, filepath.Dir(file) // what is made is not in it
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.extraTree(ctx, other); !errors.Is(err, context.Canceled) {
		t.Errorf("extraTree(cancelled) = %v", err)
	}
}
