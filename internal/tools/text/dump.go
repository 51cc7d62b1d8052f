package text

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/tools"
)

func dumpCommands() []tools.Command {
	return []tools.Command{
		{Name: "hexdump", Opts: "C/canonical n/length: s/skip: v/no-squeezing b c d o x", Synopsis: "[FILE]...", Run: hexdump},
		{Name: "hd", Opts: "n/length: s/skip: v/no-squeezing", Synopsis: "[FILE]...", Run: hexdump},
		{Name: "od", Opts: "A/address-radix: t/format: j/skip-bytes: N/read-bytes: v/output-duplicates w/width? a b c d f i l o s x", Synopsis: "[FILE]...", Run: od},
		{Name: "xxd", Opts: "p/ps/plain l/len: s/seek: c/cols: g/groupsize: u r/revert b/bits i/include", Synopsis: "[INPUT [OUTPUT]]", Bad: 2, Run: xxd},
		{Name: "strings", Opts: "n/bytes: a/all t/radix: f/print-file-name o 0", Synopsis: "[FILE]...", Run: stringsOf},
	}
}

// input gives the input after -s and up to -n, all operands as one.
func input(e *tools.Env, skip, length string) (io.Reader, int64, error) {
	var rs []io.Reader
	for _, n := range e.Inputs() {
		r, err := e.Open(n)
		if err != nil {
			e.Fault(max(1, map[string]int{"xxd": 2}[e.Name]), "%v", err)
			continue
		}
		rs = append(rs, r) // closed at the end of the program
	}
	if len(rs) == 0 {
		return nil, 0, tools.Status(max(1, map[string]int{"xxd": 2}[e.Name]))
	}
	at, err := offset(e.Or(skip, "0"))
	if err != nil {
		return nil, 0, err
	}
	all := io.MultiReader(rs...)
	if f, ok := tools.File(first(rs)); ok && len(rs) == 1 && at > 0 {
		if _, err := f.Seek(at, io.SeekStart); err == nil {
			all = f
		} else if _, err := io.CopyN(io.Discard, all, at); err != nil {
			return nil, 0, errors.New("cannot skip past end of combined input")
		}
	} else if _, err := io.CopyN(io.Discard, all, at); err != nil {
		return nil, 0, errors.New("cannot skip past end of combined input")
	}
	if e.On(length) {
		n, err := offset(e.Val(length))
		if err != nil {
			return nil, 0, err
		}
		all = io.LimitReader(all, n)
	}
	return bufio.NewReaderSize(all, 1<<16), at, nil
}

func first(rs []io.Reader) io.Reader {
	if len(rs) == 0 {
		return nil
	}
	return rs[0]
}

// offset reads a number that may be hexadecimal or have a suffix.
func offset(s string) (int64, error) {
	if n, err := strconv.ParseInt(s, 0, 64); err == nil {
		return n, nil
	}
	return tools.Size(s)
}

// blocks calls fn for every block of width bytes, and once with nil for each run of
// blocks that are like the one before.
func blocks(r io.Reader, width int, all bool, fn func(at int64, b []byte)) (int64, error) {
	var at int64
	var before []byte
	skipping := false
	for {
		b := make([]byte, width)
		n, err := io.ReadFull(r, b)
		if errors.Is(err, io.EOF) {
			return at, nil
		}
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
			return at, err
		}
		b = b[:n]
		if !all && bytes.Equal(b, before) {
			if !skipping {
				fn(at, nil)
			}
			skipping = true
		} else {
			skipping = false
			fn(at, b)
		}
		before = b
		at += int64(n)
	}
}

func printable(b []byte) string {
	out := bytes.Clone(b)
	for i, c := range out {
		if c < 32 || c > 126 {
			out[i] = '.'
		}
	}
	return string(out)
}

// hexColumns is the middle of a line of hexdump -C.
func hexColumns(b []byte) string {
	h := ""
	for i, c := range b {
		if i == 8 {
			h += " "
		}
		h += fmt.Sprintf(" %02x", c)
	}
	return h
}

func hexdump(e *tools.Env) error {
	r, base, err := input(e, "s", "n")
	if err != nil {
		return err
	}
	canonical := e.On("C") || e.Name == "hd"
	kind, _ := e.Last("b", "c", "d", "o", "x")
	address := "%07x"
	if canonical {
		address = "%08x"
	}
	end, err := blocks(r, 16, e.On("v"), func(at int64, b []byte) {
		switch {
		case b == nil:
			e.Out.WriteString("*\n")
			return
		case canonical:
			e.Printf("%08x %-49s  |%s|\n", base+at, hexColumns(b), printable(b))
			return
		}
		e.Printf(address, base+at)
		line := ""
		switch kind.Name {
		case "b":
			for _, c := range b {
				line += fmt.Sprintf(" %03o", c)
			}
			line = fmt.Sprintf("%-64s", line)
		case "c":
			for _, c := range b {
				line += fmt.Sprintf(" %3s", charName(c))
			}
			line = fmt.Sprintf("%-64s", line)
		default:
			format := map[string]string{"": " %04x", "x": "    %04x", "d": "   %05d", "o": "  %06o"}[kind.Name]
			full := len(fmt.Sprintf(format, 0)) * 8
			for i := 0; i < len(b); i += 2 {
				line += fmt.Sprintf(format, binary.LittleEndian.Uint16(append(b[i:min(i+2, len(b)):min(i+2, len(b))], 0)))
			}
			line = fmt.Sprintf("%-*s", full, line)
		}
		e.Printf("%s\n", line)
	})
	if end > 0 || base > 0 {
		e.Printf(address+"\n", base+end)
	}
	return err
}

