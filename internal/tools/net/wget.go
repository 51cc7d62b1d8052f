package nettools

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/time/rate"

	"github.com/mkcdrec/mkcdrec/internal/printable"
	"github.com/mkcdrec/mkcdrec/internal/tools"
)

// Exit statuses of wget(1).
const (
	wgetFile    = 3
	wgetNetwork = 4
	wgetTLS     = 5
	wgetLogin   = 6
	wgetServer  = 8
)

// wgetRun is a run of wget.
type wgetRun struct {
	*tools.Env
	web   web
	tries int
	wait  time.Duration // without an answer
	limit *rate.Limiter
	body  []byte
	post  bool
	doc   io.Writer // of -O
	log   io.Writer
	pass  string
}

func wget(e *tools.Env) error {
	urls := slices.Clone(e.Args)
	if f := e.Val("i"); f != "" {
		r, err := e.Open(f)
		if err != nil {
			return err
		}
		defer r.Close()
		for s := bufio.NewScanner(r); s.Scan(); {
			if l := strings.TrimSpace(s.Text()); l != "" {
				urls = append(urls, l)
			}
		}
	}
	if len(urls) == 0 {
		e.Warn("missing URL")
		return nil
	}
	w := &wgetRun{Env: e, log: e.Err}
	done, err := w.prepare()
	if err != nil {
		return err
	}
	defer done()
	for _, u := range urls {
		w.get(u)
	}
	return nil
}

// no reports -nc, -nv and their like.
func (w *wgetRun) no(letter string) bool {
	return slices.ContainsFunc(w.Vals("n"), func(v string) bool { return strings.Contains(v, letter) })
}

// prepare reads the options; done closes the files that it opened.
func (w *wgetRun) prepare() (done func(), err error) {
	w.web = web{insecure: w.On("no-check-certificate"), ca: w.Val("ca-certificate"), cert: w.Val("certificate"), key: w.Val("private-key"), proxy: map[bool]string{true: "none"}[w.On("no-proxy")]}
	for _, f := range []string{"4", "6"} {
		if w.On(f) {
			w.web.family = f
		}
	}
	if w.tries, err = w.Int("t", 20); w.Val("t") == "inf" || w.tries == 0 && err == nil {
		w.tries, err = 1<<30, nil
	}
	seconds, err2 := strconv.ParseFloat(w.Or("T", "900"), 64)
	w.wait = time.Duration(seconds * float64(time.Second))
	w.web.connect = w.wait
	limit, err3 := byteRate(w.Val("limit-rate"))
	if w.limit = limit; errors.Join(err, err2, err3) != nil || seconds < 0 {
		return nil, tools.Usage("invalid number in -t, -T or --limit-rate")
	}
	if err := w.content(); err != nil {
		return nil, err
	}
	return w.open()
}

// content reads what is sent, and the password.
func (w *wgetRun) content() (err error) {
	for _, o := range w.All() {
		switch o.Name {
		case "post-data", "body-data":
			w.body, w.post = []byte(o.Value), true
		case "post-file", "body-file":
			if w.body, err = os.ReadFile(o.Value); err != nil {
				return err
			}
			w.post = true
		}
	}
	if w.pass = cmp.Or(w.Val("password"), w.Val("http-password")); w.On("ask-password") {
		if w.pass, err = tools.Ask(fmt.Sprintf("Password for user '%s': ", w.Val("user")), true); err != nil {
			return fmt.Errorf("cannot ask for the password: %s", cause(err))
		}
	}
	return nil
}

// open opens the files of -O, -o and -a; done closes them.
func (w *wgetRun) open() (done func(), err error) {
	var files []*os.File
	open := func(name string, flags int) *os.File {
		f, e := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|flags, 0o666)
		if e != nil {
			w.Fault(1, "%s: %s", name, tools.Cause(e))
			err = tools.Status(wgetFile)
			return nil
		}
		files = append(files, f)
		return f
	}
	for name, flags := range map[string]int{"o": os.O_TRUNC, "a": os.O_APPEND} {
		if f := w.Val(name); f != "" {
			w.log = open(f, flags)
		}
	}
	switch o := w.Val("O"); {
	case o == "-":
		w.doc = w.Out
	case o != "":
		flags := os.O_TRUNC
		if w.On("c") {
			flags = os.O_APPEND
		}
		if w.doc = open(o, flags); err != nil {
			err = tools.Status(1) // as wget has it
		}
	}
	return func() {
		for _, f := range files {
			if err := f.Close(); err != nil {
				w.Fault(wgetFile, "%s: %s", f.Name(), tools.Cause(err))
			}
		}
	}, err
}

