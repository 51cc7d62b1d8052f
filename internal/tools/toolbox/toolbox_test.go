package toolbox

import (
	"bytes"
	"context"
	"crypto/sha256"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var update = flag.Bool("update", false, "write docs/TOOLBOX.md")

const (
	root = "../../.."
	doc  = root + "/docs/TOOLBOX.md"
)

// section is one command of testdata/lines.txt with its command lines.
type section struct {
	name, like string // like: whose output is compared; "+" before what tests of another package compare
	lines      []line
}

// line is a command line, and how the output differs, if it does.
type line struct{ text, differs string }

func sections(t *testing.T) []section {
	b, err := os.ReadFile("testdata/lines.txt")
	if err != nil {
		t.Fatal(err)
	}
	var out []section
	for l := range strings.Lines(string(b)) {
		l = strings.TrimSuffix(l, "\n")
		switch {
		case l == "":
		case strings.HasPrefix(l, "= "):
			name, like, _ := strings.Cut(l[2:], " ")
			out = append(out, section{name: name, like: like})
		default:
			text, differs, _ := strings.Cut(l, "  ## ")
			s := &out[len(out)-1]
			s.lines = append(s.lines, line{text, differs})
		}
	}
	return out
}

// build makes a directory with the executable and a link to it for each command.
func build(t *testing.T) (dir string, names []string) {
	t.Helper()
	dir = t.TempDir()
	run := func(args ...string) string {
		c := exec.Command(args[0], args[1:]...)
		c.Dir = root
		c.Env = append(os.Environ(), "CGO_ENABLED=0")
		out, err := c.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	if _, err := os.Stat(root + "/internal/bbgen/main.go"); err != nil {
		run("go", "run", "./internal/genbb")
	}
	exe := dir + "/mkcdrec"
	run("go", "build", "-ldflags", "-s -w", "-o", exe, "./internal/bbgen")
	names = strings.Fields(run(exe, "applet"))
	for _, n := range names {
		if n != "mkcdrec" {
			if err := os.Symlink("mkcdrec", dir+"/"+n); err != nil {
				t.Fatal(err)
			}
		}
	}
	return dir, names
}

const systemPath = "/usr/sbin:/usr/bin:/sbin:/bin"

// result is what can be seen of a command line.
type result struct {
	out    string
	status int
	tree   string
	errs   string
}

func (r result) same(o result) bool {
	return r.out == o.out && r.status == o.status && r.tree == o.tree
}

// place is a directory with the files that the command lines use. It is made again after
// a line that changed it.
type place struct{ dir, before string }

func (p *place) renew(t *testing.T) {
	t.Helper()
	if p.dir != "" && p.before == tree(t, p.dir, true) {
		return
	}
	p.remove(t)
	dir, err := os.MkdirTemp(memory, "tb")
	if err != nil {
		t.Fatal(err)
	}
	fixture(t, dir)
	p.dir, p.before = dir, tree(t, dir, true)
}

func (p *place) remove(t *testing.T) {
	if err := os.RemoveAll(p.dir); err != nil {
		t.Error(err)
	}
}

// memory is a file system in memory, if there is one.
var memory = func() string {
	if _, err := os.Stat("/dev/shm"); err == nil {
		return "/dev/shm"
	}
	return ""
}()

func (p *place) run(t *testing.T, path, text string) result {
	t.Helper()
	p.renew(t)
	dir := p.dir
	ctx, stop := context.WithTimeout(context.Background(), 20*time.Second)
	defer stop()
	c := exec.CommandContext(ctx, "/bin/sh", "-c", text)
	c.Dir = dir
	c.Env = []string{"PATH=" + path, "LC_ALL=C", "TZ=UTC", "HOME=" + dir, "TERM=linux", "VAR=value"}
	c.WaitDelay = time.Second
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.Cancel = func() error { return syscall.Kill(-c.Process.Pid, syscall.SIGKILL) } // with what the shell started
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	_ = c.Run() // the status tells
	clean := strings.NewReplacer(dir, "DIR", filepath.Base(dir), "DIR")
	return result{clean.Replace(out.String()), c.ProcessState.ExitCode(), tree(t, dir, false), errs.String()}
}

// fixture makes the files that the command lines use.
func fixture(t *testing.T, dir string) {
	t.Helper()
	files := []struct {
		name, content string
		mode          fs.FileMode
	}{
		{"a.txt", "one 1 alpha\ntwo 2 beta\nthree 3 gamma\nfour 4 delta\nfive 5 epsilon\nsix 6 zeta\nseven 7 eta\neight 8 theta\nnine 9 iota\nten 10 kappa\neleven 11 lambda\ntwelve 12 mu\n", 0o644},
		{"b.txt", "one 1 alpha\ntwo 2 BETA\nthree 3 gamma\nfour 4 delta\nfive 5 epsilon\nsix and a half\nseven 7 eta\neight 8 theta\nnine 9 iota\neleven 11 lambda\ntwelve 12 mu\nthirteen", 0o640},
		{"n.txt", "10\n9\n2\n33\n-4\n2\n1.5\n0x10\n\n 7\n1K\n3M\n2G\n", 0o644},
		{"dup", "b\na\na\nA\nc\nc\nc\nb\n", 0o644},
		{"csv", "root:x:0:0:root:/root:/bin/bash\ndaemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\nbin:x:2:2::/bin:/bin/sh\nno colon here\n", 0o600},
		{"tabs", "a\tb\tc\n\tindented\n  two spaces\n\n\n\nx\ty\n", 0o644},
		{"bin", "\x00\x01\x02\x7f\x80\xff\x00\x00hello world\n\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00end", 0o644},
		{"empty", "", 0o644},
		{"script", "#!/bin/sh\necho hi\n", 0o755},
		{"d/one", "in d\n", 0o644},
		{"d/two.c", "int main;\n", 0o644},
		{"d/sub/deep", strings.Repeat("deep line\n", 500), 0o644},
		{"d/sub/.hidden", "h\n", 0o644},
		{"d/.dot", "dot\n", 0o644},
		{"sp ace", "with space\n", 0o644},
		{"long", strings.Repeat("The quick brown fox jumps over the lazy dog. ", 8) + "\nshort\n", 0o644},
		{"ver", "1.10\n1.2\n1.9a\nfile10\nfile9\n", 0o644},
	}
	for _, f := range files {
		p := filepath.Join(dir, f.name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(f.content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(p, f.mode); err != nil {
			t.Fatal(err)
		}
	}
	must := func(err error) {
		if err != nil {
			t.Helper()
			t.Fatal(err)
		}
	}
	must(os.Symlink("a.txt", dir+"/link"))
	must(os.Symlink("nowhere", dir+"/broken"))
	must(os.Symlink("d", dir+"/dlink"))
	must(os.Link(dir+"/dup", dir+"/hard"))
	must(os.Mkdir(dir+"/emptydir", 0o755))
	must(syscall.Mkfifo(dir+"/fifo", 0o644))
	sparse, err := os.Create(dir + "/sparse")
	must(err)
	must(sparse.Truncate(300 << 10))
	must(sparse.Close())
	old := time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC)
	var all []string
	must(filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil {
			all = append(all, p)
		}
		return err
	}))
	for i, p := range slices.Backward(all) {
		ts := unix.NsecToTimespec(old.Add(time.Duration(i) * 36 * time.Hour).UnixNano())
		must(unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW))
	}
}

