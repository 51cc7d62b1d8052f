package chain

import (
	"slices"
	"time"
)

// tolerance is how many pieces one may be behind another by its last report and still
// be ahead of it now: reports are up to Every old.
func (c *Chain) tolerance() int {
	return slack + int(1.5*max(c.peaks[0], c.peaks[1])*c.every().Seconds())
}

// estimate is how many pieces a machine has now, if it continues as before.
func (c *Chain) estimate(now time.Time, m *member) int {
	n := len(m.samples)
	if n < 2 {
		return m.Next
	}
	a, b := m.samples[n-2], m.samples[n-1]
	d := min(now.Sub(m.last), 2*c.every())
	return min(c.conf.Pieces, m.Next+int(float64(b.next-a.next)*d.Seconds()/b.at.Sub(a.at).Seconds()))
}

// rateOf gives the pieces a second of the last Sample; ok reports whether it was
// measured over so long.
func (c *Chain) rateOf(now time.Time, m *member) (rate float64, ok bool) {
	if len(m.samples) < 2 {
		return 0, false
	}
	last := m.samples[len(m.samples)-1]
	for i := len(m.samples) - 2; i >= 0; i-- {
		if d := last.at.Sub(m.samples[i].at); d >= c.conf.Sample {
			return float64(last.next-m.samples[i].next) / d.Seconds(), true
		}
	}
	return 0, false
}

// judge looks whether m is slow: it has been behind the one it takes from by more than
// Gap for Sample, and yet is slower than that one by far. Whether m or the one before
// is to blame shows when a second machine is slow behind the same one.
func (c *Chain) judge(now time.Time, m *member) {
	up := m.from
	has := c.conf.Pieces
	if up != nil {
		has = up.Next
	}
	if m.over() || has-m.Next < c.conf.Gap {
		m.starved = now
	}
	c.probeFirst(now)
	if m.over() || now.Sub(m.starved) < c.conf.Sample || now.Sub(m.since) < c.conf.Sample || c.last(m) {
		return
	}
	want, slow := c.tooSlow(now, m)
	if !slow {
		return
	}
	// The one before it may have died, and not be missed yet: it is to report again.
	if m.suspect.IsZero() {
		m.suspect = now
	}
	if now.Sub(m.suspect) < c.conf.Every*9/10 || up != nil && !up.last.After(m.suspect) {
		return
	}
	if now.Sub(m.moved) < 10*c.conf.Every<<min(m.moves, 6) && m.moves > 0 {
		return
	}
	c.blame(now, m, want)
}

// tooSlow reports whether a machine gets much less than it should, and what that is.
func (c *Chain) tooSlow(now time.Time, m *member) (want float64, slow bool) {
	up := m.from
	rate, ok := c.rateOf(now, m)
	if !ok || m.slow && (up == nil || !up.slow) {
		return 0, false // one that is known as slow has nobody else to blame for that
	}
	if !m.slow {
		want = c.best(now, m)
	}
	if up != nil && !up.over() {
		if r, ok := c.rateOf(now, up); ok {
			want = max(want, r)
		}
	}
	if rate >= 0.6*want {
		m.suspect = time.Time{}
		return want, false
	}
	return want, true
}

// blame moves the slow one of a machine and the one that it takes from to the end.
func (c *Chain) blame(now time.Time, m *member, want float64) {
	up := m.from
	m.suspect = time.Time{}
	if up != nil && !up.slow {
		if now.Sub(up.slowAt) > 30*c.conf.Every {
			up.slowTo = nil
		}
		up.slowAt = now
		if len(up.slowTo) > 0 && !slices.Contains(up.slowTo, m.ID) && !c.stillSlow(now, up.slowTo[0], want) {
			c.event("slow", up, m)
			up.slowTo, up.poor = nil, true
			c.toEnd(now, up, true)
			return
		}
		up.slowTo = []ID{m.ID}
	}
	if !m.slow {
		c.event("slow", m, nil)
	}
	c.toEnd(now, m, true)
}

