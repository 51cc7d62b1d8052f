package recreate

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"github.com/mkcdrec/mkcdrec/internal/plan"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

// rehearsalMax is the largest file that programs without a mode for trying get: what they
// refuse hangs on options, not on more room.
const rehearsalMax = 512 * quantity.MiB

// Rehearse has every program that makes a file system try its command line on a sparse
// file: one that does not know an option or a feature, being older than the plan's, is
// found before anything is written to a disk. Errors are *plan.Refused, joined. A program
// that is not there is left to the one who looks for programs.
func (r *Recreator) Rehearse(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "mkcdrec-rehearse")
	if err != nil {
		return fmt.Errorf("cannot try the programs: %w", err)
	}
	defer os.RemoveAll(dir)
	var errs []error
	for n, s := range r.Plan.Steps {
		if s.Kind != plan.MakeFS || s.FS == nil || len(s.Run) == 0 || len(s.Others) > 0 {
			continue
		}
		if _, err := exec.LookPath(s.Run[0][0]); err != nil {
			continue
		}
		if err := r.rehearse(ctx, s, filepath.Join(dir, "file")); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			errs = append(errs, &plan.Refused{Reason: fmt.Sprintf("step %d would fail: %s\n%v", n+1, s, err)})
		}
	}
	return errors.Join(errs...)
}

// rehearse tries the first command of a step; those behind it change what it made.
func (r *Recreator) rehearse(ctx context.Context, s plan.Step, file string) error {
	c := slices.Clone(s.Run[0])
	at := slices.Index(c, "/dev/"+s.Device)
	if at < 0 {
		return nil
	}
	c[at] = file
	size := r.Plan.SizeOf(s.Device)
	switch c[0] {
	case "mke2fs":
		c = slices.Insert(c, 1, "-n") // mke2fs(8)
	case "mkfs.xfs":
		c = slices.Insert(c, 1, "-N") // mkfs.xfs(8)
	case "mkfs.fat": // its sectors and clusters are for that size
	default:
		size = min(size, rehearsalMax)
	}
	if size <= 0 {
		return nil
	}
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Truncate(file, int64(size))); err != nil {
		return err
	}
	_, err := r.Run.Run(ctx, tool.Cmd{Args: c, Env: mkfsEnv(c[0])})
	return err
}
