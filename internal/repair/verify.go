package repair

import (
	"cmp"
	"context"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/mkcdrec/mkcdrec/internal/archive"
	"github.com/mkcdrec/mkcdrec/internal/bootloader"
	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/inroot"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/lazyregexp"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/storage"
)

// Verified is what a comparison of a system with its set saw.
type Verified struct {
	// Differences are those that a restore does not make, with full paths.
	Differences []archive.Difference `json:"differences"`
	// Expected counts those that it does make, by what they are.
	Expected map[string]int64 `json:"expected"`
	Members  int64            `json:"members"`
}

// expected are the changes that a restore makes after the files are there.
var expected = []expectation{
	{"the initramfs, recreated", lazyregexp.New(`^/boot/(initrd|initramfs).*$|^/var/lib/initramfs-tools(/.*)?$|^/var/tmp$`)},
	{"fstab and others that name devices, corrected", sync.OnceValue(bootloader.Edited)},
	{"the log of the restore", lazyregexp.New(`^/var/log(/|/mkcdrec(/.*)?)?$`)},
	{"the record of the restore", lazyregexp.New(`^/var/lib(/|/mkcdrec(/restored\.json)?)?$|^(/boot|/boot/efi|/efi)/mkcdrec-restored\.json$|^/efi/?$`)},
	{"what every file system has of its own", lazyregexp.New(`^(/.*)?/lost\+found$`)},
	{"mount points that had to be made", lazyregexp.New(`^/(proc|sys|dev|run|tmp)?$`)},
}

// expectation names the changes of some paths.
type expectation struct {
	name string
	path func() *regexp.Regexp
}

// expectations are the changes that a restore of a system with a boot loader makes.
func expectations(loader string) []expectation {
	all := slices.Clone(expected)
	for _, e := range bootloader.For(loader).Expected() {
		all = append(all, expectation{e.Name, lazyregexp.New(e.Pattern)})
	}
	return all
}

// expectedAt names a change of a path that is among those; "" when it is not.
func expectedAt(path string, all []expectation) string {
	for _, e := range all {
		if e.path().MatchString(path) {
			return e.name
		}
	}
	return ""
}

// Verify compares the system that is mounted below Target with a set.
func (r *Opener) Verify(ctx context.Context, set *manifest.Set) (*Verified, error) {
	v := &Verified{Expected: map[string]int64{}}
	for _, a := range set.Manifest.Archives {
		dir, err := r.place(a)
		if err != nil {
			return nil, fmt.Errorf("cannot compare %s: %w", a.Name(), err)
		}
		if at, err := storage.Mounted(r.kernel(), func(at string) bool { return at == dir }); err != nil {
			return nil, err
		} else if len(at) == 0 {
			return nil, fmt.Errorf("cannot compare %s: nothing is mounted on %s; run restore mount first", a.Name(), dir)
		}
		if err := r.verifyOne(ctx, set, a, dir, v); err != nil {
			return nil, err
		}
	}
	return v, nil
}

// place is where the system has what is in an archive.
func (r *Opener) place(a manifest.Archive) (string, error) {
	if a.Mount == "" {
		return storage.PrivateDir(r.Target, a.Device), nil
	}
	return inroot.Dir(r.Target, a.Mount)
}

// saved is the file system that an archive has, and its mount; a device without one has the empty mount.
func saved(l *layout.Layout, a manifest.Archive) (*layout.Filesystem, layout.Mount) {
	if fs := l.Mounted(a.Mount); a.Mount != "" && fs != nil {
		return fs, fs.MountAt(a.Mount)
	}
	for i := range l.Filesystems {
		if fs := &l.Filesystems[i]; a.Mount == "" && fs.Device == a.Device {
			return fs, layout.Mount{}
		}
	}
	return nil, layout.Mount{}
}

func (r *Opener) verifyOne(ctx context.Context, set *manifest.Set, a manifest.Archive, dir string, v *Verified) error {
	f, err := set.Archive(a.File)
	if err != nil {
		return err
	}
	defer f.Close()
	root, err := archive.OpenFS(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	var prog progress.Counter = r.Report.Phase("comparing "+a.Name(), f.TarSize())
	opt := archive.CompareOptions{Progress: prog}
	if fs, at := saved(set.Layout, a); fs != nil {
		opt.Inner, opt.Apart = fs.Inner(at), fs.Apart(at)
	}
	ds, err := f.Compare(ctx, root, opt)
	if err != nil {
		return err
	}
	v.Members += a.Members
	expected := expectations(set.Layout.Boot.Loader)
	for _, d := range ds {
		d.Path = filepath.Join(cmp.Or(a.Mount, a.Device), d.Path)
		name := expectedAt(d.Path, expected)
		if slices.ContainsFunc(set.Layout.SwapFiles, func(s layout.SwapFile) bool { return s.Path == d.Path }) {
			name = "swap files, recreated"
		}
		if name == "" && fstype.Of(a.Type).Foreign && d.Path == filepath.Clean(a.Mount) && strings.HasPrefix(d.What, "time is") {
			name = "the time of a root directory, which FAT keeps nowhere"
		}
		if name == "" {
			v.Differences = append(v.Differences, d)
		} else {
			v.Expected[name]++
		}
	}
	return nil
}
