package vmtest

// loader is what the scenarios know of a boot loader that starts a source machine.
type loader struct {
	// install has it start a machine that GRUB started before; proof shows after a
	// restart that it does. Both are commands in the machine, "" for GRUB.
	install, proof string
	// label is its entry in the boot menu of UEFI firmware; started, a regular
	// expression, is what the console shows when it has loaded the system.
	label, started string
	// programs of this machine are taken into the source machine, which lacks them.
	programs []string
	// locked are files of it that are made immutable, though a restore onto other
	// disks has to change them.
	locked string
	// keepsEntries has the boot menu of the firmware kept for the restore.
	keepsEntries bool
	// changes are differences that are expected after a restore.
	changes []change
}

// Loaders of Circle.Loader: systemd-boot of a machine with UEFI, extlinux of one with a BIOS.
const (
	SystemdBoot = "systemd-boot"
	Extlinux    = "extlinux"
)

// loaders are the boot loaders of Circle.Loader; that of "" is GRUB.
var loaders = map[string]loader{
	"": {label: "debian", started: `Loading initial ramdisk`, locked: "/boot/grub/grub.cfg /boot/grub"},
	SystemdBoot: {
		// As Debian's package of it does.
		install: `bootctl install && V=$(uname -r) && kernel-install add $V /boot/vmlinuz-$V /boot/initrd.img-$V && ls /boot/efi/loader/entries/*$V.conf && cat /boot/efi/loader/entries/* && test ! -e /etc/kernel/cmdline && ` +
			`rm -rf /boot/grub /boot/efi/EFI/debian && efibootmgr -q -B -b $(efibootmgr | sed -n 's/^Boot\([0-9A-F]*\)\* debian.*/\1/p') && sync`,
		proof: "bootctl status | grep 'Product: systemd-boot' && efibootmgr && ! ls /boot/grub",
		label: "Linux Boot Manager", started: `login: `, keepsEntries: true,
		changes: []change{
			{"systemd-boot's random seed, its entries and the initramfs that it loads, recreated", `^/boot/efi/(loader(/random-seed|/entries(/.*)?)?|[0-9a-f]{32}(/.*)?)$`},
			{"the machine's id, which its entry has systemd write at each start", `^/etc(/\.|/machine-id)?$`},
			{"the index of kernel modules, recreated by kernel-install", `^/usr/lib/modules/[^/]+(/\.|/modules\.[a-z.]+)?$`},
		},
	},
	Extlinux: {
		// The command line is that of GRUB's entry. The code in the first sector is for the disk's kind of table.
		install: `mount LABEL=SETDISK /mnt && cp /mnt/bin/extlinux /usr/bin/ && umount /mnt && V=$(uname -r) && B=$(findmnt -no SOURCE -T /boot) && D=/dev/$(lsblk -no PKNAME $B) && M=mbr && if [ $(lsblk -dno PTTYPE $D) = gpt ]; then M=gptmbr; fi && ` +
			`mkdir /boot/extlinux && extlinux --install /boot/extlinux && dd bs=440 count=1 conv=notrunc if=/usr/lib/syslinux/mbr/$M.bin of=$D && ` +
			`printf 'SERIAL 0 115200\nDEFAULT linux\nPROMPT 0\nLABEL linux\n  LINUX ../vmlinuz-%s\n  INITRD ../initrd.img-%s\n  APPEND %s\n' $V $V "$(sed 's/BOOT_IMAGE=[^ ]* //' /proc/cmdline)" > /boot/extlinux/extlinux.conf && cat /boot/extlinux/extlinux.conf && rm -rf /boot/grub && sync`,
		proof:    "grep BOOT_IMAGE=../vmlinuz /proc/cmdline && test -e /boot/extlinux/ldlinux.sys && ! ls /boot/grub",
		programs: []string{"/usr/bin/extlinux"},
		started:  `login: `,
		changes:  []change{{"extlinux, reinstalled", `^/boot/extlinux(/\.|/ldlinux\.(sys|c32))?$`}},
	},
}
