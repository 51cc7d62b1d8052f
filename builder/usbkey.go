package builder

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/builder/rescue"
	"github.com/mkcdrec/mkcdrec/builder/set"
	"github.com/mkcdrec/mkcdrec/internal/blockdev"
	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/media"
	"github.com/mkcdrec/mkcdrec/internal/probe"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/regular"
	"github.com/mkcdrec/mkcdrec/internal/stick"
	"github.com/mkcdrec/mkcdrec/internal/store"
	"github.com/mkcdrec/mkcdrec/internal/superblock"
	"github.com/mkcdrec/mkcdrec/internal/tool"
	"github.com/mkcdrec/mkcdrec/internal/uuid"
)

// KeyOptions are how a stick is made or updated.
type KeyOptions struct {
	Device string // the whole stick: "/dev/sdb", or a link to it
	// Keep is how many backup sets of this machine stay on the stick.
	Keep int
	// MakeRoom removes old sets of this machine before the new one is written,
	// if there would be no room for it.
	MakeRoom bool
	// RescueSize is how large a rescue system may become; 0 decides by the
	// stick's size. Only for a new key.
	RescueSize quantity.Size
	// Format reformats the key even if it is one.
	Format bool
	// Fixed allows a disk that is not removable.
	Fixed bool
	// Confirm is asked before a stick is overwritten. One of d.Words confirms it, never
	// its kernel name; d.Holds is what is on it.
	Confirm func(d layout.Present) error
}

// KeyResult is what is on the stick now.
type KeyResult struct {
	Device      string   `json:"device"`
	Set         string   `json:"set"`         // the new one's name
	Generations []string `json:"generations"` // all sets of this machine there, newest first
	Removed     []string `json:"removed,omitempty"`
	NotCovered  []string `json:"notCovered,omitempty"`
}

// keyLabel is the label of a key's file system.
const keyLabel = "MKCDREC_KEY"

// Key writes a rescue system and a backup set to a stick. A stick that is no
// key yet is divided and loses everything, after Confirm; on one that is, the
// new rescue system replaces the older of two, and sets are added. Until the
// set is whole, the stick starts as before and has what it had.
func (b *Builder) Key(ctx context.Context, opt KeyOptions) (*KeyResult, error) {
	w := &keyWriter{b: b, opt: opt, m: probe.Machine{Run: b.Run}}
	if err := w.open(); err != nil {
		return nil, err
	}
	defer func() { w.f.Close() }() // share replaces it
	p, err := w.plan(ctx)
	if err != nil {
		return nil, err
	}
	for _, e := range p.LeftOut {
		b.Report.Note("left out: %s", e)
	}
	if w.fresh {
		if err := opt.Confirm(w.present); err != nil {
			return nil, err
		}
	}
	work, end, err := regular.TempDir("/var/tmp", "mkcdrec-key-")
	if err != nil {
		return nil, fmt.Errorf("cannot make the key: %w", err)
	}
	defer end()
	// The rescue system first: what is missing for it must fail before the
	// stick is touched.
	if err := w.rescue(ctx, p, work); err != nil {
		return nil, err
	}
	if w.fresh {
		err = w.format(ctx)
	} else {
		err = w.share()
	}
	if err != nil {
		return nil, err
	}
	return w.write(ctx, p)
}

// KeyPlan gives what Key would save: all but the stick. Nothing is written.
func (b *Builder) KeyPlan(ctx context.Context, opt KeyOptions) (*Plan, error) {
	w := &keyWriter{b: b, opt: opt, m: probe.Machine{Run: b.Run}}
	if err := w.open(); err != nil {
		return nil, err
	}
	defer w.f.Close()
	return w.plan(ctx)
}

func (w *keyWriter) plan(ctx context.Context) (*Plan, error) {
	l, mounts, err := w.b.Probe(ctx, w.disk.Name)
	if err != nil {
		return nil, err
	}
	return NewPlan(w.b.Config, l, mounts, "")
}

