// Package manifest describes one backup set: a directory that is a backup
// only with its manifest.json, which is written last. docs/FORMAT.md has the
// fields.
package manifest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode"

	"golang.org/x/crypto/ssh"

	"github.com/mkcdrec/mkcdrec/internal/agekey"
	"github.com/mkcdrec/mkcdrec/internal/archive"
	"github.com/mkcdrec/mkcdrec/internal/coverage"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/regular"
	"github.com/mkcdrec/mkcdrec/internal/signing"
	"github.com/mkcdrec/mkcdrec/internal/store"
	"github.com/mkcdrec/mkcdrec/internal/store/sealed"
	"github.com/mkcdrec/mkcdrec/internal/store/tape"
)

// Version is the version of manifest.json of sets that need no other ones.
const Version = 1

// Names of a set's files.
const (
	File      = "manifest.json"
	Layout    = "layout.json"
	RescueISO = "rescue.iso"
	// MachineFile has what identifies the machine that the set is of; Manifest.Machine.
	MachineFile = "machine"
	SHA256      = "SHA256SUMS"
	SFV         = "Checksums.sfv"
	Signature   = File + signing.Suffix
)

// Manifest is the content of manifest.json.
type Manifest struct {
	Version  int       `json:"version"`
	ID       string    `json:"id"` // random UUID of the run
	Host     string    `json:"host"`
	Created  time.Time `json:"created"`
	Program  string    `json:"program"` // version of mkcdrec
	Kernel   string    `json:"kernel"`
	Archives []Archive `json:"archives"`
	// Files are all files of the set but this one, its signature, SHA256SUMS and
	// Checksums.sfv, sorted by name.
	Files []FileSum `json:"files"`
	// NotCovered lists what a restore will not bring back; the run that made
	// the set ended with exit code 3 if it is not empty.
	NotCovered []string `json:"notCovered"`
	// Needs are the earlier sets that an increment needs, oldest first, the full one included.
	Needs []Needed `json:"needs,omitempty"`
}

// Archive is one file system's archive.
type Archive struct {
	File   string `json:"file"`
	Device string `json:"device"` // as in the layout
	Type   string `json:"type"`
	// Mount is where it was mounted; "" for the root of a file system that was mounted
	// nowhere as a whole (layout.Filesystem.Private).
	Mount    string        `json:"mount"`
	Size     quantity.Size `json:"size"` // of the archive
	TarSize  quantity.Size `json:"tarSize"`
	DataSize quantity.Size `json:"dataSize"` // content of files, without holes
	Members  int64         `json:"members"`
	SHA256   string        `json:"sha256"`
	Problems int           `json:"problems"`
}

// FileSum is a file of the set.
type FileSum struct {
	Name   string        `json:"name"`
	Size   quantity.Size `json:"size"`
	SHA256 string        `json:"sha256"`
}

// Validate reports all faults at once.
func (m *Manifest) Validate() error {
	var errs []error
	bad := func(where, f string, a ...any) {
		errs = append(errs, fmt.Errorf("%s: %s", where, fmt.Sprintf(f, a...)))
	}
	if m.Version != Version && m.Version != VersionIncrement {
		return fmt.Errorf("version: is %d; this program knows %d and %d", m.Version, Version, VersionIncrement)
	}
	if len(m.Archives) > maxItems || len(m.Files) > maxItems || len(m.NotCovered) > maxItems {
		return fmt.Errorf("%d archives, %d files, %d not covered: more than %d", len(m.Archives), len(m.Files), len(m.NotCovered), maxItems)
	}
	if !validID(m.ID) {
		bad("id", "%q", m.ID)
	}
	for name, v := range map[string]string{"host": m.Host, "program": m.Program, "kernel": m.Kernel} {
		if unprintable(v) || len(v) > maxWord {
			bad(name, "%q", v)
		}
	}
	m.checkArchives(bad, m.checkFiles(bad))
	m.checkNeeds(bad)
	return errors.Join(errs...)
}

