// Package medium finds file systems by what is on them, and backup sets on
// file systems, without udev: every block device is looked at. What it mounts
// it mounts read-only and without replaying a journal.
package medium

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/rescue"
	"github.com/mkcdrec/mkcdrec/internal/superblock"
	"github.com/mkcdrec/mkcdrec/internal/target"
)

// Device is a block device with what it holds.
type Device struct {
	Name string // "sda1"
	Info *superblock.Info
	// Held: another block device lies on it. The halves of an LVM mirror show
	// the file system of the volume that they make up, and can't be mounted.
	Held bool
}

// Devices lists the block devices that hold something known, sorted by name.
func Devices() ([]Device, error) {
	names, err := os.ReadDir("/sys/class/block")
	if err != nil {
		return nil, fmt.Errorf("cannot list block devices: %w", err)
	}
	var out []Device
	for _, n := range names {
		if strings.HasPrefix(n.Name(), "ram") || strings.HasPrefix(n.Name(), "loop") {
			continue
		}
		f, err := os.Open("/dev/" + n.Name())
		if err != nil {
			continue // a drive without a disc, a device that just went away
		}
		size, err := unix.Seek(int(f.Fd()), 0, unix.SEEK_END)
		if err == nil && size > 0 {
			if i, err := superblock.Probe(f, size); err == nil && i != nil {
				holders, _ := os.ReadDir("/sys/class/block/" + n.Name() + "/holders")
				out = append(out, Device{n.Name(), i, len(holders) > 0})
			}
		}
		f.Close()
	}
	return out, nil
}

// Mount mounts a device read-only at dir, which is made.
func Mount(d Device, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	data := ""
	switch d.Info.Type {
	case superblock.TypeExt3, superblock.TypeExt4:
		data = "noload"
	case superblock.TypeXFS:
		data = "norecovery,nouuid"
	}
	err := unix.Mount("/dev/"+d.Name, dir, d.Info.Type, unix.MS_RDONLY|unix.MS_NOATIME, data)
	if err != nil {
		return fmt.Errorf("cannot mount /dev/%s (%s) on %s: %w", d.Name, d.Info.Type, dir, err)
	}
	return nil
}

// mountable are the types that a set can lie on.
var mountable = []string{superblock.TypeExt2, superblock.TypeExt3, superblock.TypeExt4, superblock.TypeXFS, superblock.TypeVFAT, superblock.TypeISO, superblock.TypeBtrfs}

// FindMedium mounts the CD or stick that the system was started from: an ISO
// image with the mark of this medium. It returns the device's name.
func FindMedium(info *rescue.Info) (string, error) {
	devs, err := Devices()
	if err != nil {
		return "", err
	}
	for _, d := range devs {
		if d.Info.Type != superblock.TypeISO || !strings.HasPrefix(d.Info.Label, rescue.VolumeLabel) {
			continue
		}
		if err := Mount(d, rescue.MediumDir); err != nil {
			continue
		}
		b, err := os.ReadFile(rescue.MediumDir + "/" + rescue.ISOMark)
		if err == nil && strings.TrimSpace(string(b)) == info.MediumID {
			return d.Name, nil
		}
		if err := unix.Unmount(rescue.MediumDir, 0); err != nil {
			return "", err
		}
	}
	return "", errors.New("not found")
}

