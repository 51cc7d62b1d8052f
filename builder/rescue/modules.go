package rescue

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/initramfs"
	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/kmod"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/superblock"
	"github.com/mkcdrec/mkcdrec/internal/sysconf"
	"github.com/mkcdrec/mkcdrec/kernelcfg"
)

// addModules puts in the chosen modules, packed, their index, what the
// machine's modprobe.d has about them, and the firmware they declare.
func (b *Maker) addModules(t *initramfs.Files, p *Machine, k *kernelcfg.Kernel, work string) (*drivers, error) {
	x, err := kernelcfg.CheckModules(k)
	if err != nil {
		return nil, err
	}
	names, _, err := b.Config.SelectModules(x, p.Layout)
	if err != nil {
		return nil, err
	}
	c := b.Config
	base := "usr/lib/modules/" + k.Release + "/"
	pack := filepath.Join(work, kmod.PackFile)
	w, err := os.OpenFile(pack, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot pack kernel modules: %w", err)
	}
	defer w.Close()
	var firmware []string
	size := map[string]int64{}
	index, err := x.WritePack(w, names, func(name string, m []byte) error {
		size[name] = int64(len(m))
		fw, err := kmod.Firmware(m)
		firmware = append(firmware, fw...)
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("cannot pack kernel modules: %w", err)
	}
	d := &drivers{modules: len(names), classes: kernelcfg.Classes(x, size)}
	errs := []error{t.AddFile(base+kmod.PackFile, pack), t.AddContent(base+kmod.PackIndex, index, 0o644)}
	idx, err := x.WriteIndex(names)
	if err != nil {
		return nil, err
	}
	for f, c := range idx {
		errs = append(errs, t.AddContent(base+f, c, 0o644))
	}
	conf := kmod.ReadConf("")
	for _, n := range c.ExcludeModules {
		conf.Blacklist[kmod.Norm(n)] = true
	}
	for n, o := range conf.Options {
		conf.Options[n], _ = sysconf.DropSecrets(o)
	}
	errs = append(errs, t.AddContent("etc/modprobe.d/mkcdrec.conf", conf.Text(append(slices.Clone(names), c.ExcludeModules...)), 0o644))
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return d, b.addFirmware(t, k, firmware, d)
}

// SelectModules chooses the modules for a layout; loaded are those that this machine has
// loaded.
func (c *Config) SelectModules(x *kmod.Index, l *layout.Layout) (names, loaded []string, err error) {
	aliases, loaded, err := kernelcfg.HostAliases("")
	if err != nil {
		return nil, nil, err
	}
	extra := slices.Clone(c.ExtraModules)
	// Sets may be on tape, and a drive that started the machine is a CD drive.
	useful := []string{"st", "sg"}
	if c.ExtraTree != "" {
		useful = append(useful, "squashfs", "overlay")
	}
	if c.Modules != kernelcfg.SetHost {
		useful = append(useful, "md_mod", "raid1") // for restore --mirror
	}
	for _, m := range useful {
		if _, ok := x.Path[m]; ok {
			extra = append(extra, m)
		}
	}
	for _, f := range l.Filesystems {
		extra = append(extra, f.Type)
		if t := fstype.Of(f.Type); t.Extra != nil { // the kernel asks for these by name
			m := t.Extra(&f.Geometry)
			extra = append(extra, m[:min(len(m), 1)]...)
		}
	}
	for _, a := range l.Arrays {
		extra = append(extra, "md_mod", a.Module(), "dm_snapshot") // through which restore mount --ro reads it
	}
	for _, c := range l.Crypts {
		extra = append(extra, cryptModules(x, c.LUKS)...)
	}
	if c.Modules != kernelcfg.SetHost {
		// Those of LUKS devices of other machines: the defaults of LUKS2 and LUKS1.
		for _, cipher := range []string{"aes-xts-plain64", "aes-cbc-essiv:sha256"} {
			extra = append(extra, cryptModules(x, &superblock.LUKS{Cipher: cipher})...)
		}
	}
	for i := range l.VolumeGroup {
		extra = append(extra, groupModules(&l.VolumeGroup[i])...)
	}
	// Drivers of storage and network that are in use without an alias.
	for _, m := range loaded {
		if pth := x.Path[m]; slices.ContainsFunc([]string{"kernel/drivers/scsi/", "kernel/drivers/ata/", "kernel/drivers/nvme/", "kernel/drivers/md/"}, func(d string) bool { return strings.HasPrefix(pth, d) }) {
			extra = append(extra, m)
		}
	}
	names, _, err = kernelcfg.Select(x, c.Modules, extra, aliases, c.ExcludeModules)
	return names, loaded, err
}

// groupModules are the modules that a volume group's volumes need, and those with which
// restore mount --ro reads such that write.
func groupModules(g *layout.VolumeGroup) []string {
	var out []string
	thin := slices.ContainsFunc(g.LVs, func(v layout.LogicalVolume) bool { return v.ThinPool != nil })
	if thin {
		out = append(out, "dm_thin_pool")
	}
	if g.Rigid() {
		out = append(out, "dm_raid", "dm_mirror", "raid0", "raid1", "raid10", "raid456")
	}
	if thin || g.Rigid() || len(g.Snapshots)+len(g.Caches) > 0 {
		out = append(out, "dm_snapshot")
	}
	return out
}

// drivers is what modules and firmware take.
type drivers struct {
	modules  int
	classes  []kernelcfg.Class
	firmware int   // files
	bytes    int64 // of the firmware
}

func (d *drivers) report(rep progress.Reporter) {
	var l []string
	for _, c := range d.classes[:min(6, len(d.classes))] {
		l = append(l, fmt.Sprintf("%s %s", c.Name, quantity.Size(c.Bytes)))
	}
	rep.Note("drivers by class, unpacked: %s; firmware: %d files, %s", strings.Join(l, ", "), d.firmware, quantity.Size(d.bytes))
}

func (b *Maker) addFirmware(t *initramfs.Files, k *kernelcfg.Kernel, names []string, d *drivers) error {
	slices.Sort(names)
	var missing []string
	for _, n := range slices.Compact(names) {
		file, packed, ok := kernelcfg.FindFirmware("", k.Release, n)
		if !ok {
			missing = append(missing, n)
			continue
		}
		f, err := os.Open(file)
		if err != nil {
			return fmt.Errorf("cannot read firmware: %w", err)
		}
		c, err := kmod.Decompress(f, file)
		f.Close()
		if err != nil {
			return fmt.Errorf("cannot read firmware %s: %w", file, err)
		}
		d.firmware++
		d.bytes += int64(len(c))
		if err := t.AddContent("usr/lib/firmware/"+packed, c, 0o644); err != nil {
			return err
		}
	}
	if len(missing) > 0 {
		b.Report.Note("firmware that drivers may ask for and this machine does not have: %d files (%s ...)", len(missing), missing[0])
	}
	return nil
}

// present are those of the modules that the kernel has.
func present(x *kmod.Index, names []string) (out []string) {
	for _, m := range names {
		if _, ok := x.Path[m]; ok {
			out = append(out, m)
		}
	}
	return out
}

// cryptModules are the modules that dm-crypt and cryptsetup ask the kernel for
// by the names of ciphers and hashes.
func cryptModules(x *kmod.Index, k *superblock.LUKS) []string {
	out := []string{"dm_crypt"}
	words := append(strings.FieldsFunc(k.Cipher, func(r rune) bool { return r == '-' || r == ':' }), k.Hash, "sha256", "sha512")
	for _, w := range words {
		out = append(out, present(x, []string{w, w + "_generic", w + "_x86_64", w + "_ssse3"})...)
	}
	return append(out, present(x, []string{"aesni_intel", "crypto_simd", "cryptd", "af_alg", "algif_skcipher", "algif_hash"})...)
}
