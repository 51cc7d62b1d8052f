//go:build vmtest

package vmtest

import (
	"os"
	"path/filepath"
	"testing"
)

// TestHome backs machines up to servers, changes them, backs them up once more, and restores
// them over the network: two of the sets are encrypted, one is read from snapshots, all are
// signed.
func TestHome(t *testing.T) {
	onlyAll(t)
	s, err := StartServers(t.Context(), filepath.Join(t.TempDir(), "servers"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	if _, err := os.Stat(Versity); err == nil {
		if err := s.S3(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for _, h := range []struct {
		kind, machine     string
		encrypt, snapshot bool
	}{
		{"sftp", BIOSLVM, true, true},
		{"nfs", UEFIPlain, false, false},
		{"smb", BIOSPlain, false, false},
		{"s3", UEFIPlain, true, false},
	} {
		t.Run("home-"+h.kind, func(t *testing.T) {
			t.Parallel()
			if h.kind == "s3" && s.Ports["s3"] == 0 {
				t.Skipf("no %s: the tests of internal/store build it with MKCDREC_ALL=1", Versity)
			}
			runCircle(t, Circle{Kind: h.machine, Home: &Home{Servers: s, Kind: h.kind, Encrypt: h.encrypt, Snapshot: h.snapshot}, TargetSize: machines[h.machine].smaller})
		})
	}
}
