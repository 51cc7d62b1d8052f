package text

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/tools"
)

var classes = map[string]func(c byte) bool{
	"alnum": func(c byte) bool { return isAlpha(c) || isDigit(c) }, "alpha": isAlpha, "digit": isDigit,
	"blank": func(c byte) bool { return c == ' ' || c == '\t' }, "cntrl": func(c byte) bool { return c < 32 || c == 127 },
	"graph": func(c byte) bool { return c > 32 && c < 127 }, "print": func(c byte) bool { return c >= 32 && c < 127 },
	"lower": func(c byte) bool { return c >= 'a' && c <= 'z' }, "upper": func(c byte) bool { return c >= 'A' && c <= 'Z' },
	"punct": func(c byte) bool { return c > 32 && c < 127 && !isAlpha(c) && !isDigit(c) },
	"space": func(c byte) bool { return c == ' ' || c >= 9 && c <= 13 },
	"xdigit": func(c byte) bool {
		return isDigit(c) || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
	},
}

func isAlpha(c byte) bool { return tools.IsAlpha(c) }

func isDigit(c byte) bool { return tools.IsDigit(c) }

// set reads a set of tr: characters, escapes, ranges, classes, [x*n]. fill is the length
// that [x*] grows to.
func set(s string, fill int) ([]byte, error) {
	var out []byte
	star := -1
	var pad byte
	for i := 0; i < len(s); {
		if strings.HasPrefix(s[i:], "[:") {
			if j := strings.Index(s[i:], ":]"); j > 0 {
				in, ok := classes[s[i+2:i+j]]
				if !ok {
					return nil, fmt.Errorf("invalid character class '%s'", s[i+2:i+j])
				}
				for c := range 256 {
					if in(byte(c)) {
						out = append(out, byte(c))
					}
				}
				i += j + 2
				continue
			}
		}
		if c, n, length := repeated(s[i:]); length > 0 {
			if n == 0 {
				star, pad = len(out), c
			}
			out = append(out, bytes.Repeat([]byte{c}, n)...)
			i += length
			continue
		}
		c, n := escape(s[i:])
		i += n
		if i+1 < len(s) && s[i] == '-' {
			to, n := escape(s[i+1:])
			if to < c {
				return nil, fmt.Errorf("range-endpoints of '%c-%c' are in reverse collating sequence order", c, to)
			}
			for x := int(c); x <= int(to); x++ {
				out = append(out, byte(x))
			}
			i += 1 + n
			continue
		}
		out = append(out, c)
	}
	if star >= 0 {
		out = append(out[:star:star], append(bytes.Repeat([]byte{pad}, max(0, fill-len(out))), out[star:]...)...)
	}
	return out, nil
}

// repeated reads "[x*n]"; length is 0 where s does not begin with it.
func repeated(s string) (c byte, n, length int) {
	if len(s) < 4 || s[0] != '[' {
		return 0, 0, 0
	}
	c, k := escape(s[1:])
	j := strings.IndexByte(s[k:], ']') + k
	if s[1+k] != '*' || j < 2+k {
		return 0, 0, 0
	}
	v, err := strconv.ParseInt("0"+s[2+k:j], 0, 32)
	if err != nil {
		return 0, 0, 0
	}
	return c, int(v), j + 1
}

// escape reads one character, which may be an escape, and the number of bytes it has.
func escape(s string) (byte, int) {
	if s[0] != '\\' || len(s) == 1 {
		return s[0], 1
	}
	if i := strings.IndexByte(`\abfnrtv`, s[1]); i >= 0 {
		return "\\\a\b\f\n\r\t\v"[i], 2
	}
	n := 1
	for n < len(s) && n < 4 && s[n] >= '0' && s[n] <= '7' {
		n++
	}
	if n > 1 {
		v, _ := strconv.ParseUint(s[1:n], 8, 16) // only octal digits
		return byte(v), n
	}
	return s[1], 2
}

// trTable is what tr does with each byte.
type trTable struct {
	to           [256]byte
	drop, squash [256]bool
}

func newTable(e *tools.Env) (*trTable, error) {
	t := &trTable{}
	for i := range t.to {
		t.to[i] = byte(i)
	}
	one, err := set(e.Args[0], 0)
	if err != nil {
		return nil, err
	}
	if e.On("c") {
		all := t.to[:]
		one = slices.DeleteFunc(slices.Clone(all), func(c byte) bool { return bytes.IndexByte(one, c) >= 0 })
	}
	last := one
	if len(e.Args) == 2 {
		two, err := set(e.Args[1], len(one))
		if err != nil {
			return nil, err
		}
		if len(two) == 0 && !e.On("d") {
			return nil, errors.New("when not truncating set1, string2 must be non-empty")
		}
		last = two
		for i, c := range one {
			if !e.On("d") && (i < len(two) || !e.On("t")) {
				t.to[c] = two[min(i, len(two)-1)]
			}
		}
	}
	for _, c := range one {
		t.drop[c] = e.On("d")
	}
	for _, c := range last {
		t.squash[c] = e.On("s")
	}
	return t, nil
}

func tr(e *tools.Env) error {
	least, most := 2, 2
	switch del, squeeze := e.On("d"), e.On("s"); {
	case del && !squeeze:
		least, most = 1, 1
	case squeeze && !del:
		least = 1
	}
	if err := e.Need(least, most); err != nil {
		return err
	}
	t, err := newTable(e)
	if err != nil {
		return err
	}
	br := bufio.NewReaderSize(e.In, 1<<16)
	for before := -1; ; {
		c, err := br.ReadByte()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read error: %s", tools.Cause(err))
		}
		if t.drop[c] {
			continue
		}
		if c = t.to[c]; t.squash[c] && int(c) == before {
			continue
		}
		before = int(c)
		if err := e.Out.WriteByte(c); err != nil {
			return nil // reported at the end
		}
	}
}
