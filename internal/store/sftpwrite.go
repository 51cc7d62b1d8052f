package store

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"

	"github.com/pkg/sftp"
	"github.com/zeebo/xxh3"
)

const (
	// sftpChunk is how many bytes are sent before the server has to confirm them. Three
	// chunks are in memory for each file: one being filled, one waiting, one being sent.
	sftpChunk = 4 << 20
	// sftpSync is after how many bytes the server is asked to store them safely.
	sftpSync = 256 << 20
)

// sftpUpload is a file that is being written on a server of ssh. A goroutine sends chunks at
// their offsets, so that one that was not confirmed can be sent again.
type sftpUpload struct {
	home   *sftpHome
	ctx    context.Context
	cancel context.CancelCauseFunc
	name   string
	temp   string // path on the server

	chunk  []byte
	chunks chan []byte
	free   chan []byte
	done   chan struct{} // closed when all chunks are sent, or one could not be
	err    error         // read after done
	ended  bool

	// Of the goroutine, then of Commit.
	handle *sftp.File
	gen    int
	sent   int64 // confirmed
	synced int64 // stored safely
	sum    *xxh3.Hasher
}

// partialName is a name of an unfinished file.
func partialName() string {
	b := make([]byte, 8)
	_, _ = rand.Read(b) // never fails
	return partialPrefix + hex.EncodeToString(b)
}

// Create implements Home.
func (h *sftpHome) Create(ctx context.Context, name string) (Upload, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	u := &sftpUpload{home: h, name: name, chunks: make(chan []byte, 1), free: make(chan []byte, 3), done: make(chan struct{}), sum: xxh3.New()}
	u.ctx, u.cancel = context.WithCancelCause(ctx)
	for range cap(u.free) {
		u.free <- nil
	}
	dir := path.Dir(h.full(name))
	err := h.do(ctx, func(c *sftp.Client, gen int) (bool, error) {
		if err := h.makeDirs(c, dir); err != nil {
			return false, h.space(c, err)
		}
		u.temp = path.Join(dir, partialName())
		f, err := c.OpenFile(u.temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL)
		if err != nil {
			return false, h.space(c, err)
		}
		u.handle, u.gen = f, gen
		return false, f.Chmod(0o600)
	})
	if err != nil {
		return nil, h.fail("write", name, err)
	}
	go u.send()
	return u, nil
}

// makeDirs makes a directory and those above it, which only their owner can use.
func (h *sftpHome) makeDirs(c *sftp.Client, dir string) error {
	st, err := c.Stat(dir)
	switch {
	case err == nil && st.IsDir():
		return nil
	case err == nil:
		return permanent{fmt.Errorf("%s is not a directory", dir)}
	case !missingFile(err):
		return err
	}
	if parent := path.Dir(dir); parent != dir {
		if err := h.makeDirs(c, parent); err != nil {
			return err
		}
	}
	if err := c.Mkdir(dir); err != nil {
		if st, e := c.Stat(dir); e == nil && st.IsDir() { // made by another upload
			return nil
		}
		return err
	}
	return c.Chmod(dir, 0o700)
}

// Write implements Upload. An error of sending is returned by a later Write, or by Commit.
func (u *sftpUpload) Write(p []byte) (int, error) {
	if u.ended {
		return 0, errEnded
	}
	n := len(p)
	for len(p) > 0 {
		if u.chunk == nil {
			select {
			case <-u.done:
				return n - len(p), u.fault()
			case b := <-u.free:
				if b == nil {
					b = make([]byte, 0, sftpChunk)
				}
				u.chunk = b[:0]
			}
		}
		k := min(len(p), sftpChunk-len(u.chunk))
		u.chunk, p = append(u.chunk, p[:k]...), p[k:]
		if len(u.chunk) == sftpChunk {
			if err := u.pass(); err != nil {
				return n - len(p), err
			}
		}
	}
	return n, nil
}

// pass gives the chunk to the goroutine.
func (u *sftpUpload) pass() error {
	if len(u.chunk) == 0 {
		return nil
	}
	select {
	case u.chunks <- u.chunk:
		u.chunk = nil
		return nil
	case <-u.done:
		return u.fault()
	}
}

// fault words the error of the goroutine.
func (u *sftpUpload) fault() error {
	if u.err == nil {
		return errEnded
	}
	return u.home.fail("write", u.name, u.err)
}

