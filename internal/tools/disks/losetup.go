package disks

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/tools"
)

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

// loopsOf are those of the loop devices that are on a file.
func loopsOf(list []loop, file string) ([]loop, error) {
	if real, err := filepath.EvalSymlinks(file); err == nil {
		file = real
	}
	abs, err := filepath.Abs(file)
	return slices.DeleteFunc(list, func(l loop) bool { return l.file != abs }), err
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
		if list, err = loopsOf(list, j); err != nil {
			return err
		}
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
	dev, err := configure(name, file, flags, &c)
	if err != nil {
		return err
	}
	if e.On("show") || e.On("f") && e.On("v") {
		e.Printf("%s\n", dev)
	}
	return nil
}

// configure sets a loop device up, a free one for "", and gives its name.
func configure(name, file string, flags int, c *unix.LoopConfig) (dev string, err error) {
	// Another program may take the free device first.
	for try := 0; ; try++ {
		if dev = name; dev == "" {
			if dev, err = freeLoop(); err != nil {
				return "", err
			}
		}
		f, err := os.OpenFile(dev, flags, 0)
		if err == nil {
			err = unix.IoctlLoopConfigure(int(f.Fd()), c)
			f.Close()
		}
		if errors.Is(err, unix.EBUSY) && name == "" && try < 64 {
			continue
		}
		if err != nil {
			return "", fmt.Errorf("%s: failed to set up loop device: %s", file, tools.Cause(err))
		}
		return dev, nil
	}
}
