package disks

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/gpt"
	"github.com/mkcdrec/mkcdrec/internal/mbr"
	"github.com/mkcdrec/mkcdrec/internal/tools"
)

func partitionCommands() []tools.Command {
	return []tools.Command{
		{Name: "fdisk", Opts: "l/list o/output: u/units? x/list-details w: c? t: L?", Synopsis: "DEVICE | -l [DEVICE]...", Run: fdisk},
		{Name: "sfdisk", Opts: "l/list d/dump J/json r/reorder s/show-size q/quiet n/no-act f/force no-reread no-tell-kernel X/label: w/wipe: N/partno: delete part-type part-uuid part-label A/activate V/verify F/list-free a/append o/output: lock?", Synopsis: "DEVICE [<SCRIPT]", Run: sfdisk},
		{Name: "partprobe", Opts: "d/dry-run s/summary", Synopsis: "[DEVICE]...", Run: partprobe},
	}
}

// gptTypes are names of types of partitions, and the short ones of sfdisk's scripts.
var gptTypes = []struct{ guid, name, short string }{
	{"C12A7328-F81F-11D2-BA4B-00A0C93EC93B", "EFI System", "U"}, {"0FC63DAF-8483-4772-8E79-3D69D8477DE4", "Linux filesystem", "L"},
	{"0657FD6D-A4AB-43C4-84E5-0933C84B4F4F", "Linux swap", "S"}, {"E6D6D379-F507-44C2-A23C-238F2A3DF928", "Linux LVM", "V"},
	{"A19D880F-05FC-4D3B-A006-743F0F84911E", "Linux RAID", "R"}, {"21686148-6449-6E6F-744E-656564454649", "BIOS boot", ""},
	{"933AC7E1-2EB4-4F13-B844-0E14E2AEF915", "Linux home", "H"}, {"4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709", "Linux root (x86-64)", ""},
	{"E3C9E316-0B5C-4DB8-817D-F92DF00215AE", "Microsoft reserved", ""}, {"EBD0A0A2-B9E5-4433-87C0-68B6B72699C7", "Microsoft basic data", ""},
	{"DE94BBA4-06D1-4D40-A16A-BFD50179D6AC", "Windows recovery environment", ""}, {"BC13C2FF-59E6-4262-A352-B275FD6F7172", "Linux extended boot", ""},
	{"CA7D7CCB-63ED-4C53-861C-1742536059CC", "Linux LUKS", ""}, {"3B8F8425-20E0-4F3B-907F-1A25A76F98E8", "Linux server data", ""}, {"9E1A2D38-C612-4316-AA26-8B49521E5A8B", "PowerPC PReP boot", ""},
}

var mbrTypes = map[byte]string{0: "Empty", 1: "FAT12", 4: "FAT16 <32M", 5: "Extended", 6: "FAT16", 7: "HPFS/NTFS/exFAT", 0xb: "W95 FAT32", 0xc: "W95 FAT32 (LBA)", 0xe: "W95 FAT16 (LBA)", 0xf: "W95 Ext'd (LBA)", 0x27: "Hidden NTFS WinRE", 0x82: "Linux swap / Solaris", 0x83: "Linux", 0x85: "Linux extended", 0x8e: "Linux LVM", 0xa5: "FreeBSD", 0xee: "GPT", 0xef: "EFI (FAT-12/16/32)", 0xfd: "Linux raid autodetect"}

func gptType(guid string) string {
	for _, t := range gptTypes {
		if t.guid == guid {
			return t.name
		}
	}
	return "unknown"
}

// disk is a disk or an image with its table.
type disk struct {
	path     string
	size, ss int64
	gpt      *gpt.Table
	mbr      *mbr.Table
}

func readDisk(path string) (*disk, error) {
	f, size, ss, err := openDisk(path)
	if err != nil {
		return nil, fmt.Errorf("cannot open %s: %s", path, tools.Cause(err))
	}
	defer f.Close()
	d := &disk{path: path, size: size, ss: ss}
	if d.gpt, err = gpt.Read(f, ss, size); errors.Is(err, gpt.ErrNone) {
		if d.mbr, err = mbr.Read(f, ss); errors.Is(err, mbr.ErrNone) {
			return d, nil
		}
	}
	return d, err
}

// row is a partition of either kind of table.
type row struct {
	number            int
	name              string
	start, end, count int64
	active            bool
	gpt               *gpt.Partition
	typ               byte
}

func (d *disk) rows() []row {
	name := func(n int) string {
		if c := d.path[len(d.path)-1]; strings.HasPrefix(d.path, "/dev/") && c >= '0' && c <= '9' {
			return fmt.Sprintf("%sp%d", d.path, n)
		}
		return fmt.Sprintf("%s%d", d.path, n)
	}
	var out []row
	if d.gpt != nil {
		for _, p := range d.gpt.Partitions {
			out = append(out, row{p.Number, name(p.Number), p.First, p.Last, p.Last - p.First + 1, false, &p, 0})
		}
	}
	if d.mbr != nil {
		for _, p := range d.mbr.Partitions {
			out = append(out, row{p.Number, name(p.Number), p.Start, p.Start + p.Count - 1, p.Count, p.Active, nil, p.Type})
		}
	}
	return out
}

