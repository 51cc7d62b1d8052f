package disks

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/blockdev"
	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/printable"
	"github.com/mkcdrec/mkcdrec/internal/sysconf"
	"github.com/mkcdrec/mkcdrec/internal/tools"
	"github.com/mkcdrec/mkcdrec/internal/tools/shares"
)

// Exit statuses of mount(8).
const (
	mountFailed = 32
	mountSome   = 64
)

// change is what an option word sets and clears of the flags.
type change struct{ set, clear uintptr }

// accessTimes are the flags of which one decides whether access times are written.
const accessTimes = unix.MS_NOATIME | unix.MS_RELATIME | unix.MS_STRICTATIME

// mountFlags are the option words that are flags of mount(2); a word that is not here goes
// to the file system.
var mountFlags = map[string]change{
	"ro": {set: unix.MS_RDONLY}, "rw": {clear: unix.MS_RDONLY}, "nosuid": {set: unix.MS_NOSUID}, "suid": {clear: unix.MS_NOSUID}, "nodev": {set: unix.MS_NODEV}, "dev": {clear: unix.MS_NODEV},
	"noexec": {set: unix.MS_NOEXEC}, "exec": {clear: unix.MS_NOEXEC}, "sync": {set: unix.MS_SYNCHRONOUS}, "async": {clear: unix.MS_SYNCHRONOUS}, "dirsync": {set: unix.MS_DIRSYNC}, "remount": {set: unix.MS_REMOUNT}, "bind": {set: unix.MS_BIND}, "rbind": {set: unix.MS_BIND | unix.MS_REC},
	"noatime": {unix.MS_NOATIME, accessTimes}, "atime": {clear: unix.MS_NOATIME}, "relatime": {unix.MS_RELATIME, accessTimes}, "norelatime": {clear: unix.MS_RELATIME}, "strictatime": {unix.MS_STRICTATIME, accessTimes}, "nostrictatime": {clear: unix.MS_STRICTATIME}, "nodiratime": {set: unix.MS_NODIRATIME}, "diratime": {clear: unix.MS_NODIRATIME}, "lazytime": {set: unix.MS_LAZYTIME}, "nolazytime": {clear: unix.MS_LAZYTIME}, "nosymfollow": {set: unix.MS_NOSYMFOLLOW}, "symfollow": {clear: unix.MS_NOSYMFOLLOW},
	"silent": {set: unix.MS_SILENT}, "loud": {clear: unix.MS_SILENT}, "mand": {set: unix.MS_MANDLOCK}, "nomand": {clear: unix.MS_MANDLOCK}, "iversion": {set: unix.MS_I_VERSION}, "noiversion": {clear: unix.MS_I_VERSION}, "defaults": {}, "auto": {}, "noauto": {}, "user": {set: unix.MS_NOEXEC | unix.MS_NOSUID | unix.MS_NODEV}, "users": {set: unix.MS_NOEXEC | unix.MS_NOSUID | unix.MS_NODEV},
	"nouser": {}, "owner": {}, "group": {}, "nofail": {}, "_netdev": {},
}

// propagation are the words that change how mounts propagate, with a call of their own.
var propagation = map[string]uintptr{"private": unix.MS_PRIVATE, "shared": unix.MS_SHARED, "slave": unix.MS_SLAVE, "unbindable": unix.MS_UNBINDABLE, "rprivate": unix.MS_PRIVATE | unix.MS_REC, "rshared": unix.MS_SHARED | unix.MS_REC, "rslave": unix.MS_SLAVE | unix.MS_REC, "runbindable": unix.MS_UNBINDABLE | unix.MS_REC}

const mountOptions = "a/all B/bind F/fork f/fake i/internal-only L/label: l/show-labels M/move m/mkdir? n/no-mtab O/test-opts: o/options: R/rbind r/read-only s source: T/fstab: target: t/types: U/uuid: v/verbose w/rw/read-write make-private make-rprivate make-rshared make-rslave make-runbindable make-shared make-slave make-unbindable"

