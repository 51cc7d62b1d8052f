package probe

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/layout"
)

// prune takes out of a layout what its Validate refuses, and records it as not
// supported: one odd part must not keep the rest of a machine from being saved.
// What is above a part that is taken out goes with it, named, too.
func prune(l *layout.Layout, faulty map[string]bool) {
	for range 1000 {
		var joined interface{ Unwrap() []error }
		if !errors.As(l.Validate(), &joined) || !dropFirst(l, joined.Unwrap(), faulty) {
			return
		}
	}
}

// dropFirst takes out the part with the first fault that is one of a part.
func dropFirst(l *layout.Layout, faults []error, faulty map[string]bool) bool {
	for _, err := range faults {
		where, what, ok := strings.Cut(err.Error(), ": ")
		if !ok {
			continue
		}
		var i, j int
		cannot := func(dev string) {
			dev = escape(dev)
			l.Unsupported = append(l.Unsupported, layout.Unsupported{What: dev, Device: dev, Reason: escape(what)})
		}
		switch {
		case scan(where, "disks[%d].table", &i):
			cannot(l.Disks[i].Name)
			l.Disks[i].Table = nil
			faulty[l.Disks[i].Name] = true
		case scan(where, "disks[%d]", &i):
			cannot(l.Disks[i].Name)
			l.Disks = slices.Delete(l.Disks, i, i+1)
		case scan(where, "arrays[%d]", &i):
			cannot(l.Arrays[i].Name)
			l.Arrays = slices.Delete(l.Arrays, i, i+1)
		case scan(where, "crypts[%d]", &i):
			cannot(l.Crypts[i].Mapper())
			l.Crypts = slices.Delete(l.Crypts, i, i+1)
		case scan(where, "volumeGroups[%d].lvs[%d]", &i, &j):
			g := &l.VolumeGroup[i]
			cannot(g.Name + "/" + g.LVs[j].Name)
			g.LVs = slices.Delete(g.LVs, j, j+1)
		case scan(where, "volumeGroups[%d]", &i):
			g := l.VolumeGroup[i]
			l.Unsupported = append(l.Unsupported, layout.Unsupported{What: escape(g.Name), Device: escape(groupOn(g)), Reason: escape(what)})
			l.VolumeGroup = slices.Delete(l.VolumeGroup, i, i+1)
		case scan(where, "filesystems[%d]", &i):
			cannot(l.Filesystems[i].Device)
			l.Filesystems = slices.Delete(l.Filesystems, i, i+1)
		case scan(where, "swap[%d]", &i):
			cannot(l.Swap[i].Device)
			l.Swap = slices.Delete(l.Swap, i, i+1)
		case scan(where, "swapFiles[%d]", &i):
			l.SwapFiles = slices.Delete(l.SwapFiles, i, i+1) // a file like others then
		case scan(where, "images[%d]", &i):
			cannot(l.Images[i].Device)
			l.Images = slices.Delete(l.Images, i, i+1)
		default:
			continue
		}
		return true
	}
	return false
}

// scan reads the numbers of a place like "disks[2].table.partitions[1]".
func scan(where, format string, n ...*int) bool {
	args := make([]any, len(n))
	for i := range n {
		args[i] = n[i]
	}
	if !strings.HasPrefix(where, strings.SplitN(format, "[", 2)[0]+"[") {
		return false
	}
	got, err := fmt.Sscanf(where, format, args...)
	return got == len(n) && (err == nil || got == strings.Count(format, "%d"))
}
