package procs

import "testing"

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
