package text

import (
	"errors"
	"math/big"
	"slices"
	"strconv"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/tools"
	"github.com/mkcdrec/mkcdrec/internal/tools/posix"
)

// expression evaluates expr's operands by precedence.
type expression struct {
	args []string
	i    int
}

var errSyntax = tools.Usage("syntax error")

func expr(e *tools.Env) error {
	if len(e.Args) > 0 && e.Args[0] == "--" {
		e.Args = e.Args[1:]
	}
	if err := e.Need(1, -1); err != nil {
		return err
	}
	x := &expression{args: e.Args}
	v, err := x.binary(0)
	if err == nil && x.i < len(x.args) {
		err = tools.Usage("syntax error: unexpected argument '%s'", x.args[x.i])
	}
	if err != nil {
		return err
	}
	e.Printf("%s\n", v)
	if isNull(v) {
		return tools.Status(1)
	}
	return nil
}

func isNull(v string) bool {
	n, ok := new(big.Int).SetString(v, 10)
	return v == "" || ok && n.Sign() == 0 && strings.Trim(v, "-0") == ""
}

var levels = []string{"|", "&", "< <= = == != >= >", "+ -", "* / %", ":"}

func (x *expression) binary(level int) (string, error) {
	if level == len(levels) {
		return x.primary()
	}
	a, err := x.binary(level + 1)
	for err == nil && x.i < len(x.args) {
		op := x.args[x.i]
		if op == "" || !strings.Contains(" "+levels[level]+" ", " "+op+" ") {
			break
		}
		x.i++
		var b string
		if b, err = x.binary(level + 1); err == nil {
			a, err = operate(a, op, b)
		}
	}
	return a, err
}

func (x *expression) primary() (string, error) {
	next := func() (string, error) {
		if x.i == len(x.args) {
			return "", tools.Usage("syntax error: missing argument after '%s'", x.args[x.i-1])
		}
		x.i++
		return x.args[x.i-1], nil
	}
	w, err := next()
	if err != nil {
		return "", err
	}
	n, isWord := map[string]int{"length": 1, "match": 2, "index": 2, "substr": 3}[w]
	switch {
	case w == "(":
		v, err := x.binary(0)
		if err != nil {
			return "", err
		}
		if end, err := next(); err != nil || end != ")" {
			return "", errSyntax
		}
		return v, nil
	case w == "+":
		return next()
	case isWord && x.i < len(x.args):
		return x.word(w, n)
	}
	return w, nil
}

// word evaluates one of the functions, which has n operands.
func (x *expression) word(w string, n int) (string, error) {
	var a []string
	for range n {
		v, err := x.primary()
		if err != nil {
			return "", err
		}
		a = append(a, v)
	}
	switch w {
	case "length":
		return strconv.Itoa(len(a[0])), nil
	case "match":
		return operate(a[0], ":", a[1])
	case "index":
		return strconv.Itoa(strings.IndexAny(a[0], a[1]) + 1), nil
	}
	from, err1 := strconv.Atoi(a[1])
	n, err2 := strconv.Atoi(a[2])
	if err1 != nil || err2 != nil || from < 1 || n < 1 || from > len(a[0]) {
		return "", nil
	}
	return a[0][from-1 : min(len(a[0]), from-1+n)], nil
}

// relation is "1" if what compares as c fulfils op, else "0".
func relation(c int, op string) string {
	if slices.Contains([][]string{{"<", "<=", "!="}, {"<=", "=", "==", ">="}, {">", ">=", "!="}}[c+1], op) {
		return "1"
	}
	return "0"
}

// either is the first operand that is not null, else "0".
func either(a, b string) string {
	switch {
	case !isNull(a):
		return a
	case !isNull(b):
		return b
	}
	return "0"
}

func operate(a, op, b string) (string, error) {
	x, okA := new(big.Int).SetString(a, 10)
	y, okB := new(big.Int).SetString(b, 10)
	switch op {
	case "|":
		return either(a, b), nil
	case "&":
		if isNull(a) || isNull(b) {
			return "0", nil
		}
		return a, nil
	case ":":
		return matched(a, b)
	case "<", "<=", "=", "==", "!=", ">=", ">":
		c := strings.Compare(a, b)
		if okA && okB {
			c = x.Cmp(y)
		}
		return relation(c, op), nil
	}
	if !okA || !okB {
		return "", tools.Usage("non-integer argument")
	}
	if y.Sign() == 0 && (op == "/" || op == "%") {
		return "", errors.New("division by zero")
	}
	do := map[string]func(x, y *big.Int) *big.Int{"+": x.Add, "-": x.Sub, "*": x.Mul, "/": x.Quo, "%": x.Rem}[op]
	return do(new(big.Int).Set(x), y).String(), nil
}

// matched is the group of a match at the begin of a, or the length of the match.
func matched(a, expr string) (string, error) {
	re, err := posix.Compile(`^\(`+expr+`\)`, posix.Flags{})
	if err != nil {
		return "", err
	}
	m := re.FindStringSubmatchIndex(a)
	switch {
	case re.NumSubexp() == 1 && m == nil:
		return "0", nil
	case re.NumSubexp() == 1:
		return strconv.Itoa(m[1]), nil
	case m == nil || m[4] < 0:
		return "", nil
	}
	return a[m[4]:m[5]], nil
}
