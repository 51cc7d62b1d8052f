package restore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"

	"github.com/mkcdrec/mkcdrec/internal/regular"
	"github.com/mkcdrec/mkcdrec/internal/store"
)

// Answers are the answers to all that a restore may ask, as a file has them.
// Its words are those of the command line.
type Answers struct {
	Set         string            `yaml:"set"`
	Confirm     []string          `yaml:"confirm"`
	Yes         bool              `yaml:"yes"`
	Map         map[string]string `yaml:"map"`
	Size        map[string]string `yaml:"size"`
	FSType      map[string]string `yaml:"fs-type"`
	KeepSizes   bool              `yaml:"keep-sizes"`
	ExcludeDisk []string          `yaml:"exclude-disk"`
	Mirror      []string          `yaml:"mirror"`
	Unmirror    bool              `yaml:"unmirror"`
	Only        string            `yaml:"only"`
	Firmware    string            `yaml:"firmware"`
	Onto        string            `yaml:"onto"`
	Identity    string            `yaml:"identity"`
	KeyFile     string            `yaml:"key-file"`
	NewLUKS     bool              `yaml:"new-luks"`
	NewIdentity bool              `yaml:"new-identity"`
	Hostname    string            `yaml:"hostname"`
	Forget      []string          `yaml:"forget"`
	Salvage     bool              `yaml:"salvage"`
	NoVerify    bool              `yaml:"no-verify"`
}

// maxAnswers is the largest answer file that is read.
const maxAnswers = 1 << 20

// LoadAnswers reads an answer file, from a URL too; a wait for its server ends with ctx.
// Unknown words and wrong types are errors with line and column.
func LoadAnswers(ctx context.Context, file string) (*Answers, error) {
	var b []byte
	var err error
	if store.IsURL(file) {
		var st store.Store
		if st, err = store.NewContext(ctx, strings.TrimSuffix(file, path.Base(file))); err == nil {
			b, err = store.ReadFile(st, path.Base(file), maxAnswers)
		}
	} else {
		b, err = regular.ReadFile(file, maxAnswers)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read answers: %w", err)
	}
	a := &Answers{}
	d := yaml.NewDecoder(strings.NewReader(string(b)), yaml.Strict(), yaml.DisallowUnknownField())
	if err := d.Decode(a); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("cannot read answers %s: %s", file, yaml.FormatError(err, false, true))
	}
	return a, nil
}

// Option is an option of the command line.
type Option struct{ Name, Value string }

// Options gives the answers as options of the command line.
func (a *Answers) Options() []Option {
	var out []Option
	text := func(name string, values ...string) {
		for _, v := range values {
			if v != "" {
				out = append(out, Option{name, v})
			}
		}
	}
	pairs := func(name string, m map[string]string) {
		for _, k := range slices.Sorted(maps.Keys(m)) {
			out = append(out, Option{name, k + "=" + m[k]})
		}
	}
	truth := func(name string, v bool) {
		if v {
			out = append(out, Option{name, "true"})
		}
	}
	text("confirm", a.Confirm...)
	text("exclude-disk", a.ExcludeDisk...)
	text("mirror", a.Mirror...)
	text("only", a.Only)
	text("firmware", a.Firmware)
	text("onto", a.Onto)
	text("identity", a.Identity)
	text("key-file", a.KeyFile)
	text("hostname", a.Hostname)
	text("forget", a.Forget...)
	pairs("map", a.Map)
	pairs("size", a.Size)
	pairs("fs-type", a.FSType)
	truth("yes", a.Yes)
	truth("keep-sizes", a.KeepSizes)
	truth("unmirror", a.Unmirror)
	truth("new-luks", a.NewLUKS)
	truth("new-identity", a.NewIdentity)
	truth("salvage", a.Salvage)
	truth("no-verify", a.NoVerify)
	return out
}
