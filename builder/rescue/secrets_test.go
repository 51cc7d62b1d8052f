package rescue

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mkcdrec/mkcdrec/initramfs"
	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/media"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/rescue"
	"github.com/mkcdrec/mkcdrec/internal/signing"
	"github.com/mkcdrec/mkcdrec/kernelcfg"
	"github.com/mkcdrec/mkcdrec/templates"
)

// secretLayout is a machine with a secret wherever one can be, each with the mark.
func secretLayout(mark string) *layout.Layout {
	l := &layout.Layout{Version: layout.Version, Hostname: "host", Boot: layout.Boot{Firmware: layout.BIOS},
		Disks:       []layout.Disk{{Name: "vda", Size: 1 << 30, LogicalSector: 512, PhysicalSector: 512}},
		Filesystems: []layout.Filesystem{{Device: "vda", Type: fstype.TypeExt4, Size: 1 << 29, Mounts: []layout.Mount{{Path: "/"}}, Geometry: fstype.Geometry{Ext: &fstype.Ext{BlockSize: 4096, InodeSize: 256, Inodes: 1}}}}}
	l.Fstab = "//srv/a /a cifs user=u,password=" + mark + "1 0 0\n" +
		"//srv/b /b cifs username=u%" + mark + "2,vers=3 0 0\n" +
		"https://u:" + mark + "3@dav/ /d davfs rw 0 0\n" +
		"sshfs#u@h:/ /s fuse ssh_command=sshpass\\040-p\\040" + mark + "4 0 0\n" +
		"# //srv/c /c cifs password=" + mark + "5\n" +
		"mon:/ /ceph ceph name=a,secret=" + mark + "6 0 0\n"
	l.Kernel.Cmdline = "BOOT_IMAGE=/vmlinuz root=iscsi:u:" + mark + "7@192.0.2.1::::iqn.x netroot=iscsi:u:" + mark + "8@192.0.2.1::::iqn.x rd.iscsi.password=" + mark + "9 " +
		"iscsi_password=" + mark + "10 rd.luks.key=" + mark + "11 luks.key=" + mark + "12 inst.ks=http://u:" + mark + "13@h/ks net.token=" + mark + "14 systemd.set_credential=passwd.x:" + mark + "15 " +
		"mkcdrec.source=http://u:" + mark + "16@h/set nomodeset=1 kept.word=yes"
	for i := range l.Filesystems {
		for j := range l.Filesystems[i].Mounts {
			l.Filesystems[i].Mounts[j].Options = "rw,passwd=" + mark + "17"
		}
	}
	return l
}

// TestNoSecrets: no secret of the machine is in the initramfs, in an image, or in a
// tree for network boot.
func TestNoSecrets(t *testing.T) {
	const mark = "s3cr3t"
	p := &Machine{Layout: secretLayout(mark)}
	b := &Maker{Report: progress.None{}}
	info, err := b.info(p, &kernelcfg.Kernel{Release: "6.1"}, Hint{})
	if err != nil {
		t.Fatal(err)
	}
	clean := func(where string, c []byte) {
		t.Helper()
		if i := bytes.Index(c, []byte(mark)); i >= 0 {
			t.Errorf("%s has a secret: %q", where, c[max(0, i-40):min(len(c), i+20)])
		}
	}
	tree := initramfs.New()
	if err := b.addTexts(t.Context(), tree, p, info); err != nil {
		t.Fatal(err)
	}
	var packed bytes.Buffer
	if err := tree.WriteTo(&packed, initramfs.Gzip); err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(&packed)
	if err != nil {
		t.Fatal(err)
	}
	cpio, err := io.ReadAll(z)
	if err != nil || !bytes.Contains(cpio, []byte("//srv/b")) || !bytes.Contains(cpio, []byte("kept.word")) {
		t.Fatalf("the initramfs does not have the layout: %d bytes, %v", len(cpio), err)
	}
	clean("the initramfs", cpio)

	dir := t.TempDir()
	for _, n := range []string{"vmlinuz", "initrd.img"} {
		if err := os.WriteFile(filepath.Join(dir, n), []byte(n), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := media.FindBIOS(""); err != nil {
		t.Skipf("%v; make test installs isolinux", err)
	}
	iso := filepath.Join(dir, "iso")
	sys := &System{Kernel: &kernelcfg.Kernel{Image: dir + "/vmlinuz"}, Info: info, Initrd: dir + "/initrd.img", by: b, machine: p}
	if err := sys.Image(t.Context(), iso, nil); err != nil {
		t.Fatal(err)
	}
	c, err := os.ReadFile(iso)
	if err != nil || !bytes.Contains(c, []byte("kept.word=yes")) {
		t.Fatalf("the image has no menu: %v", err)
	}
	clean("the image", c)
	if st, err := os.Stat(iso); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the image has mode %v, %v", st.Mode(), err)
	}

	m, err := sys.netMenu(PXEOptions{})
	if err != nil {
		t.Fatal(err)
	}
	nt := netTree{base: "http://h/x", menu: m, kernel: dir + "/vmlinuz", files: map[string]string{}, content: map[string][]byte{}, text: templates.Netboot{URL: "http://h/x"}}
	l := FindLoaders("/none", dir, "/.x", true)
	for _, err := range []error{nt.pxelinux(&media.BIOSLoader{PXELinux: "/lpxelinux.0", LDLinux: "/ldlinux.c32", Chain: true}), nt.grub(l.UEFI), nt.ipxe()} {
		if err != nil {
			t.Fatal(err)
		}
	}
	nt.files = nil
	if err := nt.publish(dir + "/web"); err != nil {
		t.Fatal(err)
	}
	seen := 0
	if err := filepath.WalkDir(dir+"/web", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		seen++
		c, err := os.ReadFile(name)
		clean(name, c)
		return err
	}); err != nil || seen < 4 {
		t.Errorf("%d files in the tree, %v", seen, err)
	}
}

