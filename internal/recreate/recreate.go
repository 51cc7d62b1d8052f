// Package recreate carries out a restore plan. It is the only code that
// writes partition tables and file systems; what runs on healthy machines
// every night never reaches it.
package recreate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/btrfs"
	"github.com/mkcdrec/mkcdrec/internal/commands"
	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/kernel"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/lvmtext"
	"github.com/mkcdrec/mkcdrec/internal/plan"
	"github.com/mkcdrec/mkcdrec/internal/probe"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/storage"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

// Recreator carries out the steps of one confirmed plan.
type Recreator struct {
	Plan   *plan.Plan
	Run    tool.Runner
	Report progress.Reporter
	// Target is the directory that the file systems are mounted below.
	Target string
	// Machine is asked about disks again before each is opened.
	Machine probe.Machine
	// Keys open LUKS devices, by their names.
	Keys map[string]Key
	// Sparse is set if disks are sparse files in memory: nothing that is zero bytes
	// is written.
	Sparse bool
	// Loops is set if Rehearse may try LVM on loop devices: no udev is here that would
	// take what is on them for parts of the machine's own groups.
	Loops bool
	// Image writes the content of a device of the layout to one that was claimed for it.
	Image func(ctx context.Context, m *layout.Image, dst *os.File) error
}

// StepError is a step that failed: what was to be done, and why it was not.
type StepError struct {
	Number int // from 1
	Step   plan.Step
	Err    error
}

func (e *StepError) Error() string {
	return fmt.Sprintf("step %d failed: %s\n%v", e.Number, e.Step, e.Err)
}

func (e *StepError) Unwrap() error { return e.Err }

// Touched reports whether disks were written to, before this step at the latest.
func (e *StepError) Touched() bool {
	var r *exit.Refusal
	return e.Number > 1 || !errors.As(e.Err, &r)
}

// kernel is that of the machine on which the programs run.
func (r *Recreator) kernel() kernel.Kernel { return kernel.Of(r.Run) }

// tree is where the plan's file systems are mounted.
func (r *Recreator) tree() *storage.Tree {
	return &storage.Tree{Plan: r.Plan, Run: r.Run, Machine: r.Machine, Target: r.Target}
}

// Do carries out one step of the plan; n is its number, from 0.
func (r *Recreator) Do(ctx context.Context, n int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s := r.Plan.Steps[n]
	var err error
	switch s := s.(type) {
	case *plan.WriteTable:
		err = r.table(ctx, s)
	case *plan.MakeArray:
		err = r.makeArray(ctx, s)
	case *plan.MakeCrypt:
		err = r.makeCrypt(ctx, s)
	case *plan.MakeThin:
		err = r.makeThin(ctx, s)
	case *plan.MakePV:
		err = r.makePV(ctx, s)
	case *plan.RestoreVG:
		err = r.restoreVG(ctx, s)
	case *plan.MakeFS:
		err = r.makeFS(ctx, s)
	case *plan.MakeSubs:
		err = r.makeSubs(s)
	case *plan.MakeSwap:
		err = r.makeSwapOn(s)
	case *plan.PutImage:
		err = r.putImage(ctx, s)
	case *plan.MountFS:
		err = r.tree().Mount(s)
	case *plan.GrowFS:
		err = r.growFS(ctx, s)
	case *plan.MakeSwapFile:
		err = r.makeSwapFile(ctx, s)
	default:
		err = fmt.Errorf("cannot do a step of kind %q", s.Head().Kind)
	}
	if err != nil {
		return &StepError{n + 1, s, err}
	}
	return nil
}

func (r *Recreator) makeFS(ctx context.Context, s *plan.MakeFS) error {
	for _, d := range append([]string{s.Device}, s.Others...) {
		f, err := r.claim(d)
		if err != nil {
			return err
		}
		if s.FS.Type == fstype.TypeBtrfs {
			// mkfs.btrfs wants its UUID nowhere else, and one of its devices may have it
			// of a run that was stopped.
			err = wipeDevice(f)
		}
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	if s.FS.Type == fstype.TypeBtrfs {
		btrfs.Forget()
	}
	return r.runAll(ctx, s.Run, fstype.Of(s.FS.Type).Env...)
}

// makeSubs makes the subvolumes of a btrfs, while its top level is mounted.
func (r *Recreator) makeSubs(s *plan.MakeSubs) error {
	dir, err := os.MkdirTemp(r.kernel().Path(os.TempDir()), "mkcdrec-btrfs")
	if err != nil {
		return err
	}
	defer os.Remove(dir)
	if err := storage.MountBtrfs(r.kernel(), s.Device, s.Others, "", dir, 0); err != nil {
		return err
	}
	err = func() error {
		for _, v := range s.Subs {
			p := filepath.Join(dir, v.Path)
			// A run that was stopped may have made it.
			if _, err := os.Stat(p); errors.Is(err, os.ErrNotExist) {
				// Plain directories are between nested ones; their archive has the modes.
				if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), btrfs.Create(p)); err != nil {
					return err
				}
			} else if err != nil {
				return err
			}
			if v.Default {
				if err := btrfs.SetDefault(p); err != nil {
					return err
				}
			}
		}
		return nil
	}()
	if e := r.kernel().Unmount(dir); e != nil {
		err = errors.Join(err, fmt.Errorf("cannot unmount %s: %w", dir, e))
	}
	return err
}

