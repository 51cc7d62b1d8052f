package builder

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/builder/rescue"
	"github.com/mkcdrec/mkcdrec/initramfs"
	"github.com/mkcdrec/mkcdrec/internal/bootloader"
	"github.com/mkcdrec/mkcdrec/internal/efivar"
	"github.com/mkcdrec/mkcdrec/internal/kmod"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/media"
	"github.com/mkcdrec/mkcdrec/internal/probe"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/store/tape"
	"github.com/mkcdrec/mkcdrec/internal/sysconf"
	"github.com/mkcdrec/mkcdrec/kernelcfg"
)

// Severity of a check that did not pass.
type Severity string

// Severities: an Error stops path and rescue, a Warning does not.
const (
	OK      Severity = "ok"
	Warning Severity = "warning"
	Error   Severity = "error"
)

// Check is one prerequisite with what was seen.
type Check struct {
	ID       string   `json:"id"`
	Severity Severity `json:"severity"`
	Seen     string   `json:"seen"`
	Remedy   string   `json:"remedy,omitempty"`
}

// What a command needs, for Test.
const (
	ForRescue = "rescue" // a medium
	ForPath   = "path"   // a medium and a backup
	ForPXE    = "pxe"    // a network boot tree
	ForLocal  = "local"  // an entry in this machine's boot menu

	// These need all that ForPath needs.

	ForKey   = "usbkey"
	ForDiscs = "cdrom"
	ForTape  = "device"
	ForOBDR  = "obdr"
)

// Scopes are the commands that Test knows, the most demanding first.
var Scopes = []string{ForPath, ForRescue, ForPXE, ForLocal, ForKey, ForDiscs, ForTape, ForOBDR}

// CheckInfo describes a check, for docs/CHECKS.md.
type CheckInfo struct {
	ID    string
	What  string   // what is looked at, and what it is good against
	FAQ   string   // entries of mkCDrec's list of failures that it stands for
	Scope []string // commands that need it; nil for all
}

// AllChecks are the checks, in the order they run.
var AllChecks = []CheckInfo{
	{"root", "runs as root: disks and files of all users have to be read", "-", nil},
	{"config", "the configuration can be read, with no unknown key", "44", nil},
	{"binary", "this executable is the whole multicall binary, so that the rescue system gets its commands", "17c, 23, 31, 33, 43", nil},
	{"clock", "the clock is not before this program was made: sets are chosen by date", "-", nil},
	{"hooks", "hooks are safe to run, and those for a restore can run in the rescue system", "-", nil},
	{"messages", "the webhook's file and the command of the configuration's status can be used", "-", []string{ForPath}},
	{"layout", "disks, tables, volume groups and file systems can be read", "16, 25", nil},
	{"coverage", "everything on the disks can be saved, or is left out by a rule", "6, 8.2", []string{ForPath}},
	{"bootloader", "the boot loader is one that a restore can install, at a place that it can find: not GRUB in a partition's boot sector, nor an EFI partition that is only an automount", "11, 20, 21", []string{ForPath}},
	{"bootloader-tools", "the system has the programs and files with which a restore installs the boot loader inside it", "20, 21", []string{ForPath}},
	{"kernel", "a kernel image that firmware can start: no Xen-only kernel, not cut off, right architecture", "10, 34", nil},
	{"kernel-config", "the kernel has what a rescue system needs", "2, 12, 28", nil},
	{"modules", "the kernel's modules are there, of its release and architecture", "3, 7b, 13, 45", nil},
	{"drivers", "the drivers that this machine's disks and cards use now are among those packed", "21, 45", nil},
	{"firmware", "firmware that the packed drivers declare is on this machine", "-", nil},
	{"loader-bios", "a boot loader for BIOS machines", "17, 26, 32, 38", []string{ForRescue, ForPath, ForPXE}},
	{"loader-uefi", "a boot loader for UEFI machines", "17, 38", []string{ForRescue, ForPath, ForPXE}},
	{"secure-boot", "loader and kernel are signed so that Secure Boot may stay on", "17", []string{ForRescue, ForPath, ForPXE}},
	{"local-menu", "GRUB reads custom.cfg, where the entry goes", "-", []string{ForLocal}},
	{"programs", "the programs that a restore of this layout needs are here, and start in the packed tree", "22, 33, 41, 42", nil},
	{"memory", "this machine has the memory that its rescue system needs", "7a", nil},
	{"memtest", "memtest86+ can go onto the medium", "15", []string{ForRescue, ForPath}},
	{"workspace", "there is room for what is made on the way", "7, 17b", nil},
	{"medium-size", "the configured medium size is valid", "17b, 17d", []string{ForRescue, ForPath}},
	{"command-line", "the medium's kernel command line fits, has no password, and boot loaders can express it", "-", nil},
	{"stick", "a removable disk is attached", "-", []string{ForKey}},
	{"burner", "a program that burns discs is installed", "27, 36", []string{ForDiscs}},
	{"tape", "a tape drive is attached", "14, 45", []string{ForTape, ForOBDR}},
	{"obdr", "a tape drive reports that it can start a machine", "37", []string{ForOBDR}},
	{"extra-tree", "the second system of the configuration is there, and can be packed", "-", []string{ForRescue, ForPath}},
	{"ssh-keys", "the configured ssh keys are public keys", "8.2", nil},
}

