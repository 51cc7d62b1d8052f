package disks

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/printable"
	"github.com/mkcdrec/mkcdrec/internal/tools"
)

var levels = []string{"emerg", "alert", "crit", "err", "warn", "notice", "info", "debug"}

var facilities = []string{"kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp"}

// syslog(2)'s actions.
const (
	actionClear        = 5
	actionConsoleOff   = 6
	actionConsoleOn    = 7
	actionConsoleLevel = 8
)

// control clears the kernel's log, or sets what of it is printed on the console.
func control(o tools.Option) error {
	switch o.Name {
	case "C":
		return klog(actionClear, 0)
	case "D":
		return klog(actionConsoleOff, 0)
	case "E":
		return klog(actionConsoleOn, 0)
	}
	n, err := strconv.Atoi(o.Value)
	if err != nil {
		n = slices.Index(levels, o.Value) + 1
	}
	if n < 1 || n > 8 {
		return fmt.Errorf("unknown level '%s'", o.Value)
	}
	return klog(actionConsoleLevel, n)
}

// dmesg reads /dev/kmsg, whose records do not get lost between two reads.
func dmesg(e *tools.Env) error {
	e.Ignore("H")
	if o, ok := e.Last("C", "D", "E", "n"); ok {
		return control(o)
	}
	fd, err := unix.Open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("read kernel buffer failed: %s", tools.Cause(err))
	}
	f := os.NewFile(uintptr(fd), "/dev/kmsg")
	defer f.Close()
	up := time.Now().Add(-uptime())
	if e.On("W") {
		if _, err := unix.Seek(fd, 0, unix.SEEK_END); err != nil {
			return err
		}
	}
	buf := make([]byte, 16<<10)
	for {
		n, err := unix.Read(fd, buf)
		switch {
		case errors.Is(err, unix.EPIPE): // records were overwritten
			continue
		case errors.Is(err, unix.EAGAIN) && e.On("w", "W"):
			if err := e.Out.Flush(); err != nil {
				return err
			}
			time.Sleep(200 * time.Millisecond)
			continue
		case errors.Is(err, unix.EAGAIN):
			if e.On("c") {
				return klog(actionClear, 0)
			}
			return nil
		case err != nil:
			return err
		}
		if err := record(e, string(buf[:n]), up); err != nil {
			return err
		}
	}
}

func klog(action, n int) error {
	if _, _, err := unix.Syscall(unix.SYS_SYSLOG, uintptr(action), 0, uintptr(n)); err != 0 {
		return fmt.Errorf("klogctl failed: %s", tools.Cause(err))
	}
	return nil
}

func uptime() time.Duration {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

// hidden reports whether the options leave a record out.
func hidden(e *tools.Env, level, facility string, kernel bool) bool {
	l := e.Val("l")
	return l != "" && !matches(l, level) || e.On("f") && !slices.Contains(strings.Split(e.Val("f"), ","), facility) || e.On("k") && !kernel || e.On("u") && kernel
}

// record prints a record: "priority,sequence,microseconds,flags;text", and lines of a
// dictionary that begin with a blank.
func record(e *tools.Env, s string, boot time.Time) error {
	head, text, ok := strings.Cut(s, ";")
	f := strings.Split(head, ",")
	if !ok || len(f) < 3 {
		return nil
	}
	text, _, _ = strings.Cut(text, "\n")
	prio, err := strconv.Atoi(f[0])
	micro, err2 := strconv.ParseInt(f[2], 10, 64)
	if err := errors.Join(err, err2); err != nil {
		return err
	}
	level := levels[prio&7]
	facility := "user"
	if prio>>3 < len(facilities) {
		facility = facilities[prio>>3]
	}
	if hidden(e, level, facility, prio>>3 == 0) {
		return nil
	}
	when := boot.Add(time.Duration(micro) * time.Microsecond)
	stamp := fmt.Sprintf("[%5d.%06d] ", micro/1e6, micro%1e6)
	switch {
	case e.On("t"):
		stamp = ""
	case e.On("T"):
		stamp = when.Format("[Mon Jan _2 15:04:05 2006] ")
	case e.Val("time-format") == "iso":
		stamp = when.Format("2006-01-02T15:04:05,000000-07:00 ")
	}
	switch {
	case e.On("r"):
		stamp = fmt.Sprintf("<%d>%s", prio, stamp)
	case e.On("x"):
		stamp = fmt.Sprintf("%-6s:%-6s: %s", facility, level, stamp)
	}
	e.Printf("%s%s\n", stamp, printable.Clean(unhex(text)))
	return nil
}

// matches reads a list of levels; "err+" has those above, too.
func matches(list, level string) bool {
	return slices.ContainsFunc(strings.Split(list, ","), func(w string) bool {
		name, up := strings.CutSuffix(w, "+")
		return name == level || up && slices.Index(levels, level) < slices.Index(levels, name)
	})
}

// unhex replaces the \xNN of a record.
func unhex(s string) string {
	for i := strings.Index(s, `\x`); i >= 0 && i+4 <= len(s); {
		n, err := strconv.ParseUint(s[i+2:i+4], 16, 8)
		if err != nil {
			return s
		}
		s = s[:i] + string([]byte{byte(n)}) + s[i+4:]
		j := strings.Index(s[i+1:], `\x`)
		if j < 0 {
			return s
		}
		i += 1 + j
	}
	return s
}

// kernelLog opens the kernel's messages behind the last one; nil if they can't be read.
func kernelLog() *os.File {
	fd, err := unix.Open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	if _, err := unix.Seek(fd, 0, io.SeekEnd); err != nil {
		unix.Close(fd)
		return nil
	}
	return os.NewFile(uintptr(fd), "/dev/kmsg")
}

// newLines gives the last messages since kernelLog.
func newLines(log *os.File) []string {
	var out []string
	buf := make([]byte, 8192)
	for log != nil {
		n, err := unix.Read(int(log.Fd()), buf)
		if err != nil {
			break
		}
		if _, text, ok := strings.Cut(string(buf[:n]), ";"); ok {
			text, _, _ = strings.Cut(text, "\n")
			out = append(out, unhex(text))
		}
	}
	return out[max(0, len(out)-3):]
}