// wish is what is to be mounted, and how.
type wish struct {
	source, dir, typ string
	flags            uintptr
	named            uintptr  // flags that an option word sets or clears
	data             []string // options of the file system
	spread           []uintptr
	loop             bool
	loopOptions      map[string]string // offset, sizelimit
	mkdir            bool
}

// read takes options.
func (w *wish) read(options string) {
	for _, o := range sysconf.SplitOptions(options) {
		name, val, has := strings.Cut(o, "=")
		val = strings.Trim(val, `"`)
		f, isFlag := mountFlags[o]
		p, spreads := propagation[o]
		switch {
		case isFlag:
			w.flags, w.named = w.flags&^f.clear|f.set, w.named|f.clear|f.set
		case spreads:
			w.spread = append(w.spread, p)
		case name == "loop":
			w.loop = true
		case name == "offset" || name == "sizelimit":
			if w.loopOptions == nil {
				w.loopOptions = map[string]string{}
			}
			w.loopOptions[name] = val
		case strings.HasPrefix(name, "x-mount.mkdir") || strings.HasPrefix(name, "X-mount.mkdir"):
			w.mkdir = true
		case strings.HasPrefix(name, "x-"), strings.HasPrefix(name, "X-"), name == "comment":
		default:
			if strings.Contains(o, `"`) && has { // commas in quotes are for us
				o = name + "=" + val
			}
			w.data = append(w.data, o)
		}
	}
}

// mounter is a run of mount.
type mounter struct {
	*tools.Env
	sys shares.System
}

func mount(e *tools.Env) error {
	m := &mounter{e, shares.Machine(func(q string) (string, error) { return tools.Ask(q, true) })}
	args := e.Args
	if s := e.Val("source"); s != "" {
		args = append([]string{s}, args...)
	}
	for _, o := range []struct{ option, tag string }{{"L", "LABEL"}, {"U", "UUID"}} {
		if v, ok := e.Last(o.option); ok {
			args = append([]string{o.tag + "=" + v.Value}, args...)
		}
	}
	if t := e.Val("target"); t != "" {
		args = append(args, t)
	}
	if e.On("a") {
		return m.all()
	}
	switch len(args) {
	case 0:
		if e.On("o", "w", "B", "R", "M") {
			return tools.Usage("bad usage")
		}
		return m.list()
	case 1:
		return m.one(args[0])
	case 2:
		return m.report(m.wish(args[0], args[1], e.Val("t"), ""))
	}
	return tools.Usage("bad usage")
}

// wish puts the options of the command line behind others.
func (m *mounter) wish(source, dir, typ, options string) *wish {
	w := &wish{source: source, dir: dir, typ: typ}
	w.read(options)
	for _, o := range m.All() {
		switch o.Name {
		case "o":
			w.read(o.Value)
		case "r":
			w.read("ro")
		case "w":
			w.read("rw")
		case "B":
			w.read("bind")
		case "R":
			w.read("rbind")
		case "M":
			w.flags |= unix.MS_MOVE
		case "m":
			w.mkdir = true
		default:
			if p, ok := strings.CutPrefix(o.Name, "make-"); ok {
				w.read(p)
			}
		}
	}
	return w
}

// list prints what is mounted.
func (m *mounter) list() error {
	ms, err := sysconf.Mounts("")
	if err != nil {
		return err
	}
	for _, x := range ms {
		if !typeIn(m.Val("t"), x.Type) {
			continue
		}
		label := ""
		if m.On("l") && strings.HasPrefix(x.Source, "/dev/") {
			if c := look(x.Source); c != nil && c.Label != "" {
				label = " [" + c.Label + "]"
			}
		}
		m.Printf("%s\n", printable.Clean(fmt.Sprintf("%s on %s type %s (%s)%s", cmp.Or(x.Source, "none"), x.Path, x.Type, options(x), label)))
	}
	return nil
}

// typeIn reports whether a type is in a list of -t, which may begin with "no".
func typeIn(list, typ string) bool {
	if list == "" {
		return true
	}
	rest, not := strings.CutPrefix(list, "no")
	var found bool
	for t := range strings.SplitSeq(rest, ",") {
		if t == typ {
			found = true
		} else if x, ok := strings.CutPrefix(t, "no"); ok && x == typ {
			return false
		}
	}
	return found != not
}

