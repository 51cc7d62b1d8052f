package store

import (
	"bytes"
	"cmp"
	"context"
	"crypto/md5"
	"encoding/base64"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"golang.org/x/sys/unix"
)

const (
	s3Key    = "AKTESTKEY"
	s3Secret = "TOPSECRETs3key/+="
)

// fakeS3 is a server of S3 with one bucket in memory. It knows what homes use, and no more.
type fakeS3 struct {
	t    *testing.T
	addr string
	// refuse gives the code with which a request is refused, "" for none.
	refuse func(method, key string) string
	date   time.Time // that it gives; zero: now
	// late is how long it takes to store a part, which it then keeps whatever has happened to the upload.
	late time.Duration

	mu      sync.Mutex
	objects map[string]fakeObject
	uploads map[string]map[int][]byte // of "ID KEY"
	log     []string
}

type fakeObject struct {
	b    []byte
	etag string
}

func newFakeS3(t *testing.T) *fakeS3 {
	f := &fakeS3{t: t, objects: map[string]fakeObject{}, uploads: map[string]map[int][]byte{}, refuse: func(string, string) string { return "" }}
	s := httptest.NewServer(f)
	t.Cleanup(s.Close)
	f.addr = strings.TrimPrefix(s.URL, "http://")
	return f
}

// site is a home below a prefix of the bucket.
func (f *fakeS3) site(addr string) *site { return s3Site(addr, "bucket/p/q") }

func s3Site(addr, path string) *site {
	at, err := parse("s3+http://" + addr + "/bucket")
	if err != nil {
		panic(err)
	}
	at.path = "/"
	return &site{url: "s3+http://" + addr + "/" + path, hidden: []string{s3Secret}, access: Access{Credentials: Credentials{{AccessKey: s3Key, SecretKey: s3Secret, at: at}}}}
}

func (f *fakeS3) fail(w http.ResponseWriter, code string) {
	status := map[string]int{"NoSuchKey": 404, "NoSuchUpload": 404, "NoSuchBucket": 404, "InternalError": 500, "SlowDown": 503, "PreconditionFailed": 412, "InvalidRange": 416, "BadDigest": 400, "InvalidPart": 400, "NotImplemented": 501}[code]
	w.WriteHeader(cmp.Or(status, 403))
	fmt.Fprintf(w, "<Error><Code>%s</Code><Message>no \u009b31m%s</Message></Error>", code, code)
}

func (f *fakeS3) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	bucket, key, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	f.log = append(f.log, r.Method+" "+key)
	if !f.date.IsZero() {
		w.Header().Set("Date", f.date.UTC().Format(http.TimeFormat))
	}
	w.Header().Set("Content-Type", "application/xml")
	q := r.URL.Query()
	sum := md5.Sum(b)
	switch code := f.refuse(r.Method, key); {
	case code != "":
		f.fail(w, code)
	case !strings.Contains(r.Header.Get("Authorization"), "Credential="+s3Key+"/"):
		f.fail(w, "InvalidAccessKeyId")
	case bucket != "bucket":
		f.fail(w, "NoSuchBucket")
	case len(b) > 0 && r.Method == http.MethodPut && r.Header.Get("Content-MD5") != base64.StdEncoding.EncodeToString(sum[:]):
		f.fail(w, "BadDigest")
	case key == "" && r.Method == http.MethodGet:
		f.list(w, q)
	case q.Has("uploads") || q.Get("uploadId") != "":
		f.multipart(w, r, key, b)
	case r.Method == http.MethodPut:
		f.objects[key] = fakeObject{b, fmt.Sprintf(`"%x"`, sum)}
		w.Header().Set("ETag", f.objects[key].etag)
	case r.Method == http.MethodDelete:
		delete(f.objects, key)
		w.WriteHeader(http.StatusNoContent)
	default:
		o, ok := f.objects[key]
		if !ok {
			f.fail(w, "NoSuchKey")
			return
		}
		w.Header().Set("ETag", o.etag)
		http.ServeContent(w, r, "", time.Now(), bytes.NewReader(o.b))
	}
}

