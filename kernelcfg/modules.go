package kernelcfg

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/kmod"
)

// Module sets by name.
const (
	SetHost = "host" // drivers of this machine's devices, and what any medium needs
	SetAll  = "all"  // all storage, network and file-system drivers
)

// allPrefixes are the parts of a module tree that hold storage, network and
// file-system drivers.
var allPrefixes = []string{
	"kernel/drivers/ata/", "kernel/drivers/block/", "kernel/drivers/cdrom/", "kernel/drivers/nvme/", "kernel/drivers/scsi/", "kernel/drivers/message/", "kernel/drivers/md/",
	"kernel/drivers/mmc/", "kernel/drivers/virtio/", "kernel/drivers/usb/storage/", "kernel/drivers/usb/host/", "kernel/drivers/usb/core/", "kernel/drivers/usb/common/", "kernel/drivers/firewire/",
	"kernel/drivers/hid/usbhid/", "kernel/drivers/hid/hid", "kernel/drivers/hv/", "kernel/drivers/xen/", "kernel/drivers/net/ethernet/", "kernel/drivers/net/phy/", "kernel/drivers/net/usb/", "kernel/drivers/net/mdio/",
	"kernel/drivers/net/virtio_net", "kernel/drivers/net/vmxnet3/", "kernel/drivers/net/hyperv/", "kernel/drivers/net/xen-netfront", "kernel/drivers/net/bonding/", "kernel/drivers/net/net_failover", "kernel/drivers/net/mii",
	"kernel/drivers/char/hw_random/", "kernel/drivers/input/serio/", "kernel/drivers/input/keyboard/", "kernel/drivers/nvmem/", "kernel/net/8021q/", "kernel/net/packet/",
	"kernel/fs/", "kernel/crypto/", "kernel/lib/", "kernel/arch/",
}

// notIn are file systems and drivers with no use in a rescue system, which
// are large.
var notIn = []string{"kernel/fs/ocfs2/", "kernel/fs/gfs2/", "kernel/fs/dlm/", "kernel/fs/ceph/", "kernel/fs/afs/", "kernel/fs/coda/", "kernel/fs/orangefs/", "kernel/drivers/scsi/scsi_debug", "kernel/drivers/block/null_blk/",
	"kernel/drivers/net/ethernet/mellanox/mlxsw/", "kernel/lib/test", "kernel/crypto/tcrypt", "kernel/drivers/net/ethernet/netronome/nfp/crypto"}

// always are modules that any rescue system wants, whatever the machine has:
// its media, its file systems, the virtual machines it is tried in.
var always = []string{"isofs", "sr_mod", "cdrom", "sd_mod", "loop", "vfat", "nls_cp437", "nls_iso8859-1", "nls_ascii", "nls_utf8", "ext4", "usb_storage", "uas", "xhci_pci", "ehci_pci", "uhci_hcd", "ohci_pci", "usbhid", "hid_generic",
	"ata_piix", "ata_generic", "ahci", "nvme", "virtio_pci", "virtio_blk", "virtio_scsi", "virtio_rng", "virtio_net", "dm_mod", "efivarfs", "af_packet", "crc32c_generic", "crc32c_intel", "crc16", "atkbd", "i8042"}

// Selection is what goes along with a kernel.
type Selection struct {
	Modules  []string // names, closed over dependencies, sorted
	Firmware []string // files found, relative to the firmware directory
	Missing  []string // firmware that modules declare and nobody has
}

// Select chooses modules by set, with all they depend on. extra are names or
// aliases (file systems of the layout); aliases are the machine's devices,
// for SetHost.
func Select(x *kmod.Index, set string, extra, aliases, exclude []string) ([]string, error) {
	names := append(slices.Clone(always), extra...)
	switch set {
	case SetAll:
		all := x.Select(allPrefixes...)
		out := slices.DeleteFunc(all, func(n string) bool {
			return slices.ContainsFunc(notIn, func(p string) bool { return strings.HasPrefix(x.Path[n], p) })
		})
		names = append(names, out...)
	case SetHost:
		for _, a := range aliases {
			for _, m := range x.Match(a) {
				if useful(x.Path[m]) {
					names = append(names, m)
				}
			}
		}
	default:
		return nil, fmt.Errorf("cannot choose modules: set %q is not known; want %s or %s", set, SetHost, SetAll)
	}
	drop := map[string]bool{}
	for _, e := range exclude {
		drop[kmod.Norm(e)] = true
	}
	return slices.DeleteFunc(x.Closure(names), func(n string) bool { return drop[n] }), nil
}

// useful leaves out what a machine has and a rescue system does not use:
// sound, graphics, cameras, wireless.
func useful(p string) bool {
	for _, no := range []string{"kernel/sound/", "kernel/drivers/gpu/", "kernel/drivers/media/", "kernel/drivers/net/wireless/", "kernel/drivers/bluetooth/", "kernel/drivers/video/", "kernel/drivers/staging/", "kernel/drivers/platform/", "kernel/arch/x86/crypto/", "kernel/crypto/"} {
		if strings.HasPrefix(p, no) {
			return false
		}
	}
	return true
}

// HostAliases lists the modaliases of the machine's devices below root, and
// the modules it has loaded.
func HostAliases(root string) (aliases, loaded []string, err error) {
	err = filepath.WalkDir(root+"/sys/devices", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
				return nil // a device that went away
			}
			return err
		}
		if d.Name() == "modalias" && !d.IsDir() {
			if b, err := os.ReadFile(p); err == nil && len(b) > 0 {
				aliases = append(aliases, strings.TrimSpace(string(b)))
			}
		}
		return nil
	})
	if err != nil {
		return nil, nil, fmt.Errorf("cannot list devices: %w", err)
	}
	b, err := os.ReadFile(root + "/proc/modules")
	if err == nil {
		for _, l := range strings.Split(string(b), "\n") {
			if n, _, ok := strings.Cut(l, " "); ok {
				loaded = append(loaded, n)
			}
		}
	}
	slices.Sort(aliases)
	return slices.Compact(aliases), loaded, nil
}

// FirmwareDirs are where firmware is looked for, by the kernel's own rule.
func FirmwareDirs(root, release string) []string {
	return []string{root + "/lib/firmware/updates/" + release, root + "/lib/firmware/updates", root + "/lib/firmware/" + release, root + "/lib/firmware"}
}

// FindFirmware looks a file up as the kernel does, compressed ones included.
// It returns the path on the host and the name to pack it under.
func FindFirmware(root, release, name string) (file, packed string, ok bool) {
	for _, d := range FirmwareDirs(root, release) {
		for _, s := range []string{"", ".xz", ".zst"} {
			p := filepath.Join(d, name+s)
			if st, err := os.Stat(p); err == nil && st.Mode().IsRegular() {
				return p, name, true
			}
		}
	}
	return "", "", false
}
