package reference

import (
	"fmt"
	"strings"

	"github.com/mkcdrec/mkcdrec/builder"
	"github.com/mkcdrec/mkcdrec/internal/usage"
)

const configText = "mkcdrec reads /etc/mkcdrec.yaml, or the file named with -c. It may be missing: every key has a default. Unknown keys and wrong values are errors with their line (exit status 2). Options of the command line override it."

// facts gives type, values and default of a key as a sentence.
func facts(k builder.Key) string {
	s := "Type: " + k.Type
	if k.Values != "" {
		s = "One of " + strings.ReplaceAll(k.Values, "|", ", ")
	}
	if k.Default != "" {
		return s + "; default: " + k.Default + "."
	}
	return s + "; default: none."
}

// setting gives the lines of an example.
func setting(k builder.Key) string {
	if above, name, ok := strings.Cut(k.Name, "."); ok {
		return above + ":\n  " + name + ": " + k.Example
	}
	return k.Name + ": " + k.Example
}

// ConfigFile gives /etc/mkcdrec.yaml, in which all keys are comments.
func ConfigFile(keys []builder.Key) string {
	var b strings.Builder
	comment := func(indent, text string) {
		for _, l := range usage.Wrap(text, 96) {
			b.WriteString(indent + "# " + l + "\n")
		}
	}
	comment("", "Configuration of mkcdrec. "+strings.TrimPrefix(configText, "mkcdrec reads /etc/mkcdrec.yaml, or the file named with -c. ")+" See mkcdrec.yaml(5). To set a key, remove the # before it.")
	group := ""
	for _, k := range keys {
		above, name, ok := strings.Cut(k.Name, ".")
		if !ok {
			above, name = "", k.Name
		}
		indent := ""
		if b.WriteByte('\n'); above != group {
			b.WriteString(above + ":\n")
			group = above
		}
		if above != "" {
			indent = "  "
		}
		comment(indent, k.Text+" "+facts(k))
		b.WriteString(indent + "#" + name + ": " + k.Example + "\n")
	}
	return b.String()
}

// ConfigMan gives mkcdrec.yaml(5).
func ConfigMan(keys []builder.Key, r Release) string {
	p := newPage("mkcdrec.yaml", 5, r)
	p.section("NAME")
	p.WriteString("mkcdrec.yaml \\- configuration of mkcdrec\n")
	p.section("DESCRIPTION")
	p.text([]string{configText})
	p.section("KEYS")
	p.text([]string{"rescue.modules is the key modules below rescue, and so on."})
	for _, k := range keys {
		p.entry(`\fB`+roff(k.Name)+`\fR`, k.Text+" "+facts(k))
		p.WriteString(".IP\n.EX\n" + roff(setting(k)) + "\n.EE\n")
	}
	p.section("FILES")
	p.entry("/etc/mkcdrec.yaml", "as installed, it has every key as a comment")
	p.section("SEE ALSO")
	p.WriteString(roff("mkcdrec(8)") + "\n")
	return p.String()
}

// ConfigDoc gives docs/CONFIG.md.
func ConfigDoc(keys []builder.Key) string {
	var b strings.Builder
	fmt.Fprint(&b, "# All keys of the configuration\n\nThis page is made by `make docs` of `builder/keys.go`; the manual page mkcdrec.yaml(5) has it, too.\n\n"+
		strings.Join(usage.Wrap(configText, 118), "\n")+"\n")
	for _, k := range keys {
		fmt.Fprintf(&b, "\n## %s\n\n%s\n\n    %s\n", k.Name, strings.Join(usage.Wrap(strings.ReplaceAll(k.Text, "*", `\*`)+" "+facts(k), 118), "\n"), strings.ReplaceAll(setting(k), "\n", "\n    "))
	}
	return b.String()
}