func (f *fakeS3) list(w http.ResponseWriter, q url.Values) {
	type object struct {
		Key          string
		Size         int
		LastModified time.Time
	}
	type prefix struct{ Prefix string }
	var out struct {
		XMLName               xml.Name `xml:"ListBucketResult"`
		EncodingType          string
		IsTruncated           bool
		NextContinuationToken string
		Contents              []object
		CommonPrefixes        []prefix
	}
	out.EncodingType = "url"
	keys := []string{}
	for k := range f.objects {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		rest, ok := strings.CutPrefix(k, q.Get("prefix"))
		if !ok || k <= q.Get("continuation-token") {
			continue
		}
		if len(out.Contents)+len(out.CommonPrefixes) == 3 { // pages are small, so that there are several
			out.IsTruncated = true
			break
		}
		out.NextContinuationToken = k
		if first, _, ok := strings.Cut(rest, "/"); ok && q.Get("delimiter") == "/" {
			p := prefix{q.Get("prefix") + first + "/"}
			if !slices.Contains(out.CommonPrefixes, p) {
				out.CommonPrefixes = append(out.CommonPrefixes, p)
			}
			continue
		}
		out.Contents = append(out.Contents, object{k, len(f.objects[k].b), time.Now()})
	}
	for i := range out.Contents {
		out.Contents[i].Key = url.QueryEscape(out.Contents[i].Key)
	}
	for i := range out.CommonPrefixes {
		out.CommonPrefixes[i].Prefix = url.QueryEscape(out.CommonPrefixes[i].Prefix)
	}
	if err := xml.NewEncoder(w).Encode(out); err != nil {
		f.t.Error(err)
	}
}

func (f *fakeS3) multipart(w http.ResponseWriter, r *http.Request, key string, b []byte) {
	q := r.URL.Query()
	id := q.Get("uploadId") + " " + key
	switch parts := f.uploads[id]; {
	case q.Has("uploads"):
		n := strconv.Itoa(len(f.log))
		f.uploads[n+" "+key] = map[int][]byte{}
		fmt.Fprintf(w, "<InitiateMultipartUploadResult><UploadId>%s</UploadId></InitiateMultipartUploadResult>", n)
	case parts == nil:
		f.fail(w, "NoSuchUpload")
	case r.Method == http.MethodPut:
		n, _ := strconv.Atoi(q.Get("partNumber"))
		if f.late > 0 {
			f.mu.Unlock()
			time.Sleep(f.late)
			f.mu.Lock()
			if parts = f.uploads[id]; parts == nil {
				parts = map[int][]byte{}
				f.uploads[id] = parts
			}
		}
		parts[n] = b
		w.Header().Set("ETag", fmt.Sprintf(`"%x"`, md5.Sum(b)))
	case r.Method == http.MethodDelete:
		delete(f.uploads, id)
		w.WriteHeader(http.StatusNoContent)
	default:
		var list struct {
			Part []struct {
				PartNumber int
				ETag       string
			}
		}
		if err := xml.Unmarshal(b, &list); err != nil {
			f.t.Error(err)
		}
		var all []byte
		sums := md5.New()
		for _, p := range list.Part {
			sum := md5.Sum(parts[p.PartNumber])
			if strings.Trim(p.ETag, `"`) != fmt.Sprintf("%x", sum) {
				f.fail(w, "InvalidPart")
				return
			}
			sums.Write(sum[:])
			all = append(all, parts[p.PartNumber]...)
		}
		delete(f.uploads, id)
		f.objects[key] = fakeObject{all, fmt.Sprintf(`"%x-%d"`, sums.Sum(nil), len(list.Part))}
		fmt.Fprintf(w, "<CompleteMultipartUploadResult><Key>%s</Key></CompleteMultipartUploadResult>", "x")
	}
}

// versity is versitygw, a server of S3 for a directory, on a port of this machine.
type versity struct {
	t         *testing.T
	dir, port string
	versions  string // a directory for versions of objects, "" for none
	mu        sync.Mutex
	cmd       *exec.Cmd
	log       bytes.Buffer
}

const versityFile = "/var/cache/mkcdrec/versitygw-1.8.0/versitygw"

