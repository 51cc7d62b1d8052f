package nettools

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/term"

	"github.com/mkcdrec/mkcdrec/internal/printable"
	"github.com/mkcdrec/mkcdrec/internal/tools"
)

// dialog is a run of sftp.
type dialog struct {
	*copier
	there there
	dir   string // on the server
	batch bool
}

// secureFiles is sftp.
func secureFiles(e *tools.Env) error {
	if err := e.Need(1, 2); err != nil {
		return err
	}
	l, err := newLogin(e)
	if err != nil {
		return err
	}
	p, err := parsePlace(e.Args[0], "sftp", true)
	if err == nil {
		p, err = l.fill(p)
	}
	if err != nil {
		return err
	}
	in := e.In
	if b := e.Val("b"); b != "" {
		l.words["batchmode"] = cmp.Or(l.words["batchmode"], "yes")
		f, err := e.Open(b)
		if err != nil {
			return err
		}
		defer f.Close()
		in = f
	}
	s, conn, err := l.files(p)
	if err != nil {
		e.Fault(sshFailed, "%v", err)
		return nil
	}
	defer conn.Close()
	d := &dialog{there: s, batch: e.On("b"), copier: &copier{Env: e, recursive: e.On("r"), preserve: e.On("p"), resume: e.On("a"), quiet: e.On("b", "q", "N")}}
	if d.dir, err = s.Getwd(); err != nil {
		return fmt.Errorf("cannot find the directory on the server: %s", reason(err))
	}
	if !d.batch && !e.On("q") {
		fmt.Fprintf(e.Err, "Connected to %s.\n", p.host)
	}
	if p.path != "" {
		at := d.remote(p.path)
		if st, err := s.Stat(at); err != nil || !st.IsDir() || len(e.Args) > 1 {
			return d.get(append([]string{p.path}, e.Args[1:]...))
		}
		if d.dir = at; !d.batch {
			e.Printf("Changing to: %s\n", printable.Clean(at))
		}
	}
	return d.run(in)
}

// run carries out the lines of a file, or those that are typed.
func (d *dialog) run(in io.Reader) error {
	next := d.lines(in)
	for {
		_ = d.Out.Flush() // an error stays in it
		line, err := next()
		if err != nil {
			return nil
		}
		text := strings.TrimSpace(line)
		ignore := strings.HasPrefix(text, "-")
		text = strings.TrimLeft(text, "-@ \t")
		words, err := splitLine(text)
		if err == nil && len(words) == 0 {
			continue
		}
		if err == nil {
			err = d.command(words)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			_ = d.Out.Flush()
			fmt.Fprintln(d.Err, printable.CleanLines(err.Error()))
		}
		if d.batch && !ignore && (err != nil || d.Failed()) {
			return tools.Status(1)
		}
	}
}

// lines gives what reads the next line: with history on a terminal, else with its echo.
func (d *dialog) lines(in io.Reader) func() (string, error) {
	f, ok := in.(*os.File)
	if ok && term.IsTerminal(int(f.Fd())) && !d.batch {
		t := term.NewTerminal(struct {
			io.Reader
			io.Writer
		}{f, os.Stdout}, "sftp> ")
		return func() (string, error) {
			state, err := term.MakeRaw(int(f.Fd()))
			if err != nil {
				return "", err
			}
			if w, h, err := term.GetSize(int(f.Fd())); err == nil {
				_ = t.SetSize(w, h) // of the next line
			}
			s, err := t.ReadLine()
			return s, errors.Join(err, term.Restore(int(f.Fd()), state))
		}
	}
	r := bufio.NewReader(in)
	return func() (string, error) {
		s, err := r.ReadString('\n')
		if s == "" && err != nil {
			return "", err
		}
		s = strings.TrimRight(s, "\n")
		if t := strings.TrimLeft(s, "- \t"); !strings.HasPrefix(t, "@") {
			d.Printf("sftp> %s\n", printable.Clean(s))
		}
		return s, nil
	}
}

