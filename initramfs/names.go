package initramfs

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/ulikunitz/xz"
	"github.com/ulikunitz/xz/lzma"
)

// Names lists the paths in any distribution's initramfs: cpio archives one
// after the other, the early ones (microcode) plain, the last one compressed
// in one of the ways that the kernel knows.
func Names(r io.Reader) ([]string, error) {
	br := bufio.NewReaderSize(r, 1<<20)
	var out []string
	for {
		b, err := br.Peek(6)
		if len(b) == 0 {
			if err == io.EOF && len(out) > 0 {
				return out, nil
			}
			return nil, fmt.Errorf("cannot read initramfs: %w", errors.Join(io.ErrUnexpectedEOF, err))
		}
		if b[0] == 0 {
			_, _ = br.Discard(1) // it was peeked
			continue
		}
		if string(b) == "070701" || string(b) == "070702" {
			if err := cpioNames(br, &out); err != nil {
				return nil, fmt.Errorf("cannot read initramfs: %w", err)
			}
			continue
		}
		z, err := unpacker(br, b)
		if err == nil {
			in := bufio.NewReaderSize(z, 1<<20)
			for err == nil {
				if err = skipZeros(in); err == nil {
					err = cpioNames(in, &out)
				}
			}
		}
		// What follows the last archive is no concern of ours.
		if len(out) == 0 || err != io.EOF && !errors.Is(err, errTail) {
			return nil, fmt.Errorf("cannot read initramfs: %w", err)
		}
		return out, nil
	}
}

var errTail = errors.New("something else follows")

func unpacker(r io.Reader, head []byte) (io.Reader, error) {
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		return gzip.NewReader(r)
	case bytes.HasPrefix(head, []byte("\xfd7zXZ")):
		return xz.NewReader(r)
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(256<<20))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	case bytes.HasPrefix(head, []byte{0x02, 0x21, 0x4c, 0x18}), bytes.HasPrefix(head, []byte{0x04, 0x22, 0x4d, 0x18}):
		return lz4.NewReader(r), nil
	case bytes.HasPrefix(head, []byte("BZh")):
		return bzip2.NewReader(r), nil
	case bytes.HasPrefix(head, []byte{0x5d, 0, 0}):
		return lzma.NewReader(r)
	}
	return nil, fmt.Errorf("it begins with %x, which is no compression the kernel knows", head)
}

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
func cpioNames(r *bufio.Reader, out *[]string) error {
	for {
		h := make([]byte, 110)
		if _, err := io.ReadFull(r, h); err != nil {
			return fmt.Errorf("it is cut off: %w", err)
		}
		if m := string(h[:6]); m != "070701" && m != "070702" {
			if len(*out) > 0 {
				return errTail
			}
			return fmt.Errorf("%q is no newc header", h[:6])
		}
		size, err := strconv.ParseUint(string(h[54:62]), 16, 32)
		if err != nil {
			return err
		}
		nameLen, err := strconv.ParseUint(string(h[94:102]), 16, 32)
		if err != nil || nameLen == 0 || nameLen > 4096 {
			return fmt.Errorf("a name of %d bytes", nameLen)
		}
		name := make([]byte, (110+int(nameLen)+3)&^3-110)
		if _, err := io.ReadFull(r, name); err != nil {
			return fmt.Errorf("it is cut off: %w", err)
		}
		n := string(name[:nameLen-1])
		if n == "TRAILER!!!" {
			return nil
		}
		if _, err := io.CopyN(io.Discard, r, int64((size+3)&^3)); err != nil {
			return fmt.Errorf("%s is cut off: %w", n, err)
		}
		*out = append(*out, n)
	}
}
