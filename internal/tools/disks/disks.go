// Package disks has the commands that show and change disks, partitions and mounts.
package disks

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/gpt"
	"github.com/mkcdrec/mkcdrec/internal/mbr"
	"github.com/mkcdrec/mkcdrec/internal/printable"
	"github.com/mkcdrec/mkcdrec/internal/superblock"
	"github.com/mkcdrec/mkcdrec/internal/sysconf"
	"github.com/mkcdrec/mkcdrec/internal/tools"
)

// Commands are the commands of this package.
func Commands() []tools.Command {
	return slices.Concat(showCommands(), partitionCommands(), writeCommands())
}

func showCommands() []tools.Command {
	return []tools.Command{
		{Name: "lsblk", Opts: "a/all b/bytes d/nodeps f/fs i/ascii l/list n/noheadings o/output: O/output-all p/paths r/raw P/pairs s/inverse t/topology m/perms S/scsi J/json e/exclude: I/include: x/sort: T/tree?", Synopsis: "[DEVICE]...", Bad: 1, Run: lsblk},
		{Name: "blkid", Opts: "o/output: s/match-tag: U/uuid: L/label: t/match-token: p/probe l/list-one c/cache-file: g i/info k/list-filesystems n/match-types: u/usages: w:", Synopsis: "[DEVICE]...", Bad: 4, Run: blkid},
		{Name: "findmnt", Opts: "n/noheadings o/output: t/types: l/list r/raw T/target: S/source: M/mountpoint: a/ascii O/options: P/pairs f/first-only u/notruncate v/nofsroot R/submounts A/all m/mtab k/kernel s/fstab D/df b/bytes J/json i/invert e/evaluate c/canonicalize N:", Synopsis: "[DEVICE|MOUNTPOINT]", Run: findmnt},
		{Name: "mountpoint", Opts: "q/quiet d/fs-devno x/devno", Synopsis: "PATH", Run: mountpoint},
		{Name: "losetup", Opts: "a/all f/find d/detach D/detach-all j/associated: l/list o/offset: sizelimit: r/read-only P/partscan show n/noheadings O/output: J/json c/set-capacity direct-io? b/sector-size: raw v/verbose", Synopsis: "[LOOPDEV [FILE]]", Run: losetup},
		{Name: "dmesg", Opts: "T/ctime w/follow W/follow-new l/level: f/facility: c/read-clear C/clear n/console-level: H/human L/color? k/kernel r/raw x/decode t/notime e/reltime d/show-delta S/syslog P/nopager D/console-off E/console-on u/userspace time-format: since:", Run: dmesg},
	}
}

// device is a block device.
type device struct {
	name     string
	parents  []string
	major    uint32
	minor    uint32
	size     int64 // bytes
	children []*device
	info     *superblock.Info
	looked   bool
	part     partition
	partRead bool
}

// partition is what a table has of a partition.
type partition struct{ uuid, label, typ string }

