package text

import (
	"errors"
	"fmt"
	"io"
	"math/big"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/tools"
)

func bcCommands() []tools.Command {
	return []tools.Command{{Name: "bc", Opts: "l/mathlib q/quiet w/warn s/standard i/interactive", Synopsis: "[FILE]...", Run: bc}}
}

// fixed is a decimal number: n divided by 10 to the power of scale.
type fixed struct {
	n     *big.Int
	scale int
}

func pow10(n int) *big.Int { return new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(n)), nil) }

// at gives the number with another scale; digits are cut off.
func (f fixed) at(scale int) fixed {
	if scale >= f.scale {
		return fixed{new(big.Int).Mul(f.n, pow10(scale-f.scale)), scale}
	}
	return fixed{new(big.Int).Quo(f.n, pow10(f.scale-scale)), scale}
}

func (f fixed) int() int64 { return f.at(0).n.Int64() }

func (f fixed) cmp(g fixed) int {
	s := max(f.scale, g.scale)
	return f.at(s).n.Cmp(g.at(s).n)
}

// calculator reads and evaluates a program of bc: expressions, assignments, strings,
// if, while, for and blocks; no functions and no arrays.
type calculator struct {
	*tools.Env
	src  string
	i    int
	vars map[string]fixed
	math bool
	skip bool // parse, but do nothing
}

var errBc = errors.New("syntax error")

func bc(e *tools.Env) error {
	c := &calculator{Env: e, vars: map[string]fixed{"ibase": num(10), "obase": num(10), "scale": num(0), "last": num(0)}, math: e.On("l")}
	if c.math {
		c.vars["scale"] = num(20)
	}
	names := e.Args
	if len(names) == 0 {
		names = []string{"-"}
	}
	for _, n := range names {
		r, err := e.Open(n)
		if err != nil {
			return fmt.Errorf("file %s is unavailable", n)
		}
		b, err := io.ReadAll(r)
		r.Close()
		if err != nil {
			return err
		}
		c.src, c.i = strings.ReplaceAll(string(b), "\\\n", ""), 0
		for c.i < len(c.src) {
			err := c.statement()
			switch {
			case errors.Is(err, io.EOF):
				return nil
			case err != nil:
				_ = e.Out.Flush() // an error stays in it
				fmt.Fprintf(e.Err, "(standard_in) %d: %v\n", 1+strings.Count(c.src[:c.i], "\n"), err)
				if j := strings.IndexByte(c.src[c.i:], '\n'); j >= 0 {
					c.i += j + 1
				} else {
					c.i = len(c.src)
				}
			}
		}
	}
	return nil
}

func num(n int64) fixed { return fixed{big.NewInt(n), 0} }

func (c *calculator) space() {
	for c.i < len(c.src) {
		switch rest := c.src[c.i:]; {
		case rest[0] == ' ' || rest[0] == '\t':
			c.i++
		case strings.HasPrefix(rest, "/*"):
			j := strings.Index(rest, "*/")
			if j < 0 {
				j = len(rest) - 2
			}
			c.i += j + 2
		case rest[0] == '#':
			j := strings.IndexByte(rest, '\n')
			if j < 0 {
				j = len(rest)
			}
			c.i += j
		default:
			return
		}
	}
}

func (c *calculator) take(tok string) bool {
	c.space()
	if strings.HasPrefix(c.src[c.i:], tok) {
		c.i += len(tok)
		return true
	}
	return false
}

// word takes a keyword or the name of a variable.
func (c *calculator) word() string {
	c.space()
	j := c.i
	for j < len(c.src) && (c.src[j] >= 'a' && c.src[j] <= 'z' || j > c.i && (isDigit(c.src[j]) || c.src[j] == '_')) {
		j++
	}
	return c.src[c.i:j]
}

func (c *calculator) statement() error {
	c.space()
	if c.i >= len(c.src) {
		return nil
	}
	switch ch := c.src[c.i]; {
	case ch == '\n' || ch == ';':
		c.i++
		return nil
	case ch == '"':
		j := strings.IndexByte(c.src[c.i+1:], '"')
		if j < 0 {
			return errBc
		}
		if !c.skip {
			c.Out.WriteString(c.src[c.i+1 : c.i+1+j])
		}
		c.i += j + 2
		return c.end()
	case ch == '{':
		return c.block()
	}
	switch w := c.word(); w {
	case "quit", "halt":
		if c.skip {
			c.i += len(w)
			return c.end()
		}
		return io.EOF
	case "if", "while", "for":
		c.i += len(w)
		return c.control(w)
	case "print":
		c.i += len(w)
		return c.print()
	}
	start := c.i
	v, err := c.expression(0)
	if err != nil {
		return err
	}
	if !c.skip && !assigns(c.src[start:c.i]) {
		c.vars["last"] = v
		c.Printf("%s\n", c.fold(c.show(v)))
	}
	return c.end()
}