// checkFiles gives the files by name; bad is told of those that are not valid.
func (m *Manifest) checkFiles(bad func(where, f string, a ...any)) map[string]FileSum {
	sums := map[string]FileSum{}
	total := quantity.Size(0)
	for i, f := range m.Files {
		w := fmt.Sprintf("files[%d]", i)
		if !filepath.IsLocal(f.Name) || filepath.Clean(f.Name) != f.Name || f.Name == "." || f.Name == File || unprintable(f.Name) || len(f.Name) > maxName {
			bad(w, "name %q", f.Name)
		}
		if b, err := hex.DecodeString(f.SHA256); err != nil || len(b) != 32 || f.Size < 0 || f.Size > maxSize-total {
			bad(w, "size %d or SHA-256 %q", f.Size, f.SHA256)
		} else {
			total += f.Size
		}
		if _, ok := sums[f.Name]; ok {
			bad(w, "name %q is there twice", f.Name)
		}
		sums[f.Name] = f
	}
	if _, ok := sums[Layout]; !ok {
		bad("files", "%s is missing", Layout)
	}
	return sums
}

// plausible reports whether the numbers of an archive can be right, with at most so many bytes of tar.
func (a *Archive) plausible(most quantity.Size) bool {
	return a.TarSize >= 0 && a.TarSize <= most && a.DataSize >= 0 && a.DataSize <= maxSize && a.Members >= 0 && a.Problems >= 0
}

// checkArchives checks the archives, which sums has to have.
func (m *Manifest) checkArchives(bad func(where, f string, a ...any), sums map[string]FileSum) {
	files, places := map[string]bool{}, map[string]bool{}
	tar := quantity.Size(0)
	for i, a := range m.Archives {
		w := fmt.Sprintf("archives[%d]", i)
		f, ok := sums[a.File]
		if !ok || f.SHA256 != a.SHA256 || f.Size != a.Size {
			bad(w, "file %q is not in files with the same size and digest", a.File)
		}
		if filepath.Base(a.File) != a.File || files[a.File] {
			bad(w, "file %q is in a directory, or is there twice", a.File)
		}
		place, ok := a.place()
		if !ok || places[place] {
			bad(w, "mount %q of %q is not a clean absolute path, or is there twice", a.Mount, a.Device)
		}
		if unprintable(a.Device) || unprintable(a.Type) || len(a.Device) > maxWord || len(a.Type) > maxWord {
			bad(w, "device %q, type %q", a.Device, a.Type)
		}
		if !a.plausible(maxSize - tar) {
			bad(w, "tarSize %d, dataSize %d, members %d, problems %d", a.TarSize, a.DataSize, a.Members, a.Problems)
		} else {
			tar += a.TarSize
		}
		files[a.File], places[place] = true, true
	}
}

// place is where an archive is restored; absolute paths and devices differ. ok: what is
// restored below a directory stays below it.
func (a *Archive) place() (place string, ok bool) {
	if a.Mount == "" {
		return a.Device, a.Device != ""
	}
	return a.Mount, path.IsAbs(a.Mount) && path.Clean(a.Mount) == a.Mount && !strings.ContainsRune(a.Mount, 0) && len(a.Mount) <= maxWord
}

// Limits of what a manifest may have, so that a hostile one costs a bounded amount of
// memory and no sum overflows. The writer checks them by the same function.
const (
	maxItems = 1 << 20
	maxSize  = quantity.Size(1) << 61 // of all files, and of all tar streams
	maxName  = 512                    // of a file, with its directory
	maxWord  = 4096                   // PATH_MAX of linux/limits.h
)

// validID reports whether s is a UUID as RFC 9562 writes it.
func validID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i, c := range []byte(s) {
		if dash := i == 8 || i == 13 || i == 18 || i == 23; dash != (c == '-') || !dash && !strings.ContainsRune("0123456789abcdefABCDEF", rune(c)) {
			return false
		}
	}
	return true
}

// unprintable reports control characters, which would reach terminals and shells.
func unprintable(s string) bool {
	return strings.IndexFunc(s, unicode.IsControl) >= 0
}

// Write writes manifest.json into dir, under a temporary name first.
func (m *Manifest) Write(dir string) error {
	return m.write(dir, MaxText)
}

// write refuses a manifest of more than limit bytes, which no reader would take.
func (m *Manifest) write(dir string, limit int) error {
	if err := m.Validate(); err != nil {
		return fmt.Errorf("cannot write manifest:\n%w", err)
	}
	b, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	if b = append(b, '\n'); len(b) > limit {
		return fmt.Errorf("cannot write manifest: it would have %d bytes; at most %d are read", len(b), limit)
	}
	return regular.WriteFile(filepath.Join(dir, File), b)
}

