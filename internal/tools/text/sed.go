package text

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/tools"
	"github.com/mkcdrec/mkcdrec/internal/tools/posix"
)

func sedCommands() []tools.Command {
	return []tools.Command{{Name: "sed", Opts: "n/quiet/silent e/expression: f/file: E/r/regexp-extended i/in-place? s/separate z/null-data u/unbuffered posix l/line-length: b/binary debug sandbox follow-symlinks", Synopsis: "{SCRIPT | -e SCRIPT | -f FILE} [INPUT]...", Run: sed}}
}

// address selects lines: a number, first~step, the last, or those that match.
type address struct {
	kind  byte // 'n' number, '~' step, '$' last, '/' expression; second ones also '+' and 'm' (multiple)
	n, to int
	re    *regexp.Regexp // nil: the last one that was used
}

// sedCommand is one command of a script.
type sedCommand struct {
	from, to *address
	not      bool
	name     byte
	text     string // of a, i, c, r, w, b, t, and what y replaces
	label    int    // where a branch or the end of a block is
	re       *regexp.Regexp
	with     []part
	global   bool
	print    bool
	nth      int
	table    map[rune]rune
	active   bool // within its range
	end      int  // last line of the range, if that is known
}

// part is a piece of a replacement: text, a group, or a change of case.
type part struct {
	text  string
	group int // -1: text
	fold  byte
}

type sedParser struct {
	s        string
	i        int
	out      []*sedCommand
	blocks   []int
	labels   map[string]int
	extended bool
}

func (p *sedParser) peek() byte {
	if p.i < len(p.s) {
		return p.s[p.i]
	}
	return 0
}

func (p *sedParser) skip(chars string) {
	for p.i < len(p.s) && strings.IndexByte(chars, p.s[p.i]) >= 0 {
		p.i++
	}
}

func (p *sedParser) number() int {
	n := 0
	for p.i < len(p.s) && isDigit(p.s[p.i]) {
		n, p.i = n*10+int(p.s[p.i]-'0'), p.i+1
	}
	return n
}

// until reads up to the delimiter, which a backslash makes a character.
func (p *sedParser) until(delim byte, regex bool) (string, error) {
	var b strings.Builder
	bracket := false
	for p.i < len(p.s) {
		c := p.s[p.i]
		p.i++
		switch {
		case c == delim && !bracket:
			return b.String(), nil
		case c == '\\' && p.i < len(p.s) && !bracket:
			n := p.s[p.i]
			p.i++
			if n == delim && delim != '\\' {
				if regex && strings.IndexByte("|+?(){}", n) >= 0 {
					b.WriteByte('\\')
				}
				b.WriteByte(n)
				continue
			}
			b.WriteByte('\\')
			b.WriteByte(n)
			continue
		case regex && c == '[' && !bracket:
			bracket = true
			b.WriteByte(c)
			if p.peek() == '^' {
				b.WriteByte('^')
				p.i++
			}
			if p.peek() == ']' {
				b.WriteByte(']')
				p.i++
			}
			continue
		case c == ']':
			bracket = false
		}
		b.WriteByte(c)
	}
	return "", errors.New("unterminated address regex")
}

func (p *sedParser) regex(s string, fold, multi bool) (*regexp.Regexp, error) {
	if s == "" {
		return nil, nil
	}
	return posix.Compile(s, posix.Flags{Extended: p.extended, Fold: fold, Multiline: multi})
}

func (p *sedParser) address() (*address, error) {
	switch c := p.peek(); {
	case isDigit(c):
		n := p.number()
		if p.peek() == '~' {
			p.i++
			return &address{kind: '~', n: n, to: p.number()}, nil
		}
		return &address{kind: 'n', n: n}, nil
	case c == '$':
		p.i++
		return &address{kind: '$'}, nil
	case c == '/' || c == '\\':
		p.i++
		if c == '\\' {
			c = p.peek()
			p.i++
		}
		s, err := p.until(c, true)
		if err != nil {
			return nil, err
		}
		fold, multi := false, false
		for p.peek() == 'I' || p.peek() == 'M' {
			fold, multi = fold || p.peek() == 'I', multi || p.peek() == 'M'
			p.i++
		}
		re, err := p.regex(s, fold, multi)
		return &address{kind: '/', re: re}, err
	}
	return nil, nil
}

