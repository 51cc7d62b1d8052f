package vmtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// restore makes the machine again from its backup, on blank disks.
func (r *circle) restore(ctx context.Context) error {
	return r.way().restore(r, ctx)
}

// restoreCD starts the rescue CD with the set on another disk.
func (r *circle) restoreCD(ctx context.Context) error {
	set, err := r.setDir(ctx)
	if err != nil {
		return err
	}
	iso := filepath.Join(r.Work, "rescue.iso")
	if err := r.dump(ctx, "/"+set+"/rescue.iso", iso); err != nil {
		return err
	}
	m := Machine{Name: r.Kind + "-rescue", Log: r.log("rescue"), CDROM: iso, Disks: append([]Disk{{File: r.setDisk, Serial: "SETDISK01"}}, r.targets()...)}
	vm, err := r.rescue(ctx, m)
	if err != nil {
		return err
	}
	defer vm.Kill()
	if _, err := vm.Expect(`mkcdrec: rescue system ready`, bootLimit); err != nil {
		return err
	}
	if r.prompted() {
		if _, err := vm.Expect(`# `, bootLimit); err != nil {
			return err
		}
	}
	return r.job()(vm)
}

// job is what is done in the rescue system.
func (r *circle) job() func(*VM) error {
	secret := machines[r.Kind].passphrase
	switch {
	case r.Wishes != "" || r.Walk != "" && !secret:
		return r.restoreWished
	case secret:
		return r.restoreLUKS
	case r.FailAt > 0:
		return r.restoreFailing
	case r.Vanish:
		return r.restoreVanishing
	}
	return r.restored
}

// prompted reports whether somebody restores at the prompt in this scenario.
func (c Circle) prompted() bool {
	return c.Wishes != "" || c.Walk != "" || c.FailAt > 0 || c.Vanish || c.Sealed || machines[c.Kind].passphrase
}

// rescue starts a machine with blank disks from a medium of ours, and chooses the rescue
// system in its menu; the machine is nil if that fails.
func (r *circle) rescue(ctx context.Context, m Machine) (*VM, error) {
	if err := r.makeTargets(ctx); err != nil {
		return nil, err
	}
	m.CPUs, m.Memory = r.CPUs, 768
	if err := r.nvram(&m, "rescue"); err != nil {
		return nil, err
	}
	vm, err := Start(ctx, m)
	if err != nil {
		return nil, err
	}
	if err := vm.Menu("r", bootLimit); err != nil {
		return nil, errors.Join(err, vm.Kill())
	}
	return vm, nil
}

// restoreTapes starts the image that was read from the tape, with both tapes in
// their drives.
func (r *circle) restoreTapes(ctx context.Context) error {
	iso := filepath.Join(r.Work, "obdr.iso")
	if err := r.dump(ctx, "/obdr.iso", iso); err != nil {
		return err
	}
	vm, err := r.rescue(ctx, Machine{Name: r.Kind + "-tapes", Log: r.log("tapes"), CDROM: iso, Extra: r.tapes.Args(), Disks: []Disk{r.target()}})
	if err != nil {
		return err
	}
	defer vm.Kill()
	if r.Sealed {
		if err := r.unsealed(vm); err != nil {
			return err
		}
	}
	if err := r.restored(vm); err != nil {
		return err
	}
	return r.tapes.Stop()
}

// restoreKey starts the stick: as far as the prompt with the other firmware,
// and then to the end with the machine's own.
func (r *circle) restoreKey(ctx context.Context) error {
	const ready = `medium: /dev/sda1\s+(?s:.*)backup set: /mnt/set/(?s:.*)rescue system ready`
	other := Machine{Name: r.Kind + "-key-other", Memory: 768, Log: r.log("key-other"), Disks: []Disk{r.stick()}}
	other.Disks[0].Snapshot = true
	if !r.targetUEFI() {
		var err error
		if other.UEFI, err = NVRAM(filepath.Join(r.Work, "other.vars")); err != nil {
			return err
		}
	}
	vm, err := Start(ctx, other)
	if err != nil {
		return err
	}
	defer vm.Kill()
	if err := vm.Menu("r", bootLimit); err != nil {
		return err
	}
	// Here the disk that the medium was made for is missing: nothing is restored.
	for _, s := range []string{ready, `UNATTENDED RESTORE FAILED`} {
		if _, err := vm.Expect(s, bootLimit); err != nil {
			return err
		}
	}
	if err := vm.Kill(); err != nil {
		return err
	}
	own, err := r.rescue(ctx, Machine{Name: r.Kind + "-key", Log: r.log("key"), Disks: []Disk{r.stick(), r.target()}})
	if err != nil {
		return err
	}
	defer own.Kill()
	if _, err := own.Expect(ready, bootLimit); err != nil {
		return err
	}
	return r.restored(own)
}

// phrase is the passphrase of an encrypted set.
const phrase = "four words of mine"

