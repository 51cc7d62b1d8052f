package vmtest

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
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
	// Mate gives the restored machine a second disk that the old one had not.
	Mate bool
	// Firmware is that of the restored machine, "uefi" or "bios", if it is not the
	// old one's.
	Firmware string
	// FailAt has a write to the target disk fail, see Disk: the restore stops
	// there, and is resumed.
	FailAt int64
	// Vanish has the target disk, a SCSI one, go away in the middle of a restore,
	// and come back.
	Vanish bool
	// Walk is steps, divided by blanks, after which a dry run is killed and
	// resumed, "all" for every one: what it makes is what was planned.
	Walk string
	// Spoil is a command that breaks something of the source machine before it is
	// described. The backup says what, and ends with exit status 3.
	Spoil string
	// SystemdBoot has systemd-boot start the machine in the place of GRUB, and the
	// firmware's boot menu is kept.
	SystemdBoot bool
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

// change is a difference that has a name; Pattern matches paths.
type change struct{ Name, Pattern string }

// changes are the differences that a running system makes, each named.
var changes = []change{
	{"systemd's own state (random seed, timers, catalog)", `^/var/lib/systemd(/|$)`},
	{"the system's journal", `^/var/log/journal(/.*)?$`},
	{"log-in records", `^/var/log/(wtmp|btmp|lastlog|faillog)$`},
	{"the restore's own log", `^/var/log(/mkcdrec(/.*)?)?$`},
	{"the restore's record", `^/var/lib(/mkcdrec(/restored\.json)?)?$|^(/boot|/boot/efi|/efi)(/\.|/mkcdrec-restored\.json)?$`},
	{"the boot loader, reinstalled", `^/boot/grub(/(grubenv|i386-pc|x86_64-efi|fonts|locale)(/.*)?)?$`},
	{"the boot loader on the EFI partition, reinstalled", `^/boot/efi(/EFI.*)?$`},
	{"root's shell history", `^/root(/\.bash_history)?$`},
	{"time stamps of systemd-update-done", `^/(etc|var)/\.updated$`},
	{"the clock's drift file", `^/etc/adjtime$`},
	{"LVM's own archive of metadata", `^/etc/lvm(/(archive|backup)(/.*)?)?$`},
	{"the time of an exFAT's root directory, which is kept nowhere", `^/srv/exchange(/\.)?$`},
	{"swap files, recreated", `^(/swapfile|/home/\.swap/file)$`},
	{"temporary files", `^/(tmp|var/tmp)(/.*)?$`},
}

type circle struct {
	Circle
	src     *Source
	setDisk string
	out     *Outcome
	tapes   *Tapes
	// identity decrypts the LUKS headers of a set.
	identity *age.X25519Identity
}

func (c Circle) new() *circle {
	r := &circle{Circle: c, setDisk: filepath.Join(c.Work, "set.img"), out: &Outcome{Kind: c.Kind, Named: map[string]int{}}}
	if r.Say == nil {
		r.Say = func(string, ...any) {}
	}
	return r
}

type circleStep struct {
	name string
	fn   func(context.Context) error
}

func (r *circle) run(ctx context.Context, steps ...circleStep) error {
	for _, s := range steps {
		t := time.Now()
		r.Say("%s: %s ...", r.Kind, s.name)
		if err := s.fn(ctx); err != nil {
			return fmt.Errorf("%s: %s: %w", r.Kind, s.name, err)
		}
		r.out.Times = append(r.out.Times, StepTime{s.name, time.Since(t).Seconds()})
		r.Say("%s: %s: %.0f s", r.Kind, s.name, time.Since(t).Seconds())
	}
	return nil
}

// Run runs the scenario.
func (c Circle) Run(ctx context.Context) (*Outcome, error) {
	r := c.new()
	steps := r.backupSteps()
	if c.From != "" {
		steps = []circleStep{{"take the backup made before", r.again}}
	}
	steps = append(steps,
		circleStep{"destroy it; boot the rescue CD with a blank disk; restore", r.restore},
		circleStep{"boot the restored disk; describe it", r.boot},
		circleStep{"compare", r.compare})
	if c.From == "" && !c.Cloned {
		steps = append(steps, circleStep{"start once more with the medium forgotten in it", r.forgotten})
	}
	return r.out, r.run(ctx, steps...)
}

func (r *circle) backupSteps() []circleStep {
	return []circleStep{{"prepare the source machine", r.prepare}, {"boot it, describe it, back it up", r.backup}}
}

// BackUp makes the backup for circles that say where it is in From.
func (c Circle) BackUp(ctx context.Context) error {
	r := c.new()
	return r.run(ctx, r.backupSteps()...)
}

// again takes the backup of the circle in From.
func (r *circle) again(ctx context.Context) (err error) {
	if r.src, err = Prepare(ctx, r.Kind, r.Say); err != nil {
		return err
	}
	if machines[r.Kind].passphrase {
		b, err := os.ReadFile(filepath.Join(r.From, "identity"))
		if err != nil {
			return err
		}
		if r.identity, err = age.ParseX25519Identity(string(b)); err != nil {
			return err
		}
	}
	return command(ctx, "cp", "--sparse=always", filepath.Join(r.From, "set.img"), r.setDisk)
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
	started := `Loading initial ramdisk` // says GRUB
	if r.SystemdBoot {
		started = r.Kind + ` login: `
	}
	_, err = vm.Expect(started, bootLimit)
	return err
}

