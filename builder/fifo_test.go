package builder

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/builder/rescue"
	"github.com/mkcdrec/mkcdrec/builder/set"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/regular"
)

// TestNoWaitForFifos: a fifo or device in the place of a file that somebody named, or
// that is found beside the sets, is refused with its kind, and not waited for.
func TestNoWaitForFifos(t *testing.T) {
	dir := t.TempDir()
	fifo := func(name string) string {
		p := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o700), unix.Mkfifo(p, 0o600)); err != nil {
			t.Fatal(err)
		}
		return p
	}
	conf := fifo("mkcdrec.yaml")
	fifo(set.Partial + "host-20260101T000000Z.owner")
	fifo("backup/" + manifest.File)
	keys := fifo("keys")
	for name, fn := range map[string]func() error{
		"configuration": func() error { _, err := LoadConfig(conf, true); return err },
		"a device":      func() error { _, err := LoadConfig("/dev/zero", true); return err },
		"ssh keys": func() error {
			_, err := (&rescue.Config{SSHKeys: []string{keys}}).AuthorizedKeys()
			return err
		},
		"an owner file":  func() error { return set.RemoveStale(dir, "host", t.Logf) },
		"the other sets": func() error { generations(dir, "host"); return regular.ErrNot },
		"a backup's size": func() error {
			e, err := os.ReadDir(dir)
			if err != nil {
				return err
			}
			for _, x := range e {
				sizeOfBackup(filepath.Join(dir, x.Name()), x)
			}
			return regular.ErrNot
		},
	} {
		done := make(chan error, 1)
		go func() { done <- fn() }()
		select {
		case err := <-done:
			if !errors.Is(err, regular.ErrNot) {
				t.Errorf("%s: %v", name, err)
			}
			if name == "configuration" && !strings.Contains(err.Error(), "it is a fifo") {
				t.Errorf("%s: %v", name, err)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("%s: a fifo is waited for", name)
		}
	}
}
