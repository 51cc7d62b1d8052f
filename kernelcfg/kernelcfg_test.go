package kernelcfg

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// image makes the head of a bzImage of the given release.
func image(t *testing.T, file, release string) {
	t.Helper()
	b := make([]byte, 4096)
	copy(b[0x202:], "HdrS")
	binary.LittleEndian.PutUint16(b[0x206:], 0x20f)
	binary.LittleEndian.PutUint16(b[0x20e:], 0x600)
	copy(b[0x800:], release+" (builder@host) #1 SMP")
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestFind(t *testing.T) {
	root := t.TempDir()
	var nf *NotFoundError
	if _, err := Find(root, "6.1.0-1", "", ""); !errors.As(err, &nf) || !strings.Contains(err.Error(), "/boot/vmlinuz-6.1.0-1") {
		t.Errorf("Find without a kernel = %v; want what was looked for", err)
	}
	image(t, root+"/boot/vmlinuz-6.1.0-1", "6.1.0-1")
	if err := os.MkdirAll(root+"/lib/modules/6.1.0-1", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(root+"/boot/config-6.1.0-1", []byte("# c\nCONFIG_RD_ZSTD=y\nCONFIG_X=\"a b\"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	k, err := Find(root, "6.1.0-1", "", "")
	if err != nil || k.Modules != root+"/lib/modules/6.1.0-1" || !k.Config.Zstd() || k.Config["CONFIG_X"] != "a b" {
		t.Errorf("Find = %+v, %v", k, err)
	}
	// Another image by name tells its own release.
	image(t, root+"/k", "5.10.9")
	if k, err := Find(root, "6.1.0-1", root+"/k", ""); err != nil || k.Release != "5.10.9" || k.Modules != "" {
		t.Errorf("Find(named) = %+v, %v", k, err)
	}
	// An image of another kernel under the running one's name is refused.
	image(t, root+"/boot/vmlinuz-6.1.0-1", "6.1.0-2")
	if _, err := Find(root, "6.1.0-1", "", ""); err == nil {
		t.Error("a kernel that is not the running one is taken for it")
	}
	if err := os.WriteFile(root+"/k", []byte("no kernel"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Find(root, "x", root+"/k", ""); err == nil || !strings.Contains(err.Error(), "no bzImage") {
		t.Errorf("Find(no kernel) = %v", err)
	}
}

func TestCheck(t *testing.T) {
	c, err := ParseConfig(strings.NewReader("CONFIG_BLK_DEV_INITRD=y\nCONFIG_ISO9660_FS=m\nCONFIG_PROC_FS=m\n"))
	if err != nil {
		t.Fatal(err)
	}
	m := c.Check(Base)
	miss := map[string]bool{}
	for _, x := range m {
		miss[x.Option] = true
	}
	if miss["CONFIG_BLK_DEV_INITRD"] || miss["CONFIG_ISO9660_FS"] || !miss["CONFIG_PROC_FS"] || !miss["CONFIG_TMPFS"] || len(m) != len(Base)-2 {
		t.Errorf("Check = %v", m)
	}
	if _, err := ParseConfig(strings.NewReader("CONFIG_A=y\nnonsense\n")); err == nil || !strings.Contains(err.Error(), "line 2") {
		t.Errorf("ParseConfig(nonsense) = %v; want the line", err)
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add("CONFIG_A=y\n# CONFIG_B is not set\n")
	f.Fuzz(func(t *testing.T, s string) {
		if c, err := ParseConfig(strings.NewReader(s)); err == nil {
			c.Check(Base)
		}
	})
}
