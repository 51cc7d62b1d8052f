package mbr

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// dump asks sfdisk what is on the image.
func dump(t *testing.T, img string) string {
	t.Helper()
	out, err := exec.Command("sfdisk", "-J", img).Output()
	if err != nil {
		t.Fatalf("sfdisk -J: %v", err)
	}
	var v struct {
		PartitionTable struct {
			Label, ID  string
			Partitions []struct {
				Node        string
				Start, Size int64
				Type        string
				Bootable    bool
			}
		}
	}
	if err := json.Unmarshal(out, &v); err != nil {
		t.Fatal(err)
	}
	s := v.PartitionTable.Label + " " + v.PartitionTable.ID
	for _, p := range v.PartitionTable.Partitions {
		s += fmt.Sprintf("\n%s %d %d %s %v", strings.TrimPrefix(p.Node, img), p.Start, p.Size, p.Type, p.Bootable)
	}
	return s
}

const script = `label: dos
label-id: 0x12345678
start=2048, size=20480, type=83, bootable
start=22528, size=2048, type=82
start=24576, size=102400, type=5
start=26624, size=10240, type=83
start=40960, size=20480, type=8e
start=63488, size=63488, type=c
`

// outOfOrder has logical partitions whose numbers are not in the order of their places.
const outOfOrder = `label: dos
label-id: 0xbeef0002
1 : start=2048,size=8000,type=83,bootable
2 : start=20000,size=100000,type=5
5 : start=22048,size=4000,type=83
6 : start=60000,size=4000,type=83
7 : start=40000,size=8000,type=82
`

// firstLast has the first logical partition behind the others.
const firstLast = `label: dos
label-id: 0xbeef0003
1 : start=20000,size=100000,type=f
5 : start=100000,size=4000,type=83
6 : start=60000,size=4000,type=83
7 : start=30000,size=8000,type=82
`

// TestAgainstSfdisk reads what sfdisk wrote, writes it on a blank disk and
// has sfdisk read that.
func TestAgainstSfdisk(t *testing.T) {
	for script, n := range map[string]int{script: 6, outOfOrder: 5, firstLast: 4} {
		againstSfdisk(t, script, n)
	}
}

func againstSfdisk(t *testing.T, script string, n int) {
	if _, err := exec.LookPath("sfdisk"); err != nil {
		t.Skip("sfdisk is not installed; make test installs it")
	}
	a, b := filepath.Join(t.TempDir(), "disk"), filepath.Join(t.TempDir(), "disk")
	for _, f := range []string{a, b} {
		if err := os.WriteFile(f, make([]byte, 128<<20), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c := exec.Command("sfdisk", "-q", a)
	c.Stdin = strings.NewReader(script)
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("sfdisk: %v: %s", err, out)
	}
	fa, err := os.Open(a)
	if err != nil {
		t.Fatal(err)
	}
	defer fa.Close()
	tab, err := Read(fa, 512)
	if err != nil {
		t.Fatal(err)
	}
	if len(tab.Partitions) != n {
		t.Fatalf("Read = %+v; want %d partitions", tab, n)
	}
	if err := tab.Check(128 << 11); err != nil {
		t.Fatal(err)
	}
	fb, err := os.OpenFile(b, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer fb.Close()
	if err := tab.Write(fb, 512); err != nil {
		t.Fatal(err)
	}
	if got, want := dump(t, b), dump(t, a); got != want {
		t.Errorf("sfdisk reads\n%s\nwant\n%s", got, want)
	}
	again, err := Read(fb, 512)
	if err != nil || fmt.Sprint(again) != fmt.Sprint(tab) {
		t.Errorf("Read after Write = %v, %v; want %v", again, err, tab)
	}
	if out, err := exec.Command("sfdisk", "-V", b).CombinedOutput(); err != nil {
		t.Errorf("sfdisk -V: %v: %s", err, out)
	}
}

func TestCheck(t *testing.T) {
	for _, c := range []struct {
		name string
		p    []Partition
	}{
		{"beyond the end", []Partition{{Number: 1, Type: 0x83, Start: 1, Count: 1000}}},
		{"at sector 0", []Partition{{Number: 1, Type: 0x83, Start: 0, Count: 10}}},
		{"two extended", []Partition{{Number: 1, Type: 5, Start: 1, Count: 10}, {Number: 2, Type: 15, Start: 20, Count: 10}}},
		{"logical without extended", []Partition{{Number: 5, Type: 0x83, Start: 10, Count: 10, EBR: 9}}},
		{"overlap", []Partition{{Number: 1, Type: 0x83, Start: 1, Count: 10}, {Number: 2, Type: 0x83, Start: 10, Count: 10}}},
		{"used twice", []Partition{{Number: 1, Type: 0x83, Start: 1, Count: 10}, {Number: 1, Type: 0x83, Start: 20, Count: 10}}},
		{"gap in the numbers", []Partition{{Number: 1, Type: 5, Start: 1, Count: 100}, {Number: 6, Type: 0x83, Start: 5, Count: 10, EBR: 1}}},
		{"record in a partition", []Partition{{Number: 1, Type: 5, Start: 1, Count: 100}, {Number: 5, Type: 0x83, Start: 5, Count: 10, EBR: 1}, {Number: 6, Type: 0x83, Start: 50, Count: 10, EBR: 9}}},
		{"record twice", []Partition{{Number: 1, Type: 5, Start: 1, Count: 100}, {Number: 5, Type: 0x83, Start: 5, Count: 10, EBR: 1}, {Number: 6, Type: 0x83, Start: 50, Count: 10, EBR: 1}}},
		{"logical outside", []Partition{{Number: 1, Type: 5, Start: 1, Count: 10}, {Number: 5, Type: 0x83, Start: 5, Count: 50, EBR: 1}}},
	} {
		if (&Table{Partitions: c.p}).Check(500) == nil {
			t.Errorf("%s is accepted", c.name)
		}
	}
}

func FuzzRead(f *testing.F) {
	b := make([]byte, 4096)
	b[450], b[454], b[458], b[510], b[511] = 5, 1, 7, 0x55, 0xAA
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 1<<20 {
			return
		}
		tab, err := Read(bytes.NewReader(b), 512)
		if err != nil {
			return
		}
		if len(tab.Partitions) > 4+maxLogical {
			t.Fatalf("%d partitions", len(tab.Partitions))
		}
		if tab.Check(int64(len(b))/512) != nil {
			return
		}
		// What can be written is read again.
		to := make(memory, len(b))
		if err := tab.Write(to, 512); err != nil {
			t.Fatal(err)
		}
		again, err := Read(to, 512)
		if err != nil {
			t.Fatal(err)
		}
		if len(tab.Logical()) > 0 { // its record moves to the beginning
			tab.Partitions[slices.IndexFunc(tab.Partitions, func(p Partition) bool { return p.Number == 5 })].EBR = tab.Logical()[0].EBR
		}
		if !reflect.DeepEqual(again, tab) {
			t.Errorf("%+v\n%+v", again, tab)
		}
	})
}

type memory []byte

func (m memory) ReadAt(b []byte, at int64) (int, error)  { return bytes.NewReader(m).ReadAt(b, at) }
func (m memory) WriteAt(b []byte, at int64) (int, error) { return copy(m[at:], b), nil }
