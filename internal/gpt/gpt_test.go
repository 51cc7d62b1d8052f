package gpt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func disk(t *testing.T, size int64) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	return f
}

func run(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath(args[0]); err != nil {
		t.Skipf("%s is not installed; make test installs it", args[0])
	}
	c := exec.Command(args[0], args[1:]...)
	c.Stdin = strings.NewReader(stdin)
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v: %s", args, err, out)
	}
	return string(out)
}

// TestAgainstTools reads tables that sfdisk and sgdisk made, writes them on blank disks,
// and has sfdisk dump the same of both, and sgdisk verify ours.
func TestAgainstTools(t *testing.T) {
	const size = 64 << 20
	for _, c := range []struct {
		name, script string   // of sfdisk
		sgdisk       []string // or arguments of sgdisk
		entries      int
		first        int64
	}{
		{"130 of 256", "", []string{"-S", "256", "-n", "1:2048:+20M", "-n", "130:0:+20M"}, 256, 66},
		{"1024", "", []string{"-S", "1024", "-n", "1:2048:+20M", "-n", "1024:0:+20M", "-A", "1:set:2", "-c", "1024:Größe 日本"}, 1024, 258},
		{"plain", "", []string{"-n", "1:2048:+20M", "-n", "7:0:+20M"}, 128, 34},
		{"begins at 2048", "label: gpt\nlabel-id: 93F81B23-7A54-9D43-BC4D-27EB14977634\nfirst-lba: 2048\n2048 4096 uefi\n", nil, 128, 2048},
		{"four entries", "label: gpt\ntable-length: 4\nfirst-lba: 3\nstart=3,size=2000,name=a\nstart=4000,size=2000\n", nil, 4, 3},
		{"eight entries", "label: gpt\ntable-length: 8\nfirst-lba: 20\nstart=20,size=2000\n", nil, 8, 20},
	} {
		from, to := disk(t, size), disk(t, size)
		if c.sgdisk != nil {
			run(t, "", append(append([]string{"sgdisk"}, c.sgdisk...), from.Name())...)
		} else {
			run(t, c.script, "sfdisk", "-q", from.Name())
		}
		tab, err := Read(from, 512, size)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if tab.Entries != c.entries || tab.FirstUsable != c.first {
			t.Errorf("%s: %d entries from block %d; want %d from %d", c.name, tab.Entries, tab.FirstUsable, c.entries, c.first)
		}
		if err := tab.Write(to, 512, size); err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		dump := func(f *os.File) string {
			return strings.ReplaceAll(run(t, "", "sfdisk", "-d", f.Name()), f.Name(), "disk")
		}
		if got, want := dump(to), dump(from); got != want {
			t.Errorf("%s: sfdisk reads\n%s\nwant\n%s", c.name, got, want)
		}
		if out := run(t, "", "sgdisk", "-v", to.Name()); !strings.Contains(out, "No problems found") {
			t.Errorf("%s: sgdisk -v:\n%s", c.name, out)
		}
		if again, err := Read(to, 512, size); err != nil || !reflect.DeepEqual(again, tab) {
			t.Errorf("%s: Read after Write = %+v, %v; want %+v", c.name, again, err, tab)
		}
	}
}

// TestDefaults: what a table does not say follows from its partitions and the disk.
func TestDefaults(t *testing.T) {
	const id = "11111111-2222-3333-4444-555555555555"
	part := func(n int, first, last int64) Partition {
		return Partition{Number: n, Type: "0FC63DAF-8483-4772-8E79-3D69D8477DE4", GUID: "AAAAAAAA-2222-3333-4444-555555555555", First: first, Last: last}
	}
	for _, c := range []struct {
		name    string
		p       Partition
		ss      int64
		entries int
		first   int64
		last    int64
	}{
		{"nothing said", part(1, 2048, 4095), 512, 128, 34, 131072 - 34},
		{"number 130", part(130, 2048, 4095), 512, 130, 35, 131072 - 35},
		{"begins at block 3", part(2, 3, 4095), 512, 4, 3, 131072 - 3},
		{"sectors of 4 KiB", part(2, 256, 4095), 4096, 128, 6, 16384 - 6},
	} {
		f := disk(t, 64<<20)
		tab := &Table{GUID: id, Partitions: []Partition{c.p}}
		if err := tab.Write(f, c.ss, 64<<20); err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		got, err := Read(f, c.ss, 64<<20)
		if err != nil || got.Entries != c.entries || got.FirstUsable != c.first || got.LastUsable != c.last || !reflect.DeepEqual(got.Partitions, tab.Partitions) {
			t.Errorf("%s: %+v, %v; want %d entries, blocks %d to %d", c.name, got, err, c.entries, c.first, c.last)
		}
	}
}

