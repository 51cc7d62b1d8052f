// Package store is where backup sets are: a directory, a web server, or another home. A
// store gives files by name; they are read at any offset.
package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/regular"
)

// File is a file of a store.
type File interface {
	io.ReaderAt
	io.Closer
	Size() int64
}

// Store holds the files of one set. A file that is not there is os.ErrNotExist.
type Store interface {
	Open(name string) (File, error)
	Size(name string) (int64, error)
	String() string
}

// IsURL reports whether a place is on a web server. IsHome knows the other servers, too.
func IsURL(place string) bool {
	return strings.HasPrefix(place, "http://") || strings.HasPrefix(place, "https://")
}

// New gives the store at a directory or URL.
func New(place string) (Store, error) { return NewContext(context.Background(), place) }

// NewContext is New for a store whose reads end with the context's error when it
// ends, also while they wait for a server. Places that need credentials, or that end with a
// Close, are for OpenSet.
func NewContext(ctx context.Context, place string) (Store, error) {
	switch Scheme(place) {
	case KindHTTP, KindHTTPS:
		return newWeb(ctx, place)
	case KindDir:
		return Dir(strings.TrimPrefix(place, "file://")), nil
	}
	st, closeHome, err := OpenSet(ctx, place, Access{})
	if err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, func() { _ = closeHome() }) // only reading, which has ended
	return st, nil
}

// Dir is a directory. A person may have put a set together from links, also to files
// elsewhere: links are followed. A name is one below the directory, and what it leads
// to is a regular file.
type Dir string

type osFile struct {
	*os.File
	size int64
}

func (f osFile) Size() int64 { return f.size }

// Open implements Store. Only a regular file is opened: a fifo would never answer,
// and reading a device may do things.
func (d Dir) Open(name string) (File, error) {
	if !filepath.IsLocal(name) {
		return nil, fmt.Errorf("cannot open %q in %s: it is not a name below that directory", name, d)
	}
	f, err := os.OpenFile(filepath.Join(string(d), name), os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil {
		err = usable(f.Name(), st)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return osFile{f, st.Size()}, nil
}

// Size implements Store.
func (d Dir) Size(name string) (int64, error) {
	if !filepath.IsLocal(name) {
		return 0, fmt.Errorf("cannot look at %q in %s: it is not a name below that directory", name, d)
	}
	file := filepath.Join(string(d), name)
	st, err := os.Stat(file)
	if err == nil {
		err = usable(file, st)
	}
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}

func usable(name string, st os.FileInfo) error {
	if err := regular.Check(st); err != nil {
		return fmt.Errorf("cannot use %s: %w", name, err)
	}
	return nil
}

func (d Dir) String() string { return string(d) }

// Decode reads a JSON file of a set into v; unknown fields and text behind it are refused.
func Decode(name string, b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("%s, byte %d: %w", name, d.InputOffset(), plain(err))
	}
	if d.More() {
		return fmt.Errorf("%s, byte %d: text after the end", name, d.InputOffset())
	}
	return nil
}

// plain words an error of the library for JSON for those who do not know it.
func plain(err error) error {
	var kind *json.UnmarshalTypeError
	switch {
	case err == io.EOF:
		return errors.New("the file is empty")
	case errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("the file is cut off")
	case errors.As(err, &kind) && kind.Field == "":
		return fmt.Errorf("it has a value of the wrong kind, %s", kind.Value)
	case errors.As(err, &kind):
		return fmt.Errorf("%s has a value of the wrong kind, %s", kind.Field, kind.Value)
	}
	return errors.New(strings.TrimPrefix(err.Error(), "json: "))
}

// ReadFile reads a whole file of a store, of at most limit bytes.
func ReadFile(s Store, name string, limit int64) ([]byte, error) {
	f, err := s.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if f.Size() > limit {
		return nil, fmt.Errorf("%s/%s has %d bytes, more than %d", s, name, f.Size(), limit)
	}
	b := make([]byte, f.Size())
	if n, err := f.ReadAt(b, 0); n < len(b) {
		return nil, fmt.Errorf("cannot read %s/%s: %w", s, name, err)
	}
	return b, nil
}
