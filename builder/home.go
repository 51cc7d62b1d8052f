package builder

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/mkcdrec/mkcdrec/builder/rescue"
	"github.com/mkcdrec/mkcdrec/builder/retention"
	"github.com/mkcdrec/mkcdrec/builder/set"
	"github.com/mkcdrec/mkcdrec/internal/keyring"
	"github.com/mkcdrec/mkcdrec/internal/regular"
	"github.com/mkcdrec/mkcdrec/internal/signing"
	"github.com/mkcdrec/mkcdrec/internal/store"
	"github.com/mkcdrec/mkcdrec/internal/sysconf"
	"github.com/mkcdrec/mkcdrec/internal/uuid"
)

// ToHome writes a backup set to the home at a place: a server, a bucket, or a directory with
// encrypted sets. The rescue medium of the set restores it from there. On any error nothing is
// left that looks like a set.
func (b *Builder) ToHome(ctx context.Context, p *Plan, home store.Home, place string) (*Result, error) {
	work, end, err := regular.TempDir(b.Work, "mkcdrec-set-")
	if err != nil {
		return nil, fmt.Errorf("cannot write the set: %w", err)
	}
	defer end()
	if err := p.leaveOut(b.Config, work); err != nil {
		return nil, err
	}
	recipients, keys, err := b.encryptFor()
	if err != nil {
		return nil, err
	}
	p.leaveOutStates(b)
	if !store.IsHome(place) { // what runs that did not encrypt have left
		if err := set.RemoveStale(place, p.Layout.Hostname, b.Report.Note); err != nil {
			return nil, err
		}
	}
	now, id := time.Now(), uuid.New()
	sink, err := set.NewHome(ctx, home, work, p.Layout.Hostname, id, now, recipients, b.Report)
	if err != nil {
		return nil, err
	}
	p.generation, err = b.generationIn(p, home.String(), keys, id, sink.Name(), now, func(g *generation) (*setState, string) {
		return g.baseIn(ctx, home, p.Layout.Hostname, b.Config.Generations)
	})
	if err != nil {
		return nil, errors.Join(err, sink.Remove())
	}
	at := b.homePlace(ctx, p, home, now)
	if !store.IsHome(place) {
		at = b.directoryPlace(ctx, p, place, now)
	}
	removed, err := b.room(ctx, p, at, sink.Name(), id, p.generation.needs(), now)
	if err != nil {
		return nil, errors.Join(err, p.generation.discard(), sink.Remove())
	}
	h, dir := rescue.Hint{SetID: id, Source: sysconf.RedactURL(place)}, ""
	if !store.IsHome(place) {
		h.Source, dir = "", place
	}
	r, err := b.withMedium(ctx, p, id, now, sink, dir, sink.Dir(), h)
	if err != nil {
		return nil, err
	}
	if len(recipients) > 0 {
		b.Report.Note("the rescue medium of this set is encrypted with it: keep one that `mkcdrec rescue -o FILE` makes, outside of the set")
	}
	r.Removed = append(removed, b.pruned(func() ([]string, error) { return at.remove(&retention.Next{Set: sink.Name()}, nil) })...)
	return r, nil
}

// signing gives the function that signs manifests, nil for none.
func (b *Builder) signing() (func([]byte) ([]byte, error), error) {
	k, err := b.signingKey()
	if k == nil || err != nil {
		return nil, err
	}
	return k.Sign, nil
}

// signingKey gives the key of this machine, which is made if there is none; nil if sets are
// not signed.
func (b *Builder) signingKey() (*signing.Key, error) {
	if b.SigningKey == "" {
		return nil, nil
	}
	host, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("cannot read the name of this machine: %w", err)
	}
	if b.DryRun {
		k, err := signing.ReadKey(b.SigningKey)
		if errors.Is(err, os.ErrNotExist) {
			return nil, nil // a run would make it
		}
		return k, err
	}
	k, made, err := signing.LoadKey(b.SigningKey, host)
	if err == nil && made {
		b.Report.Note("made %s, the key that signs the sets of this machine: %s", b.SigningKey, signing.Fingerprint(k.Public()))
	}
	return k, err
}

// signer gives the public key of this machine as a line of rescue.SignersFile, nil for none.
func (b *Builder) signer() ([]byte, error) {
	k, err := b.signingKey()
	if k == nil || err != nil {
		return nil, err
	}
	host, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("cannot read the name of this machine: %w", err)
	}
	return signing.Line(k.Public(), host), nil
}

// credentialsFile is the file with secrets of servers, "" if there is none.
func (c *Config) credentialsFile() string {
	if c.Credentials != "" {
		return c.Credentials
	}
	if _, err := os.Stat(keyring.DefaultCredentials); err != nil {
		return ""
	}
	return keyring.DefaultCredentials
}

// server is the destination without secrets, if that is on a server.
func (c *Config) server() string {
	if !store.IsHome(c.Destination) {
		return ""
	}
	return sysconf.RedactURL(c.Destination)
}
