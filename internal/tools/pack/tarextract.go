package pack

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/user"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/tools"
)

func (t *tarRun) all(r io.Reader, list bool) error {
	in := &progress.Reader{R: r}
	tr := tar.NewReader(in)
	for first := true; ; first = false {
		h, err := tr.Next()
		switch {
		case errors.Is(err, io.EOF) && in.N%512 != 0:
			return errors.New("unexpected EOF in archive")
		case errors.Is(err, io.EOF) && in.N > 0:
			return nil
		case err != nil && first:
			return errors.New("this does not look like a tar archive")
		case err != nil:
			return fmt.Errorf("unexpected end of archive or damaged header: %w", err)
		}
		if !t.wanted(h.Name) || t.excluded(strings.TrimSuffix(h.Name, "/")) {
			continue
		}
		shown := *h
		kept := t.stripped(h)
		t.renamed(h)
		if t.On("show-transformed-names") {
			shown = *h
		}
		if list {
			t.list(t.Out, &shown)
			continue
		}
		if !kept {
			continue
		}
		t.announce(&shown, t.On("O"))
		if t.On("O") {
			if _, err := io.Copy(t.Out, tr); err != nil {
				return err
			}
			continue
		}
		if err := t.extract(h, tr); err != nil {
			var p *fs.PathError
			if errors.As(err, &p) {
				err = p.Err
			}
			t.Fault(2, "%s: Cannot extract: %s", h.Name, tools.Cause(err))
		}
	}
}

// wanted reports whether a member is one of the operands or below one.
func (t *tarRun) wanted(name string) bool {
	if len(t.members) == 0 {
		return true
	}
	ok := false
	name = strings.TrimSuffix(name, "/")
	for i, m := range t.members {
		m = strings.TrimSuffix(m, "/")
		hit := name == m || strings.HasPrefix(name, m+"/")
		if t.On("wildcards") {
			hit = t.wild[i].MatchString(name)
		}
		ok, t.seen[i] = ok || hit, t.seen[i] || hit
	}
	return ok
}

// stripped takes components off a name; false if that is all of it.
func (t *tarRun) stripped(h *tar.Header) bool {
	cut := func(s string) string {
		parts := strings.Split(strings.TrimLeft(s, "/"), "/")
		if len(parts) <= t.strip {
			return ""
		}
		return strings.Join(parts[t.strip:], "/")
	}
	if t.strip == 0 {
		return true
	}
	h.Name = cut(h.Name)
	if h.Typeflag == tar.TypeLink {
		h.Linkname = cut(h.Linkname)
	}
	return strings.Trim(h.Name, "/") != ""
}

// renamed changes the names in a header as --transform has it.
func (t *tarRun) renamed(h *tar.Header) {
	if t.rename == nil {
		return
	}
	h.Name = t.rename(h.Name)
	if h.Typeflag == tar.TypeLink || h.Typeflag == tar.TypeSymlink {
		h.Linkname = t.rename(h.Linkname)
	}
}

// local is a name below the directory that is extracted to.
func local(name string) (string, error) {
	n := path.Clean(strings.TrimLeft(name, "/"))
	if !filepath.IsLocal(n) {
		return "", errors.New("member name contains '..'")
	}
	return n, nil
}

// directory makes a directory, which gets its attributes when all members are there.
func (t *tarRun) directory(name string, h *tar.Header) error {
	if err := t.root.Mkdir(name, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	h.Name = name
	t.dirs = append(t.dirs, h)
	return nil
}

func (t *tarRun) extract(h *tar.Header, r io.Reader) error {
	name, err := local(h.Name)
	if err != nil {
		return err
	}
	if err := t.root.MkdirAll(path.Dir(name), 0o777); err != nil {
		return err
	}
	if h.Typeflag == tar.TypeDir {
		return t.directory(name, h)
	}
	if _, err := t.root.Lstat(name); err == nil {
		switch {
		case t.On("skip-old-files"):
			return nil
		case t.On("k"):
			return fs.ErrExist
		}
		if err := t.root.Remove(name); err != nil {
			return err
		}
	}
	h.Name = name
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse:
		if err := t.content(name, r); err != nil {
			return err
		}
	case tar.TypeSymlink:
		err = t.root.Symlink(h.Linkname, name)
	case tar.TypeLink:
		to, err := local(h.Linkname)
		if err == nil {
			err = t.root.Link(to, name)
		}
		return err
	case tar.TypeBlock, tar.TypeChar, tar.TypeFifo:
		err = t.node(name, h)
	default:
		return fmt.Errorf("unknown file type '%c'", h.Typeflag)
	}
	if err != nil {
		return err
	}
	t.finish(h)
	return nil
}

