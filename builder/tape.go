package builder

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/archive"
	"github.com/mkcdrec/mkcdrec/internal/blockcopy"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/media"
	"github.com/mkcdrec/mkcdrec/internal/store/tape"
	"github.com/mkcdrec/mkcdrec/internal/uuid"
	"github.com/mkcdrec/mkcdrec/internal/volume"
)

// TapeOptions says how a set goes to tape.
type TapeOptions struct {
	Drives []tape.Drive
	// Device is the name of the first drive, for the rescue system.
	Device    string
	NextReel  func(ctx context.Context, d tape.Drive, reel int, problem error) error
	Overwrite bool
	// ISO is the file that gets the rescue medium; it appears whole, before the
	// tape is written to.
	ISO string
	// OBDR puts the medium in front of the set, so that the drive starts it.
	OBDR bool
}

// TapeResult says what was written.
type TapeResult struct {
	ID         string   `json:"id"`
	Reels      int      `json:"reels"`
	ISO        string   `json:"iso,omitempty"`
	NotCovered []string `json:"notCovered,omitempty"`

	Manifest *manifest.Manifest `json:"manifest"`
}

// Tape writes a set to tape. Before the first byte is written, the medium is
// made and all tapes that are there are looked at.
func (b *Builder) Tape(ctx context.Context, p *Plan, opt TapeOptions) (*TapeResult, error) {
	for _, d := range opt.Drives {
		if _, err := tape.Check(d, opt.Overwrite); err != nil {
			return nil, err
		}
	}
	// Small files only: what is large goes to the tape at once.
	work, err := os.MkdirTemp(filepath.Dir(opt.ISO), ".mkcdrec-tape-*")
	if err != nil {
		return nil, fmt.Errorf("cannot write to tape: %w", err)
	}
	defer os.RemoveAll(work)
	if err := p.leaveOut(b.Config.Exclude, work); err != nil {
		return nil, err
	}
	now := time.Now().UTC().Truncate(time.Second)
	t := &tapeSet{tails: map[string]string{}, create: archive.Create, setWriter: setWriter{b: b, p: p, dir: filepath.Join(work, "set"), sfv: map[string]uint32{}, man: &manifest.Manifest{Version: manifest.Version, ID: uuid.New(), Host: p.Layout.Hostname, Created: now, Program: b.Version, Kernel: p.Layout.Kernel.Release}}}
	if err := os.MkdirAll(t.dir+"/log", 0o700); err != nil {
		return nil, err
	}
	iso := filepath.Join(work, "iso")
	k, info, initrd, err := b.system(ctx, p, Hint{SetID: t.man.ID, Tape: opt.Device}, work)
	if err != nil {
		return nil, err
	}
	noBIOS := false
	if err := b.image(p, k, info, initrd, iso, func(img *media.ISO) {
		// What starts a tape is a BIOS, and it wants all it needs for that in
		// the first 250 KB: no room for an EFI partition.
		if noBIOS = opt.OBDR && img.BIOS == nil; opt.OBDR && !noBIOS {
			img.UEFI = nil
		}
	}); err != nil {
		return nil, err
	}
	if noBIOS {
		return nil, errors.New("cannot make an OBDR tape: it starts by BIOS, and there is no boot loader for that (isolinux)")
	}
	id, err := volume.ParseID(t.man.ID)
	if err != nil {
		return nil, err
	}
	t.w = &tape.Writer{Drives: opt.Drives, NextReel: opt.NextReel, ID: id, Host: t.man.Host, Created: now, Overwrite: opt.Overwrite, Note: b.Report.Note}
	if opt.OBDR {
		t.w.Before = func(d tape.Drive) error {
			b.Report.Phase("writing the image in front", 0)
			return tape.WriteOBDR(d, iso)
		}
	}
	if err := t.write(ctx); err != nil {
		return nil, err
	}
	res := &TapeResult{ID: t.man.ID, Reels: t.reels, NotCovered: t.man.NotCovered, Manifest: t.man}
	if !opt.OBDR {
		if err := os.Rename(iso, opt.ISO); err != nil {
			return nil, fmt.Errorf("cannot write %s: %w", opt.ISO, err)
		}
		res.ISO = opt.ISO
	}
	return res, nil
}

