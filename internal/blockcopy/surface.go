package blockcopy

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"slices"

	"github.com/mkcdrec/mkcdrec/internal/progress"
)

// Surface is a device whose sectors are tried: Device is one.
type Surface interface {
	ReadSectors(b []byte, off int64) error
	Size() int64
	Sector() int64
}

const (
	surfacePiece = 1 << 20
	// mostBad is how many bad ranges are listed, mostSectors how many sectors; after that a
	// device is not tried further.
	mostBad     = 50
	mostSectors = 10_000
)

// enough reports whether no more bad sectors are looked for.
func enough(bad []Extent) bool {
	n := int64(0)
	for _, e := range bad {
		n += e.Length
	}
	return len(bad) >= mostBad || n >= mostSectors
}

// ReadSurface reads all of a device and gives the ranges that can't be read, in sectors.
// check, if not nil, looks at what was read. An error is that it was not read to its end:
// ErrVanished, or the cause of ctx's end.
func ReadSurface(ctx context.Context, d Surface, check func(b []byte, off int64) bool, p progress.Counter) ([]Extent, error) {
	var bad []Extent
	buf := make([]byte, surfacePiece)
	try := func(b []byte, off int64) (bool, error) {
		err := d.ReadSectors(b, off)
		if errors.Is(err, ErrVanished) {
			return false, err
		}
		return err == nil && (check == nil || check(b, off)), nil
	}
	for off := int64(0); off < d.Size() && !enough(bad); off += surfacePiece {
		if ctx.Err() != nil {
			return bad, context.Cause(ctx)
		}
		b := buf[:min(surfacePiece, d.Size()-off)]
		good, err := try(b, off)
		if err != nil {
			return bad, err
		}
		for at := int64(0); !good && at < int64(len(b)) && !enough(bad); at += d.Sector() {
			s := b[at:min(at+d.Sector(), int64(len(b)))]
			if good, err := try(s, off+at); err != nil || ctx.Err() != nil {
				return bad, errors.Join(err, context.Cause(ctx))
			} else if !good {
				bad = addBad(bad, (off+at)/d.Sector())
			}
		}
		p.Add(int64(len(b)))
	}
	return bad, nil
}

// addBad adds a sector to the ranges.
func addBad(bad []Extent, sector int64) []Extent {
	if n := len(bad); n > 0 && bad[n-1].Start+bad[n-1].Length == sector {
		bad[n-1].Length++
		return bad
	}
	return append(bad, Extent{sector, 1})
}

// WriteSurface writes all of a device and then reads it, and gives the ranges that can't be
// written, or that have something else then, in sectors. Each block of 512 bytes has its own
// place in it, so that a device that is smaller than it reports is found. forget drops what
// the kernel keeps of the device. All that was on it is lost.
func WriteSurface(ctx context.Context, d Surface, f *os.File, seed uint64, forget func() error, p progress.Counter) ([]Extent, error) {
	var bad []Extent
	fill := func(b []byte, off int64) {
		for i := 0; i+8 <= len(b); i += 8 {
			binary.LittleEndian.PutUint64(b[i:], (uint64(off+int64(i))&^511)*0x9E3779B97F4A7C15^seed)
		}
	}
	buf := make([]byte, surfacePiece)
	for off := int64(0); off < d.Size() && !enough(bad); off += surfacePiece {
		if ctx.Err() != nil {
			return bad, context.Cause(ctx)
		}
		b := buf[:min(surfacePiece, d.Size()-off)]
		fill(b, off)
		for at := int64(0); at < int64(len(b)) && !enough(bad); {
			n, err := f.WriteAt(b[at:], off+at)
			if at += int64(n); err != nil {
				at -= at % d.Sector()
				bad = addBad(bad, (off+at)/d.Sector())
				at += d.Sector()
			}
		}
		if off/surfacePiece%256 == 255 {
			_ = f.Sync() // which sector it was is found when it is read
		}
		p.Add(int64(len(b)))
	}
	_ = f.Sync()
	if err := forget(); err != nil {
		return bad, err
	}
	want := make([]byte, surfacePiece)
	more, err := ReadSurface(ctx, d, func(b []byte, off int64) bool {
		fill(want[:len(b)], off)
		return bytes.Equal(b, want[:len(b)])
	}, p)
	for _, e := range more {
		if !slices.Contains(bad, e) {
			bad = append(bad, e)
		}
	}
	return bad, err
}
