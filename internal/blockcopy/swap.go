package blockcopy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// swapMap has the header of a swap area, its first page, with UUID and label; the
// pages behind it have no meaning after a reboot. One with a hibernated system has
// another signature, and is not swap for superblock.Probe.
func swapMap(r io.ReaderAt, size int64) (*Map, error) {
	b := make([]byte, min(64<<10, size))
	if err := readFull(r, b, 0); err != nil {
		return nil, err
	}
	for _, n := range []int{4096, 8192, 16384, 65536} {
		if n > len(b) || string(b[n-10:n]) != "SWAPSPACE2" {
			continue
		}
		le := binary.LittleEndian
		if v := le.Uint32(b[1024:]); v != 1 {
			return nil, fmt.Errorf("its version is %d; 1 is known here", v)
		}
		end := (int64(le.Uint32(b[1028:])) + 1) * int64(n)
		if end > size {
			return nil, fmt.Errorf("it has %d bytes, its device %d", end, size)
		}
		m := &Map{Size: size, How: "swap header", End: end}
		m.add(0, int64(n))
		m.add(end, size-end)
		return m, nil
	}
	return nil, errors.New("it has no signature")
}
