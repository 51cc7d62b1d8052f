package nettools

import (
	"bytes"
	"compress/gzip"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"
)

// webServer answers what the lines of TestWeb ask for.
func webServer() http.Handler {
	m := http.NewServeMux()
	old := time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC)
	content := bytes.Repeat([]byte("0123456789"), 5000)
	serve := func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", old, bytes.NewReader(content))
	}
	m.HandleFunc("/file", serve)
	m.HandleFunc("/dir/{name}", serve)
	m.HandleFunc("/dir/", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "index\n") })
	m.HandleFunc("/norange", func(w http.ResponseWriter, r *http.Request) { w.Write(content) })
	m.HandleFunc("/none", func(w http.ResponseWriter, r *http.Request) {})
	m.HandleFunc("/to/{code}/{path...}", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", "/"+r.PathValue("path"))
		code := 0
		fmt.Sscan(r.PathValue("code"), &code)
		w.WriteHeader(code)
		io.WriteString(w, "moved\n")
	})
	m.HandleFunc("/away/{scheme}/{host}/{path...}", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", r.PathValue("scheme")+"://"+r.PathValue("host")+"/"+r.PathValue("path"))
		w.WriteHeader(302)
	})
	m.HandleFunc("/wrong", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Range", "bytes 5-9/10")
		w.WriteHeader(206)
		io.WriteString(w, "other")
	})
	m.HandleFunc("/short", func(w http.ResponseWriter, r *http.Request) { w.Write(content[:12_345]) })
	m.HandleFunc("/loop", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/loop", http.StatusFound) })
	m.HandleFunc("/status/{code}", func(w http.ResponseWriter, r *http.Request) {
		code := 0
		fmt.Sscan(r.PathValue("code"), &code)
		w.WriteHeader(code)
		fmt.Fprintf(w, "status %d\n", code)
	})
	m.HandleFunc("/echo/", func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		kind := r.Header.Get("Content-Type")
		if strings.HasPrefix(kind, "multipart/") {
			r.Body = io.NopCloser(bytes.NewReader(b))
			if err := r.ParseMultipartForm(1 << 20); err == nil {
				f := r.MultipartForm.File["f"]
				r.Header.Del("Content-Length")
				kind, b = "multipart", []byte(fmt.Sprint(r.MultipartForm.Value, len(f), f[0].Filename, f[0].Size))
			}
		}
		fmt.Fprintf(w, "%s %s %q\n%s\n", r.Method, r.URL, kind, b)
		for _, h := range []string{"Accept", "X-Test", "Authorization", "Referer", "Cookie", "Range", "Content-Length"} {
			fmt.Fprintf(w, "%s: %s\n", h, r.Header.Get(h))
		}
		if a := r.Header.Get("User-Agent"); !strings.HasPrefix(a, "curl") && !strings.HasPrefix(a, "Wget") {
			fmt.Fprintln(w, a, r.Host == "named")
		}
	})
	m.HandleFunc("/auth", func(w http.ResponseWriter, r *http.Request) {
		if u, p, _ := r.BasicAuth(); u != "me" || p != "secret" {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(401)
			io.WriteString(w, "no\n")
			return
		}
		io.WriteString(w, "yes\n")
	})
	m.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		select {
		case <-time.After(20 * time.Second):
		case <-r.Context().Done():
		}
	})
	m.HandleFunc("/cut", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Range") != "" {
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
			return
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(content)))
		w.Write(content[:20_000])
		w.(http.Flusher).Flush()
		c, _, _ := w.(http.Hijacker).Hijack()
		c.Close()
	})
	m.HandleFunc("/empty", func(w http.ResponseWriter, r *http.Request) {
		c, _, _ := w.(http.Hijacker).Hijack()
		c.Close()
	})
	m.HandleFunc("/gzip", func(w http.ResponseWriter, r *http.Request) {
		if !strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
			io.WriteString(w, "plain\n")
			return
		}
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		io.WriteString(z, "unpacked\n")
		z.Close()
	})
	m.HandleFunc("/named", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Disposition", `attachment; filename="../other.txt"`)
		io.WriteString(w, "named\n")
	})
	m.HandleFunc("/head/no", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Date", "Thu, 02 Jan 2020 03:04:05 GMT")
		w.WriteHeader(404)
	})
	m.HandleFunc("/head", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Date", "Thu, 02 Jan 2020 03:04:05 GMT")
		w.Header().Set("X-One", "1")
		w.Header()["x-lower"] = []string{"a", "b"}
		w.Header().Set("Content-Type", "text/plain")
		io.WriteString(w, "body\n")
	})
	return m
}

