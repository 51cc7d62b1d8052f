package store

import (
	"cmp"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/printable"
)

// davHome is a home on a WebDAV server (RFC 4918). A plain web server can be read, where the names are known.
// It is thin code over the client that reads sets, which knows ranges, redirects and silent servers: the
// library studio-b12/gowebdav has neither these nor contexts.
type davHome struct {
	web    *web // of the top directory
	at     address
	limits limits

	mu      sync.Mutex      // of what follows
	made    map[string]bool // directories that exist
	partial *bool           // whether the server takes parts of files; nil: unknown
}

func newDAV(ctx context.Context, at address, l login, access Access, place string) (Home, error) {
	w, err := newWeb(ctx, place)
	if err != nil {
		return nil, err
	}
	transport, err := httpTransport(l)
	if err != nil {
		return nil, fmt.Errorf("cannot use %s: %w", at.text, err)
	}
	transport.ResponseHeaderTimeout = s3Wait
	w.limits, w.redacted = access.patience(), at.text
	w.client = &http.Client{Transport: paced{transport, w.limits}, CheckRedirect: func(req *http.Request, via []*http.Request) error {
		if req.Method != via[0].Method { // PUT would become GET, and succeed
			return permanent{fmt.Errorf("the server redirects a %s", via[0].Method)}
		}
		return redirect(req, via)
	}}
	switch _, given := w.user.Password(); {
	case given: // in the URL
	case l.user != "" && l.Password != "":
		w.user = url.UserPassword(l.user, string(l.Password))
	case l.user != "":
		w.user = url.User(l.user)
	}
	h := &davHome{web: w, at: at, limits: w.limits, made: map[string]bool{}}
	_, err = h.find(ctx, "", "0")
	if _, given := w.user.Password(); hasStatus(err, http.StatusUnauthorized) && !given && access.Ask != nil {
		if w.user, err = askLogin(ctx, at, w.user.Username(), access); err != nil {
			return nil, err
		}
		_, err = h.find(ctx, "", "0")
	}
	// The directory may have to be made, and a plain web server, which has some answer to
	// PROPFIND, can be read.
	if err != nil && !missingFile(err) && !readable(err) {
		return nil, fmt.Errorf("cannot use %s: %w", at.text, err)
	}
	return h, nil
}

// askLogin asks a person for the password, and for the user where that is "".
func askLogin(ctx context.Context, at address, user string, access Access) (*url.Userinfo, error) {
	var err error
	if user == "" {
		if user, err = access.Ask(ctx, "User for "+at.text+": ", false); err != nil {
			return nil, err
		}
	}
	pass, err := access.Ask(ctx, "Password of "+printable.Clean(user)+": ", true)
	if err != nil {
		return nil, err
	}
	return url.UserPassword(user, pass), nil
}

// readable reports whether an answer to PROPFIND may be that of a server whose files can be read where
// the names are known.
func readable(err error) bool {
	s := status{}
	return errors.As(err, new(elsewhereError)) || errors.As(err, &s) && s.code != http.StatusUnauthorized && (s.code < 500 || s.code == http.StatusNotImplemented)
}

func hasStatus(err error, codes ...int) bool {
	s := status{}
	return errors.As(err, &s) && slices.Contains(codes, s.code)
}

func (h *davHome) String() string { return h.at.text }

// Close implements Home.
func (h *davHome) Close() error {
	h.web.client.CloseIdleConnections()
	return nil
}

func (h *davHome) fail(verb, name string, err error) error {
	if hasStatus(err, http.StatusMethodNotAllowed, http.StatusNotImplemented) {
		err = fmt.Errorf("%w (it may not be a WebDAV server, which listing and writing need)", err)
	}
	return fmt.Errorf("cannot %s %s: %w", verb, strings.TrimSuffix(h.at.text+"/"+name, "/"), err)
}

// url is the URL of a name; that of a directory ends with a slash.
func (h *davHome) url(name string) string {
	dir := strings.HasSuffix(name, "/") || name == ""
	u := h.web.base.JoinPath(escaped(strings.Trim(name, "/")))
	if dir && !strings.HasSuffix(u.Path, "/") {
		u = u.JoinPath("/")
	}
	return u.String()
}

// davRequest is one request.
type davRequest struct {
	method, name string
	header       map[string]string
	body         io.Reader
	size         int64 // of the body; -1: unknown
	ok           []int // statuses
	wait         time.Duration
}

