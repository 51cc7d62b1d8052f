// Package kernelcfg finds the kernel for the rescue system, reads its
// configuration, reports what is missing there, and chooses the modules and
// firmware to go along.
package kernelcfg

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/klauspost/compress/gzip"

	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/kmod"
	"github.com/mkcdrec/mkcdrec/internal/regular"
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

// NotFoundError lists where a kernel was looked for, and what else there is.
type NotFoundError struct {
	Release      string
	Tried        []string
	Alternatives []Alternative
}

// Alternative is another kernel of the machine: one that could be used, or
// why not.
type Alternative struct {
	Image, Release string
	Err            error
}

func (a Alternative) String() string {
	if a.Err != nil {
		return a.Err.Error()
	}
	return fmt.Sprintf("%s (%s) could be used", a.Image, a.Release)
}

func (e *NotFoundError) Error() string {
	s := fmt.Sprintf("cannot find the image of the running kernel %s: looked for %s", e.Release, strings.Join(e.Tried, ", "))
	for _, a := range e.Alternatives {
		s += "\n" + a.String()
	}
	return s
}

// Best as the name of a kernel takes the newest in /boot that can be started
// and has modules.
const Best = "best"

// Find finds a kernel below root ("" for the machine itself). image and
// modules name them; "" takes the image of the running release, Best the
// newest one. A kernel that can't be started is an error that lists the
// machine's other kernels. modules may also be the root of an unpacked package.
func Find(root, release, image, modules string) (*Kernel, error) {
	k := &Kernel{Image: image, Release: release, Modules: modules}
	switch image {
	case "":
		var tried []string
		for _, p := range []string{"/boot/vmlinuz-" + release, "/lib/modules/" + release + "/vmlinuz", "/usr/lib/modules/" + release + "/vmlinuz", "/boot/kernel-" + release, "/boot/vmlinux-" + release} {
			if _, err := os.Stat(root + p); err == nil {
				k.Image = root + p
				break
			}
			tried = append(tried, p)
		}
		if k.Image == "" {
			return nil, &NotFoundError{release, tried, Alternatives(root)}
		}
	case Best:
		for _, a := range Alternatives(root) {
			if a.Err == nil {
				k.Image = a.Image
				break
			}
		}
		if k.Image == "" {
			return nil, fmt.Errorf("cannot find a kernel: none in /boot can be started and has modules%s", list(Alternatives(root)))
		}
	}
	h, err := ReadImage(k.Image)
	if err != nil {
		return nil, fmt.Errorf("%w%s", err, list(Alternatives(root)))
	}
	if image == "" && h != release {
		return nil, fmt.Errorf("cannot use kernel %s: it is %s by its header, but %s is running%s", k.Image, h, release, list(Alternatives(root)))
	}
	k.Release = h
	if k.Modules == "" {
		k.Modules = modulesOf(root, k.Release)
	}
	for _, d := range []string{"/lib/modules/", "/usr/lib/modules/"} { // of an unpacked package
		if st, err := os.Stat(modules + d + k.Release); modules != "" && err == nil && st.IsDir() {
			k.Modules = modules + d + k.Release
		}
	}
	if k.Config, k.ConfigFrom, err = readConfig(root, k); err != nil {
		return nil, err
	}
	return k, nil
}

func modulesOf(root, release string) string {
	for _, d := range []string{"/lib/modules/", "/usr/lib/modules/"} {
		if _, err := os.Stat(root + d + release + "/modules.dep"); err == nil {
			return root + d + release
		}
	}
	return ""
}

func list(alts []Alternative) string {
	s := ""
	for _, a := range alts {
		s += "\n" + a.String()
	}
	return s
}

// Alternatives lists the kernels of /boot and of the module trees, the newest
// first, and those that can't be used last.
func Alternatives(root string) []Alternative {
	var out []Alternative
	for _, g := range []string{"/boot/vmlinuz*", "/boot/kernel-*", "/boot/vmlinux*", "/boot/xen*.gz", "/usr/lib/modules/*/vmlinuz", "/boot/*/*/linux"} {
		files, err := filepath.Glob(root + g)
		if err != nil {
			continue
		}
		for _, f := range files {
			if st, err := os.Lstat(f); err != nil || !st.Mode().IsRegular() {
				continue // vmlinuz -> vmlinuz-6.1
			}
			a := Alternative{Image: f}
			if a.Release, a.Err = ReadImage(f); a.Err == nil && modulesOf(root, a.Release) == "" {
				a.Err = fmt.Errorf("cannot use kernel %s: there are no modules for %s", f, a.Release)
			}
			out = append(out, a)
		}
	}
	slices.SortStableFunc(out, func(a, b Alternative) int {
		if (a.Err == nil) != (b.Err == nil) {
			if a.Err == nil {
				return -1
			}
			return 1
		}
		return CompareRelease(b.Release, a.Release)
	})
	return out
}

// CompareRelease compares releases as versions: digits as numbers.
func CompareRelease(a, b string) int {
	for a != "" && b != "" {
		da, db := digits(a), digits(b)
		if da > 0 && db > 0 {
			x, y := strings.TrimLeft(a[:da], "0"), strings.TrimLeft(b[:db], "0")
			if c := cmp.Or(cmp.Compare(len(x), len(y)), strings.Compare(x, y)); c != 0 {
				return c
			}
			a, b = a[da:], b[db:]
			continue
		}
		if a[0] != b[0] {
			return cmp.Compare(a[0], b[0])
		}
		a, b = a[1:], b[1:]
	}
	return cmp.Compare(len(a), len(b))
}

