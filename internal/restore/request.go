package restore

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/hooks"
	"github.com/mkcdrec/mkcdrec/internal/identity"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/plan"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/recreate"
	"github.com/mkcdrec/mkcdrec/internal/regular"
	"github.com/mkcdrec/mkcdrec/internal/store"
	"github.com/mkcdrec/mkcdrec/internal/strictyaml"
)

// Request is what a person wants of a restore or clone. Flags, an answer file and the menu
// fill it in the same words, and Validate checks it.
type Request struct {
	Set         string `yaml:"set"`
	Confirm     List   `yaml:"confirm"`
	Yes         bool   `yaml:"yes"` // the disks are confirmed; ask nothing
	Map         Pairs  `yaml:"map"`
	Size        Pairs  `yaml:"size"`
	FSType      Pairs  `yaml:"fs-type"`
	KeepSizes   bool   `yaml:"keep-sizes"`
	ExcludeDisk List   `yaml:"exclude-disk"`
	Mirror      List   `yaml:"mirror"`
	Unmirror    bool   `yaml:"unmirror"`
	Firmware    string `yaml:"firmware"`
	// Only, a mount point, makes and restores that file system and nothing else,
	// on the device Onto; "" takes the one that has its UUID. Onto without Only is where
	// the one image of a Content goes.
	Only string `yaml:"only"`
	Onto string `yaml:"onto"`
	// Identity is a file with age identities, or an SSH private key, that decrypts what the
	// set has encrypted; "" asks for it.
	Identity string `yaml:"identity"`
	// PassphraseFile has the passphrase of a set that is encrypted with one; "" asks for it.
	PassphraseFile string `yaml:"passphrase-file"`
	// Signer is a file with public keys of hosts whose sets are restored without a question;
	// "" takes those of the rescue system. Credentials is a file with secrets of servers.
	Signer      string `yaml:"signer"`
	Credentials string `yaml:"credentials"`
	// KeyFile holds the passphrase or key of LUKS devices; "" asks for it.
	KeyFile string `yaml:"key-file"`
	NewLUKS bool   `yaml:"new-luks"`
	// NewIdentity has the system get other UUIDs than the content has, so that both can be
	// used side by side, and Hostname and Forget applied.
	NewIdentity bool   `yaml:"new-identity"`
	Hostname    string `yaml:"hostname"`
	Forget      List   `yaml:"forget"`
	// Salvage continues with a damaged set: what can't be read is left out and
	// listed among the problems.
	Salvage  bool `yaml:"salvage"`
	NoVerify bool `yaml:"no-verify"` // trust the set; frames are still checked while they are read
	// CheckTarget has the disks that are overwritten checked for bad sectors: "", none,
	// recreate.CheckRead or CheckWrite.
	CheckTarget string `yaml:"check-target"`

	// The following have no key in an answer file.

	PlanOnly bool `yaml:"-"` // print the plan and stop
	Resume   bool `yaml:"-"`
	// Once refuses to restore what these disks were restored from before: a *Repeated.
	Once bool `yaml:"-"`
	// NoHooks leaves out the hooks that the rescue system has.
	NoHooks bool `yaml:"-"`
	// Outside allows work on a machine outside the rescue system.
	Outside bool `yaml:"-"`
	// DryRun carries the plan out on sparse files, as far as making and mounting
	// file systems, and compares what was made with what was planned.
	DryRun bool `yaml:"-"`
	// KillAfter kills a dry run after this step, from 1: for tests of Resume.
	KillAfter int `yaml:"-"`

	file     string          // the answer file that was read
	answered map[string]bool // the options whose value is from it
}

// List is an option that may be given several times, with several values each time.
type List []string

// String implements flag.Value.
func (l *List) String() string { return strings.Join(*l, ",") }

// Set implements flag.Value.
func (l *List) Set(s string) error { *l = append(*l, strings.Split(s, ",")...); return nil }

// Pairs is a List of NAME=VALUE, and a mapping in YAML.
type Pairs []string

// String implements flag.Value.
func (p *Pairs) String() string { return strings.Join(*p, ",") }

// Set implements flag.Value.
func (p *Pairs) Set(s string) error { return (*List)(p).Set(s) }

