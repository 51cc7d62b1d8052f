package restore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/lvmtext"
	"github.com/mkcdrec/mkcdrec/internal/plan"
	"github.com/mkcdrec/mkcdrec/internal/recreate"
	"github.com/mkcdrec/mkcdrec/internal/rescue"
	"github.com/mkcdrec/mkcdrec/internal/storage"
	"github.com/mkcdrec/mkcdrec/internal/tool"
	"github.com/mkcdrec/mkcdrec/internal/uuid"
)

// dryDir has what a dry run makes: sparse files, its journal, its mounts.
var dryDir = filepath.Join(rescue.StateDir, "dry-run")

// startDry makes loop devices for a number of disks possible, and clears what a dry run before left.
func (r *Restorer) startDry(ctx context.Context, s recreate.Sparse, disks int) error {
	if err := os.MkdirAll(r.opt.Target, 0o755); err != nil {
		return fmt.Errorf("cannot start the dry run: %w", err)
	}
	if err := r.hideLVM(); err != nil {
		return err
	}
	if err := storage.LoopDriver(ctx, r.Run); err != nil {
		return fmt.Errorf("cannot start the dry run: %w", err)
	}
	have, err := s.Loops() // of a run before
	if err == nil {
		err = recreate.FreeLoops(r.Run, max(disks-len(have), 0))
	}
	if err != nil {
		return err
	}
	if err := r.tidy(ctx); err != nil || r.opt.Resume {
		return err
	}
	if err := s.Remove(); err != nil {
		return fmt.Errorf("cannot clean up after the dry run before: %w", err)
	}
	return nil
}

// dryRun replaces the plan's disks by sparse files. LUKS devices get a key of
// their own, and LVM sees nothing but these files.
func (r *Restorer) dryRun(ctx context.Context, d *plan.Draft) error {
	fitted, m := d.Layout, d.Disks
	s := recreate.Sparse{Dir: filepath.Join(dryDir, "disks"), Run: r.Run}
	r.opt.Target = filepath.Join(dryDir, "target")
	r.journal = &journal{filepath.Join(dryDir, "journal.jsonl")}
	if err := r.startDry(ctx, s, len(m)); err != nil {
		return err
	}
	to, err := s.Disks(m)
	if err != nil {
		return err
	}
	for i := range fitted.Crypts {
		fitted.Crypts[i].Header = ""
	}
	for i := range fitted.Filesystems {
		// mkfs.btrfs and the kernel want every UUID once, and the disks that are
		// there may have this one.
		if f := &fitted.Filesystems[i]; f.Btrfs != nil {
			f.UUID = uuid.From("dry run " + f.UUID)
		}
	}
	for i := range fitted.VolumeGroup {
		if err := slowly(&fitted.VolumeGroup[i]); err != nil {
			return err
		}
	}
	d.Disks = to
	if r.plan, err = d.Plan(); err != nil {
		return err
	}
	for _, s := range r.plan.Steps {
		inMemory(s)
	}
	for _, p := range to {
		r.Machine.Only = append(r.Machine.Only, p.Name)
	}
	return nil
}

// dryFull reports whether there is no memory left, which programs see as a disk that
// fails.
func (r *Restorer) dryFull() error {
	var st unix.Statfs_t
	if !r.opt.DryRun || unix.Statfs(dryDir, &st) != nil || st.Bavail*uint64(st.Bsize) > 4<<20 {
		return nil
	}
	return fmt.Errorf("the memory for sparse files is full: mount -o remount,size=90%% %s gives it more", filepath.Dir(rescue.StateDir))
}

// slowly has a group's RAID volumes brought in step as slowly as can be: that
// writes to all of them, and the files are in memory. dm-raid's rates are KiB a
// second, lvmraid(7).
func slowly(g *layout.VolumeGroup) error {
	t, err := lvmtext.Parse(g.Config)
	if err != nil {
		return fmt.Errorf("volume group %s: %w", g.Name, err)
	}
	changed := false
	for _, lv := range t.Get(g.Name, "logical_volumes").Sections() {
		for _, s := range lv.Sections() {
			if strings.HasPrefix(s.Type(), "raid") && s.Type() != "raid0" && s.Type() != "raid0_meta" {
				s.Set("min_recovery_rate", int64(1))
				s.Set("max_recovery_rate", int64(1))
				changed = true
			}
		}
	}
	if changed {
		g.Config = t.String()
	}
	return nil
}

