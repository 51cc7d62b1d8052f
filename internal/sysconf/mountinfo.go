package sysconf

import (
	"fmt"
	"strconv"
	"strings"
)

// Mount is a line of /proc/self/mountinfo, proc(5), decoded.
type Mount struct {
	ID, Parent int
	Dev        string   // "8:1"
	Root       string   // which directory of the file system is mounted
	Path       string   // where
	Options    string   // of this mount
	Optional   []string // "shared:1"
	Type       string
	Source     string // may be empty
	Super      string // options of the file system
}

// ParseMountinfo reads a mountinfo, in the order of mounting. An error names the
// line that can't be read.
func ParseMountinfo(text string) ([]Mount, error) {
	var out []Mount
	for i, l := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		if l == "" {
			continue
		}
		m, ok := parseMount(l)
		if !ok {
			return nil, fmt.Errorf("cannot read line %d of mountinfo: %q", i+1, l)
		}
		out = append(out, m)
	}
	return out, nil
}

// parseMount reads a line. The kernel writes one blank between fields, and some of
// them may be empty.
func parseMount(s string) (Mount, bool) {
	f := strings.Split(s, " ")
	if len(f) < 9 {
		return Mount{}, false
	}
	m := Mount{Dev: f[2], Root: Unescape(f[3]), Path: Unescape(f[4]), Options: Unescape(f[5])}
	var err [2]error
	m.ID, err[0] = strconv.Atoi(f[0])
	m.Parent, err[1] = strconv.Atoi(f[1])
	if err[0] != nil || err[1] != nil {
		return Mount{}, false
	}
	n := 6
	for ; n < len(f) && f[n] != "-"; n++ {
		if f[n] != "" {
			m.Optional = append(m.Optional, f[n])
		}
	}
	if n+2 >= len(f) {
		return Mount{}, false
	}
	m.Type, m.Source = Unescape(f[n+1]), Unescape(f[n+2])
	m.Super = Unescape(strings.Join(f[n+3:], " "))
	return m, true
}
