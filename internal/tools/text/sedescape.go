package text

import (
	"strconv"
	"strings"
)

// sedEscape reads an escape of GNU's sed for one character, which s is what follows the
// backslash of: a, f, n, r, t, v, cX, dNNN, oNNN or xHH. It gives the character, and how many
// bytes of s it is written with, 0 if s begins with no such escape.
func sedEscape(s string) (c byte, n int) {
	if s == "" {
		return 0, 0
	}
	if i := strings.IndexByte("afnrtv", s[0]); i >= 0 {
		return "\a\f\n\r\t\v"[i], 1
	}
	base, most := 0, 3
	switch s[0] {
	case 'c':
		if len(s) < 2 || s[1] == '\\' && !strings.HasPrefix(s[2:], `\`) {
			return 0, 0
		}
		n = 2
		if s[1] == '\\' {
			n = 3
		}
		return strings.ToUpper(s[1:2])[0] ^ 0x40, n
	case 'd':
		base = 10
	case 'o':
		base = 8
	case 'x':
		base, most = 16, 2
	default:
		return 0, 0
	}
	for n = min(len(s)-1, most); n > 0; n-- {
		if v, err := strconv.ParseUint(s[1:1+n], base, 16); err == nil {
			return byte(v), 1 + n
		}
	}
	return 0, 0
}

// sedRegex replaces the escapes for characters in a regular expression, also in brackets. As
// in GNU's sed, what such an escape stands for keeps its meaning in the expression.
func sedRegex(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		if c, n := sedEscape(s[i+1:]); n > 0 {
			b.WriteByte(c)
			i += n
			continue
		}
		b.WriteString(s[i : i+2])
		i++
	}
	return b.String()
}

// sedText removes the backslashes of a text, with the escapes for characters replaced.
func sedText(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		c, n := sedEscape(s[i+1:])
		if n == 0 {
			c, n = s[i+1], 1
		}
		b.WriteByte(c)
		i += n
	}
	return b.String()
}

// characters splits a text into its characters; a byte that is not UTF-8 is one of them.
func characters(s string) []string {
	var out []string
	for i, r := range s {
		n := len(string(r))
		if r == '\uFFFD' && !strings.HasPrefix(s[i:], "\uFFFD") {
			n = 1
		}
		out = append(out, s[i:i+n])
	}
	return out
}
