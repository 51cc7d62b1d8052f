package pack

import (
	"archive/tar"
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/user"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/tools"
	"github.com/mkcdrec/mkcdrec/internal/unpack"
)

const tarOpts = "c/create x/extract/get t/list r/append f/file: v/verbose C/directory: z/gzip/gunzip j/bzip2 J/xz zstd Z/auto-compress a p/preserve-permissions/same-permissions P/absolute-names k/keep-old-files skip-old-files O/to-stdout T/files-from: X/exclude-from: exclude: strip-components: S/sparse h/dereference one-file-system numeric-owner same-owner o/no-same-owner no-same-permissions m/touch xattrs no-xattrs acls selinux null no-recursion transform: overwrite w b: wildcards warning: format: owner: group: mode: mtime: sort: remove-files checkpoint?"

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
	o, rest, err := tools.Parse(tarOpts, args)
	if err != nil {
		return tools.Usage("%v", err)
	}
	e.Options, e.Args = o, rest
	t := &tarRun{Env: e, made: map[[2]uint64]string{}}
	if t.strip, err = e.Int("strip-components", 0); err != nil {
		return err
	}
	if err := t.excludes(); err != nil {
		return err
	}
	switch m, _ := e.Last("c", "x", "t", "r"); m.Name {
	case "c":
		return t.create()
	case "x", "t":
		return t.read(m.Name == "t")
	case "r":
		return errors.New("appending is not supported: create another archive")
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
		q := regexp.QuoteMeta(strings.TrimSuffix(p, "/"))
		q = strings.NewReplacer(`\*`, ".*", `\?`, ".").Replace(q)
		re, err := regexp.Compile("(?:^|/)" + q + "(?:/|$)")
		if err != nil {
			return err
		}
		t.exclude = append(t.exclude, re)
	}
	return nil
}

func (t *tarRun) excluded(name string) bool {
	return slices.ContainsFunc(t.exclude, func(re *regexp.Regexp) bool { return re.MatchString(name) })
}

func (t *tarRun) create() error {
	names, err := t.lines("T")
	if err != nil {
		return err
	}
	names = append(t.Args, names...)
	if len(names) == 0 {
		return tools.Usage("cowardly refusing to create an empty archive")
	}
	file := t.Or("f", "-")
	var w io.Writer = t.Out
	var self os.FileInfo
	if file != "-" {
		f, err := os.Create(file)
		if err != nil {
			return fmt.Errorf("%s: cannot open: %s", file, tools.Cause(err))
		}
		defer f.Close()
		if self, err = f.Stat(); err != nil {
			return err
		}
		w = f
	}
	for _, d := range t.Vals("C") {
		if err := os.Chdir(d); err != nil {
			return fmt.Errorf("%s: cannot chdir: %s", d, tools.Cause(err))
		}
	}
	b := bufio.NewWriterSize(w, 1<<18)
	z, err := t.compressor(b, file)
	if err != nil {
		return err
	}
	t.out = tar.NewWriter(z)
	for _, n := range names {
		t.add(n, self)
	}
	err = t.out.Close()
	if c, ok := z.(io.Closer); ok && err == nil {
		err = c.Close()
	}
	if err == nil {
		err = b.Flush()
	}
	return err
}

// compressor is the way of -z, -j, -J and --zstd; with -a that of the archive's name.
func (t *tarRun) compressor(w io.Writer, file string) (io.Writer, error) {
	how, _ := t.Last("z", "j", "J", "zstd")
	ext := map[string]string{"z": ".gz", "j": ".bz2", "J": ".xz", "zstd": ".zst"}[how.Name]
	if ext == "" && t.On("a", "Z") {
		short := strings.NewReplacer(".tgz", ".gz", ".txz", ".xz", ".tbz2", ".bz2", ".tzst", ".zst")
		ext = path.Ext(short.Replace(file))
	}
	for _, f := range formats() {
		if f.suffix == ext {
			level := 6
			if ext == ".zst" {
				level = 3
			}
			return f.write(w, level)
		}
	}
	return w, nil
}

