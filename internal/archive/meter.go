package archive

import (
	"context"
	"os"

	"golang.org/x/sys/unix"
)

// Meter adds up what is at paths, as du(1) does. A file of several names counts when all of them were added: while
// another name is saved, its content is.
type Meter struct {
	Files int64            // all but directories
	Bytes int64            // on the disk, of directories too
	names map[inode]uint64 // how many of a file's names were added
}

// Add adds what is at path and below it, on the mount that the open directory root is on. What can't be read counts as
// nothing. The only error is that of a context that has ended.
func (m *Meter) Add(ctx context.Context, root *os.File, path string) error {
	return m.entry(ctx, int(root.Fd()), path, mountID(int(root.Fd())))
}

func (m *Meter) entry(ctx context.Context, dir int, name string, mount uint64) error {
	var st unix.Stat_t
	if quietly(func() error { return unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW) }) != nil {
		return nil
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		if st.Nlink > 1 {
			if m.names == nil {
				m.names = map[inode]uint64{}
			}
			id := inode{uint64(st.Dev), st.Ino}
			if m.names[id]++; m.names[id] != uint64(st.Nlink) {
				return nil
			}
		}
		m.Files, m.Bytes = m.Files+1, m.Bytes+st.Blocks*512
		return nil
	}
	fd, err := openQuietly(dir, name, unix.O_DIRECTORY)
	if err != nil {
		return nil
	}
	d := os.NewFile(uintptr(fd), name)
	defer d.Close()
	if mountID(fd) != mount {
		return nil
	}
	m.Bytes += st.Blocks * 512
	names, _ := d.Readdirnames(-1) // those that can be listed
	for _, n := range names {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := m.entry(ctx, fd, n, mount); err != nil {
			return err
		}
	}
	return nil
}
