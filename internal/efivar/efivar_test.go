package efivar

import (
	"os"
	"path/filepath"
	"testing"
)

// TestAddRemove: what is added, Entries reads back; what is removed is gone,
// and others stay.
func TestAddRemove(t *testing.T) {
	root := t.TempDir()
	dir := root + Dir
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	e := Entry{Label: "Other", Number: 1, Start: 2048, Size: 1048576, GUID: "F1BEB9E4-812B-4A20-A397-1C6079E5BAC2", Path: "/EFI/debian/shimx64.efi"}
	if id, err := Add(dir, e); err != nil || id != "0000" {
		t.Fatalf("Add = %s, %v", id, err)
	}
	e.Label, e.Path = "mkcdrec rescue system", "/EFI/mkcdrec/mkcdrec.efi"
	for range 2 { // the second time replaces
		if id, err := Add(dir, e); err != nil || id != "0001" {
			t.Fatalf("Add = %s, %v", id, err)
		}
	}
	entries, order := Entries(dir)
	if len(entries) != 2 || len(order) != 2 || order[1] != "0001" || entries[1].Label != e.Label || entries[1].Path != `\EFI\mkcdrec\mkcdrec.efi` || entries[1].PartGUID != e.GUID {
		t.Errorf("read back %+v, order %v", entries, order)
	}
	e.First = true
	if id, err := Add(dir, e); err != nil || id != "0001" {
		t.Fatalf("Add = %s, %v", id, err)
	}
	if _, order := Entries(dir); len(order) != 2 || order[0] != "0001" || order[1] != "0000" {
		t.Errorf("order %v", order)
	}
	if err := Remove(dir, e.Label); err != nil {
		t.Fatal(err)
	}
	if entries, order := Entries(dir); len(entries) != 1 || len(order) != 1 || entries[0].Label != "Other" {
		t.Errorf("after Remove: %+v, order %v", entries, order)
	}
	if m, err := filepath.Glob(dir + "/Boot0001*"); err != nil || len(m) > 0 {
		t.Errorf("left: %v", m)
	}
}
