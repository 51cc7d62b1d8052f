package text

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/mkcdrec/mkcdrec/internal/tools"
)

// tester evaluates an expression of test.
type tester struct {
	args []string
	i    int
}

func test(e *tools.Env) error {
	if e.Name == "[" {
		if len(e.Args) == 0 || e.Args[len(e.Args)-1] != "]" {
			return errors.New("missing ']'")
		}
		e.Args = e.Args[:len(e.Args)-1]
	}
	t := &tester{args: e.Args}
	if len(t.args) == 0 {
		return tools.Status(1)
	}
	ok, err := t.or()
	if err == nil && t.i < len(t.args) {
		err = fmt.Errorf("extra argument '%s'", t.args[t.i])
	}
	if err != nil {
		return err
	}
	if !ok {
		return tools.Status(1)
	}
	return nil
}

func (t *tester) or() (bool, error) {
	a, err := t.and()
	for err == nil && t.i < len(t.args) && t.args[t.i] == "-o" {
		t.i++
		var b bool
		b, err = t.and()
		a = a || b
	}
	return a, err
}

func (t *tester) and() (bool, error) {
	a, err := t.one()
	for err == nil && t.i < len(t.args) && t.args[t.i] == "-a" {
		t.i++
		var b bool
		b, err = t.one()
		a = a && b
	}
	return a, err
}

const binaryTests = " = == != < > -eq -ne -lt -le -gt -ge -nt -ot -ef "

// group evaluates what is in parentheses, behind the first one.
func (t *tester) group() (bool, error) {
	ok, err := t.or()
	if err == nil && (t.i >= len(t.args) || t.args[t.i] != ")") {
		err = errors.New("')' expected")
	}
	t.i++
	return ok, err
}

func (t *tester) one() (bool, error) {
	rest := t.args[t.i:]
	if len(rest) == 0 {
		return false, errors.New("missing argument")
	}
	if len(rest) >= 3 && strings.Contains(binaryTests, " "+rest[1]+" ") {
		t.i += 3
		return testTwo(rest[0], rest[1], rest[2])
	}
	switch {
	case rest[0] == "!" && len(rest) > 1:
		t.i++
		ok, err := t.one()
		return !ok, err
	case rest[0] == "(" && len(rest) > 1:
		t.i++
		return t.group()
	case len(rest) >= 2 && len(rest[0]) == 2 && rest[0][0] == '-' && strings.IndexByte("bcdefgGhkLnNOprsStuwxz", rest[0][1]) >= 0:
		t.i += 2
		return testFile(rest[0][1], rest[1]), nil
	}
	t.i++
	if len(rest) == 2 && strings.HasPrefix(rest[0], "-") {
		return false, fmt.Errorf("'%s': unary operator expected", rest[0])
	}
	return rest[0] != "", nil
}

// testFiles tests whether a file is newer or older than another one, or the same.
func testFiles(a, op, b string) bool {
	x, err1 := os.Stat(a)
	y, err2 := os.Stat(b)
	if err1 != nil || err2 != nil {
		return op == "-nt" && err1 == nil || op == "-ot" && err2 == nil
	}
	return op == "-nt" && x.ModTime().After(y.ModTime()) || op == "-ot" && x.ModTime().Before(y.ModTime()) || op == "-ef" && os.SameFile(x, y)
}

func testTwo(a, op, b string) (bool, error) {
	if ok, known := map[string]bool{"=": a == b, "==": a == b, "!=": a != b, "<": a < b, ">": a > b}[op]; known {
		return ok, nil
	}
	if slices.Contains([]string{"-nt", "-ot", "-ef"}, op) {
		return testFiles(a, op, b), nil
	}
	x, err := strconv.ParseInt(strings.TrimSpace(a), 10, 64)
	if err != nil {
		return false, fmt.Errorf("invalid integer '%s'", a)
	}
	y, err := strconv.ParseInt(strings.TrimSpace(b), 10, 64)
	if err != nil {
		return false, fmt.Errorf("invalid integer '%s'", b)
	}
	return map[string]bool{"-eq": x == y, "-ne": x != y, "-lt": x < y, "-le": x <= y, "-gt": x > y, "-ge": x >= y}[op], nil
}

func testFile(op byte, a string) bool {
	switch op {
	case 'n':
		return a != ""
	case 'z':
		return a == ""
	case 't':
		fd, err := strconv.Atoi(a)
		return err == nil && term.IsTerminal(fd)
	case 'r', 'w', 'x':
		return unix.Access(a, map[byte]uint32{'r': unix.R_OK, 'w': unix.W_OK, 'x': unix.X_OK}[op]) == nil
	}
	var st unix.Stat_t
	stat := unix.Stat
	if op == 'h' || op == 'L' {
		stat = unix.Lstat
	}
	if stat(a, &st) != nil {
		return false
	}
	switch op {
	case 'e':
		return true
	case 's':
		return st.Size > 0
	case 'g', 'u', 'k':
		return st.Mode&map[byte]uint32{'g': unix.S_ISGID, 'u': unix.S_ISUID, 'k': unix.S_ISVTX}[op] != 0
	case 'G':
		return int(st.Gid) == os.Getegid()
	case 'O':
		return int(st.Uid) == os.Geteuid()
	case 'N':
		return st.Mtim.Nano() > st.Atim.Nano()
	}
	return st.Mode&unix.S_IFMT == map[byte]uint32{'b': unix.S_IFBLK, 'c': unix.S_IFCHR, 'd': unix.S_IFDIR, 'f': unix.S_IFREG, 'h': unix.S_IFLNK, 'L': unix.S_IFLNK, 'p': unix.S_IFIFO, 'S': unix.S_IFSOCK}[op]
}
