package nightly

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/regular"
)

// Config is the key status of the configuration.
type Config struct {
	Warn     string `yaml:"warn"` // as time.ParseDuration takes it
	Critical string `yaml:"critical"`
	Textfile string `yaml:"textfile"`
	// Webhook is a URL that gets a Message about a run that was not good, WebhookFile a file
	// with it; Command is a program that gets the message on standard input, with its
	// arguments. Each has NotifyTimeout.
	Webhook       string   `yaml:"webhook"`
	WebhookFile   string   `yaml:"webhook_file"`
	Command       []string `yaml:"command"`
	NotifyTimeout string   `yaml:"notify_timeout"`
}

// The defaults of Config: a night was missed, and another two.
const (
	DefaultWarn     = "36h"
	DefaultCritical = "72h"
)

// Limits gives the ages from which on a backup is too old.
func (c Config) Limits() (warn, critical time.Duration, err error) {
	if warn, err = time.ParseDuration(c.Warn); err != nil || warn <= 0 {
		return 0, 0, fmt.Errorf("status.warn: %q; want a time such as 36h", c.Warn)
	}
	if critical, err = time.ParseDuration(c.Critical); err != nil || critical < warn {
		return 0, 0, fmt.Errorf("status.critical: %q; want a time such as 72h, not less than status.warn", c.Critical)
	}
	return warn, critical, nil
}

// Validate reports all faults at once.
func (c Config) Validate() error {
	_, _, err := c.Limits()
	if f := c.Textfile; f != "" && (!filepath.IsAbs(f) || filepath.Ext(f) != ".prom" || filepath.Base(f) == ".prom") {
		err = errors.Join(err, fmt.Errorf("status.textfile: %q; want an absolute path that ends in .prom", f))
	}
	return errors.Join(err, c.checkNotify())
}

// State is what monitoring is told, with the exit statuses of Nagios.
type State int

// States.
const (
	Good State = iota
	Warning
	Critical
	Unknown
)

func (s State) String() string { return [...]string{"OK", "WARNING", "CRITICAL", "UNKNOWN"}[s] }

// MarshalText implements encoding.TextMarshaler.
func (s State) MarshalText() ([]byte, error) { return []byte(strings.ToLower(s.String())), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *State) UnmarshalText(b []byte) error {
	for *s = Good; *s <= Unknown; *s++ {
		if strings.ToLower(s.String()) == string(b) {
			return nil
		}
	}
	return fmt.Errorf("unknown state %q", b)
}

// Status is the state of this machine's backups.
type Status struct {
	State   State    `json:"state"`
	Reasons []string `json:"reasons"` // of the state
	Last    *Run     `json:"last"`    // nil for none
	Good    *Run     `json:"good"`    // the last run that made a set
	Age     int64    `json:"age"`     // seconds since Good ended
	// Changed is how the layout differs from the one of the last set; LayoutError is why that
	// is not known.
	Changed     []layout.Change `json:"changed"`
	LayoutError string          `json:"layoutError,omitempty"`
	Timer       bool            `json:"timer"` // a backup begins every day

	warn, critical time.Duration
}

// Found is what Judge judges.
type Found struct {
	Record        *Record
	Begun         *Begun // ReadBegun
	RecordErr     error
	Changed       []layout.Change
	LayoutErr     error
	Timer         bool
	Now           time.Time
	Warn, Toolate time.Duration // ages
}

// Judge gives the state.
func Judge(f Found) *Status {
	s := &Status{Reasons: []string{}, Changed: f.Changed, Timer: f.Timer, warn: f.Warn, critical: f.Toolate}
	if f.LayoutErr != nil {
		s.LayoutError = f.LayoutErr.Error()
	}
	is := func(state State, format string, args ...any) {
		s.State = max(s.State, state)
		s.Reasons = append(s.Reasons, fmt.Sprintf(format, args...))
	}
	if b := f.Begun; b != nil && !b.runs() {
		is(Warning, "%s", b.Unended())
	}
	switch {
	case missing(f.RecordErr):
		is(Unknown, "no backup was made yet by mkcdrec path")
		return s
	case f.RecordErr != nil:
		is(Unknown, "%v", f.RecordErr)
		return s
	}
	s.Last, s.Good = &f.Record.Last, f.Record.Good
	if s.Last.Status != 0 && s.Last.Status != 3 {
		first, _, _ := strings.Cut(s.Last.Error, "\n")
		is(Warning, "the last run, %s, ended with status %d: %s", at(s.Last.Ended), s.Last.Status, first)
	}
	if s.Good == nil {
		is(Critical, "no run has made a backup")
		return s
	}
	age := f.Now.Sub(s.Good.Ended)
	s.Age = int64(age.Seconds())
	switch {
	case age >= f.Toolate:
		is(Critical, "the last backup is %s old; critical from %s on", short(age), short(f.Toolate))
	case age >= f.Warn:
		is(Warning, "the last backup is %s old; warning from %s on", short(age), short(f.Warn))
	case age < -2*time.Minute:
		is(Warning, "the last backup is dated in the future, %s: the clock is or was wrong", at(s.Good.Ended))
	}
	if n := len(s.Good.NotCovered); n > 0 {
		is(Warning, "%d not covered", n)
	}
	if n := len(s.Changed); n > 0 {
		is(Warning, "the layout has changed in %d places since the last backup", n)
	}
	return s
}

