package recreate

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/exit"
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
	var ref *exit.Refusal
	if err := r.Ends(); !errors.As(err, &ref) || !strings.Contains(err.Error(), "smaller than it reports") || !strings.Contains(err.Error(), dev) {
		t.Errorf("a disk that lies: %v", err)
	}
	r.Plan.Disks[0].New.Name = "no-such-disk"
	if err := r.Ends(); !errors.As(err, &ref) {
		t.Errorf("a disk that is gone: %v", err)
	}
}

// liar is a disk that says it has more than it has: what is written behind its
// end goes nowhere, or round to its beginning. Until it is asked again, the
// kernel's memory hides that.
type liar struct {
	cache, has []byte
	round      bool
	writes     [][2]int64
	asked      bool
}

func (l *liar) WriteAt(b []byte, at int64) (int, error) {
	l.writes = append(l.writes, [2]int64{at, int64(len(b))})
	return copy(l.cache[at:], b), nil
}

func (l *liar) ReadAt(b []byte, at int64) (int, error) {
	if !l.asked {
		return copy(b, l.cache[at:]), nil
	}
	for i := range b {
		b[i] = 0
		if k := at + int64(i); k < int64(len(l.has)) || l.round {
			b[i] = l.has[k%int64(len(l.has))]
		}
	}
	return len(b), nil
}

func (l *liar) forget() error {
	l.asked = true
	for _, w := range l.writes {
		for k := w[0]; k < w[0]+w[1]; k++ {
			if k < int64(len(l.has)) || l.round {
				l.has[k%int64(len(l.has))] = l.cache[k]
			}
		}
	}
	return nil
}

func TestHonest(t *testing.T) {
	const size = 9<<20 + 512
	for _, c := range []struct {
		name  string
		has   int
		round bool
		want  string
	}{
		{"honest", size, false, ""},
		{"one sector less", size - 512, false, "/dev/x did not keep what was written at byte 9433600 of 9437696: the disk is broken, or smaller than it reports"},
		{"half of it", size / 2, false, "/dev/x did not keep what was written at byte 8388608 "},
		{"goes round at 4 MiB", 4 << 20, true, "/dev/x did not keep what was written at byte 0 "},
		{"goes round at 1 MiB", 1 << 20, true, "/dev/x did not keep what was written at byte 0 "},
	} {
		l := &liar{cache: make([]byte, size), has: make([]byte, c.has), round: c.round}
		err := checkCapacity(l, "/dev/x", size, l.forget)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.HasPrefix(err.Error(), c.want)) {
			t.Errorf("%s: %v; want %q", c.name, err, c.want)
		}
		if c.want == "" && strings.Trim(string(l.cache), "\x00") != "" {
			t.Errorf("%s: marks are left", c.name)
		}
	}
	l := &liar{cache: make([]byte, size), has: make([]byte, size)}
	if err := checkCapacity(l, "/dev/x", size, func() error { return os.ErrClosed }); !errors.Is(err, os.ErrClosed) {
		t.Errorf("%v", err)
	}
}
