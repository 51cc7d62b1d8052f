package plan

import (
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/layout"
)

// convert gives the layout with file systems of other types, by mount point.
// UUIDs and labels stay, geometry is what the type's mkfs makes by default and
// what kernels of the last ten years know.
func convert(want *layout.Layout, types map[string]string) (*layout.Layout, error) {
	if len(types) == 0 {
		return want, nil
	}
	l, err := clone(want)
	if err != nil {
		return nil, err
	}
	for at, typ := range types {
		fs, t := l.Mounted(at), fstype.Of(typ)
		if err := convertible(l, fs, t, at, typ); err != nil {
			return nil, err
		}
		if fs.Type == typ {
			continue
		}
		fs.Type, fs.Geometry = typ, t.New(int64(fs.Size))
		if t.Subvolumes {
			continue
		}
		// What were subvolumes become directories.
		fs.Subvolumes, fs.Snapshots = nil, nil
		for i := range fs.Mounts {
			fs.Mounts[i].Subvolume = ""
		}
	}
	return l, nil
}

// convertible refuses what can't get the type typ, which t describes.
func convertible(l *layout.Layout, fs *layout.Filesystem, t *fstype.Type, at, typ string) error {
	switch {
	case fs == nil:
		return refuse("--fs-type %s=%s: nothing is mounted there", at, typ)
	case t.New == nil:
		known := fstype.Names(func(t *fstype.Type) bool { return t.New != nil })
		return refuse("--fs-type %s=%s: it can be one of %s", at, typ, strings.Join(known, ", "))
	case fstype.Of(fs.Type).Foreign:
		return refuse("--fs-type %s=%s: %s has to stay %s, firmware and others read it", at, typ, at, fs.Type)
	case fs.Type == typ:
		return nil
	case l.Boot.Dir != "" && l.Holding(l.Boot.Dir) == fs:
		return refuse("--fs-type %s=%s: %s has to stay %s, the boot loader %s starts from it", at, typ, at, fs.Type, l.Boot.Loader)
	case len(fs.Parts()) > 1 && !t.Subvolumes:
		return refuse("--fs-type %s=%s: it is a btrfs of which %d subvolumes are mounted, and %s has none", at, typ, len(fs.Parts()), typ)
	case len(fs.Others) > 0 && !t.Subvolumes:
		return refuse("--fs-type %s=%s: it is a btrfs on %d devices, and %s takes one", at, typ, len(fs.Devs()), typ)
	case len(fs.Label) > t.LabelMax:
		return refuse("--fs-type %s=%s: its label %q has %d characters, and %s takes %d", at, typ, fs.Label, len(fs.Label), t.Kin(), t.LabelMax)
	}
	return nil
}
