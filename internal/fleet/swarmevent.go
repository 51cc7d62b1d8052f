package fleet

import "encoding/json"

// SwarmKind is the kind of the results that mkcdrec-swarm prints.
const SwarmKind = "swarm"

// SwarmEvent is the data of a line that mkcdrec-swarm prints.
type SwarmEvent struct {
	// Event is serving, joined, from, progress, ready, banned, failed, fallback, full, trouble,
	// damaged, complete, read, done, kept or made, and those of chain.Event.
	Event    string  `json:"event"`
	Seconds  float64 `json:"seconds"` // since the program's start
	Addr     string  `json:"addr,omitempty"`
	By       string  `json:"by,omitempty"`
	URL      string  `json:"url,omitempty"`
	Hash     string  `json:"hash,omitempty"`
	Manifest string  `json:"manifest,omitempty"`
	Pieces   int     `json:"pieces,omitempty"`
	Of       int     `json:"of,omitempty"`
	Bytes    int64   `json:"bytes,omitempty"`
	Sent     int64   `json:"sent,omitempty"`
	Why      string  `json:"why,omitempty"`
}

// ReadSwarmEvent reads a line that mkcdrec-swarm has printed. ok is false for a line that is
// something else.
func ReadSwarmEvent(line []byte) (e SwarmEvent, ok bool) {
	var l struct {
		Kind string
		Data json.RawMessage
	}
	ok = json.Unmarshal(line, &l) == nil && l.Kind == SwarmKind && json.Unmarshal(l.Data, &e) == nil
	return e, ok
}