func (d *device) sys(name string) string {
	b, err := os.ReadFile("/sys/class/block/" + d.name + "/" + name)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

func (d *device) path() string {
	if n := d.sys("dm/name"); n != "" {
		return "/dev/mapper/" + n
	}
	return "/dev/" + d.name
}

// look recognises the content, once.
func (d *device) look() *superblock.Info {
	if !d.looked {
		d.looked = true
		d.info = look("/dev/" + d.name)
	}
	return d.info
}

// look recognises what is on a device or in a file; nil for nothing known.
func look(path string) *superblock.Info {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	size, err := f.Seek(0, 2)
	if err != nil {
		return nil
	}
	i, err := superblock.Probe(f, size)
	if err != nil {
		return nil
	}
	return i
}

// devices lists the block devices of the kernel, those without a parent first.
func devices(all bool) ([]*device, error) {
	es, err := os.ReadDir("/sys/class/block")
	if err != nil {
		return nil, err
	}
	by := map[string]*device{}
	var list []*device
	for _, x := range es {
		d := &device{name: x.Name()}
		if _, err := fmt.Sscanf(d.sys("dev"), "%d:%d", &d.major, &d.minor); err != nil {
			continue
		}
		n, err := strconv.ParseInt(d.sys("size"), 10, 64)
		if err != nil {
			continue
		}
		d.size = n * 512
		if !all && (d.major == 1 || d.size == 0 && !strings.HasPrefix(d.name, "sr") && !strings.HasPrefix(d.name, "zram")) {
			continue
		}
		by[d.name] = d
		list = append(list, d)
	}
	for _, d := range list {
		if d.sys("partition") != "" {
			if real, err := filepath.EvalSymlinks("/sys/class/block/" + d.name); err == nil {
				d.parents = append(d.parents, filepath.Base(filepath.Dir(real)))
			}
		}
		if s, err := os.ReadDir("/sys/class/block/" + d.name + "/slaves"); err == nil {
			for _, x := range s {
				d.parents = append(d.parents, x.Name())
			}
		}
		for _, p := range d.parents {
			if by[p] != nil {
				by[p].children = append(by[p].children, d)
			}
		}
	}
	order := func(l []*device) {
		slices.SortFunc(l, func(a, b *device) int { return cmp.Or(cmp.Compare(a.major, b.major), cmp.Compare(a.minor, b.minor)) })
	}
	order(list)
	for _, d := range list {
		order(d.children)
	}
	return list, nil
}

func (d *device) kind() string {
	switch {
	case d.sys("partition") != "":
		return "part"
	case d.sys("dm/uuid") != "":
		head, _, _ := strings.Cut(strings.ToLower(d.sys("dm/uuid")), "-")
		switch head {
		case "lvm", "crypt", "mpath", "part":
			return head
		}
		return "dm"
	case d.sys("md/level") != "":
		return d.sys("md/level")
	case strings.HasPrefix(d.name, "loop"):
		return "loop"
	case strings.HasPrefix(d.name, "sr"):
		return "rom"
	}
	return "disk"
}

// partition finds what the table of the parent has of the device.
func (d *device) partition() partition {
	if d.partRead || len(d.parents) == 0 {
		return d.part
	}
	d.partRead = true
	n, err := strconv.Atoi(d.sys("partition"))
	if err != nil {
		return d.part
	}
	d.part = partitionOf("/dev/"+d.parents[0], n)
	return d.part
}

func partitionOf(disk string, n int) partition {
	f, size, ss, err := openDisk(disk)
	if err != nil {
		return partition{}
	}
	defer f.Close()
	if t, err := gpt.Read(f, ss, size); err == nil {
		for _, p := range t.Partitions {
			if p.Number == n {
				return partition{strings.ToLower(p.GUID), p.Name, strings.ToLower(p.Type)}
			}
		}
	} else if t, err := mbr.Read(f, ss); err == nil {
		for _, p := range t.Partitions {
			if p.Number == n {
				return partition{fmt.Sprintf("%08x-%02x", t.Signature, n), "", fmt.Sprintf("0x%x", p.Type)}
			}
		}
	}
	return partition{}
}

// openDisk opens a disk or an image: its size and the size of its sectors, bytes.
func openDisk(path string) (f *os.File, size, ss int64, err error) {
	if f, err = os.Open(path); err != nil {
		return nil, 0, 0, err
	}
	if size, err = f.Seek(0, 2); err != nil {
		f.Close()
		return nil, 0, 0, err
	}
	ss = 512
	if n, err := unix.IoctlGetInt(int(f.Fd()), unix.BLKSSZGET); err == nil && n >= 512 {
		ss = int64(n)
	}
	return f, size, ss, nil
}

// lsblkRun is one run of lsblk.
type lsblkRun struct {
	*tools.Env
	cols   []string
	mounts []sysconf.Mount
	swaps  []sysconf.SwapArea
	rows   [][]string
}

var lsblkSets = map[string]string{"f": "NAME,FSTYPE,FSVER,LABEL,UUID,FSAVAIL,FSUSE%,MOUNTPOINTS", "m": "NAME,SIZE,OWNER,GROUP,MODE", "S": "NAME,HCTL,TYPE,VENDOR,MODEL,REV,SERIAL,TRAN", "": "NAME,MAJ:MIN,RM,SIZE,RO,TYPE,MOUNTPOINTS", "O": "NAME,MAJ:MIN,RM,SIZE,RO,TYPE,FSTYPE,LABEL,UUID,PARTUUID,PARTLABEL,PARTTYPE,MODEL,SERIAL,WWN,TRAN,ROTA,MOUNTPOINTS"}

var lsblkRight = map[string]bool{"MAJ:MIN": true, "RM": true, "SIZE": true, "RO": true, "FSAVAIL": true, "FSUSE%": true, "ROTA": true, "START": true, "LOG-SEC": true, "PHY-SEC": true, "FSSIZE": true, "FSUSED": true, "RA": true, "HOTPLUG": true, "MIN-IO": true}

func lsblk(e *tools.Env) error {
	l := &lsblkRun{Env: e}
	set, _ := e.Last("f", "m", "S", "O")
	l.cols = strings.Split(lsblkSets[set.Name], ",")
	if o := e.Val("o"); strings.HasPrefix(o, "+") {
		l.cols = append(l.cols, strings.Split(strings.ToUpper(o[1:]), ",")...)
	} else if o != "" {
		l.cols = strings.Split(strings.ToUpper(o), ",")
	}
	for _, c := range l.cols {
		if _, ok := l.cell(&device{}, c); !ok {
			return fmt.Errorf("unknown column: %s", c)
		}
	}
	var err error
	if l.mounts, err = sysconf.Mounts(""); err != nil {
		return err
	}
	if l.swaps, err = sysconf.SwapAreas(""); err != nil {
		return err
	}
	list, err := devices(e.On("a"))
	if err != nil {
		return err
	}
	if len(e.Args) > 0 {
		for _, a := range e.Args {
			real, err := filepath.EvalSymlinks(a)
			i := slices.IndexFunc(list, func(d *device) bool { return err == nil && d.name == filepath.Base(real) })
			if i < 0 {
				e.Fault(32, "%s: not a block device", a)
				continue
			}
			l.add(list[i], "", "")
		}
	} else {
		for _, d := range list {
			if !slices.ContainsFunc(list, func(p *device) bool { return slices.Contains(p.children, d) }) {
				l.add(d, "", "")
			}
		}
	}
	if len(l.rows) > 0 {
		l.print()
	}
	return nil
}

// add adds the rows of a device and of those on it; first and next are what is before
// its name and before those of its children.
func (l *lsblkRun) add(d *device, first, next string) {
	var row []string
	lines := 1
	for _, c := range l.cols {
		s, _ := l.cell(d, c)
		if c == "NAME" && !l.On("l", "r", "P") {
			s = first + s
		}
		row = append(row, s)
		lines = max(lines, strings.Count(s, "\n")+1)
	}
	// Several mount points have a line each.
	for i := range lines {
		var r []string
		for j, s := range row {
			parts := strings.Split(s, "\n")
			switch {
			case i < len(parts):
				r = append(r, parts[i])
			case l.cols[j] == "NAME" && len(d.children) > 0 && !l.On("d", "l", "r", "P"):
				r = append(r, next+"│ ")
			case l.cols[j] == "NAME":
				r = append(r, next)
			default:
				r = append(r, "")
			}
		}
		l.rows = append(l.rows, r)
	}
	if l.On("d") {
		return
	}
	for i, c := range d.children {
		branch, below := "├─", "│ "
		if i == len(d.children)-1 {
			branch, below = "└─", "  "
		}
		l.add(c, next+branch, next+below)
	}
}

func (l *lsblkRun) print() {
	if l.On("P") {
		for _, r := range l.rows {
			for i, c := range r {
				r[i] = l.cols[i] + "=" + strconv.Quote(c)
			}
			l.Printf("%s\n", strings.Join(r, " "))
		}
		return
	}
	table(l.Env, l.cols, l.rows, lsblkRight, l.On("n"), l.On("r"))
}

// table prints rows below a heading; the last column is as wide as it is.
func table(e *tools.Env, head []string, rows [][]string, right map[string]bool, noHead, raw bool) {
	if !noHead {
		rows = append([][]string{head}, rows...)
	}
	widths := make([]int, len(head))
	for i, h := range head { // as libsmartcols, without a heading, too
		if widths[i] = len(h); h == "SIZE" && e.Name == "lsblk" {
			widths[i] = 5
		}
	}
	for _, r := range rows {
		for i, c := range r {
			widths[i] = max(widths[i], utf8.RuneCountInString(c))
		}
	}
	for _, r := range rows {
		for i, c := range r {
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c))
			last := i == len(r)-1
			if raw || last && !right[head[i]] {
				pad = ""
			}
			if right[head[i]] {
				c = pad + c
			} else {
				c += pad
			}
			if !utf8Locale() || e.On("i", "ascii") {
				c = strings.NewReplacer("├─", "|-", "└─", "`-", "│ ", "| ").Replace(c)
			}
			if e.Out.WriteString(printable.Clean(c)); !last {
				e.Out.WriteByte(' ')
			}
		}
		e.Out.WriteByte('\n')
	}
}

