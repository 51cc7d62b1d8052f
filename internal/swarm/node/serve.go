package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/printable"
)

// Serve is a Reader that gives the set as a web server gives it, on an address of this
// machine, while it arrives: `restore URL` reads it. ready is told of the URL. It ends
// with ctx, or when done is closed.
func Serve(listen string, done <-chan struct{}, ready func(url string)) func(context.Context, *Files) error {
	return func(ctx context.Context, files *Files) error {
		l, err := net.Listen("tcp", listen)
		if err != nil {
			return fmt.Errorf("cannot listen on %s: %w", printable.Clean(listen), err)
		}
		if a, ok := l.Addr().(*net.TCPAddr); !ok || !a.IP.IsLoopback() {
			l.Close()
			return fmt.Errorf("cannot listen on %s: the set contains secrets, want an address of this machine alone (127.0.0.1)", printable.Clean(listen))
		}
		srv := &http.Server{ReadHeaderTimeout: 10 * time.Second, BaseContext: func(net.Listener) context.Context { return ctx }, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodGet && r.Method != http.MethodHead {
				http.Error(w, "only GET and HEAD", http.StatusMethodNotAllowed)
				return
			}
			f, err := files.Open(r.Context(), strings.TrimPrefix(r.URL.Path, "/"))
			if err != nil {
				http.NotFound(w, r)
				return
			}
			defer f.Close()
			w.Header().Set("Content-Type", "application/octet-stream")
			w.Header().Set("ETag", `"`+files.g.t.Hash.HexString()+`"`)
			http.ServeContent(w, r, "", time.Time{}, f)
		})}
		failed := make(chan error, 1)
		go func() { failed <- srv.Serve(l) }()
		ready("http://" + l.Addr().String() + "/")
		defer srv.Close()
		select {
		case err := <-failed:
			return err
		case <-done:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Copy is a Reader that writes one file of the set to w while it arrives.
func Copy(w io.Writer, name string) func(context.Context, *Files) error {
	return func(ctx context.Context, files *Files) error {
		f, err := files.Open(ctx, name)
		if err != nil {
			return err
		}
		defer f.Close()
		if _, err := io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{f}, make([]byte, 256<<10)); err != nil {
			if ctx.Err() != nil {
				return errors.Join(context.Cause(ctx))
			}
			return fmt.Errorf("cannot write %s: %w", printable.Clean(name), err)
		}
		return nil
	}
}
