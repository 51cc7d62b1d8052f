package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/mkcdrec/mkcdrec/internal/regular"
)

// dirHome is a home in a directory of this machine, also of one that is mounted from another.
type dirHome struct {
	dir  string
	text string // what messages call it
	end  func() error
}

func newDirHome(dir, text string, end func() error) *dirHome {
	return &dirHome{dir: filepath.Clean(dir), text: cmp.Or(strings.TrimRight(text, "/"), "/"), end: end}
}

func (h *dirHome) String() string { return h.text }

// Close implements Home.
func (h *dirHome) Close() error {
	if h.end == nil {
		return nil
	}
	return h.end()
}

// fail words an error without the directory in which a share is mounted.
func (h *dirHome) fail(verb, name string, err error) error {
	var p *fs.PathError
	var l *os.LinkError
	switch {
	case errors.As(err, &p):
		err = p.Err
	case errors.As(err, &l):
		err = l.Err
	}
	return fmt.Errorf("cannot %s %s: %w", verb, strings.TrimSuffix(strings.TrimSuffix(h.text, "/")+"/"+name, "/"), err)
}

// Dirs implements Home. Links to directories are among them.
func (h *dirHome) Dirs(ctx context.Context) ([]string, error) {
	entries, err := os.ReadDir(h.dir)
	if err != nil {
		return nil, h.fail("list", "", err)
	}
	var out []string
	for _, e := range entries {
		if checkName(e.Name()) != nil {
			continue
		}
		if st, err := os.Stat(filepath.Join(h.dir, e.Name())); err == nil && st.IsDir() {
			out = append(out, e.Name())
		}
	}
	return out, ctx.Err()
}

// Files implements Home.
func (h *dirHome) Files(ctx context.Context, dir string) ([]Info, error) {
	if err := checkDir(dir); err != nil {
		return nil, err
	}
	top := filepath.Join(h.dir, dir)
	if real, err := filepath.EvalSymlinks(top); err == nil {
		top = real
	}
	var out []Info
	err := filepath.WalkDir(top, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		name, err := filepath.Rel(top, p)
		if err != nil || p == top {
			return err
		}
		if checkName(name) != nil {
			if d.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		if st, err := os.Stat(p); err == nil && st.Mode().IsRegular() {
			out = append(out, Info{name, st.Size(), st.ModTime()})
		}
		return nil
	})
	if err != nil {
		return nil, h.fail("list", dir, err)
	}
	slices.SortFunc(out, func(a, b Info) int { return cmp.Compare(a.Name, b.Name) })
	return out, nil
}

// At implements Home.
func (h *dirHome) At(_ context.Context, dir string) Store {
	if err := checkDir(dir); err != nil {
		return noStore{h.text, err}
	}
	d := Dir(filepath.Join(h.dir, dir))
	if h.end == nil {
		return d
	}
	return mountedDir{d, h, dir}
}

// mountedDir is a directory of another machine: messages have its URL.
type mountedDir struct {
	Dir
	home *dirHome
	dir  string
}

func (m mountedDir) String() string { return strings.TrimSuffix(Join(m.home.text, m.dir), "/") }

// Open implements Store.
func (m mountedDir) Open(name string) (File, error) {
	f, err := m.Dir.Open(name)
	if err != nil {
		return nil, m.home.fail("open", filepath.Join(m.dir, name), err)
	}
	return f, nil
}

// Size implements Store.
func (m mountedDir) Size(name string) (int64, error) {
	n, err := m.Dir.Size(name)
	if err != nil {
		return 0, m.home.fail("open", filepath.Join(m.dir, name), err)
	}
	return n, nil
}

