package fstype

import (
	"encoding/binary"
	"fmt"
	"io"
)

// Without Mkfs: it is saved block by block. blkid(8) calls the kernel's ntfs3 ntfs.
var ntfs = Type{
	Name:     TypeNTFS,
	Probe:    probeNTFS,
	Title:    "DOS/MBR boot sector, NTFS",
	Driver:   "ntfs3",
	Drivers:  []string{"ntfs3", TypeNTFS},
	Programs: []Program{{Name: "ntfsresize", Check: "--version", Optional: true}},
	GrowBy:   []string{"ntfsresize", "--force"}, // it asks without
	BootCopy: func(b []byte) int64 {
		return int64(binary.LittleEndian.Uint64(b[40:])) * int64(binary.LittleEndian.Uint16(b[11:]))
	},
	Partclone: "NTFS",
}

func probeNTFS(_ io.ReaderAt, b []byte) *Info {
	if string(b[3:11]) != "NTFS    " {
		return nil
	}
	le := binary.LittleEndian
	// Sectors; the last one does not belong to the volume.
	return &Info{Type: TypeNTFS, UUID: fmt.Sprintf("%016X", le.Uint64(b[72:])), Size: int64(le.Uint64(b[40:])+1) * int64(le.Uint16(b[11:]))}
}
