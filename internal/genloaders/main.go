// Command genloaders appends to an executable what internal/loaders reads: the
// executable packed for rescue systems, and boot loaders out of Debian's own packages, fetched once with apt-get into a cache. `make
// build` runs it; on a system without apt-get the program still works,
// with the machine's own loaders only.
package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/mkcdrec/mkcdrec/builder/rescue"
	"github.com/mkcdrec/mkcdrec/initramfs"
	"github.com/mkcdrec/mkcdrec/internal/loaders"
)

const source = "https://snapshot.debian.org/package/"

// packages are what is packed. Signed loaders, so that a medium made on a
// Debian without them starts with Secure Boot too.
var packages = []loaders.Package{
	{Name: "isolinux", Licence: "GPL-2+", Source: source + "syslinux/", Files: []string{"usr/lib/ISOLINUX/isolinux.bin", "usr/lib/ISOLINUX/isohdpfx.bin", "usr/lib/ISOLINUX/isohdppx.bin"}},
	{Name: "syslinux-common", Licence: "GPL-2+", Source: source + "syslinux/", Files: []string{"usr/lib/syslinux/mbr/mbr.bin", "usr/lib/syslinux/modules/bios/ldlinux.c32", "usr/lib/syslinux/modules/bios/menu.c32", "usr/lib/syslinux/modules/bios/libutil.c32", "usr/lib/syslinux/modules/bios/chain.c32", "usr/lib/syslinux/modules/bios/libcom32.c32"}},
	{Name: "pxelinux", Licence: "GPL-2+", Source: source + "syslinux/", Files: []string{"usr/lib/PXELINUX/lpxelinux.0"}},
	{Name: "grub-efi-amd64-signed", Licence: "GPL-3+", Source: source + "grub2/", Files: []string{"usr/lib/grub/x86_64-efi-signed/gcdx64.efi.signed", "usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed"}},
	{Name: "grub-efi-amd64-bin", Licence: "GPL-3+", Source: source + "grub2/", Files: []string{"usr/lib/grub/x86_64-efi/http.mod"}},
	{Name: "systemd-boot-efi", Licence: "LGPL-2.1+", Source: source + "systemd/", Files: []string{"usr/lib/systemd/boot/efi/linuxx64.efi.stub"}},
	{Name: "shim-signed", Licence: "BSD-2-Clause", Source: source + "shim/", Files: []string{"usr/lib/shim/shimx64.efi.signed"}},
}

func main() {
	cache := flag.String("cache", "/var/cache/mkcdrec/loaders", "`DIR` for fetched packages")
	flag.Parse()
	if flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: genloaders [-cache DIR] EXECUTABLE")
		os.Exit(2)
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		fmt.Fprintln(os.Stderr, "genloaders: no apt-get here: the program gets no loader pack and will use the machine's own boot loaders")
		return
	}
	if err := run(flag.Arg(0), *cache); err != nil {
		fmt.Fprintln(os.Stderr, "genloaders:", err)
		os.Exit(1)
	}
}

func run(exe, cache string) error {
	if err := os.MkdirAll(cache, 0o755); err != nil {
		cache = filepath.Join("out", "loaders")
		if err := os.MkdirAll(cache, 0o755); err != nil {
			return err
		}
	}
	files := map[string][]byte{}
	for i := range packages {
		p := &packages[i]
		deb, err := fetch(cache, p.Name)
		if err != nil {
			return err
		}
		if p.Version, err = field(deb, "Version"); err != nil {
			return err
		}
		if err := take(deb, p.Files, files); err != nil {
			return err
		}
	}
	self, err := packSelf(exe)
	if err != nil {
		return err
	}
	n, err := loaders.Append(exe, self, packages, files)
	if err != nil {
		return err
	}
	fmt.Printf("%s: loader pack of %d KiB, itself packed %d KiB\n", exe, n>>10, len(self)>>10)
	return nil
}

// packSelf packs the executable as a rescue system gets it.
func packSelf(exe string) ([]byte, error) {
	dir, err := os.MkdirTemp("", "genloaders-*")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	plain, err := loaders.Plain(exe, filepath.Join(dir, "plain"))
	if err != nil {
		return nil, err
	}
	return initramfs.Prepack(rescue.Binary, plain)
}

// fetch gets a package's file, from the cache or with apt-get.
func fetch(cache, name string) (string, error) {
	find := func() (string, error) {
		m, err := filepath.Glob(filepath.Join(cache, name+"_*.deb"))
		if err != nil || len(m) == 0 {
			return "", fmt.Errorf("cannot find package %s in %s", name, cache)
		}
		return m[len(m)-1], nil
	}
	if f, err := find(); err == nil {
		return f, nil
	}
	get := func() error {
		c := exec.Command("apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", name)
		c.Dir = cache
		out, err := c.CombinedOutput()
		if err != nil {
			return fmt.Errorf("cannot fetch package %s: %w: %s", name, err, bytes.TrimSpace(out))
		}
		return nil
	}
	if err := get(); err != nil {
		// No package lists on this machine yet.
		if out, e := exec.Command("apt-get", "-qq", "update").CombinedOutput(); e != nil {
			return "", errors.Join(err, fmt.Errorf("apt-get update: %w: %s", e, bytes.TrimSpace(out)))
		}
		if err := get(); err != nil {
			return "", err
		}
	}
	return find()
}

func field(deb, name string) (string, error) {
	out, err := exec.Command("dpkg-deb", "--field", deb, name).Output()
	if err != nil {
		return "", fmt.Errorf("cannot read %s: %w", deb, err)
	}
	return strings.TrimSpace(string(out)), nil
}

// take reads the wanted files out of a package.
func take(deb string, want []string, files map[string][]byte) error {
	c := exec.Command("dpkg-deb", "--fsys-tarfile", deb)
	out, err := c.Output()
	if err != nil {
		return fmt.Errorf("cannot read %s: %w", deb, err)
	}
	t := tar.NewReader(bytes.NewReader(out))
	for {
		h, err := t.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("cannot read %s: %w", deb, err)
		}
		name := strings.TrimPrefix(h.Name, "./")
		for _, w := range want {
			if w == name && h.Typeflag == tar.TypeReg {
				if files[w], err = io.ReadAll(t); err != nil {
					return fmt.Errorf("cannot read %s: %w", deb, err)
				}
			}
		}
	}
	for _, w := range want {
		if len(files[w]) == 0 {
			return fmt.Errorf("cannot find %s in %s", w, deb)
		}
	}
	return nil
}
