package store

import (
	"context"
	"crypto/x509"
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

	"github.com/mkcdrec/mkcdrec/internal/printable"
	"github.com/mkcdrec/mkcdrec/internal/sysconf"
)

// maxRedirects is how often a server may send us on.
const maxRedirects = 5

// web is a directory on a web server that knows ranges (RFC 9110, section 14).
type web struct {
	ctx      context.Context
	base     *url.URL // without user and password
	user     *url.Userinfo
	client   *http.Client
	limits   limits
	redacted string
}

func newWeb(ctx context.Context, place string) (*web, error) {
	u, err := url.Parse(place)
	if err != nil || u.Host == "" {
		return nil, fmt.Errorf("cannot use %q: it is not a URL", sysconf.RedactURL(place))
	}
	w := &web{ctx: ctx, user: u.User, limits: normal, redacted: sysconf.RedactURL(place)}
	u.User = nil
	w.base = u
	transport, err := httpTransport(login{})
	if err != nil {
		return nil, fmt.Errorf("cannot use %s: %w", w.redacted, err)
	}
	w.client = &http.Client{CheckRedirect: redirect, Transport: transport}
	return w, nil
}

// redirect decides whether we go where a server sends us: never from https to http,
// and to another host without the password.
func redirect(req *http.Request, via []*http.Request) error {
	last := via[len(via)-1].URL
	switch {
	case len(via) > maxRedirects:
		return permanent{fmt.Errorf("more than %d redirects", maxRedirects)}
	case last.Scheme == "https" && req.URL.Scheme != "https":
		return permanent{errors.New("the server redirects from https to " + printable.Clean(req.URL.Scheme) + ", which is refused")}
	case req.URL.Host != via[0].URL.Host:
		req.Header.Del("Authorization")
	}
	return nil
}

func (w *web) String() string { return w.redacted }

// name is what messages call a file.
func (w *web) name(name string) string { return strings.TrimSuffix(w.redacted, "/") + "/" + name }

// answer is a response whose body ends with an error when nothing comes for a while.
type answer struct {
	*http.Response
	cancel context.CancelFunc
	timer  *time.Timer
	stall  time.Duration
}

func (a *answer) Read(p []byte) (int, error) {
	a.timer.Reset(a.stall)
	return a.Body.Read(p)
}

func (a *answer) Close() error {
	a.timer.Stop()
	defer a.cancel()
	return a.Body.Close()
}

var errSilent = errors.New("the server does not answer")

// request makes a request for a file of the set, or for some bytes of it.
func (w *web) request(ctx context.Context, method, name, ranges string) (*http.Request, error) {
	if !filepath.IsLocal(name) {
		return nil, errors.New("it is not a name below the set")
	}
	req, err := http.NewRequestWithContext(ctx, method, w.base.JoinPath(escaped(name)).String(), nil)
	if err != nil {
		return nil, errors.New("the URL can't be used")
	}
	if w.user != nil {
		pass, _ := w.user.Password()
		req.SetBasicAuth(w.user.Username(), pass)
	}
	if ranges != "" {
		req.Header.Set("Range", ranges)
	}
	return req, nil
}

// do asks once. The caller closes the answer.
func (w *web) do(method, name, ranges string) (*answer, error) {
	ctx, cancel := context.WithCancelCause(w.ctx)
	timer := time.AfterFunc(w.limits.header, func() { cancel(errSilent) })
	fail := func(err error) (*answer, error) {
		timer.Stop()
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		cancel(nil)
		return nil, err
	}
	req, err := w.request(ctx, method, name, ranges)
	if err != nil {
		return fail(permanent{err})
	}
	resp, err := w.client.Do(req)
	if err != nil {
		return fail(withoutURL(err))
	}
	a := &answer{Response: resp, cancel: func() { cancel(nil) }, timer: timer, stall: w.limits.stall}
	timer.Reset(w.limits.stall)
	if c := resp.StatusCode; c == http.StatusOK || c == http.StatusPartialContent {
		return a, nil
	}
	a.Close()
	return nil, statusFault(resp)
}

