// Package clonezilla reads image directories of Clonezilla (https://clonezilla.org) as
// ocs-sr saves them with "savedisk" and "saveparts": the tables of the disks, what each
// device held, and the images of it. The meaning of files is from ocs-functions of Clonezilla
// 5.18.1, where they are written by save_part_table_mbr_dm_info, save_part_by_partclone,
// save_part_by_dd, output_swap_partition_uuid_label, save_logv and task_saveparts.
//
// The directory may come from anyone: names in it are checked before they are used, lists are
// bounded, and a file is only opened by a name that is in the directory.
package clonezilla

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/lazyregexp"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/sysconf"
)

// Limits of what is read: of one list or table in bytes, and of names in a directory.
const (
	maxText  = 16 << 20
	maxFiles = 1 << 16
)

// Disk is a disk that was saved, or whose partitions were. Its Name is the one it had.
type Disk struct {
	layout.Disk
	// MBR is the first sector, with the boot code; nil if it was not saved.
	MBR []byte
	// Hidden is the file with what was between sector 1 and the first partition of an
	// MBR disk; "" for none.
	Hidden string
	// GPT are the files with copies of a GPT: the first 34 sectors, the last 33, and a
	// backup by `sgdisk -b`; "" for those that are not there.
	GPT [3]string
}

// Kind is the program an image was made with.
type Kind string

// Kinds of images. Only Partclone and Raw are read.
const (
	Partclone Kind = "partclone" // partclone.Open reads the stream
	Raw       Kind = "dd"        // the stream is the content of the device
	NTFSClone Kind = "ntfsclone"
	Partimage Kind = "partimage"
)

// Image is an image of a device.
type Image struct {
	Name        string // of its file, without the suffix of its parts
	Kind        Kind
	Compression string   // "gz", "zst" ...; "uncomp"; "" to be found out from the content
	Files       []string // in order
	Size        int64    // of the files together, bytes
	// Refused is the reason why the image can't be read; "" if it can.
	Refused string
}

// Content is what a device held: an image or, if that is nil, swap.
type Content struct {
	Device string // "sda1", "vg0/root", "mapper/NAME" for the inside of a LUKS device
	Type   string // of file system, as Clonezilla calls it: "ext4", "ntfs", "swap"; "" for unknown
	UUID   string // "" if not known
	Label  string
	Image  *Image
}

// Swap reports whether the device is swap, to be made again.
func (c *Content) Swap() bool { return c.Image == nil }

// Set is an image directory.
type Set struct {
	Disks    []Disk
	Contents []Content
	Groups   []layout.VolumeGroup
	LUKS     []LUKS
	// Whole is set if whole disks were saved, not some of their partitions.
	Whole bool
	// UEFI is set if the machine had started by UEFI.
	UEFI bool
	// Unsupported is what the directory has, or should have, and can't be restored.
	Unsupported []layout.Unsupported

	fsys  fs.FS
	names map[string]fs.DirEntry
	parts []string
	types map[string]string
	ids   map[string]identity
}

// IsSet reports whether a directory looks like an image of Clonezilla: it has a list of
// partitions or disks, or the note on an encrypted image.
func IsSet(fsys fs.FS) bool {
	for _, n := range []string{"parts", "disk", "ecryptfs.info", "gocryptfs.info"} {
		if i, err := fs.Stat(fsys, n); err == nil && i.Mode().IsRegular() {
			_, err = fs.Stat(fsys, "clonezilla-img")
			return err == nil || n == "parts"
		}
	}
	return false
}

// OpenDir is Open for a directory. Links in it are followed, but not out of it.
func OpenDir(dir string) (*Set, error) {
	r, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot read Clonezilla image: %w", err)
	}
	s, err := Open(r.FS())
	if err != nil {
		r.Close()
		return nil, fmt.Errorf("cannot read Clonezilla image %s: %w", dir, err)
	}
	return s, nil // r is closed when nothing refers to it
}

