package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/mkcdrec/mkcdrec/vmtest"
)

// rescue measures the rescue system: sizes, the time to make it, memory, and
// the time from the kernel's start to the ready line.
func (b *bench) rescue(ctx context.Context) error {
	b.say("## Rescue system\n\nSizes of the initramfs; times of `mkcdrec rescue` with warm caches; QEMU without KVM (TCG), one processor.\n")
	b.say("| kernel, drivers | initramfs MiB | without bash, editor and the like MiB | without carried programs MiB | made in s | peak memory MB | ready line after s (median of 5) | boots with MB |\n|---|---|---|---|---|---|---|---|")
	for _, c := range []struct {
		name, pkg, set string
		mem            []int
	}{{"cloud, host", "linux-image-cloud-amd64", "host", []int{176, 160, 144}}, {"generic, default", "linux-image-amd64", "default", []int{256, 224, 192}}, {"generic, all", "linux-image-amd64", "all", []int{320, 288, 256, 224}}} {
		k, err := vmtest.FetchKernel(ctx, c.pkg)
		if err != nil {
			return err
		}
		bare, _, err := b.make(ctx, k, c.set, "none")
		if err != nil {
			return err
		}
		required, _, err := b.make(ctx, k, c.set, "required")
		if err != nil {
			return err
		}
		full, u, err := b.make(ctx, k, c.set, "")
		if err != nil {
			return err
		}
		var times []float64
		for range 5 {
			t, err := boot(ctx, k, full, 1024)
			if err != nil {
				return err
			}
			times = append(times, t)
		}
		slices.Sort(times)
		least := "none tried"
		for _, m := range c.mem {
			if _, err := boot(ctx, k, full, m); err != nil {
				break
			}
			least = strconv.Itoa(m)
		}
		b.say("| %s | %.1f | %.1f | %.1f | %.1f | %d | %.1f | %s |", c.name, mib(full), mib(required), mib(bare), u.seconds, u.rss/1024, times[2], least)
	}
	b.say("\nGoals: host with lvm2 and mkfs tools at most 16 MiB, all without carried programs at most 40 MiB; made in at most 6 s; ready after at most 4 s and 8 s; boots with 160 MB and 320 MB.")
	return nil
}

func mib(file string) float64 { return float64(size(file)) / (1 << 20) }

// make makes a medium twice, the second time warm, and takes its initramfs out.
func (b *bench) make(ctx context.Context, k *vmtest.Kernel, set, programs string) (string, usage, error) {
	iso, initrd := filepath.Join(b.dir, "r.iso"), filepath.Join(b.dir, "initrd-"+set+programs)
	args := []string{"bin/mkcdrec", "-q", "rescue", "-o", iso, "--kernel", k.Image, "--modules", k.Modules, "--module-set", set, "--append", "console=ttyS0"}
	if programs != "" {
		args = append(args, "--programs", programs)
	}
	var u usage
	for range 2 {
		os.Remove(iso)
		var err error
		if u, err = pipe(ctx, "", args); err != nil {
			return "", u, err
		}
	}
	os.Remove(initrd)
	if out, err := exec.CommandContext(ctx, "xorriso", "-osirrox", "on", "-indev", "stdio:"+iso, "-extract", "/boot/initrd.img", initrd).CombinedOutput(); err != nil {
		return "", u, fmt.Errorf("xorriso: %w: %s", err, out)
	}
	return initrd, u, os.Chmod(initrd, 0o600)
}

var readyAfter = regexp.MustCompile(`ready ([0-9.]+) s after`)

// boot starts the kernel and gives the seconds from its start to the ready line.
func boot(ctx context.Context, k *vmtest.Kernel, initrd string, mem int) (float64, error) {
	vm, err := vmtest.Start(ctx, vmtest.Machine{Name: "bench", Memory: mem, Kernel: k.Image, Initrd: initrd, Append: "console=ttyS0 rootfstype=ramfs panic=1"})
	if err != nil {
		return 0, err
	}
	defer vm.Kill()
	if _, err := vm.Expect(`mkcdrec: rescue system ready`, 90*time.Second); err != nil {
		return 0, err
	}
	g, err := vm.Expect(readyAfter.String(), 10*time.Second)
	if err != nil {
		return 0, err
	}
	return strconv.ParseFloat(g[1], 64)
}
