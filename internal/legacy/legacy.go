// Package legacy reads backups made by mkCDrec 1.x: CDs or directories with
// one compressed tar archive per file system, cut into pieces where it was
// larger than a disc. They contain no more than their names; where lists of
// checksums are there, pieces are compared before they are used.
package legacy

import (
	"bufio"
	"compress/bzip2"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/klauspost/compress/gzip"

	"github.com/mkcdrec/mkcdrec/internal/lazyregexp"
	"github.com/mkcdrec/mkcdrec/internal/regular"
	"github.com/mkcdrec/mkcdrec/internal/rescue"
	"github.com/mkcdrec/mkcdrec/internal/tool"
	"github.com/mkcdrec/mkcdrec/internal/unpack"
	"github.com/mkcdrec/mkcdrec/internal/uuid"
)

// Set is a backup, on one or several volumes.
type Set struct {
	Date     string // dd.mm.yyyy, of the volumes' names
	Archives []Archive
	volumes  map[int]*volume
	// files are those of recovery.tgz once they were read.
	files map[string][]byte
	// recoveryFile is where they were read, paths their names in it.
	recoveryFile string
	paths        map[string]string
}

// Archive is one file system of a set.
type Archive struct {
	Device string // "sda1", without /dev/
	Mount  string
	Type   string // file system, "" if the set does not have it
	// Name is its file's, without the "_" of pieces: sda1._.tar.gz
	Name string
	Raw  bool // an image by dd, not a tar archive
	// Cipher is what openssl has encrypted it with, "" for nothing.
	Cipher string
}

type volume struct {
	dir  string
	sums map[string]string // md5 or crc by name
	good map[string]bool   // files that were compared with them
}

var (
	mark    = lazyregexp.New(`^CDrec-(\d\d\.\d\d\.\d{4})(?:_(\d+))?$`)
	archive = lazyregexp.New(`^(.+?)\.(_.*?)\.(tar|dd)\.([A-Za-z0-9]+)((?:\.[a-z0-9-]+)?)(_?)$`)
)

// UUID returns a UUID for something of a set, the same at every reading: mkCDrec
// recorded none.
func (s *Set) UUID(host, of string) string {
	return uuid.From("mkCDrec " + s.Date + " " + host + " " + of)
}

// IsSet reports whether a directory is a volume of mkCDrec.
func IsSet(dir string) bool { _, _, ok := volumeOf(dir); return ok }

func volumeOf(dir string) (date string, number int, ok bool) {
	l, err := os.ReadDir(dir)
	if err != nil {
		return "", 0, false
	}
	for _, e := range l {
		if g := mark().FindStringSubmatch(e.Name()); g != nil {
			n, _ := strconv.Atoi(g[2]) // "" is 0: the only one
			return g[1], n, true
		}
	}
	return "", 0, false
}

// Open reads what is on the volumes in dirs, in any order. They must be of one
// backup.
func Open(dirs ...string) (*Set, error) {
	s := &Set{volumes: map[int]*volume{}}
	names := map[string]bool{}
	for _, d := range dirs {
		date, n, ok := volumeOf(d)
		if !ok {
			return nil, fmt.Errorf("cannot use %s: it is not a volume of mkCDrec (it has no file CDrec-DATE)", d)
		}
		if s.Date != "" && s.Date != date {
			return nil, fmt.Errorf("cannot use %s: it is of the backup of %s, the others are of %s", d, date, s.Date)
		}
		if s.volumes[n] != nil {
			return nil, fmt.Errorf("cannot use %s: volume %d is %s already", d, n, s.volumes[n].dir)
		}
		s.Date = date
		sums, err := readSums(d)
		if err != nil {
			return nil, err
		}
		s.volumes[n] = &volume{d, sums, map[string]bool{}}
		l, err := os.ReadDir(d)
		if err != nil {
			return nil, fmt.Errorf("cannot read volume: %w", err)
		}
		for _, e := range l {
			if g := archive().FindStringSubmatch(e.Name()); g != nil && e.Type().IsRegular() {
				names[strings.TrimSuffix(e.Name(), "_")] = true
			}
		}
	}
	types := s.toRestore()
	for n := range names {
		g := archive().FindStringSubmatch(n)
		if names[strings.TrimSuffix(n, g[5])] && g[5] != "" {
			continue // it was decrypted
		}
		a := Archive{Cipher: strings.TrimPrefix(g[5], "."), Name: n, Device: strings.ReplaceAll(strings.ReplaceAll(g[1], "_", "/"), "%137", "_"), Raw: g[3] == "dd"}
		// "/" became "_" in mount points, and "_" stayed: To_Restore has the original.
		a.Mount = strings.ReplaceAll(g[2], "_", "/")
		for _, t := range types {
			if t.Device == a.Device && strings.ReplaceAll(t.Mount, "/", "_") == g[2] {
				a.Mount, a.Type = t.Mount, t.Type
			}
		}
		s.Archives = append(s.Archives, a)
	}
	slices.SortFunc(s.Archives, func(a, b Archive) int { return strings.Compare(a.Mount, b.Mount) })
	return s, nil
}

