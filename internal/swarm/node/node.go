// Package node is one end of the swarm: Seed serves a set, Get fetches one. Both stand
// on github.com/anacrolix/torrent for the wire, and on internal/swarm/chain for whom to
// take from. It belongs to the program mkcdrec-swarm alone.
package node

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	alog "github.com/anacrolix/log"
	"github.com/anacrolix/torrent"
	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

	"github.com/mkcdrec/mkcdrec/internal/fleet"
	"github.com/mkcdrec/mkcdrec/internal/printable"
	"github.com/mkcdrec/mkcdrec/internal/store"
	"github.com/mkcdrec/mkcdrec/internal/swarm/chain"
	"github.com/mkcdrec/mkcdrec/internal/swarm/settorrent"
)

// Event is what the program prints.
type Event = fleet.SwarmEvent

// ErrRefused is the cause of an error for what is not the set that was asked for.
var ErrRefused = errors.New("refused")

// config gives the library's settings: nothing but TCP connections to the peers that
// the tracker names.
func config(listen string, s pieces) (*torrent.ClientConfig, error) {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %q: %w", printable.Clean(listen), err)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %q: the port is not a number", printable.Clean(listen))
	}
	c := torrent.NewDefaultClientConfig()
	c.NoDHT, c.DisableUTP, c.DisableTrackers, c.DisablePEX = true, true, true, true
	c.DisableWebtorrent, c.DisableWebseeds, c.NoDefaultPortForwarding = true, true, true
	c.DisableAcceptRateLimiting, c.Seed = true, true
	c.HeaderObfuscationPolicy = torrent.HeaderObfuscationPolicy{Preferred: false}
	c.ListenHost, c.ListenPort = func(string) string { return host }, int(n)
	if a, err := netip.ParseAddr(host); err == nil {
		c.DisableIPv6, c.DisableIPv4 = a.Unmap().Is4(), a.Is6() && !a.Is4In6() && !a.IsUnspecified()
	}
	c.DefaultStorage = impl{s}
	c.DialRateLimiter = rate.NewLimiter(rate.Inf, 1)
	c.NominalDialTimeout, c.MinDialTimeout, c.HandshakesTimeout = 3*time.Second, time.Second, 4*time.Second
	c.EstablishedConnsPerTorrent = 200
	c.KeepAliveTimeout = 20 * time.Second
	c.ExtendedHandshakeClientVersion, c.HTTPUserAgent, c.Bep20 = "mkcdrec", "mkcdrec", "-MK0100-"
	id := [20]byte{}
	copy(id[:], c.Bep20)
	if _, err := rand.Read(id[8:]); err != nil {
		return nil, err
	}
	c.PeerID = string(id[:])
	c.Logger = alog.NewLogger()
	c.Logger.SetHandlers(alog.DiscardHandler)
	c.Slogger = slog.New(slog.DiscardHandler)
	return c, nil
}

// banned lists the addresses of peers that sent wrong pieces. The library has IPv4
// addresses in both forms.
func banned(cl *torrent.Client) []string {
	var out []string
	for _, ip := range cl.BadPeerIPs() {
		if a, err := netip.ParseAddr(ip); err == nil {
			ip = a.Unmap().String()
		}
		if !slices.Contains(out, ip) {
			out = append(out, ip)
		}
	}
	return out
}

// Get fetches a set.
type Get struct {
	// Server is the URL of the seeder's HTTP server.
	Server string
	// Hash is the info hash and Manifest the manifest's SHA-256, both in hex: anything
	// else is refused.
	Hash, Manifest string
	// Dir is where the pieces are kept; if it is "", Memory bytes of memory. When Dir is
	// full and there is a Reader, the set's files in it are removed and memory is used
	// instead: of at least 64 MiB, if Memory is 0.
	Dir    string
	Memory int64
	// Listen is the address for other machines, ":6881".
	Listen string
	// Linger is how long after the end others are served that still take from here.
	Linger time.Duration
	// Events is told what happens, from several goroutines.
	Events func(Event)
	// Reader, if not nil, is given the files as soon as the torrent is known. Run ends
	// when it returns, or, if it is nil, when the set is complete, and nobody takes from
	// this machine any more. With Memory, nothing is fetched of files that it does not
	// read but what a restore begins with.
	Reader func(ctx context.Context, files *Files) error

	start   time.Time
	id      chain.ID
	server  *url.URL
	web     *settorrent.Source
	t       *settorrent.Torrent
	order   []int
	rank    []int
	store   *changing
	memory  atomic.Pointer[ring] // nil while the pieces are in Dir
	cl      *torrent.Client
	tt      *torrent.Torrent
	every   atomic.Int64 // time between two reports, nanoseconds
	useful  atomic.Int64 // time of the last piece of data from a peer, Unix nanoseconds
	changed chan struct{}
	report  chan struct{}

	mu       sync.Mutex
	over     bool      // nothing more is fetched for this machine
	ended    time.Time // since when
	answered time.Time // when the tracker last answered a report of that; zero for never
	read     []bool    // by rank: a file of the piece is read
	next     int       // pieces of the order that are there, without a gap
	last     int       // the rank of the piece that the reader was at
	wants    map[int]int
	readers  map[*File]int // the rank of the piece that each is at
	waiting  chan struct{} // closed at each change
	upstream upstream
	advice   advice
	failed   chain.ID
	why      chain.Failure
	wrong    map[int]int // pieces that came wrong from the server, and how often
	fatal    error
}

