package toolbox

import (
	"errors"
	"go/ast"
	"go/constant"
	"go/parser"
	"go/token"
	"go/types"
	"maps"
	"path/filepath"
	"reflect"
	"runtime"
	"strconv"
	"strings"
	"testing"
)

// without are options whose effect a command always has, or that have none for what it does,
// and those that are read in another way, each with the reason. Any other option is read by the
// command, reported by Env.Ignore, or not declared, so that it is refused.
var without = []struct{ commands, options, why string }{
	{"bc", "q", "no greeting is printed"},
	{"blkdiscard", "q", "no messages are printed"},
	{"blkid", "c g", "there is no cache"},
	{"bzip2 bunzip2 bzcat", "s", "it needs little memory anyway"},
	{"cat", "u", "nothing waits in a buffer for long"},
	{"chown chgrp", "P dereference", "the default"},
	{"comm", "1 2 3", "read as the number of a column"},
	{"curl", "# progress-bar", "no progress is shown"},
	{"curl", "N", "what arrives is written at once"},
	{"curl", "g", "there are no patterns in addresses"},
	{"curl", "http1.1 http2", "the server chooses the version"},
	{"curl", "q", "there is no .curlrc"},
	{"curl", "ssl-no-revoke", "only for Windows"},
	{"curl", "tlsv1.2", "the oldest version that is used"},
	{"cut", "n", "as GNU's cut"},
	{"diff", "normal", "the default"},
	{"diff", "d", "the differences are the smallest anyway"},
	{"dmesg", "L", "nothing is coloured"},
	{"dmesg", "S P", "the messages are the same"},
	{"efibootmgr", "g", "the table of partitions is recognised"},
	{"fdisk", "u c", "units are sectors, and there is no DOS mode"},
	{"file", "h n", "the default"},
	{"findmnt", "u A m k", "the default"},
	{"getfacl getfattr setfacl", "P", "links below a directory are not followed"},
	{"grep egrep fgrep zgrep", "U", "as on all systems with Linux"},
	{"gzip gunzip zcat", "n", "names and dates are not stored"},
	{"hwclock", "r get v D", "the default"},
	{"hwclock", "noadjfile", "the drift is not used"},
	{"id", "a", "as GNU's id"},
	{"install", "c", "as GNU's install"},
	{"journalctl", "l no-pager no-tail system", "the default"},
	{"journalctl", "x", "there is no catalog of explanations"},
	{"ln", "P", "the default"},
	{"ls dir", "k", "the default"},
	{"lsblk", "T", "the default"},
	{"lsof", "n P w", "numbers are printed, and no warnings"},
	{"mount", "F n", "there is nothing to do at the same time, and no mtab"},
	{"mount", "s", "the kernel decides about unknown options"},
	{"mount", "make-private make-rprivate make-rshared make-rslave make-runbindable make-shared make-slave make-unbindable", "read by their prefix"},
	{"nc netcat", "n", "an address is not looked up"},
	{"pidof", "x", "scripts are found by their names anyway"},
	{"ping", "n", "addresses are printed"},
	{"rm", "preserve-root", "the default"},
	{"scp", "3 T", "the default"},
	{"screen session", "U A a", "the terminal is as it is"},
	{"sed", "b", "only for Windows"},
	{"sfdisk wipefs", "lock", "udev is not told to wait"},
	{"sort", "b d f g h i M n R r V", "read as the letters of a key"},
	{"sort", "m T S parallel", "everything is in memory, and the result the same"},
	{"ssh", "a k x y", "the default"},
	{"ssh", "e S", "there is no escape character, and no shared connection"},
	{"ssh scp sftp", "C", "nothing is compressed"},
	{"strings", "a", "the default"},
	{"killall", "e", "names are compared as a whole"},
	{"tar", "same-owner no-xattrs overwrite", "the default"},
	{"tar", "warning", "all warnings are printed"},
	{"touch", "f", "as GNU's touch"},
	{"umount", "n d", "there is no mtab, and loop devices free themselves"},
	{"wget", "progress v", "the default"},
	{"xz unxz xzcat", "e T M", "the encoder has one way"},
	{"zstd unzstd zstdcat", "T long ultra no-progress progress", "what is written is valid without it"},
}

// function is what a function refers to: others of its package, and the words that it asks the
// options for or compares with.
type function struct {
	uses  []types.Object
	names []string // methods whose type is not known here
	words map[string]bool
	specs []string // the descriptions of options that it gives to tools.Parse
}

// source is a package: its functions, methods and variables.
type source struct {
	objects map[types.Object]*function
	named   map[string][]types.Object
}

type nothing struct{}

func (nothing) Import(path string) (*types.Package, error) { return nil, errors.New(path) }

// read reads a package. What it imports is not looked at.
func read(t *testing.T, dir string) *source {
	t.Helper()
	names, err := filepath.Glob(dir + "/*.go")
	if err != nil {
		t.Fatal(err)
	}
	fset := token.NewFileSet()
	var files []*ast.File
	for _, n := range names {
		if strings.HasSuffix(n, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(fset, n, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	info := &types.Info{Defs: map[*ast.Ident]types.Object{}, Uses: map[*ast.Ident]types.Object{}}
	c := types.Config{Importer: nothing{}, Error: func(error) {}}
	_, _ = c.Check(dir, fset, files, info) // imports fail
	s := &source{map[types.Object]*function{}, map[string][]types.Object{}}
	for _, f := range files {
		for _, d := range f.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				s.add(info, d.Name, d)
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					if v, ok := spec.(*ast.ValueSpec); ok {
						s.add(info, v.Names[0], v)
					}
				}
			}
		}
	}
	return s
}

