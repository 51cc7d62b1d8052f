// Package shell is the rescue system's own shell: mvdan.cc/sh's interpreter
// with line editing, history and completion. It is there when the source
// machine had no bash.
package shell

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
	"mvdan.cc/sh/v3/interp"
	"mvdan.cc/sh/v3/syntax"

	"github.com/mkcdrec/mkcdrec/internal/usage"
)

// Main runs the shell with the arguments of sh(1): -c COMMAND, -s, -e, -u,
// -x, -n, -f, -i, -l, a script with its parameters, or nothing. It returns
// the exit status. optionsOf gives the options of a command, which are completed.
func Main(args []string, stdin *os.File, stdout, stderr io.Writer, optionsOf func(command string) []string) int {
	o, err := parse(args)
	if err != nil {
		fmt.Fprintln(stderr, "sh:", err)
		return 2
	}
	r, err := interp.New(interp.Interactive(o.interactive(stdin)), interp.StdIO(stdin, stdout, stderr), interp.Params(append(append(o.set, "--"), o.params...)...))
	ses := &session{r: r, in: stdin, out: stdout, errw: stderr, optionsOf: optionsOf, width: 80, definitions: map[string]*usage.Command{}}
	if err == nil && o.interactive(stdin) {
		ses.jobs, ses.hist = newJobs(int(stdin.Fd()), stdout), loadHistory()
	}
	if err == nil {
		err = checkPrinters(r, ses)
	}
	if err != nil {
		fmt.Fprintln(stderr, "sh:", err)
		return 2
	}
	if o.interactive(stdin) {
		return ses.run()
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
	r           *interp.Runner
	in          *os.File
	out         io.Writer
	errw        io.Writer
	rc          int
	t           *term.Terminal
	jobs        *jobs // nil without a terminal of its own
	hist        *history
	optionsOf   func(command string) []string
	definitions map[string]*usage.Command
	width       int
	tabs        string // the line at the last tab that found several
	broken      bool   // Ctrl-C was typed
}

const historySize = 500

// Read reads what is typed. Ctrl-C, for which term's ReadLine would end, empties the line.
func (s *session) Read(b []byte) (int, error) {
	n, err := s.in.Read(b[:max(1, len(b)/3)])
	if !bytes.ContainsRune(b[:n], 3) {
		return n, err
	}
	s.broken = true
	const empty = "\x0b\x15\r" // to the end, to the begin, and done
	return copy(b, bytes.ReplaceAll(b[:n], []byte{3}, []byte(empty))), err
}

func (s *session) run() int {
	s.t = term.NewTerminal(struct {
		io.Reader
		io.Writer
	}{s, s.out}, "")
	s.t.AutoCompleteCallback = s.complete
	s.t.History = s.hist
	// What a terminal's keys send is for the jobs. The signals are caught, not ignored, since
	// programs would then ignore them, too.
	caught := make(chan os.Signal, 1)
	signal.Notify(caught, unix.SIGINT, unix.SIGQUIT, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU)
	defer signal.Stop(caught)
	parser := syntax.NewParser()
	warned := false
	for {
		if s.jobs != nil {
			s.jobs.report(false)
		}
		text, err := s.read(s.t, parser)
		ended := errors.Is(err, io.EOF)
		switch {
		case ended:
			fmt.Fprintln(s.out, "exit")
		case err != nil:
			fmt.Fprintln(s.errw, "sh:", err)
			s.rc = 2
			continue
		default:
			s.hist.save()
			ended = s.exec(parser, text)
		}
		if ended && s.jobs != nil && s.jobs.stopped() && !warned {
			fmt.Fprintln(s.errw, "sh: there are stopped jobs; exit again to leave them")
			warned = true
			continue
		}
		if ended {
			return s.rc
		}
		warned = false
	}
}

// read reads lines until they make whole statements.
func (s *session) read(t *term.Terminal, parser *syntax.Parser) (string, error) {
	text := ""
	for {
		if w, h, err := term.GetSize(int(s.in.Fd())); err == nil && w > 0 && h > 0 {
			_ = t.SetSize(w, h) // on failure the old size stays
			s.width = w
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
		if s.broken {
			s.broken, text, s.rc = false, "", 130
			continue
		}
		if err != nil {
			return "", io.EOF
		}
		text += line + "\n"
		incomplete := false
		for _, e := range parser.InteractiveSeq(strings.NewReader(text)) {
			if !incomplete && err == nil { // the sequence can't be left sooner
				err, incomplete = e, parser.Incomplete()
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
		var err error
		broken := false
		if s.jobs != nil {
			broken, err = s.jobs.run(ctx, s.r, st)
		} else {
			err = s.r.Run(ctx, st)
		}
		s.rc = status(err, s.errw)
		if broken || ctx.Err() != nil {
			break
		}
		// One in the background runs elsewhere, and the state is that of the last one.
		if s.r.Exited() && !(s.jobs != nil && st.Background) {
			return true
		}
	}
	return false
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

// text is what history prints.
func (h *history) text() string {
	var b strings.Builder
	for i, l := range h.lines {
		fmt.Fprintf(&b, "%5d  %s\n", i+1, l)
	}
	return b.String()
}

func (h *history) Len() int        { return len(h.lines) }
func (h *history) At(i int) string { return h.lines[len(h.lines)-1-i] }
func (h *history) save() {
	_ = os.WriteFile(h.file, []byte(strings.Join(h.lines, "\n")+"\n"), 0o600) // the shell works without a history file
}
