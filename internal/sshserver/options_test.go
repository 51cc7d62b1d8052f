package sshserver

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	gossh "golang.org/x/crypto/ssh"
)

// peer is a key with the server that it may use.
type peer struct {
	addr   string
	signer gossh.Signer
	mu     sync.Mutex
	lines  []string
}

func (p *peer) log(f string, a ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lines = append(p.lines, fmt.Sprintf(f, a...))
}

func (p *peer) said() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.lines, "\n")
}

func start(t *testing.T, options string, grace time.Duration) *peer {
	t.Helper()
	_, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{}
	if p.signer, err = gossh.NewSignerFromKey(priv); err != nil {
		t.Fatal(err)
	}
	keys, err := ParseKeys(options + string(gossh.MarshalAuthorizedKey(p.signer.PublicKey())))
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(keys, []string{"/bin/sh"}, p.log)
	if err != nil {
		t.Fatal(err)
	}
	s.grace = grace
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.addr = l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() { cancel(); <-done })
	return p
}

func (p *peer) dial(user string, signers ...gossh.Signer) (*gossh.Client, error) {
	return gossh.Dial("tcp", p.addr, &gossh.ClientConfig{User: user, Auth: []gossh.AuthMethod{gossh.PublicKeys(signers...)}, HostKeyCallback: gossh.InsecureIgnoreHostKey(), Timeout: 10 * time.Second})
}

// TestOptions: what a line of authorized_keys allows is what its holder can do.
func TestOptions(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	for options, c := range map[string]struct {
		login    bool
		out      string // of "echo asked"
		terminal bool
	}{
		"": {true, "asked\n", true},
		`command="echo \"$X:$SSH_ORIGINAL_COMMAND\"",environment="X=1" `: {true, "1:echo asked\n", true},
		`no-pty `:                        {true, "asked\n", false},
		`restrict `:                      {true, "asked\n", false},
		`restrict,pty,command="echo x" `: {true, "x\n", true},
		`No-PTY,no-port-forwarding,no-X11-forwarding,no-agent-forwarding `: {true, "asked\n", false},
		`from="127.0.0.0/8" `:                                {true, "asked\n", true},
		`from="127.0.0.?,::1" `:                              {true, "asked\n", true},
		`from="192.0.2.0/24" `:                               {},
		`from="*,!127.0.0.1" `:                               {},
		`from="192.0.2.*" `:                                  {},
		`expiry-time="20010101" `:                            {},
		`expiry-time="29990101Z" `:                           {true, "asked\n", true},
		`expiry-time="29990101",expiry-time="200101010000" `: {},
	} {
		t.Run(options, func(t *testing.T) {
			p := start(t, options, time.Minute)
			client, err := p.dial("root", p.signer)
			if (err == nil) != c.login {
				t.Fatalf("login: %v; want %v", err, c.login)
			}
			if err != nil {
				if s := p.said(); !strings.Contains(s, "may not be used from this address") && !strings.Contains(s, "expired on") {
					t.Errorf("the log has no reason: %q", s)
				}
				return
			}
			defer client.Close()
			s, err := client.NewSession()
			if err != nil {
				t.Fatal(err)
			}
			if out, err := s.Output("echo asked"); string(out) != c.out || err != nil {
				t.Errorf("a command: %q, %v; want %q", out, err, c.out)
			}
			if s, err = client.NewSession(); err != nil {
				t.Fatal(err)
			}
			if err := s.RequestPty("vt100", 24, 80, nil); (err == nil) != c.terminal {
				t.Errorf("a terminal: %v; want %v", err, c.terminal)
			}
			if strings.Contains(options, "command=") {
				if s, err = client.NewSession(); err != nil {
					t.Fatal(err)
				}
				r, err := s.StdoutPipe()
				if err != nil {
					t.Fatal(err)
				}
				if err := s.RequestSubsystem("sftp"); err != nil {
					t.Fatal(err)
				}
				if b, err := io.ReadAll(r); err != nil || !strings.HasSuffix(string(b), "\n") || strings.Contains(string(b), "\x00") {
					t.Errorf("sftp with a forced command: %q, %v; want the command's output", b, err)
				}
			}
		})
	}
}

