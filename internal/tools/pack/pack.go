// Package pack has the commands that compress and archive.
package pack

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/dsnet/compress/bzip2"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/ulikunitz/xz"

	"github.com/mkcdrec/mkcdrec/internal/tools"
	"github.com/mkcdrec/mkcdrec/internal/unpack"
)

// Commands are the commands of this package.
func Commands() []tools.Command {
	const opts = "d/decompress/uncompress c/stdout/to-stdout k/keep f/force t/test v/verbose q/quiet 0 fast best "
	var out []tools.Command
	for _, f := range formats() {
		for _, n := range f.names {
			out = append(out, tools.Command{Name: n, Opts: opts + f.opts, Synopsis: "[FILE]...", Run: run})
		}
	}
	return append(out, tarCommands()...)
}

// format is a way to compress.
type format struct {
	names  []string // that compresses, decompresses, and prints
	suffix string
	magic  string
	keep   bool   // the source is kept unless --rm is given
	opts   string // that only this one has
	write  func(w io.Writer, level int) (io.WriteCloser, error)
}

func formats() []format {
	return []format{
		{[]string{"gzip", "gunzip", "zcat"}, ".gz", "\x1f\x8b", false, "n/no-name r/recursive S/suffix: l/list", func(w io.Writer, level int) (io.WriteCloser, error) {
			z, err := gzip.NewWriterLevel(w, level)
			if err == nil {
				z.ModTime, z.OS = time.Unix(0, 0), 3 // the zero time would be a date of 2042
			}
			return z, err
		}},
		{[]string{"bzip2", "bunzip2", "bzcat"}, ".bz2", "BZh", false, "z/compress s/small", func(w io.Writer, level int) (io.WriteCloser, error) {
			return bzip2.NewWriter(w, &bzip2.WriterConfig{Level: level})
		}},
		{[]string{"xz", "unxz", "xzcat"}, ".xz", "\xfd7zXZ", false, "z/compress S/suffix: e/extreme T/threads: M/memlimit/memory:", func(w io.Writer, _ int) (io.WriteCloser, error) {
			return xz.WriterConfig{CheckSum: xz.CRC64}.NewWriter(w)
		}},
		{[]string{"zstd", "unzstd", "zstdcat"}, ".zst", "\x28\xb5\x2f\xfd", true, "z/compress r o: T/threads: rm long? ultra no-progress progress", func(w io.Writer, level int) (io.WriteCloser, error) {
			return zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(level)))
		}},
		{[]string{"lz4", "unlz4", "lz4cat"}, ".lz4", "\x04\x22\x4d\x18", true, "z/compress m/multiple rm", func(w io.Writer, _ int) (io.WriteCloser, error) { return lz4.NewWriter(w), nil }},
	}
}

// of gives the format that a command is for.
func of(name string) format {
	fs := formats()
	return fs[slices.IndexFunc(fs, func(f format) bool { return slices.Contains(f.names, name) })]
}

// job is one run of a compressor.
type job struct {
	*tools.Env
	format
	decode, stdout, keep bool
	level                int
	to                   string // the name of the output, if it is given
}

// decodes reports whether files are decompressed.
func decodes(e *tools.Env, f format) bool {
	if o, ok := e.Last("d", "t", "l", "z"); ok {
		return o.Name != "z"
	}
	return e.Name != f.names[0]
}

func run(e *tools.Env) error {
	f := of(e.Name)
	j := &job{Env: e, format: f, decode: decodes(e, f), to: e.Val("o"), stdout: e.On("c", "t") || e.Name == f.names[2], level: 6}
	if f.suffix == ".zst" {
		j.level = 3
	} else if f.suffix == ".bz2" {
		j.level = 9
	}
	j.keep = e.On("k") || f.keep && !e.On("rm")
	switch o, _ := e.Last("0", "fast", "best"); o.Name {
	case "0":
		n, err := strconv.Atoi(o.Value)
		if err != nil {
			return err
		}
		j.level = n
	case "fast":
		j.level = 1
	case "best":
		j.level = 9
	}
	if e.On("l") {
		return j.list()
	}
	inputs := e.Inputs()
	if f.suffix == ".lz4" && len(inputs) > 1 && !e.On("m") && !j.stdout { // lz4 IN OUT
		if len(inputs) > 2 {
			return tools.Usage("extra operand '%s': several files need -m", inputs[2])
		}
		inputs, j.to = inputs[:1], inputs[1]
	}
	for _, n := range inputs {
		err := j.one(n)
		var st tools.Status
		if errors.As(err, &st) {
			return err
		}
		if err != nil {
			e.Warn("%s: %s", n, tools.Cause(err))
		}
	}
	return nil
}

