package kernelcfg

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/kmod"
)

// Module sets by name.
const (
	SetHost    = "host"    // drivers of this machine's devices, and what any medium needs
	SetDefault = "default" // and those of usual servers and of all virtual machines
	SetAll     = "all"     // all storage, network and file-system drivers
)

// Sets are the names of module sets, the smallest first.
var Sets = []string{SetHost, SetDefault, SetAll}

// usual are the drivers a machine is likely to be replaced by: what servers
// and PCs of the last fifteen years and the hypervisors have.
var usual = []string{
	"kernel/drivers/ata/ahci", "kernel/drivers/ata/libahci", "kernel/drivers/ata/ata_piix", "kernel/drivers/ata/ata_generic", "kernel/drivers/nvme/", "kernel/drivers/virtio/", "kernel/drivers/block/virtio_blk", "kernel/drivers/block/xen-blkfront",
	"kernel/drivers/scsi/virtio_scsi", "kernel/drivers/scsi/vmw_pvscsi", "kernel/drivers/scsi/hv_storvsc", "kernel/drivers/scsi/storvsc", "kernel/drivers/scsi/xen-scsifront", "kernel/drivers/scsi/megaraid/", "kernel/drivers/scsi/mpt3sas/", "kernel/drivers/scsi/mpi3mr/",
	"kernel/drivers/scsi/hpsa", "kernel/drivers/scsi/smartpqi/", "kernel/drivers/scsi/aacraid/", "kernel/drivers/scsi/sd_mod", "kernel/drivers/scsi/sr_mod", "kernel/drivers/scsi/st.", "kernel/drivers/scsi/sg.", "kernel/drivers/scsi/isci/", "kernel/drivers/message/fusion/", "kernel/drivers/md/", "kernel/drivers/cdrom/",
	"kernel/drivers/mmc/", "kernel/drivers/usb/storage/", "kernel/drivers/usb/host/xhci", "kernel/drivers/usb/host/ehci", "kernel/drivers/usb/host/uhci", "kernel/drivers/usb/host/ohci", "kernel/drivers/hid/usbhid/", "kernel/drivers/hid/hid-generic", "kernel/drivers/hv/", "kernel/drivers/char/hw_random/",
	"kernel/drivers/net/ethernet/intel/", "kernel/drivers/net/ethernet/broadcom/", "kernel/drivers/net/ethernet/realtek/", "kernel/drivers/net/ethernet/amazon/", "kernel/drivers/net/ethernet/google/", "kernel/drivers/net/ethernet/microsoft/", "kernel/drivers/net/ethernet/mellanox/mlx4/", "kernel/drivers/net/ethernet/mellanox/mlx5/", "kernel/drivers/net/ethernet/aquantia/",
	"kernel/drivers/net/virtio_net", "kernel/drivers/net/vmxnet3/", "kernel/drivers/net/hyperv/", "kernel/drivers/net/xen-netfront", "kernel/drivers/net/phy/realtek", "kernel/drivers/net/phy/broadcom", "kernel/drivers/net/bonding/", "kernel/net/8021q/", "kernel/net/packet/", "kernel/drivers/net/usb/r8152", "kernel/drivers/net/usb/ax88179", "kernel/drivers/net/usb/cdc_ether",
	"kernel/fs/isofs/", "kernel/fs/udf/", "kernel/fs/nfs/", "kernel/fs/smb", "kernel/fs/cifs/", "kernel/fs/fuse/", "kernel/fs/squashfs/", "kernel/fs/overlayfs/", "kernel/fs/efivarfs/", "kernel/fs/nls/nls_", "kernel/drivers/firmware/efi/",
}

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

// always are modules that any rescue system wants, on any machine:
// its media, the virtual machines it is tried in.
var always = []string{"isofs", "sr_mod", "cdrom", "sd_mod", "loop", "nls_cp437", "nls_iso8859-1", "nls_ascii", "nls_utf8", "usb_storage", "uas", "xhci_pci", "ehci_pci", "uhci_hcd", "ohci_pci", "usbhid", "hid_generic",
	"ata_piix", "ata_generic", "ahci", "nvme", "virtio_pci", "virtio_blk", "virtio_scsi", "virtio_rng", "virtio_net", "dm_mod", "efivarfs", "af_packet", "crc32c_generic", "crc32c_intel", "crc16", "atkbd", "i8042", "bonding", "8021q", "pata_acpi", "e1000", "e1000e"}

// Select chooses modules by set, with all they depend on. extra are names or
// aliases (file systems of the layout); aliases are the machine's devices.
// Excluded modules are left out with all that need them. first of the names
// are those that any machine loads, or this one: they are likely to be read.
func Select(x *kmod.Index, set string, extra, aliases, exclude []string) (names []string, first int, err error) {
	drop := map[string]bool{}
	for _, e := range exclude {
		drop[kmod.Norm(e)] = true
	}
	needs := func(n string) bool {
		return slices.ContainsFunc(append([]string{n}, x.Deps[n]...), func(d string) bool { return drop[d] })
	}
	close := func(names []string) []string { return slices.DeleteFunc(x.Closure(names), needs) }

	likely := append(append(slices.Clone(always), fstype.Names(func(t *fstype.Type) bool { return t.Always })...), extra...)
	for _, a := range aliases {
		for _, m := range x.Match(a) {
			if useful(x.Path[m]) {
				likely = append(likely, m)
			}
		}
	}
	names = close(likely)
	byPath := func(a, b string) int { return strings.Compare(x.Path[a], x.Path[b]) }
	slices.SortFunc(names, byPath)
	first = len(names)
	var more []string
	switch set {
	case SetHost:
		return names, first, nil
	case SetDefault:
		more = x.Select(append(fstype.Dirs(), usual...)...)
	case SetAll:
		more = x.Select(allPrefixes...)
	default:
		return nil, 0, fmt.Errorf("cannot choose modules: set %q is not known; want %s", set, strings.Join(Sets, ", "))
	}
	more = slices.DeleteFunc(more, func(n string) bool {
		return slices.ContainsFunc(notIn, func(p string) bool { return strings.HasPrefix(x.Path[n], p) })
	})
	in := map[string]bool{}
	for _, n := range names {
		in[n] = true
	}
	more = slices.DeleteFunc(close(more), func(n string) bool { return in[n] })
	slices.SortFunc(more, byPath)
	return append(names, more...), first, nil
}

// Class is a kind of driver with what it takes.
type Class struct {
	Name    string `json:"name"`
	Modules int    `json:"modules"`
	Bytes   int64  `json:"bytes"` // of the modules, decompressed
}

// ClassOf is the kind of a module: the first parts of its path.
func ClassOf(path string) string {
	p := strings.Split(strings.TrimPrefix(path, "kernel/"), "/")
	switch {
	case len(p) > 3 && p[0] == "drivers" && p[1] == "net":
		return strings.Join(p[1:3], "/")
	case len(p) > 2 && p[0] == "drivers":
		return p[1]
	}
	return p[0]
}

// Classes sums sizes up by class, the largest first.
func Classes(x *kmod.Index, size map[string]int64) []Class {
	by := map[string]*Class{}
	var out []Class
	for n, s := range size {
		c := ClassOf(x.Path[n])
		if by[c] == nil {
			by[c] = &Class{Name: c}
		}
		by[c].Modules++
		by[c].Bytes += s
	}
	for _, c := range by {
		out = append(out, *c)
	}
	slices.SortFunc(out, func(a, b Class) int { return cmp.Or(cmp.Compare(b.Bytes, a.Bytes), strings.Compare(a.Name, b.Name)) })
	return out
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
