package machine

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/lazyregexp"
	"github.com/mkcdrec/mkcdrec/internal/tools"
)

func fileCommands() []tools.Command {
	return []tools.Command{{Name: "file", Opts: "b/brief i/mime mime-type mime-encoding L/dereference h/no-dereference s/special-files N/no-pad F/separator: E n/no-buffer p/preserve-date f/files-from:", Synopsis: "FILE...", Run: file}}
}

// kind is what a file holds; charset is "" for what is not text.
type kind struct{ text, mime, charset string }

func file(e *tools.Env) error {
	e.Ignore("p")
	names := e.Args
	if from := e.Val("f"); from != "" {
		r, err := e.Open(from)
		if err != nil {
			return err
		}
		defer r.Close()
		for l, err := range tools.Lines(r, '\n') {
			if err != nil {
				return err
			}
			names = append(names, string(tools.Chomp(l, '\n')))
		}
	}
	if len(names) == 0 {
		return tools.Usage("missing operand")
	}
	width := 0
	for _, n := range names {
		width = max(width, utf8.RuneCountInString(n))
	}
	if e.On("N") {
		width = 0
	}
	sep := e.Or("F", ":")
	for _, n := range names {
		if !e.On("b") {
			shown := n
			if n == "-" {
				shown = "/dev/stdin"
			}
			e.Printf("%s%s%*s ", shown, sep, max(0, width-utf8.RuneCountInString(shown)), "")
		}
		k, err := look(e, n)
		if err != nil {
			k.text = fmt.Sprintf("cannot open `%s' (%s)", n, tools.Cause(err))
			if e.On("E") {
				k.text = "ERROR: " + strings.Replace(k.text, "open", "stat", 1)
				e.Set(1)
			}
			k.mime = k.text
		}
		e.Printf("%s\n", k.show(e))
	}
	return nil
}

// show is a kind as the options ask for it.
func (k kind) show(e *tools.Env) string {
	charset := k.charset
	if charset == "" {
		charset = "binary"
	}
	switch {
	case e.On("mime-type"):
		return k.mime
	case e.On("mime-encoding"):
		return charset
	case !e.On("i"):
		return k.text
	case !strings.Contains(k.mime, "/") || k.charset == "-" || strings.Contains(k.mime, "cannot "):
		return k.mime
	}
	return k.mime + "; charset=" + charset
}

// look gives the kind of a file of any type, and of its content if it has one.
func look(e *tools.Env, name string) (kind, error) {
	if name == "-" {
		b, err := io.ReadAll(io.LimitReader(e.In, headSize))
		return identify(bytes.NewReader(b), int64(len(b))), err
	}
	stat := os.Lstat
	if e.On("L") {
		stat = os.Stat
	}
	st, err := stat(name)
	if err != nil {
		return kind{}, err
	}
	prefix := ""
	for _, m := range []struct {
		bit  fs.FileMode
		name string
	}{{fs.ModeSetuid, "setuid "}, {fs.ModeSetgid, "setgid "}, {fs.ModeSticky, "sticky "}} {
		if st.Mode()&m.bit != 0 && st.Mode()&fs.ModeSymlink == 0 {
			prefix += m.name
		}
	}
	if k, ok := special(e, name, st); ok {
		k.text = strings.ReplaceAll(prefix, " ", ", ") + k.text
		return k, nil
	}
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		if os.IsPermission(err) {
			return kind{"regular file, no read permission", "application/octet-stream", ""}, nil
		}
		return kind{}, err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return kind{}, err
	}
	k := identify(f, size)
	k.text = prefix + k.text
	return k, nil
}

// special is the kind of what is not a regular file, or is not read.
func special(e *tools.Env, name string, st fs.FileInfo) (kind, bool) {
	dev := func(what string) kind {
		d := st.Sys().(*unixStat).Rdev
		return kind{fmt.Sprintf("%s special (%d/%d)", what, unix.Major(d), unix.Minor(d)), "inode/" + map[string]string{"block": "blockdevice", "character": "chardevice"}[what], ""}
	}
	switch m := st.Mode(); {
	case m.IsDir():
		return kind{"directory", "inode/directory", ""}, true
	case m&fs.ModeSymlink != 0:
		to, err := os.Readlink(name)
		if err != nil {
			return kind{}, false
		}
		if _, err := os.Stat(name); err != nil {
			return kind{"broken symbolic link to " + to, "inode/symlink", "-"}, true
		}
		return kind{"symbolic link to " + to, "inode/symlink", ""}, true
	case m&fs.ModeNamedPipe != 0:
		return kind{"fifo (named pipe)", "inode/fifo", ""}, true
	case m&fs.ModeSocket != 0:
		return kind{"socket", "inode/socket", ""}, true
	case m&fs.ModeCharDevice != 0:
		return dev("character"), true
	case m&fs.ModeDevice != 0 && !e.On("s"):
		return dev("block"), true
	}
	return kind{}, false
}

