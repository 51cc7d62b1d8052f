package kmod

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// modTree writes a small module tree as depmod would.
func modTree(t *testing.T) *Index {
	t.Helper()
	dir := t.TempDir()
	for f, s := range map[string]string{
		"modules.dep": "kernel/fs/ext4/ext4.ko.xz: kernel/fs/jbd2/jbd2.ko.xz kernel/lib/crc16.ko kernel/fs/mbcache.ko\nkernel/fs/jbd2/jbd2.ko.xz:\nkernel/lib/crc16.ko:\nkernel/fs/mbcache.ko:\n" +
			"kernel/crypto/crc32c_generic.ko:\nkernel/drivers/net/e1000.ko:\nkernel/drivers/virtio-net.ko: kernel/drivers/failover.ko\nkernel/drivers/failover.ko:\n",
		"modules.softdep": "softdep ext4 pre: crypto-crc32c\nsoftdep virtio_net post: e1000\n",
		"modules.alias":   "alias fs-ext4 ext4\nalias crypto-crc32c crc32c_generic\nalias pci:v00008086d0000100Esv*sd*bc*sc*i* e1000\nalias virtio:d00000001v* virtio_net\nalias of:N*T*Cfoo,bar/bazC* e1000\n",
		"modules.builtin": "kernel/drivers/block/loop.ko\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, f), []byte(s), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	x, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func TestIndex(t *testing.T) {
	x := modTree(t)
	for _, c := range []struct{ what, got, want string }{
		{"Match pci", fmt.Sprint(x.Match("pci:v00008086d0000100Esv00001AF4sd00001100bc02sc00i00")), "[e1000]"},
		{"Match nothing", fmt.Sprint(x.Match("pci:v00001234d00000001sv0sd0bc0sc0i0")), "[]"},
		{"Match with a slash", fmt.Sprint(x.Match("of:NethT<NULL>Cfoo,bar/bazCx")), "[e1000]"},
		{"Resolve fs", fmt.Sprint(x.Resolve("fs-ext4")), "[ext4]"},
		{"Resolve hyphen", fmt.Sprint(x.Resolve("virtio-net")), "[virtio_net]"},
		{"Resolve builtin", fmt.Sprint(x.Resolve("loop")), "[]"},
		{"Closure", fmt.Sprint(x.Closure([]string{"ext4"})), "[crc16 crc32c_generic ext4 jbd2 mbcache]"},
		{"Closure with post", fmt.Sprint(x.Closure([]string{"virtio_net"})), "[e1000 failover virtio_net]"},
		{"Order", fmt.Sprint(x.Order("ext4")), "[crc32c_generic mbcache crc16 jbd2 ext4]"},
		{"needs", fmt.Sprint(x.needs("ext4", "ext4"), x.needs("ext4", "jbd2"), x.needs("ext4", "crc32c_generic")), "true true false"},
		{"Select", fmt.Sprint(x.Select("kernel/drivers/net/", "kernel/lib/")), "[crc16 e1000]"},
	} {
		if c.got != c.want {
			t.Errorf("%s = %s; want %s", c.what, c.got, c.want)
		}
	}
}

func TestWriteIndex(t *testing.T) {
	x := modTree(t)
	files, err := x.WriteIndex(x.Closure([]string{"ext4"}))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for f, b := range files {
		if err := os.WriteFile(filepath.Join(dir, f), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	y, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(y.Order("ext4"), y.Match("fs-ext4"), y.Path["ext4"], y.Builtin["loop"], len(y.Path)); got != "[crc32c_generic mbcache crc16 jbd2 ext4] [ext4]kernel/fs/ext4/ext4.kotrue 5" {
		t.Errorf("the packed index reads %s", got)
	}
	if strings.Contains(string(files["modules.alias"]), "e1000") {
		t.Error("aliases of modules that are left out are still there")
	}
}

func TestOpenMissing(t *testing.T) {
	if _, err := Open("/nosuch/lib/modules/6.1.0-9"); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "/nosuch/lib/modules/6.1.0-9: no such file") {
		t.Errorf("Open = %v; want an error that names the directory", err)
	}
	base := t.TempDir()
	if err := os.MkdirAll(base+"/usr/lib/modules/6.1.0-9", 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(base + "/usr/lib/modules/6.1.0-9"); err == nil || !strings.Contains(err.Error(), "depmod -b "+base+" 6.1.0-9") {
		t.Errorf("Open = %v; want an error that names depmod", err)
	}
	if _, err := Open(t.TempDir()); err == nil || !strings.Contains(err.Error(), "modules.dep") {
		t.Errorf("Open(empty) = %v; want an error that names modules.dep", err)
	}
}

// TestPack: every module comes out of the pack as it went in, also by several
// goroutines, and damage is told.
func TestPack(t *testing.T) {
	src := t.TempDir()
	var dep strings.Builder
	want := map[string][]byte{}
	var names []string
	for i := range 40 {
		n := fmt.Sprintf("mod%02d", i)
		fmt.Fprintf(&dep, "kernel/%s.ko:\n", n)
		want[n] = bytes.Repeat([]byte(n), 1+i*9000)
		names = append(names, n)
		if err := os.MkdirAll(src+"/kernel", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(src+"/kernel/"+n+".ko", want[n], 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(src+"/modules.dep", []byte(dep.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	x, err := Open(src)
	if err != nil {
		t.Fatal(err)
	}
	var pack bytes.Buffer
	index, err := x.WritePack(&pack, names, func(string, []byte) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	dst := t.TempDir()
	for f, b := range map[string][]byte{"modules.dep": []byte(dep.String()), PackFile: pack.Bytes(), PackIndex: index} {
		if err := os.WriteFile(filepath.Join(dst, f), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	y, err := Open(dst)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for _, n := range names {
				if got, err := y.Read(n); err != nil || !bytes.Equal(got, want[n]) {
					t.Errorf("Read(%s) = %d bytes, %v; want %d", n, len(got), err, len(want[n]))
				}
			}
		})
	}
	wg.Wait()
	b := pack.Bytes()
	b[len(b)/2] ^= 1
	if err := os.WriteFile(filepath.Join(dst, PackFile), b[:len(b)-5], 0o644); err != nil {
		t.Fatal(err)
	}
	y.FlushPack()
	bad := 0
	for _, n := range names {
		if _, err := y.Read(n); err != nil {
			bad++
		}
	}
	if bad == 0 {
		t.Error("a damaged pack is read without an error")
	}
	if err := os.WriteFile(filepath.Join(dst, PackIndex), []byte("1 2 x\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dst); err == nil {
		t.Error("a bad index is accepted")
	}
}

func TestConf(t *testing.T) {
	root := t.TempDir()
	for f, s := range map[string]string{
		"/etc/modprobe.d/a.conf": "# c\nblacklist nouveau\noptions mpt3sas max_lun=8 \\\n  x=1\ninstall st /bin/false\n",
		"/lib/modprobe.d/a.conf": "blacklist hidden\n",
		"/lib/modprobe.d/b.conf": "blacklist snd-pcsp\n",
	} {
		if err := os.MkdirAll(filepath.Dir(root+f), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(root+f, []byte(s), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	c := ReadConf(root)
	c.Cmdline("quiet modprobe.blacklist=qla2xxx,lpfc ahci.mobile_lpm_policy=1 mkcdrec.auto=restore usbcore.nousb")
	if got, want := string(c.Text([]string{"ahci", "hidden", "lpfc", "mpt3sas", "nouveau", "snd_pcsp", "st", "usbcore"})), "options ahci mobile_lpm_policy=1\nblacklist lpfc\noptions mpt3sas max_lun=8 x=1\nblacklist nouveau\nblacklist snd_pcsp\noptions usbcore nousb\n"; got != want {
		t.Errorf("Text = %q; want %q", got, want)
	}
}
