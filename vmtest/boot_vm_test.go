//go:build vmtest

package vmtest

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/media"
	"github.com/mkcdrec/mkcdrec/internal/stick"
)

// rescueISO makes a medium of one of Debian's kernels on this machine.
func rescueISO(ctx context.Context, t *testing.T, meta, iso string, args ...string) *Kernel {
	t.Helper()
	k, err := FetchKernel(ctx, meta)
	if err != nil {
		t.Fatal(err)
	}
	exe, _ := programs(t)
	if err := command(ctx, append([]string{exe, "-q", "rescue", "-o", iso, "--kernel", k.Image, "--modules", k.Modules}, args...)...); err != nil {
		t.Fatal(err)
	}
	return k
}

func extractInitrd(ctx context.Context, t *testing.T, iso, initrd string) {
	t.Helper()
	if err := command(ctx, "xorriso", "-osirrox", "on", "-indev", iso, "-extract", "/boot/initrd.img", initrd); err != nil {
		t.Fatal(err)
	}
}

// keyImage makes the image of a stick as usbkey divides it, which starts what
// an ISO image starts, from its second slot.
func keyImage(t *testing.T, iso, file string) string {
	t.Helper()
	if err := func() error {
		b, err := os.ReadFile(iso)
		if err != nil {
			return err
		}
		part := file + ".iso"
		if err := os.WriteFile(part, b, 0o600); err != nil {
			return err
		}
		defer os.Remove(part)
		l, err := media.FindBIOS("")
		if err != nil {
			return err
		}
		if err := media.PartitionSector(part, l); err != nil {
			return err
		}
		const size = 1 << 30
		h, err := stick.New("0d5f4d2b-5a86-4a0e-8d0a-7a1c5f0e6b11", size, int64(len(b)))
		if err != nil {
			return err
		}
		k := media.Key{Header: h}
		f, err := os.Create(file)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := f.Truncate(size); err != nil {
			return err
		}
		if err := k.Format(f, size, l); err != nil {
			return err
		}
		if err := k.Put(context.Background(), f, 1, part, func(int64) {}); err != nil {
			return err
		}
		return k.Activate(f, 1, l)
	}(); err != nil {
		t.Fatal(err)
	}
	return file
}

const consoles = "console=tty0 console=ttyS0,115200 " + KernelWords