func (r *circle) prepare(ctx context.Context) (err error) {
	if r.src, err = Prepare(ctx, r.Kind, r.Say); err != nil {
		return err
	}
	// The disk for the set brings the programs into the machine.
	stage := filepath.Join(r.Work, "stage")
	if err := os.MkdirAll(stage+"/bin", 0o755); err != nil {
		return err
	}
	defer os.RemoveAll(stage)
	for _, p := range []string{r.Mkcdrec, r.Guest} {
		if err := command(ctx, "cp", p, stage+"/bin/"); err != nil {
			return err
		}
	}
	// The set's disk has more than sets on it, which would not be covered.
	config := "exclude_devices: [/backup]\n"
	if machines[r.Kind].passphrase {
		if r.identity, err = age.GenerateX25519Identity(); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(r.Work, "identity"), []byte(r.identity.String()), 0o600); err != nil {
			return err
		}
		if err := os.WriteFile(stage+"/luks.yaml", []byte(config+"recipients: ["+r.identity.Recipient().String()+"]\n"), 0o600); err != nil {
			return err
		}
	}
	if err := os.WriteFile(stage+"/mkcdrec.yaml", []byte(config), 0o600); err != nil {
		return err
	}
	return command(ctx, "mke2fs", "-q", "-t", "ext4", "-m", "0", "-L", "SETDISK", "-E", "root_owner=0:0", "-d", stage, r.setDisk, "2G")
}

func (r *circle) log(name string) string {
	return filepath.Join(r.Work, r.Kind+"-"+name+".log")
}

func (r *circle) targetSerial() string { return machines[r.Kind].target }

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

// entries tells of a circle in which the firmware's boot menu is kept; in the
// others it is empty, and only the removable path starts the system.
func (r *circle) entries() bool {
	return !r.Cloned && (r.Kind == UEFIBtrfs || r.SystemdBoot) && r.From == "" && r.Firmware == ""
}

// bootLabel is what the installed system calls itself in the firmware's boot menu.
func (r *circle) bootLabel() string {
	if r.SystemdBoot {
		return "Linux Boot Manager"
	}
	return "debian"
}

// targetUEFI tells how the restored machine starts.
func (r *circle) targetUEFI() bool {
	if r.Firmware != "" {
		return r.Firmware == "uefi"
	}
	return machines[r.Kind].uefi
}

// must runs a command in the machine and wants exit status 0.
func must(vm *VM, cmd string, limit time.Duration) (string, error) {
	out, code, err := vm.Run(cmd, limit)
	if err == nil && code != 0 {
		err = fmt.Errorf("%s: exit status %d:\n%s", cmd, code, out)
	}
	return out, err
}

const bootLimit, jobLimit = 3 * time.Minute, 12 * time.Minute

// confirmed are the serial numbers of all the restored machine's disks.
func (r *circle) confirmed() string {
	var out []string
	for _, d := range r.targets() {
		out = append(out, d.Serial)
	}
	return strings.Join(out, ",")
}

// targets are the restored machine's disks.
func (r *circle) targets() []Disk {
	out := []Disk{r.target()}
	if r.src.Second != "" || r.Mate {
		out = append(out, Disk{File: filepath.Join(r.Work, "target-2.qcow2"), Serial: second(r.targetSerial()), Bus: r.TargetBus, Sector: r.sector()})
	}
	return out
}

// makeTargets makes them blank.
func (r *circle) makeTargets(ctx context.Context) error {
	size := r.TargetSize
	if size == "" {
		size = r.src.Size
	}
	for _, d := range r.targets() {
		if err := command(ctx, "qemu-img", "create", "-q", "-f", "qcow2", d.File, size); err != nil {
			return err
		}
	}
	return nil
}

// spoil is the command that does what Spoil says, on the disks ${A} and ${B}.
func (r *circle) spoil() string {
	if r.Spoil == "" {
		return "true"
	}
	return "A=" + byID(r.src.Serial) + " B=" + byID(r.src.SerialSecond) + "; " + r.Spoil
}

// before is the command that does what Before says, on the disks ${A} and ${B}.
func (r *circle) before() string {
	if r.Before == "" {
		return "true"
	}
	return "A=" + byID(r.src.Serial) + " B=" + byID(r.src.SerialSecond) + "; " + r.Before
}

// swapFileOf is where machines of some kinds get a swap file: on ext4, on xfs.
func (r *circle) swapFileOf() string {
	switch r.Kind {
	case BIOSPlain, UEFIPlain, UEFIPlain4K:
		return "/swapfile"
	case BIOSLVM, UEFILVM:
		return "/home/.swap/file"
	}
	return ""
}

// swapFile is the command that makes it. It is only reserved: a copy that had
// holes in such places is no swap file.
func (r *circle) swapFile() string {
	f := r.swapFileOf()
	if f == "" {
		return "true"
	}
	return "S=" + f + "; mkdir -p ${S%/*}; fallocate -l 40M $S && chmod 600 $S && mkswap -q -L swapfile $S && swapon $S && echo \"$S none swap sw,pri=5 0 0\" >> /etc/fstab"
}

// swapFileIn is the command that looks for it in the restored machine.
func (r *circle) swapFileIn() string {
	if f := r.swapFileOf(); f != "" {
		return "swapon --show --noheadings && swapon --show --noheadings | grep -E '^" + f + " +file +40M' && test $(swaplabel " + f + " | grep -c -e swapfile -e UUID) = 2"
	}
	return "true"
}

func (r *circle) mounts() string { return machines[r.Kind].mounts }

// login waits for the system to ask for a passphrase, if it has to, and logs in.
func (r *circle) login(vm *VM) error {
	if machines[r.Kind].passphrase {
		if _, err := vm.Expect(`Please unlock disk [^:]*: `, bootLimit); err != nil {
			return err
		}
		if err := vm.Send(Password + "\n"); err != nil {
			return err
		}
	}
	return vm.Login(Password, bootLimit)
}

// byID is a shell's word for a disk: the kernel's names change from start to
// start, where there are several.
func byID(serial string) string {
	return "$(readlink -f $(ls /dev/disk/by-id/*" + serial + " | head -n 1))"
}

