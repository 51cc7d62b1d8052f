// Package reference makes manual pages and documents of the definitions of commands and of
// the configuration.
package reference

import (
	"fmt"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/usage"
)

// Release is what pages are dated with.
type Release struct {
	Version string // 0.2.0
	Date    string // 2026-11-30
}

// page is a manual page that is being written.
type page struct{ strings.Builder }

func newPage(name string, section int, r Release) *page {
	p := &page{}
	fmt.Fprintf(p, ".TH %s %d %s \"mkcdrec %s\" \"mkcdrec\"\n", roff(strings.ToUpper(name)), section, r.Date, roff(r.Version))
	return p
}

func roff(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`, "'", `\(aq`, "`", `\(ga`, "~", `\(ti`, "^", `\(ha`).Replace(s)
	if strings.HasPrefix(s, ".") {
		return `\&` + s
	}
	return s
}

func (p *page) section(name string) { p.WriteString(".SH " + name + "\n") }

func (p *page) entry(what, text string) { p.WriteString(".TP\n" + what + "\n" + roff(text) + "\n") }

// text writes paragraphs; those that begin with two blanks stay as they are.
func (p *page) text(paragraphs []string) {
	for i, s := range paragraphs {
		lines := strings.Split(s, "\n")
		for j := range lines {
			lines[j] = roff(lines[j])
		}
		s := strings.Join(lines, "\n") + "\n"
		switch {
		case strings.HasPrefix(s, "  "):
			s = ".PP\n.nf\n" + s + ".fi\n"
		case i > 0:
			s = ".PP\n" + s
		}
		p.WriteString(s)
	}
}

// Man gives the manual pages of a command and its subcommands by their names: "restore-mount.8".
func Man(c *usage.Command, r Release) map[string]string {
	pages := map[string]string{}
	name := strings.ReplaceAll(c.Full(), " ", "-")
	p := newPage(name, 8, r)
	p.section("NAME")
	fmt.Fprintf(p, "%s \\- %s\n", roff(name), roff(c.Summary))
	p.section("SYNOPSIS")
	for i, l := range c.Synopsis() {
		if i > 0 {
			p.WriteString(".br\n")
		}
		fmt.Fprintf(p, "\\fB%s\\fR%s\n", roff(c.Full()), roff(strings.TrimPrefix(l, c.Full())))
	}
	p.section("DESCRIPTION")
	if c.Text == "" {
		p.WriteString(roff(strings.ToUpper(c.Summary[:1])+c.Summary[1:]) + ".\n")
	}
	p.text(c.Paragraphs())
	also := map[bool][]string{true: {"mkcdrec.yaml(5)"}}[c.Name == "mkcdrec"]
	if len(c.Commands) > 0 {
		p.section("COMMANDS")
	}
	for _, s := range c.Commands {
		p.entry(`\fB`+roff(s.Name)+`\fR`, s.Summary)
		also = append(also, name+"-"+s.Name+"(8)")
		for n, text := range Man(s, r) {
			pages[n] = text
		}
	}
	if i := strings.LastIndexByte(c.Full(), ' '); i > 0 {
		also = append(also, strings.ReplaceAll(c.Full()[:i], " ", "-")+"(8)")
	}
	p.section("OPTIONS")
	for _, o := range c.Options {
		names, value := o.String(), ""
		if o.Value != "" {
			names, value = strings.TrimSuffix(names, " "+o.Value), ` \fI`+roff(o.Value)+`\fR`
		}
		p.entry(`\fB`+roff(names)+`\fR`+value, o.Describe())
	}
	p.section("EXIT STATUS")
	for _, s := range exit.Statuses {
		p.entry(fmt.Sprint(s.Code), s.Text)
	}
	if c.Name == "mkcdrec" {
		p.section("FILES")
		p.entry("/etc/mkcdrec.yaml", "configuration; it may be missing")
	}
	if len(also) > 0 {
		p.section("SEE ALSO")
		p.WriteString(roff(strings.Join(also, ", ")) + "\n")
	}
	pages[name+".8"] = p.String()
	return pages
}

// Commands gives docs/COMMANDS.md.
func Commands(cs []*usage.Command) string {
	var b strings.Builder
	b.WriteString("# All commands\n\nThis page is made by `make docs`: it has what `--help` prints, and the manual pages have it, too.\n\n" +
		"## Exit statuses\n\nEvery command of ours ends with one of these:\n\n| status | meaning |\n|---|---|\n")
	for _, s := range exit.Statuses {
		fmt.Fprintf(&b, "| %d | %s |\n", s.Code, s.Text)
	}
	b.WriteString("\nA command that is ended by a second Ctrl-C or by a closed pipe has the shell's status for that signal.\n")
	var add func(c *usage.Command)
	add = func(c *usage.Command) {
		help, _, _ := strings.Cut(c.Help(), "\nExit status:\n")
		fmt.Fprintf(&b, "\n## %s\n\n    %s", c.Full(), strings.ReplaceAll(strings.ReplaceAll(strings.TrimRight(help, "\n")+"\n", "\n", "\n    "), "    \n", "\n"))
		for _, s := range c.Commands {
			add(s)
		}
	}
	for _, c := range cs {
		add(c)
	}
	return strings.ReplaceAll(b.String(), "    \n", "\n")
}
