package layout

import (
	"encoding/json"
	"fmt"
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
// kernel runs and the firmware's own entries do not count.
func Diff(was, is *Layout) []Change {
	a, b := flatten(was), flatten(is)
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
		if len(s) > 200 { // vgcfgbackup's text: its lines are too many to show
			s = []byte(fmt.Sprintf("%s... (%d bytes)", s[:60], len(s)))
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