func (p *sedParser) parse() error {
	for {
		p.skip(" \t\n;")
		if p.i >= len(p.s) {
			break
		}
		if p.peek() == '#' {
			p.skipLine()
			continue
		}
		c := &sedCommand{nth: 1}
		var err error
		if c.from, err = p.address(); err != nil {
			return err
		}
		p.skip(" \t")
		if c.from != nil && p.peek() == ',' {
			p.i++
			p.skip(" \t")
			if k := p.peek(); k == '+' || k == '~' {
				p.i++
				c.to = &address{kind: map[byte]byte{'+': '+', '~': 'm'}[k], n: p.number()}
			} else if c.to, err = p.address(); err != nil {
				return err
			} else if c.to == nil {
				return errors.New("unexpected `,'")
			}
		}
		for p.skip(" \t"); p.peek() == '!'; p.skip(" \t!") {
			c.not = true
		}
		if p.i >= len(p.s) {
			return errors.New("missing command")
		}
		c.name = p.s[p.i]
		p.i++
		if err := p.command(c); err != nil {
			return err
		}
	}
	if len(p.blocks) > 0 {
		return errors.New("unmatched `{'")
	}
	return p.link()
}

func (p *sedParser) skipLine() string {
	s, _, _ := strings.Cut(p.s[p.i:], "\n")
	p.i += len(s)
	return s
}

func (p *sedParser) word() string {
	p.skip(" \t")
	s := p.s[p.i:]
	if i := strings.IndexAny(s, ";\n}"); i >= 0 {
		s = s[:i]
	}
	p.i += len(s)
	return strings.TrimSpace(s)
}

func (p *sedParser) command(c *sedCommand) (err error) {
	switch c.name {
	case '{':
		p.blocks = append(p.blocks, len(p.out))
	case '}':
		if len(p.blocks) == 0 {
			return errors.New("unexpected `}'")
		}
		open := p.blocks[len(p.blocks)-1]
		p.blocks = p.blocks[:len(p.blocks)-1]
		p.out[open].label = len(p.out)
		return nil
	case ':':
		p.labels[p.word()] = len(p.out)
		return nil
	case 'b', 't', 'T':
		c.text = p.word()
	case 'r', 'w', 'R', 'W':
		p.skip(" \t")
		c.text = p.skipLine()
	case 'a', 'i', 'c':
		p.insertion(c)
	case 'q', 'Q', 'l', 'L':
		p.skip(" \t")
		c.label = p.number()
	case 's':
		err = p.substitute(c)
	case 'y':
		err = p.transliterate(c)
	case '=', 'd', 'D', 'g', 'G', 'h', 'H', 'n', 'N', 'p', 'P', 'x', 'z', 'F':
	default:
		return fmt.Errorf("unknown command: `%c'", c.name)
	}
	p.out = append(p.out, c)
	if err == nil && strings.IndexByte("{aic", c.name) < 0 {
		if p.skip(" \t"); p.i < len(p.s) && strings.IndexByte(";\n}#", p.peek()) < 0 {
			return errors.New("extra characters after command")
		}
	}
	return err
}

// insertion reads the text of a, i and c, in GNU's form of one line or behind "\".
func (p *sedParser) insertion(c *sedCommand) {
	p.skip(" \t")
	if p.peek() == '\\' {
		p.i++
		p.skip(" \t")
		if p.peek() == '\n' {
			p.i++
		}
	}
	var b strings.Builder
	for p.i < len(p.s) && p.peek() != '\n' {
		if p.peek() == '\\' && p.i+1 < len(p.s) {
			p.i++
			if p.peek() == 't' {
				b.WriteByte('\t')
				p.i++
				continue
			}
		}
		b.WriteByte(p.s[p.i])
		p.i++
	}
	c.text = b.String()
}

