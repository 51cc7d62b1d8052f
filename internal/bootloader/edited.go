package bootloader

import (
	"path"
	"regexp"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/layout"
)

// Edited gives an expression for the paths that are changed when the names in a
// restored system are followed: its files, what is kept of them, and their
// directories, whose times change.
func Edited() *regexp.Regexp {
	s := &System{Layout: &layout.Layout{}}
	all := append(append(s.cmdlineFiles(), diskFiles()...), cardFiles()...)
	for _, f := range append([]string{"/etc/fstab", "/etc/crypttab", "/etc/crypttab.initramfs", "/etc/lvm/devices/system.devices", debconfDatabase}, arrayFiles()...) {
		all = append(all, cmdlineFile{dir: path.Dir(f), pattern: path.Base(f)})
	}
	for _, p := range []string{"*.mount", "*.swap", "*.mount.d/*.conf", "*.swap.d/*.conf", "*.wants/*.mount", "*.requires/*.mount", "*.wants/*.swap", "*.requires/*.swap"} {
		all = append(all, cmdlineFile{dir: unitDir, pattern: p})
	}
	var out []string
	for _, c := range all {
		dir, base := path.Split(path.Join(c.dir, c.pattern))
		out = append(out, expression(strings.TrimSuffix(dir, "/"))+`(/\.?`+expression(base)+`(\.before-restore)?)?`)
	}
	return regexp.MustCompile("^(/etc|/boot|" + strings.Join(out, "|") + ")$")
}

// expression makes a regular expression of a pattern of names.
func expression(pattern string) string {
	q := regexp.QuoteMeta(pattern)
	q = strings.ReplaceAll(q, `\*`, `[^/]*`)
	return regexp.MustCompile(`\\\[(\w+)\\\]`).ReplaceAllString(q, `[$1]`)
}
