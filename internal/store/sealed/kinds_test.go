package sealed

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"
	"filippo.io/age/plugin"

	"github.com/mkcdrec/mkcdrec/internal/agekey"
	"github.com/mkcdrec/mkcdrec/internal/ptytest"
	"github.com/mkcdrec/mkcdrec/internal/store"
)

// pluginName is the name of the plugin that the test program is when it is started as age-plugin-NAME.
const pluginName = "mkcdrectest"

// TestMain makes the test program a plugin of age.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "age-plugin-"+pluginName {
		os.Exit(runPlugin())
	}
	os.Exit(m.Run())
}

// runPlugin speaks the protocol of plugins.
func runPlugin() int {
	p, err := plugin.New(pluginName)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	p.HandleRecipient(func(data []byte) (age.Recipient, error) { return masked(data), nil })
	p.HandleIdentity(func(data []byte) (age.Identity, error) { return masked(data), nil })
	return p.Main()
}

// masked is a recipient, and the identity for it, that age itself lacks: its stanza has the file key, changed by a mask.
type masked []byte

func (m masked) apply(key []byte) []byte {
	out := make([]byte, len(key))
	for i := range key {
		out[i] = key[i] ^ m[i%len(m)]
	}
	return out
}

// Wrap implements age.Recipient.
func (m masked) Wrap(key []byte) ([]*age.Stanza, error) {
	return []*age.Stanza{{Type: "mkcdrec-test", Args: []string{fmt.Sprintf("%x", m[:2])}, Body: m.apply(key)}}, nil
}

// Unwrap implements age.Identity.
func (m masked) Unwrap(stanzas []*age.Stanza) ([]byte, error) {
	for _, s := range stanzas {
		if s.Type == "mkcdrec-test" && len(s.Args) == 1 && s.Args[0] == fmt.Sprintf("%x", m[:2]) {
			return m.apply(s.Body), nil
		}
	}
	return nil, age.ErrIncorrectIdentity
}

