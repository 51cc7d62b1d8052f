package vmtest

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
)

// rescueSystem starts the rescue CD in a machine and waits for the prompt.
func (r *circle) rescueSystem(ctx context.Context, m Machine) (*VM, error) {
	m.CPUs, m.Memory = r.CPUs, 768
	m.CDROM = filepath.Join(r.Work, "rescue.iso")
	if err := r.dump(ctx, "/rescue.iso", m.CDROM); err != nil {
		return nil, err
	}
	if err := r.nvram(&m, "rescue"); err != nil {
		return nil, err
	}
	vm, err := Start(ctx, m)
	if err != nil {
		return nil, err
	}
	err = vm.Menu("r", bootLimit)
	for _, s := range []string{`mkcdrec: rescue system ready`, `# `} {
		if err == nil {
			_, err = vm.Expect(s, bootLimit)
		}
	}
	if err != nil {
		return nil, errors.Join(err, vm.Kill())
	}
	return vm, nil
}

// clone boots the rescue CD with the source's disks and blank ones, and clones the one
// to the other. The source has not one bit changed.
func (r *circle) clone(ctx context.Context) error {
	if err := r.makeTargets(ctx); err != nil {
		return err
	}
	if r.Live {
		return r.cloneLive(ctx)
	}
	from := r.sources()
	if r.Clonezilla {
		image, err := r.clonezillaDisk(ctx)
		if err != nil {
			return err
		}
		from = []Disk{image}
	}
	m := Machine{Name: r.Kind + "-clone", Log: r.log("clone"), Disks: from}
	data := r.Kind == BIOSPlain && !r.Clonezilla
	if data {
		for i, size := range []string{"64M", "160M"} {
			d := Disk{File: filepath.Join(r.Work, fmt.Sprintf("data%d.qcow2", i+1)), Serial: fmt.Sprintf("DATA000%d", i+1)}
			if err := command(ctx, "qemu-img", "create", "-q", "-f", "qcow2", d.File, size); err != nil {
				return err
			}
			m.Disks = append(m.Disks, d)
		}
	}
	m.Disks = append(m.Disks, r.targets()...)
	vm, err := r.rescueSystem(ctx, m)
	if err != nil {
		return err
	}
	defer vm.Kill()
	if data {
		if err := cloneData(vm); err != nil {
			return err
		}
	}
	words := ""
	if machines[r.Kind].passphrase {
		words = "--key-file /tmp/k "
		if _, err := must(vm, "printf "+Password+" > /tmp/k", bootLimit); err != nil {
			return err
		}
	}
	source := "/dev/" + diskNames(from)
	if r.Clonezilla {
		source = "/tmp/images/" + imageName
		if _, err := must(vm, "mkdir /tmp/images && mount -t ext4 -o ro /dev/"+diskNames(from)+" /tmp/images && ls -l "+source, bootLimit); err != nil {
			return err
		}
	}
	words += source + " " + diskNames(r.targets())
	// How many sectors each of the source's disks was asked to write; a request to flush its
	// cache writes none.
	written := "writes | grep \"/($(echo " + diskNames(from) + " | tr , '|'))/\" | cut -d ' ' -f 1,3"
	if err := all(vm, "lsblk", writes, written+" > /tmp/s1; cat /tmp/s1; test -s /tmp/s1"); err != nil {
		return err
	}
	same := func(when string) error {
		_, err := must(vm, written+" > /tmp/s2; cat /tmp/s2; cmp /tmp/s1 /tmp/s2", bootLimit)
		if err != nil {
			err = fmt.Errorf("%s, the source was written to: %w", when, err)
		}
		return err
	}
	if r.CloneRefused != "" {
		// The targets are blank as before.
		if err := says(vm, r.CloneRefused, "clonedsk --yes --confirm "+r.confirmed()+" "+words+" 2>&1; test $? = 4 && "+
			"(for D in $(echo "+diskNames(r.targets())+" | tr , ' '); do dd if=/dev/$D of=/tmp/z bs=1M count=16 && dd if=/dev/zero of=/tmp/zz bs=1M count=16 && cmp /tmp/z /tmp/zz || exit 1; done) && rm /tmp/z /tmp/zz"); err != nil {
			return err
		}
	}
	words = r.CloneWith + " " + words
	if err := says(vm, r.CloneSays, "clonedsk --plan "+words+" 2>&1"); err != nil {
		return err
	}
	if err := same("by a plan"); err != nil {
		return err
	}
	// Each name once, and nothing that was not confirmed.
	if _, err := must(vm, "clonedsk --yes --confirm NONE "+words+" 2>&1; test $? = 4", jobLimit); err != nil {
		return err
	}
	if r.out.Restore, err = must(vm, "clonedsk --yes --confirm "+r.confirmed()+" "+words+" 2>&1", jobLimit); err != nil {
		return err
	}
	if err := errors.Join(same("by the clone"), all(vm, "test -z \"$(ls /dev/mapper | grep -v control)\"")); err != nil {
		return err
	}
	if err := vm.Send("poweroff\n"); err != nil {
		return err
	}
	return vm.Wait(bootLimit)
}

