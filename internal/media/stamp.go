package media

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// extent is where a file's data lie: block of 2,048 bytes, and its length in
// bytes.
type extent struct{ block, size uint32 }

type readWriterAt interface {
	io.ReaderAt
	io.WriterAt
}

// stamp sets every date in the image to t: of the volume (ECMA-119 8.4.26),
// of each directory record (9.1.5), and of each Rock Ridge TF entry (IEEE
// P1282 4.1.6). go-diskfs takes them from the clock and from ctime, which
// nobody can set. Every file is root's. Files that place has, by Rock Ridge path, get that
// place, and are removed from it.
func stamp(f readWriterAt, t time.Time, place map[string]extent) error {
	pvd := make([]byte, sector)
	if _, err := f.ReadAt(pvd, 16*sector); err != nil {
		return err
	}
	long := []byte(t.UTC().Format("20060102150405") + "00\x00")
	copy(pvd[813:], long) // creation
	copy(pvd[830:], long) // modification
	never := append([]byte(strings.Repeat("0", 16)), 0)
	copy(pvd[847:], never) // expiration
	copy(pvd[864:], never) // effective
	copy(pvd[883:883+appLen], strings.Repeat(" ", appLen))
	s := &stamper{f: f, t: t, place: place}
	s.short(pvd[156+18:])
	if _, err := f.WriteAt(pvd, 16*sector); err != nil {
		return err
	}
	le := binary.LittleEndian
	return s.directory(extent{le.Uint32(pvd[156+2:]), le.Uint32(pvd[156+10:])}, "", 0)
}

type stamper struct {
	f     readWriterAt
	t     time.Time
	place map[string]extent
	seen  func(path string, e extent) // is called for each file, if it is not nil
}

// short writes a date of 7 bytes.
func (s *stamper) short(b []byte) {
	t := s.t.UTC()
	copy(b, []byte{byte(t.Year() - 1900), byte(t.Month()), byte(t.Day()), byte(t.Hour()), byte(t.Minute()), byte(t.Second()), 0})
}

const (
	maxDepth     = 32
	maxDirectory = 64 << 20 // bytes
)

// records calls do for each record of a directory (ECMA-119 9.1), with where its
// system use area begins.
func records(b []byte, do func(rec []byte, su int) error) error {
	for off := 0; off < len(b); {
		n := int(b[off])
		if n == 0 { // records do not cross sectors
			off = (off/sector + 1) * sector
			continue
		}
		if n < 34 || off+n > len(b) {
			return fmt.Errorf("byte %d: a record of %d bytes", off, n)
		}
		r := b[off : off+n]
		off += n
		id := int(r[32])
		su := 33 + id
		if id%2 == 0 {
			su++
		}
		if su > n {
			return fmt.Errorf("a name of %d bytes in a record of %d", id, n)
		}
		if err := do(r, su); err != nil {
			return err
		}
	}
	return nil
}

func (s *stamper) directory(e extent, path string, depth int) error {
	if depth > maxDepth || e.size > maxDirectory {
		return fmt.Errorf("directory %s/ is damaged", path)
	}
	b := make([]byte, e.size)
	if _, err := s.f.ReadAt(b, int64(e.block)*sector); err != nil {
		return fmt.Errorf("cannot read directory %s/: %w", path, err)
	}
	if err := records(b, func(r []byte, su int) error { return s.record(r, su, path, depth) }); err != nil {
		return fmt.Errorf("directory %s/: %w", path, err)
	}
	_, err := s.f.WriteAt(b, int64(e.block)*sector)
	return err
}

func (s *stamper) record(r []byte, su int, path string, depth int) error {
	s.short(r[18:])
	id := int(r[32])
	name := strings.TrimSuffix(string(r[33:33+id]), ";1")
	rr, err := s.systemUse(r[su:], 0)
	if err != nil {
		return err
	}
	if rr != "" {
		name = rr
	}
	if id == 1 && r[33] <= 1 { // itself, and its parent
		return nil
	}
	le := binary.LittleEndian
	if r[25]&2 != 0 {
		return s.directory(extent{le.Uint32(r[2:]), le.Uint32(r[10:])}, path+"/"+name, depth+1)
	}
	if s.seen != nil {
		s.seen(path+"/"+name, extent{le.Uint32(r[2:]), le.Uint32(r[10:])})
	}
	if e, ok := s.place[path+"/"+name]; ok {
		le.PutUint32(r[2:], e.block)
		binary.BigEndian.PutUint32(r[6:], e.block)
		le.PutUint32(r[10:], e.size)
		binary.BigEndian.PutUint32(r[14:], e.size)
		delete(s.place, path+"/"+name)
	}
	return nil
}

// systemUse stamps TF entries, also in continuation areas, and gives the name
// of NM entries.
func (s *stamper) systemUse(b []byte, depth int) (name string, err error) {
	for len(b) >= 4 {
		n := int(b[2])
		if n < 4 || n > len(b) {
			return name, nil // padding
		}
		e := b[:n]
		b = b[n:]
		switch string(e[:2]) {
		case "PX": // mode, links, user, group, 8 bytes each: RRIP 4.1.1
			if n >= 36 {
				clear(e[20:36])
			}
		case "TF":
			if n < 5 {
				return "", errors.New("a TF entry that is too short")
			}
			step := 7
			if e[4]&0x80 != 0 {
				step = 17
			}
			for i := 5; i+step <= n; i += step {
				if step == 7 {
					s.short(e[i:])
				} else {
					copy(e[i:], s.t.UTC().Format("20060102150405")+"00\x00")
				}
			}
		case "NM":
			if n > 5 {
				name += string(e[5:])
			}
		case "CE":
			if n < 28 || depth > 8 {
				return "", errors.New("a bad CE entry")
			}
			more, err := s.continued(e, depth)
			if err != nil {
				return "", err
			}
			name += more
		}
	}
	return name, nil
}

// continued is systemUse for the area that a CE entry names.
func (s *stamper) continued(e []byte, depth int) (name string, err error) {
	le := binary.LittleEndian
	at := int64(le.Uint32(e[4:]))*sector + int64(le.Uint32(e[12:]))
	size := le.Uint32(e[20:])
	if size > sector {
		return "", errors.New("a bad CE entry")
	}
	c := make([]byte, size)
	if _, err := s.f.ReadAt(c, at); err != nil {
		return "", err
	}
	if name, err = s.systemUse(c, depth+1); err != nil {
		return "", err
	}
	_, err = s.f.WriteAt(c, at)
	return name, err
}

// Epoch is the time that a build takes for now: SOURCE_DATE_EPOCH, in seconds
// (reproducible-builds.org), or the clock.
func Epoch() (t time.Time, fixed bool, err error) {
	v := os.Getenv("SOURCE_DATE_EPOCH")
	if v == "" {
		return time.Now().UTC().Truncate(time.Second), false, nil
	}
	var n int64
	if _, err := fmt.Sscanf(v+" ", "%d ", &n); err != nil || n < 0 {
		return t, false, fmt.Errorf("cannot use SOURCE_DATE_EPOCH=%q: want seconds since 1970", v)
	}
	return time.Unix(n, 0).UTC(), true, nil
}
