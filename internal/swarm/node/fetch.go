package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/anacrolix/torrent"

	"github.com/mkcdrec/mkcdrec/internal/printable"
	"github.com/mkcdrec/mkcdrec/internal/swarm/chain"
	"github.com/mkcdrec/mkcdrec/internal/swarm/settorrent"
)

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
	conn := g.connection(up.addr)
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
		g.offer(u, now)
	default:
		g.listen(u, now, has)
	}
}

// connection is the one to addr; those to others that the tracker named are closed.
func (g *Get) connection(addr string) (conn *torrent.PeerConn) {
	var drop []*torrent.PeerConn
	for _, c := range g.tt.PeerConns() {
		switch {
		case c.RemoteAddr.String() == addr:
			conn = c
		case c.Discovery == torrent.PeerSourceTracker:
			drop = append(drop, c)
		}
	}
	for _, c := range drop {
		_ = c.Close()
	}
	return conn
}

// offer gives the library the address of the machine to take from, and those of others
// where the seeder does not answer. g is locked.
func (g *Get) offer(u *upstream, now time.Time) {
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
}

// listen gives up a machine that has what is wanted and sends nothing. g is locked.
func (g *Get) listen(u *upstream, now time.Time, has bool) {
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

// fallback fetches pieces from the server by HTTP while no peer gives any.
func (g *Get) fallback(ctx context.Context) {
	w := web{Get: g, idle: time.Now()}
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(100 * time.Millisecond):
		}
		for ctx.Err() == nil && w.next(ctx) {
		}
	}
}

// web is the state of the fallback.
type web struct {
	*Get
	buf    []byte
	active bool      // the last piece came by HTTP
	told   time.Time // of the last trouble
	idle   time.Time // of the last piece, or since when nothing is wanted from the seeder
}

// next fetches a piece if nobody sends any; it returns false if there is nothing to do for
// now.
func (w *web) next(ctx context.Context) bool {
	want := w.wanted()
	w.mu.Lock()
	seeder, hold := w.upstream.id.IsZero(), w.advice.Hold != 0
	away, urgent := w.urgent()
	w.mu.Unlock()
	useful := time.Unix(0, w.useful.Load())
	wait := 3 * time.Second
	if w.active && useful.Before(w.idle) {
		wait = 0
	}
	if urgent {
		want, wait = away, 500*time.Millisecond
	}
	if want < 0 || (!seeder || hold) && !urgent || min(time.Since(useful), time.Since(w.idle)) < wait {
		if want < 0 || !seeder {
			w.idle = time.Now()
		}
		w.active = w.active && time.Since(useful) >= time.Second
		return false
	}
	if !w.active {
		w.active = true
		w.event(Event{Event: "fallback", URL: w.server.Redacted()})
	}
	w.buf = slices.Grow(w.buf[:0], int(w.t.Info.PieceLength))
	err := w.fetchPiece(ctx, want, w.buf[:w.t.PieceSize(want)])
	if err == nil {
		w.idle = time.Now()
	} else if ctx.Err() == nil {
		w.trouble(err)
	}
	return err == nil
}

// trouble reports an error, now and then.
func (w *web) trouble(err error) {
	if time.Since(w.told) > troubleTime {
		w.told = time.Now()
		w.event(Event{Event: "trouble", Why: printable.Short(err.Error(), 300)})
	}
}

// urgent returns a piece that a reader waits for and that left the ring, or is far ahead of
// the others. g is locked.
func (g *Get) urgent() (piece int, ok bool) {
	for p := range g.wants {
		if r := g.rank[p]; r < g.next || r > g.next+64 {
			if there, _ := g.store.state(p); !there {
				piece, ok = p, true
			}
		}
	}
	return piece, ok
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