func (p *sedParser) substitute(c *sedCommand) error {
	delim := p.peek()
	p.i++
	re, err := p.until(delim, true)
	if err != nil {
		return errors.New("unterminated `s' command")
	}
	with, err := p.until(delim, false)
	if err != nil {
		return errors.New("unterminated `s' command")
	}
	fold, multi := false, false
	for {
		switch f := p.peek(); {
		case f == 'g':
			c.global = true
		case f == 'p':
			c.print = true
		case f == 'i' || f == 'I':
			fold = true
		case f == 'm' || f == 'M':
			multi = true
		case isDigit(f):
			if c.nth = p.number(); c.nth == 0 {
				return errors.New("number option to `s' command may not be zero")
			}
			continue
		case f == 'w':
			p.i++
			p.skip(" \t")
			c.text = p.skipLine()
			continue
		default:
			if c.re, err = p.regex(re, fold, multi); err != nil {
				return err
			}
			c.with, err = replacement(with)
			if err == nil && c.re != nil {
				for _, w := range c.with {
					if w.group > c.re.NumSubexp() {
						return fmt.Errorf("invalid reference \\%d on `s' command's RHS", w.group)
					}
				}
			}
			return err
		}
		p.i++
	}
}

func replacement(s string) ([]part, error) {
	var out []part
	text := func(t string) {
		if n := len(out); n > 0 && out[n-1].group < 0 && out[n-1].fold == 0 {
			out[n-1].text += t
		} else {
			out = append(out, part{text: t, group: -1})
		}
	}
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '&':
			out = append(out, part{group: 0})
		case c != '\\' || i+1 == len(s):
			text(string(s[i : i+1]))
		default:
			i++
			switch c := s[i]; {
			case isDigit(c):
				out = append(out, part{group: int(c - '0')})
			case strings.IndexByte("LUluE", c) >= 0:
				out = append(out, part{group: -1, fold: c})
			case c == 'n':
				text("\n")
			case c == 't':
				text("\t")
			default:
				text(s[i : i+1])
			}
		}
	}
	return out, nil
}

func (p *sedParser) transliterate(c *sedCommand) error {
	delim := p.peek()
	p.i++
	a, err := p.until(delim, false)
	b, err2 := p.until(delim, false)
	if err != nil || err2 != nil {
		return errors.New("unterminated `y' command")
	}
	un := strings.NewReplacer(`\\`, `\`, `\n`, "\n", `\t`, "\t")
	from, to := []rune(un.Replace(a)), []rune(un.Replace(b))
	if len(from) != len(to) {
		return errors.New("strings for `y' command are different lengths")
	}
	c.table = map[rune]rune{}
	for i, r := range from {
		c.table[r] = to[i]
	}
	return nil
}

func (p *sedParser) link() error {
	for _, c := range p.out {
		if c.name == 'b' || c.name == 't' || c.name == 'T' {
			at, ok := p.labels[c.text]
			if c.text == "" {
				at, ok = len(p.out), true
			}
			if !ok {
				return fmt.Errorf("can't find label for jump to `%s'", c.text)
			}
			c.label = at
		}
	}
	return nil
}

// sedRun is the state while lines are processed.
type sedRun struct {
	*tools.Env
	script []*sedCommand
	w      *bufio.Writer
	in     *sedInput
	space  string
	hold   string
	newed  bool // the line has its newline
	n      int
	queue  []func() error // of a and r, for the end of the cycle
	subst  bool
	lastRE *regexp.Regexp
	files  map[string]*os.File
	end    byte
	rc     int
}

// sedInput reads the lines of several files as one.
type sedInput struct {
	e     *tools.Env
	names []string
	cur   io.ReadCloser
	br    *bufio.Reader
	name  string
	end   byte
	next  string
	ok    bool
}

func (in *sedInput) fill() error {
	for {
		if in.br == nil {
			if len(in.names) == 0 {
				in.ok = false
				return nil
			}
			in.name, in.names = in.names[0], in.names[1:]
			f, err := in.e.Open(in.name)
			if err != nil {
				in.e.Fault(2, "can't read %v", err)
				continue
			}
			in.cur, in.br = f, bufio.NewReaderSize(f, 1<<16)
		}
		s, err := in.br.ReadString(in.end)
		if err != nil && !errors.Is(err, io.EOF) {
			in.e.Fault(2, "couldn't read %s: %s", in.name, tools.Cause(err))
		}
		if s != "" {
			in.next, in.ok = s, true
			return nil
		}
		in.cur.Close()
		in.br = nil
	}
}

