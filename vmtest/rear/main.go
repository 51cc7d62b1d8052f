// Command rear makes a rescue image with Debian's Relax-and-Recover and one
// with mkcdrec, in one and the same machine in QEMU, and compares how long each
// takes, how large the images are, and with how little memory they start.
//
//	go run ./vmtest/rear      (after make build; half an hour; the guest needs the Internet for ReaR's packages)
//
// It prints the section for docs/BENCHMARKS.md.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/mkcdrec/mkcdrec/vmtest"
)

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "rear:", err)
		os.Exit(1)
	}
}

// way is one of the two programs.
type way struct {
	name, version, command, iso, kernel, initrd, ready string
	memory                                             []int // MiB, tried in this order
	seconds                                            float64
	size                                               int64
	least                                              int
}

func run(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "rear-*")
	if err != nil {
		return err
	}
	if keep := os.Getenv("MKCDREC_KEEP"); keep != "" {
		dir = filepath.Join(keep, "rear")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	} else {
		defer os.RemoveAll(dir)
	}
	say := func(f string, a ...any) { fmt.Fprintf(os.Stderr, f+"\n", a...) }
	src, err := vmtest.Prepare(ctx, vmtest.BIOSLVM, say)
	if err != nil {
		return err
	}
	ways := []*way{
		{name: "rear mkrescue", version: "rear -V", command: "rear mkrescue", iso: "/var/lib/rear/output/rear-" + vmtest.BIOSLVM + ".iso", kernel: "/isolinux/kernel", initrd: "/isolinux/initrd.cgz", ready: `\S+ login: `, memory: []int{192, 224, 256, 288, 320, 352, 384, 448, 512, 576, 640, 704, 768, 896, 1024, 1280}},
		{name: "mkcdrec rescue", version: "/backup/bin/mkcdrec version", command: "/backup/bin/mkcdrec -q rescue -o /root/mkcdrec.iso", iso: "/root/mkcdrec.iso", kernel: "/boot/vmlinuz", initrd: "/boot/initrd.img", ready: `rescue system ready`, memory: []int{96, 128, 144, 160, 192, 224, 256, 320}},
	}
	if err := make2(ctx, src, dir, ways, say); err != nil {
		return err
	}
	for _, w := range ways {
		if err := w.start(ctx, dir, say); err != nil {
			return err
		}
	}
	fmt.Print(table(ways))
	return nil
}