// utf8Locale reports whether the locale has lines for trees.
func utf8Locale() bool {
	l := cmp.Or(os.Getenv("LC_ALL"), os.Getenv("LC_CTYPE"), os.Getenv("LANG"))
	return strings.Contains(strings.ToUpper(l), "UTF")
}

// cell is a column of lsblk; false if there is no such one.
func (l *lsblkRun) cell(d *device, col string) (string, bool) {
	sys := map[string]string{"RM": "removable", "RO": "ro", "ROTA": "queue/rotational", "LOG-SEC": "queue/logical_block_size", "PHY-SEC": "queue/physical_block_size", "START": "start", "MODEL": "device/model", "VENDOR": "device/vendor", "REV": "device/rev", "WWN": "wwid", "RA": "queue/read_ahead_kb", "SCHED": "queue/scheduler", "STATE": "device/state", "MIN-IO": "queue/minimum_io_size"}
	if f, ok := sys[col]; ok {
		s := d.sys(f)
		if s == "" && (col == "RM" || col == "ROTA" || strings.HasSuffix(col, "SEC")) && len(d.parents) > 0 {
			return l.cell(&device{name: d.parents[0]}, col)
		}
		return s, true
	}
	switch col {
	case "NAME":
		if l.On("p") {
			return d.path(), true
		}
		return filepath.Base(d.path()), true
	case "KNAME":
		return d.name, true
	case "PATH":
		return d.path(), true
	case "PKNAME":
		return strings.Join(d.parents[:min(1, len(d.parents))], ""), true
	case "MAJ:MIN":
		return fmt.Sprintf("%3d:%-3d", d.major, d.minor), true
	case "SIZE":
		if l.On("b") {
			return strconv.FormatInt(d.size, 10), true
		}
		return short(d.size), true
	case "TYPE":
		return d.kind(), true
	case "HCTL":
		return hctl(d), true
	case "TRAN":
		return transport(d), true
	}
	if s, ok := map[string]string{"SERIAL": cmp.Or(d.sys("serial"), d.sys("device/serial")), "HOTPLUG": cmp.Or(d.sys("removable"), "0"), "OWNER": "root", "GROUP": "disk", "MODE": "brw-rw----"}[col]; ok {
		return s, true
	}
	return l.content(d, col)
}

