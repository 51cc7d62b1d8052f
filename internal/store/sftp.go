package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pkg/sftp"

	"github.com/mkcdrec/mkcdrec/internal/printable"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
)

// sftpHome is a home on a server of ssh. All of it uses one connection, which is made again
// when it breaks.
type sftpHome struct {
	at     address
	limits limits
	login  *sshLogin

	ended    context.Context // by Close
	end      context.CancelFunc
	dialing  chan struct{} // has one element while a connection is made
	syncs    atomic.Int32  // requests to store files safely that have no answer yet
	syncEach int64         // bytes of a file after which the server is asked to store it safely

	mu   sync.Mutex // of what follows
	conn *sftpConn  // nil for none
	gen  int        // of the connection, from 1
}

func newSFTP(ctx context.Context, at address, l login, access Access) (Home, error) {
	h := &sftpHome{at: at, limits: access.patience(), login: &sshLogin{at: at, login: l, access: access, user: cmp.Or(l.user, account()), answer: map[string]string{}},
		dialing: make(chan struct{}, 1), syncEach: sftpSync}
	h.ended, h.end = context.WithCancel(context.Background())
	err := h.do(ctx, func(*sftp.Client, int) (bool, error) { return false, nil })
	if err != nil {
		return nil, fmt.Errorf("cannot connect to %s: %w", at.text, err)
	}
	return h, nil
}

func (h *sftpHome) String() string { return h.at.text }

// Close implements Home. It does not wait for the server.
func (h *sftpHome) Close() error {
	h.end()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.dropConn()
	return nil
}

// dropConn closes the connection. It is called with the lock.
func (h *sftpHome) dropConn() {
	if h.conn != nil {
		_ = h.conn.ssh.Close() // nothing is sent any more, or it is broken
		h.conn = nil
	}
}

// current gives the connection, nil before one is made.
func (h *sftpHome) current() (*sftpConn, int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ended.Err() != nil {
		return nil, 0, permanent{errors.New("the connection was closed")}
	}
	return h.conn, h.gen, nil
}

// connect gives the connection, which it makes first where that is missing.
func (h *sftpHome) connect(ctx context.Context) (*sftpConn, int, error) {
	if c, gen, err := h.current(); c != nil || err != nil {
		return c, gen, err
	}
	select {
	case h.dialing <- struct{}{}:
		defer func() { <-h.dialing }()
	case <-ctx.Done():
		return nil, 0, ctx.Err()
	}
	if c, gen, err := h.current(); c != nil || err != nil { // made by another one meanwhile
		return c, gen, err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	defer context.AfterFunc(h.ended, stop)()
	c, err := h.login.dial(ctx, h.limits)
	if err != nil {
		return nil, 0, err
	}
	conn, err := newSFTPConn(ctx, c, h.limits)
	if err != nil {
		c.Close()
		return nil, 0, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.conn = conn; h.ended.Err() != nil {
		h.dropConn()
		return nil, 0, permanent{errors.New("the connection was closed")}
	}
	h.gen++
	go h.watch(conn, h.gen)
	return conn, h.gen, nil
}

// drop closes a connection that is broken, or whose user no longer waits.
func (h *sftpHome) drop(gen int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.gen == gen {
		h.dropConn()
	}
}

// do calls fn with the connection, again with a new one after each break.
func (h *sftpHome) do(ctx context.Context, fn func(c *sftp.Client, gen int) (progress bool, err error)) error {
	return h.limits.again(ctx, func() (bool, error) {
		c, gen, err := h.connect(ctx)
		if err != nil {
			return false, err
		}
		stop := context.AfterFunc(ctx, func() { h.drop(gen) })
		c.begin()
		progress, err := fn(c.client, gen)
		c.running.Add(-1)
		stop()
		switch {
		case err == nil:
			return progress, nil
		case answered(err):
			return progress, permanent{err}
		case c.silent.Load():
			err = errSilent
		}
		h.drop(gen)
		return progress, err
	})
}

// answered reports whether an error is an answer of the server, or our own: not of the
// connection.
func answered(err error) bool {
	return errors.As(err, new(*sftp.StatusError)) || errors.As(err, new(permanent)) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrExist)
}

// full is the path of a name on the server.
func (h *sftpHome) full(name string) string { return path.Join(h.at.path, name) }

// fail words an error.
func (h *sftpHome) fail(verb, name string, err error) error {
	var s *sftp.StatusError
	var p *fs.PathError
	switch {
	case errors.As(err, &s):
		err = fmt.Errorf("the server reports: %s", printable.Clean(strings.TrimPrefix(s.Error(), "sftp: ")))
	case errors.As(err, &p):
		err = p.Err
	}
	return fmt.Errorf("cannot %s %s: %w", verb, strings.TrimSuffix(h.at.text+"/"+name, "/"), err)
}

// isType gives what a directory's entry is, where it leads to.
func follow(c *sftp.Client, dir string, st fs.FileInfo) (fs.FileInfo, error) {
	if st.Mode()&fs.ModeSymlink == 0 {
		return st, nil
	}
	return c.Stat(path.Join(dir, st.Name()))
}

// Dirs implements Home.
func (h *sftpHome) Dirs(ctx context.Context) (out []string, err error) {
	err = h.do(ctx, func(c *sftp.Client, _ int) (bool, error) {
		out = nil
		entries, err := c.ReadDirContext(ctx, h.at.path)
		for _, e := range entries {
			if st, err := follow(c, h.at.path, e); err == nil && st.IsDir() && checkName(e.Name()) == nil {
				out = append(out, e.Name())
			}
		}
		return false, err
	})
	if err != nil {
		return nil, h.fail("list", "", err)
	}
	slices.Sort(out)
	return out, nil
}

// Files implements Home.
func (h *sftpHome) Files(ctx context.Context, dir string) (out []Info, err error) {
	if err := checkDir(dir); err != nil {
		return nil, err
	}
	err = h.do(ctx, func(c *sftp.Client, _ int) (_ bool, err error) {
		out, err = sftpFiles(ctx, c, h.full(dir))
		return false, err
	})
	if err != nil {
		return nil, h.fail("list", dir, err)
	}
	return out, nil
}

// sftpFiles lists the regular files below a directory of a server, sorted.
func sftpFiles(ctx context.Context, c *sftp.Client, dir string) (out []Info, err error) {
	err = sftpWalk(ctx, c, dir, "", func(name string, st fs.FileInfo) {
		out = append(out, Info{name, st.Size(), st.ModTime()})
	})
	slices.SortFunc(out, func(a, b Info) int { return cmp.Compare(a.Name, b.Name) })
	return out, err
}

// maxDepth is how deep directories may be.
const maxDepth = 64

// sftpWalk gives the regular files below a directory.
func sftpWalk(ctx context.Context, c *sftp.Client, dir, below string, give func(name string, st fs.FileInfo)) error {
	entries, err := c.ReadDirContext(ctx, path.Join(dir, below))
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := path.Join(below, e.Name())
		if checkName(name) != nil || strings.ContainsRune(e.Name(), '/') {
			continue
		}
		if e.IsDir() {
			if strings.Count(name, "/") > maxDepth {
				return permanent{fmt.Errorf("more than %d directories in one another", maxDepth)}
			}
			if err := sftpWalk(ctx, c, dir, name, give); err != nil {
				return err
			}
		} else if st, err := follow(c, path.Join(dir, below), e); err == nil && st.Mode().IsRegular() {
			give(name, st)
		}
	}
	return nil
}

