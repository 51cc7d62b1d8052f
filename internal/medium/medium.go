// Package medium finds file systems by what is on them, and backup sets on
// file systems, without udev: every block device is looked at. What it mounts
// it mounts read-only and without replaying a journal.
package medium

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/blockdev"
	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/inroot"
	"github.com/mkcdrec/mkcdrec/internal/kernel"
	"github.com/mkcdrec/mkcdrec/internal/keyring"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/rescue"
	"github.com/mkcdrec/mkcdrec/internal/store"
	"github.com/mkcdrec/mkcdrec/internal/superblock"
	"github.com/mkcdrec/mkcdrec/internal/sysconf"
)

// Device is a block device with what it holds.
type Device struct {
	Name string // "sda1"
	Info *superblock.Info
	// Held: another block device is on it. The halves of an LVM mirror show
	// the file system of the volume that they make up, and can't be mounted.
	Held bool
}

// Finder looks on the disks of a machine.
type Finder struct{ kernel.Kernel }

// Devices is Finder.Devices of this machine.
func Devices(loops ...string) ([]Device, error) { return Finder{kernel.Linux{}}.Devices(loops...) }

// Devices lists the block devices that hold something known, sorted by name. Overlays are left
// out, and loop devices, but for those named, with their partitions.
func (f Finder) Devices(loops ...string) ([]Device, error) {
	names, err := os.ReadDir(f.Path("/sys/class/block"))
	if err != nil {
		return nil, fmt.Errorf("cannot list block devices: %w", err)
	}
	var out []Device
	for _, n := range names {
		named := slices.ContainsFunc(loops, func(l string) bool { return n.Name() == l || strings.HasPrefix(n.Name(), l+"p") })
		if strings.HasPrefix(n.Name(), "ram") || strings.HasPrefix(n.Name(), "loop") && !named {
			continue
		}
		if dm, err := os.ReadFile(f.Path("/sys/class/block/" + n.Name() + "/dm/name")); err == nil && blockdev.IsOverlay(string(dm)) {
			continue
		}
		d, err := f.Open(n.Name(), os.O_RDONLY)
		if err != nil {
			continue // a drive without a disc, a device that was just removed
		}
		size, err := unix.Seek(int(d.Fd()), 0, unix.SEEK_END)
		if err == nil && size > 0 {
			if i, err := superblock.Probe(d, size); err == nil && i != nil {
				holders, _ := os.ReadDir(f.Path("/sys/class/block/" + n.Name() + "/holders"))
				out = append(out, Device{n.Name(), i, len(holders) > 0})
			}
		}
		d.Close()
	}
	return out, nil
}

// Mount is Finder.Mount of this machine.
func Mount(d Device, dir string, options ...string) error {
	return Finder{kernel.Linux{}}.Mount(d, dir, options...)
}

// Mount mounts a device at dir, which is made, without writing one bit of the device.
// options are those of its type, beside.
func (f Finder) Mount(d Device, dir string, options ...string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return f.MountReadOnly("/dev/"+d.Name, d.Info.Type, dir, slices.DeleteFunc(options, func(o string) bool { return o == "" })...)
}

// FindMedium mounts the CD or stick that the system was booted from: an ISO
// image with the mark of this medium. It returns the device's name.
func (f Finder) FindMedium(info *rescue.Info) (string, error) {
	devs, err := f.Devices()
	if err != nil {
		return "", err
	}
	for _, d := range devs {
		if d.Info.Type != fstype.TypeISO || !strings.HasPrefix(d.Info.Label, rescue.VolumeLabel) {
			continue
		}
		dir := f.Path(rescue.MediumDir)
		if err := f.Mount(d, dir); err != nil {
			continue
		}
		b, err := os.ReadFile(dir + "/" + rescue.ISOMark)
		if err == nil && strings.TrimSpace(string(b)) == info.MediumID {
			return d.Name, nil
		}
		if err := f.Unmount(dir); err != nil {
			return "", err
		}
	}
	return "", errors.New("not found")
}