// splitLine divides a line into words. Wildcards in quotes get a backslash.
func splitLine(s string) ([]string, error) {
	var out []string
	var b strings.Builder
	quote, word := byte(0), false
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '\\' && quote != '\'':
			if i++; i == len(s) {
				return nil, said("Empty escape at end of line")
			}
			literal(&b, s[i])
			word = true
		case quote != 0 && c == quote:
			quote = 0
		case quote != 0:
			literal(&b, c)
		case c == '"' || c == '\'':
			quote, word = c, true
		case c == ' ' || c == '\t' || c == '\r':
			if word {
				out = append(out, b.String())
			}
			b.Reset()
			word = false
		case c == '#' && !word:
			i = len(s)
		default:
			b.WriteByte(c)
			word = true
		}
	}
	if quote != 0 {
		return nil, said("Unterminated quoted argument")
	}
	if word {
		out = append(out, b.String())
	}
	return out, nil
}

func literal(b *strings.Builder, c byte) {
	if strings.IndexByte(`*?[]\`, c) >= 0 {
		b.WriteByte('\\')
	}
	b.WriteByte(c)
}

// plain takes the backslashes out of a word.
func plain(w string) string {
	var b strings.Builder
	for i := 0; i < len(w); i++ {
		if w[i] == '\\' && i+1 < len(w) {
			i++
		}
		b.WriteByte(w[i])
	}
	return b.String()
}

// remote is a path on the server, relative to the directory there.
func (d *dialog) remote(p string) string {
	if !path.IsAbs(p) {
		p = path.Join(d.dir, p)
	}
	return path.Clean(p)
}

// sftpCommand is a command of the dialog; least and most are numbers of its arguments.
type sftpCommand struct {
	names       string
	least, most int
	help        string
	run         func(d *dialog, a []string) error
}

// sftpAction is what a command does with its words.
type sftpAction = func(d *dialog, a []string) error

// eachMatch calls fn for what each pattern matches on the server.
func eachMatch(verb string, fn func(d *dialog, p string) error) sftpAction {
	return func(d *dialog, a []string) error {
		var errs []error
		for _, w := range a {
			names, err := d.there.Glob(d.remote(w))
			errs = append(errs, err)
			for _, n := range names {
				if err := fn(d, n); err != nil {
					errs = append(errs, fmt.Errorf("%s %s: %s", verb, n, reason(err)))
				}
			}
		}
		return errors.Join(errs...)
	}
}

// numbered reads a number and changes what the patterns behind it match.
func numbered(base int, change func(d *dialog, p string, n uint64) error) sftpAction {
	return func(d *dialog, a []string) error {
		n, err := strconv.ParseUint(a[0], base, 31)
		if err != nil {
			return said("You must supply a numeric argument to the command.")
		}
		return eachMatch("remote setstat", func(d *dialog, p string) error { return change(d, p, n) })(d, a[1:])
	}
}

// owner changes one of the two owners of a file.
func owner(group bool) func(d *dialog, p string, n uint64) error {
	return func(d *dialog, p string, n uint64) error {
		st, err := d.there.Stat(p)
		if err != nil {
			return err
		}
		old := st.Sys().(*sftp.FileStat)
		if group {
			return d.there.Chown(p, int(old.UID), int(n))
		}
		return d.there.Chown(p, int(n), int(old.GID))
	}
}

// twoPaths calls fn with an old and a new path.
func twoPaths(verb string, fn func(d *dialog, a, b string) error) sftpAction {
	return func(d *dialog, a []string) error {
		if err := fn(d, plain(a[0]), plain(a[1])); err != nil {
			return fmt.Errorf("%s %s to %s: %s", verb, a[0], a[1], reason(err))
		}
		return nil
	}
}

func sftpCommands() []sftpCommand {
	end := func(*dialog, []string) error { return io.EOF }
	return []sftpCommand{
		{"bye quit exit", 0, 0, "", end},
		{"help ?", 0, 0, "", (*dialog).help},
		{"ls dir", 0, -1, "[-1alnrSt] [PATH]", (*dialog).list},
		{"cd", 0, 1, "[PATH]", (*dialog).changeDir},
		{"pwd", 0, 0, "", func(d *dialog, _ []string) error {
			d.Printf("Remote working directory: %s\n", printable.Clean(d.dir))
			return nil
		}},
		{"lcd", 0, 1, "[PATH]", func(_ *dialog, a []string) error { return os.Chdir(cmp.Or(plain(strings.Join(a, "")), home(""))) }},
		{"lpwd", 0, 0, "", func(d *dialog, _ []string) error {
			wd, err := os.Getwd()
			d.Printf("Local working directory: %s\n", printable.Clean(wd))
			return err
		}},
		{"lmkdir", 1, 1, "PATH", func(_ *dialog, a []string) error { return os.Mkdir(plain(a[0]), 0o777) }},
		{"get mget", 1, -1, "[-afpr] REMOTE [LOCAL]", (*dialog).get},
		{"reget", 1, -1, "[-fpr] REMOTE [LOCAL]", func(d *dialog, a []string) error { return d.get(append([]string{"-a"}, a...)) }},
		{"put mput", 1, -1, "[-afpr] LOCAL [REMOTE]", (*dialog).put},
		{"reput", 1, -1, "[-fpr] LOCAL [REMOTE]", func(d *dialog, a []string) error { return d.put(append([]string{"-a"}, a...)) }},
		{"mkdir", 1, 1, "PATH", func(d *dialog, a []string) error {
			if err := d.there.Mkdir(d.remote(plain(a[0]))); err != nil {
				return fmt.Errorf("remote mkdir \"%s\": %s", d.remote(plain(a[0])), reason(err))
			}
			return nil
		}},
		{"rm delete", 1, -1, "PATH", eachMatch("remote delete", func(d *dialog, p string) error {
			d.Printf("Removing %s\n", printable.Clean(p))
			return d.there.Remove(p)
		})},
		{"rmdir", 1, -1, "PATH", eachMatch("remote rmdir", func(d *dialog, p string) error { return d.there.RemoveDirectory(p) })},
		{"rename mv", 2, 2, "OLD NEW", twoPaths("remote rename", func(d *dialog, a, b string) error { return d.there.PosixRename(d.remote(a), d.remote(b)) })},
		{"ln", 2, 3, "[-s] OLD NEW", func(d *dialog, a []string) error {
			if len(a) == 3 && a[0] == "-s" {
				return twoPaths("remote symlink", func(d *dialog, a, b string) error { return d.there.Symlink(a, d.remote(b)) })(d, a[1:])
			}
			return twoPaths("remote link", func(d *dialog, a, b string) error { return d.there.Link(d.remote(a), d.remote(b)) })(d, a)
		}},
		{"symlink", 2, 2, "OLD NEW", twoPaths("remote symlink", func(d *dialog, a, b string) error { return d.there.Symlink(a, d.remote(b)) })},
		{"chmod", 2, -1, "MODE PATH", numbered(8, func(d *dialog, p string, n uint64) error {
			d.Printf("Changing mode on %s\n", printable.Clean(p))
			return d.there.Chmod(p, fs.FileMode(n&0o777)|fs.FileMode(n&0o6000)<<12|fs.FileMode(n&0o1000)<<11) // Go's bits
		})},
		{"chown", 2, -1, "UID PATH", numbered(10, owner(false))},
		{"chgrp", 2, -1, "GID PATH", numbered(10, owner(true))},
		{"df", 0, 1, "[PATH]", func(d *dialog, a []string) error {
			v, err := d.there.StatVFS(d.remote(strings.Join(a, "")))
			if err != nil {
				return fmt.Errorf("remote statvfs: %s", reason(err))
			}
			d.Printf("        Size         Used        Avail    %%Capacity\n%12d %12d %12d         %3d%%\n", v.TotalSpace()/1024, (v.TotalSpace()-v.FreeSpace())/1024, v.Bavail*v.Frsize/1024, 100*(v.Blocks-v.Bfree)/max(v.Blocks, 1))
			return nil
		}},
	}
}

func (d *dialog) command(words []string) error {
	for _, c := range sftpCommands() {
		if !slices.Contains(strings.Fields(c.names), words[0]) {
			continue
		}
		if n := len(words) - 1; n < c.least || c.most >= 0 && n > c.most {
			return fmt.Errorf("usage: %s %s", words[0], c.help)
		}
		return c.run(d, words[1:])
	}
	if strings.HasPrefix(words[0], "!") {
		return errors.New("! is not available here; leave with exit")
	}
	return said("Invalid command.")
}

func (d *dialog) help([]string) error {
	d.Printf("Available commands:\n")
	for _, c := range sftpCommands() {
		d.Printf("%s %s\n", strings.ReplaceAll(c.names, " ", ", "), c.help)
	}
	return nil
}

func (d *dialog) changeDir(a []string) error {
	at := ""
	if len(a) == 0 {
		wd, err := d.there.RealPath(".")
		if err != nil {
			return err
		}
		at = wd
	} else {
		at = d.remote(plain(a[0]))
	}
	st, err := d.there.Stat(at)
	switch {
	case err != nil:
		return fmt.Errorf("stat remote \"%s\": %s", at, reason(err))
	case !st.IsDir():
		return said("Can't change directory: \"%s\" is not a directory", at)
	}
	d.dir = at
	return nil
}

// transfer reads the options and operands of get and put, and gives what copies.
func (d *dialog) transfer(a []string) (copier, []string, error) {
	o, words, err := tools.Parse("a f p P r R", a)
	if err != nil {
		return copier{}, nil, err
	}
	if n := len(words); n < 1 || n > 2 {
		return copier{}, nil, said("You must specify at least one path after a get or put command.")
	}
	c := *d.copier
	c.recursive, c.preserve, c.resume = c.recursive || o.On("r", "R"), c.preserve || o.On("p", "P"), c.resume || o.On("a")
	return c, words, nil
}

func (d *dialog) get(a []string) error {
	c, words, err := d.transfer(a)
	if err != nil {
		return err
	}
	names, err := d.there.Glob(d.remote(words[0]))
	if err != nil {
		return err
	}
	to := "."
	if len(words) > 1 {
		to = plain(words[1])
	}
	return d.each(&c, []string{"Fetching", "Resuming", "Retrieving"}, d.there, names, here{}, to)
}

func (d *dialog) put(a []string) error {
	c, words, err := d.transfer(a)
	if err != nil {
		return err
	}
	names := []string{plain(words[0])}
	if m, err := filepath.Glob(words[0]); err == nil && len(m) > 0 {
		names = m
	}
	to := d.dir
	if len(words) > 1 {
		to = d.remote(plain(words[1]))
	}
	return d.each(&c, []string{"Uploading", "Resuming upload of", "Entering"}, here{}, names, d.there, to)
}

// each copies files that a pattern matched to a name or into a directory. The verbs are those
// of a file, of one that is resumed, and of a directory.
func (d *dialog) each(c *copier, verbs []string, from side, names []string, to side, target string) error {
	st, err := to.Stat(target)
	isDir := err == nil && st.IsDir()
	if len(names) > 1 && !isDir {
		return said("Multiple paths match, but destination \"%s\" is not a directory", target)
	}
	for _, n := range names {
		dst := target
		if isDir {
			dst = path.Join(target, path.Base(n))
		}
		st, err := from.Stat(n)
		switch {
		case err != nil:
			return fmt.Errorf("stat %s: %s", n, reason(err))
		case st.IsDir() && !c.recursive:
			return fmt.Errorf("%s: not a regular file", n)
		}
		verb, shown := verbs[0], n
		if st.IsDir() {
			shown += "/"
		} else if _, err := to.Stat(dst); err == nil && c.resume {
			verb = verbs[1]
		}
		if !d.batch && !d.On("q") {
			d.Printf("%s %s to %s\n", verb, printable.Clean(shown), printable.Clean(dst))
			c.entering = verbs[2]
		}
		_ = d.Out.Flush() // an error stays in it
		if from == (here{}) {
			n = shown
		}
		c.copyAll(from, n, to, dst)
	}
	return nil
}

// list is ls.
func (d *dialog) list(a []string) error {
	o, words, err := tools.Parse("1 a f h l n r S t", a)
	if err != nil {
		return err
	}
	if len(words) == 0 {
		words = []string{""}
	}
	for _, w := range words {
		names, err := d.there.Glob(d.remote(w))
		if err != nil {
			return err
		}
		var files []entry
		for _, n := range names {
			st, err := d.there.Stat(n)
			if err != nil {
				st, err = d.there.Lstat(n)
			}
			if err != nil {
				return said("Can't ls: \"%s\" not found", n)
			}
			show := n
			if !path.IsAbs(w) {
				show = strings.TrimPrefix(strings.TrimPrefix(n, d.dir), "/")
			}
			if !st.IsDir() || len(names) > 1 {
				files = append(files, entry{show, st})
				continue
			}
			es, err := d.there.ReadDir(n)
			if err != nil {
				return fmt.Errorf("remote readdir(\"%s\"): %s", n, reason(err))
			}
			if o.On("a") {
				files = append(files, entry{".", st}, entry{"..", st})
			}
			for _, x := range es {
				if o.On("a") || !strings.HasPrefix(x.Name(), ".") {
					files = append(files, entry{path.Join(show, x.Name()), x})
				}
			}
		}
		d.show(o, files)
	}
	return nil
}

// entry is a line of ls.
type entry struct {
	name string
	fs.FileInfo
}

func (d *dialog) show(o tools.Options, files []entry) {
	slices.SortFunc(files, func(a, b entry) int {
		n := 0
		switch {
		case o.On("S"):
			n = cmp.Compare(b.Size(), a.Size())
		case o.On("t"):
			n = b.ModTime().Compare(a.ModTime())
		}
		if n = cmp.Or(n, strings.Compare(a.name, b.name)); o.On("r") {
			n = -n
		}
		return n
	})
	width, longest := 80, 0
	if w, _, err := term.GetSize(0); err == nil && w > 0 {
		width = w
	}
	for _, f := range files {
		longest = max(longest, len(f.name))
	}
	columns := max(1, width/(longest+2))
	for i, f := range files {
		name := printable.Clean(f.name)
		switch {
		case o.On("l", "n"):
			d.Printf("%s %s\n", long(f), name)
		case o.On("1"):
			d.Printf("%s\n", name)
		default:
			if d.Printf("%-*s", width/columns, name); (i+1)%columns == 0 || i == len(files)-1 {
				d.Printf("\n")
			}
		}
	}
}

// long are the attributes of a file as ls -l has them. Links are not counted by SFTP.
func long(f fs.FileInfo) string {
	st, ok := f.Sys().(*sftp.FileStat)
	if !ok {
		return ""
	}
	format := "Jan _2 15:04"
	if age := time.Since(f.ModTime()); age > 365*24*time.Hour/2 || age < 0 {
		format = "Jan _2  2006"
	}
	return fmt.Sprintf("%s  %3s %-8d %-8d %8d %s", tools.ModeString(st.Mode), "?", st.UID, st.GID, f.Size(), f.ModTime().Format(format))
}
