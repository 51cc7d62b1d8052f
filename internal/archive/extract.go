package archive

import (
	"context"
	"errors"
	"fmt"
	"path"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/progress"
)

// ExtractOptions defines what is extracted and how.
type ExtractOptions struct {
	// Select picks members by path; nil takes all. The directories above what is
	// selected are made with the attributes that the archive has for them.
	Select func(path string) bool
	// Parents picks directories that are made likewise, where they are missing.
	Parents func(path string) bool
	// Below is where below the destination the archive's root is, as "home" or
	// "/home"; missing directories are made. No symbolic link is followed, so that
	// one that another archive has put there leads nowhere.
	Below string
	// KeepRoot leaves the archive's root directory as it is at the destination: its
	// owner, mode, time and attributes.
	KeepRoot bool
	// NewRoot is set if the root directory at the destination is a new one: it gets
	// what the archive has also if it is not selected.
	NewRoot  bool
	Workers  int
	Progress progress.Counter
	// Salvage leaves out members that are in frames that can't be read, and
	// lists them as problems of kind Lost. Everything is read twice.
	Salvage bool
	// NoOwner leaves owner, device nodes, projects and the flags that only root
	// can set alone, for callers without root.
	NoOwner bool
	// KeepUnlocked leaves immutable and append-only to SetLocksBelow, for a caller who
	// has to change things still.
	KeepUnlocked bool

	// For tests: takes the place of linkat(2).
	link func(oldDir int, old string, newDir int, new string) error
}

// Extract writes members below the directory dest, which must exist. Nothing
// is ever written outside of it: a name with "..", an absolute name and a
// name that goes through a symbolic link are errors, returned after all others
// were extracted. What can't be made or set is listed in the summary, as problems
// of kinds Failed and Metadata; Summary.Incomplete returns those. A device that is
// full or does not work any more ends the extraction.
func (a *Reader) Extract(ctx context.Context, dest string, opt ExtractOptions) (*Summary, error) {
	return extractInto(ctx, a.name, dest, opt, func(x *extractor) error {
		x.a = a
		return x.run()
	})
}

// extractInto prepares dest, has read find the members, and waits until all
// are written.
func extractInto(ctx context.Context, name, dest string, opt ExtractOptions, read func(*extractor) error) (*Summary, error) {
	root, made, err := openBelow(dest, opt.Below, true)
	if err != nil {
		return nil, err
	}
	if opt.Workers <= 0 {
		opt.Workers = runtime.GOMAXPROCS(0)
	}
	x := &extractor{opt: opt, dest: dest, rootMade: made || opt.NewRoot, sum: &Summary{}, jobs: make(chan *writeJob, 64), dirs: newDirCache(root),
		known: map[string]*Member{}, unknown: map[string]bool{}, borrow: map[string]string{}, failed: map[string]bool{}, copies: map[string]string{}, group: unix.Getegid()}
	x.dirs.made = x.madeParent
	x.dirs.inherit = &x.inherit
	x.ctx, x.cancel = context.WithCancel(ctx)
	defer x.cancel()
	defer x.dirs.close()
	for range opt.Workers + 1 {
		x.wg.Go(x.worker)
	}
	if err = x.dirs.look(x.dirs.root); err == nil {
		err = read(x)
	}
	close(x.jobs)
	x.wg.Wait()
	if p := x.err.Load(); p != nil {
		err = *p
	}
	if err == nil {
		err = x.late()
	}
	if err == nil {
		err = errors.Join(x.refused...)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot extract %s below %s: %w", name, path.Join(dest, opt.Below), err)
	}
	return x.sum, nil
}

type extractor struct {
	a        *Reader
	opt      ExtractOptions
	dest     string
	rootMade bool // the root was made for this archive
	group    int  // that new files should have without root
	ctx      context.Context
	cancel   context.CancelFunc
	wg       sync.WaitGroup
	jobs     chan *writeJob
	pending  sync.WaitGroup // jobs that are not done
	dirs     *dirCache
	err      atomic.Pointer[error]
	refused  []error
	mu       sync.Mutex // guards sum.Problems and failed
	sum      *Summary
	failed   map[string]bool   // members that could not be written
	folder   []*Member         // directories, whose attributes are set last
	hard     []hardLink        // hard links, made when their files are there
	copies   map[string]string // files that take no more links, and what takes them instead
	locked   []*Member         // files that can't be changed any more, nor linked to
	// known are directories that were not selected, unknown those that were made
	// before the archive told of them.
	known   map[string]*Member
	unknown map[string]bool
	// targets are files that hard links need; nil where that is not known. borrow
	// has those that are not selected, and the link that gets the content.
	targets *linkTargets
	borrow  map[string]string
	lost    map[string]bool // what Salvage leaves out
	// inherit is set when a directory has flags that new files get from it.
	inherit atomic.Bool
}

