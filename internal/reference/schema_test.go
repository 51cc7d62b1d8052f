package reference

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/mkcdrec/mkcdrec/internal/ui"
)

// compiled gives the schema as another program reads it.
func compiled(t *testing.T) *jsonschema.Schema {
	t.Helper()
	b, err := Schema()
	if err != nil {
		t.Fatal(err)
	}
	current(t, "docs/events.schema.json", string(b))
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("events.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("events.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func validate(t *testing.T, s *jsonschema.Schema, line string) error {
	t.Helper()
	v, err := jsonschema.UnmarshalJSON(strings.NewReader(line))
	if err != nil {
		t.Fatalf("%v: %s", err, line)
	}
	return s.Validate(v)
}

// fill sets everything in a value, with one element in each list and map.
func fill(v reflect.Value, depth int) {
	switch {
	case depth > 12 || !v.CanSet():
		return
	case v.Type() == reflect.TypeFor[time.Time]():
		v.Set(reflect.ValueOf(time.Unix(1, 2).UTC()))
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), depth+1)
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), depth+1)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		if fill(v.Index(0), depth+1); v.Index(0).Kind() == reflect.Interface {
			v.SetLen(0)
		}
	case reflect.Map:
		k, e := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(k, depth+1)
		fill(e, depth+1)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(k, e)
	case reflect.String:
		v.SetString("text")
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(3)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(3)
	case reflect.Float64:
		v.SetFloat(0.5)
	case reflect.Bool:
		v.SetBool(true)
	}
}

// TestSchema: the schema takes each kind of result, empty and with everything in it, and
// refuses other events.
func TestSchema(t *testing.T) {
	s := compiled(t)
	for kind, typ := range kinds {
		for _, full := range []bool{false, true} {
			v := reflect.New(typ).Elem()
			if full {
				fill(v, 0)
			}
			b, err := json.Marshal(ui.Event{Version: ui.EventVersion, Time: time.Unix(1, 0).UTC(), Event: "result", Kind: kind, Data: v.Interface()})
			if err != nil {
				t.Fatalf("%s: %v", kind, err)
			}
			if v.Kind() == reflect.Slice && v.IsNil() {
				continue // a result that is an empty list is left out
			}
			if err := validate(t, s, string(b)); err != nil {
				t.Errorf("%s, full: %v: %v\n%.500s", kind, full, err, b)
			}
		}
	}
	const at = `{"version":1,"time":"2026-11-30T01:02:03Z",`
	for _, good := range []string{`"event":"note","message":"x"}`, `"event":"error","message":"x","data":{"hint":""}}`, `"event":"progress","phase":"x","bytes":3,"waits":{"read":0.5}}`} {
		if err := validate(t, s, at+good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{`"event":"nosuch"}`, `"event":"result","data":{}}`, `"event":"result","kind":"nosuch","data":{}}`, `"event":"result","kind":"version","data":{"version":1}}`,
		`"event":"result","kind":"version","data":{}}`, `"event":"error","message":"x","data":{}}`, `"event":"note","message":1}`, `"event":"note","more":1}`} {
		if validate(t, s, at+bad) == nil {
			t.Errorf("the schema takes %s", bad)
		}
	}
}
