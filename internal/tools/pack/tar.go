package pack

import (
	"archive/tar"
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/tools"
	"github.com/mkcdrec/mkcdrec/internal/tools/text"
	"github.com/mkcdrec/mkcdrec/internal/unpack"
)

const tarOpts = "c/create x/extract/get t/list f/file: v/verbose C/directory: z/gzip/gunzip j/bzip2 J/xz zstd Z/auto-compress a p/preserve-permissions/same-permissions P/absolute-names k/keep-old-files skip-old-files O/to-stdout T/files-from: X/exclude-from: exclude: strip-components: S/sparse h/dereference one-file-system numeric-owner same-owner o/no-same-owner no-same-permissions m/touch xattrs no-xattrs acls selinux null no-recursion transform/xform: show-transformed-names overwrite b/blocking-factor: wildcards warning: H/format: owner: group: mtime: sort: remove-files"

// tarRefused are operations and options of GNU's tar that people use, and that are not supported.
var tarRefused = map[string]string{"-A": "catenate concatenate", "-d": "diff compare", "-r": "append", "-u": "update", "-w": "interactive confirmation", "-g": "listed-incremental", "-M": "multi-volume", "-L": "tape-length", "-V": "label", "-W": "verify", "-I": "use-compress-program", "--delete": "", "--totals": "", "--test-label": "", "--checkpoint": "", "--mode": "", "--ignore-failed-read": ""}

// refused finds an option that is not supported.
func refused(args []string) error {
	for _, a := range args {
		name, _, _ := strings.Cut(a, "=")
		switch {
		case a == "--":
			return nil
		case strings.HasPrefix(a, "--"):
			for short, long := range tarRefused {
				if name == short || slices.Contains(strings.Fields(long), name[2:]) {
					return tools.Usage("option '%s' is not supported", name)
				}
			}
		case len(a) > 1 && a[0] == '-':
			for _, c := range a[1:] {
				if _, ok := tarRefused["-"+string(c)]; ok {
					return tools.Usage("option '-%c' is not supported", c)
				}
				if strings.ContainsRune("fCbTXH", c) {
					break // what follows is its value
				}
			}
		}
	}
	return nil
}

func tarCommands() []tools.Command {
	return []tools.Command{{Name: "tar", Opts: "-", Synopsis: "{c|x|t}[vzjJf] [OPTION]... [FILE]...", Bad: 2, Run: tarMain}}
}

// tarRun is one run of tar.
type tarRun struct {
	*tools.Env
	strip   int
	exclude []*regexp.Regexp
	members []string
	seen    []bool
	made    map[[2]uint64]string // names of files with several links
	out     *tar.Writer
	root    *os.Root
	dirs    []*tar.Header // times of directories come last

	wild   []*regexp.Regexp // of members, with --wildcards
	rename func(string) string
	format tar.Format
	owner  [2]*tarOwner
	mtime  time.Time
	added  []string // for --remove-files
}

// tarOwner is the value of --owner and --group.
type tarOwner struct {
	name string
	id   int
}

func tarMain(e *tools.Env) error {
	args := e.Args
	// "tar xzf FILE" has the options in one word, and their values behind it.
	if len(args) > 0 && args[0] != "" && args[0][0] != '-' {
		var values []string
		rest := args[1:]
		for _, c := range args[0] {
			if strings.ContainsRune("fCbTX", c) {
				if len(rest) == 0 {
					return tools.Usage("old option '%c' requires an argument", c)
				}
				values = append(values, "-"+string(c), rest[0])
				rest = rest[1:]
			} else {
				values = append(values, "-"+string(c))
			}
		}
		args = append(values, rest...)
	}
	// What -C is given to is what follows it.
	if err := refused(args); err != nil {
		return err
	}
	o, rest, err := tools.Parse(tarOpts, args)
	if err != nil {
		return tools.Usage("%v", err)
	}
	e.Options, e.Args = o, rest
	t := &tarRun{Env: e, made: map[[2]uint64]string{}}
	if t.strip, err = e.Int("strip-components", 0); err != nil {
		return err
	}
	if err := errors.Join(t.excludes(), t.attributesOf()); err != nil {
		return err
	}
	switch m, _ := e.Last("c", "x", "t"); m.Name {
	case "c":
		e.Ignore("S", "b")
		return t.create()
	case "x", "t":
		return t.read(m.Name == "t")
	}
	return tools.Usage("you must specify one of the '-Acdtrux', '--delete' or '--test-label' options")
}

