package disks

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/blockcopy"
	"github.com/mkcdrec/mkcdrec/internal/ddrescue"
	"github.com/mkcdrec/mkcdrec/internal/interrupt"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/tools"
	"github.com/mkcdrec/mkcdrec/internal/uuid"
)

func writeCommands() []tools.Command {
	return []tools.Command{
		{Name: "wipefs", Opts: "a/all f/force n/no-act q/quiet o/offset: t/types: i/noheadings lock?", Synopsis: "DEVICE...", Run: wipefs},
		{Name: "mkswap", Opts: "L/label: U/uuid: f/force p/pagesize: q/quiet", Synopsis: "DEVICE", Run: mkswap},
		{Name: "blkdiscard", Opts: "o/offset: l/length: s/secure z/zeroout f/force v/verbose q/quiet", Synopsis: "DEVICE", Run: blkdiscard},
		{Name: "badblocks", Opts: "b: c: s v n w", Synopsis: "DEVICE [LAST-BLOCK] [FIRST-BLOCK]", Run: badblocks},
		{Name: "ddrescue", Opts: "f/force n/no-scrape d/idirect D/odirect r/retry-passes: b/sector-size: s/size: i/input-position: o/output-position: S/sparse v/verbose q/quiet R/reverse A/try-again M/retrim p/preallocate", Synopsis: "SOURCE TARGET [MAPFILE]", Run: rescueDisk},
		{Name: "umount", Opts: "l/lazy f/force R/recursive a/all v/verbose t/types: n/no-mtab r/read-only d/detach-loop q/quiet A/all-targets", Synopsis: "DIR|DEVICE...", Bad: 1, Run: umount},
		{Name: "eject", Opts: "t/trayclose n/noop", Synopsis: "[DEVICE]", Run: eject},
	}
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

// warnInsecure warns of a file that others than its owner may read or write.
func warnInsecure(e *tools.Env, f *os.File) {
	if st, err := f.Stat(); err == nil && st.Mode().IsRegular() && st.Mode().Perm()&0o077 != 0 {
		e.Fault(0, "%s: insecure permissions %04o, fix with: chmod 0600 %s", e.Args[0], st.Mode().Perm(), e.Args[0])
	}
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
	if !e.On("q") {
		warnInsecure(e, f)
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

// blockRange reads the last block, or all blocks, and the first one; it gives the block behind the last.
func blockRange(args []string, all int64) (first, last int64, err error) {
	last = all
	for i, to := range []*int64{&last, &first}[:len(args)] {
		if *to, err = strconv.ParseInt(args[i], 10, 64); err != nil {
			return 0, 0, fmt.Errorf("invalid block number: %s", args[i])
		}
		if i == 0 {
			last++
		}
	}
	return first, last, nil
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
	first, last, err := blockRange(e.Args[1:], size/int64(bs))
	if err != nil {
		return err
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
	e.Ignore("n", "d", "D", "r", "b", "S", "R", "A", "M", "p", "v")
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
