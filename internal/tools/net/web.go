package nettools

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"
	"golang.org/x/time/rate"

	"github.com/mkcdrec/mkcdrec/internal/tools"
	"github.com/mkcdrec/mkcdrec/internal/ui"
)

// web sends requests for curl and wget.
type web struct {
	insecure      bool
	ca, cert, key string // files; "" for the system's, for none
	connect       time.Duration
	family        string            // "4", "6" or ""
	resolve       map[string]string // "HOST:PORT" -> address
	proxy         string            // "" by the environment, "none"
	trace         io.Writer         // curl -v; nil for none
	heads         *heads            // of the last response
}

// heads are the bytes of a connection up to the end of the headers in each direction.
type heads struct {
	net.Conn
	mu              sync.Mutex
	out, in         []byte
	doneOut, doneIn bool
}

// maxHead is what is kept of headers, in bytes.
const maxHead = 1 << 20

func (h *heads) Read(p []byte) (int, error) {
	n, err := h.Conn.Read(p)
	h.mu.Lock()
	h.in, h.doneIn = keepHead(h.in, p[:n], h.doneIn)
	h.mu.Unlock()
	return n, err
}

func (h *heads) Write(p []byte) (int, error) {
	h.mu.Lock()
	h.out, h.doneOut = keepHead(h.out, p, h.doneOut)
	h.mu.Unlock()
	return h.Conn.Write(p)
}

// keepHead adds bytes up to the empty line behind the headers. Those of 1xx responses come
// before the others.
func keepHead(have, more []byte, done bool) ([]byte, bool) {
	if done || len(have) > maxHead {
		return have, true
	}
	have = append(have, more...)
	start := 0
	for {
		n := bytes.Index(have[start:], []byte("\r\n\r\n"))
		if n < 0 {
			return have, false
		}
		part := have[start : start+n]
		if start += n + 4; !bytes.HasPrefix(part, []byte("HTTP/1.1 1")) {
			return have[:start], true
		}
	}
}

// tlsError is an error of a TLS handshake.
type tlsError struct{ error }

func (e tlsError) Unwrap() error { return e.error }

// transport makes what sends one request, on a connection of its own: it is not used twice.
func (w *web) transport() (*http.Transport, error) {
	config := &tls.Config{InsecureSkipVerify: w.insecure}
	if w.ca != "" {
		b, err := os.ReadFile(w.ca)
		if err != nil {
			return nil, err
		}
		if config.RootCAs = x509.NewCertPool(); !config.RootCAs.AppendCertsFromPEM(b) {
			return nil, fmt.Errorf("no certificate in %s", w.ca)
		}
	}
	if w.cert != "" {
		c, err := tls.LoadX509KeyPair(w.cert, cmp.Or(w.key, w.cert))
		if err != nil {
			return nil, err
		}
		config.Certificates = []tls.Certificate{c}
	}
	d := &net.Dialer{Timeout: w.connect}
	dial := func(ctx context.Context, addr string) (net.Conn, error) {
		if to := w.resolve[addr]; to != "" {
			addr = to
		}
		return d.DialContext(ctx, "tcp"+w.family, addr)
	}
	t := &http.Transport{DisableCompression: true, TLSClientConfig: config, Proxy: http.ProxyFromEnvironment, TLSHandshakeTimeout: w.connect}
	t.DialContext = func(ctx context.Context, _, addr string) (net.Conn, error) {
		c, err := dial(ctx, addr)
		if err == nil {
			w.heads = &heads{Conn: c}
			c = w.heads
		}
		return c, err
	}
	t.DialTLSContext = func(ctx context.Context, _, addr string) (net.Conn, error) {
		c, err := dial(ctx, addr)
		if err != nil {
			return nil, err
		}
		own := config.Clone()
		own.ServerName, _, _ = net.SplitHostPort(addr)
		tc := tls.Client(c, own)
		limited, stop := ctx, context.CancelFunc(func() {})
		if w.connect > 0 {
			limited, stop = context.WithTimeout(ctx, w.connect)
		}
		defer stop()
		if err := tc.HandshakeContext(limited); err != nil {
			c.Close()
			return nil, tlsError{err}
		}
		w.heads = &heads{Conn: tc}
		return w.heads, nil
	}
	switch w.proxy {
	case "":
	case "none":
		t.Proxy = nil
	default:
		p := w.proxy
		if !strings.Contains(p, "://") {
			p = "http://" + p
		}
		u, err := url.Parse(p)
		if err != nil {
			return nil, err
		}
		t.Proxy = http.ProxyURL(u)
	}
	return t, nil
}

// send sends a request and returns the response with its headers as they were sent.
func (w *web) send(r *http.Request) (*http.Response, []byte, error) {
	if r.URL.Scheme == "file" {
		return openFile(r.URL)
	}
	t, err := w.transport()
	if err != nil {
		return nil, nil, err
	}
	w.heads = nil
	resp, err := t.RoundTrip(r)
	if w.trace != nil && w.heads != nil {
		w.heads.mu.Lock()
		arrows(w.trace, "> ", w.heads.out)
		arrows(w.trace, "< ", w.heads.in)
		w.heads.mu.Unlock()
	}
	if err != nil {
		return nil, nil, err
	}
	var head []byte
	if w.heads != nil {
		w.heads.mu.Lock()
		head = bytes.Clone(w.heads.in)
		w.heads.mu.Unlock()
	}
	if !bytes.HasPrefix(head, []byte("HTTP/")) || r.URL.Scheme == "https" && resp.TLS == nil && bytes.Contains(head, []byte("Connection established")) {
		var b bytes.Buffer // through a proxy, in no known order
		fmt.Fprintf(&b, "%s %s\r\n", resp.Proto, resp.Status)
		_ = resp.Header.Write(&b) // into memory
		head = append(b.Bytes(), "\r\n"...)
	}
	return resp, head, nil
}