// TestBoot starts one image in every way there is, Debian's generic kernel:
// boot-FIRMWARE-MEDIUM.
func TestBoot(t *testing.T) {
	short(t)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Minute)
	defer cancel()
	dir := workDir(t)
	iso, other, damaged := filepath.Join(dir, "r-made.iso"), filepath.Join(dir, "other.iso"), filepath.Join(dir, "damaged.iso")
	k := rescueISO(ctx, t, "linux-image-amd64", iso, "--append", consoles)
	rescueISO(ctx, t, "linux-image-amd64", other, "--module-set", "host", "--programs", "none")
	noSecrets(ctx, t, iso, dir)
	b, err := os.ReadFile(iso)
	if err != nil {
		t.Fatal(err)
	}
	if len(b) > 60<<20 {
		t.Errorf("the default medium has %d bytes; want at most 60 MiB", len(b))
	}
	b[len(b)*3/4] ^= 1
	if err := os.WriteFile(damaged, b, 0o600); err != nil {
		t.Fatal(err)
	}
	b = nil
	initrd := filepath.Join(dir, "initrd.img") // noSecrets took it out
	key := keyImage(t, iso, filepath.Join(dir, "key.img"))
	stick := func(f string) Disk { return Disk{File: f, Bus: "usb", Snapshot: true} }
	ready := func(medium string) string {
		return fmt.Sprintf(`medium: %s(?s:.*)rescue system ready(?s:.*)# `, medium)
	}
	for _, c := range []struct {
		name   string
		uefi   string // "", "uefi", "uefi-sb"
		m      Machine
		key    string
		want   string
		answer string // command at the prompt, with its output wanted
		says   string
		all    bool // only with make test-all: others start this way, too
	}{
		{"boot-bios-cd", "", Machine{IDECD: iso}, "r", ready("/dev/sr0"), "", "", false},
		{"boot-bios-usb", "", Machine{Disks: []Disk{stick(iso)}}, "r", ready("/dev/sda"), "", "", true},
		{"boot-uefi-cd", "uefi", Machine{IDECD: iso}, "r", ready("/dev/sr0"), "", "", true},
		{"boot-uefi-usb", "uefi", Machine{Disks: []Disk{stick(iso)}}, "r", ready("/dev/sda"), "", "", true},
		{"boot-uefi-sb-cd", "uefi-sb", Machine{IDECD: iso}, "r", ready("/dev/sr0"), "dmesg | grep -i secure", "Secure boot enabled", false},
		{"boot-uefi-sb-usb", "uefi-sb", Machine{Disks: []Disk{stick(iso)}}, "r", ready("/dev/sda"), "dmesg | grep -i secure", "Secure boot enabled", true},
		{"boot-bios-key", "", Machine{Disks: []Disk{stick(key)}}, "r", ready("/dev/sda1"), "", "", false},
		{"boot-uefi-sb-key", "uefi-sb", Machine{Disks: []Disk{stick(key)}}, "r", ready("/dev/sda1"), "dmesg | grep -i secure", "Secure boot enabled", false},
		{"boot-bios-serial", "", Machine{IDECD: iso}, "s", ready("/dev/sr0"), "cat /proc/cmdline", "console=ttyS0,115200", false},
		{"boot-bios-safe", "", Machine{IDECD: iso}, "g", ready("/dev/sr0"), "cat /proc/cmdline", "nomodeset", true},
		{"boot-bios-check", "", Machine{IDECD: iso}, "c", `medium is whole(?s:.*)rescue system ready(?s:.*)# `, "", "", true},
		{"boot-bios-check-damaged", "", Machine{IDECD: damaged}, "c", `MEDIUM DAMAGED: /dev/sr0(?s:.*)rescue system ready(?s:.*)# `, "", "", false},
		{"boot-bios-two-media", "", Machine{IDECD: iso, Disks: []Disk{stick(other)}}, "r", `medium: /dev/sr0(?s:.*)other media of ours are here too, and are left alone: /dev/sda \(mkcdrec(?s:.*)rescue system ready`, "", "", false},
		{"boot-bios-kernel", "", Machine{Kernel: k.Image, Initrd: initrd, Append: "console=ttyS0 rootfstype=ramfs"}, "", `disks: none(?s:.*)rescue system ready(?s:.*)# `, "", "", false},
		{"boot-bios-medium-gone", "", Machine{Kernel: k.Image, Initrd: initrd, Append: "console=ttyS0 rootfstype=ramfs mkcdrec.medium=0"}, "", `did not appear within 20s: was it pulled out(?s:.*)rescue system ready(?s:.*)# `, "", "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.all {
				onlyAll(t)
			}
			c.m.Name, c.m.Log = c.name, filepath.Join(dir, c.name+".log")
			var err error
			switch c.uefi {
			case "uefi":
				c.m.UEFI, err = NVRAM(filepath.Join(dir, c.name+".vars"))
			case "uefi-sb":
				c.m.Secure = true
				c.m.UEFI, err = SecureNVRAM(filepath.Join(dir, c.name+".vars"))
			}
			if err != nil {
				t.Fatal(err)
			}
			vm, err := Start(ctx, c.m)
			if err != nil {
				t.Fatal(err)
			}
			defer vm.Kill()
			if c.key != "" {
				if err := vm.Menu(c.key, bootLimit); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := vm.Expect(c.want, bootLimit); err != nil {
				t.Fatal(err)
			}
			if c.answer != "" {
				if out, _, err := vm.Run(c.answer, time.Minute); err != nil || !strings.Contains(out, c.says) {
					t.Errorf("%s: %q, %v; want %q", c.answer, out, err, c.says)
				}
			}
			if err := vm.Send("reboot\n"); err != nil {
				t.Fatal(err)
			}
			if err := vm.Wait(bootLimit); err != nil { // -no-reboot: QEMU ends
				t.Error(err)
			}
		})
	}
	// Nobody presses a key. This medium was made without a machine's layout, so that it
	// knows no disk by its id, and a BIOS starts a blank one's zero bytes: the rescue
	// system is booted, and restores nothing. What a machine's own medium does is seen
	// in each circle (forgotten).
	t.Run("boot-bios-forgotten", func(t *testing.T) {
		src, err := Prepare(ctx, BIOSLVM, t.Logf)
		if err != nil {
			t.Fatal(err)
		}
		vm, err := Start(ctx, Machine{Name: "forgotten", IDECD: iso, Disks: []Disk{{File: src.Disk, Snapshot: true}}, Log: filepath.Join(dir, "forgotten.log")})
		if err != nil {
			t.Fatal(err)
		}
		defer vm.Kill()
		if _, err := vm.Expect(`rescue system ready`, bootLimit); err != nil {
			t.Error(err)
		}
		if strings.Contains(vm.Output(), "UNATTENDED") {
			t.Error("an unattended restore was begun")
		}
	})
}

