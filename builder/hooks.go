package builder

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/mkcdrec/mkcdrec/internal/hooks"
	"github.com/mkcdrec/mkcdrec/internal/interrupt"
)

// Hooked does the work of a command that writes a backup to a destination, between its
// hooks: work returns where the set is. The hooks after it run if any before it were to
// run, however it ended. Before them nothing of the machine is read: a hook may mount the
// destination.
func (b *Builder) Hooked(ctx context.Context, command, destination string, work func() (set string, err error)) error {
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("cannot read the name of this machine: %w", err)
	}
	b.hooks = &hooks.Set{Config: b.Config.Hooks, Run: b.Run, Report: b.Report, Env: []string{"MKCDREC_COMMAND=" + command, "MKCDREC_VERSION=" + b.Version, "MKCDREC_HOST=" + host, "MKCDREC_DESTINATION=" + destination}}
	err = b.hooks.Before(ctx, hooks.BeforeBackup)
	set := ""
	if err == nil {
		b.sweepSnapshots(ctx)
		set, err = work()
		err = hooks.Join(err, b.afterSnapshot)
	}
	b.hooks.Env = append(b.hooks.Env, "MKCDREC_SET="+set)
	return hooks.Join(err, b.hooks.After(ctx, hooks.AfterBackup, interrupt.Err(ctx, err)))
}

// HookPlan returns which hooks would run around a backup.
func (b *Builder) HookPlan() error {
	points := []string{hooks.BeforeBackup, hooks.AfterBackup}
	if b.Config.Snapshot == snapshotAuto {
		points = []string{hooks.BeforeBackup, hooks.BeforeSnapshot, hooks.AfterSnapshot, hooks.AfterBackup}
	}
	for _, point := range points {
		if err := hooks.Plan(b.Config.Hooks, point, b.Report); err != nil {
			return err
		}
	}
	return nil
}

// hooks checks the hooks of all points.
func (t *tester) hooks() {
	var errs []error
	n := 0
	for _, point := range hooks.Points {
		files, _, err := t.b.Config.Hooks.List(point)
		errs, n = append(errs, err), n+len(files)
	}
	t.result("hooks", errors.Join(errs...), "correct owner and mode, or remove the hook", fmt.Sprintf("%d in %s", n, t.b.Config.Hooks.Dir))
}
