package templates

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"text/template"

	"github.com/mkcdrec/mkcdrec/internal/printable"
)

// hostile are texts that people, disks and firmware have in serial numbers,
// labels, names of hosts and files, and kernel command lines.
var hostile = []string{"a b", "x\nreboot\n", "$(reboot)", "`reboot`", "';reboot;'", `";reboot;"`, "$root", "memmap=64M$0x1000", "}\nmenuentry pwn {\n", "${net0/ip}", "$", "{reboot}", "# c", "&& reboot", "|| reboot", "; reboot",
	";", "&&", "||", "#", "\x1b[2J\x1b]0;x\a", "é", "\xff\xfe", `\`, `\n`, "TABLE", "%s%n%%", "-e", "\u202e", "\u0085x", "\u009b2J", "\r\nLABEL x\n", "a\tb", "\n", "\n\n", "*?[a]", "~root", "!x", "a'b\"c", "\x7f", "<>|&"}

// TestShellQuote: shells read back every word as it was, and show none of it.
func TestShellQuote(t *testing.T) {
	words := slices.Clone(hostile)
	r := rand.New(rand.NewPCG(1, 2))
	for range 400 {
		b := make([]byte, 1+r.IntN(12))
		for i := range b {
			const likely = "'\"\\$`\n\t %;&|<>(){}#*\x1b\x80\xc2\x9bab"
			if b[i] = likely[r.IntN(len(likely))]; r.IntN(4) == 0 {
				b[i] = byte(1 + r.IntN(255))
			}
		}
		words = append(words, string(b))
	}
	script := "printf '%s\\0'"
	for _, w := range words {
		q := ShellQuote(w)
		if printable.Clean(strings.TrimRight(q, "\n'")) != strings.TrimRight(q, "\n'") && strings.TrimRight(w, "\n") != "" {
			t.Errorf("ShellQuote(%q) = %q can't be shown", w, q)
		}
		script += " " + q + " x" + q
	}
	shells := 0
	for _, sh := range []string{"dash", "bash", "busybox"} {
		if _, err := exec.LookPath(sh); err != nil {
			continue
		}
		shells++
		args := []string{"-s"}
		if sh == "busybox" {
			args = []string{"sh", "-s"}
		}
		c := exec.Command(sh, args...)
		c.Stdin = strings.NewReader(script)
		out, err := c.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", sh, err, out)
		}
		got := strings.Split(string(out), "\x00")
		for i, w := range words {
			if 2*i+1 >= len(got) || got[2*i] != w || got[2*i+1] != "x"+w {
				t.Errorf("%s reads ShellQuote(%q) = %s as %q", sh, w, ShellQuote(w), got[min(2*i, len(got)-1)])
			}
		}
	}
	if shells == 0 {
		t.Fatal("there is no shell")
	}
}

// TestProtect: what a template prints is quoted without its help, wherever it is
// printed, and what can't be quoted is an error.
func TestProtect(t *testing.T) {
	fill := func(text string, data any) (string, error) {
		r, err := readers("restore.sh.tmpl")
		if err != nil {
			t.Fatal(err)
		}
		tm, err := template.New("t").Funcs(r.functions()).Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.protect(tm); err != nil {
			return "", err
		}
		var b bytes.Buffer
		err = tm.Execute(&b, data)
		return b.String(), err
	}
	type data struct {
		S string
		C Shell
		N int
		L []string
		B bool
	}
	d := data{S: "a b", C: "x; y", N: 7, L: []string{"c d"}}
	got, err := fill(`{{.S}} {{.C}} {{.N}} {{if .B}}{{else}}{{.S}}{{end}} {{with .S}}{{.}}{{end}} {{range $x := .L}}{{.}}{{$x}}{{end}} {{comment .S}} {{.S | printf "%s!"}}`, d)
	if want := `'a b' x; y 7 'a b' 'a b' 'c d''c d' a b 'a b!'`; err != nil || got != want {
		t.Errorf("protected: %q, %v; want %q", got, err, want)
	}
	for _, bad := range []string{`{{.B}}`, `{{.L}}`, `{{define "x"}}{{.}}{{end}}{{template "x" .S}}`} {
		if got, err := fill(bad, d); err == nil {
			t.Errorf("%s gives %q", bad, got)
		}
	}
	names, err := files.ReadDir(".")
	if err != nil || len(names) < 8 {
		t.Fatalf("%d templates, %v", len(names), err)
	}
	for _, n := range names {
		if _, err := readers(n.Name()); err != nil {
			t.Error(err)
		}
	}
}

