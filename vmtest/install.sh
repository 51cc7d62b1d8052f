#!/bin/bash
# Process 1 of the installer: makes a source machine on a blank disk.
# Kernel command line: mk.kind={bios,uefi}-{lvm,plain,md,btrfs,luks} mk.serial=SERIAL mk.second=SERIAL
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
modprobe -a dm-mod dm-raid dm-crypt dm-thin-pool dm-mirror raid0 raid1 raid10 raid456 btrfs xfs vfat nls_cp437 nls_iso8859-1 nls_ascii
if [ -d /sys/firmware/efi/efivars ]; then mount -t efivarfs efivarfs /sys/firmware/efi/efivars; fi
D=/dev/disk/by-id/virtio-$SERIAL
E=/dev/disk/by-id/virtio-$SECOND
T=/mnt/t
mkdir $T
sgdisk -Z $D >/dev/null
if [ -n "$SECOND" ]; then sgdisk -Z $E >/dev/null; fi
# The first partition is what the firmware's loader needs.
case $KIND in
bios-*) FIRST="-n1:0:+1M -t1:ef02 -c1:biosboot" ;;
uefi-md) FIRST="-n1:0:+100M -t1:ef00 -c1:ESP" ;;
uefi-plain4k) FIRST="-n1:0:+300M -t1:ef00 -c1:ESP" ;; # FAT32 wants 65525 clusters
uefi-*) FIRST="-n1:0:+256M -t1:ef00 -c1:ESP" ;;
esac
case $KIND in
*-lvm)
  sgdisk $FIRST -n2:0:+512M -t2:8300 -c2:boot -A2:set:2 -n5:0:0 -t5:8e00 -c5:lvm $D
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
*-plain*)
  # BIOS: an MBR with logical partitions.
  if [ $KIND = bios-plain ]; then
    X=6 N=7
    printf '%s\n' 'label: dos' 'label-id: 0x6d6b6364' 'start=2048,size=4636MiB,type=83,bootable' 'type=5' 'size=128MiB,type=82' 'size=64MiB,type=7' 'type=7' | sfdisk -q $D
  else
    X=3 N=4
    sgdisk $FIRST -n2:0:-264M -t2:8300 -c2:root -n3:0:+64M -t3:0700 -c3:exchange -n4:0:0 -t4:0700 -c4:windows $D
  fi
  udevadm settle
  mkfs.exfat -L exchange $D-part$X
  mkntfs -q -f -L windows $D-part$N
  for i in 1 2 3; do head -c ${i}234567 /dev/urandom > /tmp/n$i; ntfscp -q -f $D-part$N /tmp/n$i file$i; done
  if [ $KIND = bios-plain ]; then
    mkswap -q -L swap $D-part5
    R=$D-part1
  else
    R=$D-part2
  fi
  mkfs.ext4 -q -L root $R
  mount $R $T
  mkdir -p $T/srv/exchange
  mount -o uid=1000,gid=1000,umask=027 $D-part$X $T/srv/exchange
  mkdir -p "$T/srv/exchange/Übung 1"
  head -c 3000000 /dev/urandom > "$T/srv/exchange/Übung 1/data"
  ;;
