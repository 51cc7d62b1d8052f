package main

import (
	"bytes"
	"os"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/keymap"
)

// TestDumpFull: a map that does not reach its reader is an error.
func TestDumpFull(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	if err := dump(full, &keymap.Map{}); err == nil {
		t.Error("a full device takes the map")
	}
	var b bytes.Buffer
	if err := dump(&b, &keymap.Map{}); err != nil || b.Len() == 0 {
		t.Errorf("%d bytes, %v", b.Len(), err)
	}
}
