// Package chain decides who takes the pieces of a torrent from whom. Machines that
// fetch the same set stand in a chain: the first takes from the seeder, each other
// from the one before it, all in the same order of pieces. Every link of a switched
// network then carries every byte once, in each direction. The package is pure: it
// is told of reports and of the time, and gives advice.
package chain

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// ID is a peer's id (BEP 3): 20 bytes, of which it makes up the last 12 at random.
type ID [20]byte

// IsZero reports whether there is no id.
func (id ID) IsZero() bool { return id == ID{} }

// Failure is what a machine reports of the one it took from.
type Failure int

// Kinds of failure.
const (
	None        Failure = iota
	Unreachable         // no connection, or it was closed
	Silent              // nothing came of what it has
	Wrong               // a piece had another SHA-1
)

// Config has the sizes and times of a chain. The zero value of a field is its default.
type Config struct {
	Pieces int // of the torrent
	// Gap is how many pieces a machine must be behind the one it takes from to be
	// slow, and not only short of pieces. 4.
	Gap int
	// Members is the most machines at once. 4096.
	Members int
	// Every is the time between two reports of a machine. 1 s.
	Every time.Duration
	// Dead is how long after its last report a machine counts as dead. 3.5 times Every.
	Dead time.Duration
	// Sample is the time over which rates are measured. Twice Every.
	Sample time.Duration
	// Grace is how long after the start of the chain machines keep the peer that they
	// have, since that one may not have reported yet: the server was started again. 4 s.
	Grace time.Duration
}

func (c Config) withDefaults() Config {
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	def(&c.Every, time.Second)
	def(&c.Dead, c.Every*7/2)
	def(&c.Sample, c.Every*2)
	def(&c.Grace, 4*time.Second)
	if c.Gap <= 0 {
		c.Gap = 4
	}
	if c.Members <= 0 {
		c.Members = 4096
	}
	return c
}

// Report is what a machine reports of itself.
type Report struct {
	ID   ID
	Addr netip.AddrPort // where others reach it
	// First and Next: it has the pieces of the order from First up to, not including, Next.
	First, Next int
	// From is the machine that it takes from now; zero for the seeder or nobody.
	From ID
	// Failed is the machine it took from, or was to take from, and Why it does no more.
	Failed ID
	Why    Failure
	// Done: it wants no more pieces, even if some are missing. Others may still take from it.
	Done   bool
	Leaves bool // this is its last report
}

// Advice is the answer to a report.
type Advice struct {
	// From and Addr are whom to take from; From is zero for the seeder.
	From ID
	Addr netip.AddrPort
	// Backup are others, nearest first, for the time when the server does not answer.
	Backup []netip.AddrPort
	// Keep: keep whom you have; the chain is not known yet.
	Keep bool
	// Hold: take from nobody for now. The machine is a slow one at the end, and those
	// before it have less than it has: it would take from them what they need.
	Hold bool
	// Needed: others still take from this machine, or might, since the chain is not known yet.
	Needed bool
	// Every is when to report again.
	Every time.Duration
}

// Event is something that people are to be told.
type Event struct {
	Kind string // joined, left, dead, slow, unreachable, silent, wrong, banned, complete
	Addr netip.AddrPort
	By   netip.AddrPort // who reported it, if somebody did
}

func (e Event) String() string {
	if e.By.IsValid() {
		return fmt.Sprintf("%s %s (reported by %s)", e.Addr, e.Kind, e.By)
	}
	return fmt.Sprintf("%s %s", e.Addr, e.Kind)
}

// Bounds of what one machine can make the chain remember.
const (
	maxAvoid   = 8
	maxSamples = 8
	// accusations is how many others a machine may report before nobody listens.
	accusations = 4
	// slack is how many pieces two machines may differ without one being ahead.
	slack = 2
)

type sample struct {
	at   time.Time
	next int
}

type avoided struct {
	id    ID
	until time.Time // zero: for ever
}

type member struct {
	Report
	subnet   netip.Prefix
	arrived  time.Time
	last     time.Time // of the last report
	slow     bool
	poor     bool // others were slow behind it: it sends slowly
	banned   bool
	complete bool
	samples  []sample // oldest first
	avoid    []avoided
	accused  []ID // whom it reported
	wrongBy  []ID // who had wrong pieces of it
	slowTo   []ID // who was slow behind it, lately
	slowAt   time.Time
	from     *member // by the last advice; nil for the seeder
	since    time.Time
	starved  time.Time // when it last had all that the one before it has
	behind   time.Time // since when it is behind the one after it; zero if it is not
	suspect  time.Time // since when it looks slow; zero if it does not
	moved    time.Time // when it was last put at the end
	moves    int
}

// over reports whether it takes nothing any more.
func (m *member) over() bool { return m.complete || m.Done }