// Remove implements Home.
func (h *dirHome) Remove(ctx context.Context, name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	top := filepath.Join(h.dir, name)
	st, err := os.Lstat(top)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil
	}
	if err == nil && st.IsDir() {
		var files []Info
		if files, err = h.Files(ctx, name); err != nil {
			return err
		}
		err = removal{
			file: func(f string) error { return ignoreMissing(os.Remove(filepath.Join(top, f))) },
			rest: func(keep string) error { return removeRest(ctx, top, keep) },
			all:  func() error { return os.RemoveAll(top) },
		}.run(fileNames(files))
	} else if err == nil {
		err = os.Remove(top)
	}
	if err == nil {
		err = syncDir(filepath.Dir(top))
	}
	if err != nil {
		return h.fail("remove", name, err)
	}
	return nil
}

// removeRest removes all in a directory but one file.
func removeRest(ctx context.Context, dir, keep string) error {
	entries, err := os.ReadDir(dir)
	if err = errors.Join(err, syncDir(dir)); err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() == keep {
			continue
		}
		if err := errors.Join(ctx.Err(), os.RemoveAll(filepath.Join(dir, e.Name()))); err != nil {
			return err
		}
	}
	return syncDir(dir)
}

// fileNames are the names of files.
func fileNames(files []Info) []string {
	names := make([]string, 0, len(files))
	for _, f := range files {
		names = append(names, f.Name)
	}
	return names
}

// syncDir stores the names in a directory safely. Not every file system can do that.
func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = f.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOTSUP) || errors.Is(err, syscall.EBADF) {
		err = nil
	}
	return errors.Join(err, f.Close())
}

// makeDirs makes a directory and those above it, and stores their names safely.
func makeDirs(dir string) error {
	if st, err := os.Stat(dir); err == nil && st.IsDir() {
		return nil
	}
	parent := filepath.Dir(dir)
	if parent != dir {
		if err := makeDirs(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if st, err := os.Stat(dir); err == nil && !st.IsDir() {
		return &fs.PathError{Op: "mkdir", Path: dir, Err: syscall.ENOTDIR}
	}
	return syncDir(parent)
}

// dirUpload is a file that is being written in a directory.
type dirUpload struct {
	home  *dirHome
	ctx   context.Context
	name  string
	file  *os.File
	to    regular.Behind // file
	ended bool
}

// Create implements Home.
func (h *dirHome) Create(ctx context.Context, name string) (Upload, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	dir := filepath.Dir(filepath.Join(h.dir, name))
	if err := makeDirs(dir); err != nil {
		return nil, h.fail("write", name, err)
	}
	f, err := os.CreateTemp(dir, partialPrefix+"*")
	if err != nil {
		return nil, h.fail("write", name, err)
	}
	return &dirUpload{home: h, ctx: ctx, name: name, file: f, to: regular.Behind{File: f}}, nil
}

// errEnded is for writing after Commit or Abort.
var errEnded = errors.New("the file was already committed or aborted")

func (u *dirUpload) Write(p []byte) (int, error) {
	if u.ended {
		return 0, errEnded
	}
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := u.to.Write(p)
	if err != nil {
		return n, u.home.fail("write", u.name, err)
	}
	return n, nil
}

// Commit implements Upload.
func (u *dirUpload) Commit() error {
	if u.ended {
		return errEnded
	}
	u.ended = true
	final := filepath.Join(u.home.dir, u.name)
	err := errors.Join(u.ctx.Err(), u.file.Sync(), u.file.Close())
	if err == nil {
		err = os.Rename(u.file.Name(), final)
	}
	if err != nil {
		return u.home.fail("write", u.name, errors.Join(err, ignoreMissing(os.Remove(u.file.Name()))))
	}
	if err := syncDir(filepath.Dir(final)); err != nil {
		return u.home.fail("write", u.name, err)
	}
	return nil
}

// Abort implements Upload.
func (u *dirUpload) Abort() error {
	if u.ended {
		return nil
	}
	u.ended = true
	err := errors.Join(u.file.Close(), ignoreMissing(os.Remove(u.file.Name())))
	if err != nil {
		return u.home.fail("remove the unfinished", u.name, err)
	}
	return nil
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
