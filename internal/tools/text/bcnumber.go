package text

import (
	"fmt"
	"math/big"
	"strings"
)

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

func num(n int64) fixed { return fixed{big.NewInt(n), 0} }

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
