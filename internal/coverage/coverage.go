// Package coverage accounts for every byte of a machine's disks: what of them is saved,
// recreated, left out by a rule, not covered, or unallocated. It opens no device: all it
// knows is a layout and the marks of a backup's plan.
package coverage

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
)

// Version is the only version of coverage.json there is.
const Version = 1

// File is the name of a report in a backup set.
const File = "coverage.json"

// State is what a restore does with some bytes.
type State string

// The states, as coverage.json has them.
const (
	Files       State = "files"       // saved as files
	Image       State = "image"       // saved block by block
	Recreated   State = "recreated"   // metadata that a restore writes again
	Excluded    State = "excluded"    // left out by a rule
	NotCovered  State = "notCovered"  // lost with the disk
	Unallocated State = "unallocated" // no content
)

// States are all states with the letter of each in pictures, and its name for people. A
// device with content in several states has the first of them as its own.
var States = []struct {
	State  State
	Letter byte
	Name   string
}{
	{NotCovered, '!', "not covered"}, {Files, 'F', "saved as files"}, {Image, 'I', "saved as image"},
	{Excluded, 'x', "excluded"}, {Recreated, 'm', "metadata, recreated"}, {Unallocated, '.', "unallocated"},
}

// rank is the place of a state in States, -1 for an unknown one.
func (s State) rank() int {
	for i, x := range States {
		if x.State == s {
			return i
		}
	}
	return -1
}

// Name is the name of a state for people.
func (s State) Name() string {
	if i := s.rank(); i >= 0 {
		return States[i].Name
	}
	return string(s)
}

// Range is a part of a disk whose bytes are all in one state. Ranges of arrays and striped
// volumes with several states inside are exact to one stripe.
type Range struct {
	Start  quantity.Size `json:"start"` // from the beginning of the disk
	Size   quantity.Size `json:"size"`
	State  State         `json:"state"`
	Device string        `json:"device,omitempty"` // the one that has the content: "vg0/root"
	What   string        `json:"what"`             // "ext4 on /", "partition table"
	// Why is the rule of what is excluded, or the reason why it is not covered.
	Why string `json:"why,omitempty"`
}

// Sum is how many bytes are in a state.
type Sum struct {
	State State         `json:"state"`
	Size  quantity.Size `json:"size"`
}

// Disk is a disk with all its bytes.
type Disk struct {
	Name   string        `json:"name"`
	Model  string        `json:"model,omitempty"`
	Serial string        `json:"serial,omitempty"`
	Size   quantity.Size `json:"size"`
	// Ranges are in order, without gaps, and as long as the disk together.
	Ranges []Range `json:"ranges"`
	Sums   []Sum   `json:"sums"`
}

// Item is a device, a file system, a subvolume, or the rest of a disk.
type Item struct {
	// Kind is "disk", "partition", "rest" (what of a disk is in no partition), "array",
	// "luks", "group", "volume", "filesystem", "subvolume", "swap" or "image".
	Kind  string        `json:"kind"`
	Name  string        `json:"name"`
	On    []string      `json:"on,omitempty"` // devices that it is on
	Size  quantity.Size `json:"size,omitempty"`
	State State         `json:"state"`
	What  string        `json:"what,omitempty"`
	Why   string        `json:"why,omitempty"`
	Sums  []Sum         `json:"sums,omitempty"`
}

// Omitted is what a rule leaves out of a file system.
type Omitted struct {
	Rule   string        `json:"rule"`
	Device string        `json:"device"`
	Paths  int64         `json:"paths"` // that the rule matches, each directory once
	Files  int64         `json:"files"` // at and below them, all but directories
	Size   quantity.Size `json:"size"`  // on the disk
}

// Report is what becomes of a machine's disks.
type Report struct {
	Version  int    `json:"version"`
	Hostname string `json:"hostname"`
	Disks    []Disk `json:"disks"`
	Items    []Item `json:"items"`
	// Exclude are the rules by which archives leave files out.
	Exclude []string `json:"exclude,omitempty"`
	// Omitted is what rules leave out of file systems, where that was measured.
	Omitted []Omitted `json:"omitted,omitempty"`
	// LeftOut and NotCovered list for people what is left out by a rule and what is not
	// covered, with what has no bytes of its own on a disk.
	LeftOut    []string `json:"leftOut,omitempty"`
	NotCovered []string `json:"notCovered,omitempty"`
}

// Marks is what a backup's plan knows beside its layout.
type Marks struct {
	// Lacking are the devices of file systems that are excluded because their files can't
	// be read, and not by a rule.
	Lacking map[string]bool
	// Rules are those by which entries of layout.Unsupported are left out, by index.
	Rules map[int]string
	// Missing are parts of file systems that could not be archived.
	Missing                      []Part
	Exclude, LeftOut, NotCovered []string
	// Omitted is what rules leave out; nil if that was not measured.
	Omitted []Omitted
}

// Part is a file system or what is mounted of it: layout.Filesystem.Parts.
type Part struct{ Device, Mount string }

