package recreate

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/gpt"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/mbr"
	"github.com/mkcdrec/mkcdrec/internal/plan"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
)

// made is a disk with a table that a program wrote, as a layout with an ext4 on each
// partition.
func made(t *testing.T, size int64, script string, sgdisk ...string) (*os.File, *layout.Layout) {
	t.Helper()
	f := blank(t, size)
	d := layout.Disk{Name: "vda", Model: "M", Serial: "OLD", Size: quantity.Size(size), LogicalSector: 512, PhysicalSector: 512, Table: &layout.Table{Label: layout.GPT}}
	if script != "" {
		c := exec.Command("sfdisk", "-q", f.Name())
		c.Stdin = strings.NewReader(script)
		if out, err := c.CombinedOutput(); err != nil {
			t.Skipf("sfdisk: %v: %s", err, out)
		}
	} else {
		oracle(t, append(append([]string{"sgdisk"}, sgdisk...), f.Name())...)
	}
	add := func(p layout.Partition) {
		p.Device = fmt.Sprint("vda", p.Number)
		d.Table.Partitions = append(d.Table.Partitions, p)
	}
	if g, err := gpt.Read(f, 512, size); err == nil {
		d.Table.GUID, d.Table.Entries, d.Table.FirstUsable = g.GUID, g.Entries, quantity.Size(g.FirstUsable*512)
		for _, p := range g.Partitions {
			add(layout.Partition{Number: p.Number, Type: p.Type, GUID: p.GUID, Start: quantity.Size(p.First * 512), Size: quantity.Size((p.Last - p.First + 1) * 512)})
		}
	} else {
		m, err := mbr.Read(f, 512)
		if err != nil {
			t.Fatal(err)
		}
		d.Table.Label, d.Table.Signature = layout.MBR, fmt.Sprintf("0x%08x", m.Signature)
		for _, p := range m.Partitions {
			add(layout.Partition{Number: p.Number, Type: fmt.Sprintf("0x%02x", p.Type), Active: p.Active, Start: quantity.Size(p.Start * 512), Size: quantity.Size(p.Count * 512), EBR: quantity.Size(p.EBR * 512)})
		}
	}
	l := &layout.Layout{Version: layout.Version, Hostname: "h", Disks: []layout.Disk{d}, Boot: layout.Boot{Firmware: layout.BIOS}}
	for _, p := range d.Table.Partitions {
		if !p.Extended() {
			l.Filesystems = append(l.Filesystems, layout.Filesystem{Device: p.Device, Type: "ext4", Size: p.Size, Used: 1, Mounts: []layout.Mount{{Path: "/" + p.Device}}, Geometry: fstype.Geometry{Ext: &fstype.Ext{BlockSize: 4096, InodeSize: 256, Inodes: 1000}}})
		}
	}
	return f, l
}

// TestTablesOnDisks: an odd table is written as it was on a disk of its size, and fitted
// to others; sfdisk reads what is written.
func TestTablesOnDisks(t *testing.T) {
	order, err := os.ReadFile("testdata/logical-order.sfdisk")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, script string
		sgdisk       []string
		size         int64
		fitted       []int64
	}{
		{"logical partitions out of order", string(order), nil, 80 << 20, []int64{240 << 20, 400 << 20}},
		{"the first logical one is the last", "label: dos\nlabel-id: 0xbeef0003\n1 : start=20000,size=600000,type=f\n5 : start=500000,size=100000,type=83\n6 : start=260000,size=140000,type=83\n7 : start=30000,size=200000,type=82\n", nil, 400 << 20, []int64{210 << 20, 3 << 30}},
		{"number 130 of 256", "", []string{"-S", "256", "-n", "1:2048:+20M", "-n", "130:0:+20M"}, 64 << 20, []int64{120 << 20, 400 << 20}},
		{"four entries", "label: gpt\ntable-length: 4\nfirst-lba: 3\nstart=3,size=40000\nstart=50000,size=20000\n", nil, 64 << 20, []int64{120 << 20, 400 << 20}},
		{"begins at 2048", "label: gpt\nfirst-lba: 2048\nstart=2048,size=40000\nstart=50000,size=20000\n", nil, 64 << 20, []int64{120 << 20}},
	} {
		t.Run(c.name, func(t *testing.T) {
			from, l := made(t, c.size, c.script, c.sgdisk...)
			for _, size := range append([]int64{c.size}, c.fitted...) {
				to := layout.Present{Disk: layout.Disk{Name: "sda", Size: quantity.Size(size), LogicalSector: 512, PhysicalSector: 512}}
				p, err := plan.Make(l, []layout.Present{to}, plan.Wish{Map: map[string]string{"vda": "sda"}})
				if err != nil {
					t.Fatal(size, err)
				}
				f := blank(t, size)
				if err := writeTable(f, p.Steps[0].(*plan.WriteTable).Table, 512, size); err != nil {
					t.Fatal(size, err)
				}
				text := func(f *os.File) string {
					return strings.ReplaceAll(oracle(t, "sfdisk", "-d", f.Name()), f.Name(), "disk")
				}
				got := text(f)
				if want := text(from); size == c.size && got != want {
					t.Errorf("on a disk of the same size:\n%s\nwant\n%s", got, want)
				}
				for _, q := range p.Steps[0].(*plan.WriteTable).Table.Partitions {
					if q.Extended() {
						continue
					}
					if want := fmt.Sprintf("disk%d : start=%12d, size=%12d, type=%s", q.Number, q.Start/512, q.Size/512, strings.TrimPrefix(q.Type, "0x")); !strings.Contains(got, want) {
						t.Errorf("on %d bytes: no %q in\n%s", size, want, got)
					}
				}
				oracle(t, "sfdisk", "-V", f.Name())
			}
		})
	}
}
