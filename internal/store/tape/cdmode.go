package tape

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// CDDrive is a tape drive that presents itself as a CD drive, as it does after
// it started the machine.
type CDDrive struct {
	Address string // HOST:CHANNEL:ID:LUN
	Generic string // /dev/sgN
	dir     string // of the device in sysfs
	root    string
}

// typeCD is the SCSI device type of CD drives.
const typeCD = "5"

// CDDrives finds them: CD drives whose INQUIRY data have a tape drive's sign.
// root is that of the file system, "" for the running one's.
func CDDrives(root string) ([]CDDrive, error) {
	dirs, err := filepath.Glob(root + "/sys/class/scsi_device/*/device")
	if err != nil {
		return nil, err
	}
	var out []CDDrive
	for _, d := range dirs {
		typ, err := os.ReadFile(d + "/type")
		if err != nil || strings.TrimSpace(string(typ)) != typeCD {
			continue
		}
		b, err := os.ReadFile(d + "/inquiry")
		if err != nil || len(b) < 49 || string(b[43:49]) != obdrSignature {
			continue
		}
		sg, err := filepath.Glob(d + "/scsi_generic/sg*")
		if err != nil || len(sg) != 1 {
			return out, fmt.Errorf("cannot leave CD mode of the drive at %s: it has no generic device; is the driver sg loaded?", filepath.Base(filepath.Dir(d)))
		}
		out = append(out, CDDrive{filepath.Base(filepath.Dir(d)), root + "/dev/" + filepath.Base(sg[0]), d, root})
	}
	return out, nil
}

// leaveCDMode is MODE SELECT(6) (SPC-3 6.7) with page 3Eh, "CD-ROM emulation /
// disaster recovery", whose byte 2 is zero: the drive is a tape drive again,
// and loads the tape (HP Ultrium technical reference, vol. 3).
var (
	leaveCDModeCommand = []byte{0x15, 0x10, 0, 0, 8, 0}
	leaveCDModeData    = []byte{0, 0, 0, 0, 0x3E, 0x02, 0, 0}
)

// sgIOHeader is struct sg_io_hdr of scsi/sg.h.
type sgIOHeader struct {
	interfaceID    int32
	direction      int32
	cmdLen         uint8
	maxSense       uint8
	iovecCount     uint16
	dataLen        uint32
	data           unsafe.Pointer
	cmd            unsafe.Pointer
	sense          unsafe.Pointer
	timeout        uint32 // ms
	flags          uint32
	packID         int32
	_              [4]byte
	user           unsafe.Pointer
	status         uint8
	maskedStatus   uint8
	msgStatus      uint8
	senseWritten   uint8
	hostStatus     uint16
	driverStatus   uint16
	residual       int32
	duration, info uint32
	_              [4]byte
}

const (
	sgIO      = 0x2285
	sgToDev   = -2
	sgFromDev = -3
)

// Leave has the drive be a tape drive again: the mode page, and the kernel looks
// at the device again.
func (c CDDrive) Leave() error {
	if err := c.send(leaveCDModeCommand, leaveCDModeData); err != nil {
		return fmt.Errorf("cannot leave CD mode of the drive at %s: %w", c.Address, err)
	}
	return c.rescan()
}

func (c CDDrive) send(cmd, data []byte) error {
	f, err := os.OpenFile(c.Generic, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	sense := make([]byte, 32)
	h := sgIOHeader{interfaceID: 'S', direction: sgToDev, cmdLen: uint8(len(cmd)), maxSense: uint8(len(sense)), dataLen: uint32(len(data)), data: unsafe.Pointer(&data[0]), cmd: unsafe.Pointer(&cmd[0]), sense: unsafe.Pointer(&sense[0]), timeout: 30_000}
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), sgIO, uintptr(unsafe.Pointer(&h))); e != 0 {
		return e
	}
	if h.status != 0 || h.hostStatus != 0 || h.driverStatus != 0 {
		return fmt.Errorf("MODE SELECT: status %#x, host %#x, driver %#x, sense % x", h.status, h.hostStatus, h.driverStatus, sense[:h.senseWritten])
	}
	return nil
}

// rescan takes the device out and has the kernel look for it again.
func (c CDDrive) rescan() error {
	host, rest, ok := strings.Cut(c.Address, ":")
	if !ok {
		return fmt.Errorf("%q is not a SCSI address", c.Address)
	}
	err := os.WriteFile(c.dir+"/delete", []byte("1"), 0)
	e := os.WriteFile(c.root+"/sys/class/scsi_host/host"+host+"/scan", []byte(strings.ReplaceAll(rest, ":", " ")), 0)
	if err = errors.Join(err, e); err != nil {
		return fmt.Errorf("cannot look at the drive at %s again: %w", c.Address, err)
	}
	return nil
}
