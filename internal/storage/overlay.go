package storage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/blockdev"
	"github.com/mkcdrec/mkcdrec/internal/kernel"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

// Volumes and arrays that write when they are activated are read through overlays: a
// device-mapper snapshot of each physical volume or member, whose copy-on-write store is in memory. The target
// opens its origin only for reading, and sends flushes to the store, too (snapshot_ctr and
// snapshot_map of drivers/md/dm-snap.c; Documentation/admin-guide/device-mapper/snapshot.rst).

// overlayPrefix begins device-mapper's names of overlays: "mkcdrec0-GROUP" for the first
// physical volume of a group, "mkcdrec0-:md127" for the first member of an array. No group
// has a colon in its name, lvm(8).
const (
	overlayPrefix = blockdev.OverlayPrefix
	memberMark    = ":"
)

// overlayChunk is how much one write copies, in sectors.
const overlayChunk = 8

// A store takes at most 1/storeShare of the memory that is available, all those of a group
// together, and at least minStore of it for each.
const (
	storeShare = 4
	minStore   = 1 << 20
)

// HideOverlays are words for LVM commands that look at the disks: an overlay shows the same
// physical volume as the device below it. lvm.conf(5).
func HideOverlays() []string {
	return []string{"--config", `devices{global_filter=["r|^/dev/mapper/` + overlayPrefix + `[0-9]+-|"]}`}
}

// onlyOverlays are words for LVM commands that must see overlays and nothing else.
func onlyOverlays(all []overlay) []string {
	var list []string
	for _, o := range all {
		// A backslash would have to pass two parsers.
		list = append(list, `"a|^/dev/mapper/`+strings.NewReplacer(".", "[.]", "+", "[+]").Replace(o.name)+`$|"`)
	}
	only := "filter=[" + strings.Join(list, ",") + `,"r|.*|"]`
	return []string{"--config", "devices{" + only + " global_" + only + " use_devicesfile=0}"}
}

// group opens and closes a volume group.
type group struct {
	run  tool.Runner
	name string
}

func (g group) path(p string) string { return kernel.Of(g.run).Path(p) }

func (g group) lvm(ctx context.Context, args ...string) ([]byte, error) {
	return g.run.Run(ctx, tool.Cmd{Args: append([]string{"lvm"}, args...), Env: NoUdev})
}

func (g group) dmsetup(ctx context.Context, args ...string) ([]byte, error) {
	return g.run.Run(ctx, tool.Cmd{Args: append([]string{"dmsetup"}, args...), Env: NoUdev})
}

// overlay is one over a physical volume.
type overlay struct {
	kernel string   // "dm-3"
	name   string   // device-mapper's: "mkcdrec0-vg0"
	over   []string // numbers of the devices that it uses, "8:1"
}

// overlays lists those of the group.
func (g group) overlays() ([]overlay, error) {
	dirs, err := filepath.Glob(g.path("/sys/block/dm-*/dm"))
	if err != nil {
		return nil, err
	}
	is := regexp.MustCompile("^" + overlayPrefix + "[0-9]+-" + regexp.QuoteMeta(g.name) + "$")
	var out []overlay
	for _, d := range dirs {
		b, err := os.ReadFile(d + "/name")
		name := strings.TrimSpace(string(b))
		if err != nil || !is.MatchString(name) {
			continue
		}
		o := overlay{kernel: filepath.Base(filepath.Dir(d)), name: name}
		slaves, err := filepath.Glob(filepath.Dir(d) + "/slaves/*/dev")
		if err != nil {
			return nil, err
		}
		for _, s := range slaves {
			if b, err := os.ReadFile(s); err == nil {
				o.over = append(o.over, strings.TrimSpace(string(b)))
			}
		}
		out = append(out, o)
	}
	slices.SortFunc(out, func(a, b overlay) int { return strings.Compare(a.name, b.name) })
	return out, nil
}

// cover puts overlays over the group's physical volumes, but for those that have one;
// fresh reports whether none had, whole whether all of them are there. After a failure those
// that it made are removed.
func (g group) cover(ctx context.Context) (fresh, whole bool, err error) {
	all, err := Groups(ctx, g.run)
	if err != nil {
		return false, false, err
	}
	var pvs []string
	uuid := ""
	whole = true
	for _, pv := range all {
		switch {
		case pv.Name != g.name:
		case uuid != "" && pv.UUID != uuid:
			return false, false, fmt.Errorf("two volume groups are called %s", g.name)
		case strings.HasPrefix(pv.Device, "["), strings.HasPrefix(pv.Device, "unknown"): // pvs(8) of one that is missing
			uuid, whole = pv.UUID, false
		default:
			uuid, pvs = pv.UUID, append(pvs, pv.Device)
		}
	}
	if len(pvs) == 0 {
		return false, false, errors.New("it has no physical volumes here")
	}
	have, err := g.overlays()
	if err != nil {
		return false, false, err
	}
	store, err := g.store(len(pvs))
	if err == nil {
		err = LoopDriver(ctx, g.run)
	}
	if err != nil {
		return false, false, err
	}
	var made []string
	for _, pv := range pvs {
		name, err := g.coverNext(ctx, pv, have, made, store)
		if err != nil {
			for _, n := range slices.Backward(made) {
				_, e := g.dmsetup(ctx, "remove", "--retry", n)
				err = errors.Join(err, e)
			}
			return false, false, err
		}
		if name != "" {
			made = append(made, name)
		}
	}
	return len(have) == 0, whole, nil
}

