package fleet

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/printable"
)

// State is where a machine stands.
type State string

// States of a machine. The ways between them: a machine that registers is Registered; a
// rule or a person makes it Released, a person Held; the machine itself goes from
// Released to Working and from there to Done or Failed. From Held, Failed and Done only
// a person gets it away.
const (
	Registered State = "registered" // waits for a person
	Held       State = "held"       // a person wants nothing done, even if rules match
	Released   State = "released"   // the job is there for the machine to fetch
	Working    State = "working"
	Done       State = "done"
	Failed     State = "failed"
)

// Limits of a room.
const (
	maxMachines = 8192
	maxLines    = 200 // of a machine's log
	maxLine     = 400 // bytes
	// Alive is how long after its last word a machine still counts as running.
	Alive = 20 * time.Second
	// Silent is after how long a machine that works is shown as not answering.
	Silent = time.Minute
)

// Line is a line of a machine's log.
type Line struct {
	Time  time.Time `json:"time"`
	Level string    `json:"level"` // note, warning or error
	Text  string    `json:"text"`
}

// Report is what a machine reports of its work. Lines are those since the last report.
type Report struct {
	Phase string `json:"phase"`
	Bytes int64  `json:"bytes"`
	Total int64  `json:"total"`
	// Work is the sum of Bytes over all phases.
	Work  int64  `json:"work"`
	Lines []Line `json:"lines,omitempty"`
	// Begin is set if the job is begun, End if it is over.
	Begin bool `json:"begin,omitempty"`
	End   *End `json:"end,omitempty"`
}

// End is how a job ended: Code is restore's exit status (0 done, 3 done but not all).
type End struct {
	Code  int    `json:"code"`
	Error string `json:"error,omitempty"`
}

// Progress is how far a machine is.
type Progress struct {
	Phase string  `json:"phase"`
	Bytes int64   `json:"bytes"` // of the phase
	Total int64   `json:"total"`
	Rate  float64 `json:"rate"` // bytes per second
	// Work is what was read and unpacked in all phases, of the set's Work.
	Work int64 `json:"work"`
}

// machine is one of a room. What is exported is kept in the state file.
type machine struct {
	Registration Registration `json:"registration"`
	// Number counts the machines as they came; it does not change.
	Number  int        `json:"number"`
	Address netip.Addr `json:"address"`
	First   time.Time  `json:"first"`
	State   State      `json:"state"`
	Since   time.Time  `json:"since"`
	// Why explains the state: what failed, why a release was taken back.
	Why      string `json:"why,omitempty"`
	Hostname string `json:"hostname,omitempty"`
	Pattern  string `json:"pattern,omitempty"` // that the name was made of
	Job      *Job   `json:"job,omitempty"`
	// Confirmed is the serial number or MAC by which it was released.
	Confirmed string    `json:"confirmed,omitempty"`
	Began     time.Time `json:"began,omitzero"`
	Ended     time.Time `json:"ended,omitzero"`
	// Token is the SHA-256 of the machine's own token, in hex.
	Token string `json:"token"`
	Log   []Line `json:"log,omitempty"`

	seen     time.Time
	progress Progress
	at       time.Time // of the last report with progress
	changed  chan struct{}
}

// Room has the machines. Its methods are for several goroutines at once. A change that
// somebody was told of is in the state file before.
type Room struct {
	mu       sync.Mutex
	clock    func() time.Time
	rules    *Rules
	sets     []Set
	machines map[string]*machine
	tokens   map[string]string // hash of a token to MAC
	numbers  int
	secrets  map[string]string // for the other parts of the server, kept with the state
	subs     map[chan string]bool

	store store
}

// OpenRoom opens a room whose state is kept in file; one that is absent begins an empty
// room. A file that can't be read is an error: going on without it would forget which
// machines are done.
func OpenRoom(file string, rules *Rules, sets []Set) (*Room, error) {
	if err := rules.Check(sets); err != nil {
		return nil, err
	}
	r := &Room{clock: time.Now, rules: rules, sets: sets, machines: map[string]*machine{}, tokens: map[string]string{}, secrets: map[string]string{}, subs: map[chan string]bool{}, store: store{file: file}}
	if err := r.load(); err != nil {
		return nil, err
	}
	return r, nil
}

