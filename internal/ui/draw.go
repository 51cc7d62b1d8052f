package ui

import (
	"cmp"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/plan"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
)

// DrawLayout draws disks as bars with what is on them, then groups and boot.
func DrawLayout(w io.Writer, l *layout.Layout) {
	put(w, "%s, kernel %s, %s firmware, boot loader %s\n", l.Hostname, l.Kernel.Release, l.Boot.Firmware, cmp.Or(l.Boot.Loader, "none"))
	for i := range l.Disks {
		d := &l.Disks[i]
		put(w, "\n/dev/%s  %s  %s  serial %s\n", d.Name, d.Size, cmp.Or(d.Model, "none"), cmp.Or(d.Serial, "none"))
		drawDisk(w, l, d)
	}
	for _, g := range l.VolumeGroup {
		put(w, "\nvolume group %s\n", g.Name)
		for _, v := range g.LVs {
			put(w, "  %-16s %10s  %s\n", v.Name, v.Size, holds(l, g.Name+"/"+v.Name))
		}
	}
	for _, s := range l.SwapFiles {
		put(w, "\nswap file %s  %s\n", s.Path, s.Size)
	}
	for _, u := range l.LeftAlone {
		put(w, "\nleft alone: %s: %s\n", u.What, u.Reason)
	}
	for _, u := range l.Unsupported {
		put(w, "\nNOT COVERED: %s: %s\n", u.What, u.Reason)
	}
}

// put is fmt.Fprintf whose arguments are cleaned: names, labels and serial
// numbers come from disks and from sets, and what is printed here is what a
// person confirms.
func put(w io.Writer, format string, args ...any) {
	for i, a := range args {
		switch v := a.(type) {
		case string:
			args[i] = Clean(v)
		case []byte:
			args[i] = Clean(string(v))
		case error:
			args[i] = Clean(v.Error())
		case fmt.Stringer:
			args[i] = Clean(v.String())
		default:
			if reflect.TypeOf(a).Kind() == reflect.String { // a named type
				args[i] = Clean(fmt.Sprint(a))
			}
		}
	}
	fmt.Fprintf(w, format, args...)
}

// holds describes what is on a device.
func holds(l *layout.Layout, dev string) string {
	for _, f := range l.Filesystems {
		if f.Device != dev {
			continue
		}
		s := f.Type
		if f.Label != "" {
			s += " " + f.Label
		}
		for _, m := range f.Mounts {
			s += " on " + m.Path
		}
		if f.Excluded != "" {
			s += " (left out: " + f.Excluded + ")"
		}
		return s
	}
	for _, s := range l.Swap {
		if s.Device == dev {
			return "swap"
		}
	}
	for _, i := range l.Images {
		if i.Device == dev {
			if i.Excluded != "" {
				return i.What() + " (left out: " + i.Excluded + ")"
			}
			return i.What() + ", as it is"
		}
	}
	if c := l.CryptOn(dev); c != nil {
		return fmt.Sprintf("LUKS%d %s: %s", c.LUKS.Version, c.Name, holds(l, c.Mapper()))
	}
	for _, f := range l.Filesystems {
		if slices.Contains(f.Others, dev) {
			return fmt.Sprintf("%s with %s", f.Type, f.Device)
		}
	}
	for _, g := range l.VolumeGroup {
		for _, v := range g.LVs {
			if g.Name+"/"+v.Name == dev && v.ThinPool != nil {
				return "thin pool"
			}
		}
		for _, p := range g.PVs {
			if p.Device == dev {
				return "LVM " + g.Name
			}
		}
	}
	if _, p := l.Partition(dev); p != nil {
		switch p.Type {
		case layout.TypeBIOSBoot:
			return "BIOS boot"
		case layout.TypeESP:
			return "EFI system"
		}
	}
	return "-"
}

const barWidth = 60