func (m *mounter) fstab() (*sysconf.Fstab, error) {
	file := m.Or("T", "/etc/fstab")
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %s", file, tools.Cause(err))
	}
	return sysconf.ParseFstab(string(b)), nil
}

// one mounts by a word that is in fstab, or changes what is mounted there.
func (m *mounter) one(word string) error {
	w := m.wish("none", word, m.Val("t"), "")
	if w.flags&unix.MS_REMOUNT != 0 || len(w.spread) > 0 && w.flags&(unix.MS_BIND|unix.MS_MOVE) == 0 {
		return m.report(w)
	}
	f, err := m.fstab()
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	if err != nil || f == nil {
		f = sysconf.ParseFstab("")
	}
	abs, err := filepath.Abs(word)
	if err != nil {
		return err
	}
	entry := f.At(abs)
	for _, x := range f.Entries {
		if entry == nil && (x.Spec == word || x.Spec == abs) && x.Path() != "" {
			entry = x
		}
	}
	if entry == nil {
		return fmt.Errorf("%s: can't find in %s", word, m.Or("T", "/etc/fstab"))
	}
	return m.report(m.wish(entry.Spec, entry.Path(), cmp.Or(m.Val("t"), autoType(entry.Type)), entry.Options))
}

func autoType(t string) string {
	if t == "auto" {
		return ""
	}
	return t
}

// all mounts what fstab has, but for what is mounted.
func (m *mounter) all() error {
	f, err := m.fstab()
	if err != nil {
		return err
	}
	good, bad := 0, 0
	for _, x := range f.Entries {
		if x.Path() == "" || x.Swap() || x.NoAuto() || !typeIn(m.Val("t"), x.Type) || !optionsIn(m.Val("O"), x.Options) {
			continue
		}
		ms, err := sysconf.Mounts("")
		if err != nil {
			return err
		}
		if slices.ContainsFunc(ms, func(y sysconf.Mount) bool { return y.Path == x.Path() }) {
			if m.On("v") {
				m.Printf("%-25s: already mounted\n", x.Path())
			}
			good++
			continue
		}
		w := m.wish(x.Spec, x.Path(), autoType(x.Type), x.Options)
		err = m.mount(w)
		switch {
		case err == nil:
			good++
		case x.NoFail() && errors.Is(err, errNoDevice):
		default:
			m.Fault(mountFailed, "%s: %v", w.dir, err)
			bad++
		}
	}
	return someMounted(good, bad)
}

// someMounted is the exit status for numbers of what is mounted and of what could not be.
func someMounted(good, bad int) error {
	switch {
	case bad > 0 && good > 0:
		return tools.Status(mountSome)
	case bad > 0:
		return tools.Status(mountFailed)
	}
	return nil
}

// optionsIn reports whether options have all of a list of -O.
func optionsIn(list, have string) bool {
	for o := range strings.SplitSeq(list, ",") {
		name, not := strings.CutPrefix(o, "no")
		if o != "" && sysconf.HasOption(have, name) == not && !(not && sysconf.HasOption(have, o)) {
			return false
		}
	}
	return true
}

// report mounts and prints why it failed.
func (m *mounter) report(w *wish) error {
	switch err := m.mount(w); {
	case errors.Is(err, errNoTag):
		m.Fault(1, "%s: %v", w.dir, err)
	case err != nil:
		m.Fault(mountFailed, "%s: %v", w.dir, err)
	}
	return nil
}

// errNoTag is the error of a label or UUID that no device has.
var errNoTag = fmt.Errorf("no such tag: %w", errNoDevice)

// errNoDevice is the error of a source that is not there.
var errNoDevice = errors.New("no such device")

// mount mounts one wish.
func (m *mounter) mount(w *wish) error {
	if w.mkdir {
		if err := os.MkdirAll(w.dir, 0o755); err != nil {
			return err
		}
	}
	if err := m.find(w); err != nil {
		return err
	}
	if m.On("f") {
		return nil
	}
	if err := m.carryOut(w); err != nil {
		return err
	}
	if abs, err := filepath.Abs(w.dir); m.On("v") && err == nil {
		m.Printf("mount: %s mounted on %s.\n", printable.Clean(w.source), printable.Clean(abs))
	}
	return nil
}

