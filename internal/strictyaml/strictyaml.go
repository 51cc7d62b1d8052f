// Package strictyaml decodes YAML that people write: unknown keys and wrong types are errors
// with line and column.
package strictyaml

import (
	"bytes"
	"cmp"
	"encoding"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// ErrInvalid is the fault of a text that the library can't read without a panic, such as some
// lists with tags.
var ErrInvalid = errors.New("not valid YAML, or a value of the wrong kind")

// ErrSecond is the fault of a text with more than one document, of which the library reads the first.
var ErrSecond = errors.New("it has a second document, which begins with ---")

// Decode reads b into v. An empty b is not an error. Other errors are those of the library, and its TypeError for a
// fraction where a whole number is wanted; Text puts them into words.
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
	if err != nil {
		return err
	}
	f, err := parser.ParseBytes(b, 0)
	if err != nil {
		return err
	}
	docs := slices.DeleteFunc(f.Docs, func(d *ast.DocumentNode) bool { return d.Body == nil })
	if len(docs) > 1 {
		return ErrSecond
	}
	for _, d := range docs {
		if err := whole(d.Body, reflect.TypeOf(v)); err != nil {
			return err
		}
	}
	return nil
}

// leadingZero is the error for a number such as 010, which is 8 to some and 10 to others.
type leadingZero struct{ token *token.Token }

func (z leadingZero) Error() string {
	return fmt.Sprintf("%s begins with a 0; write %s", z.token.Value, cmp.Or(strings.TrimLeft(z.token.Value, "0"), "0"))
}

// ambiguous reports whether a number begins with a zero.
func ambiguous(v string) bool {
	return len(v) > 1 && v[0] == '0' && strings.Trim(v, "0123456789") == ""
}

// whole finds a fraction where a value of type t, or of its fields or elements, is a whole number: the library cuts it.
func whole(n ast.Node, t reflect.Type) error {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if own := reflect.PointerTo(t); own.Implements(reflect.TypeFor[yaml.BytesUnmarshaler]()) || own.Implements(reflect.TypeFor[yaml.InterfaceUnmarshaler]()) || own.Implements(reflect.TypeFor[encoding.TextUnmarshaler]()) {
		return nil
	}
	switch n := n.(type) {
	case *ast.IntegerNode:
		if t.Kind() != reflect.String && ambiguous(n.Token.Value) {
			return leadingZero{n.Token}
		}
	case *ast.FloatNode:
		if k := t.Kind(); k >= reflect.Int && k <= reflect.Uint64 {
			return &yaml.TypeError{DstType: t, SrcType: reflect.TypeFor[float64](), Token: n.Token}
		}
	case *ast.SequenceNode:
		for _, e := range n.Values {
			if t.Kind() == reflect.Slice {
				if err := whole(e, t.Elem()); err != nil {
					return err
				}
			}
		}
	case *ast.MappingNode:
		for _, e := range n.Values {
			if err := whole(e, t); err != nil {
				return err
			}
		}
	case *ast.MappingValueNode: // one key, also where there is no other
		if to := valueType(t, n.Key.String()); to != nil {
			return whole(n.Value, to)
		}
	}
	return nil
}

// valueType is the type of what a key of a value of type t has, nil where that is not known.
func valueType(t reflect.Type, key string) reflect.Type {
	switch t.Kind() {
	case reflect.Map:
		return t.Elem()
	case reflect.Struct:
		for f := range t.Fields() {
			if name, options, _ := strings.Cut(f.Tag.Get("yaml"), ","); name == key {
				return f.Type
			} else if options == "inline" {
				if to := valueType(f.Type, key); to != nil {
					return to
				}
			}
		}
	}
	return nil
}

// Place gives line and column of the value of a key, "keep.last", in b: "[2:7]"; "" if there is no such key.
func Place(b []byte, key string) string {
	p, err := yaml.PathString("$." + key)
	if err != nil {
		return ""
	}
	n, err := p.ReadNode(bytes.NewReader(b))
	if err != nil || n == nil || n.GetToken() == nil {
		return ""
	}
	return fmt.Sprintf("[%d:%d]", n.GetToken().Position.Line, n.GetToken().Position.Column)
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
	var zero leadingZero
	switch {
	case errors.As(err, &zero):
		return at(zero.token, zero.Error())
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
