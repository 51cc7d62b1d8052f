package vmtest

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

//go:embed install.sh
var installScript string

// Password is root's in the source machines.
const Password = "test"

// packages of the source machines: a small Debian 12 with all that a backup
// of it needs.
const packages = "linux-image-cloud-amd64,initramfs-tools,zstd,systemd,systemd-sysv,udev,kmod,lvm2,e2fsprogs,xfsprogs,dosfstools,fdisk,gdisk,mdadm,btrfs-progs,cryptsetup-bin,cryptsetup,cryptsetup-initramfs,thin-provisioning-tools,ntfs-3g,exfatprogs," +
	"grub-common,grub2-common,grub-pc-bin,grub-efi-amd64-bin,grub-efi-amd64-signed,shim-signed,efibootmgr,systemd-boot,isolinux,syslinux-common,acl,attr,libcap2-bin,iproute2,less,procps,bash,util-linux-extra,login,passwd"

const setupHook = `#!/bin/sh
set -e
mkdir -p "$1/etc/initramfs-tools/conf.d"
printf 'MODULES=list\nCOMPRESS=zstd\nRESUME=none\nFSTYPE=ext4\n' > "$1/etc/initramfs-tools/conf.d/small"
# The arrays of the machine that has some: their names are known in its initramfs.
mkdir -p "$1/etc/mdadm"
printf '%s\n' 'HOMEHOST <system>' 'MAILADDR root' 'ARRAY /dev/md0 metadata=1.2 UUID=6d6b6364:72656300:00000000:00000001' 'ARRAY /dev/md1 metadata=1.2 UUID=6d6b6364:72656300:00000000:00000002' 'ARRAY /dev/md/parity UUID=6d6b6364:72656300:00000000:00000003' 'ARRAY /dev/md/ten UUID=6d6b6364:72656300:00000000:00000004' 'ARRAY /dev/md4 UUID=6d6b6364:72656300:00000000:00000005' > "$1/etc/mdadm/mdadm.conf"
# Drivers of disks are loaded at once; the rest is there for whoever asks for it, as in
# any Debian: each one takes a second of an emulated machine's start.
printf '%s\n' virtio_pci virtio_blk virtio_scsi sd_mod nvme ext4 dm-mod virtio_rng > "$1/etc/initramfs-tools/modules"
mkdir -p "$1/etc/initramfs-tools/hooks"
cat > "$1/etc/initramfs-tools/hooks/more-drivers" <<'F'
#!/bin/sh
[ "$1" = prereqs ] && exit 0
. /usr/share/initramfs-tools/hook-functions
for m in sr_mod raid0 raid1 raid10 raid456 xfs btrfs dm-crypt xts aes sha256 algif_skcipher vfat nls_ascii nls_cp437 nls_iso8859-1 isofs efivarfs; do manual_add_modules $m; done
F
chmod 755 "$1/etc/initramfs-tools/hooks/more-drivers"
`

// luksUUID is that of the machine with LUKS: its initramfs is made here, where
// it takes seconds, and in the machine it would take minutes. That of a machine
// with btrfs is, too: the others need not wait for the speed tests of its RAID.
const luksUUID = "6d6b6364-7265-4c55-8b53-000000000001"

const customizeHook = `#!/bin/sh
set -e
# Without its program nothing loads btrfs at the start.
B="$1/usr/share/initramfs-tools/hooks/btrfs"
chroot "$1" sh -c 'mkinitramfs -o /boot/btrfs.img $(ls /lib/modules)'
chmod -x "$B"
chroot "$1" update-initramfs -u
cat > "$1/etc/initramfs-tools/hooks/zz-secret" <<'F'
#!/bin/sh
[ "$1" = prereqs ] && { echo cryptroot; exit 0; }
mkdir -p "$DESTDIR/cryptroot"
echo 'secret UUID=` + luksUUID + ` none luks,discard,initramfs' > "$DESTDIR/cryptroot/crypttab"
F
chmod 755 "$1/etc/initramfs-tools/hooks/zz-secret"
echo CRYPTSETUP=y >> "$1/etc/cryptsetup-initramfs/conf-hook"
chroot "$1" sh -c 'mkinitramfs -o /boot/luks.img $(ls /lib/modules)'
rm "$1/etc/initramfs-tools/hooks/zz-secret"
chmod +x "$B"
echo root:` + Password + ` | chroot "$1" chpasswd
: > "$1/etc/machine-id"
for u in apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer dpkg-db-backup.timer systemd-networkd-wait-online.service systemd-timesyncd.service getty@tty1.service getty-static.service \
  lvm2-monitor.service systemd-binfmt.service proc-sys-fs-binfmt_misc.automount dev-hugepages.mount dev-mqueue.mount sys-kernel-debug.mount sys-kernel-tracing.mount sys-fs-fuse-connections.mount; do
  ln -sf /dev/null "$1/etc/systemd/system/$u"
done
# On a busy host a device may take longer to appear than the 90 seconds of systemd.
mkdir -p "$1/etc/systemd/system.conf.d"
printf '[Manager]\nDefaultDeviceTimeoutSec=15min\nDefaultTimeoutStartSec=15min\n' > "$1/etc/systemd/system.conf.d/slow.conf"
`

