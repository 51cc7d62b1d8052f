// Package tracker is the server's side of the swarm: an HTTP tracker (BEP 3, BEP 23)
// for one torrent. Our clients are told whom to take from, by internal/swarm/chain;
// any other BitTorrent client gets a list of peers. It also gives the torrent itself
// and the set's files, with ranges, for those that no peer serves.
//
// Our clients add mkcdrec=1 to an announce, with first and next (the pieces of the order
// that they have), from and failed (peer ids in hex) and why (1 unreachable, 2 silent,
// 3 wrong), and done=1 when they want no more. The answer has a dictionary "mkcdrec": addr ("" for the seeder), from, backup
// (list), keep, hold, needed (0 or 1), every (milliseconds), and seeder, the seeder's
// address.
package tracker

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/swarm/chain"
)

// Bounds of what others can make the tracker remember or answer.
const (
	maxPeers  = 2048 // ordinary clients
	maxQuery  = 4096 // bytes
	maxAnswer = 50   // peers
	// interval is when ordinary clients announce again; one that has been silent for twice
	// as long is forgotten.
	interval = 60 * time.Second
)

// Tracker answers for one torrent. It implements http.Handler for /announce, /scrape
// and /machines.
type Tracker struct {
	hash   [20]byte
	seeder func(local netip.Addr) netip.AddrPort
	seedID chain.ID
	now    func() time.Time
	notify func(chain.Event)

	mu    sync.Mutex
	chain *chain.Chain
	peers map[chain.ID]peer
}

type peer struct {
	addr netip.AddrPort
	left bool // it does not have everything
	seen time.Time
}

// Options of New.
type Options struct {
	Hash   [20]byte
	SeedID chain.ID
	// Seeder is where the seeder takes BitTorrent connections. Without an address it is the
	// one by which a client reaches the tracker.
	Seeder netip.AddrPort
	Chain  chain.Config
	// Notify is told of events, one at a time; nil for nobody.
	Notify func(chain.Event)
	// Now is the clock; nil for time.Now.
	Now func() time.Time
}

// New makes a tracker.
func New(o Options) *Tracker {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Notify == nil {
		o.Notify = func(chain.Event) {}
	}
	return &Tracker{
		hash: o.Hash, seedID: o.SeedID, now: o.Now, notify: o.Notify, chain: chain.New(o.Chain, o.Now()), peers: map[chain.ID]peer{},
		seeder: func(local netip.Addr) netip.AddrPort {
			if a := o.Seeder.Addr(); a.IsValid() && !a.IsUnspecified() {
				return o.Seeder
			}
			return netip.AddrPortFrom(local, o.Seeder.Port())
		},
	}
}

// announce is a request.
type announce struct {
	id      chain.ID
	addr    netip.AddrPort
	left    int64
	stopped bool
	compact bool
	noID    bool
	want    int
	ours    bool
	report  chain.Report
}

// parse reads an announce. The address is that of the connection: what a client reports of
// its address is not believed.
func (t *Tracker) parse(query string, remote string) (announce, error) {
	var a announce
	if len(query) > maxQuery {
		return a, errors.New("the request is too long")
	}
	v, err := url.ParseQuery(query)
	if err != nil {
		return a, errors.New("the request cannot be read")
	}
	if v.Get("info_hash") != string(t.hash[:]) {
		return a, errors.New("unknown info_hash")
	}
	if id := v.Get("peer_id"); len(id) != 20 {
		return a, errors.New("peer_id does not have 20 bytes")
	} else {
		copy(a.id[:], id)
	}
	host, err := netip.ParseAddrPort(remote)
	if err != nil {
		return a, errors.New("the address of the connection is unknown")
	}
	port, err := strconv.ParseUint(v.Get("port"), 10, 16)
	if err != nil || port == 0 {
		return a, errors.New("port is not a number from 1 to 65535")
	}
	a.addr = netip.AddrPortFrom(host.Addr().Unmap().WithZone(""), uint16(port))
	a.left = 1
	if s := v.Get("left"); s != "" {
		if a.left, err = strconv.ParseInt(s, 10, 64); err != nil || a.left < 0 {
			return a, errors.New("left is not a number of bytes")
		}
	}
	a.stopped = v.Get("event") == "stopped"
	a.compact, a.noID = v.Get("compact") == "1", v.Get("no_peer_id") == "1"
	a.want = maxAnswer
	if n, err := strconv.Atoi(v.Get("numwant")); err == nil && n >= 0 && n < a.want {
		a.want = n
	}
	if v.Get("mkcdrec") != "1" {
		return a, nil
	}
	a.ours = true
	return a, a.readReport(v)
}

