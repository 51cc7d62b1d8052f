// Package superblock recognises what is on a block device from its first
// bytes, and reads what is needed to make the same file system again. It only
// reads; the data may be anything.
package superblock

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"

	"github.com/mkcdrec/mkcdrec/internal/fstype"
)

// Types of containers; those of file systems are in package fstype.
const (
	TypeLVM  = "LVM2_member"
	TypeLUKS = "crypto_LUKS"
	TypeMD   = "linux_raid_member"
)

// Info is what a device holds: a file system or a container. At most one of the
// pointers is set.
type Info struct {
	fstype.Info
	MD   *MD
	LUKS *LUKS
}

// MD is the superblock of a member of a RAID array; names as in md(4) and
// mdadm(8), bytes as in linux/raid/md_p.h.
type MD struct {
	Metadata string // "0.90", "1.0", "1.1", "1.2"
	UUID     string // of the array, as mdadm writes it: four times 8 digits
	Name     string // "host:0"; "" with metadata 0.90
	Minor    int    // 4 for /dev/md4, with metadata 0.90 only
	Level    int    // 0, 1, 4, 5, 6, 10; -1 linear
	Layout   int
	Chunk    int64 // bytes
	Devices  int   // of the array, without spares
	Role     int   // of this member; -1 spare, -2 faulty
	Data     int64 // where data begins on the member, bytes
	Size     int64 // of each member's data that is used, bytes
	Bitmap   bool  // an internal write-intent bitmap
}

// headLen covers every magic but that of MD 0.90 and 1.0, at the end.
const headLen = fstype.HeadLen

// Probe recognises what r of size bytes holds; nil when it is nothing known.
// Errors are those of reading.
func Probe(r io.ReaderAt, size int64) (*Info, error) {
	b := make([]byte, min(headLen, max(size, 0)))
	if n, err := r.ReadAt(b, 0); err != nil && (err != io.EOF || n == 0) {
		return nil, fmt.Errorf("cannot read the start of the device: %w", err)
	}
	if len(b) < headLen {
		b = append(b, make([]byte, headLen-len(b))...)
	}
	if i := probeEnd(r, size); i != nil {
		return i, nil
	}
	// Order matters: containers before what their data may look like.
	for _, p := range []func([]byte) *Info{probeLUKS, probeMD, probeLVM} {
		if i := p(b); i != nil {
			return i, nil
		}
	}
	if i := fstype.Probe(r, b); i != nil {
		return &Info{Info: *i}, nil
	}
	return nil, nil
}

// ProbePath is Probe of the device or file with that path.
func ProbePath(path string) (*Info, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	return Probe(f, size)
}

func probeLVM(b []byte) *Info {
	for s := 0; s < 4; s++ {
		l := b[s*512 : s*512+512]
		if string(l[:8]) != "LABELONE" || string(l[24:32]) != "LVM2 001" {
			continue
		}
		o := binary.LittleEndian.Uint32(l[20:])
		if o > 480 {
			return nil
		}
		u := string(l[o : o+32])
		for _, c := range []byte(u) {
			if c < '!' || c > '~' {
				return nil
			}
		}
		return &Info{Info: fstype.Info{Type: TypeLVM, UUID: u[:6] + "-" + u[6:10] + "-" + u[10:14] + "-" + u[14:18] + "-" + u[18:22] + "-" + u[22:26] + "-" + u[26:]}}
	}
	return nil
}

// LUKS is the header of an encrypted device; names as in cryptsetup(8).
type LUKS struct {
	Version    int    `json:"version"` // 1 or 2
	Cipher     string `json:"cipher"`  // "aes-xts-plain64"
	Hash       string `json:"hash"`    // of the first keyslot, or of the header
	KeySize    int64  `json:"keySize"` // of the volume key, bits
	SectorSize int64  `json:"sectorSize"`
	Offset     int64  `json:"offset"` // where data begins, bytes
	// Fixed is set if the size of what is encrypted is written in the header.
	Fixed bool `json:"fixed,omitempty"`
	// Why, if not "", is why such a device can't be made again.
	Why string `json:"-"`
}

// probeLUKS reads LUKS1 (LUKS On-Disk Format Specification 1.2.3, §2) and LUKS2
// (LUKS2 On-Disk Format Specification 1.1, §2 and 3).
func probeLUKS(b []byte) *Info {
	if string(b[:6]) != "LUKS\xba\xbe" {
		return nil
	}
	be := binary.BigEndian
	i := &Info{Info: fstype.Info{Type: TypeLUKS, UUID: fstype.Text(b[168:208])}, LUKS: &LUKS{Version: int(be.Uint16(b[6:]))}}
	l := i.LUKS
	switch l.Version {
	case 1:
		l.Cipher = fstype.Text(b[8:40]) + "-" + fstype.Text(b[40:72])
		l.Hash, l.KeySize, l.SectorSize, l.Offset = fstype.Text(b[72:104]), int64(be.Uint32(b[108:]))*8, 512, int64(be.Uint32(b[104:]))*512
	case 2:
		i.Label = fstype.Text(b[24:72])
		l.readJSON(b[4096:])
	default:
		l.Why = fmt.Sprintf("its version is %d", l.Version)
	}
	return i
}

