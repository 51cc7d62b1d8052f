package tape

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// One Button Disaster Recovery: a drive that is switched on with its eject
// button held presents itself as a CD drive, with an image that begins 20
// blocks into the tape (HP Ultrium technical reference, vol. 3). The header is
// 20 blocks of 512 bytes, the image follows in blocks of 2,048 bytes, with no
// file mark between.
const (
	obdrHeaderBlocks = 20
	obdrHeaderBlock  = 512
	obdrBlock        = 2048
	// MaxOBDR is the largest image that drives present, in bytes.
	MaxOBDR = 600 << 20
	// obdrFirst is what the firmware reads before it decides.
	obdrFirst = 250 << 10
)

// writeImage writes an image, which is whole sectors.
func writeImage(d Drive, f io.Reader) error {
	buf := make([]byte, 256<<10)
	for {
		n, err := io.ReadFull(f, buf)
		if n > 0 {
			warn, err := d.Write(buf[:n])
			if err == nil && warn {
				err = errors.New("its end is near")
			}
			if err != nil {
				return fmt.Errorf("cannot write OBDR image: the tape is too short: %w", err)
			}
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("cannot read OBDR image: %w", err)
		}
	}
}

// WriteOBDR writes header, image and a file mark at the beginning of a tape,
// and reads them back.
func WriteOBDR(d Drive, iso string) error {
	f, err := os.Open(iso)
	if err != nil {
		return fmt.Errorf("cannot write OBDR image: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if err := CheckOBDRImage(f, st.Size()); err != nil {
		return fmt.Errorf("cannot write OBDR image %s: %w", iso, err)
	}
	if err := d.Rewind(); err != nil {
		return err
	}
	if err := d.SetBlock(obdrHeaderBlock); err != nil {
		return err
	}
	head := make([]byte, obdrHeaderBlocks*obdrHeaderBlock)
	copy(head, obdrTag)
	if _, err := d.Write(head); err != nil {
		return fmt.Errorf("cannot write OBDR header: %w", err)
	}
	if err := d.SetBlock(obdrBlock); err != nil {
		return err
	}
	if err := writeImage(d, f); err != nil {
		return err
	}
	if err := d.Mark(); err != nil {
		return err
	}
	if err := CheckOBDR(d, st.Size()); err != nil {
		return fmt.Errorf("the OBDR image is on the tape, but a drive would not start it: %w", err)
	}
	// The set comes behind the file mark.
	if err := d.Rewind(); err != nil {
		return err
	}
	return d.Forward(1)
}

// CheckOBDRImage checks what the firmware wants of an image.
func CheckOBDRImage(r io.ReaderAt, size int64) error {
	if size > MaxOBDR {
		return fmt.Errorf("it has %d bytes; drives present at most %d", size, int64(MaxOBDR))
	}
	if size%obdrBlock != 0 {
		return fmt.Errorf("it has %d bytes, which is not a multiple of its sectors", size)
	}
	b := make([]byte, obdrFirst)
	if n, err := r.ReadAt(b, 0); err != nil && !(err == io.EOF && n > 32*obdrBlock) {
		return err
	}
	if string(b[16*obdrBlock+1:16*obdrBlock+6]) != "CD001" {
		return errors.New("it is not an ISO 9660 image")
	}
	if !strings.HasPrefix(string(b[17*obdrBlock+7:]), "EL TORITO SPECIFICATION") {
		return errors.New("it does not start by itself: sector 17 has no El Torito boot record")
	}
	cat := int64(binary.LittleEndian.Uint32(b[17*obdrBlock+0x47:])) * obdrBlock
	if cat+64 > obdrFirst {
		return fmt.Errorf("its boot catalog lies at byte %d, behind the first %d that the firmware reads", cat, obdrFirst)
	}
	loader := int64(binary.LittleEndian.Uint32(b[cat+0x28:])) * obdrBlock
	if loader+4*512 > obdrFirst {
		return fmt.Errorf("its boot loader lies at byte %d, behind the first %d that the firmware reads", loader, obdrFirst)
	}
	return nil
}

// CheckOBDR reads a tape as the firmware does: the image begins at block 20, in
// blocks of 2,048 bytes, with no file mark before it, has the two descriptors
// and the boot loader near its beginning, its whole length, and ends with a
// file mark.
func CheckOBDR(d Drive, size int64) error {
	if err := d.Rewind(); err != nil {
		return err
	}
	if err := d.SetBlock(0); err != nil {
		return err
	}
	buf := make([]byte, 64<<10)
	for i := range obdrHeaderBlocks {
		n, err := d.Read(buf)
		if err != nil {
			return fmt.Errorf("block %d of the header: %w", i, noMark(err))
		}
		if n != obdrHeaderBlock {
			return fmt.Errorf("block %d of the header has %d bytes, not %d", i, n, obdrHeaderBlock)
		}
	}
	first := make([]byte, 0, obdrFirst+obdrBlock)
	got := int64(0)
	for {
		n, err := d.Read(buf)
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("block %d of the image: %w", got/obdrBlock, err)
		}
		if n != obdrBlock {
			return fmt.Errorf("block %d of the image has %d bytes, not %d", got/obdrBlock, n, obdrBlock)
		}
		if len(first) < obdrFirst {
			first = append(first, buf[:n]...)
		}
		got += int64(n)
	}
	if got != size {
		return fmt.Errorf("the image has %d bytes on the tape, not %d", got, size)
	}
	return CheckOBDRImage(strings.NewReader(string(first)), min(size, int64(len(first))))
}

func noMark(err error) error {
	if err == io.EOF {
		return errors.New("there is a file mark, where the image must follow without one")
	}
	return err
}

// obdrSignature is at bytes 43 to 48 of the INQUIRY data of drives that can.
const obdrSignature = "$DR-10"

// CanOBDR reports whether the drive called name, /dev/nstN, claims that it can start
// a machine. root is that of the file system, "" for the running one's.
func CanOBDR(root, name string) (bool, error) {
	base := strings.TrimPrefix(name, "/dev/")
	b, err := os.ReadFile(root + "/sys/class/scsi_tape/" + base + "/device/inquiry")
	if err != nil {
		return false, fmt.Errorf("cannot ask %s what it can: %w", name, err)
	}
	return len(b) >= 49 && string(b[43:49]) == obdrSignature, nil
}
