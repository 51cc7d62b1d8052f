package main

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/mkcdrec/mkcdrec/internal/fleet"
	"github.com/mkcdrec/mkcdrec/internal/swarm/node"
)

// TestEvents: what is printed is a line that the documented schema takes, and that our own
// reader understands; an event with a newline or control characters stays one line.
func TestEvents(t *testing.T) {
	f, err := os.Open("../../../docs/events.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	doc, err := jsonschema.UnmarshalJSON(f)
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
	for _, e := range []node.Event{
		{Event: "serving", Seconds: 0.5, URL: "http://192.0.2.1:8080/", Hash: "ab", Manifest: "cd", Of: 3, Bytes: 5, Addr: "192.0.2.1:6881"},
		{Event: "trouble", Why: "line\nbreak \x1b[2J <&>"},
		{Event: "read"},
	} {
		var b bytes.Buffer
		events(&b)(e)
		if n := strings.Count(b.String(), "\n"); n != 1 || strings.Contains(b.String(), "\x1b") {
			t.Errorf("%q has %d lines; want 1", b.String(), n)
		}
		v, err := jsonschema.UnmarshalJSON(bytes.NewReader(b.Bytes()))
		if err == nil {
			err = s.Validate(v)
		}
		if err != nil {
			t.Errorf("%s: %v", &b, err)
		}
		if got, ok := fleet.ReadSwarmEvent(b.Bytes()); !ok || got != e {
			t.Errorf("ReadSwarmEvent = %+v, %v; want %+v", got, ok, e)
		}
	}
	for _, other := range []string{"no event", `{"event":"result","kind":"backup","data":{"event":"read"}}`, `{"event":"read"}`, `{"kind":"swarm","data":3}`} {
		if _, ok := fleet.ReadSwarmEvent([]byte(other)); ok {
			t.Errorf("ReadSwarmEvent(%s) = true", other)
		}
	}
}
