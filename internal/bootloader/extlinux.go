package bootloader

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/sysconf"
	"github.com/mkcdrec/mkcdrec/templates"
)

// extlinux is extlinux or syslinux of an installed system, as extlinux(1) installs it: the disk's first sector
// (mbr.bin, or gptmbr.bin on a GPT) starts the partition that is marked for it, whose first sector loads ldlinux.sys
// in a directory of its file system, by the places of its blocks. https://wiki.syslinux.org.
type extlinux struct{ defaults }

func (extlinux) Name() string { return layout.Extlinux }

// config is the configuration in the loader's directory, "" without one.
func (extlinux) config(files sysconf.Tree, dir string) string {
	for _, n := range []string{"extlinux.conf", "syslinux.cfg"} {
		if f := path.Join(dir, n); dir != "" && files.Exists(f) && files.Exists(path.Join(dir, "ldlinux.sys")) {
			return f
		}
	}
	return ""
}

// dir is the directory of the loader, or "".
func (x extlinux) dir(files sysconf.Tree) string {
	dirs := []string{"/boot/extlinux", "/boot/syslinux", "/boot", "/extlinux", "/syslinux"}
	if i := slices.IndexFunc(dirs, func(d string) bool { return x.config(files, d) != "" }); i >= 0 {
		return dirs[i]
	}
	return ""
}

// partition is the one that the loader's directory is on; nil if it is on no partition itself.
func (extlinux) partition(l *layout.Layout, dir string) (*layout.Disk, *layout.Partition) {
	if f := l.Holding(dir); f != nil {
		return l.Partition(f.Device)
	}
	return nil, nil
}

// Disks is the disk of the partition with the loader's boot sector.
func (x extlinux) Disks(m Machine, l *layout.Layout) []string {
	d, p := x.partition(l, x.dir(m.Files))
	if p == nil || !x.inSector(m.first(p.Device, sectorSize)) {
		return nil
	}
	return []string{d.Name}
}

// sectorSize is that of a boot sector.
const sectorSize = 512

// inSector looks for the name of the loader where FAT has that of the system which made it.
func (extlinux) inSector(b []byte) bool {
	return b != nil && (bytes.HasPrefix(b[3:], []byte("EXTLINUX")) || bytes.HasPrefix(b[3:], []byte("SYSLINUX")))
}

// Recognise goes by the loader's directory, unless a disk starts GRUB.
func (x extlinux) Recognise(m Machine, l *layout.Layout) bool {
	dir := x.dir(m.Files)
	if l.Boot.Firmware != layout.BIOS || dir == "" || len(grub{}.Disks(m, l)) > 0 {
		return false
	}
	disks := x.Disks(m, l)
	if len(disks) == 0 && slices.ContainsFunc(GRUBConfigs(), m.Files.Exists) {
		return false
	}
	l.Boot.Disks, l.Boot.Dir = disks, dir
	return true
}

// legacyBoot is the attribute of a GPT's partition that gptmbr.bin looks for.
const legacyBoot = 1 << 2

func (x extlinux) Problem(_ Machine, l *layout.Layout) string {
	_, p := x.partition(l, l.Boot.Dir)
	switch {
	case p == nil:
		return "extlinux in " + l.Boot.Dir + " is on no partition, and a restore can't install it there again"
	case len(l.Boot.Disks) == 0:
		return "extlinux is in " + l.Boot.Dir + ", but not in the boot sector of the partition " + p.Device
	case !p.Active && p.Attributes&legacyBoot == 0:
		return "extlinux is on " + p.Device + ", which is not marked as active or legacy_boot, and what starts it is not known"
	}
	return ""
}

// code is the code for the first sector of a disk.
func (extlinux) code(d *layout.Disk) Tool {
	name := "mbr.bin"
	if d != nil && d.Table != nil && d.Table.Label == layout.GPT {
		name = "gptmbr.bin"
	}
	t := Tool{Remedy: "install it (Debian: extlinux or syslinux-common)"}
	for _, dir := range []string{"EXTLINUX", "syslinux/mbr", "syslinux/bios", "syslinux"} {
		t.Names = append(t.Names, "/usr/lib/"+dir+"/"+name)
	}
	t.Names = append(t.Names, "/usr/share/syslinux/"+name)
	return t
}

func (x extlinux) Tools(l *layout.Layout) []Tool {
	out := []Tool{{[]string{"extlinux"}, "install it (Debian: extlinux)"}}
	for _, d := range l.Boot.Disks {
		out = append(out, x.code(l.Disk(d)))
	}
	return out
}

