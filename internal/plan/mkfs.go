package plan

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/superblock"
)

// Mkfs gives the command lines that make a file system again on dev, a
// device of size bytes: with the features, sizes, UUID and label that the
// layout has.
func Mkfs(f *layout.Filesystem, dev string, size quantity.Size) ([][]string, error) {
	switch {
	case f.Ext != nil:
		return mkfsExt(f, dev, size), nil
	case f.XFS != nil:
		return [][]string{mkfsXFS(f, dev, size)}, nil
	case f.VFAT != nil:
		return [][]string{mkfsVFAT(f, dev)}, nil
	case f.Btrfs != nil:
		return [][]string{mkfsBtrfs(f, dev)}, nil
	case f.ExFAT != nil:
		return mkfsExFAT(f, dev), nil
	case f.F2FS != nil:
		return [][]string{mkfsF2FS(f, dev)}, nil
	case f.JFS != nil:
		return mkfsJFS(f, dev), nil
	}
	return nil, fmt.Errorf("cannot make file system of type %s", f.Type)
}

// mkfsLeast is the least size of a device that a type's program takes with a geometry,
// as mkfs.btrfs(8) 6.2 reports it; 0 where the geometry itself decides. An XFS that was
// made before mkfs.xfs wanted 300 MiB may be smaller; one that is new may not.
func mkfsLeast(f *layout.Filesystem) quantity.Size {
	switch {
	case f.Btrfs != nil && slices.Contains(f.Btrfs.Features, "mixed-bg"):
		return 16 * quantity.MiB
	case f.Btrfs != nil && len(f.Others) == 0 && (f.Btrfs.Metadata == "" || f.Btrfs.Metadata == "dup"):
		return 109 * quantity.MiB
	case f.Btrfs != nil:
		return 45 * quantity.MiB
	case f.XFS != nil && f.XFS.LogBlocks == 0:
		return 300 * quantity.MiB
	}
	return 0
}

func num[T ~int | ~int64 | ~uint32](v T) string { return strconv.FormatInt(int64(v), 10) }

// mountOpts are the names that tune2fs -o has for s_default_mount_opts.
var mountOpts = []struct {
	bit  uint32
	name string
}{{0x1, "debug"}, {0x2, "bsdgroups"}, {0x4, "user_xattr"}, {0x8, "acl"}, {0x10, "uid16"}, {0x100, "nobarrier"}, {0x200, "block_validity"}, {0x400, "discard"}, {0x800, "nodelalloc"}}

func mkfsExt(f *layout.Filesystem, dev string, size quantity.Size) [][]string {
	e := f.Ext
	a := []string{"mke2fs", "-q", "-F", "-t", f.Type, "-b", num(e.BlockSize), "-I", num(e.InodeSize)}
	if diff := size - f.Size; diff >= 0 && diff < quantity.Size(e.BlockSize)*8 {
		a = append(a, "-N", num(e.Inodes))
	} else {
		// As many for its size as there were, and enough for what was there.
		ratio := max(int64(f.Size)/max(e.Inodes, 1), 1024)
		if need := f.UsedInodes + f.UsedInodes/16 + 64; int64(size)/ratio < need {
			a = append(a, "-N", num(need))
		} else {
			a = append(a, "-i", num(ratio))
		}
	}
	blocks := max(int64(f.Size)/max(e.BlockSize, 1), 1)
	a = append(a, "-m", strconv.FormatFloat(float64(e.Reserved)*100/float64(blocks), 'f', 2, 64))
	// "none" first: nothing of the program's own defaults gets in.
	a = append(a, "-O", strings.Join(append([]string{"none"}, e.Features...), ","))
	if e.ClusterSize > e.BlockSize {
		a = append(a, "-C", num(e.ClusterSize))
	}
	if e.FlexBG > 1 {
		a = append(a, "-G", num(e.FlexBG))
	}
	if e.JournalBlocks > 0 && size <= f.Size+f.Size/4 {
		a = append(a, "-J", "size="+num(max(min(e.JournalBlocks*e.BlockSize, int64(size)/16), 1024*e.BlockSize)>>20))
	}
	var ext []string
	if e.Stride > 0 {
		ext = append(ext, "stride="+num(e.Stride))
	}
	if e.StripeWidth > 0 {
		ext = append(ext, "stripe_width="+num(e.StripeWidth))
	}
	if e.StrictNames {
		ext = append(ext, "encoding_flags=strict")
	}
	a = append(a, "-E", strings.Join(append(ext, "nodiscard"), ","))
	if f.UUID != "" {
		a = append(a, "-U", f.UUID)
	}
	if n := f.ExactLabel(); n != "" {
		a = append(a, "-L", n)
	}
	t := []string{"tune2fs", "-c", num(e.MaxMounts), "-i", num(e.CheckInterval) + "s"}
	if w := map[int]string{1: "continue", 2: "remount-ro", 3: "panic"}[e.Errors]; w != "" {
		t = append(t, "-e", w)
	}
	var opts []string
	for _, o := range mountOpts {
		if e.MountOptions&o.bit != 0 {
			opts = append(opts, o.name)
		} else {
			opts = append(opts, "^"+o.name)
		}
	}
	// Two bits, one word: how data and journal go together.
	if w := []string{"", "journal_data", "journal_data_ordered", "journal_data_writeback"}[e.MountOptions>>5&3]; w != "" {
		opts = append(opts, w)
	}
	t = append(t, "-o", strings.Join(opts, ","), dev)
	return [][]string{append(a, dev), t}
}

