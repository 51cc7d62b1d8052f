package text

import (
	"errors"
	"fmt"
	"math/big"
	"strings"
)

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
