package recreate

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/blockdev"
	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/plan"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

// ioctl numbers that give a mounted file system another size.
const (
	extResize    = 1<<30 | 8<<16 | 'f'<<8 | 16    // EXT4_IOC_RESIZE_FS of fs/ext4/ext4.h: blocks, 64 bits
	xfsGrow      = 1<<30 | 16<<16 | 'X'<<8 | 110  // XFS_IOC_FSGROWFSDATA of fs/xfs/libxfs/xfs_fs.h
	xfsGeometry  = 2<<30 | 112<<16 | 'X'<<8 | 100 // XFS_IOC_FSGEOMETRY_V1
	btrfsResize  = 1<<30 | 4096<<16 | 0x94<<8 | 3 // BTRFS_IOC_RESIZE of linux/btrfs.h
	btrfsSuper   = 64 << 10                       // where a btrfs has its superblock,
	btrfsDeviceI = btrfsSuper + 0xc9              // and in it the number of the device
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
	size, _, err := blockdev.Geometry(r.kernel().Path("/dev/" + s.Device))
	if err != nil {
		return err
	}
	switch s.FS.Type {
	case fstype.TypeExt2, fstype.TypeExt3, fstype.TypeExt4:
		var st unix.Statfs_t
		if err = unix.Fstatfs(int(d.Fd()), &st); err != nil {
			break
		}
		blocks := make([]byte, 8)
		binary.NativeEndian.PutUint64(blocks, uint64(size)/uint64(st.Bsize))
		if err = r.kernel().Ioctl(d, extResize, blocks); errors.Is(err, unix.EPERM) || errors.Is(err, unix.EOPNOTSUPP) {
			_, err = r.Run.Run(ctx, tool.New("resize2fs", "/dev/"+s.Device)) // by what that kernel can do
		}
	case fstype.TypeXFS:
		geo := make([]byte, 112) // struct xfs_fsop_geom_v1
		if err = r.kernel().Ioctl(d, xfsGeometry, geo); err != nil {
			break
		}
		ne := binary.NativeEndian
		to := make([]byte, 16) // struct xfs_growfs_data: blocks, the share of inodes as it is
		ne.PutUint64(to, uint64(size)/uint64(max(ne.Uint32(geo), 512)))
		ne.PutUint32(to[8:], ne.Uint32(geo[28:]))
		err = r.kernel().Ioctl(d, xfsGrow, to)
	case fstype.TypeBtrfs:
		var id uint64
		if id, err = btrfsDevice(r.kernel().Path("/dev/" + s.Device)); err != nil {
			break
		}
		arg := make([]byte, 4096) // struct btrfs_ioctl_vol_args
		copy(arg[8:], fmt.Sprintf("%d:max", id))
		err = r.kernel().Ioctl(d, btrfsResize, arg)
	default:
		err = errors.New("no way is known to grow this type")
	}
	if err != nil {
		return fmt.Errorf("cannot grow %s on /dev/%s: %w", s.FS.Type, s.Device, err)
	}
	return nil
}

// btrfsDevice is the number that a device has in its btrfs.
func btrfsDevice(dev string) (uint64, error) {
	f, err := os.Open(dev)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	b := make([]byte, 8)
	if _, err := f.ReadAt(b, btrfsDeviceI); err != nil {
		return 0, fmt.Errorf("cannot read the superblock of %s: %w", dev, err)
	}
	return binary.LittleEndian.Uint64(b), nil
}
