package files

import (
	"errors"
	"fmt"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/tools"
	"github.com/mkcdrec/mkcdrec/internal/tools/posix"
)

var errUnknown = errors.New("unknown predicate")

func truthful(*found) bool { return true }

// plain are the words without a value.
func (f *finder) plain(w string) predicate {
	switch w {
	case "-print":
		f.action = true
		return func(x *found) bool { f.Printf("%s\n", x.path); return true }
	case "-print0":
		f.action = true
		return func(x *found) bool { f.Printf("%s\x00", x.path); return true }
	case "-ls":
		f.action = true
		return func(x *found) bool { f.ls(x); return true }
	case "-delete":
		f.action, f.depth = true, true
		return f.remove
	case "-prune":
		return func(*found) bool { f.prune = true; return true }
	case "-quit":
		f.action = true
		return func(*found) bool { f.quit = true; return true }
	case "-false":
		return func(*found) bool { return false }
	case "-empty":
		return empty
	case "-readable", "-writable", "-executable":
		mode := map[byte]uint32{'r': unix.R_OK, 'w': unix.W_OK, 'e': unix.X_OK}[w[1]]
		return func(x *found) bool { return unix.Access(x.path, mode) == nil }
	case "-nouser":
		return func(x *found) bool { return userName(x.st.Uid) == strconv.Itoa(int(x.st.Uid)) }
	case "-nogroup":
		return func(x *found) bool { return groupName(x.st.Gid) == strconv.Itoa(int(x.st.Gid)) }
	}
	return f.always(w)
}

// always are the words that are true; some change how the trees are read.
func (f *finder) always(w string) predicate {
	switch w {
	case "-true", "-noleaf", "-nowarn", "-warn", "-ignore_readdir_race":
	case "-depth", "-d":
		f.depth = true
	case "-xdev", "-mount":
		f.xdev = true
	case "-daystart":
		f.daystart = true
	case "-follow":
		f.follow = 'L'
	default:
		return nil
	}
	return truthful
}

func empty(x *found) bool {
	if x.st.Mode&unix.S_IFMT == unix.S_IFDIR {
		n, err := readDir(x.path)
		return err == nil && len(n) == 0
	}
	return x.st.Mode&unix.S_IFMT == unix.S_IFREG && x.st.Size == 0
}

// number makes a comparison of "+N", "-N" or "N".
func number(s string) (func(n int64) bool, error) {
	sign := byte(0)
	if s != "" && (s[0] == '+' || s[0] == '-') {
		sign, s = s[0], s[1:]
	}
	v, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return nil, err
	}
	return func(n int64) bool {
		return sign == '+' && n > v || sign == '-' && n < v || sign == 0 && n == v
	}, nil
}

func (f *finder) valued(w, v string) (predicate, error) {
	bad := fmt.Errorf("invalid argument '%s' to '%s'", v, w)
	base := func(x *found) string {
		return path.Base(strings.TrimRight(x.path, "/") + map[bool]string{true: "/"}[x.path == "/"])
	}
	whole := func(x *found) string { return x.path }
	link := func(x *found) string { l, _ := os.Readlink(x.path); return l }
	if of := map[string]func(*found) string{"-name": base, "-path": whole, "-wholename": whole, "-lname": link}[strings.Replace(w, "-i", "-", 1)]; of != nil {
		re, err := globRE(v, w[1] == 'i')
		return func(x *found) bool { return re.MatchString(of(x)) }, err
	}
	switch w {
	case "-regex", "-iregex":
		return f.regex(v, w == "-iregex")
	case "-regextype":
		if _, ok := regexTypes[v]; !ok {
			return nil, fmt.Errorf("unknown regular expression type '%s'; valid types are 'findutils-default', 'emacs', 'ed', 'sed', 'grep', 'posix-basic', 'posix-minimal-basic', 'posix-extended', 'posix-egrep', 'egrep', 'posix-awk', 'awk', 'gnu-awk'", v)
		}
		f.regexType = v
		return truthful, nil
	case "-maxdepth", "-mindepth":
		to := map[string]*int{"-maxdepth": &f.max, "-mindepth": &f.min}[w]
		var err error
		if *to, err = strconv.Atoi(v); err != nil || *to < 0 {
			return nil, fmt.Errorf("expected a positive decimal integer argument to %s, but got '%s'", w, v)
		}
		return truthful, nil
	case "-type", "-xtype":
		return f.typed(w, v)
	case "-size":
		return f.size(v)
	case "-links", "-inum":
		in, err := number(v)
		if err != nil {
			return nil, bad
		}
		return func(x *found) bool {
			if w == "-inum" {
				return in(int64(x.st.Ino))
			}
			return in(int64(x.st.Nlink))
		}, nil
	case "-perm":
		return perm(v)
	case "-printf":
		f.action = true
		return func(x *found) bool { f.Out.WriteString(f.format(x, v)); return true }, nil
	case "-fprint":
		out, err := os.Create(v)
		f.action = true
		return func(x *found) bool { fmt.Fprintln(out, x.path); return true }, err
	}
	return f.timed(w, v, bad)
}

