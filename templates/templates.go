// Package templates holds the texts that go onto media and into sets, each
// with the one struct that fills it.
package templates

import (
	"bytes"
	"embed"
	"fmt"
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
	// Boxed says that menu.c32 is there; without it isolinux prompts.
	Boxed bool
	// Chain names the disk of the installed system to chain.c32: "mbr=0x..." or
	// "guid=...", or "hd0" for the BIOS's first, which is the medium itself when
	// that is a stick. Without it the BIOS is told to go on, which some can't.
	Chain string
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

// Entries are the lines of the menu. memtest tells whether memtest86+ is there
// for the loader's firmware.
func (m Menu) entries(memtest bool) []Entry {
	port := Serial{0, 115200}
	if m.Serial != nil {
		port = *m.Serial
	}
	var noConsole []string
	for _, w := range strings.Fields(m.Append) {
		if !strings.HasPrefix(w, "console=") {
			noConsole = append(noConsole, w)
		}
	}
	es := []Entry{
		{ID: "local", Marked: "^Local disk: start the installed system", Help: "Leaves the machine as it is.", Local: true},
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

// Serial is the serial console the menu shows itself on as well.
type Serial struct {
	Port  int // 0 is COM1
	Speed int
}

type menuEntries struct {
	Menu
	Entries []Entry
}

// ISOLinux gives isolinux.cfg, and pxelinux.cfg/default.
func ISOLinux(m Menu) ([]byte, error) {
	return render("isolinux.cfg.tmpl", menuEntries{m, m.entries(m.BIOSMemtest != "")})
}

// GRUB gives grub.cfg for UEFI.
func GRUB(m Menu) ([]byte, error) {
	return render("grub.cfg.tmpl", menuEntries{m, m.entries(m.UEFIMemtest != "")})
}

// Netboot fills README.txt of a network boot tree.
type Netboot struct {
	Title, URL string
	// BIOS, UEFI and HTTP (for UEFI HTTP Boot) are the loaders' file names; "" for none.
	BIOS, UEFI, HTTP string
	Secure           bool
}

// NetbootText gives README.txt.
func NetbootText(n Netboot) ([]byte, error) { return render("netboot.txt.tmpl", n) }

// LocalEntry fills an entry of the machine's own GRUB.
type LocalEntry struct{ Begin, End, Title, UUID, Kernel, Initrd, Append string }

// Local gives the entry.
func Local(e LocalEntry) ([]byte, error) { return render("local.cfg.tmpl", e) }

// IPXE gives an iPXE script. Kernel and Initrd should be URLs: relative ones
// are relative to the script's.
func IPXE(m Menu) ([]byte, error) { return render("ipxe.tmpl", menuEntries{m, m.entries(false)}) }

// ByHand fills RESTORE.txt and restore.sh.
type ByHand struct {
	Host     string
	Date     string
	SetID    string
	Disks    []HandDisk
	Arrays   []string // mdadm command lines
	Crypts   []string // command lines that bring back LUKS devices
	Groups   []HandGroup
	Make     []string // mkfs and mkswap command lines, in order
	Mounts   []HandMount
	Archives []HandArchive
	Swap     []string // command lines that make swap files, when files are there
	GRUB     []string // grub-install command lines inside the chroot
	// Removable is a loader, for people, that the firmware finds by itself.
	Removable string
}

// HandDisk is a disk with its table as sfdisk(8) takes it.
type HandDisk struct {
	Name, Model, Serial, Size string
	Sfdisk                    string
}

// HandGroup is a volume group's file and physical volumes.
type HandGroup struct {
	Name, File string
	PVs        []string // "UUID DEVICE"
	Thin       []string // lvcreate command lines
}

// HandMount is a mount below /mnt/target; Options are quoted for the shell.
type HandMount struct{ Device, Path, Options string }

// HandArchive is an archive and where it goes.
type HandArchive struct{ File, Path string }

// RestoreText gives RESTORE.txt, RestoreScript restore.sh.
func RestoreText(h ByHand) ([]byte, error)   { return render("RESTORE.txt.tmpl", h) }
func RestoreScript(h ByHand) ([]byte, error) { return render("restore.sh.tmpl", h) }

// grubQuote quotes a word for GRUB's script language.
func grubQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'"'"'`) + "'" }

var funcs = template.FuncMap{"sh": ShellQuote, "gq": grubQuote, "lines": func(s string) []string { return strings.Split(strings.TrimSpace(s), "\n") }}

// ShellQuote quotes a word for a POSIX shell, for text that people run.
func ShellQuote(s string) string {
	if s != "" && strings.IndexFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./:=,@%+", r))
	}) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

func render(name string, data any) ([]byte, error) {
	t, err := template.New(name).Funcs(funcs).Option("missingkey=error").ParseFS(files, name)
	if err != nil {
		return nil, fmt.Errorf("cannot read template %s: %w", name, err)
	}
	var b bytes.Buffer
	if err := t.Execute(&b, data); err != nil {
		return nil, fmt.Errorf("cannot fill template %s: %w", name, err)
	}
	return b.Bytes(), nil
}
