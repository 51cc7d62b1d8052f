// Package ui prints: progress that moves on a terminal, plain lines
// elsewhere, JSON events for programs. Only commands import it.
package ui

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/mkcdrec/mkcdrec/internal/printable"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
)

// Clean makes text from outside safe to show; see printable.Clean. Anything that
// goes through a Printer, a Table or a Writer is cleaned already.
func Clean(s string) string { return printable.Clean(s) }

// CleanLines is Clean that keeps newlines and tabs.
func CleanLines(s string) string { return printable.CleanLines(s) }

// Mode is how much is printed, and for whom.
type Mode int

// Modes of a Printer.
const (
	Normal Mode = iota
	Quiet       // warnings and errors only
	Verbose
	JSON // one event per line on standard output
)

// Printer implements progress.Reporter. Everything for people goes to w
// (standard error), JSON events to standard output.
type Printer struct {
	mode Mode
	w    io.Writer
	out  io.Writer
	tty  bool
	mu   sync.Mutex
	cur  *phase
	log  io.Writer
	// lost is the first error of writing an event.
	lost error
	// Warnings is the number of calls of Warn.
	Warnings int
}

// New makes a printer for the standard streams. With JSON, a reader of standard
// output that ends does not end the program, in the middle of a restore: Lost has the
// error.
func New(mode Mode) *Printer {
	if mode == JSON {
		KeepRunning()
	}
	return &Printer{mode: mode, w: os.Stderr, out: os.Stdout, tty: term.IsTerminal(2) && os.Getenv("TERM") != "dumb"}
}

// KeepRunning has a reader of the standard streams that ends not end the program, in the middle of a backup or a
// restore: what is written to them fails from then on.
func KeepRunning() {
	signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE) // unlike Ignore, not for programs that are run
}

// Log also writes everything for people to l, without moving progress lines.
func (p *Printer) Log(l io.Writer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.log = l
}

// logf writes a line into the log.
func (p *Printer) logf(format string, args ...any) {
	if p.log != nil {
		fmt.Fprintf(p.log, "%s %s\n", time.Now().UTC().Format("15:04:05"), indent(CleanLines(fmt.Sprintf(format, args...))))
	}
}

// indent makes what follows a newline recognisable as the rest of a message: a
// name can't look like a line of its own.
func indent(s string) string { return strings.ReplaceAll(s, "\n", "\n  ") }

// EventVersion is the version of the events. It rises when a field is removed or changes
// its meaning; readers ignore fields and kinds that they do not know.
const EventVersion = 1

// Event is one JSON line; fields that do not apply are left out.
type Event struct {
	Version int       `json:"version"` // EventVersion
	Time    time.Time `json:"time"`
	Event   string    `json:"event"`          // phase, progress, done, note, warning, error, result
	Kind    string    `json:"kind,omitempty"` // of the data of a result
	Phase   string    `json:"phase,omitempty"`
	Message string    `json:"message,omitempty"`
	Item    string    `json:"item,omitempty"`
	Bytes   int64     `json:"bytes,omitempty"`
	Total   int64     `json:"total,omitempty"`
	Seconds float64   `json:"seconds,omitempty"`
	Data    any       `json:"data,omitempty"`
	// Waits are what the work waited for, as shares that add up to 1: "read",
	// "write", "processor".
	Waits map[string]float64 `json:"waits,omitempty"`
}

// Hint is the data of an error.
type Hint struct {
	Hint string `json:"hint"` // what may be done about it, "" if unknown
}

// Line gives an event as a line of JSON, with version and time.
func (e Event) Line() ([]byte, error) {
	e.Version, e.Time = EventVersion, time.Now().UTC()
	b, err := json.Marshal(e)
	return append(printable.JSON(b), '\n'), err
}

// event writes a line; the printer is locked.
func (p *Printer) event(e Event) {
	b, err := e.Line()
	if err == nil {
		_, err = p.out.Write(b)
	}
	if err != nil && p.lost == nil {
		p.lost = err
	}
}

