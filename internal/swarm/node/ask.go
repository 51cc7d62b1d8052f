package node

import (
	"context"
	"encoding/hex"
	"errors"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/anacrolix/torrent"
	"github.com/anacrolix/torrent/bencode"

	"github.com/mkcdrec/mkcdrec/internal/printable"
	"github.com/mkcdrec/mkcdrec/internal/swarm/chain"
)

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

// leave reports to the tracker that this machine leaves.
func (g *Get) leave() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_, _ = g.ask(ctx, true)
}

// take makes the peer of the advice the one to take from.
// over reports whether the report said that it wants no more.
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