func digits(s string) int {
	n := 0
	for n < len(s) && s[n] >= '0' && s[n] <= '9' {
		n++
	}
	return n
}

// readConfig looks beside the kernel, in /boot, in the modules, asks the
// running kernel if it is the same, and looks into the image.
func readConfig(root string, k *Kernel) (Config, string, error) {
	cands := []string{filepath.Join(filepath.Dir(k.Image), "config-"+k.Release), root + "/boot/config-" + k.Release}
	if k.Modules != "" {
		cands = append(cands, k.Modules+"/config", k.Modules+"/build/.config")
	}
	if b, err := os.ReadFile(root + "/proc/sys/kernel/osrelease"); err == nil && strings.TrimSpace(string(b)) == k.Release {
		cands = append(cands, root+"/proc/config.gz")
	}
	for _, c := range cands {
		f, err := regular.Open(c)
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
	if r, ok := embeddedConfig(k.Image); ok {
		cfg, err := ParseConfig(r)
		if err != nil {
			return nil, "", fmt.Errorf("cannot read kernel configuration inside %s: %w", k.Image, err)
		}
		return cfg, k.Image + " itself", nil
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
			return nil, fmt.Errorf("line %d: %q is not an option", n, l)
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
	{"CONFIG_BINFMT_SCRIPT", false, "no packed program of this machine starts"},
	{"CONFIG_UNIX", true, "programs can't talk to each other"},
	{"CONFIG_MODULES", false, "no driver can be loaded"},
	{"CONFIG_ISO9660_FS", true, "the rescue CD can't be read"},
	{"CONFIG_EFI_PARTITION", false, "GPT partitions are not seen"},
	{"CONFIG_MSDOS_PARTITION", false, "MBR partitions are not seen"},
	{"CONFIG_BLK_DEV_SD", true, "no SCSI, SATA or USB disk is seen"},
	{"CONFIG_BLK_DEV_SR", true, "no CD drive is seen"},
	{"CONFIG_JOLIET", false, "long names on CDs of other systems are cut"},
	{"CONFIG_INET", false, "no network"},
	{"CONFIG_PACKET", true, "DHCP does not work"},
	{"CONFIG_SHMEM", false, "no tmpfs"},
	{"CONFIG_PRINTK", false, "no kernel messages to find a cause in"},
	{"CONFIG_EPOLL", false, "no Go program runs"},
	{"CONFIG_FUTEX", false, "no Go program runs"},
	{"CONFIG_64BIT", false, "this program is a 64-bit one"},
}

// For gives what a part of a layout needs besides Base: file system types,
// "lvm", "uefi".
func For(what string) []Requirement {
	switch what {
	case "lvm":
		return []Requirement{{"CONFIG_BLK_DEV_DM", true, "LVM does not work"}}
	case "thin":
		return []Requirement{{"CONFIG_DM_THIN_PROVISIONING", true, "thin pools do not work"}}
	case "luks":
		return []Requirement{{"CONFIG_DM_CRYPT", true, "LUKS devices can't be opened"}}
	case "md":
		return []Requirement{{"CONFIG_BLK_DEV_MD", true, "software RAID does not work"}}
	case "linear", "raid0", "raid1", "raid10", "raid4", "raid5", "raid6":
		option := map[string]string{"linear": "CONFIG_MD_LINEAR", "raid4": "CONFIG_MD_RAID456", "raid5": "CONFIG_MD_RAID456", "raid6": "CONFIG_MD_RAID456"}[what]
		if option == "" {
			option = "CONFIG_MD_" + strings.ToUpper(what)
		}
		return []Requirement{{option, true, "arrays of " + what + " can't be made"}}
	case "uefi":
		return []Requirement{{"CONFIG_EFI", false, "the kernel does not start from UEFI"}, {"CONFIG_EFI_STUB", false, "the kernel does not start from UEFI"}, {"CONFIG_EFIVAR_FS", true, "the firmware's boot entries can't be written"}}
	}
	var out []Requirement
	for _, o := range fstype.Of(what).Config {
		out = append(out, Requirement{o.Name, true, what + " " + o.Breaks})
	}
	return out
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

// CheckModules checks that the module tree belongs to the kernel: that there
// is an index, and that the modules say they are for its release and machine.
func CheckModules(k *Kernel) (*kmod.Index, error) {
	if k.Modules == "" {
		return nil, fmt.Errorf("cannot use kernel %s: there are no modules for %s in /lib/modules", k.Image, k.Release)
	}
	x, err := kmod.Open(k.Modules)
	if err != nil {
		return nil, err
	}
	for _, n := range []string{"ext4", "isofs", "loop", "dm_mod", "virtio_pci", "crc16"} {
		if _, ok := x.Path[n]; !ok {
			continue
		}
		b, err := x.Read(n)
		if err != nil {
			return nil, err
		}
		if m := kmod.Machine(b); m != "" && m != "EM_X86_64" {
			return nil, fmt.Errorf("cannot use the modules in %s: %s is for %s, wrong architecture", k.Modules, n, m)
		}
		v, err := kmod.Modinfo(b, "vermagic")
		if err != nil {
			return nil, err
		}
		if len(v) > 0 {
			if rel, _, _ := strings.Cut(v[0], " "); rel != k.Release {
				return nil, fmt.Errorf("cannot use the modules in %s: they are for kernel %s, but %s is %s", k.Modules, rel, k.Image, k.Release)
			}
		}
		break
	}
	return x, nil
}

// Zstd reports whether the kernel can unpack a zstd initramfs; gzip is what to
// take when nothing is known.
func (c Config) Zstd() bool { return c["CONFIG_RD_ZSTD"] == "y" }
