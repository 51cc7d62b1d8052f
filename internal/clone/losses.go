package clone

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/archive"
	"github.com/mkcdrec/mkcdrec/internal/blockcopy"
	"github.com/mkcdrec/mkcdrec/internal/blockdev"
	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/ioctl"
	"github.com/mkcdrec/mkcdrec/internal/restore"
)

// maxRanges is how many ranges of a device, or of a file, are named.
const maxRanges = 20

// lose records what could not be read of a device.
func (s *Source) lose(dev, typ string, bad []blockcopy.Extent) {
	if len(bad) == 0 {
		return
	}
	if s.bad == nil {
		s.bad = map[string][]blockcopy.Extent{}
	}
	s.bad[dev] = bad
	for _, e := range bad[:min(len(bad), maxRanges)] {
		s.lost = append(s.lost, fmt.Sprintf("/dev/%s (%s): %d bytes from byte %d could not be read, and are zero", dev, typ, e.Length, e.Start))
	}
	if n := len(bad) - maxRanges; n > 0 {
		s.lost = append(s.lost, fmt.Sprintf("/dev/%s (%s): %d more ranges could not be read", dev, typ, n))
	}
}

// lostFiles names the files that have what could not be read, on the finished copies.
func (s *Source) lostFiles(ctx context.Context, rep *restore.Report) []string {
	var out []string
	for _, f := range s.layout.Filesystems {
		bad, to := s.bad[f.Device], rep.Plan.Devices[f.Device]
		if len(bad) == 0 {
			continue
		}
		files, rest, err := filesAt(ctx, "/dev/"+to, f.Type, bad)
		if err != nil {
			out = append(out, fmt.Sprintf("/dev/%s: which files have these sectors is not known: %v", f.Device, err))
			continue
		}
		out = append(out, files...)
		if rest > 0 {
			out = append(out, fmt.Sprintf("/dev/%s: %d of these bytes are in no file: they are structures of the %s itself; check it, and look for what is missing", f.Device, rest, f.Type))
		}
	}
	return out
}

// filesAt gives a line for each file of a device that is in these ranges of it, and how
// many bytes of them are in no file.
func filesAt(ctx context.Context, dev, typ string, bad []blockcopy.Extent) (lines []string, rest int64, err error) {
	if !fstype.Of(typ).Fiemap {
		return nil, 0, fmt.Errorf("a %s does not report it", typ)
	}
	if err := os.MkdirAll(filesDir, 0o700); err != nil {
		return nil, 0, err
	}
	if err := blockdev.MountReadOnly(dev, typ, filesDir); err != nil {
		return nil, 0, err
	}
	defer func() { err = errors.Join(err, unmountBelow(filesDir)) }()
	for _, e := range bad {
		rest += e.Length
	}
	seen := map[uint64]bool{}
	walk := func(name string, d fs.DirEntry, err error) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err != nil || !d.Type().IsRegular() && !d.IsDir() {
			return nil // a directory that cannot be read is a part of the loss
		}
		f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
		if err != nil {
			return nil
		}
		defer f.Close()
		var st unix.Stat_t
		if unix.Fstat(int(f.Fd()), &st) != nil || seen[st.Ino] {
			return nil
		}
		seen[st.Ino] = st.Nlink > 1
		in, err := within(f, bad)
		if err != nil || len(in) == 0 {
			return nil
		}
		var parts []string
		for i, e := range in {
			rest -= e.Length
			if i < maxRanges {
				parts = append(parts, fmt.Sprintf("%d to %d", e.Start, e.Start+e.Length-1))
			}
		}
		what := "bytes "
		if d.IsDir() {
			what = "directory, bytes "
		}
		rel, _ := filepath.Rel(filesDir, name) // both are absolute
		lines = append(lines, fmt.Sprintf("/%s: %s%s could not be read, and are zero", archive.Quote(rel), what, strings.Join(parts, ", ")))
		return nil
	}
	err = filepath.WalkDir(filesDir, walk)
	return lines, max(rest, 0), err
}

// within gives the parts of a file, by its own offsets, that are in ranges of its device.
func within(f *os.File, bad []blockcopy.Extent) ([]blockcopy.Extent, error) {
	var out []blockcopy.Extent
	for x, err := range ioctl.Extents(f) {
		if err != nil {
			return nil, err
		}
		for _, b := range bad {
			from, to := max(b.Start, x.Physical), min(b.Start+b.Length, x.Physical+x.Length)
			if x.Placed && from < to {
				out = append(out, blockcopy.Extent{Start: from - x.Physical + x.Logical, Length: to - from})
			}
		}
	}
	return out, nil
}