// inMemory has programs write no more than they have to: zero bytes take memory,
// too.
func inMemory(s plan.Step) {
	switch s := s.(type) {
	case *plan.MakeArray:
		for i, c := range s.Run { // mdadm --create DEVICE ...
			s.Run[i] = slices.Insert(slices.Clone(c), 3, "--assume-clean")
		}
	case *plan.MakeFS:
		if lazy := fstype.Of(s.FS.Type).Lazy; lazy != nil {
			for i, c := range s.Run {
				s.Run[i] = lazy(c)
			}
		}
	}
}

// hideLVM has LVM look at nothing but sparse disks and what is on them.
func (r *Restorer) hideLVM() error {
	dir := filepath.Join(dryDir, "lvm")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("cannot start the dry run: %w", err)
	}
	only := `filter = [ "a|^/dev/loop|", "a|^/dev/mapper/|", "a|^/dev/md|", "r|.*|" ]`
	text := "devices {\n use_devicesfile = 0\n " + only + "\n global_" + only + "\n}\nbackup {\n backup = 0\n archive = 0\n}\n"
	if err := os.WriteFile(filepath.Join(dir, "lvm.conf"), []byte(text), 0o600); err != nil {
		return fmt.Errorf("cannot start the dry run: %w", err)
	}
	r.Run = lvmIn{r.Run, dir}
	r.Machine.Run = r.Run
	return nil
}

// lvmIn runs programs with LVM's configuration in dir.
type lvmIn struct {
	tool.Runner
	dir string
}

func (l lvmIn) Run(ctx context.Context, c tool.Cmd) ([]byte, error) {
	c.Env = append(slices.Clone(c.Env), "LVM_SYSTEM_DIR="+l.dir)
	return l.Runner.Run(ctx, c)
}

// dryKeys are for LUKS devices that nothing is ever put on.
func (r *Restorer) dryKeys() {
	for _, s := range plan.StepsOf[*plan.MakeCrypt](r.plan) {
		r.rec.Keys[s.Crypt.Name] = recreate.Key{Passphrase: []byte("of a dry run, and no secret")}
	}
}

// stop ends the program as if it were killed, after a step of a dry run was done
// and before the journal has it.
func (r *Restorer) stop(step int) {
	if r.opt.KillAfter == step+1 {
		_ = unix.Kill(os.Getpid(), unix.SIGKILL) // nothing is done after it
	}
}

// compareDry reads back what the dry run made, and compares it with what was
// planned.
func (r *Restorer) compareDry(ctx context.Context) error {
	is, err := r.Machine.Read(ctx)
	if err != nil {
		return fmt.Errorf("cannot read back what was made: %w", err)
	}
	names := map[string]string{} // what it is called now -> what it was
	for old, now := range r.plan.Devices {
		names[now] = old
	}
	want, got := parts(r.plan.Layout, nil, r.plan.Devices), parts(is, names, nil)
	var diff []string
	for _, l := range want {
		if !slices.Contains(got, l) {
			diff = append(diff, "- "+l)
		}
	}
	for _, l := range got {
		if !slices.Contains(want, l) {
			diff = append(diff, "+ "+l)
		}
	}
	if len(diff) > 0 {
		return fmt.Errorf("what was made is not what was planned (- planned, + made):\n  %s", strings.Join(diff, "\n  "))
	}
	r.Screen.Note("%d parts were made and read back: all as planned", len(want))
	return nil
}

// parts describes partitions, arrays, LUKS, LVM, file systems and swap, a line
// each, with the names that things had: names maps from others. Only what lies
// on made devices counts, when that is not nil.
func parts(l *layout.Layout, names, made map[string]string) []string {
	p := partList{names: names, made: made}
	p.tables(l)
	p.stack(l)
	p.content(l)
	slices.Sort(p.out)
	return p.out
}

type partList struct {
	names, made map[string]string
	out         []string
}

