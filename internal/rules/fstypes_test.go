package rules

import (
	"go/ast"
	"go/token"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/fstype"
)

// typesElsewhere are the places beside internal/fstype that may list types of file systems.
var typesElsewhere = []string{
	"internal/blockcopy/map.go",                     // which of its readers of used blocks has a type
	"internal/plan/duplicates.go",                   // "swap" among containers
	"internal/clonezilla/", "internal/tools/disks/", // names and places of other programs
	"internal/swarm/", "vmtest/", "internal/bench/", // tests and measurements
}

// TestFileSystemTypes: knowledge of the types of file systems is in internal/fstype. It finds
// what chooses between two or more of them: a switch, a list or map, or a condition.
func TestFileSystemTypes(t *testing.T) {
	known := fstype.Names(func(t *fstype.Type) bool { return true })
	found := 0
	for _, f := range goFiles(t, false) {
		for _, at := range choices(f.File, known) {
			if slices.ContainsFunc(typesElsewhere, func(a string) bool { return strings.HasPrefix(f.rel, a) }) {
				found++
				continue
			}
			t.Errorf("%v chooses between types of file systems; make it a field of fstype.Type", positions.Position(at))
		}
	}
	if found == 0 {
		t.Error("no choices found where they may be: is the test looking at the right thing?")
	}
}

// choices lists the outermost nodes that name two or more types: by a string, by a
// constant of fstype, or by the field of a geometry.
func choices(f *ast.File, known []string) []token.Pos {
	var geometry []string
	for i, g := 0, reflect.TypeFor[fstype.Geometry](); i < g.NumField(); i++ {
		geometry = append(geometry, g.Field(i).Name)
	}
	names := func(nodes ...ast.Node) int {
		seen := map[string]bool{}
		for _, n := range nodes {
			ast.Inspect(n, func(n ast.Node) bool {
				switch x := n.(type) {
				case *ast.BlockStmt:
					return false
				case *ast.BasicLit:
					if s, err := strconv.Unquote(x.Value); err == nil && slices.Contains(known, s) {
						seen[s] = true
					}
				case *ast.SelectorExpr:
					id, _ := x.X.(*ast.Ident)
					if id != nil && id.Name == "fstype" && strings.HasPrefix(x.Sel.Name, "Type") && x.Sel.Name != "Type" || slices.Contains(geometry, x.Sel.Name) && (id == nil || id.Name != "fstype" && id.Name != "filepath" && id.Name != "path") {
						seen[x.Sel.Name] = true
					}
				}
				return true
			})
		}
		return len(seen)
	}
	var out []token.Pos
	ast.Inspect(f, func(n ast.Node) bool {
		var of []ast.Node
		switch x := n.(type) {
		case *ast.SwitchStmt:
			for _, c := range x.Body.List {
				for _, e := range c.(*ast.CaseClause).List {
					of = append(of, e)
				}
			}
		case *ast.CompositeLit:
			for _, e := range x.Elts {
				if kv, ok := e.(*ast.KeyValueExpr); ok {
					e = kv.Key
				}
				of = append(of, e)
			}
		case *ast.BinaryExpr:
			of = append(of, x)
		}
		if names(of...) < 2 {
			return true
		}
		out = append(out, n.Pos())
		return false
	})
	return out
}