type keyWriter struct {
	b    *Builder
	opt  KeyOptions
	m    probe.Machine
	disk layout.Disk
	// present is the stick as it was after it was opened.
	present layout.Present
	// f is the whole stick, opened exclusively until share.
	f     *os.File
	key   media.Key
	fresh bool // the stick is to be divided
	bios  *media.BIOSLoader
	image string
	setID string
	mkfs  string // the type of the data partition
}

// open finds the stick and refuses what is not one.
func (w *keyWriter) open() error {
	if err := w.find(); err != nil {
		return err
	}
	name := w.disk.Name
	refuse := func(format string, a ...any) error {
		return &exit.Refusal{Reason: fmt.Sprintf("/dev/%s (%s, serial %s, %s) ", name, cmp.Or(w.disk.Model, "no model"), cmp.Or(w.disk.Serial, "none"), w.disk.Size) + fmt.Sprintf(format, a...)}
	}
	if !w.disk.Removable && !onUSB(name) && !w.opt.Fixed {
		return refuse("is not removable; use --fixed-disk to take it")
	}
	if busy := w.m.Busy(name); busy != "" {
		return refuse("is in use: %s", busy)
	}
	if w.disk.LogicalSector != 512 {
		return refuse("has sectors of %d bytes; BIOS machines start from sticks with 512 only", w.disk.LogicalSector)
	}
	var err error
	if w.f, err = os.OpenFile("/dev/"+name, os.O_RDWR|unix.O_EXCL, 0); errors.Is(err, unix.EBUSY) {
		return refuse("is in use by another program, or by the kernel")
	} else if err != nil {
		return fmt.Errorf("cannot use the stick: %w", err)
	}
	if err = w.identify(); err == nil {
		if err = lockDisk(w.f, lockWait); err != nil {
			err = fmt.Errorf("cannot use /dev/%s: another program works on it: %w", name, err)
		}
	}
	if err == nil {
		err = w.header(refuse)
	}
	if err != nil {
		w.f.Close()
	}
	return err
}

// header reads the header of a stick that is a key, or makes one.
func (w *keyWriter) header(refuse func(format string, a ...any) error) (err error) {
	w.key.Header, err = stick.Read(w.f)
	if !w.opt.Format && err == nil {
		return nil
	}
	if !w.opt.Format && !errors.Is(err, stick.ErrNone) {
		return fmt.Errorf("cannot use the key /dev/%s: %w; --format makes a new one, and what is on it is lost", w.disk.Name, err)
	}
	w.fresh = true
	size := int64(w.opt.RescueSize)
	if size == 0 {
		size = 512 << 20
		if w.disk.Size < 8<<30 {
			size = 256 << 20
		}
	}
	if w.key.Header, err = stick.New(uuid.New(), int64(w.disk.Size), size); err != nil {
		return refuse("is too small: %v", err)
	}
	return nil
}

// find finds the disk that was named.
func (w *keyWriter) find() error {
	real, err := filepath.EvalSymlinks(w.opt.Device)
	if err != nil {
		return fmt.Errorf("cannot use the stick: %w", err)
	}
	name := strings.TrimPrefix(real, "/dev/")
	disks, err := w.m.Disks()
	if err != nil {
		return err
	}
	i := slices.IndexFunc(disks, func(d layout.Disk) bool { return d.Name == name })
	if i < 0 {
		if of := w.m.DisksOf(name); len(of) == 1 && of[0] != name {
			return fmt.Errorf("cannot use %s: it is a partition; name the whole stick, /dev/%s", w.opt.Device, of[0])
		}
		return fmt.Errorf("cannot use %s: it is not a disk", w.opt.Device)
	}
	w.disk = disks[i]
	return nil
}

// lockWait is for how long another program may look at a disk that was just
// written to or put in: udev does, a second or two on a busy machine.
const lockWait = 15 * time.Second

