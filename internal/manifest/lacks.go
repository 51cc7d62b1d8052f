package manifest

import (
	"fmt"
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/layout"
)

// byRule begins the reason of what the administrator's configuration leaves out.
const byRule = "exclude_devices: "

// holdsSet is the reason of the file system that the set was written to.
const holdsSet = "it holds the backup set"

// Lacks names what a restore of the set does not bring back: lacks is what the backup
// did not cover, leftOut what a rule of the administrator left out, or what held the
// set itself. Both are for people, an item each.
func (s *Set) Lacks() (lacks, leftOut []string) {
	lacks = slices.Clone(s.Manifest.NotCovered)
	if s.Legacy != nil {
		return lacks, nil
	}
	named := func(dev string) bool {
		return slices.ContainsFunc(s.Manifest.NotCovered, func(n string) bool {
			return strings.HasPrefix(strings.TrimPrefix(n, "/dev/"), dev+" ") || strings.HasPrefix(strings.TrimPrefix(n, "/dev/"), dev+":")
		})
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
		case strings.HasPrefix(f.Excluded, byRule) || f.Excluded == holdsSet:
			leftOut = append(leftOut, what+": "+f.Excluded)
		case !named(f.Device):
			lacks = append(lacks, what+": "+f.Excluded)
		}
	}
	for _, m := range s.Layout.Images {
		if m.File == "" && !named(m.Device) {
			lacks = append(lacks, fmt.Sprintf("%s (%s): its image is not in the set", m.Device, m.What()))
		}
	}
	return lacks, leftOut
}

// missing names the parts of a file system that have no archive.
func (s *Set) missing(f *layout.Filesystem) (out []string) {
	for _, m := range f.Parts() {
		if len(f.Mounts) > 0 && s.Manifest.ArchiveOf(f.Device, m.Path) == nil {
			out = append(out, fmt.Sprintf("%s (%s %s): its archive is not in the set", f.Device, f.Type, m.Path))
		}
	}
	return out
}
