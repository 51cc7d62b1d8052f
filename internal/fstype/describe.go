package fstype

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// Description is what file(1) prints of one, by the first bytes of its device.
func (t *Type) Description(i *Info, head []byte) string {
	if len(head) < HeadLen {
		head = append(head[:len(head):len(head)], make([]byte, HeadLen-len(head))...)
	}
	if t.Describe != nil {
		return t.Describe(i, head)
	}
	s := t.Title
	if s == "" {
		s = t.Name
	}
	if s += " filesystem"; i.UUID != "" {
		s += ", UUID=" + i.UUID
	}
	if i.Label != "" {
		s += fmt.Sprintf(", volume name \"%s\"", i.Label)
	}
	return s
}

// describeExt has the superblock of Documentation/filesystems/ext4.
func describeExt(i *Info, b []byte) string {
	le := binary.LittleEndian
	s := fmt.Sprintf("Linux rev %d.%d %s filesystem data", le.Uint32(b[0x44c:]), le.Uint16(b[0x43e:]), i.Type)
	flag := func(set bool, text string) {
		if set {
			s += " (" + text + ")"
		}
	}
	state, incompat, compat := le.Uint16(b[0x43a:]), le.Uint32(b[0x460:]), le.Uint32(b[0x464:])
	flag(state&1 == 0, "mounted or unclean")
	flag(state&2 != 0, "errors")
	flag(incompat&4 != 0, "needs journal recovery")
	s += ", UUID=" + i.UUID
	if i.Label != "" {
		s += fmt.Sprintf(", volume name \"%s\"", i.Label)
	}
	flag(incompat&0x40 != 0, "extents")
	flag(incompat&0x80 != 0, "64bit")
	flag(compat&2 != 0, "large files")
	flag(compat&8 != 0, "huge files")
	return s
}

func describeXFS(_ *Info, b []byte) string {
	be := binary.BigEndian
	return fmt.Sprintf("SGI XFS filesystem data (blksz %d, inosz %d, %s dirs)", be.Uint32(b[4:]), be.Uint16(b[104:]), map[bool]string{true: "v2", false: "v1"}[be.Uint16(b[100:])&0x2000 != 0])
}

func describeBtrfs(i *Info, b []byte) string {
	le := binary.LittleEndian
	s := "BTRFS Filesystem"
	if i.Label != "" {
		s += fmt.Sprintf(" label %q,", i.Label)
	}
	b = b[65536:]
	return s + fmt.Sprintf(" sectorsize %d, nodesize %d, leafsize %d, UUID=%s, %d/%d bytes used, %d devices", le.Uint32(b[0x90:]), le.Uint32(b[0x94:]), le.Uint32(b[0x98:]), i.UUID, le.Uint64(b[0x78:]), le.Uint64(b[0x70:]), le.Uint64(b[0x88:]))
}

func describeSwap(i *Info, b []byte) string {
	le := binary.LittleEndian
	label := "no label"
	if i.Label != "" {
		label = "LABEL=" + i.Label
	}
	page := 4
	for page < 64 && !strings.HasPrefix(string(b[page<<10-10:]), "SWAPSPACE2") {
		page *= 2
	}
	return fmt.Sprintf("Linux swap file, %dk page size, little endian, version %d, size %d pages, %d bad pages, %s, UUID=%s", page, le.Uint32(b[1024:]), le.Uint32(b[1028:]), le.Uint32(b[1032:]), label, i.UUID)
}

func describeF2FS(i *Info, _ []byte) string {
	return fmt.Sprintf("F2FS filesystem, UUID=%s, volume name \"%s\"", i.UUID, i.Label)
}

func describeJFS(_ *Info, b []byte) string {
	return fmt.Sprintf("JFS2 filesystem image, %d blocks, blocksize %d", binary.LittleEndian.Uint64(b[32776:]), binary.LittleEndian.Uint32(b[32784:]))
}

func describeISO(i *Info, b []byte) string {
	s := "ISO 9660 CD-ROM filesystem data"
	if b[510] == 0x55 && b[511] == 0xaa {
		s += " (DOS/MBR boot sector)"
	}
	s += " '" + strings.TrimRight(i.Label, " ") + "'"
	if strings.HasPrefix(string(b[0x8801:0x8820]), "CD001\x01EL TORITO") {
		s += " (bootable)"
	}
	return s
}
