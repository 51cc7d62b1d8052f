package tools

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode"

	"golang.org/x/sys/unix"
)

// Size reads a number with GNU's suffixes: c 1, w 2, b 512, K or KiB 1024, kB or KB 1000,
// and so on.
func Size(s string) (int64, error) {
	i := strings.IndexFunc(s, func(r rune) bool { return r < '0' || r > '9' })
	if i < 0 {
		i = len(s)
	}
	n, err := strconv.ParseInt(s[:i], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("invalid number '%s'", s)
	}
	unit, ok := Unit(s[i:])
	if !ok || n > math.MaxInt64/unit {
		return 0, fmt.Errorf("invalid number '%s'", s)
	}
	return n * unit, nil
}

// Unit is the number of bytes that a suffix stands for.
func Unit(s string) (int64, bool) {
	switch s {
	case "", "c":
		return 1, true
	case "w":
		return 2, true
	case "b":
		return 512, true
	}
	base := int64(1024)
	switch rest := s[1:]; rest {
	case "B":
		base = 1000
	case "", "iB":
	default:
		return 0, false
	}
	i := strings.IndexByte("KMGTPE", strings.ToUpper(s[:1])[0])
	if i < 0 {
		return 0, false
	}
	n := int64(1)
	for ; i >= 0; i-- {
		n *= base
	}
	return n, true
}

// Human is a number of bytes as ls -h and df -h print it: rounded up, one decimal below 10.
func Human(n uint64, base float64) string {
	f, i := float64(n), 0
	for f >= base && i < 8 {
		f /= base
		i++
		// What rounds up to the next unit belongs to it.
		if r := math.Ceil(f); f < base && r >= base {
			f = r
		}
	}
	unit := string(" KMGTPEZY"[i])
	if i == 0 {
		return strconv.FormatUint(n, 10)
	}
	if base == 1000 && i == 1 {
		unit = "k"
	}
	if r := math.Ceil(f * 10); r < 100 {
		return fmt.Sprintf("%.1f%s", r/10, unit)
	}
	return fmt.Sprintf("%.0f%s", math.Ceil(f), unit)
}

// Seconds reads a time such as 5, 0.5, 2m, 1h or 1d.
func Seconds(s string) (time.Duration, error) {
	unit := time.Second
	num := s
	if n := len(s); n > 0 {
		if u, ok := map[byte]time.Duration{'s': time.Second, 'm': time.Minute, 'h': time.Hour, 'd': 24 * time.Hour}[s[n-1]]; ok {
			unit, num = u, s[:n-1]
		}
	}
	f, err := strconv.ParseFloat(num, 64)
	if err != nil || f < 0 {
		return 0, Usage("invalid time interval '%s'", s)
	}
	return time.Duration(f * float64(unit)), nil
}

// ShellQuote quotes a word for a shell where that is needed, as ls and printf %q do.
func ShellQuote(s string) string {
	plain := s != "" && s[0] != '#' && s[0] != '~'
	odd := false
	for _, r := range s {
		odd = odd || !unicode.IsPrint(r)
		plain = plain && (unicode.IsLetter(r) || unicode.IsDigit(r) || strings.ContainsRune("%+,-./:@]_{}#~", r))
	}
	switch {
	case odd:
		return quoteOdd(s)
	case plain:
		return s
	case strings.Contains(s, "'") && !strings.ContainsAny(s, "\"$`\\!"):
		return `"` + s + `"`
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// quoteOdd quotes a word with characters that are not printed: 'a'$'\n”b'.
func quoteOdd(s string) string {
	var b strings.Builder
	b.WriteByte('\'')
	for i := range len(s) {
		c := s[i]
		if c >= 32 && c < 127 {
			b.WriteByte(c)
			continue
		}
		esc := fmt.Sprintf(`\%03o`, c)
		if j := strings.IndexByte("\a\b\f\n\r\t\v", c); j >= 0 {
			esc = `\` + `abfnrtv`[j:j+1]
		}
		b.WriteString("'$'" + esc + "''")
	}
	return strings.ReplaceAll(strings.TrimSuffix(b.String()+"'", "''"), `'''$'`, "")
}

// ModeString is "-rwxr-xr-x" for st_mode.
func ModeString(m uint32) string {
	kind := map[uint32]byte{unix.S_IFDIR: 'd', unix.S_IFLNK: 'l', unix.S_IFBLK: 'b', unix.S_IFCHR: 'c', unix.S_IFIFO: 'p', unix.S_IFSOCK: 's', unix.S_IFREG: '-'}[m&unix.S_IFMT]
	if kind == 0 {
		kind = '?'
	}
	b := []byte{kind}
	for i, c := range "rwxrwxrwx" {
		if m>>(8-i)&1 == 0 {
			c = '-'
		}
		b = append(b, byte(c))
	}
	for i, bit := range []struct {
		mask uint32
		set  string
	}{{unix.S_ISUID, "sS"}, {unix.S_ISGID, "sS"}, {unix.S_ISVTX, "tT"}} {
		if m&bit.mask == 0 {
			continue
		}
		at := 3 + 3*i
		if b[at] == 'x' {
			b[at] = bit.set[0]
		} else {
			b[at] = bit.set[1]
		}
	}
	return string(b)
}