func onOff(b bool) string {
	if b {
		return "1"
	}
	return "0"
}

func mkfsXFS(f *layout.Filesystem, dev string, size quantity.Size) []string {
	x := f.XFS
	m := []string{"crc=" + onOff(x.CRC)}
	i := []string{"size=" + num(x.InodeSize)}
	if x.CRC {
		m = append(m, "finobt="+onOff(x.FinoBT), "rmapbt="+onOff(x.RMapBT), "reflink="+onOff(x.Reflink), "inobtcount="+onOff(x.InoBTCount), "bigtime="+onOff(x.BigTime))
		i = append(i, "sparse="+onOff(x.SparseIno))
	}
	// Words that only newer programs know are said only when needed.
	if x.NRExt64 {
		i = append(i, "nrext64=1")
	}
	if x.Exchange {
		i = append(i, "exchange=1")
	}
	if x.Parent {
		i = append(i, "parent=1")
	}
	if f.UUID != "" {
		m = append(m, "uuid="+f.UUID)
	}
	a := []string{"mkfs.xfs", "-q", "-f", "-K", "-m", strings.Join(m, ","), "-i", strings.Join(i, ","), "-b", "size=" + num(x.BlockSize), "-s", "size=" + num(x.SectorSize)}
	n := "size=" + num(x.DirBlock)
	if !x.CRC {
		n += ",ftype=" + onOff(x.FType)
	}
	a = append(a, "-n", n)
	d := []string{}
	if size == f.Size && x.AGCount > 0 && x.LogBlocks > 0 {
		d = append(d, "agcount="+num(x.AGCount))
		a = append(a, "-l", "size="+num(x.LogBlocks)+"b")
	}
	if x.Unit > 0 && x.Width > 0 {
		d = append(d, "sunit="+num(x.Unit*x.BlockSize/512), "swidth="+num(x.Width*x.BlockSize/512))
	}
	if len(d) > 0 {
		a = append(a, "-d", strings.Join(d, ","))
	}
	if n := f.ExactLabel(); n != "" {
		a = append(a, "-L", n)
	}
	return append(a, dev)
}

func mkfsVFAT(f *layout.Filesystem, dev string) []string {
	v := f.VFAT
	a := []string{"mkfs.fat", "-F", num(v.Bits), "-S", num(v.SectorSize), "-s", num(v.SectorsPerCluster), "-R", num(v.Reserved), "-f", num(v.FATs), "-h", num(v.Hidden), "-M", fmt.Sprintf("0x%02X", v.Media)}
	if v.Bits != 32 {
		a = append(a, "-r", num(v.RootEntries))
	}
	if f.UUID != "" {
		a = append(a, "-i", strings.ReplaceAll(f.UUID, "-", ""))
	}
	if n := f.ExactLabel(); n != "" {
		a = append(a, "-n", n)
	}
	return append(a, dev)
}