// note is a line of the log; quiet ones are not left out with -nv.
func (w *wgetRun) note(short bool, format string, a ...any) {
	if !w.On("q") && (short || !w.no("v") && !w.On("no-verbose")) {
		fmt.Fprintln(w.log, printable.CleanLines(fmt.Sprintf(format, a...)))
	}
}

func (w *wgetRun) fail(status int, format string, a ...any) {
	w.note(true, format, a...)
	// The smaller one counts, but 1 and 2: wget(1).
	w.Set(status)
}

// get gets one URL, in several tries if the connection breaks.
func (w *wgetRun) get(text string) {
	if !strings.Contains(text, "://") {
		text = "http://" + text
	}
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Host == "":
		w.fail(1, "%s: Invalid URL", text)
		return
	case u.Scheme != "http" && u.Scheme != "https":
		w.fail(1, "%s: Unsupported scheme '%s'.", text, u.Scheme)
		return
	}
	f := &fetched{wgetRun: w, named: u}
	for try := 1; ; try++ {
		w.note(false, "%s: %s", time.Now().Format("2006-01-02 15:04:05"), text)
		again := f.attempt()
		if !again || try >= w.tries {
			if again {
				w.note(true, "Giving up.")
				w.Set(wgetNetwork)
			}
			break
		}
		w.note(true, "Retrying.")
		time.Sleep(min(time.Duration(try), 10) * time.Second)
	}
	if f.file != nil {
		if err := f.file.Close(); err != nil {
			w.fail(wgetFile, "%s: %s", f.name, tools.Cause(err))
		}
	}
}

// fetched is one URL of wget.
type fetched struct {
	*wgetRun
	named *url.URL
	name  string // of the file
	file  *os.File
	have  int64 // bytes of it
	got   int64 // bytes that were written in this run
}

// choose finds the file's name. It reports whether there is nothing to do.
func (f *fetched) choose(resp *http.Response) (finished bool) {
	if f.doc != nil || f.name != "" {
		return false
	}
	name := baseName(f.named)
	if un, err := url.PathUnescape(name); err == nil && !strings.Contains(un, "/") {
		name = un
	}
	if name = cmp.Or(name, "index.html"); f.named.RawQuery != "" {
		name += "?" + f.named.RawQuery
	}
	if d := ""; resp != nil && f.On("content-disposition") {
		if d = disposition(resp); d != "" {
			name = d
		}
	}
	f.name = filepath.Join(f.Val("P"), strings.ReplaceAll(name, "/", "%2F"))
	st, err := os.Stat(f.name)
	switch {
	case err != nil:
	case f.no("c") || f.On("no-clobber"):
		f.note(true, "File '%s' already there; not retrieving.", f.name)
		return true
	case f.On("c"):
		f.have = st.Size()
	case !f.On("N"):
		base := f.name
		for n := 1; err == nil; n++ {
			f.name = fmt.Sprintf("%s.%d", base, n)
			_, err = os.Lstat(f.name)
		}
	}
	return false
}

// attempt sends the request and stores the answer. It reports whether another try may help.
func (f *fetched) attempt() (again bool) {
	if !f.On("content-disposition") && f.choose(nil) {
		return false
	}
	if o := f.Val("O"); f.On("c") && o != "" && o != "-" {
		if st, err := os.Stat(o); err == nil {
			f.have = st.Size()
		}
	}
	resp, stop, err := f.follow()
	if err != nil {
		return f.explain(err)
	}
	defer stop()
	defer resp.Body.Close()
	f.note(false, "HTTP request sent, awaiting response... %s", resp.Status)
	if f.choose(resp) {
		return false
	}
	if skip, ok := f.accept(resp); ok {
		return f.store(resp, skip)
	}
	return false
}

