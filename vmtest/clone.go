package vmtest

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
)

// clone boots the rescue CD with the source's disks and blank ones, and clones the one
// to the other. The source has not one bit changed.
func (r *circle) clone(ctx context.Context) error {
	iso := filepath.Join(r.Work, "rescue.iso")
	if err := r.dump(ctx, "/rescue.iso", iso); err != nil {
		return err
	}
	if err := r.makeTargets(ctx); err != nil {
		return err
	}
	from := []Disk{{File: filepath.Join(r.Work, "source.qcow2"), Serial: r.src.Serial, Sector: machines[r.Kind].sector}}
	if r.src.Second != "" {
		from = append(from, Disk{File: filepath.Join(r.Work, "source-2.qcow2"), Serial: r.src.SerialSecond})
	}
	data := []Disk{{File: filepath.Join(r.Work, "data1.qcow2"), Serial: "DATA0001"}, {File: filepath.Join(r.Work, "data2.qcow2"), Serial: "DATA0002"}}
	if r.Kind == BIOSPlain {
		for i, size := range []string{"64M", "160M"} {
			if err := command(ctx, "qemu-img", "create", "-q", "-f", "qcow2", data[i].File, size); err != nil {
				return err
			}
		}
		from = append(from, data...)
	}
	m := Machine{Name: r.Kind + "-clone", CPUs: r.CPUs, Memory: 768, Log: r.log("clone"), CDROM: iso, Disks: append(from, r.targets()...)}
	if err := r.nvram(&m, "rescue"); err != nil {
		return err
	}
	vm, err := Start(ctx, m)
	if err != nil {
		return err
	}
	defer vm.Kill()
	if err := vm.Menu("r", bootLimit); err != nil {
		return err
	}
	if _, err := vm.Expect(`mkcdrec: rescue system ready`, bootLimit); err != nil {
		return err
	}
	if _, err := vm.Expect(`# `, bootLimit); err != nil {
		return err
	}
	if r.Kind == BIOSPlain {
		from = from[:len(from)-len(data)]
		if err := cloneData(vm); err != nil {
			return err
		}
	}
	names := func(disks []Disk) string {
		var out []string
		for _, d := range disks {
			out = append(out, "$(lsblk | grep "+d.Serial+" | cut -d ' ' -f 1)")
		}
		return strings.Join(out, ",")
	}
	words := r.CloneWith + " "
	if machines[r.Kind].passphrase {
		words += "--key-file /tmp/k "
		if _, err := must(vm, "printf "+Password+" > /tmp/k", bootLimit); err != nil {
			return err
		}
	}
	words += "/dev/" + names(from) + " " + names(r.targets())
	// How many sectors each of the source's disks was asked to write; a request to flush its
	// cache writes none.
	written := "writes | grep \"/($(echo " + names(from) + " | tr , '|'))/\" | cut -d ' ' -f 1,3"
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
	plan, err := must(vm, "clonedsk --plan "+words+" 2>&1", jobLimit)
	if err == nil {
		err = same("by a plan")
	}
	if err != nil {
		return err
	}
	if ok, err := regexp.MatchString(r.CloneSays, plan); err != nil || !ok {
		return fmt.Errorf("the plan does not say %q: %w\n%s", r.CloneSays, err, plan)
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
