package sysconf

import (
	"cmp"
	"flag"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files")

// corpusFile is a file of a machine.
type corpusFile struct{ name, text string }

// corpus gives the files of the machines: sections that begin with "-- file NAME --".
func corpus(t testing.TB) map[string][]corpusFile {
	t.Helper()
	out := map[string][]corpusFile{}
	for _, p := range []string{"testdata/corpus/*.txt", "../bootloader/testdata/machines/*.txt"} {
		all, err := filepath.Glob(p)
		if err != nil || len(all) < 4 {
			t.Fatalf("%s: %d files, %v", p, len(all), err)
		}
		for _, f := range all {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range strings.Split("\n"+string(b), "\n-- ")[1:] {
				head, text, ok := strings.Cut(s, " --\n")
				if name, is := strings.CutPrefix(head, "file "); ok && is {
					out[f] = append(out[f], corpusFile{name, text})
				}
			}
		}
	}
	return out
}

// command lines are in files of these formats, by patterns of their paths.
var formats = []struct {
	pattern string
	f       Format
}{
	{"*/grub.cfg", GRUB}, {"*/custom.cfg", GRUB}, {"*/4?_custom", GRUB}, {"*/grubenv", Grubenv}, {"*/default/grub*", Shell}, {"*/dracut.conf.d/*", Shell},
	{"*/initramfs-tools/*", Shell}, {"*/loader/entries/*", BLS}, {"*/extlinux.conf", Syslinux}, {"*/syslinux.cfg", Syslinux}, {"*/cmdline*", Plain},
}

// parsed reads a file and gives what is printed where nothing was changed, and what
// was found in it.
func parsed(name, text string) (print string, found []string, known bool) {
	say := func(line int, format string, args ...any) {
		found = append(found, fmt.Sprintf("%s:%d: %s", name, line, fmt.Sprintf(format, args...)))
	}
	ref := func(r Ref) string { return fmt.Sprintf("%d %q", r.Kind, r.Value) }
	switch base := path.Base(name); {
	case strings.HasPrefix(base, "fstab"):
		f := ParseFstab(text)
		for _, e := range f.Entries {
			e.SetSpec(e.Spec)
			e.DropOption(func(string) bool { return false })
			say(e.Line, "%s on %q type %s options %q %s %s", ref(e.Ref()), e.Path(), e.Type, SplitOptions(e.Options), e.Freq, e.Pass)
		}
		return f.String(), found, true
	case strings.HasPrefix(base, "crypttab"):
		c := ParseCrypttab(text)
		for _, e := range c.Entries {
			e.SetSpec(e.Spec)
			say(e.Line, "%s is %s key %q options %q", e.Name, ref(ParseRef(e.Spec)), e.Key, SplitOptions(e.Options))
		}
		return c.String(), found, true
	case base == "mdadm.conf":
		m := ParseMdadm(text)
		for _, a := range m.Arrays {
			say(a.Line, "%s uuid %s name %q metadata %s", a.Device, a.UUID, a.Name, a.Metadata)
		}
		for _, d := range m.Devices {
			say(d.Line, "devices %q", d.Names)
		}
		return m.String(), found, true
	case base == "device.map", base == "grub_installdevice", base == "uswsusp.conf":
		print = VisitPaths(text, func(line int, p string) string {
			say(line, "%s", ref(ParseRef(p)))
			return p
		})
		return print, found, true
	case base == "mountinfo":
		all, err := ParseMountinfo(text)
		if err != nil {
			say(0, "%v", err)
		}
		for i, m := range all {
			say(i+1, "%+q", fmt.Sprintf("%+v", m))
			print += mountLine(m)
		}
		if !strings.HasSuffix(text, "\n") {
			print = strings.TrimSuffix(print, "\n")
		}
		return print, found, true
	case strings.HasSuffix(base, ".mount"), strings.HasSuffix(base, ".swap"), strings.Contains(name, ".mount.d/"), strings.Contains(name, ".swap.d/"):
		u := ParseUnit(text)
		for _, s := range u.Settings {
			s.Set(s.Value)
			say(s.Line, "[%s] %s=%q", s.Section, s.Key, s.Value)
		}
		return u.String(), found, true
	}
	for _, k := range formats {
		if match(k.pattern, name) {
			print = VisitKernelRefs(text, k.f, func(r KernelRef) (string, bool) {
				say(r.Line, "%s=%s form %d %s direct %v", r.Param, r.Text, r.Form, ref(r.Ref), r.Direct)
				return r.Text, true
			})
			return print, found, true
		}
	}
	return text, nil, false
}

// match compares the last parts of a path with a pattern.
func match(pattern, name string) bool {
	p, n := strings.Split(strings.TrimPrefix(pattern, "*/"), "/"), strings.Split(name, "/")
	if len(n) < len(p) {
		return false
	}
	ok, err := path.Match(strings.Join(p, "/"), strings.Join(n[len(n)-len(p):], "/"))
	return ok && err == nil
}

// mountLine writes a mount as the kernel does.
func mountLine(m Mount) string {
	esc := strings.NewReplacer(" ", `\040`, "\t", `\011`, "\n", `\012`, `\`, `\134`, "#", `\043`).Replace
	f := append([]string{fmt.Sprint(m.ID), fmt.Sprint(m.Parent), m.Dev, esc(m.Root), esc(m.Path), esc(m.Options)}, m.Optional...)
	return strings.Join(append(f, "-", esc(m.Type), esc(m.Source), esc(m.Super)), " ") + "\n"
}

// seeds adds the corpus to a fuzz test: the files for which is is true.
func seeds(f *testing.F, is func(name string) bool, add func(text string)) {
	for _, files := range corpus(f) {
		for _, c := range files {
			if is(path.Base(c.name)) {
				add(c.text)
			}
		}
	}
}

// FuzzMountinfo: mounts that are written as the kernel does are read as the same.
func FuzzMountinfo(f *testing.F) {
	seeds(f, func(name string) bool { return name == "mountinfo" }, func(text string) { f.Add(text) })
	f.Fuzz(func(t *testing.T, text string) {
		all, err := ParseMountinfo(text)
		if err != nil {
			return
		}
		lines := ""
		for _, m := range all {
			lines += mountLine(m)
		}
		if again, err := ParseMountinfo(lines); err != nil || !reflect.DeepEqual(again, all) {
			t.Errorf("%q is read as %+v, and then, %v, as %+v", text, all, err, again)
		}
	})
}

// FuzzMdadm: what is not edited stays, and a comment takes its own lines only.
func FuzzMdadm(f *testing.F) {
	seeds(f, func(name string) bool { return name == "mdadm.conf" }, func(text string) { f.Add(text) })
	f.Fuzz(func(t *testing.T, text string) {
		m := ParseMdadm(text)
		if m.String() != text {
			t.Fatalf("%q is printed as %q", text, m.String())
		}
		n := len(m.Arrays)
		if n == 0 || strings.Contains(text, "\r") {
			return
		}
		m.Comment(m.Arrays[0], "gone")
		if again := ParseMdadm(m.String()); len(again.Arrays) != n-1 {
			t.Errorf("%q with %d arrays becomes %q with %d", text, n, m.String(), len(again.Arrays))
		}
	})
}

// FuzzCrypttab: an edit changes its own field only.
func FuzzCrypttab(f *testing.F) {
	seeds(f, func(name string) bool { return strings.HasPrefix(name, "crypttab") }, func(text string) { f.Add(text, "UUID=1") })
	f.Add("a b", "")
	f.Fuzz(func(t *testing.T, text, spec string) {
		p := ParseCrypttab(text)
		if p.String() != text {
			t.Fatalf("%q is printed as %q", text, p.String())
		}
		for i, e := range p.Entries {
			q := ParseCrypttab(text)
			q.Entries[i].SetSpec(spec)
			q.Entries[i].AddOption("nofail")
			again := ParseCrypttab(q.String())
			if len(again.Entries) != len(p.Entries) {
				t.Fatalf("%q becomes %q", text, q.String())
			}
			if g := again.Entries[i]; g.Spec != cmp.Or(spec, "none") && spec != e.Spec || g.Name != e.Name || !g.NoFail() && !strings.Contains(e.Options, `"`) {
				t.Errorf("%q becomes %q", text, q.String())
			}
		}
	})
}