func TestCheck(t *testing.T) {
	const id, typ = "11111111-2222-3333-4444-555555555555", "0FC63DAF-8483-4772-8E79-3D69D8477DE4"
	p := func(n int, first, last int64) Partition {
		return Partition{Number: n, Type: typ, GUID: id, First: first, Last: last}
	}
	for want, tab := range map[string]*Table{
		"overlaps partition 1":           {GUID: id, Partitions: []Partition{p(1, 100, 200), p(2, 200, 300)}},
		"used twice":                     {GUID: id, Partitions: []Partition{p(1, 100, 200), p(1, 300, 400)}},
		"not within 34 to 990":           {GUID: id, Partitions: []Partition{p(1, 100, 991)}},
		"blocks 33 to 990 are not":       {GUID: id, Entries: 128, Partitions: []Partition{p(1, 33, 990)}},
		"has numbers 1 to 4":             {GUID: id, Entries: 4, Partitions: []Partition{p(5, 100, 200)}},
		"1025 entries; 1 to 1024 can be": {GUID: id, Partitions: []Partition{p(1025, 300, 400)}},
		"is inside the table":            {GUID: id, Entries: 256, FirstUsable: 34},
		"inside the copy of the table":   {GUID: id, LastUsable: 1000},
		`"x" is not a GUID`:              {GUID: "x"},
		"37 characters":                  {GUID: id, Partitions: []Partition{{Number: 1, Type: typ, GUID: id, First: 100, Last: 200, Name: strings.Repeat("x", 37)}}},
	} {
		f := disk(t, 1024*512)
		if err := tab.Write(f, 512, 1024*512); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Write = %v; want %q", err, want)
		}
		if _, err := Read(f, 512, 1024*512); !errors.Is(err, ErrNone) {
			t.Errorf("%s: refused, and something is on the disk: %v", want, err)
		}
	}
}

// TestDamage: a table whose beginning is damaged is read from its copy, and one that the
// kernel does not look for is not one.
func TestDamage(t *testing.T) {
	const size = 1 << 20
	f := disk(t, size)
	tab := &Table{GUID: "11111111-2222-3333-4444-555555555555", Partitions: []Partition{{Number: 3, Type: "0FC63DAF-8483-4772-8E79-3D69D8477DE4", GUID: "AAAAAAAA-2222-3333-4444-555555555555", First: 100, Last: 200, Name: "x"}}}
	if err := tab.Write(f, 512, size); err != nil {
		t.Fatal(err)
	}
	zap := func(at int64) {
		if _, err := f.WriteAt([]byte{0xff}, at); err != nil {
			t.Fatal(err)
		}
	}
	zap(2*512 + 40) // an entry
	got, err := Read(f, 512, size)
	if err != nil || !got.FromCopy || !reflect.DeepEqual(got.Partitions, tab.Partitions) {
		t.Errorf("damaged entries: %+v, %v", got, err)
	}
	zap(size - 512 + 60)
	if _, err := Read(f, 512, size); err == nil || !strings.Contains(err.Error(), "entries are damaged") {
		t.Errorf("both damaged: %v", err)
	}
	zap(446 + 4) // no longer 0xEE
	if _, err := Read(f, 512, size); !errors.Is(err, ErrNone) {
		t.Errorf("without a protective MBR: %v", err)
	}
}

type memory []byte

func (m memory) ReadAt(b []byte, at int64) (int, error) { return bytes.NewReader(m).ReadAt(b, at) }
func (m memory) WriteAt(b []byte, at int64) (int, error) {
	return copy(m[at:], b), nil
}

