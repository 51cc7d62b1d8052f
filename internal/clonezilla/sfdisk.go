package clonezilla

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
)

// maxSectors bounds places on a disk: 2^50 sectors of 4 KiB are 2^62 bytes.
const maxSectors = 1 << 50

// table is the content of a dump of sfdisk(8).
type table struct {
	layout.Table
	sector quantity.Size // 0 if the dump has none
	last   int64         // last usable sector of a GPT, 0 if the dump has none
}

// parseSfdisk reads what `sfdisk -d` printed of a disk, before version 2.26 ("Id=83",
// no header) or after (fdisk_script_write_file in util-linux's libfdisk/src/script.c).
// Sectors have ss bytes unless the dump has another size.
func parseSfdisk(text, disk string, ss quantity.Size) (*table, error) {
	d := &dump{table: &table{Table: layout.Table{Label: layout.MBR}}, disk: disk}
	for n, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		key, value, ok := strings.Cut(line, ":")
		if !ok {
			continue // "Warning: ..." of old versions has one, other text does not matter
		}
		if err := d.line(strings.TrimSpace(key), strings.TrimSpace(value)); err != nil {
			return nil, fmt.Errorf("line %d: %w: %.200q", n+1, err, line)
		}
	}
	return d.whole(ss)
}

// dump is a dump of sfdisk, of a disk, as far as it was read.
type dump struct {
	table   *table
	disk    string
	first   int64
	entries []dumpEntry
}

// dumpEntry is a partition, with its place in sectors.
type dumpEntry struct {
	layout.Partition
	start, size int64
}

// line takes a line "KEY: VALUE".
func (d *dump) line(key, value string) (err error) {
	if dev, ok := strings.CutPrefix(key, "/dev/"); ok {
		return d.partition(dev, value)
	}
	t, x := d.table, int64(0)
	switch key {
	case "label":
		t.Label = value
	case "label-id":
		t.GUID = value
	case "sector-size":
		x, err = number(value)
		t.sector = quantity.Size(x)
	case "first-lba":
		d.first, err = number(value)
	case "last-lba":
		t.last, err = number(value)
	case "table-length":
		x, err = number(value)
		t.Entries = int(x)
	case "unit", "units":
		if value != "sectors" {
			return errors.New("unit is not sectors")
		}
	}
	return err
}

func (d *dump) partition(dev, value string) error {
	e := dumpEntry{Partition: layout.Partition{Device: dev}}
	num, ok := partitionNumber(d.disk, dev)
	if !ok {
		return fmt.Errorf("is not a partition of %s", d.disk)
	}
	e.Number = num
	fields, err := splitFields(value)
	if err == nil {
		e.start, e.size, err = fill(&e.Partition, fields)
	}
	d.entries = append(d.entries, e)
	return err
}

// whole gives the table when all lines were read; ss is the size of a sector, unless the
// dump has one.
func (d *dump) whole(ss quantity.Size) (*table, error) {
	t := d.table
	if t.Label != layout.GPT && t.Label != layout.MBR {
		return nil, fmt.Errorf("partition table of type %q is not supported", t.Label)
	}
	if t.sector != 0 {
		ss = t.sector
	}
	if ss < 512 || ss > 4096 || ss&(ss-1) != 0 {
		return nil, fmt.Errorf("sectors of %d bytes", ss)
	}
	for _, e := range d.entries {
		e.Start, e.Size = quantity.Size(e.start)*ss, quantity.Size(e.size)*ss
		if e.Size == 0 || e.Type == "0x00" {
			continue // an empty entry of an old dump
		}
		if slices.ContainsFunc(t.Partitions, func(p layout.Partition) bool { return p.Number == e.Number }) {
			return nil, fmt.Errorf("partition %d is listed twice", e.Number)
		}
		t.Partitions = append(t.Partitions, e.Partition)
	}
	if t.Label == layout.GPT {
		t.GUID = strings.ToUpper(t.GUID)
		if t.Entries == 128 {
			t.Entries = 0 // as usual
		}
		if q := quantity.Size(d.first) * ss; d.first > 0 && q != usualFirst(t.Entries, ss) {
			t.FirstUsable = q
		}
		return t, nil
	}
	t.Signature, t.GUID, t.Entries = signature(t.GUID), "", 0
	return t, t.chain()
}

// usualFirst is where the first partition of a GPT may begin: behind the MBR, the header
// and the entries of 128 bytes (UEFI specification 2.10, chapter 5.3).
func usualFirst(entries int, ss quantity.Size) quantity.Size {
	if entries == 0 {
		entries = 128
	}
	return 2*ss + (quantity.Size(entries)*128+ss-1)/ss*ss
}

// signature is a label-id of an MBR as layouts have it; "" when it is not one.
func signature(id string) string {
	x, err := strconv.ParseUint(strings.TrimPrefix(id, "0x"), 16, 32)
	if err != nil {
		return ""
	}
	return fmt.Sprintf("0x%08x", x)
}