func (t *tarRun) add(top string, self os.FileInfo) {
	var dev uint64
	walk := filepath.WalkDir
	_ = walk(top, func(p string, d fs.DirEntry, err error) error { // errors are reported here
		if err != nil {
			t.Fault(2, "%s: Cannot stat: %s", p, tools.Cause(err))
			return nil
		}
		if t.excluded(p) {
			if d.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		st, err := os.Lstat(p)
		if t.On("h") && err == nil && st.Mode()&fs.ModeSymlink != 0 {
			st, err = os.Stat(p)
		}
		if err != nil {
			t.Fault(2, "%s: Cannot stat: %s", p, tools.Cause(err))
			return nil
		}
		if u, ok := st.Sys().(*syscall.Stat_t); ok && t.On("one-file-system") {
			if dev == 0 {
				dev = u.Dev
			}
			if u.Dev != dev {
				return filepath.SkipDir
			}
		}
		if self != nil && os.SameFile(self, st) {
			t.Fault(0, "%s: file is the archive; not dumped", p)
			return nil
		}
		if p != top { // as the operand begins, "./d"
			p = strings.TrimSuffix(top, "/") + strings.TrimPrefix("/"+p, strings.TrimSuffix("/"+filepath.Clean(top), "/."))
		}
		if err := t.member(p, st); err != nil {
			t.Fault(2, "%s: %s", p, tools.Cause(err))
		}
		if d.IsDir() && t.On("no-recursion") {
			return filepath.SkipDir
		}
		return nil
	})
}

func (t *tarRun) member(p string, st os.FileInfo) error {
	if st.Mode()&fs.ModeSocket != 0 {
		t.Fault(0, "%s: socket ignored", p)
		return nil
	}
	link := ""
	if st.Mode()&fs.ModeSymlink != 0 {
		var err error
		if link, err = os.Readlink(p); err != nil {
			return err
		}
	}
	h, err := tar.FileInfoHeader(st, link)
	if err != nil {
		return err
	}
	h.Format = tar.FormatGNU
	h.Name = p
	if !t.On("P") {
		h.Name = strings.TrimLeft(p, "/")
	}
	if h.Name == "" {
		h.Name = "."
	}
	if st.IsDir() {
		h.Name = strings.TrimSuffix(h.Name, "/") + "/"
	}
	h.AccessTime, h.ChangeTime = time.Time{}, time.Time{}
	if t.On("numeric-owner") {
		h.Uname, h.Gname = "", ""
	}
	if u, ok := st.Sys().(*syscall.Stat_t); ok && st.Mode().IsRegular() && u.Nlink > 1 {
		id := [2]uint64{u.Dev, u.Ino}
		if first, ok := t.made[id]; ok {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
		} else {
			t.made[id] = h.Name
		}
	}
	if t.On("xattrs", "acls", "selinux") {
		xattrs(h, p)
	}
	if err := t.out.WriteHeader(h); err != nil {
		return err
	}
	if t.On("v") {
		w := io.Writer(t.Out)
		if t.Or("f", "-") == "-" {
			w = t.Err
		}
		t.list(w, h)
	}
	if h.Typeflag != tar.TypeReg {
		return nil
	}
	f, err := os.Open(p)
	if err != nil {
		return err
	}
	defer f.Close()
	n, err := io.CopyN(t.out, f, h.Size)
	if errors.Is(err, io.EOF) { // the file became shorter: zeros keep the archive valid
		_, err = io.CopyN(t.out, zeros{}, h.Size-n)
		t.Fault(1, "%s: File shrank by %d bytes; padding with zeros", p, h.Size-n)
	}
	return err
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// xattrs adds the extended attributes of a file.
func xattrs(h *tar.Header, p string) {
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(p, buf)
	if err != nil || n == 0 {
		return // the file system has none
	}
	for _, name := range strings.Split(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00") {
		v := make([]byte, 64<<10)
		k, err := unix.Lgetxattr(p, name, v)
		if err != nil {
			continue
		}
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.Format = tar.FormatPAX
		h.PAXRecords["SCHILY.xattr."+name] = string(v[:k])
	}
}

// list prints a member as -t or -tv does.
func (t *tarRun) list(w io.Writer, h *tar.Header) {
	if vs := len(t.Vals("v")); vs < 2 && !(t.On("t") && vs == 1) {
		fmt.Fprintln(w, quoteName(h.Name))
		return
	}
	kind := map[byte]string{tar.TypeDir: "d", tar.TypeSymlink: "l", tar.TypeLink: "h", tar.TypeBlock: "b", tar.TypeChar: "c", tar.TypeFifo: "p"}[h.Typeflag]
	if kind == "" {
		kind = "-"
	}
	perm := []byte("rwxrwxrwx")
	for i := range perm {
		if h.Mode>>(8-i)&1 == 0 {
			perm[i] = '-'
		}
	}
	for i, bit := range []int64{0o4000, 0o2000, 0o1000} {
		if at := 2 + 3*i; h.Mode&bit != 0 {
			x := "sst"[i]
			if perm[at] == '-' {
				x -= 32
			}
			perm[at] = x
		}
	}
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
	fmt.Fprintf(w, "%s%s %s %*s %s %s%s\n", kind, perm, who, max(1, 18-len(who)), size, h.ModTime.Local().Format("2006-01-02 15:04"), quoteName(h.Name), tail)
}

// quoteName writes odd characters of a name as escapes, as GNU's tar does.
func quoteName(s string) string {
	var b strings.Builder
	for i := range len(s) {
		switch c := s[i]; {
		case c == '\\':
			b.WriteString(`\\`)
		case c < 32 || c == 127:
			if j := strings.IndexByte("\a\b\f\n\r\t\v", c); j >= 0 {
				b.WriteString(`\` + `abfnrtv`[j:j+1])
			} else {
				fmt.Fprintf(&b, `\%03o`, c)
			}
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
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
	if err := t.all(tar.NewReader(in), list); err != nil {
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

func (t *tarRun) all(tr *tar.Reader, list bool) error {
	for first := true; ; first = false {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil && first {
			return errors.New("this does not look like a tar archive")
		}
		if err != nil {
			return fmt.Errorf("unexpected end of archive or damaged header: %w", err)
		}
		if !t.wanted(h.Name) || t.excluded(strings.TrimSuffix(h.Name, "/")) {
			continue
		}
		if list {
			t.list(t.Out, h)
			continue
		}
		if !t.stripped(h) {
			continue
		}
		if t.On("v") {
			w := io.Writer(t.Out)
			if t.On("O") {
				w = t.Err
			}
			t.list(w, h)
		}
		if t.On("O") {
			if _, err := io.Copy(t.Out, tr); err != nil {
				return err
			}
			continue
		}
		if err := t.extract(h, tr); err != nil {
			var p *fs.PathError
			if errors.As(err, &p) {
				err = p.Err
			}
			t.Fault(2, "%s: Cannot extract: %s", h.Name, tools.Cause(err))
		}
	}
}

// wanted reports whether a member is one of the operands or below one.
func (t *tarRun) wanted(name string) bool {
	if len(t.members) == 0 {
		return true
	}
	ok := false
	name = strings.TrimSuffix(name, "/")
	for i, m := range t.members {
		m = strings.TrimSuffix(m, "/")
		hit := name == m || strings.HasPrefix(name, m+"/")
		if t.On("wildcards") && !hit {
			hit, _ = path.Match(m, name)
		}
		ok, t.seen[i] = ok || hit, t.seen[i] || hit
	}
	return ok
}

// stripped takes components off a name; false if that is all of it.
func (t *tarRun) stripped(h *tar.Header) bool {
	cut := func(s string) string {
		parts := strings.Split(strings.TrimLeft(s, "/"), "/")
		if len(parts) <= t.strip {
			return ""
		}
		return strings.Join(parts[t.strip:], "/")
	}
	if t.strip == 0 {
		return true
	}
	h.Name = cut(h.Name)
	if h.Typeflag == tar.TypeLink {
		h.Linkname = cut(h.Linkname)
	}
	return strings.Trim(h.Name, "/") != ""
}

// local is a name below the directory that is extracted to.
func local(name string) (string, error) {
	n := path.Clean(strings.TrimLeft(name, "/"))
	if !filepath.IsLocal(n) {
		return "", errors.New("member name contains '..'")
	}
	return n, nil
}

func (t *tarRun) extract(h *tar.Header, r io.Reader) error {
	name, err := local(h.Name)
	if err != nil {
		return err
	}
	if err := t.root.MkdirAll(path.Dir(name), 0o777); err != nil {
		return err
	}
	if h.Typeflag == tar.TypeDir {
		err := t.root.Mkdir(name, 0o700)
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		h.Name = name
		t.dirs = append(t.dirs, h)
		return nil
	}
	if _, err := t.root.Lstat(name); err == nil {
		switch {
		case t.On("skip-old-files"):
			return nil
		case t.On("k"):
			return fs.ErrExist
		}
		if err := t.root.Remove(name); err != nil {
			return err
		}
	}
	h.Name = name
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse:
		if err := t.content(name, r); err != nil {
			return err
		}
	case tar.TypeSymlink:
		err = t.root.Symlink(h.Linkname, name)
	case tar.TypeLink:
		to, err := local(h.Linkname)
		if err == nil {
			err = t.root.Link(to, name)
		}
		return err
	case tar.TypeBlock, tar.TypeChar, tar.TypeFifo:
		err = t.node(name, h)
	default:
		return fmt.Errorf("unknown file type '%c'", h.Typeflag)
	}
	if err != nil {
		return err
	}
	t.finish(h)
	return nil
}

func (t *tarRun) node(name string, h *tar.Header) error {
	dir, err := t.root.Open(path.Dir(name))
	if err != nil {
		return err
	}
	defer dir.Close()
	mode := map[byte]uint32{tar.TypeBlock: unix.S_IFBLK, tar.TypeChar: unix.S_IFCHR, tar.TypeFifo: unix.S_IFIFO}[h.Typeflag]
	return unix.Mknodat(int(dir.Fd()), path.Base(name), mode|0o600, int(unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))))
}

// content writes a file; blocks of zeros become holes.
func (t *tarRun) content(name string, r io.Reader) error {
	f, err := t.root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	buf, zero := make([]byte, 64<<10), make([]byte, 64<<10)
	for size := int64(0); ; {
		n, err := io.ReadFull(r, buf)
		switch {
		case slices.Equal(buf[:n], zero[:n]):
			_, serr := f.Seek(int64(n), io.SeekCurrent)
			err = errors.Join(err, serr)
		default:
			if _, werr := f.Write(buf[:n]); werr != nil {
				return werr
			}
		}
		size += int64(n)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return f.Truncate(size)
		}
		if err != nil {
			return err
		}
	}
}

// finish gives a member its owner, mode, attributes and time.
func (t *tarRun) finish(h *tar.Header) {
	var errs []error
	asRoot := os.Geteuid() == 0
	if asRoot && !t.On("o") {
		uid, gid := h.Uid, h.Gid
		if !t.On("numeric-owner") {
			if u, err := user.Lookup(h.Uname); err == nil {
				uid, _ = strconv.Atoi(u.Uid) // always a number here
			}
			if g, err := user.LookupGroup(h.Gname); err == nil {
				gid, _ = strconv.Atoi(g.Gid) // likewise
			}
		}
		errs = append(errs, t.root.Lchown(h.Name, uid, gid))
	}
	if h.Typeflag != tar.TypeSymlink {
		mode := h.FileInfo().Mode() & (fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky)
		if !asRoot && !t.On("p") || t.On("no-same-permissions") {
			m := unix.Umask(0)
			unix.Umask(m)
			mode = mode & fs.ModePerm &^ fs.FileMode(m)
		}
		errs = append(errs, t.root.Chmod(h.Name, mode))
		errs = append(errs, t.attributes(h))
	}
	if !t.On("m") {
		errs = append(errs, t.times(h))
	}
	if err := errors.Join(errs...); err != nil {
		t.Fault(2, "%s: Cannot set owner, mode or time: %s", h.Name, tools.Cause(err))
	}
}

func (t *tarRun) times(h *tar.Header) error {
	dir, err := t.root.Open(path.Dir(h.Name))
	if err != nil {
		return err
	}
	defer dir.Close()
	ts := unix.NsecToTimespec(h.ModTime.UnixNano())
	return unix.UtimesNanoAt(int(dir.Fd()), path.Base(h.Name), []unix.Timespec{{Nsec: unix.UTIME_NOW}, ts}, unix.AT_SYMLINK_NOFOLLOW)
}

func (t *tarRun) attributes(h *tar.Header) error {
	if !t.On("xattrs", "acls", "selinux") {
		return nil
	}
	f, err := t.root.Open(h.Name)
	if err != nil {
		return nil // a device or fifo has none
	}
	defer f.Close()
	for k, v := range h.PAXRecords {
		if name, ok := strings.CutPrefix(k, "SCHILY.xattr."); ok {
			if err := unix.Fsetxattr(int(f.Fd()), name, []byte(v), 0); err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
				return err
			}
		}
	}
	return nil
}
