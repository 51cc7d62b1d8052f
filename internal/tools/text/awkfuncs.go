package text

import (
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/tools"
)

// awkFuncs are the functions of gawk that goawk lacks.
func awkFuncs() map[string]any {
	compiled := map[string]*regexp.Regexp{}
	return map[string]any{
		"systime":  func() float64 { return float64(time.Now().Unix()) },
		"strftime": awkStrftime,
		"mktime":   awkMktime,
		"strtonum": strtonum,
		"gensub": func(re, with, how, s string) (string, error) {
			r := compiled[re]
			if r == nil {
				var err error
				if r, err = regexp.Compile("(?s:" + re + ")"); err != nil {
					return "", err
				}
				compiled[re] = r
			}
			return gensub(r, with, how, s), nil
		},
		"and": func(a, b float64, more ...float64) float64 {
			return bits(func(x, y uint64) uint64 { return x & y }, a, b, more)
		},
		"or": func(a, b float64, more ...float64) float64 {
			return bits(func(x, y uint64) uint64 { return x | y }, a, b, more)
		},
		"xor": func(a, b float64, more ...float64) float64 {
			return bits(func(x, y uint64) uint64 { return x ^ y }, a, b, more)
		},
		"lshift": func(a, b float64) float64 { return float64(uint64(a) << uint64(b)) },
		"rshift": func(a, b float64) float64 { return float64(uint64(a) >> uint64(b)) },
		"compl":  func(a float64) float64 { return float64(^uint64(a) & (1<<53 - 1)) },
	}
}

func bits(op func(x, y uint64) uint64, a, b float64, more []float64) float64 {
	n := op(uint64(a), uint64(b))
	for _, m := range more {
		n = op(n, uint64(m))
	}
	return float64(n)
}

// awkStrftime is strftime([FORMAT [, SECONDS [, UTC]]]).
func awkStrftime(args ...string) string {
	format, t := "%a %b %e %H:%M:%S %Z %Y", time.Now()
	if len(args) > 0 {
		format = args[0]
	}
	if len(args) > 1 {
		n, _ := strconv.ParseFloat(args[1], 64) // 0 if it is not a number, as in all of AWK
		t = time.Unix(int64(n), 0)
	}
	if len(args) > 2 && args[2] != "" && args[2] != "0" {
		t = t.UTC()
		format = strings.ReplaceAll(format, "%Z", "GMT")
	}
	return tools.Strftime(format, t)
}

// awkMktime is mktime("YEAR MONTH DAY HOUR MINUTE SECOND [DST]" [, UTC]); -1 is an error.
func awkMktime(spec string, utc ...string) float64 {
	var n []int
	for _, w := range strings.Fields(spec) {
		v, err := strconv.Atoi(w)
		if err != nil {
			return -1
		}
		n = append(n, v)
	}
	if len(n) < 6 {
		return -1
	}
	zone := time.Local
	if len(utc) > 0 && utc[0] != "" && utc[0] != "0" {
		zone = time.UTC
	}
	return float64(time.Date(n[0], time.Month(n[1]), n[2], n[3], n[4], n[5], 0, zone).Unix())
}

// strtonum reads a number in C's way: decimal, 0x... or 0...
func strtonum(s string) float64 {
	s = strings.TrimSpace(s)
	for end := len(s); end > 0; end-- {
		if n, err := strconv.ParseInt(s[:end], 0, 64); err == nil && !strings.ContainsAny(s[:end], "_oObB") {
			if f, err := strconv.ParseFloat(s, 64); err == nil && strings.ContainsAny(s, ".") {
				return f
			}
			return float64(n)
		}
		if n, err := strconv.ParseFloat(s[:end], 64); err == nil {
			return n
		}
	}
	return 0
}

// gensub replaces the match with the number how, or all if how begins with "g".
func gensub(re *regexp.Regexp, with, how, s string) string {
	nth, err := strconv.Atoi(how)
	if err != nil || nth < 1 {
		nth = 1
	}
	all := strings.HasPrefix(strings.ToLower(how), "g")
	var b strings.Builder
	at := 0
	for i, m := range re.FindAllStringSubmatchIndex(s, -1) {
		if !all && i+1 != nth {
			continue
		}
		b.WriteString(s[at:m[0]])
		group := func(g int) {
			if 2*g < len(m) && m[2*g] >= 0 {
				b.WriteString(s[m[2*g]:m[2*g+1]])
			}
		}
		for k := 0; k < len(with); k++ {
			switch c := with[k]; {
			case c == '&':
				group(0)
			case c != '\\' || k+1 == len(with):
				b.WriteByte(c)
			case isDigit(with[k+1]):
				k++
				group(int(with[k] - '0'))
			default:
				if k++; with[k] != '&' && with[k] != '\\' {
					b.WriteByte('\\')
				}
				b.WriteByte(with[k])
			}
		}
		at = m[1]
	}
	return b.String() + s[at:]
}
