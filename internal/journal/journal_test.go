package journal

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pierrec/lz4/v4"
)

const remote = "/lib/systemd/systemd-journal-remote"

// made writes n entries with systemd's own program, in the compact form or the other.
func made(t testing.TB, n int, compact string) string {
	t.Helper()
	if _, err := os.Stat(remote); err != nil {
		t.Skip("systemd-journal-remote is not installed")
	}
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "__REALTIME_TIMESTAMP=%d\n__MONOTONIC_TIMESTAMP=%d\n_BOOT_ID=aaaaaaaabbbbccccddddeeeeeeeeeeee\nMESSAGE=message %d\nLONG=%s\n\n", 1700000000000000+i*1000000, i*1000000, i, strings.Repeat("text ", 1000+i))
	}
	dir := t.TempDir()
	c := exec.Command(remote, "-o", dir+"/a.journal", "-")
	c.Stdin, c.Env = strings.NewReader(b.String()), append(os.Environ(), "SYSTEMD_JOURNAL_COMPACT="+compact)
	if out, err := c.CombinedOutput(); err != nil {
		t.Skipf("systemd-journal-remote: %v %s", err, out)
	}
	return dir
}

// TestRead: all entries and fields of a file, forwards and backwards, also of one that is
// cut off.
func TestRead(t *testing.T) {
	for _, compact := range []string{"0", "1"} {
		dir := made(t, 300, compact)
		j, err := OpenDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer j.Close()
		if j.files[0].compact != (compact == "1") {
			t.Errorf("compact = %v", j.files[0].compact)
		}
		for _, backwards := range []bool{false, true} {
			n := 0
			for f, e := range j.Entries(backwards) {
				i := n
				if backwards {
					i = 299 - n
				}
				got := map[string]string{}
				for _, x := range f.Fields(e) {
					got[x.Name] = string(x.Value)
				}
				if want := fmt.Sprintf("message %d", i); got["MESSAGE"] != want || got["LONG"] != strings.Repeat("text ", 1000+i) || e.Realtime != uint64(1700000000000000+i*1000000) || e.Boot != "aaaaaaaabbbbccccddddeeeeeeeeeeee" {
					t.Fatalf("entry %d = %+v %q; want %q", n, e, got["MESSAGE"], want)
				}
				n++
			}
			if n != 300 {
				t.Errorf("%d entries; want 300", n)
			}
		}
		b, err := os.ReadFile(dir + "/a.journal")
		if err != nil {
			t.Fatal(err)
		}
		// The same file twice has each entry once; one that is cut off gives what it has.
		if err := os.WriteFile(dir+"/b.journal", b, 0o600); err != nil {
			t.Fatal(err)
		}
		for size, least := range map[int]int{len(b): 300, int(j.files[0].entries[150]) + 8: 150, 300: 0} {
			if err := os.WriteFile(filepath.Join(dir, "a.journal"), b[:size], 0o600); err != nil {
				t.Fatal(err)
			}
			both, err := OpenDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			n := 0
			for range both.Entries(false) {
				n++
			}
			both.Close()
			alone, err := Open(dir + "/a.journal")
			if err != nil {
				t.Fatal(err)
			}
			whole := 0
			for range (&Journal{files: []*File{alone}}).Entries(true) {
				whole++
			}
			if n != 300 || whole < least {
				t.Errorf("cut to %d bytes: %d entries of both, %d of it alone; want 300, at least %d", size, n, whole, least)
			}
			alone.Close()
		}
	}
}

// TestUnpack: the compressions of fields, of older versions of systemd, too.
func TestUnpack(t *testing.T) {
	want := []byte("MESSAGE=" + strings.Repeat("repeated ", 1000))
	f := &File{}
	packed := make([]byte, lz4.CompressBlockBound(len(want)))
	n, err := lz4.CompressBlock(want, packed, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := f.unpack(2, append(binary.LittleEndian.AppendUint64(nil, uint64(len(want))), packed[:n]...)); err != nil || !bytes.Equal(got, want) {
		t.Errorf("lz4: %d bytes, %v", len(got), err)
	}
	for flag, args := range map[byte][]string{1: {"xz", "--check=none"}, 4: {"zstd", "-q"}} {
		c := exec.Command(args[0], args[1:]...)
		c.Stdin = bytes.NewReader(want)
		b, err := c.Output()
		if err != nil {
			t.Skip(args[0], err)
		}
		if got, err := f.unpack(flag, b); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, %v", args[0], len(got), err)
		}
	}
	for _, flag := range []byte{1, 2, 3, 4, 7} {
		if got, err := f.unpack(flag, []byte("not compressed at all")); err == nil {
			t.Errorf("flag %d: %q", flag, got)
		}
	}
}

func FuzzJournal(f *testing.F) {
	f.Add([]byte("LPKSHHRH"))
	if _, err := os.Stat(remote); err == nil {
		for _, compact := range []string{"0", "1"} {
			b, err := os.ReadFile(made(f, 3, compact) + "/a.journal")
			if err != nil {
				f.Fatal(err)
			}
			f.Add(b[:min(len(b), 32<<10)])
			// Without its hash tables, the objects are at the begin of the file.
			if at := bytes.LastIndexFunc(b, func(r rune) bool { return r != 0 }); at > 0 {
				f.Add(b[:at+1])
			}
		}
	}
	f.Fuzz(func(_ *testing.T, b []byte) {
		j, err := New(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		all := &Journal{files: []*File{j, j}}
		for _, backwards := range []bool{false, true} {
			for file, e := range all.Entries(backwards) {
				file.Fields(e)
			}
		}
	})
}
