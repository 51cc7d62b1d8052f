// Package node is one end of the swarm: Seed serves a set, Get fetches one. Both stand
// on github.com/anacrolix/torrent for the wire, and on internal/swarm/chain for whom to
// take from. It belongs to the program mkcdrec-swarm alone.
package node

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	alog "github.com/anacrolix/log"
	"github.com/anacrolix/torrent"
	"github.com/anacrolix/torrent/bencode"
	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

	"github.com/mkcdrec/mkcdrec/internal/printable"
	"github.com/mkcdrec/mkcdrec/internal/store"
	"github.com/mkcdrec/mkcdrec/internal/swarm/chain"
	"github.com/mkcdrec/mkcdrec/internal/swarm/settorrent"
)

// Event is a line of JSON for whoever started the program.
type Event struct {
	Event  string  `json:"event"` // serving, joined, from, progress, ready, banned, failed, fallback, full, trouble, damaged, complete, read, done, and those of chain.Event
	Time   float64 `json:"time"`  // seconds since the program's start
	Addr   string  `json:"addr,omitempty"`
	By     string  `json:"by,omitempty"`
	URL    string  `json:"url,omitempty"`
	Hash   string  `json:"hash,omitempty"`
	Set    string  `json:"manifest,omitempty"`
	Pieces int     `json:"pieces,omitempty"`
	Of     int     `json:"of,omitempty"`
	Bytes  int64   `json:"bytes,omitempty"`
	Sent   int64   `json:"sent,omitempty"`
	Why    string  `json:"why,omitempty"`
}

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

// upstream is whom the pieces are taken from.
type upstream struct {
	id        chain.ID // zero for the seeder
	addr      string   // "" for nobody
	since     time.Time
	connected time.Time
	offered   time.Time
	others    time.Time // when other peers were offered in its place
	wanting   time.Time // since when it has what is wanted, and nothing came
}

type advice struct {
	Addr   string   `bencode:"addr"`
	Backup []string `bencode:"backup"`
	Every  int64    `bencode:"every"`
	From   string   `bencode:"from"`
	Hold   int      `bencode:"hold"`
	Keep   int      `bencode:"keep"`
	Needed int      `bencode:"needed"`
	Seeder string   `bencode:"seeder"`
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
	e.Time = time.Since(g.start).Seconds()
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
	g.store = &changing{}
	if g.Dir != "" {
		var d *dirStore
		if d, err = newDirStore(g.Dir, g.t); err == nil {
			g.store.now = d
		} else if g.Reader != nil && full(err) {
			var m *ring
			if m, err = g.newRing(); err == nil {
				g.store.now = m
				g.event(Event{Event: "full", Why: "no space left", Bytes: int64(m.cap) * m.size})
			}
		}
	} else {
		var m *ring
		if m, err = g.newRing(); err == nil {
			g.store.now = m
		}
	}
	if err != nil {
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
	g.event(Event{Event: "joined", Hash: g.t.Hash.HexString(), Set: g.t.Manifest, Of: len(g.order), Bytes: g.t.Total()})
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

// full tells whether an error is that of a file system without room.
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

// position is the lowest rank that a reader is at. mu is held.
func (g *Get) position() int {
	if len(g.readers) == 0 {
		return min(g.last, g.next)
	}
	least := len(g.order)
	for _, rank := range g.readers {
		least = min(least, rank)
	}
	return least
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

// fetchTorrent gets the torrent from the server, which may still be starting.
func (g *Get) fetchTorrent(ctx context.Context) (*settorrent.Torrent, error) {
	var last error
	for try := range 30 {
		if try > 0 {
			select {
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			case <-time.After(time.Second):
			}
		}
		b, err := get(ctx, &http.Client{Timeout: time.Minute, Transport: client.Transport}, g.server.JoinPath(settorrent.File).String(), settorrent.MaxFile)
		if err != nil {
			if last = err; ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			continue
		}
		t, err := settorrent.Parse(b)
		if err != nil {
			return nil, fmt.Errorf("cannot use the torrent of %s: %w: %w", g.server.Redacted(), ErrRefused, err)
		}
		if !strings.EqualFold(t.Hash.HexString(), g.Hash) {
			return nil, fmt.Errorf("cannot use the torrent of %s: %w: its info hash is %s; want %s", g.server.Redacted(), ErrRefused, t.Hash.HexString(), printable.Clean(g.Hash))
		}
		if !strings.EqualFold(t.Manifest, g.Manifest) {
			return nil, fmt.Errorf("cannot use the torrent of %s: %w: it is of the manifest %s; want %s", g.server.Redacted(), ErrRefused, t.Manifest, printable.Clean(g.Manifest))
		}
		return t, nil
	}
	return nil, fmt.Errorf("cannot get the torrent of %s: %w", g.server.Redacted(), last)
}

// get reads an answer of at most limit bytes.
func get(ctx context.Context, c *http.Client, where string, limit int64) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, where, nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err
		}
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the server answers %s", printable.Clean(resp.Status))
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("the server sends more than %d bytes", limit)
	}
	return b, err
}

