package rules

import (
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"testing"
)

// TestLoadersByInterface: what is known of a boot loader is in internal/bootloader; nothing else compares its name.
func TestLoadersByInterface(t *testing.T) {
	names := []string{"GRUB", "SystemdBoot", "Extlinux", `"grub"`, `"systemd-boot"`, `"extlinux"`}
	isName := func(e ast.Expr) bool {
		switch e := e.(type) {
		case *ast.SelectorExpr:
			x, ok := e.X.(*ast.Ident)
			return ok && x.Name == "layout" && slices.Contains(names, e.Sel.Name)
		case *ast.BasicLit:
			return slices.Contains(names, e.Value)
		}
		return false
	}
	look := func(f *ast.File, found func(token.Pos)) {
		ast.Inspect(f, func(n ast.Node) bool {
			var looked []ast.Expr
			switch n := n.(type) {
			case *ast.BinaryExpr:
				if n.Op == token.EQL || n.Op == token.NEQ {
					looked = []ast.Expr{n.X, n.Y}
				}
			case *ast.CaseClause:
				looked = n.List
			case *ast.IndexExpr:
				looked = []ast.Expr{n.Index}
			}
			if slices.ContainsFunc(looked, isName) {
				found(n.Pos())
			}
			return true
		})
	}
	for _, f := range goFiles(t, false, "internal/bootloader/", "vmtest/") {
		look(f.File, func(at token.Pos) { t.Errorf("%s compares the name of a boot loader", positions.Position(at)) })
	}
	f, err := parser.ParseFile(positions, "", "package x\nfunc f() bool { switch y { case layout.GRUB: }; return l.Boot.Loader != \"extlinux\" || m[layout.SystemdBoot] }", 0)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	if look(f, func(token.Pos) { n++ }); n != 3 {
		t.Errorf("%d of 3 comparisons are found", n)
	}
}
