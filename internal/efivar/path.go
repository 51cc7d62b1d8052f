package efivar

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"sync"
)

// PathText is a device path as text; UEFI specification 2.10, section 10.6, with the
// spelling of libefivar.
func PathText(b []byte) string {
	var out []string
	for len(b) >= 4 {
		n := int(binary.LittleEndian.Uint16(b[2:]))
		if n < 4 || n > len(b) || b[0] == 0x7f {
			break
		}
		out = append(out, nodeText(b[0], b[1], b[4:n]))
		b = b[n:]
	}
	return strings.Join(out, "/")
}

// node is how a node of a device path is written, if it has that many bytes.
type node struct {
	size int
	text func(b []byte) string
}

func nodeText(typ, sub byte, b []byte) string {
	if n, ok := nodes()[[2]byte{typ, sub}]; ok && len(b) >= n.size {
		return n.text(b)
	}
	return fmt.Sprintf("Path(%d,%d,%x)", typ, sub, b)
}

func guidText(b []byte) string {
	le := binary.LittleEndian
	return fmt.Sprintf("%08x-%04x-%04x-%x-%x", le.Uint32(b), le.Uint16(b[4:]), le.Uint16(b[6:]), b[8:10], b[10:16])
}

// nodes are made at the first use.
var nodes = sync.OnceValue(allNodes)

func allNodes() map[[2]byte]node {
	le := binary.LittleEndian
	named := func(name string) node {
		return node{16, func(b []byte) string { return name + "(" + guidText(b) + ")" }}
	}
	words := func(name string, n int) node {
		return node{2 * n, func(b []byte) string {
			var v []string
			for i := range n {
				v = append(v, fmt.Sprint(le.Uint16(b[2*i:])))
			}
			return name + "(" + strings.Join(v, ",") + ")"
		}}
	}
	ip := func(name string, n int) node {
		return node{2*n + 6, func(b []byte) string {
			local, _ := netip.AddrFromSlice(b[:n])
			remote, _ := netip.AddrFromSlice(b[n : 2*n])
			return fmt.Sprintf("%s(%s<->%s)", name, local, remote)
		}}
	}
	return map[[2]byte]node{
		{1, 1}: {2, func(b []byte) string { return fmt.Sprintf("Pci(0x%x,0x%x)", b[1], b[0]) }},
		{1, 4}: named("VenHw"),
		{2, 1}: {8, acpiText},
		{3, 1}: {4, func(b []byte) string { return fmt.Sprintf("Ata(%d,%d,%d)", b[0], b[1], le.Uint16(b[2:])) }},
		{3, 2}: words("SCSI", 2),
		{3, 5}: {2, func(b []byte) string { return fmt.Sprintf("USB(%d,%d)", b[0], b[1]) }},
		{3, 11}: {33, func(b []byte) string {
			n := 32
			if b[32] <= 1 {
				n = 6
			}
			return fmt.Sprintf("MAC(%x,%d)", b[:n], b[32])
		}},
		{3, 12}: ip("IPv4", 4),
		{3, 13}: ip("IPv6", 16),
		{3, 18}: words("Sata", 3),
		{3, 23}: {12, func(b []byte) string {
			return fmt.Sprintf("NVMe(0x%x,%s)", le.Uint32(b), strings.ReplaceAll(fmt.Sprintf("% X", b[4:12]), " ", "-"))
		}},
		{3, 24}: {0, func(b []byte) string { return "Uri(" + string(b) + ")" }},
		{4, 1}:  {38, diskText},
		{4, 2}: {20, func(b []byte) string {
			return fmt.Sprintf("CDROM(%d,0x%x,0x%x)", le.Uint32(b), le.Uint64(b[4:]), le.Uint64(b[12:]))
		}},
		{4, 3}: named("VenMedia"),
		{4, 4}: {0, func(b []byte) string {
			s, _, _ := parseUTF16(append(append([]byte{}, b...), 0, 0))
			return "File(" + s + ")"
		}},
		{4, 6}: named("FvFile"),
		{4, 7}: named("FvVol"),
		{5, 1}: {4, func(b []byte) string {
			typ, ok := map[uint16]string{1: "Floppy", 2: "HD", 3: "CDROM", 4: "PCMCIA", 5: "USB", 6: "Network"}[le.Uint16(b)]
			if !ok {
				typ = fmt.Sprint(le.Uint16(b))
			}
			name, _, _ := strings.Cut(string(b[4:]), "\x00")
			return fmt.Sprintf("BBS(%s,%s,0x%x)", typ, name, le.Uint16(b[2:]))
		}},
	}
}

func acpiText(b []byte) string {
	hid, uid := binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint32(b[4:])
	switch hid {
	case 0x0a0341d0:
		return fmt.Sprintf("PciRoot(0x%x)", uid)
	case 0x0a0841d0:
		return fmt.Sprintf("PcieRoot(0x%x)", uid)
	}
	return fmt.Sprintf("Acpi(0x%x,0x%x)", hid, uid)
}

// diskText is a partition: number, kind and identity of its table or itself, place.
func diskText(b []byte) string {
	le := binary.LittleEndian
	kind, id := "None", "0"
	switch b[37] {
	case 1:
		kind, id = "MBR", fmt.Sprintf("0x%x", le.Uint32(b[20:]))
	case 2:
		kind, id = "GPT", guidText(b[20:])
	}
	return fmt.Sprintf("HD(%d,%s,%s,0x%x,0x%x)", le.Uint32(b), kind, id, le.Uint64(b[4:]), le.Uint64(b[12:]))
}
