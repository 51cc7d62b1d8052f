package text

import (
	"fmt"
	"math/big"
	"strconv"
	"strings"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/tools"
)

func printCommands() []tools.Command {
	return []tools.Command{
		{Name: "printf", Opts: "-", Synopsis: "FORMAT [ARGUMENT]...", Run: printf},
		{Name: "echo", Opts: "-", Synopsis: "[-neE] [STRING]...", Run: echo},
		{Name: "seq", Opts: "-", Synopsis: "[-w] [-s STRING] [-f FORMAT] [FIRST [INCREMENT]] LAST", Run: seq},
		{Name: "expr", Opts: "-", Synopsis: "EXPRESSION", Bad: 2, Run: expr},
		{Name: "test", Opts: "-", Synopsis: "EXPRESSION", Bad: 2, Run: test},
		{Name: "[", Opts: "-", Synopsis: "EXPRESSION ]", Bad: 2, Run: test},
		{Name: "yes", Opts: "", Synopsis: "[STRING]...", Run: yes},
		{Name: "sleep", Opts: "", Synopsis: "NUMBER[smhd]...", Run: sleep},
		{Name: "true", Opts: "-", Run: func(*tools.Env) error { return nil }},
		{Name: "false", Opts: "-", Run: func(*tools.Env) error { return tools.Status(1) }},
		{Name: "basename", Opts: "+a/multiple s/suffix: z/zero", Synopsis: "NAME [SUFFIX]", Run: basename},
		{Name: "dirname", Opts: "z/zero", Synopsis: "NAME...", Run: dirname},
		{Name: "factor", Opts: "", Synopsis: "[NUMBER]...", Run: factor},
	}
}

// unescape replaces the escapes of printf and echo; stop is true after \c. octal0 takes
// \0NNN for octal numbers, as echo and %b do.
func unescape(s string, octal0 bool) (out string, stop bool) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		i++
		c := s[i]
		if j := strings.IndexByte(`\abefnrtv"`, c); j >= 0 && (c != '"' || !octal0) {
			b.WriteByte("\\\a\b\x1b\f\n\r\t\v\""[j])
			continue
		}
		digits := func(from, most int, set string) string {
			part := s[from:min(from+most, len(s))]
			return part[:len(part)-len(strings.TrimLeft(part, set))]
		}
		switch {
		case c == 'c':
			return b.String(), true
		case c == 'x' && digits(i+1, 2, "0123456789abcdefABCDEF") != "":
			d := digits(i+1, 2, "0123456789abcdefABCDEF")
			v, _ := strconv.ParseUint(d, 16, 8) // only digits
			b.WriteByte(byte(v))
			i += len(d)
		case c >= '0' && c <= '7' && (!octal0 || c == '0'):
			from := i
			if octal0 {
				from++
			}
			d := digits(from, 3, "01234567")
			v, _ := strconv.ParseUint("0"+d, 8, 16) // only digits
			b.WriteByte(byte(v))
			i = from + len(d) - 1
		default:
			b.WriteByte('\\')
			b.WriteByte(c)
		}
	}
	return b.String(), false
}

func echo(e *tools.Env) error {
	end, escapes := "\n", false
	for len(e.Args) > 0 && len(e.Args[0]) > 1 && e.Args[0][0] == '-' && strings.Trim(e.Args[0][1:], "neE") == "" {
		for _, c := range e.Args[0][1:] {
			switch c {
			case 'n':
				end = ""
			default:
				escapes = c == 'e'
			}
		}
		e.Args = e.Args[1:]
	}
	s := strings.Join(e.Args, " ")
	if escapes {
		var stop bool
		if s, stop = unescape(s, true); stop {
			end = ""
		}
	}
	e.Out.WriteString(s + end)
	return nil
}

// integer reads a number as printf does: also 0x10, 010 and 'c.
func (p *printer) integer(s string) int64 {
	if s == "" {
		return 0
	}
	if (s[0] == '\'' || s[0] == '"') && len(s) > 1 {
		return int64([]rune(s[1:])[0])
	}
	v, err := strconv.ParseInt(s, 0, 64)
	if err == nil && !strings.Contains(s, "_") {
		return v
	}
	if u, err := strconv.ParseUint(s, 0, 64); err == nil {
		return int64(u)
	}
	i := 0
	for i < len(s) && (isDigit(s[i]) || i == 0 && (s[0] == '-' || s[0] == '+')) {
		i++
	}
	if v, err = strconv.ParseInt(s[:i], 10, 64); err != nil {
		p.Warn("'%s': expected a numeric value", s)
	} else {
		p.Warn("'%s': value not completely converted", s)
	}
	return v
}

