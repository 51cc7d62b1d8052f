//go:build vmtest

package vmtest

import (
	"context"
	"debug/elf"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mkcdrec/mkcdrec/initramfs"
)

// faults drives one machine's shell and fails the test when an answer is not
// the wanted one. It continues after that; what went wrong is said again at the
// end, where somebody who has only the end of a long log finds it.
type faults struct {
	t    *testing.T
	vm   *VM
	sins []string
}

func newFaults(t *testing.T, vm *VM) *faults {
	f := &faults{t: t, vm: vm}
	t.Cleanup(func() {
		for _, s := range f.sins {
			t.Logf("FAILED above: %s", s)
		}
	})
	return f
}

// wrong fails the test with a command and what came out of it, as far as it
// helps.
func (f *faults) wrong(cmd, what, out string) {
	f.t.Helper()
	out = Shown(out)
	m := fmt.Sprintf("%s: %s:\n%s", cmd, what, out[max(0, len(out)-4000):])
	f.sins = append(f.sins, m)
	f.t.Error(m)
}

// want runs a command and checks its exit status and that its output has all
// the words.
func (f *faults) want(code int, cmd string, words ...string) string {
	f.t.Helper()
	out, got, err := f.vm.Run(cmd, jobLimit)
	if err != nil {
		f.t.Fatal(err)
	}
	if got != code {
		f.wrong(cmd, fmt.Sprintf("exit status %d; want %d", got, code), out)
	}
	for _, w := range words {
		if !strings.Contains(out, w) {
			f.wrong(cmd, fmt.Sprintf("no %q in", w), out)
		}
	}
	return out
}

// TestFaults breaks things on the way, on a real machine: a full destination,
// kills, what can't be covered, bad configuration while backing up; wrong,
// small, busy and unconfirmed disks, a damaged set, and kills while restoring.
//
// Disks. Source machine: vda (bios-lvm), vdb (the set's). Rescue system: vda
// (the set's), vdb (6 GiB, RSTBIOS01, the target), vdc (1 GiB, SMALL01).
func TestFaults(t *testing.T) {
	long(t)
	ctx, cancel := context.WithTimeout(context.Background(), 40*time.Minute)
	defer cancel()
	r := Circle{Kind: BIOSLVM, Work: workDir(t), Say: t.Logf}.new()
	r.Mkcdrec, r.Guest = programs(t)
	if err := r.prepare(ctx); err != nil {
		t.Fatal(err)
	}
	if !t.Run("backup", func(t *testing.T) { faultsBackup(ctx, t, r) }) {
		return
	}
	t.Run("restore", func(t *testing.T) { faultsRestore(ctx, t, r) })
}

// sourceWith starts the machine from a copy of its disk, beside that of the set and blank ones with
// these serial numbers, on a bus if that is not "", and logs in.
func sourceWith(ctx context.Context, t *testing.T, r *circle, name, size, bus string, serials ...string) *faults {
	t.Helper()
	var more []Disk
	for _, s := range serials {
		d := Disk{File: filepath.Join(r.Work, s+".img"), Serial: s, Bus: bus}
		if err := command(ctx, "truncate", "-s", size, d.File); err != nil {
			t.Fatal(err)
		}
		more = append(more, d)
	}
	return startSource(ctx, t, r, Machine{Name: name}, more...)
}

// startSource starts m with a copy of the source machine's disk, that of the set and more, and logs in.
func startSource(ctx context.Context, t *testing.T, r *circle, m Machine, more ...Disk) *faults {
	t.Helper()
	disk := filepath.Join(r.Work, "source.qcow2")
	if err := command(ctx, "qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", r.src.Disk, disk); err != nil {
		t.Fatal(err)
	}
	m.Log = filepath.Join(r.Work, "source.log")
	m.Disks = append([]Disk{{File: disk, Serial: r.src.Serial}, {File: r.setDisk, Serial: "SETDISK01"}}, more...)
	vm, err := Start(ctx, m)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { vm.Kill() })
	if err := vm.Login(Password, bootLimit); err != nil {
		t.Fatal(err)
	}
	return newFaults(t, vm)
}