// content are the columns that need a look at what is on the device or where it is mounted.
func (l *lsblkRun) content(d *device, col string) (string, bool) {
	at := l.mountedAt(d)
	i := &superblock.Info{}
	if d.name != "" && slices.Contains([]string{"FSTYPE", "LABEL", "UUID", "FSVER"}, col) && d.look() != nil {
		i = d.look()
	}
	switch col {
	case "FSTYPE":
		return i.Type, true
	case "LABEL":
		return i.Label, true
	case "UUID":
		return i.UUID, true
	case "FSVER":
		return version(i), true
	case "PARTUUID":
		return d.partition().uuid, true
	case "PARTLABEL":
		return d.partition().label, true
	case "PARTTYPE":
		return d.partition().typ, true
	case "MOUNTPOINT":
		return strings.Join(at[max(0, len(at)-1):], ""), true
	case "MOUNTPOINTS":
		return strings.Join(at, "\n"), true
	}
	s, ok := space(col, strings.Join(at[max(0, len(at)-1):], ""))
	return s, ok
}

// space are the columns of a mounted file system's size; "" where nothing is mounted.
func space(col, at string) (string, bool) {
	kind := strings.TrimPrefix(col, "FS")
	if !slices.Contains([]string{"SIZE", "USED", "AVAIL", "USE%"}, kind) {
		return "", false
	}
	var st unix.Statfs_t
	if at == "" || at == "[SWAP]" || unix.Statfs(at, &st) != nil || st.Blocks == 0 {
		return map[bool]string{true: "-"}[col == "USE%" && at != ""], true
	}
	used := st.Blocks - st.Bfree
	if kind == "USE%" {
		return fmt.Sprintf("%.0f%%", float64(used)*100/float64(st.Blocks)), true
	}
	return short(int64(map[string]uint64{"SIZE": st.Blocks, "USED": used, "AVAIL": st.Bavail}[kind]) * st.Frsize), true
}

