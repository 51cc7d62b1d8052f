package volume

import (
	"errors"
	"fmt"
	"io"
	"sort"
)

// Fit is how many of a stream's frames, by their lengths, go into one volume
// of at most room bytes, and the length of that volume.
func Fit(name string, frames []int64, room int64) (n int, length int64) {
	used := Header{Name: name}.Len()
	chunks, open := 0, int64(0)
	for _, f := range frames {
		c := chunks
		if open == 0 {
			c++
		}
		if used+f+int64(c)*checkLen+endLen(c) > room {
			break
		}
		used, chunks = used+f, c
		n++
		if open += f; open >= ChunkSize {
			open = 0
		}
	}
	return n, used + int64(chunks)*checkLen + endLen(chunks)
}

// File is a volume of a zstd stream that can be read at any place of it.
type File struct {
	Header Header
	End    End
	r      io.ReaderAt
	starts []int64 // of the chunks in the stream, counted from the volume's first byte
	places []int64 // of the chunks in r
}

// OpenFile reads the header and the end of a volume of size bytes.
func OpenFile(r io.ReaderAt, size int64) (*File, error) {
	h, raw, err := ReadHeader(io.NewSectionReader(r, 0, size))
	if err != nil {
		return nil, err
	}
	if h.Stored {
		return nil, errors.New("it is of a stored stream, which is read from its beginning only")
	}
	e, err := ReadEnd(r, size)
	if err != nil {
		return nil, err
	}
	f := &File{Header: h, End: e, r: r}
	at, pos := int64(len(raw)), int64(0)
	for i, n := range e.Chunks {
		if n != e.Streams[i] {
			return nil, errors.New("its last frame is damaged")
		}
		f.places, f.starts = append(f.places, at), append(f.starts, pos)
		at, pos = at+n+checkLen, pos+n
	}
	if at+endLen(len(e.Chunks)) != size {
		return nil, fmt.Errorf("it has %d bytes, and its chunks %d: cut off or added to", size, at+endLen(len(e.Chunks)))
	}
	return f, nil
}

// ReadAt reads bytes of the stream, counted from the volume's first. It
// compares nothing with digests: archives have their own.
func (f *File) ReadAt(p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) {
		i := sort.Search(len(f.starts), func(i int) bool { return f.starts[i]+f.End.Chunks[i] > off })
		if i == len(f.starts) {
			return done, io.EOF
		}
		rel := off - f.starts[i]
		n := min(int64(len(p)-done), f.End.Chunks[i]-rel)
		k, err := f.r.ReadAt(p[done:done+int(n)], f.places[i]+rel)
		done, off = done+k, off+int64(k)
		if int64(k) < n {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return done, err
		}
	}
	return done, nil
}
