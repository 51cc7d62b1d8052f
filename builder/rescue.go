package builder

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mkcdrec/mkcdrec/initramfs"
	"github.com/mkcdrec/mkcdrec/internal/kmod"
	"github.com/mkcdrec/mkcdrec/internal/media"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/rescue"
	"github.com/mkcdrec/mkcdrec/internal/tool"
	"github.com/mkcdrec/mkcdrec/kernelcfg"
	"github.com/mkcdrec/mkcdrec/templates"
)

// Hint tells the rescue system where its set is.
type Hint struct{ SetID, FSUUID, Path string }

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
	b.Report.Phase("rescue system", 0)
	k, err := b.kernel(p)
	if err != nil {
		return err
	}
	work, err := os.MkdirTemp(filepath.Dir(iso), ".rescue-*")
	if err != nil {
		return fmt.Errorf("cannot make the rescue system: %w", err)
	}
	defer os.RemoveAll(work)
	info := &rescue.Info{Version: rescue.InfoVersion, Host: p.Layout.Hostname, Created: time.Now().UTC().Truncate(time.Second), Program: b.Version, Kernel: k.Release, MediumID: newUUID(), SetID: h.SetID, FSUUID: h.FSUUID, Path: h.Path}
	tree, err := b.tree(ctx, p, k, info, work)
	if err != nil {
		return fmt.Errorf("cannot make the rescue system: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	initrd := filepath.Join(work, "initrd.img")
	size, err := pack(tree, k, initrd)
	if err != nil {
		return err
	}
	b.Report.Note("rescue system: kernel %s, initramfs %s (unpacked %s)", k.Release, quantity.Size(size), quantity.Size(tree.Size()))
	return b.image(p, k, info, initrd, iso)
}

// kernel finds the kernel and checks its configuration for what is needed.
func (b *Builder) kernel(p *Plan) (*kernelcfg.Kernel, error) {
	c := b.Config.Rescue
	k, err := kernelcfg.Find("", p.Layout.Kernel.Release, c.Kernel, c.ModulesDir)
	if err != nil {
		return nil, err
	}
	if k.Modules == "" {
		return nil, fmt.Errorf("cannot use kernel %s: there are no modules for %s in /lib/modules", k.Image, k.Release)
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
	if err := b.addBinary(ctx, t); err != nil {
		return nil, err
	}
	if err := b.addModules(t, p, k); err != nil {
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

// addBinary puts the multicall binary in, with a link for each command.
func (b *Builder) addBinary(ctx context.Context, t *initramfs.Files) error {
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
	errs := []error{t.AddFile("bbin/mkcdrec", b.Executable), t.AddLink("init", "bbin/init"), t.AddLink("usr/bin/sh", "/bbin/sh"), t.AddLink("usr/sbin/modprobe", "/bbin/modprobe")}
	for _, n := range names {
		if n != "mkcdrec" {
			errs = append(errs, t.AddLink("bbin/"+n, "mkcdrec"))
		}
	}
	return errors.Join(errs...)
}

// addModules puts in the chosen modules, decompressed, their index, and the
// firmware they declare.
func (b *Builder) addModules(t *initramfs.Files, p *Plan, k *kernelcfg.Kernel) error {
	x, err := kmod.Open(k.Modules)
	if err != nil {
		return err
	}
	aliases, loaded, err := kernelcfg.HostAliases("")
	if err != nil {
		return err
	}
	c := b.Config.Rescue
	extra := slices.Clone(c.ExtraModules)
	for _, f := range p.Layout.Filesystems {
		extra = append(extra, f.Type)
	}
	if c.Modules == kernelcfg.SetHost {
		// Drivers of storage and network that are in use without an alias.
		for _, m := range loaded {
			if pth := x.Path[m]; strings.HasPrefix(pth, "kernel/drivers/scsi/") || strings.HasPrefix(pth, "kernel/drivers/ata/") || strings.HasPrefix(pth, "kernel/drivers/nvme/") || strings.HasPrefix(pth, "kernel/drivers/md/") {
				extra = append(extra, m)
			}
		}
	}
	names, err := kernelcfg.Select(x, c.Modules, extra, aliases, c.ExcludeModules)
	if err != nil {
		return err
	}
	base := "usr/lib/modules/" + k.Release + "/"
	var firmware []string
	for _, n := range names {
		m, err := x.Read(n)
		if err != nil {
			return err
		}
		fw, err := kmod.Firmware(m)
		if err != nil {
			return err
		}
		firmware = append(firmware, fw...)
		if plain := kmod.PlainPath(x.Path[n]); plain == x.Path[n] {
			err = t.AddFile(base+plain, filepath.Join(x.Dir, plain))
		} else {
			err = t.AddContent(base+plain, m, 0o644)
		}
		if err != nil {
			return err
		}
	}
	idx, err := x.WriteIndex(names)
	if err != nil {
		return err
	}
	for f, c := range idx {
		if err := t.AddContent(base+f, c, 0o644); err != nil {
			return err
		}
	}
	return b.addFirmware(t, k, firmware)
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
		if err := t.AddContent("usr/lib/firmware/"+packed, c, 0o644); err != nil {
			return err
		}
	}
	if len(missing) > 0 {
		b.Report.Note("firmware that drivers may ask for and this machine does not have: %d files (%s ...)", len(missing), missing[0])
	}
	return nil
}

func (b *Builder) programs(p *Plan) []initramfs.Program {
	var out []initramfs.Program
	if b.Config.Rescue.Programs == "none" {
		return nil
	}
	needs := append(p.Needs(), "shell")
	if p.generic {
		needs = append(needs, "ext4", "xfs", "vfat", "lvm")
	}
	for _, n := range needs {
		for _, pr := range initramfs.ProgramsFor(n) {
			pr.Optional = pr.Optional || p.generic
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
	if err := p.Layout.Write(&lay); err != nil {
		return err
	}
	host := safeName(p.Layout.Hostname)
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

// cmdline is the kernel command line of the medium.
func (b *Builder) cmdline(p *Plan) string {
	w := []string{rescue.CarryOver(p.Layout.Kernel.Cmdline)}
	if len(p.Layout.Kernel.Consoles) == 0 {
		w = append(w, "console=tty0")
	}
	// A rootfs without the limit of half the memory; init checks that all of
	// it was unpacked, and panic= is for the case that it can't even start.
	w = append(w, "rootfstype=ramfs", "panic=60", b.Config.Rescue.Append)
	return strings.Join(strings.Fields(strings.Join(w, " ")), " ")
}

// image writes the ISO image.
func (b *Builder) image(p *Plan, k *kernelcfg.Kernel, info *rescue.Info, initrd, iso string) error {
	img := media.ISO{Label: rescue.VolumeLabel, Files: map[string]string{"boot/vmlinuz": k.Image, "boot/initrd.img": initrd}, Content: map[string][]byte{}}
	var berr, uerr error
	if img.BIOS, berr = media.FindBIOS(""); berr != nil {
		b.Report.Warn("the medium will not start on BIOS machines: %v", berr)
	}
	if img.UEFI, uerr = media.FindUEFI(""); uerr != nil {
		b.Report.Warn("the medium will not start on UEFI machines: %v", uerr)
	}
	if p.Layout.Boot.Firmware == "bios" && berr != nil || p.Layout.Boot.Firmware == "uefi" && uerr != nil {
		return fmt.Errorf("cannot make a medium that starts on this machine (%s): %w", p.Layout.Boot.Firmware, errors.Join(berr, uerr))
	}
	menu := templates.Menu{Title: fmt.Sprintf("mkcdrec rescue system for %s, kernel %s, made %s", info.Host, info.Kernel, info.Created.Format("2006-01-02 15:04")), Append: b.cmdline(p) + " mkcdrec.medium=" + info.MediumID, Serial: serial(p.Layout.Kernel.Consoles), Timeout: 5}
	cfg, err := templates.ISOLinux(menu)
	if err != nil {
		return err
	}
	grub, err := templates.GRUB(menu)
	if err != nil {
		return err
	}
	img.Content[rescue.ISOMark] = []byte(info.MediumID + "\n")
	img.Content[".disk/info"] = []byte(menu.Title + "\n")
	if img.BIOS != nil {
		img.Content["isolinux/isolinux.cfg"] = cfg
	}
	img.Content["boot/grub/grub.cfg"] = grub
	if err := img.Write(iso); err != nil {
		return err
	}
	return os.Chmod(iso, 0o600)
}

// serial reads the last serial console, "ttyS0,115200n8".
func serial(consoles []string) *templates.Serial {
	for _, c := range slices.Backward(consoles) {
		rest, ok := strings.CutPrefix(c, "ttyS")
		if !ok {
			continue
		}
		port, opts, _ := strings.Cut(rest, ",")
		n, err := strconv.Atoi(port)
		if err != nil || n < 0 || n > 3 {
			continue
		}
		digits := opts
		if i := strings.IndexFunc(opts, func(r rune) bool { return r < '0' || r > '9' }); i >= 0 {
			digits = opts[:i]
		}
		speed, err := strconv.Atoi(digits)
		if err != nil || speed < 300 {
			speed = 115200
		}
		return &templates.Serial{Port: n, Speed: speed}
	}
	return nil
}