// SetClock has the room use another clock, for tests.
func (r *Room) SetClock(now func() time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.clock = now
}

// Sets are the sets that machines can get.
func (r *Room) Sets() []Set { return r.sets }

// Refused is an error about a request that the state of a machine does not allow.
type Refused struct{ Reason string }

func (e *Refused) Error() string { return "refused: " + e.Reason }

func refuse(format string, args ...any) error { return &Refused{fmt.Sprintf(format, args...)} }

// ErrUnknown is about a machine that is not in the room, or a token of none.
var ErrUnknown = errors.New("no such machine in this room")

// unique reports whether a machine's serial number is its own alone. The room is locked.
func (r *Room) unique(m *Registration) bool {
	if !Usable(m.Serial) {
		return false
	}
	for _, o := range r.machines {
		if o.Registration.MAC != m.MAC && strings.EqualFold(o.Registration.Serial, m.Serial) {
			return false
		}
	}
	return true
}

// rule gives the rule of a machine. The room is locked.
func (r *Room) rule(m *machine) (*Rule, error) {
	u := r.rules.For(&m.Registration, m.Address, r.unique(&m.Registration))
	if u == nil {
		return nil, errors.New("no rule matches the machine")
	}
	return u, nil
}

// job makes a machine's job by its rule. The room is locked.
func (r *Room) job(m *machine) (*Job, *Rule, []chosen, error) {
	u, err := r.rule(m)
	if err != nil {
		return nil, nil, nil, err
	}
	set, err := u.set(r.sets)
	if err != nil {
		return nil, u, nil, u.at(err)
	}
	disks, err := choose(set, u.Disks, &m.Registration)
	if err != nil {
		return nil, u, nil, err
	}
	if (u.Hostname != "" || u.names != nil) && m.Hostname == "" {
		return nil, u, disks, errors.New("the rule finds no host name for the machine: it is not in the names file, or its serial number names no machine alone")
	}
	j := &Job{Set: set.Name, Digest: set.Digest, Host: set.Host, Hostname: m.Hostname, Identity: u.Identity, Answers: u.Answers, After: u.After, Swarm: set.Swarm}
	for _, c := range disks {
		j.Map = append(j.Map, c.old.Name+"="+c.word)
		j.Confirm = append(j.Confirm, c.word)
	}
	return j, u, disks, nil
}

// name gives a machine a host name by its rule, another one only if the rule is another.
// The room is locked.
func (r *Room) name(m *machine) {
	u, err := r.rule(m)
	if err != nil || u.Hostname == "" && u.names == nil {
		m.Hostname, m.Pattern = "", ""
		return
	}
	if u.names != nil {
		if h := u.names.For(&m.Registration, r.unique(&m.Registration)); h != "" {
			m.Hostname, m.Pattern = "", ""
			if !r.names(m)[strings.ToLower(h)] {
				m.Hostname = h
			}
			return
		}
	}
	if m.Hostname != "" && m.Pattern == u.Hostname {
		return
	}
	m.Hostname, m.Pattern = "", u.Hostname
	if u.Hostname == "" || strings.Contains(u.Hostname, "{serial}") && !r.unique(&m.Registration) {
		return
	}
	taken := r.names(m)
	for n := 1; n <= maxMachines+1; n++ {
		h := expand(u.Hostname, n, &m.Registration)
		if ValidHostname(h) && !taken[strings.ToLower(h)] {
			m.Hostname = h
			return
		}
	}
}

// names are the host names of the others, in lower case. The room is locked.
func (r *Room) names(m *machine) map[string]bool {
	out := make(map[string]bool, len(r.machines))
	for _, o := range r.machines {
		if o != m && o.Hostname != "" {
			out[strings.ToLower(o.Hostname)] = true
		}
	}
	return out
}

