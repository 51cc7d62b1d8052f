package blockcopy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/btrfs/btrfstest"
	"github.com/mkcdrec/mkcdrec/internal/ddrescue"
	"github.com/mkcdrec/mkcdrec/internal/progress"
)

// counter counts what it is told.
type counter struct {
	progress.None
	n atomic.Int64
}

func (c *counter) Add(n int64) { c.n.Add(n) }

// content makes bytes with runs of zero bytes of all lengths.
func content(r *rand.Rand, size int64) []byte {
	b := make([]byte, size)
	for at := int64(0); at < size; {
		n := min(1+r.Int64N(1<<uint(9+r.IntN(12))), size-at)
		if r.IntN(3) > 0 {
			x := byte(1 + r.IntN(255))
			for i := range n {
				b[at+i] = x + byte(i>>9)&3
			}
		}
		at += n
	}
	return b
}

// someMap makes a map of ranges that are multiples of unit.
func someMap(r *rand.Rand, size, unit int64) *Map {
	m := &Map{Size: size, How: "test"}
	for at := r.Int64N(50) * unit; at < size; {
		u := unit * max(1, size/unit/2048) // some hundred ranges
		n := (1+r.Int64N(1<<uint(r.IntN(6))))*u - r.Int64N(u/unit+1)/2*unit
		m.add(at, n)
		at += n + r.Int64N(1<<uint(r.IntN(5)))*u
	}
	return m.tidy()
}

// checkCopy compares what is in use.
func checkCopy(t *testing.T, m *Map, src, dst []byte) {
	t.Helper()
	for _, e := range m.Used {
		if a, b := src[e.Start:e.Start+e.Length], dst[e.Start:e.Start+e.Length]; !bytes.Equal(a, b) {
			t.Fatalf("bytes %d to %d differ: %v", e.Start, e.Start+e.Length, differences(a, b, e.Start))
		}
	}
}