const headSize = 1 << 20

// identify gives the kind of a content.
func identify(r io.ReaderAt, size int64) kind {
	b := make([]byte, min(headSize, max(size, 0)))
	n, err := r.ReadAt(b, 0)
	if err != nil && err != io.EOF {
		return kind{"cannot read: " + tools.Cause(err), "application/octet-stream", ""}
	}
	switch b = b[:n]; {
	case n == 0:
		return kind{"empty", "inode/x-empty", ""}
	case n == 1:
		return kind{"very short file (no magic)", "application/octet-stream", ""}
	}
	for _, f := range []func([]byte) kind{magics, compressed, archive, pictures} {
		if k := f(b); k.text != "" {
			return k
		}
	}
	if k := executable(r, b); k.text != "" {
		return k
	}
	if k := volume(r, b, size); k.text != "" {
		return k
	}
	if k := text(b, size <= int64(n)); k.text != "" {
		return k
	}
	return kind{"data", "application/octet-stream", ""}
}

// field reads a number of 1, 2, 4 or 8 bytes, 0 behind the end.
func field(b []byte, off, n int) uint64 {
	if off < 0 || off+n > len(b) {
		return 0
	}
	var x [8]byte
	copy(x[:], b[off:off+n])
	return binary.LittleEndian.Uint64(x[:])
}

// has reports whether a text is at an offset.
func has(b []byte, off int, s string) bool {
	return off+len(s) <= len(b) && string(b[off:off+len(s)]) == s
}

// cstring is a text that ends with a zero byte.
func cstring(b []byte, off, most int) string {
	if off >= len(b) {
		return ""
	}
	s, _, _ := bytes.Cut(b[off:min(len(b), off+most)], []byte{0})
	return string(s)
}

// magics are formats of which the first bytes are enough.
func magics(b []byte) kind {
	for _, m := range []struct {
		off               int
		magic, text, mime string
	}{
		{0, "LPKSHHRH", "Journal file", "application/octet-stream"},
		{0, "SQLite format 3\x00", "SQLite 3.x database", "application/vnd.sqlite3"},
		{0, "!<arch>\ndebian", "Debian binary package (format 2.0)", "application/vnd.debian.binary-package"},
		{0, "!<arch>\n", "current ar archive", "application/x-archive"},
		{0, "\xed\xab\xee\xdb", "RPM v3.0 bin", "application/x-rpm"},
		{0, "\xd0\x0d\xfe\xed", "Device Tree Blob", "application/octet-stream"},
		{0, "QFI\xfb", "QEMU QCOW2 Image", "application/octet-stream"},
		{0, "KDMV", "VMware4 disk image", "application/octet-stream"},
		{0, "conectix", "Microsoft Disk Image, Virtual Server or Virtual PC", "application/octet-stream"},
		{56, "ARMd", "Linux kernel ARM64 boot executable Image, little-endian, 4K pages", "application/octet-stream"},
	} {
		if has(b, m.off, m.magic) {
			return kind{m.text, m.mime, ""}
		}
	}
	if has(b, 514, "HdrS") && has(b, 510, "\x55\xaa") {
		image := "zImage"
		if field(b, 529, 1)&1 != 0 {
			image = "bzImage"
		}
		k := kind{"Linux kernel x86 boot executable " + image, "application/octet-stream", ""}
		if at := int(field(b, 526, 2)); at > 0 {
			k.text += ", version " + cstring(b, at+512, 200)
		}
		return k
	}
	return kind{}
}

