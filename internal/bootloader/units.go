package bootloader

import (
	"fmt"
	"path"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/sysconf"
)

// unitDir is where an administrator's units are; those of packages name no disks.
const unitDir = "/etc/systemd/system"

// unitEntry reads a mount or swap unit as an entry of fstab, systemd.mount(5) and
// systemd.swap(5); nil for another.
func unitEntry(file string, u *sysconf.Unit) *sysconf.FstabEntry {
	section, typ, where := "Mount", "auto", ""
	switch {
	case strings.HasSuffix(file, ".swap"), strings.Contains(file, ".swap.d/"):
		section, typ, where = "Swap", "swap", "none"
	case !strings.HasSuffix(file, ".mount") && !strings.Contains(file, ".mount.d/"):
		return nil
	}
	e := &sysconf.FstabEntry{Spec: u.Value(section, "What"), File: where, Type: typ, Options: u.Value(section, "Options")}
	if e.Spec == "" {
		return nil
	}
	if section == "Mount" {
		e.File = u.Value(section, "Where")
		if t := u.Value(section, "Type"); t != "" {
			e.Type = t
		}
		if e.File == "" { // of a drop-in
			e.File = sysconf.UnitPath(strings.TrimSuffix(strings.TrimSuffix(path.Base(path.Dir(file)), ".d"), ".mount"))
		}
	}
	return e
}

// units gives the mount and swap units of the system, and their drop-ins.
func (s *System) units() []string {
	var out []string
	for _, p := range []string{"*.mount", "*.swap", "*.mount.d/*.conf", "*.swap.d/*.conf"} {
		for _, f := range s.tree().Glob(unitDir, p) {
			if st, err := s.tree().Lstat(f); err == nil && st.Mode().IsRegular() {
				out = append(out, f)
			}
		}
	}
	return out
}

// followUnits changes what mount and swap units name, and lets the system start
// without those that were not restored.
func (s *System) followUnits(r *sysconf.Resolver) error {
	for _, f := range s.units() {
		now := ""
		if err := s.edit(f, func(text string) (out string, notes, wrong []string) {
			out, notes, wrong, now = s.followUnit(f, text, r)
			return out, notes, wrong
		}); err != nil {
			return err
		}
		if e := unitEntry(f, sysconf.ParseUnit(s.read(f))); e != nil && e.NoFail() {
			if err := s.wantOnly(path.Base(f)); err != nil {
				return err
			}
		}
		if now != "" && strings.HasSuffix(f, ".swap") {
			if err := s.renameSwap(f, now); err != nil {
				return err
			}
		}
	}
	return nil
}

// followUnit gives the text of a mount or swap unit with what is mounted named as it
// is now, or nofail if that was not restored, and what was changed. now is the new
// name, "" for none.
func (s *System) followUnit(file, text string, r *sysconf.Resolver) (out string, notes, wrong []string, now string) {
	u := sysconf.ParseUnit(text)
	e := unitEntry(file, u)
	if e == nil {
		return text, nil, nil, ""
	}
	section := "Mount"
	if e.Swap() {
		section = "Swap"
	}
	t := r.Entry(e)
	switch {
	case t.State == sysconf.Found && !t.Right:
		now = t.Path()
		u.Get(section, "What").Set(now)
		return u.String(), []string{fmt.Sprintf("%s is replaced by %s", e.Spec, now)}, nil, now
	case t.State == sysconf.Left && !e.NoFail():
		if o := u.Get(section, "Options"); o == nil || o.Value == "" {
			u.Add(section, "Options", "nofail")
		} else {
			o.Set(sysconf.AppendOption(o.Value, "nofail"))
		}
		return u.String(), []string{fmt.Sprintf("%s was not restored: nofail lets the system start without it", e.Spec)}, nil, ""
	case t.State == sysconf.Missing && !e.NoFail():
		return text, nil, []string{fmt.Sprintf("%s is not among what was restored", e.Spec)}, ""
	}
	return text, nil, nil, ""
}

// wantOnly has targets that require a unit want it: a requirement that fails stops
// the boot.
func (s *System) wantOnly(unit string) error {
	for _, d := range s.tree().Glob(unitDir, "*.requires") {
		if err := s.moveLink(d+"/"+unit, strings.TrimSuffix(d, ".requires")+".wants/"+unit); err != nil {
			return err
		}
	}
	return nil
}

// renameSwap gives a swap unit the name that systemd wants for its device, and its
// links as well.
func (s *System) renameSwap(file, what string) error {
	name := sysconf.UnitName(what) + ".swap"
	to := unitDir + "/" + name
	if err := s.tree().Copy(file, to); err != nil {
		return fmt.Errorf("cannot rename %s: %w", file, err)
	}
	for _, p := range []string{"*.wants", "*.requires"} {
		for _, d := range s.tree().Glob(unitDir, p) {
			if err := s.moveLink(d+"/"+path.Base(file), d+"/"+name); err != nil {
				return err
			}
		}
	}
	s.Report.Note("%s is %s now", file, name)
	return s.tree().Remove(file)
}

// moveLink moves the link of a unit; one that is not there is no error. It leads to
// the unit of its new name.
func (s *System) moveLink(from, to string) error {
	if _, err := s.tree().Readlink(from); err != nil {
		return nil
	}
	err := s.tree().MkdirAll(path.Dir(to), 0o755)
	if err == nil {
		err = s.tree().Remove(to)
	}
	if err == nil {
		err = s.tree().Symlink(unitDir+"/"+path.Base(to), to)
	}
	if err == nil {
		err = s.tree().Remove(from)
	}
	if err != nil {
		return fmt.Errorf("cannot move %s: %w", from, err)
	}
	return nil
}

// proveUnits lists units that are started at boot and name what is not there.
func (s *System) proveUnits(r *sysconf.Resolver) []string {
	var out []string
	for _, f := range s.units() {
		e := unitEntry(f, sysconf.ParseUnit(s.read(f)))
		if e == nil || e.NoFail() || !s.enabled(path.Base(f)) {
			continue
		}
		if t := r.Entry(e); t.State == sysconf.Missing || t.State == sysconf.Left {
			out = append(out, fmt.Sprintf("%s: %s is not among what was restored", f, e.Spec))
		}
	}
	return out
}

// enabled reports whether a target starts a unit. Of drop-ins nothing is known.
func (s *System) enabled(unit string) bool {
	for _, p := range []string{"*.wants", "*.requires"} {
		for _, d := range s.tree().Glob(unitDir, p) {
			if _, err := s.tree().Readlink(d + "/" + unit); err == nil {
				return true
			}
		}
	}
	return strings.HasSuffix(unit, ".conf")
}
