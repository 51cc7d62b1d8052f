package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/progress"
)

// CreateOptions says how an archive is made. The zero value is useful.
type CreateOptions struct {
	Level   Level // zero: Fastest
	Workers int   // compressors; zero: one per core
	// Exclude leaves paths out. It sees Prefix joined with the member's path.
	Exclude *Matcher
	// Prefix is where the file system is mounted, "/" when "".
	Prefix string
	// Inner are directories, as "a/b", that are file systems of their own to
	// the kernel and belong to this one all the same: subvolumes. LeftOut are
	// those that a rule leaves out, by path.
	Inner    []string
	LeftOut  map[string]string
	Progress progress.Counter // nil: none
	// OnMember, if set, is called for every member just before it is
	// written, OnExcluded for everything a rule left out.
	OnMember   func(*Member)
	OnExcluded func(path, rule string)
	// Index, if not nil, gets the archive's last bytes too: table of contents
	// and seek table.
	Index io.Writer
}

// Summary is what an archive holds, or what an extraction did.
type Summary struct {
	Members  int64    // all kinds
	Files    int64    // regular files
	Data     int64    // bytes of file content, without holes
	Tar      int64    // bytes of tar stream
	Packed   int64    // bytes of archive
	SHA256   [32]byte // of the archive
	Problems []Problem
	Excluded int64  // paths that rules left out, each directory once
	Locks    []Lock // what an extraction with KeepUnlocked left to SetLocks
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

// OpenFS opens the file system mounted at path, without anything that is
// mounted below it, so that what lies hidden under a mount point is seen too.
// Where the kernel can't give such a view (Linux before 5.2, or not root) it
// is the directory itself.
func OpenFS(path string) (*os.File, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err == nil {
		// The tree's own descriptor is O_PATH; a readable one keeps the mount alive.
		rd, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			unix.Close(fd)
			return nil, fmt.Errorf("cannot open file system at %s: %w", path, err)
		}
		unix.Close(fd)
		return os.NewFile(uintptr(rd), path), nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("cannot open file system at %s: %w", path, err)
	}
	return f, nil
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
	c := &creator{walker: walker{ctx: ctx, opt: opt, sum: &Summary{}, links: map[inode]string{}}, fw: fw, toc: toc}
	c.visit = c.member
	if err := c.walk(root); err != nil {
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
	return c.sum, nil
}

// Walk visits what Create would archive, without reading any content.
func Walk(ctx context.Context, root *os.File, opt CreateOptions) (*Summary, error) {
	k := &walker{ctx: ctx, opt: opt, sum: &Summary{}, links: map[inode]string{}}
	k.visit = func(m *Member, _ int, _ string, st *unix.Stat_t) error {
		if m.Type == TypeFile {
			k.sum.Data += min(m.Size, st.Blocks*512)
		}
		k.count(m)
		return nil
	}
	if err := k.walk(root); err != nil {
		return nil, fmt.Errorf("cannot list %s: %w", root.Name(), err)
	}
	return k.sum, nil
}

type inode struct{ dev, ino uint64 }

// walker goes through one file system: in each directory first all but
// directories, then those, both sorted by name.
type walker struct {
	ctx   context.Context
	opt   CreateOptions
	sum   *Summary
	links map[inode]string
	// visit gets a member with what stat tells; dir and name are where it is.
	visit func(m *Member, dir int, name string, st *unix.Stat_t) error
}

func (k *walker) problem(path string, kind Kind, detail string) {
	k.sum.Problems = append(k.sum.Problems, Problem{path, kind, detail})
}

func (k *walker) count(m *Member) {
	k.sum.Members++
	if m.Type == TypeFile {
		k.sum.Files++
	}
	if k.opt.OnMember != nil {
		k.opt.OnMember(m)
	}
}

func (k *walker) absolute(path string) string {
	p := strings.TrimSuffix(k.opt.Prefix, "/")
	if path == "." {
		if p == "" {
			return "/"
		}
		return p
	}
	return p + "/" + path
}

func (k *walker) walk(root *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(root.Fd()), &st); err != nil {
		return err
	}
	m := &Member{Path: "."}
	fill(m, &st)
	if err := k.visit(m, int(root.Fd()), ".", &st); err != nil {
		return err
	}
	fd, err := unix.Openat(int(root.Fd()), ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return k.dir(os.NewFile(uintptr(fd), root.Name()), "", uint64(st.Dev))
}

// dir archives what is in d, on the device dev, and closes it.
func (k *walker) dir(d *os.File, prefix string, dev uint64) error {
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		k.problem(strings.TrimSuffix(prefix, "/"), Unreadable, err.Error())
	}
	slices.Sort(names)
	var subs []string
	for _, n := range names {
		if err := k.ctx.Err(); err != nil {
			return err
		}
		path := prefix + n
		rule := k.opt.Exclude.Match(k.absolute(path))
		if rule == "" {
			rule = k.opt.LeftOut[path]
		}
		if rule != "" {
			k.sum.Excluded++
			if k.opt.OnExcluded != nil {
				k.opt.OnExcluded(k.absolute(path), rule)
			}
			continue
		}
		isDir, err := k.entry(int(d.Fd()), n, path)
		if err != nil {
			return err
		}
		if isDir {
			subs = append(subs, n)
		}
	}
	for _, n := range subs {
		if err := k.subdir(int(d.Fd()), n, prefix+n, dev); err != nil {
			return err
		}
	}
	return nil
}

