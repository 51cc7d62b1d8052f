package bootloader

import (
	"cmp"
	"path/filepath"
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/sysconf"
)

// Entries of the Boot Loader Specification, which GRUB's blscfg and systemd-boot read;
// https://uapi-group.org/specifications/specs/boot_loader_specification.

// bootEntries gives the entries of the Boot Loader Specification, which GRUB's
// blscfg and systemd-boot read, as lines of a grub.cfg; "" without entries.
// prefix is put before the names of their files.
func (s *System) bootEntries(dir, prefix string) string {
	var out strings.Builder
	for _, e := range s.blsEntries(dir, prefix) {
		out.WriteString(e.Text())
	}
	return out.String()
}

// blsEntries are the entries of the Boot Loader Specification that start Linux, by the
// names of their files; prefix is put before what they name.
func (s *System) blsEntries(dir, prefix string) []Entry {
	opts := s.grubenv("kernelopts")
	var out []Entry
	for _, f := range s.own(s.tree().Glob(dir, "loader/entries/*.conf")) {
		b, err := s.tree().Read(f)
		if err != nil {
			continue
		}
		e := sysconf.ParseBLS(string(b), opts)
		if e.Linux == "" { // an EFI program: another system's loader
			continue
		}
		e.ID, e.Linux = strings.TrimSuffix(filepath.Base(f), ".conf"), prefix+e.Linux
		for i := range e.Initrd {
			e.Initrd[i] = prefix + e.Initrd[i]
		}
		out = append(out, e)
	}
	return out
}

// grubenv is a variable of GRUB's environment block, "" if it is not set.
func (s *System) grubenv(name string) (value string) {
	for _, f := range []string{"/boot/grub2/grubenv", "/boot/grub/grubenv"} {
		value = cmp.Or(sysconf.GrubenvValue(s.read(f), name), value)
	}
	return value
}

// own drops entries of other systems, when there are some whose names begin as
// those of this system do: with its token, kernel-install(8).
func (s *System) own(files []string) []string {
	for _, f := range []string{"etc/kernel/entry-token", "etc/machine-id"} {
		token := strings.TrimSpace(s.read(f))
		if token == "" {
			continue
		}
		mine := slices.DeleteFunc(slices.Clone(files), func(f string) bool { return !strings.HasPrefix(filepath.Base(f), token+"-") })
		if len(mine) > 0 {
			return mine
		}
	}
	return files
}