// Chain is the state. It is not safe for several goroutines.
type Chain struct {
	conf   Config
	start  time.Time
	line   []*member // healthy ones, then slow ones
	byID   map[ID]*member
	events []Event
	// probe is when the first of the chain is next exchanged for the second: only
	// another one shows whether the first is slow. pause is four times as long each time.
	probe time.Time
	pause time.Duration
	old   *member // the first before the exchange
	rate  float64 // its rate
	// probed: there was a probe; the next one is when the first is slower than 0.6 of top,
	// the highest rate that a first one ever had.
	probed bool
	top    float64
	// peaks are the highest rates of any machine, in pieces a second, in the present
	// and the last period of 10 times Every; the present one ends at turn.
	peaks [2]float64
	turn  time.Time
}

// New makes a chain that starts now.
func New(conf Config, now time.Time) *Chain {
	conf = conf.withDefaults()
	return &Chain{conf: conf, start: now, byID: map[ID]*member{}, pause: 5 * conf.Every}
}

// Errors of Report.
var (
	ErrFull    = errors.New("the chain has as many machines as it can")
	ErrInvalid = errors.New("the report contradicts itself, or its peer id belongs to another machine")
)

// Report takes a machine's report and answers it. The chain is unchanged by an error.
func (c *Chain) Report(now time.Time, r Report) (Advice, error) {
	if !r.valid(c.conf.Pieces) {
		return Advice{}, ErrInvalid
	}
	r.Addr = netip.AddrPortFrom(r.Addr.Addr().Unmap(), r.Addr.Port())
	c.expire(now)
	m := c.byID[r.ID]
	if m != nil && m.Addr.Addr() != r.Addr.Addr() {
		return Advice{}, ErrInvalid
	}
	if r.Leaves {
		if m != nil {
			c.event("left", m, nil)
			c.remove(m)
		}
		return Advice{}, nil
	}
	if m == nil {
		if other := c.at(r.Addr); other != nil { // the machine was started again
			c.remove(other)
		}
		if len(c.line) >= c.conf.Members {
			return Advice{Every: 10 * c.every()}, ErrFull
		}
		m = c.join(now, r)
	}
	if r.Next < m.Next { // it lost pieces, or began again
		m.samples = nil
	}
	m.Report, m.last = r, now
	c.sample(now, m)
	if done := r.Next == c.conf.Pieces; done != m.complete { // a ring may lose pieces again
		if m.complete = done; done {
			c.event("complete", m, nil)
		}
	}
	if !r.Failed.IsZero() && r.Why != None {
		c.failed(now, m, r.Failed, r.Why)
	}
	c.judge(now, m)
	return c.advise(now, m), nil
}

// valid reports whether a machine can have sent this of a set of pieces.
func (r *Report) valid(pieces int) bool {
	return !r.ID.IsZero() && r.Addr.IsValid() && r.Addr.Port() != 0 && r.First >= 0 && r.Next >= r.First && r.Next <= pieces && r.Failed != r.ID && r.From != r.ID
}

// join takes a machine into the line.
func (c *Chain) join(now time.Time, r Report) *member {
	m := &member{Report: r, subnet: subnet(r.Addr.Addr()), arrived: now, since: now, starved: now}
	c.byID[r.ID] = m
	c.insert(m)
	if now.Sub(c.start) < c.conf.Grace { // the server may have been started again
		c.restore()
		m.from = c.byID[r.From]
		for _, o := range c.line {
			if o != m && o.from == nil && o.From == m.ID && !c.takes(m, o) {
				o.from = m
			}
		}
	}
	c.event("joined", m, nil)
	return m
}

// sample notes how far a machine is, a few times in the interval of reports.
func (c *Chain) sample(now time.Time, m *member) {
	n := len(m.samples)
	if n > 0 && now.Sub(m.samples[n-1].at) < c.conf.Every/4 {
		return
	}
	if n > 0 {
		if now.After(c.turn) {
			c.peaks, c.turn = [2]float64{0, c.peaks[0]}, now.Add(10*c.conf.Every)
		}
		c.peaks[0] = max(c.peaks[0], float64(m.Next-m.samples[n-1].next)/now.Sub(m.samples[n-1].at).Seconds())
	}
	m.samples = append(m.samples, sample{now, m.Next})
	if len(m.samples) > maxSamples {
		m.samples = slices.Delete(m.samples, 0, len(m.samples)-maxSamples)
	}
}

// subnet groups machines that are likely behind one switch.
func subnet(a netip.Addr) netip.Prefix {
	bits := 24
	if a.Is6() {
		bits = 64
	}
	p, _ := a.Prefix(bits)
	return p
}

