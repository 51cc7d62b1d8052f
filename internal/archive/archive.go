// Package archive writes and reads the archive of one file system:
// a POSIX pax tar stream in independent zstd frames, followed by a table of
// contents and the official zstd seek table, both in skippable frames.
//
//	zstd -dc ARCHIVE | tar -xp --numeric-owner --xattrs --xattrs-include='*' --acls
//
// restores it on any machine (without the flags of chattr(1), which bsdtar
// restores too); this package decodes the frames in parallel,
// reads single members and loses one frame where a byte is damaged.
// docs/FORMAT.md specifies every byte. The package knows nothing of disks.
package archive

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/mkcdrec/mkcdrec/internal/frames"
)

// FrameSize is the most tar data that one zstd frame holds, in bytes. 4 MiB
// is the knee: smaller frames cost ratio and speed, larger ones lose more to
// a damaged byte.
const FrameSize = frames.Size

// Frames are also cut before a member of at least bigMember bytes once the
// frame holds minFrame bytes, so that a damaged byte costs few members.
const (
	bigMember = 256 << 10
	minFrame  = 1 << 20
)

// Type is the kind of a member, as tar's type flag.
type Type byte

// Member types.
const (
	TypeFile     Type = '0'
	TypeHardlink Type = '1'
	TypeSymlink  Type = '2'
	TypeChar     Type = '3'
	TypeBlock    Type = '4'
	TypeDir      Type = '5'
	TypeFifo     Type = '6'
)

// Xattr is one extended attribute; ACLs are kept apart, as text.
type Xattr struct {
	Name  string
	Value string
}

// Segment is a run of data in a sparse file, in bytes.
type Segment struct{ Offset, Length int64 }

// Member is one entry of the archive.
type Member struct {
	// Path is relative to the file system's root, "." for the root itself;
	// any bytes but NUL.
	Path     string
	Type     Type
	Mode     uint32 // permission bits with setuid, setgid, sticky (07777)
	UID, GID int64
	// Size is the size of a file as its readers see it (holes included).
	Size         int64
	Sec          int64 // mtime, seconds since 1970
	Nsec         int64 // mtime, nanoseconds
	Link         string
	Major, Minor uint32
	Xattrs       []Xattr // sorted by name
	ACLAccess    string  // POSIX draft text, numeric ids, "" when none
	ACLDefault   string
	Flags        Flags     // of files and directories
	Project      uint32    // that quotas go by, of files and directories; 0 for none
	Sparse       []Segment // nil for a file without holes
	IsSparse     bool

	dumpdir string // paxDumpdir, of directories in an increment
}

// Problem is something that keeps a member from being what it was.
type Problem struct {
	Path   string `json:"path"`
	Kind   Kind   `json:"kind"`
	Detail string `json:"detail"`
}

// Kind defines what sort of problem it is.
type Kind string

// Kinds of problems. Socket, Vanished, Changed, Shrunk and Grown are facts of a
// running system; Metadata, Failed and Lost are of an extraction; the others mean that something is not covered.
const (
	Socket     Kind = "socket"     // sockets are not saved: their programs recreate them
	Vanished   Kind = "vanished"   // was in the directory, was missing when opened
	Changed    Kind = "changed"    // written to while it was read
	Shrunk     Kind = "shrunk"     // became shorter; filled up with zero bytes
	Grown      Kind = "grown"      // became longer; saved at its first size
	Unreadable Kind = "unreadable" // cannot be read
	Foreign    Kind = "foreign"    // another file system without a mount (a subvolume)
	Hidden     Kind = "hidden"     // a mount point that can't be looked beneath
	Replaced   Kind = "replaced"   // became another kind of file whenever it was opened
	Metadata   Kind = "metadata"   // an attribute could not be set at extraction
	Failed     Kind = "failed"     // could not be made at extraction
	Lost       Kind = "lost"       // is in a part of the archive that is damaged or missing
)

func (p Problem) String() string {
	return fmt.Sprintf("%s: %s: %s", Quote(p.Path), p.Kind, p.Detail)
}

// NotCovered reports whether the problem means that content is missing from the
// archive.
func (p Problem) NotCovered() bool {
	return slices.Contains([]Kind{Unreadable, Foreign, Hidden, Replaced}, p.Kind)
}

// Quote makes a path of any bytes printable on one line: backslash, control
// characters and bytes that are not UTF-8 become \xHH. Unquote reads it back.
func Quote(s string) string {
	plain := true
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < 0x20 || c == 0x7f || c >= 0x80 || c == '\\' {
			plain = false
			break
		}
	}
	if plain {
		return s
	}
	const digits = "0123456789abcdef"
	var b strings.Builder
	b.Grow(len(s) + len(s)/2)
	for i, r := range s {
		switch {
		case r == '\\':
			b.WriteString(`\x5c`)
		case unprintable(r):
			n := utf8.RuneLen(r)
			if r == 0xfffd && !strings.HasPrefix(s[i:], "\uFFFD") {
				n = 1
			}
			for ; n > 0; i, n = i+1, n-1 {
				b.WriteString(`\x`)
				b.WriteByte(digits[s[i]>>4])
				b.WriteByte(digits[s[i]&15])
			}
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// unprintable reports control characters, line separators, what is not seen and what turns the direction of text, and
// what is not UTF-8.
func unprintable(r rune) bool {
	return r < 0x20 || r == 0x7f || r >= 0x80 && r < 0xa0 || r == 0x2028 || r == 0x2029 || r == 0xfffd || unicode.Is(unicode.Cf, r)
}

// Unquote is the inverse of Quote.
func Unquote(s string) (string, error) {
	if !strings.Contains(s, `\`) {
		return s, nil
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' {
			b = append(b, s[i])
			continue
		}
		var c [1]byte
		if i+3 >= len(s) || s[i+1] != 'x' {
			return "", fmt.Errorf("cannot read quoted path %.200q: bad escape at byte %d", s, i)
		}
		if _, err := hex.Decode(c[:], []byte(s[i+2:i+4])); err != nil {
			return "", fmt.Errorf("cannot read quoted path %.200q: bad escape at byte %d", s, i)
		}
		b = append(b, c[0])
		i += 3
	}
	return string(b), nil
}
