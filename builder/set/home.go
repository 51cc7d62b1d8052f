package set

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"filippo.io/age"

	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/signing"
	"github.com/mkcdrec/mkcdrec/internal/store"
	"github.com/mkcdrec/mkcdrec/internal/store/sealed"
)

// UnfinishedFile marks a set that is being written to a home: its directory has no manifest
// yet. It is removed when the set is complete.
const UnfinishedFile = store.UnfinishedFile

// Home is a sink in a home: large files go there at once, the small ones at the end, and the
// manifest last, since a set is one by its manifest. With recipients all of it is encrypted.
type Home struct {
	// Tails has the end of each large file of an encrypted set kept as a file of its own, so that it can be read
	// without the last disc.
	Tails  bool
	home   store.Home
	dir    string // with the small files
	name   string // of the set's directory in the home
	report progress.Reporter
	seal   *sealed.Writer // nil for a set that is not encrypted
	ctx    context.Context
	head   sealed.Head
}

// NewHome begins a set in a home, as HOST-TIME. Its small files are put together in the
// directory set, which is made below work. What a killed run of this machine has left in the
// home is removed.
func NewHome(ctx context.Context, home store.Home, work, host, id string, created time.Time, recipients []age.Recipient, report progress.Reporter) (*Home, error) {
	h := &Home{home: home, dir: filepath.Join(work, "set"), report: report, ctx: context.WithoutCancel(ctx)}
	if len(recipients) > 0 {
		h.seal = sealed.NewWriter(recipients)
		h.head = sealed.Head{ID: id, Host: host, Created: created.UTC().Truncate(time.Second)}
	}
	if err := os.MkdirAll(h.dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot write the set: %w", err)
	}
	if err := h.claim(ctx, host, created); err != nil {
		return nil, err
	}
	h.removeStale(ctx, host)
	if err := ctx.Err(); err != nil {
		return nil, errors.Join(err, h.Remove())
	}
	return h, nil
}

// claim marks a set as this run's: that of the time, or of a second after it, if another machine
// with this one's name has begun one at that time.
func (h *Home) claim(ctx context.Context, host string, created time.Time) error {
	mark, err := json.Marshal(hidden(self(host)))
	if err != nil {
		return err
	}
	for range 60 {
		h.name = SetName(host, created)
		created = created.Add(time.Second)
		at := h.home.At(ctx, h.name)
		switch _, err := at.Size(UnfinishedFile); {
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return err
		case err == nil || manifest.HasSet(at):
			continue
		}
		if err := h.put(ctx, UnfinishedFile, mark); err != nil {
			return err
		}
		// Not every server can refuse a file that exists: the last one to write it has it.
		is, err := store.ReadFile(h.home.At(ctx, h.name), UnfinishedFile, maxOwner)
		if err != nil {
			h.report.Warn("what is written to %s can't be read here: %v", h.home, err)
		}
		if err != nil || bytes.Equal(is, mark) {
			return nil
		}
	}
	return fmt.Errorf("cannot write the set: %s: %w", h.name, fs.ErrExist)
}

// RetireIn removes a complete set of a home. It is marked first: what remains when the run is
// killed is removed by the next one of this machine, whose name is host.
func RetireIn(ctx context.Context, home store.Home, name, host string) error {
	mark, err := json.Marshal(hidden(self(host)))
	if err != nil {
		return err
	}
	h := &Home{home: home, name: name}
	_ = h.put(ctx, UnfinishedFile, mark) // a full server takes none
	return home.Remove(ctx, name)
}

// nameTime is the time of a set in the name of its directory.
const nameTime = "20060102T150405Z"

// SetName is the name of the directory that a set of a host gets.
func SetName(host string, created time.Time) string {
	return fmt.Sprintf("%s-%s", SafeName(host), created.UTC().Format(nameTime))
}

// hidden is an owner whose ids are hashed: whoever may read the home learns nothing of the
// machine but that two sets are of the same.
func hidden(o owner) owner {
	hash := func(s string) string {
		if s == "" {
			return ""
		}
		sum := sha256.Sum256([]byte("mkcdrec unfinished set\x00" + s))
		return hex.EncodeToString(sum[:])
	}
	return owner{MachineID: hash(o.MachineID), BootID: hash(o.BootID), PIDSpace: o.PIDSpace, PID: o.PID, Start: o.Start}
}

// removeStale removes the unfinished sets of this machine whose runs have ended. A backup is made without that, too: a
// login that may only add files can't list or remove any.
func (h *Home) removeStale(ctx context.Context, host string) {
	err := eachLeft(ctx, h.home, host, func(l left) {
		if l.name == h.name || !l.mine || !l.ended(h.age(ctx, l.name)) {
			return
		}
		if err := h.removeLeft(ctx, l); err != nil && ctx.Err() == nil {
			h.report.Warn("%v", err)
		}
	})
	if err != nil && ctx.Err() == nil {
		h.report.Note("unfinished backups of runs that were killed are not looked for: %v", err)
	}
}

