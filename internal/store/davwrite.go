package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"strings"
	"time"
)

const (
	// davKept is up to how many bytes a file is kept until it was received: it is sent again
	// after a break. It is the size of the parts of larger files, too.
	davKept = 16 << 20
	// davWait is how long one request may take that sends a part.
	davWait = time.Hour
	// davStream is how long one may take that sends a whole file.
	davStream = 7 * 24 * time.Hour
)

// errNoParts is the cause when a long request broke.
var errNoParts = errors.New("the connection broke, and this server takes no parts of files (PUT with Content-Range): " +
	"files of more than 16 MiB can't be continued there; use sftp:// or s3://")

// davUpload is a file that is being written to a WebDAV server. Small files are one request,
// which can be repeated. Larger ones are sent in parts, each of which can be repeated, where
// the server takes such; else in one long request, which can't.
type davUpload struct {
	home  *davHome
	ctx   context.Context
	stop  context.CancelCauseFunc
	name  string
	temp  string
	kept  []byte
	sent  int64
	parts bool
	pipe  *io.PipeWriter // of the long request
	done  chan error
	ended bool
}

// Create implements Home.
func (h *davHome) Create(ctx context.Context, name string) (Upload, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	dir := path.Dir(name)
	if err := h.makeDirs(ctx, dir); err != nil {
		return nil, h.fail("write", name, err)
	}
	u := &davUpload{home: h, name: name, temp: path.Join(dir, partialName())}
	u.ctx, u.stop = context.WithCancelCause(ctx)
	return u, nil
}

// makeDirs makes a directory and those above it, the home's own, too.
func (h *davHome) makeDirs(ctx context.Context, dir string) error {
	if dir == "." {
		dir = ""
	}
	h.mu.Lock()
	made := h.made[dir]
	h.mu.Unlock()
	if made {
		return nil
	}
	mkcol := func() error {
		name := dir + "/"
		if dir == "" {
			name = ""
		}
		_, err := h.do(ctx, davRequest{method: "MKCOL", name: name, ok: []int{http.StatusOK, http.StatusCreated, http.StatusMethodNotAllowed}})
		if err != nil { // Apache answers 403 when another connection makes it at the same moment
			if e, there := h.find(ctx, dir, "0"); there == nil && e[0].dir {
				return nil
			}
		}
		return err
	}
	entries, err := h.find(ctx, dir, "0")
	switch {
	case err == nil && entries[0].dir:
	case err == nil:
		return fmt.Errorf("%s is not a directory", dir)
	case !missingFile(err):
		return err
	case dir == "":
		if err := mkcol(); err != nil {
			return fmt.Errorf("the directory does not exist and can't be made: %w", err)
		}
	default:
		if err := h.makeDirs(ctx, path.Dir(dir)); err != nil {
			return err
		}
		if err := mkcol(); err != nil {
			return err
		}
	}
	h.mu.Lock()
	h.made[dir] = true
	h.mu.Unlock()
	return nil
}

// takesParts tries once whether the server takes parts of files. A server that ignores
// Content-Range would take a part for the whole file, so the result is read.
func (h *davHome) takesParts(ctx context.Context, dir string) (bool, error) {
	h.mu.Lock()
	known := h.partial
	h.mu.Unlock()
	if known != nil {
		return *known, nil
	}
	name := path.Join(dir, partialName())
	_, err := h.do(ctx, davPut(name, []byte("ab"), nil))
	if err != nil {
		return false, err
	}
	takes := false
	if _, err := h.do(ctx, davPut(name, []byte("xy"), map[string]string{"Content-Range": "bytes 1-2/*"})); err == nil {
		_, b, err := h.once(ctx, davRequest{method: http.MethodGet, name: name, ok: []int{http.StatusOK}})
		takes = err == nil && string(b) == "axy"
	}
	if _, err := h.do(ctx, davRequest{method: http.MethodDelete, name: name, ok: []int{http.StatusOK, http.StatusNoContent, http.StatusNotFound}}); err != nil {
		return false, err
	}
	h.mu.Lock()
	h.partial = &takes
	h.mu.Unlock()
	return takes, nil
}

func davPut(name string, b []byte, header map[string]string) davRequest {
	return davRequest{method: http.MethodPut, name: name, header: header, body: bytes.NewReader(b), size: int64(len(b)), wait: davWait,
		ok: []int{http.StatusOK, http.StatusCreated, http.StatusNoContent}}
}

func (u *davUpload) fail(err error) error { return u.home.fail("write", u.name, err) }

// Write implements Upload.
func (u *davUpload) Write(p []byte) (int, error) {
	if u.ended {
		return 0, errEnded
	}
	if err := u.ctx.Err(); err != nil {
		return 0, u.fail(err)
	}
	n := len(p)
	for len(p) > 0 {
		if u.pipe != nil {
			k, err := u.pipe.Write(p)
			u.sent += int64(k)
			if err != nil {
				return n - len(p) + k, u.fail(err)
			}
			return n, nil
		}
		if len(u.kept) == davKept {
			if err := u.pass(); err != nil {
				return n - len(p), u.fail(err)
			}
			continue
		}
		k := min(len(p), davKept-len(u.kept))
		u.kept, p = append(u.kept, p[:k]...), p[k:]
	}
	return n, nil
}

