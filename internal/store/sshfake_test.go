package store

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// fakeSSH is a server of ssh in this process, for everybody unless it has another configuration, with the sftp server of pkg/sftp: it
// has no fsync. It can hang while ssh itself still answers.
type fakeSSH struct {
	t        *testing.T
	addr     string
	key      ssh.Signer
	hangInit bool        // never answers to the request for sftp
	hung     atomic.Bool // sftp no longer reads
	ended    chan struct{}

	mu    sync.Mutex
	conns []net.Conn
}

func newSigner(t *testing.T) ssh.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// newFakeSSH starts one; more are further keys, or certificates, of the host.
func newFakeSSH(t *testing.T, more ...ssh.Signer) *fakeSSH {
	return newFakeSSHFor(t, &ssh.ServerConfig{NoClientAuth: true}, more...)
}

// newFakeSSHFor is newFakeSSH with other ways to log in.
func newFakeSSHFor(t *testing.T, config *ssh.ServerConfig, more ...ssh.Signer) *fakeSSH {
	f := &fakeSSH{t: t, key: newSigner(t), ended: make(chan struct{})}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.addr = l.Addr().String()
	if len(more) == 0 {
		more = []ssh.Signer{f.key}
	}
	for _, k := range more {
		config.AddHostKey(k)
	}
	t.Cleanup(func() { l.Close(); close(f.ended); f.cut() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			f.mu.Lock()
			f.conns = append(f.conns, c)
			f.mu.Unlock()
			go f.serve(c, config)
		}
	}()
	return f
}

// cut ends all connections.
func (f *fakeSSH) cut() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.conns {
		c.Close()
	}
	f.conns = nil
}

func (f *fakeSSH) serve(c net.Conn, config *ssh.ServerConfig) {
	_, channels, requests, err := ssh.NewServerConn(c, config)
	if err != nil {
		c.Close()
		return
	}
	go ssh.DiscardRequests(requests) // keepalives have an answer
	for n := range channels {
		ch, reqs, err := n.Accept()
		if err != nil {
			return
		}
		go func() {
			for r := range reqs {
				if f.hangInit {
					continue
				}
				_ = r.Reply(r.Type == "subsystem", nil) // the client may be gone
				if s, err := sftp.NewServer(hanging{ch, f}); err == nil {
					go func() { _ = s.Serve(); ch.Close() }()
				}
			}
		}()
	}
}

// hanging is a channel that gives nothing while the server hangs.
type hanging struct {
	ssh.Channel
	f *fakeSSH
}

func (h hanging) Read(p []byte) (int, error) {
	for h.f.hung.Load() {
		select {
		case <-h.f.ended:
			return 0, io.EOF
		case <-time.After(5 * time.Millisecond):
		}
	}
	return h.Channel.Read(p)
}

// site is a home in a directory of this machine; lines are those of known hosts, "" for the key.
func (f *fakeSSH) site(addr, dir, lines string) *site {
	if lines == "" {
		lines = knownhosts.Line([]string{addr}, f.key.PublicKey())
	}
	file := filepath.Join(f.t.TempDir(), "known_hosts")
	if err := os.WriteFile(file, []byte(lines+"\n"), 0o600); err != nil {
		f.t.Fatal(err)
	}
	return &site{url: "sftp://" + addr + dir, access: Access{KnownHosts: file}}
}