// Single opens one image outside of a directory, by the name of its file, of its first part
// (NAME.aa) or without the suffix of its parts. Its compression is found out from the
// content.
func Single(name string) (*Set, *Image, error) {
	if real, err := filepath.EvalSymlinks(name); err == nil {
		name = real
	}
	dir, base := filepath.Split(name)
	r, err := os.OpenRoot(filepath.Clean(dir))
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read image: %w", err)
	}
	s := &Set{fsys: r.FS(), names: map[string]fs.DirEntry{}}
	list, err := fs.ReadDir(s.fsys, ".")
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read image: %w", err)
	}
	i := &Image{Name: base, Kind: Partclone}
	whole := slices.ContainsFunc(list, func(e fs.DirEntry) bool { return e.Name() == base })
	if n, suffix := cutLast(base); splitSuffix(suffix) && strings.Trim(suffix, "a") == "" {
		i.Name, whole = n, false
	}
	var parts []part
	for _, e := range list {
		n, suffix := cutLast(e.Name())
		switch {
		case whole && e.Name() == base:
			parts = append(parts, part{name: base})
		case !whole && n == i.Name && splitSuffix(suffix):
			parts = append(parts, part{suffix, e.Name()})
		default:
			continue
		}
		s.names[e.Name()] = e
	}
	if len(parts) == 0 {
		return nil, nil, fmt.Errorf("cannot read image: %s: %w", name, fs.ErrNotExist)
	}
	s.files(i, parts)
	return s, i, nil
}

// cutLast cuts a name at its last dot; after is "" if it has no dot.
func cutLast(name string) (before, after string) {
	i := strings.LastIndexByte(name, '.')
	if i < 0 {
		return name, ""
	}
	return name[:i], name[i+1:]
}

// Open reads the lists and tables of an image directory. What single devices lack is in
// Unsupported; an error means that nothing can be restored from it.
func Open(fsys fs.FS) (*Set, error) {
	s := &Set{fsys: fsys, names: map[string]fs.DirEntry{}}
	list, err := fs.ReadDir(fsys, ".")
	if err != nil {
		return nil, err
	}
	if len(list) > maxFiles {
		return nil, fmt.Errorf("%d files; at most %d are read", len(list), maxFiles)
	}
	for _, e := range list {
		n := e.Name()
		if !layout.Text(n) || strings.ContainsAny(n, "/\\") || n == "." || n == ".." {
			return nil, fmt.Errorf("file name %q has characters that no file of Clonezilla has", n)
		}
		s.names[n] = e
	}
	if err := s.refuse(); err != nil {
		return nil, err
	}
	for _, f := range []func() error{s.lists, s.disks, s.groups, s.contents} {
		if err := f(); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// refuse reports what can't be read at all.
func (s *Set) refuse() error {
	switch {
	case s.has("ecryptfs.info"):
		return errors.New("image is encrypted with ecryptfs: decrypt it first with ocs-decrypt-img")
	case s.has("gocryptfs.info"):
		return errors.New("image is encrypted with gocryptfs: decrypt it first with ocs-decrypt-img")
	case s.has("00-pseudo-img-note.txt"):
		return errors.New("image has no content: it was made for cloning from the device (00-pseudo-img-note.txt)")
	case !s.has("parts") && !s.has("disk"):
		return errors.New("is not a Clonezilla image: it has neither a file parts nor disk")
	}
	return nil
}

// Header returns the LUKS header of a device, all that is before its data.
func (s *Set) Header(device string) ([]byte, error) {
	for _, k := range s.LUKS {
		if k.Device == device && k.Header != "" {
			b, err := s.text(k.Header)
			return []byte(b), err
		}
	}
	return nil, fmt.Errorf("cannot read the LUKS header of %s: it was not saved", device)
}

// Gap returns what was between the first sector of an MBR disk and its first partition, nil
// if it was not saved.
func (s *Set) Gap(d *Disk) ([]byte, error) {
	if d.Hidden == "" {
		return nil, nil
	}
	b, err := s.text(d.Hidden)
	return []byte(b), err
}

// Image returns the image of a name that Layout has.
func (s *Set) Image(name string) *Image {
	for _, c := range s.Contents {
		if c.Image != nil && c.Image.Name == name {
			return c.Image
		}
	}
	return nil
}

func (s *Set) has(name string) bool { return s.names[name] != nil }

// existing is name, or "" if there is no such file.
func (s *Set) existing(name string) string {
	if s.has(name) {
		return name
	}
	return ""
}

func (s *Set) unsupported(dev, format string, a ...any) {
	s.Unsupported = append(s.Unsupported, layout.Unsupported{What: dev, Device: dev, Reason: fmt.Sprintf(format, a...)})
}

// open opens a file of the directory.
func (s *Set) open(name string) (fs.File, error) {
	if !s.has(name) {
		return nil, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
	}
	i, err := fs.Stat(s.fsys, name)
	if err != nil {
		return nil, err
	}
	if !i.Mode().IsRegular() { // before it is opened: it may be a pipe
		return nil, fmt.Errorf("%s: is not a file", name)
	}
	return s.fsys.Open(name)
}

// text reads a list; "" if absent.
func (s *Set) text(name string) (string, error) {
	if !s.has(name) {
		return "", nil
	}
	f, err := s.open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxText+1))
	if err == nil && len(b) > maxText {
		err = fmt.Errorf("has more than %d bytes", maxText)
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w", name, err)
	}
	return string(b), nil
}

