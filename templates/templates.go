// Package templates holds the texts that go onto media and into sets, each
// with the one struct that fills it.
package templates

import (
	"bytes"
	"embed"
	"fmt"
	"slices"
	"strings"
	"text/template"
)

//go:embed *.tmpl
var files embed.FS

// Menu fills the configurations of the boot loaders.
type Menu struct {
	Heading string // the menu's first line
	Title   string // one line: host, kernel, date
	Append  string // kernel command line
	Kernel  string // where the loader finds it: a path, or a URL
	Initrd  string
	Serial  *Serial
	Timeout int    // seconds
	Default string // id of an entry: "local" or "rescue"
	// Boxed means that menu.c32 is there; without it isolinux prompts.
	Boxed bool
	// Chain names the disk of the installed system to chain.c32: "mbr=0x..." or
	// "guid=...". Not "hd0": of a blank disk chain.c32 starts the zero bytes, and the
	// machine hangs. Without it the BIOS is asked to continue, which some can't.
	Chain string
	// NoLocal means that there is chain.c32, but no system that a BIOS could start: the
	// entry for the local disk is the rescue system.
	NoLocal bool
	// Mark is a file that only this medium has; GRUB takes the file system
	// with it as its root.
	Mark string
	// Loaders are the EFI loaders of installed systems, paths in an ESP.
	Loaders []string
	// BIOSMemtest and UEFIMemtest are paths of memtest86+; "" for none.
	BIOSMemtest, UEFIMemtest string
	// NoCheck leaves the entry out that checks the medium.
	NoCheck bool
	// Net is for network boot: the card that was started from is the one that
	// the rescue system configures.
	Net bool
	// Base is GRUB's name of the tree on a web server, for when it can read
	// from one.
	Base string
	// LocalConfig is where isolinux finds what SyslinuxLocal gives.
	LocalConfig string
}

// Entry is a line of the menu.
type Entry struct {
	ID      string
	Marked  string // with ^ before the key
	Help    string // a line that explains it
	Append  string
	Local   bool
	Memtest bool
}

// Key is the letter that chooses the entry.
func (e Entry) Key() string {
	i := strings.IndexByte(e.Marked, '^')
	return strings.ToLower(e.Marked[i+1 : i+2])
}

// Plain is the text without the mark.
func (e Entry) Plain() string { return strings.Replace(e.Marked, "^", "", 1) }

// Entries are the lines of the menu. memtest reports whether memtest86+ is there
// for the loader's firmware.
func (m Menu) entries(memtest bool) []Entry {
	port := Serial{0, 115200}
	if m.Serial != nil {
		port = *m.Serial
	}
	var noConsole []string
	for _, w := range KernelWords(m.Append) {
		if !strings.HasPrefix(w, "console=") {
			noConsole = append(noConsole, w)
		}
	}
	es := []Entry{
		{ID: "local", Marked: "^Local disk: start the installed system", Help: "Without an installed system, the rescue system starts.", Local: true, Append: m.fallback()},
		{ID: "rescue", Marked: "^Rescue system", Help: "Changes nothing on the disks until you say so.", Append: m.Append},
		{ID: "serial", Marked: fmt.Sprintf("Rescue system on the ^serial console (ttyS%d, %d)", port.Port, port.Speed), Help: "All messages and the first shell on the serial line.", Append: strings.Join(append(noConsole, "console=tty0", fmt.Sprintf("console=ttyS%d,%d", port.Port, port.Speed)), " ")},
		{ID: "safe", Marked: "Rescue system with safe ^graphics", Help: "No graphics driver: for a screen that stays black.", Append: m.Append + " nomodeset"},
	}
	if !m.NoCheck {
		es = append(es, Entry{ID: "check", Marked: "^Check this medium, then the rescue system", Help: "Reads all of it and compares with the sum written into it.", Append: m.Append + " mkcdrec.check"})
	}
	if memtest {
		es = append(es, Entry{ID: "memtest", Marked: "^Memory test (memtest86+)", Help: "Bad memory damages backups and restores.", Memtest: true})
	}
	return es
}

// fallback is the kernel command line for a machine without an installed system,
// when its start was asked for: nothing is restored without being asked for.
func (m Menu) fallback() string {
	return strings.Join(slices.DeleteFunc(KernelWords(m.Append), func(w string) bool { return strings.HasPrefix(w, "mkcdrec.auto=") }), " ")
}

// fill makes a configuration with the entries of the menu; each must fit into the
// kernel's command line.
func (m Menu) fill(name string, memtest bool) ([]byte, error) {
	es := m.entries(memtest)
	for _, e := range es {
		if err := CheckKernelLine(e.Append, m.Base, m.Kernel, m.Initrd); err != nil {
			return nil, fmt.Errorf("cannot make the menu entry %q: %w", e.ID, err)
		}
	}
	return render(name, menuEntries{m, es})
}

// Serial is the serial console the menu shows itself on as well.
type Serial struct {
	Port  int // 0 is COM1
	Speed int
}

