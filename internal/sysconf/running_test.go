package sysconf

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// TestRunning: what the kernel writes in /proc is read decoded.
func TestRunning(t *testing.T) {
	root := t.TempDir()
	for name, text := range map[string]string{
		"proc/self/mountinfo": "36 35 98:0 / /srv/my\\040data rw - ext4 /dev/sda1 rw\n",
		"proc/cmdline":        "root=\"LABEL=a b\" quiet\n",
		"proc/swaps":          "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n/dev/dm-1                               partition\t1024\t\t0\t\t-2\n/srv/swap\\040file\\011x                         file\t\t1024\t\t0\t\t-3\n",
	} {
		p := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := Mounts(root); err != nil || len(got) != 1 || got[0].Path != "/srv/my data" {
		t.Errorf("Mounts = %+v, %v", got, err)
	}
	if got, err := RunningCmdline(root); err != nil || got != `root="LABEL=a b" quiet` {
		t.Errorf("RunningCmdline = %q, %v", got, err)
	}
	want := []SwapArea{{"/dev/dm-1", "partition"}, {"/srv/swap file\tx", "file"}}
	if got, err := SwapAreas(root); err != nil || !slices.Equal(got, want) {
		t.Errorf("SwapAreas = %q, %v; want %q", got, err, want)
	}
	for _, f := range []func() error{
		func() error { _, err := Mounts(root + "/x"); return err },
		func() error { _, err := RunningCmdline(root + "/x"); return err },
		func() error { _, err := SwapAreas(root + "/x"); return err },
	} {
		if f() == nil {
			t.Error("no error without the file")
		}
	}
}
