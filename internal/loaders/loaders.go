// Package loaders reads the loader pack: boot loaders from Debian's packages,
// for machines that have none themselves. It lies behind the executable's own
// bytes, where it costs a running program nothing, and the rescue system, which
// needs no loaders, gets the executable without it.
//
//	executable | pack (tar, zstd) | trailer: magic 16, offset 8, length 8, SHA-256 32
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
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"
)

const (
	magic      = "MKCDRECLOADERS01"
	trailerLen = 16 + 8 + 8 + sha256.Size
	// MaxSize is the most that a pack may add to the executable, in bytes.
	MaxSize = 3 << 20
	// versions is the name of the list in the pack.
	versions = "VERSIONS.json"
)

// ErrNone says that an executable carries no loader pack.
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

// find gives where the pack lies in a file; ErrNone when there is none.
func find(f *os.File) (off, n int64, sum []byte, err error) {
	st, err := f.Stat()
	if err != nil {
		return 0, 0, nil, err
	}
	if st.Size() < trailerLen {
		return 0, 0, nil, ErrNone
	}
	t := make([]byte, trailerLen)
	if _, err := f.ReadAt(t, st.Size()-trailerLen); err != nil {
		return 0, 0, nil, err
	}
	if string(t[:16]) != magic {
		return 0, 0, nil, ErrNone
	}
	off, n = int64(binary.LittleEndian.Uint64(t[16:])), int64(binary.LittleEndian.Uint64(t[24:]))
	if off <= 0 || n < 0 || off+n+trailerLen != st.Size() || n > 64<<20 {
		return 0, 0, nil, errors.New("its loader pack is damaged")
	}
	return off, n, t[32:], nil
}

// Open reads the pack of an executable.
func Open(exe string) (*Pack, error) {
	f, err := os.Open(exe)
	if err != nil {
		return nil, fmt.Errorf("cannot read loader pack: %w", err)
	}
	defer f.Close()
	off, n, sum, err := find(f)
	if errors.Is(err, ErrNone) {
		return nil, err
	}
	b := make([]byte, n)
	if err == nil {
		_, err = f.ReadAt(b, off)
	}
	if got := sha256.Sum256(b); err == nil && !bytes.Equal(got[:], sum) {
		err = errors.New("its loader pack is damaged")
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
		err = p.each(func(name string, r io.Reader) error {
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

func (p *Pack) each(fn func(name string, r io.Reader) error) error {
	t := tar.NewReader(bytes.NewReader(p.raw))
	for {
		h, err := t.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if !filepath.IsLocal(h.Name) {
			return fmt.Errorf("%q is no path inside the pack", h.Name)
		}
		if err := fn(h.Name, t); err != nil {
			return err
		}
	}
}

// Extract lays the loaders out below dir, at the paths that Debian has them
// at; it makes dir.
func (p *Pack) Extract(dir string) error {
	err := p.each(func(name string, r io.Reader) error {
		to := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
			return err
		}
		f, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, r)
		return errors.Join(err, f.Close())
	})
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

// Append writes files, by path, and their origin behind the executable's
// bytes. A pack that is there already is replaced. It gives the pack's length.
func Append(exe string, pkgs []Package, files map[string][]byte) (int64, error) {
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
	end, _, _, err := find(f)
	if errors.Is(err, ErrNone) {
		end, err = f.Seek(0, io.SeekEnd)
	}
	if err != nil {
		return 0, err
	}
	trailer := append([]byte(magic), make([]byte, 16)...)
	binary.LittleEndian.PutUint64(trailer[16:], uint64(end))
	binary.LittleEndian.PutUint64(trailer[24:], uint64(len(b)))
	sum := sha256.Sum256(b)
	if _, err := f.WriteAt(append(append(b, trailer...), sum[:]...), end); err != nil {
		return 0, err
	}
	return int64(len(b) + trailerLen), f.Truncate(end + int64(len(b)+trailerLen))
}

// Plain gives the executable without its pack: exe itself when it has none,
// otherwise a copy in the file to.
func Plain(exe, to string) (string, error) {
	f, err := os.Open(exe)
	if err != nil {
		return "", err
	}
	defer f.Close()
	end, _, _, err := find(f)
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
	_, err = io.Copy(w, io.NewSectionReader(f, 0, end))
	if err = errors.Join(err, w.Close()); err != nil {
		return "", fmt.Errorf("cannot copy %s: %w", exe, err)
	}
	return to, nil
}
