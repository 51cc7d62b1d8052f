package procs

import (
	"testing"
	"time"
)

func TestParseStat(t *testing.T) {
	p, ok := parseStat("42 (a (b) c) S 1 42 42 0 -1 4194304 100 0 0 0 150 50 0 0 20 0 1 0 100 1000000 300 18446744073709551615")
	if !ok || p.pid != 42 || p.name != "a (b) c" || p.state != "S" || p.ppid != 1 || p.ticks != 200 || p.vsize != 1000000 {
		t.Errorf("parseStat = %+v, %v", p, ok)
	}
	for _, bad := range []string{"", "1 x", "1 (a) S 1", ") 1 ("} {
		if _, ok := parseStat(bad); ok {
			t.Errorf("parseStat(%q) is accepted", bad)
		}
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add("42 (a (b) c) S 1 42 42 0 -1 4194304 100 0 0 0 150 50 0 0 20 0 1 0 100 1000000 300 18446744073709551615")
	f.Fuzz(func(t *testing.T, s string) {
		if p, ok := parseStat(s); ok {
			_ = p.stat() + p.terminal() + p.command()
		}
	})
}

// TestStart: a process of yesterday shows its day, be it an hour ago.
func TestStart(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 30, 0, 0, time.UTC)
	for _, c := range []struct {
		now, start time.Time
		want       string
	}{
		{now, now.Add(-10 * time.Minute), "00:20"},
		{now, now.Add(-time.Hour), "2025"},
		{now.AddDate(0, 0, 1), now.Add(23 * time.Hour), "Jan01"},
		{now.AddDate(0, 0, 1), now, "Jan01"},
	} {
		if got := (system{now: c.now, boot: c.start}).start(process{}); got != c.want {
			t.Errorf("start at %v of a process of %v = %q; want %q", c.now, c.start, got, c.want)
		}
	}
}
