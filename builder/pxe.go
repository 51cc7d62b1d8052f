package builder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/media"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/templates"
)

// PXEOptions say how a network boot tree is used.
type PXEOptions struct {
	// URL is where the tree is served by HTTP; "" for TFTP only.
	URL string
	// Source is where the set is: a URL that the rescue system is given.
	Source string
}

// HTTPBoot is the file that firmware with UEFI HTTP Boot is given: kernel and
// initramfs in one, since no boot loader of a distribution reads over HTTP what
// it is configured with.
const HTTPBoot = "mkcdrec.efi"

// PXE writes a tree for network boot into dir, which any TFTP and HTTP server
// can serve. Each file appears whole, the configurations last, so that a tree
// in use can be renewed.
func (b *Builder) PXE(ctx context.Context, p *Plan, dir string, o PXEOptions) error {
	base, err := httpBase(o.URL)
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
	k, info, initrd, err := b.system(ctx, p, Hint{}, work)
	if err != nil {
		return err
	}
	l := b.loaders(work, "/.mkcdrec", true)
	if l.BIOS == nil || l.BIOS.PXELinux == "" {
		b.Report.Warn("BIOS machines will not start from this tree: %v", errors.Join(l.BIOSErr, errors.New("there is no pxelinux (Debian: package pxelinux)")))
	}
	if l.UEFI == nil || len(l.UEFI.Net) == 0 {
		b.Report.Warn("UEFI machines will not start from this tree: %v", errors.Join(l.UEFIErr, errors.New("there is no GRUB for the network (Debian: grub-efi-amd64-signed or grub-efi-amd64-bin)")))
	}
	files := map[string]string{"vmlinuz": k.Image, "initrd.img": initrd}
	text := templates.Netboot{URL: base}
	m := b.menu(p, info)
	text.Title = m.Title
	m.Heading = "mkcdrec rescue system for " + info.Host
	m.NoCheck, m.Net = true, true
	m.Append = strings.TrimSpace(strings.ReplaceAll(m.Append, "mkcdrec.medium="+info.MediumID, ""))
	if !strings.Contains(m.Append, "mkcdrec.ip=") {
		m.Append += " mkcdrec.ip=dhcp"
	}
	if o.Source != "" {
		m.Append += " mkcdrec.source=" + o.Source
	}
	content := map[string][]byte{}
	if l.BIOS != nil && l.BIOS.PXELinux != "" {
		text.BIOS = filepath.Base(l.BIOS.PXELinux)
		for _, f := range append([]string{l.BIOS.PXELinux, l.BIOS.LDLinux}, l.BIOS.Modules...) {
			files[filepath.Base(f)] = f
		}
		c := m
		c.Boxed = len(l.BIOS.Modules) > 0
		c.Kernel, c.Initrd = "vmlinuz", "initrd.img"
		// lpxelinux reads by HTTP, 20 times as fast as TFTP.
		if base != "" && text.BIOS == "lpxelinux.0" {
			c.Kernel, c.Initrd = base+"/vmlinuz", base+"/initrd.img"
		}
		if content["pxelinux.cfg/default"], err = templates.ISOLinux(c); err != nil {
			return err
		}
	}
	if l.UEFI != nil && len(l.UEFI.Net) > 0 {
		for name, f := range l.UEFI.Net {
			files[name] = f
		}
		text.UEFI, text.Secure = "bootx64.efi", l.UEFI.Signed
		c := m
		c.Kernel, c.Initrd = "/vmlinuz", "/initrd.img"
		if base != "" {
			u, err := url.Parse(base)
			if err != nil {
				return err
			}
			// With Secure Boot no module may be loaded: GRUB then stays with TFTP.
			c.Base = fmt.Sprintf("(http,%s)%s", u.Host, strings.TrimSuffix(u.Path, "/"))
		}
		if content["grub/grub.cfg"], err = templates.GRUB(c); err != nil {
			return err
		}
	}
	if l.Stub != "" && base != "" {
		uki := filepath.Join(work, HTTPBoot)
		if err := (media.UKI{Stub: l.Stub, Kernel: k.Image, Initrd: initrd, Cmdline: m.Append, Title: m.Heading}).Write(uki); err != nil {
			return err
		}
		files[HTTPBoot], text.HTTP = uki, HTTPBoot
	}
	c := m
	c.Kernel, c.Initrd = "vmlinuz", "initrd.img"
	if base != "" {
		c.Kernel, c.Initrd = base+"/vmlinuz", base+"/initrd.img"
	}
	if content["boot.ipxe"], err = templates.IPXE(c); err != nil {
		return err
	}
	if content["README.txt"], err = templates.NetbootText(text); err != nil {
		return err
	}
	for name, f := range files {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			return fmt.Errorf("cannot write the network boot tree: %w", err)
		}
		if err := publish(f, filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	for name, t := range content {
		to := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return fmt.Errorf("cannot write the network boot tree: %w", err)
		}
		if err := manifest.WriteFile(to, t); err != nil {
			return err
		}
		if err := os.Chmod(to, 0o644); err != nil {
			return fmt.Errorf("cannot write the network boot tree: %w", err)
		}
	}
	if why := l.secureBoot(k.Image, Distribution("")); l.UEFI != nil && why != "" {
		b.Report.Note("not for Secure Boot: %s", why)
	}
	return nil
}

// httpBase checks a URL and takes the slash from its end.
func httpBase(s string) (string, error) {
	if s == "" {
		return "", nil
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" || u.Host == "" || u.RawQuery != "" {
		return "", fmt.Errorf("cannot use URL %q: want http://SERVER[:PORT]/DIR (boot loaders know no https)", s)
	}
	return strings.TrimSuffix(s, "/"), nil
}

// publish copies a file to a name where servers may read it; it appears whole.
func publish(from, to string) error {
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
	// It holds no secret, and the servers run as somebody else.
	err = errors.Join(err, out.Chmod(0o644), out.Sync(), out.Close())
	if err == nil {
		err = os.Rename(out.Name(), to)
	}
	if err != nil {
		os.Remove(out.Name())
		return wrap(err)
	}
	return nil
}

// report says what the rescue system takes.
func (b *Builder) report(release string, packed, unpacked int64) {
	b.Report.Note("rescue system: kernel %s, %d modules (set %s), initramfs %s (unpacked %s)", release, b.modules.Modules, b.modules.Set, quantity.Size(packed), quantity.Size(unpacked))
	var l []string
	for _, c := range b.modules.Classes[:min(6, len(b.modules.Classes))] {
		l = append(l, fmt.Sprintf("%s %s", c.Name, quantity.Size(c.Bytes)))
	}
	b.Report.Note("drivers by class, unpacked: %s; firmware: %d files, %s", strings.Join(l, ", "), b.modules.Firmware, quantity.Size(b.modules.FirmwareBytes))
}