// Remove implements Home.
func (h *sftpHome) Remove(ctx context.Context, name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	top := h.full(name)
	err := h.do(ctx, func(c *sftp.Client, _ int) (bool, error) {
		st, err := c.Lstat(top)
		switch {
		case missingFile(err):
			return false, nil
		case err != nil:
			return false, err
		case !st.IsDir():
			return false, ignoreMissing(c.Remove(top))
		}
		r := &sftpRemoval{ctx: ctx, c: c}
		var files []string
		if err := sftpWalk(ctx, c, top, "", func(name string, _ fs.FileInfo) { files = append(files, name) }); err != nil {
			return false, err
		}
		err = removal{
			file: func(f string) error { return r.file(path.Join(top, f)) },
			rest: func(keep string) error { return r.dir(top, keep, 0) },
			all:  func() error { return r.dir(top, "", 0) },
		}.run(files)
		return r.progress, err
	})
	// A path through a file does not exist.
	if s := (*sftp.StatusError)(nil); errors.As(err, &s) && s.FxCode() == sftp.ErrSSHFxFailure && strings.Contains(name, "/") {
		if _, e := h.stat(ctx, path.Dir(name)); e == nil {
			return nil
		}
	}
	if err != nil {
		return h.fail("remove", name, err)
	}
	return nil
}

// sftpRemoval removes files over one connection.
type sftpRemoval struct {
	ctx      context.Context
	c        *sftp.Client
	progress bool // whether a file was removed
}

func (r *sftpRemoval) file(at string) error {
	err := r.c.Remove(at)
	r.progress = r.progress || err == nil
	return ignoreMissing(err)
}

