// Package settorrent makes and reads the torrent of a backup set: one file,
// set.torrent, which is kept beside the set and describes all of the set's files
// as BEP 3 does. It is private (BEP 27). Its info dictionary, and so the info
// hash, also has the SHA-256 of manifest.json and the pieces that a restore reads
// first, so that whoever knows the info hash knows these.
package settorrent

import (
	"context"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/anacrolix/torrent/bencode"
	"github.com/anacrolix/torrent/metainfo"

	"github.com/mkcdrec/mkcdrec/internal/archive"
	"github.com/mkcdrec/mkcdrec/internal/blockcopy"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/regular"
	"github.com/mkcdrec/mkcdrec/internal/store"
)

// File is the name of the torrent in a set's directory. It is not in the manifest:
// a set is whole without it.
const File = "set.torrent"

// sourcePrefix is before the manifest's digest in the info dictionary's "source".
const sourcePrefix = "mkcdrec manifest sha256 "

// Limits of what is read, so that a hostile file costs a bounded amount of memory.
const (
	MaxFile   = 48 << 20 // of a torrent, bytes
	maxPieces = 1 << 20
	maxFiles  = 1 << 16
	maxDepth  = 12 // lists and dictionaries in each other
	maxPath   = 1024
	maxTotal  = int64(1) << 50 // bytes of all files
)

// Sizes of pieces, in bytes.
const (
	minPiece = 64 << 10
	maxPiece = 16 << 20
	// manyPieces is the number above which pieces become larger: every hop of a chain
	// waits for one piece, but each piece costs every peer memory and time.
	manyPieces = 16 << 10
)

// PieceLength gives the size of pieces for total bytes: the smallest power of two
// from 64 KiB to 16 MiB that gives at most 16,384 pieces, or 16 MiB.
func PieceLength(total int64) int64 {
	n := int64(minPiece)
	for n < maxPiece && (total+n-1)/n > manyPieces {
		n *= 2
	}
	return n
}

// Torrent is a set's torrent.
type Torrent struct {
	Info *metainfo.Info
	// Bytes is the whole file, InfoBytes the info dictionary as it is in it.
	Bytes, InfoBytes []byte
	Hash             metainfo.Hash // SHA-1 of InfoBytes
	// Manifest is the SHA-256 of manifest.json in hex.
	Manifest string
	// Head are the pieces that a restore reads before all others: manifest, layout,
	// and the indexes at the ends of archives. Sorted, without doubles.
	Head []int
}

// Total is the number of bytes of all files.
func (t *Torrent) Total() int64 { return t.Info.TotalLength() }

// Order lists all pieces in the order in which every client fetches them: Head, then
// the others.
func (t *Torrent) Order() []int {
	order := slices.Clone(t.Head)
	for i := range t.Info.NumPieces() {
		if _, found := slices.BinarySearch(t.Head, i); !found {
			order = append(order, i)
		}
	}
	return order
}

// PieceSize is the size of piece i in bytes.
func (t *Torrent) PieceSize(i int) int64 {
	return min(t.Info.PieceLength, t.Total()-int64(i)*t.Info.PieceLength)
}

// Range is a part of a file.
type Range struct {
	Name   string // as in the manifest
	Offset int64  // in the file
	Length int64
}

// Span is a file's place in the torrent's bytes.
type Span struct {
	Name   string
	Offset int64 // of its first byte in the torrent
	Length int64
}

// Files lists the files in the torrent's order.
func (t *Torrent) Files() []Span {
	spans := make([]Span, 0, len(t.Info.Files))
	at := int64(0)
	for _, f := range t.Info.Files {
		spans = append(spans, Span{strings.Join(f.Path, "/"), at, f.Length})
		at += f.Length
	}
	return spans
}

