// Package machinetest is a machine for tests that give orders: a directory with its /dev,
// /proc and /sys, whose disks are sparse files, a kernel.Kernel that mounts and makes
// partitions there, and a tool.Runner. Everything that is done to it is in one log, in
// order. Nothing of the machine that the test runs on is asked or changed, and no root is
// needed.
//
// Simpler than real ones: partitions have files of their own, whose content is not that
// part of the disk's, and what is written into a mounted directory stays there when it is
// unmounted.
package machinetest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/gpt"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/mbr"
	"github.com/mkcdrec/mkcdrec/internal/probe"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

// Machine is the fake one. It implements kernel.Kernel and tool.Runner.
type Machine struct {
	// Root is the directory that has the machine's files.
	Root string
	// Programs answer calls of programs, by the first words of the command line; of several
	// the longest. A program without an answer fails.
	Programs map[string]func(c tool.Cmd) (string, error)
	// Fail has the calls of programs and of the kernel that fail, by how their line in the
	// log begins.
	Fail map[string]error
	// Content has the files that are found where a device is mounted, by device and path.
	Content map[string]map[string]string

	t      testing.TB
	mu     sync.Mutex
	log    []string
	number int               // of the last device
	mounts []string          // lines of mountinfo
	at     map[string]string // device that is mounted, by directory
	unheld []string          // loop devices that go when no device is on them
}

// New makes a machine without disks.
func New(t testing.TB) *Machine {
	m := &Machine{Root: t.TempDir(), Programs: map[string]func(tool.Cmd) (string, error){}, Fail: map[string]error{}, Content: map[string]map[string]string{}, t: t, at: map[string]string{}}
	for _, d := range []string{"/dev/mapper", "/sys/block", "/sys/class/block", "/sys/dev/block", "/sys/devices", "/run", "/tmp", "/mnt"} {
		m.must(os.MkdirAll(m.Path(d), 0o755))
	}
	for _, f := range []string{"/proc/swaps", "/proc/cmdline", "/proc/modules", "/proc/self/mounts", "/dev/loop-control"} {
		m.Write(f, "")
	}
	m.mounts = []string{"1 1 0:1 / / rw - rootfs rootfs rw"}
	m.showMounts()
	return m
}

func (m *Machine) must(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
}

// Probe is what looks at the machine.
func (m *Machine) Probe() probe.Machine { return probe.Machine{Root: m.Root, Run: m} }

// Path implements kernel.Kernel.
func (m *Machine) Path(p string) string { return filepath.Join(m.Root, p) }

// inside is Path the other way round.
func (m *Machine) inside(p string) string {
	if p == m.Root {
		return "/"
	}
	return strings.TrimPrefix(p, m.Root)
}

// Write writes a file of the machine and makes its directory.
func (m *Machine) Write(p, text string) {
	m.t.Helper()
	m.must(errors.Join(os.MkdirAll(filepath.Dir(m.Path(p)), 0o755), os.WriteFile(m.Path(p), []byte(text), 0o644)))
}

// Read is the text of a file of the machine, "" for one that is not there.
func (m *Machine) Read(p string) string {
	b, err := os.ReadFile(m.Path(p))
	if err != nil {
		return ""
	}
	return string(b)
}

// AddDisk adds a blank disk on the next slot of the PCI bus. serial may be "".
func (m *Machine) AddDisk(name string, size quantity.Size, serial string) {
	m.t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	dir := fmt.Sprintf("/sys/devices/pci0000:00/0000:00:%02x.0/block/%s", m.number/16+4, name)
	m.add(dir, name, size)
	m.Write(dir+"/diskseq", fmt.Sprint(m.number/16+1))
	m.Write(dir+"/serial", serial)
	m.must(errors.Join(os.MkdirAll(m.Path(dir+"/holders"), 0o755), os.MkdirAll(m.Path(dir+"/slaves"), 0o755), os.Symlink(m.Path(dir), m.Path("/sys/block/"+name))))
	m.number += 15 // numbers of its partitions
}

