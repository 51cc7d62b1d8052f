package store

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pkg/sftp"

	"github.com/mkcdrec/mkcdrec/internal/printable"
)

const (
	// maxRcloneErrors is how many bytes of rclone's messages are kept.
	maxRcloneErrors = 16 << 10
	// largeBlock is how much is read at once where each read starts a program.
	largeBlock = 16 << 20
)

// rcloneHome is a home on what a remote of rclone's configuration is. The program does all, and
// repeats what its protocols let it. Each call starts one, but for what server answers.
type rcloneHome struct {
	at      address
	program string
	env     []string
	server  rcloneServer
}

func newRclone(ctx context.Context, at address, l login) (Home, error) {
	program, err := exec.LookPath("rclone")
	if err != nil {
		return nil, fmt.Errorf("cannot use %s: the program rclone is not installed\nrun `apt-get install rclone`", at.text)
	}
	h := &rcloneHome{at: at, program: program, env: append(os.Environ(), "LC_ALL=C", "RCLONE_ASK_PASSWORD=false")}
	if l.Password != "" {
		h.env = append(h.env, "RCLONE_CONFIG_PASS="+string(l.Password))
	}
	h.server.init(h)
	if _, err := h.list(ctx, "", "--max-depth", "1"); err != nil && !missingFile(err) {
		return nil, fmt.Errorf("cannot use %s: %w", at.text, err)
	}
	return h, nil
}

func (h *rcloneHome) String() string { return h.at.text }

// Close implements Home.
func (h *rcloneHome) Close() error {
	h.server.close()
	return nil
}

func (h *rcloneHome) fail(verb, name string, err error) error {
	return fmt.Errorf("cannot %s %s: %w", verb, h.place(name), err)
}

// full is the place of a name for rclone. A path without a slash at its beginning is relative, which
// on disks and servers of ssh is another place than the same below "/".
func (h *rcloneHome) full(name string) string {
	return h.at.remote + path.Join(h.at.path, name)
}

// place is what messages call a name.
func (h *rcloneHome) place(name string) string {
	if name == "" {
		return h.at.text
	}
	return Join(h.at.text, name)
}

// stderr keeps the last messages of a program.
type stderr struct{ b []byte }

func (s *stderr) Write(p []byte) (int, error) {
	s.b = append(s.b, p...)
	if len(s.b) > maxRcloneErrors {
		s.b = append(s.b[:0], s.b[len(s.b)-maxRcloneErrors:]...)
	}
	return len(p), nil
}

// command makes a call of rclone. Options come before "--", so that no name is taken for one.
func (h *rcloneHome) command(ctx context.Context, name string, args ...string) (*exec.Cmd, *stderr) {
	c := exec.CommandContext(ctx, h.program, append(args, "--", h.full(name))...)
	c.Env, c.WaitDelay = h.env, 10*time.Second
	e := &stderr{}
	c.Stderr = e
	return c, e
}

// fault words the failure of a call. Exit statuses 3 and 4 are those of missing directories
// and files.
func (h *rcloneHome) fault(ctx context.Context, err error, e *stderr) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if x := (*exec.ExitError)(nil); errors.As(err, &x) && (x.ExitCode() == 3 || x.ExitCode() == 4) {
		return os.ErrNotExist
	}
	return fmt.Errorf("rclone failed (%w): %s", err, strings.TrimSpace(printable.CleanLines(string(e.b))))
}

// run runs rclone to its end.
func (h *rcloneHome) run(ctx context.Context, limit int, name string, args ...string) ([]byte, error) {
	c, e := h.command(ctx, name, args...)
	var out bytes.Buffer
	pipe, err := c.StdoutPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		return nil, err
	}
	n, err := io.Copy(&out, io.LimitReader(pipe, int64(limit)+1))
	if n > int64(limit) {
		_ = c.Process.Kill()
		_ = c.Wait() // it was killed
		return nil, fmt.Errorf("rclone printed more than %d bytes", limit)
	}
	if err := h.fault(ctx, errors.Join(c.Wait(), err), e); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// rcloneEntry is one of rclone lsjson.
type rcloneEntry struct {
	Path    string
	Size    int64
	ModTime time.Time
	IsDir   bool
}

// list lists what is below a directory.
func (h *rcloneHome) list(ctx context.Context, dir string, args ...string) ([]rcloneEntry, error) {
	b, err := h.run(ctx, 1<<30, dir, append([]string{"lsjson", "--no-mimetype", serverTimes}, args...)...)
	if err != nil {
		return nil, err
	}
	var all []rcloneEntry
	if err := json.Unmarshal(b, &all); err != nil {
		return nil, fmt.Errorf("cannot read the list of rclone: %w", err)
	}
	all = slices.DeleteFunc(all, func(e rcloneEntry) bool { return checkName(e.Path) != nil })
	slices.SortFunc(all, func(a, b rcloneEntry) int { return cmp.Compare(a.Path, b.Path) })
	return all, nil
}

