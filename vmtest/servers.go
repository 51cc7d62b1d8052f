package vmtest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// Gateway is this host for a machine with QEMU's user network.
const Gateway = "10.0.2.2"

// Servers are other people's servers on this host's loopback, which all serve Share.
type Servers struct {
	Dir   string // keys and configurations
	Share string
	// Ports are by service: http, https, ssh, smb, nfs, dns.
	Ports map[string]int
	stop  []func()
	args  map[string][]string // of the programs, by service
	kill  map[string]func()
	pid   map[string]int
}

// StartServers starts OpenSSH, Samba, NFS-Ganesha (version 4), a web server with and
// without TLS and a name server. Dir is made.
func StartServers(ctx context.Context, dir string) (s *Servers, err error) {
	s = &Servers{Dir: dir, Share: filepath.Join(dir, "share"), Ports: map[string]int{}, args: map[string][]string{}, kill: map[string]func(){}, pid: map[string]int{}}
	defer func() {
		if err != nil {
			s.Stop()
		}
	}()
	if err := os.MkdirAll(s.Share, 0o777); err != nil {
		return nil, err
	}
	for _, start := range []func(context.Context) error{s.web, s.ssh, s.samba, s.ganesha, s.names} {
		if err := start(ctx); err != nil {
			return s, err
		}
	}
	return s, nil
}

// Stop ends all of them.
func (s *Servers) Stop() {
	for _, f := range s.stop {
		f()
	}
}

// daemon starts a program that stays in the foreground, and waits until it listens.
func (s *Servers) daemon(ctx context.Context, service string, args ...string) error {
	log, err := os.Create(filepath.Join(s.Dir, service+".log"))
	if err != nil {
		return err
	}
	defer log.Close()
	c := exec.CommandContext(ctx, args[0], args[1:]...)
	c.Stdout, c.Stderr = log, log
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // some have a process for each connection
	if err := c.Start(); err != nil {
		return fmt.Errorf("cannot start %s: %w", args[0], err)
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	end := sync.OnceFunc(func() {
		_ = syscall.Kill(-c.Process.Pid, syscall.SIGKILL) // it may have ended
		<-ended
	})
	s.args[service], s.kill[service], s.pid[service], s.stop = args, end, c.Process.Pid, append(s.stop, end)
	for range 300 {
		if l, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", s.Ports[service])); err == nil {
			return l.Close()
		}
		select {
		case err := <-ended:
			ended <- err
			text, _ := os.ReadFile(log.Name()) // shown as far as there is any
			return fmt.Errorf("%s has ended: %v\n%s", args[0], err, text)
		case <-time.After(100 * time.Millisecond):
		}
	}
	return fmt.Errorf("%s does not listen on port %d", args[0], s.Ports[service])
}

// CPU is the processor time that a server has used, with its connections that ended, in seconds: proc_pid_stat(5).
func (s *Servers) CPU(service string) (seconds float64) {
	all, _ := filepath.Glob("/proc/[0-9]*/stat") // the pattern is good
	for _, f := range all {
		b, err := os.ReadFile(f)
		_, rest, ok := strings.Cut(string(b), ") ")
		v := strings.Fields(rest)
		if err != nil || !ok || len(v) < 15 || v[2] != fmt.Sprint(s.pid[service]) {
			continue // it has ended, or is of another group
		}
		for _, t := range v[11:15] { // its own, and of its children that ended
			n, _ := strconv.ParseFloat(t, 64) // the kernel writes numbers
			seconds += n / 100                // USER_HZ
		}
	}
	return seconds
}

// Kill ends a server at once, with its connections.
func (s *Servers) Kill(service string) { s.kill[service]() }

// Restart starts a server that was killed again, on the same port.
func (s *Servers) Restart(ctx context.Context, service string) error {
	return s.daemon(ctx, service, s.args[service]...)
}

// freePort gives a port of this host's loopback that nobody listens on.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	return l.Addr().(*net.TCPAddr).Port, l.Close()
}

func (s *Servers) port(service string) (port int, err error) {
	port, err = freePort()
	s.Ports[service] = port
	return port, err
}