// Register enters a machine, or notes that it was started again, and gives it a token of
// its own. It is released at once if a rule that names it orders that. A machine whose
// address another one has that runs right now is refused.
func (r *Room) Register(reg *Registration, at netip.Addr) (token string, err error) {
	r.mu.Lock()
	now := r.clock()
	m := r.machines[reg.MAC]
	switch {
	case m == nil && len(r.machines) >= maxMachines:
		r.mu.Unlock()
		return "", refuse("the room has %d machines, and takes no more", len(r.machines))
	case m == nil:
		r.numbers++
		m = &machine{Number: r.numbers, First: now, State: Registered, Since: now, changed: make(chan struct{})}
		r.machines[reg.MAC] = m
	case m.Registration.Boot != reg.Boot && now.Sub(m.seen) < Alive:
		r.mu.Unlock()
		return "", refuse("another machine with the MAC %s runs, or this one was started again just now", reg.MAC)
	case m.State == Working && m.Registration.Boot != reg.Boot:
		r.end(m, Failed, "the machine was started again while it was restored")
	case (m.State == Released) && m.Registration.Digest() != reg.Digest():
		r.set(m, Registered, "the machine or its disks changed since it was released")
		m.Job = nil
	}
	m.Registration, m.Address, m.seen = *reg, at.Unmap(), now
	delete(r.tokens, m.Token)
	token = newSecret()
	m.Token = hash(token)
	r.tokens[m.Token] = reg.MAC
	r.name(m)
	r.takeBack(m)
	if m.State == Registered {
		if u, err := r.rule(m); err == nil && u.Start == AtOnce && m.Why == "" {
			if j, _, _, err := r.job(m); err == nil {
				m.Job, m.Confirmed = j, "the rule"
				r.set(m, Released, "")
			}
		}
	}
	return token, r.commit(m)
}

// takeBack takes releases back that a serial number confirmed which another machine has as
// well, as it turns out now. The room is locked.
func (r *Room) takeBack(m *machine) {
	for _, o := range r.machines {
		if o.State == Released && o != m && Usable(m.Registration.Serial) && strings.EqualFold(o.Registration.Serial, m.Registration.Serial) && o.Confirmed != o.Registration.MAC {
			o.Job = nil
			r.set(o, Registered, "another machine has the same serial number")
			r.tell(o)
		}
	}
}

// newSecret gives 128 random bits as 32 characters.
func newSecret() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails: crypto/rand
	return hex.EncodeToString(b)
}

func hash(token string) string {
	s := sha256.Sum256([]byte(token))
	return hex.EncodeToString(s[:])
}

// Secret gives a random word that is kept with the state under a name, and made the first
// time.
func (r *Room) Secret(name string, makeIt func() (string, error)) (string, error) {
	r.mu.Lock()
	if s := r.secrets[name]; s != "" {
		r.mu.Unlock()
		return s, nil
	}
	s := newSecret()
	if makeIt != nil {
		var err error
		if s, err = makeIt(); err != nil {
			r.mu.Unlock()
			return "", err
		}
	}
	r.secrets[name] = s
	return s, r.commit(nil)
}

// Equal compares secrets in a time that does not depend on them.
func Equal(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }

// set changes a machine's state. The room is locked.
func (r *Room) set(m *machine, s State, why string) {
	m.State, m.Since, m.Why = s, r.clock(), printable.Short(why, maxLine)
	close(m.changed)
	m.changed = make(chan struct{})
}

// end ends a machine's work. The room is locked.
func (r *Room) end(m *machine, s State, why string) {
	m.Ended = r.clock()
	r.set(m, s, why)
}

// commit unlocks the room and returns when what it has now is in the state file.
func (r *Room) commit(changed *machine) error {
	gen := r.store.next()
	if changed != nil {
		r.tell(changed)
	}
	r.mu.Unlock()
	return r.flush(gen)
}

// tell lets those who watch know of a machine. The room is locked.
func (r *Room) tell(m *machine) {
	for c := range r.subs {
		select {
		case c <- m.Registration.MAC:
		default: // it has not read the last ones: Watch's reader sees that the channel is full
			delete(r.subs, c)
			close(c)
		}
	}
}

