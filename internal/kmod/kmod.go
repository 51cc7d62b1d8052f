// Package kmod reads a kernel's module tree: dependencies, aliases, soft
// dependencies, built-in modules, and the firmware that modules declare. It
// serves both sides: choosing what goes into the rescue system, and loading
// it there.
package kmod

import (
	"bufio"
	"bytes"
	"cmp"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/mkcdrec/mkcdrec/internal/unpack"
)

// Index is the module tree of one kernel release. Module names are with
// underscores.
type Index struct {
	Dir     string
	Path    map[string]string // name -> path relative to Dir
	Deps    map[string][]string
	Pre     map[string][]string // soft dependencies, loaded before
	Post    map[string][]string
	Builtin map[string]bool
	aliases map[string][]alias // by bus: what is before the first ':'
	made    []string           // lines of modules.alias where that is not there: see scan
	packed  map[string]packed  // modules that lie in a pack
	mu      sync.Mutex
	frames  map[int64][]byte // decoded frames of the pack
	recent  []int64
}

type alias struct{ pattern, module string }

// Norm makes a module's name canonical.
func Norm(name string) string { return strings.ReplaceAll(name, "-", "_") }

// Name is the module's name from its file name.
func Name(file string) string {
	b := path.Base(file)
	if i := strings.Index(b, ".ko"); i >= 0 {
		b = b[:i]
	}
	return Norm(b)
}

// Open reads modules.dep and its sisters. Where depmod(8) was not run it makes them from the
// modules, but for modules.builtin, which the build of a kernel makes.
func Open(dir string) (*Index, error) {
	x := &Index{Dir: dir, Path: map[string]string{}, Deps: map[string][]string{}, Pre: map[string][]string{}, Post: map[string][]string{}, Builtin: map[string]bool{}, aliases: map[string][]alias{}, packed: map[string]packed{}, frames: map[int64][]byte{}}
	files := map[string]func(string){
		"modules.builtin": func(l string) { x.Builtin[Name(l)] = true },
		"modules.softdep": x.softdepLine,
		"modules.alias":   x.aliasLine,
	}
	err := lines(dir+"/modules.dep", x.depLine)
	if errors.Is(err, os.ErrNotExist) {
		var found bool
		if found, err = x.scan(); err == nil && !found {
			err = os.ErrNotExist
		}
		delete(files, "modules.softdep")
		delete(files, "modules.alias")
	}
	if _, gone := os.Stat(dir); gone != nil {
		return nil, fmt.Errorf("cannot read kernel modules: %w", gone)
	}
	if errors.Is(err, os.ErrNotExist) {
		above, version := filepath.Split(filepath.Clean(dir))
		base := strings.TrimSuffix(strings.TrimSuffix(filepath.Clean(above), "/lib/modules"), "/usr")
		return nil, fmt.Errorf("cannot read kernel modules: %s/modules.dep is missing; make it by: depmod -b %s %s", dir, cmp.Or(base, "/"), version)
	} else if err != nil {
		return nil, fmt.Errorf("cannot read kernel modules: %w", err)
	}
	for f, fn := range files {
		if err := lines(filepath.Join(dir, f), fn); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("cannot read kernel modules: %w", err)
		}
	}
	if err := x.readPackIndex(); err != nil {
		return nil, fmt.Errorf("cannot read kernel modules: %w", err)
	}
	return x, nil
}

func lines(file string, fn func(string)) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	s.Buffer(make([]byte, 64<<10), 4<<20)
	for s.Scan() {
		fn(s.Text())
	}
	return s.Err()
}

func (x *Index) depLine(l string) {
	k, v, ok := strings.Cut(l, ":")
	if !ok {
		return
	}
	n := Name(k)
	x.Path[n] = k
	for _, d := range strings.Fields(v) {
		x.Deps[n] = append(x.Deps[n], Name(d))
	}
}

func (x *Index) softdepLine(l string) {
	f := strings.Fields(l)
	if len(f) < 3 || f[0] != "softdep" {
		return
	}
	to := x.Pre
	n := Norm(f[1])
	for _, w := range f[2:] {
		switch w {
		case "pre:":
			to = x.Pre
		case "post:":
			to = x.Post
		default:
			to[n] = append(to[n], w)
		}
	}
}

