package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/mkcdrec/mkcdrec/internal/hostkey"
	"github.com/mkcdrec/mkcdrec/internal/printable"
	"github.com/mkcdrec/mkcdrec/internal/regular"
)

// maxKey is how many bytes a private key may have.
const maxKey = 1 << 20

// sshLogin is how a server of ssh is logged in to. Answers of a person are kept for the next
// connection.
type sshLogin struct {
	at     address
	login  login
	access Access
	user   string
	answer map[string]string // by question
}

// dial connects and logs in. What another attempt does not change is permanent.
func (l *sshLogin) dial(ctx context.Context, limits limits) (*ssh.Client, error) {
	addr := net.JoinHostPort(l.at.host, l.at.port)
	trust, algorithms, err := l.trust(addr)
	if err != nil {
		return nil, permanent{err}
	}
	methods, tried, done, err := l.methods(ctx)
	if err != nil {
		return nil, permanent{err}
	}
	defer done()
	var refused error
	config := &ssh.ClientConfig{
		User: l.user, Auth: methods, HostKeyAlgorithms: algorithms, ClientVersion: "SSH-2.0-mkcdrec",
		HostKeyCallback: func(host string, remote net.Addr, key ssh.PublicKey) error {
			refused = trust(host, remote, key)
			return refused
		},
	}
	dialer := net.Dialer{Timeout: limits.header, KeepAlive: 15 * time.Second}
	conn, err := dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, noHost(err)
	}
	w := &watched{Conn: conn}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	_ = conn.SetDeadline(time.Now().Add(limits.header + time.Minute)) // a person may have to type
	c, channels, requests, err := ssh.NewClientConn(w, addr, config)
	_ = conn.SetDeadline(time.Time{})
	if err == nil {
		client := ssh.NewClient(c, channels, requests)
		go w.keep(client, limits.stall)
		return client, nil
	}
	conn.Close()
	switch text := err.Error(); {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case refused != nil:
		return nil, permanent{refused}
	case strings.Contains(text, "no common algorithm for host key"):
		return nil, permanent{fmt.Errorf("the server has no key of the type that is known of it: its key has changed, or another machine answers; %s", l.forget())}
	case strings.Contains(text, "unable to authenticate"):
		return nil, permanent{fmt.Errorf("the server refuses user %s (tried %s)", l.user, cmp.Or(strings.Join(*tried, ", "), "nothing: there is no key and no password"))}
	}
	return nil, errors.New(printable.Clean(err.Error()))
}

// files are the files of known hosts that exist. The first is where a new host is entered.
func (l *sshLogin) files() (all []string, first string) {
	names := []string{"/etc/ssh/ssh_known_hosts"}
	if f := cmp.Or(l.login.KnownHosts, l.access.KnownHosts); f != "" {
		names = []string{f}
	} else if home, err := os.UserHomeDir(); err == nil {
		names = append([]string{filepath.Join(home, ".ssh/known_hosts")}, names...)
	}
	for _, f := range names {
		if _, err := os.Stat(f); err == nil {
			all = append(all, f)
		}
	}
	return all, names[0]
}

// forget is what to do about a changed key.
func (l *sshLogin) forget() string {
	_, file := l.files()
	return fmt.Sprintf("ask who runs the server; if the new key is right, remove the old one:\nrun `ssh-keygen -f %s -R %q`", file, knownhosts.Normalize(net.JoinHostPort(l.at.host, l.at.port)))
}

// trust gives what checks the key of the server, and the types of keys that are known of it:
// a server with several keys is to show one of these.
func (l *sshLogin) trust(addr string) (ssh.HostKeyCallback, []string, error) {
	files, first := l.files()
	known, err := hostkey.Read(addr, files...)
	if err != nil {
		return nil, nil, err
	}
	algorithms, others := known.Algorithms()
	if !known.HasKey() {
		algorithms = append(algorithms, others...)
	}
	return func(host string, remote net.Addr, key ssh.PublicKey) error {
		err := known.Check(host, remote, key)
		var e *hostkey.ChangedError
		switch key = hostkey.Plain(key); {
		case errors.As(err, &e): // a key of another type counts as changed, too
			k := e.Want[0]
			return fmt.Errorf("the key of the server has changed, or another machine answers: it has %s %s, and %s line %d has %s; %s",
				key.Type(), ssh.FingerprintSHA256(key), k.Filename, k.Line, ssh.FingerprintSHA256(k.Key), l.forget())
		case errors.Is(err, hostkey.ErrUnknown):
			return fmt.Errorf("%w: it has %s %s; compare this with what `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` prints on the server, then append this line to %s:\n%s",
				err, key.Type(), ssh.FingerprintSHA256(key), first, knownhosts.Line([]string{addr}, key))
		}
		return err
	}, algorithms, nil
}

