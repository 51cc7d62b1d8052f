// Package initramfs packs the rescue system's root tree: what goes in is
// collected first, where conflicts are errors, and then written in one go as
// a newc cpio archive, compressed. Packing needs neither root nor mounts, and
// the same input gives the same bytes.
package initramfs

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/u-root/u-root/pkg/cpio"

	"github.com/mkcdrec/mkcdrec/internal/kmod"
	"github.com/mkcdrec/mkcdrec/internal/unpack"
)

// Marker is the last file of the archive: a tree without it was cut off by
// too little memory. List names every file with its size and comes early.
const (
	Marker = "zz-complete"
	List   = "etc/mkcdrec/files"
)

// Files is the tree to be packed. Paths have no leading slash.
type Files struct {
	entries map[string]entry
	packing *Packing // what is carried now is part of it; nil for no such part
}

type entry struct {
	source  string // file on the host, or ""
	content []byte
	link    string
	mode    uint64
	major   uint64
	minor   uint64
	size    int64
	packed  []byte // a part with this file alone, made beforehand, or nil
}

// New gives a tree with the directories and links that every one has: merged
// /usr, and the device nodes that the kernel opens before devtmpfs is there.
func New() *Files {
	f := &Files{entries: map[string]entry{}}
	for _, d := range []string{"bbin", "dev", "etc", "mnt", "proc", "root", "run", "sys", "tmp", "usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "var/log", "var/lib"} {
		f.dir(d)
	}
	for _, l := range []string{"bin", "sbin", "lib", "lib64"} {
		f.entries[l] = entry{mode: cpio.S_IFLNK | 0o777, link: "usr/" + l}
	}
	f.entries["var/run"] = entry{mode: cpio.S_IFLNK | 0o777, link: "../run"}
	f.entries["root"] = entry{mode: cpio.S_IFDIR | 0o700}
	f.entries["tmp"] = entry{mode: cpio.S_IFDIR | 0o1777}
	f.entries["dev/console"] = entry{mode: cpio.S_IFCHR | 0o600, major: 5, minor: 1}
	f.entries["dev/null"] = entry{mode: cpio.S_IFCHR | 0o666, major: 1, minor: 3}
	return f
}

// Canonical is the path a file has in the tree: /bin/x is in usr/bin/x.
func Canonical(p string) string {
	p = strings.TrimPrefix(path.Clean("/"+p), "/")
	for _, l := range []string{"bin/", "sbin/", "lib/", "lib64/"} {
		if strings.HasPrefix(p, l) {
			return "usr/" + p
		}
	}
	return p
}

func (f *Files) dir(p string) {
	for ; p != "." && p != "/"; p = path.Dir(p) {
		if _, ok := f.entries[p]; !ok {
			f.entries[p] = entry{mode: cpio.S_IFDIR | 0o755}
		}
	}
}

// Limits of the readers: the kernel's newc header has 32 bits for a size and takes
// names up to PATH_MAX with their NUL (init/initramfs.c); List has a line for a file.
const (
	maxSize = 1<<32 - 1
	maxPath = 4096 - 1
)

func (f *Files) add(p string, e entry) error {
	p = Canonical(p)
	if len(p) > maxPath || strings.ContainsAny(p, "\n\x00") || p == Marker {
		return fmt.Errorf("cannot add %q to the rescue system: not a name that an initramfs can have", p)
	}
	if e.size > maxSize || len(e.link) > maxPath {
		return fmt.Errorf("cannot add %s to the rescue system: it has %d bytes, an initramfs takes %d", p, max(e.size, int64(len(e.link))), int64(maxSize))
	}
	if old, ok := f.entries[p]; ok {
		if old.source == e.source && old.link == e.link && bytes.Equal(old.content, e.content) {
			return nil
		}
		return fmt.Errorf("cannot add %s to the rescue system: it is there already, from %q", p, old.source+old.link)
	}
	f.dir(path.Dir(p))
	f.entries[p] = e
	return nil
}

// AddFile adds a file of the host, following links, with its permissions but
// without setuid.
func (f *Files) AddFile(p, source string) error {
	st, err := os.Stat(source)
	if err != nil {
		return fmt.Errorf("cannot add %s to the rescue system: %w", p, err)
	}
	if !st.Mode().IsRegular() {
		return fmt.Errorf("cannot add %s to the rescue system: %s is not a regular file", p, source)
	}
	return f.add(p, entry{mode: cpio.S_IFREG | uint64(st.Mode().Perm()&^0o022|0o400), source: source, size: st.Size()})
}

// Prepack packs one file of the host as the part that WriteTo would make of it,
// at the best level; see SetPrepacked.
func Prepack(p, source string) ([]byte, error) {
	f := &Files{entries: map[string]entry{}}
	if err := f.AddFile(p, source); err != nil {
		return nil, err
	}
	r := &part{paths: []string{Canonical(p)}, level: zstd.SpeedBestCompression}
	if err := f.compress(r, Zstd, 1, false); err != nil {
		return nil, fmt.Errorf("cannot pack %s: %w", source, err)
	}
	return r.out.Bytes(), nil
}