// storage is the command that has other people's tools describe partitions,
// file systems and LVM; compareStorage compares what they say.
func (r *circle) storage(serial, when string) string {
	disks := byID(serial)
	if r.src.Second != "" {
		disks += " " + byID(second(serial))
	}
	return "(for D in " + disks + "; do sfdisk -d $D; done; for m in /dev/md0 /dev/md1 /dev/md/parity /dev/md/ten /dev/md4; do [ -e $m ] && mdadm --detail $m | grep -E 'Version|Raid Level|Raid Devices|Total Devices|Spare Devices|Layout|Chunk Size|Name|UUID|Bitmap|Consistency'; done; " +
		"for d in $(for D in " + disks + "; do ls -d $D*[0-9] | grep -vx $D; done) /dev/md0 /dev/md4 /dev/md/parity /dev/md/ten /dev/mapper/secret /dev/mapper/data /dev/mapper/vg0-* /dev/mapper/vg1-*; do [ -e $d ] || continue; case $d in *_m*) continue ;; esac; blkid -p -o export $d; " +
		"dumpe2fs -h $d 2>/dev/null | grep -E 'features|Inode size|Block size|Inode count|Reserved block count|Default mount|Maximum mount|Journal size'; btrfs inspect-internal dump-super $d 2>/dev/null | grep -E '^(csum_type|fsid|label|num_devices|sectorsize|nodesize|compat_ro_flags|incompat_flags)'; cryptsetup luksDump $d 2>/dev/null; if blkid -p $d | grep -q ntfs; then ntfsls -f $d; for f in 1 2 3; do ntfscat -f $d file$f | sha256sum; done; fi; done; btrfs subvolume list -q / 2>/dev/null | grep 'parent_uuid - ' | sed 's/.* path //' | sort; " +
		"xfs_info /home 2>/dev/null; lvs --noheadings -S 'segtype!=thin&&segtype!=thin-pool' -o lv_name,lv_uuid,lv_size 2>/dev/null; lvs --noheadings -o lv_name,segtype,stripes,stripe_size,pool_lv,chunk_size,discards,zero,lv_size 2>/dev/null; vgs --noheadings -o vg_uuid; pvs --noheadings -o pv_uuid) > /backup/storage-" + when + ".txt 2>/dev/null; sync"
}

func (r *circle) backup(ctx context.Context) error {
	disk := filepath.Join(r.Work, "source.qcow2")
	if err := command(ctx, "qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", r.src.Disk, disk); err != nil {
		return err
	}
	second := filepath.Join(r.Work, "source-2.qcow2")
	if !r.Cloned {
		defer os.Remove(second)
	}
	m, err := r.sourceMachine(ctx, disk, second)
	if err != nil {
		return err
	}
	vm, err := Start(ctx, m)
	if err != nil {
		return err
	}
	defer vm.Kill()
	if err := r.login(vm); err != nil {
		return err
	}
	if r.SystemdBoot {
		if err := all(vm, systemdBoot); err != nil {
			return err
		}
		if err := errors.Join(vm.Send("poweroff\n"), vm.Wait(bootLimit)); err != nil {
			return err
		}
		if vm, err = Start(ctx, m); err != nil {
			return err
		}
		defer vm.Kill()
		if err := r.login(vm); err != nil {
			return err
		}
		if err := all(vm, "bootctl status | grep 'Product: systemd-boot' && efibootmgr && ! ls /boot/grub"); err != nil {
			return err
		}
	}
	if err := all(vm,
		r.spoil(),
		"mkdir -p /backup && mount LABEL=SETDISK /backup",
		r.before(),
		r.swapFile(),
		"/backup/bin/guest tree /srv/difficult huge",
		"if [ -d /home ]; then /backup/bin/guest tree /home/difficult; fi",
		r.locked(),
		r.storage(r.src.Serial, "before"),
		"/backup/bin/guest describe "+r.mounts()+" > /backup/before.json && sync",
	); err != nil {
		return err
	}
	c, err := r.backupCommand(vm)
	if err != nil {
		return err
	}
	if r.out.Backup, err = must(vm, c.line, jobLimit); err != nil {
		return err
	}
	if err := all(vm, c.after...); err != nil {
		return err
	}
	if err := vm.Send("poweroff\n"); err != nil {
		return err
	}
	if err := vm.Wait(bootLimit); err != nil {
		return err
	}
	if r.Cloned {
		return nil
	}
	return os.Remove(disk) // destroyed
}

// systemdBoot has systemd-boot start a machine that GRUB started, as Debian's
// package of it does.
const systemdBoot = `bootctl install && V=$(uname -r) && kernel-install add $V /boot/vmlinuz-$V /boot/initrd.img-$V && ls /boot/efi/loader/entries/*$V.conf && cat /boot/efi/loader/entries/* && test ! -e /etc/kernel/cmdline && rm -rf /boot/grub /boot/efi/EFI/debian && efibootmgr -q -B -b $(efibootmgr | sed -n 's/^Boot\([0-9A-F]*\)\* debian.*/\1/p') && sync`

// all runs commands that have to succeed.
func all(vm *VM, commands ...string) error {
	for _, c := range commands {
		if _, err := must(vm, c, jobLimit); err != nil {
			return err
		}
	}
	return nil
}

// sourceMachine is the machine that is backed up: with the set's disk, and what
// the set is written to.
func (r *circle) sourceMachine(ctx context.Context, disk, second string) (Machine, error) {
	m := Machine{Name: r.Kind + "-source", CPUs: r.CPUs, Log: r.log("source"), Disks: []Disk{{File: disk, Serial: r.src.Serial, Sector: machines[r.Kind].sector}}}
	if r.src.Second != "" {
		if err := command(ctx, "qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", r.src.Second, second); err != nil {
			return m, err
		}
		m.Disks = append(m.Disks, Disk{File: second, Serial: r.src.SerialSecond})
	}
	m.Disks = append(m.Disks, Disk{File: r.setDisk, Serial: "SETDISK01"})
	if machines[r.Kind].uefi {
		m.UEFI = filepath.Join(r.Work, "source.vars")
		if err := command(ctx, "cp", r.src.NVRAM(), m.UEFI); err != nil {
			return m, err
		}
	}
	if len(r.Tapes) > 0 {
		var err error
		if r.tapes, err = StartTapes(ctx, r.Work, r.Tapes...); err != nil {
			return m, err
		}
		m.Extra = r.tapes.Args()
	}
	if r.Key {
		// A cloud kernel has no USB; a SCSI disk may say that it can be taken out.
		if err := command(ctx, "truncate", "-s", "2G", r.stick().File); err != nil {
			return m, err
		}
		m.Disks = append(m.Disks, r.stick())
	}
	return m, nil
}

