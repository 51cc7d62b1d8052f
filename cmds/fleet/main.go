// Command fleet joins this machine to the room of a `mkcdrec serve`: it registers, waits
// until it is released there, restores what it is told, and reports. init starts it when
// the kernel command line has mkcdrec.fleet and mkcdrec.fleetcert.
//
// Synopsis:
//
//	fleet [https://SERVER:PORT SHA256]
//
// SHA256 is that of the server's certificate, in hex. Without arguments both are taken
// from the kernel command line. It runs in a rescue system only.
//
// Exit status: 0 the machine is being stopped, 1 failed, 2 wrong usage.
package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/fleet"
	"github.com/mkcdrec/mkcdrec/internal/fleet/client"
	"github.com/mkcdrec/mkcdrec/internal/interrupt"
	"github.com/mkcdrec/mkcdrec/internal/printable"
	"github.com/mkcdrec/mkcdrec/internal/rescue"
	"github.com/mkcdrec/mkcdrec/internal/rescueinit"
	"github.com/mkcdrec/mkcdrec/internal/sysconf"
)

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	ctx, stop := interrupt.Context(context.Background())
	defer stop()
	err := join(ctx, args)
	if err != nil {
		fmt.Fprintln(os.Stderr, "fleet:", printable.CleanLines(exit.Interrupted(err).Error()))
	}
	return exit.Code(err)
}

func join(ctx context.Context, args []string) error {
	if !rescue.Inside() {
		return errors.New("refused: this is not a rescue system")
	}
	switch len(args) {
	case 0:
		line, err := sysconf.RunningCmdline("")
		if err != nil {
			return err
		}
		o, _ := rescue.ParseCmdline(line) // init has reported unknown words
		if o.Fleet == "" {
			return exit.Usage(errors.New("the kernel command line names no server; want https://SERVER:PORT and the SHA-256 of its certificate"))
		}
		args = []string{o.Fleet, o.FleetCert}
	case 2:
	default:
		return exit.Usage(errors.New("want https://SERVER:PORT and the SHA-256 of its certificate"))
	}
	swarm := ""
	if p, err := exec.LookPath("mkcdrec-swarm"); err == nil {
		swarm = p
	}
	c, err := client.New(client.Config{
		Server: args[0], Fingerprint: args[1],
		Facts: func(ctx context.Context) (*fleet.Registration, error) { return client.Facts(ctx, args[0]) },
		Run:   restore,
		Swarm: swarm, Target: rescue.TargetDir,
		Stop: func(how string) error { return rescueinit.Power(how, false) },
		Say:  func(f string, a ...any) { fmt.Fprintf(os.Stderr, "fleet: "+f+"\n", a...) },
	})
	if err != nil {
		return exit.Usage(err)
	}
	return c.Join(ctx)
}

// maxLine is the longest event that is read; longer ones end the reading.
const maxLine = 16 << 20

// restore runs the command of that name.
func restore(ctx context.Context, args []string, event func([]byte)) (int, string, error) {
	c := exec.CommandContext(ctx, "/bbin/restore", args...)
	c.Cancel = func() error { return c.Process.Signal(unix.SIGTERM) }
	out, err := c.StdoutPipe()
	if err != nil {
		return 0, "", err
	}
	text := &tail{}
	c.Stderr = io.MultiWriter(os.Stderr, text)
	if err := c.Start(); err != nil {
		return 0, "", err
	}
	s := bufio.NewScanner(out)
	s.Buffer(nil, maxLine)
	for s.Scan() {
		event(bytes.Clone(s.Bytes()))
	}
	_, _ = io.Copy(io.Discard, out) // a line that was too long must not stop restore
	err = c.Wait()
	if e := (*exec.ExitError)(nil); errors.As(err, &e) {
		if e.ExitCode() < 0 {
			return exit.Failed, e.String(), nil
		}
		return e.ExitCode(), text.String(), nil
	}
	return 0, text.String(), err
}

// tail keeps the end of a text.
type tail struct{ b []byte }

func (t *tail) Write(p []byte) (int, error) {
	const keep = 4096
	t.b = append(t.b, p...)
	if n := len(t.b) - keep; n > 0 {
		t.b = append(t.b[:0], t.b[n:]...)
	}
	return len(p), nil
}

func (t *tail) String() string { return strings.TrimSpace(string(t.b)) }