// carryOut mounts in the way that the wish needs.
func (m *mounter) carryOut(w *wish) error {
	err := error(nil)
	share := shares.Type(w.source)
	switch {
	case w.flags&(unix.MS_REMOUNT|unix.MS_BIND|unix.MS_MOVE) != 0:
		err = m.again(w)
	case len(w.spread) > 0 && w.source == "none":
	case shares.Known(w.typ) || w.typ == "" && share != "":
		if err = directory(w.dir); err == nil {
			err = m.sys.Mount(w.source, w.dir, cmp.Or(w.typ, share), w.flags, w.data)
		}
	case m.helper(w) != "" && !m.On("i"):
		err = m.runHelper(w)
	default:
		err = m.fileSystem(w)
	}
	if err != nil {
		return err
	}
	return m.spread(w)
}

// find gives the device that a tag names.
func (m *mounter) find(w *wish) error {
	r := sysconf.ParseRef(w.source)
	name, ok := map[sysconf.Kind]string{sysconf.UUID: "UUID", sysconf.Label: "LABEL", sysconf.PartUUID: "PARTUUID", sysconf.PartLabel: "PARTLABEL"}[r.Kind]
	if _, err := os.Stat(w.source); !ok || err == nil {
		return nil
	}
	list, err := devices(true)
	if err != nil {
		return err
	}
	for _, d := range list {
		for _, t := range tags(d.path()) {
			if t.name == name && (t.value == r.Value || r.Kind != sysconf.Label && r.Kind != sysconf.PartLabel && strings.EqualFold(t.value, r.Value)) {
				w.source = d.path()
				return nil
			}
		}
	}
	return fmt.Errorf("can't find %s=%s%.0w", name, printable.Clean(r.Value), errNoTag)
}

// directory reports a mount point that is not there.
func directory(dir string) error {
	st, err := os.Stat(dir)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return errors.New("mount point does not exist")
	case err != nil:
		return err
	case !st.IsDir():
		return errors.New("mount point is not a directory")
	}
	return nil
}

// spread sets how mounts below a directory propagate.
func (m *mounter) spread(w *wish) error {
	for _, p := range w.spread {
		if err := unix.Mount("none", w.dir, "", p, ""); err != nil {
			return fmt.Errorf("cannot change the propagation: %s", tools.Cause(err))
		}
	}
	return nil
}

// again binds, moves and remounts.
func (m *mounter) again(w *wish) error {
	data := strings.Join(w.data, ",")
	err := error(nil)
	if w.flags&unix.MS_REMOUNT != 0 {
		err = w.keep()
	}
	if err == nil {
		err = unix.Mount(w.source, w.dir, w.typ, w.flags, data)
	}
	// A bind takes the flags of its source; the others need a second call.
	if more := w.flags &^ (unix.MS_BIND | unix.MS_REC | unix.MS_SILENT); err == nil && w.flags&unix.MS_BIND != 0 && w.flags&unix.MS_REMOUNT == 0 && more != 0 {
		err = unix.Mount("none", w.dir, "", unix.MS_REMOUNT|unix.MS_BIND|more, "")
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EINVAL) && w.flags&unix.MS_REMOUNT != 0:
		return errors.New("mount point not mounted or bad option")
	case errors.Is(err, unix.EBUSY) && w.flags&unix.MS_REMOUNT != 0:
		return errors.New("mount point is busy. (fuser -vm shows who uses it)")
	case errors.Is(err, unix.ENOENT):
		if _, e := os.Stat(w.source); e != nil && w.flags&unix.MS_REMOUNT == 0 {
			return fmt.Errorf("special device %s does not exist", printable.Clean(w.source))
		}
		return errors.New("mount point does not exist")
	}
	return errors.New(tools.Cause(err))
}

