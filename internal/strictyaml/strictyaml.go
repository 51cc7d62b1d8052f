// Package strictyaml decodes YAML that people write: unknown keys and wrong types are errors
// with line and column.
package strictyaml

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"
)

// ErrInvalid is the fault of a text that the library can't read without a panic, such as some
// lists with tags.
var ErrInvalid = errors.New("not valid YAML, or a value of the wrong kind")

// Decode reads b into v. Nothing in b is no error. Other errors are those of the library; Text
// puts them into words.
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

// Text describes an error of Decode in the words of those who write the file, with its place: "[2:7] want a list,
// not text". It may have a part of the file.
func Text(err error) string {
	var (
		wrongType *yaml.TypeError
		wrongKind *yaml.UnexpectedNodeTypeError
		overflow  *yaml.OverflowError
		unknown   *yaml.UnknownFieldError
	)
	switch {
	case errors.As(err, &wrongType):
		return at(wrongType.Token, "want "+ofType(wrongType.DstType)+", not "+ofToken(wrongType.Token))
	case errors.As(err, &wrongKind):
		return at(wrongKind.Token, "want "+ofNode(wrongKind.Expected)+", not "+ofNode(wrongKind.Actual))
	case errors.As(err, &overflow):
		return at(overflow.Token, overflow.SrcNum+" is out of range")
	case errors.As(err, &unknown):
		return at(unknown.Token, strings.Replace(unknown.Message, "field", "key", 1))
	}
	return strings.TrimSpace(yaml.FormatError(err, false, false))
}

func at(t *token.Token, what string) string {
	if t == nil || t.Position == nil {
		return what
	}
	return fmt.Sprintf("[%d:%d] %s", t.Position.Line, t.Position.Column, what)
}

// ofType names what a value of a type is written as.
func ofType(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Pointer:
		return ofType(t.Elem())
	case reflect.Bool:
		return "true or false"
	case reflect.Slice, reflect.Array:
		return "a list"
	case reflect.Map, reflect.Struct:
		return "keys with values"
	case reflect.String:
		return "text"
	case reflect.Float32, reflect.Float64:
		return "a number"
	}
	return "a whole number"
}

// ofToken names what stands in the file.
func ofToken(t *token.Token) string {
	switch {
	case t == nil:
		return "this"
	case t.Type == token.SequenceStartType || t.Type == token.SequenceEntryType:
		return "a list"
	case t.Type == token.MappingStartType || t.Type == token.MappingValueType:
		return "keys with values"
	}
	return fmt.Sprintf("%q", t.Value)
}

func ofNode(n ast.NodeType) string {
	switch n {
	case ast.SequenceType:
		return "a list"
	case ast.MappingType, ast.MappingValueType, ast.MappingKeyType:
		return "keys with values"
	case ast.StringType, ast.LiteralType:
		return "text"
	case ast.IntegerType, ast.FloatType:
		return "a number"
	case ast.BoolType:
		return "true or false"
	case ast.NullType:
		return "nothing"
	}
	return "another kind of value (" + n.YAMLName() + ")"
}