// regexTypes are the values of -regextype: 'e' for extended expressions, 'b' for basic ones, and
// 0 for those of Emacs, in which + and ? repeat.
var regexTypes = map[string]byte{"findutils-default": 0, "emacs": 0, "": 0, "ed": 'b', "sed": 'b', "grep": 'b', "posix-basic": 'b', "posix-minimal-basic": 'b', "posix-extended": 'e', "posix-egrep": 'e', "egrep": 'e', "posix-awk": 'e', "awk": 'e', "gnu-awk": 'e'}

// regex is -regex, which the whole path has to match.
func (f *finder) regex(v string, fold bool) (predicate, error) {
	kind := regexTypes[f.regexType]
	switch kind {
	case 'e':
		v = "^(" + v + ")$"
	case 0:
		v = strings.NewReplacer(`\\`, `\\`, `\+`, `+`, `\?`, `?`, `+`, `\+`, `?`, `\?`).Replace(v)
		fallthrough
	default:
		v = `^\(` + v + `\)$`
	}
	re, err := posix.Compile(v, posix.Flags{Extended: kind == 'e', Fold: fold})
	return func(x *found) bool { return re.MatchString(x.path) }, err
}

func (f *finder) timed(w, v string, bad error) (predicate, error) {
	switch w {
	case "-user", "-uid", "-group", "-gid":
		id := userID
		if strings.HasPrefix(w, "-g") {
			id = groupID
		}
		n, err := id(v)
		if err != nil {
			return nil, fmt.Errorf("'%s' is not the name of a known %s", v, map[bool]string{true: "group", false: "user"}[w[1] == 'g'])
		}
		return func(x *found) bool {
			if w[1] == 'g' {
				return int(x.st.Gid) == n
			}
			return int(x.st.Uid) == n
		}, nil
	case "-mtime", "-atime", "-ctime", "-mmin", "-amin", "-cmin":
		in, err := number(v)
		if err != nil {
			return nil, bad
		}
		unit := int64(24 * time.Hour)
		if strings.HasSuffix(w, "min") {
			unit = int64(time.Minute)
		}
		now := f.now
		if f.daystart {
			now = time.Date(now.Year(), now.Month(), now.Day()+1, 0, 0, 0, 0, now.Location())
		}
		return func(x *found) bool {
			age := now.UnixNano() - timeOf(&x.st, w[1])
			if unit == int64(time.Minute) {
				return in((age + unit - 1) / unit)
			}
			return in(age / unit)
		}, nil
	case "-newer", "-anewer", "-cnewer", "-newermt", "-samefile":
		return f.compared(w, v)
	case "-fstype":
		return func(x *found) bool {
			real, err := canonical(x.path, "m")
			m, ok := mountOf(real)
			return err == nil && ok && m.Type == v
		}, nil
	}
	return nil, errUnknown
}

func timeOf(st *syscall.Stat_t, which byte) int64 {
	switch which {
	case 'a':
		return st.Atim.Nano()
	case 'c':
		return st.Ctim.Nano()
	}
	return st.Mtim.Nano()
}

