package initramfs

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"

	"github.com/u-root/u-root/pkg/cpio"

	"github.com/mkcdrec/mkcdrec/internal/unpack"
)

// Names lists the paths in any distribution's initramfs: cpio archives one
// after the other, the early ones (microcode) plain, the last one compressed
// in one of the ways that the kernel knows.
func Names(r io.Reader) ([]string, error) {
	out, err := list(r, func(string) bool { return false })
	return out.names, err
}

// maxKept is the size of the largest file that Contents gives, bytes: configuration.
const maxKept = 1 << 20

// Contents gives the regular files of any distribution's initramfs for whose paths
// want is true, by path without a slash at the beginning. Files of more than 1 MiB
// are left out. Of two with one path the last counts, as for the kernel.
func Contents(r io.Reader, want func(path string) bool) (map[string][]byte, error) {
	out, err := list(r, want)
	return out.files, err
}

// listing is what an initramfs has in it.
type listing struct {
	names []string
	want  func(path string) bool
	files map[string][]byte
}

func list(r io.Reader, want func(string) bool) (listing, error) {
	br := bufio.NewReaderSize(r, 1<<20)
	out := listing{want: want, files: map[string][]byte{}}
	for {
		b, err := br.Peek(unpack.HeadLen)
		if len(b) == 0 {
			if err == io.EOF && len(out.names) > 0 {
				return out, nil
			}
			return listing{}, fmt.Errorf("cannot read initramfs: %w", errors.Join(io.ErrUnexpectedEOF, err))
		}
		if b[0] == 0 {
			_, _ = br.Discard(1) // it was peeked
			continue
		}
		if string(b) == "070701" || string(b) == "070702" {
			if err := cpioNames(br, &out); err != nil {
				return listing{}, fmt.Errorf("cannot read initramfs: %w", err)
			}
			continue
		}
		z, err := unpack.Reader(br, b)
		if err == nil {
			in := bufio.NewReaderSize(z, 1<<20)
			for err == nil {
				if err = skipZeros(in); err == nil {
					err = cpioNames(in, &out)
				}
			}
		}
		// What follows the last archive is not looked at.
		if len(out.names) == 0 || err != io.EOF && !errors.Is(err, errTail) {
			return listing{}, fmt.Errorf("cannot read initramfs: %w", err)
		}
		return out, nil
	}
}

var errTail = errors.New("something else follows")

// skipZeros passes the padding between archives.
func skipZeros(r *bufio.Reader) error {
	for {
		b, err := r.Peek(1)
		if err != nil {
			return err
		}
		if b[0] != 0 {
			return nil
		}
		_, _ = r.Discard(1) // it was peeked
	}
}

// cpioNames reads one archive up to its trailer.
func cpioNames(r *bufio.Reader, out *listing) error {
	for {
		h, err := readRecord(r)
		if errors.Is(err, errRecord) && len(out.names) > 0 {
			return errTail
		}
		if err != nil {
			return err
		}
		if h.name == "TRAILER!!!" {
			return nil
		}
		var to io.Writer = io.Discard
		var b bytes.Buffer
		name := strings.TrimLeft(path.Clean("/"+h.name), "/")
		if h.regular && h.size <= maxKept && out.want(name) {
			to = &b
		}
		if _, err := io.CopyN(to, r, h.padded()); err != nil {
			return fmt.Errorf("%s is cut off: %w", h.name, err)
		}
		if to != io.Discard {
			out.files[name] = b.Bytes()[:h.size]
		}
		out.names = append(out.names, h.name)
	}
}

// record is the header of a file in a cpio archive, newc format;
// Documentation/driver-api/early-userspace/buffer-format.rst.
type record struct {
	name    string
	size    int64
	regular bool
}

// padded is the length of the file's data in the archive.
func (h record) padded() int64 { return (h.size + 3) &^ 3 }

var errRecord = errors.New("no newc header")

// readRecord reads up to where a file's data begins.
func readRecord(r io.Reader) (record, error) {
	h := make([]byte, 110)
	if _, err := io.ReadFull(r, h); err != nil {
		return record{}, fmt.Errorf("it is cut off: %w", err)
	}
	if m := string(h[:6]); m != "070701" && m != "070702" {
		return record{}, fmt.Errorf("%q is %w", h[:6], errRecord)
	}
	var f [13]uint64
	for i := range f {
		var err error
		if f[i], err = strconv.ParseUint(string(h[6+8*i:14+8*i]), 16, 32); err != nil {
			return record{}, err
		}
	}
	mode, size, nameLen := f[1], f[6], int(f[11])
	if nameLen == 0 || nameLen > 4096 {
		return record{}, fmt.Errorf("a name of %d bytes", nameLen)
	}
	name := make([]byte, (110+nameLen+3)&^3-110)
	if _, err := io.ReadFull(r, name); err != nil {
		return record{}, fmt.Errorf("it is cut off: %w", err)
	}
	return record{string(name[:nameLen-1]), int64(size), mode&cpio.S_IFMT == cpio.S_IFREG}, nil
}