// compressed are formats of compressed data, and what their headers have.
func compressed(b []byte) kind {
	for _, c := range []struct {
		magic, text, mime string
		header            func(b []byte) string
	}{
		{"\x1f\x8b\x08", "gzip compressed data", "application/gzip", gzipHeader},
		{"BZh", "bzip2 compressed data", "application/x-bzip2", func(b []byte) string { return fmt.Sprintf(", block size = %c00k", field(b, 3, 1)) }},
		{"\xfd7zXZ\x00", "XZ compressed data", "application/x-xz", xzCheck},
		{"\x28\xb5\x2f\xfd", "Zstandard compressed data (v0.8+)", "application/zstd", zstdDictionary},
		{"\x04\x22\x4d\x18", "LZ4 compressed data (v1.4+)", "application/x-lz4", nil},
		{"\x02\x21\x4c\x18", "LZ4 compressed data (v0.1-v0.9)", "application/x-lz4", nil},
		{"\x89LZO\x00\r\n\x1a\n", "lzop compressed data", "application/octet-stream", lzopMethod},
		{"7z\xbc\xaf\x27\x1c", "7-zip archive data", "application/x-7z-compressed", func(b []byte) string { return fmt.Sprintf(", version %d.%d", field(b, 6, 1), field(b, 7, 1)) }},
		{"\x1f\x9d", "compress'd data", "application/x-compress", nil},
	} {
		if !has(b, 0, c.magic) {
			continue
		}
		if c.header != nil {
			c.text += c.header(b)
		}
		return kind{c.text, c.mime, ""}
	}
	if has(b, 0, "\x5d\x00\x00") && len(b) > 13 && (b[12] == 0 || b[12] == 0xff) {
		return kind{"LZMA compressed data", "application/x-lzma", ""}
	}
	return kind{}
}

func xzCheck(b []byte) string {
	check, ok := map[uint64]string{0: "NONE", 1: "CRC32", 4: "CRC64", 10: "SHA-256"}[field(b, 7, 1)]
	if !ok {
		check = "unknown"
	}
	return ", checksum " + check
}

// zstdDictionary is the dictionary in the header of a frame; RFC 8878, section 3.1.1.1.
func zstdDictionary(b []byte) string {
	at, d := 5, field(b, 4, 1)
	if d&0x20 == 0 {
		at++ // a window descriptor
	}
	id := uint64(0)
	if n := []int{0, 1, 2, 4}[d&3]; n > 0 {
		id = field(b, at, n)
	}
	if id == 0 {
		return ", Dictionary ID: None"
	}
	return fmt.Sprintf(", Dictionary ID: %d", id)
}

func lzopMethod(b []byte) string {
	v := uint16(field(b, 9, 1)<<8 | field(b, 10, 1))
	s := fmt.Sprintf(" - version %x.%03x", v>>12, v&0xfff)
	method, ok := map[uint64]string{1: "LZO1X-1", 2: "LZO1X-1(15)", 3: "LZO1X-999"}[field(b, 15, 1)]
	if !ok {
		return s
	}
	return s + ", " + method + ", os: " + map[bool]string{true: "Unix", false: "other"}[field(b, 17, 1) == 3]
}

// gzipHeader is what RFC 1952 has of a member.
func gzipHeader(b []byte) string {
	s := ""
	flags := field(b, 3, 1)
	if at := 10; flags&8 != 0 {
		if flags&4 != 0 {
			at += 2 + int(field(b, 10, 2))
		}
		s += fmt.Sprintf(", was \"%s\"", cstring(b, at, 255))
	}
	if t := field(b, 4, 4); t != 0 {
		s += ", last modified: " + time.Unix(int64(t), 0).UTC().Format("Mon Jan _2 15:04:05 2006")
	}
	switch field(b, 8, 1) {
	case 2:
		s += ", max compression"
	case 4:
		s += ", max speed"
	}
	if os, ok := map[uint64]string{0: "FAT filesystem (MS-DOS, OS/2, NT)", 3: "Unix", 7: "Macintosh", 11: "NTFS filesystem (NT)"}[field(b, 9, 1)]; ok {
		s += ", from " + os
	}
	if n := len(b); n >= 18 && n < headSize {
		s += fmt.Sprintf(", original size modulo 2^32 %d", field(b, n-4, 4))
	}
	return s
}

