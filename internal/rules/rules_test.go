// Package rules tests what docs/ARCHITECTURE.md promises of the code's shape.
package rules

import (
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

const module = "github.com/mkcdrec/mkcdrec/"

// deps lists all packages that pkg reaches.
func deps(t *testing.T, pkg string) []string {
	t.Helper()
	c := exec.Command("go", "list", "-deps", pkg)
	c.Dir = "../.."
	out, err := c.Output()
	if err != nil {
		t.Fatalf("go list -deps %s: %v", pkg, err)
	}
	return strings.Fields(string(out))
}

// source is a Go file of ours; rel is its path, test whether it is one of tests.
type source struct {
	rel  string
	test bool
	*ast.File
}

// positions are those of goFiles.
var positions = token.NewFileSet()

var allGoFiles = sync.OnceValues(func() (out []source, err error) {
	err = filepath.WalkDir("../..", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "bbgen" || d.Name() == ".git") {
			return filepath.SkipDir
		}
		if filepath.Ext(p) != ".go" {
			return nil
		}
		f, err := parser.ParseFile(positions, p, nil, 0)
		out = append(out, source{strings.TrimPrefix(filepath.ToSlash(p), "../../"), strings.HasSuffix(p, "_test.go"), f})
		return err
	})
	return out, err
})

// goFiles lists all Go files of ours but for those in the directories, and tests unless they are wanted.
func goFiles(t *testing.T, tests bool, but ...string) []source {
	t.Helper()
	all, err := allGoFiles()
	out := slices.DeleteFunc(slices.Clone(all), func(s source) bool {
		return s.test && !tests || slices.ContainsFunc(but, func(dir string) bool { return strings.HasPrefix(s.rel, dir) })
	})
	if err != nil || len(out) < 200 {
		t.Fatalf("%d Go files found, %v; want more than 200", len(out), err)
	}
	return out
}

// TestHostNeverRecreates: what runs every night on a healthy machine contains
// no code that formats a disk.
func TestHostNeverRecreates(t *testing.T) {
	for _, p := range []string{"./builder", "./cmds/mkcdrec"} {
		d := deps(t, p)
		if slices.Contains(d, module+"internal/recreate") {
			t.Errorf("%s reaches internal/recreate", p)
		}
		if !slices.Contains(d, module+"internal/archive") {
			t.Errorf("%s does not even reach internal/archive: is the test looking at the right thing?", p)
		}
	}
	if !slices.Contains(deps(t, "./cmds/restore"), module+"internal/recreate") {
		t.Error("cmds/restore does not reach internal/recreate: is the test looking at the right thing?")
	}
}

// TestPlanningIsPure: plan and layout run nothing.
func TestPlanningIsPure(t *testing.T) {
	for _, p := range []string{"./internal/plan", "./internal/layout"} {
		for _, bad := range []string{"os/exec", module + "internal/tool", "net"} {
			if slices.Contains(deps(t, p), bad) {
				t.Errorf("%s reaches %s", p, bad)
			}
		}
	}
}

// TestOneDoorToPlans: the order of the changes of a layout is known in plan.Prepare. What plan
// exports returns a plan or a draft with all of them, never a layout with some, and no other
// room puts a draft together.
func TestOneDoorToPlans(t *testing.T) {
	var doors []string
	for _, f := range goFiles(t, false) {
		if f.Name.Name != "plan" {
			ast.Inspect(f.File, func(n ast.Node) bool {
				if c, ok := n.(*ast.CompositeLit); ok && c.Type != nil && types.ExprString(c.Type) == "plan.Draft" {
					t.Errorf("%s makes a plan.Draft; only plan.Prepare does", f.rel)
				}
				return true
			})
			continue
		}
		for _, x := range f.Decls {
			fn, ok := x.(*ast.FuncDecl)
			if !ok || fn.Recv != nil || !fn.Name.IsExported() || fn.Type.Results == nil {
				continue
			}
			for _, r := range fn.Type.Results.List {
				switch of := types.ExprString(r.Type); of {
				case "*Plan", "*Draft", "*layout.Layout", "Mapping":
					doors = append(doors, fn.Name.Name+" "+of)
				}
			}
		}
	}
	slices.Sort(doors)
	if want := []string{"Make *Plan", "Only *Plan", "OnlyImage *Plan", "Prepare *Draft"}; !slices.Equal(doors, want) {
		t.Errorf("internal/plan has the doors %q; want %q", doors, want)
	}
}

// TestOnePlace: these are written in one room alone.
func TestOnePlace(t *testing.T) {
	found := map[string]bool{}
	for _, f := range goFiles(t, false, "vmtest/") {
		ast.Inspect(f.File, func(n ast.Node) bool {
			for what, room := range map[string]string{"DM_DISABLE_UDEV": "internal/tool/", "/grub2/grub.cfg": "internal/bootloader/"} {
				switch {
				case !strings.Contains(text(n), what):
				case strings.HasPrefix(f.rel, room):
					found[what] = true
				default:
					t.Errorf("%s has %s, which is known in %s", f.rel, what, room)
				}
			}
			return true
		})
	}
	if len(found) != 2 {
		t.Errorf("found %v: is the test looking at the right thing?", found)
	}
}

// TestMulticallWithoutBitTorrent: the BitTorrent library, which is as large as the rest,
// is only in the program mkcdrec-swarm.
func TestMulticallWithoutBitTorrent(t *testing.T) {
	const library = "github.com/anacrolix/"
	is := func(p string) bool { return strings.HasPrefix(p, library) }
	pkgs := []string{"./cmds/..."}
	if _, err := os.Stat("../bbgen"); err == nil {
		pkgs = append(pkgs, "./internal/bbgen")
	}
	for _, p := range pkgs {
		if i := slices.IndexFunc(deps(t, p), is); i >= 0 {
			t.Errorf("%s reaches %s", p, deps(t, p)[i])
		}
	}
	if !slices.ContainsFunc(deps(t, "./internal/swarm/settorrent"), is) {
		t.Error("internal/swarm/settorrent does not reach the library: is the test looking at the right thing?")
	}
}

// TestNoInitNoCgo: in a multicall binary every command runs every package's
// init.
func TestNoInitNoCgo(t *testing.T) {
	for _, f := range goFiles(t, true) {
		for _, i := range f.Imports {
			if i.Path.Value == `"C"` {
				t.Errorf("%s uses cgo", f.rel)
			}
		}
		for _, x := range f.Decls {
			if fn, ok := x.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				t.Errorf("%s has an init function", f.rel)
			}
		}
	}
}

// TestLibrariesDoNotPrint: only commands, and what stands for one, write to
// the standard streams.
func TestLibrariesDoNotPrint(t *testing.T) {
	allowed := []string{"cmds/", "vmtest/", "internal/genbb/", "internal/genloaders/", "internal/multicall/", "internal/packages/", "internal/ui/", "internal/rescueinit/", "internal/bench/", "internal/fuzzall/", "internal/shape/", "internal/smalltools/", "internal/tools/", "internal/swarm/mkcdrec-swarm/", "internal/swarm/sim/fleet/"}
	for _, f := range goFiles(t, false, allowed...) {
		ast.Inspect(f.File, func(n ast.Node) bool {
			s, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			x, ok := s.X.(*ast.Ident)
			if ok && (x.Name == "os" && (s.Sel.Name == "Stdout" || s.Sel.Name == "Stderr") || x.Name == "fmt" && slices.Contains([]string{"Print", "Println", "Printf"}, s.Sel.Name)) {
				t.Errorf("%s uses %s.%s", f.rel, x.Name, s.Sel.Name)
			}
			return true
		})
	}
}
