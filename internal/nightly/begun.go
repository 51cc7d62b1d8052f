package nightly

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/process"
	"github.com/mkcdrec/mkcdrec/internal/regular"
)

// begunFile exists while a run is in progress. Sets do not contain it: a restored machine would report a killed run.
const begunFile = "running.json"

// BegunFile is its path.
const BegunFile = Dir + "/" + begunFile

// Begun is a run that has begun, and of which nothing else is known until it ends.
type Begun struct {
	Started     time.Time `json:"started"`
	Destination string    `json:"destination"`
	// Boot, PID and Start identify its process: process.BootID and process.Start.
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
	b, err := json.Marshal(Begun{Started: r.Started, Destination: r.Destination, Boot: process.BootID(), PID: os.Getpid(), Start: process.Start(os.Getpid())})
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

// Unended is the message about a run that was killed.
func (b *Begun) Unended() string {
	return fmt.Sprintf("the run that began %s has not ended: it was killed, or the machine went down", at(b.Started))
}

// runs reports whether the process of the run is there.
func (b *Begun) runs() bool {
	return b.Start != "" && b.Boot == process.BootID() && b.Start == process.Start(b.PID)
}
