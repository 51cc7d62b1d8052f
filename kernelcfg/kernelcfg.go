// Package kernelcfg finds the kernel for the rescue system, reads its
// configuration, tells what is missing there, and chooses the modules and
// firmware to go along.
package kernelcfg

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/klauspost/compress/gzip"
)

// Kernel is a kernel image with what belongs to it.
type Kernel struct {
	Image   string // path
	Release string // as uname -r
	Modules string // directory of its modules, "" when it has none
	// Config is the kernel's configuration, nil when it can't be had.
	Config Config
	// ConfigFrom is the file the configuration was read from.
	ConfigFrom string
}

// Config maps CONFIG_X to its value: "y", "m", a number or a string.
type Config map[string]string

// NotFoundError tells where a kernel was looked for.
type NotFoundError struct {
	Release string
	Tried   []string
}

func (e *NotFoundError) Error() string {
	return fmt.Sprintf("cannot find the image of the running kernel %s: looked for %s", e.Release, strings.Join(e.Tried, ", "))
}

// Find finds a kernel below root ("" for the machine itself). image and
// modules name them; "" takes the image of the running release.
func Find(root, release, image, modules string) (*Kernel, error) {
	k := &Kernel{Image: image, Release: release, Modules: modules}
	if image == "" {
		var tried []string
		for _, p := range []string{"/boot/vmlinuz-" + release, "/lib/modules/" + release + "/vmlinuz", "/usr/lib/modules/" + release + "/vmlinuz", "/boot/kernel-" + release, "/boot/vmlinux-" + release} {
			if _, err := os.Stat(root + p); err == nil {
				k.Image = root + p
				break
			}
			tried = append(tried, p)
		}
		if k.Image == "" {
			return nil, &NotFoundError{release, tried}
		}
	}
	h, err := ReadImage(k.Image)
	if err != nil {
		return nil, err
	}
	if h != "" {
		if image == "" && h != release {
			return nil, fmt.Errorf("cannot use kernel %s: it says it is %s, but %s is running", k.Image, h, release)
		}
		k.Release = h
	}
	if k.Modules == "" {
		for _, d := range []string{"/lib/modules/", "/usr/lib/modules/"} {
			if st, err := os.Stat(root + d + k.Release); err == nil && st.IsDir() {
				k.Modules = root + d + k.Release
				break
			}
		}
	}
	if k.Config, k.ConfigFrom, err = readConfig(root, k); err != nil {
		return nil, err
	}
	return k, nil
}

// ReadImage checks that a file is a bootable x86 kernel and gives its
// release; the header is described in Documentation/arch/x86/boot.rst. On
// other architectures the release is "".
func ReadImage(file string) (release string, err error) {
	f, err := os.Open(file)
	if err != nil {
		return "", fmt.Errorf("cannot read kernel: %w", err)
	}
	defer f.Close()
	b := make([]byte, 64<<10)
	n, err := io.ReadFull(f, b)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return "", fmt.Errorf("cannot read kernel %s: %w", file, err)
	}
	b = b[:n]
	if len(b) < 0x250 || string(b[0x202:0x206]) != "HdrS" {
		return "", fmt.Errorf("cannot use kernel %s: it is no bzImage (no HdrS at byte 514)", file)
	}
	if v := binary.LittleEndian.Uint16(b[0x206:]); v < 0x206 {
		return "", fmt.Errorf("cannot use kernel %s: its boot protocol is %#x, older than 2.06", file, v)
	}
	off := int(binary.LittleEndian.Uint16(b[0x20e:])) + 0x200
	if off <= 0x200 || off >= len(b) {
		return "", fmt.Errorf("cannot use kernel %s: it does not tell its release", file)
	}
	s, _, _ := bytes.Cut(b[off:], []byte{0})
	rel, _, _ := strings.Cut(string(s), " ")
	return rel, nil
}

// readConfig looks beside the kernel, in /boot, in the modules, and asks the
// running kernel if it is the same.
func readConfig(root string, k *Kernel) (Config, string, error) {
	cands := []string{filepath.Join(filepath.Dir(k.Image), "config-"+k.Release), root + "/boot/config-" + k.Release}
	if k.Modules != "" {
		cands = append(cands, k.Modules+"/config", k.Modules+"/build/.config")
	}
	if b, err := os.ReadFile(root + "/proc/sys/kernel/osrelease"); err == nil && strings.TrimSpace(string(b)) == k.Release {
		cands = append(cands, root+"/proc/config.gz")
	}
	for _, c := range cands {
		f, err := os.Open(c)
		if err != nil {
			continue
		}
		defer f.Close()
		var r io.Reader = f
		if strings.HasSuffix(c, ".gz") {
			if r, err = gzip.NewReader(f); err != nil {
				return nil, "", fmt.Errorf("cannot read kernel configuration %s: %w", c, err)
			}
		}
		cfg, err := ParseConfig(r)
		if err != nil {
			return nil, "", fmt.Errorf("cannot read kernel configuration %s: %w", c, err)
		}
		return cfg, c, nil
	}
	return nil, "", nil
}

