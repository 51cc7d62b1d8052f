#!/bin/bash
# Process 1 of the installer: makes a source machine on a blank disk.
# Kernel command line: mk.kind=bios-lvm|uefi-plain|bios-md|uefi-btrfs|bios-luks mk.serial=SERIAL mk.second=SERIAL
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C HOME=/root
say() { echo "== $(cut -d' ' -f1 /proc/uptime) $*"; }
die() { echo "INSTALL-FAIL: $*"; sync; echo o > /proc/sysrq-trigger; sleep 100; }
trap 'die "line $LINENO: $BASH_COMMAND"' ERR
set -eE -o pipefail
for a in $(cat /proc/cmdline); do
  case $a in mk.kind=*) KIND=${a#*=} ;; mk.serial=*) SERIAL=${a#*=} ;; mk.second=*) SECOND=${a#*=} ;; esac
done
say "installing $KIND on $SERIAL"
mountpoint -q /run || mount -t tmpfs tmpfs /run
for d in /tmp /var/tmp /mnt; do mount -t tmpfs tmpfs $d; done
mkdir -p /run/lock /run/lvm
/lib/systemd/systemd-udevd --daemon
udevadm trigger --action=add
udevadm settle
modprobe -a dm-mod dm-raid dm-crypt dm-thin-pool raid0 raid1 btrfs xfs vfat nls_cp437 nls_iso8859-1 nls_ascii
if [ -d /sys/firmware/efi/efivars ]; then mount -t efivarfs efivarfs /sys/firmware/efi/efivars; fi
D=/dev/disk/by-id/virtio-$SERIAL
E=/dev/disk/by-id/virtio-$SECOND
T=/mnt/t
mkdir $T
sgdisk -Z $D >/dev/null
case $KIND in
bios-lvm)
  sgdisk -n1:0:+1M -t1:ef02 -c1:biosboot -n2:0:+512M -t2:8300 -c2:boot -A2:set:2 -n5:0:0 -t5:8e00 -c5:lvm $D
  udevadm settle
  mkfs.ext4 -q -L boot -I 128 -O ^64bit $D-part2
  pvcreate -q -y $D-part5
  vgcreate -q vg0 $D-part5
  lvcreate -y -L 3g -n root vg0
  lvcreate -y -L 1g -n home-dirs vg0
  lvcreate -y -L 256m -n swap vg0
  udevadm settle
  mkfs.ext4 -q -L root -m 2 /dev/vg0/root
  mkfs.xfs -q -L home /dev/vg0/home-dirs
  mkswap -L swap /dev/vg0/swap
  mount /dev/vg0/root $T
  mkdir $T/boot $T/home
  mount $D-part2 $T/boot
  mount /dev/vg0/home-dirs $T/home
  ;;
uefi-plain)
  sgdisk -n1:0:+256M -t1:ef00 -c1:ESP -n2:0:-200M -t2:8300 -c2:root -n3:0:0 -t3:0700 -c3:windows $D
  udevadm settle
  mkntfs -q -f -L windows $D-part3
  for i in 1 2 3; do head -c ${i}234567 /dev/urandom > /tmp/n$i; ntfscp -q -f $D-part3 /tmp/n$i file$i; done
  mkfs.vfat -F32 -n ESP $D-part1 >/dev/null
  mkfs.ext4 -q -L root $D-part2
  mount $D-part2 $T
  mkdir -p $T/boot/efi
  mount $D-part1 $T/boot/efi
  ;;
