// Package btrfs asks a mounted btrfs for what its superblock does not tell,
// and makes subvolumes, through the kernel's ioctls (linux/btrfs.h,
// linux/btrfs_tree.h; btrfs-ioctl(2)). It needs root. There is no library for
// it without cgo that is kept up.
package btrfs

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/kernel"
)

// Ids of trees and objects that are always the same.
const (
	rootTree    = 1
	TopLevel    = 5 // the subvolume that all others lie in
	rootTreeDir = 6
	quotaTree   = 8
	firstFree   = 256
	lastFree    = ^uint64(255) // -256
)

const (
	dirItem     = 84
	rootItem    = 132
	rootBackref = 144
)

// ioctl numbers: _IOW and _IOWR of 0x94.
const (
	iocForgetDev     = 1<<30 | 4096<<16 | 0x94<<8 | 5
	iocSubvolCreate  = 1<<30 | 4096<<16 | 0x94<<8 | 14
	iocTreeSearch    = 3<<30 | 4096<<16 | 0x94<<8 | 17
	iocInoLookup     = 3<<30 | 4096<<16 | 0x94<<8 | 18
	iocDefaultSubvol = 1<<30 | 8<<16 | 0x94<<8 | 19
	iocSpaceInfo     = 3<<30 | 16<<16 | 0x94<<8 | 20
	iocSubvolDelete  = 1<<30 | 4096<<16 | 0x94<<8 | 15
	iocSnapshot      = 1<<30 | 4096<<16 | 0x94<<8 | 23
	iocSubvolFlags   = 1<<30 | 8<<16 | 0x94<<8 | 26
	subvolReadOnly   = 1 << 1 // of SETFLAGS; in the tree it is 1<<0
)

// Subvolume is one that is not the top level.
type Subvolume struct {
	ID       uint64
	Parent   uint64 // the subvolume that it is in
	Path     string // from the top level, "@home/x"
	ReadOnly bool
	// Snapshot is set if it was made of another one.
	Snapshot bool
	// Received is set if it came from btrfs-receive(8): it is another one's copy.
	Received bool
}

func ioctl(f *os.File, req uintptr, arg []byte) error {
	return kernel.Linux{}.Ioctl(f, req, arg)
}

type item struct {
	object, offset uint64
	typ            uint32
	data           []byte
}

// search gives the items of the tree of trees in a range of objects that have
// one of two types.
func search(f *os.File, first, last uint64, types ...uint32) ([]item, error) {
	le := binary.LittleEndian
	var out []item
	object, typ, offset := first, uint32(0), uint64(0)
	for {
		b := make([]byte, 4096)
		for i, v := range []uint64{rootTree, object, last, offset, ^uint64(0), 0, ^uint64(0)} {
			le.PutUint64(b[i*8:], v)
		}
		le.PutUint32(b[56:], typ)
		le.PutUint32(b[60:], 255)
		le.PutUint32(b[64:], 4096)
		if err := ioctl(f, iocTreeSearch, b); err != nil {
			return nil, fmt.Errorf("cannot search the btrfs at %s: %w", f.Name(), err)
		}
		n := int(le.Uint32(b[64:]))
		if n == 0 {
			return out, nil
		}
		at := 104
		for range n {
			if at+32 > len(b) {
				return nil, fmt.Errorf("cannot search the btrfs at %s: an answer that is cut off", f.Name())
			}
			it := item{object: le.Uint64(b[at+8:]), offset: le.Uint64(b[at+16:]), typ: le.Uint32(b[at+24:])}
			l := int(le.Uint32(b[at+28:]))
			if at+32+l > len(b) {
				return nil, fmt.Errorf("cannot search the btrfs at %s: an answer that is cut off", f.Name())
			}
			it.data = b[at+32 : at+32+l]
			at += 32 + l
			if it.object >= first && it.object <= last && slices.Contains(types, it.typ) {
				out = append(out, it)
			}
			object, typ, offset = it.object, it.typ, it.offset
		}
		// The next key: object, type and offset are one large number.
		if offset++; offset == 0 {
			if typ++; typ > 255 {
				typ = 0
				object++
			}
		}
		if object > last {
			return out, nil
		}
	}
}

