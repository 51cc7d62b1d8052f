package store

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// TestHTTPHangs: a server that takes no more of a request, or gives no more of an answer, is an error
// after a while.
func TestHTTPHangs(t *testing.T) {
	fake := newFakeS3(t)
	fake.objects["p/q/set/x"] = fakeObject{[]byte("text"), `"1"`}
	var hangs atomic.Value
	hangs.Store("")
	ended := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hang := hangs.Load()
		list := r.Method == http.MethodGet && r.URL.Query().Has("list-type")
		switch {
		case hang == "list" && list, hang == r.Method && !list:
		case hang == "list body" && list:
			_, _ = io.WriteString(w, "<ListBucketResult>") // the client reports it
			w.(http.Flusher).Flush()
		default:
			fake.ServeHTTP(w, r)
			return
		}
		<-ended
	}))
	defer srv.Close()
	defer close(ended)
	s := fake.site(strings.TrimPrefix(srv.URL, "http://"))
	s.access.limits = short
	h, err := OpenHome(t.Context(), s.url, s.access)
	if err != nil {
		t.Fatal(err)
	}
	write := func(size int) func() error {
		return func() error {
			u, err := h.Create(t.Context(), "set/y")
			if err != nil {
				return err
			}
			_, err = u.Write(random(size, 1))
			return errors.Join(err, u.Commit())
		}
	}
	for _, c := range []struct {
		hang string
		fn   func() error
	}{
		{"list", func() error { _, err := h.Files(t.Context(), "set"); return err }},
		{"list body", func() error { _, err := h.Dirs(t.Context()); return err }},
		{http.MethodPut, write(1000)},
		{http.MethodPut, write(17 << 20)}, // more than the buffers of a connection
		{http.MethodHead, func() error { _, err := h.At(t.Context(), "set").Size("x"); return err }},
	} {
		hangs.Store(c.hang)
		start := time.Now()
		if err := c.fn(); !errors.Is(err, errSilent) || time.Since(start) > 20*time.Second {
			t.Errorf("%s hangs: %v after %v; want that the server does not answer", c.hang, err, time.Since(start))
		}
	}
}

// TestPaced: a request whose own bytes are slow is not ended, nor is an answer that comes slowly.
func TestPaced(t *testing.T) {
	limits := limits{header: 200 * time.Millisecond, stall: 200 * time.Millisecond}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body) // what came is compared
		time.Sleep(300 * time.Millisecond)
		for _, c := range b {
			_, _ = w.Write([]byte{c}) // the client compares it
			w.(http.Flusher).Flush()
			time.Sleep(100 * time.Millisecond)
		}
	}))
	defer srv.Close()
	c := &http.Client{Transport: paced{http.DefaultTransport, limits}}
	post := func(ctx context.Context) (string, error) {
		r, w := io.Pipe()
		go func() {
			for _, b := range []byte("abcd") {
				time.Sleep(300 * time.Millisecond)
				_, _ = w.Write([]byte{b}) // the server gives it back
			}
			w.Close()
		}()
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, srv.URL, r)
		if err != nil {
			return "", err
		}
		resp, err := c.Do(req)
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		return string(b), err
	}
	if got, err := post(withAnswer(t.Context(), time.Second)); got != "abcd" || err != nil {
		t.Errorf("slow: %q, %v", got, err)
	}
	if got, err := post(t.Context()); !errors.Is(err, errSilent) {
		t.Errorf("an answer that is too late: %q, %v", got, err)
	}
	if resp, err := c.Post(srv.URL, "", bytes.NewReader(nil)); !errors.Is(err, errSilent) {
		t.Errorf("no answer: %v, %v", resp, err)
	}
}
