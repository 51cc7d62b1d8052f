package chain_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/swarm/chain"
	"github.com/mkcdrec/mkcdrec/internal/swarm/sim"
)

var zero = time.Unix(1_000_000, 0)

func id(i int) chain.ID { return chain.ID{0: 'x', 18: byte(i >> 8), 19: byte(i)} }

func addr(subnet, i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(subnet), byte(i)}), 6881)
}

// report is a report that must be taken.
func report(t *testing.T, c *chain.Chain, now time.Duration, r chain.Report) chain.Advice {
	t.Helper()
	a, err := c.Report(zero.Add(now), r)
	if err != nil {
		t.Fatalf("at %v: Report(%+v) = %v", now, r, err)
	}
	return a
}

// TestSubnets: machines stand by subnet, then in the order of their arrival.
func TestSubnets(t *testing.T) {
	c := chain.New(chain.Config{Pieces: 100}, zero)
	for i, subnet := range []int{1, 2, 1, 3, 2, 1} {
		report(t, c, time.Duration(i)*time.Millisecond, chain.Report{ID: id(i), Addr: addr(subnet, i)})
	}
	var got []string
	for i, m := range c.Members(zero.Add(time.Second)) {
		got = append(got, m.Addr.Addr().String())
		_ = i
	}
	want := "10.0.1.0 10.0.1.2 10.0.1.5 10.0.2.1 10.0.2.4 10.0.3.3"
	if strings.Join(got, " ") != want {
		t.Errorf("chain = %v; want %s", got, want)
	}
	// Each takes from the one before it.
	for i, up := range map[int]int{2: 0, 5: 2, 1: 5, 4: 1, 3: 4} {
		subnet := []int{1, 2, 1, 3, 2, 1}[i]
		if a := report(t, c, time.Second, chain.Report{ID: id(i), Addr: addr(subnet, i)}); a.From != id(up) {
			t.Errorf("%d takes from %v; want %d", i, a.From, up)
		}
	}
	if a := report(t, c, time.Second, chain.Report{ID: id(0), Addr: addr(1, 0)}); !a.From.IsZero() {
		t.Errorf("the first takes from %v; want the seeder", a.From)
	}
	// Once the others have begun, a new one goes to the end.
	for i, subnet := range []int{1, 2, 1, 3, 2, 1} {
		report(t, c, 2*time.Second, chain.Report{ID: id(i), Addr: addr(subnet, i), Next: 20})
	}
	if a := report(t, c, 2*time.Second, chain.Report{ID: id(9), Addr: addr(1, 9)}); a.From != id(3) {
		t.Errorf("a latecomer takes from %v; want the last", a.From)
	}
}

// TestAgain: after a restart of the server machines report in any order, and stand as
// before, also when all have the same pieces.
func TestAgain(t *testing.T) {
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		c := chain.New(chain.Config{Pieces: 100}, zero)
		n := 2 + rnd.IntN(8)
		base, step := 10+rnd.IntN(50), rnd.IntN(2)
		rep := func(i int) chain.Report {
			r := chain.Report{ID: id(i + 1), Addr: addr(1, i), Next: base - i*step}
			if i > 0 {
				r.From = id(i)
			}
			return r
		}
		for round := range 3 {
			for _, i := range rnd.Perm(n) {
				now := time.Duration(round)*time.Second + time.Duration(rnd.IntN(900))*time.Millisecond
				a := report(t, c, now, rep(i))
				if !a.Keep && a.From != rep(i).From {
					t.Fatalf("seed %d, round %d: %d of %d takes from %v; want %v", seed, round, i, n, a.From, rep(i).From)
				}
			}
		}
	}
}

