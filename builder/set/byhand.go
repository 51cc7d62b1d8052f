package set

import (
	"path"
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/archive"
	"github.com/mkcdrec/mkcdrec/internal/bootloader"
	"github.com/mkcdrec/mkcdrec/internal/commands"
	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/plan"
	"github.com/mkcdrec/mkcdrec/templates"
)

// place stands for a device in command lines, until quoteLine puts the shell's words there;
// no name or label can be the same.
const place = "\x00"

// hand collects what a restore by hand is told.
type hand struct {
	templates.ByHand
	l     *layout.Layout
	need  []string // the disks that are made again
	files map[string][]byte
	vars  map[string]templates.Shell // disk to the shell variable with its device
}

// byHand writes RESTORE.txt, restore.sh and the files they use. chains are the earlier archives
// that are unpacked before one that is an increment, by its file.
func byHand(l *layout.Layout, m *manifest.Manifest, chains map[string][]archive.Source) (map[string][]byte, error) {
	h := &hand{l: l, need: l.Needed(), files: map[string][]byte{}}
	h.ByHand = templates.ByHand{Host: m.Host, Date: m.Created.Format("2006-01-02 15:04 UTC"), SetID: m.ID, NotCovered: m.NotCovered}
	h.only()
	h.vars = variables(l.Disks)
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
	h.contents(m, chains)
	h.swapFiles()
	h.readOnly()
	h.bootLoader()
	var err error
	if h.files["RESTORE.txt"], err = templates.RestoreText(h.ByHand); err != nil {
		return nil, err
	}
	h.files["restore.sh"], err = templates.RestoreScript(h.ByHand)
	return h.files, err
}

// only names what was saved where the configuration lists it.
func (h *hand) only() {
	for _, f := range h.l.Filesystems {
		if f.Included != nil {
			h.Only = append(h.Only, f.Device+": "+strings.Join(f.Included, ", "))
		} else if strings.HasPrefix(f.Excluded, layout.ByInclude) {
			h.Only = append(h.Only, f.Device+": nothing")
		}
	}
}

func (h *hand) needed(dev string) bool {
	return slices.ContainsFunc(h.l.DisksUnder(dev), func(d string) bool { return slices.Contains(h.need, d) })
}

// variables gives each disk a variable of restore.sh. The names of disks may have
// characters that those of variables can't have.
func variables(disks []layout.Disk) map[string]templates.Shell {
	out := map[string]templates.Shell{}
	for i, d := range disks {
		plain := strings.Map(func(r rune) rune {
			if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
				return r
			}
			return -1
		}, d.Name)
		if plain == d.Name {
			out[d.Name] = templates.Shellf("disk_%s", plain)
		} else {
			out[d.Name] = templates.Shellf("disk%s_%s", i+1, plain)
		}
	}
	return out
}

// shell is a device in the words of restore.sh: variables for disks.
func (h *hand) shell(dev string) templates.Shell {
	if d, p := h.l.Partition(dev); d != nil {
		return templates.Shellf(`"$(part "$%s" %s)"`, h.vars[d.Name], p.Number)
	}
	if h.l.Disk(dev) != nil {
		return templates.Shellf(`"$%s"`, h.vars[dev])
	}
	return templates.Shellf("%s", path.Join("/dev", dev))
}