// TestReproducible: with SOURCE_DATE_EPOCH the same input gives the same image.
func TestReproducible(t *testing.T) {
	short(t)
	ctx := context.Background()
	dir := workDir(t)
	k, err := FetchKernel(ctx, "linux-image-cloud-amd64")
	if err != nil {
		t.Fatal(err)
	}
	exe, _ := programs(t)
	var first []byte
	for i, procs := range []string{"1", "4"} {
		iso := filepath.Join(dir, fmt.Sprint(i), "r.iso")
		if err := os.MkdirAll(filepath.Dir(iso), 0o755); err != nil {
			t.Fatal(err)
		}
		c := exec.CommandContext(ctx, exe, "-q", "rescue", "-o", iso, "--kernel", k.Image, "--modules", k.Modules)
		c.Env = append(os.Environ(), "SOURCE_DATE_EPOCH=1700000000", "GOMAXPROCS="+procs)
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		b, err := os.ReadFile(iso)
		if err != nil {
			t.Fatal(err)
		}
		if st, err := os.Stat(iso); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("mode %v, %v; want 0600", st.Mode(), err)
		}
		if first != nil && !bytes.Equal(first, b) {
			t.Error("two builds differ")
		}
		first = b
	}
}

// TestLoaders makes media where no boot loader is installed, on a Debian and
// on something else, and starts them.
func TestLoaders(t *testing.T) {
	short(t)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Minute)
	defer cancel()
	dir := workDir(t)
	k, err := FetchKernel(ctx, "linux-image-cloud-amd64")
	if err != nil {
		t.Fatal(err)
	}
	exe, _ := programs(t)
	make := []string{"rescue", "--kernel", k.Image, "--modules", k.Modules, "--append", consoles}
	for name, c := range map[string]struct {
		args []string
		says string
	}{
		// Debian: the loaders' directories are empty.
		"debian": {append([]string{"unshare", "-m", "sh", "-c", `for d in ISOLINUX PXELINUX syslinux grub shim systemd/boot; do [ -d /usr/lib/$d ] && mount -t tmpfs none /usr/lib/$d; done; exec "$@"`, "sh", exe}, append(make, "-o", filepath.Join(dir, "debian.iso"))...), "the loader pack's isolinux"},
		// Another distribution's layout, as Arch has it: one directory for
		// programs, one for libraries, and no loaders.
		"other": {append([]string{"unshare", "-m", "sh", "-ec", `R=$1; shift
mkdir -p $R/usr/bin $R/usr/lib/modules $R/etc $R/proc $R/sys $R/dev $R/tmp $R/out $R/cache
ln -sfn usr/bin $R/bin; ln -sfn usr/bin $R/sbin; ln -sfn bin $R/usr/sbin; ln -sfn usr/lib $R/lib64; ln -sfn usr/lib $R/lib; ln -sfn lib $R/usr/lib64
printf 'ID=arch\n' > $R/etc/os-release
cp /bin/bash $R/usr/bin/; for l in $(ldd /bin/bash | grep -o '/[^ ]*'); do cp -L $l $R/usr/lib/; done
cp $1 $R/mkcdrec; shift
for d in proc sys dev; do mount --rbind /$d $R/$d; done; mount --bind ` + filepath.Dir(filepath.Dir(k.Image)) + ` $R/cache; mount --bind ` + dir + ` $R/out
exec chroot $R /mkcdrec "$@"`, "sh", filepath.Join(dir, "tree"), exe}, "rescue", "--kernel", "/cache/boot/"+filepath.Base(k.Image), "--modules", "/cache/lib/modules/"+k.Release, "--append", consoles, "-o", "/out/other.iso"), "start only kernels that Debian signed"},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := exec.CommandContext(ctx, c.args[0], c.args[1:]...).CombinedOutput()
			if err != nil || !strings.Contains(string(out), c.says) && name == "debian" {
				t.Fatalf("%v: %s", err, out)
			}
			for _, fw := range []string{"bios", "uefi"} {
				m := Machine{Name: "loaders-" + name + "-" + fw, CDROM: filepath.Join(dir, name+".iso"), Log: filepath.Join(dir, name+"-"+fw+".log")}
				if fw == "uefi" {
					if m.UEFI, err = NVRAM(filepath.Join(dir, name+".vars")); err != nil {
						t.Fatal(err)
					}
				}
				vm, err := Start(ctx, m)
				if err != nil {
					t.Fatal(err)
				}
				if err := vm.Menu("r", bootLimit); err != nil {
					t.Error(err)
				} else if _, err := vm.Expect(`medium: /dev/sr0(?s:.*)rescue system ready`, bootLimit); err != nil {
					t.Error(err)
				}
				vm.Kill()
			}
		})
	}
}

