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

// hand collects what a restore by hand is told.
type hand struct {
	templates.ByHand
	l     *layout.Layout
	need  []string // the disks that are made again
	files map[string][]byte
}

// byHand writes RESTORE.txt, restore.sh and the files they use.
func byHand(p *Plan, m *manifest.Manifest) (map[string][]byte, error) {
	h := &hand{l: p.Layout, need: p.Layout.Needed(), files: map[string][]byte{}}
	h.ByHand = templates.ByHand{Host: m.Host, Date: m.Created.Format("2006-01-02 15:04 UTC"), SetID: m.ID}
	h.disks()
	h.arrays()
	// LUKS below LVM comes first, LUKS on LVM after it.
	h.Crypts = h.crypts(false)
	if err := h.groups(); err != nil {
		return nil, err
	}
	h.Make = h.crypts(true)
	if err := h.filesystems(); err != nil {
		return nil, err
	}
	h.swap()
	h.contents(m)
	h.swapFiles()
	h.grub()
	var err error
	if h.files["RESTORE.txt"], err = templates.RestoreText(h.ByHand); err != nil {
		return nil, err
	}
	h.files["restore.sh"], err = templates.RestoreScript(h.ByHand)
	return h.files, err
}

func (h *hand) needed(dev string) bool {
	return slices.ContainsFunc(h.l.DisksUnder(dev), func(d string) bool { return slices.Contains(h.need, d) })
}

// shell is a device in the words of restore.sh: variables for disks.
func (h *hand) shell(dev string) string {
	if d, p := h.l.Partition(dev); d != nil {
		return fmt.Sprintf(`"$(part "$%s" %d)"`, d.Name, p.Number)
	}
	if h.l.Disk(dev) != nil {
		return `"$` + dev + `"`
	}
	return path.Join("/dev", dev)
}

func (h *hand) disks() {
	for _, n := range h.need {
		d := h.l.Disk(n)
		hd := templates.HandDisk{Name: d.Name, Model: d.Model, Serial: d.Serial, Size: d.Size.String()}
		if d.Table != nil {
			hd.Sfdisk = plan.Sfdisk(d)
		}
		h.Disks = append(h.Disks, hd)
	}
}

func (h *hand) arrays() {
	for i := range h.l.Arrays {
		a := h.l.Arrays[i]
		if !h.needed(a.Name) {
			continue
		}
		var line []string
		for _, w := range plan.Mdadm(&a) {
			if dev := strings.TrimPrefix(w, "/dev/"); slices.Contains(a.Devs(), dev) {
				line = append(line, h.shell(dev))
			} else {
				line = append(line, templates.ShellQuote(w))
			}
		}
		h.Arrays = append(h.Arrays, strings.Join(line, " "))
	}
}

// crypts are the lines for the LUKS devices that lie on logical volumes, or for
// the others.
func (h *hand) crypts(onLVM bool) []string {
	var out []string
	for i := range h.l.Crypts {
		c := &h.l.Crypts[i]
		if h.needed(c.Mapper()) && (h.l.Group(c.Device) != nil) == onLVM {
			out = append(out, handCrypt(c, h.shell(c.Device))...)
		}
	}
	return out
}

func (h *hand) groups() error {
	for i := range h.l.VolumeGroup {
		g := &h.l.VolumeGroup[i]
		if !h.needed(g.PVs[0].Device) {
			continue
		}
		config, err := plan.Thinless(g)
		if err != nil {
			return err
		}
		file := g.Name + ".vgcfg"
		h.files[file] = []byte(config)
		hg := templates.HandGroup{Name: g.Name, File: file}
		for _, pv := range g.PVs {
			hg.PVs = append(hg.PVs, pv.UUID+" "+h.shell(pv.Device))
		}
		for _, c := range plan.Lvcreate(g) {
			hg.Thin = append(hg.Thin, quoteLine(c[1:], nil))
		}
		h.Groups = append(h.Groups, hg)
	}
	return nil
}

func (h *hand) filesystems() error {
	for i := range h.l.Filesystems {
		f := &h.l.Filesystems[i]
		if !h.needed(f.Device) {
			continue
		}
		run, err := plan.Mkfs(f, "DEVICE", f.Size)
		if err != nil {
			return err
		}
		words := map[string]string{"DEVICE": h.shell(f.Device)}
		for _, o := range f.Others {
			run[0] = append(run[0], "DEVICE "+o)
			words["DEVICE "+o] = h.shell(o)
		}
		for _, args := range run {
			h.Make = append(h.Make, quoteLine(args, words))
		}
		if len(f.Subvolumes) > 0 {
			h.subvolumes(f)
		}
	}
	return nil
}

