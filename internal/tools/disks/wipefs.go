package disks

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/tools"
)

// magic is a signature of a file system or table and where it is, bytes; negative from the end.
type magic struct {
	typ   string
	at    int64
	bytes string
}

func magics() []magic {
	return []magic{
		{"ext4", 0x438, "\x53\xef"}, {"xfs", 0, "XFSB"}, {"btrfs", 0x10040, "_BHRfS_M"}, {"f2fs", 0x400, "\x10\x20\xf5\xf2"}, {"nilfs2", 0x406, "\x34\x34"}, {"jfs", 0x8000, "JFS1"},
		{"vfat", 0x36, "FAT12   "}, {"vfat", 0x36, "FAT16   "}, {"vfat", 0x52, "FAT32   "}, {"ntfs", 3, "NTFS    "}, {"exfat", 3, "EXFAT   "}, {"iso9660", 0x8001, "CD001"}, {"squashfs", 0, "hsqs"}, {"reiserfs", 0x10034, "ReIsEr2Fs"},
		{"swap", 0xff6, "SWAPSPACE2"}, {"LVM2_member", 0x218, "LVM2 001"}, {"LVM2_member", 0x18, "LVM2 001"}, {"crypto_LUKS", 0, "LUKS\xba\xbe"}, {"crypto_LUKS", 0x4000, "SKUL\xba\xbe"},
		{"linux_raid_member", 0x1000, "\xfc\x4e\x2b\xa9"}, {"linux_raid_member", 0, "\xfc\x4e\x2b\xa9"}, {"linux_raid_member", -0x2000, "\xfc\x4e\x2b\xa9"}, {"linux_raid_member", -0x10000, "\xfc\x4e\x2b\xa9"},
		{"zfs_member", 0x20000, "\x0c\xb1\xba\x00\x00\x00\x00\x00"}, {"gpt", 0x200, "EFI PART"}, {"gpt", 0x1000, "EFI PART"}, {"gpt", -0x200, "EFI PART"}, {"gpt", -0x1000, "EFI PART"}, {"dos", 0x1fe, "\x55\xaa"},
	}
}

// signatures finds the magic numbers on a device. The boot signature is that of a FAT or
// an MBR; beside a GPT it is the protective one.
func signatures(f io.ReaderAt, size int64) []magic {
	var out []magic
	for _, m := range magics() {
		if m.at < 0 {
			// MD aligns its place at the end: 8 KiB to 12 KiB before it, on 4 KiB.
			m.at += size
			if m.typ == "linux_raid_member" && m.at > 0 {
				m.at &^= 0xfff
			}
		}
		b := make([]byte, len(m.bytes))
		if m.at < 0 || m.at+int64(len(b)) > size {
			continue
		}
		if _, err := f.ReadAt(b, m.at); err != nil || string(b) != m.bytes {
			continue
		}
		has := func(typ string) bool { return slices.ContainsFunc(out, func(x magic) bool { return x.typ == typ }) }
		if m.typ == "dos" {
			switch {
			case has("gpt"):
				m.typ = "PMBR"
			case has("vfat"):
				m.typ = "vfat"
			case has("ntfs") || has("exfat"):
				continue
			}
		}
		out = append(out, m)
	}
	return out
}

func wipefs(e *tools.Env) error {
	if err := e.Need(1, -1); err != nil {
		return tools.Usage("no device specified")
	}
	var rows [][]string
	for _, p := range e.Args {
		found, err := wipe(e, p)
		if err != nil {
			e.Warn("%v", err)
			continue
		}
		uuid, label := "", ""
		i := look(p)
		if i != nil {
			uuid, label = i.UUID, i.Label
		}
		for _, m := range found {
			r := []string{filepath.Base(p), fmt.Sprintf("0x%x", m.at), m.typ, "", ""}
			if i != nil && (i.Type == m.typ || m.typ == "ext4" && i.Ext != nil) {
				r[2], r[3], r[4] = i.Type, uuid, label
			}
			rows = append(rows, r)
		}
	}
	if len(rows) > 0 && !e.On("a", "o") {
		table(e, []string{"DEVICE", "OFFSET", "TYPE", "UUID", "LABEL"}, rows, nil, e.On("i"), false)
	}
	return nil
}

// wipe finds the signatures of a device and, with -a or -o, overwrites them.
func wipe(e *tools.Env, p string) ([]magic, error) {
	erase := e.On("a", "o")
	var f *os.File
	var err error
	if erase && !e.On("n", "f") {
		f, err = openExclusive(p)
	} else {
		f, err = os.OpenFile(p, map[bool]int{true: os.O_RDWR, false: os.O_RDONLY}[erase && !e.On("n")], 0)
	}
	if err != nil {
		return nil, fmt.Errorf("error: %s: probing initialization failed: %s", p, tools.Cause(err))
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	found := signatures(f, size)
	if t := e.Val("t"); t != "" {
		found = slices.DeleteFunc(found, func(m magic) bool { return !slices.Contains(strings.Split(t, ","), m.typ) })
	}
	if o := e.Val("o"); o != "" {
		at, err := strconv.ParseInt(o, 0, 64)
		if err != nil {
			return nil, fmt.Errorf("failed to parse offset '%s'", o)
		}
		found = slices.DeleteFunc(found, func(m magic) bool { return m.at != at })
	}
	if !erase {
		return found, nil
	}
	for _, m := range found {
		if !e.On("n") {
			if _, err := f.WriteAt(make([]byte, len(m.bytes)), m.at); err != nil {
				return nil, err
			}
		}
		if !e.On("q") {
			typ := m.typ
			e.Printf("%s: %d bytes were erased at offset 0x%08x (%s): % x\n", p, len(m.bytes), m.at, typ, m.bytes)
		}
	}
	if e.On("n") {
		return found, nil
	}
	return found, f.Sync()
}
