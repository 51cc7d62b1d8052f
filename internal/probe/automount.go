package probe

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/sysconf"
)

// automountWait is how long an automount may take: a disk that spins up needs ten
// seconds, one that is missing makes systemd wait for longer.
const automountWait = 30 * time.Second

// espPaths are where systemd-gpt-auto-generator(8) and distributions have automounts
// of boot partitions, without fstab.
func espPaths() []string { return []string{"/boot", "/boot/efi", "/efi"} }

// openAutomount opens a directory, so that what belongs there is mounted.
func (m Machine) openAutomount(path string) error {
	done := make(chan error, 1)
	go func() {
		f, err := os.OpenFile(m.path(path), os.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err == nil {
			err = f.Close()
		}
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case <-time.After(automountWait):
		return fmt.Errorf("cannot open %s: no answer in %v", path, automountWait)
	}
}

// automounted mounts the local file systems that wait for their first use, and lists
// the mounts. Those that can't be mounted are recorded by name.
func (m Machine) automounted(l *layout.Layout, open func(path string) error) ([]MountInfo, error) {
	mounts, err := m.Mounts()
	if err != nil || len(m.Only) > 0 || m.System != "" {
		return mounts, err
	}
	tab := sysconf.ParseFstab(l.Fstab)
	idle := func(mi MountInfo) bool {
		if mi.Type != "autofs" || mi.Hidden {
			return false
		}
		e := tab.At(mi.Path)
		if e == nil {
			return slices.Contains(espPaths(), mi.Path)
		}
		return e.Ref().Kind <= sysconf.Diskseq && !sysconf.HasOption(e.Options, "_netdev")
	}
	failed := map[string]error{}
	// One may be below another: as many rounds as find new ones.
	for again := true; again; {
		again = false
		for _, mi := range mounts {
			if _, tried := failed[mi.Path]; tried || !idle(mi) {
				continue
			}
			failed[mi.Path], again = open(mi.Path), true
		}
		if mounts, err = m.Mounts(); err != nil {
			return nil, err
		}
	}
	for _, mi := range mounts {
		if idle(mi) {
			why := cmp.Or(failed[mi.Path], errors.New("nothing was mounted when it was opened"))
			l.Unsupported = append(l.Unsupported, layout.Unsupported{What: mi.Path, Device: mi.Path, Reason: "automount that can't be mounted: " + why.Error()})
		}
	}
	return mounts, nil
}