func faultsBackup(ctx context.Context, t *testing.T, r *circle) {
	f := sourceWith(ctx, t, r, "faults-source", "256M", "scsi", "SICK01", "SICK02")
	f.want(0, "mkdir -p /backup /small && mount LABEL=SETDISK /backup && mount -t tmpfs -o size=60m none /small && cp /backup/bin/mkcdrec /usr/local/bin/")
	// The big part of this machine only makes the test long.
	f.want(0, `printf 'exclude:\n  - /usr/share/*\n  - /usr/lib/x86_64-linux-gnu/perl*\n  - /usr/lib/grub/x86_64-efi*\n  - /usr/lib/modules/*\nexclude_devices:\n  - /backup\n' > /etc/mkcdrec.yaml`)

	t.Log("half of an array gone, and of a volume group; LUKS that is closed")
	// udev looks at what changes, and holds it for a moment.
	f.want(0, `again() { for i in $(seq 50); do "$@" && return; sleep 0.2; done; return 1; }`)
	// Which of the two is sda is the kernel's choice, made again at each start.
	sick := strings.TrimSpace(f.want(0, "A="+byID("SICK01")+" B="+byID("SICK02")+"; basename $A"))
	for _, c := range []string{
		"printf test > /tmp/p; for d in $A $B; do sgdisk -n1:0:+50M -n2:0:+50M -n3:0:+50M $d; done; udevadm settle",
		"cryptsetup luksFormat -q --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --key-file /tmp/p ${A}1",
		"mdadm --create --run --assume-clean --metadata=1.2 /dev/md9 --level=1 --raid-devices=2 ${A}2 ${B}2 && mkfs.ext4 -q /dev/md9 && mkdir /srv/half /srv/gone && mount /dev/md9 /srv/half",
		"vgcreate -q sick ${A}3 ${B}3 && lvcreate -q -y -i 2 -L 64m -n data sick && mkfs.ext4 -q /dev/sick/data && mount /dev/sick/data /srv/gone",
		"mkcdrec -n path /backup > /tmp/n 2>&1; S=$?; grep -v '^/' /tmp/n; test $S = 3 && test $(grep -c " + sick + " /tmp/n) = 1",
		"echo 1 > /sys/block/$(basename $B)/device/delete; date > /srv/half/x; sync /srv/half/x; again grep '_\\]\\|\\[_' /proc/mdstat",
	} {
		f.want(0, c)
	}
	f.want(3, "mkcdrec -n path /backup 2>&1 > /tmp/n", sick+"1: LUKS device that is not open", "md9: RAID array is degraded: 1 of 2 members", "sick: volume group with missing physical volumes", "/srv/gone")
	f.want(0, "again umount /srv/half && again umount /srv/gone && again mdadm --stop /dev/md9 && again mdadm --zero-superblock ${A}2 && dmsetup remove --retry sick-data && again wipefs -q -a ${A}1 ${A}3 && sgdisk -Z $A && udevadm settle && again blockdev --rereadpt $A && udevadm settle && again dmsetup create mpatha --uuid mpath-SICK01 --table \"0 524288 linear $A 0\" && mkfs.ext4 -q /dev/mapper/mpatha && mount /dev/mapper/mpatha /srv/gone")
	f.want(3, "mkcdrec -n path /backup 2>&1 > /tmp/n", sick+": it is a path to the multipath device mpatha", "/srv/gone: ext4 on dm-", "on "+sick+", is left alone")
	f.want(0, "again umount /srv/gone && rmdir /srv/half /srv/gone && dmsetup remove --retry mpatha && echo 1 > /sys/block/$(basename $A)/device/delete && udevadm settle && again test ! -e /sys/block/$(basename $A) && ! lsblk | grep sd")

	f.want(0, "mkcdrec test", "ok", "kernel-config", "loader-bios", "loader-uefi", "shim and GRUB, signed")
	f.want(0, "mkcdrec --json test", `"event":"result"`)
	f.want(0, "mkcdrec layout show", "vg0", "home-dirs", "BIOS boot", "SRCBIOS01")

	t.Log("wrong usage and bad configuration")
	f.want(2, "mkcdrec path", "no directory")
	f.want(2, "mkcdrec nonsense", "unknown command")
	f.want(1, "mkcdrec path /no/such/dir", "/no/such/dir")
	f.want(2, `printf 'exclude: []\nnosuch: 1\n' > /tmp/c.yaml; mkcdrec -c /tmp/c.yaml path /backup`, "/tmp/c.yaml", "[2:1]", "nosuch")
	f.want(4, "mkcdrec path /root", "root file system")

	t.Log("the destination is full")
	f.want(1, "mkcdrec path /small", "no space left", "hint")
	f.want(0, `test -z "$(ls -A /small)"`)

	t.Log("an image that is larger than its medium")
	f.want(1, "mkcdrec -q rescue -o /root/r.iso --medium-size 20M", "the medium holds 20971520", "boot/initrd.img")
	f.want(0, "test ! -e /root/r.iso && ! ls -d /root/.mkcdrec-iso-* 2>/dev/null")
	f.want(2, "mkcdrec rescue --medium-size nonsense", "medium_size")

	t.Log("no kernel")
	f.want(0, "mv /boot/vmlinuz-* /tmp/")
	f.want(1, "mkcdrec path /backup", "cannot find the image of the running kernel", "--kernel FILE")
	f.want(1, "mkcdrec test", "error", "kernel")
	f.want(0, "head -c 1000000 /tmp/vmlinuz-* > /tmp/cut && head -c 100000 /bin/true > /tmp/elf && dd if=/dev/zero of=/tmp/zero bs=1k count=64 2>/dev/null")
	f.want(1, "mkcdrec rescue --kernel /tmp/cut", "it is cut off")
	f.want(1, "mkcdrec rescue --kernel /tmp/elf", "ELF file without a setup header")
	f.want(1, "mkcdrec rescue --kernel /tmp/zero", "not a bzImage")
	f.want(1, "mkdir -p /tmp/mods && mkcdrec rescue --kernel /tmp/vmlinuz-* --modules /tmp/mods", "modules.dep")
	f.want(0, "mkcdrec -q rescue -o /root/r.iso --kernel /tmp/vmlinuz-* && rm /root/r.iso && mv /tmp/vmlinuz-* /boot/")

	t.Log("stopped by SIGTERM, and by SIGKILL")
	const wait = `for i in $(seq 600); do ls /backup/.mkcdrec-partial-*/vg0-root* >/dev/null 2>&1 && break; sleep 0.1; done`
	f.want(1, "mkcdrec -q path /backup & P=$!; "+wait+"; kill -TERM $P; wait $P")
	f.want(0, `test -z "$(ls -A /backup | grep -v -e bin -e yaml -e lost+found)"`)
	f.want(137, "mkcdrec -q path /backup & P=$!; "+wait+"; kill -KILL $P; wait $P")
	f.want(0, "ls -d /backup/.mkcdrec-partial-*")
	f.want(1, "mkcdrec list /backup", "no manifest.json")

	t.Log("something that can't be covered")
	f.want(0, "lvcreate -q -y -L 32m -n spare vg0 && mkfs.ext4 -q /dev/vg0/spare")
	f.want(3, "mkcdrec -q path /backup", "vg0/spare", "not mounted")
	f.want(0, `test -z "$(ls -d /backup/.mkcdrec-partial-* 2>/dev/null)"`) // the killed run's is gone
	f.want(1, "lvremove -q -y vg0/spare; mkcdrec layout diff /backup", "- filesystems[vg0/spare]")
	f.want(0, "rm -rf /backup/"+BIOSLVM+"-*; lvcreate -q -y -L 32m -n spare vg0 && mkfs.ext4 -q /dev/vg0/spare; printf '  - vg0/spare\n' >> /etc/mkcdrec.yaml")
	f.want(0, "mkcdrec -n path /backup > /tmp/planned; grep -q '^/etc/fstab$' /tmp/planned && ! grep -q '^/usr/share/' /tmp/planned && grep -qx /usr/share /tmp/planned", "left out: vg0/spare")
	f.want(0, "mkcdrec -q path --append '"+KernelWords+"' /backup")
	f.want(0, "lvremove -q -y vg0/spare; mkcdrec list -a /backup > /tmp/saved; diff <(sort /tmp/planned) <(sort /tmp/saved)")
	f.want(0, "mkcdrec -q verify /backup && cd /backup/"+BIOSLVM+"-* && sha256sum --quiet -c SHA256SUMS; R=$?; cd /; [ $R = 0 ]")
	f.want(0, "mkcdrec extract -C /tmp/x /backup /etc/fstab /boot/grub && cmp /tmp/x/etc/fstab /etc/fstab && diff -r /tmp/x/boot/grub /boot/grub")
	f.want(1, "mkcdrec extract -C /tmp/x /backup /no/such", "nothing in the set")
	f.want(0, "cp /lib/modules/$(uname -r)/kernel/drivers/scsi/scsi_debug.ko /backup/bin/ && umount /backup") // the rescue system has it not
	if err := f.vm.Send("poweroff\n"); err != nil {
		t.Fatal(err)
	}
	if err := f.vm.Wait(bootLimit); err != nil {
		t.Fatal(err)
	}
}

