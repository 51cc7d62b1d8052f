package files

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/tools"
)

func (f *finder) remove(x *found) bool {
	if x.path == "." {
		return true
	}
	do := syscall.Unlink
	if x.st.Mode&unix.S_IFMT == unix.S_IFDIR {
		do = syscall.Rmdir
	}
	if err := do(x.path); err != nil {
		f.Warn("cannot delete '%s': %s", x.path, tools.Cause(err))
		return false
	}
	return true
}

func (f *finder) exec(w string) (predicate, error) {
	f.action = true
	ask, inDir := strings.HasPrefix(w, "-ok"), strings.HasSuffix(w, "dir")
	start := f.i
	for ; f.i < len(f.args); f.i++ {
		a := f.args[f.i]
		if a == ";" {
			break
		}
		if a == "+" && f.i > start && f.args[f.i-1] == "{}" {
			b := &batch{argv: f.args[start : f.i-1]}
			f.i++
			f.batches = append(f.batches, b)
			return func(x *found) bool {
				p := x.path
				if inDir {
					if dir := path.Dir(p); dir != b.dir {
						f.flush(b)
						b.dir = dir
					}
					p = "./" + path.Base(p)
				}
				b.files = append(b.files, p)
				if b.size += len(p) + 9; b.size > 100<<10 {
					f.flush(b)
				}
				return true
			}, nil
		}
	}
	if f.i == len(f.args) || f.i == start {
		return nil, fmt.Errorf("missing argument to '%s'", w)
	}
	argv := f.args[start:f.i]
	f.i++
	return func(x *found) bool {
		var a []string
		p, dir := x.path, ""
		if inDir {
			p, dir = "./"+path.Base(p), path.Dir(p)
		}
		for _, s := range argv {
			a = append(a, strings.ReplaceAll(s, "{}", p))
		}
		if ask && !tools.Confirm(f.Env, "< %s ... %s > ? ", a[0], x.path) {
			return false
		}
		return f.run(a, dir) == nil
	}, nil
}

func (f *finder) run(argv []string, dir string) error {
	if err := f.Out.Flush(); err != nil {
		return err
	}
	c := exec.Command(argv[0], argv[1:]...)
	c.Dir = dir
	c.Stdin, c.Stdout, c.Stderr = f.In, os.Stdout, f.Err
	err := c.Run()
	var x *exec.ExitError
	if err != nil && !errors.As(err, &x) {
		f.Warn("'%s': %s", argv[0], tools.Cause(err))
	}
	return err
}

func (f *finder) flush(b *batch) {
	if len(b.files) == 0 {
		return
	}
	if err := f.run(append(b.argv[:len(b.argv):len(b.argv)], b.files...), b.dir); err != nil {
		f.Set(1)
	}
	b.files, b.size = nil, 0
}

func (f *finder) ls(x *found) {
	l := ""
	if t, err := os.Readlink(x.path); err == nil {
		l = " -> " + t
	}
	st := &x.st
	f.Printf("%9d %6d %s %3d %-8s %-8s %8d %s %s%s\n", st.Ino, (st.Blocks+1)/2, tools.ModeString(st.Mode), st.Nlink, userName(st.Uid), groupName(st.Gid), st.Size, (&lister{Env: f.Env, now: f.now}).stamp(st.Mtim.Nano()), x.path, l)
}

// format is -printf.
func (f *finder) format(x *found, spec string) string {
	spec = unescapeFormat(spec)
	st := &x.st
	when := func(ts syscall.Timespec, verb string) string {
		t := time.Unix(ts.Unix())
		if verb == "@" {
			return fmt.Sprintf("%d.%09d0", ts.Sec, ts.Nsec)
		}
		if verb == "+" {
			return t.Format("2006-01-02+15:04:05") + fmt.Sprintf(".%09d0", ts.Nsec)
		}
		if verb == "T" || verb == "S" || verb == "X" {
			return tools.Strftime("%"+verb, t) + fmt.Sprintf(".%09d0", ts.Nsec)
		}
		return tools.Strftime("%"+verb, t)
	}
	re := regexp.MustCompile(`%[-+ #0]*[0-9]*(?:\.[0-9]+)?(?:[TAC].|[a-zA-Z%])`)
	return re.ReplaceAllStringFunc(spec, func(c string) string {
		verb := strings.TrimLeft(c[1:], "-+ #0123456789.")
		flags := c[1 : len(c)-len(verb)]
		width := strings.TrimLeft(strings.NewReplacer("+", "", " ", "", "#", "").Replace(flags), "0")
		s := ""
		switch verb[0] {
		case '%':
			return "%"
		case 'T':
			s = when(st.Mtim, verb[1:])
		case 'A':
			s = when(st.Atim, verb[1:])
		case 'C':
			s = when(st.Ctim, verb[1:])
		case 't':
			s = time.Unix(st.Mtim.Unix()).Format("Mon Jan _2 15:04:05.0000000000 2006")
		case 'm':
			if s = f.field(x, 'm'); strings.Contains(flags, "#") {
				s = "0" + s
			}
		default:
			if strings.IndexByte("pHMfhPuglskbUGindDyYF", verb[0]) < 0 {
				f.unknown(verb)
				return c
			}
			s = f.field(x, verb[0])
		}
		return fmt.Sprintf("%"+width+"s", s)
	})
}

// unknown reports a directive of -printf that does not exist, once.
func (f *finder) unknown(verb string) {
	if !f.warned {
		fmt.Fprintf(f.Err, "find: warning: unrecognized format directive '%%%s'\n", verb)
	}
	f.warned = true
}

func (f *finder) field(x *found, verb byte) string {
	st := &x.st
	if s, ok := map[byte]string{'p': x.path, 'H': x.start, 'm': strconv.FormatUint(uint64(st.Mode&0o7777), 8), 'M': tools.ModeString(st.Mode)}[verb]; ok {
		return s
	}
	switch verb {
	case 'f':
		if x.path == "/" {
			return "/"
		}
		return path.Base(x.path)
	case 'h':
		if i := strings.LastIndexByte(x.path, '/'); i > 0 {
			return x.path[:i]
		} else if i == 0 {
			return ""
		}
		return "."
	case 'P':
		return strings.TrimPrefix(strings.TrimPrefix(x.path, strings.TrimSuffix(x.start, "/")), "/")
	case 'u':
		return userName(st.Uid)
	case 'g':
		return groupName(st.Gid)
	case 'F':
		if real, err := canonical(x.path, "m"); err == nil {
			m, _ := mountOf(real)
			return m.Type
		}
		return ""
	case 'Y':
		var to syscall.Stat_t
		if x.link && syscall.Stat(x.path, &to) != nil {
			return "N"
		} else if x.link {
			return typeLetter(to.Mode)
		}
		return typeLetter(st.Mode)
	case 'y':
		return typeLetter(st.Mode)
	case 'l':
		l, _ := os.Readlink(x.path) // empty where it is not a link
		return l
	}
	if n, ok := map[byte]int64{'s': st.Size, 'k': (st.Blocks + 1) / 2, 'b': st.Blocks, 'U': int64(st.Uid), 'G': int64(st.Gid), 'i': int64(st.Ino), 'n': int64(st.Nlink), 'd': int64(x.depth), 'D': int64(st.Dev)}[verb]; ok {
		return strconv.FormatInt(n, 10)
	}
	return ""
}

func typeLetter(mode uint32) string {
	for l, m := range typeLetters {
		if m == mode&unix.S_IFMT {
			return string(rune(l))
		}
	}
	return "U"
}
