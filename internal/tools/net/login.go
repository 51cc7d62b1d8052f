package nettools

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/mkcdrec/mkcdrec/internal/hostkey"
	"github.com/mkcdrec/mkcdrec/internal/interrupt"
	"github.com/mkcdrec/mkcdrec/internal/printable"
	"github.com/mkcdrec/mkcdrec/internal/tools"
)

// sshFailed is the exit status of ssh(1) for its own errors.
const sshFailed = 255

// maxAsks is how often a password or passphrase is asked for.
const maxAsks = 3

// login is how the options of ssh, scp and sftp want machines to be logged in to.
type login struct {
	*tools.Env
	words map[string]string // -o, by names in small letters
	keys  []ssh.Signer
	read  bool // keys are read
}

// place is a machine, and a path on it for scp and sftp.
type place struct{ user, host, port, path string }

func (p place) addr() string { return net.JoinHostPort(p.host, p.port) }

// options are the words of ssh_config(5) that are followed, and those that change nothing here.
const options = `batchmode connecttimeout hostname identitiesonly identityfile kbdinteractiveauthentication loglevel numberofpasswordprompts
passwordauthentication port preferredauthentications proxyjump pubkeyauthentication requesttty serveralivecountmax serveraliveinterval
stricthostkeychecking user userknownhostsfile globalknownhostsfile hostkeyalgorithms ciphers macs kexalgorithms
addressfamily addkeystoagent checkhostip compression controlmaster controlpath controlpersist escapechar exitonforwardfailure
fingerprinthash forwardagent forwardx11 gssapiauthentication hashknownhosts identityagent ipqos permitlocalcommand sendenv tcpkeepalive updatehostkeys
visualhostkey pubkeyacceptedalgorithms pubkeyacceptedkeytypes challengeresponseauthentication clearallforwardings`

// newLogin reads the options; the first one of a kind counts.
func newLogin(e *tools.Env) (*login, error) {
	l := &login{Env: e, words: map[string]string{}}
	put := func(name, val string) {
		if _, has := l.words[name]; !has {
			l.words[name] = val
		}
	}
	for _, x := range e.All() {
		switch {
		case x.Name == "p" && e.Name == "ssh", x.Name == "P":
			put("port", x.Value)
		case x.Name == "l" && e.Name == "ssh":
			put("user", x.Value)
		case x.Name == "c":
			put("ciphers", x.Value)
		case x.Name == "J":
			put("proxyjump", x.Value)
		case x.Name == "o":
			name, val, ok := strings.Cut(strings.TrimSpace(x.Value), "=")
			if !ok {
				name, val, ok = strings.Cut(name, " ")
			}
			name, val = strings.ToLower(strings.TrimSpace(name)), strings.Trim(strings.TrimSpace(val), `"`)
			if !slices.Contains(strings.Fields(options), name) {
				return nil, fmt.Errorf("command-line: line 0: Bad configuration option: %s", name)
			}
			if !ok || val == "" {
				return nil, fmt.Errorf("command-line line 0: no argument after keyword %q", name)
			}
			put(name, val)
		}
	}
	if f := e.Val("F"); f != "" && f != "none" && f != "/dev/null" {
		return nil, fmt.Errorf("files of options are not read: give those of %s with -o", f)
	}
	e.Ignore("A")
	for _, n := range []string{"numberofpasswordprompts", "connecttimeout", "serveraliveinterval", "serveralivecountmax"} {
		if v, ok := l.words[n]; ok {
			if _, err := strconv.ParseUint(v, 10, 31); err != nil {
				return nil, fmt.Errorf("command-line line 0: integer value %s", v)
			}
		}
	}
	return l, nil
}

func (l *login) number(name string, other int) int {
	if n, err := strconv.Atoi(l.words[name]); err == nil {
		return n
	}
	return other
}

// no reports whether a word is switched off.
func (l *login) no(name string) bool { return l.words[name] == "no" }

