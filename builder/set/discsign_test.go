package set

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/media"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/signing"
)

// TestDiscsSigned: the manifest of discs does not name rescue.iso, so it has a signature of its own,
// whatever the set has: that of a key which the rescue system on the first disc knows.
func TestDiscsSigned(t *testing.T) {
	keys := map[string]*signing.Key{}
	for _, name := range []string{"this", "other"} {
		k, _, err := signing.LoadKey(filepath.Join(t.TempDir(), "key"), name)
		if err != nil {
			t.Fatal(err)
		}
		keys[name] = k
	}
	for _, c := range []struct{ of, by string }{{"this", "this"}, {"other", "this"}, {"", "this"}, {"this", ""}} {
		t.Run("set of "+c.of+", discs of "+c.by, func(t *testing.T) {
			set := testSet(t, t.TempDir())
			if c.of != "" {
				if err := signFile(set, manifest.File, keys[c.of].Sign); err != nil {
					t.Fatal(err)
				}
			}
			into := t.TempDir()
			d := &Discs{Report: progress.None{}, Into: into, Work: t.TempDir(), Size: 64 << 20, Medium: dataMedium}
			if c.by != "" {
				d.Sign = keys[c.by].Sign
			}
			if err := d.Divide(t.Context(), set); err != nil || len(d.Images) != 1 {
				t.Fatalf("Divide = %v; want one image, not %v", err, d.Images)
			}
			if out, err := exec.Command("bsdtar", "-C", into, "-xf", d.Images[0].File).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			s, err := manifest.Open(filepath.Join(into, filepath.Base(set)))
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			switch {
			case s.SignatureFault != nil:
				t.Errorf("the signature on the disc is not valid: %v", s.SignatureFault)
			case c.by == "" && s.Signer != nil:
				t.Error("discs that nobody signed have a signature")
			case c.by != "" && (s.Signer == nil || !bytes.Equal(s.Signer.Marshal(), keys[c.by].Public().Marshal())):
				t.Errorf("the signer of the discs is %v; want that of %s", s.Signer, c.by)
			}
		})
	}
	// A set that was changed since it was signed does not become a signed one.
	set := testSet(t, t.TempDir())
	if err := os.WriteFile(filepath.Join(set, manifest.Signature), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	d := &Discs{Report: progress.None{}, Into: t.TempDir(), Work: t.TempDir(), Size: 64 << 20, Medium: dataMedium, Sign: keys["this"].Sign}
	if err := d.Divide(t.Context(), set); err == nil || !strings.Contains(err.Error(), "is not valid") {
		t.Errorf("Divide(a set with a bad signature) = %v; want an error", err)
	}
}

// dataMedium writes an image that starts nothing.
func dataMedium(iso string, extra func(*media.ISO)) error {
	img := media.ISO{Data: true, Files: map[string]string{}, Content: map[string][]byte{}, Time: time.Unix(1_700_000_000, 0)}
	extra(&img)
	return img.Write(iso)
}
