package clonezilla

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/mkcdrec/mkcdrec/internal/unpack"
)

// Stream returns the content of an image decompressed, its parts one after the other: an
// image to be read by partclone.Open, or the bytes of a device for Raw. It is to be read
// to its end, where compression formats have their checksums.
func (s *Set) Stream(i *Image) (io.ReadCloser, error) {
	r, err := s.stream(i)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", i.Name, err)
	}
	return r, nil
}

func (s *Set) stream(i *Image) (io.ReadCloser, error) {
	if i.Refused != "" {
		return nil, errors.New(i.Refused)
	}
	p := &joined{s: s, files: i.Files}
	in := bufio.NewReaderSize(p, 256<<10)
	out := &stream{in: p, Reader: in}
	if i.Compression == "uncomp" {
		return out, nil
	}
	head, err := in.Peek(unpack.HeadLen)
	if err != nil && err != io.EOF {
		p.Close()
		return nil, err
	}
	if i.Compression == "" && !compressed(head) {
		return out, nil
	}
	if want := magics[i.Compression]; len(head) < len(want) || string(head[:len(want)]) != want {
		p.Close()
		return nil, fmt.Errorf("begins with %x, which is not %s", head, i.Compression)
	}
	if out.Reader, err = unpack.Reader(in, head); err != nil {
		p.Close()
		return nil, err
	}
	return out, nil
}

// magics are the first bytes of the compression formats that unpack.Reader knows:
// RFC 1952, the xz and lz4 frame formats, RFC 8878, bzip2, lzop, and lzma with the properties
// that unlzma(1) writes.
var magics = map[string]string{"gz": "\x1f\x8b", "xz": "\xfd7zXZ", "zst": "\x28\xb5\x2f\xfd", "lz4": "\x04\x22\x4d\x18", "bz2": "BZh", "lzma": "\x5d\x00\x00", "lzo": "\x89LZO\x00\r"}

// compressed returns the compression of an old image, whose name does not have it, as
// Clonezilla asks file(1).
func compressed(head []byte) bool {
	for _, m := range magics {
		if len(head) >= len(m) && string(head[:len(m)]) == m {
			return true
		}
	}
	return false
}

type stream struct {
	io.Reader
	in *joined
}

func (s *stream) Close() error {
	if c, ok := s.Reader.(interface{ Close() }); ok { // zstd.Decoder
		c.Close()
	}
	return s.in.Close()
}

// joined reads files one after the other.
type joined struct {
	s     *Set
	files []string
	f     fs.File
}

func (j *joined) Read(p []byte) (int, error) {
	for {
		if j.f == nil {
			if len(j.files) == 0 {
				return 0, io.EOF
			}
			var err error
			if j.f, err = j.s.open(j.files[0]); err != nil {
				return 0, err
			}
			j.files = j.files[1:]
		}
		n, err := j.f.Read(p)
		if err == io.EOF {
			err = j.Close()
			if n == 0 && err == nil {
				continue
			}
		}
		return n, err
	}
}

func (j *joined) Close() error {
	if j.f == nil {
		return nil
	}
	err := j.f.Close()
	j.f = nil
	return err
}
