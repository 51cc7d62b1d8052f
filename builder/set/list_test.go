package set

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/store/sealed"
	"github.com/mkcdrec/mkcdrec/internal/uuid"
)

// listedSet writes the manifest of a set below dir.
func listedSet(t *testing.T, dir, name, host string, day int) {
	t.Helper()
	d := filepath.Join(dir, name)
	if err := os.Mkdir(d, 0o700); err != nil {
		t.Fatal(err)
	}
	sums, err := This(host).Write(d)
	if err != nil {
		t.Fatal(err)
	}
	m := &manifest.Manifest{Version: manifest.Version, ID: uuid.New(), Host: host, Created: time.Date(2026, 11, day, 0, 0, 0, 0, time.UTC), Program: "test", Kernel: "6.1",
		Files: append(sums, manifest.FileSum{Name: manifest.Layout, Size: 7, SHA256: strings.Repeat("0", 64)})}
	if err := m.Write(d); err != nil {
		t.Fatal(err)
	}
}

// TestList: complete sets of one host, newest first; those that can't be read have no host.
func TestList(t *testing.T) {
	dir := t.TempDir()
	listedSet(t, dir, "a", "web", 1)
	listedSet(t, dir, "b", "web", 3)
	listedSet(t, dir, "c", "web", 3)
	listedSet(t, dir, "d", "db", 4)
	listedSet(t, dir, Partial+"web-e", "web", 5)
	listedSet(t, dir, "f", "web", 6)
	if err := os.WriteFile(filepath.Join(dir, "f", manifest.File), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "g"), 0o700); err != nil {
		t.Fatal(err)
	}
	sets, doubtful, err := List(dir, This("web"))
	var names []string
	for _, s := range sets {
		names = append(names, s.Name)
	}
	if err != nil || !slices.Equal(names, []string{"c", "b", "a"}) || len(doubtful) != 1 || doubtful[0].Name != "f" {
		t.Errorf("List() = %q, %v, %v; want c, b, a and f", names, doubtful, err)
	} else if sets[2].Created.Day() != 1 || sets[2].Size() < 7 {
		t.Errorf("List() has %v, %d bytes for a; want day 1, at least 7 bytes", sets[2].Created, sets[2].Size())
	}
	if _, _, err := List(dir+"/none", This("web")); err == nil {
		t.Error("List() of a directory that is not there = nil; want an error")
	}
}

// TestListEncrypted: encrypted sets of a machine are listed with the others, and one whose head has another time than
// its name is doubtful.
func TestListEncrypted(t *testing.T) {
	dir := t.TempDir()
	listedSet(t, dir, "a", "web", 1)
	to, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	put := func(name string, created time.Time) {
		t.Helper()
		d := filepath.Join(dir, name)
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
		w := sealed.NewWriter([]age.Recipient{to.Recipient()})
		_, head, err := w.Finish(sealed.Head{ID: uuid.New(), Host: "web", Created: created, Machine: This("web").sums()[0].SHA256})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(d, sealed.HeadFile), head, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	at := time.Date(2026, 11, 2, 3, 4, 5, 0, time.UTC)
	put(SetName("web", at), at)
	put(SetName("web", at.AddDate(0, 0, 1)), at.AddDate(-6, 0, 0))
	sets, doubtful, err := List(dir, This("web"))
	if err != nil || len(sets) != 2 || sets[0].Head == nil || sets[1].Name != "a" {
		t.Errorf("List() = %v, %v; want the encrypted set and a", sets, err)
	}
	if len(doubtful) != 1 || !strings.Contains(doubtful[0].Why, "another time than its name") {
		t.Errorf("doubtful: %v; want the one with another time", doubtful)
	}
	if err == nil && len(sets) == 2 {
		if d := sets[0].DamageOf(dir); !strings.Contains(d, sealed.IndexFile) {
			t.Errorf("DamageOf() = %q; want that %s is missing", d, sealed.IndexFile)
		}
	}
}
