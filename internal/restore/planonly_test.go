package restore

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/probe"
	"github.com/mkcdrec/mkcdrec/internal/tool"
	"github.com/mkcdrec/mkcdrec/internal/uuid"
)

// restore --plan already names the step that would fail and the programs that are not
// there, and writes nothing.
func TestPlanOnlyRefuses(t *testing.T) {
	mke2fs, err := exec.LookPath("mke2fs")
	if err != nil {
		t.Skip(err)
	}
	tune2fs, err := exec.LookPath("tune2fs")
	if err != nil {
		t.Skip(err)
	}
	const size = 64 << 20
	for _, c := range []struct {
		name     string
		features []string // of the ext4, beside those that every version has
		programs []string
		want     []string // in the refusal
		not      string
	}{
		{"a feature that this mke2fs does not know", []string{"of_the_future"}, []string{mke2fs, tune2fs}, []string{"step 2 would fail: make ext4", "of_the_future"}, "programs that are not here"},
		{"a program that is not here", nil, []string{tune2fs}, []string{"the plan needs programs that are not here", "mke2fs, for step 2"}, "step 2 would fail"},
	} {
		t.Run(c.name, func(t *testing.T) {
			ext := fstype.NewExt("ext4", size/2)
			ext.Features = append(ext.Features, c.features...)
			l := &layout.Layout{Disks: []layout.Disk{{Name: "vda", Size: size, LogicalSector: 512, PhysicalSector: 512,
				Table: &layout.Table{Label: layout.MBR, Signature: "0x12345678", Partitions: []layout.Partition{{Number: 1, Device: "vda1", Start: 1 << 20, Size: size / 2, Type: "0x83"}}}}},
				Filesystems: []layout.Filesystem{{Device: "vda1", Type: "ext4", UUID: uuid.New(), Size: size / 2, Geometry: fstype.Geometry{Ext: ext}, Mounts: []layout.Mount{{Path: "/"}}}}}
			set := setOfLayout(t, l, "h")

			root, bin := t.TempDir(), t.TempDir()
			disk := filepath.Join(root, "dev/sda")
			for p, text := range map[string]string{"sys/block/sda/size": "131072\n", "sys/block/sda/serial": "S1\n", "proc/self/mountinfo": "1 1 0:1 / / rw - tmpfs tmpfs rw\n", "proc/swaps": "", "dev/sda": strings.Repeat("\x00", size)} {
				p = filepath.Join(root, p)
				if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, []byte(text), 0o644)); err != nil {
					t.Fatal(err)
				}
			}
			if err := errors.Join(os.MkdirAll(root+"/sys/class/block", 0o755), os.Symlink("../../block/sda", root+"/sys/class/block/sda")); err != nil {
				t.Fatal(err)
			}
			for _, p := range c.programs {
				if err := os.Symlink(p, filepath.Join(bin, filepath.Base(p))); err != nil {
					t.Fatal(err)
				}
			}
			t.Setenv("PATH", bin)

			r := &Restorer{Run: tool.Exec{}, Screen: &notes{}, Machine: probe.Machine{Root: root, Run: &tool.Recorder{}}}
			_, err := r.Restore(t.Context(), Options{Request: Request{Set: set, PlanOnly: true, Yes: true}})
			var refused *exit.Refusal
			var untouched *Untouched
			if !errors.As(err, &refused) || !errors.As(err, &untouched) {
				t.Fatalf("Restore = %v; want a refusal before anything is written", err)
			}
			for _, w := range c.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("Restore = %v; want %q", err, w)
				}
			}
			if strings.Contains(err.Error(), c.not) {
				t.Errorf("Restore = %v; it has %q", err, c.not)
			}
			if b, err := os.ReadFile(disk); err != nil || len(bytes.Trim(b, "\x00")) > 0 || len(b) != size {
				t.Errorf("the disk was written to: %v", err)
			}
		})
	}
}
