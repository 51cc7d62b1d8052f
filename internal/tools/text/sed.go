package text

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/tools"
)

func sedCommands() []tools.Command {
	return []tools.Command{{Name: "sed", Opts: "n/quiet/silent e/expression: f/file: E/r/regexp-extended i/in-place? s/separate z/null-data u/unbuffered l/line-length: b/binary sandbox follow-symlinks", Synopsis: "{SCRIPT | -e SCRIPT | -f FILE} [INPUT]...", Run: sed}}
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
	table    map[string]string
	active   bool // within its range
	end      int  // last line of the range, if that is known
}

// part is a piece of a replacement: text, a group, or a change of case.
type part struct {
	text  string
	group int // -1: text
	fold  byte
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
	wrap   int // length of the lines of l; 0 and 1 do not wrap
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
	p := &sedParser{s: strings.Join(texts, "\n"), labels: map[string]int{}, extended: e.On("E"), sandbox: e.On("sandbox")}
	if err := p.parse(); err != nil {
		return fmt.Errorf("-e expression #1, char %d: %w", p.i, err)
	}
	wrap, err := e.Int("l", 70)
	if err != nil || wrap < 0 {
		return fmt.Errorf("invalid line length '%s'", e.Val("l"))
	}
	r := &sedRun{Env: e, wrap: wrap, script: p.out, w: e.Out, end: e.End("z"), files: map[string]*os.File{}}
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
	if real, err := filepath.EvalSymlinks(name); r.On("follow-symlinks") && err == nil {
		name = real
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
	f, err := tools.Replace(name)
	if err != nil {
		return false, fmt.Errorf("couldn't open temporary file: %s", tools.Cause(err))
	}
	defer f.Discard()
	r.w = bufio.NewWriter(f)
	quit, err = r.run([]string{name})
	if quit && r.in.br != nil { // the rest of the file stays as it is
		_, e := io.WriteString(r.w, map[bool]string{true: r.in.next}[r.in.ok])
		_, e2 := r.in.br.WriteTo(r.w)
		err = errors.Join(e, e2)
	}
	if e := r.w.Flush(); err == nil {
		err = e
	}
	var status tools.Status
	if err != nil && !errors.As(err, &status) {
		return quit, err
	}
	backup := ""
	if suffix := r.Val("i"); strings.Contains(suffix, "*") {
		backup = strings.ReplaceAll(suffix, "*", name)
	} else if suffix != "" {
		backup = name + suffix
	}
	return quit, errors.Join(err, f.Commit(backup))
}