// Dirs implements Home.
func (h *rcloneHome) Dirs(ctx context.Context) ([]string, error) {
	all, err := h.list(ctx, "", "--dirs-only")
	if err != nil {
		return nil, h.fail("list", "", err)
	}
	var out []string
	for _, e := range all {
		if e.IsDir {
			out = append(out, e.Path)
		}
	}
	return out, nil
}

// Files implements Home.
func (h *rcloneHome) Files(ctx context.Context, dir string) ([]Info, error) {
	if err := checkDir(dir); err != nil {
		return nil, err
	}
	var out []Info
	answered, err := h.server.ask(ctx, func(c *sftp.Client) (err error) {
		out, err = sftpFiles(ctx, c, "/"+dir)
		return err
	})
	if answered && err == nil {
		return out, nil
	}
	var all []rcloneEntry
	if !answered {
		all, err = h.list(ctx, dir, "--files-only", "--recursive")
	}
	if err != nil {
		return nil, h.fail("list", dir, err)
	}
	out = nil
	for _, e := range all {
		out = append(out, Info{e.Path, e.Size, e.ModTime})
	}
	return out, nil
}

// stat describes a name.
func (h *rcloneHome) stat(ctx context.Context, name string) (e rcloneEntry, err error) {
	b, err := h.run(ctx, 1<<20, name, "lsjson", "--no-mimetype", "--stat")
	if err != nil {
		return e, err
	}
	if string(bytes.TrimSpace(b)) == "null" {
		return e, os.ErrNotExist
	}
	if err := json.Unmarshal(b, &e); err != nil {
		return e, fmt.Errorf("cannot read the list of rclone: %w", err)
	}
	return e, nil
}

// Remove implements Home.
func (h *rcloneHome) Remove(ctx context.Context, name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	e, err := h.stat(ctx, name)
	switch {
	case missingFile(err):
		return nil
	case err != nil:
		return h.fail("remove", name, err)
	}
	defer h.server.changed()
	remove := func(name string, args ...string) error {
		if _, err := h.run(ctx, 1<<20, name, args...); err != nil && !missingFile(err) {
			return h.fail("remove", name, err)
		}
		return nil
	}
	if !e.IsDir {
		return remove(name, "deletefile")
	}
	files, err := h.Files(ctx, name)
	if err != nil {
		return err
	}
	return removal{
		file: func(f string) error { return remove(path.Join(name, f), "deletefile") },
		rest: func(keep string) error { return remove(name, "delete", "--exclude", "/"+keep) },
		all:  func() error { return remove(name, "purge") },
	}.run(fileNames(files))
}

// At implements Home.
func (h *rcloneHome) At(ctx context.Context, dir string) Store {
	if err := checkDir(dir); err != nil {
		return noStore{h.at.text, err}
	}
	return rcloneStore{h, ctx, dir}
}

// rcloneStore is a directory of the home.
type rcloneStore struct {
	home *rcloneHome
	ctx  context.Context
	dir  string
}

func (s rcloneStore) String() string { return s.home.place(s.dir) }

func (s rcloneStore) stat(name string) (*rcloneFile, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	name = path.Join(s.dir, name)
	var e rcloneEntry
	answered, err := s.home.server.ask(s.ctx, func(c *sftp.Client) error {
		st, err := c.Stat("/" + name)
		if err == nil {
			e.Size, e.IsDir = st.Size(), !st.Mode().IsRegular()
		}
		return err
	})
	if !answered || err == nil && e.Size == 0 { // files of an unknown size have 0 bytes there, too
		e, err = s.home.stat(s.ctx, name)
	}
	if err == nil && (e.IsDir || e.Size < 0) {
		err = errors.New("it is not a file of a known size")
	}
	if err != nil {
		return nil, s.home.fail("open", name, err)
	}
	return &rcloneFile{s.home, s.ctx, name, e.Size}, nil
}

// Size implements Store.
func (s rcloneStore) Size(name string) (int64, error) {
	f, err := s.stat(name)
	if err != nil {
		return 0, err
	}
	return f.size, nil
}

// Open implements Store.
func (s rcloneStore) Open(name string) (File, error) {
	f, err := s.stat(name)
	if err != nil {
		return nil, err
	}
	return readAhead(f, largeBlock), nil
}

// rcloneFile is a file as it was when it was opened.
type rcloneFile struct {
	home *rcloneHome
	ctx  context.Context
	name string
	size int64
}

func (f *rcloneFile) Size() int64  { return f.size }
func (f *rcloneFile) Close() error { return nil }