// TestNoMore: a machine that wants no more is needed as long as another takes from it what
// it has, and is told to take from nobody.
func TestNoMore(t *testing.T) {
	c := chain.New(chain.Config{Pieces: 100}, zero)
	a, b := chain.Report{ID: id(1), Addr: addr(1, 1)}, chain.Report{ID: id(2), Addr: addr(1, 2)}
	for s := range 4 {
		a.Next, b.Next = 5*s, max(0, 5*s-1)
		report(t, c, time.Duration(s)*time.Second, a)
		if got := report(t, c, time.Duration(s)*time.Second, b); got.From != a.ID || got.Needed {
			t.Fatalf("the second: %+v", got)
		}
	}
	a.Done = true
	if got := report(t, c, 4*time.Second, a); !got.Needed || !got.From.IsZero() {
		t.Errorf("the first, done: %+v; want needed", got)
	}
	b.Next = a.Next
	if got := report(t, c, 4*time.Second, b); !got.From.IsZero() {
		t.Errorf("the second, which has all of the first: %+v; want the seeder", got)
	}
	if got := report(t, c, 5*time.Second, a); got.Needed {
		t.Error("the first is needed when nobody takes from it")
	}
	for s := 6; s < 40; s++ {
		report(t, c, time.Duration(s)*time.Second, a)
		b.Next = min(100, b.Next+5)
		report(t, c, time.Duration(s)*time.Second, b)
	}
	for _, e := range c.Events() {
		if e.Kind != "joined" && e.Kind != "complete" {
			t.Errorf("event %s", e)
		}
	}
}

// TestReports: what contradicts itself is refused, and changes nothing.
func TestReports(t *testing.T) {
	c := chain.New(chain.Config{Pieces: 100, Members: 3}, zero)
	good := chain.Report{ID: id(1), Addr: addr(1, 1)}
	report(t, c, 0, good)
	for name, r := range map[string]chain.Report{
		"no id":                {Addr: addr(1, 1)},
		"no port":              {ID: id(2), Addr: netip.AddrPortFrom(addr(1, 1).Addr(), 0)},
		"no address":           {ID: id(2)},
		"negative":             {ID: id(2), Addr: addr(1, 2), First: -1},
		"backwards":            {ID: id(2), Addr: addr(1, 2), First: 5, Next: 3},
		"more than there are":  {ID: id(2), Addr: addr(1, 2), Next: 101},
		"from itself":          {ID: id(2), Addr: addr(1, 2), From: id(2)},
		"reports itself":       {ID: id(2), Addr: addr(1, 2), Failed: id(2), Why: chain.Wrong},
		"another's id":         {ID: id(1), Addr: addr(1, 2)},
		"another's id, leaves": {ID: id(1), Addr: addr(1, 2), Leaves: true},
	} {
		if _, err := c.Report(zero, r); err == nil {
			t.Errorf("%s: it is taken", name)
		}
	}
	report(t, c, 0, chain.Report{ID: id(2), Addr: addr(1, 2)})
	report(t, c, 0, chain.Report{ID: id(3), Addr: addr(1, 3)})
	if _, err := c.Report(zero, chain.Report{ID: id(4), Addr: addr(1, 4)}); err != chain.ErrFull {
		t.Errorf("one more than there is room for: %v", err)
	}
	// The same address with another id: the program was started again.
	report(t, c, 0, chain.Report{ID: id(5), Addr: addr(1, 3)})
	if m := c.Members(zero); len(m) != 3 || m[2].ID != id(5) {
		t.Errorf("after a restart of a client: %v", m)
	}
}

// TestAccusations: only the one that a machine takes from can be reported, one report
// bans nobody, two do, and who reports everybody is not heard.
func TestAccusations(t *testing.T) {
	c := chain.New(chain.Config{Pieces: 100}, zero)
	all := func(now time.Duration, next int, skip int) {
		for i := range 8 {
			if i != skip {
				report(t, c, now, chain.Report{ID: id(i), Addr: addr(1, i), Next: next})
			}
		}
	}
	all(0, 0, -1)
	all(time.Second, 0, -1)
	report(t, c, time.Second, chain.Report{ID: id(5), Addr: addr(1, 5), Failed: id(2), Why: chain.Wrong})
	if e := c.Events(); slices.ContainsFunc(e, func(e chain.Event) bool { return e.Kind == "wrong" }) {
		t.Errorf("a machine reported one that it does not take from: %v", e)
	}
	accuse := func(by, whom int) {
		a := report(t, c, 2*time.Second, chain.Report{ID: id(by), Addr: addr(1, by), Failed: id(whom), Why: chain.Wrong})
		if a.From == id(whom) {
			t.Errorf("%d is told again to take from %d", by, whom)
		}
	}
	accuse(5, 4)
	if m := c.Members(zero.Add(2 * time.Second)); m[7].ID != id(4) || m[7].Banned {
		t.Errorf("after one report: %+v", m[7])
	}
	// 4 is the last now. A new one takes from it, and reports it too.
	all(2*time.Second, 20, -1)
	c.Events()
	report(t, c, 2*time.Second, chain.Report{ID: id(9), Addr: addr(1, 9)})
	m := c.Members(zero.Add(2 * time.Second))
	if m[7].ID != id(9) || m[8].ID != id(4) {
		t.Fatalf("chain = %v", m)
	}
	// One that everybody reports is named with who reported it.
	for _, by := range []int{1, 2, 3} {
		accuse(by, by-1)
	}
	e := fmt.Sprint(c.Events())
	if !strings.Contains(e, "10.0.1.0:6881 wrong (reported by 10.0.1.1:6881)") {
		t.Errorf("events = %s", e)
	}
}

