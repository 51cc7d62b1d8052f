// Package client is a machine's side of a fleet: in the rescue system it registers with
// the server that the kernel command line names, waits until it is released, runs
// restore, and reports how far it is. It begins nothing that the server has not ordered,
// and nothing on a disk that is not here with the serial number that the order names.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/fleet"
	"github.com/mkcdrec/mkcdrec/internal/printable"
)

// Config is what a client needs.
type Config struct {
	// Server is where to register, Fingerprint the SHA-256 of its certificate in hex.
	Server, Fingerprint string
	// Facts describes this machine.
	Facts func(ctx context.Context) (*fleet.Registration, error)
	// Run runs restore with arguments. Each line of its standard output, a JSON event, is
	// given to event. It returns the exit status and the end of what it wrote to its
	// standard error; an error is one of starting it.
	Run func(ctx context.Context, args []string, event func(line []byte)) (code int, text string, err error)
	// Source makes a job's set readable for restore; nil reads it from the server.
	Source Source
	// Swarm is the program that gets sets from other machines, "" for none, and Target
	// where restore mounts the new file systems: the pieces of the set are kept there.
	Swarm, Target string
	// Stop restarts the machine or switches it off: "reboot" or "poweroff".
	Stop func(how string) error
	// Say is told what a person at the machine should know.
	Say func(format string, args ...any)

	// pause is the shortest time between two attempts, and giveUp how long the end of a
	// job is reported before the machine continues without; tests have others.
	pause, giveUp time.Duration
}

// Source makes the set of a job readable.
type Source interface {
	// Open begins. tell has lines for the server's page and the machine's screen, with
	// "note" or "warning" as level.
	Open(ctx context.Context, job *fleet.Job, tell func(level, text string)) (*Opened, error)
}

// Opened is a set that restore can read.
type Opened struct {
	// Place is what restore is given: a directory, or a URL. Options are for restore, too.
	Place   string
	Options []string
	// Stop is called when restore has ended.
	Stop func()
}

// Client is a machine in a room.
type Client struct {
	cfg Config
	api *api
	reg *fleet.Registration
}

// New checks where the server is.
func New(c Config) (*Client, error) {
	a, err := newAPI(c.Server, c.Fingerprint)
	if err != nil {
		return nil, err
	}
	if c.pause == 0 {
		c.pause = time.Second
	}
	if c.giveUp == 0 {
		c.giveUp = 10 * time.Minute
	}
	if c.Source == nil {
		c.Source = &direct{api: a, program: c.Swarm, target: c.Target}
	}
	return &Client{cfg: c, api: a}, nil
}

// backoff waits before the n-th further attempt, at most half a minute; machines that
// lost their server together do not return together.
func (c *Client) backoff(ctx context.Context, n int) error {
	d := min(c.cfg.pause<<min(n, 5), 30*c.cfg.pause)
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d/2 + rand.N(d)):
		return nil
	}
}

// unanswered waits after n attempts before this one; the first is reported.
func (c *Client) unanswered(ctx context.Context, n int, err error) error {
	if n == 0 {
		c.cfg.Say("the server does not answer, asking again: %v", err)
	}
	return c.backoff(ctx, n)
}

// interrupted reports that a client before this one ended while restore ran; it waits if the server does not answer.
func (c *Client) interrupted(ctx context.Context) error {
	err := c.report(ctx, &fleet.Report{End: &fleet.End{Code: 1, Error: "the client ended while restore ran, and was started again; look at the machine's screen"}})
	if err == nil {
		return nil
	}
	c.cfg.Say("%v", err)
	return c.backoff(ctx, 3)
}

