package ddrescue

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	const text = `# Mapfile. Created by GNU ddrescue version 1.27
# Command line: ddrescue a b c
# current_pos  current_status  current_pass
0x00120000     -               2
#      pos        size  status
0x00000000  0x00117000  +
0x00117000  0x00000200  -  # 512 B

1143296     512         -
0x00117400  01000       /
  0x00117600  0x00001000  *
0x00118600  0x00000A00  ?
`
	m, err := Parse(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	want := &Map{Pos: 0x120000, Phase: '-', Pass: 2, Blocks: []Block{{0, 0x117000, '+'}, {0x117000, 0x400, '-'}, {0x117400, 512, '/'}, {0x117600, 0x1000, '*'}, {0x118600, 0xA00, '?'}}}
	if fmt.Sprint(m) != fmt.Sprint(want) {
		t.Errorf("%v\nwant %v", m, want)
	}
	if m.Start() != 0 || m.End() != 0x119000 || m.Bytes(BadSector, NonScraped) != 0x600 || m.Bytes(Finished) != 0x117000 {
		t.Errorf("%d to %d, %d bad, %d finished", m.Start(), m.End(), m.Bytes(BadSector, NonScraped), m.Bytes(Finished))
	}
	// The versions before 1.20 wrote no pass.
	if m, err := Parse(strings.NewReader("0x0 +\n0 10 +\n")); err != nil || m.Phase != '+' || m.Pass != 1 {
		t.Errorf("%+v %v", m, err)
	}
}

func TestErrors(t *testing.T) {
	for text, want := range map[string]string{
		"":                                "line 1: the map file ends before its status line",
		"# only\n# comments\n":            "line 3: the map file ends",
		"0\n":                             "line 1: 1 fields",
		"0 ? 1 1\n":                       "line 1: 4 fields",
		"0 x 1\n":                         `line 1: current status "x"`,
		"0 ? 0\n":                         "line 1: pass",
		"-1 ? 1\n":                        "line 1: current position",
		"0 ? 1\n0 512\n":                  "line 2: 2 fields",
		"0 ? 1\n0 512 ? x\n":              "line 2: 4 fields",
		"0 ? 1\n0 512 F\n":                `line 2: status "F"`,
		"0 ? 1\n0 512 ?+\n":               "line 2: status",
		"0 ? 1\n0 0 ?\n":                  "line 2: size is 0",
		"0 ? 1\n# c\n0 512 ?\n513 1 +\n":  "line 4: block at 0x201 leaves a gap: the one before ends at 0x200",
		"0 ? 1\n0 512 ?\n\n511 1 +\n":     "line 4: block at 0x1ff overlaps",
		"0 ? 1\n0 0b1 ?\n":                "line 2: size",
		"0 ? 1\n0 1_0 ?\n":                "line 2: size",
		"0 ? 1\n0 1k ?\n":                 "line 2: size",
		"0 ? 1\n0 +1 ?\n":                 "line 2: size",
		"0 ? 1\n09 1 ?\n":                 "line 2: position",
		"0 ? 1\n1 0x7fffffffffffffff ?\n": "line 2: position 0x1 with size 0x7fffffffffffffff is too large",
		"0 ? 1\n0 0x8000000000000000 ?\n": "line 2: size",
		"0 ? 1\n" + strings.Repeat(" ", maxLine) + "0 1 ?\n": "line 2: is longer than 4096 bytes",
		"0 ? 1\n\x00 1 ?\n": `line 2: position: "\x00"`,
	} {
		if m, err := Parse(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %v, %v; want %s", text, m, err, want)
		}
	}
	name := filepath.Join(t.TempDir(), "no", "map")
	if _, err := ReadFile(name); err == nil || !strings.HasPrefix(err.Error(), "cannot read map file: ") {
		t.Error(err)
	}
	if err := New(5).WriteFile(name, ""); err == nil || !strings.HasPrefix(err.Error(), "cannot write map file: ") {
		t.Error(err)
	}
}

// random makes a map of size bytes in units.
func random(r *rand.Rand, size, unit int64) *Map {
	m := &Map{Pos: r.Int64N(size), Phase: phases[r.IntN(len(phases))], Pass: 1 + r.IntN(5)}
	for at := int64(0); at < size; {
		n := min((1+r.Int64N(size/unit/8+1))*unit, size-at)
		m.push(Block{at, n, Status(statuses[r.IntN(5)])})
		at += n
	}
	return m
}