// installPlugin puts the plugin into PATH.
func installPlugin(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	self, err := os.Executable()
	if err == nil {
		err = os.Symlink(self, filepath.Join(dir, "age-plugin-"+pluginName))
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

// pair is a public key, as in the configuration, and the file with its private key.
type pair struct{ public, private string }

// pairs makes a pair of each kind that age 1.1 and we know, by its name, below a temporary directory.
func pairs(t *testing.T) map[string]pair {
	t.Helper()
	installPlugin(t)
	dir := t.TempDir()
	out := map[string]pair{}
	keyFile := func(name, text string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	x := identity(t)
	out["X25519"] = pair{x.Recipient().String(), keyFile("x25519", "# created by a test\n"+x.String()+"\n")}
	for name, args := range map[string][]string{"ssh-ed25519": {"-t", "ed25519"}, "ssh-rsa": {"-t", "rsa", "-b", "2048"}} {
		file := filepath.Join(dir, name)
		if b, err := exec.Command("ssh-keygen", append(args, "-q", "-N", "", "-C", "somebody@somewhere", "-f", file)...).CombinedOutput(); err != nil {
			t.Fatalf("ssh-keygen: %v %s", err, b)
		}
		b, err := os.ReadFile(file + ".pub")
		if err != nil {
			t.Fatal(err)
		}
		out[name] = pair{string(b), file}
	}
	mask := []byte("sixteen letters!")
	out["plugin"] = pair{plugin.EncodeRecipient(pluginName, mask), keyFile("plugin", plugin.EncodeIdentity(pluginName, mask)+"\n")}
	return out
}

// recipient reads the public key of a pair as the configuration's are read.
func (p pair) recipient(t *testing.T) age.Recipient {
	t.Helper()
	r, err := agekey.Recipient(p.public)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// identities reads the private key of a pair as that of restore is read.
func (p pair) identities(t *testing.T) []age.Identity {
	t.Helper()
	b, err := os.ReadFile(p.private)
	if err != nil {
		t.Fatal(err)
	}
	ids, err := agekey.Identities(b, nil)
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

// TestKinds: a set that is encrypted for a key of any kind, alone or among others, is read with the private key of it,
// and with no other.
func TestKinds(t *testing.T) {
	files := map[string][]byte{"manifest.json": []byte("{}"), "a.tar.zst": bytes.Repeat([]byte("0123456789"), 20000)}
	kinds, others := pairs(t), pairs(t)
	others["plugin"] = others["X25519"] // that of the other plugin is the same
	var all []age.Recipient
	for _, p := range kinds {
		all = append(all, p.recipient(t))
	}
	together := write(t, files, all...)
	for name, p := range kinds {
		alone := write(t, files, p.recipient(t))
		for _, dir := range []string{alone, together} {
			s, err := Open(store.Dir(dir), with(p.identities(t)...))
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			for n, want := range files {
				if got, err := store.ReadFile(s, n, 1<<20); err != nil || !bytes.Equal(got, want) {
					t.Errorf("%s: %s has %d bytes, %v; want %d", name, n, len(got), err, len(want))
				}
			}
		}
		for _, dir := range []string{alone, together} {
			if _, err := Open(store.Dir(dir), with(others[name].identities(t)...)); !errors.Is(err, ErrNoIdentity) {
				t.Errorf("%s: Open with another key = %v; want ErrNoIdentity", name, err)
			}
		}
	}
}

// TestNoPlugin: without the plugin's program a set is neither written nor read, and the error names the plugin.
func TestNoPlugin(t *testing.T) {
	p := pairs(t)["plugin"]
	dir := write(t, map[string][]byte{"a": []byte("text")}, p.recipient(t))
	t.Setenv("PATH", t.TempDir())
	var out bytes.Buffer
	if _, err := NewWriter([]age.Recipient{p.recipient(t)}).Encrypt(&out); err == nil || !strings.Contains(err.Error(), pluginName) {
		t.Errorf("Encrypt without the plugin = %v; want an error with its name", err)
	}
	if _, err := Open(store.Dir(dir), with(p.identities(t)...)); err == nil || errors.Is(err, ErrNoIdentity) || !strings.Contains(err.Error(), pluginName) {
		t.Errorf("Open without the plugin = %v; want an error with its name", err)
	}
}

// byHand reads the object that has a file of the set in dir, as docs/SECURITY.md describes: decrypt gives what a file
// has. The index lists which object that is.
func byHand(t *testing.T, dir, name string, decrypt func(file string) []byte) string {
	t.Helper()
	var x struct {
		Files map[string]struct {
			Object string `json:"object"`
		} `json:"files"`
	}
	if err := json.Unmarshal(decrypt(filepath.Join(dir, IndexFile)), &x); err != nil {
		t.Errorf("%s: %v", IndexFile, err)
	}
	return string(decrypt(filepath.Join(dir, x.Files[name].Object)))
}

// TestByHand: the program age decrypts index and objects, with a private key of each kind.
func TestByHand(t *testing.T) {
	bin := ageProgram(t)
	files := map[string][]byte{"a": []byte("text"), "b": []byte("other")}
	kinds := pairs(t)
	var all []age.Recipient
	for _, p := range kinds {
		all = append(all, p.recipient(t))
	}
	together := write(t, files, all...)
	for name, p := range kinds {
		for _, dir := range []string{write(t, files, p.recipient(t)), together} {
			got := byHand(t, dir, "a", func(file string) []byte {
				var fault bytes.Buffer
				c := exec.Command(bin, "-d", "-i", p.private, file)
				c.Stderr = &fault
				b, err := c.Output()
				if err != nil {
					t.Errorf("%s: age -d %s: %v %s", name, filepath.Base(file), err, &fault)
				}
				return b
			})
			if got != "text" {
				t.Errorf("%s: age -d gives %q; want text", name, got)
			}
		}
	}
}

// TestByHandPassphrase: the program age asks for the passphrase on a terminal, and decrypts with it.
func TestByHandPassphrase(t *testing.T) {
	bin := ageProgram(t)
	const words = "four words of mine"
	to, err := agekey.Passphrase([]byte(words))
	if err != nil {
		t.Fatal(err)
	}
	dir := write(t, map[string][]byte{"a": []byte("text")}, to)
	got := byHand(t, dir, "a", func(file string) []byte {
		out := filepath.Join(t.TempDir(), "out")
		x := ptytest.Start(t, exec.Command(bin, "-d", "-o", out, file), 24, 80)
		x.Want("passphrase")
		x.Keys(words + "\n")
		if code := x.Ended(); code != 0 {
			t.Errorf("age -d %s ended with %d: %s", filepath.Base(file), code, x.Text())
		}
		b, err := os.ReadFile(out)
		if err != nil {
			t.Error(err)
		}
		return b
	})
	if got != "text" {
		t.Errorf("age -d with the passphrase gives %q; want text", got)
	}
}

// ageProgram is the program age of Debian's package.
func ageProgram(t *testing.T) string {
	t.Helper()
	bin, err := exec.LookPath("age")
	if err != nil {
		t.Skip("needs Debian's package age; make deps installs it")
	}
	return bin
}
