package media

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/printable"
)

// UKI is a unified kernel image: one EFI program with kernel, initramfs and
// command line as sections behind systemd's stub, by the specification of
// uapi-group.org. Firmware that boots from HTTP takes a single file. It is not
// signed.
type UKI struct {
	Stub, Kernel, Initrd string // files
	Cmdline, Title       string
}

// FindStub looks for systemd's EFI stub below root, "" for none.
func FindStub(root string) string {
	if f := root + "/usr/lib/systemd/boot/efi/linuxx64.efi.stub"; isFile(f) {
		return f
	}
	return ""
}

// Write writes the image to the file out, which must not exist.
func (u UKI) Write(out string) error {
	b, err := u.build()
	if err == nil {
		err = os.WriteFile(out, b, 0o644)
	}
	if err != nil {
		return fmt.Errorf("cannot make EFI image %s: %w", out, err)
	}
	return nil
}

// sectionData is IMAGE_SCN_CNT_INITIALIZED_DATA | IMAGE_SCN_MEM_READ.
const sectionData = 0x40000040

func align(x, a uint32) uint32 { return (x + a - 1) / a * a }

// osRelease gives a text for between single quotes in os-release(5), where nothing
// but a single quote has a meaning; firmware menus show it.
func osRelease(s string) string { return strings.ReplaceAll(printable.Clean(s), "'", "_") }

// build appends sections to the stub. Offsets are those of Microsoft's PE
// format: the address of the PE header at 0x3c, the section table behind the
// optional header, 40 bytes per section.
func (u UKI) build() ([]byte, error) {
	b, err := os.ReadFile(u.Stub)
	if err != nil {
		return nil, err
	}
	p, err := parseStub(b)
	if err != nil {
		return nil, fmt.Errorf("%s is not an EFI stub: %w", u.Stub, err)
	}
	add, err := u.sections()
	if err != nil {
		return nil, err
	}
	return p.with(add)
}

// section is a part of a program of UEFI.
type section struct {
	name string
	data []byte
}

// sections are what a stub becomes a unified kernel image with.
func (u UKI) sections() ([]section, error) {
	kernel, err := os.ReadFile(u.Kernel)
	if err != nil {
		return nil, err
	}
	initrd, err := os.ReadFile(u.Initrd)
	if err != nil {
		return nil, err
	}
	if strings.ContainsAny(u.Cmdline, "\x00\n") {
		return nil, fmt.Errorf("the kernel command line %q has a line feed or a NUL byte", u.Cmdline)
	}
	return []section{
		{".osrel", fmt.Appendf(nil, "ID=mkcdrec\nNAME=mkcdrec\nPRETTY_NAME='%s'\n", osRelease(u.Title))},
		{".cmdline", append([]byte(u.Cmdline), 0)},
		{".initrd", initrd}, {".linux", kernel},
	}, nil
}

// peFile is a program of UEFI in the form PE32+.
type peFile struct {
	b []byte
	// pe and table are where the PE header and the table of sections begin.
	pe, table uint32
	n         uint32 // sections
	// end is where the sections end in memory, raw in the file.
	end, raw uint32
}

func parseStub(b []byte) (*peFile, error) {
	le := binary.LittleEndian
	if len(b) < 0x40 {
		return nil, errors.New("too short")
	}
	p := &peFile{b: b, pe: le.Uint32(b[0x3c:])}
	if uint64(p.pe)+24+112 > uint64(len(b)) || string(b[p.pe:p.pe+4]) != "PE\x00\x00" {
		return nil, errors.New("no PE header")
	}
	coff, opt := b[p.pe+4:], b[p.pe+24:]
	p.n, p.table = uint32(le.Uint16(coff[2:])), p.pe+24+uint32(le.Uint16(coff[16:]))
	if le.Uint16(opt) != 0x20b {
		return nil, errors.New("not PE32+")
	}
	if le.Uint32(opt[32:]) == 0 || le.Uint32(opt[36:]) == 0 || uint64(p.table)+40*uint64(p.n) > uint64(len(b)) {
		return nil, errors.New("a bad section table")
	}
	for i := range p.n {
		s := b[p.table+40*i:]
		p.end = max(p.end, le.Uint32(s[12:])+max(le.Uint32(s[8:]), le.Uint32(s[16:])))
		p.raw = max(p.raw, le.Uint32(s[20:])+le.Uint32(s[16:]))
	}
	if uint64(p.raw) > uint64(len(b)) {
		return nil, errors.New("cut off")
	}
	return p, nil
}

// with gives the program with more sections; p is not to be used any more.
func (p *peFile) with(add []section) ([]byte, error) {
	le := binary.LittleEndian
	b, pe, table, n, end := p.b, p.pe, p.table, p.n, p.end
	coff, opt := b[pe+4:], b[pe+24:]
	sectAlign, fileAlign, headers := le.Uint32(opt[32:]), le.Uint32(opt[36:]), le.Uint32(opt[60:])
	if table+40*(n+uint32(len(add))) > headers {
		return nil, errors.New("the stub has no room for more sections")
	}
	// Symbols and what else lies behind the sections is not needed.
	le.PutUint32(coff[8:], 0)
	le.PutUint32(coff[12:], 0)
	b = b[:p.raw]
	pad := func() {
		b = append(b, make([]byte, align(uint32(len(b)), fileAlign)-uint32(len(b)))...)
	}
	data := uint32(0)
	for _, a := range add {
		end = align(end, sectAlign)
		pad()
		at := uint32(len(b))
		b = append(b, a.data...)
		pad()
		h := b[table+40*n:]
		clear(h[:40])
		copy(h[:8], a.name)
		le.PutUint32(h[8:], uint32(len(a.data)))
		le.PutUint32(h[12:], end)
		le.PutUint32(h[16:], uint32(len(b))-at)
		le.PutUint32(h[20:], at)
		le.PutUint32(h[36:], sectionData)
		end += uint32(len(a.data))
		data += uint32(len(b)) - at
		n++
	}
	opt = b[pe+24:]
	le.PutUint16(b[pe+4+2:], uint16(n))
	le.PutUint32(opt[8:], le.Uint32(opt[8:])+data)
	le.PutUint32(opt[56:], align(end, sectAlign))
	le.PutUint32(opt[64:], 0) // checksum: firmware does not look
	return b, nil
}
