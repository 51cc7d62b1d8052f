package pack

import (
	"archive/tar"
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/tools"
)

func (t *tarRun) create() error {
	names, err := t.lines("T")
	if err != nil {
		return err
	}
	names = append(t.Args, names...)
	if len(names) == 0 {
		return tools.Usage("cowardly refusing to create an empty archive")
	}
	file := t.Or("f", "-")
	var w io.Writer = t.Out
	var self os.FileInfo
	if file != "-" {
		f, err := os.Create(file)
		if err != nil {
			return fmt.Errorf("%s: cannot open: %s", file, tools.Cause(err))
		}
		defer f.Close()
		if self, err = f.Stat(); err != nil {
			return err
		}
		w = f
	}
	for _, d := range t.Vals("C") {
		if err := os.Chdir(d); err != nil {
			return fmt.Errorf("%s: cannot chdir: %s", d, tools.Cause(err))
		}
	}
	b := bufio.NewWriterSize(w, 1<<18)
	z, err := t.compressor(b, file)
	if err != nil {
		return err
	}
	t.out = tar.NewWriter(z)
	for _, n := range names {
		t.add(n, self)
	}
	err = t.out.Close()
	if c, ok := z.(io.Closer); ok && err == nil {
		err = c.Close()
	}
	if err == nil {
		err = b.Flush()
	}
	if err == nil {
		t.removeAdded()
	}
	return err
}

// removeAdded removes what was added, for --remove-files.
func (t *tarRun) removeAdded() {
	for _, p := range slices.Backward(t.added) {
		if err := os.Remove(p); err != nil {
			t.Fault(2, "%s: Cannot remove: %s", p, tools.Cause(err))
		}
	}
}

// compressor is the way of -z, -j, -J and --zstd; with -a that of the archive's name.
func (t *tarRun) compressor(w io.Writer, file string) (io.Writer, error) {
	how, _ := t.Last("z", "j", "J", "zstd")
	ext := map[string]string{"z": ".gz", "j": ".bz2", "J": ".xz", "zstd": ".zst"}[how.Name]
	if ext == "" && t.On("a", "Z") {
		short := strings.NewReplacer(".tgz", ".gz", ".txz", ".xz", ".tbz2", ".bz2", ".tzst", ".zst")
		ext = path.Ext(short.Replace(file))
	}
	for _, f := range formats() {
		if f.suffix == ext {
			level := 6
			if ext == ".zst" {
				level = 3
			}
			return f.write(w, level)
		}
	}
	return w, nil
}

// walker adds an operand to the archive, with what is below it.
type walker struct {
	*tarRun
	self   os.FileInfo // the archive; nil for standard output
	within []os.FileInfo
}

func (t *tarRun) add(top string, self os.FileInfo) { (&walker{tarRun: t, self: self}).add(top) }

func (w *walker) add(p string) {
	if w.excluded(p) {
		return
	}
	stat := os.Lstat
	if w.On("h") {
		stat = os.Stat
	}
	st, err := stat(p)
	if err != nil {
		w.Fault(2, "%s: Cannot stat: %s", p, tools.Cause(err))
		return
	}
	if w.self != nil && os.SameFile(w.self, st) {
		w.Fault(0, "%s: file is the archive; not dumped", p)
		return
	}
	loop := slices.ContainsFunc(w.within, func(up os.FileInfo) bool { return os.SameFile(up, st) })
	if loop { // with -h
		w.Fault(2, "%s: a link to a directory that it is in; not dumped", p)
		return
	}
	if err := w.member(p, st); err != nil {
		w.Fault(2, "%s: %s", p, tools.Cause(err))
	} else if w.On("remove-files") {
		w.added = append(w.added, p)
	}
	switch {
	case !st.IsDir() || w.On("no-recursion"):
		return
	case w.On("one-file-system") && len(w.within) > 0 && device(st) != device(w.within[0]):
		if w.On("v") {
			w.Fault(0, "%s/: file is on a different filesystem; not dumped", p)
		}
		return
	}
	es, err := os.ReadDir(p)
	if err != nil {
		w.Fault(2, "%s: Cannot open: %s", p, tools.Cause(err))
	}
	w.within = append(w.within, st)
	for _, e := range es {
		w.add(strings.TrimSuffix(p, "/") + "/" + e.Name())
	}
	w.within = w.within[:len(w.within)-1]
}

// device is the number of the file system that a file is on.
func device(st os.FileInfo) uint64 {
	if u, ok := st.Sys().(*syscall.Stat_t); ok {
		return u.Dev
	}
	return 0
}

func (t *tarRun) header(p string, st os.FileInfo) (*tar.Header, error) {
	link := ""
	if st.Mode()&fs.ModeSymlink != 0 {
		var err error
		if link, err = os.Readlink(p); err != nil {
			return nil, err
		}
	}
	h, err := tar.FileInfoHeader(st, link)
	if err != nil {
		return nil, err
	}
	h.Format = t.format
	h.Name = p
	if !t.On("P") {
		h.Name = strings.TrimLeft(p, "/")
	}
	if h.Name == "" {
		h.Name = "."
	}
	if st.IsDir() {
		h.Name = strings.TrimSuffix(h.Name, "/") + "/"
	}
	h.AccessTime, h.ChangeTime = time.Time{}, time.Time{}
	if t.On("numeric-owner") {
		h.Uname, h.Gname = "", ""
	}
	if o := t.owner[0]; o != nil {
		h.Uname, h.Uid = o.name, o.id
	}
	if o := t.owner[1]; o != nil {
		h.Gname, h.Gid = o.name, o.id
	}
	if !t.mtime.IsZero() {
		h.ModTime = t.mtime
	}
	return h, nil
}

func (t *tarRun) member(p string, st os.FileInfo) error {
	if st.Mode()&fs.ModeSocket != 0 {
		t.Fault(0, "%s: socket ignored", p)
		return nil
	}
	h, err := t.header(p, st)
	if err != nil {
		return err
	}
	if u, ok := st.Sys().(*syscall.Stat_t); ok && st.Mode().IsRegular() && u.Nlink > 1 {
		id := [2]uint64{u.Dev, u.Ino}
		if first, ok := t.made[id]; ok {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
		} else {
			t.made[id] = h.Name
		}
	}
	if t.On("xattrs", "acls", "selinux") {
		xattrs(h, p)
	}
	shown := *h
	t.renamed(h)
	if t.On("show-transformed-names") {
		shown = *h
	}
	if err := t.out.WriteHeader(h); err != nil {
		return err
	}
	t.announce(&shown, t.Or("f", "-") == "-")
	if h.Typeflag != tar.TypeReg {
		return nil
	}
	f, err := os.Open(p)
	if err != nil {
		return err
	}
	defer f.Close()
	n, err := io.CopyN(t.out, f, h.Size)
	if errors.Is(err, io.EOF) { // the file became shorter: zeros keep the archive valid
		_, err = io.CopyN(t.out, zeros{}, h.Size-n)
		t.Fault(1, "%s: File shrank by %d bytes; padding with zeros", p, h.Size-n)
	}
	return err
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// xattrs adds the extended attributes of a file.
func xattrs(h *tar.Header, p string) {
	names, err := tools.Xattrs(p, true)
	if err != nil {
		return // the file system has none
	}
	for _, name := range names {
		v, err := tools.Xattr(p, name, true)
		if err != nil {
			continue
		}
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.Format = tar.FormatPAX
		h.PAXRecords["SCHILY.xattr."+name] = string(v)
	}
}
