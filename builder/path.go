package builder

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

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/initramfs"
	"github.com/mkcdrec/mkcdrec/internal/archive"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/regular"
	"github.com/mkcdrec/mkcdrec/internal/tool"
	"github.com/mkcdrec/mkcdrec/internal/uuid"
)

// Builder carries out plans.
type Builder struct {
	Run     tool.Runner
	Report  progress.Reporter
	Version string // of this program
	Config  *Config
	// Executable is the multicall binary that the rescue system gets.
	Executable string

	modules ModuleReport // of the last rescue system made
	// medium, if not nil, is called instead of making rescue.iso in a set: for
	// sets whose medium is not a file of theirs.
	medium func(ctx context.Context, p *Plan, h Hint) error
	// carry is what a rescue system has beside the programs that it needs.
	carry []initramfs.Program
	// setID, if not "", is the id that the next set gets.
	setID string
}

// Result says what a run made.
type Result struct {
	Dir      string // of the set
	Manifest *manifest.Manifest
	ISO      int64 // bytes
	// NotCovered is what a restore would not bring back; exit code 3.
	NotCovered []string
}

// Path writes a backup set below dir, as dir/HOST-TIME. It appears whole: until
// then it has a temporary name, and on any error nothing is left.
func (b *Builder) Path(ctx context.Context, p *Plan, dir string) (*Result, error) {
	if err := mustDir(dir); err != nil {
		return nil, err
	}
	if _, _, err := b.cmdline(p); err != nil { // before hours of archives, not after
		return nil, err
	}
	now := time.Now().UTC()
	name := fmt.Sprintf("%s-%s", safeName(p.Layout.Hostname), now.Format("20060102T150405Z"))
	c, err := newClaim(dir, name, p.Layout.Hostname)
	if err != nil {
		return nil, err
	}
	var r *Result
	if err = removeStale(dir, p.Layout.Hostname, c, b.Report.Note); err == nil {
		id := b.setID
		if id == "" {
			id = uuid.New()
		}
		s := &setWriter{b: b, p: p, dir: c.dir, final: filepath.Join(dir, name), man: &manifest.Manifest{Version: manifest.Version, ID: id, Host: p.Layout.Hostname, Created: now.Truncate(time.Second), Program: b.Version, Kernel: p.Layout.Kernel.Release}}
		r, err = s.write(ctx)
	}
	if err != nil {
		if e := os.RemoveAll(c.dir); e != nil {
			err = errors.Join(err, fmt.Errorf("cannot remove the unfinished set: %w", e))
		}
		return nil, errors.Join(err, c.release())
	}
	if err := c.release(); err != nil {
		b.Report.Warn("%v", err)
	}
	return r, nil
}

func safeName(host string) string {
	s := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '.' {
			return r
		}
		return '_'
	}, host)
	if s = strings.TrimLeft(s, ".-"); s == "" {
		return "host"
	}
	return s
}

// setWriter writes one set.
type setWriter struct {
	b     *Builder
	p     *Plan
	dir   string // temporary
	final string
	man   *manifest.Manifest
	log   *slog.Logger
	sfv   map[string]uint32
}

// warnReadable warns if others can read the set's directory, or a file in it: its
// file system does not keep the modes that they were made with.
func (s *setWriter) warnReadable(file string) {
	for _, name := range []string{s.dir, file} {
		st, err := os.Stat(name)
		if err != nil {
			continue // whatever it is, writing ends with it
		}
		if why := readable(s.final, st.Mode()); why != "" {
			s.b.Report.Warn("the backup contains the files of all users: %s", why)
			return
		}
	}
}