func (c *Chain) at(a netip.AddrPort) *member {
	for _, m := range c.line {
		if m.Addr == a {
			return m
		}
	}
	return nil
}

func (c *Chain) event(kind string, m, by *member) {
	e := Event{Kind: kind, Addr: m.Addr}
	if by != nil {
		e.By = by.Addr
	}
	if len(c.events) < 10000 {
		c.events = append(c.events, e)
	}
}

// Events gives what happened since the last call; at most 10,000.
func (c *Chain) Events() []Event {
	e := c.events
	c.events = nil
	return e
}

// healthy is the number of machines at the front that are not slow.
func (c *Chain) healthy() int {
	i := slices.IndexFunc(c.line, func(m *member) bool { return m.slow })
	if i < 0 {
		return len(c.line)
	}
	return i
}

// insert finds a new machine's place. One that has nothing goes behind the last of
// its subnet as long as the one after that has nothing either: later it would be in
// the way. One that has pieces, after a restart of the server, goes to the place that
// its pieces give it.
func (c *Chain) insert(m *member) {
	h := c.healthy()
	at := h
	if m.Next > slack {
		for i, o := range c.line[:h] {
			if o.Next < m.Next {
				at = i
				break
			}
		}
	} else {
		for i := h - 1; i >= 0; i-- {
			if c.line[i].subnet == m.subnet {
				if i+1 < h && c.line[i+1].Next <= slack {
					at = i + 1
				}
				break
			}
		}
	}
	c.line = slices.Insert(c.line, at, m)
}

// restore puts machines that say that they take from each other in that order, as they
// stood before the server was started again.
func (c *Chain) restore() {
	healthy := c.line[:c.healthy()]
	behind := map[ID][]*member{}
	var first []*member
	for _, m := range healthy {
		if p := c.byID[m.From]; p != nil && !p.slow {
			behind[m.From] = append(behind[m.From], m)
		} else {
			first = append(first, m)
		}
	}
	if !slices.ContainsFunc(healthy, func(m *member) bool { return !m.From.IsZero() }) {
		return
	}
	// The one that takes from the seeder, then those that wait for the one they take from,
	// then new ones.
	kind := func(m *member) int {
		switch {
		case !m.From.IsZero():
			return 1
		case m.Next > slack:
			return 0
		}
		return 2
	}
	slices.SortStableFunc(first, func(a, b *member) int { return cmp.Compare(kind(a), kind(b)) })
	line := make([]*member, 0, len(healthy))
	var add func(m *member)
	add = func(m *member) {
		line = append(line, m)
		for _, o := range behind[m.ID] {
			add(o)
		}
	}
	for _, m := range first {
		add(m)
	}
	if len(line) == len(healthy) { // else some say that they take from each other in a circle
		copy(healthy, line)
	}
}

func (c *Chain) remove(m *member) {
	c.line = slices.DeleteFunc(c.line, func(o *member) bool { return o == m })
	delete(c.byID, m.ID)
	for _, o := range c.line {
		if o.from == m {
			o.from = nil
		}
	}
	if c.old == m {
		c.old = nil
	}
}

// expire takes the machines out that no longer report.
func (c *Chain) expire(now time.Time) {
	dead := c.conf.Dead * c.every() / c.conf.Every
	var gone []*member
	for _, m := range c.line {
		if now.Sub(m.last) > dead {
			gone = append(gone, m)
		}
	}
	for _, m := range gone {
		if m.over() {
			c.event("left", m, nil)
		} else {
			c.event("dead", m, nil)
		}
		c.remove(m)
	}
}

// every is the time between reports: longer with more than 1,000 machines.
func (c *Chain) every() time.Duration {
	return c.conf.Every * time.Duration(max(1000, len(c.line))) / 1000
}

// toEnd puts a machine at the end of the healthy ones, or of all.
func (c *Chain) toEnd(now time.Time, m *member, slow bool) {
	c.line = slices.DeleteFunc(c.line, func(o *member) bool { return o == m })
	m.slow = m.slow || slow
	m.moved, m.behind, m.suspect, m.starved = now, time.Time{}, time.Time{}, now
	m.moves++
	at := len(c.line)
	if !m.slow {
		at = c.healthy()
	}
	c.line = slices.Insert(c.line, at, m)
}