const webLines = `
curl -s HTTP/file
curl -so x HTTP/file
curl -sO HTTP/file
curl -sOO HTTP/file HTTP/dir/two
curl -sO HTTP/dir/
curl -s -o x HTTP/file -o y HTTP/dir/two
curl -so nodir/x HTTP/file
curl -s --create-dirs -o m/n/x HTTP/file
curl -s --output-dir d -O HTTP/file
curl -sR -o x HTTP/file
curl -so x HTTP/none
curl -s HTTP/status/404
curl -sf HTTP/status/404
curl -sfo x HTTP/status/404
curl -s --fail-with-body HTTP/status/500
curl -s -o x HTTP/status/404
curl -sC - -o part HTTP/file
curl -sC 49990 HTTP/file
curl -sC - -o part HTTP/norange
curl -sC - -o full HTTP/file
curl -sC - -o new HTTP/file
curl -sC - -o part HTTP/status/404
curl -sC - -o part HTTP/status/500
curl -sfC - -o part HTTP/status/404
curl -sC - -o part --fail-with-body HTTP/status/404
curl -sC - -o part HTTP/wrong
curl -sC - -o part HTTP/short
curl -sC - -o part HTTP/status/200
curl -sC - -o part HTTP/to/302/file
curl -sLC - -o part HTTP/to/302/file
curl -sLC - -o part HTTP/to/302/status/404
curl -sC - -o part HTTP/status/416
curl -s -C 12345 -o part HTTP/file
curl -s -C 12345 -o new HTTP/status/404  ## no empty file is made
curl -s --fail-early -f HTTP/status/404 HTTP/status/200
curl -sfo part HTTP/status/404
curl -sfO HTTP/status/404 -O HTTP/file  ## an error counts that is not that of the last one, too
curl -sL -A agent -u me:x -b a=1 -H 'Authorization: Bearer t' -H 'Host: named' HTTP/away/http/127.0.0.1:OTHER/echo/  ## a cookie is not sent to another server
curl -sL -A agent -u me:x HTTP/away/http/127.0.0.1:OTHER/echo/
curl -sL -A agent -H 'Cookie: c=1' -H 'X-Test: 1' HTTP/away/http/127.0.0.1:OTHER/echo/
curl -sL -A agent -H 'authorization: Bearer t' -H 'Host: named' HTTP/away/http/localhost:PORT/echo/
curl -sL -A agent -b c=1 HTTP/away/http/127.0.0.1:OTHER/echo/  ## a cookie is not sent to another server
curl -sL -A agent -u me:x -H 'Cookie: c=1' HTTP/away/http/127.0.0.1:OTHER/away/http/127.0.0.1:PORT/echo/
curl -sL -A agent http://me:x@127.0.0.1:PORT/away/http/127.0.0.1:OTHER/echo/
curl -sL -A agent --location-trusted -u me:x -H 'Cookie: c=1' HTTP/away/http/127.0.0.1:OTHER/echo/
curl -sL -A agent -u me:x -H 'Cookie: c=1' HTTP/away/http/127.0.0.1:PORT/echo/
curl -skL -A agent -u me:x -H 'Cookie: c=1' HTTP/away/https/127.0.0.1:SPORT/echo/
curl -sfC - -o full HTTP/file
curl -s HTTP/to/302/file -o x
curl -s HTTP/to/301/none
curl -sL HTTP/to/302/file -o x
curl -sL HTTP/to/301/to/307/to/308/status/200
curl -sL --max-redirs 1 HTTP/to/301/to/307/to/308/status/200
curl -sL HTTP/loop
curl -sLd x=1 HTTP/to/302/echo/
curl -sLd x=1 HTTP/to/307/echo/
curl -sLd x=1 HTTP/to/303/echo/
curl -sL -X PUT -d x HTTP/to/302/echo/  ## sends Content-Length: 0
curl -sI HTTP/head
curl -si HTTP/head
curl -sIL HTTP/to/301/head | grep -v ^Date
curl -siL HTTP/to/301/head | grep -v ^Date
curl -sD - HTTP/head
curl -sD h -o x HTTP/head; cat h
curl -sI -o x HTTP/head
curl -sIf HTTP/head/no
curl -sif HTTP/head/no
curl -s HTTP/echo/
curl -s HTTP/echo/?q=1
curl -s -H 'X-Test: 1' -H 'Accept: text/x' -H 'Host: named' -A agent HTTP/echo/
curl -s -H 'Accept:' -H 'X-Test;' HTTP/echo/
curl -s -e from -b a=1 HTTP/echo/
curl -s -d a=1 -d b=2 HTTP/echo/
curl -s -d @lines HTTP/echo/
curl -s --data-binary @lines HTTP/echo/
curl -s --data-raw @lines HTTP/echo/
curl -s --data-urlencode 'n=a b&c' --data-urlencode 'x y' HTTP/echo/
curl -s -G -d a=1 --data-urlencode 'b=c d' HTTP/echo/
curl -s -d x -H 'Content-Type: application/json' HTTP/echo/
curl -s -F a=1 -F f=@lines HTTP/echo/
curl -s -d @nosuch HTTP/echo/  ## a missing file is an error
curl -s -X DELETE HTTP/echo/
curl -s -T lines HTTP/echo/x
curl -s -T lines HTTP/echo/
curl -s -T - HTTP/echo/x <lines
curl -s -T nosuch HTTP/echo/
curl -s -u me:secret HTTP/auth
curl -s -u me:wrong HTTP/auth
curl -sf -u me:wrong HTTP/auth
curl -s http://me:secret@127.0.0.1:PORT/auth
curl -s -r 5-9 HTTP/file
curl -s -m 1 HTTP/slow
curl -s --connect-timeout 1 HTTP/none
curl -s HTTP/cut | wc -c
curl -s HTTP/empty
curl -s HTTP/gzip
curl -s --compressed HTTP/gzip
curl -sOJ HTTP/named
curl -s -w '%{http_code} %{size_download} %{num_redirects} %{content_type} %{url_effective} %{exitcode}\n' -o x -L HTTP/to/302/status/404
curl -s -w '%{http_code}\n' -o x http://127.0.0.1:1/
curl -s http://127.0.0.1:1/
curl -s http://nosuch.invalid/
curl -s HTTPS/file
curl -sk HTTPS/file
curl -s --cacert CA HTTPS/none
curl -s --cacert CA -o x HTTPS/file
curl -s --cacert nosuch HTTPS/file
curl -s --cacert CA --resolve wrong.name:SPORT:127.0.0.1 https://wrong.name:SPORT/file
curl -s --cacert CA --resolve example.com:SPORT:127.0.0.1 https://example.com:SPORT/status/200
curl -s --resolve example.com:PORT:127.0.0.1 http://example.com:PORT/status/200
curl -sL --cacert CA HTTP/to/302/status/200
curl -s https://127.0.0.1:PORT/
curl -s --retry 1 HTTP/status/503
curl -s --limit-rate 1M -o x HTTP/file
curl -s file://DIR/lines
curl -s file://DIR/nosuch
curl -s -C 3 file://DIR/lines
curl -s foo://127.0.0.1:PORT/
curl -s http://
curl -s 127.0.0.1:PORT/status/200
curl -s HTTP/status/204
curl -s --url HTTP/status/201
curl
curl --nosuch
curl -s -m x HTTP/file
curl -s HTTP/file HTTP/status/200 -o x
curl -sN HTTP/status/200
curl -sS HTTP/file -o d
curl -s -o /dev/full HTTP/file
curl -x 127.0.0.1:1 -s HTTP/file
curl -s HTTP/file >/dev/full
curl -s -o x -w '%{http_code}\n' HTTP/file >/dev/full  ## the error is reported
wget -qO- HTTP/file >/dev/full
wget -q HTTP/file
wget -q HTTP/file; wget -q HTTP/file; ls
wget -q HTTP/dir/
wget -q HTTP/dir/two?x=1
wget -qO- HTTP/status/200
wget -q -O x HTTP/file
wget -q -O x HTTP/file HTTP/dir/two
wget -q -O x HTTP/status/404
wget -q HTTP/status/404
wget -q HTTP/status/500
wget -q -c HTTP/dir/part
wget -q -c -O part HTTP/file
wget -q -c HTTP/dir/full
wget -q -c HTTP/norange; wget -q -c HTTP/norange
cp part norange; wget -q -c HTTP/norange
wget -q -c HTTP/dir/new
cp part 404; wget -q -c HTTP/status/404
cp part wrong; wget -q -t 1 -c HTTP/wrong
cp part short; wget -q -c HTTP/short
cp part 200; wget -q -c HTTP/status/200
wget -q -c -O part HTTP/status/404
wget -q -c -O part HTTP/status/500
wget -qO- -U agent --header 'Authorization: Bearer t' --header 'Cookie: c=1' HTTP/away/http/localhost:OTHER/echo/  ## neither is sent to another server
wget -qO- -U agent --user me --password x HTTP/away/http/localhost:OTHER/echo/
wget -qO- -U agent http://me:x@127.0.0.1:PORT/away/http/localhost:OTHER/echo/
wget -qO- -U agent --header 'Authorization: Bearer t' --header 'Cookie: c=1' HTTP/to/302/echo/
wget -q -nc HTTP/file; wget -q -nc HTTP/file
wget -q -P m/n HTTP/file
wget -q HTTP/to/302/file
wget -q HTTP/loop
wget -q --max-redirect=0 HTTP/to/302/file
wget -q HTTP/cut
wget -q -t 1 HTTP/cut
wget -q -t 1 HTTP/empty
wget -q -t 1 -T 1 -O- HTTP/slow
wget -qO- --header 'X-Test: 1' --header 'Host: named' -U agent HTTP/echo/
wget -qO- --referer from HTTP/echo/
wget -qO- --post-data a=1 HTTP/echo/
wget -qO- --post-file lines HTTP/echo/
wget -qO- --method=PUT --body-data=x HTTP/echo/ | head -1
wget -qO- --user me --password secret HTTP/auth
wget -qO- --user me --password wrong HTTP/auth
wget -qO- http://me:secret@127.0.0.1:PORT/auth
wget -q --content-disposition HTTP/named
wget -q --spider HTTP/file
wget -q --spider HTTP/status/404
wget -q HTTPS/file
wget -q --no-check-certificate HTTPS/file
wget -q --ca-certificate=CA HTTPS/file
wget -q http://127.0.0.1:1/
wget -q -t 1 http://nosuch.invalid/
wget -q -i urls
wget -q -O nodir/x HTTP/file
wget -q -O /dev/full HTTP/file
wget -nv HTTP/file
wget HTTP/file
wget -o log -q HTTP/file
wget -q foo://127.0.0.1/
wget -q
wget --nosuch
wget -q HTTP/none
wget -q HTTP/status/404 HTTP/file
wget -q --limit-rate=1m HTTP/file
wget -q 127.0.0.1:PORT/file
`

