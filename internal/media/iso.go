// Package media makes the media that the rescue system starts from. One file
// per kind.
package media

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/diskfs/go-diskfs/backend"
	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/filesystem/fat16"
	"github.com/diskfs/go-diskfs/filesystem/iso9660"
)

// ISO says what goes into an image.
type ISO struct {
	Label string // volume id, at most 32 of A-Z 0-9 _
	// Files maps paths in the image to files of the host.
	Files map[string]string
	// Content maps paths in the image to bytes.
	Content map[string][]byte
	// BIOS and UEFI are the loaders; nil for none. One must be there.
	BIOS *BIOSLoader
	UEFI *UEFILoader
}

// BIOSLoader is isolinux: the loader, its library, and the code for the first
// sector of a stick.
type BIOSLoader struct{ ISOLinux, LDLinux, HybridMBR string }

// UEFILoader is what goes into the EFI system partition: names in EFI/BOOT to
// files of the host.
type UEFILoader struct {
	Name  string // for people: "shim and GRUB, signed"
	Files map[string]string
}

const (
	sector = 2048
	// maxFile is the largest file: sizes are 32 bits, and go-diskfs cuts off
	// larger ones silently.
	maxFile = 4<<30 - sector
	// maxESP keeps El Torito's count of 512-byte sectors below 65,536.
	maxESP = 32<<20 - 1<<20
)

// Write makes the image in the file out, which must not exist. It works in a
// directory beside it and removes that. On error out may be half written: the
// caller gives a temporary name.
func (s ISO) Write(out string) error {
	if err := s.write(out); err != nil {
		return fmt.Errorf("cannot make image %s: %w", out, err)
	}
	return nil
}

func (s ISO) write(out string) error {
	if s.BIOS == nil && s.UEFI == nil {
		return errors.New("there is neither a BIOS nor a UEFI boot loader")
	}
	ws, err := os.MkdirTemp(filepath.Dir(out), ".iso-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(ws)
	total, err := s.fill(ws)
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
	// go-diskfs' own error tells the file, but not the cause in a way that
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
	return s.finish(out, total)
}

// fill lays the files out in the directory that go-diskfs will consume.
func (s ISO) fill(ws string) (total int64, err error) {
	put := func(p string, src string) error {
		st, err := os.Stat(src)
		if err != nil {
			return err
		}
		if st.Size() > maxFile {
			return fmt.Errorf("%s has %d bytes; a file on an ISO 9660 image has at most %d", src, st.Size(), int64(maxFile))
		}
		total += st.Size()
		return linkOrCopy(src, filepath.Join(ws, p))
	}
	for p, src := range s.Files {
		if err := put(p, src); err != nil {
			return 0, err
		}
	}
	for p, b := range s.Content {
		total += int64(len(b))
		if err := os.MkdirAll(filepath.Dir(filepath.Join(ws, p)), 0o755); err != nil {
			return 0, err
		}
		if err := os.WriteFile(filepath.Join(ws, p), b, 0o644); err != nil {
			return 0, err
		}
	}
	if s.BIOS != nil {
		// isolinux.bin is patched in place: never a link to the host's file.
		if err := copyFile(s.BIOS.ISOLinux, filepath.Join(ws, "isolinux/isolinux.bin")); err != nil {
			return 0, err
		}
		if err := put("isolinux/ldlinux.c32", s.BIOS.LDLinux); err != nil {
			return 0, err
		}
	}
	if s.UEFI != nil {
		if err := os.MkdirAll(filepath.Join(ws, "boot"), 0o755); err != nil {
			return 0, err
		}
		if err := ESP(filepath.Join(ws, "boot/efi.img"), s.UEFI.Files); err != nil {
			return 0, err
		}
	}
	return total, nil
}

func (s ISO) finalize(b backend.Storage, ws string) error {
	fs, err := iso9660.Create(b, 0, 0, sector, ws)
	if err != nil {
		return err
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

// finish cuts the file to the volume's size, makes it hybrid and checks that
// all of it is there: go-diskfs ignores some write errors.
func (s ISO) finish(out string, total int64) error {
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
	end := int64(binary.LittleEndian.Uint32(pvd[80:])) * sector
	if st, err := f.Stat(); err != nil || st.Size() < end || end < total {
		return fmt.Errorf("it has %d bytes after writing, wanted %d: is the file system full? (%v)", st.Size(), end, err)
	}
	if s.BIOS != nil {
		if end, err = hybrid(f, s.BIOS.HybridMBR, end); err != nil {
			return err
		}
	}
	if err := f.Truncate(end); err != nil {
		return err
	}
	return f.Sync()
}

// hybrid writes an MBR, so that the image starts from a stick too: entry 1 is
// the whole image for isolinux, entry 2 the EFI system partition. The layout
// is that of syslinux' isohybrid: the address of isolinux.bin in 512-byte
// sectors at byte 432, a disk id at 440.
func hybrid(f *os.File, mbrFile string, size int64) (int64, error) {
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

// ESP makes a FAT16 image with the files in EFI/BOOT. FAT16, since go-diskfs'
// FAT32 has wrong ".." entries.
func ESP(out string, files map[string]string) error {
	size := int64(0)
	for _, src := range files {
		st, err := os.Stat(src)
		if err != nil {
			return err
		}
		size += st.Size()
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
	for name, src := range files {
		data, err := os.ReadFile(src)
		if err != nil {
			return err
		}
		w, err := fs.OpenFile("/EFI/BOOT/"+name, os.O_CREATE|os.O_RDWR)
		if err != nil {
			return err
		}
		if _, err := w.Write(data); err != nil {
			return fmt.Errorf("cannot write %s into the EFI partition: %w", name, err)
		}
		if err := w.Close(); err != nil {
			return err
		}
	}
	return nil
}

func linkOrCopy(src, dst string) error {
	if err := os.MkdirAll(filepath.Dir(dst), 0o755); err != nil {
		return err
	}
	if os.Link(src, dst) == nil {
		return nil
	}
	return copyFile(src, dst)
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

func (c *coalescer) WriteAt(p []byte, off int64) (int, error) {
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