// tree lists what is in a directory after a command.
func tree(t *testing.T, dir string, times bool) string {
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
		st := i.Sys().(*syscall.Stat_t)
		rel, _ := filepath.Rel(dir, p)
		fmt.Fprintf(&b, "%s %o %d:%d", rel, st.Mode, st.Uid, st.Gid)
		if times {
			fmt.Fprintf(&b, " %d %d", st.Ctim.Nano(), st.Mtim.Nano())
		}
		if times && i.Mode().IsRegular() {
			b.WriteByte('\n')
			return nil
		}
		switch i.Mode().Type() {
		case 0:
			c, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, " %d %d %x", st.Nlink, i.Size(), sha256.Sum256(c))
		case fs.ModeSymlink:
			l, err := os.Readlink(p)
			if err != nil {
				return err
			}
			b.WriteString(" " + l)
		}
		b.WriteByte('\n')
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestLines runs every command line of testdata/lines.txt with our commands and with the
// system's: standard output, exit status and the files they leave are the same, except
// where the table gives the difference.
func TestLines(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("the table is written for root")
	}
	bin, names := build(t)
	for _, s := range sections(t) {
		t.Run(s.name, func(t *testing.T) {
			if !slices.Contains(names, s.name) {
				t.Fatalf("%s is not a command of the rescue system", s.name)
			}
			if strings.HasPrefix(s.like, "+") {
				return
			}
			t.Parallel()
			if !installed(s.name) {
				t.Skipf("%s is not installed here", s.name)
			}
			var here, there place
			defer here.remove(t)
			defer there.remove(t)
			for _, l := range s.lines {
				var theirs, ours result
				for range 3 { // the machine may change between two commands
					theirs = there.run(t, systemPath, l.text)
					ours = here.run(t, bin+":"+systemPath, l.text)
					if ours.same(theirs) {
						break
					}
				}
				switch {
				case ours.same(theirs) && l.differs != "" && !strings.HasPrefix(l.differs, "sometimes "):
					t.Errorf("%s\n   is the same; the table has %q", l.text, l.differs)
				case !ours.same(theirs) && l.differs == "":
					t.Errorf("%s = %d (%s)\n%s   want %d (%s)\n%s%s", l.text, ours.status, strings.TrimSpace(ours.errs), short(ours.out), theirs.status, strings.TrimSpace(theirs.errs), short(theirs.out), treeDiff(ours.tree, theirs.tree))
				}
			}
		})
	}
}

