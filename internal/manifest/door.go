package manifest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"filippo.io/age"

	"github.com/mkcdrec/mkcdrec/internal/agekey"
	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/store"
	"github.com/mkcdrec/mkcdrec/internal/store/sealed"
	"github.com/mkcdrec/mkcdrec/internal/store/tape"
	"github.com/mkcdrec/mkcdrec/internal/sysconf"
)

// Door opens sets wherever they are. The zero value opens those that need no secret.
type Door struct {
	// Want is which one of several sets is meant.
	Want Wanted
	// Say is told of the others, and which tape is wanted; nil for nobody.
	Say func(format string, args ...any)
	// Access has the secrets of servers.
	Access store.Access
	// Identities gives what decrypts a set; nil for nothing.
	Identities agekey.Keys
	// Salvage opens sets whose archives are cut off or missing, too: Set.Salvage.
	Salvage bool
}

func (d Door) say(format string, args ...any) {
	if d.Say != nil {
		d.Say(format, args...)
	}
}

// identities is Identities, with an error that names the option.
func (d Door) identities(passphrase bool) ([]age.Identity, error) {
	switch {
	case d.Identities != nil:
		return d.Identities(passphrase)
	case passphrase:
		return nil, &exit.Refusal{Reason: "the backup set is encrypted with a passphrase; use --passphrase-file to name a file with it"}
	}
	return nil, &exit.Refusal{Reason: "the backup set is encrypted; use --identity to name a file with the age identity or SSH key that decrypts it"}
}

// Open opens the set at a place: a directory or the URL of a set; one of either that holds
// several sets; a tape (tape:/dev/nst0[,/dev/nst1]); or all volumes of a mkCDrec 1.x backup,
// DIR[,DIR...]. The arrival of a tape that is wanted is waited for until ctx ends.
func (d Door) Open(ctx context.Context, place string) (*Set, error) {
	if names, ok := strings.CutPrefix(place, TapePrefix); ok {
		return d.openTape(ctx, names)
	}
	if dirs := legacyDirs(place); dirs != nil {
		return OpenLegacy(dirs...)
	}
	if store.IsHome(place) {
		home, err := store.OpenHome(ctx, place, d.Access)
		if err != nil {
			return nil, fmt.Errorf("cannot use backup set: %w", err)
		}
		s, err := d.inHome(ctx, home, place)
		if err != nil {
			return nil, errors.Join(err, home.Close())
		}
		s.closers = append(s.closers, home.Close)
		return s, nil
	}
	if err := store.CheckPlace(place); err != nil {
		return nil, exit.Usage(err)
	}
	switch st, err := os.Stat(strings.TrimPrefix(place, "file://")); {
	case errors.Is(err, os.ErrNotExist):
		return nil, fmt.Errorf("cannot use backup set %s: there is no such directory", place)
	case err == nil && !st.IsDir():
		return nil, fmt.Errorf("cannot use backup set %s: it is not a directory", place)
	}
	return d.openNewest(ctx, strings.TrimPrefix(place, "file://"))
}

// Find is the place of the set that Open would open at the URL of a home, or of a set. Nothing
// is decrypted, and the set is not checked.
func (d Door) Find(ctx context.Context, url string) (place string, err error) {
	home, err := store.OpenHome(ctx, url, d.Access)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, home.Close()) }()
	root := home.At(ctx, "")
	f, err := lookAt(root)
	if err != nil {
		return "", err
	}
	if f != nil {
		f.Dir = root.String()
		_, _, err := Choose([]Found{*f}, d.Want, time.Now())
		return url, err
	}
	found, damaged, err := LookHome(ctx, home)
	if err != nil {
		return "", err
	}
	best, err := d.choose(found, damaged)
	if err != nil || best == nil {
		return "", errors.Join(append([]error{err, errors.New("no set there")}, damaged...)...)
	}
	return store.Join(url, best.name), nil
}

func (d Door) openTape(ctx context.Context, names string) (*Set, error) {
	var drives []tape.Drive
	for _, n := range strings.Split(names, ",") {
		v, err := tape.OpenDrive(n, false)
		if err != nil {
			return nil, err
		}
		drives = append(drives, v)
	}
	dir, err := os.MkdirTemp("", "tape-*")
	if err != nil {
		return nil, err
	}
	d.say("reading the index of the tape")
	st, err := tape.Open(ctx, drives, dir, tape.Waiter{Say: d.say, Drives: drives}.Ask)
	if err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	set, err := OpenTape(st, d.identities)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return set, nil
}

// openNewest opens the set in dir, or the newest of those in the directories in it.
func (d Door) openNewest(ctx context.Context, dir string) (*Set, error) {
	if HasSet(store.Dir(dir)) {
		s, err := d.openStore(ctx, store.Dir(dir))
		if err == nil {
			s.beside = func() []Found { return besideDir(dir) }
		}
		return s, err
	}
	found, damaged := Look(dir, 1)
	best, err := d.choose(found, damaged)
	if err != nil {
		return nil, err
	}
	if best == nil {
		_, err := d.openStore(ctx, store.Dir(dir)) // reports what is missing
		return nil, errors.Join(append([]error{err}, damaged...)...)
	}
	s, err := d.openStore(ctx, store.Dir(best.Dir))
	if err == nil {
		s.Chosen, s.beside = true, func() []Found { return found }
	}
	return s, err
}