// add makes the directory of a block device in sysfs, and its node.
func (m *Machine) add(dir, name string, size quantity.Size) {
	m.t.Helper()
	number := fmt.Sprintf("254:%d", m.number)
	m.number++
	m.Write(dir+"/dev", number)
	m.Write(dir+"/size", fmt.Sprint(int64(size)/512))
	for _, link := range []string{"/sys/class/block/" + name, "/sys/dev/block/" + number} {
		m.must(errors.Join(os.RemoveAll(m.Path(link)), os.Symlink(m.Path(dir), m.Path(link))))
	}
	m.Write("/dev/"+name, "")
	m.must(os.Truncate(m.Path("/dev/"+name), int64(size)))
}

// AddVirtual adds a device that is on others: "md0", or "dm-0" with device-mapper's name
// of it, which has a node in /dev/mapper, and is an LVM volume if it has the form
// "vg0-root".
func (m *Machine) AddVirtual(name, mapper string, size quantity.Size, on ...string) {
	m.t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	dir := m.virtual(name, size)
	for _, d := range on {
		m.must(os.Symlink(m.Path("/sys/class/block/"+d), m.Path(dir+"/slaves/"+d)))
		holders := m.Path("/sys/class/block/" + d + "/holders")
		m.must(errors.Join(os.MkdirAll(holders, 0o755), os.Symlink(m.Path(dir), holders+"/"+name)))
	}
	if mapper == "" {
		m.Write(dir+"/md/array_state", "active\n")
		return
	}
	m.Write(dir+"/dm/name", mapper)
	m.must(os.Symlink("../"+name, m.Path("/dev/mapper/"+mapper)))
	if vg, lv, ok := strings.Cut(mapper, "-"); ok {
		m.Write(dir+"/dm/uuid", "LVM-"+mapper)
		m.must(errors.Join(os.MkdirAll(m.Path("/dev/"+vg), 0o755), os.Symlink("../"+name, m.Path("/dev/"+vg+"/"+lv))))
	} else {
		m.Write(dir+"/dm/uuid", "CRYPT-LUKS2-"+mapper)
	}
}

// virtual makes a device that is not a disk, and gives its directory in sysfs.
func (m *Machine) virtual(name string, size quantity.Size) string {
	m.t.Helper()
	dir := "/sys/devices/virtual/block/" + name
	m.add(dir, name, size)
	m.must(errors.Join(os.MkdirAll(m.Path(dir+"/slaves"), 0o755), os.MkdirAll(m.Path(dir+"/holders"), 0o755), os.Symlink(m.Path(dir), m.Path("/sys/block/"+name))))
	return dir
}

// Remove takes a device away, which is given by any of its names in /dev: a disk that was
// disconnected, with its partitions, or a virtual one that was closed, with the loop devices
// that nothing else is on.
func (m *Machine) Remove(name string) {
	m.t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	if k := m.kernelName(name); k != "" {
		name = k
	}
	m.remove(name)
	m.freeLoops()
}

func (m *Machine) remove(name string) {
	m.t.Helper()
	dir, err := filepath.EvalSymlinks(m.Path("/sys/class/block/" + name))
	m.must(err)
	parts, err := filepath.Glob(dir + "/*/partition")
	m.must(err)
	for _, p := range parts {
		m.remove(filepath.Base(filepath.Dir(p)))
	}
	links := []string{m.Path("/sys/block/" + name), m.Path("/sys/class/block/" + name), m.Path("/sys/dev/block/" + m.Read("/sys/class/block/"+name+"/dev")), m.Path("/dev/" + name)}
	if mapper := m.Read("/sys/class/block/" + name + "/dm/name"); mapper != "" {
		links = append(links, m.Path("/dev/mapper/"+mapper), m.Path("/dev/"+strings.Replace(mapper, "-", "/", 1)))
	}
	slaves, err := filepath.Glob(dir + "/slaves/*")
	m.must(err)
	for _, s := range slaves {
		links = append(links, m.Path("/sys/class/block/"+filepath.Base(s)+"/holders/"+name))
	}
	for _, l := range links {
		m.must(os.RemoveAll(l))
	}
	m.must(os.RemoveAll(dir))
}

