package store

import (
	"context"
	"os"
	"path"
	"path/filepath"

	"github.com/pkg/sftp"
	"golang.org/x/sys/unix"
)

// FreeSpace is a Home that knows how much can be written to it.
type FreeSpace interface {
	// Free returns how many bytes can be written, false if that is not known.
	Free(ctx context.Context) (int64, bool)
}

// Free implements FreeSpace. Above a directory that is missing the next one that is there counts.
func (h *dirHome) Free(context.Context) (int64, bool) { return FreeIn(h.dir) }

// FreeIn returns how many bytes can be written below a directory of this machine, false if that is not known.
func FreeIn(dir string) (int64, bool) {
	for {
		var st unix.Statfs_t
		err := unix.Statfs(dir, &st)
		if err == nil {
			return int64(st.Bavail) * st.Bsize, true
		}
		up := filepath.Dir(dir)
		if !os.IsNotExist(err) || up == dir {
			return 0, false
		}
		dir = up
	}
}

// Free implements FreeSpace, where the server has OpenSSH's extension statvfs.
func (h *sftpHome) Free(ctx context.Context) (n int64, ok bool) {
	err := h.do(ctx, func(c *sftp.Client, _ int) (bool, error) {
		n, ok = sftpFree(c, h.at.path)
		return true, nil
	})
	return n, ok && err == nil
}

// sftpFree returns how many bytes can be written below a directory of a server.
func sftpFree(c *sftp.Client, dir string) (int64, bool) {
	for {
		v, err := c.StatVFS(dir)
		if err == nil {
			return int64(v.Bavail * v.Frsize), true
		}
		if dir == "/" || dir == "." || !os.IsNotExist(err) {
			return 0, false
		}
		dir = path.Dir(dir)
	}
}