// Subvolumes lists all subvolumes of the btrfs that dir is on, parents first,
// and gives the id of the default one.
func Subvolumes(dir string) (list []Subvolume, def uint64, err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	le := binary.LittleEndian
	items, err := search(f, firstFree, lastFree, rootItem, rootBackref)
	if err != nil {
		return nil, 0, err
	}
	known := map[uint64]*Subvolume{}
	names := map[uint64]string{} // in the parent
	for _, it := range items {
		s := known[it.object]
		if s == nil {
			s = &Subvolume{ID: it.object}
			known[it.object] = s
		}
		if it.typ == rootItem {
			if len(it.data) >= 263+16 { // older kernels had no UUIDs
				s.Snapshot = !bytes.Equal(it.data[263:279], make([]byte, 16))
			}
			if len(it.data) >= 279+16 {
				s.Received = !bytes.Equal(it.data[279:295], make([]byte, 16))
			}
			if len(it.data) >= 216 {
				s.ReadOnly = le.Uint64(it.data[208:])&1 != 0
			}
			continue
		}
		if len(it.data) < 18 || 18+int(le.Uint16(it.data[16:])) > len(it.data) {
			return nil, 0, fmt.Errorf("cannot read the subvolumes of %s: the one with id %d has a damaged reference", dir, it.object)
		}
		s.Parent = it.offset
		in, err := lookup(f, it.offset, le.Uint64(it.data))
		if err != nil {
			return nil, 0, err
		}
		names[it.object] = in + string(it.data[18:18+int(le.Uint16(it.data[16:]))])
	}
	var full func(id uint64, deep int) string
	full = func(id uint64, deep int) string {
		s := known[id]
		if s == nil || deep > 100 {
			return ""
		}
		return path.Join(full(s.Parent, deep+1), names[id])
	}
	for id, s := range known {
		if names[id] == "" {
			continue // being deleted
		}
		s.Path = full(id, 0)
		list = append(list, *s)
	}
	slices.SortFunc(list, func(a, b Subvolume) int { return strings.Compare(a.Path, b.Path) })
	def = TopLevel
	dirs, err := search(f, rootTreeDir, rootTreeDir, dirItem)
	if err != nil {
		return nil, 0, err
	}
	for _, it := range dirs {
		// key, transid, data_len, name_len, type, name
		if len(it.data) >= 30 && string(it.data[30:min(len(it.data), 30+int(le.Uint16(it.data[27:])))]) == "default" {
			def = le.Uint64(it.data)
		}
	}
	return list, def, nil
}

// Quotas reports whether the btrfs that dir is in has quota groups.
func Quotas(dir string) (bool, error) {
	f, err := os.Open(dir)
	if err != nil {
		return false, err
	}
	defer f.Close()
	items, err := search(f, quotaTree, quotaTree, rootItem)
	return len(items) > 0, err
}

// lookup gives the path of a directory in a subvolume, with a slash at its
// end; "" for the subvolume's own.
func lookup(f *os.File, tree, object uint64) (string, error) {
	b := make([]byte, 4096)
	binary.LittleEndian.PutUint64(b, tree)
	binary.LittleEndian.PutUint64(b[8:], object)
	if err := ioctl(f, iocInoLookup, b); err != nil {
		return "", fmt.Errorf("cannot look up the path of a subvolume in the btrfs at %s: %w", f.Name(), err)
	}
	n, _, _ := bytes.Cut(b[16:], []byte{0})
	return string(n), nil
}

// profiles by the bits of block group flags.
var profiles = []struct {
	bit  uint64
	name string
}{{1 << 3, "raid0"}, {1 << 4, "raid1"}, {1 << 5, "dup"}, {1 << 6, "raid10"}, {1 << 7, "raid5"}, {1 << 8, "raid6"}, {1 << 9, "raid1c3"}, {1 << 10, "raid1c4"}}

// Profiles returns how data and metadata are kept, as mkfs.btrfs names it.
func Profiles(dir string) (data, metadata string, err error) {
	f, err := os.Open(dir)
	if err != nil {
		return "", "", err
	}
	defer f.Close()
	const slots = 64
	b := make([]byte, 16+24*slots)
	binary.LittleEndian.PutUint64(b, slots)
	if err := ioctl(f, iocSpaceInfo, b); err != nil {
		return "", "", fmt.Errorf("cannot read the profiles of the btrfs at %s: %w", dir, err)
	}
	for i := range min(binary.LittleEndian.Uint64(b[8:]), slots) {
		flags := binary.LittleEndian.Uint64(b[16+24*i:])
		name := "single"
		for _, p := range profiles {
			if flags&p.bit != 0 {
				name = p.name
			}
		}
		if flags&(1<<48) != 0 { // the global reserve is not a block group
			continue
		}
		if flags&(1<<0) != 0 {
			data = name
		}
		if flags&(1<<2) != 0 {
			metadata = name
		}
	}
	return data, metadata, nil
}

