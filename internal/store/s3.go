package store

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/minio/minio-go/v7/pkg/s3utils"
	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/printable"
	"github.com/mkcdrec/mkcdrec/internal/regular"
)

const (
	// maxListed is how many objects are listed.
	maxListed = 1 << 21
	// maxSkew is how far clocks may differ: servers refuse more than 15 minutes.
	maxSkew = 10 * time.Minute
	// s3Wait is how long a server may need to put the parts of an object together.
	s3Wait = time.Hour
)

// s3Home is a home in a bucket.
type s3Home struct {
	at     address
	bucket string
	prefix string // of objects' names: "" or with a slash at the end
	core   *minio.Core
	limits limits
	skew   atomic.Int64 // of this machine's clock to the server's, in nanoseconds
	idle   func()
}

func newS3(ctx context.Context, at address, l login, access Access) (Home, error) {
	h := &s3Home{at: at, limits: access.patience()}
	h.bucket, h.prefix = at.bucket()
	cred, err := s3Login(ctx, at, l, access)
	if err != nil {
		return nil, fmt.Errorf("cannot use %s: %w", at.text, err)
	}
	transport, err := httpTransport(l)
	if err != nil {
		return nil, fmt.Errorf("cannot use %s: %w", at.text, err)
	}
	transport.ResponseHeaderTimeout = s3Wait
	h.idle = transport.CloseIdleConnections
	endpoint := at.hostport()
	endpointURL := &url.URL{Scheme: "https", Host: endpoint}
	region := cmp.Or(l.Region, os.Getenv("AWS_REGION"), "us-east-1")
	if !s3utils.IsAmazonEndpoint(*endpointURL) {
		region = cmp.Or(l.Region, "us-east-1") // without one the server is asked, which needs a permission
	} else if r := s3utils.GetRegionFromURL(*endpointURL); r != "" {
		region = r
	}
	h.core, err = minio.NewCore(endpoint, &minio.Options{Creds: cred, Secure: at.kind == KindS3, Transport: clocked{paced{transport, h.limits}, &h.skew}, Region: region, MaxRetries: 1})
	if err != nil {
		return nil, fmt.Errorf("cannot use %s: %s", at.text, printable.Clean(err.Error()))
	}
	// An object that does not exist: the answer shows whether the bucket does, and whether
	// the credentials are right, without the permission to list.
	_, err = h.stat(ctx, ".mkcdrec-probe")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("cannot use %s: %w", at.text, err)
	}
	return h, nil
}

// s3Login gives the keys: of the file, of the environment, or of a person; else the requests
// are anonymous.
func s3Login(ctx context.Context, at address, l login, access Access) (*credentials.Credentials, error) {
	key, secret, token := l.AccessKey, string(l.SecretKey), string(l.SessionToken)
	if key == "" && !l.found {
		key, secret, token = os.Getenv("AWS_ACCESS_KEY_ID"), os.Getenv("AWS_SECRET_ACCESS_KEY"), os.Getenv("AWS_SESSION_TOKEN")
	}
	if key == "" && !l.found && access.Ask != nil {
		var err error
		if key, err = access.Ask(ctx, "Access key for "+at.text+" (empty for none): ", false); err != nil {
			return nil, err
		}
		if key != "" {
			if secret, err = access.Ask(ctx, "Secret key of "+printable.Clean(key)+": ", true); err != nil {
				return nil, err
			}
		}
	}
	if key == "" {
		return credentials.NewStatic("", "", "", credentials.SignatureAnonymous), nil
	}
	return credentials.NewStaticV4(key, secret, token), nil
}

// httpTransport is what connections of HTTP are made with. They are kept: an archive is read in
// pieces of some MiB. A peer that no longer answers is found out by TCP, so that a server may
// think for a long time.
func httpTransport(l login) (*http.Transport, error) {
	t := &http.Transport{
		Proxy: http.ProxyFromEnvironment,
		DialContext: (&net.Dialer{
			Timeout:         10 * time.Second,
			KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 10 * time.Second, Count: 5},
			Control: func(_, _ string, c syscall.RawConn) error {
				return c.Control(func(fd uintptr) {
					_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 60_000) // old kernels lack it
				})
			},
		}).DialContext,
		MaxIdleConnsPerHost:    8,
		IdleConnTimeout:        time.Minute,
		TLSHandshakeTimeout:    10 * time.Second,
		ExpectContinueTimeout:  time.Second,
		DisableCompression:     true,
		MaxResponseHeaderBytes: 64 << 10,
	}
	if l.CA != "" {
		pem, err := regular.ReadFile(l.CA, maxKey)
		if err != nil {
			return nil, fmt.Errorf("cannot read the certificates: %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("cannot read the certificates: %s has none in PEM", l.CA)
		}
		t.TLSClientConfig = &tls.Config{RootCAs: pool}
	}
	return t, nil
}