// ParseConfig reads a .config file.
func ParseConfig(r io.Reader) (Config, error) {
	option := regexp.MustCompile(`^CONFIG_[A-Za-z0-9_]+$`)
	c := Config{}
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 64<<10), 1<<20)
	for n := 1; s.Scan(); n++ {
		l := strings.TrimSpace(s.Text())
		if l == "" || strings.HasPrefix(l, "#") {
			continue
		}
		k, v, ok := strings.Cut(l, "=")
		if !ok || !option.MatchString(k) {
			return nil, fmt.Errorf("line %d: %q is no option", n, l)
		}
		c[k] = strings.Trim(v, `"`)
	}
	return c, s.Err()
}

// Requirement is an option that the rescue system needs.
type Requirement struct {
	Option string
	Module bool // a module will do
	Breaks string
}

// Base is what every rescue system needs.
var Base = []Requirement{
	{"CONFIG_BLK_DEV_INITRD", false, "the kernel can't start from an initramfs"},
	{"CONFIG_RD_GZIP", false, "the kernel can't unpack the initramfs"},
	{"CONFIG_DEVTMPFS", false, "no device nodes"},
	{"CONFIG_PROC_FS", false, "no /proc"},
	{"CONFIG_SYSFS", false, "no devices are found"},
	{"CONFIG_TMPFS", false, "no writable /run"},
	{"CONFIG_TTY", false, "no console"},
	{"CONFIG_BLOCK", false, "no disks"},
	{"CONFIG_BINFMT_ELF", false, "no program runs"},
	{"CONFIG_UNIX", true, "programs can't talk to each other"},
	{"CONFIG_MODULES", false, "no driver can be loaded"},
	{"CONFIG_ISO9660_FS", true, "the rescue CD can't be read"},
	{"CONFIG_EFI_PARTITION", false, "GPT partitions are not seen"},
	{"CONFIG_MSDOS_PARTITION", false, "MBR partitions are not seen"},
}

// For gives what a part of a layout needs besides Base: file system types,
// "lvm", "uefi".
func For(what string) []Requirement {
	switch what {
	case "ext2", "ext3", "ext4":
		return []Requirement{{"CONFIG_EXT4_FS", true, what + " can't be mounted"}}
	case "xfs":
		return []Requirement{{"CONFIG_XFS_FS", true, "xfs can't be mounted"}}
	case "vfat":
		return []Requirement{{"CONFIG_VFAT_FS", true, "vfat can't be mounted"}, {"CONFIG_NLS_ISO8859_1", true, "vfat can't be mounted with its default names"}}
	case "lvm":
		return []Requirement{{"CONFIG_BLK_DEV_DM", true, "LVM does not work"}}
	case "uefi":
		return []Requirement{{"CONFIG_EFI", false, "the kernel does not start from UEFI"}, {"CONFIG_EFI_STUB", false, "the kernel does not start from UEFI"}, {"CONFIG_EFIVAR_FS", true, "the firmware's boot entries can't be written"}}
	}
	return nil
}

// Missing is a requirement that is not met.
type Missing struct {
	Requirement
	Have string
}

func (m Missing) String() string {
	have := m.Have
	if have == "" {
		have = "not set"
	}
	want := "y"
	if m.Module {
		want = "y or m"
	}
	return fmt.Sprintf("%s is %s, want %s: %s", m.Option, have, want, m.Breaks)
}

// Check lists every requirement that the configuration does not meet.
func (c Config) Check(reqs []Requirement) []Missing {
	var out []Missing
	for _, r := range reqs {
		v := c[r.Option]
		if v == "y" || v == "m" && r.Module {
			continue
		}
		out = append(out, Missing{r, v})
	}
	return slices.CompactFunc(out, func(a, b Missing) bool { return a.Option == b.Option })
}

// Zstd tells whether the kernel can unpack a zstd initramfs; gzip is what to
// take when nothing is known.
func (c Config) Zstd() bool { return c["CONFIG_RD_ZSTD"] == "y" }
