package legacy

import (
	"archive/tar"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/klauspost/compress/gzip"

	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/lazyregexp"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/regular"
	"github.com/mkcdrec/mkcdrec/internal/sysconf"
)

// maxRecovery bounds what is read of recovery.tgz, bytes; a real one has some
// hundred KiB.
const maxRecovery = 64 << 20

// recovery reads /etc/recovery as recovery.tgz has it, by base name; files of
// its folders lvm and md as "lvm/NAME". Nil when no volume has one.
func (s *Set) recovery() (map[string][]byte, error) {
	if s.files != nil {
		return s.files, nil
	}
	for _, v := range s.volumes {
		f, err := regular.Open(filepath.Join(v.dir, "recovery.tgz"))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		defer f.Close()
		z, err := gzip.NewReader(f)
		if err != nil {
			return nil, fmt.Errorf("cannot read %s: %w", f.Name(), err)
		}
		out := map[string][]byte{}
		s.recoveryFile, s.paths = f.Name(), map[string]string{}
		t := tar.NewReader(io.LimitReader(z, maxRecovery))
		for {
			h, err := t.Next()
			if err == io.EOF {
				s.files = out
				return out, nil
			}
			if err != nil {
				return nil, fmt.Errorf("cannot read %s: %w", f.Name(), err)
			}
			if h.Typeflag != tar.TypeReg {
				continue
			}
			b, err := io.ReadAll(t)
			if err != nil {
				return nil, fmt.Errorf("cannot read %s: %s: %w", f.Name(), h.Name, err)
			}
			name := path.Base(h.Name)
			if d := path.Base(path.Dir(h.Name)); d == "lvm" || d == "md" {
				name = d + "/" + name
			}
			out[name], s.paths[name] = b, h.Name
		}
	}
	return nil, nil
}

// Layout returns the machine's storage as far as the set has it: disks with MBR
// tables, ext2, ext3, ext4, xfs and swap on partitions. Everything else is
// in its Unsupported list. mkCDrec recorded neither UUIDs nor the geometry of
// file systems: UUIDs in fstab are kept, others are derived from
// the set; geometry is what a boot loader of that time can read.
func (s *Set) Layout() (*layout.Layout, error) {
	files, err := s.recovery()
	if err != nil {
		return nil, err
	}
	if files == nil || files["To_Restore"] == nil {
		return nil, errors.New("cannot read the layout of this backup: no volume has a recovery.tgz with To_Restore; single archives can be read with pastestream -mkcdrec")
	}
	r := &reader{s: s, files: files, l: &layout.Layout{Version: layout.Version, Hostname: "unknown", Boot: layout.Boot{Firmware: layout.BIOS}}}
	for n := range files {
		for _, pre := range []string{"fstab.", "df.", "mtab."} {
			if h, ok := strings.CutPrefix(n, pre); ok && h != "" {
				r.l.Hostname = h
			}
		}
	}
	r.l.Fstab = strings.TrimSpace(string(files["fstab."+r.l.Hostname]))
	if err := r.disks(); err != nil {
		return nil, err
	}
	r.filesystems()
	r.swap()
	r.boot()
	if err := r.l.Validate(); err != nil {
		return nil, fmt.Errorf("cannot use the layout of this backup:\n%w", err)
	}
	return r.l, nil
}

type reader struct {
	s     *Set
	files map[string][]byte
	l     *layout.Layout
}

func (r *reader) unsupported(what, dev, format string, a ...any) {
	r.l.Unsupported = append(r.l.Unsupported, layout.Unsupported{What: what, Device: dev, Reason: fmt.Sprintf(format, a...)})
}

// uuid is the same for the same thing of the same set.
func (r *reader) uuid(of string) string { return r.s.UUID(r.l.Hostname, of) }

// disks reads partitions.DISK, what `sfdisk -d` printed, with size.DISK (KiB)
// and mbr.DISK.
func (r *reader) disks() error {
	var names []string
	for n := range r.files {
		if d, ok := strings.CutPrefix(n, "partitions."); ok && d != "" {
			names = append(names, d)
		}
	}
	slices.Sort(names)
	for _, n := range names {
		d := layout.Disk{Name: strings.ReplaceAll(n, "_", "/"), Model: "disk of a mkCDrec backup", LogicalSector: 512, PhysicalSector: 512}
		if strings.Contains(d.Name, "/") { // cciss/c0d0: two levels are a volume's name here
			r.unsupported(d.Name, d.Name, "disk behind an old RAID controller: its archives can be read with pastestream -mkcdrec")
			continue
		}
		t, err := parseSfdisk(string(r.files["partitions."+n]), d.Name)
		if err != nil {
			return fmt.Errorf("cannot read partitions.%s: %w", n, err)
		}
		if t == nil {
			r.unsupported(d.Name, d.Name, "its partition table is not an MBR")
			continue
		}
		if m := r.files["mbr."+n]; len(m) >= 512 {
			t.Signature = fmt.Sprintf("0x%08x", binary.LittleEndian.Uint32(m[440:]))
		}
		d.Table = t
		if kib, err := strconv.ParseInt(strings.TrimSpace(string(r.files["size."+n])), 10, 64); err == nil {
			d.Size = quantity.Size(kib << 10)
		}
		for _, p := range t.Partitions {
			d.Size = max(d.Size, p.Start+p.Size)
		}
		r.l.Disks = append(r.l.Disks, d)
	}
	return nil
}

