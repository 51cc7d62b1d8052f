package nettools

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/printable"
	"github.com/mkcdrec/mkcdrec/internal/tools"
)

// curlError is an error with its exit status, of curl(1).
type curlError struct {
	status int
	text   string
}

func (e *curlError) Error() string { return e.text }

func curlFault(status int, format string, a ...any) error {
	return &curlError{status, fmt.Sprintf(format, a...)}
}

// curlRun is a run of curl.
type curlRun struct {
	*tools.Env
	web    web
	data   []byte // of -d
	hasD   bool
	form   string // content type of -F
	passed string // -u
	outs   int    // of -o and -O, taken so far
}

// download is one URL of it.
type download struct {
	*curlRun
	ctx       context.Context
	target    string // file; "" for standard output
	named     *url.URL
	file      *os.File
	from      int64 // where it is resumed
	resp      *http.Response
	effective *url.URL
	redirects int
	left      bool   // another server was reached: the password is not sent again
	base      string // method without -X
	plain     bool   // a redirect asks for a GET without a body
	size      int64
	start     time.Time
}

func curl(e *tools.Env) error {
	if e.On("V") {
		e.Printf("curl of mkcdrec\nProtocols: file http https\n")
		return nil
	}
	urls := append(e.Vals("url"), e.Args...)
	if len(urls) == 0 {
		return tools.Usage("no URL specified")
	}
	c := &curlRun{Env: e}
	if err := c.prepare(); err != nil {
		return c.report(err)
	}
	status := error(nil)
	for _, u := range urls {
		if err := c.retry(u); err != nil {
			if status = c.report(err); c.On("fail-early") {
				break
			}
		}
	}
	return status
}

// report prints an error, and gives its exit status.
func (c *curlRun) report(err error) error {
	var ce *curlError
	if !errors.As(err, &ce) {
		return err
	}
	if !c.On("s") || c.On("S") {
		c.Fault(0, "(%d) %s", ce.status, ce.text)
	}
	_ = c.Out.Flush() // an error stays in it
	return tools.Status(ce.status)
}

// prepare reads the options that all URLs share.
func (c *curlRun) prepare() error {
	c.web = web{insecure: c.On("k"), ca: c.Val("cacert"), cert: c.Val("E"), key: c.Val("key"), proxy: c.Val("x"), resolve: map[string]string{}}
	if c.On("noproxy") {
		c.web.proxy = "none"
	}
	for _, f := range []string{"4", "6"} {
		if c.On(f) {
			c.web.family = f
		}
	}
	if c.On("v") {
		c.web.trace = c.Err
	}
	for _, r := range c.Vals("resolve") {
		p := strings.SplitN(r, ":", 3)
		if len(p) < 3 {
			return curlFault(49, "Couldn't parse CURLOPT_RESOLVE entry '%s'", r)
		}
		c.web.resolve[p[0]+":"+p[1]] = net.JoinHostPort(strings.Trim(p[2], "[]"), p[1])
	}
	var err error
	if c.web.connect, err = c.seconds("connect-timeout"); err != nil {
		return err
	}
	if u, ok := c.Last("u"); ok {
		if c.passed = u.Value; !strings.Contains(c.passed, ":") {
			p, err := tools.Ask(fmt.Sprintf("Enter host password for user '%s':", c.passed), true)
			if err != nil {
				return curlFault(2, "cannot ask for the password: %s", cause(err))
			}
			c.passed += ":" + p
		}
	}
	if c.web.ca != "" {
		if _, err := os.Stat(c.web.ca); err != nil {
			return curlFault(77, "error setting certificate verify locations:  CAfile: %s", c.web.ca)
		}
	}
	return c.body()
}

func (c *curlRun) seconds(option string) (time.Duration, error) {
	v := c.Or(option, "0")
	option = strings.Repeat("-", min(len(option), 2)) + option
	f, err := strconv.ParseFloat(v, 64)
	if err != nil || f < 0 || f > 1e9 {
		return 0, tools.Usage("option %s: expected a proper numerical parameter", option)
	}
	return time.Duration(f * float64(time.Second)), nil
}

