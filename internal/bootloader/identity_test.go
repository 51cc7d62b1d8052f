package bootloader

import (
	"strings"
	"testing"
)

func TestReidentify(t *testing.T) {
	ids := []Identity{
		{Old: "c0ffee00-1111-2222-3333-444455556666", New: "new-1"},
		{Old: "ABCD-1234", New: "9999-0000"},
		{Old: "1234abcd-01", New: "5678ef01-01"},
		{Old: "/dev/vg0/", New: "/dev/vg0_2/", Prefix: true},
		{Old: "/dev/mapper/vg0-", New: "/dev/mapper/vg0_2-", Prefix: true},
	}
	for in, want := range map[string]string{
		"UUID=c0ffee00-1111-2222-3333-444455556666 / ext4\n":            "UUID=new-1 / ext4\n",
		"search --fs-uuid C0FFEE00-1111-2222-3333-444455556666":         "search --fs-uuid new-1",
		"x=c0ffee00-1111-2222-3333-4444555566667":                       "x=c0ffee00-1111-2222-3333-4444555566667",
		"UUID=ABCD-1234 UUID=ABCD-1234,abcd-1234 AABCD-1234 abcd-12345": "UUID=9999-0000 UUID=9999-0000,9999-0000 AABCD-1234 abcd-12345",
		"PARTUUID=1234abcd-01 PARTUUID=1234abcd-010":                    "PARTUUID=5678ef01-01 PARTUUID=1234abcd-010",
		"/dev/vg0/root /dev/vg00/root /dev/mapper/vg0-root":             "/dev/vg0_2/root /dev/vg00/root /dev/mapper/vg0_2-root",
		"\u00c4BCD-1234 \u212a ABCD-1234":                               "\u00c4BCD-1234 \u212a 9999-0000",
		"":                                                              "",
	} {
		if got, notes := Reidentify(in, ids); got != want || (len(notes) > 0) != (in != want) {
			t.Errorf("%q: %q, %v; want %q", in, got, notes, want)
		}
	}
}

func FuzzReidentify(f *testing.F) {
	f.Add("UUID=ab-1 ab-1", "ab-1", "x", false)
	f.Fuzz(func(t *testing.T, text, old, now string, prefix bool) {
		out, _ := Reidentify(text, []Identity{{old, now, prefix}})
		if !strings.Contains(lower(text), lower(old)) && out != text {
			t.Errorf("%q became %q", text, out)
		}
	})
}