// assigns reports whether an expression is an assignment, which prints nothing.
func assigns(s string) bool {
	s = strings.TrimSpace(s)
	j := 0
	for j < len(s) && (s[j] >= 'a' && s[j] <= 'z' || j > 0 && (isDigit(s[j]) || s[j] == '_')) {
		j++
	}
	s = strings.TrimLeft(s[j:], " \t")
	if j == 0 || s == "" {
		return false
	}
	if strings.IndexByte("+-*/%^", s[0]) >= 0 {
		s = s[1:]
	}
	return strings.HasPrefix(s, "=") && !strings.HasPrefix(s, "==")
}

func (c *calculator) end() error {
	if c.space(); c.i >= len(c.src) || c.src[c.i] == '}' {
		return nil
	}
	if ch := c.src[c.i]; ch == '\n' || ch == ';' {
		c.i++
		return nil
	}
	return errBc
}

func (c *calculator) block() error {
	c.i++
	for {
		c.space()
		if c.i >= len(c.src) {
			return errBc
		}
		if c.src[c.i] == '}' {
			c.i++
			return nil
		}
		if err := c.statement(); err != nil {
			return err
		}
	}
}

func (c *calculator) print() error {
	for {
		if c.take("\"") {
			j := strings.IndexByte(c.src[c.i:], '"')
			if j < 0 {
				return errBc
			}
			s, _ := unescape(c.src[c.i:c.i+j], false)
			if !c.skip {
				c.Out.WriteString(s)
			}
			c.i += j + 1
		} else {
			v, err := c.expression(0)
			if err != nil {
				return err
			}
			if !c.skip {
				c.Out.WriteString(c.show(v))
			}
		}
		if !c.take(",") {
			return c.end()
		}
	}
}

// control runs if, while and for by reading their text again for each turn.
func (c *calculator) control(kind string) error {
	if !c.take("(") {
		return errBc
	}
	if kind == "for" {
		if _, err := c.expression(0); err != nil || !c.take(";") {
			return errors.Join(err, map[bool]error{true: errBc}[err == nil])
		}
	}
	cond := c.i
	outer := c.skip
	for {
		v, err := c.expression(0)
		if err != nil {
			return err
		}
		step := 0
		if kind == "for" {
			if !c.take(";") {
				return errBc
			}
			step = c.i
			c.skip = true
			_, err := c.expression(0)
			c.skip = outer
			if err != nil {
				return err
			}
		}
		if !c.take(")") {
			return errBc
		}
		c.take("\n")
		run := v.n.Sign() != 0 && !outer
		c.skip = !run
		err = c.statement()
		c.skip = outer
		if err != nil {
			return err
		}
		if kind == "if" {
			return c.otherwise(run)
		}
		if !run {
			return nil
		}
		if kind == "for" {
			c.i = step
			if _, err := c.expression(0); err != nil {
				return err
			}
		}
		c.i = cond
	}
}

func (c *calculator) otherwise(done bool) error {
	if c.word() != "else" {
		return nil
	}
	c.i += len("else")
	outer := c.skip
	c.skip = outer || done
	err := c.statement()
	c.skip = outer
	return err
}

var bcLevels = [][]string{{"||"}, {"&&"}, {"<=", ">=", "==", "!=", "<", ">"}, {"+", "-"}, {"*", "/", "%"}}

func (c *calculator) expression(level int) (fixed, error) {
	if level == 0 {
		if w := c.word(); w != "" && assigns(c.src[c.i:]) {
			return c.assign(w)
		}
	}
	if level == len(bcLevels) {
		return c.power()
	}
	a, err := c.expression(level + 1)
next:
	for err == nil {
		for _, op := range bcLevels[level] {
			if c.take(op) {
				var b fixed
				if b, err = c.expression(level + 1); err == nil {
					a, err = c.operate(a, op, b)
				}
				continue next
			}
		}
		break
	}
	return a, err
}

