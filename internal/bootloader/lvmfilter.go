package bootloader

import (
	"regexp"
	"strings"
)

// lvmFilter is a filter of lvm.conf(5).
type lvmFilter struct {
	name  string // "filter"
	rules []lvmRule
}

type lvmRule struct {
	accept bool
	re     *regexp.Regexp
}

// lvmFilters reads the filters of an lvm.conf(5) that are not comments. A pattern
// that is not a regular expression for us makes its filter unknown: it is left out.
func lvmFilters(text string) []lvmFilter {
	var out []lvmFilter
	list := regexp.MustCompile(`(?m)^[ \t]*(?:devices/)?((?:global_)?filter)[ \t]*=[ \t]*(\[[^\]]*\]|"[^"\n]*")`)
	item := regexp.MustCompile(`"((?:[^"\\]|\\.)*)"`)
	for _, g := range list.FindAllStringSubmatch(text, -1) {
		f := lvmFilter{name: g[1]}
		ok := true
		for _, q := range item.FindAllStringSubmatch(g[2], -1) {
			r, good := lvmPattern(strings.NewReplacer(`\\`, `\`, `\"`, `"`).Replace(q[1]))
			ok = ok && good
			f.rules = append(f.rules, r)
		}
		if ok {
			out = append(out, f)
		}
	}
	return out
}

// lvmPattern reads "a|regex|" or "r/regex/".
func lvmPattern(p string) (lvmRule, bool) {
	if len(p) < 3 || p[0] != 'a' && p[0] != 'r' {
		return lvmRule{}, false
	}
	end := p[1:2]
	if i := strings.Index("([{", end); i >= 0 {
		end = ")]}"[i : i+1]
	}
	body, ok := strings.CutSuffix(p[2:], end)
	re, err := regexp.Compile(body)
	return lvmRule{p[0] == 'a', re}, ok && err == nil
}

// accepts reports whether LVM sees a device of these names: of the first rule that
// matches each name, one that accepts wins, and one that rejects loses.
func (f lvmFilter) accepts(names []string) bool {
	rejected := false
	for _, n := range names {
		for _, r := range f.rules {
			if r.re.MatchString(n) {
				if r.accept {
					return true
				}
				rejected = true
				break
			}
		}
	}
	return !rejected
}
