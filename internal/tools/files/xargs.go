package files

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/tools"
)

// xargsRun starts commands with the words that were read.
type xargsRun struct {
	*tools.Env
	argv []string
	slot chan struct{}
	done chan int
	left int
	rc   int

	most, chars, lines int // words, bytes and lines of one command line
}

func xargs(e *tools.Env) error {
	x := &xargsRun{Env: e, argv: e.Args, done: make(chan int)}
	if len(x.argv) == 0 {
		x.argv = []string{"echo"}
	}
	var procs int
	var errs [4]error
	x.most, errs[0] = e.Int("n", 1<<30)
	procs, errs[1] = e.Int("P", 1)
	x.chars, errs[2] = e.Int("s", 120<<10)
	x.lines, errs[3] = e.Int("L", 0)
	if err := errors.Join(errs[:]...); err != nil || x.most < 1 {
		return fmt.Errorf("invalid number for an option")
	}
	for _, a := range x.argv {
		x.chars -= len(a) + 1
	}
	if procs == 0 {
		procs = 1 << 10
	}
	x.slot = make(chan struct{}, procs)
	in := e.In
	if a := e.Val("a"); a != "" {
		r, err := e.Open(a)
		if err != nil {
			return err
		}
		defer r.Close()
		in = r
	}
	groups, err := words(e, in)
	if err != nil {
		return err
	}
	if e.On("I", "i") {
		x.replace(groups)
	} else {
		x.append(groups)
	}
	for x.left > 0 {
		x.take()
	}
	if x.rc != 0 {
		return tools.Status(x.rc)
	}
	return nil
}

// replace runs the command once for each line, which replaces {}.
func (x *xargsRun) replace(groups [][]string) {
	mark, _ := x.Last("I", "i")
	if mark.Value == "" {
		mark.Value = "{}"
	}
	for _, g := range groups {
		argv := make([]string, len(x.argv))
		for i, a := range x.argv {
			argv[i] = strings.ReplaceAll(a, mark.Value, strings.TrimLeft(strings.Join(g, " "), " \t"))
		}
		x.start(argv)
	}
}

// append runs the command with as many words behind it as it may have.
func (x *xargsRun) append(groups [][]string) {
	var batch []string
	size, taken, ran := 0, 0, false
	run := func() {
		x.start(append(x.argv[:len(x.argv):len(x.argv)], batch...))
		batch, size, taken, ran = nil, 0, 0, true
	}
	for _, g := range groups {
		for _, w := range g {
			if len(batch) > 0 && (len(batch) >= x.most || size+len(w)+1 > x.chars) {
				run()
			}
			batch, size = append(batch, w), size+len(w)+1
		}
		if taken++; taken == x.lines {
			run()
		}
	}
	if len(batch) > 0 || !ran && !x.On("r") {
		run()
	}
}

// start runs a command, after another one ended where -P asks for that.
func (x *xargsRun) start(argv []string) {
	if x.rc == 124 || x.rc > 125 {
		return
	}
	if x.On("t") {
		fmt.Fprintln(x.Err, strings.Join(argv, " "))
	}
	if x.On("p") && !tools.Confirm(x.Env, "%s ?...", strings.Join(argv, " ")) {
		return
	}
	if x.left == cap(x.slot) {
		x.take()
	}
	c := exec.Command(argv[0], argv[1:]...)
	c.Stdout, c.Stderr = os.Stdout, x.Err
	x.left++
	go func() {
		err := c.Run()
		var bad *exec.ExitError
		switch {
		case err == nil:
			x.done <- 0
		case !errors.As(err, &bad):
			rc := 126
			if errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist) {
				rc = 127
				err = unix.ENOENT
			}
			fmt.Fprintf(x.Err, "xargs: %s: %s\n", argv[0], tools.Cause(err))
			x.done <- rc
		case bad.ExitCode() == 255:
			fmt.Fprintf(x.Err, "xargs: %s: exited with status 255; aborting\n", argv[0])
			x.done <- 124
		case bad.ExitCode() < 0:
			x.done <- 125
		default:
			x.done <- 123
		}
	}()
	if cap(x.slot) == 1 {
		x.take()
	}
}

func (x *xargsRun) take() {
	x.rc = max(x.rc, <-x.done)
	x.left--
}

// words reads the words of each line: blanks divide, quotes and backslashes keep together.
// With -0 or -d each piece is a word, with -I each line.
func words(e *tools.Env, in io.Reader) ([][]string, error) {
	sep, whole := byte('\n'), e.On("I", "i")
	if o, ok := e.Last("0", "d"); ok {
		whole = true
		if sep = 0; o.Name == "d" {
			sep, _ = delimiter(o.Value)
		}
	}
	stop := e.Val("E")
	if stop != "" && e.On("0", "d") {
		fmt.Fprintln(e.Err, "xargs: warning: the -E option has no effect if -0 or -d is used.")
		stop = ""
	}
	var out [][]string
	var open []string
	for l, err := range tools.Lines(in, sep) {
		if err != nil {
			return nil, err
		}
		s := string(tools.Chomp(l, sep))
		if whole {
			if stop != "" && s == stop {
				break
			}
			if sep != '\n' || strings.TrimSpace(s) != "" || e.On("d") {
				out = append(out, []string{s})
			}
			continue
		}
		w, err := split(s)
		if err != nil {
			return nil, err
		}
		end := slices.Index(w, stop)
		if stop != "" && end >= 0 {
			open = append(open, w[:end]...)
			break
		}
		if open = append(open, w...); len(open) > 0 && !strings.HasSuffix(s, " ") {
			out = append(out, open)
			open = nil
		}
	}
	if len(open) > 0 {
		out = append(out, open)
	}
	return out, nil
}

func delimiter(s string) (byte, bool) {
	s = unescapeFormat(s)
	if s == "" {
		return 0, false
	}
	return s[0], true
}

func split(s string) ([]string, error) {
	var out []string
	var b strings.Builder
	open, quote := false, byte(0)
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case quote != 0 && c == quote:
			quote = 0
		case quote != 0:
			b.WriteByte(c)
		case c == '\'' || c == '"':
			quote, open = c, true
		case c == '\\' && i+1 < len(s):
			i++
			b.WriteByte(s[i])
			open = true
		case c == ' ' || c == '\t':
			if open {
				out = append(out, b.String())
			}
			b.Reset()
			open = false
		default:
			b.WriteByte(c)
			open = true
		}
	}
	if quote != 0 {
		return nil, fmt.Errorf("unmatched %s quote; by default quotes are special to xargs unless you use the -0 option", map[byte]string{'"': "double", '\'': "single"}[quote])
	}
	if open {
		out = append(out, b.String())
	}
	return out, nil
}
