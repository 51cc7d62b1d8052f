package initramfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// Comfort programs are those that a person likes and no restore needs. They take no
// memory until somebody uses them: the tree has a line of script in the place of each,
// which the kernel gives to the command comfort, and an archive has the programs. The
// archive is on the medium, or in the tree of a rescue system that has no medium.
const (
	// ComfortFile is the archive's path on the medium, ComfortInTree that in the tree.
	ComfortFile   = "boot/comfort.img"
	ComfortInTree = "usr/lib/mkcdrec/comfort.img"
	// comfortList has a line for each program: its path, and the paths of libraries
	// that the tree does not have, with tabs between.
	comfortList   = "etc/mkcdrec/comfort"
	comfortScript = "#!/bbin/comfort\n"
)

// Comfort adds programs as Carry does, and takes those that are new, and libraries that
// only they need, out of the tree again with TakeOut.
type Comfort struct {
	tree  *Files
	had   map[string]bool
	needs map[string][]string // a program: its libraries
}

// BeginComfort begins to collect: what is carried from now on is comfort.
func (f *Files) BeginComfort() *Comfort {
	c := &Comfort{tree: f, had: map[string]bool{}, needs: map[string][]string{}}
	for p := range f.entries {
		c.had[p] = true
	}
	f.comfort = c
	return c
}

// note is told of a program that Carry adds.
func (c *Comfort) note(program string, libs []string) {
	if c != nil {
		c.needs[Canonical(program)] = append([]string{}, libs...)
	}
}

// TakeOut writes the comfort programs as an archive and leaves scripts in their places.
// It returns how many there are.
func (c *Comfort) TakeOut(w io.Writer, how Compression) (int, error) {
	f := c.tree
	f.comfort = nil
	only := &Files{entries: map[string]entry{}}
	for p, e := range f.entries {
		if !c.had[p] && e.source != "" && strings.HasPrefix(p, "usr/") && (c.needs[p] != nil || strings.HasPrefix(p, "usr/lib")) {
			only.entries[p] = e
		}
	}
	var list bytes.Buffer
	n := 0
	for _, p := range only.Paths() {
		delete(f.entries, p)
		if c.needs[p] == nil {
			continue
		}
		n++
		line := []string{p}
		for _, l := range c.needs[p] {
			if l = Canonical(l); only.Has(l) && !slices.Contains(line, l) {
				line = append(line, l)
			}
		}
		fmt.Fprintln(&list, strings.Join(line, "\t"))
		f.entries[p] = entry{mode: only.entries[p].mode, content: []byte(comfortScript), size: int64(len(comfortScript))}
	}
	if n == 0 {
		return 0, nil
	}
	if err := f.AddContent(comfortList, list.Bytes(), 0o644); err != nil {
		return 0, err
	}
	r := &part{paths: only.Paths(), level: zstd.SpeedBetterCompression}
	err := only.compress(r, how, 1, false)
	if err == nil {
		_, err = r.out.WriteTo(w)
	}
	if err != nil {
		return 0, fmt.Errorf("cannot pack the comfort programs: %w", err)
	}
	return n, nil
}

// UnpackComfort puts a comfort program and its libraries into the tree at root, in the
// place of its script. program is a path without links; archives are files, of which
// the first one that is there is read.
func UnpackComfort(root, program string, archives ...string) error {
	wanted, err := comfortParts(root, program)
	if err != nil {
		return err
	}
	var in *os.File
	for _, a := range archives {
		if in, err = os.Open(a); err == nil {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("cannot unpack %s: %w", program, err)
	}
	defer in.Close()
	// Libraries that another program has brought are whole, and in use.
	wanted = append(wanted[:1:1], slices.DeleteFunc(wanted[1:], func(w string) bool {
		_, err := os.Lstat(filepath.Join(root, w))
		return err == nil
	})...)
	// The program comes last: until then its script is there.
	var last []byte
	err = Walk(in, func(p string, content []byte) error {
		i := slices.Index(wanted, p)
		switch {
		case i < 0:
			return nil
		case i == 0:
			last = content
		default:
			if err := replaceFile(filepath.Join(root, p), content); err != nil {
				return err
			}
		}
		if wanted[i] = ""; !slices.ContainsFunc(wanted, func(w string) bool { return w != "" }) {
			return errAllThere
		}
		return nil
	})
	switch {
	case errors.Is(err, errAllThere):
		return replaceFile(filepath.Join(root, program), last)
	case err == nil:
		err = fmt.Errorf("%s is not whole", in.Name())
	}
	return fmt.Errorf("cannot unpack %s: %w", program, err)
}

var errAllThere = errors.New("all files are there")

// comfortParts lists the paths that a program is made of, itself first.
func comfortParts(root, program string) ([]string, error) {
	b, err := os.ReadFile(filepath.Join(root, comfortList))
	if err != nil {
		return nil, fmt.Errorf("cannot unpack %s: %w", program, err)
	}
	for l := range strings.Lines(string(b)) {
		if w := strings.Split(strings.TrimSuffix(l, "\n"), "\t"); w[0] == Canonical(program) {
			return w, nil
		}
	}
	return nil, fmt.Errorf("cannot unpack %s: it is none of the programs in /%s", program, comfortList)
}

// replaceFile puts a program or library into its place, whole. Two that do so at one time
// do not disturb each other.
func replaceFile(file string, content []byte) error {
	if err := os.MkdirAll(path.Dir(file), 0o755); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(path.Dir(file), ".comfort-*")
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
