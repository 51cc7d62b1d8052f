package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/blockcopy"
)

// blocks maps a sparse ext4 of 100 GB, as the kernel reports it, and has dumpe2fs
// list its free blocks.
func (b *bench) blocks(ctx context.Context) (err error) {
	dir, err := os.MkdirTemp("/var/tmp", "bench-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	img, mnt := filepath.Join(dir, "img"), filepath.Join(dir, "mnt")
	script := `set -e
truncate -s 100G "$1"; mke2fs -q -t ext4 -F "$1"; mkdir "$2"; losetup -f --show "$1"`
	out, err := exec.CommandContext(ctx, "sh", "-c", script, "sh", img, mnt).Output()
	if err != nil {
		return fmt.Errorf("cannot make the file system: %w", err)
	}
	dev := strings.TrimSpace(string(out))
	defer func() { err = errors.Join(err, exec.Command("losetup", "-d", dev).Run()) }()
	if err := unix.Mount(dev, mnt, "ext4", 0, ""); err != nil {
		return fmt.Errorf("cannot mount %s: %w", dev, err)
	}
	defer func() { err = errors.Join(err, unix.Unmount(mnt, 0)) }()
	for i := range 2000 {
		if err := os.WriteFile(fmt.Sprintf("%s/f%d", mnt, i), make([]byte, 1000*(i%50)), 0o600); err != nil {
			return err
		}
	}
	unix.Sync()
	var ours, theirs []float64
	var m *blockcopy.Map
	for range runs {
		start := time.Now()
		if m, err = blockcopy.MountedOn(mnt, dev); err != nil {
			return err
		}
		ours = append(ours, time.Since(start).Seconds()*1000)
		start = time.Now()
		if err := exec.CommandContext(ctx, "dumpe2fs", dev).Run(); err != nil {
			return err
		}
		theirs = append(theirs, time.Since(start).Seconds()*1000)
	}
	slices.Sort(ours)
	slices.Sort(theirs)
	b.say("## Blocks in use\n\nA sparse ext4 of 100 GB with 2,000 files, mounted; the kernel is asked which blocks are in use (%d ranges, %d MiB); medians of %d.\n\n| | ms |\n|---|---|\n| map of blocks in use | %.0f |\n| dumpe2fs, which lists the free ones | %.0f |\n\nGoal: less than 2,000 ms.\n", len(m.Used), m.Bytes()>>20, runs, ours[len(ours)/2], theirs[len(theirs)/2])
	return nil
}