// body joins what -d and -F give.
func (c *curlRun) body() error {
	var b bytes.Buffer
	var m *multipart.Writer
	for _, o := range c.All() {
		var part []byte
		var err error
		switch o.Name {
		case "d", "data-binary":
			part, err = c.argument(o.Value)
			if strings.HasPrefix(o.Value, "@") && o.Name == "d" {
				part = bytes.Map(func(r rune) rune {
					if r == '\r' || r == '\n' || r == 0 {
						return -1
					}
					return r
				}, part)
			}
		case "data-raw":
			part = []byte(o.Value)
		case "data-urlencode":
			name, val, ok := strings.Cut(o.Value, "=")
			if !ok {
				name, val = "", o.Value
			} else if name != "" {
				name += "="
			}
			part = []byte(name + url.QueryEscape(val))
		case "F":
			if m == nil {
				m = multipart.NewWriter(&b)
			}
			if err := c.formPart(m, o.Value); err != nil {
				return err
			}
			continue
		default:
			continue
		}
		if err != nil {
			return curlFault(26, "Failed to open %s", strings.TrimPrefix(o.Value, "@"))
		}
		if c.hasD {
			b.WriteByte('&')
		}
		b.Write(part)
		c.hasD = true
	}
	if m != nil {
		if c.hasD {
			return curlFault(2, "You can only select one HTTP request method!")
		}
		if err := m.Close(); err != nil {
			return err
		}
		c.form = m.FormDataContentType()
	}
	c.data = b.Bytes()
	return nil
}

// argument gives a word, or the content of the file behind @.
func (c *curlRun) argument(s string) ([]byte, error) {
	name, ok := strings.CutPrefix(s, "@")
	if !ok {
		return []byte(s), nil
	}
	f, err := c.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}

// formPart adds NAME=VALUE, or NAME=@FILE.
func (c *curlRun) formPart(m *multipart.Writer, s string) error {
	name, val, ok := strings.Cut(s, "=")
	if !ok {
		return curlFault(2, "Illegally formatted input field")
	}
	file, isFile := strings.CutPrefix(val, "@")
	if !isFile {
		return m.WriteField(name, val)
	}
	file, _, _ = strings.Cut(file, ";")
	b, err := c.argument("@" + file)
	if err != nil {
		return curlFault(26, "Failed to open/read local data from file/application")
	}
	w, err := m.CreateFormFile(name, filepath.Base(file))
	if err == nil {
		_, err = w.Write(b)
	}
	return err
}

// retry gets one URL, again after faults that may pass if the options want that.
func (c *curlRun) retry(text string) error {
	most, err := c.Int("retry", 0)
	if err != nil {
		return err
	}
	delay, err := c.seconds("retry-delay")
	if err != nil {
		return err
	}
	taken := c.outs
	for try := 0; ; try++ {
		c.outs = taken
		d, err := c.get(text)
		var ce *curlError
		passes := errors.As(err, &ce) && (ce.status == 28 || ce.status == 6 || ce.status == 7 && c.On("retry-connrefused", "retry-all-errors") || c.On("retry-all-errors"))
		if d != nil && d.resp != nil && slices.Contains([]int{408, 429, 500, 502, 503, 504}, d.resp.StatusCode) {
			passes = true
		}
		if !passes || try >= most {
			return err
		}
		wait := cmp.Or(delay, min(time.Second<<try, 10*time.Minute))
		if !c.On("s") {
			c.Fault(0, "Problem: %s. Will retry in %.0f seconds. %d retries left.", printable.Clean(fmt.Sprint(err)), wait.Seconds(), most-try)
		}
		time.Sleep(wait)
		if d != nil && d.target != "" && d.file != nil {
			_ = os.Truncate(d.target, d.from) // it is written again
		}
	}
}

