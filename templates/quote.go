package templates

import (
	"fmt"
	"strings"
	"text/template"
	"text/template/parse"
	"unicode"
	"unicode/utf8"

	"github.com/mkcdrec/mkcdrec/internal/printable"
	"github.com/mkcdrec/mkcdrec/internal/sysconf"
)

// reader is the reader of a template's output: a program with its own rules for
// words, or a person at a terminal. Every value that a template prints goes
// through quote, unless the template names one of funcs for it: a new field
// can't be forgotten.
type reader struct {
	quote func(string) (string, error)
	// funcs are the other ways to write a text for this reader, by the names that
	// its templates use.
	funcs map[string]func(string) (string, error)
	// code means that values of type Shell are written as they are.
	code bool
}

// readers returns the reader of each template.
func readers(name string) (reader, error) {
	always := func(f func(string) string) func(string) (string, error) {
		return func(s string) (string, error) { return f(s), nil }
	}
	text, sh := always(printable.Clean), func(s string) (string, error) { return shellWord(s) }
	switch name {
	case "grub.cfg.tmpl", "local.cfg.tmpl":
		return reader{quote: grubWord, funcs: map[string]func(string) (string, error){
			"title": func(s string) (string, error) { return grubWord(printable.Clean(s)) }, "kernelword": grubKernelWord, "comment": grubComment}}, nil
	case "isolinux.cfg.tmpl", "syslocal.cfg.tmpl":
		return reader{quote: syslinuxWord, funcs: map[string]func(string) (string, error){"title": always(ascii), "line": syslinuxLine}}, nil
	case "ipxe.tmpl":
		return reader{quote: ipxeWord, funcs: map[string]func(string) (string, error){"title": always(ipxeTitle), "var": ipxeVar}}, nil
	case "restore.sh.tmpl":
		return reader{quote: sh, funcs: map[string]func(string) (string, error){"comment": text, "lines": shellLines}, code: true}, nil
	case "RESTORE.txt.tmpl", "netboot.txt.tmpl":
		return reader{quote: text, funcs: map[string]func(string) (string, error){"sh": sh}, code: true}, nil
	}
	return reader{}, fmt.Errorf("the template %s has no reader", name)
}

// value quotes what a template prints.
func (r reader) value(v any) (string, error) {
	switch v := v.(type) {
	case string:
		return r.quote(v)
	case int:
		return fmt.Sprint(v), nil
	case Shell:
		if r.code {
			return string(v), nil
		}
	}
	return "", fmt.Errorf("a value of type %T can't be quoted", v)
}

const quoteFunc = "quoted"

// functions are those that a reader's templates can name.
func (r reader) functions() template.FuncMap {
	m := template.FuncMap{quoteFunc: r.value, "words": KernelWords, "fields": strings.Fields}
	for n, f := range r.funcs {
		m[n] = f
	}
	return m
}

// protect appends the reader's quoting to every action of a template that does
// not end with one of the reader's own functions.
func (r reader) protect(t *template.Template) error {
	for _, d := range t.Templates() {
		if d.Tree == nil {
			continue
		}
		if err := r.list(d.Tree, d.Root); err != nil {
			return err
		}
	}
	return nil
}

