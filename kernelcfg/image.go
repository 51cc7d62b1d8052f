package kernelcfg

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/klauspost/compress/gzip"

	"github.com/mkcdrec/mkcdrec/internal/regular"
	"github.com/mkcdrec/mkcdrec/internal/unpack"
)

// UnusableError is a kernel that this machine's firmware can't start.
type UnusableError struct {
	Image  string
	Reason string
}

func (e *UnusableError) Error() string {
	return fmt.Sprintf("cannot use kernel %s: %s", e.Image, e.Reason)
}

// The header is described in Documentation/arch/x86/boot.rst.
const (
	offSetupSects    = 0x1f1
	offSysSize       = 0x1f4 // in 16-byte units
	offMagic         = 0x202 // "HdrS"
	offProtocol      = 0x206
	offVersion       = 0x20e // of the release string, minus 0x200
	offXLoadFlags    = 0x236
	offPayload       = 0x248 // from the start of the protected-mode code
	offPayloadLength = 0x24c
	xlfKernel64      = 1
)

// ReadImage checks that a file is a whole kernel that an x86-64 machine can
// start, and gives its release. The error is an *UnusableError with what
// the file is instead.
func ReadImage(file string) (release string, err error) {
	f, err := regular.Open(file)
	if err != nil {
		return "", fmt.Errorf("cannot read kernel: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return "", fmt.Errorf("cannot read kernel: %w", err)
	}
	b := make([]byte, 64<<10)
	n, err := io.ReadFull(f, b)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("cannot read kernel %s: %w", file, err)
	}
	b = b[:n]
	bad := func(format string, args ...any) (string, error) {
		return "", &UnusableError{file, fmt.Sprintf(format, args...)}
	}
	if len(b) < 0x250 || string(b[offMagic:offMagic+4]) != "HdrS" {
		return bad("%s", whatElse(b, f))
	}
	le := binary.LittleEndian
	v := le.Uint16(b[offProtocol:])
	if v < 0x206 {
		return bad("its boot protocol is %#x, older than 2.06", v)
	}
	setup := int64(b[offSetupSects])
	if setup == 0 {
		setup = 4
	}
	if want := (setup+1)*512 + int64(le.Uint32(b[offSysSize:]))*16; st.Size() < want {
		return bad("it is cut off: it has %d bytes, %d by its header", st.Size(), want)
	}
	if v >= 0x20c && le.Uint16(b[offXLoadFlags:])&xlfKernel64 == 0 {
		return bad("it is a 32-bit kernel, wrong architecture for this program")
	}
	off := int(le.Uint16(b[offVersion:])) + 0x200
	if off <= 0x200 || off >= len(b) {
		return bad("it does not tell its release")
	}
	s, _, _ := bytes.Cut(b[off:], []byte{0})
	rel, _, _ := strings.Cut(string(s), " ")
	return rel, nil
}

// whatElse names a file that is not a bzImage. A kernel for Xen's dom0 only is a
// gzipped ELF file with a Xen note or a __xen_guest section, as is the
// hypervisor itself, which has neither.
func whatElse(head []byte, f io.ReadSeeker) string {
	switch {
	case len(head) > 0x3c && string(head[0x38:0x3c]) == "ARM\x64":
		return "it is for ARM64, wrong architecture for this machine"
	case len(head) > 0x38 && string(head[0x30:0x36]) == "RISCV\x00":
		return "it is for RISC-V, wrong architecture for this machine"
	case len(head) == 0:
		return "it is empty"
	}
	elfHead := head
	if bytes.HasPrefix(head, []byte{0x1f, 0x8b}) {
		if _, err := f.Seek(0, io.SeekStart); err == nil {
			if z, err := gzip.NewReader(f); err == nil {
				b, err := io.ReadAll(io.LimitReader(z, 64<<20))
				if err != nil && len(b) == 0 {
					return "it is a damaged gzip file"
				}
				elfHead = b
			}
		}
	}
	if bytes.HasPrefix(elfHead, []byte("\x7fELF")) {
		switch {
		case bytes.Contains(elfHead, []byte("__xen_guest")) || bytes.Contains(elfHead, []byte("GUEST_OS=linux")) || bytes.Contains(elfHead, []byte("Xen\x00linux")):
			return "it starts only as a Xen guest or dom0, not on bare metal (an ELF file with a Xen note and no setup header)"
		case bytes.Contains(elfHead, []byte("Xen")):
			return "it is the Xen hypervisor, not a Linux kernel"
		}
		return "it is an ELF file without a setup header (vmlinux); the bzImage is needed"
	}
	return "it is not a bzImage (no HdrS at byte 514)"
}

// embeddedConfig takes the configuration out of the image itself, when it was
// built with CONFIG_IKCONFIG: between two marks in the decompressed kernel.
func embeddedConfig(file string) (io.Reader, bool) {
	b, err := os.ReadFile(file)
	if err != nil || len(b) < 0x250 {
		return nil, false
	}
	le := binary.LittleEndian
	if le.Uint16(b[offProtocol:]) < 0x208 {
		return nil, false
	}
	start := (int64(b[offSetupSects])+1)*512 + int64(le.Uint32(b[offPayload:]))
	end := start + int64(le.Uint32(b[offPayloadLength:]))
	if start >= end || end > int64(len(b)) {
		return nil, false
	}
	raw := decompressKernel(b[start:end])
	const mark = "IKCFG_ST"
	i := bytes.Index(raw, []byte(mark+"\x1f\x8b"))
	if i < 0 {
		return nil, false
	}
	z, err := gzip.NewReader(bytes.NewReader(raw[i+len(mark):]))
	if err != nil {
		return nil, false
	}
	z.Multistream(false)
	return z, true
}

// decompressKernel decompresses a kernel's payload, as far as it can: the last
// four bytes are its length and no part of the stream.
func decompressKernel(p []byte) []byte {
	r, err := unpack.Reader(bytes.NewReader(p[:max(0, len(p)-4)]), p[:min(len(p), unpack.HeadLen)])
	if err != nil {
		return nil
	}
	out, _ := io.ReadAll(io.LimitReader(r, 256<<20)) // what follows the stream is an error to some readers
	return out
}