// StillOpen lists the nodes of devices that this process has open.
func (m *Machine) StillOpen() []string {
	m.t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	m.must(err)
	var out []string
	for _, fd := range fds {
		if at, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && strings.HasPrefix(at, m.Path("/dev")+"/") {
			out = append(out, m.inside(at))
		}
	}
	return out
}

// Sum is the SHA-256 of what is on a device, to see whether it was written to.
func (m *Machine) Sum(dev string) string {
	m.t.Helper()
	f, err := os.Open(m.Path("/dev/" + dev))
	m.must(err)
	defer f.Close()
	h := sha256.New()
	_, err = io.Copy(h, f)
	m.must(err)
	return fmt.Sprintf("%x", h.Sum(nil))
}

// Log gives what was done so far, in order: "open /dev/vda for writing", "mount /dev/vda1
// /mnt/target ext4", "run mkfs.ext4 /dev/vda1".
func (m *Machine) Log() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.log)
}

// Did is Log without what only looks: lines that begin with one of the words.
func (m *Machine) Did(words ...string) []string {
	return slices.DeleteFunc(m.Log(), func(l string) bool {
		return !slices.ContainsFunc(words, func(w string) bool { return strings.HasPrefix(l, w+" ") || l == w })
	})
}

// Note writes a line into the log and gives the error that the call shall have.
func (m *Machine) Note(format string, args ...any) error {
	line := fmt.Sprintf(format, args...)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.log = append(m.log, line)
	return m.Fail[longest(m.Fail, line)]
}

// longest is the longest key that a line begins with, and that ends where a word does.
func longest[T any](of map[string]T, line string) (key string) {
	for k := range of {
		if (line == k || strings.HasPrefix(line, k+" ")) && len(k) > len(key) {
			key = k
		}
	}
	return key
}

// Run implements tool.Runner.
func (m *Machine) Run(ctx context.Context, c tool.Cmd) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, &tool.Error{Cmd: c, Code: -1, Err: err}
	}
	if err := m.Note("run %s", c); err != nil {
		return nil, &tool.Error{Cmd: c, Code: 1, Err: errors.New("exit status 1"), Stderr: err.Error()}
	}
	p := m.Programs[longest(m.Programs, c.String())]
	if p == nil {
		return nil, &tool.Error{Cmd: c, Code: -1, Err: errors.New("this call was not expected by the test")}
	}
	out, err := p(c)
	if err != nil {
		return []byte(out), &tool.Error{Cmd: c, Code: 1, Err: errors.New("exit status 1"), Stderr: err.Error()}
	}
	return []byte(out), nil
}

// Answer has programs print a text, by the first words of their command lines.
func (m *Machine) Answer(text string, commands ...string) {
	for _, c := range commands {
		m.Programs[c] = func(tool.Cmd) (string, error) { return text, nil }
	}
}

// Mount implements kernel.Kernel.
func (m *Machine) Mount(source, dir, typ string, flags uintptr, data string) error {
	line := strings.TrimSpace(fmt.Sprintf("mount %s %s %s %s", source, m.inside(dir), typ, data))
	if flags&unix.MS_RDONLY != 0 {
		line += " read-only"
	}
	if err := m.Note("%s", line); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if st, err := os.Stat(dir); err != nil || !st.IsDir() {
		return unix.ENOENT
	}
	number, dev := "0:9", ""
	if n, ok := strings.CutPrefix(source, "/dev/"); ok {
		if dev = m.kernelName(n); dev == "" {
			return unix.ENOENT
		}
		number = m.Read("/sys/class/block/" + dev + "/dev")
	}
	m.mounts = append(m.mounts, fmt.Sprintf("%d 1 %s / %s rw - %s %s rw", len(m.log)+1, number, dir, typ, source))
	m.showMounts()
	m.at[dir] = dev
	for _, p := range slices.Sorted(maps.Keys(m.Content[dev])) {
		m.Write(filepath.Join(m.inside(dir), p), m.Content[dev][p])
	}
	return nil
}

// MountReadOnly implements kernel.Kernel.
func (m *Machine) MountReadOnly(dev, typ, dir string, options ...string) error {
	return m.Mount(dev, dir, typ, unix.MS_RDONLY, strings.Join(options, ","))
}