// announce reports to the tracker, and acts on its advice.
func (g *Get) announce(ctx context.Context) {
	every := time.Second
	for {
		g.mu.Lock()
		over := g.over
		g.mu.Unlock()
		a, err := g.ask(ctx, false)
		if err == nil {
			g.take(a, over)
			every = min(max(time.Duration(a.Every)*time.Millisecond, 200*time.Millisecond), time.Minute)
		} else if ctx.Err() == nil {
			g.withoutAdvice()
		}
		g.every.Store(int64(every))
		timer := time.NewTimer(every)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		case <-g.report:
			timer.Stop()
		}
	}
}

// first is the lowest rank from which on no piece is missing up to next.
func (g *Get) first(next int) int {
	if g.memory.Load() == nil {
		return 0
	}
	first := next
	for first > 0 {
		if ok, _ := g.store.state(g.order[first-1]); !ok {
			break
		}
		first--
	}
	return first
}

// ask sends one report.
func (g *Get) ask(ctx context.Context, leaves bool) (advice, error) {
	g.mu.Lock()
	next, up, failed, why, over := g.next, g.upstream, g.failed, g.why, g.over
	g.failed, g.why = chain.ID{}, chain.None
	g.mu.Unlock()
	st := g.tt.Stats()
	v := url.Values{
		"info_hash": {string(g.t.Hash[:])}, "peer_id": {string(g.id[:])}, "port": {strconv.Itoa(g.cl.LocalPort())}, "mkcdrec": {"1"}, "compact": {"1"},
		"first": {strconv.Itoa(g.first(next))}, "next": {strconv.Itoa(next)}, "left": {strconv.FormatInt(max(0, g.tt.BytesMissing()), 10)},
		"uploaded": {strconv.FormatInt(st.BytesWrittenData.Int64(), 10)}, "downloaded": {strconv.FormatInt(st.BytesReadData.Int64(), 10)},
	}
	if !up.id.IsZero() {
		v.Set("from", hex.EncodeToString(up.id[:]))
	}
	if why != chain.None {
		v.Set("failed", hex.EncodeToString(failed[:]))
		v.Set("why", strconv.Itoa(int(why)))
	}
	if over {
		v.Set("done", "1")
	}
	if leaves {
		v.Set("event", "stopped")
	}
	u := g.server.JoinPath("announce")
	u.RawQuery = v.Encode()
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	b, err := get(ctx, client, u.String(), 64<<10)
	if err != nil {
		return advice{}, err
	}
	var answer struct {
		Failure string `bencode:"failure reason"`
		Own     advice `bencode:"mkcdrec"`
	}
	if len(b) == 0 || b[0] != 'd' || strings.Count(string(b[:min(len(b), 1<<16)]), "l") > 1000 {
		return advice{}, errors.New("the tracker's answer cannot be read")
	}
	if err := bencode.Unmarshal(b, &answer); err != nil {
		return advice{}, errors.New("the tracker's answer cannot be read")
	}
	if answer.Failure != "" {
		return advice{}, errors.New(printable.Short(answer.Failure, 200))
	}
	return answer.Own, nil
}

// leave tells the tracker that this machine goes.
func (g *Get) leave() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_, _ = g.ask(ctx, true)
}

