package archive

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

const blockSize = 512

// Limits for what is read: headers and sparse maps come from media that may be
// damaged or hostile, and must not take all memory. The writer keeps to them.
const (
	// maxRecord is the longest pax record: a path, a value of an attribute (the
	// kernel's limit is 64 KiB), an ACL, or the names in a directory.
	maxRecord = maxDumpdir + maxPath
	maxPax    = maxAttrs + 8*maxPath + maxDumpdir
	// maxSparse is the longest map of maxSegments: two numbers of up to 19 digits
	// each, and the empty segment at the end.
	maxSparse = 40 * (maxSegments + 2)
)

// errHeader is the class of all faults in a tar stream.
var errHeader = errors.New("damaged tar stream")

// appendHeader appends the pax extended header (when needed) and the ustar
// header of m. stored is the number of body bytes that follow in the tar
// stream, without padding; for a sparse file that is the map and the data.
func appendHeader(dst []byte, m *Member, stored int64) []byte {
	b := bytes.NewBuffer(dst)
	_ = writeHeader(b, m, stored) // a buffer takes everything
	return b.Bytes()
}

// writeHeader writes what appendHeader appends, one record after the other: the
// attributes of one file can be larger than anything that is to be kept twice.
func writeHeader(w io.Writer, m *Member, stored int64) error {
	pax := map[string]string{}
	name := m.Path
	if m.Type == TypeDir {
		name += "/"
	}
	if m.IsSparse {
		// GNU sparse 1.0: https://www.gnu.org/software/tar/manual/html_node/PAX-1.html
		pax["GNU.sparse.major"] = "1"
		pax["GNU.sparse.minor"] = "0"
		pax["GNU.sparse.name"] = m.Path
		pax["GNU.sparse.realsize"] = strconv.FormatInt(m.Size, 10)
		dir, base := path.Split(m.Path)
		name = dir + "GNUSparseFile.0/" + base
	}
	var h [blockSize]byte
	putName(h[:100], h[345:500], name, "path", m.IsSparse, pax)
	if m.Link != "" {
		putName(h[157:257], nil, m.Link, "linkpath", false, pax)
	}
	putNumber(h[100:108], int64(m.Mode&0o7777), "", pax)
	putNumber(h[108:116], m.UID, "uid", pax)
	putNumber(h[116:124], m.GID, "gid", pax)
	putNumber(h[124:136], stored, "size", pax)
	if m.Nsec != 0 || m.Sec < 0 || m.Sec >= 1<<33 {
		pax["mtime"] = formatTime(m.Sec, m.Nsec)
	}
	putNumber(h[136:148], min(max(m.Sec, 0), 1<<33-1), "", pax)
	h[156] = byte(m.Type)
	copy(h[257:], "ustar\x0000")
	if m.Type == TypeChar || m.Type == TypeBlock {
		putNumber(h[329:337], int64(m.Major), "SCHILY.devmajor", pax)
		putNumber(h[337:345], int64(m.Minor), "SCHILY.devminor", pax)
	}
	for _, x := range m.Xattrs {
		pax["SCHILY.xattr."+xattrKey.Replace(x.Name)] = x.Value
	}
	for k, v := range map[string]string{"SCHILY.acl.access": m.ACLAccess, "SCHILY.acl.default": m.ACLDefault, "SCHILY.fflags": m.Flags.String(), paxDumpdir: m.dumpdir} {
		if v != "" {
			pax[k] = v
		}
	}
	if m.Project != 0 {
		pax[paxProject] = strconv.FormatUint(uint64(m.Project), 10)
	}
	if len(pax) > 0 {
		if err := writePax(w, m, pax); err != nil {
			return err
		}
	}
	checksum(h[:])
	_, err := w.Write(h[:])
	return err
}

// GNU tar writes '=' in an attribute's name this way, since it would end the
// pax keyword.
var (
	xattrKey   = strings.NewReplacer("%", "%25", "=", "%3D")
	xattrUnkey = strings.NewReplacer("%25", "%", "%3D", "=")
)