// set puts a text into every string of a value; code is left alone.
func set(v reflect.Value, s string) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			set(v.Field(i), s)
		}
	case reflect.Slice:
		if v.Len() == 0 {
			v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		}
		for i := range v.Len() {
			set(v.Index(i), s)
		}
	case reflect.String:
		if v.Type() == reflect.TypeFor[string]() {
			v.SetString(s)
		}
	}
}

// shape is what a reader makes of a text, without the words in it.
type shape func(t *testing.T, b []byte) string

// TestHostile: no text changes what a reader does; it is refused or is text.
func TestHostile(t *testing.T) {
	menu := func() *Menu {
		return &Menu{Serial: &Serial{0, 115200}, Boxed: true, Timeout: 20, Loaders: []string{"x"}}
	}
	for name, c := range map[string]struct {
		render func(string) ([]byte, error)
		shape  shape
	}{
		"grub": {func(s string) ([]byte, error) { m := menu(); set(reflect.ValueOf(m).Elem(), s); return GRUB(*m) }, grubShape},
		"grub titles": {func(s string) ([]byte, error) {
			return GRUB(Menu{Heading: s, Title: s, Kernel: "/k", Initrd: "/i", Default: "local"})
		}, grubShape},
		"local": {func(s string) ([]byte, error) {
			var e LocalEntry
			set(reflect.ValueOf(&e).Elem(), s)
			e.Begin, e.End = "# b", "# e"
			return Local(e)
		}, grubShape},
		"isolinux": {func(s string) ([]byte, error) { m := menu(); set(reflect.ValueOf(m).Elem(), s); return ISOLinux(*m) }, lineShape},
		"isolinux local": {func(s string) ([]byte, error) {
			m := menu()
			set(reflect.ValueOf(m).Elem(), s)
			return SyslinuxLocal(*m)
		}, lineShape},
		"isolinux titles": {func(s string) ([]byte, error) {
			return ISOLinux(Menu{Boxed: true, Heading: s, Title: s, Kernel: "/k", Initrd: "/i", Default: "local"})
		}, lineShape},
		"isolinux line": {func(s string) ([]byte, error) {
			return ISOLinux(Menu{Append: s, Kernel: "/k", Initrd: "/i", Default: "local"})
		}, lineShape},
		"ipxe": {func(s string) ([]byte, error) { m := menu(); set(reflect.ValueOf(m).Elem(), s); return IPXE(*m) }, ipxeShape},
		"ipxe titles": {func(s string) ([]byte, error) {
			return IPXE(Menu{Heading: s, Title: s, Kernel: "k", Initrd: "i", Default: "local"})
		}, ipxeShape},
		"ipxe line": {func(s string) ([]byte, error) {
			return IPXE(Menu{Append: s, Kernel: "k", Initrd: "i", Default: "local"})
		}, ipxeShape},
		"README": {func(s string) ([]byte, error) {
			var n Netboot
			set(reflect.ValueOf(&n).Elem(), s)
			return NetbootText(n)
		}, textShape},
		"RESTORE.txt": {func(s string) ([]byte, error) {
			var h ByHand
			set(reflect.ValueOf(&h).Elem(), s)
			h.Mounts[0].Path, h.Archives[0].Path = "/"+s, "/"+s
			return RestoreText(h)
		}, shownShape},
	} {
		plain, err := c.render("plain")
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		want, passed := c.shape(t, plain), 0
		for _, s := range hostile {
			got, err := c.render(s)
			if err != nil {
				continue
			}
			passed++
			if g := c.shape(t, got); g != want {
				t.Errorf("%s with %q:\n%s\nhas the shape\n%s\nwant\n%s", name, s, got, g, want)
			}
		}
		if passed == 0 {
			t.Errorf("%s refuses everything", name)
		}
	}
}

// TestTitlesPass: what is only shown is never a reason to make no medium.
func TestTitlesPass(t *testing.T) {
	for _, s := range hostile {
		m := Menu{Heading: s, Title: s, Kernel: "/k", Initrd: "/i", Default: "local", Boxed: true, Timeout: 20}
		for name, f := range map[string]func(Menu) ([]byte, error){"GRUB": GRUB, "ISOLinux": ISOLinux, "IPXE": IPXE} {
			b, err := f(m)
			if err != nil || bytes.ContainsAny(b, "\x1b\x07\x7f\r") || name != "GRUB" && bytes.ContainsFunc(b, func(r rune) bool { return r > '~' }) {
				t.Errorf("%s with the title %q: %v\n%q", name, s, err, b)
			}
		}
	}
}