// FuzzRead reads headers and entries with their sums put right, and writes again what it
// could read and check.
func FuzzRead(f *testing.F) {
	const size = 64 << 10
	seed := make(memory, size)
	t := &Table{GUID: "11111111-2222-3333-4444-555555555555", Entries: 8, Partitions: []Partition{{Number: 3, Type: "0FC63DAF-8483-4772-8E79-3D69D8477DE4", GUID: "AAAAAAAA-2222-3333-4444-555555555555", First: 10, Last: 20, Name: "x"}}}
	if err := t.Write(seed, 512, size); err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(seed[512:604]), []byte(seed[1024:2048]))
	f.Fuzz(func(t *testing.T, header, entries []byte) {
		b := make(memory, size)
		copy(b, seed[:512])
		copy(b[1024:], entries[:min(len(entries), 16<<10)])
		copy(b[512:1024], header[:min(len(header), 512)])
		repair(b)
		tab, err := Read(b, 512, size)
		if err != nil {
			return
		}
		if len(tab.Partitions) > MaxEntries || tab.Entries > MaxEntries {
			t.Fatalf("%d partitions of %d", len(tab.Partitions), tab.Entries)
		}
		if tab.Check(512, size) != nil {
			return
		}
		to := make(memory, size)
		if err := tab.Write(to, 512, size); err != nil {
			t.Fatalf("checked, and not written: %v", err)
		}
		again, err := Read(to, 512, size)
		if err != nil {
			t.Fatal(err)
		}
		if again.GUID != tab.GUID || again.Entries != tab.Entries || !reflect.DeepEqual(again.Partitions, tab.Partitions) {
			t.Errorf("%+v\n%+v", again, tab)
		}
	})
}

// repair puts the sums of a table right, as far as its numbers allow.
func repair(b memory) {
	le := binary.LittleEndian
	h := b[512:1024]
	copy(h, signature)
	count, each, at := uint64(le.Uint32(h[80:])), uint64(le.Uint32(h[84:])), le.Uint64(h[72:])
	if n := count * each; count <= MaxEntries && each == entrySize && at < 128 && at*512+n <= uint64(len(b)) {
		le.PutUint32(h[88:], crc32.ChecksumIEEE(b[at*512:at*512+n]))
	}
	n := le.Uint32(h[12:])
	if n < headerSize || n > 512 {
		return
	}
	clear(h[16:20])
	le.PutUint32(h[16:], crc32.ChecksumIEEE(h[:n]))
}

// TestHybrid: a hybrid MBR that sgdisk has made is read, and written as sgdisk writes it, also
// where the partitions are elsewhere.
func TestHybrid(t *testing.T) {
	if _, err := exec.LookPath("sgdisk"); err != nil {
		t.Skip("sgdisk is missing")
	}
	const size = 64 << 20
	dir := t.TempDir()
	create := func(name string, args ...string) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(name, size); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("sgdisk", append(args, name)...).CombinedOutput(); err != nil {
			t.Fatalf("sgdisk: %v %s", err, out)
		}
		return name
	}
	parts := []string{"-n", "1:2048:+4M", "-t", "1:0700", "-n", "2:0:+8M", "-t", "2:8300", "-n", "3:0:+8M"}
	read := func(name string) (*Table, []byte) {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		mbr := [512]byte{}
		if _, err := f.ReadAt(mbr[:], 0); err != nil {
			t.Fatal(err)
		}
		got, err := Read(f, 512, size)
		if err != nil {
			t.Fatal(err)
		}
		return got, mbr[:]
	}
	table, want := read(create("theirs", append(parts, "-h", "1:3")...))
	if p := table.Partitions; p[0].MBR == nil || p[1].MBR != nil || p[2].MBR == nil || p[2].MBR.Type != 0x83 {
		t.Fatalf("Read() = %+v", p)
	}
	ours := filepath.Join(dir, "ours")
	f, err := os.Create(ours)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := errors.Join(f.Truncate(size), table.Write(f, 512, size)); err != nil {
		t.Fatal(err)
	}
	again, got := read(ours)
	if !reflect.DeepEqual(again, table) {
		t.Errorf("Read(Write(t)) = %+v; want %+v", again, table)
	}
	for slot := range 4 {
		// Status, type, start and size; the cylinders are of no disk of today.
		a, b := got[446+16*slot:462+16*slot], want[446+16*slot:462+16*slot]
		if a[0] != b[0] || a[4] != b[4] || !bytes.Equal(a[8:], b[8:]) {
			t.Errorf("slot %d: % x; sgdisk writes % x", slot, a, b)
		}
	}
	// It follows its partition.
	table.Partitions[2].First += 2048
	table.Partitions[2].Last += 2048
	if err := table.Write(f, 512, size); err != nil {
		t.Fatal(err)
	}
	if moved, _ := read(ours); moved.Partitions[2].MBR == nil {
		t.Errorf("after a move: %+v", moved.Partitions[2])
	}
	if out, err := exec.Command("sgdisk", "-v", ours).CombinedOutput(); err != nil || !bytes.Contains(out, []byte("No problems found")) {
		t.Errorf("sgdisk -v: %v %s", err, out)
	}
}