// Files and loop devices of both sector sizes, larger and smaller, empty and full
// of something else.
func TestCopy(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	r := rand.New(rand.NewPCG(7, 8))
	const size = 24<<20 + 512*3
	loop := func(name string, sector int) string {
		if sector == 0 {
			return name
		}
		out, err := exec.Command("losetup", "-f", "--show", "-b", fmt.Sprint(sector), name).CombinedOutput()
		if err != nil {
			t.Skipf("no loop devices here: %s", out)
		}
		dev := strings.TrimSpace(string(out))
		t.Cleanup(func() { exec.Command("losetup", "-d", dev).Run() })
		return dev
	}
	for _, c := range []struct {
		from, to int // sector sizes, 0 for files
		target   int64
		unit     int64
		clear    Clear
	}{
		{0, 0, size, 512, ClearNothing}, {0, 0, size, 1, ClearDiscard}, {0, 0, size + 5<<20 + 1, 4096, ClearZero},
		{512, 512, size, 4096, ClearNothing}, {512, 512, size, 1024, ClearDiscard}, {512, 512, 30 << 20, 512, ClearZero},
		{512, 4096, 25 << 20, 512, ClearNothing}, {4096, 512, 24 << 20, 4096, ClearDiscard}, {0, 4096, 20 << 20, 4096, ClearDiscard}, {512, 0, 16 << 20, 4096, ClearNothing},
	} {
		t.Run(fmt.Sprintf("%d-%d-%d-%d", c.from, c.to, c.unit, c.clear), func(t *testing.T) {
			if testing.Short() && c.from != 0 && c.to != 0 && c.from == c.to {
				t.Skip("takes seconds; other sectors are tried")
			}
			full := int64(size)
			if c.from == 4096 {
				full = size / 4096 * 4096
			}
			data := content(r, full)
			dir := t.TempDir()
			a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
			if err := os.WriteFile(a, data, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(b, bytes.Repeat([]byte{0xA5}, int(c.target)), 0o600); err != nil {
				t.Fatal(err)
			}
			m := someMap(r, full, c.unit)
			for n := len(m.Used); n > 0 && m.Used[n-1].Start+m.Used[n-1].Length > c.target; n = len(m.Used) {
				m.Used = m.Used[:n-1]
			}
			src, err := OpenDevice(loop(a, c.from))
			if err != nil {
				t.Fatal(err)
			}
			defer src.Close()
			dst, err := OpenTarget(loop(b, c.to))
			if err != nil {
				t.Fatal(err)
			}
			defer dst.Close()
			var p counter
			res, err := Copy(context.Background(), dst, src, CopyOptions{Map: m, Clear: c.clear, Progress: &p})
			if err != nil {
				t.Fatal(err)
			}
			back, err := OpenDevice(dst.Name())
			if err != nil {
				t.Fatal(err)
			}
			defer back.Close()
			v, err := Verify(context.Background(), back, src, m, nil, nil)
			if err != nil || !v.OK() || v.Compared != m.Bytes() {
				t.Errorf("%v %v", v, err)
			}
			unix.Sync() // what the loop device keeps
			got, err := os.ReadFile(b)
			if err != nil {
				t.Fatal(err)
			}
			checkCopy(t, m, data, got)
			if p.n.Load() != m.Bytes() || res.Copied < m.Bytes() || len(res.Bad) > 0 || res.Rescue.Phase != '+' {
				t.Errorf("progress %d, want %d; %+v", p.n.Load(), m.Bytes(), res)
			}
			for pos, l := range res.Rescue.Ranges(ddrescue.NonTried, ddrescue.NonTrimmed, ddrescue.NonScraped, ddrescue.BadSector) {
				if w := m.within(pos, l); len(w) > 0 || res.Rescue.End() != full {
					t.Fatalf("%v of %d are not finished", w, res.Rescue.End())
				}
			}
			if c.clear != ClearNothing {
				if res.Cleared != ClearedZero || res.Zero == 0 || bytes.Contains(got, bytes.Repeat([]byte{0xA5}, 8192)) && !bytes.Contains(data, bytes.Repeat([]byte{0xA5}, 8192)) {
					t.Errorf("%q, %d zero bytes", res.Cleared, res.Zero)
				}
			}
			// One flipped bit is found.
			if e := m.Used[len(m.Used)/2]; true {
				got[e.Start+e.Length-1] ^= 4
				f := open(t, b)
				if _, err := f.WriteAt(got[e.Start+e.Length-1:e.Start+e.Length], e.Start+e.Length-1); err != nil {
					t.Fatal(err)
				}
				f.Sync()
				v, err := Verify(context.Background(), back, src, m, nil, nil)
				if err != nil || v.OK() || len(v.First) != 1 || v.First[0].Start > e.Start+e.Length-1 || v.First[0].Start+v.First[0].Length < e.Start+e.Length || v.Different > 512 {
					t.Errorf("a flipped bit at %d: %v %v", e.Start+e.Length-1, v, err)
				}
				if v, err := Verify(context.Background(), back, src, m, v.First, nil); err != nil || !v.OK() {
					t.Errorf("without it: %v %v", v, err)
				}
			}
		})
	}
}

// Parts of disks, as the partitions of an image are.
func TestSections(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 10))
	data := content(r, 4<<20)
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	if err := errors.Join(os.WriteFile(a, data, 0o600), os.WriteFile(b, bytes.Repeat([]byte{0xA5}, 6<<20), 0o600)); err != nil {
		t.Fatal(err)
	}
	src, err := OpenDevice(a)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	dst, err := OpenTarget(b)
	if err != nil {
		t.Fatal(err)
	}
	defer dst.Close()
	const from, to, n = 1<<20 + 512, 2<<20 + 1024, 1<<20 + 512
	if _, err := Copy(context.Background(), dst.Section(to, n), src.Section(from, n), CopyOptions{Map: Whole(n), Clear: ClearZero}); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(b)
	if err != nil {
		t.Fatal(err)
	}
	want := bytes.Repeat([]byte{0xA5}, 6<<20)
	copy(want[to:], data[from:from+n])
	if !bytes.Equal(got, want) {
		t.Errorf("differs at %v", differences(got, want, 0))
	}
	if _, err := dst.Section(0, 512).WriteAt(make([]byte, 513), 0); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("writing beyond a section: %v", err)
	}
	if _, err := src.Section(0, 512).ReadAt(make([]byte, 513), 0); err != io.EOF {
		t.Errorf("reading beyond a section: %v", err)
	}
}