func sed(e *tools.Env) error {
	var texts []string
	for _, o := range e.All() {
		switch o.Name {
		case "e":
			texts = append(texts, o.Value)
		case "f":
			r, err := e.Open(o.Value)
			if err != nil {
				return fmt.Errorf("couldn't open file %w", err)
			}
			b, err := io.ReadAll(r)
			r.Close()
			if err != nil {
				return err
			}
			texts = append(texts, strings.TrimSuffix(string(b), "\n"))
		}
	}
	if !e.On("e", "f") {
		if len(e.Args) == 0 {
			return tools.Usage("no script given")
		}
		texts, e.Args = e.Args[:1], e.Args[1:]
	}
	p := &sedParser{s: strings.Join(texts, "\n"), labels: map[string]int{}, extended: e.On("E")}
	if err := p.parse(); err != nil {
		return fmt.Errorf("-e expression #1, char %d: %w", p.i, err)
	}
	r := &sedRun{Env: e, script: p.out, w: e.Out, end: e.End("z"), files: map[string]*os.File{}}
	defer func() {
		for _, f := range r.files {
			f.Close()
		}
	}()
	if !e.On("i", "s") {
		if len(e.Args) == 0 {
			e.Args = []string{"-"}
		}
		_, err := r.run(e.Args)
		return err
	}
	for _, n := range e.Args {
		quit, err := r.one(n)
		if err != nil || quit {
			return err
		}
	}
	return nil
}

// one runs the script on one file, in its place with -i.
func (r *sedRun) one(name string) (quit bool, err error) {
	r.n = 0
	for _, c := range r.script {
		c.active = false
	}
	if !r.On("i") {
		return r.run([]string{name})
	}
	st, err := os.Stat(name)
	if err != nil {
		r.Fault(4, "can't read %s: %s", name, tools.Cause(err))
		return false, nil
	}
	if !st.Mode().IsRegular() {
		r.Fault(4, "couldn't edit %s: not a regular file", name)
		return false, nil
	}
	f, err := os.CreateTemp(filepath.Dir(name), ".sed*")
	if err != nil {
		return false, fmt.Errorf("couldn't open temporary file: %s", tools.Cause(err))
	}
	defer os.Remove(f.Name())
	defer f.Close()
	r.w = bufio.NewWriter(f)
	quit, err = r.run([]string{name})
	if quit && r.in.br != nil { // the rest of the file stays as it is
		_, e := io.WriteString(r.w, map[bool]string{true: r.in.next}[r.in.ok])
		_, e2 := r.in.br.WriteTo(r.w)
		err = errors.Join(e, e2)
	}
	if e := errors.Join(r.w.Flush(), f.Sync(), tools.CopyOwner(f, st)); err == nil {
		err = e
	}
	var status tools.Status
	if err != nil && !errors.As(err, &status) {
		return quit, err
	}
	if suffix := r.Val("i"); suffix != "" {
		to := name + suffix
		if strings.Contains(suffix, "*") {
			to = strings.ReplaceAll(suffix, "*", name)
		}
		if e := os.Rename(name, to); e != nil {
			return quit, e
		}
	}
	return quit, errors.Join(err, os.Rename(f.Name(), name))
}

// errQuit, errDelete and errRestart end a cycle.
var (
	errQuit    = errors.New("quit")
	errDelete  = errors.New("delete")
	errRestart = errors.New("restart")
)

func (r *sedRun) run(names []string) (quit bool, err error) {
	r.in = &sedInput{e: r.Env, names: names, end: r.end}
	if err := r.in.fill(); err != nil {
		return false, err
	}
	for again := false; r.in.ok || again; {
		if !again && !r.read() {
			break
		}
		err := r.cycle()
		again = errors.Is(err, errRestart)
		var st tools.Status
		switch {
		case errors.Is(err, errQuit), errors.As(err, &st):
			quit = true
		case err != nil && !errors.Is(err, errDelete) && !again:
			return false, err
		}
		if e := r.flush(); e != nil {
			return false, e
		}
		if quit {
			if r.rc != 0 {
				return true, tools.Status(r.rc)
			}
			return true, nil
		}
	}
	return false, nil
}