// Suite is the Debian of the source machines, by its code name; MKCDREC_DEBIAN
// names another one than Debian 12.
func Suite() string {
	if s := os.Getenv("MKCDREC_DEBIAN"); s != "" {
		return s
	}
	return "bookworm"
}

// packagesOf gives what a suite has in packages of their own.
func packagesOf(suite string) string {
	if suite == "bookworm" {
		return packages
	}
	return packages + ",systemd-cryptsetup" // since Debian 13
}

// CacheDir holds what takes long to make: the Debian tree and the installed
// source machines. MKCDREC_CACHE names another place.
func CacheDir() string {
	if d := os.Getenv("MKCDREC_CACHE"); d != "" {
		return d
	}
	return "/var/cache/mkcdrec/vmtest"
}

// Kinds of source machines. Those of one storage with either firmware have the
// same, but for what firmware wants.
const (
	BIOSLVM, UEFILVM = "bios-lvm", "uefi-lvm"
	// BIOSPlain has an MBR with logical partitions. Both have an NTFS, and an exFAT
	// that is mounted for another user.
	BIOSPlain, UEFIPlain = "bios-plain", "uefi-plain"
	// UEFIPlain4K is UEFIPlain on a disk with sectors of 4 KiB.
	UEFIPlain4K = "uefi-plain4k"
	// BIOSMD and UEFIMD have two disks: / on a RAID1, /home on LVM on a RAID0, a
	// volume group over both with volumes of each kind that mirrors or stripes,
	// and small arrays of RAID5 with a spare, RAID10, and of the old metadata 0.90.
	BIOSMD, UEFIMD = "bios-md", "uefi-md"
	// BIOSBtrfs and UEFIBtrfs have two disks: / is a btrfs over both, RAID1, with
	// subvolumes, one of which is the default, and snapshots.
	BIOSBtrfs, UEFIBtrfs = "bios-btrfs", "uefi-btrfs"
	// BIOSLUKS and UEFILUKS have LVM on LUKS2, / on a plain volume, /home and /srv
	// on thin ones, and a small LUKS1 that a key file opens.
	BIOSLUKS, UEFILUKS = "bios-luks", "uefi-luks"
)

// kind is what the scenarios know of a machine. A second disk is as large as
// the first; its serial number ends with 2.
type kind struct {
	size, smaller, larger string // of a disk, as qemu-img takes it; 60 % and 200 %
	serial, target        string // serial numbers: its disk's, and that of the blank one
	two, uefi             bool
	sector                int // of its disks, 512 if 0
	mounts                string
	rows                  []string // in docs/MATRIX.md, without the firmware
	passphrase            bool     // asked at the start, is Password
}

var machines = func() map[string]kind {
	out := map[string]kind{}
	for name, k := range map[string]kind{
		"lvm":     {size: "6G", smaller: "3600M", larger: "12G", mounts: "/ /boot /home", rows: []string{"LVM + xfs"}},
		"plain":   {size: "5G", smaller: "3G", larger: "10G", mounts: "/ /srv/exchange", rows: []string{"ext4", "ext4 + NTFS"}},
		"plain4k": {size: "5G", smaller: "3G", larger: "10G", mounts: "/ /srv/exchange", rows: []string{"ext4 + NTFS, 4Kn"}, sector: 4096},
		"md":      {size: "4400M", smaller: "2640M", larger: "8800M", two: true, mounts: "/ /home /srv/striped /srv/mirror /srv/oldmirror /srv/parity /srv/ten /srv/old", rows: []string{"md1 + LVM on md0"}},
		"btrfs":   {size: "4G", smaller: "2400M", larger: "8G", two: true, mounts: "/ /home /var/lib/machines /var/lib/machines/inner /srv/sealed", rows: []string{"btrfs subvolumes", "btrfs raid1"}},
		"luks":    {size: "6600M", smaller: "3960M", larger: "13200M", mounts: "/ /boot /home /srv /data", rows: []string{"thin", "LUKS2 + LVM"}, passphrase: true},
	} {
		for _, fw := range []string{"bios", "uefi"} {
			k.serial, k.target = strings.ToUpper("src"+fw+name)+"1", strings.ToUpper("rst"+fw+name)+"1"
			if name == "lvm" || name == "plain" { // others say them by hand
				k.serial, k.target = "SRC"+strings.ToUpper(fw)+"01", "RST"+strings.ToUpper(fw)+"01"
			}
			mine := k
			mine.uefi = fw == "uefi"
			if mine.uefi {
				mine.mounts += " /boot/efi"
			}
			mine.rows = nil
			for _, r := range k.rows {
				mine.rows = append(mine.rows, r+", "+strings.ToUpper(fw))
			}
			out[fw+"-"+name] = mine
		}
	}
	delete(out, "bios-plain4k") // a BIOS starts from no such disk
	return out
}()