// withoutURL takes the URL, which may have secrets, out of a client's error. A certificate
// that is not trusted is permanent.
func withoutURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	if bad := untrusted(err); bad != nil {
		return bad
	}
	return noHost(err)
}

// untrusted words the error for a certificate that is not trusted, which is permanent; nil for other errors.
// A machine whose clock is wrong finds certificates expired, or not valid yet.
func untrusted(err error) error {
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return permanent{fmt.Errorf("%w; if the clock of this machine is wrong, set it", err)}
	case errors.As(err, &invalid), errors.As(err, new(x509.UnknownAuthorityError)), errors.As(err, new(x509.HostnameError)):
		return permanent{err}
	}
	return nil
}

// statusFault is the error of an answer that is one. It is permanent unless asking again may help.
func statusFault(resp *http.Response) error {
	c := resp.StatusCode
	err := errors.New("the server answers " + printable.Clean(resp.Status))
	switch {
	case c == http.StatusNotFound || c == http.StatusGone:
		err = permanent{os.ErrNotExist}
	case c < 500 && c != http.StatusRequestTimeout && c != http.StatusTooManyRequests && c != http.StatusLocked, c == http.StatusInsufficientStorage, c == http.StatusNotImplemented:
		err = permanent{err}
	}
	return status{err, c}
}

// status is an answer that is an error.
type status struct {
	error
	code int
}

func (s status) Unwrap() error { return s.error }

// again is limits.again for the web's context.
func (w *web) again(fn func() (progress bool, err error)) error { return w.limits.again(w.ctx, fn) }

// webFile is a file as it was when it was opened.
type webFile struct {
	w    *web
	name string
	size int64
	mark mark
}

// mark is what differs between versions of a file; RFC 9110, section 8.8. Each part is "" where the server has none.
type mark struct {
	etag     string // a strong one
	modified string
}

func markOf(h http.Header) mark {
	m := mark{h.Get("ETag"), h.Get("Last-Modified")}
	if strings.HasPrefix(m.etag, "W/") {
		m.etag = ""
	}
	return m
}

// changed reports whether two marks are of different versions. Apache has a weak ETag in the second after a change,
// and a strong one from then on.
func (m mark) changed(now mark) bool {
	if m.etag != "" && now.etag != "" {
		return m.etag != now.etag
	}
	return m.modified != "" && now.modified != "" && m.modified != now.modified
}

// stat asks for a file's size and version.
func (w *web) stat(name string) (*webFile, error) {
	f := &webFile{w: w, name: name}
	err := w.again(func() (bool, error) {
		a, err := w.do(http.MethodHead, name, "")
		if s := (status{}); errors.As(err, &s) && (s.code == http.StatusMethodNotAllowed || s.code == http.StatusNotImplemented) {
			return false, f.statByRange()
		}
		if err != nil {
			return false, err
		}
		defer a.Close()
		if f.size, f.mark = a.ContentLength, markOf(a.Header); f.size < 0 { // Apache: an empty file
			return false, f.statByRange()
		}
		return false, nil
	})
	if err != nil {
		return nil, fmt.Errorf("cannot open %s: %w", w.name(name), err)
	}
	return f, nil
}

// statByRange is for servers without HEAD, or whose answer to it has no size.
func (f *webFile) statByRange() error {
	a, err := f.w.do(http.MethodGet, f.name, "bytes=0-0")
	if hasStatus(err, http.StatusRequestedRangeNotSatisfiable) { // it has no byte
		f.size = 0
		return nil
	}
	if err != nil {
		return err
	}
	defer a.Close()
	if a.StatusCode == http.StatusOK && a.ContentLength == 0 {
		f.size, f.mark = 0, markOf(a.Header)
		return nil
	}
	_, _, total, err := contentRange(a.Header.Get("Content-Range"))
	if err != nil || total < 0 {
		return permanent{errors.New("the server does not tell its size")}
	}
	f.size, f.mark = total, markOf(a.Header)
	return nil
}