// parse reads a list and adds its name to errors.
func parse[T any](s *Set, name string, f func(string) (T, error)) (v T, err error) {
	text, err := s.text(name)
	if err != nil {
		return v, err
	}
	if v, err = f(text); err != nil {
		return v, fmt.Errorf("%s: %w", name, err)
	}
	return v, nil
}

// fileName is what the files of a device are called by (to_ocs_dev_img_name).
func fileName(dev string) string {
	return strings.ReplaceAll(strings.TrimPrefix(dev, layout.MapperPrefix), "/", "-")
}

// lists reads the lists that describe the whole image.
func (s *Set) lists() (err error) {
	if s.parts, err = parse(s, "parts", words); err != nil {
		return err
	}
	if s.types, err = parse(s, "dev-fs.list", parseDevFS); err != nil {
		return err
	}
	if s.LUKS, err = parse(s, "luks-dev.list", parseLUKS); err != nil {
		return err
	}
	for i := range s.LUKS {
		l := &s.LUKS[i]
		l.Header = s.existing(fileName(l.Device) + "-luksHeader.bin")
	}
	s.ids, err = parse(s, "blkid.list", func(t string) (map[string]identity, error) { return parseBlkid(t), nil })
	s.UEFI = s.has("efi-nvram.dat")
	for n := range s.names {
		if md, ok := strings.CutSuffix(n, "-detail.info"); ok && strings.HasPrefix(md, "md") {
			s.unsupported(md, "software RAID is not read from Clonezilla images")
		}
	}
	slices.SortFunc(s.Unsupported, func(a, b layout.Unsupported) int { return strings.Compare(a.What, b.What) })
	return err
}

// disks reads the tables.
func (s *Set) disks() error {
	names, err := parse(s, "disk", words)
	if err != nil {
		return err
	}
	s.Whole = s.has("disk")
	if !s.Whole {
		names = s.disksOfParts()
	}
	var lsblk map[string]blockdev
	if s.has("blkdev.json") {
		if lsblk, err = parse(s, "blkdev.json", parseLsblk); err != nil {
			return err
		}
	}
	models, err := parse(s, "blkdev.list", func(t string) (map[string]string, error) { return parseBlkdev(t), nil })
	if err != nil {
		return err
	}
	seen := map[string]bool{}
	for _, n := range names {
		if seen[fileName(n)] {
			return fmt.Errorf("disk: %s is listed twice", n)
		}
		seen[fileName(n)] = true
		if strings.HasPrefix(n, "md") && s.has(fileName(n)+"-detail.info") {
			continue // an array is listed like a disk; it is Unsupported
		}
		d, err := s.disk(n, lsblk[n])
		if err != nil {
			return err
		}
		if d.Model == "" {
			d.Model = models[n]
		}
		s.Disks = append(s.Disks, *d)
	}
	return nil
}

// disksOfParts finds the disks of single partitions: those whose tables are there.
func (s *Set) disksOfParts() (out []string) {
	for n := range s.names {
		f, ok := strings.CutSuffix(n, "-pt.sf")
		if !ok {
			continue
		}
		for _, p := range s.parts {
			if d := p[:min(len(p), len(f))]; fileName(d) == f {
				if _, ok := partitionNumber(d, p); ok && !slices.Contains(out, d) {
					out = append(out, d)
				}
			}
		}
	}
	slices.Sort(out)
	return out
}