bios-md)
  for d in $D $E; do
    sgdisk -Z $d >/dev/null
    sgdisk -n1:0:+1M -t1:ef02 -n2:0:+2560M -t2:fd00 -n3:0:+900M -t3:fd00 -n4:0:0 -t4:8e00 $d
  done
  udevadm settle
  mdadm --create /dev/md0 --run --level=1 --raid-devices=2 --metadata=1.2 --homehost=$KIND --name=root --uuid=6d6b6364:72656300:00000000:00000001 $D-part2 $E-part2
  mdadm --create /dev/md1 --run --level=0 --chunk=128 --raid-devices=2 --homehost=$KIND --name=data --uuid=6d6b6364:72656300:00000000:00000002 $D-part3 $E-part3
  udevadm settle
  mkfs.ext4 -q -L root /dev/md0
  pvcreate -q -y /dev/md1
  vgcreate -q vg0 /dev/md1
  lvcreate -y -L 1g -n home vg0
  lvcreate -y -L 256m -n swap vg0
  udevadm settle
  mkfs.xfs -q -L home /dev/vg0/home
  mkswap -L swap /dev/vg0/swap
  pvcreate -q -y $D-part4 $E-part4
  vgcreate -q vg1 $D-part4 $E-part4
  lvcreate -y -i 2 -I 64k -L 200m -n striped vg1
  lvcreate -y --type raid1 -m 1 -L 100m -n mirror vg1
  udevadm settle
  mkfs.ext4 -q -L striped /dev/vg1/striped
  mkfs.ext4 -q -L mirror /dev/vg1/mirror
  mount /dev/md0 $T
  mkdir -p $T/home $T/srv/striped $T/srv/mirror
  mount /dev/vg0/home $T/home
  mount /dev/vg1/striped $T/srv/striped
  mount /dev/vg1/mirror $T/srv/mirror
  ;;
uefi-btrfs)
  sgdisk -Z $E >/dev/null
  sgdisk -n1:0:+256M -t1:ef00 -c1:ESP -n2:0:0 -t2:8300 -c2:one $D
  sgdisk -n1:0:+256M -t1:8200 -c1:swap -n2:0:0 -t2:8300 -c2:two $E
  udevadm settle
  mkfs.vfat -F32 -n ESP $D-part1 >/dev/null
  mkswap -q -L swap $E-part1
  mkfs.btrfs -q -f -L root -n 16k -d raid1 -m raid1 $D-part2 $E-part2
  mount -o compress=zstd:1 $D-part2 $T
  btrfs subvolume create $T/@
  btrfs subvolume create $T/@home
  btrfs subvolume set-default $T/@
  umount $T
  mount -o compress=zstd:1 $D-part2 $T
  mkdir -p $T/boot/efi $T/home $T/var/lib $T/srv $T/.snapshots/1
  mount $D-part1 $T/boot/efi
  mount -o subvol=@home $D-part2 $T/home
  btrfs subvolume create $T/var/lib/machines
  btrfs subvolume create "$T/srv/sealed"
  echo nothing may be added > $T/srv/sealed/file
  btrfs subvolume create $T/var/lib/machines/inner
  echo in a subvolume in a subvolume > $T/var/lib/machines/inner/file
  ;;
bios-luks)
  sgdisk -n1:0:+1M -t1:ef02 -c1:biosboot -n2:0:+400M -t2:8300 -c2:boot -n3:0:+5730M -t3:8309 -c3:crypt $D
  udevadm settle
  mkfs.ext4 -q -L boot $D-part2
  dd if=/dev/urandom of=/tmp/keyfile bs=64 count=1 status=none
  printf test > /tmp/pass
  K="--pbkdf argon2id --pbkdf-memory 32768 --pbkdf-force-iterations 4 --pbkdf-parallel 1"
  cryptsetup luksFormat -q --type luks2 --uuid 6d6b6364-7265-4c55-8b53-000000000001 --label secret --sector-size 4096 --key-size 256 $K --key-file /tmp/pass $D-part3
  cryptsetup luksAddKey -q $K --key-file /tmp/pass $D-part3 /tmp/keyfile
  echo '{"type":"mkcdrec-test","keyslots":["1"],"note":"a token of somebody else"}' | cryptsetup token import $D-part3
  cryptsetup open --key-file /tmp/pass $D-part3 secret
  pvcreate -q -y /dev/mapper/secret
  vgcreate -q vg0 /dev/mapper/secret
  lvcreate -y -L 2300m -n root vg0
  lvcreate -y -L 128m -n swap vg0
  lvcreate -y --type thin-pool -L 1200m --poolmetadatasize 8m -c 128k -n pool vg0
  lvcreate -y -V 1g --thinpool pool -n home vg0
  lvcreate -y -V 900m --thinpool pool -n srv vg0
  udevadm settle
  mkfs.ext4 -q -L root /dev/vg0/root
  mkfs.xfs -q -L home /dev/vg0/home
  mkfs.ext4 -q -L srv /dev/vg0/srv
  mkswap -q -L swap /dev/vg0/swap
  mount /dev/vg0/root $T
  mkdir $T/boot $T/home $T/srv
  mount $D-part2 $T/boot
  mount /dev/vg0/home $T/home
  mount /dev/vg0/srv $T/srv
  ;;