// take makes the peer of the advice the one to take from.
// over tells that the report said that it wants no more.
func (g *Get) take(a advice, over bool) {
	g.mu.Lock()
	g.advice = a
	if over {
		g.answered = time.Now()
	}
	if g.over {
		g.upstream = upstream{}
		g.mu.Unlock()
		return
	}
	if a.Keep != 0 || g.next == len(g.order) {
		g.mu.Unlock()
		return
	}
	var id chain.ID
	addr := a.Addr
	switch {
	case a.Hold != 0:
		addr = ""
	case addr == "":
		addr = a.Seeder
	case len(a.From) == len(id):
		copy(id[:], a.From)
	}
	g.setUpstream(id, addr)
	g.mu.Unlock()
}

// setUpstream is called with mu held.
func (g *Get) setUpstream(id chain.ID, addr string) {
	if addr != "" {
		if _, err := netip.ParseAddrPort(addr); err != nil {
			return
		}
	}
	if g.upstream.addr == addr && g.upstream.id == id && (addr == "" || !g.upstream.since.IsZero()) {
		return
	}
	g.upstream = upstream{id: id, addr: addr, since: time.Now()}
	g.event(Event{Event: "from", Addr: addr})
	poke(g.changed)
}

// withoutAdvice goes to the next known peer when the one it has failed and the tracker
// does not answer.
func (g *Get) withoutAdvice() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.upstream.addr != "" || g.over {
		return
	}
	addr := g.advice.Seeder
	if len(g.advice.Backup) > 0 {
		addr, g.advice.Backup = g.advice.Backup[0], g.advice.Backup[1:]
	}
	if addr != "" {
		g.setUpstream(chain.ID{}, addr)
	}
}

// fail gives the present peer up. mu is held.
func (g *Get) fail(why chain.Failure) {
	// The library closes the connection to a peer that it bans.
	if h, _, _ := net.SplitHostPort(g.upstream.addr); slices.Contains(banned(g.cl), h) {
		why = chain.Wrong
	}
	name := map[chain.Failure]string{chain.Unreachable: "unreachable", chain.Silent: "silent", chain.Wrong: "wrong"}[why]
	g.event(Event{Event: "failed", Addr: g.upstream.addr, Why: name})
	if !g.upstream.id.IsZero() {
		g.failed, g.why = g.upstream.id, why
	}
	g.upstream = upstream{}
	poke(g.report)
}

// window is how many pieces are asked for at once: those of 60 ms, and at least 512 KiB
// and two pieces, so that the connection is never idle. The library sends what was asked
// for in no order: the next machine waits for about as long as a window takes.
func (g *Get) window(perSecond float64) int {
	const least, most = 512 << 10, 16 << 20
	n := int64(min(max(perSecond*0.06, least), most)) / g.t.Info.PieceLength
	return int(max(n, 2))
}

// fetch asks for pieces in order, and watches whom they come from.
func (g *Get) fetch(ctx context.Context, cancel context.CancelCauseFunc) {
	sub := g.tt.SubscribePieceStateChanges()
	defer sub.Close()
	ticker := time.NewTicker(tickTime)
	defer ticker.Stop()
	asked := map[int]torrent.PiecePriority{}
	bad := map[string]bool{}
	speed, lastBytes, lastTime, lastEvent, lastRoom := 0.0, int64(0), time.Now(), time.Now(), time.Now()
	for {
		g.advance()
		g.ask1(asked, g.window(speed))
		g.peers()
		for _, ip := range banned(g.cl) {
			if !bad[ip] {
				bad[ip] = true
				g.event(Event{Event: "banned", Addr: ip, Why: "it sent a piece with another SHA-1"})
				g.mu.Lock()
				if h, _, _ := net.SplitHostPort(g.upstream.addr); h == ip {
					g.fail(chain.Wrong)
				}
				g.mu.Unlock()
			}
		}
		if d := time.Since(lastTime); d > time.Second {
			st := g.tt.Stats()
			n := st.BytesReadData.Int64()
			speed, lastBytes, lastTime = float64(n-lastBytes)/d.Seconds(), n, time.Now()
		}
		if g.Reader != nil && time.Since(lastRoom) > fullTime {
			lastRoom = time.Now()
			g.watchRoom()
		}
		if time.Since(lastEvent) > time.Second {
			lastEvent = time.Now()
			g.progress()
		}
		g.mu.Lock()
		fatal := g.fatal
		g.mu.Unlock()
		if fatal != nil {
			cancel(fatal)
			return
		}
		select {
		case <-ctx.Done():
			return
		case _, ok := <-sub.Values:
			if !ok {
				return
			}
		case <-g.changed:
		case <-ticker.C:
		}
	}
}

