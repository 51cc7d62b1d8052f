package manifest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/store"
)

// writeLists writes the lists of checksums into the directory of a set, as builder/set does.
func writeLists(t *testing.T, dir string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, File))
	if err != nil {
		t.Fatal(err)
	}
	m, err := Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	var sha, sfv strings.Builder
	for _, f := range m.Files {
		sum, crc, err := sumsOf(t.Context(), directory{files{Store: store.Dir(dir)}}, f.Name, progress.None{})
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&sha, "%s  %s\n", sum, f.Name)
		fmt.Fprintf(&sfv, "%s %08X\n", f.Name, crc)
	}
	if err := errors.Join(os.WriteFile(filepath.Join(dir, SHA256), []byte(sha.String()), 0o600), os.WriteFile(filepath.Join(dir, SFV), []byte(sfv.String()), 0o600)); err != nil {
		t.Fatal(err)
	}
}

// TestLists: Verify names a list of checksums that contradicts the set, and a set without one can
// be read, and lacks it; in a directory, and encrypted.
func TestLists(t *testing.T) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	const ar = "vda1._.tar.zst"
	edit := func(name string, fn func(string) string) func(string) error {
		return func(dir string) error {
			b, err := os.ReadFile(filepath.Join(dir, name))
			return errors.Join(err, os.WriteFile(filepath.Join(dir, name), []byte(fn(string(b))), 0o600))
		}
	}
	first := func(s string) string { l, _, _ := strings.Cut(s, "\n"); return l + "\n" }
	for what, c := range map[string]struct {
		change  func(dir string) error
		want    string // of ListFault
		missing []string
	}{
		"right":             {func(string) error { return nil }, "", nil},
		"lower case":        {edit(SFV, strings.ToLower), "", nil},
		"SFV missing":       {func(dir string) error { return os.Remove(filepath.Join(dir, SFV)) }, "", []string{SFV}},
		"SHA-256 missing":   {func(dir string) error { return os.Remove(filepath.Join(dir, SHA256)) }, "", []string{SHA256}},
		"SFV empty":         {edit(SFV, func(string) string { return "" }), "Checksums.sfv lacks 2 of the manifest's 2 files", nil},
		"SFV short":         {edit(SFV, first), "Checksums.sfv lacks 1 of", nil},
		"SFV twice":         {edit(SFV, func(s string) string { return s + first(s) }), "Checksums.sfv contradicts the manifest: it has the line layout.json", nil},
		"SFV other file":    {edit(SFV, func(s string) string { return s + "x 00000000\n" }), "Checksums.sfv contradicts the manifest: it has the line x 00000000", nil},
		"SFV other sum":     {edit(SFV, func(s string) string { return s[:strings.Index(s, ar)] + ar + " 00000001\n" }), "it has the line " + ar + " 00000001", nil},
		"SFV no sum":        {edit(SFV, func(s string) string { return strings.Replace(s, ar+" ", ar+" x", 1) }), "Checksums.sfv contradicts", nil},
		"SFV other text":    {edit(SFV, func(s string) string { return "text\n" + s }), "Checksums.sfv contradicts the manifest: it has the line text", nil},
		"SFV empty line":    {edit(SFV, func(s string) string { return s + "\n" }), "Checksums.sfv contradicts", nil},
		"SHA-256 other sum": {edit(SHA256, func(s string) string { return strings.Repeat("0", 64) + s[64:] }), "SHA256SUMS contradicts", nil},
		"SHA-256 twice":     {edit(SHA256, func(s string) string { return s + first(s) }), "SHA256SUMS contradicts", nil},
	} {
		for _, encrypted := range []bool{false, true} {
			dir := set(t)
			writeLists(t, dir)
			if err := c.change(dir); err != nil {
				t.Fatal(err)
			}
			d := Door{Identities: func(bool) ([]age.Identity, error) { return []age.Identity{id}, nil }}
			if encrypted {
				from, err := Open(dir)
				if err != nil {
					t.Fatal(err)
				}
				dir, _ = encrypt(t, from, id.Recipient(), "")
				from.Close()
			}
			s, err := d.Open(t.Context(), dir)
			if err != nil {
				t.Errorf("%s, encrypted %v: Open() = %v; want that it can be read", what, encrypted, err)
				continue
			}
			if err := s.Verify(t.Context(), false, progress.None{}); err != nil {
				t.Errorf("%s, encrypted %v: Verify() = %v; want that a restore is possible", what, encrypted, err)
			}
			err = s.ListFault
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s, encrypted %v: ListFault = %v; want %q", what, encrypted, err, c.want)
			}
			if !slices.Equal(s.Missing, c.missing) {
				t.Errorf("%s, encrypted %v: Missing = %q; want %q", what, encrypted, s.Missing, c.missing)
			}
			s.Close()
		}
	}
}
