// Package sealed is how an encrypted backup set is stored: each file of the set is an object
// 0001.age, 0002.age and so on, encrypted with age; index.age has their names; and set.json,
// written last, is what can be read without a key. docs/FORMAT.md has the fields.
package sealed

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"filippo.io/age"

	"github.com/mkcdrec/mkcdrec/internal/agekey"
	"github.com/mkcdrec/mkcdrec/internal/store"
)

// Names of files that are not objects.
const (
	HeadFile  = "set.json"
	IndexFile = "index.age"
)

// Version is the only version of set.json and of the index.
const Version = 1

// MaxHead and maxIndex are the largest files of these kinds that are read, in bytes.
const (
	MaxHead  = 1 << 20
	maxIndex = 64 << 20
)

// Head is what everybody can read of an encrypted set, set.json. Nothing in it is trusted: it
// is compared with the manifest when the set is opened.
type Head struct {
	Version int       `json:"version"`
	ID      string    `json:"id"`
	Host    string    `json:"host"`
	Created time.Time `json:"created"`
	// Size is that of all objects in bytes, Files how many there are.
	Size  int64 `json:"size"`
	Files int   `json:"files"`
	// NotCovered is how many things the set lacks.
	NotCovered int `json:"notCovered"`
	// Machine is the SHA-256 of the file that identifies the machine, in hex; "" for none.
	Machine string `json:"machine,omitempty"`
	// Needs are the earlier sets of an increment.
	Needs []Need `json:"needs,omitempty"`
	// Index is the SHA-256 of index.age in hex.
	Index string `json:"index"`
}

// Need is an earlier set that an increment needs.
type Need struct {
	ID  string `json:"id"`
	Dir string `json:"dir"` // name of its directory, beside that of the increment
}

// ParseHead reads set.json.
func ParseHead(b []byte) (*Head, error) {
	var h Head
	if err := store.Decode(HeadFile, b, &h); err != nil {
		return nil, err
	}
	switch sum, err := hex.DecodeString(h.Index); {
	case h.Version != Version:
		return nil, fmt.Errorf("%s: version: is %d; this program knows %d", HeadFile, h.Version, Version)
	case err != nil || len(sum) != sha256.Size:
		return nil, fmt.Errorf("%s: index: %.100q is not a SHA-256", HeadFile, h.Index)
	case h.ID == "" || unprintable(h.ID) || unprintable(h.Host):
		return nil, fmt.Errorf("%s: id %.100q or host %.100q", HeadFile, h.ID, h.Host)
	case unprintable(h.Machine) || slices.ContainsFunc(h.Needs, func(n Need) bool { return unprintable(n.ID) || unprintable(n.Dir) }):
		return nil, fmt.Errorf("%s: machine or needs", HeadFile)
	case h.Size < 0 || h.Files < 0 || h.NotCovered < 0:
		return nil, fmt.Errorf("%s: a number is negative", HeadFile)
	}
	return &h, nil
}

func unprintable(s string) bool { return strings.IndexFunc(s, unicode.IsControl) >= 0 }

// index is what index.age has.
type index struct {
	Version int               `json:"version"`
	Files   map[string]object `json:"files"` // by the names that the files have in the set
}

// object is an encrypted file.
type object struct {
	Object string `json:"object"` // 0001.age
	Size   int64  `json:"size"`   // of the file, in bytes
	Packed int64  `json:"packed"` // of the object
	// Key is the age file key of the object, so that a token or passphrase is asked once.
	Key []byte `json:"key"`
	// Nonce is a copy of the one behind the object's header: with it and Key an object can be decrypted whose beginning is
	// damaged. nil in sets that were made before.
	Nonce []byte `json:"nonce,omitempty"`
}

// fileKey is how long the key of a file is, in bytes; age-encryption.org/v1.
const fileKey = 16

