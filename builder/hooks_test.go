package builder

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

// TestHooked: hooks run around a backup of a fake machine and see where it goes and how it
// ended; what they print is in the set's log; one that fails leaves nothing written.
func TestHooked(t *testing.T) {
	b, dir := fakeMachine(t), t.TempDir()
	b.Config.Hooks.Dir = t.TempDir()
	out := filepath.Join(t.TempDir(), "out")
	write := func(point, text string) {
		t.Helper()
		file := filepath.Join(b.Config.Hooks.Dir, point, "10-hook")
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte("#!/bin/sh\n"+text), 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	write("before-backup", "echo going to $MKCDREC_DESTINATION\nls -A $MKCDREC_DESTINATION\n")
	write("after-backup", "echo \"$MKCDREC_COMMAND $MKCDREC_STATUS $MKCDREC_SET\" >> "+out+"\n")
	programs := b.Run
	b.Run = runner(func(c tool.Cmd) tool.Runner {
		if strings.HasPrefix(c.Args[0], b.Config.Hooks.Dir) {
			return tool.Exec{}
		}
		return programs
	})
	var set string
	backup := func() (string, error) {
		r, err := b.Path(t.Context(), machinePlan(t), dir)
		if err != nil {
			return "", err
		}
		set = r.Dir
		return r.Dir, nil
	}
	if err := b.Hooked(t.Context(), "path", dir, backup); err != nil {
		t.Fatal(err)
	}
	verified(t, set)
	if log, err := os.ReadFile(set + "/log/run.jsonl"); err != nil || !strings.Contains(string(log), `"msg":"hook","line":"before-backup/10-hook: going to `+dir+`"`) {
		t.Errorf("log: %v\n%s", err, log)
	}
	broken := errors.New("broken")
	if err := b.Hooked(t.Context(), "path", dir, func() (string, error) { return "", broken }); !errors.Is(err, broken) {
		t.Errorf("Hooked(fails) = %v", err)
	}
	write("before-backup", "exit 1")
	called := false
	if err := b.Hooked(t.Context(), "path", dir, func() (string, error) { called = true; return "", nil }); exit.Code(err) != exit.Refused || called {
		t.Errorf("Hooked(before fails) = %v, did the work: %v; want a refusal", err, called)
	}
	write("before-backup", "")
	if err := b.Hooked(t.Context(), "path", dir, func() (string, error) { return set, exit.NotCovered([]string{"x"}) }); exit.Code(err) != exit.Partial {
		t.Errorf("Hooked(incomplete) = %v; want status 3", err)
	}
	got, err := os.ReadFile(out)
	if want := []string{"path 0 " + set, "path 1 ", "path 4 ", "path 3 " + set}; err != nil || !slices.Equal(strings.Split(strings.TrimSuffix(string(got), "\n"), "\n"), want) {
		t.Errorf("after the backups: %q, %v; want %q", got, err, want)
	}
	write("after-backup", "exit 1")
	if err := b.Hooked(t.Context(), "path", dir, func() (string, error) { return set, exit.NotCovered([]string{"x"}) }); exit.Code(err) != exit.Failed || !strings.Contains(err.Error(), "not covered") {
		t.Errorf("Hooked(after fails) = %v; want status 1 and what is not covered", err)
	}
	if c := (&tester{b: b, scope: ForPath}); len(c.out) == 0 {
		if c.hooks(); c.out[0].Severity != OK {
			t.Errorf("check of hooks = %+v", c.out)
		}
		if err := os.Chmod(b.Config.Hooks.Dir+"/after-backup/10-hook", 0o777); err != nil {
			t.Fatal(err)
		}
		if c.hooks(); c.out[1].Severity != Error {
			t.Errorf("check of a hook that everyone may write = %+v", c.out[1])
		}
	}
}

// runner chooses who runs a program.
type runner func(tool.Cmd) tool.Runner

func (r runner) Run(ctx context.Context, c tool.Cmd) ([]byte, error) { return r(c).Run(ctx, c) }
