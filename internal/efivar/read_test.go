package efivar

import (
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
