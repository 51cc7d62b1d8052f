package partclone

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"strings"
)

// Constants of the format, from partclone's src/partclone.h (version 0.3.47):
// IMAGE_MAGIC, BIT_MAGIC, ENDIAN_MAGIC, MAX_BLOCK_SIZE, and the packed structures
// image_desc_v1 and image_desc_v2. IMAGE_FORMATS.md there describes the same bytes, but
// its numbers of checksum modes are those of the command line.
const (
	magic       = "partclone-image"
	bitMagic    = "BiTmAgIc"
	endianMagic = 0xC0DE
	sizeV1      = 4160
	sizeV2      = 110
	featuresV2  = 18 // sizeof(image_options_v2)
	maxBlock    = 64 << 20
)

// Limits of this reader. maxBlocks are the blocks of 1 PiB at 4 KiB, or of 128 TiB at 512
// bytes, and a bitmap of 32 GiB; the map of version 1 has a byte per block.
const (
	maxBlocks   = 1 << 38
	maxBlocksV1 = 1 << 34
)

// Checksum is the way in which the data is secured.
type Checksum uint16

// The checksums of checksum_mode_enum in partclone's src/checksum.h.
const (
	None   Checksum = 0x00
	CRC32  Checksum = 0x20
	XXH64  Checksum = 0x30
	XXH128 Checksum = 0x31 // since 0.3.46; Clonezilla's default (-a3)
	// CRC32First is that of version 1: by a bug it covers only the first byte of each
	// block, over and over (crc32_0001).
	CRC32First Checksum = 0xFF
)

func (c Checksum) String() string {
	switch c {
	case None:
		return "none"
	case CRC32:
		return "CRC32"
	case XXH64:
		return "XXH64"
	case XXH128:
		return "XXH128"
	case CRC32First:
		return "CRC32 of first bytes"
	}
	return fmt.Sprintf("checksum mode 0x%02x", uint16(c))
}

// Size is how many bytes a checksum takes in the image, -1 for an unknown one.
func (c Checksum) Size() int {
	switch c {
	case None:
		return 0
	case CRC32, CRC32First:
		return 4
	case XXH64:
		return 8
	case XXH128:
		return 16
	}
	return -1
}

// Bitmap is the form of the map of used blocks.
type Bitmap uint8

// The forms of bitmap_mode_t in partclone's src/partclone.h.
const (
	BitmapNone Bitmap = 0x00 // all blocks are used
	BitmapBit  Bitmap = 0x01
	BitmapByte Bitmap = 0x08
)

// Header is the description of an image. Sizes are in bytes.
type Header struct {
	Version   int    // 1 or 2
	Partclone string // version of the program that wrote it, "0.3.23"; "" in version 1
	// FS is the type of the file system as partclone calls it: "EXTFS", "XFS", "BTRFS",
	// "NTFS", "FAT", "raw" ... (the names end in _MAGIC in partclone.h).
	FS         string
	DeviceSize int64
	BlockSize  int64
	Blocks     int64
	// UsedBlocks is the number of blocks in the map, which are those in the image.
	UsedBlocks int64
	// SuperBlockUsed is how many the file system's own superblock counted.
	SuperBlockUsed int64
	CPUBits        int // of the program that wrote it; 0 in version 1
	Checksum       Checksum
	// BlocksPerChecksum is how many used blocks a checksum covers, wherever they are on
	// the device; 0 without checksums.
	BlocksPerChecksum int64
	// Reseed is set if each checksum covers only the blocks since the one before; else
	// it covers all from the first.
	Reseed bool
	Bitmap Bitmap
}

// Size is where the last block ends: what a device must have to take the image.
func (h *Header) Size() int64 { return h.Blocks * h.BlockSize }

var le = binary.LittleEndian

// sum is partclone's CRC32 of b: seed 0xFFFFFFFF as usual, but not inverted at the end
// (crc32 in src/checksum.c).
func sum(b []byte) uint32 { return ^crc32.ChecksumIEEE(b) }

// parse reads a header of version 1 or 2, whose first sizeV2 bytes are b; more gives
// the next n bytes.
func parse(b []byte, more func(n int) ([]byte, error)) (*Header, error) {
	if string(b[:len(magic)]) != magic {
		return nil, ErrNoImage
	}
	switch v := string(b[30:34]); v {
	case "0001":
		if _, err := more(sizeV1 - sizeV2); err != nil { // 4096 unused bytes
			return nil, err
		}
		return parseV1(b)
	case "0002":
		return parseV2(b)
	default:
		return nil, fmt.Errorf("image version %q is not supported; 0001 and 0002 are", v)
	}
}