// SetPrepacked has WriteTo take what Prepack made of the file at p, which the
// tree has already, when the compression is zstd.
func (f *Files) SetPrepacked(p string, packed []byte) {
	p = Canonical(p)
	if e, ok := f.entries[p]; ok {
		e.packed = packed
		f.entries[p] = e
	}
}

// AddContent adds a file made here.
func (f *Files) AddContent(p string, b []byte, perm uint64) error {
	return f.add(p, entry{mode: cpio.S_IFREG | perm, content: b, size: int64(len(b))})
}

// AddLink adds a symbolic link.
func (f *Files) AddLink(p, to string) error {
	return f.add(p, entry{mode: cpio.S_IFLNK | 0o777, link: to})
}

// Has reports whether the tree has something at p.
func (f *Files) Has(p string) bool { _, ok := f.entries[Canonical(p)]; return ok }

// Paths lists the tree, in the order of packing.
func (f *Files) Paths() []string {
	out := make([]string, 0, len(f.entries))
	for p := range f.entries {
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b string) int {
		if r := rank(a) - rank(b); r != 0 {
			return r
		}
		return strings.Compare(a, b)
	})
	return out
}

// rank puts first what is needed to say that the rest did not fit.
func rank(p string) int {
	switch {
	case p == "bbin" || p == "dev" || p == "dev/console" || p == "dev/null":
		return 0
	case p == "bbin/mkcdrec" || p == "init":
		return 1
	case p == "etc" || strings.HasPrefix(p, "etc/mkcdrec"):
		return 2
	}
	return 3
}

// Size is the sum of all files, in bytes: what the tree takes in memory.
func (f *Files) Size() int64 {
	n := int64(0)
	for _, e := range f.entries {
		n += (e.size + 4095) &^ 4095
	}
	return n
}

// Compression of the archive.
type Compression int

// Compressions the kernel may know; see kernelcfg.Config.Zstd.
const (
	Gzip Compression = iota
	Zstd
)

// part is a piece of the tree that is packed on its own: a whole cpio archive,
// compressed. The kernel unpacks archives that follow each other; so they can
// be compressed in parallel, and what is compressed already cheaply.
type part struct {
	paths []string
	size  int64
	level zstd.EncoderLevel
	ready bool
	out   bytes.Buffer
	err   error
}

// partSize is about what one part holds, in bytes. It is fixed: the same tree
// gives the same bytes on any number of processors.
const partSize = 22 << 20

func (f *Files) parts(c Compression) []*part {
	// The best level saves another 5 % and takes four times as long, a minute
	// and more in an emulated machine.
	fresh := func() *part { return &part{level: zstd.SpeedBetterCompression} }
	ps := []*part{fresh()}
	packed := &part{level: zstd.SpeedFastest}
	for _, p := range f.Paths() {
		e := f.entries[p]
		if e.packed != nil && c == Zstd {
			r := &part{paths: []string{p}, ready: true}
			r.out.Write(e.packed)
			ps = append(ps, r, fresh())
			continue
		}
		if strings.HasSuffix(p, "/"+kmod.PackFile) || p == ComfortInTree || p == NeededInTree {
			packed.paths = append(packed.paths, p)
			continue
		}
		last := ps[len(ps)-1]
		if last.size >= partSize {
			last = fresh()
			ps = append(ps, last)
		}
		last.paths = append(last.paths, p)
		last.size += e.size
	}
	return append(ps, packed)
}

// WriteTo packs the tree: several cpio archives, each compressed for itself.
func (f *Files) WriteTo(w io.Writer, c Compression) error {
	var list bytes.Buffer
	for _, p := range f.Paths() {
		if e := f.entries[p]; e.mode&cpio.S_IFMT == cpio.S_IFREG {
			fmt.Fprintf(&list, "%d %s\n", e.size, p)
		}
	}
	f.entries[List] = entry{mode: cpio.S_IFREG | 0o644, content: list.Bytes(), size: int64(list.Len())}
	f.dir(path.Dir(List))
	defer delete(f.entries, List)
	parts := f.parts(c)
	var wg sync.WaitGroup
	limit := make(chan struct{}, runtime.NumCPU())
	ino := uint64(1)
	for i, p := range parts {
		first := ino
		ino += uint64(len(p.paths))
		if p.ready {
			continue
		}
		wg.Go(func() {
			limit <- struct{}{}
			defer func() { <-limit }()
			p.err = f.compress(p, c, first, i == len(parts)-1)
		})
	}
	wg.Wait()
	for _, p := range parts {
		err := p.err
		if err == nil {
			_, err = p.out.WriteTo(w)
		}
		if err != nil {
			return fmt.Errorf("cannot pack the rescue system: %w", err)
		}
	}
	return nil
}