func (l *lsblkRun) mountedAt(d *device) []string {
	var out []string
	for _, m := range slices.Backward(l.mounts) {
		if m.Dev == fmt.Sprintf("%d:%d", d.major, d.minor) || m.Source == d.path() {
			out = append(out, m.Path)
		}
	}
	for _, s := range l.swaps {
		if s.Path == "/dev/"+d.name {
			out = append(out, "[SWAP]")
		}
	}
	return out
}

// version is the version of the format, where util-linux prints one.
func version(i *superblock.Info) string {
	switch {
	case i.Type == "":
		return ""
	case strings.HasPrefix(i.Type, "ext"):
		return "1.0"
	case i.Type == "swap":
		return "1"
	case i.VFAT != nil:
		return fmt.Sprintf("FAT%d", i.VFAT.Bits)
	case i.LUKS != nil:
		return strconv.Itoa(i.LUKS.Version)
	case i.MD != nil:
		return i.MD.Metadata
	case i.Type == superblock.TypeLVM:
		return "LVM2 001"
	}
	return ""
}

func hctl(d *device) string {
	real, err := filepath.EvalSymlinks("/sys/class/block/" + d.name + "/device")
	if err != nil || strings.Count(filepath.Base(real), ":") != 3 {
		return ""
	}
	return filepath.Base(real)
}

// transport is the bus of a disk by its path in /sys.
func transport(d *device) string {
	real, err := filepath.EvalSymlinks("/sys/class/block/" + d.name)
	if err != nil {
		return ""
	}
	for _, t := range []struct{ part, name string }{{"/usb", "usb"}, {"/nvme", "nvme"}, {"/virtio", "virtio"}, {"/ata", "sata"}, {"/session", "iscsi"}, {"/end_device", "sas"}, {"/rport", "fc"}, {"/mmc", "mmc"}} {
		if strings.Contains(real, t.part) {
			return t.name
		}
	}
	return ""
}

// short is a size as util-linux prints it: 9.5G, 256G, 64M.
func short(n int64) string {
	units := "BKMGTPE"
	i := 0
	f := n * 10
	for f >= 10240 && i < len(units)-1 {
		f /= 1024
		i++
	}
	unit := int64(1) << (10 * i)
	tenths := (n*10 + unit/2) / unit
	if tenths%10 == 0 || i == 0 {
		return fmt.Sprintf("%d%c", tenths/10, units[i])
	}
	return fmt.Sprintf("%d.%d%c", tenths/10, tenths%10, units[i])
}

// tag is one of blkid's.
type tag struct{ name, value string }