func (r *Recreator) runAll(ctx context.Context, cmds [][]string, env ...string) error {
	for _, c := range cmds {
		if _, err := r.Run.Run(ctx, tool.Cmd{Args: c, Env: env}); err != nil {
			return err
		}
	}
	return nil
}

// confirmed finds the plan's entry for a disk and checks that the disk under
// that name is still the one that was confirmed, in all that the person was shown.
func (r *Recreator) confirmed(name string) error {
	i := slices.IndexFunc(r.Plan.Disks, func(d plan.Disk) bool { return d.New.Name == name })
	if i < 0 {
		return &exit.Refusal{Reason: "/dev/" + name + " is not in the confirmed plan"}
	}
	now, err := r.Machine.Disks()
	if err != nil {
		return err
	}
	for _, d := range now {
		if d.Name == name {
			if r.Sparse {
				d.Model = sparseModel // the plan's word for it; a loop device has none
			}
			return sameDisk(r.Plan.Disks[i], layout.Present{Disk: d, Place: r.Machine.Place(name)})
		}
	}
	return fmt.Errorf("cannot open /dev/%s: it is disconnected", name)
}

// sameDisk refuses a disk that differs from the one of the plan. What neither has is
// equal; a plan that was made without places has none to compare.
func sameDisk(want plan.Disk, is layout.Present) error {
	type fact struct{ what, was, is string }
	facts := []fact{{"serial number", want.New.Serial, is.Serial}, {"WWN", want.New.WWN, is.WWN}, {"size", num(want.New.Size), num(is.Size)}, {"model", want.New.Model, is.Model}}
	if want.Place != (layout.Place{}) {
		facts = append(facts, fact{"place", want.Place.Path, is.Place.Path}, fact{"sequence number", num(want.Place.Seq), num(is.Place.Seq)}, fact{"device number", want.Place.Dev, is.Place.Dev})
	}
	for _, f := range facts {
		if f.was != f.is {
			return &exit.Refusal{Reason: fmt.Sprintf("/dev/%s is not the disk it was when the plan was made: its %s was %q then, and is %q now", is.Name, f.what, f.was, f.is)}
		}
	}
	return nil
}

func num[T ~int64 | ~uint64](n T) string { return fmt.Sprint(uint64(n)) }

// Ends reads both ends of every disk that is going to be overwritten: one that
// does not answer, or has less than it reports, is found before anything is lost.
func (r *Recreator) Ends() error {
	var errs []error
	for _, d := range r.Plan.Disks {
		if err := r.readEnds(d.New.Name, int64(d.New.Size)); err != nil {
			errs = append(errs, &exit.Refusal{Reason: err.Error() + ": the disk is broken, or smaller than it reports"})
		}
	}
	return errors.Join(errs...)
}

func (r *Recreator) readEnds(dev string, size int64) error {
	f, err := r.kernel().Open(dev, os.O_RDONLY)
	if err != nil {
		return fmt.Errorf("cannot open /dev/%s: %w", dev, err)
	}
	defer f.Close()
	b := make([]byte, 4096)
	for _, at := range []int64{0, size / 2 &^ 4095, size - int64(len(b))} {
		if _, err := f.ReadAt(b, max(at, 0)); err != nil {
			return fmt.Errorf("cannot read /dev/%s at byte %d of %d: %w", dev, at, size, err)
		}
	}
	return nil
}

// free checks that the disks under a device are in the plan and that the
// device itself is not mounted.
func (r *Recreator) free(dev string) error {
	if !r.Machine.There(dev) {
		return fmt.Errorf("there is no /dev/%s any more: check the connection of its disk", dev)
	}
	for _, d := range r.Machine.DisksOf(dev) {
		if err := r.confirmed(d); err != nil {
			return err
		}
	}
	mounts, err := r.Machine.Mounts()
	if err != nil {
		return err
	}
	for _, m := range mounts {
		if m.Device == dev {
			return &exit.Refusal{Reason: "/dev/" + dev + " is mounted on " + m.Path}
		}
	}
	return nil
}

