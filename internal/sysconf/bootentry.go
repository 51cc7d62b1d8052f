package sysconf

import (
	"iter"
	"os"
	"slices"
	"strings"
)

// BootEntry is what a boot loader starts a Linux kernel with. Names of files are as they
// are written, but for GRUB's device before them.
type BootEntry struct {
	ID      string   // its name, for the boot loader; "" in a grub.cfg
	Linux   string   // the kernel; "" for none
	Initrd  []string // in the order in which they are loaded
	Options string   // kernel command line
}

// maxExpanded is how many bytes the values of variables add to what is read, together:
// much more than a kernel command line can have, which is 4096 at most.
const maxExpanded = 256 << 10

// expansion keeps a text that refers to a long value many times from growing.
type expansion struct{ left int }

// value gives v, or "" when there is no room for it any more.
func (x *expansion) value(v string) string {
	if len(v) > x.left {
		return ""
	}
	x.left -= len(v)
	return v
}

// Keyword divides a line of the Boot Loader Specification or of Syslinux: its first word
// in lower case, and the rest without the blanks around it.
func Keyword(line string) (key, rest string) {
	line = strings.TrimSpace(line)
	n := strings.IndexAny(line, " \t")
	if n < 0 {
		return strings.ToLower(line), ""
	}
	return strings.ToLower(line[:n]), strings.TrimSpace(line[n:])
}

// Keywords gives what Keyword gives for each line of a text.
func Keywords(text string) iter.Seq2[string, string] {
	return func(yield func(key, rest string) bool) {
		for _, l := range splitLines(text) {
			if !yield(Keyword(l.body)) {
				return
			}
		}
	}
}

// ParseBLS reads an entry of the Boot Loader Specification. kernelopts is the value of
// GRUB's variable, for which $kernelopts stands.
func ParseBLS(text, kernelopts string) BootEntry {
	var e BootEntry
	x := &expansion{left: maxExpanded}
	for key, value := range Keywords(text) {
		switch key {
		case "linux":
			e.Linux = value
		case "options":
			for i, part := range strings.Split(value, "$kernelopts") {
				if i == 0 {
					e.Options += " " + part
				} else {
					e.Options += x.value(kernelopts) + part
				}
			}
		case "initrd":
			e.Initrd = append(e.Initrd, strings.Fields(strings.ReplaceAll(value, "$tuned_initrd", ""))...)
		}
	}
	e.Options = strings.TrimSpace(e.Options)
	return e
}

// ParseGRUBEntry reads the first commands of a grub.cfg that load a kernel and its
// initial RAM disks; nil without any. Variables that are not set as plain text are
// empty.
func ParseGRUBEntry(cfg string) *BootEntry {
	var e *BootEntry
	set := map[string]string{}
	x := &expansion{left: maxExpanded}
	for _, c := range ParseScript(cfg, true).Commands {
		w := x.words(c, set)
		switch {
		case len(w) < 2:
		case w[0] == "set":
			if name, value, ok := strings.Cut(w[1], "="); ok && !c.Words[1].Expands {
				set[name] = value
			}
		case loadsKernel(w[0]):
			if e != nil {
				return e
			}
			e = &BootEntry{Linux: inDevice(w[1])}
			var options []string
			for _, o := range w[2:] {
				if o != "" {
					options = append(options, quoteOption(o))
				}
			}
			e.Options = strings.TrimSpace(strings.Join(options, " "))
		case e != nil && loadsInitrd(w[0]):
			for _, f := range w[1:] {
				if f != "" {
					e.Initrd = append(e.Initrd, inDevice(f))
				}
			}
		}
	}
	return e
}

// words are those of a command with the values of variables.
func (x *expansion) words(c *Command, set map[string]string) (out []string) {
	for _, word := range c.Words {
		text := word.Text
		if word.Expands {
			text = os.Expand(text, func(name string) string { return x.value(set[name]) })
		}
		out = append(out, text)
	}
	return out
}

func loadsKernel(command string) bool {
	return slices.Contains([]string{"linux", "linux16", "linuxefi"}, command)
}

func loadsInitrd(command string) bool {
	return slices.Contains([]string{"initrd", "initrd16", "initrdefi"}, command)
}

// GRUBInitrds lists the initial RAM disks that a grub.cfg loads, each once. Names with
// variables or devices are left out.
func GRUBInitrds(cfg string) []string {
	var out []string
	for _, c := range ParseScript(cfg, true).Commands {
		if !loadsInitrd(c.Words[0].Text) {
			continue
		}
		for _, w := range c.Words[1:] {
			if !w.Expands && !strings.HasPrefix(w.Text, "(") && !slices.Contains(out, w.Text) {
				out = append(out, w.Text)
			}
		}
	}
	return out
}

// FirstGRUBEntry cuts a grub.cfg behind its first entry: those of other systems may well
// refer to what was never saved.
func FirstGRUBEntry(cfg string) string {
	n := 0
	for _, c := range ParseScript(cfg, true).Commands {
		if w := c.Words[0]; w.Text == "menuentry" || w.Text == "submenu" {
			if n++; n == 2 {
				return cfg[:w.at[0]]
			}
		}
	}
	return cfg
}

// Text gives the entry as commands of a grub.cfg.
func (e *BootEntry) Text() string {
	var b strings.Builder
	b.WriteString("linux " + quoteAs(e.Linux, 0))
	for _, w := range ParseCmdline(e.Options).Words {
		text := w.Name
		if w.Assigned {
			text += "=" + w.Value
		}
		b.WriteString(" '" + strings.ReplaceAll(text, "'", `'\''`) + "'")
	}
	for i, f := range e.Initrd {
		if i == 0 {
			b.WriteString("\ninitrd")
		}
		b.WriteString(" " + quoteAs(f, 0))
	}
	return b.String() + "\n"
}

// GrubenvValue reads a variable of GRUB's environment block, "" if it is not set.
func GrubenvValue(text, name string) (value string) {
	for _, l := range splitLines(text) {
		if v, ok := strings.CutPrefix(l.body, name+"="); ok {
			value = strings.ReplaceAll(v, `\\`, `\`)
		}
	}
	return value
}

// inDevice drops GRUB's device from the name of a file: (hd0,msdos1)/vmlinuz.
func inDevice(name string) string {
	if strings.HasPrefix(name, "(") {
		if _, rest, ok := strings.Cut(name, ")"); ok {
			return rest
		}
	}
	return name
}

// quoteOption writes a word of a kernel command line as GRUB does, which puts one with
// blanks between double quotes.
func quoteOption(o string) string {
	if strings.ContainsAny(o, " \t") && !strings.Contains(o, `"`) {
		return `"` + o + `"`
	}
	return o
}
