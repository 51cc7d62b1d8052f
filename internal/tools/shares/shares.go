// Package shares mounts the file systems of other machines: NFS and SMB. The kernel does it
// all; this package gives it the addresses, and finds out what is wrong when it fails.
package shares

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/printable"
)

// probeTimeout is how long a server may take for its first answer: the kernel alone would try
// for minutes.
const probeTimeout = 10 * time.Second

// System is what this package needs of the machine and of the person before it.
type System struct {
	Resolve func(host string) ([]string, error) // addresses
	Local   func(server string) string          // this machine's address for a server, "" if unknown
	Probe   func(addr string) error             // whether a TCP port answers
	Ask     func(question string) (string, error)
	Call    func(source, dir, typ string, flags uintptr, data string) error
}

// Machine is the real one; ask asks for a password.
func Machine(ask func(question string) (string, error)) System {
	return System{
		Resolve: net.LookupHost,
		Local: func(server string) string {
			c, err := net.Dial("udp", net.JoinHostPort(server, "9")) // sends nothing
			if err != nil {
				return ""
			}
			defer c.Close()
			host, _, _ := net.SplitHostPort(c.LocalAddr().String())
			return host
		},
		Probe: func(addr string) error {
			c, err := net.DialTimeout("tcp", addr, probeTimeout)
			if err == nil {
				c.Close()
			}
			return err
		},
		Ask:  ask,
		Call: unix.Mount,
	}
}

// Type gives the type of a source that is another machine's, "" for other sources:
// HOST:/PATH is NFS, //HOST/SHARE SMB.
func Type(source string) string {
	host, path, ok := strings.Cut(source, ":/")
	if strings.HasPrefix(source, "[") {
		host, path, ok = strings.Cut(source, "]:/")
	}
	switch {
	case strings.HasPrefix(source, "//"), strings.HasPrefix(source, `\\`):
		return "cifs"
	case ok && host != "" && !strings.Contains(host, "/") && !strings.HasPrefix(path, "/"):
		return "nfs"
	}
	return ""
}

// Known reports a type that Mount mounts.
func Known(typ string) bool { return slices.Contains([]string{"nfs", "nfs4", "cifs", "smb3"}, typ) }

// attempt is one call of mount(2).
type attempt struct{ typ, data string }

// Mount mounts a share. Options are those of mount.nfs(8) and mount.cifs(8) without the
// flags of mount(2).
func (s System) Mount(source, dir, typ string, flags uintptr, options []string) error {
	share, err := parse(source, typ)
	if err != nil {
		return err
	}
	addrs, err := s.Resolve(share.host)
	if err != nil || len(addrs) == 0 {
		return fmt.Errorf("cannot find the address of %s: is the name right, and is there a name server? (nslookup %s)", printable.Clean(share.host), printable.Clean(share.host))
	}
	slices.SortStableFunc(addrs, func(a, b string) int { return strings.Count(a, ":") - strings.Count(b, ":") }) // IPv4 first
	share.addr = addrs[0]
	if ip, ok := option(options, "addr", "ip"); ok {
		share.addr = ip
	}
	var tries []attempt
	if typ == "cifs" || typ == "smb3" {
		tries, err = s.smb(&share, typ, options)
	} else {
		tries, err = s.nfs(&share, typ, options)
	}
	if err != nil {
		return err
	}
	if err := s.Probe(net.JoinHostPort(share.addr, share.port)); err != nil {
		return fmt.Errorf("%s does not answer on port %s: %s", printable.Clean(share.host), share.port, unreachable(err))
	}
	var absent error // what a server answered that has no such export; it may not have the next version at all
	for i, t := range tries {
		err = s.Call(share.source, dir, t.typ, flags, t.data)
		if absent == nil && is(err, unix.ENOENT) {
			absent = err
		}
		// Another version may be the one that the server has.
		if err == nil || !is(err, unix.EPROTONOSUPPORT, unix.EINVAL, unix.EPROTO, unix.ENOENT, unix.EOPNOTSUPP) || i == len(tries)-1 {
			break
		}
	}
	if err != nil && absent != nil {
		err = absent
	}
	if err != nil {
		return &Error{share.explain(err), err}
	}
	return nil
}