func (g *Get) progress() {
	g.mu.Lock()
	next, up := g.next, g.upstream.addr
	g.mu.Unlock()
	st := g.tt.Stats()
	g.event(Event{Event: "progress", Pieces: next, Of: len(g.order), Addr: up, Bytes: st.BytesReadData.Int64(), Sent: st.BytesWrittenData.Int64()})
}

// advance counts the pieces that are there.
func (g *Get) advance() {
	g.mu.Lock()
	there := func(rank int) bool {
		ok, _ := g.store.state(g.order[rank])
		return ok
	}
	old := g.next
	if m := g.memory.Load(); m != nil { // the reader went back to what is no longer there, or on
		if r := m.readerRank(); r < g.next && !there(r) || r > g.next && r >= len(g.t.Head) {
			g.next = r
		}
	}
	for g.next < len(g.order) && there(g.next) {
		g.next++
	}
	changed, done := g.next != old, g.next == len(g.order) && g.next != old
	g.mu.Unlock()
	if changed {
		g.wake()
	}
	if done {
		g.progress()
		g.event(Event{Event: "complete", Pieces: len(g.order), Of: len(g.order), Bytes: g.t.Total()})
		poke(g.report)
	}
}

// wake wakes the readers.
func (g *Get) wake() {
	g.mu.Lock()
	close(g.waiting)
	g.waiting = make(chan struct{})
	g.mu.Unlock()
}

// ask1 sets the priorities of the pieces in the window and of those that a reader waits
// for. With "readahead" the library asks for pieces by number; with others it does not.
func (g *Get) ask1(asked map[int]torrent.PiecePriority, window int) {
	g.mu.Lock()
	end := min(g.next+4*window, g.end())
	want := map[int]torrent.PiecePriority{}
	for r, n := g.next, 0; r < end && n < window; r++ {
		p := g.order[r]
		if there, _ := g.store.state(p); there {
			continue
		}
		want[p] = torrent.PiecePriorityReadahead
		if n == 0 {
			want[p] = torrent.PiecePriorityNow
		}
		n++
	}
	for p := range g.wants {
		want[p] = torrent.PiecePriorityNow
	}
	g.mu.Unlock()
	for p, prio := range want {
		if asked[p] != prio {
			g.tt.Piece(p).SetPriority(prio)
			asked[p] = prio
		}
	}
	for p := range asked {
		if _, ok := want[p]; !ok {
			g.tt.Piece(p).SetPriority(torrent.PiecePriorityNone)
			delete(asked, p)
		}
	}
}

// end is the rank up to which pieces are fetched without being asked for. mu is held.
func (g *Get) end() int {
	if g.over {
		return 0
	}
	m := g.memory.Load()
	if m == nil {
		return len(g.order)
	}
	end := min(len(g.order), max(m.readerRank()+1, len(g.t.Head))+m.room())
	for r := max(g.next, len(g.t.Head)); r < end; r++ {
		if !g.read[r] {
			return r
		}
	}
	return end
}

// wanted is the piece that is to come next; -1 for none.
func (g *Get) wanted() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	for p := range g.wants {
		return p
	}
	if g.next >= g.end() {
		return -1
	}
	return g.order[g.next]
}

