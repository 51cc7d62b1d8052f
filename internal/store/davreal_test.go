package store

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha1"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

const nginxDir = "/var/cache/mkcdrec/nginx"

// webServer is a real web server with WebDAV over TLS, with a certificate of its own authority.
type webServer struct {
	dir, port string
}

// newWebServer makes what web servers need below a directory that their users can read: www/dav, the files cert and
// key, and pw with the password of "me".
func newWebServer(t *testing.T) *webServer {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: web servers change their user; CI is root")
	}
	dir, err := os.MkdirTemp("", "web-*")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	s := &webServer{dir: dir, port: freePort(t)}
	hash := sha1.Sum([]byte(davSecret))
	for name, text := range map[string]string{"pw": "me:{SHA}" + base64.StdEncoding.EncodeToString(hash[:]) + "\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{"www/dav", "tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s.certify(t)
	for _, d := range []string{"", "www", "www/dav", "tmp"} {
		if err := os.Chmod(filepath.Join(dir, d), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// certify makes the certificate of an authority, ca, and that of the server.
func (s *webServer) certify(t *testing.T) {
	t.Helper()
	write := func(name, kind string, b []byte) {
		if err := os.WriteFile(filepath.Join(s.dir, name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	pair := func(c, parent *x509.Certificate, by *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey, []byte) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if by == nil {
			parent, by = c, key
		}
		der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), by)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return cert, key, der
	}
	until := time.Now().Add(time.Hour)
	ca, caKey, der := pair(&x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ours"}, NotAfter: until, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, nil, nil)
	write("ca", "CERTIFICATE", der)
	_, key, der := pair(&x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "server"}, NotAfter: until, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, ca, caKey)
	write("cert", "CERTIFICATE", der)
	b, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write("key", "PRIVATE KEY", b)
}

// run starts a server with a configuration, in which DIR and PORT are replaced.
func (s *webServer) run(t *testing.T, config string, args ...string) {
	t.Helper()
	config = strings.NewReplacer("DIR", s.dir, "PORT", s.port).Replace(config)
	if err := os.WriteFile(s.dir+"/conf", []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	c := exec.Command(args[0], append(args[1:], s.dir+"/conf")...)
	log, err := os.Create(s.dir + "/out")
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	c.Stdout, c.Stderr = log, log
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		killTree(c.Process.Pid)
		_ = c.Wait()
		if t.Failed() {
			for _, f := range []string{"out", "error"} {
				b, _ := os.ReadFile(filepath.Join(s.dir, f))
				t.Logf("%s: %.3000s", f, b)
			}
		}
	})
	waitFor(t, s.port)
}

// site is a home on the server; with ca, its authority is trusted.
func (s *webServer) site(ca bool) *site {
	text := "- {url: 'https://127.0.0.1:" + s.port + "/dav', user: me, password: '" + davSecret + "'"
	if ca {
		text += ", ca: " + s.dir + "/ca"
	}
	c, err := ParseCredentials([]byte(text + "}"))
	if err != nil {
		panic(err)
	}
	return &site{url: "https://127.0.0.1:" + s.port + "/dav/ho%20me", hidden: []string{davSecret}, access: Access{Credentials: c}}
}

// apache starts Apache.
func apache(t *testing.T) *webServer {
	t.Helper()
	if _, err := os.Stat("/usr/sbin/apache2"); err != nil {
		t.Skip("needs Debian's apache2-bin")
	}
	s := newWebServer(t)
	config := "ServerRoot DIR\nServerName localhost\nPidFile DIR/pid\nListen 127.0.0.1:PORT\nErrorLog DIR/error\nUser www-data\nGroup www-data\n"
	for _, m := range []string{"mpm_event", "authn_core", "authz_core", "authn_file", "authz_user", "auth_basic", "dav", "dav_fs", "ssl"} {
		config += "LoadModule " + m + "_module /usr/lib/apache2/modules/mod_" + m + ".so\n"
	}
	config += "DocumentRoot DIR/www\nDavLockDB DIR/tmp/locks\nSSLEngine on\nSSLCertificateFile DIR/cert\nSSLCertificateKeyFile DIR/key\n" +
		"<Location /dav>\nDav On\nAuthType Basic\nAuthName x\nAuthUserFile DIR/pw\nRequire valid-user\n</Location>\n"
	s.run(t, config, "/usr/sbin/apache2", "-D", "FOREGROUND", "-f")
	return s
}

// nginx starts nginx with Debian's module for PROPFIND. Its packages are only unpacked: installing them would start it.
func nginx(t *testing.T) *webServer {
	t.Helper()
	if _, err := os.Stat(nginxDir + "/usr/sbin/nginx"); err != nil {
		if os.Getenv("MKCDREC_ALL") == "" || os.Geteuid() != 0 {
			t.Skip("needs " + nginxDir + ", which is made with MKCDREC_ALL=1, as root")
		}
		tmp := t.TempDir()
		for _, c := range [][]string{{"apt-get", "-q", "download", "nginx", "libnginx-mod-http-dav-ext"}, {"sh", "-ec", "for d in *.deb; do dpkg -x $d " + nginxDir + ".new; done; mv " + nginxDir + ".new " + nginxDir}} {
			x := exec.Command(c[0], c[1:]...)
			x.Dir = tmp
			if out, err := x.CombinedOutput(); err != nil {
				t.Skipf("nginx can't be had here: %v: %v\n%s", c, err, out)
			}
		}
	}
	s := newWebServer(t)
	s.run(t, `load_module `+nginxDir+`/usr/lib/nginx/modules/ngx_http_dav_ext_module.so;
user root; daemon off; pid DIR/pid; error_log DIR/error; events {}
http {
 access_log off; client_body_temp_path DIR/tmp; proxy_temp_path DIR/tmp; fastcgi_temp_path DIR/tmp; scgi_temp_path DIR/tmp; uwsgi_temp_path DIR/tmp;
 server {
  listen 127.0.0.1:PORT ssl; ssl_certificate DIR/cert; ssl_certificate_key DIR/key; root DIR/www; client_max_body_size 0;
  location /dav { auth_basic x; auth_basic_user_file DIR/pw; dav_methods PUT DELETE MKCOL COPY MOVE; dav_ext_methods PROPFIND OPTIONS; create_full_put_path on; }
 }
}
`, nginxDir+"/usr/sbin/nginx", "-e", s.dir+"/error", "-c")
	return s
}

// TestWebServers: homes on real web servers, over TLS with a certificate of an authority that is named.
func TestWebServers(t *testing.T) {
	for name, start := range map[string]func(t *testing.T) *webServer{"apache": apache, "nginx": nginx} {
		t.Run(name, func(t *testing.T) {
			if testing.Short() {
				t.Skip("takes a while")
			}
			w := start(t)
			s := w.site(true)
			for what, check := range map[string]func(*testing.T, *site, Home){
				"commit": checkCommit, "abort": checkAbort, "read": checkRead, "lists": checkLists, "remove": checkRemove,
				"names": checkNames, "parallel": checkParallel, "set": checkSet, "cancel": checkCancel,
			} {
				t.Run(what, func(t *testing.T) { check(t, s, s.open(t)) })
			}
			unknown := w.site(false)
			unknown.access.limits = fast
			if _, err := OpenHome(t.Context(), unknown.url, unknown.access); err == nil || !strings.Contains(err.Error(), "certificate signed by unknown authority") {
				t.Errorf("without ca: %v; want that its authority is not known", err)
			}
			wrong := w.site(true)
			wrong.access.Credentials[0].Password, wrong.access.limits = "another", fast
			if _, err := OpenHome(t.Context(), wrong.url, wrong.access); err == nil || !strings.Contains(err.Error(), strconv.Itoa(http.StatusUnauthorized)) {
				t.Errorf("with another password: %v; want %d", err, http.StatusUnauthorized)
			}
			for _, n := range []string{"conf"} { // is not a list of certificates
				bad := w.site(true)
				bad.access.Credentials[0].CA, bad.access.limits = fmt.Sprint(w.dir, "/", n), fast
				if _, err := OpenHome(t.Context(), bad.url, bad.access); err == nil {
					t.Errorf("with %s as the authority: no error", n)
				}
			}
		})
	}
}