// Others lists media of ours that are not this system's, as "sda (HOST, made
// DATE)": one may be in the drive that the firmware boots from next time.
func (f Finder) Others(info *rescue.Info) []string {
	devs, err := f.Devices()
	if err != nil {
		return nil
	}
	dir := f.Path("/run/mkcdrec/other")
	var out []string
	for _, d := range devs {
		if d.Info.Type != fstype.TypeISO || !strings.HasPrefix(d.Info.Label, rescue.VolumeLabel) {
			continue
		}
		if err := f.Mount(d, dir); err != nil {
			continue
		}
		id, err := os.ReadFile(dir + "/" + rescue.ISOMark)
		title, _ := os.ReadFile(dir + "/.disk/info") // a name less to show
		if e := f.Unmount(dir); err == nil && e == nil && strings.TrimSpace(string(id)) != info.MediumID {
			out = append(out, fmt.Sprintf("/dev/%s (%s)", d.Name, strings.TrimSpace(string(title))))
		}
	}
	return out
}

// Source is one place to look for a set.
type Source struct {
	Kind  string // UUID, LABEL, device, cdrom, any, file, url
	Value string
	Path  string // directory there; "" looks at the top and two levels below
}

// ParseSource reads "UUID=...[:/PATH]", "LABEL=...[:/PATH]", "/dev/sdb1[:/PATH]",
// "cdrom", "any", "file:///DIR", and URLs of servers such as "http://HOST/DIR".
func ParseSource(s string) (Source, error) {
	if store.IsURL(s) || store.IsHome(s) {
		return Source{"url", s, ""}, nil
	}
	v, path, _ := strings.Cut(s, ":")
	if path != "" && !strings.HasPrefix(path, "/") {
		return Source{}, fmt.Errorf("cannot use source %q: the path does not begin with /", s)
	}
	switch r := sysconf.ParseRef(v); {
	case strings.HasPrefix(s, "file://"):
		return Source{"file", "", strings.TrimPrefix(s, "file://")}, nil
	case r.Kind == sysconf.UUID:
		return Source{"UUID", r.Value, path}, nil
	case r.Kind == sysconf.Label:
		return Source{"LABEL", r.Value, path}, nil
	case strings.HasPrefix(v, "/dev/"):
		return Source{"device", strings.TrimPrefix(v, "/dev/"), path}, nil
	case v == "cdrom" || v == "any":
		return Source{v, "", path}, nil
	}
	return Source{}, fmt.Errorf("cannot use source %q: want UUID=, LABEL=, /dev/, cdrom, any, file://, or the URL of a server", s)
}

func (s Source) String() string {
	switch s.Kind {
	case "UUID", "LABEL":
		return s.Kind + "=" + s.Value + ":" + s.Path
	case "device":
		return "/dev/" + s.Value + ":" + s.Path
	case "file":
		return "file://" + s.Path
	case "url":
		return sysconf.RedactURL(s.Value)
	}
	return s.Kind
}

func (s Source) matches(d Device) bool {
	if d.Held || !fstype.Of(d.Info.Type).HoldsSets {
		return false
	}
	switch s.Kind {
	case "UUID":
		return strings.EqualFold(d.Info.UUID, s.Value)
	case "LABEL":
		return d.Info.Label == s.Value
	case "device":
		return d.Name == s.Value
	case "cdrom":
		return d.Info.Type == fstype.TypeISO
	}
	return s.Kind == "any"
}

// Sources are the places to look, in order: those asked for, or where the set
// was written, and then anywhere.
func Sources(asked []string, info *rescue.Info) ([]Source, error) {
	var out []Source
	var errs []error
	for _, a := range asked {
		s, err := ParseSource(a)
		errs = append(errs, err)
		if err == nil {
			out = append(out, s)
		}
	}
	if len(asked) == 0 && info.FSUUID != "" {
		out = append(out, Source{"UUID", info.FSUUID, info.Path})
	}
	if len(asked) == 0 && info.Source != "" {
		return append(out, Source{"url", info.Source, ""}), errors.Join(errs...)
	}
	if len(asked) == 0 {
		out = append(out, Source{Kind: "cdrom"}, Source{Kind: "any"})
	}
	return out, errors.Join(errs...)
}

// Expected returns which sets a medium was made for: the one that it names, unless the
// command line names another place or set, and those of its host, and machine. An unattended
// restore accepts no other host's set.
func Expected(info *rescue.Info, o rescue.Options) manifest.Wanted {
	w := manifest.Wanted{ID: info.SetID, Host: info.Host, Machine: info.Machine, Strict: o.Auto != ""}
	if len(o.Source) > 0 || o.Host != "" {
		w.ID = ""
	}
	if o.Host != "" && o.Host != info.Host {
		w.Host, w.Machine = o.Host, ""
	}
	return w
}