// Test checks what the command scope needs of this machine, all of it, in a
// fixed order.
func (b *Builder) Test(ctx context.Context, scope string) []Check {
	t := &tester{b: b, scope: scope}
	t.root()
	var err error
	if b.Config.Encrypt {
		_, _, err = b.Config.encryptTo()
	}
	t.result("config", err, "correct recipients or passphrase_file", "the configuration is valid")
	t.binary(ctx)
	t.clock()
	t.hooks()
	if s := b.Config.Status; s.Notifies() {
		t.result("messages", s.Ready(), "correct status.webhook_file or status.command", "mkcdrec status --test-notify sends one")
	}
	plan := t.layout(ctx)
	k := t.kernel(plan)
	if k != nil {
		t.modules(plan, k)
	}
	t.loaders(plan, k)
	t.localMenu()
	t.programs(ctx, plan)
	t.rest(plan)
	t.media(plan, "")
	return t.out
}

type tester struct {
	b     *Builder
	scope string
	out   []Check
}

// needs reports whether the command needs a check.
func (t *tester) needs(id string) bool {
	i := slices.IndexFunc(AllChecks, func(c CheckInfo) bool { return c.ID == id })
	if i < 0 || AllChecks[i].Scope == nil || slices.Contains(AllChecks[i].Scope, t.scope) {
		return i >= 0
	}
	return slices.Contains([]string{ForKey, ForDiscs, ForTape, ForOBDR}, t.scope) && slices.Contains(AllChecks[i].Scope, ForPath)
}

func (t *tester) add(id string, sev Severity, seen, remedy string) {
	if !t.needs(id) {
		return
	}
	if sev == OK {
		remedy = ""
	}
	t.out = append(t.out, Check{id, sev, seen, remedy})
}

// result adds an error with its remedy or, without one, what was seen.
func (t *tester) result(id string, err error, remedy, seen string) {
	if err != nil {
		t.add(id, Error, err.Error(), remedy)
	} else {
		t.add(id, OK, seen, "")
	}
}

func (t *tester) root() {
	if u := os.Geteuid(); u != 0 {
		t.add("root", Error, fmt.Sprintf("running as user %d", u), "run as root: disks and files of all users have to be read")
		return
	}
	t.add("root", OK, "running as root", "")
}

func (t *tester) binary(ctx context.Context) {
	work, err := os.MkdirTemp("", "mkcdrec-test-*")
	if err == nil {
		err = t.b.Maker().AddBinary(ctx, initramfs.New(), work)
		os.RemoveAll(work)
	}
	t.result("binary", err, "install the executable that `make build` makes", t.b.Executable)
}