var copied = regexp.MustCompile(`^cp part \w+; `)

// TestWeb: our curl and wget do what curl and wget do: output, exit status, and files.
func TestWeb(t *testing.T) {
	plain, secret := httptest.NewServer(webServer()), httptest.NewUnstartedServer(webServer())
	other := httptest.NewServer(webServer())
	t.Cleanup(func() { other.CloseClientConnections(); other.Close() })
	secret.Config.ErrorLog = nil
	secret.StartTLS()
	t.Cleanup(func() { plain.CloseClientConnections(); plain.Close(); secret.CloseClientConnections(); secret.Close() })
	ca := t.TempDir() + "/ca.pem"
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secret.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	for _, n := range []string{"curl", "wget"} {
		if err := os.WriteFile(bin+"/"+n, []byte("#!/bin/sh\nNETTOOL="+n+" exec "+os.Args[0]+" \"$@\"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	port := func(s *httptest.Server) string { u, _ := url.Parse(s.URL); return u.Port() }
	for l := range strings.Lines(webLines) {
		l, differs, _ := strings.Cut(strings.TrimSpace(l), "  ## ")
		if l == "" {
			continue
		}
		name, _, _ := strings.Cut(copied.ReplaceAllString(l, ""), " ")
		if _, err := exec.LookPath(name); err != nil {
			continue
		}
		t.Run(l, func(t *testing.T) {
			t.Parallel()
			var results [2]outcome
			var trees [2]string
			for i, path := range []string{bin + ":", ""} {
				dir := t.TempDir()
				content := bytes.Repeat([]byte("0123456789"), 5000)
				old := time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC)
				if err := errors.Join(os.WriteFile(dir+"/lines", []byte("one\ntwo\n"), 0o600), os.WriteFile(dir+"/part", content[:12_345], 0o600), os.WriteFile(dir+"/full", content, 0o600),
					os.WriteFile(dir+"/urls", []byte(plain.URL+"/file\n"+plain.URL+"/dir/two\n"), 0o600), os.Mkdir(dir+"/d", 0o700), os.Chtimes(dir+"/full", old, old)); err != nil {
					t.Fatal(err)
				}
				text := strings.NewReplacer("HTTPS", secret.URL, "HTTP/", plain.URL+"/", "SPORT", port(secret), "OTHER", port(other), "PORT", port(plain), "CA ", ca+" ", "=CA", "="+ca, "DIR", dir).Replace(l)
				c := exec.Command("/bin/sh", "-c", text)
				c.Env = []string{"PATH=" + path + "/usr/bin:/bin", "HOME=" + dir, "LC_ALL=C", "TZ=UTC"}
				results[i] = run(t, c, dir, "")
				results[i].out = strings.ReplaceAll(results[i].out, dir, "DIR")
				trees[i] = sshTree(t, dir)
			}
			same := results[0].out == results[1].out && results[0].status == results[1].status && trees[0] == trees[1]
			if same && differs != "" {
				t.Errorf("%s is the same; the table has %q", l, differs)
			}
			if !same && differs == "" {
				t.Errorf("%s = %d %.300q (%s); want %d %.300q (%s)", l, results[0].status, results[0].out, results[0].errs, results[1].status, results[1].out, results[1].errs)
				if trees[0] != trees[1] {
					t.Errorf("leaves\n%s; want\n%s", trees[0], trees[1])
				}
			}
		})
	}
}

// TestMessages: errors name what is wrong, on standard error, unless -s hides them.
func TestMessages(t *testing.T) {
	s := httptest.NewTLSServer(webServer())
	t.Cleanup(s.Close)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	for line, want := range map[string]string{
		"curl http://" + addr:             "curl: (7) Failed to connect to 127.0.0.1 port ",
		"curl -s http://" + addr:          "",
		"curl -sS http://" + addr:         "Connection refused",
		"curl -sk " + s.URL + "/echo/ -f": "",
		"curl " + s.URL:                   "curl: (60) SSL certificate problem: certificate signed by unknown authority",
		"curl -kf " + s.URL + "/empty":    "curl: (52)",
		"wget " + s.URL:                   "cannot verify the certificate",
		"wget http://" + addr:             "Connection refused",
		"wget -q http://" + addr:          "",
		"rsync -a /x host:/y":             "scp -rp /x host:/y\nwith owners, links and all: tar -cf - -C /x . | ssh host tar -xpf - -C /y",
		"rsync host:/x y":                 "ssh host tar -cf - -C /x . | tar -xpf - -C y",
	} {
		w := strings.Fields(line)
		r := run(t, tool(t.TempDir(), w[0], w[1:]...), t.TempDir(), "")
		if !strings.Contains(r.errs, want) || want == "" && r.errs != "" {
			t.Errorf("%s prints %q; want %q", line, r.errs, want)
		}
		if w[0] == "rsync" && r.status != 127 {
			t.Errorf("%s = %d; want 127", line, r.status)
		}
	}
}

// TestPasswordOfURL: curl -u without a password asks for it.
func TestPasswordOfURL(t *testing.T) {
	s := httptest.NewServer(webServer())
	t.Cleanup(s.Close)
	x := onTerminal(t, tool(t.TempDir(), "curl", "-s", "-u", "me", s.URL+"/auth"))
	x.answer("Enter host password for user 'me':", "secret\n")
	x.Want("yes")
	x.ends(0)
	x = onTerminal(t, tool(t.TempDir(), "wget", "-qO-", "--user", "me", "--ask-password", s.URL+"/auth"))
	x.answer("Password for user 'me': ", "secret\n")
	x.Want("yes")
	x.ends(0)
}
