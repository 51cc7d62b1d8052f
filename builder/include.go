package builder

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/probe"
	"github.com/mkcdrec/mkcdrec/internal/sysconf"
)

// included is a path of the configuration's include, and the mount that has it.
type included struct{ path, mount string }

// include finds where the paths of the configuration's include are. What a link leads to is
// included with the link. A path that is not there is not covered.
func (p *Plan) include(c *Config) {
	p.only = len(c.Include) > 0
	for _, name := range c.Include {
		if strings.HasPrefix(name, "/dev/") {
			p.includedDevices = append(p.includedDevices, strings.TrimPrefix(name, "/dev/"))
			continue
		}
		real, err := filepath.EvalSymlinks(name)
		if err != nil {
			p.NotCovered = append(p.NotCovered, fmt.Sprintf("include: %s: %v", name, err))
			continue
		}
		if p.included = append(p.included, included{real, p.mountOf(real)}); real != name {
			p.included = append(p.included, included{name, p.mountOf(filepath.Dir(name))})
		}
		if over := probe.MountOver(p.mounts, real); over != nil && over.Path != p.mountOf(real) {
			p.NotCovered = append(p.NotCovered, fmt.Sprintf("include: %s: it is on %s (%s), which can't be saved", name, over.Path, over.Type))
		}
	}
	p.unmounted(c)
	slices.SortFunc(p.included, func(a, b included) int { return strings.Compare(a.path, b.path) })
	p.includeRule = layout.ByInclude + "only " + strings.Join(c.Include[:min(len(c.Include), 5)], ", ")
	if len(c.Include) > 5 {
		p.includeRule += ", ..."
	}
}

// unmounted reports places of included files where fstab has a file system that is not mounted:
// the rule for what is not included must not hide that.
func (p *Plan) unmounted(c *Config) {
	for _, e := range sysconf.ParseFstab(p.Layout.Fstab).Entries {
		at := e.Path()
		if !filepath.IsAbs(at) || e.Swap() || e.NoAuto() || c.excludes(at) != "" || p.mountOf(at) == at ||
			slices.ContainsFunc(p.mounts, func(m probe.MountInfo) bool { return m.Path == at }) ||
			!slices.ContainsFunc(p.included, func(i included) bool { return layout.Below(i.path, at) || layout.Below(at, i.path) }) {
			continue
		}
		p.NotCovered = append(p.NotCovered, fmt.Sprintf("include: %s: fstab has %s there, and it is not mounted", at, e.Spec))
	}
}

// mountOf gives where the layout's file system is mounted that has a path.
func (p *Plan) mountOf(path string) string {
	at := ""
	for _, f := range p.Layout.Filesystems {
		for _, m := range f.Mounts {
			if layout.Below(path, m.Path) && len(m.Path) > len(at) {
				at = m.Path
			}
		}
	}
	return at
}

// onlyPaths gives the paths that are saved of what is mounted at a path: nil and true for
// all, nil and false for none.
func (p *Plan) onlyPaths(f *layout.Filesystem, mount string) (only []string, any bool) {
	if !p.only || p.includesDevice(f.Devs()...) {
		return nil, true
	}
	for _, i := range p.included {
		if mount != "" && layout.Below(mount, i.path) {
			return nil, true
		}
		if mount != "" && i.mount == mount && !slices.ContainsFunc(only, func(o string) bool { return layout.Below(i.path, o) }) {
			only = append(only, i.path)
		}
	}
	return only, len(only) > 0
}

// includesDevice reports whether one of the devices is named, by any of its names.
func (p *Plan) includesDevice(devs ...string) bool {
	return slices.ContainsFunc(devs, func(d string) bool {
		return slices.ContainsFunc(p.names(d), func(n string) bool { return slices.Contains(p.includedDevices, n) })
	})
}

// saves returns a function that reports whether a path is saved, nil where the configuration has no include.
func (p *Plan) saves() func(path string) bool {
	if !p.only {
		return nil
	}
	return func(path string) bool {
		if slices.ContainsFunc(p.included, func(i included) bool { return layout.Below(path, i.path) }) {
			return true
		}
		fs := p.Layout.Mounted(p.mountOf(path))
		return fs != nil && p.includesDevice(fs.Devs()...)
	}
}

// partly enters which paths of a file system are saved. Without any it is left out.
func (p *Plan) partly(f *layout.Filesystem) {
	whole, some := true, !f.InUse() && p.includesDevice(f.Devs()...)
	var paths []string
	for _, m := range f.Parts() {
		only, any := p.onlyPaths(f, m.Path)
		whole, some = whole && any && only == nil, some || any
		if any && only == nil {
			only = []string{m.Path}
		}
		paths = append(paths, only...)
	}
	switch {
	case some && whole:
	case some:
		f.Included = paths
		p.LeftOut = append(p.LeftOut, fmt.Sprintf("%s (%s): %sonly %s", f.Device, f.Type, layout.ByInclude, strings.Join(paths, ", ")))
	default:
		f.Excluded = p.includeRule
	}
}

// notIncluded gives the rule by which something that can't be saved is left out: its path
// or device is not named. "" for no such rule.
func (p *Plan) notIncluded(dev, what string) string {
	if !p.only || dev != "" && p.includesDevice(dev) {
		return ""
	}
	if filepath.IsAbs(what) && slices.ContainsFunc(p.included, func(i included) bool { return layout.Below(what, i.path) || layout.Below(i.path, what) }) {
		return ""
	}
	return p.includeRule
}

// checkInclude reports paths of include that can't be used.
func (c *Config) checkInclude() error {
	var errs []error
	for _, i := range c.Include {
		if !filepath.IsAbs(i) || filepath.Clean(i) != i {
			errs = append(errs, fmt.Errorf("include: %q; want an absolute path without .. and without / at its end", i))
		}
	}
	return errors.Join(errs...)
}
