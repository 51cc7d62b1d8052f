package fleet

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// View is a machine as people and programs are shown it.
type View struct {
	MAC      string     `json:"mac"`
	Number   int        `json:"number"`
	Serial   string     `json:"serial"`
	Vendor   string     `json:"vendor"`
	Model    string     `json:"model"`
	Firmware string     `json:"firmware"`
	Memory   int64      `json:"memory"`
	Address  netip.Addr `json:"address"`
	Hostname string     `json:"hostname"`
	State    State      `json:"state"`
	Since    time.Time  `json:"since"`
	Why      string     `json:"why"`
	// Flags are what a person should know before a release: no serial number, one that
	// another machine has, a machine that does not answer.
	Flags []string `json:"flags"`
	// Problem is why the machine can't be released; "" if it can.
	Problem string `json:"problem"`
	// Confirm and Seen are what Wish wants.
	Confirm string     `json:"confirm"`
	Seen    string     `json:"seen"`
	Set     string     `json:"set"`
	After   string     `json:"after"`
	Disks   []DiskView `json:"disks"`
	// Progress is of the work in hand; Percent and Left (seconds) are of all of it, -1
	// where they are not known.
	Progress Progress  `json:"progress"`
	Percent  int       `json:"percent"`
	Left     int       `json:"left"`
	Began    time.Time `json:"began,omitzero"`
	Ended    time.Time `json:"ended,omitzero"`
	Online   bool      `json:"online"`
	Log      []Line    `json:"log"`
}

// DiskView is a disk with what becomes of it.
type DiskView struct {
	Disk
	// Gets is the set's disk that it is overwritten with, "" if it is left alone.
	Gets string `json:"gets"`
	// Word is what confirms it, "" if nothing does.
	Word string `json:"word"`
}

// View gives one machine.
func (r *Room) View(mac string) (View, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m := r.machines[mac]
	if m == nil {
		return View{}, ErrUnknown
	}
	return r.view(m), nil
}

// Views gives all machines, in the order in which they came.
func (r *Room) Views() []View {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]View, 0, len(r.machines))
	for _, m := range r.machines {
		out = append(out, r.view(m))
	}
	slices.SortFunc(out, func(a, b View) int { return cmp.Compare(a.Number, b.Number) })
	return out
}

// view shows a machine. The room is locked.
func (r *Room) view(m *machine) View {
	g, now := &m.Registration, r.clock()
	v := View{MAC: g.MAC, Number: m.Number, Serial: g.Serial, Vendor: g.Vendor, Model: g.Model, Firmware: g.Firmware, Memory: g.Memory, Address: m.Address, Hostname: m.Hostname, State: m.State, Since: m.Since, Why: m.Why,
		Flags: []string{}, Disks: []DiskView{}, Progress: m.progress, Began: m.Began, Ended: m.Ended, Log: slices.Clone(m.Log), Confirm: g.Serial, Online: now.Sub(m.seen) < Silent}
	if v.Log == nil {
		v.Log = []Line{}
	}
	unique := r.unique(g)
	if !unique {
		v.Confirm = g.MAC
		if Usable(g.Serial) {
			v.Flags = append(v.Flags, "another machine has the same serial number")
		} else {
			v.Flags = append(v.Flags, "the firmware has no serial number")
		}
	}
	if m.State == Working && !v.Online {
		v.Flags = append(v.Flags, "it does not answer")
	}
	j, u, disks, err := r.job(m)
	if m.Job != nil && m.State != Registered && m.State != Held {
		j = m.Job // what it does, even if the rules would give it another one now
	} else if err != nil {
		v.Problem = err.Error()
	}
	if u != nil {
		v.After = u.After
	}
	if j != nil {
		v.Set, v.After = j.Set, j.After
	}
	v.Seen = seenOf(m, jobOrNil(r, m))
	words := g.Words()
	for i, d := range g.Disks {
		v.Disks = append(v.Disks, DiskView{Disk: d, Word: words[i], Gets: gets(d, words[i], j, disks)})
	}
	v.Percent, v.Left = r.progress(m)
	return v
}

// gets names the old disk that a disk takes the place of: by the machine's job, or by what
// the rules chose; "" for none.
func gets(d Disk, word string, j *Job, disks []chosen) (old string) {
	if j != nil {
		for _, mp := range j.Map {
			if o, w, ok := strings.Cut(mp, "="); ok && w == word && w != "" {
				old = o
			}
		}
		return old
	}
	for _, c := range disks {
		if c.disk.Name == d.Name {
			old = c.old.Name
		}
	}
	return old
}

// progress returns how far a machine is, in percent, and how many seconds are left; -1 for
// what is not known.
func (r *Room) progress(m *machine) (percent, left int) {
	if m.State == Done {
		return 100, 0
	}
	percent, left = -1, -1
	if m.State != Working || m.Job == nil {
		return percent, left
	}
	for _, s := range r.sets {
		if s.Name != m.Job.Set || s.Work <= 0 {
			continue
		}
		percent = int(min(99, 100*float64(m.progress.Work)/float64(s.Work)))
		if el := r.clock().Sub(m.Began).Seconds(); el > 2 && m.progress.Work > 0 {
			left = int(min(float64(max(s.Work-m.progress.Work, 0))*el/float64(m.progress.Work), 1e6))
		}
	}
	return percent, left
}

// jobOrNil is the job that a release would make. The room is locked.
func jobOrNil(r *Room, m *machine) *Job {
	j, _, _, err := r.job(m)
	if err != nil {
		return nil
	}
	return j
}
