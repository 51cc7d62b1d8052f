package disks

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/blockcopy"
	"github.com/mkcdrec/mkcdrec/internal/ddrescue"
	"github.com/mkcdrec/mkcdrec/internal/interrupt"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/sysconf"
	"github.com/mkcdrec/mkcdrec/internal/tools"
	"github.com/mkcdrec/mkcdrec/internal/uuid"
)

func writeCommands() []tools.Command {
	return []tools.Command{
		{Name: "wipefs", Opts: "a/all f/force n/no-act q/quiet o/offset: t/types: b/backup? i/noheadings O/output: p/parsable J/json lock?", Synopsis: "DEVICE...", Run: wipefs},
		{Name: "mkswap", Opts: "L/label: U/uuid: f/force c/check p/pagesize: v/swapversion: verbose q/quiet", Synopsis: "DEVICE", Run: mkswap},
		{Name: "blkdiscard", Opts: "o/offset: l/length: s/secure z/zeroout f/force v/verbose p/step: q/quiet", Synopsis: "DEVICE", Run: blkdiscard},
		{Name: "badblocks", Opts: "b: c: s v o: e: f i: t: n w p: d: X", Synopsis: "DEVICE [LAST-BLOCK] [FIRST-BLOCK]", Run: badblocks},
		{Name: "ddrescue", Opts: "f/force n/no-scrape d/idirect D/odirect r/retry-passes: b/sector-size: s/size: i/input-position: o/output-position: S/sparse v/verbose q/quiet R/reverse A/try-again M/retrim p/preallocate", Synopsis: "SOURCE TARGET [MAPFILE]", Run: rescueDisk},
		{Name: "umount", Opts: "l/lazy f/force R/recursive a/all v/verbose t/types: n/no-mtab r/read-only d/detach-loop q/quiet A/all-targets", Synopsis: "DIR|DEVICE...", Bad: 1, Run: umount},
		{Name: "eject", Opts: "t/trayclose v/verbose n/noop i/manualeject:", Synopsis: "[DEVICE]", Run: eject},
	}
}

// magic is a signature of a file system or table and where it is, bytes; negative from the end.
type magic struct {
	typ   string
	at    int64
	bytes string
}

func magics() []magic {
	return []magic{
		{"ext4", 0x438, "\x53\xef"}, {"xfs", 0, "XFSB"}, {"btrfs", 0x10040, "_BHRfS_M"}, {"f2fs", 0x400, "\x10\x20\xf5\xf2"}, {"nilfs2", 0x406, "\x34\x34"}, {"jfs", 0x8000, "JFS1"},
		{"vfat", 0x36, "FAT12   "}, {"vfat", 0x36, "FAT16   "}, {"vfat", 0x52, "FAT32   "}, {"ntfs", 3, "NTFS    "}, {"exfat", 3, "EXFAT   "}, {"iso9660", 0x8001, "CD001"}, {"squashfs", 0, "hsqs"}, {"reiserfs", 0x10034, "ReIsEr2Fs"},
		{"swap", 0xff6, "SWAPSPACE2"}, {"LVM2_member", 0x218, "LVM2 001"}, {"LVM2_member", 0x18, "LVM2 001"}, {"crypto_LUKS", 0, "LUKS\xba\xbe"}, {"crypto_LUKS", 0x4000, "SKUL\xba\xbe"},
		{"linux_raid_member", 0x1000, "\xfc\x4e\x2b\xa9"}, {"linux_raid_member", 0, "\xfc\x4e\x2b\xa9"}, {"linux_raid_member", -0x2000, "\xfc\x4e\x2b\xa9"}, {"linux_raid_member", -0x10000, "\xfc\x4e\x2b\xa9"},
		{"zfs_member", 0x20000, "\x0c\xb1\xba\x00\x00\x00\x00\x00"}, {"gpt", 0x200, "EFI PART"}, {"gpt", 0x1000, "EFI PART"}, {"gpt", -0x200, "EFI PART"}, {"gpt", -0x1000, "EFI PART"}, {"dos", 0x1fe, "\x55\xaa"},
	}
}