var (
	sfdiskLine = lazyregexp.New(`^/dev/(\S+?)\s*:\s*(.*)$`)
	sfdiskPart = lazyregexp.New(`(\d+)$`)
)

// parseSfdisk reads a dump of old or new sfdisk; nil for a table that is not an
// MBR.
func parseSfdisk(text, disk string) (*layout.Table, error) {
	t := &layout.Table{Label: layout.MBR, Signature: "0x00000001"}
	for n, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if k, v, ok := strings.Cut(line, ":"); ok && k == "label" && strings.TrimSpace(v) != "dos" {
			return nil, nil
		}
		g := sfdiskLine().FindStringSubmatch(line)
		if g == nil {
			continue
		}
		bad := func(what string) error { return fmt.Errorf("line %d: %s: %q", n+1, what, line) }
		num := sfdiskPart().FindString(g[1])
		p := layout.Partition{Device: g[1]}
		var err error
		if p.Number, err = strconv.Atoi(num); err != nil || !strings.HasPrefix(g[1], disk) {
			return nil, bad("no partition of " + disk)
		}
		if what := sfdiskFields(&p, g[2]); what != "" {
			return nil, bad(what)
		}
		if p.Size == 0 || p.Type == "0x00" || p.Type == "" {
			continue // an empty entry
		}
		t.Partitions = append(t.Partitions, p)
	}
	return t, placeLogical(t)
}

// sfdiskFields reads "start=63, size=204737, Id=83, bootable" into p, and returns what is
// wrong, or "".
func sfdiskFields(p *layout.Partition, fields string) string {
	for _, f := range strings.Split(fields, ",") {
		k, v, _ := strings.Cut(f, "=")
		k, v = strings.TrimSpace(k), strings.TrimSpace(v)
		switch k {
		case "start", "size":
			x, err := strconv.ParseInt(v, 10, 64)
			if err != nil || x < 0 || x > 1<<40 {
				return "no number of sectors"
			}
			if k == "start" {
				p.Start = quantity.Size(x * 512)
			} else {
				p.Size = quantity.Size(x * 512)
			}
		case "Id", "type":
			x, err := strconv.ParseUint(v, 16, 8)
			if err != nil {
				return "no partition type"
			}
			p.Type = fmt.Sprintf("0x%02x", x)
		case "bootable":
			p.Active = true
		}
	}
	return ""
}

// placeLogical fills in the places of logical partitions' own records, which are not in the
// dump: the first one's is at the start of the extended partition, the others' are behind
// the partition before.
func placeLogical(t *layout.Table) error {
	var ext *layout.Partition
	end := quantity.Size(0)
	for i := range t.Partitions {
		p := &t.Partitions[i]
		switch {
		case p.Number <= 4 && p.Extended():
			ext, end = p, p.Start
		case p.Number > 4 && ext == nil:
			return fmt.Errorf("%s is a logical partition without an extended one", p.Device)
		case p.Number > 4:
			p.EBR, end = end, p.Start+p.Size
		}
	}
	return nil
}