// buildVersity builds it with Go's checksum database: that takes about 8 minutes, once.
func buildVersity(t *testing.T) {
	t.Helper()
	if _, err := os.Stat(versityFile); err == nil {
		return
	}
	if os.Getenv("MKCDREC_ALL") == "" || os.Geteuid() != 0 {
		t.Skip("needs " + versityFile + ", which is built with MKCDREC_ALL=1, as root")
	}
	dir := t.TempDir()
	c := exec.Command("go", "install", "github.com/versity/versitygw/cmd/versitygw@v1.8.0")
	c.Dir, c.Env = dir, append(os.Environ(), "GOBIN="+dir, "CGO_ENABLED=0", "GOFLAGS=-trimpath")
	if out, err := c.CombinedOutput(); err != nil {
		t.Skipf("versitygw can't be built here: %v\n%s", err, out)
	}
	b, err := os.ReadFile(dir + "/versitygw")
	if err == nil {
		err = errors.Join(os.MkdirAll(versityFile[:strings.LastIndexByte(versityFile, '/')], 0o755), os.WriteFile(versityFile+".new", b, 0o755), os.Rename(versityFile+".new", versityFile))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// startVersity starts it with a bucket in a directory.
func startVersity(t *testing.T, dir string) *versity { return startVersions(t, dir, "") }

// startLocked starts it with a bucket whose objects can't be removed or replaced for a day.
func startLocked(t *testing.T) *versity {
	t.Helper()
	v := startVersions(t, t.TempDir(), t.TempDir())
	c := v.client()
	if err := os.RemoveAll(v.dir + "/bucket"); err != nil {
		t.Fatal(err)
	}
	mode, unit, validity := minio.Compliance, minio.Days, uint(1)
	if err := c.MakeBucket(t.Context(), "bucket", minio.MakeBucketOptions{ObjectLocking: true}); err != nil {
		t.Fatal(err)
	}
	if err := c.SetObjectLockConfig(t.Context(), "bucket", &mode, &validity, &unit); err != nil {
		t.Fatal(err)
	}
	return v
}

func (v *versity) client() *minio.Client {
	v.t.Helper()
	c, err := minio.New("127.0.0.1:"+v.port, &minio.Options{Creds: credentials.NewStaticV4(s3Key, s3Secret, "")})
	if err != nil {
		v.t.Fatal(err)
	}
	return c
}

func startVersions(t *testing.T, dir, versions string) *versity {
	t.Helper()
	buildVersity(t)
	v := &versity{t: t, dir: dir, port: freePort(t), versions: versions}
	if err := os.MkdirAll(dir+"/bucket", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setxattr(dir, "user.test", []byte("x"), 0); err != nil {
		t.Skipf("needs a file system with attributes of users: %v", err)
	}
	v.run()
	t.Cleanup(func() {
		v.kill()
		if t.Failed() {
			t.Logf("versitygw: %s", v.log.String()[:min(v.log.Len(), 5000)])
		}
	})
	return v
}

func (v *versity) run() {
	v.mu.Lock()
	args := []string{"--port", "127.0.0.1:" + v.port, "posix"}
	if v.versions != "" {
		args = append(args, "--versioning-dir", v.versions)
	}
	v.cmd = exec.Command(versityFile, append(args, v.dir)...)
	v.cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY="+s3Key, "ROOT_SECRET_KEY="+s3Secret)
	v.cmd.Stdout, v.cmd.Stderr = &v.log, &v.log
	err := v.cmd.Start()
	v.mu.Unlock()
	if err != nil {
		v.t.Error(err)
		return
	}
	waitFor(v.t, v.port)
}

func (v *versity) kill() {
	v.mu.Lock()
	defer v.mu.Unlock()
	killTree(v.cmd.Process.Pid)
	_ = v.cmd.Wait()
}

func (v *versity) site(addr string) *site { return s3Site(addr, "bucket/p/q") }

// TestS3Lock: what is removed from a bucket with an object lock is gone for us, and the bucket still has it; nothing of
// a lock's own makes an upload fail, be it in one piece or in parts.
func TestS3Lock(t *testing.T) {
	v := startLocked(t)
	s := v.site("127.0.0.1:" + v.port)
	h := s.open(t)
	for name, size := range map[string]int{"set/small": 10, "set/large": 12 << 20} {
		put(t, h, name, bytes.Repeat([]byte("x"), size))
	}
	if err := h.Remove(t.Context(), "set"); err != nil {
		t.Fatalf("Remove = %v", err)
	}
	if left, err := h.Files(t.Context(), "set"); err != nil || len(left) > 0 {
		t.Errorf("Files after Remove = %v, %v", left, err)
	}
	kept := map[string]string{}
	for o := range v.client().ListObjects(t.Context(), "bucket", minio.ListObjectsOptions{WithVersions: true, Recursive: true}) {
		if o.Err != nil {
			t.Fatal(o.Err)
		}
		if !o.IsDeleteMarker {
			kept[o.Key] = o.VersionID
		}
	}
	for _, name := range []string{"p/q/set/small", "p/q/set/large"} {
		if kept[name] == "" {
			t.Errorf("the bucket keeps %v; want %s", kept, name)
		} else if err := v.client().RemoveObject(t.Context(), "bucket", name, minio.RemoveObjectOptions{VersionID: kept[name]}); err == nil {
			t.Errorf("the locked %s could be removed", name)
		}
	}
}

// TestPartSize: the largest object fits into the parts that there can be, and archives of usual sizes
// need little memory.
func TestPartSize(t *testing.T) {
	total, modest := int64(0), int64(0)
	for n := 1; n <= s3MaxParts; n++ {
		size := partSize(n)
		if size < 5<<20 || size > 5<<30 || n > 1 && size < partSize(n-1) {
			t.Errorf("part %d has %d bytes", n, size)
		}
		total += size
		if memory := size * int64(1+sending(size)); memory <= s3InFlight {
			modest = total
		} else if memory > s3LastPart {
			t.Errorf("part %d needs %d bytes of memory", n, memory)
		}
	}
	if total < 5<<40 || modest < 190<<30 {
		t.Errorf("all parts have %d bytes, those that need little memory %d", total, modest)
	}
}

// TestS3Faults: what the server refuses is reported with what to do; what is transient is
// tried again.
func TestS3Faults(t *testing.T) {
	once := func(method, code string) func(string, string) string {
		n := 0
		return func(m, key string) string {
			if m == method && key != "p/q/.mkcdrec-probe" {
				if n++; n%2 == 1 {
					return code
				}
			}
			return ""
		}
	}
	always := func(method, code string) func(string, string) string {
		return func(m, key string) string {
			if m == method && key != "p/q/.mkcdrec-probe" {
				return code
			}
			return ""
		}
	}
	all := func(code string) func(string, string) string { return func(string, string) string { return code } }
	for _, c := range []struct {
		name   string
		refuse func(method, key string) string
		date   time.Duration
		key    string
		want   string // in the error of a whole circle; "" for none
	}{
		{"none", all(""), 0, s3Key, ""},
		{"slow down once", once("PUT", "SlowDown"), 0, s3Key, ""},
		{"internal error once", once("POST", "InternalError"), 0, s3Key, ""},
		{"bad digest once", once("PUT", "BadDigest"), 0, s3Key, ""},
		{"get fails once", once("GET", "InternalError"), 0, s3Key, ""},
		{"wrong key", all(""), 0, "OTHER", "InvalidAccessKeyId"},
		{"wrong secret", all("SignatureDoesNotMatch"), 0, s3Key, "SignatureDoesNotMatch"},
		{"clock", all("RequestTimeTooSkewed"), -3 * time.Hour, s3Key, "the clock of this machine is 3h0m"},
		{"clock, another code", all("AccessDenied"), 2*time.Hour + 30*time.Second, s3Key, "the clock of this machine is 2h0m"},
		{"region", all("AuthorizationHeaderMalformed"), 0, s3Key, "set region:"},
		{"no writing", always("PUT", "AccessDenied"), 0, s3Key, "AccessDenied"},
		{"no uploads in parts", always("POST", "NotImplemented"), 0, s3Key, "NotImplemented"},
		{"locked", always("DELETE", "AccessDenied"), 0, s3Key, "an object lock of the bucket keeps it"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFakeS3(t)
			f.refuse = c.refuse
			if c.date != 0 {
				f.date = time.Now().Add(c.date)
			}
			s := f.site(f.addr)
			s.access.Credentials[0].AccessKey = c.key
			s.access.limits = fast
			err := circle(t.Context(), s)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%v; want %q", err, c.want)
			}
			if err != nil && strings.Contains(err.Error(), "\u009b") {
				t.Errorf("control characters of the server are in %q", err)
			}
			s.secretFree(t, err)
		})
	}
	s := s3Site(newFakeS3(t).addr, "other-bucket")
	s.access.limits = fast
	if _, err := OpenHome(t.Context(), s.url, s.access); err == nil || !strings.Contains(err.Error(), "NoSuchBucket") {
		t.Errorf("another bucket: %v", err)
	}
}

// circle writes, reads and removes files.
func circle(ctx context.Context, s *site) error {
	h, err := OpenHome(ctx, s.url, s.access)
	if err != nil {
		return err
	}
	defer h.Close()
	for name, b := range map[string][]byte{"set/big": random(9<<20, 1), "set/small": random(10, 2)} {
		u, err := h.Create(ctx, name)
		if err == nil {
			if _, err = u.Write(b); err == nil {
				err = u.Commit()
			}
		}
		if err != nil {
			return err
		}
		got, err := ReadFile(h.At(ctx, "set"), strings.TrimPrefix(name, "set/"), 1<<30)
		if err != nil || !bytes.Equal(got, b) {
			return fmt.Errorf("%d bytes of %d, %w", len(got), len(b), err)
		}
	}
	if files, err := h.Files(ctx, "set"); err != nil || len(files) != 2 {
		return fmt.Errorf("%v, %w", files, err)
	}
	return h.Remove(ctx, "set")
}

// TestS3NoList: without the permission to list, a known set is read; what does not exist in it does
// not exist, and a single file can be removed.
func TestS3NoList(t *testing.T) {
	f := newFakeS3(t)
	f.objects["p/q/set/manifest.json"] = fakeObject{[]byte("text"), `"1"`}
	f.refuse = func(_, key string) string {
		if _, ok := f.objects[key]; !ok {
			return "AccessDenied"
		}
		return ""
	}
	s := f.site(f.addr)
	st, end, err := OpenSet(t.Context(), s.url+"/set", s.access)
	if err != nil {
		t.Fatal(err)
	}
	defer end()
	if b, err := ReadFile(st, "manifest.json", 10); string(b) != "text" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
	if _, err := st.Open("other"); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "may not read it") {
		t.Errorf("%v", err)
	}
	h := s.open(t)
	if _, err := h.Dirs(t.Context()); !errors.Is(err, os.ErrPermission) || !strings.Contains(err.Error(), "AccessDenied") {
		t.Errorf("Dirs: %v", err)
	}
	if err := h.Remove(t.Context(), "set/manifest.json"); err != nil || len(f.objects) != 0 {
		t.Errorf("Remove: %v, %d objects", err, len(f.objects))
	}
	if err := h.Remove(t.Context(), "set"); err == nil || !strings.Contains(err.Error(), "may not list") {
		t.Errorf("Remove: %v", err)
	}
}

