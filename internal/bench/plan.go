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
)

// plan has the test's machine of 100 disks and 1,000 volumes planned for other
// disks.
func (b *bench) plan(ctx context.Context) error {
	exe, file := filepath.Join(b.dir, "plan.test"), filepath.Join(b.dir, "plan.txt")
	if out, err := exec.CommandContext(ctx, "go", "test", "-c", "-o", exe, "./internal/plan").CombinedOutput(); err != nil {
		return fmt.Errorf("cannot build the benchmark of planning: %w\n%s", err, out)
	}
	u, err := pipe(ctx, file, []string{exe, "-test.run", "XXX", "-test.bench", "Fit", "-test.benchtime", "10x", "-test.count", strconv.Itoa(runs)})
	if err != nil {
		return fmt.Errorf("cannot measure planning: %w", err)
	}
	out, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var ms []float64
	for _, g := range regexp.MustCompile(`BenchmarkFit\S*\s+\d+\s+(\d+) ns/op`).FindAllStringSubmatch(string(out), -1) {
		n, err := strconv.ParseFloat(g[1], 64)
		if err != nil {
			return err
		}
		ms = append(ms, n/1e6)
	}
	if len(ms) != runs {
		return fmt.Errorf("cannot measure planning: %d results of %d\n%s", len(ms), runs, out)
	}
	slices.Sort(ms)
	b.say("## Plan\n\nA layout of 100 disks with two volume groups and 1,000 volumes is mapped, fitted and planned onto disks of 60 %% of the size; medians of %d times ten.\n\n| ms | peak memory MB |\n|---|---|\n| %.0f | %d |\n\nGoals: less than 100 ms, less than 256 MB.\n", runs, ms[len(ms)/2], u.rss>>10)
	return nil
}
