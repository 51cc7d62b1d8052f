package settorrent

import (
	"bytes"
	"context"
	"crypto/sha1"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/anacrolix/torrent/bencode"

	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/swarm/swarmtest"
)

func open(t *testing.T, dir string) *manifest.Set {
	t.Helper()
	s, err := manifest.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestMake: the torrent describes every byte of the set, and is the same each time.
func TestMake(t *testing.T) {
	dir := swarmtest.Set(t, 3<<20)
	s := open(t, dir)
	a, err := Make(context.Background(), s, progress.None{})
	if err != nil {
		t.Fatal(err)
	}
	b, err := Make(context.Background(), s, progress.None{})
	if err != nil || !bytes.Equal(a.Bytes, b.Bytes) {
		t.Fatalf("made twice: %v, same %v", err, bytes.Equal(a.Bytes, b.Bytes))
	}
	if a.Manifest != s.Digest || a.Info.Private == nil || !*a.Info.Private {
		t.Errorf("manifest %s, private %v; want %s, true", a.Manifest, a.Info.Private, s.Digest)
	}
	var whole []byte
	for _, f := range a.Files() {
		c, err := os.ReadFile(filepath.Join(dir, f.Name))
		if err != nil || int64(len(c)) != f.Length || f.Offset != int64(len(whole)) {
			t.Fatalf("%s: %d bytes at %d, %v; want %d at %d", f.Name, f.Length, f.Offset, err, len(c), len(whole))
		}
		whole = append(whole, c...)
	}
	for i := range a.Info.NumPieces() {
		from := int64(i) * a.Info.PieceLength
		sum := sha1.Sum(whole[from : from+a.PieceSize(i)])
		if !bytes.Equal(sum[:], a.Info.Pieces[20*i:20*i+20]) {
			t.Errorf("piece %d has another SHA-1", i)
		}
	}
	if first := a.Files()[0].Name; first != manifest.File {
		t.Errorf("the first file is %s", first)
	}
	// The indexes of archives are at their ends, so the last piece of the archive is among the first.
	last := a.Info.NumPieces() - 1
	if !slices.Contains(a.Head, 0) || !slices.Contains(a.Head, last) || len(a.Head) > 3 {
		t.Errorf("head = %v of %d pieces; want 0 and the last", a.Head, last+1)
	}
	order := a.Order()
	sorted := slices.Sorted(slices.Values(order))
	if len(order) != last+1 || sorted[0] != 0 || sorted[last] != last || !slices.Equal(order[:len(a.Head)], a.Head) {
		t.Errorf("order = %v", order)
	}
}

// TestKept: the torrent is made once, and again when the set changed; the set stays good.
func TestKept(t *testing.T) {
	dir := swarmtest.Set(t, 1<<20)
	s := open(t, dir)
	first, made, err := Open(context.Background(), s, progress.None{})
	if err != nil || !made {
		t.Fatalf("made %v, %v; want true", made, err)
	}
	again, made, err := Open(context.Background(), open(t, dir), progress.None{})
	if err != nil || made || again.Hash != first.Hash {
		t.Fatalf("made again %v, %v", made, err)
	}
	if err := open(t, dir).Verify(context.Background(), true, progress.None{}); err != nil {
		t.Errorf("the set with %s: %v", File, err)
	}
	if st, err := os.Stat(filepath.Join(dir, File)); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v; want 0600", st.Mode(), err)
	}
	// Another manifest is another state of the set.
	s = open(t, dir)
	s.Manifest.Host = "other"
	if err := s.Manifest.Write(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := Current(open(t, dir)); err == nil || !strings.Contains(err.Error(), "not of the set") {
		t.Errorf("after a change: %v; want it refused", err)
	}
	changed, made, err := Open(context.Background(), open(t, dir), progress.None{})
	if err != nil || !made || changed.Hash == first.Hash {
		t.Errorf("after a change: made %v, %v", made, err)
	}
	// A damaged file is made again.
	if err := os.WriteFile(filepath.Join(dir, File), changed.Bytes[:100], 0o600); err != nil {
		t.Fatal(err)
	}
	if _, made, err := Open(context.Background(), open(t, dir), progress.None{}); err != nil || !made {
		t.Errorf("after damage: made %v, %v", made, err)
	}
}

// TestRefused: no torrent of what is no whole set.
func TestRefused(t *testing.T) {
	dir := swarmtest.Set(t, 1<<20)
	s := open(t, dir)
	if err := os.Truncate(filepath.Join(dir, s.Manifest.Archives[0].File), 1000); err != nil {
		t.Fatal(err)
	}
	if _, err := Make(context.Background(), s, progress.None{}); err == nil {
		t.Error("a set with a shortened archive is taken")
	}
	if err := os.Remove(filepath.Join(dir, manifest.File)); err != nil {
		t.Fatal(err)
	}
	if _, err := manifest.Open(dir); err == nil {
		t.Error("a set without manifest is taken")
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Make(ctx, open(t, swarmtest.Set(t, 1<<20)), progress.None{}); !errors.Is(err, context.Canceled) {
		t.Errorf("after an interruption: %v", err)
	}
}

func TestPieceLength(t *testing.T) {
	for total, want := range map[int64]int64{1: 64 << 10, 1 << 30: 64 << 10, 4 << 30: 256 << 10, 4<<30 + 1: 512 << 10, 16 << 30: 1 << 20, 50 << 30: 4 << 20, 250 << 30: 16 << 20, 10 << 40: 16 << 20} {
		if got := PieceLength(total); got != want {
			t.Errorf("PieceLength(%d) = %d; want %d", total, got, want)
		}
	}
}

// TestOthersRead: libtorrent, transmission-show and aria2 read the file, with our info hash.
func TestOthersRead(t *testing.T) {
	dir := swarmtest.Set(t, 1<<20)
	tor, _, err := Open(context.Background(), open(t, dir), progress.None{})
	if err != nil {
		t.Fatal(err)
	}
	name, hash := filepath.Join(dir, File), tor.Hash.HexString()
	for _, c := range [][]string{{"transmission-show", name}, {"aria2c", "-S", name}, {"/usr/bin/python3", "-c", "import sys, libtorrent as lt\nti = lt.torrent_info(sys.argv[1])\nassert ti.priv()\nprint(ti.info_hashes().v1)", name}} {
		t.Run(filepath.Base(c[0]), func(t *testing.T) {
			if _, err := exec.LookPath(c[0]); err != nil {
				t.Skipf("%s is missing", c[0])
			}
			out, err := exec.Command(c[0], c[1:]...).CombinedOutput()
			if err != nil && strings.Contains(string(out), "No module named") {
				t.Skip("python3-libtorrent is missing")
			}
			if err != nil || !strings.Contains(strings.ToLower(string(out)), hash) {
				t.Errorf("%v; want the info hash %s in:\n%s", err, hash, out)
			}
		})
	}
}

// change gives a torrent with a change in its info dictionary.
func change(t testing.TB, b []byte, fn func(info map[string]any)) []byte {
	t.Helper()
	var outer map[string]any
	if err := bencode.Unmarshal(b, &outer); err != nil {
		t.Fatal(err)
	}
	fn(outer["info"].(map[string]any))
	return bencode.MustMarshal(outer)
}

func TestParse(t *testing.T) {
	tor, err := Make(context.Background(), open(t, swarmtest.Set(t, 1<<20)), progress.None{})
	if err != nil {
		t.Fatal(err)
	}
	file := func(path ...any) func(map[string]any) {
		return func(i map[string]any) { i["files"].([]any)[1].(map[string]any)["path"] = path }
	}
	for name, fn := range map[string]func(map[string]any){
		"up":                  file("..", "x"),
		"up within":           file("a", "..", "..", "x"),
		"absolute":            file("/etc/passwd"),
		"slash":               file("a/b"),
		"empty":               file(""),
		"none":                file(),
		"twice":               file(manifest.File),
		"below a file":        file(manifest.File, "x"),
		"newline":             file("a\nb"),
		"nul":                 file("a\x00b"),
		"itself":              file(File),
		"name":                func(i map[string]any) { i["name"] = "../x" },
		"no source":           func(i map[string]any) { delete(i, "source") },
		"source":              func(i map[string]any) { i["source"] = sourcePrefix + "12" },
		"public":              func(i map[string]any) { i["private"] = 0 },
		"no pieces":           func(i map[string]any) { i["pieces"] = "" },
		"one sum less":        func(i map[string]any) { i["pieces"] = i["pieces"].(string)[20:] },
		"piece of 3 bytes":    func(i map[string]any) { i["piece length"] = 3 },
		"huge pieces":         func(i map[string]any) { i["piece length"] = 1 << 40 },
		"negative length":     func(i map[string]any) { i["files"].([]any)[1].(map[string]any)["length"] = -1 },
		"length that is over": func(i map[string]any) { i["files"].([]any)[1].(map[string]any)["length"] = int64(1) << 62 },
		"head":                func(i map[string]any) { i["mkcdrec"] = map[string]any{"head": []int{1 << 30}} },
		"head twice":          func(i map[string]any) { i["mkcdrec"] = map[string]any{"head": []int{0, 0}} },
		"not a list":          func(i map[string]any) { i["files"] = "x" },
		"version 2":           func(i map[string]any) { i["meta version"] = 2 },
	} {
		if p, err := Parse(change(t, tor.Bytes, fn)); err == nil {
			t.Errorf("%s: it is taken, with files %v", name, p.Files())
		}
	}
	if _, err := Parse(change(t, tor.Bytes, func(map[string]any) {})); err != nil {
		t.Errorf("unchanged: %v", err)
	}
	for _, b := range []string{"", "d", "i1e", "le", "d4:infoi1ee", "d4:info0:e", strings.Repeat("l", 1<<20), "9999999:x", "i99999999999999999999999999999e", string(tor.Bytes) + "x"} {
		if _, err := Parse([]byte(b)); err == nil {
			t.Errorf("%.20q is taken", b)
		}
	}
}

func FuzzParse(f *testing.F) {
	tor, err := Make(context.Background(), func() *manifest.Set {
		s, err := manifest.Open(swarmtest.Set(f, 1<<18))
		if err != nil {
			f.Fatal(err)
		}
		return s
	}(), progress.None{})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(tor.Bytes)
	f.Add([]byte("d4:infod6:lengthi1eee"))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := Parse(b)
		if err != nil {
			return
		}
		if n := len(p.Order()); n != p.Info.NumPieces() {
			t.Errorf("%d in order of %d pieces", n, p.Info.NumPieces())
		}
		for _, s := range p.Files() {
			if !filepath.IsLocal(s.Name) {
				t.Errorf("name %q", s.Name)
			}
		}
	})
}

