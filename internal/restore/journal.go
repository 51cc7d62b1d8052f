package restore

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/archive"
	"github.com/mkcdrec/mkcdrec/internal/rescue"
)

// journal keeps which steps of which plan are done, one JSON line each, in
// memory-backed storage of the rescue system; at the end it is copied into
// the restored system.
type journal struct{ file string }

type journalLine struct {
	Time   time.Time `json:"time"`
	Digest string    `json:"digest,omitempty"` // of the plan, in the first line
	Step   int       `json:"step,omitempty"`   // from 1
	Text   string    `json:"text,omitempty"`
	// Locks are the files of the step's archive that get immutable or append-only
	// when all else is done.
	Locks []archive.Lock `json:"locks,omitempty"`
}

func openJournal() *journal {
	return &journal{filepath.Join(rescue.StateDir, "journal.jsonl")}
}

// began tells whether a run of this rescue system has started to write disks.
func (j *journal) began() bool { _, err := os.Stat(j.file); return err == nil }

// start begins a journal for a plan, or reads the one of the same plan when
// resuming, and gives the steps that are done, each with its locks.
func (j *journal) start(digest string, resume bool) (map[int][]archive.Lock, error) {
	done := map[int][]archive.Lock{}
	if resume {
		f, err := os.Open(j.file)
		if err != nil {
			return nil, fmt.Errorf("cannot resume: there is no journal of an earlier run: %w", err)
		}
		defer f.Close()
		s := bufio.NewScanner(f)
		s.Buffer(nil, 1<<30) // a step may have many locks
		for n := 0; s.Scan(); n++ {
			var l journalLine
			if err := json.Unmarshal(s.Bytes(), &l); err != nil {
				break // the line that was being written
			}
			if n == 0 && l.Digest != digest {
				return nil, errors.New("cannot resume: the journal is that of another plan; start anew, without --resume")
			}
			if l.Step > 0 {
				done[l.Step-1] = l.Locks
			}
		}
		return done, s.Err()
	}
	if err := os.MkdirAll(filepath.Dir(j.file), 0o755); err != nil {
		return nil, fmt.Errorf("cannot start the journal: %w", err)
	}
	if err := os.Remove(j.file); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("cannot start the journal: %w", err)
	}
	return done, j.add(journalLine{Digest: digest})
}

func (j *journal) done(step int, text string, locks []archive.Lock) error {
	return j.add(journalLine{Step: step + 1, Text: text, Locks: locks})
}

func (j *journal) add(l journalLine) error {
	l.Time = time.Now().UTC()
	b, err := json.Marshal(l)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(j.file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err == nil {
		_, err = f.Write(append(b, '\n'))
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return fmt.Errorf("cannot write the journal: %w", err)
	}
	return nil
}

// copyTo leaves journal and log in the restored system.
func (j *journal) copyTo(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("cannot keep the log: %w", err)
	}
	for from, name := range map[string]string{j.file: "journal.jsonl", rescue.LogFile: "restore.log"} {
		in, err := os.Open(from)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("cannot keep the log: %w", err)
		}
		out, err := os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
		if err == nil {
			_, err = io.Copy(out, in)
			err = errors.Join(err, out.Close())
		}
		in.Close()
		if err != nil {
			return fmt.Errorf("cannot keep the log: %w", err)
		}
	}
	// What the kernel said, of disks above all.
	b := make([]byte, 1<<20)
	n, err := unix.Klogctl(3, b) // SYSLOG_ACTION_READ_ALL
	if err != nil {
		return nil // not root, or no such kernel: the log is kept without
	}
	if err := os.WriteFile(filepath.Join(dir, "dmesg"), b[:n], 0o600); err != nil {
		return fmt.Errorf("cannot keep the log: %w", err)
	}
	return nil
}
