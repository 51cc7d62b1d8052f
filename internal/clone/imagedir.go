package clone

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/agekey"
	"github.com/mkcdrec/mkcdrec/internal/archive"
	"github.com/mkcdrec/mkcdrec/internal/clonezilla"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/partclone"
	"github.com/mkcdrec/mkcdrec/internal/plan"
	"github.com/mkcdrec/mkcdrec/internal/progress"
)

// imageDir is an image directory of Clonezilla.
type imageDir struct {
	dir    string
	set    *clonezilla.Set
	layout *layout.Layout
	verify bool // each device is compared with its image
}

// openImageDir opens an image directory of Clonezilla.
func openImageDir(dir string, verify bool) (*imageDir, error) {
	set, err := clonezilla.OpenDir(dir)
	if err != nil {
		return nil, err
	}
	if !set.Whole {
		return nil, fmt.Errorf("cannot clone %s: it has single partitions, and not a whole disk (made by \"saveparts\")", dir)
	}
	l, err := set.Layout()
	if err != nil {
		return nil, err
	}
	for i := range l.Crypts {
		l.Crypts[i].Header = l.Crypts[i].Device
	}
	return &imageDir{dir, set, l, verify}, nil
}

// Name implements restore.Content.
func (d *imageDir) Name() string { return "Image of Clonezilla in " + d.dir }

// ID implements restore.Content.
func (d *imageDir) ID() (id, digest string) {
	h := sha256.New()
	if err := json.NewEncoder(h).Encode(d.layout); err != nil {
		panic("clone: internal error: " + err.Error())
	}
	for _, c := range d.set.Contents {
		if c.Image != nil {
			fmt.Fprintln(h, c.Device, c.Image.Name, c.Image.Size)
		}
	}
	return "image " + filepath.Base(d.dir), fmt.Sprintf("%x", h.Sum(nil))
}

// Layout implements restore.Content.
func (d *imageDir) Layout() *layout.Layout { return d.layout }

// Lacks implements restore.Content.
func (d *imageDir) Lacks() (lacks, left []string) {
	for _, u := range d.layout.Unsupported {
		lacks = append(lacks, u.What+": "+u.Reason)
	}
	return lacks, nil
}

// Has implements restore.Content. Files in images are not looked at.
func (d *imageDir) Has(...string) (bool, error) { return false, nil }

// Header implements restore.Content.
func (d *imageDir) Header(c *layout.Crypt, _ agekey.Keys) ([]byte, error) {
	b, err := d.set.Header(c.Device)
	if err != nil {
		return nil, err
	}
	if int64(len(b)) < c.LUKS.Offset { // only what there is
		b = append(b, make([]byte, c.LUKS.Offset-int64(len(b)))...)
	}
	return b[:c.LUKS.Offset], nil
}

// Files implements restore.Content: there are no file systems in the layout.
func (d *imageDir) Files(context.Context, string, layout.Mount, string, archive.ExtractOptions, progress.Reporter) (*archive.Summary, error) {
	return nil, errors.New("cannot copy files out of an image of Clonezilla")
}

// Blocks implements restore.Content.
func (d *imageDir) Blocks(ctx context.Context, m *layout.Image, dst *os.File, rep progress.Reporter) error {
	i := d.set.Image(m.File)
	if i == nil {
		return fmt.Errorf("cannot restore %s: it has no image", m.Device)
	}
	return d.write(ctx, i, m, dst, rep)
}

// write writes an image to a device, and compares it where that is wanted.
func (d *imageDir) write(ctx context.Context, i *clonezilla.Image, m *layout.Image, dst *os.File, rep progress.Reporter) error {
	if err := d.put(ctx, i, m, dst, "writing ", rep); err != nil || !d.verify {
		return err
	}
	c, err := comparing(dst)
	if err != nil {
		return err
	}
	defer c.Close()
	return errors.Join(d.put(ctx, i, m, c, "comparing ", rep), c.differ())
}

// put gives dst what is in an image.
func (d *imageDir) put(ctx context.Context, i *clonezilla.Image, m *layout.Image, dst io.WriterAt, what string, rep progress.Reporter) (err error) {
	r, err := d.set.Stream(i)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	in := &ending{ctx, r}
	if i.Kind == clonezilla.Raw {
		_, err = io.Copy(&counting{io.NewOffsetWriter(dst, 0), rep.Phase(what+m.Device, int64(m.Size))}, in)
	} else {
		err = putPartclone(in, dst, int64(m.Size), func(total int64) progress.Counter { return rep.Phase(what+m.Device, total) })
	}
	if err != nil {
		return fmt.Errorf("cannot restore %s from %s: %w", m.Device, i.Name, err)
	}
	return nil
}

// putPartclone writes an image of partclone to a device of size bytes.
func putPartclone(r io.Reader, dst io.WriterAt, size int64, phase func(total int64) progress.Counter) error {
	img, err := partclone.Open(r)
	if err != nil {
		return err
	}
	if img.Size() > size {
		return fmt.Errorf("its file system has %d bytes, and the device %d", img.Size(), size)
	}
	p := phase(img.UsedBlocks * img.BlockSize)
	for {
		at, b, err := img.Next()
		if err == io.EOF {
			return nil
		}
		if err == nil {
			_, err = dst.WriteAt(b, at)
		}
		if err != nil {
			return err
		}
		p.Add(int64(len(b)))
	}
}

// ending is a reader that ends with its context.
type ending struct {
	ctx context.Context
	r   io.Reader
}

func (e *ending) Read(p []byte) (int, error) {
	if err := e.ctx.Err(); err != nil {
		return 0, context.Cause(e.ctx)
	}
	return e.r.Read(p)
}

// counting adds what is written to a counter.
type counting struct {
	w io.Writer
	p progress.Counter
}

func (c *counting) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.p.Add(int64(n))
	return n, err
}

// Lost implements restore.Content: an image is read, or it is an error.
func (d *imageDir) Lost() []string { return nil }

// draft adds the boot code of the disks: nothing else would make them boot.
func (d *imageDir) draft(p *plan.Draft, _ func(string) string) error {
	p.Blocks = map[string]string{}
	for _, m := range p.Layout.Images {
		if m.File != "" {
			p.Blocks[m.Device] = "the image"
		}
	}
	p.Boot = map[string]*plan.BootCode{}
	for i := range d.set.Disks {
		s := &d.set.Disks[i]
		if len(s.MBR) < 440 || s.Table == nil {
			continue
		}
		b := &plan.BootCode{Sector: s.MBR[:440]}
		if s.Table.Label == layout.MBR {
			gap, err := d.set.Gap(s)
			if err != nil {
				return err
			}
			b.Gap = gap
			if room := firstStart(s.Table) - s.LogicalSector; int64(len(gap)) > int64(room) {
				b.Gap = gap[:max(room, 0)]
			}
		}
		p.Boot[s.Name] = b
	}
	return nil
}

// isImageDir reports whether a source is an image directory of Clonezilla.
func isImageDir(name string) bool {
	st, err := os.Stat(name)
	return err == nil && st.IsDir() && clonezilla.IsSet(os.DirFS(name))
}

// isSet reports whether a source is a backup set: a directory or a URL.
func isSet(name string) bool {
	st, err := os.Stat(name)
	return strings.Contains(name, ":") || err == nil && st.IsDir()
}
