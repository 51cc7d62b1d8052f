package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mkcdrec/mkcdrec/builder"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
)

// setsHere makes sets of this machine in a directory, named by their ages in days.
func setsHere(t *testing.T, ages map[string]int) string {
	t.Helper()
	dir := t.TempDir()
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for name, days := range ages {
		from := aSet(t, time.Now().AddDate(0, 0, -days))
		b, err := os.ReadFile(filepath.Join(from, manifest.File))
		if err != nil {
			t.Fatal(err)
		}
		m, err := manifest.Parse(b)
		if err != nil {
			t.Fatal(err)
		}
		m.Host = host
		if err := m.Write(from); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(from, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestPrune: the configuration's rules, options in their place, and a dry run that tells why.
func TestPrune(t *testing.T) {
	dir := setsHere(t, map[string]int{"a": 0, "b": 10, "c": 20})
	config := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(config, []byte("destination: "+dir+"\nkeep: {last: 2, weekly: 1}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	prune := func(args ...string) builder.PruneResult {
		t.Helper()
		status, out, errs := mkcdrec(t, "", append([]string{"-c", config, "--json", "prune"}, args...)...)
		var e struct{ Data builder.PruneResult }
		lines := strings.Split(strings.TrimSpace(out), "\n")
		if err := json.Unmarshal([]byte(lines[len(lines)-1]), &e); err != nil || status != 0 {
			t.Fatalf("prune %q: exit status %d, %v\n%s%s", args, status, err, out, errs)
		}
		return e.Data
	}
	r := prune("-n")
	if len(r.Sets) != 3 || len(r.Removed) > 0 || r.Sets[0].Remove || r.Sets[1].Remove || !r.Sets[2].Remove || strings.Join(r.Sets[0].Reasons, ",") != "last 1,weekly 1,last good set" {
		t.Errorf("prune -n = %+v", r)
	}
	if r := prune("--keep-last", "3"); len(r.Removed) > 0 {
		t.Errorf("prune --keep-last 3 removes %q", r.Removed)
	}
	if r := prune(); strings.Join(r.Removed, ",") != "c" {
		t.Errorf("prune removes %q; want c", r.Removed)
	}
	if _, err := os.Stat(filepath.Join(dir, "c")); err == nil {
		t.Error("c is still there")
	}
	if status, _, errs := mkcdrec(t, "", "prune", "--keep-daily", "-3", dir); status != 2 || !strings.Contains(errs, "keep.daily: -3") {
		t.Errorf("prune --keep-daily -3: exit status %d\n%s", status, errs)
	}
}
