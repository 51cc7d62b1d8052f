package storage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/commands"
	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/kernel"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/plan"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

// Access is what opening something may do to the devices below.
type Access int

const (
	// ReadWrite opens for writing. An array of which members are missing that it had
	// when it last ran is not started.
	ReadWrite Access = iota
	// ReadOnly writes not one bit: not to logs, superblocks or bitmaps either. Arrays are
	// started also where members are missing.
	ReadOnly
	// Degraded is ReadWrite, and starts arrays with members missing.
	Degraded
)

// AssembleArray starts an array, unless it runs; devs are its members' names, none to
// have mdadm look for them, which starts it also where some are missing, and which ReadOnly
// can't.
func AssembleArray(ctx context.Context, run tool.Runner, name, uuid string, devs []string, access Access) error {
	if ArrayRuns(run, name) {
		return nil
	}
	args := []string{"--assemble", "/dev/" + name, "--uuid=" + uuid}
	switch access {
	case ReadOnly:
		args = append(args, "--readonly", "--run")
		if err := LoopDriver(ctx, run); err != nil {
			return fmt.Errorf("cannot start the RAID array %s for reading: %w", name, err)
		}
		over, release, err := coverMembers(ctx, run, name, devs)
		if err != nil {
			return fmt.Errorf("cannot start the RAID array %s for reading: %w", name, err)
		}
		defer release()
		devs = over
	case Degraded:
		args = append(args, "--run")
	}
	for _, d := range devs {
		args = append(args, "/dev/"+d)
	}
	err := Mdadm(ctx, run, args...)
	if err == nil {
		return nil
	}
	if inactive(run, name) { // members are missing: it holds those that are there
		err = errors.Join(err, Mdadm(ctx, run, "--stop", "/dev/"+name))
	}
	return fmt.Errorf("cannot start the RAID array %s: %w", name, err)
}

// coverMembers puts an overlay over each member of an array: the kernel writes the bitmap of an
// array even when it is started read-only (md_bitmap_load of drivers/md/md-bitmap.c), and a
// member on which that fails is dropped, which an array of RAID 5 does not survive. Without
// device-mapper's snapshots they are read-only loop devices, which do for arrays without a
// bitmap. What it made is removed with the array, or with release if it has not taken them.
func coverMembers(ctx context.Context, run tool.Runner, array string, devs []string) (over []string, release func(), err error) {
	if len(devs) == 0 {
		return nil, nil, errors.New("its members are not known")
	}
	g := group{run, memberMark + array}
	var holds []io.Closer
	release = func() {
		for _, o := range over {
			if name, ok := strings.CutPrefix(o, layout.MapperPrefix); ok {
				// Removed at once, or by the kernel when the array is stopped. One that
				// stays costs memory, and is not a reason to refuse an array that runs.
				_, _ = g.dmsetup(context.WithoutCancel(ctx), "remove", "--deferred", name)
			}
		}
		for _, h := range holds {
			h.Close()
		}
	}
	store, err := g.store(len(devs))
	for i, d := range devs {
		name := overlayPrefix + strconv.Itoa(i) + "-" + g.name
		if err == nil {
			if err = g.coverOne(ctx, d, name, store); err == nil {
				over = append(over, layout.MapperPrefix+name)
			}
		}
	}
	if err == nil {
		return over, release, nil
	}
	release()
	over = nil
	for _, d := range devs {
		name, hold, err := kernel.Of(run).ReadOnlyLoop(d)
		if err != nil {
			release()
			return nil, nil, err
		}
		over, holds = append(over, name), append(holds, hold)
	}
	return over, release, nil
}

// inactive reports whether an array holds members and does not run.
func inactive(run tool.Runner, name string) bool {
	b, err := os.ReadFile(kernel.Of(run).Path("/sys/block/" + name + "/md/array_state"))
	return err == nil && strings.TrimSpace(string(b)) == "inactive"
}

// OpenCrypt opens a LUKS device on dev, unless it is open.
func OpenCrypt(ctx context.Context, run tool.Runner, c *layout.Crypt, dev string, passphrase []byte, access Access) error {
	if CryptIsOpen(run, c.Name) {
		return nil
	}
	var options []string
	if access == ReadOnly {
		options = []string{"--readonly"}
	}
	if err := Cryptsetup(ctx, run, passphrase, commands.LUKSOpen("/dev/"+dev, c.Name, options...)[1:]...); err != nil {
		return fmt.Errorf("cannot open the LUKS device %s: %w", c.Name, err)
	}
	return nil
}

// MissingMembers returns how many members an array runs without.
func MissingMembers(run tool.Runner, name string) int {
	b, err := os.ReadFile(kernel.Of(run).Path("/sys/block/" + name + "/md/degraded"))
	if err != nil {
		return 0 // not running, or of a level without redundancy
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0
	}
	return n
}

// plainTypes are the segment types of volumes that write nothing when they are activated
// read-only; dm-raid, thin pools, caches and snapshots write their metadata at once.
var plainTypes = []string{"linear", "striped", "error", "zero"}

// ActivateGroup activates a group's volumes. ReadOnly activates a group with volumes that
// write by it on overlays, which take what is written into memory (see DeactivateGroup).
// Where that fails it activates the others, and names those in an error.
func ActivateGroup(ctx context.Context, run tool.Runner, name string, access Access) error {
	g := group{run, name}
	if access == ReadOnly {
		return g.activateReadOnly(ctx)
	}
	if _, err := g.lvm(ctx, commands.Vgchange(name)[1:]...); err != nil {
		return fmt.Errorf("cannot activate volume group %s: %w", name, err)
	}
	return nil
}

