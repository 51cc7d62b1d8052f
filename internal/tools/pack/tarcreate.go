package pack

import (
	"archive/tar"
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

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
	return err
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

func (t *tarRun) add(top string, self os.FileInfo) {
	var dev uint64
	walk := filepath.WalkDir
	_ = walk(top, func(p string, d fs.DirEntry, err error) error { // errors are reported here
		if err != nil {
			t.Fault(2, "%s: Cannot stat: %s", p, tools.Cause(err))
			return nil
		}
		skip := map[bool]error{true: filepath.SkipDir}[d.IsDir()]
		if t.excluded(p) {
			return skip
		}
		st, err := os.Lstat(p)
		if t.On("h") && err == nil && st.Mode()&fs.ModeSymlink != 0 {
			st, err = os.Stat(p)
		}
		if err != nil {
			t.Fault(2, "%s: Cannot stat: %s", p, tools.Cause(err))
			return nil
		}
		if u, ok := st.Sys().(*syscall.Stat_t); ok && t.On("one-file-system") {
			if dev = cmp.Or(dev, u.Dev); u.Dev != dev {
				return filepath.SkipDir
			}
		}
		if self != nil && os.SameFile(self, st) {
			t.Fault(0, "%s: file is the archive; not dumped", p)
			return nil
		}
		if p != top { // as the operand begins, "./d"
			p = strings.TrimSuffix(top, "/") + strings.TrimPrefix("/"+p, strings.TrimSuffix("/"+filepath.Clean(top), "/."))
		}
		if err := t.member(p, st); err != nil {
			t.Fault(2, "%s: %s", p, tools.Cause(err))
		}
		if t.On("no-recursion") {
			return skip
		}
		return nil
	})
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
	h.Format = tar.FormatGNU
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
	if err := t.out.WriteHeader(h); err != nil {
		return err
	}
	t.announce(h, t.Or("f", "-") == "-")
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
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(p, buf)
	if err != nil || n == 0 {
		return // the file system has none
	}
	for _, name := range strings.Split(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00") {
		v := make([]byte, 64<<10)
		k, err := unix.Lgetxattr(p, name, v)
		if err != nil {
			continue
		}
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.Format = tar.FormatPAX
		h.PAXRecords["SCHILY.xattr."+name] = string(v[:k])
	}
}
