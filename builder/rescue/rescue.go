package rescue

import (
	"cmp"
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
	"github.com/mkcdrec/mkcdrec/internal/agekey"
	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/hooks"
	"github.com/mkcdrec/mkcdrec/internal/keymap"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/loaders"
	"github.com/mkcdrec/mkcdrec/internal/media"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/regular"
	"github.com/mkcdrec/mkcdrec/internal/rescue"
	"github.com/mkcdrec/mkcdrec/internal/sshserver"
	"github.com/mkcdrec/mkcdrec/internal/store"
	"github.com/mkcdrec/mkcdrec/internal/tool"
	"github.com/mkcdrec/mkcdrec/internal/uuid"
	"github.com/mkcdrec/mkcdrec/kernelcfg"
	"github.com/mkcdrec/mkcdrec/templates"
)

// Maker makes rescue systems and media.
type Maker struct {
	Run     tool.Runner
	Report  progress.Reporter
	Version string // of this program
	// Executable is the multicall binary that the rescue system gets.
	Executable string
	Config     Config
	Hooks      hooks.Config // of which the rescue system gets those for a restore
	// Signer gives the line of this machine for rescue.SignersFile, nil for none.
	Signer func() ([]byte, error)
	// Destination is the URL of the home that sets are written to, without secrets, "" for
	// none; Credentials the file with its secrets.
	Destination, Credentials string
}

// Machine is what a rescue system is made for.
type Machine struct {
	Layout *layout.Layout
	// Generic is a machine without a layout: the medium gets what this one has for any set.
	Generic bool
	// Carry are programs beside those that are needed.
	Carry []initramfs.Program
}

// Hint is where the rescue system finds its set.
type Hint struct {
	SetID, FSUUID, Path string
	Tape                string // drive, or ""
	Source              string // URL of the home, or ""
	// Alone is a system that has no medium once it runs: all that it has is in its
	// initramfs.
	Alone bool
}

// System is a rescue system that was made.
type System struct {
	Kernel *kernelcfg.Kernel
	Info   *rescue.Info // what it knows of its machine
	Initrd string       // the file of its initramfs

	by      *Maker
	machine *Machine
	files   *initramfs.Files // what is in the initramfs
	comfort string           // the archive of comfort programs that goes onto the medium, or ""
}

