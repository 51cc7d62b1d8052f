package archive

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestLookAhead: helpers look at what is in a directory before its turn, more of them where that takes long; the
// increment is the one of a single reader.
func TestLookAhead(t *testing.T) {
	c := newChain(t, slowTree(t, 3, 1500))
	c.add(afterwards)
	for i := range 40 {
		write(t, fmt.Sprintf("%s/d01/f%03d", c.src, 30*i), fmt.Sprint("new ", i))
	}
	if err := os.Remove(c.src + "/d02/f100"); err != nil {
		t.Fatal(err)
	}
	increment := func(alone bool, slow time.Duration) ([32]byte, *Summary) {
		o := CreateOptions{alone: alone, slow: slow}
		var err error
		if o.Since, err = OpenState(c.file(0, "state")); err != nil {
			t.Fatal(err)
		}
		defer o.Since.Close()
		return packed(t, c.src, o)
	}
	want, sum := increment(true, 0)
	for _, slow := range []time.Duration{time.Nanosecond, time.Hour} {
		if got, s := increment(false, slow); got != want || s.Members != sum.Members || s.Earlier != sum.Earlier || len(s.Problems) != 0 {
			t.Errorf("slow from %v on: another archive: %+v; want %+v", slow, s, sum)
		}
	}
	c.add(afterwards)
	c.compare(1)
}

func TestLooks(t *testing.T) {
	dir := t.TempDir()
	var names []string
	for i := range 2 * lookNames {
		names = append(names, fmt.Sprintf("f%04d", i))
		write(t, dir+"/"+names[i], names[i])
	}
	names[7] = "gone"
	d, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	k := &walker{ctx: context.Background(), foresee: true, looking: time.Second}
	l := k.lookAhead(int(d.Fd()), names)
	l.helper.Wait()
	var want unix.Stat_t
	if err := unix.Fstatat(int(d.Fd()), names[9], &want, 0); err != nil {
		t.Fatal(err)
	}
	if got := l.take(9); got == nil || got.st != want {
		t.Errorf("take(9) = %+v; want what stat(2) returns", got)
	}
	for what, i := range map[string]int{"what was taken": 9, "the first one": 0, "what is not there": 7, "what is behind the last one": lookNames} {
		if got := l.take(i); got != nil {
			t.Errorf("%s: take(%d) = %+v; want nil", what, i, got)
		}
	}
	l.close()
	if l := k.lookAhead(int(d.Fd()), names[:lookFew-1]); l != nil {
		t.Error("a helper for a few names")
	}
	// It ends at once, not after all names.
	l = k.lookAhead(int(d.Fd()), names)
	l.close()
	if n := l.next.Load(); n < int64(len(l.names)) {
		t.Errorf("%d of %d names are left", n, len(l.names))
	}
}
