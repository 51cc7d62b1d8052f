package store

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var fast = limits{header: 300 * time.Millisecond, stall: 300 * time.Millisecond, pause: time.Millisecond, tries: 4, all: 20}

const text = "the content of a file of a backup set"

// server serves text; breaks may answer in its place.
func server(t *testing.T, breaks func(w http.ResponseWriter, r *http.Request, n int64) bool) (*httptest.Server, *atomic.Int64) {
	t.Helper()
	var n atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !breaks(w, r, n.Add(1)) {
			w.Header().Set("ETag", `"one"`)
			http.ServeContent(w, r, "", time.Unix(1, 0), strings.NewReader(text))
		}
	}))
	t.Cleanup(s.Close)
	return s, &n
}

func readAll(ctx context.Context, t *testing.T, url string) (string, error) {
	t.Helper()
	w, err := newWeb(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	w.limits = fast
	b, err := ReadFile(w, "f", 1000)
	return string(b), err
}

func hang(r *http.Request) {
	select {
	case <-r.Context().Done():
	case <-time.After(5 * time.Second):
	}
}

// TestWebFaults: what goes over is asked for again, what does not is an error at once.
func TestWebFaults(t *testing.T) {
	part := func(w http.ResponseWriter, head string, body string) {
		w.Header().Set("Content-Range", head)
		w.Header().Set("Content-Length", fmt.Sprint(len(text)))
		w.WriteHeader(http.StatusPartialContent)
		fmt.Fprint(w, body)
		w.(http.Flusher).Flush()
	}
	whole := fmt.Sprintf("bytes 0-%d/%d", len(text)-1, len(text))
	for _, c := range []struct {
		name   string
		breaks func(w http.ResponseWriter, r *http.Request, n int64) bool
		want   string // in the error; "" for none
		most   int64  // requests
	}{
		{"no answer once", func(w http.ResponseWriter, r *http.Request, n int64) bool {
			if n == 1 || n == 3 {
				hang(r)
			}
			return n == 1 || n == 3
		}, "", 4},
		{"no answer ever", func(w http.ResponseWriter, r *http.Request, n int64) bool { hang(r); return true }, "does not answer", 4},
		{"stops in the body, then continues from there", func(w http.ResponseWriter, r *http.Request, n int64) bool {
			if n == 2 {
				part(w, whole, text[:10])
				hang(r)
			}
			if n == 3 && r.Header.Get("Range") != fmt.Sprintf("bytes=10-%d", len(text)-1) {
				t.Errorf("asked for %s", r.Header.Get("Range"))
			}
			return n == 2
		}, "", 3},
		{"always stops in the body", func(w http.ResponseWriter, r *http.Request, n int64) bool {
			if r.Method == http.MethodGet {
				part(w, whole, "")
				hang(r)
			}
			return r.Method == http.MethodGet
		}, "ended early", 5},
		{"500 twice", func(w http.ResponseWriter, r *http.Request, n int64) bool {
			if n < 3 {
				http.Error(w, "no", 500)
			}
			return n < 3
		}, "", 4},
		{"forbidden", func(w http.ResponseWriter, r *http.Request, n int64) bool {
			http.Error(w, "no", http.StatusForbidden)
			return true
		}, "403 Forbidden", 1},
		{"no HEAD", func(w http.ResponseWriter, r *http.Request, n int64) bool {
			if r.Method == http.MethodHead {
				w.WriteHeader(405)
			}
			return r.Method == http.MethodHead
		}, "", 3},
		{"another part", func(w http.ResponseWriter, r *http.Request, n int64) bool {
			if n == 2 {
				part(w, fmt.Sprintf("bytes 1-%d/%d", len(text)-1, len(text)), text[1:])
			}
			return n == 2
		}, "not those from 0 on", 2},
		{"another size", func(w http.ResponseWriter, r *http.Request, n int64) bool {
			if n == 2 {
				part(w, fmt.Sprintf("bytes 0-%d/%d", len(text)-1, len(text)+1), text)
			}
			return n == 2
		}, "bytes now", 2},
		{"another version", func(w http.ResponseWriter, r *http.Request, n int64) bool {
			if n == 2 {
				w.Header().Set("ETag", `"two"`)
				part(w, whole, text)
			}
			return n == 2
		}, "was changed while it was read", 2},
		{"shorter now", func(w http.ResponseWriter, r *http.Request, n int64) bool {
			if n == 2 {
				w.WriteHeader(416)
			}
			return n == 2
		}, "shorter than when", 2},
		{"redirects for ever", func(w http.ResponseWriter, r *http.Request, n int64) bool {
			http.Redirect(w, r, "/again", http.StatusFound)
			return true
		}, "more than 5 redirects", 6},
		{"an escape sequence as status", func(w http.ResponseWriter, r *http.Request, n int64) bool {
			c, b, err := w.(http.Hijacker).Hijack()
			if err == nil {
				fmt.Fprint(b, "HTTP/1.1 403 \x1b[2Jgone\r\nContent-Length: 0\r\n\r\n")
				b.Flush()
				c.Close()
			}
			return true
		}, `\x1b[2Jgone`, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, n := server(t, c.breaks)
			got, err := readAll(t.Context(), t, s.URL)
			switch {
			case c.want == "" && (err != nil || got != text):
				t.Errorf("read %q, %v; want the file", got, err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("error %v; want %q", err, c.want)
			}
			if n.Load() > c.most {
				t.Errorf("%d requests; want at most %d", n.Load(), c.most)
			}
		})
	}
}

// TestWebDowngrade: https never becomes http.
func TestWebDowngrade(t *testing.T) {
	plain, n := server(t, func(http.ResponseWriter, *http.Request, int64) bool { return false })
	tls := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, plain.URL+r.URL.Path, http.StatusFound)
	}))
	defer tls.Close()
	w, err := newWeb(t.Context(), tls.URL)
	if err != nil {
		t.Fatal(err)
	}
	w.client.Transport = tls.Client().Transport
	w.limits = fast
	if _, err := w.Open("f"); err == nil || !strings.Contains(err.Error(), "from https to http") || n.Load() > 0 {
		t.Errorf("Open = %v after %d requests in the clear", err, n.Load())
	}
}