// leaveOut adds a directory of ours to what the rules leave out.
func (p *Plan) leaveOut(rules []string, dir string) error {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	p.exclude, err = archive.NewMatcher(append(slices.Clone(rules), archive.QuoteRule(abs)))
	return err
}

type tapeSet struct {
	setWriter
	w     *tape.Writer
	index tape.Index
	// tails are the ends of archives and images, as name and path. They are beside the
	// set's directory, since manifest and sums don't have them.
	tails map[string]string
	reels int

	create func(context.Context, io.Writer, *os.File, archive.CreateOptions) (*archive.Summary, error) // archive.Create
}

func (t *tapeSet) write(ctx context.Context) error {
	lf, err := os.OpenFile(filepath.Join(t.dir, "log/run.jsonl"), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("cannot write the set: %w", err)
	}
	defer lf.Close()
	t.log = slog.New(slog.NewJSONHandler(lf, nil))
	t.log.Info("backup to tape starts", "host", t.man.Host, "id", t.man.ID, "version", t.b.Version)
	// In front: what is needed to make the disks, should the end be lost.
	if err := t.texts(); err != nil {
		return err
	}
	front, err := t.small("log/run.jsonl")
	if err != nil {
		return err
	}
	if err := t.w.Bundle(ctx, tape.FrontName, func([]tape.Entry, int) (map[string]string, error) { return front, nil }); err != nil {
		return err
	}
	t.remounted()
	// In the order in which a restore wants them.
	for _, m := range t.p.Images {
		if err := t.imageToTape(ctx, m); err != nil {
			return err
		}
	}
	for _, a := range t.p.Archives {
		if err := t.toTape(ctx, a); err != nil {
			return err
		}
	}
	for _, e := range t.p.LeftOut {
		t.log.Info("left out", "what", e)
	}
	t.man.NotCovered = append(slices.Clone(t.p.NotCovered), t.man.NotCovered...)
	for _, e := range t.man.NotCovered {
		t.log.Warn("not covered", "what", e)
	}
	// Once more, now that it is known what was archived.
	old, err := os.ReadDir(t.dir)
	if err != nil {
		return fmt.Errorf("cannot write the set: %w", err)
	}
	for _, f := range old {
		if f.Type().IsRegular() {
			if err := os.Remove(filepath.Join(t.dir, f.Name())); err != nil {
				return fmt.Errorf("cannot write the set: %w", err)
			}
		}
	}
	if err := t.texts(); err != nil {
		return err
	}
	t.log.Info("backup ends", "archives", len(t.man.Archives), "notCovered", len(t.man.NotCovered))
	if err := errors.Join(lf.Sync(), lf.Close()); err != nil {
		return fmt.Errorf("cannot write the set's log: %w", err)
	}
	if err := t.sums(ctx); err != nil {
		return err
	}
	if err := t.man.Write(t.dir); err != nil {
		return err
	}
	t.b.Report.Phase("writing the index of the tape", 0)
	if err := t.w.Bundle(ctx, tape.SetName, t.bundle); err != nil {
		return err
	}
	return t.w.Finish()
}

// bundle lists what goes to the tape last, and writes the index for it.
func (t *tapeSet) bundle(entries []tape.Entry, reels int) (map[string]string, error) {
	files, err := t.small("")
	if err != nil {
		return nil, err
	}
	t.index.Version, t.index.ID, t.index.Entries, t.index.Reels = 1, t.man.ID, entries, reels
	b, err := json.MarshalIndent(t.index, "", " ")
	if err != nil {
		return nil, err
	}
	files[tape.IndexFile] = t.dir + "." + tape.IndexFile
	if err := os.WriteFile(files[tape.IndexFile], b, 0o600); err != nil {
		return nil, err
	}
	maps.Copy(files, t.tails)
	t.reels = reels
	return files, nil
}

