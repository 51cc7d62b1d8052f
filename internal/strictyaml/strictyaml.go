// Package strictyaml decodes YAML that people write: unknown keys and wrong types are errors
// with line and column.
package strictyaml

import (
	"bytes"
	"errors"
	"io"

	"github.com/goccy/go-yaml"
)

// ErrInvalid is the fault of a text that the library can't read without a panic, such as some
// lists with tags.
var ErrInvalid = errors.New("not valid YAML, or a value of the wrong kind")

// Decode reads b into v. Nothing in b is no error. Other errors are those of the library, for
// Text.
func Decode(b []byte, v any) (err error) {
	defer func() {
		if recover() != nil {
			err = ErrInvalid
		}
	}()
	err = yaml.NewDecoder(bytes.NewReader(b), yaml.Strict(), yaml.DisallowUnknownField()).Decode(v)
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}