// TestHostCertificates: a server with a certificate is used if its key or its authority is known.
func TestHostCertificates(t *testing.T) {
	t.Setenv("HOME", t.TempDir())
	t.Setenv("SSH_AUTH_SOCK", "")
	key, authority, other := newSigner(t), newSigner(t), newSigner(t)
	c := &ssh.Certificate{Key: key.PublicKey(), CertType: ssh.HostCert, ValidPrincipals: []string{"127.0.0.1"}, ValidBefore: ssh.CertTimeInfinity}
	if err := c.SignCert(rand.Reader, authority); err != nil {
		t.Fatal(err)
	}
	certified, err := ssh.NewCertSigner(c, key)
	if err != nil {
		t.Fatal(err)
	}
	f := newFakeSSH(t, key, certified)
	line := func(k ssh.Signer) string { return knownhosts.Line([]string{f.addr}, k.PublicKey()) }
	for _, c := range []struct{ name, lines, want string }{
		{"key", line(key), ""},
		{"authority", "@cert-authority " + line(authority), ""},
		{"authority of a pattern", "@cert-authority " + strings.Replace(line(authority), "0.0.1]", "0.*]", 1), ""},
		{"key and another authority", "@cert-authority " + line(other) + "\n" + line(key), ""},
		{"another authority", "@cert-authority " + line(other), "not known: it has ssh-ed25519 " + ssh.FingerprintSHA256(key.PublicKey())},
		{"another key", line(other), "has changed"},
		{"nothing", "#", "append this line"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := f.site(f.addr, t.TempDir(), c.lines)
			s.access.limits = fast
			h, err := OpenHome(t.Context(), s.url, s.access)
			if err == nil {
				err = h.Close()
			}
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v; want %q", err, c.want)
			}
		})
	}
}

// short are limits for servers that hang.
var short = limits{header: 300 * time.Millisecond, stall: 300 * time.Millisecond, pause: time.Millisecond, tries: 2, all: 10}

// TestSFTPHangs: a server that no longer answers to sftp, while ssh does, is an error after a
// while; nothing waits for it longer.
func TestSFTPHangs(t *testing.T) {
	t.Setenv("HOME", t.TempDir())
	t.Setenv("SSH_AUTH_SOCK", "")
	within := func(what string, limit time.Duration, fn func() error) error {
		t.Helper()
		done := make(chan error, 1)
		go func() { done <- fn() }()
		select {
		case err := <-done:
			return err
		case <-time.After(limit):
			t.Fatalf("%s waits for the server", what)
			return nil
		}
	}
	first := newFakeSSH(t)
	first.hangInit = true
	s := first.site(first.addr, t.TempDir(), "")
	s.access.limits = short
	err := within("OpenHome", 10*time.Second, func() error { _, err := OpenHome(t.Context(), s.url, s.access); return err })
	if err == nil || !errors.Is(err, errSilent) {
		t.Errorf("OpenHome: %v", err)
	}
	f := newFakeSSH(t)
	s = f.site(f.addr, t.TempDir(), "")
	s.access.limits = short
	h, err := OpenHome(t.Context(), s.url, s.access)
	if err != nil {
		t.Fatal(err)
	}
	put(t, h, "set/x", random(3<<20, 1))
	file, err := h.At(t.Context(), "set").Open("x")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.ReadAt(make([]byte, 10), 0); err != nil {
		t.Fatal(err)
	}
	u, err := h.Create(t.Context(), "set/y")
	if err != nil {
		t.Fatal(err)
	}
	f.hung.Store(true)
	for what, fn := range map[string]func() error{
		"Dirs":   func() error { _, err := h.Dirs(t.Context()); return err },
		"Files":  func() error { _, err := h.Files(t.Context(), "set"); return err },
		"Size":   func() error { _, err := h.At(t.Context(), "set").Size("x"); return err },
		"ReadAt": func() error { _, err := file.ReadAt(make([]byte, 2<<20), 1<<20); return err },
		"Create": func() error { _, err := h.Create(t.Context(), "set/z"); return err },
		"Remove": func() error { return h.Remove(t.Context(), "set") },
		"upload": func() error { _, err := u.Write(random(20<<20, 1)); return errors.Join(err, u.Commit()) },
	} {
		if err := within(what, 20*time.Second, fn); !errors.Is(err, errSilent) {
			t.Errorf("%s: %v; want that the server does not answer", what, err)
		}
	}
	_ = within("closing a file", 10*time.Second, file.Close)
	f.hung.Store(false)
	if _, err := h.Dirs(t.Context()); err != nil {
		t.Errorf("after the server hung: %v", err)
	}
	f.hung.Store(true)
	s.access.limits = patient
	go func() { _, _ = h.Dirs(t.Context()) }() // ends with the connection
	time.Sleep(50 * time.Millisecond)
	if err := within("Close", 5*time.Second, h.Close); err != nil {
		t.Errorf("Close: %v", err)
	}
}