// memory is a disk in memory that loses, as a power failure would, what was not
// synced, and that fails as it is told.
type memory struct {
	mu           sync.Mutex
	now, durable []byte
	bad          int64 // writing this byte fails; -1
	err          error
	syncErr      error
	cleared      string
	canPunch     bool
	written      atomic.Int64
	delay        time.Duration
}

func newMemory(size int64) *memory {
	b := bytes.Repeat([]byte{0xA5}, int(size))
	return &memory{now: b, durable: slices.Clone(b), bad: -1}
}

func (m *memory) WriteAt(b []byte, off int64) (int, error) {
	time.Sleep(m.delay)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.bad >= off && m.bad < off+int64(len(b)) {
		return copy(m.now[off:m.bad], b), m.err
	}
	m.written.Add(int64(len(b)))
	return copy(m.now[off:], b), nil
}

func (m *memory) punch(off, length int64) error {
	if !m.canPunch {
		return errNoPunch
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.now[off : off+length])
	return nil
}

func (m *memory) clear(_ context.Context, c Clear, ranges []Extent) (string, error) {
	if m.cleared == ClearedZero {
		for _, e := range ranges {
			clear(m.now[e.Start : e.Start+e.Length])
		}
	}
	return m.cleared, nil
}

func (m *memory) least() int64 { return minHole }
func (m *memory) Size() int64  { return int64(len(m.now)) }
func (m *memory) Name() string { return "memory" }

func (m *memory) Sync() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.syncErr != nil {
		return m.syncErr
	}
	m.durable = slices.Clone(m.now)
	return nil
}

// Zero bytes of the source are zero on the target, whatever the target was told
// before: discarding promises nothing.
func TestZeros(t *testing.T) {
	r := rand.New(rand.NewPCG(11, 12))
	data := content(r, 8<<20)
	for _, c := range []struct {
		cleared  string
		canPunch bool
	}{{"", false}, {"", true}, {ClearedDiscard, false}, {ClearedDiscard, true}, {ClearedZero, false}} {
		d := newMemory(8 << 20)
		d.cleared, d.canPunch = c.cleared, c.canPunch
		m := someMap(r, 8<<20, 4096)
		res, err := copyTo(context.Background(), d, bytes.NewReader(data), CopyOptions{Map: m, Clear: ClearDiscard}, false, page)
		if err != nil {
			t.Fatal(err)
		}
		checkCopy(t, m, data, d.durable)
		if skips := c.canPunch || c.cleared == ClearedZero; (res.Zero > 0) != skips || d.written.Load() != res.Copied-res.Zero {
			t.Errorf("%+v: %d zero bytes were not written; %d of %d were", c, res.Zero, d.written.Load(), res.Copied)
		}
	}
}

