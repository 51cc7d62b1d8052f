package archive

import (
	"encoding/hex"
	"fmt"
	"path/filepath"
	"strings"
)

// Source is an archive of an earlier set that has content of members of an increment.
type Source struct {
	Set  string   `json:"set"`  // id
	Dir  string   `json:"dir"`  // name of the set's directory, beside that of the increment
	File string   `json:"file"` // name of the archive in the set
	TOC  [32]byte `json:"-"`    // digest of the archive's table of contents
	// Sum is TOC in hex, in JSON.
	Sum string `json:"toc"`
}

// maxSources is how many earlier archives an increment refers to at most.
const maxSources = 4096

// check reports whether the source is a file in a directory beside the increment's.
func (s Source) check() error {
	for _, n := range []string{s.Dir, s.File} {
		if n == "" || n == "." || n == ".." || len(n) > 255 || strings.ContainsAny(n, "/\x00") || !filepath.IsLocal(n) {
			return fmt.Errorf("%q of an earlier archive is not a name", n)
		}
	}
	if s.Set == "" || len(s.Set) > 64 || strings.ContainsAny(s.Set, " \t\n") {
		return fmt.Errorf("%q of an earlier archive is not the id of a set", s.Set)
	}
	return nil
}

func (s Source) line() string {
	return fmt.Sprintf("s %s %x %s\t%s\n", s.Set, s.TOC, Quote(s.File), Quote(s.Dir))
}

// parseSource reads "s SET DIGEST FILE\tDIRECTORY".
func parseSource(line string) (s Source, err error) {
	f := strings.SplitN(line, " ", 4)
	if len(f) != 4 {
		return s, errHeader
	}
	sum, err := hex.DecodeString(f[2])
	file, dir, ok := strings.Cut(f[3], "\t")
	if err != nil || len(sum) != 32 || !ok {
		return s, errHeader
	}
	s = Source{Set: f[1], TOC: [32]byte(sum)}
	if s.File, err = Unquote(file); err != nil {
		return s, err
	}
	if s.Dir, err = Unquote(dir); err != nil {
		return s, err
	}
	return s, s.check()
}

// OtherSourceError is returned for an earlier archive that is not the one that an increment
// was made with.
type OtherSourceError struct {
	Archive string
	Source  Source
}

func (e *OtherSourceError) Error() string {
	return fmt.Sprintf("cannot use %s: it is not the archive that the increment was made with (of set %s in %s)", e.Archive, e.Source.Set, e.Source.Dir)
}

// Sources are the earlier archives that the archive has its members' content from; nil for an
// archive that has all of it.
func (a *Reader) Sources() []Source { return a.sources }

// OpenEarlier sets what opens earlier archives, each when it is needed for the first time. They
// are closed with the archive.
func (a *Reader) OpenEarlier(open func(Source) (*Reader, error)) { a.earlier = open }

// from returns the archive with the bytes of members of a source, 0 for this archive.
func (a *Reader) from(n int) (*Reader, error) {
	if n == 0 {
		return a, nil
	}
	if r := a.opened[n]; r != nil {
		return r, nil
	}
	s := a.sources[n-1]
	if a.earlier == nil {
		return nil, fmt.Errorf("cannot read %s: it needs the archive %s of the earlier set %s in %s", a.name, s.File, s.Set, s.Dir)
	}
	r, err := a.earlier(s)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: it needs the archive %s of the earlier set %s: %w", a.name, s.File, s.Dir, err)
	}
	if r.digest() != s.TOC {
		r.Close()
		return nil, &OtherSourceError{r.name, s}
	}
	if a.opened == nil {
		a.opened = map[int]*Reader{}
	}
	a.opened[n] = r
	return r, nil
}

// digest identifies the content of an archive: that of its table of contents, which has those
// of all frames.
func (a *Reader) digest() [32]byte { return [32]byte(a.toc[len(tocTag):]) }