// noSecrets looks into the medium's initramfs: root's password hash, shadow
// files and private keys of the source machine must not be in it.
func noSecrets(ctx context.Context, t *testing.T, iso, dir string) {
	t.Helper()
	if st, err := os.Stat(iso); err != nil {
		t.Fatal(err)
	} else if st.Mode().Perm()&0o077 != 0 && strings.HasSuffix(iso, "-made.iso") {
		t.Errorf("the image has mode %v", st.Mode())
	}
	initrd := filepath.Join(dir, "initrd.img")
	os.Remove(initrd)
	if err := command(ctx, "xorriso", "-osirrox", "on", "-indev", iso, "-extract", "/boot/initrd.img", initrd); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(initrd)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	key := regexp.MustCompile(`-----BEGIN [A-Z ]*PRIVATE KEY-----\s+[A-Za-z0-9+/=]{20}`)
	// With the characters that crypt(5) has: packed files hold anything.
	hash := regexp.MustCompile(`:\$(y|6|5|1|2[aby])\$[A-Za-z0-9./$=,]{10,}:`)
	files := 0
	err = initramfs.Walk(f, func(p string, b []byte) error {
		files++
		if key.Match(b) {
			t.Errorf("%s holds a private key", p)
		}
		if hash.Match(b) {
			t.Errorf("%s holds a password's hash", p)
		}
		if n := filepath.Base(p); strings.HasPrefix(n, "shadow") || strings.HasPrefix(n, "gshadow") || strings.HasPrefix(n, "ssh_host_") || strings.HasPrefix(n, "id_") {
			t.Errorf("%s is in the rescue system", p)
		}
		return nil
	})
	if err != nil || files < 50 {
		t.Errorf("%d files looked at: %v", files, err)
	}
}

