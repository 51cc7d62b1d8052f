package files

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/tools"
)

func dateCommands() []tools.Command {
	return []tools.Command{{Name: "date", Opts: "d/date: s/set: u/utc/universal r/reference: R/rfc-email I/iso-8601? rfc-3339: f/file:", Synopsis: "[+FORMAT]", Run: date}}
}

func random(n int) int { return rand.IntN(n) }

func date(e *tools.Env) error {
	now := time.Now()
	if e.On("u") {
		now = now.UTC()
	}
	if err := e.Need(0, 1); err != nil {
		return err
	}
	format := "%a %b %e %H:%M:%S %Z %Y"
	if len(e.Args) == 1 {
		if !strings.HasPrefix(e.Args[0], "+") {
			t, err := bootStamp(e.Args[0], now)
			if err != nil {
				return err
			}
			return setClock(e, t)
		}
		format = e.Args[0][1:]
	}
	if o, ok := e.Last("R", "I", "rfc-3339"); ok {
		var err error
		if format, err = isoFormat(o); err != nil {
			return err
		}
	}
	switch o, _ := e.Last("d", "s", "r", "f"); o.Name {
	case "d", "s":
		t, err := tools.ParseDate(o.Value, now)
		if err != nil {
			return err
		}
		if now = t.In(now.Location()); o.Name == "s" {
			if err := setClock(e, now); err != nil {
				return err
			}
		}
	case "r":
		st, err := os.Stat(o.Value)
		if err != nil {
			return fmt.Errorf("%s: %s", o.Value, tools.Cause(err))
		}
		now = st.ModTime().In(now.Location())
	case "f":
		return datesOf(e, o.Value, format, now)
	}
	e.Printf("%s\n", tools.Strftime(format, now))
	return nil
}

// datesOf prints the dates that a file has, one on each line.
func datesOf(e *tools.Env, name, format string, now time.Time) error {
	r, err := e.Open(name)
	if err != nil {
		return err
	}
	defer r.Close()
	for l, err := range tools.Lines(r, '\n') {
		if err != nil {
			return err
		}
		t, err := tools.ParseDate(string(tools.Chomp(l, '\n')), now)
		if err != nil {
			e.Warn("%v", err)
			continue
		}
		e.Printf("%s\n", tools.Strftime(format, t.In(now.Location())))
	}
	return nil
}

func isoFormat(o tools.Option) (string, error) {
	times := map[string]string{"": "", "date": "", "hours": "%H", "minutes": "%H:%M", "seconds": "%H:%M:%S", "ns": "%H:%M:%S"}
	t, ok := times[o.Value]
	if o.Name == "R" {
		return "%a, %d %b %Y %H:%M:%S %z", nil
	}
	frac, sep, zone := "", "T", "%:z"
	if o.Name == "rfc-3339" {
		sep = " "
	}
	if o.Value == "ns" {
		frac = ",%N"
		if o.Name == "rfc-3339" {
			frac = ".%N"
		}
	}
	switch {
	case !ok:
		return "", fmt.Errorf("invalid argument '%s' for '--%s'", o.Value, map[string]string{"I": "iso-8601", "rfc-3339": "rfc-3339"}[o.Name])
	case t == "":
		return "%Y-%m-%d", nil
	}
	return "%Y-%m-%d" + sep + t + frac + zone, nil
}

// bootStamp reads MMDDhhmm[[CC]YY][.ss], which sets the clock.
func bootStamp(s string, now time.Time) (time.Time, error) {
	main, sec, _ := strings.Cut(s, ".")
	if len(main) > 8 {
		main = main[8:] + main[:8]
	}
	if sec != "" {
		sec = "." + sec
	}
	t, err := stamp(main+sec, now)
	if err != nil {
		return t, fmt.Errorf("invalid date '%s'", s)
	}
	return t, nil
}

func setClock(e *tools.Env, t time.Time) error {
	tv := unix.NsecToTimeval(t.UnixNano())
	if err := unix.Settimeofday(&tv); err != nil {
		return errors.New("cannot set date: " + tools.Cause(err))
	}
	return nil
}