// claim opens a device that something is to be made on: free, exclusively, and by the
// number that it has in the kernel. A disk without a table is cleared and asked for its
// size, as others are before they get theirs. A program that opens the device itself gets
// it when this is closed.
func (r *Recreator) claim(dev string) (*os.File, error) {
	f, err := r.Again(dev)
	if err != nil || !slices.ContainsFunc(r.Plan.Disks, func(d plan.Disk) bool { return d.New.Name == dev }) {
		return f, err
	}
	if _, err = r.clearDisk(f, dev); err == nil {
		err = f.Sync()
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// Again opens a device of the plan for writing as claim does, and leaves what is on it.
func (r *Recreator) Again(dev string) (*os.File, error) {
	if slices.ContainsFunc(r.Plan.Disks, func(d plan.Disk) bool { return d.New.Name == dev }) {
		return r.openDisk(dev)
	}
	if err := r.free(dev); err != nil {
		return nil, err
	}
	if why := r.Machine.InUse(dev); why != "" {
		return nil, &exit.Refusal{Reason: "/dev/" + dev + ": " + why}
	}
	return r.open(dev)
}

// made is claim for a device that a program opens itself.
func (r *Recreator) made(dev string) error {
	f, err := r.claim(dev)
	if err != nil {
		return err
	}
	return f.Close()
}

// open is the one way to open a device for writing, after it was checked: exclusively,
// and only if the node is of the device that the kernel has by this name. A node that
// was renamed, or made by hand, leads elsewhere.
func (r *Recreator) open(dev string) (*os.File, error) {
	want := r.Machine.Place(dev)
	f, err := r.kernel().Open(dev, os.O_RDWR|unix.O_EXCL)
	if err != nil {
		return nil, fmt.Errorf("cannot open /dev/%s for writing: %w", dev, err)
	}
	if err := r.isDevice(f, want); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// isDevice refuses what is open if it is not the device at a place.
func (r *Recreator) isDevice(f *os.File, want layout.Place) error {
	is, seq, err := r.kernel().Number(f)
	if err != nil {
		return err
	}
	if is != want.Dev {
		return &exit.Refusal{Reason: fmt.Sprintf("%s leads to the device %s, and should lead to %s", f.Name(), is, want.Dev)}
	}
	if seq != 0 && want.Seq != 0 && seq != want.Seq {
		return &exit.Refusal{Reason: fmt.Sprintf("%s is the disk number %d of this system, and should be %d: it was exchanged", f.Name(), seq, want.Seq)}
	}
	return nil
}

// clearDisk takes away old tables and signatures at both ends, so that a stop from
// here on leaves a disk that is plainly blank, and finds one that has less than it
// reports.
func (r *Recreator) clearDisk(f *os.File, dev string) (size int64, err error) {
	if size, err = f.Seek(0, 2); err != nil {
		return 0, err
	}
	if err := wipeEnds(f, 0, size); err != nil {
		return 0, err
	}
	return size, checkCapacity(f, "/dev/"+dev, size, func() error { return r.kernel().Forget(f) })
}

// openDisk is the one way to open a disk for writing: it is in the confirmed
// plan, is still the same disk, nothing of it is mounted or held, and the
// kernel gives it to us alone.
func (r *Recreator) openDisk(name string) (*os.File, error) {
	if err := r.confirmed(name); err != nil {
		return nil, err
	}
	if why := r.Machine.Busy(name); why != "" {
		return nil, &exit.Refusal{Reason: "/dev/" + name + ": " + why}
	}
	f, err := r.open(name)
	if err != nil {
		return nil, err
	}
	// Exchanged since it was looked at above.
	if i := slices.IndexFunc(r.Plan.Disks, func(d plan.Disk) bool { return d.New.Name == name }); r.Plan.Disks[i].Place != (layout.Place{}) {
		if err := r.isDevice(f, r.Plan.Disks[i].Place); err != nil {
			f.Close()
			return nil, err
		}
	}
	return f, nil
}

func (r *Recreator) table(ctx context.Context, s *plan.WriteTable) error {
	f, err := r.openDisk(s.Device)
	if err != nil {
		return err
	}
	defer f.Close()
	size, err := r.clearDisk(f, s.Device)
	if err != nil {
		return err
	}
	if err := writeTable(f, s.Table, s.Sector, size); err != nil {
		return err
	}
	if err := writeBoot(f, s); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("cannot write /dev/%s: %w", s.Device, err)
	}
	if err := r.kernel().Reread(ctx, f); err != nil {
		return err
	}
	for _, p := range s.Table.Partitions {
		if p.Extended() {
			continue
		}
		if err := r.kernel().Await(ctx, p.Device, p.Size); err != nil {
			return err
		}
		if err := wipeEnds(f, int64(p.Start), int64(p.Size)); err != nil {
			return err
		}
	}
	return f.Sync()
}

// writeBoot writes the boot code around a table.
func writeBoot(f io.WriterAt, s *plan.WriteTable) error {
	if s.Boot == nil {
		return nil
	}
	_, err := f.WriteAt(s.Boot.Sector, 0)
	if err == nil && len(s.Boot.Gap) > 0 {
		_, err = f.WriteAt(s.Boot.Gap, int64(s.Sector))
	}
	if err != nil {
		return fmt.Errorf("cannot write the boot code of /dev/%s: %w", s.Device, err)
	}
	return nil
}

// checkCapacity finds a disk that has less than it reports: what is written behind its end
// goes nowhere, or over what is at its beginning. It writes a mark at every
// power of two, where such a disk goes round, and at both ends, forget has the
// kernel write and forget them, and they are read again. Later on it would be
// files that are lost.
func checkCapacity(disk interface {
	io.ReaderAt
	io.WriterAt
}, name string, size int64, forget func() error) error {
	const n = markSize
	mark := func(at int64) []byte {
		text := fmt.Sprintf("mkcdrec asks at byte %d of %d whether this disk is as large as it reports\n", at, size)
		return bytes.Repeat([]byte(text), n/len(text)+1)[:n]
	}
	places := markPlaces(size)
	for _, at := range places {
		if _, err := disk.WriteAt(mark(at), at); err != nil {
			return fmt.Errorf("cannot write %s at byte %d: %w", name, at, err)
		}
	}
	if err := forget(); err != nil {
		return err
	}
	got := make([]byte, n)
	for _, at := range places {
		if _, err := disk.ReadAt(got, at); err != nil {
			return fmt.Errorf("cannot read %s at byte %d: %w", name, at, err)
		}
		if !bytes.Equal(got, mark(at)) {
			return fmt.Errorf("%s did not keep what was written at byte %d of %d: the disk is broken, or smaller than it reports", name, at, size)
		}
	}
	for _, at := range places {
		if _, err := disk.WriteAt(make([]byte, n), at); err != nil {
			return fmt.Errorf("cannot write %s at byte %d: %w", name, at, err)
		}
	}
	return nil
}

// markSize is the size of the capacity check's marks, bytes.
const markSize = 4096

// markPlaces are where the capacity check writes marks on a disk of size bytes.
func markPlaces(size int64) []int64 {
	places := []int64{0}
	for at := int64(quantity.MiB); at < size-markSize; at *= 2 {
		places = append(places, at)
	}
	return append(places, max(size-markSize, 0))
}

// Cleared gives start and length, in bytes, of what is cleared on a disk of size bytes that
// gets no table, each time it is opened for PutImage.
func Cleared(size int64) [][2]int64 {
	n := min(int64(quantity.MiB), size)
	out := [][2]int64{{0, n}, {size - n, n}}
	for _, at := range markPlaces(size) {
		out = append(out, [2]int64{at, min(markSize, size-at)})
	}
	return out
}

// wipeEnds writes zero bytes over the first and last MiB of a range.
func wipeEnds(f *os.File, start, size int64) error {
	n := min(int64(quantity.MiB), size)
	return errors.Join(zero(f, start, n), zero(f, start+size-n, n))
}

// wipeDevice is wipeEnds for a whole device.
func wipeDevice(f *os.File) error {
	size, err := f.Seek(0, 2)
	if err != nil {
		return err
	}
	return errors.Join(wipeEnds(f, 0, size), f.Sync())
}

// zero writes n zero bytes.
func zero(f *os.File, at, n int64) error {
	b := make([]byte, min(n, int64(quantity.MiB)))
	for n > 0 {
		k := min(n, int64(len(b)))
		if _, err := f.WriteAt(b[:k], at); err != nil {
			return fmt.Errorf("cannot wipe %s at byte %d: %w", f.Name(), at, err)
		}
		at, n = at+k, n-k
	}
	return nil
}

func (r *Recreator) lvm(ctx context.Context, args ...string) error {
	_, err := storage.LVM(ctx, r.Run, args...)
	return err
}

// withConfig hands a group's text to fn as a file, which LVM wants.
func withConfig(text string, fn func(file string) error) error {
	dir, err := os.MkdirTemp("", "mkcdrec-vg")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "vgcfg")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return err
	}
	return fn(file)
}

