package clone

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/mkcdrec/mkcdrec/internal/agekey"
	"github.com/mkcdrec/mkcdrec/internal/archive"
	"github.com/mkcdrec/mkcdrec/internal/clonezilla"
	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/partclone"
	"github.com/mkcdrec/mkcdrec/internal/probe"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/restore"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

// partImage is one image of partclone, in one file or in parts: what was on a partition.
type partImage struct {
	imageDir
	name   string
	header partclone.Header
	image  *clonezilla.Image
}

// partName is what the layout calls the device that an image was made of.
const partName = "partition"

// openPartImage opens an image of partclone; nil for another file.
func openPartImage(name string, verify bool) (*partImage, error) {
	if st, err := os.Stat(name); err == nil && !st.Mode().IsRegular() || err != nil && !exists(name+".aa") {
		return nil, nil
	}
	set, image, err := clonezilla.Single(name)
	if err != nil {
		return nil, err
	}
	r, err := set.Stream(image)
	if err != nil {
		if image.Refused != "" { // parts that are missing
			return nil, err
		}
		return nil, nil
	}
	defer r.Close()
	img, err := partclone.OpenLimit(r, partclone.DefaultLimit)
	if errors.Is(err, partclone.ErrNoImage) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot clone %s: %w", name, err)
	}
	p := &partImage{name: name, header: img.Header, image: image}
	typ := img.FS
	for _, n := range fstype.Names(func(t *fstype.Type) bool { return t.Partclone != "" && t.Partclone == img.FS }) {
		typ = n // where the place of the partition is in it
	}
	p.set, p.verify = set, verify
	p.layout = bare()
	p.layout.Disks = []layout.Disk{{Name: partName, Size: quantity.Size(img.Size()), LogicalSector: 512, PhysicalSector: 512}}
	p.layout.Images = []layout.Image{{Device: partName, Type: typ, Size: quantity.Size(img.Size()), File: image.Name}}
	return p, nil
}

func exists(name string) bool { _, err := os.Stat(name); return err == nil }

// Name implements restore.Content.
func (p *partImage) Name() string {
	return fmt.Sprintf("Image of partclone %s: %s, %s, of which %s are used", p.name, p.header.FS, p.layout.Images[0].Size, quantity.Size(p.header.UsedBlocks*p.header.BlockSize))
}

// ID implements restore.Content.
func (p *partImage) ID() (id, digest string) {
	return "image " + p.image.Name, fmt.Sprintf("%x", sha256.Sum256(fmt.Appendf(nil, "%+v %d", p.header, p.image.Size)))
}

// Header implements restore.Content: there are no LUKS devices.
func (p *partImage) Header(*layout.Crypt, agekey.Keys) ([]byte, error) {
	return nil, errors.New("an image of partclone has no LUKS header")
}

// Files implements restore.Content: there are no file systems in the layout.
func (p *partImage) Files(context.Context, string, layout.Mount, string, archive.ExtractOptions, progress.Reporter) (*archive.Summary, error) {
	return nil, errors.New("cannot copy files out of an image of partclone")
}

// Blocks implements restore.Content.
func (p *partImage) Blocks(ctx context.Context, m *layout.Image, dst *os.File, rep progress.Reporter) error {
	return p.write(ctx, p.image, m, dst, rep)
}

// runPartImage writes an image of partclone to a partition, a volume, a disk or a file.
func runPartImage(ctx context.Context, run tool.Runner, screen restore.Screen, p *partImage, o Options) (*restore.Report, error) {
	if o.Identity == New {
		return nil, &exit.Refusal{Reason: "the file system in an image of partclone keeps its UUID: use --identity keep"}
	}
	if len(o.Target) != 1 {
		return nil, &exit.Refusal{Reason: "an image of partclone is of one partition, and goes to one device"}
	}
	m := probe.Machine{Run: run}
	ro := o.Restore
	ro.Content, ro.DataOnly = p, true
	ro.Sources = map[string]string{}
	if dev, err := m.DeviceAt(filepath.Dir(p.name)); err == nil && dev != "" {
		ro.Sources[dev] = "it holds the image"
	}
	disks, err := probe.Machine{Run: run, Only: o.Target}.Disks()
	if err != nil {
		return nil, err
	}
	if slices.ContainsFunc(disks, func(d layout.Disk) bool { return d.Name == o.Target[0] }) {
		ro.Wish.Map = map[string]string{partName: o.Target[0]}
		return onlyOnto(ctx, run, screen, o.Target, ro)
	}
	ro.Onto = o.Target[0]
	return onlyOnto(ctx, run, screen, m.DisksOf(o.Target[0]), ro)
}