// failed acts on a report that from gave m nothing, or what is wrong. Only whom a
// machine was advised to take from can be reported by it.
func (c *Chain) failed(now time.Time, m *member, id ID, why Failure) {
	p := c.byID[id]
	if p == nil || m.from != p {
		return
	}
	until := now.Add(30 * c.conf.Every)
	if why == Wrong {
		until = time.Time{}
	}
	m.avoid = slices.DeleteFunc(m.avoid, func(a avoided) bool { return a.id == id || !a.until.IsZero() && now.After(a.until) })
	if len(m.avoid) == maxAvoid {
		m.avoid = m.avoid[1:]
	}
	m.avoid = append(m.avoid, avoided{id, until})
	m.from = nil
	if !slices.Contains(m.accused, id) {
		if len(m.accused) >= accusations {
			return // it finds fault with everybody
		}
		m.accused = append(m.accused, id)
	}
	kind := map[Failure]string{Unreachable: "unreachable", Silent: "silent", Wrong: "wrong"}[why]
	c.event(kind, p, m)
	if why == Wrong && !slices.Contains(p.wrongBy, m.ID) && len(p.wrongBy) < 2 {
		if p.wrongBy = append(p.wrongBy, m.ID); len(p.wrongBy) == 2 {
			p.banned = true
			c.event("banned", p, nil)
		}
	}
	c.toEnd(now, p, true)
}

// advise finds the nearest one before m that can serve it; else one behind it that is
// ahead of it in pieces; else the seeder.
func (c *Chain) advise(now time.Time, m *member) Advice {
	a := Advice{Every: c.every()}
	a.Needed = slices.ContainsFunc(c.line, func(o *member) bool { return o.from == m && !o.over() })
	if m.Done && m.from != nil {
		m.from, m.since = nil, now
	}
	if m.over() {
		if now.Sub(c.start) < c.conf.Grace { // whoever takes from it may not have reported yet
			a.Needed = true
		}
		return a
	}
	if !m.From.IsZero() && c.byID[m.From] == nil && now.Sub(c.start) < c.conf.Grace && m.Why == None {
		a.Keep, a.Needed = true, true
		return a
	}
	found, hold := c.servers(now, m)
	if hold {
		a.Hold = true
		m.from, m.since, m.starved = nil, now, now
		return a
	}
	var up *member
	if len(found) > 0 {
		up = found[0]
		a.From, a.Addr = up.ID, up.Addr
		for _, p := range found[1:] {
			a.Backup = append(a.Backup, p.Addr)
		}
	}
	if up != m.from || m.since.Before(m.arrived) {
		m.suspect = time.Time{}
		m.from, m.since, m.starved = up, now, now
		m.samples = m.samples[max(0, len(m.samples)-1):]
	}
	return a
}

// servers gives the nearest ones before m that can serve it, at most three; else the one
// behind it that is most ahead of it. hold is set if m is to wait for one before it.
func (c *Chain) servers(now time.Time, m *member) (found []*member, hold bool) {
	at := slices.Index(c.line, m)
	for i := at - 1; i >= 0 && len(found) < 3; i-- {
		p := c.line[i]
		switch {
		case len(found) == 0 && m.slow && !p.slow && p.Next+c.tolerance() < m.Next && c.moves(now, p):
			return nil, true
		case c.can(now, m, p):
			found = append(found, p)
		case len(found) == 0 && p.fit() && p.Next+c.tolerance() < m.Next:
			c.inTheWay(now, p)
		}
		if p.Next+c.tolerance() >= m.Next {
			p.behind = time.Time{}
		}
	}
	if len(found) == 0 {
		found = c.ahead(now, m)
	}
	return found, false
}

// ahead is the machine behind m that has most more than it.
func (c *Chain) ahead(now time.Time, m *member) (found []*member) {
	for _, p := range c.line[slices.Index(c.line, m)+1:] {
		if p.Next > m.Next+slack && c.can(now, m, p) && (len(found) == 0 || p.Next > found[0].Next) {
			found = []*member{p}
		}
	}
	return found
}

// inTheWay moves a machine to the end that has had less than the next one for a while: the
// one that it takes from would serve both.
func (c *Chain) inTheWay(now time.Time, p *member) {
	if p.behind.IsZero() {
		p.behind = now
	} else if now.Sub(p.behind) > 2*c.conf.Every && !c.last(p) {
		c.toEnd(now, p, false)
	}
}

func (m *member) fit() bool { return !m.slow && !m.banned && !m.Done }

// Member is a machine of the chain, for those who show it.
type Member struct {
	ID          ID
	Addr        netip.AddrPort
	First, Next int
	From        netip.AddrPort // not valid for the seeder
	Slow        bool
	Banned      bool
	Complete    bool
	Silence     time.Duration // since the last report
}

// Members lists the machines in the order of the chain, after taking out the dead.
func (c *Chain) Members(now time.Time) []Member {
	c.expire(now)
	out := make([]Member, 0, len(c.line))
	for _, m := range c.line {
		o := Member{ID: m.ID, Addr: m.Addr, First: m.First, Next: m.Next, Slow: m.slow, Banned: m.banned, Complete: m.complete, Silence: now.Sub(m.last)}
		if m.from != nil {
			o.From = m.from.Addr
		}
		out = append(out, o)
	}
	return out
}
