// Package loaders reads what is behind the executable's own bytes, where it
// costs a running program nothing: the executable once more, packed as the
// rescue system gets it, so that a machine need not compress it every night;
// and the loader pack, boot loaders from Debian's packages for machines that
// have none themselves. The rescue system gets the executable without both.
//
//	executable | itself packed (cpio, zstd) | pack (tar, zstd) |
//	trailer: magic 16, offset 8 and length 8 of the first, SHA-256 32, length 8 of the pack, SHA-256 32
//
// Numbers are little-endian. internal/genloaders writes it.
package loaders

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/mkcdrec/mkcdrec/internal/unpack"
)

const (
	magic      = "MKCDRECLOADERS02"
	trailerLen = 16 + 8 + 8 + sha256.Size + 8 + sha256.Size
	// MaxSize is the most that a pack may add to the executable, in bytes.
	MaxSize = 3 << 20
	// versions is the name of the list in the pack.
	versions = "VERSIONS.json"
)

// ErrNone means that an executable has no loader pack.
var ErrNone = errors.New("this program was built without a loader pack")

// Package is a Debian package that loaders were taken from.
type Package struct {
	Name    string   `json:"name"`
	Version string   `json:"version"`
	Licence string   `json:"licence"`
	Source  string   `json:"source"` // where its source code is
	Files   []string `json:"files"`
}

// Pack is a loader pack in an executable.
type Pack struct {
	Packages []Package
	raw      []byte // the tar archive
}

// tail is where the appended parts are in a file.
type tail struct {
	end, self, pack  int64 // end of the executable, lengths in bytes
	selfSum, packSum []byte
}

// find reads the trailer of a file; ErrNone if absent.
func find(f *os.File) (t tail, err error) {
	st, err := f.Stat()
	if err != nil {
		return t, err
	}
	if st.Size() < trailerLen {
		return t, ErrNone
	}
	b := make([]byte, trailerLen)
	if _, err := f.ReadAt(b, st.Size()-trailerLen); err != nil {
		return t, err
	}
	if string(b[:16]) != magic {
		return t, ErrNone
	}
	le := binary.LittleEndian
	t = tail{int64(le.Uint64(b[16:])), int64(le.Uint64(b[24:])), int64(le.Uint64(b[64:])), b[32:64], b[72:]}
	if t.end <= 0 || t.self < 0 || t.pack < 0 || t.self > 256<<20 || t.pack > 64<<20 || t.end+t.self+t.pack+trailerLen != st.Size() {
		return t, errors.New("its loader pack is damaged")
	}
	return t, nil
}

func readSummed(f *os.File, off, n int64, sum []byte) ([]byte, error) {
	b := make([]byte, n)
	if _, err := f.ReadAt(b, off); err != nil {
		return nil, err
	}
	if got := sha256.Sum256(b); !bytes.Equal(got[:], sum) {
		return nil, errors.New("what was appended to it is damaged")
	}
	return b, nil
}

// Self is the executable as its builder packed it for rescue systems;
// ErrNone when it was not.
func Self(exe string) ([]byte, error) {
	f, err := os.Open(exe)
	if err != nil {
		return nil, fmt.Errorf("cannot read %w", err)
	}
	defer f.Close()
	t, err := find(f)
	if err == nil && t.self == 0 {
		err = ErrNone
	}
	if errors.Is(err, ErrNone) {
		return nil, err
	}
	var b []byte
	if err == nil {
		b, err = readSummed(f, t.end, t.self, t.selfSum)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", exe, err)
	}
	return b, nil
}