// partitionNumber returns the number of partition dev of a disk.
func partitionNumber(disk, dev string) (int, bool) {
	rest, ok := strings.CutPrefix(dev, disk)
	if !ok || disk == "" {
		return 0, false
	}
	if layout.PartitionName(disk, 1) != disk+"1" { // nvme0n1p1, cciss/c0d0p1, md0p1
		if rest, ok = strings.CutPrefix(rest, "p"); !ok {
			return 0, false
		}
	}
	n, err := strconv.ParseUint(rest, 10, 16)
	return int(n), err == nil && n > 0 && rest[0] != '0'
}

func number(s string) (int64, error) {
	x, err := strconv.ParseInt(s, 10, 64)
	if err != nil || x < 0 || x > maxSectors {
		return 0, fmt.Errorf("%.40q is not a number of sectors", s)
	}
	return x, nil
}

// splitFields cuts "a=1, b="x, y", c" at its commas outside of quotes.
func splitFields(s string) ([]string, error) {
	var out []string
	for s = strings.TrimSpace(s); s != ""; {
		i := strings.IndexAny(s, `,"`)
		for i >= 0 && s[i] == '"' {
			j := strings.IndexByte(s[i+1:], '"') // a quote inside is written \x22
			if j < 0 {
				return nil, fmt.Errorf("quotes do not end")
			}
			i += j + 2
			if k := strings.IndexAny(s[i:], `,"`); k < 0 {
				i = -1
			} else {
				i += k
			}
		}
		if i < 0 {
			i = len(s)
		}
		if f := strings.TrimSpace(s[:i]); f != "" {
			out = append(out, f)
		}
		s = s[min(i+1, len(s)):]
	}
	return out, nil
}

// fill takes the fields of a partition's line; start and size are in sectors.
func fill(p *layout.Partition, fields []string) (start, size int64, err error) {
	for _, f := range fields {
		k, v, _ := strings.Cut(f, "=")
		k, v = strings.TrimSpace(k), strings.TrimSpace(v)
		switch k {
		case "start":
			start, err = number(v)
		case "size":
			size, err = number(v)
		case "Id", "type":
			if strings.Contains(v, "-") {
				p.Type = strings.ToUpper(v)
				break
			}
			var x uint64
			if x, err = strconv.ParseUint(v, 16, 8); err == nil {
				p.Type = fmt.Sprintf("0x%02x", x)
			}
		case "uuid":
			p.GUID = strings.ToUpper(v)
		case "name":
			p.Name, err = unquote(v)
		case "attrs":
			var text string
			if text, err = unquote(v); err == nil {
				p.Attributes, err = attributes(text)
			}
		case "bootable":
			p.Active = true
		}
		if err != nil {
			return 0, 0, err
		}
	}
	if start > maxSectors-size {
		return 0, 0, fmt.Errorf("partition is not on a disk")
	}
	return start, size, nil
}

// unquote takes the quotes from a string of a dump, in which bytes may be \xNN
// (fputs_quoted in util-linux's include/carefulputc.h).
func unquote(s string) (string, error) {
	s = strings.TrimSuffix(strings.TrimPrefix(s, `"`), `"`)
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' {
			b.WriteByte(s[i])
			continue
		}
		if i+3 >= len(s) || s[i+1] != 'x' {
			return "", fmt.Errorf("%.100q is not a quoted text", s)
		}
		x, err := strconv.ParseUint(s[i+2:i+4], 16, 8)
		if err != nil {
			return "", fmt.Errorf("%.100q is not a quoted text", s)
		}
		b.WriteByte(byte(x))
		i += 3
	}
	return b.String(), nil
}

// attributes reads those of a GPT partition, "RequiredPartition GUID:60,63"
// (gpt_entry_attrs_to_string in util-linux's libfdisk/src/gpt.c).
func attributes(s string) (a uint64, err error) {
	for _, w := range strings.Fields(s) {
		bits, guid := strings.CutPrefix(w, "GUID:")
		switch {
		case guid:
		case w == "RequiredPartition":
			bits = "0"
		case w == "NoBlockIOProtocol":
			bits = "1"
		case w == "LegacyBIOSBootable":
			bits = "2"
		}
		for _, n := range strings.Split(bits, ",") {
			x, err := strconv.ParseUint(n, 10, 6)
			if err != nil {
				return 0, fmt.Errorf("attribute %.40q is not known", w)
			}
			a |= 1 << x
		}
	}
	return a, nil
}

// chain places the records of logical partitions, which are not in a dump: the first
// at the beginning of the extended partition, the others behind the partition that
// precedes them on the disk.
func (t *table) chain() error {
	i := slices.IndexFunc(t.Partitions, func(p layout.Partition) bool { return p.Number <= 4 && p.Extended() })
	var logical []*layout.Partition
	for k := range t.Partitions {
		if p := &t.Partitions[k]; p.Number > 4 {
			logical = append(logical, p)
		}
	}
	if len(logical) == 0 {
		return nil
	}
	if i < 0 {
		return fmt.Errorf("%s is a logical partition without an extended one", logical[0].Device)
	}
	slices.SortFunc(logical, func(a, b *layout.Partition) int { return int(min(1, max(-1, a.Start-b.Start))) })
	end := t.Partitions[i].Start
	for _, p := range logical {
		if p.Start <= end {
			return fmt.Errorf("there is no room for the record of %s before it", p.Device)
		}
		p.EBR, end = end, p.Start+p.Size
	}
	return nil
}
