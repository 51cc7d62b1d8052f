package recreate

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/plan"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
)

// putImage writes a device block by block.
func (r *Recreator) putImage(ctx context.Context, s *plan.PutImage) error {
	f, err := r.claim(s.Device)
	if err != nil {
		return err
	}
	err = r.Image(ctx, s.Image, f)
	if err == nil {
		err = setHidden(f, s.Image.Type, s.Start)
	}
	if err == nil {
		if err = f.Sync(); err != nil {
			err = fmt.Errorf("cannot write /dev/%s: %w", s.Device, err)
		}
	}
	// What grows it opens the device itself.
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	// Its content is there, whether it is grown or not. With the UUID of its source it would
	// be taken for that.
	if err := r.runAll(ctx, s.Run); err != nil {
		if ctx.Err() != nil || s.UUID != "" {
			return err
		}
		r.Report.Warn("the %s on /dev/%s keeps its size of %s: %v", s.Image.What(), s.Device, s.Image.Size, err)
	}
	return nil
}

// device is what setHidden works on.
type device interface {
	io.ReaderAt
	io.WriterAt
}

// setHidden writes into a FAT or NTFS where its partition begins now, in its boot
// sector and the copy of it: Windows starts by that.
func setHidden(f device, typ string, start quantity.Size) error {
	t := fstype.Of(typ)
	if t.BootCopy == nil || start == 0 {
		return nil
	}
	b := make([]byte, 512)
	if _, err := f.ReadAt(b, 0); err != nil {
		return fmt.Errorf("cannot read the boot sector: %w", err)
	}
	le := binary.LittleEndian
	sector := int64(le.Uint16(b[11:]))
	if sector < 512 {
		return errors.New("cannot read the boot sector: it is damaged")
	}
	for _, at := range []int64{0, t.BootCopy(b)} {
		s := make([]byte, 512)
		if _, err := f.ReadAt(s, at); err != nil || string(s[3:11]) != string(b[3:11]) {
			continue // no copy there
		}
		le.PutUint32(s[28:], uint32(int64(start)/sector))
		if _, err := f.WriteAt(s, at); err != nil {
			return fmt.Errorf("cannot write the boot sector: %w", err)
		}
	}
	return nil
}
