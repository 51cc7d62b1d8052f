package builder

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/builder/set"
	"github.com/mkcdrec/mkcdrec/initramfs"
	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/keymap"
	"github.com/mkcdrec/mkcdrec/internal/kmod"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/loaders"
	"github.com/mkcdrec/mkcdrec/internal/media"
	"github.com/mkcdrec/mkcdrec/internal/regular"
	"github.com/mkcdrec/mkcdrec/internal/rescue"
	"github.com/mkcdrec/mkcdrec/internal/sshserver"
	"github.com/mkcdrec/mkcdrec/internal/sysconf"
	"github.com/mkcdrec/mkcdrec/internal/tool"
	"github.com/mkcdrec/mkcdrec/internal/uuid"
	"github.com/mkcdrec/mkcdrec/kernelcfg"
	"github.com/mkcdrec/mkcdrec/templates"
)

// Hint tells the rescue system where its set is.
type Hint struct {
	SetID, FSUUID, Path string
	Tape                string // drive, or ""
}

// Needs is what a rescue system has to be able to do, by the words that
// kernelcfg.For and initramfs.ProgramsFor know.
func (p *Plan) Needs() []string {
	var out []string
	for _, f := range p.Layout.Filesystems {
		out = append(out, f.Type)
	}
	if len(p.Layout.VolumeGroup) > 0 {
		out = append(out, "lvm")
	}
	for _, a := range p.Layout.Arrays {
		out = append(out, "md", a.Level)
	}
	if len(p.Layout.Crypts) > 0 {
		out = append(out, "luks")
	}
	for _, g := range p.Layout.VolumeGroup {
		if slices.ContainsFunc(g.LVs, func(v layout.LogicalVolume) bool { return v.ThinPool != nil }) {
			out = append(out, "thin")
		}
	}
	if p.Layout.Boot.Firmware == "uefi" {
		out = append(out, "uefi")
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Rescue writes a rescue medium to the file out, which appears whole.
func (b *Builder) Rescue(ctx context.Context, p *Plan, out string) error {
	tmp, err := os.MkdirTemp(filepath.Dir(out), ".mkcdrec-iso-*")
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", out, err)
	}
	defer os.RemoveAll(tmp)
	iso := filepath.Join(tmp, "iso")
	if err := b.rescue(ctx, p, Hint{}, iso); err != nil {
		return err
	}
	if err := os.Rename(iso, out); err != nil {
		return fmt.Errorf("cannot write %s: %w", out, err)
	}
	return nil
}

func (b *Builder) rescue(ctx context.Context, p *Plan, h Hint, iso string) error {
	work, err := os.MkdirTemp(filepath.Dir(iso), ".rescue-*")
	if err != nil {
		return fmt.Errorf("cannot make the rescue system: %w", err)
	}
	defer os.RemoveAll(work)
	k, info, initrd, err := b.system(ctx, p, h, work)
	if err != nil {
		return err
	}
	return b.image(p, k, info, initrd, iso, nil)
}

// system makes the rescue system below work: the kernel, what it knows of its
// machine, and the file of its initramfs.
func (b *Builder) system(ctx context.Context, p *Plan, h Hint, work string) (*kernelcfg.Kernel, *rescue.Info, string, error) {
	b.Report.Phase("rescue system", 0)
	if _, _, err := b.cmdline(p); err != nil {
		return nil, nil, "", err
	}
	k, err := b.kernel(p)
	if err != nil {
		return nil, nil, "", err
	}
	info, err := b.info(p, k, h)
	if err != nil {
		return nil, nil, "", err
	}
	tree, err := b.tree(ctx, p, k, info, work)
	if err != nil {
		return nil, nil, "", fmt.Errorf("cannot make the rescue system: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return nil, nil, "", err
	}
	initrd := filepath.Join(work, "initrd.img")
	size, err := pack(tree, k, initrd)
	if err != nil {
		return nil, nil, "", err
	}
	b.report(k.Release, size, tree.Size())
	return k, info, initrd, nil
}

// info is what the medium knows of its machine. With SOURCE_DATE_EPOCH the
// medium's id comes from what it is made of.
func (b *Builder) info(p *Plan, k *kernelcfg.Kernel, h Hint) (*rescue.Info, error) {
	now, fixed, err := media.Epoch()
	if err != nil {
		return nil, err
	}
	i := &rescue.Info{Version: rescue.InfoVersion, Host: p.Layout.Hostname, Created: now, Program: b.Version, Kernel: k.Release, MediumID: uuid.New(), SetID: h.SetID, FSUUID: h.FSUUID, Path: h.Path, Tape: h.Tape}
	if fixed {
		var lay strings.Builder
		if err := publicLayout(p.Layout).Write(&lay); err != nil {
			return nil, err
		}
		i.MediumID = uuid.From(fmt.Sprintf("%d\x00%s\x00%s\x00%+v\x00%s", now.Unix(), k.Release, b.Version, b.Config.Rescue, lay.String()))
	}
	return i, nil
}

// kernel finds the kernel and checks its configuration for what is needed.
func (b *Builder) kernel(p *Plan) (*kernelcfg.Kernel, error) {
	c := b.Config.Rescue
	k, err := kernelcfg.Find("", p.Layout.Kernel.Release, c.Kernel, c.ModulesDir)
	if err != nil {
		return nil, err
	}
	if k.Config == nil {
		b.Report.Warn("the configuration of kernel %s is nowhere to be found: what it lacks shows only when the medium is started", k.Release)
		return k, nil
	}
	var errs []error
	for _, m := range k.Config.Check(b.requirements(p)) {
		errs = append(errs, errors.New(m.String()))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("cannot use kernel %s (%s):\n%w", k.Image, k.ConfigFrom, err)
	}
	return k, nil
}

func (b *Builder) requirements(p *Plan) []kernelcfg.Requirement {
	reqs := slices.Clone(kernelcfg.Base)
	for _, n := range p.Needs() {
		reqs = append(reqs, kernelcfg.For(n)...)
	}
	return reqs
}

// tree collects the rescue system.
func (b *Builder) tree(ctx context.Context, p *Plan, k *kernelcfg.Kernel, info *rescue.Info, work string) (*initramfs.Files, error) {
	t := initramfs.New()
	if err := b.addBinary(ctx, t, work); err != nil {
		return nil, err
	}
	if err := b.addModules(t, p, k, work); err != nil {
		return nil, err
	}
	progs := b.programs(p)
	carried, err := t.Carry(ctx, b.Run, progs)
	if err != nil {
		return nil, err
	}
	if err := b.addTexts(t, p, info); err != nil {
		return nil, err
	}
	if os.Geteuid() != 0 {
		b.Report.Warn("not root: the carried programs were not tried in the packed tree")
		return t, nil
	}
	try := filepath.Join(work, "try")
	if err := os.Mkdir(try, 0o700); err != nil {
		return nil, err
	}
	defer os.RemoveAll(try)
	return t, t.Try(ctx, b.Run, try, carried)
}

// Binary is the multicall binary's path in the rescue system.
const Binary = "bbin/mkcdrec"

// addBinary puts the multicall binary in, with a link for each command.
func (b *Builder) addBinary(ctx context.Context, t *initramfs.Files, work string) error {
	out, err := b.Run.Run(ctx, tool.New(b.Executable, "applet"))
	if err != nil {
		return fmt.Errorf("cannot list the commands of %s: %w", b.Executable, err)
	}
	names := strings.Fields(string(out))
	for _, must := range []string{"init", "restore", "sh", "modprobe"} {
		if !slices.Contains(names, must) {
			return fmt.Errorf("cannot use %s for the rescue system: it has no command %s; is it the multicall binary made by `make build`?", b.Executable, must)
		}
	}
	exe, err := loaders.Plain(b.Executable, filepath.Join(work, "mkcdrec"))
	if err != nil {
		return err
	}
	errs := []error{t.AddFile(Binary, exe), t.AddLink("init", "bbin/init"), t.AddLink("usr/bin/sh", "/bbin/sh"), t.AddLink("usr/sbin/modprobe", "/bbin/modprobe")}
	if packed, err := loaders.Self(b.Executable); err == nil {
		t.SetPrepacked(Binary, packed)
	} else if !errors.Is(err, loaders.ErrNone) {
		return err
	}
	for _, n := range names {
		if n != "mkcdrec" {
			errs = append(errs, t.AddLink("bbin/"+n, "mkcdrec"))
		}
	}
	return errors.Join(errs...)
}

// addModules puts in the chosen modules, packed, their index, what the
// machine's modprobe.d says of them, and the firmware they declare.
func (b *Builder) addModules(t *initramfs.Files, p *Plan, k *kernelcfg.Kernel, work string) error {
	x, err := kernelcfg.CheckModules(k)
	if err != nil {
		return err
	}
	names, _, err := b.selectModules(x, p)
	if err != nil {
		return err
	}
	c := b.Config.Rescue
	base := "usr/lib/modules/" + k.Release + "/"
	pack := filepath.Join(work, kmod.PackFile)
	w, err := os.OpenFile(pack, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("cannot pack kernel modules: %w", err)
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
		return err
	}
	if err := w.Close(); err != nil {
		return fmt.Errorf("cannot pack kernel modules: %w", err)
	}
	b.modules = ModuleReport{Set: c.Modules, Modules: len(names), Classes: kernelcfg.Classes(x, size)}
	errs := []error{t.AddFile(base+kmod.PackFile, pack), t.AddContent(base+kmod.PackIndex, index, 0o644)}
	idx, err := x.WriteIndex(names)
	if err != nil {
		return err
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
		return err
	}
	return b.addFirmware(t, k, firmware)
}

// selectModules chooses the modules for a plan by the configuration; loaded
// are those that this machine has loaded.
func (b *Builder) selectModules(x *kmod.Index, p *Plan) (names, loaded []string, err error) {
	aliases, loaded, err := kernelcfg.HostAliases("")
	if err != nil {
		return nil, nil, err
	}
	c := b.Config.Rescue
	extra := slices.Clone(c.ExtraModules)
	// Sets may be on tape, and a drive that started the machine is a CD drive.
	useful := []string{"st", "sg"}
	if c.Modules != kernelcfg.SetHost {
		useful = append(useful, "md_mod", "raid1") // for restore --mirror
	}
	for _, m := range useful {
		if _, ok := x.Path[m]; ok {
			extra = append(extra, m)
		}
	}
	for _, f := range p.Layout.Filesystems {
		extra = append(extra, f.Type)
		if t := fstype.Of(f.Type); t.Extra != nil { // the kernel asks for these by name
			m := t.Extra(&f.Geometry)
			extra = append(extra, m[:min(len(m), 1)]...)
		}
	}
	for _, a := range p.Layout.Arrays {
		extra = append(extra, "md_mod", a.Module(), "dm_snapshot") // through which restore mount --ro reads it
	}
	for _, c := range p.Layout.Crypts {
		extra = append(extra, cryptModules(x, c.LUKS)...)
	}
	for i := range p.Layout.VolumeGroup {
		extra = append(extra, groupModules(&p.Layout.VolumeGroup[i])...)
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

// ModuleReport says what the drivers take.
type ModuleReport struct {
	Set     string            `json:"set"`
	Modules int               `json:"modules"`
	Classes []kernelcfg.Class `json:"classes"`
	// Firmware is the number of firmware files packed, and their bytes;
	// MissingFirmware what drivers declare and this machine has not.
	Firmware        int      `json:"firmware"`
	FirmwareBytes   int64    `json:"firmwareBytes"`
	MissingFirmware []string `json:"missingFirmware,omitempty"`
}

func (b *Builder) addFirmware(t *initramfs.Files, k *kernelcfg.Kernel, names []string) error {
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
		b.modules.Firmware++
		b.modules.FirmwareBytes += int64(len(c))
		if err := t.AddContent("usr/lib/firmware/"+packed, c, 0o644); err != nil {
			return err
		}
	}
	b.modules.MissingFirmware = missing
	if len(missing) > 0 {
		b.Report.Note("firmware that drivers may ask for and this machine does not have: %d files (%s ...)", len(missing), missing[0])
	}
	return nil
}

func (b *Builder) programs(p *Plan) []initramfs.Program {
	out := slices.Clone(b.carry)
	if b.Config.Rescue.Programs == "none" {
		return out
	}
	needs := p.Needs()
	if b.Config.Rescue.Programs != "required" {
		needs = append(needs, "shell")
	}
	if p.generic {
		host := b.Config.Rescue.Modules == kernelcfg.SetHost // for machines with little memory
		needs = append(needs, fstype.Names(func(t *fstype.Type) bool { return t.Common || t.Programs != nil && !host })...)
		needs = append(needs, "lvm", "md", "luks", "thin")
	}
	for _, m := range p.Layout.Images {
		if t := fstype.Of(m.Type); t.Mkfs == nil && t.GrowBy != nil {
			needs = append(needs, t.Name) // clonedsk grows it
		}
	}
	// What the wishes of a restore may want: other types, --firmware, --mirror.
	// A small system, for machines with little memory, has none of them.
	wishes := append(fstype.Names(func(t *fstype.Type) bool { return t.Common }), "md")
	if b.Config.Rescue.Programs == "required" || b.Config.Rescue.Modules == kernelcfg.SetHost {
		wishes = nil
	}
	for i, n := range append(slices.Clone(needs), wishes...) {
		for _, pr := range initramfs.ProgramsFor(n) {
			if i >= len(needs) && pr.Optional {
				continue
			}
			pr.Optional = pr.Optional || p.generic || i >= len(needs)
			if !slices.ContainsFunc(out, func(o initramfs.Program) bool { return o.Name == pr.Name }) {
				pr.For = n
				out = append(out, pr)
			}
		}
	}
	for _, c := range b.Config.Rescue.Carry {
		out = append(out, initramfs.Program{Name: c, Check: []string{"--version"}, For: "rescue.carry"})
	}
	return out
}

// addTexts puts in the files of /etc: no secret is among them.
func (b *Builder) addTexts(t *initramfs.Files, p *Plan, info *rescue.Info) error {
	ij, err := json.MarshalIndent(info, "", "  ")
	if err != nil {
		return err
	}
	var lay strings.Builder
	if err := publicLayout(p.Layout).Write(&lay); err != nil {
		return err
	}
	host := set.SafeName(p.Layout.Hostname)
	keys, err := b.sshKeys()
	if err != nil {
		return err
	}
	if keys != "" {
		if err := t.AddContent(rescue.KeysFile, []byte(keys), 0o600); err != nil {
			return err
		}
	}
	if m, err := keymap.Read("/dev/tty0"); err == nil {
		j, err := json.Marshal(m)
		if err == nil {
			err = t.AddContent(rescue.KeymapFile, j, 0o644)
		}
		if err != nil {
			return err
		}
	}
	// The time zone, how the hardware's clock runs, and whom https may trust.
	for _, f := range []string{"/etc/localtime", "/etc/adjtime", "/etc/ssl/certs/ca-certificates.crt"} {
		if st, err := os.Stat(f); err == nil && st.Mode().IsRegular() {
			if err := t.AddFile(f, f); err != nil {
				return err
			}
		}
	}
	return errors.Join(
		t.AddContent(rescue.InfoFile, append(ij, '\n'), 0o644),
		t.AddContent(rescue.LayoutFile, []byte(lay.String()), 0o644),
		t.AddContent("etc/hostname", []byte("rescue-"+host+"\n"), 0o644),
		t.AddContent("etc/hosts", []byte("127.0.0.1 localhost rescue-"+host+"\n::1 localhost\n"), 0o644),
		t.AddContent("etc/passwd", []byte("root:x:0:0:root:/root:/bin/sh\n"), 0o644),
		t.AddContent("etc/group", []byte("root:x:0:\n"), 0o644),
		t.AddContent("etc/nsswitch.conf", []byte("hosts: files dns\n"), 0o644),
		t.AddContent("etc/profile", []byte(templates.Profile), 0o644),
		t.AddContent("root/.bash_history", []byte(templates.History), 0o600),
		t.AddContent("root/.sh_history", []byte(templates.History), 0o600),
		t.AddLink("etc/mtab", "../proc/self/mounts"),
		t.AddLink("root/.bashrc", "/etc/profile"),
	)
}

// maxKeys is the largest file of ssh keys that is read, in bytes.
const maxKeys = 16 << 20

// sshKeys are the public keys of those who may log in: of the configuration,
// each a line or the name of a file of lines.
func (b *Builder) sshKeys() (string, error) {
	var out strings.Builder
	for _, k := range b.Config.Rescue.SSHKeys {
		if strings.HasPrefix(k, "/") {
			c, err := regular.ReadFile(k, maxKeys)
			if err != nil {
				return "", fmt.Errorf("cannot read ssh keys: %w", err)
			}
			k = string(c)
		}
		if strings.Contains(k, "PRIVATE KEY") {
			return "", errors.New("cannot use ssh keys: a private key was given; the medium takes public keys only")
		}
		if _, err := sshserver.ParseKeys(k); err != nil {
			return "", err
		}
		out.WriteString(strings.TrimSpace(k) + "\n")
	}
	return out.String(), nil
}

func pack(t *initramfs.Files, k *kernelcfg.Kernel, file string) (int64, error) {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, fmt.Errorf("cannot write the initramfs: %w", err)
	}
	defer f.Close()
	c := initramfs.Gzip
	if k.Config.Zstd() {
		c = initramfs.Zstd
	}
	if err := t.WriteTo(f, c); err != nil {
		return 0, err
	}
	st, err := f.Stat()
	if err = errors.Join(err, f.Close()); err != nil {
		return 0, fmt.Errorf("cannot write the initramfs: %w", err)
	}
	return st.Size(), nil
}