type printer struct {
	*tools.Env
	args []string
	used bool
}

func (p *printer) next() string {
	p.used = true
	if len(p.args) == 0 {
		return ""
	}
	a := p.args[0]
	p.args = p.args[1:]
	return a
}

func printf(e *tools.Env) error {
	if err := e.Need(1, -1); err != nil {
		return err
	}
	p := &printer{Env: e, args: e.Args[1:]}
	for {
		p.used = false
		stop, err := p.format(e.Args[0])
		if err != nil || stop || len(p.args) == 0 {
			return err
		}
		if !p.used {
			fmt.Fprintf(e.Err, "printf: warning: ignoring excess arguments, starting with '%s'\n", p.args[0])
			return nil
		}
	}
}

func (p *printer) format(f string) (stop bool, err error) {
	for f != "" {
		i := strings.IndexByte(f, '%')
		if i < 0 {
			i = len(f)
		}
		s, stop := unescape(f[:i], false)
		p.Out.WriteString(s)
		if f = f[i:]; stop || f == "" {
			return stop, nil
		}
		if strings.HasPrefix(f, "%%") {
			p.Out.WriteByte('%')
			f = f[2:]
			continue
		}
		i = len(f) - len(strings.TrimLeft(f[1:], "-+ #0'123456789.*"))
		spec := f[:i]
		for i < len(f) && strings.IndexByte("hlLqjzt", f[i]) >= 0 && (f[i] != 'q' || i+1 < len(f) && strings.IndexByte("di", f[i+1]) >= 0) {
			i++
		}
		if i == len(f) {
			return false, fmt.Errorf("'%s': invalid conversion specification", f)
		}
		for strings.Contains(spec, "*") {
			spec = strings.Replace(spec, "*", strconv.FormatInt(p.integer(p.next()), 10), 1)
		}
		if stop, err := p.convert(strings.ReplaceAll(spec, "'", ""), f[i]); stop || err != nil {
			return stop, err
		}
		f = f[i+1:]
	}
	return false, nil
}

func (p *printer) convert(spec string, verb byte) (stop bool, err error) {
	switch verb {
	case 's':
		p.Printf(spec+"s", p.next())
	case 'b':
		s, stop := unescape(p.next(), true)
		p.Printf(spec+"s", s)
		return stop, nil
	case 'q':
		p.Printf(spec+"s", tools.ShellQuote(p.next()))
	case 'c':
		a := p.next()
		p.Printf(spec+"s", a[:min(1, len(a))])
	case 'd', 'i':
		p.Printf(precise(spec)+"d", p.integer(p.next()))
	case 'u':
		p.Printf(precise(spec)+"d", uint64(p.integer(p.next())))
	case 'o', 'x', 'X':
		p.Printf(precise(spec)+string(verb), uint64(p.integer(p.next())))
	case 'e', 'E', 'f', 'F', 'g', 'G':
		a := p.next()
		v, err := strconv.ParseFloat(strings.TrimSpace(a), 64)
		if a != "" && err != nil {
			if v = float([]byte(a)); v < -1e300 {
				v = 0
			}
			p.Warn("'%s': expected a numeric value", a)
		}
		if (verb == 'g' || verb == 'G') && !strings.Contains(spec, ".") {
			spec += ".6"
		}
		p.Printf(spec+string(verb), v)
	default:
		return false, fmt.Errorf("%s%c: invalid conversion specification", spec, verb)
	}
	return false, nil
}

// precise takes the flag 0 off a format with a precision, as C does.
func precise(spec string) string {
	if strings.Contains(spec, ".") {
		return "%" + strings.TrimLeft(spec[1:], "0")
	}
	return spec
}

// sequence are the operands of seq.
type sequence struct {
	nums        []string
	sep, format string
	equal       bool
	decimals    int
	v           [3]*big.Rat // first, step, last
}

// options reads seq's options; a number may begin with a minus.
func (q *sequence) options(args []string) error {
	for i := 0; i < len(args); i++ {
		a := args[i]
		if a == "-w" || a == "--equal-width" {
			q.equal = true
			continue
		}
		known := false
		for _, o := range []struct {
			short, long string
			to          *string
		}{{"-s", "--separator", &q.sep}, {"-f", "--format", &q.format}} {
			switch v, has := strings.CutPrefix(a, o.long+"="); {
			case has:
				known, *o.to = true, v
			case (a == o.short || a == o.long) && i+1 < len(args):
				i++
				known, *o.to = true, args[i]
			case strings.HasPrefix(a, o.short) && a != o.short:
				known, *o.to = true, a[2:]
			}
			if known {
				break
			}
		}
		if !known {
			q.nums = append(q.nums, a)
		}
	}
	if len(q.nums) == 0 || len(q.nums) > 3 {
		return tools.Usage("missing operand")
	}
	return nil
}