type menuEntries struct {
	Menu
	Entries []Entry
}

// ISOLinux returns isolinux.cfg, and pxelinux.cfg/default.
func ISOLinux(m Menu) ([]byte, error) {
	return m.fill("isolinux.cfg.tmpl", m.BIOSMemtest != "")
}

// SyslinuxLocal returns the configuration that the entry for the local disk switches
// to: when chain.c32 finds no installed system it ends at a prompt, and what
// that starts after its time-out is set for a whole configuration.
func SyslinuxLocal(m Menu) ([]byte, error) { return m.fill("syslocal.cfg.tmpl", false) }

// GRUB returns grub.cfg for UEFI.
func GRUB(m Menu) ([]byte, error) {
	return m.fill("grub.cfg.tmpl", m.UEFIMemtest != "")
}

// Netboot fills README.txt of a network boot tree.
type Netboot struct {
	Title, URL string
	// BIOS, UEFI and HTTP (for UEFI HTTP Boot) are the loaders' file names; "" for none.
	BIOS, UEFI, HTTP string
	Secure           bool
}

// NetbootText returns README.txt.
func NetbootText(n Netboot) ([]byte, error) { return render("netboot.txt.tmpl", n) }

// LocalEntry fills an entry of the machine's own GRUB.
type LocalEntry struct{ Begin, End, Title, UUID, Kernel, Initrd, Append string }

// Local returns the entry.
func Local(e LocalEntry) ([]byte, error) {
	if err := CheckKernelLine(e.Append, e.Kernel, e.Initrd); err != nil {
		return nil, fmt.Errorf("cannot make the menu entry: %w", err)
	}
	return render("local.cfg.tmpl", e)
}

// IPXE returns an iPXE script. Kernel and Initrd should be URLs: relative ones
// are relative to the script's.
func IPXE(m Menu) ([]byte, error) { return m.fill("ipxe.tmpl", false) }

// ByHand fills RESTORE.txt and restore.sh.
type ByHand struct {
	Host     string
	Date     string
	SetID    string
	Disks    []HandDisk
	Arrays   []Shell // mdadm command lines
	Crypts   []Shell // command lines that make or open LUKS devices
	Groups   []HandGroup
	Make     []Shell // mkfs and mkswap command lines, in order
	Images   []HandImage
	Mounts   []HandMount
	Archives []HandArchive
	Parts    []HandPart
	After    []Shell // command lines that follow when files are there
	Swap     []Shell // command lines that make swap files, when files are there
	Loader   []Shell // command lines inside the chroot that install the boot loader
	// Removable is a loader, for people, that the firmware finds by itself.
	Removable string
	// Only names, by device, what was saved of file systems that were not saved as a whole.
	Only []string
	// DataOnly is a set of which no system that boots can be restored.
	DataOnly bool
	// NotCovered is what the set lacks, as the manifest names it.
	NotCovered []string
}

// HandDisk is a disk, with what it can be recognised by, and with its table as sfdisk(8) takes it, "" for none. Var
// is the shell variable that has its device.
type HandDisk struct {
	Name, Was string
	Var       Shell
	Sfdisk    string
}

// HandImage is the image of a device. Frames is the file with the list of the frames of 4 MiB that it has, "" if it has
// all.
type HandImage struct {
	File, Frames string
	Device       Shell
}

// HandGroup is a volume group's file, and the command lines that make the group of it.
type HandGroup struct {
	File  string
	Lines []Shell
}

// HandMount is a mount of Device below /mnt/target; Options is one word of the shell, or "".
type HandMount struct {
	Device  Shell
	Path    string
	Options Shell
}

// HandPart is the root of a file system that was mounted nowhere as a whole: it is
// mounted, at no path of its own, while its archive is unpacked.
type HandPart struct {
	HandMount
	File  string
	Chain bool
}

// HandArchive is an archive and where it goes. Chain is set for increments and what is unpacked
// before them.
type HandArchive struct {
	File, Path string
	Chain      bool
}

// RestoreText returns RESTORE.txt, RestoreScript restore.sh.
func RestoreText(h ByHand) ([]byte, error)   { return render("RESTORE.txt.tmpl", h) }
func RestoreScript(h ByHand) ([]byte, error) { return render("restore.sh.tmpl", h) }

func render(name string, data any) ([]byte, error) {
	b, err := fill(name, data)
	if err != nil {
		return nil, fmt.Errorf("cannot fill template %s: %w", name, err)
	}
	return b, nil
}

// fill fills a template with values that are quoted for its reader.
func fill(name string, data any) ([]byte, error) {
	r, err := readers(name)
	if err != nil {
		return nil, err
	}
	t, err := template.New(name).Funcs(r.functions()).Option("missingkey=error").ParseFS(files, name)
	if err != nil {
		return nil, err
	}
	if err := r.protect(t); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	err = t.Execute(&b, data)
	return b.Bytes(), err
}
