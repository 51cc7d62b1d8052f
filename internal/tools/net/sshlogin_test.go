package nettools

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/mkcdrec/mkcdrec/internal/sshserver"
)

// passwordServer takes a password, or its question, and runs every command as cat.
func passwordServer(t *testing.T, config *ssh.ServerConfig) string {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	config.AddHostKey(signer)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_, channels, requests, err := ssh.NewServerConn(c, config)
				if err != nil {
					c.Close()
					return
				}
				go ssh.DiscardRequests(requests)
				for n := range channels {
					ch, reqs, err := n.Accept()
					if err != nil {
						return
					}
					go func() {
						for r := range reqs {
							r.Reply(r.Type == "exec", nil)
							if r.Type == "exec" {
								io.WriteString(ch, "logged in\n")
								ch.SendRequest("exit-status", false, ssh.Marshal(struct{ S uint32 }{4}))
								ch.Close()
							}
						}
					}()
				}
			}()
		}
	}()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// TestPassword: passwords and passphrases are asked for on the terminal, without echo, three times.
func TestPassword(t *testing.T) {
	refused := errors.New("refused")
	password := passwordServer(t, &ssh.ServerConfig{PasswordCallback: func(c ssh.ConnMetadata, p []byte) (*ssh.Permissions, error) {
		if string(p) != "right" || c.User() != "me" {
			return nil, refused
		}
		return nil, nil
	}, BannerCallback: func(ssh.ConnMetadata) string { return "a banner\x1b[2J\n" }})
	args := func(port string, more ...string) []string {
		return append(append([]string{"-o", "StrictHostKeyChecking=no", "-p", port}, more...), "me@127.0.0.1", "x")
	}
	x := onTerminal(t, tool(t.TempDir(), "ssh", args(password)...))
	x.Want(`a banner\x1b[2J`)
	x.answer("me@127.0.0.1's password: ", "wrong\n")
	x.Want("Permission denied, please try again.")
	x.answer("me@127.0.0.1's password: ", "right\n")
	x.Want("logged in")
	x.ends(4)
	if strings.Contains(x.Text(), "right") || strings.Contains(x.Text(), "wrong") {
		t.Errorf("the password is shown: %q", x.Text())
	}
	x = onTerminal(t, tool(t.TempDir(), "ssh", args(password, "-o", "ConnectTimeout=2")...))
	x.Want("me@127.0.0.1's password: ")
	time.Sleep(2500 * time.Millisecond) // who types may take longer
	x.Keys("right\n")
	x.Want("logged in")
	x.ends(4)
	x = onTerminal(t, tool(t.TempDir(), "ssh", args(password)...))
	for range 3 {
		x.answer("password: ", "wrong\n")
	}
	x.Want("me@127.0.0.1: Permission denied (password).")
	x.ends(255)
	x = onTerminal(t, tool(t.TempDir(), "ssh", args(password)...))
	x.answer("password: ", "\x03")
	x.ends(255)
	for _, more := range [][]string{{"-o", "BatchMode=yes"}, nil} {
		c := exec.Command("setsid", append([]string{"-w", os.Args[0]}, args(password, more...)...)...)
		c.Env = append(os.Environ(), "NETTOOL=ssh", "HOME="+t.TempDir())
		if r := run(t, c, "", ""); r.status != 255 || !strings.Contains(r.errs, "Permission denied") {
			t.Errorf("without a terminal, %v: %+v", more, r)
		}
	}

	question := passwordServer(t, &ssh.ServerConfig{KeyboardInteractiveCallback: func(_ ssh.ConnMetadata, ask ssh.KeyboardInteractiveChallenge) (*ssh.Permissions, error) {
		a, err := ask("", "Two questions", []string{"Name: ", "Code: "}, []bool{true, false})
		if err != nil || a[0] != "n" || a[1] != "c" {
			return nil, refused
		}
		return nil, nil
	}})
	x = onTerminal(t, tool(t.TempDir(), "ssh", args(question)...))
	x.Want("Two questions")
	x.Want("(me@127.0.0.1) Name: ")
	x.Keys("n\n") // which is shown
	x.answer("(me@127.0.0.1) Code: ", "c\n")
	x.Want("logged in")
	x.ends(4)

	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pub, err := ssh.NewPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKeyWithPassphrase(key, "", []byte("phrase"))
	home := t.TempDir()
	if err != nil || errors.Join(os.Mkdir(home+"/.ssh", 0o700), os.WriteFile(home+"/.ssh/id_ed25519", pem.EncodeToMemory(block), 0o600)) != nil {
		t.Fatal(err)
	}
	either := passwordServer(t, &ssh.ServerConfig{PasswordCallback: func(_ ssh.ConnMetadata, p []byte) (*ssh.Permissions, error) {
		if string(p) != "right" {
			return nil, refused
		}
		return nil, nil
	}, PublicKeyCallback: func(_ ssh.ConnMetadata, k ssh.PublicKey) (*ssh.Permissions, error) {
		if !bytes.Equal(k.Marshal(), pub.Marshal()) {
			return nil, refused
		}
		return nil, nil
	}})
	x = onTerminal(t, tool(home, "ssh", args(either)...))
	x.answer("Enter passphrase for key '"+home+"/.ssh/id_ed25519': ", "wrong\n")
	x.answer("Bad passphrase, try again for "+home+"/.ssh/id_ed25519: ", "phrase\n")
	x.Want("logged in")
	x.ends(4)
	x = onTerminal(t, tool(home, "ssh", args(either)...)) // no passphrase, and the password then
	x.answer("Enter passphrase for key", "\n")
	x.answer("password: ", "right\n")
	x.Want("logged in")
	x.ends(4)
	// The passphrase is only asked for if the server takes the key.
	x = onTerminal(t, tool(home, "ssh", args(password)...))
	x.answer("password: ", "right\n")
	x.ends(4)
	if strings.Contains(x.Text(), "passphrase") {
		t.Errorf("the passphrase was asked for: %s", x.Text())
	}
}