func parseV1(b []byte) (*Header, error) {
	h := &Header{Version: 1, Checksum: CRC32First, BlocksPerChecksum: 1, Bitmap: BitmapByte}
	used, total := le.Uint64(b[56:]), le.Uint64(b[48:])
	if total > maxBlocksV1 {
		return nil, fmt.Errorf("%d blocks: more than %d are not read", total, int64(maxBlocksV1))
	}
	return h, h.set(text(b[15:30]), le.Uint64(b[40:]), total, used, used, le.Uint32(b[36:]))
}

func parseV2(b []byte) (*Header, error) {
	switch e := le.Uint16(b[34:]); e {
	case endianMagic:
	case 0xDEC0:
		return nil, errors.New("image was made on a big-endian machine; only partclone on such a machine can restore it")
	default:
		return nil, fmt.Errorf("byte order mark is 0x%04x, not 0x%04x", e, endianMagic)
	}
	if got, want := sum(b[:sizeV2-4]), le.Uint32(b[sizeV2-4:]); got != want {
		return nil, fmt.Errorf("header is damaged: its CRC32 is %08x, not %08x", got, want)
	}
	h := &Header{
		Version: 2, Partclone: text(b[16:30]), CPUBits: int(le.Uint16(b[94:])),
		Checksum: Checksum(le.Uint16(b[96:])), BlocksPerChecksum: int64(le.Uint32(b[100:])),
		Reseed: b[104] != 0, Bitmap: Bitmap(b[105]),
	}
	if n, v := le.Uint32(b[88:]), le.Uint16(b[92:]); n != featuresV2 || v != 2 {
		return nil, fmt.Errorf("features of %d bytes for version %d; %d bytes for version 2 are supported", n, v, featuresV2)
	}
	switch size := int(le.Uint16(b[98:])); {
	case h.Checksum == CRC32First || h.Checksum.Size() < 0:
		return nil, fmt.Errorf("checksum mode 0x%02x is not supported", uint16(h.Checksum))
	case size != h.Checksum.Size():
		return nil, fmt.Errorf("%s checksums of %d bytes; they have %d", h.Checksum, size, h.Checksum.Size())
	case h.Checksum == None:
		h.BlocksPerChecksum = 0
	case h.BlocksPerChecksum == 0:
		return nil, fmt.Errorf("%s checksums of 0 blocks each", h.Checksum)
	}
	switch h.Bitmap {
	case BitmapNone, BitmapBit:
	case BitmapByte:
		// write_image_bitmap ends it with a CRC32, load_image_bitmap_bytes expects
		// BiTmAgIc: no version of partclone can read such an image.
		return nil, errors.New("bitmap of bytes in an image of version 2: partclone does not write such images")
	default:
		return nil, fmt.Errorf("bitmap mode 0x%02x is not supported", uint8(h.Bitmap))
	}
	if !ascii(h.Partclone) {
		return nil, fmt.Errorf("version of partclone is %q", h.Partclone)
	}
	return h, h.set(text(b[36:52]), le.Uint64(b[52:]), le.Uint64(b[60:]), le.Uint64(b[76:]), le.Uint64(b[68:]), le.Uint32(b[84:]))
}

// set checks and takes the description of the file system: the conditions of
// load_image_desc_v2, and limits of this reader.
func (h *Header) set(fs string, device, blocks, used, super uint64, size uint32) error {
	switch {
	case !ascii(fs):
		return fmt.Errorf("file system type is %q", fs)
	case size == 0 || size%512 != 0 || size > maxBlock:
		return fmt.Errorf("block size %d is not a multiple of 512 up to %d", size, maxBlock)
	case blocks == 0:
		return errors.New("file system of 0 blocks")
	case blocks > maxBlocks:
		return fmt.Errorf("%d blocks: more than %d are not read", blocks, int64(maxBlocks))
	case device > math.MaxInt64:
		return fmt.Errorf("device size %d is not possible", device)
	case blocks > device/uint64(size): // no overflow, unlike a product
		return fmt.Errorf("%d blocks of %d bytes are more than the device, which has %d bytes", blocks, size, device)
	case used > blocks:
		return fmt.Errorf("%d used blocks of %d", used, blocks)
	}
	h.FS, h.DeviceSize, h.Blocks, h.UsedBlocks, h.BlockSize = fs, int64(device), int64(blocks), int64(used), int64(size)
	h.SuperBlockUsed = int64(min(super, math.MaxInt64))
	return nil
}

// text is a C string in a field of fixed size.
func text(b []byte) string {
	s, _, _ := strings.Cut(string(b), "\x00")
	return s
}

func ascii(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' })
}