// signatures finds the magic numbers on a device. The boot signature is that of a FAT or
// an MBR; beside a GPT it is the protective one.
func signatures(f io.ReaderAt, size int64) []magic {
	var out []magic
	for _, m := range magics() {
		if m.at < 0 {
			// MD aligns its place at the end: 8 KiB to 12 KiB before it, on 4 KiB.
			m.at += size
			if m.typ == "linux_raid_member" && m.at > 0 {
				m.at &^= 0xfff
			}
		}
		b := make([]byte, len(m.bytes))
		if m.at < 0 || m.at+int64(len(b)) > size {
			continue
		}
		if _, err := f.ReadAt(b, m.at); err != nil || string(b) != m.bytes {
			continue
		}
		has := func(typ string) bool { return slices.ContainsFunc(out, func(x magic) bool { return x.typ == typ }) }
		if m.typ == "dos" {
			switch {
			case has("gpt"):
				m.typ = "PMBR"
			case has("vfat"):
				m.typ = "vfat"
			case has("ntfs") || has("exfat"):
				continue
			}
		}
		out = append(out, m)
	}
	return out
}

func wipefs(e *tools.Env) error {
	if err := e.Need(1, -1); err != nil {
		return tools.Usage("no device specified")
	}
	var rows [][]string
	for _, p := range e.Args {
		found, err := wipe(e, p)
		if err != nil {
			e.Warn("%v", err)
			continue
		}
		uuid, label := "", ""
		i := look(p)
		if i != nil {
			uuid, label = i.UUID, i.Label
		}
		for _, m := range found {
			r := []string{filepath.Base(p), fmt.Sprintf("0x%x", m.at), m.typ, "", ""}
			if i != nil && (i.Type == m.typ || m.typ == "ext4" && i.Ext != nil) {
				r[2], r[3], r[4] = i.Type, uuid, label
			}
			rows = append(rows, r)
		}
	}
	if len(rows) > 0 && !e.On("a", "o") {
		table(e, []string{"DEVICE", "OFFSET", "TYPE", "UUID", "LABEL"}, rows, nil, e.On("i"), false)
	}
	return nil
}