esac
say copying
cp -ax /. $T/
mkdir -p $T/dev $T/proc $T/sys $T/run $T/tmp $T/mnt $T/var/tmp
chmod 1777 $T/tmp $T/var/tmp
rm -f $T/install.sh
echo $KIND > $T/etc/hostname
printf '127.0.0.1 localhost\n127.0.1.1 %s\n' $KIND > $T/etc/hosts
u() { blkid -s UUID -o value "$1"; }
case $KIND in
bios-lvm) cat > $T/etc/fstab <<F
/dev/mapper/vg0-root / ext4 errors=remount-ro 0 1
UUID=$(u $D-part2) /boot ext4 defaults 0 2
/dev/mapper/vg0-home--dirs /home xfs defaults 0 2
/dev/mapper/vg0-swap none swap sw 0 0
F
  ;;
uefi-plain) cat > $T/etc/fstab <<F
UUID=$(u $D-part2) / ext4 errors=remount-ro 0 1
UUID=$(u $D-part1) /boot/efi vfat umask=0077 0 1
F
  ;;
bios-md) cat > $T/etc/fstab <<F
UUID=$(u /dev/md0) / ext4 errors=remount-ro 0 1
/dev/mapper/vg0-home /home xfs defaults 0 2
/dev/mapper/vg0-swap none swap sw 0 0
/dev/vg1/striped /srv/striped ext4 defaults 0 2
LABEL=mirror /srv/mirror ext4 defaults 0 2
F
  ;;
uefi-btrfs) cat > $T/etc/fstab <<F
UUID=$(u $D-part2) / btrfs defaults,compress=zstd:1 0 0
UUID=$(u $D-part2) /home btrfs subvolid=$(btrfs inspect-internal rootid $T/home),nodev 0 0
UUID=$(u $D-part1) /boot/efi vfat umask=0077 0 1
LABEL=swap none swap sw 0 0
F
  btrfs property set -t subvol $T/srv/sealed ro true
  btrfs subvolume snapshot -r $T/home $T/.snapshots/1/home
  ;;
bios-luks) cat > $T/etc/fstab <<F
/dev/mapper/vg0-root / ext4 errors=remount-ro 0 1
UUID=$(u $D-part2) /boot ext4 defaults 0 2
/dev/vg0/home /home xfs defaults 0 2
LABEL=srv /srv ext4 defaults 0 2
/dev/mapper/vg0-swap none swap sw 0 0
F
  install -m 400 /tmp/keyfile $T/etc/secret.key
  echo "secret UUID=$(u $D-part3) none luks,discard,initramfs" > $T/etc/crypttab
  ;;
esac
cat > $T/etc/default/grub <<'F'
GRUB_DEFAULT=0
GRUB_TIMEOUT=1
GRUB_DISTRIBUTOR=Debian
GRUB_CMDLINE_LINUX_DEFAULT=""
GRUB_CMDLINE_LINUX="console=tty0 console=ttyS0,115200"
GRUB_TERMINAL="console serial"
GRUB_SERIAL_COMMAND="serial --unit=0 --speed=115200"
GRUB_DISABLE_OS_PROBER=true
F
for d in dev proc sys run; do mount --rbind /$d $T/$d; done
if [ $KIND != bios-luks ]; then rm -f $T/boot/luks.img; fi
say "installing GRUB"
case $KIND in
bios-lvm) chroot $T grub-install --target=i386-pc "$(readlink -f $D)" ;;
bios-luks)
  mv $T/boot/luks.img $T/boot/initrd.img-$(uname -r)
  chroot $T grub-install --target=i386-pc "$(readlink -f $D)"
  ;;
uefi-plain|uefi-btrfs) chroot $T grub-install --target=x86_64-efi --efi-directory=/boot/efi --bootloader-id=debian ;;
bios-md) for d in $D $E; do chroot $T grub-install --target=i386-pc "$(readlink -f $d)"; done ;;
esac
chroot $T update-grub
sync
umount -R -l $T
if [ $KIND != uefi-plain ]; then vgchange -q -an || true; fi
if [ $KIND = bios-luks ]; then cryptsetup close secret || true; fi
if [ $KIND = bios-md ]; then mdadm --stop --scan || true; fi
sync
say INSTALL-OK
echo o > /proc/sysrq-trigger
sleep 100