func faultsRestore(ctx context.Context, t *testing.T, r *circle) {
	set, err := r.setDir(ctx)
	if err != nil {
		t.Fatal(err)
	}
	iso := filepath.Join(r.Work, "rescue.iso")
	if err := r.dump(ctx, "/"+set+"/rescue.iso", iso); err != nil {
		t.Fatal(err)
	}
	noSecrets(ctx, t, iso, r.Work)
	small := filepath.Join(r.Work, "small.qcow2")
	for file, size := range map[string]string{r.target().File: "8G", small: "1G"} {
		if err := command(ctx, "qemu-img", "create", "-q", "-f", "qcow2", file, size); err != nil {
			t.Fatal(err)
		}
	}
	vm, err := Start(ctx, Machine{Name: "faults-rescue", Memory: 768, CDROM: iso, Log: filepath.Join(r.Work, "rescue.log"), Disks: []Disk{{File: r.setDisk, Serial: "SETDISK01"}, r.target(), {File: small, Serial: "SMALL01"}}})
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Kill()
	if err := vm.Menu("r", bootLimit); err != nil {
		t.Fatal(err)
	}
	if _, err := vm.Expect(`backup set: /mnt/set/`+BIOSLVM, bootLimit); err != nil {
		t.Fatal(err)
	}
	if _, err := vm.Expect(`rescue system ready(?s:.*)# `, bootLimit); err != nil {
		t.Fatal(err)
	}
	f := newFaults(t, vm)
	f.want(0, "PS1=; bind 'set enable-bracketed-paste off'; dmesg -n 1 2>/dev/null; true")

	t.Log("Ctrl-C, history, the applets")
	if err := vm.Send("sleep 1000\n"); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second) // until the command runs; nothing shows it
	if err := vm.Send("\x03"); err != nil {
		t.Fatal(err)
	}
	f.want(0, "history | grep -q 'restore --plan'")
	f.want(0, "/bbin/sh -c 'echo own shell $((6*7))'", "own shell 42")
	f.want(0, "/bbin/lsblk", "SETDISK01", "RSTBIOS01", "ext4")
	f.want(0, "! netstat -l 2>/dev/null | grep -q LISTEN && [ ! -e /etc/shadow ] && [ ! -e /etc/ssh ]")

	sum := "head -c 4194304 /dev/vdb | sha256sum"
	before := f.want(0, sum)
	refused := func(code int, cmd string, words ...string) {
		t.Helper()
		f.want(code, cmd, words...)
		if now := f.want(0, sum); now != before {
			t.Fatalf("%s: the target disk was written to", cmd)
		}
	}
	t.Log("refusals")
	refused(0, "restore --plan", "OVERWRITTEN", "RSTBIOS01", "Other sizes than before", "make LVM volume group vg0")
	refused(4, "restore --map vda=SMALL01", "too small", "vg0/root (ext4 on /)", "least", "needed", "there")
	refused(4, "restore --map vda=SETDISK01", "it holds the backup set")
	refused(4, "restore --map vda=NOSUCH", "0 disks")
	refused(4, "restore --yes", "is not among the disks that were confirmed")
	refused(4, "restore --yes --confirm SMALL01", "too small")
	refused(4, "echo wrong | restore", "does not confirm /dev/vdb", "nothing was changed")
	refused(4, "restore </dev/null", "nobody confirmed")
	refused(1, "mkdir /tmp/empty; restore /tmp/empty", "no manifest.json")
	refused(2, "restore a b", "one set")

	t.Log("a disk that is smaller than it says: after 64 MiB it begins again")
	f.want(0, "modprobe scsi_mod; insmod /mnt/set/bin/scsi_debug.ko dev_size_mb=64 virtual_gb=8 && sleep 1 && lsblk", "sda", "  8G ")
	f.want(4, "restore --plan </dev/null", "it is not clear which disk", "possible; say --map vda=sda", "no disk chosen")
	f.want(0, "printf 'sdq\\nRSTBIOS01\\n' | restore --plan", "Which disk takes the place of vda", "is not one of them", "scsi_debug", "OVERWRITTEN", "RSTBIOS01")
	f.want(1, "S=$(LC_ALL=C sed 's/[^0-9]//g' /sys/block/sda/device/vpd_pg80); restore --map vda=$S --yes --confirm $S", "step 1 failed", "/dev/sda did not keep what was written at byte 0", "the disk is broken, or smaller than it reports")
	f.want(0, "test -z \"$(grep '\"step\":1,' /run/mkcdrec/journal.jsonl)\" && rmmod scsi_debug && rm /run/mkcdrec/journal.jsonl")

	t.Log("a damaged set")
	f.want(0, "S=$(cat /run/mkcdrec/set); A=$S/vg0-home%2Ddirs._home.tar.zst; cp $A /tmp/a; printf X | dd of=/tmp/a bs=1 seek=100 conv=notrunc 2>/dev/null; mount --bind /tmp/a $A")
	refused(1, "restore --yes --confirm RSTBIOS01", "damaged", "vg0-home%2Ddirs._home.tar.zst", "SHA-256")
	f.want(0, "umount $A; head -c 300 $A > /tmp/b; mount --bind /tmp/b $A")
	refused(1, "restore --yes --confirm RSTBIOS01", "300 bytes, not")
	f.want(0, "umount $A; mount --bind /tmp/empty $S")
	refused(1, "restore --yes --confirm RSTBIOS01", "no manifest.json")
	f.want(0, "umount $S")

	t.Log("a target in use")
	f.want(0, "mke2fs -q -F -t ext4 /dev/vdb && mkdir -p /tmp/m && mount -t ext4 /dev/vdb /tmp/m")
	f.want(4, "restore --yes --confirm RSTBIOS01", "/dev/vdb is mounted on /tmp/m")
	f.want(0, "umount /tmp/m; dd if=/dev/zero of=/dev/vdb bs=1M count=4 2>/dev/null; lvm pvcreate -q -y -ff /dev/vdb && lvm vgcreate -q old /dev/vdb && lvm lvcreate -q -y -L 100m -n data old")
	f.want(4, "restore --yes --confirm RSTBIOS01", "in use by LVM (old/data)")
	f.want(0, "lvm vgremove -q -y -f old; lvm pvremove -q -y /dev/vdb")

	t.Log("killed while restoring, then started again")
	const wait = `for i in $(seq 600); do grep -q 'restoring / ' /tmp/log && break; sleep 0.1; done; sleep 2`
	f.want(137, "restore --yes --confirm RSTBIOS01 >/tmp/log 2>&1 & P=$!; "+wait+"; kill -KILL $P; wait $P")
	f.want(0, "grep -q /mnt/target /proc/mounts")
	f.want(1, "restore --yes --confirm RSTBIOS01 >/tmp/log 2>&1 & P=$!; : > /tmp/log; "+wait+"; kill -TERM $P; wait $P")
	f.want(0, "restore --resume --yes --confirm RSTBIOS01", "was done before", "the machine is restored")
	f.want(0, "! grep -q /mnt/target /proc/mounts")
	// And by hand, from the beginning: the serial number is typed.
	if err := vm.Send("restore; echo \"STA\"\"TUS=$?\"\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := vm.Expect(`type its serial number \(RSTBIOS01\): `, jobLimit); err != nil {
		t.Fatal(err)
	}
	if err := vm.Send("RSTBIOS01\n"); err != nil {
		t.Fatal(err)
	}
	if g, err := vm.Expect(`STATUS=(\d+)\r?\n`, jobLimit); err != nil || g[1] != "0" {
		t.Fatalf("restore confirmed by hand: %v %v", g, err)
	}
	t.Log("repair of what was restored")
	f.want(0, "restore mount", "the system is open")
	f.want(0, "chroot /mnt/target /bin/sh -c 'test -d /proc/1 && test -c /dev/null && test -d /sys/block && cat /etc/hostname'", BIOSLVM)
	f.want(0, "test -s /mnt/target/var/log/mkcdrec/restore.log && grep -q 'making the system start' /mnt/target/var/log/mkcdrec/restore.log && test -s /mnt/target/var/log/mkcdrec/dmesg")
	f.want(0, "restore umount && ! grep -q /mnt/target /proc/mounts && lvm vgs --noheadings -o name")
	f.want(0, "restore mount --ro /mnt/set/"+BIOSLVM+"-* && ! touch /mnt/target/x; restore umount")
	f.want(0, "restore mount /dev/vdb && grep -q /mnt/target/home /proc/mounts && test -s /mnt/target/boot/grub/grub.cfg && test -c /mnt/target/dev/null && cat /mnt/target/etc/hostname && restore umount", BIOSLVM)
	f.want(1, "restore mount /dev/vda", "none of /dev/vda (ext4) has an /etc/fstab")
	f.want(1, "restore mount /dev/vdx", "there is no such disk")
	f.want(2, "restore mount --disks /mnt/set", "one set, or disks")
	t.Log("tools of a repairer")
	f.want(0, "echo $BASH_VERSION | grep ^5 && head -c 15 /usr/bin/less && less --version && test $(wc -c < /usr/bin/less) -gt 99999 && less /etc/hostname | cat", "#!/bbin/comfort", "less 590", "rescue-")
	f.want(0, "mount -o bind /dev/null /mnt/medium/boot/comfort.img && diff --version; umount /mnt/medium/boot/comfort.img; diff --version", "diff (GNU diffutils)")
	f.want(0, "/bbin/help | grep -q 'restore mount' && test $(/bbin/help | wc -l) -le 25")
	f.want(0, "/bbin/top -n 1 | grep -q init && keymap dump > /tmp/k && sed 's/^{/{ /' /tmp/k > /tmp/k2 && keymap load /tmp/k2 && keymap dump > /tmp/k3 && cmp /tmp/k3 /tmp/k")
	f.want(0, "for p in ed editor less more tar dd ip ping wget scp lsblk blkid mount e2fsck hexdump grep find ps top dmesg kexec chroot strace sshd; do command -v $p >/dev/null || { echo missing: $p; exit 1; }; done")
	f.want(0, "grep -q 'rescue system ready' /var/log/mkcdrec.log && dmesg | head -1 >/dev/null; hwclock >/dev/null; echo done", "done")
	if err := vm.Send("poweroff\n"); err != nil {
		t.Fatal(err)
	}
	if err := vm.Wait(bootLimit); err != nil {
		t.Fatal(err)
	}
	// By our exclude rules it is not complete: the boot loader, the kernel and
	// the initramfs are what can be seen to work.
	vm, err = Start(ctx, Machine{Name: "faults-restored", Log: filepath.Join(r.Work, "restored.log"), Disks: []Disk{r.target()}})
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Kill()
	if _, err := vm.Expect(`Begin: Running /scripts/init-bottom|Run /init as init process`, bootLimit); err != nil {
		t.Error(err)
	}
}

