package rescue

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/bootloader"
	"github.com/mkcdrec/mkcdrec/internal/efivar"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/media"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/regular"
	"github.com/mkcdrec/mkcdrec/templates"
)

// Where the rescue system lives on the machine itself.
const (
	localDir   = "/boot/mkcdrec"
	localLabel = "mkcdrec rescue system"
	// localEFI is the path on the EFI system partition.
	localEFI = "EFI/mkcdrec/mkcdrec.efi"
	// localBegin and localEnd enclose our entry in GRUB's custom.cfg, which
	// belongs to the administrator.
	localBegin = "# >>> mkcdrec: written by `mkcdrec rescue --local`, removed by `mkcdrec rescue --local-remove`"
	localEnd   = "# <<< mkcdrec"
)

// Local puts the rescue system onto the machine itself and adds it to its boot
// menus: to GRUB's through custom.cfg, which every distribution's grub.cfg
// reads, and to the UEFI firmware's as the last entry. It returns what it did.
func (b *Maker) Local(ctx context.Context, p *Machine) ([]string, error) {
	custom, err := CustomCfg()
	if err != nil && p.Layout.Boot.Firmware != "uefi" {
		return nil, err
	}
	grubErr := err
	if err := os.MkdirAll(localDir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot add the rescue system: %w", err)
	}
	work, err := os.MkdirTemp(localDir, ".new-*")
	if err != nil {
		return nil, fmt.Errorf("cannot add the rescue system: %w", err)
	}
	defer os.RemoveAll(work)
	s, err := b.System(ctx, p, Hint{Alone: true}, work)
	if err != nil {
		return nil, err
	}
	m, err := s.menu()
	if err != nil {
		return nil, err
	}
	words := strings.TrimSpace(strings.ReplaceAll(m.Append, "mkcdrec.medium="+s.Info.MediumID, ""))
	kernel := filepath.Join(work, "vmlinuz")
	if err := publish(s.Kernel.Image, kernel, 0o600); err != nil {
		return nil, err
	}
	for from, to := range map[string]string{kernel: "vmlinuz", s.Initrd: "initrd.img"} {
		if err := os.Rename(from, filepath.Join(localDir, to)); err != nil {
			return nil, fmt.Errorf("cannot add the rescue system: %w", err)
		}
	}
	var done []string
	if grubErr == nil {
		if err := s.addToGRUB(custom, words); err != nil {
			return nil, err
		}
		done = append(done, "entry in GRUB's menu, "+custom)
	}
	if p.Layout.Boot.Firmware == "uefi" {
		id, err := b.localEFI(p, s.Kernel.Image, words, work)
		switch {
		case err == nil:
			done = append(done, "boot entry "+id+" of the UEFI firmware, the last in its order")
		case grubErr != nil:
			return nil, errors.Join(grubErr, err)
		default:
			b.Report.Warn("%v; the entry in GRUB's menu works without it", err)
		}
	}
	return done, nil
}

// addToGRUB puts the entry of the system in localDir into GRUB's custom.cfg.
func (s *System) addToGRUB(custom, words string) error {
	fs, rel, err := onFilesystem(s.machine.Layout, localDir)
	if err != nil {
		return err
	}
	text, err := templates.Local(templates.LocalEntry{Begin: localBegin, End: localEnd, Title: localLabel + ", made " + s.Info.Created.Format("2006-01-02"), UUID: fs.UUID, Kernel: rel + "/vmlinuz", Initrd: rel + "/initrd.img", Append: words})
	if err != nil {
		return err
	}
	return replaceBlock(custom, text)
}

// localEFI writes kernel and initramfs as one EFI program into the ESP, and
// makes a boot entry for it.
func (b *Maker) localEFI(p *Machine, kernel, words, work string) (string, error) {
	l := FindLoaders(b.Executable, work, "/.mkcdrec", true)
	if l.Stub == "" {
		return "", errors.New("cannot add a UEFI boot entry: there is no EFI stub (Debian: systemd-boot-efi)")
	}
	esp, mount, part := espOf(p.Layout)
	if esp == nil {
		return "", errors.New("cannot add a UEFI boot entry: there is no mounted EFI system partition")
	}
	if err := templates.CheckKernelLine(words); err != nil {
		return "", fmt.Errorf("cannot add a UEFI boot entry: %w", err)
	}
	uki := filepath.Join(work, "uki")
	if err := (media.UKI{Stub: l.Stub, Kernel: kernel, Initrd: filepath.Join(localDir, "initrd.img"), Cmdline: words, Title: localLabel}).Write(uki); err != nil {
		return "", err
	}
	st, err := os.Stat(uki)
	if err != nil {
		return "", err
	}
	to := filepath.Join(mount, localEFI)
	var s unix.Statfs_t
	if err := unix.Statfs(mount, &s); err != nil {
		return "", fmt.Errorf("cannot add a UEFI boot entry: %w", err)
	}
	if free := int64(s.Bavail) * s.Bsize; free < st.Size()+1<<20 {
		return "", fmt.Errorf("cannot add a UEFI boot entry: %s has %s free, and %s are needed", mount, quantity.Size(free), quantity.Size(st.Size()))
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return "", fmt.Errorf("cannot add a UEFI boot entry: %w", err)
	}
	if err := publish(uki, to, 0o644); err != nil {
		return "", err
	}
	ss := uint64(esp.LogicalSector)
	return efivar.Add(efivar.Dir, efivar.Entry{Label: localLabel, Number: part.Number, Start: uint64(part.Start) / ss, Size: uint64(part.Size) / ss, GUID: part.GUID, Path: "/" + localEFI})
}