// Watch gives a channel with the names of machines that changed. It is closed when its
// reader is too slow, and by stop.
func (r *Room) Watch() (changes <-chan string, stop func()) {
	c := make(chan string, 1024)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.subs[c] = true
	return c, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.subs[c] {
			delete(r.subs, c)
			close(c)
		}
	}
}

// Who gives the MAC of the machine that a token belongs to.
func (r *Room) Who(token string) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	mac, ok := r.tokens[hash(token)]
	if !ok {
		return "", ErrUnknown
	}
	r.machines[mac].seen = r.clock()
	return mac, nil
}

// Order is what a machine is to do now.
type Order struct {
	State State `json:"state"`
	Job   *Job  `json:"job,omitempty"`
	// Text is for the machine's screen.
	Text string `json:"text,omitempty"`
}

// Order gives what a machine is to do; without news of the state that it knows, it waits
// for some until ctx ends, which is not an error.
func (r *Room) Order(ctx context.Context, mac string, known State) (Order, error) {
	for {
		r.mu.Lock()
		m := r.machines[mac]
		if m == nil {
			r.mu.Unlock()
			return Order{}, ErrUnknown
		}
		o, changed := Order{State: m.State, Text: m.Why}, m.changed
		if m.State == Released {
			o.Job = m.Job
		}
		if m.State == Registered {
			if _, _, _, err := r.job(m); err != nil {
				o.Text = err.Error()
			}
		}
		r.mu.Unlock()
		if o.State != known {
			return o, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return o, nil
		}
	}
}

// log adds lines to those of a machine, and keeps the last ones.
func (m *machine) log(lines []Line, now time.Time) {
	for _, l := range lines {
		l.Text = printable.Short(strings.ReplaceAll(strings.TrimSpace(l.Text), "\n", " | "), maxLine)
		if !slices.Contains([]string{"note", "warning", "error"}, l.Level) {
			l.Level = "note"
		}
		if l.Text == "" {
			continue
		}
		l.Time = now
		m.Log = append(m.Log, l)
	}
	if n := len(m.Log); n > maxLines {
		m.Log = slices.Clone(m.Log[n-maxLines:])
	}
}

// outcome is the state of a machine whose restore ended, and why it is not a success.
func (e *End) outcome() (State, string) {
	switch e.Code {
	case 0:
		return Done, ""
	case 3:
		return Done, "not everything of the set was restored: " + e.Error
	}
	return Failed, cmp.Or(e.Error, fmt.Sprintf("restore ended with exit status %d", e.Code))
}

// Report notes what a machine reports of its work.
func (r *Room) Report(mac string, rep *Report) error {
	r.mu.Lock()
	m := r.machines[mac]
	if m == nil {
		r.mu.Unlock()
		return ErrUnknown
	}
	now := r.clock()
	m.seen = now
	m.log(rep.Lines, now)
	switch {
	case rep.Begin && m.State == Released:
		m.Began, m.Ended, m.progress, m.at, m.Log = now, time.Time{}, Progress{}, now, nil
		r.set(m, Working, "")
		return r.commit(m)
	case rep.Begin && m.State == Working: // it did not get the answer, and reports it again
	case rep.Begin:
		r.mu.Unlock()
		return refuse("the machine is %s, not released", m.State)
	case rep.End != nil && m.State == Working:
		s, why := rep.End.outcome()
		r.end(m, s, why)
		return r.commit(m)
	case rep.End != nil && (m.State == Done || m.State == Failed): // said again
	case rep.End != nil:
		r.mu.Unlock()
		return refuse("the machine is %s, not working", m.State)
	}
	if m.State == Working {
		m.advance(rep, now)
	}
	r.tell(m)
	r.mu.Unlock()
	return nil
}

