// Package repair opens an installed system, by its layout or by what is on disks, compares
// it with a backup set, and closes it again. It makes and formats nothing.
package repair

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/bootloader"
	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/inroot"
	"github.com/mkcdrec/mkcdrec/internal/interrupt"
	"github.com/mkcdrec/mkcdrec/internal/kernel"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/medium"
	"github.com/mkcdrec/mkcdrec/internal/probe"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/rescue"
	"github.com/mkcdrec/mkcdrec/internal/storage"
	"github.com/mkcdrec/mkcdrec/internal/superblock"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

// Opener opens an installed system, and closes it again.
type Opener struct {
	Run    tool.Runner
	Report progress.Reporter
	Target string // rescue.TargetDir
	// KeyFile opens LUKS devices; without it Secret asks.
	KeyFile string
	Secret  func(prompt string) ([]byte, error)
	// Access is how arrays, LUKS devices, volume groups and file systems are opened.
	// With storage.ReadOnly not one bit of a disk changes: what can't be opened so
	// stays closed.
	Access storage.Access
	// Loops are loop devices that are looked at as disks are: images of disks.
	Loops []string
	// Bare leaves /dev, /proc, /sys and /run out of the opened system.
	Bare bool
	// Apart has FromDisks give arrays names that no other system's have, so that another
	// one with the same names can be made beside it.
	Apart bool
	// keys are those that opened something.
	keys [][]byte
	// told are the arrays whose missing members were reported.
	told []string
}

func (r *Opener) kernel() kernel.Kernel { return kernel.Of(r.Run) }

func (r *Opener) machine() probe.Machine {
	return probe.Machine{Root: strings.TrimSuffix(r.kernel().Path("/"), "/"), Run: r.Run}
}

func (r *Opener) finder() medium.Finder { return medium.Finder{Kernel: r.kernel()} }

// kernelMounts are bound into the system, so that programs work in a chroot.
var kernelMounts = []string{"dev", "dev/pts", "proc", "sys", "run"}

// Mount activates the layout's volume groups, and mounts its file systems
// below Target, found by their UUIDs, by any names of their devices.
// It gives the mount points. On error everything is closed again.
func (r *Opener) Mount(ctx context.Context, l *layout.Layout) (mounted []string, err error) {
	defer func() {
		if err == nil {
			return
		}
		// What another run has mounted stays.
		if below, e := storage.Mounted(r.kernel(), func(at string) bool { return storage.Below(r.Target, at) }); e != nil || len(mounted) > 0 || len(below) == 0 {
			err = errors.Join(err, e, r.Unmount(ctx, l))
			mounted = nil
		}
	}()
	if err := r.openAll(ctx, l); err != nil {
		return nil, err
	}
	devs, err := r.finder().Devices(r.Loops...)
	if err != nil {
		return nil, err
	}
	devs = slices.DeleteFunc(devs, func(d medium.Device) bool { return d.Held })
	todo := places(l)
	if len(todo) == 0 || todo[0].path != "/" {
		return nil, errors.New("cannot mount the system: its layout has no root file system")
	}
	for _, m := range todo {
		err := r.mount(m, devs)
		if err != nil {
			err = errors.Join(err, r.storesFull(ctx, l))
		}
		switch {
		case err == nil:
			mounted = append(mounted, m.path)
		case m.path == "/":
			return mounted, err
		default:
			r.Report.Warn("%v", err)
		}
	}
	if r.Bare {
		return mounted, nil
	}
	return r.bind(mounted)
}

// openAll starts arrays, opens LUKS devices and activates groups.
func (r *Opener) openAll(ctx context.Context, l *layout.Layout) error {
	if err := r.StartArrays(ctx, l); err != nil {
		return err
	}
	if err := r.OpenCrypts(ctx, l); err != nil {
		return err
	}
	for _, g := range l.VolumeGroup {
		if err := storage.ActivateGroup(ctx, r.Run, g.Name, r.Access); err != nil {
			if r.Access != storage.ReadOnly {
				return err
			}
			r.Report.Warn("%v", err)
		}
	}
	return r.OpenCrypts(ctx, l) // on logical volumes
}

