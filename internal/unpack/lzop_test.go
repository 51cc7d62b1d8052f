package unpack

import (
	"bytes"
	"io"
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"
)

// lzop packs as the program does.
func lzop(t testing.TB, text []byte, options ...string) []byte {
	t.Helper()
	c := exec.Command("lzop", append(options, "-c")...)
	c.Stdin = bytes.NewReader(text)
	out, err := c.Output()
	if err != nil {
		t.Skipf("lzop: %v", err)
	}
	return out
}

// TestLZOP unpacks what lzop has packed, in each of its ways, and finds what is damaged.
func TestLZOP(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	random := make([]byte, 600_000)
	for i := range random {
		random[i] = byte(rng.Uint32())
	}
	words := bytes.Repeat([]byte("a line of text that is packed well, and another one\n"), 30_000)
	for _, text := range [][]byte{nil, []byte("x"), words, random, append(bytes.Clone(words), random...)} {
		for _, o := range [][]string{nil, {"-1"}, {"-9"}, {"--crc32"}, {"-F"}, {"-3", "--no-name"}} {
			b := lzop(t, text, o...)
			r, err := LZOP(bytes.NewReader(b))
			if err != nil {
				t.Fatalf("LZOP(%v) = %v", o, err)
			}
			if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, text) {
				t.Errorf("%d bytes with %v: %d bytes, %v", len(text), o, len(got), err)
			}
		}
	}
	b := lzop(t, words)
	twice, err := LZOP(bytes.NewReader(append(bytes.Clone(b), b...)))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(twice); err != nil || len(got) != 2*len(words) {
		t.Errorf("two files: %d bytes, %v; want %d", len(got), err, 2*len(words))
	}
	for at := range 200 {
		bad := bytes.Clone(b)
		bad[at*(len(b)-5)/200] ^= 0x10
		r, err := LZOP(bytes.NewReader(bad))
		if err == nil {
			var got []byte
			if got, err = io.ReadAll(r); err == nil && !bytes.Equal(got, words) {
				t.Errorf("byte %d damaged: other content without an error", at*(len(b)-5)/200)
			}
		}
	}
	for _, cut := range []int{5, 20, 60, len(b) / 2, len(b) - 2} {
		r, err := LZOP(bytes.NewReader(b[:cut]))
		if err == nil {
			_, err = io.ReadAll(r)
		}
		if err == nil {
			t.Errorf("cut off after %d bytes: no error", cut)
		}
	}
	if r, err := Reader(bytes.NewReader(b), b[:HeadLen]); err != nil {
		t.Errorf("Reader = %v", err)
	} else if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, words) {
		t.Errorf("Reader: %d bytes, %v", len(got), err)
	}
	if _, err := LZOP(strings.NewReader("no lzop")); err == nil {
		t.Error("LZOP(text) = nil; want an error")
	}
}

func FuzzLZOP(f *testing.F) {
	if _, err := exec.LookPath("lzop"); err == nil {
		f.Add(lzop(f, bytes.Repeat([]byte("seed "), 100)))
		f.Add(lzop(f, []byte("x"), "--crc32"))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := LZOP(bytes.NewReader(b))
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, io.LimitReader(r, 1<<20))
	})
}