func (g group) activateReadOnly(ctx context.Context) error {
	args := append([]string{"lvs", "--readonly"}, HideOverlays()...)
	out, err := g.lvm(ctx, append(args, "--reportformat", "json", "-o", "lv_name,segtype,lv_attr", g.name)...)
	if err != nil {
		return fmt.Errorf("cannot list the volumes of %s: %w", g.name, err)
	}
	plain, writing, err := byWriting(out)
	if err != nil {
		return fmt.Errorf("cannot list the volumes of %s: %w", g.name, err)
	}
	var errs []error
	if len(writing) > 0 {
		var raids []string
		for _, n := range writing {
			if strings.HasPrefix(n[1], "raid") && n[1] != "raid0" && n[1] != "raid0_meta" {
				raids = append(raids, n[0])
			}
		}
		err := g.activateOverlaid(ctx, raids)
		if !errors.As(err, new(*noOverlay)) {
			return err
		}
		for _, n := range writing {
			errs = append(errs, fmt.Errorf("cannot activate %s/%s without writing: it is of type %s", g.name, n[0], n[1]))
		}
		errs = append(errs, fmt.Errorf("cannot have the writes to volume group %s go into memory: %w", g.name, err))
	}
	if len(plain) > 0 {
		args := []string{"lvchange", "-ay", "--ignoremonitoring", "--config", `activation/read_only_volume_list=["` + g.name + `"]`}
		for _, n := range plain {
			args = append(args, g.name+"/"+n)
		}
		if _, err := g.lvm(ctx, args...); err != nil {
			errs = append(errs, fmt.Errorf("cannot activate volume group %s for reading: %w", g.name, err))
		}
	}
	return errors.Join(errs...)
}

// byWriting reads lvs's report: the volumes that write nothing when they are activated,
// and the others with their types.
func byWriting(report []byte) (plain []string, writing [][2]string, err error) {
	var v struct {
		Report []struct {
			LV []struct {
				Name string `json:"lv_name"`
				Type string `json:"segtype"`
				Attr string `json:"lv_attr"`
			} `json:"lv"`
		} `json:"report"`
	}
	if err := json.Unmarshal(report, &v); err != nil {
		return nil, nil, err
	}
	for _, r := range v.Report {
		for _, l := range r.LV { // one of several segments is there as often
			typ := writingType(l.Type, l.Attr)
			if typ != "" {
				if w := [2]string{l.Name, typ}; !slices.Contains(writing, w) {
					writing = append(writing, w)
				}
				plain = slices.DeleteFunc(plain, func(n string) bool { return n == l.Name })
			} else if !slices.Contains(plain, l.Name) && !slices.ContainsFunc(writing, func(w [2]string) bool { return w[0] == l.Name }) {
				plain = append(plain, l.Name)
			}
		}
	}
	return plain, writing, nil
}

// writingType is what a volume is that writes when it is activated, by its segments' type
// and its attributes, lvs(8); "" for others. The segments of a snapshot and of what
// pvmove(8) moves are linear.
func writingType(segments, attr string) string {
	switch {
	case !slices.Contains(plainTypes, segments):
		return segments
	case attr == "":
	case strings.ContainsRune("sS", rune(attr[0])):
		return "snapshot"
	case attr[0] == 'O':
		return "snapshot-merge"
	case len(attr) > 2 && attr[2] >= 'A' && attr[2] <= 'Z': // locked against new allocations
		return "pvmove"
	}
	return ""
}

// MountBtrfs mounts a subvolume of a btrfs, "" for the top level, with all its
// devices, which nothing else has told the kernel of. With MS_RDONLY nothing is written,
// the log neither.
func MountBtrfs(k kernel.Kernel, dev string, others []string, subvolume, dir string, flags uintptr, options ...string) error {
	if subvolume == "" {
		options = append(options, "subvolid=5")
	} else {
		options = append(options, "subvol=/"+subvolume)
	}
	for _, o := range others {
		options = append(options, "device=/dev/"+o)
	}
	if flags&unix.MS_RDONLY != 0 {
		return k.MountReadOnly("/dev/"+dev, fstype.TypeBtrfs, dir, options...)
	}
	if err := k.Mount("/dev/"+dev, dir, fstype.TypeBtrfs, flags, strings.Join(options, ",")); err != nil {
		return fmt.Errorf("cannot mount /dev/%s on %s: %w", dev, dir, err)
	}
	return nil
}

// Groups lists the volume groups that are on this machine's disks, for plan.Duplicates:
// one Identity for each physical volume, without Disks. Nothing is activated.
func Groups(ctx context.Context, run tool.Runner) ([]plan.Identity, error) {
	args := append([]string{"lvm", "pvs", "--readonly"}, HideOverlays()...)
	out, err := run.Run(ctx, tool.Cmd{Args: append(args, "--reportformat", "json", "-o", "pv_name,vg_name,vg_uuid"), Env: NoUdev})
	if err != nil {
		return nil, fmt.Errorf("cannot list volume groups: %w", err)
	}
	var v struct {
		Report []struct {
			PV []struct {
				Device string `json:"pv_name"`
				Group  string `json:"vg_name"`
				UUID   string `json:"vg_uuid"`
			} `json:"pv"`
		} `json:"report"`
	}
	if err := json.Unmarshal(out, &v); err != nil {
		return nil, fmt.Errorf("cannot list volume groups: %w", err)
	}
	var all []plan.Identity
	for _, r := range v.Report {
		for _, p := range r.PV {
			if p.Group != "" {
				all = append(all, plan.Identity{Device: strings.TrimPrefix(p.Device, "/dev/"), Type: plan.TypeGroup, UUID: p.UUID, Name: p.Group})
			}
		}
	}
	return all, nil
}