// advance takes over how far a machine is. Numbers that can't be are bounded.
func (m *machine) advance(rep *Report, now time.Time) {
	phase := printable.Short(rep.Phase, maxText)
	if phase == "" {
		return
	}
	p := &m.progress
	work := max(rep.Work, p.Work)
	if sec := now.Sub(m.at).Seconds(); !m.at.IsZero() && sec > 0.05 {
		// Smoothed over some ten reports.
		if rate := float64(work-p.Work) / sec; p.Rate == 0 {
			p.Rate = rate
		} else {
			p.Rate += (rate - p.Rate) * min(sec/10, 0.5)
		}
	}
	m.at, p.Phase, p.Work = now, phase, work
	p.Total = max(rep.Total, 0)
	p.Bytes = max(rep.Bytes, 0)
	if p.Total > 0 {
		p.Bytes = min(p.Bytes, p.Total)
	}
}

// Wish is what a person wants of a machine. Confirm is its serial number, or its MAC
// where that is empty or another machine's as well; Seen is View.Seen as it was shown,
// "" to leave it out.
type Wish struct {
	MAC     string `json:"mac"`
	Confirm string `json:"confirm"`
	Seen    string `json:"seen,omitempty"`
}

// Release lets a machine begin its job: one that waits, was held, failed, or is done. A
// machine that works is refused, and so is one that is another one than the person saw,
// or whose job can't be made.
func (r *Room) Release(w Wish) error {
	r.mu.Lock()
	m := r.machines[w.MAC]
	if m == nil {
		r.mu.Unlock()
		return ErrUnknown
	}
	err := func() error {
		if m.State == Working {
			return refuse("%s is being restored", w.MAC)
		}
		want := m.Registration.Serial
		if !r.unique(&m.Registration) {
			want = m.Registration.MAC
			if w.Confirm != want && w.Confirm == m.Registration.Serial {
				return refuse("the serial number %q of %s confirms nothing: it is empty, a placeholder, or another machine's as well; confirm it by its MAC", w.Confirm, w.MAC)
			}
		}
		if w.Confirm != want {
			return refuse("%s was not confirmed by %q", w.MAC, want)
		}
		j, _, _, err := r.job(m)
		if err != nil {
			return refuse("%v", err)
		}
		if w.Seen != "" && w.Seen != seenOf(m, j) {
			return refuse("%s changed since it was shown", w.MAC)
		}
		m.Job, m.Confirmed = j, want
		return nil
	}()
	if err != nil {
		r.mu.Unlock()
		return err
	}
	m.Log = nil
	r.set(m, Released, "")
	return r.commit(m)
}

// seenOf is short and another one for another machine, other disks or another job.
func seenOf(m *machine, j *Job) string {
	d := m.Registration.Digest()
	if j != nil {
		d += fmt.Sprintf("%+v", *j)
	}
	return hash(d)[:16]
}

// Hold takes a release back that the machine has not begun, and keeps rules from
// releasing it.
func (r *Room) Hold(mac string) error {
	r.mu.Lock()
	m := r.machines[mac]
	switch {
	case m == nil:
		r.mu.Unlock()
		return ErrUnknown
	case m.State == Working:
		r.mu.Unlock()
		return refuse("%s is being restored: a restore that is stopped in the middle leaves a machine that does not boot", mac)
	}
	m.Job = nil
	r.set(m, Held, "")
	return r.commit(m)
}

// Forget removes a machine that does not run now; it may register again.
func (r *Room) Forget(mac string) error {
	r.mu.Lock()
	m := r.machines[mac]
	switch {
	case m == nil:
		r.mu.Unlock()
		return ErrUnknown
	case r.clock().Sub(m.seen) < Alive || m.State == Working:
		r.mu.Unlock()
		return refuse("%s runs now, or is being restored", mac)
	}
	delete(r.machines, mac)
	delete(r.tokens, m.Token)
	r.set(m, Held, "") // whoever waits for it learns that it is not there
	return r.commit(m)
}

// PXE gives how a card that asks for a boot file is answered. A machine that is done
// starts from its own disk, until a person releases it again.
func (r *Room) PXE(mac string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if m := r.machines[mac]; m != nil && m.State == Done {
		return PXEIgnore
	}
	return r.rules.PXEFor(mac)
}

// May reports whether a machine may read a set now.
func (r *Room) May(mac, set string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	m := r.machines[mac]
	return m != nil && m.Job != nil && m.Job.Set == set && (m.State == Released || m.State == Working)
}