func (k *walker) entry(dir int, name, path string) (isDir bool, err error) {
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		k.gone(path, err)
		return false, nil
	}
	m := &Member{Path: path}
	if !fill(m, &st) {
		if st.Mode&unix.S_IFMT == unix.S_IFSOCK {
			k.problem(path, Socket, "not saved")
		} else {
			k.problem(path, Unreadable, fmt.Sprintf("unknown file type %#o", st.Mode&unix.S_IFMT))
		}
		return false, nil
	}
	if m.Type == TypeDir {
		return true, nil
	}
	if st.Nlink > 1 {
		id := inode{uint64(st.Dev), st.Ino}
		if first, ok := k.links[id]; ok {
			m.Type, m.Link, m.Size = TypeHardlink, first, 0
			return false, k.visit(m, dir, name, &st)
		}
		defer func() {
			if k.saved(path) {
				k.links[id] = path
			}
		}()
	}
	return false, k.visit(m, dir, name, &st)
}

// saved tells whether the path just visited got into the archive: its last
// problem, if any, isn't that it was gone.
func (k *walker) saved(path string) bool {
	n := len(k.sum.Problems)
	if n == 0 || k.sum.Problems[n-1].Path != path {
		return true
	}
	p := k.sum.Problems[n-1]
	return p.Kind != Vanished && !(p.Kind == Unreadable && strings.HasPrefix(p.Detail, "cannot open"))
}

func (k *walker) gone(path string, err error) {
	if errors.Is(err, unix.ENOENT) {
		k.problem(path, Vanished, "gone before it was read")
		return
	}
	k.problem(path, Unreadable, "cannot open: "+err.Error())
}

func (k *walker) subdir(dir int, name, path string, dev uint64) error {
	fd, err := openQuietly(dir, name, unix.O_DIRECTORY)
	if err != nil {
		k.gone(path, err)
		return nil
	}
	d := os.NewFile(uintptr(fd), path)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		d.Close()
		return err
	}
	m := &Member{Path: path}
	fill(m, &st)
	if err := k.visit(m, fd, ".", &st); err != nil {
		d.Close()
		return err
	}
	if uint64(st.Dev) != dev && !slices.Contains(k.opt.Inner, path) {
		// A mount point seen in a view without submounts never gets here.
		if !isMount(dir, name) {
			k.problem(path, Foreign, "belongs to another file system (a subvolume?): only the directory is saved")
		}
		d.Close()
		return nil
	}
	return k.dir(d, path+"/", uint64(st.Dev))
}

// openQuietly opens a file or directory for reading, not through a link, and
// without changing its time of access where the caller may ask for that.
func openQuietly(dir int, name string, flags int) (int, error) {
	flags |= unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := unix.Openat(dir, name, flags|unix.O_NOATIME, 0)
	if err == unix.EPERM {
		fd, err = unix.Openat(dir, name, flags, 0)
	}
	return fd, err
}