// TestOptionsRefused: what is not enforced refuses its key, by name, and no other.
func TestOptionsRefused(t *testing.T) {
	const key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB3D6sOr4WtYpFrIQRzg2vVEgn2oFaCzkbrR06H5hAGe"
	for options, want := range map[string]string{
		"cert-authority":                "cert-authority is not supported",
		`cert-authority,principals="x"`: "not supported",
		"verify-required":               "verify-required is not supported",
		"no-such-option":                "no-such-option is not supported",
		"no-\x1b[2Jpty":                 `no-\x1b[2jpty is not supported`,
		"command":                       "command has no value",
		`command="a",command="b"`:       "two commands",
		`from="*.example.org"`:          "names of hosts",
		`from="!evil.example.org,*"`:    "names of hosts",
		`from="10.0.0.0/8",from="*"`:    "two lists",
		`from=""`:                       "want addresses",
		`expiry-time="soon"`:            "expiry-time",
		`expiry-time="20261399"`:        "expiry-time",
		`environment="no name=1"`:       "NAME=VALUE",
		"command=echo":                  "not in quotes",
	} {
		keys, err := ParseKeys("# first\n" + options + " " + key + "\n" + key + " me@host\n")
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "line 2") {
			t.Errorf("%s: %v; want line 2 and %q", options, err, want)
		}
		if len(keys) != 1 || keys[0].forced || keys[0].from != nil {
			t.Errorf("%s: keys %v; want the second only", options, keys)
		}
	}
}

// TestLog: names are quoted and short, nobody is logged in before the signature,
// and a scanner does not fill the log.
func TestLog(t *testing.T) {
	p := start(t, "", time.Minute)
	hostile := "x\n15:04:05 ssh: root logged in\x1b[2J" + strings.Repeat("y", 1000)
	_, other, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := gossh.NewSignerFromKey(other)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.dial(hostile, stranger); err == nil {
		t.Fatal("a stranger logged in")
	}
	s := p.said()
	if strings.ContainsAny(s, "\x1b") || strings.Contains(s, "\n15:04:05") || strings.Contains(s, "yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy") || !strings.Contains(s, `refused "x\n15:04:05`) {
		t.Errorf("the log has %q", s)
	}
	for range 60 {
		p.dial("root", stranger)
	}
	if n := len(strings.Split(p.said(), "\n")); n > logLines+5 {
		t.Errorf("%d lines in the log of 60 refusals; want at most %d", n, logLines+5)
	}
	now := time.Now()
	var lines []string
	l := newLimiter(func(f string, a ...any) { lines = append(lines, fmt.Sprintf(f, a...)) }, func() time.Time { return now })
	for range 1000 {
		l.printf("x")
	}
	now = now.Add(3 * logPause)
	l.printf("y")
	if len(lines) != logLines+2 || lines[logLines] != "ssh: 970 lines were left out of the log" || lines[logLines+1] != "y" {
		t.Errorf("%d lines, the last %q", len(lines), lines[len(lines)-2:])
	}
}

// TestGrace: who connects and does not log in is disconnected, and does not keep
// others out for longer.
func TestGrace(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	p := start(t, "", 700*time.Millisecond)
	begin := time.Now()
	var conns []net.Conn
	for range maxWaiting + 5 {
		c, err := net.Dial("tcp", p.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		conns = append(conns, c)
	}
	for _, c := range conns {
		if err := c.SetReadDeadline(begin.Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, c); err != nil && strings.Contains(err.Error(), "i/o timeout") {
			t.Fatalf("a silent connection is kept: %v", err)
		}
	}
	if s := p.said(); !strings.Contains(s, "too many connections") || !strings.Contains(s, "no login from 127.0.0.1") {
		t.Errorf("the log has %q", s)
	}
	client, err := p.dial("root", p.signer)
	if err != nil {
		t.Fatalf("after the silent ones: %v", err)
	}
	defer client.Close()
	var sessions []*gossh.Session
	for i := range maxSessions + 1 {
		s, err := client.NewSession()
		if (err == nil) != (i < maxSessions) {
			t.Errorf("session %d: %v", i, err)
		}
		sessions = append(sessions, s)
	}
	time.Sleep(time.Second) // longer than the time for a login
	if out, err := sessions[0].Output("echo still here"); string(out) != "still here\n" || err != nil {
		t.Errorf("a session after the time for a login: %q, %v", out, err)
	}
}

func FuzzParseKeys(f *testing.F) {
	f.Add(`from="10.0.0.0/8",command="a \"b\"" ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB3D6sOr4WtYpFrIQRzg2vVEgn2oFaCzkbrR06H5hAGe`)
	f.Fuzz(func(t *testing.T, s string) {
		keys, _ := ParseKeys(s)
		for _, k := range keys {
			k.refuses(&net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 1}, time.Now())
		}
	})
}
