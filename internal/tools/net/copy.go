package nettools

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
	"golang.org/x/term"
	"golang.org/x/time/rate"

	"github.com/mkcdrec/mkcdrec/internal/printable"
	"github.com/mkcdrec/mkcdrec/internal/tools"
	"github.com/mkcdrec/mkcdrec/internal/ui"
)

// side is where files of a copy are: here, or on a server.
type side interface {
	Stat(name string) (fs.FileInfo, error)
	Lstat(name string) (fs.FileInfo, error)
	ReadDir(name string) ([]fs.FileInfo, error)
	Mkdir(name string) error
	Chmod(name string, mode fs.FileMode) error
	Chtimes(name string, access, change time.Time) error
	Glob(pattern string) ([]string, error)
	RealPath(name string) (string, error) // whose last part need not exist
	identity(name string) string          // the same for all names of a file; "" of a missing one
	open(name string, flags int) (file, error)
}

// file is an open file of a side.
type file interface {
	io.ReadWriteCloser
	io.Seeker
	Chmod(mode fs.FileMode) error
	Stat() (fs.FileInfo, error)
}

// here is the side of this machine.
type here struct{}

func (here) Stat(n string) (fs.FileInfo, error)     { return os.Stat(n) }
func (here) Lstat(n string) (fs.FileInfo, error)    { return os.Lstat(n) }
func (here) Mkdir(n string) error                   { return os.Mkdir(n, 0o777) }
func (here) Chmod(n string, m fs.FileMode) error    { return os.Chmod(n, m) }
func (here) Chtimes(n string, a, m time.Time) error { return os.Chtimes(n, a, m) }
func (here) Glob(p string) ([]string, error)        { return []string{p}, nil } // the shell's work
func (here) open(n string, flags int) (file, error) { return os.OpenFile(n, flags, 0o666) }
func (here) ReadDir(n string) (l []fs.FileInfo, _ error) {
	es, err := os.ReadDir(n)
	for _, d := range es {
		if i, err := d.Info(); err == nil { // it may have been removed
			l = append(l, i)
		}
	}
	return l, err
}

// RealPath gives the absolute path without links; what does not exist keeps its name.
func (h here) RealPath(n string) (string, error) {
	abs, err := filepath.Abs(n)
	if err != nil {
		return "", err
	}
	p, err := filepath.EvalSymlinks(abs)
	if !errors.Is(err, fs.ErrNotExist) || abs == "/" {
		return p, err
	}
	dir, err := h.RealPath(filepath.Dir(abs))
	return filepath.Join(dir, filepath.Base(abs)), err
}

func (here) identity(n string) string {
	var st unix.Stat_t
	if unix.Stat(n, &st) != nil {
		return ""
	}
	return fmt.Sprintf("%d %d", st.Dev, st.Ino)
}

// there is the side of a server.
type there struct{ *sftp.Client }

// identity is the path without links: SFTP has no numbers of files.
func (t there) identity(n string) string {
	if _, err := t.Stat(n); err != nil {
		return ""
	}
	p, err := t.Client.RealPath(n)
	if err != nil {
		return ""
	}
	return p
}

func (t there) open(n string, flags int) (file, error) { return t.OpenFile(n, flags) }