func (f *Files) compress(p *part, c Compression, ino uint64, last bool) error {
	var z io.WriteCloser
	var err error
	if c == Zstd {
		z, err = zstd.NewWriter(&p.out, zstd.WithEncoderLevel(p.level), zstd.WithWindowSize(8<<20), zstd.WithEncoderConcurrency(1))
	} else {
		z, err = gzip.NewWriterLevel(&p.out, 6)
	}
	if err != nil {
		return err
	}
	if err := f.writeCPIO(z, p.paths, ino, last); err != nil {
		z.Close()
		return err
	}
	return z.Close()
}

func (f *Files) writeCPIO(w io.Writer, paths []string, ino uint64, last bool) error {
	count := &counter{w: w}
	out := cpio.Newc.Writer(count)
	for i, p := range paths {
		if err := writeRecord(out, ino+uint64(i), p, f.entries[p]); err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
	}
	if last {
		if err := writeRecord(out, 0, Marker, entry{mode: cpio.S_IFREG | 0o444}); err != nil {
			return err
		}
	}
	if err := cpio.WriteTrailer(out); err != nil {
		return err
	}
	// Whole blocks of 512 bytes, so that cpio(1) finds the next archive.
	_, err := w.Write(make([]byte, -count.n&511))
	return err
}

type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// Walk reads a packed rescue system and gives every regular file's path and
// content to fn.
func Walk(r io.Reader, fn func(path string, content []byte) error) error {
	br := bufio.NewReader(r)
	head, err := br.Peek(unpack.HeadLen)
	if err != nil {
		return fmt.Errorf("cannot read initramfs: %w", err)
	}
	z, err := unpack.Reader(br, head)
	if err != nil {
		return fmt.Errorf("cannot read initramfs: %w", err)
	}
	if err := walkCPIO(bufio.NewReaderSize(z, 1<<20), fn); err != nil {
		return fmt.Errorf("cannot read initramfs: %w", err)
	}
	return nil
}

// walkCPIO hands over the regular files of archives one after the other.
func walkCPIO(r *bufio.Reader, fn func(string, []byte) error) error {
	for {
		if err := skipZeros(r); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		h, err := readRecord(r)
		if err != nil {
			return err
		}
		if h.size > 1<<30 {
			return fmt.Errorf("%s has %d bytes", h.name, h.size)
		}
		data := make([]byte, h.padded())
		if _, err := io.ReadFull(r, data); err != nil {
			return err
		}
		if h.regular {
			if err := fn(h.name, data[:h.size]); err != nil {
				return err
			}
		}
	}
}

func writeRecord(w cpio.RecordWriter, ino uint64, p string, e entry) error {
	nlink := uint64(1)
	if e.mode&cpio.S_IFMT == cpio.S_IFDIR {
		nlink = 2
	}
	info := cpio.Info{Ino: ino, Mode: e.mode, NLink: nlink, Name: p, Rmajor: e.major, Rminor: e.minor}
	switch {
	case e.link != "":
		info.FileSize = uint64(len(e.link))
		return w.WriteRecord(cpio.Record{ReaderAt: strings.NewReader(e.link), Info: info})
	case e.source == "":
		info.FileSize = uint64(len(e.content))
		return w.WriteRecord(cpio.Record{ReaderAt: bytes.NewReader(e.content), Info: info})
	}
	file, err := os.Open(e.source)
	if err != nil {
		return err
	}
	defer file.Close()
	st, err := file.Stat()
	if err != nil {
		return err
	}
	if st.Size() != e.size {
		return fmt.Errorf("%s changed its size from %d to %d bytes while the rescue system was packed", e.source, e.size, st.Size())
	}
	info.FileSize = uint64(e.size)
	return w.WriteRecord(cpio.Record{ReaderAt: file, Info: info})
}

// Whole checks an unpacked tree below root against its list; the error reports
// how much is missing.
func Whole(root string) error {
	b, err := os.ReadFile(root + "/" + List)
	if err != nil {
		return fmt.Errorf("cannot check the rescue system: %w", err)
	}
	missing, first := 0, ""
	for _, l := range strings.Split(strings.TrimSpace(string(b)), "\n") {
		var size int64
		n, name, _ := strings.Cut(l, " ")
		if _, err := fmt.Sscan(n, &size); err != nil {
			return fmt.Errorf("cannot check the rescue system: bad line %q in its list", l)
		}
		st, err := os.Lstat(root + "/" + name)
		if err != nil || st.Size() != size {
			if missing == 0 {
				first = name
			}
			missing++
		}
	}
	if _, err := os.Lstat(root + "/" + Marker); err != nil && missing == 0 {
		missing, first = 1, Marker
	}
	if missing > 0 {
		return fmt.Errorf("the rescue system is not whole: %d files are missing or cut off, the first is /%s", missing, first)
	}
	return nil
}