// compared are the words that compare with another file, or with a date as if a file had it.
func (f *finder) compared(w, v string) (predicate, error) {
	var st syscall.Stat_t
	if w == "-newermt" {
		t, err := tools.ParseDate(v, f.now)
		if err != nil {
			return nil, fmt.Errorf("i cannot figure out how to interpret '%s' as a date or time", v)
		}
		st.Mtim = syscall.NsecToTimespec(t.UnixNano())
	} else if err := syscall.Stat(v, &st); err != nil {
		return nil, fmt.Errorf("'%s': %s", v, tools.Cause(err))
	}
	if w == "-samefile" {
		return func(x *found) bool { return x.st.Dev == st.Dev && x.st.Ino == st.Ino }, nil
	}
	which := byte('m')
	if w[1] != 'n' {
		which = w[1]
	}
	return func(x *found) bool { return timeOf(&x.st, which) > st.Mtim.Nano() }, nil
}

// globSet translates the set at the begin of p, and gives its length: 1 where it has no end.
func globSet(p string) (string, int) {
	j := 1
	if j < len(p) && (p[j] == '!' || p[j] == '^') {
		j++
	}
	if j < len(p) && p[j] == ']' {
		j++
	}
	k := strings.IndexByte(p[j:], ']')
	if k < 0 {
		return `\[`, 1
	}
	set := p[1 : j+k]
	if set[0] == '!' {
		set = "^" + set[1:]
	}
	return "[" + strings.ReplaceAll(set, `\`, `\\`) + "]", j + k + 1
}

// globRE makes an expression of a pattern of fnmatch(3), whose * takes slashes.
func globRE(p string, fold bool) (*regexp.Regexp, error) {
	var b strings.Builder
	b.WriteString("(?s")
	if fold {
		b.WriteByte('i')
	}
	b.WriteString(")^")
	for i := 0; i < len(p); i++ {
		switch c := p[i]; {
		case c == '*':
			b.WriteString(".*")
		case c == '?':
			b.WriteByte('.')
		case c == '[':
			set, n := globSet(p[i:])
			b.WriteString(set)
			i += n - 1
		case c == '\\' && i+1 < len(p):
			i++
			b.WriteString(regexp.QuoteMeta(p[i : i+1]))
		case c >= 128:
			b.WriteByte(c)
		default:
			b.WriteString(regexp.QuoteMeta(p[i : i+1]))
		}
	}
	return regexp.Compile(b.String() + "$")
}

var typeLetters = map[byte]uint32{'f': unix.S_IFREG, 'd': unix.S_IFDIR, 'l': unix.S_IFLNK, 'b': unix.S_IFBLK, 'c': unix.S_IFCHR, 'p': unix.S_IFIFO, 's': unix.S_IFSOCK}

func (f *finder) typed(w, v string) (predicate, error) {
	var kinds []uint32
	for _, t := range strings.Split(v, ",") {
		if len(t) != 1 || typeLetters[t[0]] == 0 {
			return nil, fmt.Errorf("unknown argument to %s: %s", w, v)
		}
		kinds = append(kinds, typeLetters[t[0]])
	}
	return func(x *found) bool {
		mode := x.st.Mode
		var st syscall.Stat_t
		if w == "-xtype" && syscall.Stat(x.path, &st) == nil {
			mode = st.Mode
		}
		return slices.Contains(kinds, mode&unix.S_IFMT)
	}, nil
}

func (f *finder) size(v string) (predicate, error) {
	unit, num := int64(512), v
	if v != "" {
		if u, ok := map[byte]int64{'c': 1, 'w': 2, 'b': 512, 'k': 1 << 10, 'M': 1 << 20, 'G': 1 << 30}[v[len(v)-1]]; ok {
			unit, num = u, v[:len(v)-1]
		}
	}
	in, err := number(num)
	if err != nil {
		return nil, fmt.Errorf("invalid argument `%s' to -size", v)
	}
	return func(x *found) bool { return in((x.st.Size + unit - 1) / unit) }, nil
}

func perm(v string) (predicate, error) {
	how := byte(0)
	m := v
	if m != "" && (m[0] == '-' || m[0] == '/') {
		how, m = m[0], m[1:]
	}
	mode, err := parseMode(m, 0, false, 0)
	if err != nil {
		return nil, fmt.Errorf("invalid mode '%s'", v)
	}
	return func(x *found) bool {
		got := x.st.Mode & 0o7777
		switch how {
		case '-':
			return got&mode == mode
		case '/':
			return got&mode != 0 || mode == 0
		}
		return got == mode
	}, nil
}