// parsePlace reads [USER@]HOST[:PORT] or scheme://..., and for scp and sftp [USER@]HOST:PATH.
func parsePlace(s, scheme string, withPath bool) (place, error) {
	var p place
	if rest, ok := strings.CutPrefix(s, scheme+"://"); ok {
		u, err := url.Parse(scheme + "://" + rest)
		if err != nil || u.Hostname() == "" {
			return p, fmt.Errorf("%s: invalid address", printable.Clean(s))
		}
		p = place{host: u.Hostname(), port: u.Port(), user: u.User.Username()}
		if p.path = strings.TrimPrefix(u.Path, "/"); !withPath && p.path != "" {
			return p, fmt.Errorf("%s: invalid address", printable.Clean(s))
		}
		return p, nil
	}
	if i := strings.LastIndexByte(s[:hostEnd(s)], '@'); i >= 0 {
		p.user, s = s[:i], s[i+1:]
	}
	if withPath {
		n := hostEnd(s)
		p.host, p.path = s[:n], strings.TrimPrefix(s[n:], ":")
	} else if h, port, err := net.SplitHostPort(s); err == nil && strings.Count(s, ":") == 1 || strings.HasPrefix(s, "[") && err == nil {
		p.host, p.port = h, port // -J
	} else {
		p.host = s
	}
	p.host = strings.TrimSuffix(strings.TrimPrefix(p.host, "["), "]")
	if p.host == "" || p.host[0] == '-' || strings.ContainsAny(p.host, "/ \t\n") {
		return p, errors.New("hostname contains invalid characters")
	}
	return p, nil
}

// hostEnd is the length of [USER@]HOST before the colon and the path; all of s without one.
func hostEnd(s string) int {
	if i := strings.Index(s, "["); i == 0 || i > 0 && s[i-1] == '@' {
		if j := strings.Index(s[i:], "]:"); j > 0 {
			return i + j + 1
		}
	}
	if i := strings.IndexByte(s, ':'); i >= 0 {
		return i
	}
	return len(s)
}

// fill completes a place by the options.
func (l *login) fill(p place) (place, error) {
	p.user, p.port = cmp.Or(l.words["user"], p.user), cmp.Or(p.port, l.words["port"])
	return account(p)
}

// account completes a place by the account that the program runs in, and the port of ssh.
func account(p place) (place, error) {
	if p.user == "" {
		p.user = cmp.Or(os.Getenv("USER"), "root")
		if u, err := user.Current(); err == nil {
			p.user = u.Username
		}
	}
	p.port = cmp.Or(p.port, "22")
	if n, err := strconv.Atoi(p.port); err != nil || n < 1 || n > 65535 {
		return p, fmt.Errorf("bad port '%s'", printable.Clean(p.port))
	}
	return p, nil
}

// dial logs in to a machine, through others if the options want that.
func (l *login) dial(to place) (*ssh.Client, error) {
	var via *ssh.Client
	jumps := l.words["proxyjump"]
	if jumps == "none" {
		jumps = ""
	}
	for j := range strings.SplitSeq(jumps, ",") {
		if j == "" {
			continue
		}
		p, err := parsePlace(j, "ssh", false)
		if err == nil {
			p, err = account(p)
		}
		if err != nil {
			return nil, fmt.Errorf("invalid -J argument: %w", err)
		}
		if via, err = l.hop(via, p, p.host); err != nil {
			return nil, err
		}
	}
	if l.words["hostname"] != "" {
		return l.hop(via, place{to.user, l.words["hostname"], to.port, ""}, l.words["hostname"])
	}
	return l.hop(via, to, to.host)
}

