package uuid

import (
	"regexp"
	"testing"
)

func TestForms(t *testing.T) {
	for u, version := range map[string]string{New(): "4", From("text"): "8"} {
		if !regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-` + version + `[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`).MatchString(u) {
			t.Errorf("%s is no UUID of version %s", u, version)
		}
	}
	first, again := From("a"), From("a")
	if one, other := New(), New(); one == other || first != again || first == From("b") {
		t.Error("random ones are equal, or those of texts not the texts' own")
	}
}