func (r reader) list(tree *parse.Tree, l *parse.ListNode) error {
	if l == nil {
		return nil
	}
	for _, n := range l.Nodes {
		var err error
		switch n := n.(type) {
		case *parse.ActionNode:
			if len(n.Pipe.Decl) == 0 && !r.quotes(n.Pipe) {
				id := parse.NewIdentifier(quoteFunc).SetTree(tree).SetPos(n.Pos)
				n.Pipe.Cmds = append(n.Pipe.Cmds, &parse.CommandNode{NodeType: parse.NodeCommand, Pos: n.Pos, Args: []parse.Node{id}})
			}
		case *parse.IfNode:
			err = r.branch(tree, &n.BranchNode)
		case *parse.RangeNode:
			err = r.branch(tree, &n.BranchNode)
		case *parse.WithNode:
			err = r.branch(tree, &n.BranchNode)
		case *parse.TextNode, *parse.CommentNode, *parse.BreakNode, *parse.ContinueNode:
		default:
			err = fmt.Errorf("%s in a template is not known to the quoting", n)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (r reader) branch(tree *parse.Tree, b *parse.BranchNode) error {
	if err := r.list(tree, b.List); err != nil {
		return err
	}
	return r.list(tree, b.ElseList)
}

// quotes reports whether a pipeline ends with one of the reader's functions.
func (r reader) quotes(p *parse.PipeNode) bool {
	last := p.Cmds[len(p.Cmds)-1]
	id, ok := last.Args[0].(*parse.IdentifierNode)
	return ok && r.funcs[id.Ident] != nil
}

// ascii returns a text for a screen that knows one byte per character.
func ascii(s string) string {
	return strings.Map(func(r rune) rune {
		if r > '~' {
			return '?'
		}
		return r
	}, printable.Clean(s))
}

// control finds control characters, which no word of a loader has.
func control(s string) error {
	if i := strings.IndexFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }); i >= 0 {
		return fmt.Errorf("%q has a control character", s)
	}
	return nil
}

// Shell is a piece of a shell script. It is made from constants and by Shellf,
// which quotes all else.
type Shell string

// Shellf fills a format of shell code: each %s takes a string, which is quoted as
// one word or part of one, a Shell, which is not, or an int. The format is a
// constant.
func Shellf(format string, args ...any) Shell {
	w := make([]any, len(args))
	for i, a := range args {
		switch a := a.(type) {
		case Shell:
			w[i] = string(a)
		case string:
			w[i] = ShellQuote(a)
		default:
			w[i] = fmt.Sprint(a)
		}
	}
	return Shell(fmt.Sprintf(format, w...))
}

// Command is a command line of words: strings are quoted, a Shell is not.
func Command[T any](words ...T) Shell {
	w := make([]string, len(words))
	for i, a := range words {
		w[i] = string(Shellf("%s", any(a)))
	}
	return Shell(strings.Join(w, " "))
}

// shellPlain are the characters that mean nothing to a shell, anywhere in a word.
const shellPlain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:=,@%+"

// ShellQuote quotes a word for a POSIX shell. It has one line and no control
// characters, so that it can be shown: those are written by printf(1). Line feeds
// at the end, which a command substitution would drop, are written as they are.
// The shell has no way to write NUL bytes: they are left out.
func ShellQuote(s string) string {
	s = strings.ReplaceAll(s, "\x00", "")
	if s != "" && strings.Trim(s, shellPlain) == "" {
		return s
	}
	if printable.Clean(s) == s {
		return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
	}
	text := strings.TrimRight(s, "\n")
	var b strings.Builder
	for len(text) > 0 {
		c, n := utf8.DecodeRuneInString(text)
		switch {
		case c == '%':
			b.WriteString("%%")
		case c == '\\':
			b.WriteString(`\\`)
		case c == '\'':
			b.WriteString(`'\''`)
		case c == utf8.RuneError && n == 1 || !unicode.IsPrint(c):
			for i := range n {
				fmt.Fprintf(&b, `\%03o`, text[i])
			}
		default:
			b.WriteString(text[:n])
		}
		text = text[n:]
	}
	q := ""
	if b.Len() > 0 {
		q = `"$(printf -- '` + b.String() + `')"`
	}
	if end := s[len(strings.TrimRight(s, "\n")):]; end != "" {
		q += "'" + end + "'"
	}
	return q
}

// shellWord is ShellQuote for templates, where a NUL byte is an error.
func shellWord(s string) (string, error) {
	if strings.Contains(s, "\x00") {
		return "", fmt.Errorf("%q has a NUL byte", s)
	}
	return ShellQuote(s), nil
}

// shellLines quotes a text of several lines, which stay lines where all of it can
// be shown.
func shellLines(s string) (string, error) {
	if strings.IndexFunc(s, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }) < 0 && utf8.ValidString(s) {
		return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'", nil
	}
	return shellWord(s)
}

// grubWord quotes a word for GRUB's script language: between single quotes
// nothing but a single quote has a meaning (GRUB manual, "Quoting").
func grubWord(s string) (string, error) {
	if err := control(s); err != nil {
		return "", err
	}
	if s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:=,+") == "" {
		return s, nil
	}
	return "'" + strings.ReplaceAll(s, "'", `'"'"'`) + "'", nil
}

// grubComment is a whole line that GRUB passes over.
func grubComment(s string) (string, error) {
	if !strings.HasPrefix(s, "#") || printable.Clean(s) != s {
		return "", fmt.Errorf("%q is not a comment", s)
	}
	return s, nil
}

