package restore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/bootloader"
	"github.com/mkcdrec/mkcdrec/internal/inroot"
	"github.com/mkcdrec/mkcdrec/internal/plan"
	"github.com/mkcdrec/mkcdrec/internal/sysconf"
)

// finalize makes the restored system start and leaves the log in it.
func (r *Restorer) finalize(ctx context.Context) error {
	if err := r.mountPoints(); err != nil {
		return err
	}
	// Before what may fail: it would fail again at the next boot.
	if r.set != nil && r.set.Digest != "" {
		if err := r.record(); err != nil {
			r.Screen.Warn("%v", err)
		}
	}
	if err := r.keyFiles(ctx); err != nil {
		return err
	}
	r.Screen.Phase("making the system start", 0)
	s := &bootloader.System{Root: r.opt.Target, Layout: r.plan.Layout, Devices: r.plan.Devices, Types: r.converted(), Copied: r.plan.Copied, Run: r.Run, Report: r.Screen, Identities: r.replace}
	if r.opt.NewIdentity {
		if err := r.opt.Personal.Apply(ctx, s); err != nil {
			return err
		}
	}
	if err := s.Install(ctx); err != nil {
		return err
	}
	if err := r.journal.copyTo(r.opt.Target); err != nil {
		r.Screen.Warn("%v", err) // the machine is restored anyway
	}
	if faults := s.Proof("/sys"); len(faults) > 0 {
		return fmt.Errorf("everything was restored, but the system may not start:\n  %s\nThe system is mounted on %s: fix it there (chroot), then run restore umount", strings.Join(faults, "\n  "), r.opt.Target)
	}
	r.Screen.Note("looked at fstab, the boot entries, initramfs and loader: what they refer to is there")
	return nil
}

// keyFiles gives LUKS devices that were recreated the key files that crypttab
// has for them.
func (r *Restorer) keyFiles(ctx context.Context) error {
	c, err := inroot.Open(r.opt.Target, "etc/crypttab")
	if err != nil {
		return nil // no crypttab, no lines
	}
	b, err := io.ReadAll(io.LimitReader(c, 1<<20))
	c.Close()
	if err != nil {
		return fmt.Errorf("cannot read crypttab: %w", err)
	}
	entries := sysconf.ParseCrypttab(string(b)).Entries
	for _, s := range plan.StepsOf[*plan.MakeCrypt](r.plan) {
		if r.rec.Keys[s.Crypt.Name].Header != nil {
			continue
		}
		for _, e := range entries {
			if e.Name != s.Crypt.Name || !strings.HasPrefix(e.Key, "/") {
				continue
			}
			key, err := inroot.Open(r.opt.Target, e.Key)
			if err != nil {
				continue
			}
			key.Close()
			if err := r.rec.AddKeyFile(ctx, s, key.Name()); err != nil {
				return fmt.Errorf("cannot make %s a key of %s again: %w", e.Key, s.Crypt.Name, err)
			}
			r.Screen.Note("%s opens %s again", e.Key, s.Crypt.Name)
		}
		r.Screen.Warn("%s has a new header: its other passphrases and tokens are lost", s.Crypt.Name)
	}
	return nil
}

// converted gives the types that differ from what the set's machine had, by
// mount point.
func (r *Restorer) converted() map[string]string {
	out := map[string]string{}
	for at, typ := range r.opt.Wish.Types {
		if f := r.content.Layout().Mounted(at); f != nil && f.Type != typ {
			out[at] = typ
		}
	}
	return out
}

// mountPoints makes the directories that a running system mounts things on,
// if the archive lacked them.
func (r *Restorer) mountPoints() error {
	for _, d := range []struct {
		name string
		mode os.FileMode
	}{{"proc", 0o555}, {"sys", 0o555}, {"dev", 0o755}, {"run", 0o755}, {"tmp", 0o777 | os.ModeSticky}} {
		p := filepath.Join(r.opt.Target, d.name)
		if _, err := os.Lstat(p); err == nil {
			continue
		}
		if err := os.Mkdir(p, d.mode.Perm()); err != nil {
			return fmt.Errorf("cannot make mount point: %w", err)
		}
		if err := os.Chmod(p, d.mode); err != nil {
			return fmt.Errorf("cannot make mount point: %w", err)
		}
	}
	for _, f := range r.content.Layout().Filesystems {
		for _, m := range f.Mounts {
			p := filepath.Join(r.opt.Target, m.Path)
			if _, err := os.Lstat(p); errors.Is(err, os.ErrNotExist) && f.Excluded != "" {
				if _, err := inroot.MkdirAll(r.opt.Target, m.Path, 0o755); err != nil {
					return fmt.Errorf("cannot make mount point: %w", err)
				}
			}
		}
	}
	return nil
}
