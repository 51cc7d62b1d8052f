package builder

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/mkcdrec/mkcdrec/builder/retention"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/progress"
)

// TestPruneAfter: a run removes old sets only when the configuration has rules, and never the
// set that it made, whatever the clock was.
func TestPruneAfter(t *testing.T) {
	dir := t.TempDir()
	for i, name := range []string{"web-1", "web-2", "web-3"} {
		keySet(t, dir, name, "web", i+1, 1)
		if err := os.WriteFile(filepath.Join(dir, name, manifest.Layout), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b := &Builder{Report: progress.None{}, Config: &Config{}}
	now := time.Date(2026, 11, 30, 0, 0, 0, 0, time.UTC)
	if got := b.prune(t.Context(), dir, "web", "web-1", now); len(got) > 0 {
		t.Errorf("without rules prune removes %q", got)
	}
	b.Config.Keep = retention.Keep{Last: 1}
	if got := b.prune(t.Context(), dir, "web", "web-1", now); !slices.Equal(got, []string{"web-2"}) {
		t.Errorf("prune() = %q; want web-2, between the newest and the one that was made", got)
	}
}
