package nightly

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/regular"
)

// begunFile is there while a run goes on. It is not in sets: it would tell a restored machine of a run that was killed.
const begunFile = "running.json"

// BegunFile is its path.
const BegunFile = Dir + "/" + begunFile

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
	if unended = ReadBegun(dir); unended != nil && unended.runs() {
		return nil, nil
	}
	b, err := json.Marshal(Begun{Started: r.Started, Destination: r.Destination, Boot: bootID(), PID: os.Getpid(), Start: startOf(os.Getpid())})
	if err == nil {
		err = regular.WriteFile(filepath.Join(dir, begunFile), append(b, '\n'))
	}
	if err != nil {
		return unended, fmt.Errorf("cannot record the run: %w", err)
	}
	return unended, nil
}

// ReadBegun gives the run that has begun and not ended, nil for none, or where that can't be read.
func ReadBegun(dir string) *Begun {
	b, err := regular.ReadFile(filepath.Join(dir, begunFile), maxRecord)
	if err != nil {
		return nil
	}
	x := &Begun{}
	if json.Unmarshal(b, x) != nil {
		return nil
	}
	return x
}

// end forgets this process's run, and one that was killed.
func end(dir string) error {
	if b := ReadBegun(dir); b != nil && b.PID != os.Getpid() && b.runs() {
		return nil
	}
	if err := os.Remove(filepath.Join(dir, begunFile)); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
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