// besideDir lists the sets in the directory that has dir.
func besideDir(dir string) []Found {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil
	}
	found, _ := Look(filepath.Dir(dir), 1)
	return found
}

// inHome opens the set in the home at a place, or the newest of those in it.
func (d Door) inHome(ctx context.Context, home store.Home, place string) (*Set, error) {
	root := home.At(ctx, "")
	if HasSet(root) {
		p := &parent{ctx: ctx, place: place, access: d.Access}
		s, err := d.openStore(ctx, sibling{root, p.at})
		if err != nil {
			return nil, errors.Join(err, p.close())
		}
		s.closers, s.beside = append(s.closers, p.close), p.found
		return s, nil
	}
	found, damaged, err := LookHome(ctx, home)
	if err != nil {
		_, e := d.openStore(ctx, root)
		if store.IsURL(home.String()) { // most web servers list nothing
			return nil, e
		}
		return nil, errors.Join(e, err)
	}
	best, err := d.choose(found, damaged)
	if err != nil {
		return nil, err
	}
	if best == nil {
		_, err := d.openStore(ctx, root)
		return nil, errors.Join(append([]error{err}, damaged...)...)
	}
	st := sibling{home.At(ctx, best.name), func(name string) (store.Store, error) { return home.At(ctx, name), nil }}
	s, err := d.openStore(ctx, st)
	if err == nil {
		s.Chosen, s.beside = true, func() []Found { return found }
	}
	return s, err
}

// sibling is a set in a home; at gives those beside it.
type sibling struct {
	store.Store
	at func(name string) (store.Store, error)
}

// Beside implements store.Neighbor.
func (b sibling) Beside(name string) (store.Store, error) { return b.at(name) }

// parent is the home of a set that was named by its own URL. It is opened when it is needed.
type parent struct {
	ctx    context.Context
	place  string // of the set
	access store.Access
	home   store.Home
}

func (p *parent) at(name string) (store.Store, error) {
	if err := p.open(); err != nil {
		return nil, fmt.Errorf("cannot look for %s: %w", name, err)
	}
	return p.home.At(p.ctx, name), nil
}

// open opens the home once.
func (p *parent) open() error {
	if p.home != nil {
		return nil
	}
	above := strings.TrimRight(p.place, "/")
	i := strings.LastIndexAny(above, "/:")
	if i < 0 {
		return fmt.Errorf("cannot open what %s is in: it has no parent", sysconf.RedactURL(p.place))
	}
	home, err := store.OpenHome(p.ctx, above[:i+1], p.access)
	if err == nil {
		p.home = home
	}
	return err
}

// found lists the sets in the home; none where it can't be opened, or lists nothing, as most web
// servers do.
func (p *parent) found() []Found {
	if p.open() != nil {
		return nil
	}
	found, _, err := LookHome(p.ctx, p.home)
	if err != nil {
		return nil
	}
	return found
}

func (p *parent) close() error {
	if p.home == nil {
		return nil
	}
	return p.home.Close()
}

// choose is Choose; nil if there are no sets. It reports what was found besides.
func (d Door) choose(found []Found, damaged []error) (*Found, error) {
	if len(found) == 0 {
		return nil, nil
	}
	for _, e := range damaged {
		d.say("%v", e)
	}
	best, remarks, err := Choose(found, d.Want, time.Now())
	if err != nil {
		return nil, err
	}
	for _, r := range remarks {
		d.say("%s", r)
	}
	return &best, nil
}

// openStore opens the set that a store is.
func (d Door) openStore(_ context.Context, st store.Store) (*Set, error) {
	at, err := d.placeOf(st)
	if err != nil {
		return nil, err
	}
	s, err := open(at, d.Salvage)
	if err == nil && s.HeadFault != nil {
		d.say("%v", s.HeadFault)
	}
	if err == nil && len(s.Damaged) > 0 {
		d.say("the backup set is damaged: %v", errors.Join(s.Damaged...))
	}
	if err == nil && len(s.Missing) > 0 {
		d.say("the backup set lacks %s, and can be read without", strings.Join(s.Missing, ", "))
	}
	return s, err
}

// kinds of directories.
const (
	noSet = iota
	plainSet
	encryptedSet
)

// kindOf reports whether a store has a set. What can't be known is a plain one: opening it
// gives the reason.
func kindOf(st store.Store) int {
	for _, k := range []struct {
		name string
		kind int
	}{{File, plainSet}, {sealed.HeadFile, encryptedSet}} {
		_, err := st.Size(k.name)
		switch {
		case err == nil:
			return k.kind
		case !errors.Is(err, os.ErrNotExist):
			return plainSet
		}
	}
	return noSet
}

// IsSet reports whether a directory has a set.
func IsSet(dir string) bool { return dir != "" && HasSet(store.Dir(dir)) }

