package kernelcfg

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/ulikunitz/xz"

	"github.com/mkcdrec/mkcdrec/internal/kmod"
)

// image makes the head of a bzImage of the given release.
func image(t *testing.T, file, release string) {
	t.Helper()
	b := make([]byte, 4096)
	copy(b[0x202:], "HdrS")
	binary.LittleEndian.PutUint16(b[0x206:], 0x20f)
	b[offXLoadFlags] = xlfKernel64
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
	if err := os.WriteFile(root+"/lib/modules/6.1.0-1/modules.dep", nil, 0o644); err != nil {
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
	if err := os.MkdirAll(root+"/unpacked/lib/modules/5.10.9", 0o755); err != nil {
		t.Fatal(err)
	}
	if k, err := Find(root, "6.1.0-1", root+"/k", root+"/unpacked"); err != nil || k.Modules != root+"/unpacked/lib/modules/5.10.9" {
		t.Errorf("Find(unpacked package) = %+v, %v", k, err)
	}
	// An image of another kernel under the running one's name is refused.
	image(t, root+"/boot/vmlinuz-6.1.0-1", "6.1.0-2")
	if _, err := Find(root, "6.1.0-1", "", ""); err == nil {
		t.Error("a kernel that is not the running one is taken for it")
	}
	if err := os.WriteFile(root+"/k", []byte("no kernel"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Find(root, "x", root+"/k", ""); err == nil || !strings.Contains(err.Error(), "not a bzImage") {
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

// TestImages: what can't start is refused for the right reason.
func TestImages(t *testing.T) {
	gz := func(s string) []byte {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		if _, err := w.Write([]byte(s)); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	good := func(change func([]byte)) []byte {
		b := make([]byte, 4096)
		copy(b[0x202:], "HdrS")
		binary.LittleEndian.PutUint16(b[0x206:], 0x20f)
		binary.LittleEndian.PutUint16(b[0x20e:], 0x600)
		b[offXLoadFlags] = xlfKernel64
		copy(b[0x800:], "6.1.0 (x)")
		if change != nil {
			change(b)
		}
		return b
	}
	for _, c := range []struct {
		name string
		b    []byte
		want string // "" for usable
	}{
		{"good", good(nil), ""},
		{"xen dom0", gz("\x7fELF ... GUEST_OS=linux,GUEST_VERSION=2.6"), "only as a Xen guest or dom0"},
		{"xen hypervisor", gz("\x7fELF ... Xen 4.17"), "the Xen hypervisor"},
		{"vmlinux", []byte("\x7fELF...."), "(vmlinux)"},
		{"arm64", append(make([]byte, 0x38), "ARM\x64...."...), "ARM64, wrong architecture"},
		{"32 bit", good(func(b []byte) { b[offXLoadFlags] = 0 }), "32-bit kernel, wrong architecture"},
		{"cut off", good(func(b []byte) { binary.LittleEndian.PutUint32(b[offSysSize:], 4096) }), "cut off: it has 4096 bytes"},
		{"old", good(func(b []byte) { binary.LittleEndian.PutUint16(b[0x206:], 0x202) }), "boot protocol"},
		{"no release", good(func(b []byte) { binary.LittleEndian.PutUint16(b[0x20e:], 0) }), "release"},
		{"empty", nil, "empty"},
		{"text", []byte("hello"), "not a bzImage"},
	} {
		f := filepath.Join(t.TempDir(), "k")
		if err := os.WriteFile(f, c.b, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := ReadImage(f)
		var u *UnusableError
		if c.want == "" && err != nil || c.want != "" && (!errors.As(err, &u) || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: ReadImage = %v; want %q", c.name, err, c.want)
		}
	}
}

// TestBest: the newest kernel with modules is found, and what can't be used
// is listed with its reason.
func TestBest(t *testing.T) {
	root := t.TempDir()
	for _, r := range []string{"6.1.0-9", "6.1.0-10", "6.2.0-1"} {
		image(t, root+"/boot/vmlinuz-"+r, r)
		if r == "6.2.0-1" {
			continue // no modules
		}
		if err := os.MkdirAll(root+"/lib/modules/"+r, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(root+"/lib/modules/"+r+"/modules.dep", nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if k, err := Find(root, "5.0", Best, ""); err != nil || k.Release != "6.1.0-10" {
		t.Errorf("Find(best) = %+v, %v; want 6.1.0-10", k, err)
	}
	_, err := Find(root, "5.0", "", "")
	for _, w := range []string{"vmlinuz-6.1.0-10 (6.1.0-10) could be used", "no modules for 6.2.0-1"} {
		if err == nil || !strings.Contains(err.Error(), w) {
			t.Errorf("Find(running) = %v; want %q in it", err, w)
		}
	}
	for _, c := range []struct {
		a, b string
		want int
	}{{"6.1.0-10", "6.1.0-9", 1}, {"6.1", "6.1", 0}, {"6.1.0", "6.1", 1}, {"5.15.0-rc1", "5.15.0-1", 1}, {"006.1", "6.2", -1}} {
		if got := CompareRelease(c.a, c.b); got != c.want {
			t.Errorf("CompareRelease(%s, %s) = %d; want %d", c.a, c.b, got, c.want)
		}
	}
}

// TestEmbeddedConfig: the configuration inside an image, by every compression.
func TestEmbeddedConfig(t *testing.T) {
	var cfg, payload bytes.Buffer
	z := gzip.NewWriter(&cfg)
	if _, err := z.Write([]byte("CONFIG_IKCONFIG=y\nCONFIG_RD_ZSTD=y\n")); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	vmlinux := append(append(bytes.Repeat([]byte("code"), 5000), "IKCFG_ST"...), cfg.Bytes()...)
	vmlinux = append(vmlinux, "IKCFG_ED"...)
	for name, pack := range map[string]func(io.Writer) io.WriteCloser{
		"gzip": func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) },
		"xz":   func(w io.Writer) io.WriteCloser { x, _ := xz.NewWriter(w); return x },
		"zstd": func(w io.Writer) io.WriteCloser { x, _ := zstd.NewWriter(w); return x },
		"lz4": func(w io.Writer) io.WriteCloser {
			x := lz4.NewWriter(w)
			if err := x.Apply(lz4.LegacyOption(true)); err != nil {
				t.Fatal(err)
			}
			return x
		},
	} {
		payload.Reset()
		w := pack(&payload)
		if _, err := w.Write(vmlinux); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		payload.Write([]byte{0, 0, 1, 0}) // the length that the kernel's build appends
		b := make([]byte, 5*512)
		copy(b[0x202:], "HdrS")
		b[offSetupSects] = 4
		binary.LittleEndian.PutUint16(b[0x206:], 0x20f)
		binary.LittleEndian.PutUint32(b[offPayloadLength:], uint32(payload.Len()))
		f := filepath.Join(t.TempDir(), "k")
		if err := os.WriteFile(f, append(b, payload.Bytes()...), 0o600); err != nil {
			t.Fatal(err)
		}
		r, ok := embeddedConfig(f)
		if !ok {
			t.Errorf("%s: no configuration found", name)
			continue
		}
		if c, err := ParseConfig(r); err != nil || !c.Zstd() {
			t.Errorf("%s: ParseConfig = %v, %v", name, c, err)
		}
	}
}

// elfModule makes an ELF file with a .modinfo section, as far as debug/elf reads.
func elfModule(t *testing.T, machine elf.Machine, info string) []byte {
	t.Helper()
	names := "\x00.modinfo\x00.shstrtab\x00"
	var b bytes.Buffer
	h := elf.Header64{Type: uint16(elf.ET_REL), Machine: uint16(machine), Version: 1, Ehsize: 64, Shentsize: 64, Shnum: 3, Shstrndx: 2}
	copy(h.Ident[:], "\x7fELF\x02\x01\x01")
	h.Shoff = uint64(64 + len(info) + len(names))
	for _, v := range []any{h, []byte(info), []byte(names), elf.Section64{}, elf.Section64{Name: 1, Type: uint32(elf.SHT_PROGBITS), Off: 64, Size: uint64(len(info))}, elf.Section64{Name: 10, Type: uint32(elf.SHT_STRTAB), Off: uint64(64 + len(info)), Size: uint64(len(names))}} {
		if err := binary.Write(&b, binary.LittleEndian, v); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

func TestCheckModules(t *testing.T) {
	for _, c := range []struct {
		machine elf.Machine
		info    string
		want    string
	}{
		{elf.EM_X86_64, "vermagic=6.1.0-1 SMP mod_unload\x00", ""},
		{elf.EM_X86_64, "vermagic=6.1.0-2 SMP mod_unload\x00", "they are for kernel 6.1.0-2"},
		{elf.EM_AARCH64, "vermagic=6.1.0-1 SMP\x00", "EM_AARCH64, wrong architecture"},
	} {
		dir := t.TempDir()
		for f, b := range map[string][]byte{"modules.dep": []byte("ext4.ko:\n"), "ext4.ko": elfModule(t, c.machine, c.info)} {
			if err := os.WriteFile(filepath.Join(dir, f), b, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		_, err := CheckModules(&Kernel{Image: "/boot/k", Release: "6.1.0-1", Modules: dir})
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%v %q: CheckModules = %v; want %q", c.machine, c.info, err, c.want)
		}
	}
	if _, err := CheckModules(&Kernel{Image: "/boot/k", Release: "6.1.0-1"}); err == nil || !strings.Contains(err.Error(), "no modules for 6.1.0-1") {
		t.Errorf("without modules: %v", err)
	}
}

// TestSelect: sets grow, and who needs an excluded driver goes with it.
func TestSelect(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/modules.dep", []byte("kernel/drivers/scsi/hpsa.ko: kernel/drivers/scsi/scsi_transport_sas.ko\nkernel/drivers/scsi/scsi_transport_sas.ko:\nkernel/drivers/scsi/qla2xxx/qla2xxx.ko: kernel/drivers/scsi/scsi_transport_fc.ko\nkernel/drivers/scsi/scsi_transport_fc.ko:\nkernel/drivers/scsi/qla2xxx/tcm_qla2xxx.ko: kernel/drivers/scsi/qla2xxx/qla2xxx.ko\nkernel/fs/isofs/isofs.ko:\nkernel/drivers/net/ethernet/intel/e1000/e1000.ko:\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/modules.alias", []byte("alias pci:v1d2* e1000\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	x, err := kmod.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		set     string
		exclude []string
		want    string
	}{
		{SetHost, nil, "[e1000 isofs]"},
		{SetDefault, nil, "[e1000 hpsa isofs scsi_transport_sas]"},
		{SetAll, nil, "[e1000 hpsa isofs qla2xxx scsi_transport_fc scsi_transport_sas tcm_qla2xxx]"},
		{SetAll, []string{"qla2xxx"}, "[e1000 hpsa isofs scsi_transport_fc scsi_transport_sas]"},
	} {
		names, _, err := Select(x, c.set, nil, []string{"pci:v1d2e3"}, c.exclude)
		slices.Sort(names)
		if err != nil || fmt.Sprint(names) != c.want {
			t.Errorf("Select(%s, exclude %v) = %v, %v; want %s", c.set, c.exclude, names, err, c.want)
		}
	}
	if _, _, err := Select(x, "nonsense", nil, nil, nil); err == nil {
		t.Error("an unknown set is accepted")
	}
}

func FuzzReadImage(f *testing.F) {
	f.Add([]byte("HdrS"))
	f.Fuzz(func(t *testing.T, b []byte) {
		k := filepath.Join(t.TempDir(), "k")
		if err := os.WriteFile(k, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadImage(k); err == nil {
			if r, ok := embeddedConfig(k); ok {
				_, _ = ParseConfig(io.LimitReader(r, 1<<20)) // must only not panic
			}
		}
	})
}

func FuzzParseConfig(f *testing.F) {
	f.Add("CONFIG_A=y\n# CONFIG_B is not set\n")
	f.Fuzz(func(t *testing.T, s string) {
		if c, err := ParseConfig(strings.NewReader(s)); err == nil {
			c.Check(Base)
		}
	})
}
