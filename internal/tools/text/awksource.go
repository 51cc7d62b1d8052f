package text

import (
	"fmt"
	"slices"
	"strings"

	"github.com/benhoyt/goawk/lexer"

	"github.com/mkcdrec/mkcdrec/internal/lazyregexp"
)

// newlineRS is what RS has in goawk in place of a newline: a regular expression that matches
// one. With a newline, goawk removes a carriage return before it.
const newlineRS = `\n`

// awkToken is a token of a program, and where it begins.
type awkToken struct {
	kind lexer.Token
	text string
	at   int
}

// awkEdit replaces a part of a program.
type awkEdit struct {
	at, end int
	text    string
}

// awkSource changes a program of gawk's so that goawk runs it.
type awkSource struct {
	src   string
	toks  []awkToken
	edits []awkEdit
	more  map[string]bool // functions of awkPrelude that are used
}

// awkPrelude are functions in AWK: native ones get no arrays.
var awkPrelude = map[string]string{
	"RS": `function awk_RS() { return RS == "\\n" ? "\n" : RS }`,
	"asort": `function asort(s, d,  t, n, k) { for (k in s) t[++n] = s[k]; return awk_sorted(t, n + 0, d) }
function asorti(s, d,  t, n, k) { for (k in s) t[++n] = k ""; return awk_sorted(t, n + 0, d) }
function awk_sorted(t, n, d,  g, i, j, v) {
	for (g = int(n / 2); g > 0; g = int(g / 2))
		for (i = g + 1; i <= n; i++) {
			v = t[i]
			for (j = i; j > g && awk_less(v, t[j-g]); j -= g) t[j] = t[j-g]
			t[j] = v
		}
	delete d
	for (i = 1; i <= n; i++) d[i] = t[i]
	return n
}
function awk_less(a, b,  x, y) { x = (a == a + 0); y = (b == b + 0); return x != y ? x : a < b }`,
}

// adaptAwk gives the program as goawk runs it.
func adaptAwk(src string) (string, error) {
	a := &awkSource{src: src, more: map[string]bool{}}
	a.scan()
	for i, t := range a.toks {
		if err := a.token(i, t); err != nil {
			return "", err
		}
	}
	slices.SortStableFunc(a.edits, func(x, y awkEdit) int { return x.at - y.at })
	var b strings.Builder
	at := 0
	for _, e := range a.edits {
		b.WriteString(a.src[at:e.at] + e.text)
		at = e.end
	}
	b.WriteString(a.src[at:])
	for _, f := range []string{"RS", "asort"} {
		if a.more[f] {
			b.WriteString("\n" + awkPrelude[f])
		}
	}
	return b.String(), nil
}

// operand are the tokens that a division can follow; elsewhere, "/" begins an expression.
var operand = map[lexer.Token]bool{lexer.NAME: true, lexer.NUMBER: true, lexer.STRING: true, lexer.REGEX: true, lexer.RPAREN: true, lexer.RBRACKET: true, lexer.INCR: true, lexer.DECR: true, lexer.F_LENGTH: true}

