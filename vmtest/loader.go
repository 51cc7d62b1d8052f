package vmtest

// loader is what the scenarios know of a boot loader that starts a source machine.
type loader struct {
	// install has it start a machine that GRUB started before; proof shows after a
	// restart that it does. Both are commands in the machine, "" for GRUB.
	install, proof string
	// label is its entry in the boot menu of UEFI firmware; started, a regular
	// expression, is what the console shows when it has loaded the system.
	label, started string
	// locked are files of it that are made immutable, though a restore onto other
	// disks has to change them.
	locked string
	// keepsEntries has the boot menu of the firmware kept for the restore.
	keepsEntries bool
	// changes are differences that are expected after a restore.
	changes []change
}

// SystemdBoot is systemd-boot in Circle.Loader.
const SystemdBoot = "systemd-boot"

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
}
