package vmtest

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

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
