package clonezilla

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/mkcdrec/mkcdrec/internal/gpt"
	"github.com/mkcdrec/mkcdrec/internal/mbr"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
)

// TestAgainstSfdisk compares what is read from dumps with the tables themselves.
func TestAgainstSfdisk(t *testing.T) {
	for _, p := range []string{"sfdisk", "sgdisk"} {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("%s is not installed; make deps installs it", p)
		}
	}
	disk := filepath.Join(t.TempDir(), "sda")
	run := func(in, name string, args ...string) string {
		c := exec.Command(name, args...)
		c.Stdin = strings.NewReader(in)
		out, err := c.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", c.Args, err, out)
		}
		return strings.ReplaceAll(string(out), disk, "/dev/sda")
	}
	fresh := func() *os.File {
		os.Remove(disk)
		f, err := os.Create(disk)
		if err == nil {
			err = f.Truncate(100 << 20)
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	for _, script := range []string{
		"label: gpt\nsize=10M, type=U, name=\"EFI, \\x22Sys\\x22tem\", attrs=\"RequiredPartition LegacyBIOSBootable GUID:60,63\"\nsize=20M, type=L, name=\"höme\"\n",
		"label: gpt\ntable-length: 256\nfirst-lba: 2048\nsize=10M\nsize=1M, type=21686148-6449-6E6F-744E-656564454649\n",
	} {
		f := fresh()
		run(script, "sfdisk", "-q", disk)
		got, err := parseSfdisk(run("", "sfdisk", "-d", disk), "sda", 512)
		if err != nil {
			t.Fatal(err)
		}
		want, err := gpt.Read(f, 512, 100<<20)
		if err != nil {
			t.Fatal(err)
		}
		compareGPT(t, got, want)
		// The same from the file that is read when sfdisk was too old to know GPTs.
		first := make([]byte, 34*512)
		if _, err := f.ReadAt(first, 0); err != nil {
			t.Fatal(err)
		}
		if len(want.Partitions) > 0 && want.Entries == 128 {
			m := fstest.MapFS{}
			put(m, "disk", "sda")
			put(m, "parts", "")
			put(m, "sda-pt.sf", "# partition table of /dev/sda\nunit: sectors\n\n/dev/sda1 : start=        1, size=   204799, Id=ee\n")
			put(m, "sda-gpt-1st", string(first))
			s, err := Open(m)
			if err != nil {
				t.Fatal(err)
			}
			compareGPT(t, &table{Table: *s.Disks[0].Table, last: want.LastUsable}, want)
			if s.Disks[0].Size != 100<<20 {
				t.Errorf("disk of %d bytes; want %d", s.Disks[0].Size, 100<<20)
			}
		}
	}
	f := fresh()
	run("label: dos\nlabel-id: 0x12345678\nsize=10M, bootable\nsize=50M,type=5\nsize=10M,type=7\nsize=10M,type=82\nsize=5M\nsize=6M,type=c\n", "sfdisk", "-q", disk)
	got, err := parseSfdisk(run("", "sfdisk", "-d", disk), "sda", 512)
	if err != nil {
		t.Fatal(err)
	}
	want, err := mbr.Read(f, 512)
	if err != nil {
		t.Fatal(err)
	}
	if got.Signature != "0x12345678" || len(got.Partitions) != len(want.Partitions) {
		t.Fatalf("%+v; want %+v", got, want)
	}
	table := &mbr.Table{Signature: 1}
	for i, p := range got.Partitions {
		w := want.Partitions[i]
		g := mbr.Partition{Number: p.Number, Type: w.Type, Active: p.Active, Start: int64(p.Start / 512), Count: int64(p.Size / 512), EBR: int64(p.EBR / 512)}
		table.Partitions = append(table.Partitions, g)
		if g.EBR = w.EBR; g != w || p.Type != fmt.Sprintf("0x%02x", w.Type) {
			t.Errorf("%+v; want %+v", p, w)
		}
	}
	if err := table.Check(100 << 11); err != nil {
		t.Errorf("records of logical partitions: %v", err)
	}
}

func compareGPT(t *testing.T, got *table, want *gpt.Table) {
	t.Helper()
	entries := got.Entries
	if entries == 0 {
		entries = 128
	}
	first := got.FirstUsable
	if first == 0 {
		first = usualFirst(got.Entries, 512)
	}
	if got.GUID != want.GUID || entries != want.Entries || first != quantity.Size(want.FirstUsable*512) || got.last != want.LastUsable || len(got.Partitions) != len(want.Partitions) {
		t.Fatalf("%+v; want %+v", got, want)
	}
	for i, p := range got.Partitions {
		w := want.Partitions[i]
		if g := (gpt.Partition{Number: p.Number, Type: p.Type, GUID: p.GUID, First: int64(p.Start / 512), Last: int64((p.Start+p.Size)/512) - 1, Attributes: p.Attributes, Name: p.Name}); g != w || p.Device != fmt.Sprintf("sda%d", p.Number) {
			t.Errorf("%+v; want %+v", g, w)
		}
	}
}

func TestSfdiskFaults(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"label: sun\n", `type "sun" is not supported`},
		{"unit: cylinders\n", "unit is not sectors"},
		{"sector-size: 100\n", "sectors of 100 bytes"},
		{"/dev/sda01 : start=1, size=1, type=83\n", "is not a partition of sda"},
		{"/dev/sdap1 : start=1, size=1, type=83\n", "is not a partition of sda"},
		{"/dev/sda1 : start=-1, size=1, type=83\n", "is not a number of sectors"},
		{"/dev/sda1 : start=1125899906842624, size=1, type=83\n", "is not on a disk"},
		{"/dev/sda1 : start=1, size=99999999999999999999, type=83\n", "is not a number of sectors"},
		{"/dev/sda1 : start=1, size=1, type=183\n", "invalid syntax|out of range"},
		{"/dev/sda1 : start=1, size=1, type=83\n/dev/sda1 : start=5, size=1, type=83\n", "is listed twice"},
		{"/dev/sda5 : start=1, size=1, type=83\n", "without an extended one"},
		{"/dev/sda1 : start=10, size=100, type=5\n/dev/sda5 : start=10, size=1, type=83\n", "no room for the record"},
		{"label: gpt\n/dev/sda1 : start=10, size=100, name=\"a\n", "quotes do not end"},
		{"label: gpt\n/dev/sda1 : start=10, size=100, name=\"a\\\"\n", "is not a quoted text"},
		{"label: gpt\n/dev/sda1 : start=10, size=100, attrs=\"GUID:64\"\n", "is not known"},
	} {
		_, err := parseSfdisk(c.text, "sda", 512)
		if err == nil || !slices.ContainsFunc(strings.Split(c.want, "|"), func(w string) bool { return strings.Contains(err.Error(), w) }) {
			t.Errorf("%q: %v; want %q", c.text, err, c.want)
		}
	}
}

func FuzzSfdisk(f *testing.F) {
	f.Add(gptDump)
	f.Add("unit: sectors\n/dev/sda1 : start=       63, size=   401562, Id= 5, bootable\n/dev/sda5 : start=  2048, size=4, Id=83\n")
	f.Fuzz(func(t *testing.T, text string) {
		if p, err := parseSfdisk(text, "sda", 512); err == nil {
			for _, x := range p.Partitions {
				if x.Start < 0 || x.Size <= 0 || x.Start+x.Size < 0 || x.Number < 1 {
					t.Errorf("%+v", x)
				}
			}
		}
	})
}
