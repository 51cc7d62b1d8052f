// Package set writes a backup set once, to a sink: a directory, discs, a tape, or another
// place that keeps files.
package set

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"filippo.io/age"

	"github.com/mkcdrec/mkcdrec/internal/archive"
	"github.com/mkcdrec/mkcdrec/internal/blockcopy"
	"github.com/mkcdrec/mkcdrec/internal/coverage"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/regular"
)

// Sink is where a set goes. The set is there when Commit has returned without an error,
// and not before.
type Sink interface {
	// Dir is a local directory in which the set's small files are put together: log,
	// layout, lists, texts, and the rescue medium if it is one of the set's files.
	Dir() string
	// Begin is called before the first stream, when layout and texts are in Dir for the
	// first time: a sink may write what a restore needs should the end be lost.
	Begin(ctx context.Context) error
	// Stream writes a large file while produce makes it. Keep or Drop follows, unless
	// it returns an error.
	Stream(ctx context.Context, name string, produce func(ctx context.Context, w io.Writer) error) error
	// Keep makes the stream a file of the set. size is in bytes; index has its end,
	// which readers want first, and is removed afterwards unless the sink renames it.
	Keep(name string, size int64, index *os.File) error
	// Drop takes back a stream that could not be made. It returns where the rest of it is,
	// for people: "" for nothing.
	Drop(name string) (left string, err error)
	// Commit makes the set appear as a whole; Dir has all small files by then, the
	// manifest included.
	Commit(ctx context.Context) error
	// Remove takes away what there is of a set that was not committed.
	Remove() error
}

// Placed is a sink of a set that gets a name.
type Placed interface {
	Sink
	Final() string // its place, for people; the last part is the name
}

// Job is what one set gets.
type Job struct {
	Layout   *layout.Layout
	Archives []Archive
	// Images are the devices that are saved block by block.
	Images []*layout.Image
	// ImageStates, if not nil, gives what an image is compared with, nil for nothing, and what is
	// called with its index once it is made.
	ImageStates         func(m *layout.Image) (base *blockcopy.Base, keep func(index []byte))
	LeftOut, NotCovered []string
	// Marks are those of the plan, for the report of the coverage.
	Marks coverage.Marks
	// Recipients are whom LUKS headers are encrypted for.
	Recipients []age.Recipient
	Program    string // version of mkcdrec
	// Needs are the earlier sets of an increment, oldest first.
	Needs  []manifest.Needed
	Said   []string // lines that hooks have printed before the backup, for the log
	Report progress.Reporter
	// Sign signs the manifest; nil for none.
	Sign func([]byte) ([]byte, error)
}

// Archive is a file system that is to be archived.
type Archive struct {
	File, Device, Type, Mount string // as in manifest.Archive
	Name                      string // for people
	Used                      int64  // bytes
	// Open opens its root directory; an error leaves it out of the set.
	Open    func() (*os.File, error)
	Options archive.CreateOptions
	// Frozen, if not nil, opens the root directory in a snapshot, which is archived in the place
	// of Open's; it returns nil without one. An error has Open's archived.
	Frozen func() (*Frozen, error)
	// States, if not nil, sets Since and Keep of the options. It returns what is called once
	// the archive is made, or could not be made.
	States func(opt *archive.CreateOptions) (ended func())
}

// Frozen is a file system in a snapshot.
type Frozen struct {
	Root *os.File
	At   time.Time // when the snapshot was made, or just before
	// Whole returns an error if the snapshot was not whole until now: what was read is given up.
	Whole func(ctx context.Context) error
	// Done is called when Root is closed.
	Done func(ctx context.Context)
}

// Writer writes one set.
type Writer struct {
	Job
	ID   string
	sink Sink
	man  *manifest.Manifest
	log  *slog.Logger
	file *os.File // the log
	sfv  map[string]uint32
	// chains are the earlier archives and images of those that are increments, by file.
	chains map[string][]archive.Source
	texts  []string                                                                                    // the files that texts wrote
	create func(context.Context, io.Writer, *os.File, archive.CreateOptions) (*archive.Summary, error) // archive.Create
}

// Start begins a set with its log. The rescue medium is made next: what is missing for it
// must fail before the long part.
func Start(job Job, id string, created time.Time, sink Sink) (*Writer, error) {
	w := &Writer{Job: job, ID: id, sink: sink, sfv: map[string]uint32{}, chains: map[string][]archive.Source{}, create: archive.Create}
	w.man = &manifest.Manifest{Version: manifest.Version, ID: id, Host: job.Layout.Hostname, Created: created.UTC().Truncate(time.Second), Program: job.Program, Kernel: job.Layout.Kernel.Release}
	if err := os.MkdirAll(filepath.Join(sink.Dir(), "log"), 0o700); err != nil {
		return nil, fmt.Errorf("cannot write the set: %w", err)
	}
	var err error
	if w.file, err = w.open("log/run.jsonl"); err != nil {
		return nil, err
	}
	if _, err := This(job.Layout.Hostname).Write(sink.Dir()); err != nil {
		w.file.Close()
		return nil, err
	}
	w.log = slog.New(slog.NewJSONHandler(w.file, nil))
	w.log.Info("backup starts", "host", w.man.Host, "id", w.man.ID, "version", job.Program)
	w.Hooks(job.Said)
	return w, nil
}