func (r *Recreator) makeArray(ctx context.Context, s *plan.MakeArray) error {
	if storage.ArrayRuns(r.Run, s.Device) {
		return &exit.Refusal{Reason: "there is an array /dev/" + s.Device + " already; mdadm --stop /dev/" + s.Device + " gives its name free"}
	}
	for _, d := range s.Array.Devs() {
		if err := r.made(d); err != nil {
			return err
		}
	}
	for _, c := range s.Run {
		if err := storage.Mdadm(ctx, r.Run, c[1:]...); err != nil {
			return err
		}
	}
	return r.kernel().Await(ctx, s.Device, s.Array.Size)
}

func (r *Recreator) makePV(ctx context.Context, s *plan.MakePV) error {
	if err := r.made(s.Device); err != nil {
		return err
	}
	return withConfig(s.Config, func(file string) error {
		return r.lvm(ctx, commands.Pvcreate(s.UUID, file, "/dev/"+s.Device)[1:]...)
	})
}

// blankRAID writes zero bytes where a group's RAID volumes and mirrors keep what
// they know of their halves: what a disk had there before could be taken for it.
func (r *Recreator) blankRAID(s *plan.RestoreVG) error {
	t, err := lvmtext.Parse(s.Config)
	if err != nil {
		return err
	}
	vg := t.Get(s.Group)
	extent, _ := vg.Int("extent_size") // 0 is an error below
	for _, lv := range vg.Get("logical_volumes").Sections() {
		if !strings.Contains(lv.Name, "_rmeta_") && !strings.Contains(lv.Name, "_mlog") {
			continue
		}
		for _, seg := range lv.Sections() {
			if seg.Type() == layout.TypeMirror { // the log's halves are volumes, too
				continue
			}
			list := seg.List("stripes")
			if len(list) != 2 {
				return fmt.Errorf("the metadata of %s has an unknown form", lv.Name)
			}
			name, ok1 := list[0].(string)
			first, ok2 := list[1].(int64)
			pv := vg.Get("physical_volumes", name)
			start, ok3 := pv.Int("pe_start")
			count, ok4 := seg.Int("extent_count")
			if !ok1 || !ok2 || !ok3 || !ok4 || extent <= 0 {
				return fmt.Errorf("the metadata of %s has an unknown form", lv.Name)
			}
			dev := ""
			for _, x := range plan.StepsOf[*plan.MakePV](r.Plan) {
				if x.Group == s.Group && strings.ReplaceAll(x.UUID, "-", "") == strings.ReplaceAll(pv.Str("id"), "-", "") {
					dev = x.Device
				}
			}
			if dev == "" {
				return fmt.Errorf("the physical volume %s of %s is not in the plan", name, lv.Name)
			}
			if err := r.blank(dev, (start+first*extent)*512, min(count*extent*512, 64<<20)); err != nil {
				return err
			}
		}
	}
	return nil
}

