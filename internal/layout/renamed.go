package layout

import (
	"encoding/json"
	"slices"
	"strings"
)

// Renamed gives a copy of the layout whose devices have other names, where now has one.
func (l *Layout) Renamed(now map[string]string) (*Layout, error) {
	b, err := json.Marshal(l)
	if err != nil {
		return nil, err
	}
	var v any
	if err := json.Unmarshal(b, &v); err != nil {
		return nil, err
	}
	// Where a layout has names of devices.
	keys := []string{"device", "name", "others", "spares", "esp", "disks"}
	var walk func(v any, key string) any
	walk = func(v any, key string) any {
		switch x := v.(type) {
		case map[string]any:
			for k := range x {
				x[k] = walk(x[k], k)
			}
		case []any:
			for i := range x {
				x[i] = walk(x[i], key)
			}
		case string:
			if n, ok := now[x]; ok && slices.Contains(keys, key) {
				return n
			}
		}
		return v
	}
	if b, err = json.Marshal(walk(v, "")); err != nil {
		return nil, err
	}
	var out Layout
	if err := json.Unmarshal(b, &out); err != nil {
		return nil, err
	}
	for i := range out.Crypts { // whose names are those of their devices without the prefix
		if n, ok := strings.CutPrefix(now[out.Crypts[i].Mapper()], MapperPrefix); ok {
			out.Crypts[i].Name = n
		}
	}
	return &out, nil
}
