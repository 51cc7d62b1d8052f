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

// TestLongLabel: a label that the reader would not read to its end does not reach a
// tape.
func TestLongLabel(t *testing.T) {
	l := &Label{Label: labelName, Version: labelVersion, ID: "01234567-89ab-4def-8123-456789abcdef", Host: "h", Reel: 2, Block: BlockSize}
	name := strings.Repeat("n", 200)
	for len(l.Entries) < maxLabel/200 {
		l.Entries = append(l.Entries, Entry{Name: name, Number: 1, Reel: 1, File: 2})
	}
	b, err := l.encode()
	if err != nil || len(b) > maxLabel {
		t.Fatalf("%d bytes, %v", len(b), err)
	}
	if got, err := parseLabel(b); err != nil || got.Reel != 2 || len(got.Entries) != 0 {
		t.Errorf("%+v, %v", got, err)
	}
	if len(l.Entries) == 0 {
		t.Error("the writer's own entries are changed")
	}
	l.Entries, l.Host = nil, strings.Repeat("h", maxLabel)
	if _, err := l.encode(); err == nil {
		t.Error("a host of 64 MiB is taken")
	}
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

// Sense data as drives send them.
func TestSaysBlank(t *testing.T) {
	for name, c := range map[string]struct {
		sense []byte
		want  bool
	}{
		"blank check":             {[]byte{0xF0, 0, 8, 0, 0, 0, 0, 10}, true},
		"blank check, no residue": {[]byte{0x70, 0, 0x28, 0}, true},
		"blank check, descriptor": {[]byte{0x72, 8, 0, 5}, true},
		"medium error":            {[]byte{0xF0, 0, 3, 0}, false},
		"hardware error":          {[]byte{0x70, 0, 4, 8}, false},
		"file mark":               {[]byte{0xF0, 0, 0x80, 0}, false},
		"of a command before":     {[]byte{0x71, 0, 8, 0}, false},
		"none":                    {nil, false},
		"cut off":                 {[]byte{0x70, 8}, false},
	} {
		if got := saysBlank(c.sense); got != c.want {
			t.Errorf("%s: %v; want %v", name, got, c.want)
		}
	}
}
