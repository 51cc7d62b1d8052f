package machine

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/tools"
)

func clockCommands() []tools.Command {
	return []tools.Command{{Name: "hwclock", Opts: "r/show get s/hctosys w/systohc systz a/adjust set date: u/utc l/localtime f/rtc: v/verbose noadjfile adjfile: D/debug test directisa update-drift", Synopsis: "[-r|-s|-w|--set --date=TIME]", Run: hwclock}}
}

// clockFrom gives the time of a hardware clock, which has a date and a zone of its own.
func clockFrom(t *unix.RTCTime, zone *time.Location) time.Time {
	return time.Date(int(t.Year)+1900, time.Month(t.Mon)+1, int(t.Mday), int(t.Hour), int(t.Min), int(t.Sec), 0, zone)
}

func clockTo(t time.Time, zone *time.Location) *unix.RTCTime {
	t = t.In(zone)
	return &unix.RTCTime{Sec: int32(t.Second()), Min: int32(t.Minute()), Hour: int32(t.Hour()), Mday: int32(t.Day()), Mon: int32(t.Month()) - 1, Year: int32(t.Year()) - 1900}
}

// clockZone is the zone of the hardware clock: that of an option, or of adjtime(5).
func clockZone(e *tools.Env) *time.Location {
	b, err := os.ReadFile(e.Or("adjfile", "/etc/adjtime"))
	if err != nil {
		b = nil
	}
	lines := strings.Split(string(b), "\n")
	if o, _ := e.Last("u", "l"); o.Name == "l" || o.Name == "" && len(lines) > 2 && lines[2] == "LOCAL" {
		return time.Local
	}
	return time.UTC
}

func hwclock(e *tools.Env) error {
	if err := e.Need(0, 0); err != nil {
		return err
	}
	if e.On("a", "systz", "update-drift", "directisa") {
		return errors.New("only -r, -s, -w and --set are supported")
	}
	f, err := openClock(e.Val("f"))
	if err != nil {
		return err
	}
	defer f.Close()
	zone := clockZone(e)
	read := func() (time.Time, error) {
		t, err := unix.IoctlGetRTCTime(int(f.Fd()))
		if err != nil {
			return time.Time{}, fmt.Errorf("cannot read the hardware clock: %s", tools.Cause(err))
		}
		return clockFrom(t, zone), nil
	}
	switch {
	case e.On("w", "set"):
		to := time.Time{}
		if e.On("set") {
			if to, err = tools.ParseDate(e.Val("date"), time.Now()); err != nil {
				return err
			}
		}
		return writeClock(e, f, to, zone)
	case e.On("s"):
		t, err := tick(read)
		if err != nil || e.On("test") {
			return err
		}
		tv := unix.NsecToTimeval(t.UnixNano())
		if err := unix.Settimeofday(&tv); err != nil {
			return fmt.Errorf("cannot set the system's clock: %s", tools.Cause(err))
		}
		return nil
	}
	t, err := tick(read)
	if err != nil {
		return err
	}
	e.Printf("%s\n", t.In(time.Local).Format("2006-01-02 15:04:05.000000-07:00"))
	return nil
}

// openClock opens the clock that is named, or the first one.
func openClock(name string) (*os.File, error) {
	names := []string{name}
	if name == "" {
		names = []string{"/dev/rtc0", "/dev/rtc", "/dev/misc/rtc"}
	}
	var first error
	for _, n := range names {
		f, err := os.Open(n)
		if err == nil {
			return f, nil
		}
		if first == nil {
			first = fmt.Errorf("cannot access the hardware clock: %s: %s", n, tools.Cause(err))
		}
	}
	return nil, first
}

// tick waits for the clock's next second, for at most two, and gives it.
func tick(read func() (time.Time, error)) (time.Time, error) {
	first, err := read()
	if err != nil {
		return first, err
	}
	for range 400 {
		t, err := read()
		if err != nil || !t.Equal(first) {
			return t, err
		}
		time.Sleep(5 * time.Millisecond)
	}
	return first, errors.New("the hardware clock does not run")
}

// writeClock sets the clock; the zero time is the system's. A PC's clock begins its next
// second half a second after it was set.
func writeClock(e *tools.Env, f *os.File, to time.Time, zone *time.Location) error {
	if to.IsZero() {
		now := time.Now()
		time.Sleep(now.Truncate(time.Second).Add(1500*time.Millisecond).Sub(now) % time.Second)
		to = time.Now()
	}
	if e.On("test") {
		return nil
	}
	if err := unix.IoctlSetRTCTime(int(f.Fd()), clockTo(to, zone)); err != nil {
		return fmt.Errorf("cannot set the hardware clock: %s", tools.Cause(err))
	}
	return nil
}