// Lost returns the first error of writing events: the program that reads them does not
// have all.
func (p *Printer) Lost() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lost == nil {
		return nil
	}
	return fmt.Errorf("cannot write to standard output: %w", p.lost)
}

type phase struct {
	p     *Printer
	name  string
	total int64
	start time.Time
	bytes atomic.Int64
	item  atomic.Pointer[string]
	waits atomic.Pointer[[3]float64] // shares of read, write, processor
	done  chan struct{}
}

func (f *phase) Add(n int64)      { f.bytes.Add(n) }
func (f *phase) Item(name string) { f.item.Store(&name) }

// Waits implements progress.Waiter.
func (f *phase) Waits(read, write, processor float64) {
	f.waits.Store(&[3]float64{read, write, processor})
}

// bottleneck is ", 78 % waiting to write": what the work waits for most. It is
// empty where it is unknown.
func (f *phase) bottleneck() string {
	w := f.waits.Load()
	if w == nil {
		return ""
	}
	what, most := "", 0.0
	for i, s := range []string{"waiting to read", "waiting to write", "computing"} {
		if w[i] > most {
			what, most = s, w[i]
		}
	}
	if what == "" {
		return ""
	}
	return fmt.Sprintf(", %.0f %% %s", 100*most, what)
}

// Phase implements progress.Reporter.
func (p *Printer) Phase(name string, total int64) progress.Counter {
	p.End()
	f := &phase{p: p, name: Clean(name), total: total, start: time.Now(), done: make(chan struct{})}
	p.mu.Lock()
	p.cur = f
	switch {
	case p.mode == JSON:
		p.event(Event{Event: "phase", Phase: f.name, Total: total})
	case p.mode != Quiet && !p.tty:
		fmt.Fprintf(p.w, "%s ...\n", f.name)
	}
	p.mu.Unlock()
	if p.mode != Quiet {
		go f.tick()
	}
	return f
}

func (f *phase) tick() {
	every := 10 * time.Second
	if f.p.mode == JSON {
		every = time.Second
	} else if f.p.tty {
		every = 200 * time.Millisecond
	}
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-f.done:
			return
		case <-t.C:
			f.p.mu.Lock()
			f.show()
			f.p.mu.Unlock()
		}
	}
}

// show prints where the phase is; the printer is locked.
func (f *phase) show() {
	n := f.bytes.Load()
	if f.p.mode == JSON {
		e := Event{Event: "progress", Phase: f.name, Bytes: n, Total: f.total, Seconds: time.Since(f.start).Seconds()}
		if w := f.waits.Load(); w != nil {
			e.Waits = map[string]float64{"read": w[0], "write": w[1], "processor": w[2]}
		}
		if i := f.item.Load(); i != nil {
			e.Item = *i // exact, for programs; event makes it safe to show
		}
		f.p.event(e)
		return
	}
	line := f.name + " " + f.text(n) + f.bottleneck()
	if f.p.tty {
		w := 0
		if n, _, err := term.GetSize(2); err == nil {
			w = n
		}
		if r := []rune(line); len(r) >= w && w > 10 {
			line = string(r[:w-1])
		}
		fmt.Fprintf(f.p.w, "\r\x1b[K%s", line)
		return
	}
	fmt.Fprintln(f.p.w, line)
}

// text is "1.2 GiB of 3.0 GiB, 40 %, 210.0 MiB/s, 9 s left". A total that was too small, as the
// used bytes of a compressed file system are, is left out.
func (f *phase) text(n int64) string {
	el := time.Since(f.start)
	if n == 0 && f.total == 0 {
		return fmt.Sprintf("... %.0f s", el.Seconds())
	}
	s := quantity.Size(n).String()
	rate := float64(n) / max(el.Seconds(), 1e-3)
	if f.total >= max(n, 1) {
		s += fmt.Sprintf(" of %s, %d %%", quantity.Size(f.total), int(float64(n)/float64(f.total)*100))
		if rate > 0 && n < f.total && el > time.Second {
			s += fmt.Sprintf(", %s/s, %s left", quantity.Size(rate), time.Duration(float64(f.total-n)/rate*float64(time.Second)).Round(time.Second))
			return s
		}
	}
	return s + fmt.Sprintf(", %s/s", quantity.Size(rate))
}