// wipe finds the signatures of a device and, with -a or -o, overwrites them.
func wipe(e *tools.Env, p string) ([]magic, error) {
	erase := e.On("a", "o")
	var f *os.File
	var err error
	if erase && !e.On("n", "f") {
		f, err = openExclusive(p)
	} else {
		f, err = os.OpenFile(p, map[bool]int{true: os.O_RDWR, false: os.O_RDONLY}[erase && !e.On("n")], 0)
	}
	if err != nil {
		return nil, fmt.Errorf("error: %s: probing initialization failed: %s", p, tools.Cause(err))
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	found := signatures(f, size)
	if t := e.Val("t"); t != "" {
		found = slices.DeleteFunc(found, func(m magic) bool { return !slices.Contains(strings.Split(t, ","), m.typ) })
	}
	if o := e.Val("o"); o != "" {
		at, err := strconv.ParseInt(o, 0, 64)
		if err != nil {
			return nil, fmt.Errorf("failed to parse offset '%s'", o)
		}
		found = slices.DeleteFunc(found, func(m magic) bool { return m.at != at })
	}
	if !erase {
		return found, nil
	}
	for _, m := range found {
		if !e.On("n") {
			if _, err := f.WriteAt(make([]byte, len(m.bytes)), m.at); err != nil {
				return nil, err
			}
		}
		if !e.On("q") {
			typ := m.typ
			e.Printf("%s: %d bytes were erased at offset 0x%08x (%s): % x\n", p, len(m.bytes), m.at, typ, m.bytes)
		}
	}
	if e.On("n") {
		return found, nil
	}
	return found, f.Sync()
}

// newUUID reads a UUID, or makes one where none is given.
func newUUID(s string) (id string, raw []byte, err error) {
	if s == "" || s == "random" {
		s = uuid.New()
	}
	raw, err = hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err != nil || len(raw) != 16 {
		return "", nil, errors.New("error: parsing UUID failed")
	}
	return s, raw, nil
}

// mkswap writes the header of a swap area, include/linux/swap.h.
func mkswap(e *tools.Env) error {
	if err := e.Need(1, 1); err != nil {
		return tools.Usage("Nowhere to set up swap on?")
	}
	page, err := e.Int("p", os.Getpagesize())
	if err != nil {
		return err
	}
	id, raw, err := newUUID(e.Val("U"))
	if err != nil {
		return err
	}
	f, err := openExclusive(e.Args[0])
	if err != nil {
		return err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	pages := size / int64(page)
	if pages < 10 {
		return fmt.Errorf("error: swap area needs to be at least %d KiB", 10*page/1024)
	}
	if st, err := f.Stat(); err == nil && st.Mode().IsRegular() && st.Mode().Perm()&0o077 != 0 && !e.On("q") {
		e.Fault(0, "%s: insecure permissions %04o, fix with: chmod 0600 %s", e.Args[0], st.Mode().Perm(), e.Args[0])
	}
	b := make([]byte, page)
	if _, err := f.ReadAt(b[:1024], 0); err != nil {
		return err
	}
	clear(b[1024:])
	// A boot sector of another content would be taken for it.
	if i := look(e.Args[0]); i != nil || e.On("f") {
		clear(b)
	}
	le := binary.LittleEndian
	le.PutUint32(b[1024:], 1)
	le.PutUint32(b[1028:], uint32(min(pages-1, 1<<32-1)))
	copy(b[1036:], raw)
	copy(b[1052:1068], e.Val("L"))
	copy(b[page-10:], "SWAPSPACE2")
	if _, err := f.WriteAt(b, 0); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	label := "no label"
	if l := e.Val("L"); l != "" {
		label = "LABEL=" + l
	}
	if !e.On("q") {
		usable := (pages - 1) * int64(page)
		e.Printf("Setting up swapspace version 1, size = %s (%d bytes)\n%s, UUID=%s\n", iec(usable), usable, label, id)
	}
	return nil
}

func blkdiscard(e *tools.Env) error {
	if err := e.Need(1, 1); err != nil {
		return tools.Usage("no device specified")
	}
	f, err := os.OpenFile(e.Args[0], os.O_RDWR|map[bool]int{false: unix.O_EXCL}[e.On("f")], 0)
	if err != nil {
		return fmt.Errorf("cannot open %s: %s", e.Args[0], tools.Cause(err))
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || st.Mode()&os.ModeDevice == 0 {
		return fmt.Errorf("%s: not a block device", e.Args[0])
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	at, err := tools.Size(e.Or("o", "0"))
	length, err2 := tools.Size(e.Or("l", strconv.FormatInt(size-at, 10)))
	if err := errors.Join(err, err2); err != nil {
		return err
	}
	if at > size {
		return fmt.Errorf("%s: offset is greater than device size", e.Args[0])
	}
	req, name := uintptr(0x1277), "BLKDISCARD" // linux/fs.h
	switch {
	case e.On("z"):
		req, name = 0x127f, "BLKZEROOUT"
	case e.On("s"):
		req, name = 0x127d, "BLKSECDISCARD"
	}
	r := [2]uint64{uint64(at), uint64(min(length, size-at))}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), req, uintptr(unsafe.Pointer(&r))); errno != 0 {
		return fmt.Errorf("%s: %s ioctl failed: %s", e.Args[0], name, tools.Cause(errno))
	}
	if e.On("v") {
		e.Printf("%s: Discarded %d bytes from the offset %d\n", e.Args[0], r[1], r[0])
	}
	return nil
}

// badblocks reads a device and lists the blocks that can't be read.
func badblocks(e *tools.Env) error {
	if err := e.Need(1, 3); err != nil {
		return err
	}
	if e.On("w", "n") {
		return errors.New("only the read-only test is supported")
	}
	bs, err := e.Int("b", 1024)
	if err != nil {
		return err
	}
	many, err := e.Int("c", 64)
	if err != nil {
		return err
	}
	f, size, _, err := openDisk(e.Args[0])
	if err != nil {
		return fmt.Errorf("%s while trying to open %s", tools.Cause(err), e.Args[0])
	}
	defer f.Close()
	last, first := size/int64(bs), int64(0)
	for i, to := range []*int64{&last, &first} {
		if i+1 < len(e.Args) {
			if *to, err = strconv.ParseInt(e.Args[i+1], 10, 64); err != nil {
				return fmt.Errorf("invalid block number: %s", e.Args[i+1])
			}
			if i == 0 {
				last++
			}
		}
	}
	bad := 0
	buf := make([]byte, bs*many)
	for at := first; at < last; at += int64(many) {
		n := min(int64(many), last-at)
		if _, err := f.ReadAt(buf[:n*int64(bs)], at*int64(bs)); err == nil {
			continue
		}
		for b := at; b < at+n; b++ {
			if _, err := f.ReadAt(buf[:bs], b*int64(bs)); err != nil {
				bad++
				e.Printf("%d\n", b)
			}
		}
		if e.On("s") {
			fmt.Fprintf(e.Err, "\r%5.1f%% done, %d errors", float64(at)*100/float64(last), bad)
		}
	}
	if e.On("v", "s") {
		fmt.Fprintf(e.Err, "Pass completed, %d bad blocks found.\n", bad)
	}
	return nil
}

// rescueDisk copies what can be read, as clonedsk does, with ddrescue's map file.
func rescueDisk(e *tools.Env) (err error) {
	if err := e.Need(2, 3); err != nil {
		return err
	}
	src, err := blockcopy.OpenDevice(e.Args[0])
	if err != nil {
		return fmt.Errorf("can't open input file: %s", tools.Cause(err))
	}
	defer src.Close()
	size := src.Size()
	if s := e.Val("s"); s != "" {
		n, err := tools.Size(s)
		if err != nil {
			return err
		}
		size = min(size, n)
	}
	if e.On("i", "o") {
		return errors.New("other positions than 0 are not supported: use dd")
	}
	if err := prepareTarget(e, size); err != nil {
		return err
	}
	dst, err := blockcopy.OpenTarget(e.Args[1])
	if err != nil {
		return fmt.Errorf("can't open output file: %s", tools.Cause(err))
	}
	defer func() { err = errors.Join(err, dst.Close()) }()
	o := blockcopy.CopyOptions{Map: blockcopy.Whole(size)}
	if len(e.Args) == 3 {
		mapFile := e.Args[2]
		if _, serr := os.Stat(mapFile); serr == nil {
			if o.Rescue, err = ddrescue.ReadFile(mapFile); err != nil {
				return err
			}
		}
		o.Checkpoint = func(m *ddrescue.Map) error { return m.WriteFile(mapFile, "Mapfile. Created by mkcdrec") }
	}
	ctx, stop := interrupt.Context(context.Background())
	defer stop()
	r, err := blockcopy.Copy(ctx, dst, src, o)
	if r != nil && !e.On("q") {
		bad := int64(0)
		for _, x := range r.Bad {
			bad += x.Length
		}
		e.Printf("rescued: %s, bad areas: %d, %s\n", quantity.Size(r.Copied), len(r.Bad), quantity.Size(bad))
	}
	if interrupt.Is(err) {
		e.Fault(1, "interrupted; the same command continues with its map file")
		return nil
	}
	return err
}

// prepareTarget makes an image of the size, or asks for -f before a device is overwritten.
func prepareTarget(e *tools.Env, size int64) error {
	st, err := os.Stat(e.Args[1])
	if err == nil && !st.Mode().IsRegular() {
		if !e.On("f") {
			return errors.New("output file exists and is not a regular file: use -f to overwrite it")
		}
		return nil
	}
	f, err := os.OpenFile(e.Args[1], os.O_CREATE|os.O_WRONLY, 0o666)
	if err != nil {
		return fmt.Errorf("can't open output file: %s", tools.Cause(err))
	}
	if st, err := f.Stat(); err == nil && st.Size() < size {
		err = f.Truncate(size)
		return errors.Join(err, f.Close())
	}
	return f.Close()
}

func umount(e *tools.Env) error {
	ms, err := sysconf.Mounts("")
	if err != nil {
		return err
	}
	names := e.Args
	if e.On("a") {
		names = removable(ms, e.Val("t"))
	}
	if len(names) == 0 && !e.On("a") {
		return tools.Usage("bad usage")
	}
	flags := 0
	if e.On("l") {
		flags |= unix.MNT_DETACH
	}
	if e.On("f") {
		flags |= unix.MNT_FORCE
	}
	for _, n := range names {
		for _, p := range pointsOf(e, ms, n) {
			err := unix.Unmount(p, flags)
			if errors.Is(err, unix.EBUSY) && e.On("r") {
				err = unix.Mount("", p, "", unix.MS_REMOUNT|unix.MS_RDONLY, "")
			}
			switch {
			case err != nil && errors.Is(err, unix.EBUSY):
				e.Fault(32, "%s: target is busy. (fuser -vm %s shows who uses it)", p, p)
			case err != nil && errors.Is(err, unix.EINVAL):
				e.Fault(32, "%s: not mounted.", p)
			case err != nil:
				e.Fault(32, "%s: umount failed: %s", p, tools.Cause(err))
			case e.On("v"):
				e.Fault(0, "%s unmounted", p)
			}
		}
	}
	return nil
}

// removable are the mount points that umount -a unmounts: not those of the running system.
func removable(ms []sysconf.Mount, types string) []string {
	var out []string
	for _, m := range slices.Backward(ms) {
		top, _, _ := strings.Cut(strings.TrimPrefix(m.Path, "/"), "/")
		keep := slices.Contains([]string{"proc", "sys", "dev", "run", ""}, top)
		if !keep && (types == "" || slices.Contains(strings.Split(types, ","), m.Type)) {
			out = append(out, m.Path)
		}
	}
	return out
}

// pointsOf are the mount points that an operand of umount means, in the order of unmounting.
func pointsOf(e *tools.Env, ms []sysconf.Mount, name string) []string {
	real, err := filepath.EvalSymlinks(name)
	if err != nil {
		real = name
	}
	if abs, err := filepath.Abs(real); err == nil {
		real = abs
	}
	var out []string
	for _, m := range slices.Backward(ms) {
		if m.Path == real || m.Source == real && strings.HasPrefix(real, "/dev/") || e.On("R") && strings.HasPrefix(m.Path, real+"/") {
			out = append(out, m.Path)
			if !e.On("R", "A") {
				break
			}
		}
	}
	if out == nil {
		return []string{real}
	}
	return out
}

func eject(e *tools.Env) error {
	dev := "/dev/sr0"
	if len(e.Args) > 0 {
		dev = e.Args[0]
	}
	if !strings.HasPrefix(dev, "/") {
		dev = "/dev/" + dev
	}
	if e.On("n") {
		e.Printf("eject: device is `%s'\n", dev)
		return nil
	}
	fd, err := unix.Open(dev, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("unable to open %s: %s", dev, tools.Cause(err))
	}
	defer unix.Close(fd)
	const ejectDisc, closeTray, lockDoor = 0x5309, 0x5319, 0x5329 // linux/cdrom.h
	_ = unix.IoctlSetInt(fd, lockDoor, 0)                         // a drive without a lock has none to open
	req := uint(ejectDisc)
	if e.On("t") {
		req = closeTray
	}
	if err := unix.IoctlSetInt(fd, req, 0); err != nil {
		return fmt.Errorf("unable to eject %s: %s", dev, tools.Cause(err))
	}
	return nil
}

const loopFields = "NAME,SIZELIMIT,OFFSET,AUTOCLEAR,RO,BACK-FILE,DIO,LOG-SEC"

// loop is a loop device that has a file.
type loop struct {
	name string
	info unix.LoopInfo64
	file string
}

func loops() ([]loop, error) {
	dirs, err := filepath.Glob("/sys/class/block/loop*/loop")
	var out []loop
	for _, d := range dirs {
		b, err := os.ReadFile(d + "/backing_file")
		if err != nil {
			continue
		}
		l := loop{name: "/dev/" + filepath.Base(filepath.Dir(d)), file: strings.TrimSpace(string(b))}
		if f, err := os.Open(l.name); err == nil {
			if i, err := unix.IoctlLoopGetStatus64(int(f.Fd())); err == nil {
				l.info = *i
			}
			f.Close()
		}
		out = append(out, l)
	}
	return out, err
}

func losetup(e *tools.Env) error {
	list, err := loops()
	if err != nil {
		return err
	}
	switch {
	case e.On("d"):
		return detach(e, e.Args)
	case e.On("D"):
		for _, l := range list {
			if err := detach(e, []string{l.name}); err != nil {
				return err
			}
		}
		return nil
	case e.On("c"):
		return onLoop(e.Args, func(f *os.File) error { return unix.IoctlSetInt(int(f.Fd()), unix.LOOP_SET_CAPACITY, 0) })
	case e.On("f") && len(e.Args) == 0:
		n, err := freeLoop()
		if err != nil {
			return err
		}
		e.Printf("%s\n", n)
		return nil
	case e.On("f"), len(e.Args) == 2:
		return attach(e)
	}
	if j := e.Val("j"); j != "" {
		real, err := filepath.EvalSymlinks(j)
		if err != nil {
			real = j
		}
		abs, err := filepath.Abs(real)
		if err != nil {
			return err
		}
		list = slices.DeleteFunc(list, func(l loop) bool { return l.file != abs })
	}
	if len(e.Args) == 1 {
		list = slices.DeleteFunc(list, func(l loop) bool { return l.name != e.Args[0] })
		if len(list) == 0 {
			return fmt.Errorf("%s: No such device or address", e.Args[0])
		}
	}
	printLoops(e, list)
	return nil
}

func printLoops(e *tools.Env, list []loop) {
	if e.On("a", "j") && !e.On("l", "O") || len(e.Args) == 1 && !e.On("l", "O") {
		for _, l := range list {
			offset := ""
			if l.info.Offset > 0 {
				offset = fmt.Sprintf(", offset %d", l.info.Offset)
			}
			e.Printf("%s: [%04d]:%d (%s)%s\n", l.name, l.info.Device, l.info.Inode, l.file, offset)
		}
		return
	}
	if len(list) == 0 {
		return
	}
	cols := strings.Split(strings.ToUpper(e.Or("O", loopFields)), ",")
	var rows [][]string
	flag := func(l loop, bit uint32) string { return strconv.Itoa(map[bool]int{true: 1}[l.info.Flags&bit != 0]) }
	for _, l := range list {
		var r []string
		for _, c := range cols {
			r = append(r, map[string]string{"NAME": l.name, "SIZELIMIT": strconv.FormatUint(l.info.Sizelimit, 10), "OFFSET": strconv.FormatUint(l.info.Offset, 10), "AUTOCLEAR": flag(l, unix.LO_FLAGS_AUTOCLEAR), "RO": flag(l, unix.LO_FLAGS_READ_ONLY), "BACK-FILE": l.file, "DIO": flag(l, unix.LO_FLAGS_DIRECT_IO), "LOG-SEC": (&device{name: filepath.Base(l.name)}).sys("queue/logical_block_size")}[c])
		}
		rows = append(rows, r)
	}
	table(e, cols, rows, map[string]bool{"SIZELIMIT": true, "OFFSET": true, "AUTOCLEAR": true, "RO": true, "DIO": true, "LOG-SEC": true}, e.On("n"), e.On("raw"))
}

func onLoop(names []string, fn func(f *os.File) error) error {
	for _, n := range names {
		f, err := os.Open(n)
		if err == nil {
			err = fn(f)
			f.Close()
		}
		if err != nil {
			return fmt.Errorf("%s: %s", n, tools.Cause(err))
		}
	}
	return nil
}

func detach(e *tools.Env, names []string) error {
	err := onLoop(names, func(f *os.File) error { return unix.IoctlSetInt(int(f.Fd()), unix.LOOP_CLR_FD, 0) })
	if err != nil {
		return fmt.Errorf("%s: detach failed: %s", strings.Join(names, " "), tools.Cause(err))
	}
	return nil
}

// freeLoop has the kernel give a loop device that is free.
func freeLoop() (string, error) {
	c, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return "", fmt.Errorf("cannot find an unused loop device: %s", tools.Cause(err))
	}
	defer c.Close()
	n, _, errno := unix.Syscall(unix.SYS_IOCTL, c.Fd(), unix.LOOP_CTL_GET_FREE, 0)
	if errno != 0 {
		return "", fmt.Errorf("cannot find an unused loop device: %s", tools.Cause(errno))
	}
	return fmt.Sprintf("/dev/loop%d", n), nil
}

func loopConfig(e *tools.Env, back *os.File) (unix.LoopConfig, error) {
	var errs [4]error
	var offset, limit int64
	var sector int
	var abs string
	offset, errs[0] = tools.Size(e.Or("o", "0"))
	limit, errs[1] = tools.Size(e.Or("sizelimit", "0"))
	sector, errs[2] = e.Int("b", 0)
	abs, errs[3] = filepath.Abs(back.Name())
	c := unix.LoopConfig{Fd: uint32(back.Fd()), Size: uint32(sector)}
	c.Info.Offset, c.Info.Sizelimit = uint64(offset), uint64(limit)
	copy(c.Info.File_name[:], abs)
	if e.On("P") {
		c.Info.Flags |= unix.LO_FLAGS_PARTSCAN
	}
	return c, errors.Join(errs[:]...)
}

func attach(e *tools.Env) error {
	name, file := "", e.Args[len(e.Args)-1]
	if len(e.Args) == 2 {
		name = e.Args[0]
	}
	flags := os.O_RDWR
	if e.On("r") {
		flags = os.O_RDONLY
	}
	back, err := os.OpenFile(file, flags, 0)
	if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EROFS) {
		flags = os.O_RDONLY
		back, err = os.Open(file)
	}
	if err != nil {
		return fmt.Errorf("%s: failed to set up loop device: %s", file, tools.Cause(err))
	}
	defer back.Close()
	c, err := loopConfig(e, back)
	if err != nil {
		return err
	}
	if flags == os.O_RDONLY {
		c.Info.Flags |= unix.LO_FLAGS_READ_ONLY
	}
	// Another program may take the free device first.
	for try := 0; ; try++ {
		dev := name
		if dev == "" {
			if dev, err = freeLoop(); err != nil {
				return err
			}
		}
		f, err := os.OpenFile(dev, flags, 0)
		if err == nil {
			err = unix.IoctlLoopConfigure(int(f.Fd()), &c)
			f.Close()
		}
		if errors.Is(err, unix.EBUSY) && name == "" && try < 64 {
			continue
		}
		if err != nil {
			return fmt.Errorf("%s: failed to set up loop device: %s", file, tools.Cause(err))
		}
		if e.On("show") || e.On("f") && e.On("v") {
			e.Printf("%s\n", dev)
		}
		return nil
	}
}