// lockDisk takes the lock that udev respects, too: systemd.io/BLOCK_DEVICE_LOCKING.
func lockDisk(f *os.File, wait time.Duration) error {
	for end := time.Now().Add(wait); ; time.Sleep(50 * time.Millisecond) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) || time.Now().After(end) {
			return err
		}
	}
}

// identify looks at the stick again once it is open: what is shown and confirmed
// is what was opened, however the kernel's names have changed.
func (w *keyWriter) identify() error {
	all, err := w.m.Present(nil)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(all, func(p layout.Present) bool { return p.Name == w.disk.Name })
	if i < 0 {
		return &exit.Refusal{Reason: fmt.Sprintf("/dev/%s is missing now", w.disk.Name)}
	}
	w.present = all[i]
	var st unix.Stat_t
	if err := unix.Fstat(int(w.f.Fd()), &st); err != nil {
		return fmt.Errorf("cannot use the stick: %w", err)
	}
	size, err := w.f.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("cannot use the stick: %w", err)
	}
	p, dev := w.present, fmt.Sprintf("%d:%d", unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev)))
	if p.Model != w.disk.Model || p.Serial != w.disk.Serial || p.WWN != w.disk.WWN || int64(p.Size) != size || p.Place.Dev != "" && p.Place.Dev != dev {
		return &exit.Refusal{Reason: fmt.Sprintf("/dev/%s is another disk than a moment ago: %s", w.disk.Name, p.Target())}
	}
	return nil
}

// share opens the stick again, so that its partitions can be used: the kernel
// gives none of a disk that is held exclusively.
func (w *keyWriter) share() error {
	if err := w.f.Close(); err != nil {
		return fmt.Errorf("cannot use the stick: %w", err)
	}
	f, err := os.OpenFile("/dev/"+w.disk.Name, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("cannot use the stick: %w", err)
	}
	was := w.present.Place
	w.f = f
	if err := lockDisk(f, lockWait); err != nil {
		return fmt.Errorf("cannot use /dev/%s: another program works on it: %w", w.disk.Name, err)
	}
	if err := w.identify(); err != nil {
		return err
	}
	if w.present.Place != was {
		return &exit.Refusal{Reason: fmt.Sprintf("/dev/%s is another disk than a moment ago: %s", w.disk.Name, w.present.Target())}
	}
	return nil
}

// onUSB reports whether a disk is attached to a USB: not all of those call themselves
// removable.
func onUSB(disk string) bool {
	real, err := filepath.EvalSymlinks("/sys/block/" + disk)
	return err == nil && strings.Contains(real, "/usb")
}

// rescue makes the rescue system's image.
func (w *keyWriter) rescue(ctx context.Context, p *Plan, work string) error {
	plain := fstype.Names(func(t *fstype.Type) bool { return t.Plain != nil })
	for _, n := range plain {
		if _, err := exec.LookPath("mkfs." + n); err == nil && w.mkfs == "" {
			w.mkfs = n
		}
	}
	if w.mkfs == "" && w.fresh {
		return fmt.Errorf("cannot make the key: there is neither mkfs.%s here", strings.Join(plain, " nor mkfs."))
	}
	m := w.b.Maker()
	m.Config.ExtraModules = append(slices.Clone(m.Config.ExtraModules), plain...)
	w.setID = uuid.New()
	s, err := m.System(ctx, p.Machine(), rescue.Hint{SetID: w.setID, FSUUID: w.key.ID}, work)
	if err != nil {
		return err
	}
	w.image = filepath.Join(work, "rescue.iso")
	if err := s.Image(ctx, w.image, func(i *media.ISO) {
		if i.BIOS != nil && i.BIOS.PartitionCode == "" {
			w.b.Report.Warn("the key will not start on BIOS machines: isohdppx.bin and mbr.bin of syslinux are missing")
			i.BIOS = nil
		}
		w.bios = i.BIOS
		i.InPartition = true
	}); err != nil {
		return err
	}
	st, err := os.Stat(w.image)
	if err != nil {
		return err
	}
	if room := w.key.Room(); st.Size() > room {
		return fmt.Errorf("cannot put the rescue system on the key: it has %s, and the key's places for it have %s; --format --rescue-size %dM reformats the key and loses what is on it", quantity.Size(st.Size()), quantity.Size(room), st.Size()>>20+128)
	}
	return nil
}

