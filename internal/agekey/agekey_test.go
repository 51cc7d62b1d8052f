package agekey

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"
)

func TestIdentities(t *testing.T) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	file := "# created: today\n# public key: " + id.Recipient().String() + "\n" + id.String() + "\n"
	var enc bytes.Buffer
	s, err := age.NewScryptRecipient("phrase")
	if err != nil {
		t.Fatal(err)
	}
	s.SetWorkFactor(10)
	w, err := age.Encrypt(&enc, s)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte(file)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	ssh := sshKey(t, "")
	locked := sshKey(t, "phrase")
	hybrid, err := age.GenerateHybridIdentity()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		text string
		ok   bool
	}{"file": {file, true}, "typed": {id.String(), true}, "encrypted": {enc.String(), true}, "ssh": {ssh, true}, "ssh with passphrase": {locked, true}, "post-quantum": {hybrid.String(), true}, "nonsense": {"hello", false}, "cut": {enc.String()[:100], false}} {
		ids, err := Identities([]byte(c.text), func(string) ([]byte, error) { return []byte("phrase"), nil })
		if (err == nil) != c.ok || c.ok && len(ids) != 1 {
			t.Errorf("%s: %v %v", name, ids, err)
		}
	}
}

// sshKey makes an SSH key with a passphrase.
func sshKey(t *testing.T, passphrase string) string {
	t.Helper()
	key := filepath.Join(t.TempDir(), "key")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-f", key).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v %s", err, out)
	}
	b, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// An encrypted SSH key decrypts once its passphrase is known.
func TestLockedKey(t *testing.T) {
	key := sshKey(t, "phrase")
	public, err := exec.Command("ssh-keygen", "-y", "-P", "phrase", "-f", keyFile(t, key)).Output()
	if err != nil {
		t.Fatal(err)
	}
	to, err := Recipient(string(public))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	w, err := age.Encrypt(&out, to)
	if err == nil {
		_, err = w.Write([]byte("text"))
	}
	if err = errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	for phrase, ok := range map[string]bool{"phrase": true, "other": false} {
		ids, err := Identities([]byte(key), func(string) ([]byte, error) { return []byte(phrase), nil })
		if err != nil {
			t.Fatal(err)
		}
		if _, err := age.Decrypt(bytes.NewReader(out.Bytes()), ids...); (err == nil) != ok {
			t.Errorf("passphrase %q: %v", phrase, err)
		}
	}
}

func keyFile(t *testing.T, key string) string {
	t.Helper()
	f := filepath.Join(t.TempDir(), "k")
	if err := os.WriteFile(f, []byte(key), 0o600); err != nil {
		t.Fatal(err)
	}
	return f
}

// A private key is not taken for a public one, and no error has it.
func TestPrivate(t *testing.T) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	h, err := age.GenerateHybridIdentity()
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{id.String(), strings.ToLower(id.String()), h.String(), sshKey(t, ""), "AGE-PLUGIN-X-1QQ", "AGE-PLUGIN-YUBIKEY-1QQPQGZVZJ5RG0ZQEP0SGG"} {
		for _, s := range []string{secret, "key=" + secret, "x" + secret, id.Recipient().String() + " # " + secret, "ssh-ed25519 " + secret, "\"" + secret + "\"", "\ufeff" + secret} {
			if !HasPrivate(s) {
				t.Errorf("HasPrivate(%.12q...) = false; want true", s)
			}
			if _, err := Recipient(s); !errors.Is(err, ErrPrivate) || holds(err, secret) {
				t.Errorf("Recipient(%.12q..., with a private key) = %v; want ErrPrivate without the key", s, err)
			}
		}
	}
	for _, s := range []string{id.Recipient().String(), "# AGE-SECRET-KEY-1... is in the safe", "ssh-ed25519 AAAA age-plugin-yubikey at home", "-----BEGIN SSH SIGNATURE-----", ErrPrivate.Error()} {
		if HasPrivate(s) {
			t.Errorf("HasPrivate(%q) = true; want false", s)
		}
	}
	typo := strings.Replace(id.String(), "AGE-SECRET-KEY-1Q", "AGE-SECRET-KEY-1P", 1)[:70]
	if _, err := Identities([]byte("# mine\n"+typo+"\n"), nil); err == nil || strings.Contains(err.Error(), typo[20:]) || !strings.Contains(err.Error(), "line 2") {
		t.Errorf("Identities(a typing error) = %v; want line 2 without the key", err)
	}
}

// holds reports whether an error has a part of a secret, its last eight characters or more.
func holds(err error, secret string) bool {
	return strings.Contains(strings.ToUpper(err.Error()), strings.ToUpper(secret[max(0, len(secret)-8):]))
}

// TestUnreadable: an error has no more of what is not a public key than the beginning of something like one.
func TestUnreadable(t *testing.T) {
	for s, want := range map[string]string{
		"AGE-SECRETKEY-1QQQQQQQQQQQQ": "begins with age1 or ssh-",
		"my secret words":             "begins with age1 or ssh-",
		"age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac": `"age1ql3z7hjy..." is neither`,
		"age1 my secret words":                `"age1" is neither`,
		"ssh-ed25519 AAAAmySecretKeyMaterial": `"ssh-ed25519" is neither`,
		"ssh-dss AAAAmySecretKeyMaterial":     `"ssh-dss" is neither`,
		"age1pq1mysecretkeymaterial":          `"age1pq1mysec..." is neither`,
		"age1yubikey1mysecretkeymaterial":     `"age1yubikey1..." is neither`,
	} {
		if _, err := Recipient(s); err == nil || !strings.Contains(err.Error(), want) || len(s) > shownOfKey && holds(err, s) {
			t.Errorf("Recipient(%q) = %v; want %q and not the end of the text", s, err, want)
		}
	}
}

// Recipients of each kind, and strings that are none.
func TestRecipient(t *testing.T) {
	x, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	h, err := age.GenerateHybridIdentity()
	if err != nil {
		t.Fatal(err)
	}
	for s, ok := range map[string]bool{x.Recipient().String(): true, h.Recipient().String(): true, "age1yubikey1qwt50d05nh5vutpdzmlg5wn80xq5negm4uj9ghv0snvdd3yysf5yw3rhl3t": true, "age1": false, "": false, "ssh-rsa x": false} {
		if _, err := Recipient(s); (err == nil) != ok {
			t.Errorf("Recipient(%.30q) = %v; want ok = %v", s, err, ok)
		}
	}
}

// TestPassphrase: what nobody can type is refused.
func TestPassphrase(t *testing.T) {
	for p, ok := range map[string]bool{"four words of mine": true, "schön und lang": true, "short": false, "two\nlines here": false,
		"with\x00a NUL": false, "\xef\xbb\xbfbyte order": false, "        ": false, "not \xff text": false} {
		if _, err := Passphrase([]byte(p)); (err == nil) != ok {
			t.Errorf("Passphrase(%q) = %v; want ok = %v", p, err, ok)
		}
	}
}
