package bootloader

import (
	"cmp"
	"debug/pe"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/sysconf"
)

// checkUnified looks into a unified kernel image: what its command line names has
// to be there, and its initramfs has to have the drivers.
func (s *System) checkUnified(name, sys string) []string {
	file, err := s.tree().Open(name)
	if err != nil {
		return []string{fmt.Sprintf("%s: %v", name, err)}
	}
	defer file.Close()
	f, err := pe.NewFile(file)
	if err != nil {
		return []string{fmt.Sprintf("%s: %v", name, err)}
	}
	text := func(section string) string {
		sec := f.Section(section)
		if sec == nil {
			return ""
		}
		b, err := io.ReadAll(io.LimitReader(sec.Open(), min(int64(sec.VirtualSize), 64<<10)))
		if err != nil {
			return ""
		}
		return strings.TrimSpace(strings.TrimRight(string(b), "\x00"))
	}
	var out []string
	for _, m := range CheckKernel(text(".cmdline"), sysconf.Plain, s.resolver(true)) {
		out = append(out, name+": "+m)
	}
	initrd := f.Section(".initrd")
	if initrd == nil {
		return out
	}
	r := io.LimitReader(initrd.Open(), int64(initrd.VirtualSize))
	return append(out, s.checkInitramfs(name, cmp.Or(text(".uname"), kernelVersion(path.Base(name))), r, sys)...)
}
