package text

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/tools"
	"github.com/mkcdrec/mkcdrec/internal/tools/posix"
	"github.com/mkcdrec/mkcdrec/internal/unpack"
)

const grepOpts = "E/extended-regexp F/fixed-strings G/basic-regexp P/perl-regexp i/y/ignore-case v/invert-match w/word-regexp x/line-regexp c/count l/files-with-matches L/files-without-match n/line-number H/with-filename h/no-filename o/only-matching q/quiet/silent s/no-messages r/recursive R/dereference-recursive a/text I b/byte-offset m/max-count: e/regexp: f/file: A/after-context: B/before-context: C/context: 0 include: exclude: exclude-dir: color/colour? z/null-data Z/null line-buffered binary-files: label: U/binary no-ignore-case"

func grepCommands() []tools.Command {
	g := func(name string) tools.Command {
		return tools.Command{Name: name, Opts: grepOpts, Synopsis: "PATTERNS [FILE]...", Bad: 2, Run: grep}
	}
	return []tools.Command{g("grep"), g("egrep"), g("fgrep"), {Name: "zgrep", Opts: grepOpts, Synopsis: "PATTERNS [FILE]...", Bad: 2, Run: zgrep}}
}

// grepper is one run of grep.
type grepper struct {
	*tools.Env
	res           []*regexp.Regexp
	before, after int
	most          int
	names, found  bool
	color         bool
	end           byte
	open          func(string) (io.ReadCloser, error)
}

func grep(e *tools.Env) error { return runGrep(e, e.Open) }

func runGrep(e *tools.Env, open func(string) (io.ReadCloser, error)) error {
	g := &grepper{Env: e, end: e.End("z"), open: open}
	if err := g.patterns(); err != nil {
		return err
	}
	around := "C"
	if o, ok := e.Last("0", "C"); ok {
		around = o.Name
	}
	var errs [4]error
	g.most, errs[0] = e.Int("m", -1)
	n, err := e.Int(around, 0)
	errs[1] = err
	g.after, errs[2] = e.Int("A", n)
	g.before, errs[3] = e.Int("B", n)
	if err := errors.Join(errs[:]...); err != nil {
		return err
	}
	rec := e.On("r", "R")
	g.names = g.withNames(rec)
	g.color = e.Val("color") == "always"
	if len(e.Args) == 0 {
		if e.Args = []string{"-"}; rec {
			e.Args = []string{"."}
		}
	}
	for _, n := range e.Args {
		if rec && n != "-" {
			g.walk(n)
		} else {
			g.file(n)
		}
		if g.found && e.On("q") {
			return tools.Status(0)
		}
	}
	if e.Failed() {
		return tools.Status(2)
	}
	if !g.found {
		return tools.Status(1)
	}
	return nil
}

// withNames reports whether lines are printed with the names of their files.
func (g *grepper) withNames(rec bool) bool {
	if o, ok := g.Last("h", "H"); ok {
		return o.Name == "H"
	}
	return len(g.Args) > 1 || rec
}