// TestKeep: after a restart of the server, machines keep the peer that they have until
// that one has reported, and the chain is as it was.
func TestKeep(t *testing.T) {
	c := chain.New(chain.Config{Pieces: 100}, zero)
	a := report(t, c, 0, chain.Report{ID: id(2), Addr: addr(1, 2), Next: 30, From: id(1)})
	if !a.Keep {
		t.Errorf("the peer is not known yet: %+v; want keep", a)
	}
	report(t, c, 100*time.Millisecond, chain.Report{ID: id(1), Addr: addr(1, 1), Next: 40, From: id(0)})
	if a := report(t, c, time.Second, chain.Report{ID: id(2), Addr: addr(1, 2), Next: 31, From: id(1)}); a.Keep || a.From != id(1) {
		t.Errorf("advice = %+v; want 1", a)
	}
	// The peer of 1 never comes back.
	if a := report(t, c, 5*time.Second, chain.Report{ID: id(1), Addr: addr(1, 1), Next: 40, From: id(0)}); a.Keep || !a.From.IsZero() {
		t.Errorf("advice = %+v; want the seeder", a)
	}
}

// TestRing: a machine that keeps only a part is asked for that part only.
func TestRing(t *testing.T) {
	c := chain.New(chain.Config{Pieces: 100}, zero)
	report(t, c, 0, chain.Report{ID: id(1), Addr: addr(1, 1), First: 30, Next: 50})
	if a := report(t, c, 0, chain.Report{ID: id(2), Addr: addr(1, 2)}); !a.From.IsZero() {
		t.Errorf("a latecomer takes from %v; want the seeder", a.From)
	}
	if a := report(t, c, 0, chain.Report{ID: id(2), Addr: addr(1, 2), Next: 30}); a.From != id(1) {
		t.Errorf("with 30 pieces it takes from %v; want 1", a.From)
	}
}

// base is a room of n machines on 1 GbE with a file that takes about 60 s.
func base(n int) sim.Config {
	c := sim.Config{Bytes: 7e9, Piece: 1 << 20, SeederUp: 118e6, Hop: 3 * time.Millisecond, Connect: 100 * time.Millisecond, Silent: 2 * time.Second, Step: 4 * time.Millisecond, Limit: 10 * time.Minute}
	for range n {
		c.Machines = append(c.Machines, sim.Machine{Down: 118e6, Up: 118e6})
	}
	return c
}

