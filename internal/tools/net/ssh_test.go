package nettools

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/ptytest"
	"github.com/mkcdrec/mkcdrec/internal/tools"
)

// TestMain is each command of this package as a program, too.
func TestMain(m *testing.M) {
	name := os.Getenv("NETTOOL")
	if i := slices.IndexFunc(Commands(), func(c tools.Command) bool { return c.Name == name }); i >= 0 {
		os.Exit(tools.Main(Commands()[i], os.Args[1:]))
	}
	os.Exit(m.Run())
}

// sshServer is OpenSSH's server on a port of this machine.
type sshServer struct {
	dir, port string
	key       string // that may log in
	hostKey   string // its public key
}

func keygen(t *testing.T, file string, args ...string) {
	t.Helper()
	if out, err := exec.Command("ssh-keygen", append([]string{"-q", "-N", "", "-t", "ed25519", "-f", file}, args...)...).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v\n%s", err, out)
	}
}

func startSSHD(t *testing.T, config string) *sshServer {
	t.Helper()
	if _, err := os.Stat("/usr/sbin/sshd"); err != nil || os.Geteuid() != 0 {
		t.Skip("needs root, and sshd of the package openssh-server")
	}
	if b, err := os.ReadFile("/etc/shadow"); err == nil && strings.HasPrefix(string(b), "root:!") {
		t.Skip("sshd lets root in only if the account is not locked")
	}
	s := &sshServer{dir: t.TempDir()}
	keygen(t, s.dir+"/host")
	s.key = s.dir + "/user"
	keygen(t, s.key)
	b, err := os.ReadFile(s.dir + "/host.pub")
	if err != nil {
		t.Fatal(err)
	}
	s.hostKey = string(b)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, s.port, _ = net.SplitHostPort(l.Addr().String())
	l.Close()
	// The shell must not read the files of the one who runs the test: they may do anything, and wait for it.
	text := fmt.Sprintf("Port %s\nListenAddress 127.0.0.1\nListenAddress 127.0.0.2\nHostKey %s/host\nPidFile none\nAuthorizedKeysFile %s.pub\nStrictModes no\nPermitRootLogin yes\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nUsePAM no\nPrintMotd no\nPrintLastLog no\nSetEnv HOME=%s SHLVL=1\nSubsystem sftp internal-sftp\n%s", s.port, s.dir, s.key, t.TempDir(), config)
	if err := errors.Join(os.WriteFile(s.dir+"/config", []byte(text), 0o600), os.MkdirAll("/run/sshd", 0o755)); err != nil {
		t.Fatal(err)
	}
	c := exec.Command("/usr/sbin/sshd", "-D", "-e", "-f", s.dir+"/config")
	var log bytes.Buffer
	c.Stderr = &log
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Process.Kill()
		c.Wait()
		if t.Failed() {
			t.Logf("sshd: %s", &log)
		}
	})
	for range 500 {
		if conn, err := net.Dial("tcp", "127.0.0.1:"+s.port); err == nil {
			conn.Close()
			return s
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("sshd does not listen: %s", &log)
	return nil
}

// outcome is what can be seen of a program.
type outcome struct {
	out, errs string
	status    int
}

// tool makes one of our commands, with its home directory.
func tool(home, name string, args ...string) *exec.Cmd {
	c := exec.Command(os.Args[0], args...)
	c.Env = append(os.Environ(), "NETTOOL="+name, "HOME="+home, "LC_ALL=C", "TZ=UTC")
	return c
}

func run(t *testing.T, c *exec.Cmd, dir, input string) outcome {
	t.Helper()
	var out, errs bytes.Buffer
	c.Dir, c.Stdout, c.Stderr = dir, &out, &errs
	if c.Stdin == nil {
		c.Stdin = strings.NewReader(input)
	}
	c.WaitDelay = time.Second
	if err := c.Start(); err != nil {
		t.Fatalf("%v: %v", c.Args, err)
	}
	limit := time.AfterFunc(time.Minute, func() { c.Process.Kill() })
	if err := c.Wait(); err != nil && !errors.As(err, new(*exec.ExitError)) {
		t.Fatalf("%v: %v", c.Args, err)
	}
	if !limit.Stop() {
		t.Fatalf("%v does not end within a minute: %q", c.Args, errs.String())
	}
	return outcome{out.String(), errs.String(), c.ProcessState.ExitCode()}
}

// sshFiles makes a directory with files to copy.
func sshFiles(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	old := time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC)
	big := bytes.Repeat([]byte("0123456789abcdef"), 40_000)
	for name, content := range map[string][]byte{"a": []byte("alpha\n"), "big": big, "empty": nil, "d/one": []byte("1\n"), "d/sub/two": []byte("2\n"), "sp ace": []byte("x\n"), "secret": []byte("s\n"), "prog": []byte("#!\n"), "old": []byte("o\n"), "part": big[:100_000]} {
		p := filepath.Join(dir, name)
		mode := map[string]fs.FileMode{"secret": 0o600, "prog": 0o755}[name]
		if mode == 0 {
			mode = 0o644
		}
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, content, mode), os.Chtimes(p, old, old)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Symlink("a", dir+"/link"), os.Symlink("../a", dir+"/d/up"), os.Mkdir(dir+"/into", 0o700), os.Chtimes(dir+"/d", old, old)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// sshTree lists the files of a directory, with the times that were kept.
func sshTree(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		i, err := d.Info()
		if err != nil {
			return err
		}
		sum := ""
		if i.Mode().IsRegular() {
			c, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			sum = fmt.Sprintf("%d %.20q", len(c), c)
		}
		when := "now"
		if i.ModTime().Year() == 2020 {
			when = i.ModTime().UTC().Format(time.RFC3339)
		}
		fmt.Fprintln(&b, strings.TrimPrefix(p, dir), i.Mode(), when, sum)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestOpenSSH: our clients do with OpenSSH's server what OpenSSH's own do: output, exit
// status, and files.
func TestOpenSSH(t *testing.T) {
	s := startSSHD(t, "")
	for _, l := range strings.Split(strings.TrimSpace(`
ssh H echo hello
ssh H exit 7
ssh H 'echo out; echo err >&2; exit 3'
ssh H nosuchprogram
ssh H 'kill -9 $$'
ssh H echo two  words
ssh H -- echo x
ssh H -l root echo y
ssh -n H cat
ssh -T H
ssh H cat <stdin
ssh H wc -c <big
ssh -N -o nosuch=1 H
ssh -i nosuch -o BatchMode=yes H true
ssh -o BatchMode=yes -o PubkeyAuthentication=no H true
ssh -o Port=1 -p 1 -o ConnectTimeout=3 other@127.0.0.1 true
ssh nosuch.invalid true
ssh -p PORT ssh://root@127.0.0.1:PORT echo url
ssh -J root@localhost:PORT H echo jumped
ssh -J root@localhost:PORT,root@127.0.0.2:PORT H exit 3
ssh -J localhost:1 H true
ssh -o User=nosuch -l root H true
ssh -p 99999 H true
ssh -s H nosuchsubsystem
ssh -W 127.0.0.1:1 H
ssh -c aes256-ctr -o MACs=hmac-sha2-256 -o KexAlgorithms=curve25519-sha256 H echo x
ssh -o KexAlgorithms=+diffie-hellman-group14-sha1 H echo x
ssh -o KexAlgorithms=diffie-hellman-group1-sha1 H echo x
ssh
scp a H:DIR/new
scp a H:DIR/into
scp H:DIR/a back
scp -p H:DIR/old back
scp -p old H:DIR/back
scp secret prog H:DIR/into
scp H:DIR/secret H:DIR/prog into
scp -r d H:DIR/into
scp -r d H:DIR/fresh
scp -rp d H:DIR/fresh
scp -rp H:DIR/d fresh
scp -r H:DIR/d into
scp -r H:DIR/d/. into
scp big H:DIR/copy
scp H:DIR/big copy
scp H:DIR/big H:DIR/copy2
scp -3 H:DIR/big H:DIR/copy3
scp 'H:DIR/[ab]*' into
scp 'H:DIR/sp ace' into
scp empty H:DIR/empty2
scp d H:DIR/into
scp nosuch H:DIR/into
scp H:DIR/nosuch into
scp a nosuch H:DIR/into
scp a big H:DIR/nodir  ## the directory is not made
scp a H:DIR/nodir/
scp a H:DIR/into/a
scp big H:DIR/a
scp -l 80000 big H:DIR/limited
scp link H:DIR/into
scp a
scp -P 1 a root@127.0.0.1:x
scp a into/b
scp a a
scp a ./into/../a
scp a link
scp link a
scp -r d d/sub  ## refused before something is copied
scp -r d d/sub/new  ## refused before something is copied
scp -r d d  ## refused before something is copied
scp a HP:DIR/by-url
sftp H:DIR/a got
sftp H:DIR/nosuch got
sftp -r H:DIR/d got
sftp H <<ls DIR
sftp H <<ls -1 DIR
sftp H <<ls -ln DIR/old  ## owners are numbers
sftp H:DIR <<ls;ls -a;ls -1r;ls d
sftp H:DIR <<pwd;cd d;pwd;ls;cd ..;pwd;lpwd
sftp H:DIR <<get a x;get d/one;get -r d e;get nosuch
sftp H:DIR <<put a x;put big y;put -r d z;put nosuch
sftp H:DIR <<put -p old kept
sftp H:DIR <<mkdir m;rmdir m;mkdir n;rename n o;ls -1
sftp H:DIR <<rm a;rm nosuch;ls -1
sftp H:DIR <<rm into/*;rm sp*;ls -1
sftp H:DIR <<get "sp ace" q;get sp\ ace r;get 'sp ace' s
sftp H:DIR <<chmod 600 a;chmod 4711 prog;chmod 1777 into
sftp H:DIR <<symlink a s;ln -s a t;ln a u
sftp H:DIR <<lcd into;get ../a;get a
sftp H:DIR <<get [ab]* into
sftp H:DIR <<nosuch;pwd
sftp H:DIR <<reget big part
sftp H:DIR <<put -a big part
sftp H:DIR <<cd nosuch;cd a;pwd
sftp H:DIR <<bye;pwd
sftp -b BATCH H:DIR <<get a x;ls -1 d;pwd
sftp -b BATCH H:DIR <<get nosuch;get a x
sftp -b BATCH H:DIR <<-get nosuch;get a x
sftp -b BATCH H:DIR <<@pwd;# a comment;pwd
sftp -b nosuchfile H:DIR  ## status 1
sftp -P 1 root@127.0.0.1`), "\n") {
		l, differs, _ := strings.Cut(l, "  ## ")
		t.Run(l, func(t *testing.T) {
			t.Parallel()
			var results [2]outcome
			var trees [2]string
			for i := range 2 {
				dir, home := sshFiles(t), t.TempDir()
				if err := os.Mkdir(home+"/.ssh", 0o700); err != nil {
					t.Fatal(err)
				}
				known := home + "/.ssh/known_hosts"
				if err := os.WriteFile(known, []byte("[127.0.0.1]:"+s.port+",[localhost]:"+s.port+",[127.0.0.2]:"+s.port+" "+s.hostKey), 0o600); err != nil {
					t.Fatal(err)
				}
				line, input := l, ""
				if before, script, ok := strings.Cut(l, " <<"); ok {
					line, input = before, strings.ReplaceAll(script, ";", "\n")+"\n"
				} else if before, from, ok := strings.Cut(l, " <"); ok {
					line = before
					if input = "text\n"; from == "big" {
						input = strings.Repeat("x", 300_000)
					}
				}
				fill := strings.NewReplacer("HP:", "scp://root@127.0.0.1:"+s.port+"/", "H:", "root@127.0.0.1:", "DIR", dir, "PORT", s.port, "BATCH", dir+"/../batch").Replace
				words, err := splitLine(line)
				if err != nil {
					t.Fatal(err)
				}
				for i, w := range words {
					if words[i] = fill(plain(w)); w == "H" {
						words[i] = "root@127.0.0.1"
					}
				}
				if strings.HasPrefix(line, "scp") {
					for i, w := range strings.Fields(line)[:min(3, len(words))] { // patterns are the server's
						if strings.Contains(w, "[") {
							words[i] = fill(strings.Trim(w, "'"))
						}
					}
				}
				port := []string{"-P", s.port}
				if words[0] == "ssh" {
					port[0] = "-p"
				}
				if slices.Contains(words, port[0]) || len(words) == 1 {
					port = nil
				}
				input = fill(input)
				if strings.Contains(line, "BATCH") {
					if err := os.WriteFile(dir+"/../batch", []byte(input), 0o600); err != nil {
						t.Fatal(err)
					}
				}
				args := append([]string{"-o", "UserKnownHostsFile=" + known}, port...)
				if !slices.Contains(words, "-i") {
					args = append(args, "-i", s.key)
				}
				args = append(args, words[1:]...)
				var c *exec.Cmd
				if i == 0 {
					c = tool(home, words[0], args...)
				} else {
					// Jumps of OpenSSH are further processes, which read the configuration.
					text := "UserKnownHostsFile " + known + "\n"
					if slices.Contains(words, "-J") {
						text += "IdentityFile " + s.key + "\n"
					}
					if err := os.WriteFile(home+"/config", []byte(text), 0o600); err != nil {
						t.Fatal(err)
					}
					c = exec.Command(words[0], append([]string{"-F", home + "/config"}, args...)...)
					c.Env = append(os.Environ(), "LC_ALL=C", "TZ=UTC")
				}
				if results[i] = run(t, c, dir, input); strings.Contains(l, "-l 80000") {
					results[i].out = ""
				}
				results[i].out = strings.ReplaceAll(results[i].out, dir, "DIR")
				trees[i] = sshTree(t, dir)
			}
			same := results[0].out == results[1].out && results[0].status == results[1].status && trees[0] == trees[1]
			if same && differs != "" {
				t.Errorf("%s is the same; the table has %q", l, differs)
			}
			if differs == "" && !same {
				t.Errorf("%s = %d %q (%s); want %d %q (%s)", l, results[0].status, results[0].out, results[0].errs, results[1].status, results[1].out, results[1].errs)
				if trees[0] != trees[1] {
					t.Errorf("leaves\n%s; want\n%s", trees[0], trees[1])
				}
			}
		})
	}
}

// console is a program on a terminal that asks questions.
type console struct {
	*ptytest.Terminal
	t *testing.T
}

func onTerminal(t *testing.T, c *exec.Cmd) *console {
	t.Helper()
	return &console{ptytest.Start(t, c, 33, 101), t}
}

func (x *console) answer(question, text string) {
	x.t.Helper()
	x.Want(question)
	if !strings.Contains(question, "yes") { // an answer that is shown
		x.silent()
	}
	x.Keys(text)
}

// silent waits until the terminal does not show what is typed.
func (x *console) silent() {
	x.t.Helper()
	for range 3000 {
		a, err := unix.IoctlGetTermios(int(x.File.Fd()), unix.TCGETS)
		if err != nil {
			x.t.Fatal(err)
		}
		if a.Lflag&unix.ECHO == 0 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	x.t.Fatalf("the terminal shows what is typed\n%s", x.Text())
}

func (x *console) ends(status int) {
	x.t.Helper()
	if got := x.Ended(); got != status {
		x.t.Errorf("%v = %d; want %d\n%s", x.Cmd.Args, got, status, x.Text())
	}
}

// TestShell: a shell on a terminal of its own, of the right size, in raw mode; the key is asked
// about once, and a key that has changed is refused.
func TestShell(t *testing.T) {
	s := startSSHD(t, "")
	home := t.TempDir()
	args := []string{"-i", s.key, "-p", s.port, "root@127.0.0.1"}
	x := onTerminal(t, tool(home, "ssh", args...))
	pub, _, _, _, err := ssh.ParseAuthorizedKey([]byte(s.hostKey))
	if err != nil {
		t.Fatal(err)
	}
	x.Want("authenticity of host '[127.0.0.1]:" + s.port)
	x.Want(ssh.FingerprintSHA256(pub))
	x.answer("(yes/no/[fingerprint])? ", "maybe\n")
	x.answer("Please type 'yes', 'no' or the fingerprint: ", "yes\n")
	x.Want("Permanently added")
	x.silent()
	x.Keys("stty size; tty; echo $((40+2))\r")
	x.Want("33 101")
	x.Want("/dev/pts/")
	x.Want("42")
	x.Resize(20, 70)
	for i := 0; i < 50 && !strings.Contains(x.Text(), "20 70"); i++ { // the server is told a moment later
		x.Keys("stty size\r")
		time.Sleep(200 * time.Millisecond)
	}
	x.Want("20 70")
	x.Keys("echo begun; sleep 100\r")
	x.Want("begun\r\n")
	time.Sleep(200 * time.Millisecond)
	x.Keys("\x03") // interrupts what runs there
	time.Sleep(100 * time.Millisecond)
	x.Keys("exit 5\r")
	x.Want("Connection to 127.0.0.1 closed.")
	x.ends(5)

	x = onTerminal(t, tool(home, "ssh", args...)) // the key is known
	x.silent()
	x.Keys("\r~~x\r~.")
	x.ends(255)
	if strings.Contains(x.Text(), "authenticity") {
		t.Errorf("asked twice: %s", x.Text())
	}

	x = onTerminal(t, tool(t.TempDir(), "ssh", append(args, "true")...))
	x.answer("(yes/no/[fingerprint])? ", "no\n")
	x.Want("Host key verification failed.")
	x.ends(255)

	for _, typ := range []string{"ed25519", "ecdsa", "rsa"} { // one of another type is a change, too
		keygen(t, s.dir+"/other-"+typ, "-t", typ)
		b, err := os.ReadFile(s.dir + "/other-" + typ + ".pub")
		if err == nil {
			err = os.WriteFile(home+"/.ssh/known_hosts", append([]byte("[127.0.0.1]:"+s.port+" "), b...), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, strict := range []string{"ask", "accept-new", "no"} {
			r := run(t, tool(home, "ssh", append([]string{"-o", "StrictHostKeyChecking=" + strict}, append(args, "true")...)...), "", "")
			if r.status != 255 || !strings.Contains(r.errs, "REMOTE HOST IDENTIFICATION HAS CHANGED") || !strings.Contains(r.errs, home+"/.ssh/known_hosts:1") {
				t.Errorf("a changed key, known as %s, %s: %d %s", typ, strict, r.status, r.errs)
			}
		}
		if typ == "ed25519" {
			continue // which the server has
		}
		// A server with several keys is asked for the one that is known.
		both := startSSHD(t, "HostKey "+s.dir+"/other-"+typ+"\n")
		if err := os.WriteFile(home+"/.ssh/known_hosts", append([]byte("[127.0.0.1]:"+both.port+" "), b...), 0o600); err != nil {
			t.Fatal(err)
		}
		if r := run(t, tool(home, "ssh", "-i", both.key, "-p", both.port, "root@127.0.0.1", "echo in"), "", ""); r.out != "in\n" {
			t.Errorf("the second key of a server, %s: %+v", typ, r)
		}
	}
	for words, want := range map[string]int{"StrictHostKeyChecking=yes": 255, "StrictHostKeyChecking=accept-new": 0, "BatchMode=yes": 255} {
		home := t.TempDir()
		if r := run(t, tool(home, "ssh", append([]string{"-o", words}, append(args, "true")...)...), "", ""); r.status != want {
			t.Errorf("ssh -o %s to an unknown server = %d; want %d\n%s", words, r.status, want, r.errs)
		} else if _, err := os.Stat(home + "/.ssh/known_hosts"); (err == nil) != (want == 0) {
			t.Errorf("ssh -o %s: known_hosts: %v", words, err)
		}
	}
}

// TestForward: -L and -R reach ports through the server, -W the standard streams.
func TestForward(t *testing.T) {
	s := startSSHD(t, "")
	echo, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer echo.Close()
	go func() {
		for {
			c, err := echo.Accept()
			if err != nil {
				return
			}
			go func() { io.Copy(c, c); c.Close() }()
		}
	}()
	free := func() string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		_, p, _ := net.SplitHostPort(l.Addr().String())
		return p
	}
	args := []string{"-i", s.key, "-p", s.port, "-o", "StrictHostKeyChecking=no", "root@127.0.0.1"}
	r := run(t, tool(t.TempDir(), "ssh", append([]string{"-W", echo.Addr().String()}, args...)...), "", "through\n")
	if r.out != "through\n" || r.status != 0 {
		t.Errorf("ssh -W = %+v", r)
	}
	for _, option := range []string{"-L", "-R"} {
		port := free()
		c := tool(t.TempDir(), "ssh", append([]string{"-N", option, port + ":" + echo.Addr().String()}, args...)...)
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		var got []byte
		for range 300 {
			conn, err := net.Dial("tcp", "127.0.0.1:"+port)
			if err != nil {
				time.Sleep(10 * time.Millisecond)
				continue
			}
			io.WriteString(conn, "x\n")
			conn.(*net.TCPConn).CloseWrite()
			got, _ = io.ReadAll(conn)
			conn.Close()
			if len(got) > 0 {
				break // the client may not be ready for the first connection
			}
		}
		if string(got) != "x\n" {
			t.Errorf("ssh %s: %q came through", option, got)
		}
		c.Process.Kill()
		c.Wait()
	}
}

// TestCopyOntoItself: a file that is copied onto itself on a server keeps its content, and a
// directory is not copied into itself.
func TestCopyOntoItself(t *testing.T) {
	s := startSSHD(t, "")
	for _, l := range []string{"H:a H:a", "H:a H:link", "H:link H:a", "H:a H:.", "-r H:d H:d", "-r H:d H:d/sub", "-r d d/sub", "-r H:d/loop H:x", "-r d/loop x"} {
		dir := sshFiles(t)
		if strings.Contains(l, "loop") {
			if err := errors.Join(os.Symlink("..", dir+"/d/sub/up"), os.Symlink("sub", dir+"/d/loop")); err != nil {
				t.Fatal(err)
			}
		}
		before := sshTree(t, dir)
		words := strings.Fields(strings.ReplaceAll(l, "H:", "root@127.0.0.1:"+dir+"/"))
		r := run(t, tool(t.TempDir(), "scp", append([]string{"-q", "-i", s.key, "-P", s.port, "-o", "StrictHostKeyChecking=no"}, words...)...), dir, "")
		after := sshTree(t, dir)
		if strings.Contains(l, "loop") {
			if n := strings.Count(after, "\n"); r.status == 0 || n > 2*strings.Count(before, "\n")+10 {
				t.Errorf("scp %s = %d (%s), %d files", l, r.status, r.errs, n)
			}
			continue
		}
		if r.status != 1 || after != before || !strings.Contains(r.errs, "same file") && !strings.Contains(r.errs, "into itself") {
			t.Errorf("scp %s = %d (%s); leaves\n%s", l, r.status, r.errs, after)
		}
	}
}
