package builder

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/mkcdrec/mkcdrec/initramfs"
	"github.com/mkcdrec/mkcdrec/internal/kmod"
	"github.com/mkcdrec/mkcdrec/internal/media"
	"github.com/mkcdrec/mkcdrec/internal/probe"
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

// Test checks this machine's prerequisites, all of them, in a fixed order.
func (b *Builder) Test(ctx context.Context) []Check {
	t := &tester{b: b}
	t.root()
	t.binary(ctx)
	plan := t.layout(ctx)
	k := t.kernel(plan)
	if k != nil {
		t.modules(k)
	}
	t.loaders(plan)
	t.programs(ctx, plan)
	return t.out
}

type tester struct {
	b   *Builder
	out []Check
}

func (t *tester) add(id string, sev Severity, seen, remedy string) {
	if sev == OK {
		remedy = ""
	}
	t.out = append(t.out, Check{id, sev, seen, remedy})
}

func (t *tester) root() {
	if u := os.Geteuid(); u != 0 {
		t.add("root", Error, fmt.Sprintf("running as user %d", u), "run as root: disks and files of all users have to be read")
		return
	}
	t.add("root", OK, "running as root", "")
}

func (t *tester) binary(ctx context.Context) {
	if err := t.b.addBinary(ctx, initramfs.New()); err != nil {
		t.add("binary", Error, err.Error(), "install the executable that `make build` makes")
		return
	}
	t.add("binary", OK, t.b.Executable, "")
}

func (t *tester) layout(ctx context.Context) *Plan {
	l, mounts, err := t.b.Probe(ctx)
	if err != nil {
		t.add("layout", Error, err.Error(), "see the message; `mkcdrec layout show` repeats it")
		return nil
	}
	p, err := NewPlan(t.b.Config, l, mounts, "")
	if err != nil {
		t.add("layout", Error, err.Error(), "see the message")
		return p
	}
	t.add("layout", OK, fmt.Sprintf("%d disks, %d file systems, %d volume groups", len(l.Disks), len(l.Filesystems), len(l.VolumeGroup)), "")
	if len(p.NotCovered) > 0 {
		t.add("coverage", Warning, strings.Join(p.NotCovered, "; "), "mount it, or name it in exclude_devices of the configuration")
	} else {
		t.add("coverage", OK, "everything that is mounted can be saved", "")
	}
	if l.Boot.Loader == "" {
		t.add("bootloader", Warning, "no GRUB configuration below /boot", "after a restore the boot loader has to be installed by hand")
	} else {
		t.add("bootloader", OK, fmt.Sprintf("%s on %s", l.Boot.Loader, l.Boot.Firmware), "")
	}
	return p
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
		reqs = t.b.requirements(p)
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

// KernelHint says how to name a kernel.
const KernelHint = "name one with --kernel FILE (and --modules DIR if its modules are not in /lib/modules)"

func (t *tester) modules(k *kernelcfg.Kernel) {
	if k.Modules == "" {
		t.add("modules", Error, "no /lib/modules/"+k.Release, "install the kernel's modules or name them with --modules DIR")
		return
	}
	x, err := kmod.Open(k.Modules)
	if err != nil {
		t.add("modules", Error, err.Error(), "run depmod "+k.Release)
		return
	}
	t.add("modules", OK, fmt.Sprintf("%s, %d modules", k.Modules, len(x.Path)), "")
}

// loaders: what this machine's own firmware needs is an error, the other
// kind a warning.
func (t *tester) loaders(p *Plan) {
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
	if l, err := media.FindBIOS(""); err != nil {
		t.add("loader-bios", sev("bios"), err.Error(), "install isolinux and syslinux-common (Fedora: syslinux)")
	} else {
		t.add("loader-bios", OK, l.ISOLinux, "")
	}
	if l, err := media.FindUEFI(""); err != nil {
		t.add("loader-uefi", sev("uefi"), err.Error(), "install grub-efi-amd64-bin; with Secure Boot grub-efi-amd64-signed and shim-signed too")
	} else {
		t.add("loader-uefi", OK, l.Name, "")
	}
}

func (t *tester) programs(ctx context.Context, p *Plan) {
	if p == nil {
		return
	}
	progs := t.b.programs(p)
	got, err := initramfs.New().Carry(ctx, t.b.Run, progs)
	if err != nil {
		t.add("programs", Error, err.Error(), "install the packages of these programs (e2fsprogs, xfsprogs, dosfstools, lvm2)")
		return
	}
	names := make([]string, len(got))
	for i, g := range got {
		names[i] = g.Name
	}
	t.add("programs", OK, strings.Join(names, " "), "")
}

// Unprobed is a plan for a machine whose disks can't be read. It is good for
// a rescue medium only, which then carries the programs for any set.
func Unprobed() *Plan { return &Plan{Layout: probe.Machine{}.Unprobed(), generic: true} }