// blank writes zero bytes into a part of a device of the plan.
func (r *Recreator) blank(dev string, at, n int64) error {
	if err := r.free(dev); err != nil {
		return err
	}
	f, err := r.open(dev)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := zero(f, at, n); err != nil {
		return err
	}
	return f.Sync()
}

// makeThin makes thin pools and volumes in a group of the plan.
func (r *Recreator) makeThin(ctx context.Context, s *plan.MakeThin) error {
	for _, c := range s.Run {
		dev := s.Group + "/" + c[slices.Index(c, "-n")+1]
		// A run that was stopped may have made it, and not have noted that.
		if _, err := storage.LVM(ctx, r.Run, "lvs", dev); err == nil {
			if err := r.lvm(ctx, "lvremove", "-y", dev); err != nil {
				return err
			}
		}
		if err := r.lvm(ctx, c[1:]...); err != nil {
			return err
		}
	}
	return nil
}

func (r *Recreator) restoreVG(ctx context.Context, s *plan.RestoreVG) error {
	if err := r.blankRAID(s); err != nil {
		return fmt.Errorf("volume group %s: %w", s.Group, err)
	}
	return withConfig(s.Config, func(file string) error {
		if err := r.lvm(ctx, commands.Vgcfgrestore(file, s.Group)[1:]...); err != nil {
			return err
		}
		return storage.ActivateGroup(ctx, r.Run, s.Group, storage.ReadWrite)
	})
}
