// Package media makes the media that the rescue system starts from. One file
// per kind.
package media

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/diskfs/go-diskfs/backend"
	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/filesystem/fat16"
	"github.com/diskfs/go-diskfs/filesystem/iso9660"
)

// ISO is what goes into an image.
type ISO struct {
	Label string // volume id, at most 32 of A-Z 0-9 _
	// Files maps paths in the image to files of the host.
	Files map[string]string
	// Content maps paths in the image to bytes.
	Content map[string][]byte
	// Streams are files that are made while the image is written, in this
	// order, behind all others.
	Streams []Stream
	// Data is an image that nothing starts from.
	Data bool
	// Private gives all files to root alone: mode 0400, not 0444.
	Private bool
	// InPartition is an image for a partition of a stick: its first sector is
	// code that a partition is started by, and has no partition table.
	InPartition bool
	// BIOS and UEFI are the loaders; nil for none. One must be there, but in a
	// Data image.
	BIOS *BIOSLoader
	UEFI *UEFILoader
	// Time is the date of the volume and of every file in it, so that the same
	// input gives the same image. The EFI partition's own dates come from
	// SOURCE_DATE_EPOCH, which go-diskfs reads, or the clock.
	Time time.Time
	// Max is the size of the medium in bytes; 0 for any.
	Max int64
}

// Stream is a file of a known size that is made while it is written.
type Stream struct {
	Path  string // in the image
	Size  int64  // bytes
	Write func(w io.Writer) error
}

const (
	sector = 2048
	// dataStart is behind the system area and the descriptors.
	dataStart = 32 * sector
	// maxFile is the largest file: sizes are 32 bits, and go-diskfs cuts off
	// larger ones silently.
	maxFile = 4<<30 - sector
	// maxESP keeps El Torito's count of 512-byte sectors below 65,536.
	maxESP = 32<<20 - 1<<20
)

// Write makes the image in the file out, which must not exist. It works in a
// directory beside it, which holds no copies of large files, and removes that. On error out may be half written: the
// caller gives a temporary name.
func (s ISO) Write(out string) error {
	if err := s.write(out); err != nil {
		// go-diskfs gives some causes as text only.
		if strings.Contains(err.Error(), syscall.ENOSPC.Error()) && !errors.Is(err, syscall.ENOSPC) {
			err = fmt.Errorf("%w: %w", err, syscall.ENOSPC)
		}
		return fmt.Errorf("cannot make image %s: %w", out, err)
	}
	return nil
}