// HasSet reports whether a store has a set. Where that can't be known, it has one.
func HasSet(st store.Store) bool { return kindOf(st) != noSet }

// placeOf is the place of the set that a store has.
func (d Door) placeOf(st store.Store) (place, error) {
	if kindOf(st) == encryptedSet {
		return d.encryptedIn(st)
	}
	if _, err := st.Size(sealed.HeadFile); err == nil {
		return nil, fmt.Errorf("cannot use backup set %s: it has %s of a set that is not encrypted, and %s of one that is; one of them was put there", st, File, sealed.HeadFile)
	}
	p, err := placeOf(st)
	if err != nil {
		return nil, fmt.Errorf("cannot use backup set %s: %w", st, err)
	}
	return p, nil
}

// encryptedIn is the place of the encrypted set that a store has.
func (d Door) encryptedIn(st store.Store) (place, error) {
	dir, local := st.(store.Dir)
	var discs *discStore
	if local {
		var err error
		if discs, err = newDiscStore(string(dir)); err != nil {
			return nil, fmt.Errorf("cannot use backup set %s: %w", st, err)
		}
		if discs != nil {
			st = discs
		}
	}
	s, err := sealed.Open(st, d.identities)
	if err != nil {
		return nil, err
	}
	if discs != nil {
		if err := (onDiscs{discs: discs}).isOf(s.Head.ID); err != nil {
			return nil, fmt.Errorf("cannot use backup set %s: %w", st, err)
		}
		return onDiscs{files{Store: s, inOrder: true}, discs, s.Object}, nil
	}
	e := encrypted{files{Store: s}, s.Head, nil}
	if local {
		e.under = []string{string(dir)}
	}
	return e, nil
}

// encrypted is a set that is decrypted while it is read.
type encrypted struct {
	files
	head  *sealed.Head
	under []string // the directories of this machine that it is in
}

func (e encrypted) Dirs() []string { return e.under }

func (e encrypted) isOf(id string) error {
	if e.head.ID != id {
		return fmt.Errorf("%s is of the set %s, and the manifest of %s", sealed.HeadFile, e.head.ID, id)
	}
	return nil
}

// readers is how many manifests of a home are read at once.
const readers = 16

// LookHome finds the sets in the directories of a home. A manifest that can't be used is among
// the damaged, and does not stop the search.
func LookHome(ctx context.Context, home store.Home) (found []Found, damaged []error, err error) {
	err = EachSet(ctx, home, func(name string, st store.Store) func() {
		f, err := lookAt(st)
		return func() {
			switch {
			case err != nil:
				damaged = append(damaged, err)
			case f != nil:
				f.Dir, f.name = strings.TrimSuffix(home.String(), "/")+"/"+name, name
				found = append(found, *f)
			}
		}
	})
	return found, damaged, err
}

// EachSet calls read for each directory of a home, several at once, and then what read has
// returned, in the order of the names.
func EachSet(ctx context.Context, home store.Home, read func(name string, st store.Store) func()) error {
	dirs, err := home.Dirs(ctx)
	if err != nil {
		return fmt.Errorf("cannot look for backup sets: %w", err)
	}
	dirs = slices.DeleteFunc(dirs, func(d string) bool { return strings.HasPrefix(d, Partial) })
	then := make([]func(), len(dirs))
	var wg sync.WaitGroup
	next := make(chan int)
	for range min(readers, len(dirs)) {
		wg.Go(func() {
			for i := range next {
				then[i] = read(dirs[i], home.At(ctx, dirs[i]))
			}
		})
	}
	for i := range dirs {
		next <- i
	}
	close(next)
	wg.Wait()
	if err := ctx.Err(); err != nil {
		return err
	}
	for _, f := range then {
		f()
	}
	return nil
}

// lookAt reads what identifies the set in a store; nil for none.
func lookAt(st store.Store) (*Found, error) {
	x, err := Describe(st)
	if x == nil || err != nil {
		return nil, err
	}
	return foundAt("", x.Manifest, x.Head), nil
}

// Description is what is known of a set without a key: its manifest, or the head of an
// encrypted set.
type Description struct {
	Manifest *Manifest
	Digest   string // SHA-256 of the manifest, in hex
	Head     *sealed.Head
}

// ID is that of the set.
func (d *Description) ID() string {
	if d.Head != nil {
		return d.Head.ID
	}
	return d.Manifest.ID
}

// Describe reads what describes the set in a store; nil for none.
func Describe(st store.Store) (*Description, error) {
	fail := func(err error) (*Description, error) { return nil, fmt.Errorf("cannot use backup set %s: %w", st, err) }
	b, err := store.ReadFile(st, File, MaxText)
	if err == nil {
		m, err := Parse(b)
		if err != nil {
			return fail(err)
		}
		sum := sha256.Sum256(b)
		return &Description{Manifest: m, Digest: hex.EncodeToString(sum[:])}, nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return fail(err)
	}
	b, err = store.ReadFile(st, sealed.HeadFile, sealed.MaxHead)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return fail(err)
	}
	h, err := sealed.ParseHead(b)
	if err != nil {
		return fail(err)
	}
	return &Description{Head: h}, nil
}