func drawDisk(w io.Writer, l *layout.Layout, d *layout.Disk) {
	if d.Table == nil {
		put(w, "  no partition table; %s\n", holds(l, d.Name))
		return
	}
	bar := []byte(strings.Repeat(".", barWidth))
	for i, p := range d.Table.Partitions {
		if p.Extended() || d.Size <= 0 {
			continue
		}
		from := int(int64(p.Start) * barWidth / int64(d.Size))
		to := max(from+1, int(int64(p.Start+p.Size)*barWidth/int64(d.Size)))
		for c := max(from, 0); c < min(to, barWidth); c++ {
			bar[c] = "123456789abcdefghijklmnopqrstuvwxyz"[i%35]
		}
	}
	put(w, "  [%s] %s\n", bar, d.Table.Label)
	for i, p := range d.Table.Partitions {
		put(w, "  %c %-12s %10s at %-10s %s\n", "123456789abcdefghijklmnopqrstuvwxyz"[i%35], p.Device, p.Size, p.Start, holds(l, p.Device))
	}
}

// resized lists partitions and volumes whose size differs.
func resized(was, is *layout.Layout) [][]string {
	var out [][]string
	row := func(dev string, a, b quantity.Size) {
		if a == b {
			return
		}
		used := ""
		for _, f := range was.Filesystems {
			if f.Device == dev && f.Used > 0 {
				used = f.Used.String()
			}
		}
		out = append(out, []string{"  " + dev, holds(is, dev), a.String(), used, b.String()})
	}
	for _, d := range was.Disks {
		for _, p := range tableOf(&d) {
			if _, q := is.Partition(p.Device); q != nil && !p.Extended() {
				row(p.Device, p.Size, q.Size)
			}
		}
	}
	for i, g := range was.VolumeGroup {
		for j, v := range g.LVs {
			if i < len(is.VolumeGroup) && j < len(is.VolumeGroup[i].LVs) {
				row(g.Name+"/"+v.Name, v.Size, is.VolumeGroup[i].LVs[j].Size)
			}
		}
	}
	return out
}

func tableOf(d *layout.Disk) []layout.Partition {
	if d.Table == nil {
		return nil
	}
	return d.Table.Partitions
}

// DrawPlan prints a restore plan: every disk with what is on it now and what
// will be, what has another size than in the layout was, then the steps.
func DrawPlan(w io.Writer, p *plan.Plan, was *layout.Layout) {
	l := p.Layout
	fmt.Fprintln(w, "These disks will be OVERWRITTEN:")
	for _, d := range p.Disks {
		serial := "no serial number"
		if d.New.Serial != "" {
			serial = "serial number " + d.New.Serial
		}
		put(w, "\n  /dev/%s  %s  %s  %s\n", d.New.Name, d.New.Size, cmp.Or(d.New.Model, "no model name"), serial)
		put(w, "    now:  %s\n    then: %s", d.Now, d.Then)
		if d.Old != "" { // a part of a set goes onto any device
			put(w, ", as /dev/%s was", d.Old)
		}
		fmt.Fprintln(w)
		if old := l.Disk(d.Old); old != nil {
			o := *old
			o.Size = max(o.Size, d.New.Size)
			var b strings.Builder
			drawDisk(&b, l, &o)
			fmt.Fprint(w, "    "+strings.ReplaceAll(strings.TrimRight(b.String(), "\n"), "\n", "\n    ")+"\n")
			if rest := d.New.Size - plan.Need(old); rest > quantity.MiB {
				put(w, "    %s at the end stay unused\n", rest)
			}
		}
	}
	if rows := resized(was, l); len(rows) > 0 {
		fmt.Fprintln(w, "\nOther sizes than before:")
		Table(w, []string{"  WHAT", "HOLDS", "WAS", "USED", "WILL BE"}, rows)
	}
	fmt.Fprintln(w, "\nSteps:")
	for i, s := range p.Steps {
		put(w, "%3d. %s\n", i+1, s)
	}
}
