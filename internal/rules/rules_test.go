// Package rules tests what docs/ARCHITECTURE.md promises of the code's shape.
package rules

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
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
	files := 0
	err := filepath.WalkDir("../..", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "bbgen" || d.Name() == ".git") {
			return filepath.SkipDir
		}
		if filepath.Ext(p) != ".go" {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), p, nil, 0)
		if err != nil {
			return err
		}
		files++
		for _, i := range f.Imports {
			if i.Path.Value == `"C"` {
				t.Errorf("%s uses cgo", p)
			}
		}
		for _, x := range f.Decls {
			if fn, ok := x.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				t.Errorf("%s has an init function", p)
			}
		}
		return nil
	})
	if err != nil || files < 50 {
		t.Errorf("%d files looked at, %v", files, err)
	}
}

// TestLibrariesDoNotPrint: only commands, and what stands for one, write to
// the standard streams.
func TestLibrariesDoNotPrint(t *testing.T) {
	allowed := []string{"cmds/", "vmtest/", "internal/genbb/", "internal/genloaders/", "internal/multicall/", "internal/packages/", "internal/ui/", "internal/rescueinit/", "internal/bench/", "internal/fuzzall/", "internal/shape/", "internal/smalltools/", "internal/tools/", "internal/swarm/mkcdrec-swarm/", "internal/swarm/sim/fleet/"}
	err := filepath.WalkDir("../..", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel := strings.TrimPrefix(filepath.ToSlash(p), "../../")
		if d.IsDir() && (d.Name() == "bbgen" || d.Name() == ".git") {
			return filepath.SkipDir
		}
		if filepath.Ext(p) != ".go" || strings.HasSuffix(p, "_test.go") || slices.ContainsFunc(allowed, func(a string) bool { return strings.HasPrefix(rel, a) }) {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), p, nil, 0)
		if err != nil {
			return err
		}
		ast.Inspect(f, func(n ast.Node) bool {
			s, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			x, ok := s.X.(*ast.Ident)
			if ok && (x.Name == "os" && (s.Sel.Name == "Stdout" || s.Sel.Name == "Stderr") || x.Name == "fmt" && slices.Contains([]string{"Print", "Println", "Printf"}, s.Sel.Name)) {
				t.Errorf("%s uses %s.%s", rel, x.Name, s.Sel.Name)
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