func formatTime(sec, nsec int64) string {
	if nsec == 0 {
		return strconv.FormatInt(sec, 10)
	}
	sign := ""
	if sec < 0 { // -1.5 is half a second before -1
		sign, sec, nsec = "-", -(sec + 1), 1e9-nsec
	}
	return sign + strconv.FormatInt(sec, 10) + "." + strings.TrimRight(fmt.Sprintf("%09d", nsec), "0")
}

func parseTime(s string) (sec, nsec int64, err error) {
	whole, frac, _ := strings.Cut(s, ".")
	neg := strings.HasPrefix(whole, "-")
	if sec, err = strconv.ParseInt(whole, 10, 64); err != nil {
		return 0, 0, fmt.Errorf("%w: time %q", errHeader, s)
	}
	if frac != "" {
		frac = (frac + "000000000")[:9]
		n, err := strconv.ParseUint(frac, 10, 32)
		if err != nil {
			return 0, 0, fmt.Errorf("%w: time %q", errHeader, s)
		}
		nsec = int64(n)
		if neg && nsec > 0 {
			sec, nsec = sec-1, 1e9-nsec
		}
	}
	return sec, nsec, nil
}

// putName stores a name in the ustar fields, or cut off there and whole in a
// pax record. A name that is not UTF-8 stays raw in the ustar fields while it
// fits; bsdtar takes a pax record for UTF-8 unless hdrcharset names another encoding.
func putName(field, prefix []byte, name, key string, sparse bool, pax map[string]string) {
	if len(name) <= len(field) {
		copy(field, name)
		if !utf8.ValidString(name) && sparse {
			pax["hdrcharset"] = "BINARY"
		}
		return
	}
	if prefix != nil && !sparse {
		if i := strings.LastIndexByte(name[:min(len(prefix)+1, len(name)-1)], '/'); i > 0 && len(name)-i-1 <= len(field) {
			copy(prefix, name[:i])
			copy(field, name[i+1:])
			return
		}
	}
	copy(field, name)
	if !sparse {
		pax[key] = name
	}
	if !utf8.ValidString(name) {
		pax["hdrcharset"] = "BINARY"
	}
}

// putNumber stores v as octal digits and NUL; what does not fit goes into a
// pax record.
func putNumber(field []byte, v int64, key string, pax map[string]string) {
	digits := len(field) - 1
	if v >= 0 && v < 1<<(3*digits) {
		copy(field, fmt.Sprintf("%0*o", digits, v))
		return
	}
	copy(field, strings.Repeat("0", digits))
	pax[key] = strconv.FormatInt(v, 10)
}

func checksum(h []byte) {
	copy(h[148:156], "        ")
	sum := 0
	for _, c := range h {
		sum += int(c)
	}
	copy(h[148:156], fmt.Sprintf("%06o\x00 ", sum))
}

func writePax(w io.Writer, m *Member, pax map[string]string) error {
	keys := make([]string, 0, len(pax))
	for k := range pax {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b string) int {
		// hdrcharset is how the following records are read: first.
		if (a == "hdrcharset") != (b == "hdrcharset") {
			if a == "hdrcharset" {
				return -1
			}
			return 1
		}
		return strings.Compare(a, b)
	})
	size := int64(0)
	for _, k := range keys {
		size += int64(recordSize(k, pax[k]))
	}
	var h [blockSize]byte
	copy(h[:100], "PaxHeaders/"+lastElement(m.Path))
	putNumber(h[100:108], 0o644, "", pax)
	putNumber(h[108:116], 0, "", pax)
	putNumber(h[116:124], 0, "", pax)
	putNumber(h[124:136], size, "", pax)
	putNumber(h[136:148], min(max(m.Sec, 0), 1<<33-1), "", pax)
	h[156] = 'x'
	copy(h[257:], "ustar\x0000")
	checksum(h[:])
	if _, err := w.Write(h[:]); err != nil {
		return err
	}
	var rec []byte
	for _, k := range keys {
		rec = appendRecord(rec[:0], k, pax[k])
		if _, err := w.Write(rec); err != nil {
			return err
		}
	}
	_, err := w.Write(make([]byte, padding(size)))
	return err
}