*-md)
  for d in $D $E; do
    sgdisk $FIRST -n2:0:+2560M -t2:fd00 -n3:0:+900M -t3:fd00 -n4:0:+320M -t4:8e00 -n5:0:+60M -t5:fd00 -n6:0:+60M -t6:fd00 -n7:0:+60M -t7:fd00 -n8:0:+60M -t8:fd00 $d
  done
  udevadm settle
  # The second one is for the day when the first disk is gone; nobody mounts it.
  if [ $KIND = uefi-md ]; then mkfs.vfat -F32 -n ESP2 $E-part1 >/dev/null; fi
  # Blank disks are the same already: a machine that starts has nothing to resynchronise.
  M="mdadm --create --run --assume-clean --homehost=$KIND"
  $M /dev/md0 --level=1 --raid-devices=2 --metadata=1.2 --name=root --uuid=6d6b6364:72656300:00000000:00000001 $D-part2 $E-part2
  $M /dev/md1 --level=0 --chunk=128 --raid-devices=2 --name=data --uuid=6d6b6364:72656300:00000000:00000002 $D-part3 $E-part3
  $M /dev/md2 --level=5 --chunk=64 --layout=right-symmetric --raid-devices=3 --spare-devices=1 --metadata=1.1 --name=parity --uuid=6d6b6364:72656300:00000000:00000003 $D-part5 $E-part5 $D-part6 $E-part6
  $M /dev/md3 --level=10 --chunk=32 --layout=f2 --raid-devices=2 --metadata=1.0 --bitmap=internal --name=ten --uuid=6d6b6364:72656300:00000000:00000004 $D-part7 $E-part7
  mdadm --create --run --assume-clean /dev/md4 --level=1 --raid-devices=2 --metadata=0.90 --uuid=6d6b6364:72656300:00000000:00000005 $D-part8 $E-part8
  udevadm settle
  mkfs.ext4 -q -L root /dev/md0
  for m in 2:parity 3:ten 4:old; do mkfs.ext4 -q -L ${m#*:} /dev/md${m%:*}; done
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
  lvcreate -y --type mirror -m 1 --mirrorlog core -L 40m -n oldmirror vg1
  udevadm settle
  for v in striped mirror oldmirror; do mkfs.ext4 -q -L $v /dev/vg1/$v; done
  mount /dev/md0 $T
  mkdir -p $T/home
  mount /dev/vg0/home $T/home
  for m in vg1/striped vg1/mirror vg1/oldmirror md2:parity md3:ten md4:old; do
    at=$T/srv/${m#*[/:]}
    mkdir -p $at
    mount /dev/${m%:*} $at
    echo $m > $at/file
  done
  ;;
*-btrfs)
  sgdisk $FIRST -n2:0:0 -t2:8300 -c2:one $D
  sgdisk -n1:0:+256M -t1:8200 -c1:swap -n2:0:0 -t2:8300 -c2:two $E
  udevadm settle
  mkswap -q -L swap $E-part1
  mkfs.btrfs -q -f -L root -n 16k -d raid1 -m raid1 $D-part2 $E-part2
  mount -o compress=zstd:1 $D-part2 $T
  btrfs subvolume create $T/@
  btrfs subvolume create $T/@home
  btrfs subvolume set-default $T/@
  umount $T
  mount -o compress=zstd:1 $D-part2 $T
  mkdir -p $T/home $T/var/lib $T/srv $T/.snapshots/1
  mount -o subvol=@home $D-part2 $T/home
  btrfs subvolume create $T/var/lib/machines
  btrfs subvolume create "$T/srv/sealed"
  echo nothing may be added > $T/srv/sealed/file
  btrfs subvolume create $T/var/lib/machines/inner
  echo in a subvolume in a subvolume > $T/var/lib/machines/inner/file
  ;;
*-luks)
  sgdisk $FIRST -n2:0:+400M -t2:8300 -c2:boot -n3:0:+5730M -t3:8309 -c3:crypt -n4:0:+64M -t4:8309 -c4:data $D
  udevadm settle
  mkfs.ext4 -q -L boot $D-part2
  dd if=/dev/urandom of=/tmp/keyfile bs=64 count=1 status=none
  printf test > /tmp/pass
  K="--pbkdf argon2id --pbkdf-memory 32768 --pbkdf-force-iterations 4 --pbkdf-parallel 1"
  cryptsetup luksFormat -q --type luks2 --uuid 6d6b6364-7265-4c55-8b53-000000000001 --label secret --sector-size 4096 --key-size 256 $K --key-file /tmp/pass $D-part3
  cryptsetup luksAddKey -q $K --key-file /tmp/pass $D-part3 /tmp/keyfile
  echo '{"type":"mkcdrec-test","keyslots":["1"],"note":"a token of somebody else"}' | cryptsetup token import $D-part3
  cryptsetup open --key-file /tmp/pass $D-part3 secret
  # LUKS1, opened by a key file in the root file system.
  cryptsetup luksFormat -q --type luks1 --uuid 6d6b6364-7265-4c55-8b53-000000000002 --key-size 256 --pbkdf-force-iterations 1000 --key-file /tmp/pass $D-part4
  cryptsetup luksAddKey -q --pbkdf-force-iterations 1000 --key-file /tmp/pass $D-part4 /tmp/keyfile
  cryptsetup open --key-file /tmp/keyfile $D-part4 data
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
  mkfs.ext4 -q -L data /dev/mapper/data
  mkswap -q -L swap /dev/vg0/swap
  mount /dev/vg0/root $T
  mkdir $T/boot $T/home $T/srv $T/data
  mount $D-part2 $T/boot
  mount /dev/vg0/home $T/home
  mount /dev/vg0/srv $T/srv
  mount /dev/mapper/data $T/data
  echo opened by a key file > $T/data/file
  ;;
