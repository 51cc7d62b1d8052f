// Package shell is the rescue system's own shell: mvdan.cc/sh's interpreter
// with line editing, history and completion. It is there when the source
// machine had no bash.
package shell

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
	"mvdan.cc/sh/v3/interp"
	"mvdan.cc/sh/v3/syntax"
)

// Main runs the shell with the arguments of sh(1): -c COMMAND, -s, -e, -u,
// -x, -n, -f, -i, -l, a script with its parameters, or nothing. It returns
// the exit status.
func Main(args []string, stdin *os.File, stdout, stderr io.Writer) int {
	o, err := parse(args)
	if err != nil {
		fmt.Fprintln(stderr, "sh:", err)
		return 2
	}
	r, err := interp.New(interp.Interactive(o.interactive(stdin)), interp.StdIO(stdin, stdout, stderr), interp.Params(append(append(o.set, "--"), o.params...)...))
	if err == nil {
		err = checkPrinters(r)
	}
	if err != nil {
		fmt.Fprintln(stderr, "sh:", err)
		return 2
	}
	if o.interactive(stdin) {
		return (&session{r: r, in: stdin, out: stdout, errw: stderr}).run()
	}
	var in io.Reader = stdin
	name := "sh"
	switch {
	case o.command:
		in = strings.NewReader(o.text)
	case o.script != "":
		f, err := os.Open(o.script)
		if err != nil {
			fmt.Fprintln(stderr, "sh:", err)
			return 127
		}
		defer f.Close()
		in, name = f, o.script
	}
	prog, err := syntax.NewParser().Parse(in, name)
	if err != nil {
		fmt.Fprintln(stderr, "sh:", err)
		return 2
	}
	return status(r.Run(context.Background(), prog), stderr)
}

type options struct {
	command bool
	text    string
	script  string
	set     []string
	params  []string
	forced  bool // -i
	read    bool // -s
}

func (o options) interactive(in *os.File) bool {
	return !o.command && o.script == "" && (o.forced || term.IsTerminal(int(in.Fd())))
}

func parse(args []string) (options, error) {
	var o options
	for len(args) > 0 && len(args[0]) > 1 && args[0][0] == '-' && args[0] != "--" {
		for _, c := range args[0][1:] {
			switch c {
			case 'c':
				o.command = true
			case 's':
				o.read = true
			case 'i':
				o.forced = true
			case 'l':
			case 'e', 'u', 'x', 'n', 'f', 'a':
				o.set = append(o.set, "-"+string(c))
			default:
				return o, fmt.Errorf("unknown option -%c", c)
			}
		}
		args = args[1:]
	}
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	switch {
	case o.command && len(args) == 0:
		return o, errors.New("-c needs an argument")
	case o.command:
		o.text = args[0]
		o.params = args[min(2, len(args)):] // the word after is $0
	case !o.read && len(args) > 0:
		o.script, o.params = args[0], args[1:]
	default:
		o.params = args
	}
	return o, nil
}

func status(err error, stderr io.Writer) int {
	var es interp.ExitStatus
	switch {
	case err == nil:
		return 0
	case errors.As(err, &es):
		return int(es)
	case errors.Is(err, context.Canceled):
		return 130
	}
	fmt.Fprintln(stderr, "sh:", err)
	return 1
}

// session is an interactive shell.
type session struct {
	r    *interp.Runner
	in   *os.File
	out  io.Writer
	errw io.Writer
	rc   int
}

const historySize = 500

func (s *session) run() int {
	t := term.NewTerminal(struct {
		io.Reader
		io.Writer
	}{s.in, s.out}, "")
	t.AutoCompleteCallback = s.complete
	hist := loadHistory()
	t.History = hist
	parser := syntax.NewParser()
	for {
		text, err := s.read(t, parser)
		if errors.Is(err, io.EOF) {
			fmt.Fprintln(s.out, "exit")
			return s.rc
		}
		if err != nil {
			fmt.Fprintln(s.errw, "sh:", err)
			s.rc = 2
			continue
		}
		hist.save()
		if s.exec(parser, text) {
			return s.rc
		}
	}
}

