package keymap

import (
	"errors"
	"testing"
)

func TestParse(t *testing.T) {
	if m, err := Parse([]byte(`{"mode":3,"tables":{"0":[512,27]},"diacritics":[[96,97,224]]}`)); err != nil || m.Tables[0][1] != 27 || m.Diacritics[0][2] != 224 {
		t.Errorf("Parse = %+v, %v", m, err)
	}
	for _, bad := range []string{"", `{"tables":{"300":[1]}}`, `{"tables":{"0":[70000]}}`} {
		if _, err := Parse([]byte(bad)); err == nil {
			t.Errorf("Parse(%q) is accepted", bad)
		}
	}
	if _, err := Read("/dev/null"); !errors.Is(err, ErrNoConsole) {
		t.Errorf("Read(/dev/null) = %v; want ErrNoConsole", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"mode":3,"tables":{"0":[512,27]}}`))
	f.Fuzz(func(_ *testing.T, b []byte) { _, _ = Parse(b) })
}
