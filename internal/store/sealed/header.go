package sealed

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"

	"filippo.io/age"

	"github.com/mkcdrec/mkcdrec/internal/store"
)

// Sizes of age-encryption.org/v1, in bytes: the nonce that follows the header; the chunks of the payload, and what each
// of them is longer by when it is encrypted.
const (
	nonceSize = 16
	chunkSize = 64 << 10
	chunkTag  = 16
)

// withHeader is the object f with a header made for its key in the place of its own, which is damaged, and the nonce that
// the index has.
func (o object) withHeader(f store.File) (*io.SectionReader, error) {
	at := o.Packed - o.Size - chunkTag*max(1, (o.Size+chunkSize-1)/chunkSize) // of the payload
	if len(o.Nonce) == 0 || at <= nonceSize || at > f.Size() {
		return nil, fmt.Errorf("there is no copy of what %s begins with", o.Object)
	}
	h := []byte("age-encryption.org/v1\n-> mkcdrec\n\n---")
	key, err := hkdf.Key(sha256.New, o.Key, nil, "header", sha256.Size)
	if err != nil {
		return nil, err
	}
	mac := hmac.New(sha256.New, key)
	mac.Write(h)
	h = append(h, " "+base64.RawStdEncoding.EncodeToString(mac.Sum(nil))+"\n"...)
	h = append(h, o.Nonce...)
	return io.NewSectionReader(&spliced{h, store.Cached(f), at}, 0, f.Size()-at+int64(len(h))), nil
}

// spliced is head followed by what r has from at on.
type spliced struct {
	head []byte
	r    io.ReaderAt
	at   int64
}

// ReadAt implements io.ReaderAt.
func (s *spliced) ReadAt(p []byte, off int64) (n int, err error) {
	if off < int64(len(s.head)) {
		n = copy(p, s.head[off:])
		off += int64(n)
	}
	if n < len(p) {
		k, e := s.r.ReadAt(p[n:], off-int64(len(s.head))+s.at)
		n, err = n+k, e
	}
	return n, err
}

// decrypt decrypts the object f at any place.
func (s *Store) decrypt(o object, f store.File) (io.ReaderAt, int64, error) {
	key := age.NewInjectedFileKeyIdentity(o.Key)
	// Chunks of age have 64 KiB, and a server should not be asked for each.
	r, size, err := age.DecryptReaderAt(store.Cached(f), f.Size(), key)
	if err == nil || !s.Salvage {
		return r, size, err
	}
	x, e := o.withHeader(f)
	if e != nil {
		return nil, 0, err
	}
	r, size, err = age.DecryptReaderAt(x, x.Size(), key)
	if err == nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.repaired == nil {
			s.repaired = map[string]bool{}
		}
		s.repaired[o.Object] = true
	}
	return r, size, err
}

// Repaired reports whether a file was opened whose object has a damaged header.
func (s *Store) Repaired(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.repaired[s.index.Files[name].Object]
}

// begun is where something encrypted is written to; head is what was written until the header is whole.
type begun struct {
	io.Writer
	head  []byte
	whole bool
}

func (b *begun) Write(p []byte) (int, error) {
	if !b.whole {
		b.head = append(b.head, p...)
	}
	return b.Writer.Write(p)
}

// nonce is the end of what age has written before any content.
func (b *begun) nonce() []byte { return b.head[max(0, len(b.head)-nonceSize):] }
