package disks

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/blockdev"
	"github.com/mkcdrec/mkcdrec/internal/gpt"
	"github.com/mkcdrec/mkcdrec/internal/mbr"
	"github.com/mkcdrec/mkcdrec/internal/tools"
	"github.com/mkcdrec/mkcdrec/internal/uuid"
)

func partitionCommands() []tools.Command {
	return []tools.Command{
		{Name: "fdisk", Opts: "l/list o/output: b/sector-size: u/units? x/list-details w: W: c? t: L?", Synopsis: "-l [DEVICE]...", Run: fdisk},
		{Name: "sfdisk", Opts: "l/list d/dump J/json r/reorder s/show-size q/quiet n/no-act f/force no-reread no-tell-kernel X/label: w/wipe: W/wipe-partitions: N/partno: delete part-type part-uuid part-label A/activate V/verify F/list-free label-nested: a/append o/output: Y: lock?", Synopsis: "DEVICE [<SCRIPT]", Run: sfdisk},
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
}

func fdisk(e *tools.Env) error {
	if !e.On("l", "x") {
		return errors.New("only -l is supported; sfdisk changes partition tables, restore and gpt as well")
	}
	paths := e.Args
	if len(paths) == 0 {
		list, err := devices(false)
		if err != nil {
			return err
		}
		for _, d := range list {
			if d.kind() != "part" && d.size > 0 {
				paths = append(paths, d.path())
			}
		}
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

// scriptLine is a partition of a script: 0 stands for what is not given.
type scriptLine struct {
	number, start, size    int64
	typ, uuid, name, attrs string
	active                 bool
}

// parsedScript is a script of sfdisk.
type parsedScript struct {
	label, id   string
	first, last int64
	length      int
	lines       []scriptLine
}

const alignment = 1 << 20

// parseScript reads a script or a dump, sfdisk(8), "INPUT FORMATS".
func parseScript(text string, ss int64) (*parsedScript, error) {
	s := &parsedScript{length: 128}
	for n, l := range strings.Split(text, "\n") {
		l = strings.TrimSpace(l)
		if l == "" || l[0] == '#' {
			continue
		}
		head, value, _ := strings.Cut(l, ":")
		value = strings.TrimSpace(value)
		var err error
		switch head {
		case "label":
			s.label = value
		case "label-id":
			s.id = value
		case "first-lba":
			s.first, err = strconv.ParseInt(value, 10, 64)
		case "last-lba":
			s.last, err = strconv.ParseInt(value, 10, 64)
		case "table-length":
			s.length, err = strconv.Atoi(value)
		case "device", "unit", "grain", "sector-size":
		default:
			var p scriptLine
			if p, err = parseLine(l, ss); err == nil {
				s.lines = append(s.lines, p)
			}
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n+1, err)
		}
	}
	return s, nil
}

func parseLine(l string, ss int64) (p scriptLine, err error) {
	if dev, rest, ok := strings.Cut(l, " : "); ok {
		digits := dev[len(strings.TrimRight(strings.TrimSpace(dev), "0123456789")):]
		p.number, err = strconv.ParseInt(strings.TrimSpace(digits), 10, 64)
		if err != nil {
			return p, fmt.Errorf("no partition number in '%s'", dev)
		}
		l = rest
	}
	for i, f := range splitFields(l) {
		k, v, ok := strings.Cut(f, "=")
		k, v = strings.TrimSpace(k), strings.Trim(strings.TrimSpace(v), `"`)
		if !ok && k != "bootable" && k != "*" { // "START,SIZE,TYPE,BOOTABLE"
			if i > 3 {
				return p, fmt.Errorf("unsupported field '%s'", f)
			}
			k, v = []string{"start", "size", "type", "bootable"}[i], k
		}
		switch k {
		case "start":
			p.start, err = sectors(v, ss)
		case "size":
			p.size, err = sectors(v, ss)
		case "type", "Id":
			p.typ = v
		case "uuid":
			p.uuid = strings.ToUpper(v)
		case "name":
			p.name = v
		case "attrs":
			p.attrs = v
		case "bootable", "*":
			p.active = v == "" && ok || !ok && (v == "" || v == "*")
		default:
			err = fmt.Errorf("unsupported field '%s'", k)
		}
		if err != nil {
			return p, err
		}
	}
	return p, nil
}

// splitFields divides at commas that are not in quotes.
func splitFields(s string) []string {
	var out []string
	quoted, from := false, 0
	for i := range len(s) {
		switch {
		case s[i] == '"':
			quoted = !quoted
		case s[i] == ',' && !quoted:
			out = append(out, s[from:i])
			from = i + 1
		}
	}
	return append(out, s[from:])
}

// sectors reads a size: sectors, or bytes with a suffix; "" and "+" are 0, the default.
func sectors(v string, ss int64) (int64, error) {
	v = strings.TrimSpace(v)
	if v == "" || v == "+" || v == "-" {
		return 0, nil
	}
	v = strings.TrimPrefix(v, "+")
	if n, err := strconv.ParseInt(v, 10, 64); err == nil && n >= 0 {
		return n, nil
	}
	n, err := tools.Size(v)
	return n / ss, err
}

// script writes the table that standard input describes.
func script(e *tools.Env) error {
	path := e.Args[0]
	text, err := io.ReadAll(io.LimitReader(e.In, 1<<20))
	if err != nil {
		return err
	}
	f, err := openExclusive(path)
	if err != nil {
		return err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	ss := int64(512)
	if n, err := unix.IoctlGetInt(int(f.Fd()), unix.BLKSSZGET); err == nil && n >= 512 {
		ss = int64(n)
	}
	s, err := parseScript(string(text), ss)
	if err != nil {
		return err
	}
	old, err := readDisk(path)
	if err != nil {
		return err
	}
	switch {
	case s.label != "":
	case e.On("X"):
		s.label = e.Val("X")
	case old.gpt != nil:
		s.label = "gpt"
	default:
		s.label = "dos"
	}
	prepare := map[string]func(*os.File, int64, int64) (func() error, error){"gpt": s.gpt, "dos": s.mbr, "mbr": s.mbr}[s.label]
	if prepare == nil {
		return fmt.Errorf("unsupported label '%s'", s.label)
	}
	write, err := prepare(f, ss, size)
	if err != nil || e.On("n") {
		return err
	}
	if err := errors.Join(write(), f.Sync()); err != nil {
		return err
	}
	if d, err := readDisk(path); err == nil && !e.On("q") {
		d.print(e)
	}
	if st, err := f.Stat(); err != nil || st.Mode().IsRegular() || e.On("no-reread", "no-tell-kernel") {
		return err
	}
	return blockdev.Reread(context.Background(), f)
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

func (s *parsedScript) gpt(f *os.File, ss, size int64) (func() error, error) {
	reserved := (int64(s.length)*128 + ss - 1) / ss
	t := &gpt.Table{GUID: strings.ToUpper(s.id), Entries: s.length, FirstUsable: max(s.first, 2+reserved), LastUsable: s.last}
	if t.GUID == "" {
		t.GUID = strings.ToUpper(uuid.New())
	}
	if s.first == 0 {
		t.FirstUsable = max(alignment/ss, 2+reserved)
	}
	if end := size/ss - 2 - reserved; t.LastUsable == 0 || t.LastUsable > end {
		t.LastUsable = end
	}
	at := t.FirstUsable
	for i, l := range s.lines {
		start, count, err := place(l, &at, t.FirstUsable, t.LastUsable, ss)
		if err != nil {
			return nil, err
		}
		p := gpt.Partition{Number: i + 1, First: start, Last: start + count - 1, Name: l.name, GUID: l.uuid, Type: "0FC63DAF-8483-4772-8E79-3D69D8477DE4"}
		if l.number > 0 {
			p.Number = int(l.number)
		}
		if p.GUID == "" {
			p.GUID = strings.ToUpper(uuid.New())
		}
		if l.typ != "" {
			if p.Type, err = typeGUID(l.typ); err != nil {
				return nil, err
			}
		}
		if p.Attributes, err = parseAttributes(l.attrs); err != nil {
			return nil, err
		}
		t.Partitions = append(t.Partitions, p)
	}
	if err := t.Check(ss, size); err != nil {
		return nil, err
	}
	return func() error { return t.Write(f, ss, size) }, nil
}

// typeGUID is the type that a GUID, a name or a short name means.
func typeGUID(s string) (string, error) {
	if len(s) == 36 {
		return strings.ToUpper(s), nil
	}
	if alias, ok := map[string]string{"swap": "S", "uefi": "U", "lvm": "V", "raid": "R", "linux": "L", "home": "H"}[s]; ok {
		s = alias
	}
	for _, g := range gptTypes {
		if strings.EqualFold(s, g.short) || strings.EqualFold(s, g.name) {
			return g.guid, nil
		}
	}
	return "", fmt.Errorf("unsupported type '%s'", s)
}

func parseAttributes(s string) (v uint64, err error) {
	for _, w := range strings.Fields(strings.ReplaceAll(s, ",", " ")) {
		known := false
		for _, a := range attributeNames {
			if a.name == w {
				v, known = v|1<<a.bit, true
			}
		}
		if n, ok := strings.CutPrefix(w, "GUID:"); ok {
			bit, err := strconv.ParseUint(n, 10, 6)
			if err != nil {
				return 0, err
			}
			v, known = v|1<<bit, true
		}
		if !known {
			return 0, fmt.Errorf("unsupported attribute '%s'", w)
		}
	}
	return v, nil
}

func (s *parsedScript) mbr(f *os.File, ss, size int64) (func() error, error) {
	t := &mbr.Table{}
	if s.id != "" {
		n, err := strconv.ParseUint(s.id, 0, 32)
		if err != nil {
			return nil, fmt.Errorf("invalid label-id '%s'", s.id)
		}
		t.Signature = uint32(n)
	} else {
		var b [4]byte
		if _, err := rand.Read(b[:]); err != nil {
			return nil, err
		}
		t.Signature = uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	}
	last := min(size/ss-1, 1<<32-1)
	at := alignment / ss
	next, logical, extEnd := 1, 5, int64(0)
	for _, l := range s.lines {
		p := mbr.Partition{Number: int(l.number), Type: 0x83, Active: l.active}
		if l.typ != "" {
			short := map[string]string{"L": "83", "S": "82", "E": "5", "X": "85", "U": "ef", "R": "fd", "V": "8e", "swap": "82", "linux": "83"}
			n, err := strconv.ParseUint(strings.TrimPrefix(firstOf(short[l.typ], l.typ), "0x"), 16, 8)
			if err != nil {
				return nil, fmt.Errorf("invalid type '%s'", l.typ)
			}
			p.Type = byte(n)
		}
		end := last
		if inside := extEnd > 0 && (l.number >= 5 || l.number == 0); inside {
			end = extEnd
			if l.start == 0 {
				at = at + alignment/ss // room for its own boot record
			}
			if p.Number == 0 {
				p.Number = logical
			}
			logical++
		} else if p.Number == 0 {
			p.Number = next
		}
		if p.Number < 5 {
			next = p.Number + 1
		}
		var err error
		if p.Start, p.Count, err = place(l, &at, alignment/ss, end, ss); err != nil {
			return nil, err
		}
		if p.Number > 4 {
			p.EBR = p.Start - alignment/ss
		}
		if mbr.Extended(p.Type) {
			at, extEnd = p.Start, p.Start+p.Count-1
		}
		t.Partitions = append(t.Partitions, p)
	}
	if err := t.Check(size / ss); err != nil {
		return nil, err
	}
	return func() error { return t.Write(f, ss) }, nil
}

func firstOf(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func partprobe(e *tools.Env) error {
	paths := e.Args
	if len(paths) == 0 {
		list, err := devices(false)
		if err != nil {
			return err
		}
		for _, d := range list {
			if d.kind() == "disk" && d.size > 0 {
				paths = append(paths, "/dev/"+d.name)
			}
		}
	}
	for _, p := range paths {
		if e.On("s") {
			d, err := readDisk(p)
			if err != nil {
				e.Warn("%v", err)
				continue
			}
			label := "loop"
			if d.gpt != nil {
				label = "gpt"
			} else if d.mbr != nil {
				label = "msdos"
			}
			e.Printf("%s: %s partitions", p, label)
			for _, r := range d.rows() {
				e.Printf(" %d", r.number)
			}
			e.Printf("\n")
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
