package usage

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/ptytest"
	"github.com/mkcdrec/mkcdrec/internal/version"
)

// sample is a command with all kinds of options and words.
func sample() *Command {
	set := func(define func(*flag.FlagSet)) *flag.FlagSet {
		f := flag.NewFlagSet("", flag.ContinueOnError)
		define(f)
		return f
	}
	return &Command{Name: "tool", Summary: "do 'things'", Args: "[SET]", Global: []string{"json"}, Text: "\nOne paragraph.\n\n  tool verbatim\n",
		Flags: set(func(f *flag.FlagSet) {
			f.Bool("json", false, "print events")
			f.String("mode", "fast", "`fast|slow`: how [it] is done")
			f.String("into", "", "`DIR` for it; \"all\" of it")
			f.Int("n", 0, "`NUMBER` of times")
		}),
		Commands: []*Command{
			{Name: "make", Summary: "make it: all", Args: "FILE", Flags: set(func(f *flag.FlagSet) { f.Bool("all", false, "make all") })},
			{Name: "test", Summary: "test it", Args: "[path|rescue]", Flags: set(func(*flag.FlagSet) {})},
		}}
}

func TestParse(t *testing.T) {
	for _, c := range []struct {
		args, command, words, err string
	}{
		{"a -json b", "tool", "a b", ""},
		{"a -- -json --", "tool", "a -json --", ""},
		{"--mode slow make f --all --json", "make", "f", ""},
		{"make -- --all", "make", "--all", ""},
		{"x make", "tool", "x make", ""},
		{"--nosuch", "tool", "", "unknown option --nosuch"},
		{"make -x", "make", "", "unknown option -x"},
		{"--into", "tool", "", "option --into needs a value"},
		{"-n many", "tool", "", `option -n: invalid value "many"`},
		{"--json=maybe", "tool", "", `option --json: invalid boolean value "maybe"`},
	} {
		got, words, err := sample().Parse(io.Discard, strings.Fields(c.args))
		if c.err == "" && err != nil || c.err != "" && (err == nil || err.Error() != c.err || exit.Code(err) != exit.BadUsage) {
			t.Errorf("Parse(%s): %v; want %q", c.args, err, c.err)
		}
		if got.Name != c.command || strings.Join(words, " ") != c.words {
			t.Errorf("Parse(%s) = %s %q; want %s %s", c.args, got.Name, words, c.command, c.words)
		}
	}
	want := &flag.FlagSet{}
	var all bool
	want.BoolVar(&all, "json", false, "")
	c := &Command{Name: "t", Flags: want, Global: []string{"json"}, Commands: []*Command{{Name: "sub", Flags: flag.NewFlagSet("", 0)}}}
	if _, _, err := c.Parse(io.Discard, []string{"sub", "--json"}); err != nil || !all {
		t.Errorf("a global option behind a subcommand: %v, %v", all, err)
	}
}

// TestHelp: help is not an error, is at most 79 columns wide, and has everything; where it
// can't be written, that is the error.
func TestHelp(t *testing.T) {
	var b bytes.Buffer
	if _, _, err := sample().Parse(&b, []string{"--help"}); !errors.Is(err, flag.ErrHelp) || exit.Code(err) != exit.OK {
		t.Errorf("Parse(--help): %v", err)
	}
	for _, w := range []string{"tool - do 'things'\n", "Usage: tool [OPTION...] [SET]\n       tool [OPTION...] COMMAND ...\n", "  make                  make it: all\n",
		"--mode fast|slow      how [it] is done (default: fast)", "--into DIR            DIR for it", "-h, --help", "  tool verbatim\n", "  4                     refused"} {
		if !strings.Contains(b.String(), w) {
			t.Errorf("no %q in\n%s", w, &b)
		}
	}
	for l := range strings.Lines(b.String()) {
		if len(l) > width+1 {
			t.Errorf("%d columns: %s", len(l), l)
		}
	}
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	for _, args := range [][]string{{"make", "--help"}, {JSON}} {
		if _, _, err := sample().Parse(full, args); exit.Code(err) != exit.Failed {
			t.Errorf("Parse(%q) > /dev/full: %v", args, err)
		}
	}
}

func TestRead(t *testing.T) {
	var b bytes.Buffer
	if _, _, err := sample().Parse(&b, []string{JSON}); !errors.Is(err, flag.ErrHelp) {
		t.Fatal(err)
	}
	d, err := Read(b.Bytes())
	if err != nil || d.Help() != sample().Define().Help() || d.Find("make").Full() != "tool make" {
		t.Errorf("Read = %v, %v", d, err)
	}
	if _, err := Read([]byte("{")); err == nil {
		t.Error("Read takes half a definition")
	}
}

