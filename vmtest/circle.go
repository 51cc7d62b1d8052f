package vmtest

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"filippo.io/age"

	"github.com/mkcdrec/mkcdrec/vmtest/tree"
)

// Circle is the main job, end to end: a source machine is backed up,
// destroyed, restored from its own rescue medium onto a blank disk, booted by
// its own firmware and loader, and compared.
type Circle struct {
	Kind string
	// Work is an empty directory; console logs stay in it.
	Work string
	// Mkcdrec and Guest are the executables that run in the machines.
	Mkcdrec, Guest string
	Say            func(format string, args ...any)
	// CPUs of the machines, 1 if 0. With two, emulation needs half as much time again
	// for the same work: it pays only for a circle that has the processors to itself.
	CPUs int
	// TargetSize makes the restored machine's disk larger or smaller ("" for the same),
	// TargetBus attaches it in another way.
	TargetSize, TargetBus string
	// ByHand restores with the set's restore.sh on a plain Debian, without
	// any program of ours.
	ByHand bool
	// Discs, if not "", has the backup divided among discs of this size, three
	// of them, and restored from them through one drive.
	Discs string
	// Sealed has the backup encrypted with a passphrase, which the restore asks for.
	Sealed bool
	// Tapes, if not nil, are the sizes of two tapes in MiB: the backup goes to
	// an OBDR tape and on to a second reel, and is restored from them by the
	// image that a drive would present.
	Tapes []int
	// Key has the backup written to a stick, twice, and the stick start the
	// restore.
	Key bool
	// Wishes are options for restore, which is started by hand then. What they
	// change of the storage is checked by Wished, a command in the restored
	// machine.
	Wishes, Wished string
	// TargetSector is the size of the new disks' sectors, if it is another.
	TargetSector int
	// Mate gives the restored machine a second disk that the old one lacked.
	Mate bool
	// Firmware is that of the restored machine, "uefi" or "bios", if it is not the
	// old one's.
	Firmware string
	// FailAt has a write to the target disk fail, see Disk: the restore stops
	// there, and is resumed.
	FailAt int64
	// Vanish has the target disk, a SCSI one, go away in the middle of a restore,
	// and be connected again.
	Vanish bool
	// Walk is steps, divided by blanks, after which a dry run is killed and
	// resumed, "all" for every one: what it makes is what was planned.
	Walk string
	// Spoil is a command that breaks something of the source machine before it is
	// described. The backup reports what, and ends with exit status 3.
	Spoil string
	// Loader starts the machine in the place of GRUB: a key of loaders.
	Loader string
	// Cloned has clonedsk copy the source's disks, with CloneWith for options, in the
	// place of backup and restore. CloneSays is what its plan must say, a regular expression.
	Cloned               bool
	CloneWith, CloneSays string
	// CloneRefused is what clonedsk must say, a regular expression, when it is run without
	// CloneWith: it refuses that with exit status 4. "" if it would not be refused.
	CloneRefused string
	// Clonezilla has the source's disk cloned from an image directory as Clonezilla saves
	// it, which is made with partclone's programs.
	Clonezilla bool
	// Renewed is for a clone with a new identity: it boots with the source's disks attached.
	Renewed bool
	// Live has the source machine clone itself while it runs.
	Live bool
	// Before is a command that changes the source machine before it is described.
	Before string
	// Home, if not nil, has the backup go to a server, twice, and be restored from there.
	Home *Home
	// From is the Work of a circle whose backup is restored once more, after
	// BackUp; "" for one of its own.
	From string
}

// Outcome is what a Circle saw.
type Outcome struct {
	Kind        string
	Backup      string // table printed by mkcdrec path
	Restore     string // table printed by restore
	Paths       int    // described on the source machine
	Named       map[string]int
	Differences []tree.Difference
	Times       []StepTime
}

// StepTime is how long a step took.
type StepTime struct {
	Step    string
	Seconds float64
}

// circle is a scenario that runs.
type circle struct {
	Circle
	src     *Source
	setDisk string
	out     *Outcome
	tapes   *Tapes
	// vm is the source machine, from when it was described until it was backed up.
	vm *VM
	// identity decrypts a set, or its LUKS headers.
	identity *age.X25519Identity
	stranger string // a public key that signs no sets
}

func (c Circle) new() *circle {
	r := &circle{Circle: c, setDisk: filepath.Join(c.Work, "set.img"), out: &Outcome{Kind: c.Kind, Named: map[string]int{}}}
	if r.Say == nil {
		r.Say = func(string, ...any) {}
	}
	return r
}

// stage is one part of a scenario.
type stage struct {
	name string
	run  func(context.Context) error
}

// run carries out stages in their order; an error names the one that failed.
func (r *circle) run(ctx context.Context, stages ...stage) error {
	defer func() {
		if r.vm != nil {
			r.vm.Kill()
		}
	}()
	for _, s := range stages {
		t := time.Now()
		r.Say("%s: %s ...", r.Kind, s.name)
		if err := s.run(ctx); err != nil {
			return fmt.Errorf("%s: %s: %w", r.Kind, s.name, err)
		}
		r.out.Times = append(r.out.Times, StepTime{s.name, time.Since(t).Seconds()})
		r.Say("%s: %s: %.0f s", r.Kind, s.name, time.Since(t).Seconds())
	}
	return nil
}

// backupStages are the stages that make a backup and leave no source.
func (r *circle) backupStages() []stage {
	return []stage{
		{"prepare the source machine, boot it, describe it", r.source},
		{"back it up", r.backup},
		{"destroy it", r.destroy},
	}
}

// Run runs the scenario.
func (c Circle) Run(ctx context.Context) (*Outcome, error) {
	r := c.new()
	stages := r.backupStages()
	if c.From != "" {
		stages = []stage{{"take the backup made before", r.again}}
	}
	stages = append(stages,
		stage{"boot the rescue medium with a blank disk; restore", r.restore},
		stage{"boot the restored disk; describe it", r.boot},
		stage{"compare", r.compare})
	if c.From == "" && !c.Cloned {
		stages = append(stages, stage{"start once more with the medium forgotten in it", r.forgotten})
	}
	return r.out, r.run(ctx, stages...)
}

// BackUp makes the backup for circles that have its Work in From.
func (c Circle) BackUp(ctx context.Context) error {
	r := c.new()
	return r.run(ctx, r.backupStages()...)
}

func (r *circle) log(name string) string {
	return filepath.Join(r.Work, r.Kind+"-"+name+".log")
}

func (r *circle) mounts() string { return machines[r.Kind].mounts }