// read takes the next line into the pattern space.
func (r *sedRun) read() bool {
	if !r.in.ok {
		return false
	}
	r.space = strings.TrimSuffix(r.in.next, string(r.end))
	r.newed = len(r.space) < len(r.in.next)
	r.n++
	return r.in.fill() == nil
}

func (r *sedRun) put(s string) error {
	_, err := r.w.WriteString(s)
	if r.newed || r.in.ok {
		err = errors.Join(err, r.w.WriteByte(r.end))
	}
	return err
}

func (r *sedRun) flush() error {
	for _, q := range r.queue {
		if err := q(); err != nil {
			return err
		}
	}
	r.queue = nil
	if r.On("u") {
		return r.w.Flush()
	}
	return nil
}

func (r *sedRun) matches(re *regexp.Regexp) bool {
	if re == nil {
		re = r.lastRE
	}
	r.lastRE = re
	return re != nil && re.MatchString(r.space)
}

func (r *sedRun) at(a *address) bool {
	switch a.kind {
	case 'n':
		return r.n == a.n
	case '~':
		return a.to == 0 && r.n == a.n || a.to > 0 && r.n >= a.n && (r.n-a.n)%a.to == 0
	case '$':
		return !r.in.ok
	}
	return r.matches(a.re)
}

func (r *sedRun) selected(c *sedCommand) bool {
	if c.to == nil {
		return c.from == nil || r.at(c.from)
	}
	if c.active {
		switch c.to.kind {
		case 'n', '+', 'm':
			if r.n >= c.end {
				c.active = false
			}
			return r.n <= c.end
		}
		c.active = !r.at(c.to)
		return true
	}
	zero := c.from.kind == 'n' && c.from.n == 0 && r.n == 1
	if !zero && !r.at(c.from) {
		return false
	}
	switch c.to.kind {
	case 'n':
		c.end = c.to.n
	case '+':
		c.end = r.n + c.to.n
	case 'm':
		c.end = r.n
		if c.to.n > 0 {
			c.end = (r.n + c.to.n - 1) / c.to.n * c.to.n
		}
	default:
		c.active = !zero || !r.at(c.to)
		if c.to.kind == '$' {
			c.active = r.in.ok
		}
		return true
	}
	c.active = c.end > r.n
	return true
}

func (r *sedRun) cycle() error {
	r.subst = false
	for pc := 0; pc < len(r.script); pc++ {
		c := r.script[pc]
		if r.selected(c) == c.not {
			if c.name == '{' {
				pc = c.label - 1
			}
			continue
		}
		switch c.name {
		case 'b':
			pc = c.label - 1
		case 't', 'T':
			if r.subst == (c.name == 't') {
				pc = c.label - 1
			}
			r.subst = false
		default:
			if err := r.do(c); err != nil {
				if errors.Is(err, errQuit) && c.name != 'Q' && !r.On("n") {
					return errors.Join(err, r.put(r.space))
				}
				return err
			}
		}
	}
	if r.On("n") {
		return nil
	}
	return r.put(r.space)
}

func (r *sedRun) do(c *sedCommand) error {
	switch c.name {
	case '=':
		fmt.Fprintf(r.w, "%d\n", r.n)
	case 'a':
		r.queue = append(r.queue, func() error { _, err := r.w.WriteString(c.text + "\n"); return err })
	case 'i':
		r.w.WriteString(c.text + "\n")
	case 'c':
		if c.to == nil || !c.active || c.not {
			r.w.WriteString(c.text + "\n")
		}
		return errDelete
	case 'd':
		return errDelete
	case 'D':
		i := strings.IndexByte(r.space, '\n')
		if i < 0 {
			return errDelete
		}
		r.space = r.space[i+1:]
		return errRestart
	case 'g':
		r.space = r.hold
	case 'G':
		r.space += "\n" + r.hold
	case 'h':
		r.hold = r.space
	case 'H':
		r.hold += "\n" + r.space
	case 'x':
		r.space, r.hold = r.hold, r.space
	case 'z':
		r.space = ""
	case 'l':
		r.unambiguous()
	case 'q', 'Q':
		r.rc = c.label
		return errQuit
	default:
		return r.more(c)
	}
	return nil
}

