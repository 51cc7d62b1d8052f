package rules

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/fstype"
)

// typesElsewhere are the files and directories outside internal/fstype that may choose between
// types of file systems, and why.
var typesElsewhere = [][2]string{
	{"internal/blockcopy/map.go", "which of its readers of used blocks has a type"},
	{"internal/tools/disks/wipefs.go", "the signatures that wipefs(8) prints and removes, by its names"},
	{"vmtest/", "tests"},
}

// TestFileSystemTypes: knowledge of the types of file systems is in internal/fstype. It finds
// what chooses between two or more of them: a switch, a list or map, or a condition.
func TestFileSystemTypes(t *testing.T) {
	known := fstype.Names(func(t *fstype.Type) bool { return true })
	used := map[string]bool{}
	for _, f := range goFiles(t, false, "internal/fstype/") {
		for _, at := range choices(f.File, known) {
			i := slices.IndexFunc(typesElsewhere, func(e [2]string) bool { return strings.HasPrefix(f.rel, e[0]) })
			if i < 0 {
				t.Errorf("%v chooses between types of file systems; make it a field of fstype.Type", positions.Position(at))
			} else {
				used[typesElsewhere[i][0]] = true
			}
		}
	}
	for _, e := range typesElsewhere {
		if !used[e[0]] {
			t.Errorf("%s needs no exception any more", e[0])
		}
	}
}

// TestChoices: what is found, and what is not.
func TestChoices(t *testing.T) {
	for body, want := range map[string]int{
		`switch t { case "ext4": case "xfs": }`:                                        1,
		`switch { case t == "ext4": case i.XFS != nil: }`:                              1,
		`if t == "ext4" { f() }; if t == "xfs" { g() }`:                                1,
		`if t == fstype.TypeXFS { f() } else if i.Btrfs != nil { g() }`:                1,
		`for { if t == "xfs" { f() } }; func() { if t == "swap" { g() } }()`:           1,
		`if strings.HasPrefix(t, "ext") { f() }`:                                       1,
		`return strings.HasPrefix(t, "ext")`:                                           1,
		`if slices.Contains([]string{"jfs", "xfs"}, t) { f() }`:                        1,
		`_ = map[string]int{"ext4": 1, "ntfs": 2}; _ = t == "xfs" || t == "jfs"`:       2,
		`if t == "xfs" { f() }; if i.XFS != nil || t == fstype.TypeXFS { f() }`:        0,
		`if strings.HasPrefix(t, "x") || strings.HasPrefix(t, "") { f() }`:             0,
		`if strings.HasPrefix(t, "extlinux") { f() }; f("xfs"); g(fstype.TypeExt4)`:    0,
		`switch t { case "ext4": case "crypto_LUKS": }; return fstype.Of("xfs").Mount`: 0,
	} {
		f, err := parser.ParseFile(positions, "", "package x\nfunc x() {"+body+"}", 0)
		if err != nil {
			t.Fatal(err)
		}
		if got := choices(f, fstype.Names(func(*fstype.Type) bool { return true })); len(got) != want {
			t.Errorf("%s: %d choices found; want %d", body, len(got), want)
		}
	}
}

// choices lists the outermost nodes that name two or more types: by a string, by a
// constant of fstype, by the field of a geometry, or by what the names of several begin with;
// and functions whose conditions do so together.
func choices(f *ast.File, known []string) []token.Pos {
	var geometry []string
	for i, g := 0, reflect.TypeFor[fstype.Geometry](); i < g.NumField(); i++ {
		geometry = append(geometry, g.Field(i).Name)
	}
	names := func(nodes ...ast.Node) map[string]bool {
		seen := map[string]bool{}
		for _, n := range nodes {
			ast.Inspect(n, func(n ast.Node) bool {
				switch x := n.(type) {
				case *ast.BlockStmt:
					return false
				case *ast.BasicLit:
					if s := text(x); slices.Contains(known, s) {
						seen[s] = true
					}
				case *ast.CallExpr:
					if n := name(x); n == "strings.HasPrefix" || n == "strings.CutPrefix" {
						for _, k := range known {
							if prefix := text(x.Args[1]); len(prefix) > 1 && strings.HasPrefix(k, prefix) {
								seen[k] = true
							}
						}
					}
				case *ast.SelectorExpr:
					id, _ := x.X.(*ast.Ident)
					if id != nil && id.Name == "fstype" && strings.HasPrefix(x.Sel.Name, "Type") && x.Sel.Name != "Type" || slices.Contains(geometry, x.Sel.Name) && (id == nil || id.Name != "fstype" && id.Name != "filepath" && id.Name != "path") {
						seen[strings.ToLower(strings.TrimPrefix(x.Sel.Name, "Type"))] = true
					}
				}
				return true
			})
		}
		return seen
	}
	var out []token.Pos
	look := func(in ast.Node) map[string]bool {
		conditions := map[string]bool{}
		ast.Inspect(in, func(n ast.Node) bool {
			var of []ast.Node
			switch x := n.(type) {
			case *ast.SwitchStmt:
				for _, c := range x.Body.List {
					for _, e := range c.(*ast.CaseClause).List {
						of = append(of, e)
					}
				}
				maps.Copy(conditions, names(of...))
			case *ast.IfStmt:
				maps.Copy(conditions, names(x.Cond))
			case *ast.CompositeLit:
				for _, e := range x.Elts {
					if kv, ok := e.(*ast.KeyValueExpr); ok {
						e = kv.Key
					}
					of = append(of, e)
				}
			case *ast.BinaryExpr, *ast.CallExpr:
				of = append(of, x)
			}
			if len(names(of...)) < 2 {
				return true
			}
			out = append(out, n.Pos())
			return false
		})
		return conditions
	}
	for _, d := range f.Decls {
		n := len(out)
		if c := look(d); len(c) > 1 && len(out) == n {
			out = append(out, d.Pos())
		}
	}
	return out
}