// Glob gives the paths that match; the pattern itself if there are none or it has no wildcards.
func (t there) Glob(p string) ([]string, error) {
	if !strings.ContainsAny(p, `*?[\`) {
		return []string{p}, nil
	}
	if names, err := t.Client.Glob(p); err == nil && len(names) > 0 {
		return names, nil
	}
	return []string{strings.ReplaceAll(p, `\`, "")}, nil
}

// files starts the sftp server of a machine.
func (l *login) files(p place) (there, *ssh.Client, error) {
	c, err := l.dial(p)
	if err != nil {
		return there{}, nil, err
	}
	f, err := sftp.NewClient(c, sftp.UseConcurrentWrites(true), sftp.UseFstat(true))
	if err != nil {
		c.Close()
		return there{}, nil, fmt.Errorf("cannot copy files to or from %s: it has no SFTP server: %s", printable.Clean(p.host), cause(err))
	}
	return there{f}, c, nil
}

// copier copies files between sides.
type copier struct {
	*tools.Env
	recursive, preserve, resume bool
	follow                      bool   // symbolic links inside directories
	entering                    string // what is printed of directories; "" prints nothing
	quiet                       bool
	limit                       *rate.Limiter // bytes per second; nil without a limit
	within                      []string      // identities of the directories that are being copied
}

// overlap reports a file that would be copied onto itself, and a directory that would be copied
// into itself.
func overlap(from side, src string, to side, dst string, dir bool) error {
	if from != to {
		return nil
	}
	if id := from.identity(src); id != "" && id == to.identity(dst) {
		return said("'%s' and '%s' are the same file", src, dst)
	}
	a, err1 := from.RealPath(src)
	b, err2 := to.RealPath(dst)
	if dir && err1 == nil && err2 == nil && strings.HasPrefix(b, strings.TrimSuffix(a, "/")+"/") {
		return said("cannot copy a directory, '%s', into itself, '%s'", src, dst)
	}
	return nil
}

// reason is what an error of a side reports, without the path.
func reason(err error) string {
	var st *sftp.StatusError
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "No such file or directory"
	case errors.Is(err, fs.ErrPermission):
		return "Permission denied"
	case errors.As(err, &st):
		return strings.TrimPrefix(strings.TrimSuffix(strings.TrimPrefix(st.Error(), "sftp: "), " (SSH_FX_FAILURE)"), `"`)
	}
	return tools.Cause(err)
}

// copyAll copies what a name stands for to a name on the other side. Faults are reported,
// and what follows is copied.
func (c *copier) copyAll(from side, src string, to side, dst string) {
	st, err := from.Stat(src)
	same := error(nil)
	if err == nil {
		same = overlap(from, src, to, dst, st.IsDir())
	}
	switch {
	case err != nil:
		c.Warn("%s: %s", src, reason(err))
	case same != nil:
		c.Warn("%v", same)
	case st.IsDir() && !c.recursive:
		c.Warn("%s: not a regular file", src)
	case st.IsDir():
		c.copyDir(from, src, to, dst, st)
	case !st.Mode().IsRegular():
		c.Warn("%s: not a regular file", src)
	default:
		if err := c.copyFile(from, src, to, dst, st); err != nil {
			c.Warn("%v", err)
		}
	}
}

func (c *copier) copyDir(from side, src string, to side, dst string, st fs.FileInfo) {
	id := from.identity(src)
	if slices.Contains(c.within, id) {
		c.Warn("%s: a link to a directory that it is in; not copied", src)
		return
	}
	c.within = append(c.within, id)
	defer func() { c.within = c.within[:len(c.within)-1] }()
	if c.entering != "" {
		c.Printf("%s %s\n", c.entering, printable.Clean(src))
	}
	if old, err := to.Stat(dst); err == nil && !old.IsDir() {
		c.Warn("%s: Not a directory", dst)
		return
	} else if err != nil {
		if err := to.Mkdir(dst); err != nil {
			c.Warn("mkdir %s: %s", dst, reason(err))
			return
		}
		if made, err := to.Stat(dst); err == nil {
			_ = to.Chmod(dst, st.Mode().Perm()&allowed(made.Mode())|0o700) // it is set again at the end
		}
	}
	es, err := from.ReadDir(src)
	if err != nil {
		c.Warn("%s: %s", src, reason(err))
	}
	slices.SortFunc(es, func(a, b fs.FileInfo) int { return strings.Compare(a.Name(), b.Name()) })
	for _, e := range es {
		name := path.Join(src, e.Name())
		switch {
		case e.Name() == "." || e.Name() == ".." || strings.ContainsRune(e.Name(), '/'):
			continue
		case e.Mode()&fs.ModeSymlink != 0 && !c.follow:
			c.Fault(0, "%s: not a regular file", name)
			continue
		case e.Mode()&(fs.ModeDevice|fs.ModeNamedPipe|fs.ModeSocket) != 0:
			c.Warn("%s: not a regular file", name)
			continue
		}
		c.copyAll(from, name, to, path.Join(dst, e.Name()))
	}
	if c.preserve {
		if err := errors.Join(to.Chmod(dst, st.Mode().Perm()), to.Chtimes(dst, accessed(st), st.ModTime())); err != nil {
			c.Warn("%s: set times: %s", dst, reason(err))
		}
	}
}

