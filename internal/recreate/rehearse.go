package recreate

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/commands"
	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/plan"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/storage"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

// rehearsalMax is the largest file that programs without a mode for trying get: what they
// refuse depends on options, not on more room.
const rehearsalMax = 512 * quantity.MiB

// Rehearse has the programs of the plan try their command lines, so that one that does
// not know an option or a feature, being older than the plan's, is found before anything
// is written to a disk: mkfs and cryptsetup luksFormat on a sparse file, mdadm and
// lvcreate as far as they read their options, pvcreate and vgcfgrestore on loop devices
// where r.Loops allows it. What only the kernel can refuse is not tried: RAID levels, LUKS
// ciphers, types of LVM segments. Errors are *exit.Refusal, joined. A program that is not
// there is left to the one who looks for plan.Programs.
func (r *Recreator) Rehearse(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "mkcdrec-rehearse")
	if err != nil {
		return fmt.Errorf("cannot try the programs: %w", err)
	}
	defer os.RemoveAll(dir)
	var errs []error
	for n, s := range r.Plan.Steps {
		if err := r.rehearse(ctx, s, dir); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			errs = append(errs, &exit.Refusal{Reason: fmt.Sprintf("step %d would fail: %s\n%v", n+1, s, err)})
		}
	}
	return errors.Join(errs...)
}

// rehearse tries one step in a directory that is its own.
func (r *Recreator) rehearse(ctx context.Context, s plan.Step, dir string) error {
	for _, p := range (&plan.Plan{Steps: []plan.Step{s}}).Programs() {
		if _, err := exec.LookPath(p.Name); err != nil {
			return nil
		}
	}
	file := filepath.Join(dir, "file")
	switch s := s.(type) {
	case *plan.MakeFS:
		if len(s.Run) > 0 && len(s.Others) == 0 {
			return r.rehearseFS(ctx, s, file)
		}
	case *plan.MakeCrypt:
		if s.Crypt.Header == "" {
			return r.rehearseCrypt(ctx, s, file)
		}
	case *plan.MakeArray:
		if len(s.Run) > 0 {
			return r.rehearseArray(ctx, s, filepath.Join(dir, "missing"))
		}
	case *plan.RestoreVG:
		if r.Loops {
			return r.rehearseGroup(ctx, s, dir)
		}
	case *plan.MakeThin:
		return r.rehearseThin(ctx, s)
	}
	return nil
}

// sparseFile makes one, in the place of what was there.
func sparseFile(file string, size quantity.Size) error {
	return errors.Join(os.WriteFile(file, nil, 0o600), os.Truncate(file, int64(size)))
}

// rehearseFS tries the first command of a step; those behind it change what it made.
func (r *Recreator) rehearseFS(ctx context.Context, s *plan.MakeFS, file string) error {
	c := slices.Clone(s.Run[0])
	at := slices.Index(c, "/dev/"+s.Device)
	if at < 0 {
		return nil
	}
	c[at] = file
	size := r.Plan.SizeOf(s.Device)
	switch t := fstype.Of(s.FS.Type); {
	case t.DryRun != "":
		c = slices.Insert(c, 1, t.DryRun)
	case !t.FullSize:
		size = min(size, rehearsalMax)
	}
	if size <= 0 {
		return nil
	}
	if err := sparseFile(file, size); err != nil {
		return err
	}
	_, err := r.Run.Run(ctx, tool.Cmd{Args: c, Env: fstype.Of(s.FS.Type).Env})
	return err
}

// rehearseCrypt formats a file, with a key derivation that takes little time. A header of
// the set is tried when its passphrase is asked for.
func (r *Recreator) rehearseCrypt(ctx context.Context, s *plan.MakeCrypt, file string) error {
	format := func(quick ...string) error {
		if err := sparseFile(file, quantity.Size(s.Crypt.LUKS.Offset)+16*quantity.MiB); err != nil {
			return err
		}
		return storage.Cryptsetup(ctx, r.Run, []byte("of a rehearsal, and no secret"), slices.Insert(commands.LUKSFormat(s.Crypt, file)[1:], 1, quick...)...)
	}
	if format("--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000") == nil {
		return nil
	}
	return format("--iter-time", "1") // cryptsetup before 2.0 does not know these options
}