// TestMemory: with little memory the system starts, or says why not.
func TestMemory(t *testing.T) {
	short(t)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Minute)
	defer cancel()
	dir := workDir(t)
	for _, c := range []struct {
		kernel, set, append string
		memory              int
		want                string
	}{
		{"linux-image-cloud-amd64", "host", "rootfstype=ramfs", 160, `rescue system ready`},
		{"linux-image-amd64", "all", "rootfstype=ramfs", 320, `rescue system ready`},
		// Without our word on the command line the kernel cuts the tree off in
		// silence; we don't.
		{"linux-image-amd64", "all", "", 208, `(?s)ERROR: the rescue system is not whole.*has \d+ MiB of memory, too little`},
		{"linux-image-amd64", "all", "rootfstype=ramfs", 112, `(?i)(out of memory|deadlocked on memory|Initramfs unpacking failed|too little)`},
	} {
		iso, initrd := filepath.Join(dir, c.set+".iso"), filepath.Join(dir, c.set+".img")
		k, err := FetchKernel(ctx, c.kernel)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(initrd); err != nil {
			rescueISO(ctx, t, c.kernel, iso, "--module-set", c.set)
			extractInitrd(ctx, t, iso, initrd)
		}
		vm, err := Start(ctx, Machine{Name: "memory", Memory: c.memory, Kernel: k.Image, Initrd: initrd, Append: "console=ttyS0 panic=1 " + c.append, Log: filepath.Join(dir, fmt.Sprintf("%s-%d.log", c.set, c.memory))})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := vm.Expect(c.want, bootLimit); err != nil {
			t.Errorf("%s with %d MB: %v", c.set, c.memory, err)
		}
		vm.Kill()
	}
}

