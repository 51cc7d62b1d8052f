package main

import (
	"strings"
	"testing"
	"unicode/utf8"
)

// TestFill: long lines are broken at spaces, and rows of tables stay as they are.
func TestFill(t *testing.T) {
	long, row := strings.Repeat("häufig ", 60)+"end", "|"+strings.Repeat(" x |", 60)
	got := fill(long + "\n\n" + row + "\nshort\n")
	if words := strings.Fields(got); strings.Join(words[:61], " ") != long || !strings.HasSuffix(got, "\n\n"+row+"\nshort\n") {
		t.Errorf("fill changes more than the ends of lines:\n%s", got)
	}
	for _, l := range strings.Split(got, "\n") {
		if n := utf8.RuneCountInString(l); n > 120 && !strings.HasPrefix(l, "|") {
			t.Errorf("a line of fill has %d columns; want at most 120", n)
		}
	}
	if n := strings.Count(got, "\n"); n != 7 {
		t.Errorf("fill(61 words of 420 columns) has %d lines; want 7", n)
	}
}
