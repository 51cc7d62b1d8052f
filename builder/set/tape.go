package set

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"

	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/store/tape"
)

// Tape is a sink on tape: large files go there at once, and the small ones are kept in a
// directory until the end.
type Tape struct {
	w      *tape.Writer
	dir    string
	report progress.Reporter
	index  tape.Index
	// tails are the ends of archives and images, as name and path. They are beside the
	// set's directory, since manifest and sums don't have them.
	tails map[string]string
}

// NewTape begins a set on tape; its small files are kept in the directory set, which it
// makes below work.
func NewTape(w *tape.Writer, work string, report progress.Reporter) (*Tape, error) {
	t := &Tape{w: w, dir: filepath.Join(work, "set"), report: report, tails: map[string]string{}}
	t.index.Version, t.index.ID = 1, w.ID.String()
	return t, os.MkdirAll(t.dir, 0o700)
}

// Reels is how many reels a committed set has.
func (t *Tape) Reels() int { return t.index.Reels }

// Dir implements Sink.
func (t *Tape) Dir() string { return t.dir }

// Begin writes what is needed to make the disks, should the end be lost.
func (t *Tape) Begin(ctx context.Context) error {
	front, err := t.small("log/run.jsonl")
	if err != nil {
		return err
	}
	return t.w.Bundle(ctx, tape.FrontName, func([]tape.Entry, int) (map[string]string, error) { return front, nil })
}

// Commit writes the small files and the index to the end of the tape.
func (t *Tape) Commit(ctx context.Context) error {
	t.report.Phase("writing the index of the tape", 0)
	if err := t.w.Bundle(ctx, tape.SetName, t.bundle); err != nil {
		return err
	}
	return t.w.Finish()
}

// Remove does nothing: a tape without its index is not a set, and can be written again.
func (t *Tape) Remove() error { return nil }

// bundle lists what goes to the tape last, and writes the index for it.
func (t *Tape) bundle(entries []tape.Entry, reels int) (map[string]string, error) {
	files, err := t.small("")
	if err != nil {
		return nil, err
	}
	t.index.Entries, t.index.Reels = entries, reels
	b, err := json.MarshalIndent(t.index, "", " ")
	if err != nil {
		return nil, err
	}
	files[tape.IndexFile] = t.dir + "." + tape.IndexFile
	if err := os.WriteFile(files[tape.IndexFile], b, 0o600); err != nil {
		return nil, err
	}
	maps.Copy(files, t.tails)
	return files, nil
}

// small lists the set's files but one, as name and path.
func (t *Tape) small(without string) (map[string]string, error) {
	out := map[string]string{}
	err := filepath.WalkDir(t.dir, func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(t.dir, p)
		if err != nil || name == without {
			return err
		}
		out[name] = p
		return nil
	})
	return out, err
}

// Stream writes a file to the tape while produce makes it.
func (t *Tape) Stream(ctx context.Context, name string, produce func(ctx context.Context, w io.Writer) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := produce(ctx, w)
		w.CloseWithError(err) // nil is io.EOF
		done <- err
	}()
	err := t.w.Cut(ctx, name, r)
	r.CloseWithError(err)
	cancel()
	if e := <-done; err == nil && e != nil {
		err = e
	}
	return err
}

// Keep enters a file in the tape's index, with its end.
func (t *Tape) Keep(name string, size int64, index *os.File) error {
	st, err := index.Stat()
	if err == nil {
		t.tails[name+".tail"] = t.dir + "." + name + ".tail"
		err = os.Rename(index.Name(), t.tails[name+".tail"])
	}
	if err != nil {
		return fmt.Errorf("cannot keep the index of %s: %w", name, err)
	}
	t.index.Archives = append(t.index.Archives, tape.Archive{File: name, Size: size, Tail: name + ".tail", TailAt: size - st.Size()})
	return nil
}

// Drop marks what is on the tape of a file that could not be saved: no list of archives
// names it, and readers pass over it.
func (t *Tape) Drop(name string) (string, error) { return t.w.Incomplete(name), nil }
