package identity

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/bootloader"
	"github.com/mkcdrec/mkcdrec/internal/lazyregexp"
	"github.com/mkcdrec/mkcdrec/internal/sysconf"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

// Personal is what two machines made of one system must not share.
type Personal struct {
	// Hostname is the new machine's; "" keeps that of the source.
	Hostname string
	// Forget are more files and directories that are removed, by absolute paths and
	// patterns of path.Match.
	Forget []string
}

// forgotten are files that a machine makes again: leases, seeds, ids, keys. Those in a
// directory that ends with a slash are its content.
var forgotten = []string{
	"/etc/ssh/ssh_host_*",
	"/var/lib/dhcp/*.lease*", "/var/lib/dhclient/*.lease*", "/var/lib/dhcpcd/*.lease*", "/var/lib/dhcpcd/duid", "/etc/dhcpcd.duid",
	"/var/lib/NetworkManager/*.lease", "/var/lib/NetworkManager/secret_key", "/var/lib/NetworkManager/timestamps", "/var/lib/NetworkManager/seen-bssids",
	"/var/lib/wicked/*.xml",
	"/var/lib/systemd/random-seed", "/var/lib/systemd/credential.secret", "/var/lib/urandom/random-seed", "/var/lib/seedrng/*", "/boot/loader/random-seed", "/boot/efi/loader/random-seed", "/efi/loader/random-seed",
	"/etc/udev/rules.d/70-persistent-net.rules", "/etc/udev/rules.d/75-persistent-net-generator.rules",
	"/etc/iscsi/initiatorname.iscsi.before-restore", "/etc/nvme/hostid", "/etc/nvme/hostnqn",
}

// hostName is what hostname(7) allows, with a domain.
var hostName = lazyregexp.New(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*$`)

// Check reports what is wrong with it.
func (p Personal) Check() error {
	if p.Hostname != "" && (len(p.Hostname) > 64 || !hostName().MatchString(p.Hostname)) {
		return fmt.Errorf("%q is not a host name", p.Hostname)
	}
	for _, f := range p.Forget {
		if _, err := path.Match(f, ""); err != nil || !path.IsAbs(f) || path.Clean(f) == "/" {
			return fmt.Errorf("cannot remove %q from the clone: it is not an absolute path or pattern", f)
		}
	}
	return nil
}

// Apply changes the system below s.Root: host name, machine id, and what it has of
// forgotten and Forget; SSH host keys are made by the system's own ssh-keygen.
func (p Personal) Apply(ctx context.Context, s *bootloader.System) error {
	t := sysconf.In(s.Root)
	var errs []error
	keys := false
	for _, f := range append(append([]string(nil), forgotten...), p.Forget...) {
		dir, pattern := path.Split(path.Clean(f))
		for _, name := range t.Glob(path.Clean(dir), pattern) {
			if st, err := t.Lstat(name); err == nil && st.IsDir() {
				errs = append(errs, fmt.Errorf("cannot remove %s from the clone: it is a directory", name))
				continue
			}
			if err := t.Remove(name); err != nil {
				errs = append(errs, fmt.Errorf("cannot remove %s from the clone: %w", name, err))
				continue
			}
			keys = keys || strings.HasPrefix(name, "/etc/ssh/")
			s.Report.Note("%s is removed: it is the source's own", name)
		}
	}
	errs = append(errs, p.machineID(t, s), p.hostname(t, s))
	if keys {
		s.Report.Note("making new SSH host keys")
		if _, err := s.Run.Run(ctx, tool.Cmd{Args: []string{"ssh-keygen", "-A"}, Root: s.Root, Env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}}); err != nil {
			s.Report.Warn("the clone has no SSH host keys: run ssh-keygen -A in it\n%v", err)
		}
	}
	return errors.Join(errs...)
}

// machineID returns the system another machine-id(5), where it has one.
func (p Personal) machineID(t sysconf.Tree, s *bootloader.System) error {
	var b [16]byte
	rand.Read(b[:]) // never fails, by its documentation
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	var errs []error
	for _, f := range []string{"/etc/machine-id", "/var/lib/dbus/machine-id"} {
		st, err := t.Lstat(f)
		if errors.Is(err, fs.ErrNotExist) || err == nil && !st.Mode().IsRegular() { // a link to the other one
			continue
		}
		if err == nil {
			err = t.Write(f, []byte(fmt.Sprintf("%x\n", b)), 0o444)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("cannot change %s: %w", f, err))
			continue
		}
		s.Report.Note("%s is new", f)
	}
	return errors.Join(errs...)
}

// hostname changes /etc/hostname, and the old name in /etc/hosts.
func (p Personal) hostname(t sysconf.Tree, s *bootloader.System) error {
	if p.Hostname == "" {
		return nil
	}
	was := ""
	if b, err := t.Read("/etc/hostname"); err == nil {
		was = strings.TrimSpace(string(b))
	}
	if err := t.Write("/etc/hostname", []byte(p.Hostname+"\n"), 0o644); err != nil {
		return fmt.Errorf("cannot change the host name: %w", err)
	}
	s.Report.Note("the host name is %s", p.Hostname)
	b, err := t.Read("/etc/hosts")
	if err != nil || was == "" {
		return nil // no name to be replaced
	}
	if text := renameHost(string(b), was, p.Hostname); text != string(b) {
		if err := t.Write("/etc/hosts", []byte(text), 0o644); err != nil {
			return fmt.Errorf("cannot change /etc/hosts: %w", err)
		}
	}
	return nil
}

// renameHost returns a hosts(5) with another name for the machine: the whole one, and its
// first part.
func renameHost(hosts, was, now string) string {
	short := func(s string) string { n, _, _ := strings.Cut(s, "."); return n }
	lines := strings.SplitAfter(hosts, "\n")
	word := regexp.MustCompile(`\S+`)
	for i, l := range lines {
		body, comment, _ := strings.Cut(l, "#")
		first := true
		out := word.ReplaceAllStringFunc(body, func(w string) string {
			if first {
				first = false // the address
				return w
			}
			switch {
			case w == was:
				return now
			case w == short(was):
				return short(now)
			case strings.HasPrefix(w, short(was)+".") && w[len(short(was)):] == "."+domain(w):
				return short(now) + "." + domain(w)
			}
			return w
		})
		if len(body) < len(l) {
			out += "#" + comment
		}
		lines[i] = out
	}
	return strings.Join(lines, "")
}

func domain(s string) string { _, d, _ := strings.Cut(s, "."); return d }
