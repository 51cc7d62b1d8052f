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
