package signing

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"
)

func key(t *testing.T) *Key {
	t.Helper()
	k, made, err := LoadKey(filepath.Join(t.TempDir(), "lib/key"), "h")
	if err != nil || !made {
		t.Fatalf("LoadKey = %v, made %v", err, made)
	}
	return k
}

// What we sign ssh-keygen verifies, and what ssh-keygen signs we verify.
func TestAgainstOpenSSH(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "lib/key")
	k, _, err := LoadKey(file, "web1")
	if err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(file); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode of the key = %v, %v; want 0600", st.Mode(), err)
	}
	text := []byte("{}\n")
	sig, err := k.Sign(text)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name string, b []byte) string {
		f := filepath.Join(dir, name)
		if err := os.WriteFile(f, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return f
	}
	allowed := write("allowed", append([]byte("web1 "), Line(k.Public(), "web1")...))
	s := write("m.sig", sig)
	verify := func(text []byte) error {
		c := exec.Command("ssh-keygen", "-Y", "verify", "-f", allowed, "-I", "web1", "-n", Namespace, "-s", s)
		c.Stdin = bytes.NewReader(text)
		out, err := c.CombinedOutput()
		t.Logf("%s", out)
		return err
	}
	if err := verify(text); err != nil {
		t.Errorf("ssh-keygen -Y verify: %v", err)
	}
	if verify([]byte("{ }\n")) == nil {
		t.Error("ssh-keygen -Y verify takes another text")
	}
	m := write("m", text)
	os.Remove(s)
	if out, err := exec.Command("ssh-keygen", "-Y", "sign", "-f", file, "-n", Namespace, m).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen -Y sign: %v %s", err, out)
	}
	theirs, err := os.ReadFile(s)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Signer(text, theirs)
	if err != nil || !bytes.Equal(k.Public().Marshal(), got.Marshal()) {
		t.Errorf("Signer(ssh-keygen's) = %v, %v; want the key", got, err)
	}
	out, err := exec.Command("ssh-keygen", "-l", "-f", file).Output()
	if err != nil || !strings.Contains(string(out), Fingerprint(k.Public())) {
		t.Errorf("ssh-keygen -l prints %s, %v; want %s", out, err, Fingerprint(k.Public()))
	}
}

// Signatures of something else do not hold.
func TestBad(t *testing.T) {
	k := key(t)
	text := []byte("manifest")
	sig, err := k.Sign(text)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Signer(text, sig); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ text, sig []byte }{
		"another text": {[]byte("manifesT"), sig}, "cut": {text, sig[:len(sig)/2]}, "empty": {text, nil},
		"large": {text, bytes.Repeat([]byte("x"), MaxSignature+1)}, "not a signature": {text, []byte("hello\n")},
	} {
		if got, err := Signer(c.text, c.sig); err == nil {
			t.Errorf("%s: Signer = %v; want an error", name, got)
		}
	}
}

// A key that others can read, or that is none, is refused and not replaced.
func TestKeyFile(t *testing.T) {
	dir := t.TempDir()
	open, none := filepath.Join(dir, "open"), filepath.Join(dir, "none")
	if _, _, err := LoadKey(open, "h"); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Chmod(open, 0o644), os.WriteFile(none, []byte("x"), 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{open, none, dir} {
		before, _ := os.ReadFile(f)
		if _, _, err := LoadKey(f, "h"); err == nil {
			t.Errorf("LoadKey(%s) = nil; want an error", f)
		}
		if after, _ := os.ReadFile(f); !bytes.Equal(before, after) {
			t.Errorf("%s was changed", f)
		}
	}
}

// Runs side by side get the same key.
func TestTogether(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	var wg sync.WaitGroup
	var mu sync.Mutex
	seen := map[string]bool{}
	for range 8 {
		wg.Go(func() {
			k, _, err := LoadKey(file, "h")
			if err != nil {
				t.Errorf("LoadKey = %v", err)
				return
			}
			mu.Lock()
			seen[Fingerprint(k.Public())] = true
			mu.Unlock()
		})
	}
	wg.Wait()
	if len(seen) != 1 {
		t.Errorf("%d keys; want 1", len(seen))
	}
}

// A file of signers has comments; a line that is no key is named. A key counts for the hosts that its line begins with.
func TestSigners(t *testing.T) {
	mine, other := key(t).Public(), key(t).Public()
	line := func(k ssh.PublicKey) string { return string(ssh.MarshalAuthorizedKey(k)) }
	for _, c := range []struct {
		text          string
		host          string
		known, counts bool
	}{
		{"# hosts\n\n" + string(Line(mine, "h")), "any", true, true},
		{line(other), "h", false, false},
		{"h " + line(mine) + "o " + line(other), "h", true, true},
		{"h " + line(mine) + "o " + line(other), "o", true, false},
		{"h,o " + line(mine), "o", true, true},
		{"web*,!web1 " + line(mine), "web2", true, true},
		{"web*,!web1 " + line(mine), "web1", true, false},
		{"o " + line(mine) + "h " + line(mine), "h", true, true},
	} {
		keys, err := Signers([]byte(c.text))
		if err != nil {
			t.Errorf("Signers(%q) = %v", c.text, err)
		}
		if known, counts := Has(keys, mine, c.host); known != c.known || counts != c.counts {
			t.Errorf("Has(%q, %q) = %v, %v; want %v, %v", c.text, c.host, known, counts, c.known, c.counts)
		}
	}
	for _, bad := range []string{"# x\nnonsense\n", "\n[ " + line(mine)} {
		if _, err := Signers([]byte(bad)); err == nil || !strings.Contains(err.Error(), "line 2") {
			t.Errorf("Signers(%q) = %v; want line 2", bad, err)
		}
	}
}

func FuzzSigner(f *testing.F) {
	f.Add([]byte("-----BEGIN SSH SIGNATURE-----\nU1NIU0lHAAAAAQ==\n-----END SSH SIGNATURE-----\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if k, err := Signer([]byte("text"), b); err == nil {
			t.Errorf("Signer(%q) = %v; want an error", b, k)
		}
	})
}
