package main

import (
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/interrupt/interrupttest"
	"github.com/mkcdrec/mkcdrec/internal/streams"
)

func TestMain(m *testing.M) { interrupttest.Program(m, main) }

// TestCtrlC: Ctrl-C ends the question for a volume.
func TestCtrlC(t *testing.T) {
	c := interrupttest.Command("-name", "s", t.TempDir())
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	c.Stdout = null
	code, screen := interrupttest.CtrlC(t, c, func(s string) bool { return strings.Contains(s, "press Enter") })
	interrupttest.Interrupted(t, code, screen)
}

// TestWait: a signal ends the wait for a volume.
func TestWait(t *testing.T) {
	code, text := interrupttest.Signal(t, interrupttest.Command("-wait", "-name", "s", t.TempDir()), syscall.SIGTERM, func(s string) bool { return strings.Contains(s, "waiting") })
	interrupttest.Interrupted(t, code, text)
}

// TestBlocked: a signal ends the wait for a reader that takes nothing.
func TestBlocked(t *testing.T) {
	dir := t.TempDir()
	s := streams.IO{In: strings.NewReader(strings.Repeat("x", 1<<20)), Err: os.Stderr, Getenv: func(string) string { return "" }}
	if err := streams.Cut(t.Context(), s, []string{"-dir", dir, "-name", "s"}); err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	c := interrupttest.Command("-name", "s", dir)
	c.Stdout = w
	one := make([]byte, 1)
	code, text := interrupttest.Signal(t, c, syscall.SIGINT, func(string) bool {
		if one != nil {
			if _, err := r.Read(one); err != nil {
				t.Fatal(err)
			}
			one = nil
		}
		return true
	})
	w.Close()
	interrupttest.Interrupted(t, code, text)
}
