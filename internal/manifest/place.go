package manifest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/archive"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/store"
	"github.com/mkcdrec/mkcdrec/internal/store/sealed"
	"github.com/mkcdrec/mkcdrec/internal/store/tape"
)

// place is where a set is kept, and how it is read there: a directory, a web server,
// discs, a tape, or the volumes of mkCDrec 1.x.
type place interface {
	store.Store
	// Local is the directory that has all files of the set, each as a whole; "" for none.
	Local() string
	// Dirs are the directories of this machine that the set is read from.
	Dirs() []string
	// Direct reports whether any file can be read now, at any offset: nobody has to change
	// a medium, and nothing is wound.
	Direct() bool
	// Use has discs come from source, until ctx ends. GiveUp makes a disc that can't be
	// read an error, for those who take what they can get. Without discs both do nothing.
	Use(ctx context.Context, source DiscSource)
	GiveUp()
	// WholeLayout reports whether the layout has all that the machine had.
	WholeLayout() bool
	// Archive opens an archive by its file name.
	Archive(name string) (*archive.Reader, error)
	// Unpack extracts an archive below dest. phase is told how many bytes it will count,
	// 0 when that is not known.
	Unpack(ctx context.Context, name, dest string, opt archive.ExtractOptions, phase func(total int64) progress.Counter) (*archive.Summary, error)
	// Close gives back what opening the set made.
	Close() error

	// isOf checks that the place belongs to the set with an id.
	isOf(id string) error
	// decrypts is the encrypted set that the files come from, nil if they are not encrypted.
	decrypts() *sealed.Store
	// here reports whether a file is here as a whole or, with ask, on any medium of the set.
	here(name string, ask bool) bool
	// check compares an archive's index with the manifest and reads, with decode, all of it.
	check(ctx context.Context, a Archive, decode bool, p progress.Counter) error
	// has calls is for each path in an archive and reports whether one was true; true where
	// that can't be known before the archive is read.
	has(a Archive, is func(path string) bool) (bool, error)
}

// placeOf is the place of the set that a directory or web server has.
func placeOf(st store.Store) (place, error) {
	dir, ok := st.(store.Dir)
	if !ok {
		return web{files{Store: st}}, nil
	}
	discs, err := newDiscStore(string(dir))
	if err != nil {
		return nil, err
	}
	if discs != nil {
		return onDiscs{files{Store: discs, inOrder: true}, discs, func(name string) string { return name }}, nil
	}
	return directory{files{Store: dir}}, nil
}

// common is what most places have in common.
type common struct{}

func (common) Local() string                   { return "" }
func (common) Dirs() []string                  { return nil }
func (common) Use(context.Context, DiscSource) {}
func (common) GiveUp()                         {}
func (common) Close() error                    { return nil }
func (common) isOf(string) error               { return nil }
func (common) decrypts() *sealed.Store         { return nil }
func (common) here(string, bool) bool          { return true }

// files is what places with archives of this program have in common.
type files struct {
	common
	store.Store
	inOrder bool // archives are read from their beginning to their end
}

func (f files) decrypts() *sealed.Store {
	s, _ := f.Store.(*sealed.Store)
	return s
}

// contradicts compares what is known of an encrypted set without a key with its manifest.
func contradicts(h *sealed.Head, m *Manifest) error {
	needs := make([]sealed.Need, 0, len(m.Needs))
	for _, n := range m.Needs {
		needs = append(needs, sealed.Need{ID: n.ID, Dir: n.Dir})
	}
	if h.Host != m.Host || !h.Created.Equal(m.Created) || h.NotCovered != len(m.NotCovered) || !slices.Equal(h.Needs, needs) {
		return fmt.Errorf("%s is damaged, or was changed: it has the host %q and the time %s, and the manifest %q and %s", sealed.HeadFile, h.Host, h.Created.Format(time.RFC3339), m.Host, m.Created.Format(time.RFC3339))
	}
	if h.Machine != "" && h.Machine != m.Machine() {
		return fmt.Errorf("%s is damaged, or was changed: the manifest is of another machine", sealed.HeadFile)
	}
	return nil
}

func (f files) Direct() bool      { return !f.inOrder }
func (f files) WholeLayout() bool { return true }

