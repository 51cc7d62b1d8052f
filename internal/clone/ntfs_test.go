package clone

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/tool"
)

// TestNTFS: a clean NTFS on a larger device is grown by ntfsresize; one that is not clean,
// or where the program is missing, keeps its size, and the plan says so.
func TestNTFS(t *testing.T) {
	needsLoops(t)
	if _, err := exec.LookPath("ntfsresize"); err != nil {
		t.Skip("ntfsresize is missing")
	}
	for name, c := range map[string]struct {
		prepare func(t *testing.T, file string)
		says    string
		size    string
	}{
		"clean":   {func(*testing.T, string) {}, "and grow it from 64.0 MiB to 96.0 MiB", "100659"},
		"missing": {func(t *testing.T, _ string) { t.Setenv("PATH", t.TempDir()) }, "keeps its size of 64.0 MiB in 96.0 MiB: ntfsresize is missing", "67105"},
		"dirty": {func(t *testing.T, file string) {
			run(t, "ntfsresize", "--force", "--size", "60M", file) // it leaves the flag
		}, "keeps its size of 64.0 MiB in 96.0 MiB: ", "59998"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			src, dst := filepath.Join(dir, "src"), filepath.Join(dir, "dst")
			run(t, "truncate", "-s", "64M", src)
			run(t, "mkfs.ntfs", "-q", "-F", "-f", src)
			path := os.Getenv("PATH")
			c.prepare(t, src)
			s := &recorder{}
			rep, err := Run(context.Background(), tool.Exec{}, s, Options{Source: []string{src}, Target: []string{dst}, Identity: Keep, TargetSize: 96 << 20, Verify: true})
			if err != nil || len(rep.NotCovered) > 0 || !strings.Contains(s.text.String(), c.says) {
				t.Fatalf("%v %+v\n%s", err, rep, s.text.String())
			}
			os.Setenv("PATH", path)
			out, err := exec.Command("ntfsresize", "--force", "--info", "--no-progress-bar", dst).CombinedOutput()
			if err != nil || !strings.Contains(string(out), "Current volume size: "+c.size) {
				t.Errorf("%v %s", err, out)
			}
		})
	}
}
