package nightly

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/process"
)

// TestRecord: a failed run does not replace the last good one, nor its layout; a record that
// can't be read is replaced.
func TestRecord(t *testing.T) {
	dir, set := filepath.Join(t.TempDir(), "state"), "/backup/web-1"
	if _, err := Read(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Read() before any run = %v", err)
	}
	l := &layout.Layout{Version: layout.Version, Hostname: "web", Boot: layout.Boot{Firmware: layout.BIOS}}
	start := time.Date(2026, 11, 30, 1, 0, 0, 0, time.UTC)
	good := Run{Started: start, Ended: start.Add(90 * time.Second), Set: set, Status: 3, Size: 5, NotCovered: []string{"x"}}
	bad := Run{Started: start.AddDate(0, 0, 1), Ended: start.AddDate(0, 0, 1), Status: 1, Error: strings.Repeat("é", 9999)}
	for _, r := range []Run{good, bad, bad} {
		if err := r.Save(dir, l); err != nil {
			t.Fatal(err)
		}
	}
	r, err := Read(dir)
	if err != nil || r.Good == nil || r.Good.Set != set || r.Good.Seconds() != 90 || r.Last.Status != 1 || len(r.Last.Error) > maxError {
		t.Errorf("Read() = %+v, %v", r, err)
	}
	if is, err := Layout(dir); err != nil || is.Hostname != "web" {
		t.Errorf("Layout() = %+v, %v", is, err)
	}
	for _, text := range []string{"", "{", `{"version":2}`} {
		if err := os.WriteFile(filepath.Join(dir, recordFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Read(dir); err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Read() of %q = %v; want another error", text, err)
		}
		if err := bad.Save(dir, nil); err != nil {
			t.Errorf("Save() over %q = %v", text, err)
		}
	}
}

// TestJudge: states by age, failure, coverage and layout; and every text has them.
func TestJudge(t *testing.T) {
	now := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	run := func(hours float64, status int) Run {
		e := now.Add(-time.Duration(hours * float64(time.Hour)))
		return Run{Started: e.Add(-time.Minute), Ended: e, Status: status, Error: "a|b\nc", Size: 7, Set: "/s"}
	}
	of := func(last Run, good *Run) Found { return Found{Record: &Record{Last: last, Good: good}} }
	ok := func(hours float64, not ...string) Found {
		r := run(hours, 0)
		r.NotCovered = not
		return of(r, &r)
	}
	with := func(f Found, do func(*Found)) Found { do(&f); return f }
	old := run(30, 0)
	for _, c := range []struct {
		what string
		f    Found
		want State
		text string
	}{
		{"good", ok(35.9), Good, "35h old | age=129240s;129600;259200;0 size=7B duration=60s not_covered=0"},
		{"old", ok(36), Warning, "36h old; warning from 36h on"},
		{"very old", ok(72), Critical, "72h old; critical from 72h on"},
		{"in the future", ok(-1), Warning, "dated in the future"},
		{"something lacks", ok(1, "vdb", "vdc"), Warning, "2 not covered"},
		{"failed since", of(run(1, 1), &old), Warning, "ended with status 1: a/b"},
		{"status 3 is none of the failures", of(run(1, 3), &old), Good, "30h old"},
		{"never good", of(run(1, 1), nil), Critical, "no run has made a backup"},
		{"no run", Found{RecordErr: fmt.Errorf("x: %w", fs.ErrNotExist)}, Unknown, "no backup was made yet"},
		{"unreadable", Found{RecordErr: errors.New("rubbish")}, Unknown, "rubbish"},
		{"layout", with(ok(1), func(f *Found) { f.Changed = []layout.Change{{Path: "disks", Was: "1", Is: "2"}} }), Warning, "changed in 1 places"},
		{"layout not known", with(ok(1), func(f *Found) { f.LayoutErr = errors.New("no root") }), Good, "1h old"},
	} {
		c.f.Now, c.f.Warn, c.f.Toolate = now, 36*time.Hour, 72*time.Hour
		s := Judge(c.f)
		if s.State != c.want || !strings.Contains(s.Line(), c.text) || !strings.HasPrefix(s.Line(), "MKCDREC "+c.want.String()+" - ") || strings.Count(s.Line(), "|") > 1 || strings.Contains(s.Line(), "\n") {
			t.Errorf("%s: %q; want %v with %q", c.what, s.Line(), c.want, c.text)
		}
		b, err := json.Marshal(s)
		var back Status
		if err != nil || json.Unmarshal(b, &back) != nil || back.State != s.State {
			t.Errorf("%s: JSON %s, %v", c.what, b, err)
		}
		// The exposition format of Prometheus.
		line := regexp.MustCompile(`^(# HELP mkcdrec_[a-z_]+ [^\\]+|# TYPE mkcdrec_[a-z_]+ gauge|mkcdrec_[a-z_]+ -?\d+)$`)
		for l := range strings.Lines(s.Metrics()) {
			if !line.MatchString(strings.TrimSuffix(l, "\n")) {
				t.Errorf("%s: metrics have the line %q", c.what, l)
			}
		}
		if known := strings.Contains(s.Metrics(), "mkcdrec_layout_changes"); known != (s.Good != nil && c.f.LayoutErr == nil) {
			t.Errorf("%s: metrics tell of the layout: %v", c.what, known)
		}
	}
	name := t.TempDir() + "/m.prom"
	s := Judge(with(ok(1), func(f *Found) { f.Now = now }))
	if err := s.WriteMetrics(name); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(name); err != nil || st.Mode() != 0o644 {
		t.Errorf("mode of the text file: %v, %v; want 0644", st.Mode(), err)
	}
}

func TestLimits(t *testing.T) {
	for _, c := range []struct {
		warn, critical string
		ok             bool
	}{{DefaultWarn, DefaultCritical, true}, {"1h", "1h", true}, {"2h", "1h", false}, {"x", "1h", false}, {"0s", "1h", false}, {"1h", "", false}} {
		if _, _, err := (Config{Warn: c.warn, Critical: c.critical}).Limits(); (err == nil) != c.ok {
			t.Errorf("Limits(%s, %s) = %v; want ok: %v", c.warn, c.critical, err, c.ok)
		}
	}
}

func TestTextfile(t *testing.T) {
	for file, ok := range map[string]bool{"": true, "/var/lib/m.prom": true, "m.prom": false, "/var/lib/m.txt": false, "/var/lib/.prom": false, "/var/lib/m.prom/": false} {
		c := Config{Warn: "1h", Critical: "2h", Textfile: file, NotifyTimeout: "1s"}
		if err := c.Validate(); (err == nil) != ok || err != nil && !strings.Contains(err.Error(), "status.textfile: ") {
			t.Errorf("Validate() with the text file %q = %v; want ok: %v", file, err, ok)
		}
	}
}

// TestBegin: a run that was killed is told by the next one and by the status, one that runs is not.
func TestBegin(t *testing.T) {
	dir := t.TempDir()
	now := time.Now()
	run := Run{Started: now, Destination: "/backups"}
	if b, err := run.Begin(dir); b != nil || err != nil {
		t.Errorf("Begin() = %v, %v; want that nothing was unended", b, err)
	}
	state := func() *Status {
		r, err := Read(dir)
		return Judge(Found{Record: r, RecordErr: err, Begun: ReadBegun(dir), Now: now, Warn: time.Hour, Toolate: 2 * time.Hour})
	}
	if s := state(); strings.Contains(strings.Join(s.Reasons, " "), "has not ended") {
		t.Errorf("while it runs: %q", s.Reasons)
	}
	if b, err := run.Begin(dir); b != nil || err != nil {
		t.Errorf("Begin() while one runs = %v, %v; want neither", b, err)
	}
	run.Ended = now
	if err := run.Save(dir, nil); err != nil {
		t.Fatal(err)
	}
	if b := ReadBegun(dir); b != nil {
		t.Errorf("after its end: %v; want that nothing has begun", b)
	}
	b, err := json.Marshal(Begun{Started: now.Add(-time.Hour), Boot: process.BootID(), PID: os.Getpid(), Start: "1"}) // the number was used again
	if err := errors.Join(err, os.WriteFile(filepath.Join(dir, begunFile), b, 0o600)); err != nil {
		t.Fatal(err)
	}
	if s := state(); s.State < Warning || !strings.Contains(strings.Join(s.Reasons, " "), "has not ended: it was killed") {
		t.Errorf("after a kill: %v, %q; want a warning", s.State, s.Reasons)
	}
	if err := os.Remove(filepath.Join(dir, recordFile)); err != nil {
		t.Fatal(err)
	}
	if s := state(); !strings.Contains(strings.Join(s.Reasons, " "), "has not ended") {
		t.Errorf("a first run that was killed: %q; want that it is told", s.Reasons)
	}
	if b, err := run.Begin(dir); b == nil || err != nil || !b.Started.Equal(now.Add(-time.Hour)) {
		t.Errorf("Begin() after a kill = %v, %v; want the run that was killed", b, err)
	}
}
