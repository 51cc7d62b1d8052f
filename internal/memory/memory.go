// Package memory keeps a process small without the collector running all the time.
package memory

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync/atomic"
)

// room is how much memory, in bytes, may be used between two collections at least: with debug.SetMemoryLimit alone a
// process whose memory in use comes near the limit collects garbage again and again. An upload by SFTP did that a hundred
// times in a second, for a third of its time.
const room = 8 << 20

// runs counts the collections after which the limit was looked at.
var runs atomic.Int64

// Limit sets the limit of the process's memory in bytes, as debug.SetMemoryLimit does. While more is in use than leaves
// room, the limit is higher.
func Limit(least int64) {
	debug.SetMemoryLimit(least)
	after(func() { debug.SetMemoryLimit(max(least, wanted())) })
}

// after calls fn after each collection.
func after(fn func()) {
	// Any object will do that has a pointer: tiny ones without may stay.
	type dead struct{ p *dead }
	d := &dead{}
	d.p = d
	runtime.SetFinalizer(&dead{d}, func(*dead) {
		fn()
		runs.Add(1)
		after(fn)
	})
}

// names are what wanted reads.
var names = []string{
	"/gc/heap/live:bytes", // in use after the last collection
	"/memory/classes/total:bytes",
	"/memory/classes/heap/objects:bytes",
	"/memory/classes/heap/unused:bytes",
	"/memory/classes/heap/free:bytes",
	"/memory/classes/heap/released:bytes",
}

// wanted is a limit that leaves room.
func wanted() int64 {
	s := make([]metrics.Sample, len(names))
	for i, n := range names {
		s[i].Name = n
	}
	metrics.Read(s)
	live, other := int64(s[0].Value.Uint64()), int64(s[1].Value.Uint64())
	for _, x := range s[2:] {
		other -= int64(x.Value.Uint64())
	}
	return live + other + max(room, live/8)
}
