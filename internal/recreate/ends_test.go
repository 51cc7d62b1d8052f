package recreate

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/plan"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
)

// TestEnds has a loop device whose file was cut off behind its back: a disk that
// says it has 64 MiB and has 32.
func TestEnds(t *testing.T) {
	file := filepath.Join(t.TempDir(), "disk")
	const size = 64 << 20
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, size); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("losetup", "--show", "-f", file).Output()
	if err != nil {
		t.Skip("no loop devices here: ", err)
	}
	dev := strings.TrimSpace(string(out))
	defer exec.Command("losetup", "-d", dev).Run()
	r := &Recreator{Plan: &plan.Plan{Disks: []plan.Disk{{New: layout.Disk{Name: strings.TrimPrefix(dev, "/dev/"), Size: quantity.Size(size)}}}}}
	if err := r.Ends(); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, size/2); err != nil {
		t.Fatal(err)
	}
	if err := exec.Command("blockdev", "--flushbufs", dev).Run(); err != nil {
		t.Fatal(err)
	}
	var ref *plan.Refused
	if err := r.Ends(); !errors.As(err, &ref) || !strings.Contains(err.Error(), "smaller than it says") || !strings.Contains(err.Error(), dev) {
		t.Errorf("a disk that lies: %v", err)
	}
	r.Plan.Disks[0].New.Name = "no-such-disk"
	if err := r.Ends(); !errors.As(err, &ref) {
		t.Errorf("a disk that is gone: %v", err)
	}
}