// needs is what a rescue system has to be able to do, by the words that
// kernelcfg.For and initramfs.ProgramsFor know.
func (p *Machine) needs() []string {
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

// Medium makes a rescue system and writes its image, which appears whole.
func (b *Maker) Medium(ctx context.Context, p *Machine, h Hint, iso string) error {
	if err := regular.Output(iso); err != nil {
		return err
	}
	work, err := os.MkdirTemp(filepath.Dir(iso), ".mkcdrec-iso-*")
	if err != nil {
		return fmt.Errorf("cannot make the rescue system: %w", err)
	}
	defer os.RemoveAll(work)
	s, err := b.System(ctx, p, h, work)
	if err != nil {
		return err
	}
	var fault error
	tmp := filepath.Join(work, "iso")
	if err := s.Image(ctx, tmp, func(img *media.ISO) {
		if h == (Hint{}) { // that of a set is made each time
			fault = s.mark(img)
		}
	}); err != nil || fault != nil {
		return errors.Join(fault, err)
	}
	if err := os.Rename(tmp, iso); err != nil {
		return fmt.Errorf("cannot write %s: %w", iso, err)
	}
	return nil
}

// System makes the rescue system below work.
func (b *Maker) System(ctx context.Context, p *Machine, h Hint, work string) (*System, error) {
	s, drivers, err := b.collect(ctx, p, h, work, true)
	if err != nil {
		return nil, err
	}
	tree := s.files
	if h.Alone && s.comfort != "" { // there is no medium that they could be on
		if err := tree.AddFile(initramfs.ComfortInTree, s.comfort); err != nil {
			return nil, err
		}
		s.comfort = ""
	}
	size, err := pack(tree, s.compression(), s.Initrd)
	if err != nil {
		return nil, err
	}
	b.Report.Note("rescue system: kernel %s, %d modules (set %s), initramfs %s (unpacked %s)", s.Kernel.Release, drivers.modules, b.Config.Modules, quantity.Size(size), quantity.Size(tree.Size()))
	drivers.report(b.Report)
	return s, nil
}

// collect collects below work what the rescue system has, without packing it. With try, the
// carried programs are started once.
func (b *Maker) collect(ctx context.Context, p *Machine, h Hint, work string, try bool) (*System, *drivers, error) {
	b.Report.Phase("rescue system", 0)
	if _, _, err := b.Config.Cmdline(p.Layout); err != nil {
		return nil, nil, err
	}
	s := &System{Initrd: filepath.Join(work, "initrd.img"), by: b, machine: p}
	var err error
	if s.Kernel, err = b.kernel(p); err != nil {
		return nil, nil, err
	}
	if s.Info, err = b.info(p, s.Kernel, h); err != nil {
		return nil, nil, err
	}
	var d *drivers
	if s.files, d, err = s.tree(ctx, work, try); err != nil {
		return nil, nil, fmt.Errorf("cannot make the rescue system: %w", err)
	}
	return s, d, ctx.Err()
}

// info is what the medium knows of its machine. With SOURCE_DATE_EPOCH the
// medium's id comes from what it is made of.
func (b *Maker) info(p *Machine, k *kernelcfg.Kernel, h Hint) (*rescue.Info, error) {
	now, fixed, err := media.Epoch()
	if err != nil {
		return nil, err
	}
	source := cmp.Or(h.Source, b.Destination)
	secrets := b.Config.Credentials == "include" && (b.Credentials != "" || store.Scheme(source) == store.KindRclone)
	i := &rescue.Info{Version: rescue.InfoVersion, Host: p.Layout.Hostname, Created: now, Program: b.Version, Kernel: k.Release, MediumID: uuid.New(), SetID: h.SetID, FSUUID: h.FSUUID, Path: h.Path, Tape: h.Tape, Source: source, Credentials: secrets, HookTimeout: b.Hooks.Timeout, CheckTarget: b.Config.CheckTarget}
	if !p.Generic {
		i.Machine = set.This(i.Host).Digest()
	}
	if fixed {
		var lay strings.Builder
		if err := publicLayout(p.Layout).Write(&lay); err != nil {
			return nil, err
		}
		i.MediumID = uuid.From(fmt.Sprintf("%d\x00%s\x00%s\x00%+v\x00%s", now.Unix(), k.Release, b.Version, b.Config, lay.String()))
	}
	return i, nil
}

// kernel finds the kernel and checks its configuration for what is needed.
func (b *Maker) kernel(p *Machine) (*kernelcfg.Kernel, error) {
	k, err := kernelcfg.Find("", p.Layout.Kernel.Release, b.Config.Kernel, b.Config.ModulesDir)
	if err != nil {
		return nil, err
	}
	if k.Config == nil {
		b.Report.Warn("the configuration of kernel %s is nowhere to be found: what it lacks shows only when the medium is started", k.Release)
		return k, nil
	}
	var errs []error
	for _, m := range k.Config.Check(p.Requirements()) {
		errs = append(errs, errors.New(m.String()))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("cannot use kernel %s (%s):\n%w", k.Image, k.ConfigFrom, err)
	}
	return k, nil
}

// Requirements are what the kernel has to have.
func (p *Machine) Requirements() []kernelcfg.Requirement {
	reqs := slices.Clone(kernelcfg.Base)
	for _, n := range p.needs() {
		reqs = append(reqs, kernelcfg.For(n)...)
	}
	return reqs
}

// tree collects the files of the rescue system.
func (s *System) tree(ctx context.Context, work string, try bool) (*initramfs.Files, *drivers, error) {
	b, p, k, info := s.by, s.machine, s.Kernel, s.Info
	t := initramfs.New()
	if err := b.AddBinary(ctx, t, work); err != nil {
		return nil, nil, err
	}
	d, err := b.addModules(t, p, k, work)
	if err != nil {
		return nil, nil, err
	}
	carried, needed, comfort, err := b.carry(ctx, t, b.forRclone(b.Programs(p), info.Source))
	if err != nil {
		return nil, nil, err
	}
	if err := b.addTexts(ctx, t, p, info); err != nil {
		return nil, nil, err
	}
	switch {
	case !try:
	case os.Geteuid() != 0:
		b.Report.Warn("not root: the carried programs were not tried in the packed tree")
	default:
		if err := b.try(ctx, t, work, carried); err != nil {
			return nil, nil, err
		}
	}
	if err := s.takeOut(t, needed, comfort); err != nil {
		return nil, nil, err
	}
	return t, d, errors.Join(b.addFiles(t), b.addHooks(ctx, t)) // which stay in the tree
}

// carry adds programs, those for comfort last; comfort is nil if there are
// none that stay outside of the tree.
func (b *Maker) carry(ctx context.Context, t *initramfs.Files, progs []initramfs.Program) (carried []initramfs.Program, needed, comfort *initramfs.Packing, err error) {
	needed = t.BeginPacking()
	slices.SortStableFunc(progs, func(a, c initramfs.Program) int { return isComfort(a) - isComfort(c) })
	n := slices.IndexFunc(progs, func(p initramfs.Program) bool { return isComfort(p) == 1 })
	if n < 0 || b.Config.Programs != Comfort {
		carried, err = t.Carry(ctx, b.Run, progs)
		return carried, needed, nil, err
	}
	if carried, err = t.Carry(ctx, b.Run, progs[:n]); err != nil {
		return nil, nil, nil, err
	}
	comfort = t.BeginPacking()
	more, err := t.Carry(ctx, b.Run, progs[n:])
	return append(carried, more...), needed, comfort, err
}

func isComfort(p initramfs.Program) int {
	if p.For == initramfs.ForComfort {
		return 1
	}
	return 0
}

// try starts the carried programs once, in a tree below work.
func (b *Maker) try(ctx context.Context, t *initramfs.Files, work string, carried []initramfs.Program) error {
	dir := filepath.Join(work, "try")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	return t.Try(ctx, b.Run, dir, carried)
}

// takeOut packs the programs: those that a restore needs in the tree, the comfort programs,
// if there are any, beside the initramfs.
func (s *System) takeOut(t *initramfs.Files, needed, comfort *initramfs.Packing) error {
	if comfort != nil {
		file, n, size, err := s.packed(comfort, initramfs.ComfortFile)
		if err != nil {
			return err
		}
		if n > 0 {
			s.comfort = file
			s.by.Report.Note("programs for comfort: %d, packed %s", n, quantity.Size(size))
		}
	}
	file, n, _, err := s.packed(needed, initramfs.NeededInTree)
	if err != nil || n == 0 {
		return err
	}
	return t.AddFile(initramfs.NeededInTree, file)
}

// packed writes an archive of programs beside the initramfs. It returns how many they are, and its size.
func (s *System) packed(c *initramfs.Packing, name string) (file string, n int, size int64, err error) {
	fail := func(err error) (string, int, int64, error) {
		return "", 0, 0, fmt.Errorf("cannot pack the programs: %w", err)
	}
	file = filepath.Join(filepath.Dir(s.Initrd), filepath.Base(name))
	w, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fail(err)
	}
	defer w.Close()
	if n, err = c.TakeOut(w, s.compression()); err != nil {
		return "", 0, 0, err
	}
	st, err := w.Stat()
	if err = errors.Join(err, w.Close()); err != nil {
		return fail(err)
	}
	return file, n, st.Size(), nil
}

