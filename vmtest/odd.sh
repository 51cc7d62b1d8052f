#!/bin/bash
# Gives a source machine the oddities that administrators' machines have. It runs once
# in the machine; its disks are named by their serial numbers:
#   ODDTHIN    LVM: thin pool, linked clone, volume after a rollback, historical volume
#   ODDSUSE    btrfs as SUSE makes it, rolled back, with containers below a subvolume
#   ODDMBR     MBR over an old ext4 signature, logical partitions out of order
#   ODDGPT     GPT with 256 entries and a partition with number 130
#   ODDNONE    a protective MBR without a GPT: the kernel has no partition of it
#   ODDNIGHT   a file system without a partition table, in fstab with nofail, not mounted
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C
trap 'echo "odd.sh: line $LINENO failed: $BASH_COMMAND"; exit 1' ERR
set -eE -o pipefail
d() { readlink -f /dev/disk/by-id/virtio-$1; }
modprobe -a dm-thin-pool btrfs bridge 2>/dev/null || modprobe -a dm-thin-pool btrfs

# The thin volumes of a hypervisor: a template and its linked clone; a volume that was
# rolled back, which is a snapshot of its snapshot; a volume whose origin was removed.
T=$(d ODDTHIN)
vgcreate -q vg1 $T
lvcreate -q -y -L 32M -n plain vg1
lvcreate -q -y --type thin-pool -L 200M -n data vg1
lvcreate -q -y -V 16M --thinpool vg1/data -n base-100-disk-0
echo TEMPLATE | dd of=/dev/vg1/base-100-disk-0 conv=notrunc status=none
lvcreate -q -y -s -kn -n vm-101-disk-0 vg1/base-100-disk-0
lvchange -ay vg1/vm-101-disk-0
echo CUSTOMER101 | dd of=/dev/vg1/vm-101-disk-0 conv=notrunc status=none
lvcreate -q -y -V 16M --thinpool vg1/data -n t
echo OLD | dd of=/dev/vg1/t conv=notrunc status=none
lvrename -q vg1 t snap_vm-102-disk-0_pre
lvcreate -q -y -s -kn -n vm-102-disk-0 vg1/snap_vm-102-disk-0_pre
lvchange -ay vg1/vm-102-disk-0
echo NEW | dd of=/dev/vg1/vm-102-disk-0 conv=notrunc status=none
lvcreate -q -y -s -kn -n gone vg1/base-100-disk-0
lvcreate -q -y -s -kn -n child vg1/gone
lvremove -q -y --config 'metadata{record_lvs_history=1}' vg1/gone
lvs -a -H --noheadings -o lv_name vg1 | grep -e -gone
lvchange -q --addtag 'odd+tag' vg1/plain
sync
mkfs.ext4 -q -L plain /dev/vg1/plain

# A root file system of SUSE, as a data disk.
S=$(d ODDSUSE)
mkfs.btrfs -q -f -L suse $S
mkdir -p /srv/suse
mount -o subvolid=5 $S /srv/suse
cd /srv/suse
btrfs -q subvolume create @
mkdir -p @/boot/grub2 @/usr
for s in @/.snapshots @/var @/home @/boot/grub2/x86_64-efi @/usr/local; do btrfs -q subvolume create $s; done
mkdir -p @/.snapshots/1 @/.snapshots/2 @/.snapshots/5
btrfs -q subvolume create @/.snapshots/1/snapshot
mkdir -p @/.snapshots/1/snapshot/{.snapshots,var,home,boot/grub2/x86_64-efi,usr/local,etc}
echo one > @/.snapshots/1/snapshot/etc/f
btrfs -q subvolume snapshot -r @/.snapshots/1/snapshot @/.snapshots/2/snapshot
btrfs -q subvolume snapshot @/.snapshots/2/snapshot @/.snapshots/5/snapshot
echo rolled > @/.snapshots/5/snapshot/etc/f
btrfs quota enable .
btrfs qgroup create 1/0 .
chattr +C @/var
mkdir @/var/lib
echo x > @/var/lib/db
btrfs -q subvolume set-default @/.snapshots/5/snapshot
cd /
umount /srv/suse
mount $S /srv/suse
for s in .snapshots var home boot/grub2/x86_64-efi usr/local; do mount -o subvol=@/$s $S /srv/suse/$s; done
# Containers: a clone that is written to is no copy of anything.
btrfs -q subvolume create /srv/suse/var/lib/base
echo b > /srv/suse/var/lib/base/b
btrfs -q subvolume snapshot /srv/suse/var/lib/base /srv/suse/var/lib/clone
echo livedata > /srv/suse/var/lib/clone/c
U=$(blkid -s UUID -o value $S)
{
  echo "UUID=\"$U\" /srv/suse btrfs defaults 0 0"
  for s in .snapshots var home boot/grub2/x86_64-efi usr/local; do echo "UUID=$U /srv/suse/$s btrfs subvol=@/$s 0 0"; done
} >> /etc/fstab

