// Package tape writes backup sets to tapes and reads them. It speaks to the
// drive itself, through the SCSI tape driver's ioctls (st(4)).
//
// A tape holds files, parted by file marks:
//
//	label                 one block: JSON, filled with zero bytes
//	front.tar.zst         layout and texts, known before the archives are
//	ARCHIVE, ...          one file each, in blocks of BlockSize
//	set.tar.zst           manifest, layout, texts, logs, and where everything is
//
// All but the label are volumes (internal/volume), so that after dd(1), zstd(1)
// and tar(1) read them. An archive that the tape's end comes into continues as
// the next volume on the next reel.
package tape

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"bytes"

	"github.com/mkcdrec/mkcdrec/internal/store"
	"github.com/mkcdrec/mkcdrec/internal/volume"
)

// BlockSize is the size of a block of everything but the label of an OBDR tape
// and its image, in bytes.
const BlockSize = 64 << 10

// Names of the files that are not archives.
const (
	FrontName = "front.tar.zst"
	SetName   = "set.tar.zst"
)

// Errors of drives.
var (
	// ErrFull: the tape's end was reached, the blocks are not on it.
	ErrFull = volume.ErrFull
	// ErrBlank: there is nothing more on the tape.
	ErrBlank = errors.New("the tape is blank from here")
)

// Position is where the tape stands, and what the drive reports.
type Position struct {
	File, Block    int // counted from 0; -1 when the driver does not know
	Online         bool
	WriteProtected bool
	End            bool // at the end of what was written
}

// Drive is a tape drive that does not rewind by itself.
type Drive interface {
	// Write writes blocks: with fixed blocks a multiple of their size, with
	// variable ones one block. warn: the end of the tape is near;
	// the blocks are written. ErrFull: they are not.
	Write(p []byte) (warn bool, err error)
	// Read reads one block, or with fixed blocks some. io.EOF: a file mark was
	// passed. ErrBlank: nothing was written here.
	Read(p []byte) (int, error)
	// SetBlock sets the block size; 0 is variable.
	SetBlock(n int) error
	Rewind() error
	Mark() error
	// Forward moves past n file marks.
	Forward(n int) error
	// Back goes back before n file marks.
	Back(n int) error
	// ToEnd goes behind the last file.
	ToEnd() error
	Position() (Position, error)
	// Compression switches the drive's own on or off; drives without it say
	// an error that does not matter.
	Compression(on bool) error
	// Reload looks at the drive again, after the tape was changed.
	Reload() error
	// Eject rewinds and unloads.
	Eject() error
	Close() error
	String() string
}

// Entry is a volume on a tape.
type Entry struct {
	Name   string `json:"name"`
	Number int    `json:"number"`
	Reel   int    `json:"reel"`
	File   int    `json:"file"`   // tape file, from 0
	Offset int64  `json:"offset"` // in the stream
	Size   int64  `json:"size"`   // of the stream
	// Incomplete: the stream ends early, since its source could not be read to the
	// end. It is not an archive, and readers pass over it.
	Incomplete bool `json:"incomplete,omitempty"`
}

// Label is the first file of a tape, or the one behind the image of an OBDR
// tape.
type Label struct {
	Label   string    `json:"label"` // "mkcdrec"
	Version int       `json:"version"`
	ID      string    `json:"id"` // of the set
	Host    string    `json:"host"`
	Created time.Time `json:"created"`
	Reel    int       `json:"reel"`
	Block   int       `json:"block"`
	// Entries are the volumes on the reels before, for people who have lost the last
	// reel. A label that would be longer than maxLabel has none.
	Entries []Entry `json:"entries,omitempty"`
}

// maxLabel is the longest label, in bytes.
const maxLabel = 64 << 20

const labelName, labelVersion = "mkcdrec", 1

// String names a tape for people.
func (l *Label) String() string {
	return fmt.Sprintf("reel %d of the backup of %s, made %s (%s)", l.Reel, l.Host, l.Created.UTC().Format("2006-01-02 15:04"), l.ID)
}

func (l *Label) encode() ([]byte, error) {
	b, err := json.MarshalIndent(l, "", " ")
	if err != nil {
		return nil, err
	}
	if len(b) >= maxLabel && len(l.Entries) > 0 {
		short := *l
		short.Entries = nil
		return short.encode()
	}
	if len(b) >= maxLabel {
		return nil, fmt.Errorf("the label would have %d bytes, more than %d", len(b), maxLabel)
	}
	b = append(b, '\n')
	n := (len(b) + BlockSize - 1) / BlockSize * BlockSize
	return append(b, make([]byte, n-len(b))...), nil
}

// errNoLabel means that a tape is not one of ours.
var errNoLabel = errors.New("it has no label of mkcdrec")

func parseLabel(b []byte) (*Label, error) {
	b = bytes.TrimRight(b, "\x00")
	if !bytes.HasPrefix(b, []byte("{")) {
		return nil, errNoLabel
	}
	var l Label
	if err := store.Decode("label", b, &l); err != nil || l.Label != labelName {
		return nil, errNoLabel
	}
	if l.Version != labelVersion {
		return nil, fmt.Errorf("its label has version %d; this program knows %d", l.Version, labelVersion)
	}
	if _, err := volume.ParseID(l.ID); err != nil || l.Reel < 1 || l.Block < 512 {
		return nil, errNoLabel
	}
	return &l, nil
}
