package plan

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
)

// Mkfs gives the command lines that make a file system again on dev, a
// device of size bytes: with the features, sizes, UUID and label that the
// layout has.
func Mkfs(f *layout.Filesystem, dev string, size quantity.Size) ([][]string, error) {
	t := fstype.Of(f.Type)
	if t.Mkfs == nil {
		return nil, fmt.Errorf("cannot make file system of type %s", f.Type)
	}
	return t.Mkfs(f.FS(), dev, int64(size)), nil
}

// mkfsLeast is the least size of a device that a type's program takes with a geometry; 0
// where the geometry itself decides.
func mkfsLeast(f *layout.Filesystem) quantity.Size {
	if t := fstype.Of(f.Type); t.LeastMade != nil {
		return quantity.Size(t.LeastMade(f.FS()))
	}
	return 0
}

func num[T ~int | ~int64 | ~uint32](v T) string { return strconv.FormatInt(int64(v), 10) }

// Sfdisk gives a partition table as the text that sfdisk(8) takes.
func Sfdisk(d *layout.Disk) string {
	var b strings.Builder
	t := d.Table
	fmt.Fprintf(&b, "label: %s\n", t.Label)
	if t.Label == layout.GPT {
		fmt.Fprintf(&b, "label-id: %s\nfirst-lba: 34\n", t.GUID)
	} else {
		fmt.Fprintf(&b, "label-id: %s\n", t.Signature)
	}
	fmt.Fprintf(&b, "unit: sectors\nsector-size: %d\n\n", d.LogicalSector)
	for _, p := range t.Partitions {
		fmt.Fprintf(&b, "%s : start=%d, size=%d, ", p.Device, p.Start.Sectors(d.LogicalSector), p.Size.Sectors(d.LogicalSector))
		if t.Label == layout.MBR {
			fmt.Fprintf(&b, "type=%s", strings.TrimPrefix(p.Type, "0x"))
			if p.Active {
				b.WriteString(", bootable")
			}
			b.WriteByte('\n')
			continue
		}
		fmt.Fprintf(&b, "type=%s, uuid=%s", p.Type, p.GUID)
		if p.Name != "" {
			fmt.Fprintf(&b, ", name=%q", p.Name)
		}
		if p.Attributes != 0 {
			fmt.Fprintf(&b, ", attrs=%q", attrs(p.Attributes))
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// attrs names GPT attribute bits as sfdisk does.
func attrs(v uint64) string {
	var out []string
	for bit := range 64 {
		if v>>bit&1 == 0 {
			continue
		}
		switch {
		case bit == 0:
			out = append(out, "RequiredPartition")
		case bit == 1:
			out = append(out, "NoBlockIOProtocol")
		case bit == 2:
			out = append(out, "LegacyBIOSBootable")
		case bit >= 48:
			out = append(out, fmt.Sprintf("GUID:%d", bit))
		}
	}
	return strings.Join(out, " ")
}
