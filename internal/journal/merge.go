package journal

import (
	"cmp"
	"errors"
	"iter"
	"path/filepath"
)

// Journal is the files of a directory, as one.
type Journal struct{ files []*File }

// OpenDir opens the files in a directory and in those below it that are named after
// machines. Those that can't be read are in the error; the others are used.
func OpenDir(dir string) (*Journal, error) {
	var names []string
	for _, pattern := range []string{"/*.journal", "/*.journal~", "/*/*.journal", "/*/*.journal~"} {
		m, err := filepath.Glob(dir + pattern)
		if err != nil {
			return nil, err
		}
		names = append(names, m...)
	}
	return OpenFiles(names)
}

// OpenFiles is OpenDir for files.
func OpenFiles(names []string) (*Journal, error) {
	j := &Journal{}
	var errs []error
	for _, n := range names {
		f, err := Open(n)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		j.files = append(j.files, f)
	}
	return j, errors.Join(errs...)
}

// Close closes the files.
func (j *Journal) Close() {
	for _, f := range j.files {
		f.Close()
	}
}

// cursor is a place in a file.
type cursor struct {
	f    *File
	i    int
	here Entry
}

// Entries gives all entries in their order, or backwards. An entry that is damaged is left out.
func (j *Journal) Entries(backwards bool) iter.Seq2[*File, Entry] {
	step, sign := 1, 1
	if backwards {
		step, sign = -1, -1
	}
	return func(yield func(*File, Entry) bool) {
		var open []*cursor
		for _, f := range j.files {
			c := &cursor{f: f, i: -1}
			if backwards {
				c.i = f.Len()
			}
			if c.next(step) {
				open = append(open, c)
			}
		}
		last := cursor{}
		for len(open) > 0 {
			at := 0
			for i, c := range open {
				if compare(c, open[at])*sign < 0 {
					at = i
				}
			}
			c := open[at]
			f, e := c.f, c.here
			if !c.next(step) {
				open = append(open[:at], open[at+1:]...)
			}
			// Two files may have the same entry.
			if last.f != nil && last.f != f && last.f.SeqnumID == f.SeqnumID && last.here.Seqnum == e.Seqnum {
				continue
			}
			last = cursor{f: f, here: e}
			if !yield(f, e) {
				return
			}
		}
	}
}

func (c *cursor) next(step int) bool {
	for c.i += step; c.i >= 0 && c.i < c.f.Len(); c.i += step {
		var err error
		if c.here, err = c.f.Entry(c.i); err == nil {
			return true
		}
	}
	return false
}

// compare orders two entries as journalctl does.
func compare(a, b *cursor) int {
	x, y := a.here, b.here
	if a.f.SeqnumID == b.f.SeqnumID {
		return cmp.Compare(x.Seqnum, y.Seqnum)
	}
	if x.Boot == y.Boot && x.Monotonic != y.Monotonic {
		return cmp.Compare(x.Monotonic, y.Monotonic)
	}
	return cmp.Or(cmp.Compare(x.Realtime, y.Realtime), cmp.Compare(x.Hash, y.Hash))
}
