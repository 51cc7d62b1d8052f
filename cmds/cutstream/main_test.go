package main

import (
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/interrupt/interrupttest"
)

func TestMain(m *testing.M) { interrupttest.Program(m, main) }

// TestInterrupt: a stream that brings nothing more is not waited for after a
// signal, and nothing half is left under a volume's name.
func TestInterrupt(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		if signal.Ignored(sig) {
			continue // by nohup(1), which the command respects
		}
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		c := interrupttest.Command("-size", "1K", "-dir", dir, "-name", "s")
		c.Stdin = r
		if _, err := w.Write(make([]byte, 3000)); err != nil {
			t.Fatal(err)
		}
		code, text := interrupttest.Signal(t, c, sig, func(string) bool {
			l, err := filepath.Glob(dir + "/.cutstream-*")
			m, err2 := filepath.Glob(dir + "/.s.cutstream")
			return err == nil && err2 == nil && len(l)+len(m) > 0
		})
		interrupttest.Interrupted(t, code, text)
		for _, p := range []string{"/.volume-*", "/.cutstream-*", "/s.*"} {
			if l, err := filepath.Glob(dir + p); err != nil || len(l) > 0 {
				t.Errorf("left: %v", l)
			}
		}
		r.Close()
		w.Close()
	}
}