// backupRun is the shell's line that backs a machine up, and what looks at
// the result and unmounts the set.
type backupRun struct {
	line  string
	after []string
}

// backupCommand prepares what a backup needs.
func (r *circle) backupCommand(vm *VM) (backupRun, error) {
	auto := "mkcdrec.auto=restore mkcdrec.confirm=" + r.confirmed()
	if r.Wishes != "" || r.Walk != "" || r.identity != nil || r.FailAt > 0 || r.Vanish || r.Cloned {
		auto = "mkcdrec.debug"
	}
	auto += " " + KernelWords
	line := func(what, where string) string {
		l := "cd /root; /backup/bin/mkcdrec " + what + " --append '" + auto + "' " + where
		if r.Spoil != "" {
			l += " 2>&1; test $? = 3"
		}
		return l
	}
	// The restore reads the set through; TestKey and TestFaults say verify.
	umount := []string{"umount /backup"}
	switch {
	case r.Cloned:
		return backupRun{line("-c /backup/mkcdrec.yaml rescue -o /backup/rescue.iso", ""), umount}, nil
	case r.Key:
		return r.keyCommand(vm)
	case r.tapes != nil:
		after, err := r.tapeCommand(vm)
		return backupRun{line("-c /backup/tape.yaml obdr --force --overwrite", "/dev/nst0 /dev/nst1"), after}, err
	case r.Discs != "":
		return backupRun{line("-c /backup/mkcdrec.yaml cdrom --keep-set --size "+r.Discs, "/backup"), umount}, nil
	case r.identity != nil:
		// Without recipients the headers are not covered, and that is said.
		_, err := must(vm, "/backup/bin/mkcdrec -c /backup/mkcdrec.yaml -n path /backup > /tmp/n 2>&1; test $? = 3 && grep 'vd.3: its LUKS header: no recipients' /tmp/n", jobLimit)
		return backupRun{line("-c /backup/luks.yaml path", "/backup"), umount}, err
	}
	return backupRun{line("-c /backup/mkcdrec.yaml path", "/backup"), umount}, nil
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
func (r *circle) tapeCommand(vm *VM) (after []string, err error) {
	_, err = must(vm, "modprobe st && ls /dev/nst1 && printf \"exclude_devices:\\n  - $(basename "+byID("SETDISK01")+")\\n\" > /backup/tape.yaml", bootLimit)
	return []string{
		"dd if=/dev/nst0 of=/dev/null bs=512 count=20 && dd if=/dev/nst0 of=/backup/obdr.iso bs=2048",
		"dd if=/dev/nst0 bs=64k | head -1 | grep -q '{' && dd if=/dev/nst0 bs=64k | zstd -dc | tar -xO layout.json | grep -q " + r.src.Serial,
		"dd if=/dev/st1 bs=64k | grep -q '\"reel\": 2'",
		"/backup/bin/mkcdrec -q list tape:/dev/nst0,/dev/nst1 | grep -q vda2._boot.tar.zst",
		"/backup/bin/mkcdrec -q extract -C /tmp/x tape:/dev/nst0,/dev/nst1 /etc/fstab /boot/grub && cmp /tmp/x/etc/fstab /etc/fstab && diff -r /tmp/x/boot/grub /boot/grub",
		"sync; umount /backup",
	}, err
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

func (r *circle) target() Disk {
	return Disk{File: filepath.Join(r.Work, "target.qcow2"), Serial: r.targetSerial(), Bus: r.TargetBus, FailAt: r.FailAt, Sector: r.sector()}
}

// sector is the size of the new disks' sectors.
func (r *circle) sector() int { return cmp.Or(r.TargetSector, machines[r.Kind].sector) }

func (r *circle) restore(ctx context.Context) error {
	if r.Cloned {
		return r.clone(ctx)
	}
	if r.tapes != nil {
		return r.restoreTapes(ctx)
	}
	if r.Key {
		return r.restoreKey(ctx)
	}
	set, err := r.setDir(ctx)
	if err != nil {
		return err
	}
	iso := filepath.Join(r.Work, "rescue.iso")
	if r.Discs != "" {
		return r.restoreDiscs(ctx, set)
	}
	if err := r.dump(ctx, "/"+set+"/rescue.iso", iso); err != nil {
		return err
	}
	if err := r.makeTargets(ctx); err != nil {
		return err
	}
	if r.ByHand {
		return r.byHand(ctx, set)
	}
	m := Machine{Name: r.Kind + "-rescue", CPUs: r.CPUs, Memory: 768, Log: r.log("rescue"), CDROM: iso, Disks: append([]Disk{{File: r.setDisk, Serial: "SETDISK01"}}, r.targets()...)}
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
	if r.identity != nil && r.Wishes == "" {
		return r.restoreLUKS(vm)
	}
	if r.Wishes != "" || r.Walk != "" {
		return r.restoreWished(vm)
	}
	if r.FailAt > 0 {
		return r.restoreFailing(vm)
	}
	if r.Vanish {
		return r.restoreVanishing(vm)
	}
	return r.restored(vm)
}

// restoreFailing restores onto a disk of which a write fails: the step is named,
// the journal has what was done before it and no more, and resuming does the
// rest.
func (r *circle) restoreFailing(vm *VM) error {
	if _, err := vm.Expect(`# `, bootLimit); err != nil {
		return err
	}
	out, code, err := vm.Run("restore --yes --confirm "+r.confirmed()+" 2>&1; S=$?; cat /run/mkcdrec/journal.jsonl; (exit $S)", jobLimit)
	if err != nil {
		return err
	}
	g := regexp.MustCompile(`step (\d+) failed`).FindStringSubmatch(out)
	if code != 1 || g == nil || strings.Contains(out, `"step":`+g[1]+`,`) || !strings.Contains(out, "restore --resume") {
		return fmt.Errorf("a disk that fails, exit status %d:\n%s", code, out)
	}
	r.Say("%s: step %s failed, as it should", r.Kind, g[1])
	if out, err = must(vm, "restore --resume --yes --confirm "+r.confirmed(), jobLimit); err != nil {
		return err
	}
	if !strings.Contains(out, "was done before") {
		return fmt.Errorf("nothing was resumed:\n%s", out)
	}
	r.out.Restore = out
	r.FailAt = 0 // it failed
	if err := vm.Send("poweroff\n"); err != nil {
		return err
	}
	return vm.Wait(bootLimit)
}

// restoreVanishing has the disk go away while files are written to it: the step is
// named and not in the journal. When it is back, whatever it is called then,
// the restore is resumed, and does the rest.
func (r *circle) restoreVanishing(vm *VM) error {
	if _, err := vm.Expect(`# `, bootLimit); err != nil {
		return err
	}
	start := "restore --yes --confirm " + r.confirmed()
	out, err := must(vm, start+" > /tmp/log 2>&1 & P=$!; for i in $(seq 1200); do grep -q 'restoring / ' /tmp/log && break; sleep 0.1; done; sleep 2; echo 1 > /sys/block/sda/device/delete; wait $P; S=$?; cat /tmp/log /run/mkcdrec/journal.jsonl; test $S = 1", jobLimit)
	if err != nil {
		return err
	}
	g := regexp.MustCompile(`step (\d+) failed`).FindStringSubmatch(out)
	if g == nil || strings.Contains(out, `"step":`+g[1]+`,`) {
		return fmt.Errorf("a disk that vanishes:\n%s", out)
	}
	r.Say("%s: step %s failed, as it should", r.Kind, g[1])
	if err := all(vm,
		start+" > /tmp/log 2>&1; S=$?; cat /tmp/log; test $S = 4", // it is not there
		"for h in /sys/class/scsi_host/host*; do echo '- - -' > $h/scan; done; for i in $(seq 100); do lsblk | grep -q "+r.targetSerial()+" && break; sleep 0.1; done; lsblk | grep "+r.targetSerial(),
	); err != nil {
		return err
	}
	if r.out.Restore, err = must(vm, start+" --resume 2>&1", jobLimit); err != nil {
		return err
	}
	if !strings.Contains(r.out.Restore, "was done before") {
		return fmt.Errorf("nothing was resumed:\n%s", r.out.Restore)
	}
	if err := vm.Send("poweroff\n"); err != nil {
		return err
	}
	return vm.Wait(bootLimit)
}

// restoreLUKS restores at the prompt, where identity and passphrase are asked
// for; without them nothing is touched.
func (r *circle) restoreLUKS(vm *VM) error {
	if _, err := vm.Expect(`# `, bootLimit); err != nil {
		return err
	}
	start := "restore --yes --confirm " + r.confirmed()
	if r.From == "" {
		_, err := must(vm, start+" < /dev/null > /tmp/r 2>&1; test $? = 4 && grep 'no identity given' /tmp/r && dd if=/dev/vdb of=/tmp/z bs=1M count=16 && dd if=/dev/zero of=/tmp/zz bs=1M count=16 && cmp /tmp/z /tmp/zz && rm /tmp/z /tmp/zz", jobLimit)
		if err != nil {
			return err
		}
	}
	if err := r.walk(vm); err != nil {
		return err
	}
	if err := vm.Send(start + "\n"); err != nil {
		return err
	}
	for _, s := range []struct{ prompt, answer string }{
		{`age identity \(AGE-SECRET-KEY-1...\): `, r.identity.String()},
		{`Passphrase of (secret|data) \(was on vda[34]\): `, "wrong"},
		{`that does not open (secret|data)(?s:.*)Passphrase of (secret|data) \(was on vda[34]\): `, Password},
	} {
		if _, err := vm.Expect(s.prompt, jobLimit); err != nil {
			return err
		}
		if err := vm.Send(s.answer + "\n"); err != nil {
			return err
		}
	}
	g, err := vm.Expect(`(?s)(RESTORED .*?)\r?\n[^\n]*the machine is restored|(restore: [^\n]*\n[^\n]*\n)`, jobLimit)
	if err != nil {
		return err
	}
	if g[1] == "" {
		return fmt.Errorf("the restore failed:\n%s", vm.Tail(4000))
	}
	r.out.Restore = strings.ReplaceAll(g[1], "\r", "")
	checks := []string{
		"printf " + Password + " > /tmp/k && restore mount --ro --key-file /tmp/k && restore verify > /tmp/v 2>&1; cat /tmp/v; grep 'nothing else differs' /tmp/v",
		"test -z \"$(grep -r AGE-SECRET /var/log /mnt/target/var/log/mkcdrec)\"",
		"restore umount && test ! -e /dev/mapper/secret",
		writes,
		"writes > /tmp/w1",
		"restore mount --ro --key-file /tmp/k --disks && grep 'opened by a key file' /mnt/target/data/file && test -d /mnt/target/srv/difficult && test -d /mnt/target/home/difficult && test -d /mnt/target/boot/grub",
		"restore umount && test -z \"$(ls /dev/mapper | grep -v control)\"",
		"writes > /tmp/w2; diff /tmp/w1 /tmp/w2", // read-only means not one bit
	}
	if r.From != "" {
		checks = nil // seen by circles of their own
	}
	if err := all(vm, checks...); err != nil {
		return err
	}
	if err := vm.Send("poweroff\n"); err != nil {
		return err
	}
	return vm.Wait(bootLimit)
}

// writes defines a command of the shell that prints how many writes each disk has
// had, and how many sectors were written: Documentation/block/stat.rst.
const writes = `writes() { for s in /sys/block/[sv]d*/stat /sys/block/nvme*/stat; do [ -e $s ] || continue; read -r _ _ _ _ n _ sectors _ < $s; echo $s $n $sectors; done; }`

// restoreWished restores at the prompt.
func (r *circle) restoreWished(vm *VM) error {
	if _, err := vm.Expect(`# `, bootLimit); err != nil {
		return err
	}
	if err := r.walk(vm); err != nil {
		return err
	}
	mount := "restore mount"
	if machines[r.Kind].passphrase {
		mount += " --key-file /tmp/k"
		if _, err := must(vm, "printf "+Password+" > /tmp/k", bootLimit); err != nil {
			return err
		}
	}
	out, err := must(vm, "restore --yes --confirm "+r.confirmed()+" "+r.Wishes, jobLimit)
	if err != nil {
		return err
	}
	if i := strings.Index(out, "RESTORED"); i > 0 {
		r.out.Restore = out[i:]
	}
	// The restored system, compared with its set; then with a file changed.
	type step struct{ cmd, want string }
	steps := []step{{mount + " && restore verify", "nothing else differs"}}
	if r.Kind == BIOSLVM && !r.Mate {
		// One file system alone, by an answer file; and what can't be found.
		steps = append(steps, []step{
			{"restore umount", ""},
			{"printf 'yes: true\\nconfirm: [" + r.targetSerial() + "]\\nonly: /boot\\n' > /tmp/a.yaml; restore --answers /tmp/a.yaml 2>&1", "/boot is restored"},
			{"restore --yes --confirm " + r.targetSerial() + " --only /home 2>&1; test $? = 4", "no device has the UUID"},
			{"restore extract $(cat /run/mkcdrec/set) /etc/hostname /boot/grub/grub.cfg --to /tmp/x 2>&1 && cat /tmp/x/etc/hostname && test -s /tmp/x/boot/grub/grub.cfg", r.Kind},
			{mount + " && restore verify", "nothing else differs"},
		}...)
	}
	steps = append(steps, []step{
		{writes, ""},
		{"cat /mnt/target/etc/hostname > /tmp/h; echo x >> /mnt/target/etc/hostname; restore verify; test $? = 1", "/etc/hostname: has"},
		{"cat /tmp/h > /mnt/target/etc/hostname; restore verify; test $? = 1", "/etc/hostname: time is"},
		{"restore umount", ""},
		// The same, found without its layout.
		{"writes > /tmp/w1", ""},
		{mount + " --ro --disks && for d in " + r.mounts() + "; do [ -n \"$(ls /mnt/target$d)\" ] || echo nothing in $d; done > /tmp/e; cat /tmp/e /mnt/target/etc/hostname; test ! -s /tmp/e", r.Kind},
		{"restore umount && ! grep -q /mnt/target /proc/mounts && echo closed", "closed"},
		{"writes > /tmp/w2; diff /tmp/w1 /tmp/w2 && echo not one bit was written", "not one bit"},
	}...)
	for _, c := range steps {
		out, err := must(vm, c.cmd, jobLimit)
		if err != nil {
			return err
		}
		if !strings.Contains(out, c.want) {
			return fmt.Errorf("%s: no %q in\n%s", c.cmd, c.want, out)
		}
	}
	if err := vm.Send("poweroff\n"); err != nil {
		return err
	}
	return vm.Wait(bootLimit)
}

// walk does dry runs that are killed after each of their steps, and resumed. No
// disk is touched by it.
func (r *circle) walk(vm *VM) error {
	if r.Walk == "" {
		return nil
	}
	limit := 2 * jobLimit
	dry := "restore --dry-run --no-verify "
	for _, d := range r.targets() {
		dry += "--confirm " + d.Serial + " "
	}
	whole, err := must(vm, dry+"> /tmp/w 2>&1; S=$?; cat /tmp/w; test $S = 0 && grep 'all as planned' /tmp/w && test -z \"$(ls /run/mkcdrec/dry-run/disks)\"", limit)
	if err != nil {
		return err
	}
	last := "0"
	for _, g := range regexp.MustCompile(`(?m)^ *(\d+)\. [a-z]`).FindAllStringSubmatch(whole, -1) {
		last = g[1]
	}
	steps := r.Walk
	if steps == "all" {
		steps = "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30"
	}
	// After a step that the plan has not nothing is killed: that was the last.
	out, err := must(vm, "k=0; for n in "+steps+"; do "+dry+"--kill-after $n > /tmp/w 2>&1; S=$?; [ $S = 0 ] && break; [ $S = 137 ] && "+dry+"--resume > /tmp/w 2>&1 && grep -q 'all as planned' /tmp/w || { cat /tmp/w; echo FAILED $n; break; }; k=$((k+1)); done; echo killed after $k steps", limit)
	if err != nil {
		return err
	}
	g := regexp.MustCompile(`killed after (\d+) steps`).FindStringSubmatch(out)
	if g == nil || strings.Contains(out, "FAILED") || g[1] == "0" || r.Walk == "all" && g[1] != last {
		return fmt.Errorf("a dry run that was killed does not end as it should:\n%s", out)
	}
	r.Say("%s: killed and resumed after each of %s steps", r.Kind, g[1])
	if _, err = must(vm, "test -z \"$(ls /dev/mapper | grep -v control)\"", bootLimit); err != nil {
		return err
	}
	// One more is left as it is: the restore that follows cleans up after it.
	_, err = must(vm, dry+"--kill-after 5 > /tmp/w 2>&1; test $? = 137", limit)
	return err
}

// restoreTapes starts the image that was read from the tape, with both tapes in
// their drives.
func (r *circle) restoreTapes(ctx context.Context) error {
	iso := filepath.Join(r.Work, "obdr.iso")
	if err := r.dump(ctx, "/obdr.iso", iso); err != nil {
		return err
	}
	if err := r.makeTargets(ctx); err != nil {
		return err
	}
	m := Machine{Name: r.Kind + "-tapes", CPUs: r.CPUs, Memory: 768, Log: r.log("tapes"), CDROM: iso, Extra: r.tapes.Args(), Disks: []Disk{r.target()}}
	vm, err := Start(ctx, m)
	if err != nil {
		return err
	}
	defer vm.Kill()
	if err := vm.Menu("r", bootLimit); err != nil {
		return err
	}
	if err := r.restored(vm); err != nil {
		return err
	}
	return r.tapes.Stop()
}

func (r *circle) stick() Disk {
	return Disk{File: filepath.Join(r.Work, "key.img"), Serial: "KEY01", Bus: "scsi", Removable: true}
}

// restoreKey starts the stick: as far as the prompt with the other firmware,
// and then to the end with the machine's own.
func (r *circle) restoreKey(ctx context.Context) error {
	if err := r.makeTargets(ctx); err != nil {
		return err
	}
	other := Machine{Name: r.Kind + "-key-other", Memory: 768, Log: r.log("key-other"), Disks: []Disk{r.stick()}}
	other.Disks[0].Snapshot = true
	m := Machine{Name: r.Kind + "-key", CPUs: r.CPUs, Memory: 768, Log: r.log("key"), Disks: []Disk{r.stick(), r.target()}}
	var err error
	if machines[r.Kind].uefi {
		m.UEFI, err = NVRAM(filepath.Join(r.Work, "rescue.vars"))
	} else {
		other.UEFI, err = NVRAM(filepath.Join(r.Work, "other.vars"))
	}
	if err != nil {
		return err
	}
	for _, m := range []Machine{other, m} {
		vm, err := Start(ctx, m)
		if err != nil {
			return err
		}
		defer vm.Kill()
		if err := vm.Menu("r", bootLimit); err != nil {
			return err
		}
		if _, err := vm.Expect(`medium: /dev/sda1\s+(?s:.*)backup set: /mnt/set/(?s:.*)rescue system ready`, bootLimit); err != nil {
			return err
		}
		if m.Name == r.Kind+"-key" {
			return r.restored(vm)
		}
		// Here the disk that the medium was told of is missing: nothing is done.
		if _, err := vm.Expect(`UNATTENDED RESTORE FAILED`, bootLimit); err != nil {
			return err
		}
		if err := vm.Kill(); err != nil {
			return err
		}
	}
	return nil
}

// restored waits for the unattended restore to end.
func (r *circle) restored(vm *VM) error {
	g, err := vm.Expect(`(?s)(RESTORED .*?)\r?\nthe machine is restored|UNATTENDED RESTORE FAILED`, jobLimit)
	if err != nil {
		return err
	}
	if g[1] == "" {
		return fmt.Errorf("the restore failed:\n%s", vm.Tail(4000))
	}
	r.out.Restore = strings.ReplaceAll(g[1], "\r", "")
	if _, err := vm.Expect(`UNATTENDED RESTORE DONE`, bootLimit); err != nil {
		return err
	}
	return vm.Wait(bootLimit)
}

// restoreDiscs starts the first disc, and changes discs when asked: first it
// puts in a wrong one.
func (r *circle) restoreDiscs(ctx context.Context, set string) error {
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
	if err := r.makeTargets(ctx); err != nil {
		return err
	}
	m := Machine{Name: r.Kind + "-discs", CPUs: r.CPUs, Memory: 768, Log: r.log("discs"), CDROM: discs[0], Display: filepath.Join(r.Work, "qmp"), Disks: []Disk{r.target()}}
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
func (r *circle) byHand(ctx context.Context, set string) error {
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
	vm, err := Start(ctx, m)
	if err != nil {
		return err
	}
	defer vm.Kill()
	if err := r.login(vm); err != nil {
		return err
	}
	entries := ""
	if r.entries() {
		// One entry of ours, none of before, and it is what was started.
		entries = strings.ReplaceAll(`efibootmgr -v; test $(efibootmgr | grep -c LABEL) = 1 && efibootmgr -v | grep LABEL | grep -qi $(blkid -p -s PART_ENTRY_UUID -o value ${A}1 || blkid -p -s PART_ENTRY_UUID -o value ${A}p1) && efibootmgr | grep LABEL | grep -q Boot$(efibootmgr | sed -n 's/BootCurrent: //p')`, "LABEL", "'"+r.bootLabel()+"'")
	}
	if err := all(vm,
		"A="+byID(r.targetSerial())+"; export A",
		orTrue(entries),
		"mount LABEL=SETDISK /backup",
		r.storage(r.targetSerial(), "after"),
		"/backup/bin/guest describe "+r.mounts()+" > /backup/after.json && sync",
		"test -z \"$(systemctl --failed --plain --no-legend)\"",
		r.swapFileIn(),
		orTrue(strings.ReplaceAll(r.Wished, "/dev/vda", "${A}")),
		"umount /backup",
	); err != nil {
		return err
	}
	if err := vm.Send("poweroff\n"); err != nil {
		return err
	}
	return vm.Wait(bootLimit)
}

// locked makes files immutable that a restore onto other disks has to change.
func (r *circle) locked() string {
	if !strings.HasSuffix(r.Kind, "-plain") && !strings.HasSuffix(r.Kind, "-btrfs") {
		return "true"
	}
	if r.SystemdBoot {
		return "chattr +i /etc/fstab"
	}
	return "chattr +i /etc/fstab /boot/grub/grub.cfg /boot/grub"
}

func orTrue(cmd string) string {
	if cmd == "" {
		return "true"
	}
	return cmd
}

func (r *circle) describe(ctx context.Context, name string) ([]tree.Entry, error) {
	file := filepath.Join(r.Work, name)
	if err := r.dump(ctx, "/"+name, file); err != nil {
		return nil, err
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var es []tree.Entry
	return es, json.Unmarshal(b, &es)
}

// compare sorts every difference into those that a running system makes and
// the others, of which there must be none.
func (r *circle) compare(ctx context.Context) error {
	before, err := r.describe(ctx, "before.json")
	if err != nil {
		return err
	}
	after, err := r.describe(ctx, "after.json")
	if err != nil {
		return err
	}
	if r.ByHand { // GNU tar restores no flags, and RESTORE.txt says that
		for _, es := range [][]tree.Entry{before, after} {
			for i := range es {
				es[i].Text = regexp.MustCompile(` (flags|project)=[0-9a-f]+`).ReplaceAllString(es[i].Text, "")
			}
		}
	}
	r.out.Paths = len(before)
	if r.out.Paths < 3000 {
		return fmt.Errorf("only %d paths were described: that is no Debian", r.out.Paths)
	}
	known := changes
	if strings.HasSuffix(r.Kind, "-btrfs") {
		known = append(slices.Clone(known), change{"numbers of subvolumes in fstab, which are paths now", `^/etc(/fstab(\.before-restore)?)?$`}, change{"a snapshot, left out", `^/\.snapshots/1(/home)?$`})
	}
	if r.TargetBus != "" {
		known = append(slices.Clone(known), change{"the initramfs, recreated for the other kind of disk", `^/boot(/\.|/initrd\.img-.*)?$|^/var/lib/initramfs-tools(/.*)?$`})
	}
	if r.SystemdBoot {
		known = append(slices.Clone(known),
			change{"systemd-boot's random seed, its entries and the initramfs that it loads, recreated", `^/boot/efi/(loader(/random-seed|/entries(/.*)?)?|[0-9a-f]{32}(/.*)?)$`},
			change{"the machine's id, which its entry has systemd write at each start", `^/etc(/\.|/machine-id)?$`},
			change{"the index of kernel modules, recreated by kernel-install", `^/usr/lib/modules/[^/]+(/\.|/modules\.[a-z.]+)?$`})
	}
	if r.Renewed {
		known = append(slices.Clone(known), change{"what names devices and the machine, changed for another identity", `^/etc(/\.|/(hostname|hosts|machine-id|(fstab|crypttab|default/grub)(\.before-restore)?|ssh(/\.|/ssh_host_.*)?|initramfs-tools(/.*)?))?$|^/boot(/\.|/initrd\.img-.*|/grub(/.*)?|/efi(/.*)?)?$|^/var/lib/(initramfs-tools|dhcp)(/.*)?$|^/var/lib/systemd(/.*)?$`})
	}
	if r.Firmware != "" {
		known = append(slices.Clone(known), change{"the boot loader of the other firmware", `^/boot(/\.|/efi(/.*)?|/grub(/.*)?)?$`})
	}
	if r.Wishes != "" || r.Walk != "" {
		known = append(slices.Clone(known), change{"what was wished for, and touched", `^/etc(/(hostname|(fstab|mdadm/mdadm\.conf)(\.before-restore)?|mdadm))?$|^/home/lost\+found$`})
		if r.Mate || strings.Contains(r.Wishes, "mirror") || strings.Contains(r.Wishes, "fs-type /=") {
			known = append(known, change{"initramfs and GRUB's configuration, recreated for other arrays or another type of /", `^/boot(/\.|/initrd\.img-.*|/grub/grub\.cfg)?$|^/var/lib/initramfs-tools(/.*)?$`})
		}
	}
	for _, d := range tree.Compare(before, after) {
		named := false
		for _, c := range known {
			p := d.Path
			fmt.Sscanf(d.Path, "%q", &p)
			if regexp.MustCompile(c.Pattern).MatchString(p) {
				r.out.Named[c.Name]++
				named = true
				break
			}
		}
		if !named {
			r.out.Differences = append(r.out.Differences, d)
		}
	}
	if r.Wishes != "" || r.Spoil != "" { // what is spoiled does not come back; Wished looks
		return nil
	}
	return r.compareStorage(ctx)
}

// compareStorage compares what sfdisk, blkid, dumpe2fs, xfs_info and LVM say
// of both machines' storage.
func (r *circle) compareStorage(ctx context.Context) error {
	if r.Renewed {
		return nil // the UUIDs are others
	}
	var text [2]string
	for i, n := range []string{"storage-before.txt", "storage-after.txt"} {
		file := filepath.Join(r.Work, n)
		if err := r.dump(ctx, "/"+n, file); err != nil {
			return err
		}
		b, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		text[i] = string(b)
		// Sizes, when the disk has another; and its sectors.
		if r.TargetSector > 0 {
			for _, re := range []string{`(?m)^(BLOCK_SIZE|SECTOR_SIZE|SEC_TYPE|VERSION=FAT|FSBLOCKSIZE|first-lba).*\n`, `sectsz=\d+`, `sunit=\d+ blks, lazy`, `  +`} {
				text[i] = regexp.MustCompile(re).ReplaceAllString(text[i], "")
			}
		}
		if r.TargetSize != "" || r.TargetSector > 0 {
			for _, re := range []string{`(start|size)=\s*\d+`, `(?m)^(Inode count|Reserved block count|Journal size|Total journal size|Flex block group size):.*$`, `(agcount|agsize|blocks|imaxpct)=\d+( blks)?`, `(?m)<?\d+\.\d+[gm]$`, `PART_ENTRY_(SIZE|OFFSET)=\d+`, `(FSSIZE|FSLASTBLOCK)=\d+`, `(?m)[ \t]+$`} {
				text[i] = regexp.MustCompile(re).ReplaceAllString(text[i], "")
			}
		}
		// Device names, and where a larger disk ends, are not compared.
		for _, re := range []string{`/dev/([sv]d[a-d]|nvme[0-3]n1)p?`, `(?m)^(Journal features:|UUID_SUB=|PART_ENTRY_DISK|last-lba|sector-size|device|DEVNAME|PTUUID|.*needs_recovery).*$`, ` orphan_present`, ` needs_recovery`} {
			text[i] = regexp.MustCompile(re).ReplaceAllString(text[i], "")
		}
	}
	a, b := strings.Split(text[0], "\n"), strings.Split(text[1], "\n")
	for i := range max(len(a), len(b)) {
		var x, y string
		if i < len(a) {
			x = a[i]
		}
		if i < len(b) {
			y = b[i]
		}
		if x != y {
			r.out.Differences = append(r.out.Differences, tree.Difference{Path: "storage, line " + fmt.Sprint(i+1), Before: x, After: y})
		}
	}
	return nil
}
