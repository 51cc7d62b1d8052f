package builder

import (
	"reflect"
	"testing"
)

// TestFlatten: a key that nobody described is found, also below another one.
func TestFlatten(t *testing.T) {
	type config struct {
		A string `yaml:"a"`
		B struct {
			C []string `yaml:"c,omitempty"`
		} `yaml:"b"`
	}
	got := map[string]reflect.Value{}
	flatten(reflect.ValueOf(config{A: "x"}), "", got)
	if len(got) != 2 || got["a"].String() != "x" || got["b.c"].Kind() != reflect.Slice {
		t.Errorf("flatten = %v; want a and b.c", got)
	}
	all := keys
	defer func() { keys = all }()
	if k, err := Keys(); err != nil || len(k) != len(all) {
		t.Errorf("Keys = %d keys, %v; want %d", len(k), err, len(all))
	}
	if keys = all[1:]; true {
		if _, err := Keys(); err == nil {
			t.Error("Keys is satisfied without the first key")
		}
	}
	keys = append([]Key{{Name: "nosuch"}}, all...)
	if _, err := Keys(); err == nil {
		t.Error("Keys takes a key that Config lacks")
	}
}
