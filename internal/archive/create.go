package archive

import (
	"context"
	"fmt"
	"hash"
	"io"
	"os"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/ioctl"
	"github.com/mkcdrec/mkcdrec/internal/progress"
)

// CreateOptions defines how an archive is made. The zero value is useful.
type CreateOptions struct {
	Level   Level // zero: Fastest
	Workers int   // compressors; zero: one per core
	// Exclude leaves paths out. It sees Prefix joined with the member's path.
	Exclude *Matcher
	// Prefix is where the file system is mounted, "/" when "".
	Prefix string
	// Inner are directories, as "a/b", that are file systems of their own to
	// the kernel and belong to this one nevertheless: subvolumes. LeftOut are
	// those that a rule leaves out, by path.
	Inner []string
	// Apart are such directories that have archives of their own: the directory is
	// saved, and nothing of what is in it.
	Apart   []string
	LeftOut map[string]string
	// Only are the absolute paths that are archived with all that is below them, and the
	// directories above them alone; nil for everything.
	Only     []string
	Progress progress.Counter // nil: none
	// OnMember, if set, is called for every member just before it is
	// written, OnExcluded for everything a rule left out.
	OnMember   func(*Member)
	OnExcluded func(path, rule string)
	// Index, if not nil, gets the archive's last bytes too: table of contents
	// and seek table.
	Index io.Writer

	// Since is the state of an earlier archive of the same file system: what has not changed
	// since then is only listed, with the place of its bytes. nil for a full archive.
	Since *State
	// Keep gets the state that the next increment needs; nil for none. That it could not be
	// written does not fail the archive: see StateWriter.Err.
	Keep *StateWriter
	// ReadAll is set if the file system has no times of changes that can be relied on: Keep's
	// increment will compare the content of every file.
	ReadAll bool

	// At is since when Keep's increment has to look for changes, if that is not the time of
	// Create: of a snapshot, when it was made.
	At time.Time

	// For tests: what takes the place of pread(2), and how long a file is waited
	// for that can't be read for the moment.
	pread    func(fd int, b []byte, off int64) (int, error)
	patience time.Duration
	open     opener
	alone    bool          // opens one file after the other
	slow     time.Duration // instead of slowOpen, if not 0
	ahead    int64         // seconds by which the start of the run is later in Keep
}

// Summary is what an archive holds, or what an extraction did.
type Summary struct {
	Members  int64    // all kinds
	Files    int64    // regular files
	Earlier  int64    // members whose content is in an earlier archive
	Data     int64    // bytes of file content, without holes
	Tar      int64    // bytes of tar stream
	Packed   int64    // bytes of archive
	SHA256   [32]byte // of the archive
	Problems []Problem
	Excluded int64  // paths that rules left out, each directory once
	Locks    []Lock // what an extraction with KeepUnlocked left to SetLocksBelow
}

// NotCovered gives the problems that mean missing content.
func (s *Summary) NotCovered() []Problem {
	var out []Problem
	for _, p := range s.Problems {
		if p.NotCovered() {
			out = append(out, p)
		}
	}
	return out
}

// Incomplete gives the problems that mean that an extraction did not give back all
// that it was asked for: members and attributes.
func (s *Summary) Incomplete() []Problem {
	var out []Problem
	for _, p := range s.Problems {
		if p.Kind == Lost || p.Kind == Failed || p.Kind == Metadata {
			out = append(out, p)
		}
	}
	return out
}

// Create archives the tree below the directory root, one file system only,
// and writes the archive to w. A file that changes, shrinks, grows or
// vanishes meanwhile leaves the archive valid and is listed in the summary.
// On error what was written is not an archive.
func Create(ctx context.Context, w io.Writer, root *os.File, opt CreateOptions) (*Summary, error) {
	if opt.Level == 0 {
		opt.Level = Fastest
	}
	if opt.Workers <= 0 {
		opt.Workers = runtime.GOMAXPROCS(0)
	}
	fw, err := newFrameWriter(ctx, w, opt.Level, opt.Workers)
	if err != nil {
		return nil, err
	}
	defer fw.stop()
	toc, err := newTOCWriter()
	if err != nil {
		return nil, err
	}
	defer toc.close()
	c := &creator{walker: walker{ctx: ctx, opt: opt, sum: &Summary{}}, fw: fw, toc: toc, links: map[inode]savedFile{}}
	c.visit, c.prefetch, c.foresee = c.member, c.openAhead, opt.Since != nil && !opt.alone
	err = c.begin(root)
	if err == nil {
		err = c.walk(root)
	}
	if err != nil {
		if e := fw.failed(); e != nil {
			err = e
		}
		return nil, fmt.Errorf("cannot archive %s: %w", root.Name(), err)
	}
	if err := fw.finish(toc, opt.Index); err != nil {
		return nil, fmt.Errorf("cannot archive %s: %w", root.Name(), err)
	}
	c.sum.Tar, c.sum.Packed = fw.tar, fw.offset
	fw.sum.Sum(c.sum.SHA256[:0])
	if opt.Keep != nil {
		opt.Keep.finish(toc.sum)
	}
	return c.sum, nil
}

