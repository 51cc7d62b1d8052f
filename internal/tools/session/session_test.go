package session

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/ptytest"
	"github.com/mkcdrec/mkcdrec/internal/tools"
)

// TestMain lets this executable be the commands, as the multicall one is.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "applet" {
		i := slices.IndexFunc(Commands(), func(c tools.Command) bool { return c.Name == os.Args[2] })
		os.Exit(tools.Main(Commands()[i], os.Args[3:]))
	}
	os.Exit(m.Run())
}

func command(dir string, args ...string) *exec.Cmd {
	c := exec.Command(os.Args[0], append([]string{"applet"}, args...)...)
	c.Env = []string{"SCREENDIR=" + dir, "SHELL=/bin/sh", "PATH=/usr/bin:/bin", "TERM=vt100", "PS1=$ ", "HOME=/"}
	return c
}

func start(t *testing.T, dir string, args ...string) *ptytest.Terminal {
	t.Helper()
	return ptytest.Start(t, command(dir, args...), 30, 90)
}

func output(t *testing.T, dir string, args ...string) (string, int) {
	t.Helper()
	c := command(dir, args...)
	out, _ := c.CombinedOutput() // the status tells
	return string(out), c.ProcessState.ExitCode()
}

// TestSession: what runs in a session goes on when the client is detached or its line breaks,
// and is seen again by who attaches.
func TestSession(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	defer output(t, dir, "session", "-X", "-S", "one", "quit")
	a := start(t, dir, "session", "-S", "one")
	a.Shows("$ ")
	a.Keys("X=7; echo a$((1+1))b; stty size\n")
	a.Shows("a2b")
	a.Shows("30 90")
	if out, rc := output(t, dir, "screen", "-ls"); rc != 0 || !strings.Contains(out, ".one\t(") || !strings.Contains(out, "(Attached)\n1 Socket in "+dir) {
		t.Errorf("screen -ls = %d, %q", rc, out)
	}
	if out, rc := output(t, dir, "session", "-r"); rc == 0 || !strings.Contains(out, "terminal") && !strings.Contains(out, "no session to attach") {
		t.Errorf("a second -r = %d, %q; want a refusal", rc, out)
	}
	a.Keys("\x01d")
	if rc := a.Ended(); rc != 0 || !strings.Contains(a.Text(), "[detached from ") {
		t.Errorf("detached: %d, %q", rc, a.Text())
	}
	out, tries := "", 0
	for ; !strings.Contains(out, "(Detached)") && tries < 50; tries++ {
		out, _ = output(t, dir, "tmux", "ls")
	}
	if tries == 50 {
		t.Errorf("tmux ls = %q", out)
	}

	b := start(t, dir, "session", "-r", "one")
	b.Shows("a2b") // from before
	b.Keys("echo v$X; read Y; echo w$Y\n")
	b.Shows("v7")
	if err := b.Cmd.Process.Signal(syscall.SIGHUP); err != nil { // the line breaks
		t.Fatal(err)
	}
	b.Ended()

	c := start(t, dir, "session", "-r")
	c.Shows("v7")
	c.Keys("typed\n")
	c.Shows("wtyped")
	c.Resize(11, 44)
	time.Sleep(300 * time.Millisecond)
	c.Keys("stty size; printf '\\001' | od -An -c; cat | od -An -c\n")
	c.Shows("11 44")
	c.Keys("\x01a\n\x04") // the key itself
	c.Shows("001  \\n")

	d := start(t, dir, "session", "-d", "-r", "one")
	d.Shows("11 44")
	if rc := c.Ended(); rc != 0 || !strings.Contains(c.Text(), "[detached by another client]") {
		t.Errorf("taken over: %d, %q", rc, c.Text())
	}
	d.Keys("exit 3\n")
	if rc := d.Ended(); rc != 3 || !strings.Contains(d.Text(), "[screen is terminating]") {
		t.Errorf("ended: %d, %q; want 3", rc, d.Text())
	}
	for range 100 {
		if out, rc := output(t, dir, "session", "-ls"); rc == 1 && strings.HasPrefix(out, "No Sockets found in "+dir) {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Error("the session is still there")
}

// TestDetached: sessions that start without a terminal, wrong names, and what kills them.
func TestDetached(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	mark := dir + "/../mark"
	for _, c := range []struct {
		rc         int
		line, want string
	}{
		{0, "session -dmS work sh -c 'echo made >MARK; sleep 1000'", ""},
		{1, "session -d -m -S work sleep 1", "there is a session 'work' already"},
		{0, "tmux new-session -d -s other sleep 1000", ""},
		{0, "session -ls", "There are screens on:"},
		{1, "session -r", "terminal|several"},
		{1, "session -r nosuch", "there is no session 'nosuch'"},
		{1, "session", "terminal"},
		{1, "session -d -m -S a/b true", "no '/'"},
		{1, "session -d -m -S x /nosuch/program", "cannot start the session"},
		{1, "tmux nosuch", "unknown command"},
		{0, "session -X -S work quit", ""},
		{0, "tmux kill-session -t other", ""},
	} {
		args := strings.Fields(c.line)
		if i := strings.Index(c.line, "'"); i >= 0 && strings.HasSuffix(c.line, "'") {
			args = append(strings.Fields(c.line[:i]), strings.ReplaceAll(c.line[i+1:len(c.line)-1], "MARK", mark))
		}
		out, rc := output(t, dir, args...)
		ok := slices.ContainsFunc(strings.Split(c.want, "|"), func(w string) bool { return strings.Contains(out, w) })
		if rc != c.rc || !ok {
			t.Errorf("%s = %d, %q; want %d, %q", c.line, rc, out, c.rc, c.want)
		}
	}
	if b, err := os.ReadFile(mark); err != nil || string(b) != "made\n" {
		t.Errorf("the command was not run: %q, %v", b, err)
	}
	for range 100 {
		if entries, err := os.ReadDir(dir); err == nil && len(entries) == 0 {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Error("sockets are left")
}

// TestReplay: what is shown again begins at the last clearing of the screen, and asks the
// terminal nothing.
func TestReplay(t *testing.T) {
	for in, want := range map[string]string{
		"a\nb":                              "a\nb",
		"old\x1b[2Jnew\x1b[6n\x1b[c!":       "\x1b[2Jnew!",
		"\x1b[?1049hvim\x1b[31mred\x1b[>0c": "\x1b[?1049hvim\x1b[31mred",
		"x\x1b]11;?\x07y\x05":               "xy",
	} {
		if got := string(replay([]byte(in))); got != "\x1b[0m\x1b[H\x1b[2J"+want {
			t.Errorf("replay(%q) = %q; want %q", in, got, want)
		}
	}
	long := bytes.Repeat([]byte("0123456789\n"), kept/5)
	if got := replay(long); len(got) > kept+20 || !bytes.HasPrefix(got, []byte("\x1b[0m\x1b[H\x1b[2J0123456789\n")) {
		t.Errorf("replay of %d bytes = %d, %q", len(long), len(got), got[:40])
	}
}

// FuzzReceive: no bytes of a connection end the server.
func FuzzReceive(f *testing.F) {
	f.Add([]byte("d\x00\x00\x00\x01x"))
	f.Add([]byte("w\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, m, err := receive(bytes.NewReader(b)); err == nil && len(m) > len(b) {
			t.Errorf("receive(%q) = %q", b, m)
		}
		replay(b)
	})
}

// TestLagging: a client that takes nothing for a while stays attached: it gets the screen as it is
// when it takes something again, the exit status at the end, and holds up neither the program nor
// other clients.
func TestLagging(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	mark := t.TempDir() + "/mark"
	const much = 30_000_000
	if out, rc := output(t, dir, "session", "-dmS", "lag", "sh", "-c", "read X; yes | head -c 30000000; echo LAST; >"+mark+"; read X; exit 7"); rc != 0 {
		t.Fatalf("session = %d, %s", rc, out)
	}
	defer output(t, dir, "session", "-X", "-S", "lag", "quit")
	all, err := list(dir)
	if err != nil || len(all) != 1 {
		t.Fatalf("sessions: %v, %v", all, err)
	}
	attach := func() net.Conn {
		c, err := dial(dir, all[0].name)
		if err == nil {
			err = send(c, msgSize, []byte{0, 24, 0, 80})
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	until := func(c net.Conn, text string) (size int) {
		t.Helper()
		_ = c.SetReadDeadline(time.Now().Add(30 * time.Second))
		var last []byte
		for {
			kind, b, err := receive(c)
			if err != nil || kind != msgData {
				t.Fatalf("%q, %v after %d bytes, and no %s", kind, err, size, text)
			}
			size += len(b)
			if last = append(last, b...); bytes.Contains(last, []byte(text)) {
				return size
			}
			last = last[max(0, len(last)-100):]
		}
	}
	stopped, other := attach(), attach()
	if err := send(other, msgData, []byte("begin\n")); err != nil {
		t.Fatal(err)
	}
	until(other, "LAST")
	for range 200 {
		if _, err := os.Stat(mark); err == nil {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if n := until(stopped, "LAST"); n > much/2 {
		t.Errorf("the client that lagged got %d bytes of %d; want the end only", n, much)
	}
	if err := send(stopped, msgData, []byte("end\n")); err != nil {
		t.Fatal(err)
	}
	for {
		kind, b, err := receive(stopped)
		if err != nil {
			t.Fatal(err)
		}
		if kind == msgExit {
			if len(b) != 1 || b[0] != 7 {
				t.Errorf("exit status %v; want 7", b)
			}
			return
		}
	}
}
