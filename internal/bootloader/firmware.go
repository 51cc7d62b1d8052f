package bootloader

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/efivar"
	"github.com/mkcdrec/mkcdrec/internal/layout"
)

// What UEFI firmware starts: files on the EFI system partition, and entries of its boot menu.

// Problem returns why a restore can't make a machine start as it does; "" when it can.
func Problem(m Machine, l *layout.Layout) string {
	b := l.Boot
	switch {
	case b.Firmware == layout.UEFI && b.ESP == "":
		return "no EFI system partition is mounted, and what starts this machine is not known"
	case b.Firmware == layout.UEFI && len(b.ESPFiles) == 0:
		return "the EFI system partition " + b.ESP + " has no boot loader"
	}
	return For(b.Loader).Problem(m, l)
}

// checkFirmware looks for a loader where UEFI firmware does.
func (s *System) checkFirmware() []string {
	if s.Layout.Boot.Firmware != layout.UEFI {
		return nil
	}
	dir := s.espDir()
	if dir == "" {
		return []string{"there is no EFI system partition"}
	}
	if len(s.tree().Glob(dir, "[Ee][Ff][Ii]/[Bb][Oo][Oo][Tt]/*.[Ee][Ff][Ii]")) == 0 {
		return []string{"the EFI system partition has no loader in EFI/BOOT"}
	}
	return nil
}

// espDir is where the EFI system partition is mounted in the system; "" if it is not.
func (s *System) espDir() string {
	for _, f := range s.Layout.Filesystems {
		if s.Layout.Boot.ESP != "" && f.Device == s.Layout.Boot.ESP && len(f.Mounts) > 0 {
			return f.Mounts[0].Path
		}
	}
	return ""
}

// copyLoader copies a loader; the new file appears whole.
func (s *System) copyLoader(from, to string) error {
	b, err := s.tree().Read(from)
	if err == nil {
		err = s.tree().MkdirAll(path.Dir(to), 0o755)
	}
	if err == nil {
		err = s.tree().Write(to, b, 0o644)
	}
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", to, err)
	}
	return nil
}

// efiEntry adds the firmware's entry for the loader that the old machine's first
// entry on this partition had, so that a shim stays before it; without such a one
// that of bootctl(1).
func (s *System) efiEntry(vars, sys, loader, dir string) error {
	disk, part := s.Layout.Partition(s.Layout.Boot.ESP)
	if part == nil || part.GUID == "" {
		return errors.New("the EFI system partition has no GUID, which an entry would name")
	}
	e := efivar.Entry{Label: "Linux Boot Manager", Path: strings.TrimPrefix(loader, dir), Number: part.Number, GUID: part.GUID, First: true}
	if old := s.oldEntry(part.GUID, dir); old != nil {
		e.Label, e.Path = old.Label, strings.ReplaceAll(old.Path, `\`, "/")
	}
	var err error
	dev := s.Devices[s.Layout.Boot.ESP]
	if e.Start, e.Size, err = extent(sys, dev, s.Devices[disk.Name]); err != nil {
		return err
	}
	s.Report.Note("adding %q to the firmware's boot menu", e.Label)
	_, err = efivar.Add(vars, e)
	return err
}

// oldEntry is the first of the old machine's active entries for a loader that is
// on the partition.
func (s *System) oldEntry(guid, esp string) *layout.NVRAMEntry {
	b := s.Layout.Boot
	for _, id := range b.Order {
		i := slices.IndexFunc(b.NVRAM, func(e layout.NVRAMEntry) bool { return e.ID == id })
		if i < 0 || !b.NVRAM[i].Active || !strings.EqualFold(b.NVRAM[i].PartGUID, guid) || b.NVRAM[i].Path == "" {
			continue
		}
		p := path.Clean("/" + strings.ReplaceAll(b.NVRAM[i].Path, `\`, "/"))
		if st, err := s.tree().Stat(esp + p); err == nil && st.Mode().IsRegular() { // vfat knows no case
			return &b.NVRAM[i]
		}
	}
	return nil
}

// extent gives a partition's place in sectors of its disk, as the firmware counts;
// the kernel counts in 512 bytes.
func extent(sys, part, disk string) (start, size uint64, err error) {
	num := func(file string) (n uint64) {
		b, e := os.ReadFile(filepath.Join(sys, "class/block", file))
		if e == nil {
			n, e = strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
		}
		err = errors.Join(err, e)
		return n
	}
	start, size = num(part+"/start"), num(part+"/size")
	per := num(disk+"/queue/logical_block_size") / 512
	if err != nil || per == 0 {
		return 0, 0, fmt.Errorf("cannot find the place of /dev/%s: %w", part, errors.Join(err, errors.New("no size of sectors")))
	}
	return start / per, size / per, nil
}
