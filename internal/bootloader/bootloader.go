// Package bootloader makes a restored system start: it checks what the
// system's own files refer to, and installs the boot loader with the system's
// own programs, in a chroot.
package bootloader

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

// System is a restored system that is mounted below Root.
type System struct {
	Root   string
	Layout *layout.Layout
	// Devices maps the layout's names to those of this machine.
	Devices map[string]string
	// Types are the new types of file systems that had another, by mount point.
	Types  map[string]string
	Run    tool.Runner
	Report progress.Reporter
}

// bound are the kernel's file systems that programs in the chroot need.
var bound = []string{"/dev", "/dev/pts", "/proc", "/sys", "/run", "/sys/firmware/efi/efivars"}

// NameByUUID makes /dev/disk/by-uuid/UUID below dev, which udev makes where it
// runs: without it, grub-mkconfig writes the kernel's name of the root device,
// which is another one at the next start. A name that leads to a device stays.
// It tells whether the name is new.
func NameByUUID(dev, device, uuid string) (bool, error) {
	dir := filepath.Join(dev, "disk/by-uuid")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return false, fmt.Errorf("cannot name /dev/%s by its UUID: %w", device, err)
	}
	name := filepath.Join(dir, uuid)
	if _, err := os.Stat(name); err == nil {
		return false, nil
	}
	err := os.Remove(name) // of a device that is gone
	if err == nil || errors.Is(err, os.ErrNotExist) {
		err = os.Symlink("../../"+device, name)
	}
	if err != nil {
		return false, fmt.Errorf("cannot name /dev/%s by its UUID: %w", device, err)
	}
	return true, nil
}

// Enter makes a chroot ready; leave undoes it.
func (s *System) Enter() (leave func() error, err error) {
	var done, named []string
	leave = func() error {
		var errs []error
		for _, u := range named {
			errs = append(errs, os.Remove("/dev/disk/by-uuid/"+u))
		}
		for _, d := range slices.Backward(done) {
			if err := unix.Unmount(s.Root+d, 0); err != nil {
				errs = append(errs, fmt.Errorf("cannot unmount %s%s: %w", s.Root, d, err))
			}
		}
		return errors.Join(errs...)
	}
	for _, d := range bound {
		if _, err := os.Stat(d); err != nil {
			continue
		}
		if _, err := os.Stat(s.Root + d); err != nil {
			if d == "/dev/pts" || strings.HasPrefix(d, "/sys/") {
				continue
			}
			if err := os.Mkdir(s.Root+d, 0o755); err != nil {
				return leave, fmt.Errorf("cannot make the chroot ready: %w", err)
			}
		}
		if err := unix.Mount(d, s.Root+d, "", unix.MS_BIND, ""); err != nil {
			if d == "/dev/pts" || strings.HasPrefix(d, "/sys/") {
				continue
			}
			return leave, fmt.Errorf("cannot make the chroot ready: bind %s: %w", d, err)
		}
		done = append(done, d)
	}
	for _, f := range s.Layout.Filesystems {
		if dev := s.Devices[f.Device]; dev != "" && f.UUID != "" {
			made, err := NameByUUID("/dev", dev, f.UUID)
			if err != nil {
				return leave, err
			}
			if made {
				named = append(named, f.UUID)
			}
		}
	}
	return leave, nil
}

