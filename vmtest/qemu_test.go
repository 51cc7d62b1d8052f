package vmtest

import (
	"bytes"
	"regexp"
	"sync"
	"testing"
	"time"
)

func TestStamped(t *testing.T) {
	var b bytes.Buffer
	s := &stamped{w: &b, start: time.Now().Add(-12 * time.Second)}
	for _, text := range []string{"one", " line\r\ntwo\n", "", "prompt# "} {
		if n, err := s.Write([]byte(text)); n != len(text) || err != nil {
			t.Fatal(n, err)
		}
	}
	if !regexp.MustCompile(`^  12\.\d one line\r\n  12\.\d two\n  12\.\d prompt# $`).MatchString(b.String()) {
		t.Errorf("%q", b.String())
	}
}

func TestShown(t *testing.T) {
	got := Shown("left out: x\r\n\r\x1b[Karchiving 1 %\r\x1b[Karchiving 50 %\r\x1b[K/boot  301\r\nold\rnew\n\nend")
	if want := "left out: x\n/boot  301\nnew\n\nend\n"; got != want {
		t.Errorf("%q; want %q", got, want)
	}
}

// TestRunBetween: what a program says is read though the kernel talks in between.
func TestRunBetween(t *testing.T) {
	for _, c := range []struct{ console, out, rest string }{
		{"BEG1\r\nyes\r\nEND1=0\r\n# ", "yes\r\n", "# "},
		{"BEG1\r\n[    6.481437] a message that was asked for\r\nEND1=0\r\n# ", "[    6.481437] a message that was asked for\r\n", "# "},
		{"BEG1\r\nyes\r\nEND1=0[    6.481437] IPv6: link becomes ready\r\n\r\n# ", "yes\r\n", "# "},
		{"BE[12345.481437] one\r\nG1\r\nyes\r\nEN[    6.481437] two\r\nD1=0[    6.581437] three\r\n\r\n# ", "yes\r\n", "# "},
	} {
		v := &VM{}
		v.cond = sync.NewCond(&v.mu)
		v.buf.WriteString(c.console)
		g, err := v.expect("", `(?s)BEG1\r?\n(.*?)END1=(\d+)\r?\n`, time.Millisecond, true)
		if err != nil || g[1] != c.out || g[2] != "0" || v.buf.String()[v.pos:] != c.rest {
			t.Errorf("%q: %q, %v, then %q", c.console, g, err, v.buf.String()[v.pos:])
		}
	}
}