// accept reports whether the body of a response is stored, but for some bytes at its begin.
func (f *fetched) accept(resp *http.Response) (skip int64, ok bool) {
	switch code := resp.StatusCode; {
	case code == http.StatusRequestedRangeNotSatisfiable && f.have > 0, code == http.StatusOK && f.have > 0 && resp.ContentLength >= 0 && f.have >= resp.ContentLength:
		f.note(true, "\n    The file is already fully retrieved; nothing to do.\n")
		return 0, false
	case code == http.StatusPartialContent && f.have > 0:
		begin := int64(-1)
		if _, err := fmt.Sscanf(resp.Header.Get("Content-Range"), "bytes %d-", &begin); err != nil || begin != f.have {
			f.fail(wgetNetwork, "The server did not send the range that was requested.")
			return 0, false
		}
	case code == http.StatusUnauthorized:
		f.fail(wgetLogin, "Username/Password Authentication Failed.")
		return 0, false
	case code/100 != 2:
		f.fail(wgetServer, "%s ERROR %s.", time.Now().Format("2006-01-02 15:04:05"), resp.Status)
		return 0, false
	default:
		skip = f.have // the server sends all of it
	}
	if f.On("spider") {
		f.note(true, "Remote file exists.")
		return 0, false
	}
	return skip, true
}

// store writes a body, but for the bytes at its begin that are there.
func (f *fetched) store(resp *http.Response, skip int64) (again bool) {
	if f.file == nil && f.doc == nil {
		if p := f.Val("P"); p != "" {
			_ = os.MkdirAll(p, 0o777) // opening reports it
		}
		flags := os.O_CREATE | os.O_WRONLY | os.O_APPEND
		if f.have == 0 {
			flags |= os.O_TRUNC
		}
		file, err := os.OpenFile(f.name, flags, 0o666)
		if err != nil {
			f.fail(wgetFile, "%s: %s", f.name, tools.Cause(err))
			return false
		}
		f.file = file
	}
	w := f.doc
	if w == nil {
		w = f.file
	}
	shown := cmp.Or(f.name, f.Val("O"))
	f.note(false, "Length: %s\nSaving to: '%s'", length(resp), shown)
	if _, err := io.CopyN(io.Discard, resp.Body, skip); err != nil {
		return f.explain(err)
	}
	n, err := pump(out{w}, resp.Body, filepath.Base(shown), resp.ContentLength, !f.On("q") || f.On("show-progress"), f.limit)
	if f.have, f.got = f.have+n, f.got+n; err != nil {
		return f.explain(err)
	}
	if f.doc == f.Out {
		if err := f.Out.Flush(); err != nil {
			f.fail(wgetFile, "-: %s", tools.Cause(err))
			return false
		}
	}
	if t, err := http.ParseTime(resp.Header.Get("Last-Modified")); err == nil && f.doc != f.Out && !f.On("no-use-server-timestamps") {
		if err := os.Chtimes(shown, t, t); err != nil {
			f.note(true, "%s: %s", shown, tools.Cause(err))
		}
	}
	f.note(true, "%s URL:%s [%d] -> \"%s\"", time.Now().Format("2006-01-02 15:04:05"), f.named, f.got, shown)
	return false
}

func length(resp *http.Response) string {
	kind := ""
	if t := resp.Header.Get("Content-Type"); t != "" {
		kind = " [" + t + "]"
	}
	if resp.ContentLength < 0 {
		return "unspecified" + kind
	}
	return strconv.FormatInt(resp.ContentLength, 10) + kind
}