// espOf finds the disk, mount point and partition of the ESP.
func espOf(l *layout.Layout) (*layout.Disk, string, *layout.Partition) {
	mount := ""
	for _, f := range l.Filesystems {
		if f.Device == l.Boot.ESP && len(f.Mounts) > 0 {
			mount = f.Mounts[0].Path
		}
	}
	for i := range l.Disks {
		d := &l.Disks[i]
		if d.Table == nil || mount == "" {
			continue
		}
		for j := range d.Table.Partitions {
			if p := &d.Table.Partitions[j]; p.Device == l.Boot.ESP && p.GUID != "" {
				return d, mount, p
			}
		}
	}
	return nil, "", nil
}

// LocalRemove takes all of that away again.
func LocalRemove(l *layout.Layout) error {
	var errs []error
	if custom, err := CustomCfg(); err == nil {
		errs = append(errs, replaceBlock(custom, nil))
	}
	if _, err := os.Stat(efivar.Dir); err == nil {
		errs = append(errs, efivar.Remove(efivar.Dir, localLabel))
	}
	if _, mount, _ := espOf(l); mount != "" {
		errs = append(errs, os.RemoveAll(filepath.Dir(filepath.Join(mount, localEFI))))
	}
	return errors.Join(append(errs, os.RemoveAll(localDir))...)
}

// CustomCfg finds GRUB's custom.cfg, which need not be there yet, and checks
// that grub.cfg reads it.
func CustomCfg() (string, error) {
	for _, f := range bootloader.GRUBConfigs() {
		b, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		if !bytes.Contains(b, []byte("custom.cfg")) {
			return "", fmt.Errorf("cannot add an entry to GRUB's menu: %s does not read custom.cfg (the script 41_custom is missing from /etc/grub.d)", f)
		}
		return filepath.Join(filepath.Dir(f), "custom.cfg"), nil
	}
	return "", fmt.Errorf("cannot add an entry to GRUB's menu: there is no %s", strings.Join(bootloader.GRUBConfigs(), " or "))
}

// replaceBlock replaces our lines in a file, or removes them for nil; what
// else is there stays. A file that becomes empty goes.
func replaceBlock(file string, block []byte) error {
	old, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot change %s: %w", file, err)
	}
	text := string(old)
	if i := strings.Index(text, localBegin); i >= 0 {
		rest := text[i:]
		j := strings.Index(rest, localEnd)
		if j < 0 {
			return fmt.Errorf("cannot change %s: our entry there has no end; the line %q is missing", file, localEnd)
		}
		text = text[:i] + strings.TrimPrefix(rest[j+len(localEnd):], "\n")
	}
	text += string(block)
	if strings.TrimSpace(text) == "" {
		if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("cannot remove %s: %w", file, err)
		}
		return nil
	}
	return regular.WriteFile(file, []byte(text))
}

// onFilesystem gives the file system that holds a path, and the path on it.
func onFilesystem(l *layout.Layout, path string) (*layout.Filesystem, string, error) {
	var best *layout.Filesystem
	mount := ""
	for i := range l.Filesystems {
		for _, m := range l.Filesystems[i].Mounts {
			under := m.Path == "/" || path == m.Path || strings.HasPrefix(path, m.Path+"/")
			if under && len(m.Path) > len(mount) {
				best, mount = &l.Filesystems[i], m.Path
			}
		}
	}
	if best == nil || best.UUID == "" {
		return nil, "", fmt.Errorf("cannot tell on which file system %s is", path)
	}
	return best, strings.TrimPrefix(path, strings.TrimSuffix(mount, "/")), nil
}