func (x *Index) aliasLine(l string) {
	f := strings.Fields(l)
	if len(f) != 3 || f[0] != "alias" {
		return
	}
	x.aliases[bus(f[1])] = append(x.aliases[bus(f[1])], alias{f[1], Norm(f[2])})
}

func bus(p string) string {
	b, _, ok := strings.Cut(p, ":")
	if !ok {
		return ""
	}
	return b
}

// Match gives the modules whose alias matches a device's modalias, or a
// name that the kernel asks for ("fs-ext4"), in the order of modules.alias.
func (x *Index) Match(modalias string) []string {
	var out []string
	for _, a := range x.aliases[bus(modalias)] {
		if i := strings.IndexAny(a.pattern, "*?["); i >= 0 && !strings.HasPrefix(modalias, a.pattern[:i]) {
			continue
		}
		// '/' is nothing special to fnmatch(3) without flags.
		if ok, err := path.Match(strings.ReplaceAll(a.pattern, "/", "\x01"), strings.ReplaceAll(modalias, "/", "\x01")); err == nil && ok && !slices.Contains(out, a.module) {
			out = append(out, a.module)
		}
	}
	return out
}

// Resolve turns a module's name or an alias into names of modules.
func (x *Index) Resolve(name string) []string {
	n := Norm(name)
	if _, ok := x.Path[n]; ok {
		return []string{n}
	}
	if x.Builtin[n] {
		return nil
	}
	if m := x.Match(name); len(m) > 0 {
		return m
	}
	return x.Match(n)
}

// Closure gives the names with everything they depend on, hard or soft,
// sorted. Names that are unknown or built in are left out.
func (x *Index) Closure(names []string) []string {
	seen := map[string]bool{}
	var add func(string)
	add = func(name string) {
		for _, n := range x.Resolve(name) {
			if seen[n] {
				continue
			}
			seen[n] = true
			for _, l := range [][]string{x.Deps[n], x.Pre[n], x.Post[n]} {
				for _, d := range l {
					add(d)
				}
			}
		}
	}
	for _, n := range names {
		add(n)
	}
	out := make([]string, 0, len(seen))
	for n := range seen {
		out = append(out, n)
	}
	slices.Sort(out)
	return out
}

// Order gives what has to be loaded for a module, in that order, the module
// itself included.
func (x *Index) Order(name string) []string {
	var out []string
	seen := map[string]bool{}
	var add func(string)
	add = func(n string) {
		if seen[n] {
			return
		}
		seen[n] = true
		for _, p := range x.Pre[n] {
			for _, r := range x.Resolve(p) {
				add(r)
			}
		}
		// modules.dep lists what is needed first last.
		for _, d := range slices.Backward(x.Deps[n]) {
			add(d)
		}
		out = append(out, n)
		for _, p := range x.Post[n] {
			for _, r := range x.Resolve(p) {
				add(r)
			}
		}
	}
	add(Norm(name))
	return out
}

// Select gives the modules whose path begins with one of the prefixes, sorted.
func (x *Index) Select(prefixes ...string) []string {
	var out []string
	for n, p := range x.Path {
		if slices.ContainsFunc(prefixes, func(pre string) bool { return strings.HasPrefix(p, pre) }) {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return out
}

// Read gives a module's file, decompressed.
func (x *Index) Read(name string) ([]byte, error) {
	p, ok := x.Path[name]
	if !ok {
		return nil, fmt.Errorf("cannot read kernel module %s: it is not in %s/modules.dep", name, x.Dir)
	}
	if k, ok := x.packed[name]; ok {
		return x.unpack(name, k)
	}
	f, err := os.Open(filepath.Join(x.Dir, p))
	if err != nil {
		return nil, fmt.Errorf("cannot read kernel module: %w", err)
	}
	defer f.Close()
	b, err := Decompress(f, p)
	if err != nil {
		return nil, fmt.Errorf("cannot read kernel module %s: %w", p, err)
	}
	return b, nil
}

// Decompress reads a file whose name may end in .xz, .zst or .gz.
func Decompress(r io.Reader, name string) ([]byte, error) {
	switch path.Ext(name) {
	case ".xz":
		z, err := unpack.XZ(bufio.NewReaderSize(r, 64<<10)) // it reads byte by byte
		if err != nil {
			return nil, err
		}
		return io.ReadAll(z)
	case ".zst":
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, err
		}
		defer z.Close()
		return io.ReadAll(z)
	case ".gz":
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, err
		}
		return io.ReadAll(z)
	}
	return io.ReadAll(r)
}

