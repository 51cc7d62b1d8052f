package restore

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/archive"
	"github.com/mkcdrec/mkcdrec/internal/plan"
)

// A resumed run knows which steps are done, and what they left to be locked; the
// line that was being written counts for nothing.
func TestJournal(t *testing.T) {
	j := &journal{filepath.Join(t.TempDir(), "new/journal.jsonl")}
	d1 := journalLine{Digest: "d1", Set: "s", Manifest: "m"}
	if _, err := j.start(d1, true); err == nil || !strings.Contains(err.Error(), "no journal of an earlier run") {
		t.Errorf("resumed without a journal: %v", err)
	}
	if done, err := j.start(d1, false); err != nil || len(done) > 0 {
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
		if cut > 0 { // a line without its end
			delete(want, 4)
		}
		if done, err := j.start(d1, true); err != nil || !reflect.DeepEqual(done, want) {
			t.Errorf("without the last %d bytes: %d steps are done, %v", cut, len(done), err)
		}
	}
	if _, err := j.start(journalLine{Digest: "d2", Set: "s", Manifest: "m"}, true); err == nil || !strings.Contains(err.Error(), "that of another plan") {
		t.Errorf("resumed with another plan: %v", err)
	}
	// A plan may be the same for another set, or for one of that id with other content.
	for _, other := range []journalLine{{Digest: "d1", Set: "s2", Manifest: "m"}, {Digest: "d1", Set: "s", Manifest: "m2"}} {
		var r *plan.Refused
		if _, err := j.start(other, true); !errors.As(err, &r) || !strings.Contains(err.Error(), "the set s (manifest m)") {
			t.Errorf("resumed with another set: %v", err)
		}
	}
}

// What was cut off when a run was killed does not spoil what the resumed one writes.
func TestJournalResumedTwice(t *testing.T) {
	j := &journal{filepath.Join(t.TempDir(), "journal.jsonl")}
	d := journalLine{Digest: "d", Set: "s", Manifest: "m"}
	if _, err := j.start(d, false); err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		if err := j.done(i, "step", nil); err != nil {
			t.Fatal(err)
		}
	}
	st, err := os.Stat(j.file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(j.file, st.Size()-5); err != nil {
		t.Fatal(err)
	}
	if done, err := j.start(d, true); err != nil || len(done) != 1 {
		t.Fatalf("%v %v", done, err)
	}
	if err := j.done(1, "step", nil); err != nil {
		t.Fatal(err)
	}
	if done, err := j.start(d, true); err != nil || len(done) != 2 {
		t.Errorf("resumed for the second time: %v %v", done, err)
	}
	if err := os.WriteFile(j.file, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := j.start(d, true); err == nil {
		t.Error("a journal without a beginning is resumed")
	}
}