// TestRooms: what happens in a room, and how the others fare.
func TestRooms(t *testing.T) {
	const alone = 59.5 // seconds
	for _, r := range []struct {
		name   string
		change func(*sim.Config)
		bad    []int   // not among those that are looked at
		last   float64 // at most, relative to alone
		worst  float64 // seconds without progress, at most
		copies float64 // of the seeder, at most
		events string  // there must be such
	}{
		{"nothing", func(*sim.Config) {}, nil, 1.05, 1, 1.03, ""},
		{"one is killed", func(c *sim.Config) { c.Machines[3].Dies, c.Machines[3].Closes = 20*time.Second, true }, []int{3}, 1.05, 1, 1.03, "10.0.0.3:6881 unreachable"},
		{"one loses its power", func(c *sim.Config) { c.Machines[3].Dies = 20 * time.Second }, []int{3}, 1.13, 5, 1.03, "10.0.0.3:6881 dead"},
		{"the first loses its power", func(c *sim.Config) { c.Machines[0].Dies = 20 * time.Second }, []int{0}, 1.13, 5, 1.4, "10.0.0.0:6881 dead"},
		{"three in a row lose their power", func(c *sim.Config) {
			for i := 3; i < 6; i++ {
				c.Machines[i].Dies = 20 * time.Second
			}
		}, []int{3, 4, 5}, 1.13, 5, 1.03, ""},
		{"one receives slowly", func(c *sim.Config) { c.Machines[3].Down = 20e6 }, []int{3}, 1.13, 5, 1.03, "10.0.0.3:6881 slow"},
		{"the first receives slowly", func(c *sim.Config) { c.Machines[0].Down = 20e6 }, []int{0}, 1.2, 5, 1.2, "10.0.0.0:6881 slow"},
		{"one sends slowly", func(c *sim.Config) { c.Machines[3].Up = 20e6 }, []int{3, 4}, 1.2, 5, 1.03, "10.0.0.3:6881 slow"},
		{"two of ten are slow", func(c *sim.Config) { c.Machines[2].Down, c.Machines[6].Down = 10e6, 30e6 }, []int{2, 6}, 1.2, 5, 1.03, ""},
		{"all are equally slow", func(c *sim.Config) {
			for i := range c.Machines {
				c.Machines[i].Down, c.Machines[i].Up = 59e6, 59e6
			}
		}, nil, 2.1, 1, 1.03, ""},
		{"a latecomer", func(c *sim.Config) { c.Machines[9].Joins = 30 * time.Second }, []int{9}, 1.05, 1, 1.03, ""},
		{"they leave when they can", func(c *sim.Config) {
			for i := range c.Machines {
				c.Machines[i].Leaves = true
			}
		}, nil, 1.05, 1, 1.03, ""},
		{"rings of memory", func(c *sim.Config) {
			for i := range c.Machines {
				c.Machines[i].Keeps = 200
			}
		}, nil, 1.05, 1, 1.03, ""},
		{"one sends wrong pieces", func(c *sim.Config) { c.Machines[3].Lies = true }, []int{3}, 1.05, 2, 1.03, "10.0.0.3:6881 wrong"},
		{"the server is started again", func(c *sim.Config) {
			c.ServerDown = [2]time.Duration{20 * time.Second, 26 * time.Second}
		}, nil, 1.25, 9, 1.05, ""},
		{"a machine is killed while the server is down", func(c *sim.Config) {
			c.ServerDown, c.SeederStays = [2]time.Duration{20 * time.Second, 40 * time.Second}, true
			c.Machines[4].Dies, c.Machines[4].Closes = 25*time.Second, true
		}, []int{4}, 1.1, 3, 1.3, ""},
	} {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			c := base(10)
			r.change(&c)
			got := sim.Run(c)
			worst := 0
			for i, m := range got.Machines {
				if slices.Contains(r.bad, i) {
					continue
				}
				if m.Done > got.Machines[worst].Done {
					worst = i
				}
				if m.Done == 0 || m.Done.Seconds() > r.last*alone || m.Worst.Seconds() > r.worst {
					t.Errorf("%d: done after %.1f s with %d pieces, longest wait %.1f s, took from %.100v; want %.1f s, %.1f s", i, m.Done.Seconds(), m.Pieces, m.Worst.Seconds(), fmt.Sprint(m.From), r.last*alone, r.worst)
				}
			}
			if got.Seeder > r.copies {
				t.Errorf("the seeder sent %.2f copies; want at most %.2f", got.Seeder, r.copies)
			}
			if text := fmt.Sprint(got.Events); !strings.Contains(text, r.events) {
				t.Errorf("events = %s; want %s", text, r.events)
			}
			t.Logf("last %.1f s, seeder %.2f copies, longest wait of that one %.1f s", got.Machines[worst].Done.Seconds(), got.Seeder, got.Machines[worst].Worst.Seconds())
		})
	}
}