// Join registers and carries orders out until ctx ends or the machine is stopped.
func (c *Client) Join(ctx context.Context) error {
	if err := c.register(ctx); err != nil {
		return err
	}
	known, said := fleet.State(""), ""
	for n := 0; ; {
		var o fleet.Order
		err := c.api.do(ctx, http.MethodGet, "/v1/order?known="+url.QueryEscape(string(known)), nil, &o)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, errToken):
			if err := c.register(ctx); err != nil {
				return err
			}
			known = ""
			continue
		case err != nil:
			if err := c.unanswered(ctx, n, err); err != nil {
				return err
			}
			n++
			continue
		}
		n = 0
		if s := orderText(o); s != said && o.State != fleet.Working {
			c.cfg.Say("%s", s)
			said = s
		}
		known = o.State
		switch o.State {
		case fleet.Released:
			stopped, err := c.work(ctx, o.Job)
			if err != nil || stopped {
				return err
			}
			known, said = "", ""
		case fleet.Working: // and it is not we who work
			if err := c.interrupted(ctx); err != nil {
				return err
			}
			known = ""
		}
	}
}

// orderText is for the machine's screen.
func orderText(o fleet.Order) string {
	s := map[fleet.State]string{
		fleet.Registered: "registered; waiting to be released on the server's page",
		fleet.Held:       "held on the server's page; nothing is done",
		fleet.Released:   "released",
		fleet.Done:       "this machine is restored; it is not restored again unless it is released again",
		fleet.Failed:     "the last job failed; waiting for a retry on the server's page",
	}[o.State]
	if o.Text != "" {
		s += ": " + printable.Short(o.Text, 300)
	}
	return s
}