func (s *setWriter) write(ctx context.Context) (*Result, error) {
	if err := os.Mkdir(filepath.Join(s.dir, "log"), 0o700); err != nil {
		return nil, fmt.Errorf("cannot write the set: %w", err)
	}
	lf, err := os.OpenFile(filepath.Join(s.dir, "log/run.jsonl"), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot write the set: %w", err)
	}
	defer lf.Close()
	s.warnReadable(lf.Name())
	s.log = slog.New(slog.NewJSONHandler(lf, nil))
	s.sfv = map[string]uint32{}
	s.log.Info("backup starts", "host", s.man.Host, "id", s.man.ID, "version", s.b.Version)
	// The medium first: what is missing for it must fail before the long part.
	iso := filepath.Join(s.dir, manifest.RescueISO)
	if s.b.medium != nil {
		if err := s.b.medium(ctx, s.p, Hint{SetID: s.man.ID}); err != nil {
			return nil, err
		}
	} else if err := s.b.rescue(ctx, s.p, s.hint(), iso); err != nil {
		return nil, err
	}
	s.remounted()
	for _, a := range s.p.Archives {
		if err := s.archive(ctx, a); err != nil {
			return nil, err
		}
	}
	for _, m := range s.p.Images {
		if err := s.image(ctx, m); err != nil {
			return nil, err
		}
	}
	for _, e := range s.p.LeftOut {
		s.log.Info("left out", "what", e)
	}
	s.man.NotCovered = append(slices.Clone(s.p.NotCovered), s.man.NotCovered...)
	for _, e := range s.man.NotCovered {
		s.log.Warn("not covered", "what", e)
	}
	if err := s.texts(); err != nil {
		return nil, err
	}
	s.log.Info("backup ends", "archives", len(s.man.Archives), "notCovered", len(s.man.NotCovered))
	if err := errors.Join(lf.Sync(), lf.Close()); err != nil {
		return nil, fmt.Errorf("cannot write the set's log: %w", err)
	}
	if err := s.sums(ctx); err != nil {
		return nil, err
	}
	size := int64(0)
	if s.b.medium == nil {
		st, err := os.Stat(iso)
		if err != nil {
			return nil, err
		}
		size = st.Size()
	}
	if err := s.publish(); err != nil {
		return nil, err
	}
	return &Result{Dir: s.final, Manifest: s.man, ISO: size, NotCovered: s.man.NotCovered}, nil
}

// hint tells the rescue system where its set will be.
func (s *setWriter) hint() Hint {
	h := Hint{SetID: s.man.ID}
	if s.p.Holder != nil {
		h.FSUUID, h.Path = s.p.Holder.UUID, filepath.Join(s.p.HolderPath, filepath.Base(s.final))
	}
	return h
}

// file opens a new file of the set.
func (s *setWriter) file(name string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(s.dir, name), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot write the set: %w", err)
	}
	return f, nil
}

// archive saves one file system in a file of the set. One that can't be read is not
// covered; errors are those of writing the set.
func (s *setWriter) archive(ctx context.Context, a PlannedArchive) error {
	if err := s.p.leaveUnfinished(filepath.Dir(s.dir)); err != nil {
		return err
	}
	root, err := a.open(s.b, s.p)
	if err != nil {
		s.archiveLacks(a, err)
		return nil
	}
	defer root.Close()
	f, err := s.file(a.File)
	if err != nil {
		return err
	}
	defer f.Close()
	crc := crc32.NewIEEE()
	opt := a.options(s.p)
	opt.Progress = s.b.Report.Phase("archiving "+a.Name(), a.Used)
	out := &sink{w: io.MultiWriter(f, crc)}
	sum, err := archive.Create(ctx, out, root, opt)
	if fatal := errors.Join(out.err, ctx.Err()); fatal != nil {
		return fmt.Errorf("cannot archive %s: %w", a.Name(), fatal)
	}
	if err != nil {
		s.archiveLacks(a, err)
		if err := errors.Join(f.Close(), os.Remove(filepath.Join(s.dir, a.File))); err != nil {
			return fmt.Errorf("cannot write the set: %w", err)
		}
		return nil
	}
	s.b.Report.Phase("writing "+a.File+" to its disk", 0)
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("cannot write %s: %w", a.File, err)
	}
	s.archived(a, sum, crc.Sum32())
	return s.fileList(a.File)
}

// archiveLacks leaves a file system out of the set that could not be read.
func (s *setWriter) archiveLacks(a PlannedArchive, err error) {
	s.lacks("%s (%s %s): its files are not in the set: %v", a.Device, a.Type, a.Name(), err)
	if f := s.p.Layout.On(a.Device); f != nil && len(f.Parts()) == 1 {
		f.Excluded = "its files could not be read when the backup was made"
	}
}

// mostProblems is how many paths of one archive the manifest lists as not
// covered; the log has all.
const mostProblems = 1000