// toRestore reads the list of file systems out of recovery.tgz: device, mount
// point, type, options. The mount point may have blanks but no tabs.
func (s *Set) toRestore() []Archive {
	files, err := s.recovery()
	if err != nil {
		return nil // Layout reports it; the archives can be read without
	}
	var out []Archive
	for _, line := range strings.Split(string(files["To_Restore"]), "\n") {
		if w := strings.Split(line, "\t"); len(w) >= 3 {
			out = append(out, Archive{Device: strings.TrimPrefix(strings.TrimSpace(w[0]), "/dev/"), Mount: strings.TrimSpace(w[1]), Type: strings.TrimSpace(w[2])})
		}
	}
	return out
}

// maxText is the largest list that is read, in bytes.
const maxText = 256 << 20

// readSums reads Checksums.md5 or Checksums.sfv; nil when there is neither.
func readSums(dir string) (map[string]string, error) {
	sums := map[string]string{}
	for _, name := range []string{"Checksums.md5", "Checksums.sfv"} {
		b, err := regular.ReadFile(filepath.Join(dir, name), maxText)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("cannot read checksums: %w", err)
		}
		for _, l := range strings.Split(string(b), "\n") {
			l = strings.TrimRight(l, "\r ")
			if l == "" || l[0] == ';' {
				continue
			}
			if strings.HasSuffix(name, ".sfv") {
				if i := strings.LastIndexByte(l, ' '); i > 0 {
					sums[strings.TrimSpace(l[:i])] = strings.ToLower(l[i+1:])
				}
				continue
			}
			if sum, file, ok := strings.Cut(l, " "); ok {
				sums[strings.TrimPrefix(strings.TrimLeft(file, " *"), "./")] = strings.ToLower(sum)
			}
		}
		return sums, nil
	}
	return nil, nil
}

// pieces lists an archive's files in their order: NAME_ on each volume but the
// last, NAME there; instead of an empty one its parts.
func (s *Set) pieces(a Archive) ([]string, error) {
	var nums []int
	for n := range s.volumes {
		nums = append(nums, n)
	}
	slices.Sort(nums)
	var out []string
	last := -1
	for _, n := range nums {
		v := s.volumes[n]
		for _, name := range []string{a.Name + "_", a.Name} {
			p := filepath.Join(v.dir, name)
			st, err := os.Stat(p)
			if errors.Is(err, os.ErrNotExist) {
				continue
			}
			if err != nil {
				return nil, err
			}
			if last >= 0 && n != last+1 {
				return nil, s.missing(a, last+1)
			}
			last = n
			parts, err := partsOf(p)
			if err != nil {
				return nil, err
			}
			if st.Size() > 0 || len(parts) == 0 {
				parts = []string{p}
			}
			out = append(out, parts...)
			if name == a.Name {
				return out, nil
			}
			break
		}
	}
	return nil, s.missing(a, last+1)
}

func (s *Set) missing(a Archive, n int) error {
	return fmt.Errorf("cannot read %s: it continues on the disc CDrec-%s_%d, which is not there", a.Name, s.Date, n)
}

// partsOf returns NAME.part0, NAME.part1 ... as far as there are some.
func partsOf(p string) ([]string, error) {
	var out []string
	for i := 0; ; i++ {
		f := fmt.Sprintf("%s.part%d", p, i)
		if _, err := os.Stat(f); errors.Is(err, os.ErrNotExist) {
			return out, nil
		} else if err != nil {
			return nil, err
		}
		out = append(out, f)
	}
}

