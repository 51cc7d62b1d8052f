package recreate

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/kernel"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/plan"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

// sparseModel is what a plan calls the stand-in of a disk.
const sparseModel = "sparse file"

// Sparse stands in for disks: sparse files behind loop devices, on which a plan
// can be carried out without touching any disk.
type Sparse struct {
	// Dir has the files, one for each disk, NAME.img.
	Dir string
	// Run runs programs on the machine whose loop devices are used.
	Run tool.Runner
}

func (s Sparse) kernel() kernel.Kernel { return kernel.Of(s.Run) }

// Disks gives one for each disk of a mapping, with its size and sectors; those
// that are there from a run before are taken again.
func (s Sparse) Disks(m plan.Mapping) (plan.Mapping, error) {
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make sparse disks: %w", err)
	}
	out := plan.Mapping{}
	for old, p := range m {
		name, err := s.loop(filepath.Join(s.Dir, old+".img"), p.Size, p.LogicalSector)
		if err != nil {
			return nil, fmt.Errorf("cannot make a sparse disk in the place of %s: %w", p.Name, err)
		}
		out[old] = layout.Present{Disk: layout.Disk{Name: name, Model: sparseModel, Size: p.Size, LogicalSector: p.LogicalSector, PhysicalSector: max(p.PhysicalSector, quantity.Size(512))}, Holds: "nothing"}
	}
	return out, nil
}

func (s Sparse) loop(file string, size, sector quantity.Size) (string, error) {
	if have := s.attached(file); have != "" {
		return have, nil
	}
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if err := f.Truncate(int64(size)); err != nil {
		return "", err
	}
	name, hold, err := s.kernel().Loop(f, sector, unix.LO_FLAGS_PARTSCAN)
	if err != nil {
		return "", err
	}
	return name, hold.Close()
}

// FreeLoops refuses what needs n loop devices if the kernel does not give as many. They
// are taken for a moment, for it makes most of them when they are asked for.
func FreeLoops(run tool.Runner, n int) error {
	f, err := os.CreateTemp("", "mkcdrec-loop")
	if err != nil {
		return fmt.Errorf("cannot try loop devices: %w", err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if err := f.Truncate(int64(quantity.MiB)); err != nil {
		return fmt.Errorf("cannot try loop devices: %w", err)
	}
	return freeLoops(n, func() (io.Closer, error) {
		_, hold, err := kernel.Of(run).Loop(f, 0, unix.LO_FLAGS_AUTOCLEAR)
		return hold, err
	})
}

func freeLoops(n int, attach func() (io.Closer, error)) error {
	for i := range n {
		hold, err := attach()
		if err != nil {
			return &exit.Refusal{Reason: fmt.Sprintf("the plan needs %d loop devices, and the kernel gives %d: %v", n, i, err)}
		}
		defer hold.Close()
	}
	return nil
}

// attached gives the loop device that a file is behind, "" for none.
func (s Sparse) attached(file string) string {
	all, err := filepath.Glob(s.kernel().Path("/sys/block/loop*/loop/backing_file"))
	if err != nil {
		return ""
	}
	for _, b := range all {
		if t, err := os.ReadFile(b); err == nil && strings.TrimSpace(string(t)) == file {
			return filepath.Base(filepath.Dir(filepath.Dir(b)))
		}
	}
	return ""
}

// files are those of the disks; the directory's name is not a pattern.
func (s Sparse) files() ([]string, error) {
	all, err := os.ReadDir(s.Dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var out []string
	for _, e := range all {
		if strings.HasSuffix(e.Name(), ".img") {
			out = append(out, filepath.Join(s.Dir, e.Name()))
		}
	}
	return out, nil
}

// Loops are the loop devices of the files, for Recreator.Own.
func (s Sparse) Loops() ([]string, error) {
	files, err := s.files()
	if err != nil {
		return nil, err
	}
	out := []string{} // none, and not any
	for _, f := range files {
		if name := s.attached(f); name != "" {
			out = append(out, name)
		}
	}
	return out, nil
}

// There reports whether files of a run before are there.
func (s Sparse) There() bool {
	files, err := s.files()
	return err == nil && len(files) > 0
}

// Remove detaches the loop devices and removes the files.
func (s Sparse) Remove() error {
	files, err := s.files()
	if err != nil {
		return err
	}
	var errs []error
	for _, f := range files {
		if name := s.attached(f); name != "" {
			if err := s.kernel().Detach(name); err != nil {
				errs = append(errs, fmt.Errorf("cannot detach /dev/%s: %w", name, err))
				continue
			}
		}
		errs = append(errs, os.Remove(f))
	}
	return errors.Join(errs...)
}
