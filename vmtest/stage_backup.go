package vmtest

import (
	"context"
	"path/filepath"
	"strings"
)

// backup backs the source machine up and turns it off.
func (r *circle) backup(context.Context) error {
	c, err := r.way().backup(r, r.vm)
	if err != nil {
		return err
	}
	if r.out.Backup, err = must(r.vm, c.line, jobLimit); err != nil {
		return err
	}
	if err := all(r.vm, c.after...); err != nil {
		return err
	}
	return powerOff(r.vm)
}

// backupRun is the shell's line that backs a machine up, and what looks at
// the result and unmounts the set.
type backupRun struct {
	line  string
	after []string
}

// way is a way from the source machine to the restored one: the backup's command, with
// what it needs prepared, and the restore from what that wrote.
type way struct {
	backup  func(*circle, *VM) (backupRun, error)
	restore func(*circle, context.Context) error
}

// way chooses by what the scenario asks for.
func (c Circle) way() way {
	// The restore reads the set through; TestKey and TestFaults verify it before.
	simple := func(what, where string) func(*circle, *VM) (backupRun, error) {
		return func(r *circle, _ *VM) (backupRun, error) {
			return backupRun{r.line(what, where), []string{"umount /backup"}}, nil
		}
	}
	directory := simple("-c /backup/mkcdrec.yaml path", "/backup")
	medium := simple("-c /backup/mkcdrec.yaml rescue -o /backup/rescue.iso", "")
	switch {
	case c.Live:
		return way{medium, (*circle).cloneLive}
	case c.Cloned:
		return way{medium, (*circle).clone}
	case c.Home != nil:
		return way{(*circle).homeCommand, (*circle).restoreHome}
	case c.Key:
		return way{(*circle).keyCommand, (*circle).restoreKey}
	case len(c.Tapes) > 0:
		return way{(*circle).tapeCommand, (*circle).restoreTapes}
	case c.Discs != "":
		return way{simple("-c /backup/mkcdrec.yaml cdrom --keep-set --size "+c.Discs, "/backup"), (*circle).restoreDiscs}
	case c.ByHand:
		return way{directory, (*circle).byHand}
	case machines[c.Kind].passphrase:
		return way{(*circle).secretCommand, (*circle).restoreCD}
	}
	return way{directory, (*circle).restoreCD}
}

// line is the shell's line for a backup whose medium restores by itself, or waits
// for somebody where the scenario works at the prompt.
func (r *circle) line(what, where string) string {
	auto := "mkcdrec.auto=restore mkcdrec.confirm=" + r.confirmed()
	if r.prompted() || r.Cloned {
		auto = "mkcdrec.debug"
	}
	l := "cd /root; /backup/bin/mkcdrec " + what + " --append '" + auto + " " + KernelWords + "' " + where
	if r.Spoil != "" {
		l += " 2>&1; test $? = 3"
	}
	return l
}

// secretCommand backs up a machine with LUKS. Without recipients its headers are not
// covered, and the backup reports that.
func (r *circle) secretCommand(vm *VM) (backupRun, error) {
	_, err := must(vm, "/backup/bin/mkcdrec -c /backup/mkcdrec.yaml -n path /backup > /tmp/n 2>&1; test $? = 3 && grep 'vd.3: its LUKS header: no recipients' /tmp/n", jobLimit)
	return backupRun{r.line("-c /backup/luks.yaml path", "/backup"), []string{"umount /backup"}}, err
}

