package text

import (
	"bufio"
	"cmp"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base32"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/tools"
)

const sumOpts = "b/binary t/text c/check tag z/zero quiet status strict ignore-missing"

func sumCommands() []tools.Command {
	var out []tools.Command
	for _, n := range []string{"md5sum", "sha1sum", "sha224sum", "sha256sum", "sha384sum", "sha512sum"} {
		out = append(out, tools.Command{Name: n, Opts: sumOpts, Synopsis: "[FILE]...", Run: sum})
	}
	return append(out,
		tools.Command{Name: "shasum", Opts: sumOpts + " a/algorithm:", Synopsis: "[FILE]...", Run: shasum},
		tools.Command{Name: "cksum", Opts: "", Synopsis: "[FILE]...", Run: cksum},
		tools.Command{Name: "base64", Opts: "d/decode i/ignore-garbage w/wrap:", Synopsis: "[FILE]", Run: base},
		tools.Command{Name: "base32", Opts: "d/decode i/ignore-garbage w/wrap:", Synopsis: "[FILE]", Run: base})
}

// shasum is Perl's, which names the algorithm by an option.
func shasum(e *tools.Env) error {
	bits := cmp.Or(e.Val("a"), "1")
	if hasher("sha"+bits) == nil {
		return fmt.Errorf("%s: unrecognized algorithm", bits)
	}
	e.Name = "sha" + bits + "sum"
	return sum(e)
}

func hasher(name string) func() hash.Hash {
	return map[string]func() hash.Hash{"md5": md5.New, "sha1": sha1.New, "sha224": sha256.New224, "sha256": sha256.New, "sha384": sha512.New384, "sha512": sha512.New}[strings.ToLower(strings.TrimSuffix(name, "sum"))]
}