// send sends chunks until there are no more, or one can't be sent.
func (u *sftpUpload) send() {
	defer close(u.done)
	for b := range u.chunks {
		stored := false
		err := u.home.do(u.ctx, func(c *sftp.Client, gen int) (bool, error) {
			f, err := u.open(c, gen)
			if err != nil {
				return false, err
			}
			if _, err := f.WriteAt(b, u.sent); err != nil {
				return false, u.home.space(c, err)
			}
			stored = false
			if u.sent+int64(len(b))-u.synced >= u.home.syncEach {
				stored, err = u.sync(c)
			}
			return true, err
		})
		if err != nil {
			u.err = err
			return
		}
		u.sent += int64(len(b))
		if stored {
			u.synced = u.sent
			u.sum.Reset()
		} else {
			_, _ = u.sum.Write(b) // never fails
		}
		u.free <- b
	}
}

// sync has the server store safely what it has, and reports whether it did: not every server can.
func (u *sftpUpload) sync(c *sftp.Client) (bool, error) {
	if _, ok := c.HasExtension("fsync@openssh.com"); !ok {
		return false, nil
	}
	u.home.syncs.Add(1)
	defer u.home.syncs.Add(-1)
	if err := u.handle.Sync(); err != nil {
		return false, u.home.space(c, err)
	}
	return true, nil
}

// open gives the handle of the file on a connection. After a break the server may have lost
// what it had confirmed and not stored safely: that part is read again and compared.
func (u *sftpUpload) open(c *sftp.Client, gen int) (*sftp.File, error) {
	if u.handle != nil && u.gen == gen {
		return u.handle, nil
	}
	f, err := c.OpenFile(u.temp, os.O_RDWR)
	if err != nil {
		return nil, err
	}
	if u.sent > u.synced {
		sum := xxh3.New()
		n, err := io.CopyBuffer(struct{ io.Writer }{sum}, io.NewSectionReader(f, u.synced, u.sent-u.synced), make([]byte, 1<<20))
		if err == nil && (n != u.sent-u.synced || sum.Sum64() != u.sum.Sum64()) {
			err = permanent{errors.New("the server lost a part of the file that it had confirmed")}
		}
		if err != nil {
			f.Close()
			return nil, err
		}
	}
	u.handle, u.gen = f, gen
	return f, nil
}

// Commit implements Upload.
func (u *sftpUpload) Commit() error {
	if u.ended {
		return errEnded
	}
	err := u.pass()
	u.ended = true
	close(u.chunks)
	<-u.done
	if err == nil && u.err != nil {
		err = u.fault()
	}
	if err == nil {
		if err = u.rename(); err != nil {
			err = u.home.fail("write", u.name, err)
		}
	}
	if err != nil {
		return errors.Join(err, u.remove())
	}
	u.cancel(nil)
	return nil
}

// rename gives the file its name, once the server has stored it safely.
func (u *sftpUpload) rename() error {
	final, asked := u.home.full(u.name), false
	return u.home.do(u.ctx, func(c *sftp.Client, gen int) (bool, error) {
		if asked { // the answer to the last attempt was lost
			_, err := c.Lstat(u.temp)
			if st, e := c.Lstat(final); missingFile(err) && e == nil && st.Size() == u.sent {
				return true, nil
			}
		}
		f, err := u.open(c, gen)
		if err != nil {
			return false, err
		}
		if _, err := u.sync(c); err != nil {
			return false, err
		}
		st, err := f.Stat()
		if err != nil {
			return false, err
		}
		if st.Size() != u.sent {
			return false, permanent{fmt.Errorf("the server has %d bytes of %d", st.Size(), u.sent)}
		}
		asked = true
		if _, ok := c.HasExtension("posix-rename@openssh.com"); ok {
			err = c.PosixRename(u.temp, final)
		} else if err = ignoreMissing(c.Remove(final)); err == nil {
			err = c.Rename(u.temp, final)
		}
		if err == nil {
			_ = f.Close() // stored already
		}
		return false, err
	})
}

// Abort implements Upload.
func (u *sftpUpload) Abort() error {
	if u.ended {
		return nil
	}
	u.ended = true
	u.cancel(errEnded)
	close(u.chunks)
	<-u.done
	return u.remove()
}

// remove removes the unfinished file, also after the context has ended.
func (u *sftpUpload) remove() error {
	defer u.cancel(nil)
	ctx, stop := context.WithTimeout(context.WithoutCancel(u.ctx), u.home.limits.stall)
	defer stop()
	err := u.home.do(ctx, func(c *sftp.Client, gen int) (bool, error) {
		if u.handle != nil && u.gen == gen {
			_ = u.handle.Close() // it is removed
			u.handle = nil
		}
		if err := c.Remove(u.temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false, err
		}
		return false, nil
	})
	if err != nil {
		return u.home.fail("remove the unfinished", u.name, err)
	}
	return nil
}
