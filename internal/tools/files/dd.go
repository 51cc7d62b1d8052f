package files

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/tools"
)

// dumper is one run of dd.
type dumper struct {
	*tools.Env
	ibs, obs, cbs          int64
	skip, seek, count      int64
	conv, iflag, oflag     map[string]bool
	inFull, inPart         int64
	outFull, outPart       int64
	bytes                  int64
	begun, shown           time.Time
	progress, silent, none bool
	in, out                *os.File
	pending                []byte
}

// ddNumber reads dd's numbers: 4K, 1M, 2x512, 10GB.
func ddNumber(s string) (int64, error) {
	n := int64(1)
	for _, f := range strings.Split(s, "x") {
		v, err := tools.Size(f)
		if err != nil {
			return 0, fmt.Errorf("invalid number: '%s'", s)
		}
		n *= v
	}
	return n, nil
}

func dd(e *tools.Env) error {
	d := &dumper{Env: e, ibs: 512, obs: 512, count: -1, conv: map[string]bool{}, iflag: map[string]bool{}, oflag: map[string]bool{}, in: os.Stdin, out: os.Stdout}
	from, into, err := d.operands()
	if err == nil {
		err = d.open(from, into)
	}
	if err != nil {
		return err
	}
	d.begun = time.Now()
	err = d.run()
	if d.conv["fsync"] || d.conv["fdatasync"] {
		if e := d.out.Sync(); err == nil && e != nil {
			err = fmt.Errorf("fsync failed for '%s': %s", into, tools.Cause(e))
		}
	}
	if e := d.out.Close(); err == nil && e != nil {
		err = e
	}
	if err != nil {
		d.Warn("%v", err)
	}
	if !d.none {
		d.statistics()
	}
	return nil
}

// operands reads the command line, and gives the names of the files.
func (d *dumper) operands() (from, into string, err error) {
	for _, a := range d.Args {
		k, v, ok := strings.Cut(a, "=")
		switch {
		case ok && k == "if":
			from = v
		case ok && k == "of":
			into = v
		case ok && k == "status":
			d.progress, d.silent, d.none = v == "progress", v == "noxfer", v == "none"
		case ok:
			ok, err = d.operand(k, v)
		}
		if !ok {
			return "", "", tools.Usage("unrecognized operand '%s'", a)
		}
		if err != nil {
			return "", "", err
		}
	}
	return from, into, nil
}

// operand reads a number or a list of words; false if there is no such operand.
func (d *dumper) operand(k, v string) (bool, error) {
	if set := map[string]map[string]bool{"conv": d.conv, "iflag": d.iflag, "oflag": d.oflag}[k]; set != nil {
		known := map[string]string{"conv": " sync noerror notrunc fsync fdatasync nocreat excl sparse ucase lcase swab ", "iflag": " direct fullblock skip_bytes count_bytes nonblock sync dsync nofollow nocache ", "oflag": " direct append seek_bytes sync dsync nonblock nofollow nocache "}[k]
		for _, w := range strings.Split(v, ",") {
			if !strings.Contains(known, " "+w+" ") {
				return true, tools.Usage("invalid conversion: '%s'", w)
			}
			set[w] = true
		}
		return true, nil
	}
	num := map[string][]*int64{"bs": {&d.ibs, &d.obs}, "ibs": {&d.ibs}, "obs": {&d.obs}, "cbs": {&d.cbs}, "skip": {&d.skip}, "iseek": {&d.skip}, "seek": {&d.seek}, "oseek": {&d.seek}, "count": {&d.count}}[k]
	if num == nil {
		return false, nil
	}
	// A plain "B" behind a number makes it one of bytes, not of blocks.
	text, isBytes := v, false
	if n := len(v); n > 1 && v[n-1] == 'B' && tools.IsDigit(v[n-2]) && !strings.HasSuffix(k, "bs") {
		text, isBytes = v[:n-1], true
	}
	n, err := ddNumber(text)
	if err != nil || n <= 0 && strings.HasSuffix(k, "bs") {
		return true, fmt.Errorf("invalid number: '%s'", v)
	}
	for _, p := range num {
		*p = n
	}
	if isBytes {
		d.inBytes(k)
	}
	return true, nil
}

