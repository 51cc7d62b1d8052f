package restore

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/mkcdrec/mkcdrec/internal/agekey"
	"github.com/mkcdrec/mkcdrec/internal/archive"
	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/identity"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/rescue"
	"github.com/mkcdrec/mkcdrec/internal/storage"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

// renewed is a content whose layout has another identity.
type renewed struct {
	Content
	*identity.Identity
	run tool.Runner
}

// was gives the content's own name of a device.
func (r renewed) was(dev string) string {
	if old := r.Was[dev]; old != "" {
		return old
	}
	return dev
}

func (r renewed) Layout() *layout.Layout { return r.Identity.Layout }

func (r renewed) ID() (id, digest string) {
	id, digest = r.Content.ID()
	return id + " with a new identity", digest
}

func (r renewed) Header(c *layout.Crypt, ids agekey.Keys) ([]byte, error) {
	b, err := r.Content.Header(c, ids) // it knows the device by c.Header and c.Device, which are not volumes with other names
	if err != nil {
		return nil, err
	}
	return headerWith(r.run, b, r.Headers[c.Device])
}

func (r renewed) Files(ctx context.Context, dev string, m layout.Mount, dest string, o archive.ExtractOptions, rep progress.Reporter) (*archive.Summary, error) {
	return r.Content.Files(ctx, r.was(dev), m, dest, o, rep)
}

func (r renewed) Blocks(ctx context.Context, m *layout.Image, dst *os.File, rep progress.Reporter) error {
	was := *m
	was.Device = r.was(m.Device)
	return r.Content.Blocks(ctx, &was, dst, rep)
}

// headerWith gives a LUKS header another UUID.
func headerWith(run tool.Runner, header []byte, id string) ([]byte, error) {
	var out []byte
	err := withHeader(header, func(file string) (err error) {
		if err = storage.Cryptsetup(context.Background(), run, nil, "luksUUID", "--batch-mode", "--uuid", id, file); err == nil {
			out, err = os.ReadFile(file)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("cannot change a LUKS header: %w", err)
	}
	return out, nil
}

// seed gives what identities are made of: a new one, or that of the run before, which a
// run that is resumed has left in dir.
func seed(dir string, again bool) (string, error) {
	file := filepath.Join(dir, "identity")
	if again {
		b, err := os.ReadFile(file)
		if err != nil {
			return "", &exit.Refusal{Reason: fmt.Sprintf("there is no run with a new identity that could be resumed: %v", err)}
		}
		return string(b), nil
	}
	var b [16]byte
	rand.Read(b[:]) // never fails, by its documentation
	s := fmt.Sprintf("%x", b)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	return s, os.WriteFile(file, []byte(s), 0o600)
}

// renew gives the content another identity.
func (r *Restorer) renew(ctx context.Context) error {
	s, err := seed(r.kernel().Path(rescue.StateDir), r.opt.Resume)
	if err != nil {
		return fmt.Errorf("cannot make a new identity: %w", err)
	}
	var taken []string
	l := r.content.Layout()
	if len(l.VolumeGroup) > 0 {
		all, err := storage.Groups(ctx, r.Run)
		if err != nil {
			return err
		}
		for _, g := range all {
			taken = append(taken, g.Name)
		}
	}
	id, err := identity.New(l, s, taken)
	if err != nil {
		return fmt.Errorf("cannot make a new identity: %w", err)
	}
	for _, d := range id.Kept {
		r.Screen.Warn("%s keeps its UUID: it is copied block by block", d)
	}
	if r.set != nil && !r.set.WholeLayout() {
		return errors.New("cannot make a new identity for a backup of mkCDrec 1.x: its layout is not whole")
	}
	r.content, r.replace = renewed{r.content, id, r.Run}, id.Replace
	return nil
}
