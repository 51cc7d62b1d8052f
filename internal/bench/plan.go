package main

import (
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
)

// plan has the test's machine of 100 disks and 1,000 volumes planned for other
// disks.
func (b *bench) plan(ctx context.Context) error {
	out, err := exec.CommandContext(ctx, "go", "test", "-run", "XXX", "-bench", "Fit", "-benchtime", "10x", "-count", strconv.Itoa(runs), "./internal/plan").CombinedOutput()
	if err != nil {
		return fmt.Errorf("cannot measure planning: %w\n%s", err, out)
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
	b.say("## Plan\n\nMapping, fitting and planning a layout of 100 disks with two volume groups and 1,000 volumes onto disks of 60 %% of the size; medians of %d times ten.\n\n| ms |\n|---|\n| %.0f |\n\nGoal: less than 100 ms.\n", runs, ms[len(ms)/2])
	return nil
}
