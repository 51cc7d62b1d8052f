// Package vmtest starts real machines in QEMU: source machines of the test
// matrix are installed, backed up, destroyed, restored from their own rescue
// medium and compared. Everything waits for text on the serial console, never
// for time alone.
package vmtest

import (
	"cmp"
	"fmt"
	"os"
	"strings"
)

// Disk is a disk of a machine.
type Disk struct {
	File   string
	Serial string
	Bus    string // virtio (default), ahci, nvme, usb, scsi, sd (mmcblk0; SDSerial, a power of two in size)
	RO     bool
	// Sector is the size of a logical sector, 512 if 0.
	Sector int
	// Removable makes a USB or SCSI disk say that it can be taken out.
	Removable bool
	Snapshot  bool // writes are thrown away
	// FailAt has the first write at this byte of a qcow2 file fail with EIO, once;
	// 0 for none.
	FailAt int64
}

// SDSerial is the serial number of QEMU's SD cards, for all of them.
const SDSerial = "0xdeadbeef"

// Machine is what QEMU is to start.
type Machine struct {
	Name   string
	Memory int    // MiB, default 1024
	CPUs   int    // default 1
	UEFI   string // file of the NVRAM; "" for BIOS
	Secure bool   // firmware with Secure Boot; UEFI is a SecureNVRAM
	CDROM  string // a SCSI drive, which every kernel here knows
	IDECD  string // an AHCI drive, as real machines have
	Disks  []Disk
	// Kernel, Initrd and Append start a kernel without firmware and loader.
	Kernel, Initrd, Append string
	Net                    bool
	// NIC are QEMU's words for network cards, instead of Net; NetBoot makes the
	// first one what the firmware starts from.
	NIC     []string
	NetBoot bool
	// Display starts with a screen, and a control socket at this path that
	// takes pictures of it.
	Display string
	// Extra are more words for QEMU.
	Extra []string
	Log   string // file that gets the console's output
}

// CPU is the emulated processor. With erms and fsrm, kernel and C library fill
// and copy memory by "rep stosb" and "rep movsb", which emulation does byte by
// byte: a machine then takes three times as long for everything that reads files.
const CPU = "max,-erms,-fsrm"

// KernelWords are for kernels in emulation: to clear pages that a read fills
// anyway is most of what reading a file costs there, and on a busy host timer
// interrupts come too late for a check that ends in a panic ("IO-APIC + timer
// doesn't work"). install.sh has them for the source machines.
const KernelWords = "init_on_alloc=0 no_timer_check"

// Args gives QEMU's argument list.
func (m Machine) Args() []string {
	machine := "q35"
	if m.Secure {
		machine = "q35,smm=on"
	}
	a := []string{"-name", m.Name, "-machine", machine, "-cpu", CPU, "-m", fmt.Sprint(cmp.Or(m.Memory, 1024)), "-smp", fmt.Sprint(cmp.Or(m.CPUs, 1)), "-display", "none", "-serial", "stdio", "-no-reboot",
		"-device", "virtio-rng-pci", "-rtc", "base=utc"}
	// Emulation works everywhere and is what CI has; a /dev/kvm that opens may
	// still fail at the start, so it has to be asked for.
	if os.Getenv("MKCDREC_KVM") != "" {
		a = append(a, "-accel", "kvm")
	} else {
		a = append(a, "-accel", "tcg,thread=multi,tb-size=512")
	}
	if m.Display != "" {
		a = append(a, "-vga", "std", "-qmp", "unix:"+m.Display+",server=on,wait=off")
	}
	a = append(a, "-monitor", "none")
	a = append(a, m.network()...)
	a = append(a, m.Extra...)
	a = append(a, m.firmware()...)
	a = append(a, m.disks()...)
	if m.CDROM != "" {
		// Debian's cloud kernel has no AHCI driver: the CD is a SCSI one.
		a = append(a, "-drive", "if=none,id=cd,media=cdrom,readonly=on,format=raw,file="+m.CDROM, "-device", "virtio-scsi-pci,id=scsicd", "-device", "scsi-cd,id=cdrom,bus=scsicd.0,drive=cd,bootindex=0")
	}
	if m.IDECD != "" {
		a = append(a, "-drive", "if=none,id=idecd,media=cdrom,readonly=on,format=raw,file="+m.IDECD, "-device", "ide-cd,bus=ide.0,drive=idecd,bootindex=0")
	}
	if m.Kernel != "" {
		a = append(a, "-kernel", m.Kernel, "-append", strings.TrimSpace(m.Append+" "+KernelWords))
		if m.Initrd != "" {
			a = append(a, "-initrd", m.Initrd)
		}
	}
	return a
}