// dir removes a directory with what is in it: also unfinished files, links and others. With
// keep, the directory and the file of that name in it are left.
func (r *sftpRemoval) dir(dir, keep string, depth int) error {
	entries, err := r.c.ReadDirContext(r.ctx, dir)
	if err != nil {
		return ignoreMissing(err)
	}
	if depth > maxDepth {
		return permanent{fmt.Errorf("more than %d directories in one another", maxDepth)}
	}
	for _, e := range entries {
		if strings.ContainsRune(e.Name(), '/') || e.Name() == ".." || e.Name() == "." {
			return permanent{fmt.Errorf("the server lists the name %q", e.Name())}
		}
		at := path.Join(dir, e.Name())
		switch {
		case e.Name() == keep:
		case e.IsDir():
			err = r.dir(at, "", depth+1)
		default:
			err = r.file(at)
		}
		if err != nil {
			return err
		}
	}
	if keep != "" {
		return nil
	}
	return ignoreMissing(r.c.RemoveDirectory(dir))
}

// stat gives a regular file's size and time.
func (h *sftpHome) stat(ctx context.Context, name string) (st fs.FileInfo, err error) {
	err = h.do(ctx, func(c *sftp.Client, _ int) (_ bool, err error) {
		if st, err = c.Stat(h.full(name)); err == nil && !st.Mode().IsRegular() {
			err = permanent{errors.New("it is not a regular file")}
		}
		return false, err
	})
	return st, err
}

// At implements Home.
func (h *sftpHome) At(ctx context.Context, dir string) Store {
	if err := checkDir(dir); err != nil {
		return noStore{h.at.text, err}
	}
	return &sftpStore{h, ctx, dir}
}

// sftpStore is a directory of the home.
type sftpStore struct {
	home *sftpHome
	ctx  context.Context
	dir  string
}

func (s *sftpStore) String() string { return strings.TrimSuffix(Join(s.home.at.text, s.dir), "/") }

// Size implements Store.
func (s *sftpStore) Size(name string) (int64, error) {
	st, _, err := s.stat(name)
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}

func (s *sftpStore) stat(name string) (fs.FileInfo, string, error) {
	if err := checkName(name); err != nil {
		return nil, "", err
	}
	name = path.Join(s.dir, name)
	st, err := s.home.stat(s.ctx, name)
	if err != nil {
		return nil, "", s.home.fail("open", name, err)
	}
	return st, name, nil
}

// Open implements Store.
func (s *sftpStore) Open(name string) (File, error) {
	st, name, err := s.stat(name)
	if err != nil {
		return nil, err
	}
	return readAhead(&sftpFile{home: s.home, ctx: s.ctx, name: name, st: st}, smallBlock), nil
}

// sftpFile is a file as it was when it was opened.
type sftpFile struct {
	home *sftpHome
	ctx  context.Context
	name string
	st   fs.FileInfo

	mu     sync.Mutex // of what follows
	handle *sftp.File
	gen    int // of the connection that the handle is of
}

func (f *sftpFile) Size() int64 { return f.st.Size() }

// Close implements File. The server is not waited for long: it closes the file with the connection, too.
func (f *sftpFile) Close() error {
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.handle != nil {
			_ = f.handle.Close() // only read
			f.handle = nil
		}
	}()
	select {
	case <-closed:
	case <-time.After(closeWait):
	}
	return nil
}

// open gives the handle of the file on a connection.
func (f *sftpFile) open(c *sftp.Client, gen int) (*sftp.File, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.handle != nil && f.gen == gen {
		return f.handle, nil
	}
	handle, err := c.Open(f.home.full(f.name))
	if err != nil {
		return nil, err
	}
	st, err := handle.Stat()
	if err == nil && (st.Size() != f.st.Size() || !st.ModTime().Equal(f.st.ModTime())) {
		err = permanent{errors.New("the file was changed while it was read")}
	}
	if err != nil {
		handle.Close()
		return nil, err
	}
	f.handle, f.gen = handle, gen
	return handle, nil
}

// ReadAt reads what is missing again after each break of the connection.
func (f *sftpFile) ReadAt(p []byte, off int64) (int, error) {
	return readWhole(p, off, f.Size(), func(want []byte) (int, error) {
		got := 0
		err := f.home.do(f.ctx, func(c *sftp.Client, gen int) (bool, error) {
			handle, err := f.open(c, gen)
			if err != nil {
				return false, err
			}
			n, err := handle.ReadAt(want[got:], off+int64(got))
			got += n
			switch {
			case got == len(want):
				err = nil
			case errors.Is(err, io.EOF), err == nil:
				err = permanent{errors.New("the file is shorter than when it was opened")}
			}
			return n > 0, err
		})
		if err != nil {
			err = f.home.fail("read", f.name, err)
		}
		return got, err
	})
}

// space words a failure of writing: sftp has no status for a full disk.
func (h *sftpHome) space(c *sftp.Client, err error) error {
	var s *sftp.StatusError
	if !errors.As(err, &s) || s.FxCode() != sftp.ErrSSHFxFailure {
		return err
	}
	if free, ok := sftpFree(c, h.at.path); ok && free < 64<<20 {
		return permanent{fmt.Errorf("the server's disk is full (%s free)", quantity.Size(free))}
	}
	return err
}
