package rescue

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/media"
	"github.com/mkcdrec/mkcdrec/internal/regular"
	"github.com/mkcdrec/mkcdrec/internal/signing"
	"github.com/mkcdrec/mkcdrec/internal/store"
	"github.com/mkcdrec/mkcdrec/internal/sysconf"
	"github.com/mkcdrec/mkcdrec/templates"
)

// PXEOptions say how a network boot tree is used.
type PXEOptions struct {
	// URL is where the tree is served by HTTP; "" for TFTP only.
	URL string
	// Source is where the set is: a URL that the rescue system is given.
	Source string
	// Host is the one whose set that is; "" has the set at a URL asked for it.
	Host string
	// Timeout is after how many seconds the menu starts its default; 0 is MenuTimeout.
	Timeout int
}

// HTTPBoot is the file that firmware with UEFI HTTP Boot is given: kernel and
// initramfs in one, since no boot loader of a distribution reads over HTTP what
// it is configured with.
const HTTPBoot = "mkcdrec.efi"

// PXE writes a tree for network boot into dir, which any TFTP and HTTP server
// can serve. Each file appears whole, the configurations last, so that a tree
// in use can be renewed.
func (b *Maker) PXE(ctx context.Context, p *Machine, dir string, o PXEOptions) error {
	base, signer, err := b.checkPXE(ctx, &o)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("cannot write the network boot tree: %w", err)
	}
	work, err := os.MkdirTemp(dir, ".mkcdrec-pxe-*")
	if err != nil {
		return fmt.Errorf("cannot write the network boot tree: %w", err)
	}
	defer os.RemoveAll(work)
	by := *b
	if signer != nil {
		by.Signer = signer
	}
	s, err := by.System(ctx, p, Hint{Alone: true}, work)
	if err != nil {
		return err
	}
	l := FindLoaders(b.Executable, work, "/.mkcdrec", true)
	if l.BIOS == nil || l.BIOS.PXELinux == "" {
		b.Report.Warn("BIOS machines will not start from this tree: %v", errors.Join(l.BIOSErr, errors.New("there is no pxelinux (Debian: package pxelinux)")))
	}
	if l.UEFI == nil || len(l.UEFI.Net) == 0 {
		b.Report.Warn("UEFI machines will not start from this tree: %v", errors.Join(l.UEFIErr, errors.New("there is no GRUB for the network (Debian: grub-efi-amd64-signed or grub-efi-amd64-bin)")))
	}
	menu, err := s.netMenu(o)
	if err != nil {
		return err
	}
	t := netTree{
		base:    base,
		menu:    menu,
		kernel:  s.Kernel.Image,
		initrd:  s.Initrd,
		files:   map[string]string{"vmlinuz": s.Kernel.Image, "initrd.img": s.Initrd},
		content: map[string][]byte{},
	}
	t.text = templates.Netboot{URL: base, Title: t.menu.Title}
	for _, add := range []func() error{
		func() error { return t.pxelinux(l.BIOS) },
		func() error { return t.grub(l.UEFI) },
		func() error { return t.uki(l.Stub, filepath.Join(work, HTTPBoot)) },
		t.ipxe,
		func() error { return t.publish(dir) },
	} {
		if err := add(); err != nil {
			return err
		}
	}
	if why := l.SecureBoot(s.Kernel.Image); l.UEFI != nil && why != "" {
		b.Report.Note("not for Secure Boot: %s", why)
	}
	return nil
}

// checkPXE checks the options, completes them, and gives the tree's URL without a slash at
// its end. signer is Maker.Signer for the set that the tree is for, nil for that of this machine.
func (b *Maker) checkPXE(ctx context.Context, o *PXEOptions) (base string, signer func() ([]byte, error), err error) {
	if base, err = httpBase(o.URL); err != nil {
		return "", nil, err
	}
	if o.Source != "" {
		if err := publicWord("the source", o.Source); err != nil {
			return "", nil, err
		}
		host := ""
		host, signer = b.sourceSet(ctx, o.Source)
		o.Host = cmp.Or(o.Host, host)
	}
	if o.Host != "" {
		err = publicWord("the host", o.Host)
	}
	return base, signer, err
}

