package nightly

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/regular"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

const (
	timerUnit = "mkcdrec.timer"
	dropIn    = "/etc/systemd/system/mkcdrec.timer.d/at.conf"
	cronFile  = "/etc/cron.d/mkcdrec"
)

// Timer begins a backup every day.
type Timer struct {
	Run     tool.Runner
	Root    string // of the file system, "" for this machine's
	Program string // path of mkcdrec, for cron
}

// systemd reports whether systemd runs this machine; sd_booted(3).
func (t Timer) systemd() bool {
	st, err := os.Stat(t.Root + "/run/systemd/system")
	return err == nil && st.IsDir()
}

// Enabled reports whether a backup begins every day.
func (t Timer) Enabled(ctx context.Context) bool {
	if t.systemd() {
		out, err := t.Run.Run(ctx, tool.New("systemctl", "is-enabled", timerUnit))
		if err == nil && strings.TrimSpace(string(out)) == "enabled" {
			return true
		}
	}
	_, err := os.Stat(t.Root + cronFile)
	return err == nil
}

// write writes a file of root's that everyone may read.
func (t Timer) write(name, text string) error {
	if err := os.MkdirAll(filepath.Dir(t.Root+name), 0o755); err != nil {
		return err
	}
	return regular.WriteFileMode(t.Root+name, []byte(text), 0o644)
}

// remove removes a file, and reports whether it was there.
func (t Timer) remove(name string) (bool, error) {
	err := os.Remove(t.Root + name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

func (t Timer) systemctl(ctx context.Context, words ...string) error {
	_, err := t.Run.Run(ctx, tool.New(append([]string{"systemctl"}, words...)...))
	return err
}

// Enable has a backup begin every day: at a time such as 02:30, or, with "", between 1 and 5 in
// the morning. It returns what it did.
func (t Timer) Enable(ctx context.Context, at string) (did []string, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("cannot enable the nightly backup: %w", err)
		}
	}()
	when, err := time.Parse("15:04", "01:00")
	if at != "" {
		if when, err = ParseAt(at); err != nil {
			return nil, err
		}
	}
	if !t.systemd() {
		if err := t.write(cronFile, fmt.Sprintf("# Made by mkcdrec enable; mkcdrec disable removes it.\nPATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n%d %d * * * root %s -q path\n", when.Minute(), when.Hour(), t.Program)); err != nil {
			return nil, err
		}
		return []string{fmt.Sprintf("%s begins a backup every day at %s", cronFile, when.Format("15:04"))}, nil
	}
	if at == "" {
		removed, err := t.remove(dropIn)
		if err != nil {
			return nil, err
		}
		if removed {
			did = append(did, "removed: "+dropIn)
		}
	} else {
		// The first line clears what the package's unit has.
		if err := t.write(dropIn, fmt.Sprintf("# Made by mkcdrec enable; mkcdrec disable removes it.\n[Timer]\nOnCalendar=\nOnCalendar=*-*-* %s:00\nRandomizedDelaySec=0\n", when.Format("15:04"))); err != nil {
			return nil, err
		}
		did = append(did, dropIn+" has the time "+when.Format("15:04"))
	}
	if err := t.systemctl(ctx, "daemon-reload"); err != nil {
		return did, err
	}
	if err := t.systemctl(ctx, "enable", timerUnit); err != nil {
		return did, err
	}
	// A timer that runs already takes a new time only when it is started again.
	if err := t.systemctl(ctx, "restart", timerUnit); err != nil {
		return did, err
	}
	// One of cron, from before there was systemd, would begin a second one.
	removed, err := t.remove(cronFile)
	if removed {
		did = append(did, "removed: "+cronFile)
	}
	return append(did, timerUnit+" is enabled and runs"), err
}

// Disable is the reverse of Enable; a backup that runs is not ended. An error of one step does
// not keep it from the others: err has all of them.
func (t Timer) Disable(ctx context.Context) (did []string, err error) {
	var errs []error
	if t.systemd() {
		if err := t.systemctl(ctx, "disable", "--now", timerUnit); err != nil {
			errs = append(errs, err)
		} else {
			did = append(did, timerUnit+" is disabled")
		}
	}
	for _, f := range []string{dropIn, cronFile} {
		removed, err := t.remove(f)
		errs = append(errs, err)
		if !removed {
			continue
		}
		did = append(did, "removed: "+f)
		if f == dropIn && t.systemd() {
			errs = append(errs, t.systemctl(ctx, "daemon-reload"))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return did, fmt.Errorf("cannot disable the nightly backup: %w", err)
	}
	if len(did) == 0 {
		did = []string{"no nightly backup was enabled"}
	}
	return did, nil
}

// ParseAt reads a time of the day, 00:00 to 23:59.
func ParseAt(s string) (time.Time, error) {
	t, err := time.Parse("15:04", s)
	if err != nil || len(s) != len("15:04") {
		return t, fmt.Errorf("time %q; want hours and minutes such as 02:30", s)
	}
	return t, nil
}