// readJSON reads LUKS2's second part.
func (l *LUKS) readJSON(b []byte) {
	type object map[string]any
	var h struct {
		Keyslots map[string]struct {
			KeySize int64 `json:"key_size"`
			AF      struct{ Hash string }
		}
		Segments map[string]struct {
			Type, Offset, Size, Encryption string
			SectorSize                     int64 `json:"sector_size"`
			Integrity                      object
		}
		Config struct{ Requirements object }
	}
	n := bytes.IndexByte(b, 0)
	if n < 0 {
		n = len(b)
	}
	if err := json.Unmarshal(b[:n], &h); err != nil {
		l.Why = "its header can't be read: " + err.Error()
		return
	}
	s, ok := h.Segments["0"]
	offset, err := strconv.ParseInt(s.Offset, 10, 64)
	switch {
	case !ok || len(h.Segments) != 1 || s.Type != "crypt" || err != nil || offset < 0:
		l.Why = "it has another segment than one that is encrypted"
		return
	case s.Integrity != nil:
		l.Why = "it has integrity checks"
		return
	case len(h.Config.Requirements) > 0:
		l.Why = "it is being reencrypted, or wants what this program does not know"
		return
	}
	l.Cipher, l.Offset, l.SectorSize, l.Fixed = s.Encryption, offset, s.SectorSize, s.Size != "dynamic"
	for _, k := range slices.Sorted(maps.Keys(h.Keyslots)) {
		if l.KeySize == 0 {
			l.KeySize, l.Hash = h.Keyslots[k].KeySize*8, h.Keyslots[k].AF.Hash
		}
	}
}

func probeMD(b []byte) *Info {
	for i, o := range []int{0, 4096} {
		if m := mdSuper(b[o:o+4096], []string{"1.1", "1.2"}[i]); m != nil {
			return m
		}
	}
	return nil
}

// mdSuper reads a superblock of metadata 1.x.
func mdSuper(b []byte, metadata string) *Info {
	le := binary.LittleEndian
	if le.Uint32(b) != 0xa92b4efc || le.Uint32(b[4:]) != 1 {
		return nil
	}
	m := &MD{Metadata: metadata, Name: fstype.Text(b[32:64]), Level: int(int32(le.Uint32(b[72:]))), Layout: int(int32(le.Uint32(b[76:]))), Size: int64(le.Uint64(b[80:])&(1<<50-1)) * 512, Chunk: int64(le.Uint32(b[88:])) * 512, Devices: int(le.Uint32(b[92:])),
		Data: int64(le.Uint64(b[128:])&(1<<50-1)) * 512, Bitmap: le.Uint32(b[8:])&1 != 0, Role: -2}
	m.UUID = fmt.Sprintf("%x:%x:%x:%x", b[16:20], b[20:24], b[24:28], b[28:32])
	if n, max := le.Uint32(b[160:]), le.Uint32(b[220:]); n < max && 256+2*int64(n)+2 <= int64(len(b)) {
		switch r := le.Uint16(b[256+2*n:]); r {
		case 0xffff:
			m.Role = -1
		case 0xfffe, 0xfffd: // faulty, journal
		default:
			m.Role = int(r)
		}
	}
	return &Info{Info: fstype.Info{Type: TypeMD, UUID: fstype.UUID(b[16:32])}, MD: m}
}

// probeEnd looks for what RAID of metadata 1.0 and 0.90 has at the end of a
// member, whose head looks like what the array holds.
func probeEnd(r io.ReaderAt, size int64) *Info {
	if size < 128<<10 || size > 1<<59 {
		return nil
	}
	b := make([]byte, 4096)
	// 8 KiB before the end, on a boundary of 4 KiB.
	at := (size/512 - 16) &^ 7 * 512
	if n, err := r.ReadAt(b, at); err == nil || n == len(b) {
		if i := mdSuper(b, "1.0"); i != nil && binary.LittleEndian.Uint64(b[144:])*512 == uint64(at) {
			return i
		}
	}
	// The last 64 KiB that begin on a boundary of 64 KiB.
	if n, err := r.ReadAt(b, size&^(64<<10-1)-64<<10); err == nil || n == len(b) {
		return mdSuper090(b)
	}
	return nil
}

// mdSuper090 reads a superblock of metadata 0.90: words of the byte order of the
// machine that made it, of which only ours is read.
func mdSuper090(b []byte) *Info {
	word := func(n int) uint32 { return binary.LittleEndian.Uint32(b[4*n:]) }
	if word(0) != 0xa92b4efc || word(1) != 0 {
		return nil
	}
	m := &MD{Metadata: "0.90", Level: int(int32(word(7))), Size: int64(word(8)) << 10, Devices: int(word(10)), Layout: int(int32(word(64))), Chunk: int64(word(65)), Bitmap: word(33)&(1<<8) != 0, Role: -2, Minor: int(int32(word(11)))}
	m.UUID = fmt.Sprintf("%08x:%08x:%08x:%08x", word(5), word(13), word(14), word(15))
	// This device's own descriptor: number, major, minor, place, state.
	const this = 992
	switch state := word(this + 4); {
	case state&1 != 0: // faulty
	case state&2 == 0: // not active
		m.Role = -1
	default:
		m.Role = int(word(this + 3))
	}
	id := make([]byte, 16)
	for i, n := range []int{5, 13, 14, 15} {
		binary.BigEndian.PutUint32(id[4*i:], word(n))
	}
	return &Info{Info: fstype.Info{Type: TypeMD, UUID: fstype.UUID(id)}, MD: m}
}