// isMount tells whether something is mounted on dir/name; STATX_ATTR_MOUNT_ROOT
// since Linux 5.8, before that any other device counts as a mount.
func isMount(dir int, name string) bool {
	var sx unix.Statx_t
	if err := unix.Statx(dir, name, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BASIC_STATS, &sx); err != nil {
		return true
	}
	if sx.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT == 0 {
		return true
	}
	return sx.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
}

// fill sets what stat tells; false for sockets and unknown types.
func fill(m *Member, st *unix.Stat_t) bool {
	m.Mode, m.UID, m.GID = st.Mode&0o7777, int64(st.Uid), int64(st.Gid)
	m.Sec, m.Nsec = st.Mtim.Sec, st.Mtim.Nsec
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		m.Type, m.Size = TypeFile, st.Size
	case unix.S_IFDIR:
		m.Type = TypeDir
	case unix.S_IFLNK:
		m.Type = TypeSymlink
	case unix.S_IFIFO:
		m.Type = TypeFifo
	case unix.S_IFCHR, unix.S_IFBLK:
		m.Type = TypeChar
		if st.Mode&unix.S_IFMT == unix.S_IFBLK {
			m.Type = TypeBlock
		}
		m.Major, m.Minor = unix.Major(st.Rdev), unix.Minor(st.Rdev)
	default:
		return false
	}
	return true
}

// creator writes the members that walker finds.
type creator struct {
	walker
	fw   *frameWriter
	toc  *tocWriter
	hdr  []byte
	list []byte // buffers for attribute names and values
	val  []byte

	block []byte // what zeros reads into
}

func (c *creator) member(m *Member, dir int, name string, st *unix.Stat_t) error {
	switch m.Type {
	case TypeHardlink:
		return c.put(m, 0)
	case TypeFile:
		return c.file(m, dir, name)
	case TypeSymlink:
		buf := make([]byte, 4096+1)
		n, err := unix.Readlinkat(dir, name, buf)
		if err != nil {
			c.gone(m.Path, err)
			return nil
		}
		m.Link = string(buf[:n])
	}
	if m.Type == TypeDir {
		c.attributes(m, dir, "")
		m.readFlags(dir)
	} else {
		c.attributes(m, dir, name)
	}
	return c.put(m, 0)
}

// put writes the header of m; its body of stored bytes has to follow.
func (c *creator) put(m *Member, stored int64) error {
	if stored >= bigMember && len(c.fw.cur) >= minFrame {
		if err := c.fw.cut(); err != nil {
			return err
		}
	}
	start := c.fw.tar
	c.hdr = appendHeader(c.hdr[:0], m, stored)
	if _, err := c.fw.Write(c.hdr); err != nil {
		return err
	}
	c.count(m)
	if c.opt.Progress != nil {
		c.opt.Progress.Item(m.Path)
	}
	return c.toc.add(m, start)
}

func (c *creator) file(m *Member, dir int, name string) error {
	fd, err := openQuietly(dir, name, unix.O_NONBLOCK)
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
		c.problem(m.Path, Changed, "became another kind of file")
		return nil
	}
	fill(m, &st)
	c.attributes(m, fd, "")
	m.readFlags(fd)
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
	stored := int64(0)
	for _, s := range segs {
		stored += s.Length
	}
	c.sum.Data += stored
	var smap []byte
	if m.IsSparse {
		smap = appendSparseMap(nil, segs, m.Size)
	}
	if err := c.put(m, stored+int64(len(smap))); err != nil {
		return err
	}
	if _, err := c.fw.Write(smap); err != nil {
		return err
	}
	for _, s := range segs {
		if err := c.body(m, fd, s); err != nil {
			return err
		}
	}
	if err := c.fw.zero(padding(stored)); err != nil {
		return err
	}
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
	return nil
}

// body reads one run of data into the frames. Missing bytes become zero
// bytes, so that the stream stays in step; Shrunk is said by the caller.
func (c *creator) body(m *Member, fd int, s Segment) error {
	for s.Length > 0 {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		buf, err := c.fw.room(s.Length)
		if err != nil {
			return err
		}
		n, err := unix.Pread(fd, buf, s.Offset)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			c.problem(m.Path, Unreadable, fmt.Sprintf("read error at byte %d: %v; filled with zero bytes", s.Offset, err))
		}
		if n <= 0 {
			return c.fw.zero(s.Length)
		}
		c.fw.commit(n)
		if c.opt.Progress != nil {
			c.opt.Progress.Add(int64(n))
		}
		s.Offset += int64(n)
		s.Length -= int64(n)
	}
	return nil
}

