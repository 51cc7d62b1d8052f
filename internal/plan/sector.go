package plan

import (
	"slices"

	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
)

// checkSector returns why what is on a disk can't go to one with other sectors,
// 512 bytes or 4 KiB (4Kn); nil when it can, with the changes of toSector.
func checkSector(l *layout.Layout, d *layout.Disk, p layout.Present) error {
	no := func(format string, args ...any) error {
		return refuse("%s has sectors of %d bytes, %s had %d, and "+format, append([]any{p.Target(), p.LogicalSector, d.Name, d.LogicalSector}, args...)...)
	}
	sector := int64(p.LogicalSector)
	switch {
	case sector != 512 && sector != 4096:
		return no("only 512 and 4096 are known")
	case d.Table != nil && d.Table.Label == layout.MBR:
		return no("its MBR counts in those; --firmware uefi makes a GPT of it")
	case sector != 512 && slices.Contains(l.Boot.Disks, d.Name):
		return no("a BIOS starts from sectors of 512 bytes only; --firmware uefi makes the system start otherwise")
	}
	on := func(dev string) bool { return slices.Contains(l.DisksUnder(dev), d.Name) }
	for i := range l.Filesystems {
		f := &l.Filesystems[i]
		if !slices.ContainsFunc(f.Devs(), on) {
			continue
		}
		if t := fstype.Of(f.Type); t.Block != nil {
			if n, what := t.Block(&f.Geometry); n < sector {
				return no("the %s on %s has %s of %d bytes", f.Type, f.Device, what, n)
			}
		}
	}
	for _, c := range l.Crypts {
		if on(c.Device) && c.LUKS.Offset%sector != 0 {
			return no("the data of the LUKS device on %s begins at %d", c.Device, c.LUKS.Offset)
		}
	}
	for _, m := range l.Images {
		if m.File != "" && on(m.Device) {
			return no("%s (%s) was saved block by block", m.Device, m.What())
		}
	}
	return nil
}

// toSector has everything on a disk be made for other sectors.
func toSector(l *layout.Layout, d *layout.Disk, sector quantity.Size) {
	for i := range l.Filesystems {
		f := &l.Filesystems[i]
		if !slices.ContainsFunc(f.Devs(), func(dev string) bool { return slices.Contains(l.DisksUnder(dev), d.Name) }) {
			continue
		}
		if t := fstype.Of(f.Type); t.ToSector != nil {
			t.ToSector(&f.Geometry, int64(sector), int64(l.SizeOf(f.Device)))
		}
	}
	if d.Table != nil { // what is too small for the new table is not taken
		d.Table.FirstUsable = d.Table.FirstUsable.AlignUp(sector)
	}
	d.LogicalSector, d.PhysicalSector = sector, max(d.PhysicalSector, sector)
}
