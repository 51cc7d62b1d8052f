package rescue

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/mkcdrec/mkcdrec/initramfs"
	"github.com/mkcdrec/mkcdrec/internal/hooks"
)

// addHooks puts in the hooks of a restore, with the libraries of those that are programs.
// The interpreter of a script must be among what is there.
func (b *Maker) addHooks(ctx context.Context, t *initramfs.Files) error {
	if b.Hooks.Dir == "" {
		return nil
	}
	var errs []error
	for _, point := range []string{hooks.BeforeRestore, hooks.AfterRestore} {
		files, idle, err := b.Hooks.List(point)
		if err != nil {
			return err
		}
		for _, f := range idle {
			b.Report.Warn("hook %s is not executable: the rescue system does not get it", f)
		}
		for _, f := range files {
			errs = append(errs, b.addHook(ctx, t, f, strings.TrimPrefix(hooks.Dir, "/")+"/"+point+"/"+filepath.Base(f)))
		}
	}
	return errors.Join(errs...)
}

// addHook puts in one hook.
func (b *Maker) addHook(ctx context.Context, t *initramfs.Files, file, to string) error {
	by, err := hooks.Interpreter(file)
	if err != nil {
		return fmt.Errorf("cannot read hook %s: %w", file, err)
	}
	if name := filepath.Base(by); by != "" && !t.Has("usr/bin/"+name) && !t.Has("usr/sbin/"+name) && !t.Has("bbin/"+name) {
		return fmt.Errorf("cannot carry hook %s: the rescue system lacks %s: name it in rescue.carry, or write the hook for /bin/sh", file, by)
	}
	var libs []string
	if by == "" {
		if libs, err = initramfs.Libraries(ctx, b.Run, file); err != nil {
			return err
		}
	}
	for _, l := range libs {
		if err := t.AddFile(l, l); err != nil {
			return err
		}
	}
	return t.AddFile(to, file)
}