// grubKernelWord is a word of a kernel command line for GRUB, which puts a word
// with blanks into double quotes itself, and a backslash before quotes and
// backslashes (grub-core/lib/cmdline.c), which the kernel would take for a part
// of the word.
func grubKernelWord(s string) (string, error) {
	s = kernelPlain(s)
	if strings.ContainsAny(s, `"'\`) {
		return "", fmt.Errorf("GRUB can't give the word %q to a kernel: it has a quote or a backslash", s)
	}
	return grubWord(s)
}

// syslinuxWord is a word of a syslinux configuration, which has no quoting.
func syslinuxWord(s string) (string, error) {
	if s == "" || strings.ContainsAny(s, " \t") {
		return "", fmt.Errorf("syslinux can't take %q for a word", s)
	}
	return syslinuxLine(s)
}

// syslinuxMaxLine is the longest line that syslinux reads (MAX_LINE in
// com32/elflink/ldlinux/readconfig.c, with its NUL), less what stands before a
// value in it.
const syslinuxMaxLine = 4096 - 1 - 16

// syslinuxLine is the end of a line of a syslinux configuration: it has no
// special characters but the end of the line.
func syslinuxLine(s string) (string, error) {
	if err := control(s); err != nil {
		return "", err
	}
	if len(s) > syslinuxMaxLine {
		return "", fmt.Errorf("a line of %d bytes; syslinux reads %d", len(s), syslinuxMaxLine)
	}
	return s, nil
}

// ipxeWord is a word of an iPXE script. It has no quoting: "${" begins a setting
// anywhere, "#" a comment, and some words end a command (src/core/exec.c).
func ipxeWord(s string) (string, error) {
	if err := control(s); err != nil {
		return "", err
	}
	if s == "" || strings.ContainsAny(s, " ") || strings.Contains(s, "${") || strings.HasSuffix(s, "$") || strings.HasPrefix(s, "#") || s == "||" || s == "&&" || s == ";" {
		return "", fmt.Errorf("iPXE can't take %q for a word", s)
	}
	return s, nil
}

// ipxeTitle is text for people in an iPXE script.
func ipxeTitle(s string) string {
	return strings.Map(func(r rune) rune {
		if strings.ContainsRune("$#|&;", r) {
			return '_'
		}
		return r
	}, ascii(s))
}

// ipxeVar is a setting of iPXE, by a name that the template has.
func ipxeVar(name string) (string, error) { return "${" + name + "}", nil }

// KernelWords divides a kernel command line as the kernel does. Words keep their quotes.
func KernelWords(line string) []string {
	var out []string
	for _, w := range sysconf.ParseCmdline(line).Words {
		out = append(out, w.Raw())
	}
	return out
}

// kernelPlain takes the quotes from a word as the kernel does: at its beginning
// or that of its value, and at its end.
func kernelPlain(w string) string {
	k, v, ok := strings.Cut(w, "=")
	switch {
	case strings.HasPrefix(w, `"`):
		return strings.TrimSuffix(w[1:], `"`)
	case ok && strings.HasPrefix(v, `"`):
		return k + "=" + strings.TrimSuffix(v[1:], `"`)
	}
	return w
}

// LoaderWord checks that every boot loader can give a word of a kernel command line
// to the kernel as it is.
func LoaderWord(w string) error {
	_, err := grubKernelWord(w)
	for _, part := range strings.Fields(w) {
		if err == nil {
			_, err = ipxeWord(part)
		}
	}
	return err
}

// MaxKernelLine is the longest command line of a kernel in bytes:
// COMMAND_LINE_SIZE of arch/x86/include/asm/setup.h, with its NUL 2,048, which is
// also MAX_CMDLINE_LEN of syslinux. What is longer is cut off without a message.
const MaxKernelLine = 2047

// loaderWords is room for the words that loaders add: BOOT_IMAGE=(DEVICE)FILE,
// initrd=FILE and BOOTIF=01-52-54-00-12-34-56.
const loaderWords = 96

// CheckKernelLine checks that a kernel gets all of a command line from a loader
// that was given the files' names.
func CheckKernelLine(line string, files ...string) error {
	n := len(line) + loaderWords
	for _, f := range files {
		n += len(f)
	}
	if n > MaxKernelLine {
		return fmt.Errorf("the kernel command line has %d bytes, with what boot loaders add up to %d; a kernel takes %d", len(line), n, MaxKernelLine)
	}
	return control(line)
}