func (m *Machine) showMounts() {
	m.Write("/proc/self/mountinfo", strings.Join(m.mounts, "\n")+"\n")
}

// Unmount implements kernel.Kernel.
func (m *Machine) Unmount(dir string) error {
	if err := m.Note("unmount %s", m.inside(dir)); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	at := -1
	for i, l := range m.mounts {
		switch p := strings.Fields(l)[4]; {
		case p == dir:
			at = i
		case strings.HasPrefix(p, dir+"/"):
			return unix.EBUSY
		}
	}
	if at < 0 {
		return unix.EINVAL
	}
	m.mounts = slices.Delete(m.mounts, at, at+1)
	m.showMounts()
	for p := range m.Content[m.at[dir]] {
		m.must(os.RemoveAll(filepath.Join(dir, p)))
	}
	delete(m.at, dir)
	return nil
}

// Mounted lists "DEVICE DIRECTORY" of what is mounted, in the order of mounting, but for
// the machine's root.
func (m *Machine) Mounted() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []string
	for _, l := range m.mounts[1:] {
		f := strings.Fields(l)
		out = append(out, f[8]+" "+m.inside(f[4]))
	}
	return out
}

// MountRoot implements kernel.Kernel.
func (m *Machine) MountRoot(dir *os.File) (root bool, number string, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	dev, root := m.at[filepath.Clean(dir.Name())]
	if dev == "" {
		return root, "", nil
	}
	return root, m.Read("/sys/class/block/" + dev + "/dev"), nil
}

// Sync implements kernel.Kernel.
func (m *Machine) Sync() { _ = m.Note("sync") }

// kernelName is the name of a node in sysfs, "" for none: "dm-0" for "vg0/root".
func (m *Machine) kernelName(dev string) string {
	node, err := filepath.EvalSymlinks(m.Path("/dev/" + dev))
	if err != nil {
		return ""
	}
	name := filepath.Base(node)
	if _, err := os.Stat(m.Path("/sys/class/block/" + name)); err != nil {
		return ""
	}
	return name
}