// write makes a configuration file.
func (s *Servers) write(name, text string, perm os.FileMode) (string, error) {
	file := filepath.Join(s.Dir, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return "", err
	}
	return file, os.WriteFile(file, []byte(text), perm)
}

// web serves Share by HTTP with ranges, and by HTTPS with the certificate ca.pem.
func (s *Servers) web(context.Context) error {
	plain := httptest.NewServer(http.FileServer(http.Dir(s.Share)))
	s.stop = append(s.stop, plain.Close)
	s.Ports["http"] = plain.Listener.Addr().(*net.TCPAddr).Port
	cert, err := s.certificate()
	if err != nil {
		return err
	}
	pair, err := tls.LoadX509KeyPair(cert, s.Dir+"/cert.key")
	if err != nil {
		return err
	}
	secure := httptest.NewUnstartedServer(http.FileServer(http.Dir(s.Share)))
	secure.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	secure.StartTLS()
	s.stop = append(s.stop, secure.Close)
	s.Ports["https"] = secure.Listener.Addr().(*net.TCPAddr).Port
	return nil
}

// certificate makes share/ca.pem, a certificate of this host that signs itself, and its key, cert.key.
func (s *Servers) certificate() (file string, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", err
	}
	cert := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.ParseIP(Gateway), net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, key.Public(), key)
	if err != nil {
		return "", err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err == nil {
		_, err = s.write("cert.key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})), 0o600)
	}
	if err != nil {
		return "", err
	}
	return s.write("share/ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), 0o644)
}

// ssh lets root in with the key in share/key.
func (s *Servers) ssh(ctx context.Context) error {
	port, err := s.port("ssh")
	if err != nil {
		return err
	}
	for _, k := range []string{"host", "share/key"} {
		if err := command(ctx, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(s.Dir, k)); err != nil {
			return err
		}
	}
	pub, err := os.ReadFile(s.Share + "/key.pub")
	if err != nil {
		return err
	}
	keys, err := s.write("authorized_keys", string(pub), 0o600)
	if err != nil {
		return err
	}
	conf, err := s.write("sshd_config", strings.Join([]string{fmt.Sprintf("Port %d", port), "ListenAddress 127.0.0.1", "HostKey " + s.Dir + "/host", "AuthorizedKeysFile " + keys, "StrictModes no", "UsePAM no",
		"PermitRootLogin prohibit-password", "PidFile none", "Subsystem sftp internal-sftp", ""}, "\n"), 0o600)
	if err == nil {
		err = os.MkdirAll("/run/sshd", 0o755)
	}
	if err != nil {
		return err
	}
	return s.daemon(ctx, "ssh", "/usr/sbin/sshd", "-D", "-e", "-f", conf)
}

// samba serves \\host\share to root with the password geheim, and the same at \\host\ro, read-only.
func (s *Servers) samba(ctx context.Context) error {
	port, err := s.port("smb")
	if err != nil {
		return err
	}
	conf := []string{"[global]", "server role = standalone server", "interfaces = lo", "bind interfaces only = yes", fmt.Sprintf("smb ports = %d", port), "passdb backend = smbpasswd:" + s.Dir + "/smb/passwd",
		"server min protocol = SMB3", "server signing = mandatory", "disable spoolss = yes", "log file = " + s.Dir + "/smb/log"}
	for _, d := range []string{"lock directory", "state directory", "cache directory", "private dir", "pid directory", "ncalrpc dir"} {
		dir := filepath.Join(s.Dir, "smb", strings.ReplaceAll(d, " ", "-"))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		conf = append(conf, d+" = "+dir)
	}
	conf = append(conf, "[share]", "path = "+s.Share, "read only = no", "force user = root", "[ro]", "path = "+s.Share, "read only = yes", "force user = root", "")
	file, err := s.write("smb.conf", strings.Join(conf, "\n"), 0o600)
	if err != nil {
		return err
	}
	c := exec.CommandContext(ctx, "smbpasswd", "-c", file, "-s", "-a", "root")
	c.Stdin = strings.NewReader("geheim\ngeheim\n")
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("smbpasswd: %w: %s", err, out)
	}
	return s.daemon(ctx, "smb", "/usr/sbin/smbd", "-F", "-s", file, "--no-process-group")
}

// ganesha serves /share by NFS version 4, and the same at /ro, read-only.
func (s *Servers) ganesha(ctx context.Context) error {
	port, err := s.port("nfs")
	if err != nil {
		return err
	}
	conf, err := s.write("ganesha.conf", `NFS_CORE_PARAM { Protocols = 4; NFS_Port = `+fmt.Sprint(port)+`; Bind_addr = 127.0.0.1; Enable_NLM = false; Enable_RQUOTA = false; }
NFSv4 { Graceless = true; RecoveryBackend = fs; RecoveryRoot = `+s.Dir+`/nfs; Only_Numeric_Owners = true; }
EXPORT { Export_Id = 1; Path = `+s.Share+`; Pseudo = /share; Access_Type = RW; Squash = No_Root_Squash; SecType = sys; Transports = TCP; Protocols = 4; PrivilegedPort = false; FSAL { Name = VFS; } }
EXPORT { Export_Id = 2; Path = `+s.Share+`; Pseudo = /ro; Access_Type = RO; Squash = No_Root_Squash; SecType = sys; Transports = TCP; Protocols = 4; PrivilegedPort = false; FSAL { Name = VFS; } }
`, 0o600)
	if err == nil {
		err = os.MkdirAll(s.Dir+"/nfs", 0o755)
	}
	if err != nil {
		return err
	}
	return s.daemon(ctx, "nfs", "ganesha.nfsd", "-F", "-f", conf, "-L", s.Dir+"/ganesha.log", "-p", s.Dir+"/ganesha.pid")
}

// Versity is versitygw, a server of S3 for a directory, which the tests of internal/store build.
const Versity = "/var/cache/mkcdrec/versitygw-1.8.0/versitygw"

// S3 serves the bucket sets by TLS to the user mkcdrec with the password geheimgeheim.
func (s *Servers) S3(ctx context.Context) error {
	port, err := s.port("s3")
	if err != nil {
		return err
	}
	dir := filepath.Join(s.Dir, "s3")
	if err := os.MkdirAll(filepath.Join(dir, "sets"), 0o700); err != nil {
		return err
	}
	// Secrets in the environment of a server that lives as long as the test.
	return s.daemon(ctx, "s3", "/usr/bin/env", "ROOT_ACCESS_KEY=mkcdrec", "ROOT_SECRET_KEY=geheimgeheim", Versity, "--cert", s.Share+"/ca.pem", "--key", s.Dir+"/cert.key", "--port", fmt.Sprintf("127.0.0.1:%d", port), "posix", dir)
}

// names answers every question for an IPv4 address with 192.0.2.77.
func (s *Servers) names(context.Context) error {
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s.Ports["dns"] = c.LocalAddr().(*net.UDPAddr).Port
	s.stop = append(s.stop, func() { c.Close() })
	go func() {
		b := make([]byte, 4096)
		for {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(b[:n]) != nil || len(m.Questions) == 0 {
				continue
			}
			q := m.Questions[0]
			a := dnsmessage.Message{Header: dnsmessage.Header{ID: m.ID, Response: true, RecursionAvailable: true}, Questions: m.Questions[:1]}
			if q.Type == dnsmessage.TypeA {
				a.Answers = []dnsmessage.Resource{{Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 60}, Body: &dnsmessage.AResource{A: [4]byte{192, 0, 2, 77}}}}
			}
			if out, err := a.Pack(); err == nil {
				_, _ = c.WriteTo(out, from) // who asked asks again
			}
		}
	}()
	return nil
}

// Fill replaces PORT(service) and HOST in a line that is typed in a machine.
func (s *Servers) Fill(line string) string {
	var words []string
	for name, port := range s.Ports {
		words = append(words, "PORT("+name+")", fmt.Sprint(port))
	}
	return strings.NewReplacer(append(words, "HOST", Gateway)...).Replace(line)
}