// get gets one URL.
func (c *curlRun) get(text string) (*download, error) {
	if !strings.Contains(text, "://") {
		text = "http://" + text
	}
	u, err := url.Parse(text)
	if err != nil || u.Host == "" && u.Scheme != "file" {
		return nil, curlFault(3, "URL using bad/illegal format or missing URL")
	}
	if !slices.Contains([]string{"http", "https", "file"}, u.Scheme) {
		return nil, curlFault(1, "Protocol \"%s\" not supported or disabled in libcurl", printable.Clean(u.Scheme))
	}
	if c.On("G") && len(c.data) > 0 {
		u.RawQuery = strings.TrimPrefix(u.RawQuery+"&"+string(c.data), "&")
	}
	d := &download{curlRun: c, named: u, effective: u, start: time.Now()}
	if err := d.findTarget(); err != nil {
		return d, err
	}
	var stop context.CancelFunc
	most, err := c.seconds("m")
	if err != nil {
		return d, err
	}
	d.ctx, stop = context.WithCancel(context.Background())
	if most > 0 {
		d.ctx, stop = context.WithTimeout(context.Background(), most)
	}
	defer stop()
	err = d.transfer()
	if d.file != nil {
		if e := d.file.Close(); err == nil && e != nil {
			err = curlFault(23, "Failed writing body: %s", tools.Cause(e))
		}
		if t, e := http.ParseTime(d.header("Last-Modified")); e == nil && c.On("R") && err == nil {
			err = os.Chtimes(d.target, t, t)
		}
	}
	if w, ok := c.Last("w"); ok {
		c.Printf("%s", d.format(w.Value, err))
	}
	if e := c.Out.Flush(); err == nil && e != nil {
		err = curlFault(23, "Failed writing body: %s", tools.Cause(e))
	}
	return d, err
}

func (d *download) header(name string) string {
	if d.resp == nil {
		return ""
	}
	return d.resp.Header.Get(name)
}

// findTarget takes the next -o or -O.
func (d *download) findTarget() error {
	n := 0
	for _, o := range d.All() {
		if o.Name != "o" && o.Name != "O" {
			continue
		}
		if n++; n <= d.outs {
			continue
		}
		d.outs = n
		if d.target = o.Value; o.Name == "O" {
			if d.target = baseName(d.named); d.target == "" {
				return curlFault(23, "Remote file name has no length")
			}
		}
		if d.target == "-" {
			d.target = ""
		} else {
			d.target = filepath.Join(d.Val("output-dir"), d.target)
		}
		break
	}
	if d.target == "" && d.On("remote-name-all") {
		d.target = baseName(d.named)
	}
	at, ok := d.Last("C")
	if !ok {
		return nil
	}
	if d.On("T") {
		return curlFault(2, "an upload cannot be resumed here: -C and -T exclude each other")
	}
	if at.Value == "-" {
		if st, err := os.Stat(d.target); err == nil && d.target != "" {
			d.from = st.Size()
		}
		return nil
	}
	var err error
	if d.from, err = strconv.ParseInt(at.Value, 10, 64); err != nil || d.from < 0 {
		return tools.Usage("option -C: expected a proper numerical parameter")
	}
	return nil
}

// transfer sends the request, and others where it is redirected to.
func (d *download) transfer() error {
	most, err := d.Int("max-redirs", 50)
	if err != nil {
		return err
	}
	for {
		r, closer, err := d.request()
		if err != nil {
			return err
		}
		resp, head, err := d.web.send(r)
		if closer != nil {
			closer.Close()
		}
		if err != nil {
			return d.explain(err)
		}
		d.resp = resp
		next, leads := redirect(resp)
		last := !leads || !d.On("L", "location-trusted")
		if err = d.heads(head); err == nil && last {
			err = d.body(resp)
		}
		resp.Body.Close()
		if last || err != nil {
			return err
		}
		if d.redirects++; most >= 0 && d.redirects > most {
			return curlFault(47, "Maximum (%d) redirects followed", most)
		}
		if !slices.Contains([]string{"http", "https"}, next.Scheme) {
			return curlFault(1, "Protocol \"%s\" not supported or disabled in libcurl", printable.Clean(next.Scheme))
		}
		if resp.StatusCode == http.StatusSeeOther || resp.StatusCode < 307 && d.base == http.MethodPost {
			d.plain = true
		}
		d.effective = next
	}
}

