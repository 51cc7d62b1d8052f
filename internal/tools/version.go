package tools

import (
	"bytes"
	"cmp"
	"strings"
)

// IsAlpha and IsDigit are the classes of ASCII.
func IsAlpha(c byte) bool { return c|32 >= 'a' && c|32 <= 'z' }
func IsDigit(c byte) bool { return c >= '0' && c <= '9' }

// Number is a decimal number of any length: sign, digits before and behind the point.
func Number(a []byte) (negative bool, whole, rest []byte) {
	if len(a) > 0 && a[0] == '-' {
		negative, a = true, a[1:]
	}
	i := 0
	for i < len(a) && IsDigit(a[i]) {
		i++
	}
	whole = bytes.TrimLeft(a[:i], "0")
	if i < len(a) && a[i] == '.' {
		j := i + 1
		for j < len(a) && IsDigit(a[j]) {
			j++
		}
		rest = bytes.TrimRight(a[i+1:j], "0")
	}
	return negative && len(whole)+len(rest) > 0, whole, rest
}

// Numeric compares two numbers that begin texts.
func Numeric(a, b []byte) int {
	an, aw, ar := Number(a)
	bn, bw, br := Number(b)
	if an != bn {
		return map[bool]int{true: -1, false: 1}[an]
	}
	r := cmp.Or(cmp.Compare(len(aw), len(bw)), bytes.Compare(aw, bw), bytes.Compare(ar, br))
	if an {
		return -r
	}
	return r
}

// Version compares as GNU's filevercmp: digits by value, "~" before all, letters before
// other characters.
func Version(a, b string) int {
	rank := func(s string) int {
		switch {
		case s == "" || IsDigit(s[0]):
			return 0
		case s[0] == '~':
			return -1
		case IsAlpha(s[0]):
			return int(s[0])
		}
		return int(s[0]) + 256
	}
	for a != "" || b != "" {
		for a != "" && !IsDigit(a[0]) || b != "" && !IsDigit(b[0]) {
			if r := cmp.Compare(rank(a), rank(b)); r != 0 {
				return r
			}
			a, b = a[min(1, len(a)):], b[min(1, len(b)):]
		}
		const digits = "0123456789"
		i, j := len(a)-len(strings.TrimLeft(a, digits)), len(b)-len(strings.TrimLeft(b, digits))
		if r := Numeric([]byte(a[:i]), []byte(b[:j])); r != 0 {
			return r
		}
		a, b = a[i:], b[j:]
	}
	return 0
}