// TestS3Denied: an object that may be listed and not read exists.
func TestS3Denied(t *testing.T) {
	f := newFakeS3(t)
	for _, n := range []string{"set/set.json", "set/set.json.more"} {
		f.objects["p/q/"+n] = fakeObject{[]byte("text"), `"1"`}
	}
	refused := "AccessDenied"
	f.refuse = func(_, key string) string {
		return map[string]string{"p/q/set/set.json": "AccessDenied", "p/q/set/set.jso": "AccessDenied", "": refused}[key]
	}
	s := f.site(f.addr)
	h := s.open(t)
	for _, c := range []struct {
		list, name string
		missing    bool
	}{{"", "set.json", false}, {"", "set.jso", true}, {"", "none", true}, {"NoSuchBucket", "set.json", false}, {"AccessDenied", "set.json", true}} {
		f.mu.Lock()
		refused = c.list
		f.mu.Unlock()
		_, err := h.At(t.Context(), "set").Size(c.name)
		if err == nil || errors.Is(err, os.ErrNotExist) != c.missing || !c.missing && !strings.Contains(err.Error(), "AccessDenied") {
			t.Errorf("%s, listing %q: %v; want that it is missing: %v", c.name, c.list, err, c.missing)
		}
	}
}

// TestS3Hostile: names that a server lists and that lead elsewhere are left out.
func TestS3Hostile(t *testing.T) {
	f := newFakeS3(t)
	for _, n := range append([]string{"p/q/good/x", "p/q//y", "p/q/good/", "p/q/good//z"}, hostile...) {
		f.objects["p/q/good/"+n] = fakeObject{b: []byte("x")}
		f.objects["p/q/"+n] = fakeObject{b: []byte("x")}
	}
	delete(f.objects, "p/q/good/a\x00b") // not in XML
	delete(f.objects, "p/q/a\x00b")
	h := f.site(f.addr).open(t)
	for _, i := range listed(t, h, "") {
		name, _, _ := strings.Cut(i, " ")
		if checkName(name) != nil {
			t.Errorf("listed: %q", name)
		}
	}
	if dirs, err := h.Dirs(t.Context()); err != nil || slices.Contains(dirs, "..") || !slices.Contains(dirs, "good") {
		t.Errorf("%q, %v", dirs, err)
	}
}