// TestCmdline: words that are secret or that a loader can't give to a kernel stay
// away from the medium, with a message without the secret; in the configuration
// they are refused, and nothing is written.
func TestCmdline(t *testing.T) {
	l := &layout.Layout{}
	l.Kernel.Cmdline = `root=/dev/x netroot=iscsi:u:geheim@192.0.2.1::::iqn memmap=64M$0x10000000 a.dyndbg="file x +p" path=\x ip=${x} ` + "quiet"
	c := &Config{}
	line, left, err := c.Cmdline(l)
	if want := `memmap=64M$0x10000000 a.dyndbg="file x +p" console=tty0 rootfstype=ramfs panic=60`; err != nil || line != want {
		t.Errorf("cmdline = %q, %v; want %q", line, err, want)
	}
	if all := strings.Join(left, "\n"); len(left) != 3 || strings.Contains(all, "geheim") || !strings.Contains(all, "netroot") {
		t.Errorf("left out: %q", left)
	}
	l.Kernel.Cmdline = strings.Repeat("aaaa.bbbbbbbbb=1 ", 120)
	if line, left, err := c.Cmdline(l); err != nil || len(line) > templates.MaxKernelLine-menuWords || len(left) == 0 {
		t.Errorf("a long line: %d bytes, %d left out, %v", len(line), len(left), err)
	}
	for _, bad := range []string{"mkcdrec.source=http://u:geheim@h/set", `a=\b`, "a=${b}", "#c", "x\x01y", strings.Repeat("a ", 1000)} {
		c.Append = bad
		if line, _, err := c.Cmdline(l); err == nil || strings.Contains(err.Error(), "geheim") || !strings.Contains(err.Error(), "rescue.append") {
			t.Errorf("rescue.append %.40q: %q, %v; want an error without the password", bad, line, err)
		}
	}
}

// TestPXERefuses: no password gets into a tree that anybody may read.
func TestPXERefuses(t *testing.T) {
	b := &Maker{Report: progress.None{}}
	dir := filepath.Join(t.TempDir(), "tree")
	for _, o := range []PXEOptions{{URL: "http://u:geheim@h/x"}, {URL: "http://h/a b"}, {URL: "http://h/${x}"}, {Source: "http://u:geheim@h/set"}, {Source: "http://h/a b"}, {Source: "http://h/${net0/ip}"}, {Source: "http://h/set?token=geheim"}} {
		err := b.PXE(t.Context(), &Machine{Layout: &layout.Layout{}}, dir, o)
		if err == nil || strings.Contains(err.Error(), "geheim") || !strings.Contains(err.Error(), "cannot use") {
			t.Errorf("PXE(%+v) = %v; want a refusal without the password", o, err)
		}
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("the tree was made before the refusal")
	}
}

// TestChain: the disk that a BIOS starts from is named by its table's id, for a blank
// disk has none; there is no other way to name it.
func TestChain(t *testing.T) {
	disks := []layout.Disk{{Name: "vda", Table: &layout.Table{Label: layout.MBR, Signature: "0x00000001"}}}
	for want, l := range map[string]*layout.Layout{
		"mbr=0x00000001": {Disks: disks, Boot: layout.Boot{Disks: []string{"vda"}}},
		"guid=G":         {Disks: []layout.Disk{{Name: "vda", Table: &layout.Table{Label: layout.GPT, GUID: "G"}}}, Boot: layout.Boot{Firmware: layout.UEFI, Disks: []string{"none", "vda"}}},
		"":               {Disks: disks, Boot: layout.Boot{Firmware: layout.UEFI}},
	} {
		if got := chain(l); got != want {
			t.Errorf("chain = %q; want %q", got, want)
		}
	}
}