func digest(e *tools.Env, make func() hash.Hash, name string) (string, error) {
	r, err := e.Open(name)
	if err != nil {
		return "", err
	}
	defer r.Close()
	h := make()
	if _, err := io.Copy(h, r); err != nil {
		return "", fmt.Errorf("%s: %s", name, tools.Cause(err))
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

func sum(e *tools.Env) error {
	if e.On("c") {
		return check(e)
	}
	mark := ' '
	if o, ok := e.Last("b", "t"); ok && o.Name == "b" {
		mark = '*'
	}
	for _, n := range e.Inputs() {
		d, err := digest(e, hasher(e.Name), n)
		if err != nil {
			e.Warn("%v", err)
			continue
		}
		esc := n
		if !e.On("z") {
			esc = strings.NewReplacer(`\`, `\\`, "\n", `\n`, "\r", `\r`).Replace(n)
		}
		if esc != n {
			e.Out.WriteByte('\\')
		}
		if e.On("tag") {
			e.Printf("%s (%s) = %s%c", strings.ToUpper(strings.TrimSuffix(e.Name, "sum")), esc, d, e.End("z"))
		} else {
			e.Printf("%s %c%s%c", d, mark, esc, e.End("z"))
		}
	}
	return nil
}

// sumLine reads a line "DIGEST  NAME" or "SHA256 (NAME) = DIGEST".
func sumLine(l string, make func() hash.Hash) (d, name string, ok bool) {
	l, quoted := strings.CutPrefix(l, `\`)
	if a, b, tag := strings.Cut(l, ") = "); tag && strings.Contains(a, " (") {
		_, name, _ = strings.Cut(a, " (")
		d = b
	} else if d, name, ok = strings.Cut(l, " "); !ok || name == "" {
		return "", "", false
	} else if name[0] == ' ' || name[0] == '*' {
		name = name[1:]
	}
	if quoted {
		name = strings.NewReplacer(`\\`, `\`, `\n`, "\n", `\r`, "\r").Replace(name)
	}
	b, err := hex.DecodeString(d)
	return strings.ToLower(d), name, err == nil && len(b) == make().Size() && name != ""
}

func check(e *tools.Env) error {
	for _, list := range e.Inputs() {
		r, err := e.Open(list)
		if err != nil {
			e.Warn("%v", err)
			continue
		}
		err = checkList(e, list, r)
		r.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// checked counts the lines of a list.
type checked struct{ bad, lines, differ, unread, matched int }

// line checks the file of one line.
func (c *checked) line(e *tools.Env, l string) {
	want, name, ok := sumLine(strings.TrimRight(l, "\r\n"), hasher(e.Name))
	if !ok {
		c.bad++
		return
	}
	c.lines++
	got, err := digest(e, hasher(e.Name), name)
	state := "OK"
	switch {
	case err != nil && e.On("ignore-missing") && strings.Contains(err.Error(), "No such"):
		return
	case err != nil:
		e.Warn("%v", err)
		c.unread++
		state = "FAILED open or read"
	case got != want:
		c.differ++
		state = "FAILED"
	default:
		c.matched++
	}
	if !e.On("status") && (state != "OK" || !e.On("quiet")) {
		e.Printf("%s: %s\n", name, state)
	}
}

func checkList(e *tools.Env, list string, r io.Reader) error {
	var c checked
	for l, err := range tools.Lines(r, '\n') {
		if err != nil {
			e.Warn("%s: read error", list)
			return nil
		}
		if !strings.HasPrefix(strings.TrimSpace(string(l)), "#") {
			c.line(e, string(l))
		}
	}
	if c.lines == 0 {
		e.Warn("%s: no properly formatted checksum lines found", list)
		return nil
	}
	if !e.On("status") {
		many(e, c.bad, "line is improperly formatted", "lines are improperly formatted")
		many(e, c.unread, "listed file could not be read", "listed files could not be read")
		many(e, c.differ, "computed checksum did NOT match", "computed checksums did NOT match")
	}
	if c.differ+c.unread > 0 || e.On("strict") && c.bad > 0 {
		e.Set(1)
	}
	if e.On("ignore-missing") && c.matched == 0 {
		e.Warn("%s: no file was verified", list)
	}
	return nil
}

// many warns of a number of things, without a change of the exit status.
func many(e *tools.Env, n int, one, more string) {
	if n == 1 {
		more = one
	}
	if n > 0 {
		e.Fault(0, "WARNING: %d %s", n, more)
	}
}

// cksum prints POSIX's CRC: polynomial 0x04C11DB7, with the length behind the data.
func cksum(e *tools.Env) error {
	var table [256]uint32
	for i := range table {
		c := uint32(i) << 24
		for range 8 {
			if c&(1<<31) != 0 {
				c = c<<1 ^ 0x04C11DB7
			} else {
				c <<= 1
			}
		}
		table[i] = c
	}
	return e.Each(func(name string, r io.Reader) error {
		var crc uint32
		n := int64(0)
		br := bufio.NewReaderSize(r, 1<<16)
		for {
			b, err := br.ReadByte()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return err
			}
			crc = crc<<8 ^ table[byte(crc>>24)^b]
			n++
		}
		for l := n; l > 0; l >>= 8 {
			crc = crc<<8 ^ table[byte(crc>>24)^byte(l)]
		}
		if len(e.Args) > 0 {
			name = " " + name
		} else {
			name = ""
		}
		e.Printf("%d %d%s\n", ^crc, n, name)
		return nil
	})
}

func base(e *tools.Env) error {
	if err := e.Need(0, 1); err != nil {
		return err
	}
	width, err := e.Int("w", 76)
	if err != nil {
		return err
	}
	var enc encoding = base64.StdEncoding
	alphabet := "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="
	if e.Name == "base32" {
		enc, alphabet = base32.StdEncoding, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567="
	}
	return e.Each(func(_ string, r io.Reader) error {
		if e.On("d") {
			return decode(e, r, enc, alphabet)
		}
		return encode(e, r, enc, width)
	})
}

type encoding interface {
	EncodeToString([]byte) string
	DecodeString(string) ([]byte, error)
}

func decode(e *tools.Env, r io.Reader, enc encoding, alphabet string) error {
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	s := strings.Map(func(c rune) rune {
		if c == '\n' || e.On("i") && !strings.ContainsRune(alphabet, c) {
			return -1
		}
		return c
	}, string(b))
	out, err := enc.DecodeString(s)
	e.Out.Write(out)
	if err != nil {
		_ = e.Out.Flush() // an error stays in it
		fmt.Fprintf(e.Err, "%s: invalid input\n", e.Name)
		return tools.Status(1)
	}
	return nil
}

// encode prints lines of a width, or one line for 0.
func encode(e *tools.Env, r io.Reader, enc encoding, width int) error {
	// 60 bytes are whole groups of both encodings.
	buf, col := make([]byte, 60<<10), 0
	for {
		n, err := io.ReadFull(r, buf)
		for s := enc.EncodeToString(buf[:n]); s != ""; {
			k := len(s)
			if width > 0 {
				k = min(k, width-col)
			}
			e.Out.WriteString(s[:k])
			if s, col = s[k:], col+k; col == width && width > 0 {
				e.Out.WriteByte('\n')
				col = 0
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			if col > 0 && width > 0 {
				e.Out.WriteByte('\n')
			}
			return nil
		}
		if err != nil {
			return err
		}
	}
}
