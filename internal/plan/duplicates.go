package plan

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/superblock"
)

// TypeGroup is the type of an Identity that is a volume group.
const TypeGroup = "LVM2_group"

// Identity is something on a device now that systems find by a UUID or name: a file
// system, swap, a physical volume, the member of an array, a volume group.
type Identity struct {
	Device string   // "sdb1"; of a group, any of its physical volumes
	Disks  []string // the disks that it is on
	Type   string   // as package superblock has it, or TypeGroup
	UUID   string   // of a member of an array: the array's
	Name   string   // of a group
}

// String describes it for people.
func (i Identity) String() string {
	what := map[string]string{superblock.TypeLVM: "an LVM physical volume", superblock.TypeMD: "a member of a RAID array", superblock.TypeLUKS: "a LUKS device", fstype.TypeSwap: "swap"}[i.Type]
	switch {
	case i.Type == TypeGroup:
		return fmt.Sprintf("/dev/%s is part of a volume group %s", i.Device, i.Name)
	case what == "":
		what = "a file system of type " + i.Type
	}
	return fmt.Sprintf("/dev/%s holds %s", i.Device, what)
}

// Duplicates compares what the plan makes with what is on disks that stay: have are the
// disks, there is what is on them. Where two of the same would be mixed up or refused by a
// program or the kernel, physical volumes, groups, arrays, btrfs and XFS, err is a *exit.Refusal
// that names all of them; other ones, of which a system takes one or the other, are
// warnings.
func (p *Plan) Duplicates(have []layout.Present, there []Identity) (warnings []string, err error) {
	var errs []error
	made := p.identities()
	for _, i := range there {
		if p.overwrites(i) {
			continue
		}
		for _, m := range made {
			if !same(m, i) {
				continue
			}
			id := i.UUID
			if i.Type == TypeGroup && !strings.EqualFold(m.UUID, i.UUID) {
				id = i.Name
			}
			if fstype.Of(i.Type).Unique || slices.Contains([]string{superblock.TypeLVM, TypeGroup, superblock.TypeMD}, i.Type) {
				errs = append(errs, refuse("%v with the identity %s, which is to be restored on /dev/%s, and both would be mixed up: take that disk out, or give it another identity", i, id, m.Device))
			} else {
				warnings = append(warnings, fmt.Sprintf("%v with the UUID %s, which is to be restored on /dev/%s too: the restored system may take one for the other", i, id, m.Device))
			}
		}
	}
	warnings = append(warnings, p.sameTables(have)...)
	slices.Sort(warnings)
	return slices.Compact(warnings), errors.Join(errs...)
}

func same(a, b Identity) bool {
	if a.Type == TypeGroup && b.Type == TypeGroup && a.Name == b.Name {
		return true
	}
	// Conversions change the type of a file system: what is looked for is its UUID.
	special := func(t string) bool {
		return slices.Contains([]string{superblock.TypeLVM, TypeGroup, superblock.TypeMD, superblock.TypeLUKS}, t)
	}
	return a.UUID != "" && strings.EqualFold(a.UUID, b.UUID) && (a.Type == b.Type || !special(a.Type) && !special(b.Type))
}

// identities are those that the plan makes, with the devices of this machine.
func (p *Plan) identities() []Identity {
	var out []Identity
	add := func(dev, typ, uuid, name string) {
		if to, ok := p.Devices[dev]; ok {
			out = append(out, Identity{Device: to, Type: typ, UUID: uuid, Name: name})
		}
	}
	l := p.Layout
	for _, f := range l.Filesystems {
		add(f.Device, f.Type, f.UUID, "")
	}
	for _, s := range l.Swap {
		add(s.Device, fstype.TypeSwap, s.UUID, "")
	}
	for _, m := range l.Images {
		if m.File != "" && m.Type != "" {
			add(m.Device, m.Type, m.UUID, "")
		}
	}
	for _, a := range l.Arrays {
		add(a.Name, superblock.TypeMD, a.UUID, "")
	}
	for i := range l.Crypts {
		add(l.Crypts[i].Device, superblock.TypeLUKS, l.Crypts[i].UUID, "")
	}
	for _, g := range l.VolumeGroup {
		for _, v := range g.PVs {
			add(v.Device, superblock.TypeLVM, v.UUID, "")
		}
		if len(g.PVs) > 0 {
			add(g.PVs[0].Device, TypeGroup, g.UUID, g.Name)
		}
	}
	return out
}

// overwrites reports whether the plan destroys something that is there: its device, or all
// disks that it is on.
func (p *Plan) overwrites(i Identity) bool {
	gone := map[string]bool{}
	for _, s := range p.Steps {
		if h := s.Head(); h.Destroys {
			gone[h.Device] = true
			if m, ok := s.(*MakeFS); ok {
				for _, o := range m.Others {
					gone[o] = true
				}
			}
		}
	}
	if gone[i.Device] && i.Type != TypeGroup {
		return true
	}
	return len(i.Disks) > 0 && !slices.ContainsFunc(i.Disks, func(d string) bool { return !gone[d] })
}

// sameTables warns of disks that stay with the same identifiers of a table or partition.
func (p *Plan) sameTables(have []layout.Present) []string {
	var out []string
	for _, step := range p.Steps {
		s, ok := step.(*WriteTable)
		if !ok {
			continue
		}
		for _, h := range have {
			if h.Table == nil || slices.ContainsFunc(p.Disks, func(d Disk) bool { return d.New.Name == h.Name }) {
				continue
			}
			d := layout.Disk{Table: s.Table}
			if id := s.Table.GUID + s.Table.Signature; id != "" && strings.EqualFold(id, h.Table.GUID+h.Table.Signature) {
				out = append(out, fmt.Sprintf("the table of /dev/%s has the identifier %s, which /dev/%s gets too: the restored system may take one for the other", h.Name, id, s.Device))
				continue
			}
			for i := range s.Table.Partitions {
				for k := range h.Table.Partitions {
					q := &h.Table.Partitions[k]
					if id := d.PartUUID(&s.Table.Partitions[i]); id != "" && strings.EqualFold(id, h.PartUUID(q)) {
						out = append(out, fmt.Sprintf("/dev/%s has the PARTUUID %s, which /dev/%s gets too: the restored system may take one for the other", q.Device, id, s.Table.Partitions[i].Device))
					}
				}
			}
		}
	}
	return out
}