func (p *partList) name(dev string) string {
	if n, ok := p.names[dev]; ok {
		return n
	}
	return dev
}

func (p *partList) skip(dev string) bool { return p.made != nil && p.made[dev] == "" }

func (p *partList) add(format string, a ...any) { p.out = append(p.out, fmt.Sprintf(format, a...)) }

func (p *partList) tables(l *layout.Layout) {
	for _, d := range l.Disks {
		if d.Table == nil || p.skip(d.Name) {
			continue
		}
		p.add("table %s %s %s%s", p.name(d.Name), d.Table.Label, d.Table.GUID, d.Table.Signature)
		for _, q := range d.Table.Partitions {
			if q.Extended() && q.Number > 4 {
				continue
			}
			p.add("partition %s %d from %d, %d bytes, type %s %s %q %d %v", p.name(q.Device), q.Number, q.Start, q.Size, q.Type, q.GUID, q.Name, q.Attributes, q.Active)
		}
	}
}

func (p *partList) stack(l *layout.Layout) {
	for _, a := range l.Arrays {
		if !p.skip(a.Name) {
			p.add("array %s %s %s %s, %d devices, chunk %d, layout %d, %d bytes", a.Name, a.UUID, a.Level, a.Metadata, a.Devices, a.Chunk, a.Layout, a.Size)
		}
	}
	for _, c := range l.Crypts {
		if !p.skip(c.Mapper()) {
			p.add("luks %s on %s %s, %d bytes from %d, %s", c.Name, p.name(c.Device), c.UUID, c.Size, c.LUKS.Offset, c.LUKS.Cipher)
		}
	}
	for _, g := range l.VolumeGroup {
		if len(g.PVs) == 0 || p.skip(g.PVs[0].Device) {
			continue
		}
		p.add("group %s %s", g.Name, g.UUID)
		for _, v := range g.PVs {
			p.add("pv %s of %s %s", p.name(v.Device), g.Name, v.UUID)
		}
		for _, v := range g.LVs {
			p.add("volume %s/%s %s %d bytes, pool %q", g.Name, v.Name, v.Type, v.Size, v.Pool)
		}
	}
}

func (p *partList) content(l *layout.Layout) {
	for _, f := range l.Filesystems {
		if p.skip(f.Device) {
			continue
		}
		// Which of its devices is the first one is a matter of what they are called.
		var devs []string
		for _, d := range f.Devs() {
			devs = append(devs, p.name(d))
		}
		slices.Sort(devs)
		on := strings.Join(devs, " and ")
		p.add("%s on %s %s %q", f.Type, on, strings.ToLower(f.UUID), f.Label)
		for _, v := range f.Subvolumes {
			p.add("subvolume %s of %s, default %v", v.Path, on, v.Default)
		}
	}
	for _, s := range l.Swap {
		if !p.skip(s.Device) {
			p.add("swap on %s %s %q", p.name(s.Device), s.UUID, s.Label)
		}
	}
}

// clearDry takes away what a dry run that was stopped has left: its volume
// groups have the names of those to be restored.
func (r *Restorer) clearDry(ctx context.Context) error {
	s := recreate.Sparse{Dir: filepath.Join(dryDir, "disks"), Run: r.Run}
	if r.opt.PlanOnly || !s.There() {
		return nil
	}
	loops, err := s.Loops()
	if err != nil {
		return fmt.Errorf("cannot clean up after the dry run before: %w", err)
	}
	run := lvmIn{r.Run, filepath.Join(dryDir, "lvm")}
	old := &storage.Tree{Plan: r.whatever(), Own: loops, Run: run, Target: filepath.Join(dryDir, "target"), Machine: r.Machine}
	if err := errors.Join(old.Release(ctx), s.Remove()); err != nil {
		return fmt.Errorf("cannot clean up after the dry run before:\n%w", err)
	}
	return nil
}

// endDry takes everything away again.
func (r *Restorer) endDry(ctx context.Context) error {
	err := r.tree().Release(ctx)
	if err == nil {
		err = recreate.Sparse{Dir: filepath.Join(dryDir, "disks"), Run: r.Run}.Remove()
	}
	return errors.Join(err, os.Remove(r.journal.file))
}