// clocked notes how far the clock of this machine is from the server's.
type clocked struct {
	http.RoundTripper
	skew *atomic.Int64
}

func (c clocked) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := c.RoundTripper.RoundTrip(r)
	if err == nil {
		if at, e := http.ParseTime(resp.Header.Get("Date")); e == nil {
			c.skew.Store(int64(time.Since(at)))
		}
	}
	return resp, err
}

func (h *s3Home) String() string { return h.at.text }

// Close implements Home.
func (h *s3Home) Close() error {
	h.idle()
	return nil
}

// full is the name of the object of a file.
func (h *s3Home) full(name string) string { return h.prefix + name }

// cause words an error, and makes one permanent that another attempt does not change.
func (h *s3Home) cause(err error) error {
	var e minio.ErrorResponse
	if err == nil || errors.As(err, new(permanent)) {
		return err
	}
	if errors.Is(err, errSilent) {
		return errSilent
	}
	if !errors.As(err, &e) {
		if bad := untrusted(err); bad != nil {
			return bad
		}
		return noHost(err)
	}
	text := fmt.Errorf("the server answers %s: %s", printable.Clean(e.Code), printable.Clean(e.Message[:min(len(e.Message), 300)]))
	skew := time.Duration(h.skew.Load())
	switch {
	case e.Code == "NoSuchKey" || e.Code == "NotFound":
		return permanent{os.ErrNotExist}
	case e.Code == "RequestTimeTooSkewed", e.StatusCode == http.StatusForbidden && skew.Abs() > maxSkew:
		where := "ahead of"
		if skew < 0 {
			where = "behind"
		}
		return permanent{fmt.Errorf("%w; the clock of this machine is %v %s the server's: set it", text, skew.Abs().Round(time.Second), where)}
	case e.Code == "AuthorizationHeaderMalformed" || e.Code == "PermanentRedirect":
		return permanent{fmt.Errorf("%w; set region: in the file of credentials", text)}
	case e.StatusCode == http.StatusInsufficientStorage:
		return permanent{text}
	case e.StatusCode >= 500 && e.StatusCode != http.StatusNotImplemented, e.StatusCode == http.StatusRequestTimeout, e.StatusCode == http.StatusTooManyRequests,
		e.Code == "SlowDown", e.Code == "RequestTimeout", e.Code == "BadDigest", e.StatusCode == 0:
		return text
	}
	return permanent{coded{text, e.Code}}
}

// coded is an error with the code that the server gave.
type coded struct {
	error
	code string
}

func (c coded) Unwrap() error { return c.error }

// Is has a refusal be an fs.ErrPermission.
func (c coded) Is(target error) bool {
	return target == fs.ErrPermission && (c.code == "AccessDenied" || c.code == "AllAccessDisabled")
}

// denied reports whether the server refuses what was asked, to someone that it knows.
func denied(err error) bool {
	var c coded
	return errors.As(err, &c) && (c.code == "AccessDenied" || c.code == "AllAccessDisabled")
}

// timed runs one request that has to be answered within the header's time.
func (h *s3Home) timed(ctx context.Context, fn func(ctx context.Context) error) error {
	ctx, stop := context.WithTimeoutCause(ctx, h.limits.header, errSilent)
	defer stop()
	err := fn(ctx)
	if err != nil && errors.Is(context.Cause(ctx), errSilent) {
		err = errSilent
	}
	return h.cause(err)
}