// stillSlow reports whether a machine that was slow behind another is so behind the one
// it takes from now: that proves nothing against the other.
func (c *Chain) stillSlow(now time.Time, id ID, want float64) bool {
	v := c.byID[id]
	if v == nil || v.from == nil || now.Sub(v.starved) < c.conf.Sample {
		return false
	}
	r, ok := c.rateOf(now, v)
	return ok && r < 0.6*want
}

// last reports whether nobody who is not slow is behind m: it hinders nobody then.
func (c *Chain) last(m *member) bool {
	i := slices.Index(c.line, m)
	return !slices.ContainsFunc(c.line[i+1:], func(o *member) bool { return !o.over() && (m.slow || !o.slow) })
}

// best is the highest rate of the others.
func (c *Chain) best(now time.Time, m *member) float64 {
	best := 0.0
	for _, o := range c.line {
		if o != m && !o.over() {
			if r, ok := c.rateOf(now, o); ok {
				best = max(best, r)
			}
		}
	}
	return best
}

// probeFirst exchanges the first machine for the second, which costs next to nothing
// where they have about the same pieces. If the new first is much faster, the old one
// was slow. Later it is done only when the first became slow, each time after a pause
// four times as long.
func (c *Chain) probeFirst(now time.Time) {
	if len(c.line) < 2 || c.line[1].slow {
		return
	}
	first := c.line[0]
	if c.old != nil {
		c.compareFirst(now, first)
		return
	}
	rate, ok := c.rateOf(now, first)
	if ok {
		c.top = max(c.top, rate)
	}
	if !ok || first.over() || c.line[1].over() || now.Sub(first.since) < c.pause || now.Before(c.probe) {
		return
	}
	if c.probed && rate >= 0.6*c.top {
		return
	}
	second := c.line[1]
	if gap := c.estimate(now, first) - c.estimate(now, second); gap >= max(2*c.conf.Gap, int(max(c.peaks[0], c.peaks[1])/4)) || second.Next+c.tolerance() < first.Next {
		return // the second is the slower one, or is new
	}
	c.pause *= 4
	c.probe = now.Add(c.pause)
	c.old, c.rate, c.probed = first, rate, true
	c.line[0], c.line[1] = second, first
	second.from, second.since = nil, now
	first.from, first.since, first.starved = second, now, now
}

// compareFirst moves the machine that was the first before to the end if the one in its place
// is much faster.
func (c *Chain) compareFirst(now time.Time, first *member) {
	if now.Sub(first.since) < c.conf.Sample+c.conf.Every {
		return
	}
	if r, ok := c.rateOf(now, first); ok && first.from == nil && !first.over() && r > 1.5*c.rate && !c.old.over() {
		c.event("slow", c.old, nil)
		c.toEnd(now, c.old, true)
	}
	c.old = nil
}

// takes reports whether p takes from m, or from one that does.
func (c *Chain) takes(p, m *member) bool {
	for range c.line {
		if p == nil || p == m {
			break
		}
		p = p.from
	}
	return p == m
}

// moves reports whether a machine gets something, or may well soon.
func (c *Chain) moves(now time.Time, p *member) bool {
	n := len(p.samples)
	return n < 2 || p.samples[n-1].next > p.samples[0].next || now.Sub(p.since) < 5*c.conf.Every
}

// can reports whether m can take its next piece from p.
func (c *Chain) can(now time.Time, m, p *member) bool {
	if p.Done && p.Next <= m.Next {
		return false // it gets no more
	}
	return !p.banned && !p.poor && p.First <= m.Next && p.Next+c.tolerance() >= m.Next && !c.takes(p, m) && !slices.ContainsFunc(m.avoid, func(a avoided) bool { return a.id == p.ID && (a.until.IsZero() || now.Before(a.until)) })
}
