package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/swarm/node"
	"github.com/mkcdrec/mkcdrec/internal/swarm/swarmtest"
)

// liar is a peer with the whole set that sends zero bytes for every piece: it speaks as
// much of BEP 3 as that takes, and announces itself to the chain first.
func liar(tracker, listen, hash string) {
	l, err := net.Listen("tcp", listen)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	var pieces int
	var info [20]byte
	hexHash, n, _ := strings.Cut(hash, ":")
	_, _ = fmt.Sscanf(n, "%d", &pieces)
	for i := range info {
		_, _ = fmt.Sscanf(hexHash[2*i:2*i+2], "%02x", &info[i])
	}
	const id = "-XX0000-liarliarliar"
	go func() {
		for ; ; time.Sleep(500 * time.Millisecond) {
			_, port, _ := net.SplitHostPort(listen)
			u := fmt.Sprintf("%sannounce?info_hash=%s&peer_id=%s&port=%s&mkcdrec=1&next=%d", tracker, escape(info[:]), id, port, pieces)
			out, err := exec.Command("curl", "-s", u).Output()
			if err == nil && bytes.Contains(out, []byte("mkcdrec")) {
				events(os.Stdout)(node.Event{Event: "announced"})
			}
		}
	}()
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			hello := make([]byte, 68)
			if _, err := io.ReadFull(c, hello); err != nil {
				return
			}
			_, _ = c.Write(append(append(append([]byte("\x13BitTorrent protocol"), make([]byte, 8)...), info[:]...), id...))
			field := bytes.Repeat([]byte{0xff}, (pieces+7)/8)
			if k := pieces % 8; k != 0 {
				field[len(field)-1] = 0xff << (8 - k)
			}
			send := func(kind byte, b []byte) {
				n := len(b) + 1
				_, _ = c.Write(append([]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n), kind}, b...))
			}
			send(5, field)
			send(1, nil) // unchoke
			head := make([]byte, 4)
			for {
				if _, err := io.ReadFull(c, head); err != nil {
					return
				}
				n := int(head[0])<<24 | int(head[1])<<16 | int(head[2])<<8 | int(head[3])
				if n > 1<<17 {
					return
				}
				m := make([]byte, n)
				if _, err := io.ReadFull(c, m); err != nil {
					return
				}
				if n == 13 && m[0] == 6 { // request: index, begin, length
					size := int(m[9])<<24 | int(m[10])<<16 | int(m[11])<<8 | int(m[12])
					send(7, append(append([]byte{}, m[1:9]...), make([]byte, size)...))
				}
			}
		}()
	}
}

func escape(b []byte) string {
	var s strings.Builder
	for _, c := range b {
		fmt.Fprintf(&s, "%%%02x", c)
	}
	return s.String()
}

// TestLiar: a machine that sends wrong pieces is banned and named, by those it sends to
// and by the server, and everybody gets the set.
func TestLiar(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("curl is missing")
	}
	r := newRoom(t, 4, "")
	set := swarmtest.Set(t, 4<<20)
	seed, tor := r.seed(set)
	bad := r.run(1, "liar", "http://"+r.ip(0)+":8080/", r.ip(1)+":6881", fmt.Sprintf("%s:%d", tor.Hash.HexString(), tor.Info.NumPieces()))
	bad.wait(t, 20*time.Second, "announced", nil)
	dir := t.TempDir()
	g := r.get(2, tor, "--dir", dir)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("client: %.3000s", g.text())
		}
	})
	if _, at := g.wait(t, 20*time.Second, "banned", func(e node.Event) bool { return e.Addr == r.ip(1) }); at.IsZero() {
		t.Error("not banned")
	}
	seed.wait(t, 10*time.Second, "wrong", func(e node.Event) bool { return e.Addr == r.ip(1)+":6881" && e.By == r.ip(2)+":6881" })
	if err := g.end(t, time.Minute); err != nil {
		t.Errorf("%v\n%s", err, &g.stderr)
	}
	same(t, set, dir)
	// A second one that it sends to: nobody is told of it any more.
	dir = t.TempDir()
	g = r.get(3, tor, "--dir", dir)
	if err := g.end(t, time.Minute); err != nil {
		t.Errorf("%v\n%s", err, &g.stderr)
	}
	same(t, set, dir)
	t.Logf("server: %.2000s", seed.text())
}

// TestFallback: when nobody answers by BitTorrent, the pieces come by HTTP.
func TestFallback(t *testing.T) {
	t.Parallel()
	r := newRoom(t, 2, "")
	set := swarmtest.Set(t, 4<<20)
	_, tor := r.seedAt(set, "127.0.0.1:6881")
	dir := t.TempDir()
	g := r.get(1, tor, "--dir", dir)
	if err := g.end(t, time.Minute); err != nil {
		t.Errorf("%v\n%s", err, &g.stderr)
	}
	g.wait(t, time.Second, "fallback", nil)
	same(t, set, dir)
}