// follow sends the request, and others where it is redirected to. The connection ends with
// stop, and when nothing arrives for the time of -T.
func (f *fetched) follow() (*http.Response, func(), error) {
	most, err := f.Int("max-redirect", 20)
	if err != nil {
		return nil, nil, err
	}
	method, u, body := http.MethodGet, f.named, f.body
	if f.On("spider") {
		method = http.MethodHead
	}
	if f.post {
		method = http.MethodPost
	}
	method = f.Or("method", method)
	for n := 0; ; n++ {
		ctx, stop := context.WithCancel(context.Background())
		idle := time.AfterFunc(cmp.Or(f.wait, 1<<62), stop)
		r, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(body))
		if err != nil {
			stop()
			return nil, nil, err
		}
		f.headers(r, sameOrigin(u, f.named))
		resp, head, err := f.web.send(r)
		if err != nil {
			if !idle.Stop() && ctx.Err() != nil {
				err = context.DeadlineExceeded
			}
			stop()
			return nil, nil, err
		}
		if f.On("S") {
			arrows(f.log, "  ", head)
		}
		next, leads := redirect(resp)
		if !leads {
			resp.Body = &watched{resp.Body, idle, cmp.Or(f.wait, 1<<62), ctx}
			return resp, func() { idle.Stop(); stop() }, nil
		}
		resp.Body.Close()
		idle.Stop()
		stop()
		if n >= most {
			return nil, nil, errRedirects
		}
		if f.note(false, "Location: %s [following]", next); resp.StatusCode < 307 && method == http.MethodPost {
			method, body = http.MethodGet, nil
		}
		u = next
	}
}

var errRedirects = errors.New("too many redirections")

// watched is a body whose connection ends when nothing arrives for a time.
type watched struct {
	io.ReadCloser
	timer *time.Timer
	idle  time.Duration
	ctx   context.Context
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.ReadCloser.Read(p)
	if w.timer.Reset(w.idle); err != nil && w.ctx.Err() != nil {
		err = context.DeadlineExceeded
	}
	return n, err
}

func (f *fetched) headers(r *http.Request, same bool) {
	r.Header.Set("User-Agent", f.Or("U", "Wget (mkcdrec)"))
	r.Header.Set("Accept", "*/*")
	r.Header.Set("Accept-Encoding", "identity")
	if v := f.Val("referer"); v != "" {
		r.Header.Set("Referer", v)
	}
	if f.have > 0 {
		r.Header.Set("Range", fmt.Sprintf("bytes=%d-", f.have))
	}
	if len(f.body) > 0 {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	if user := cmp.Or(f.Val("user"), f.Val("http-user")); user != "" && same {
		r.SetBasicAuth(user, f.pass)
	} else if u := f.named.User; u != nil && same {
		pass, _ := u.Password()
		r.SetBasicAuth(u.Username(), pass)
	}
	for _, h := range f.Vals("header") {
		name, val, ok := strings.Cut(h, ":")
		if ok && (same || !secret(name) && !strings.EqualFold(name, "Host")) {
			if r.Header.Set(name, strings.TrimSpace(val)); strings.EqualFold(name, "Host") {
				r.Host = strings.TrimSpace(val)
			}
		}
	}
}

// explain reports an error of a try, and whether another try may help.
func (f *fetched) explain(err error) (again bool) {
	host := f.named.Host
	if errors.As(err, new(writeError)) {
		f.fail(wgetFile, "%s: cannot write: %s", cmp.Or(f.name, f.Val("O")), tools.Cause(err))
		return false
	}
	if errors.Is(err, errRedirects) {
		f.fail(wgetServer, "%d redirections exceeded.", 20)
		return false
	}
	switch classify(err) {
	case badName:
		f.fail(wgetNetwork, "wget: unable to resolve host address '%s'", f.named.Hostname())
	case refused:
		f.note(true, "Connecting to %s... failed: %s.", host, cause(err))
		if f.On("retry-connrefused") || !strings.Contains(cause(err), "refused") {
			return true
		}
		f.Set(wgetNetwork)
	case badCertificate:
		f.fail(wgetTLS, "ERROR: cannot verify the certificate of %s: %s\nTo connect to %s insecurely, use '--no-check-certificate'.", host, certificates(err), host)
	case badTLS:
		f.fail(wgetNetwork, "TLS handshake with %s failed: %s", host, cause(err))
	default:
		f.note(true, "Read error at byte %d (%s).", f.have, cause(err))
		return true
	}
	return false
}