// output is the name of the file that is made of name.
func (j *job) output(name string) (string, error) {
	if j.to != "" {
		return j.to, nil
	}
	suffix := j.suffix
	if s := j.Val("S"); s != "" {
		suffix = s
	}
	if !j.decode {
		if strings.HasSuffix(name, suffix) && !j.On("f") && j.suffix != ".zst" {
			return "", fmt.Errorf("already has %s suffix -- unchanged", suffix)
		}
		return name + suffix, nil
	}
	for _, s := range []struct{ from, to string }{{suffix, ""}, {".tgz", ".tar"}, {".txz", ".tar"}, {".tbz2", ".tar"}, {".tzst", ".tar"}} {
		if base, ok := strings.CutSuffix(name, s.from); ok && base != "" {
			return base + s.to, nil
		}
	}
	return "", errors.New("unknown suffix -- ignored")
}

// warn prints a warning, which -q suppresses.
func (j *job) warn(format string, a ...any) {
	if j.On("q") {
		j.Set(2)
		return
	}
	j.Fault(2, format, a...)
}

// below is one for all that is in a directory.
func (j *job) below(dir string) error {
	es, err := os.ReadDir(dir)
	for _, e := range es {
		p := strings.TrimSuffix(dir, "/") + "/" + e.Name()
		if err := j.one(p); err != nil {
			j.Warn("%s: %s", p, tools.Cause(err))
		}
	}
	return err
}

func (j *job) one(name string) error {
	if st, err := os.Lstat(name); j.On("r") && err == nil && st.IsDir() {
		return j.below(name)
	}
	if name == "-" || j.stdout {
		r, err := j.Open(name)
		if err != nil {
			return errors.New(strings.TrimPrefix(err.Error(), name+": "))
		}
		defer r.Close()
		if f, ok := tools.File(r); ok && name != "-" {
			if st, err := f.Stat(); err == nil && st.IsDir() {
				j.warn("%s is a directory -- ignored", name)
				return nil
			}
		}
		var w io.Writer = j.Out
		if j.On("t") {
			w = io.Discard
		}
		return j.convert(w, r)
	}
	st, err := os.Lstat(name)
	switch {
	case err != nil:
		return err
	case st.IsDir():
		j.warn("%s is a directory -- ignored", name)
		return nil
	case !st.Mode().IsRegular() && !j.On("f"):
		if st.Mode()&os.ModeSymlink != 0 {
			return syscall.ELOOP
		}
		j.warn("%s is not a directory or a regular file - ignored", name)
		return nil
	}
	to, err := j.output(name)
	if err != nil {
		j.warn("%s: %v", name, err)
		return nil
	}
	return j.file(name, to, st)
}

// file makes the file to of the file name.
func (j *job) file(name, to string, st os.FileInfo) error {
	if err := j.recognise(name); err != nil {
		return err
	}
	if old, err := os.Stat(to); err == nil && os.SameFile(old, st) {
		return errors.New("the output would overwrite the input")
	}
	if u, ok := st.Sys().(*syscall.Stat_t); ok && u.Nlink > 1 && !j.keep && !j.format.keep && !j.On("f") {
		j.warn("%s has %d other link%s -- file ignored", name, u.Nlink-1, map[bool]string{true: "s"}[u.Nlink > 2])
		return nil
	}
	if _, err := os.Lstat(to); err == nil && !j.On("f") {
		if !tools.Confirm(j.Env, "%s already exists; do you wish to overwrite (y or n)? ", to) {
			j.warn("%s not overwritten", to)
			return nil
		}
	}
	r, err := os.Open(name)
	if err != nil {
		return err
	}
	defer r.Close()
	w, err := os.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	b := bufio.NewWriterSize(w, 1<<18)
	err = errors.Join(j.convert(b, r), b.Flush(), tools.CopyOwner(w, st), w.Close())
	if err == nil {
		err = os.Chtimes(to, time.Time{}, st.ModTime())
	}
	if err != nil {
		return errors.Join(err, os.Remove(to))
	}
	if j.On("v") {
		fmt.Fprintf(j.Err, "%s:\t -- replaced with %s\n", name, to)
	}
	if !j.keep {
		return os.Remove(name)
	}
	return nil
}

// recognise refuses a file that is to be decompressed and is not in the format.
func (j *job) recognise(name string) error {
	if !j.decode {
		return nil
	}
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	head := make([]byte, len(j.magic))
	if _, err := io.ReadFull(f, head); err != nil || string(head) != j.magic {
		return fmt.Errorf("not in %s format", j.names[0])
	}
	return nil
}

func (j *job) convert(w io.Writer, r io.Reader) error {
	br := bufio.NewReaderSize(r, 1<<18)
	if !j.decode {
		z, err := j.write(w, max(1, j.level))
		if err != nil {
			return err
		}
		_, err = io.Copy(z, br)
		return errors.Join(err, z.Close())
	}
	head, err := br.Peek(unpack.HeadLen)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if !strings.HasPrefix(string(head), j.magic) {
		if j.On("f") && j.stdout { // zcat -f passes other content on
			_, err := io.Copy(w, br)
			return err
		}
		if j.suffix == ".gz" && len(head) == 0 {
			return errors.New("unexpected end of file")
		}
		return fmt.Errorf("not in %s format", j.names[0])
	}
	z, err := unpack.Reader(br, head)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, z)
	return err
}
