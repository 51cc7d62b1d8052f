package manifest

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/printable"
	"github.com/mkcdrec/mkcdrec/internal/store"
)

// ownLists reports whether the lists of checksums are of the files that the manifest has. Discs
// and tapes have lists of their own files.
func (s *Set) ownLists() bool { return s.Direct() && s.here(SHA256, true) }

// findLists has Missing name the lists of checksums that are not there: the manifest names neither.
func (s *Set) findLists() {
	for _, name := range []string{SHA256, SFV} {
		if !s.ownLists() {
			return
		}
		if _, err := s.Size(name); errors.Is(err, os.ErrNotExist) { // Verify reports other errors
			s.Missing = append(s.Missing, name)
		}
	}
}

// checkLists compares the lists of checksums, which people check a set with, with the manifest.
// crcs has the CRC-32 of each file that was read and is what the manifest has.
func (s *Set) checkLists(crcs map[string]uint32) error {
	if !s.ownLists() {
		return nil
	}
	names, sums := map[string]bool{}, map[string]bool{}
	for _, f := range s.Manifest.Files {
		names[f.Name], sums[f.SHA256+"  "+f.Name] = true, true
	}
	return errors.Join(s.checkList(SHA256, sums, func(line string) (string, bool) { return line, sums[line] }),
		s.checkList(SFV, names, func(line string) (string, bool) {
			i := max(0, strings.LastIndexByte(line, ' '))
			crc, err := strconv.ParseUint(line[min(i+1, len(line)):], 16, 32)
			is, known := crcs[line[:i]]
			return line[:i], err == nil && (!known || is == uint32(crc))
		}))
}

// checkList checks that a list has one line for each of want. entry returns which of them a line
// is, and whether the line is right.
func (s *Set) checkList(name string, want map[string]bool, entry func(line string) (of string, right bool)) error {
	b, err := store.ReadFile(s.place, name, MaxText)
	if errors.Is(err, os.ErrNotExist) {
		return nil // Missing has it
	}
	if err != nil {
		return err
	}
	seen := map[string]bool{}
	for l := range strings.Lines(string(b)) {
		l = strings.TrimSuffix(l, "\n")
		of, right := entry(l)
		if !right || !want[of] || seen[of] {
			return fmt.Errorf("%s contradicts the manifest: it has the line %s", name, printable.Short(l, 200))
		}
		seen[of] = true
	}
	if n := len(want) - len(seen); n > 0 {
		return fmt.Errorf("%s lacks %d of the manifest's %d files", name, n, len(s.Manifest.Files))
	}
	return nil
}
