package text

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/tools"
)

// count reads the number of head and tail: "-n -5", "-c 1K", "-20".
func count(e *tools.Env) (n int64, bytes bool, sign byte, err error) {
	o, ok := e.Last("n", "c", "0")
	if !ok {
		o.Value = "10"
	}
	v := strings.TrimPrefix(o.Value, " ")
	if v != "" && (v[0] == '-' || v[0] == '+') {
		sign, v = v[0], v[1:]
	}
	if n, err = tools.Size(v); err != nil {
		what := "lines"
		if o.Name == "c" {
			what = "bytes"
		}
		return 0, false, 0, fmt.Errorf("invalid number of %s: '%s'", what, o.Value)
	}
	return n, o.Name == "c", sign, nil
}

// headings prints the name of each file before it where there are several.
func headings(e *tools.Env) func(name string) {
	first := true
	return func(name string) {
		if e.On("q") || len(e.Args) < 2 && !e.On("v") {
			return
		}
		if name == "-" {
			name = "standard input"
		}
		if !first {
			e.Out.WriteByte('\n')
		}
		first = false
		e.Printf("==> %s <==\n", name)
	}
}

func head(e *tools.Env) error {
	n, isBytes, sign, err := count(e)
	if err != nil {
		return err
	}
	title, end := headings(e), e.End("z")
	return e.Each(func(name string, r io.Reader) error {
		title(name)
		if isBytes && sign != '-' {
			_, err := io.Copy(e.Out, io.LimitReader(r, n))
			return err
		}
		if isBytes {
			b, err := io.ReadAll(r)
			e.Out.Write(b[:max(0, int64(len(b))-n)])
			return err
		}
		if n == 0 && sign != '-' {
			return nil
		}
		var kept [][]byte
		i := int64(0)
		for l, err := range tools.Lines(r, end) {
			if err != nil {
				return err
			}
			i++
			if sign != '-' {
				e.Out.Write(l)
				if i == n {
					return nil
				}
				continue
			}
			if kept = append(kept, bytes.Clone(l)); int64(len(kept)) > n {
				e.Out.Write(kept[0])
				kept = kept[1:]
			}
		}
		return nil
	})
}

func tail(e *tools.Env) error {
	n, isBytes, sign, err := count(e)
	if err != nil {
		return err
	}
	title := headings(e)
	err = e.Each(func(name string, r io.Reader) error {
		title(name)
		return last(e, r, n, isBytes, sign == '+')
	})
	if err == nil && e.On("f", "F") {
		return follow(e)
	}
	return err
}

// last prints the last n lines or bytes of r; with from, those from number n on.
func last(e *tools.Env, r io.Reader, n int64, isBytes, from bool) error {
	if from && isBytes {
		if _, err := io.CopyN(io.Discard, r, max(n-1, 0)); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		return e.Copy(r)
	}
	end := e.End("z")
	if isBytes {
		if f, ok := tools.File(r); ok {
			if size, err := f.Seek(0, io.SeekEnd); err == nil {
				_, err = f.Seek(max(0, size-n), io.SeekStart)
				if err != nil {
					return err
				}
			}
		}
		b, err := io.ReadAll(r)
		e.Out.Write(b[max(0, int64(len(b))-n):])
		return err
	}
	// A log of gigabytes is read from its end.
	if f, ok := tools.File(r); ok && !from {
		if size, err := f.Seek(0, io.SeekEnd); err == nil {
			off, err := startOfLast(f, size, n, end)
			if err != nil {
				return err
			}
			if _, err := f.Seek(off, io.SeekStart); err != nil {
				return err
			}
			return e.Copy(f)
		}
	}
	return lastLines(e, r, n, from)
}

func lastLines(e *tools.Env, r io.Reader, n int64, from bool) error {
	var kept [][]byte
	i := int64(0)
	for l, err := range tools.Lines(r, e.End("z")) {
		if err != nil {
			return err
		}
		i++
		switch {
		case from && i >= n:
			e.Out.Write(l)
		case !from:
			if kept = append(kept, bytes.Clone(l)); int64(len(kept)) > n {
				kept = kept[1:]
			}
		}
	}
	for _, l := range kept {
		e.Out.Write(l)
	}
	return nil
}

func startOfLast(f io.ReaderAt, size, n int64, end byte) (int64, error) {
	if n == 0 {
		return size, nil
	}
	buf := make([]byte, 1<<16)
	for off := size; off > 0; {
		step := min(off, int64(len(buf)))
		off -= step
		if _, err := f.ReadAt(buf[:step], off); err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
		for i := step - 1; i >= 0; i-- {
			if buf[i] != end || off+i == size-1 {
				continue
			}
			if n--; n <= 0 {
				return off + i + 1, nil
			}
		}
	}
	return 0, nil
}

// openAtEnd opens files behind what they have now. Those that can't be opened are nil.
func openAtEnd(names []string) ([]*os.File, error) {
	fs := make([]*os.File, len(names))
	for i, n := range names {
		f, err := os.Open(n)
		if err != nil {
			continue
		}
		if _, err := f.Seek(0, io.SeekEnd); err != nil {
			return nil, err
		}
		fs[i] = f
	}
	return fs, nil
}

// follow prints what is appended to the operands until it is interrupted; with -F also
// after a file was replaced.
func follow(e *tools.Env) error {
	seconds, err := strconv.ParseFloat(e.Or("s", "1"), 64)
	if err != nil {
		return fmt.Errorf("invalid number of seconds: '%s'", e.Val("s"))
	}
	pid, err := e.Int("pid", 0)
	if err != nil {
		return err
	}
	fs, err := openAtEnd(e.Args)
	if err != nil {
		return err
	}
	title := headings(e)
	shown := len(e.Args) - 1
	for {
		for i, f := range fs {
			if e.On("F") {
				f = reopen(e.Args[i], f)
				fs[i] = f
			}
			if f == nil {
				continue
			}
			b, err := io.ReadAll(f)
			if len(b) > 0 && shown != i {
				title(e.Args[i])
				shown = i
			}
			e.Out.Write(b)
			if err != nil {
				return err
			}
		}
		if err := e.Out.Flush(); err != nil {
			return err
		}
		if pid != 0 && unix.Kill(pid, 0) != nil || len(fs) == 0 {
			return nil
		}
		time.Sleep(time.Duration(seconds * float64(time.Second)))
	}
}

// reopen gives the file that has the name now, from its beginning if it is another one or
// was cut off.
func reopen(name string, f *os.File) *os.File {
	now, err := os.Stat(name)
	if err != nil {
		return f
	}
	if f != nil {
		if st, err := f.Stat(); err == nil && os.SameFile(st, now) {
			if at, err := f.Seek(0, io.SeekCurrent); err == nil && at > st.Size() {
				_, _ = f.Seek(0, io.SeekStart) // the next read reports it
			}
			return f
		}
	}
	g, err := os.Open(name)
	if err != nil {
		return f
	}
	if f != nil {
		f.Close()
	}
	return g
}

func regular(f *os.File) bool {
	st, err := f.Stat()
	return err == nil && st.Mode().IsRegular()
}
