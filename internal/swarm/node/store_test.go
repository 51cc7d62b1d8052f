package node

import (
	"bytes"
	"context"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/swarm/settorrent"
	"github.com/mkcdrec/mkcdrec/internal/swarm/swarmtest"
)

func testRing(t *testing.T, pieces int64) (*ring, *settorrent.Torrent) {
	t.Helper()
	set, err := manifest.Open(swarmtest.Set(t, 6<<20))
	if err != nil {
		t.Fatal(err)
	}
	tor, err := settorrent.Make(context.Background(), set, progress.None{})
	if err != nil {
		t.Fatal(err)
	}
	r, err := newRing(pieces*tor.Info.PieceLength, tor)
	if err != nil {
		t.Fatal(err)
	}
	return r, tor
}

// TestRingParts: what was not written to a piece since it got its memory is an error when
// it is read, so that nobody is blamed for what another piece left there.
func TestRingParts(t *testing.T) {
	r, tor := testRing(t, 10)
	order := tor.Order()
	block := bytes.Repeat([]byte{1}, blockSize)
	for _, p := range order[:10] {
		for off := int64(0); off < tor.PieceSize(p); off += blockSize {
			if _, err := r.writeAt(p, block[:min(blockSize, tor.PieceSize(p)-off)], off); err != nil {
				t.Fatal(err)
			}
		}
		r.mark(p, true)
	}
	r.setReader(9)
	next := order[10]
	if _, err := r.writeAt(next, block, 0); err != nil {
		t.Fatal(err)
	}
	whole := make([]byte, tor.PieceSize(next))
	if _, err := r.readAt(next, whole, 0); err == nil {
		t.Error("a piece of which one block was written is read")
	}
	if _, err := r.readAt(next, whole[:blockSize], 0); err != nil {
		t.Errorf("the block that was written: %v", err)
	}
	last := len(order) - 1 // of the torrent: shorter
	b := make([]byte, tor.PieceSize(last))
	if _, err := r.writeAt(last, b, 0); err != nil {
		t.Fatal(err)
	}
	if n, err := r.readAt(last, b, 0); n != len(b) || err != nil {
		t.Errorf("the last piece: %d, %v; want %d", n, err, len(b))
	}
}

// TestRingReaders: when a second reader is far behind the first, which stands still, its
// pieces find room again and again.
func TestRingReaders(t *testing.T) {
	r, tor := testRing(t, 16)
	order := tor.Order()
	put := func(rank int) error {
		p := order[rank]
		_, err := r.writeAt(p, make([]byte, tor.PieceSize(p)), 0)
		r.mark(p, err == nil)
		return err
	}
	at := len(tor.Head)
	r.setReader(at)
	for i := range r.room() {
		if err := put(at + i); err != nil {
			t.Fatal(err)
		}
	}
	for rank := len(order) / 2; rank < len(order); rank++ {
		r.wait(order[rank], true)
		if err := put(rank); err != nil {
			t.Fatalf("rank %d: %v", rank, err)
		}
		r.wait(order[rank], false)
	}
	for i := range r.room() {
		if there, _ := r.state(order[at+i]); !there {
			t.Errorf("the first reader's piece %d is no longer there", i)
		}
	}
}