// pass sends what is kept as a part, or begins the long request with it.
func (u *davUpload) pass() error {
	if u.sent == 0 {
		parts, err := u.home.takesParts(u.ctx, path.Dir(u.name))
		if err != nil {
			return err
		}
		u.parts = parts
	}
	if !u.parts {
		u.stream()
		return nil
	}
	header := map[string]string{}
	if u.sent > 0 {
		header["Content-Range"] = fmt.Sprintf("bytes %d-%d/*", u.sent, u.sent+int64(len(u.kept))-1)
	}
	if _, err := u.home.do(u.ctx, davPut(u.temp, u.kept, header)); err != nil {
		return err
	}
	u.sent += int64(len(u.kept))
	u.kept = u.kept[:0]
	return nil
}

// stream begins the long request.
func (u *davUpload) stream() {
	r, w := io.Pipe()
	u.pipe, u.done = w, make(chan error, 1)
	head := u.kept
	u.sent, u.kept = int64(len(head)), nil
	go func() {
		_, _, err := u.home.once(u.ctx, davRequest{method: http.MethodPut, name: u.temp, body: io.MultiReader(bytes.NewReader(head), r), size: -1,
			header: map[string]string{"Expect": "100-continue"}, wait: davStream, ok: []int{http.StatusOK, http.StatusCreated, http.StatusNoContent}})
		if err != nil && !errors.As(err, new(status)) && !errors.As(err, new(permanent)) && u.ctx.Err() == nil {
			err = u.home.whyBroken(u.ctx, path.Dir(u.name))
		}
		if err == nil {
			err = io.ErrClosedPipe // for a Write after the answer
			u.done <- nil
		} else {
			u.done <- err
		}
		r.CloseWithError(err)
	}()
}

// whyBroken finds out why a long request broke. A server that answers "disk full" while the
// body is being sent closes the connection, and the answer may be lost: a small file, beside
// what was received, gets it again.
func (h *davHome) whyBroken(ctx context.Context, dir string) error {
	name := path.Join(dir, partialName())
	_, _, err := h.once(ctx, davPut(name, make([]byte, 1<<20), nil))
	full := hasStatus(err, http.StatusInsufficientStorage)
	_, _, e := h.once(ctx, davRequest{method: http.MethodDelete, name: name, ok: []int{http.StatusOK, http.StatusNoContent, http.StatusNotFound}})
	if full {
		return errors.Join(err, e)
	}
	return errors.Join(errNoParts, err, e)
}

// Commit implements Upload.
func (u *davUpload) Commit() error {
	if u.ended {
		return errEnded
	}
	u.ended = true
	if err := u.commit(); err != nil {
		return errors.Join(u.fail(err), u.remove())
	}
	u.stop(nil)
	return nil
}

func (u *davUpload) commit() error {
	var err error
	switch {
	case u.pipe != nil:
		u.pipe.Close()
		err = <-u.done
	case u.sent > 0 && len(u.kept) > 0:
		err = u.pass()
	case u.sent == 0:
		_, err = u.home.do(u.ctx, davPut(u.temp, u.kept, nil))
		u.sent = int64(len(u.kept))
	}
	if err != nil {
		return err
	}
	top := u.home.At(u.ctx, "").(davStore)
	f, err := top.stat(u.temp)
	if err != nil {
		return err
	}
	if f.size != u.sent {
		return fmt.Errorf("the server has %d bytes of %d", f.size, u.sent)
	}
	asked := false
	return u.home.limits.again(u.ctx, func() (bool, error) {
		_, _, err := u.home.once(u.ctx, davRequest{method: "MOVE", name: u.temp, wait: davWait, ok: []int{http.StatusOK, http.StatusCreated, http.StatusNoContent},
			header: map[string]string{"Destination": u.home.url(u.name), "Overwrite": "T"}})
		if missingFile(err) && asked { // the answer to the last attempt was lost
			if f, e := top.stat(u.name); e == nil && f.size == u.sent {
				return true, nil
			}
		}
		asked = true
		return false, err
	})
}

// Abort implements Upload.
func (u *davUpload) Abort() error {
	if u.ended {
		return nil
	}
	u.ended = true
	u.stop(errEnded) // the long request ends without asking the server why
	if u.pipe != nil {
		u.pipe.CloseWithError(errEnded)
		<-u.done
	}
	return u.remove()
}

// remove removes the unfinished file, also after the context has ended.
func (u *davUpload) remove() error {
	u.stop(errEnded)
	u.kept = nil
	ctx, stop := context.WithTimeout(context.WithoutCancel(u.ctx), u.home.limits.stall)
	defer stop()
	_, err := u.home.do(ctx, davRequest{method: http.MethodDelete, name: u.temp, ok: []int{http.StatusOK, http.StatusNoContent}})
	if err != nil && !missingFile(err) {
		return u.home.fail("remove the unfinished", strings.TrimPrefix(u.name, "/"), err)
	}
	return nil
}
