// Package disks has the commands that show and change disks, partitions and mounts.
package disks

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/blockdev"
	"github.com/mkcdrec/mkcdrec/internal/gpt"
	"github.com/mkcdrec/mkcdrec/internal/mbr"
	"github.com/mkcdrec/mkcdrec/internal/printable"
	"github.com/mkcdrec/mkcdrec/internal/superblock"
	"github.com/mkcdrec/mkcdrec/internal/tools"
)

// Commands are the commands of this package.
func Commands() []tools.Command {
	return slices.Concat(showCommands(), partitionCommands(), writeCommands())
}

func showCommands() []tools.Command {
	return []tools.Command{
		{Name: "lsblk", Opts: "a/all b/bytes d/nodeps f/fs i/ascii l/list n/noheadings o/output: O/output-all p/paths r/raw P/pairs m/perms S/scsi e/exclude: I/include: T/tree?", Synopsis: "[DEVICE]...", Bad: 1, Run: lsblk},
		{Name: "blkid", Opts: "o/output: s/match-tag: U/uuid: L/label: t/match-token: p/probe l/list-one c/cache-file: g", Synopsis: "[DEVICE]...", Bad: 4, Run: blkid},
		{Name: "findmnt", Opts: "n/noheadings o/output: t/types: l/list r/raw T/target: S/source: M/mountpoint: O/options: P/pairs f/first-only u/notruncate v/nofsroot R/submounts A/all m/mtab k/kernel D/df i/invert", Synopsis: "[DEVICE|MOUNTPOINT]", Run: findmnt},
		{Name: "mount", Opts: mountOptions, Synopsis: "[DEVICE|UUID=X|LABEL=X|HOST:/PATH|//HOST/SHARE] [DIR]", Run: mount},
		{Name: "mountpoint", Opts: "q/quiet d/fs-devno x/devno", Synopsis: "PATH", Run: mountpoint},
		{Name: "losetup", Opts: "a/all f/find d/detach D/detach-all j/associated: l/list o/offset: sizelimit: r/read-only P/partscan show n/noheadings O/output: c/set-capacity b/sector-size: raw v/verbose", Synopsis: "[LOOPDEV [FILE]]", Run: losetup},
		{Name: "dmesg", Opts: "T/ctime w/follow W/follow-new l/level: f/facility: c/read-clear C/clear n/console-level: H/human L/color? k/kernel r/raw x/decode t/notime S/syslog P/nopager D/console-off E/console-on u/userspace time-format:", Run: dmesg},
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

// look recognises what is on a device or in a file; nil for nothing known, or an error.
func look(path string) *superblock.Info {
	i, _ := superblock.ProbePath(path) // what can't be read is shown without its content
	return i
}

// below names the devices that a device is on: the disk of a partition, and what the kernel lists.
func (d *device) below() (names []string) {
	if d.sys("partition") != "" {
		if real, err := filepath.EvalSymlinks("/sys/class/block/" + d.name); err == nil {
			names = append(names, filepath.Base(filepath.Dir(real)))
		}
	}
	if s, err := os.ReadDir("/sys/class/block/" + d.name + "/slaves"); err == nil {
		for _, x := range s {
			names = append(names, x.Name())
		}
	}
	return names
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
		d.parents = d.below()
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
	if size, ss, err = geometry(f); err != nil {
		f.Close()
		return nil, 0, 0, err
	}
	return f, size, ss, nil
}

// geometry is the size of a device or file, and of its sectors, in bytes.
func geometry(f *os.File) (size, ss int64, err error) {
	// A directory has a size without an end on some file systems.
	if st, err := f.Stat(); err == nil && st.IsDir() {
		return 0, 0, &os.PathError{Op: "open", Path: f.Name(), Err: unix.EISDIR}
	}
	return blockdev.Sectors(f)
}

// operands are what was named, or the paths of the devices that pass a test.
func operands(e *tools.Env, keep func(*device) bool) (paths []string, err error) {
	if len(e.Args) > 0 {
		return e.Args, nil
	}
	list, err := devices(false)
	for _, d := range list {
		if keep(d) {
			paths = append(paths, d.path())
		}
	}
	return paths, err
}

// tableWidths are those of the columns, as libsmartcols has them without a heading, too.
func tableWidths(e *tools.Env, head []string, rows [][]string) []int {
	widths := make([]int, len(head))
	for i, h := range head {
		if widths[i] = len(h); h == "SIZE" && e.Name == "lsblk" {
			widths[i] = 5
		}
	}
	for _, r := range rows {
		for i, c := range r {
			widths[i] = max(widths[i], utf8.RuneCountInString(c))
		}
	}
	return widths
}

// table prints rows below a heading; the last column is as wide as it is.
func table(e *tools.Env, head []string, rows [][]string, right map[string]bool, noHead, raw bool) {
	if !noHead {
		rows = append([][]string{head}, rows...)
	}
	widths := tableWidths(e, head, rows)
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
