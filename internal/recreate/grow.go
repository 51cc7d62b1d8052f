package recreate

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/plan"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

// growFS gives a mounted file system the size of its device.
func (r *Recreator) growFS(ctx context.Context, s *plan.GrowFS) error {
	at, err := r.tree().Place(&plan.MountFS{FS: s.FS, Mount: s.Mount})
	if err != nil {
		return err
	}
	d, err := os.OpenFile(at, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer d.Close()
	size, _, err := r.kernel().Geometry(s.Device)
	if err != nil {
		return err
	}
	t := fstype.Of(s.FS.Type)
	if t.Grow == nil {
		return fmt.Errorf("cannot grow %s on /dev/%s: no way is known to grow this type", s.FS.Type, s.Device)
	}
	head, err := readHead(r.kernel().Path("/dev/" + s.Device))
	if err != nil {
		return err
	}
	req, arg := t.Grow(head, int64(size))
	err = r.kernel().Ioctl(d, req, arg)
	if t.GrowBy != nil && (errors.Is(err, unix.EPERM) || errors.Is(err, unix.EOPNOTSUPP)) { // by what that kernel can do
		_, err = r.Run.Run(ctx, tool.New(append(slices.Clone(t.GrowBy), "/dev/"+s.Device)...))
	}
	if err != nil {
		return fmt.Errorf("cannot grow %s on /dev/%s: %w", s.FS.Type, s.Device, err)
	}
	return nil
}

// readHead reads what fstype looks at of a device.
func readHead(dev string) ([]byte, error) {
	f, err := os.Open(dev)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b := make([]byte, fstype.HeadLen)
	if _, err := f.ReadAt(b, 0); err != nil {
		return nil, fmt.Errorf("cannot read the superblock of %s: %w", dev, err)
	}
	return b, nil
}