func (h *hand) disks() {
	for _, n := range h.need {
		d := h.l.Disk(n)
		hd := templates.HandDisk{Name: d.Name, Var: h.vars[d.Name], Was: d.Text()}
		if d.Table != nil {
			hd.Sfdisk = commands.Sfdisk(d)
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
		words := map[string]templates.Shell{}
		for _, dev := range a.Devs() {
			words["/dev/"+dev] = h.shell(dev)
		}
		h.Arrays = append(h.Arrays, quoteLine(commands.Mdadm(&a), words))
	}
}

// crypts are the lines for the LUKS devices that are on logical volumes, or for the
// others.
func (h *hand) crypts(onLVM bool) []templates.Shell {
	var out []templates.Shell
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
		words := map[string]templates.Shell{place + "file": templates.Shellf(`"$SET"/%s`, file)}
		var run [][]string
		for _, pv := range g.PVs {
			words[place+pv.Device] = h.shell(pv.Device)
			run = append(run, commands.Pvcreate(pv.UUID, place+"file", place+pv.Device))
		}
		run = append(run, commands.Vgcfgrestore(place+"file", g.Name), commands.Vgchange(g.Name))
		hg := templates.HandGroup{File: file}
		for _, c := range append(run, commands.Lvcreate(g)...) {
			hg.Lines = append(hg.Lines, quoteLine(c[1:], words))
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
		run, err := commands.Mkfs(f, place, f.Size)
		if err != nil {
			return err
		}
		words := map[string]templates.Shell{place: h.shell(f.Device)}
		for _, o := range f.Others {
			run[0] = append(run[0], place+o)
			words[place+o] = h.shell(o)
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
	h.Make = append(h.Make, templates.Shellf("mkdir -p /mnt/btrfs; mount -o %s %s /mnt/btrfs", h.options(f, ""), h.shell(f.Device)))
	for _, v := range f.Subvolumes {
		p := "/mnt/btrfs/" + v.Path
		h.Make = append(h.Make, templates.Shellf("mkdir -p %s; btrfs subvolume create %s", path.Dir(p), p))
		if v.Default {
			h.Make = append(h.Make, templates.Shellf("btrfs subvolume set-default %s", p))
		}
	}
	h.Make = append(h.Make, "umount /mnt/btrfs")
}

// options are those that mount a subvolume of a btrfs.
func (h *hand) options(f *layout.Filesystem, subvolume string) templates.Shell {
	out := templates.Shellf("subvol=/%s", subvolume)
	if subvolume == "" {
		out = "subvol=/"
	}
	for _, o := range f.Others {
		out = templates.Shellf("%s,device=%s", out, h.shell(o))
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
func mkswap(uuid, label string, to templates.Shell) templates.Shell {
	return templates.Shellf("%s %s", quoteLine(commands.Mkswap(uuid, label), nil), to)
}

// swapFiles are made when the archives are unpacked.
func (h *hand) swapFiles() {
	for _, s := range h.l.SwapFiles {
		file, dir := templates.Shellf(`"$T"%s`, s.Path), templates.Shellf(`"$T"%s`, path.Dir(s.Path))
		line := templates.Shellf("mkdir -p %s; M=$(stat -c %%y %s); : > %s; chmod 600 %s", dir, dir, file, file)
		if f := h.l.Mounted(s.Mount); f != nil && f.Btrfs != nil {
			line = templates.Shellf("%s; chattr +C %s", line, file)
		}
		h.Swap = append(h.Swap, templates.Shellf(`%s; head -c %s /dev/zero > %s; %s; touch -d "$M" %s`, line, int64(s.Size), file, mkswap(s.UUID, s.Label, file), dir))
	}
}

// contents are the images and archives of the set, and where they go.
func (h *hand) contents(m *manifest.Manifest, chains map[string][]archive.Source) {
	for _, i := range h.l.Images {
		if i.File != "" && h.needed(i.Device) {
			h.images(i.File, h.shell(i.Device), chains[i.File])
		}
	}
	for _, a := range m.Archives {
		var files []string
		for _, s := range chains[a.File] {
			files = append(files, path.Join("..", s.Dir, s.File))
		}
		chain := len(files) > 0
		files = append(files, a.File)
		hm := templates.HandMount{Device: h.shell(a.Device), Path: a.Mount}
		if a.Mount == "" { // the root of a file system that was mounted nowhere as a whole
			if f := h.filesystem(a.Device); f != nil && f.Btrfs != nil {
				hm.Options = h.options(f, "")
			}
			for _, f := range files {
				h.Parts = append(h.Parts, templates.HandPart{HandMount: hm, File: f, Chain: chain})
			}
			continue
		}
		if f := h.l.Mounted(a.Mount); f != nil && f.Btrfs != nil {
			hm.Options = h.options(f, f.MountAt(a.Mount).Subvolume)
		} else if f != nil && fstype.Of(f.Type).Foreign {
			if o := f.MountAt(a.Mount).Owners(); o != "" {
				hm.Options = templates.Shellf("%s", o)
			}
		}
		h.Mounts = append(h.Mounts, hm)
		for _, f := range files {
			h.Archives = append(h.Archives, templates.HandArchive{File: f, Path: a.Mount, Chain: chain})
		}
	}
}

// images are the image of a device, and those before it of an increment.
func (h *hand) images(file string, dev templates.Shell, chain []archive.Source) {
	add := func(dir, file string, n int) {
		hi := templates.HandImage{File: path.Join(dir, file), Device: dev}
		if n > 0 { // the first one has all
			hi.Frames = path.Join(dir, framesFile(file))
		}
		h.Images = append(h.Images, hi)
	}
	for n, s := range chain {
		add(path.Join("..", s.Dir), s.File, n)
	}
	add("", file, len(chain))
}

// filesystem finds the file system on a device.
func (h *hand) filesystem(dev string) *layout.Filesystem {
	i := slices.IndexFunc(h.l.Filesystems, func(f layout.Filesystem) bool { return f.Device == dev })
	if i < 0 {
		return nil
	}
	return &h.l.Filesystems[i]
}

// readOnly are the subvolumes that nothing can be written to, once all is unpacked.
func (h *hand) readOnly() {
	for i := range h.l.Filesystems {
		f := &h.l.Filesystems[i]
		for _, v := range f.Subvolumes {
			if v.ReadOnly && h.needed(f.Device) {
				h.After = append(h.After, templates.Shellf("mount -o %s %s /mnt/btrfs; btrfs property set -ts %s ro true; umount /mnt/btrfs", h.options(f, ""), h.shell(f.Device), "/mnt/btrfs/"+v.Path))
			}
		}
	}
}

func (h *hand) bootLoader() {
	if h.DataOnly = h.l.DataOnly(); h.DataOnly {
		return
	}
	loader := bootloader.For(h.l.Boot.Loader)
	var found bool
	if h.Loader, found = loader.ByHand(h.l, h.shell); found {
		h.Removable = loader.Name()
	}
}

// handCrypt are the lines that write the header of a LUKS device and open it.
func handCrypt(c *layout.Crypt, dev templates.Shell) []templates.Shell {
	// A person types the passphrase.
	line := func(a []string) templates.Shell {
		a = slices.DeleteFunc(a, func(w string) bool { return w == "--key-file" || w == "-" || w == "--batch-mode" })
		return quoteLine(a, map[string]templates.Shell{place: dev})
	}
	open := line(commands.LUKSOpen(place, c.Name))
	if c.Header != "" {
		return []templates.Shell{"# The header is decrypted with the age identity in the file $IDENTITY.",
			templates.Shellf(`age -d -i "$IDENTITY" "$SET"/%s | dd of=%s bs=64k conv=fsync`, c.Header, dev), open}
	}
	return []templates.Shell{line(commands.LUKSFormat(c, place)), open}
}

// quoteLine quotes a command line; devices replace words of it.
func quoteLine(args []string, devices map[string]templates.Shell) templates.Shell {
	w := make([]any, len(args))
	for i, a := range args {
		w[i] = a
		if dev, ok := devices[a]; ok {
			w[i] = dev
		}
	}
	return templates.Command(w...)
}