// tags are what blkid prints of a device or file.
func tags(path string) []tag {
	var out []tag
	add := func(name, value string) {
		if value != "" {
			out = append(out, tag{name, value})
		}
	}
	if i := look(path); i != nil {
		switch {
		case i.MD != nil:
			add("UUID", mdUUID(i.MD.UUID))
			add("LABEL", i.MD.Name)
		default:
			add("LABEL", i.Label)
			add("UUID", i.UUID)
		}
		block := int64(0)
		switch {
		case i.Ext != nil:
			block = i.Ext.BlockSize
		case i.XFS != nil:
			block = i.XFS.SectorSize
		case i.VFAT != nil:
			block = i.VFAT.SectorSize
		case i.Geometry.Btrfs != nil:
			block = i.Geometry.Btrfs.SectorSize
		}
		if block > 0 {
			add("BLOCK_SIZE", strconv.FormatInt(block, 10))
		}
		add("TYPE", i.Type)
	}
	if len(out) == 0 {
		if f, size, ss, err := openDisk(path); err == nil {
			defer f.Close()
			if t, err := gpt.Read(f, ss, size); err == nil {
				add("PTUUID", strings.ToLower(t.GUID))
				add("PTTYPE", "gpt")
			} else if t, err := mbr.Read(f, ss); err == nil && len(t.Partitions) > 0 {
				add("PTUUID", fmt.Sprintf("%08x", t.Signature))
				add("PTTYPE", "dos")
			}
		}
	}
	d := &device{name: filepath.Base(path)}
	if n, err := strconv.Atoi(d.sys("partition")); err == nil && strings.HasPrefix(path, "/dev/") {
		if real, err := filepath.EvalSymlinks("/sys/class/block/" + d.name); err == nil {
			p := partitionOf("/dev/"+filepath.Base(filepath.Dir(real)), n)
			add("PARTLABEL", p.label)
			add("PARTUUID", p.uuid)
		}
	}
	return out
}

