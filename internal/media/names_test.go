package media

import (
	"bytes"
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
)

// longContent is a tree with names of every length in one directory, names with odd
// bytes, and long names of directories, also in the root.
func longContent() map[string][]byte {
	c := map[string][]byte{"plain.txt": []byte("plain"), ".mkcdrec": []byte("mark")}
	put := func(p string) { c[p] = []byte("content of " + p) }
	for n := 90; n <= 255; n++ {
		put("set/" + fmt.Sprintf("%03d", n) + strings.Repeat("a", n-3))
	}
	for i := range 60 {
		put(fmt.Sprintf("set/%s%03d.tar.zst", strings.Repeat("l", 240), i))
	}
	for i := range 400 { // the same eight characters
		put(fmt.Sprintf("set/volume-of-the-backup-%04d.tar.zst", i))
	}
	d := strings.Repeat("d", 255)
	put(d + "/" + d + "/" + strings.Repeat("e", 255))
	put(strings.Repeat("r", 250) + "/x")
	put(strings.Repeat("R", 251))
	put("_0000000xxxxxxxxxxxxxxx")
	put("_0000001")
	for _, n := range []string{"a b", "tab\t", "line\nfeed", "\xff\xfe", "ä", "semi;1", "back\\slash", "q'\"", "*?[", "-e", "~", "\x1b[2J", strings.Repeat("\xc3", 127), "$(x)", "a.b.c.d", "..x", "UPPER.TXT", "upper.txt"} {
		put("odd/" + n)
	}
	return c
}

