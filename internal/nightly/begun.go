package nightly

import (
	"fmt"
	"os"
	"strings"
	"time"
)

// Begun is a run that has begun, and of which nothing else is known until it ends.
type Begun struct {
	Started     time.Time `json:"started"`
	Destination string    `json:"destination"`
	// Boot, PID and Start are those of its process: the kernel's boot_id, and field 22 of proc(5), stat.
	Boot  string `json:"boot"`
	PID   int    `json:"pid"`
	Start string `json:"start"`
}

// Begin records in dir that a run begins. unended is the last one if it was killed, nil otherwise. While another
// one runs, nothing is recorded.
func (r Run) Begin(dir string) (unended *Begun, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("cannot record the run: %w", err)
	}
	rec, err := Read(dir)
	if err != nil {
		rec = &Record{Version: version} // Save replaces one that can't be read
	}
	if b := rec.Begun; b != nil {
		if b.runs() {
			return nil, nil
		}
		unended = b
	}
	rec.Begun = &Begun{Started: r.Started, Destination: r.Destination, Boot: bootID(), PID: os.Getpid(), Start: startOf(os.Getpid())}
	return unended, rec.write(dir)
}

// runs reports whether the process of the run is there.
func (b *Begun) runs() bool {
	return b.Start != "" && b.Boot == bootID() && b.Start == startOf(b.PID)
}

func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// startOf is when a process was started, in the kernel's ticks; "" if it is not there.
func startOf(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	// The name, which is the second field, may have anything in it.
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(f) < 20 {
		return ""
	}
	return f[19]
}