// Times after which something counts as failed.
const (
	troubleTime = 10 * time.Second        // between two events of what does not work
	connectTime = 2 * time.Second         // without a connection
	silentTime  = 2500 * time.Millisecond // without data of what the peer has
	tickTime    = 50 * time.Millisecond
	// trackerTime is for how long others are served while the tracker does not answer.
	trackerTime = 10 * time.Second
	// fullTime is how often the room in Dir is looked at.
	fullTime = 200 * time.Millisecond
)

// Memory that is used when Dir is full, if none is named: at least so many bytes and pieces.
const (
	leastMemory = 64 << 20
	leastPieces = 16
)

func (g *Get) event(e Event) {
	e.Seconds = time.Since(g.start).Seconds()
	if g.Events != nil {
		g.Events(e)
	}
}

// Run fetches the set, and returns when all is done or ctx ends.
func (g *Get) Run(ctx context.Context) error {
	g.start, g.wants, g.wrong, g.readers = time.Now(), map[int]int{}, map[int]int{}, map[*File]int{}
	g.waiting, g.changed, g.report = make(chan struct{}), make(chan struct{}, 1), make(chan struct{}, 1)
	u, err := url.Parse(g.Server)
	if err != nil || u.Scheme != "http" || u.Host == "" {
		return fmt.Errorf("cannot use server %q: want http://HOST:PORT/", printable.Clean(g.Server))
	}
	g.server = u
	if g.t, err = g.fetchTorrent(ctx); err != nil {
		return err
	}
	g.order = g.t.Order()
	g.rank, g.read = make([]int, len(g.order)), make([]bool, len(g.order))
	for r, p := range g.order {
		g.rank[p] = r
	}
	if err := g.keep(); err != nil {
		return fmt.Errorf("cannot keep pieces: %w", err)
	}
	defer g.store.close()
	inner, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	place, err := store.NewContext(inner, u.JoinPath("set", g.t.Info.Name).String())
	if err != nil {
		return err
	}
	g.web = settorrent.NewSource(place, g.t.Files())
	defer g.web.Close()
	conf, err := config(g.Listen, g.store)
	if err != nil {
		return err
	}
	copy(g.id[:], conf.PeerID)
	conf.Callbacks.ReceivedUsefulData = append(conf.Callbacks.ReceivedUsefulData, func(torrent.ReceivedUsefulDataEvent) { g.useful.Store(time.Now().UnixNano()) })
	conf.Callbacks.PeerConnClosed = func(*torrent.PeerConn) { poke(g.changed) }
	conf.Callbacks.PeerConnAdded = append(conf.Callbacks.PeerConnAdded, func(*torrent.PeerConn) { poke(g.changed) })
	if g.cl, err = torrent.NewClient(conf); err != nil {
		return fmt.Errorf("cannot listen on %s: %w", printable.Clean(g.Listen), err)
	}
	defer g.cl.Close()
	g.tt, _ = g.cl.AddTorrentOpt(torrent.AddTorrentOpts{InfoHash: g.t.Hash, InfoBytes: g.t.InfoBytes})
	g.tt.SetOnWriteChunkError(func(err error) { g.cannotWrite(err) })
	g.event(Event{Event: "joined", Hash: g.t.Hash.HexString(), Manifest: g.t.Manifest, Of: len(g.order), Bytes: g.t.Total()})
	var wg sync.WaitGroup
	wg.Go(func() { g.announce(inner) })
	wg.Go(func() { g.fallback(inner) })
	wg.Go(func() { g.fetch(inner, cancel) })
	err = g.wait(inner)
	cancel(err)
	wg.Wait()
	g.leave()
	st := g.tt.Stats()
	if err == nil {
		g.event(Event{Event: "done", Pieces: g.next, Of: len(g.order), Bytes: st.BytesReadData.Int64(), Sent: st.BytesWrittenData.Int64()})
	}
	return err
}

// keep chooses where pieces are: in the directory, or in memory without one, or if it is
// full and a reader needs no more.
func (g *Get) keep() error {
	g.store = &changing{}
	if g.Dir != "" {
		d, err := newDirStore(g.Dir, g.t)
		if err == nil {
			g.store.now = d
		}
		if err == nil || g.Reader == nil || !full(err) {
			return err
		}
	}
	m, err := g.newRing()
	if err != nil {
		return err
	}
	g.store.now = m
	if g.Dir != "" {
		g.event(Event{Event: "full", Why: "no space left", Bytes: int64(m.cap) * m.size})
	}
	return nil
}