// What can't be read costs its own sectors, what is in none in use costs nothing;
// the map names both, and a second run retries just those.
func TestCopyBadSectors(t *testing.T) {
	const size = 20<<20 + 1024
	data := make([]byte, size)
	rng := rand.New(rand.NewPCG(5, 6))
	for i := range data {
		data[i] = byte(rng.Uint32()) | 1
	}
	d := damaged{bytes.NewReader(data), map[int64]bool{0: true, 4: true, 5: true, 6: true, 8191: true, 8192: true, 9000: true, 30000: true, size/512 - 1: true}, 512, new(atomic.Int64)}
	m := &Map{Size: size}
	m.add(0, 9000*512)
	m.add(9001*512, size-9001*512) // sector 9000 is not in use
	want := []Extent{{0, 512}, {4 * 512, 3 * 512}, {8191 * 512, 1024}, {30000 * 512, 512}, {size - 512, 512}}
	dst := newMemory(size)
	var p counter
	res, err := copyTo(context.Background(), dst, d, CopyOptions{Map: m, Progress: &p}, false, page)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(res.Bad, want) || !errors.Is(res.ReadError, unix.EIO) {
		t.Errorf("bad %v, %v; want %v", res.Bad, res.ReadError, want)
	}
	lost := slices.Clone(data)
	for _, e := range want {
		clear(lost[e.Start : e.Start+e.Length])
	}
	checkCopy(t, m, lost, dst.durable)
	var listed []Extent
	for pos, l := range res.Rescue.Ranges(ddrescue.BadSector) {
		listed = append(listed, Extent{pos, l})
	}
	if !slices.Equal(listed, want) || res.Rescue.Bytes(ddrescue.NonTrimmed) != 512 || res.Rescue.Phase != '+' || p.n.Load() != m.Bytes() || res.Copied != m.Bytes()-8*512 {
		t.Errorf("%+v; %d bytes of progress; %+v", listed, p.n.Load(), res)
	}
	// Again: two of the sectors can be read, all that was read before no more.
	again := damaged{bytes.NewReader(data), map[int64]bool{}, 512, new(atomic.Int64)}
	for n := range int64(size / 512) {
		again.bad[n] = n != 5 && n != 30000
	}
	res, err = copyTo(context.Background(), dst, again, CopyOptions{Map: m, Rescue: res.Rescue, Progress: &p}, false, page)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int64{5, 30000} {
		copy(lost[n*512:], data[n*512:n*512+512])
	}
	checkCopy(t, m, lost, dst.durable)
	if res.Rescue.Bytes(ddrescue.BadSector) != 6*512 || len(res.Bad) != 5 || again.reads.Load() > 100 {
		t.Errorf("%d reads, %+v", again.reads.Load(), res)
	}
}

// A map of ddrescue's is taken, and ddrescue goes on with ours.
func TestCopyWithDdrescue(t *testing.T) {
	if _, err := exec.LookPath("ddrescue"); err != nil {
		t.Skip("ddrescue is not installed (Debian: gddrescue)")
	}
	const size = 3 << 20
	data := content(rand.New(rand.NewPCG(13, 14)), size)
	data[5000*512] = 7
	dir := t.TempDir()
	a, b, name := filepath.Join(dir, "a"), filepath.Join(dir, "b"), filepath.Join(dir, "map")
	if err := errors.Join(os.WriteFile(a, data, 0o600), os.WriteFile(b, bytes.Repeat([]byte{0xA5}, size), 0o600)); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) {
		t.Helper()
		if out, err := exec.Command("ddrescue", append(append([]string{"-q"}, args...), a, b, name)...).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	run("-i", "1000", "-s", "700000")
	m, err := ddrescue.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	d := damaged{bytes.NewReader(data), map[int64]bool{}, 512, new(atomic.Int64)}
	for n := int64(4); n < 1000; n++ { // it has those
		d.bad[n] = true
	}
	d.bad[5000] = true
	dst, err := OpenTarget(b)
	if err != nil {
		t.Fatal(err)
	}
	defer dst.Close()
	res, err := Copy(context.Background(), dst, d, CopyOptions{Map: Whole(size), Rescue: m})
	if err != nil || !slices.Equal(res.Bad, []Extent{{5000 * 512, 512}}) {
		t.Fatalf("%v %+v", err, res)
	}
	if err := res.Rescue.WriteFile(name, ""); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(b)
	if err != nil || bytes.Equal(got, data) {
		t.Fatal("the bad sector has the source's bytes")
	}
	run("-r1")
	if got, err = os.ReadFile(b); err != nil || !bytes.Equal(got, data) {
		t.Errorf("after ddrescue went on, bytes differ: %v", differences(got, data, 0))
	}
}

