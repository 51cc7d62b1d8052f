package restore

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/archive"
	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/inroot"
	"github.com/mkcdrec/mkcdrec/internal/probe"
	"github.com/mkcdrec/mkcdrec/internal/rescue"
)

// journal keeps which steps of which plan are done, one JSON line each, in
// memory-backed storage of the rescue system; at the end it is copied into
// the restored system.
type journal struct{ file string }

type journalLine struct {
	Time   time.Time `json:"time"`
	Digest string    `json:"digest,omitempty"` // of the plan, in the first line
	// Set and Manifest are the id of the set and the SHA-256 of its manifest.json, in
	// the first line: a plan may be the same for another set.
	Set      string `json:"set,omitempty"`
	Manifest string `json:"manifest,omitempty"`
	// Disks are those that the run writes to: in the first line, and in one more for each
	// run that resumes it, for a disk may have got another name meanwhile.
	Disks []journalDisk `json:"disks,omitempty"`
	Step  int           `json:"step,omitempty"` // from 1
	Text  string        `json:"text,omitempty"`
	// Locks are the files of the step's archive that get immutable or append-only
	// when all else is done.
	Locks []archive.Lock `json:"locks,omitempty"`
}

// journalDisk is a disk by its name and the kernel's number of it, layout.Place.
type journalDisk struct {
	Name string `json:"name"`
	Seq  uint64 `json:"seq,omitempty"`
}

// openJournal is that in a directory, rescue.StateDir.
func openJournal(dir string) *journal { return &journal{filepath.Join(dir, "journal.jsonl")} }

// began reports whether a run of this rescue system has started to write disks.
func (j *journal) began() bool { _, err := os.Stat(j.file); return err == nil }

// start begins a journal with a first line that names plan and set, or reads the
// one of the same plan and set when resuming, and gives the steps that are done, each
// with its locks.
func (j *journal) start(first journalLine, resume bool) (map[int][]archive.Lock, error) {
	if resume {
		return j.resume(first)
	}
	if err := os.MkdirAll(filepath.Dir(j.file), 0o755); err != nil {
		return nil, fmt.Errorf("cannot start the journal: %w", err)
	}
	if err := os.Remove(j.file); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("cannot start the journal: %w", err)
	}
	return nil, j.add(first)
}

// resume reads the journal of an earlier run, and cuts off the line that was being
// written when it stopped.
func (j *journal) resume(want journalLine) (map[int][]archive.Lock, error) {
	b, err := os.ReadFile(j.file)
	if err != nil {
		return nil, fmt.Errorf("cannot resume: there is no journal of an earlier run: %w", err)
	}
	done := map[int][]archive.Lock{}
	whole := 0
	for n := 0; ; n++ {
		end := bytes.IndexByte(b[whole:], '\n')
		var l journalLine
		if end < 0 || json.Unmarshal(b[whole:whole+end], &l) != nil {
			if n == 0 {
				return nil, &exit.Refusal{Reason: "cannot resume: the journal has no beginning; start again, without --resume"}
			}
			break
		}
		whole += end + 1
		switch {
		case n == 0 && (l.Set != want.Set || l.Manifest != want.Manifest):
			return nil, &exit.Refusal{Reason: fmt.Sprintf("cannot resume: the journal is that of a restore from the set %s (manifest %.12s), and this one is %s (manifest %.12s); name that set, or start again without --resume", l.Set, l.Manifest, want.Set, want.Manifest)}
		case n == 0 && l.Digest != want.Digest:
			return nil, &exit.Refusal{Reason: "cannot resume: the journal is that of another plan; start again, without --resume"}
		case l.Step > 0:
			done[l.Step-1] = l.Locks
		}
	}
	if err := os.Truncate(j.file, int64(whole)); err != nil {
		return nil, fmt.Errorf("cannot resume: %w", err)
	}
	return done, j.add(journalLine{Disks: want.Disks})
}

// disks gives the names of the disks that the journal's runs have written to, but for
// those that another disk has now; never nil.
func (j *journal) disks(m probe.Machine) []string {
	out := []string{}
	b, err := os.ReadFile(j.file)
	if err != nil {
		return out
	}
	for _, line := range bytes.Split(b, []byte("\n")) {
		var l journalLine
		if json.Unmarshal(line, &l) != nil {
			continue
		}
		for _, d := range l.Disks {
			if seq := m.Place(d.Name).Seq; (seq == 0 || d.Seq == 0 || seq == d.Seq) && !slices.Contains(out, d.Name) {
				out = append(out, d.Name)
			}
		}
	}
	return out
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

// logDir is where the restored system has the log of its restore.
const logDir = "/var/log/mkcdrec"

// copyTo leaves journal and log in the restored system at root.
func (j *journal) copyTo(root string) error {
	if err := j.copyLogs(root); err != nil {
		return fmt.Errorf("cannot keep the log: %w", err)
	}
	return nil
}

func (j *journal) copyLogs(root string) error {
	// The directory may be a link of the restored system: it is that system's.
	dir, err := inroot.Dir(root, logDir)
	if errors.Is(err, os.ErrNotExist) {
		if _, err = inroot.MkdirAll(root, filepath.Dir(logDir), 0o755); err == nil {
			dir, err = inroot.MkdirAll(root, logDir, 0o700)
		}
	}
	if err != nil {
		return err
	}
	for from, name := range map[string]string{j.file: "journal.jsonl", rescue.LogFile: "restore.log"} {
		in, err := os.Open(from)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		err = put(dir, name, in)
		in.Close()
		if err != nil {
			return err
		}
	}
	// What the kernel said, of disks above all.
	b := make([]byte, 1<<20)
	n, err := unix.Klogctl(3, b) // SYSLOG_ACTION_READ_ALL
	if err != nil {
		return nil // not root, or no such kernel: the log is kept without
	}
	return put(dir, "dmesg", bytes.NewReader(b[:n]))
}

// put writes a file into a directory, in the place of what has its name.
func put(dir, name string, in io.Reader) error {
	out, err := inroot.Create(dir, name, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