// keyCommand makes a key once. The second time it is one, and nobody is asked;
// --keep 1 leaves the new generation only. The stick is busy while it is mounted,
// and a disk that can't be taken out is refused.
func (r *circle) keyCommand(vm *VM) (backupRun, error) {
	key := "/backup/bin/mkcdrec -c /backup/key.yaml usbkey --keep 1 --append 'mkcdrec.auto=restore mkcdrec.confirm=" + r.targetSerial() + " " + KernelWords + "' "
	c := backupRun{"cd /root; " + key + "/dev/sda", []string{
		"mount -o ro /dev/sda3 /run/k && ls /run/k && ! ls /run/k | grep -f /tmp/first && /backup/bin/mkcdrec verify /run/k && umount /run/k",
		"sfdisk -d /dev/sda > /tmp/table2; ! cmp -s /tmp/table1 /tmp/table2",
		"umount /backup",
	}}
	return c, all(vm,
		"printf \"exclude_devices:\\n  - $(basename "+byID("SETDISK01")+")\\n\" > /backup/key.yaml",
		"/backup/bin/mkcdrec usbkey --confirm SETDISK01 "+byID("SETDISK01")+" > /tmp/k 2>&1; test $? = 4 && grep 'is not removable' /tmp/k",
		"/backup/bin/mkcdrec -c /backup/key.yaml usbkey --confirm WRONG01 /dev/sda > /tmp/k 2>&1; test $? = 4 && grep 'was not changed' /tmp/k && cmp -n 1048576 /dev/sda /dev/zero",
		key+"--confirm KEY01 /dev/sda",
		"mkdir -p /run/k && mount /dev/sda3 /run/k && ls /run/k | grep "+r.Kind+"- > /tmp/first",
		"/backup/bin/mkcdrec -c /backup/key.yaml usbkey /dev/sda > /tmp/k 2>&1; test $? = 4 && grep 'is mounted on /run/k' /tmp/k",
		"umount /run/k; sfdisk -d /dev/sda; sfdisk -d /dev/sda > /tmp/table1",
	)
}

// tapeCommand prepares the drives. A tape of tgtd that was never written to reads
// as zero bytes, which is not what a blank tape does. What comes after the backup
// are other people's programs: the image as a drive would present it, the label,
// and the first archive.
func (r *circle) tapeCommand(vm *VM) (backupRun, error) {
	front, key, encrypt := "grep -q "+r.src.Serial, "", "true"
	if r.Sealed {
		front, key = "grep -q age-encryption.org", " --passphrase-file /backup/passphrase"
		encrypt = `printf "encrypt: true\npassphrase_file: /backup/passphrase\n" >> /backup/tape.yaml`
	}
	member := map[bool]string{false: "layout.json", true: "front.tar.zst.age"}[r.Sealed]
	_, err := must(vm, "modprobe st && ls /dev/nst1 && printf \"exclude_devices:\\n  - $(basename "+byID("SETDISK01")+")\\n\" > /backup/tape.yaml && "+encrypt, bootLimit)
	return backupRun{r.line("-c /backup/tape.yaml obdr --force --overwrite", "/dev/nst0 /dev/nst1"), []string{
		"dd if=/dev/nst0 of=/dev/null bs=512 count=20 && dd if=/dev/nst0 of=/backup/obdr.iso bs=2048",
		"dd if=/dev/nst0 bs=64k | head -1 | grep -q '{' && dd if=/dev/nst0 bs=64k | zstd -dc | tar -xO " + member + " | " + front,
		"dd if=/dev/st1 bs=64k | grep -q '\"reel\": 2'",
		"/backup/bin/mkcdrec -q list" + key + " tape:/dev/nst0,/dev/nst1 | grep -q vda2._boot.tar.zst",
		"/backup/bin/mkcdrec -q extract" + key + " -C /tmp/x tape:/dev/nst0,/dev/nst1 /etc/fstab /boot/grub && cmp /tmp/x/etc/fstab /etc/fstab && diff -r /tmp/x/boot/grub /boot/grub",
		"sync; umount /backup",
	}}, err
}

func (r *circle) stick() Disk {
	return Disk{File: filepath.Join(r.Work, "key.img"), Serial: "KEY01", Bus: "scsi", Removable: true}
}

// confirmed are the serial numbers of all the restored machine's disks.
func (r *circle) confirmed() string {
	var out []string
	for _, d := range r.targets() {
		out = append(out, d.Serial)
	}
	return strings.Join(out, ",")
}