// patterns compiles the patterns of -e, -f or the first operand.
func (g *grepper) patterns() error {
	e := g.Env
	pats := strings.Split(strings.Join(e.Vals("e"), "\n"), "\n")
	if !e.On("e") {
		pats = nil
	}
	for _, f := range e.Vals("f") {
		r, err := e.Open(f)
		if err != nil {
			return err
		}
		b, err := io.ReadAll(r)
		r.Close()
		if err != nil {
			return err
		}
		if len(b) > 0 {
			pats = append(pats, strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")...)
		}
	}
	if !e.On("e", "f") {
		if len(e.Args) == 0 {
			return tools.Usage("no pattern given")
		}
		pats, e.Args = strings.Split(e.Args[0], "\n"), e.Args[1:]
	}
	kind, _ := e.Last("E", "F", "G", "P")
	if kind.Name == "" {
		kind.Name = map[string]string{"egrep": "E", "fgrep": "F"}[e.Name]
	}
	for _, p := range pats {
		re, err := g.compile(p, kind.Name)
		if err != nil {
			return err
		}
		g.res = append(g.res, re)
	}
	return nil
}

// compile translates a pattern of one kind: E, F, P or G, which "" stands for.
func (g *grepper) compile(p, kind string) (*regexp.Regexp, error) {
	var err error
	switch kind {
	case "F":
		p = regexp.QuoteMeta(p)
	case "P":
	default:
		p, err = posix.Translate(p, kind == "E")
	}
	switch {
	case g.On("x"):
		p = "^(?:" + p + ")$"
	case g.On("w"):
		p = `(?:^|\b|\B)(?:` + p + `)`
	}
	if o, _ := g.Last("i", "no-ignore-case"); o.Name == "i" {
		p = "(?i)" + p
	}
	re, cerr := regexp.Compile(p)
	if err = errors.Join(err, cerr); err != nil {
		return nil, err
	}
	if kind != "P" {
		re.Longest()
	}
	return re, nil
}

// matches gives the places of the matches in a line, or just the first with one.
func (g *grepper) matches(l []byte, one bool) [][]int {
	var out [][]int
	for at := 0; at <= len(l); {
		var best []int
		for _, re := range g.res {
			m := g.match(re, l, at)
			if m != nil && (best == nil || m[0] < best[0] || m[0] == best[0] && m[1] > best[1]) {
				best = m
			}
		}
		if best == nil {
			return out
		}
		out = append(out, best)
		if one {
			return out
		}
		if at = best[1]; best[0] == best[1] {
			at++
		}
	}
	return out
}

func isWord(c byte) bool { return c == '_' || isAlpha(c) || isDigit(c) }

func (g *grepper) match(re *regexp.Regexp, l []byte, at int) []int {
	for at <= len(l) {
		m := findFrom(re, l, at)
		if m == nil || !g.On("w") || g.On("x") {
			return m
		}
		for end := m[1]; ; end-- { // a shorter match may be a word
			if (m[0] == 0 || !isWord(l[m[0]-1])) && (end == len(l) || !isWord(l[end])) {
				if x := re.FindIndex(l[:end]); x != nil && x[0] <= m[0] {
					return []int{m[0], end}
				}
			}
			if end <= m[0]+1 {
				break
			}
		}
		at = m[0] + 1
	}
	return nil
}

// findFrom finds the first match at or behind at. What begins with ^ or \b needs to see what is before.
func findFrom(re *regexp.Regexp, l []byte, at int) []int {
	if at == 0 {
		return re.FindIndex(l)
	}
	for _, x := range re.FindAllIndex(l, -1) {
		if x[0] >= at {
			return x
		}
	}
	return nil
}

// leavesOut reports whether a search of directories leaves a file of this type out.
func (g *grepper) leavesOut(m fs.FileMode, operand bool) bool {
	return m&fs.ModeSymlink != 0 && !g.On("R") && !operand || m&(fs.ModeDevice|fs.ModeNamedPipe|fs.ModeSocket) != 0
}

func (g *grepper) walk(root string) {
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			g.fault(p, err)
			return nil
		}
		base := path.Base(p)
		if d.IsDir() {
			excluded := func(x string) bool { ok, _ := path.Match(strings.TrimSuffix(x, "/"), base); return ok }
			if p != root && slices.ContainsFunc(g.Vals("exclude-dir"), excluded) {
				return filepath.SkipDir
			}
			return nil
		}
		if g.leavesOut(d.Type(), p == root) {
			return nil
		}
		if st, err := os.Stat(p); g.On("R") && err == nil && st.IsDir() {
			g.walk(p + "/")
			return nil
		}
		if root == "." && len(g.Args) == 1 && !strings.HasPrefix(p, "./") && g.Args[0] == "." {
			p = "./" + p
		}
		if g.selected(base) {
			g.file(p)
		}
		return nil
	})
	if err != nil {
		g.fault(root, err)
	}
}

// selected applies --include and --exclude.
func (g *grepper) selected(base string) bool {
	in := func(patterns []string) bool {
		return slices.ContainsFunc(patterns, func(x string) bool { ok, _ := path.Match(x, base); return ok })
	}
	return (!g.On("include") || in(g.Vals("include"))) && !in(g.Vals("exclude"))
}

func (g *grepper) fault(name string, err error) {
	if g.On("s") {
		g.Set(2)
		return
	}
	g.Fault(2, "%s: %s", name, tools.Cause(err))
}

func (g *grepper) file(name string) {
	r, err := g.open(name)
	if err != nil {
		if g.On("s") {
			g.Set(2)
		} else {
			g.Fault(2, "%v", err)
		}
		return
	}
	defer r.Close()
	if f, ok := tools.File(r); ok {
		if st, err := f.Stat(); err == nil && st.IsDir() {
			if !g.On("s") {
				g.Fault(2, "%s: Is a directory", name)
			}
			return
		}
	}
	if name == "-" {
		name = g.Or("label", "(standard input)")
	}
	if g.IsOutput(r) && !g.On("q", "l", "L") && g.most != 1 {
		g.Fault(2, "%s: input file is also the output", name)
		return
	}
	if err := g.scan(name, r); err != nil {
		g.fault(name, err)
	}
}

// line prints a line that was selected, or one around it; mark is ':' or '-'.
func (g *grepper) prefix(name string, n int, offset int64, mark byte) {
	paint := func(s, code string, m byte) {
		if g.color {
			g.Printf("\x1b[%sm\x1b[K%s\x1b[m\x1b[K\x1b[36m\x1b[K%c\x1b[m\x1b[K", code, s, m)
			return
		}
		g.Printf("%s%c", s, m)
	}
	if g.names {
		m := mark
		if g.On("Z") {
			m = 0
		}
		paint(name, "35", m)
	}
	if g.On("n") {
		paint(fmt.Sprint(n), "32", mark)
	}
	if g.On("b") {
		paint(fmt.Sprint(offset), "32", mark)
	}
}

type context struct {
	text   []byte
	n      int
	offset int64
}

// scan is the search in one file.
type scan struct {
	*grepper
	name            string
	binary, quiet   bool
	kept            []context
	count, n        int
	printed, follow int
}

