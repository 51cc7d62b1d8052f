package reference

import (
	"context"
	"os"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/mkcdrec/mkcdrec/builder"
	"github.com/mkcdrec/mkcdrec/internal/usage"
)

var definitions = sync.OnceValues(func() ([]*usage.Command, error) { return Definitions(context.Background(), "../..") })

func defined(t *testing.T) []*usage.Command {
	t.Helper()
	d, err := definitions()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// current compares a document with what it is made of.
func current(t *testing.T, file, want string) {
	t.Helper()
	b, err := os.ReadFile("../../" + file)
	if err != nil || string(b) != want {
		t.Errorf("%s is not what its sources give (%v): run make docs", file, err)
	}
}

func TestCommands(t *testing.T) { current(t, "docs/COMMANDS.md", Commands(defined(t))) }

// lint has groff and mandoc check a manual page, where they are installed.
func lint(t *testing.T, name, text string) {
	t.Helper()
	for _, c := range [][]string{{"groff", "-man", "-ww", "-z", "-Tutf8", "-K", "utf8"}, {"mandoc", "-T", "lint", "-W", "warning"}} {
		if _, err := exec.LookPath(c[0]); err != nil {
			t.Logf("%s is not installed", c[0])
			continue
		}
		cmd := exec.Command(c[0], c[1:]...)
		cmd.Stdin = strings.NewReader(text)
		if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("%s: %s: %v\n%s", name, c[0], err, out)
		}
	}
}

// TestMan: each command and subcommand has a page that formatters take without a warning,
// and that has all options.
func TestMan(t *testing.T) {
	r := Release{Version: "1.2.3", Date: "2026-11-30"}
	pages := 0
	for _, d := range defined(t) {
		for name, text := range Man(d, r) {
			pages++
			lint(t, name, text)
			if !strings.Contains(text, ".SH OPTIONS") || !strings.Contains(text, ".SH EXIT STATUS") || !strings.Contains(text, `\-\-help`) {
				t.Errorf("%s has no options or statuses:\n%s", name, text)
			}
		}
	}
	if pages < 30 {
		t.Errorf("%d pages; want one for each command and subcommand", pages)
	}
	for _, broken := range []string{".TH X 8 2026-11-30 x x\n.SH NAME\n.nosuch\n"} {
		if out, err := exec.Command("groff", "-v").CombinedOutput(); err != nil {
			t.Skipf("groff: %v %s", err, out)
		}
		cmd := exec.Command("groff", "-man", "-ww", "-z", "-Tutf8")
		cmd.Stdin = strings.NewReader(broken)
		if out, _ := cmd.CombinedOutput(); len(out) == 0 {
			t.Errorf("groff reports nothing for %q: does the test look at its warnings?", broken)
		}
	}
}

func keys(t *testing.T) []builder.Key {
	t.Helper()
	k, err := builder.Keys()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// load reads a configuration.
func load(t *testing.T, text string) *builder.Config {
	t.Helper()
	file := t.TempDir() + "/mkcdrec.yaml"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := builder.LoadConfig(file, true)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return c
}

// TestConfig: the installed file gives the defaults; each key in it can be set by removing
// the # before it, and changes what is read; a default that is written down changes nothing.
func TestConfig(t *testing.T) {
	ks := keys(t)
	none, err := builder.LoadConfig("/nosuch", false)
	if err != nil {
		t.Fatal(err)
	}
	text := ConfigFile(ks)
	if got := load(t, text); !reflect.DeepEqual(got, none) {
		t.Errorf("the installed file gives %+v; want %+v", got, none)
	}
	for _, k := range ks {
		name := k.Name[strings.LastIndexByte(k.Name, '.')+1:]
		line := "#" + name + ": "
		if n := strings.Count(text, line); n != 1 {
			t.Errorf("%q is %d times in the installed file", line, n)
		}
		with := text
		if k.Name == "encrypt" { // which is for the recipients
			with = strings.Replace(text, "#recipients: ", "recipients: ", 1)
		}
		if got := load(t, strings.Replace(with, line, line[1:], 1)); reflect.DeepEqual(got, none) {
			t.Errorf("%s: its example is the default", k.Name)
		}
		if k.Default == "" {
			continue
		}
		k.Example = k.Default
		if got := load(t, setting(k)); !reflect.DeepEqual(got, none) {
			t.Errorf("%s: %s is not the default: %+v", k.Name, k.Default, got)
		}
		if k.Values != "" && !slices.Contains(strings.Split(k.Values, "|"), k.Default) {
			t.Errorf("%s: the default %s is not one of %s", k.Name, k.Default, k.Values)
		}
	}
	for _, k := range ks {
		for v := range strings.SplitSeq(k.Values, "|") {
			if k.Example = v; v != "" && k.Name != "luks_headers" {
				load(t, setting(k))
			}
		}
	}
	current(t, "docs/CONFIG.md", ConfigDoc(ks))
	lint(t, "mkcdrec.yaml.5", ConfigMan(ks, Release{Version: "1", Date: "2026-11-30"}))
}