// End ends the current phase, if any.
func (p *Printer) End() {
	p.mu.Lock()
	defer p.mu.Unlock()
	f := p.cur
	if f == nil {
		return
	}
	p.cur = nil
	close(f.done)
	el := time.Since(f.start)
	p.logf("%s: %s in %.1f s", f.name, quantity.Size(f.bytes.Load()), el.Seconds())
	switch {
	case p.mode == JSON:
		p.event(Event{Event: "done", Phase: f.name, Bytes: f.bytes.Load(), Seconds: el.Seconds()})
	case p.mode == Quiet:
	default:
		p.clear()
		if n := f.bytes.Load(); n > 0 {
			fmt.Fprintf(p.w, "%s: %s in %.1f s, %s/s\n", f.name, quantity.Size(n), el.Seconds(), quantity.Size(float64(n)/max(el.Seconds(), 1e-3)))
		} else {
			fmt.Fprintf(p.w, "%s: %.1f s\n", f.name, el.Seconds())
		}
	}
}

func (p *Printer) clear() {
	if p.tty {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}

func (p *Printer) line(kind, prefix, format string, args []any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	msg := CleanLines(fmt.Sprintf(format, args...))
	p.logf("%s%s", prefix, msg)
	if p.mode == JSON {
		p.event(Event{Event: kind, Message: msg})
		return
	}
	p.clear()
	fmt.Fprintf(p.w, "%s%s\n", prefix, indent(msg))
}

// Note implements progress.Reporter.
func (p *Printer) Note(format string, args ...any) {
	if p.mode != Quiet {
		p.line("note", "", format, args)
	}
}

// Detail is a note for -v only.
func (p *Printer) Detail(format string, args ...any) {
	if p.mode == Verbose || p.mode == JSON {
		p.line("note", "", format, args)
	}
}

// Warn implements progress.Reporter.
func (p *Printer) Warn(format string, args ...any) {
	p.Warnings++
	p.line("warning", "warning: ", format, args)
}

// Error prints the final error of the command.
func (p *Printer) Error(name string, err error, hint string) {
	p.End()
	p.logf("%s: %v", name, err)
	if p.mode == JSON {
		p.locked(Event{Event: "error", Message: CleanLines(err.Error()), Data: Hint{hint}})
		return
	}
	fmt.Fprintf(p.w, "%s: %s\n", name, indent(CleanLines(err.Error())))
	if hint != "" {
		fmt.Fprintf(p.w, "%s: hint: %s\n", name, indent(CleanLines(hint)))
	}
}

// Plain prints an error for people, in any mode: when events don't arrive.
func (p *Printer) Plain(name string, err error) {
	fmt.Fprintf(p.w, "%s: %s\n", name, indent(CleanLines(err.Error())))
}

// Result prints the command's result, or one part of it, for a program. kind names the type
// of data; internal/reference knows them all.
func (p *Printer) Result(kind string, data any) {
	p.End()
	if p.mode == JSON {
		p.locked(Event{Event: "result", Kind: kind, Data: data})
	}
}

func (p *Printer) locked(e Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.event(e)
}

// Table prints rows under a heading with aligned columns. What is in the cells
// is cleaned.
func Table(w io.Writer, head []string, rows [][]string) {
	clean := make([][]string, len(rows))
	for i, r := range rows {
		for _, c := range r {
			clean[i] = append(clean[i], Clean(c))
		}
	}
	rows = clean
	width := make([]int, len(head))
	for _, r := range append([][]string{head}, rows...) {
		for i, c := range r {
			width[i] = max(width[i], len([]rune(c)))
		}
	}
	for _, r := range append([][]string{head}, rows...) {
		var b strings.Builder
		for i, c := range r {
			b.WriteString(c)
			if i < len(r)-1 {
				b.WriteString(strings.Repeat(" ", width[i]-len([]rune(c))+2))
			}
		}
		fmt.Fprintln(w, strings.TrimRight(b.String(), " "))
	}
}
