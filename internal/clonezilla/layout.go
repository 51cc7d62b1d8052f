package clonezilla

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/gpt"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/superblock"
)

// table reads a disk's partition table into d.
func (s *Set) table(d *Disk) error {
	file := fileName(d.Name) + "-pt.sf"
	text, err := s.text(file)
	if err != nil {
		return err
	}
	if strings.TrimSpace(text) == "" { // a file system, a physical volume or nothing is on the disk itself
		return nil
	}
	t, err := parseSfdisk(text, d.Name, d.LogicalSector)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if t.sector != 0 && t.sector != d.LogicalSector {
		d.LogicalSector, d.PhysicalSector = t.sector, max(t.sector, d.PhysicalSector)
	}
	if slices.ContainsFunc(t.Partitions, func(p layout.Partition) bool { return t.Label == layout.MBR && p.Type == "0xee" }) {
		// sfdisk before 2.26 did not support GPT, and listed the protective entry.
		if t, err = s.gpt(d); err != nil {
			return err
		}
	}
	d.Table = &t.Table
	if t.Signature == "" && t.Label == layout.MBR {
		if len(d.MBR) < 512 {
			return fmt.Errorf("%s: the disk's signature is neither in it nor in %s-mbr", file, fileName(d.Name))
		}
		t.Signature = fmt.Sprintf("0x%08x", binary.LittleEndian.Uint32(d.MBR[440:]))
	}
	for _, p := range t.Partitions {
		d.Size = max(d.Size, p.Start+p.Size)
	}
	if t.last > 0 { // the copy of the table is behind it
		d.Size = max(d.Size, quantity.Size(t.last+1+gpt.Overhead(t.Entries, int64(d.LogicalSector)))*d.LogicalSector)
	}
	return nil
}

// gpt reads a table from the first sectors of the disk.
func (s *Set) gpt(d *Disk) (*table, error) {
	if d.GPT[0] == "" {
		return nil, fmt.Errorf("%s has a GPT, and %s-gpt-1st is missing", d.Name, fileName(d.Name))
	}
	b, err := s.text(d.GPT[0])
	if err != nil {
		return nil, err
	}
	g, err := gpt.Read(bytes.NewReader([]byte(b)), int64(d.LogicalSector), max(int64(d.Size), int64(len(b))))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", d.GPT[0], err)
	}
	t := &table{Table: layout.Table{Label: layout.GPT, GUID: g.GUID, Entries: g.Entries}, last: g.LastUsable}
	ss := d.LogicalSector
	if t.Entries == gpt.Default {
		t.Entries = 0
	}
	if q := quantity.Size(g.FirstUsable) * ss; q != usualFirst(t.Entries, ss) {
		t.FirstUsable = q
	}
	for _, p := range g.Partitions {
		if p.First < 0 || p.Last < p.First || p.Last > maxSectors {
			return nil, fmt.Errorf("%s: partition %d is at sectors %d to %d", d.GPT[0], p.Number, p.First, p.Last)
		}
		t.Partitions = append(t.Partitions, layout.Partition{
			Number: p.Number, Device: layout.PartitionName(d.Name, p.Number), Start: quantity.Size(p.First) * ss, Size: quantity.Size(p.Last-p.First+1) * ss,
			Type: p.Type, GUID: p.GUID, Name: p.Name, Attributes: p.Attributes,
		})
	}
	return t, nil
}

// Layout returns the machine's storage as the set has it: disks with their tables, volume
// groups, swap, open LUKS devices, and an image of everything else, with Image.File the
// Image's Name. File systems are images here, since that is what was saved of them.
// The boot loader is not known; it is in MBRs, gaps and partitions.
func (s *Set) Layout() (*layout.Layout, error) {
	l := &layout.Layout{Version: layout.Version, Hostname: "unknown", Boot: layout.Boot{Firmware: layout.BIOS}, Unsupported: slices.Clone(s.Unsupported)}
	if s.UEFI {
		l.Boot.Firmware = layout.UEFI
	}
	for _, d := range s.Disks {
		l.Disks = append(l.Disks, d.Disk)
	}
	sizes := map[string]quantity.Size{}
	for _, d := range l.Disks {
		sizes[d.Name] = d.Size
		if d.Table != nil {
			for _, p := range d.Table.Partitions {
				sizes[p.Device] = p.Size
			}
		}
	}
	unsupported := func(dev, reason string) {
		l.Unsupported = append(l.Unsupported, layout.Unsupported{What: dev, Device: dev, Reason: reason})
	}
	for _, k := range s.LUKS {
		c, err := s.crypt(k, sizes[k.Device])
		if err != nil {
			unsupported(k.Device, fmt.Sprintf("LUKS device can't be made again: %v", err))
			continue
		}
		l.Crypts = append(l.Crypts, *c)
		sizes[c.Mapper()] = c.Size
	}
	for _, g := range s.Groups {
		if i := slices.IndexFunc(g.PVs, func(p layout.PhysicalVolume) bool { return sizes[p.Device] == 0 }); i >= 0 {
			unsupported(g.Name, fmt.Sprintf("volume group is on %s, which is not in the image", g.PVs[i].Device))
			continue
		}
		l.VolumeGroup = append(l.VolumeGroup, g)
		for _, v := range g.LVs {
			sizes[g.Name+"/"+v.Name] = v.Size
		}
	}
	for _, c := range s.Contents {
		size := sizes[c.Device]
		switch {
		case size == 0:
			unsupported(c.Device, "device is not in the tables of the image")
		case c.Swap():
			l.Swap = append(l.Swap, layout.Swap{Device: c.Device, UUID: c.UUID, Label: c.Label, Size: size, Active: true})
		case c.Image.Refused == "":
			l.Images = append(l.Images, layout.Image{Device: c.Device, Type: c.Type, UUID: c.UUID, Label: c.Label, Size: size, File: c.Image.Name})
		}
	}
	if err := l.Validate(); err != nil {
		return nil, fmt.Errorf("cannot use the layout of this Clonezilla image:\n%w", err)
	}
	return l, nil
}

// crypt makes the description of a LUKS device from its header.
func (s *Set) crypt(k LUKS, size quantity.Size) (*layout.Crypt, error) {
	switch {
	case k.Header == "":
		return nil, errors.New("its header was not saved")
	case size == 0:
		return nil, errors.New("it is not in the tables of the image")
	}
	b, err := s.text(k.Header) // 16 MiB, cryptsetup-luksHeaderBackup(8); larger ones are refused
	if err != nil {
		return nil, err
	}
	i, err := superblock.Probe(padded{bytes.NewReader([]byte(b))}, int64(size))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", k.Header, err)
	}
	if i == nil || i.LUKS == nil {
		return nil, fmt.Errorf("%s is not a LUKS header", k.Header)
	}
	if i.LUKS.Why != "" {
		return nil, errors.New(i.LUKS.Why)
	}
	inside := size - quantity.Size(i.LUKS.Offset)
	if inside <= 0 {
		return nil, fmt.Errorf("%s: data begins behind the end of the device", k.Header)
	}
	return &layout.Crypt{Name: k.Name, Device: k.Device, UUID: cmp.Or(i.UUID, k.UUID), Label: i.Label, Size: inside, LUKS: i.LUKS}, nil
}

// padded is a file that zero bytes follow.
type padded struct{ r *bytes.Reader }

func (p padded) ReadAt(b []byte, off int64) (int, error) {
	clear(b)
	if off < p.r.Size() {
		if _, err := p.r.ReadAt(b, off); err != nil && len(b) == 0 {
			return 0, err
		}
	}
	return len(b), nil
}
