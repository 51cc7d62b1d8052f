package archive

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestFrozen: the state of an archive of a snapshot is as old as the snapshot, not as the
// archive, so that a change right after the snapshot can't be missed.
func TestFrozen(t *testing.T) {
	for _, ago := range []time.Duration{0, 90 * time.Minute} {
		file, err := os.Create(filepath.Join(t.TempDir(), "state"))
		if err != nil {
			t.Fatal(err)
		}
		at := time.Now().Add(-ago)
		opt := CreateOptions{At: at}
		if opt.Keep, err = NewStateWriter(file, Source{Set: "s", Dir: "d", File: "f"}); err != nil {
			t.Fatal(err)
		}
		root, err := os.Open(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Create(context.Background(), new(bytes.Buffer), root, opt); err != nil {
			t.Fatal(err)
		}
		root.Close()
		start := opt.Keep.trailer.Start
		if d := at.Sub(time.Unix(start[0], start[1])); d < 0 || d > 10*time.Second {
			b, _ := json.Marshal(start)
			t.Errorf("%v ago: the state began %v before the snapshot (%s); want a few seconds at most", ago, d, b)
		}
	}
}