// compression is what the kernel can unpack.
func (s *System) compression() initramfs.Compression {
	if s.Kernel.Config.Zstd() {
		return initramfs.Zstd
	}
	return initramfs.Gzip
}

// Binary is the multicall binary's path in the rescue system.
const Binary = "bbin/mkcdrec"

// AddBinary puts the multicall binary in, with a link for each command.
func (b *Maker) AddBinary(ctx context.Context, t *initramfs.Files, work string) error {
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

// Programs are those that a rescue system carries.
func (b *Maker) Programs(p *Machine) []initramfs.Program {
	out := slices.Clone(p.Carry)
	if b.Config.Programs == "none" {
		return out
	}
	needs, wishes := b.needs(p)
	for i, n := range append(needs, wishes...) {
		wish := i >= len(needs)
		for _, pr := range initramfs.ProgramsFor(n) {
			if wish && pr.Optional {
				continue
			}
			pr.Optional = pr.Optional || p.Generic || wish
			if !slices.ContainsFunc(out, func(o initramfs.Program) bool { return o.Name == pr.Name }) {
				pr.For = n
				out = append(out, pr)
			}
		}
	}
	for _, c := range b.Config.Carry {
		out = append(out, initramfs.Program{Name: c, Check: []string{"--version"}, For: "rescue.carry"})
	}
	return out
}

// needs are the words, as initramfs.ProgramsFor takes them, for what a restore needs, and
// for what its options may need: other types, --firmware, --mirror. A small system, for
// machines with little memory, has nothing for options.
func (b *Maker) needs(p *Machine) (needs, wishes []string) {
	host, required := b.Config.Modules == kernelcfg.SetHost, b.Config.Programs == "required"
	needs = p.needs()
	if !required {
		needs = append(needs, initramfs.ForComfort)
	}
	if p.Generic {
		needs = append(needs, fstype.Names(func(t *fstype.Type) bool { return t.Common || t.Programs != nil && !host })...)
		needs = append(needs, "lvm", "md", "luks", "thin")
	}
	for _, m := range p.Layout.Images {
		if t := fstype.Of(m.Type); t.Mkfs == nil && t.GrowBy != nil {
			needs = append(needs, t.Name) // clonedsk grows it
		}
	}
	if !required && !host {
		wishes = append(fstype.Names(func(t *fstype.Type) bool { return t.Common }), "md")
	}
	return needs, wishes
}

// addTexts puts in the files of /etc. No secret is among them without rescue.credentials: include.
func (b *Maker) addTexts(ctx context.Context, t *initramfs.Files, p *Machine, info *rescue.Info) error {
	if err := errors.Join(b.addTrust(t, info), b.addRclone(ctx, t, info)); err != nil {
		return err
	}
	ij, err := json.MarshalIndent(info, "", "  ")
	if err != nil {
		return err
	}
	var lay strings.Builder
	if err := publicLayout(p.Layout).Write(&lay); err != nil {
		return err
	}
	host := set.SafeName(p.Layout.Hostname)
	keys, err := b.Config.AuthorizedKeys()
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
	for _, f := range []string{"/etc/localtime", "/etc/adjtime"} { // the time zone, and how the hardware's clock runs
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

// AuthorizedKeys are the public keys of those who may log in: of the configuration,
// each a line or the name of a file of lines.
func (c *Config) AuthorizedKeys() (string, error) {
	var out strings.Builder
	for _, k := range c.SSHKeys {
		if strings.HasPrefix(k, "/") {
			c, err := regular.ReadFile(k, maxKeys)
			if err != nil {
				return "", fmt.Errorf("cannot read ssh keys: %w", err)
			}
			k = string(c)
		}
		if strings.Contains(k, "PRIVATE KEY") || agekey.HasPrivate(k) {
			return "", errors.New("cannot use ssh keys: a private key was given; the medium takes public keys only")
		}
		if _, err := sshserver.ParseKeys(k); err != nil {
			return "", err
		}
		out.WriteString(strings.TrimSpace(k) + "\n")
	}
	return out.String(), nil
}

func pack(t *initramfs.Files, c initramfs.Compression, file string) (int64, error) {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, fmt.Errorf("cannot write the initramfs: %w", err)
	}
	defer f.Close()
	if err := t.WriteTo(f, c); err != nil {
		return 0, err
	}
	st, err := f.Stat()
	if err = errors.Join(err, f.Close()); err != nil {
		return 0, fmt.Errorf("cannot write the initramfs: %w", err)
	}
	return st.Size(), nil
}
