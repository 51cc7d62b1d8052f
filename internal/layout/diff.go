package layout

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Change is one difference between two layouts. An empty side means that the
// thing is missing there.
type Change struct {
	Path string `json:"path"`
	Was  string `json:"was"`
	Is   string `json:"is"`
}

func (c Change) String() string {
	switch {
	case c.Was == "":
		return fmt.Sprintf("+ %s: %s", c.Path, c.Is)
	case c.Is == "":
		return fmt.Sprintf("- %s: %s", c.Path, c.Was)
	}
	return fmt.Sprintf("~ %s: %s -> %s", c.Path, c.Was, c.Is)
}

// volatile are the facts that change without the storage changing.
var volatile = []string{".snapshots", ".header", ".used", ".usedInodes", ".config", ".nvram", ".order", "kernel.release", ".espFiles", ".blank", "network", "links", "leftAlone"}

// Diff lists what differs, sorted by path. How full a file system is, which
// kernel runs, the firmware's own entries and what a backup left out do not count.
func Diff(was, is *Layout) []Change {
	a, b := flatten(was.undecided(is)), flatten(is.undecided(was))
	var out []Change
	for k, v := range a {
		if w := b[k]; w != v {
			out = append(out, Change{k, v, w})
		}
	}
	for k, v := range b {
		if _, ok := a[k]; !ok {
			out = append(out, Change{k, "", v})
		}
	}
	slices.SortFunc(out, func(x, y Change) int { return strings.Compare(x.Path, y.Path) })
	return out
}

// undecided is the layout without what a backup has decided: what is in the set, and in which
// file. Swap files that the backup of other dropped with the files beside them are missing.
func (l *Layout) undecided(other *Layout) *Layout {
	u := *l
	u.Filesystems, u.Images = slices.Clone(l.Filesystems), slices.Clone(l.Images)
	for i := range u.Filesystems {
		u.Filesystems[i].Excluded, u.Filesystems[i].Included = "", nil
	}
	for i := range u.Images {
		u.Images[i].File, u.Images[i].Excluded = "", ""
	}
	u.SwapFiles = slices.DeleteFunc(slices.Clone(l.SwapFiles), other.dropped)
	return &u
}

// dropped reports whether the layout lacks a swap file because its set lacks the files there.
func (l *Layout) dropped(s SwapFile) bool {
	f := l.Mounted(s.Mount)
	if f == nil || slices.ContainsFunc(l.SwapFiles, func(x SwapFile) bool { return x.Path == s.Path }) {
		return false
	}
	saved := func(dir string) bool { return Below(s.Path, dir) && Below(dir, s.Mount) }
	return f.Excluded != "" || f.Included != nil && !slices.ContainsFunc(f.Included, saved)
}

// Fingerprint is a SHA-256 in hex that is equal for layouts between which Diff finds no
// difference.
func (l *Layout) Fingerprint() string {
	facts := flatten(l.undecided(l))
	h := sha256.New()
	for _, k := range slices.Sorted(maps.Keys(facts)) {
		fmt.Fprintf(h, "%q=%q\n", k, facts[k])
	}
	return hex.EncodeToString(h.Sum(nil))
}

func flatten(l *Layout) map[string]string {
	b, err := json.Marshal(l)
	if err != nil {
		panic("layout: internal error: " + err.Error()) // only plain data in there
	}
	var v any
	if err := json.Unmarshal(b, &v); err != nil {
		panic("layout: internal error: " + err.Error())
	}
	out := map[string]string{}
	walk("", v, out)
	return out
}

// walk names elements of lists by what they are, so that a new disk in front
// does not make everything after it differ.
func walk(path string, v any, out map[string]string) {
	for _, s := range volatile {
		if strings.HasSuffix(path, s) {
			return
		}
	}
	switch t := v.(type) {
	case map[string]any:
		for k, e := range t {
			p := k
			if path != "" {
				p = path + "." + k
			}
			walk(p, e, out)
		}
	case []any:
		for i, e := range t {
			walk(path+"["+itemName(i, e)+"]", e, out)
		}
	case nil:
	default:
		s, err := json.Marshal(t)
		if err != nil {
			panic("layout: internal error: " + err.Error())
		}
		if len(s) > 200 { // fstab, a kernel command line: too long to show
			sum := sha256.Sum256(s)
			s = fmt.Appendf(nil, "%s... (%d bytes, SHA-256 %x...)", s[:60], len(s), sum[:4])
		}
		if string(s) != `""` && string(s) != "false" {
			out[path] = string(s)
		}
	}
}

// itemName names an item of a list by what identifies it, or else by its number.
func itemName(i int, v any) string {
	m, _ := v.(map[string]any)
	for _, k := range []string{"device", "name", "path", "id", "what"} {
		if s, ok := m[k].(string); ok && s != "" {
			return s
		}
	}
	return fmt.Sprint(i)
}
