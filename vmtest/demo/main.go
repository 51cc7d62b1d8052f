// Command demo shows the main job: a real Debian 12 in QEMU is backed up,
// destroyed, restored from its own rescue CD onto a blank disk, booted by its
// own loader, and compared path by path. `make demo` runs it.
package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/interrupt"
	"github.com/mkcdrec/mkcdrec/internal/ui"
	"github.com/mkcdrec/mkcdrec/vmtest"
)

func main() {
	ctx, stop := interrupt.Context(context.Background())
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	kind := vmtest.BIOSLVM
	if len(os.Args) > 1 {
		kind = os.Args[1]
	}
	work, err := os.MkdirTemp("", "mkcdrec-demo")
	if err != nil {
		return err
	}
	guest := filepath.Join(work, "guest")
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", guest, "./vmtest/guest").CombinedOutput(); err != nil {
		return fmt.Errorf("cannot build the guest's helper: %w\n%s", err, out)
	}
	exe, err := filepath.Abs("bin/mkcdrec")
	if err != nil {
		return err
	}
	start := time.Now()
	fmt.Printf("A Debian 12 (%s) is backed up, destroyed, restored and compared, in QEMU without KVM.\n\n", kind)
	out, err := vmtest.Circle{Kind: kind, Work: work, CPUs: 2, Mkcdrec: exe, Guest: guest, Say: func(f string, a ...any) {
		fmt.Printf("[%4.0f s] %s\n", time.Since(start).Seconds(), fmt.Sprintf(f, a...))
	}}.Run(ctx)
	if err != nil {
		return fmt.Errorf("%w\nthe machines' consoles are in %s", err, work)
	}
	fmt.Printf("\nBacked up, as mkcdrec said:\n%s\n", lastTable(out.Backup))
	fmt.Printf("\nRestored, as restore said:\n%s\n\n", out.Restore)
	var rows [][]string
	for _, t := range out.Times {
		rows = append(rows, []string{t.Step, fmt.Sprintf("%.0f s", t.Seconds)})
	}
	ui.Table(os.Stdout, []string{"STEP", "TIME"}, rows)
	fmt.Printf("\n%d paths compared: type, mode, owner, time, size, SHA-256, links, extended attributes and ACLs;\npartition tables, UUIDs, labels, file-system features and LVM as sfdisk, blkid, dumpe2fs, xfs_info and lvs print them.\n\n", out.Paths)
	rows = nil
	for n, c := range out.Named {
		rows = append(rows, []string{n, fmt.Sprint(c)})
	}
	sort.Slice(rows, func(i, j int) bool { return rows[i][0] < rows[j][0] })
	ui.Table(os.Stdout, []string{"CHANGED BY RUNNING OR BY THE RESTORE ITSELF", "PATHS"}, rows)
	for _, d := range out.Differences {
		fmt.Printf("DIFFERS: %v\n", d)
	}
	fmt.Printf("\ndifferences: %d\n", len(out.Differences))
	if len(out.Differences) > 0 {
		return fmt.Errorf("the restored machine is not what it was; everything is in %s", work)
	}
	return os.RemoveAll(work)
}

// lastTable leaves out the progress lines before the table.
func lastTable(s string) string {
	s = strings.ReplaceAll(strings.ReplaceAll(s, "\r\n", "\n"), "\r", "\n")
	if i := strings.LastIndex(s, "MOUNT "); i >= 0 {
		s = s[i:]
	}
	return strings.TrimSpace(s)
}