// hop logs in to one machine, behind another one if via is not nil.
func (l *login) hop(via *ssh.Client, p place, name string) (*ssh.Client, error) {
	l.debug("Connecting to %s port %s.", name, p.port)
	network := "tcp"
	if l.On("4") {
		network = "tcp4"
	} else if l.On("6") {
		network = "tcp6"
	}
	timeout := time.Duration(l.number("connecttimeout", 0)) * time.Second
	var conn net.Conn
	var err error
	if via == nil {
		conn, err = (&net.Dialer{Timeout: timeout}).Dial(network, p.addr())
	} else {
		conn, err = via.Dial("tcp", p.addr())
	}
	var dns *net.DNSError
	if errors.As(err, &dns) {
		return nil, said("Could not resolve hostname %s: %s", printable.Clean(name), cause(err))
	} else if err != nil {
		return nil, fmt.Errorf("connect to host %s port %s: %s", printable.Clean(name), p.port, cause(err))
	}
	trust, algorithms, err := l.knownHosts(p)
	if err != nil {
		conn.Close()
		return nil, err
	}
	refused := error(nil)
	all := ssh.SupportedAlgorithms()
	config := &ssh.ClientConfig{
		Config: ssh.Config{KeyExchanges: l.list("kexalgorithms", all.KeyExchanges), Ciphers: l.list("ciphers", all.Ciphers), MACs: l.list("macs", all.MACs)},
		User:   p.user, HostKeyAlgorithms: algorithms, Auth: l.methods(p), ClientVersion: "SSH-2.0-mkcdrec",
		HostKeyCallback: func(addr string, remote net.Addr, key ssh.PublicKey) error {
			_ = conn.SetDeadline(time.Time{}) // nor can this fail
			refused = trust(addr, remote, key)
			return refused
		},
		BannerCallback: func(text string) error {
			if !l.On("q") {
				fmt.Fprint(l.Err, printable.CleanLines(text))
			}
			return nil
		},
	}
	if timeout > 0 {
		// It ends when the server has proved its key: a person may take longer to type a password.
		_ = conn.SetDeadline(time.Now().Add(timeout)) // a channel through another machine has none
	}
	c, channels, requests, err := ssh.NewClientConn(conn, p.addr(), config)
	switch _ = conn.SetDeadline(time.Time{}); {
	case refused != nil:
		err = refused
	case err != nil && strings.Contains(err.Error(), "unable to authenticate"):
		tried := strings.Trim(err.Error()[strings.IndexByte(err.Error(), '[')+1:], " ")
		tried, _, _ = strings.Cut(tried, "]")
		err = said("%s@%s: Permission denied (%s).", printable.Clean(p.user), printable.Clean(name), strings.ReplaceAll(strings.TrimPrefix(tried, "none "), " ", ","))
	case interrupt.Is(err):
		err = errors.New("interrupted")
	case errors.Is(err, errLocked):
		err = said("%s@%s: Permission denied (publickey).", printable.Clean(p.user), printable.Clean(name))
	case errors.Is(err, tools.ErrNoTerminal):
		err = fmt.Errorf("%s@%s: Permission denied: no terminal to ask for the password", printable.Clean(p.user), printable.Clean(name))
	case errors.Is(err, io.EOF):
		err = said("Connection closed by %s port %s", name, p.port)
	case err != nil:
		err = said("Connection to %s port %s: %s", name, p.port, strings.TrimPrefix(cause(err), "handshake failed: ssh: "))
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	l.debug("Authenticated to %s.", name)
	client := ssh.NewClient(c, channels, requests)
	l.keepAlive(client)
	return client, nil
}

func (l *login) debug(format string, a ...any) {
	if l.On("v") {
		fmt.Fprintf(l.Err, "debug1: %s\n", printable.Clean(fmt.Sprintf(format, a...)))
	}
}

// keepAlive closes the connection to a server that no longer answers, if the options want that.
func (l *login) keepAlive(c *ssh.Client) {
	every := time.Duration(l.number("serveraliveinterval", 0)) * time.Second
	if every == 0 {
		return
	}
	go func() {
		missing := 0
		answer := make(chan error, 1)
		for ; ; time.Sleep(every) {
			if missing == 0 {
				go func() {
					_, _, err := c.SendRequest("keepalive@openssh.com", true, nil)
					answer <- err
				}()
			}
			select {
			case err := <-answer:
				if missing = 0; err != nil {
					return
				}
			case <-time.After(every):
				if missing++; missing >= l.number("serveralivecountmax", 3) {
					l.Warn("Timeout, server %s not responding.", c.RemoteAddr())
					c.Close()
					return
				}
			}
		}
	}()
}

// home is a path in the user's home directory.
func home(path string) string {
	h, err := os.UserHomeDir()
	if err != nil || h == "" {
		h = "/root"
	}
	return filepath.Join(h, path)
}

func tilde(path string) string {
	if rest, ok := strings.CutPrefix(path, "~/"); ok {
		return home(rest)
	}
	return path
}

// methods are the ways to log in, in the order of OpenSSH.
func (l *login) methods(p place) []ssh.AuthMethod {
	who := p.user + "@" + p.host
	tries := l.number("numberofpasswordprompts", maxAsks)
	again := func(n *int) {
		if *n++; *n > 1 {
			fmt.Fprintln(l.Err, "Permission denied, please try again.")
		}
	}
	all := map[string]ssh.AuthMethod{}
	if !l.no("pubkeyauthentication") && len(l.signers()) > 0 {
		all["publickey"] = ssh.PublicKeys(l.signers()...)
	}
	if l.words["batchmode"] != "yes" {
		asked, answered := 0, 0
		if !l.no("kbdinteractiveauthentication") {
			all["keyboard-interactive"] = ssh.RetryableAuthMethod(ssh.KeyboardInteractive(func(name, instruction string, questions []string, echos []bool) ([]string, error) {
				for _, s := range []string{name, instruction} {
					if s != "" {
						fmt.Fprintln(l.Err, printable.CleanLines(s))
					}
				}
				if len(questions) > 0 {
					again(&answered)
				}
				var out []string
				for i, q := range questions {
					a, err := tools.Ask(fmt.Sprintf("(%s) %s", who, q), !echos[i])
					if err != nil {
						return nil, err
					}
					out = append(out, a)
				}
				return out, nil
			}), tries)
		}
		if !l.no("passwordauthentication") {
			all["password"] = ssh.RetryableAuthMethod(ssh.PasswordCallback(func() (string, error) {
				again(&asked)
				return tools.Ask(who+"'s password: ", true)
			}), tries)
		}
	}
	var out []ssh.AuthMethod
	for n := range strings.SplitSeq(cmp.Or(l.words["preferredauthentications"], "publickey,keyboard-interactive,password"), ",") {
		if m := all[n]; m != nil {
			out = append(out, m)
		}
	}
	return out
}

// signers are the user's keys.
func (l *login) signers() []ssh.Signer {
	if l.read {
		return l.keys
	}
	l.read = true
	files := l.Vals("i")
	if f := l.words["identityfile"]; f != "" {
		files = append(files, f)
	}
	given := len(files) > 0
	if !given {
		for _, n := range []string{"id_rsa", "id_ecdsa", "id_ed25519"} {
			files = append(files, home(".ssh/"+n))
		}
	}
	for _, f := range files {
		f = tilde(f)
		b, err := os.ReadFile(f)
		if err != nil {
			if given {
				l.Fault(0, "Warning: Identity file %s not accessible: %s.", f, tools.Cause(err))
			}
			continue
		}
		s, err := l.signer(f, b)
		if err != nil {
			l.Fault(0, "Load key \"%s\": %s", f, strings.TrimPrefix(err.Error(), "ssh: "))
			continue
		}
		l.keys = append(l.keys, certified(f, s)...)
	}
	return l.keys
}

// certified gives a key with its certificate, if there is one beside it.
func certified(file string, s ssh.Signer) []ssh.Signer {
	if b, err := os.ReadFile(file + "-cert.pub"); err == nil {
		if pub, _, _, _, err := ssh.ParseAuthorizedKey(b); err == nil {
			if c, ok := pub.(*ssh.Certificate); ok {
				if cs, err := ssh.NewCertSigner(c, s); err == nil {
					return []ssh.Signer{cs, s}
				}
			}
		}
	}
	return []ssh.Signer{s}
}

// signer reads a private key. One with a passphrase is decrypted when it is used.
func (l *login) signer(file string, b []byte) (ssh.Signer, error) {
	s, err := ssh.ParsePrivateKey(b)
	var locked *ssh.PassphraseMissingError
	if !errors.As(err, &locked) {
		return s, err
	}
	k := &lockedKey{file: file, pem: b, pub: locked.PublicKey, batch: l.words["batchmode"] == "yes"}
	if k.pub == nil {
		if text, err := os.ReadFile(file + ".pub"); err == nil {
			if k.pub, _, _, _, err = ssh.ParseAuthorizedKey(text); err == nil {
				return k, nil
			}
		}
		k.unlock() // an old form, whose public part is encrypted, too
		if k.key == nil {
			return nil, errors.New("incorrect passphrase supplied to decrypt private key")
		}
		return k.key, nil
	}
	return k, nil
}

// lockedKey is a private key with a passphrase.
type lockedKey struct {
	file  string
	pem   []byte
	pub   ssh.PublicKey
	batch bool
	asked bool
	key   ssh.Signer // nil without the passphrase
}

func (k *lockedKey) PublicKey() ssh.PublicKey { return k.pub }

func (k *lockedKey) unlock() {
	if k.asked || k.batch {
		return
	}
	k.asked = true
	question := fmt.Sprintf("Enter passphrase for key '%s': ", k.file)
	for range maxAsks {
		p, err := tools.Ask(question, true)
		if err != nil || p == "" {
			return
		}
		if k.key, err = ssh.ParsePrivateKeyWithPassphrase(k.pem, []byte(p)); err == nil {
			return
		}
		k.key, question = nil, fmt.Sprintf("Bad passphrase, try again for %s: ", k.file)
	}
}

// Sign implements ssh.Signer.
func (k *lockedKey) Sign(random io.Reader, data []byte) (*ssh.Signature, error) {
	return k.SignWithAlgorithm(random, data, "")
}

// errLocked is the error of a key whose passphrase is not known; a password may follow.
var errLocked = errors.New("no passphrase for the key")

// SignWithAlgorithm implements ssh.AlgorithmSigner.
func (k *lockedKey) SignWithAlgorithm(random io.Reader, data []byte, algorithm string) (*ssh.Signature, error) {
	if k.unlock(); k.key == nil {
		return nil, errLocked
	}
	if s, ok := k.key.(ssh.AlgorithmSigner); ok && algorithm != "" {
		return s.SignWithAlgorithm(random, data, algorithm)
	}
	return k.key.Sign(random, data)
}

// knownHosts gives what checks a server's key, and the algorithms to ask the server for: those of
// the keys that are known first.
func (l *login) knownHosts(p place) (ssh.HostKeyCallback, []string, error) {
	own := []string{home(".ssh/known_hosts"), home(".ssh/known_hosts2")}
	if f := l.words["userknownhostsfile"]; f != "" {
		own = strings.Fields(f)
	}
	global := cmp.Or(l.words["globalknownhostsfile"], "/etc/ssh/ssh_known_hosts")
	var files []string
	for _, f := range append(slices.Clone(own), global) {
		if _, err := os.ReadFile(tilde(f)); err == nil && f != "/dev/null" {
			files = append(files, tilde(f))
		}
	}
	known, err := hostkey.Read(p.addr(), files...)
	if err != nil {
		return nil, nil, err
	}
	first, rest := known.Algorithms()
	return func(addr string, remote net.Addr, key ssh.PublicKey) error {
		err := known.Check(addr, remote, key)
		var e *hostkey.ChangedError
		switch key = hostkey.Plain(key); {
		case errors.Is(err, hostkey.ErrRevoked):
			return said("the server's key is revoked.\nHost key verification failed.")
		case errors.As(err, &e):
			i := slices.IndexFunc(e.Want, func(k knownhosts.KnownKey) bool { return k.Key.Type() == key.Type() })
			return l.changed(p, key, e.Want[max(i, 0)])
		case errors.Is(err, hostkey.ErrUnknown):
			return l.firstContact(p, remote, key, tilde(own[0]))
		}
		return err
	}, l.list("hostkeyalgorithms", append(first, rest...)), nil
}

// list gives algorithms: those of an option, which may begin with + to add some, with - to take
// some away and with ^ to put some first.
func (l *login) list(option string, usual []string) []string {
	v := l.words[option]
	if v == "" {
		return usual
	}
	words := strings.Split(strings.TrimLeft(v, "+-^"), ",")
	switch v[0] {
	case '+':
		return append(slices.Clone(usual), words...)
	case '^':
		return append(words, usual...)
	case '-':
		return slices.DeleteFunc(slices.Clone(usual), func(a string) bool { return slices.Contains(words, a) })
	}
	return words
}

// keyType is the name of a key's type for people.
func keyType(k ssh.PublicKey) string {
	return map[string]string{ssh.KeyAlgoRSA: "RSA", ssh.KeyAlgoED25519: "ED25519", ssh.KeyAlgoECDSA256: "ECDSA", ssh.KeyAlgoECDSA384: "ECDSA", ssh.KeyAlgoECDSA521: "ECDSA"}[k.Type()]
}

func (l *login) changed(p place, key ssh.PublicKey, known knownhosts.KnownKey) error {
	const bar = "@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@"
	fmt.Fprintf(l.Err, `%s
@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @
%s
IT IS POSSIBLE THAT SOMEONE IS DOING SOMETHING NASTY!
Someone could be eavesdropping on you right now (man-in-the-middle attack)!
It is also possible that a host key has just been changed.
The fingerprint for the %s key sent by the remote host is
%s.
Offending %s key in %s:%d
  remove it with: sed -i %dd %s
`, bar, bar, keyType(key), ssh.FingerprintSHA256(key), keyType(known.Key), known.Filename, known.Line, known.Line, known.Filename)
	return said("Host key for %s has changed.\nHost key verification failed.", p.host)
}

// firstContact asks whether the key of an unknown server is right, and remembers it.
func (l *login) firstContact(p place, remote net.Addr, key ssh.PublicKey, file string) error {
	strict, name, print := cmp.Or(l.words["stricthostkeychecking"], "ask"), knownhosts.Normalize(p.addr()), ssh.FingerprintSHA256(key)
	if l.words["batchmode"] == "yes" && strict == "ask" {
		strict = "yes"
	}
	switch strict {
	case "no", "off", "accept-new":
	case "yes":
		return said("No %s host key is known for %s and you have requested strict checking.\nHost key verification failed.", keyType(key), name)
	default:
		question := fmt.Sprintf("The authenticity of host '%s (%s)' can't be established.\n%s key fingerprint is %s.\nAre you sure you want to continue connecting (yes/no/[fingerprint])? ",
			name, knownhosts.Normalize(remote.String()), keyType(key), print)
		for {
			a, err := tools.Ask(question, false)
			if a = strings.TrimSpace(a); err != nil || strings.EqualFold(a, "no") {
				return said("Host key verification failed.")
			}
			if strings.EqualFold(a, "yes") || a == print {
				break
			}
			question = "Please type 'yes', 'no' or the fingerprint: "
		}
	}
	err := os.MkdirAll(filepath.Dir(file), 0o700)
	if err == nil {
		err = appendLine(file, knownhosts.Line([]string{name}, key))
	}
	if err != nil {
		l.Fault(0, "Failed to add the host to the list of known hosts (%s): %s", file, tools.Cause(err))
	} else if !l.On("q") {
		fmt.Fprintf(l.Err, "Warning: Permanently added '%s' (%s) to the list of known hosts.\n", name, keyType(key))
	}
	return nil
}

// appendLine adds a line to a file, which may lack the end of its last one.
func appendLine(file, line string) error {
	if b, err := os.ReadFile(file); err == nil && len(b) > 0 && b[len(b)-1] != '\n' {
		line = "\n" + line
	}
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(line + "\n")
	return errors.Join(err, f.Close())
}