// restoreDiscs starts the first disc, and changes discs when asked: first it
// puts in a wrong one.
func (r *circle) restoreDiscs(ctx context.Context) error {
	set, err := r.setDir(ctx)
	if err != nil {
		return err
	}
	var discs []string
	for n := 1; n <= 3; n++ {
		iso := filepath.Join(r.Work, fmt.Sprintf("disc%d.iso", n))
		if err := r.dump(ctx, fmt.Sprintf("/%s_%d.iso", set, n), iso); err != nil {
			return err
		}
		discs = append(discs, iso)
	}
	if err := r.dump(ctx, "/"+set+"_4.iso", filepath.Join(r.Work, "disc4.iso")); err == nil {
		return errors.New("there are more than three discs")
	}
	vm, err := r.rescue(ctx, Machine{Name: r.Kind + "-discs", Log: r.log("discs"), CDROM: discs[0], Display: filepath.Join(r.Work, "qmp"), Disks: []Disk{r.target()}})
	if err != nil {
		return err
	}
	defer vm.Kill()
	if r.Sealed {
		if err := r.unsealed(vm); err != nil {
			return err
		}
	}
	for _, step := range []struct{ pattern, disc string }{
		{`put in disc 2, label (MKCDREC_\w+_2)`, discs[2]},
		{`put in disc 2, label MKCDREC_\w+_2; in /dev/sr0 is "MKCDREC_\w+_3"`, discs[1]},
		{`put in disc 3, label (MKCDREC_\w+_3)`, discs[2]},
	} {
		if _, err := vm.Expect(step.pattern, jobLimit); err != nil {
			return err
		}
		if err := vm.ChangeDisc(step.disc); err != nil {
			return err
		}
	}
	return r.restored(vm)
}

// byHand starts the installer's Debian with a shell as process 1 and runs
// restore.sh there, as somebody without our medium would.
func (r *circle) byHand(ctx context.Context) error {
	set, err := r.setDir(ctx)
	if err != nil {
		return err
	}
	if err := r.makeTargets(ctx); err != nil {
		return err
	}
	dir := filepath.Dir(r.src.Disk)
	m := Machine{Name: r.Kind + "-by-hand", CPUs: r.CPUs, Kernel: dir + "/vmlinuz", Initrd: dir + "/initrd.img", Log: r.log("by-hand"),
		Append: "root=LABEL=INSTALLER rw init=/bin/bash console=ttyS0,115200 panic=-1",
		Disks:  []Disk{{File: dir + "/installer.img", Snapshot: true}, {File: r.setDisk, Serial: "SETDISK01"}, r.target()}}
	if err := r.nvram(&m, "by-hand"); err != nil {
		return err
	}
	vm, err := Start(ctx, m)
	if err != nil {
		return err
	}
	defer vm.Kill()
	if _, err := vm.Expect(`# $`, bootLimit); err != nil {
		return err
	}
	if err := all(vm,
		"PS1=; bind 'set enable-bracketed-paste off'; export PATH=/usr/sbin:/usr/bin",
		"mount -t tmpfs tmpfs /tmp; mkdir -p /run/lock/lvm /set; modprobe -a ext4 xfs vfat nls_cp437 nls_ascii nls_iso8859-1 dm-mod; mount /dev/vdb /set",
		"sh /set/"+set+"/restore.sh /set/"+set+" /dev/vdc",
		"umount -R /mnt/target; if [ -e /dev/vg0 ]; then DM_DISABLE_UDEV=1 vgchange -an vg0; fi; sync",
	); err != nil {
		return err
	}
	r.out.Restore = "by hand, with " + set + "/restore.sh"
	return vm.Kill()
}

// restored waits for the unattended restore to end.
func (r *circle) restored(vm *VM) error {
	g, err := vm.Expect(`(?s)(RESTORED .*?)\r?\n[^\n]*the machine is restored|UNATTENDED RESTORE FAILED`, jobLimit)
	if err != nil {
		return err
	}
	if g[1] == "" {
		return vm.failed("the restore failed")
	}
	r.out.Restore = strings.ReplaceAll(g[1], "\r", "")
	if r.Sealed { // at the prompt
		return powerOff(vm)
	}
	if _, err := vm.Expect(`UNATTENDED RESTORE DONE`, bootLimit); err != nil {
		return err
	}
	return vm.Wait(bootLimit)
}

// unsealed begins the restore of an encrypted set at the prompt, where the passphrase is asked for. Unattended there is
// nobody to ask, and nothing is touched.
func (r *circle) unsealed(vm *VM) error {
	if _, err := vm.Expect(`rescue system ready(?s:.*)# `, bootLimit); err != nil {
		return err
	}
	start := "restore --yes --confirm " + r.confirmed()
	if _, err := must(vm, start+" < /dev/null > /tmp/r 2>&1; test $? = 4 && grep 'no passphrase given' /tmp/r", jobLimit); err != nil {
		return err
	}
	if err := vm.Send(start + "\n"); err != nil {
		return err
	}
	return play(vm, step{wait: `is encrypted with a passphrase: `, send: phrase + "\n"})
}

// dump takes a file out of the set's disk without mounting it.
func (r *circle) dump(ctx context.Context, name, to string) error {
	if err := command(ctx, "debugfs", "-R", "dump "+name+" "+to, r.setDisk); err != nil {
		return err
	}
	if st, err := os.Stat(to); err != nil || st.Size() == 0 {
		return fmt.Errorf("cannot take %s out of the set's disk", name)
	}
	return nil
}

// setDir finds the set's name on its disk.
func (r *circle) setDir(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "debugfs", "-R", "ls -p /", r.setDisk).Output()
	if err != nil {
		return "", err
	}
	g := regexp.MustCompile(`/(` + regexp.QuoteMeta(r.Kind) + `-\d{8}T\d{6}Z)/`).FindStringSubmatch(string(out))
	if g == nil {
		return "", fmt.Errorf("there is no set on its disk:\n%s", out)
	}
	return g[1], nil
}
