package probe

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/inroot"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/superblock"
	"github.com/mkcdrec/mkcdrec/internal/sysconf"
)

// swaps lists the active swap devices.
func (m Machine) swaps() []string {
	out := m.swapsOn("partition")
	for i := range out {
		out[i] = m.resolve(out[i])
	}
	return out
}

// swapsOn lists what is swapped to, by the kernel's word for what it is; proc(5).
func (m Machine) swapsOn(kind string) []string {
	var out []string
	areas, _ := sysconf.SwapAreas(m.Root) // a missing file means no areas
	for _, a := range areas {
		if a.Kind == kind {
			out = append(out, a.Path)
		}
	}
	return out
}

// swapFiles records files with swap on them: those in use, and those that fstab
// has.
func (m Machine) swapFiles(l *layout.Layout, mounts []MountInfo) {
	all := m.swapsOn("file")
	for _, e := range sysconf.ParseFstab(l.Fstab).Entries {
		if e.Swap() && e.Ref().Kind == sysconf.File {
			all = append(all, e.Spec)
		}
	}
	for _, p := range all {
		f, real, err := m.openSwapFile(p)
		if err != nil {
			continue // nothing there
		}
		st, err := f.Stat()
		if err != nil || !st.Mode().IsRegular() {
			f.Close()
			continue
		}
		i, err := superblock.Probe(f, st.Size())
		f.Close()
		over := MountOver(mounts, real)
		if err != nil || i == nil || i.Type != fstype.TypeSwap || over == nil || slices.ContainsFunc(l.SwapFiles, func(s layout.SwapFile) bool { return s.Path == real }) {
			continue // a file like others
		}
		l.SwapFiles = append(l.SwapFiles, layout.SwapFile{Path: real, Mount: over.Path, Size: quantity.Size(st.Size()), UUID: i.UUID, Label: i.Label})
	}
}

// openSwapFile opens a file of the system, and gives its path without links.
func (m Machine) openSwapFile(p string) (f *os.File, real string, err error) {
	if m.System != "" {
		f, err = inroot.Open(m.System, p)
		return f, filepath.Clean("/" + p), err
	}
	if real, err = filepath.EvalSymlinks(m.path(p)); err != nil {
		return nil, "", err
	}
	f, err = os.OpenFile(real, os.O_RDONLY|unix.O_NONBLOCK, 0)
	return f, "/" + strings.TrimPrefix(strings.TrimPrefix(real, m.path("/")), "/"), err
}