// creator writes the members that walker finds.
type creator struct {
	walker
	fw    *frameWriter
	toc   *tocWriter
	links map[inode]savedFile // files of several names that are in the archive
	list  []byte              // buffers for attribute names and values
	val   []byte

	since   *since      // what an increment compares with, nil for a full archive
	content hash.Hash   // of the file at hand; nil if nobody needs it
	compare []byte      // buffer of contentSum
	at      span        // where the last member is
	last    stateRecord // that was entered in the new state last

	opening time.Duration // how long opening a file takes, a running mean

	block []byte    // what zeros reads into
	until time.Time // when the file at hand is not waited for any longer
}

// savedFile is a file of several names as it was when it was opened to be saved.
type savedFile struct {
	path         string
	birth        unix.StatxTimestamp // zero where the file system has none
	generation   uint32
	hasGen       bool
	ctime, mtime unix.Timespec
	size         int64
	record       stateRecord // what the new state has of it
	earlier      bool        // its content is in an earlier archive
}

// iocGeneration is FS_IOC_GETVERSION of linux/fs.h, _IOR('v', 1, long).
const iocGeneration = 2<<30 | uint(unsafe.Sizeof(uintptr(0)))<<16 | 'v'<<8 | 1

// identify gives what the open file fd can be recognised by: inode numbers are
// used again, times of birth and generations are not.
func identify(fd int, path string, st *unix.Stat_t) savedFile {
	f := savedFile{path: path, ctime: st.Ctim, mtime: st.Mtim, size: st.Size}
	var sx unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_BTIME, &sx); err == nil && sx.Mask&unix.STATX_BTIME != 0 {
		f.birth = sx.Btime
	}
	// The kernel takes it for an int, FUSE for the long that the number has.
	var v [2]uint32
	if ioctl.Do(uintptr(fd), iocGeneration, &v) == nil {
		f.generation, f.hasGen = v[0], true
	}
	return f
}

// sameAs reports whether f, a file with the inode number of the saved file s, is
// that file. Where the file system has neither time of birth nor generation, only
// a file that was not changed at all is known to be the same.
func (f *savedFile) sameAs(s *savedFile) bool {
	if f.birth != s.birth || f.hasGen != s.hasGen || f.generation != s.generation {
		return false
	}
	return f.birth != (unix.StatxTimestamp{}) || f.hasGen || f.ctime == s.ctime
}

// linked writes m as a hard link if the open file fd is in the archive already,
// under another name. After save was called its other names can be links to it.
func (c *creator) linked(m *Member, fd int, st *unix.Stat_t) (done bool, save func(), err error) {
	if st.Nlink < 2 {
		return false, func() {}, nil
	}
	id := inode{uint64(st.Dev), st.Ino}
	f := identify(fd, m.Path, st)
	save = func() {
		if f.earlier = c.at.from != 0; c.last.path == m.Path {
			f.record = c.last
		}
		c.links[id] = f
	}
	first, ok := c.links[id]
	if !ok || !f.sameAs(&first) {
		return false, save, nil
	}
	if f.mtime != first.mtime || f.size != first.size {
		c.problem(m.Path, Changed, "modified after it was saved as "+Quote(first.path))
	}
	l := &Member{Path: m.Path, Type: TypeHardlink, Link: first.path, Mode: m.Mode, UID: m.UID, GID: m.GID, Sec: m.Sec, Nsec: m.Nsec}
	if first.earlier {
		done, err = c.oldName(l, st)
	}
	if !done && err == nil {
		err = c.put(l, 0)
	}
	c.keepName(l, first.record)
	return true, nil, err
}

func (c *creator) member(m *Member, dir int, name string, st *unix.Stat_t) error {
	if m.Type == TypeDir {
		c.attributes(m, dir, "")
		m.readFlags(dir)
		c.listNames(m, dir)
		if err := c.put(m, 0); err != nil {
			return err
		}
		c.keep(m, st, c.at, digest16{}, digest16{})
		return nil
	}
	if done, err := c.asBefore(m, st); done || err != nil {
		return err
	}
	switch m.Type {
	case TypeFile:
		return c.file(m, dir, name, st)
	}
	return c.node(m, dir, name)
}

