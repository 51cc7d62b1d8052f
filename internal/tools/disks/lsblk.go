package disks

import (
	"cmp"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/rescue"
	"github.com/mkcdrec/mkcdrec/internal/superblock"
	"github.com/mkcdrec/mkcdrec/internal/sysconf"
	"github.com/mkcdrec/mkcdrec/internal/tools"
)

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

// rescueColumns are those of lsblk without options in the rescue system, where people look for
// the serial number that a restore asks for.
const rescueColumns = "NAME,SIZE,RO,TYPE,FSTYPE,LABEL,SERIAL,MOUNTPOINTS"

func lsblkColumns(e *tools.Env) []string {
	set, _ := e.Last("f", "m", "S", "O")
	cols := lsblkSets[set.Name]
	if set.Name == "" && rescue.Inside() {
		cols = rescueColumns
	}
	if o := strings.ToUpper(e.Val("o")); strings.HasPrefix(o, "+") {
		cols += "," + o[1:]
	} else if o != "" {
		cols = o
	}
	return strings.Split(cols, ",")
}

func lsblk(e *tools.Env) error {
	l := &lsblkRun{Env: e, cols: lsblkColumns(e)}
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
	if list, err = majors(e, list); err != nil {
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

// majors applies -I and -e, which choose devices by their major numbers.
func majors(e *tools.Env, list []*device) ([]*device, error) {
	for _, o := range []string{"I", "e"} {
		v := e.Val(o)
		if v == "" {
			continue
		}
		var nums []int
		for _, w := range strings.Split(v, ",") {
			n, err := strconv.Atoi(w)
			if err != nil {
				return nil, fmt.Errorf("failed to parse list '%s'", v)
			}
			nums = append(nums, n)
		}
		list = slices.DeleteFunc(list, func(d *device) bool { return slices.Contains(nums, int(d.major)) != (o == "I") })
	}
	return list, nil
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
	if s, ok := map[string]string{"KNAME": d.name, "PATH": d.path(), "PKNAME": strings.Join(d.parents[:min(1, len(d.parents))], ""), "MAJ:MIN": fmt.Sprintf("%3d:%-3d", d.major, d.minor), "SERIAL": cmp.Or(d.sys("serial"), d.sys("device/serial")), "HOTPLUG": cmp.Or(d.sys("removable"), "0"), "OWNER": "root", "GROUP": "disk", "MODE": "brw-rw----"}[col]; ok {
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
	top := strings.Join(at[max(0, len(at)-1):], "")
	if s, ok := map[string]string{"FSTYPE": i.Type, "LABEL": i.Label, "UUID": i.UUID, "FSVER": version(i), "MOUNTPOINT": top, "MOUNTPOINTS": strings.Join(at, "\n")}[col]; ok {
		return s, true
	}
	switch col {
	case "PARTUUID":
		return d.partition().uuid, true
	case "PARTLABEL":
		return d.partition().label, true
	case "PARTTYPE":
		return d.partition().typ, true
	}
	return space(col, top)
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
	of := fstype.Of(i.Type).Version
	switch {
	case of != nil:
		return of(&i.Info)
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
