package sysconf

import (
	"fmt"
	"strings"
	"testing"
)

// TestVisitPaths: only paths below /dev are changed, and nothing of what is around them.
func TestVisitPaths(t *testing.T) {
	const text = "# /dev/sda\n(hd0)\t/dev/sda\r\n\n /dev/sdb,/dev/sdc, x=/dev/sda\n/dev/sda"
	lines := ""
	got := VisitPaths(text, func(line int, path string) string {
		lines += fmt.Sprint(line, " ")
		return strings.ToUpper(path)
	})
	if want := "# /dev/sda\n(hd0)\t/DEV/SDA\r\n\n /DEV/SDB,/DEV/SDC, x=/dev/sda\n/DEV/SDA"; got != want || lines != "2 4 4 5 " {
		t.Errorf("VisitPaths = %q, lines %s; want %q", got, lines, want)
	}
}