// coverNext puts an overlay over a physical volume, and returns its name; "" where one of
// those that are there is over it.
func (g group) coverNext(ctx context.Context, pv string, have []overlay, made []string, store quantity.Size) (string, error) {
	_, number, err := kernel.Of(g.run).Geometry(pv)
	if err != nil {
		return "", err
	}
	if slices.ContainsFunc(have, func(o overlay) bool { return slices.Contains(o.over, number) }) {
		return "", nil
	}
	n, name := 0, ""
	for taken := true; taken; n++ {
		name = overlayPrefix + strconv.Itoa(n) + "-" + g.name
		taken = slices.Contains(made, name) || slices.ContainsFunc(have, func(o overlay) bool { return o.name == name })
	}
	return name, g.coverOne(ctx, pv, name, store)
}

// coverOne puts an overlay with a name over a device.
func (g group) coverOne(ctx context.Context, dev, name string, store quantity.Size) error {
	size, _, err := kernel.Of(g.run).Geometry(dev)
	if err != nil {
		return err
	}
	loop, hold, err := kernel.Of(g.run).MemoryLoop("mkcdrec-overlay", store)
	if err != nil {
		return err
	}
	defer hold.Close() // it stays as long as the overlay
	table := fmt.Sprintf("0 %d snapshot /dev/%s /dev/%s N %d", int64(size)/512, dev, loop, overlayChunk)
	if _, err := g.dmsetup(ctx, "create", name, "--table", table); err != nil {
		return fmt.Errorf("cannot put an overlay over /dev/%s: %w", dev, err)
	}
	return nil
}

// store is how large the copy-on-write store of each of n overlays is.
func (g group) store(n int) (quantity.Size, error) {
	b, err := os.ReadFile(g.path("/proc/meminfo"))
	if err != nil {
		return 0, err
	}
	return storeSize(string(b), n)
}

// storeSize divides what a /proc/meminfo has among n stores.
func storeSize(meminfo string, n int) (quantity.Size, error) {
	have, err := MemAvailable(meminfo)
	if err != nil {
		return 0, err
	}
	size := have / storeShare / quantity.Size(n) / overlayUnit * overlayUnit
	if size < minStore {
		return 0, fmt.Errorf("there is not enough memory for what its volumes write: %v are available", have)
	}
	return size, nil
}

// overlayUnit is what a store's size is a multiple of.
const overlayUnit = 4 * quantity.KiB

// MemAvailable is how much memory programs can get, of a text of /proc/meminfo,
// proc_meminfo(5): numbers are KiB.
func MemAvailable(meminfo string) (quantity.Size, error) {
	for _, l := range strings.Split(meminfo, "\n") {
		f := strings.Fields(l)
		if len(f) < 2 || f[0] != "MemAvailable:" {
			continue
		}
		kib, err := strconv.ParseInt(f[1], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("cannot find how much memory is available: %w", err)
		}
		return quantity.Size(kib) << 10, nil
	}
	return 0, errors.New("cannot find how much memory is available: /proc/meminfo has no MemAvailable")
}

// LoopDriver has loop devices available.
func LoopDriver(ctx context.Context, run tool.Runner) error {
	if _, err := os.Stat(kernel.Of(run).Path("/dev/loop-control")); err == nil {
		return nil
	}
	_, err := run.Run(ctx, tool.New("modprobe", "loop"))
	return err
}

// activateOverlaid activates the group on overlays, and has raids, volumes of a RAID type,
// brought in step as slowly as can be: that writes whole images of them.
func (g group) activateOverlaid(ctx context.Context, raids []string) error {
	fresh, whole, err := g.cover(ctx)
	if err != nil {
		return &noOverlay{err}
	}
	all, err := g.overlays()
	if err != nil {
		return err
	}
	var errs []error
	for _, v := range raids {
		if !fresh || !whole { // lvchange(8) refuses a group with a part missing
			break
		}
		args := append([]string{"lvchange", "--minrecoveryrate", "1k", "--maxrecoveryrate", "1k"}, onlyOverlays(all)...)
		if _, err := g.lvm(ctx, append(args, g.name+"/"+v)...); err != nil {
			errs = append(errs, fmt.Errorf("cannot slow down the resynchronization of %s/%s: %w", g.name, v, err))
		}
	}
	args := append([]string{"vgchange", "-ay", "--ignoremonitoring", "--poll", "n"}, onlyOverlays(all)...)
	if _, err := g.lvm(ctx, append(args, g.name)...); err != nil {
		errs = append(errs, fmt.Errorf("cannot activate volume group %s for reading: %w", g.name, err), g.full(ctx))
	}
	return errors.Join(errs...)
}

