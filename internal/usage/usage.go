// Package usage has the definition of a command line: what --help prints, and what man
// pages, completions and docs/COMMANDS.md are made of.
package usage

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/version"
)

// Command is a command or subcommand.
type Command struct {
	Name    string `json:"name"`
	Summary string `json:"summary"`        // without a full stop
	Args    string `json:"args,omitempty"` // "SRC DST"; small letters are words to choose from: "[path|rescue]"
	// Text has paragraphs, divided by empty lines. Lines that begin with two blanks are
	// printed as they are.
	Text     string     `json:"text,omitempty"`
	Options  []Option   `json:"options,omitempty"`
	Commands []*Command `json:"commands,omitempty"`
	// Global are names of options that the subcommands have, too; Without are those of them that this one refuses.
	Global  []string `json:"-"`
	Without []string `json:"-"`
	// Flags parses the options, and defines them if Options is empty.
	Flags *flag.FlagSet `json:"-"`

	parent *Command
}

// Option is one option of a command.
type Option struct {
	Names   []string `json:"names"`           // without dashes
	Value   string   `json:"value,omitempty"` // "FILE", or words to choose from, "local|rescue"; "" for a switch
	Default string   `json:"default,omitempty"`
	Text    string   `json:"text"`
}

// JSON is the only argument of a command that prints its definition.
const JSON = "--help=json"

// NewOption makes an option; the word in backquotes in text is the name of its value.
func NewOption(names []string, takesValue bool, def, text string) Option {
	o := Option{Names: names, Text: text}
	if !takesValue {
		return o
	}
	if o.Value = "VALUE"; def != "0" && def != "[]" {
		o.Default = strings.Trim(def, `"`)
	}
	if before, rest, ok := strings.Cut(text, "`"); ok {
		if value, after, ok := strings.Cut(rest, "`"); ok {
			o.Value, o.Text = value, before+value+after
			if rest, ok := strings.CutPrefix(after, ": "); ok && before == "" {
				o.Text = rest
			}
		}
	}
	return o
}

// String gives the option as it is typed: "-o, --output FILE".
func (o Option) String() string {
	names := slices.Clone(o.Names)
	slices.SortStableFunc(names, func(a, b string) int { return min(len(a), 2) - min(len(b), 2) })
	for i, n := range names {
		names[i] = Dashed(n)
	}
	return strings.TrimRight(strings.Join(names, ", ")+" "+o.Value, " ")
}

// Dashed gives an option's name with its dashes.
func Dashed(name string) string {
	if len(name) == 1 {
		return "-" + name
	}
	return "--" + name
}

// Full gives the name with those of the commands before it: "restore mount".
func (c *Command) Full() string {
	if c.parent == nil {
		return c.Name
	}
	return c.parent.Full() + " " + c.Name
}

// Define fills the options in from the flags, also those of the subcommands. It is called
// once, by Parse or for the uppermost command.
func (c *Command) Define() *Command {
	if c.Flags != nil && len(c.Options) == 0 {
		c.Flags.VisitAll(func(f *flag.Flag) {
			b, ok := f.Value.(interface{ IsBoolFlag() bool })
			c.Options = append(c.Options, NewOption([]string{f.Name}, !ok || !b.IsBoolFlag(), f.DefValue, f.Usage))
		})
	}
	c.Options = append(c.Options, Option{Names: []string{"help", "h"}, Text: "print this help"})
	for _, s := range c.Commands {
		s.parent, s.Global = c, c.Global
		for _, n := range c.Global {
			if slices.Contains(s.Without, n) {
				continue
			}
			if i := slices.IndexFunc(c.Options, func(o Option) bool { return o.Names[0] == n }); s.Flags == nil && i >= 0 {
				s.Options = append(s.Options, c.Options[i])
			} else if s.Flags != nil && s.Flags.Lookup(n) == nil {
				f := c.Flags.Lookup(n)
				s.Flags.Var(f.Value, n, f.Usage)
			}
		}
		s.Define()
	}
	return c
}

// Parse reads options, also behind other words, and gives the other words and the command
// that they belong to: c or a subcommand. Help goes to out; the error is flag.ErrHelp then.
func (c *Command) Parse(out io.Writer, args []string) (*Command, []string, error) {
	if c.parent == nil {
		c.Define()
	}
	if c.parent == nil && slices.Equal(args, []string{JSON}) {
		return c, nil, c.WriteJSON(out)
	}
	if len(args) == 1 && args[0] == "--version" {
		if _, err := fmt.Fprintln(out, c.Full(), version.String()); err != nil {
			return c, nil, err
		}
		return c, nil, flag.ErrHelp
	}
	c.Flags.Init(c.Name, flag.ContinueOnError)
	c.Flags.SetOutput(io.Discard)
	c.Flags.Usage = func() {}
	var words, rest []string
	if i := slices.Index(args, "--"); i >= 0 {
		args, rest = args[:i], args[i:]
	}
	for len(args) > 0 {
		if err := c.Flags.Parse(args); errors.Is(err, flag.ErrHelp) {
			return c, nil, c.WriteHelp(out)
		} else if err != nil {
			if c.Flags.Lookup("json") != nil && slices.Contains(args, "--json") {
				_ = c.Flags.Set("json", "true") // the error is an event
			}
			return c, nil, exit.Usage(Wrong(err))
		}
		if args = c.Flags.Args(); len(args) > 0 {
			if s := c.Find(args[0]); s != nil && len(words) == 0 {
				return s.Parse(out, append(args[1:], rest...))
			}
			words, args = append(words, args[0]), args[1:]
		}
	}
	return c, append(words, rest[min(1, len(rest)):]...), nil
}

