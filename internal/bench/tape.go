package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/mkcdrec/mkcdrec/internal/store/tape"
	"github.com/mkcdrec/mkcdrec/internal/volume"
)

// sink is a drive that takes everything at once, and knows how long it waited.
type sink struct {
	last    time.Time
	longest time.Duration
	n       int64
}

func (s *sink) Write(p []byte) (bool, error) {
	now := time.Now()
	if !s.last.IsZero() {
		s.longest = max(s.longest, now.Sub(s.last))
	}
	s.last, s.n = now, s.n+int64(len(p))
	return false, nil
}
func (s *sink) Read([]byte) (int, error) { return 0, tape.ErrBlank }
func (s *sink) SetBlock(int) error       { return nil }
func (s *sink) Rewind() error            { return nil }
func (s *sink) Mark() error              { return nil }
func (s *sink) Forward(int) error        { return nil }
func (s *sink) Back(int) error           { return nil }
func (s *sink) ToEnd() error             { return nil }
func (s *sink) Position() (tape.Position, error) {
	return tape.Position{Online: true}, nil
}
func (s *sink) Compression(bool) error { return nil }
func (s *sink) Reload() error          { return nil }
func (s *sink) Eject() error           { return nil }
func (s *sink) Close() error           { return nil }
func (s *sink) String() string         { return "sink" }

// paced gives the same frame again and again, so many bytes a second.
type paced struct {
	frame []byte
	rest  []byte
	n     int64
	left  int64
	rate  int64
	start time.Time
}

func (p *paced) Read(b []byte) (int, error) {
	if len(p.rest) == 0 {
		if p.left <= 0 {
			return 0, io.EOF
		}
		p.left -= int64(len(p.frame))
		p.rest = p.frame
	}
	n := copy(b, p.rest)
	p.rest = p.rest[n:]
	p.n += int64(n)
	time.Sleep(time.Until(p.start.Add(time.Duration(float64(p.n) / float64(p.rate) * float64(time.Second)))))
	return n, nil
}

// tapeSource is the rate and tapeSize the length of what is written, in bytes.
const (
	tapeSource = 100_000_000
	tapeSize   = 1_000_000_000
)

// writeTape is the child of the measurement: it prints the longest time that
// the drive waited for data, in milliseconds.
func writeTape(ctx context.Context, out string) error {
	z, err := zstd.NewWriter(nil)
	if err != nil {
		return err
	}
	raw := make([]byte, 2<<20)
	x := uint64(88172645463325252)
	for i := range raw {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		raw[i] = byte(x)
	}
	s := &sink{}
	w := &tape.Writer{Drives: []tape.Drive{s}, ID: volume.NewID(), Host: "bench", Created: time.Now(), Note: func(string, ...any) {}}
	if err := w.Cut(ctx, "stream", &paced{frame: z.EncodeAll(raw, nil), left: tapeSize, rate: tapeSource, start: time.Now()}); err != nil {
		return err
	}
	if s.n < tapeSize {
		return errors.New("not everything was written")
	}
	return os.WriteFile(out, []byte(strconv.FormatInt(s.longest.Milliseconds(), 10)), 0o600)
}

// tape measures whether a drive is kept fed.
func (b *bench) tape(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	out := b.dir + "/stall"
	u, err := pipe(ctx, "", []string{self, "tape", "-", out})
	if err != nil {
		return err
	}
	ms, err := os.ReadFile(out)
	if err != nil {
		return err
	}
	b.say("## Tape\n\nA stream of %d MB at %d MB/s is written to a modelled drive that accepts everything at once.\n", tapeSize/1_000_000, tapeSource/1_000_000)
	b.say("| longest wait of the drive, ms | MB/s | CPU s | peak memory MB |\n|---|---|---|---|\n| %s | %.0f | %.1f | %d |", bytes.TrimSpace(ms), tapeSize/1e6/u.seconds, u.cpu, u.rss>>10)
	b.say("\n%s\n", strings.TrimSpace("Goal: no wait longer than 1,000 ms, less than 64 MB. The modelled drive writes nothing: this measures the program only."))
	return nil
}