// At each moment what the state calls finished survives a power failure, and the
// copy goes on from there without reading it again.
func TestResume(t *testing.T) {
	r := rand.New(rand.NewPCG(15, 16))
	const size = 8 << 20
	data := content(r, size)
	m := someMap(r, size, 4096)
	dst := newMemory(size)
	dst.delay = 10 * time.Millisecond
	dst.cleared = ClearedZero
	var state *ddrescue.Map
	runs := 0
	for ; runs < 100; runs++ {
		before := int64(0)
		if state != nil {
			before = state.Bytes(ddrescue.Finished)
		}
		src := &counting{ReaderAt: bytes.NewReader(data), t: t, never: state}
		calls := 0
		var p counter
		_, err := copyTo(context.Background(), dst, src, CopyOptions{Map: m, Clear: ClearDiscard, Rescue: state, Request: 64 << 10, InFlight: 2, Every: 2 * time.Millisecond, Progress: &p, Checkpoint: func(s *ddrescue.Map) error {
			dst.mu.Lock()
			defer dst.mu.Unlock()
			for pos, l := range s.Ranges(ddrescue.Finished) {
				for _, e := range m.within(pos, l) {
					if !bytes.Equal(dst.durable[e.Start:e.Start+e.Length], data[e.Start:e.Start+e.Length]) {
						t.Errorf("bytes %d to %d are called finished, and not on the disk", e.Start, e.Start+e.Length)
					}
				}
			}
			state = s
			if calls++; calls == 2 {
				return errors.New("power failure")
			}
			return nil
		}}, false, page)
		if err == nil {
			if p.n.Load() != m.Bytes() {
				t.Errorf("progress %d of %d", p.n.Load(), m.Bytes())
			}
			break
		}
		if err.Error() != "power failure" || state.Bytes(ddrescue.Finished) < before {
			t.Fatalf("%v, %d bytes are finished, %d were", err, state.Bytes(ddrescue.Finished), before)
		}
		dst.now = slices.Clone(dst.durable)
	}
	if runs < 1 || runs == 100 {
		t.Errorf("%d runs", runs)
	}
	checkCopy(t, m, data, dst.durable)
}

// counting fails a test that reads what is finished.
type counting struct {
	io.ReaderAt
	t     *testing.T
	never *ddrescue.Map
}

func (c *counting) ReadAt(b []byte, off int64) (int, error) {
	if c.never != nil {
		for pos, l := range c.never.Ranges(ddrescue.Finished) {
			if pos < off+int64(len(b)) && off < pos+l {
				c.t.Errorf("bytes %d to %d are read again", off, off+int64(len(b)))
			}
		}
	}
	return c.ReaderAt.ReadAt(b, off)
}