// left is a set of a home that has the mark of an unfinished one.
type left struct {
	name string
	at   store.Store
	mine bool // of this machine
	own  owner
	me   owner
}

// ended reports whether the run is over; age is for how long nothing was written to the set.
func (l left) ended(age time.Duration) bool { return l.own.ended(l.me, age-quiet+lifeless) }

// eachLeft calls fn for each set in a home that is named after host and has a mark.
func eachLeft(ctx context.Context, home store.Home, host string, fn func(left)) error {
	me := hidden(self(host))
	return manifest.EachSet(ctx, home, func(name string, at store.Store) func() {
		if l, ok := readLeft(name, at, host, me); ok {
			return func() { fn(l) }
		}
		return func() {}
	})
}

// readLeft reads the mark of a set; false if it is complete, not named after host, or not of a program that marks them.
func readLeft(name string, at store.Store, host string, me owner) (l left, ok bool) {
	if !strings.HasPrefix(name, SafeName(host)+"-") {
		return l, false
	}
	l = left{name: name, at: at, me: me}
	b, err := store.ReadFile(at, UnfinishedFile, maxOwner)
	if err != nil || json.Unmarshal(b, &l.own) != nil {
		return l, false
	}
	l.mine = l.own.MachineID == me.MachineID
	return l, true
}

// removeLeft removes what a run has left, or only its mark from a set that is complete.
func (h *Home) removeLeft(ctx context.Context, l left) error {
	if manifest.HasSet(l.at) { // killed between the manifest and the end of the mark, or before it was removed
		err := h.home.Remove(ctx, path.Join(l.name, UnfinishedFile))
		if errors.Is(err, fs.ErrPermission) { // the run that left it has reported that
			return nil
		}
		return err
	}
	h.report.Note("removing %s, the unfinished backup of a run that has ended", l.name)
	if err := h.home.Remove(ctx, l.name); err != nil {
		return fmt.Errorf("cannot remove the unfinished backup %s: %w", l.name, err)
	}
	return nil
}

// age is for how long nothing has been written to a set of the home, by the server's clock where this run has written
// something; it is 0 where that is unknown. A run of this machine before its last boot has certainly ended, but one of a
// clone with the same machine-id may not, and a large file takes hours.
func (h *Home) age(ctx context.Context, dir string) time.Duration {
	now, then := time.Now(), newestFile(ctx, h.home, dir)
	if h.name != "" {
		now = newestFile(ctx, h.home, h.name)
	}
	if now.IsZero() || then.IsZero() {
		return 0
	}
	return now.Sub(then)
}

// newestFile is when something was written to a directory of a home last; zero if that is unknown.
func newestFile(ctx context.Context, home store.Home, dir string) (t time.Time) {
	files, err := home.Files(ctx, dir)
	if err != nil {
		return t
	}
	for _, f := range files {
		if f.Time.After(t) {
			t = f.Time
		}
	}
	return t
}

// quiet is for how long nothing has to be written to an unfinished set in a home before it
// counts as left behind, if its run may be one of another boot or machine.
const quiet = 24 * time.Hour

// LeftoversIn is Leftovers for a home.
func LeftoversIn(ctx context.Context, home store.Home, host string) (out []Leftover, err error) {
	h := &Home{home: home}
	err = eachLeft(ctx, home, host, func(l left) {
		if manifest.HasSet(l.at) {
			return
		}
		x := Leftover{Name: l.name, Age: h.age(ctx, l.name)}
		switch x.Over = l.mine && l.ended(x.Age); {
		case !l.mine:
			x.Why = "unfinished, of another machine"
		case !x.Over && l.own.BootID == l.me.BootID:
			x.Why = "a backup is writing it"
		case !x.Over:
			x.Why = "unfinished, and written to less than a day ago"
		}
		out = append(out, x)
	})
	return out, err
}

// RemoveLeftoverIn is RemoveLeftover for a home.
func RemoveLeftoverIn(ctx context.Context, home store.Home, name, host string) error {
	l, ok := readLeft(name, home.At(ctx, name), host, hidden(self(host)))
	if !ok || !l.mine || manifest.HasSet(l.at) || !l.ended((&Home{home: home}).age(ctx, name)) {
		return fmt.Errorf("%s/%s is no longer a leftover: %w", home, name, fs.ErrNotExist)
	}
	if err := home.Remove(ctx, name); err != nil {
		return fmt.Errorf("cannot remove the unfinished backup %s: %w", name, err)
	}
	return nil
}

// Dir implements Sink.
func (h *Home) Dir() string { return h.dir }

// Final is the place of the set, for people.
func (h *Home) Final() string { return strings.TrimSuffix(h.home.String(), "/") + "/" + h.name }

// Name is the name of the set's directory in the home.
func (h *Home) Name() string { return h.name }

// Begin implements Sink.
func (h *Home) Begin(context.Context) error { return nil }