func (x extlinux) ByHand(l *layout.Layout, dev func(string) templates.Shell) (commands []templates.Shell, found bool) {
	commands = append(commands, templates.Shellf("extlinux --install %s", l.Boot.Dir))
	for _, d := range l.Boot.Disks {
		const write = `for f in "$@"; do [ ! -e "$f" ] || exec dd bs=440 count=1 conv=notrunc if="$f" of="$0"; done; exit 1`
		c := templates.Shellf("sh -c %s %s", write, dev(d))
		for _, f := range x.code(l.Disk(d)).Names {
			c += templates.Shellf(" %s", f)
		}
		commands = append(commands, c)
	}
	return commands, false
}

func (extlinux) Expected() []Expectation {
	return []Expectation{{"the boot loader, reinstalled", `^(/boot)?(/(extlinux|syslinux))?(/(ldlinux\.(sys|c32))?)?$`}}
}

// Files have the names that Debian, Alpine and Arch give them.
func (extlinux) Files(*System) []cmdlineFile {
	out := []cmdlineFile{{"/etc", "update-extlinux.conf", sysconf.Shell}, {"/etc", "default/extlinux", sysconf.Shell}}
	for _, d := range []string{"/boot", "/"} {
		for _, f := range []string{"extlinux.conf", "syslinux.cfg", "extlinux/*.conf", "extlinux/*.cfg", "syslinux/*.conf", "syslinux/*.cfg"} {
			out = append(out, cmdlineFile{d, f, sysconf.Syslinux})
		}
	}
	return out
}

// Configs is the entry that starts the system.
func (x extlinux) Configs(s *System) []config {
	e, err := x.First(s)
	if err != nil {
		return nil
	}
	return []config{{x.config(s.tree(), s.Layout.Boot.Dir), e.Text()}}
}

// First is the entry that the menu has selected, or the default one, or the first.
func (x extlinux) First(s *System) (*Entry, error) {
	f := x.config(s.tree(), s.Layout.Boot.Dir)
	if f == "" {
		return nil, errors.New("cannot find a boot entry: there is no configuration of extlinux beside its ldlinux.sys")
	}
	c := &syslinuxConfig{dir: path.Dir(f), read: s.read, lines: maxSyslinuxLines}
	c.parse(f)
	if e := c.chosen(); e != nil && e.Linux != "" {
		return &e.Entry, nil
	}
	return nil, fmt.Errorf("cannot find a boot entry: the default one of %s starts no Linux kernel", f)
}

// Install writes ldlinux.sys and the partition's boot sector with extlinux, and the disk's boot code with dd.
func (x extlinux) Install(ctx context.Context, s *System) error {
	b := s.Layout.Boot
	if b.Dir == "" {
		return errors.New("cannot install the boot loader: the layout does not name extlinux's directory")
	}
	if _, err := s.tool(x.Tools(s.Layout)[0]); err != nil {
		return err
	}
	s.Report.Note("installing extlinux in %s", b.Dir)
	if err := s.chroot(ctx, "extlinux", "--install", b.Dir); err != nil {
		return err
	}
	var with []string
	for _, d := range b.Disks {
		dev, ok := s.Devices[d]
		if !ok {
			continue
		}
		code, err := s.tool(x.code(s.Layout.Disk(d)))
		if err != nil {
			return err
		}
		with = append(with, dev)
		s.Report.Note("installing %s on /dev/%s", path.Base(code), dev)
		if err := s.chroot(ctx, "dd", fmt.Sprintf("bs=%d", bootCode), "count=1", "conv=notrunc,fsync", "if="+code, "of=/dev/"+dev); err != nil {
			return err
		}
	}
	s.startsElsewhere("extlinux", with)
	return nil
}

// Prove follows the way from the disk's first sector to the kernel.
func (x extlinux) Prove(s *System) []string {
	var out []string
	if e, err := x.First(s); err != nil {
		out = append(out, err.Error())
	} else if s.initrdFile(e.Linux) == "" {
		out = append(out, e.Linux+", which the boot loader loads, is missing")
	}
	if why := x.Problem(Machine{}, s.Layout); why != "" {
		return append(out, why)
	}
	d, p := x.partition(s.Layout, s.Layout.Boot.Dir)
	code := s.read(x.code(d).Find(s.tree()))
	if first := s.machine().first(s.Devices[d.Name], bootCode); code == "" || !bytes.HasPrefix(first, []byte(code[:min(len(code), bootCode)])) {
		out = append(out, "the disk of "+s.Layout.Boot.Dir+" does not have extlinux's code in its first sector")
	}
	if !loadsFile(filepath.Join(s.machine().Dev, s.Devices[p.Device]), []byte(s.read(path.Join(s.Layout.Boot.Dir, "ldlinux.sys")))) {
		out = append(out, "the boot sector of the partition with "+s.Layout.Boot.Dir+" does not load its ldlinux.sys")
	}
	return out
}