func (m Machine) network() []string {
	if len(m.NIC) == 0 && m.Net {
		return []string{"-nic", "user,model=virtio-net-pci"}
	} else if len(m.NIC) == 0 {
		return []string{"-nic", "none"}
	}
	var a []string
	for i, n := range m.NIC {
		net, dev, _ := strings.Cut(n, " ")
		if m.NetBoot && i == 0 {
			dev += ",bootindex=0"
		}
		a = append(a, "-netdev", fmt.Sprintf("%s,id=n%d", net, i), "-device", fmt.Sprintf("%s,netdev=n%d", dev, i))
	}
	return a
}

func (m Machine) firmware() []string {
	if m.UEFI == "" {
		return nil
	}
	var a []string
	code := "OVMF_CODE_4M.fd"
	if m.Secure {
		code = "OVMF_CODE_4M.ms.fd"
		a = []string{"-global", "driver=cfi.pflash01,property=secure,value=on"}
	}
	return append(a, "-drive", "if=pflash,format=raw,unit=0,readonly=on,file=/usr/share/OVMF/"+code, "-drive", "if=pflash,format=raw,unit=1,file="+m.UEFI)
}

func (m Machine) disks() []string {
	var a []string
	usb := false
	for i, d := range m.Disks {
		id := fmt.Sprintf("d%d", i)
		a = append(a, "-drive", d.drive(id))
		dev := ""
		switch d.Bus {
		case "", "virtio":
			dev = "virtio-blk-pci"
		case "ahci":
			dev = fmt.Sprintf("ide-hd,bus=ide.%d", i+1)
		case "nvme":
			dev = "nvme"
		case "scsi":
			a = append(a, "-device", "virtio-scsi-pci,id=scsi"+id)
			dev = "scsi-hd,bus=scsi" + id + ".0"
		case "sd":
			a = append(a, "-device", "sdhci-pci,id=sd"+id)
			dev = "sd-card,bus=sd-bus"
		case "usb":
			if !usb {
				a = append(a, "-device", "qemu-xhci")
				usb = true
			}
			dev = "usb-storage"
		}
		a = append(a, "-device", dev+d.properties(id)+m.bootIndex(i))
	}
	return a
}

// drive gives QEMU's words for what is behind a disk.
func (d Disk) drive(id string) string {
	format, file := "raw", d.File
	if strings.HasSuffix(d.File, ".qcow2") {
		format = "qcow2"
	}
	if d.FailAt > 0 {
		file = "blkdebug:" + d.File + ".fail:" + d.File
	}
	drive := fmt.Sprintf("if=none,id=%s,format=%s,file=%s,cache=unsafe,discard=unmap", id, format, file)
	if d.FailAt > 0 {
		drive += ",werror=report"
	}
	if d.Snapshot {
		drive += ",snapshot=on"
	}
	if d.RO {
		drive += ",readonly=on"
	}
	return drive
}

// properties gives QEMU's words for what a disk reports of itself.
func (d Disk) properties(id string) string {
	s := ",id=dev" + id + ",drive=" + id
	if d.Removable {
		s += ",removable=on"
	}
	if d.Sector > 0 {
		s += fmt.Sprintf(",logical_block_size=%d,physical_block_size=%d", d.Sector, d.Sector)
	}
	if d.Serial != "" && d.Bus != "sd" {
		s += ",serial=" + d.Serial
	}
	return s
}

// bootIndex gives QEMU's words for the place of disk i in the boot order.
func (m Machine) bootIndex(i int) string {
	cd := m.CDROM != "" || m.IDECD != ""
	switch {
	case m.Kernel != "" || m.NetBoot:
		return ""
	case cd: // firmware that is given an order knows only what is in it
		return fmt.Sprintf(",bootindex=%d", i+1)
	case i == 0:
		return ",bootindex=0"
	}
	return ""
}