// maxDirAttrs is how many bytes of attributes of a directory are kept until all is
// extracted; more are set at once.
const maxDirAttrs = 4 << 10

// writeJob is one regular file; chunks come while the archive is decoded.
type writeJob struct {
	m      *Member
	dir    *dirRef
	base   string
	chunks chan chunk
	broken atomic.Bool // not all chunks came
}

type chunk struct {
	b []byte
	f *frameBuf
}

func (x *extractor) selected(p string) bool { return x.opt.Select == nil || x.opt.Select(p) }

func (x *extractor) run() error {
	if x.opt.Salvage {
		if err := x.salvage(); err != nil {
			return err
		}
	}
	parents, err := x.survey()
	if err != nil {
		return err
	}
	r := memberReader{a: x.a, ctx: x.ctx, workers: x.opt.Workers, progress: x.opt.Progress}
	r.bad = func(e Entry, err error) { x.fail(Problem{e.Path, Lost, err.Error()}) }
	r.damaged = func(err *DamagedError, e *Entry) error {
		switch {
		case e == nil:
		case e.Type == TypeDir && !x.selected(e.Path):
			x.problem(e.Path, "only owner, mode and time can be restored: "+err.Error())
		case x.opt.Salvage: // it was good when all frames were read before
			x.fail(Problem{e.Path, Lost, err.Error()})
		default:
			return err
		}
		return nil
	}
	r.fn = func(p *tarParser, m *Member, stored int64, _ Entry) error { return x.next(p, m, stored) }
	if x.opt.Select == nil {
		return r.read(nil)
	}
	return r.read(func(e Entry) bool { return x.opt.Select(e.Path) || parents[e.Path] || x.borrow[e.Path] != "" })
}

// survey finds what else has to be read for what is selected: the directories
// above it, and the content of files that it is linked to.
func (x *extractor) survey() (parents map[string]bool, err error) {
	if x.targets, err = x.a.linkTargets(x.opt.Select); err != nil || x.opt.Select == nil {
		return nil, err
	}
	s := survey{extractor: x, parents: map[string]bool{}}
	if err := x.a.Entries(s.entry); err != nil {
		return nil, err
	}
	if m := x.known["."]; m != nil {
		if err := x.parent(m); err != nil {
			return nil, err
		}
	}
	delete(s.parents, ".")
	if x.a.inOrder {
		return nil, nil // what the index has is enough to leave a disc in its place
	}
	if x.rootMade && !x.opt.KeepRoot {
		s.parents["."] = true
	}
	return s.parents, nil
}

// survey looks at the index: which directories have to be there for what is selected.
type survey struct {
	*extractor
	parents map[string]bool
	above   []Entry // the directories that the entry is in
}

func (s *survey) entry(e Entry) error {
	for n := len(s.above); n > 0 && s.above[n-1].Path != "." && !strings.HasPrefix(e.Path, s.above[n-1].Path+"/"); n-- {
		s.above = s.above[:n-1]
	}
	wanted := s.opt.Select(e.Path)
	if wanted || e.Type == TypeDir && s.opt.Parents != nil && s.opt.Parents(e.Path) {
		if !wanted && !s.lost[e.Path] {
			s.parents[e.Path] = true
		}
		s.keepAbove()
	}
	if e.Type == TypeDir {
		s.above = append(s.above, e)
	}
	if wanted && e.Type == TypeHardlink && s.borrow[e.Link] == "" && !s.opt.Select(e.Link) {
		s.borrow[e.Link] = e.Path
	}
	return nil
}

// keepAbove notes the directories that the entry is in, with their attributes.
func (s *survey) keepAbove() {
	for _, d := range s.above {
		if s.parents[d.Path] || s.lost[d.Path] || s.opt.Select(d.Path) {
			continue
		}
		s.parents[d.Path] = true
		s.known[d.Path] = &Member{Path: d.Path, Type: TypeDir, Mode: d.Mode, UID: d.UID, GID: d.GID, Sec: d.Sec, Nsec: d.Nsec}
	}
}

