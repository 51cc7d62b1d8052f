package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/mkcdrec/mkcdrec/internal/coverage"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
)

// TestEvents: whatever our commands print to standard output with --json are lines that
// docs/events.schema.json allows; a command that fails prints its error as one, too.
func TestEvents(t *testing.T) {
	bin, dir := t.TempDir(), t.TempDir()
	build := exec.Command("go", "build", "-o", bin+"/", ".", "../restore", "../clonedsk")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	schema, err := jsonschema.NewCompiler().Compile("../../docs/events.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	l := &layout.Layout{Version: layout.Version, Boot: layout.Boot{Firmware: layout.BIOS}}
	var b bytes.Buffer
	if err := errors.Join(l.Write(&b), os.WriteFile(dir+"/a.json", b.Bytes(), 0o600)); err != nil {
		t.Fatal(err)
	}
	r, err := coverage.Of(l, coverage.Marks{})
	if err != nil {
		t.Fatal(err)
	}
	b = bytes.Buffer{}
	if err := errors.Join(os.Rename(aSet(t, time.Now()), dir+"/set"), r.Write(&b), os.WriteFile(dir+"/set/"+coverage.File, b.Bytes(), 0o600)); err != nil {
		t.Fatal(err)
	}
	m, err := os.ReadFile(dir + "/set/" + manifest.File)
	if err != nil {
		t.Fatal(err)
	}
	man, err := manifest.Parse(m)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(b.Bytes())
	man.Files = append(man.Files, manifest.FileSum{Name: coverage.File, Size: quantity.Size(b.Len()), SHA256: hex.EncodeToString(sum[:])})
	if m, err = json.Marshal(man); err == nil {
		err = os.WriteFile(dir+"/set/"+manifest.File, m, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	l.Hostname, b = "other", bytes.Buffer{}
	if err := errors.Join(l.Write(&b), os.WriteFile(dir+"/b.json", b.Bytes(), 0o600)); err != nil {
		t.Fatal(err)
	}
	words := strings.NewReplacer("SET", aSet(t, time.Now()), "DIR", dir)
	for line, want := range map[string]string{
		"mkcdrec --json version": `"kind":"version"`, "mkcdrec version --json": `"kind":"version"`, "mkcdrec --json list SET": `"kind":"set"`,
		"mkcdrec --json list --all SET": `"kind":"entry"`, "mkcdrec --json list -l SET file": `"path":"/file"`, "mkcdrec --json verify SET": `"kind":"verified"`,
		"mkcdrec --json extract -C DIR SET file": `"event":"note"`, "mkcdrec --json layout show DIR/a.json": `"kind":"layout"`, "mkcdrec --json layout diff DIR/a.json DIR/b.json": `"kind":"differences"`,
		"mkcdrec --json coverage DIR/set": `"kind":"coverage"`, "mkcdrec --json coverage DIR/no": `"event":"error"`, "mkcdrec --json coverage SET": `by an older version`, "mkcdrec --json test path": `"kind":"checks"`, "mkcdrec --json -n path DIR": `"version":1`,
		"mkcdrec --json list DIR/no": `"event":"error"`, "mkcdrec --json list": `"event":"error"`, "mkcdrec --json list --nosuch": `"event":"error"`, "mkcdrec --json": `"event":"error"`, "mkcdrec --json nosuch": `"event":"error"`,
		"restore --json --plan DIR/no": `"event":"error"`, "restore --json SET": `"event":"error"`, "restore --json": `"event":"error"`, "restore --json --nosuch": `"event":"error"`, "restore --json mount": `"event":"error"`,
		"restore --json verify DIR/no": `"event":"error"`, "restore extract --json SET file --to DIR": `"event":"note"`,
		"clonedsk --json": `"event":"error"`, "clonedsk --json DIR/no DIR/no2": `"event":"error"`, "clonedsk --nosuch --json": `"event":"error"`,
	} {
		args := strings.Fields(words.Replace(line))
		c := exec.Command(bin+"/"+args[0], args[1:]...)
		var errs strings.Builder
		c.Stderr = &errs
		out, err := c.Output()
		if !strings.Contains(string(out), want) || err != nil && !strings.Contains(string(out), `"event":"error"`) {
			t.Errorf("%s: %v: no %s in\n%s%s", line, err, want, out, &errs)
		}
		for l := range strings.Lines(string(out)) {
			v, err := jsonschema.UnmarshalJSON(strings.NewReader(l))
			if err == nil {
				err = schema.Validate(v)
			}
			if err != nil {
				t.Errorf("%s prints %.300s: %v", line, l, err)
			}
		}
	}
}
