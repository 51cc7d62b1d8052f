package clone

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/archive"
	"github.com/mkcdrec/mkcdrec/internal/blockcopy"
	"github.com/mkcdrec/mkcdrec/internal/progress"
)

// verifyBlocks compares what was copied of a device with its copy. bad could not be read.
func verifyBlocks(ctx context.Context, dst *os.File, src *blockcopy.Device, m *blockcopy.Map, bad []blockcopy.Extent, p progress.Counter) error {
	to, err := reread(dst)
	if err != nil {
		return err
	}
	defer to.Close()
	v, err := blockcopy.Verify(ctx, to, src, m, bad, p)
	if err != nil {
		return fmt.Errorf("cannot compare %s with %s: %w", dst.Name(), src.Name(), err)
	}
	if !v.OK() {
		return fmt.Errorf("the copy on %s differs from %s: %v", dst.Name(), src.Name(), v)
	}
	return nil
}

// reread opens what is open for writing a second time, for reading past the page cache.
func reread(f *os.File) (*blockcopy.Device, error) {
	d, err := blockcopy.OpenDevice(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", f.Name(), err)
	}
	return d, nil
}

// maxNamed is how many files that differ are named.
const maxNamed = 50

// verifyFiles compares the files of a mounted source with their copies. What the copy is
// known to lack is in problems.
func verifyFiles(ctx context.Context, root *os.File, dest, below string, from archive.CreateOptions, problems []archive.Problem) error {
	to, err := archive.OpenBelow(dest, below, false)
	if err != nil {
		return err
	}
	defer to.Close()
	if err := unix.Syncfs(int(to.Fd())); err != nil {
		return fmt.Errorf("cannot write the copy to its disk: %w", err)
	}
	all, err := archive.CompareCopy(ctx, root, to, from, archive.CompareOptions{Inner: from.Inner, Apart: from.Apart, Unlocked: true})
	if err != nil {
		return err
	}
	var was, is unix.Statfs_t
	if err := unix.Fstatfs(int(root.Fd()), &was); err != nil {
		return fmt.Errorf("cannot compare %s: %w", root.Name(), err)
	}
	if err := unix.Fstatfs(int(to.Fd()), &is); err != nil {
		return fmt.Errorf("cannot compare %s: %w", dest, err)
	}
	all = slices.DeleteFunc(all, func(d archive.Difference) bool {
		return d.Path == "lost+found" || // a file system has its own
			was.Type != is.Type && strings.HasPrefix(d.What, "flags are") || // not all have the same
			(is.Type == unix.MSDOS_SUPER_MAGIC || is.Type == unix.EXFAT_SUPER_MAGIC) && d.Path == "." && strings.HasPrefix(d.What, "time is") || // it has none
			slices.ContainsFunc(problems, func(p archive.Problem) bool { return p.Path == d.Path })
	})
	if len(all) == 0 {
		return nil
	}
	var text []string
	for _, d := range all[:min(len(all), maxNamed)] {
		text = append(text, "  "+d.String())
	}
	if n := len(all) - maxNamed; n > 0 {
		text = append(text, fmt.Sprintf("  and %d more", n))
	}
	return fmt.Errorf("the copy of %s differs from the source:\n%s", from.Prefix, strings.Join(text, "\n"))
}

// comparer is a writer that compares what a device has with what would be written.
type comparer struct {
	*blockcopy.Device
	name  string
	buf   []byte
	bytes int64 // that differ
	first int64 // the first of them
}

// comparing gives a writer that compares with what was written to dst.
func comparing(dst *os.File) (*comparer, error) {
	if err := dst.Sync(); err != nil {
		return nil, fmt.Errorf("cannot write %s: %w", dst.Name(), err)
	}
	d, err := reread(dst)
	if err != nil {
		return nil, err
	}
	d.Forget()
	return &comparer{Device: d, name: dst.Name(), first: -1}, nil
}

// WriteAt implements io.WriterAt.
func (c *comparer) WriteAt(b []byte, off int64) (int, error) {
	c.buf = slices.Grow(c.buf[:0], len(b))[:len(b)]
	if n, err := c.ReadAt(c.buf, off); n < len(b) {
		if err == nil || err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return 0, fmt.Errorf("cannot read %s at byte %d: %w", c.name, off, err)
	}
	if bytes.Equal(b, c.buf) {
		return len(b), nil
	}
	for i := range b {
		if b[i] != c.buf[i] {
			if c.bytes++; c.first < 0 {
				c.first = off + int64(i)
			}
		}
	}
	return len(b), nil
}

// differ is the error where something differs.
func (c *comparer) differ() error {
	if c.bytes == 0 {
		return nil
	}
	return fmt.Errorf("%s differs from its image: %d bytes differ, the first is byte %d", c.name, c.bytes, c.first)
}