// read reads lines until they make whole statements.
func (s *session) read(t *term.Terminal, parser *syntax.Parser) (string, error) {
	text := ""
	for {
		if w, h, err := term.GetSize(int(s.in.Fd())); err == nil && w > 0 && h > 0 {
			_ = t.SetSize(w, h) // on failure the old size stays
		}
		host, err := os.Hostname()
		if err != nil {
			host = "?"
		}
		t.SetPrompt("RESCUE " + host + ":" + s.r.Dir + "# ")
		if text != "" {
			t.SetPrompt("> ")
		}
		old, err := term.MakeRaw(int(s.in.Fd()))
		if err != nil {
			return "", io.EOF // no terminal any more
		}
		line, err := t.ReadLine()
		if e := term.Restore(int(s.in.Fd()), old); e != nil && err == nil {
			err = e
		}
		if err != nil {
			return "", io.EOF
		}
		text += line + "\n"
		incomplete := false
		for _, e := range parser.InteractiveSeq(strings.NewReader(text)) {
			err = e
			if incomplete = parser.Incomplete(); incomplete || err != nil {
				break
			}
		}
		if !incomplete {
			return text, err
		}
	}
}

// exec runs the statements; true when the shell is to end. Ctrl-C ends the
// statement, not the shell.
func (s *session) exec(parser *syntax.Parser, text string) bool {
	prog, err := parser.Parse(strings.NewReader(text), "")
	if err != nil {
		fmt.Fprintln(s.errw, "sh:", err)
		s.rc = 2
		return false
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT)
	defer stop()
	for _, st := range prog.Stmts {
		s.rc = status(s.r.Run(ctx, st), s.errw)
		if s.r.Exited() {
			return true
		}
	}
	return false
}

// complete completes the word before the cursor: a command when it is the
// first, a file otherwise.
func (s *session) complete(line string, pos int, key rune) (string, int, bool) {
	if key != '\t' {
		return "", 0, false
	}
	i := strings.LastIndexAny(line[:pos], " |;&") + 1
	w := line[i:pos]
	var m []string
	if strings.TrimSpace(line[:i]) == "" && !strings.Contains(w, "/") {
		for _, d := range filepath.SplitList(os.Getenv("PATH")) {
			g, _ := filepath.Glob(d + "/" + w + "*") // a bad pattern completes nothing
			for _, x := range g {
				m = append(m, filepath.Base(x))
			}
		}
	} else {
		p := w
		if !filepath.IsAbs(w) {
			p = filepath.Join(s.r.Dir, w)
			if strings.HasSuffix(w, "/") || w == "" {
				p += "/"
			}
		}
		g, _ := filepath.Glob(p + "*") // likewise
		for _, x := range g {
			m = append(m, w+x[len(p):])
		}
	}
	if len(m) == 0 {
		return "", 0, false
	}
	slices.Sort(m)
	m = slices.Compact(m)
	pre := m[0]
	for _, x := range m {
		for !strings.HasPrefix(x, pre) {
			pre = pre[:len(pre)-1]
		}
	}
	if len(m) == 1 {
		if st, err := os.Stat(filepath.Join(s.r.Dir, pre)); err == nil && st.IsDir() {
			pre += "/"
		} else {
			pre += " "
		}
	}
	return line[:i] + pre + line[pos:], i + len(pre), true
}

// history implements term.History, newest first, and is kept in a file.
type history struct {
	file  string
	lines []string // oldest first
}

func loadHistory() *history {
	h := &history{file: filepath.Join(os.Getenv("HOME"), ".sh_history")}
	f, err := os.Open(h.file)
	if err != nil {
		return h
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		h.Add(s.Text())
	}
	return h
}

func (h *history) Add(l string) {
	if l == "" || len(h.lines) > 0 && h.lines[len(h.lines)-1] == l {
		return
	}
	h.lines = append(h.lines, l)
	if len(h.lines) > historySize {
		h.lines = h.lines[1:]
	}
}

func (h *history) Len() int        { return len(h.lines) }
func (h *history) At(i int) string { return h.lines[len(h.lines)-1-i] }
func (h *history) save() {
	_ = os.WriteFile(h.file, []byte(strings.Join(h.lines, "\n")+"\n"), 0o600) // the shell works without a history file
}