func lastElement(p string) string { return p[strings.LastIndexByte(p, '/')+1:] }

// recordSize gives the length of "LEN KEY=VALUE\n", where LEN counts itself.
func recordSize(k, v string) int {
	n := len(k) + len(v) + 3
	size := n + len(strconv.Itoa(n))
	if s := n + len(strconv.Itoa(size)); s != size {
		size = s
	}
	return size
}

// appendRecord appends "LEN KEY=VALUE\n".
func appendRecord(dst []byte, k, v string) []byte {
	dst = strconv.AppendInt(dst, int64(recordSize(k, v)), 10)
	dst = append(dst, ' ')
	dst = append(dst, k...)
	dst = append(dst, '=')
	dst = append(dst, v...)
	return append(dst, '\n')
}

func padding(n int64) int64 { return -n & (blockSize - 1) }

// readPax reads the records of a pax header's body of size bytes, which next gives
// piece by piece.
func readPax(size int64, next func(n int64) ([]byte, error)) (map[string]string, error) {
	out := map[string]string{}
	for size > 0 {
		var digits []byte
		for {
			b, err := next(1)
			if err != nil {
				return nil, err
			}
			if size--; b[0] == ' ' {
				break
			}
			if digits = append(digits, b[0]); len(digits) > 10 || size == 0 {
				return nil, fmt.Errorf("%w: pax record without length", errHeader)
			}
		}
		n, err := strconv.Atoi(string(digits))
		rest := int64(n) - int64(len(digits)) - 1
		if err != nil || rest < 2 || rest > size || rest > maxRecord {
			return nil, fmt.Errorf("%w: pax record with wrong length %q", errHeader, digits)
		}
		b, err := next(rest)
		if err != nil {
			return nil, err
		}
		size -= rest
		k, v, ok := strings.Cut(string(b[:rest-1]), "=")
		if !ok || k == "" || b[rest-1] != '\n' {
			return nil, fmt.Errorf("%w: pax record without keyword or end", errHeader)
		}
		out[k] = v
	}
	return out, nil
}

func parseOctal(f []byte, what string) (int64, error) {
	s := strings.Trim(string(f), " \x00")
	if s == "" {
		return 0, nil
	}
	v, err := strconv.ParseUint(s, 8, 62)
	if err != nil {
		return 0, fmt.Errorf("%w: %s %q", errHeader, what, s)
	}
	return int64(v), nil
}

func cString(f []byte) string {
	if i := bytes.IndexByte(f, 0); i >= 0 {
		f = f[:i]
	}
	return string(f)
}

// parseHeader reads one ustar header with the pax records before it. stored
// is the number of body bytes in the stream. A block of zero bytes gives
// typ 0. The sparse map, if any, is at the start of the body and not read.
func parseHeader(h []byte, pax map[string]string) (m *Member, stored int64, err error) {
	if [blockSize]byte(h) == [blockSize]byte{} {
		return nil, 0, nil
	}
	if err := checkSum(h); err != nil {
		return nil, 0, err
	}
	// Others (GNU's, star's) have the same five letters, and other fields at 345.
	if string(h[257:265]) != "ustar\x0000" || [12]byte(h[500:]) != [12]byte{} {
		return nil, 0, fmt.Errorf("%w: not a POSIX ustar header", errHeader)
	}
	m = &Member{Type: Type(h[156]), Path: cString(h[:100]), Link: cString(h[157:257])}
	if p := cString(h[345:500]); p != "" {
		m.Path = p + "/" + m.Path
	}
	var maj, mnr, mode int64
	for _, f := range []struct {
		to   *int64
		f    []byte
		what string
	}{{&mode, h[100:108], "mode"}, {&m.UID, h[108:116], "uid"}, {&m.GID, h[116:124], "gid"}, {&stored, h[124:136], "size"},
		{&m.Sec, h[136:148], "mtime"}, {&maj, h[329:337], "devmajor"}, {&mnr, h[337:345], "devminor"}} {
		if *f.to, err = parseOctal(f.f, f.what); err != nil {
			return nil, 0, err
		}
	}
	m.Mode = uint32(mode) & 0o7777
	if err := applyPax(m, pax, &stored, &maj, &mnr); err != nil {
		return nil, 0, err
	}
	m.Major, m.Minor = uint32(maj), uint32(mnr)
	if m.Type == 0 {
		m.Type = TypeFile
	}
	if m.Type == TypeDir {
		m.Path = strings.TrimSuffix(m.Path, "/")
		if strings.HasSuffix(m.Path, "/") {
			return nil, 0, fmt.Errorf("%w: the directory %s ends in two slashes", errHeader, Quote(m.Path))
		}
	}
	return m, stored, m.checkBody(stored)
}