// peers connects to the one to take from, lets others go that it took from before, and
// finds out when nothing comes.
func (g *Get) peers() {
	want := g.wanted()
	now := time.Now()
	g.mu.Lock()
	up := g.upstream
	g.mu.Unlock()
	var conn *torrent.PeerConn
	var drop []*torrent.PeerConn
	for _, c := range g.tt.PeerConns() {
		switch {
		case c.RemoteAddr.String() == up.addr:
			conn = c
		case c.Discovery == torrent.PeerSourceTracker:
			drop = append(drop, c)
		}
	}
	for _, c := range drop {
		_ = c.Close()
	}
	has := false
	if conn != nil && want >= 0 {
		has = conn.PeerPieces().ContainsInt(want)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.upstream.addr != up.addr || up.addr == "" || g.next == len(g.order) {
		return
	}
	u := &g.upstream
	switch {
	case conn == nil && !u.connected.IsZero(): // it was closed
		if u.id.IsZero() {
			u.connected, u.offered = time.Time{}, time.Time{}
			return
		}
		g.fail(chain.Unreachable)
	case conn == nil:
		if now.Sub(u.since) > connectTime && !u.id.IsZero() {
			g.fail(chain.Unreachable)
			return
		}
		if now.Sub(u.since) > connectTime && now.Sub(u.others) > time.Second { // the seeder: any other will do
			u.others = now
			var more []torrent.PeerInfo
			for _, b := range g.advice.Backup {
				if ap, err := netip.ParseAddrPort(b); err == nil && len(more) < 3 {
					more = append(more, torrent.PeerInfo{Addr: net.TCPAddrFromAddrPort(ap), Source: torrent.PeerSourceDirect})
				}
			}
			go g.tt.AddPeers(more)
		}
		if now.Sub(u.offered) > 300*time.Millisecond {
			u.offered = now
			ap := netip.MustParseAddrPort(u.addr)
			go g.tt.AddPeers([]torrent.PeerInfo{{Addr: net.TCPAddrFromAddrPort(ap), Source: torrent.PeerSourceTracker}})
		}
	default:
		if u.connected.IsZero() {
			u.connected = now
		}
		switch last := time.Unix(0, g.useful.Load()); {
		case !has:
			u.wanting = time.Time{}
		case u.wanting.IsZero() || last.After(u.wanting):
			u.wanting = now
		case now.Sub(u.wanting) > silentTime && !u.id.IsZero():
			g.fail(chain.Silent)
		}
	}
}

// fallback fetches pieces from the server by HTTP while no peer gives any.
func (g *Get) fallback(ctx context.Context) {
	buf := []byte(nil)
	active, told := false, time.Time{}
	idle := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(100 * time.Millisecond):
		}
		for ctx.Err() == nil {
			want := g.wanted()
			g.mu.Lock()
			seeder, hold := g.upstream.id.IsZero(), g.advice.Hold != 0
			urgent := false
			for p := range g.wants { // what left the ring, or is far ahead of the others
				if r := g.rank[p]; r < g.next || r > g.next+64 {
					if there, _ := g.store.state(p); !there {
						want, urgent = p, true
					}
				}
			}
			g.mu.Unlock()
			last := time.Unix(0, g.useful.Load())
			if idle.After(last) {
				last = idle
			}
			wait := 3 * time.Second
			if active && time.Unix(0, g.useful.Load()).Before(idle) {
				wait = 0
			}
			if urgent {
				wait = 500 * time.Millisecond
			}
			if want < 0 || (!seeder || hold) && !urgent || time.Since(last) < wait {
				if want < 0 || !seeder {
					idle = time.Now()
				}
				if time.Since(time.Unix(0, g.useful.Load())) < time.Second {
					active = false
				}
				break
			}
			if !active {
				active = true
				g.event(Event{Event: "fallback", URL: g.server.Redacted()})
			}
			if buf == nil {
				buf = make([]byte, g.t.Info.PieceLength)
			}
			if err := g.fetchPiece(ctx, want, buf[:g.t.PieceSize(want)]); err != nil {
				if ctx.Err() == nil && time.Since(told) > troubleTime {
					told = time.Now()
					g.event(Event{Event: "trouble", Why: printable.Short(err.Error(), 300)})
				}
				break
			}
			idle = time.Now()
		}
	}
}

// fetchPiece gets one piece by HTTP, has it checked, and fails for good when it is wrong
// three times.
func (g *Get) fetchPiece(ctx context.Context, i int, b []byte) error {
	if _, err := g.web.ReadAt(b, int64(i)*g.t.Info.PieceLength); err != nil && err != io.EOF {
		return err
	}
	if g.tt.PieceState(i).Complete {
		return nil
	}
	if _, err := g.store.writeAt(i, b, 0); err != nil {
		g.cannotWrite(err)
		return err
	}
	if err := g.tt.Piece(i).VerifyDataContext(ctx); err != nil {
		return err
	}
	poke(g.changed)
	if g.tt.PieceState(i).Complete {
		return nil
	}
	name := settorrent.Ranges(g.t.Files(), int64(i)*g.t.Info.PieceLength, 1)[0].Name
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.wrong[i]++; g.wrong[i] == 3 {
		g.fatal = fmt.Errorf("cannot fetch piece %d (of %s): %w: what the server sends is not what its torrent was made of", i, printable.Clean(name), ErrRefused)
	}
	return errors.New("wrong piece")
}

