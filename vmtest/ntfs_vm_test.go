//go:build vmtest

package vmtest

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// TestCloneNTFS clones a data disk with an NTFS onto disks of other sizes. Where it does not
// fit, or the sectors are larger, that is refused, and the disk is not touched.
func TestCloneNTFS(t *testing.T) {
	long(t)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Minute)
	defer cancel()
	dir := workDir(t)
	iso := filepath.Join(dir, "rescue.iso")
	rescueISO(ctx, t, "linux-image-cloud-amd64", iso, "--append", consoles)
	files := map[string][]byte{"one": make([]byte, 1234567), "two": make([]byte, 5000000), "empty": nil, "zero": make([]byte, 300000)}
	for _, name := range []string{"one", "two"} {
		rand.Read(files[name])
	}
	source := filepath.Join(dir, "source.img")
	if err := ntfsDisk(ctx, source, files); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(source)
	if err != nil {
		t.Fatal(err)
	}
	m := Machine{Name: "clone-ntfs", Memory: 768, Log: filepath.Join(dir, "clone.log"), CDROM: iso, Disks: []Disk{{File: source, Serial: "NTFSSOURCE"}}}
	file := func(serial string) string { return filepath.Join(dir, serial+".img") }
	for _, d := range ntfsTargets {
		if err := command(ctx, "truncate", "-s", d.size, file(d.serial)); err != nil {
			t.Fatal(err)
		}
		m.Disks = append(m.Disks, Disk{File: file(d.serial), Serial: d.serial, Sector: d.sector})
	}
	vm, err := Start(ctx, m)
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Kill()
	if err := vm.Menu("r", bootLimit); err != nil {
		t.Fatal(err)
	}
	if _, err := vm.Expect(`rescue system ready(?s:.*)# `, bootLimit); err != nil {
		t.Fatal(err)
	}
	for _, d := range ntfsTargets {
		words := "clonedsk /dev/" + diskNames(m.Disks[:1]) + " " + diskNames([]Disk{{Serial: d.serial}}) + " --yes --confirm " + d.serial + " 2>&1"
		want := `copy the used blocks of vd.1`
		if d.refused != "" {
			words, want = words+"; test $? = 4", d.refused
		}
		if err := play(vm, step{run: words, want: want}); err != nil {
			t.Errorf("%s: %v", d.serial, err)
		}
	}
	if err := vm.Send("poweroff\n"); err != nil {
		t.Fatal(err)
	}
	if err := vm.Wait(bootLimit); err != nil {
		t.Fatal(err)
	}
	if after, err := os.ReadFile(source); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the source was changed: %v", err)
	}
	for _, d := range ntfsTargets {
		if d.refused == "" {
			if err := checkNTFS(ctx, file(d.serial), files); err != nil {
				t.Error(err)
			}
		} else if b, err := os.ReadFile(file(d.serial)); err != nil || bytes.Count(b, []byte{0}) < len(b) {
			t.Errorf("%s was refused, and written to: %v", d.serial, err)
		}
	}
}

// ntfsTargets are the disks that a data disk with an NTFS is cloned to. Its own size is 96M.
var ntfsTargets = []struct {
	serial, size string
	sector       int
	// refused is what clonedsk says when it refuses that disk, a regular expression.
	refused string
}{
	{"NTFSSAME", "96M", 512, ""},
	{"NTFSLARGER", "200M", 512, ""},
	{"NTFSSMALLER", "64M", 512, "the target is too small"},
	{"NTFS4KN", "200M", 4096, "has sectors of 4096 bytes"},
}

// ntfsDisk makes a disk with an MBR and one partition, an NTFS with the files given. What is
// not in use of it is not zero.
func ntfsDisk(ctx context.Context, file string, files map[string][]byte) error {
	const start, size = 1 << 20, 94 << 20
	part := file + ".part"
	defer os.Remove(part)
	noise := make([]byte, size)
	if _, err := rand.Read(noise); err != nil {
		return err
	}
	if err := os.WriteFile(part, noise, 0o600); err != nil {
		return err
	}
	if err := command(ctx, "mkntfs", "-q", "-Q", "-F", "-p", "2048", "-H", "16", "-S", "63", "-s", "512", "-L", "data", part); err != nil {
		return err
	}
	for name, b := range files {
		if err := os.WriteFile(part+".file", b, 0o600); err != nil {
			return err
		}
		err := command(ctx, "ntfscp", "-q", "-f", part, part+".file", name)
		if err := errors.Join(err, os.Remove(part+".file")); err != nil {
			return err
		}
	}
	b, err := os.ReadFile(part)
	if err != nil {
		return err
	}
	if err := os.WriteFile(file, append(append(make([]byte, start), b...), make([]byte, 1<<20)...), 0o600); err != nil {
		return err
	}
	c := exec.CommandContext(ctx, "sfdisk", "-q", file)
	c.Stdin = bytes.NewReader([]byte("label: dos\nstart=2048,size=94MiB,type=7\n"))
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("cannot partition %s: %w\n%s", file, err, out)
	}
	return nil
}

// checkNTFS has the programs of ntfs-3g look at a disk's first partition: it is a consistent
// NTFS that has the files given, and what is not in use takes no space.
func checkNTFS(ctx context.Context, disk string, files map[string][]byte) error {
	var table struct {
		PartitionTable struct {
			Partitions []struct{ Start, Size int64 }
		}
	}
	out, err := exec.CommandContext(ctx, "sfdisk", "-J", disk).Output()
	if err == nil {
		err = json.Unmarshal(out, &table)
	}
	if err != nil || len(table.PartitionTable.Partitions) != 1 {
		return fmt.Errorf("cannot read the table of %s: %v\n%s", disk, err, out)
	}
	p := table.PartitionTable.Partitions[0]
	part := filepath.Join(filepath.Dir(disk), "check.part")
	defer os.Remove(part)
	if err := command(ctx, "dd", "if="+disk, "of="+part, "bs=1M", "iflag=skip_bytes,count_bytes", fmt.Sprint("skip=", p.Start*512), fmt.Sprint("count=", p.Size*512), "status=none"); err != nil {
		return err
	}
	if err := command(ctx, "ntfsfix", "-n", part); err != nil {
		return err
	}
	// The boot sector has the file system's size in sectors at byte 40, without its copy at the end.
	boot := make([]byte, 48)
	f, err := os.Open(part)
	if err == nil {
		_, err = io.ReadFull(f, boot)
		f.Close()
	}
	if has := int64(binary.LittleEndian.Uint64(boot[40:])); err != nil || has < p.Size-2048 || has >= p.Size {
		return fmt.Errorf("the NTFS on %s has %d sectors, %v; want nearly the %d of its partition", disk, has, err, p.Size)
	}
	total := int64(0)
	for name, want := range files {
		total += int64(len(want))
		got, err := exec.CommandContext(ctx, "ntfscat", "-f", part, name).Output()
		if err != nil || !bytes.Equal(got, want) {
			return fmt.Errorf("%s: %s has %d bytes, not the %d that it had: %v", disk, name, len(got), len(want), err)
		}
	}
	st, err := os.Stat(disk)
	if err != nil {
		return err
	}
	if n := st.Sys().(*syscall.Stat_t).Blocks * 512; n > total+(16<<20) {
		return fmt.Errorf("%s takes %d bytes for files of %d: more than the used blocks was copied", disk, n, total)
	}
	return nil
}
