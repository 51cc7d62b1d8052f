// Package fleet images a room of machines: rules say what a machine gets, machines
// register themselves, and a room keeps the state of each in a file. It starts no
// program and listens to nothing; internal/fleet/netboot, web and client do.
//
// A machine is restored only after a rule named it by its address or serial number, or
// a person released it; and only onto disks that its job names by serial number or WWN.
package fleet

import (
	"cmp"
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
)

// Set is a backup set that machines can get.
type Set struct {
	// Name is how rules and URLs call it; see ValidSetName.
	Name string `json:"name"`
	// Host is the machine that it was made of, ID that of the run, Digest the
	// SHA-256 of its manifest in hex.
	Host   string `json:"host"`
	ID     string `json:"id"`
	Digest string `json:"digest"`
	// Disks are those that a restore needs, by their names in the layout.
	Disks []SetDisk `json:"disks"`
	// Work is how many bytes a restore reads and unpacks, to estimate when it ends.
	Work int64 `json:"work"`
	// Swarm is where machines get it from each other; zero where they don't.
	Swarm Swarm `json:"swarm,omitzero"`
}

// Swarm is a set's torrent.
type Swarm struct {
	// Server is the URL of the seeder, http://ADDRESS:PORT/; Hash is the info hash in hex.
	Server string `json:"server"`
	Hash   string `json:"hash"`
}

// Valid reports whether a swarm is empty, or one that can be joined.
func (s Swarm) Valid() bool {
	if s == (Swarm{}) {
		return true
	}
	at, ok := strings.CutPrefix(s.Server, "http://")
	_, err := netip.ParseAddrPort(strings.TrimSuffix(at, "/"))
	b, herr := hex.DecodeString(s.Hash)
	return ok && err == nil && herr == nil && len(b) == sha1.Size
}

// SetDisk is a disk of the machine that a set was made of.
type SetDisk struct {
	Name  string        `json:"name"`
	Model string        `json:"model"`
	Size  quantity.Size `json:"size"`
	// Least is the size that a disk in its place must have.
	Least quantity.Size `json:"least,omitempty"`
}

// MaxSetName is the longest name of a set, in bytes.
const MaxSetName = 64

// ValidSetName reports whether a name can stand in a URL, a rule and a log as it is:
// letters, digits, dot, dash and underscore, the first one a letter or digit.
func ValidSetName(s string) bool {
	for i, r := range s {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
		if !letter && (i == 0 || r != '.' && r != '-' && r != '_') {
			return false
		}
	}
	return s != "" && len(s) <= MaxSetName
}

// Job is what a machine is to do. It is made when the machine is released, and does not
// change after that.
type Job struct {
	// Set is the set's name, Digest what its manifest must have; Host is the machine
	// that it was made of.
	Set    string `json:"set"`
	Digest string `json:"digest"`
	Host   string `json:"host"`
	// Map has the words of `restore --map` (OLD=WORD), Confirm those of --confirm:
	// serial numbers or WWNs.
	Map     []string `json:"map"`
	Confirm []string `json:"confirm"`
	// Hostname and Identity are "" where the set's own is kept.
	Hostname string  `json:"hostname,omitempty"`
	Identity string  `json:"identity,omitempty"`
	Answers  Answers `json:"answers"`
	Swarm    Swarm   `json:"swarm,omitzero"`
	// After is what follows: "reboot", "poweroff" or "shell".
	After string `json:"after"`
}

// Options gives the words of restore(8)'s command line, without the set. Each option and
// its value are one word, so that no value is taken for an option.
func (j *Job) Options() []string {
	var out []string
	for _, m := range j.Map {
		out = append(out, "--map="+m)
	}
	for _, c := range j.Confirm {
		out = append(out, "--confirm="+c)
	}
	out = append(out, j.Answers.options()...)
	// A host name of its own makes another machine of it.
	if j.Identity == "new" || j.Identity == "" && j.Hostname != "" {
		out = append(out, "--new-identity")
	}
	if j.Hostname != "" {
		out = append(out, "--hostname="+j.Hostname)
	}
	return out
}

// chosen is a disk of the machine with the set's disk that it gets.
type chosen struct {
	old  SetDisk
	disk Disk
	word string
}

// choose finds a disk of a machine for every disk of a set. What a rule does not decide
// is an error: nothing is guessed.
func choose(set Set, rule map[string]DiskRule, r *Registration) ([]chosen, error) {
	words := r.Words()
	var out []chosen
	taken := map[int]bool{}
	for _, old := range set.Disks {
		want, ok := rule[old.Name]
		if !ok && len(set.Disks) == 1 {
			want, ok = rule[""]
		}
		if !ok {
			return nil, fmt.Errorf("the rule names no disk for %s of set %s", old.Name, set.Name)
		}
		i, err := want.pick(r.Disks, words, taken)
		if err != nil {
			return nil, fmt.Errorf("cannot choose a disk for %s of set %s: %w", old.Name, set.Name, err)
		}
		taken[i] = true
		if size := r.Disks[i].Size; size < old.Least {
			return nil, fmt.Errorf("disk %s is too small: it has %s, and %s of set %s needs %s", r.Disks[i].Name, size, old.Name, set.Name, old.Least)
		}
		if words[i] == "" {
			return nil, fmt.Errorf("cannot confirm disk %s: it has no serial number or WWN of its own", r.Disks[i].Name)
		}
		out = append(out, chosen{old, r.Disks[i], words[i]})
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("set %s needs no disk", set.Name)
	}
	return out, nil
}

// means reports whether a disk, with the word that confirms it, has the serial number and model of the rule.
func (d DiskRule) means(x Disk, word string) bool {
	switch {
	// A stick that somebody left in the machine is not a target unless it is named.
	case x.Removable && d.Serial == "":
		return false
	case d.Serial != "" && word != d.Serial && x.Serial != d.Serial && x.WWN != d.Serial:
		return false
	}
	return d.Model == "" || matches(d.Model, x.Model)
}

// pick gives the index of the one disk that the rule means, of those not taken.
func (d DiskRule) pick(disks []Disk, words []string, taken map[int]bool) (int, error) {
	var c []int
	for i, x := range disks {
		if !taken[i] && x.Busy == "" && d.means(x, words[i]) {
			c = append(c, i)
		}
	}
	if d.Smallest && len(c) > 1 {
		slices.SortStableFunc(c, func(a, b int) int { return cmp.Compare(disks[a].Size, disks[b].Size) })
		if disks[c[0]].Size == disks[c[1]].Size {
			return 0, fmt.Errorf("%s and %s are the smallest, both %s", disks[c[0]].Name, disks[c[1]].Name, disks[c[0]].Size)
		}
		c = c[:1]
	}
	if len(c) != 1 {
		return 0, fmt.Errorf("%d disks match %q, want one", len(c), d.String())
	}
	return c[0], nil
}

// identify gives the machine's disks as internal/plan knows them, so that what confirms
// a disk here is what confirms it there.
func identify(disks []Disk) []layout.Present {
	var in []layout.Present
	for _, d := range disks {
		in = append(in, layout.Present{Disk: d.Disk})
	}
	return layout.Identify(in)
}