// TestS3Abort: Abort ends uploads in parts, also after the context has ended.
func TestS3Abort(t *testing.T) {
	f := newFakeS3(t)
	h := f.site(f.addr).open(t)
	ctx, cancel := context.WithCancel(t.Context())
	u, err := h.Create(ctx, "x")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := u.Write(random(20<<20, 1)); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := u.Abort(); err != nil || len(f.uploads) != 0 || len(f.objects) != 0 {
		t.Errorf("%v, %d uploads, %d objects", err, len(f.uploads), len(f.objects))
	}
}

// TestS3AbortLate: nothing stays of parts that the server was still storing when the upload ended.
func TestS3AbortLate(t *testing.T) {
	for _, c := range []struct {
		late   time.Duration
		cancel bool
	}{{300 * time.Millisecond, false}, {300 * time.Millisecond, true}, {s3Settle + 200*time.Millisecond, false}} {
		f := newFakeS3(t)
		f.late = c.late
		h := f.site(f.addr).open(t)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		u, err := h.Create(ctx, "x")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := u.Write(random(30<<20, 1)); err != nil {
			t.Fatal(err)
		}
		for busy := 0; busy == 0; time.Sleep(time.Millisecond) { // the server has got a part
			f.mu.Lock()
			busy = strings.Count(strings.Join(f.log, " "), "PUT")
			f.mu.Unlock()
		}
		if c.cancel {
			cancel()
		}
		err = u.Abort()
		time.Sleep(2 * c.late)
		f.mu.Lock()
		if err != nil || len(f.uploads) != 0 {
			t.Errorf("%v, canceled %v: Abort() = %v, and %d uploads are left; want none", c.late, c.cancel, err, len(f.uploads))
		}
		f.mu.Unlock()
	}
}

// TestVersityKeys: a real server's answers to wrong keys.
func TestVersityKeys(t *testing.T) {
	v := startVersity(t, t.TempDir())
	for _, c := range []struct{ key, secret, want string }{
		{s3Key, s3Secret, ""}, {s3Key, "another", "SignatureDoesNotMatch"}, {"another", s3Secret, "No user exists with the provided access key"}, {"", "", "AccessDenied"},
	} {
		s := v.site("127.0.0.1:" + v.port)
		s.access.Credentials[0].AccessKey, s.access.Credentials[0].SecretKey = c.key, Secret(c.secret)
		s.access.limits = fast
		err := circle(t.Context(), s)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v; want %q", c.key, err, c.want)
		}
		s.secretFree(t, err)
	}
}
