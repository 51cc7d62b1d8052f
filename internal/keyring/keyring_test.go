package keyring

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/mkcdrec/mkcdrec/internal/agekey"
	"github.com/mkcdrec/mkcdrec/internal/exit"
)

// TestPassphrase: the passphrase of a file or of a person, asked once, decrypts what it encrypts; where nobody is
// there it is a refusal.
func TestPassphrase(t *testing.T) {
	const words = "four words of mine"
	to, err := agekey.Passphrase([]byte(words))
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	w, err := age.Encrypt(&b, to)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("content")); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if !agekey.ByPassphrase([]byte(b.String())) {
		t.Error("ByPassphrase = false; want true")
	}
	file := filepath.Join(t.TempDir(), "phrase")
	if err := os.WriteFile(file, []byte(words+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	asked := 0
	say := func(s string, err error) agekey.Secret {
		return func(string) ([]byte, error) { asked++; return []byte(s), err }
	}
	for name, c := range map[string]struct {
		ring *Ring
		asks int
		ok   bool
	}{
		"a file":        {&Ring{Passphrase: file}, 0, true},
		"a person":      {&Ring{Ask: say(words, nil)}, 1, true},
		"another":       {&Ring{Ask: say("other words", nil)}, 1, false},
		"nothing typed": {&Ring{Ask: say(" ", nil)}, 2, false},
		"no answer":     {&Ring{Ask: say("", errors.New("end"))}, 2, false},
		"nobody":        {&Ring{}, 0, false},
		"no such file":  {&Ring{Passphrase: file + "x"}, 0, false},
		"an identity":   {&Ring{Identity: file}, 0, false},
		"an empty file": {&Ring{Passphrase: os.DevNull}, 0, false},
	} {
		asked = 0
		var ids []age.Identity
		for range 2 {
			if ids, err = c.ring.Identities(t.Context(), true); err == nil {
				_, err = age.Decrypt(strings.NewReader(b.String()), ids...)
			}
		}
		if (err == nil) != c.ok || asked != c.asks {
			t.Errorf("%s: %v, asked %d times; want ok = %v, %d times", name, err, asked, c.ok, c.asks)
		}
		var no *exit.Refusal
		if name == "nobody" && (!errors.As(err, &no) || !strings.Contains(err.Error(), "--passphrase-file")) {
			t.Errorf("nobody: %v; want a refusal that names the option", err)
		}
	}
	if _, err := agekey.Passphrase([]byte("short")); err == nil {
		t.Error("Passphrase(short) = nil; want an error")
	}
}

// TestTypedPath: the path of a file with the identity may be typed in its place.
func TestTypedPath(t *testing.T) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, []byte(id.String()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for typed, ok := range map[string]bool{file: true, " " + file + " ": true, id.String(): true, file + "x": false, "key": false} {
		r := &Ring{Ask: func(string) ([]byte, error) { return []byte(typed), nil }}
		ids, err := r.Identities(t.Context(), false)
		if (err == nil && len(ids) == 1) != ok {
			t.Errorf("%q typed: %d identities, %v; want ok = %v", typed, len(ids), err, ok)
		}
	}
}

// TestKeyAsName: a private key in the place of a file's name is refused, and the message has no part of it.
func TestKeyAsName(t *testing.T) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	_, err = (&Ring{Identity: id.String()}).Identities(t.Context(), false)
	if err == nil || !strings.Contains(err.Error(), "a private key was given") || strings.Contains(err.Error(), id.String()[20:40]) {
		t.Errorf("Identities with a key as the name = %v; want an error without the key", err)
	}
}
