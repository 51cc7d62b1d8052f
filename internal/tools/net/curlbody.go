package nettools

import (
	"cmp"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/mkcdrec/mkcdrec/internal/tools"
)

// fails reports -f and a status that is an error.
func (d *download) fails() bool {
	return d.resp.StatusCode >= 400 && d.On("f", "fail-with-body")
}

// body writes the body of the last response.
func (d *download) body(resp *http.Response) error {
	failed := error(nil)
	if d.fails() {
		failed = curlFault(22, "The requested URL returned error: %d", resp.StatusCode)
		if !d.On("fail-with-body") {
			return failed
		}
	}
	r, err := d.content(resp)
	if err != nil || r == nil {
		return cmp.Or(failed, err)
	}
	limit, err := byteRate(d.Val("limit-rate"))
	if err != nil {
		return err
	}
	show := !d.On("s", "no-progress-meter") && (d.target != "" || !term.IsTerminal(1))
	if d.size, err = pump(lazy{d}, r, cmp.Or(d.target, baseName(d.named), "index"), resp.ContentLength, show, limit); err == nil && d.target != "" {
		_, err = d.open() // an empty one, too
	}
	if err != nil {
		return d.explain(err)
	}
	if d.target == "" {
		if err := d.Out.Flush(); err != nil {
			return curlFault(23, "Failed writing body: %s", tools.Cause(err))
		}
	}
	return failed
}

// content gives what is stored of a response, nil for nothing: where a transfer is resumed, the
// server has to send the rest.
func (d *download) content(resp *http.Response) (io.Reader, error) {
	if d.from > 0 {
		begin := int64(-1)
		if _, err := fmt.Sscanf(resp.Header.Get("Content-Range"), "bytes %d-", &begin); err != nil {
			begin = -1
		}
		switch {
		case d.named.Scheme == "file":
			if _, err := resp.Body.(io.Seeker).Seek(d.from, io.SeekStart); err != nil {
				return nil, d.explain(err)
			}
		case resp.StatusCode == http.StatusRequestedRangeNotSatisfiable, begin < 0 && resp.ContentLength == d.from:
			return nil, nil // it was complete
		case resp.StatusCode != http.StatusPartialContent || begin != d.from: // such as the text of an error
			return nil, curlFault(33, "HTTP server doesn't seem to support byte ranges. Cannot resume.")
		}
	}
	if resp.Request != nil && resp.Request.Method == http.MethodHead {
		return nil, nil
	}
	if !d.On("compressed") || resp.Header.Get("Content-Encoding") != "gzip" {
		return resp.Body, nil
	}
	z, err := gzip.NewReader(resp.Body)
	if err != nil {
		return nil, curlFault(61, "Error while processing content unencoding: %s", err)
	}
	return z, nil
}

// lazy opens the target when something is written to it.
type lazy struct{ d *download }

func (l lazy) Write(p []byte) (int, error) {
	w, err := l.d.open()
	if err != nil {
		return 0, err
	}
	return w.Write(p)
}

// open opens the target, once.
func (d *download) open() (io.Writer, error) {
	if d.target == "" {
		return out{d.Out}, nil
	}
	if d.file != nil {
		return out{d.file}, nil
	}
	if name := disposition(d.resp); name != "" && d.On("J") && d.On("O") {
		d.target = filepath.Join(filepath.Dir(d.target), name)
	}
	if d.On("create-dirs") {
		if err := os.MkdirAll(filepath.Dir(d.target), 0o750); err != nil {
			return nil, writeError{err}
		}
	}
	flags := os.O_CREATE | os.O_WRONLY | os.O_TRUNC
	if d.from > 0 {
		flags = os.O_CREATE | os.O_WRONLY | os.O_APPEND
	}
	var err error
	if d.file, err = os.OpenFile(d.target, flags, 0o666); err != nil {
		return nil, writeError{err}
	}
	return out{d.file}, nil
}

// explain words an error of a transfer.
func (d *download) explain(err error) error {
	if err == nil {
		return nil
	}
	ms, host, port := time.Since(d.start).Milliseconds(), d.effective.Hostname(), d.effective.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[d.effective.Scheme]
	}
	if errors.As(err, new(writeError)) {
		return curlFault(23, "Failed writing body: %s", tools.Cause(err))
	}
	if d.effective.Scheme == "file" && errors.Is(err, fs.ErrNotExist) {
		return curlFault(37, "Couldn't open file %s", d.effective.Path)
	}
	switch classify(err) {
	case badName:
		return curlFault(6, "Could not resolve host: %s", host)
	case refused:
		return curlFault(7, "Failed to connect to %s port %s after %d ms: %s", host, port, ms, cause(err))
	case timeout:
		return curlFault(28, "Operation timed out after %d milliseconds with %d bytes received", ms, d.size)
	case badCertificate:
		return curlFault(60, "SSL certificate problem: %s\nThe server is not trusted: is the clock right, and the list of authorities there? -k goes without this check.", certificates(err))
	case badTLS:
		return curlFault(35, "TLS handshake with %s failed: %s", host, cause(err))
	case empty:
		return curlFault(52, "Empty reply from server")
	case cut:
		return curlFault(18, "transfer closed with outstanding read data remaining")
	}
	return curlFault(56, "Recv failure: %s", cause(err))
}

// format fills in -w.
func (d *download) format(f string, err error) string {
	var ce *curlError
	status := 0
	if errors.As(err, &ce) {
		status = ce.status
	}
	code, redirected := 0, ""
	if d.resp != nil {
		code = d.resp.StatusCode
		if u, ok := redirect(d.resp); ok {
			redirected = u.String()
		}
	}
	pairs := []string{`\n`, "\n", `\t`, "\t", `\r`, "\r", "%%", "%"}
	for name, v := range map[string]any{"http_code": fmt.Sprintf("%03d", code), "response_code": fmt.Sprintf("%03d", code), "size_download": d.size, "url_effective": d.effective, "url": d.named, "redirect_url": redirected, "content_type": d.header("Content-Type"),
		"num_redirects": d.redirects, "filename_effective": d.target, "exitcode": status, "scheme": strings.ToUpper(d.effective.Scheme), "time_total": fmt.Sprintf("%.6f", time.Since(d.start).Seconds()), "speed_download": int64(float64(d.size) / max(time.Since(d.start).Seconds(), 1e-6)), "errormsg": fmt.Sprint(err), "method": cmp.Or(d.Val("X"), "GET")} {
		pairs = append(pairs, "%{"+name+"}", fmt.Sprint(v))
	}
	return strings.NewReplacer(pairs...).Replace(f)
}
