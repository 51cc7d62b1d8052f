package usage

import (
	"fmt"
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/lazyregexp"
)

// Shells are those that Completion knows.
var Shells = []string{"bash", "zsh", "fish"}

// Kinds of what is completed.
const (
	nothing = iota
	words
	files
	directories
)

// wanted gives what the name of a value, or the words of a command, ask for, and the words
// to choose from.
func wanted(value string) (int, []string) {
	kind := nothing
	for w := range strings.FieldsFuncSeq(value, func(r rune) bool { return strings.ContainsRune(" []|.", r) }) {
		switch {
		case w == strings.ToLower(w) && strings.Contains(value, "|"):
			return words, strings.Split(strings.Trim(value, "[]"), "|")
		case w == "DIR" && kind == nothing:
			kind = directories
		case slices.Contains([]string{"DIR", "FILE", "DEV", "SET", "PATH", "SRC", "DST", "VOLUME", "DISK"}, w):
			kind = files
		}
	}
	return kind, nil
}

// shell has the lines of a completion script.
type shell struct {
	quote func(string) string
	// chosen completes the value of an option, "" where nothing is known of it.
	chosen func(kind int, from []string) string
	// list completes names, which have descriptions.
	list func(names, texts []string) string
	file string // %[1]s name, %[2]s subcommands, %[3]s values, %[4]s options, %[5]s words
}

// pattern joins the alternatives of a case.
func (s shell) pattern(of []string) string {
	var out []string
	for _, o := range of {
		out = append(out, s.quote(o))
	}
	return strings.Join(out, "|")
}

// script fills a script in. bash and zsh share its form.
func (s shell) script(c *Command) string {
	var subs []string
	var values, options, rest strings.Builder
	each(c, func(c *Command) {
		at := c.Full()
		var names, texts []string
		for _, o := range c.Options {
			var typed []string
			for _, n := range o.Names {
				typed = append(typed, at+" "+Dashed(n))
				names, texts = append(names, Dashed(n)), append(texts, o.Text)
			}
			if o.Value != "" {
				fmt.Fprintf(&values, "\t%s) %sreturn ;;\n", s.pattern(typed), s.chosen(wanted(o.Value)))
			}
		}
		fmt.Fprintf(&options, "\t\t%s) %s;;\n", s.quote(at), s.list(names, texts))
		if names, texts = nil, nil; len(c.Commands) > 0 {
			for _, sub := range c.Commands {
				subs = append(subs, sub.Full())
				names, texts = append(names, sub.Name), append(texts, sub.Summary)
			}
			fmt.Fprintf(&rest, "\t\t%s) %s;;&\n", s.quote(at), s.list(names, texts))
		}
		if do := s.chosen(wanted(c.Args)); do != "" {
			fmt.Fprintf(&rest, "\t\t%s) %s;;&\n", s.quote(at), do)
		}
	})
	if len(subs) == 0 {
		subs = []string{""}
	}
	return fmt.Sprintf(s.file, c.Name, s.pattern(subs), values.String(), options.String(), rest.String())
}

// each calls fn for a command and all below it.
func each(c *Command, fn func(*Command)) {
	fn(c)
	for _, s := range c.Commands {
		each(s, fn)
	}
}

const bashFile = `# Completion of %[1]s for bash. It needs nothing but bash 4.
_%[1]s() {
	local cur=${COMP_WORDS[COMP_CWORD]} at=%[1]s prev= i
	COMPREPLY=()
	for ((i = 1; i < COMP_CWORD; i++)); do
		[ "${COMP_WORDS[i]}" = = ] && continue
		prev=${COMP_WORDS[i]}
		case "$at $prev" in
		%[2]s) at="$at $prev" ;;
		esac
	done
	[ "$cur" = = ] && cur=
	case "$at $prev" in
%[3]s	esac
	case $cur in
	-*)
		case $at in
%[4]s		esac
		;;
	*)
		case $at in
%[5]s		esac
		;;
	esac
}
_%[1]s_add() {
	local found=$(compgen "$@" -- "$cur")
	[ -z "$found" ] || mapfile -t -O ${#COMPREPLY[@]} COMPREPLY <<< "$found"
}
_%[1]s_files() { compopt -o filenames; _%[1]s_add "$@"; }
complete -F _%[1]s %[1]s
`

