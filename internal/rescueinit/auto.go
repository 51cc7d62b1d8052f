package rescueinit

import (
	"errors"
	"os"
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/efivar"
	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/probe"
	"github.com/mkcdrec/mkcdrec/internal/rescue"
)

// unattended runs the job that the command line asks for.
func (s *System) unattended() {
	args := []string{"/bbin/restore", "--yes"}
	if !s.opts.Again {
		args = append(args, "--once")
	}
	for _, c := range s.opts.Confirm {
		args = append(args, "--confirm", c)
	}
	for _, m := range s.opts.Map {
		args = append(args, "--map", m)
	}
	if s.opts.Answers != "" {
		args = append(args, "--answers", s.opts.Answers)
	}
	s.say("unattended restore begins")
	err := s.run(args...)
	var e *exitError
	switch {
	case err == nil:
		s.say("UNATTENDED RESTORE DONE")
	case errors.As(err, &e) && e.status.ExitStatus() == exit.Partial:
		s.say("UNATTENDED RESTORE DONE, but not everything is restored: see above, or /var/log/mkcdrec in the restored system")
	case s.repeated():
		s.restoredBefore()
		return
	default:
		s.say("UNATTENDED RESTORE FAILED: %v", err)
		return
	}
	switch s.opts.After {
	case "reboot":
		s.stop("reboot")
	case "shell":
	default:
		// Not reboot: the medium may still be in the drive, and come first.
		s.stop("poweroff")
	}
}

// repeated reports whether restore refused because the disks were restored before.
func (s *System) repeated() bool {
	_, err := os.Stat(s.host.Path(rescue.RepeatedFile))
	return err == nil
}

// restoredBefore starts the restored system: the medium is still there, and would start
// again. The firmware is told to, or else the kernel. Where neither can, it waits for a
// person.
func (s *System) restoredBefore() {
	s.startRestored(starter{
		next: func() (string, error) {
			return efivar.Next(s.host.Path(efivar.Dir), onDisk(probe.Machine{Root: s.root()}))
		},
		boot: func() error { return s.run(bootArgs(s.host.Path(rescue.RepeatedFile))...) },
		stop: s.stop,
		uefi: func() bool { _, err := os.Stat(s.host.Path(efivar.Dir)); return err == nil },
	})
}

// onDisk returns of the firmware's boot entries, by number, which of them start something
// from a partition of this machine's disks: not from the network, which this system may
// have come from by another entry, and not from the medium.
func onDisk(m probe.Machine) func(id string) bool {
	disks, err := m.Disks()
	if err != nil {
		return func(string) bool { return false }
	}
	var medium []string
	if dev, err := m.DeviceAt(m.Root + rescue.MediumDir); err == nil {
		medium = m.DisksOf(dev)
	}
	there := map[string]bool{}
	for _, d := range disks {
		if d.Table == nil || d.Table.Label != layout.GPT || slices.Contains(medium, d.Name) {
			continue
		}
		for _, p := range d.Table.Partitions {
			there[strings.ToUpper(p.GUID)] = true
		}
	}
	found := map[string]bool{}
	entries, _ := efivar.Entries(m.Root + efivar.Dir)
	for _, e := range entries {
		found[e.ID] = e.PartGUID != "" && there[strings.ToUpper(e.PartGUID)]
	}
	return func(id string) bool { return found[id] }
}

// bootArgs is the program that boots the system of the set that a file names; a tape is
// not read again, the medium knows its layout.
func bootArgs(file string) []string {
	args := []string{"/bbin/restore", "boot"}
	b, err := os.ReadFile(file)
	if set := strings.TrimSpace(string(b)); err == nil && set != "" && !strings.HasPrefix(set, manifest.TapePrefix) {
		args = append(args, set)
	}
	return args
}

// starter has the ways to start the restored system.
type starter struct {
	uefi func() bool
	next func() (id string, err error) // sets the firmware's next boot entry
	boot func() error                  // loads the kernel; process 1 starts it
	stop func(how string)
}

func (s *System) startRestored(by starter) {
	s.say("NOT RESTORED AGAIN: this machine was restored from the set before; nothing was changed")
	if s.opts.After != "shell" {
		if by.uefi() {
			id, err := by.next()
			if err == nil {
				s.say("the firmware's entry Boot%s is started next", id)
				by.stop("reboot")
				return
			}
			s.say("%v", err)
		}
		s.say("the restored system is booted from its disk, without the firmware")
		err := by.boot()
		if err == nil {
			return
		}
		s.say("cannot boot the restored system: %v", err)
	}
	s.say("remove the medium and run reboot, or choose the local disk in the boot menu; with mkcdrec.again it is restored again")
}
