package set

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/archive"
	"github.com/mkcdrec/mkcdrec/internal/blockcopy"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
)

// image saves a device block by block. A device that can't be read is not covered;
// errors are those of writing the set.
func (w *Writer) image(ctx context.Context, m *layout.Image) error {
	src, err := openImage(m)
	if err != nil {
		w.imageLacks(m, err)
		return nil
	}
	defer src.Close()
	keep := func([]byte) {}
	if w.ImageStates != nil {
		src.base, keep = w.ImageStates(m)
	}
	var sum *blockcopy.Summary
	return w.stream(ctx, m.File, func(ctx context.Context, out, index io.Writer) (size int64, err error) {
		sum, err = w.imageTo(ctx, out, src, m)
		if sum == nil || err != nil {
			return 0, err
		}
		_, err = index.Write(sum.Index)
		return sum.Packed, err
	}, func(*os.File) error {
		keep(sum.Index)
		if len(sum.Sources) == 0 {
			return nil
		}
		for _, s := range sum.Sources {
			w.chains[m.File] = append(w.chains[m.File], archive.Source{Set: s.Set, Dir: s.Dir, File: s.File})
		}
		return w.frameList(m.File, sum.Runs)
	})
}

// framesFile is the name of the list of the frames that an increment's image has, in the set: on each line the number
// of the first one, and how many follow each other.
func framesFile(image string) string {
	return "log/" + strings.TrimSuffix(image, manifest.ImageSuffix) + ".frames"
}

// frameList writes the list of an image's frames, which a restore by hand needs.
func (w *Writer) frameList(name string, runs [][2]int64) error {
	f, err := w.open(framesFile(name))
	if err != nil {
		return err
	}
	b := bufio.NewWriter(f)
	for _, r := range runs {
		fmt.Fprintln(b, r[0], r[1]) // Flush gives the error
	}
	if err := errors.Join(b.Flush(), f.Close()); err != nil {
		return fmt.Errorf("cannot write the list of frames: %w", err)
	}
	return nil
}

// imageSource is a device that is to be saved.
type imageSource struct {
	*blockcopy.Device
	use  *deviceUse
	used *blockcopy.Map
	why  string          // the device is saved as a whole
	base *blockcopy.Base // what it is compared with, nil for nothing
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

// imageLacks leaves an image out of the set that could not be made.
func (w *Writer) imageLacks(m *layout.Image, err error) {
	w.Lacks("%s (%s): it can't be read: %v", m.Device, m.What(), err)
	m.File = ""
}

// imageTo writes a device's image, the blocks that are in use where that is known,
// and enters it in the manifest. Without a summary and an error the image could
// not be made, and is entered as not covered.
func (w *Writer) imageTo(ctx context.Context, out io.Writer, src *imageSource, m *layout.Image) (*blockcopy.Summary, error) {
	if src.why != "" {
		w.Report.Note("%s is saved as a whole: %s", m.Device, src.why)
	}
	before, count := src.use.writers(), src.use.written()
	crc := crc32.NewIEEE()
	sum, err := blockcopy.WriteIncrement(ctx, io.MultiWriter(out, crc), src, src.used, src.base, w.Report.Phase("saving "+m.Device+" ("+m.What()+")", src.used.Bytes()))
	if failed(ctx, out) {
		return nil, err
	}
	if err != nil {
		w.imageLacks(m, err)
		return nil, nil
	}
	w.imageProblems(m, sum, before, src.use, count)
	w.sfv[m.File] = crc.Sum32()
	w.man.Files = append(w.man.Files, manifest.FileSum{Name: m.File, Size: quantity.Size(sum.Packed), SHA256: fmt.Sprintf("%x", sum.SHA256)})
	w.log.Info("image", "device", m.Device, "type", m.Type, "file", m.File, "used", sum.Used, "packed", sum.Packed, "how", src.used.How)
	return sum, nil
}

// imageProblems enters what an image lacks: bytes that could not be read, and
// what was written while it was made. use and count are the writers and the
// sectors written before.
func (w *Writer) imageProblems(m *layout.Image, sum *blockcopy.Summary, before []string, use *deviceUse, count int64) {
	if len(sum.Bad) > 0 {
		total := int64(0)
		for _, b := range sum.Bad {
			total += b.Length
			w.log.Warn("can't be read", "device", m.Device, "offset", b.Start, "bytes", b.Length)
		}
		w.Lacks("%s (%s): %d bytes can't be read (%v) and are zero in the image: %s", m.Device, m.What(), total, sum.ReadError, ranges(sum.Bad))
	}
	who := before
	for _, x := range use.writers() {
		if !slices.Contains(who, x) {
			who = append(who, x)
		}
	}
	if n := use.written(); n != count {
		who = append(who, fmt.Sprintf("%d sectors of 512 bytes were written to it meanwhile", n-count))
	}
	if len(who) > 0 {
		w.Lacks("%s (%s): it could be written to while it was saved, so the image may be inconsistent: %s; stop what uses it, or save it from inside the guest", m.Device, m.What(), strings.Join(who, "; "))
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
