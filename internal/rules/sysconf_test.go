package rules

import (
	"go/ast"
	"go/parser"
	"go/token"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// Files in which a system names its devices: what is in /proc has one reader in
// internal/sysconf, and whoever names one of the others takes no text apart.
var (
	running = regexp.MustCompile(`^/?proc/(self/|thread-self/|1/)?(mountinfo|mounts|swaps|cmdline)$|/etc/mtab$`)
	escaped = regexp.MustCompile(`\\040`)
	named   = regexp.MustCompile(`^(\S*/)?(etc/fstab|etc/crypttab(\.initramfs)?|mdadm\.conf|grub\.cfg|custom\.cfg|grubenv|extlinux\.conf|syslinux\.cfg|kernel/cmdline|default/grub|devices/system\.devices)$|^\S*loader/entries\S*$`)
	tag     = regexp.MustCompile(`^(UUID|LABEL|PARTUUID|PARTLABEL|ID)=$`)
	words   = regexp.MustCompile(`^(strings|bytes)\.(Fields|FieldsFunc|FieldsSeq)$`)
	lines   = regexp.MustCompile(`^(strings|bytes)\.(Split|SplitN|SplitSeq|SplitAfter|Lines)$|^bufio\.NewScanner$|^(regexp|lazyregexp)\.(MustCompile|Compile|New)$`)
	cutter  = regexp.MustCompile(`^strings\.(HasPrefix|CutPrefix|TrimPrefix|Cut|Index|Contains|SplitN|Split)$`)
)

// readsByHand are the files that may do what TestOneReaderOfSystemFiles looks for, and why.
var readsByHand = map[string]string{
	"builder/rescue/loaders.go":          "ID= of os-release(5)",
	"internal/bootloader/systemdboot.go": "mounts a file over /proc/cmdline of a chroot",
	"internal/repair/disks.go":           "what LVM prints",
}

// TestOneReaderOfSystemFiles: fstab, crypttab, mdadm.conf, mountinfo, the kernel's
// command line and boot loaders' files are taken apart by internal/sysconf alone, and
// names of devices are read by its resolver.
func TestOneReaderOfSystemFiles(t *testing.T) {
	used := map[string]bool{}
	for _, f := range goFiles(t, false, "vmtest/", "internal/sysconf/", "internal/bench/", "internal/machinetest/") {
		for _, found := range byHand(f.File) {
			if used[f.rel] = true; readsByHand[f.rel] == "" {
				t.Errorf("%s: %s; internal/sysconf reads such files", f.rel, found)
			}
		}
	}
	for f := range readsByHand {
		if !used[f] {
			t.Errorf("%s needs no exception any more", f)
		}
	}
}

// byHand lists what a file does with the system's files by itself: it names one and divides
// texts into lines, or divides one into words in the function that names it.
func byHand(f *ast.File) []string {
	var out, names, splits []string
	for _, d := range f.Decls {
		var here, divides []string
		ast.Inspect(d, func(n ast.Node) bool {
			switch x := n.(type) {
			case *ast.BasicLit:
				switch s := text(x); {
				case running.MatchString(s), escaped.MatchString(s):
					out = append(out, "it has "+x.Value)
				case named.MatchString(s):
					here = append(here, x.Value)
				}
			case *ast.CallExpr:
				call := name(x)
				if words.MatchString(call) {
					divides = append(divides, call)
				}
				whole := slices.Contains([]string{"strings.Lines", "bufio.NewScanner"}, call)
				for _, a := range x.Args {
					s := text(a)
					if cutter.MatchString(call) && tag.MatchString(s) {
						out = append(out, "it calls "+call+" with "+s)
					}
					whole = whole || lines.MatchString(call) && (s == "\n" || strings.Contains(s, "(?m)"))
				}
				if whole {
					splits = append(splits, call)
				}
			}
			return true
		})
		if len(here) > 0 && len(divides) > 0 {
			out = append(out, "it names "+here[0]+" and calls "+divides[0])
		}
		names = append(names, here...)
	}
	if len(names) > 0 && len(splits) > 0 {
		out = append(out, "it names "+names[0]+" and calls "+splits[0])
	}
	return out
}

// text is the value of a string literal, "" for anything else.
func text(n ast.Node) string {
	l, ok := n.(*ast.BasicLit)
	if !ok || l.Kind != token.STRING {
		return ""
	}
	s, err := strconv.Unquote(l.Value)
	if err != nil {
		return ""
	}
	return s
}

// name is that of a function of a package, "strings.Split".
func name(c *ast.CallExpr) string {
	if s, ok := c.Fun.(*ast.SelectorExpr); ok {
		if pkg, ok := s.X.(*ast.Ident); ok {
			return pkg.Name + "." + s.Sel.Name
		}
	}
	return ""
}

// TestByHand: what is found, and what is not.
func TestByHand(t *testing.T) {
	for body, want := range map[string]int{
		`b, _ := os.ReadFile("/proc/self/mountinfo"); _ = b`:                  1,
		`_ = strings.ReplaceAll(s, "\\040", " ")`:                             1,
		`_ = strings.HasPrefix(s, "UUID=")`:                                   1,
		`for _, l := range strings.Split(read("/etc/fstab"), "\n") { _ = l }`: 1,
		`_ = sysconf.ParseFstab(read("/etc/fstab"))`:                          0,
		`_ = strings.Fields(read("/etc/crypttab"))`:                           1,
		`_ = strings.Fields(read("/etc/hosts"))`:                              0,
		`_ = "UUID=" + s`:                                                     0,
	} {
		f, err := parser.ParseFile(token.NewFileSet(), "x.go", "package x\nfunc f() {\n"+body+"\n}\n", 0)
		if err != nil {
			t.Fatal(err)
		}
		if got := byHand(f); len(got) != want {
			t.Errorf("byHand(%s) = %q; want %d", body, got, want)
		}
	}
}
