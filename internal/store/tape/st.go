package tape

import (
	"errors"
	"fmt"
	"io"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Operations and status bits of linux/mtio.h.
const (
	mtIOCTop = 0x40086d01
	mtIOCGet = 0x80306d02

	mtFSF         = 1
	mtBSF         = 2
	mtWEOF        = 5
	mtREW         = 6
	mtOFFL        = 7
	mtEOM         = 12
	mtSETBLK      = 20
	mtCOMPRESSION = 32

	gmtEOF    = 0x80000000
	gmtEOD    = 0x08000000
	gmtWrProt = 0x04000000
	gmtOnline = 0x01000000
)

type mtop struct {
	op    int16
	count int32
}

type mtget struct {
	typ, resid, dsreg, gstat, erreg int64
	fileno, blkno                   int32
}

// st is a drive of the kernel's st driver.
type st struct {
	f      *os.File
	name   string
	flag   int
	warned bool
}

// OpenDrive opens a tape device that does not rewind, /dev/nstN; /dev/stN is
// taken for it. HOST:/dev/nstN is one of another machine.
func OpenDrive(name string, write bool) (Drive, error) {
	if IsRemote(name) {
		return OpenRemote(name, write, nil)
	}
	if d, n := "/dev/st", name; len(n) > len(d) && n[:len(d)] == d {
		name = "/dev/nst" + n[len(d):]
	}
	flag := unix.O_RDONLY
	if write {
		flag = unix.O_RDWR
	}
	s := &st{name: name, flag: flag}
	if err := s.Reload(); err != nil {
		return nil, err
	}
	var g mtget
	if err := s.ioctl(mtIOCGet, unsafe.Pointer(&g)); err != nil {
		s.f.Close()
		return nil, fmt.Errorf("cannot use %s: it is not a tape drive: %w", name, err)
	}
	if write && uint64(g.gstat)&gmtWrProt != 0 {
		s.f.Close()
		return nil, fmt.Errorf("cannot write to the tape in %s: it is write-protected", name)
	}
	return s, nil
}

// Reload opens the device again: the driver looks at the tape when it is
// opened. Without O_NONBLOCK that would wait for one; we want to say so.
func (s *st) Reload() error {
	if s.f != nil {
		s.f.Close()
	}
	s.warned = false
	fd, err := unix.Open(s.name, s.flag|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cannot open tape drive %s: %w", s.name, err)
	}
	s.f = os.NewFile(uintptr(fd), s.name)
	return unix.SetNonblock(fd, false)
}

func (s *st) String() string { return s.name }

func (s *st) ioctl(req uint, p unsafe.Pointer) error {
	for {
		_, _, e := unix.Syscall(unix.SYS_IOCTL, s.f.Fd(), uintptr(req), uintptr(p))
		if e == unix.EINTR {
			continue
		}
		if e != 0 {
			return e
		}
		return nil
	}
}

func (s *st) op(what string, op int16, count int) error {
	if err := s.ioctl(mtIOCTop, unsafe.Pointer(&mtop{op, int32(count)})); err != nil {
		return fmt.Errorf("cannot %s the tape in %s: %w", what, s.name, err)
	}
	return nil
}

func (s *st) SetBlock(n int) error {
	return s.op(fmt.Sprintf("set blocks of %d bytes for", n), mtSETBLK, n)
}
func (s *st) Rewind() error { s.warned = false; return s.op("rewind", mtREW, 1) }
func (s *st) Forward(n int) error {
	if n == 0 {
		return nil
	}
	return s.op("wind", mtFSF, n)
}
func (s *st) Back(n int) error { return s.op("wind back", mtBSF, n) }
func (s *st) ToEnd() error     { return s.op("wind to the end of", mtEOM, 1) }
func (s *st) Eject() error     { return s.op("eject", mtOFFL, 1) }
func (s *st) Mark() error      { return s.op("write a file mark to", mtWEOF, 1) }
func (s *st) Compression(on bool) error {
	n := 0
	if on {
		n = 1
	}
	return s.op("set compression of", mtCOMPRESSION, n)
}

func (s *st) Position() (Position, error) {
	var g mtget
	if err := s.ioctl(mtIOCGet, unsafe.Pointer(&g)); err != nil {
		return Position{}, fmt.Errorf("cannot ask %s: %w", s.name, err)
	}
	b := uint64(g.gstat)
	return Position{File: int(g.fileno), Block: int(g.blkno), Online: b&gmtOnline != 0, WriteProtected: b&gmtWrProt != 0, End: b&gmtEOD != 0}, nil
}

// Write: the driver gives ENOSPC once when the drive warns of the end; what
// is written after that still goes to the tape, until it gives it again
// (Documentation/scsi/st.rst, "EOM behaviour when writing").
func (s *st) Write(p []byte) (bool, error) {
	for tries := 0; len(p) > 0; {
		n, err := s.f.Write(p)
		p = p[max(0, n):]
		switch {
		case err == nil:
		case errors.Is(err, unix.ENOSPC):
			s.warned = true
			if tries++; tries > 1 {
				return true, ErrFull
			}
		case s.warned && errors.Is(err, unix.EIO):
			return true, ErrFull // the very end
		default:
			return s.warned, err
		}
	}
	return s.warned, nil
}

func (s *st) Read(p []byte) (int, error) {
	n, err := unix.Read(int(s.f.Fd()), p)
	if n < 0 {
		n = 0
	}
	if err == nil && n > 0 {
		return n, nil
	}
	pos, e := s.Position()
	if err != nil {
		if errors.Is(err, unix.ENOMEM) {
			return n, fmt.Errorf("cannot read %s: its blocks are larger than %d bytes", s.name, len(p))
		}
		// The driver passes BLANK CHECK on as EIO at the beginning of a tape, as it
		// does any other error: the drive is asked itself.
		if e == nil && pos.End || errors.Is(err, unix.EIO) && blankCheck(s.f.Fd()) {
			return n, ErrBlank
		}
		return n, fmt.Errorf("cannot read %s: %w", s.name, err)
	}
	if e == nil && pos.End {
		return 0, ErrBlank
	}
	return 0, io.EOF
}

func (s *st) Close() error { return s.f.Close() }

// blankCheck reads one block past the driver and reports whether the drive answers
// that nothing was written here.
func blankCheck(fd uintptr) bool {
	const blocks = 64 << 10
	cmd := []byte{0x08, 0, blocks >> 16 & 255, blocks >> 8 & 255, blocks & 255, 0} // READ(6) of a variable block
	data, sense := make([]byte, blocks), make([]byte, 32)
	h := sgIOHeader{interfaceID: 'S', direction: sgFromDev, cmdLen: uint8(len(cmd)), maxSense: uint8(len(sense)), dataLen: blocks, data: unsafe.Pointer(&data[0]), cmd: unsafe.Pointer(&cmd[0]), sense: unsafe.Pointer(&sense[0]), timeout: 120_000}
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, fd, sgIO, uintptr(unsafe.Pointer(&h))); e != 0 {
		return false
	}
	return saysBlank(sense[:h.senseWritten])
}

// saysBlank reports whether sense data have the key BLANK CHECK; SPC-4, §4.5.
func saysBlank(sense []byte) bool {
	const blankCheck = 8
	if len(sense) < 3 {
		return false
	}
	switch sense[0] & 0x7F {
	case 0x70: // fixed format, of this command
		return sense[2]&0x0F == blankCheck
	case 0x72: // descriptor format
		return sense[1]&0x0F == blankCheck
	}
	return false
}
