package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
)

const (
	manyFiles = 5_000_000
	filesEach = 1000 // in a directory
)

// files measures the memory for a tree of very many files, and what opening several at once saves where opening is slow.
func (b *bench) files(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	disk, err := os.MkdirTemp("/var/tmp", "mkcdrec-bench-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(disk)
	src, out := filepath.Join(disk, "src"), filepath.Join(disk, "archive")
	if err := grow(ctx, src); err != nil {
		return err
	}
	made, err := pipe(ctx, "", []string{self, "create", src, out})
	if err != nil {
		return err
	}
	packed := size(out)
	if err := os.RemoveAll(src); err != nil { // room for the restored ones
		return err
	}
	restored, err := pipe(ctx, "", []string{self, "extract", out, filepath.Join(disk, "dst")})
	if err != nil {
		return err
	}
	b.say("## Many files\n\n%d files in %d directories on this machine's disk, every tenth with 100 bytes, the others empty; one run.\n", manyFiles, manyFiles/filesEach)
	b.say("| | s | CPU s | peak memory MB | archive MB |\n|---|---|---|---|---|")
	b.say("| backup | %.0f | %.0f | %d | %.1f |", made.seconds, made.cpu, made.rss>>10, float64(packed)/1e6)
	b.say("| restore | %.0f | %.0f | %d | |\n\nGoal: a backup in at most 128 MB.\n", restored.seconds, restored.cpu, restored.rss>>10)
	return b.slowOpens(ctx)
}

// grow makes the files.
func grow(ctx context.Context, dir string) error {
	content := make([]byte, 100)
	for i := range manyFiles {
		d := fmt.Sprintf("%s/%02d/%04d", dir, i/filesEach/100, i/filesEach)
		if i%filesEach == 0 {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := os.MkdirAll(d, 0o755); err != nil {
				return err
			}
		}
		n := 0
		if i%10 == 0 {
			copy(content, strconv.Itoa(i))
			n = len(content)
		}
		if err := os.WriteFile(fmt.Sprintf("%s/file-%07d", d, i), content[:n], 0o644); err != nil {
			return err
		}
	}
	return nil
}

// slowOpens has the test's benchmark measure a tree of which each open(2) takes 5 ms.
func (b *bench) slowOpens(ctx context.Context) error {
	const command = "go test -run none -bench SlowOpen -benchtime 3x ./internal/archive"
	out, err := exec.CommandContext(ctx, "go", "test", "-run", "none", "-bench", "SlowOpen", "-benchtime", "3x", "./internal/archive").CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", command, err, out)
	}
	var seconds []float64
	for _, name := range []string{"one", "several"} {
		g := regexp.MustCompile(`BenchmarkSlowOpen/` + name + `\S*\s+\d+\s+(\d+) ns/op`).FindSubmatch(out)
		if g == nil {
			return fmt.Errorf("%s: no result in\n%s", command, out)
		}
		ns, err := strconv.ParseFloat(string(g[1]), 64)
		if err != nil {
			return err
		}
		seconds = append(seconds, ns/1e9)
	}
	b.say("Where each open(2) takes 5 ms, a backup of 1040 files in 20 directories takes %.2f s when one is opened after the other, and %.2f s as it is, %.1f times as fast (goal: at least 4; `%s`).\n", seconds[0], seconds[1], seconds[0]/seconds[1], command)
	return nil
}
