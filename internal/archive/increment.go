package archive

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/zeebo/blake3"
	"golang.org/x/sys/unix"
)

// racy is how long before the start of a run a file must have been changed last, in seconds, so
// that a change that the run did not see has another time: times have the resolution of a
// kernel's tick, or of seconds on old file systems.
const racy = 3

// maxDumpdir is the longest record of a directory's names, in bytes; maxMoves is how much of
// it in the root's may be files that were moved.
const (
	maxDumpdir = 32 << 20
	maxMoves   = 4 << 20
)

// paxDumpdir lists what is in a directory: GNU tar removes what is not listed when it extracts
// with --listed-incremental, and moves files. See "Dumpdir" in its manual.
const paxDumpdir = "GNU.dumpdir"

// since compares what is found with an earlier state.
type since struct {
	*State
	dev   uint64            // of the root: inodes of other subvolumes have the same numbers
	moved map[string]string // files that have another path: the new one to the old
}

// clean reports whether the time of a file's last change in the state is enough to know that it was not
// changed after it was read.
func (s *since) clean(r *stateRecord) bool {
	limit := s.trailer.Start
	return !s.trailer.Content && (r.csec < limit[0]-racy || r.csec == limit[0]-racy && r.cnsec < limit[1])
}

func sameCtime(r *stateRecord, st *unix.Stat_t) bool {
	return r.csec == st.Ctim.Sec && r.cnsec == st.Ctim.Nsec
}

// match finds the record of a member that may be unchanged: of the same inode, path, kind, time
// and size.
func (s *since) match(m *Member, st *unix.Stat_t) (found *stateRecord, err error) {
	was := m.Path
	if old, ok := s.moved[m.Path]; ok {
		was = old
	}
	err = s.find(st.Ino, func(r *stateRecord) bool {
		if r.path == was && r.typ == m.Type && r.sec == m.Sec && r.nsec == m.Nsec && r.size == m.Size {
			c := *r
			found = &c
		}
		return found != nil
	})
	return found, err
}

// asBefore enters a member that has not changed since the earlier state without opening it.
// Files of several names are looked at one by one.
func (c *creator) asBefore(m *Member, st *unix.Stat_t) (done bool, err error) {
	if c.since == nil || st.Nlink != 1 {
		return false, nil
	}
	r, err := c.since.match(m, st)
	if err != nil || r == nil || !sameCtime(r, st) || !c.since.clean(r) {
		return false, err
	}
	return true, c.earlier(m, st, r)
}

// sameContent compares an open file with its record, and reads it for that if its times are not enough. m
// has its attributes and runs of data by now.
func (c *creator) sameContent(m *Member, fd int, st *unix.Stat_t, segs []Segment) (*stateRecord, error) {
	if c.since == nil || st.Nlink != 1 && c.since.moved[m.Path] != "" {
		return nil, nil
	}
	r, err := c.since.match(m, st)
	if err != nil || r == nil || r.meta != m.metaSum() {
		return nil, err
	}
	if sameCtime(r, st) && c.since.clean(r) {
		return r, nil
	}
	sum, ok, err := c.contentSum(fd, segs)
	if err != nil || !ok || sum != r.content {
		return nil, err
	}
	return r, nil
}

// contentSum reads the runs of data of a file; false if not all of it can be read.
func (c *creator) contentSum(fd int, segs []Segment) (sum digest16, ok bool, err error) {
	if c.compare == nil {
		c.compare = make([]byte, 256<<10)
	}
	c.content.Reset()
	for _, s := range segs {
		c.sumSegment(s)
		for s.Length > 0 {
			if err := c.ctx.Err(); err != nil {
				return sum, false, err
			}
			n, err := c.pread(fd, c.compare[:min(s.Length, int64(len(c.compare)))], s.Offset)
			if err != nil || n <= 0 {
				return sum, false, c.ctx.Err()
			}
			c.content.Write(c.compare[:n])
			s.Offset, s.Length = s.Offset+int64(n), s.Length-int64(n)
		}
	}
	return c.contentOf(), true, nil
}

// sumSegment begins a run of data in the digest of a file's content.
func (c *creator) sumSegment(s Segment) {
	if c.content != nil {
		var b [16]byte
		binary.LittleEndian.PutUint64(b[:], uint64(s.Offset))
		binary.LittleEndian.PutUint64(b[8:], uint64(s.Length))
		c.content.Write(b[:])
	}
}

// metaSum is a digest of all that a member is but its path and content.
func (m *Member) metaSum() digest16 {
	b := []byte{byte(m.Type)}
	for _, v := range []int64{int64(m.Mode), m.UID, m.GID, m.Size, m.Sec, m.Nsec, int64(m.Major), int64(m.Minor), int64(m.Flags), int64(m.Project)} {
		b = binary.AppendVarint(b, v)
	}
	text := func(s string) { b = append(binary.AppendUvarint(b, uint64(len(s))), s...) }
	for _, x := range m.Xattrs {
		text(x.Name)
		text(x.Value)
	}
	text("") // attributes end
	for _, s := range []string{m.ACLAccess, m.ACLDefault, m.Link} {
		text(s)
	}
	sum := sha256.Sum256(b)
	return digest16(sum[:16])
}