// TestMenuHostile: what hardware says of itself is no reason to make no medium.
func TestMenuHostile(t *testing.T) {
	b := &Maker{Report: progress.None{}}
	l := &layout.Layout{Hostname: "x\n'$(reboot)${x}\x1b"}
	l.Boot.NVRAM = []layout.NVRAMEntry{{Active: true, Path: `\EFI\a b\x.efi`}, {Active: true, Path: `\EFI\x';reboot;'\x.efi`}, {Active: true, Path: "\\EFI\\x\n\\x.efi"}, {Active: true, Path: `\EFI\good\x.efi`}}
	m, err := (&System{by: b, machine: &Machine{Layout: l}, Info: &rescue.Info{Host: l.Hostname, Kernel: "6.1", Created: time.Unix(0, 0)}}).menu()
	if err != nil {
		t.Fatal(err)
	}
	g, err := templates.GRUB(m)
	if err != nil || !strings.Contains(string(g), "for loader in /EFI/good/x.efi /EFI/debian") || strings.Contains(string(g), "\nreboot") {
		t.Errorf("%v\n%s", err, g)
	}
	for _, f := range []func(templates.Menu) ([]byte, error){templates.ISOLinux, templates.IPXE} {
		if _, err := f(m); err != nil {
			t.Error(err)
		}
	}
}

// TestPXESource: a tree that is made on another machine than the set names the set's
// host, for an unattended restore takes no other host's; a name that could do harm in a
// boot menu is refused.
func TestPXESource(t *testing.T) {
	dir := t.TempDir()
	const made = "../../internal/manifest/testdata/v1/directory"
	web := httptest.NewServer(http.FileServer(http.Dir(filepath.Dir(made))))
	defer web.Close()
	unprobed := &Machine{Layout: &layout.Layout{}, Generic: true}
	b := &Maker{Report: progress.None{}}
	s, err := manifest.Open(made)
	if err != nil {
		t.Fatal(err)
	}
	url := web.URL + "/" + filepath.Base(made)
	host, signer := b.sourceSet(t.Context(), url)
	if host != s.Manifest.Host || host == "" || signer == nil {
		t.Errorf("host of %s: %q; want %q, and a signer", url, host, s.Manifest.Host)
	} else if line, err := signer(); err != nil || line != nil {
		t.Errorf("the key of a set that is not signed: %q, %v", line, err)
	}
	if got, signer := b.sourceSet(t.Context(), web.URL+"/none"); got != "" || signer != nil {
		t.Errorf("host of a set that is not there: %q", got)
	}
	signed := filepath.Join(dir, "signed")
	if err := os.CopyFS(signed, os.DirFS(made)); err != nil {
		t.Fatal(err)
	}
	key, _, err := signing.LoadKey(filepath.Join(dir, "key"), "other")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(signed, manifest.File))
	if err == nil {
		text, err = key.Sign(text)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(signed, manifest.Signature), text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	here := httptest.NewServer(http.FileServer(http.Dir(dir)))
	defer here.Close()
	if _, signer := b.sourceSet(t.Context(), here.URL+"/signed"); signer == nil {
		t.Error("no signer of a signed set")
	} else if line, err := signer(); err != nil || string(line) != string(signing.Line(key.Public(), s.Manifest.Host)) {
		t.Errorf("the key of a signed set: %q, %v", line, err)
	}
	for host, want := range map[string]bool{"other": true, "here": false, "": false} {
		m, err := (&System{by: b, machine: unprobed, Info: &rescue.Info{Host: "here"}}).netMenu(PXEOptions{Source: url, Host: host})
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(m.Append, " mkcdrec.host="+host); !strings.Contains(m.Append, " mkcdrec.source="+url) || got != want {
			t.Errorf("host %q: kernel command line %q", host, m.Append)
		}
	}
	for _, bad := range []string{"a b", "${net0/ip}", "a\nb"} {
		if err := b.PXE(t.Context(), unprobed, filepath.Join(dir, "tree"), PXEOptions{Source: "x", Host: bad}); err == nil || !strings.Contains(err.Error(), "cannot use the host") {
			t.Errorf("host %q: %v", bad, err)
		}
	}
}

func TestSerial(t *testing.T) {
	for in, want := range map[string]string{"ttyS0,115200n8": "0 115200", "ttyS1": "1 115200", "tty0": "", "ttyS9": "", "ttyS2,9600": "2 9600"} {
		got := ""
		if s := serial([]string{"tty0", in}); s != nil {
			got = fmt.Sprint(s.Port, " ", s.Speed)
		}
		if got != want {
			t.Errorf("serial(%s) = %q; want %q", in, got, want)
		}
	}
}
