// Package unpack reads what is compressed in one of the ways that the kernel
// knows for itself and its initramfs.
package unpack

import (
	"bytes"
	"compress/bzip2"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/ulikunitz/xz"
	"github.com/ulikunitz/xz/lzma"
)

// XZ decompresses r, which should have a buffer. A stream has in its header how large its
// dictionary is, 1 MiB for kernel modules; the library's default, 8 MiB, would be
// cleared for each of some hundred files.
func XZ(r io.Reader) (io.Reader, error) {
	return xz.ReaderConfig{DictCap: lzma.MinDictCap}.NewReader(r)
}

// HeadLen is how many bytes tell the way.
const HeadLen = 6

// Reader decompresses r, whose first bytes head are still to be read from it.
func Reader(r io.Reader, head []byte) (io.Reader, error) {
	has := func(magic string) bool { return bytes.HasPrefix(head, []byte(magic)) }
	switch {
	case has(lzopMagic[:HeadLen]):
		return LZOP(r)
	case has("\x1f\x8b"):
		return gzip.NewReader(r)
	case has("\xfd7zXZ"):
		return XZ(r)
	case has("\x28\xb5\x2f\xfd"):
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(256<<20))
		if err != nil {
			return nil, err
		}
		return z, nil
	case has("\x02\x21\x4c\x18"), has("\x04\x22\x4d\x18"):
		return lz4.NewReader(r), nil
	case has("BZh"):
		return bzip2.NewReader(r), nil
	case has("\x5d\x00\x00"):
		return lzma.NewReader(r)
	}
	return nil, fmt.Errorf("it begins with %x, which is not a compression that the kernel knows", head)
}