// request makes the request for the address that has been reached. The file that is sent is
// closed by the caller.
func (d *download) request() (*http.Request, io.Closer, error) {
	var body io.Reader
	var closer io.Closer
	size, u := int64(0), *d.effective
	method, kind := http.MethodGet, ""
	switch send, ok := d.Last("T"); {
	case ok && !d.plain:
		f, err := d.Open(send.Value)
		if err != nil {
			return nil, nil, curlFault(26, "Can't open '%s'!", send.Value)
		}
		method, body, closer, size = http.MethodPut, f, f, -1
		if x, ok := f.(*os.File); ok {
			if st, err := x.Stat(); err == nil && st.Mode().IsRegular() {
				size = st.Size()
			}
		}
		if send.Value != "-" && (strings.HasSuffix(u.Path, "/") || u.Path == "") {
			u.Path = strings.TrimSuffix(u.Path, "/") + "/" + filepath.Base(send.Value)
		}
	case d.On("I"):
		method = http.MethodHead
	case (d.hasD || d.form != "") && !d.On("G") && !d.plain:
		method, body, size = http.MethodPost, bytes.NewReader(d.data), int64(len(d.data))
		kind = cmp.Or(d.form, "application/x-www-form-urlencoded")
	}
	d.base = method
	r, err := http.NewRequestWithContext(d.ctx, d.Or("X", method), u.String(), body)
	if err != nil {
		return nil, closer, curlFault(3, "URL using bad/illegal format or missing URL")
	}
	if r.ContentLength = size; kind != "" {
		r.Header.Set("Content-Type", kind)
	}
	d.headers(r)
	return r, closer, nil
}

// password sets what -u or the address gives. Once another server was reached, it is not sent again.
func (d *download) password(r *http.Request, trusted bool) {
	if d.left = d.left || !trusted; d.left {
		return
	}
	if user, pass, ok := strings.Cut(d.passed, ":"); ok {
		r.SetBasicAuth(user, pass)
	} else if u := d.named.User; u != nil {
		pass, _ := u.Password()
		r.SetBasicAuth(u.Username(), pass)
	}
}

// headers sets the headers that the options give.
func (d *download) headers(r *http.Request) {
	r.Header.Set("User-Agent", d.Or("A", "curl (mkcdrec)"))
	r.Header.Set("Accept", "*/*")
	trusted := sameOrigin(d.effective, d.named) || d.On("location-trusted")
	d.password(r, trusted)
	if v := d.Val("e"); v != "" {
		r.Header.Set("Referer", v)
	}
	if v := d.Val("b"); strings.Contains(v, "=") && trusted {
		r.Header.Set("Cookie", v)
	}
	if d.On("compressed") {
		r.Header.Set("Accept-Encoding", "gzip")
	}
	switch {
	case d.from > 0:
		r.Header.Set("Range", fmt.Sprintf("bytes=%d-", d.from))
	case d.On("r"):
		r.Header.Set("Range", "bytes="+d.Val("r"))
	}
	for _, h := range d.Vals("H") {
		name, val, ok := strings.Cut(h, ":")
		switch val = strings.TrimSpace(val); {
		case secret(name) && !trusted:
		case !ok && strings.HasSuffix(h, ";"):
			r.Header[http.CanonicalHeaderKey(strings.TrimSuffix(h, ";"))] = []string{""}
		case strings.EqualFold(name, "Host"):
			if strings.EqualFold(d.effective.Hostname(), d.named.Hostname()) {
				r.Host = val
			}
		case val == "":
			r.Header[http.CanonicalHeaderKey(name)] = nil // it is not sent
		case slices.Contains([]string{"User-Agent", "Accept", "Content-Type"}, http.CanonicalHeaderKey(name)):
			r.Header.Set(name, val)
		default:
			r.Header.Add(name, val)
		}
	}
}

// heads writes the headers where the options want them.
func (d *download) heads(head []byte) error {
	if f := d.Val("D"); f == "-" {
		d.Out.Write(head) // as curl, before what follows
	} else if f != "" {
		flags := os.O_CREATE | os.O_WRONLY | os.O_APPEND
		if d.redirects == 0 {
			flags = os.O_CREATE | os.O_WRONLY | os.O_TRUNC
		}
		w, err := os.OpenFile(f, flags, 0o666)
		if err == nil {
			_, err = w.Write(head)
			err = errors.Join(err, w.Close())
		}
		if err != nil {
			return curlFault(23, "Failed writing received data to disk/application")
		}
	}
	if !d.On("I", "i") {
		return nil
	}
	w, err := d.open()
	if err == nil {
		_, err = w.Write(head)
	}
	return d.explain(err)
}
