package vmtest

import (
	"context"
	"os"
	"path/filepath"
	"strings"
)

func (r *circle) boot(ctx context.Context) error {
	m := Machine{Name: r.Kind + "-restored", CPUs: r.CPUs, Log: r.log("restored"), Disks: append(r.targets(), Disk{File: r.setDisk, Serial: "SETDISK01"})}
	if r.Renewed {
		for _, d := range r.sources() {
			d.Snapshot = true
			m.Disks = append(m.Disks, d)
		}
	}
	if err := r.nvram(&m, "restored"); err != nil { // empty: only the removable path is left
		return err
	}
	vm, err := r.started(ctx, m)
	if err != nil {
		return err
	}
	defer vm.Kill()
	entries := ""
	if r.entries() {
		// One entry of ours, none of before, and it is what was started.
		entries = strings.ReplaceAll(`efibootmgr -v; test $(efibootmgr | grep -c LABEL) = 1 && efibootmgr -v | grep LABEL | grep -qi $(blkid -p -s PART_ENTRY_UUID -o value ${A}1 || blkid -p -s PART_ENTRY_UUID -o value ${A}p1) && efibootmgr | grep LABEL | grep -q Boot$(efibootmgr | sed -n 's/BootCurrent: //p')`, "LABEL", "'"+loaders[r.Loader].label+"'")
	}
	if err := all(vm,
		"A="+byID(r.targetSerial())+"; export A",
		entries,
		"mount LABEL=SETDISK /backup",
		r.storage(r.targetSerial(), "after"),
		"/backup/bin/guest describe "+r.mounts()+" > /backup/after.json && sync",
		"test -z \"$(systemctl --failed --plain --no-legend)\"",
		r.swapFileIn(),
		strings.ReplaceAll(r.Wished, "/dev/vda", "${A}"),
		"umount /backup",
	); err != nil {
		return err
	}
	return powerOff(vm)
}

// forgotten starts the restored machine with its medium first in the boot
// order: a CD where the firmware is UEFI, a stick where it is a BIOS. The menu
// boots from the disk by itself only when nobody works unattended; here
// somebody presses the key.
func (r *circle) forgotten(ctx context.Context) error {
	if r.ByHand {
		return nil
	}
	iso := filepath.Join(r.Work, "rescue.iso")
	if _, err := os.Stat(iso); err != nil {
		return nil // restored without a CD
	}
	targets := r.targets()
	for i := range targets {
		targets[i].Snapshot = true
	}
	m := Machine{Name: r.Kind + "-forgotten", Log: r.log("forgotten"), Disks: append([]Disk{{File: iso, Bus: "usb", Snapshot: true}}, targets...)}
	if r.targetUEFI() {
		m.IDECD, m.Disks = iso, targets
	}
	if err := r.nvram(&m, "forgotten"); err != nil {
		return err
	}
	vm, err := Start(ctx, m)
	if err != nil {
		return err
	}
	defer vm.Kill()
	if err := vm.Menu("l", bootLimit); err != nil {
		return err
	}
	_, err = vm.Expect(loaders[r.Loader].started, bootLimit)
	return err
}

func (r *circle) nvram(m *Machine, name string) (err error) {
	if r.entries() && name == "rescue" {
		// The machine's own, with the entry of the system that was there.
		m.UEFI = filepath.Join(r.Work, name+".vars")
		return command(context.Background(), "cp", filepath.Join(r.Work, "source.vars"), m.UEFI)
	}
	if r.entries() && name == "restored" {
		m.UEFI = filepath.Join(r.Work, "rescue.vars")
		return nil
	}
	if r.targetUEFI() {
		m.UEFI, err = NVRAM(filepath.Join(r.Work, name+".vars"))
	}
	return err
}

// entries reports of a circle in which the firmware's boot menu is kept; in the
// others it is empty, and only the removable path starts the system.
func (r *circle) entries() bool {
	return !r.Cloned && (r.Kind == UEFIBtrfs || loaders[r.Loader].keepsEntries) && r.From == "" && r.Firmware == ""
}

// targetUEFI reports whether the restored machine starts by UEFI.
func (r *circle) targetUEFI() bool {
	if r.Firmware != "" {
		return r.Firmware == "uefi"
	}
	return machines[r.Kind].uefi
}

// swapFileIn is the command that looks for it in the restored machine.
func (r *circle) swapFileIn() string {
	if f := r.swapFileOf(); f != "" {
		return "swapon --show --noheadings && swapon --show --noheadings | grep -E '^" + f + " +file +40M' && test $(swaplabel " + f + " | grep -c -e swapfile -e UUID) = 2"
	}
	return ""
}
