// Package tree makes a tree of the files that backups get wrong, and
// describes any tree path by path, so that two can be compared. It shares no
// code with the archiver that it judges.
package tree

import (
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/ioctl"
)

// Options of Make: what the file system or the caller can't do is left out.
type Options struct {
	Trusted bool // trusted.* attributes and device nodes: needs root
	Huge    bool // a sparse file of 5 GiB
	Flags   bool // what chattr(1) does; an immutable file keeps its directory from being removed
}

// posixACL is "user::rw-, user:1234:r--, group::r--, mask::r--, other::---"
// in the kernel's form.
func posixACL(id uint32) []byte {
	e := func(tag, perm uint16, id uint32) []byte {
		return []byte{byte(tag), byte(tag >> 8), byte(perm), byte(perm >> 8), byte(id), byte(id >> 8), byte(id >> 16), byte(id >> 24)}
	}
	out := []byte{2, 0, 0, 0}
	for _, b := range [][]byte{e(1, 6, ^uint32(0)), e(2, 4, id), e(4, 4, ^uint32(0)), e(16, 4, ^uint32(0)), e(32, 0, ^uint32(0))} {
		out = append(out, b...)
	}
	return out
}

// capNetRaw is security.capability: cap_net_raw=ep, revision 2.
var capNetRaw = []byte{1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}

// maker makes things in a directory and keeps the errors.
type maker struct {
	dir  string
	errs []error
}

// Make fills the directory dir, which must exist, with difficult things.
func Make(dir string, opt Options) error {
	m := &maker{dir: dir}
	m.names()
	m.links()
	m.sparseFiles(opt.Huge)
	m.attributes()
	if opt.Trusted {
		m.trusted()
	}
	if opt.Flags {
		m.flags()
	}
	m.times()
	return errors.Join(m.errs...)
}

func (m *maker) do(err error) {
	if err != nil {
		m.errs = append(m.errs, err)
	}
}

func (m *maker) path(n string) string { return m.dir + "/" + n }

func (m *maker) file(n, content string, mode os.FileMode) {
	m.do(os.WriteFile(m.path(n), []byte(content), 0o600))
	m.do(unix.Chmod(m.path(n), uint32(mode)))
}

// names makes files and directories of odd names, modes and sizes.
func (m *maker) names() {
	m.file("empty", "", 0o644)
	m.file("plain", "plain text\n", 0o640)
	m.file("big", strings.Repeat("0123456789abcdef", 700<<10), 0o644) // 11 MiB, over several frames
	m.file("setuid", "#!", 0o4755)
	m.file("setgid", "#!", 0o2755)
	m.file("mode0", "secret", 0)
	m.file(strings.Repeat("n", 255), "a name of 255 bytes", 0o644)
	m.file("latin1-\xe4\xf6\xfc", "a name that is not UTF-8", 0o644)
	m.file("new\nline", "a name with a newline", 0o644)
	m.file(" -rf *\\\t'\"", "a name that a shell would like", 0o644)
	m.file("ünïcode-日本", "a UTF-8 name", 0o644)
	m.do(os.MkdirAll(m.path("sticky"), 0o755))
	m.do(unix.Chmod(m.path("sticky"), 0o1777))
	deep := strings.Repeat("deep-directory-with-a-long-name/", 12)
	m.do(os.MkdirAll(m.path(deep), 0o755))
	m.file(deep+"bottom-\xff\xfe", "a long path that is not UTF-8", 0o644)
	m.file(deep+"bottom", "a long path", 0o644)
	m.do(os.Mkdir(m.path("emptydir"), 0o700))
}

func (m *maker) links() {
	m.do(os.Link(m.path("plain"), m.path("hardlink1")))
	m.do(os.Link(m.path("plain"), m.path("sticky/hardlink2")))
	m.do(os.Symlink("plain", m.path("symlink")))
	m.do(os.Symlink("/nonexistent/"+strings.Repeat("x", 300), m.path("long-symlink")))
	m.do(os.Symlink("../..", m.path("sticky/up")))
	m.do(unix.Mkfifo(m.path("fifo"), 0o620))
}

func (m *maker) sparseFiles(huge bool) {
	sparse := func(n string, size int64, at ...int64) {
		f, err := os.Create(m.path(n))
		m.do(err)
		m.do(f.Truncate(size))
		for _, o := range at {
			_, err := f.WriteAt([]byte("data at "+fmt.Sprint(o)), o)
			m.do(err)
		}
		m.do(f.Close())
	}
	sparse("sparse", 3<<20, 1<<20)
	sparse("sparse-hole-only", 1<<20)
	sparse("sparse-end", 8<<20+17, 0, 8<<20)
	sparse(strings.Repeat("s", 150)+"-sparse-long-name", 2<<20, 1<<20)
	if huge {
		sparse("sparse-5GiB", 5<<30, 0, 4<<30+12345, 5<<30-4096)
	}
}