// UnmarshalYAML implements yaml.InterfaceUnmarshaler.
func (p *Pairs) UnmarshalYAML(unmarshal func(any) error) error {
	var m map[string]string
	if err := unmarshal(&m); err != nil {
		return err
	}
	for _, k := range slices.Sorted(maps.Keys(m)) {
		*p = append(*p, k+"="+m[k])
	}
	return nil
}

// Flags adds the options that fill the request to a command line; with names, only these.
func (r *Request) Flags(f *flag.FlagSet, names ...string) {
	for _, o := range []struct {
		to          any
		name, usage string
	}{
		{&r.PlanOnly, "plan", "print what would be done, and stop"},
		{&r.DryRun, "dry-run", "restore to sparse files instead of disks, compare, and remove them"},
		{&r.KillAfter, "kill-after", "kill a dry run after `STEP`: for tests of --resume"},
		{&r.Yes, "yes", "ask nothing; every disk that is overwritten must be named by --confirm"},
		{&r.Resume, "resume", "continue after the last finished step of the run before"},
		{&r.Once, "once", "refuse to restore onto disks that were restored from this set before; unattended media do"},
		{&r.Salvage, "salvage", "restore what can be read of a damaged set, and name what is lost"},
		{&r.NoVerify, "no-verify", "do not read the set through beforehand"},
		{&r.CheckTarget, "check-target", "`none|read|write`: look for bad sectors on the disks that are overwritten: read them, or write and read them. Takes hours"},
		{&r.NoHooks, "no-hooks", "run no hooks of " + hooks.Dir + " before and after"},
		{&r.Outside, "outside-rescue-system", "allow this on a machine that is not a rescue system"},
		{&r.Map, "map", "`OLD=NEW`: disk OLD of the set goes to the disk NEW (name, serial number or WWN)"},
		{&r.Size, "size", "`WHAT=SIZE`: what is mounted there, or a swap device, gets this size: /=20G"},
		{&r.FSType, "fs-type", "`MOUNT=TYPE`: another type for a file system: ext2, ext3, ext4, xfs or btrfs"},
		{&r.KeepSizes, "keep-sizes", "every partition and volume keeps its size, on disks of any size; what is on a whole disk takes all of it"},
		{&r.Only, "only", "`MOUNT` point: make and restore this file system only, on a device that is there"},
		{&r.Onto, "onto", "`DEV` that --only overwrites; without it, the one with the same UUID"},
		{&r.ExcludeDisk, "exclude-disk", "`OLD` disk of the set that is left alone, with all that was on it"},
		{&r.Mirror, "mirror", "`OLD` disk of the set that goes to a RAID1 of two disks; the second one is OLD-mirror for --map"},
		{&r.Unmirror, "unmirror", "make no RAID1: what was on one goes to the first of its disks"},
		{&r.Identity, "identity", "`FILE` with the age identity or SSH key that decrypts the set or its LUKS headers; asked for without"},
		{&r.PassphraseFile, "passphrase-file", "`FILE` with the passphrase of a set that is encrypted with one; asked for without"},
		{&r.Signer, "signer", "`FILE` with public keys of hosts: a set that is signed with another key is refused; without, those of the rescue system; `none`: no key is expected, sets of other programs have no signature"},
		{&r.Credentials, "credentials", "`FILE` with the secrets of the server that has the set; without, those of the rescue system"},
		{&r.KeyFile, "key-file", "`FILE` with the passphrase of LUKS devices; asked for without"},
		{&r.NewLUKS, "new-luks", "recreate LUKS devices with a new passphrase and without their other keys"},
		{&r.Confirm, "confirm", "`SERIAL` number of a disk that may be overwritten"},
		{&r.Firmware, "firmware", "`uefi|bios`: convert the system to boot with this firmware"},
		{&r.NewIdentity, "new-identity", "other UUIDs, machine-id and SSH host keys, for a machine that is used beside the set's"},
		{&r.Hostname, "hostname", "`NAME` of the system, if it gets a new identity"},
		{&r.Forget, "forget", "`PATH` or pattern of files that are removed, if the system gets a new identity: licences, keys"},
	} {
		if len(names) > 0 && !slices.Contains(names, o.name) {
			continue
		}
		switch to := o.to.(type) {
		case *bool:
			f.BoolVar(to, o.name, *to, o.usage)
		case *string:
			f.StringVar(to, o.name, *to, o.usage)
		case *int:
			f.IntVar(to, o.name, *to, o.usage)
		case flag.Value:
			f.Var(to, o.name, o.usage)
		}
	}
}