// inBytes makes an operand a number of bytes.
func (d *dumper) inBytes(k string) {
	switch k {
	case "seek", "oseek":
		d.oflag["seek_bytes"] = true
	case "count":
		d.iflag["count_bytes"] = true
	default:
		d.iflag["skip_bytes"] = true
	}
}

func (d *dumper) open(from, into string) error {
	var err error
	if from != "" {
		if d.in, err = os.OpenFile(from, os.O_RDONLY|openFlags(d.iflag), 0); err != nil {
			return fmt.Errorf("failed to open '%s': %s", from, tools.Cause(err))
		}
	}
	if err := d.create(into); err != nil {
		return err
	}
	skip := d.skip
	if !d.iflag["skip_bytes"] {
		skip *= d.ibs
	}
	if skip > 0 {
		if _, err := d.in.Seek(skip, io.SeekCurrent); err != nil {
			_, err = io.CopyN(io.Discard, d.in, skip)
			if err != nil && !errors.Is(err, io.EOF) {
				return err
			}
		}
	}
	return nil
}

func openFlags(m map[string]bool) (f int) {
	for w, bit := range map[string]int{"direct": unix.O_DIRECT, "sync": unix.O_SYNC, "dsync": unix.O_DSYNC, "append": unix.O_APPEND, "nonblock": unix.O_NONBLOCK, "nofollow": unix.O_NOFOLLOW} {
		if m[w] {
			f |= bit
		}
	}
	return f
}

// create opens the output at the place where writing begins.
func (d *dumper) create(into string) (err error) {
	at := d.seek
	if !d.oflag["seek_bytes"] {
		at *= d.obs
	}
	if into != "" {
		f := os.O_WRONLY | os.O_CREATE | openFlags(d.oflag)
		if d.conv["nocreat"] {
			f &^= os.O_CREATE
		}
		if d.conv["excl"] {
			f |= os.O_EXCL
		}
		if d.out, err = os.OpenFile(into, f, 0o666); err != nil {
			return fmt.Errorf("failed to open '%s': %s", into, tools.Cause(err))
		}
		if st, err := d.out.Stat(); err == nil && st.Mode().IsRegular() && !d.conv["notrunc"] && !d.oflag["append"] {
			if err := d.out.Truncate(at); err != nil {
				return fmt.Errorf("failed to truncate to %d bytes in output file '%s': %s", at, into, tools.Cause(err))
			}
		}
	}
	if at > 0 {
		if _, err := d.out.Seek(at, io.SeekStart); err != nil {
			return fmt.Errorf("'%s': cannot seek: %s", into, tools.Cause(err))
		}
	}
	return nil
}