// check compares a file with the volume's list of checksums, if it is in it.
func (v *volume) check(file string) error {
	want := v.sums[filepath.Base(file)]
	if want == "" || v.good[file] {
		return nil
	}
	f, err := regular.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	var h hash.Hash = md5.New()
	if len(want) == 8 {
		h = crc32.NewIEEE()
	}
	if _, err := io.Copy(h, f); err != nil {
		return fmt.Errorf("cannot read %s: %w", file, err)
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != want {
		return fmt.Errorf("cannot use %s: it is damaged, its checksum is %s, not %s", file, got, want)
	}
	v.good[file] = true
	return nil
}

// encrypted reports how to decrypt an archive: OpenSSL made its keys with MD5 then, and has
// these ciphers in a provider of their own now.
func (s *Set) encrypted(a Archive) string {
	files, err := s.pieces(a)
	if err != nil {
		return err.Error()
	}
	to := filepath.Join(filepath.Dir(files[len(files)-1]), strings.TrimSuffix(a.Name, "."+a.Cipher))
	return fmt.Sprintf("it is encrypted (%s): copy the volumes to a disk if they can't be written to, put the pass phrase into FILE, and run %s | %s > %s; it is restored from that file then", a.Cipher,
		tool.New(append([]string{"cat"}, files...)...), tool.New("openssl", "enc", "-d", "-"+a.Cipher, "-md", "md5", "-kfile", "FILE", "-provider", "legacy", "-provider", "default"), tool.New(to))
}

// byHand reports how to restore an archive of what is not made from these backups: the
// commands that mkCDrec recorded have names that begin with one of prefixes.
func (s *Set) byHand(a Archive, prefixes ...string) string {
	var made, dirs []string
	for n, p := range s.paths {
		if slices.ContainsFunc(prefixes, func(x string) bool { return strings.HasPrefix(n, x) }) {
			made = append(made, p)
		}
	}
	slices.Sort(made)
	how := "make it by hand"
	if len(made) > 0 {
		how += fmt.Sprintf(" (%s prints how it was made)", tool.New(append([]string{"tar", "-xzOf", s.recoveryFile}, made...)...))
	}
	for _, n := range slices.Sorted(maps.Keys(s.volumes)) {
		dirs = append(dirs, s.volumes[n].dir)
	}
	at := filepath.Join(rescue.TargetDir, a.Mount)
	return fmt.Sprintf("%s, mount it on %s, and run %s | tar -xp -C %s", how, at, tool.New(append([]string{"pastestream", "--mkcdrec", a.Mount}, dirs...)...), at)
}

// Stream returns an archive decompressed: a tar stream, or a device's content.
// Its pieces are compared with their checksums first.
func (s *Set) Stream(a Archive) (io.ReadCloser, error) {
	g := archive().FindStringSubmatch(a.Name)
	if g == nil {
		return nil, fmt.Errorf("%q is not the name of an archive", a.Name)
	}
	if a.Cipher != "" {
		return nil, fmt.Errorf("cannot read %s: %s", a.Name, s.encrypted(a))
	}
	files, err := s.pieces(a)
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		for _, v := range s.volumes {
			if v.dir != filepath.Dir(f) {
				continue
			}
			if err := v.check(f); err != nil {
				return nil, err
			}
		}
	}
	in := &chain{files: files}
	var r io.Reader
	switch g[4] {
	case "gz":
		r, err = gzip.NewReader(bufio.NewReaderSize(in, 1<<20))
	case "bz2":
		r = bzip2.NewReader(bufio.NewReaderSize(in, 1<<20))
	case "lzo":
		r, err = unpack.LZOP(in)
	default:
		err = fmt.Errorf("compression %q is not known here; join the pieces with cat, and use its own program", g[4])
	}
	if err != nil {
		in.Close()
		return nil, fmt.Errorf("cannot read %s: %w", a.Name, err)
	}
	return struct {
		io.Reader
		io.Closer
	}{r, in}, nil
}

// chain reads files one after the other, each opened when it is its turn.
type chain struct {
	files []string
	f     *os.File
}

func (c *chain) Read(p []byte) (int, error) {
	for {
		if c.f == nil {
			if len(c.files) == 0 {
				return 0, io.EOF
			}
			f, err := regular.Open(c.files[0])
			if err != nil {
				return 0, err
			}
			c.f, c.files = f, c.files[1:]
		}
		n, err := c.f.Read(p)
		if n > 0 || err != nil && err != io.EOF {
			return n, err
		}
		c.f.Close()
		c.f = nil
	}
}

func (c *chain) Close() error {
	if c.f == nil {
		return nil
	}
	return c.f.Close()
}