// readers are the methods that read options.
var readers = map[string]bool{"On": true, "Val": true, "Or": true, "Last": true, "Vals": true, "Int": true, "End": true, "lines": true, "seconds": true, "input": true, "Ignore": true, "relative": true}

func (s *source) add(info *types.Info, name *ast.Ident, n ast.Node) {
	fn := &function{words: map[string]bool{}}
	s.objects[info.Defs[name]] = fn
	s.named[name.Name] = append(s.named[name.Name], info.Defs[name])
	var word func(es ...ast.Expr)
	word = func(es ...ast.Expr) {
		for _, e := range es {
			switch e := e.(type) {
			case *ast.BasicLit:
				if w, err := strconv.Unquote(e.Value); err == nil && e.Kind == token.STRING {
					fn.words[w] = true
				}
			case *ast.CompositeLit:
				word(e.Elts...)
			}
		}
	}
	ast.Inspect(n, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.Ident:
			if o := info.Uses[n]; o != nil {
				fn.uses = append(fn.uses, o)
			}
		case *ast.SelectorExpr:
			if info.Uses[n.Sel] == nil && !readers[n.Sel.Name] {
				fn.names = append(fn.names, n.Sel.Name)
			}
		case *ast.CallExpr:
			switch f := n.Fun.(type) {
			case *ast.SelectorExpr:
				if f.Sel.Name == "Parse" && len(n.Args) == 2 {
					fn.specs = append(fn.specs, constText(info, n.Args[0]))
				}
				if readers[f.Sel.Name] || f.Sel.Name == "Contains" && isSlices(f.X) {
					word(n.Args...)
				}
			case *ast.Ident:
				if readers[f.Name] {
					word(n.Args...)
				}
			}
		case *ast.CaseClause:
			word(n.List...)
		case *ast.BinaryExpr:
			if n.Op == token.EQL || n.Op == token.NEQ {
				word(n.X, n.Y)
			}
		case *ast.KeyValueExpr:
			word(n.Key)
		case *ast.RangeStmt:
			word(n.X)
		}
		return true
	})
}

// constText is the value of a string or of a constant; "" of anything else.
func constText(info *types.Info, e ast.Expr) string {
	switch e := e.(type) {
	case *ast.BasicLit:
		s, err := strconv.Unquote(e.Value)
		if err == nil {
			return s
		}
	case *ast.Ident:
		if c, ok := info.Uses[e].(*types.Const); ok && c.Val().Kind() == constant.String {
			return constant.StringVal(c.Val())
		}
	}
	return ""
}

func isSlices(x ast.Expr) bool {
	i, ok := x.(*ast.Ident)
	return ok && i.Name == "slices"
}

// words are those of a function and of all that it refers to; specs are descriptions of options.
func (s *source) words(root string) (out map[string]bool, specs []string) {
	out = map[string]bool{}
	seen := map[types.Object]bool{}
	var visit func(o types.Object)
	visit = func(o types.Object) {
		f := s.objects[o]
		if f == nil || seen[o] {
			return
		}
		seen[o] = true
		maps.Copy(out, f.words)
		specs = append(specs, f.specs...)
		for _, u := range f.uses {
			visit(u)
		}
		for _, n := range f.names {
			for _, u := range s.named[n] {
				visit(u)
			}
		}
	}
	for _, o := range s.named[root] {
		visit(o)
	}
	return out, specs
}

// TestOptionsAreRead finds options that a command declares and that nothing it calls reads:
// they would be accepted without an effect.
func TestOptionsAreRead(t *testing.T) {
	pkgs := map[string]*source{}
	known := map[string]bool{}
	for _, w := range without {
		for _, c := range strings.Fields(w.commands) {
			for _, o := range strings.Fields(w.options) {
				known[c+" -"+o] = true
			}
		}
	}
	for _, c := range all() {
		full := runtime.FuncForPC(reflect.ValueOf(c.Run).Pointer()).Name()
		pkg, fn, _ := strings.Cut(full[strings.LastIndexByte(full, '/')+1:], ".")
		if pkgs[pkg] == nil {
			pkgs[pkg] = read(t, "../"+pkg)
		}
		fn, _, _ = strings.Cut(fn, ".")
		words, specs := pkgs[pkg].words(fn)
		if c.Opts != "-" {
			specs = []string{c.Opts}
		}
		if pkgs[pkg].named[fn] == nil {
			t.Fatalf("%s: %s is not in package %s", c.Name, fn, pkg)
		}
		for _, w := range strings.Fields(strings.Join(specs, " ")) {
			name := strings.Split(strings.Trim(w, "+:?~"), "/")[0]
			if name == "" {
				continue
			}
			key := c.Name + " -" + name
			switch {
			case known[key] && words[name]:
				t.Errorf("%s is read: remove it from the list", key)
			case !known[key] && !words[name]:
				t.Errorf("nothing reads %s (%s)", key, w)
			}
			delete(known, key)
		}
	}
	for k := range known {
		t.Errorf("%s: no such option", k)
	}
}
