package reference

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"

	"github.com/google/jsonschema-go/jsonschema"

	"github.com/mkcdrec/mkcdrec/builder"
	"github.com/mkcdrec/mkcdrec/internal/coverage"
	"github.com/mkcdrec/mkcdrec/internal/fleet"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/loaders"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/nightly"
	"github.com/mkcdrec/mkcdrec/internal/plan"
	"github.com/mkcdrec/mkcdrec/internal/repair"
	"github.com/mkcdrec/mkcdrec/internal/restore"
	"github.com/mkcdrec/mkcdrec/internal/ui"
)

// kinds are the types of the data of results.
var kinds = map[string]reflect.Type{
	"backup": reflect.TypeFor[builder.Result](), "discs": reflect.TypeFor[builder.DiscResult](), "usbkey": reflect.TypeFor[builder.KeyResult](), "tape": reflect.TypeFor[builder.TapeResult](),
	"image": reflect.TypeFor[builder.ImageResult](), "netboot": reflect.TypeFor[builder.TreeResult](), "local": reflect.TypeFor[[]string](), "room": reflect.TypeFor[builder.RoomResult](),
	"checks": reflect.TypeFor[[]builder.Check](), "set": reflect.TypeFor[manifest.Manifest](), "entry": reflect.TypeFor[builder.EntryResult](), "prune": reflect.TypeFor[builder.PruneResult](), "verified": reflect.TypeFor[builder.VerifiedResult](), "status": reflect.TypeFor[nightly.Status](), "version": reflect.TypeFor[builder.VersionResult](),
	"loaders": reflect.TypeFor[[]loaders.Package](), "layout": reflect.TypeFor[layout.Layout](), "differences": reflect.TypeFor[[]layout.Change](),
	"plan": reflect.TypeFor[restore.Planned](), "restore": reflect.TypeFor[restore.Report](), "comparison": reflect.TypeFor[repair.Verified](),
	"coverage": reflect.TypeFor[coverage.Report](), fleet.SwarmKind: reflect.TypeFor[fleet.SwarmEvent](),
}

// Schema gives docs/events.schema.json: what a line of standard output is with --json.
func Schema() ([]byte, error) {
	// A step has further fields, according to its action.
	opt := &jsonschema.ForOptions{TypeSchemas: map[reflect.Type]*jsonschema.Schema{
		reflect.TypeFor[plan.Step]():        {Type: "object"},
		reflect.TypeFor[nightly.State]():    {Type: "string", Enum: []any{"ok", "warning", "critical", "unknown"}},
		reflect.TypeFor[[]byte]():           {Types: []string{"null", "string"}, ContentEncoding: "base64"},
		reflect.TypeFor[map[string]int64](): {Types: []string{"null", "object"}, AdditionalProperties: &jsonschema.Schema{Type: "integer"}},
	}}
	s, err := jsonschema.ForType(reflect.TypeFor[ui.Event](), opt)
	if err != nil {
		return nil, err
	}
	s.Schema, s.Title = "https://json-schema.org/draft/2020-12/schema", "an event of mkcdrec, restore, clonedsk or mkcdrec-swarm"
	s.Properties["version"].Const = jsonschema.Ptr[any](ui.EventVersion)
	s.Properties["event"].Enum = []any{"phase", "progress", "done", "note", "warning", "error", "result"}
	kind := func(event, kind string, data *jsonschema.Schema) *jsonschema.Schema {
		is := map[string]*jsonschema.Schema{"event": {Const: jsonschema.Ptr[any](event)}}
		if kind != "" {
			is["kind"] = &jsonschema.Schema{Const: jsonschema.Ptr[any](kind)}
		}
		return &jsonschema.Schema{If: &jsonschema.Schema{Properties: is, Required: slices.Sorted(maps.Keys(is))}, Then: &jsonschema.Schema{Properties: map[string]*jsonschema.Schema{"data": data}, Required: []string{"data"}}}
	}
	hint, err := jsonschema.ForType(reflect.TypeFor[ui.Hint](), opt)
	if err != nil {
		return nil, err
	}
	s.AllOf = append(s.AllOf, kind("error", "", hint))
	names := slices.Sorted(maps.Keys(kinds))
	for _, n := range names {
		data, err := jsonschema.ForType(kinds[n], opt)
		if err != nil {
			return nil, fmt.Errorf("cannot describe the kind %s: %w", n, err)
		}
		s.AllOf = append(s.AllOf, kind("result", n, data))
		s.Properties["kind"].Enum = append(s.Properties["kind"].Enum, n)
	}
	s.AllOf = append(s.AllOf, &jsonschema.Schema{If: &jsonschema.Schema{Properties: map[string]*jsonschema.Schema{"event": {Const: jsonschema.Ptr[any]("result")}}}, Then: &jsonschema.Schema{Required: []string{"kind"}}})
	b, err := json.MarshalIndent(s, "", " ")
	return append(b, '\n'), err
}