// methods are the ways to log in: the key of the credentials, the agent or the user's own
// keys, then passwords. tried names those that were used.
func (l *sshLogin) methods(ctx context.Context) (methods []ssh.AuthMethod, tried *[]string, done func(), err error) {
	tried, done = new([]string), func() {}
	note := func(s string) {
		if !slices.Contains(*tried, s) {
			*tried = append(*tried, s)
		}
	}
	var signers []ssh.Signer
	if f := l.login.Key; f != "" {
		s, err := l.signer(ctx, f)
		if err != nil {
			return nil, nil, nil, err
		}
		note("key " + f)
		signers = append(signers, s)
	} else {
		if socket := os.Getenv("SSH_AUTH_SOCK"); socket != "" {
			if conn, err := net.Dial("unix", socket); err == nil {
				stop := context.AfterFunc(ctx, func() { conn.Close() })
				done = func() { stop(); conn.Close() }
				_ = conn.SetDeadline(time.Now().Add(l.access.patience().header))
				s, err := agent.NewClient(conn).Signers()
				_ = conn.SetDeadline(time.Time{}) // a person may have to agree to a signature
				if err == nil && len(s) > 0 {
					note("the agent's keys")
					signers = append(signers, s...)
				}
			}
		}
		home, _ := os.UserHomeDir()
		for _, n := range []string{"id_ed25519", "id_ecdsa", "id_rsa"} {
			if s, err := l.signer(ctx, filepath.Join(home, ".ssh", n)); err == nil && home != "" {
				note("key ~/.ssh/" + n)
				signers = append(signers, s)
			}
		}
	}
	if len(signers) > 0 {
		methods = append(methods, ssh.PublicKeys(signers...))
	}
	if l.login.Password == "" && l.access.Ask == nil {
		return methods, tried, done, nil
	}
	password := func(question string) (string, error) {
		note("password")
		if l.login.Password != "" {
			return string(l.login.Password), nil
		}
		return l.once(ctx, question)
	}
	who := fmt.Sprintf("%s@%s: ", l.user, l.at.host)
	methods = append(methods, ssh.PasswordCallback(func() (string, error) { return password(who + "password: ") }),
		ssh.KeyboardInteractive(func(_, _ string, questions []string, echos []bool) (out []string, err error) {
			for i, q := range questions {
				a := ""
				if echos[i] {
					a, err = l.access.ask(ctx, who+printable.Clean(q), false)
				} else {
					a, err = password(who + printable.Clean(q))
				}
				if err != nil {
					return nil, err
				}
				out = append(out, a)
			}
			return out, nil
		}))
	return methods, tried, done, nil
}

// once asks for a secret the first time.
func (l *sshLogin) once(ctx context.Context, question string) (string, error) {
	if a, ok := l.answer[question]; ok {
		return a, nil
	}
	a, err := l.access.ask(ctx, question, true)
	if err == nil {
		l.answer[question] = a
	}
	return a, err
}

// signer reads a private key, which others must not be able to read.
func (l *sshLogin) signer(ctx context.Context, file string) (ssh.Signer, error) {
	b, err := regular.ReadFile(file, maxKey)
	if err != nil {
		return nil, fmt.Errorf("cannot read the key: %w", err)
	}
	if st, err := os.Stat(file); err == nil && st.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("cannot use the key: %s has mode %04o, other users can use it\nrun `chmod 600 %s`", file, st.Mode().Perm(), file)
	}
	s, err := ssh.ParsePrivateKey(b)
	if !errors.As(err, new(*ssh.PassphraseMissingError)) {
		if err != nil {
			return nil, fmt.Errorf("cannot use the key %s: it is not a private key of OpenSSH", file)
		}
		return s, nil
	}
	pass := string(l.login.Passphrase)
	if pass == "" || l.login.Key != file {
		if l.login.Key != file { // one of the user's own, which may not be needed
			return nil, err
		}
		if pass, err = l.once(ctx, "Passphrase of "+file+": "); err != nil {
			return nil, fmt.Errorf("cannot use the key %s: it has a passphrase: %w", file, err)
		}
	}
	if s, err = ssh.ParsePrivateKeyWithPassphrase(b, []byte(pass)); err != nil {
		return nil, fmt.Errorf("cannot use the key %s: wrong passphrase", file)
	}
	return s, nil
}

// account is the name of the user that this program runs as.
func account() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return cmp.Or(os.Getenv("USER"), "root")
}

// watched is a connection that is closed when nothing passes for a while, though the server
// is asked: its machine was switched off, or the network is broken.
type watched struct {
	net.Conn
	passed atomic.Int64
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	w.passed.Add(int64(n))
	return n, err
}

func (w *watched) Write(p []byte) (int, error) {
	n, err := w.Conn.Write(p)
	w.passed.Add(int64(n))
	return n, err
}

// keep asks the server for a sign of life until the connection ends.
func (w *watched) keep(c *ssh.Client, stall time.Duration) {
	ended := make(chan struct{})
	go func() {
		_ = c.Wait() // how it ended is reported by what was using it
		close(ended)
	}()
	asking := make(chan struct{}, 1)
	last, since := int64(-1), time.Now()
	tick := time.NewTicker(max(stall/4, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-ended:
			return
		case <-tick.C:
		}
		if n := w.passed.Load(); n != last {
			last, since = n, time.Now()
		} else if time.Since(since) > stall {
			w.Close()
			return
		}
		select {
		case asking <- struct{}{}:
			go func() {
				_, _, _ = c.SendRequest("keepalive@openssh.com", true, nil) // any answer is one
				<-asking
			}()
		default:
		}
	}
}

// missingFile reports an error for what does not exist on a server.
func missingFile(err error) bool { return errors.Is(err, fs.ErrNotExist) }