// ReadAt starts rclone for the piece, again after failures. A small file is read from the one that runs.
func (f *rcloneFile) ReadAt(p []byte, off int64) (int, error) {
	return readWhole(p, off, f.size, func(want []byte) (int, error) {
		if f.size <= largeBlock && f.readServed(want, off) {
			return len(want), nil
		}
		err := normal.again(f.ctx, func() (bool, error) {
			b, err := f.home.run(f.ctx, len(want), f.name, "cat", "--offset", strconv.FormatInt(off, 10), "--count", strconv.Itoa(len(want)))
			switch {
			case missingFile(err):
				err = permanent{err}
			case err == nil && len(b) != len(want):
				err = permanent{errors.New("the file is shorter than when it was opened")}
			}
			copy(want, b)
			return false, err
		})
		if err != nil {
			return 0, f.home.fail("read", f.name, err)
		}
		return len(want), nil
	})
}

// readServed reads a piece from the rclone that runs; false if that can't.
func (f *rcloneFile) readServed(want []byte, off int64) bool {
	answered, err := f.home.server.ask(f.ctx, func(c *sftp.Client) error {
		handle, err := c.Open("/" + f.name)
		if err != nil {
			return err
		}
		defer handle.Close()
		_, err = io.ReadFull(io.NewSectionReader(handle, off, int64(len(want))), want)
		return err
	})
	return answered && err == nil
}

// rcloneUpload is a file that rclone is writing.
type rcloneUpload struct {
	home   *rcloneHome
	ctx    context.Context
	stop   context.CancelFunc
	name   string
	temp   string
	cmd    *exec.Cmd
	in     io.WriteCloser
	errors *stderr
	total  int64
	ended  bool
}

// Create implements Home.
func (h *rcloneHome) Create(ctx context.Context, name string) (Upload, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	u := &rcloneUpload{home: h, name: name, temp: path.Join(path.Dir(name), partialName())}
	u.ctx, u.stop = context.WithCancel(ctx)
	u.cmd, u.errors = h.command(u.ctx, u.temp, "rcat")
	var err error
	if u.in, err = u.cmd.StdinPipe(); err == nil {
		err = u.cmd.Start()
	}
	if err != nil {
		u.stop()
		return nil, h.fail("write", name, err)
	}
	return u, nil
}

// Write implements Upload.
func (u *rcloneUpload) Write(p []byte) (int, error) {
	if u.ended || u.cmd == nil {
		return 0, errEnded
	}
	n, err := u.in.Write(p)
	u.total += int64(n)
	if err != nil { // the program has ended: why is in its messages
		if e := u.cmd.Wait(); e != nil {
			err = u.home.fault(u.ctx, e, u.errors)
		}
		u.cmd = nil
		return n, u.home.fail("write", u.name, err)
	}
	return n, nil
}

// Commit implements Upload.
func (u *rcloneUpload) Commit() error {
	if u.ended {
		return errEnded
	}
	u.ended = true
	if err := u.commit(); err != nil {
		return errors.Join(u.home.fail("write", u.name, err), u.remove())
	}
	u.stop()
	return nil
}

func (u *rcloneUpload) commit() error {
	if u.cmd == nil {
		return errEnded
	}
	err := u.in.Close()
	err = u.home.fault(u.ctx, errors.Join(u.cmd.Wait(), err), u.errors)
	u.cmd = nil
	if err != nil {
		return err
	}
	e, err := u.home.stat(u.ctx, u.temp)
	if err != nil {
		return err
	}
	if e.Size != u.total {
		return fmt.Errorf("the remote has %d bytes of %d", e.Size, u.total)
	}
	// A file of the same size and time is not left as it is.
	c, messages := u.home.command(u.ctx, u.name, "moveto", "--ignore-times", "--", u.home.full(u.temp))
	c.Args = slices.Delete(c.Args, len(c.Args)-2, len(c.Args)-1) // one "--" before both places
	defer u.home.server.changed()
	return u.home.fault(u.ctx, c.Run(), messages)
}

// Abort implements Upload.
func (u *rcloneUpload) Abort() error {
	if u.ended {
		return nil
	}
	u.ended = true
	return u.remove()
}

// remove ends the program and removes the unfinished file, also after the context has ended.
func (u *rcloneUpload) remove() error {
	u.stop()
	if u.cmd != nil {
		_ = u.cmd.Wait() // it was killed
		u.cmd = nil
	}
	ctx, stop := context.WithTimeout(context.WithoutCancel(u.ctx), patient.stall)
	defer stop()
	if _, err := u.home.stat(ctx, u.temp); missingFile(err) {
		return nil
	}
	if _, err := u.home.run(ctx, 1<<20, u.temp, "deletefile"); err != nil && !missingFile(err) {
		return u.home.fail("remove the unfinished", u.name, err)
	}
	return nil
}