func (m *maker) attributes() {
	m.do(unix.Setxattr(m.path("plain"), "user.comment", []byte("with\x00binary\xff"), 0))
	m.do(unix.Setxattr(m.path("plain"), "user.a=b%c", []byte("="), 0))
	m.do(unix.Setxattr(m.path("emptydir"), "user.dir", []byte("on a directory"), 0))
	m.do(unix.Setxattr(m.path("big"), "system.posix_acl_access", posixACL(1234), 0))
	m.do(unix.Setxattr(m.path("emptydir"), "system.posix_acl_default", posixACL(4321), 0))
}

// trusted makes what only root can.
func (m *maker) trusted() {
	m.do(unix.Setxattr(m.path("setgid"), "trusted.overlay", []byte("y"), 0))
	m.do(unix.Setxattr(m.path("setuid"), "security.capability", capNetRaw, 0))
	m.do(unix.Lsetxattr(m.path("symlink"), "trusted.link", []byte("on a link"), 0))
	m.do(unix.Mknod(m.path("char"), unix.S_IFCHR|0o640, int(unix.Mkdev(4, 65))))
	m.do(unix.Mknod(m.path("block"), unix.S_IFBLK|0o660, int(unix.Mkdev(259, 100000))))
	m.do(os.Lchown(m.path("empty"), 3000000, 2500000))
	m.do(os.Lchown(m.path("symlink"), 1000, 1001))
	m.do(os.Lchown(m.path("new\nline"), 65534, 65534))
}

func (m *maker) flags() {
	m.do(os.Mkdir(m.path("nocow"), 0o755))
	m.do(os.Mkdir(m.path("locked"), 0o755))
	m.file("locked/in", "in an immutable directory", 0o644)
	m.file("immutable", "chattr +i", 0o644)
	m.file("log", "chattr +a", 0o644)
	m.file("undumped", "chattr +d, and +A", 0o644)
	m.file("nocow/old", "without it", 0o644)
	m.do(os.Mkdir(m.path("folded"), 0o755))
	for n, bits := range map[string]uint32{"immutable": 0x10, "log": 0x20, "undumped": 0xC0, "locked": 0x10, "nocow": 0x800000, "folded": 0x40000000} {
		err := chattr(m.path(n), bits)
		if (n == "nocow" || n == "folded") && (errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL)) {
			err = nil // only btrfs has the one, and only some ext4 the other
		}
		m.do(err)
	}
	m.file("nocow/new", "with it", 0o644)
	m.do(os.Mkdir(m.path("folded/Sub"), 0o755))
	m.file("folded/Sub/Name", "without case", 0o644)
	var fs unix.Statfs_t
	m.do(unix.Statfs(m.dir, &fs))
	if fs.Type == unix.EXT4_SUPER_MAGIC {
		m.do(setProject(m.path("undumped"), 4711))
	}
}

func (m *maker) times() {
	when := func(n string, sec, nsec int64) {
		ts := []unix.Timespec{{Sec: sec, Nsec: nsec}, {Sec: sec, Nsec: nsec}}
		m.do(unix.UtimesNanoAt(unix.AT_FDCWD, m.path(n), ts, unix.AT_SYMLINK_NOFOLLOW))
	}
	when("plain", 1234567890, 123456789)
	when("empty", 1, 1)
	when("symlink", 1500000000, 999999999)
	when("fifo", 1600000000, 5)
	when("mode0", 4102444800, 500000000)
	when("emptydir", 1111111111, 1)
	when("sticky", 1222222222, 222222222)
}

func chattr(name string, bits uint32) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	is, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if err != nil {
		return err
	}
	return unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, int(uint32(is)|bits))
}

// fsxattr is that of linux/fs.h: flags, extent size, extents, project, and what
// is of no interest here.
type fsxattr [7]uint32

func (x *fsxattr) ioctl(name string, set bool) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	req := uint(0x801c581f) // FS_IOC_FSGETXATTR
	if set {
		req = 0x401c5820 // FS_IOC_FSSETXATTR
	}
	return ioctl.Do(f.Fd(), req, x)
}

// setProject gives a file a project where the file system keeps them.
func setProject(name string, project uint32) error {
	var x fsxattr
	if err := x.ioctl(name, false); err != nil {
		return err
	}
	x[3] = project
	if err := x.ioctl(name, true); err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		return err
	}
	return nil
}

// Entry describes one path. Two entries are equal when every word is.
type Entry struct {
	Path string
	Text string
}