// register enters the room, as often as it takes.
func (c *Client) register(ctx context.Context) error {
	last := ""
	for n := 0; ; n++ {
		reg, err := c.cfg.Facts(ctx)
		if err == nil {
			c.reg = reg
			var out struct {
				MAC   string      `json:"mac"`
				Token string      `json:"token"`
				State fleet.State `json:"state"`
			}
			if err = c.api.do(ctx, http.MethodPost, "/v1/register", reg, &out); err == nil {
				c.api.setToken(out.Token)
				c.cfg.Say("registered at %s as %s, serial number %q", c.cfg.Server, reg.MAC, reg.Serial)
				return nil
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if s := err.Error(); s != last {
			c.cfg.Say("cannot register, trying again: %v", err)
			last = s
		}
		if err := c.backoff(ctx, n); err != nil {
			return err
		}
	}
}

// mapsTo reports whether m is OLD=w, with one disk of the set as OLD.
func mapsTo(m, w string) bool {
	old, word, ok := strings.Cut(m, "=")
	return ok && old != "" && word == w && !strings.Contains(old, ",")
}

// check refuses a job that this machine should not do, whoever ordered it.
func (c *Client) check(j *fleet.Job) error {
	if j == nil || len(j.Confirm) == 0 || len(j.Map) != len(j.Confirm) {
		return errors.New("the order names no disks")
	}
	if !fleet.ValidSetName(j.Set) {
		return errors.New("the order names no set")
	}
	words := c.reg.Words()
	for i, w := range j.Confirm {
		if w == "" || !slices.Contains(words, w) {
			return fmt.Errorf("the order is for a disk with serial number %q, which is not here", printable.Short(w, 100))
		}
		if !mapsTo(j.Map[i], w) {
			return errors.New("the order maps another disk than it confirms")
		}
	}
	if !slices.Contains([]string{fleet.Reboot, fleet.PowerOff, fleet.Shell}, j.After) || !slices.Contains([]string{"", "keep", "new"}, j.Identity) || j.Hostname != "" && !fleet.ValidHostname(j.Hostname) || !j.Swarm.Valid() {
		return errors.New("the order has words that are not known")
	}
	return nil
}

// work carries a job out. It reports whether the machine is being stopped.
func (c *Client) work(ctx context.Context, j *fleet.Job) (stopped bool, err error) {
	if err := c.until(ctx, &fleet.Report{Begin: true}, c.cfg.giveUp); err != nil {
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
		c.cfg.Say("the job is not begun: %v", err)
		return false, c.backoff(ctx, 0)
	}
	if err := c.check(j); err != nil {
		c.cfg.Say("refused: %v", err)
		return false, c.until(ctx, &fleet.Report{End: &fleet.End{Code: 4, Error: "refused: " + err.Error()}}, c.cfg.giveUp)
	}
	c.cfg.Say("restoring set %s (of %s) onto the disk with serial number %s", j.Set, printable.Short(j.Host, 100), strings.Join(j.Confirm, ", "))
	last := c.run(ctx, j)
	end := last.End
	if ctx.Err() != nil {
		end.Code, end.Error = 1, "the rescue system was stopped while restore ran"
		late, stop := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
		defer stop()
		_ = c.report(late, last) // the machine stops, told or not
		return false, ctx.Err()
	}
	if err := c.until(ctx, last, c.cfg.giveUp); err != nil {
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
		c.cfg.Say("the server was not told how it ended: %v", err)
	}
	switch {
	case end.Code != 0 && end.Code != 3:
		c.cfg.Say("RESTORE FAILED: %s", end.Error)
		return false, nil
	case end.Code == 3:
		c.cfg.Say("RESTORE DONE, but not everything is restored: %s", end.Error)
	default:
		c.cfg.Say("RESTORE DONE")
	}
	if j.After == fleet.Shell {
		return false, nil
	}
	return true, c.cfg.Stop(j.After)
}

// until reports until the server has it, refuses it, or the time is over.
func (c *Client) until(ctx context.Context, r *fleet.Report, limit time.Duration) error {
	end := time.Now().Add(limit)
	for n := 0; ; n++ {
		err := c.report(ctx, r)
		if err == nil || ctx.Err() != nil || errors.Is(err, errToken) || errors.As(err, new(refused)) || time.Now().After(end) {
			return err
		}
		if err := c.backoff(ctx, n); err != nil {
			return err
		}
	}
}

func (c *Client) report(ctx context.Context, r *fleet.Report) error {
	return c.api.do(ctx, http.MethodPost, "/v1/report", r, nil)
}

// run runs restore, and reports meanwhile. It returns the last report, with the end and
// the lines that did not arrive yet.
func (c *Client) run(ctx context.Context, j *fleet.Job) *fleet.Report {
	t := &teller{say: c.cfg.Say}
	set, err := c.cfg.Source.Open(ctx, j, t.line)
	if err != nil {
		return &fleet.Report{End: &fleet.End{Code: 1, Error: err.Error()}}
	}
	defer set.Stop()
	rctx, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { t.follow(rctx, c) })
	args := append([]string{"--json", "--yes"}, j.Options()...)
	args = append(args, set.Options...)
	code, text, err := c.cfg.Run(ctx, append(args, set.Place), t.event)
	stop()
	wg.Wait()
	last := t.all()
	if err != nil {
		last.End = &fleet.End{Code: 1, Error: "cannot run restore: " + err.Error()}
		return last
	}
	end := &fleet.End{Code: code}
	if code != 0 {
		end.Error = t.lastError()
		if end.Error == "" {
			end.Error = lastLine(text)
		}
		end.Error = printable.Short(end.Error, 1000)
	}
	last.End = end
	return last
}

func lastLine(s string) string {
	l := strings.Split(strings.TrimSpace(s), "\n")
	return strings.TrimSpace(l[len(l)-1])
}

// maxPending is how many lines are kept for a server that does not answer.
const maxPending = 500

// teller turns restore's events into reports.
type teller struct {
	say func(string, ...any)

	mu      sync.Mutex
	now     fleet.Report
	done    int64 // bytes of the phases that are over
	changed bool
	failed  string
}

// line takes a line that is not restore's.
func (t *teller) line(level, text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.changed = true
	t.add(level, text)
}

func (t *teller) add(level, text string) {
	t.say("%s%s", map[string]string{"warning": "warning: ", "error": "error: "}[level], printable.CleanLines(text))
	if len(t.now.Lines) >= maxPending {
		t.now.Lines = t.now.Lines[1:]
	}
	t.now.Lines = append(t.now.Lines, fleet.Line{Level: level, Text: printable.Short(text, 400)})
}

// event takes a line of restore's. What is not an event is left out.
func (t *teller) event(line []byte) {
	var e struct {
		Event, Phase, Message string
		Bytes, Total          int64
		Data                  json.RawMessage
	}
	if json.Unmarshal(line, &e) != nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.changed = true
	add := t.add
	switch e.Event {
	case "phase":
		t.now.Phase, t.now.Bytes, t.now.Total = e.Phase, 0, e.Total
		add("note", e.Phase)
	case "progress":
		t.now.Phase, t.now.Bytes, t.now.Total = e.Phase, e.Bytes, e.Total
		t.now.Work = t.done + max(e.Bytes, 0)
	case "done":
		t.done += max(e.Bytes, 0)
		t.now.Bytes, t.now.Work = e.Bytes, t.done
	case "note":
		// The commands that it runs are in the machine's log.
		if !strings.HasPrefix(e.Message, "+ ") {
			add("note", e.Message)
		}
	case "warning":
		add("warning", e.Message)
	case "error":
		t.failed = e.Message
		add("error", e.Message)
		var hint struct{ Hint string }
		if json.Unmarshal(e.Data, &hint) == nil && hint.Hint != "" {
			add("note", "hint: "+hint.Hint)
		}
	}
}

func (t *teller) lastError() string { t.mu.Lock(); defer t.mu.Unlock(); return t.failed }

// take gives what is to be reported, nil for nothing new.
func (t *teller) take() *fleet.Report {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.changed {
		return nil
	}
	r := t.now
	if n := 100; len(r.Lines) > n { // the rest goes with the next report
		r.Lines = slices.Clone(r.Lines[:n])
		t.now.Lines = slices.Clone(t.now.Lines[n:])
		return &r
	}
	t.now.Lines, t.changed = nil, false
	return &r
}

// all gives everything that was not taken.
func (t *teller) all() *fleet.Report {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.now
	t.now.Lines, t.changed = nil, false
	return &r
}

// back puts lines back that did not arrive.
func (t *teller) back(lines []fleet.Line) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.now.Lines = append(slices.Clone(lines), t.now.Lines...)
	if n := len(t.now.Lines) - maxPending; n > 0 {
		t.now.Lines = t.now.Lines[n:]
	}
	t.changed = true
}