// contentRange reads "bytes FIRST-LAST/TOTAL"; total is -1 for "*".
func contentRange(s string) (first, last, total int64, err error) {
	bad := fmt.Errorf("the server sent a part that it describes by %q", s[:min(len(s), 100)])
	rest, ok := strings.CutPrefix(s, "bytes ")
	span, all, ok2 := strings.Cut(rest, "/")
	from, to, ok3 := strings.Cut(span, "-")
	if !ok || !ok2 || !ok3 {
		return 0, 0, 0, bad
	}
	number := func(s string) int64 {
		n, err := strconv.ParseUint(s, 10, 63)
		if err != nil {
			return -1
		}
		return int64(n)
	}
	first, last, total = number(from), number(to), number(all)
	if first < 0 || last < first || total < 0 && all != "*" || total >= 0 && last >= total {
		return 0, 0, 0, bad
	}
	return first, last, total, nil
}

// Size implements Store.
func (w *web) Size(name string) (int64, error) {
	f, err := w.stat(name)
	if err != nil {
		return 0, err
	}
	return f.size, nil
}

// Open implements Store.
func (w *web) Open(name string) (File, error) { return w.stat(name) }

func (f *webFile) Size() int64  { return f.size }
func (f *webFile) Close() error { return nil }

// ReadAt asks for exactly the range, for what is missing of it again after failures
// of the network.
func (f *webFile) ReadAt(p []byte, off int64) (int, error) {
	return readWhole(p, off, f.size, func(want []byte) (int, error) {
		got := 0
		err := f.w.again(func() (bool, error) {
			n, err := f.read(want[got:], off+int64(got))
			got += n
			if got == len(want) {
				err = nil
			}
			return n > 0, err
		})
		if err != nil {
			err = fmt.Errorf("cannot read %s at byte %d: %w", f.w.name(f.name), off+int64(got), err)
		}
		return got, err
	})
}

// sent is how many bytes an answer has, which have to begin at off and be no more than were asked for.
func (f *webFile) sent(a *answer, off, asked int64) (int64, error) {
	first, last, total, err := contentRange(a.Header.Get("Content-Range"))
	switch {
	case err != nil:
		return 0, err
	case first != off || last >= off+asked:
		return 0, fmt.Errorf("the server sent bytes %d to %d, not those from %d on", first, last, off)
	case total >= 0 && total != f.size:
		return 0, fmt.Errorf("the file has %d bytes now, and had %d when it was opened", total, f.size)
	}
	return last - first + 1, nil
}

// read asks once. An answer with fewer bytes than were asked for is an error.
func (f *webFile) read(p []byte, off int64) (int, error) {
	a, err := f.w.do(http.MethodGet, f.name, fmt.Sprintf("bytes=%d-%d", off, off+int64(len(p))-1))
	if s := (status{}); errors.As(err, &s) && s.code == http.StatusRequestedRangeNotSatisfiable {
		return 0, permanent{errors.New("the file is shorter than when it was opened")}
	}
	if err != nil {
		return 0, err
	}
	defer a.Close()
	if f.mark.changed(markOf(a.Header)) {
		return 0, permanent{errors.New("the file was changed while it was read")}
	}
	if a.StatusCode == http.StatusOK {
		return 0, permanent{errors.New("the server gives no parts of files (no range requests), which a restore needs")}
	}
	sent, err := f.sent(a, off, int64(len(p)))
	if err != nil {
		return 0, permanent{err}
	}
	n, err := io.ReadFull(a, p[:sent])
	if err != nil && f.w.ctx.Err() == nil {
		err = errors.New("the connection ended early, or nothing came any more")
	} else if n < len(p) && err == nil {
		err = io.ErrUnexpectedEOF // a shorter part is right, and not all
	}
	return n, err
}