// maxAnswers is the largest answer file that is read.
const maxAnswers = 1 << 20

// Answers fills what the command line f does not have from an answer file, which may be a
// URL; a wait for its server ends with ctx. Its keys are the names of the options. Unknown
// keys and wrong types are errors with line and column.
func (r *Request) Answers(ctx context.Context, f *flag.FlagSet, file string) error {
	var b []byte
	var err error
	if store.IsURL(file) {
		var st store.Store
		if st, err = store.NewContext(ctx, strings.TrimSuffix(file, path.Base(file))); err == nil {
			b, err = store.ReadFile(st, path.Base(file), maxAnswers)
		}
	} else {
		b, err = regular.ReadFile(file, maxAnswers)
	}
	if err != nil {
		return exit.Usage(fmt.Errorf("cannot read answers: %w", err))
	}
	var a Request
	answers := flag.NewFlagSet(file, flag.ContinueOnError)
	a.Flags(answers)
	if err := strictyaml.Decode(b, &a); err != nil {
		return exit.Usage(fmt.Errorf("cannot read answers %s: %s", file, strictyaml.Text(err)))
	}
	typed := map[string]bool{}
	f.Visit(func(o *flag.Flag) { typed[o.Name] = true })
	r.file, r.answered = file, map[string]bool{}
	answers.VisitAll(func(o *flag.Flag) {
		if v := o.Value.String(); v != o.DefValue && !typed[o.Name] {
			err = errors.Join(err, f.Set(o.Name, v))
			r.answered[o.Name] = true
		}
	})
	r.Set = a.Set
	return err
}

// name is how a person knows an option: "--size", or "size (in FILE)" for a key of the answer file.
func (r *Request) name(option string) string {
	if r.answered[option] {
		return fmt.Sprintf("%s (in %s)", option, r.file)
	}
	return "--" + option
}

// Wishes gives the options that change the plan, as they would be typed.
func (r *Request) Wishes() string {
	var out []string
	for _, o := range []struct {
		name   string
		values []string
	}{{"--map", r.Map}, {"--size", r.Size}, {"--fs-type", r.FSType}, {"--exclude-disk", r.ExcludeDisk}, {"--mirror", r.Mirror}} {
		for _, v := range o.values {
			out = append(out, o.name+" "+v)
		}
	}
	if r.KeepSizes {
		out = append(out, "--keep-sizes")
	}
	if r.Unmirror {
		out = append(out, "--unmirror")
	}
	return strings.Join(out, " ")
}

// Validate checks the request and gives the options of a restore or clone. An error has
// the exit status of wrong usage, and the name of an option, or of a key and its file.
func (r *Request) Validate() (*Options, error) {
	if err := r.conflicts(); err != nil {
		return nil, exit.Usage(err)
	}
	o := &Options{Request: *r, Personal: identity.Personal{Hostname: r.Hostname, Forget: r.Forget}}
	o.Wish = plan.Wish{Map: map[string]string{}, Sizes: map[string]quantity.Size{}, Types: map[string]string{}, Exclude: slices.Clone(r.ExcludeDisk), Mirror: r.Mirror,
		Unmirror: r.Unmirror, Firmware: r.Firmware, NewLUKS: r.NewLUKS, Keep: r.KeepSizes, Confirmed: r.Confirm}
	for _, s := range r.Size {
		what, size, err := r.pair("size", s, "WHAT=SIZE", strings.LastIndexByte)
		if err != nil {
			return nil, err
		}
		n, err := quantity.Parse(size)
		if err != nil || n <= 0 {
			return nil, exit.Usage(fmt.Errorf("%s %s: %q is not a size such as 20G", r.name("size"), s, size))
		}
		o.Wish.Sizes[strings.TrimPrefix(what, "/dev/")] = n.AlignUp(quantity.MiB)
	}
	for _, s := range r.FSType {
		mount, typ, err := r.pair("fs-type", s, "MOUNT=TYPE", strings.LastIndexByte)
		if err != nil {
			return nil, err
		}
		if fstype.Of(typ).New == nil {
			known := fstype.Names(func(t *fstype.Type) bool { return t.New != nil })
			return nil, exit.Usage(fmt.Errorf("%s %s: it can be one of %s", r.name("fs-type"), s, strings.Join(known, ", ")))
		}
		o.Wish.Types[mount] = typ
	}
	for _, s := range r.Map {
		old, to, err := r.pair("map", s, "OLD=NEW", strings.IndexByte)
		if err != nil {
			return nil, err
		}
		o.Wish.Map[strings.TrimPrefix(old, "/dev/")] = to
	}
	return o, nil
}

