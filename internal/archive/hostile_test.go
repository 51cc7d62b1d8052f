package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/mkcdrec/mkcdrec/internal/frames"
)

// craft makes an archive, whole and with right checksums, of any members.
func craft(t testing.TB, members ...*Member) *Reader {
	t.Helper()
	var buf bytes.Buffer
	fw, err := newFrameWriter(context.Background(), &buf, Fastest, 1)
	if err != nil {
		t.Fatal(err)
	}
	toc, err := newTOCWriter()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range members {
		if err := toc.add(m, fw.tar); err != nil {
			t.Fatal(err)
		}
		if m.Type == TypeFile {
			m.Size = int64(len("evil"))
		}
		if _, err := fw.Write(appendHeader(nil, m, m.Size)); err != nil {
			t.Fatal(err)
		}
		if m.Type == TypeFile {
			fw.Write([]byte("evil"))
			fw.zero(padding(4))
		}
	}
	if err := fw.finish(toc, nil); err != nil {
		t.Fatal(err)
	}
	r, err := Open(bytes.NewReader(buf.Bytes()), int64(buf.Len()), "hostile")
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestHostile tries to get out of the destination.
func TestHostile(t *testing.T) {
	for _, c := range []struct {
		name    string
		members func(outside string) []*Member
		want    string
	}{
		{"dotdot", func(string) []*Member { return []*Member{{Path: "../escaped", Type: TypeFile}} }, "not below the root"},
		{"dotdot inside", func(string) []*Member { return []*Member{{Path: "a/../../escaped", Type: TypeFile}} }, "not below the root"},
		{"absolute", func(o string) []*Member { return []*Member{{Path: o + "/escaped", Type: TypeFile}} }, "not below the root"},
		{"empty element", func(string) []*Member { return []*Member{{Path: "a//b", Type: TypeFile}} }, "not below the root"},
		{"through a link", func(o string) []*Member {
			return []*Member{{Path: "l", Type: TypeSymlink, Link: o}, {Path: "l/escaped", Type: TypeFile}}
		}, "not a directory"},
		{"directory over a link", func(o string) []*Member {
			return []*Member{{Path: "l", Type: TypeSymlink, Link: o}, {Path: "l", Type: TypeDir, Mode: 0o755}, {Path: "l/inside", Type: TypeFile}}
		}, ""},
		{"file over a link", func(o string) []*Member {
			return []*Member{{Path: "l", Type: TypeSymlink, Link: o + "/escaped"}, {Path: "l", Type: TypeFile, Mode: 0o644}}
		}, ""},
		{"hard link out", func(string) []*Member { return []*Member{{Path: "h", Type: TypeHardlink, Link: "../outside/secret"}} }, "not below the root"},
		{"hard link through a link", func(o string) []*Member {
			return []*Member{{Path: "l", Type: TypeSymlink, Link: o}, {Path: "h", Type: TypeHardlink, Link: "l/secret"}}
		}, "not a directory"},
		{"chmod through a link", func(o string) []*Member {
			return []*Member{{Path: "l", Type: TypeDir, Mode: 0o777}, {Path: "l", Type: TypeSymlink, Link: o}}
		}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			base := t.TempDir()
			outside, dst := filepath.Join(base, "outside"), filepath.Join(base, "dst")
			for _, d := range []string{outside, dst} {
				if err := os.Mkdir(d, 0o750); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.WriteFile(outside+"/secret", []byte("secret"), 0o600); err != nil {
				t.Fatal(err)
			}
			r := craft(t, c.members(outside)...)
			_, err := r.Extract(context.Background(), dst, ExtractOptions{NoOwner: os.Geteuid() != 0})
			if c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("Extract = %v; want an error with %q", err, c.want)
			}
			for _, p := range []string{base + "/escaped", outside + "/escaped", outside + "/inside"} {
				if _, err := os.Lstat(p); err == nil {
					t.Errorf("%s was written outside of the destination", p)
				}
			}
			if st, err := os.Stat(outside); err != nil || st.Mode().Perm() != 0o750 {
				t.Errorf("the directory outside was changed: %v %v", st.Mode(), err)
			}
		})
	}
}

