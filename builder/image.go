package builder

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/blockcopy"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
)

// sink is where a part of the set goes. It keeps the error of writing, which ends
// the run; other errors of making a part only cost that part.
type sink struct {
	w   io.Writer
	err error
}

func (s *sink) Write(p []byte) (int, error) {
	n, err := s.w.Write(p)
	if err != nil && s.err == nil {
		s.err = err
	}
	return n, err
}

// image saves a device block by block in a file of the set. A device that can't
// be read is not covered; errors are those of writing the set.
func (s *setWriter) image(ctx context.Context, m *layout.Image) error {
	src, err := openImage(m)
	if err != nil {
		s.imageLacks(m, err)
		return nil
	}
	defer src.Close()
	f, err := s.file(m.File)
	if err != nil {
		return err
	}
	defer f.Close()
	name := m.File
	out := &sink{w: f}
	sum, err := s.imageTo(ctx, out, src, m)
	if fatal := errors.Join(out.err, ctx.Err()); fatal != nil {
		return fmt.Errorf("cannot save %s: %w", m.Device, fatal)
	}
	if sum == nil { // not covered
		if err := errors.Join(f.Close(), os.Remove(filepath.Join(s.dir, name))); err != nil {
			return fmt.Errorf("cannot write the set: %w", err)
		}
		return nil
	}
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("cannot save %s: %w", m.Device, err)
	}
	return nil
}

// imageSource is a device that is to be saved.
type imageSource struct {
	*blockcopy.Device
	use  *deviceUse
	used *blockcopy.Map
	why  string // the device is saved as a whole
}

func openImage(m *layout.Image) (*imageSource, error) {
	name := filepath.Join("/dev", m.Device)
	dev, err := blockcopy.OpenDevice(name)
	if err != nil {
		return nil, err
	}
	src := &imageSource{Device: dev}
	if src.use, err = newDeviceUse(dev.File, name); err != nil {
		dev.Close()
		return nil, err
	}
	src.used, src.why = blockcopy.Of(dev, int64(m.Size))
	return src, nil
}

// lacks enters something that the set lacks, in the manifest and the log.
func (s *setWriter) lacks(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	s.man.NotCovered = append(s.man.NotCovered, text)
	s.b.Report.Warn("not covered: %s", text)
}

// imageLacks leaves an image out of the set that could not be made.
func (s *setWriter) imageLacks(m *layout.Image, err error) {
	s.lacks("%s (%s): it can't be read: %v", m.Device, m.What(), err)
	m.File = ""
}

// imageTo writes a device's image, the blocks that are in use where that is known,
// and enters it in the manifest. Without a summary and an error the image could
// not be made, and is entered as not covered.
func (s *setWriter) imageTo(ctx context.Context, w io.Writer, src *imageSource, m *layout.Image) (*blockcopy.Summary, error) {
	if src.why != "" {
		s.b.Report.Note("%s is saved as a whole: %s", m.Device, src.why)
	}
	before, count := src.use.writers(), src.use.written()
	crc := crc32.NewIEEE()
	sum, err := blockcopy.Write(ctx, io.MultiWriter(w, crc), src, src.used, s.b.Report.Phase("saving "+m.Device+" ("+m.What()+")", src.used.Bytes()))
	if err != nil {
		if ctx.Err() == nil {
			s.imageLacks(m, err)
		}
		return nil, ctx.Err()
	}
	s.imageProblems(m, sum, before, src.use, count)
	s.sfv[m.File] = crc.Sum32()
	s.man.Files = append(s.man.Files, manifest.FileSum{Name: m.File, Size: quantity.Size(sum.Packed), SHA256: fmt.Sprintf("%x", sum.SHA256)})
	s.log.Info("image", "device", m.Device, "type", m.Type, "file", m.File, "used", sum.Used, "packed", sum.Packed, "how", src.used.How)
	return sum, nil
}

// imageProblems enters what an image lacks: bytes that could not be read, and
// what was written while it was made. use and count are the writers and the
// sectors written before.
func (s *setWriter) imageProblems(m *layout.Image, sum *blockcopy.Summary, before []string, use *deviceUse, count int64) {
	if len(sum.Bad) > 0 {
		total := int64(0)
		for _, b := range sum.Bad {
			total += b.Length
			s.log.Warn("can't be read", "device", m.Device, "offset", b.Start, "bytes", b.Length)
		}
		s.lacks("%s (%s): %d bytes can't be read (%v) and are zero in the image: %s", m.Device, m.What(), total, sum.ReadError, ranges(sum.Bad))
	}
	who := before
	for _, w := range use.writers() {
		if !slices.Contains(who, w) {
			who = append(who, w)
		}
	}
	if n := use.written(); n != count {
		who = append(who, fmt.Sprintf("%d sectors of 512 bytes were written to it meanwhile", n-count))
	}
	if len(who) > 0 {
		s.lacks("%s (%s): it could be written to while it was saved, so the image may be inconsistent: %s; stop what uses it, or save it from inside the guest", m.Device, m.What(), strings.Join(who, "; "))
	}
}

// ranges lists the first of some ranges: "bytes 512 to 1023, 4096 to 8191, and 7 more".
func ranges(all []blockcopy.Extent) string {
	const most = 10
	var out []string
	for _, e := range all[:min(len(all), most)] {
		out = append(out, fmt.Sprintf("%d to %d", e.Start, e.Start+e.Length-1))
	}
	text := "bytes " + strings.Join(out, ", ")
	if len(all) > most {
		text += fmt.Sprintf(", and %d more ranges (log/run.jsonl has all)", len(all)-most)
	}
	return text
}