func (s *System) chroot(ctx context.Context, args ...string) error {
	env := []string{"DM_DISABLE_UDEV=1", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	if s.Layout.Boot.Loader == layout.SystemdBoot {
		// Without udev, bootctl(1) can't see that it is the right partition.
		env = append(env, "SYSTEMD_RELAX_ESP_CHECKS=1", "SYSTEMD_RELAX_XBOOTLDR_CHECKS=1")
	}
	_, err := s.Run.Run(ctx, tool.Cmd{Args: args, Root: s.Root, Env: env})
	return err
}

func (s *System) has(prog string) bool {
	for _, d := range []string{"/usr/sbin/", "/usr/bin/", "/sbin/", "/bin/"} {
		if _, err := os.Stat(s.Root + d + prog); err == nil {
			return true
		}
	}
	return false
}

// Install checks the references and installs GRUB as the source machine had
// it. What could not be done is an error with what to do by hand; a system
// that may not start is never called restored.
func (s *System) Install(ctx context.Context) error {
	renamed := s.renamed()
	if err := s.fstab(renamed); err != nil {
		return err
	}
	if err := s.edit("crypttab", func(text string) (string, []string, []string) {
		return CheckCrypttab(text, s.Root, s.Layout, renamed)
	}); err != nil {
		return err
	}
	if err := s.follow(renamed); err != nil {
		return err
	}
	if err := s.arrayFile(); err != nil {
		return err
	}
	for _, f := range []string{"mdadm/mdadm.conf", "mdadm.conf"} {
		if err := s.edit(f, func(text string) (string, []string, []string) {
			text, notes := FollowArrays(text, s.Layout)
			return text, notes, nil
		}); err != nil {
			return err
		}
	}
	for _, f := range []string{"/boot/grub/grub.cfg", "/boot/grub2/grub.cfg"} {
		if b, err := os.ReadFile(s.Root + f); err == nil {
			for _, m := range CheckGRUB(string(b), s.Layout) {
				s.Report.Warn("%s: %s", f, m)
			}
		}
	}
	leave, err := s.Enter()
	if err == nil {
		err = s.install(ctx, renamed)
	}
	return errors.Join(err, leave())
}

// arrayFile makes an empty mdadm.conf where there is none and arrays are new.
func (s *System) arrayFile() error {
	if !slices.ContainsFunc(s.Layout.Arrays, func(a layout.Array) bool { return a.New }) {
		return nil
	}
	name := s.Root + "/etc/mdadm.conf"
	if st, err := os.Stat(s.Root + "/etc/mdadm"); err == nil && st.IsDir() {
		name = s.Root + "/etc/mdadm/mdadm.conf"
	}
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("cannot make %s: %w", name, err)
	}
	return f.Close()
}

// renamed lists devices whose names are others here, old to new.
func (s *System) renamed() map[string]string {
	out := map[string]string{}
	for o, n := range s.Devices {
		if o != n {
			out[o] = n
		}
	}
	for o, n := range s.Layout.Moved {
		if to := s.Devices[n]; to != "" {
			out[o] = to
		}
	}
	return out
}

func (s *System) install(ctx context.Context, renamed map[string]string) error {
	b := s.Layout.Boot
	if b.Loader != layout.GRUB && b.Loader != layout.SystemdBoot {
		return fmt.Errorf("cannot install a boot loader: the source machine's is not known; %s is mounted: install it there by hand", s.Root)
	}
	lacks, known := s.lacksDrivers("/sys")
	if len(renamed) > 0 || len(s.Types) > 0 || lacks {
		if err := s.rebuild(ctx, renamed, lacks, known); err != nil {
			return err
		}
	}
	if b.Loader == layout.SystemdBoot {
		return s.systemdBoot()
	}
	name := "grub-install"
	if !s.has(name) {
		if name = "grub2-install"; !s.has(name) {
			return fmt.Errorf("cannot install the boot loader: the restored system has no grub-install")
		}
	}
	var with []string
	for _, d := range b.Disks {
		dev, ok := s.Devices[d]
		if !ok {
			continue
		}
		with = append(with, dev)
		s.Report.Note("installing GRUB on /dev/%s", dev)
		if err := s.chroot(ctx, name, "--target=i386-pc", "/dev/"+dev); err != nil {
			return err
		}
	}
	if first := s.firstDisk(); len(with) > 0 && first != "" && !slices.Contains(with, first) {
		s.Report.Note("GRUB is not on /dev/%s: the firmware has to be told to start /dev/%s", first, with[0])
	}
	if b.ESP != "" && slices.Contains(b.Targets, "x86_64-efi") {
		return s.efi(ctx, name)
	}
	if len(b.Disks) == 0 {
		return errors.New("cannot install the boot loader: the layout names neither a disk with GRUB nor an EFI system partition")
	}
	return nil
}