func (x *index) validate() error {
	if x.Version != Version {
		return fmt.Errorf("version: is %d; this program knows %d", x.Version, Version)
	}
	used := map[string]string{}
	for name, o := range x.Files {
		switch {
		case !filepath.IsLocal(name) || filepath.Clean(name) != name || unprintable(name):
			return fmt.Errorf("%.200q is not a name below the set", name)
		case filepath.Base(o.Object) != o.Object || !strings.HasSuffix(o.Object, ".age") || o.Object == IndexFile:
			return fmt.Errorf("%.200q is in %.200q, which is not an object", name, o.Object)
		case used[o.Object] != "":
			return fmt.Errorf("%.200q and %.200q are the same object", name, used[o.Object])
		case o.Size < 0 || o.Packed <= o.Size || len(o.Key) != fileKey || len(o.Nonce) != 0 && len(o.Nonce) != nonceSize:
			return fmt.Errorf("%.200q has %d bytes in %d, a key of %d bytes and a nonce of %d", name, o.Size, o.Packed, len(o.Key), len(o.Nonce))
		}
		used[o.Object] = name
	}
	return nil
}

// Store is an encrypted set that was opened: its files, decrypted while they are read.
type Store struct {
	store.Store
	Head *Head
	// Salvage has objects read whose header is damaged.
	Salvage bool
	index   index

	mu       sync.Mutex
	repaired map[string]bool // objects whose header is damaged
	ids      agekey.Keys
}

// Faults of what should decrypt a set.
var (
	ErrNoIdentity = errors.New("it is not encrypted for this identity")
	ErrPassphrase = errors.New("it is not encrypted with this passphrase")
)

// ReadHead reads what needs no key: set.json, and index.age, which has to be the one that set.json was written for.
func ReadHead(st store.Store) (h *Head, index []byte, err error) {
	b, err := store.ReadFile(st, HeadFile, MaxHead)
	if err != nil {
		return nil, nil, err
	}
	if h, err = ParseHead(b); err != nil {
		return nil, nil, err
	}
	if index, err = store.ReadFile(st, IndexFile, maxIndex); err != nil {
		return nil, nil, err
	}
	if sum := sha256.Sum256(index); hex.EncodeToString(sum[:]) != h.Index {
		return nil, nil, fmt.Errorf("%s is not the file that %s was written for", IndexFile, HeadFile)
	}
	return h, index, nil
}

// Open opens the encrypted set in st.
func Open(st store.Store, identities agekey.Keys) (*Store, error) {
	fail := func(err error) (*Store, error) { return nil, fmt.Errorf("cannot use backup set %s: %w", st, err) }
	head, b, err := ReadHead(st)
	if err != nil {
		return fail(err)
	}
	s := &Store{Store: st, Head: head, ids: identities}
	byPassphrase := agekey.ByPassphrase(b)
	ids, err := identities(byPassphrase)
	if err != nil {
		return nil, err
	}
	r, err := age.Decrypt(bytes.NewReader(b), ids...)
	if none := (*age.NoIdentityMatchError)(nil); errors.As(err, &none) {
		if byPassphrase {
			return fail(ErrPassphrase)
		}
		return fail(ErrNoIdentity)
	} else if err != nil {
		return fail(fmt.Errorf("cannot decrypt %s: %w", IndexFile, err))
	}
	if b, err = io.ReadAll(io.LimitReader(r, maxIndex+1)); err != nil {
		return fail(fmt.Errorf("cannot decrypt %s: %w", IndexFile, err))
	}
	if err := store.Decode(IndexFile, b, &s.index); err != nil {
		return fail(err)
	}
	if err := s.index.validate(); err != nil {
		return fail(fmt.Errorf("%s: %w", IndexFile, err))
	}
	return s, nil
}

// openObject opens the object that has a file.
func (s *Store) openObject(name string) (object, store.File, error) {
	o, ok := s.index.Files[name]
	if !ok {
		return o, nil, fmt.Errorf("cannot open %s/%s: %w", s, name, os.ErrNotExist)
	}
	f, err := s.Store.Open(o.Object)
	if err != nil {
		return o, nil, fmt.Errorf("%s: %w", name, err)
	}
	return o, f, nil
}

