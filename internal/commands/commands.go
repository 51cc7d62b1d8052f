// Package commands has the command lines of the programs that make storage again. A plan
// carries them out, and restore.sh and RESTORE.txt have them for people.
package commands

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
)

func num[T ~int | ~int64](v T) string { return strconv.FormatInt(int64(v), 10) }

// Mdadm gives the command line that makes an array, of the devices that it
// names.
func Mdadm(a *layout.Array) []string {
	c := []string{"mdadm", "--create", "/dev/" + a.Name, "--run", "--force", "--level=" + strings.TrimPrefix(a.Level, "raid"), "--raid-devices=" + num(a.Devices), "--metadata=" + a.Metadata, "--uuid=" + a.UUID}
	if a.Label != "" {
		// "host:name" is a name and the host that it belongs to.
		if host, name, ok := strings.Cut(a.Label, ":"); ok && host != "" {
			c = append(c, "--homehost="+host, "--name="+name)
		} else {
			c = append(c, "--homehost=none", "--name="+a.Label)
		}
	}
	if a.Chunk > 0 {
		c = append(c, "--chunk="+num(a.Chunk/quantity.KiB))
	}
	if w := layoutName(a); w != "" {
		c = append(c, "--layout="+w)
	}
	if a.Part > 0 {
		c = append(c, "--size="+num(a.Part/quantity.KiB))
	}
	if a.Metadata == "1.1" || a.Metadata == "1.2" {
		c = append(c, "--data-offset="+num(a.Data/quantity.KiB))
	}
	if a.Bitmap {
		c = append(c, "--bitmap=internal")
	} else if a.Part > 0 {
		c = append(c, "--bitmap=none")
	}
	if len(a.Spares) > 0 {
		c = append(c, "--spare-devices="+num(len(a.Spares)))
	}
	devs := make([]string, a.Devices)
	for i := range devs {
		devs[i] = "missing"
	}
	for _, m := range a.Members {
		devs[m.Role] = "/dev/" + m.Device
	}
	c = append(c, devs...)
	for _, s := range a.Spares {
		c = append(c, "/dev/"+s)
	}
	return c
}

// layoutName is the word that mdadm has for a layout number; md(4).
func layoutName(a *layout.Array) string {
	switch a.Level {
	case "raid5", "raid6":
		names := []string{"left-asymmetric", "right-asymmetric", "left-symmetric", "right-symmetric", "parity-first", "parity-last"}
		if a.Layout >= 0 && a.Layout < len(names) {
			return names[a.Layout]
		}
	case "raid10":
		near, far := a.Layout&0xff, a.Layout>>8&0xff
		switch {
		case a.Layout>>16&1 != 0:
			return "o" + num(far)
		case far > 1:
			return "f" + num(far)
		case near > 0:
			return "n" + num(near)
		}
	}
	return ""
}

// LUKSFormat is the command line that recreates a LUKS device; the key comes
// from standard input.
func LUKSFormat(c *layout.Crypt, dev string) []string {
	k := c.LUKS
	a := []string{"cryptsetup", "luksFormat", "--batch-mode", "--type", "luks" + num(k.Version), "--cipher", k.Cipher, "--key-size", num(k.KeySize), "--hash", k.Hash, "--uuid", c.UUID, "--key-file", "-"}
	if k.Version == 2 {
		a = append(a, "--sector-size", num(k.SectorSize), "--offset", num(k.Offset/512))
		if c.Label != "" {
			a = append(a, "--label", c.Label)
		}
	} else {
		a = append(a, "--align-payload", num(k.Offset/512))
	}
	return append(a, dev)
}

// LUKSOpen is the command line that opens a LUKS device; the key comes from standard input.
func LUKSOpen(dev, name string, options ...string) []string {
	return append(append([]string{"cryptsetup", "open", "--type", "luks", "--key-file", "-"}, options...), dev, name)
}

// Pvcreate makes a physical volume with the UUID that it has in file, the text of its
// group; Vgcfgrestore the group, and Vgchange activates it.
func Pvcreate(uuid, file, dev string) []string {
	return []string{"lvm", "pvcreate", "-ff", "-y", "--uuid", uuid, "--restorefile", file, dev}
}

// Vgcfgrestore is described at Pvcreate.
func Vgcfgrestore(file, group string) []string {
	return []string{"lvm", "vgcfgrestore", "-f", file, group}
}

// Vgchange is described at Pvcreate.
func Vgchange(group string) []string {
	return []string{"lvm", "vgchange", "-ay", "--ignoremonitoring", group}
}

// Lvcreate gives the command lines that make a group's thin pools and volumes:
// vgcfgrestore(8) can't bring back what a pool has in its metadata.
func Lvcreate(g *layout.VolumeGroup) [][]string {
	var out [][]string
	for _, v := range g.LVs {
		t := v.ThinPool
		if t == nil {
			continue
		}
		zero := "n"
		if t.Zero {
			zero = "y"
		}
		a := []string{"lvm", "lvcreate", "-y", "--type", "thin-pool", "-L", num(v.Size) + "b", "--poolmetadatasize", num(t.Metadata) + "b", "-c", num(t.Chunk) + "b", "-Z", zero}
		if t.Discards != "" {
			a = append(a, "--discards", t.Discards)
		}
		out = append(out, append(a, "-n", v.Name, g.Name))
	}
	for _, v := range g.LVs {
		if v.Pool != "" {
			out = append(out, []string{"lvm", "lvcreate", "-y", "-W", "n", "-V", num(v.Size) + "b", "--thinpool", v.Pool, "-n", v.Name, g.Name})
		}
	}
	return out
}

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

// Mkswap is the command line that makes swap, without the device or file.
func Mkswap(uuid, label string) []string {
	a := []string{"mkswap"}
	if uuid != "" {
		a = append(a, "-U", uuid)
	}
	if label != "" {
		a = append(a, "-L", label)
	}
	return a
}

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