// readReport reads what only our own client sends.
func (a *announce) readReport(v url.Values) (err error) {
	a.report = chain.Report{ID: a.id, Addr: a.addr, Leaves: a.stopped, Done: v.Get("done") == "1"}
	for k, p := range map[string]*int{"first": &a.report.First, "next": &a.report.Next, "why": (*int)(&a.report.Why)} {
		if s := v.Get(k); s != "" {
			if *p, err = strconv.Atoi(s); err != nil || *p < 0 {
				return fmt.Errorf("%s is not a number", k)
			}
		}
	}
	if a.report.Why > chain.Wrong {
		return errors.New("why is not a number from 0 to 3")
	}
	for k, p := range map[string]*chain.ID{"from": &a.report.From, "failed": &a.report.Failed} {
		if s := v.Get(k); s != "" {
			b, err := hex.DecodeString(s)
			if err != nil || len(b) != 20 {
				return fmt.Errorf("%s is not a peer id in hex", k)
			}
			copy(p[:], b)
		}
	}
	return nil
}

// ServeHTTP implements http.Handler.
func (t *Tracker) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/announce":
		w.Header().Set("Content-Type", "text/plain")
		a, err := t.parse(r.URL.RawQuery, r.RemoteAddr)
		var b []byte
		if err == nil {
			b, err = t.answer(a, local(r))
		}
		if err != nil { // BEP 3: with status 200
			b = failure(err.Error())
		}
		_, _ = w.Write(b)
	case "/scrape": // BEP 48
		w.Header().Set("Content-Type", "text/plain")
		t.mu.Lock()
		complete, incomplete := t.count(t.now())
		t.mu.Unlock()
		var b bytes.Buffer
		b.WriteString("d5:filesd")
		text(&b, string(t.hash[:]))
		fmt.Fprintf(&b, "d8:completei%de10:downloadedi0e10:incompletei%deeee", complete, incomplete)
		_, _ = w.Write(b.Bytes())
	case "/machines":
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(t.Machines())
	default:
		http.NotFound(w, r)
	}
}

// local is the server's address as the client sees it.
func local(r *http.Request) netip.Addr {
	if a, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		if ap, err := netip.ParseAddrPort(a.String()); err == nil {
			return ap.Addr().Unmap()
		}
	}
	return netip.Addr{}
}

// Machine is a machine of the chain in JSON.
type Machine struct {
	Addr     string  `json:"addr"`
	From     string  `json:"from"` // "" for the seeder
	Next     int     `json:"pieces"`
	Slow     bool    `json:"slow,omitempty"`
	Banned   bool    `json:"banned,omitempty"`
	Complete bool    `json:"complete,omitempty"`
	Silence  float64 `json:"silence"` // seconds
}

// Machines lists the chain.
func (t *Tracker) Machines() []Machine {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := []Machine{}
	for _, m := range t.chain.Members(t.now()) {
		o := Machine{Addr: m.Addr.String(), Next: m.Next, Slow: m.Slow, Banned: m.Banned, Complete: m.Complete, Silence: m.Silence.Seconds()}
		if m.From.IsValid() {
			o.From = m.From.String()
		}
		out = append(out, o)
	}
	return out
}

func (t *Tracker) answer(a announce, here netip.Addr) ([]byte, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	if !a.ours {
		return t.ordinary(now, a, here)
	}
	advice, err := t.chain.Report(now, a.report)
	for _, e := range t.chain.Events() {
		t.notify(e)
	}
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	flag := func(f bool) string {
		if f {
			return "i1e"
		}
		return "i0e"
	}
	every := max(advice.Every, time.Millisecond)
	fmt.Fprintf(&b, "d8:intervali%de7:mkcdrecd", max(1, int(every.Seconds())))
	addr, from := "", ""
	if advice.Addr.IsValid() {
		addr, from = advice.Addr.String(), string(advice.From[:])
	}
	text(&b, "addr", addr)
	b.WriteString("6:backupl")
	for _, p := range advice.Backup {
		text(&b, p.String())
	}
	if addr == "" {
		t.complete(&b, now, a.id)
	}
	fmt.Fprintf(&b, "e5:everyi%de", every.Milliseconds())
	text(&b, "from", from)
	b.WriteString("4:hold" + flag(advice.Hold) + "4:keep" + flag(advice.Keep) + "6:needed" + flag(advice.Needed))
	seeder := ""
	if s := t.seeder(here); s.IsValid() && s.Port() != 0 {
		seeder = s.String()
	}
	text(&b, "seeder", seeder)
	b.WriteString("e5:peers0:e")
	return b.Bytes(), nil
}