const zshFile = `#compdef %[1]s
# Completion of %[1]s for zsh.
_%[1]s() {
	local at=%[1]s prev= i
	local -a list
	for ((i = 2; i < CURRENT; i++)); do
		prev=$words[i]
		case "$at $prev" in
		(%[2]s) at="$at $prev" ;;
		esac
	done
	case "$at $prev" in
%[3]s	esac
	case $PREFIX in
	(-*)
		case $at in
%[4]s		esac
		;;
	(*)
		case $at in
%[5]s		esac
		;;
	esac
}
if [ "$funcstack[1]" = _%[1]s ]; then _%[1]s; else compdef _%[1]s %[1]s; fi
`

const fishFile = `# Completion of %[1]s for fish.
function __%[1]s_at
	set -l at %[1]s
	for w in (commandline -opc)[2..-1]
		switch "$at $w"
			case %[2]s
				set at "$at $w"
		end
	end
	test "$at" = "$argv"
end
complete -c %[1]s -f
`

var unquotable = lazyregexp.New(`[^\w .,:;=/|()+-]`)

// quote quotes for each of the shells. Quotes in texts are left out.
func quote(s string) string { return "'" + unquotable().ReplaceAllString(s, "") + "'" }

// Completion gives the script that completes a command in a shell.
func (c *Command) Completion(name string) string {
	switch name {
	case "bash":
		add := "_" + c.Name + "_add"
		return shell{quote: quote, file: bashFile,
			chosen: func(kind int, from []string) string {
				return []string{"", add + " -W " + quote(strings.Join(from, " ")) + "; ", "_" + c.Name + "_files -f; ", "_" + c.Name + "_files -d; "}[kind]
			},
			list: func(names, _ []string) string { return add + " -W " + quote(strings.Join(names, " ")) + " " }}.script(c)
	case "zsh":
		s := shell{quote: quote, file: zshFile,
			chosen: func(kind int, from []string) string {
				return []string{"", "compadd " + strings.Join(from, " ") + "; ", "_files; ", "_files -/; "}[kind]
			},
			list: func(names, texts []string) string {
				var list []string
				for i := range names {
					list = append(list, quote(names[i]+":"+texts[i]))
				}
				return "list=(" + strings.Join(list, " ") + "); _describe word list "
			}}
		return strings.ReplaceAll(s.script(c), ";;&", ";|")
	}
	return c.fish()
}

// fish gives the script for fish, which has a line for each option.
func (c *Command) fish() string {
	var b strings.Builder
	chosen := func(kind int, from []string) string {
		return []string{" -x", " -x -a " + quote(strings.Join(from, " ")), " -r -F", " -x -a '(__fish_complete_directories)'"}[kind]
	}
	subs := []string{"''"}
	each(c, func(c *Command) {
		line := fmt.Sprintf("complete -c %s -n %s", strings.Fields(c.Full())[0], quote("__"+strings.Fields(c.Full())[0]+"_at "+c.Full()))
		for _, s := range c.Commands {
			subs = append(subs, quote(s.Full()))
			fmt.Fprintf(&b, "%s -a %s -d %s\n", line, s.Name, quote(s.Summary))
		}
		if kind, from := wanted(c.Args); kind != nothing {
			b.WriteString(line + strings.Replace(strings.Replace(chosen(kind, from), " -r", "", 1), " -x", "", 1) + "\n")
		}
		for _, o := range c.Options {
			b.WriteString(line)
			for _, n := range o.Names {
				b.WriteString(" " + map[bool]string{true: "-s ", false: "-l "}[len(n) == 1] + n)
			}
			if o.Value != "" {
				b.WriteString(chosen(wanted(o.Value)))
			}
			b.WriteString(" -d " + quote(o.Text) + "\n")
		}
	})
	return fmt.Sprintf(fishFile, c.Name, strings.Join(subs, " ")) + b.String()
}