// keep adds the flags that a mount has to those of a remount that changes others: without them
// the kernel would clear them, and make a read-only file system writable.
func (w *wish) keep() error {
	dir, err := filepath.Abs(w.dir)
	if err == nil {
		dir, err = filepath.EvalSymlinks(dir)
	}
	if err != nil {
		return err
	}
	ms, err := sysconf.Mounts("")
	if err != nil {
		return err
	}
	for _, m := range slices.Backward(ms) { // the last one covers those before
		if m.Path == dir {
			w.keepOf(m)
			return nil
		}
	}
	return unix.EINVAL // as the kernel answers
}

// keepOf adds the flags of a mount that w does not name.
func (w *wish) keepOf(m sysconf.Mount) {
	var have uintptr
	words := sysconf.SplitOptions(m.Options)
	whole := w.flags&unix.MS_BIND == 0
	if whole {
		words = append(words, sysconf.SplitOptions(m.Super)...)
	}
	for _, o := range words {
		have |= mountFlags[o].set
	}
	if have&(unix.MS_NOATIME|unix.MS_RELATIME) == 0 {
		have |= unix.MS_STRICTATIME
	}
	w.flags |= have &^ w.named
	// Where only this mount of the file system is read-only, the others stay writable.
	bits := uintptr(unix.MS_REMOUNT | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NODIRATIME | unix.MS_NOSYMFOLLOW | accessTimes)
	if whole && sysconf.HasOption(m.Options, "ro") && !sysconf.HasOption(m.Super, "ro") && w.named&^bits == 0 && len(w.data) == 0 {
		w.flags |= unix.MS_BIND
	}
}

// helper is the program that mounts a type, "" without one.
func (m *mounter) helper(w *wish) string {
	typ := w.typ
	if typ == "" || strings.ContainsAny(typ, "/,") {
		return ""
	}
	for _, dir := range []string{"/sbin", "/usr/sbin", "/usr/bin"} {
		if st, err := os.Stat(dir + "/mount." + typ); err == nil && st.Mode()&0o111 != 0 {
			return dir + "/mount." + typ
		}
	}
	return ""
}

func (m *mounter) runHelper(w *wish) error {
	words := append([]string{}, w.data...)
	for name, f := range mountFlags {
		if f.set != 0 && w.flags&f.set == f.set && f.set&(f.set-1) == 0 {
			words = append(words, name)
		}
	}
	args := []string{w.source, w.dir}
	if slices.Sort(words); len(words) > 0 {
		args = append(args, "-o", strings.Join(words, ","))
	}
	c := exec.Command(m.helper(w), args...)
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := c.Run(); err != nil {
		return fmt.Errorf("%s: %w", c.Path, err)
	}
	return nil
}

// fileSystem mounts a device, a file over a loop device, or what has no device.
func (m *mounter) fileSystem(w *wish) error {
	st, statErr := os.Stat(w.source)
	name := w.source
	if w.loop || statErr == nil && st.Mode().IsRegular() {
		hold, err := m.setUpLoop(w)
		if err != nil {
			return fmt.Errorf("failed to setup loop device for %s: %s", printable.Clean(name), tools.Cause(err))
		}
		defer hold.Close()
	}
	types := strings.Split(w.typ, ",")
	if w.typ == "" || w.typ == "auto" {
		info := look(w.source)
		switch {
		case statErr != nil:
			return fmt.Errorf("special device %s does not exist%.0w", printable.Clean(name), errNoDevice)
		case info == nil:
			return wrongType(name, nil)
		}
		types = fstype.Of(info.Type).MountTypes()
		if w.typ = info.Type; m.helper(w) != "" && !m.On("i") {
			return m.runHelper(w)
		}
	}
	log := kernelLog()
	defer log.Close()
	var err error
	for _, t := range types {
		if err = m.call(w, t); err == nil || !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENODEV) {
			break
		}
	}
	if err == nil {
		return nil
	}
	return m.explain(w, err, statErr, types[len(types)-1], log)
}