// Close closes the log of a set, whether or not it was written.
func (w *Writer) Close() { w.file.Close() }

// Hooks enters lines that hooks have printed in the log.
func (w *Writer) Hooks(lines []string) {
	for _, l := range lines {
		w.log.Info("hook", "line", l)
	}
}

// Note enters a line in the log, and reports it.
func (w *Writer) Note(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	w.log.Info("note", "what", text)
	w.Report.Note("%s", text)
}

// Lacks enters something that the set lacks, in the manifest and the log.
func (w *Writer) Lacks(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	w.man.NotCovered = append(w.man.NotCovered, text)
	w.Report.Warn("not covered: %s", text)
}

// Write writes the set and commits it. Errors are those of writing; what can't be read is
// not covered.
func (w *Writer) Write(ctx context.Context) (*manifest.Manifest, error) {
	if err := w.writeTexts(); err != nil {
		return nil, err
	}
	if err := w.sink.Begin(ctx); err != nil {
		return nil, err
	}
	// In the order in which a restore wants them.
	for _, m := range w.Images {
		if err := w.image(ctx, m); err != nil {
			return nil, err
		}
	}
	for i := range w.Archives {
		if err := w.archive(ctx, &w.Archives[i]); err != nil {
			return nil, err
		}
	}
	if len(w.chains) > 0 {
		w.man.Version, w.man.Needs = manifest.VersionIncrement, w.Needs
	}
	for _, e := range w.LeftOut {
		w.log.Info("left out", "what", e)
	}
	w.man.NotCovered = append(slices.Clone(w.NotCovered), w.man.NotCovered...)
	for _, e := range w.man.NotCovered {
		w.log.Warn("not covered", "what", e)
	}
	// Once more, now that it is known what was saved.
	if err := w.writeTexts(); err != nil {
		return nil, err
	}
	if err := w.coverage(); err != nil {
		return nil, err
	}
	w.log.Info("backup ends", "archives", len(w.man.Archives), "notCovered", len(w.man.NotCovered))
	if err := errors.Join(w.file.Sync(), w.file.Close()); err != nil {
		return nil, fmt.Errorf("cannot write the set's log: %w", err)
	}
	if err := w.sums(ctx); err != nil {
		return nil, err
	}
	if err := w.man.Write(w.sink.Dir()); err != nil {
		return nil, err
	}
	if err := signFile(w.sink.Dir(), manifest.File, w.Sign); err != nil {
		return nil, err
	}
	return w.man, w.sink.Commit(ctx)
}

// open opens a new small file of the set.
func (w *Writer) open(name string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(w.sink.Dir(), name), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot write the set: %w", err)
	}
	return f, nil
}

// stream writes a large file to the sink. produce makes it, writes its end to index, too,
// and returns its length; 0 if it could not be made, which it has entered then.
func (w *Writer) stream(ctx context.Context, name string, produce func(ctx context.Context, out, index io.Writer) (int64, error), kept func(index *os.File) error) error {
	index, err := os.CreateTemp(filepath.Join(w.sink.Dir(), "log"), ".index-*")
	if err != nil {
		return fmt.Errorf("cannot keep the index of %s: %w", name, err)
	}
	defer func() {
		index.Close()
		os.Remove(index.Name()) // not there if the sink has it now
	}()
	var size int64
	if err := w.sink.Stream(ctx, name, func(ctx context.Context, out io.Writer) error {
		o, x := &checked{w: out}, &checked{w: index}
		var err error
		size, err = produce(ctx, o, x)
		if err == nil { // what was made is not whole if it could not be written
			err = errors.Join(o.err, x.err, ctx.Err())
		}
		return err
	}); err != nil {
		return fmt.Errorf("cannot save %s: %w", name, err)
	}
	if size == 0 {
		left, err := w.sink.Drop(name)
		if left != "" {
			w.log.Warn("incomplete", "file", name, "where", left)
			w.Report.Note("%s: %s ends early and is not part of the set", left, name)
		}
		return err
	}
	if err := kept(index); err != nil {
		return err
	}
	return w.sink.Keep(name, size, index)
}

// checked keeps the error of writing a part of the set, which ends the run; other errors
// of making a part only cost that part.
type checked struct {
	w   io.Writer
	err error
}

