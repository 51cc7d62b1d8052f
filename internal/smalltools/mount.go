package smalltools

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/printable"
	"github.com/mkcdrec/mkcdrec/internal/superblock"
	"github.com/mkcdrec/mkcdrec/internal/sysconf"
)

// mountFlags are the option words that are flags of mount(2); a word that is
// not here goes to the file system.
var mountFlags = map[string]struct {
	set, clear uintptr
}{
	"ro": {set: unix.MS_RDONLY}, "rw": {clear: unix.MS_RDONLY}, "nosuid": {set: unix.MS_NOSUID}, "suid": {clear: unix.MS_NOSUID}, "nodev": {set: unix.MS_NODEV}, "dev": {clear: unix.MS_NODEV},
	"noexec": {set: unix.MS_NOEXEC}, "exec": {clear: unix.MS_NOEXEC}, "sync": {set: unix.MS_SYNCHRONOUS}, "remount": {set: unix.MS_REMOUNT}, "bind": {set: unix.MS_BIND}, "rbind": {set: unix.MS_BIND | unix.MS_REC},
	"noatime": {set: unix.MS_NOATIME}, "relatime": {set: unix.MS_RELATIME}, "nodiratime": {set: unix.MS_NODIRATIME}, "defaults": {}, "auto": {}, "noauto": {}, "user": {}, "nofail": {},
}

// Mount mounts: mount [-r] [-t TYPE] [-o OPTIONS] [--bind|--rbind] DEVICE|UUID=X|LABEL=X DIR.
// The type is found out when it is not given; without arguments it lists.
func Mount(s IO, args []string) error {
	f := flags(s, "mount", "[-r] [-t TYPE] [-o OPTIONS] [--bind|--rbind] DEVICE|UUID=X|LABEL=X DIR")
	typ := f.String("t", "", "type of the file system; found out if not given")
	opts := f.String("o", "", "options, with commas")
	ro := f.Bool("r", false, "read-only")
	bind := f.Bool("bind", false, "show a directory at another place")
	rbind := f.Bool("rbind", false, "and what is mounted below it")
	args, err := parse(f, args)
	if err != nil {
		return err
	}
	if len(args) == 0 {
		b, err := os.ReadFile("/proc/self/mounts")
		if err != nil {
			return err
		}
		_, err = io.WriteString(s.Out, printable.CleanLines(string(b)))
		return err
	}
	flag, data := mountOptions(*opts)
	if *ro {
		flag |= unix.MS_RDONLY
	}
	if *bind {
		flag |= unix.MS_BIND
	}
	if *rbind {
		flag |= unix.MS_BIND | unix.MS_REC
	}
	if len(args) == 1 && flag&unix.MS_REMOUNT != 0 {
		args = []string{"none", args[0]}
	}
	if len(args) != 2 {
		return usage{errors.New("what, and where?")}
	}
	dev, types, err := mountSource(args[0], *typ, flag)
	if err != nil {
		return err
	}
	var errs []error
	for _, t := range types {
		if err = unix.Mount(dev, args[1], t, flag, data); err == nil {
			return nil
		}
		errs = append(errs, fmt.Errorf("cannot mount %s on %s as %s: %w", dev, args[1], t, err))
	}
	return errors.Join(errs...)
}

func mountOptions(opts string) (flag uintptr, data string) {
	var rest []string
	for _, o := range strings.Split(opts, ",") {
		if o == "" {
			continue
		}
		if m, ok := mountFlags[o]; ok {
			flag = flag&^m.clear | m.set
		} else {
			rest = append(rest, o)
		}
	}
	return flag, strings.Join(rest, ",")
}

// mountSource finds the device by UUID or label, and the types to try.
func mountSource(dev, typ string, flag uintptr) (string, []string, error) {
	if r := sysconf.ParseRef(dev); r.Kind == sysconf.UUID || r.Kind == sysconf.Label {
		names, err := os.ReadDir("/sys/class/block")
		if err != nil {
			return "", nil, err
		}
		found := ""
		for _, n := range names {
			if i, err := superblock.ProbePath("/dev/" + n.Name()); err == nil && i != nil && (r.Kind == sysconf.UUID && strings.EqualFold(i.UUID, r.Value) || r.Kind == sysconf.Label && i.Label == r.Value) {
				found = "/dev/" + n.Name()
				break
			}
		}
		if found == "" {
			return "", nil, fmt.Errorf("no device has %s", dev)
		}
		dev = found
	}
	if typ != "" || flag&(unix.MS_BIND|unix.MS_REMOUNT) != 0 {
		return dev, []string{typ}, nil
	}
	if i, err := superblock.ProbePath("/dev/" + strings.TrimPrefix(dev, "/dev/")); err == nil && i != nil {
		return dev, []string{i.Type}, nil
	}
	return dev, nil, fmt.Errorf("cannot find out what is on %s; say -t TYPE", dev)
}
