package store

import (
	"context"
	"io"
	"time"
)

// Home is a place with the sets of machines, each in a directory of its own: a directory, a
// server or a bucket. Names have slashes and no "..", and are relative to the home. All methods
// can be called from several goroutines.
type Home interface {
	// String is the place as people write it, without secrets.
	String() string
	// Dirs lists the directories directly in the home, sorted. In a bucket these are the first
	// parts of the objects' names.
	Dirs(ctx context.Context) ([]string, error)
	// Files lists all files below a directory of the home, also those in its directories,
	// sorted by name. One that is missing is empty, or os.ErrNotExist.
	Files(ctx context.Context, dir string) ([]Info, error)
	// At is the store of the set in a directory of the home, "" for the home itself. Reads end
	// with ctx. Nothing has to be listed for that: who may only get objects can restore.
	At(ctx context.Context, dir string) Store
	// Create begins a file, and makes the directories above it. Nothing is seen under its name
	// before Commit; a file that has the name is replaced then.
	Create(ctx context.Context, name string) (Upload, error)
	// Remove removes a file, or a directory with all that is in it; manifests come first, so
	// that an interruption leaves no set that looks whole. One that is missing is not an error.
	Remove(ctx context.Context, name string) error
	// Close ends connections, and unmounts what was mounted for the home.
	Close() error
}

// Upload is a file that is being written. After an interruption of the network what was not
// received is sent again. One of Commit and Abort ends it; Abort after Commit does nothing.
type Upload interface {
	io.Writer
	// Commit gives the file its name once all of it is safely stored.
	Commit() error
	// Abort leaves nothing of the file.
	Abort() error
}

// Info is a file of a home.
type Info struct {
	Name string // relative to the directory that was listed
	Size int64  // bytes
	Time time.Time
}
