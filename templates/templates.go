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

// Menu fills isolinux.cfg and grub.cfg.
type Menu struct {
	Title   string // one line: host, kernel, date
	Append  string // kernel command line
	Serial  *Serial
	Timeout int // seconds
}

// Serial is the serial console the menu shows itself on as well.
type Serial struct {
	Port  int // 0 is COM1
	Speed int
}

// ISOLinux gives isolinux.cfg.
func ISOLinux(m Menu) ([]byte, error) { return render("isolinux.cfg.tmpl", m) }

// GRUB gives grub.cfg for UEFI.
func GRUB(m Menu) ([]byte, error) { return render("grub.cfg.tmpl", m) }

// ByHand fills RESTORE.txt and restore.sh.
type ByHand struct {
	Host     string
	Date     string
	SetID    string
	Disks    []HandDisk
	Groups   []HandGroup
	Make     []string // mkfs and mkswap command lines, in order
	Mounts   []HandMount
	Archives []HandArchive
	GRUB     []string // grub-install command lines inside the chroot
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
}

// HandMount is a mount below /mnt/target.
type HandMount struct{ Device, Path string }

// HandArchive is an archive and where it goes.
type HandArchive struct{ File, Path string }

// RestoreText gives RESTORE.txt, RestoreScript restore.sh.
func RestoreText(h ByHand) ([]byte, error)   { return render("RESTORE.txt.tmpl", h) }
func RestoreScript(h ByHand) ([]byte, error) { return render("restore.sh.tmpl", h) }

var funcs = template.FuncMap{"sh": ShellQuote, "lines": func(s string) []string { return strings.Split(strings.TrimSpace(s), "\n") }}

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
