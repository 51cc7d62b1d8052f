package builder

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/builder/set"
	"github.com/mkcdrec/mkcdrec/internal/store"
	"github.com/mkcdrec/mkcdrec/internal/sysconf"
)

// runDir has the locks of this machine.
const runDir = "/run"

// Alone is Hooked for a command that writes sets to a directory. It is refused while another
// run of this machine does: before any hook of this run, as far as this machine knows, and
// again by the lock in the directory, which a hook may have to mount.
func (b *Builder) Alone(ctx context.Context, command, dir string, work func() (set string, err error)) error {
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("cannot read the name of this machine: %w", err)
	}
	release, err := LockPlace(dir, host)
	if err != nil {
		return err
	}
	defer b.unlock(release)
	shown := dir
	if store.IsHome(dir) {
		shown = sysconf.RedactURL(dir)
	}
	return b.Hooked(ctx, command, shown, func() (string, error) {
		if store.IsHome(dir) { // locks are kept on this machine: the host has no other
			return work()
		}
		if err := mustDir(dir); err != nil {
			return "", err
		}
		release, err := set.Lock(dir, host, b.Report.Note)
		if err != nil {
			return "", err
		}
		defer b.unlock(release)
		return work()
	})
}

// LockPlace has this run be the only one of this machine, whose name is host, that writes to a
// place, however that is written, until release is called; an exit.Refusal names the other one. It
// locks nothing where /run can't be written to.
func LockPlace(place, host string) (release func() error, err error) {
	canonical, err := store.Canonical(place)
	if err != nil {
		return nil, err
	}
	shown := place
	if store.IsHome(place) {
		shown = sysconf.RedactURL(place)
	}
	name := fmt.Sprintf("%s/mkcdrec-%x.lock", runDir, sha256.Sum256([]byte(canonical)))
	release, err = set.LockFile(name, host, shown, func(string, ...any) {})
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.EROFS) {
		return func() error { return nil }, nil
	}
	return release, err
}

func (b *Builder) unlock(release func() error) {
	if err := release(); err != nil {
		b.Report.Warn("%v", err)
	}
}
