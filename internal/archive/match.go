package archive

import (
	"fmt"
	"strings"
)

// Matcher decides which paths are left out. A rule is an absolute path, where
//
//	?      is any one byte but '/'
//	*      is any run of bytes without '/'
//	**     is any run of bytes, '/' included
//	[a-z]  is one byte of the set, [!a-z] one that is not in it
//	\x     is x itself
//
// A rule that names a directory leaves out the directory with everything in
// it; "DIR/*" leaves out what is in it and keeps the directory.
type Matcher struct{ rules []string }

// NewMatcher checks the rules; the error names the rule that is wrong.
func NewMatcher(rules []string) (*Matcher, error) {
	for _, r := range rules {
		if !strings.HasPrefix(r, "/") {
			return nil, fmt.Errorf("cannot use exclude rule %q: it must begin with /", r)
		}
		if strings.HasSuffix(r, "/") {
			return nil, fmt.Errorf("cannot use exclude rule %q: it ends in /; write %q for the directory or %q for its content", r, strings.TrimRight(r, "/"), strings.TrimRight(r, "/")+"/*")
		}
		for i := 0; i < len(r); i++ {
			switch r[i] {
			case '\\':
				if i++; i == len(r) {
					return nil, fmt.Errorf("cannot use exclude rule %q: it ends in a backslash", r)
				}
			case '[':
				j := strings.IndexByte(r[i+1:], ']')
				if j < 1 {
					return nil, fmt.Errorf("cannot use exclude rule %q: [ at byte %d is not closed", r, i)
				}
				i += j + 1
			}
		}
	}
	return &Matcher{rules}, nil
}

// QuoteRule gives the rule that matches path and nothing else but what is in it.
func QuoteRule(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

// Match gives the first rule that leaves out path, or "". path is absolute.
func (m *Matcher) Match(path string) string {
	if m == nil {
		return ""
	}
	for _, r := range m.rules {
		if glob(r, path) {
			return r
		}
	}
	return ""
}

// glob matches bytes; a name that is not UTF-8 matches like any other. Stars
// are tried from the last one back, so the work is bounded by their depth.
func glob(p, s string) bool {
	for len(p) > 0 {
		switch p[0] {
		case '*':
			return globStar(strings.TrimLeft(p, "*"), s, strings.HasPrefix(p, "**"))
		case '?':
			if s == "" || s[0] == '/' {
				return false
			}
			p = p[1:]
		case '[':
			end := strings.IndexByte(p[1:], ']') + 1
			if s == "" || s[0] == '/' || !inSet(p[1:end], s[0]) {
				return false
			}
			p = p[end+1:]
		default:
			if p[0] == '\\' && len(p) > 1 {
				p = p[1:]
			}
			if s == "" || s[0] != p[0] {
				return false
			}
			p = p[1:]
		}
		s = s[1:]
	}
	return s == ""
}

// globStar matches what follows a star at any place of s, up to a slash unless the star is deep.
func globStar(rest, s string, deep bool) bool {
	for i := 0; ; i++ {
		if glob(rest, s[i:]) {
			return true
		}
		if i == len(s) || !deep && s[i] == '/' {
			return false
		}
	}
}

func inSet(set string, c byte) bool {
	not := strings.HasPrefix(set, "!")
	if not {
		set = set[1:]
	}
	for i := 0; i < len(set); i++ {
		if i+2 < len(set) && set[i+1] == '-' {
			if set[i] <= c && c <= set[i+2] {
				return !not
			}
			i += 2
		} else if set[i] == c {
			return !not
		}
	}
	return not
}