// filesystems are the lines of To_Restore that are on partitions.
func (r *reader) filesystems() {
	labels := r.labels()
	wanted := fstabIDs(r.l.Fstab)
	used := r.used()
	for _, a := range r.s.Archives {
		_, p := r.l.Partition(a.Device)
		switch {
		case a.Cipher != "":
			r.unsupported(a.Mount, a.Device, "%s", r.s.encrypted(a))
			continue
		case a.Raw:
			r.unsupported(a.Mount, a.Device, "%s was saved as an image by dd: put it back with pastestream -mkcdrec %s", cmpOr(a.Type, "it"), a.Mount)
			continue
		case p == nil:
			kind, recorded := "neither a partition nor on RAID or LVM", []string{"mkfs."}
			if strings.HasPrefix(a.Device, "md") {
				kind, recorded = "on software RAID", []string{"md/buildraid.sh", "md/mdadm-create.sh", "md/mkfs.", "raidtab"}
			} else if strings.Contains(a.Device, "/") {
				kind, recorded = "on LVM", []string{"lvm/pvcreate.", "lvm/vgcreate.sh", "lvm/lvcreate.sh", "lvm/mkfs."}
			}
			r.unsupported(a.Mount, a.Device, "%s is %s, which is not made from backups of mkCDrec: %s", a.Device, kind, r.s.byHand(a, recorded...))
			continue
		}
		f := layout.Filesystem{Device: a.Device, Type: a.Type, Size: p.Size, UUID: r.uuid(a.Device), Label: labels[a.Device], Used: used[a.Mount], Mounts: []layout.Mount{{Path: a.Mount, Options: "rw"}}}
		if w := wanted[a.Mount]; w.uuid != "" {
			f.UUID = w.uuid
		} else if w.label != "" && f.Label == "" {
			f.Label = w.label
		}
		t := fstype.Of(a.Type)
		if t.Legacy == nil {
			r.unsupported(a.Mount, a.Device, "file system of type %q can't be made", a.Type)
			continue
		}
		f.Geometry = t.Legacy(int64(p.Size))
		r.l.Filesystems = append(r.l.Filesystems, f)
	}
}

func cmpOr(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// labels reads mke2label.sh: e2label DEVICE LABEL.
func (r *reader) labels() map[string]string {
	out := map[string]string{}
	for _, line := range strings.Split(string(r.files["mke2label.sh"]), "\n") {
		if f := strings.Fields(line); len(f) >= 3 && path.Base(f[0]) == "e2label" {
			out[strings.TrimPrefix(f[1], "/dev/")] = strings.Trim(f[2], `"'`)
		}
	}
	return out
}

type fsID struct{ uuid, label string }

var uuidForm = lazyregexp.New(`^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$`)

// fstabIDs returns what fstab calls the file systems of its mount points.
func fstabIDs(fstab string) map[string]fsID {
	out := map[string]fsID{}
	for _, e := range sysconf.ParseFstab(fstab).Entries {
		key := e.Path()
		if e.Swap() {
			key = "swap"
		}
		switch r := e.Ref(); {
		case r.Kind == sysconf.UUID && uuidForm().MatchString(r.Value):
			out[key] = fsID{uuid: r.Value}
		case r.Kind == sysconf.Label:
			out[key] = fsID{label: r.Value}
		}
	}
	return out
}

// used reads df.HOST, what `df -kP` printed.
func (r *reader) used() map[string]quantity.Size {
	out := map[string]quantity.Size{}
	for _, line := range strings.Split(string(r.files["df."+r.l.Hostname]), "\n") {
		f := strings.Fields(line)
		if len(f) < 6 {
			continue
		}
		if kib, err := strconv.ParseInt(f[2], 10, 50); err == nil && kib >= 0 {
			out[strings.Join(f[5:], " ")] = quantity.Size(kib << 10)
		}
	}
	return out
}

// swap reads mkswap.sh: mkswap [-c] [-L LABEL] -v1 DEVICE.
func (r *reader) swap() {
	for _, line := range strings.Split(string(r.files["mkswap.sh"]), "\n") {
		f := strings.Fields(line)
		if len(f) < 2 || path.Base(f[0]) != "mkswap" {
			continue
		}
		dev := strings.TrimPrefix(f[len(f)-1], "/dev/")
		_, p := r.l.Partition(dev)
		if p == nil {
			r.unsupported(dev, dev, "swap on RAID or LVM, which is not read from mkCDrec backups")
			continue
		}
		s := layout.Swap{Device: dev, UUID: r.uuid(dev), Size: p.Size, Active: true}
		if i := slices.Index(f, "-L"); i > 0 && i+2 < len(f) {
			s.Label = strings.Trim(f[i+1], `"'`)
		}
		if w := fstabIDs(r.l.Fstab)["swap"]; w.uuid != "" && len(r.l.Swap) == 0 {
			s.UUID = w.uuid
		}
		r.l.Swap = append(r.l.Swap, s)
	}
}

// boot assumes that the loader is on the disk of /boot or /.
func (r *reader) boot() {
	if !strings.Contains(string(r.files["BOOTLOADER"]), "GRUB") {
		return
	}
	for _, m := range []string{"/boot", "/"} {
		if f := r.l.Mounted(m); f != nil {
			r.l.Boot.Loader, r.l.Boot.Disks = layout.GRUB, r.l.DisksUnder(f.Device)
			return
		}
	}
}
