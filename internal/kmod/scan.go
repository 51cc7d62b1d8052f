package kmod

import (
	"bytes"
	"cmp"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
)

// module is what depmod(8) takes of a module.
type module struct {
	path    string // relative to the tree
	aliases []string
	soft    []string // values of softdep
	depends []string // names that the build has recorded
	gives   []string // symbols
	wants   []string
}

// parseModule reads the modinfo section and the symbols of a module.
func parseModule(b []byte) (*module, error) {
	e, err := elf.NewFile(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	m := &module{}
	info, err := modinfo(e)
	if err != nil {
		return nil, err
	}
	m.aliases, m.soft = info["alias"], info["softdep"]
	for _, v := range info["depends"] {
		for _, n := range strings.FieldsFunc(v, func(r rune) bool { return r == ',' }) {
			m.depends = append(m.depends, Norm(n))
		}
	}
	syms, err := e.Symbols()
	if err != nil && !errors.Is(err, elf.ErrNoSymbols) {
		return nil, err
	}
	for _, s := range syms {
		if s.Section == elf.SHN_UNDEF && s.Name != "" {
			m.wants = append(m.wants, s.Name)
		} else if n, ok := strings.CutPrefix(s.Name, "__ksymtab_"); ok && n != "strings" && n != "gpl" {
			m.gives = append(m.gives, n)
		} else if n, ok := strings.CutPrefix(s.Name, "__crc_"); ok {
			m.gives = append(m.gives, n)
		}
	}
	return m, nil
}

// scan makes the index of a tree that depmod has not been run on, from its modules. found is
// false if there are none.
func (x *Index) scan() (found bool, err error) {
	paths, err := x.modulePaths()
	if err != nil || len(paths) == 0 {
		return false, err
	}
	mods := make([]*module, len(paths))
	errs := make([]error, len(paths))
	next := make(chan int)
	var wg sync.WaitGroup
	for range runtime.NumCPU() {
		wg.Go(func() {
			for i := range next {
				mods[i], errs[i] = readModule(x.Dir, paths[i])
			}
		})
	}
	for i := range paths {
		next <- i
	}
	close(next)
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return false, err
	}
	x.enter(mods)
	return true, nil
}

// modulePaths lists the modules of the tree as depmod orders them: those of modules.order
// first. Of two with the same name the one in updates counts.
func (x *Index) modulePaths() ([]string, error) {
	rank := map[string]int{}
	err := lines(x.Dir+"/modules.order", func(l string) {
		if _, ok := rank[l]; !ok {
			rank[l] = len(rank) - 1<<30
		}
	})
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	seen := map[string]string{}
	err = filepath.WalkDir(x.Dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(x.Dir, p)
		if e.IsDir() && (rel == "build" || rel == "source") { // what modules are built with
			return fs.SkipDir
		}
		if err != nil || e.IsDir() || !strings.HasSuffix(PlainPath(rel), ".ko") {
			return err
		}
		n := Name(rel)
		if old := seen[n]; old == "" || strings.HasPrefix(rel, "updates/") && !strings.HasPrefix(old, "updates/") {
			seen[n] = rel
		}
		return nil
	})
	var out []string
	for _, p := range seen {
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b string) int {
		return cmp.Or(rank[PlainPath(a)]-rank[PlainPath(b)], strings.Compare(a, b))
	})
	return out, err
}

func readModule(dir, rel string) (*module, error) {
	f, err := os.Open(filepath.Join(dir, rel))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := Decompress(f, rel)
	var m *module
	if err == nil {
		m, err = parseModule(b)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", rel, err)
	}
	m.path = rel
	return m, nil
}

// enter enters modules in the index, in their order. A module needs those that give the
// symbols that it wants, and what these need; the nearest come first, as in modules.dep.
func (x *Index) enter(mods []*module) {
	giver := map[string]string{}
	for _, m := range mods {
		n := Name(m.path)
		x.Path[n] = m.path
		for _, s := range m.gives {
			giver[s] = n
		}
		for _, s := range m.soft {
			x.softdepLine("softdep " + n + " " + s)
		}
		for _, a := range m.aliases {
			l := "alias " + a + " " + n
			x.aliasLine(l)
			x.made = append(x.made, l)
		}
	}
	direct := map[string][]string{}
	for _, m := range mods {
		n := Name(m.path)
		for _, s := range m.wants {
			if g := giver[s]; g != "" && g != n && !slices.Contains(direct[n], g) {
				direct[n] = append(direct[n], g)
			}
		}
		for _, d := range m.depends {
			if _, ok := x.Path[d]; ok && d != n && !slices.Contains(direct[n], d) {
				direct[n] = append(direct[n], d)
			}
		}
	}
	for _, m := range mods {
		n := Name(m.path)
		x.Deps[n] = nearest(n, direct)
	}
}

// nearest gives all that a module needs so that each comes before what it needs itself.
func nearest(of string, direct map[string][]string) []string {
	var last []string // reversed
	seen := map[string]bool{of: true}
	var add func(n string)
	add = func(n string) {
		for _, d := range direct[n] {
			if !seen[d] {
				seen[d] = true
				add(d)
				last = append(last, d)
			}
		}
	}
	add(of)
	slices.Reverse(last)
	return last
}
