package builder

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/mkcdrec/mkcdrec/builder/set"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/superblock"
)

func TestRecipients(t *testing.T) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(t.TempDir(), "key")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key).CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	pub, err := os.ReadFile(key + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	ssh := strings.TrimSpace(string(pub))
	empty, theirs := filepath.Join(t.TempDir(), "empty"), filepath.Join(t.TempDir(), "theirs")
	if err := errors.Join(os.WriteFile(empty, []byte("# nobody\n\n"), 0o600), os.WriteFile(theirs, pub, 0o600), os.Chmod(theirs, 0o666)); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		"encrypt: true\nrecipients: [" + empty + "]\n":                   "empty has no key",
		"recipients: [" + theirs + "]\n":                                 "theirs is writable by everyone: run chmod o-w",
		"recipients: [" + id.Recipient().String() + ", '" + ssh + "']\n": "",
		"luks_headers: none\n":                                           "",
		"luks_headers: encrypted\n":                                      "luks_headers: encrypted wants recipients",
		"luks_headers: plain\n":                                          `luks_headers: "plain"; want encrypted or none`,
		"recipients: [age1x]\n":                                          "recipients[0]: \"age1x\" is neither an age nor an SSH public key",
		"recipients: [" + id.String() + "]\n":                            "recipients[0]: it is a private key, which",
	} {
		file := filepath.Join(t.TempDir(), "c.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := LoadConfig(file, true)
		if err != nil && strings.Contains(err.Error(), id.String()) {
			t.Error("a private key is in the message")
		}
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

// TestPrivateRecipient: a private key among the recipients is refused with its place, and no message has a part of it.
func TestPrivateRecipient(t *testing.T) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	secret, public := id.String(), id.Recipient().String()
	pem := "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAABG5vbmU\n-----END OPENSSH PRIVATE KEY-----\n"
	dir := t.TempDir()
	list := func(name, text string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return "recipients: [" + public + ", " + file + "]\n"
	}
	const private = "it is a private key"
	for text, want := range map[string][]string{
		"recipients: ['x" + secret + "']\n":                                        {"recipients[0]", private},
		"recipients: [" + public + ", '" + public + " # " + secret + "']\n":        {"recipients[1]", private},
		"recipients: ['/" + secret + "']\n":                                        {"recipients[0]", private},
		"recipients: " + secret + "\n":                                             {"line 1", private},
		"encrypt: true\nrecipients: {" + secret + ": x}\n":                         {"line 2", private},
		"encrypt: true\ncompression: " + secret + "\n":                             {"line 2", private},
		"recipients:\n- |\n  " + strings.ReplaceAll(pem, "\n", "\n  ") + "\n":      {"recipients[0]", private},
		list("key", "# mine\nkey="+secret+"\n"):                                    {"recipients[1]", "key, line 2", private},
		list("comment", public+" # "+secret+"\n"):                                  {"recipients[1]", "comment, line 1", private},
		list("commented", public+"\n# "+secret+"\n"):                               {"recipients[1]", "commented, line 2", private},
		list("age-keygen", "# created: x\n# public key: "+public+"\n"+secret+"\n"): {"recipients[1]", "line 3", private},
		list("ssh", "\n"+pem):                                                      {"recipients[1]", "ssh, line 2", private},
		list("ssh-end", public+" "+pem[strings.Index(pem, "-----END"):]):           {"recipients[1]", "ssh-end, line 1", private},
		list("typo", strings.Replace(secret, "KEY", "KEZ", 1)+"\n"):                {"recipients[1]", "typo, line 1", "neither"},
		list("hint", public+"\n# AGE-SECRET-KEY-1... is in the safe\n"):            nil,
		"encrypt: true\npassphrase_file: my own secret words\n":                    {"passphrase_file", "absolute path"},
	} {
		file := filepath.Join(dir, "c.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := LoadConfig(file, true)
		if (err == nil) != (want == nil) {
			t.Errorf("%.60q: %v; want %q", text, err, want)
		}
		for _, w := range want {
			if err != nil && !strings.Contains(err.Error(), w) {
				t.Errorf("%.60q: %v; want %q", text, err, want)
			}
		}
		for _, part := range []string{secret[20:30], secret[len(secret)-10:], "b3BlbnNzaC1", "secret words"} {
			if err != nil && strings.Contains(err.Error(), part) {
				t.Errorf("%.60q: a part of the private key is in the message %v", text, err)
			}
		}
	}
}

// What becomes of headers: encrypted for the recipients, left out by choice, or
// not covered.
func TestLUKSHeaders(t *testing.T) {
	dir := t.TempDir()
	dev := filepath.Join(dir, "dev")
	content := bytes.Repeat([]byte("header! "), 1<<10)
	if err := os.WriteFile(dev, append(content, []byte("data")...), 0o600); err != nil {
		t.Fatal(err)
	}
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	fresh := func() *Plan {
		return &Plan{Layout: &layout.Layout{Crypts: []layout.Crypt{{Name: "c", Device: "../" + dev, LUKS: &superblock.LUKS{Offset: int64(len(content))}}}}}
	}
	p := fresh()
	if err := p.luks(&Config{}); err != nil || len(p.NotCovered) != 1 || !strings.Contains(p.NotCovered[0], "no recipients are named") || p.Layout.Crypts[0].Header != "" {
		t.Errorf("without recipients: %v %v", p.NotCovered, err)
	}
	p = fresh()
	if err := p.luks(&Config{LUKSHeaders: "none"}); err != nil || len(p.NotCovered) != 0 || len(p.LeftOut) != 1 {
		t.Errorf("left out: %v %v %v", p.NotCovered, p.LeftOut, err)
	}
	p = fresh()
	if err := p.luks(&Config{Recipients: []string{id.Recipient().String()}, ExcludeDevices: []string{"c"}}); err != nil || p.Layout.Crypts[0].Header != "" {
		t.Errorf("excluded: %v", err)
	}
	p = fresh()
	if err := p.luks(&Config{Recipients: []string{id.Recipient().String()}}); err != nil {
		t.Fatal(err)
	}
	files, lacks := set.LUKSHeaders(p.Layout, p.recipients)
	if len(lacks) > 0 || len(files) != 1 {
		t.Fatalf("%v %v", files, lacks)
	}
	for name, b := range files {
		if !strings.HasSuffix(name, ".luks.age") || bytes.Contains(b, []byte("header! header!")) {
			t.Errorf("%s is not encrypted", name)
		}
		r, err := age.Decrypt(bytes.NewReader(b), id)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, content) {
			t.Errorf("%d bytes came back: %v", len(got), err)
		}
	}
	if err := os.Truncate(dev, 100); err != nil {
		t.Fatal(err)
	}
	if files, lacks := set.LUKSHeaders(p.Layout, p.recipients); len(files) > 0 || len(lacks) != 1 || p.Layout.Crypts[0].Header != "" {
		t.Errorf("a device that is cut off has a header: %v, not covered %v", files, lacks)
	}
}
