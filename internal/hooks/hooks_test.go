package hooks

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/interrupt"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

// notes keeps what it is told.
type notes struct {
	progress.None
	said []string
}

func (n *notes) Note(f string, a ...any) { n.said = append(n.said, fmt.Sprintf(f, a...)) }
func (n *notes) Warn(f string, a ...any) { n.Note(f, a...) }

// write makes a hook, or another file with this mode.
func write(t *testing.T, file, text string, mode os.FileMode) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(file, mode); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestRun: hooks run in the order of their names, see the run in their environment, and
// what they print is kept line by line.
func TestRun(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/before-backup/20-second", "#!/bin/sh\nprintf 'two\\nno newline'\n", 0o755)
	write(t, dir+"/before-backup/10-first", "#!/bin/sh\necho $MKCDREC_HOOK $MKCDREC_COMMAND; echo err >&2; echo \"secret=$TOKEN\"\n", 0o700)
	write(t, dir+"/before-backup/30-off", "#!/bin/sh\nexit 1\n", 0o644)
	for _, n := range []string{".hidden", "10-first~", "10-first.bak", "10-first.dpkg-old", "10-first.rpmsave"} {
		write(t, dir+"/before-backup/"+n, "#!/bin/sh\nexit 1\n", 0o755)
	}
	if err := os.Mkdir(dir+"/before-backup/library", 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TOKEN", "x")
	rep := &notes{}
	s := &Set{Config: Config{dir, "1m"}, Run: tool.Exec{}, Report: rep, Env: []string{"MKCDREC_COMMAND=path"}}
	if err := s.Before(t.Context(), BeforeBackup); err != nil {
		t.Fatal(err)
	}
	want := []string{"before-backup/10-first: before-backup path", "before-backup/10-first: err", "before-backup/10-first: secret=", "before-backup/20-second: two", "before-backup/20-second: no newline"}
	if !slices.Equal(s.Said, want) || !slices.Equal(rep.said[1:], want) || !strings.Contains(rep.said[0], "30-off is not executable") {
		t.Errorf("said %q and %q; want %q", s.Said, rep.said, want)
	}
	if err := s.Before(t.Context(), BeforeRestore); err != nil {
		t.Errorf("Before(no directory) = %v", err)
	}
}

// TestFails: a hook before a run that fails refuses the run, and the next do not run. All
// hooks after it run, with the status.
func TestFails(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/before-backup/10-fails", "#!/bin/sh\necho why\nexit 7\n", 0o755)
	write(t, dir+"/before-backup/20-next", "#!/bin/sh\necho next\n", 0o755)
	write(t, dir+"/after-backup/10-fails", "#!/bin/sh\necho $MKCDREC_STATUS $MKCDREC_ERROR\nexit 1\n", 0o755)
	write(t, dir+"/after-backup/20-next", "#!/bin/sh\necho next\n", 0o755)
	write(t, dir+"/after-restore/none", "#!/no/such/program\n", 0o755)
	s := &Set{Config: Config{dir, "1m"}, Run: tool.Exec{}, Report: progress.None{}}
	err := s.Before(t.Context(), BeforeBackup)
	if exit.Code(err) != exit.Refused || !strings.Contains(err.Error(), "/10-fails failed: exit status 7") || len(s.Said) != 1 {
		t.Errorf("Before() = %v, said %q; want a refusal", err, s.Said)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(&interrupt.Signal{Sig: os.Interrupt})
	s.Said = nil
	failed := s.After(ctx, AfterBackup, err)
	if failed == nil || exit.Code(failed) != exit.Failed || len(s.Said) != 2 || !strings.HasPrefix(s.Said[0], "after-backup/10-fails: 4 refused: hook") {
		t.Errorf("After() = %v, said %q", failed, s.Said)
	}
	if err := s.Before(ctx, BeforeBackup); !interrupt.Is(err) {
		t.Errorf("Before(interrupted) = %v; want that it was interrupted", err)
	}
	if s.Said = nil; s.After(t.Context(), AfterBackup, nil) == nil || s.Said[0] != "after-backup/10-fails: 0" {
		t.Errorf("After(nil) said %q", s.Said)
	}
	if err := s.After(t.Context(), AfterRestore, nil); err == nil || !strings.Contains(err.Error(), "its interpreter /no/such/program is not there") {
		t.Errorf("After(no interpreter) = %v", err)
	}
}

// TestTimeout: a hook that hangs is killed with what it has started.
func TestTimeout(t *testing.T) {
	dir := t.TempDir()
	pid := filepath.Join(dir, "pid")
	write(t, dir+"/before-backup/hangs", "#!/bin/sh\nsleep 600 & echo $! > "+pid+"\nwait\n", 0o755)
	s := &Set{Config: Config{dir, "300ms"}, Run: tool.Exec{}, Report: progress.None{}}
	start := time.Now()
	err := s.Before(t.Context(), BeforeBackup)
	if exit.Code(err) != exit.Refused || !strings.Contains(err.Error(), "it was killed after 300ms") || time.Since(start) > 8*time.Second {
		t.Errorf("Before() = %v after %v", err, time.Since(start))
	}
	b, err := os.ReadFile(pid)
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		st, err := os.ReadFile("/proc/" + strings.TrimSpace(string(b)) + "/stat")
		if err != nil || strings.Contains(string(st), ") Z ") {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Errorf("process %s, which the hook has started, still runs", b)
}

// TestRefused: what others could change does not run.
func TestRefused(t *testing.T) {
	for name, c := range map[string]struct {
		change func(dir, hook string) error
		want   string
	}{
		"file":      {func(_, h string) error { return os.Chmod(h, 0o777) }, "is writable by everyone"},
		"directory": {func(_, h string) error { return os.Chmod(filepath.Dir(h), 0o777) }, "is writable by everyone"},
		"above":     {func(d, _ string) error { return os.Chmod(d, 0o777) }, "is writable by everyone"},
		"link":      {func(d, h string) error { return errors.Join(os.Chmod(h, 0o777), os.Symlink(h, filepath.Dir(h)+"/0")) }, "is writable by everyone"},
		"owner":     {func(_, h string) error { return os.Chown(h, 4242, 0) }, "belongs to user 4242"},
		"group":     {func(_, h string) error { return errors.Join(os.Chown(h, 0, 4242), os.Chmod(h, 0o775)) }, "is writable by group 4242"},
		"fifo":      {func(d, h string) error { return os.Symlink("/dev/null", filepath.Dir(h)+"/0") }, "is not a file"},
		"text":      {func(_, h string) error { return os.WriteFile(h, []byte("echo x\n"), 0o755) }, "a text without a first line such as #!/bin/sh"},
		"dangling":  {func(d, h string) error { return os.Symlink("/no/such", filepath.Dir(h)+"/0") }, "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "hooks")
			h := write(t, dir+"/before-backup/hook", "#!/bin/sh\n", 0o755)
			if err := c.change(dir, h); err != nil {
				t.Skip(err) // only root may
			}
			run := &tool.Recorder{}
			s := &Set{Config: Config{dir, "1m"}, Run: run, Report: progress.None{}}
			if err := s.Before(t.Context(), BeforeBackup); err == nil || !strings.Contains(err.Error(), c.want) || len(run.Calls) > 0 {
				t.Errorf("Before() = %v; want %q", err, c.want)
			}
		})
	}
}

// TestLines: long output is divided and ends.
func TestLines(t *testing.T) {
	dir := t.TempDir()
	h := write(t, dir+"/before-backup/talks", "#!/bin/sh\n", 0o755)
	run := &tool.Recorder{Answers: map[string]string{h: strings.Repeat("x\n", 3*mostLines)}}
	s := &Set{Config: Config{dir, "1m"}, Run: run, Report: progress.None{}}
	if err := s.Before(t.Context(), BeforeBackup); err != nil || len(s.Said) != mostLines || !strings.Contains(s.Said[mostLines-1], "is left out") {
		t.Errorf("Before() = %v, %d lines", err, len(s.Said))
	}
}

func TestConfig(t *testing.T) {
	if err := (Config{Dir, DefaultTimeout}).Validate(); err != nil {
		t.Error(err)
	}
	for _, c := range []Config{{"hooks", "5m"}, {Dir, "5"}, {Dir, "0s"}, {Dir, ""}} {
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), "hooks.") {
			t.Errorf("Validate(%v) = %v; want an error", c, err)
		}
	}
	for text, want := range map[string]string{"#!/bin/sh -e\n": "/bin/sh", "#! /usr/bin/env python3\n": "python3", "": "", "\x7fELF": "", "#!\n": ""} {
		if got, err := Interpreter(write(t, filepath.Join(t.TempDir(), "x"), text, 0o755)); err != nil || got != want {
			t.Errorf("Interpreter(%q) = %q, %v; want %q", text, got, err, want)
		}
	}
}