// places are what a layout mounts, the root first.
func places(l *layout.Layout) []toMount {
	var todo []toMount
	for _, f := range l.Filesystems {
		if f.Excluded != "" {
			continue // the set's own file system, or what is not part of the system
		}
		for _, m := range f.Mounts {
			todo = append(todo, toMount{m.Path, m.Subvolume, m.Owners(), f})
		}
		for _, m := range f.Parts() {
			if m.Path == "" { // what is at no path
				todo = append(todo, toMount{"", "", "", f})
			}
		}
	}
	slices.SortFunc(todo, func(a, b toMount) int {
		return cmp.Or(strings.Compare(min(b.path, "/"), min(a.path, "/")), strings.Compare(a.path, b.path)) // those without a path last
	})
	return todo
}

// bind mounts what programs in the system need, and gives the mount points with those that
// are there.
func (r *Opener) bind(mounted []string) ([]string, error) {
	for _, k := range kernelMounts {
		dir := filepath.Join(r.Target, k)
		if _, err := os.Stat(dir); err != nil {
			continue
		}
		if err := r.kernel().Mount("/"+k, dir, "", unix.MS_BIND, ""); err != nil {
			return mounted, fmt.Errorf("cannot bind /%s on %s: %w", k, dir, err)
		}
		mounted = append(mounted, dir)
	}
	efivars := "sys/firmware/efi/efivars"
	if _, err := os.Stat(filepath.Join(r.Target, efivars)); err == nil {
		if err := r.kernel().Mount("/"+efivars, filepath.Join(r.Target, efivars), "", unix.MS_BIND, ""); err == nil {
			mounted = append(mounted, filepath.Join(r.Target, efivars))
		}
	}
	return mounted, nil
}

// storesFull reports volume groups that were opened read-only and wrote more than there is
// memory for.
func (r *Opener) storesFull(ctx context.Context, l *layout.Layout) error {
	if r.Access != storage.ReadOnly {
		return nil
	}
	var errs []error
	for _, g := range l.VolumeGroup {
		errs = append(errs, storage.StoreFull(ctx, r.Run, g.Name))
	}
	return errors.Join(errs...)
}

// toMount is a place in the tree and what belongs there.
type toMount struct {
	path, subvolume, owners string // path "": the root of a file system that has none
	fs                      layout.Filesystem
}

// mountDevice mounts the device of m on a directory.
func (r *Opener) mountDevice(m toMount, d medium.Device, devs []medium.Device, dir string) error {
	flags := uintptr(0)
	if r.Access == storage.ReadOnly {
		flags = unix.MS_RDONLY
	}
	data, typ := "", d.Info.Type
	if t := fstype.Of(typ); t.Foreign {
		data = m.owners
	} else if flags == 0 { // Mount has it
		data = t.Mount
	}
	switch {
	case typ == fstype.TypeBtrfs:
		return storage.MountBtrfs(r.kernel(), d.Name, othersOf(d, devs), m.subvolume, dir, flags)
	case flags != 0:
		return r.finder().Mount(d, dir, data)
	}
	if err := r.kernel().Mount("/dev/"+d.Name, dir, typ, flags, data); err != nil {
		return fmt.Errorf("cannot mount /dev/%s on %s: %w (e2fsck or xfs_repair may repair it)", d.Name, dir, err)
	}
	return nil
}