// FuzzRef: a name and the link that stands for the same are the same.
func FuzzRef(f *testing.F) {
	for _, s := range []string{"ab-CD", "My Data", `a\x20b`, "host:0", "x/y"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, value string) {
		ParseRef(value)
		hex := ""
		for _, c := range []byte(value) {
			hex += fmt.Sprintf(`\x%02x`, c)
		}
		for tag, dir := range map[string]string{"UUID": "by-uuid", "LABEL": "by-label", "PARTUUID": "by-partuuid", "PARTLABEL": "by-partlabel", "ID": "by-id"} {
			a, b := ParseRef(tag+`="`+value+`"`), ParseRef("/dev/disk/"+dir+"/"+hex)
			if value != "" && (a.Kind != b.Kind || a.Value != b.Value) {
				t.Errorf("%s=%q is %+v, and the link %+v", tag, value, a, b)
			}
		}
	})
}

// TestCorpus: files of machines, and each of their lines alone, are printed byte for byte
// as they were read; what is found in ours is in golden files.
func TestCorpus(t *testing.T) {
	lines := 0
	for from, files := range corpus(t) {
		var golden []string
		for _, f := range files {
			print, found, known := parsed(f.name, f.text)
			if print != f.text {
				t.Errorf("%s: %s is printed as\n%q; want\n%q", from, f.name, print, f.text)
			}
			if golden = append(golden, found...); !known {
				continue
			}
			for n, l := range strings.SplitAfter(f.text, "\n") {
				if print, _, _ := parsed(f.name, l); print != l {
					t.Errorf("%s: line %d of %s is printed as %q; want %q", from, n+1, f.name, print, l)
				}
				lines++
			}
		}
		if !strings.HasPrefix(from, "testdata/") {
			continue
		}
		file, got := strings.TrimSuffix(from, ".txt")+".golden", strings.Join(golden, "\n")+"\n"
		if *update {
			if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if want, err := os.ReadFile(file); err != nil || string(want) != got {
			t.Errorf("%s, %v: found\n%s; want\n%s", file, err, got, want)
		}
	}
	if lines < 500 {
		t.Errorf("only %d lines", lines)
	}
}