// aligned is a buffer that O_DIRECT takes: mapped memory begins at a page.
func aligned(n int64) ([]byte, error) {
	return unix.Mmap(-1, 0, int((n+4095)&^4095), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
}

// counted is how much a block of n bytes takes of a count.
func (d *dumper) counted(n int) int64 {
	if d.iflag["count_bytes"] {
		return int64(n)
	}
	return 1
}

// passOver leaves out what could not be read.
func (d *dumper) passOver(n int64) error {
	if !d.none {
		d.statistics()
	}
	_, err := d.in.Seek(n, io.SeekCurrent)
	return err
}

func (d *dumper) run() error {
	buf, err := aligned(d.ibs)
	if err != nil {
		return err
	}
	buf = buf[:d.ibs]
	for left := d.count; left != 0; {
		want := d.ibs
		if d.iflag["count_bytes"] && left > 0 {
			want = min(want, left)
		}
		n, err := d.read(buf[:want])
		if n == 0 && err == nil {
			break
		}
		if err != nil {
			d.Warn("error reading '%s': %s", d.in.Name(), tools.Cause(err))
			if !d.conv["noerror"] {
				break
			}
			if err := d.passOver(int64(len(buf) - n)); err != nil {
				return err
			}
		}
		if left > 0 {
			left -= d.counted(n)
		}
		if err != nil && !d.conv["sync"] {
			continue
		}
		if err := d.block(buf, n); err != nil {
			return err
		}
	}
	if len(d.pending) > 0 {
		return d.write(d.pending)
	}
	return nil
}

// block writes what was read, in blocks of the size for output.
func (d *dumper) block(buf []byte, n int) error {
	if int64(n) == d.ibs {
		d.inFull++
	} else {
		d.inPart++
	}
	if b := d.convert(buf, n); d.ibs == d.obs {
		if err := d.write(b); err != nil {
			return err
		}
	} else {
		d.pending = append(d.pending, b...)
	}
	for int64(len(d.pending)) >= d.obs {
		if err := d.write(d.pending[:d.obs]); err != nil {
			return err
		}
		d.pending = d.pending[d.obs:]
	}
	if d.progress && time.Since(d.shown) >= time.Second {
		d.shown = time.Now()
		fmt.Fprintf(d.Err, "\r%s", d.transferred())
	}
	return nil
}

func (d *dumper) read(b []byte) (int, error) {
	if d.iflag["fullblock"] {
		n, err := io.ReadFull(d.in, b)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = nil
		}
		return n, err
	}
	n, err := d.in.Read(b)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

func (d *dumper) convert(buf []byte, n int) []byte {
	b := buf[:n]
	if d.conv["sync"] {
		clear(buf[n:])
		b = buf
	}
	if upper, lower := d.conv["ucase"], d.conv["lcase"]; upper || lower {
		for i, c := range b {
			if upper && c >= 'a' && c <= 'z' || lower && c >= 'A' && c <= 'Z' {
				b[i] ^= 32
			}
		}
	}
	if d.conv["swab"] {
		for i := 0; i+1 < len(b); i += 2 {
			b[i], b[i+1] = b[i+1], b[i]
		}
	}
	return b
}

func (d *dumper) write(b []byte) error {
	sparse := d.conv["sparse"] && len(strings.Trim(string(b), "\x00")) == 0
	var n int
	var err error
	if sparse {
		var at int64
		if at, err = d.out.Seek(int64(len(b)), io.SeekCurrent); err == nil {
			n = len(b)
			if st, e := d.out.Stat(); e == nil && st.Mode().IsRegular() && st.Size() < at {
				err = d.out.Truncate(at)
			}
		}
	} else {
		n, err = d.out.Write(b)
		if errors.Is(err, unix.EINVAL) && d.oflag["direct"] { // the last block is not a whole one
			if fl, e := unix.FcntlInt(d.out.Fd(), unix.F_GETFL, 0); e == nil {
				if _, e = unix.FcntlInt(d.out.Fd(), unix.F_SETFL, fl&^unix.O_DIRECT); e == nil {
					n, err = d.out.Write(b)
				}
			}
		}
	}
	if d.bytes += int64(n); int64(n) == d.obs {
		d.outFull++
	} else if n > 0 {
		d.outPart++
	}
	if err != nil {
		return fmt.Errorf("error writing '%s': %s", d.out.Name(), tools.Cause(err))
	}
	return nil
}

func (d *dumper) statistics() {
	if d.progress {
		fmt.Fprintf(d.Err, "\r%s\n", d.transferred())
	}
	fmt.Fprintf(d.Err, "%d+%d records in\n%d+%d records out\n", d.inFull, d.inPart, d.outFull, d.outPart)
	if !d.silent && !d.progress {
		fmt.Fprintln(d.Err, d.transferred())
	}
}

func (d *dumper) transferred() string {
	s := max(time.Since(d.begun).Seconds(), 1e-9)
	return fmt.Sprintf("%d bytes (%s) copied, %.6g s, %s/s", d.bytes, quantity.Size(d.bytes), s, quantity.Size(float64(d.bytes)/s))
}