// firstDisk is the first one of the restored disks, which a BIOS starts if it is
// not told otherwise; "sdz" comes before "sdaa".
func (s *System) firstDisk() string {
	first := ""
	for _, d := range s.Layout.Disks {
		if n := s.Devices[d.Name]; n != "" && (first == "" || len(n) < len(first) || len(n) == len(first) && n < first) {
			first = n
		}
	}
	return first
}

// efi installs GRUB on the EFI system partition, with an NVRAM entry when the
// firmware lets us, and always under the removable path, which a firmware
// with an empty NVRAM starts.
func (s *System) efi(ctx context.Context, name string) error {
	id := ""
	for _, f := range s.Layout.Boot.ESPFiles {
		if d := path.Base(path.Dir(f)); strings.EqualFold(path.Base(f), "grubx64.efi") && !strings.EqualFold(d, "boot") {
			id = d
		}
	}
	args := []string{name, "--target=x86_64-efi", "--efi-directory=" + s.espDir()}
	if id != "" {
		s.Report.Note("installing GRUB on the EFI system partition, as %s", id)
		a := append(slices.Clone(args), "--bootloader-id="+id)
		if err := s.chroot(ctx, a...); err != nil {
			s.Report.Warn("no entry in the firmware's boot menu: the removable path starts the system all the same\n%v", err)
			if err := s.chroot(ctx, append(a, "--no-nvram")...); err != nil {
				return err
			}
		}
	}
	return s.chroot(ctx, append(args, "--removable", "--no-nvram")...)
}

// rebuild makes initramfs and GRUB configuration anew after disks changed
// their kind: the old ones may lack the driver, or name the old device.
func (s *System) rebuild(ctx context.Context, renamed map[string]string, lacks, known bool) error {
	// "vd", "sd", "nv": how the kernel names disks by the way they are attached.
	class := func(n string) string { return n[:min(2, len(n))] }
	changed := s.Types["/"] != "" || s.Types["/usr"] != "" || lacks || len(s.Layout.Moved) > 0
	for o, n := range renamed {
		changed = changed || !known && class(o) != class(n)
	}
	if changed {
		why := "it has not the driver of the new disk"
		if s.Types["/"] != "" || s.Types["/usr"] != "" {
			why = "its file systems are of another type"
		} else if len(s.Layout.Moved) > 0 {
			why = "what was on a partition is on a RAID array, or the other way round"
		}
		if err := s.initramfs(ctx, why); err != nil {
			return err
		}
	}
	if s.Layout.Boot.Loader != layout.GRUB {
		return nil
	}
	for _, cfg := range []struct{ file, prog string }{{"/boot/grub/grub.cfg", "grub-mkconfig"}, {"/boot/grub2/grub.cfg", "grub2-mkconfig"}} {
		b, err := os.ReadFile(s.Root + cfg.file)
		if err != nil {
			continue
		}
		if strings.Contains(string(b), "rootfstype=") && s.Types["/"] != "" {
			s.Report.Warn("%s says rootfstype=: change it in /etc/default/grub, and say %s -o %s", cfg.file, cfg.prog, cfg.file)
		}
		for o := range renamed {
			_, moved := s.Layout.Moved[o] // the commands that find it are others
			if moved || strings.Contains(string(b), "/dev/"+o) {
				s.Report.Note("making %s anew: /dev/%s is another device now", cfg.file, o)
				if err := s.chroot(ctx, cfg.prog, "-o", cfg.file); err != nil {
					return err
				}
				if b, err = os.ReadFile(s.Root + cfg.file); err != nil {
					return fmt.Errorf("cannot read what %s wrote: %w", cfg.prog, err)
				}
				for _, w := range s.kernelNames(string(b)) {
					s.Report.Warn("%s: %s is what this rescue system calls the device, and it may be called otherwise when the machine starts: see GRUB_DISABLE_LINUX_UUID in /etc/default/grub", cfg.file, w)
				}
				break
			}
		}
	}
	return nil
}

