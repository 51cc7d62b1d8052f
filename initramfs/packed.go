package initramfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// Programs of the machine take little memory until they are used: the tree has a line of
// script in the place of each, which the kernel gives to the command comfort, and an archive
// has the programs. Those that a restore needs are packed in the tree. Comfort programs,
// which a person likes and no restore needs, are on the medium, or in the tree of a rescue
// system that has no medium.
const (
	// NeededInTree is the path in the tree of the archive that a restore needs.
	NeededInTree = "usr/lib/mkcdrec/programs.img"
	// ComfortFile is the path of the comfort programs on the medium, ComfortInTree that in the tree.
	ComfortFile   = "boot/comfort.img"
	ComfortInTree = "usr/lib/mkcdrec/comfort.img"
	// packedList has a line for each program: its path, and the paths of libraries
	// that the tree does not have, with tabs between.
	packedList   = "etc/mkcdrec/packed"
	packedScript = "#!/bbin/comfort\n"
)

// Packing takes programs that Carry has added, and libraries that only they need, out of the
// tree again with TakeOut.
type Packing struct {
	tree   *Files
	had    map[string]bool
	needs  map[string][]string // a program: its libraries
	before *Packing            // nil for the first one
}

// BeginPacking begins to collect what is carried from now on, and ends the collection before.
// The last one that was begun has to be taken out first.
func (f *Files) BeginPacking() *Packing {
	c := &Packing{tree: f, had: map[string]bool{}, needs: map[string][]string{}, before: f.packing}
	for p := range f.entries {
		c.had[p] = true
	}
	f.packing = c
	return c
}

// note is told of a program that Carry adds.
func (c *Packing) note(program string, libs []string) {
	if c != nil {
		c.needs[Canonical(program)] = append([]string{}, libs...)
	}
}

// stays reports whether the tree keeps a path when all programs are taken out.
func (c *Packing) stays(p string) bool {
	for c.before != nil {
		c = c.before
	}
	return c.had[p] || !strings.HasPrefix(p, "usr/lib")
}

// TakeOut writes the programs as an archive and leaves scripts in their places.
// It returns how many there are.
func (c *Packing) TakeOut(w io.Writer, how Compression) (int, error) {
	f := c.tree
	f.packing = c.before
	only := &Files{entries: map[string]entry{}}
	for p, e := range f.entries {
		if !c.had[p] && e.source != "" && strings.HasPrefix(p, "usr/") && (c.needs[p] != nil || strings.HasPrefix(p, "usr/lib")) {
			only.entries[p] = e
		}
	}
	list := bytes.NewBuffer(slices.Clone(f.entries[packedList].content))
	n := 0
	for _, p := range only.Paths() {
		delete(f.entries, p)
		if c.needs[p] == nil {
			continue
		}
		n++
		line := []string{p}
		for _, l := range c.needs[p] {
			if l = Canonical(l); (only.Has(l) || f.Has(l)) && !c.stays(l) && !slices.Contains(line, l) {
				line = append(line, l)
			}
		}
		fmt.Fprintln(list, strings.Join(line, "\t"))
		f.entries[p] = entry{mode: only.entries[p].mode, content: []byte(packedScript), size: int64(len(packedScript))}
	}
	if n == 0 {
		return 0, nil
	}
	delete(f.entries, packedList)
	if err := f.AddContent(packedList, list.Bytes(), 0o644); err != nil {
		return 0, err
	}
	r := &part{paths: only.Paths(), level: zstd.SpeedBetterCompression}
	err := only.compress(r, how, 1, false)
	if err == nil {
		_, err = r.out.WriteTo(w)
	}
	if err != nil {
		return 0, fmt.Errorf("cannot pack the programs: %w", err)
	}
	return n, nil
}

// Unpack puts a packed program and its libraries into the tree at root, in the place of its
// script. program is a path without links; archives are files, which may be missing as long as
// the others have what is needed.
func Unpack(root, program string, archives ...string) error {
	wanted, err := packedParts(root, program)
	if err != nil {
		return err
	}
	u := &unpacking{root: root, program: wanted[0], wanted: map[string]bool{}}
	for i, w := range wanted {
		// Libraries that another program has brought are whole, and in use.
		if _, err := os.Lstat(filepath.Join(root, w)); i == 0 || err != nil {
			u.wanted[w] = true
		}
	}
	var errs []error
	for _, a := range archives {
		if err = u.from(a); err == nil {
			break
		}
		errs = append(errs, err)
	}
	if len(u.wanted) == 0 {
		// The program comes last: until then its script is there.
		if err = replaceFile(filepath.Join(root, program), u.content); err == nil {
			return nil
		}
		errs = []error{err}
	}
	return fmt.Errorf("cannot unpack %s: %w", program, errors.Join(errs...))
}

// unpacking is a program that is being unpacked.
type unpacking struct {
	root, program string
	wanted        map[string]bool // paths that are missing
	content       []byte          // of the program
}

// from takes what is wanted out of an archive. It fails if something is still missing.
func (u *unpacking) from(archive string) error {
	in, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer in.Close()
	err = Walk(in, func(p string, content []byte) error {
		switch {
		case !u.wanted[p]:
			return nil
		case p == u.program:
			u.content = content
		default:
			if err := replaceFile(filepath.Join(u.root, p), content); err != nil {
				return err
			}
		}
		if delete(u.wanted, p); len(u.wanted) == 0 {
			return errAllThere
		}
		return nil
	})
	if errors.Is(err, errAllThere) {
		return nil
	}
	if err == nil {
		err = fmt.Errorf("%s does not have %s", archive, strings.Join(slices.Sorted(maps.Keys(u.wanted)), ", "))
	}
	return err
}

var errAllThere = errors.New("all files are there")

// packedParts lists the paths that a program is made of, itself first.
func packedParts(root, program string) ([]string, error) {
	b, err := os.ReadFile(filepath.Join(root, packedList))
	if err != nil {
		return nil, fmt.Errorf("cannot unpack %s: %w", program, err)
	}
	for l := range strings.Lines(string(b)) {
		if w := strings.Split(strings.TrimSuffix(l, "\n"), "\t"); w[0] == Canonical(program) {
			return w, nil
		}
	}
	return nil, fmt.Errorf("cannot unpack %s: it is not one of the programs in /%s", program, packedList)
}

// replaceFile puts a program or library into its place, whole. Two that do so at one time
// do not disturb each other.
func replaceFile(file string, content []byte) error {
	if err := os.MkdirAll(path.Dir(file), 0o755); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(path.Dir(file), ".packed-*")
	if err != nil {
		return err
	}
	_, err = tmp.Write(content)
	if err = errors.Join(err, tmp.Chmod(0o755), tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), file)
	}
	if err != nil {
		os.Remove(tmp.Name())
	}
	return err
}
