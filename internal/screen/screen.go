// Package screen asks the questions of a restore or a clone at a terminal.
package screen

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"golang.org/x/term"

	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/interrupt"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/plan"
	"github.com/mkcdrec/mkcdrec/internal/recreate"
	"github.com/mkcdrec/mkcdrec/internal/rescue"
	"github.com/mkcdrec/mkcdrec/internal/restore"
	"github.com/mkcdrec/mkcdrec/internal/tool"
	"github.com/mkcdrec/mkcdrec/internal/ui"
)

// Screen is the person's side of a restore or clone.
type Screen struct {
	*ui.Printer
	ctx context.Context
	// In is shared by all questions: input of a pipe for the second one must not be
	// lost in the buffer of the first.
	In *bufio.Reader
	// chosen are the answers to Choose, by old disk: the menu plans more than once.
	chosen map[string]string
	file   *os.File // what In reads
	out    *os.File
}

// Printer makes the printer of a command, which also writes the rescue system's log until
// end is called.
func Printer(asJSON, verbose bool) (p *ui.Printer, end func()) {
	mode := ui.Normal
	if asJSON {
		mode = ui.JSON
	} else if verbose {
		mode = ui.Verbose
	}
	p = ui.New(mode)
	if rescue.Inside() && os.Getenv(rescue.LoggedEnv) == "" {
		if l, err := os.OpenFile(rescue.LogFile, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600); err == nil {
			p.Log(l)
			return p, func() { l.Close() }
		}
	}
	return p, func() {}
}

// New makes a screen for a printer, which asks on out and reads answers from in. Waits for
// answers end with ctx.
func New(ctx context.Context, p *ui.Printer, in, out *os.File) Screen {
	return Screen{p, ctx, Lines(ctx, in), map[string]string{}, in, out}
}

// Lines reads lines from a terminal or pipe; waits end with ctx.
func Lines(ctx context.Context, in io.Reader) *bufio.Reader {
	return bufio.NewReader(&lines{ctx: ctx, in: interrupt.NewLines(in)})
}

// lines is a reader of lines whose waits end with ctx.
type lines struct {
	ctx  context.Context
	in   *interrupt.Lines
	rest string
	err  error
}

func (l *lines) Read(p []byte) (int, error) {
	if l.rest == "" && l.err == nil {
		l.rest, l.err = l.in.ReadLine(l.ctx)
	}
	n := copy(p, l.rest)
	if l.rest = l.rest[n:]; l.rest == "" && n == 0 {
		return 0, l.err
	}
	return n, nil
}

// Plan shows what will be done.
func (s Screen) Plan(p *plan.Plan, c restore.Content) {
	s.End()
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\n", ui.Clean(c.Name()))
	ui.DrawPlan(&b, p, c.Layout())
	s.Note("%s", b.String())
}

// Secret reads a line from the terminal, which does not show it.
func (s Screen) Secret(prompt string) ([]byte, error) {
	s.End()
	if !term.IsTerminal(int(s.file.Fd())) {
		return nil, errors.New("standard input is not a terminal")
	}
	fmt.Fprint(s.out, prompt)
	defer fmt.Fprintln(s.out)
	return interrupt.Secret(s.ctx, int(s.file.Fd()))
}

// Choose shows the disks that are possible, and asks until it is one of them.
func (s Screen) Choose(u *plan.Undecided) (string, error) {
	s.End()
	name, ok := s.chosen[u.Old.Name]
	if ok && slices.ContainsFunc(u.Among, func(p layout.Present) bool { return p.Name == name }) {
		return name, nil
	}
	name, err := choose(s.In, s.out, u)
	if err == nil {
		s.chosen[u.Old.Name] = name
	}
	return name, err
}