// Set is a backup set: what it has, and the place that it is read from.
type Set struct {
	Manifest *Manifest
	Layout   *layout.Layout
	// Digest is the SHA-256 of manifest.json in hex: it identifies the set's content.
	// "" for a backup of mkCDrec 1.x.
	Digest string
	// AllDiscs has Verify ask for every disc, and read tapes; without it, only
	// what is on the disc that is there is read.
	AllDiscs bool
	// Signer is the key that the manifest is signed with; nil if it is not signed.
	// SignatureFault is why a signature that is there does not hold.
	Signer         ssh.PublicKey
	SignatureFault error
	// Missing are files of the manifest that are not there, and that nothing but a person needs.
	Missing []string
	// HeadFault is how set.json of an encrypted set, which nobody has signed, contradicts the manifest; nil for not at all.
	HeadFault error
	// Salvage has archives that are cut off or missing give what they have. Damaged are such files with their faults.
	Salvage bool
	Damaged []error
	// ListFault is what Verify found wrong with the lists of checksums.
	ListFault error
	// Chosen is set if the set was not named: it was found in the place that was.
	Chosen bool
	place
	needs []earlierSet // what Manifest.Needs names
	// beside lists the sets in the place where this one is; nil where that can't be known.
	beside  func() []Found
	closers []func() error // of what was opened for the place
}

// Close gives back what opening the set made.
func (s *Set) Close() error {
	errs := []error{s.place.Close()}
	for _, c := range s.closers {
		errs = append(errs, c())
	}
	return errors.Join(errs...)
}

// MaxText is the largest manifest or layout that is read.
const MaxText = 256 << 20

// Open reads manifest and layout of the set at dir, a directory or URL, and
// checks that both are well-formed, that the layout is the recorded one, and
// that every file is there with its size. It reads no archive: that is
// Verify's.
func Open(dir string) (*Set, error) { return OpenContext(context.Background(), dir) }

// OpenContext is Open for a set whose reads end with ctx.
func OpenContext(ctx context.Context, dir string) (*Set, error) {
	st, err := store.NewContext(ctx, dir)
	if err != nil {
		return nil, fmt.Errorf("cannot use backup set: %w", err)
	}
	return Door{}.openStore(ctx, st)
}

// OpenTape opens the set that a tape's store has; keys decrypt one that is encrypted.
func OpenTape(st *tape.Store, keys agekey.Keys) (*Set, error) {
	if kindOf(st) != encryptedSet {
		return open(onTape{files{Store: st, inOrder: true}, st, func(name string) string { return name }}, false)
	}
	s, err := sealed.Open(st, keys)
	if err != nil {
		return nil, err
	}
	return open(onTape{files{Store: s, inOrder: true}, st, s.Object}, false)
}

// At is a set of which only the files are known that st has.
func At(st store.Store) *Set { return &Set{place: web{files{Store: st}}} }

// open opens the set at a place; salvage takes one whose archives and images are not as long as they were.
func open(at place, salvage bool) (*Set, error) {
	if e := at.decrypts(); e != nil {
		e.Salvage = salvage
	}
	b, err := store.ReadFile(at, File, MaxText)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("cannot use backup set %s: it has no %s, so it is not a backup, or an unfinished one", at, File)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot use backup set: %w", err)
	}
	m, err := Parse(b)
	if err != nil {
		return nil, fmt.Errorf("cannot use backup set %s: %w", at, err)
	}
	digest := sha256.Sum256(b)
	s := &Set{place: at, Manifest: m, Digest: hex.EncodeToString(digest[:]), Salvage: salvage}
	if err := s.checkSignature(b); err != nil {
		return nil, fmt.Errorf("cannot use backup set %s: %w", at, err)
	}
	if e := at.decrypts(); e != nil {
		s.HeadFault = contradicts(e.Head, m)
	}
	if err := errors.Join(at.isOf(m.ID), s.checkSizes(), s.openNeeds()); err != nil {
		return nil, fmt.Errorf("cannot use backup set %s:\n%w", at, err)
	}
	s.findLists()
	lb, err := store.ReadFile(at, Layout, MaxText)
	if err != nil {
		return nil, fmt.Errorf("cannot use backup set: %w", err)
	}
	if got := sha256.Sum256(lb); hex.EncodeToString(got[:]) != m.Sum(Layout).SHA256 {
		return nil, fmt.Errorf("cannot use backup set %s: %s is not the file the manifest was written for", at, Layout)
	}
	if s.Layout, err = layout.Read(bytes.NewReader(lb)); err != nil {
		return nil, fmt.Errorf("cannot use backup set %s: %w", at, err)
	}
	return s, nil
}

