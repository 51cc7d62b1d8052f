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

// FuzzDecode: no text ends the program.
func FuzzDecode(f *testing.F) {
	f.Add([]byte("- !!binary\n- !x\n"))
	f.Add([]byte("list: [!!set , &a *a]"))
	f.Fuzz(func(_ *testing.T, b []byte) {
		_ = Decode(b, &config{})
		_ = Decode(b, &[]config{})
	})
}
