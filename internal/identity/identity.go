// Package identity gives a copied system a new identity, so that it can be used beside its
// source: other UUIDs, and nothing that two machines must not share.
package identity

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/bootloader"
	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/lvmtext"
	"github.com/mkcdrec/mkcdrec/internal/sysconf"
	"github.com/mkcdrec/mkcdrec/internal/uuid"
)

// Identity is a layout with new identities.
type Identity struct {
	Layout *layout.Layout
	// Was has the old names of devices that have other names in Layout.
	Was map[string]string
	// Headers are the new UUIDs of LUKS devices, by the device that they are on.
	Headers map[string]string
	// Replace has old and new identities, for the files of the system.
	Replace []bootloader.Identity
	// Kept are devices that keep their UUIDs, since they are copied block by block.
	Kept []string

	seed string
}

// New returns a copy of a layout with other identities: of disks, partitions, file systems,
// swap, LUKS devices, arrays, physical volumes and volume groups, and with other names of
// volume groups, none of which is in taken. The same seed gives the same ones again.
// Labels stay: a system may find its own by them.
func New(was *layout.Layout, seed string, taken []string) (*Identity, error) {
	b, err := json.Marshal(was)
	if err != nil {
		return nil, err
	}
	s := &Identity{Layout: &layout.Layout{}, Was: map[string]string{}, Headers: map[string]string{}, seed: seed}
	if err := json.Unmarshal(b, s.Layout); err != nil {
		return nil, err
	}
	if err := s.renameGroups(taken); err != nil {
		return nil, err
	}
	s.disks()
	s.contents()
	s.Layout.Links = nil // derived from the source's devices
	return s, s.Layout.Validate()
}

// put records that an identity is replaced, and gives the new one.
func (s *Identity) put(old, now string) string {
	if old != "" {
		s.Replace = append(s.Replace, bootloader.Identity{Old: old, New: now})
	}
	return now
}

// disks returns tables and partitions other identities.
func (s *Identity) disks() {
	for i := range s.Layout.Disks {
		d := &s.Layout.Disks[i]
		t := d.Table
		if t == nil {
			continue
		}
		if t.Label == layout.GPT {
			t.GUID = s.put(t.GUID, s.guid(d.Name, t.GUID))
			for j := range t.Partitions {
				p := &t.Partitions[j]
				p.GUID = s.put(p.GUID, s.guid(p.Device, p.GUID))
			}
			continue
		}
		now := fmt.Sprintf("%08x", s.number("disk", d.Name, t.Signature))
		for _, p := range t.Partitions { // their PARTUUIDs
			s.put(fmt.Sprintf("%s-%02x", strings.TrimPrefix(t.Signature, "0x"), p.Number), fmt.Sprintf("%s-%02x", now, p.Number))
		}
		t.Signature = s.put(t.Signature, "0x"+now)
	}
}

// contents returns other identities to what is on devices.
func (s *Identity) contents() {
	l := s.Layout
	for i := range l.Filesystems {
		f := &l.Filesystems[i]
		now := s.uuid(f.Device, f.UUID)
		if fstype.Of(f.Type).ShortUUID {
			n := s.number("volume", f.Device, f.UUID)
			now = fmt.Sprintf("%04X-%04X", n>>16, n&0xffff)
		}
		f.UUID = s.put(f.UUID, now)
	}
	for i := range l.Swap {
		w := &l.Swap[i]
		w.UUID = s.put(w.UUID, s.uuid(w.Device, w.UUID))
	}
	for i := range l.Crypts {
		c := &l.Crypts[i]
		old := c.UUID
		c.UUID = s.put(old, s.uuid(c.Device, old))
		s.put(plain(old), plain(c.UUID)) // as GRUB and udev write it
		s.Headers[c.Device] = c.UUID
	}
	for i := range l.Arrays {
		a := &l.Arrays[i]
		now := plain(s.uuid(a.Name, a.UUID))
		old := strings.ReplaceAll(a.UUID, ":", "")
		a.UUID = s.put(a.UUID, now[:8]+":"+now[8:16]+":"+now[16:24]+":"+now[24:])
		s.put(old, now)
	}
	for _, m := range l.Images {
		if m.UUID != "" {
			s.Kept = append(s.Kept, m.Device)
		}
	}
}

// sum is what identities are made of.
func (s *Identity) sum(parts ...string) [32]byte {
	return sha256.Sum256([]byte(s.seed + "\x00" + strings.Join(parts, "\x00")))
}

func (s *Identity) uuid(parts ...string) string {
	return uuid.From(s.seed + "\x00" + strings.Join(parts, "\x00"))
}

func (s *Identity) guid(parts ...string) string { return strings.ToUpper(s.uuid(parts...)) }

func (s *Identity) number(parts ...string) uint32 {
	b := s.sum(parts...)
	return binary.BigEndian.Uint32(b[:]) | 1 // not 0, which means no signature
}

// lvmID is an id of LVM: 32 characters in groups of 6, 4, 4, 4, 4, 4 and 6;
// lib/uuid/uuid.c of LVM2.
func (s *Identity) lvmID(old string) string {
	const letters = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	out := ""
	for i, c := range s.sum("lvm", old) {
		if slices.Contains([]int{6, 10, 14, 18, 22, 26}, i) {
			out += "-"
		}
		out += string(letters[int(c)%len(letters)]) // not quite uniform, which does no harm
	}
	return out
}

func plain(s string) string { return strings.ReplaceAll(s, "-", "") }

// renameGroups returns volume groups other names and ids, and their volumes and physical
// volumes other ids.
func (s *Identity) renameGroups(others []string) error {
	now := map[string]string{} // of devices
	taken := func(name string) bool {
		return slices.ContainsFunc(s.Layout.VolumeGroup, func(g layout.VolumeGroup) bool { return g.Name == name }) || slices.Contains(others, name)
	}
	for i := range s.Layout.VolumeGroup {
		g := &s.Layout.VolumeGroup[i]
		name := ""
		for n := 2; name == "" || taken(name); n++ {
			name = fmt.Sprintf("%s_%d", g.Name, n)
		}
		ids := map[string]string{}
		id := func(old string) string {
			if ids[plain(old)] == "" {
				ids[plain(old)] = s.lvmID(plain(old))
				s.Replace = append(s.Replace, bootloader.Identity{Old: old, New: ids[plain(old)]}, bootloader.Identity{Old: plain(old), New: plain(ids[plain(old)])})
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
			s.Replace = append(s.Replace, bootloader.Identity{Old: w[0], New: w[1], Prefix: true})
		}
		g.Name = name
	}
	l, err := s.Layout.Renamed(now)
	if err != nil {
		return err
	}
	for old, to := range now {
		s.Was[to] = old
	}
	s.Layout = l
	return nil
}