// call mounts; what can't be written to is mounted read-only.
func (m *mounter) call(w *wish, typ string) error {
	data := strings.Join(w.data, ",")
	err := unix.Mount(w.source, w.dir, typ, w.flags, data)
	if errors.Is(err, unix.ENODEV) {
		_ = exec.Command("modprobe", "-q", "fs-"+typ).Run() // the second try reports it
		err = unix.Mount(w.source, w.dir, typ, w.flags, data)
	}
	if (errors.Is(err, unix.EROFS) || errors.Is(err, unix.EACCES)) && w.flags&unix.MS_RDONLY == 0 && os.Geteuid() == 0 {
		if unix.Mount(w.source, w.dir, typ, w.flags|unix.MS_RDONLY, data) == nil {
			m.Fault(0, "%s: WARNING: source write-protected, mounted read-only.", w.dir)
			return nil
		}
	}
	return err
}

// setUpLoop puts a loop device over a file; it is kept until it is mounted, and goes away
// when it is unmounted.
func (m *mounter) setUpLoop(w *wish) (*os.File, error) {
	mode := os.O_RDWR
	if w.flags&unix.MS_RDONLY != 0 {
		mode = os.O_RDONLY
	}
	back, err := os.OpenFile(w.source, mode, 0)
	if errors.Is(err, unix.EROFS) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
		mode = os.O_RDONLY
		back, err = os.Open(w.source)
	}
	if err != nil {
		return nil, err
	}
	defer back.Close()
	c := unix.LoopConfig{Fd: uint32(back.Fd()), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR}}
	if mode == os.O_RDONLY {
		c.Info.Flags |= unix.LO_FLAGS_READ_ONLY
		w.flags |= unix.MS_RDONLY
	}
	for name, field := range map[string]*uint64{"offset": &c.Info.Offset, "sizelimit": &c.Info.Sizelimit} {
		if v := w.loopOptions[name]; v != "" {
			n, err := tools.Size(v)
			if err != nil {
				return nil, err
			}
			*field = uint64(n)
		}
	}
	abs, err := filepath.Abs(w.source)
	if err != nil {
		return nil, err
	}
	copy(c.Info.File_name[:], abs)
	name, hold, err := blockdev.Loop(&c)
	if errors.Is(err, os.ErrNotExist) {
		_ = exec.Command("modprobe", "-q", "loop").Run() // the second try reports it
		name, hold, err = blockdev.Loop(&c)
	}
	w.source = "/dev/" + name
	return hold, err
}

func wrongType(source string, log []string) error {
	text := fmt.Sprintf("wrong fs type, bad option, bad superblock on %s, missing codepage or helper program, or other error", printable.Clean(source))
	if len(log) > 0 {
		text += "\nthe kernel reports: " + strings.Join(log, "\n")
	}
	return errors.New(text)
}

// explain words an error of mount(2).
func (m *mounter) explain(w *wish, err, statErr error, typ string, log *os.File) error {
	source := printable.Clean(w.source)
	if e := directory(w.dir); e != nil && !errors.Is(err, unix.EPERM) {
		return e
	}
	hints := map[string]string{"crypto_LUKS": "open it first: cryptsetup open %s NAME; mount /dev/mapper/NAME", "LVM2_member": "activate its volumes: lvm vgchange -ay; lvm lvs", "linux_raid_member": "assemble the array: mdadm --assemble --scan; it was on %s", "swap": "it is for swapon %s"}
	switch {
	case errors.Is(err, unix.EPERM) && os.Geteuid() != 0:
		return errors.New("must be superuser to use mount")
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("%s already mounted or mount point busy", source)
	case errors.Is(err, unix.ENODEV):
		text := fmt.Sprintf("unknown filesystem type '%s'", printable.Clean(typ))
		if h := hints[typ]; h != "" {
			text += "\n" + strings.ReplaceAll(h, "%s", source)
		}
		return errors.New(text)
	case errors.Is(err, unix.ENOTBLK):
		return fmt.Errorf("%s is not a block device", source)
	case errors.Is(err, unix.ENOENT) && statErr != nil:
		return fmt.Errorf("special device %s does not exist%.0w", source, errNoDevice)
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EIO), errors.Is(err, unix.EUCLEAN):
		return wrongType(w.source, newLines(log))
	}
	return fmt.Errorf("mount(2) system call failed: %s", tools.Cause(err))
}
