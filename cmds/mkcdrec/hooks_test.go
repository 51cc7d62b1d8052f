package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/exit"
)

// TestHooks: every command that writes a backup runs its hooks first, and is stopped by one
// that fails; those that write none run no hooks.
func TestHooks(t *testing.T) {
	dir, to := t.TempDir(), t.TempDir()
	log := dir + "/log"
	for _, point := range []string{"before-backup", "after-backup"} {
		if err := errors.Join(os.MkdirAll(filepath.Join(dir, point), 0o755), os.WriteFile(filepath.Join(dir, point, "hook"), []byte("#!/bin/sh\necho $MKCDREC_HOOK $MKCDREC_COMMAND $MKCDREC_DESTINATION $MKCDREC_STATUS >> "+log+"\nexit 1\n"), 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	config := dir + "/config.yaml"
	if err := os.WriteFile(config, []byte("hooks:\n  dir: "+dir+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ verb, to string }{{"path", to}, {"cdrom", to}, {"usbkey", "/dev/no-such-stick"}, {"device", "/dev/no-such-tape"}, {"obdr", "/dev/no-such-tape"}} {
		_ = os.Remove(log)
		status, _, errs := mkcdrec(t, "", "-c", config, c.verb, c.to)
		if status != exit.Refused || !strings.Contains(errs, "before-backup/hook failed: exit status 1") {
			t.Errorf("%s: status %d, %s", c.verb, status, errs)
		}
		b, err := os.ReadFile(log)
		if want := "before-backup " + c.verb + " " + c.to + "\nafter-backup " + c.verb + " " + c.to + " 4\n"; err != nil || string(b) != want {
			t.Errorf("%s: hooks %q, %v; want %q", c.verb, b, err, want)
		}
	}
	_ = os.Remove(log)
	for _, line := range [][]string{{"-n", "path", to}, {"version"}, {"-n", "cdrom", to}, {"list", to}} {
		mkcdrec(t, "", append([]string{"-c", config}, line...)...)
	}
	if b, err := os.ReadFile(log); err == nil {
		t.Errorf("hooks of commands without a backup: %s", b)
	}
	if left, err := os.ReadDir(to); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}