func choose(in *bufio.Reader, out io.Writer, u *plan.Undecided) (string, error) {
	fmt.Fprintf(out, "\nWhich disk takes the place of %s, serial %s, %s? It needs %s at least.\n", ui.Clean(u.Old.Name), ui.Clean(cmp.Or(u.Old.Serial, "unknown")), u.Old.Size, u.Least)
	rows := [][]string{}
	for i, p := range u.Among {
		rows = append(rows, []string{fmt.Sprint(i + 1), "/dev/" + p.Name, p.Size.String(), cmp.Or(p.Model, "-"), cmp.Or(p.Serial, "-"), p.Holds})
	}
	ui.Table(out, []string{"", "DISK", "SIZE", "MODEL", "SERIAL", "HOLDS NOW"}, rows)
	for {
		fmt.Fprint(out, "Its number, name or serial number (nothing gives up): ")
		line, err := in.ReadString('\n')
		if line = strings.TrimSpace(line); line == "" {
			if err != nil {
				fmt.Fprintln(out)
			}
			return "", errors.New("no disk chosen")
		}
		name := strings.TrimPrefix(line, "/dev/")
		for i, p := range u.Among {
			if line == fmt.Sprint(i+1) || name == p.Name || p.Serial == line || p.WWN == line {
				return p.Name, nil
			}
		}
		fmt.Fprintf(out, "%q is not one of them\n", line)
	}
}

// confirmTries is how often a serial number may be typed.
const confirmTries = 3

// Confirm asks for every disk's serial number, or its WWN or slot where that is not
// the disk's alone. One that is wrong may be typed again, twice.
func (s Screen) Confirm(p *plan.Plan) ([]string, error) {
	var said []string
	for _, d := range p.Disks {
		line, err := confirm(s.In, s.out, d)
		if err != nil {
			return nil, err
		}
		said = append(said, line)
	}
	return said, nil
}

func confirm(in *bufio.Reader, out io.Writer, d plan.Disk) (string, error) {
	wrong, tries := "", confirmTries
	if d.Word() == "" {
		tries = 1 // no word is right
	}
	for left := tries - 1; left >= 0; left-- {
		fmt.Fprintf(out, "To overwrite /dev/%s, type %s: ", d.New.Name, ui.Clean(d.Ask()))
		line, err := in.ReadString('\n')
		if err != nil && (err != io.EOF || line == "") {
			if wrong == "" {
				return "", &exit.Refusal{Reason: "nobody confirmed it"}
			}
			break
		}
		if line = strings.TrimSpace(line); d.Is(line) {
			return line, nil
		}
		if wrong = line; left > 0 {
			fmt.Fprintf(out, "%q is not it; nothing was changed. Tries that are left: %d\n", line, left)
		}
	}
	return "", &exit.Refusal{Reason: fmt.Sprintf("%q does not confirm /dev/%s; nothing was changed", wrong, d.New.Name)}
}

// Interrupted names the signal as the cause of what failed after it: a program that was
// killed with it, a question without an answer.
func Interrupted(ctx context.Context, err error) error {
	if err == nil || ctx.Err() == nil || interrupt.Is(err) || exit.Code(err) == exit.Partial {
		return err
	}
	return fmt.Errorf("%w: %w", context.Cause(ctx), err)
}

// Lacking is the error of a restore that is done, but not of everything that the old
// machine had.
func Lacking(rep *restore.Report) error {
	what := slices.Clone(rep.NotCovered)
	for _, x := range rep.Problems {
		what = append(what, x.String())
	}
	if len(what) == 0 {
		return nil
	}
	return exit.NotCovered(what)
}

// Hint is what to do after an error of the command, or "".
func Hint(err error, command string, dry bool) string {
	var r *exit.Refusal
	var se *recreate.StepError
	var te *tool.Error
	var un *restore.Untouched
	switch {
	case errors.As(err, &un):
		return "no disk was touched"
	case errors.As(err, &r) && !errors.As(err, &se):
		return "no disk was touched"
	case dry && (errors.As(err, &se) || errors.As(err, &te)):
		return "no disk was touched; `" + command + " --dry-run --resume` continues it"
	case errors.As(err, &se), errors.As(err, &te):
		return "the journal is in " + rescue.StateDir + "/journal.jsonl; fix the cause, then run `" + command + " --resume` with the same options"
	}
	return ""
}
