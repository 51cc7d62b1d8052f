package clone

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/blockcopy"
	"github.com/mkcdrec/mkcdrec/internal/ddrescue"
	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/recreate"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

// mapFile is the map file of a source's disk: what of it was copied so far, by the places
// of the disk. What is copied as files is "not tried" in it, as is what is not in use.
type mapFile struct {
	name string
	m    *ddrescue.Map
}

// openMap opens the map file of a disk of size bytes: a new one, or with resume one that an
// earlier run left.
func openMap(name string, size int64, resume bool) (*mapFile, error) {
	f := &mapFile{name, ddrescue.New(size)}
	_, err := os.Stat(name)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return f, f.m.WriteFile(name, "") // now, not when the disk was written to
	case err != nil:
		return nil, fmt.Errorf("cannot read map file: %w", err)
	case !resume:
		return nil, &exit.Refusal{Reason: fmt.Sprintf("the map file %s exists: --resume continues with it; remove it to begin again", name)}
	}
	m, err := ddrescue.ReadFile(name)
	if err != nil {
		return nil, err
	}
	if m.Start() != 0 || m.End() != size {
		return nil, &exit.Refusal{Reason: fmt.Sprintf("the map file %s is of bytes %d to %d, and the source has %d bytes: it is of another disk", name, m.Start(), m.End(), size)}
	}
	f.m = m
	return f, nil
}

// place is a range of a device and where it begins on the disk, in bytes.
type place struct{ from, length, disk int64 }

// part gives what is known of a device that is at these places.
func (f *mapFile) part(at []place) *ddrescue.Map {
	size := int64(0)
	for _, p := range at {
		size = max(size, p.from+p.length)
	}
	m := ddrescue.New(size)
	for _, p := range at {
		var blocks []ddrescue.Block
		for _, b := range f.m.Blocks {
			from, to := max(b.Pos, p.disk), min(b.Pos+b.Size, p.disk+p.length)
			if from < to {
				blocks = append(blocks, ddrescue.Block{Pos: from - p.disk + p.from, Size: to - from, Status: b.Status})
			}
		}
		m = m.Overlay(blocks)
	}
	return m
}

// save writes what became of a device that is at these places.
func (f *mapFile) save(at []place, m *ddrescue.Map) error {
	for _, p := range at {
		var blocks []ddrescue.Block
		for _, b := range m.Blocks {
			from, to := max(b.Pos, p.from), min(b.Pos+b.Size, p.from+p.length)
			if from < to {
				blocks = append(blocks, ddrescue.Block{Pos: from - p.from + p.disk, Size: to - from, Status: b.Status})
			}
		}
		f.m = f.m.Overlay(blocks)
		if m.Pos >= p.from && m.Pos < p.from+p.length {
			f.m.Pos = m.Pos - p.from + p.disk
		}
	}
	f.m.Phase, f.m.Pass = byte(ddrescue.NonTried), 1
	return f.m.WriteFile(f.name, "")
}

// errNoPlace means that the places of a device on the disk are not known.
var errNoPlace = errors.New("it is not a partition, nor a linear volume or LUKS device in one")

// placesOf finds where the bytes of a device, named with its path, are on the disk that it
// is on: a disk, a partition, linear volumes and LUKS devices in these.
func placesOf(ctx context.Context, run tool.Runner, dev string) ([]place, error) {
	var st unix.Stat_t
	if err := unix.Stat(dev, &st); err != nil {
		return nil, fmt.Errorf("cannot find %s: %w", dev, err)
	}
	f, err := os.Open(dev)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Seek(0, 2)
	if err != nil {
		return nil, err
	}
	return placesIn(ctx, run, fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev)), 0, size, 4)
}