// salvage finds the members that touch a damaged frame, and selects all
// others.
func (x *extractor) salvage() error {
	all := make([]map[int]error, len(x.a.sources)+1) // of each archive
	readers := make([]*Reader, len(all))
	damaged := false
	for n := range all {
		r, err := x.a.from(n)
		if err != nil {
			return err
		}
		if err = r.Verify(x.ctx, VerifyOptions{Workers: x.opt.Workers}); x.ctx.Err() != nil {
			return err
		}
		if readers[n] = r; err == nil {
			continue
		}
		damaged = true
		if all[n], err = damagedFrames(err); err != nil {
			return err
		}
	}
	if !damaged {
		return nil
	}
	wanted := x.opt.Select
	lost := map[string]bool{}
	lose := func(e Entry, detail string) {
		lost[e.Path] = true
		if wanted == nil || wanted(e.Path) {
			x.add(Problem{e.Path, Lost, detail})
		}
	}
	if err := x.a.Entries(func(e Entry) error {
		r, bad := readers[e.From], all[e.From]
		for i := r.frameAt(e.Start); e.Start < e.End && i <= r.frameAt(e.End-1) && i < len(r.frames); i++ {
			if bad[i] != nil {
				lose(e, bad[i].Error())
				return nil
			}
		}
		if e.Type == TypeHardlink && lost[e.Link] {
			lose(e, "it is a link to "+Quote(e.Link)+", which is lost")
		}
		return nil
	}); err != nil {
		return err
	}
	x.opt.Select = func(p string) bool { return !lost[p] && (wanted == nil || wanted(p)) }
	x.lost = lost
	return nil
}

// damagedFrames returns the error of each damaged frame by its number, or the first
// error that is another one.
func damagedFrames(err error) (map[int]error, error) {
	bad := map[int]error{}
	all := []error{err}
	for len(all) > 0 {
		err, all = all[0], all[1:]
		var d *DamagedError
		if j, ok := err.(interface{ Unwrap() []error }); ok {
			all = append(all, j.Unwrap()...)
		} else if !errors.As(err, &d) {
			return nil, err
		} else {
			bad[d.Frame] = d
		}
	}
	return bad, nil
}

// refuse keeps the error of a member that would leave the destination.
func (x *extractor) refuse(err error) {
	if len(x.refused) < maxFaults {
		x.refused = append(x.refused, err)
	}
}

// errOutside is the class of members that would leave the destination.
var errOutside = errors.New("refused")

// clean checks a member's name: relative, without "." and "..".
func clean(p string) error {
	if p == "." {
		return nil
	}
	bad := p == "" || strings.HasPrefix(p, "/") || strings.Contains(p, "\x00")
	for e := range strings.SplitSeq(p, "/") {
		bad = bad || e == "" || e == "." || e == ".."
	}
	if bad {
		return fmt.Errorf("%w member %q: its name is not below the root", errOutside, Quote(p))
	}
	return nil
}