// follow reports about once a second what changed, and every five seconds that the
// machine is there.
func (t *teller) follow(ctx context.Context, c *Client) {
	tick := time.NewTicker(c.cfg.pause)
	defer tick.Stop()
	for quiet := 0; ; quiet++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		r := t.take()
		if r == nil && quiet < 5 {
			continue
		}
		if r == nil {
			r = &fleet.Report{}
		}
		quiet = 0
		if err := c.report(ctx, r); err != nil {
			t.back(r.Lines)
			if c.backoff(ctx, 1) != nil {
				return
			}
		}
	}
}

// refused is an answer of the server that asking again does not change.
type refused struct{ text string }

func (r refused) Error() string { return r.text }

// errToken is the answer to a token that the server does not know.
var errToken = errors.New("the server does not know this machine")

// maxAnswer is the longest answer that is read, in bytes.
const maxAnswer = 1 << 20

// decodeAnswer reads the JSON of an answer.
func decodeAnswer(r io.Reader, v any) error {
	b, err := io.ReadAll(io.LimitReader(r, maxAnswer))
	if err != nil {
		return err
	}
	if err := json.NewDecoder(bytes.NewReader(b)).Decode(v); err != nil {
		return fmt.Errorf("the server's answer is not understood: %s", printable.Short(err.Error(), 200))
	}
	return nil
}
