package archive

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// TestMeter: bytes are those that du counts, without the file of which one name was not added.
func TestMeter(t *testing.T) {
	dir := t.TempDir()
	sh(t, dir, "mkdir -p a/b c; for i in $(seq 50); do head -c $((i*997)) /dev/zero > a/b/$i; done; ln a/b/50 c/linked; truncate -s 1G a/sparse; mkfifo c/fifo; ln -s / c/link; echo x > one; head -c 500000 /dev/zero > saved; ln saved c/too")
	root, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	var m Meter
	for _, p := range []string{"a", "c", "one", "missing"} {
		if err := m.Add(t.Context(), root, p); err != nil {
			t.Fatal(err)
		}
	}
	c := exec.Command("du", "-B1", "-sc", "a", "c", "one")
	c.Dir = dir
	out, err := c.Output()
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	want, _ := strconv.ParseInt(strings.Fields(lines[len(lines)-1])[0], 10, 64)
	st, err := os.Stat(dir + "/saved")
	if err != nil {
		t.Fatal(err)
	}
	want -= st.Sys().(*syscall.Stat_t).Blocks * 512
	if m.Files != 54 || m.Bytes != want || want == 0 {
		t.Errorf("Meter has %d files, %d bytes; want 54, and %d as du", m.Files, m.Bytes, want)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := m.Add(ctx, root, "a"); !errors.Is(err, context.Canceled) {
		t.Errorf("Add() of a context that has ended = %v", err)
	}
}
