package kmod

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// koFile makes a module with a .modinfo section and a table of symbols, of which those with
// "?" are wanted and the others given.
func koFile(t testing.TB, info string, symbols ...string) []byte {
	t.Helper()
	names := "\x00.modinfo\x00.symtab\x00.strtab\x00.shstrtab\x00"
	at := func(n string) uint32 { return uint32(strings.Index(names, n+"\x00")) }
	str, syms := "\x00", []elf.Sym64{{}}
	for _, s := range symbols {
		y := elf.Sym64{Name: uint32(len(str)), Info: byte(elf.STB_GLOBAL) << 4}
		if n, ok := strings.CutPrefix(s, "?"); ok {
			s = n
		} else {
			y.Shndx = 1
		}
		str += s + "\x00"
		syms = append(syms, y)
	}
	var tab bytes.Buffer
	if err := binary.Write(&tab, binary.LittleEndian, syms); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	off := uint64(64)
	section := func(name string, typ elf.SectionType, data string, link uint32, entry uint64) elf.Section64 {
		s := elf.Section64{Name: at(name), Type: uint32(typ), Off: off, Size: uint64(len(data)), Link: link, Info: 1, Entsize: entry, Addralign: 1}
		off += s.Size
		return s
	}
	data := []string{info, tab.String(), str, names}
	h := elf.Header64{Type: uint16(elf.ET_REL), Machine: uint16(elf.EM_X86_64), Version: 1, Ehsize: 64, Shentsize: 64, Shnum: 5, Shstrndx: 4}
	copy(h.Ident[:], "\x7fELF\x02\x01\x01")
	sections := []elf.Section64{{}, section(".modinfo", elf.SHT_PROGBITS, data[0], 0, 0), section(".symtab", elf.SHT_SYMTAB, data[1], 3, 24), section(".strtab", elf.SHT_STRTAB, data[2], 0, 0), section(".shstrtab", elf.SHT_STRTAB, data[3], 0, 0)}
	h.Shoff = off
	for _, v := range []any{h, []byte(strings.Join(data, "")), sections} {
		if err := binary.Write(&b, binary.LittleEndian, v); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

// bareTree makes a tree of modules that depmod has not been run on.
func bareTree(t *testing.T) (base, dir string) {
	t.Helper()
	base = t.TempDir()
	dir = filepath.Join(base, "lib/modules/6.1.0-test")
	info := func(name, rest string) string {
		return "license=GPL\x00" + rest + "name=" + name + "\x00vermagic=6.1.0-test SMP\x00"
	}
	for file, b := range map[string][]byte{
		"kernel/lib/crc16.ko":            koFile(t, info("crc16", ""), "crc16", "__ksymtab_crc16", "__crc_crc16"),
		"kernel/fs/jbd2/jbd2.ko.xz":      koFile(t, info("jbd2", "depends=crc16\x00"), "?crc16", "?printk", "jbd2_start", "__ksymtab_jbd2_start", "__ksymtab_gpl"),
		"kernel/fs/ext4/ext4.ko.zst":     koFile(t, info("ext4", "alias=fs-ext4\x00alias=ext3\x00softdep=pre: crc32c post: nls-utf8\x00depends=jbd2\x00"), "?jbd2_start", "?of-no-module"),
		"kernel/drivers/net/dwc-eth.ko":  koFile(t, info("dwc_eth", "alias=pci:v00001AF4d00001000sv*sd*bc*sc*i*\x00alias=of:N*T*Csnps,dwc-ethC*\x00"), "?jbd2_start"),
		"kernel/drivers/net/same.ko":     koFile(t, info("same", "alias=old-one\x00")),
		"updates/same.ko":                koFile(t, info("same", "alias=new-one\x00depends=crc16\x00"), "?crc16"),
		"kernel/drivers/net/lonely.ko":   koFile(t, info("lonely", "depends=\x00"), "?kmalloc"),
		"modules.order":                  []byte("kernel/fs/jbd2/jbd2.ko\nkernel/fs/ext4/ext4.ko\nkernel/lib/crc16.ko\nkernel/drivers/net/dwc-eth.ko\nkernel/drivers/net/same.ko\n"),
		"modules.builtin":                []byte("kernel/drivers/block/loop.ko\n"),
		"kernel/Documentation/readme.ko": nil,
	} {
		if b == nil {
			continue
		}
		var out bytes.Buffer
		var w io.WriteCloser
		var err error
		switch filepath.Ext(file) {
		case ".xz":
			w, err = xz.NewWriter(&out)
		case ".zst":
			w, err = zstd.NewWriter(&out)
		}
		if err != nil {
			t.Fatal(err)
		}
		if w != nil {
			if _, err := w.Write(b); err != nil {
				t.Fatal(err)
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			b = out.Bytes()
		}
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(file)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, file), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return base, dir
}

// sameIndex compares what was made with what depmod has made.
func sameIndex(t *testing.T, made, want *Index) {
	t.Helper()
	if !maps.Equal(made.Path, want.Path) {
		t.Errorf("%d modules; want %d", len(made.Path), len(want.Path))
	}
	bad := 0
	report := func(f string, a ...any) {
		if bad++; bad < 10 {
			t.Errorf(f, a...)
		}
	}
	for n, deps := range want.Deps {
		if a, b := slices.Sorted(slices.Values(made.Deps[n])), slices.Sorted(slices.Values(deps)); !slices.Equal(a, b) {
			report("%s needs %q; want %q", n, a, b)
		}
	}
	for n := range want.Path {
		order := made.Order(n)
		for i, m := range order {
			for _, d := range made.Deps[m] {
				if at := slices.Index(order, d); at < 0 || at > i {
					report("Order(%s) = %q: %s is loaded before %s", n, order, m, d)
				}
			}
		}
	}
	for _, w := range []struct{ made, want map[string][]string }{{made.Pre, want.Pre}, {made.Post, want.Post}} {
		if !maps.EqualFunc(w.made, w.want, slices.Equal) {
			t.Errorf("soft dependencies %v; want %v", w.made, w.want)
		}
	}
	for b, list := range want.aliases {
		same := func(l []alias) []string {
			var out []string
			for _, a := range l {
				out = append(out, a.pattern+" "+a.module)
			}
			slices.Sort(out)
			return slices.Compact(out)
		}
		if a, b := same(made.aliases[b]), same(list); !slices.Equal(a, b) {
			report("aliases %.300q; want %.300q", a, b)
		}
	}
	if len(made.aliases) != len(want.aliases) {
		t.Errorf("%d kinds of aliases; want %d", len(made.aliases), len(want.aliases))
	}
}

// TestScan: the index of a tree without one is that of depmod, and can be packed.
func TestScan(t *testing.T) {
	base, dir := bareTree(t)
	made, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ what, got, want string }{
		{"Order", fmt.Sprint(made.Order("ext4")), "[crc16 jbd2 ext4]"},
		{"Match", fmt.Sprint(made.Match("pci:v00001AF4d00001000sv0sd0bc0sc0i0")), "[dwc_eth]"},
		{"Resolve", fmt.Sprint(made.Resolve("new-one"), made.Resolve("old-one"), made.Resolve("loop")), "[same] [] []"},
		{"Path", made.Path["same"], "updates/same.ko"},
	} {
		if c.got != c.want {
			t.Errorf("%s = %s; want %s", c.what, c.got, c.want)
		}
	}
	files, err := made.WriteIndex(made.Closure([]string{"ext4"}))
	if err != nil || !strings.Contains(string(files["modules.dep"]), "kernel/fs/ext4/ext4.ko: kernel/fs/jbd2/jbd2.ko kernel/lib/crc16.ko\n") || string(files["modules.alias"]) != "alias fs-ext4 ext4\nalias ext3 ext4\n" || !strings.Contains(string(files["modules.softdep"]), "softdep ext4 pre: crc32c post: nls-utf8") || !strings.Contains(string(files["modules.builtin"]), "loop") {
		t.Errorf("WriteIndex = %q, %v", files, err)
	}
	if _, err := exec.LookPath("depmod"); err != nil {
		t.Skip("depmod is missing")
	}
	if out, err := exec.Command("depmod", "-b", base, "6.1.0-test").CombinedOutput(); err != nil {
		t.Fatalf("depmod: %v\n%s", err, out)
	}
	want, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	sameIndex(t, made, want)
}

// TestScanDebian compares with the index of a whole kernel of Debian, if the machines in
// virtual machines have left one here.
func TestScanDebian(t *testing.T) {
	dirs, _ := filepath.Glob("/var/cache/mkcdrec/kernels/*/lib/modules/*")
	if len(dirs) == 0 {
		t.Skip("there is no kernel")
	}
	if testing.Short() {
		t.Skip("reads all of a kernel's modules")
	}
	dir := dirs[0]
	want, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	bare := t.TempDir()
	for _, n := range []string{"modules.order", "modules.builtin"} {
		if err := os.Symlink(filepath.Join(dir, n), filepath.Join(bare, n)); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("cp", "-a", dir+"/kernel", bare+"/kernel").CombinedOutput(); err != nil {
		t.Fatalf("cp: %v\n%s", err, out)
	}
	made, err := Open(bare)
	if err != nil {
		t.Fatal(err)
	}
	sameIndex(t, made, want)
}

// TestScanBad: a file that is no module is named.
func TestScanBad(t *testing.T) {
	_, dir := bareTree(t)
	if err := os.WriteFile(dir+"/kernel/bad.ko.zst", []byte("no zstd"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), "kernel/bad.ko.zst") {
		t.Errorf("Open = %v; want the name of the file", err)
	}
}

func FuzzParseModule(f *testing.F) {
	f.Add(koFile(f, "alias=fs-x\x00softdep=pre: a\x00depends=a,b\x00", "?wanted", "__ksymtab_given"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseModule(b)
		if err != nil {
			return
		}
		m.path = "kernel/x.ko"
		x := &Index{Path: map[string]string{}, Deps: map[string][]string{}, Pre: map[string][]string{}, Post: map[string][]string{}, aliases: map[string][]alias{}}
		x.enter([]*module{m, {path: "kernel/a.ko", gives: m.wants, wants: m.gives}})
		x.Order("x")
	})
}
