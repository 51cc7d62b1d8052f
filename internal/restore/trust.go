package restore

import (
	"fmt"
	"strings"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/keyring"
	"github.com/mkcdrec/mkcdrec/internal/signing"
)

// unsigned is what a person types to restore a set that nobody has signed.
const unsigned = "unsigned"

// oldSet is the age of a set from which on it is pointed out also where no newer one is known: it
// may have been put in the place of one.
const oldSet = 14 * 24 * time.Hour

// ring has the keys of the request, and asks on the screen.
func (r *Restorer) ring() *keyring.Ring {
	k := &r.opt.Keys
	k.Identity, k.Passphrase, k.Credentials, k.Signer = r.opt.Identity, r.opt.PassphraseFile, r.opt.Credentials, r.opt.Signer
	if k.Ask == nil {
		k.Ask = r.Screen.Secret
	}
	return k
}

// trusted checks whose signature the set has. Without a signature of a known key it is refused,
// unless a person types the fingerprint, which belongs on paper.
func (r *Restorer) trusted(now time.Time) error {
	r.age(now)
	v, err := r.ring().Judge(r.set)
	if err != nil {
		return err
	}
	r.keyKnown = v.Checked && v.Wrong == ""
	reason, expected := v.Wrong, unsigned
	switch {
	case v.Wrong == "" && v.Key == nil:
		return nil
	case v.Checked:
		r.Screen.Note("the backup set is signed with the key of its host, %s", signing.Fingerprint(v.Key))
		return nil
	case v.Wrong == "":
		r.Screen.Note("the backup set is signed with the key %s; no key is known here to compare it with", signing.Fingerprint(v.Key))
		return nil
	case v.Key != nil:
		expected = signing.Fingerprint(v.Key)
	}
	if r.opt.PlanOnly || r.opt.DryRun {
		r.Screen.Warn("%s", reason)
		return nil
	}
	if r.opt.Yes {
		return &exit.Refusal{Reason: reason + "; --signer FILE names a file with the public key of its host, --signer " + keyring.NoSigner + " means that no key is expected"}
	}
	r.Screen.Warn("%s", reason)
	question := "Type the fingerprint of the host's key (SHA256:...), which ssh-keygen -lf /var/lib/mkcdrec/signing.key prints there: "
	if expected == unsigned {
		question = fmt.Sprintf("Type %q to restore it anyway: ", unsigned)
	}
	typed, err := r.Screen.Secret(question)
	if err == nil && strings.TrimSpace(string(typed)) == expected {
		return nil
	}
	return &exit.Refusal{Reason: reason}
}

// age warns of a set that is old, or older than one that the place of the set or the medium knows.
func (r *Restorer) age(now time.Time) {
	m, medium := r.set.Manifest, r.opt.Medium
	made := fmt.Sprintf("the backup set was made %s, on %s", ago(now.Sub(m.Created)), m.Created.UTC().Format("2006-01-02 15:04 UTC"))
	newer := r.set.Newer(now)
	switch {
	case newer != nil:
		r.Screen.Warn("%s; a newer one is beside it: %v", made, *newer)
	case medium != nil && medium.SetID != "" && medium.SetID != m.ID && medium.Host == m.Host && m.Created.Before(medium.Created):
		r.Screen.Warn("%s; this medium was made with a newer one, on %s, id %s", made, medium.Created.UTC().Format("2006-01-02 15:04 UTC"), medium.SetID)
	case now.Sub(m.Created) > oldSet:
		r.Screen.Warn("%s", made)
	}
}

// ago describes how long ago something was.
func ago(d time.Duration) string {
	switch {
	case d < 0:
		return "in the future"
	case d >= 48*time.Hour:
		return fmt.Sprintf("%d days ago", int(d.Hours()/24))
	case d >= 2*time.Hour:
		return fmt.Sprintf("%d hours ago", int(d.Hours()))
	}
	return fmt.Sprintf("%d minutes ago", int(d.Minutes()))
}