// Create makes a subvolume, and the directories that lead to it.
func Create(p string) error {
	dir := path.Dir(p)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("cannot make subvolume: %w", err)
	}
	f, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("cannot make subvolume: %w", err)
	}
	defer f.Close()
	b := make([]byte, 4096)
	if len(path.Base(p)) > 255 {
		return fmt.Errorf("cannot make subvolume %s: its name is too long", p)
	}
	copy(b[8:], path.Base(p))
	if err := ioctl(f, iocSubvolCreate, b); err != nil {
		return fmt.Errorf("cannot make subvolume %s: %w", p, err)
	}
	return nil
}

// Snapshot makes a snapshot that can be written to of the subvolume at src. It gets the name
// dst, whose directory is there and is of the same btrfs.
func Snapshot(src, dst string) error {
	from, err := os.Open(src)
	if err != nil {
		return fmt.Errorf("cannot make a snapshot: %w", err)
	}
	defer from.Close()
	to, err := os.Open(path.Dir(dst))
	if err != nil {
		return fmt.Errorf("cannot make a snapshot: %w", err)
	}
	defer to.Close()
	// struct btrfs_ioctl_vol_args_v2: fd, transaction, flags, 32 bytes unused, name.
	b := make([]byte, 4096)
	if len(path.Base(dst)) > 255 {
		return fmt.Errorf("cannot make a snapshot of %s: the path is too long", src)
	}
	binary.LittleEndian.PutUint64(b, uint64(from.Fd()))
	copy(b[56:], path.Base(dst))
	if err := ioctl(to, iocSnapshot, b); err != nil {
		return fmt.Errorf("cannot make a snapshot of %s: %w", src, err)
	}
	return nil
}

// SnapshotInner puts a snapshot of the subvolume src in the place of the empty directory that a
// snapshot of the subvolume around it has there; snapshot is Snapshot, but for tests.
func SnapshotInner(src, dst string, snapshot func(src, dst string) error) error {
	parent := path.Dir(dst)
	var st unix.Stat_t
	err := unix.Stat(parent, &st)
	if err == nil {
		err = os.Remove(dst)
	}
	if err != nil {
		return fmt.Errorf("cannot make a snapshot of %s: %w", src, err)
	}
	if err := snapshot(src, dst); err != nil {
		return err
	}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, parent, []unix.Timespec{st.Atim, st.Mtim}, 0); err != nil {
		return fmt.Errorf("cannot keep the times of %s in a snapshot: %w", parent, err)
	}
	return nil
}

// Delete removes a subvolume with all that is in it.
func Delete(p string) error {
	dir, err := os.Open(path.Dir(p))
	if err != nil {
		return fmt.Errorf("cannot remove subvolume: %w", err)
	}
	defer dir.Close()
	b := make([]byte, 4096)
	copy(b[8:], path.Base(p))
	if err := ioctl(dir, iocSubvolDelete, b); err != nil {
		return fmt.Errorf("cannot remove subvolume %s: %w", p, err)
	}
	return nil
}

// ID gives the id of the subvolume that dir is in.
func ID(dir string) (uint64, error) {
	f, err := os.Open(dir)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	b := make([]byte, 4096)
	binary.LittleEndian.PutUint64(b[8:], firstFree)
	if err := ioctl(f, iocInoLookup, b); err != nil {
		return 0, fmt.Errorf("cannot tell the subvolume of %s: %w", dir, err)
	}
	return binary.LittleEndian.Uint64(b), nil
}

// SetDefault makes the subvolume dir the one that is mounted when none is named.
func SetDefault(dir string) error {
	id, err := ID(dir)
	if err != nil {
		return err
	}
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	b := make([]byte, 8)
	binary.LittleEndian.PutUint64(b, id)
	if err := ioctl(f, iocDefaultSubvol, b); err != nil {
		return fmt.Errorf("cannot make %s the default subvolume: %w", dir, err)
	}
	return nil
}

// SetReadOnly makes a subvolume read-only.
func SetReadOnly(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	b := make([]byte, 8)
	binary.LittleEndian.PutUint64(b, subvolReadOnly)
	if err := ioctl(f, iocSubvolFlags, b); err != nil {
		return fmt.Errorf("cannot make the subvolume %s read-only: %w", dir, err)
	}
	return nil
}

// Forget has the kernel forget the devices of all btrfs that are not mounted:
// it would take a new file system for an older one of the same UUID. Kernels
// before 5.4 can't.
func Forget() {
	f, err := os.OpenFile("/dev/btrfs-control", os.O_RDWR, 0)
	if err != nil {
		return // no btrfs was ever looked at
	}
	defer f.Close()
	_ = ioctl(f, iocForgetDev, make([]byte, 4096)) // an old kernel knows of none
}