// Firmware lists the firmware files a module declares.
func Firmware(module []byte) ([]string, error) { return Modinfo(module, "firmware") }

// Machine is the processor that a module is for, as elf.Machine names it; ""
// when the file is not an ELF file.
func Machine(module []byte) string {
	e, err := elf.NewFile(bytes.NewReader(module))
	if err != nil {
		return ""
	}
	return e.Machine.String()
}

// Modinfo gives the values of a key in a module's .modinfo section.
func Modinfo(module []byte, key string) ([]string, error) {
	e, err := elf.NewFile(bytes.NewReader(module))
	if err != nil {
		return nil, fmt.Errorf("cannot read kernel module: %w", err)
	}
	info, err := modinfo(e)
	if err != nil {
		return nil, fmt.Errorf("cannot read kernel module: %w", err)
	}
	return info[key], nil
}

// modinfo gives what a module's .modinfo section has, by key.
func modinfo(e *elf.File) (map[string][]string, error) {
	s := e.Section(".modinfo")
	if s == nil {
		return nil, nil
	}
	d, err := s.Data()
	if err != nil {
		return nil, err
	}
	out := map[string][]string{}
	for _, kv := range strings.Split(string(d), "\x00") {
		if k, v, ok := strings.Cut(kv, "="); ok {
			out[k] = append(out[k], v)
		}
	}
	return out, nil
}

// WriteIndex gives modules.dep, modules.alias, modules.softdep and
// modules.builtin for the named modules only, by file name; paths lose their
// compression's suffix, since the rescue system holds them decompressed.
func (x *Index) WriteIndex(names []string) (map[string][]byte, error) {
	in := map[string]bool{}
	var dep, soft, al, bi bytes.Buffer
	for _, n := range names {
		in[n] = true
	}
	for _, n := range names {
		fmt.Fprintf(&dep, "%s:", PlainPath(x.Path[n]))
		for _, d := range x.Deps[n] {
			fmt.Fprintf(&dep, " %s", PlainPath(x.Path[d]))
		}
		dep.WriteByte('\n')
		if len(x.Pre[n])+len(x.Post[n]) > 0 {
			fmt.Fprintf(&soft, "softdep %s", n)
			for _, s := range []struct {
				k string
				v []string
			}{{"pre", x.Pre[n]}, {"post", x.Post[n]}} {
				if len(s.v) > 0 {
					fmt.Fprintf(&soft, " %s: %s", s.k, strings.Join(s.v, " "))
				}
			}
			soft.WriteByte('\n')
		}
	}
	alias := func(l string) {
		if f := strings.Fields(l); len(f) == 3 && in[Norm(f[2])] {
			al.WriteString(l + "\n")
		}
	}
	for _, l := range x.made {
		alias(l)
	}
	if x.made == nil {
		if err := lines(x.Dir+"/modules.alias", alias); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	}
	builtin := make([]string, 0, len(x.Builtin))
	for n := range x.Builtin {
		builtin = append(builtin, n)
	}
	slices.Sort(builtin)
	for _, n := range builtin {
		fmt.Fprintf(&bi, "kernel/%s.ko\n", n)
	}
	return map[string][]byte{"modules.dep": dep.Bytes(), "modules.alias": al.Bytes(), "modules.softdep": soft.Bytes(), "modules.builtin": bi.Bytes()}, nil
}

// PlainPath is a module's path without a compression's suffix.
func PlainPath(p string) string {
	for _, s := range []string{".xz", ".zst", ".gz"} {
		p = strings.TrimSuffix(p, s)
	}
	return p
}