// mount mounts one file system, found among devs by its UUID.
func (r *Opener) mount(m toMount, devs []medium.Device) error {
	i := slices.IndexFunc(devs, func(d medium.Device) bool {
		// A restore may have made another type of it.
		return d.Info.UUID != "" && strings.EqualFold(d.Info.UUID, m.fs.UUID) && d.Info.Type != superblock.TypeMD && d.Info.Type != superblock.TypeLVM
	})
	if i < 0 {
		return fmt.Errorf("cannot find the file system of %s (%s, UUID %s)", m.path, m.fs.Type, m.fs.UUID)
	}
	dir, err := mountPoint(r.Target, m.path)
	if m.path == "" {
		dir = storage.PrivateDir(r.Target, m.fs.Device)
		err = os.MkdirAll(dir, 0o700)
	}
	if err != nil {
		return fmt.Errorf("cannot make mount point %s: %w", m.path, err)
	}
	if err := r.mountDevice(m, devs[i], devs, dir); err != nil {
		return err
	}
	r.Report.Note("/dev/%s on %s (%s)", devs[i].Name, dir, devs[i].Info.Type)
	if !rescue.Inside() {
		return nil // udev names devices there
	}
	if _, err := bootloader.NameByUUID("/dev", devs[i].Name, devs[i].Info.UUID); err != nil {
		r.Report.Warn("%v", err)
	}
	return nil
}

// mountPoint gives the directory for a path of the system below target, and makes
// it. Links in the system are its own: one to /data is target's.
func mountPoint(target, path string) (string, error) {
	if err := os.MkdirAll(target, 0o755); err != nil {
		return "", err
	}
	return inroot.MkdirAll(target, path, 0o755)
}

// Keys are the passphrases that opened LUKS devices.
func (r *Opener) Keys() [][]byte { return r.keys }

// OpenCrypts opens the LUKS devices that are there by now, found by their UUIDs.
func (r *Opener) OpenCrypts(ctx context.Context, l *layout.Layout) error {
	if len(l.Crypts) == 0 {
		return nil
	}
	devs, err := r.finder().Devices(r.Loops...)
	if err != nil {
		return err
	}
	for i := range l.Crypts {
		c := &l.Crypts[i]
		n := slices.IndexFunc(devs, func(d medium.Device) bool {
			return d.Info.Type == superblock.TypeLUKS && strings.EqualFold(d.Info.UUID, c.UUID)
		})
		if n < 0 {
			continue
		}
		if err := r.unlock(ctx, c, devs[n].Name); err != nil {
			return err
		}
	}
	return nil
}

// ErrNoPassphrase is returned when no passphrase was given.
var ErrNoPassphrase = errors.New("no passphrase given; use --key-file to name a file with it")

// unlock opens one LUKS device, unless it is open: by a key that opened
// another, by KeyFile, or by asking, three times. An empty answer gives up.
func (r *Opener) unlock(ctx context.Context, c *layout.Crypt, dev string) error {
	if storage.CryptIsOpen(r.Run, c.Name) {
		return nil
	}
	if r.keys == nil && r.KeyFile != "" {
		b, err := interrupt.ReadFile(ctx, r.KeyFile)
		if err != nil {
			return fmt.Errorf("cannot read the key file: %w", err)
		}
		r.keys = append(r.keys, b)
	}
	if slices.ContainsFunc(r.keys, func(k []byte) bool { return storage.OpenCrypt(ctx, r.Run, c, dev, k, r.Access) == nil }) {
		return nil
	}
	var err error
	for range 3 {
		k, e := r.Secret("Passphrase of " + c.Name + " on /dev/" + dev + ": ")
		if e != nil || len(k) == 0 {
			return fmt.Errorf("cannot open %s: %w", c.Name, ErrNoPassphrase)
		}
		if err = storage.OpenCrypt(ctx, r.Run, c, dev, k, r.Access); err == nil {
			r.keys = append(r.keys, k)
			return nil
		}
	}
	return err
}