// Open implements kernel.Kernel. A device that is mounted is not opened exclusively.
func (m *Machine) Open(dev string, flag int) (*os.File, error) {
	if flag&os.O_RDWR != 0 {
		if err := m.Note("open /dev/%s for writing", dev); err != nil {
			return nil, &os.PathError{Op: "open", Path: "/dev/" + dev, Err: err}
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, at := range m.at {
		if flag&os.O_EXCL != 0 && at != "" && at == m.kernelName(dev) {
			return nil, &os.PathError{Op: "open", Path: "/dev/" + dev, Err: unix.EBUSY}
		}
	}
	fd, err := unix.Open(m.Path("/dev/"+dev), flag&^os.O_EXCL|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: "/dev/" + dev, Err: err}
	}
	return os.NewFile(uintptr(fd), "/dev/"+dev), nil
}

// Number implements kernel.Kernel. To have a node lead to another device, make it a link to
// that one's.
func (m *Machine) Number(f *os.File) (number string, seq uint64, err error) {
	name := m.kernelName(strings.TrimPrefix(f.Name(), "/dev/"))
	if name == "" {
		return "0:0", 0, nil
	}
	sys := "/sys/class/block/" + name
	if s := m.Read(sys + "/diskseq"); s != "" {
		_, err = fmt.Sscan(s, &seq)
	}
	return m.Read(sys + "/dev"), seq, err
}

// Geometry implements kernel.Kernel.
func (m *Machine) Geometry(dev string) (size quantity.Size, number string, err error) {
	st, err := os.Stat(m.Path("/dev/" + dev))
	if err != nil {
		return 0, "", err
	}
	return quantity.Size(st.Size()), m.Read("/sys/class/block/" + m.kernelName(dev) + "/dev"), nil
}

// MemoryLoop implements kernel.Kernel.
func (m *Machine) MemoryLoop(label string, size quantity.Size) (name string, hold io.Closer, err error) {
	return m.loop("/memfd:"+label+" (deleted)", size, true)
}

// ReadOnlyLoop implements kernel.Kernel.
func (m *Machine) ReadOnlyLoop(dev string) (name string, hold io.Closer, err error) {
	size, _, err := m.Geometry(dev)
	if err != nil {
		return "", nil, err
	}
	return m.loop("/dev/"+dev, size, true)
}

// Loop implements kernel.Kernel.
func (m *Machine) Loop(file *os.File, _ quantity.Size, flags uint32) (name string, hold io.Closer, err error) {
	st, err := file.Stat()
	if err != nil {
		return "", nil, err
	}
	return m.loop(file.Name(), quantity.Size(st.Size()), flags&unix.LO_FLAGS_AUTOCLEAR != 0)
}

// loop adds the first loop device that is free.
func (m *Machine) loop(backing string, size quantity.Size, autoclear bool) (name string, hold io.Closer, err error) {
	if err := m.Note("loop over %s", backing); err != nil {
		return "", nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for n := 0; ; n++ {
		name = fmt.Sprint("loop", n)
		if m.kernelName(name) == "" {
			break
		}
	}
	m.Write(m.virtual(name, size)+"/loop/backing_file", backing+"\n")
	return name, closer(func() {
		if !autoclear {
			return
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		m.unheld = append(m.unheld, name)
		m.freeLoops()
	}), nil
}

type closer func()

func (c closer) Close() error { c(); return nil }

// freeLoops removes the loop devices that are not held and that no device is on.
func (m *Machine) freeLoops() {
	m.unheld = slices.DeleteFunc(m.unheld, func(name string) bool {
		on, err := filepath.Glob(m.Path("/sys/block/" + name + "/holders/*"))
		m.must(err)
		if len(on) == 0 {
			m.remove(name)
		}
		return len(on) == 0
	})
}

// Detach implements kernel.Kernel.
func (m *Machine) Detach(dev string) error {
	if err := m.Note("detach /dev/%s", dev); err != nil {
		return err
	}
	m.Remove(dev)
	return nil
}

// Forget implements kernel.Kernel.
func (m *Machine) Forget(f *os.File) error { return m.Note("forget %s", f.Name()) }

// Reread implements kernel.Kernel: it makes the partitions that the disk's table has.
func (m *Machine) Reread(_ context.Context, f *os.File) error {
	if err := m.Note("reread %s", f.Name()); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	disk := strings.TrimPrefix(f.Name(), "/dev/")
	dir, err := filepath.EvalSymlinks(m.Path("/sys/block/" + disk))
	if err != nil {
		return err
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	old, err := filepath.Glob(dir + "/*/partition")
	m.must(err)
	for _, p := range old {
		m.remove(filepath.Base(filepath.Dir(p)))
	}
	part := func(n int, start, count int64) {
		name := layout.PartitionName(disk, n)
		sys := m.inside(dir) + "/" + name
		m.add(sys, name, quantity.Size(count*512))
		m.Write(sys+"/partition", fmt.Sprint(n))
		m.Write(sys+"/start", fmt.Sprint(start))
	}
	if g, err := gpt.Read(f, 512, size); err == nil {
		for _, p := range g.Partitions {
			part(p.Number, p.First, p.Last-p.First+1)
		}
		return nil
	}
	t, err := mbr.Read(f, 512)
	if errors.Is(err, mbr.ErrNone) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, p := range t.Partitions {
		count := p.Count
		if mbr.Extended(p.Type) {
			count = 2
		}
		part(p.Number, p.Start, count)
	}
	return nil
}

// Await implements kernel.Kernel: a device that is not there does not come.
func (m *Machine) Await(_ context.Context, dev string, size quantity.Size) error {
	st, err := os.Stat(m.Path("/dev/" + dev))
	switch {
	case err != nil:
		return fmt.Errorf("cannot use /dev/%s after partitioning: it does not appear", dev)
	case st.Size() != int64(size):
		return fmt.Errorf("cannot use /dev/%s after partitioning: it has %d bytes, not %d", dev, st.Size(), size)
	}
	return nil
}

// Ioctl implements kernel.Kernel: it only adds to the log.
func (m *Machine) Ioctl(f *os.File, req uintptr, _ []byte) error {
	return m.Note("ioctl %#x %s", req, m.inside(f.Name()))
}