// Describe lists everything below root on its file system, sorted by path:
// type, mode, owner, size, mtime, link target, device, MD5 (nine times as
// fast as SHA-256 on an emulated processor, and nobody attacks here) of the
// content (its non-zero 4 KiB blocks with their offsets), whether it has
// holes, the paths it is hard-linked to, attributes, flags of chattr(1). skip leaves out subtrees.
func Describe(root string, skip func(path string) bool) ([]Entry, error) {
	var rst unix.Stat_t
	if err := unix.Lstat(root, &rst); err != nil {
		return nil, err
	}
	var out []Entry
	des := &describer{make([]byte, 1<<20), make([]byte, 64<<10), make([]byte, 64<<10)}
	links := map[uint64][]int{}
	names := map[uint64][]string{}
	err := filepath.WalkDir(root, func(full string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, full)
		if skip != nil && rel != "." && skip("/"+rel) {
			if d.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		var st unix.Stat_t
		if err := unix.Lstat(full, &st); err != nil {
			return err
		}
		if st.Dev != rst.Dev {
			out = append(out, Entry{rel, "a mount point"})
			return filepath.SkipDir
		}
		text, err := des.entry(full, &st)
		if err != nil {
			return fmt.Errorf("%s: %w", full, err)
		}
		if st.Nlink > 1 && !d.IsDir() {
			links[st.Ino] = append(links[st.Ino], len(out))
			names[st.Ino] = append(names[st.Ino], rel)
		}
		out = append(out, Entry{rel, text})
		return nil
	})
	for ino, idx := range links {
		for _, i := range idx {
			out[i].Text += fmt.Sprintf(" links=%q", names[ino])
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Path < out[j].Path })
	return out, err
}

// describer keeps its buffers: to clear new ones takes longer than to read
// most files.
type describer struct{ data, names, value []byte }

func (d *describer) entry(full string, st *unix.Stat_t) (string, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "mode=%06o uid=%d gid=%d", st.Mode, st.Uid, st.Gid)
	kind := st.Mode & unix.S_IFMT
	if kind == unix.S_IFSOCK {
		return "socket", nil
	}
	fmt.Fprintf(&b, " mtime=%d.%09d", st.Mtim.Sec, st.Mtim.Nsec)
	switch kind {
	case unix.S_IFREG:
		sum, err := d.hash(full)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&b, " size=%d md5=%s", st.Size, sum)
		if st.Size >= 1<<20 && st.Blocks*512 < st.Size/2 {
			b.WriteString(" sparse")
		}
	case unix.S_IFLNK:
		t, err := os.Readlink(full)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&b, " target=%q", t)
	case unix.S_IFCHR, unix.S_IFBLK:
		fmt.Fprintf(&b, " rdev=%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	}
	if n, err := unix.Llistxattr(full, d.names); err == nil {
		attrs := strings.Split(strings.TrimSuffix(string(d.names[:n]), "\x00"), "\x00")
		sort.Strings(attrs)
		for _, a := range attrs {
			if a == "" {
				continue
			}
			k, err := unix.Lgetxattr(full, a, d.value)
			if err != nil {
				return "", err
			}
			fmt.Fprintf(&b, " %s=%x", a, d.value[:k])
		}
	}
	if kind == unix.S_IFREG || kind == unix.S_IFDIR {
		f, err := os.Open(full)
		if err != nil {
			return "", err
		}
		defer f.Close()
		// What describes how the file system keeps it is not its own: encrypted, indexed,
		// verity, huge, extents, extended attribute in an inode, inline data.
		const own = 0x800 | 0x1000 | 0x100000 | 0x40000 | 0x80000 | 0x200000 | 0x10000000
		if n, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS); err == nil && n&^own != 0 {
			fmt.Fprintf(&b, " flags=%x", uint32(n)&^own)
		}
		var x fsxattr
		if x.ioctl(full, false) == nil && x[3] != 0 {
			fmt.Fprintf(&b, " project=%d", x[3])
		}
	}
	return b.String(), nil
}

func (d *describer) hash(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	// Of each run of blocks that are not zero: where it begins, and its bytes.
	h := md5.New()
	buf := d.data
	zero := make([]byte, 4096)
	end := int64(-1)
	for off := int64(0); ; {
		// Holes are skipped; where they can't be asked for, zeros are read.
		if at, err := f.Seek(off, unix.SEEK_DATA); err == nil {
			off = at &^ 4095
		} else if errors.Is(err, unix.ENXIO) {
			break
		}
		n, err := f.ReadAt(buf, off)
		for i := 0; i < n; i += 4096 {
			blk := buf[i:min(i+4096, n)]
			if string(blk) == string(zero[:len(blk)]) {
				continue
			}
			if at := off + int64(i); at != end {
				fmt.Fprintf(h, "|%d:", at)
			}
			h.Write(blk)
			end = off + int64(i+len(blk))
		}
		off += int64(n)
		if err == io.EOF {
			break
		}
		if err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// Difference is one path that is not the same on both sides.
type Difference struct{ Path, Before, After string }

func (d Difference) String() string {
	return fmt.Sprintf("%q\n  before: %s\n  after:  %s", d.Path, d.Before, d.After)
}

// Compare lists the differences of two descriptions; "" stands for missing.
func Compare(before, after []Entry) []Difference {
	have := map[string]string{}
	for _, e := range after {
		have[e.Path] = e.Text
	}
	var out []Difference
	for _, e := range before {
		t, ok := have[e.Path]
		delete(have, e.Path)
		if !ok || t != e.Text {
			out = append(out, Difference{e.Path, e.Text, t})
		}
	}
	for p, t := range have {
		out = append(out, Difference{p, "", t})
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Path < out[j].Path })
	return out
}
