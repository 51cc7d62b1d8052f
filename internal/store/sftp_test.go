package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// sshd is OpenSSH's server on a port of this machine.
type sshd struct {
	t         *testing.T
	dir, port string
	home      string // directory on it
	mu        sync.Mutex
	cmd       *exec.Cmd
	log       bytes.Buffer
}

func keygen(t *testing.T, file string, args ...string) {
	t.Helper()
	if out, err := exec.Command("ssh-keygen", append([]string{"-q", "-f", file}, args...)...).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v\n%s", err, out)
	}
}

// freePort gives a port that no outgoing connection gets: while a server is down, one to
// its port could become one to itself.
func freePort(t *testing.T) string {
	t.Helper()
	for range 100 {
		port := strconv.Itoa(10_000 + rand.IntN(20_000))
		if l, err := net.Listen("tcp", "127.0.0.1:"+port); err == nil {
			l.Close()
			return port
		}
	}
	t.Fatal("no port is free")
	return ""
}

// waitFor waits until a port answers.
func waitFor(t *testing.T, port string) {
	t.Helper()
	for range 500 {
		if conn, err := net.Dial("tcp", "127.0.0.1:"+port); err == nil {
			conn.Close()
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("port %s does not answer", port)
}

func startSFTP(t *testing.T) *sshd {
	t.Helper()
	if _, err := os.Stat("/usr/sbin/sshd"); err != nil || os.Geteuid() != 0 {
		t.Skip("needs root, and sshd of the package openssh-server")
	}
	if b, err := os.ReadFile("/etc/shadow"); err == nil && strings.HasPrefix(string(b), "root:!") {
		t.Skip("sshd lets root in only if the account is not locked")
	}
	s := &sshd{t: t, dir: t.TempDir(), port: freePort(t)}
	s.home = s.dir + "/sp ace/home"
	keygen(t, s.dir+"/host", "-N", "", "-t", "ed25519")
	keygen(t, s.dir+"/host2", "-N", "", "-t", "ecdsa")
	keygen(t, s.dir+"/user", "-N", "", "-t", "ed25519")
	keygen(t, s.dir+"/locked", "-N", "TOPSECRET phrase", "-t", "ed25519")
	text := fmt.Sprintf("Port %s\nListenAddress 127.0.0.1\nHostKey %[2]s/host\nHostKey %[2]s/host2\nPidFile none\nAuthorizedKeysFile %[2]s/user.pub %[2]s/locked.pub\nStrictModes no\nPermitRootLogin yes\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nUsePAM no\nMaxStartups 100\nSubsystem sftp internal-sftp\n", s.port, s.dir)
	if err := errors.Join(os.WriteFile(s.dir+"/config", []byte(text), 0o600), os.MkdirAll("/run/sshd", 0o755)); err != nil {
		t.Fatal(err)
	}
	s.run()
	t.Cleanup(func() {
		s.kill()
		if t.Failed() {
			t.Logf("sshd: %s", &s.log)
		}
	})
	return s
}

func (s *sshd) run() {
	s.mu.Lock()
	s.cmd = exec.Command("/usr/sbin/sshd", "-D", "-e", "-f", s.dir+"/config")
	s.cmd.Stderr = &s.log
	err := s.cmd.Start()
	s.mu.Unlock()
	if err != nil {
		s.t.Error(err)
		return
	}
	waitFor(s.t, s.port)
}

// kill kills the server and the processes of its connections.
func (s *sshd) kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	killTree(s.cmd.Process.Pid)
	_ = s.cmd.Wait()
}

// killTree kills a process and those that it has started.
func killTree(pid int) {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if p, err := os.FindProcess(pid); err == nil {
		_ = p.Kill()
	}
	for _, f := range strings.Fields(string(b)) {
		if n, err := strconv.Atoi(f); err == nil {
			killTree(n)
		}
	}
}

// know writes a file of known hosts with a key of the server.
func (s *sshd) know(t *testing.T, addr, key string) string {
	t.Helper()
	b, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	host, port, _ := net.SplitHostPort(addr)
	file := filepath.Join(t.TempDir(), "known_hosts")
	if err := os.WriteFile(file, fmt.Appendf(nil, "[%s]:%s %s", host, port, b), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func (s *sshd) site(t *testing.T, addr string) *site {
	t.Helper()
	c, err := ParseCredentials(fmt.Appendf(nil, "- {url: 'sftp://%s/', user: root, key: '%s/locked', passphrase: 'TOPSECRET phrase', known_hosts: '%s'}", addr, s.dir, s.know(t, addr, s.dir+"/host2.pub")))
	if err != nil {
		t.Fatal(err)
	}
	return &site{url: "sftp://" + addr + strings.ReplaceAll(s.home, " ", "%20"), access: Access{Credentials: c}, hidden: []string{"TOPSECRET"}}
}

// TestHostKeys: a server is used only if its key is known. What else is known of it counts
// as a change.
func TestHostKeys(t *testing.T) {
	t.Setenv("HOME", t.TempDir())
	t.Setenv("SSH_AUTH_SOCK", "")
	s := startSFTP(t)
	keygen(t, s.dir+"/other", "-N", "", "-t", "ed25519")
	keygen(t, s.dir+"/rsa", "-N", "", "-t", "rsa", "-b", "2048")
	addr := "127.0.0.1:" + s.port
	print := func(key string) string {
		out, err := exec.Command("ssh-keygen", "-lf", key).Output()
		if err != nil {
			t.Fatal(err)
		}
		return strings.Fields(string(out))[1]
	}
	empty := filepath.Join(t.TempDir(), "empty")
	hashed := s.know(t, addr, s.dir+"/host.pub")
	if err := errors.Join(os.WriteFile(empty, nil, 0o600), exec.Command("ssh-keygen", "-H", "-f", hashed).Run()); err != nil {
		t.Fatal(err)
	}
	revoked := s.know(t, addr, s.dir+"/host.pub")
	b, err := os.ReadFile(revoked)
	if err != nil || os.WriteFile(revoked, append([]byte("@revoked "), b...), 0o600) != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, file string
		want       []string // in the error; nil for none
	}{
		{"known", s.know(t, addr, s.dir+"/host.pub"), nil},
		{"known by another key of it", s.know(t, addr, s.dir+"/host2.pub"), nil},
		{"hashed", hashed, nil},
		{"unknown", empty, []string{"not known", print(s.dir + "/host.pub"), "append this line to " + empty, "[127.0.0.1]:" + s.port + " ssh-ed25519 "}},
		{"no file", filepath.Join(t.TempDir(), "no"), []string{"not known", print(s.dir + "/host.pub")}},
		{"changed", s.know(t, addr, s.dir+"/other.pub"), []string{"has changed", print(s.dir + "/host.pub"), print(s.dir + "/other.pub"), "ssh-keygen -f"}},
		{"another type", s.know(t, addr, s.dir+"/rsa.pub"), []string{"no key of the type that is known", "ssh-keygen -f"}},
		{"revoked", revoked, []string{"revoked"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			access := Access{KnownHosts: c.file, limits: quick, Credentials: Credentials{{User: "root", Key: s.dir + "/user", at: address{kind: KindSFTP, host: "127.0.0.1", port: s.port, path: "/"}}}}
			h, err := OpenHome(t.Context(), "sftp://"+addr+"/tmp", access)
			if err == nil {
				err = h.Close()
			}
			if (err == nil) != (c.want == nil) {
				t.Errorf("%v; want %q", err, c.want)
			}
			for _, w := range c.want {
				if err != nil && !strings.Contains(err.Error(), w) {
					t.Errorf("%v; want %q", err, w)
				}
			}
		})
	}
}

// TestLogins: the ways to log in, and the errors when none is right.
func TestLogins(t *testing.T) {
	s := startSFTP(t)
	addr := "127.0.0.1:" + s.port
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("SSH_AUTH_SOCK", "")
	keygen(t, s.dir+"/stranger", "-N", "", "-t", "ed25519")
	known := s.know(t, addr, s.dir+"/host.pub")
	asked := ""
	ask := func(answer string) func(context.Context, string, bool) (string, error) {
		return func(_ context.Context, question string, secret bool) (string, error) {
			if asked += question; !secret {
				t.Errorf("the answer to %q is shown", question)
			}
			return answer, nil
		}
	}
	open := s.dir + "/open"
	b, err := os.ReadFile(s.dir + "/user")
	if err != nil || os.WriteFile(open, b, 0o644) != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, entry string
		ask         func(context.Context, string, bool) (string, error)
		question    string
		want        string // in the error; "" for none
	}{
		{"key", "key: " + s.dir + "/user", nil, "", ""},
		{"key with passphrase", "key: " + s.dir + "/locked, passphrase: TOPSECRET phrase", nil, "", ""},
		{"passphrase of a person", "key: " + s.dir + "/locked", ask("TOPSECRET phrase"), "Passphrase of " + s.dir + "/locked: ", ""},
		{"no person", "key: " + s.dir + "/locked", nil, "", "no terminal to ask"},
		{"wrong passphrase", "key: " + s.dir + "/locked, passphrase: TOPSECRET", nil, "", "wrong passphrase"},
		{"another key", "key: " + s.dir + "/stranger", nil, "", "refuses user root (tried key " + s.dir + "/stranger)"},
		{"key that others read", "key: " + open, nil, "", "chmod 600"},
		{"no key", "key: " + s.dir + "/none", nil, "", "no such file"},
		{"not a key", "key: " + s.dir + "/config", nil, "", "not a private key"},
		{"password", "password: TOPSECRET", nil, "", "refuses user root"},
		{"nothing", "user: root", nil, "", "there is no key and no password"},
	} {
		t.Run(c.name, func(t *testing.T) {
			asked = ""
			cred, err := ParseCredentials([]byte("- {url: 'sftp://" + addr + "', " + c.entry + "}"))
			if err != nil {
				t.Fatal(err)
			}
			h, err := OpenHome(t.Context(), "sftp://root@"+addr+"/tmp", Access{KnownHosts: known, Credentials: cred, Ask: c.ask, limits: quick})
			if err == nil {
				err = h.Close()
			}
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) || asked != c.question {
				t.Errorf("%v; want %q; asked %q", err, c.want, asked)
			}
			if err != nil && strings.Contains(err.Error(), "TOPSECRET") {
				t.Errorf("a secret is in %v", err)
			}
		})
	}
	t.Run("agent", func(t *testing.T) {
		key, err := ssh.ParseRawPrivateKey(b)
		if err != nil {
			t.Fatal(err)
		}
		ring := agent.NewKeyring()
		l, err := net.Listen("unix", home+"/agent")
		if err != nil || ring.Add(agent.AddedKey{PrivateKey: key}) != nil {
			t.Fatal(err)
		}
		defer l.Close()
		go func() {
			if c, err := l.Accept(); err == nil {
				_ = agent.ServeAgent(ring, c)
			}
		}()
		t.Setenv("SSH_AUTH_SOCK", home+"/agent")
		h, err := OpenHome(t.Context(), "sftp://root@"+addr+"/tmp", Access{KnownHosts: known, limits: quick})
		if err != nil {
			t.Fatal(err)
		}
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestSFTPLost: bytes that the server had confirmed and lost are an error, not a gap.
func TestSFTPLost(t *testing.T) {
	s := startSFTP(t)
	h := s.site(t, "127.0.0.1:"+s.port).open(t)
	u, err := h.Create(t.Context(), "lost/x")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := u.Write(random(12<<20, 1)); err != nil {
		t.Fatal(err)
	}
	temp := u.(*sftpUpload).temp
	for range 500 {
		if st, err := os.Stat(temp); err == nil && st.Size() == 12<<20 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	time.Sleep(100 * time.Millisecond) // for the confirmation
	f, err := os.OpenFile(temp, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(make([]byte, 100), 5<<20); err != nil || f.Close() != nil {
		t.Fatal(err)
	}
	s.kill()
	s.run()
	_, err = u.Write(random(12<<20, 2))
	if err == nil {
		err = u.Commit()
	}
	if err == nil || !strings.Contains(err.Error(), "lost a part") {
		t.Errorf("%v", err)
	}
	if err := u.Abort(); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(filepath.Dir(temp)); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}
