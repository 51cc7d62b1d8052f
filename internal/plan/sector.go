package plan

import (
	"slices"

	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/superblock"
)

// checkSector tells why what is on a disk can't go to one with other sectors,
// 512 bytes or 4 KiB (4Kn); nil when it can, with the changes of toSector.
func checkSector(l *layout.Layout, d *layout.Disk, p Present) error {
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
		switch {
		case f.Ext != nil && f.Ext.BlockSize < sector:
			return no("the %s on %s has blocks of %d bytes", f.Type, f.Device, f.Ext.BlockSize)
		case f.XFS != nil && f.XFS.BlockSize < sector:
			return no("the xfs on %s has blocks of %d bytes", f.Device, f.XFS.BlockSize)
		case f.ExFAT != nil && f.ExFAT.Cluster < sector:
			return no("the exfat on %s has clusters of %d bytes", f.Device, f.ExFAT.Cluster)
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
		if f.XFS != nil {
			f.XFS.SectorSize = max(f.XFS.SectorSize, int64(sector))
		}
		if f.VFAT != nil {
			fatSector(f.VFAT, int64(sector), int64(sizeOf(l, f.Device)))
		}
	}
	if d.Table != nil { // what is too small for the new table is not taken
		d.Table.FirstUsable = d.Table.FirstUsable.AlignUp(sector)
	}
	d.LogicalSector, d.PhysicalSector = sector, max(d.PhysicalSector, sector)
}

// fatSector gives a FAT of size bytes other sectors: clusters stay as large as they were,
// if a sector is not more, and 128 sectors, the most that mkfs.fat makes, are not less.
// Their number alone tells readers whether it is a FAT12, FAT16 or FAT32: what has too few
// or too many now becomes another one.
func fatSector(v *superblock.VFAT, sector, size int64) {
	cluster := min(max(v.SectorSize*v.SectorsPerCluster, sector), 128*sector)
	v.Hidden = v.Hidden * v.SectorSize / sector
	v.SectorSize = sector
	for range 8 { // as many clusters as neither of two has: twice or half as many
		v.SectorsPerCluster = cluster / sector
		for _, bits := range []int{v.Bits, 32, 16, 12} {
			if fatFits(v, bits, size) {
				setFATBits(v, bits)
				return
			}
		}
		if cluster > sector {
			cluster /= 2
		} else {
			cluster *= 2
		}
	}
}

// fatFits tells whether a FAT of size bytes has a number of clusters that is right for one
// of 12, 16 or 32 bits: the limits of mkfs.fat(8), MAX_CLUST_12 to MIN_CLUST_32, with
// some room, for it rounds tables to sectors.
func fatFits(v *superblock.VFAT, bits int, size int64) bool {
	const room = 16
	n := (size - v.Reserved*v.SectorSize - v.RootEntries*32) * 8 / (8*v.SectorSize*v.SectorsPerCluster + int64(bits)*v.FATs)
	switch bits {
	case 12:
		return n > 0 && n <= 4080-room
	case 16:
		return n >= 4087+room && n <= 65520-room
	}
	return n >= 65529+room
}

// setFATBits changes the kind of a FAT: FAT32 has its root directory among the files, and
// more reserved sectors.
func setFATBits(v *superblock.VFAT, bits int) {
	switch {
	case bits == 32 && v.Bits != 32:
		v.RootEntries, v.Reserved = 0, 32
	case bits != 32 && v.Bits == 32:
		v.RootEntries, v.Reserved = 512, 1
	}
	v.Bits = bits
}
