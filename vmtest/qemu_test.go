package vmtest

import (
	"bytes"
	"regexp"
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
