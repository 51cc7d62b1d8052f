package set

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/regular"
	"github.com/mkcdrec/mkcdrec/internal/store"
)

// Directory is a sink below a directory: the set has a temporary name until it is whole.
type Directory struct {
	claim  *claim
	final  string
	report progress.Reporter
}

// NewDirectory begins a set below parent, as parent/HOST-TIME. What a killed run of this
// machine has left there is removed.
func NewDirectory(parent, host string, created time.Time, report progress.Reporter) (*Directory, error) {
	c, name, err := claimName(parent, host, created)
	if err != nil {
		return nil, err
	}
	d := &Directory{claim: c, final: filepath.Join(parent, name), report: report}
	if err := removeStale(parent, host, c, report.Note); err != nil {
		return nil, errors.Join(err, d.Remove())
	}
	// Runs that encrypt leave other ones.
	home, err := store.OpenHome(context.Background(), parent, store.Access{})
	if err != nil {
		return nil, errors.Join(err, d.Remove())
	}
	(&Home{home: home, report: report}).removeStale(context.Background(), host)
	return d, home.Close()
}

// claimName claims the name of a new set: that of the time, or of a second after it, if another
// machine with this one's name has begun one at that time.
func claimName(parent, host string, created time.Time) (c *claim, name string, err error) {
	for range 60 {
		name = SetName(host, created)
		created = created.Add(time.Second)
		if _, err = os.Lstat(filepath.Join(parent, name)); err == nil {
			err = fmt.Errorf("cannot write the set: %s: %w", name, fs.ErrExist)
			continue
		}
		if c, err = newClaim(parent, name, host); !errors.Is(err, fs.ErrExist) {
			break
		}
	}
	return c, name, err
}

// Dir implements Sink.
func (d *Directory) Dir() string { return d.claim.dir }

// Final is the path that the set gets.
func (d *Directory) Final() string { return d.final }

// Begin warns if others can read the directory, or a file in it: its file system does not
// keep the modes that they were made with.
func (d *Directory) Begin(context.Context) error {
	for _, name := range []string{d.Dir(), filepath.Join(d.Dir(), "log/run.jsonl")} {
		st, err := os.Stat(name)
		if err != nil {
			continue // writing fails for the same reason
		}
		if why := Readable(d.final, st.Mode()); why != "" {
			d.report.Warn("the backup contains the files of all users: %s", why)
			break
		}
	}
	return nil
}

// Stream implements Sink.
func (d *Directory) Stream(ctx context.Context, name string, produce func(ctx context.Context, w io.Writer) error) error {
	f, err := os.OpenFile(filepath.Join(d.Dir(), name), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := produce(ctx, &regular.Behind{File: f}); err != nil {
		return err
	}
	d.report.Phase("writing "+name+" to its disk", 0)
	return errors.Join(f.Sync(), f.Close())
}

// Keep implements Sink.
func (d *Directory) Keep(string, int64, *os.File) error { return nil }

// Drop implements Sink.
func (d *Directory) Drop(name string) (string, error) {
	if err := os.Remove(filepath.Join(d.Dir(), name)); err != nil {
		return "", fmt.Errorf("cannot write the set: %w", err)
	}
	return "", nil
}

// Commit makes sure that all of the set is on the disk, and gives it its name.
func (d *Directory) Commit(context.Context) error {
	f, err := os.Open(d.Dir())
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return fmt.Errorf("cannot write the set to its disk: %w", err)
	}
	if err := os.Rename(d.Dir(), d.final); err != nil {
		return fmt.Errorf("cannot name the set: %w", err)
	}
	p, err := os.Open(filepath.Dir(d.final))
	if err != nil {
		return err
	}
	defer p.Close()
	if err := p.Sync(); err != nil {
		return err
	}
	if err := d.claim.release(); err != nil {
		d.report.Warn("%v", err)
	}
	return nil
}

// Remove implements Sink.
func (d *Directory) Remove() error {
	err := os.RemoveAll(d.Dir())
	if err != nil {
		err = fmt.Errorf("cannot remove the unfinished set: %w", err)
	}
	return errors.Join(err, d.claim.release())
}

// Readable is a warning about a file that others can read although it should have
// mode 0600; "" for none.
func Readable(file string, m os.FileMode) string {
	if m.Perm()&0o077 == 0 {
		return ""
	}
	return fmt.Sprintf("%s can be read by others (mode %04o): its file system does not keep permissions", file, m.Perm())
}

// SafeName is a host's name as a part of file names.
func SafeName(host string) string {
	s := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '.' {
			return r
		}
		return '_'
	}, host)
	if s = strings.TrimLeft(s, ".-"); s == "" {
		return "host"
	}
	return s
}
