// Package printable makes text from outside safe to show: labels, serial
// numbers, file names, what programs and servers answered. It has no
// dependencies, so that libraries can use it in their errors; commands use it
// as ui.Clean.
package printable

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Clean returns s with everything that a terminal could act on, or that could
// make a reader take one text for another, written as a Go escape: control
// characters (newline and tab too), escape sequences, bidirectional overrides,
// characters without a width, and bytes that are not UTF-8 ("\x9b"). A string
// without such characters is returned as it is. A backslash is not escaped, so
// Clean(Clean(s)) is Clean(s); what has to be read back by a program must be
// quoted with %q instead. Private keys of age are left out.
func Clean(s string) string { return clean(s, false) }

// CleanLines is Clean for text of several lines: newlines and tabs are kept,
// and a carriage return just before a newline is dropped.
func CleanLines(s string) string {
	if strings.Contains(s, "\r\n") {
		s = strings.ReplaceAll(s, "\r\n", "\n")
	}
	return clean(s, true)
}

func clean(s string, lines bool) string {
	s = withoutKeys(s)
	if plain(s, lines) {
		return s
	}
	var b strings.Builder
	b.Grow(len(s) + 16)
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case unicode.IsPrint(r) || lines && (r == '\n' || r == '\t'):
			b.WriteString(s[i : i+n])
		default:
			q := strconv.QuoteRuneToASCII(r)
			b.WriteString(q[1 : len(q)-1])
		}
		i += n
	}
	return b.String()
}

// secretKey is what private keys of age begin with.
const secretKey = "AGE-SECRET-KEY-"

// withoutKeys is a text without private keys of age, which are put where a file or an address belongs at times: the
// beginning of each shows what it was.
func withoutKeys(s string) string {
	for i := 0; ; {
		dash := strings.IndexByte(s[i:], '-')
		if dash < 0 {
			return s
		}
		begin := i + dash - strings.IndexByte(secretKey, '-')
		i += dash + 1
		if begin < 0 || begin+len(secretKey) > len(s) || !strings.EqualFold(s[begin:begin+len(secretKey)], secretKey) {
			continue
		}
		i = begin + len(secretKey)
		end := i
		for end < len(s) && (s[end] == '-' || s[end] >= '0' && s[end] <= '9' || s[end]|0x20 >= 'a' && s[end]|0x20 <= 'z') {
			end++
		}
		if end-i >= 8 {
			s = s[:i] + "..." + s[end:]
		}
	}
}

// plain reports whether nothing is to be escaped; most strings are ASCII.
func plain(s string, lines bool) bool {
	for i, r := range s {
		switch {
		case r >= ' ' && r < 0x7f, lines && (r == '\n' || r == '\t'):
		case r < 0x80, !unicode.IsPrint(r):
			return false
		case r == utf8.RuneError: // U+FFFD itself is printable, a bad byte is not
			if _, n := utf8.DecodeRuneInString(s[i:]); n == 1 {
				return false
			}
		}
	}
	return true
}

// Short is Clean of at most n characters of s, with "..." in the place of what
// was cut off: for log lines whose length somebody else decides.
func Short(s string, n int) string {
	if len(s) > n {
		cut := n
		for cut > 0 && !utf8.RuneStart(s[cut]) {
			cut--
		}
		return Clean(s[:cut]) + "..."
	}
	return Clean(s)
}

// JSON returns JSON text with everything that a terminal could act on written
// as \uXXXX. The text means the same to a program; encoding/json escapes only
// control characters below U+0020.
func JSON(b []byte) []byte {
	s := string(b)
	if plain(s, true) {
		return b
	}
	var out strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case unicode.IsPrint(r) || r == '\n' || r == '\t':
			out.WriteRune(r) // U+FFFD for a bad byte, as encoding/json does
		case r > 0xffff:
			r -= 0x10000
			fmt.Fprintf(&out, `\u%04x\u%04x`, 0xd800+r>>10, 0xdc00+r&0x3ff)
		default:
			fmt.Fprintf(&out, `\u%04x`, r)
		}
		i += n
	}
	return []byte(out.String())
}