// TestOwnServer: our clients and the rescue system's server understand each other.
func TestOwnServer(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	home, dir := t.TempDir(), sshFiles(t)
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil || errors.Join(os.Mkdir(home+"/.ssh", 0o700), os.WriteFile(home+"/.ssh/id_ed25519", pem.EncodeToMemory(block), 0o600)) != nil {
		t.Fatal(err)
	}
	keys, err := sshserver.ParseKeys(string(ssh.MarshalAuthorizedKey(signer.PublicKey())))
	if err != nil {
		t.Fatal(err)
	}
	s, err := sshserver.New(keys, []string{"/bin/sh"}, t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	defer func() { stop(); <-done }()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	accept := []string{"-o", "StrictHostKeyChecking=accept-new"}
	if r := run(t, tool(home, "ssh", append(accept, "-p", port, "root@127.0.0.1", "cat; exit 9")...), dir, "in\n"); r.out != "in\n" || r.status != 9 {
		t.Errorf("ssh = %+v", r)
	}
	for _, args := range [][]string{{"-rp", "d", "root@127.0.0.1:" + dir + "/up"}, {"-rp", "root@127.0.0.1:" + dir + "/up", "down"}, {"-p", "secret", "prog", "big", "root@127.0.0.1:" + dir + "/into"}} {
		if r := run(t, tool(home, "scp", append(append(accept, "-P", port), args...)...), dir, ""); r.status != 0 {
			t.Errorf("scp %q = %+v", args, r)
		}
	}
	tree := sshTree(t, dir)
	for _, want := range []string{"/down/one -rw-r--r-- 2020-01-02T03:04:05Z", "/up/sub/two", "/into/secret -rw-------", "/into/prog -rwxr-xr-x 2020-01-02", "/into/big -rw-r--r-- 2020-01-02T03:04:05Z 640000"} {
		if !strings.Contains(tree, want) {
			t.Errorf("no %q in\n%s", want, tree)
		}
	}
}

// TestPlaces: names of machines, with what surrounds them.
func TestPlaces(t *testing.T) {
	for _, c := range []struct {
		text string
		path bool
		want place
		bad  bool
	}{
		{"host", false, place{host: "host"}, false},
		{"me@host", false, place{user: "me", host: "host"}, false},
		{"me@corp@host", false, place{user: "me@corp", host: "host"}, false},
		{"host:2222", false, place{host: "host", port: "2222"}, false},
		{"fe80::1", false, place{host: "fe80::1"}, false},
		{"[fe80::1]:22", false, place{host: "fe80::1", port: "22"}, false},
		{"ssh://me@[::1]:22", false, place{user: "me", host: "::1", port: "22"}, false},
		{"ssh://", false, place{}, true},
		{"-oProxyCommand=x", false, place{}, true},
		{"", false, place{}, true},
		{"host:", true, place{host: "host"}, false},
		{"me@host:/a@b:c", true, place{user: "me", host: "host", path: "/a@b:c"}, false},
		{"me@[::1]:x", true, place{user: "me", host: "::1", path: "x"}, false},
		{"-x:y", true, place{}, true},
	} {
		got, err := parsePlace(c.text, "ssh", c.path)
		if (err != nil) != c.bad || err == nil && got != c.want {
			t.Errorf("parsePlace(%q) = %+v, %v; want %+v", c.text, got, err, c.want)
		}
	}
	for arg, want := range map[string]bool{"a:b": true, "./a:b": false, "/x": false, "a": false, ":b": false, "[::1]:x": true, "u@h:": true, "a/b:c": false} {
		if got := isRemote(arg); got != want {
			t.Errorf("isRemote(%q) = %v; want %v", arg, got, want)
		}
	}
	for text, want := range map[string]string{"80:h:81": "localhost:80 h:81", "*:80:[::1]:81": ":80 [::1]:81", "[::1]:1:h:2": "[::1]:1 h:2", "80": "", "": "", "[a:1:2": ""} {
		l, to, err := parseForward(text)
		if got := l + " " + to; err == nil && got != want || (err != nil) != (want == "") {
			t.Errorf("parseForward(%q) = %q, %v; want %q", text, got, err, want)
		}
	}
}

// TestEscapes: ~. ends, ~~ is a tilde, and nothing else is changed.
func TestEscapes(t *testing.T) {
	for in, want := range map[string]string{"a~.b": "a~.b", "\r~.b": "\r", "~.": "", "\n~~.x": "\n~.x", "~a\n~": "~a\n", "~~~.": "~~."} {
		ended := false
		x := &escapes{r: iotest{strings.NewReader(in)}, start: true, end: func() { ended = true }}
		b, err := io.ReadAll(x)
		if string(b) != want || err != nil || ended != (strings.HasSuffix(want, "\r") || want == "") {
			t.Errorf("escapes of %q = %q, %v, ended %v; want %q", in, b, err, ended, want)
		}
	}
}

// iotest gives one byte at a time.
type iotest struct{ r io.Reader }

func (r iotest) Read(p []byte) (int, error) { return r.r.Read(p[:min(1, len(p))]) }

func FuzzNames(f *testing.F) {
	f.Add("me@[::1]:x")
	f.Add(`get "a b" c\ d`)
	f.Add("[::1]:1:h:2")
	f.Fuzz(func(t *testing.T, s string) {
		if p, err := parsePlace(s, "scp", true); err == nil && p.host == "" {
			t.Errorf("parsePlace(%q) = %+v", s, p)
		}
		parsePlace(s, "ssh", false)
		isRemote(s)
		parseForward(s)
		if words, err := splitLine(s); err == nil {
			for _, w := range words {
				plain(w)
			}
		}
	})
}
