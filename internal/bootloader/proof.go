package bootloader

import (
	"fmt"
	"io"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/initramfs"
	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/sysconf"
)

// Proof looks for what would keep the restored system from starting: a line of
// fstab or of GRUB's configuration that refers to nothing that was restored,
// an initramfs without the driver of the disk that the root file system lies
// on, an EFI system partition without a loader, no disk with GRUB. sys is
// where the kernel's sysfs is. It reads only.
func (s *System) Proof(sys string) []string {
	out := s.proveReferences()
	for _, c := range s.configs() {
		for _, i := range sysconf.GRUBInitrds(c.text) {
			out = append(out, s.checkInitrd(i, sys)...)
		}
	}
	for _, u := range s.unified() {
		out = append(out, s.checkUnified(u, sys)...)
	}
	out = append(out, s.loader().Prove(s)...)
	return append(out, s.checkFirmware()...)
}

// proveReferences lists what the system's files name and is not there.
func (s *System) proveReferences() []string {
	var out []string
	r := s.resolver(true)
	_, _, missing := CheckFstab(s.read("/etc/fstab"), r)
	for _, e := range sysconf.ParseFstab(s.read("/etc/fstab")).Entries {
		for _, m := range missing {
			if strings.HasPrefix(m, fmt.Sprintf("line %d:", e.Line)) && !e.NoFail() && !e.NoAuto() {
				out = append(out, "/etc/fstab: "+m)
			}
		}
		out = append(out, s.proveFile(e)...)
	}
	for _, f := range s.Layout.SwapFiles {
		if st, err := s.tree().Stat(f.Path); err != nil || st.Size() != int64(f.Size) {
			out = append(out, fmt.Sprintf("the swap file %s is missing, or not of %s", f.Path, f.Size))
		}
	}
	for _, f := range []string{"/etc/crypttab", "/etc/crypttab.initramfs"} {
		_, _, missing := CheckCrypttab(s.read(f), r, s.tree().Exists)
		for _, m := range missing {
			out = append(out, f+": "+m)
		}
	}
	out = append(out, s.checkLVMFilter(s.read("/etc/lvm/lvm.conf"))...)
	out = append(out, s.proveUnits(r)...)
	for _, c := range s.configs() {
		for _, m := range CheckKernel(c.text, sysconf.GRUB, r) {
			out = append(out, c.name+": "+m)
		}
	}
	return out
}

// config is what a boot loader reads, as text of a grub.cfg.
type config struct {
	name string // of the file, or the directory, for people
	text string
}

// configs are what the system's boot loader reads to start it.
func (s *System) configs() []config { return s.loader().Configs(s) }

// unified are the unified kernel images that it starts, by their paths in the system.
func (s *System) unified() []string { return s.loader().Unified(s) }

// lacksDrivers reports whether an initramfs that the boot loader loads lacks a
// driver of the root's disks; known is false when its configuration names none.
func (s *System) lacksDrivers(sys string) (lacks, known bool) {
	for _, c := range s.configs() {
		for _, i := range sysconf.GRUBInitrds(c.text) {
			known = true
			lacks = lacks || len(s.checkInitrd(i, sys)) > 0
		}
	}
	for _, u := range s.unified() {
		known = true
		lacks = lacks || len(s.checkUnified(u, sys)) > 0
	}
	return lacks, known
}

// proveFile looks for a directory that is mounted again, an image or a swap file.
func (s *System) proveFile(e *sysconf.FstabEntry) []string {
	r := e.Ref()
	if r.Kind != sysconf.File || e.NoFail() || e.NoAuto() || s.tree().Exists(r.Value) {
		return nil
	}
	for _, v := range []string{"/proc/", "/sys/", "/dev/", "/run/", "/tmp/"} {
		if strings.HasPrefix(r.Value+"/", v) { // there when the system runs
			return nil
		}
	}
	return []string{fmt.Sprintf("/etc/fstab: line %d: %s (%s) is missing", e.Line, e.Raw(0), e.File)}
}

// initrdFile is the path in the system of an initramfs that the boot loader names;
// "" if there is no such file.
func (s *System) initrdFile(name string) string {
	places := []string{"/boot/" + name, name}
	for _, at := range []string{"/", "/boot"} {
		// GRUB names a file of a btrfs with its subvolume before it.
		if f := s.Layout.Mounted(at); f != nil && f.Btrfs != nil {
			places = append(places, path.Join(at, strings.TrimPrefix(name, "/"+f.MountAt(at).Subvolume)))
		}
	}
	i := slices.IndexFunc(places, func(p string) bool {
		st, err := s.tree().Stat(p)
		return err == nil && st.Mode().IsRegular()
	})
	if i < 0 {
		return ""
	}
	return places[i]
}

// checkInitrd looks into an initramfs for the drivers of the root's disks.
func (s *System) checkInitrd(name, sys string) []string {
	file := s.initrdFile(name)
	if file == "" {
		return []string{name + ", which the boot loader loads, is missing"}
	}
	f, err := s.tree().Open(file)
	if err != nil {
		return []string{err.Error()}
	}
	defer f.Close()
	version := kernelVersion(path.Base(name))
	if version == "" { // MACHINE/VERSION/initrd, as kernel-install(8) has it
		version = kernelVersion(path.Base(path.Dir(name)))
	}
	return s.checkInitramfs(name, version, f, sys)
}