func (t *tester) layout(ctx context.Context) *Plan {
	l, mounts, err := t.b.Probe(ctx)
	if err != nil {
		sev, remedy := Error, "see the message; `mkcdrec layout show` repeats it"
		if t.scope == ForRescue || t.scope == ForPXE {
			sev, remedy = Warning, "the medium is made without this machine's layout: it can restore any set, but knows nothing of this machine"
		}
		t.add("layout", sev, err.Error(), remedy)
		return nil
	}
	p, err := NewPlan(t.b.Config, l, mounts, "")
	if err != nil {
		t.add("layout", Error, err.Error(), "see the message")
		return p
	}
	t.add("layout", OK, fmt.Sprintf("%d disks, %d file systems, %d volume groups", len(l.Disks), len(l.Filesystems), len(l.VolumeGroup)), "")
	t.coverage(p)
	t.bootloader(p)
	t.loaderTools(l)
	return p
}

// loaderTools looks for what a restore runs in the system to install its boot loader.
func (t *tester) loaderTools(l *layout.Layout) {
	var found []string
	for _, w := range bootloader.For(l.Boot.Loader).Tools(l) {
		f := w.Find(sysconf.In("/"))
		if f == "" {
			t.add("bootloader-tools", Error, "the system has no "+w.Names[0], w.Remedy+"; without it a restored machine does not start by itself")
			return
		}
		found = append(found, f)
	}
	if len(found) > 0 {
		t.add("bootloader-tools", OK, strings.Join(found, ", "), "")
	}
}

// coverage reports what the plan does not cover, but for the boot loader.
func (t *tester) coverage(p *Plan) {
	loader := bootProblems(p)
	missing := slices.DeleteFunc(slices.Clone(p.NotCovered), func(n string) bool { return slices.Contains(loader, n) })
	if len(missing) > 0 {
		t.add("coverage", Warning, strings.Join(missing, "; "), "mount it, or name it in exclude_devices of the configuration; until then a backup ends with exit status 3")
		return
	}
	t.add("coverage", OK, "everything on the disks can be saved, or is left out by a rule", "")
}

// bootProblems are the entries of NotCovered about the boot loader.
func bootProblems(p *Plan) []string {
	var out []string
	for _, u := range p.Layout.Unsupported {
		if text := u.What + ": " + u.Reason; u.Device == bootLoader && slices.Contains(p.NotCovered, text) {
			out = append(out, text)
		}
	}
	return out
}

// bootLoader is the device of an Unsupported about how the machine starts, by
// which it can be excluded.
const bootLoader = "boot-loader"

// bootloader reports what a restore can't make start.
func (t *tester) bootloader(p *Plan) {
	b := p.Layout.Boot
	problems := bootProblems(p)
	switch {
	case p.Layout.DataOnly():
		t.add("bootloader", OK, "not needed: by include, the set does not have all of the system", "")
	case len(problems) > 0:
		t.add("bootloader", Warning, strings.Join(problems, "; "), "after a restore the boot loader has to be installed by hand; until it is fixed, or "+bootLoader+" is named in exclude_devices, a backup ends with exit status 3")
	case b.Loader == "":
		t.add("bootloader", Warning, "no boot loader that a restore can install was found", "after a restore the boot loader has to be installed by hand")
	default:
		t.add("bootloader", OK, fmt.Sprintf("%s on %s", b.Loader, b.Firmware), "")
	}
}

