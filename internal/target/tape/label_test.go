package tape

import (
	"strings"
	"testing"
)

func FuzzLabel(f *testing.F) {
	l := &Label{Label: labelName, Version: labelVersion, ID: "01234567-89ab-4def-8123-456789abcdef", Host: "h", Reel: 1, Block: BlockSize}
	b, err := l.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		if l, err := parseLabel(b); err == nil && (l.Reel < 1 || l.Label != labelName) {
			t.Errorf("%+v is taken", l)
		}
		if x, err := parseIndex(b); err == nil && x.Reels < 1 {
			t.Errorf("%+v is taken", x)
		}
	})
}

func TestBadIndex(t *testing.T) {
	const good = `{"version":1,"id":"01234567-89ab-4def-8123-456789abcdef","reels":1,"entries":[{"name":"a","number":1,"reel":1,"file":2,"offset":0,"size":5}],"archives":[{"file":"a","size":5,"tail":"a.tail","tailAt":3}]}`
	if _, err := parseIndex([]byte(good)); err != nil {
		t.Fatal(err)
	}
	for _, c := range [][3]string{
		{`"version":1`, `"version":2`, "version 2"},
		{`"reels":1`, `"reels":0`, "damaged"},
		{`"reel":1`, `"reel":2`, "entries[0]"},
		{`"file":2`, `"file":0`, "entries[0]"},
		{`"tailAt":3`, `"tailAt":6`, "archives[0]"},
		{`"reels"`, `"x":1,"reels"`, "byte"},
	} {
		if _, err := parseIndex([]byte(strings.Replace(good, c[0], c[1], 1))); err == nil || !strings.Contains(err.Error(), c[2]) {
			t.Errorf("%s: %v", c[1], err)
		}
	}
}