// charName is how od -c and hexdump -c print a byte.
func charName(c byte) string {
	if i := strings.IndexByte("\x00\a\b\t\n\v\f\r", c); i >= 0 {
		return `\` + "0abtnvfr"[i:i+1]
	}
	if c < 32 || c > 126 {
		return fmt.Sprintf("%03o", c)
	}
	return string(rune(c))
}

// odType is one output format of od: a letter and a size.
type odType struct {
	letter byte
	size   int
	text   bool // z
}

func odTypes(e *tools.Env) ([]odType, error) {
	var out []odType
	short := map[string]string{"a": "a", "b": "o1", "c": "c", "d": "u2", "f": "fF", "i": "dI", "l": "dL", "o": "o2", "s": "d2", "x": "x2"}
	for _, o := range e.All() {
		v := short[o.Name]
		if o.Name == "t" {
			v = o.Value
		}
		for i := 0; i < len(v); {
			t := odType{letter: v[i], size: 4}
			if strings.IndexByte("acdfoux", t.letter) < 0 {
				return nil, fmt.Errorf("invalid character '%c' in type string '%s'", v[i], v)
			}
			i++
			if t.letter == 'a' || t.letter == 'c' {
				t.size = 1
			} else if t.letter == 'f' {
				t.size = 8
			}
			for ; i < len(v) && (isDigit(v[i]) || strings.IndexByte("CSILFDz", v[i]) >= 0); i++ {
				switch n, ok := map[byte]int{'C': 1, 'S': 2, 'I': 4, 'L': 8, 'F': 4, 'D': 8}[v[i]]; {
				case v[i] == 'z':
					t.text = true
				case ok:
					t.size = n
				default:
					t.size = int(v[i] - '0')
				}
			}
			if strings.IndexByte("\x01\x02\x04\x08", byte(t.size)) < 0 {
				return nil, fmt.Errorf("invalid type string '%s'", v)
			}
			out = append(out, t)
		}
	}
	if out == nil {
		out = []odType{{'o', 2, false}}
	}
	return out, nil
}

// width is how many characters a value has, without the blank before it.
func (t odType) width() int {
	switch t.letter {
	case 'a', 'c':
		return 3
	case 'x':
		return 2 * t.size
	}
	return map[byte]map[int]int{'o': {1: 3, 2: 6, 4: 11, 8: 22}, 'u': {1: 3, 2: 5, 4: 10, 8: 20}, 'd': {1: 4, 2: 6, 4: 11, 8: 20}, 'f': {4: 15, 8: 24}}[t.letter][t.size]
}

func (t odType) text1(b []byte) string {
	var v [8]byte
	copy(v[:], b)
	u := binary.LittleEndian.Uint64(v[:])
	switch t.letter {
	case 'a':
		c := b[0] & 127
		if c == 127 {
			return "del"
		}
		if c <= 32 {
			return strings.Fields("nul soh stx etx eot enq ack bel bs ht nl vt ff cr so si dle dc1 dc2 dc3 dc4 nak syn etb can em sub esc fs gs rs us sp")[c]
		}
		return string(rune(c))
	case 'c':
		return charName(b[0])
	case 'x':
		return fmt.Sprintf("%0*x", 2*t.size, u)
	case 'o':
		return fmt.Sprintf("%0*o", t.width(), u)
	case 'u':
		return strconv.FormatUint(u, 10)
	case 'd':
		shift := 64 - 8*t.size
		return strconv.FormatInt(int64(u<<shift)>>shift, 10)
	}
	if t.size == 4 {
		return strconv.FormatFloat(float64(math.Float32frombits(uint32(u))), 'g', 8, 32)
	}
	return strconv.FormatFloat(math.Float64frombits(u), 'g', 17, 64)
}

// row prints the values in b, for width bytes with full characters.
func (t odType) row(e *tools.Env, b []byte, width, full int) {
	fields := width / t.size
	spare := full - (t.width()+1)*fields
	pad := spare
	for j := 0; j < width; j += t.size {
		left := spare * (fields - j/t.size - 1) / fields
		w := t.width() + 1 + pad - left
		pad = left
		switch {
		case j < len(b):
			e.Printf("%*s", w, t.text1(b[j:min(j+t.size, len(b))]))
		case t.text:
			e.Printf("%*s", w, "")
		}
	}
}

func od(e *tools.Env) error {
	types, err := odTypes(e)
	if err != nil {
		return err
	}
	r, base, err := input(e, "j", "N")
	if err != nil {
		return err
	}
	width, err := e.Int("w", 16)
	if o, ok := e.Last("w"); ok && o.Value == "" {
		width, err = 32, nil
	}
	if err != nil || width < 1 {
		return fmt.Errorf("invalid -w argument '%s'", e.Val("w"))
	}
	address := map[string]string{"o": "%07o", "d": "%07d", "x": "%06x", "n": ""}[e.Or("A", "o")]
	put := func(at int64) {
		if address != "" {
			e.Printf(address, base+at)
		}
	}
	// All types have their values below each other: one that is narrower is padded.
	full := 0
	for _, t := range types {
		full = max(full, (t.width()+1)*(width/t.size))
	}
	end, err := blocks(r, width, e.On("v"), func(at int64, b []byte) {
		if b == nil {
			e.Out.WriteString("*\n")
			return
		}
		for i, t := range types {
			if i == 0 {
				put(at)
			} else if address != "" {
				e.Printf("%*s", len(fmt.Sprintf(address, 0)), "")
			}
			t.row(e, b, width, full)
			if t.text {
				e.Printf("  >%s<", printable(b))
			}
			e.Out.WriteByte('\n')
		}
	})
	if address != "" {
		put(end)
		e.Out.WriteByte('\n')
	}
	return err
}

func xxd(e *tools.Env) error {
	if err := e.Need(0, 2); err != nil {
		return err
	}
	if len(e.Args) == 2 {
		f, err := os.Create(e.Args[1])
		if err != nil {
			return err
		}
		defer f.Close()
		e.Out = bufio.NewWriter(f)
		e.Args = e.Args[:1]
		defer e.Out.Flush()
	}
	if e.On("r") {
		return xxdBack(e)
	}
	cols, group, err := xxdColumns(e)
	if err != nil {
		return err
	}
	r, base, err := input(e, "s", "l")
	if err != nil {
		return err
	}
	digits, cell := "%02x", 2
	switch {
	case e.On("b"):
		digits, cell = "%08b", 8
	case e.On("u"):
		digits = "%02X"
	}
	width := cols*cell + (cols+group-1)/group
	_, err = blocks(r, cols, true, func(at int64, b []byte) {
		h := ""
		for i, c := range b {
			if !e.On("p") && i%group == 0 {
				h += " "
			}
			h += fmt.Sprintf(digits, c)
		}
		if e.On("p") {
			e.Printf("%s\n", h)
			return
		}
		e.Printf("%08x:%-*s  %s\n", base+at, width, h, printable(b))
	})
	return err
}

// xxdColumns gives the bytes of a line, and those between blanks.
func xxdColumns(e *tools.Env) (cols, group int, err error) {
	cols, group = 16, 2
	if e.On("p") {
		cols = 30
	}
	if e.On("b") {
		cols, group = 6, 1
	}
	if e.On("i") {
		cols = 12
	}
	if cols, err = e.Int("c", cols); err != nil {
		return 0, 0, err
	}
	if group, err = e.Int("g", group); group == 0 {
		group = cols
	}
	return cols, group, err
}

// xxdBack makes bytes of a dump.
func xxdBack(e *tools.Env) error {
	return e.Each(func(_ string, r io.Reader) error {
		at := int64(0)
		for l, err := range tools.Lines(r, '\n') {
			if err != nil {
				return err
			}
			s := string(tools.Chomp(l, '\n'))
			if !e.On("p") {
				a, h, ok := strings.Cut(s, ":")
				want, err := strconv.ParseInt(strings.TrimSpace(a), 16, 64)
				if !ok || err != nil {
					continue
				}
				for ; at < want; at++ {
					e.Out.WriteByte(0)
				}
				s, _, _ = strings.Cut(strings.TrimPrefix(h, " "), "  ")
			}
			b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
			if err != nil && len(b) == 0 {
				continue
			}
			at += int64(len(b))
			e.Out.Write(b)
		}
		return nil
	})
}

func stringsOf(e *tools.Env) error {
	least, err := e.Int("n", 4)
	if o, ok := e.Last("0"); ok {
		least, err = strconv.Atoi(o.Value)
	}
	if err != nil || least < 1 {
		return fmt.Errorf("invalid minimum string length %s", e.Val("n"))
	}
	radix := e.Val("t")
	if e.On("o") {
		radix = "o"
	}
	return e.Each(func(name string, r io.Reader) error {
		br := bufio.NewReaderSize(r, 1<<16)
		var run []byte
		for at := int64(0); ; at++ {
			c, err := br.ReadByte()
			if err == nil && (c >= 32 && c < 127 || c == '\t') {
				run = append(run, c)
				continue
			}
			if len(run) >= least {
				if e.On("f") {
					e.Printf("%s: ", name)
				}
				if radix != "" {
					e.Printf("%7"+radix+" ", at-int64(len(run)))
				}
				e.Printf("%s\n", run)
			}
			run = run[:0]
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
		}
	})
}