func (r *sedRun) more(c *sedCommand) error {
	switch c.name {
	case 'F':
		fmt.Fprintln(r.w, r.in.name)
	case 'n', 'N':
		if !r.in.ok {
			return errQuit
		}
		before := r.space
		if c.name == 'n' && !r.On("n") {
			r.put(before)
		}
		if err := r.flush(); err != nil {
			return err
		}
		if r.read(); c.name == 'N' {
			r.space = before + "\n" + r.space
		}
	case 'p':
		return r.put(r.space)
	case 'P':
		s, _, _ := strings.Cut(r.space, "\n")
		r.w.WriteString(s + "\n")
	case 'r':
		r.queue = append(r.queue, func() error {
			if b, err := os.ReadFile(c.text); err == nil { // a file that is not there is empty
				r.w.Write(b)
			}
			return nil
		})
	case 'w':
		return r.write(c.text, r.space)
	case 's':
		return r.substitute(c)
	case 'y':
		r.space = strings.Map(func(x rune) rune {
			if to, ok := c.table[x]; ok {
				return to
			}
			return x
		}, r.space)
	}
	return nil
}

func (r *sedRun) write(name, s string) error {
	if name == "/dev/stdout" {
		return r.put(s)
	}
	f := r.files[name]
	if f == nil {
		var err error
		if f, err = os.Create(name); err != nil {
			return fmt.Errorf("couldn't open file %s: %s", name, tools.Cause(err))
		}
		r.files[name] = f
	}
	_, err := fmt.Fprintln(f, s)
	return err
}

func (r *sedRun) unambiguous() {
	s := strings.NewReplacer("\\", `\\`, "\n", `\n`, "\t", `\t`, "\a", `\a`, "\b", `\b`, "\f", `\f`, "\r", `\r`, "\v", `\v`).Replace(r.space)
	col := 0
	for i := 0; i < len(s); i++ {
		w := s[i : i+1]
		if s[i] < 32 || s[i] >= 127 {
			w = fmt.Sprintf(`\%03o`, s[i])
		} else if s[i] == '\\' && i+1 < len(s) {
			w = s[i : i+2]
			i++
		}
		if col+len(w) > 69 {
			r.w.WriteString("\\\n")
			col = 0
		}
		r.w.WriteString(w)
		col += len(w)
	}
	r.w.WriteString("$\n")
}

func (r *sedRun) substitute(c *sedCommand) error {
	re := c.re
	if re == nil {
		re = r.lastRE
	}
	if r.lastRE = re; re == nil {
		return errors.New("no previous regular expression")
	}
	var b strings.Builder
	at, n := 0, 0
	for _, m := range re.FindAllStringSubmatchIndex(r.space, -1) {
		if n++; n < c.nth {
			continue
		}
		b.WriteString(r.space[at:m[0]])
		expandTo(&b, c.with, r.space, m)
		at = m[1]
		if !c.global {
			break
		}
	}
	if n < c.nth {
		return nil
	}
	b.WriteString(r.space[at:])
	r.space, r.subst = b.String(), true
	if c.print {
		if err := r.put(r.space); err != nil {
			return err
		}
	}
	if c.text != "" {
		return r.write(c.text, r.space)
	}
	return nil
}

func expandTo(b *strings.Builder, with []part, s string, m []int) {
	var fold, once byte
	for _, p := range with {
		t := p.text
		if p.fold != 0 {
			switch p.fold {
			case 'l', 'u':
				once = p.fold
			default:
				fold = p.fold
			}
			continue
		}
		if p.group >= 0 {
			if t = ""; 2*p.group < len(m) && m[2*p.group] >= 0 {
				t = s[m[2*p.group]:m[2*p.group+1]]
			}
		}
		switch fold {
		case 'U':
			t = strings.ToUpper(t)
		case 'L':
			t = strings.ToLower(t)
		}
		if t != "" && once != 0 {
			f := bytes.ToUpper
			if once == 'l' {
				f = bytes.ToLower
			}
			t, once = string(f([]byte(t[:1])))+t[1:], 0
		}
		b.WriteString(t)
	}
}
