package rescue

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/initramfs"
	"github.com/mkcdrec/mkcdrec/internal/hooks"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

// TestAddHooks: the rescue system gets the hooks of a restore, and no others; one that could
// not run there is an error.
func TestAddHooks(t *testing.T) {
	dir := t.TempDir()
	for file, text := range map[string]string{"before-restore/10-a": "#!/bin/sh\n", "after-restore/20-b": "#!/usr/bin/env -S A=b sh -e\n", "before-backup/30-c": "#!/bin/sh\n", "after-restore/40-off": "x"} {
		mode := os.FileMode(0o755)
		if strings.HasSuffix(file, "off") {
			mode = 0o644
		}
		if err := errors.Join(os.MkdirAll(filepath.Join(dir, filepath.Dir(file)), 0o755), os.WriteFile(filepath.Join(dir, file), []byte(text), mode)); err != nil {
			t.Fatal(err)
		}
	}
	tree := initramfs.New()
	if err := errors.Join(tree.AddLink("usr/bin/sh", "/bbin/sh"), tree.AddLink("usr/bin/env", "x")); err != nil {
		t.Fatal(err)
	}
	b := &Maker{Run: tool.Exec{}, Report: progress.None{}, Hooks: hooks.Config{Dir: dir, Timeout: "1m"}}
	if err := b.addHooks(t.Context(), tree); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]bool{"before-restore/10-a": true, "after-restore/20-b": true, "before-backup/30-c": false, "after-restore/40-off": false} {
		if got := tree.Has("etc/mkcdrec/hooks.d/" + file); got != want {
			t.Errorf("Has(%s) = %v; want %v", file, got, want)
		}
	}
	if err := os.WriteFile(dir+"/before-restore/50-x", []byte("#!/usr/bin/python3\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := b.addHooks(t.Context(), initramfs.New()); err == nil || !strings.Contains(err.Error(), "lacks /usr/bin/python3") || !strings.Contains(err.Error(), "rescue.carry") {
		t.Errorf("addHooks(python) = %v; want what is missing", err)
	}
}
