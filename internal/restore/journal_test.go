package restore

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/archive"
	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/machinetest"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
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
		var r *exit.Refusal
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

// What a stopped run has left is closed on the disks of that run alone: groups of the
// same name on other disks, and on a disk that has the name of one now, are in use.
func TestTidy(t *testing.T) {
	for name, c := range map[string]struct {
		on   string // where the group is
		seq  string // of vda, now
		want string
	}{
		"its disk":            {"vda", "7", "lvm vgchange -an vg0"},
		"its disk, resumed":   {"vdb", "7", "lvm vgchange -an vg0"},
		"its disk is gone":    {"vda", "", "lvm vgchange -an vg0"},
		"another disk":        {"vdc", "7", ""},
		"exchanged meanwhile": {"vda", "8", ""},
	} {
		t.Run(name, func(t *testing.T) {
			m := machinetest.New(t)
			put := m.Write
			put("/sys/block/dm-0/dm/name", "vg0-root\n")
			put("/sys/block/dm-0/dm/uuid", "LVM-a\n")
			put("/sys/class/block/dm-0/slaves/"+c.on+"/x", "")
			for _, d := range []string{"vda", "vdb", "vdc"} {
				if d == "vda" && c.seq != "7" {
					if c.seq != "" {
						put("/sys/class/block/vda/diskseq", c.seq+"\n")
					}
					continue
				}
				put("/sys/class/block/"+d+"/diskseq", "7\n")
			}
			m.Answer("", "lvm")
			r := &Restorer{Run: m, Machine: m.Probe(), journal: &journal{filepath.Join(t.TempDir(), "journal.jsonl")}, opt: Options{Target: t.TempDir()},
				content: setContent{&manifest.Set{Layout: &layout.Layout{VolumeGroup: []layout.VolumeGroup{{Name: "vg0"}}}}}}
			first := journalLine{Digest: "d", Set: "s", Manifest: "m", Disks: []journalDisk{{"vda", 7}}}
			if err := r.tidy(t.Context()); err != nil || len(m.Did("run")) > 0 {
				t.Fatalf("without a run before: %v, %q", err, m.Did("run"))
			}
			if _, err := r.journal.start(first, false); err != nil {
				t.Fatal(err)
			}
			first.Disks[0] = journalDisk{"vdb", 7}
			if _, err := r.journal.start(first, true); err != nil {
				t.Fatal(err)
			}
			if err := r.tidy(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := strings.TrimPrefix(strings.Join(m.Did("run"), "; "), "run "); got != c.want {
				t.Errorf("ran %q; want %q", got, c.want)
			}
		})
	}
}
