package repair

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/blockdev"
	"github.com/mkcdrec/mkcdrec/internal/rescue"
	"github.com/mkcdrec/mkcdrec/internal/storage"
	"github.com/mkcdrec/mkcdrec/internal/sysconf"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

// Attach puts a read-only loop device over a file and gives its name; it goes away when
// hold is closed and it is not mounted.
type Attach func(file string) (name string, hold io.Closer, err error)

// AttachLoop is Attach by the kernel.
func AttachLoop(file string) (name string, hold io.Closer, err error) {
	f, err := os.Open(file)
	if err != nil {
		return "", nil, err
	}
	defer f.Close()
	return blockdev.Loop(&unix.LoopConfig{Fd: uint32(f.Fd()), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_READ_ONLY | unix.LO_FLAGS_AUTOCLEAR}})
}

// secondParts are the directories below which the second system is put together.
const secondParts = rescue.StateDir + "/second"

// OpenSecond mounts the second system that the medium has on rescue.SecondDir. What is
// written there stays in memory; if the kernel has no overlay, nothing can be written.
func (r *Opener) OpenSecond(ctx context.Context, attach Attach) error {
	k := r.kernel()
	file, dir, parts := k.Path(filepath.Join(rescue.MediumDir, rescue.SecondFile)), k.Path(rescue.SecondDir), k.Path(secondParts)
	if mounted, err := r.second(); err != nil {
		return err
	} else if len(mounted) > 0 {
		return fmt.Errorf("the second system is open already: run chroot %s /bin/sh, or superrescue -u", rescue.SecondDir)
	}
	if _, err := os.Stat(file); err != nil {
		return fmt.Errorf("this medium has no second system, or is not mounted on %s: %w", rescue.MediumDir, err)
	}
	for _, m := range []string{"loop", "squashfs", "overlay"} {
		_, _ = r.Run.Run(ctx, tool.New("modprobe", m)) // it may be built in
	}
	name, hold, err := attach(file)
	if err != nil {
		return fmt.Errorf("cannot open the second system: %w", err)
	}
	defer hold.Close()
	if err := errors.Join(os.MkdirAll(parts, 0o700), os.MkdirAll(dir, 0o755)); err != nil {
		return err
	}
	err = k.Mount("tmpfs", parts, "tmpfs", 0, "mode=700")
	for _, d := range []string{"lower", "upper", "work"} {
		err = errors.Join(err, os.MkdirAll(filepath.Join(parts, d), 0o755))
	}
	if err == nil {
		err = k.Mount("/dev/"+name, filepath.Join(parts, "lower"), "squashfs", unix.MS_RDONLY, "")
	}
	if err == nil {
		if e := k.Mount("overlay", dir, "overlay", 0, fmt.Sprintf("lowerdir=%s/lower,upperdir=%s/upper,workdir=%s/work", secondParts, secondParts, secondParts)); e != nil {
			r.Report.Warn("nothing can be written in the second system: %v", e)
			err = k.Mount(filepath.Join(secondParts, "lower"), dir, "", unix.MS_BIND, "")
		}
	}
	if err == nil {
		_, err = (&Opener{Run: r.Run, Report: r.Report, Target: dir}).bind(nil)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("cannot open the second system: %w", err), r.CloseSecond())
	}
	return nil
}

// second gives what is mounted for the second system, the last first.
func (r *Opener) second() ([]string, error) {
	all, err := sysconf.Mounts(r.kernel().Path("/"))
	var out []string
	for _, m := range slices.Backward(all) {
		if storage.Below(r.kernel().Path(rescue.SecondDir), m.Path) || storage.Below(r.kernel().Path(secondParts), m.Path) {
			out = append(out, m.Path)
		}
	}
	return out, err
}

// CloseSecond unmounts what OpenSecond has mounted.
func (r *Opener) CloseSecond() error {
	mounted, err := r.second()
	for _, at := range mounted {
		if err == nil {
			err = r.kernel().Unmount(at)
		}
	}
	if err != nil {
		return fmt.Errorf("cannot close the second system: %w (does a program work in it?)", err)
	}
	return nil
}
