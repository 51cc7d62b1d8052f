package kmod

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
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
	if _, err := Open(t.TempDir()); err == nil || !strings.Contains(err.Error(), "modules.dep") {
		t.Errorf("Open(empty) = %v; want an error that names modules.dep", err)
	}
}