// small lists the set's files but one, as name and path.
func (t *tapeSet) small(without string) (map[string]string, error) {
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

// stream writes a file to the tape while produce makes it.
func (t *tapeSet) stream(ctx context.Context, name string, produce func(ctx context.Context, w io.Writer) error) error {
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

// tailFile is where the end of an archive or image is kept.
func (t *tapeSet) tailFile(name string) string { return t.dir + "." + name + ".tail" }

// list enters a file in the tape's index, with its end, which readers want first.
func (t *tapeSet) list(name string, size int64) error {
	st, err := os.Stat(t.tailFile(name))
	if err != nil {
		return fmt.Errorf("cannot keep the index of %s: %w", name, err)
	}
	t.index.Archives = append(t.index.Archives, tape.Archive{File: name, Size: size, Tail: name + ".tail", TailAt: size - st.Size()})
	t.tails[name+".tail"] = t.tailFile(name)
	return nil
}

// incomplete marks what is on the tape of a file that could not be saved: it is not
// covered, no list of archives names it, and readers pass over it.
func (t *tapeSet) incomplete(name string) {
	where := t.w.Incomplete(name)
	t.log.Warn("incomplete on the tape", "file", name, "where", where)
	t.b.Report.Note("%s: %s ends early and is not part of the set", where, name)
}

// imageToTape saves a device block by block. Errors are those of the tape; a
// device that can't be read is not covered.
func (t *tapeSet) imageToTape(ctx context.Context, m *layout.Image) error {
	src, err := openImage(m)
	if err != nil {
		t.imageLacks(m, err)
		return nil
	}
	defer src.Close()
	name := m.File
	var sum *blockcopy.Summary
	if err := t.stream(ctx, name, func(ctx context.Context, w io.Writer) (err error) {
		sum, err = t.imageTo(ctx, w, src, m)
		return err
	}); err != nil {
		return err
	}
	if sum == nil {
		t.incomplete(name)
		return nil
	}
	if err := os.WriteFile(t.tailFile(name), sum.Index, 0o600); err != nil {
		return fmt.Errorf("cannot keep the index of %s: %w", name, err)
	}
	return t.list(name, sum.Packed)
}

// toTape archives one file system to the tape. Errors are those of the tape; a
// file system that can't be read is not covered.
func (t *tapeSet) toTape(ctx context.Context, a PlannedArchive) error {
	root, err := a.open(t.b, t.p)
	if err != nil {
		t.archiveLacks(a, err)
		return nil
	}
	defer root.Close()
	tail, err := os.OpenFile(t.tailFile(a.File), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("cannot keep the index of %s: %w", a.File, err)
	}
	defer tail.Close()
	var sum *archive.Summary
	crc := crc32.NewIEEE()
	opt := a.options(t.p)
	index := &sink{w: tail}
	opt.Index, opt.Progress = index, t.b.Report.Phase("archiving "+a.Name()+" to tape", a.Used)
	if err := t.stream(ctx, a.File, func(ctx context.Context, w io.Writer) error {
		out := &sink{w: io.MultiWriter(w, crc)}
		var err error
		sum, err = t.create(ctx, out, root, opt)
		if err != nil && out.err == nil && index.err == nil && ctx.Err() == nil {
			t.archiveLacks(a, err) // the stream ends here
			sum = nil
			return nil
		}
		return err
	}); err != nil {
		return err
	}
	if sum == nil {
		t.incomplete(a.File)
		return nil
	}
	if err := t.list(a.File, sum.Packed); err != nil {
		return err
	}
	t.archived(a, sum, crc.Sum32())
	text, err := archive.IndexText(tail)
	if err != nil {
		return err
	}
	list, err := t.file("log/" + trimArchive(a.File) + ".files.zst")
	if err != nil {
		return err
	}
	_, err = io.Copy(list, text)
	if err = errors.Join(err, list.Close()); err != nil {
		return fmt.Errorf("cannot write the list of files: %w", err)
	}
	return nil
}