// archived enters an archive in the manifest and the log, with its problems.
func (s *setWriter) archived(a PlannedArchive, sum *archive.Summary, crc uint32) {
	hexsum := hex.EncodeToString(sum.SHA256[:])
	s.sfv[a.File] = crc
	lacks := 0
	for _, p := range sum.Problems {
		s.log.Warn("problem", "archive", a.File, "path", archive.Quote(p.Path), "kind", p.Kind, "detail", p.Detail)
		if p.NotCovered() {
			if lacks++; lacks <= mostProblems {
				s.man.NotCovered = append(s.man.NotCovered, filepath.Join(a.Name(), archive.Quote(p.Path))+": "+p.Detail)
			}
		}
		if p.Kind != archive.Socket {
			s.b.Report.Warn("%s/%v", strings.TrimSuffix(a.Name(), "/"), p)
		}
	}
	if lacks > mostProblems {
		s.man.NotCovered = append(s.man.NotCovered, fmt.Sprintf("%s: %d more paths (log/run.jsonl has all)", a.Name(), lacks-mostProblems))
	}
	s.man.Archives = append(s.man.Archives, manifest.Archive{File: a.File, Device: a.Device, Type: a.Type, Mount: a.Mount, Size: quantity.Size(sum.Packed), TarSize: quantity.Size(sum.Tar), DataSize: quantity.Size(sum.Data), Members: sum.Members, SHA256: hexsum, Problems: len(sum.Problems)})
	s.man.Files = append(s.man.Files, manifest.FileSum{Name: a.File, Size: quantity.Size(sum.Packed), SHA256: hexsum})
	s.log.Info("archived", "mount", a.Mount, "device", a.Device, "file", a.File, "members", sum.Members, "bytes", sum.Data, "packed", sum.Packed, "excluded", sum.Excluded)
}

func trimArchive(name string) string { return strings.TrimSuffix(name, ".tar.zst") }

// fileList keeps the archive's table of contents as the log of what was saved.
func (s *setWriter) fileList(name string) error {
	r, err := archive.OpenFile(filepath.Join(s.dir, name))
	if err != nil {
		return err
	}
	defer r.Close()
	f, err := s.file("log/" + trimArchive(name) + ".files.zst")
	if err != nil {
		return err
	}
	_, err = f.Write(r.TOCText())
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("cannot write the list of files: %w", err)
	}
	return nil
}

// texts writes the layout and the way back by hand.
func (s *setWriter) texts() error {
	headers, lacks := s.p.luksHeaders() // before the layout, which names them
	for _, l := range lacks {
		s.lacks("%s", l)
	}
	f, err := s.file(manifest.Layout)
	if err != nil {
		return err
	}
	if err := errors.Join(s.p.Layout.Write(f), f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("cannot write the layout: %w", err)
	}
	files, err := byHand(s.p, s.man)
	if err != nil {
		return err
	}
	maps.Copy(files, headers)
	for name, b := range files {
		if err := regular.WriteFile(filepath.Join(s.dir, name), b); err != nil {
			return err
		}
	}
	return nil
}

// sums reads every other file once and writes the lists of checksums.
func (s *setWriter) sums(ctx context.Context) error {
	err := filepath.WalkDir(s.dir, func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(s.dir, p)
		if err != nil {
			return err
		}
		if _, done := s.sfv[name]; done {
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
		s.sfv[name] = c.Sum32()
		s.man.Files = append(s.man.Files, manifest.FileSum{Name: name, Size: quantity.Size(n), SHA256: hex.EncodeToString(h.Sum(nil))})
		return ctx.Err()
	})
	if err != nil {
		return fmt.Errorf("cannot sum up the set: %w", err)
	}
	slices.SortFunc(s.man.Files, func(a, b manifest.FileSum) int { return strings.Compare(a.Name, b.Name) })
	var sha, sfv strings.Builder
	for _, f := range s.man.Files {
		sha.WriteString(sumLine(f.SHA256, f.Name))
		fmt.Fprintf(&sfv, "%s %08X\n", f.Name, s.sfv[f.Name])
	}
	return errors.Join(regular.WriteFile(filepath.Join(s.dir, manifest.SHA256), []byte(sha.String())), regular.WriteFile(filepath.Join(s.dir, manifest.SFV), []byte(sfv.String())))
}

// publish writes the manifest, makes sure that all of it is on the disk, and
// gives the set its name.
func (s *setWriter) publish() error {
	if err := s.man.Write(s.dir); err != nil {
		return err
	}
	d, err := os.Open(s.dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return fmt.Errorf("cannot write the set to its disk: %w", err)
	}
	if err := os.Rename(s.dir, s.final); err != nil {
		return fmt.Errorf("cannot name the set: %w", err)
	}
	p, err := os.Open(filepath.Dir(s.final))
	if err != nil {
		return err
	}
	defer p.Close()
	return p.Sync()
}