func (s *Set) disk(name string, l blockdev) (*Disk, error) {
	f := fileName(name)
	text, err := s.text(f + "-pt.parted")
	if err != nil {
		return nil, err
	}
	p := parseParted(text)
	d := &Disk{Disk: layout.Disk{Name: name, Model: p.model, Size: p.size, LogicalSector: p.logical, PhysicalSector: p.physical}}
	if l.KName != "" {
		d.Serial, d.WWN = l.Serial, l.WWN
		if l.Model != "" {
			d.Model = l.Model
		}
		if l.Size > 0 && d.Size == 0 {
			d.Size = quantity.Size(l.Size)
		}
		if l.Logical >= 512 && l.Logical <= 4096 && text == "" {
			d.LogicalSector = quantity.Size(l.Logical)
			d.PhysicalSector = max(d.LogicalSector, quantity.Size(l.Physical))
		}
	}
	mbr, err := s.text(f + "-mbr")
	if err != nil {
		return nil, err
	}
	if len(mbr) >= 512 {
		d.MBR = []byte(mbr[:512])
	}
	d.Hidden = s.existing(f + "-hidden-data-after-mbr")
	d.GPT = [3]string{s.existing(f + "-gpt-1st"), s.existing(f + "-gpt-2nd"), s.existing(f + "-gpt.gdisk")}
	return d, s.table(d)
}

// imageRE are names of image files: "sda1.ext4-ptcl-img.zst.aa", "sda1.hfs+-img.aa",
// "sda1.dd-img", "sda1.ntfs-img.aa".
var imageRE = lazyregexp.New(`^(.+?)\.([0-9A-Za-z_+]+)(-ptcl)?-img((?:\.[0-9a-z]+)*)$`)

// compressions are the suffixes of get_image_cat_zip_cmd, and those that are read.
var (
	compressions = []string{"gz", "bz2", "lzo", "lzma", "xz", "lzip", "lrz", "lz4", "zst", "uncomp"}
	readable     = []string{"gz", "bz2", "lzma", "xz", "lz4", "zst", "uncomp"}
)

// part is one file of an image.
type part struct{ suffix, name string }

// images finds the images by the names of the devices that their files have.
func (s *Set) images() (map[string]*Image, map[string]string, error) {
	out, types, parts := map[string]*Image{}, map[string]string{}, map[*Image][]part{}
	for n := range s.names {
		g := imageRE().FindStringSubmatch(n)
		if g == nil || strings.HasSuffix(n, ".info") {
			continue
		}
		dev, typ, ptcl := g[1], g[2], g[3] != ""
		i := &Image{Name: n, Kind: Partclone}
		suffixes := strings.Split(g[4], ".")[1:]
		if len(suffixes) > 0 && ptcl && slices.Contains(compressions, suffixes[0]) {
			i.Compression, suffixes = suffixes[0], suffixes[1:]
		}
		p := part{name: n}
		if len(suffixes) == 1 && splitSuffix(suffixes[0]) {
			p.suffix, suffixes = suffixes[0], nil
			i.Name = strings.TrimSuffix(n, "."+p.suffix)
		}
		if len(suffixes) > 0 {
			continue // notes beside an image
		}
		switch {
		case typ == "dd":
			i.Kind, typ = Raw, ""
		case typ == "ntfs" && !ptcl:
			i.Kind = NTFSClone
		}
		if o := out[dev]; o == nil {
			out[dev], types[dev] = i, typ
		} else if o.Name != i.Name {
			return nil, nil, fmt.Errorf("%s has two images: %s and %s", dev, min(o.Name, i.Name), max(o.Name, i.Name))
		}
		parts[out[dev]] = append(parts[out[dev]], p)
	}
	for i, list := range parts {
		s.files(i, list)
	}
	return out, types, nil
}

// splitSuffix reports whether s is one that split(1) gives to a file: split_suf_len letters
// of drbl-ocs.conf, 2 or, in WebDAV storage, 3.
func splitSuffix(s string) bool {
	return len(s) >= 2 && len(s) <= 5 && !strings.ContainsFunc(s, func(r rune) bool { return r < 'a' || r > 'z' })
}

// files puts the parts of an image in order, and refuses it if one is missing or it can't
// be read.
func (s *Set) files(i *Image, list []part) {
	slices.SortFunc(list, func(a, b part) int { return strings.Compare(a.suffix, b.suffix) })
	next := strings.Repeat("a", len(list[0].suffix))
	if list[len(list)-1].suffix != "" && next == "" {
		i.Refused = fmt.Sprintf("there are both %s and parts of it", i.Name)
	}
	for _, p := range list {
		if p.suffix != next && i.Refused == "" {
			i.Refused = fmt.Sprintf("part %s.%s is missing", i.Name, next)
		}
		next = after(next)
		i.Files = append(i.Files, p.name)
		if info, err := fs.Stat(s.fsys, p.name); err == nil {
			i.Size += info.Size()
		}
	}
	switch {
	case i.Refused != "":
	case i.Kind == NTFSClone:
		i.Refused = "image was made by ntfsclone, which is not supported; restore it with Clonezilla and save it again"
	case i.Kind == Partimage:
		i.Refused = "image was made by partimage, which is not supported; restore it with Clonezilla and save it again"
	case i.Compression != "" && !slices.Contains(readable, i.Compression):
		i.Refused = fmt.Sprintf("compression %s is not supported; convert the image with ocs-cvtimg-comp", i.Compression)
	}
}

