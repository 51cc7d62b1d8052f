package manifest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/archive"
	"github.com/mkcdrec/mkcdrec/internal/legacy"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/store"
)

// OpenLegacy opens a backup of mkCDrec 1.x; dirs are all its volumes.
func OpenLegacy(dirs ...string) (*Set, error) {
	old, err := legacy.Open(dirs...)
	if err != nil {
		return nil, err
	}
	l, err := old.Layout()
	if err != nil {
		return nil, err
	}
	created, err := time.Parse("02.01.2006", old.Date)
	if err != nil {
		return nil, fmt.Errorf("cannot use %s: its date is %q", dirs[0], old.Date)
	}
	m := &Manifest{Version: Version, ID: old.UUID(l.Hostname, ""), Host: l.Hostname, Created: created, Program: "mkCDrec 1.x"}
	for _, a := range old.Archives {
		m.Archives = append(m.Archives, Archive{File: a.Name, Device: a.Device, Type: a.Type, Mount: a.Mount})
	}
	for _, u := range l.Unsupported {
		m.NotCovered = append(m.NotCovered, u.What+": "+u.Reason)
	}
	return &Set{Manifest: m, Layout: l, place: volumes{set: old, dirs: dirs}}, nil
}

// volumes are those of a backup of mkCDrec 1.x. It has no files but its archives, which
// are streams: none can be opened at an offset, and none has an index.
type volumes struct {
	common
	set  *legacy.Set
	dirs []string
}

func (v volumes) String() string    { return v.dirs[0] }
func (v volumes) Dirs() []string    { return v.dirs }
func (v volumes) Direct() bool      { return false }
func (v volumes) WholeLayout() bool { return false }

func (v volumes) has(Archive, func(string) bool) (bool, error) { return true, nil }

func (v volumes) Size(name string) (int64, error) {
	return 0, fmt.Errorf("cannot open %s: %w", name, os.ErrNotExist)
}

func (v volumes) Open(name string) (store.File, error) {
	_, err := v.Size(name)
	return nil, err
}

func (v volumes) Archive(name string) (*archive.Reader, error) {
	return nil, fmt.Errorf("cannot list %s: mkCDrec's archives have no table of contents; pastestream -mkcdrec gives them to tar", name)
}

// stream opens an archive by its name.
func (v volumes) stream(name string) (legacy.Archive, io.ReadCloser, error) {
	i := slices.IndexFunc(v.set.Archives, func(a legacy.Archive) bool { return a.Name == name })
	if i < 0 {
		return legacy.Archive{}, nil, fmt.Errorf("cannot read %s: %w", name, os.ErrNotExist)
	}
	r, err := v.set.Stream(v.set.Archives[i])
	return v.set.Archives[i], r, err
}

// legacyDirs splits the names of an old backup's volumes; nil for anything
// else.
func legacyDirs(place string) []string {
	dirs := strings.Split(place, ",")
	if slices.ContainsFunc(dirs, func(d string) bool { return !legacy.IsSet(d) }) {
		return nil
	}
	return dirs
}

// check compares every piece with its checksum, where there is one, and reads the archive
// to its end.
func (v volumes) check(ctx context.Context, a Archive, _ bool, p progress.Counter) error {
	p.Item(a.File)
	old, r, err := v.stream(a.File)
	if err != nil {
		return err
	}
	if !old.Raw {
		if _, err = archive.CheckTar(ctx, r, p); err != nil {
			err = fmt.Errorf("%s: %w", a.File, err)
		}
	}
	return errors.Join(err, r.Close())
}

func (v volumes) Unpack(ctx context.Context, name, dest string, opt archive.ExtractOptions, phase func(total int64) progress.Counter) (*archive.Summary, error) {
	old, r, err := v.stream(name)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if old.Raw {
		return nil, fmt.Errorf("cannot extract %s: it is an image of a device, not an archive; pastestream -mkcdrec gives it", name)
	}
	opt.Progress = phase(0)
	return archive.ExtractTar(ctx, r, name, dest, opt)
}