// TestLocal: the rescue system in the machine's own boot menus, and out again.
func TestLocal(t *testing.T) {
	long(t)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Minute)
	defer cancel()
	exe, guest := programs(t)
	for _, kind := range []string{BIOSLVM, UEFIPlain} {
		t.Run(kind, func(t *testing.T) {
			dir := filepath.Join(workDir(t), kind)
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			r := Circle{Kind: kind, Work: dir, Say: t.Logf, Mkcdrec: exe, Guest: guest}.new()
			if err := r.prepare(ctx); err != nil {
				t.Fatal(err)
			}
			disk := filepath.Join(dir, "disk.qcow2")
			if err := command(ctx, "qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", r.src.Disk, disk); err != nil {
				t.Fatal(err)
			}
			m := Machine{Name: "local-" + kind, Disks: []Disk{{File: disk, Serial: r.src.Serial}, {File: r.setDisk, Serial: "SETDISK01"}}}
			if kind == UEFIPlain {
				m.UEFI = filepath.Join(dir, "vars")
				if err := command(ctx, "cp", r.src.NVRAM(), m.UEFI); err != nil {
					t.Fatal(err)
				}
			}
			start := func(log string) *VM {
				t.Helper()
				m.Log = filepath.Join(dir, log+".log")
				vm, err := Start(ctx, m)
				if err != nil {
					t.Fatal(err)
				}
				return vm
			}
			off := func(vm *VM, cmd string) {
				t.Helper()
				if err := vm.Send(cmd + "\n"); err != nil {
					t.Fatal(err)
				}
				if err := vm.Wait(bootLimit); err != nil {
					t.Fatal(err)
				}
			}
			vm := start("install")
			defer func() { vm.Kill() }()
			if err := vm.Login(Password, bootLimit); err != nil {
				t.Fatal(err)
			}
			f := newFaults(t, vm)
			f.want(0, "mkdir -p /backup && mount LABEL=SETDISK /backup && cp /backup/bin/mkcdrec /usr/local/bin/ && sha256sum /boot/grub/grub.cfg > /root/sum")
			f.want(0, "mkcdrec test local", "local-menu")
			f.want(0, "mkcdrec rescue --local --append mkcdrec.shell", "added: entry in GRUB's menu")
			f.want(0, "mkcdrec -q rescue --local --append mkcdrec.shell && test $(grep -c '^menuentry' /boot/grub/custom.cfg) = 1 && sha256sum --quiet -c /root/sum && test $(stat -c %a /boot/mkcdrec/initrd.img) = 600")
			next := `grub-reboot "$(sed -n "s/^menuentry '\\([^']*\\)'.*/\\1/p" /boot/grub/custom.cfg)" && sync`
			if kind == UEFIPlain {
				next = `efibootmgr -q -n $(efibootmgr | sed -n 's/^Boot\([0-9A-F]*\)\* mkcdrec.*/\1/p') && sync`
				f.want(0, "efibootmgr", "mkcdrec rescue system")
			}
			f.want(0, next)
			off(vm, "reboot")
			vm = start("rescue")
			if _, err := vm.Expect(`rescue system ready(?s:.*)# `, bootLimit); err != nil {
				t.Fatal(err)
			}
			off(vm, "reboot")
			vm = start("remove")
			if err := vm.Login(Password, bootLimit); err != nil {
				t.Fatal(err)
			}
			f = newFaults(t, vm)
			f.want(0, "mkcdrec rescue --local-remove && test ! -e /boot/mkcdrec && test ! -e /boot/grub/custom.cfg && ! (efibootmgr 2>/dev/null | grep -q mkcdrec) && test ! -e /boot/efi/EFI/mkcdrec")
			off(vm, "poweroff")
		})
	}
}