func arrows(w io.Writer, arrow string, head []byte) {
	for l := range bytes.Lines(head) {
		fmt.Fprintf(w, "%s%s\n", arrow, bytes.TrimRight(l, "\r\n"))
	}
}

// openFile answers a file:// request as a server would.
func openFile(u *url.URL) (*http.Response, []byte, error) {
	f, err := os.Open(u.Path)
	if err != nil {
		return nil, nil, err
	}
	st, err := f.Stat()
	if err != nil || st.IsDir() {
		f.Close()
		return nil, nil, &os.PathError{Op: "open", Path: u.Path, Err: os.ErrNotExist}
	}
	return &http.Response{StatusCode: 200, Body: f, ContentLength: st.Size(), Header: http.Header{}}, nil, nil
}

// redirect gives where a response leads to, and whether it leads anywhere.
func redirect(resp *http.Response) (*url.URL, bool) {
	if resp.StatusCode/100 != 3 || resp.StatusCode == http.StatusNotModified || resp.Header.Get("Location") == "" {
		return nil, false
	}
	u, err := resp.Location()
	return u, err == nil
}

// sameOrigin reports two addresses of the same server: what only this server may know is not
// sent to others that it leads to.
func sameOrigin(a, b *url.URL) bool {
	port := func(u *url.URL) string {
		return cmp.Or(u.Port(), map[string]string{"http": "80", "https": "443"}[u.Scheme])
	}
	return a.Scheme == b.Scheme && strings.EqualFold(a.Hostname(), b.Hostname()) && port(a) == port(b)
}

// secret reports a header that only the server which it was meant for gets.
func secret(header string) bool {
	return slices.Contains([]string{"Authorization", "Cookie"}, http.CanonicalHeaderKey(strings.TrimSpace(header)))
}

// network sorts the errors of a transfer.
type network int

const (
	badURL network = iota
	badName
	refused // no connection
	timeout
	badTLS
	badCertificate
	empty    // the server ended before it answered
	cut      // in the middle of the body
	received // other errors while reading
)

func classify(err error) network {
	var name *net.DNSError
	var op *net.OpError
	var hand tlsError
	var ue *url.Error
	switch {
	case errors.As(err, &name):
		return badName
	case errors.As(err, new(*tls.CertificateVerificationError)):
		return badCertificate
	case os.IsTimeout(err) || errors.Is(err, context.DeadlineExceeded):
		return timeout
	case errors.As(err, &hand) || errors.As(err, new(tls.RecordHeaderError)):
		return badTLS
	case errors.As(err, &op) && (op.Op == "dial" || op.Op == "proxyconnect"):
		return refused
	case errors.Is(err, io.ErrUnexpectedEOF):
		return cut
	case errors.Is(err, io.EOF) || strings.Contains(err.Error(), "server closed idle connection"):
		return empty
	case errors.As(err, &ue) && ue.Op == "parse":
		return badURL
	}
	return received
}

// baseName is the name of a URL's file, "" without one.
func baseName(u *url.URL) string {
	p := u.EscapedPath()
	if p == "" || strings.HasSuffix(p, "/") {
		return ""
	}
	return path.Base(p)
}

// disposition is the name that a server gives a file, without directories.
func disposition(resp *http.Response) string {
	_, rest, ok := strings.Cut(resp.Header.Get("Content-Disposition"), "filename=")
	if !ok {
		return ""
	}
	name, _, _ := strings.Cut(strings.Trim(rest, `"`), `"`)
	if name = path.Base(strings.TrimSpace(name)); name == "." || name == "/" || name == ".." {
		return ""
	}
	return strings.TrimLeft(name, ".")
}

// pump copies a body, shows how far it is if show is set, and may be slowed down.
func pump(w io.Writer, r io.Reader, name string, size int64, show bool, limit *rate.Limiter) (int64, error) {
	m := &meter{r: r, add: func(int64) {}, limit: limit}
	if show && term.IsTerminal(2) {
		p := ui.New(ui.Normal)
		defer p.End()
		m.add = p.Phase(name, max(size, 0)).Add
	}
	n, err := io.Copy(struct{ io.Writer }{w}, struct{ io.Reader }{m})
	return n, err
}

// writeError is an error of the side that takes a body.
type writeError struct{ error }

func (e writeError) Unwrap() error { return e.error }

// out is where a body goes: its errors are writeErrors.
type out struct{ w io.Writer }

func (o out) Write(p []byte) (int, error) {
	n, err := o.w.Write(p)
	if err != nil {
		err = writeError{err}
	}
	return n, err
}

// byteRate reads a limit such as 200k, in bytes per second.
func byteRate(s string) (*rate.Limiter, error) {
	if s == "" {
		return nil, nil
	}
	n, err := tools.Size(strings.ToUpper(s))
	if err != nil || n <= 0 {
		return nil, tools.Usage("unsupported rate '%s'", s)
	}
	return rate.NewLimiter(rate.Limit(n), int(max(1024, min(n/4, 64<<10)))), nil
}

// certificates reports what is wrong with a server's certificate, in one line.
func certificates(err error) string {
	var v *tls.CertificateVerificationError
	if errors.As(err, &v) {
		err = v.Err
	}
	return strings.TrimPrefix(err.Error(), "x509: ")
}