# A whole-disk file system was there before the table.
M=$(d ODDMBR)
mkfs.ext4 -q -F -L stale $M
sfdisk -q --wipe never --wipe-partitions never $M <<F
label: dos
label-id: 0xbeef0002
1 : start=2048,size=16000,type=83,bootable
2 : start=20000,size=200000,type=5
5 : start=22048,size=20000,type=83
6 : start=120000,size=40000,type=83
7 : start=60000,size=40000,type=82
F
udevadm settle
partx -u $M || blockdev --rereadpt $M
udevadm settle
# The signature of the old file system is at 1 KiB of the disk, which no partition has.
for p in 1 5 6; do wipefs -q -a ${M}$p; mkfs.ext4 -q -F -L odd$p ${M}$p; done
mkswap -q -L oddswap ${M}7
udevadm settle

G=$(d ODDGPT)
sgdisk -S 256 -n 1:2048:+20M -c "1:one" -n 130:0:+20M -c "130:Data Disk" $G
udevadm settle
partx -u $G || true
udevadm settle
mkfs.ext4 -q -L 'My Data' ${G}130
mkfs.xfs -q -f -L first ${G}1 2>/dev/null || mkfs.ext4 -q -F -L first ${G}1
udevadm settle

N=$(d ODDNONE)
printf '\x00\x00\x02\x00\xee\xff\xff\xff\x01\x00\x00\x00\xff\xff\xff\xff' | dd of=$N bs=1 seek=446 conv=notrunc status=none
printf '\x55\xaa' | dd of=$N bs=1 seek=510 conv=notrunc status=none

X=$(d ODDNIGHT)
mkfs.ext4 -q -F -L night $X
mkdir -p /srv/night
mount $X /srv/night
echo nightly > /srv/night/file
umount /srv/night

# fstab as people write it.
path=$(basename $(find -L /dev/disk/by-path -samefile ${M}7 | head -n 1))
mkdir -p /srv/plain '/srv/my data' /srv/first /srv/m1 /srv/m5 /srv/m6 /srv/bound /srv/away /mnt/nas
cat >> /etc/fstab <<F
/dev/vg1/plain	/srv/plain	ext4	defaults	0	2
LABEL=My\040Data /srv/my\040data ext4 defaults 0 2
LABEL="first" /srv/first auto
/dev/disk/by-id/virtio-ODDMBR-part1 /srv/m1 ext4 defaults 0 2
PARTUUID=beef0002-05 /srv/m5 ext4 defaults 0 2
/dev/disk/by-label/odd6 /srv/m6 ext4 defaults 0 2
/dev/disk/by-path/$path none swap sw 0 0
/srv/m1 /srv/bound none bind 0 0
UUID=11111111-0000-4000-8000-000000000002 /srv/away ext4 nofail,x-systemd.device-timeout=2s 0 2
LABEL=night /srv/night ext4 nofail,noauto
//nas/a=b /mnt/nas cifs guest,noauto 0 0
F
# /boot by the serial number of a disk that will be another one.
B=$(find /dev/disk/by-id -samefile $(findmnt -no SOURCE /boot) -o -lname "*/$(basename $(findmnt -no SOURCE /boot))" | grep virtio- | head -n 1)
sed -i "s|^[^ ]* /boot |$B /boot |" /etc/fstab
grep by-id.*/boot /etc/fstab
systemctl daemon-reload
mount -a
swapon -a
for f in plain 'my data' first m1 m5 m6 suse/home; do echo "content of $f" > "/srv/$f/content"; done
mkdir '/srv/plain/a[b]*c' "/srv/plain/$(printf 'new\nline')"
echo x > "/srv/plain/a[b]*c/$(printf '\377\376%.0s' {1..127})"
ln /srv/plain/content '/srv/plain/a[b]*c/second name'

# A bridge has the address.
ip link add br0 type bridge
IF=$(ls /sys/class/net | grep -v -e lo -e br0 | head -n 1)
ip link set "$IF" master br0
ip link set "$IF" up
ip link set br0 up
ip addr add 10.9.8.7/24 dev br0
sync
echo ODD-MADE
