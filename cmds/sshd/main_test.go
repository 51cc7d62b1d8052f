package main

import (
	"crypto/ed25519"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/mkcdrec/mkcdrec/internal/interrupt/interrupttest"
)

func TestMain(m *testing.M) { interrupttest.Program(m, main) }

// TestSignal: each signal ends the server, whose job is done then.
func TestSignal(t *testing.T) {
	pub, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	file := t.TempDir() + "/keys"
	if err := os.WriteFile(file, ssh.MarshalAuthorizedKey(key), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		if signal.Ignored(sig) {
			continue // by nohup(1), which the command respects
		}
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		c := interrupttest.Command("-p", "0", "-keys", file)
		c.Stdout = w
		b := make([]byte, 1000)
		code, text := interrupttest.Signal(t, c, sig, func(string) bool {
			n, err := r.Read(b)
			return err == nil && strings.Contains(string(b[:n]), "listening")
		})
		if code != 0 || text != "" {
			t.Errorf("%v: status %d, %q; want 0", sig, code, text)
		}
		r.Close()
		w.Close()
	}
}