func (f files) Archive(name string) (*archive.Reader, error) {
	x, err := f.Open(name)
	if err != nil {
		return nil, fmt.Errorf("cannot read archive: %w", err)
	}
	r, err := archive.Open(x, x.Size(), f.String()+"/"+name)
	if err != nil {
		x.Close()
		return nil, err
	}
	r.CloseWith(x)
	r.OpenEarlier(f.earlier)
	if f.inOrder {
		r.InOrder()
	}
	return r, nil
}

func (f files) Unpack(ctx context.Context, name, dest string, opt archive.ExtractOptions, phase func(total int64) progress.Counter) (*archive.Summary, error) {
	r, err := f.Archive(name)
	if err != nil && opt.Salvage {
		return f.unpackCut(ctx, name, dest, opt, phase)
	}
	if err != nil {
		return nil, err
	}
	defer r.Close()
	opt.Progress = phase(r.TarSize())
	return r.Extract(ctx, dest, opt)
}

// unpackCut extracts what there is of an archive whose index can't be read.
func (f files) unpackCut(ctx context.Context, name, dest string, opt archive.ExtractOptions, phase func(total int64) progress.Counter) (*archive.Summary, error) {
	x, err := f.rest(name)
	if err != nil {
		return &archive.Summary{Problems: []archive.Problem{{Path: ".", Kind: archive.Lost, Detail: "all of it: " + err.Error()}}}, nil
	}
	defer x.Close()
	opt.Progress = phase(0)
	return archive.ExtractCut(ctx, x, f.String()+"/"+name, dest, opt)
}

// rest gives what there is of a file from its beginning on, whether its end is there or not.
func (f files) rest(name string) (io.ReadCloser, error) {
	if s := f.decrypts(); s != nil {
		return s.Rest(name)
	}
	x, err := f.Open(name)
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{io.NewSectionReader(x, 0, x.Size()), x}, nil
}

func (f files) check(ctx context.Context, a Archive, decode bool, p progress.Counter) error {
	r, err := f.Archive(a.File)
	if err != nil {
		return err
	}
	defer r.Close()
	if r.Members() != a.Members {
		err = fmt.Errorf("%s has %d members, and %d by the manifest", a.File, r.Members(), a.Members)
	}
	if decode {
		err = errors.Join(err, r.Verify(ctx, archive.VerifyOptions{Decode: true, Progress: p}))
	}
	return err
}

func (f files) has(a Archive, is func(path string) bool) (found bool, err error) {
	r, err := f.Archive(a.File)
	if err != nil {
		return false, err
	}
	err = r.Entries(func(e archive.Entry) error { found = is(e.Path) || found; return nil })
	return found, errors.Join(err, r.Close())
}

// directory is a set in a directory.
type directory struct{ files }

func (d directory) Local() string  { return d.String() }
func (d directory) Dirs() []string { return []string{d.String()} }

// web is a set on a web server, or in another store.
type web struct{ files }

// onDiscs is a set that is divided among discs.
type onDiscs struct {
	files
	discs *discStore
	// object gives the name on the discs of a file of the set.
	object func(name string) string
}

func (d onDiscs) Dirs() []string                             { return []string{d.String()} }
func (d onDiscs) Use(ctx context.Context, source DiscSource) { d.discs.use(ctx, source) }
func (d onDiscs) GiveUp()                                    { d.discs.giveUp = true }

func (d onDiscs) isOf(id string) error {
	if d.discs.index.ID != id {
		return fmt.Errorf("%s is of the set %s", DiscsFile, d.discs.index.ID)
	}
	return nil
}

// here: logs are on the first disc only.
func (d onDiscs) here(name string, ask bool) bool {
	if ask && !strings.HasPrefix(name, "log/") {
		return true
	}
	_, err := d.Size(name)
	return err == nil && (ask || d.discs.whole(d.object(name)))
}

// onTape is a set on tape.
type onTape struct {
	files
	tape   *tape.Store
	object func(name string) string // that has a file
}

func (t onTape) Dirs() []string                  { return []string{t.tape.Dir} }
func (t onTape) Close() error                    { return os.RemoveAll(t.tape.Dir) }
func (t onTape) here(name string, ask bool) bool { return ask || !t.tape.Has(t.object(name)) }

// TapePrefix begins the names of sets on tape: tape:/dev/nst0[,/dev/nst1].
const TapePrefix = "tape:"