func (w *keyWriter) dataName() string { return layout.PartitionName(w.disk.Name, 3) }

// format divides the stick and makes its file system.
func (w *keyWriter) format(ctx context.Context) error {
	w.b.Report.Phase("dividing the stick", 0)
	if err := w.key.Format(w.f, int64(w.disk.Size), w.bios); err != nil {
		return err
	}
	if err := blockdev.Reread(ctx, w.f); err != nil {
		return err
	}
	if err := w.share(); err != nil {
		return err
	}
	return w.makeFS(ctx)
}

func (w *keyWriter) makeFS(ctx context.Context) error {
	dev := "/dev/" + w.dataName()
	if err := blockdev.Await(ctx, w.dataName(), quantity.Size(w.key.Data.Bytes())); err != nil {
		return err
	}
	c := fstype.Of(w.mkfs).Plain(keyLabel, w.key.ID, dev)
	if _, err := w.b.Run.Run(ctx, tool.New(c...)); err != nil {
		return fmt.Errorf("cannot make the key's file system: %w", err)
	}
	return nil
}

// mount mounts the key's file system; the second result takes it away again.
func (w *keyWriter) mount(ctx context.Context) (string, func() error, error) {
	dev := "/dev/" + w.dataName()
	if err := blockdev.Await(ctx, w.dataName(), quantity.Size(w.key.Data.Bytes())); err != nil {
		return "", nil, err
	}
	probe := func() (*superblock.Info, error) {
		f, err := os.Open(dev)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		return superblock.Probe(f, w.key.Data.Bytes())
	}
	i, err := probe()
	if err == nil && i == nil { // a run was killed between dividing and this
		if err = w.makeFS(ctx); err == nil {
			i, err = probe()
		}
	}
	if err != nil {
		return "", nil, fmt.Errorf("cannot use the key's file system: %w", err)
	}
	if i == nil || !strings.EqualFold(i.UUID, w.key.ID) {
		return "", nil, fmt.Errorf("cannot use the key's file system: %s is not the one that was made for it (UUID %s)", dev, w.key.ID)
	}
	dir, err := os.MkdirTemp("/run", "mkcdrec-key-*")
	if err != nil {
		return "", nil, fmt.Errorf("cannot use the key's file system: %w", err)
	}
	if err := unix.Mount(dev, dir, i.Type, unix.MS_NOATIME|unix.MS_NODEV|unix.MS_NOSUID|unix.MS_NOEXEC, ""); err != nil {
		return "", nil, errors.Join(fmt.Errorf("cannot mount %s: %w", dev, err), os.Remove(dir))
	}
	return dir, func() error {
		if err := unix.Unmount(dir, 0); err != nil {
			return fmt.Errorf("cannot unmount the key: %w", err)
		}
		return os.Remove(dir)
	}, nil
}