// upload writes a file of the set's directory, which appears once produce has ended.
func (h *Home) upload(ctx context.Context, name string, produce func(ctx context.Context, w io.Writer) error) error {
	u, err := h.home.Create(ctx, path.Join(h.name, name))
	if err != nil {
		return fmt.Errorf("cannot write to %s: %w", h.home, err)
	}
	err = produce(ctx, u)
	if err == nil {
		if err = u.Commit(); err == nil {
			return nil
		}
		err = fmt.Errorf("cannot write to %s: %w", h.home, err)
	}
	return errors.Join(err, u.Abort())
}

// put writes a small file of the set's directory.
func (h *Home) put(ctx context.Context, name string, b []byte) error {
	return h.upload(ctx, name, func(_ context.Context, w io.Writer) error { _, err := w.Write(b); return err })
}

// Stream implements Sink.
func (h *Home) Stream(ctx context.Context, name string, produce func(ctx context.Context, w io.Writer) error) error {
	if h.seal == nil {
		return h.upload(ctx, name, produce)
	}
	return h.upload(ctx, h.seal.Object(), func(ctx context.Context, w io.Writer) error {
		return h.seal.File(ctx, name, w, produce)
	})
}

// Keep implements Sink.
func (h *Home) Keep(name string, _ int64, index *os.File) error {
	if h.seal == nil || !h.Tails {
		return nil
	}
	return h.Stream(h.ctx, name+sealed.TailSuffix, func(_ context.Context, w io.Writer) error {
		_, err := io.Copy(w, io.NewSectionReader(index, 0, 1<<62))
		return err
	})
}

// Drop implements Sink.
func (h *Home) Drop(name string) (string, error) {
	if h.seal != nil {
		name = h.seal.Forget(name)
	}
	if err := h.home.Remove(h.ctx, path.Join(h.name, name)); err != nil {
		return "", fmt.Errorf("cannot write the set: %w", err)
	}
	return "", nil
}

// Commit writes the small files, and what makes the set one at the end.
func (h *Home) Commit(ctx context.Context) error {
	h.report.Phase("writing the small files to "+h.home.String(), 0)
	err := filepath.WalkDir(h.dir, func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(h.dir, p)
		if err != nil || name == manifest.File && h.seal == nil {
			return err
		}
		return h.file(ctx, name)
	})
	if err != nil {
		return err
	}
	if h.seal == nil {
		err = h.file(ctx, manifest.File)
	} else {
		err = h.finish(ctx)
	}
	if err != nil {
		return err
	}
	switch err := h.home.Remove(ctx, path.Join(h.name, UnfinishedFile)); {
	case errors.Is(err, fs.ErrPermission):
		h.report.Note("the backup is complete; its mark %s stays, since this login may not remove files", UnfinishedFile)
	case err != nil:
		h.report.Warn("the backup is complete; its mark %s could not be removed: %v", UnfinishedFile, err)
	}
	return nil
}

// file writes one of the small files.
func (h *Home) file(ctx context.Context, name string) error {
	f, err := os.Open(filepath.Join(h.dir, name))
	if err != nil {
		return fmt.Errorf("cannot write the set: %w", err)
	}
	defer f.Close()
	return h.Stream(ctx, name, func(_ context.Context, w io.Writer) error { _, err := io.Copy(w, f); return err })
}

// finish writes the index and the head of an encrypted set.
func (h *Home) finish(ctx context.Context) error {
	index, head, err := finishSealed(h.seal, h.head, h.dir)
	if err != nil {
		return err
	}
	if err := h.put(ctx, sealed.IndexFile, index); err != nil {
		return err
	}
	return h.put(ctx, sealed.HeadFile, head)
}

// finishSealed gives index and head of an encrypted set whose manifest is in dir.
func finishSealed(seal *sealed.Writer, h sealed.Head, dir string) (index, head []byte, err error) {
	b, err := os.ReadFile(filepath.Join(dir, manifest.File))
	if err != nil {
		return nil, nil, fmt.Errorf("cannot write the set: %w", err)
	}
	m, err := manifest.Parse(b)
	if err != nil {
		return nil, nil, err
	}
	h.NotCovered, h.Machine = len(m.NotCovered), m.Sum(MachineFile).SHA256
	for _, n := range m.Needs {
		h.Needs = append(h.Needs, sealed.Need{ID: n.ID, Dir: n.Dir})
	}
	return seal.Finish(h)
}

// Remove implements Sink. It does not end with the run's context, which may have been
// cancelled.
func (h *Home) Remove() error {
	if err := h.home.Remove(h.ctx, h.name); err != nil {
		return fmt.Errorf("cannot remove the unfinished set: %w", err)
	}
	return nil
}

// signFile gives a signature of a file in dir to the file beside it.
func signFile(dir, name string, sign func([]byte) ([]byte, error)) error {
	if sign == nil {
		return nil
	}
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err == nil {
		if b, err = sign(b); err == nil {
			err = os.WriteFile(filepath.Join(dir, name+signing.Suffix), b, 0o600)
		}
	}
	if err != nil {
		return fmt.Errorf("cannot sign the set: %w", err)
	}
	return nil
}