// cloneLive boots the source machine with blank disks beside, and has it clone itself to
// them while it writes to its own.
func (r *circle) cloneLive(ctx context.Context) error {
	m := Machine{Name: r.Kind + "-live", CPUs: r.CPUs, Log: r.log("live"), Disks: append(r.sources(), Disk{File: r.setDisk, Serial: "SETDISK01"})}
	m.Disks = append(m.Disks, r.targets()...)
	if machines[r.Kind].uefi {
		m.UEFI = filepath.Join(r.Work, "source.vars")
	}
	vm, err := Start(ctx, m)
	if err != nil {
		return err
	}
	defer vm.Kill()
	if err := r.login(vm); err != nil {
		return err
	}
	var names []string
	for _, disks := range [][]Disk{r.sources(), r.targets()} {
		var words []string
		for _, d := range disks {
			words = append(words, byID(d.Serial))
		}
		names = append(names, strings.Join(words, ","))
	}
	words := names[0] + " " + names[1] + " 2>&1"
	const clonedsk = "/run/clonedsk --outside-rescue-system "
	snapshots := "lvs --noheadings -o lv_name 2>/dev/null; ls -d /.mkcdrec* /run/mkcdrec/clone/parts/*/*"
	if err := all(vm,
		"mount LABEL=SETDISK /backup && cp /backup/bin/mkcdrec /run/clonedsk && lsblk",
		// It is in use: refused, and nothing is written.
		clonedsk+"--yes --confirm "+r.confirmed()+" "+words+"; test $? = 4 && ! blkid -p "+byID(r.targetSerial()),
		"("+snapshots+") > /run/s1 2>/dev/null; true",
		"touch /run/writing; (while test -e /run/writing; do date > /var/tmp/now; sync /var/tmp/now; sleep 1; done) > /dev/null 2>&1 &",
	); err != nil {
		return err
	}
	if err := says(vm, r.CloneSays, clonedsk+r.CloneWith+" --plan "+words); err != nil {
		return err
	}
	// Logs are written to meanwhile: exit status 3 is as good.
	if r.out.Restore, err = must(vm, clonedsk+r.CloneWith+" --yes --confirm "+r.confirmed()+" "+words+"; S=$?; test $S = 0 -o $S = 3", jobLimit); err != nil {
		return err
	}
	if err := all(vm,
		"rm /run/writing; echo thawed > /var/tmp/now && sync /var/tmp/now",
		"("+snapshots+") > /run/s2 2>/dev/null; cat /run/s2; cmp /run/s1 /run/s2",
		"umount /backup",
	); err != nil {
		return err
	}
	if err := vm.Send("poweroff\n"); err != nil {
		return err
	}
	return vm.Wait(bootLimit)
}

// sources are the disks that are cloned.
func (r *circle) sources() []Disk {
	out := []Disk{{File: filepath.Join(r.Work, "source.qcow2"), Serial: r.src.Serial, Sector: machines[r.Kind].sector}}
	if r.src.Second != "" {
		out = append(out, Disk{File: filepath.Join(r.Work, "source-2.qcow2"), Serial: r.src.SerialSecond, Sector: machines[r.Kind].sector})
	}
	return out
}

// diskNames are words of the rescue system's shell that give the kernel's names of disks,
// separated by commas.
func diskNames(disks []Disk) string {
	var out []string
	for _, d := range disks {
		out = append(out, "$(lsblk | grep "+d.Serial+" | cut -d ' ' -f 1)")
	}
	return strings.Join(out, ",")
}

// says runs a command that has to succeed, and whose output has to match a pattern.
func says(vm *VM, pattern, cmd string) error {
	out, err := must(vm, cmd, jobLimit)
	if err != nil {
		return err
	}
	if ok, err := regexp.MatchString(pattern, out); err != nil || !ok {
		return errors.Join(fmt.Errorf("%s: no %q in\n%s", cmd, pattern, out), err)
	}
	return nil
}

// cloneData clones a disk that has no system, and not even a table, into an image file, and
// that onto a larger disk.
func cloneData(vm *VM) error {
	return all(vm,
		"A=$(lsblk | grep DATA0001 | cut -d ' ' -f 1); B=$(lsblk | grep DATA0002 | cut -d ' ' -f 1); mkdir -p /tmp/m; echo $A $B",
		"mke2fs -q -t ext4 -L data /dev/$A && mount -t ext4 /dev/$A /tmp/m && echo 'hello from the data disk' > /tmp/m/file && umount /tmp/m",
		"clonedsk --verify /dev/$A /tmp/d.img && ls -l /tmp/d.img && test ! -e /tmp/d.img.part",
		"clonedsk /dev/$A /tmp/d.img 2>&1; test $? = 4", // it is there
		"clonedsk /dev/$A /dev/$A --yes --confirm DATA0001 2>&1; test $? = 4",
		"mount -t ext4 /dev/$A /tmp/m; clonedsk /dev/$A /dev/$B --yes --confirm DATA0002 2>&1; S=$?; umount /tmp/m; test $S = 4", // in use
		"clonedsk --verify /tmp/d.img /dev/$B --yes --confirm DATA0002 2>&1 && mount -t ext4 /dev/$B /tmp/m && grep 'hello from' /tmp/m/file && dmesg | grep 'resized filesystem'; S=$?; umount /tmp/m; test $S = 0",
	)
}
