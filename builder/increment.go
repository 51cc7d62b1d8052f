package builder

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/mkcdrec/mkcdrec/builder/set"
	"github.com/mkcdrec/mkcdrec/internal/archive"
	"github.com/mkcdrec/mkcdrec/internal/blockcopy"
	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/nightly"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/regular"
	"github.com/mkcdrec/mkcdrec/internal/store"
)

// Generations defines when a backup is full; without it, every one is.
type Generations struct {
	// Full is weekly or monthly: the first backup of a week or month is full.
	Full string `yaml:"full"`
	// FullEvery is how many sets there are from one full backup to the next.
	FullEvery int `yaml:"full_every"`
}

// Set reports whether there are increments.
func (g Generations) Set() bool { return g != Generations{} }

// maxChain is how many sets there may be from one full backup to the next.
const maxChain = 1000

// Validate reports all faults at once.
func (g Generations) Validate() error {
	var errs []error
	if g.Full != "" && g.Full != "weekly" && g.Full != "monthly" {
		errs = append(errs, fmt.Errorf("generations.full: %q; want weekly or monthly", g.Full))
	}
	if g.FullEvery < 0 || g.FullEvery > maxChain {
		errs = append(errs, fmt.Errorf("generations.full_every: %d; want 1 to %d", g.FullEvery, maxChain))
	}
	if g.Full != "" && g.FullEvery != 0 {
		errs = append(errs, errors.New("generations: full and full_every exclude each other"))
	}
	return errors.Join(errs...)
}

// due returns why a full backup is due at now, "" if it is not. full is when the last one was
// made, sets how many there are since then, that one included.
func (g Generations) due(full time.Time, sets int, now time.Time) string {
	full = full.In(now.Location())
	switch {
	case g.FullEvery > 0 && sets >= g.FullEvery:
		return fmt.Sprintf("the last %d sets are a full one and its increments", sets)
	case sets >= maxChain:
		return fmt.Sprintf("%d sets need each other", sets)
	case full.After(now.Add(24 * time.Hour)):
		return "the last full backup is dated in the future"
	case g.Full == "monthly" && full.Format("2006-01") != now.Format("2006-01"):
		return "it is the first of the month"
	case g.Full == "weekly":
		y, w := full.ISOWeek()
		if ny, nw := now.ISOWeek(); y != ny || w != nw {
			return "it is the first of the week"
		}
	}
	return ""
}

// DefaultStates is the directory with what increments compare files with, on the machine itself.
const DefaultStates = nightly.Dir + "/increments"

// stateFile describes the states of one set; stateVersion is its version.
const (
	stateFile    = "state.json"
	stateVersion = 1
	maxStateFile = 16 << 20
)

// setState is what is kept of the last set in a place, for the next increment.
type setState struct {
	Version  int                     `json:"version"`
	Set      manifest.Needed         `json:"set"`
	Needs    []manifest.Needed       `json:"needs"` // of that set
	Full     time.Time               `json:"full"`  // when the full set was made
	For      string                  `json:"for"`   // digest of Builder.encryptFor
	Archives map[string]archiveState `json:"archives"`
}

// archiveState is that of one archive, whose state is in a file of the archive's name.
type archiveState struct {
	On string `json:"on"` // what identifies the file system
}

// generation is what a run has to do with increments.
type generation struct {
	dir  string // with the states of this place, by the ids of sets
	id   string // of the new set
	name string // of its directory
	now  time.Time
	last *setState // what it is an increment of; nil for a full backup
	mine setState
	plan *Plan
	warn func(format string, args ...any)
}

// generation prepares the states of a set with an id, which gets the directory name in dir. It
// is nil without the key generations.
func (b *Builder) generation(p *Plan, dir, id, name string, now time.Time) (*generation, error) {
	at, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if p.Holder != nil && p.Holder.UUID != "" { // one of several disks that are mounted there in turn
		at = p.Holder.UUID + ":" + p.HolderPath
	}
	return b.generationIn(p, at, "", id, name, now, func(g *generation) (*setState, string) {
		return g.base(dir, p.Layout.Hostname, b.Config.Generations)
	})
}

