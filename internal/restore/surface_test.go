package restore

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/plan"
	"github.com/mkcdrec/mkcdrec/internal/recreate"
)

// TestCheckTarget: disks are read, or written and read, after they were confirmed and before
// anything is made; one that can't be checked is refused.
func TestCheckTarget(t *testing.T) {
	for _, how := range []string{recreate.CheckRead, recreate.CheckWrite} {
		m, r, _ := onFake(t, "vda")
		o := data(&files{l: simple()})
		o.CheckTarget = how
		if _, err := r.Restore(t.Context(), o); err != nil {
			t.Fatalf("%s: %v", how, err)
		}
		opened := 1
		if how == recreate.CheckWrite {
			opened = 2
		}
		if got := m.Did("open /dev/vda for writing"); len(got) != opened {
			t.Errorf("%s: %q; want it opened %d times", how, got, opened)
		}
		b := make([]byte, 8)
		f, err := os.Open(m.Path("/dev/vda"))
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.ReadAt(b, int64(150*mib)) // where nothing is made: partitions have files of their own
		if f.Close(); err != nil || (string(b) != strings.Repeat("\x00", 8)) != (how == recreate.CheckWrite) {
			t.Errorf("%s: % x, %v on the disk", how, b, err)
		}
		m, r, s := onFake(t, "vda")
		s.confirm = func(*plan.Plan) {
			if err := errors.Join(os.Remove(m.Path("/dev/vda")), os.Mkdir(m.Path("/dev/vda"), 0o755)); err != nil {
				t.Error(err)
			}
		}
		want := exit.Refused
		if how == recreate.CheckWrite {
			want = exit.Failed
		}
		if _, err := r.Restore(t.Context(), o); exit.Code(err) != want || !strings.Contains(err.Error(), "/dev/vda") {
			t.Errorf("%s, unreadable: %v; want status %d", how, err, want)
		}
	}
	// What is refused after that is no refusal: all that was on the disks is lost.
	m, r, _ := onFake(t, "vda")
	m.Fail["reread /dev/vda"] = &exit.Refusal{Reason: "not the disk it was"}
	o := data(&files{l: simple()})
	o.CheckTarget = recreate.CheckWrite
	if _, err := r.Restore(t.Context(), o); exit.Code(err) != exit.Failed || !strings.Contains(err.Error(), "not the disk it was") {
		t.Errorf("refused after all was written: %v, status %d; want %d", err, exit.Code(err), exit.Failed)
	}
	if _, err := (&Request{CheckTarget: "both"}).Validate(); err == nil || !strings.Contains(err.Error(), "check-target") {
		t.Errorf("Validate(both) = %v", err)
	}
	if _, err := (&Request{CheckTarget: recreate.CheckWrite, Only: "/home"}).Validate(); err == nil || !strings.Contains(err.Error(), "whole disks") {
		t.Errorf("Validate(write --only) = %v", err)
	}
}