// archive are archives of files.
func archive(b []byte) kind {
	const tar = "application/x-tar"
	switch {
	case has(b, 257, "ustar  \x00"):
		return kind{"POSIX tar archive (GNU)", tar, ""}
	case has(b, 257, "ustar\x00"):
		return kind{"POSIX tar archive", tar, ""}
	case has(b, 0, "PK\x03\x04"):
		v := field(b, 4, 1)
		method, ok := map[uint64]string{0: "store", 8: "deflate", 12: "bzip2", 14: "lzma"}[field(b, 8, 2)]
		if !ok {
			method = fmt.Sprintf("[%#x]", field(b, 8, 2))
		}
		return kind{fmt.Sprintf("Zip archive data, at least v%d.%d to extract, compression method=%s", v/10, v%10, method), "application/zip", ""}
	case has(b, 0, "\xc7\x71"):
		return kind{"cpio archive", "application/x-cpio", ""}
	}
	for magic, text := range map[string]string{"070701": "SVR4 with no CRC", "070702": "SVR4 with CRC", "070707": "pre-SVR4 or odc"} {
		if has(b, 0, magic) {
			return kind{"ASCII cpio archive (" + text + ")", "application/x-cpio", ""}
		}
	}
	if oldTar(b) {
		return kind{"tar archive", tar, ""}
	}
	return kind{}
}

// oldTar reports whether a tar of Version 7 begins here, which has a checksum only.
func oldTar(b []byte) bool {
	if len(b) < 512 || b[0] == 0 {
		return false
	}
	sum, want := uint64(0), uint64(0)
	for i, c := range b[:512] {
		if i >= 148 && i < 156 {
			c = ' '
		}
		sum += uint64(c)
	}
	n, err := fmt.Sscanf(strings.Trim(string(b[148:156]), " \x00"), "%o", &want)
	return err == nil && n == 1 && want == sum
}

// pictures are pictures and documents.
func pictures(b []byte) kind {
	be := func(off, n int) (v uint64) {
		for i := range n {
			v = v<<8 | field(b, off+i, 1)
		}
		return v
	}
	switch {
	case has(b, 0, "\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"):
		color := map[uint64]string{0: "grayscale", 2: "/color RGB", 3: " colormap", 4: "gray+alpha", 6: "/color RGBA"}[be(25, 1)]
		if color == "grayscale" || color == "gray+alpha" {
			color = " " + color
		} else {
			color = strings.TrimPrefix(color, " ")
			if color == "colormap" {
				color = " " + color
			}
		}
		interlaced := map[bool]string{true: "non-interlaced", false: "interlaced"}[be(28, 1) == 0]
		return kind{fmt.Sprintf("PNG image data, %d x %d, %d-bit%s, %s", be(16, 4), be(20, 4), be(24, 1), color, interlaced), "image/png", ""}
	case has(b, 0, "\xff\xd8\xff"):
		s := "JPEG image data"
		if has(b, 6, "JFIF") {
			s += fmt.Sprintf(", JFIF standard %d.%02d", be(11, 1), be(12, 1))
		} else if has(b, 6, "Exif") {
			s += ", Exif standard"
		}
		return kind{s, "image/jpeg", ""}
	case has(b, 0, "GIF8"):
		return kind{fmt.Sprintf("GIF image data, version %s, %d x %d", cstring(b, 3, 3), field(b, 6, 2), field(b, 8, 2)), "image/gif", ""}
	case has(b, 0, "%PDF-"):
		return kind{"PDF document, version " + strings.TrimSpace(cstring(b, 5, 3)), "application/pdf", text(b, true).charset}
	}
	return kind{}
}

var shebang = lazyregexp.New(`^#! ?(/\S*?/env(?: -S)? )?(\S+)[^\n]*\n`)

// text is the kind of a text: its encoding, its lines, and what its beginning names.
func text(b []byte, whole bool) kind {
	enc, charset := encoding(b, whole)
	if enc == "" {
		return kind{}
	}
	body := enc + " text"
	k := kind{body, "text/plain", charset}
	trimmed := bytes.TrimLeft(bytes.TrimPrefix(b, []byte("\xef\xbb\xbf")), " \t\r\n")
	lower := bytes.ToLower(trimmed[:min(len(trimmed), 64)])
	switch m := shebang().FindSubmatch(b); {
	case m != nil:
		return script(string(m[2]), string(m[1]), body+" executable"+lines(b), charset)
	case whole && len(trimmed) > 0 && (trimmed[0] == '{' || trimmed[0] == '[') && json.Valid(trimmed):
		return kind{"JSON text data", "application/json", charset}
	case bytes.HasPrefix(lower, []byte("<?xml version=")):
		version := cstring(trimmed, 15, 3)
		k.text, k.mime = "XML "+version+" document, "+body, "text/xml"
	case bytes.HasPrefix(lower, []byte("<!doctype html")), bytes.HasPrefix(lower, []byte("<html")):
		k.text, k.mime = "HTML document, "+body, "text/html"
	}
	k.text += lines(b)
	return k
}

