package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/net/webdav"
)

const davSecret = "TOPSECRETdav/+="

// davServer is a WebDAV server for a directory.
type davServer struct {
	addr  string
	dir   string
	parts bool // takes parts of files, as Apache does
	puts  atomic.Int64
	fault func(w http.ResponseWriter, r *http.Request) bool
}

func newDavServer(t *testing.T, dir string, parts bool) *davServer {
	d := &davServer{dir: dir, parts: parts}
	if err := os.MkdirAll(dir+"/dav", 0o700); err != nil {
		t.Fatal(err)
	}
	h := &webdav.Handler{Prefix: "/dav", FileSystem: webdav.Dir(dir + "/dav"), LockSystem: webdav.NewMemLS()}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, pass, _ := r.BasicAuth()
		switch {
		case user != "me" || pass != davSecret:
			w.Header().Set("WWW-Authenticate", "Basic")
			w.WriteHeader(http.StatusUnauthorized)
		case d.fault != nil && d.fault(w, r):
		case r.Method == http.MethodPut:
			d.put(w, r)
		default:
			h.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(s.Close)
	d.addr = strings.TrimPrefix(s.URL, "http://")
	return d
}

// put stores a file. webdav.Handler takes a broken body for the end, and a full disk for its own fault.
func (d *davServer) put(w http.ResponseWriter, r *http.Request) {
	d.puts.Add(1)
	flags, at, last := os.O_CREATE|os.O_WRONLY|os.O_TRUNC, int64(0), int64(0)
	if c := r.Header.Get("Content-Range"); c != "" && d.parts {
		if _, err := fmt.Sscanf(c, "bytes %d-%d/*", &at, &last); err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		flags = os.O_WRONLY
	}
	f, err := os.OpenFile(d.dir+r.URL.Path, flags, 0o600)
	if err == nil {
		if _, err = f.Seek(at, io.SeekStart); err == nil {
			_, err = io.Copy(f, r.Body)
		}
		err = errors.Join(err, f.Close())
	}
	switch {
	case errors.Is(err, syscall.ENOSPC):
		w.WriteHeader(http.StatusInsufficientStorage)
	case err != nil:
		w.WriteHeader(http.StatusForbidden)
	default:
		w.WriteHeader(http.StatusCreated)
	}
}

func (d *davServer) site(addr string) *site {
	c, err := ParseCredentials([]byte("- {url: 'http://" + addr + "/dav', user: me, password: '" + davSecret + "'}"))
	if err != nil {
		panic(err)
	}
	return &site{url: "http://" + addr + "/dav/ho%20me", hidden: []string{davSecret}, access: Access{Credentials: c}}
}

func davSite(parts bool) func(t *testing.T) *site {
	return func(t *testing.T) *site { d := newDavServer(t, t.TempDir(), parts); return d.site(d.addr) }
}

// TestDavBroken: a server without parts of files repeats small ones; a large one is an error that
// says what to use, and nothing of it is left.
func TestDavBroken(t *testing.T) {
	d := newDavServer(t, t.TempDir(), false)
	p := newProxy(t, d.addr)
	h := d.site(p.addr).open(t)
	put(t, h, "a/first", nil)
	p.after(8 << 20)
	put(t, h, "a/small", random(davKept, 1))
	if n := p.cuts(); n != 1 {
		t.Errorf("cut %d times", n)
	}
	u, err := h.Create(t.Context(), "a/large")
	if err != nil {
		t.Fatal(err)
	}
	p.after(30 << 20)
	_, err = u.Write(random(60<<20, 1))
	if err == nil {
		err = u.Commit()
	}
	if !errors.Is(err, errNoParts) || !strings.Contains(err.Error(), "use sftp:// or s3://") {
		t.Errorf("%v", err)
	}
	if err := u.Abort(); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(d.dir + "/dav/ho me/a"); err != nil || len(left) != 2 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// TestDavFaults: answers of servers that are not as they should be.
func TestDavFaults(t *testing.T) {
	multi := func(w http.ResponseWriter, hrefs ...string) {
		w.WriteHeader(http.StatusMultiStatus)
		fmt.Fprint(w, `<D:multistatus xmlns:D="DAV:">`)
		for _, h := range hrefs {
			fmt.Fprintf(w, `<D:response><D:href>%s</D:href><D:propstat><D:prop><D:resourcetype><D:collection/></D:resourcetype></D:prop><D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response>`, h)
		}
		fmt.Fprint(w, `</D:multistatus>`)
	}
	for _, c := range []struct {
		name  string
		fault func(w http.ResponseWriter, r *http.Request) bool
		want  string // of Dirs
	}{
		{"hostile names", func(w http.ResponseWriter, r *http.Request) bool {
			multi(w, "/dav/ho%20me/", "/dav/ho%20me/good/", "/dav/ho%20me/a/b/", "http://evil/dav/ho%20me/other", "/dav/ho%20me/a%0ab", ":%zz")
			return true
		}, "[good other] <nil>"},
		{"another path", func(w http.ResponseWriter, r *http.Request) bool {
			multi(w, "/ho%20me/", "/ho%20me/good/")
			return true
		}, "asked for /dav/ho me/, and lists \"/ho me/\""},
		{"above", func(w http.ResponseWriter, r *http.Request) bool {
			multi(w, "/dav/ho%20me/", "/dav/ho%20me/%2e%2e/")
			return true
		}, "asked for /dav/ho me/, and lists"},
		{"beside", func(w http.ResponseWriter, r *http.Request) bool {
			multi(w, "/dav/ho%20me/", "/dav/ho%20me-2/")
			return true
		}, "asked for /dav/ho me/, and lists"},
		{"not WebDAV", func(w http.ResponseWriter, r *http.Request) bool { w.WriteHeader(405); return true }, "it may not be a WebDAV server"},
		{"not XML", func(w http.ResponseWriter, r *http.Request) bool {
			if r.Header.Get("Depth") == "1" {
				w.WriteHeader(207)
				fmt.Fprint(w, "x<")
			}
			return r.Header.Get("Depth") == "1"
		}, "not XML"},
		{"busy once", func() func(w http.ResponseWriter, r *http.Request) bool {
			n := 0
			return func(w http.ResponseWriter, r *http.Request) bool {
				if n++; n%2 == 1 {
					w.WriteHeader(503)
				} else {
					multi(w, "/dav/ho%20me/x/")
				}
				return true
			}
		}(), "[x] <nil>"},
		{"redirect", func(w http.ResponseWriter, r *http.Request) bool {
			http.Redirect(w, r, "/elsewhere", http.StatusMovedPermanently)
			return true
		}, "redirect"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newDavServer(t, t.TempDir(), false)
			d.fault = c.fault
			s := d.site(d.addr)
			s.access.limits = fast
			h, err := OpenHome(t.Context(), s.url, s.access)
			var dirs []string
			if err == nil {
				dirs, err = h.Dirs(t.Context())
			}
			if got := fmt.Sprint(dirs, " ", err); !strings.Contains(got, c.want) {
				t.Errorf("%s; want %s", got, c.want)
			}
			s.secretFree(t, err)
		})
	}
}

// TestDavPassword: a wrong password is an error; without one a person is asked.
func TestDavPassword(t *testing.T) {
	d := newDavServer(t, t.TempDir(), false)
	s := d.site(d.addr)
	answers := []string{"me", davSecret}
	ask := func(_ context.Context, question string, secret bool) (string, error) {
		if secret != (len(answers) == 1) {
			t.Errorf("%q: secret %v", question, secret)
		}
		a := answers[0]
		answers = answers[1:]
		return a, nil
	}
	h, err := OpenHome(t.Context(), s.url, Access{Ask: ask, limits: fast})
	if err != nil {
		t.Fatal(err)
	}
	put(t, h, "x", []byte("y"))
	_, err = OpenHome(t.Context(), s.url, Access{limits: fast})
	if err == nil || !strings.Contains(err.Error(), "401") {
		t.Errorf("without a password: %v", err)
	}
	s.access.Credentials[0].Password = "TOPSECRETwrong"
	_, err = OpenHome(t.Context(), s.url, s.access)
	if err == nil || !strings.Contains(err.Error(), "401") || strings.Contains(err.Error(), "TOPSECRET") {
		t.Errorf("with a wrong password: %v", err)
	}
}

// TestDavUser: a URL with a user takes the password of the credentials, then that of a person.
func TestDavUser(t *testing.T) {
	d := newDavServer(t, t.TempDir(), false)
	s := d.site(d.addr)
	place := strings.Replace(s.url, "http://", "http://me@", 1)
	if _, err := OpenHome(t.Context(), place, Access{Credentials: s.access.Credentials, limits: fast}); err != nil {
		t.Errorf("with credentials: %v", err)
	}
	asked := ""
	ask := func(_ context.Context, question string, _ bool) (string, error) {
		asked += question
		return davSecret, nil
	}
	if _, err := OpenHome(t.Context(), place, Access{Ask: ask, limits: fast}); err != nil || asked != "Password of me: " {
		t.Errorf("asked %q: %v", asked, err)
	}
	asked = ""
	full := strings.Replace(s.url, "http://", "http://me:wrong@", 1)
	if _, err := OpenHome(t.Context(), full, Access{Ask: ask, Credentials: s.access.Credentials, limits: fast}); !hasStatus(err, http.StatusUnauthorized) || asked != "" {
		t.Errorf("a wrong password in the URL: asked %q: %v", asked, err)
	}
}

// TestDavElsewhere: a list of another path is an error for what writes and removes, too.
func TestDavElsewhere(t *testing.T) {
	d := newDavServer(t, t.TempDir(), false)
	s := d.site(d.addr)
	h := s.open(t)
	put(t, h, "set/x", []byte("x"))
	d.fault = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == "PROPFIND" {
			w.WriteHeader(http.StatusMultiStatus)
			fmt.Fprint(w, `<D:multistatus xmlns:D="DAV:"><D:response><D:href>/other/</D:href></D:response></D:multistatus>`)
		}
		return r.Method == "PROPFIND"
	}
	want := "lists \"/other/\""
	if _, err := h.Create(t.Context(), "set-2/x"); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("Create: %v", err)
	}
	if err := h.Remove(t.Context(), "set"); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("Remove: %v", err)
	}
	h = s.open(t) // what is known can be read
	if got := content(t, h, "set/x"); string(got) != "x" {
		t.Errorf("%q", got)
	}
}

// TestDavAbort: Abort does not ask the server why a long request ended.
func TestDavAbort(t *testing.T) {
	d := newDavServer(t, t.TempDir(), false)
	h := d.site(d.addr).open(t)
	put(t, h, "a/first", nil)
	var asked atomic.Int64
	ended := make(chan struct{})
	defer close(ended)
	d.fault = func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPut {
			return false
		}
		if r.ContentLength == 1<<20 {
			asked.Add(1)
			<-ended
		}
		return false
	}
	u, err := h.Create(t.Context(), "a/x")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := u.Write(random(davKept+1<<20, 1)); err != nil {
		t.Fatal(err)
	}
	if err := u.Abort(); err != nil || asked.Load() != 0 {
		t.Errorf("%v; asked %d times", err, asked.Load())
	}
}