// allowed are the permissions that the umask leaves, by those that a new file or directory got.
func allowed(m fs.FileMode) fs.FileMode { return m.Perm() | m.Perm()&0o444>>2 }

func accessed(st fs.FileInfo) time.Time {
	if s, ok := st.Sys().(*sftp.FileStat); ok {
		return time.Unix(int64(s.Atime), 0)
	}
	return st.ModTime()
}

// copyFile copies one file. A new one gets the permissions of its source, less the umask.
func (c *copier) copyFile(from side, src string, to side, dst string, st fs.FileInfo) error {
	r, err := from.open(src, os.O_RDONLY)
	if err != nil {
		return fmt.Errorf("open %s: %s", src, reason(err))
	}
	defer r.Close()
	_, missing := to.Stat(dst)
	flags := os.O_WRONLY | os.O_CREATE
	if !c.resume {
		flags |= os.O_TRUNC
	}
	w, err := to.open(dst, flags)
	if err != nil {
		return fmt.Errorf("dest open \"%s\": %s", dst, reason(err))
	}
	if made, err := w.Stat(); err == nil && missing != nil {
		_ = w.Chmod(st.Mode().Perm() & allowed(made.Mode())) // before there is something to read
	}
	var at int64
	if now, err := w.Stat(); c.resume && err == nil {
		if at = now.Size(); at > st.Size() {
			w.Close()
			return fmt.Errorf("%s: the destination is larger than the source", dst)
		}
		if _, err = r.Seek(at, io.SeekStart); err == nil {
			_, err = w.Seek(at, io.SeekStart)
		}
		if err != nil {
			w.Close()
			return fmt.Errorf("%s: %s", dst, reason(err))
		}
	}
	err = c.stream(w, r, src, st.Size()-at)
	if err == nil && c.preserve {
		err = errors.Join(w.Chmod(st.Mode().Perm()))
	}
	err = errors.Join(err, w.Close())
	if err == nil && c.preserve {
		err = to.Chtimes(dst, accessed(st), st.ModTime())
	}
	if err != nil {
		return fmt.Errorf("%s: %s", dst, reason(err))
	}
	return nil
}

// stream copies size bytes or more, and shows how far it is on a terminal.
func (c *copier) stream(w file, r file, name string, size int64) error {
	done := func(int64) {}
	if !c.quiet && term.IsTerminal(2) {
		p := ui.New(ui.Normal)
		defer p.End()
		done = p.Phase(path.Base(name), size).Add
	}
	m := &meter{add: done, limit: c.limit, left: size}
	if remote, ok := r.(*sftp.File); ok {
		m.w = w
		_, err := remote.WriteTo(m)
		return err
	}
	m.r = r
	var err error
	if remote, ok := w.(*sftp.File); ok {
		_, err = remote.ReadFrom(m)
	} else {
		_, err = io.Copy(w, m)
	}
	return err
}

// meter counts what passes.
type meter struct {
	r     io.Reader
	w     io.Writer
	add   func(int64)
	limit *rate.Limiter
	left  int64
}

// Len lets sftp.File.ReadFrom know how many requests it may have under way.
func (m *meter) Len() int { return int(m.left) }

func (m *meter) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	m.count(n)
	return n, err
}

func (m *meter) Write(p []byte) (int, error) {
	n, err := m.w.Write(p)
	m.count(n)
	return n, err
}

func (m *meter) count(n int) {
	m.left -= int64(n)
	if m.add(int64(n)); m.limit != nil {
		for n > 0 {
			k := min(n, m.limit.Burst())
			time.Sleep(m.limit.ReserveN(time.Now(), k).Delay())
			n -= k
		}
	}
}