// loadsFile reports whether the boot sector of a partition leads to the first sector of ldlinux.sys. The file has the
// places of that number in the boot sector in its extended patch area; libinstaller/syslxint.h of syslinux.
func loadsFile(device string, ldlinux []byte) bool {
	le := binary.LittleEndian
	area := bytes.Index(ldlinux, []byte{0xfe, 0x02, 0xb2, 0x3e}) // LDLINUX_MAGIC
	if area < 0 || area+24 > len(ldlinux) || len(ldlinux) < sectorSize {
		return false
	}
	ext := int(le.Uint16(ldlinux[area+22:])) // epaoffset
	if ext+20 > len(ldlinux) {
		return false
	}
	low, high := int(le.Uint16(ldlinux[ext+14:])), int(le.Uint16(ldlinux[ext+16:])) // sect1ptr0, sect1ptr1
	f, err := os.Open(device)
	if err != nil {
		return false
	}
	defer f.Close()
	b := make([]byte, sectorSize)
	if _, err := f.ReadAt(b, 0); err != nil || low+4 > len(b) || high+4 > len(b) || !(extlinux{}).inSector(b) {
		return false
	}
	at := int64(le.Uint32(b[low:])) | int64(le.Uint32(b[high:]))<<32
	_, err = f.ReadAt(b, at*sectorSize)
	return err == nil && bytes.Equal(b, ldlinux[:sectorSize])
}

// syslinuxConfig is a configuration of syslinux, https://wiki.syslinux.org/wiki/index.php?title=Config.
type syslinuxConfig struct {
	dir      string // the loader's: names without a slash at the beginning are in it
	read     func(file string) string
	lines    int      // that may still be read
	open     []string // files that are read now
	entries  []syslinuxEntry
	global   string // options of labels that have none of their own
	dflt     string // DEFAULT: a label, or a module that shows the menu
	selected string // the label with MENU DEFAULT
}

// maxSyslinuxLines is the most that is read of a configuration, whose files may include one another.
const maxSyslinuxLines = 10000

type syslinuxEntry struct {
	Entry
	options bool // its own
}

// parse reads a file and what it includes, but for itself.
func (c *syslinuxConfig) parse(file string) {
	if slices.Contains(c.open, file) {
		return
	}
	c.open = append(c.open, file)
	defer func() { c.open = c.open[:len(c.open)-1] }()
	for key, value := range sysconf.Keywords(c.read(file)) {
		if c.lines--; c.lines < 0 {
			return
		}
		if key == "menu" {
			key, value = sysconf.Keyword(value)
			key = "menu " + key
		}
		c.line(key, value)
	}
}

func (c *syslinuxConfig) line(key, value string) {
	switch key {
	case "include", "menu include":
		file, _, _ := strings.Cut(value, " ") // a menu's title may follow
		c.parse(c.path(file))
		return
	case "default":
		c.dflt = value
		return
	case "label":
		c.entries = append(c.entries, syslinuxEntry{Entry: Entry{ID: value}})
		return
	}
	if len(c.entries) == 0 {
		if key == "append" {
			c.global = value
		}
		return
	}
	e := &c.entries[len(c.entries)-1]
	switch key {
	case "menu default":
		c.selected = e.ID
	case "linux", "kernel":
		if !strings.HasSuffix(value, ".c32") {
			e.Linux = c.path(value)
		}
	case "append":
		e.Options, e.options = value, true
	case "initrd":
		e.Initrd = c.paths(value)
	}
}

// path gives a file's name as the system or the boot partition has it.
func (c *syslinuxConfig) path(name string) string {
	if strings.HasPrefix(name, "/") {
		return name
	}
	return path.Join(c.dir, name)
}

func (c *syslinuxConfig) paths(list string) []string {
	var out []string
	for _, f := range strings.Split(list, ",") {
		out = append(out, c.path(f))
	}
	return out
}

// chosen is the entry that starts by itself, or nil.
func (c *syslinuxConfig) chosen() *syslinuxEntry {
	if len(c.entries) == 0 {
		return nil
	}
	e := c.entries[0]
	for _, want := range []string{c.dflt, c.selected} {
		if i := slices.IndexFunc(c.entries, func(e syslinuxEntry) bool { return want != "" && e.ID == want }); i >= 0 {
			e = c.entries[i]
		}
	}
	if !e.options {
		e.Options = c.global
	}
	if e.Options == "-" {
		e.Options = ""
	}
	for _, w := range sysconf.ParseCmdline(e.Options).Words {
		if w.Name == "initrd" && w.Assigned {
			e.Initrd = append(e.Initrd, c.paths(w.Value)...)
		}
	}
	return &e
}
