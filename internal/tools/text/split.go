package text

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/mkcdrec/mkcdrec/internal/tools"
)

// pieces makes the files of split, one after the other.
type pieces struct {
	*tools.Env
	prefix string
	width  int
	n      int
}

func (p *pieces) name() (string, error) {
	digits, base := "abcdefghijklmnopqrstuvwxyz", 26
	if p.On("d") {
		digits, base = "0123456789", 10
	}
	suffix, n := "", p.n
	for len(suffix) < p.width {
		suffix, n = digits[n%base:n%base+1]+suffix, n/base
	}
	if p.n++; n > 0 {
		return "", errors.New("output file suffixes exhausted")
	}
	return p.prefix + suffix + p.Val("additional-suffix"), nil
}

func (p *pieces) write(r io.Reader) error {
	name, err := p.name()
	if err != nil {
		return err
	}
	if p.On("verbose") {
		p.Printf("creating file '%s'\n", name)
	}
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Close())
}

// chunks writes n pieces of the same size; the last one has the rest.
func (p *pieces) chunks(r io.Reader, size, n int64) error {
	for range n - 1 {
		if err := p.write(io.LimitReader(r, size/n)); err != nil {
			return err
		}
	}
	return p.write(io.LimitReader(r, size/n+size%n))
}

func split(e *tools.Env) error {
	if err := e.Need(0, 2); err != nil {
		return err
	}
	args := append(e.Args, []string{"-", "x"}[min(len(e.Args), 2):]...)
	width, err := e.Int("a", 2)
	if err != nil {
		return err
	}
	p := &pieces{Env: e, prefix: args[1], width: width}
	r, err := e.Open(args[0])
	if err != nil {
		return fmt.Errorf("cannot open %w", err)
	}
	defer r.Close()
	br := bufio.NewReaderSize(r, 1<<16)
	o, ok := e.Last("b", "l", "n")
	if !ok {
		o.Name, o.Value = "l", "1000"
	}
	n, err := tools.Size(o.Value)
	if err != nil || n < 1 {
		return fmt.Errorf("invalid number of lines, bytes or chunks: '%s'", o.Value)
	}
	if f, ok := tools.File(r); o.Name == "n" && ok {
		st, err := f.Stat()
		if err != nil {
			return err
		}
		return p.chunks(br, st.Size(), n)
	}
	for {
		if _, err := br.Peek(1); errors.Is(err, io.EOF) {
			return nil
		}
		var part io.Reader = io.LimitReader(br, n)
		if o.Name == "l" {
			part = &firstLines{br, n}
		}
		if err := p.write(part); err != nil {
			return err
		}
	}
}

// firstLines reads the next n lines.
type firstLines struct {
	r *bufio.Reader
	n int64
}

func (f *firstLines) Read(p []byte) (int, error) {
	if f.n == 0 {
		return 0, io.EOF
	}
	if _, err := f.r.Peek(1); err != nil {
		return 0, err
	}
	b, err := f.r.Peek(max(1, min(f.r.Buffered(), len(p))))
	if err != nil {
		return 0, err
	}
	if i := bytes.IndexByte(b, '\n'); i >= 0 {
		b = b[:i+1]
		f.n--
	}
	return f.r.Read(p[:len(b)])
}
