package main

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/scanner"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/lazyregexp"
)

// function is one function or method with a body.
type function struct {
	Room, Name string
	// Lines is its length, from the line of "func" to that of the closing brace.
	Lines int
	// Branches is its cyclomatic complexity as gocyclo counts it.
	Branches int
}

// machines is the room with the tests in virtual machines, and with what makes them.
const machines = "vmtest"

// file is one Go file of a room, which is the directory of a package.
type file struct {
	Path, Room string
	Lines      int
	Test       bool
	// Helps is a file without tests that only tests use: it counts as one of their lines.
	Helps     bool
	Functions []function
	// Code is the file without comments, blank lines, indentation and imports.
	Code []codeLine
}

type codeLine struct {
	Number int
	Text   string
}

// read parses the Go files below root, except those that are generated.
func read(root string) ([]file, error) {
	var files []file
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "bbgen" || d.Name() == "testdata" || d.Name() == ".git") {
			return filepath.SkipDir
		}
		if filepath.Ext(p) != ".go" {
			return nil
		}
		src, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		f, err := parse(filepath.ToSlash(rel), src)
		files = append(files, f)
		return err
	})
	return files, err
}

func parse(path string, src []byte) (file, error) {
	f := file{Path: path, Room: filepath.Dir(path), Lines: bytes.Count(src, []byte("\n")), Test: strings.HasSuffix(path, "_test.go")}
	f.Helps = !f.Test && (f.Room == machines || strings.HasPrefix(f.Room, machines+"/") || strings.HasSuffix(f.Room, "test"))
	set := token.NewFileSet()
	tree, err := parser.ParseFile(set, path, src, parser.SkipObjectResolution)
	if err != nil {
		return f, err
	}
	for _, d := range tree.Decls {
		if fn, ok := d.(*ast.FuncDecl); ok && fn.Body != nil {
			lines := set.Position(fn.End()).Line - set.Position(fn.Pos()).Line + 1
			f.Functions = append(f.Functions, function{f.Room, name(fn), lines, branches(fn)})
		}
	}
	// The imports are the first declarations: what follows them is compared.
	start := set.Position(tree.Name.End()).Line
	for _, i := range tree.Imports {
		start = max(start, set.Position(i.End()).Line)
	}
	f.Code = code(src, start)
	return f, nil
}

// name is "F", "(T).F" or "(*T).F".
func name(fn *ast.FuncDecl) string {
	if fn.Recv == nil {
		return fn.Name.Name
	}
	star, t := "", fn.Recv.List[0].Type
	if p, ok := t.(*ast.StarExpr); ok {
		star, t = "*", p.X
	}
	switch g := t.(type) {
	case *ast.IndexExpr:
		t = g.X
	case *ast.IndexListExpr:
		t = g.X
	}
	return "(" + star + t.(*ast.Ident).Name + ")." + fn.Name.Name
}

// branches is 1 and one for each if, loop, case, && and ||.
func branches(n ast.Node) int {
	count := 1
	ast.Inspect(n, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.IfStmt, *ast.ForStmt, *ast.RangeStmt:
			count++
		case *ast.CaseClause:
			if n.List != nil {
				count++
			}
		case *ast.CommClause:
			if n.Comm != nil {
				count++
			}
		case *ast.BinaryExpr:
			if n.Op == token.LAND || n.Op == token.LOR {
				count++
			}
		}
		return true
	})
	return count
}

// code gives the lines after number start that have tokens, each as its tokens with
// one blank between them.
func code(src []byte, start int) []codeLine {
	set := token.NewFileSet()
	f := set.AddFile("", -1, len(src))
	var s scanner.Scanner
	s.Init(f, src, nil, 0)
	var out []codeLine
	for {
		pos, tok, text := s.Scan()
		if tok == token.EOF {
			return out
		}
		n := f.Line(pos)
		if n <= start || tok == token.SEMICOLON && text == "\n" {
			continue
		}
		if text == "" {
			text = tok.String()
		}
		if len(out) == 0 || out[len(out)-1].Number != n {
			out = append(out, codeLine{n, text})
		} else {
			out[len(out)-1].Text += " " + text
		}
	}
}

// duplicate is a run of equal lines of code in two rooms.
type duplicate struct {
	A, B         *file
	LineA, LineB int
	Lines        int
}

// idle matches lines that end a block or pass an error or a plain value on: the
// grammar of Go repeats them.
var idle = lazyregexp.New(`^(\}|return( [\w&*.,]+)*|if \w+ != nil \{|\} else \{|defer [\w .]+\( \)|continue|break)$`)

// duplicates finds runs of at least least equal lines of code in files of different
// rooms, of which a third is not idle. A run that stands in three rooms counts twice: once for each copy.
func duplicates(files []file, least int) []duplicate {
	type place struct{ file, line int }
	seen := map[string]place{}
	var out []duplicate
	for i := range files {
		f := &files[i]
		for j := 0; j+least <= len(f.Code); {
			key := window(f.Code[j : j+least])
			first, ok := seen[key]
			if !ok {
				seen[key] = place{i, j}
			}
			if !ok || files[first.file].Room == f.Room {
				j++
				continue
			}
			other := &files[first.file]
			n := least
			for j+n < len(f.Code) && first.line+n < len(other.Code) && f.Code[j+n].Text == other.Code[first.line+n].Text {
				n++
			}
			busy := 0
			for _, l := range f.Code[j : j+n] {
				if !idle().MatchString(l.Text) {
					busy++
				}
			}
			if 3*busy >= n {
				out = append(out, duplicate{other, f, other.Code[first.line].Number, f.Code[j].Number, n})
			}
			j += n
		}
	}
	return out
}

func window(lines []codeLine) string {
	var b strings.Builder
	for _, l := range lines {
		b.WriteString(l.Text + "\n")
	}
	return b.String()
}

// percentile gives the p-th percentile of the functions' lengths, 0 for none.
func percentile(fns []function, p int) int {
	if len(fns) == 0 {
		return 0
	}
	lengths := make([]int, len(fns))
	for i, f := range fns {
		lengths[i] = f.Lines
	}
	slices.Sort(lengths)
	return lengths[(len(lengths)-1)*p/100]
}
