package plan

import (
	"errors"

	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
)

// Draft is a layout with all that was wished for, in the sizes of the disks that were
// chosen for it. A caller that wants something else, such as the sparse files of a dry
// run, changes it before it calls Plan.
type Draft struct {
	Layout *layout.Layout
	Disks  Mapping
	// Blocks are devices of the layout whose file systems or images are copied from
	// other devices block by block, each with what is copied, "the used blocks".
	Blocks map[string]string
	// Grow are those of Blocks that have an image which is given the size of its device by the
	// program of its type.
	Grow map[string]bool
	// Renumber are those of Blocks with a file system that gets its UUID of the layout: the
	// copy has that of the source.
	Renumber map[string]bool
	// Boot is the boot code that disks of the layout get; nil for one whose system installs
	// its boot loader.
	Boot map[string]*BootCode
}

// Make returns the plan to bring a layout onto the disks that are present, as wished: the
// steps of what Prepare returns, unchanged.
func Make(was *layout.Layout, have []layout.Present, w Wish) (*Plan, error) {
	d, err := Prepare(was, have, w)
	if err != nil {
		return nil, err
	}
	return d.Plan()
}

// Check refuses wishes that no machine can make come true: what they name is not in the layout, or can't be as it is
// wished for.
func Check(was *layout.Layout, w Wish) error {
	l, err := asWished(was, w)
	if err != nil {
		return err
	}
	return errors.Join(knownDisks(l, w), (&fitter{l: l, wish: w}).wishes())
}

// asWished gives the layout with all that is wished for, but for the disks and the sizes.
func asWished(was *layout.Layout, w Wish) (*layout.Layout, error) {
	l, err := convert(was, w.Types)
	if err == nil {
		l, err = forFirmware(l, w.Firmware)
	}
	if err == nil && w.Unmirror {
		l, err = unmirror(l)
	}
	if err == nil {
		l, err = exclude(l, w.Exclude)
	}
	if err == nil {
		l, err = mirror(l, w.Mirror)
	}
	return l, err
}

// Prepare is the door to a plan of whole disks, and Draft.Plan its second half: the caller may
// ask a person or change the draft between the two. The order of the changes is known here
// only: types of file systems, firmware, mirrors removed, disks excluded, mirrors added, disks
// chosen, sizes fitted. An error is a *exit.Refusal, among them an *Undecided where a person has
// to choose a disk with Wish.Map. Only and OnlyImage plan what overwrites a part of a disk.
func Prepare(was *layout.Layout, have []layout.Present, w Wish) (*Draft, error) {
	l, err := asWished(was, w)
	if err != nil {
		return nil, err
	}
	disks, err := mapDisks(l, have, w)
	if err != nil {
		return nil, err
	}
	if l, err = fit(l, disks, w); err != nil {
		return nil, err
	}
	if w.NewLUKS {
		for i := range l.Crypts {
			l.Crypts[i].Header = ""
		}
	}
	return &Draft{Layout: l, Disks: disks}, nil
}

// SizeOf gives the size that a device of the layout gets, bytes.
func (d *Draft) SizeOf(dev string) quantity.Size { return d.Layout.SizeOf(dev) }

// Plan gives the steps.
func (d *Draft) Plan() (*Plan, error) {
	return newPlan(d.Layout, d.Disks, raw{d.Blocks, d.Boot, d.Grow, d.Renumber})
}
