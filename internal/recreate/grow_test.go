package recreate

import (
	"context"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/plan"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

// TestGrow: a file system that was copied onto a larger device gets the size of that.
func TestGrow(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	const small, large = 320 << 20, 700 << 20
	for typ, mkfs := range map[string]string{
		"ext4":  "mke2fs -q -F -t ext4",
		"ext2":  "mke2fs -q -F -t ext2",
		"xfs":   "mkfs.xfs -q -f",
		"btrfs": "mkfs.btrfs -q -f",
	} {
		t.Run(typ, func(t *testing.T) {
			f := blank(t, small)
			if out, err := exec.Command("sh", "-c", mkfs+" "+f.Name()).CombinedOutput(); err != nil {
				t.Skipf("%v %s", err, out)
			}
			if err := f.Truncate(large); err != nil {
				t.Fatal(err)
			}
			dev := strings.TrimPrefix(loopOver(t, f.Name()), "/dev/")
			dir := t.TempDir()
			if err := unix.Mount("/dev/"+dev, dir, typ, 0, ""); err != nil {
				t.Skipf("cannot mount %s here: %v", typ, err)
			}
			defer unix.Unmount(dir, 0)
			size := func() int64 {
				var st unix.Statfs_t
				if err := unix.Statfs(dir, &st); err != nil {
					t.Fatal(err)
				}
				return int64(st.Blocks) * st.Bsize
			}
			before := size()
			s := &plan.GrowFS{Device: dev, Mount: &layout.Mount{Path: "/"}, FS: &layout.Filesystem{Device: "vda1", Type: typ}}
			r := &Recreator{Target: dir, Run: tool.Exec{}}
			if err := r.growFS(context.Background(), s); err != nil {
				if strings.HasPrefix(typ, "ext") && !mayResize(t) {
					t.Skipf("ext wants CAP_SYS_RESOURCE, which this process has not: %v", err)
				}
				t.Fatal(err)
			}
			if after := size(); after < before+300<<20 {
				t.Errorf("%d bytes before, %d after", before, after)
			}
			if err := r.growFS(context.Background(), s); err != nil {
				t.Errorf("once more: %v", err) // a step that is resumed
			}
		})
	}
	r := &Recreator{Target: t.TempDir(), Run: tool.Exec{}}
	if err := r.growFS(context.Background(), &plan.GrowFS{Device: "null", Mount: &layout.Mount{Path: "/"}, FS: &layout.Filesystem{Type: "vfat"}}); err == nil {
		t.Error("a vfat was grown")
	}
}

// mayResize tells whether the process has CAP_SYS_RESOURCE, number 24 of capability.h.
func mayResize(t *testing.T) bool {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "CapEff:")
	caps, err := strconv.ParseUint(strings.Fields(rest)[0], 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	return caps&(1<<24) != 0
}
