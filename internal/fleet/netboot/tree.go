package netboot

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net/http"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Tree is a directory that is served, read-only. Names and links never lead out of it;
// what begins with a dot is being written, and not served.
type Tree struct {
	root *os.Root
	dir  string
}

// OpenTree opens a directory.
func OpenTree(dir string) (*Tree, error) {
	r, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot serve %s: %w", dir, err)
	}
	return &Tree{r, dir}, nil
}

// Close closes the directory.
func (t *Tree) Close() error { return t.root.Close() }

// Open opens a regular file. A name may begin with a slash, and have backslashes, as
// some firmware has them; any other that is not plainly below the tree is fs.ErrNotExist.
func (t *Tree) Open(name string) (*os.File, fs.FileInfo, error) {
	name = strings.TrimLeft(strings.ReplaceAll(name, `\`, "/"), "/")
	if !fs.ValidPath(name) || name == "." || len(name) > 512 {
		return nil, nil, fs.ErrNotExist
	}
	for _, e := range strings.Split(name, "/") {
		if strings.HasPrefix(e, ".") {
			return nil, nil, fs.ErrNotExist
		}
	}
	f, err := t.root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		if errors.Is(err, fs.ErrPermission) {
			return nil, nil, fs.ErrPermission
		}
		return nil, nil, fs.ErrNotExist // also for a link out of the tree
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fs.ErrNotExist
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, st, nil
}

// ServeHTTP implements http.Handler, with ranges; directories are not listed.
func (t *Tree) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(5 * time.Second)) // nobody reads what it sends
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "this server is read-only", http.StatusMethodNotAllowed)
		return
	}
	f, st, err := t.Open(r.URL.Path)
	if err != nil {
		http.Error(w, "there is no such file", http.StatusNotFound)
		return
	}
	defer f.Close()
	h := w.Header()
	h.Set("ETag", fmt.Sprintf(`"%x-%x"`, st.Size(), st.ModTime().UnixNano()))
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Type", "application/octet-stream")
	switch path.Ext(r.URL.Path) {
	case ".efi": // UEFI 2.5, section 23.7.2: firmware knows a program by this, or by the name
		h.Set("Content-Type", "application/efi")
	case ".ipxe", ".cfg", ".txt", ".json":
		h.Set("Content-Type", "text/plain; charset=utf-8")
	}
	http.ServeContent(w, r, "", st.ModTime(), f)
}

// BodyLimit is how long a client may take to send the body of a request.
const BodyLimit = 20 * time.Second

// Bounded ends requests whose body does not arrive in time. Answers may take longer.
func Bounded(h http.Handler, limit time.Duration) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength != 0 {
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(limit)) // not in all tests' writers
		}
		h.ServeHTTP(w, r)
	})
}

// HTTPServer gives a server with limits on what a client may keep busy. There is no
// ReadTimeout: it would end streams of events. Faults of clients are not logged, since
// anybody can cause them.
func HTTPServer(h http.Handler) *http.Server {
	return &http.Server{Handler: h, ErrorLog: log.New(io.Discard, "", 0), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10}
}