// TestLatecomers: those who come later take from those who have it, not from the seeder.
func TestLatecomers(t *testing.T) {
	c := base(8)
	for i := 4; i < 8; i++ {
		c.Machines[i].Joins = time.Duration(30+3*i) * time.Second
	}
	got := sim.Run(c)
	for i := 4; i < 8; i++ {
		m := got.Machines[i]
		if d := m.Done - c.Machines[i].Joins; m.Done == 0 || d > 70*time.Second || slices.Contains(m.From, "seeder") {
			t.Errorf("%d took %v, from %v; want at most 70 s, and nothing from the seeder", i, d, m.From)
		}
	}
	// All others have left: the seeder.
	c = base(3)
	for i := range c.Machines {
		c.Machines[i].Leaves = true
	}
	c.Machines[2].Joins = 100 * time.Second
	if m := sim.Run(c).Machines[2]; m.Done == 0 || len(m.From) != 1 || m.From[0] != "seeder" {
		t.Errorf("the last of all: %+v", m)
	}
}

// check tells whether the chain keeps its promises.
func check(t *testing.T, c *chain.Chain, now time.Time) {
	t.Helper()
	from := map[netip.AddrPort]netip.AddrPort{}
	slow := false
	for _, m := range c.Members(now) {
		if _, ok := from[m.Addr]; ok {
			t.Fatalf("%v is there twice", m.Addr)
		}
		if slow && !m.Slow {
			t.Fatalf("%v is behind a slow one and is not slow", m.Addr)
		}
		slow = slow || m.Slow
		from[m.Addr] = m.From
	}
}

// run feeds a chain with reports made of random numbers.
func run(t *testing.T, next func() byte, steps int) {
	c := chain.New(chain.Config{Pieces: 60, Members: 20}, zero)
	now := time.Duration(0)
	var has [32]int
	for range steps {
		i, op, x := int(next())%32, next(), next()
		now += time.Duration(next()) * 8 * time.Millisecond
		r := chain.Report{ID: id(i), Addr: addr(i%3, i)}
		switch op % 8 {
		case 0:
			r.Failed, r.Why = id(int(x)%32), chain.Failure(x)%4
		case 1:
			r.Leaves = true
		case 2:
			has[i] = 0
		case 3:
			r.ID = id(int(x)) // perhaps another's
		case 4:
			r.First = int(x) % 64
		case 5:
			r.From = id(int(x) % 32)
		}
		has[i] = min(60, has[i]+int(x)%8)
		r.Next = has[i]
		a, err := c.Report(zero.Add(now), r)
		check(t, c, zero.Add(now))
		if err != nil || a.From.IsZero() {
			continue
		}
		members := c.Members(zero.Add(now))
		k := slices.IndexFunc(members, func(m chain.Member) bool { return m.ID == a.From })
		if k < 0 {
			t.Fatalf("advised %v, which is not there", a.From)
		}
		if p := members[k]; a.From == r.ID || p.Banned || p.First > r.Next || p.Addr != a.Addr || a.From == r.Failed && r.Why != chain.None && p.Next == 0 {
			t.Fatalf("%+v is advised %+v", r, p)
		}
	}
	if n := len(c.Members(zero.Add(now))); n > 20 {
		t.Fatalf("%d members", n)
	}
}

// TestRandom: whatever is reported, the advice is a member that has the piece.
func TestRandom(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		run(t, func() byte { return byte(r.Uint32()) }, 300)
	}
}

func FuzzChain(f *testing.F) {
	f.Add([]byte("some reports of some machines"))
	f.Fuzz(func(t *testing.T, b []byte) {
		i := -1
		run(t, func() byte {
			if i++; i < len(b) {
				return b[i]
			}
			return 0
		}, min(400, len(b)/4+1))
	})
}

// TestMemory: 1,000 machines that do their worst cost less than 64 MB.
func TestMemory(t *testing.T) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	c := chain.New(chain.Config{Pieces: 1 << 20}, zero)
	for round := range 30 {
		for i := range 1000 {
			_, _ = c.Report(zero.Add(time.Duration(round)*time.Second), chain.Report{ID: id(i), Addr: addr(i/250, i%250), Next: round, Failed: id(i - 1), Why: chain.Wrong})
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if used := int64(after.HeapAlloc) - int64(before.HeapAlloc); used > 64<<20 {
		t.Errorf("%d MB for 1,000 machines; want at most 64", used>>20)
	} else {
		t.Logf("%d KB", used>>10)
	}
	runtime.KeepAlive(c)
}
