package restore

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/signing"
)

// TestTrusted: a set that is not signed by a known key is refused, unless a person types the
// fingerprint; nobody is asked in an unattended run, and a plan changes nothing.
func TestTrusted(t *testing.T) {
	key := func() ssh.PublicKey {
		k, _, err := signing.LoadKey(filepath.Join(t.TempDir(), "k"), "h")
		if err != nil {
			t.Fatal(err)
		}
		return k.Public()
	}
	mine, other := key(), key()
	signers := filepath.Join(t.TempDir(), "signers")
	if err := os.WriteFile(signers, signing.Line(mine, "h"), 0o600); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	for name, c := range map[string]struct {
		signer ssh.PublicKey
		fault  error
		typed  string
		req    Request
		ok     bool
		asked  bool
	}{
		"known":                   {signer: mine, req: Request{Signer: signers, Yes: true}, ok: true},
		"another, unattended":     {signer: other, req: Request{Signer: signers, Yes: true}},
		"another, fingerprint":    {signer: other, typed: signing.Fingerprint(other), req: Request{Signer: signers}, ok: true, asked: true},
		"another, wrong":          {signer: other, typed: signing.Fingerprint(mine), req: Request{Signer: signers}, asked: true},
		"another, plan":           {signer: other, req: Request{Signer: signers, PlanOnly: true}, ok: true},
		"unsigned, unattended":    {req: Request{Signer: signers, Yes: true}},
		"unsigned, typed":         {typed: "unsigned", req: Request{Signer: signers}, ok: true, asked: true},
		"unsigned, Enter":         {typed: "", req: Request{Signer: signers}, asked: true},
		"unsigned, none expected": {req: Request{Signer: "none", Yes: true}, ok: true},
		"damaged, none expected":  {fault: errors.New("no"), req: Request{Signer: "none", Yes: true}},
		"damaged":                 {fault: errors.New("no"), req: Request{Yes: true}},
		"nothing known, signed":   {signer: other, req: Request{Yes: true}, ok: true},
		"nothing known, unsigned": {req: Request{Yes: true}, ok: true},
	} {
		p := &person{answers: []string{c.typed}}
		r := &Restorer{Screen: p, opt: Options{Request: c.req}, set: &manifest.Set{Manifest: &manifest.Manifest{Created: now.Add(-time.Hour)}, Signer: c.signer, SignatureFault: c.fault}}
		err := r.trusted(now)
		var no *exit.Refusal
		if (err == nil) != c.ok || err != nil && !errors.As(err, &no) {
			t.Errorf("%s: trusted = %v; want ok = %v, or a refusal", name, err, c.ok)
		}
		if asked := len(p.answers) == 0; asked != c.asked {
			t.Errorf("%s: asked = %v; want %v", name, asked, c.asked)
		}
		// Who put the set there must not be able to tell what is to be typed.
		if text := fmt.Sprint(p.warned, err); c.signer != nil && c.req.Signer != "" && !strings.HasPrefix(name, "known") && strings.Contains(text, signing.Fingerprint(c.signer)) {
			t.Errorf("%s: the fingerprint of the unknown key is shown: %s", name, text)
		}
	}
}
