package memory

import (
	"runtime"
	"runtime/debug"
	"testing"
	"time"
)

// TestLimit: the limit is higher while more is in use than leaves room, and what it was again when that is not
// in use any longer.
func TestLimit(t *testing.T) {
	old := debug.SetMemoryLimit(-1)
	defer debug.SetMemoryLimit(old)
	const least = 48 << 20
	Limit(least)
	// collected returns the limit after a collection of garbage.
	collected := func() int64 {
		n := runs.Load()
		for range 1000 {
			runtime.GC()
			if runs.Load() > n+1 { // all of the last one was looked at
				return debug.SetMemoryLimit(-1)
			}
			time.Sleep(time.Millisecond)
		}
		t.Fatal("the limit is not looked at after a collection")
		return 0
	}
	if got := collected(); got != least {
		t.Errorf("the limit is %d at first; want %d", got, least)
	}
	kept := make([]byte, 64<<20)
	if got := collected(); got < int64(len(kept))+room || got > int64(len(kept))+room+32<<20 {
		t.Errorf("the limit is %d with %d in use; want %d more and a little for the rest", got, len(kept), room)
	}
	runtime.KeepAlive(kept)
	if got := collected(); got != least {
		t.Errorf("the limit is %d at the end; want %d", got, least)
	}
}