// fatal reports errors after which nothing more can be written.
func fatal(err error) bool {
	for _, e := range []error{unix.ENOSPC, unix.EDQUOT, unix.EIO, unix.EROFS, unix.ENODEV, unix.ENXIO, unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.ESHUTDOWN, context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// next extracts a member, or keeps what it is needed for. What is wrong with one
// member is listed; an error ends the extraction. It may read less of the
// body than there is.
func (x *extractor) next(p *tarParser, m *Member, stored int64) error {
	err := clean(m.Path)
	if err == nil && m.Type == TypeHardlink {
		err = clean(m.Link)
	}
	if err == nil {
		err = x.member(p, m, stored)
	}
	var d *DamagedError
	switch {
	case err == nil:
	case errors.Is(err, errOutside):
		x.refuse(err)
	case errors.As(err, &d) || errors.Is(err, errHeader) || fatal(err):
		return err
	default:
		x.fail(Problem{m.Path, Failed, err.Error()})
	}
	return nil
}

func (x *extractor) member(p *tarParser, m *Member, stored int64) error {
	if x.targets != nil {
		x.targets.seen(m)
	}
	m, err := x.chosen(m)
	if m == nil {
		return err
	}
	x.sum.Members++
	if x.opt.Progress != nil {
		x.opt.Progress.Item(m.Path)
	}
	if m.Type == TypeHardlink {
		if x.hard = append(x.hard, hardLink{m.Path, m.Link}); len(x.hard) >= maxPending {
			x.pending.Wait() // a file is before its links in the archive
			return x.links()
		}
		return nil
	}
	if m.Path == "." {
		if m.Type != TypeDir {
			return errors.New("the root is not a directory")
		}
		if x.opt.KeepRoot {
			return nil
		}
		x.folder = append(x.folder, m)
		return x.earlyDir(m)
	}
	dir, err := x.dirs.open(path.Dir(m.Path))
	if err != nil {
		return err
	}
	base := path.Base(m.Path)
	if m.Type == TypeFile {
		x.sum.Files++
		err = x.file(p, m, stored, dir, base)
	} else {
		defer dir.release()
		switch m.Type {
		case TypeDir:
			err = x.mkdir(dir.fd, base, m)
		default:
			err = x.node(m, dir, base)
		}
	}
	if err == nil && m.Flags&flagLocks != 0 && m.Type == TypeFile {
		x.locked = append(x.locked, m)
	}
	return err
}

// chosen returns the member to extract: m, m by the name of a link that gets the content
// since m is not selected, or nil.
func (x *extractor) chosen(m *Member) (*Member, error) {
	if x.selected(m.Path) {
		return m, nil
	}
	if m.Type == TypeDir {
		return nil, x.parent(m)
	}
	link := x.borrow[m.Path]
	if link == "" || m.Type == TypeHardlink {
		return nil, nil
	}
	c := *m
	c.Path = link
	x.sum.Members-- // the link is counted, too
	return &c, nil
}

// parent keeps a directory that is not selected, for when it has to be made.
func (x *extractor) parent(m *Member) error {
	if k := x.known[m.Path]; k != nil && k != m {
		*k = *m // so far only what the index has was known
		return nil
	}
	x.known[m.Path] = m
	if m.Path == "." && x.rootMade && !x.opt.KeepRoot || x.unknown[m.Path] {
		x.folder = append(x.folder, m)
		return nil
	}
	if m.Path == "." || x.opt.Parents == nil || !x.opt.Parents(m.Path) {
		return nil
	}
	d, err := x.dirs.open(m.Path)
	if err == nil {
		d.release()
	}
	return err
}

// madeParent is told of a directory that was missing.
func (x *extractor) madeParent(p string, fd int) {
	m := x.known[p]
	if m == nil {
		x.unknown[p] = true
		return
	}
	x.folder = append(x.folder, m)
	if m.Flags&flagEarlyDir != 0 || x.inherit.Load() {
		_ = setFlags(fd, m.Flags, flagEarlyDir) // reported where all flags are set
	}
}

func (x *extractor) mkdir(dir int, base string, m *Member) error {
	err := replace(dir, base, func() error {
		err := unix.Mkdirat(dir, base, 0o700)
		if err == unix.EEXIST {
			var st unix.Stat_t
			if e := unix.Fstatat(dir, base, &st, unix.AT_SYMLINK_NOFOLLOW); e == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
				return nil
			}
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("cannot make directory: %w", err)
	}
	x.folder = append(x.folder, m)
	if err := x.earlyDir(m); err != nil {
		return err
	}
	return x.largeAttrs(m)
}

// largeAttrs sets the extended attributes of a directory, if they are too large to
// be kept until the end.
func (x *extractor) largeAttrs(m *Member) error {
	n := 0
	for _, a := range m.Xattrs {
		n += len(a.Name) + len(a.Value)
	}
	if n <= maxDirAttrs {
		return nil
	}
	d, err := x.dirs.open(m.Path)
	if err != nil {
		return err
	}
	defer d.release()
	x.attributes(&Member{Path: m.Path, Xattrs: m.Xattrs}, func(n string, v []byte) error { return unix.Fsetxattr(d.fd, n, v, 0) })
	m.Xattrs = nil
	return nil
}

// earlyDir sets the flags that what is made in the directory gets from it.
func (x *extractor) earlyDir(m *Member) error {
	if m.Flags&flagEarlyDir == 0 && !x.inherit.Load() {
		return nil
	}
	x.inherit.Store(true)
	d, err := x.dirs.open(m.Path)
	if err != nil {
		return err
	}
	defer d.release()
	// What the file system lacks is reported where all flags are set.
	_ = setFlags(d.fd, m.Flags, flagEarlyDir)
	return nil
}

// replace does make, and once more after removing what is in the way.
func replace(dir int, base string, make func() error) error {
	err := make()
	if err == unix.EEXIST {
		if err = unix.Unlinkat(dir, base, 0); err == nil {
			err = make()
		}
	}
	return err
}

// node makes a link, device or fifo with its attributes.
func (x *extractor) node(m *Member, dir *dirRef, base string) error {
	kind := map[Type]uint32{TypeChar: unix.S_IFCHR, TypeBlock: unix.S_IFBLK, TypeFifo: unix.S_IFIFO, TypeSymlink: unix.S_IFLNK}[m.Type]
	if x.opt.NoOwner && (m.Type == TypeChar || m.Type == TypeBlock) {
		return errors.New("device node not made without root")
	}
	if err := replace(dir.fd, base, func() error {
		if m.Type == TypeSymlink {
			return unix.Symlinkat(m.Link, dir.fd, base)
		}
		return unix.Mknodat(dir.fd, base, kind|0o600, int(unix.Mkdev(m.Major, m.Minor)))
	}); err != nil {
		return fmt.Errorf("cannot make it: %w", err)
	}
	// Attributes are set on what was made, not on what has its name by then.
	fd, err := unix.Openat(dir.fd, base, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != kind {
		return errors.New("it was replaced while it was made")
	}
	self := fmt.Sprintf("/proc/self/fd/%d", fd)
	mode := x.own(m, dir, func(uid, gid int) error { return unix.Fchownat(fd, "", uid, gid, unix.AT_EMPTY_PATH) })
	if m.Type != TypeSymlink {
		if dir.acl {
			_ = unix.Removexattr(self, xattrACLAccess)
		}
		if err := unix.Chmod(self, mode); err != nil {
			x.problem(m.Path, fmt.Sprintf("cannot set mode %04o: %v", mode, err))
		}
	}
	x.attributes(m, func(n string, v []byte) error { return unix.Setxattr(self, n, v, 0) })
	ts := timespecs(m)
	if err := unix.UtimesNanoAt(dir.fd, base, ts[:], unix.AT_SYMLINK_NOFOLLOW); err != nil {
		x.problem(m.Path, fmt.Sprintf("cannot set its time: %v", err))
	}
	return nil
}

// own sets the owner of what was made in dir, and gives the mode that it may have:
// that of setuid and setgid would be another owner's otherwise.
func (x *extractor) own(m *Member, dir *dirRef, chown func(uid, gid int) error) (mode uint32) {
	uid, gid := int(m.UID), int(m.GID)
	if !x.opt.NoOwner && (!validID(m.UID) || !validID(m.GID)) {
		// The kernel would take the lower 32 bits: 2^32 would be root.
		x.problem(m.Path, fmt.Sprintf("cannot set owner %d:%d: there are no such users and groups", m.UID, m.GID))
		return m.Mode &^ 0o6000
	}
	if x.opt.NoOwner {
		if uid, gid = -1, x.group; dir.gid == gid {
			return m.Mode
		}
	} else if uid == 0 && gid == 0 && dir.gid == 0 {
		return m.Mode // what root makes there has these
	}
	if err := chown(uid, gid); err != nil {
		if x.opt.NoOwner {
			x.problem(m.Path, fmt.Sprintf("cannot set group %d: %v", gid, err))
		} else {
			x.problem(m.Path, fmt.Sprintf("cannot set owner %d:%d: %v", uid, gid, err))
		}
		if m.Type == TypeDir {
			return m.Mode
		}
		return m.Mode &^ 0o6000
	}
	return m.Mode
}

// validID reports whether n can be a user or group ID: 32 bits, and not the largest, which chown(2) takes for "no change".
func validID(n int64) bool { return n >= 0 && n < 1<<32-1 }

func timespecs(m *Member) [2]unix.Timespec {
	t := unix.NsecToTimespec(0)
	t.Sec, t.Nsec = m.Sec, m.Nsec
	return [2]unix.Timespec{t, t}
}

// add lists a problem.
func (x *extractor) add(p Problem) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.sum.Problems = append(x.sum.Problems, p)
}

// fail lists a member that is not there.
func (x *extractor) fail(p Problem) {
	x.add(p)
	x.mu.Lock()
	defer x.mu.Unlock()
	x.failed[p.Path] = true
}

func (x *extractor) problem(p, detail string) { x.add(Problem{p, Metadata, detail}) }

// attributes sets ACLs and extended attributes. What the file system can't
// hold is a problem to be listed, not a reason to lose the file.
func (x *extractor) attributes(m *Member, set func(name string, value []byte) error) {
	try := func(n string, v []byte) {
		if err := set(n, v); err != nil {
			x.problem(m.Path, fmt.Sprintf("cannot set attribute %s: %v", n, err))
		}
	}
	for _, a := range []struct{ name, text string }{{xattrACLAccess, m.ACLAccess}, {xattrACLDefault, m.ACLDefault}} {
		if a.text == "" {
			continue
		}
		if b, err := aclBinary(a.text); err != nil {
			x.problem(m.Path, err.Error())
		} else {
			try(a.name, b)
		}
	}
	for _, a := range m.Xattrs {
		try(a.Name, []byte(a.Value))
	}
}
