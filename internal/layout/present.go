package layout

import (
	"slices"
	"strings"
)

// Present is a disk of the machine to be restored.
type Present struct {
	Disk
	// Busy is why nothing may be written to it: "it holds the backup set",
	// "/dev/sda1 is mounted on /mnt".
	Busy string
	// Holds is what is on it now, in a word, for people.
	Holds string
	// Place is where it is now; the zero value where that is not known.
	Place Place
	// Words are what confirms it; see Identify.
	Words []string
}

// Place is where a disk is in this machine while it runs.
type Place struct {
	// Seq is the kernel's number of the disk, which no other gets: diskseq in sysfs,
	// since Linux 5.15; 0 before.
	Seq uint64
	// Path is that of its bus and slot, below /sys/devices:
	// "pci0000:00/0000:00:04.0/virtio1/block/vda".
	Path string
	// Dev is the device number, "254:0".
	Dev string
}

// Slot is the path without the kernel's name of the disk.
func (p Place) Slot() string {
	s, _, _ := strings.Cut(p.Path, "/block/")
	return s
}

// Identify gives the disks with the words that confirm each: its serial number and WWN,
// unless another disk has the same; the path of its slot where neither is left. The
// kernel's name, which changes from boot to boot, confirms nothing.
func Identify(have []Present) []Present {
	n := map[string]int{}
	for _, p := range have {
		n[p.Serial]++
		if p.WWN != p.Serial {
			n[p.WWN]++
		}
		n[p.Place.Slot()]++
	}
	out := slices.Clone(have)
	for i := range out {
		p := &out[i]
		p.Words = []string{} // looked at, and nothing found
		for _, w := range []string{p.Serial, p.WWN} {
			if w != "" && n[w] == 1 && !slices.Contains(p.Words, w) {
				p.Words = append(p.Words, w)
			}
		}
		if s := p.Place.Slot(); len(p.Words) == 0 && s != "" && n[s] == 1 {
			p.Words = []string{s}
		}
	}
	return out
}

// Is reports whether the disk is confirmed by one of the words.
func (p Present) Is(said ...string) bool {
	return slices.ContainsFunc(said, func(s string) bool { return slices.Contains(p.Words, s) })
}

// Target names a disk for people: "/dev/sda (QEMU HARDDISK, serial X, 6.0 GiB)".
func (d Disk) Target() string { return "/dev/" + d.Name + " (" + d.Text() + ")" }

// Text describes a disk, so that it can't be confused with others: "QEMU HARDDISK, serial X, 6.0 GiB".
func (d Disk) Text() string {
	s := ""
	if d.Model != "" {
		s += d.Model + ", "
	}
	if d.Serial != "" {
		s += "serial " + d.Serial + ", "
	} else {
		s += "no serial number, "
	}
	return s + d.Size.String()
}

// Confirmations are the words that confirm a disk: those that Identify found, or, for a
// disk that is looked at alone, all that it has.
func (p Present) Confirmations() []string {
	if p.Words == nil {
		return Identify([]Present{p})[0].Words
	}
	return p.Words
}