// Files are the set's files while they arrive.
type Files struct{ g *Get }

// List gives all files.
func (f *Files) List() []settorrent.Span { return f.g.t.Files() }

// Open gives a reader of a file, whose reads wait for what has not arrived.
func (f *Files) Open(ctx context.Context, name string) (*File, error) {
	files := f.g.t.Files()
	i := slices.IndexFunc(files, func(s settorrent.Span) bool { return s.Name == name })
	if i < 0 {
		return nil, fmt.Errorf("cannot open %q: the set has no such file", name)
	}
	return &File{ctx: ctx, g: f.g, span: files[i]}, nil
}

// at notes where a reader is: a ring keeps what the last of all has not read.
func (g *Get) at(r *File, piece int) {
	rank, m := g.rank[piece], g.memory.Load()
	if r.rank == rank+1 && r.ring == m {
		return
	}
	r.rank, r.ring = rank+1, m
	if rank < len(g.t.Head) { // each is read by itself
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.readers[r] = rank
	if !g.read[rank] { // so all of the file is
		size := g.t.Info.PieceLength
		for p := r.span.Offset / size; p*size < r.span.Offset+r.span.Length; p++ {
			g.read[g.rank[p]] = true
		}
		poke(g.changed)
	}
	g.last = g.position()
	if m != nil {
		m.setReader(g.last)
	}
}

// Close ends the reading.
func (r *File) Close() error {
	r.g.mu.Lock()
	defer r.g.mu.Unlock()
	delete(r.g.readers, r)
	return nil
}

// File is a file of the set that is read while it arrives. It is not for several
// goroutines at once.
type File struct {
	ctx  context.Context
	g    *Get
	span settorrent.Span
	at   int64
	rank int   // that was noted, and one
	ring *ring // to which it was told
}

func (r *File) Seek(off int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		off += r.at
	case io.SeekEnd:
		off += r.span.Length
	}
	if off < 0 {
		return 0, errors.New("seek before the beginning")
	}
	r.at = off
	return off, nil
}

func (r *File) Read(p []byte) (int, error) {
	if r.at >= r.span.Length {
		return 0, io.EOF
	}
	if len(p) == 0 {
		return 0, nil
	}
	size := r.g.t.Info.PieceLength
	pos := r.span.Offset + r.at
	i := int(pos / size)
	n := min(int64(len(p)), r.span.Length-r.at, int64(i+1)*size-pos)
	for {
		r.g.at(r, i)
		if err := r.g.waitFor(r.ctx, i); err != nil {
			return 0, err
		}
		k, err := r.g.store.readAt(i, p[:n], pos-int64(i)*size)
		if err != nil && r.g.memory.Load() != nil && r.ctx.Err() == nil {
			continue // it was evicted just now
		}
		if int64(k) < n && err == nil {
			err = io.ErrUnexpectedEOF
		}
		if int64(k) == n {
			err = nil
		}
		r.at += int64(k)
		return k, err
	}
}

// waits tells the memory whether a piece is waited for. mu is held.
func (g *Get) waits(piece int) {
	if m := g.memory.Load(); m != nil {
		m.wait(piece, g.wants[piece] > 0)
	}
}

// waitFor returns when a piece is there.
func (g *Get) waitFor(ctx context.Context, piece int) error {
	there := func() bool {
		ok, _ := g.store.state(piece)
		return ok
	}
	if there() {
		return nil
	}
	g.mu.Lock()
	g.wants[piece]++
	g.waits(piece)
	g.mu.Unlock()
	poke(g.changed)
	defer func() {
		g.mu.Lock()
		if g.wants[piece]--; g.wants[piece] <= 0 {
			delete(g.wants, piece)
		}
		g.waits(piece)
		g.mu.Unlock()
	}()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		g.mu.Lock()
		ch, fatal := g.waiting, g.fatal
		g.mu.Unlock()
		if there() {
			return nil
		}
		if fatal != nil {
			return fatal
		}
		select {
		case <-ch:
		case <-tick.C: // a piece out of order
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