// placesIn does it for a part of the device of a number; depth bounds what is below.
func placesIn(ctx context.Context, run tool.Runner, number string, off, length int64, depth int) ([]place, error) {
	sys := "/sys/dev/block/" + number
	if b, err := os.ReadFile(filepath.Join(sys, "start")); err == nil { // a partition
		n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
		if err != nil {
			return nil, errNoPlace
		}
		return []place{{0, length, n*512 + off}}, nil
	}
	name, err := os.ReadFile(filepath.Join(sys, "dm/name"))
	if err != nil {
		if _, err := os.Stat(filepath.Join(sys, "md")); err == nil {
			return nil, errNoPlace
		}
		return []place{{0, length, off}}, nil
	}
	if depth == 0 {
		return nil, errNoPlace
	}
	out, err := run.Run(ctx, tool.New("dmsetup", "table", strings.TrimSpace(string(name))))
	if err != nil {
		return nil, err
	}
	pieces, err := piecesOf(string(out), off, length)
	if err != nil {
		return nil, err
	}
	var all []place
	for _, x := range pieces {
		below, err := placesIn(ctx, run, x.number, x.disk, x.length, depth-1)
		if err != nil {
			return nil, err
		}
		for _, p := range below {
			all = append(all, place{p.from + x.from, p.length, p.disk})
		}
	}
	return all, nil
}

// piece is a place on the device of a number.
type piece struct {
	place
	number string
}

// piecesOf gives where a part of a device is by its table of device-mapper: linear pieces,
// encrypted or not.
func piecesOf(table string, off, length int64) (all []piece, err error) {
	for line := range strings.Lines(table) {
		w := strings.Fields(line)
		if len(w) < 3 {
			return nil, errNoPlace
		}
		dev := map[string]int{"linear": 3, "crypt": 6}[w[2]] // where the device is in the line
		if dev == 0 || len(w) < dev+2 {
			return nil, errNoPlace
		}
		var n [3]int64
		for i, s := range []string{w[0], w[1], w[dev+1]} {
			if n[i], err = strconv.ParseInt(s, 10, 64); err != nil {
				return nil, errNoPlace
			}
			n[i] *= 512
		}
		from, to := max(n[0], off), min(n[0]+n[1], off+length)
		if from < to {
			all = append(all, piece{place{from - off, to - from, n[2] + from - n[0]}, w[dev]})
		}
	}
	return all, nil
}

// onMap gives the places of a device for the map file; nil where there is no map file, or
// the device has none in it.
func (s *Source) onMap(ctx context.Context, dev string) []place {
	if s.mapFile == nil {
		return nil
	}
	at, err := placesOf(ctx, s.run, s.path(dev))
	if err != nil {
		s.rep.Warn("/dev/%s is not in the map file: %v", dev, err)
		return nil
	}
	return at
}

// state is what the map file has of a device that is copied to dst. What opening a whole
// disk has cleared is not on it any more.
func (s *Source) state(at []place, dst *os.File) *ddrescue.Map {
	m := s.mapFile.part(at)
	sys := "/sys/class/block/" + filepath.Base(dst.Name())
	for _, n := range []string{"partition", "dm", "md"} {
		if _, err := os.Stat(filepath.Join(sys, n)); err == nil {
			return m
		}
	}
	size, err := dst.Seek(0, 2)
	if err != nil {
		return ddrescue.New(m.End())
	}
	for _, r := range recreate.Cleared(size) {
		m = m.Overlay([]ddrescue.Block{{Pos: r[0], Size: r[1], Status: ddrescue.NonTried}})
	}
	return m
}

// bad are the states of what could not be read.
var bad = []ddrescue.Status{ddrescue.BadSector, ddrescue.NonScraped, ddrescue.NonTrimmed}

// onlyZero gives the parts of ranges, in sectors, that are zero bytes on the target: nothing
// was written to them since a copy left them out.
func onlyZero(d *blockcopy.Device, size int64, ranges func(func(int64, int64) bool)) (*blockcopy.Map, error) {
	m := &blockcopy.Map{Size: size}
	b := make([]byte, d.Sector())
	for start, length := range ranges {
		for at := start; at < start+length; at += int64(len(b)) {
			n := min(int64(len(b)), start+length-at)
			if _, err := d.ReadAt(b[:n], at); err != nil {
				return nil, fmt.Errorf("cannot read %s at byte %d: %w", d.Name(), at, err)
			}
			if strings.Trim(string(b[:n]), "\x00") != "" {
				continue
			}
			if k := len(m.Used); k > 0 && m.Used[k-1].Start+m.Used[k-1].Length == at {
				m.Used[k-1].Length += n
			} else {
				m.Used = append(m.Used, blockcopy.Extent{Start: at, Length: n})
			}
		}
	}
	return m, nil
}