// FuzzHeader: no input may panic, and what is read is what archive/tar reads.
func FuzzHeader(f *testing.F) {
	f.Add(appendHeader(nil, &Member{Path: "a", Type: TypeFile, Size: 3}, 3), []byte("12 path=abc\n"))
	f.Add(appendHeader(nil, &Member{Path: strings.Repeat("x", 200), Type: TypeDir, Sec: -1, Nsec: 5}, 0), []byte("20 mtime=-1.5\n"))
	f.Add(append(appendHeader(nil, &Member{Path: strings.Repeat("p/", 80) + "x", Type: TypeDir}, 0), 0), []byte(nil))
	for _, change := range []func(h []byte){
		func(h []byte) { copy(h[257:], "ustar  \x00"); copy(h[345:], "00000000001\x00") }, // GNU's has times there
		func(h []byte) {
			copy(h[345:], strings.Repeat("p", 131)+"00000000001\x0000000000001\x00")
			copy(h[508:], "tar\x00")
		}, // star's, too
		func(h []byte) { copy(h, "a//"); h[156] = byte(TypeDir) },
	} {
		h := appendHeader(nil, &Member{Path: "a", Type: TypeFile}, 0)
		change(h)
		checksum(h)
		f.Add(h, []byte(nil))
	}
	f.Fuzz(func(t *testing.T, h, pax []byte) {
		p, err := parsePax(pax)
		if err != nil {
			p = nil
		}
		if len(h) < blockSize {
			return
		}
		if len(h) > blockSize { // else nearly every input fails at the checksum
			checksum(h[:blockSize])
		}
		m, _, err := parseHeader(h[:blockSize], p)
		if err != nil || m == nil || len(p) > 0 || m.Type == 'x' {
			return
		}
		if m.Size < 0 {
			t.Fatalf("negative size %d", m.Size)
		}
		th, err := tar.NewReader(io.MultiReader(bytes.NewReader(h[:blockSize]), bytes.NewReader(make([]byte, 4096)))).Next()
		if err == nil && th.Typeflag == byte(m.Type) && (strings.TrimSuffix(th.Name, "/") != strings.TrimSuffix(m.Path, "/") || th.Size != m.Size) {
			t.Fatalf("archive/tar reads %q %d, we read %q %d", th.Name, th.Size, m.Path, m.Size)
		}
	})
}

func FuzzTOC(f *testing.F) {
	z, err := zstd.NewWriter(nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add("mkcdrec-toc 1\nf 0 10 2048 " + strings.Repeat("00", 32) + "\nm 5 755 0 0 0 1 2 0 .\nend 1 1 2048\n")
	f.Add("mkcdrec-toc 2\ns id " + strings.Repeat("ab", 32) + " file\tdir\nf 0 10 2048 " + strings.Repeat("00", 32) + "\nm 0 5 755 0 0 0 1 2 0 512 .\nm 1 0 644 0 0 0 1 2 0 512 a\t\tb\nm 0 1 644 0 0 0 1 2 0 0 l\ta\nend 1 3 2048\n")
	f.Fuzz(func(t *testing.T, text string) {
		_, _ = parseTOCText(z.EncodeAll([]byte(text), nil), func(e Entry) error {
			if e.End < e.Start || e.End == e.Start && e.Type != TypeHardlink {
				t.Fatalf("entry %+v", e)
			}
			return nil
		})
		_, _, _ = frames.ReadIndex(strings.NewReader(text), int64(len(text)))
	})
}

func FuzzQuote(f *testing.F) {
	f.Add("a\\\n\xff\ufffdü\x00")
	f.Fuzz(func(t *testing.T, s string) {
		q := Quote(s)
		if strings.ContainsAny(q, "\n\t\x00") {
			t.Fatalf("Quote(%q) = %q", s, q)
		}
		if u, err := Unquote(q); err != nil || u != s {
			t.Fatalf("Unquote(Quote(%q)) = %q, %v", s, u, err)
		}
		_, _ = Unquote(s)
	})
}

func FuzzSparseMap(f *testing.F) {
	f.Add([]byte("1\n0\n10\n"), int64(100), int64(10))
	f.Fuzz(func(t *testing.T, b []byte, size, data int64) {
		sr := &sparseReader{want: -1}
		if done, err := sr.feed(b); err != nil || !done {
			return
		}
		segs, err := sr.segments(size, data)
		if err != nil {
			return
		}
		for _, s := range segs {
			if s.Offset < 0 || s.Length <= 0 || s.Offset+s.Length > size {
				t.Fatalf("segment %+v of a file of %d", s, size)
			}
		}
	})
}

func FuzzGlob(f *testing.F) {
	f.Add("/a/**/[!x-z]?", "/a/b/c")
	f.Fuzz(func(t *testing.T, rule, path string) {
		if len(rule) > 30 || len(path) > 60 {
			return
		}
		if m, err := NewMatcher([]string{rule}); err == nil {
			m.Match(path)
		}
	})
}

func FuzzACL(f *testing.F) {
	f.Add([]byte{2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		text, err := aclText(b)
		if err != nil {
			return
		}
		if _, err := aclBinary(text); err != nil {
			t.Fatalf("aclBinary(aclText(%x)) = %v", b, err)
		}
	})
}

// TestHostileOwner: a number that no user has is not cut to that of root, and the file gets no setuid.
func TestHostileOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root sets owners")
	}
	for _, id := range []int64{1 << 32, 1<<32 - 1, 1<<33 + 1000, 1<<63 - 1, -1} {
		dst := t.TempDir()
		r := craft(t, &Member{Path: ".", Type: TypeDir, Mode: 0o755}, &Member{Path: "f", Type: TypeFile, Mode: 0o4755, UID: id, GID: id})
		sum, err := r.Extract(t.Context(), dst, ExtractOptions{})
		if err != nil {
			continue // refused as a whole
		}
		st, err := os.Stat(filepath.Join(dst, "f"))
		if err == nil && st.Mode()&os.ModeSetuid != 0 || len(sum.Incomplete()) == 0 {
			t.Errorf("owner %d: %v, %v, problems %v; want no setuid, and a problem", id, st, err, sum.Problems)
		}
	}
}
