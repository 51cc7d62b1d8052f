package restore

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/archive"
)

// A resumed run knows which steps are done, and what they left to be locked; the
// line that was being written counts for nothing.
func TestJournal(t *testing.T) {
	j := &journal{filepath.Join(t.TempDir(), "new/journal.jsonl")}
	if _, err := j.start("d1", true); err == nil || !strings.Contains(err.Error(), "no journal of an earlier run") {
		t.Errorf("resumed without a journal: %v", err)
	}
	if done, err := j.start("d1", false); err != nil || len(done) > 0 {
		t.Fatalf("%v %v", done, err)
	}
	var many []archive.Lock
	for range 5000 { // longer than a scanner's usual line
		many = append(many, archive.Lock{Path: "srv/with \"quotes\"/" + strings.Repeat("n", 20), Flags: 0x10})
	}
	for i, l := range [][]archive.Lock{nil, many, {{Path: "log", Flags: 0x20}}} {
		if err := j.done(i*2, "step", l); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(j.file)
	if err != nil {
		t.Fatal(err)
	}
	want := map[int][]archive.Lock{0: nil, 2: many, 4: {{Path: "log", Flags: 0x20}}}
	for _, cut := range []int{0, 1, 20} {
		if err := os.WriteFile(j.file, b[:len(b)-cut], 0o600); err != nil {
			t.Fatal(err)
		}
		if cut == 20 {
			delete(want, 4)
		}
		if done, err := j.start("d1", true); err != nil || !reflect.DeepEqual(done, want) {
			t.Errorf("without the last %d bytes: %d steps are done, %v", cut, len(done), err)
		}
	}
	if _, err := j.start("d2", true); err == nil || !strings.Contains(err.Error(), "that of another plan") {
		t.Errorf("resumed with another plan: %v", err)
	}
}