// earlier enters a member whose bytes are in an earlier archive.
func (c *creator) earlier(m *Member, st *unix.Stat_t, r *stateRecord) error {
	m.Link = r.link
	there := r.path
	if r.there != "" {
		there = r.there
	}
	at := span{r.src + 1, r.start, r.end, there}
	if at.there == m.Path {
		at.there = ""
	}
	c.count(m)
	if c.opt.Progress != nil {
		c.opt.Progress.Item(m.Path)
		c.opt.Progress.Add(min(m.Size, st.Blocks*512))
	}
	if err := c.toc.addAt(m, at); err != nil {
		return err
	}
	c.sum.Earlier++
	c.keep(m, st, at, r.meta, r.content)
	return nil
}

// oldName enters one more name of a file that is in an earlier archive, if it had the name there.
func (c *creator) oldName(m *Member, st *unix.Stat_t) (done bool, err error) {
	err = c.since.find(st.Ino, func(r *stateRecord) bool {
		done = r.path == m.Path && r.typ != TypeDir
		return done
	})
	if err != nil || !done {
		return false, err
	}
	c.count(m)
	return true, c.toc.addAt(m, span{})
}

// keep enters a member in the new state.
func (c *creator) keep(m *Member, st *unix.Stat_t, at span, meta, content digest16) {
	if c.opt.Keep == nil {
		return
	}
	r := stateRecord{typ: m.Type, ino: st.Ino, csec: st.Ctim.Sec, cnsec: st.Ctim.Nsec, sec: m.Sec, nsec: m.Nsec, size: m.Size,
		src: at.from - 1, start: at.start, end: at.end, meta: meta, content: content, path: m.Path, there: at.there}
	if m.Type == TypeSymlink {
		r.link = m.Link
	}
	if at.from == 0 {
		r.src = len(c.opt.Keep.trailer.Sources)
	}
	c.last = r
	c.opt.Keep.add(&r)
}

// keepName enters one more name of a file in the new state; r is its first one's record.
func (c *creator) keepName(m *Member, r stateRecord) {
	if c.opt.Keep == nil || r.path == "" {
		return
	}
	if r.there == "" {
		r.there = r.path
	}
	if r.path = m.Path; r.there == m.Path {
		r.there = ""
	}
	c.opt.Keep.add(&r)
}

// begin prepares what an increment needs, and the state.
func (c *creator) begin(root *os.File) error {
	if c.opt.Keep != nil {
		c.content = blake3.New()
		at := c.opt.At
		if at.IsZero() {
			at = time.Now()
		}
		// What is written to a mapped page that is dirty does not change the file's times. After
		// this no page is.
		if err := unix.Syncfs(int(root.Fd())); err != nil {
			return fmt.Errorf("cannot write the file system to its disk: %w", err)
		}
		c.opt.Keep.trailer.Start, c.opt.Keep.trailer.Content = [2]int64{at.Unix() + c.opt.ahead, int64(at.Nanosecond())}, c.opt.ReadAll
	}
	if c.opt.Since == nil {
		return nil
	}
	if c.content == nil {
		c.content = blake3.New()
	}
	c.toc.increment, c.toc.sources = true, c.opt.Since.Sources()
	if len(c.toc.sources) > maxSources {
		return fmt.Errorf("more than %d increments since the full backup", maxSources)
	}
	if c.opt.Keep != nil {
		c.opt.Keep.trailer.Sources = slices.Clone(c.toc.sources)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(root.Fd()), &st); err != nil {
		return err
	}
	c.since = &since{State: c.opt.Since, dev: uint64(st.Dev)}
	moved, err := c.since.moves(&c.walker, root)
	c.since.moved = moved
	return err
}

