// Package target is where backup sets lie: a directory, or a web server. A
// store gives files by name; they are read at any offset.
package target

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// File is a file of a store.
type File interface {
	io.ReaderAt
	io.Closer
	Size() int64
}

// Store holds the files of one set. A file that is not there is os.ErrNotExist.
type Store interface {
	Open(name string) (File, error)
	Size(name string) (int64, error)
	String() string
}

// IsURL tells whether a place is on a server.
func IsURL(place string) bool {
	return strings.HasPrefix(place, "http://") || strings.HasPrefix(place, "https://")
}

// New gives the store at a directory or URL.
func New(place string) (Store, error) {
	if IsURL(place) {
		u, err := url.Parse(place)
		if err != nil || u.Host == "" {
			return nil, fmt.Errorf("cannot use %q: it is no URL", place)
		}
		return &web{base: u, client: client}, nil
	}
	if scheme, _, ok := strings.Cut(place, "://"); ok && scheme != "file" {
		return nil, fmt.Errorf("cannot use %q: want a directory, http:// or https://", place)
	}
	return Dir(strings.TrimPrefix(place, "file://")), nil
}

// Dir is a directory.
type Dir string

type osFile struct {
	*os.File
	size int64
}

func (f osFile) Size() int64 { return f.size }

// Open implements Store.
func (d Dir) Open(name string) (File, error) {
	f, err := os.Open(filepath.Join(string(d), name))
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%s is no file", f.Name())
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return osFile{f, st.Size()}, nil
}

// Size implements Store.
func (d Dir) Size(name string) (int64, error) {
	st, err := os.Stat(filepath.Join(string(d), name))
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}

func (d Dir) String() string { return string(d) }

// web is a directory on a web server that knows ranges (RFC 9110, section 14).
type web struct {
	base   *url.URL
	client *http.Client
}

// client keeps connections: an archive is read in pieces of some MiB.
var client = &http.Client{Transport: &http.Transport{
	Proxy:                 http.ProxyFromEnvironment,
	MaxIdleConnsPerHost:   8,
	ResponseHeaderTimeout: 15 * time.Second,
	TLSHandshakeTimeout:   10 * time.Second,
	DisableCompression:    true,
}}

// How often and how long a piece is asked for before it is given up, so that a
// server that restarts does not end a restore.
const (
	tries = 4
	pause = 500 * time.Millisecond // doubled each time
)

func (w *web) String() string { return w.base.Redacted() }

func (w *web) url(name string) string { return w.base.JoinPath(name).String() }

func (w *web) do(method, name, ranges string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(context.Background(), method, w.url(name), nil)
	if err != nil {
		return nil, err
	}
	if ranges != "" {
		req.Header.Set("Range", ranges)
	}
	resp, err := w.client.Do(req)
	if err != nil {
		return nil, err
	}
	switch {
	case resp.StatusCode == http.StatusNotFound:
		err = fmt.Errorf("%s: %w", w.url(name), os.ErrNotExist)
	case resp.StatusCode == http.StatusOK && ranges != "":
		err = fmt.Errorf("%s: the server gives no parts of files (no range requests), which a restore needs", w.url(name))
	case resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusPartialContent:
		err = fmt.Errorf("%s: the server says %s", w.url(name), resp.Status)
	}
	if err != nil {
		resp.Body.Close()
		return nil, err
	}
	return resp, nil
}

// Size implements Store.
func (w *web) Size(name string) (int64, error) {
	resp, err := w.do(http.MethodHead, name, "")
	if err != nil {
		return 0, err
	}
	resp.Body.Close()
	if resp.ContentLength < 0 {
		return 0, fmt.Errorf("%s: the server does not tell its size", w.url(name))
	}
	return resp.ContentLength, nil
}

// Open implements Store.
func (w *web) Open(name string) (File, error) {
	n, err := w.Size(name)
	if err != nil {
		return nil, err
	}
	return &webFile{w, name, n}, nil
}

type webFile struct {
	w    *web
	name string
	size int64
}

func (f *webFile) Size() int64  { return f.size }
func (f *webFile) Close() error { return nil }

// ReadAt asks for exactly the range, again after failures of the network.
func (f *webFile) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off >= f.size {
		return 0, io.EOF
	}
	want := p[:min(int64(len(p)), f.size-off)]
	if len(want) == 0 {
		return 0, nil
	}
	got := 0
	var err error
	for i := range tries {
		if i > 0 {
			time.Sleep(pause << (i - 1))
		}
		var n int
		n, err = f.read(want[got:], off+int64(got))
		got += n
		if got == len(want) {
			if got < len(p) {
				return got, io.EOF
			}
			return got, nil
		}
		if errors.Is(err, os.ErrNotExist) {
			break
		}
	}
	return got, fmt.Errorf("cannot read %s at byte %d: %w", f.w.url(f.name), off+int64(got), err)
}

func (f *webFile) read(p []byte, off int64) (int, error) {
	resp, err := f.w.do(http.MethodGet, f.name, fmt.Sprintf("bytes=%d-%d", off, off+int64(len(p))-1))
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if !strings.HasPrefix(resp.Header.Get("Content-Range"), "bytes "+strconv.FormatInt(off, 10)+"-") {
		return 0, fmt.Errorf("the server sent another part: %q", resp.Header.Get("Content-Range"))
	}
	n, err := io.ReadFull(resp.Body, p)
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		err = errors.New("the connection ended early")
	}
	return n, err
}

// ReadFile reads a whole file of a store, of at most limit bytes.
func ReadFile(s Store, name string, limit int64) ([]byte, error) {
	f, err := s.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if f.Size() > limit {
		return nil, fmt.Errorf("%s/%s has %d bytes, more than %d", s, name, f.Size(), limit)
	}
	b := make([]byte, f.Size())
	if n, err := f.ReadAt(b, 0); n < len(b) {
		return nil, fmt.Errorf("cannot read %s/%s: %w", s, name, err)
	}
	return b, nil
}
