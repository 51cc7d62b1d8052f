package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/blockcopy"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
)

// clone copies what is in use of src to dst, as clonedsk does, and reports what it
// waited for.
func clone(ctx context.Context, src, dst string) error {
	s, err := blockcopy.OpenDevice(src)
	if err != nil {
		return err
	}
	defer s.Close()
	m, why := blockcopy.Of(s, s.Size())
	if why != "" {
		return errors.New(why)
	}
	d, err := blockcopy.OpenTarget(dst)
	if err != nil {
		return err
	}
	defer d.Close()
	r, err := blockcopy.Copy(ctx, d, s, blockcopy.CopyOptions{Map: m})
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "%v in %.2f s, %d requests in flight, waited for %v\n", quantity.Size(r.Copied), r.Duration.Seconds(), r.InFlight, r.Waits)
	return d.Close()
}

// cloneSize is the size of the file system that is cloned, in bytes.
const cloneSize = 3 << 30

// clones copies the blocks in use of an ext4 between two disks in memory, and
// between files on this machine's disk, beside partclone and dd.
func (b *bench) clones(ctx context.Context) (err error) {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return err
	}
	disk, err := os.MkdirTemp("/var/tmp", "bench-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(disk)
	// Half of it is in use, in files of all sizes.
	src := filepath.Join(b.dir, "clone.src")
	from := filepath.Join(b.dir, "clone.files")
	defer os.RemoveAll(from)
	script := `set -e
mkdir "$2"
n=0; left=1500
while [ $left -gt 0 ]; do
	k=$((n % 40 + 1)); head -c ${k}M /dev/urandom > "$2/f$n"; left=$((left - k)); n=$((n + 1))
done
mke2fs -q -F -t ext4 -b 4096 -E nodiscard,lazy_itable_init=0,lazy_journal_init=0 -d "$2" "$1"`
	// Without holes: reading one takes no time in memory.
	if err := full(src, cloneSize); err != nil {
		return err
	}
	if out, err := exec.CommandContext(ctx, "sh", "-c", script, "sh", src, from).CombinedOutput(); err != nil {
		return fmt.Errorf("cannot make the file system: %w\n%s", err, out)
	}
	os.RemoveAll(from)
	dst := filepath.Join(b.dir, "clone.dst")
	if err := full(dst, cloneSize); err != nil {
		return err
	}
	defer os.Remove(src)
	defer os.Remove(dst)
	dev, err := blockcopy.OpenDevice(src)
	if err != nil {
		return err
	}
	m, why := blockcopy.Of(dev, cloneSize)
	dev.Close()
	if why != "" {
		return errors.New(why)
	}
	b.say("## Clones\n\nAn ext4 of %v, %v in use in %d ranges, onto a disk full of something else. Load of the machine at the start: %s.\n", quantity.Size(cloneSize), quantity.Size(m.Bytes()), len(m.Used), strings.Join(strings.Fields(string(load))[:3], ", "))
	if err := b.cloneTable(ctx, self, "between loop devices in memory", src, dst, m.Bytes()); err != nil {
		return err
	}
	a, z := filepath.Join(disk, "src"), filepath.Join(disk, "dst")
	if out, err := exec.CommandContext(ctx, "cp", "--sparse=never", src, a).CombinedOutput(); err != nil {
		return fmt.Errorf("cp: %w: %s", err, out)
	}
	if err := full(z, cloneSize); err != nil {
		return err
	}
	if err := b.cloneTable(ctx, self, "between loop devices on this machine's disk, which has the page cache above it; all is on the disk at the end", a, z, m.Bytes()); err != nil {
		return err
	}
	b.say("Goals: at least 3 times partclone's pipe and at least 0.95 of dd in memory; at least 1.5 times partclone on the disk.\n")
	return nil
}

// full makes a file of a size without holes.
func full(name string, size int64) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	buf := make([]byte, 1<<20)
	for i := range buf {
		buf[i] = 0xA5
	}
	for n := int64(0); n < size; n += int64(len(buf)) {
		if _, err := f.Write(buf); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	return errors.Join(f.Sync(), f.Close())
}

// cloneTable measures the programs between two files as disks; used is in bytes.
func (b *bench) cloneTable(ctx context.Context, self, where, src, dst string, used int64) (err error) {
	for _, f := range []*string{&src, &dst} {
		out, err := exec.CommandContext(ctx, "losetup", "-f", "--show", *f).Output()
		if err != nil {
			return fmt.Errorf("cannot set up a loop device: %w", err)
		}
		d := strings.TrimSpace(string(out))
		defer func() { err = errors.Join(err, exec.Command("losetup", "-d", d).Run()) }()
		*f = d
	}
	type method struct {
		name  string
		bytes int64
		cmds  [][]string
		us    []usage
	}
	pipeline := fmt.Sprintf("(partclone.extfs -q -c -s %s -o - -L /dev/null | partclone.restore -q -s - -o %s -L /dev/null) 2>/dev/null && sync %s", src, dst, dst)
	ms := []*method{
		{name: "mkcdrec", bytes: used, cmds: [][]string{{self, "clone", src, dst}}},
		{name: "partclone \\| partclone.restore", bytes: used, cmds: [][]string{{"sh", "-c", pipeline}}},
		{name: "partclone -b", bytes: used, cmds: [][]string{{"sh", "-c", fmt.Sprintf("partclone.extfs -q -b -s %s -o %s -L /dev/null 2>/dev/null && sync %s", src, dst, dst)}}},
		{name: "dd bs=4M, direct, all blocks", bytes: cloneSize, cmds: [][]string{{"dd", "status=none", "bs=4M", "iflag=direct", "oflag=direct", "conv=notrunc,fsync", "if=" + src, "of=" + dst}}},
	}
	for range runs {
		for _, m := range ms {
			// What another run left in the page cache must not help.
			for _, n := range []string{src, dst} {
				if f, err := os.Open(n); err == nil {
					_ = f.Sync()
					_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
					f.Close()
				}
			}
			u, err := pipe(ctx, "", m.cmds...)
			if err != nil {
				return err
			}
			m.us = append(m.us, u)
		}
	}
	rate := func(m *method) float64 { return float64(m.bytes) / 1e6 / median(m.us).seconds }
	b.say("\n%s:\n\n| method | MB/s | mkcdrec's rate relative to it | CPU s |\n|---|---|---|---|", where)
	for _, m := range ms {
		b.say("| %s | %.0f | %.2f | %.2f |", m.name, rate(m), rate(ms[0])/rate(m), median(m.us).cpu)
	}
	b.say("")
	return nil
}