func (s *checked) Write(p []byte) (int, error) {
	n, err := s.w.Write(p)
	if err != nil && s.err == nil {
		s.err = err
	}
	return n, err
}

// failed reports whether writing failed, or ctx ended.
func failed(ctx context.Context, all ...io.Writer) bool {
	return ctx.Err() != nil || slices.ContainsFunc(all, func(w io.Writer) bool { c, ok := w.(*checked); return ok && c.err != nil })
}

// archive saves one file system. One that can't be read is not covered; errors are those
// of writing the set.
func (w *Writer) archive(ctx context.Context, a *Archive) error {
	if a.Frozen != nil {
		if done, err := w.frozen(ctx, a); done || err != nil {
			return err
		}
	}
	root, err := a.Open()
	if err != nil {
		w.archiveLacks(a, err)
		return nil
	}
	defer root.Close()
	opt := a.Options
	if a.States != nil {
		defer a.States(&opt)()
	}
	_, err = w.makeArchive(ctx, a, root, &opt, nil)
	return err
}

// frozen saves a file system from its snapshot. It is not done without one, or if that was
// not whole to the end: nothing of it is in the set then.
func (w *Writer) frozen(ctx context.Context, a *Archive) (done bool, err error) {
	live := func(why error) {
		w.Report.Warn("%s is read live, without a snapshot: %v", a.Name, why)
		w.log.Warn("no snapshot", "archive", a.File, "why", why.Error())
	}
	f, err := a.Frozen()
	if err != nil {
		live(err)
		return false, nil
	}
	if f == nil {
		return false, nil
	}
	defer f.Done(ctx)
	defer f.Root.Close()
	opt := a.Options
	opt.At = f.At
	ended := func() {}
	if a.States != nil {
		ended = a.States(&opt)
	}
	why, err := w.makeArchive(ctx, a, f.Root, &opt, f.Whole)
	if why != nil {
		opt.Keep = nil // its state is of no archive
	}
	ended()
	if err != nil || why == nil {
		return true, err
	}
	live(why)
	return false, nil
}

// makeArchive saves the file system whose root is open. If whole is not nil and has an error at
// the end, that is refused, and nothing of the archive is in the set.
func (w *Writer) makeArchive(ctx context.Context, a *Archive, root *os.File, opt *archive.CreateOptions, whole func(context.Context) error) (refused, err error) {
	var sum *archive.Summary
	crc := crc32.NewIEEE()
	err = w.stream(ctx, a.File, func(ctx context.Context, out, index io.Writer) (int64, error) {
		opt.Index, opt.Progress = index, w.Report.Phase("archiving "+a.Name, a.Used)
		s, err := w.create(ctx, io.MultiWriter(out, crc), root, *opt)
		if failed(ctx, out, index) {
			return 0, err
		}
		if whole != nil {
			if refused = whole(ctx); refused != nil {
				return 0, nil
			}
		}
		if err != nil {
			w.archiveLacks(a, err)
			return 0, nil
		}
		sum = s
		return s.Packed, nil
	}, func(index *os.File) error {
		if opt.Since != nil {
			w.chains[a.File] = opt.Since.Sources()
		}
		w.archived(a, sum, crc.Sum32(), whole != nil)
		return w.fileList(a.File, index)
	})
	return refused, err
}

// archiveLacks leaves a file system out of the set that could not be read.
func (w *Writer) archiveLacks(a *Archive, err error) {
	w.Lacks("%s (%s %s): its files are not in the set: %v", a.Device, a.Type, a.Name, err)
	w.Marks.Missing = append(w.Marks.Missing, coverage.Part{Device: a.Device, Mount: a.Mount})
	if f := w.Layout.On(a.Device); f != nil && len(f.Parts()) == 1 {
		f.Excluded = "its files could not be read when the backup was made"
	}
}

// mostProblems is how many paths of one archive the manifest lists as not
// covered; the log has all.
const mostProblems = 1000

