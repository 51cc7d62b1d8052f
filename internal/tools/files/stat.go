package files

import (
	"cmp"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/sysconf"
	"github.com/mkcdrec/mkcdrec/internal/tools"
)

func statCommands() []tools.Command {
	return []tools.Command{{Name: "stat", Opts: "L/dereference f/file-system c/format: printf: t/terse", Synopsis: "FILE...", Run: stat}}
}

func sysStat(i fs.FileInfo) (*syscall.Stat_t, bool) {
	s, ok := i.Sys().(*syscall.Stat_t)
	return s, ok
}

func kindOf(i fs.FileInfo) string {
	s, ok := sysStat(i)
	if !ok {
		return "file"
	}
	return kindName(s.Mode, s.Size)
}

func kindName(mode uint32, size int64) string {
	kind := mode & unix.S_IFMT
	if kind == unix.S_IFREG && size == 0 {
		return "regular empty file"
	}
	return cmp.Or(map[uint32]string{unix.S_IFREG: "regular file", unix.S_IFDIR: "directory", unix.S_IFLNK: "symbolic link", unix.S_IFBLK: "block special file", unix.S_IFCHR: "character special file", unix.S_IFIFO: "fifo", unix.S_IFSOCK: "socket"}[kind], "weird file")
}

func userName(id uint32) string {
	s := strconv.FormatUint(uint64(id), 10)
	if u, err := user.LookupId(s); err == nil {
		return u.Username
	}
	return s
}

func groupName(id uint32) string {
	s := strconv.FormatUint(uint64(id), 10)
	if g, err := user.LookupGroupId(s); err == nil {
		return g.Name
	}
	return s
}

const (
	longStat = "  File: %Q\n  Size: %-10s\tBlocks: %-10b IO Block: %-6o %F\nDevice: %Hd,%Ld\tInode: %-11i Links: %h\nAccess: (%04a/%10.10A)  Uid: (%5u/%8U)   Gid: (%5g/%8G)\nAccess: %x\nModify: %y\nChange: %z\n Birth: %w\n"
	nodeStat = "  File: %Q\n  Size: %-10s\tBlocks: %-10b IO Block: %-6o %F\nDevice: %Hd,%Ld\tInode: %-11i Links: %-5h Device type: %Hr,%Lr\nAccess: (%04a/%10.10A)  Uid: (%5u/%8U)   Gid: (%5g/%8G)\nAccess: %x\nModify: %y\nChange: %z\n Birth: %w\n"
	fsStat   = "  File: \"%n\"\n    ID: %-8i Namelen: %-7l Type: %T\nBlock size: %-10s Fundamental block size: %S\nBlocks: Total: %-10b Free: %-10f Available: %a\nInodes: Total: %-10c Free: %d\n"
)

func stat(e *tools.Env) error {
	if err := e.Need(1, -1); err != nil {
		return err
	}
	format, end := e.Val("c"), "\n"
	if o, _ := e.Last("c", "printf"); o.Name == "printf" {
		format, end = unescapeFormat(o.Value), ""
	}
	for _, p := range e.Args {
		var show func(verb string) (string, bool)
		f := format
		if e.On("f") {
			var st unix.Statfs_t
			if err := unix.Statfs(p, &st); err != nil {
				e.Warn("cannot read file system information for '%s': %s", p, tools.Cause(err))
				continue
			}
			show = func(v string) (string, bool) { return fsField(v, p, &st) }
			if f == "" {
				f, end = fsStat, ""
			}
		} else {
			flags := unix.AT_SYMLINK_NOFOLLOW
			if e.On("L") {
				flags = 0
			}
			var st unix.Statx_t
			if err := unix.Statx(unix.AT_FDCWD, p, flags, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &st); err != nil {
				e.Warn("cannot statx '%s': %s", p, tools.Cause(err))
				continue
			}
			show = func(v string) (string, bool) { return statField(v, p, &st) }
			switch mode := uint32(st.Mode) & unix.S_IFMT; {
			case f == "" && e.On("t"):
				f = "%n %s %b %f %u %g %D %i %h %t %T %X %Y %Z %W %o"
			case f == "" && (mode == unix.S_IFBLK || mode == unix.S_IFCHR):
				f, end = nodeStat, ""
			case f == "":
				f, end = longStat, ""
			}
		}
		e.Printf("%s%s", expandFormat(f, show), end)
	}
	return nil
}