// mdUUID writes the UUID of an array as blkid does.
func mdUUID(s string) string {
	h := strings.ReplaceAll(s, ":", "")
	if len(h) != 32 {
		return s
	}
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

func blkid(e *tools.Env) error {
	paths := e.Args
	if len(paths) == 0 {
		list, err := devices(false)
		if err != nil {
			return err
		}
		for _, d := range list {
			paths = append(paths, d.path())
		}
	}
	key, want, _ := strings.Cut(e.Val("t"), "=")
	format := e.Or("o", "full")
	switch {
	case e.On("U"):
		key, want, format = "UUID", e.Val("U"), "device"
	case e.On("L"):
		key, want, format = "LABEL", e.Val("L"), "device"
	}
	want = strings.Trim(want, `"`)
	found := false
	for _, p := range paths {
		if _, err := os.Stat(p); err != nil && len(e.Args) > 0 && e.On("p") {
			e.Fault(2, "error: %s: %s", p, tools.Cause(err))
			continue
		}
		ts := tags(p)
		if key != "" && !slices.Contains(ts, tag{key, want}) {
			continue
		}
		if e.On("s") {
			ts = slices.DeleteFunc(ts, func(t tag) bool { return !slices.Contains(e.Vals("s"), t.name) })
		}
		if len(ts) == 0 {
			continue
		}
		found = true
		if err := blkidLine(e, format, p, ts); err != nil {
			return err
		}
		if e.On("l", "U", "L") {
			break
		}
	}
	if !found {
		return tools.Status(2)
	}
	return nil
}

func blkidLine(e *tools.Env, format, path string, ts []tag) error {
	clean := func(s string) string { return strings.ReplaceAll(printable.Clean(s), `"`, `\"`) }
	switch format {
	case "device":
		e.Printf("%s\n", path)
	case "value":
		for _, t := range ts {
			e.Printf("%s\n", printable.Clean(t.value))
		}
	case "export", "udev":
		if format == "export" {
			e.Printf("DEVNAME=%s\n", path)
		}
		for _, t := range ts {
			n := t.name
			if format == "udev" {
				n = "ID_FS_" + n
			}
			e.Printf("%s=%s\n", n, strings.ReplaceAll(printable.Clean(t.value), " ", `\ `))
		}
	case "full", "list":
		e.Printf("%s:", path)
		for _, t := range ts {
			e.Printf(" %s=\"%s\"", t.name, clean(t.value))
		}
		e.Printf("\n")
	default:
		return tools.Usage("unsupported output format %s", format)
	}
	return nil
}

// findmntRun is one run of findmnt.
type findmntRun struct {
	*tools.Env
	all  []sysconf.Mount
	cols []string
	rows [][]string
}

func findmnt(e *tools.Env) error {
	f := &findmntRun{Env: e, cols: []string{"TARGET", "SOURCE", "FSTYPE", "OPTIONS"}}
	if o := e.Val("o"); o != "" {
		f.cols = strings.Split(strings.ToUpper(o), ",")
	}
	if e.On("D") {
		f.cols = []string{"SOURCE", "FSTYPE", "SIZE", "USED", "AVAIL", "USE%", "TARGET"}
	}
	for _, c := range f.cols {
		if _, ok := f.cell(sysconf.Mount{}, c); !ok {
			return fmt.Errorf("unknown column: %s", c)
		}
	}
	var err error
	if f.all, err = sysconf.Mounts(""); err != nil {
		return err
	}
	list, tree := f.selected()
	if len(list) == 0 {
		return tools.Status(1)
	}
	if tree && !e.On("l", "r", "P", "D") {
		f.tree(list)
	} else {
		for _, m := range list {
			f.add(m, "")
		}
	}
	if e.On("P") {
		for _, r := range f.rows {
			for i, c := range r {
				r[i] = f.cols[i] + "=" + strconv.Quote(c)
			}
			e.Printf("%s\n", strings.Join(r, " "))
		}
		return nil
	}
	table(e, f.cols, f.rows, map[string]bool{"SIZE": true, "USED": true, "AVAIL": true, "USE%": true, "MAJ:MIN": true, "ID": true}, e.On("n"), e.On("r"))
	return nil
}

// selected gives the mounts that the options ask for, and whether they are all of them.
func (f *findmntRun) selected() (list []sysconf.Mount, tree bool) {
	keep := func(ok func(m sysconf.Mount) bool) {
		list = slices.DeleteFunc(slices.Clone(list), func(m sysconf.Mount) bool { return !ok(m) })
	}
	list, tree = f.all, true
	if t := f.Val("t"); t != "" {
		not := strings.HasPrefix(t, "no")
		types := strings.Split(strings.TrimPrefix(t, "no"), ",")
		keep(func(m sysconf.Mount) bool { return slices.Contains(types, m.Type) != not })
		tree = false
	}
	if o := f.Val("O"); o != "" {
		keep(func(m sysconf.Mount) bool {
			have := strings.Split(options(m), ",")
			return !slices.ContainsFunc(strings.Split(o, ","), func(w string) bool { return !slices.Contains(have, w) })
		})
		tree = false
	}
	if t := f.Val("T"); t != "" {
		real, err := filepath.EvalSymlinks(t)
		if err != nil {
			real = t
		}
		abs, err := filepath.Abs(real)
		keep(func(m sysconf.Mount) bool { return err == nil && m.Path == mountOf(f.all, abs) })
		return list, false
	}
	for _, a := range append(append(f.Vals("S"), f.Vals("M")...), f.Args...) {
		src := a
		if real, err := filepath.EvalSymlinks(a); err == nil {
			src = real
		}
		keep(func(m sysconf.Mount) bool {
			return m.Path == src && !f.On("S") || (m.Source == a || m.Source == src) && !f.On("M")
		})
		tree = false
	}
	if f.On("f") {
		list = list[:min(1, len(list))]
	}
	return list, tree
}

// mountOf is the mount point that a path is below.
func mountOf(ms []sysconf.Mount, path string) string {
	best := ""
	for _, m := range ms {
		if (m.Path == "/" || path == m.Path || strings.HasPrefix(path, m.Path+"/")) && len(m.Path) >= len(best) {
			best = m.Path
		}
	}
	return best
}

func (f *findmntRun) add(m sysconf.Mount, prefix string) {
	var row []string
	for _, c := range f.cols {
		s, _ := f.cell(m, c)
		if c == "TARGET" {
			s = prefix + s
		}
		row = append(row, s)
	}
	f.rows = append(f.rows, row)
}

func (f *findmntRun) tree(list []sysconf.Mount) {
	children := map[int][]sysconf.Mount{}
	ids := map[int]bool{}
	for _, m := range list {
		ids[m.ID] = true
	}
	var roots []sysconf.Mount
	for _, m := range list {
		if ids[m.Parent] && m.Parent != m.ID {
			children[m.Parent] = append(children[m.Parent], m)
		} else {
			roots = append(roots, m)
		}
	}
	var walk func(m sysconf.Mount, first, next string)
	walk = func(m sysconf.Mount, first, next string) {
		f.add(m, first)
		cs := children[m.ID]
		for i, c := range cs {
			if i == len(cs)-1 {
				walk(c, next+"└─", next+"  ")
			} else {
				walk(c, next+"├─", next+"│ ")
			}
		}
	}
	for _, r := range roots {
		walk(r, "", "")
	}
}

// options are those of the mount and of the file system, as mount(8) joins them.
func options(m sysconf.Mount) string {
	have := strings.Split(m.Options, ",")
	for _, o := range strings.Split(m.Super, ",") {
		if o != "rw" && o != "ro" && o != "" && !slices.Contains(have, o) {
			have = append(have, o)
		}
	}
	return strings.Join(have, ",")
}

func (f *findmntRun) cell(m sysconf.Mount, col string) (string, bool) {
	switch col {
	case "TARGET":
		return m.Path, true
	case "SOURCE":
		if m.Root != "/" && m.Root != "" && !f.On("v") {
			return m.Source + "[" + m.Root + "]", true
		}
		return m.Source, true
	case "FSTYPE":
		return m.Type, true
	case "OPTIONS":
		return options(m), true
	case "VFS-OPTIONS":
		return m.Options, true
	case "FS-OPTIONS":
		return m.Super, true
	case "MAJ:MIN":
		return m.Dev, true
	case "ID":
		return strconv.Itoa(m.ID), true
	case "FSROOT":
		return m.Root, true
	case "UUID", "LABEL":
		if i := look(m.Source); i != nil && strings.HasPrefix(m.Source, "/dev/") {
			return map[string]string{"UUID": i.UUID, "LABEL": i.Label}[col], true
		}
		return "", true
	}
	return space(col, m.Path)
}

func mountpoint(e *tools.Env) error {
	if err := e.Need(1, 1); err != nil {
		return err
	}
	p := e.Args[0]
	var st unix.Stat_t
	if err := unix.Stat(p, &st); err != nil {
		if !e.On("q") {
			e.Warn("%s: %s", p, tools.Cause(err))
		}
		return tools.Status(1)
	}
	if e.On("x") {
		if st.Mode&unix.S_IFMT != unix.S_IFBLK {
			return fmt.Errorf("%s: not a block device", p)
		}
		e.Printf("%d:%d\n", unix.Major(st.Rdev), unix.Minor(st.Rdev))
		return nil
	}
	real, err := filepath.EvalSymlinks(p)
	if err == nil {
		real, err = filepath.Abs(real)
	}
	ms, err2 := sysconf.Mounts("")
	if err := errors.Join(err, err2); err != nil {
		return err
	}
	is := slices.ContainsFunc(ms, func(m sysconf.Mount) bool { return m.Path == real })
	switch {
	case is && e.On("d"):
		e.Printf("%d:%d\n", unix.Major(st.Dev), unix.Minor(st.Dev))
	case is && !e.On("q"):
		e.Printf("%s is a mountpoint\n", p)
	case !is && !e.On("q"):
		e.Printf("%s is not a mountpoint\n", p)
	}
	if !is {
		return tools.Status(32)
	}
	return nil
}