func (t *tester) kernel(p *Plan) *kernelcfg.Kernel {
	c := t.b.Config.Rescue
	rel := ""
	if p != nil {
		rel = p.Layout.Kernel.Release
	} else if b, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		rel = strings.TrimSpace(string(b))
	}
	k, err := kernelcfg.Find("", rel, c.Kernel, c.ModulesDir)
	if err != nil {
		t.add("kernel", Error, err.Error(), KernelHint)
		return nil
	}
	t.add("kernel", OK, k.Image+", "+k.Release, "")
	if k.Config == nil {
		t.add("kernel-config", Warning, "no configuration found for "+k.Release, "keep /boot/config-"+k.Release)
		return k
	}
	reqs := kernelcfg.Base
	if p != nil {
		reqs = p.Machine().Requirements()
	}
	var miss []string
	for _, m := range k.Config.Check(reqs) {
		miss = append(miss, m.String())
	}
	if len(miss) > 0 {
		t.add("kernel-config", Error, strings.Join(miss, "; "), "name a kernel that has it with --kernel")
	} else {
		t.add("kernel-config", OK, fmt.Sprintf("%s has all %d options", k.ConfigFrom, len(reqs)), "")
	}
	return k
}

// KernelHint is how to name a kernel.
const KernelHint = "name one with --kernel FILE (and --modules DIR if its modules are not in /lib/modules)"

func (t *tester) modules(p *Plan, k *kernelcfg.Kernel) {
	x, err := kernelcfg.CheckModules(k)
	if err != nil {
		t.add("modules", Error, err.Error(), "install the kernel's modules or name them with --modules DIR")
		return
	}
	t.add("modules", OK, fmt.Sprintf("%s, %d modules", k.Modules, len(x.Path)), "")
	if p == nil {
		p = Unprobed()
	}
	names, loaded, err := t.b.Config.Rescue.SelectModules(x, p.Layout)
	if err != nil {
		t.add("drivers", Error, err.Error(), "see rescue.modules and rescue.extra_modules of the configuration")
		return
	}
	var missing []string
	for _, m := range loaded {
		pth := x.Path[m]
		if slices.ContainsFunc(driverDirs, func(d string) bool { return strings.HasPrefix(pth, d) }) && !slices.Contains(names, m) && !slices.ContainsFunc(t.b.Config.Rescue.ExcludeModules, func(e string) bool { return kmod.Norm(e) == m }) {
			missing = append(missing, m)
		}
	}
	if len(missing) > 0 {
		t.add("drivers", Warning, "in use and not packed: "+strings.Join(missing, " "), "name them in rescue.extra_modules, if the rescue system needs them")
	} else {
		t.add("drivers", OK, fmt.Sprintf("%d modules, set %s", len(names), t.b.Config.Rescue.Modules), "")
	}
	t.firmware(x, k.Release, slices.DeleteFunc(loaded, func(m string) bool { return !slices.Contains(names, m) }))
}

// firmware looks for the firmware of drivers that are in use and packed.
func (t *tester) firmware(x *kmod.Index, release string, drivers []string) {
	var lack []string
	for _, m := range drivers {
		b, err := x.Read(m)
		if err != nil {
			continue // of another kernel than the running one
		}
		fw, err := kmod.Firmware(b)
		if err != nil {
			continue
		}
		found := len(fw) == 0
		for _, f := range fw {
			_, _, ok := kernelcfg.FindFirmware("", release, f)
			found = found || ok
		}
		if !found {
			lack = append(lack, m)
		}
	}
	if len(lack) > 0 {
		t.add("firmware", Warning, "no firmware for drivers in use: "+strings.Join(lack, " "), "install the distribution's firmware packages, if the device does not work now either")
	} else {
		t.add("firmware", OK, "the drivers in use have their firmware", "")
	}
}

// driverDirs are where drivers of storage and network cards lie.
var driverDirs = []string{"kernel/drivers/scsi/", "kernel/drivers/ata/", "kernel/drivers/nvme/", "kernel/drivers/md/", "kernel/drivers/block/", "kernel/drivers/net/ethernet/", "kernel/drivers/net/virtio_net", "kernel/drivers/virtio/", "kernel/drivers/message/", "updates/"}