esac
case $KIND in uefi-*)
  mkfs.vfat -F32 -n ESP $D-part1 >/dev/null
  mkdir -p $T/boot/efi
  mount $D-part1 $T/boot/efi
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
*-lvm) cat > $T/etc/fstab <<F
/dev/mapper/vg0-root / ext4 errors=remount-ro 0 1
UUID=$(u $D-part2) /boot ext4 defaults 0 2
/dev/mapper/vg0-home--dirs /home xfs defaults 0 2
/dev/mapper/vg0-swap none swap sw 0 0
F
  ;;
*-plain*)
  echo "UUID=$(u $R) / ext4 errors=remount-ro 0 1" > $T/etc/fstab
  echo "UUID=$(u $D-part$X) /srv/exchange exfat uid=1000,gid=1000,umask=027 0 0" >> $T/etc/fstab
  if [ $KIND = bios-plain ]; then echo "/dev/disk/by-label/swap none swap sw 0 0" >> $T/etc/fstab; fi
  ;;
*-md) cat > $T/etc/fstab <<F
UUID=$(u /dev/md0) / ext4 errors=remount-ro 0 1
/dev/mapper/vg0-home /home xfs defaults 0 2
/dev/mapper/vg0-swap none swap sw 0 0
/dev/vg1/striped /srv/striped ext4 defaults 0 2
LABEL=mirror /srv/mirror ext4 defaults 0 2
/dev/vg1/oldmirror /srv/oldmirror ext4 defaults 0 2
/dev/md/parity /srv/parity ext4 defaults 0 2
LABEL=ten /srv/ten ext4 defaults 0 2
/dev/md4 /srv/old ext4 defaults 0 2
F
  ;;
*-btrfs) cat > $T/etc/fstab <<F
UUID=$(u $D-part2) / btrfs defaults,compress=zstd:1 0 0
UUID=$(u $D-part2) /home btrfs subvolid=$(btrfs inspect-internal rootid $T/home),nodev 0 0
LABEL=swap none swap sw 0 0
F
  btrfs property set -t subvol $T/srv/sealed ro true
  btrfs subvolume snapshot -r $T/home $T/.snapshots/1/home
  ;;
*-luks) cat > $T/etc/fstab <<F
/dev/mapper/vg0-root / ext4 errors=remount-ro 0 1
UUID=$(u $D-part2) /boot ext4 defaults 0 2
/dev/vg0/home /home xfs defaults 0 2
LABEL=srv /srv ext4 defaults 0 2
/dev/mapper/data /data ext4 defaults 0 2
/dev/mapper/vg0-swap none swap sw 0 0
F
  install -m 400 /tmp/keyfile $T/etc/secret.key
  echo "secret UUID=$(u $D-part3) none luks,discard,initramfs" > $T/etc/crypttab
  echo "data UUID=$(u $D-part4) /etc/secret.key luks" >> $T/etc/crypttab
  ;;
esac
case $KIND in uefi-*) echo "UUID=$(u $D-part1) /boot/efi vfat umask=0077 0 1" >> $T/etc/fstab ;; esac
cat > $T/etc/default/grub <<'F'
GRUB_DEFAULT=0
GRUB_TIMEOUT=1
GRUB_DISTRIBUTOR=Debian
GRUB_CMDLINE_LINUX_DEFAULT=""
GRUB_CMDLINE_LINUX="console=tty0 console=ttyS0,115200 init_on_alloc=0 no_timer_check"
GRUB_TERMINAL="console serial"
GRUB_SERIAL_COMMAND="serial --unit=0 --speed=115200"
GRUB_DISABLE_OS_PROBER=true
F
for d in dev proc sys run; do mount --rbind /$d $T/$d; done
case $KIND in
*-luks) mv $T/boot/luks.img $T/boot/initrd.img-$(uname -r) ;;
*-btrfs) mv $T/boot/btrfs.img $T/boot/initrd.img-$(uname -r) ;;
esac
rm -f $T/boot/luks.img $T/boot/btrfs.img
say "installing GRUB"
case $KIND in
uefi-*) chroot $T grub-install --target=x86_64-efi --efi-directory=/boot/efi --bootloader-id=debian ;;
bios-md) for d in $D $E; do chroot $T grub-install --target=i386-pc "$(readlink -f $d)"; done ;;
*) chroot $T grub-install --target=i386-pc "$(readlink -f $D)" ;;
esac
chroot $T update-grub
sync
umount -R -l $T
vgchange -q -an || true
case $KIND in
*-luks) cryptsetup close secret || true; cryptsetup close data || true ;;
*-md) mdadm --stop --scan || true ;;
esac
sync
say INSTALL-OK
echo o > /proc/sysrq-trigger
sleep 100