func second(serial string) string { return serial[:len(serial)-1] + "2" }

// Source is an installed source machine. Its disk is never written to:
// scenarios work on overlays.
type Source struct {
	Kind   string
	Disk   string // qcow2
	Serial string
	Size   string // for qemu-img
	// Second is the second disk's file, with SerialSecond; "" for none.
	Second, SerialSecond string
}

// NVRAM is the file of the machine's own UEFI variables, with the boot entry
// that its installation made.
func (s *Source) NVRAM() string { return strings.TrimSuffix(s.Disk, ".qcow2") + ".vars" }

// Prepare gives the source machine of a kind, installing it if the cache has
// it not. Two callers at once for one machine wait for each other.
func Prepare(ctx context.Context, kind string, say func(string, ...any)) (*Source, error) {
	suite := Suite()
	tree := packagesOf(suite) + setupHook + customizeHook
	if suite != "bookworm" {
		tree += suite
	}
	debian := sha256.Sum256([]byte(tree))
	base := filepath.Join(CacheDir(), fmt.Sprintf("debian-%x", debian[:6]))
	sum := sha256.Sum256(append(debian[:], installScript...))
	dir := filepath.Join(CacheDir(), fmt.Sprintf("%x", sum[:6]))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	k, ok := machines[kind]
	if !ok {
		return nil, fmt.Errorf("unknown machine %q", kind)
	}
	s := &Source{Kind: kind, Disk: filepath.Join(dir, kind+".qcow2"), Serial: k.serial, Size: k.size}
	if k.two {
		s.Second, s.SerialSecond = filepath.Join(dir, kind+"-2.qcow2"), second(k.serial)
	}
	unlock, err := lock(s.Disk)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if _, err := os.Stat(s.Disk); err == nil {
		return s, nil
	}
	if err := makeInstaller(ctx, base, dir, say); err != nil {
		return nil, err
	}
	say("installing source machine %s (about a minute)", kind)
	return s, install(ctx, dir, s)
}

// Command runs a program; the error holds the end of what it said.
func Command(ctx context.Context, args ...string) error { return command(ctx, args...) }

func command(ctx context.Context, args ...string) error {
	out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("cannot run %s: %w\n%s", strings.Join(args, " "), err, out[max(0, len(out)-2000):])
	}
	return nil
}

// lock keeps others, in this process or another one, from making the file.
func lock(file string) (unlock func(), err error) {
	f, err := os.OpenFile(file+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot lock %s: %w", f.Name(), err), f.Close())
	}
	return func() { f.Close() }, nil // which unlocks it
}

// makeInstaller puts the install script into a Debian that is fetched once.
func makeInstaller(ctx context.Context, base, dir string, say func(string, ...any)) error {
	unlock, err := lock(dir + "/installer.img")
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := os.Stat(dir + "/installer.img"); err == nil {
		return nil
	}
	if err := makeTree(ctx, base, say); err != nil {
		return err
	}
	script, tmp := dir+"/install.sh", dir+"/installer.tmp"
	if err := os.WriteFile(script, []byte(installScript), 0o755); err != nil {
		return err
	}
	for _, c := range [][]string{
		{"cp", "--sparse=always", base + "/debian.img", tmp},
		{"cp", base + "/vmlinuz", base + "/initrd.img", dir},
		{"debugfs", "-w", "-R", "write " + script + " install.sh", tmp},
	} {
		if err := command(ctx, c...); err != nil {
			return err
		}
	}
	return os.Rename(tmp, dir+"/installer.img")
}

