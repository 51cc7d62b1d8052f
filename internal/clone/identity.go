package clone

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/bootloader"
	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/lvmtext"
	"github.com/mkcdrec/mkcdrec/internal/superblock"
	"github.com/mkcdrec/mkcdrec/internal/sysconf"
	"github.com/mkcdrec/mkcdrec/internal/uuid"
)

// identity gives the layout other identities, if that is wanted: of disks, partitions, file
// systems, swap, LUKS devices, arrays, physical volumes and volume groups, and other names
// of volume groups. replace has the old and new ones, for the files of the system. Labels
// stay: a system may find its own by them.
func (s *Source) identity(which string) error {
	switch which {
	case Keep:
		return nil
	case New:
	default:
		return exit.Usage(fmt.Errorf("--identity %q is neither keep nor new", which))
	}
	if err := s.renameGroups(); err != nil {
		return err
	}
	l := s.layout
	put := func(old, now string) string {
		if old != "" {
			s.replace = append(s.replace, bootloader.Identity{Old: old, New: now})
		}
		return now
	}
	for i := range l.Disks {
		t := l.Disks[i].Table
		if t == nil {
			continue
		}
		if t.Label == layout.GPT {
			t.GUID = put(t.GUID, upper(uuid.New()))
			for j := range t.Partitions {
				p := &t.Partitions[j]
				p.GUID = put(p.GUID, upper(uuid.New()))
			}
			continue
		}
		now := fmt.Sprintf("%08x", number())
		for _, p := range t.Partitions { // their PARTUUIDs
			put(fmt.Sprintf("%s-%02x", strings.TrimPrefix(t.Signature, "0x"), p.Number), fmt.Sprintf("%s-%02x", now, p.Number))
		}
		t.Signature = put(t.Signature, "0x"+now)
	}
	for i := range l.Filesystems {
		f := &l.Filesystems[i]
		now := uuid.New()
		if f.Type == superblock.TypeVFAT || f.Type == superblock.TypeExFAT {
			n := number()
			now = fmt.Sprintf("%04X-%04X", n>>16, n&0xffff)
		}
		f.UUID = put(f.UUID, now)
	}
	for i := range l.Swap {
		l.Swap[i].UUID = put(l.Swap[i].UUID, uuid.New())
	}
	s.headers = map[string]string{}
	for i := range l.Crypts {
		c := &l.Crypts[i]
		c.UUID = put(c.UUID, uuid.New())
		s.headers[c.Device] = c.UUID
		put(plain(s.replace[len(s.replace)-1].Old), plain(c.UUID)) // as GRUB and udev write it
	}
	for i := range l.Arrays {
		a := &l.Arrays[i]
		now := plain(uuid.New())
		old := plain(strings.ReplaceAll(a.UUID, ":", ""))
		a.UUID = put(a.UUID, now[:8]+":"+now[8:16]+":"+now[16:24]+":"+now[24:])
		put(old, now)
	}
	for _, m := range l.Images {
		if m.UUID != "" {
			s.rep.Warn("%s (%s) keeps its UUID %s: it is copied block by block", m.Device, m.What(), m.UUID)
		}
	}
	l.Links = nil // made of what is others' now
	return nil
}

func upper(s string) string { return strings.ToUpper(s) }

func plain(s string) string { return strings.ReplaceAll(s, "-", "") }

func number() uint32 {
	var b [4]byte
	rand.Read(b[:]) // never fails, by its documentation
	return binary.NativeEndian.Uint32(b[:])
}

// lvmID is a random id of LVM: 32 characters in groups of 6, 4, 4, 4, 4, 4 and 6;
// lib/uuid/uuid.c of LVM2.
func lvmID() string {
	const letters = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	var b [32]byte
	rand.Read(b[:]) // never fails, by its documentation
	out := ""
	for i, c := range b {
		if slices.Contains([]int{6, 10, 14, 18, 22, 26}, i) {
			out += "-"
		}
		out += string(letters[int(c)%len(letters)]) // not quite even, which does no harm
	}
	return out
}

// renameGroups gives volume groups other names and ids, and their volumes and physical
// volumes other ids.
func (s *Source) renameGroups() error {
	now := map[string]string{} // of devices
	taken := func(name string) bool {
		return slices.ContainsFunc(s.layout.VolumeGroup, func(g layout.VolumeGroup) bool { return g.Name == name }) || slices.Contains(s.others, name)
	}
	for i := range s.layout.VolumeGroup {
		g := &s.layout.VolumeGroup[i]
		name := ""
		for n := 2; name == "" || taken(name); n++ {
			name = fmt.Sprintf("%s_%d", g.Name, n)
		}
		ids := map[string]string{}
		id := func(old string) string {
			if ids[plain(old)] == "" {
				ids[plain(old)] = lvmID()
				s.replace = append(s.replace, bootloader.Identity{Old: old, New: ids[plain(old)]}, bootloader.Identity{Old: plain(old), New: plain(ids[plain(old)])})
			}
			return ids[plain(old)]
		}
		t, err := lvmtext.Parse(g.Config)
		if err != nil {
			return fmt.Errorf("volume group %s: %w", g.Name, err)
		}
		vg := t.Get(g.Name)
		if vg == nil {
			return fmt.Errorf("volume group %s: its metadata has another name", g.Name)
		}
		vg.Set("id", id(vg.Str("id")))
		for _, part := range []string{"physical_volumes", "logical_volumes"} {
			for _, v := range vg.Get(part).Sections() {
				v.Set("id", id(v.Str("id")))
			}
		}
		vg.Name = name
		for n := range t.Nodes {
			if t.Nodes[n].Section == vg {
				t.Nodes[n].Key = name
			}
		}
		g.Config, g.UUID = t.String(), id(g.UUID)
		for n := range g.PVs {
			g.PVs[n].UUID = id(g.PVs[n].UUID)
		}
		for n := range g.LVs {
			v := &g.LVs[n]
			v.UUID = id(v.UUID)
			now[g.Name+"/"+v.Name] = name + "/" + v.Name
		}
		// Names of its volumes, in files of the system.
		for _, w := range [][2]string{
			{"/dev/" + g.Name + "/", "/dev/" + name + "/"},
			{"/dev/mapper/" + sysconf.DMName(g.Name, ""), "/dev/mapper/" + sysconf.DMName(name, "")},
			{"rd.lvm.lv=" + g.Name + "/", "rd.lvm.lv=" + name + "/"},
			{"rd.lvm.vg=" + g.Name, "rd.lvm.vg=" + name},
			{"(lvm/" + sysconf.DMName(g.Name, ""), "(lvm/" + sysconf.DMName(name, "")},
			{"'lvm/" + sysconf.DMName(g.Name, ""), "'lvm/" + sysconf.DMName(name, "")},
		} {
			s.replace = append(s.replace, bootloader.Identity{Old: w[0], New: w[1], Prefix: true})
		}
		g.Name = name
	}
	l, err := renamed(s.layout, now)
	if err != nil {
		return err
	}
	for old, to := range now {
		if p := s.paths[old]; p != "" {
			s.paths[to] = p
		}
	}
	s.layout = l
	return nil
}