// secureCopy is scp.
func secureCopy(e *tools.Env) error {
	if e.On("O", "D") {
		return tools.Usage("the old protocol is not supported here")
	}
	l, err := newLogin(e)
	if err != nil {
		return err
	}
	if len(e.Args) < 2 {
		return tools.Usage("missing operand")
	}
	c := &copier{Env: e, recursive: e.On("r"), preserve: e.On("p"), quiet: e.On("q", "B"), follow: true}
	if c.limit, err = bandwidth(e); err != nil {
		return err
	}
	sides := map[string]there{}
	defer func() {
		for _, s := range sides {
			s.Close()
		}
	}()
	last := len(e.Args) - 1
	to, target, err := l.side(sides, e.Args[last])
	if err != nil {
		e.Fault(sshFailed, "%v", err)
		return nil
	}
	st, err := to.Stat(target)
	isDir := err == nil && st.IsDir()
	if !isDir && (last > 1 || strings.HasSuffix(target, "/") && !c.recursive) {
		if err == nil {
			return said("%s: Not a directory", target)
		}
		return fmt.Errorf("%s: %s", target, reason(err))
	}
	for _, arg := range e.Args[:last] {
		from, pattern, err := l.side(sides, arg)
		if err != nil {
			e.Fault(sshFailed, "%v", err)
			continue
		}
		if _, err := from.Stat(pattern); from == (here{}) && err != nil {
			e.Set(sshFailed) // as OpenSSH has it
		}
		names, err := from.Glob(pattern)
		if err != nil {
			e.Warn("%s: %s", pattern, reason(err))
		}
		for _, n := range names {
			c.copyAll(from, n, to, inside(target, n, isDir))
		}
	}
	return nil
}

// inside is the target of a file: below a directory it keeps its name.
func inside(target, name string, isDir bool) string {
	if base := filepath.Base(name); isDir && base != "." && base != ".." && base != "/" {
		return path.Join(target, base)
	}
	return target
}

// bandwidth is the limit of -l, in Kbit/s; nil without it.
func bandwidth(e *tools.Env) (*rate.Limiter, error) {
	if !e.On("l") {
		return nil, nil
	}
	k, err := e.Int("l", 0)
	if err != nil || k <= 0 {
		return nil, tools.Usage("invalid bandwidth \"%s\"", e.Val("l"))
	}
	return rate.NewLimiter(rate.Limit(k)*1024/8, 64<<10), nil
}

// side gives where an operand of scp is, and its path there. Machines are logged in to once.
func (l *login) side(sides map[string]there, arg string) (side, string, error) {
	if !isRemote(arg) {
		return here{}, arg, nil
	}
	p, err := parsePlace(arg, "scp", true)
	if err == nil {
		p, err = l.fill(p)
	}
	if err != nil {
		return nil, "", err
	}
	key := p.user + "@" + p.addr()
	if _, ok := sides[key]; !ok {
		s, _, err := l.files(p)
		if err != nil {
			return nil, "", err
		}
		sides[key] = s
	}
	if rest, ok := strings.CutPrefix(p.path, "~"); ok && (rest == "" || rest[0] == '/') {
		p.path = strings.TrimLeft(rest, "/")
	}
	return sides[key], cmp.Or(p.path, "."), nil
}

// isRemote reports HOST:PATH: a colon before the first slash.
func isRemote(arg string) bool {
	if strings.HasPrefix(arg, "scp://") {
		return true
	}
	n := hostEnd(arg)
	return n > 0 && n < len(arg) && !strings.Contains(arg[:n], "/")
}

// rsync names what does its work where there is none.
func rsync(e *tools.Env) error {
	src, dst := "SOURCE", "HOST:TARGET"
	var words []string
	for _, a := range e.Args {
		if !strings.HasPrefix(a, "-") {
			words = append(words, a)
		}
	}
	if len(words) > 1 {
		src, dst = strings.Join(words[:len(words)-1], " "), words[len(words)-1]
	}
	e.Fault(127, "cannot run rsync: the medium has none, because the source machine had none\nto copy files:              scp -rp %s %s", src, dst)
	host, dir, ok := strings.Cut(dst, ":")
	if ok && !isRemote(src) && len(words) != 1 {
		fmt.Fprintf(e.Err, "with owners, links and all: tar -cf - -C %s . | ssh %s tar -xpf - -C %s\n", printable.Clean(src), printable.Clean(host), printable.Clean(dir))
	} else if host, dir, ok = strings.Cut(src, ":"); ok {
		fmt.Fprintf(e.Err, "with owners, links and all: ssh %s tar -cf - -C %s . | tar -xpf - -C %s\n", printable.Clean(host), printable.Clean(dir), printable.Clean(dst))
	}
	return nil
}