func (g *grepper) scan(name string, r io.Reader) error {
	head := make([]byte, 1<<15)
	var n int
	var err error
	if g.On("line-buffered") { // lines are to come out as soon as they are there
		n, err = r.Read(head)
	} else {
		n, err = io.ReadFull(r, head)
	}
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	head = head[:n]
	s := &scan{grepper: g, name: name, quiet: g.On("q", "l", "L", "c")}
	s.binary = bytes.IndexByte(head, 0) >= 0 && !g.On("a") && g.end != 0 && g.Val("binary-files") != "text"
	if s.binary && (g.On("I") || g.Val("binary-files") == "without-match") {
		return nil
	}
	offset := int64(0)
	for l, err := range tools.Lines(io.MultiReader(bytes.NewReader(head), r), g.end) {
		if err != nil {
			return err
		}
		s.n++
		if !s.line(context{tools.Chomp(l, g.end), s.n, offset}) {
			break
		}
		if g.On("line-buffered") {
			if err := g.Out.Flush(); err != nil {
				return err
			}
		}
		offset += int64(len(l))
	}
	return g.summary(name, s.count, s.binary && !s.quiet)
}

// line looks at a line, and reports whether the next one is to be read.
func (s *scan) line(c context) bool {
	full := s.most >= 0 && s.count >= s.most
	if full && s.follow == 0 {
		return false
	}
	found := s.matches(c.text, !s.On("o") && !s.color)
	if (found != nil) == s.On("v") || full {
		s.around(c)
		return true
	}
	s.count++
	if s.quiet || s.binary {
		return !s.binary && !s.On("q") && (!s.On("l") || s.On("c")) || s.quiet && s.On("c")
	}
	s.showKept()
	s.show(s.name, c.text, c.n, c.offset, found)
	s.printed, s.follow = s.n, s.after
	return true
}

// showKept prints the lines that were kept as the context before a match.
func (s *scan) showKept() {
	if first := s.n - len(s.kept); (s.before > 0 || s.after > 0) && s.printed > 0 && first > s.printed+1 {
		s.Printf("--\n")
	}
	for _, k := range s.kept {
		s.prefix(s.name, k.n, k.offset, '-')
		s.Printf("%s%c", k.text, s.end)
	}
	s.kept = s.kept[:0]
}

// around prints or keeps a line that was not selected.
func (s *scan) around(c context) {
	switch {
	case s.follow > 0:
		s.follow--
		if s.printed = c.n; !s.On("o") {
			s.prefix(s.name, c.n, c.offset, '-')
			s.Printf("%s%c", c.text, s.end)
		}
	case s.before > 0 && !s.quiet && !s.On("o"):
		c.text = bytes.Clone(c.text)
		if s.kept = append(s.kept, c); len(s.kept) > s.before {
			s.kept = s.kept[1:]
		}
	}
}

func (g *grepper) show(name string, text []byte, n int, at int64, found [][]int) {
	if g.On("o") {
		if g.On("v") {
			return
		}
		for _, m := range found {
			if m[0] < m[1] {
				g.prefix(name, n, at+int64(m[0]), ':')
				s := string(text[m[0]:m[1]])
				if g.color {
					s = "\x1b[01;31m\x1b[K" + s + "\x1b[m\x1b[K"
				}
				g.Printf("%s%c", s, g.end)
			}
		}
		return
	}
	g.prefix(name, n, at, ':')
	if g.color && !g.On("v") {
		last := 0
		for _, m := range found {
			if m[0] < m[1] {
				g.Printf("%s\x1b[01;31m\x1b[K%s\x1b[m\x1b[K", text[last:m[0]], text[m[0]:m[1]])
				last = m[1]
			}
		}
		text = text[last:]
	}
	g.Printf("%s%c", text, g.end)
}

func (g *grepper) summary(name string, count int, binary bool) error {
	g.found = g.found || count > 0
	end := "\n"
	if g.On("Z") {
		end = "\x00"
	}
	switch {
	case g.On("q"):
	case g.On("L"):
		if count == 0 {
			g.Printf("%s%s", name, end)
		}
	case g.On("l"):
		if count > 0 {
			g.Printf("%s%s", name, end)
		}
	case g.On("c"):
		if g.names {
			g.Printf("%s%s", name, strings.Replace(end, "\n", ":", 1))
		}
		g.Printf("%d\n", count)
	case binary && count > 0:
		g.Fault(0, "%s: binary file matches", name)
	}
	return nil
}

func zgrep(e *tools.Env) error {
	return runGrep(e, func(name string) (io.ReadCloser, error) {
		f, err := e.Open(name)
		if err != nil {
			return nil, err
		}
		br := bufio.NewReaderSize(f, 1<<16)
		if head, err := br.Peek(unpack.HeadLen); err == nil {
			if z, err := unpack.Reader(br, head); err == nil {
				return struct {
					io.Reader
					io.Closer
				}{z, f}, nil
			}
		}
		return struct {
			io.Reader
			io.Closer
		}{br, f}, nil
	})
}