// TestBinary: static, and the same bytes from another directory.
func TestBinary(t *testing.T) {
	t.Parallel()
	exe, _ := programs(t)
	f, err := elf.Open(exe)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			t.Errorf("%s is not static: it has a %v", exe, p.Type)
		}
	}
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	dir := filepath.Join(t.TempDir(), "elsewhere")
	if err := command(ctx, "cp", "-a", root, dir); err != nil {
		t.Fatal(err)
	}
	if err := command(ctx, "make", "-s", "-C", dir, "build"); err != nil {
		t.Fatal(err)
	}
	if err := command(ctx, "cmp", exe, dir+"/bin/mkcdrec"); err != nil {
		t.Error(err)
	}
}

// TestLonger is what takes long and is no cell of the matrix. Scenarios of the
// same machine share its backup.
func TestLonger(t *testing.T) {
	onlyAll(t)
	all := map[string]Circle{
		"BIOS to UEFI":     {Kind: BIOSLVM, Firmware: "uefi", Wishes: "--firmware uefi", Wished: `test -d /sys/firmware/efi && findmnt -no FSTYPE /boot/efi | grep -x vfat && grep -E '[[:space:]]/boot/efi[[:space:]]' /etc/fstab && sfdisk -d /dev/vda | grep -i c12a7328`},
		"UEFI to BIOS":     {Kind: UEFIPlain, Firmware: "bios", Wishes: "--firmware bios", Wished: `! test -d /sys/firmware/efi && sfdisk -d /dev/vda | grep -i 21686148`},
		"MBR to UEFI":      {Kind: BIOSPlain, Firmware: "uefi", Wishes: "--firmware uefi", Wished: `test -d /sys/firmware/efi && sfdisk -d /dev/vda | grep 'label: gpt'`},
		"to a mirror":      {Kind: BIOSLVM, Mate: true, Wishes: "--mirror vda", Wished: `lsblk -no TYPE -s /dev/vg0/root | grep raid1 && mdadm --detail --scan | grep -c ^ARRAY | grep -x 2 && findmnt -no SOURCE /boot | grep /dev/md && grep -c ^ARRAY /etc/mdadm/mdadm.conf`},
		"to a mirror UEFI": {Kind: UEFIPlain, Mate: true, Wishes: "--mirror vda", Wished: `findmnt -no SOURCE / | grep /dev/md && findmnt -no SOURCE /boot/efi | grep /dev/md && findmnt -no SOURCE /srv/exchange | grep /dev/md`},
		"from a mirror":    {Kind: BIOSMD, Wishes: "--unmirror", Wished: `findmnt -no SOURCE / | grep -x '/dev/vd[a-c]2' && findmnt -no SOURCE /srv/old | grep -x '/dev/vd[a-c]8' && mdadm --detail /dev/md/parity`},
		"512 to 4Kn":       {Kind: UEFILVM, TargetSector: 4096, TargetSize: machines[UEFILVM].larger, Wishes: "--no-verify", Wished: `blockdev --getss /dev/vda | grep -x 4096 && xfs_info /home | grep sectsz=4096`},
		// / of another type: the initramfs is recreated, and the kernel is told.
		"other types":   {Kind: BIOSLVM, Wishes: "--fs-type /=btrfs --fs-type /home=ext4", Wished: `findmnt -no FSTYPE / | grep -x btrfs && findmnt -no FSTYPE /home | grep -x ext4 && btrfs device stats --check /`},
		"disk fails":    {Kind: BIOSLVM, FailAt: 200 << 20},
		"disk vanishes": {Kind: BIOSLVM, TargetBus: "scsi", Vanish: true},
		// The devices are opened by the old passphrase and the key file, with a header
		// that is new.
		"new LUKS": {Kind: BIOSLUKS, Wishes: "--new-luks --key-file /tmp/k", Wished: `cryptsetup open --test-passphrase --key-file /etc/secret.key /dev/vda4 && findmnt /data && ! cryptsetup luksDump /dev/vda3 | grep mkcdrec-test`},
		// Which restore mount opens, too.
		"btrfs sizes":  {Kind: BIOSBtrfs, Wishes: "--keep-sizes"},
		"md steps":     {Kind: BIOSMD, Walk: "all"},
		"btrfs steps":  {Kind: UEFIBtrfs, Walk: "all"},
		"luks steps":   {Kind: BIOSLUKS, Walk: "all"},
		"by hand":      {Kind: BIOSLVM, ByHand: true},
		"by hand UEFI": {Kind: UEFIPlain, ByHand: true},
	}
	// A machine whose mirrors have lost a half is restored like that, and starts.
	const spoil = "for m in md0:2 md/ten:7; do mdadm /dev/${m%:*} --fail ${B}${m#*:} --remove ${B}${m#*:} || exit 1; done"
	const spoiled = "mdadm --detail /dev/md0 | grep 'State : .*degraded' && mdadm --detail /dev/md/ten | grep 'State : .*degraded' && mdadm --detail /dev/md4 | grep -E 'State : (clean|active) ?$'"
	t.Run("degraded", func(t *testing.T) {
		t.Parallel()
		runCircle(t, Circle{Kind: BIOSMD, Spoil: spoil, Wished: spoiled})
	})
	// Another type of / and another bus: the copy of the initramfs that systemd-boot
	// loads is recreated, and its entry has the old kernel command line.
	t.Run("systemd-boot", func(t *testing.T) {
		t.Parallel()
		runCircle(t, Circle{Kind: UEFIPlain, TargetBus: "nvme", Loader: SystemdBoot, Wishes: "--fs-type /=btrfs", Wished: `findmnt -no FSTYPE / | grep -x btrfs && bootctl status | grep 'Product: systemd-boot' && ! test -e /boot/grub && V=$(uname -r) && cmp /boot/initrd.img-$V /boot/efi/*/$V/initrd.img-$V && cat /boot/efi/loader/entries/*$V.conf && grep '^options .*root=UUID=' /boot/efi/loader/entries/*$V.conf && ! grep -r mkcdrec /boot/efi/loader/entries && test -s /boot/efi/EFI/BOOT/BOOTX64.EFI`})
	})
	kinds := map[string][]string{}
	for name, c := range all {
		kinds[c.Kind] = append(kinds[c.Kind], name)
	}
	for kind, names := range kinds {
		slices.Sort(names)
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			from, shared := "", workDir(t)
			for _, name := range names {
				t.Run(name, func(t *testing.T) {
					c := all[name]
					if from == "" { // the first one that is not left out
						from = backUp(t, Circle{Kind: kind, Wishes: "its medium waits for somebody", Work: shared})
					}
					c.From = from
					runCircle(t, c)
				})
			}
		})
	}
}

// backUp makes the backup that other circles restore.
func backUp(t *testing.T, c Circle) string {
	t.Helper()
	c.Mkcdrec, c.Guest = programs(t)
	c.Say = t.Logf
	ctx, cancel := context.WithTimeout(context.Background(), 40*time.Minute)
	defer cancel()
	if err := c.BackUp(ctx); err != nil {
		t.Fatal(err)
	}
	return c.Work
}

// TestMatrix fills docs/MATRIX.md: every machine is backed up once, and restored
// onto disks of all columns. A cell alone is -run 'TestMatrix/uefi-md/60_%'.
func TestMatrix(t *testing.T) {
	onlyAll(t)
	for name, k := range machines {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			from := backUp(t, Circle{Kind: name, Work: workDir(t)})
			bus := "scsi"
			if k.uefi {
				bus = "nvme"
			}
			for _, cell := range []struct{ column, size, bus string }{{"same", "", ""}, {"60 %", k.smaller, ""}, {"200 %", k.larger, ""}, {"other bus", "", bus}} {
				t.Run(cell.column, func(t *testing.T) {
					runCircle(t, Circle{Kind: name, From: from, TargetSize: cell.size, TargetBus: cell.bus})
				})
			}
		})
	}
}