// TestSFTPWithoutFsync: what a server without fsync confirmed and lost is an error, however much was
// sent since.
func TestSFTPWithoutFsync(t *testing.T) {
	t.Setenv("HOME", t.TempDir())
	t.Setenv("SSH_AUTH_SOCK", "")
	f := newFakeSSH(t)
	h := f.site(f.addr, t.TempDir(), "").open(t)
	h.(*sftpHome).syncEach = 4 << 20
	u, err := h.Create(t.Context(), "x")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := u.Write(random(20<<20, 1)); err != nil {
		t.Fatal(err)
	}
	temp := u.(*sftpUpload).temp
	for range 500 {
		if st, err := os.Stat(temp); err == nil && st.Size() == 20<<20 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	time.Sleep(100 * time.Millisecond) // for the confirmation
	w, err := os.OpenFile(temp, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.WriteAt(make([]byte, 100), 5<<20); err != nil || w.Close() != nil {
		t.Fatal(err)
	}
	f.cut()
	if _, err = u.Write(random(5<<20, 2)); err == nil {
		err = u.Commit()
	}
	if err == nil || !strings.Contains(err.Error(), "lost a part") {
		t.Errorf("%v", err)
	}
	if err := u.Abort(); err != nil {
		t.Error(err)
	}
}

// TestPasswordLogins: a password of the credentials or of a person logs in, by both methods that servers ask for
// it. A person is asked once, also when the connection breaks.
func TestPasswordLogins(t *testing.T) {
	t.Setenv("HOME", t.TempDir())
	t.Setenv("SSH_AUTH_SOCK", "")
	const secret = "TOPSECRET word"
	right := func(user, answer string) (*ssh.Permissions, error) {
		if user != "me" || answer != secret {
			return nil, errors.New("wrong")
		}
		return nil, nil
	}
	methods := map[string]*ssh.ServerConfig{
		"password": {PasswordCallback: func(c ssh.ConnMetadata, p []byte) (*ssh.Permissions, error) { return right(c.User(), string(p)) }},
		"questions": {KeyboardInteractiveCallback: func(c ssh.ConnMetadata, ask ssh.KeyboardInteractiveChallenge) (*ssh.Permissions, error) {
			answers, err := ask("", "", []string{"Password: "}, []bool{false})
			if err != nil || len(answers) != 1 {
				return nil, errors.New("no answer")
			}
			return right(c.User(), answers[0])
		}},
	}
	for name, config := range methods {
		for _, c := range []struct {
			name, password, answer string
			asked                  int
			want                   string // in the error; "" for none
		}{
			{"of the credentials", secret, "", 0, ""},
			{"of a person", "", secret, 1, ""},
			{"wrong", "TOPSECRET", "", 0, "refuses user me (tried password)"},
			{"wrong of a person", "", "TOPSECRET", 1, "refuses user me (tried password)"},
		} {
			t.Run(name+" "+c.name, func(t *testing.T) {
				mine := *config
				f := newFakeSSHFor(t, &mine)
				s := f.site(f.addr, t.TempDir(), "")
				cred, err := ParseCredentials([]byte("- {url: 'sftp://" + f.addr + "', user: me, password: '" + c.password + "'}"))
				if err != nil {
					t.Fatal(err)
				}
				asked := 0
				s.access.Credentials, s.access.limits = cred, quick
				if c.answer != "" {
					s.access.Ask = func(_ context.Context, question string, hidden bool) (string, error) {
						if asked++; !hidden || !strings.Contains(strings.ToLower(question), "me@127.0.0.1: password") {
							t.Errorf("asked %q, hidden: %v", question, hidden)
						}
						return c.answer, nil
					}
				}
				h, err := OpenHome(t.Context(), s.url, s.access)
				if (err == nil) != (c.want == "") || err != nil && (!strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "TOPSECRET")) {
					t.Errorf("OpenHome = %v; want %q, and no secret", err, c.want)
				}
				if err == nil {
					put(t, h, "x", []byte("text"))
					f.cut()
					if got := content(t, h, "x"); string(got) != "text" {
						t.Errorf("after a break: %q", got)
					}
					if err := h.Close(); err != nil {
						t.Error(err)
					}
				}
				if asked != c.asked {
					t.Errorf("a person was asked %d times; want %d", asked, c.asked)
				}
			})
		}
	}
}