// after is the suffix that split(1) gives to the next file.
func after(s string) string {
	b := []byte(s)
	for i := len(b) - 1; i >= 0; i-- {
		if b[i]++; b[i] <= 'z' {
			break
		}
		b[i] = 'a'
	}
	return string(b)
}

// contents finds what each device held.
func (s *Set) contents() error {
	images, types, err := s.images()
	if err != nil {
		return err
	}
	devs := map[string]string{} // by the names of files
	var order []string
	add := func(dev string) error {
		f := fileName(dev)
		if o, ok := devs[f]; ok && o != dev {
			return fmt.Errorf("files of %s and %s have the same name", o, dev)
		} else if !ok {
			devs[f] = dev
			order = append(order, dev)
		}
		return nil
	}
	for _, p := range s.devices() {
		if err := add(p); err != nil {
			return err
		}
	}
	for _, dev := range order {
		if err := s.content(dev, images, types); err != nil {
			return err
		}
	}
	for _, f := range sorted(images) {
		if devs[f] == "" {
			s.unsupported(f, "%s is of a device that is not in the tables and lists of the image", images[f].Name)
		}
	}
	return nil
}

// devices are all that may have an image: partitions and what was listed, disks without
// a table, logical volumes, and the insides of LUKS devices.
func (s *Set) devices() (out []string) {
	for _, d := range s.Disks {
		if d.Table == nil {
			out = append(out, d.Name)
			continue
		}
		for _, p := range d.Table.Partitions {
			out = append(out, p.Device)
		}
	}
	out = append(out, s.parts...)
	for _, g := range s.Groups {
		for _, v := range g.LVs {
			out = append(out, g.Name+"/"+v.Name)
		}
	}
	for _, l := range s.LUKS {
		out = append(out, layout.MapperPrefix+l.Name)
	}
	return out
}

func sorted[T any](m map[string]T) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// content adds what one device held.
func (s *Set) content(dev string, images map[string]*Image, types map[string]string) error {
	f := fileName(dev)
	c := Content{Device: dev, Type: s.types[dev], Image: images[f]}
	id := s.ids[mapperName(dev)]
	c.UUID, c.Label = id.uuid, id.label
	swap := "swappt-" + f + ".info"
	switch {
	case c.Image != nil:
		if types[f] != "" {
			c.Type = types[f]
		}
		if c.Type == "" {
			c.Type = id.typ
		}
		if c.Image.Refused != "" {
			s.unsupported(dev, "%s", c.Image.Refused)
		}
	case s.has(swap):
		var err error
		if id, err = parse(s, swap, parseSwap); err != nil {
			return err
		}
		c.Type, c.UUID, c.Label = "swap", id.uuid, id.label
	case s.has(f+".aa") || s.has(f+".000") || s.has(f) && slices.Contains(s.parts, dev):
		c.Image = &Image{Name: f, Kind: Partimage}
		s.files(c.Image, []part{{name: f}})
		s.unsupported(dev, "%s", c.Image.Refused)
	case s.expected(dev):
		s.unsupported(dev, "there is no image of it")
		return nil
	default:
		return nil
	}
	s.Contents = append(s.Contents, c)
	return nil
}

// expected reports whether a device without an image should have one.
func (s *Set) expected(dev string) bool {
	if s.isPV(dev) || slices.ContainsFunc(s.LUKS, func(l LUKS) bool { return l.Device == dev }) {
		return false
	}
	if slices.Contains(s.parts, dev) || strings.HasPrefix(dev, layout.MapperPrefix) {
		return true
	}
	vg, _, _ := strings.Cut(dev, "/")
	return slices.ContainsFunc(s.Groups, func(g layout.VolumeGroup) bool { return g.Name == vg })
}

// mapperName is what blkid(8) calls a device: a logical volume by its name below
// /dev/mapper, in which hyphens are doubled (lvm(8)).
func mapperName(dev string) string {
	vg, lv, ok := strings.Cut(dev, "/")
	if !ok || vg == "mapper" || vg == "cciss" {
		return dev
	}
	return "mapper/" + sysconf.DMName(vg, lv)
}