// makeTree makes the Debian tree: a disk, kernel and initrd.
func makeTree(ctx context.Context, dir string, say func(string, ...any)) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	unlock, err := lock(dir + "/debian.img")
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := os.Stat(dir + "/debian.img"); err == nil {
		return nil
	}
	say("fetching Debian (%s) for the source machines (once, about two minutes)", Suite())
	tree := dir + "/tree"
	if err := os.RemoveAll(tree); err != nil {
		return err
	}
	for name, text := range map[string]string{"setup.sh": setupHook, "customize.sh": customizeHook} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			return err
		}
	}
	args := []string{"mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", "--include=" + packagesOf(Suite()),
		"--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/locale/*", "--dpkgopt=path-exclude=/usr/share/info/*",
		`--aptopt=Acquire::Languages "none"`, `--aptopt=APT::Install-Recommends "false"`,
		"--setup-hook=" + dir + `/setup.sh "$1"`, "--customize-hook=" + dir + `/customize.sh "$1"`, Suite(), tree}
	if err := command(ctx, args...); err != nil {
		return err
	}
	defer os.RemoveAll(tree)
	for from, to := range map[string]string{"vmlinuz-*": "vmlinuz", "initrd.img-*": "initrd.img"} {
		m, err := filepath.Glob(tree + "/boot/" + from)
		if err != nil || len(m) != 1 {
			return fmt.Errorf("cannot find %s in the Debian tree: %v", from, m)
		}
		if err := command(ctx, "cp", m[0], filepath.Join(dir, to)); err != nil {
			return err
		}
	}
	tmp := dir + "/debian.tmp"
	os.Remove(tmp)
	if err := command(ctx, "mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-L", "INSTALLER", "-E", "root_owner=0:0", "-d", tree, tmp, "1000M"); err != nil {
		return err
	}
	return os.Rename(tmp, dir+"/debian.img")
}

func install(ctx context.Context, dir string, s *Source) error {
	tmp := s.Disk + ".tmp.qcow2"
	os.Remove(tmp)
	if err := command(ctx, "qemu-img", "create", "-q", "-f", "qcow2", tmp, s.Size); err != nil {
		return err
	}
	m := Machine{Name: "install-" + s.Kind, Kernel: dir + "/vmlinuz", Initrd: dir + "/initrd.img", Log: dir + "/install-" + s.Kind + ".log",
		Append: "root=LABEL=INSTALLER rw init=/install.sh console=ttyS0,115200 panic=-1 mk.kind=" + s.Kind + " mk.serial=" + s.Serial + " mk.second=" + s.SerialSecond,
		Disks:  []Disk{{File: dir + "/installer.img", Serial: "INSTALLER", Snapshot: true}, {File: tmp, Serial: s.Serial, Sector: machines[s.Kind].sector}}}
	if s.Second != "" {
		os.Remove(s.Second)
		if err := command(ctx, "qemu-img", "create", "-q", "-f", "qcow2", s.Second, s.Size); err != nil {
			return err
		}
		m.Disks = append(m.Disks, Disk{File: s.Second, Serial: s.SerialSecond})
	}
	if machines[s.Kind].uefi {
		var err error
		if m.UEFI, err = NVRAM(s.NVRAM()); err != nil {
			return err
		}
	}
	vm, err := Start(ctx, m)
	if err != nil {
		return err
	}
	defer vm.Kill()
	g, err := vm.Expect(`INSTALL-(OK|FAIL.*)`, 15*time.Minute)
	if err != nil {
		return err
	}
	if g[1] != "OK" {
		return fmt.Errorf("cannot install %s: %s\n%s", s.Kind, g[0], vm.Tail(2000))
	}
	if err := vm.Wait(2 * time.Minute); err != nil {
		return err
	}
	return os.Rename(tmp, s.Disk)
}

// NVRAM makes an empty NVRAM for a UEFI machine.
func NVRAM(file string) (string, error) { return nvram(file, "OVMF_VARS_4M.fd") }

// SecureNVRAM is one with Microsoft's keys and Secure Boot on.
func SecureNVRAM(file string) (string, error) { return nvram(file, "OVMF_VARS_4M.ms.fd") }

func nvram(file, vars string) (string, error) {
	b, err := os.ReadFile("/usr/share/OVMF/" + vars)
	if err != nil {
		return "", errors.Join(errors.New("cannot make NVRAM: is ovmf installed?"), err)
	}
	return file, os.WriteFile(file, b, 0o600)
}
