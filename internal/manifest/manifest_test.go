package manifest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/archive"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
)

// set makes a small real set and gives its directory.
func set(t *testing.T) string {
	t.Helper()
	src := t.TempDir()
	if err := os.WriteFile(src+"/f", []byte("content"), 0o644); err != nil {
		t.Fatal(err)
	}
	return setOf(t, src)
}

func setOf(t *testing.T, src string) string {
	t.Helper()
	dir := t.TempDir()
	f, err := os.Create(dir + "/vda1._.tar.zst")
	if err != nil {
		t.Fatal(err)
	}
	root, err := os.Open(src)
	if err != nil {
		t.Fatal(err)
	}
	sum, err := archive.Create(context.Background(), f, root, archive.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	root.Close()
	lf, err := os.Create(dir + "/" + Layout)
	if err != nil {
		t.Fatal(err)
	}
	if err := (&layout.Layout{Version: layout.Version, Boot: layout.Boot{Firmware: layout.BIOS}}).Write(lf); err != nil {
		t.Fatal(err)
	}
	lf.Close()
	m := &Manifest{Version: Version, ID: "01234567-89ab-cdef-0123-456789abcdef", Host: "h", Created: time.Unix(1, 0)}
	for _, n := range []string{Layout, "vda1._.tar.zst"} {
		s, err := SumFile(context.Background(), dir+"/"+n, progress.None{})
		if err != nil {
			t.Fatal(err)
		}
		st, err := os.Stat(dir + "/" + n)
		if err != nil {
			t.Fatal(err)
		}
		m.Files = append(m.Files, FileSum{n, quantity.Size(st.Size()), s})
	}
	m.Archives = []Archive{{File: "vda1._.tar.zst", Device: "vda1", Type: "ext4", Mount: "/", Size: m.Files[1].Size, Members: sum.Members, SHA256: m.Files[1].SHA256}}
	if err := m.Write(dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

func verify(dir string) error {
	s, err := Open(dir)
	if err != nil {
		return err
	}
	return s.Verify(context.Background(), true, progress.None{})
}

func TestSet(t *testing.T) {
	if err := verify(set(t)); err != nil {
		t.Fatal(err)
	}
}

type notes struct {
	progress.None
	text []string
}

func (n *notes) Note(format string, args ...any) {
	n.text = append(n.text, fmt.Sprintf(format, args...))
}

// What is taken out of a set can be removed again: immutable files are not so
// there, and that is said.
func TestExtractPaths(t *testing.T) {
	src := t.TempDir()
	if err := errors.Join(os.MkdirAll(src+"/etc/sub", 0o755), os.WriteFile(src+"/etc/locked", []byte("content"), 0o644), os.WriteFile(src+"/other", nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("chattr", "+i", src+"/etc/locked", src+"/etc/sub", src+"/other").CombinedOutput(); err != nil {
		t.Skipf("nothing can be made immutable here: %s", out)
	}
	t.Cleanup(func() { exec.Command("chattr", "-i", src+"/etc/locked", src+"/etc/sub", src+"/other").Run() })
	s, err := Open(setOf(t, src))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	dst, said := t.TempDir(), &notes{}
	n, lost, err := s.ExtractPaths(context.Background(), []string{"/etc"}, dst, archive.ExtractOptions{}, said)
	if err != nil || n != 3 || len(lost) > 0 {
		t.Fatalf("%d members, lost %v, %v", n, lost, err)
	}
	if want := "2 files and directories are immutable or append-only in the set, and not so below " + dst + ", where they could not be removed"; !slices.Contains(said.text, want) {
		t.Errorf("%q lacks %q", said.text, want)
	}
	if b, err := os.ReadFile(dst + "/etc/locked"); err != nil || string(b) != "content" {
		t.Errorf("%q %v", b, err)
	}
	if err := os.RemoveAll(dst + "/etc"); err != nil {
		t.Error(err)
	}
	if _, _, err := s.ExtractPaths(context.Background(), []string{"/nowhere"}, dst, archive.ExtractOptions{}, said); err == nil || !strings.Contains(err.Error(), "nothing in the set matches /nowhere") {
		t.Errorf("%v", err)
	}
}

// TestBadSets: each is refused before anything is done with it.
func TestBadSets(t *testing.T) {
	edit := func(name string, fn func([]byte) []byte) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			b, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, name), fn(b), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	const ar = "vda1._.tar.zst"
	for _, c := range []struct {
		name, want string
		spoil      func(t *testing.T, dir string)
	}{
		{"no manifest", "no manifest.json", func(t *testing.T, dir string) { os.Remove(dir + "/" + File) }},
		{"archive missing", ar + " is missing", func(t *testing.T, dir string) { os.Remove(dir + "/" + ar) }},
		{"flipped bit", "SHA-256", edit(ar, func(b []byte) []byte { b[20] ^= 4; return b })},
		{"truncated archive", "bytes, not", edit(ar, func(b []byte) []byte { return b[:len(b)-10] })},
		{"foreign archive of the same size", "SHA-256", edit(ar, func(b []byte) []byte { return []byte(strings.Repeat("x", len(b))) })},
		{"layout changed", "layout.json", edit(Layout, func(b []byte) []byte { return []byte(strings.Replace(string(b), "bios", "uefi", 1)) })},
		{"unknown field", "unknown field", edit(File, func(b []byte) []byte { return []byte(strings.Replace(string(b), `"host"`, `"hots"`, 1)) })},
		{"next version", "version", edit(File, func(b []byte) []byte { return []byte(strings.Replace(string(b), `"version": 1`, `"version": 2`, 1)) })},
		{"path out of the set", "name", edit(File, func(b []byte) []byte { return []byte(strings.ReplaceAll(string(b), ar, "../"+ar)) })},
		{"not JSON", "manifest.json", edit(File, func(b []byte) []byte { return b[:len(b)/2] })},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := set(t)
			c.spoil(t, dir)
			if err := verify(dir); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("verify = %v; want an error with %q", err, c.want)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	b, err := json.Marshal(Manifest{Version: 1})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) { _, _ = Parse(b) })
}

func FuzzDiscs(f *testing.F) {
	f.Add([]byte(`{"version":1,"id":"x","this":1,"discs":[{"number":1,"label":"A"}],"archives":[{"file":"a","size":5,"tail":"a.tail","tailAt":3,"volumes":[{"file":"a.001","disc":1,"number":1,"offset":0,"size":5,"length":200}]}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := ParseDiscs(b)
		if err != nil {
			return
		}
		for _, a := range d.Archives {
			n := quantity.Size(0)
			for _, v := range a.Volumes {
				n += v.Size
			}
			if n != a.Size || d.This > len(d.Discs) {
				t.Errorf("%+v is taken", d)
			}
		}
	})
}

// What discs.json must not say; each is refused.
func TestBadDiscs(t *testing.T) {
	const good = `{"version":1,"id":"x","this":1,"discs":[{"number":1,"label":"A"}],"archives":[{"file":"a","size":5,"tail":"a.tail","tailAt":3,"volumes":[{"file":"a.001","disc":1,"number":1,"offset":0,"size":5,"length":200}]}]}`
	if _, err := ParseDiscs([]byte(good)); err != nil {
		t.Fatal(err)
	}
	for _, c := range [][3]string{
		{`"version":1`, `"version":2`, "version"},
		{`"this":1`, `"this":2`, "this"},
		{`"label":"A"`, `"label":""`, "label"},
		{`"size":5,"length"`, `"size":4,"length"`, "size 5"},
		{`"disc":1`, `"disc":3`, "volumes[0]"},
		{`"file":"a.001"`, `"file":"../a"`, "volumes[0]"},
		{`"tailAt":3`, `"tailAt":9`, "tail at 9"},
		{`"tail":"a.tail"`, `"tail":"/etc/passwd"`, "archives[0]"},
		{`"this"`, `"nosuch":1,"this"`, "nosuch"},
	} {
		if _, err := ParseDiscs([]byte(strings.Replace(good, c[0], c[1], 1))); err == nil || !strings.Contains(err.Error(), c[2]) {
			t.Errorf("%s: %v", c[1], err)
		}
	}
}

// A manifest that no reader would take is refused, and the one that is there stays.
func TestWriteLimit(t *testing.T) {
	dir := set(t)
	was, err := os.ReadFile(filepath.Join(dir, File))
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	m := s.Manifest
	if err := m.write(dir, len(was)); err != nil {
		t.Errorf("at the limit: %v", err)
	}
	m.NotCovered = append(m.NotCovered, "/srv/data: it can't be read")
	if err := m.write(dir, len(was)); err == nil || !strings.Contains(err.Error(), "cannot write manifest: it would have") {
		t.Errorf("over the limit: %v", err)
	}
	if is, err := os.ReadDir(dir); err != nil || len(is) != 3 {
		t.Errorf("the set's directory has %v, %v", is, err)
	}
	if is, err := os.ReadFile(filepath.Join(dir, File)); err != nil || !bytes.Equal(is, was) {
		t.Errorf("the manifest was changed: %v", err)
	}
}

// TestMissing: a set without the files that only a person needs can be read, and Missing names them; one without
// another file can't.
func TestMissing(t *testing.T) {
	for name, want := range map[string]bool{RescueISO: true, "RESTORE.txt": true, "log/run.jsonl": true, Layout: false, "x.tar.zst": false} {
		if got := spare(name); got != want {
			t.Errorf("spare(%s) = %v; want %v", name, got, want)
		}
	}
}