func (c *calculator) assign(name string) (fixed, error) {
	c.i += len(name)
	c.space()
	op := ""
	if c.src[c.i] != '=' {
		op = c.src[c.i : c.i+1]
		c.i++
	}
	c.i++
	v, err := c.expression(0)
	if err == nil && op != "" {
		v, err = c.operate(c.get(name), op, v)
	}
	if err == nil && !c.skip {
		if name == "ibase" || name == "obase" || name == "scale" {
			v = v.at(0)
		}
		c.vars[name] = v
	}
	return v, err
}

func (c *calculator) get(name string) fixed {
	if v, ok := c.vars[name]; ok {
		return v
	}
	return num(0)
}

func (c *calculator) power() (fixed, error) {
	if c.take("-") {
		v, err := c.power()
		if err != nil {
			return v, err
		}
		return fixed{new(big.Int).Neg(v.n), v.scale}, nil
	}
	if c.take("!") {
		v, err := c.power()
		return truth(err == nil && v.n.Sign() == 0), err
	}
	a, err := c.primary()
	if err == nil && c.take("^") {
		var b fixed
		if b, err = c.power(); err == nil {
			a, err = c.operate(a, "^", b)
		}
	}
	return a, err
}

func truth(ok bool) fixed {
	if ok {
		return num(1)
	}
	return num(0)
}

func (c *calculator) primary() (fixed, error) {
	c.space()
	if c.i >= len(c.src) {
		return fixed{}, errBc
	}
	if c.take("(") {
		v, err := c.expression(0)
		if err == nil && !c.take(")") {
			err = errBc
		}
		return v, err
	}
	for _, op := range []string{"++", "--"} {
		if c.take(op) {
			w := c.word()
			c.i += len(w)
			return c.step(w, op)
		}
	}
	if w := c.word(); w != "" {
		c.i += len(w)
		if c.take("(") {
			v, err := c.expression(0)
			if err == nil && !c.take(")") {
				err = errBc
			}
			if err != nil {
				return v, err
			}
			return c.function(w, v)
		}
		v := c.get(w)
		for _, op := range []string{"++", "--"} {
			if c.take(op) {
				_, err := c.step(w, op)
				return v, err
			}
		}
		return v, nil
	}
	return c.literal()
}

func (c *calculator) step(name, op string) (fixed, error) {
	if name == "" {
		return fixed{}, errBc
	}
	v, err := c.operate(c.get(name), op[:1], num(1))
	if err == nil && !c.skip {
		c.vars[name] = v
	}
	return v, err
}

func (c *calculator) literal() (fixed, error) {
	base := c.vars["ibase"].int()
	j, dot := c.i, -1
	for j < len(c.src) && (isDigit(c.src[j]) || c.src[j] >= 'A' && c.src[j] <= 'F' || c.src[j] == '.' && dot < 0) {
		if c.src[j] == '.' {
			dot = j
		}
		j++
	}
	s := c.src[c.i:j]
	if s == "" || s == "." {
		return fixed{}, errBc
	}
	c.i = j
	digit := func(ch byte) int64 {
		if isDigit(ch) {
			return int64(ch - '0')
		}
		return int64(ch-'A') + 10
	}
	whole, rest, _ := strings.Cut(s, ".")
	n := new(big.Int)
	for i := range len(whole) {
		n.Add(n.Mul(n, big.NewInt(base)), big.NewInt(min(digit(whole[i]), map[bool]int64{true: base - 1, false: 15}[len(s) > 1])))
	}
	if rest == "" {
		return fixed{n, 0}, nil
	}
	frac, div := new(big.Int), big.NewInt(1)
	for i := range len(rest) {
		frac.Add(frac.Mul(frac, big.NewInt(base)), big.NewInt(digit(rest[i])))
		div.Mul(div, big.NewInt(base))
	}
	k := len(rest)
	frac.Quo(frac.Mul(frac, pow10(k)), div)
	return fixed{n.Add(n.Mul(n, pow10(k)), frac), k}, nil
}

func (c *calculator) function(name string, v fixed) (fixed, error) {
	scale := int(c.vars["scale"].int())
	switch name {
	case "sqrt":
		if v.n.Sign() < 0 {
			return v, errors.New("square root of a negative number")
		}
		s := max(scale, v.scale)
		return fixed{new(big.Int).Sqrt(v.at(2 * s).n), s}, nil
	case "length":
		return num(int64(len(strings.TrimPrefix(v.n.String(), "-")))), nil
	case "scale":
		return num(int64(v.scale)), nil
	}
	if f := map[string]func(*big.Rat, int) *big.Rat{"e": bcExp, "l": bcLn, "s": bcSin, "c": bcCos, "a": bcAtan}[name]; f != nil && c.math {
		if name == "l" && v.n.Sign() <= 0 {
			return num(0), nil
		}
		r := f(new(big.Rat).SetFrac(v.n, pow10(v.scale)), scale+6)
		n := new(big.Int).Mul(r.Num(), pow10(scale))
		return fixed{n.Quo(n, r.Denom()), scale}, nil
	}
	return v, fmt.Errorf("function %s not defined", name)
}

