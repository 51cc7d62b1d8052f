package templates

import (
	"strings"
	"testing"
)

// TestHelp: what `help` prints is on one screen of 80 columns and 25 lines, with the prompt.
func TestHelp(t *testing.T) {
	if n := strings.Count(Help, "\n"); n > 24 {
		t.Errorf("help has %d lines; want at most 24", n)
	}
	for l := range strings.Lines(Help) {
		if n := len(strings.TrimRight(l, "\n")); n > 80 {
			t.Errorf("%d columns: %s", n, l)
		}
	}
}