func TestCopyErrors(t *testing.T) {
	data := bytes.Repeat([]byte{1}, 8<<20)
	src := bytes.NewReader(data)
	whole := Whole(8 << 20)
	for _, cause := range []error{unix.EIO, unix.ENOSPC} {
		d := newMemory(8 << 20)
		d.bad, d.err = 5<<20+77, cause
		res, err := copyTo(context.Background(), d, src, CopyOptions{Map: whole, InFlight: 1}, false, page)
		var w *WriteError
		if !errors.As(err, &w) || w.Offset != 5<<20+77 || !errors.Is(err, cause) || !strings.HasPrefix(err.Error(), "cannot write memory at byte 5242957: ") {
			t.Errorf("%v", err)
		}
		if n := res.Rescue.Bytes(ddrescue.Finished); n != 5<<20 || res.Rescue.Phase != '?' {
			t.Errorf("%d bytes are finished", n)
		}
	}
	d := newMemory(8 << 20)
	d.syncErr = unix.EIO
	res, err := copyTo(context.Background(), d, src, CopyOptions{Map: whole}, false, page)
	if !errors.Is(err, unix.EIO) || res.Rescue.Bytes(ddrescue.Finished) != 0 || res.Rescue.Phase == '+' {
		t.Errorf("a target that can't be synced: %v, %+v", err, res.Rescue)
	}
	// A source that is disconnected half way is not zero bytes.
	gone := &vanishing{ReaderAt: src, at: 4 << 20}
	res, err = copyTo(context.Background(), newMemory(8<<20), gone, CopyOptions{Map: whole, InFlight: 1}, false, page)
	if !errors.Is(err, unix.ENODEV) || res.Rescue.Bytes(ddrescue.Finished) != 4<<20 || res.Rescue.Bytes(ddrescue.BadSector) != 0 || !strings.HasPrefix(err.Error(), "cannot read the source at byte 4194304: ") {
		t.Errorf("a source that is disconnected: %v, %+v", err, res.Rescue)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	res, err = copyTo(ctx, newMemory(8<<20), src, CopyOptions{Map: whole}, false, page)
	if !errors.Is(err, context.Canceled) || res.Rescue.Bytes(ddrescue.Finished) != 0 {
		t.Errorf("cancelled: %v", err)
	}
	for _, o := range []struct {
		o    CopyOptions
		want string
	}{
		{CopyOptions{Map: Whole(8<<20 + 1)}, "it has 8388608 bytes; what is in use ends at byte 8388609"},
		{CopyOptions{Map: whole, Request: 100_000}, "not a power of two"},
		{CopyOptions{Map: whole, Rescue: ddrescue.New(9 << 20).Overlay([]ddrescue.Block{{Pos: 0, Size: 5, Status: '+'}})}, "cannot continue"},
	} {
		if _, err := copyTo(context.Background(), newMemory(8<<20), src, o.o, false, page); err == nil || !strings.Contains(err.Error(), o.want) {
			t.Errorf("%v; want %s", err, o.want)
		}
	}
	f := file(t, 1<<20)
	s, err := OpenDevice(f)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	link := filepath.Join(t.TempDir(), "other name")
	if err := os.Symlink(f, link); err != nil {
		t.Fatal(err)
	}
	same, err := OpenTarget(link)
	if err != nil {
		t.Fatal(err)
	}
	defer same.Close()
	if _, err := Copy(context.Background(), same, s, CopyOptions{Map: Whole(1 << 20)}); err == nil || !strings.Contains(err.Error(), "both are the same") {
		t.Errorf("a copy onto itself: %v", err)
	}
	if _, err := OpenTarget("/dev/full"); err == nil || !strings.Contains(err.Error(), "neither a block device nor a regular file") {
		t.Error(err)
	}
}

// vanishing is disconnected at a byte.
type vanishing struct {
	io.ReaderAt
	at int64
}

func (v *vanishing) ReadAt(b []byte, off int64) (int, error) {
	if off+int64(len(b)) > v.at {
		return 0, unix.ENODEV
	}
	return v.ReaderAt.ReadAt(b, off)
}

// A disk whose second half is EIO: it is listed, not tried sector by sector, and
// the map says that not each sector was tried.
func TestHalfDead(t *testing.T) {
	name := file(t, 64<<20)
	out, err := exec.Command("losetup", "-f", "--show", name).CombinedOutput()
	if err != nil {
		t.Skipf("no loop devices here: %s", out)
	}
	dev := strings.TrimSpace(string(out))
	t.Cleanup(func() { exec.Command("losetup", "-d", dev).Run() })
	src, err := OpenDevice(dev)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	// The file ends early: the sectors behind are EIO, not zero bytes.
	if err := os.Truncate(name, 32<<20); err != nil {
		t.Fatal(err)
	}
	d := newMemory(64 << 20)
	res, err := copyTo(context.Background(), d, src, CopyOptions{Map: Whole(64 << 20)}, true, page)
	if err != nil || !slices.Equal(res.Bad, []Extent{{32 << 20, 32 << 20}}) || res.Rescue.Bytes(ddrescue.NonScraped) < 28<<20 || res.Rescue.Bytes(ddrescue.BadSector) < 1<<20 {
		t.Errorf("%v %v %v", err, res.Bad, res.Rescue)
	}
}

// A target that is mounted is refused.
func TestBusyTarget(t *testing.T) {
	dev, _ := btrfstest.MountOther(t, "ext4", 64<<20)
	if d, err := OpenTarget(dev); !errors.Is(err, unix.EBUSY) {
		t.Errorf("%v %v", d, err)
	}
}

// TestTargetOf: a file that is open already is written to, and stays open.
func TestTargetOf(t *testing.T) {
	name := filepath.Join(t.TempDir(), "dst")
	if err := os.WriteFile(name, bytes.Repeat([]byte{0xa5}, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	to, err := TargetOf(f)
	if err != nil {
		t.Fatal(err)
	}
	src := bytes.Repeat([]byte("sixteen  bytes. "), 1<<16)
	if _, err := Copy(context.Background(), to, bytes.NewReader(src), CopyOptions{Map: Whole(1 << 20)}); err != nil {
		t.Fatal(err)
	}
	if err := to.Close(); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 1<<20)
	if _, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got, src) {
		t.Errorf("the file has something else, or is closed: %v", err)
	}
}
