// Package sim runs the chain of internal/swarm/chain with modelled machines and
// links, in simulated time. It moves no bytes: what a machine and a hop cost is given
// to it, as measured on real ones.
package sim

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/swarm/chain"
)

// Machine is how one machine behaves.
type Machine struct {
	Joins    time.Duration
	Subnet   byte
	Down, Up float64       // bytes a second that it can receive and send
	Dies     time.Duration // 0: never. It says nothing and closes nothing, as without power
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
	// and the chain is a new one afterwards. The seeder goes on only if SeederStays.
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

// Run simulates.
func Run(c Config) Result {
	pieces := int((c.Bytes + c.Piece - 1) / c.Piece)
	c.Chain.Pieces = pieces
	zero := time.Unix(1_000_000, 0)
	line := chain.New(c.Chain, zero)
	r := Result{Machines: make([]Outcome, len(c.Machines))}
	rnd := rand.New(rand.NewPCG(1, 2))
	var nodes []*node
	byID, byAddr := map[chain.ID]*node{}, map[netip.AddrPort]*node{}
	for i, m := range c.Machines {
		n := &node{Machine: m, i: i, addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, m.Subnet, byte(0), 0}), 6881), hasAt: make([]time.Duration, pieces)}
		n.addr = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, m.Subnet, byte(i >> 8), byte(i)}), 6881)
		binary.BigEndian.PutUint64(n.id[12:], uint64(i)+1)
		n.next = m.Joins + time.Duration(i)*c.Step
		nodes = append(nodes, n)
		byID[n.id], byAddr[n.addr] = n, n
	}
	sent := 0.0
	connect := func(n *node, now time.Duration, p *node, seeder bool) {
		if n.from == p && n.seeder == seeder {
			return
		}
		n.from, n.seeder, n.ready, n.lastGot = p, seeder, now+c.Connect, now
		name := "seeder"
		if p != nil {
			name = fmt.Sprint(p.i)
		} else if !seeder {
			name = "-"
		}
		r.Machines[n.i].From = append(r.Machines[n.i].From, name)
	}
	down := func(now time.Duration) bool {
		return c.ServerDown[1] > 0 && now >= c.ServerDown[0] && now < c.ServerDown[1]
	}
	wasDown := false
	takers, count := make([]int, len(nodes)), make([]int, len(nodes))

	for now := time.Duration(0); now < c.Limit; now += c.Step {
		if d := down(now); d != wasDown {
			if wasDown = d; !d {
				line = chain.New(c.Chain, zero.Add(now))
			}
		}
		for _, e := range line.Events() {
			r.Events = append(r.Events, Event{now, e})
		}
		left := 0
		for _, n := range nodes {
			if !n.up(now) {
				if !n.left && n.Joins > now && n.Dies == 0 {
					left++
				}
				continue
			}
			if !n.done {
				left++
			}
			// Whom it took from is gone, or sends nothing of what it has. One that itself has
			// no more is not silent.
			if n.from != nil && n.from.up(now) && n.from.pieces <= n.pieces {
				n.lastGot = now
			}
			if n.from != nil && n.why == chain.None && !n.done {
				switch {
				case !n.from.up(now) && (n.from.left || n.from.Closes):
					n.failed, n.why, n.next = n.from.id, chain.Unreachable, now
				case now-n.lastGot > c.Silent && now > n.ready:
					n.failed, n.why, n.next = n.from.id, chain.Silent, now
				}
				if n.why != chain.None && down(now) { // no advice: the next that is known
					next := (*node)(nil)
					for _, a := range n.backup {
						if b := byAddr[a]; b.up(now) && b != n.from {
							next = b
							break
						}
					}
					n.backup = nil
					connect(n, now, next, next == nil && c.SeederStays)
				}
			}
			if now < n.next {
				continue
			}
			if down(now) {
				n.next = now + time.Second
				continue
			}
			first := 0
			if n.Keeps > 0 {
				first = max(0, n.pieces-n.Keeps)
			}
			rep := chain.Report{ID: n.id, Addr: n.addr, First: first, Next: n.pieces, Failed: n.failed, Why: n.why}
			if n.from != nil {
				rep.From = n.from.id
			}
			a, err := line.Report(zero.Add(now), rep)
			n.failed, n.why = chain.ID{}, chain.None
			if err != nil {
				n.next = now + 10*time.Second
				continue
			}
			n.needed = a.Needed
			n.next = now + a.Every + time.Duration(rnd.Int64N(int64(100*time.Millisecond)))
			if n.done {
				if n.Leaves && !n.needed {
					n.left = true
					_, _ = line.Report(zero.Add(now), chain.Report{ID: n.id, Addr: n.addr, Next: n.pieces, Leaves: true})
				}
				continue
			}
			if a.Keep {
				continue
			}
			n.backup = a.Backup
			if a.Hold {
				connect(n, now, nil, false)
			} else if p := byID[a.From]; p != nil {
				connect(n, now, p, false)
			} else {
				connect(n, now, nil, true)
			}
		}
		if left == 0 {
			r.Elapsed = now
			break
		}
		// Who takes from whom now, and how much of each uplink is taken.
		fromSeeder := 0
		clear(takers)
		clear(count)
		active := func(n *node) bool { return n.up(now) && !n.done && now >= n.ready }
		for _, n := range nodes {
			if !active(n) {
				continue
			}
			if n.seeder {
				fromSeeder++
			} else if n.from != nil && n.from.up(now) && n.from.pieces > n.pieces {
				takers[n.from.i]++
				if n.Down >= n.from.Up {
					count[n.from.i]++
				}
			}
		}
		for _, k := range count {
			r.Most = max(r.Most, k)
		}
		r.SeederMax = max(r.SeederMax, fromSeeder)
		seconds := c.Step.Seconds()
		seederUp := !down(now) || c.SeederStays
		for _, n := range nodes {
			if !active(n) {
				continue
			}
			amount := n.Down * seconds
			limit := c.Bytes
			switch {
			case n.seeder && seederUp:
				amount = min(amount, c.SeederUp*seconds/float64(fromSeeder))
			case n.from != nil && n.from.up(now) && takers[n.from.i] > 0:
				if n.from.Lies && n.from.pieces > n.pieces {
					n.failed, n.why, n.next = n.from.id, chain.Wrong, now
					continue
				}
				amount = min(amount, n.from.Up*seconds/float64(takers[n.from.i]))
				k := n.from.pieces // that were whole for at least Hop
				for k > n.pieces && now-n.from.hasAt[k-1] < c.Hop {
					k--
				}
				limit = min(c.Bytes, float64(k)*c.Piece)
				if n.from.Keeps > 0 && n.pieces < n.from.pieces-n.from.Keeps {
					limit = n.got
				}
			default:
				amount = 0
			}
			if amount = min(amount, limit-n.got); amount <= 0 {
				continue
			}
			if n.seeder {
				sent += amount
			}
			n.got += amount
			o := &r.Machines[n.i]
			if n.began {
				o.Worst = max(o.Worst, now-n.progress)
			}
			n.lastGot, n.progress, n.began = now, now, true
			for n.pieces < pieces && (n.got >= float64(n.pieces+1)*c.Piece-1e-6 || n.got >= c.Bytes-1e-6) {
				n.hasAt[n.pieces] = now
				n.pieces++
			}
			o.Pieces = n.pieces
			if n.pieces == pieces {
				n.done, o.Done, n.next = true, now, now
			}
		}
	}
	r.Seeder = sent / c.Bytes
	return r
}