// initramfs has the system make its initramfs anew.
func (s *System) initramfs(ctx context.Context, why string) error {
	for _, c := range [][]string{
		{"update-initramfs", "-u", "-k", "all"},   // Debian, Ubuntu
		{"dracut", "--force", "--regenerate-all"}, // Fedora, RHEL, SUSE
		{"mkinitcpio", "--allpresets"},            // Arch
	} {
		if !s.has(c[0]) {
			continue
		}
		s.Report.Note("making the initramfs anew: %s", why)
		if s.Layout.Boot.Loader == layout.SystemdBoot {
			return s.entriesAnew(ctx, c)
		}
		return s.chroot(ctx, c...)
	}
	s.Report.Warn("the initramfs may lack the driver of the new disk, and the restored system has no program to make it anew")
	return nil
}

// kernelNames lists root= words of a grub.cfg that name a partition as the kernel
// does, sorted, each once.
func (s *System) kernelNames(cfg string) []string {
	names := map[string]bool{}
	for o, n := range s.Devices {
		if _, p := s.Layout.Partition(o); p != nil {
			names["root=/dev/"+n] = true
		}
	}
	var out []string
	for _, w := range regexp.MustCompile(`\broot=/dev/\S+`).FindAllString(cfg, -1) {
		if names[w] && !slices.Contains(out, w) {
			out = append(out, w)
		}
	}
	slices.Sort(out)
	return out
}

// fstab checks that every device it names is there again; plain names of
// devices that are called otherwise now become UUIDs.
func (s *System) fstab(renamed map[string]string) error {
	return s.edit("fstab", func(text string) (string, []string, []string) {
		text, notes := ConvertFstab(text, s.Types)
		text, more := FollowSubvolumes(text, func(at string) string {
			if f := s.Layout.Mounted(at); f != nil {
				return f.MountAt(at).Subvolume
			}
			return ""
		})
		notes = append(notes, more...)
		text, more = AddNew(text, s.Layout)
		notes = append(notes, more...)
		text, more = NoFail(text, s.Layout, s.Devices)
		notes = append(notes, more...)
		text, more, missing := CheckFstab(text, s.Layout, renamed)
		return text, append(notes, more...), missing
	})
}

// edit changes a file in /etc, and keeps the old one beside it. change gives
// the new text, what it changed, and what refers to nothing.
func (s *System) edit(name string, change func(text string) (out string, notes, missing []string)) error {
	file := filepath.Join(s.Root, "etc", name)
	b, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		if name == "fstab" {
			s.Report.Warn("the restored system has no /etc/fstab")
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot check %s: %w", name, err)
	}
	text, notes, missing := change(string(b))
	for _, n := range notes {
		s.Report.Note("%s: %s", name, n)
	}
	for _, m := range missing {
		s.Report.Warn("%s: %s", name, m)
	}
	if text == string(b) {
		return nil
	}
	st, err := os.Stat(file)
	if err != nil {
		return err
	}
	if err := os.WriteFile(kept(file), b, st.Mode().Perm()); err != nil {
		return fmt.Errorf("cannot keep the old %s: %w", name, err)
	}
	if err := os.WriteFile(file, []byte(text), st.Mode().Perm()); err != nil {
		return fmt.Errorf("cannot change %s: %w", name, err)
	}
	return nil
}

// kept is where the old text of a file stays. Of some directories every file is
// read, whatever its name, but for hidden ones.
func kept(file string) string {
	dir, base := filepath.Split(file)
	if strings.HasSuffix(dir, ".d/") {
		base = "." + base
	}
	return dir + base + ".before-restore"
}