func (t *tarRun) node(name string, h *tar.Header) error {
	dir, err := t.root.Open(path.Dir(name))
	if err != nil {
		return err
	}
	defer dir.Close()
	mode := map[byte]uint32{tar.TypeBlock: unix.S_IFBLK, tar.TypeChar: unix.S_IFCHR, tar.TypeFifo: unix.S_IFIFO}[h.Typeflag]
	return unix.Mknodat(int(dir.Fd()), path.Base(name), mode|0o600, int(unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))))
}

// content writes a file; blocks of zeros become holes.
func (t *tarRun) content(name string, r io.Reader) error {
	f, err := t.root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	buf, zero := make([]byte, 64<<10), make([]byte, 64<<10)
	for size := int64(0); ; {
		n, err := io.ReadFull(r, buf)
		switch {
		case slices.Equal(buf[:n], zero[:n]):
			_, serr := f.Seek(int64(n), io.SeekCurrent)
			err = errors.Join(err, serr)
		default:
			if _, werr := f.Write(buf[:n]); werr != nil {
				return werr
			}
		}
		size += int64(n)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return f.Truncate(size)
		}
		if err != nil {
			return err
		}
	}
}

// finish gives a member its owner, mode, attributes and time.
func (t *tarRun) finish(h *tar.Header) {
	var errs []error
	asRoot := os.Geteuid() == 0
	if asRoot && !t.On("o") {
		uid, gid := h.Uid, h.Gid
		if !t.On("numeric-owner") {
			if u, err := user.Lookup(h.Uname); err == nil {
				uid, _ = strconv.Atoi(u.Uid) // always a number here
			}
			if g, err := user.LookupGroup(h.Gname); err == nil {
				gid, _ = strconv.Atoi(g.Gid) // likewise
			}
		}
		errs = append(errs, t.root.Lchown(h.Name, uid, gid))
	}
	if h.Typeflag != tar.TypeSymlink {
		mode := h.FileInfo().Mode() & (fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky)
		if !asRoot && !t.On("p") || t.On("no-same-permissions") {
			m := unix.Umask(0)
			unix.Umask(m)
			mode = mode & fs.ModePerm &^ fs.FileMode(m)
		}
		errs = append(errs, t.root.Chmod(h.Name, mode))
		errs = append(errs, t.attributes(h))
	}
	if !t.On("m") {
		errs = append(errs, t.times(h))
	}
	if err := errors.Join(errs...); err != nil {
		t.Fault(2, "%s: Cannot set owner, mode or time: %s", h.Name, tools.Cause(err))
	}
}

func (t *tarRun) times(h *tar.Header) error {
	dir, err := t.root.Open(path.Dir(h.Name))
	if err != nil {
		return err
	}
	defer dir.Close()
	ts := unix.NsecToTimespec(h.ModTime.UnixNano())
	return unix.UtimesNanoAt(int(dir.Fd()), path.Base(h.Name), []unix.Timespec{{Nsec: unix.UTIME_NOW}, ts}, unix.AT_SYMLINK_NOFOLLOW)
}

func (t *tarRun) attributes(h *tar.Header) error {
	if !t.On("xattrs", "acls", "selinux") {
		return nil
	}
	f, err := t.root.Open(h.Name)
	if err != nil {
		return nil // a device or fifo has none
	}
	defer f.Close()
	for k, v := range h.PAXRecords {
		if name, ok := strings.CutPrefix(k, "SCHILY.xattr."); ok {
			if err := unix.Fsetxattr(int(f.Fd()), name, []byte(v), 0); err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
				return err
			}
		}
	}
	return nil
}
