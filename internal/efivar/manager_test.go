package efivar

import (
	"bytes"
	"encoding/hex"
	"testing"
)

// TestPathText: nodes as libefivar writes them, but for the addresses of its IPv4 and IPv6.
func TestPathText(t *testing.T) {
	for in, want := range map[string]string{
		"02010c00d041030a00000000" + "010106000003" + "030b2500525400123456" + "0000000000000000000000000000000000000000000000000000" + "01" + "030c1b00" + "c0000207c0000201" + "000000000000000000000000000000" + "7fff0400": "PciRoot(0x0)/Pci(0x3,0x0)/MAC(525400123456,1)/IPv4(192.0.2.7<->192.0.2.1)",
		"03171000010000000807060504030201": "NVMe(0x1,08-07-06-05-04-03-02-01)",
		"05010e00020000004861726400007fff": "BBS(HD,Hard,0x0)",
		"0404060061":                       "", // longer than the path
		"0909060001027fff0400":             "Path(9,9,0102)",
		"04012a0001":                       "",
		"010105000a":                       "Path(1,1,0a)",
	} {
		b, err := hex.DecodeString(in)
		if err != nil {
			t.Fatal(err)
		}
		if got := PathText(b); got != want {
			t.Errorf("PathText(%s) = %q; want %q", in, got, want)
		}
	}
}

// TestPathTextCost: the table of nodes is not made again for each node.
func TestPathTextCost(t *testing.T) {
	path := bytes.Repeat([]byte{1, 1, 6, 0, 0, 3}, 100)
	if n := testing.AllocsPerRun(10, func() { PathText(path) }); n > 1000 {
		t.Errorf("%v allocations for 100 nodes", n)
	}
}

func FuzzPathText(f *testing.F) {
	for typ := range byte(6) {
		for sub := range byte(26) {
			f.Add([]byte{typ, sub, 42, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 2, 2})
		}
	}
	f.Fuzz(func(_ *testing.T, b []byte) { PathText(b); parseLoad(b) })
}