// clock compares with the executable's date.
func (t *tester) clock() {
	st, err := os.Stat(t.b.Executable)
	if now := time.Now(); err == nil && now.Before(st.ModTime().Add(-24*time.Hour)) {
		t.add("clock", Error, "the clock shows "+now.UTC().Format("2006-01-02 15:04")+", but this program is of "+st.ModTime().UTC().Format("2006-01-02"), "set the clock: sets are chosen by their date")
		return
	}
	t.add("clock", OK, time.Now().UTC().Format("2006-01-02 15:04 UTC"), "")
}

func (t *tester) localMenu() {
	f, err := rescue.CustomCfg()
	t.result("local-menu", err, "on UEFI machines the firmware's menu is used as well; otherwise install GRUB's 41_custom", f)
}

// rest are the small ones.
// media looks for what a backup is written to. All of it may be attached or named later. root is
// that of the file system, "" for the running one's.
func (t *tester) media(plan *Plan, root string) {
	found := func(id string, names []string, err error, remedy string) {
		if len(names) > 0 {
			t.add(id, OK, strings.Join(names, " "), "")
		} else if err != nil {
			t.add(id, Warning, err.Error(), remedy)
		} else {
			t.add(id, Warning, "none found", remedy)
		}
	}
	var sticks, burners, able []string
	if plan != nil {
		for _, d := range plan.Layout.Disks {
			if d.Removable {
				sticks = append(sticks, "/dev/"+d.Name)
			}
		}
	}
	found("stick", sticks, nil, "attach the stick; --fixed-disk takes a disk that is not removable")
	b, err := FindBurner()
	if err == nil {
		burners = []string{b.Name}
	}
	found("burner", burners, err, "install xorriso, or burn the images on another machine")
	drives, err := filepath.Glob(root + "/dev/nst*[0-9]")
	found("tape", drives, err, "attach the drive and load the module st, or name a drive of another machine, HOST:/dev/nst0")
	for _, d := range drives {
		can, e := tape.CanOBDR(root, strings.TrimPrefix(d, root))
		if can {
			able = append(able, d)
		}
		err = errors.Join(err, e)
	}
	found("obdr", able, err, "use a drive with One Button Disaster Recovery, or `mkcdrec device`")
}

func (t *tester) rest(plan *Plan) {
	need := map[string]int64{kernelcfg.SetHost: 160, kernelcfg.SetDefault: 256, kernelcfg.SetAll: 320}[t.b.Config.Rescue.Modules]
	var si unix.Sysinfo_t
	if unix.Sysinfo(&si) == nil {
		have := int64(si.Totalram) * int64(si.Unit) >> 20
		if have < need {
			t.add("memory", Error, fmt.Sprintf("%d MiB; a rescue system with the driver set %s needs %d", have, t.b.Config.Rescue.Modules, need), "use --module-set host, which needs 160 MiB")
		} else {
			t.add("memory", OK, fmt.Sprintf("%d MiB, needed %d", have, need), "")
		}
	}
	if bios, uefi := media.FindMemtest(""); bios == "" && uefi == "" {
		t.add("memtest", Warning, "memtest86+ is not installed", "install memtest86+ to have it in the medium's menu: bad memory damages backups and restores")
	} else {
		t.add("memtest", OK, strings.TrimSpace(bios+" "+uefi), "")
	}
	dir := "."
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		t.add("workspace", Error, err.Error(), "change to a directory that can be written to")
	} else if free := int64(s.Bavail) * s.Bsize; free < workspace {
		t.add("workspace", Warning, fmt.Sprintf("%s free in the current directory, a medium needs up to %s", quantity.Size(free), quantity.Size(workspace)), "make room, or write somewhere else")
	} else {
		t.add("workspace", OK, quantity.Size(free).String()+" free in the current directory", "")
	}
	if plan != nil {
		if line, left, err := t.b.Config.Rescue.Cmdline(plan.Layout); err != nil {
			t.add("command-line", Error, err.Error(), "change rescue.append in the configuration")
		} else if len(left) > 0 {
			t.add("command-line", Warning, strings.Join(left, "; "), "")
		} else {
			t.add("command-line", OK, fmt.Sprintf("%d bytes", len(line)), "")
		}
	}
	n, err := t.b.Config.Rescue.Size()
	size := "any"
	if n > 0 {
		size = quantity.Size(n).String()
	}
	t.result("medium-size", err, "bytes, or 700M, 4G, CD, DVD, DVD-DL, BD", size)
	t.result("extra-tree", t.b.Config.Rescue.CheckExtraTree(), "change rescue.extra_tree in the configuration", cmp.Or(t.b.Config.Rescue.ExtraTree, "none is configured"))
	_, err = t.b.Config.Rescue.AuthorizedKeys()
	t.result("ssh-keys", err, "put lines of authorized_keys, or names of files of them, into rescue.ssh_keys", fmt.Sprintf("%d configured", len(t.b.Config.Rescue.SSHKeys)))
}