// Find gives the subcommand with this name, or nil.
func (c *Command) Find(name string) *Command {
	if i := slices.IndexFunc(c.Commands, func(s *Command) bool { return s.Name == name }); i >= 0 {
		return c.Commands[i]
	}
	return nil
}

// Wrong gives an error of flag or of urfave/cli in the words of our messages.
func Wrong(err error) error {
	s := err.Error()
	if name, ok := strings.CutPrefix(s, "flag provided but not defined: -"); ok {
		return fmt.Errorf("unknown option %s", Dashed(strings.TrimLeft(name, "-")))
	}
	if name, ok := strings.CutPrefix(s, "flag needs an argument: -"); ok {
		return fmt.Errorf("option %s needs a value", Dashed(strings.TrimLeft(name, "-")))
	}
	for _, form := range []string{" for flag -", " for -"} {
		if before, after, ok := strings.Cut(s, form); ok {
			name, _, _ := strings.Cut(after, ": ")
			return fmt.Errorf("option %s: %s", Dashed(strings.TrimLeft(name, "-")), before)
		}
	}
	return err
}

// WriteJSON writes the definition, and returns flag.ErrHelp if it could be written.
func (c *Command) WriteJSON(out io.Writer) error {
	b, err := json.MarshalIndent(c, "", " ")
	if err != nil {
		return err
	}
	return write(out, string(b)+"\n")
}

// Read gives the definition that WriteJSON has written.
func Read(b []byte) (*Command, error) {
	c := &Command{}
	if err := json.Unmarshal(b, c); err != nil {
		return nil, fmt.Errorf("cannot read a command's definition: %w", err)
	}
	each(c, func(c *Command) {
		for _, s := range c.Commands {
			s.parent = c
		}
	})
	return c, nil
}

// WriteHelp writes the text of --help, and returns flag.ErrHelp if it could be written.
func (c *Command) WriteHelp(out io.Writer) error { return write(out, c.Help()) }

func write(out io.Writer, s string) error {
	if _, err := io.WriteString(out, s); err != nil {
		return fmt.Errorf("cannot write to standard output: %w", err)
	}
	return flag.ErrHelp
}

// Synopsis gives the lines that may be typed.
func (c *Command) Synopsis() []string {
	line := c.Full()
	if len(c.Options) > 0 {
		line += " [OPTION...]"
	}
	lines := []string{strings.TrimRight(line+" "+c.Args, " ")}
	if c.Args == "" && len(c.Commands) > 0 {
		lines = nil
	}
	if len(c.Commands) > 0 {
		lines = append(lines, line+" COMMAND ...")
	}
	return lines
}

// column is where the texts of --help begin, width where they end.
const column, width = 24, 79

// Help gives the text of --help.
func (c *Command) Help() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s - %s\n\n", c.Full(), c.Summary)
	for i, l := range c.Synopsis() {
		fmt.Fprintf(&b, "%-6s %s\n", []string{"Usage:", ""}[min(i, 1)], l)
	}
	for _, p := range c.Paragraphs() {
		b.WriteString("\n" + p + "\n")
	}
	if len(c.Commands) > 0 {
		b.WriteString("\nCommands:\n")
		for _, s := range c.Commands {
			entry(&b, s.Name, s.Summary)
		}
	}
	if len(c.Options) > 0 {
		b.WriteString("\nOptions:\n")
	}
	for _, o := range c.Options {
		entry(&b, o.String(), o.Describe())
	}
	b.WriteString("\nExit status:\n")
	for _, s := range exit.Statuses {
		entry(&b, fmt.Sprint(s.Code), s.Text)
	}
	return b.String()
}

// Describe gives the text of an option with its default.
func (o Option) Describe() string {
	if o.Default == "" {
		return o.Text
	}
	return o.Text + " (default: " + o.Default + ")"
}

// Paragraphs gives the paragraphs of the text, wrapped.
func (c *Command) Paragraphs() []string {
	var out []string
	for p := range strings.SplitSeq(strings.Trim(c.Text, "\n"), "\n\n") {
		if !strings.HasPrefix(p, "  ") && p != "" {
			p = strings.Join(Wrap(p, width), "\n")
		}
		if p != "" {
			out = append(out, p)
		}
	}
	return out
}

func entry(b *strings.Builder, what, text string) {
	what = "  " + what
	for i, l := range Wrap(text, width-column) {
		if i == 0 && len(what) >= column-1 {
			b.WriteString(what + "\n")
			what = ""
		}
		fmt.Fprintf(b, "%-*s%s\n", column, what, l)
		what = ""
	}
}

// Wrap divides a text into lines of at most n columns.
func Wrap(text string, n int) []string {
	var lines []string
	for _, w := range strings.Fields(text) {
		if i := len(lines) - 1; i >= 0 && len([]rune(lines[i]))+1+len([]rune(w)) <= n {
			lines[i] += " " + w
			continue
		}
		lines = append(lines, w)
	}
	return lines
}
