package builder

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/initramfs"
	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

// burnTries is how often one image is tried to be burned.
const burnTries = 3

// Burner is a program that burns images.
type Burner struct {
	Name string
	args func(dev, image string) []string
}

// burners, in the order of preference. xorriso blanks what can be blanked and
// is not blank; growisofs does DVD and BD.
var burners = []Burner{
	{"xorriso", func(dev, image string) []string {
		return []string{"xorriso", "-as", "cdrecord", "-v", "dev=" + dev, "blank=as_needed", image}
	}},
	{"growisofs", func(dev, image string) []string { return []string{"growisofs", "-dvd-compat", "-Z", dev + "=" + image} }},
}

// FindBurner gives a program of this machine that burns discs.
func FindBurner() (*Burner, error) {
	for i := range burners {
		if _, err := initramfs.LookPath("", burners[i].Name); err == nil {
			return &burners[i], nil
		}
	}
	return nil, errors.New("cannot burn: this machine has neither xorriso nor growisofs; the images are whole without it")
}

// majorCD is the major number of optical drives, SCSI_CDROM_MAJOR of linux/major.h.
const majorCD = 11

// stdio has xorriso use a file in the place of a drive.
const stdio = "stdio:"

// CheckBurn reports why images can't be burned in the drive dev, before they are made: a program would take a file, and
// write the image to it.
func CheckBurn(dev string) error {
	if _, err := FindBurner(); err != nil || strings.HasPrefix(dev, stdio) {
		return err
	}
	var st unix.Stat_t
	if err := unix.Stat(dev, &st); err != nil {
		return fmt.Errorf("cannot burn: %w", &os.PathError{Op: "open", Path: dev, Err: err})
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK || unix.Major(st.Rdev) != majorCD {
		return &exit.Refusal{Reason: dev + " is not an optical drive"}
	}
	return nil
}

// Burn writes images to discs in the drive dev, one after the other, and reads
// each back. ask is called before each disc but the first, and after a failure;
// nil when there is nobody, which leaves one image and one try.
func (b *Builder) Burn(ctx context.Context, dev string, images []DiscImage, ask func(text string) error) error {
	if err := CheckBurn(dev); err != nil {
		return err
	}
	p, err := FindBurner()
	if err != nil {
		return err
	}
	if ask == nil && len(images) > 1 {
		return fmt.Errorf("cannot burn %d discs: no terminal to ask for disc changes; the images are complete", len(images))
	}
	for i, im := range images {
		if i > 0 {
			if err := ask(fmt.Sprintf("Put in an empty disc for %s (%d of %d)", im.File, i+1, len(images))); err != nil {
				return err
			}
		}
		for try := 1; ; try++ {
			err := b.burn(ctx, p, dev, im)
			if err == nil {
				b.Report.Note("%s is burned and was read back", im.File)
				break
			}
			if ask == nil || try == burnTries || ctx.Err() != nil {
				return fmt.Errorf("cannot burn %s after %d tries: %w\nthe image is whole; burn it with any program", im.File, try, err)
			}
			b.Report.Warn("%v", err)
			if e := ask(fmt.Sprintf("Try %d of %d failed; put in another disc for %s", try, burnTries, im.File)); e != nil {
				return errors.Join(err, e)
			}
		}
	}
	return nil
}

func (b *Builder) burn(ctx context.Context, p *Burner, dev string, im DiscImage) error {
	b.Report.Phase("burning "+im.File, 0)
	if _, err := b.Run.Run(ctx, tool.New(p.args(dev, im.File)...)); err != nil {
		return err
	}
	file := strings.TrimPrefix(dev, stdio)
	want, err := sumFirst(ctx, im.File, int64(im.Size))
	if err != nil {
		return err
	}
	b.Report.Phase("reading back "+im.File, int64(im.Size))
	got, err := sumFirst(ctx, file, int64(im.Size))
	if err != nil {
		return fmt.Errorf("cannot read the disc back: %w", err)
	}
	if got != want {
		return errors.New("the disc does not hold what was written")
	}
	return nil
}

func sumFirst(ctx context.Context, file string, n int64) (sum [sha256.Size]byte, err error) {
	f, err := os.Open(file)
	if err != nil {
		return sum, err
	}
	defer f.Close()
	h := sha256.New()
	for n > 0 && err == nil {
		if err = ctx.Err(); err == nil {
			var k int64
			k, err = io.CopyN(h, f, min(n, 4<<20))
			n -= k
		}
	}
	return [sha256.Size]byte(h.Sum(nil)), err
}