// checkSizes looks whether every file is there with its size.
func (s *Set) checkSizes() error {
	var errs []error
	for _, f := range s.Manifest.Files {
		if !s.here(f.Name, true) {
			continue
		}
		n, err := s.Size(f.Name)
		missing := errors.Is(err, os.ErrNotExist)
		switch {
		case missing && spare(f.Name):
			s.Missing = append(s.Missing, f.Name)
			continue
		case (err != nil || n != int64(f.Size)) && spare(f.Name):
			continue // Verify reports it
		case missing:
			err = fmt.Errorf("%s is missing", f.Name)
		case err == nil && n != int64(f.Size):
			err = fmt.Errorf("%s has %d bytes, not %d", f.Name, n, f.Size)
		}
		if err != nil && s.Salvage && f.Name != Layout {
			s.Damaged = append(s.Damaged, err)
		} else {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// spare reports whether a set can be read without a file: the medium, which may be where it is used, texts for people,
// logs.
func spare(name string) bool {
	return name == RescueISO || name == coverage.File || name == "RESTORE.txt" || name == "restore.sh" || strings.HasPrefix(name, "log/")
}

// checkSignature looks whose signature the manifest b has. An error is one of reading it.
func (s *Set) checkSignature(b []byte) error {
	sig, err := store.ReadFile(s.place, Signature, signing.MaxSignature)
	switch {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		return err
	default:
		s.Signer, s.SignatureFault = signing.Signer(b, sig)
	}
	return nil
}

// Encrypted reports whether the set is encrypted.
func (s *Set) Encrypted() bool { return s.decrypts() != nil }

// Unlisted are the files of a set that its manifest can't name: the lists of checksums, and the
// signature of the manifest itself. A set may lack them.
func Unlisted() []string { return []string{SHA256, SFV, Signature} }

// Parse reads manifest.json; unknown fields are refused.
func Parse(b []byte) (*Manifest, error) {
	var m Manifest
	if err := store.Decode(File, b, &m); err != nil {
		return nil, err
	}
	if err := m.Validate(); err != nil {
		return nil, fmt.Errorf("%s:\n%w", File, err)
	}
	return &m, nil
}

// Size is what all files of the set have.
func (m *Manifest) Size() (n quantity.Size) {
	for _, f := range m.Files {
		n += f.Size
	}
	return n
}

// Sum is what the manifest has of a file; nothing where it doesn't name it.
func (m *Manifest) Sum(name string) FileSum {
	i := slices.IndexFunc(m.Files, func(f FileSum) bool { return f.Name == name })
	if i < 0 {
		return FileSum{}
	}
	return m.Files[i]
}

// Machine is the SHA-256 of the file that identifies the machine of the set, in hex; "" for a
// set of a machine without an id.
func (m *Manifest) Machine() string { return m.Sum(MachineFile).SHA256 }

// ArchiveFor finds the archive of what was mounted at a place.
func (m *Manifest) ArchiveFor(mount string) *Archive {
	return m.archive(func(a Archive) bool { return a.Mount == mount })
}

// ArchiveOf finds the archive of a part of a file system: by its mount point, or for
// one that had none, by the device.
func (m *Manifest) ArchiveOf(device, mount string) *Archive {
	if mount != "" {
		return m.ArchiveFor(mount)
	}
	return m.archive(func(a Archive) bool { return a.Mount == "" && a.Device == device })
}

func (m *Manifest) archive(is func(Archive) bool) *Archive {
	i := slices.IndexFunc(m.Archives, is)
	if i < 0 {
		return nil
	}
	return &m.Archives[i]
}

// Name names what an archive has for people: its mount point, or its device.
func (a *Archive) Name() string {
	if a.Mount == "" {
		return a.Device + " (not mounted as a whole)"
	}
	return a.Mount
}

// VerifySize is what Verify adds to its counter: the bytes that it reads, and
// with decode those of the tar streams.
func (s *Set) VerifySize(decode bool) int64 {
	n := s.needsSize()
	for _, f := range s.Manifest.Files {
		if s.here(f.Name, s.AllDiscs) {
			n += int64(f.Size)
		}
	}
	for _, a := range s.Manifest.Archives {
		if decode && s.here(a.File, s.AllDiscs) {
			n += s.tarSize(a)
		}
	}
	return n
}

// tarSize is how many bytes of tar streams an archive stands for.
func (s *Set) tarSize(a Archive) int64 {
	if len(s.needs) == 0 {
		return int64(a.TarSize)
	}
	r, err := s.Archive(a.File)
	if err != nil {
		return int64(a.TarSize) // Verify reports it
	}
	defer r.Close()
	return r.TarSize()
}

// Verify reads every file and compares its SHA-256 with the manifest's, also the archives of earlier sets, and
// opens every archive's index. The lists of checksums are compared with the manifest, and what is wrong with them is in
// ListFault: a restore does not need them. All other faults are reported, joined. With decode,
// archives are also decompressed and walked through. A file that is on another disc, or
// in part, is checked when it is read, and those of Missing are not checked.
func (s *Set) Verify(ctx context.Context, decode bool, p progress.Counter) error {
	var errs []error
	reported := map[string]bool{} // damaged archives
	crcs := map[string]uint32{}
	for _, f := range s.Manifest.Files {
		if !s.here(f.Name, s.AllDiscs) || slices.Contains(s.Missing, f.Name) {
			continue
		}
		p.Item(f.Name)
		got, crc, err := sumsOf(ctx, s, f.Name, p)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if got != f.SHA256 {
			errs = append(errs, s.where(ctx, f.Name))
			reported[f.Name] = true
			continue
		}
		crcs[f.Name] = crc
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	s.ListFault = s.checkLists(crcs)
	errs = append(errs, s.HeadFault, s.verifyNeeds(ctx, p), s.checkImages())
	for _, a := range s.Manifest.Archives {
		if reported[a.File] {
			continue
		}
		errs = append(errs, s.check(ctx, a, decode && s.here(a.File, s.AllDiscs), p))
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return errors.Join(errs...)
}

// where names the frames of a changed archive that are damaged.
func (s *Set) where(ctx context.Context, name string) error {
	err := fmt.Errorf("%s is not what was written: its SHA-256 is wrong", name)
	if !strings.HasSuffix(name, ".tar.zst") {
		return err
	}
	r, e := s.Archive(name)
	if e != nil {
		return errors.Join(err, e)
	}
	defer r.Close()
	return errors.Join(err, r.Verify(ctx, archive.VerifyOptions{}))
}

// SumFile gives a file's SHA-256 in hex.
func SumFile(ctx context.Context, name string, p progress.Counter) (string, error) {
	return sumFile(ctx, directory{files{Store: store.Dir(filepath.Dir(name))}}, filepath.Base(name), p)
}

func sumFile(ctx context.Context, at place, name string, p progress.Counter) (string, error) {
	sum, _, err := sumsOf(ctx, at, name, p)
	return sum, err
}

// sumsOf returns the two checksums of a file that the lists have: its SHA-256 in hex, and its CRC-32.
func sumsOf(ctx context.Context, at place, name string, p progress.Counter) (sum string, crc uint32, err error) {
	f, err := at.Open(name)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	h, c := sha256.New(), crc32.NewIEEE()
	buf := make([]byte, 1<<20)
	if at.Local() == "" {
		buf = make([]byte, 4<<20) // each may be a request
	}
	for off := int64(0); ; {
		if err := ctx.Err(); err != nil {
			return "", 0, err
		}
		n, err := f.ReadAt(buf, off)
		h.Write(buf[:n])
		c.Write(buf[:n])
		p.Add(int64(n))
		off += int64(n)
		if err == io.EOF {
			return hex.EncodeToString(h.Sum(nil)), c.Sum32(), nil
		}
		if err != nil {
			return "", 0, fmt.Errorf("cannot read %s: %w", name, err)
		}
	}
}