func iec(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"}
	i, unit := 0, int64(1)
	for n/unit >= 1024 && i < len(units)-1 {
		i, unit = i+1, unit*1024
	}
	t := (n*100 + unit/2) / unit
	s := strconv.FormatInt(t/100, 10)
	if t%100 != 0 {
		s += strings.TrimRight(fmt.Sprintf(".%02d", t%100), "0")
	}
	return s + " " + units[i]
}

func (d *disk) print(e *tools.Env) {
	e.Printf("Disk %s: %s, %d bytes, %d sectors\n", d.path, iec(d.size), d.size, d.size/d.ss)
	if m := (&device{name: strings.TrimPrefix(d.path, "/dev/")}).sys("device/model"); m != "" {
		e.Printf("Disk model: %s\n", m)
	}
	physical, least, best := d.ss, d.ss, d.ss
	if f, err := os.Open(d.path); err == nil {
		for _, x := range []struct {
			req uint
			to  *int64
		}{{unix.BLKPBSZGET, &physical}, {unix.BLKIOMIN, &least}, {unix.BLKIOOPT, &best}} {
			if n, err := unix.IoctlGetInt(int(f.Fd()), x.req); err == nil && n > 0 {
				*x.to = int64(n)
			}
		}
		f.Close()
	}
	e.Printf("Units: sectors of 1 * %d = %d bytes\nSector size (logical/physical): %d bytes / %d bytes\nI/O size (minimum/optimal): %d bytes / %d bytes\n", d.ss, d.ss, d.ss, physical, least, max(best, least))
	switch {
	case d.gpt != nil:
		e.Printf("Disklabel type: gpt\nDisk identifier: %s\n", d.gpt.GUID)
	case d.mbr != nil:
		e.Printf("Disklabel type: dos\nDisk identifier: 0x%08x\n", d.mbr.Signature)
	}
	rows := d.rows()
	if len(rows) == 0 {
		return
	}
	e.Printf("\n")
	head := []string{"Device", "Start", "End", "Sectors", "Size", "Type"}
	if d.mbr != nil {
		head = []string{"Device", "Boot", "Start", "End", "Sectors", "Size", "Id", "Type"}
	}
	var cells [][]string
	for _, r := range rows {
		n := func(v int64) string { return strconv.FormatInt(v, 10) }
		if r.gpt != nil {
			cells = append(cells, []string{r.name, n(r.start), n(r.end), n(r.count), short(r.count * d.ss), gptType(r.gpt.Type)})
			continue
		}
		boot, typ := "", mbrTypes[r.typ]
		if r.active {
			boot = "*"
		}
		if typ == "" {
			typ = "unknown"
		}
		cells = append(cells, []string{r.name, boot, n(r.start), n(r.end), n(r.count), short(r.count * d.ss), strconv.FormatInt(int64(r.typ), 16), typ})
	}
	table(e, head, cells, map[string]bool{"Start": true, "End": true, "Sectors": true, "Size": true, "Id": true}, false, false)
	if !slices.IsSortedFunc(rows, func(a, b row) int { return cmp.Compare(a.start, b.start) }) {
		e.Printf("\nPartition table entries are not in disk order.\n")
	}
}

func fdisk(e *tools.Env) error {
	if !e.On("l", "x") {
		return edit(e)
	}
	paths, err := operands(e, func(d *device) bool { return d.kind() != "part" && d.size > 0 })
	if err != nil {
		return err
	}
	for i, p := range paths {
		d, err := readDisk(p)
		if err != nil {
			e.Warn("%v", err)
			continue
		}
		if i > 0 {
			e.Printf("\n\n")
		}
		d.print(e)
	}
	return nil
}

func sfdisk(e *tools.Env) error {
	e.Ignore("f")
	switch {
	case e.On("l"):
		return fdisk(&tools.Env{Options: mustParse(e), Name: e.Name, Out: e.Out, Err: e.Err, In: e.In, Args: e.Args})
	case e.On("s"):
		return sizes(e)
	}
	if err := e.Need(1, -1); err != nil {
		return err
	}
	if e.On("d") {
		d, err := readDisk(e.Args[0])
		if err != nil {
			return err
		}
		if d.gpt == nil && d.mbr == nil {
			return fmt.Errorf("%s: does not contain a recognized partition table", d.path)
		}
		d.dump(e)
		return nil
	}
	if e.On("J", "r", "N", "delete", "part-type", "part-uuid", "part-label", "A", "F", "a", "V") {
		return errors.New("only -l, -d, -s and a script on standard input are supported")
	}
	return script(e)
}

