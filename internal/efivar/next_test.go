package efivar

import (
	"os"
	"testing"
)

// TestFree: an entry of the firmware is not overwritten where no number is free.
func TestFree(t *testing.T) {
	dir := t.TempDir()
	for i, want := range []string{"0000", "0001", "0002", ""} {
		id, err := free(dir, 3)
		if id != want || (err == nil) != (want != "") {
			t.Errorf("free with %d entries = %q, %v; want %q", i, id, err, want)
		}
		if err := write(dir, "Boot"+want, nil); want != "" && err != nil {
			t.Fatal(err)
		}
	}
}

// The firmware's next start is the first entry that is not the medium's.
func TestNext(t *testing.T) {
	dir := t.TempDir()
	put := func(name string, b ...byte) {
		t.Helper()
		if err := write(dir, name, b); err != nil {
			t.Fatal(err)
		}
	}
	all := func(string) bool { return true }
	if id, err := Next(dir, all); err == nil {
		t.Errorf("no entries: %s", id)
	}
	put("BootOrder", 7, 0, 9, 0, 0x1a, 0) // 9 does not exist
	put("Boot0007", 1)
	put("Boot001A", 1)
	put("BootCurrent", 7, 0)
	if id, err := Next(dir, all); err != nil || id != "001A" {
		t.Errorf("Next = %s, %v", id, err)
	}
	b, err := os.ReadFile(variable(dir, "BootNext"))
	if err != nil || len(b) != 6 || b[4] != 0x1a || b[5] != 0 {
		t.Errorf("BootNext: %x %v", b, err)
	}
	// The network's and the firmware's own entries come first, and are passed over.
	put("BootOrder", 7, 0, 0x1a, 0, 0x1b, 0)
	put("Boot001B", 1)
	if id, err := Next(dir, func(id string) bool { return id != "001A" }); err != nil || id != "001B" {
		t.Errorf("Next of a disk = %s, %v", id, err)
	}
	put("BootOrder", 7, 0)
	if id, err := Next(dir, all); err == nil {
		t.Errorf("only the medium: %s", id)
	}
}
