// Package swarmtest makes backup sets for the tests of the packages beside it.
package swarmtest

import (
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/archive"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
)

// Set makes a backup set with one archive of about size bytes of random content, and
// gives its directory.
func Set(t testing.TB, size int) string {
	t.Helper()
	return SetWith(t, size, 0)
}

// SetWith is Set with a medium of so many bytes beside the archive, if it is not 0.
func SetWith(t testing.TB, size, medium int) string {
	t.Helper()
	dir, src := t.TempDir(), t.TempDir()
	check := func(err error) {
		if err != nil {
			t.Helper()
			t.Fatal(err)
		}
	}
	r := rand.NewChaCha8([32]byte{byte(size), 1})
	for i, part := 0, size/3+1; i < 3; i++ {
		b := make([]byte, part)
		_, _ = r.Read(b)
		check(os.WriteFile(filepath.Join(src, string(rune('a'+i))), b, 0o644))
	}
	const name = "vda1._.tar.zst"
	root, err := os.Open(src)
	check(err)
	defer root.Close()
	f, err := os.Create(filepath.Join(dir, name))
	check(err)
	sum, err := archive.Create(context.Background(), f, root, archive.CreateOptions{})
	check(err)
	check(f.Close())
	lf, err := os.Create(filepath.Join(dir, manifest.Layout))
	check(err)
	check((&layout.Layout{Version: layout.Version, Boot: layout.Boot{Firmware: layout.BIOS}}).Write(lf))
	check(lf.Close())
	check(os.Mkdir(filepath.Join(dir, "log"), 0o700))
	check(os.WriteFile(filepath.Join(dir, "log/run.jsonl"), []byte("{}\n"), 0o600))
	names := []string{manifest.Layout, "log/run.jsonl", name}
	if medium > 0 {
		b := make([]byte, medium)
		_, _ = r.Read(b)
		check(os.WriteFile(filepath.Join(dir, manifest.RescueISO), b, 0o600))
		names = append(names, manifest.RescueISO)
	}
	m := &manifest.Manifest{Version: manifest.Version, ID: "01234567-89ab-cdef-0123-456789abcdef", Host: "h", Created: time.Unix(1, 0)}
	for _, n := range names {
		st, err := os.Stat(filepath.Join(dir, n))
		check(err)
		s, err := manifest.SumFile(context.Background(), filepath.Join(dir, n), progress.None{})
		check(err)
		m.Files = append(m.Files, manifest.FileSum{Name: n, Size: quantity.Size(st.Size()), SHA256: s})
		if n == name {
			m.Archives = []manifest.Archive{{File: n, Device: "vda1", Type: "ext4", Mount: "/", Size: quantity.Size(st.Size()), TarSize: quantity.Size(sum.Tar), Members: sum.Members, SHA256: s}}
		}
	}
	check(m.Write(dir))
	return dir
}
