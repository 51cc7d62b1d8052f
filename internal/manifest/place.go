package manifest

import (
	"context"
	"os"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/store/tape"
)

// TapePrefix begins the names of sets on tape: tape:/dev/nst0[,/dev/nst1].
const TapePrefix = "tape:"

// OpenPlace opens a set wherever it is: OpenNewest's directories and URLs, and
// tapes, and all volumes of a mkCDrec 1.x backup, DIR[,DIR...]. Where there are several
// sets, want says which is meant. say is told which tape is wanted, if another one is in
// the drive; its arrival is waited for until ctx ends.
func OpenPlace(ctx context.Context, place string, want Wanted, say func(format string, args ...any)) (*Set, error) {
	names, ok := strings.CutPrefix(place, TapePrefix)
	if dirs := legacyDirs(place); !ok && dirs != nil {
		return OpenLegacy(dirs...)
	}
	if !ok {
		return OpenNewest(ctx, place, want, say)
	}
	var drives []tape.Drive
	for _, n := range strings.Split(names, ",") {
		d, err := tape.OpenDrive(n, false)
		if err != nil {
			return nil, err
		}
		drives = append(drives, d)
	}
	dir, err := os.MkdirTemp("", "tape-*")
	if err != nil {
		return nil, err
	}
	say("reading what lies where on the tape")
	st, err := tape.Open(ctx, drives, dir, tape.Waiter{Say: say, Drives: drives}.Ask)
	if err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	return OpenTape(st)
}

// Close gives back what OpenPlace made for a set on tape.
func (s *Set) Close() error {
	if s.Tape == nil {
		return nil
	}
	return os.RemoveAll(s.Tape.Dir)
}