// archived enters an archive in the manifest and the log, with its problems. frozen is set if it
// is of a snapshot.
func (w *Writer) archived(a *Archive, sum *archive.Summary, crc uint32, frozen bool) {
	hexsum := hex.EncodeToString(sum.SHA256[:])
	w.sfv[a.File] = crc
	lacks := 0
	for _, p := range sum.Problems {
		w.log.Warn("problem", "archive", a.File, "path", archive.Quote(p.Path), "kind", p.Kind, "detail", p.Detail)
		if p.NotCovered() {
			if lacks++; lacks <= mostProblems {
				w.man.NotCovered = append(w.man.NotCovered, filepath.Join(a.Name, archive.Quote(p.Path))+": "+p.Detail)
			}
		}
		if p.Kind != archive.Socket {
			w.Report.Warn("%s/%v", strings.TrimSuffix(a.Name, "/"), p)
		}
	}
	if lacks > mostProblems {
		w.man.NotCovered = append(w.man.NotCovered, fmt.Sprintf("%s: %d more paths (log/run.jsonl has all)", a.Name, lacks-mostProblems))
	}
	w.man.Archives = append(w.man.Archives, manifest.Archive{File: a.File, Device: a.Device, Type: a.Type, Mount: a.Mount,
		Size: quantity.Size(sum.Packed), TarSize: quantity.Size(sum.Tar), DataSize: quantity.Size(sum.Data),
		Members: sum.Members, SHA256: hexsum, Problems: len(sum.Problems)})
	w.man.Files = append(w.man.Files, manifest.FileSum{Name: a.File, Size: quantity.Size(sum.Packed), SHA256: hexsum})
	w.log.Info("archived", "mount", a.Mount, "device", a.Device, "file", a.File, "members", sum.Members, "earlier", sum.Earlier, "bytes", sum.Data, "packed", sum.Packed, "excluded", sum.Excluded, "snapshot", frozen)
}

// fileList keeps the archive's table of contents as the log of what was saved.
func (w *Writer) fileList(name string, index *os.File) error {
	text, err := archive.IndexText(index)
	if err != nil {
		return err
	}
	f, err := w.open("log/" + strings.TrimSuffix(name, ".tar.zst") + ".files.zst")
	if err != nil {
		return err
	}
	_, err = io.Copy(f, text)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("cannot write the list of files: %w", err)
	}
	return nil
}

// writeTexts writes the layout and the way back by hand, in the place of what it wrote
// before.
func (w *Writer) writeTexts() error {
	for _, name := range w.texts {
		if err := os.Remove(filepath.Join(w.sink.Dir(), name)); err != nil {
			return fmt.Errorf("cannot write the set: %w", err)
		}
	}
	w.texts = nil
	headers, lacks := LUKSHeaders(w.Layout, w.Recipients) // before the layout, which names them
	for _, l := range lacks {
		w.Lacks("%s", l)
	}
	f, err := w.open(manifest.Layout)
	if err != nil {
		return err
	}
	w.texts = append(w.texts, manifest.Layout)
	if err := errors.Join(w.Layout.Write(f), f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("cannot write the layout: %w", err)
	}
	files, err := byHand(w.Layout, w.man, w.chains)
	if err != nil {
		return err
	}
	maps.Copy(files, headers)
	for name, b := range files {
		if err := regular.WriteFile(filepath.Join(w.sink.Dir(), name), b); err != nil {
			return err
		}
		w.texts = append(w.texts, name)
	}
	return nil
}

// coverage writes the report of what the set has of each disk. A report that does not add
// up does not end the run: what was saved is saved.
func (w *Writer) coverage() error {
	m := w.Marks
	m.LeftOut, m.NotCovered = w.LeftOut, w.man.NotCovered
	r, err := coverage.Of(w.Layout, m)
	if err != nil {
		w.log.Warn("no report of the coverage", "error", err.Error())
		w.Report.Warn("no report of the coverage: %v", err)
		return nil
	}
	f, err := w.open(coverage.File)
	if err != nil {
		return err
	}
	if err := errors.Join(r.Write(f), f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("cannot write the coverage: %w", err)
	}
	return nil
}

// sums reads every other file once and writes the lists of checksums.
func (w *Writer) sums(ctx context.Context) error {
	err := filepath.WalkDir(w.sink.Dir(), func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(w.sink.Dir(), p)
		if err != nil {
			return err
		}
		if _, done := w.sfv[name]; done {
			return nil
		}
		f, err := os.Open(p)
		if err != nil {
			return err
		}
		defer f.Close()
		h, c := sha256.New(), crc32.NewIEEE()
		n, err := io.Copy(io.MultiWriter(h, c), f)
		if err != nil {
			return err
		}
		w.sfv[name] = c.Sum32()
		w.man.Files = append(w.man.Files, manifest.FileSum{Name: name, Size: quantity.Size(n), SHA256: hex.EncodeToString(h.Sum(nil))})
		return ctx.Err()
	})
	if err != nil {
		return fmt.Errorf("cannot sum up the set: %w", err)
	}
	slices.SortFunc(w.man.Files, func(a, b manifest.FileSum) int { return strings.Compare(a.Name, b.Name) })
	var sha, sfv strings.Builder
	for _, f := range w.man.Files {
		sha.WriteString(sumLine(f.SHA256, f.Name))
		fmt.Fprintf(&sfv, "%s %08X\n", f.Name, w.sfv[f.Name])
	}
	return errors.Join(regular.WriteFile(filepath.Join(w.sink.Dir(), manifest.SHA256), []byte(sha.String())), regular.WriteFile(filepath.Join(w.sink.Dir(), manifest.SFV), []byte(sfv.String())))
}