// mustParse gives the option of fdisk that lists.
func mustParse(e *tools.Env) tools.Options {
	o, _, err := tools.Parse("l", []string{"-l"})
	if err != nil {
		return e.Options
	}
	return o
}

func sizes(e *tools.Env) error {
	for _, p := range e.Args {
		f, size, _, err := openDisk(p)
		if err != nil {
			e.Warn("cannot open %s: %s", p, tools.Cause(err))
			continue
		}
		f.Close()
		e.Printf("%d\n", size/1024)
	}
	return nil
}

func (d *disk) dump(e *tools.Env) {
	if d.gpt != nil {
		e.Printf("label: gpt\nlabel-id: %s\ndevice: %s\nunit: sectors\nfirst-lba: %d\nlast-lba: %d\n", d.gpt.GUID, d.path, d.gpt.FirstUsable, d.gpt.LastUsable)
		if d.gpt.Entries != 128 {
			e.Printf("table-length: %d\n", d.gpt.Entries)
		}
	} else {
		e.Printf("label: dos\nlabel-id: 0x%08x\ndevice: %s\nunit: sectors\n", d.mbr.Signature, d.path)
	}
	e.Printf("sector-size: %d\n\n", d.ss)
	width := 0
	for _, r := range d.rows() {
		width = max(width, utf8.RuneCountInString(r.name))
	}
	for _, r := range d.rows() {
		e.Printf("%-*s : start=%12d, size=%12d, ", width, r.name, r.start, r.count)
		if r.gpt == nil {
			e.Printf("type=%x", r.typ)
			if r.active {
				e.Printf(", bootable")
			}
			e.Printf("\n")
			continue
		}
		e.Printf("type=%s, uuid=%s", r.gpt.Type, r.gpt.GUID)
		if r.gpt.Name != "" {
			e.Printf(", name=\"%s\"", r.gpt.Name)
		}
		if a := attributes(r.gpt.Attributes); a != "" {
			e.Printf(", attrs=\"%s\"", a)
		}
		e.Printf("\n")
	}
}

var attributeNames = []struct {
	bit  int
	name string
}{{0, "RequiredPartition"}, {1, "NoBlockIOProtocol"}, {2, "LegacyBIOSBootable"}}

// attributes are those of a partition as sfdisk writes them.
func attributes(v uint64) string {
	var out []string
	for _, a := range attributeNames {
		if v>>a.bit&1 != 0 {
			out = append(out, a.name)
		}
	}
	for bit := 48; bit < 64; bit++ {
		if v>>bit&1 != 0 {
			out = append(out, fmt.Sprintf("GUID:%d", bit))
		}
	}
	return strings.Join(out, " ")
}

// openExclusive opens a disk that nothing uses, or an image.
func openExclusive(path string) (*os.File, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("cannot open %s: %s", path, tools.Cause(err))
	}
	flags := os.O_RDWR
	if st.Mode()&os.ModeDevice != 0 {
		flags |= unix.O_EXCL
	}
	f, err := os.OpenFile(path, flags, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open %s: %s", path, tools.Cause(err))
	}
	return f, nil
}

// place gives a partition its start and size: behind those before it, at a multiple of
// 1 MiB, to the end of the free space.
func place(p scriptLine, at *int64, first, last, ss int64) (start, count int64, err error) {
	grain := alignment / ss
	if start = p.start; start == 0 {
		start = (max(*at, first) + grain - 1) / grain * grain
	}
	if count = p.size; count == 0 {
		count = (last + 1 - start) / grain * grain
		if p.start != 0 {
			count = last + 1 - start
		}
	}
	if count < 1 || start+count-1 > last {
		return 0, 0, errors.New("no space left for a partition")
	}
	*at = start + count
	return start, count, nil
}

func firstOf(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// summary prints the numbers of the partitions.
func (d *disk) summary(e *tools.Env) {
	label := "loop"
	if d.gpt != nil {
		label = "gpt"
	} else if d.mbr != nil {
		label = "msdos"
	}
	e.Printf("%s: %s partitions", d.path, label)
	for _, r := range d.rows() {
		e.Printf(" %d", r.number)
	}
	e.Printf("\n")
}

func partprobe(e *tools.Env) error {
	paths, err := operands(e, func(d *device) bool { return d.kind() == "disk" && d.size > 0 })
	if err != nil {
		return err
	}
	for _, p := range paths {
		if e.On("s") {
			d, err := readDisk(p)
			if err != nil {
				e.Warn("%v", err)
				continue
			}
			d.summary(e)
		}
		if e.On("d") {
			continue
		}
		f, err := os.Open(p)
		if err == nil {
			err = unix.IoctlSetInt(int(f.Fd()), unix.BLKRRPART, 0)
			f.Close()
		}
		if err != nil && !errors.Is(err, unix.EBUSY) {
			e.Warn("%s: %s", p, tools.Cause(err))
		}
	}
	return nil
}