// Open implements store.Store.
func (s *Store) Open(name string) (store.File, error) {
	o, f, err := s.openObject(name)
	if err != nil {
		return nil, err
	}
	if _, is := f.(InOrder); is && s.Object(name+TailSuffix) != "" {
		return s.openInOrder(name, o, f)
	}
	fail := func(err error) (store.File, error) {
		return nil, errors.Join(fmt.Errorf("cannot read %s/%s, which has %s: %w", s.Store, o.Object, name, err), f.Close())
	}
	if f.Size() != o.Packed {
		return fail(fmt.Errorf("it has %d bytes, not %d", f.Size(), o.Packed))
	}
	r, size, err := s.decrypt(o, f)
	if err != nil {
		return fail(err)
	}
	if size != o.Size {
		return fail(fmt.Errorf("%d bytes are encrypted, not %d", size, o.Size))
	}
	return &file{ReaderAt: r, Closer: f, size: size, name: o.Object}, nil
}

// Rest gives what there is of a file whose object is cut off or damaged, from its beginning: age authenticates each
// 64 KiB by itself. Its last Read returns io.ErrUnexpectedEOF, or an error that names what is damaged.
func (s *Store) Rest(name string) (io.ReadCloser, error) {
	o, f, err := s.openObject(name)
	if err != nil {
		return nil, err
	}
	key := age.NewInjectedFileKeyIdentity(o.Key)
	r, err := age.Decrypt(io.NewSectionReader(f, 0, f.Size()), key)
	if err != nil {
		if x, e := o.withHeader(f); e == nil {
			r, err = age.Decrypt(x, key)
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cannot decrypt %s, which has %s: %w", o.Object, name, err), f.Close())
	}
	return rest{r, f}, nil
}

type rest struct {
	io.Reader
	io.Closer
}

// Beside implements store.Neighbor: a set beside an encrypted one is encrypted, or is not.
func (s *Store) Beside(name string) (store.Store, error) {
	st, err := store.Beside(s.Store, name)
	if err != nil {
		return nil, err
	}
	if _, err := st.Size(HeadFile); errors.Is(err, os.ErrNotExist) {
		return st, nil
	}
	return Open(st, s.ids)
}

type file struct {
	io.ReaderAt
	io.Closer
	size int64
	name string
}

func (f *file) Size() int64 { return f.size }

func (f *file) ReadAt(p []byte, off int64) (int, error) {
	if off >= f.size {
		return 0, io.EOF
	}
	n, err := f.ReaderAt.ReadAt(p, off)
	if n == len(p) {
		return n, nil // age reports the end together with the last bytes
	}
	if err != nil && err != io.EOF {
		err = fmt.Errorf("cannot decrypt %s: %w", f.name, err)
	}
	return n, err
}

// Object is the name of the object that has a file, "" if there is none.
func (s *Store) Object(name string) string { return s.index.Files[name].Object }

// Size implements store.Store. It looks whether the object is there, with its size.
func (s *Store) Size(name string) (int64, error) {
	o, ok := s.index.Files[name]
	if !ok {
		return 0, fmt.Errorf("%s/%s: %w", s, name, os.ErrNotExist)
	}
	n, err := s.Store.Size(o.Object)
	switch {
	case err != nil:
		return 0, err
	case n != o.Packed:
		return 0, fmt.Errorf("%s, which has %s, has %d bytes, not %d", o.Object, name, n, o.Packed)
	}
	return o.Size, nil
}

// Writer encrypts the files of a set. Its methods are called one after another.
type Writer struct {
	recipients []age.Recipient
	index      index
	size       int64
	made       int // objects, those that were taken back included
}

// NewWriter begins a set for some recipients.
func NewWriter(recipients []age.Recipient) *Writer {
	return &Writer{recipients: recipients, index: index{Version: Version, Files: map[string]object{}}}
}

// Object is the name that the next file gets.
func (w *Writer) Object() string { return ObjectName(w.made + 1) }

// ObjectName is the name of the nth object of a set, from 1 on.
func ObjectName(n int) string { return fmt.Sprintf("%04d.age", n) }

// keep is a recipient that keeps the file key as well.
type keep struct {
	age.Recipient
	key []byte
}

// Wrap implements age.Recipient.
func (k *keep) Wrap(key []byte) ([]*age.Stanza, error) {
	k.key = bytes.Clone(key)
	return k.Recipient.Wrap(key)
}

// WrapWithLabels implements age.RecipientWithLabels: recipients only go together if their labels are the same.
func (k *keep) WrapWithLabels(key []byte) ([]*age.Stanza, []string, error) {
	l, ok := k.Recipient.(age.RecipientWithLabels)
	if !ok {
		s, err := k.Wrap(key)
		return s, nil, err
	}
	k.key = bytes.Clone(key)
	return l.WrapWithLabels(key)
}

// counter counts what is written.
type counter struct {
	io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.Writer.Write(p)
	c.n += int64(n)
	return n, err
}

// File encrypts what produce writes as the file called name, to out, which gets Object's name.
func (w *Writer) File(ctx context.Context, name string, out io.Writer, produce func(ctx context.Context, w io.Writer) error) error {
	packed := &counter{Writer: out}
	to, o, err := w.encrypt(packed)
	if err != nil {
		return err
	}
	plain := &counter{Writer: to}
	if err := produce(ctx, plain); err != nil {
		return err
	}
	if err := to.Close(); err != nil {
		return fmt.Errorf("cannot encrypt %s: %w", name, err)
	}
	o.Object, o.Size, o.Packed = w.Object(), plain.n, packed.n
	w.index.Files[name] = o
	w.size += packed.n
	w.made++
	return nil
}

// Of gives the object that has a file, and its size in bytes.
func (w *Writer) Of(name string) (object string, packed int64) {
	o := w.index.Files[name]
	return o.Object, o.Packed
}

// Forget takes back the last file, whose object is not kept. No other object gets its name: a tape keeps what was
// written to it.
func (w *Writer) Forget(name string) (object string) {
	o := w.index.Files[name]
	delete(w.index.Files, name)
	w.size -= o.Packed
	return o.Object
}

// Encrypt begins something for the recipients that is not a file of the set. It is to be closed.
func (w *Writer) Encrypt(out io.Writer) (io.WriteCloser, error) {
	to, _, err := w.encrypt(out)
	return to, err
}

// encrypt begins a file for the recipients, and returns its key and nonce.
func (w *Writer) encrypt(out io.Writer) (to io.WriteCloser, o object, err error) {
	k, b := &keep{Recipient: w.recipients[0]}, &begun{Writer: out}
	to, err = age.Encrypt(b, append([]age.Recipient{k}, w.recipients[1:]...)...)
	if err != nil {
		return nil, o, fmt.Errorf("cannot encrypt: %w", err)
	}
	b.whole = true
	return to, object{Key: k.key, Nonce: b.nonce()}, nil
}

// Finish gives index.age and set.json, to be written in this order, once all files are; h has
// the identity of the set.
func (w *Writer) Finish(h Head) (indexFile, headFile []byte, err error) {
	b, err := json.Marshal(w.index)
	if err != nil {
		return nil, nil, err
	}
	var out bytes.Buffer
	to, _, err := w.encrypt(&out)
	if err != nil {
		return nil, nil, err
	}
	_, err = to.Write(b)
	if err = errors.Join(err, to.Close()); err != nil {
		return nil, nil, fmt.Errorf("cannot encrypt the index: %w", err)
	}
	sum := sha256.Sum256(out.Bytes())
	h.Version, h.Index, h.Size, h.Files = Version, hex.EncodeToString(sum[:]), w.size, len(w.index.Files)
	if b, err = json.MarshalIndent(h, "", "  "); err != nil {
		return nil, nil, err
	}
	b = append(b, '\n')
	if _, err := ParseHead(b); err != nil {
		return nil, nil, fmt.Errorf("cannot write the set: %w", err)
	}
	return out.Bytes(), b, nil
}
