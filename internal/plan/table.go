package plan

import (
	"fmt"
	"strconv"

	"github.com/mkcdrec/mkcdrec/internal/gpt"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/mbr"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
)

// GPT gives a partition table in blocks of ss bytes, as it is written. A first usable
// block that other sectors, entries or partitions make impossible is left out.
func GPT(t *layout.Table, ss quantity.Size) *gpt.Table {
	g := &gpt.Table{GUID: t.GUID, Entries: t.Entries, FirstUsable: int64(t.FirstUsable / ss)}
	least := 1 + gpt.Overhead(t.Entries, int64(ss))
	for _, p := range t.Partitions {
		q := gpt.Partition{Number: p.Number, Type: p.Type, GUID: p.GUID, Name: p.Name, Attributes: p.Attributes,
			First: int64(p.Start / ss), Last: int64((p.Start+p.Size)/ss) - 1}
		if m := p.InMBR; m != nil {
			if typ, err := strconv.ParseUint(m.Type, 0, 8); err == nil { // layout.Validate has tried it
				q.MBR = &gpt.InMBR{Slot: m.Slot, Type: byte(typ), Active: m.Active}
			}
		}
		g.Partitions = append(g.Partitions, q)
		g.Entries = entriesFor(g.Entries, p.Number)
		if g.FirstUsable > int64(p.Start/ss) {
			g.FirstUsable = 0
		}
	}
	if g.FirstUsable < least {
		g.FirstUsable = 0
	}
	return g
}

// entriesFor is have, or as many entries as a partition with that number wants: by
// fours, which is what a sector of 512 bytes has.
func entriesFor(have, number int) int {
	if have != 0 && number > have || number > gpt.Default && have == 0 {
		return (number + 3) / 4 * 4
	}
	return have
}

// MBR gives a partition table in sectors of ss bytes, as it is written.
func MBR(t *layout.Table, ss quantity.Size) (*mbr.Table, error) {
	sig, err := strconv.ParseUint(t.Signature, 0, 32)
	if err != nil {
		return nil, fmt.Errorf("cannot read MBR signature %q", t.Signature)
	}
	m := &mbr.Table{Signature: uint32(sig)}
	for _, p := range t.Partitions {
		typ, err := strconv.ParseUint(p.Type, 0, 8)
		if err != nil {
			return nil, fmt.Errorf("cannot read partition type %q", p.Type)
		}
		m.Partitions = append(m.Partitions, mbr.Partition{Number: p.Number, Type: byte(typ), Active: p.Active, Start: int64(p.Start / ss), Count: int64(p.Size / ss), EBR: int64(p.EBR / ss)})
	}
	return m, nil
}

// CheckTable gives everything that keeps a table from being written on a disk of size
// bytes with sectors of ss bytes: the writer refuses the same.
func CheckTable(t *layout.Table, ss, size quantity.Size) error {
	for _, p := range t.Partitions {
		if p.Start%ss != 0 || p.Size%ss != 0 || p.EBR%ss != 0 {
			return fmt.Errorf("partition %d: it does not begin and end between sectors of %d bytes", p.Number, ss)
		}
	}
	if t.Label == layout.GPT {
		return GPT(t, ss).Check(int64(ss), int64(size))
	}
	m, err := MBR(t, ss)
	if err != nil {
		return err
	}
	return m.Check(int64(size / ss))
}

// tableTail is what a disk's table takes behind the last partition, in bytes.
func tableTail(d *layout.Disk) quantity.Size {
	if d.Table.Label != layout.GPT {
		return 0
	}
	return quantity.Size(gpt.Overhead(GPT(d.Table, d.LogicalSector).Entries, int64(d.LogicalSector))) * d.LogicalSector
}
