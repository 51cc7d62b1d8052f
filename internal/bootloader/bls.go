package bootloader

import (
	"path/filepath"
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/sysconf"
)

// Entries of the Boot Loader Specification, which GRUB's blscfg and systemd-boot read;
// https://uapi-group.org/specifications/specs/boot_loader_specification.

// bootEntries gives the entries of the Boot Loader Specification, which GRUB's
// blscfg and systemd-boot read, as lines of a grub.cfg; "" when there are none.
// prefix is put before the names of their files.
func (s *System) bootEntries(dir, prefix string) string {
	var out strings.Builder
	for _, e := range s.blsEntries(dir, prefix) {
		out.WriteString(e.text())
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
		e := blsEntry(string(b), prefix, opts)
		e.ID = strings.TrimSuffix(filepath.Base(f), ".conf")
		if e.Linux != "" { // else an EFI program: another system's loader
			out = append(out, e)
		}
	}
	return out
}

// blsEntry reads an entry of the Boot Loader Specification. opts is what $kernelopts
// stands for.
func blsEntry(text, prefix, opts string) Entry {
	var e Entry
	x := &expansion{left: maxExpanded}
	for _, line := range strings.Split(text, "\n") {
		key, value, _ := strings.Cut(strings.ReplaceAll(strings.TrimSpace(line), "\t", " "), " ")
		switch key {
		case "linux":
			e.Linux = prefix + strings.TrimSpace(value)
		case "options":
			for i, part := range strings.Split(strings.TrimSpace(value), "$kernelopts") {
				if i == 0 {
					e.Options += " " + part
				} else {
					e.Options += x.value(opts) + part
				}
			}
		case "initrd":
			for _, f := range strings.Fields(strings.ReplaceAll(value, "$tuned_initrd", "")) {
				e.Initrd = append(e.Initrd, prefix+f)
			}
		}
	}
	return e
}

// grubenv is a variable of GRUB's environment block, "" if it is not set.
func (s *System) grubenv(name string) (value string) {
	for _, f := range []string{"/boot/grub2/grubenv", "/boot/grub/grubenv"} {
		for _, line := range strings.Split(s.read(f), "\n") {
			if v, ok := strings.CutPrefix(line, name+"="); ok {
				value = v
			}
		}
	}
	return value
}

// grubWords writes a kernel command line as words of GRUB.
func grubWords(cmdline string) string {
	var b strings.Builder
	for _, w := range sysconf.ParseCmdline(cmdline).Words {
		text := w.Name
		if w.Assigned {
			text += "=" + w.Value
		}
		b.WriteString(" '" + strings.ReplaceAll(text, "'", `'\''`) + "'")
	}
	return b.String()
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