// stat gives an object's size, time and ETag. An answer to HEAD has no reason for a refusal:
// it is asked for by GET.
func (h *s3Home) stat(ctx context.Context, name string) (info minio.ObjectInfo, err error) {
	err = h.limits.again(ctx, func() (bool, error) {
		return false, h.timed(ctx, func(ctx context.Context) (err error) {
			info, err = h.core.StatObject(ctx, h.bucket, h.full(name), minio.StatObjectOptions{})
			if e := minio.ToErrorResponse(err); err == nil || e.StatusCode != http.StatusForbidden && e.StatusCode != http.StatusNotFound && e.StatusCode != http.StatusBadRequest {
				return err
			}
			body, _, _, err := h.core.GetObject(ctx, h.bucket, h.full(name), minio.GetObjectOptions{})
			if err == nil { // it appeared between the requests
				body.Close()
				return errors.New("the server gives contradicting answers")
			}
			return err
		})
	})
	if !denied(err) {
		return info, err
	}
	// Without the permission to list, a server does not tell what exists. With it, an object
	// that is refused exists, or is in no list.
	exists, e := h.listed(ctx, name)
	switch {
	case denied(e):
		err = fmt.Errorf("it does not exist, or this key may not read it (%v): %w", err, os.ErrNotExist)
	case e != nil:
		err = fmt.Errorf("%w; whether it exists is not known: %w", err, e)
	case !exists:
		err = os.ErrNotExist
	}
	return info, err
}

// listed reports whether the list of the bucket has an object.
func (h *s3Home) listed(ctx context.Context, name string) (found bool, err error) {
	err = h.limits.again(ctx, func() (bool, error) {
		return false, h.timed(ctx, func(ctx context.Context) error {
			ctx, stop := context.WithCancel(ctx)
			defer stop()
			found = false
			for o := range h.core.Client.ListObjects(ctx, h.bucket, minio.ListObjectsOptions{Prefix: h.full(name), Recursive: true, MaxKeys: 1}) {
				found = o.Err == nil && o.Key == h.full(name) // the first one, if it exists
				return o.Err
			}
			return ctx.Err()
		})
	})
	return found, err
}

func (h *s3Home) fail(verb, name string, err error) error {
	return fmt.Errorf("cannot %s %s: %w", verb, strings.TrimSuffix(h.at.text+"/"+name, "/"), err)
}

// list gives the objects whose names begin with a prefix, with names behind it; or the first
// parts of the names.
func (h *s3Home) list(ctx context.Context, prefix string, firstParts bool) (out []Info, err error) {
	err = h.limits.again(ctx, func() (bool, error) {
		ctx, stop := context.WithCancel(ctx)
		defer stop()
		out = nil
		for o := range h.core.Client.ListObjects(ctx, h.bucket, minio.ListObjectsOptions{Prefix: prefix, Recursive: !firstParts}) {
			if o.Err != nil {
				return false, h.cause(o.Err)
			}
			name, ok := strings.CutPrefix(o.Key, prefix)
			if firstParts {
				if name, ok = strings.CutSuffix(name, "/"); !ok {
					continue
				}
			}
			if !ok || checkName(name) != nil {
				continue
			}
			if len(out) == maxListed {
				return false, permanent{fmt.Errorf("it has more than %d objects", maxListed)}
			}
			out = append(out, Info{name, o.Size, o.LastModified})
		}
		return false, ctx.Err()
	})
	slices.SortFunc(out, func(a, b Info) int { return cmp.Compare(a.Name, b.Name) })
	return out, err
}

// Dirs implements Home.
func (h *s3Home) Dirs(ctx context.Context) ([]string, error) {
	list, err := h.list(ctx, h.prefix, true)
	if err != nil {
		return nil, h.fail("list", "", err)
	}
	var out []string
	for _, i := range list {
		out = append(out, i.Name)
	}
	return out, nil
}

// Files implements Home.
func (h *s3Home) Files(ctx context.Context, dir string) ([]Info, error) {
	if err := checkDir(dir); err != nil {
		return nil, err
	}
	prefix := h.prefix
	if dir != "" {
		prefix = h.full(dir) + "/"
	}
	out, err := h.list(ctx, prefix, false)
	if err != nil {
		return nil, h.fail("list", dir, err)
	}
	return out, nil
}

// Remove implements Home. Who may not list can remove single files.
func (h *s3Home) Remove(ctx context.Context, name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	files, err := h.list(ctx, h.full(name)+"/", false)
	if err != nil && !denied(err) {
		return h.fail("remove", name, err)
	}
	unlisted := err
	if len(files) == 0 { // a file
		_, err := h.stat(ctx, name)
		switch gone := errors.Is(err, os.ErrNotExist); {
		case gone && unlisted != nil:
			return h.fail("remove", name, fmt.Errorf("no such file, and this key may not list directories (%w)", unlisted))
		case gone: // a bucket with versions would keep a mark of it
			return nil
		}
		return h.remove(ctx, name)
	}
	for _, n := range removalOrder(fileNames(files)) { // a bucket has no directories
		if err := h.remove(ctx, path.Join(name, n)); err != nil {
			return err
		}
	}
	return nil
}

