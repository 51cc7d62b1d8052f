package rules

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
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
	files, set := 0, token.NewFileSet()
	for _, root := range []string{"../../builder", "../../cmds", "../../initramfs", "../../internal", "../../kernelcfg", "../../templates"} {
		err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if d.IsDir() && (d.Name() == "bbgen" || p == "../../internal/bootloader") {
				return filepath.SkipDir
			}
			if filepath.Ext(p) != ".go" || strings.HasSuffix(p, "_test.go") {
				return nil
			}
			f, err := parser.ParseFile(set, p, nil, 0)
			if err != nil {
				return err
			}
			files++
			look(f, func(at token.Pos) { t.Errorf("%s compares the name of a boot loader", set.Position(at)) })
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if files < 50 {
		t.Errorf("%d files looked at", files)
	}
	f, err := parser.ParseFile(set, "", "package x\nfunc f() bool { switch y { case layout.GRUB: }; return l.Boot.Loader != \"extlinux\" || m[layout.SystemdBoot] }", 0)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	if look(f, func(token.Pos) { n++ }); n != 3 {
		t.Errorf("%d of 3 comparisons are found", n)
	}
}