// Of accounts for the disks of a layout. It fails, with the disk and the place, if the
// ranges of a disk are not exactly its bytes.
func Of(l *layout.Layout, m Marks) (*Report, error) {
	c := &counter{Layout: l, marks: m, open: map[string]bool{}, groups: map[string]map[string][]Range{}}
	r := &Report{Version: Version, Hostname: l.Hostname, Exclude: m.Exclude, Omitted: m.Omitted, LeftOut: m.LeftOut, NotCovered: slices.Clone(m.NotCovered)}
	c.needed = l.Needed()
	for i := range l.Disks {
		d := &l.Disks[i]
		ranges := c.settle(c.disk(d), d.Name)
		r.Disks = append(r.Disks, Disk{Name: d.Name, Model: d.Model, Serial: d.Serial, Size: d.Size, Ranges: ranges, Sums: sums(ranges)})
	}
	c.items(r)
	return r, r.Check()
}

// Check reports everything for which the ranges of a disk are not exactly its bytes, joined.
func (r *Report) Check() error {
	var errs []error
	bad := func(d *Disk, format string, a ...any) {
		errs = append(errs, fmt.Errorf("cannot account for all of /dev/%s: %s", d.Name, fmt.Sprintf(format, a...)))
	}
	for i := range r.Disks {
		d := &r.Disks[i]
		at, before := quantity.Size(0), "the beginning"
		for _, x := range d.Ranges {
			switch {
			case x.State.rank() < 0:
				bad(d, "unknown state %q of %s", x.State, x.name())
			case x.Size <= 0 || x.Start < 0 || x.Start+x.Size < x.Start:
				bad(d, "%s has %d bytes at %d", x.name(), x.Size, x.Start)
			case x.Start > at:
				bad(d, "a gap of %d bytes at %d between %s and %s", x.Start-at, at, before, x.name())
			case x.Start < at:
				bad(d, "an overlap of %d bytes at %d of %s and %s", at-x.Start, x.Start, before, x.name())
			}
			at, before = max(at, x.Start+x.Size), x.name()
		}
		if at != max(d.Size, 0) {
			bad(d, "%s ends at byte %d, and the disk at %d", before, at, d.Size)
		}
		if !slices.Equal(sums(d.Ranges), d.Sums) {
			bad(d, "the sums are not those of its ranges")
		}
	}
	return errors.Join(errs...)
}

// name names a range for people.
func (x Range) name() string {
	if x.Device == "" {
		return x.What
	}
	return "/dev/" + x.Device + " (" + x.What + ")"
}

// sums adds up ranges by state, in the order of States.
func sums(ranges []Range) []Sum {
	out := []Sum{}
	for _, s := range States {
		n := quantity.Size(0)
		for _, r := range ranges {
			if r.State == s.State {
				n += r.Size
			}
		}
		if n > 0 {
			out = append(out, Sum{s.State, n})
		}
	}
	return out
}

// Lacks names what is not covered: each range, and what has no bytes of its own.
func (r *Report) Lacks() []string {
	out := slices.Clone(r.NotCovered)
	if len(out) > 0 {
		return out // the plan names each device, too
	}
	for _, d := range r.Disks {
		for _, x := range d.Ranges {
			if x.State == NotCovered {
				out = append(out, fmt.Sprintf("%s: %s", cmp.Or(x.Device, d.Name), cmp.Or(x.Why, x.What)))
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Lost gives the amounts that a restore does not bring back, and the rules by which files
// are left out, a line each; nil if that is nothing.
func (r *Report) Lost() (out []string) {
	lost, all := map[State]quantity.Size{}, quantity.Size(0)
	for _, d := range r.Disks {
		all += d.Size
		for _, s := range d.Sums {
			lost[s.State] += s.Size
		}
	}
	if n, x := lost[NotCovered], lost[Excluded]; n+x > 0 {
		out = append(out, fmt.Sprintf("not restored of %s on disks: %s excluded by rules, %s not covered", all, x, n))
	}
	for _, i := range r.Items {
		if i.Kind == "filesystem" && i.State == Files && i.Why != "" {
			out = append(out, fmt.Sprintf("not all of %s (%s): %s", i.Name, i.What, i.Why))
		}
	}
	if len(r.Exclude) > 0 {
		out = append(out, "files left out of the backup by rules: "+strings.Join(r.Exclude, ", "))
	}
	return out
}

// Read reads a report. Unknown fields and versions are refused, and one that does not
// account for all of its disks.
func Read(f io.Reader) (*Report, error) {
	dec := json.NewDecoder(f)
	dec.DisallowUnknownFields()
	r := &Report{}
	if err := dec.Decode(r); err != nil {
		return nil, fmt.Errorf("cannot read coverage: %w", err)
	}
	if r.Version != Version {
		return nil, fmt.Errorf("cannot read coverage: version %d; this program knows %d", r.Version, Version)
	}
	return r, r.Check()
}

// Write writes the report as JSON.
func (r *Report) Write(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}