// pair divides the value of an option at the byte '=' that cut finds.
func (r *Request) pair(option, value, form string, cut func(string, byte) int) (name, of string, err error) {
	i := cut(value, '=')
	if i <= 0 {
		return "", "", exit.Usage(fmt.Errorf("%s %q is not %s", r.name(option), value, form))
	}
	return value[:i], value[i+1:], nil
}

// conflicts reports options that exclude each other.
func (r *Request) conflicts() error {
	if r.Only != "" {
		if err := r.part(); err != nil {
			return err
		}
	}
	switch {
	case r.PlanOnly && r.DryRun:
		return errors.New("use either --plan or --dry-run, not both")
	case r.KillAfter != 0 && !r.DryRun:
		return errors.New("--kill-after is for --dry-run only")
	case r.Onto != "" && r.Only == "":
		return fmt.Errorf("%s wants --only", r.name("onto"))
	case !slices.Contains([]string{"", "none", recreate.CheckRead, recreate.CheckWrite}, r.CheckTarget):
		return fmt.Errorf("%s: %q; want none, read or write", r.name("check-target"), r.CheckTarget)
	case len(r.Size) > 0 && r.KeepSizes:
		return fmt.Errorf("%s and %s exclude each other", r.name("size"), r.name("keep-sizes"))
	}
	return r.system()
}

// system reports wrong wishes for the identity and the firmware of the restored system.
func (r *Request) system() error {
	switch {
	case !r.NewIdentity && r.Hostname != "":
		return fmt.Errorf("%s is for --new-identity only", r.name("hostname"))
	case !r.NewIdentity && len(r.Forget) > 0:
		return fmt.Errorf("%s is for --new-identity only", r.name("forget"))
	case r.Firmware != "" && r.Firmware != layout.UEFI && r.Firmware != layout.BIOS:
		return fmt.Errorf("%s %q is neither uefi nor bios", r.name("firmware"), r.Firmware)
	}
	if err := (identity.Personal{Hostname: r.Hostname}).Check(); err != nil {
		return fmt.Errorf("%s: %w", r.name("hostname"), err)
	}
	if err := (identity.Personal{Forget: r.Forget}).Check(); err != nil {
		return fmt.Errorf("%s: %w", r.name("forget"), err)
	}
	return nil
}

// part reports what does not go with --only.
func (r *Request) part() error {
	for _, o := range []struct {
		name  string
		given bool
	}{
		{"dry-run", r.DryRun}, {"map", len(r.Map) > 0}, {"size", len(r.Size) > 0}, {"keep-sizes", r.KeepSizes}, {"exclude-disk", len(r.ExcludeDisk) > 0},
		{"mirror", len(r.Mirror) > 0}, {"unmirror", r.Unmirror}, {"firmware", r.Firmware != ""}, {"new-luks", r.NewLUKS},
	} {
		if o.given {
			return fmt.Errorf("%s takes a device as it is: not with %s", r.name("only"), r.name(o.name))
		}
	}
	switch {
	case r.CheckTarget == recreate.CheckWrite:
		return fmt.Errorf("%s overwrites whole disks: not with %s", r.name("check-target"), r.name("only"))
	case r.NewIdentity:
		return fmt.Errorf("%s restores a part of a system, which has no identity of its own: not with %s", r.name("only"), r.name("new-identity"))
	}
	return nil
}