// write adds the set and the rescue system.
func (w *keyWriter) write(ctx context.Context, p *Plan) (res *KeyResult, err error) {
	dir, unmount, err := w.mount(ctx)
	if err != nil {
		return nil, err
	}
	mounted := true
	defer func() {
		if mounted {
			err = errors.Join(err, unmount())
		}
	}()
	res = &KeyResult{Device: "/dev/" + w.disk.Name}
	if err := set.RemoveStale(dir, p.Layout.Hostname, w.b.Report.Note); err != nil {
		return nil, err
	}
	if err := w.room(dir, p, res); err != nil {
		return nil, err
	}
	// The rescue system is not in the set: it has a place of its own on the stick.
	now := time.Now()
	work, end, err := regular.TempDir(w.b.Work, "mkcdrec-set-")
	if err != nil {
		return nil, fmt.Errorf("cannot write the set: %w", err)
	}
	defer end()
	sink, err := w.b.below(ctx, p, dir, work, w.setID, now)
	if err != nil {
		return nil, err
	}
	man, err := w.b.write(ctx, p, w.setID, now, sink, dir, func() error { return nil })
	if err != nil {
		if errors.Is(err, unix.ENOSPC) {
			err = fmt.Errorf("%w\nthe stick is full, and what was on it is still there (%s); --make-room removes old backups of this machine first", err, strings.Join(w.names(dir, p), ", "))
		}
		return nil, err
	}
	res.Set, res.NotCovered = filepath.Base(sink.Final()), man.NotCovered
	if err := w.renew(ctx); err != nil {
		return nil, fmt.Errorf("%w\nthe backup %s on the stick is whole; the stick starts as it did before", err, res.Set)
	}
	sets := generations(dir, p.Layout.Hostname)
	for i, s := range sets {
		if w.opt.Keep > 0 && i >= w.opt.Keep && s.Name != res.Set {
			if err := set.Retire(dir, s.Name); err != nil {
				return nil, err
			}
			res.Removed = append(res.Removed, s.Name)
		}
	}
	res.Generations = w.names(dir, p)
	w.b.Report.Phase("writing everything to the stick", 0)
	mounted = false
	if err := unmount(); err != nil {
		return nil, err
	}
	if err := blockdev.Reread(ctx, w.f); err != nil { // somebody has mounted it already
		w.b.Report.Warn("%v; it is right when the stick is put in the next time", err)
	}
	return res, nil
}

// renew puts the new rescue system in the place of the one that does not start the stick
// now, and has it start from there.
func (w *keyWriter) renew(ctx context.Context) error {
	active, err := w.key.Active(w.f)
	if err != nil {
		return err
	}
	slot := 0
	if active == 0 {
		slot = 1
	}
	st, err := os.Stat(w.image)
	if err != nil {
		return err
	}
	add := w.b.Report.Phase("writing the rescue system to the stick", 2*st.Size()).Add
	if err := w.key.Put(ctx, w.f, slot, w.image, add); err != nil {
		return err
	}
	return w.key.Activate(w.f, slot, w.bios)
}

func (w *keyWriter) names(dir string, p *Plan) []string {
	var out []string
	for _, s := range generations(dir, p.Layout.Hostname) {
		out = append(out, s.Name)
	}
	return out
}

// generations lists a machine's sets below dir, newest first. What can't be read
// as a set is not one: it is not ours to remove.
func generations(dir, host string) []set.Listed {
	sets, _, _ := set.List(dir, set.This(host)) // what can't be listed has none
	return sets
}

// room removes old sets, if that was allowed, until the new one is likely to
// fit: a tenth more than the last one, or half of what is used.
func (w *keyWriter) room(dir string, p *Plan, res *KeyResult) error {
	sets := generations(dir, p.Layout.Hostname)
	need, _ := p.mayNeed(sets, false)
	for {
		free, ok := store.FreeIn(dir)
		if !ok {
			return fmt.Errorf("cannot read how much is free in %s", dir)
		}
		if free >= need {
			return nil
		}
		if !w.opt.MakeRoom || len(sets) == 0 {
			w.b.Report.Warn("the backup will probably not fit: the stick has %s free, and about %s are needed", quantity.Size(free), quantity.Size(need))
			return nil
		}
		old := sets[len(sets)-1]
		sets = sets[:len(sets)-1]
		if len(sets) == 0 {
			w.b.Report.Warn("the last backup of this machine on the stick, %s, makes room for the new one", old.Name)
		}
		if err := set.Retire(dir, old.Name); err != nil {
			return err
		}
		res.Removed = append(res.Removed, old.Name)
	}
}