// moves finds files that have another path than before, and can be moved there from where they
// were before anything else is extracted.
func (s *since) moves(as *walker, root *os.File) (map[string]string, error) {
	x := &moveFinder{since: s, as: walker{ctx: as.ctx, opt: as.opt, sum: &Summary{}}, moved: map[string]string{}}
	x.as.opt.OnExcluded = nil
	fd, err := unix.Openat(int(root.Fd()), ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err := x.dir(os.NewFile(uintptr(fd), root.Name()), "."); err != nil {
		return nil, err
	}
	moved := x.moved
	if len(moved) == 0 {
		return nil, nil
	}
	return moved, s.unobstructed(moved)
}

// moveFinder looks for moved files in directories that have changed.
type moveFinder struct {
	*since
	as    walker // decides what is left out
	moved map[string]string
	size  int // of the record that lists them
}

// dir looks at what is in d, and closes it. What can't be read is reported when it is archived.
func (x *moveFinder) dir(d *os.File, at string) error {
	defer d.Close()
	var st unix.Stat_t
	if unix.Fstat(int(d.Fd()), &st) != nil || uint64(st.Dev) != x.dev || slices.Contains(x.as.opt.Apart, at) {
		return nil
	}
	same := false
	if err := x.find(st.Ino, func(r *stateRecord) bool {
		same = r.typ == TypeDir && r.path == at && sameCtime(r, &st) && x.clean(r)
		return same
	}); err != nil {
		return err
	}
	if same && st.Nlink == 2 { // no other directory is in it; where links of directories are not counted, it is 1
		return nil
	}
	names, err := d.ReadDir(-1)
	if err != nil {
		return nil
	}
	for _, n := range names {
		p := path.Join(at, n.Name())
		if err := x.as.ctx.Err(); err != nil {
			return err
		}
		if !n.IsDir() && (same || !n.Type().IsRegular()) || x.as.leftOut(p) {
			continue
		}
		if !n.IsDir() {
			err = x.file(int(d.Fd()), n.Name(), p)
		} else if fd, e := openQuietly(int(d.Fd()), n.Name(), unix.O_DIRECTORY); e == nil {
			err = x.dir(os.NewFile(uintptr(fd), p), p)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// file notes a file whose path was another one.
func (x *moveFinder) file(dir int, name, at string) error {
	var st unix.Stat_t
	m := &Member{Path: at}
	if unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil || !fill(m, &st) || m.Type != TypeFile || st.Nlink != 1 || x.size > maxMoves {
		return nil
	}
	old := ""
	err := x.find(st.Ino, func(r *stateRecord) bool {
		if r.typ == TypeFile && r.sec == m.Sec && r.nsec == m.Nsec && r.size == m.Size {
			old = r.path
		}
		return r.path == m.Path
	})
	if old != "" && old != at {
		x.moved[at] = old
		x.size += len(at) + len(old) + 80
	}
	return err
}

// unobstructed leaves those files out whose new place was a directory, or below what was not one,
// and those of which one was moved to several places.
func (s *since) unobstructed(moved map[string]string) error {
	parents, from := map[string][]string{}, map[string]int{}
	for now, old := range moved {
		above(now, func(d string) { parents[d] = append(parents[d], now) })
		from[old]++
	}
	for now, old := range moved {
		if from[old] > 1 {
			delete(moved, now)
		}
	}
	return s.all(func(_ int, r *stateRecord) error {
		if r.typ == TypeDir {
			delete(moved, r.path)
			return nil
		}
		for _, now := range parents[r.path] {
			delete(moved, now)
		}
		return nil
	})
}

// listNames sets the record of what is in the open directory fd, as GNU tar wants it: sorted, what
// was moved last. The walk takes the same list.
func (c *creator) listNames(m *Member, fd int) {
	if c.since == nil || slices.Contains(c.opt.Apart, m.Path) {
		return // what is in it is in another archive
	}
	var b []byte
	at, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return // listed as a problem when it is read
	}
	d := os.NewFile(uintptr(at), m.Path)
	defer d.Close()
	names, err := d.ReadDir(-1)
	if err != nil {
		return
	}
	slices.SortFunc(names, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	quiet := walker{opt: c.opt, sum: &Summary{}}
	quiet.opt.OnExcluded = nil
	c.listed = make([]string, 0, len(names))
	for _, n := range names {
		c.listed = append(c.listed, n.Name())
		kind := byte('Y')
		switch {
		case n.IsDir():
			kind = 'D'
		case n.Type()&fs.ModeSocket != 0:
			continue
		}
		if quiet.leftOut(path.Join(m.Path, n.Name())) {
			continue
		}
		b = append(append(append(b, kind), n.Name()...), 0)
	}
	if m.Path == "." {
		b = c.since.listMoves(b)
	}
	// Of a larger one GNU tar removes nothing.
	if b = append(b, 0); len(b) <= maxDumpdir {
		m.dumpdir = string(b)
	}
}

// listMoves adds the files that were moved: all of them to names of their own first, so that
// none takes the place of another.
func (s *since) listMoves(b []byte) []byte {
	now := make([]string, 0, len(s.moved))
	for n := range s.moved {
		now = append(now, n)
	}
	slices.Sort(now)
	pair := func(from, to string) {
		b = fmt.Appendf(b, "R%s\x00T%s\x00", from, to)
	}
	for i, n := range now {
		pair(s.moved[n], fmt.Sprintf(".mkcdrec-moved-%d", i))
	}
	for i, n := range now {
		pair(fmt.Sprintf(".mkcdrec-moved-%d", i), n)
	}
	return b
}

// contentOf is the digest of the content that was written last.
func (c *creator) contentOf() (sum digest16) {
	if c.content != nil {
		copy(sum[:], c.content.Sum(nil))
	}
	return sum
}

// sumBytes adds what was read to the digest of the content.
func (c *creator) sumBytes(b []byte) {
	if c.content != nil {
		c.content.Write(b)
	}
}