// TestLongNames: xorriso, isoinfo and bsdtar read every name and file back as it
// was. One continuation area for all of a directory gave each the end of the last.
func TestLongNames(t *testing.T) {
	tools(t, "xorriso", "isoinfo", "isovfy", "bsdtar")
	dir := t.TempDir()
	want := longContent()
	content, files := map[string][]byte{}, map[string]string{}
	var streams []Stream
	for i, p := range slices.Sorted(maps.Keys(want)) {
		switch {
		case i%50 == 7: // a large one
			want[p] = bytes.Repeat(append(want[p], '\n'), largeSize/len(want[p]))
			files[p] = filepath.Join(dir, fmt.Sprint("large", i))
			if err := os.WriteFile(files[p], want[p], 0o600); err != nil {
				t.Fatal(err)
			}
		case i%50 == 8:
			streams = append(streams, Stream{p, int64(len(want[p])), func(w io.Writer) error { _, err := w.Write(want[p]); return err }})
		default:
			content[p] = want[p]
		}
	}
	iso := filepath.Join(dir, "iso")
	if err := (ISO{Data: true, Label: "LONG", Content: content, Files: files, Streams: streams, Time: epoch, Private: true}).Write(iso); err != nil {
		t.Fatal(err)
	}
	again := filepath.Join(dir, "again")
	if err := (ISO{Data: true, Label: "LONG", Content: content, Files: files, Streams: streams, Time: epoch, Private: true}).Write(again); err != nil {
		t.Fatal(err)
	}
	if err := exec.Command("cmp", iso, again).Run(); err != nil {
		t.Errorf("the same input gives other bytes: %v", err)
	}
	out := filepath.Join(dir, "out")
	if b, err := exec.Command("xorriso", "-osirrox", "on", "-indev", iso, "-extract", "/", out).CombinedOutput(); err != nil {
		t.Fatalf("xorriso: %v\n%s", err, b)
	}
	got := 0
	if err := filepath.WalkDir(out, func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		got++
		name := strings.TrimPrefix(p, out+"/")
		b, err := os.ReadFile(p)
		if w, ok := want[name]; !ok || !bytes.Equal(b, w) {
			t.Errorf("xorriso reads %q with %d bytes; want %d (%v)", name, len(b), len(w), ok)
		}
		if st, e := d.Info(); e != nil || st.Mode().Perm() != 0o400 {
			t.Errorf("%q has mode %v, %v", name, st.Mode(), e)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if got != len(want) {
		t.Errorf("xorriso reads %d files; want %d", got, len(want))
	}
	other := filepath.Join(dir, "bsdtar")
	if err := os.Mkdir(other, 0o700); err != nil {
		t.Fatal(err)
	}
	c := exec.Command("bsdtar", "-xf", iso, "-C", other)
	c.Env = append(os.Environ(), "LC_ALL=C")
	if b, err := c.CombinedOutput(); err != nil {
		t.Errorf("bsdtar: %v\n%s", err, b)
	}
	for p, w := range want {
		if b, err := os.ReadFile(filepath.Join(other, p)); err != nil || !bytes.Equal(b, w) {
			t.Errorf("bsdtar reads %q with %d bytes (%v); want %d", p, len(b), err, len(w))
		}
	}
	list, err := exec.Command("isoinfo", "-R", "-f", "-i", iso).Output()
	if err != nil {
		t.Fatal(err)
	}
	for p := range want {
		if !strings.Contains(p, "\n") && !strings.Contains("\n"+string(list), "\n/"+p+"\n") {
			t.Errorf("isoinfo does not list %q", p)
		}
	}
	if out, err := exec.Command("isovfy", iso).CombinedOutput(); err != nil || !strings.Contains(string(out), "No errors found") {
		t.Errorf("isovfy: %v: %s", err, out)
	}
}

// FuzzRename: a damaged directory is an error, not a panic.
func FuzzRename(f *testing.F) {
	f.Add([]byte("\x22"), uint32(0))
	f.Fuzz(func(t *testing.T, dir []byte, at uint32) {
		img := make([]byte, 40*sector)
		binary.LittleEndian.PutUint32(img[16*sector+158:], 20+at%25)
		binary.LittleEndian.PutUint32(img[16*sector+166:], sector)
		copy(img[20*sector:], dir)
		_ = (&names{from: map[string]string{"x": "y"}}).rename(&memory{img}) // must only not panic
	})
}

// TestISOCheck: what an image can't hold is refused before anything is written.
func TestISOCheck(t *testing.T) {
	dir := t.TempDir()
	big := filepath.Join(dir, "big")
	f, err := os.Create(big)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(5 << 30); err != nil {
		t.Fatal(err)
	}
	f.Close()
	small := filepath.Join(dir, "small")
	if err := os.WriteFile(small, make([]byte, 4<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	work := filepath.Join(dir, "work")
	if err := os.Mkdir(work, 0o700); err != nil {
		t.Fatal(err)
	}
	for want, s := range map[string]ISO{
		"label":                {Label: strings.Repeat("A", 33)},
		"A-Z":                  {Label: "a-b"},
		"255":                  {Content: map[string][]byte{"x/" + strings.Repeat("a", 256): nil}},
		"directories":          {Content: map[string][]byte{strings.Repeat("a/", 40) + "x": nil}},
		"not a path":           {Content: map[string][]byte{"../x": nil}},
		"a path in":            {Content: map[string][]byte{"a//x": nil}},
		"twice":                {Content: map[string][]byte{"x": nil}, Files: map[string]string{"x": small}},
		"at most":              {Files: map[string]string{"x": big}},
		"no such":              {Files: map[string]string{"x": dir + "/none"}},
		"not a regular":        {Files: map[string]string{"x": dir}},
		"stream has":           {Streams: []Stream{{Path: "stream", Size: 1 << 33}}},
		"the medium holds 100": {Files: map[string]string{"x": small}, Max: 100},
	} {
		s.Data = true
		err := s.Write(filepath.Join(work, "iso"))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Write = %v; want %q in it", err, want)
		}
		if left, err := os.ReadDir(work); err != nil || len(left) > 0 {
			t.Errorf("%s: something was written: %v %v", want, left, err)
		}
	}
}