func (c *calculator) operate(a fixed, op string, b fixed) (fixed, error) {
	scale := int(c.vars["scale"].int())
	if c.skip {
		return num(0), nil
	}
	s := max(a.scale, b.scale)
	switch op {
	case "+":
		return fixed{new(big.Int).Add(a.at(s).n, b.at(s).n), s}, nil
	case "-":
		return fixed{new(big.Int).Sub(a.at(s).n, b.at(s).n), s}, nil
	case "*":
		return fixed{new(big.Int).Mul(a.n, b.n), a.scale + b.scale}.at(min(a.scale+b.scale, max(scale, s))), nil
	case "/", "%":
		if b.n.Sign() == 0 {
			return a, errors.New("divide by zero")
		}
		q := new(big.Int).Mul(a.n, pow10(scale+b.scale))
		quo := fixed{q.Quo(q, new(big.Int).Mul(b.n, pow10(a.scale))), scale}
		if op == "/" {
			return quo, nil
		}
		rs := max(scale+b.scale, a.scale)
		p := fixed{new(big.Int).Mul(quo.n, b.n), quo.scale + b.scale}
		return fixed{new(big.Int).Sub(a.at(rs).n, p.at(rs).n), rs}, nil
	case "^":
		return c.raise(a, b.int(), scale)
	case "&&":
		return truth(a.n.Sign() != 0 && b.n.Sign() != 0), nil
	case "||":
		return truth(a.n.Sign() != 0 || b.n.Sign() != 0), nil
	}
	r := a.cmp(b)
	return truth(map[string]bool{"<": r < 0, "<=": r <= 0, ">": r > 0, ">=": r >= 0, "==": r == 0, "!=": r != 0}[op]), nil
}

const maxExponent = 1 << 16

func (c *calculator) raise(a fixed, n int64, scale int) (fixed, error) {
	if n > maxExponent || n < -maxExponent {
		return a, errors.New("exponent too large in raise")
	}
	m := max(n, -n)
	v := fixed{new(big.Int).Exp(a.n, big.NewInt(m), nil), a.scale * int(m)}
	if n < 0 {
		return c.operate(num(1), "/", v)
	}
	return v.at(min(v.scale, max(scale, a.scale))), nil
}

// show writes a number in the output base.
func (c *calculator) show(v fixed) string {
	base := c.vars["obase"].int()
	sign := ""
	n := new(big.Int).Set(v.n)
	if n.Sign() < 0 {
		sign = "-"
		n.Neg(n)
	}
	whole, frac := new(big.Int).QuoRem(n, pow10(v.scale), new(big.Int))
	if base == 10 {
		s := whole.String()
		if v.scale == 0 {
			return sign + s
		}
		if s == "0" {
			s = ""
		}
		if n.Sign() == 0 {
			return "0"
		}
		return fmt.Sprintf("%s%s.%0*s", sign, s, v.scale, frac.String())
	}
	one := func(d int64) string {
		if base <= 16 {
			return string("0123456789ABCDEF"[d])
		}
		return fmt.Sprintf(" %0*d", len(fmt.Sprint(base-1)), d)
	}
	s, b := "", big.NewInt(base)
	for d := new(big.Int); whole.Sign() > 0; {
		whole.QuoRem(whole, b, d)
		s = one(d.Int64()) + s
	}
	if v.scale > 0 {
		if s += "."; s == "." && base > 16 {
			s = "."
		}
		for t := big.NewInt(1); t.Cmp(pow10(v.scale)) < 0; t.Mul(t, b) {
			var d big.Int
			d.QuoRem(frac.Mul(frac, b), pow10(v.scale), frac)
			s += one(d.Int64())
		}
	}
	if s == "" {
		s = one(0)
	}
	return sign + s
}

// fold divides long numbers into lines of 69 characters, as GNU's bc does.
func (c *calculator) fold(s string) string {
	var out []string
	for len(s) > 69 {
		out = append(out, s[:68]+"\\")
		s = s[68:]
	}
	return strings.Join(append(out, s), "\n")
}