// once asks once, and gives the body of the answer.
func (h *davHome) once(ctx context.Context, r davRequest) (http.Header, []byte, error) {
	wait := cmp.Or(r.wait, h.limits.header)
	ctx, cancel := context.WithTimeoutCause(ctx, wait, errSilent)
	defer cancel()
	if wait = min(wait, davWait); r.body != nil && r.size >= 0 {
		wait = h.limits.storing(r.size)
	}
	ctx = withAnswer(ctx, wait)
	req, err := http.NewRequestWithContext(ctx, r.method, h.url(r.name), r.body)
	if err != nil {
		return nil, nil, permanent{errors.New("the URL can't be used")}
	}
	if r.body != nil {
		req.ContentLength = r.size
	}
	for k, v := range r.header {
		req.Header.Set(k, v)
	}
	if h.web.user != nil {
		pass, _ := h.web.user.Password()
		req.SetBasicAuth(h.web.user.Username(), pass)
	}
	resp, err := h.web.client.Do(req)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return nil, nil, cause
		}
		return nil, nil, withoutURL(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxListing+1))
	code := resp.StatusCode
	switch {
	case slices.Contains(r.ok, code) && err != nil:
		return nil, nil, errors.New("the connection ended early")
	case slices.Contains(r.ok, code) && len(b) > maxListing:
		return nil, nil, permanent{fmt.Errorf("the answer has more than %d bytes", maxListing)}
	case slices.Contains(r.ok, code):
		return resp.Header, b, nil
	}
	return nil, nil, statusFault(resp)
}

// maxListing is how many bytes the list of a directory may have.
const maxListing = 64 << 20

// do is once, again after failures that go over.
func (h *davHome) do(ctx context.Context, r davRequest) (b []byte, err error) {
	body, _ := r.body.(io.Seeker)
	err = h.limits.again(ctx, func() (bool, error) {
		if body != nil {
			if _, err := body.Seek(0, io.SeekStart); err != nil {
				return false, permanent{err}
			}
		}
		_, b, err = h.once(ctx, r)
		return false, err
	})
	return b, err
}

// davEntry is what a directory has.
type davEntry struct {
	Info
	dir bool
}

const davAsk = `<?xml version="1.0" encoding="utf-8"?><propfind xmlns="DAV:"><prop><resourcetype/><getcontentlength/><getlastmodified/></prop></propfind>`

// find lists a directory without those in it (depth 1), also its unfinished files, or describes
// a name (depth 0).
func (h *davHome) find(ctx context.Context, name, depth string) ([]davEntry, error) {
	if depth == "1" && name != "" {
		name += "/"
	}
	b, err := h.do(ctx, davRequest{method: "PROPFIND", name: name, header: map[string]string{"Depth": depth, "Content-Type": "application/xml"},
		body: strings.NewReader(davAsk), size: int64(len(davAsk)), ok: []int{http.StatusMultiStatus}})
	if err != nil {
		return nil, err
	}
	var list struct {
		Response []struct {
			Href     string `xml:"href"`
			Propstat []struct {
				Prop struct {
					Length   string `xml:"getcontentlength"`
					Modified string `xml:"getlastmodified"`
					Type     struct {
						Collection *struct{} `xml:"collection"`
					} `xml:"resourcetype"`
				} `xml:"prop"`
			} `xml:"propstat"`
		} `xml:"response"`
	}
	if err := xml.Unmarshal(b, &list); err != nil {
		return nil, errors.New("the server's list is not XML")
	}
	top, err := url.Parse(h.url(name))
	if err != nil {
		return nil, errors.New("the URL can't be used")
	}
	base := strings.TrimSuffix(top.Path, "/") + "/"
	var out []davEntry
	for _, r := range list.Response {
		u, err := url.Parse(r.Href)
		if err != nil {
			continue
		}
		rest, ok := strings.CutPrefix(strings.TrimSuffix(path.Clean("/"+u.Path), "/")+"/", base)
		rest = strings.TrimSuffix(rest, "/")
		switch {
		case !ok:
			return nil, elsewhereError{base, u.Path}
		case depth == "0" && rest != "":
			continue // in the directory, which some servers list, too
		case depth == "1" && (checkName(strings.TrimPrefix(rest, partialPrefix)) != nil || strings.Contains(rest, "/")):
			continue // the directory itself, or a name that a home does not have
		}
		e := davEntry{Info: Info{Name: rest}}
		for _, p := range r.Propstat {
			e.dir = e.dir || p.Prop.Type.Collection != nil
			if n, err := strconv.ParseUint(p.Prop.Length, 10, 62); err == nil {
				e.Size = int64(n)
			}
			if t, err := http.ParseTime(p.Prop.Modified); err == nil {
				e.Time = t
			}
		}
		out = append(out, e)
	}
	if depth == "0" && len(out) == 0 {
		return nil, elsewhereError{base, ""}
	}
	slices.SortFunc(out, func(a, b davEntry) int { return cmp.Compare(a.Name, b.Name) })
	return out, nil
}

