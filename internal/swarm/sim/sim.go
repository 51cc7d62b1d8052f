// Package sim runs the chain of internal/swarm/chain with modelled machines and
// links, in simulated time. It moves no bytes: what a machine and a hop cost is given
// to it, as measured on real ones.
package sim

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/swarm/chain"
)

// Machine is how one machine behaves.
type Machine struct {
	Joins    time.Duration
	Subnet   byte
	Down, Up float64       // bytes a second that it can receive and send
	Dies     time.Duration // 0: never. It sends nothing and closes nothing, as without power
	Closes   bool          // its connections are closed when it dies: it was killed
	Leaves   bool          // leaves when it has everything and nobody needs it
	Keeps    int           // pieces that it keeps; 0: all
	Lies     bool          // what it sends has another SHA-1
}

// Config is what is simulated.
type Config struct {
	Bytes, Piece float64
	SeederUp     float64
	Hop          time.Duration // from a piece being whole to the next machine receiving its first byte
	Connect      time.Duration // from advice of another peer to the first byte
	Silent       time.Duration // after which a machine reports that nothing comes
	Step         time.Duration
	Limit        time.Duration // the simulation ends then
	Chain        chain.Config
	Machines     []Machine
	// ServerDown, if not 0: from ServerDown[0] to ServerDown[1] no report is answered,
	// and the chain is a new one afterwards. The seeder continues only if SeederStays.
	ServerDown  [2]time.Duration
	SeederStays bool
}

// Outcome is what became of a machine.
type Outcome struct {
	Done   time.Duration // since the start of the simulation; 0: never
	Worst  time.Duration // the longest time without progress after its first byte
	From   []string      // whom it took from, one after the other
	Pieces int
}

// Result is that of a simulation.
type Result struct {
	Machines  []Outcome
	Seeder    float64 // bytes sent, in copies
	Events    []Event
	Most      int // machines that took from one machine at once, but slow ones
	Elapsed   time.Duration
	SeederMax int // machines that took from the seeder at once
}

// Event is one of the chain's, with its time.
type Event struct {
	At time.Duration
	chain.Event
}

func (e Event) String() string { return fmt.Sprintf("%.1f s: %v", e.At.Seconds(), e.Event) }

type node struct {
	Machine
	i        int
	id       chain.ID
	addr     netip.AddrPort
	got      float64 // bytes in order
	pieces   int
	from     *node // nil: the seeder or nobody
	seeder   bool
	ready    time.Duration // the connection works from then on
	next     time.Duration // report
	failed   chain.ID
	why      chain.Failure
	lastGot  time.Duration
	began    bool
	done     bool
	left     bool
	hasAt    []time.Duration // when the piece became whole
	needed   bool
	backup   []netip.AddrPort
	progress time.Duration
}

func (n *node) up(now time.Duration) bool {
	return n.Joins <= now && !n.left && (n.Dies == 0 || now < n.Dies)
}

// world is a simulation at the time now.
type world struct {
	Config
	now    time.Duration
	pieces int
	zero   time.Time
	line   *chain.Chain
	rnd    *rand.Rand
	nodes  []*node
	byID   map[chain.ID]*node
	byAddr map[netip.AddrPort]*node
	sent   float64 // by the seeder, bytes
	r      Result
}

// Run simulates.
func Run(c Config) Result {
	w := newWorld(c)
	wasDown := false
	for ; w.now < c.Limit; w.now += c.Step {
		if d := w.down(); d != wasDown {
			if wasDown = d; !d {
				w.line = chain.New(w.Chain, w.zero.Add(w.now))
			}
		}
		for _, e := range w.line.Events() {
			w.r.Events = append(w.r.Events, Event{w.now, e})
		}
		left := 0
		for _, n := range w.nodes {
			if w.awaited(n) {
				left++
			}
			if n.up(w.now) {
				w.look(n)
				w.report(n)
			}
		}
		if left == 0 {
			w.r.Elapsed = w.now
			break
		}
		w.transfer()
	}
	w.r.Seeder = w.sent / c.Bytes
	return w.r
}

func newWorld(c Config) *world {
	w := &world{Config: c, pieces: int((c.Bytes + c.Piece - 1) / c.Piece), zero: time.Unix(1_000_000, 0), rnd: rand.New(rand.NewPCG(1, 2)),
		byID: map[chain.ID]*node{}, byAddr: map[netip.AddrPort]*node{}, r: Result{Machines: make([]Outcome, len(c.Machines))}}
	w.Chain.Pieces = w.pieces
	w.line = chain.New(w.Chain, w.zero)
	for i, m := range c.Machines {
		n := &node{Machine: m, i: i, addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, m.Subnet, byte(i >> 8), byte(i)}), 6881), hasAt: make([]time.Duration, w.pieces)}
		binary.BigEndian.PutUint64(n.id[12:], uint64(i)+1)
		n.next = m.Joins + time.Duration(i)*c.Step
		w.nodes = append(w.nodes, n)
		w.byID[n.id], w.byAddr[n.addr] = n, n
	}
	return w
}

// down reports whether the server answers no report now.
func (w *world) down() bool {
	return w.ServerDown[1] > 0 && w.now >= w.ServerDown[0] && w.now < w.ServerDown[1]
}

// awaited reports whether the simulation has to go on for a machine.
func (w *world) awaited(n *node) bool {
	if !n.up(w.now) {
		return !n.left && n.Joins > w.now && n.Dies == 0
	}
	return !n.done
}