// mkfsBtrfs leaves out profiles that are not known, or want more devices than
// there are: then the program decides.
func mkfsBtrfs(f *layout.Filesystem, dev string) []string {
	b := f.Btrfs
	a := []string{"mkfs.btrfs", "-q", "-f", "-K", "-n", num(b.NodeSize), "-s", num(b.SectorSize), "--csum", b.Checksum}
	for _, p := range []struct{ flag, profile string }{{"-d", b.Data}, {"-m", b.Metadata}} {
		least := map[string]int{"raid0": 1, "raid1": 2, "raid1c3": 3, "raid1c4": 4, "raid10": 2, "raid5": 2, "raid6": 3}[p.profile]
		if p.profile != "" && len(f.Devs()) >= least {
			a = append(a, p.flag, p.profile)
		}
	}
	// Programs before 6.3 have some of them among those that can be changed
	// later, and newer ones take that, too.
	var feats []string
	runtime := "free-space-tree"
	for _, x := range superblock.BtrfsFeatures {
		has := slices.Contains(b.Features, x)
		switch {
		case x == "mixed-bg" && has:
			a = append(a, "-M")
		case x == "mixed-bg":
		case x == runtime && has:
			a = append(a, "-R", x)
		case x == runtime:
			a = append(a, "-R", "^"+x)
		case has:
			feats = append(feats, x)
		case x != "block-group-tree": // older programs do not know it, and leave it out
			feats = append(feats, "^"+x)
		}
	}
	a = append(a, "-O", strings.Join(feats, ","))
	if f.UUID != "" {
		a = append(a, "-U", f.UUID)
	}
	if n := f.ExactLabel(); n != "" {
		a = append(a, "-L", n)
	}
	return append(a, dev)
}

// labelled adds the label, if there is one.
func labelled(a []string, flag string, f *layout.Filesystem) []string {
	if n := f.ExactLabel(); n != "" {
		a = append(a, flag, n)
	}
	return a
}

func mkfsExFAT(f *layout.Filesystem, dev string) [][]string {
	out := [][]string{append(labelled([]string{"mkfs.exfat", "-c", num(f.ExFAT.Cluster)}, "-L", f), dev)}
	if f.UUID != "" {
		out = append(out, []string{"tune.exfat", "-I", "0x" + strings.ReplaceAll(f.UUID, "-", ""), dev})
	}
	return out
}

func mkfsF2FS(f *layout.Filesystem, dev string) []string {
	a := []string{"mkfs.f2fs", "-q", "-f", "-t", "0", "-s", num(f.F2FS.Segments), "-z", num(f.F2FS.Sections)}
	if len(f.F2FS.Features) > 0 {
		a = append(a, "-O", strings.Join(f.F2FS.Features, ","))
	}
	if f.UUID != "" {
		a = append(a, "-U", f.UUID)
	}
	return append(labelled(a, "-l", f), dev)
}

func mkfsJFS(f *layout.Filesystem, dev string) [][]string {
	out := [][]string{append(labelled([]string{"mkfs.jfs", "-q"}, "-L", f), dev)}
	if f.UUID != "" {
		out = append(out, []string{"jfs_tune", "-U", f.UUID, dev})
	}
	return out
}

// Sfdisk gives a partition table as the text that sfdisk(8) takes.
func Sfdisk(d *layout.Disk) string {
	var b strings.Builder
	t := d.Table
	fmt.Fprintf(&b, "label: %s\n", t.Label)
	if t.Label == layout.GPT {
		fmt.Fprintf(&b, "label-id: %s\nfirst-lba: 34\n", t.GUID)
	} else {
		fmt.Fprintf(&b, "label-id: %s\n", t.Signature)
	}
	fmt.Fprintf(&b, "unit: sectors\nsector-size: %d\n\n", d.LogicalSector)
	for _, p := range t.Partitions {
		fmt.Fprintf(&b, "%s : start=%d, size=%d, ", p.Device, p.Start.Sectors(d.LogicalSector), p.Size.Sectors(d.LogicalSector))
		if t.Label == layout.MBR {
			fmt.Fprintf(&b, "type=%s", strings.TrimPrefix(p.Type, "0x"))
			if p.Active {
				b.WriteString(", bootable")
			}
			b.WriteByte('\n')
			continue
		}
		fmt.Fprintf(&b, "type=%s, uuid=%s", p.Type, p.GUID)
		if p.Name != "" {
			fmt.Fprintf(&b, ", name=%q", p.Name)
		}
		if p.Attributes != 0 {
			fmt.Fprintf(&b, ", attrs=%q", attrs(p.Attributes))
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// attrs names GPT attribute bits as sfdisk does.
func attrs(v uint64) string {
	var out []string
	for bit := range 64 {
		if v>>bit&1 == 0 {
			continue
		}
		switch {
		case bit == 0:
			out = append(out, "RequiredPartition")
		case bit == 1:
			out = append(out, "NoBlockIOProtocol")
		case bit == 2:
			out = append(out, "LegacyBIOSBootable")
		case bit >= 48:
			out = append(out, fmt.Sprintf("GUID:%d", bit))
		}
	}
	return strings.Join(out, " ")
}