// TestWebPassword: it is sent to the server that it is for, and printed nowhere.
func TestWebPassword(t *testing.T) {
	var other *httptest.Server
	seen := map[string]string{}
	handler := func(w http.ResponseWriter, r *http.Request) {
		_, pass, _ := r.BasicAuth()
		seen[r.Host] = pass
		if r.URL.Path == "/set/moved" {
			http.Redirect(w, r, other.URL+"/f", http.StatusFound)
			return
		}
		if r.URL.Path == "/set/no" {
			http.Error(w, "no", http.StatusForbidden)
			return
		}
		http.ServeContent(w, r, "", time.Unix(1, 0), strings.NewReader(text))
	}
	s, o := httptest.NewServer(http.HandlerFunc(handler)), httptest.NewServer(http.HandlerFunc(handler))
	defer s.Close()
	defer o.Close()
	other = o
	st, err := New(strings.Replace(s.URL, "http://", "http://user:geheim@", 1) + "/set?token=auchgeheim")
	if err != nil {
		t.Fatal(err)
	}
	st.(*web).limits = fast
	if _, err := ReadFile(st, "moved", 1000); err != nil {
		t.Fatal(err)
	}
	if got := seen[strings.TrimPrefix(s.URL, "http://")]; got != "geheim" {
		t.Errorf("the server got the password %q", got)
	}
	if got, asked := seen[strings.TrimPrefix(o.URL, "http://")]; got != "" || !asked {
		t.Errorf("the other server got the password %q (asked: %v)", got, asked)
	}
	_, no := st.Open("no")
	_, gone := st.Size("nosuch\x1b[2J")
	o.Close()
	s.Close()
	_, down := st.Open("x")
	for _, text := range []string{st.String(), fmt.Sprint(no), fmt.Sprint(gone), fmt.Sprint(down)} {
		if strings.Contains(text, "geheim") {
			t.Errorf("a secret is printed: %s", text)
		}
	}
	if _, err := New("http://user:geheim@"); err == nil || strings.Contains(err.Error(), "geheim") {
		t.Errorf("a secret is printed: %v", err)
	}
	if _, err := New("ftp://user:geheim@host/"); err == nil || strings.Contains(err.Error(), "geheim") {
		t.Errorf("a secret is printed: %v", err)
	}
}