// grubShape has GRUB's own checker read a script, and gives its commands and how
// many words each has, by the rules of GRUB's lexer.
func grubShape(t *testing.T, b []byte) string {
	t.Helper()
	if _, err := exec.LookPath("grub-script-check"); err == nil {
		f := filepath.Join(t.TempDir(), "grub.cfg")
		if err := os.WriteFile(f, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("grub-script-check", f).CombinedOutput(); err != nil {
			t.Errorf("grub-script-check: %v: %s\n%s", err, out, b)
		}
	}
	var out strings.Builder
	words, word, in := 0, "", byte(0)
	first := ""
	flush := func() {
		if word != "" {
			if words++; words == 1 {
				first = word
			}
		}
		word = ""
	}
	for i := 0; i < len(b); i++ {
		c := b[i]
		switch {
		case in != 0 && c == in:
			in = 0
		case in == '\'':
			word += "q"
		case in == '"':
			if c == '$' {
				out.WriteString("$")
			}
			word += "q"
		case c == '\'' || c == '"':
			in, word = c, word+"q"
		case c == '#' && word == "":
			for i+1 < len(b) && b[i+1] != '\n' {
				i++
			}
			out.WriteString("#")
		case c == ' ' || c == '\t':
			flush()
		case strings.IndexByte("\n;{}|&<>", c) >= 0:
			flush()
			// How many words a kernel line has is the administrator's.
			if first == "linux" {
				words = 0
			}
			fmt.Fprintf(&out, "%s/%d%q", first, words, c)
			words, first = 0, ""
		case c == '$':
			out.WriteString("$")
			word += "$"
		default:
			word += string(c)
		}
	}
	return out.String()
}

// lineShape gives the keyword of each line, with what isolinux does not show.
func lineShape(t *testing.T, b []byte) string {
	var out []string
	for l := range strings.Lines(string(b)) {
		f := append(strings.Fields(l), "")
		n := f[0]
		if f[0] == "LABEL" || f[0] == "TIMEOUT" || f[0] == "UI" {
			n += fmt.Sprint(f[1:])
		}
		out = append(out, n)
	}
	return strings.Join(out, "\n")
}

// ipxeShape gives what an iPXE script does: expansions, first words, and what ends
// commands, as src/core/exec.c of iPXE finds them.
func ipxeShape(t *testing.T, b []byte) string {
	var out []string
	for l := range strings.Lines(string(b)) {
		f := strings.Fields(l)
		n := fmt.Sprint(strings.Count(l, "${"))
		if len(f) > 0 && !strings.HasPrefix(f[0], "#") {
			n += f[0]
		}
		for _, w := range f {
			if w == "||" || w == "&&" || w == ";" || w[0] == '#' {
				n += w[:1]
			}
		}
		out = append(out, n)
	}
	return strings.Join(out, "\n")
}

// textShape is the number of lines, with what a terminal would act on.
func textShape(t *testing.T, b []byte) string {
	s := string(b)
	if i := strings.IndexFunc(s, func(r rune) bool { return r < ' ' && r != '\n' || r >= 0x7f && r < 0xa0 || r == 0x202e }); i >= 0 {
		return fmt.Sprintf("%q", s[i:])
	}
	return fmt.Sprint(strings.Count(s, "\n"))
}

// shownShape is textShape where a word of a shell may end with a line feed.
func shownShape(t *testing.T, b []byte) string {
	return strings.TrimRight(textShape(t, b), "0123456789")
}

// TestKernelLine: words with blanks reach the kernel through GRUB as they were, and
// a line that a kernel would cut off is refused.
func TestKernelLine(t *testing.T) {
	m := Menu{Append: `memmap=64M$0x10000000 a.dyndbg="file x.c +p" "b c=d" x{y}`, Kernel: "/k", Initrd: "/i", Default: "local"}
	b, err := GRUB(m)
	if want := `linux /k 'memmap=64M$0x10000000' 'a.dyndbg=file x.c +p' 'b c=d' 'x{y}'`; err != nil || !strings.Contains(string(b), want) {
		t.Errorf("no %s in (%v)\n%s", want, err, b)
	}
	for _, bad := range []string{`a=\x`, `a='x'`, `a=x"y"z`} {
		if b, err := GRUB(Menu{Append: bad, Kernel: "/k", Initrd: "/i", Default: "local"}); err == nil {
			t.Errorf("GRUB takes the word %s, which it changes:\n%s", bad, b)
		}
	}
	for name, f := range map[string]func(Menu) ([]byte, error){"GRUB": GRUB, "ISOLinux": ISOLinux, "IPXE": IPXE, "SyslinuxLocal": SyslinuxLocal,
		"Local": func(m Menu) ([]byte, error) {
			return Local(LocalEntry{Begin: "#", End: "#", Append: m.Append, Kernel: m.Kernel, Initrd: m.Initrd, UUID: "u"})
		}} {
		m := Menu{Append: strings.TrimSpace(strings.Repeat("a.bcdefg=1 ", 160)), Kernel: "/k", Initrd: "/i", Default: "local", Chain: "mbr=0x1", LocalConfig: "l.cfg"}
		if _, err := f(m); err != nil {
			t.Errorf("%s with %d bytes: %v", name, len(m.Append), err)
		}
		m.Append += strings.Repeat(" x", 120)
		if _, err := f(m); err == nil || !strings.Contains(err.Error(), "a kernel takes 2047") {
			t.Errorf("%s with %d bytes: %v; want a refusal", name, len(m.Append), err)
		}
	}
}

// TestFallback: on a machine without an installed system, the entry for the local
// disk starts the rescue system, which restores nothing unasked.
func TestFallback(t *testing.T) {
	m := Menu{Append: "console=tty0 mkcdrec.auto=restore mkcdrec.confirm=X", Kernel: "/k", Initrd: "/i", Default: "local", Chain: "mbr=0x1", LocalConfig: "/isolinux/local.cfg", Loaders: []string{"/EFI/x.efi"}}
	const line = "console=tty0 mkcdrec.confirm=X"
	for name, c := range map[string]struct {
		f    func(Menu) ([]byte, error)
		want []string
	}{
		"ISOLinux":      {ISOLinux, []string{"LABEL local\n  MENU LABEL ^Local disk: start the installed system\n  CONFIG /isolinux/local.cfg\n"}},
		"SyslinuxLocal": {SyslinuxLocal, []string{"DEFAULT local\nTIMEOUT 50\nONTIMEOUT rescue\n", "COM32 chain.c32\n  APPEND mbr=0x1\n", "LABEL rescue\n  LINUX /k\n  INITRD /i\n  APPEND " + line + "\n"}},
		"GRUB":          {GRUB, []string{"set root=\"$home\"\n\techo 'No loader of an installed system was found: starting the rescue system ...'\n\tlinux /k " + line + "\n\tinitrd /i\n}"}},
		"IPXE":          {IPXE, []string{":local\niseq ${platform} efi && exit ||\nsanboot --no-describe --drive 0x80 ||\necho No installed system was found: starting the rescue system ...\nkernel /k initrd=initrd.img " + line + " BOOTIF=${mac}\n"}},
	} {
		b, err := c.f(m)
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range c.want {
			if !strings.Contains(string(b), w) {
				t.Errorf("%s: no\n%s\nin\n%s", name, w, b)
			}
		}
	}
}

// TestNoLocal: without a disk that a BIOS could start from, no entry ends at a disk.
func TestNoLocal(t *testing.T) {
	m := Menu{Append: "mkcdrec.auto=restore x=y", Kernel: "/k", Initrd: "/i", Default: "local", NoLocal: true}
	b, err := ISOLinux(m)
	if want := "LABEL local\n  MENU LABEL ^Local disk: start the installed system\n  LINUX /k\n  INITRD /i\n  APPEND x=y\n"; err != nil || !strings.Contains(string(b), want) {
		t.Errorf("%v: no\n%s\nin\n%s", err, want, b)
	}
}

func FuzzShellQuote(f *testing.F) {
	for _, s := range hostile {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		out, err := exec.Command("sh", "-c", "printf '%s' "+ShellQuote(s)).CombinedOutput()
		if err != nil || string(out) != strings.ReplaceAll(s, "\x00", "") {
			t.Errorf("sh reads ShellQuote(%q) = %s as %q, %v", s, ShellQuote(s), out, err)
		}
	})
}