// script is the kind of a script that a program runs.
func script(program, env, rest, charset string) kind {
	base := program[strings.LastIndexByte(program, '/')+1:]
	for _, s := range []struct{ name, text, mime string }{
		{"sh", "POSIX shell script", "text/x-shellscript"}, {"dash", "POSIX shell script", "text/x-shellscript"}, {"bash", "Bourne-Again shell script", "text/x-shellscript"}, {"zsh", "Paul Falstad's zsh script", "text/x-shellscript"},
		{"python", "Python script", "text/x-script.python"}, {"perl", "Perl script text executable", "text/x-perl"}, {"ruby", "Ruby script", "text/x-ruby"},
		{"awk", "awk script", "text/x-awk"}, {"gawk", "GNU awk script", "text/x-gawk"}, {"node", "Node.js script", "application/javascript"},
	} {
		if s.name != base && s.name != strings.TrimRight(base, "0123456789.") {
			continue
		}
		if s.name == "perl" {
			return kind{s.text, s.mime, charset}
		}
		return kind{s.text + ", " + rest, s.mime, charset}
	}
	return kind{"a " + env + program + " script, " + rest, "text/plain", charset}
}

// encoding names the encoding of a text, as file(1) and as MIME do; "" for what is not text.
func encoding(b []byte, whole bool) (name, charset string) {
	switch {
	case has(b, 0, "\xff\xfe") && len(b)%2 == 0:
		return "Unicode text, UTF-16, little-endian", "utf-16le"
	case has(b, 0, "\xfe\xff") && len(b)%2 == 0:
		return "Unicode text, UTF-16, big-endian", "utf-16be"
	}
	ascii, high := true, false
	for _, c := range b {
		switch {
		case c >= 0x80:
			ascii, high = false, high || c < 0xa0 && c != 0x85
		case c < ' ' && !strings.ContainsRune("\a\b\t\n\f\r\x1b", rune(c)), c == 0x7f:
			return "", ""
		}
	}
	if !whole {
		b = wholeRunes(b)
	}
	switch {
	case ascii:
		return "ASCII", "us-ascii"
	case utf8.Valid(b) && has(b, 0, "\xef\xbb\xbf"):
		return "Unicode text, UTF-8 (with BOM)", "utf-8"
	case utf8.Valid(b):
		return "Unicode text, UTF-8", "utf-8"
	case high:
		return "Non-ISO extended-ASCII", "unknown-8bit"
	}
	return "ISO-8859", "iso-8859-1"
}

// wholeRunes is a text without its last character, which may be cut off.
func wholeRunes(b []byte) []byte {
	for i := 0; i < utf8.UTFMax && len(b) > 0 && !utf8.RuneStart(b[len(b)-1]); i++ {
		b = b[:len(b)-1]
	}
	return bytes.TrimRightFunc(b, func(r rune) bool { return r == utf8.RuneError })
}

// lines describes the lines of a text, if they are not of the usual form.
func lines(b []byte) string {
	crlf := bytes.Count(b, []byte("\r\n"))
	cr, lf := bytes.Count(b, []byte{'\r'})-crlf, bytes.Count(b, []byte{'\n'})-crlf
	longest := 0
	for l := range bytes.SplitSeq(b, []byte{'\n'}) {
		longest = max(longest, len(bytes.TrimSuffix(l, []byte{'\r'})))
	}
	s := ""
	if longest > 300 {
		s = fmt.Sprintf(", with very long lines (%d)", longest)
	}
	var ends []string
	for _, e := range []struct {
		n    int
		name string
	}{{crlf, "CRLF"}, {cr, "CR"}, {lf, "LF"}} {
		if e.n > 0 {
			ends = append(ends, e.name)
		}
	}
	switch {
	case len(ends) == 0 || has(b, 0, "\xff\xfe") || has(b, 0, "\xfe\xff"):
		s += ", with no line terminators"
	case len(ends) > 1 || ends[0] != "LF":
		s += ", with " + strings.Join(ends, ", ") + " line terminators"
	}
	if bytes.IndexByte(b, '\x1b') >= 0 {
		s += ", with escape sequences"
	}
	if bytes.IndexByte(b, '\b') >= 0 {
		s += ", with overstriking"
	}
	return s
}
