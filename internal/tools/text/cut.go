package text

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/tools"
)

// ranges reads "1,3-5,7-,-2".
func ranges(list string) (func(int) bool, error) {
	type span struct{ a, b int }
	var ss []span
	for _, p := range strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' }) {
		a, b, isRange := strings.Cut(p, "-")
		sp := span{1, 1 << 30}
		var err1, err2 error
		if a != "" {
			sp.a, err1 = strconv.Atoi(a)
		}
		if !isRange {
			sp.b = sp.a
		} else if b != "" {
			sp.b, err2 = strconv.Atoi(b)
		}
		switch {
		case errors.Join(err1, err2) != nil || a == "" && b == "":
			return nil, fmt.Errorf("invalid field value '%s'", p)
		case sp.a < 1:
			return nil, errors.New("fields are numbered from 1")
		case sp.b < sp.a:
			return nil, errors.New("invalid decreasing range")
		}
		ss = append(ss, sp)
	}
	if ss == nil {
		return nil, errors.New("fields are numbered from 1")
	}
	return func(n int) bool {
		return slices.ContainsFunc(ss, func(s span) bool { return n >= s.a && n <= s.b })
	}, nil
}

func cut(e *tools.Env) error {
	var which []string
	for _, o := range []string{"b", "c", "f"} {
		if e.On(o) {
			which = append(which, o)
		}
	}
	delim := e.Or("d", "\t")
	switch {
	case len(which) == 0:
		return tools.Usage("you must specify a list of bytes, characters, or fields")
	case len(which) > 1:
		return tools.Usage("only one type of list may be specified")
	case len(delim) > 1:
		return tools.Usage("the delimiter must be a single character")
	case which[0] != "f" && e.On("d", "s"):
		return tools.Usage("an input delimiter may be specified only when operating on fields")
	case delim == "":
		delim = "\x00"
	}
	in, err := ranges(e.Val(which[0]))
	if err != nil {
		return tools.Usage("%v", err)
	}
	want := func(i int) bool { return in(i+1) != e.On("complement") }
	end := e.End("z")
	return e.Each(func(_ string, r io.Reader) error {
		for l, err := range tools.Lines(r, end) {
			if err != nil {
				return err
			}
			l = tools.Chomp(l, end)
			if which[0] == "f" {
				cutFields(e, l, delim, end, want)
			} else {
				cutBytes(e, l, end, want)
			}
		}
		return nil
	})
}

func cutBytes(e *tools.Env, l []byte, end byte, want func(int) bool) {
	sep, gap, any := e.Val("output-delimiter"), false, false
	for i, c := range l {
		if !want(i) {
			gap = true
			continue
		}
		if any && gap {
			e.Out.WriteString(sep)
		}
		e.Out.WriteByte(c)
		any, gap = true, false
	}
	e.Out.WriteByte(end)
}

func cutFields(e *tools.Env, l []byte, delim string, end byte, want func(int) bool) {
	parts := strings.Split(string(l), delim)
	if len(parts) == 1 {
		if !e.On("s") {
			e.Printf("%s%c", l, end)
		}
		return
	}
	var out []string
	for i, p := range parts {
		if want(i) {
			out = append(out, p)
		}
	}
	e.Printf("%s%c", strings.Join(out, e.Or("output-delimiter", delim)), end)
}

func uniq(e *tools.Env) error {
	if err := e.Need(0, 2); err != nil {
		return err
	}
	fields, err := e.Int("f", 0)
	chars, err2 := e.Int("s", 0)
	width, err3 := e.Int("w", 1<<30)
	if err := errors.Join(err, err2, err3); err != nil {
		return err
	}
	end := e.End("z")
	key := func(l []byte) []byte {
		k := l
		for range fields {
			k = bytes.TrimLeft(k, " \t")
			if i := bytes.IndexAny(k, " \t"); i >= 0 {
				k = k[i:]
			} else {
				k = nil
			}
		}
		k = k[min(chars, len(k)):]
		k = k[:min(width, len(k))]
		if e.On("i") {
			k = bytes.ToLower(k)
		}
		return k
	}
	var w io.Writer = e.Out
	if len(e.Args) == 2 {
		f, err := os.Create(e.Args[1])
		if err != nil {
			return fmt.Errorf("%s: %s", e.Args[1], tools.Cause(err))
		}
		defer f.Close()
		w = f
		e.Args = e.Args[:1]
	}
	var group [][]byte

	err = e.Each(func(_ string, r io.Reader) error {
		for l, err := range tools.Lines(r, end) {
			if err != nil {
				return err
			}
			l = bytes.Clone(tools.Chomp(l, end))
			if len(group) > 0 && !bytes.Equal(key(group[0]), key(l)) {
				putGroup(e, w, group)
				group = group[:0]
			}
			group = append(group, l)
		}
		return nil
	})
	putGroup(e, w, group)
	return err
}

// putGroup prints equal lines as uniq's options demand.
func putGroup(e *tools.Env, w io.Writer, group [][]byte) {
	n := len(group)
	if n == 0 || n > 1 && e.On("u") || n == 1 && e.On("d", "D") {
		return
	}
	if !e.On("D") {
		group = group[:1]
	}
	for _, l := range group {
		if e.On("c") {
			fmt.Fprintf(w, "%7d ", n)
		}
		fmt.Fprintf(w, "%s%c", l, e.End("z"))
	}
}

// commFile is one of comm's files, with its current line.
type commFile struct {
	r            *bufio.Reader
	line         string
	ok, disorder bool
	end          byte
}

func (f *commFile) next() {
	before, had := f.line, f.ok
	s, err := f.r.ReadString(f.end)
	f.line, f.ok = strings.TrimSuffix(s, string(f.end)), err == nil || s != ""
	f.disorder = f.disorder || f.ok && had && f.line < before
}

// putColumn prints a line in one of comm's columns, unless an option hides it.
func putColumn(e *tools.Env, column int, s string) {
	if e.On(strconv.Itoa(column)) {
		return
	}
	for c := 1; c < column; c++ {
		if !e.On(strconv.Itoa(c)) {
			e.Out.WriteString(e.Or("output-delimiter", "\t"))
		}
	}
	e.Printf("%s%c", s, e.End("z"))
}

func comm(e *tools.Env) error {
	if err := e.Need(2, 2); err != nil {
		return err
	}
	var fs [2]*commFile
	for i := range fs {
		f, err := e.Open(e.Args[i])
		if err != nil {
			return err
		}
		defer f.Close()
		fs[i] = &commFile{r: bufio.NewReader(f), end: e.End("z")}
		fs[i].next()
	}

	a, b := fs[0], fs[1]
	unpaired := false
	for a.ok || b.ok {
		switch {
		case !b.ok || a.ok && a.line < b.line:
			putColumn(e, 1, a.line)
			unpaired = true
			a.next()
		case !a.ok || b.line < a.line:
			putColumn(e, 2, b.line)
			unpaired = true
			b.next()
		default:
			putColumn(e, 3, a.line)
			a.next()
			b.next()
		}
	}
	if unpaired && (a.disorder || b.disorder) && !e.On("nocheck-order") {
		return errors.New("input is not in sorted order")
	}
	return nil
}