// holes finds the runs of data; false when the file has no hole or the file
// system can't tell.
func holes(fd int, size int64) ([]Segment, bool) {
	segs := []Segment{}
	for off := int64(0); off < size; {
		d, err := unix.Seek(fd, off, unix.SEEK_DATA)
		if err == unix.ENXIO || err == nil && d >= size {
			break
		}
		if err != nil {
			return nil, false
		}
		h, err := unix.Seek(fd, d, unix.SEEK_HOLE)
		if err != nil || h <= d {
			return nil, false
		}
		h = min(h, size)
		segs = append(segs, Segment{d, h - d})
		off = h
	}
	if len(segs) == 1 && segs[0] == (Segment{0, size}) {
		return nil, false
	}
	return segs, true
}

// holeSize is what zeros takes for a hole at least, and its alignment: the block
// size of most file systems.
const holeSize = 4096

var zeroBlock [holeSize]byte

// zeros finds the runs of data in a file that has fewer blocks than it needs on a
// file system that can't tell where its holes are (JFS), by reading it; false
// when there is no block of zero bytes.
func (c *creator) zeros(fd int, size int64) ([]Segment, bool) {
	if c.block == nil {
		c.block = make([]byte, 64*holeSize)
	}
	segs := []Segment{}
	data := int64(0)
	for off := int64(0); off < size; {
		n, err := unix.Pread(fd, c.block[:min(size-off, int64(len(c.block)))], off)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n <= 0 {
			return nil, false // what is wrong shows when it is read for the archive
		}
		for i := 0; i < n; i += holeSize {
			b := c.block[i:min(i+holeSize, n)]
			at := off + int64(i)
			if bytes.Equal(b, zeroBlock[:len(b)]) {
				continue
			}
			if k := len(segs) - 1; k >= 0 && segs[k].Offset+segs[k].Length == at {
				segs[k].Length += int64(len(b))
			} else {
				segs = append(segs, Segment{at, int64(len(b))})
			}
			data += int64(len(b))
		}
		off += int64(n)
	}
	return segs, data < size
}

// attributes reads extended attributes and ACLs of the open file fd, or of
// name in the directory fd when it can't be opened (links, devices).
func (c *creator) attributes(m *Member, fd int, name string) {
	path := ""
	if name != "" {
		path = fmt.Sprintf("/proc/self/fd/%d/%s", fd, name)
	}
	list := func(b []byte) (int, error) {
		if path != "" {
			return unix.Llistxattr(path, b)
		}
		return unix.Flistxattr(fd, b)
	}
	get := func(attr string, b []byte) (int, error) {
		if path != "" {
			return unix.Lgetxattr(path, attr, b)
		}
		return unix.Fgetxattr(fd, attr, b)
	}
	if c.list == nil {
		c.list, c.val = make([]byte, 64<<10), make([]byte, 64<<10)
	}
	n, err := list(c.list)
	if err != nil {
		if err != unix.ENOTSUP && err != unix.ENOSYS && err != unix.ENODATA {
			c.problem(m.Path, Unreadable, "cannot list extended attributes: "+err.Error())
		}
		return
	}
	for _, a := range strings.Split(strings.TrimSuffix(string(c.list[:n]), "\x00"), "\x00") {
		if a == "" {
			continue
		}
		vn, err := get(a, c.val)
		if err == unix.ENODATA {
			continue
		}
		if err != nil {
			c.problem(m.Path, Unreadable, "cannot read attribute "+a+": "+err.Error())
			continue
		}
		v := c.val[:vn]
		switch a {
		case xattrACLAccess, xattrACLDefault:
			text, err := aclText(v)
			if err != nil {
				c.problem(m.Path, Unreadable, err.Error())
			} else if a == xattrACLAccess {
				m.ACLAccess = text
			} else {
				m.ACLDefault = text
			}
		default:
			m.Xattrs = append(m.Xattrs, Xattr{a, string(v)})
		}
	}
	slices.SortFunc(m.Xattrs, func(a, b Xattr) int { return strings.Compare(a.Name, b.Name) })
}