// elsewhereError is the error for a list of another path than was asked for: what it has is not
// in this home. A proxy that changes paths has such answers.
type elsewhereError struct{ asked, listed string }

func (e elsewhereError) Error() string {
	return fmt.Sprintf("the server was asked for %s, and lists %q", printable.Clean(e.asked), e.listed[:min(len(e.listed), 200)])
}

// Dirs implements Home.
func (h *davHome) Dirs(ctx context.Context) ([]string, error) {
	entries, err := h.find(ctx, "", "1")
	if err != nil {
		return nil, h.fail("list", "", err)
	}
	var out []string
	for _, e := range entries {
		if e.dir && !hasPartial(e.Name) {
			out = append(out, e.Name)
		}
	}
	return out, nil
}

// Files implements Home.
func (h *davHome) Files(ctx context.Context, dir string) ([]Info, error) {
	if err := checkDir(dir); err != nil {
		return nil, err
	}
	var out []Info
	err := h.walk(ctx, dir, "", &out)
	if err != nil {
		return nil, h.fail("list", dir, err)
	}
	slices.SortFunc(out, func(a, b Info) int { return cmp.Compare(a.Name, b.Name) })
	return out, nil
}

func (h *davHome) walk(ctx context.Context, dir, below string, out *[]Info) error {
	if strings.Count(below, "/") > maxDepth {
		return fmt.Errorf("more than %d directories in one another", maxDepth)
	}
	entries, err := h.find(ctx, path.Join(dir, below), "1")
	if err != nil {
		return err
	}
	for _, e := range entries {
		if hasPartial(e.Name) {
			continue
		}
		if e.Name = path.Join(below, e.Name); e.dir {
			if err := h.walk(ctx, dir, e.Name, out); err != nil {
				return err
			}
			continue
		}
		if *out = append(*out, e.Info); len(*out) > maxListed {
			return fmt.Errorf("it has more than %d files", maxListed)
		}
	}
	return nil
}

// Remove implements Home.
func (h *davHome) Remove(ctx context.Context, name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	entries, err := h.find(ctx, name, "0")
	switch {
	case missingFile(err):
		return nil
	case err != nil:
		return h.fail("remove", name, err)
	}
	if dir := slices.ContainsFunc(entries, func(e davEntry) bool { return e.dir }); !dir {
		return h.remove(ctx, name)
	}
	files, err := h.Files(ctx, name)
	if err != nil {
		return err
	}
	h.mu.Lock()
	h.made = map[string]bool{}
	h.mu.Unlock()
	return removal{
		file: func(f string) error { return h.remove(ctx, path.Join(name, f)) },
		rest: func(keep string) error { return h.removeRest(ctx, name, keep) },
		all:  func() error { return h.remove(ctx, name+"/") },
	}.run(fileNames(files))
}

// remove removes a file, or with a slash at the end a directory.
func (h *davHome) remove(ctx context.Context, name string) error {
	_, err := h.do(ctx, davRequest{method: http.MethodDelete, name: name, ok: []int{http.StatusOK, http.StatusNoContent}})
	if err != nil && !missingFile(err) {
		return h.fail("remove", name, err)
	}
	return nil
}

// removeRest removes all in a directory but one file.
func (h *davHome) removeRest(ctx context.Context, dir, keep string) error {
	entries, err := h.find(ctx, dir, "1")
	if err != nil && !missingFile(err) {
		return h.fail("remove", dir, err)
	}
	for _, e := range entries {
		name := path.Join(dir, e.Name)
		if e.dir {
			name += "/"
		}
		if e.Name == keep {
			continue
		}
		if err := h.remove(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// At implements Home.
func (h *davHome) At(ctx context.Context, dir string) Store {
	if err := checkDir(dir); err != nil {
		return noStore{h.at.text, err}
	}
	w := *h.web
	w.ctx, w.redacted = ctx, strings.TrimSuffix(Join(h.at.text, dir), "/")
	if dir == "" {
		w.redacted = h.at.text
	}
	w.base = w.base.JoinPath(escaped(dir))
	return davStore{&w}
}

// davStore is a directory of the home.
type davStore struct{ *web }

// Open implements Store.
func (s davStore) Open(name string) (File, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	f, err := s.stat(name)
	if err != nil {
		return nil, err
	}
	return readAhead(f, smallBlock), nil
}

// Size implements Store.
func (s davStore) Size(name string) (int64, error) {
	if err := checkName(name); err != nil {
		return 0, err
	}
	return s.web.Size(name)
}
