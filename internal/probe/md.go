package probe

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/blockdev"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/superblock"
)

// arrays reads the running software RAID arrays.
func (m Machine) arrays(l *layout.Layout) error {
	dirs, err := filepath.Glob(m.path("/sys/block/md*/md"))
	for _, d := range dirs {
		m.array(l, filepath.Base(filepath.Dir(d)))
	}
	slices.SortFunc(l.Arrays, func(a, b layout.Array) int { return strings.Compare(a.Name, b.Name) })
	return err
}

// array reads a running array: what the kernel reports of it, and the superblock of one member for the rest.
func (m Machine) array(l *layout.Layout, name string) {
	sys := "/sys/block/" + name + "/"
	num := func(p string) int64 {
		v, err := strconv.ParseInt(m.read(sys+p), 10, 64)
		if err != nil {
			return 0
		}
		return v
	}
	switch state := m.read(sys + "md/array_state"); state {
	case "clear", "inactive", "":
		return // its members are told of where they are
	}
	cannot := func(format string, a ...any) {
		l.Unsupported = append(l.Unsupported, layout.Unsupported{What: name, Device: name, Reason: fmt.Sprintf(format, a...)})
	}
	a := layout.Array{Name: name, Level: m.read(sys + "md/level"), Devices: int(num("md/raid_disks")), Metadata: m.read(sys + "md/metadata_version"), Layout: int(num("md/layout")), Chunk: quantity.Size(num("md/chunk_size")), Size: quantity.Size(num("size") * 512)}
	if !slices.Contains(layout.Levels, a.Level) || !slices.Contains(layout.Metadata, a.Metadata) {
		cannot("RAID array of level %s with metadata %s is not supported", a.Level, a.Metadata)
		return
	}
	if parts, err := filepath.Glob(m.path("/sys/block/" + name + "/" + name + "p*")); err == nil && len(parts) > 0 {
		cannot("partitions on a RAID array are not supported")
		return
	}
	m.members(&a, sys+"md/", cannot)
	if len(a.Members) == 0 {
		cannot("RAID array without members")
		return
	}
	if err := m.described(&a); err != nil {
		cannot("%v", err)
		return
	}
	if a.Devices > len(a.Members) {
		l.Unsupported = append(l.Unsupported, layout.Unsupported{What: name, Device: "", Reason: fmt.Sprintf("RAID array is degraded: %d of %d members; it will be restored like that", len(a.Members), a.Devices)})
	}
	l.Arrays = append(l.Arrays, a)
}

// members adds the members and spares that the kernel lists in dir, and reports others.
func (m Machine) members(a *layout.Array, dir string, cannot func(format string, a ...any)) {
	devs, _ := filepath.Glob(m.path(dir + "dev-*")) // fails for bad patterns only
	for _, dd := range devs {
		dev := m.resolve("/dev/" + m.uncovered(strings.ReplaceAll(strings.TrimPrefix(filepath.Base(dd), "dev-"), "!", "/")))
		info := dir + filepath.Base(dd)
		if role, err := strconv.Atoi(m.read(info + "/slot")); err == nil {
			a.Members = append(a.Members, layout.Member{Device: dev, Role: role})
		} else if strings.Contains(m.read(info+"/state"), "spare") {
			a.Spares = append(a.Spares, dev)
		} else {
			cannot("member %s of the RAID array %s is %s", dev, a.Name, cmp.Or(m.read(info+"/state"), "of no use"))
		}
	}
	slices.SortFunc(a.Members, func(x, y layout.Member) int { return cmp.Compare(x.Role, y.Role) })
	slices.Sort(a.Spares)
}

// described adds what only the superblock of a member has.
func (m Machine) described(a *layout.Array) error {
	i, err := m.superblockOf(a.Members[0].Device, m.sizeOf(a.Members[0].Device))
	if err != nil {
		return err
	}
	if i == nil || i.MD == nil {
		return fmt.Errorf("the RAID superblock on %s can't be read", a.Members[0].Device)
	}
	a.Label, a.UUID, a.Bitmap, a.Data = i.MD.Name, i.MD.UUID, i.MD.Bitmap, quantity.Size(i.MD.Data)
	if a.Level != "raid0" && a.Level != "linear" {
		a.Part = quantity.Size(i.MD.Size)
	}
	if a.Level == "raid1" || a.Level == "linear" {
		a.Chunk, a.Layout = 0, 0
	}
	return nil
}

// sizeOf is a device's size as the kernel reports it.
func (m Machine) sizeOf(dev string) quantity.Size {
	n, err := strconv.ParseInt(m.read("/sys/class/block/"+strings.ReplaceAll(dev, "/", "!")+"/size"), 10, 64)
	if err != nil {
		return 0
	}
	return quantity.Size(n * 512)
}

// member reports whether a superblock is that of a member of a known array, and
// reports it when not. Members of running arrays that can't be recorded were
// told of with them.
func (m Machine) member(l *layout.Layout, dev string, i *superblock.Info) {
	held, err := filepath.Glob(m.path("/sys/class/block/" + strings.ReplaceAll(dev, "/", "!") + "/holders/md*"))
	if l.ArrayOf(dev) != nil || err == nil && len(held) > 0 {
		return
	}
	// One that was thrown out of an array: that it is degraded is told already.
	if i.MD != nil && slices.ContainsFunc(l.Arrays, func(a layout.Array) bool { return a.UUID == i.MD.UUID && a.Devices > len(a.Members) }) {
		return
	}
	what := "RAID member that can't be read"
	if i.MD != nil {
		what = "member of the RAID array " + i.MD.UUID + ", which is not running: what is on it can't be read"
	}
	l.Unsupported = append(l.Unsupported, layout.Unsupported{What: dev, Device: dev, Reason: what})
}

// inMemory reports whether a loop device is what an overlay's writes go to; memfd_create(2).
func (m Machine) inMemory(dev string) bool {
	return strings.HasPrefix(m.read("/sys/block/"+dev+"/loop/backing_file"), "/memfd:")
}

// uncovered is the device that an array is read from, where dev is what was put over it so
// that nothing is written: an overlay, or a loop device.
func (m Machine) uncovered(dev string) string {
	if under, ok := strings.CutPrefix(m.read("/sys/block/"+dev+"/loop/backing_file"), "/dev/"); ok {
		return under
	}
	if !blockdev.IsOverlay(m.read("/sys/block/" + dev + "/dm/name")) {
		return dev
	}
	below, err := os.ReadDir(m.path("/sys/block/" + dev + "/slaves"))
	if err != nil {
		return dev
	}
	for _, b := range below {
		if !m.inMemory(b.Name()) {
			return b.Name()
		}
	}
	return dev
}