// scan splits the program into tokens, up to a fault, which the parser reports.
func (a *awkSource) scan() {
	lines := []int{0, 0}
	for i := range len(a.src) {
		if a.src[i] == '\n' {
			lines = append(lines, i+1)
		}
	}
	l := lexer.NewLexer([]byte(a.src))
	last := lexer.NEWLINE
	for {
		pos, kind, text := l.Scan()
		at := lines[pos.Line] + pos.Column - 1
		if (kind == lexer.DIV || kind == lexer.DIV_ASSIGN) && !operand[last] {
			if i := slashInBrackets(a.src[at+1:]); i >= 0 {
				a.src = a.src[:at+1+i] + `\` + a.src[at+1+i:]
				a.toks = nil
				a.scan()
				return
			}
			_, kind, text = l.ScanRegex()
		}
		a.toks = append(a.toks, awkToken{kind, text, at})
		if kind == lexer.EOF || kind == lexer.ILLEGAL {
			return
		}
		last = kind
	}
}

// slashInBrackets finds a slash in brackets of a regular expression, where goawk's lexer would
// end it; -1 if there is none.
func slashInBrackets(s string) int {
	in := false
	for i := 0; i < len(s) && s[i] != '\n'; i++ {
		switch c := s[i]; {
		case c == '\\':
			i++
		case in && strings.HasPrefix(s[i:], "[:"):
			i += strings.Index(s[i:], ":]") + 1
		case c == '[' && !in:
			in = true
			if i+1 < len(s) && s[i+1] == '^' {
				i++
			}
			if i+1 < len(s) && s[i+1] == ']' {
				i++
			}
		case c == ']':
			in = false
		case c == '/' && in:
			return i
		case c == '/':
			return -1
		}
	}
	return -1
}

// get is the token at i, or the last one.
func (a *awkSource) get(i int) awkToken { return a.toks[min(max(i, 0), len(a.toks)-1)] }

// replace replaces the token at i, up to the next one.
func (a *awkSource) replace(i int, text string) {
	a.edits = append(a.edits, awkEdit{a.get(i).at, a.get(i + 1).at, text})
}

// gawkWords replaces gawk's names of places in a regular expression with Go's.
var gawkWords = strings.NewReplacer(`\\`, `\\`, `\<`, `\b`, `\>`, `\b`, `\y`, `\b`, "\\`", `\A`, `\'`, `\z`)

func (a *awkSource) token(i int, t awkToken) error {
	switch {
	case t.kind == lexer.REGEX:
		if old := a.src[t.at:a.get(i+1).at]; gawkWords.Replace(old) != old {
			a.replace(i, gawkWords.Replace(old))
		}
	case t.kind != lexer.NAME || a.get(i-1).kind == lexer.FUNCTION:
	case t.text == "RS":
		a.separator(i)
	case t.text == "CONVFMT" || t.text == "OFMT":
		if v := a.get(i + 2); a.get(i+1).kind == lexer.ASSIGN && v.kind == lexer.STRING {
			return awkFormat(t.text, v.text)
		}
	case a.get(i+1).kind == lexer.LPAREN && !a.defines(t.text):
		a.call(i, t.text)
	}
	return nil
}

// separator lets the program see a newline where goawk has newlineRS.
func (a *awkSource) separator(i int) {
	switch next := a.get(i + 1).kind; {
	case next == lexer.ASSIGN:
		if v := a.get(i + 2); v.kind == lexer.STRING && v.text == "\n" {
			a.replace(i+2, `"\\n"`)
		}
	case a.get(i-1).kind != lexer.GETLINE && !strings.HasSuffix(next.String(), "=") || next == lexer.EQUALS || next == lexer.NOT_EQUALS || next == lexer.LTE || next == lexer.GTE:
		t := a.get(i)
		a.edits = append(a.edits, awkEdit{t.at, t.at + len("RS"), "awk_RS()"})
		a.more["RS"] = true
	}
}

// defines reports whether the program has a function of that name.
func (a *awkSource) defines(name string) bool {
	for i, t := range a.toks {
		if t.kind == lexer.NAME && t.text == name && a.get(i-1).kind == lexer.FUNCTION {
			return true
		}
	}
	return false
}

// call completes the arguments of functions that native ones can't have: a regular expression
// becomes a string, and what is left out is written.
func (a *awkSource) call(i int, name string) {
	if name != "gensub" && name != "asort" && name != "asorti" {
		return
	}
	commas, depth, end := 0, 0, -1
	for k := i + 1; k < len(a.toks) && end < 0; k++ {
		switch a.toks[k].kind {
		case lexer.LPAREN, lexer.LBRACKET, lexer.LBRACE:
			depth++
		case lexer.RPAREN, lexer.RBRACKET, lexer.RBRACE:
			if depth--; depth == 0 {
				end = a.toks[k].at
			}
		case lexer.COMMA:
			if depth == 1 {
				commas++
			}
		}
	}
	if end < 0 {
		return
	}
	if name != "gensub" {
		a.more["asort"] = true
		if commas == 0 {
			a.edits = append(a.edits, awkEdit{end, end, ", " + a.src[a.get(i+2).at:end]})
		}
		return
	}
	if re := a.get(i + 2); re.kind == lexer.REGEX && a.get(i+3).kind == lexer.COMMA {
		// The edit of the words in it stands before this one.
		a.edits = slices.DeleteFunc(a.edits, func(e awkEdit) bool { return e.at == re.at })
		s := strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(gawkWords.Replace(re.text))
		a.toks[i+2].kind = lexer.STRING
		a.replace(i+2, `"`+s+`"`)
	}
	if commas == 2 {
		a.edits = append(a.edits, awkEdit{end, end, ", $0"})
	}
}

var integerFormat = lazyregexp.New(`%[-+ #0]*[0-9]*(\.[0-9]*)?[^-+ #0-9.aAeEfFgG%]`)

// awkFormat refuses formats of numbers that goawk can't have.
func awkFormat(name, format string) error {
	if integerFormat().MatchString(format) {
		return fmt.Errorf("%s=\"%s\" is not supported: use int() or sprintf()", name, format)
	}
	return nil
}
