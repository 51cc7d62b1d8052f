package builder

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/mkcdrec/mkcdrec/builder/set"
	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/hooks"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

// TestAlone: a second run into a directory is refused and runs no hook; one into another
// directory is not. The lock is no reason to save the disk for backups.
func TestAlone(t *testing.T) {
	dir, other, hook := t.TempDir(), t.TempDir(), t.TempDir()
	if err := os.MkdirAll(hook+"/before-backup", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(hook+"/before-backup/10-count", []byte("#!/bin/sh\necho x >> "+hook+"/count\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	newBuilder := func() *Builder {
		c := &Config{Hooks: hooks.Config{Dir: hook}}
		c.defaults()
		return &Builder{Run: tool.Exec{}, Report: progress.None{}, Config: c}
	}
	none := func() (string, error) { return "", nil }
	err := newBuilder().Alone(t.Context(), "path", dir, func() (string, error) {
		if err := newBuilder().Alone(t.Context(), "path", dir, none); exit.Code(err) != exit.Refused {
			t.Errorf("Alone(while another run writes) = %v; want a refusal", err)
		}
		if err := newBuilder().Alone(t.Context(), "path", other, none); err != nil {
			t.Errorf("Alone(another directory) = %v", err)
		}
		entries, err := os.ReadDir(dir)
		if err != nil || len(entries) != 1 || !isBackup(dir, entries[0]) {
			t.Errorf("in the directory: %v, %v; want a lock that counts as a backup", entries, err)
		}
		return "", nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(hook + "/count"); os.Geteuid() == 0 && (err != nil || string(b) != "x\nx\n") {
		t.Errorf("hooks before backups: %q, %v; want one for each run that was not refused", b, err)
	}
	if err := newBuilder().Alone(t.Context(), "path", filepath.Join(dir, "missing"), none); err == nil {
		t.Error("Alone(a directory that is missing) = nil")
	}
	for d, pattern := range map[string]string{dir: "/.*", other: "/.*"} {
		if left, _ := filepath.Glob(d + pattern); len(left) > 0 {
			t.Errorf("left: %q", left)
		}
	}
	if host, err := os.Hostname(); err != nil {
		t.Fatal(err)
	} else if release, err := set.Lock(dir, host, t.Logf); err != nil {
		t.Error(err)
	} else if err := newBuilder().Alone(t.Context(), "path", dir, none); exit.Code(err) != exit.Refused {
		t.Errorf("Alone(the lock is held elsewhere) = %v; want a refusal", err)
	} else if err := release(); err != nil {
		t.Error(err)
	}
}

// TestLockPlace: a place is locked however it is written, and another one is not.
func TestLockPlace(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, for locks in " + runDir)
	}
	dir := t.TempDir()
	if err := os.Symlink(dir, dir+"/link"); err != nil {
		t.Fatal(err)
	}
	host := "mkcdrec-test.invalid"
	for place, same := range map[string][]string{
		"sftp://" + host + "/x":      {"sftp://" + host + "/x/", "sftp://" + host + ":22/x", "sftp://root@" + host + "/x", "sftp://MKCDREC-test.invalid//x"},
		"s3://" + host + "/bucket":   {"s3://" + host + "/bucket/", "s3://" + host + ":443/bucket"},
		"rclone:mkcdrec-test:x":      {"rclone:mkcdrec-test:x/"},
		"nfs://" + host + "/x":       {"nfs://MKCDREC-TEST.invalid:2049/x"},
		dir:                          {dir + "/", dir + "/link", "file://" + dir},
		"sftp://" + host + "/x/free": {},
	} {
		release, err := LockPlace(place, "me")
		if err != nil {
			t.Errorf("LockPlace(%s) = %v", place, err)
			continue
		}
		for _, p := range same {
			if again, err := LockPlace(p, "me"); exit.Code(err) != exit.Refused {
				t.Errorf("LockPlace(%s) with that of %s = %v; want a refusal", p, place, err)
				if err == nil {
					_ = again() // reported already
				}
			}
		}
		other := "sftp://" + host + "/other"
		if end, err := LockPlace(other, "me"); err != nil {
			t.Errorf("LockPlace(%s) with that of %s = %v", other, place, err)
		} else if err := end(); err != nil {
			t.Error(err)
		}
		if err := release(); err != nil {
			t.Error(err)
		}
	}
	if _, err := LockPlace("ftp://h/x", "me"); err == nil {
		t.Error("LockPlace(ftp://h/x) = nil; want that it is an unknown kind of place")
	}
}
