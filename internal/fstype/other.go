package fstype

import (
	"encoding/binary"
	"io"
	"strings"
)

// Types of media, and those that are only recognised, so that a person can be told what is
// there.
var (
	iso9660  = Type{Name: TypeISO, Driver: "isofs", Probe: probeISO, Describe: describeISO, Medium: true, Hybrid: true, HoldsSets: true}
	udf      = Type{Name: "udf", Medium: true}
	squashfs = Type{Name: "squashfs", Title: "Squashfs", Probe: magic(0, "hsqs", "squashfs"), Medium: true}
	reiserfs = Type{Name: "reiserfs", Probe: magic(65536+52, "ReIsEr", "reiserfs")}
	bcache   = Type{Name: "bcache", Probe: magic(4096, "\xc6\x85\x73\xf6\x4e\x1a\x45\xca", "bcache")}
)

func probeISO(_ io.ReaderAt, b []byte) *Info {
	if string(b[32768:32774]) != "\x01CD001" {
		return nil
	}
	blocks := binary.LittleEndian.Uint32(b[32768+80:])
	return &Info{Type: TypeISO, Label: Text(b[32768+40 : 32768+72]), Size: int64(blocks) * 2048}
}

// magic recognises a type by the bytes at an offset.
func magic(off int, text, name string) func(io.ReaderAt, []byte) *Info {
	return func(_ io.ReaderAt, b []byte) *Info {
		if !strings.HasPrefix(string(b[off:off+8]), text) {
			return nil
		}
		return &Info{Type: name}
	}
}