// CheckCrypttab gives the text with renamed devices replaced by UUIDs, what was
// changed, and what refers to nothing that was restored below root; crypttab(5).
func CheckCrypttab(text, root string, l *layout.Layout, renamed map[string]string) (out string, notes, missing []string) {
	known := map[string]bool{}
	uuid := map[string]string{}
	all := uuids(l)
	for _, c := range l.Crypts {
		known["UUID="+strings.ToLower(c.UUID)], known["/dev/"+c.Device] = true, true
		known["LABEL="+c.Label] = c.Label != ""
		uuid["/dev/"+c.Device] = c.UUID
		for old, now := range l.Moved {
			if now == c.Device {
				uuid["/dev/"+old] = c.UUID
			}
		}
		if vg, lv, ok := strings.Cut(c.Device, "/"); ok {
			known[dmPath(vg, lv)] = true
		}
	}
	for _, d := range l.Disks {
		if d.Table == nil {
			continue
		}
		for _, p := range d.Table.Partitions {
			known["PARTUUID="+d.PartUUID(&p)], known["/dev/"+p.Device] = true, true
			known["PARTLABEL="+p.Name] = true
		}
	}
	lines := strings.SplitAfter(text, "\n")
	for i, line := range lines {
		f := strings.Fields(line)
		if len(f) < 2 || strings.HasPrefix(f[0], "#") {
			continue
		}
		spec := strings.ReplaceAll(f[1], `"`, "")
		if k, v, ok := strings.Cut(spec, "="); ok && (k == "UUID" || k == "PARTUUID") {
			spec = k + "=" + strings.ToLower(v)
		}
		if strings.HasPrefix(spec, "/dev/disk/by-uuid/") {
			spec = "UUID=" + strings.ToLower(path.Base(spec))
		}
		options := append(f, "", "")[3]
		if u := all[spec]; u != "" && strings.HasPrefix(spec, "PARTUUID=") {
			lines[i] = strings.Replace(line, f[1], "UUID="+u, 1)
			notes = append(notes, fmt.Sprintf("%s lies on another partition now; changed to UUID=%s", spec, u))
			continue
		}
		if n, ok := renamed[strings.TrimPrefix(spec, "/dev/")]; ok && strings.HasPrefix(spec, "/dev/") {
			to := "/dev/" + n
			if u := uuid[spec]; u != "" {
				to = "UUID=" + u
			}
			lines[i] = strings.Replace(line, f[1], to, 1)
			notes = append(notes, fmt.Sprintf("%s is /dev/%s now; changed to %s", spec, n, to))
			continue
		}
		if strings.Contains(options, "nofail") || strings.Contains(options, "noauto") || !strings.Contains(spec, "=") && !strings.HasPrefix(spec, "/dev/") || strings.HasPrefix(spec, "/dev/disk/by-") {
			continue
		}
		if !known[spec] {
			missing = append(missing, fmt.Sprintf("line %d: %s (%s) is not among what was restored", i+1, f[1], f[0]))
		}
		// A key file, unless a script makes something else of that word.
		if key := append(f, "")[2]; strings.HasPrefix(key, "/") && !strings.HasPrefix(key, "/dev/") && !strings.Contains(options, "keyscript=") && !strings.Contains(key, ":") {
			if _, err := os.Stat(filepath.Join(root, key)); err != nil {
				missing = append(missing, fmt.Sprintf("line %d: the key file %s (%s) is not there", i+1, key, f[0]))
			}
		}
	}
	return strings.Join(lines, ""), notes, missing
}