// netMenu is the boot menu of a tree: that of a medium, with the network in the
// place of the drive.
func (s *System) netMenu(o PXEOptions) (templates.Menu, error) {
	m, err := s.menu()
	if err != nil {
		return m, err
	}
	m.Heading = "mkcdrec rescue system for " + s.Info.Host
	m.NoCheck, m.Net, m.Chain = true, true, chain(s.machine.Layout)
	m.Timeout = cmp.Or(o.Timeout, m.Timeout)
	m.Append = strings.TrimSpace(strings.ReplaceAll(m.Append, "mkcdrec.medium="+s.Info.MediumID, ""))
	if !strings.Contains(m.Append, "mkcdrec.ip=") {
		m.Append += " mkcdrec.ip=dhcp"
	}
	if o.Source != "" {
		m.Append += " mkcdrec.source=" + o.Source
	}
	if o.Host != "" && o.Host != s.Info.Host {
		m.Append += " mkcdrec.host=" + o.Host
	}
	return m, nil
}

// sourceSet asks a set at a URL whose it is, and whose signature it has: the tree may be made on
// another machine, and an unattended restore takes only sets of the host and the key that it was
// told. Without an answer, which is reported, they are "" and nil. The signer of a set that is not
// signed has no key.
func (b *Maker) sourceSet(ctx context.Context, source string) (host string, signer func() ([]byte, error)) {
	if !store.IsURL(source) {
		return "", nil
	}
	ctx, stop := context.WithTimeout(ctx, time.Minute)
	defer stop()
	set, err := manifest.OpenContext(ctx, source)
	if err != nil {
		b.Report.Warn("%v\nit is not known now whose set that is: started from this tree, a machine restores only sets of the host that the tree is made for", err)
		return "", nil
	}
	defer set.Close()
	if set.SignatureFault != nil {
		b.Report.Warn("the signature of %s is not valid: %v", source, set.SignatureFault)
		return set.Manifest.Host, nil
	}
	var line []byte
	if set.Signer != nil {
		line = signing.Line(set.Signer, set.Manifest.Host)
		b.Report.Note("machines started from this tree take sets that are signed with %s, the key of %s", signing.Fingerprint(set.Signer), source)
	}
	return set.Manifest.Host, func() ([]byte, error) { return line, nil }
}

// netTree is a network boot tree while it is put together.
type netTree struct {
	base           string // URL; "" for TFTP only
	menu           templates.Menu
	kernel, initrd string
	text           templates.Netboot
	files          map[string]string // name in the tree to the file that is copied
	content        map[string][]byte // name in the tree to what is in it
}

// pxelinux adds what BIOS machines start with.
func (t *netTree) pxelinux(l *media.BIOSLoader) (err error) {
	if l == nil || l.PXELinux == "" {
		return nil
	}
	t.text.BIOS = filepath.Base(l.PXELinux)
	for _, f := range append([]string{l.PXELinux, l.LDLinux}, l.Modules...) {
		t.files[filepath.Base(f)] = f
	}
	c := t.menu
	c.Boxed = len(l.Modules) > 0
	if !l.Chain {
		c.Chain = ""
	}
	c.Kernel, c.Initrd = "vmlinuz", "initrd.img"
	// lpxelinux reads by HTTP, 20 times as fast as TFTP.
	if t.base != "" && t.text.BIOS == "lpxelinux.0" {
		c.Kernel, c.Initrd = t.base+"/vmlinuz", t.base+"/initrd.img"
	}
	if l.Chain && c.Chain != "" {
		c.LocalConfig = "pxelinux.cfg/local"
		if t.content[c.LocalConfig], err = templates.SyslinuxLocal(c); err != nil {
			return err
		}
	}
	t.content["pxelinux.cfg/default"], err = templates.ISOLinux(c)
	return err
}