// Open reads the pack of an executable.
func Open(exe string) (*Pack, error) {
	f, err := os.Open(exe)
	if err != nil {
		return nil, fmt.Errorf("cannot read loader pack: %w", err)
	}
	defer f.Close()
	t, err := find(f)
	if errors.Is(err, ErrNone) {
		return nil, err
	}
	var b []byte
	if err == nil {
		b, err = readSummed(f, t.end+t.self, t.pack, t.packSum)
	}
	p := &Pack{}
	if err == nil {
		var z *zstd.Decoder
		if z, err = zstd.NewReader(nil, zstd.WithDecoderMaxMemory(256<<20)); err == nil {
			p.raw, err = z.DecodeAll(b, nil)
			z.Close()
		}
	}
	if err == nil {
		err = unpack.Tar(bytes.NewReader(p.raw), func(name string, r io.Reader) error {
			if name != versions {
				return nil
			}
			return json.NewDecoder(r).Decode(&p.Packages)
		})
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read loader pack of %s: %w", exe, err)
	}
	return p, nil
}

// Extract lays the loaders out below dir, at the paths that Debian has them
// at; it makes dir.
func (p *Pack) Extract(dir string) error {
	err := unpack.Tar(bytes.NewReader(p.raw), unpack.Into(dir))
	if err != nil {
		return fmt.Errorf("cannot unpack the loader pack: %w", err)
	}
	return nil
}

// String lists packages and versions in one line.
func (p *Pack) String() string {
	var l []string
	for _, k := range p.Packages {
		l = append(l, k.Name+" "+k.Version)
	}
	return strings.Join(l, ", ")
}

// Append writes self, the executable packed, and files, by path, with their
// origin behind the executable's bytes. What was appended before is replaced.
// It gives the pack's length.
func Append(exe string, self []byte, pkgs []Package, files map[string][]byte) (int64, error) {
	var raw bytes.Buffer
	t := tar.NewWriter(&raw)
	put := func(name string, b []byte) error {
		if err := t.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(b)), Format: tar.FormatUSTAR}); err != nil {
			return err
		}
		_, err := t.Write(b)
		return err
	}
	list, err := json.MarshalIndent(pkgs, "", "  ")
	if err == nil {
		err = put(versions, list)
	}
	for _, k := range pkgs {
		for _, f := range k.Files {
			if err == nil {
				err = put(f, files[f])
			}
		}
	}
	if err == nil {
		err = t.Close()
	}
	if err != nil {
		return 0, fmt.Errorf("cannot make the loader pack: %w", err)
	}
	// GRUB is in there twice, for discs and for the network: a window that
	// spans both.
	z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithWindowSize(16<<20), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return 0, err
	}
	b := z.EncodeAll(raw.Bytes(), nil)
	if len(b)+trailerLen > MaxSize {
		return 0, fmt.Errorf("cannot make the loader pack: it has %d bytes, more than %d", len(b), MaxSize)
	}
	f, err := os.OpenFile(exe, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	old, err := find(f)
	if errors.Is(err, ErrNone) {
		old.end, err = f.Seek(0, io.SeekEnd)
	}
	if err != nil {
		return 0, err
	}
	le := binary.LittleEndian
	out := append(append([]byte{}, self...), b...)
	out = append(out, magic...)
	out = le.AppendUint64(out, uint64(old.end))
	out = le.AppendUint64(out, uint64(len(self)))
	sum := sha256.Sum256(self)
	out = append(out, sum[:]...)
	out = le.AppendUint64(out, uint64(len(b)))
	sum = sha256.Sum256(b)
	out = append(out, sum[:]...)
	if _, err := f.WriteAt(out, old.end); err != nil {
		return 0, err
	}
	return int64(len(b) + trailerLen), f.Truncate(old.end + int64(len(out)))
}

// Plain gives the executable without its pack: exe itself when it has none,
// otherwise a copy in the file to.
func Plain(exe, to string) (string, error) {
	f, err := os.Open(exe)
	if err != nil {
		return "", err
	}
	defer f.Close()
	t, err := find(f)
	if errors.Is(err, ErrNone) {
		return exe, nil
	}
	if err != nil {
		return "", fmt.Errorf("cannot copy %s: %w", exe, err)
	}
	w, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return "", err
	}
	_, err = io.Copy(w, io.NewSectionReader(f, 0, t.end))
	if err = errors.Join(err, w.Close()); err != nil {
		return "", fmt.Errorf("cannot copy %s: %w", exe, err)
	}
	return to, nil
}