// checkBody checks the length of what is stored against the type; a file that is not
// sparse gets it as its size.
func (m *Member) checkBody(stored int64) error {
	switch m.Type {
	case TypeFile:
		if !m.IsSparse {
			m.Size = stored
		}
	case TypeHardlink, TypeSymlink, TypeChar, TypeBlock, TypeDir, TypeFifo:
		if stored != 0 {
			return fmt.Errorf("%w: %s of type %q has a body", errHeader, Quote(m.Path), m.Type)
		}
	case 'x':
	default:
		return fmt.Errorf("%w: unknown member type %q", errHeader, m.Type)
	}
	return nil
}

func checkSum(h []byte) error {
	want, err := parseOctal(h[148:156], "checksum")
	if err != nil {
		return err
	}
	sum := int64(8 * ' ')
	for i, c := range h[:blockSize] {
		if i < 148 || i >= 156 {
			sum += int64(c)
		}
	}
	if sum != want {
		return fmt.Errorf("%w: header checksum %o, want %o", errHeader, sum, want)
	}
	return nil
}

func applyPax(m *Member, pax map[string]string, stored, maj, mnr *int64) error {
	num := func(k string, to *int64) error { return paxNumber(pax, k, to) }
	if err := errors.Join(num("uid", &m.UID), num("gid", &m.GID), num("size", stored), num("SCHILY.devmajor", maj), num("SCHILY.devminor", mnr)); err != nil {
		return err
	}
	if v, ok := pax["path"]; ok {
		m.Path = v
	}
	if v, ok := pax["linkpath"]; ok {
		m.Link = v
	}
	if v, ok := pax["mtime"]; ok {
		var err error
		if m.Sec, m.Nsec, err = parseTime(v); err != nil {
			return err
		}
	}
	if pax["GNU.sparse.major"] == "1" {
		if pax["GNU.sparse.minor"] != "0" || m.Type != TypeFile {
			return fmt.Errorf("%w: unknown sparse format", errHeader)
		}
		m.IsSparse = true
		m.Path = pax["GNU.sparse.name"]
		if err := num("GNU.sparse.realsize", &m.Size); err != nil {
			return err
		}
	}
	m.ACLAccess, m.ACLDefault = pax["SCHILY.acl.access"], pax["SCHILY.acl.default"]
	m.Flags = parseFlags(pax["SCHILY.fflags"])
	if v, ok := pax[paxProject]; ok {
		var err error
		if m.Project, err = parseProject(v); err != nil {
			return err
		}
	}
	for k, v := range pax {
		if n, ok := strings.CutPrefix(k, "SCHILY.xattr."); ok {
			m.Xattrs = append(m.Xattrs, Xattr{xattrUnkey.Replace(n), v})
		}
	}
	slices.SortFunc(m.Xattrs, func(a, b Xattr) int { return strings.Compare(a.Name, b.Name) })
	return nil
}

