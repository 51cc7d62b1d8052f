package efivar

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestLoadOption(t *testing.T) {
	u16 := func(s string) string {
		var b strings.Builder
		for _, c := range s + "\x00" {
			b.WriteString(string([]byte{byte(c), byte(c >> 8)}))
		}
		return b.String()
	}
	hd := "\x04\x01\x2a\x00\x01\x00\x00\x00" + strings.Repeat("\x00", 16) + "\x11\x22\x33\x44\x55\x66\x77\x88\x99\xaa\xbb\xcc\xdd\xee\xff\x00" + "\x02\x02"
	path := u16(`\EFI\debian\shimx64.efi`)
	fp := "\x04\x04" + string([]byte{byte(len(path) + 4), 0}) + path
	end := "\x7f\xff\x04\x00"
	opt := "\x01\x00\x00\x00" + string([]byte{byte(len(hd + fp + end)), 0}) + u16("debian") + hd + fp + end
	e, ok := parseLoadOption([]byte(opt))
	if !ok || e.Label != "debian" || e.Path != `\EFI\debian\shimx64.efi` || e.PartGUID != "44332211-6655-8877-99AA-BBCCDDEEFF00" || !e.Active {
		t.Errorf("parseLoadOption = %+v, %v", e, ok)
	}
}

func FuzzLoadOption(f *testing.F) {
	f.Add([]byte("\x01\x00\x00\x00\x04\x00a\x00\x00\x00\x7f\xff\x04\x00"))
	f.Fuzz(func(t *testing.T, b []byte) { parseLoadOption(b) })
}

// TestLoaderInfo: the boot loader's name is read as it left it; a variable that is cut off has none.
func TestLoaderInfo(t *testing.T) {
	for name, c := range map[string]struct {
		content, want string
		ok            bool
	}{
		"GRUB":    {"\x06\x00\x00\x00G\x00R\x00\x00\x00", "GR", true},
		"no end":  {"\x06\x00\x00\x00G\x00", "G", true},
		"cut off": {"\x06\x00\x00\x00", "", false},
	} {
		dir := t.TempDir()
		if got, ok := LoaderInfo(dir); ok {
			t.Errorf("%s: LoaderInfo() without the variable = %q", name, got)
		}
		if err := os.WriteFile(filepath.Join(dir, loaderInfo), []byte(c.content), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, ok := LoaderInfo(dir); got != c.want || ok != c.ok {
			t.Errorf("%s: LoaderInfo() = %q, %v; want %q, %v", name, got, ok, c.want, c.ok)
		}
	}
}

// TestSecureBoot: only a variable of the right length with the value 1 means that it is on.
func TestSecureBoot(t *testing.T) {
	dir := t.TempDir()
	if SecureBoot(dir) {
		t.Error("SecureBoot without the variable = true; want false")
	}
	for value, want := range map[string]bool{"\x06\x00\x00\x00\x01": true, "\x06\x00\x00\x00\x00": false, "\x06\x00\x00\x00": false, "\x01": false, "\x06\x00\x00\x00\x01\x01": false} {
		if err := os.WriteFile(filepath.Join(dir, "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"), []byte(value), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := SecureBoot(dir); got != want {
			t.Errorf("SecureBoot with %q = %v; want %v", value, got, want)
		}
	}
}