// TestRanges: parts of files cover what was asked for, whatever the files' sizes.
func TestRanges(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		var files []Span
		at := int64(0)
		for i := range 1 + r.IntN(6) {
			n := int64(r.IntN(4)) * int64(r.IntN(5))
			files = append(files, Span{string(rune('a' + i)), at, n})
			at += n
		}
		off := r.Int64N(at + 1)
		n := r.Int64N(at - off + 1)
		pos := off
		for _, p := range Ranges(files, off, n) {
			i := slices.IndexFunc(files, func(s Span) bool { return s.Name == p.Name })
			if files[i].Offset+p.Offset != pos || p.Length < 1 || p.Offset+p.Length > files[i].Length {
				t.Fatalf("Ranges(%v, %d, %d): %v at %d", files, off, n, p, pos)
			}
			pos += p.Length
		}
		if pos != off+n {
			t.Fatalf("Ranges(%v, %d, %d) ends at %d", files, off, n, pos)
		}
	}
}

// TestShorter: a file that became shorter is an error, not zero bytes.
func TestShorter(t *testing.T) {
	dir := swarmtest.Set(t, 1<<20)
	s := open(t, dir)
	tor, err := Make(context.Background(), s, progress.None{})
	if err != nil {
		t.Fatal(err)
	}
	src := NewSource(s, tor.Files())
	defer src.Close()
	b := make([]byte, tor.Total())
	if n, err := src.ReadAt(b, 0); n != len(b) || err != nil {
		t.Errorf("ReadAt = %d, %v", n, err)
	}
	if n, err := src.ReadAt(b, 10); n != len(b)-10 || err != io.EOF {
		t.Errorf("ReadAt over the end = %d, %v", n, err)
	}
	if err := os.Truncate(filepath.Join(dir, tor.Files()[1].Name), 1); err != nil {
		t.Fatal(err)
	}
	if _, err := src.ReadAt(b, 0); err == nil || err == io.EOF {
		t.Errorf("a file that became shorter: %v", err)
	}
}
