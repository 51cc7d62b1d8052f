package probe

import (
	"path/filepath"
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/layout"
)

// crypts lists the LUKS devices that are open, by what device-mapper reports.
func (m Machine) crypts(l *layout.Layout) error {
	all, err := filepath.Glob(m.path("/sys/block/dm-*"))
	if err != nil {
		return err
	}
	for _, d := range all {
		dm := filepath.Base(d)
		name, ok := strings.CutPrefix(m.dmName(dm), layout.MapperPrefix)
		if !ok {
			continue
		}
		slaves, err := filepath.Glob(m.path("/sys/block/" + dm + "/slaves/*"))
		if err != nil {
			return err
		}
		cannot := func(dev, reason string) {
			l.Unsupported = append(l.Unsupported, layout.Unsupported{What: layout.MapperPrefix + name, Device: dev, Reason: reason})
		}
		if len(slaves) != 1 {
			cannot(layout.MapperPrefix+name, "LUKS on several devices is not supported")
			continue
		}
		c := layout.Crypt{Name: name, Device: m.resolve("/dev/" + filepath.Base(slaves[0])), Size: m.sizeOf(dm)}
		i, err := m.superblockOf(c.Device, m.sizeOf(filepath.Base(slaves[0])))
		if err != nil {
			cannot(c.Device, err.Error())
			continue
		}
		switch {
		case i == nil || i.LUKS == nil:
			cannot(c.Device, "LUKS with its header elsewhere is not supported")
			continue
		case i.LUKS.Why != "":
			cannot(c.Device, "LUKS device that can't be made again: "+i.LUKS.Why)
			continue
		}
		c.UUID, c.Label, c.LUKS = i.UUID, i.Label, i.LUKS
		l.Crypts = append(l.Crypts, c)
	}
	slices.SortFunc(l.Crypts, func(a, b layout.Crypt) int { return strings.Compare(a.Name, b.Name) })
	return nil
}