// TestWebCancel: the end of the context ends a wait at once.
func TestWebCancel(t *testing.T) {
	s, _ := server(t, func(w http.ResponseWriter, r *http.Request, n int64) bool {
		if n > 1 {
			hang(r)
		}
		return n > 1
	})
	ctx, cancel := context.WithCancel(t.Context())
	st, err := NewContext(ctx, s.URL)
	if err != nil {
		t.Fatal(err)
	}
	f, err := st.Open("f")
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(50*time.Millisecond, cancel)
	start := time.Now()
	if _, err := f.ReadAt(make([]byte, 10), 0); !errors.Is(err, context.Canceled) || time.Since(start) > 3*time.Second {
		t.Errorf("ReadAt = %v after %v", err, time.Since(start))
	}
}

// TestDirSpecial: what is not a regular file is refused, and not waited for.
func TestDirSpecial(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/dev/zero", filepath.Join(dir, "device")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "dir"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"fifo": "not a regular file", "device": "not a regular file", "dir": "not a regular file", "../x": "not a name below", "/etc/passwd": "not a name below"} {
		done := make(chan error, 2)
		go func() {
			_, err := Dir(dir).Open(name)
			done <- err
			_, err = Dir(dir).Size(name)
			done <- err
		}()
		for range 2 {
			select {
			case err := <-done:
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("%s: %v; want %q", name, err, want)
				}
			case <-time.After(5 * time.Second):
				t.Fatalf("%s: it is waited for", name)
			}
		}
	}
}

func FuzzContentRange(f *testing.F) {
	for _, s := range []string{"bytes 0-9/10", "bytes 0-9/*", "bytes */10", "bytes 9-0/10", "bytes 0-18446744073709551615/1", "items 0-1/2"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		first, last, total, err := contentRange(s)
		if err == nil && (first < 0 || last < first || total >= 0 && last >= total) {
			t.Errorf("contentRange(%q) = %d, %d, %d", s, first, last, total)
		}
	})
}

// TestWebReadAt: what is behind the end is not asked for.
func TestWebReadAt(t *testing.T) {
	s, n := server(t, func(http.ResponseWriter, *http.Request, int64) bool { return false })
	st, err := New(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	f, err := st.Open("f")
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 100)
	if k, err := f.ReadAt(b, 4); k != len(text)-4 || err != io.EOF || !bytes.Equal(b[:k], []byte(text[4:])) {
		t.Errorf("ReadAt over the end = %d, %v", k, err)
	}
	if k, err := f.ReadAt(b, 1<<60); k != 0 || err != io.EOF || n.Load() != 2 {
		t.Errorf("ReadAt behind the end = %d, %v after %d requests", k, err, n.Load())
	}
}

// TestClockTLS: with a wrong clock a certificate is not valid, which is reported at once, with the clock.
func TestClockTLS(t *testing.T) {
	for name, from := range map[string]time.Duration{"behind": 24 * time.Hour, "ahead": -48 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			c := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(from), NotAfter: time.Now().Add(from + 24*time.Hour),
				IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
			der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(t.TempDir(), "ca")
			if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
				t.Fatal(err)
			}
			srv := httptest.NewUnstartedServer(http.NotFoundHandler())
			srv.Config.ErrorLog = log.New(io.Discard, "", 0)
			srv.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
			srv.StartTLS()
			defer srv.Close()
			addr := srv.Listener.Addr().String()
			for _, place := range []string{"https://" + addr + "/dav", "s3://" + addr + "/bucket"} {
				cred, err := ParseCredentials([]byte("- {url: '" + place + "', ca: " + file + "}"))
				if err != nil {
					t.Fatal(err)
				}
				limit := limits{header: 5 * time.Second, stall: 5 * time.Second, pause: time.Hour, tries: 2, all: 2} // another attempt would not end
				_, err = OpenHome(t.Context(), place, Access{Credentials: cred, limits: limit})
				if err == nil || !strings.Contains(err.Error(), "if the clock of this machine is wrong, set it") || !strings.Contains(err.Error(), "current time") {
					t.Errorf("OpenHome(%s) = %v; want that the clock may be wrong", place, err)
				}
			}
		})
	}
}