// newRing makes the memory for pieces, and uses it.
func (g *Get) newRing() (*ring, error) {
	memory := g.Memory
	if g.Dir != "" && memory == 0 {
		memory = max(leastMemory, leastPieces*g.t.Info.PieceLength)
	}
	r, err := newRing(memory, g.t)
	if err != nil {
		return nil, err
	}
	r.evicted = func(p int) {
		go func() {
			if tt := g.tt; tt != nil {
				tt.Piece(p).UpdateCompletion()
			}
		}()
	}
	g.memory.Store(r)
	return r, nil
}

// full reports whether an error is that of a file system without room.
func full(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

// cannotWrite acts on an error of the store. What was not written is asked for again.
func (g *Get) cannotWrite(err error) {
	if g.memory.Load() != nil {
		return // it is asked for again when there is room
	}
	if g.Reader != nil && full(err) {
		if err = g.toMemory("no space left"); err == nil {
			return
		}
	}
	g.mu.Lock()
	if g.fatal == nil {
		g.fatal = fmt.Errorf("cannot keep pieces in %s: %w", g.Dir, err)
	}
	g.mu.Unlock()
	poke(g.changed)
}

// toMemory keeps the pieces in memory from now on, and gives the room in Dir back. The
// pieces that the reader wants next are taken along, as many as there is room for.
func (g *Get) toMemory(why string) error {
	g.mu.Lock()
	g.store.mu.Lock()
	done := func() {
		g.store.mu.Unlock()
		g.mu.Unlock()
	}
	dir, ok := g.store.now.(*dirStore)
	if !ok {
		done()
		return nil // another goroutine did it
	}
	m, err := g.newRing()
	if err != nil {
		done()
		return err
	}
	at := g.position()
	m.setReader(at)
	buf := make([]byte, g.t.Info.PieceLength)
	take := func(p int) bool {
		if there, _ := dir.state(p); !there {
			return false
		}
		b := buf[:g.t.PieceSize(p)]
		if n, err := dir.readAt(p, b, 0); err != nil || n < len(b) {
			return false
		}
		if _, err := m.writeAt(p, b, 0); err != nil {
			return false
		}
		m.mark(p, true)
		return true
	}
	for p := range m.pinned {
		take(p)
	}
	next := at
	for next < len(g.order) && next < at+m.room() && take(g.order[next]) {
		next++
	}
	g.next = next
	g.store.now = m
	done()
	if err := dir.remove(); err != nil {
		why += ", and its files cannot be removed: " + printable.Clean(err.Error())
	}
	g.event(Event{Event: "full", Why: why, Bytes: int64(m.cap) * m.size})
	for p := range g.order { // nobody is told that it has them any more
		if there, _ := m.state(p); !there {
			g.tt.Piece(p).UpdateCompletion()
		}
	}
	g.wake()
	poke(g.changed)
	return nil
}

// watchRoom gives Dir up before it is full: a restore needs the room.
func (g *Get) watchRoom() {
	g.store.mu.RLock()
	dir, ok := g.store.now.(*dirStore)
	var free, size int64
	err := error(nil)
	if ok {
		free, size, err = dir.free()
	}
	g.store.mu.RUnlock()
	if ok && err == nil && free < min(32<<20, size/32) {
		if err := g.toMemory("nearly no space left"); err != nil {
			g.mu.Lock()
			g.fatal = fmt.Errorf("cannot keep pieces in memory: %w", err)
			g.mu.Unlock()
		}
	}
}

// wait returns when the work is done: the reader has ended, or the set is complete, and
// nobody takes from here any more, or Linger is over.
func (g *Get) wait(ctx context.Context) error {
	if g.Reader != nil {
		if err := g.Reader(ctx, &Files{g}); err != nil {
			return g.cause(ctx, err)
		}
		g.event(Event{Event: "read"})
	}
	for g.Reader == nil {
		g.mu.Lock()
		done, ch := g.next == len(g.order), g.waiting
		g.mu.Unlock()
		if done {
			break
		}
		select {
		case <-ch:
		case <-ctx.Done():
			return g.cause(ctx, ctx.Err())
		}
	}
	g.mu.Lock()
	g.over, g.ended = true, time.Now()
	end := g.ended.Add(g.Linger)
	g.mu.Unlock()
	poke(g.changed)
	poke(g.report)
	for time.Now().Before(end) {
		g.mu.Lock()
		// The tracker is to say it of a machine that is done.
		needed := g.answered.IsZero() || g.advice.Needed != 0
		last := g.ended
		if g.answered.After(last) {
			last = g.answered
		}
		g.mu.Unlock()
		if !needed || time.Since(last) > max(trackerTime, 3*time.Duration(g.every.Load())) {
			break
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return nil // all is done
		}
	}
	return nil
}

func (g *Get) cause(ctx context.Context, err error) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.fatal != nil {
		return g.fatal
	}
	if c := context.Cause(ctx); c != nil {
		return c
	}
	return err
}

func poke(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

var client = &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 2, IdleConnTimeout: 30 * time.Second, MaxResponseHeaderBytes: 64 << 10, DisableCompression: true}}