func (q *sequence) numbers() error {
	texts := []string{"1", "1", q.nums[len(q.nums)-1]}
	copy(texts, q.nums[:len(q.nums)-1])
	for i, s := range texts {
		r, ok := new(big.Rat).SetString(s)
		if !ok {
			return tools.Usage("invalid floating point argument: '%s'", s)
		}
		q.v[i] = r
		if _, d, ok := strings.Cut(s, "."); ok && i < 2 {
			q.decimals = max(q.decimals, len(d))
		}
	}
	if q.v[1].Sign() == 0 {
		return tools.Usage("invalid Zero increment value: '%s'", texts[1])
	}
	return nil
}

func seq(e *tools.Env) error {
	q := &sequence{sep: "\n"}
	if err := q.options(e.Args); err != nil {
		return err
	}
	if err := q.numbers(); err != nil {
		return err
	}
	width := 0
	if q.equal {
		width = max(len(q.v[0].FloatString(q.decimals)), len(q.v[2].FloatString(q.decimals)))
	}
	printed := false
	for x := q.v[0]; x.Cmp(q.v[2])*q.v[1].Sign() <= 0; x = new(big.Rat).Add(x, q.v[1]) {
		if printed {
			e.Out.WriteString(q.sep)
		}
		s := x.FloatString(q.decimals)
		if q.format != "" {
			f, _ := x.Float64()
			s = fmt.Sprintf(q.format, f)
		} else if len(s) < width {
			digits, minus := strings.CutPrefix(s, "-")
			s = map[bool]string{true: "-"}[minus] + strings.Repeat("0", width-len(s)) + digits
		}
		if _, err := e.Out.WriteString(s); err != nil {
			return nil // reported at the end
		}
		printed = true
	}
	if printed {
		e.Out.WriteByte('\n')
	}
	return nil
}

func yes(e *tools.Env) error {
	s := "y\n"
	if len(e.Args) > 0 {
		s = strings.Join(e.Args, " ") + "\n"
	}
	for {
		if _, err := e.Out.WriteString(s); err != nil {
			return nil // reported at the end
		}
	}
}

func sleep(e *tools.Env) error {
	if err := e.Need(1, -1); err != nil {
		return err
	}
	var sum time.Duration
	for _, a := range e.Args {
		d, err := tools.Seconds(a)
		if err != nil {
			return err
		}
		sum += d
	}
	time.Sleep(sum)
	return nil
}

func basename(e *tools.Env) error {
	if err := e.Need(1, -1); err != nil {
		return err
	}
	suffix := e.Val("s")
	if !e.On("a", "s") {
		if err := e.Need(1, 2); err != nil {
			return err
		}
		if len(e.Args) == 2 {
			suffix, e.Args = e.Args[1], e.Args[:1]
		}
	}
	for _, a := range e.Args {
		b := strings.TrimRight(a, "/")
		if b == "" && a != "" {
			b = "/"
		} else if b = b[strings.LastIndexByte(b, '/')+1:]; b != suffix {
			b = strings.TrimSuffix(b, suffix)
		}
		e.Printf("%s%c", b, e.End("z"))
	}
	return nil
}

func dirname(e *tools.Env) error {
	if err := e.Need(1, -1); err != nil {
		return err
	}
	for _, a := range e.Args {
		d := strings.TrimRight(a, "/")
		if d == "" && a != "" {
			d = "/"
		} else if i := strings.LastIndexByte(d, '/'); i < 0 {
			d = "."
		} else if d = strings.TrimRight(d[:i], "/"); d == "" {
			d = "/"
		}
		e.Printf("%s%c", d, e.End("z"))
	}
	return nil
}

func factor(e *tools.Env) error {
	for _, a := range e.Args {
		n, err := strconv.ParseUint(a, 10, 64)
		if err != nil || n == 0 {
			e.Warn("'%s' is not a valid positive integer", a)
			continue
		}
		e.Printf("%d:", n)
		for p := uint64(2); n > 1; p++ {
			if p*p > n {
				p = n
			}
			for ; n%p == 0; n /= p {
				e.Printf(" %d", p)
			}
		}
		e.Out.WriteByte('\n')
	}
	return nil
}