// unescapeFormat replaces the escapes of a format.
func unescapeFormat(s string) string {
	return strings.NewReplacer(`\n`, "\n", `\t`, "\t", `\\`, `\`, `\0`, "\x00", `\"`, `"`, `\r`, "\r", `\a`, "\a").Replace(s)
}

// expandFormat replaces %-10X and the like by what show gives for the letters behind the
// width; a verb of two letters begins with H or L.
func expandFormat(f string, show func(string) (string, bool)) string {
	var b strings.Builder
	for i := 0; i < len(f); i++ {
		if f[i] != '%' || i+1 == len(f) {
			b.WriteByte(f[i])
			continue
		}
		j := i + 1
		for j < len(f) && strings.IndexByte("-+ #0123456789.", f[j]) >= 0 {
			j++
		}
		if j == len(f) {
			b.WriteString(f[i:])
			break
		}
		n := 1
		if (f[j] == 'H' || f[j] == 'L') && j+1 < len(f) {
			n = 2
		}
		spec, verb := f[i+1:j], f[j:j+n]
		i = j + n - 1
		if verb == "%" {
			b.WriteByte('%')
			continue
		}
		s, ok := show(verb)
		switch {
		case !ok:
			b.WriteString("?")
		case strings.HasPrefix(spec, "#"):
			fmt.Fprintf(&b, "%"+spec[1:]+"s", map[bool]string{true: "0"}[verb == "a"]+s)
		case strings.HasPrefix(spec, "0") && !strings.Contains(spec, "."):
			w, _ := strconv.Atoi(spec) // only digits
			b.WriteString(strings.Repeat("0", max(0, w-len(s))) + s)
		default:
			fmt.Fprintf(&b, "%"+spec+"s", s)
		}
	}
	return b.String()
}

const longTime = "2006-01-02 15:04:05.000000000 -0700"

// statTime is a time in seconds for a large letter; that of creation may be unknown.
func statTime(letter byte, t unix.StatxTimestamp) (string, bool) {
	if t.Sec == 0 && t.Nsec == 0 && letter|32 == 'w' {
		return map[byte]string{'w': "-", 'W': "0"}[letter], true
	}
	if letter < 'a' {
		return strconv.FormatInt(t.Sec, 10), true
	}
	return time.Unix(t.Sec, int64(t.Nsec)).Format(longTime), true
}

func statField(v, name string, st *unix.Statx_t) (string, bool) {
	if t, ok := map[string]unix.StatxTimestamp{"x": st.Atime, "y": st.Mtime, "z": st.Ctime, "w": st.Btime}[strings.ToLower(v)]; ok {
		return statTime(v[0], t)
	}
	switch v {
	case "a":
		return strconv.FormatUint(uint64(st.Mode)&0o7777, 8), true
	case "A":
		return tools.ModeString(uint32(st.Mode)), true
	case "F":
		return kindName(uint32(st.Mode), int64(st.Size)), true
	case "G":
		return groupName(st.Gid), true
	case "U":
		return userName(st.Uid), true
	case "m":
		return mountPoint(name), true
	case "n":
		return name, true
	case "N":
		return withLink(name, st, quoteAlways), true
	case "Q":
		return withLink(name, st, tools.ShellQuote), true
	}
	dev := unix.Mkdev(st.Dev_major, st.Dev_minor)
	if n, ok := map[string]uint64{"b": st.Blocks, "B": 512, "d": dev, "Hd": uint64(st.Dev_major), "Ld": uint64(st.Dev_minor), "Hr": uint64(st.Rdev_major), "Lr": uint64(st.Rdev_minor), "g": uint64(st.Gid), "h": uint64(st.Nlink), "i": st.Ino, "o": uint64(st.Blksize), "s": st.Size, "u": uint64(st.Uid)}[v]; ok {
		return strconv.FormatUint(n, 10), true
	}
	n, ok := map[string]uint64{"D": dev, "t": uint64(st.Rdev_major), "T": uint64(st.Rdev_minor), "f": uint64(st.Mode)}[v]
	return strconv.FormatUint(n, 16), ok
}

func withLink(name string, st *unix.Statx_t, quote func(string) string) string {
	if l, err := os.Readlink(name); err == nil && st.Mode&unix.S_IFMT == unix.S_IFLNK {
		return quote(name) + " -> " + quote(l)
	}
	return quote(name)
}

// quoteAlways quotes a name even where a shell would not need it.
func quoteAlways(s string) string {
	if q := tools.ShellQuote(s); q != s {
		return q
	}
	return "'" + s + "'"
}

func mountPoint(p string) string {
	real, err := canonical(p, "m")
	if err != nil {
		return "?"
	}
	m, ok := mountOf(real)
	if !ok {
		return "?"
	}
	return m.Path
}

// mountOf is the mount that a path without links is in: the last one of the longest.
func mountOf(real string) (sysconf.Mount, bool) {
	ms, err := mounts()
	if err != nil {
		return sysconf.Mount{}, false
	}
	best, found := sysconf.Mount{}, false
	for _, m := range ms {
		if (m.Path == "/" || real == m.Path || strings.HasPrefix(real, m.Path+"/")) && len(m.Path) >= len(best.Path) {
			best, found = m, true
		}
	}
	return best, found
}

func fsField(v, name string, st *unix.Statfs_t) (string, bool) {
	if n, ok := map[string]uint64{"a": st.Bavail, "b": st.Blocks, "c": st.Files, "d": st.Ffree, "f": st.Bfree, "l": uint64(st.Namelen), "s": uint64(st.Bsize), "S": uint64(st.Frsize)}[v]; ok {
		return strconv.FormatUint(n, 10), true
	}
	id := uint64(uint32(st.Fsid.Val[0]))<<32 | uint64(uint32(st.Fsid.Val[1]))
	s, ok := map[string]string{"i": fmt.Sprintf("%x", id), "n": name, "t": strconv.FormatInt(st.Type, 16), "T": fsTypeName(st.Type)}[v]
	return s, ok
}

// fsTypeName is the name of a magic number of statfs(2), as GNU's stat has it.
func fsTypeName(t int64) string {
	if n := map[int64]string{0xef53: "ext2/ext3", 0x01021994: "tmpfs", 0x9123683e: "btrfs", 0x58465342: "xfs", 0x794c7630: "overlayfs", 0x9fa0: "proc", 0x62656572: "sysfs", 0x4d44: "msdos", 0x6969: "nfs", 0x9660: "isofs", 0x858458f6: "ramfs", 0xf2f52010: "f2fs", 0x73717368: "squashfs", 0x1cd1: "devpts", 0x63677270: "cgroup2fs", 0x2011bab0: "exfat", 0x65735546: "fuseblk", 0x3153464a: "jfs", 0x52654973: "reiserfs"}[t]; n != "" {
		return n
	}
	return fmt.Sprintf("UNKNOWN (0x%x)", t)
}