// series adds terms until one has no digit within the precision.
func series(digits int, next func(i int64) *big.Rat) *big.Rat {
	least := new(big.Rat).SetFrac(big.NewInt(1), pow10(digits+2))
	sum := new(big.Rat)
	for i := int64(0); ; i++ {
		t := next(i)
		sum.Add(sum, t)
		if new(big.Rat).Abs(t).Cmp(least) < 0 {
			return sum
		}
	}
}

// cutTo keeps rationals short.
func cutTo(r *big.Rat, digits int) *big.Rat {
	n := new(big.Int).Mul(r.Num(), pow10(digits+8))
	return new(big.Rat).SetFrac(n.Quo(n, r.Denom()), pow10(digits+8))
}

// bcExp is e to the power of x: halved until it is small, then squared again.
func bcExp(x *big.Rat, digits int) *big.Rat {
	k := 0
	for small := big.NewRat(1, 2); new(big.Rat).Abs(x).Cmp(small) > 0; k++ {
		x = new(big.Rat).Mul(x, small)
	}
	digits += k + 10
	t := big.NewRat(1, 1)
	r := series(digits, func(i int64) *big.Rat {
		if i > 0 {
			t = cutTo(new(big.Rat).Mul(t, new(big.Rat).Mul(x, big.NewRat(1, i))), digits)
		}
		return t
	})
	for range k {
		r = cutTo(r.Mul(r, r), digits)
	}
	return r
}

// bcLn is the natural logarithm: roots until x is near 1, then the series of atanh.
func bcLn(x *big.Rat, digits int) *big.Rat {
	factor := int64(2)
	for new(big.Rat).Abs(new(big.Rat).Sub(x, big.NewRat(1, 1))).Cmp(big.NewRat(1, 2)) > 0 {
		n := new(big.Int).Mul(x.Num(), pow10(2*(digits+20)))
		x = new(big.Rat).SetFrac(new(big.Int).Sqrt(n.Quo(n, x.Denom())), pow10(digits+20))
		factor *= 2
	}
	one := big.NewRat(1, 1)
	z := new(big.Rat).Quo(new(big.Rat).Sub(x, one), new(big.Rat).Add(x, one))
	return new(big.Rat).Mul(odd(z, digits, 1), big.NewRat(factor, 1))
}

// odd is the series z + s·z³/3 + z⁵/5 + …: atanh for s = 1, atan for s = -1.
func odd(z *big.Rat, digits int, s int64) *big.Rat {
	sq := cutTo(new(big.Rat).Mul(z, z), digits)
	t := cutTo(z, digits)
	return series(digits, func(i int64) *big.Rat {
		if i > 0 {
			t = cutTo(new(big.Rat).Mul(t, new(big.Rat).Mul(sq, big.NewRat(s, 1))), digits)
		}
		return new(big.Rat).Mul(t, big.NewRat(1, 2*i+1))
	})
}

func bcAtan(x *big.Rat, digits int) *big.Rat {
	factor, one := int64(1), big.NewRat(1, 1)
	for new(big.Rat).Abs(x).Cmp(big.NewRat(1, 4)) > 0 { // atan x = 2 atan(x / (1 + √(1+x²)))
		n := new(big.Rat).Add(one, new(big.Rat).Mul(x, x))
		m := new(big.Int).Mul(n.Num(), pow10(2*(digits+20)))
		root := new(big.Rat).SetFrac(new(big.Int).Sqrt(m.Quo(m, n.Denom())), pow10(digits+20))
		x = cutTo(new(big.Rat).Quo(x, root.Add(root, one)), digits+20)
		factor *= 2
	}
	return new(big.Rat).Mul(odd(x, digits, -1), big.NewRat(factor, 1))
}

func trig(x *big.Rat, digits int, first int64) *big.Rat {
	t := big.NewRat(1, 1)
	if first == 1 {
		t = cutTo(x, digits)
	}
	sq := cutTo(new(big.Rat).Mul(x, x), digits)
	return series(digits, func(i int64) *big.Rat {
		if i > 0 {
			n := 2*i + first
			t = cutTo(new(big.Rat).Mul(t, new(big.Rat).Mul(sq, big.NewRat(-1, n*(n-1)))), digits)
		}
		return t
	})
}

func bcSin(x *big.Rat, digits int) *big.Rat { return trig(x, digits, 1) }
func bcCos(x *big.Rat, digits int) *big.Rat { return trig(x, digits, 0) }
