package medium

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/media"
	"github.com/mkcdrec/mkcdrec/internal/regular"
	"github.com/mkcdrec/mkcdrec/internal/rescue"
)

// Drives finds the discs of a set in this machine's drives, and waits for
// them. It is a manifest.DiscSource.
type Drives struct {
	ID string // of the set
	// Say is called with the disc that is needed and what was found instead.
	Say func(format string, args ...any)
	// Check has every disc read through and compared with its implanted sum
	// before it is used; Progress makes the counter for that.
	Check    bool
	Progress func(name string, total int64) func(n int64)
	checked  []string
}

// lookEvery is how often drives are looked at while a disc is waited for.
const lookEvery = 2 * time.Second

// Disc implements manifest.DiscSource: it looks into every drive until the
// disc is in one of them. The disc before is unmounted.
func (d *Drives) Disc(ctx context.Context, want manifest.Disc, problem error) (string, error) {
	for _, dir := range []string{rescue.SetDir, rescue.MediumDir} {
		if err := unix.Unmount(dir, 0); err != nil && err != unix.EINVAL && err != unix.ENOENT {
			return "", fmt.Errorf("cannot release the disc: cannot unmount %s: %w", dir, err)
		}
	}
	if problem != nil {
		d.Say("disc %d (%s) can't be used: %v", want.Number, want.Label, problem)
		d.checked = slices.DeleteFunc(d.checked, func(l string) bool { return l == want.Label })
	}
	said := map[string]bool{}
	bad := map[string]bool{} // what was found in a drive and can't be used
	if problem != nil {
		bad[want.Label] = true
	}
	for {
		devs, err := Devices()
		if err != nil {
			return "", err
		}
		here := ""
		for _, v := range devs {
			if v.Info.Type != fstype.TypeISO {
				continue
			}
			if v.Info.Label != want.Label {
				here += fmt.Sprintf("; in /dev/%s is %q", v.Name, v.Info.Label)
				continue
			}
			if bad[want.Label] {
				here += fmt.Sprintf("; the one in /dev/%s can't be used: take it out, clean it, put it in again", v.Name)
				continue
			}
			dir, err := d.use(v, want)
			if err == nil {
				return dir, nil
			}
			d.Say("%v", err)
			bad[want.Label] = true
		}
		if !slices.ContainsFunc(devs, func(v Device) bool { return v.Info.Label == want.Label }) {
			delete(bad, want.Label) // it was taken out
		}
		if t := fmt.Sprintf("put in disc %d, label %s%s", want.Number, want.Label, here); !said[t] {
			said[t] = true
			d.Say("%s", t)
			d.eject(devs)
		}
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-time.After(lookEvery):
		}
	}
}

// use mounts a disc with the right label, and checks it.
func (d *Drives) use(v Device, want manifest.Disc) (string, error) {
	if d.Check && !slices.Contains(d.checked, want.Label) {
		if err := d.check(v); err != nil {
			return "", err
		}
		d.checked = append(d.checked, want.Label)
	}
	if err := Mount(v, rescue.SetDir); err != nil {
		return "", err
	}
	files, err := filepath.Glob(filepath.Join(rescue.SetDir, "*", manifest.DiscsFile))
	if err == nil {
		for _, f := range files {
			b, e := regular.ReadFile(f, manifest.MaxText)
			if e != nil {
				err = e
				continue
			}
			if x, e := manifest.ParseDiscs(b); e == nil && x.ID == d.ID && x.This == want.Number {
				d.Say("disc %d is in /dev/%s", want.Number, v.Name)
				return filepath.Dir(f), nil
			}
		}
	}
	if e := unix.Unmount(rescue.SetDir, 0); e != nil {
		return "", e
	}
	return "", fmt.Errorf("/dev/%s has the label %s, but is not disc %d of the set %s (%v)", v.Name, want.Label, want.Number, d.ID, err)
}

func (d *Drives) check(v Device) error {
	f, err := os.Open("/dev/" + v.Name)
	if err != nil {
		return err
	}
	defer f.Close()
	size, err := media.VolumeSize(f)
	if err == nil {
		_, err = media.CheckSum(f, d.Progress("checking the disc in /dev/"+v.Name, size))
	}
	if err != nil {
		return fmt.Errorf("the disc in /dev/%s: %w", v.Name, err)
	}
	return nil
}

// cdromEject is CDROMEJECT of linux/cdrom.h.
const cdromEject = 0x5309

// eject opens the tray of a drive with a disc of ours that is not needed now.
// A failure does not matter.
func (d *Drives) eject(devs []Device) {
	for _, v := range devs {
		if v.Info.Type != fstype.TypeISO || !strings.HasPrefix(v.Info.Label, rescue.VolumeLabel) || !strings.HasPrefix(v.Name, "sr") {
			continue
		}
		if fd, err := unix.Open("/dev/"+v.Name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); err == nil {
			_ = unix.IoctlSetInt(fd, cdromEject, 0)
			unix.Close(fd)
		}
	}
}