// workspace is what making a medium takes at most, in bytes.
const workspace = 256 << 20

// loaders: what this machine's own firmware needs is an error, the other
// kind a warning.
func (t *tester) loaders(p *Plan, k *kernelcfg.Kernel) {
	fw := ""
	if p != nil {
		fw = p.Layout.Boot.Firmware
	}
	sev := func(kind string) Severity {
		if fw == kind {
			return Error
		}
		return Warning
	}
	work, err := os.MkdirTemp("", "mkcdrec-test-*")
	if err != nil {
		t.add("loaders", Error, err.Error(), "make room in the directory for temporary files")
		return
	}
	defer os.RemoveAll(work)
	l := rescue.FindLoaders(t.b.Executable, work, "/.mkcdrec", false)
	if l.BIOS == nil {
		t.add("loader-bios", sev("bios"), l.BIOSErr.Error(), "install isolinux and syslinux-common (Fedora: syslinux), or use a program built with its loader pack")
	} else {
		t.add("loader-bios", OK, l.BIOSFrom, "")
	}
	if l.UEFI == nil {
		t.add("loader-uefi", sev("uefi"), l.UEFIErr.Error(), "install grub-efi-amd64-bin; with Secure Boot grub-efi-amd64-signed and shim-signed too; or use a program built with its loader pack")
		return
	}
	t.add("loader-uefi", OK, l.UEFIFrom, "")
	if k == nil {
		return
	}
	why := l.SecureBoot(k.Image)
	switch {
	case why == "":
		t.add("secure-boot", OK, "the medium starts with Secure Boot on", "")
	case efivar.SecureBoot(efivar.Dir):
		t.add("secure-boot", Error, "Secure Boot is on, and the medium would not start: "+why, rescue.SecureBootRemedy)
	default:
		t.add("secure-boot", Warning, "the medium does not start with Secure Boot on: "+why, rescue.SecureBootRemedy)
	}
}

func (t *tester) programs(ctx context.Context, p *Plan) {
	if p == nil {
		return
	}
	progs := t.b.Maker().Programs(p.Machine())
	tree := initramfs.New()
	got, err := tree.Carry(ctx, t.b.Run, progs)
	if err == nil && os.Geteuid() == 0 {
		var dir string
		if dir, err = os.MkdirTemp("", "mkcdrec-test-*"); err == nil {
			err = tree.Try(ctx, t.b.Run, dir, got)
			os.RemoveAll(dir)
		}
	}
	names := make([]string, len(got))
	for i, g := range got {
		names[i] = g.Name
	}
	t.result("programs", err, "install the packages of these programs (e2fsprogs, xfsprogs, dosfstools, lvm2)", strings.Join(names, " "))
}

// Unprobed is a plan for a machine whose disks can't be read. It is good for
// a rescue medium only, which then carries the programs for any set.
func Unprobed() *Plan { return &Plan{Layout: probe.Machine{}.Unprobed(), generic: true} }