// paxNumber sets to, if there is a record k.
func paxNumber(pax map[string]string, k string, to *int64) error {
	if v, ok := pax[k]; ok {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil || n < 0 {
			return fmt.Errorf("%w: %s %q", errHeader, k, v)
		}
		*to = n
	}
	return nil
}

// sparseNumbers gives the numbers of a GNU sparse 1.0 map. A file that ends in a
// hole gets an empty last segment at its end, as GNU tar does.
func sparseNumbers(segs []Segment, size int64) iter.Seq[int64] {
	return func(yield func(int64) bool) {
		n := len(segs)
		trail := n == 0 || segs[n-1].Offset+segs[n-1].Length < size
		if trail {
			n++
		}
		if !yield(int64(n)) {
			return
		}
		for _, s := range segs {
			if !yield(s.Offset) || !yield(s.Length) {
				return
			}
		}
		if trail && yield(size) {
			yield(0)
		}
	}
}

// sparseMapSize gives the length of the map in bytes, padded to a block.
func sparseMapSize(segs []Segment, size int64) int64 {
	n := int64(0)
	for v := range sparseNumbers(segs, size) {
		for n += 2; v >= 10; v /= 10 {
			n++
		}
	}
	return n + padding(n)
}

// writeSparseMap writes the map, padded to a block.
func writeSparseMap(w io.Writer, segs []Segment, size int64) error {
	b, total := make([]byte, 0, 4<<10), int64(0)
	for v := range sparseNumbers(segs, size) {
		b = append(strconv.AppendInt(b, v, 10), '\n')
		if len(b) > 4000 {
			if _, err := w.Write(b); err != nil {
				return err
			}
			total, b = total+int64(len(b)), b[:0]
		}
	}
	b = append(b, make([]byte, padding(total+int64(len(b))))...)
	_, err := w.Write(b)
	return err
}

// sparseReader reads the map of a sparse file block by block.
type sparseReader struct {
	num   []byte
	segs  []Segment
	half  bool // the last segment has no length yet
	want  int  // segments that there will be, -1 before the count is known
	bytes int64
}

// feed takes one block of the map and reports whether the map is complete.
func (s *sparseReader) feed(block []byte) (done bool, err error) {
	if s.bytes += int64(len(block)); s.bytes > maxSparse {
		return false, fmt.Errorf("%w: sparse map over %d bytes", errHeader, int64(maxSparse))
	}
	for _, c := range block {
		switch {
		case c >= '0' && c <= '9' && len(s.num) < 19:
			s.num = append(s.num, c)
		case c == '\n' && len(s.num) > 0:
			v, err := strconv.ParseInt(string(s.num), 10, 64)
			if err != nil {
				return false, fmt.Errorf("%w: sparse map", errHeader)
			}
			s.num = s.num[:0]
			switch {
			case s.want < 0:
				if v > maxSegments+1 {
					return false, fmt.Errorf("%w: sparse map of %d entries", errHeader, v)
				}
				s.want = int(v)
			case s.half:
				s.segs[len(s.segs)-1].Length, s.half = v, false
			default:
				s.segs, s.half = append(s.segs, Segment{Offset: v}), true
			}
			if s.want == len(s.segs) && !s.half {
				return true, nil
			}
		default:
			return false, fmt.Errorf("%w: byte %#02x in a sparse map", errHeader, c)
		}
	}
	return false, nil
}

// segments checks the map against the file's size and the stored bytes.
func (s *sparseReader) segments(size, data int64) ([]Segment, error) {
	out := s.segs[:0]
	end := int64(0)
	for _, g := range s.segs {
		o, l := g.Offset, g.Length
		if o < end || l < 0 || l > size || o > size-l {
			return nil, fmt.Errorf("%w: sparse map leaves the file", errHeader)
		}
		end = o + l
		data -= l
		if l > 0 {
			out = append(out, g)
		}
	}
	if data != 0 {
		return nil, fmt.Errorf("%w: sparse map and stored size differ by %d bytes", errHeader, data)
	}
	return out, nil
}