// Others lists media of ours that are not this system's, as "sda (HOST, made
// DATE)": one may be in the drive that the firmware starts from next time.
func Others(info *rescue.Info) []string {
	devs, err := Devices()
	if err != nil {
		return nil
	}
	const dir = "/run/mkcdrec/other"
	var out []string
	for _, d := range devs {
		if d.Info.Type != superblock.TypeISO || !strings.HasPrefix(d.Info.Label, rescue.VolumeLabel) {
			continue
		}
		if err := Mount(d, dir); err != nil {
			continue
		}
		id, err := os.ReadFile(dir + "/" + rescue.ISOMark)
		title, _ := os.ReadFile(dir + "/.disk/info") // a name less to show
		if e := unix.Unmount(dir, 0); err == nil && e == nil && strings.TrimSpace(string(id)) != info.MediumID {
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
// "cdrom", "any", "file:///DIR" and "http://HOST/DIR".
func ParseSource(s string) (Source, error) {
	if target.IsURL(s) {
		return Source{"url", s, ""}, nil
	}
	v, path, _ := strings.Cut(s, ":")
	if path != "" && !strings.HasPrefix(path, "/") {
		return Source{}, fmt.Errorf("cannot use source %q: the path does not begin with /", s)
	}
	switch {
	case strings.HasPrefix(s, "file://"):
		return Source{"file", "", strings.TrimPrefix(s, "file://")}, nil
	case strings.HasPrefix(v, "UUID="):
		return Source{"UUID", strings.TrimPrefix(v, "UUID="), path}, nil
	case strings.HasPrefix(v, "LABEL="):
		return Source{"LABEL", strings.TrimPrefix(v, "LABEL="), path}, nil
	case strings.HasPrefix(v, "/dev/"):
		return Source{"device", strings.TrimPrefix(v, "/dev/"), path}, nil
	case v == "cdrom" || v == "any":
		return Source{v, "", path}, nil
	}
	return Source{}, fmt.Errorf("cannot use source %q: want UUID=, LABEL=, /dev/, cdrom, any, file:// or http://", s)
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
		return s.Value
	}
	return s.Kind
}

func (s Source) matches(d Device) bool {
	if d.Held || !slices.Contains(mountable, d.Info.Type) {
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
		return d.Info.Type == superblock.TypeISO
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
	if len(asked) == 0 {
		out = append(out, Source{Kind: "cdrom"}, Source{Kind: "any"})
	}
	return out, errors.Join(errs...)
}

// FindSet looks for a set at the sources, in order, and leaves its file system
// mounted at rescue.SetDir. With an id only that set will do. It returns the
// set's directory.
func FindSet(sources []Source, id string) (string, error) {
	devs, err := Devices()
	if err != nil {
		return "", err
	}
	var errs []error
	for _, s := range sources {
		if s.Kind == "url" {
			st, err := target.New(s.Value)
			if err == nil {
				_, err = st.Size(manifest.File)
			}
			if err == nil {
				return s.Value, nil
			}
			errs = append(errs, fmt.Errorf("%v: no set there: %w", s, err))
			continue
		}
		if s.Kind == "file" {
			if dir := newest([]string{s.Path}, id); dir != "" {
				return dir, nil
			}
			errs = append(errs, fmt.Errorf("%v: no set there", s))
			continue
		}
		seen := false
		for _, d := range devs {
			if !s.matches(d) {
				continue
			}
			seen = true
			if err := Mount(d, rescue.SetDir); err != nil {
				errs = append(errs, err)
				continue
			}
			top := filepath.Join(rescue.SetDir, s.Path)
			if dir := newest([]string{top, top + "/*", top + "/*/*"}, id); dir != "" {
				return dir, nil
			}
			if err := unix.Unmount(rescue.SetDir, 0); err != nil {
				return "", fmt.Errorf("cannot unmount %s: %w", rescue.SetDir, err)
			}
			if s.Kind != "any" && s.Kind != "cdrom" {
				errs = append(errs, fmt.Errorf("%v: /dev/%s has no set there", s, d.Name))
			}
		}
		if !seen {
			errs = append(errs, fmt.Errorf("%v: no such device", s))
		}
	}
	return "", fmt.Errorf("no backup set was found:\n%w", errors.Join(errs...))
}

// newest gives the newest set among directories that match the patterns.
func newest(patterns []string, id string) string {
	best, when := "", int64(0)
	for _, p := range patterns {
		files, err := filepath.Glob(filepath.Join(p, manifest.File))
		if err != nil {
			continue
		}
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				continue
			}
			m, err := manifest.Parse(b)
			if err != nil || id != "" && m.ID != id {
				continue
			}
			if t := m.Created.Unix(); best == "" || t > when {
				best, when = filepath.Dir(f), t
			}
		}
	}
	return best
}