// connect has a machine take from p, from the seeder, or from nobody.
func (w *world) connect(n, p *node, seeder bool) {
	if n.from == p && n.seeder == seeder {
		return
	}
	n.from, n.seeder, n.ready, n.lastGot = p, seeder, w.now+w.Connect, w.now
	name := "seeder"
	if p != nil {
		name = fmt.Sprint(p.i)
	} else if !seeder {
		name = "-"
	}
	w.r.Machines[n.i].From = append(w.r.Machines[n.i].From, name)
}

// look has a machine notice that the one it takes from is missing, or sends nothing of what
// it has.
func (w *world) look(n *node) {
	if n.from == nil {
		return
	}
	// One that itself has no more is not silent.
	if n.from.up(w.now) && n.from.pieces <= n.pieces {
		n.lastGot = w.now
	}
	if n.why != chain.None || n.done {
		return
	}
	switch {
	case !n.from.up(w.now) && (n.from.left || n.from.Closes):
		n.failed, n.why, n.next = n.from.id, chain.Unreachable, w.now
	case w.now-n.lastGot > w.Silent && w.now > n.ready:
		n.failed, n.why, n.next = n.from.id, chain.Silent, w.now
	}
	if n.why != chain.None && w.down() { // no advice: the next that is known
		next := n.spare(w)
		n.backup = nil
		w.connect(n, next, next == nil && w.SeederStays)
	}
}

// spare is the first machine of the backup that can be reached, or nil.
func (n *node) spare(w *world) *node {
	for _, a := range n.backup {
		if b := w.byAddr[a]; b.up(w.now) && b != n.from {
			return b
		}
	}
	return nil
}

// report has a machine report, when it is time, and follow the advice.
func (w *world) report(n *node) {
	if w.now < n.next {
		return
	}
	if w.down() {
		n.next = w.now + time.Second
		return
	}
	rep := chain.Report{ID: n.id, Addr: n.addr, Next: n.pieces, Failed: n.failed, Why: n.why}
	if n.Keeps > 0 {
		rep.First = max(0, n.pieces-n.Keeps)
	}
	if n.from != nil {
		rep.From = n.from.id
	}
	a, err := w.line.Report(w.zero.Add(w.now), rep)
	n.failed, n.why = chain.ID{}, chain.None
	if err != nil {
		n.next = w.now + 10*time.Second
		return
	}
	n.needed = a.Needed
	n.next = w.now + a.Every + time.Duration(w.rnd.Int64N(int64(100*time.Millisecond)))
	if n.done {
		if n.Leaves && !n.needed {
			n.left = true
			_, _ = w.line.Report(w.zero.Add(w.now), chain.Report{ID: n.id, Addr: n.addr, Next: n.pieces, Leaves: true})
		}
		return
	}
	if a.Keep {
		return
	}
	n.backup = a.Backup
	p := w.byID[a.From]
	if a.Hold {
		p = nil
	}
	w.connect(n, p, p == nil && !a.Hold)
}

func (w *world) active(n *node) bool { return n.up(w.now) && !n.done && w.now >= n.ready }

// transfer moves the bytes of one step.
func (w *world) transfer() {
	fromSeeder, takers := w.takers()
	seconds := w.Step.Seconds()
	for _, n := range w.nodes {
		if !w.active(n) {
			continue
		}
		amount, limit := 0.0, w.Bytes
		switch {
		case n.seeder && (!w.down() || w.SeederStays):
			amount = min(n.Down*seconds, w.SeederUp*seconds/float64(fromSeeder))
		case n.from != nil && n.from.up(w.now) && takers[n.from.i] > 0:
			if n.from.Lies && n.from.pieces > n.pieces {
				n.failed, n.why, n.next = n.from.id, chain.Wrong, w.now
				continue
			}
			amount = min(n.Down*seconds, n.from.Up*seconds/float64(takers[n.from.i]))
			limit = w.offered(n)
		}
		if amount = min(amount, limit-n.got); amount > 0 {
			w.receive(n, amount)
		}
	}
}

// takers counts the machines that take from the seeder, and from each other machine.
func (w *world) takers() (fromSeeder int, takers []int) {
	takers = make([]int, len(w.nodes))
	count := make([]int, len(w.nodes)) // those that take as fast as the other sends
	for _, n := range w.nodes {
		if !w.active(n) {
			continue
		}
		if n.seeder {
			fromSeeder++
		} else if n.from != nil && n.from.up(w.now) && n.from.pieces > n.pieces {
			takers[n.from.i]++
			if n.Down >= n.from.Up {
				count[n.from.i]++
			}
		}
	}
	w.r.Most = max(w.r.Most, slices.Max(append(count, 0)))
	w.r.SeederMax = max(w.r.SeederMax, fromSeeder)
	return fromSeeder, takers
}

// offered is up to which byte a machine can get from the one that it takes from.
func (w *world) offered(n *node) float64 {
	if n.from.Keeps > 0 && n.pieces < n.from.pieces-n.from.Keeps {
		return n.got
	}
	k := n.from.pieces // that were whole for at least Hop
	for k > n.pieces && w.now-n.from.hasAt[k-1] < w.Hop {
		k--
	}
	return min(w.Bytes, float64(k)*w.Piece)
}

// receive gives a machine bytes.
func (w *world) receive(n *node, amount float64) {
	if n.seeder {
		w.sent += amount
	}
	n.got += amount
	o := &w.r.Machines[n.i]
	if n.began {
		o.Worst = max(o.Worst, w.now-n.progress)
	}
	n.lastGot, n.progress, n.began = w.now, w.now, true
	for n.pieces < w.pieces && (n.got >= float64(n.pieces+1)*w.Piece-1e-6 || n.got >= w.Bytes-1e-6) {
		n.hasAt[n.pieces] = w.now
		n.pieces++
	}
	o.Pieces = n.pieces
	if n.pieces == w.pieces {
		n.done, o.Done, n.next = true, w.now, w.now
	}
}
