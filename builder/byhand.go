package builder

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/plan"
	"github.com/mkcdrec/mkcdrec/templates"
)

// byHand writes RESTORE.txt, restore.sh and the files they use.
func byHand(p *Plan, m *manifest.Manifest) (map[string][]byte, error) {
	l := p.Layout
	h := templates.ByHand{Host: m.Host, Date: m.Created.Format("2006-01-02 15:04 UTC"), SetID: m.ID}
	files := map[string][]byte{}
	need := l.Needed()
	shell := func(dev string) string { return handDevice(l, dev) }
	for _, n := range need {
		d := l.Disk(n)
		hd := templates.HandDisk{Name: d.Name, Model: d.Model, Serial: d.Serial, Size: d.Size.String()}
		if d.Table != nil {
			hd.Sfdisk = plan.Sfdisk(d)
		}
		h.Disks = append(h.Disks, hd)
	}
	for i := range l.Arrays {
		a := l.Arrays[i]
		if !needed(l, a.Name, need) {
			continue
		}
		words := plan.Mdadm(&a)
		var line []string
		for _, w := range words {
			if dev := strings.TrimPrefix(w, "/dev/"); slices.Contains(a.Devs(), dev) {
				line = append(line, shell(dev))
			} else {
				line = append(line, templates.ShellQuote(w))
			}
		}
		h.Arrays = append(h.Arrays, strings.Join(line, " "))
	}
	// LUKS below LVM comes first, LUKS on LVM after it.
	var later []string
	for i := range l.Crypts {
		c := &l.Crypts[i]
		if !needed(l, c.Mapper(), need) {
			continue
		}
		lines := handCrypt(c, shell(c.Device))
		if l.Group(c.Device) != nil {
			later = append(later, lines...)
		} else {
			h.Crypts = append(h.Crypts, lines...)
		}
	}
	for i := range l.VolumeGroup {
		g := &l.VolumeGroup[i]
		if !needed(l, g.PVs[0].Device, need) {
			continue
		}
		config, err := plan.Thinless(g)
		if err != nil {
			return nil, err
		}
		file := g.Name + ".vgcfg"
		files[file] = []byte(config)
		hg := templates.HandGroup{Name: g.Name, File: file}
		for _, pv := range g.PVs {
			hg.PVs = append(hg.PVs, pv.UUID+" "+shell(pv.Device))
		}
		for _, c := range plan.Lvcreate(g) {
			hg.Thin = append(hg.Thin, quoteLine(c[1:], nil))
		}
		h.Groups = append(h.Groups, hg)
	}
	h.Make = append(h.Make, later...)
	for i := range l.Filesystems {
		f := &l.Filesystems[i]
		if !needed(l, f.Device, need) {
			continue
		}
		run, err := plan.Mkfs(f, "DEVICE", f.Size)
		if err != nil {
			return nil, err
		}
		words := map[string]string{"DEVICE": shell(f.Device)}
		for _, o := range f.Others {
			run[0] = append(run[0], "DEVICE "+o)
			words["DEVICE "+o] = shell(o)
		}
		for _, args := range run {
			h.Make = append(h.Make, quoteLine(args, words))
		}
		if len(f.Subvolumes) > 0 {
			h.Make = append(h.Make, "mkdir -p /mnt/btrfs; mount -o "+handOptions(f, "", shell)+" "+shell(f.Device)+" /mnt/btrfs")
			for _, v := range f.Subvolumes {
				p := templates.ShellQuote("/mnt/btrfs/" + v.Path)
				h.Make = append(h.Make, "mkdir -p "+templates.ShellQuote(path.Dir("/mnt/btrfs/"+v.Path))+"; btrfs subvolume create "+p)
				if v.Default {
					h.Make = append(h.Make, "btrfs subvolume set-default "+p)
				}
			}
			h.Make = append(h.Make, "umount /mnt/btrfs")
		}
	}
	for _, s := range l.Swap {
		if needed(l, s.Device, need) {
			a := []string{"mkswap"}
			if s.UUID != "" {
				a = append(a, "-U", s.UUID)
			}
			if s.Label != "" {
				a = append(a, "-L", s.Label)
			}
			h.Make = append(h.Make, quoteLine(append(a, "DEVICE"), map[string]string{"DEVICE": shell(s.Device)}))
		}
	}
	for _, i := range l.Images {
		if i.File != "" && needed(l, i.Device, need) {
			h.Make = append(h.Make, `zstd -dc "$SET"/`+templates.ShellQuote(i.File)+" | dd of="+shell(i.Device)+" bs=4M iflag=fullblock conv=fsync")
		}
	}
	for _, a := range m.Archives {
		hm := templates.HandMount{Device: shell(a.Device), Path: a.Mount}
		if f := l.Mounted(a.Mount); f != nil && f.Btrfs != nil {
			hm.Options = handOptions(f, f.MountAt(a.Mount).Subvolume, shell)
		} else if f != nil && (f.VFAT != nil || f.ExFAT != nil) {
			if o := f.MountAt(a.Mount).Owners(); o != "" {
				hm.Options = templates.ShellQuote(o)
			}
		}
		h.Mounts = append(h.Mounts, hm)
		h.Archives = append(h.Archives, templates.HandArchive{File: a.File, Path: a.Mount})
	}
	for _, d := range l.Boot.Disks {
		h.GRUB = append(h.GRUB, "grub-install --target=i386-pc "+shell(d))
	}
	if slices.Contains(l.Boot.Targets, "x86_64-efi") {
		h.GRUB = append(h.GRUB, "grub-install --target=x86_64-efi --removable --no-nvram")
	}
	var err error
	if files["RESTORE.txt"], err = templates.RestoreText(h); err != nil {
		return nil, err
	}
	files["restore.sh"], err = templates.RestoreScript(h)
	return files, err
}

