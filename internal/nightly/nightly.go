// Package nightly records how the backups of this machine ended, and judges for monitoring
// whether they are good.
package nightly

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/regular"
)

// Dir has the record of the last run, and the layout of the last set.
const (
	Dir        = "/var/lib/mkcdrec"
	recordFile = "last-run.json"
	layoutFile = "last-layout.json"
)

const (
	version   = 1
	maxRecord = 16 << 20
	maxError  = 4096 // bytes of an error that are kept
)

// Run is one run of `mkcdrec path`.
type Run struct {
	Started     time.Time     `json:"started"`
	Ended       time.Time     `json:"ended"`
	Destination string        `json:"destination"`
	Status      int           `json:"status"` // of the exit
	Error       string        `json:"error,omitempty"`
	Set         string        `json:"set,omitempty"` // directory of the complete set, "" for none
	Size        quantity.Size `json:"size"`
	NotCovered  []string      `json:"notCovered"`
}

// Seconds is how long the run took.
func (r *Run) Seconds() int64 { return int64(r.Ended.Sub(r.Started).Seconds()) }

// Record is what is known of the runs of this machine.
type Record struct {
	Version int  `json:"version"`
	Last    Run  `json:"last"`
	Good    *Run `json:"good"` // the last that made a set, nil for none
	// Told is the event of the last message that was sent, "" for none, and after a run that
	// was good again.
	Told Event `json:"told,omitempty"`
}

// Read reads the record in dir. It is an fs.ErrNotExist if there was no run.
func Read(dir string) (*Record, error) {
	b, err := regular.ReadFile(filepath.Join(dir, recordFile), maxRecord)
	if err != nil {
		return nil, fmt.Errorf("cannot read the record of the last run: %w", err)
	}
	r := &Record{}
	if err := json.Unmarshal(b, r); err != nil {
		return nil, fmt.Errorf("cannot read the record of the last run, %s: it is damaged: %w", filepath.Join(dir, recordFile), err)
	}
	if r.Version != version {
		return nil, fmt.Errorf("cannot read the record of the last run, %s: it has version %d; want %d", filepath.Join(dir, recordFile), r.Version, version)
	}
	return r, nil
}

// Save records a run in dir, and, of one that made a set, the set's layout l.
func (r Run) Save(dir string, l *layout.Layout) error {
	fail := func(err error) error { return fmt.Errorf("cannot record the run: %w", err) }
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fail(err)
	}
	r.Error = r.shortError()
	rec := Record{Version: version, Last: r}
	old, err := Read(dir)
	if err == nil { // one that can't be read is replaced
		rec.Good, rec.Told = old.Good, old.Told
	}
	if r.Set != "" {
		var b bytes.Buffer
		err := l.Write(&b)
		if err == nil {
			err = regular.WriteFile(filepath.Join(dir, layoutFile), b.Bytes())
		}
		if err != nil {
			return fail(err)
		}
		rec.Good = &r
	}
	return errors.Join(rec.write(dir), end(dir))
}

// shortError is the beginning of the error.
func (r *Run) shortError() string {
	if len(r.Error) > maxError {
		return strings.ToValidUTF8(r.Error[:maxError], "")
	}
	return r.Error
}

func (r *Record) write(dir string) error {
	b, err := json.MarshalIndent(r, "", " ")
	if err == nil {
		err = regular.WriteFile(filepath.Join(dir, recordFile), append(b, '\n'))
	}
	if err != nil {
		return fmt.Errorf("cannot record the run: %w", err)
	}
	return nil
}

// Tell records in dir that the message about an event was sent.
func Tell(dir string, e Event) error {
	r, err := Read(dir)
	if err != nil {
		return err
	}
	if r.Told = e; e == Recovered {
		r.Told = ""
	}
	return r.write(dir)
}

// Layout reads the layout of the last set.
func Layout(dir string) (*layout.Layout, error) {
	f, err := regular.Open(filepath.Join(dir, layoutFile))
	if err != nil {
		return nil, fmt.Errorf("cannot read the layout of the last set: %w", err)
	}
	defer f.Close()
	return layout.Read(f)
}

// missing reports whether there was no run.
func missing(err error) bool { return errors.Is(err, fs.ErrNotExist) }
