package vmtest

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
)

// rescueSystem starts the rescue CD in a machine and waits for the prompt.
func (r *circle) rescueSystem(ctx context.Context, m Machine) (*VM, error) {
	m.CDROM = filepath.Join(r.Work, "rescue.iso")
	if err := r.dump(ctx, "/rescue.iso", m.CDROM); err != nil {
		return nil, err
	}
	vm, err := r.rescue(ctx, m)
	if err != nil {
		return nil, err
	}
	for _, s := range []string{`mkcdrec: rescue system ready`, `# `} {
		if _, err := vm.Expect(s, bootLimit); err != nil {
			return nil, errors.Join(err, vm.Kill())
		}
	}
	return vm, nil
}

// clone boots the rescue CD with the source's disks and blank ones, and clones the one
// to the other. The source has not one bit changed.
func (r *circle) clone(ctx context.Context) error {
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
	if err := r.cloneDisks(vm, from); err != nil {
		return err
	}
	return powerOff(vm)
}

// cloneDisks has clonedsk refuse what it should, plan, and clone. Each of these leaves the
// source as it was.
func (r *circle) cloneDisks(vm *VM, from []Disk) error {
	names, targets := diskNames(from), diskNames(r.targets())
	key, source := "", "/dev/"+names
	if machines[r.Kind].passphrase {
		key = "--key-file /tmp/k "
		if err := all(vm, "printf "+Password+" > /tmp/k"); err != nil {
			return err
		}
	}
	if r.Clonezilla {
		source = "/tmp/images/" + imageName
		if err := all(vm, "mkdir /tmp/images && mount -t ext4 -o ro /dev/"+names+" /tmp/images && ls -l "+source); err != nil {
			return err
		}
	}
	words := key + source + " " + targets + " 2>&1"
	confirmed := "--yes --confirm " + r.confirmed() + " "
	// How many sectors each of the source's disks was asked to write; a request to flush its
	// cache writes none.
	written := "writes | grep -E \"/($(echo " + names + " | tr , '|'))/\" | cut -d ' ' -f 1,3"
	same := step{run: written + " > /tmp/s2; cat /tmp/s2; cmp /tmp/s1 /tmp/s2"}
	steps := []step{{run: "lsblk"}, {run: writes}, {run: written + " > /tmp/s1; cat /tmp/s1; test -s /tmp/s1"}}
	if r.CloneRefused != "" {
		// The targets are blank as before.
		steps = append(steps, step{want: r.CloneRefused, run: "clonedsk " + confirmed + words + "; test $? = 4 && " +
			"(for D in $(echo " + targets + " | tr , ' '); do dd if=/dev/$D of=/tmp/z bs=1M count=16 && dd if=/dev/zero of=/tmp/zz bs=1M count=16 && cmp /tmp/z /tmp/zz || exit 1; done) && rm /tmp/z /tmp/zz"})
	}
	words = r.CloneWith + " " + words
	// Each name once, and nothing that was not confirmed.
	if err := play(vm, append(steps, step{run: "clonedsk --plan " + words, want: r.CloneSays}, same, step{run: "clonedsk --yes --confirm NONE " + words + "; test $? = 4"})...); err != nil {
		return err
	}
	var err error
	if r.out.Restore, err = must(vm, "clonedsk "+confirmed+words, jobLimit); err != nil {
		return err
	}
	return play(vm, same, step{run: "test -z \"$(ls /dev/mapper | grep -v control)\""})
}

// cloneLive boots the source machine with blank disks beside, and has it clone itself to
// them while it writes to its own.
func (r *circle) cloneLive(ctx context.Context) error {
	m := Machine{Name: r.Kind + "-live", CPUs: r.CPUs, Log: r.log("live"), Disks: append(r.sources(), Disk{File: r.setDisk, Serial: "SETDISK01"})}
	m.Disks = append(m.Disks, r.targets()...)
	if machines[r.Kind].uefi {
		m.UEFI = filepath.Join(r.Work, "source.vars")
	}
	if err := r.makeTargets(ctx); err != nil {
		return err
	}
	vm, err := r.started(ctx, m)
	if err != nil {
		return err
	}
	defer vm.Kill()
	var names []string
	for _, disks := range [][]Disk{r.sources(), r.targets()} {
		var words []string
		for _, d := range disks {
			words = append(words, byID(d.Serial))
		}
		names = append(names, strings.Join(words, ","))
	}
	words := names[0] + " " + names[1] + " 2>&1"
	const clonedsk = "/backup/clonedsk --outside-rescue-system "
	if err := all(vm,
		"mount LABEL=SETDISK /backup && cp /backup/bin/mkcdrec /backup/clonedsk && lsblk",
		// It is in use: refused, and nothing is written.
		clonedsk+"--yes --confirm "+r.confirmed()+" "+words+"; test $? = 4 && ! blkid -p "+byID(r.targetSerial()),
		"touch /run/writing; (while test -e /run/writing; do date > /var/tmp/now; sync /var/tmp/now; sleep 1; done) > /dev/null 2>&1 & true",
	); err != nil {
		return err
	}
	if err := play(vm, step{run: clonedsk + r.CloneWith + " --plan " + words, want: r.CloneSays}); err != nil {
		return err
	}
	// Logs are written to meanwhile: exit status 3 is as good.
	if r.out.Restore, err = must(vm, clonedsk+r.CloneWith+" --yes --confirm "+r.confirmed()+" "+words+"; S=$?; test $S = 0 -o $S = 3", jobLimit); err != nil {
		return err
	}
	if err := all(vm,
		"rm /run/writing; echo thawed > /var/tmp/now && sync /var/tmp/now",
		// No snapshot is left, and nothing of one is mounted.
		"! lvs --noheadings -o lv_name 2>/dev/null | grep mkcdrec && ! btrfs subvolume list / 2>/dev/null | grep mkcdrec && ! grep /run/mkcdrec /proc/mounts",
		"umount /backup",
	); err != nil {
		return err
	}
	return powerOff(vm)
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
