package templates

import (
	"strings"
	"testing"
)

// TestHelp: what `help` prints is on one screen.
func TestHelp(t *testing.T) {
	if n := strings.Count(Help, "\n"); n > 25 {
		t.Errorf("help has %d lines; want at most 25", n)
	}
	for l := range strings.Lines(Help) {
		if n := len(strings.TrimRight(l, "\n")); n > 105 {
			t.Errorf("%d columns: %s", n, l)
		}
	}
}