// handCrypt are the lines that bring back a LUKS device and open it.
func handCrypt(c *layout.Crypt, dev string) []string {
	open := "cryptsetup open " + dev + " " + templates.ShellQuote(c.Name)
	if c.Header != "" {
		return []string{"# " + c.Header + " is decrypted with the age identity in the file $IDENTITY.", `age -d -i "$IDENTITY" "$SET"/` + templates.ShellQuote(c.Header) + " | dd of=" + dev + " bs=64k conv=fsync", open}
	}
	a := plan.LUKSFormat(c, "DEVICE")
	a = slices.DeleteFunc(a, func(w string) bool { return w == "--key-file" || w == "-" || w == "--batch-mode" })
	return []string{quoteLine(a, map[string]string{"DEVICE": dev}), open}
}

// handOptions are the options that mount a subvolume of a btrfs.
func handOptions(f *layout.Filesystem, subvolume string, shell func(string) string) string {
	out := templates.ShellQuote("subvol=/" + subvolume)
	for _, o := range f.Others {
		out += ",device=" + shell(o)
	}
	return out
}

func needed(l *layout.Layout, dev string, need []string) bool {
	return slices.ContainsFunc(l.DisksUnder(dev), func(d string) bool { return slices.Contains(need, d) })
}

// handDevice is a device in the words of restore.sh: variables for disks.
func handDevice(l *layout.Layout, dev string) string {
	if d, p := l.Partition(dev); d != nil {
		return fmt.Sprintf(`"$(part "$%s" %d)"`, d.Name, p.Number)
	}
	if l.Disk(dev) != nil {
		return `"$` + dev + `"`
	}
	return path.Join("/dev", dev)
}

// quoteLine quotes a command line; devices stand for words of it.
func quoteLine(args []string, devices map[string]string) string {
	w := make([]string, len(args))
	for i, a := range args {
		w[i] = templates.ShellQuote(a)
		if dev, ok := devices[a]; ok {
			w[i] = dev
		}
	}
	return strings.Join(w, " ")
}
