package media

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
)

// go-diskfs reserves a block behind a directory for each long name in it, and then
// has all of them point to the first one, so that each file gets the same rest of a
// name. It is given a placeholder for every long or odd name, so that it reserves a
// block; the names are then written there, and the records made to point to them.
// Behind the directory is where readers that can't seek want them.
const (
	// plainName is the longest name, in bytes, that fits into a directory record
	// (254 bytes) beside the other entries: 33 + 15 of ISO 9660, PX 44, TF 26, NM 5.
	plainName = 100
	// maxName is the longest name of Rock Ridge's readers: NAME_MAX of Linux.
	maxName = 255
	// maxTree is how deep directories may be; stamp reads as many.
	maxTree = maxDepth - 2
	// ceLen is the length of a CE entry (SUSP 1.12, 5.1).
	ceLen = 28
	// holder is the length of placeholders: none fits into a directory record.
	holder = 200
	// nmMax is how much of a name one NM entry holds (RRIP 1.12, 4.1.4).
	nmMax = 250
)

// names are the placeholders in the tree that go-diskfs is given.
type names struct {
	to   map[string]string // name to placeholder
	from map[string]string
	// paths are those that end with a placeholder.
	paths map[string]bool
}

// place gives the path in the tree for a path in the image.
func (n *names) place(p string) string {
	parts := strings.Split(strings.TrimPrefix(path.Clean("/"+p), "/"), "/")
	for i, c := range parts {
		if len(c) <= plainName && strings.IndexFunc(c, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(`;\*?"`, r) }) < 0 && !strings.HasPrefix(c, "_") {
			continue
		}
		if n.to == nil {
			n.to, n.from, n.paths = map[string]string{}, map[string]string{}, map[string]bool{}
		}
		if n.to[c] == "" {
			// The first eight characters are its name for ISO 9660.
			h := fmt.Sprintf("_%07d", len(n.to))
			h += strings.Repeat("x", holder-len(h))
			n.to[c], n.from[h] = h, c
		}
		parts[i] = n.to[c]
		n.paths[strings.Join(parts[:i+1], "/")] = true
	}
	return strings.Join(parts, "/")
}

// rename puts the names into the directories of an image.
func (n *names) rename(f readWriterAt) error {
	pvd := make([]byte, sector)
	if _, err := f.ReadAt(pvd, 16*sector); err != nil {
		return err
	}
	le := binary.LittleEndian
	r := &renamer{f: f, names: n.from}
	if err := r.directory(extent{le.Uint32(pvd[156+2:]), le.Uint32(pvd[156+10:])}, 0); err != nil {
		return err
	}
	if r.done != len(n.paths) {
		return fmt.Errorf("%d long names are in the image after writing; there are %d", r.done, len(n.paths))
	}
	return nil
}

type renamer struct {
	f     readWriterAt
	names map[string]string
	done  int
}