// node writes a link, device or fifo, which are not opened for reading.
func (c *creator) node(m *Member, dir int, name string) error {
	var fd int
	if err := quietly(func() (err error) {
		fd, err = unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		return err
	}); err != nil {
		c.gone(m.Path, err)
		return nil
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		c.gone(m.Path, err)
		return nil
	}
	was := m.Type
	if !fill(m, &st) || m.Type != was {
		return errReplaced
	}
	done, save, err := c.linked(m, fd, &st)
	if done || err != nil {
		return err
	}
	if m.Type == TypeSymlink {
		buf := make([]byte, 4096+1)
		n, err := unix.Readlinkat(fd, "", buf)
		if err != nil {
			c.gone(m.Path, err)
			return nil
		}
		m.Link = string(buf[:n])
	}
	before := len(c.sum.Problems)
	c.attributes(m, fd, fmt.Sprintf("/proc/self/fd/%d", fd))
	if err := c.put(m, 0); err != nil {
		return err
	}
	if len(c.sum.Problems) == before {
		c.keep(m, &st, c.at, digest16{}, digest16{})
	}
	save()
	return nil
}

// put writes the header of m; its body of stored bytes has to follow.
func (c *creator) put(m *Member, stored int64) error {
	if stored >= bigMember && len(c.fw.cur) >= minFrame {
		if err := c.fw.cut(); err != nil {
			return err
		}
	}
	start := c.fw.tar
	if err := writeHeader(c.fw, m, stored); err != nil {
		return err
	}
	c.count(m)
	if c.opt.Progress != nil {
		c.opt.Progress.Item(m.Path)
	}
	if c.toc == nil {
		return nil
	}
	c.at = span{start: start, end: c.fw.tar + stored + padding(stored)}
	return c.toc.addAt(m, c.at)
}

func (c *creator) file(m *Member, dir int, name string, listed *unix.Stat_t) error {
	c.until = time.Time{}
	fd, err := c.openPatiently(dir, name, listed)
	if canceled := c.ctx.Err(); canceled != nil {
		if err == nil {
			unix.Close(fd)
		}
		return canceled
	}
	if err == unix.ELOOP || err == unix.ENXIO {
		return errReplaced // by a link, or by a socket or device
	}
	if err != nil {
		c.gone(m.Path, err)
		return nil
	}
	defer unix.Close(fd)
	// What is opened counts, not what was listed.
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		c.gone(m.Path, err)
		return nil
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return errReplaced
	}
	fill(m, &st)
	done, save, err := c.linked(m, fd, &st)
	if done || err != nil {
		return err
	}
	before := len(c.sum.Problems)
	c.attributes(m, fd, "")
	m.readFlags(fd)
	segs := c.segments(m, fd, &st)
	r, err := c.sameContent(m, fd, &st, segs)
	switch {
	case err != nil:
		return err
	case r != nil && len(c.sum.Problems) == before:
		err = c.earlier(m, &st, r)
		c.at = span{from: r.src + 1}
	default:
		err = c.body(m, fd, &st, segs)
		if err == nil && c.opt.Keep != nil && len(c.sum.Problems) == before {
			c.keep(m, &st, c.at, m.metaSum(), c.contentOf())
		}
	}
	if err != nil {
		return err
	}
	save()
	return nil
}

// segments finds the runs of data in the open file fd.
func (c *creator) segments(m *Member, fd int, st *unix.Stat_t) []Segment {
	segs := []Segment{{0, m.Size}}
	if st.Blocks*512 < m.Size {
		s, ok := holes(fd, m.Size)
		if !ok && m.Size-st.Blocks*512 >= holeSize {
			s, ok = c.zeros(fd, m.Size)
		}
		if ok {
			m.IsSparse, m.Sparse, segs = true, s, s
		}
	}
	return segs
}

// body writes m with what is in the open file fd.
func (c *creator) body(m *Member, fd int, st *unix.Stat_t, segs []Segment) error {
	stored := int64(0)
	for _, s := range segs {
		stored += s.Length
	}
	c.sum.Data += stored
	mapSize := int64(0)
	if m.IsSparse {
		mapSize = sparseMapSize(segs, m.Size)
	}
	if err := c.put(m, stored+mapSize); err != nil {
		return err
	}
	if m.IsSparse {
		if err := writeSparseMap(c.fw, segs, m.Size); err != nil {
			return err
		}
	}
	var bad badRanges
	if c.content != nil {
		c.content.Reset()
	}
	for _, s := range segs {
		if err := c.run(fd, s, &bad); err != nil {
			return err
		}
	}
	if err := c.fw.zero(padding(stored)); err != nil {
		return err
	}
	if bad.bytes > 0 {
		c.problem(m.Path, Unreadable, bad.String())
	}
	c.changes(m, fd, st)
	return nil
}

// changes reports that a file was written to while it was read; st is of before.
func (c *creator) changes(m *Member, fd int, st *unix.Stat_t) {
	var after unix.Stat_t
	if err := unix.Fstat(fd, &after); err == nil {
		switch {
		case after.Size > m.Size:
			c.problem(m.Path, Grown, fmt.Sprintf("from %d to %d bytes", m.Size, after.Size))
		case after.Size < m.Size:
			c.problem(m.Path, Shrunk, fmt.Sprintf("from %d to %d bytes", m.Size, after.Size))
		case after.Mtim != st.Mtim:
			c.problem(m.Path, Changed, "modified while it was read")
		}
	}
}
