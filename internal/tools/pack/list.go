package pack

import (
	"bufio"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"path"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"

	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/tools"
)

// gzipSizes are the numbers of gzip -l.
type gzipSizes struct {
	packed, size, head int64 // head: of the header and the end of a file with one member
	crc                uint32
	made               time.Time
}

// list prints the sizes of files of gzip.
func (j *job) list() error {
	head := j.On("v")
	var sum gzipSizes
	for _, n := range j.Inputs() {
		z, err := j.sizes(n)
		if err != nil {
			j.Warn("%s: %s", n, tools.Cause(err))
			continue
		}
		if sum.packed == 0 && !j.On("q") {
			if head {
				j.Printf("method  crc     date  time  ")
			}
			j.Printf("         compressed        uncompressed  ratio uncompressed_name\n")
		}
		if head {
			j.Printf("defla %08x %s ", z.crc, z.made.Local().Format("Jan _2 15:04"))
		}
		name := "stdout"
		if n != "-" {
			if name, err = j.output(path.Clean(n)); err != nil {
				name = n
			}
		}
		j.sizeLine(z, name)
		sum = gzipSizes{packed: sum.packed + z.packed, size: sum.size + z.size, head: z.head}
	}
	if len(j.Args) > 1 && sum.packed > 0 {
		if head {
			j.Printf("%28s", "")
		}
		j.sizeLine(sum, "(totals)")
	}
	return nil
}

func (j *job) sizeLine(z gzipSizes, name string) {
	ratio := 0.0
	if z.size > 0 {
		ratio = 100 * float64(z.size-(z.packed-z.head)) / float64(z.size)
	}
	j.Printf("%19d %19d %5.1f%% %s\n", z.packed, z.size, ratio, name)
}

// sizes reads all of a file. As gzip has it, the size is that of the last member.
func (j *job) sizes(name string) (z gzipSizes, err error) {
	r, err := j.Open(name)
	if err != nil {
		return z, errors.New(strings.TrimPrefix(err.Error(), name+": "))
	}
	defer r.Close()
	z.made = time.Now()
	if f, ok := tools.File(r); ok {
		if st, err := f.Stat(); err == nil && st.IsDir() {
			return z, errors.New("is a directory")
		} else if err == nil && st.Mode().IsRegular() {
			z.made = st.ModTime()
		}
	}
	all := &progress.Reader{R: r}
	br := bufio.NewReaderSize(all, 1<<18)
	if head, err := br.Peek(len(j.magic)); err != nil && len(head) == 0 {
		return z, errors.New("unexpected end of file")
	} else if string(head) != j.magic {
		return z, fmt.Errorf("not in %s format", j.names[0])
	}
	zr, err := gzip.NewReader(br)
	for members := 1; err == nil; members++ {
		zr.Multistream(false)
		sum := crc32.NewIEEE()
		if z.size, err = io.Copy(sum, zr); err != nil {
			break
		}
		z.crc = sum.Sum32()
		if z.head = headLen(zr.Header); members > 1 {
			z.head = 0
		}
		err = zr.Reset(br)
	}
	if !errors.Is(err, io.EOF) {
		return z, errors.New("unexpected end of file")
	}
	z.packed = all.N
	return z, nil
}

// headLen is the length of a member's header and end.
func headLen(h gzip.Header) int64 {
	n := 10 + 8
	if len(h.Extra) > 0 {
		n += 2 + len(h.Extra)
	}
	for _, s := range []string{h.Name, h.Comment} {
		if s != "" {
			n += len([]rune(s)) + 1
		}
	}
	return int64(n)
}
