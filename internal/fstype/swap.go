package fstype

import (
	"encoding/binary"
	"io"
)

// Swap areas are made by package recreate, without a program.
var swap = Type{Name: TypeSwap, Probe: probeSwap, Describe: describeSwap, Version: func(*Info) string { return "1" }}

func probeSwap(_ io.ReaderAt, b []byte) *Info {
	for _, page := range []int{4096, 8192, 16384, 65536} {
		if string(b[page-10:page]) == "SWAPSPACE2" {
			last := int64(binary.LittleEndian.Uint32(b[1028:]))
			return &Info{Type: TypeSwap, UUID: UUID(b[1036:]), Label: Text(b[1052:1068]), Size: (last + 1) * int64(page)}
		}
	}
	return nil
}