// CheckGRUB lists UUIDs in a grub.cfg that nothing restored has.
func CheckGRUB(cfg string, l *layout.Layout) []string {
	have := map[string]bool{}
	for _, f := range l.Filesystems {
		have[strings.ToLower(f.UUID)] = true
	}
	// After "--fs-uuid", its hints passed over, and in root=UUID=.
	refs := regexp.MustCompile(`(?m)--fs-uuid(?:\s+--\S+|\s+'[^']*')*\s+([0-9A-Fa-f-]{8,36})\s*$|root=UUID=([0-9A-Fa-f-]{8,36})`)
	var out []string
	for _, m := range refs.FindAllStringSubmatch(cfg, -1) {
		u := m[1] + m[2]
		if !have[strings.ToLower(u)] {
			have[strings.ToLower(u)] = true
			out = append(out, "it refers to UUID "+u+", which is not among what was restored")
		}
	}
	return out
}

// CheckFstab gives the text with renamed devices replaced by UUIDs, what was
// changed, and what refers to nothing that was restored.
func CheckFstab(text string, l *layout.Layout, renamed map[string]string) (out string, notes, missing []string) {
	ids := map[string]bool{}
	uuid := uuids(l)
	add := func(dev, u, label string) {
		ids["UUID="+strings.ToLower(u)] = u != ""
		ids["LABEL="+label] = label != ""
		ids["/dev/"+dev] = true
		if vg, lv, ok := strings.Cut(dev, "/"); ok {
			ids[dmPath(vg, lv)] = true
		}
		if d, p := l.Partition(dev); p != nil {
			ids["PARTUUID="+d.PartUUID(p)] = d.PartUUID(p) != ""
			ids["PARTLABEL="+p.Name] = p.Name != ""
		}
	}
	for _, f := range l.Filesystems {
		for _, d := range f.Devs() {
			add(d, f.UUID, f.Label)
		}
	}
	for _, s := range l.Swap {
		add(s.Device, s.UUID, s.Label)
	}
	for _, a := range l.Arrays {
		if i := slices.IndexFunc(l.Filesystems, func(f layout.Filesystem) bool { return f.Device == a.Name }); i >= 0 {
			ids["/dev/md/"+a.Label[strings.Index(a.Label, ":")+1:]] = true
		}
	}
	lines := strings.SplitAfter(text, "\n")
	for i, line := range lines {
		f := strings.Fields(line)
		if len(f) < 3 || strings.HasPrefix(f[0], "#") {
			continue
		}
		spec := strings.ReplaceAll(f[0], `"`, "")
		k, v, isTag := strings.Cut(spec, "=")
		if isTag && (k == "UUID" || k == "PARTUUID") {
			spec = k + "=" + strings.ToLower(v)
		}
		if strings.HasPrefix(spec, "/dev/disk/by-uuid/") {
			spec = "UUID=" + strings.ToLower(path.Base(spec))
		}
		if !isTag && !strings.HasPrefix(spec, "/dev/") {
			continue // proc, tmpfs, host:/export
		}
		if n, ok := renamed[strings.TrimPrefix(spec, "/dev/")]; ok && uuid[spec] != "" {
			lines[i] = strings.Replace(line, f[0], "UUID="+uuid[spec], 1)
			notes = append(notes, fmt.Sprintf("%s is /dev/%s now; changed to UUID=%s", spec, n, uuid[spec]))
			continue
		}
		if u := uuid[spec]; u != "" && k == "PARTUUID" {
			lines[i] = strings.Replace(line, f[0], "UUID="+u, 1)
			notes = append(notes, fmt.Sprintf("%s lies on another partition now; changed to UUID=%s", spec, u))
			continue
		}
		if strings.HasPrefix(spec, "/dev/disk/by-") || strings.HasPrefix(spec, "/dev/sr") || strings.HasPrefix(spec, "/dev/cdrom") || strings.HasPrefix(spec, "/dev/fd") {
			continue
		}
		if !ids[spec] {
			missing = append(missing, fmt.Sprintf("line %d: %s (%s) is not among what was restored", i+1, f[0], f[1]))
		}
	}
	return strings.Join(lines, ""), notes, missing
}