// rehearseArray has mdadm read the options of a step. It reads all of them, and checks
// them against level and metadata, before it opens the first member: with members that do
// not exist it makes nothing. Whether a version names such a member at the end is found
// by a command line without the options in question.
func (r *Recreator) rehearseArray(ctx context.Context, s *plan.MakeArray, missing string) error {
	var full, short []string
	members := 0
	for i, w := range s.Run[0] {
		switch {
		case i > 2 && !strings.HasPrefix(w, "-"):
			if w != "missing" { // mdadm's word for one
				w = fmt.Sprint(missing, members)
			}
			if members++; members <= s.Array.Devices {
				short = append(short, w)
			}
		case i <= 2, w == "--run", w == "--force", strings.HasPrefix(w, "--level="), strings.HasPrefix(w, "--raid-devices="):
			short = append(short, w)
		}
		full = append(full, w)
	}
	reads := func(c []string) error {
		err := storage.Mdadm(ctx, r.Run, c[1:]...)
		if e := (*tool.Error)(nil); err == nil || errors.As(err, &e) && strings.Contains(e.Stderr, missing) {
			return nil
		}
		return err
	}
	if reads(short) != nil {
		return nil // nothing is known of this version
	}
	return reads(full)
}

// invalidCommandLine is EINVALID_CMD_LINE of lib/commands/errors.h, lvm's exit code for
// options that it does not take.
const invalidCommandLine = 3

// rehearseThin has lvcreate read its options; then it does not find the group.
func (r *Recreator) rehearseThin(ctx context.Context, s *plan.MakeThin) error {
	for _, c := range s.Run {
		c = slices.Clone(c[1:])
		c[len(c)-1] = "mkcdrec-rehearsal"
		err := r.lvm(ctx, slices.Insert(c, 1, "--test", "--driverloaded", "n")...)
		if e := (*tool.Error)(nil); errors.As(err, &e) && e.Code == invalidCommandLine {
			return err
		}
	}
	return nil
}

// rehearseGroup has pvcreate and vgcfgrestore take a group's text.
func (r *Recreator) rehearseGroup(ctx context.Context, s *plan.RestoreVG, dir string) error {
	var pvs []trialPV
	for _, p := range plan.StepsOf[*plan.MakePV](r.Plan) {
		if p.Group == s.Group {
			pvs = append(pvs, trialPV{p.UUID, r.Plan.SizeOf(p.Device)})
		}
	}
	_, err := tryGroup(ctx, r.Run, dir, s.Group, s.Config, pvs, "vgs", s.Group)
	if errors.As(err, new(loopError)) {
		return nil
	}
	return err
}

// trialPV is a physical volume of a rehearsal: its UUID and the size of its device.
type trialPV struct {
	uuid string
	size quantity.Size
}

// loopError is a failure to get loop devices, which means nothing for what was to be
// tried on them.
type loopError struct{ error }

// tryGroup makes a group on sparse files in dir, behind loop devices that LVM sees alone,
// without the kernel's device-mapper, and gives the output of another command of LVM. A
// *loopError reports whether there were no loop devices.
func tryGroup(ctx context.Context, run tool.Runner, dir, group, config string, pvs []trialPV, command ...string) (out []byte, err error) {
	s := Sparse{Dir: filepath.Join(dir, "group"), Run: run}
	lvmDir := filepath.Join(dir, "lvm")
	text := filepath.Join(dir, "text")
	if err := errors.Join(os.MkdirAll(s.Dir, 0o700), os.MkdirAll(lvmDir, 0o700), os.WriteFile(text, []byte(config), 0o600)); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.Remove()) }()
	var devs []string
	only := ""
	for i, p := range pvs {
		name, err := s.loop(filepath.Join(s.Dir, fmt.Sprint(i, ".img")), p.size, 512)
		if err != nil {
			return nil, loopError{err}
		}
		devs = append(devs, "/dev/"+name)
		only += `"a|^/dev/` + name + `$|", `
	}
	only = "filter = [ " + only + `"r|.*|" ]`
	conf := "devices {\n use_devicesfile = 0\n " + only + "\n global_" + only + "\n}\nglobal {\n event_activation = 0\n}\nbackup {\n backup = 0\n archive = 0\n}\nactivation {\n udev_sync = 0\n udev_rules = 0\n}\n"
	if err := os.WriteFile(filepath.Join(lvmDir, "lvm.conf"), []byte(conf), 0o600); err != nil {
		return nil, err
	}
	lvm := func(args ...string) ([]byte, error) {
		return run.Run(ctx, tool.Cmd{Args: append([]string{"lvm"}, args...), Env: append(slices.Clone(storage.NoUdev), "LVM_SYSTEM_DIR="+lvmDir)})
	}
	for i, p := range pvs {
		if _, err := lvm(commands.Pvcreate(p.uuid, text, devs[i])[1:]...); err != nil {
			return nil, err
		}
	}
	if _, err := lvm(append(commands.Vgcfgrestore(text, group)[1:], "--driverloaded", "n")...); err != nil {
		return nil, err
	}
	if _, err := lvm("vgck", group, "--driverloaded", "n"); err != nil {
		return nil, err
	}
	return lvm(append(command, "--driverloaded", "n")...)
}