func at(t time.Time) string { return t.Local().Format("2006-01-02 15:04") }

// short is a duration for people, in hours.
func short(d time.Duration) string {
	if d < time.Hour {
		return d.Truncate(time.Second).String()
	}
	return fmt.Sprintf("%dh", int(d.Hours()))
}

// Line is the first line of a Nagios plug-in.
func (s *Status) Line() string {
	text, data := strings.Join(s.Reasons, "; "), ""
	if s.Good != nil {
		if text == "" {
			text = "the last backup is " + short(time.Duration(s.Age)*time.Second) + " old"
		}
		data = fmt.Sprintf(" | age=%ds;%d;%d;0 size=%dB duration=%ds not_covered=%d", s.Age, int64(s.warn.Seconds()), int64(s.critical.Seconds()), s.Good.Size, s.Good.Seconds(), len(s.Good.NotCovered))
	}
	return "MKCDREC " + s.State.String() + " - " + strings.NewReplacer("|", "/", "\n", " ").Replace(text) + data
}

// Rows are the rest for people.
func (s *Status) Rows() (rows [][]string) {
	add := func(what, text string) { rows = append(rows, []string{what, text}) }
	if s.Last != nil {
		add("last run", fmt.Sprintf("%s, status %d", at(s.Last.Ended), s.Last.Status))
	}
	if g := s.Good; g != nil {
		add("last good run", at(g.Ended))
		add("set", g.Set)
		add("size", g.Size.String())
		add("duration", g.Ended.Sub(g.Started).Truncate(time.Second).String())
		for _, n := range g.NotCovered {
			add("not covered", n)
		}
	}
	switch {
	case s.LayoutError != "":
		add("layout", "not compared: "+s.LayoutError)
	case s.Good != nil && len(s.Changed) == 0:
		add("layout", "as in the set")
	}
	for _, c := range s.Changed {
		add("layout changed", c.String())
	}
	add("timer", map[bool]string{true: "enabled", false: "disabled"}[s.Timer])
	return rows
}

// Metrics is the text for the textfile collector of Prometheus' node_exporter.
func (s *Status) Metrics() string {
	var b strings.Builder
	put := func(name, help string, value int64) {
		fmt.Fprintf(&b, "# HELP mkcdrec_%[1]s %[2]s\n# TYPE mkcdrec_%[1]s gauge\nmkcdrec_%[1]s %[3]d\n", name, help, value)
	}
	if s.Last != nil {
		put("last_run_timestamp_seconds", "When the last run ended.", s.Last.Ended.Unix())
		put("last_run_exit_status", "Exit status of the last run: 0 done, 3 something is not covered.", int64(s.Last.Status))
	}
	if g := s.Good; g != nil {
		put("last_good_timestamp_seconds", "When the last run that made a set ended.", g.Ended.Unix())
		put("last_good_size_bytes", "Size of the last set.", int64(g.Size))
		put("last_good_duration_seconds", "How long the last run that made a set took.", g.Seconds())
		put("last_good_not_covered", "How many things the last set does not cover.", int64(len(g.NotCovered)))
		if s.LayoutError == "" {
			put("layout_changes", "In how many places the layout has changed since the last set.", int64(len(s.Changed)))
		}
	}
	return b.String()
}

// WriteMetrics replaces the text file, which everyone may read, atomically.
func (s *Status) WriteMetrics(name string) error {
	return regular.WriteFileMode(name, []byte(s.Metrics()), 0o644)
}
