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

// liar is a disk that says it has more than it has: what is written behind its
// end goes nowhere, or round to its beginning. Until it is asked anew, the
// kernel's memory hides that.
type liar struct {
	says, has []byte
	round     bool
	asked     bool
}

func (l *liar) ReadAt(b []byte, at int64) (int, error) {
	if !l.asked {
		return copy(b, l.says[at:]), nil
	}
	for i := range b {
		switch k := at + int64(i); {
		case k < int64(len(l.has)):
			b[i] = l.has[k]
		case l.round:
			b[i] = l.has[k%int64(len(l.has))]
		default:
			b[i] = 0
		}
	}
	return len(b), nil
}

func (l *liar) forget() error {
	l.asked = true
	for i, c := range l.says {
		if i >= 1<<20 && i < len(l.says)-1<<20 {
			continue // was not written
		}
		if i < len(l.has) {
			l.has[i] = c
		} else if l.round {
			l.has[i%len(l.has)] = c
		}
	}
	return nil
}

func TestKept(t *testing.T) {
	const size = 8 << 20
	says := make([]byte, size)
	copy(says, "the table")
	copy(says[size-512:], "its copy")
	for _, c := range []struct {
		name  string
		has   int
		round bool
		want  string
	}{
		{"honest", size, false, ""},
		{"forgets", size / 2, false, "/dev/x did not keep what was written to its last 1.0 MiB"},
		{"goes round", size / 2, true, "/dev/x did not keep what was written to its first 1.0 MiB"},
		{"goes round elsewhere", size - 3<<20, true, ""}, // its end is where it was written
	} {
		l := &liar{says: says, has: make([]byte, c.has), round: c.round}
		err := kept(l, "/dev/x", size, l.forget)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.HasPrefix(err.Error(), c.want)) {
			t.Errorf("%s: %v; want %q", c.name, err, c.want)
		}
	}
	l := &liar{says: says, has: make([]byte, size)}
	if err := kept(l, "/dev/x", size, func() error { return os.ErrClosed }); !errors.Is(err, os.ErrClosed) {
		t.Errorf("%v", err)
	}
}