// grub adds what UEFI machines start with.
func (t *netTree) grub(l *media.UEFILoader) error {
	if l == nil || len(l.Net) == 0 {
		return nil
	}
	for name, f := range l.Net {
		t.files[name] = f
	}
	t.text.UEFI, t.text.Secure = "bootx64.efi", l.Signed
	c := t.menu
	c.Kernel, c.Initrd = "/vmlinuz", "/initrd.img"
	if t.base != "" {
		u, err := url.Parse(t.base)
		if err != nil {
			return err
		}
		// With Secure Boot no module may be loaded: GRUB then stays with TFTP. It knows
		// no other port than 80 before version 2.12.
		if p := u.Port(); p == "" || p == "80" {
			c.Base = fmt.Sprintf("(http,%s)%s", u.Host, strings.TrimSuffix(u.Path, "/"))
		}
	}
	var err error
	t.content["grub/grub.cfg"], err = templates.GRUB(c)
	return err
}

// uki adds the one file for UEFI HTTP Boot, when there is a stub for it.
func (t *netTree) uki(stub, file string) error {
	if stub == "" || t.base == "" {
		return nil
	}
	if err := templates.CheckKernelLine(t.menu.Append); err != nil {
		return err
	}
	if err := (media.UKI{Stub: stub, Kernel: t.kernel, Initrd: t.initrd, Cmdline: t.menu.Append, Title: t.menu.Heading}).Write(file); err != nil {
		return err
	}
	t.files[HTTPBoot], t.text.HTTP = file, HTTPBoot
	return nil
}

// ipxe adds iPXE's script, and the text about how all of it is used.
func (t *netTree) ipxe() (err error) {
	c := t.menu
	c.Kernel, c.Initrd = "vmlinuz", "initrd.img"
	if t.base != "" {
		c.Kernel, c.Initrd = t.base+"/vmlinuz", t.base+"/initrd.img"
	}
	if t.content["boot.ipxe"], err = templates.IPXE(c); err != nil {
		return err
	}
	t.content["README.txt"], err = templates.NetbootText(t.text)
	return err
}

// publish writes the tree into a directory, what is read first last.
func (t *netTree) publish(dir string) error {
	mkdir := func(name string) (string, error) {
		to := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return "", fmt.Errorf("cannot write the network boot tree: %w", err)
		}
		return to, nil
	}
	for name, f := range t.files {
		to, err := mkdir(name)
		if err != nil {
			return err
		}
		// It holds no secret, and servers may run as another user.
		if err := publish(f, to, 0o644); err != nil {
			return err
		}
	}
	for name, text := range t.content {
		to, err := mkdir(name)
		if err != nil {
			return err
		}
		if err := regular.WriteFile(to, text); err != nil {
			return err
		}
		if err := os.Chmod(to, 0o644); err != nil {
			return fmt.Errorf("cannot write the network boot tree: %w", err)
		}
	}
	return nil
}

// httpBase checks a URL and takes the slash from its end.
func httpBase(s string) (string, error) {
	if s == "" {
		return "", nil
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" || u.Host == "" || u.RawQuery != "" || u.User != nil {
		return "", exit.Usage(fmt.Errorf("cannot use URL %q: want http://SERVER[:PORT]/DIR (boot loaders know no https, and a password in it would be in every boot menu)", sysconf.RedactURL(s)))
	}
	if err := publicWord("the URL", s); err != nil {
		return "", err
	}
	return strings.TrimSuffix(s, "/"), nil
}

// publish copies a file, which appears whole.
func publish(from, to string, mode os.FileMode) error {
	wrap := func(err error) error { return fmt.Errorf("cannot write %s: %w", to, err) }
	in, err := os.Open(from)
	if err != nil {
		return wrap(err)
	}
	defer in.Close()
	out, err := os.CreateTemp(filepath.Dir(to), ".new-*")
	if err != nil {
		return wrap(err)
	}
	_, err = io.Copy(out, in)
	err = errors.Join(err, out.Chmod(mode), out.Sync(), out.Close())
	if err == nil {
		err = os.Rename(out.Name(), to)
	}
	if err != nil {
		os.Remove(out.Name())
		return wrap(err)
	}
	return nil
}
