#!/bin/sh
# Restores old from backup set 0d5f4d2b-5a86-4a0e-8d0a-7a1c5f0e6b11 by hand. IT OVERWRITES DISKS.
# Usage: sh restore.sh SET-DIRECTORY DISK-FOR-vda DISK-FOR-vdb DISK-FOR-vdc
#   where each DISK is a device such as /dev/sda.
# NOT in this set: /odd: not supported
set -eu
[ $# -eq 3 ] && { echo "the set's directory is missing" >&2; exit 2; }
[ $# -gt 3 ] || { echo "usage: $0 SET-DIRECTORY"' DISK-FOR-'vda' DISK-FOR-'vdb' DISK-FOR-'vdc >&2; exit 2; }
SET=$1; shift
part() { case $1 in *[0-9]) echo "$1p$2";; *) echo "$1$2";; esac; }
T=/mnt/target
# An archive, or its volumes in their order: of a set on discs, all of them
# copied into the set's directory.
get() { if [ -f "$1" ]; then zstd -dc "$1"; else cat "$1".[0-9]* | zstd -dc; fi; }
export DM_DISABLE_UDEV=1

# vda was  , 1.0 GiB
disk_vda=$1; shift
printf %s 'label: dos
label-id: 0x00000001
unit: sectors
sector-size: 512

vda1 : start=2048, size=1048576, type=83
' | sfdisk "$disk_vda"

# vdb was  , 1.0 GiB
disk_vdb=$1; shift
printf %s 'label: dos
label-id: 0x00000001
unit: sectors
sector-size: 512

vdb1 : start=2048, size=1048576, type=83
' | sfdisk "$disk_vdb"

# vdc was  , 1.0 GiB
disk_vdc=$1; shift

mke2fs -q -F -t ext4 -b 4096 -I 256 -N 1 -m 0.00 -O none -E nodiscard -U 11111111-2222-3333-4444-555555555555 "$(part "$disk_vda" 1)"
tune2fs -c 0 -i 0s -o '^debug,^bsdgroups,^user_xattr,^acl,^uid16,^nobarrier,^block_validity,^discard,^nodelalloc' "$(part "$disk_vda" 1)"
mke2fs -q -F -t ext4 -b 4096 -I 256 -N 1 -m 0.00 -O none -E nodiscard -U 11111111-2222-3333-4444-555555555555 "$(part "$disk_vdb" 1)"
tune2fs -c 0 -i 0s -o '^debug,^bsdgroups,^user_xattr,^acl,^uid16,^nobarrier,^block_validity,^discard,^nodelalloc' "$(part "$disk_vdb" 1)"
zstd -dc "$SET"/vdc.img.zst | dd of="$disk_vdc" bs=4M iflag=fullblock conv=fsync

# What is mounted below comes later: its mount point is in the archive above.
mkdir -p "$T"/; mount "$(part "$disk_vda" 1)" "$T"/
get "$SET"/vda1._.tar.zst | tar -C "$T"/ -xp --numeric-owner --xattrs --xattrs-include='*' --acls --warning=no-unknown-keyword
mkdir -p "$T"/srv; mount "$(part "$disk_vdb" 1)" "$T"/srv
get "$SET"/vdb1._srv.tar.zst | tar -C "$T"/srv -xp --numeric-owner --xattrs --xattrs-include='*' --acls --warning=no-unknown-keyword

for d in dev proc sys run; do mkdir -p "$T/$d"; mount --bind "/$d" "$T/$d"; done
echo 'Not restored, for it is not in the set: ''/odd: not supported' >&2
echo "Done. Unmount everything below $T and start the machine."