// generationIn is generation for sets in a place, which are encrypted for some keys; base finds the
// state of the newest one.
func (b *Builder) generationIn(p *Plan, at, keys, id, name string, now time.Time, base func(*generation) (*setState, string)) (*generation, error) {
	if !b.Config.Generations.Set() {
		return nil, nil
	}
	sum := sha256.Sum256([]byte(at + "\x00" + p.Layout.Hostname))
	g := &generation{dir: filepath.Join(b.states(), hex.EncodeToString(sum[:8])), id: id, name: name, now: now, plan: p, warn: b.Report.Warn}
	g.mine = setState{Version: stateVersion, Set: manifest.Needed{ID: id, Dir: name}, Full: now, For: keys, Archives: map[string]archiveState{}}
	if err := g.removeUnfinished(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(g.at(id), 0o700); err != nil {
		return nil, fmt.Errorf("cannot keep the state for increments: %w", err)
	}
	last, why := base(g)
	if why != "" {
		b.Report.Note("this backup is a full one: %s", why)
		return g, nil
	}
	b.Report.Note("this backup is an increment of %s", last.Set.Dir)
	g.last, g.mine.Full = last, last.Full
	g.mine.Needs = append(slices.Clone(last.Needs), last.Set)
	return g, nil
}

// states is the directory with all states.
func (b *Builder) states() string {
	if b.States != "" {
		return b.States
	}
	return DefaultStates
}

func (g *generation) at(id string) string { return filepath.Join(g.dir, id) }

// base finds the state of the newest set of a host in dir, or why there must be a full backup.
func (g *generation) base(dir, host string, when Generations) (last *setState, why string) {
	sets, _, err := set.List(dir, set.This(host))
	if err != nil {
		return nil, err.Error()
	}
	if len(sets) == 0 {
		return nil, "there is no other"
	}
	newest := g.newest(sets)
	if last, why = g.state(newest, when); why != "" {
		return nil, why
	}
	s, err := manifest.Open(filepath.Join(dir, newest.Name))
	if err != nil {
		return nil, strings.ReplaceAll(err.Error(), "\n", " ")
	}
	defer s.Close()
	if s.Digest != last.Set.Digest || newest.Name != last.Set.Dir {
		return nil, fmt.Sprintf("the newest set, %s, is not the one that was made here", newest.Name)
	}
	return last, ""
}

// newest is the newest of sets, without those that are dated in the future and were not made by this machine as it is:
// such a date is wrong, and would end increments until it has come.
func (g *generation) newest(sets []set.Listed) set.Listed {
	for _, s := range sets {
		if _, err := os.Stat(filepath.Join(g.at(s.ID), stateFile)); err == nil || s.Created.Sub(g.now) <= ahead {
			return s
		}
	}
	return sets[0]
}

// ahead is how far in the future a set may be dated that counts as one of now: clocks differ.
const ahead = 2 * time.Minute

// state reads the state of a set, which must not be so old that a full backup is due; or it
// returns why there must be one.
func (g *generation) state(newest set.Listed, when Generations) (last *setState, why string) {
	b, err := regular.ReadFile(filepath.Join(g.at(newest.ID), stateFile), maxStateFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Sprintf("of the newest set, %s, no state is kept on this machine", newest.Name)
	}
	last = &setState{}
	if err == nil {
		err = json.Unmarshal(b, last)
	}
	if err == nil && (last.Version != stateVersion || last.Set.ID != newest.ID) {
		err = fmt.Errorf("it is of version %d, and of the set %s", last.Version, last.Set.ID)
	}
	if err != nil {
		return nil, fmt.Sprintf("the state of the newest set, %s, can't be used: %v", newest.Name, err)
	}
	if last.For != g.mine.For {
		return nil, fmt.Sprintf("the newest set, %s, is not encrypted for the same recipients", newest.Name)
	}
	return last, when.due(last.Full, len(last.Needs)+1, g.now)
}

// baseIn is base for a home. Of an encrypted set neither manifest nor files can be read here.
func (g *generation) baseIn(ctx context.Context, home store.Home, host string, when Generations) (last *setState, why string) {
	sets, _, err := set.ListHome(ctx, home, set.This(host))
	if errors.Is(err, fs.ErrPermission) { // a login that may only add files, and read those whose names it knows
		sets = set.Named(ctx, home, g.known(), set.This(host))
		err = nil
	}
	if err != nil {
		return nil, strings.ReplaceAll(err.Error(), "\n", " ")
	}
	if len(sets) == 0 {
		return nil, "there is no other"
	}
	newest := g.newest(sets)
	if last, why = g.state(newest, when); why != "" {
		return nil, why
	}
	if newest.Name != last.Set.Dir || newest.Head == nil && newest.Digest != last.Set.Digest {
		return nil, fmt.Sprintf("the newest set, %s, is not the one that was made here", newest.Name)
	}
	var chain []set.Listed
	for _, n := range append(slices.Clone(last.Needs), last.Set) {
		i := slices.IndexFunc(sets, func(s set.Listed) bool { return s.ID == n.ID && s.Name == n.Dir })
		if i < 0 {
			return nil, fmt.Sprintf("the earlier set %s is missing", n.Dir)
		}
		chain = append(chain, sets[i])
	}
	damage, err := set.DamagesIn(ctx, home, chain)
	if err != nil {
		return nil, strings.ReplaceAll(err.Error(), "\n", " ")
	}
	if i := slices.IndexFunc(damage, func(why string) bool { return why != "" }); i >= 0 {
		return nil, fmt.Sprintf("the earlier set %s is damaged: %s", chain[i].Name, damage[i])
	}
	return last, ""
}

// known are the names of the sets of which states are kept, and of those that these need.
func (g *generation) known() (names []string) {
	list, _ := os.ReadDir(g.dir) // without states there are none
	for _, e := range list {
		var s setState
		if b, err := regular.ReadFile(filepath.Join(g.at(e.Name()), stateFile), maxStateFile); err != nil || json.Unmarshal(b, &s) != nil {
			continue
		}
		for _, n := range append(s.Needs, s.Set) {
			names = append(names, n.Dir)
		}
	}
	return names
}

// on identifies the file system that an archive is of: inodes are those of one file system.
func (g *generation) on(a *PlannedArchive) string {
	f := g.plan.Layout.On(a.Device)
	if f == nil {
		return a.Device
	}
	sub := ""
	if a.Mount != "" && f.Btrfs != nil {
		sub = f.MountAt(a.Mount).Subvolume
	}
	return strings.Join([]string{f.Type, f.UUID, sub}, " ")
}

// states gives an archive what sets its options' states. What that returns is called when the
// archive was made, or could not be made. Without a state, the next increment has all of the archive.
func (g *generation) states(a *PlannedArchive) func(*archive.CreateOptions) (ended func()) {
	if g == nil {
		return nil
	}
	return func(opt *archive.CreateOptions) func() {
		opt.ReadAll = fstype.Of(a.Type).Foreign
		if g.last != nil {
			opt.Since = g.since(a)
		}
		f, err := os.OpenFile(filepath.Join(g.at(g.id), a.File), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
		if err == nil {
			opt.Keep, err = archive.NewStateWriter(f, archive.Source{Set: g.id, Dir: g.name, File: a.File})
		}
		if err != nil {
			opt.Keep = nil
			g.warn("%s will be saved as a whole by the next backup, too: %v", a.Name(), err)
		}
		return func() {
			var errs []error
			if opt.Since != nil {
				errs = append(errs, opt.Since.Close())
			}
			if f != nil {
				errs = append(errs, f.Close())
			}
			if opt.Keep == nil {
				return
			}
			if err := errors.Join(append(errs, opt.Keep.Err())...); err != nil {
				g.warn("%s will be saved as a whole by the next backup, too: %v", a.Name(), err)
				return
			}
			g.mine.Archives[a.File] = archiveState{On: g.on(a)}
		}
	}
}

// imageStates gives what an image is compared with, and what keeps its index for the next increment; nil without
// increments.
func (g *generation) imageStates() func(*layout.Image) (*blockcopy.Base, func(index []byte)) {
	if g == nil {
		return nil
	}
	return func(m *layout.Image) (base *blockcopy.Base, keep func(index []byte)) {
		if g.last != nil {
			base = g.imageBase(m)
		}
		return base, func(index []byte) {
			if err := regular.WriteFile(filepath.Join(g.at(g.id), m.File), index); err != nil {
				g.warn("%s will be saved as a whole by the next backup, too: %v", m.Device, err)
				return
			}
			g.mine.Archives[m.File] = archiveState{On: m.Device}
		}
	}
}

// imageBase opens the index of a device's last image; nil if the new one must have all.
func (g *generation) imageBase(m *layout.Image) *blockcopy.Base {
	if _, ok := g.last.Archives[m.File]; !ok {
		return nil
	}
	f, err := regular.Open(filepath.Join(g.at(g.last.Set.ID), m.File))
	if err == nil {
		defer f.Close()
		var base *blockcopy.Base
		if base, err = blockcopy.ReadBase(f, blockcopy.Source{Set: g.last.Set.ID, Dir: g.last.Set.Dir, File: m.File}); err == nil {
			return base
		}
	}
	g.warn("%s is saved as a whole: %v", m.Device, err)
	return nil
}

// since opens the state that an archive is compared with; nil if the archive must be full.
func (g *generation) since(a *PlannedArchive) *archive.State {
	was, ok := g.last.Archives[a.File]
	switch {
	case !ok:
		return nil
	case was.On != g.on(a):
		g.warn("%s is saved as a whole: it is another file system than in %s", a.Name(), g.last.Set.Dir)
		return nil
	}
	s, err := archive.OpenState(filepath.Join(g.at(g.last.Set.ID), a.File))
	if err != nil {
		g.warn("%s is saved as a whole: %v", a.Name(), err)
		return nil
	}
	return s
}

// needs are the earlier sets of an increment.
func (g *generation) needs() []manifest.Needed {
	if g == nil {
		return nil
	}
	return g.mine.Needs
}

// leaveOutStates adds the directory of the states to what an archive leaves out: they are of this
// machine as it is now, and change with each run.
func (p *Plan) leaveOutStates(b *Builder) {
	for i := range p.Archives {
		a := &p.Archives[i]
		rel, err := filepath.Rel(a.Mount, b.states())
		if a.Mount == "" || err != nil || !filepath.IsLocal(rel) {
			continue
		}
		a.leftOut = maps.Clone(a.leftOut)
		if a.leftOut == nil {
			a.leftOut = map[string]string{}
		}
		a.leftOut[rel] = "state for increments"
	}
}

// commit keeps the states for the next run, now that the set is complete, and removes older ones.
func (g *generation) commit(ctx context.Context, man *manifest.Manifest, dir string) error {
	if g == nil {
		return nil
	}
	fail := func(err error) error {
		return fmt.Errorf("cannot keep the state for increments; the next backup will be a full one: %w", err)
	}
	sum, err := manifest.SumFile(ctx, filepath.Join(dir, manifest.File), progress.None{})
	if err != nil {
		return fail(err)
	}
	g.mine.Set.Digest, g.mine.Needs = sum, man.Needs
	if len(man.Needs) == 0 {
		g.mine.Full = g.now
	}
	b, err := json.MarshalIndent(g.mine, "", "  ")
	if err != nil {
		return fail(err)
	}
	if err := regular.WriteFile(filepath.Join(g.at(g.id), stateFile), b); err != nil {
		return fail(err)
	}
	return g.remove(func(id string) bool { return id != g.id })
}

// discard removes the states of a set that was not made.
func (g *generation) discard() error {
	if g == nil {
		return nil
	}
	return g.remove(func(id string) bool { return id == g.id })
}

func (g *generation) remove(which func(id string) bool) error {
	list, err := os.ReadDir(g.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot remove old states: %w", err)
	}
	var errs []error
	for _, e := range list {
		if which(e.Name()) {
			errs = append(errs, os.RemoveAll(filepath.Join(g.dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}

// removeUnfinished removes the states of runs that were killed: only one run writes to a place at a
// time.
func (g *generation) removeUnfinished() error {
	return g.remove(func(id string) bool {
		_, err := os.Stat(filepath.Join(g.at(id), stateFile))
		return errors.Is(err, fs.ErrNotExist)
	})
}