func installed(name string) bool {
	for _, d := range strings.Split(systemPath, ":") {
		if _, err := os.Stat(d + "/" + name); err == nil {
			return true
		}
	}
	return false
}

func short(s string) string {
	if len(s) > 1200 {
		return s[:1200] + "...\n"
	}
	return s
}

func treeDiff(a, b string) string {
	if a == b {
		return ""
	}
	al, bl := strings.Split(a, "\n"), strings.Split(b, "\n")
	var out []string
	for _, l := range al {
		if !slices.Contains(bl, l) {
			out = append(out, "+"+l)
		}
	}
	for _, l := range bl {
		if !slices.Contains(al, l) {
			out = append(out, "-"+l)
		}
	}
	return strings.Join(out, "\n")
}

var option = regexp.MustCompile(`(?:^|\s)(--?[A-Za-z0-9][A-Za-z0-9-]*)`)

// TestDoc compares docs/TOOLBOX.md with the table.
func TestDoc(t *testing.T) {
	var b strings.Builder
	lines, same := 0, 0
	ss := sections(t)
	slices.SortStableFunc(ss, func(a, b section) int { return strings.Compare(a.name, b.name) })
	for _, s := range ss {
		from := "u-root"
		if _, ok := Find(s.name); ok {
			from = "ours"
		} else if _, err := os.Stat(root + "/cmds/" + s.name); err == nil {
			from = "ours"
		}
		if who, ok := strings.CutPrefix(s.like, "+ "); ok {
			fmt.Fprintf(&b, "| `%s` | %s | %s, in the tests of its package | | |\n", s.name, from, who)
			continue
		}
		var opts, differs []string
		for _, l := range s.lines {
			lines++
			if l.differs == "" {
				same++
			} else {
				differs = append(differs, "`"+strings.ReplaceAll(l.text, "|", "\\|")+"`: "+l.differs)
			}
			for _, m := range option.FindAllStringSubmatch(l.text, -1) {
				opts = append(opts, m[1])
			}
		}
		slices.Sort(opts)
		fmt.Fprintf(&b, "| `%s` | %s | %s, %d lines | %s | %s |\n", s.name, from, s.like, len(s.lines), strings.Join(slices.Compact(opts), " "), strings.Join(differs, "; "))
	}
	text := fmt.Sprintf(`# The toolbox of the rescue system

%d commands. %d command lines were run with the rescue system's commands and with those of Debian 12: standard
output, exit status and the files they leave are the same for %d of them. The table gives the others.

A program of the source machine that is on the medium comes before the command of the same name here. The list of
command lines is `+"`internal/tools/toolbox/testdata/lines.txt`"+`; its test writes this file:
`+"`go test ./internal/tools/toolbox -update`"+`.

To try a command on an installed machine, make a link of its name to the program:
`+"`ln -s /usr/sbin/mkcdrec /tmp/awk; /tmp/awk '{print $1}' /etc/fstab`"+`.

| command | from | compared with | options in the lines | what differs |
|---|---|---|---|---|
`, len(ss), lines, same) + b.String()
	if *update {
		if err := os.WriteFile(doc, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(doc)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != text {
		t.Error("docs/TOOLBOX.md is not what the table gives: run go test -update")
	}
}