func (t *tarRun) lines(option string) ([]string, error) {
	var out []string
	for _, n := range t.Vals(option) {
		r, err := t.Open(n)
		if err != nil {
			return nil, err
		}
		sep := byte('\n')
		if t.On("null") {
			sep = 0
		}
		for l, err := range tools.Lines(r, sep) {
			if err != nil {
				return nil, err
			}
			out = append(out, string(tools.Chomp(l, sep)))
		}
		r.Close()
	}
	return out, nil
}

// excludes compiles --exclude and -X: a pattern matches a name or any part of it behind a
// slash, and then what is below.
func (t *tarRun) excludes() error {
	ps, err := t.lines("X")
	if err != nil {
		return err
	}
	for _, p := range append(t.Vals("exclude"), ps...) {
		re, err := pattern("(?:^|/)", p)
		if err != nil {
			return err
		}
		t.exclude = append(t.exclude, re)
	}
	return nil
}

// pattern compiles a pattern whose * takes slashes; it matches what is below, too.
func pattern(begin, p string) (*regexp.Regexp, error) {
	re := ""
	for p = strings.TrimSuffix(p, "/"); p != ""; {
		n := 1
		switch end := strings.IndexByte(p, ']'); {
		case p[0] == '*':
			re += ".*"
		case p[0] == '?':
			re += "."
		case p[0] == '[' && end > 1:
			re += "[" + strings.Replace(strings.ReplaceAll(p[1:end], `\`, `\\`), "!", "^", 1) + "]"
			n = end + 1
		case p[0] == '\\' && len(p) > 1:
			re += regexp.QuoteMeta(p[1:2])
			n = 2
		case p[0] >= 128:
			re += p[:1]
		default:
			re += regexp.QuoteMeta(p[:1])
		}
		p = p[n:]
	}
	return regexp.Compile("(?s:" + begin + re + "(?:/|$))")
}

// attributesOf reads the options that change what is in the headers.
func (t *tarRun) attributesOf() error {
	var errs []error
	if e := t.Vals("transform"); len(e) > 0 {
		fn, err := text.Rename(e)
		t.rename, errs = fn, append(errs, err)
	}
	var ok bool
	if t.format, ok = map[string]tar.Format{"gnu": tar.FormatGNU, "ustar": tar.FormatUSTAR, "pax": tar.FormatPAX, "posix": tar.FormatPAX}[t.Or("H", "gnu")]; !ok {
		errs = append(errs, tools.Usage("%s: archive format is not supported: use gnu, pax, posix or ustar", t.Val("H")))
	}
	if t.format != tar.FormatPAX && t.On("H") && t.On("xattrs", "acls", "selinux") {
		errs = append(errs, tools.Usage("--xattrs can be used only on POSIX archives"))
	}
	if s := t.Or("sort", "name"); s != "name" && s != "none" {
		errs = append(errs, tools.Usage("invalid argument '%s' for '--sort': use name or none", s))
	}
	for i, o := range []string{"owner", "group"} {
		if v := t.Val(o); v != "" {
			who, err := ownerOf(v, o == "group")
			t.owner[i], errs = who, append(errs, err)
		}
	}
	if m := t.Val("mtime"); m != "" {
		at, err := tools.ParseDate(m, time.Now())
		if st, serr := os.Stat(m); serr == nil && strings.ContainsAny(m[:1], "./") {
			at, err = st.ModTime(), nil
		}
		t.mtime, errs = at, append(errs, err)
	}
	return errors.Join(errs...)
}

// ownerOf reads NAME, NUMBER or NAME:NUMBER.
func ownerOf(v string, group bool) (*tarOwner, error) {
	name, num, both := strings.Cut(v, ":")
	if !both {
		if n, err := strconv.Atoi(v); err == nil {
			return &tarOwner{"", n}, nil
		}
		var err error
		if group {
			var g *user.Group
			if g, err = user.LookupGroup(v); err == nil {
				num = g.Gid
			}
		} else {
			var u *user.User
			if u, err = user.Lookup(v); err == nil {
				num = u.Uid
			}
		}
		if err != nil {
			return nil, fmt.Errorf("'%s': invalid %s", v, map[bool]string{true: "group", false: "owner"}[group])
		}
	}
	n, err := strconv.Atoi(num)
	if err != nil {
		return nil, fmt.Errorf("'%s': invalid number", num)
	}
	return &tarOwner{name, n}, nil
}

func (t *tarRun) excluded(name string) bool {
	return slices.ContainsFunc(t.exclude, func(re *regexp.Regexp) bool { return re.MatchString(name) })
}

// announce lists a member for -v, on standard error if there are data on standard output.
func (t *tarRun) announce(h *tar.Header, data bool) {
	switch {
	case !t.On("v"):
	case data:
		t.list(t.Err, h)
	default:
		t.list(t.Out, h)
	}
}

// list prints a member as -t or -tv does.
func (t *tarRun) list(w io.Writer, h *tar.Header) {
	if vs := len(t.Vals("v")); vs < 2 && !(t.On("t") && vs == 1) {
		fmt.Fprintln(w, quoteName(h.Name))
		return
	}
	kind := cmp.Or(map[byte]string{tar.TypeDir: "d", tar.TypeSymlink: "l", tar.TypeLink: "h", tar.TypeBlock: "b", tar.TypeChar: "c", tar.TypeFifo: "p"}[h.Typeflag], "-")
	owner := func(name string, id int) string {
		if name == "" || t.On("numeric-owner") {
			return strconv.Itoa(id)
		}
		return name
	}
	size := strconv.FormatInt(h.Size, 10)
	if h.Typeflag == tar.TypeBlock || h.Typeflag == tar.TypeChar {
		size = fmt.Sprintf("%d,%d", h.Devmajor, h.Devminor)
	}
	who := owner(h.Uname, h.Uid) + "/" + owner(h.Gname, h.Gid)
	tail := ""
	switch h.Typeflag {
	case tar.TypeSymlink:
		tail = " -> " + h.Linkname
	case tar.TypeLink:
		tail = " link to " + h.Linkname
	}
	fmt.Fprintf(w, "%s%s %s %*s %s %s%s\n", kind, tools.ModeString(uint32(h.Mode))[1:], who, max(1, 18-len(who)), size, h.ModTime.Local().Format("2006-01-02 15:04"), quoteName(h.Name), tail)
}

// quoteName writes odd characters of a name as escapes, as GNU's tar does.
func quoteName(s string) string {
	var out []byte
	for _, c := range []byte(s) {
		if j := strings.IndexByte("\a\b\f\n\r\t\v\\", c); j >= 0 {
			out = append(out, '\\', `abfnrtv\`[j])
		} else if c < 32 || c == 127 {
			out = fmt.Appendf(out, `\%03o`, c)
		} else {
			out = append(out, c)
		}
	}
	return string(out)
}

func (t *tarRun) read(list bool) error {
	r, err := t.Open(t.Or("f", "-"))
	if err != nil {
		return fmt.Errorf("%s: cannot open: %s", t.Val("f"), tools.Cause(err))
	}
	defer r.Close()
	names, err := t.lines("T")
	if err != nil {
		return err
	}
	t.members = append(t.Args, names...)
	t.seen = make([]bool, len(t.members))
	for _, m := range t.members {
		re, err := pattern("^", m)
		if err != nil {
			return err
		}
		t.wild = append(t.wild, re)
	}
	br := bufio.NewReaderSize(r, 1<<18)
	var in io.Reader = br
	if head, err := br.Peek(unpack.HeadLen); err == nil {
		if z, err := unpack.Reader(br, head); err == nil {
			in = z
		}
	}
	if !list && !t.On("O") {
		dir := "."
		for _, d := range t.Vals("C") {
			dir = filepath.Join(dir, d)
			if filepath.IsAbs(d) {
				dir = d
			}
		}
		if t.root, err = os.OpenRoot(dir); err != nil {
			return fmt.Errorf("%s: cannot open: %s", dir, tools.Cause(err))
		}
		defer t.root.Close()
	}
	if err := t.all(in, list); err != nil {
		return err
	}
	for _, h := range slices.Backward(t.dirs) {
		t.finish(h)
	}
	for i, m := range t.members {
		if !t.seen[i] {
			t.Fault(2, "%s: Not found in archive", m)
		}
	}
	return nil
}