// remove removes an object.
func (h *s3Home) remove(ctx context.Context, name string) error {
	err := h.limits.again(ctx, func() (bool, error) {
		return false, h.timed(ctx, func(ctx context.Context) error {
			return h.core.RemoveObject(ctx, h.bucket, h.full(name), minio.RemoveObjectOptions{})
		})
	})
	if c := (coded{}); errors.As(err, &c) {
		err = fmt.Errorf("%w; the key may not remove it, or an object lock of the bucket keeps it", err)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return h.fail("remove", name, err)
	}
	return nil
}

// At implements Home.
func (h *s3Home) At(ctx context.Context, dir string) Store {
	if err := checkDir(dir); err != nil {
		return noStore{h.at.text, err}
	}
	return &s3Store{h, ctx, dir}
}

// s3Store is a directory of the home.
type s3Store struct {
	home *s3Home
	ctx  context.Context
	dir  string
}

func (s *s3Store) String() string { return strings.TrimSuffix(Join(s.home.at.text, s.dir), "/") }

func (s *s3Store) stat(name string) (*s3File, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	name = path.Join(s.dir, name)
	info, err := s.home.stat(s.ctx, name)
	if err != nil {
		return nil, s.home.fail("open", name, err)
	}
	if info.Size < 0 || info.Size > math.MaxInt64/2 {
		return nil, s.home.fail("open", name, fmt.Errorf("the server gives the size %d", info.Size))
	}
	return &s3File{s.home, s.ctx, name, info.Size, info.ETag}, nil
}

// Size implements Store.
func (s *s3Store) Size(name string) (int64, error) {
	f, err := s.stat(name)
	if err != nil {
		return 0, err
	}
	return f.size, nil
}

// Open implements Store.
func (s *s3Store) Open(name string) (File, error) {
	f, err := s.stat(name)
	if err != nil {
		return nil, err
	}
	return readAhead(f, smallBlock), nil
}

// s3File is an object as it was when it was opened.
type s3File struct {
	home *s3Home
	ctx  context.Context
	name string
	size int64
	etag string
}

func (f *s3File) Size() int64  { return f.size }
func (f *s3File) Close() error { return nil }

// ReadAt asks for what is missing again after each failure.
func (f *s3File) ReadAt(p []byte, off int64) (int, error) {
	return readWhole(p, off, f.size, func(want []byte) (int, error) {
		got := 0
		err := f.home.limits.again(f.ctx, func() (bool, error) {
			n, err := f.read(want[got:], off+int64(got))
			got += n
			if got == len(want) {
				err = nil
			}
			return n > 0, err
		})
		if err != nil {
			err = f.home.fail("read", f.name, err)
		}
		return got, err
	})
}

// read asks once.
func (f *s3File) read(p []byte, off int64) (int, error) {
	var o minio.GetObjectOptions
	if err := o.SetRange(off, off+int64(len(p))-1); err != nil {
		return 0, permanent{err}
	}
	if f.etag != "" {
		if err := o.SetMatchETag(f.etag); err != nil {
			return 0, permanent{err}
		}
	}
	body, info, header, err := f.home.core.GetObject(f.ctx, f.home.bucket, f.home.full(f.name), o)
	if e := minio.ToErrorResponse(err); err != nil && (e.StatusCode == http.StatusPreconditionFailed || e.StatusCode == http.StatusRequestedRangeNotSatisfiable) {
		return 0, permanent{errors.New("the file was changed while it was read")}
	}
	if err != nil {
		return 0, f.home.cause(err)
	}
	defer body.Close()
	if info.ETag != f.etag {
		return 0, permanent{errors.New("the file was changed while it was read")}
	}
	if err := f.right(header.Get("Content-Range"), off, int64(len(p))); err != nil {
		return 0, permanent{err}
	}
	n, err := io.ReadFull(body, p)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// right checks that an answer has the bytes that were asked for. All of a file may come as
// what it is, without a range.
func (f *s3File) right(ranges string, off, asked int64) error {
	if ranges == "" && off == 0 && asked == f.size {
		return nil
	}
	first, last, total, err := contentRange(ranges)
	if err == nil && (first != off || last != off+asked-1 || total != f.size) {
		err = fmt.Errorf("the server sent bytes %d to %d of %d, not those from %d on", first, last, total, off)
	}
	return err
}