func (s ISO) write(out string) error {
	if s.BIOS == nil && s.UEFI == nil && !s.Data {
		return errors.New("there is neither a BIOS nor a UEFI boot loader")
	}
	if err := s.check(); err != nil {
		return err
	}
	ws, err := os.MkdirTemp(filepath.Dir(out), ".iso-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(ws)
	long := &names{}
	large, err := s.fill(ws, long)
	if err != nil {
		return err
	}
	fb, err := file.CreateFromPath(out, 1<<20)
	if err != nil {
		return err
	}
	w, err := fb.Writable()
	if err != nil {
		fb.Close()
		return err
	}
	wb := &coalescer{Storage: fb, w: w, buf: make([]byte, 0, 1<<20)}
	err = s.finalize(wb, ws)
	// go-diskfs' own error has the file, but not the cause in a way that
	// can be asked for; it also ignores some.
	if e := wb.flush(); e != nil {
		err = errors.Join(e, err)
	}
	if e := fb.Close(); err == nil {
		err = e
	}
	if err != nil {
		return err
	}
	return s.finish(out, large, long)
}

// largeSize is the size from which go-diskfs, which copies by 2 KiB, is given
// a file of one sector in place of the file. We append the file itself.
const largeSize = 1 << 20

// padding is behind the last file, as mkisofs does it: drives that read ahead
// over the end of a disc fail there, and the implanted sum leaves out 15
// sectors at the end.
const padding = 150 * sector

// fill lays the files out in the directory that go-diskfs will consume. For
// large files something small stands there; they are returned.
func (s ISO) fill(ws string, long *names) (large []region, err error) {
	write := func(p string, b []byte) error {
		to := filepath.Join(ws, long.place(p))
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		return os.WriteFile(to, b, 0o644)
	}
	put := func(p string, src string) error {
		st, err := os.Stat(src)
		if err != nil {
			return err
		}
		if st.Size() < largeSize {
			return copyFile(src, filepath.Join(ws, long.place(p)))
		}
		large = append(large, region{path: path.Clean("/" + p), size: st.Size(), source: src})
		return write(p, zeros[:])
	}
	for _, p := range slices.Sorted(maps.Keys(s.Files)) {
		if err := put(p, s.Files[p]); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(large, func(a, b region) int { return cmp.Compare(a.path, b.path) })
	for _, r := range s.Streams {
		large = append(large, region{path: path.Clean("/" + r.Path), size: r.Size, make: r.Write})
		if err := write(r.Path, zeros[:]); err != nil {
			return nil, err
		}
	}
	for _, p := range slices.Sorted(maps.Keys(s.Content)) {
		if err := write(p, s.Content[p]); err != nil {
			return nil, err
		}
	}
	if err := s.fillLoaders(ws, put); err != nil {
		return nil, err
	}
	// One mode for all: the caller's umask does not matter.
	return large, filepath.WalkDir(ws, func(p string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		mode := os.FileMode(0o444)
		if d.IsDir() {
			mode = 0o755
		}
		if s.Private {
			mode &= 0o700
		}
		return os.Chmod(p, mode)
	})
}

// fillLoaders adds what the image starts with.
func (s ISO) fillLoaders(ws string, put func(p, src string) error) error {
	if s.BIOS != nil {
		if err := copyFile(s.BIOS.ISOLinux, filepath.Join(ws, "isolinux/isolinux.bin")); err != nil {
			return err
		}
		for _, m := range append([]string{s.BIOS.LDLinux}, s.BIOS.Modules...) {
			if err := put("isolinux/"+filepath.Base(m), m); err != nil {
				return err
			}
		}
	}
	if s.UEFI == nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Join(ws, "boot"), 0o755); err != nil {
		return err
	}
	return ESP(filepath.Join(ws, "boot/efi.img"), s.UEFI.Files, s.UEFI.Config)
}

func (s ISO) finalize(b backend.Storage, ws string) error {
	fs, err := iso9660.Create(b, 0, 0, sector, ws)
	if err != nil {
		return err
	}
	if s.BIOS == nil && s.UEFI == nil {
		return fs.Finalize(iso9660.FinalizeOptions{RockRidge: true, DeepDirectories: true, VolumeIdentifier: s.Label})
	}
	et := &iso9660.ElTorito{BootCatalog: "/isolinux/boot.cat"}
	if s.BIOS == nil {
		et.BootCatalog = "/boot/boot.cat"
	}
	if s.BIOS != nil {
		e := &iso9660.ElToritoEntry{Platform: iso9660.BIOS, Emulation: iso9660.NoEmulation, BootFile: "isolinux/isolinux.bin", BootTable: true}
		e.SetLoadSize(4)
		et.Entries = append(et.Entries, e)
	}
	if s.UEFI != nil {
		et.Entries = append(et.Entries, &iso9660.ElToritoEntry{Platform: iso9660.EFI, Emulation: iso9660.NoEmulation, BootFile: "boot/efi.img"})
	}
	return fs.Finalize(iso9660.FinalizeOptions{RockRidge: true, DeepDirectories: true, VolumeIdentifier: s.Label, ElTorito: et})
}

// finish appends the large files while the sum over all is taken, gives all
// dates, makes the image hybrid, cuts the file to its size, and checks what
// go-diskfs does not: that everything was written.
func (s ISO) finish(out string, large []region, long *names) error {
	f, err := os.OpenFile(out, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	pvd := make([]byte, sector)
	if _, err := f.ReadAt(pvd, 16*sector); err != nil {
		return fmt.Errorf("cannot read it back: %w", err)
	}
	if string(pvd[1:6]) != "CD001" || !strings.HasPrefix(string(pvd[40:72]), s.Label) {
		return errors.New("it has no volume descriptor after writing: is the file system full?")
	}
	volume := int64(binary.LittleEndian.Uint32(pvd[80:])) * sector
	if err := long.rename(f); err != nil {
		return fmt.Errorf("cannot write long names: %w", err)
	}
	place := map[string]extent{}
	for i := range large {
		l := &large[i]
		l.at = volume
		place[l.path] = extent{uint32(volume / sector), uint32(l.size)}
		volume += (l.size + sector - 1) / sector * sector
	}
	volume += padding
	if s.Max > 0 && volume+1<<20 > s.Max {
		return s.tooLarge(volume)
	}
	if volume/sector > 1<<32-1 {
		return fmt.Errorf("it would have %d bytes, more than an ISO 9660 image can", volume)
	}
	binary.LittleEndian.PutUint32(pvd[80:], uint32(volume/sector))
	binary.BigEndian.PutUint32(pvd[84:], uint32(volume/sector))
	if _, err := f.WriteAt(pvd, 16*sector); err != nil {
		return err
	}
	if err := stamp(f, s.Time, place); err != nil {
		return err
	}
	if len(place) > 0 {
		return fmt.Errorf("%v is not in the image after writing", slices.Sorted(maps.Keys(place)))
	}
	end := volume
	if s.BIOS != nil {
		code := s.BIOS.HybridMBR
		if s.InPartition {
			code = s.BIOS.PartitionCode
		}
		if end, err = hybrid(f, code, end, !s.InPartition); err != nil {
			return err
		}
	}
	if err := f.Truncate(end); err != nil {
		return err
	}
	if err := complete(f, volume, large); err != nil {
		return err
	}
	return f.Sync()
}

// tooLarge names what takes the room.
func (s ISO) tooLarge(volume int64) error {
	type item struct {
		name string
		size int64
	}
	var items []item
	for p, src := range s.Files {
		if st, err := os.Stat(src); err == nil {
			items = append(items, item{p, st.Size()})
		}
	}
	slices.SortFunc(items, func(a, b item) int { return cmp.Compare(b.size, a.size) })
	var l []string
	for _, i := range items[:min(3, len(items))] {
		l = append(l, fmt.Sprintf("%s %d", i.name, i.size))
	}
	return fmt.Errorf("it would have %d bytes, and the medium holds %d; the largest are %s", volume, s.Max, strings.Join(l, ", "))
}

// hybrid writes an MBR, so that the image starts from a stick too: entry 1 is
// the whole image for isolinux, entry 2 the EFI system partition. The layout
// is that of syslinux' isohybrid: the address of isolinux.bin in 512-byte
// sectors at byte 432, a disk id at 440. Without a table it is for a partition.
func hybrid(f *os.File, mbrFile string, size int64, table bool) (int64, error) {
	code, err := os.ReadFile(mbrFile)
	if err != nil {
		return 0, err
	}
	le := binary.LittleEndian
	cat, err := bootCatalog(f)
	if err != nil {
		return 0, err
	}
	lba := le.Uint32(cat[0x28:])
	head := make([]byte, 68)
	if _, err := f.ReadAt(head, int64(lba)*sector); err != nil {
		return 0, err
	}
	if le.Uint32(head[64:]) != 0x7078c0fb {
		return 0, errors.New("isolinux.bin has no signature of a hybrid image; it is too old")
	}
	size = (size + 1<<20 - 1) &^ (1<<20 - 1)
	m := make([]byte, 512)
	copy(m[:432], code)
	le.PutUint64(m[432:], uint64(lba)*4)
	if !table {
		m[510], m[511] = 0x55, 0xAA
		_, err = f.WriteAt(m, 0)
		return size, err
	}
	le.PutUint32(m[440:], lba*2654435761|1)
	// 64 heads, 32 sectors: a cylinder is 1 MiB.
	cyl := min(size>>20, 1024) - 1
	e := m[446:]
	e[0], e[1], e[2], e[3] = 0x80, 0, 1, 0
	e[4], e[5], e[6], e[7] = 0x17, 63, byte(32|cyl>>8<<6), byte(cyl)
	le.PutUint32(e[12:], uint32(size/512))
	for o := 0x40; o+0x40 <= len(cat) && (cat[o] == 0x90 || cat[o] == 0x91); o += 0x40 {
		if cat[o+1] != 0xEF {
			continue
		}
		p := m[462:]
		p[1], p[2], p[3], p[4], p[5], p[6], p[7] = 0xFE, 0xFF, 0xFF, 0xEF, 0xFE, 0xFF, 0xFF
		le.PutUint32(p[8:], le.Uint32(cat[o+0x28:])*4)
		le.PutUint32(p[12:], uint32(le.Uint16(cat[o+0x26:])))
	}
	m[510], m[511] = 0x55, 0xAA
	_, err = f.WriteAt(m, 0)
	return size, err
}

// bootCatalog finds the El Torito catalog through the boot record at sector 17.
func bootCatalog(f io.ReaderAt) ([]byte, error) {
	b := make([]byte, sector)
	if _, err := f.ReadAt(b, 17*sector); err != nil {
		return nil, err
	}
	if b[0] != 0 || !strings.HasPrefix(string(b[7:]), "EL TORITO SPECIFICATION") {
		return nil, errors.New("it has no boot record in sector 17")
	}
	c := make([]byte, sector)
	_, err := f.ReadAt(c, int64(binary.LittleEndian.Uint32(b[0x47:]))*sector)
	return c, err
}

// ESP makes a FAT16 image with the files in EFI/BOOT, and config as grub.cfg
// beside them. FAT16, since go-diskfs' FAT32 has wrong ".." entries.
func ESP(out string, files map[string]string, config []byte) error {
	size := int64(0)
	content := map[string][]byte{}
	for name, src := range files {
		b, err := os.ReadFile(src)
		if err != nil {
			return err
		}
		content[name] = b
		size += int64(len(b))
	}
	if config != nil {
		content["grub.cfg"] = config
	}
	size = max((size+size/50+1<<20+1<<20-1)&^(1<<20-1), 6<<20)
	if size > maxESP {
		return fmt.Errorf("the EFI loaders have %d bytes; the firmware takes at most %d", size, maxESP)
	}
	b, err := file.CreateFromPath(out, size)
	if err != nil {
		return err
	}
	defer b.Close()
	fs, err := fat16.Create(b, size, 0, 512, "EFIBOOT", true)
	if err != nil {
		return err
	}
	if err := fs.Mkdir("/EFI/BOOT"); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(content)) {
		w, err := fs.OpenFile("/EFI/BOOT/"+name, os.O_CREATE|os.O_RDWR)
		if err != nil {
			return err
		}
		if _, err := w.Write(content[name]); err != nil {
			return fmt.Errorf("cannot write %s into the EFI partition: %w", name, err)
		}
		if err := w.Close(); err != nil {
			return err
		}
	}
	return nil
}

func copyFile(src, dst string) error {
	if err := os.MkdirAll(filepath.Dir(dst), 0o755); err != nil {
		return err
	}
	in, err := os.Open(src)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(dst, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}

// coalescer joins go-diskfs' writes of 2 KiB to writes of 1 MiB: 4 times as
// fast.
type coalescer struct {
	backend.Storage
	w   backend.WritableFile
	buf []byte
	off int64
	err error
}

func (c *coalescer) Writable() (backend.WritableFile, error) { return c, nil }

var zeros [sector]byte

func (c *coalescer) WriteAt(p []byte, off int64) (int, error) {
	// The file is new: what is not written is zero.
	if off >= dataStart && len(p) <= sector && bytes.Equal(p, zeros[:len(p)]) {
		return len(p), c.err
	}
	if len(c.buf) > 0 && off != c.off+int64(len(c.buf)) || len(c.buf)+len(p) > cap(c.buf) {
		if err := c.flush(); err != nil {
			return 0, err
		}
	}
	if len(p) > cap(c.buf) {
		n, err := c.w.WriteAt(p, off)
		if err != nil {
			c.err = err
		}
		return n, err
	}
	if len(c.buf) == 0 {
		c.off = off
	}
	c.buf = append(c.buf, p...)
	return len(p), c.err
}

func (c *coalescer) ReadAt(p []byte, off int64) (int, error) {
	if err := c.flush(); err != nil {
		return 0, err
	}
	return c.w.ReadAt(p, off)
}

// flush is sticky: go-diskfs ignores some errors, we don't.
func (c *coalescer) flush() error {
	if len(c.buf) > 0 {
		if _, err := c.w.WriteAt(c.buf, c.off); err != nil && c.err == nil {
			c.err = err
		}
		c.buf = c.buf[:0]
	}
	return c.err
}
