package sshserver

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	gossh "golang.org/x/crypto/ssh"
)

// TestServer has OpenSSH's ssh and scp as its peers.
func TestServer(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	for _, p := range []string{"ssh", "scp", "ssh-keygen"} {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("%s is not installed; make test installs it", p)
		}
	}
	dir := t.TempDir()
	for _, k := range []string{"good", "other"} {
		if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, k)).CombinedOutput(); err != nil {
			t.Fatalf("ssh-keygen: %s", out)
		}
	}
	pub, err := os.ReadFile(dir + "/good.pub")
	if err != nil {
		t.Fatal(err)
	}
	keys, err := ParseKeys("# me\n" + string(pub))
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(keys, []string{"/bin/sh"}, t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	opts := func(key string) []string {
		return []string{"-F", "/dev/null", "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=" + dir + "/known", "-i", dir + "/" + key}
	}
	run := func(key string, args ...string) (string, int) {
		c := exec.Command("ssh", append(append(opts(key), "-p", port, "root@127.0.0.1"), args...)...)
		out, err := c.CombinedOutput()
		if err != nil && c.ProcessState == nil {
			t.Fatal(err)
		}
		return string(out), c.ProcessState.ExitCode()
	}
	if out, code := run("good", "echo hello; exit 7"); !strings.Contains(out, "hello") || code != 7 {
		t.Errorf("a command: %q, exit %d; want hello, 7", out, code)
	}
	if out, code := run("other", "echo hello"); code != 255 || strings.Contains(out, "hello\n") {
		t.Errorf("a foreign key: %q, exit %d; want refusal", out, code)
	}
	c := exec.Command("ssh", append(append(opts("good"), "-tt", "-p", port, "root@127.0.0.1"), "tty; stty size >/dev/null && echo a terminal")...)
	if out, err := c.CombinedOutput(); err != nil || !strings.Contains(string(out), "a terminal") {
		t.Errorf("with a terminal: %q, %v", out, err)
	}
	if err := os.WriteFile(dir+"/file", []byte(strings.Repeat("content\n", 50000)), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("scp", append(opts("good"), "-P", port, dir+"/file", "root@127.0.0.1:"+dir+"/copy")...).CombinedOutput(); err != nil {
		t.Errorf("scp: %v: %s", err, out)
	}
	if out, err := exec.Command("cmp", dir+"/file", dir+"/copy").CombinedOutput(); err != nil {
		t.Errorf("scp: %s", out)
	}
	known, err := exec.Command("ssh-keygen", "-l", "-f", dir+"/known").Output()
	if err != nil || !strings.Contains(string(known), s.Fingerprint) {
		t.Errorf("the client saw host key %q; we say %s", known, s.Fingerprint)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Serve = %v", err)
	}
}

func TestRefuses(t *testing.T) {
	if _, err := New(nil, []string{"/bin/sh"}, t.Logf); err == nil {
		t.Error("a server that nobody can use is started")
	}
	if _, err := ParseKeys("ssh-ed25519 AAAA\nnonsense"); err == nil || !strings.Contains(err.Error(), "line 1") {
		t.Errorf("ParseKeys(bad) = %v; want the line", err)
	}
}

// TestServeEnded: a context that ended before the server served ends it all the same.
func TestServeEnded(t *testing.T) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := gossh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := ParseKeys(string(gossh.MarshalAuthorizedKey(signer.PublicKey())))
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(keys, []string{"/bin/sh"}, t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("it serves on")
	}
}