// Unmount writes everything to the disks, unmounts what lies below Target, and
// deactivates the layout's volume groups.
func (r *Opener) Unmount(ctx context.Context, l *layout.Layout) error {
	r.kernel().Sync()
	below, err := storage.Mounted(r.kernel(), func(at string) bool { return storage.Below(r.Target, at) })
	if err != nil {
		return err
	}
	var errs []error
	for _, dir := range below {
		if err := r.kernel().Unmount(dir); err != nil {
			errs = append(errs, fmt.Errorf("cannot unmount %s: %w (is a shell or a program still in there?)", dir, err))
		}
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	for i := range l.Crypts {
		if c := &l.Crypts[i]; l.Group(c.Device) != nil { // on a logical volume
			errs = append(errs, storage.CloseCrypt(ctx, r.Run, c.Name))
		}
	}
	for _, g := range l.VolumeGroup {
		errs = append(errs, storage.DeactivateGroup(ctx, r.Run, g.Name))
	}
	for _, c := range slices.Backward(l.Crypts) {
		errs = append(errs, storage.CloseCrypt(ctx, r.Run, c.Name))
	}
	running, err := filepath.Glob(r.kernel().Path("/sys/block/md*/md"))
	if err != nil {
		return err
	}
	for _, d := range running {
		// In a rescue system nobody else starts arrays.
		if name := filepath.Base(filepath.Dir(d)); l.Array(name) != nil || rescue.Inside() {
			errs = append(errs, storage.StopArray(ctx, r.Run, name))
		}
	}
	return errors.Join(errs...)
}

// StartArrays starts the layout's arrays that are there, and others: a restore
// may have made them, or done without (--mirror, --unmirror).
func (r *Opener) StartArrays(ctx context.Context, l *layout.Layout) error {
	devs, err := r.finder().Devices(r.Loops...)
	if err != nil {
		return err
	}
	there := members(r.machine(), devs)
	for _, a := range l.Arrays {
		if there[a.UUID] == nil {
			r.Report.Warn("the RAID array %s (UUID %s) is not there", a.Name, a.UUID)
			continue
		}
		named := there[a.UUID]
		delete(there, a.UUID)
		if err := storage.AssembleArray(ctx, r.Run, a.Name, a.UUID, named, r.Access); err != nil {
			return r.degraded(err)
		}
		r.missing(a.Name)
	}
	if !rescue.Inside() {
		return nil
	}
	n := 127
	for _, uuid := range slices.Sorted(maps.Keys(there)) {
		for l.Array(fmt.Sprint("md", n)) != nil {
			n--
		}
		name := fmt.Sprint("md", n)
		if err := storage.AssembleArray(ctx, r.Run, name, uuid, there[uuid], r.Access); err != nil {
			r.Report.Warn("%v", r.degraded(err))
		}
		r.missing(name)
		n--
	}
	return nil
}

// degraded adds to the failure of an array what may help.
func (r *Opener) degraded(err error) error {
	if r.Access == storage.ReadWrite {
		return fmt.Errorf("%w\nif members of it are missing, run restore mount --degraded to start it without them, or restore mount --ro to read it", err)
	}
	return err
}

// missing warns of an array that runs without some of its members.
func (r *Opener) missing(name string) {
	if n := storage.MissingMembers(r.Run, name); n > 0 && !slices.Contains(r.told, name) {
		r.told = append(r.told, name)
		r.Report.Warn("the RAID array %s runs without %d of its members", name, n)
	}
}

// members gives the devices of each array that is there, by its UUID. Of a disk and its
// partition that show the same superblock, which may be at the end of both, it is the
// partition. mdadm(8) is given them by name: where it looks for them itself, it starts an
// array also without those that are missing (start_partial_ok of its Assemble.c).
func members(m probe.Machine, devs []medium.Device) map[string][]string {
	out := map[string][]string{}
	for _, d := range devs {
		if d.Info.MD == nil || slices.ContainsFunc(devs, func(o medium.Device) bool {
			return o.Name != d.Name && o.Info.MD != nil && o.Info.MD.UUID == d.Info.MD.UUID && slices.Equal(m.DisksOf(o.Name), []string{d.Name})
		}) {
			continue
		}
		out[d.Info.MD.UUID] = append(out[d.Info.MD.UUID], d.Name)
	}
	return out
}