// completions are lines that end where Tab is pressed, and what must be offered.
var completions = []struct {
	line, want string
}{
	{"tool m", "make"},
	{"tool --mo", "--mode"},
	{"tool --mode s", "slow"},
	{"tool make --al", "--all"},
	{"tool make fil", "file one"},
	{"tool --json test re", "rescue"},
	{"tool --into di", "dir"},
	{"tool make --js", "--json"},
}

// place makes a directory with files to complete, and the script for a shell in it.
func place(t *testing.T, name string) (dir, script string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Skipf("%s is not installed; make deps does it", name)
	}
	dir = t.TempDir()
	script = filepath.Join(t.TempDir(), "script")
	if err := errors.Join(os.WriteFile(dir+"/file one", nil, 0o600), os.Mkdir(dir+"/dir", 0o700), os.WriteFile(dir+"/difile", nil, 0o600),
		os.WriteFile(script, []byte(sample().Define().Completion(name)), 0o600)); err != nil {
		t.Fatal(err)
	}
	return dir, script
}

func TestBash(t *testing.T) {
	dir, script := place(t, "bash")
	for _, c := range append(completions, struct{ line, want string }{"tool --mode = sl", "slow"}) {
		words := strings.Fields(c.line)
		run := fmt.Sprintf("compopt() { :; }; . %s && COMP_WORDS=(%s) COMP_CWORD=%d && _tool && printf '%%s\\n' \"${COMPREPLY[@]}\"", script, strings.Join(words, " "), len(words)-1)
		cmd := exec.Command("bash", "--norc", "-c", run)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		if err != nil || strings.TrimSpace(string(out)) != c.want {
			t.Errorf("%s<Tab> = %q, %v; want %q", c.line, out, err, c.want)
		}
	}
}

func TestFish(t *testing.T) {
	dir, script := place(t, "fish")
	for _, c := range completions {
		cmd := exec.Command("fish", "--no-config", "-c", "source "+script+"; complete -C '"+c.line+"'")
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "HOME="+t.TempDir())
		out, err := cmd.CombinedOutput()
		var got []string
		for l := range strings.Lines(string(out)) {
			w, _, _ := strings.Cut(strings.TrimSpace(l), "\t")
			got = append(got, strings.TrimSuffix(strings.ReplaceAll(w, `\`, ""), "/"))
		}
		if err != nil || !slices.Contains(got, c.want) || len(got) > 2 {
			t.Errorf("%s<Tab> = %q, %v; want %q", c.line, got, err, c.want)
		}
	}
}

// TestZsh types into an interactive zsh, since its completion works nowhere else.
func TestZsh(t *testing.T) {
	dir, script := place(t, "zsh")
	cmd := exec.Command("zsh", "-f", "-i")
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "TERM=dumb", "ZDOTDIR="+dir, "HOME="+dir)
	x := ptytest.Start(t, cmd, 50, 200)
	x.Keys(fmt.Sprintf("PS1='> ' RPS1= ; unsetopt zle_bracketed_paste; autoload -U compinit; compinit -D -u; . %s; tool() { print -r -- \"<$*>\" }; echo ready$((1+1))\n", script))
	x.Match("ready2")
	for _, c := range completions {
		x.Keys(c.line + "\t")
		time.Sleep(300 * time.Millisecond)
		x.Keys("\n")
		fields := strings.Fields(c.line)
		x.Match("<" + regexp.QuoteMeta(strings.TrimPrefix(strings.Join(fields[:len(fields)-1], " ")+" ", "tool ")+c.want) + "/?>")
	}
}

// TestVersion: --version prints what other programs print with it.
func TestVersion(t *testing.T) {
	var b strings.Builder
	if _, _, err := sample().Parse(&b, []string{"--version"}); exit.Code(err) != exit.OK || err == nil {
		t.Errorf("Parse(--version) = %v", err)
	}
	if want := sample().Name + " " + version.String() + "\n"; b.String() != want {
		t.Errorf("--version prints %q; want %q", &b, want)
	}
	if _, _, err := sample().Parse(io.Discard, []string{"--version", "x"}); exit.Code(err) != exit.BadUsage {
		t.Errorf("Parse(--version x) = %v; want wrong usage", err)
	}
}
