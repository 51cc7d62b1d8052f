package sysconf

import "strings"

// VisitPaths visits the paths below /dev in files that consist of words, such as GRUB's device.map, SUSE's
// grub_installdevice and uswsusp.conf: visit gets the line, from 1, and the path, and returns what to write in its place.
// Blanks and commas divide words; comments and everything else stay as they are.
func VisitPaths(text string, visit func(line int, path string) string) string {
	lines := strings.SplitAfter(text, "\n")
	for i, line := range lines {
		if strings.HasPrefix(strings.TrimSpace(line), "#") {
			continue
		}
		var b strings.Builder
		for line != "" {
			n := strings.IndexAny(line, " \t\r\n,")
			if n < 0 {
				n = len(line)
			}
			word := line[:n]
			if strings.HasPrefix(word, "/dev/") {
				word = visit(i+1, word)
			}
			b.WriteString(word)
			rest := strings.TrimLeft(line[n:], " \t\r\n,")
			b.WriteString(line[n : len(line)-len(rest)])
			line = rest
		}
		lines[i] = b.String()
	}
	return strings.Join(lines, "")
}
