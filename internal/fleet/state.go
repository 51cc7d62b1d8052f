package fleet

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/mkcdrec/mkcdrec/internal/regular"
)

// stateVersion is the only version of the state file there is.
const stateVersion = 1

// maxState is the largest state file that is read, in bytes.
const maxState = 1 << 30

// state is the content of the state file.
type state struct {
	Version  int               `json:"version"`
	Numbers  int               `json:"numbers"`
	Secrets  map[string]string `json:"secrets"`
	Machines []*machine        `json:"machines"`
}

// store writes a room's state. Several changes that wait for it are written at once.
type store struct {
	file  string
	gen   uint64 // of the room, which is locked for it
	write sync.Mutex
	saved uint64
}

func (s *store) next() uint64 { s.gen++; return s.gen }

// load reads the state file.
func (r *Room) load() error {
	if r.store.file == "" {
		return errors.New("cannot open the room: it has no state file")
	}
	b, err := regular.ReadFile(r.store.file, maxState)
	if errors.Is(err, os.ErrNotExist) {
		if err := os.MkdirAll(filepath.Dir(r.store.file), 0o700); err != nil {
			return fmt.Errorf("cannot keep state: %w", err)
		}
		return r.flush(r.store.next()) // a directory that can't be written to is known now
	}
	if err != nil {
		return fmt.Errorf("cannot read state: %w", err)
	}
	bad := func(err error) error {
		return fmt.Errorf("cannot use state %s: %w; move it away to begin with an empty room", r.store.file, err)
	}
	s, err := parseState(b)
	if err != nil {
		return bad(err)
	}
	for _, m := range s.Machines {
		if err := r.add(m); err != nil {
			return bad(err)
		}
	}
	r.numbers = max(r.numbers, s.Numbers)
	if s.Secrets != nil {
		r.secrets = s.Secrets
	}
	for _, m := range r.machines {
		r.name(m)
		if m.State == Released {
			r.checkJob(m)
		}
	}
	return r.flush(r.store.next())
}

func parseState(b []byte) (*state, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	var s state
	switch err := d.Decode(&s); {
	case err != nil:
		return nil, err
	case s.Version != stateVersion:
		return nil, fmt.Errorf("version %d is not known", s.Version)
	case len(s.Machines) > maxMachines:
		return nil, fmt.Errorf("%d machines, more than %d", len(s.Machines), maxMachines)
	}
	return &s, nil
}

// add adds a machine of the state file.
func (r *Room) add(m *machine) error {
	if m == nil {
		return errors.New("a machine is missing")
	}
	if err := m.Registration.normalize(); err != nil {
		return err
	}
	if r.machines[m.Registration.MAC] != nil || !slices.Contains([]State{Registered, Held, Released, Working, Done, Failed}, m.State) || (m.State == Released || m.State == Working) && m.Job == nil {
		return fmt.Errorf("machine %s is there twice, or its state %q can't be", m.Registration.MAC, m.State)
	}
	m.changed = make(chan struct{})
	r.machines[m.Registration.MAC] = m
	if m.Token != "" {
		r.tokens[m.Token] = m.Registration.MAC
	}
	r.numbers = max(r.numbers, m.Number)
	return nil
}

// checkJob makes a job again that no machine has begun: rules and sets may be others now.
func (r *Room) checkJob(m *machine) {
	j, _, _, err := r.job(m)
	if err == nil {
		m.Job.Swarm = j.Swarm // sent in another way, it is the same job
	}
	if err != nil || fmt.Sprintf("%+v", *j) != fmt.Sprintf("%+v", *m.Job) {
		m.Job = nil
		r.set(m, Registered, "rules or sets changed since it was released")
	}
}

// flush returns when the state of a generation is in the file.
func (r *Room) flush(gen uint64) error {
	s := &r.store
	s.write.Lock()
	defer s.write.Unlock()
	if s.saved >= gen {
		return nil
	}
	r.mu.Lock()
	now := s.gen
	out := state{Version: stateVersion, Numbers: r.numbers, Secrets: r.secrets, Machines: make([]*machine, 0, len(r.machines))}
	for _, m := range r.machines {
		c := *m
		if c.State != Failed && c.State != Done {
			c.Log = nil // it is about to grow, and of no use later
		}
		out.Machines = append(out.Machines, &c)
	}
	slices.SortFunc(out.Machines, func(a, b *machine) int { return cmp.Compare(a.Number, b.Number) })
	b, err := json.Marshal(out)
	r.mu.Unlock()
	if err != nil {
		return fmt.Errorf("cannot keep state: %w", err)
	}
	if err := regular.WriteFile(s.file, b); err != nil {
		return fmt.Errorf("cannot keep state: %w", err)
	}
	s.saved = now
	return nil
}
