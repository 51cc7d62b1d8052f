package text

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/tools"
)

// comparison is one run of cmp.
type comparison struct {
	*tools.Env
	rs    [2]*bufio.Reader
	limit int64
}

func (c *comparison) open() error {
	skip := c.Args[2:]
	if v := c.Val("i"); v != "" {
		skip = strings.Split(v+":"+v, ":")[:2]
		if strings.Contains(v, ":") {
			skip = strings.Split(v, ":")
		}
	}
	c.limit = 1<<63 - 1
	if c.On("n") {
		var err error
		if c.limit, err = offset(c.Val("n")); err != nil {
			return err
		}
	}
	for i := range c.rs {
		f, err := c.Open(c.Args[i])
		if err != nil {
			return err
		}
		c.rs[i] = bufio.NewReaderSize(f, 1<<16) // closed at the end of the program
		if i >= len(skip) {
			continue
		}
		n, err := offset(skip[i])
		if err != nil {
			return err
		}
		if _, err := io.CopyN(io.Discard, c.rs[i], n); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
	}
	return nil
}

func cmpFiles(e *tools.Env) error {
	if err := e.Need(1, 4); err != nil {
		return err
	}
	if len(e.Args) == 1 {
		e.Args = append(e.Args, "-")
	}
	c := &comparison{Env: e}
	if err := c.open(); err != nil {
		return err
	}
	if same, err := c.compare(); same || err != nil {
		return err
	}
	return tools.Status(1)
}

// compare reports the bytes that differ, and whether there are none.
func (c *comparison) compare() (same bool, err error) {
	same = true
	line, before := 1, byte('\n')
	for n := int64(1); n <= c.limit; n++ {
		a, err1 := c.rs[0].ReadByte()
		b, err2 := c.rs[1].ReadByte()
		for i, err := range []error{err1, err2} {
			if err != nil && !errors.Is(err, io.EOF) {
				return false, fmt.Errorf("%s: %s", c.Args[i], tools.Cause(err))
			}
		}
		if err1 != nil && err2 != nil {
			break
		}
		if err1 != nil || err2 != nil {
			c.shorter(err1 == nil, n, line, before)
			return false, nil
		}
		if a != b {
			same = false
			if !c.report(n, line, a, b) {
				break
			}
		}
		if before = a; a == '\n' {
			line++
		}
	}
	return same, nil
}

// shorter reports that one of the files ends before byte n.
func (c *comparison) shorter(second bool, n int64, line int, before byte) {
	name := c.Args[map[bool]int{true: 1}[second]]
	where := fmt.Sprintf("after byte %d, in line %d", n-1, line)
	switch {
	case n == 1:
		where = "which is empty"
	case before == '\n':
		where = fmt.Sprintf("after byte %d, line %d", n-1, line-1)
	}
	if !c.On("s") {
		c.Warn("EOF on %s %s", name, where)
	}
}

// report prints a difference, and reports whether cmp continues.
func (c *comparison) report(n int64, line int, a, b byte) bool {
	switch {
	case c.On("s"):
		return false
	case c.On("l"):
		c.Printf("%*d %3o %3o\n", len(strconv.FormatInt(min(c.limit, size(c.Args[0])), 10)), n, a, b)
		return true
	case c.On("b"):
		c.Printf("%s %s differ: byte %d, line %d is %3o %s %3o %s\n", c.Args[0], c.Args[1], n, line, a, shown(a), b, shown(b))
	default:
		c.Printf("%s %s differ: char %d, line %d\n", c.Args[0], c.Args[1], n, line)
	}
	return false
}

func size(name string) int64 {
	st, err := os.Stat(name)
	if err != nil || !st.Mode().IsRegular() {
		return 1<<63 - 1
	}
	return st.Size()
}

func shown(c byte) string {
	var b strings.Builder
	w := bufio.NewWriter(&b)
	visible(w, []byte{c}, true, true)
	w.Flush()
	return b.String()
}
