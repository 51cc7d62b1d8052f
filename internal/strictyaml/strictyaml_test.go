package strictyaml

import (
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

type config struct {
	Name string   `yaml:"name"`
	List []string `yaml:"list"`
}

// TestDecode: what is wrong has its place; an empty text is no error.
func TestDecode(t *testing.T) {
	for text, want := range map[string]string{
		"": "", "name: x\nlist: [a, b]\n": "", "nam: x\n": "[1:1]", "name: x\nlist: {a: 1}\n": "[2:7]", "name: [\n": "[1:7]",
	} {
		err := Decode([]byte(text), &config{})
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(yaml.FormatError(err, false, false), want)) {
			t.Errorf("Decode(%q) = %v; want %q", text, err, want)
		}
	}
}

// TestText: wrong values are described without words of Go.
func TestText(t *testing.T) {
	type inner struct {
		Last *int           `yaml:"last"`
		On   bool           `yaml:"on"`
		Map  map[string]int `yaml:"map"`
		Byte uint8          `yaml:"byte"`
		F    float64        `yaml:"f"`
	}
	type outer struct {
		Keep inner    `yaml:"keep"`
		List []string `yaml:"list"`
		Name string   `yaml:"name"`
	}
	for text, want := range map[string]string{
		"keep: {last: 3.5}":            `[1:14] want a whole number, not "3.5"`,
		"keep:\n  map: {a: 1, b: 2.5}": `[2:18] want a whole number, not "2.5"`,
		"name: a\n---\nname: b\n":      "it has a second document, which begins with ---",
		"keep: {last: 010}":            "[1:14] 010 begins with a 0; write 10",
		"keep: {last: x}":              `[1:14] want a whole number, not "x"`,
		"keep:\n  on: 7":               `[2:7] want true or false, not "7"`,
		"list: /home":                  "[1:7] want a list, not text",
		"name: [a]":                    "[1:7] want text, not a list",
		"name: {a: b}":                 "[1:7] want text, not keys with values",
		"keep: [a]":                    "[1:7] want keys with values, not a list",
		"keep: x":                      "[1:7] want keys with values, not text",
		"keep: {map: 3}":               "[1:13] want keys with values, not a number",
		"keep: {byte: 300}":            "[1:14] 300 is out of range",
		"keep: {f: x}":                 `[1:11] want a number, not "x"`,
		"nam: x":                       `[1:1] unknown key "nam"`,
		"name: [":                      "[1:7] sequence end token ']' not found",
	} {
		err := Decode([]byte(text), &outer{})
		if err == nil {
			t.Errorf("Decode(%q) is accepted", text)
		} else if got := Text(err); got != want {
			t.Errorf("Text of %q = %s; want %s", text, got, want)
		}
	}
}

// FuzzDecode: no text ends the program.
func FuzzDecode(f *testing.F) {
	f.Add([]byte("- !!binary\n- !x\n"))
	f.Add([]byte("list: [!!set , &a *a]"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, v := range []any{&config{}, &[]config{}} {
			if err := Decode(b, v); err != nil && Text(err) == "" {
				t.Errorf("Text of %q is empty", b)
			}
		}
	})
}
