package manifest

import (
	"fmt"
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/layout"
)

// byRule begins the reason of what the administrator's configuration leaves out.
const byRule = "exclude_devices: "

// Rules of the program for what is excluded from a set without an entry of the
// administrator's.
const (
	// RuleHolder: nothing but backups is on the file system that the set was written to.
	RuleHolder = "it holds the backup set"
	// RuleLoose: all disks under it can be unplugged, layout.Disk.Loose.
	RuleLoose = "its disk can be unplugged, and nothing refers to it"
	// RuleBlank: nothing was found on the device, layout.Image.Blank.
	RuleBlank = "it is blank"
)

// named reports whether a device is among what the backup did not cover.
func (s *Set) named(dev string) bool {
	return slices.ContainsFunc(s.Manifest.NotCovered, func(n string) bool {
		return strings.HasPrefix(strings.TrimPrefix(n, "/dev/"), dev+" ") || strings.HasPrefix(strings.TrimPrefix(n, "/dev/"), dev+":")
	})
}

// Lacks names what a restore of the set does not bring back: lacks is what the backup
// did not cover, leftOut what a rule of the administrator left out, or what held the
// set itself. Both are for people, an item each.
func (s *Set) Lacks() (lacks, leftOut []string) {
	lacks = slices.Clone(s.Manifest.NotCovered)
	if !s.WholeLayout() {
		return lacks, nil
	}

	for i := range s.Layout.Filesystems {
		f := &s.Layout.Filesystems[i]
		var at []string
		for _, m := range f.Mounts {
			at = append(at, m.Path)
		}
		what := fmt.Sprintf("%s (%s)", f.Device, strings.TrimSpace(f.Type+" "+strings.Join(at, ", ")))
		switch {
		case f.Excluded == "":
			lacks = append(lacks, s.missing(f)...)
			if f.Included != nil {
				leftOut = append(leftOut, what+": "+layout.ByInclude+"only "+strings.Join(f.Included, ", "))
			}
		case strings.HasPrefix(f.Excluded, byRule) || strings.HasPrefix(f.Excluded, layout.ByInclude) || f.Excluded == RuleHolder || f.Excluded == RuleLoose:
			leftOut = append(leftOut, what+": "+f.Excluded)
		case !s.named(f.Device):
			lacks = append(lacks, what+": "+f.Excluded)
		}
	}
	for _, m := range s.Layout.Images {
		switch {
		case m.File != "":
		case m.Excluded != "":
			leftOut = append(leftOut, fmt.Sprintf("%s (%s): %s", m.Device, m.What(), m.Excluded))
		case !s.named(m.Device):
			lacks = append(lacks, fmt.Sprintf("%s (%s): its image is not in the set", m.Device, m.What()))
		}
	}
	return lacks, leftOut
}

// missing names the parts of a file system that have no archive.
func (s *Set) missing(f *layout.Filesystem) (out []string) {
	for _, m := range f.Parts() {
		if f.Includes(m.Path) && s.Manifest.ArchiveOf(f.Device, m.Path) == nil {
			what := m.Path
			if what == "" {
				what = "outside of what is mounted"
			}
			out = append(out, fmt.Sprintf("%s (%s %s): its archive is not in the set", f.Device, f.Type, what))
		}
	}
	return out
}