// Error is why a share can't be mounted.
type Error struct {
	Text string
	err  error
}

func (e *Error) Error() string { return e.Text }
func (e *Error) Unwrap() error { return e.err }

// share is a directory of another machine.
type share struct {
	source   string // as the kernel has it
	host     string
	addr     string // of the host
	port     string
	path     string
	smb      bool
	user     string
	versions string // that were asked for; "" for any
}

func parse(source, typ string) (share, error) {
	if typ == "cifs" || typ == "smb3" {
		s := strings.ReplaceAll(strings.TrimPrefix(source, "smb:"), `\`, "/")
		host, path, ok := strings.Cut(strings.TrimPrefix(s, "//"), "/")
		if !strings.HasPrefix(s, "//") || !ok || host == "" || strings.Trim(path, "/") == "" {
			return share{}, fmt.Errorf("%s is not //HOST/SHARE", printable.Clean(source))
		}
		path = strings.Trim(path, "/")
		return share{source: "//" + host + "/" + path, host: host, path: path, smb: true}, nil
	}
	host, path, ok := strings.Cut(source, ":/")
	if strings.HasPrefix(source, "[") {
		host, path, ok = strings.Cut(source, "]:/")
	}
	if host = strings.TrimPrefix(host, "["); !ok || host == "" {
		return share{}, fmt.Errorf("%s is not HOST:/PATH", printable.Clean(source))
	}
	return share{source: source, host: host, path: "/" + path}, nil
}

// option gives the last value of an option that has one of the names.
func option(options []string, names ...string) (value string, ok bool) {
	for _, o := range options {
		if k, v, _ := strings.Cut(o, "="); slices.Contains(names, k) {
			value, ok = v, true
		}
	}
	return value, ok
}

// without leaves options out.
func without(options []string, names ...string) []string {
	return slices.DeleteFunc(slices.Clone(options), func(o string) bool {
		k, _, _ := strings.Cut(o, "=")
		return slices.Contains(names, k)
	})
}

// nfsVersions are those to try, the newest first, and the one that was asked for.
func nfsVersions(typ string, options []string) (versions []string, asked string, err error) {
	asked, given := option(options, "vers", "nfsvers")
	if minor, ok := option(options, "minorversion"); ok && (asked == "4" || asked == "") {
		asked, given = "4."+minor, true
	}
	versions = []string{"4.2", "4.1", "4.0", "3"}
	switch {
	case asked == "4" || typ == "nfs4" && !given:
		versions = versions[:3]
	case given && slices.Contains(append(versions, "2"), asked):
		versions = []string{asked}
	case given:
		return nil, "", fmt.Errorf("NFS has no version %s: the versions are 3, 4, 4.0, 4.1 and 4.2", printable.Clean(asked))
	}
	return versions, asked, nil
}

// nfs gives the calls that try the versions of NFS.
func (s System) nfs(sh *share, typ string, options []string) (out []attempt, err error) {
	versions, asked, err := nfsVersions(typ, options)
	if err != nil {
		return nil, err
	}
	port, _ := option(options, "port")
	rest := without(options, "vers", "nfsvers", "minorversion", "addr", "clientaddr", "bg", "fg", "retry", "sloppy", "lock", "intr", "nointr", "_netdev")
	sh.versions = asked
	if sh.port = "2049"; port != "" && port != "0" {
		sh.port = port
	} else if versions[0][0] != '4' {
		sh.port = "111" // rpcbind knows the port of version 3, and the kernel asks it
	}
	client, _ := option(options, "clientaddr")
	if client == "" {
		client = s.Local(sh.addr)
	}
	noLocks := slices.ContainsFunc(rest, func(o string) bool { return o == "nolock" || strings.HasPrefix(o, "local_lock=") })
	for _, v := range versions {
		o := append([]string{"vers=" + v, "addr=" + sh.addr}, rest...)
		switch v4 := v[0] == '4'; {
		case v4 && client != "":
			o = append(o, "clientaddr="+client)
		case !v4 && !noLocks:
			o = append(o, "nolock") // there is no rpc.statd
		}
		if strings.Contains(sh.addr, ":") && v[0] != '4' {
			o = append(o, "proto=tcp6")
		}
		out = append(out, attempt{"nfs", strings.Join(o, ",")})
	}
	return out, nil
}

// smb gives the call for a share of SMB.
func (s System) smb(sh *share, typ string, options []string) ([]attempt, error) {
	sh.port = "445"
	if p, ok := option(options, "port"); ok {
		sh.port = p
	}
	sh.versions, _ = option(options, "vers")
	sec, _ := option(options, "sec")
	kerberos := strings.HasPrefix(sec, "krb5")
	c, err := s.credentials(sh, options, sec == "none", kerberos)
	if err != nil {
		return nil, err
	}
	sh.user = c.user
	if strings.ContainsAny(c.user+c.domain, ",\x00\n") || strings.ContainsAny(c.password, "\x00\n") {
		return nil, errors.New("user name, password or domain have characters that the kernel can't take")
	}
	o := []string{"ip=" + sh.addr}
	if name, sub, _ := strings.Cut(sh.path, "/"); !strings.Contains(sh.path, ",") { // new kernels read the source
		if o = append(o, `unc=\\`+sh.host+`\`+name); sub != "" {
			o = append(o, "prefixpath="+sub)
		}
	}
	o = append(o, "user="+c.user)
	if !kerberos {
		o = append(o, "pass="+strings.ReplaceAll(c.password, ",", ",,")) // the kernel's way to write a comma
	}
	if c.domain != "" {
		o = append(o, "domain="+c.domain)
	}
	o = append(o, without(options, "credentials", "cred", "user", "username", "password", "pass", "domain", "dom", "workgroup", "guest", "ip", "addr", "unc", "_netdev")...)
	return []attempt{{typ, strings.Join(o, ",")}}, nil
}

// credentials takes user and password from the options, a file, the environment or the person.
func (s System) credentials(sh *share, options []string, guest, kerberos bool) (c credentials, err error) {
	if _, ok := option(options, "guest"); ok || guest {
		return credentials{hasPassword: true}, nil
	}
	if file, ok := option(options, "credentials", "cred"); ok {
		if err := c.readFile(file); err != nil {
			return c, err
		}
	}
	if v, ok := option(options, "user", "username"); ok {
		c.setUser(v)
	}
	if v, ok := option(options, "password", "pass"); ok {
		c.password, c.hasPassword = v, true
	}
	if v, ok := option(options, "domain", "dom", "workgroup"); ok {
		c.domain = v
	}
	if c.user == "" {
		c.user = "root"
		if u, err := user.Current(); err == nil {
			c.user = u.Username
		}
	}
	if p, ok := os.LookupEnv("PASSWD"); ok && !c.hasPassword {
		c.password, c.hasPassword = p, true
	}
	if !c.hasPassword && !kerberos {
		c.password, err = s.Ask(fmt.Sprintf("Password for %s@%s: ", c.user, sh.source))
		if err != nil {
			return c, fmt.Errorf("cannot ask for the password of %s: %w; -o guest needs none, -o credentials=FILE reads one", printable.Clean(c.user), err)
		}
	}
	return c, nil
}

// credentials are those of a user of SMB.
type credentials struct {
	user, password, domain string
	hasPassword            bool
}

// setUser takes DOMAIN/USER%PASSWORD.
func (c *credentials) setUser(s string) {
	if u, p, ok := strings.Cut(s, "%"); ok {
		s, c.password, c.hasPassword = u, p, true
	}
	if i := strings.IndexAny(s, `/\`); i >= 0 {
		c.domain, s = s[:i], s[i+1:]
	}
	c.user = s
}

// readFile reads a file of credentials, mount.cifs(8).
func (c *credentials) readFile(file string) error {
	b, err := os.ReadFile(file)
	if err != nil {
		var p *fs.PathError
		if errors.As(err, &p) {
			err = p.Err
		}
		return fmt.Errorf("cannot read the credentials in %s: %w", printable.Clean(file), err)
	}
	for l := range strings.Lines(string(b)) {
		k, v, ok := strings.Cut(strings.TrimRight(l, "\r\n"), "=")
		if !ok {
			continue
		}
		switch strings.TrimSpace(k) {
		case "username", "user":
			c.setUser(v)
		case "password", "pass":
			c.password, c.hasPassword = v, true
		case "domain", "dom":
			c.domain = v
		}
	}
	return nil
}

// unreachable words the failure of a connection.
func unreachable(err error) string {
	switch {
	case errors.Is(err, unix.ECONNREFUSED):
		return "connection refused: no such server runs there"
	case errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.ENETUNREACH):
		return "no route to it: is the network set up? (ip addr, ip route)"
	case os.IsTimeout(err), errors.Is(err, unix.ETIMEDOUT):
		return fmt.Sprintf("no answer within %v: is it on, and no firewall between?", probeTimeout)
	}
	return err.Error()
}

// is reports whether an error is one of those of the kernel.
func is(err error, any ...unix.Errno) bool {
	return slices.ContainsFunc(any, func(n unix.Errno) bool { return errors.Is(err, n) })
}

// explain gives the reason why the kernel could not mount a share.
func (sh *share) explain(err error) string {
	host := printable.Clean(sh.host)
	switch {
	case is(err, unix.ENODEV):
		return "the kernel has no driver for it, and the medium has no such module (modprobe " + map[bool]string{true: "cifs", false: "nfs"}[sh.smb] + ")"
	case is(err, unix.ECONNREFUSED, unix.EHOSTUNREACH, unix.ENETUNREACH, unix.ETIMEDOUT):
		return host + ": " + unreachable(err)
	case is(err, unix.EINVAL):
		return "the kernel does not take the options (dmesg)"
	case is(err, unix.EBUSY):
		return "already mounted or mount point busy"
	}
	path, version := printable.Clean(sh.path), "version "+sh.versions
	if sh.versions == "" {
		version = "a version that this kernel has"
	}
	if sh.smb {
		user := printable.Clean(sh.user)
		switch {
		case is(err, unix.EACCES, unix.EPERM):
			return fmt.Sprintf("permission denied: %s refuses user %q: wrong user name or password, or no right to %s", host, user, path)
		case is(err, unix.ENOENT, unix.ENXIO):
			return fmt.Sprintf("%s has no share or directory %s", host, path)
		case is(err, unix.EHOSTDOWN, unix.EOPNOTSUPP, unix.EPROTONOSUPPORT):
			return fmt.Sprintf("%s does not speak %s of SMB: try -o vers=3.0, 2.1 or 1.0", host, version)
		case is(err, unix.EKEYEXPIRED):
			return fmt.Sprintf("the password of user %q has expired", user)
		case is(err, unix.ENOKEY):
			return "there is no Kerberos ticket: use a password, with sec=ntlmssp"
		}
		return err.Error()
	}
	switch {
	case is(err, unix.EACCES, unix.EPERM):
		return fmt.Sprintf("permission denied: the exports of %s do not give %s to this machine (exportfs -v there)", host, path)
	case is(err, unix.ENOENT, unix.ESTALE):
		return fmt.Sprintf("%s has no export %s", host, path)
	case is(err, unix.EPROTONOSUPPORT, unix.EPROTO, unix.EOPNOTSUPP):
		return fmt.Sprintf("%s does not speak %s of NFS: try -o vers=4.2, 4.1, 4.0 or 3", host, version)
	}
	return err.Error()
}