// Ranges gives the parts of files that n bytes from offset off of the torrent are.
func Ranges(files []Span, off, n int64) []Range {
	i, _ := slices.BinarySearchFunc(files, off, func(s Span, off int64) int {
		if s.Offset+s.Length <= off {
			return -1
		}
		return 1
	})
	var r []Range
	for ; i < len(files) && n > 0; i++ {
		s := files[i]
		k := min(n, s.Offset+s.Length-off)
		if k > 0 {
			r = append(r, Range{s.Name, off - s.Offset, k})
			off, n = off+k, n-k
		}
	}
	return r
}

// filesOf lists a set's files in the order of the torrent: what a restore reads first
// and small files, then the archives as in the manifest, then the medium.
func filesOf(s *manifest.Set) ([]metainfo.FileInfo, error) {
	rank := func(name string) int {
		i := slices.IndexFunc(s.Manifest.Archives, func(a manifest.Archive) bool { return a.File == name })
		switch {
		case i >= 0:
			return 3 + i
		case name == manifest.Layout:
			return 1
		case name == manifest.RescueISO:
			return 3 + len(s.Manifest.Archives)
		}
		return 2
	}
	names := []string{}
	for _, f := range s.Manifest.Files {
		if f.Name != File {
			names = append(names, f.Name)
		}
	}
	for _, n := range manifest.Unlisted() {
		if _, err := s.Size(n); err == nil {
			names = append(names, n)
		} else if !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	ranks := map[string]int{}
	for _, n := range names {
		ranks[n] = rank(n)
	}
	slices.SortStableFunc(names, func(a, b string) int { return ranks[a] - ranks[b] })
	var files []metainfo.FileInfo
	for _, n := range append([]string{manifest.File}, names...) {
		size, err := s.Size(n)
		if err != nil {
			return nil, err
		}
		files = append(files, metainfo.FileInfo{Path: strings.Split(n, "/"), Length: size})
	}
	return files, nil
}

// readMark notes the lowest offset that was read of a file.
type readMark struct {
	store.File
	low int64
}

func (m *readMark) ReadAt(p []byte, off int64) (int, error) {
	m.low = min(m.low, off)
	return m.File.ReadAt(p, off)
}

// indexAt is where the index of an archive, or of an image, begins.
func indexAt(s *manifest.Set, name string, image bool) (int64, error) {
	f, err := s.Open(name)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	m := &readMark{f, f.Size()}
	if image {
		_, err = blockcopy.Open(m, m.low, name)
	} else {
		_, err = archive.Open(m, m.low, name)
	}
	return m.low, err
}

// head finds the pieces that are read first. Where an archive's index begins is where
// opening the archive reads.
func head(s *manifest.Set, files []Span, piece int64) ([]int, error) {
	var pieces []int
	add := func(off, n int64) {
		for i := off / piece; n > 0 && i <= (off+n-1)/piece; i++ {
			pieces = append(pieces, int(i))
		}
	}
	for _, f := range files {
		image := strings.HasSuffix(f.Name, manifest.ImageSuffix)
		switch {
		case image || slices.ContainsFunc(s.Manifest.Archives, func(a manifest.Archive) bool { return a.File == f.Name }):
			at, err := indexAt(s, f.Name, image)
			if err != nil {
				return nil, err
			}
			add(f.Offset+at, f.Length-at)
		case f.Name == manifest.File || f.Name == manifest.Layout:
			add(f.Offset, f.Length)
		}
	}
	slices.Sort(pieces)
	return slices.Compact(pieces), nil
}

// Make makes the torrent of a set, which must be whole and in a directory. It reads all
// files once; p is told of the bytes.
func Make(ctx context.Context, s *manifest.Set, p progress.Counter) (*Torrent, error) {
	if s.Local() == "" {
		return nil, fmt.Errorf("cannot make a torrent of %s: want a backup set in one directory", s)
	}
	t, err := make1(ctx, s, p)
	if err != nil {
		return nil, fmt.Errorf("cannot make a torrent of %s: %w", s, err)
	}
	return t, nil
}

func make1(ctx context.Context, s *manifest.Set, p progress.Counter) (*Torrent, error) {
	info, h, err := describe(s)
	if err != nil {
		return nil, err
	}
	if info.Pieces, err = sums(ctx, s, spans(info), info.TotalLength(), info.PieceLength, p); err != nil {
		return nil, err
	}
	return encode(info, h)
}

func spans(info *metainfo.Info) []Span { return (&Torrent{Info: info}).Files() }

// describe gives the info dictionary of a set's torrent without the pieces' sums, and
// the head.
func describe(s *manifest.Set) (*metainfo.Info, []int, error) {
	files, err := filesOf(s)
	if err != nil {
		return nil, nil, err
	}
	private := true
	info := &metainfo.Info{Name: "mkcdrec-" + s.Manifest.ID, Files: files, Private: &private, Source: sourcePrefix + s.Digest}
	info.PieceLength = PieceLength(info.TotalLength())
	h, err := head(s, spans(info), info.PieceLength)
	return info, h, err
}

// encode writes the file. The info dictionary gets a key of ours, "mkcdrec", with the
// list "head": BEP 3 lets readers ignore keys that they do not know.
func encode(info *metainfo.Info, head []int) (*Torrent, error) {
	b, err := bencode.Marshal(info)
	if err != nil {
		return nil, err
	}
	var dict map[string]bencode.Bytes
	if err := bencode.Unmarshal(b, &dict); err != nil {
		return nil, err
	}
	if head == nil {
		head = []int{}
	}
	dict["mkcdrec"] = bencode.MustMarshal(map[string][]int{"head": head})
	if b, err = bencode.Marshal(dict); err != nil {
		return nil, err
	}
	all, err := bencode.Marshal(map[string]any{"info": bencode.Bytes(b), "created by": "mkcdrec"})
	if err != nil {
		return nil, err
	}
	return Parse(all)
}

// sums gives the SHA-1 of all pieces, one after the other. Pieces are read in order, as
// many at once as there are processors, each in parts of a MiB.
func sums(ctx context.Context, dir store.Store, files []Span, total, piece int64, p progress.Counter) ([]byte, error) {
	n := int((total + piece - 1) / piece)
	if n > maxPieces {
		return nil, fmt.Errorf("it would have %d pieces; at most %d are read", n, maxPieces)
	}
	src := NewSource(dir, files)
	defer src.Close()
	out := make([]byte, n*sha1.Size)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	work := make(chan int)
	var wg sync.WaitGroup
	for range min(n, runtime.GOMAXPROCS(0)) {
		wg.Go(func() {
			buf := make([]byte, 1<<20)
			for i := range work {
				h := sha1.New()
				end := min(int64(i+1)*piece, total)
				for off := int64(i) * piece; off < end; {
					b := buf[:min(int64(len(buf)), end-off)]
					if _, err := src.ReadAt(b, off); err != nil {
						cancel(err)
						return
					}
					h.Write(b)
					p.Add(int64(len(b)))
					off += int64(len(b))
				}
				h.Sum(out[i*sha1.Size : i*sha1.Size : (i+1)*sha1.Size])
			}
		})
	}
feed:
	for i := range n {
		select {
		case work <- i:
		case <-ctx.Done():
			break feed
		}
	}
	close(work)
	wg.Wait()
	return out, context.Cause(ctx)
}

// Open gives the torrent of the set in a directory: the one beside it, or, when there
// is missing or is of another state of the set, a new one, which is written beside the
// set if the directory can be written to.
func Open(ctx context.Context, s *manifest.Set, p progress.Counter) (t *Torrent, made bool, err error) {
	if t, err := Current(s); err == nil {
		return t, false, nil
	}
	if t, err = Make(ctx, s, p); err != nil {
		return nil, false, err
	}
	err = regular.WriteFile(filepath.Join(s.Local(), File), t.Bytes)
	if errors.Is(err, os.ErrPermission) || errors.Is(err, errReadOnly) {
		err = nil // it is in memory, and made again the next time
	}
	return t, true, err
}

// Current gives the torrent that is kept beside a set. The error is why there is
// none, or why it is not of the set as it is now.
func Current(s *manifest.Set) (*Torrent, error) {
	if s.Local() == "" {
		return nil, fmt.Errorf("cannot use a torrent of %s: it is not in one directory", s)
	}
	t, err := ReadFile(filepath.Join(s.Local(), File))
	if err != nil {
		return nil, err
	}
	info, h, err := describe(s)
	if err != nil {
		return nil, err
	}
	same := t.Manifest == s.Digest && t.Info.PieceLength == info.PieceLength && t.Info.Name == info.Name && slices.Equal(t.Files(), spans(info)) && slices.Equal(t.Head, h)
	if !same {
		return nil, fmt.Errorf("%s is not of the set %s as it is now", File, s)
	}
	return t, nil
}

// ReadFile reads a torrent from a regular file.
func ReadFile(name string) (*Torrent, error) {
	f, err := store.Dir(filepath.Dir(name)).Open(filepath.Base(name))
	if err != nil {
		if errors.Is(err, regular.ErrNot) {
			return nil, err
		}
		return nil, fmt.Errorf("cannot read torrent: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.NewSectionReader(f, 0, min(f.Size(), MaxFile+1)))
	if err != nil {
		return nil, fmt.Errorf("cannot read torrent: %w", err)
	}
	t, err := Parse(b)
	if err != nil {
		return nil, fmt.Errorf("cannot use torrent %s: %w", name, err)
	}
	return t, nil
}

// Parse reads a torrent that this package made, and refuses any other: what it
// describes must be a set, with names that stay below a directory.
func Parse(b []byte) (*Torrent, error) {
	if len(b) > MaxFile {
		return nil, fmt.Errorf("it has more than %d bytes", MaxFile)
	}
	if err := wellFormed(b); err != nil {
		return nil, err
	}
	var outer struct {
		Info bencode.Bytes `bencode:"info"`
	}
	if err := bencode.Unmarshal(b, &outer); err != nil {
		return nil, fmt.Errorf("it is not a torrent: %w", err)
	}
	if len(outer.Info) == 0 || outer.Info[0] != 'd' {
		return nil, errors.New("it is not a torrent: it has no info dictionary")
	}
	info := new(metainfo.Info)
	if err := bencode.Unmarshal(outer.Info, info); err != nil {
		return nil, fmt.Errorf("its info dictionary cannot be read: %w", err)
	}
	var own struct {
		Own struct {
			Head []int `bencode:"head"`
		} `bencode:"mkcdrec"`
	}
	if err := bencode.Unmarshal(outer.Info, &own); err != nil {
		return nil, fmt.Errorf("its info dictionary cannot be read: %w", err)
	}
	t := &Torrent{Info: info, Bytes: b, InfoBytes: outer.Info, Hash: metainfo.HashBytes(outer.Info), Head: own.Own.Head}
	return t, t.validate()
}

func (t *Torrent) validate() error {
	info := t.Info
	digest, ok := strings.CutPrefix(info.Source, sourcePrefix)
	if raw, err := hex.DecodeString(digest); !ok || err != nil || len(raw) != 32 || digest != strings.ToLower(digest) {
		return errors.New("it is not of a backup set: it names no manifest")
	}
	t.Manifest = digest
	if err := validInfo(info); err != nil {
		return err
	}
	total, err := validFiles(info.Files)
	if err != nil {
		return err
	}
	n := (total + info.PieceLength - 1) / info.PieceLength
	if total == 0 || n > maxPieces || int64(len(info.Pieces)) != n*sha1.Size {
		return fmt.Errorf("it has %d bytes of sums for %d bytes in pieces of %d", len(info.Pieces), total, info.PieceLength)
	}
	if info.Files[0].Path[0] != manifest.File || len(info.Files[0].Path) != 1 {
		return fmt.Errorf("its first file is not %s", manifest.File)
	}
	return t.validHead(n)
}

// validHead checks the pieces that come first, of n.
func (t *Torrent) validHead(n int64) error {
	for i, p := range t.Head {
		if p < 0 || int64(p) >= n || i > 0 && p <= t.Head[i-1] {
			return errors.New("its list of first pieces is not sorted, or names pieces that are not there")
		}
	}
	return nil
}

// validInfo checks all of a torrent but its files and pieces.
func validInfo(info *metainfo.Info) error {
	if info.Private == nil || !*info.Private {
		return errors.New("it is not private")
	}
	if info.MetaVersion != 0 || info.Length != 0 || len(info.Files) == 0 || len(info.Files) > maxFiles {
		return fmt.Errorf("it has %d files, or is of another version", len(info.Files))
	}
	if info.PieceLength < 16<<10 || info.PieceLength > maxPiece || info.PieceLength&(info.PieceLength-1) != 0 {
		return fmt.Errorf("its pieces have %d bytes; want a power of two from 16 KiB to 16 MiB", info.PieceLength)
	}
	if info.Name == "" || !filepath.IsLocal(info.Name) || strings.ContainsAny(info.Name, "/\x00") || len(info.Name) > 255 {
		return fmt.Errorf("its name is %q", info.Name)
	}
	return nil
}

// validFiles checks names and lengths, and returns the sum of these.
func validFiles(files []metainfo.FileInfo) (total int64, err error) {
	seen := map[string]bool{}
	for _, f := range files {
		name := strings.Join(f.Path, "/")
		if seen[name] || !validName(name, f.Path) {
			return 0, fmt.Errorf("it has a file %q", name)
		}
		seen[name] = true
		if f.Length < 0 || f.Length > maxTotal-total {
			return 0, fmt.Errorf("its file %q has %d bytes", name, f.Length)
		}
		total += f.Length
	}
	for name := range seen {
		for up := filepath.Dir(name); up != "."; up = filepath.Dir(up) {
			if seen[up] {
				return 0, fmt.Errorf("its file %q is also a directory", up)
			}
		}
	}
	return total, nil
}

// validName reports whether a file may have a name, which is made of parts.
func validName(name string, parts []string) bool {
	if len(name) > maxPath || !filepath.IsLocal(name) || filepath.Clean(name) != name || name == "." || name == File {
		return false
	}
	control := func(r rune) bool { return r < ' ' || r == 0x7f }
	odd := func(p string) bool { return p == "" || p == "." || p == ".." || strings.Contains(p, "/") }
	return !strings.ContainsFunc(name, control) && !slices.ContainsFunc(parts, odd)
}

// wellFormed refuses what is not one bencoded value, or has more lists in each other
// than a torrent: a decoder that calls itself must not be led arbitrarily deep.
func wellFormed(b []byte) error {
	depth, i := 0, 0
	for i < len(b) {
		bad := fmt.Errorf("it is not a torrent: byte %d", i)
		switch c := b[i]; {
		case c == 'd', c == 'l':
			if depth++; depth > maxDepth {
				return bad
			}
			i++
			continue
		case c == 'e':
			if depth--; depth < 0 {
				return bad
			}
			i++
		case c == 'i':
			n := slices.Index(b[i:min(len(b), i+24)], 'e')
			if n < 2 {
				return bad
			}
			i += n + 1
		case c >= '0' && c <= '9':
			n := stringLength(b[i:])
			if n < 0 {
				return bad
			}
			i += n
		default:
			return bad
		}
		if depth == 0 {
			break
		}
	}
	if depth != 0 || i != len(b) || len(b) == 0 {
		return fmt.Errorf("it is not a torrent: it ends in the middle, or has text behind the end")
	}
	return nil
}

// stringLength is how many bytes of b the string at its beginning takes, "3:abc"; -1 if it is
// not one.
func stringLength(b []byte) int {
	n := slices.Index(b[:min(len(b), 10)], ':')
	if n < 1 {
		return -1
	}
	size, err := strconv.ParseUint(string(b[:n]), 10, 32)
	if err != nil || n+1+int(size) > len(b) {
		return -1
	}
	return n + 1 + int(size)
}