func (h *hand) subvolumes(f *layout.Filesystem) {
	h.Make = append(h.Make, "mkdir -p /mnt/btrfs; mount -o "+h.options(f, "")+" "+h.shell(f.Device)+" /mnt/btrfs")
	for _, v := range f.Subvolumes {
		p := templates.ShellQuote("/mnt/btrfs/" + v.Path)
		h.Make = append(h.Make, "mkdir -p "+templates.ShellQuote(path.Dir("/mnt/btrfs/"+v.Path))+"; btrfs subvolume create "+p)
		if v.Default {
			h.Make = append(h.Make, "btrfs subvolume set-default "+p)
		}
	}
	h.Make = append(h.Make, "umount /mnt/btrfs")
}

// options are those that mount a subvolume of a btrfs.
func (h *hand) options(f *layout.Filesystem, subvolume string) string {
	out := templates.ShellQuote("subvol=/" + subvolume)
	for _, o := range f.Others {
		out += ",device=" + h.shell(o)
	}
	return out
}

func (h *hand) swap() {
	for _, s := range h.l.Swap {
		if !h.needed(s.Device) {
			continue
		}
		h.Make = append(h.Make, mkswap(s.UUID, s.Label, h.shell(s.Device)))
	}
}

// mkswap is the command line that makes swap on what is, in the shell's words, to.
func mkswap(uuid, label, to string) string {
	a := []string{"mkswap"}
	if uuid != "" {
		a = append(a, "-U", uuid)
	}
	if label != "" {
		a = append(a, "-L", label)
	}
	return quoteLine(append(a, "TO"), map[string]string{"TO": to})
}

// swapFiles are made when the archives are unpacked.
func (h *hand) swapFiles() {
	for _, s := range h.l.SwapFiles {
		file := `"$T"` + templates.ShellQuote(s.Path)
		dir := `"$T"` + templates.ShellQuote(path.Dir(s.Path))
		line := "mkdir -p " + dir + "; M=$(stat -c %y " + dir + "); : > " + file + "; chmod 600 " + file
		if f := h.l.Mounted(s.Mount); f != nil && f.Btrfs != nil {
			line += "; chattr +C " + file
		}
		h.Swap = append(h.Swap, fmt.Sprintf("%s; head -c %d /dev/zero > %s; %s; touch -d \"$M\" %s", line, int64(s.Size), file, mkswap(s.UUID, s.Label, file), dir))
	}
}

// contents are the images and archives of the set, and where they go.
func (h *hand) contents(m *manifest.Manifest) {
	for _, i := range h.l.Images {
		if i.File != "" && h.needed(i.Device) {
			h.Make = append(h.Make, `zstd -dc "$SET"/`+templates.ShellQuote(i.File)+" | dd of="+h.shell(i.Device)+" bs=4M iflag=fullblock conv=fsync")
		}
	}
	for _, a := range m.Archives {
		hm := templates.HandMount{Device: h.shell(a.Device), Path: a.Mount}
		if f := h.l.Mounted(a.Mount); f != nil && f.Btrfs != nil {
			hm.Options = h.options(f, f.MountAt(a.Mount).Subvolume)
		} else if f != nil && (f.VFAT != nil || f.ExFAT != nil) {
			if o := f.MountAt(a.Mount).Owners(); o != "" {
				hm.Options = templates.ShellQuote(o)
			}
		}
		h.Mounts = append(h.Mounts, hm)
		h.Archives = append(h.Archives, templates.HandArchive{File: a.File, Path: a.Mount})
	}
}

func (h *hand) grub() {
	if h.l.Boot.Loader == layout.SystemdBoot {
		h.Removable = layout.SystemdBoot
		return
	}
	for _, d := range h.l.Boot.Disks {
		h.GRUB = append(h.GRUB, "grub-install --target=i386-pc "+h.shell(d))
	}
	if slices.Contains(h.l.Boot.Targets, "x86_64-efi") {
		h.GRUB = append(h.GRUB, "grub-install --target=x86_64-efi --removable --no-nvram")
	}
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