// complete writes the addresses of three ordinary clients that have everything.
func (t *Tracker) complete(b *bytes.Buffer, now time.Time, but chain.ID) {
	more := 3
	for id, p := range t.peers {
		if more > 0 && !p.left && id != but && now.Sub(p.seen) < 2*interval {
			text(b, p.addr.String())
			more--
		}
	}
}

// ordinary answers any BitTorrent client: with the seeder, and some of the others.
func (t *Tracker) ordinary(now time.Time, a announce, here netip.Addr) ([]byte, error) {
	if err := t.admit(now, a); err != nil {
		return nil, err
	}
	var others []other
	for id, p := range t.peers {
		if id != a.id && p.addr != a.addr {
			others = append(others, other{id, p.addr})
		}
	}
	complete, incomplete := t.count(now)
	for _, m := range t.chain.Members(now) {
		if m.Addr != a.addr && !m.Banned && m.Silence < 10*time.Second {
			others = append(others, other{m.ID, m.Addr})
		}
	}
	slices.SortFunc(others, func(x, y other) int { return bytes.Compare(x.id[:], y.id[:]) })
	rand.Shuffle(len(others), func(i, j int) { others[i], others[j] = others[j], others[i] })
	if s := t.seeder(here); s.IsValid() && s.Port() != 0 {
		others = slices.Insert(others, 0, other{t.seedID, s})
	}
	others = others[:min(len(others), a.want)]
	if a.stopped {
		others = nil
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "d8:completei%de10:incompletei%de8:intervali%de12:min intervali5e5:peers", complete, incomplete, int(interval.Seconds()))
	a.list(&b, others)
	return b.Bytes(), nil
}

// other is a peer that another one is told of.
type other struct {
	id   chain.ID
	addr netip.AddrPort
}

// admit notes the peer, or that it left, and forgets those that are silent.
func (t *Tracker) admit(now time.Time, a announce) error {
	for id, p := range t.peers {
		if now.Sub(p.seen) > 2*interval {
			delete(t.peers, id)
		}
	}
	old, known := t.peers[a.id]
	switch {
	case known && old.addr.Addr() != a.addr.Addr():
		return errors.New("the peer id belongs to another machine")
	case a.stopped:
		delete(t.peers, a.id)
	case known || len(t.peers) < maxPeers:
		t.peers[a.id] = peer{a.addr, a.left > 0, now}
	default:
		return errors.New("the tracker has as many peers as it can")
	}
	return nil
}

// list writes peers in the form that was asked for, and the end of the answer.
func (a *announce) list(b *bytes.Buffer, others []other) {
	if !a.compact {
		b.WriteString("l")
		for _, p := range others {
			b.WriteString("d")
			text(b, "ip", p.addr.Addr().String())
			if !a.noID {
				text(b, "peer id", string(p.id[:]))
			}
			fmt.Fprintf(b, "4:porti%dee", p.addr.Port())
		}
		b.WriteString("ee")
		return
	}
	var v4, v6 bytes.Buffer
	for _, p := range others {
		to := &v6
		if p.addr.Addr().Is4() {
			to = &v4
		}
		to.Write(p.addr.Addr().AsSlice())
		to.Write([]byte{byte(p.addr.Port() >> 8), byte(p.addr.Port())})
	}
	text(b, v4.String())
	if v6.Len() > 0 {
		text(b, "peers6", v6.String())
	}
	b.WriteString("e")
}

// count counts who has everything, the seeder too, and who lacks something. mu is held.
func (t *Tracker) count(now time.Time) (complete, incomplete int) {
	complete = 1
	for _, p := range t.peers {
		if p.left {
			incomplete++
		} else {
			complete++
		}
	}
	for _, m := range t.chain.Members(now) {
		if m.Complete {
			complete++
		} else {
			incomplete++
		}
	}
	return complete, incomplete
}

// text writes bencoded strings.
func text(b *bytes.Buffer, s ...string) {
	for _, s := range s {
		fmt.Fprintf(b, "%d:%s", len(s), s)
	}
}

func failure(reason string) []byte {
	var b bytes.Buffer
	b.WriteString("d")
	text(&b, "failure reason", reason)
	b.WriteString("e")
	return b.Bytes()
}