// directory moves what is continued behind a directory to where only one record
// points to it.
func (r *renamer) directory(e extent, depth int) error {
	if depth > maxDepth || e.size > maxDirectory {
		return errors.New("a directory is damaged")
	}
	b := make([]byte, e.size)
	if _, err := r.f.ReadAt(b, int64(e.block)*sector); err != nil {
		return err
	}
	le := binary.LittleEndian
	var ces [][]byte // CE entries, in the order of their records
	var below []extent
	if err := records(b, func(rec []byte, su int) error {
		if ce := continuation(rec[su:]); ce != nil {
			ces = append(ces, ce)
		}
		if rec[25]&2 != 0 && !(rec[32] == 1 && rec[33] <= 1) { // neither itself nor its parent
			below = append(below, extent{le.Uint32(rec[2:]), le.Uint32(rec[10:])})
		}
		return nil
	}); err != nil {
		return err
	}
	if len(ces) > 0 {
		if err := r.spread(ces, (int64(e.block)+(int64(e.size)+sector-1)/sector)*sector); err != nil {
			return err
		}
		if _, err := r.f.WriteAt(b, int64(e.block)*sector); err != nil {
			return err
		}
	}
	for _, d := range below {
		if err := r.directory(d, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// continuation finds the CE entry of a record.
func continuation(su []byte) []byte {
	for len(su) >= 4 && int(su[2]) >= 4 && int(su[2]) <= len(su) {
		if string(su[:2]) == "CE" && su[2] == ceLen {
			return su[:ceLen]
		}
		su = su[su[2]:]
	}
	return nil
}

// spread divides the blocks from byte start on, one for each CE entry. go-diskfs has
// written there, one after the other, what the entries continue with. A continuation
// area does not cross a sector.
func (r *renamer) spread(ces [][]byte, start int64) error {
	le := binary.LittleEndian
	old := make([]byte, int64(len(ces))*sector)
	if _, err := r.f.ReadAt(old, start); err != nil {
		return err
	}
	out, at, from := make([]byte, len(old)), 0, 0
	for _, ce := range ces {
		n := int(le.Uint32(ce[20:]))
		if n > sector || from+n > len(old) {
			return errors.New("a directory's continuation is damaged")
		}
		area := r.area(old[from : from+n])
		from += n
		if at%sector+len(area) > sector {
			at = (at/sector + 1) * sector
		}
		copy(out[at:], area)
		for i, v := range []uint32{uint32(start/sector + int64(at/sector)), uint32(at % sector), uint32(len(area))} {
			le.PutUint32(ce[4+8*i:], v)
			binary.BigEndian.PutUint32(ce[8+8*i:], v)
		}
		at += len(area)
	}
	_, err := r.f.WriteAt(out, start)
	return err
}

// area gives the NM entries for a placeholder's; anything else stays.
func (r *renamer) area(old []byte) []byte {
	if len(old) != 5+holder || string(old[:2]) != "NM" {
		return old
	}
	rest, ok := r.names[string(old[5:])]
	if !ok {
		return old
	}
	r.done++
	var out []byte
	for rest != "" {
		part := rest[:min(len(rest), nmMax)]
		rest = rest[len(part):]
		flags := byte(0)
		if rest != "" {
			flags = 1 // CONTINUE
		}
		out = append(append(out, 'N', 'M', byte(5+len(part)), 1, flags), part...)
	}
	return out
}

// check refuses what an image can't hold, before anything is written.
func (s ISO) check() error {
	var errs []error
	if len(s.Label) > 32 || strings.Trim(s.Label, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") != "" {
		errs = append(errs, fmt.Errorf("the label %q is not one of ISO 9660: at most 32 of A-Z, 0-9 and _", s.Label))
	}
	seen := map[string]bool{}
	total := int64(0)
	add := func(p string, size int64) {
		c := strings.TrimPrefix(path.Clean("/"+p), "/")
		if c != strings.TrimPrefix(p, "/") || !fs.ValidPath(strings.ToValidUTF8(c, "?")) || c == "." || strings.Contains(c, "\x00") {
			errs = append(errs, fmt.Errorf("%q is not a path in an image", p))
		}
		if seen[c] {
			errs = append(errs, fmt.Errorf("%q would be in the image twice", p))
		}
		seen[c] = true
		parts := strings.Split(c, "/")
		for _, n := range parts {
			if len(n) > maxName {
				errs = append(errs, fmt.Errorf("the name %q has %d bytes; Rock Ridge has at most %d", n, len(n), maxName))
			}
		}
		if len(parts) > maxTree {
			errs = append(errs, fmt.Errorf("%q has %d directories; at most %d are read back", p, len(parts)-1, maxTree-1))
		}
		if size < 0 || size > maxFile {
			errs = append(errs, fmt.Errorf("%s has %d bytes; a file on an ISO 9660 image has at most %d", p, size, int64(maxFile)))
		}
		total += (size + sector - 1) / sector * sector
	}
	for p, src := range s.Files {
		st, err := os.Stat(src)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if !st.Mode().IsRegular() {
			errs = append(errs, fmt.Errorf("%s is not a regular file", src))
		}
		add(p, st.Size())
	}
	for p, b := range s.Content {
		add(p, int64(len(b)))
	}
	for _, r := range s.Streams {
		add(r.Path, r.Size)
	}
	if s.Max > 0 && total > s.Max {
		errs = append(errs, s.tooLarge(total))
	}
	return errors.Join(errs...)
}