// kernelVersion is the version in the name of a kernel's file, "" for none.
func kernelVersion(name string) string {
	v := regexp.MustCompile(`\d+\.\d+[-.\w+~]*`).FindString(name)
	return strings.TrimSuffix(strings.TrimSuffix(v, ".img"), ".efi")
}

// builtin lists the modules that are part of a kernel: of that of a version, or of
// any that is there where a file's name has none (Arch's initramfs-linux.img).
// It is nil when there is no list.
func (s *System) builtin(version string) []string {
	for _, v := range []string{version, "*"} {
		var out []string
		for _, d := range []string{"/usr/lib/modules/", "/lib/modules/"} {
			files := []string{d + v + "/modules.builtin"}
			if v == "*" {
				files = s.tree().Glob(d, "*/modules.builtin")
			}
			for _, f := range files {
				b, err := s.tree().Read(f)
				if err != nil {
					continue
				}
				out = append(out, "") // an empty list is one, too
				for _, l := range strings.Fields(string(b)) {
					out = append(out, moduleName(l))
				}
			}
		}
		if out != nil || version != "" {
			return out
		}
	}
	return nil
}

// checkInitramfs looks into the initramfs of a kernel version; name is for people.
func (s *System) checkInitramfs(name, version string, r io.Reader, sys string) []string {
	names, err := initramfs.Names(r)
	if err != nil {
		return []string{name + ": " + err.Error()}
	}
	if !slices.ContainsFunc(names, func(n string) bool {
		return strings.Contains(n, "lib/modules/") || strings.HasSuffix(n, "/init") || n == "init"
	}) {
		return nil // microcode only
	}
	have := map[string]bool{}
	for _, n := range names {
		have[moduleName(n)] = true
	}
	builtin := s.builtin(version)
	for _, m := range builtin {
		have[m] = true
	}
	var out []string
	root := s.Layout.Mounted("/")
	if root == nil {
		return nil
	}
	for _, disk := range s.disksOf(root) {
		for _, m := range DiskDrivers(sys, disk) {
			if !have[m] {
				out = append(out, fmt.Sprintf("%s lacks the driver %s of /dev/%s, which / is on", name, m, disk))
			}
		}
	}
	crypt := false
	for _, want := range s.stack(root) {
		crypt = crypt || want[0] == "dm_crypt"
		// Without the list, what is built in can't be told from what is missing.
		if builtin != nil && !slices.ContainsFunc(want, func(m string) bool { return have[m] }) {
			out = append(out, fmt.Sprintf("%s lacks the module %s, which / needs", name, strings.Join(want, " or ")))
		}
	}
	if crypt && !slices.ContainsFunc(names, func(n string) bool {
		return strings.HasPrefix(path.Base(n), "cryptsetup") || path.Base(n) == "systemd-cryptsetup"
	}) {
		out = append(out, name+" has no cryptsetup, and / is on LUKS")
	}
	return out
}

// disksOf lists the disks of this machine that a file system is on.
func (s *System) disksOf(f *layout.Filesystem) []string {
	var out []string
	for _, dev := range f.Devs() {
		for _, old := range s.Layout.DisksUnder(dev) {
			if disk, ok := s.Devices[old]; ok {
				out = append(out, disk)
			}
		}
	}
	return out
}

// stack lists the modules that the root file system and what it is on want,
// each with those that do as well.
func (s *System) stack(root *layout.Filesystem) [][]string {
	out := fstype.Of(root.Type).Modules(&root.Geometry)
	var down func(dev string)
	down = func(dev string) {
		l := s.Layout
		if a := l.Array(dev); a != nil {
			out = append(out, []string{a.Module()})
			for _, d := range a.Devs() {
				down(d)
			}
		}
		if c := l.Crypt(dev); c != nil {
			out = append(out, []string{"dm_crypt"})
			down(c.Device)
		}
		if g := l.Group(dev); g != nil {
			out = append(out, []string{"dm_mod"})
			for _, p := range g.PVs {
				down(p.Device)
			}
		}
	}
	for _, d := range root.Devs() {
		down(d)
	}
	return out
}

// moduleName is a module's name by its file's: "virtio_blk" for
// ".../virtio-blk.ko.xz"; "" for other files.
func moduleName(file string) string {
	b := path.Base(file)
	i := strings.Index(b, ".ko")
	if i < 0 {
		return ""
	}
	return strings.ReplaceAll(b[:i], "-", "_")
}

// DiskDrivers are the modules that drive a disk, from itself to its host
// adapter, as far as they are modules in the running kernel.
func DiskDrivers(sys, disk string) []string {
	real, err := filepath.EvalSymlinks(filepath.Join(sys, "block", disk))
	if err != nil {
		return nil
	}
	var out []string
	for d := filepath.Dir(real); len(d) > len(sys) && d != "/"; d = filepath.Dir(d) {
		m, err := filepath.EvalSymlinks(filepath.Join(d, "driver", "module"))
		if err != nil {
			continue
		}
		if n := filepath.Base(m); !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	return out
}