// noOverlay is the cause for a group that has no overlays.
type noOverlay struct{ error }

func (n *noOverlay) Unwrap() error { return n.error }

// StoreFull reports, as an error, overlays of a group whose copy-on-write store is full: all
// that is read from them fails then.
func StoreFull(ctx context.Context, run tool.Runner, name string) error {
	return group{run, name}.full(ctx)
}

func (g group) full(ctx context.Context) error {
	all, err := g.overlays()
	if err != nil {
		return err
	}
	for _, o := range all {
		out, err := g.dmsetup(ctx, "status", o.name)
		if err != nil {
			return err
		}
		// START LENGTH snapshot USED/SIZE METADATA, or a word instead of the numbers.
		if f := strings.Fields(string(out)); len(f) > 3 && slices.Contains([]string{"Invalid", "Overflow"}, f[3]) {
			return fmt.Errorf("the memory for what the volumes of %s write is full, so that they can't be read: close the system and open it where more memory is free, or without --ro", g.name)
		}
	}
	return nil
}

// DeactivateGroup deactivates a group's volumes, and removes its overlays with the memory
// that they take.
func DeactivateGroup(ctx context.Context, run tool.Runner, name string) error {
	return group{run, name}.deactivate(ctx)
}

func (g group) deactivate(ctx context.Context) error {
	all, err := g.overlays()
	if err != nil {
		return err
	}
	args := []string{"vgchange", "-an"}
	if len(all) > 0 {
		args = append(args, onlyOverlays(all)...)
	}
	if _, err := g.lvm(ctx, append(args, g.name)...); err != nil {
		err = fmt.Errorf("cannot deactivate volume group %s: %w", g.name, err)
		if len(all) == 0 {
			return err
		}
		// LVM can't read the group from overlays whose store is full.
		if drop := g.drop(ctx, func(volume) bool { return true }); drop != nil {
			return errors.Join(err, drop)
		}
		if err := os.RemoveAll(g.path("/dev/" + g.name)); err != nil { // the names that LVM made without udev
			return err
		}
	}
	return g.uncover(ctx, all)
}

// volumes lists the active volumes of the group, those inside others among them.
func (g group) volumes() ([]volume, error) {
	prefix := strings.ReplaceAll(g.name, "-", "--") + "-"
	dirs, err := filepath.Glob(g.path("/sys/block/dm-*/dm"))
	if err != nil {
		return nil, err
	}
	var out []volume
	for _, d := range dirs {
		name, err1 := os.ReadFile(d + "/name")
		id, err2 := os.ReadFile(d + "/uuid")
		n := strings.TrimSpace(string(name))
		rest, ok := strings.CutPrefix(n, prefix)
		if err := errors.Join(err1, err2); err == nil && ok && !strings.HasPrefix(rest, "-") && strings.HasPrefix(string(id), "LVM-") {
			out = append(out, volume{filepath.Base(filepath.Dir(d)), n})
		}
	}
	return out, nil
}

// drop removes active volumes of the group one by one, without LVM, as long as there are
// some that no other is on.
func (g group) drop(ctx context.Context, own func(volume) bool) error {
	for {
		all, err := g.volumes()
		if err != nil {
			return err
		}
		all = slices.DeleteFunc(all, func(v volume) bool { return !own(v) })
		if len(all) == 0 {
			return nil
		}
		var errs []error
		for _, v := range all {
			if _, err := g.dmsetup(ctx, "remove", v.name); err != nil {
				errs = append(errs, err)
			}
		}
		if len(errs) == len(all) {
			return fmt.Errorf("cannot remove the volumes of %s: %w", g.name, errors.Join(errs...))
		}
	}
}

// uncover removes overlays. Their loop devices and the memory go with them.
func (g group) uncover(ctx context.Context, all []overlay) error {
	var errs []error
	for _, o := range slices.Backward(all) {
		if _, err := g.dmsetup(ctx, "remove", "--retry", o.name); err != nil {
			errs = append(errs, fmt.Errorf("cannot remove the overlay %s of volume group %s: %w", o.name, g.name, err))
		}
	}
	return errors.Join(errs...)
}