// ddrescuelog reads what was written, with the same blocks in each state, and
// what it writes is read again.
func TestOracle(t *testing.T) {
	if _, err := exec.LookPath("ddrescuelog"); err != nil {
		t.Skip("ddrescuelog is not installed (Debian: gddrescue)")
	}
	r := rand.New(rand.NewPCG(1, 2))
	for n := range 20 {
		dir := t.TempDir()
		m := random(r, 512*(1+r.Int64N(1<<uint(6+n/2))), 512)
		name := filepath.Join(dir, "map")
		if err := m.WriteFile(name, "Command line: mkcdrec\nsecond"); err != nil {
			t.Fatal(err)
		}
		for _, s := range statuses {
			out, err := exec.Command("ddrescuelog", "-l"+string(s), name).Output()
			if err != nil {
				t.Fatal(err)
			}
			var want strings.Builder
			for pos, l := range m.Ranges(Status(s)) {
				for b := pos / 512; b < (pos+l)/512; b++ {
					fmt.Fprintln(&want, b)
				}
			}
			if string(out) != want.String() {
				t.Fatalf("%c: ddrescuelog lists other blocks", s)
			}
		}
		// Inverted twice by ddrescuelog: finished ones stay, the others become bad.
		out, err := exec.Command("ddrescuelog", "-n", name).Output()
		if err != nil {
			t.Fatal(err)
		}
		got, err := Parse(bytes.NewReader(out))
		if err != nil {
			t.Fatal(err)
		}
		if a, b := got.Bytes(Finished), m.End()-m.Bytes(Finished); a != b || got.Pos != m.Pos {
			t.Errorf("inverted: %d bytes are finished, want %d; at %d, want %d", a, b, got.Pos, m.Pos)
		}
		if out, err := exec.Command("ddrescuelog", "-A", name).Output(); err != nil {
			t.Fatal(err)
		} else if got, err := Parse(bytes.NewReader(out)); err != nil || !slices.Equal(got.Blocks, m.Blocks) || got.Phase != m.Phase || got.Pass != m.Pass {
			t.Errorf("annotated: %v", err)
		}
	}
}

// A run of ddrescue itself leaves a map that is read, and goes on with one of
// ours: it copies what the map says is missing, and nothing else.
func TestContinue(t *testing.T) {
	if _, err := exec.LookPath("ddrescue"); err != nil {
		t.Skip("ddrescue is not installed (Debian: gddrescue)")
	}
	dir := t.TempDir()
	src, dst, name := filepath.Join(dir, "src"), filepath.Join(dir, "dst"), filepath.Join(dir, "map")
	const size = 1 << 20
	if err := os.WriteFile(src, bytes.Repeat([]byte{'S'}, size), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dst, bytes.Repeat([]byte{'D'}, size), 0o600); err != nil {
		t.Fatal(err)
	}
	m := New(size).Overlay([]Block{{0, 65536, Finished}, {131072, 4096, BadSector}, {200704, size - 200704, Finished}})
	if err := m.WriteFile(name, ""); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("ddrescue", "-q", "-r1", src, dst, name).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	got, err := os.ReadFile(dst)
	if err != nil {
		t.Fatal(err)
	}
	want := bytes.Repeat([]byte{'D'}, size)
	copy(want[65536:], bytes.Repeat([]byte{'S'}, 200704-65536))
	if !bytes.Equal(got, want) {
		t.Error("ddrescue copied other bytes than those that the map lacks")
	}
	after, err := ReadFile(name)
	if err != nil || after.Phase != '+' || len(after.Blocks) != 1 || after.Bytes(Finished) != size {
		t.Errorf("%+v, %v", after, err)
	}
}

// Overlay agrees with what it does byte by byte.
func TestOverlay(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 500 {
		m := random(r, 200, 3)
		var over []Block
		for at := r.Int64N(20); at < 230; at += r.Int64N(10) {
			n := 1 + r.Int64N(30)
			over = append(over, Block{at, n, Status(statuses[r.IntN(5)])})
			at += n
		}
		plain := func(m *Map) []byte {
			out := make([]byte, 300)
			for _, b := range m.Blocks {
				for i := range b.Size {
					out[b.Pos+i] = byte(b.Status)
				}
			}
			return out
		}
		want := plain(m)
		for _, b := range over {
			for i := b.Pos; i < min(b.Pos+b.Size, 200); i++ {
				want[i] = byte(b.Status)
			}
		}
		got := m.Overlay(over)
		if !bytes.Equal(plain(got), want) {
			t.Fatalf("%v\nover %v\ngives %v", m, over, got)
		}
		for i, b := range got.Blocks[1:] {
			if b.Status == got.Blocks[i].Status || b.Pos != got.Blocks[i].Pos+got.Blocks[i].Size {
				t.Fatalf("%v", got)
			}
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("# x\n0x0 ? 1\n0 512 +\n512 1 -\n"))
	f.Add([]byte("0 +\n0x10 0x10 *\n0x20 7 /\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Parse(bytes.NewReader(b))
		if err != nil {
			return
		}
		var out bytes.Buffer
		if err := m.Write(&out, string(b)); err != nil {
			t.Fatal(err)
		}
		again, err := Parse(&out)
		if err != nil || fmt.Sprint(m) != fmt.Sprint(again) {
			t.Fatalf("%v\nbecomes %v: %v", m, again, err)
		}
	})
}