// make2 has both images made and copied to the disk that brought the programs.
func make2(ctx context.Context, src *vmtest.Source, dir string, ways []*way, say func(string, ...any)) error {
	disk, set := filepath.Join(dir, "source.qcow2"), filepath.Join(dir, "set.img")
	stage := filepath.Join(dir, "stage/bin")
	if err := os.MkdirAll(stage, 0o755); err != nil {
		return err
	}
	for _, c := range [][]string{
		{"qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", src.Disk, disk},
		{"cp", "bin/mkcdrec", stage},
		{"mke2fs", "-q", "-t", "ext4", "-m", "0", "-L", "SETDISK", "-d", filepath.Dir(stage), set, "2G"},
	} {
		if err := vmtest.Command(ctx, c...); err != nil {
			return err
		}
	}
	vm, err := vmtest.Start(ctx, vmtest.Machine{Name: "rear-source", Memory: 1536, CPUs: 2, Net: true, Log: filepath.Join(dir, "source.log"), Disks: []vmtest.Disk{{File: disk, Serial: src.Serial}, {File: set, Serial: "SETDISK01"}}})
	if err != nil {
		return err
	}
	defer vm.Kill()
	if err := vm.Login(vmtest.Password, 3*time.Minute); err != nil {
		return err
	}
	must := func(cmd string) (string, error) {
		out, code, err := vm.Run(cmd, time.Hour)
		if err == nil && code != 0 {
			err = fmt.Errorf("%s: exit status %d\n%s", cmd, code, out)
		}
		return out, err
	}
	say("installing ReaR in the guest")
	for _, c := range []string{
		"mkdir -p /backup && mount LABEL=SETDISK /backup",
		// The guest's own user-mode network.
		"for d in /sys/class/net/e*; do N=${d##*/}; done; ip link set $N up && ip addr add 10.0.2.15/24 dev $N && ip route add default via 10.0.2.2 && echo nameserver 10.0.2.3 > /etc/resolv.conf",
		"apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y -o APT::Install-Recommends=true rear less file >/dev/null 2>&1; command -v rear",
		`printf 'OUTPUT=ISO\nKERNEL_CMDLINE="console=tty0 console=ttyS0,115200"\n' > /etc/rear/local.conf`,
	} {
		if _, err := must(c); err != nil {
			return err
		}
	}
	for _, w := range ways {
		if w.version, err = must(w.version + " | head -1"); err != nil {
			return err
		}
		w.version = strings.TrimSpace(w.version)
		say("%s (%s) ...", w.name, w.version)
		out, err := must("sync; S=$(date +%s.%N); " + w.command + " >/tmp/out 2>&1 || { tail -30 /tmp/out; false; } && sync; R=$?; echo TOOK $(awk \"BEGIN{print $(date +%s.%N)-$S}\") $(stat -c %s " + w.iso + "); [ $R = 0 ]")
		if err != nil {
			return err
		}
		_, rest, _ := strings.Cut(out, "TOOK ")
		if _, err := fmt.Sscan(rest, &w.seconds, &w.size); err != nil {
			return fmt.Errorf("cannot read the time of %s in %q: %w", w.name, out, err)
		}
		say("%s: %.0f s, %d bytes", w.name, w.seconds, w.size)
		if _, err := must("cp " + w.iso + " /backup/ && sync"); err != nil {
			return err
		}
	}
	if err := vm.Send("umount /backup; poweroff\n"); err != nil {
		return err
	}
	if err := vm.Wait(3 * time.Minute); err != nil {
		return err
	}
	for _, w := range ways {
		iso := filepath.Join(dir, filepath.Base(w.iso))
		if err := vmtest.Command(ctx, "debugfs", "-R", "dump /"+filepath.Base(w.iso)+" "+iso, set); err != nil {
			return err
		}
	}
	return nil
}

// start finds the least memory that the image starts with: its kernel and
// initramfs, without firmware and menu.
func (w *way) start(ctx context.Context, dir string, say func(string, ...any)) error {
	iso := filepath.Join(dir, filepath.Base(w.iso))
	kernel, initrd := iso+".kernel", iso+".initrd"
	if err := vmtest.Command(ctx, "xorriso", "-osirrox", "on", "-indev", iso, "-extract", w.kernel, kernel, "-extract", w.initrd, initrd); err != nil {
		return err
	}
	for _, mb := range w.memory {
		vm, err := vmtest.Start(ctx, vmtest.Machine{Name: "rear-start", Memory: mb, Kernel: kernel, Initrd: initrd, Append: "root=/dev/ram0 selinux=0 vga=normal rootfstype=ramfs panic=-1 console=ttyS0,115200", Log: fmt.Sprintf("%s-%d.log", iso, mb)})
		if err != nil {
			return err
		}
		_, err = vm.Expect(w.ready, 3*time.Minute)
		_ = vm.Kill()
		say("%s with %d MiB: %v", w.name, mb, err == nil)
		if err == nil {
			w.least = mb
			return nil
		}
	}
	return fmt.Errorf("cannot start the image of %s with %d MiB", w.name, w.memory[len(w.memory)-1])
}

func table(ways []*way) string {
	var b strings.Builder
	r, m := ways[0], ways[1]
	b.WriteString("## Side by side with Relax-and-Recover\n\nOne Debian 12 with LVM in QEMU (TCG, 2 processors, 1.5 GiB), `go run ./vmtest/rear`.\n\n| | s | image, bytes | starts with, MiB |\n|---|---|---|---|\n")
	for _, w := range ways {
		b.WriteString("| " + w.name + " (" + w.version + ") | " + strconv.FormatFloat(w.seconds, 'f', 1, 64) + " | " + strconv.FormatInt(w.size, 10) + " | " + strconv.Itoa(w.least) + " |\n")
	}
	fmt.Fprintf(&b, "\nGoals: 20 times as fast (here %.1f), a third of the size (here 1/%.1f), a quarter of the memory (here 1/%.1f).\n", r.seconds/m.seconds, float64(r.size)/float64(m.size), float64(r.least)/float64(m.least))
	return b.String()
}
