package set

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"filippo.io/age"

	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/regular"
	"github.com/mkcdrec/mkcdrec/internal/store/sealed"
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
	seal  *sealed.Writer // nil for a set that is not encrypted
	// sealed is the directory with the small objects of an encrypted set, which is what goes to the
	// tape in the place of dir's files.
	sealed string
}

// NewTape begins a set on tape; its small files are kept in the directory set, which it
// makes below work. With recipients all of it is encrypted.
func NewTape(w *tape.Writer, work string, recipients []age.Recipient, report progress.Reporter) (*Tape, error) {
	t := &Tape{w: w, dir: filepath.Join(work, "set"), report: report, tails: map[string]string{}}
	t.index.Version, t.index.ID = 1, w.ID.String()
	if err := os.MkdirAll(t.dir, 0o700); err != nil || len(recipients) == 0 {
		return t, err
	}
	t.seal, t.sealed = sealed.NewWriter(recipients), filepath.Join(work, "sealed")
	return t, os.MkdirAll(t.sealed, 0o700)
}

// Reels is how many reels a committed set has.
func (t *Tape) Reels() int { return t.index.Reels }

// Dir implements Sink.
func (t *Tape) Dir() string { return t.dir }

// Begin writes what is needed to make the disks, should the end be lost.
func (t *Tape) Begin(ctx context.Context) error {
	front, err := small(t.dir, "log/run.jsonl")
	if err == nil && t.seal != nil {
		front, err = t.sealFront(front)
	}
	if err != nil {
		return err
	}
	return t.w.Bundle(ctx, tape.FrontName, func([]tape.Entry, int) (map[string]string, error) { return front, nil })
}

// Commit writes the small files and the index to the end of the tape.
func (t *Tape) Commit(ctx context.Context) error {
	t.report.Phase("writing the index of the tape", 0)
	if t.seal != nil {
		if err := t.sealSmall(ctx); err != nil {
			return err
		}
	}
	if err := t.w.Bundle(ctx, tape.SetName, t.bundle); err != nil {
		return err
	}
	return t.w.Finish()
}

// Remove does nothing: a tape without its index is not a set, and can be written again.
func (t *Tape) Remove() error { return nil }

// bundle lists what goes to the tape last, and writes the index for it.
func (t *Tape) bundle(entries []tape.Entry, reels int) (map[string]string, error) {
	files, err := small(cmp.Or(t.sealed, t.dir), "")
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

// small lists the files in dir but one, as name and path.
func small(dir, without string) (map[string]string, error) {
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, p)
		if err != nil || name == without {
			return err
		}
		out[name] = p
		return nil
	})
	return out, err
}

// frontSealed is the file with all of an encrypted front, as a tar.zst.
const frontSealed = "front.tar.zst.age"

// sealFront encrypts what is written before the first stream as one file.
func (t *Tape) sealFront(files map[string]string) (map[string]string, error) {
	name := t.sealed + "." + frontSealed
	err := create(name, func(f io.Writer) error {
		to, err := t.seal.Encrypt(f)
		if err != nil {
			return err
		}
		return errors.Join(tape.Pack(to, files), to.Close())
	})
	return map[string]string{frontSealed: name}, err
}

// sealFile makes an object of a small file, or of the end of a large one.
func (t *Tape) sealFile(ctx context.Context, name, file string) error {
	in, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("cannot write the set: %w", err)
	}
	defer in.Close()
	return create(filepath.Join(t.sealed, t.seal.Object()), func(f io.Writer) error {
		return t.seal.File(ctx, name, f, func(_ context.Context, w io.Writer) error { _, err := io.Copy(w, in); return err })
	})
}

// sealSmall makes objects of the small files, and writes index and head.
func (t *Tape) sealSmall(ctx context.Context) error {
	files, err := small(t.dir, "")
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := t.sealFile(ctx, name, files[name]); err != nil {
			return err
		}
	}
	index, head, err := finishSealed(t.seal, sealed.Head{ID: t.w.ID.String(), Host: t.w.Host, Created: t.w.Created}, t.dir)
	if err != nil {
		return err
	}
	return errors.Join(regular.WriteFile(filepath.Join(t.sealed, sealed.IndexFile), index), regular.WriteFile(filepath.Join(t.sealed, sealed.HeadFile), head))
}

// create writes a new file.
func create(name string, fill func(io.Writer) error) error {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("cannot write the set: %w", err)
	}
	return errors.Join(fill(f), f.Close())
}

// Stream writes a file to the tape while produce makes it.
func (t *Tape) Stream(ctx context.Context, name string, produce func(ctx context.Context, w io.Writer) error) error {
	if t.seal != nil {
		file, plain := name, produce
		name = t.seal.Object()
		produce = func(ctx context.Context, w io.Writer) error { return t.seal.File(ctx, file, w, plain) }
	}
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
	if t.seal != nil {
		object, packed := t.seal.Of(name)
		t.index.Archives = append(t.index.Archives, tape.Archive{File: object, Size: packed, TailAt: packed})
		return t.sealFile(context.Background(), name+sealed.TailSuffix, index.Name())
	}
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
func (t *Tape) Drop(name string) (string, error) {
	if t.seal != nil {
		name = t.seal.Forget(name)
	}
	return t.w.Incomplete(name), nil
}