// FindSet looks for a set at the sources, in order, and leaves its file system
// mounted at rescue.SetDir. It returns the set's directory, and remarks for people
// on what else is there. A source with sets that are not the one wanted, or of several
// hosts, is passed over; the error names them. A wait for a server, and the search, end
// with ctx.
func (f Finder) FindSet(ctx context.Context, sources []Source, want manifest.Wanted) (dir string, remarks []string, err error) {
	devs, err := f.Devices()
	if err != nil {
		return "", nil, err
	}
	var errs []error
	for _, s := range sources {
		if ctx.Err() != nil {
			return "", nil, context.Cause(ctx)
		}
		switch s.Kind {
		case "url":
			if dir, remarks, err = f.atURL(ctx, s.Value, want); err != nil {
				err = fmt.Errorf("%v: no set there: %w", s, err)
			}
		case "file":
			if dir, remarks, err = choose(f.Path(s.Path), 1, want); err != nil {
				err = fmt.Errorf("%v: %w", s, err)
			}
		default:
			dir, remarks, err = f.onAny(ctx, devs, s, want)
		}
		if err == nil && dir != "" {
			return dir, remarks, nil
		}
		errs = append(errs, err)
	}
	if ctx.Err() != nil {
		return "", nil, context.Cause(ctx)
	}
	return "", nil, fmt.Errorf("no backup set was found:\n%w", errors.Join(errs...))
}

// onAny looks for a set on the devices that a source names. It returns neither a directory
// nor an error where devices that were not named have none.
func (f Finder) onAny(ctx context.Context, devs []Device, s Source, want manifest.Wanted) (dir string, remarks []string, err error) {
	var errs []error
	seen := false
	for _, d := range devs {
		if !s.matches(d) || ctx.Err() != nil {
			continue
		}
		seen = true
		dir, remarks, err := f.on(d, s.Path, want)
		if err == nil {
			return dir, remarks, nil
		}
		if !errors.Is(err, errNoSet) || s.Kind != "any" && s.Kind != "cdrom" {
			errs = append(errs, fmt.Errorf("%v: /dev/%s: %w", s, d.Name, err))
		}
	}
	if !seen {
		errs = append(errs, fmt.Errorf("%v: no such device", s))
	}
	return "", nil, errors.Join(errs...)
}

// errNoSet means that a place has no set.
var errNoSet = errors.New("no set there")

// on looks for a set on a device, which stays mounted at rescue.SetDir if it has it.
func (f Finder) on(d Device, path string, want manifest.Wanted) (dir string, remarks []string, err error) {
	at := f.Path(rescue.SetDir)
	if err := f.Mount(d, at); err != nil {
		return "", nil, err
	}
	top, err := inroot.Dir(at, path)
	if errors.Is(err, os.ErrNotExist) {
		err = errNoSet
	}
	if err == nil {
		dir, remarks, err = choose(top, 2, want)
	}
	if err != nil {
		if e := f.Unmount(at); e != nil {
			err = errors.Join(err, fmt.Errorf("cannot unmount %s: %w", rescue.SetDir, e))
		}
	}
	return dir, remarks, err
}

// choose returns the newest set that is wanted in dir and below it.
func choose(dir string, depth int, want manifest.Wanted) (string, []string, error) {
	found, damaged := manifest.Look(dir, depth)
	if len(found) == 0 {
		return "", nil, errors.Join(append([]error{errNoSet}, damaged...)...)
	}
	best, remarks, err := manifest.Choose(found, want, time.Now())
	for _, d := range damaged {
		remarks = append(remarks, d.Error())
	}
	return best.Dir, remarks, err
}

// atURL finds the set that is wanted on a server. Secrets of servers are those of the medium.
func (f Finder) atURL(ctx context.Context, at string, want manifest.Wanted) (place string, remarks []string, err error) {
	var ring keyring.Ring
	if file := f.Path(rescue.CredentialsFile); fileExists(file) {
		ring.Credentials = file
	}
	d, err := ring.Door(ctx, want, func(format string, args ...any) { remarks = append(remarks, fmt.Sprintf(format, args...)) })
	if err != nil {
		return "", nil, err
	}
	place, err = d.Find(ctx, at)
	return place, remarks, err
}

func fileExists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}
