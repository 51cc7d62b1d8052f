package shell

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	"mvdan.cc/sh/v3/expand"
	"mvdan.cc/sh/v3/interp"
)

// printers are the builtins that are there to print. The interpreter's own ignore
// that a write fails; these end with 1 then, as POSIX has it.
// help and kill are programs: the interpreter has another help, and no kill.
var printers = []string{"echo", "printf", "pwd", "help", "kill"}

// printer marks the name of a builtin that is one of ours: no program is called so.
const printer = "\x00"

// checkPrinters has r run our printers in the place of its own, and in a session also job
// control and history.
func checkPrinters(r *interp.Runner, s *session) error {
	printers := printers
	if s.hist != nil {
		printers = append(slices.Clone(printers), "history")
	}
	if s.jobs != nil {
		printers = append(printers, jobBuiltins...)
	}
	call := interp.CallHandler(func(_ context.Context, args []string) ([]string, error) {
		return s.call(r, printers, args), nil
	})
	exec := interp.ExecHandlers(func(next interp.ExecHandlerFunc) interp.ExecHandlerFunc {
		return func(ctx context.Context, args []string) error {
			name, ok := strings.CutPrefix(args[0], printer)
			if !ok {
				return next(ctx, args)
			}
			if name == "help" || name == "kill" {
				return next(ctx, append([]string{name}, args[1:]...))
			}
			hc := interp.HandlerCtx(ctx)
			text, err := s.printed(ctx, hc, name, args[1:])
			if es := interp.ExitStatus(0); errors.As(err, &es) {
				return err
			}
			if err != nil {
				fmt.Fprintf(hc.Stderr, "sh: %s: %v\n", name, err)
				return interp.ExitStatus(2)
			}
			switch _, err := io.WriteString(hc.Stdout, text); {
			case err == nil:
				return nil
			case errors.Is(err, unix.EPIPE): // the signal would end another shell's echo without a message
				return interp.ExitStatus(128 + uint8(unix.SIGPIPE))
			default:
				fmt.Fprintf(hc.Stderr, "sh: %s: cannot write: %v\n", name, err)
				return interp.ExitStatus(1)
			}
		}
	})
	err := errors.Join(call(r), exec(r))
	if s.jobs != nil {
		err = errors.Join(err, interp.ExecHandlers(s.jobs.exec)(r), interp.OpenHandler(open)(r))
	}
	return err
}

// open opens a file, for which a FIFO without another end waits until ctx ends.
func open(ctx context.Context, path string, flags int, mode os.FileMode) (io.ReadWriteCloser, error) {
	var f io.ReadWriteCloser
	var err error
	done := make(chan struct{})
	go func() {
		f, err = interp.DefaultOpenHandler()(ctx, path, flags, mode)
		if close(done); err == nil && ctx.Err() != nil {
			f.Close() // nobody waits any more
		}
	}()
	select {
	case <-done:
		return f, err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// call marks the commands that are builtins of ours.
func (s *session) call(r *interp.Runner, printers, args []string) []string {
	a := args
	if len(a) > 1 && (a[0] == "command" || a[0] == "builtin") && slices.Contains(printers, a[1]) {
		a = a[1:]
	} else if r.Funcs[a[0]] != nil {
		return args
	}
	if a[0] == "kill" && s.jobs != nil && len(a) > 1 {
		a = s.jobs.group(a)
		args = a
	}
	if !slices.Contains(printers, a[0]) {
		return args
	}
	return append([]string{printer + a[0]}, a[1:]...)
}

// printed is what a builtin prints. Those of job control print by themselves.
func (s *session) printed(ctx context.Context, hc interp.HandlerContext, name string, args []string) (string, error) {
	switch {
	case slices.Contains(jobBuiltins, name):
		return "", s.jobs.builtin(ctx, name, args)
	case name == "history":
		return s.hist.text(), nil
	}
	return printed(hc, name, args)
}

// printed is what a printer prints. Its options are those of the interpreter's.
func printed(hc interp.HandlerContext, name string, args []string) (string, error) {
	config := &expand.Config{Env: hc.Env}
	switch name {
	case "printf":
		if len(args) == 0 {
			return "", errors.New("usage: printf FORMAT [ARGUMENT...]")
		}
		var b strings.Builder
		for rest := args[1:]; ; {
			s, n, err := expand.Format(config, args[0], rest)
			if err != nil {
				return "", err
			}
			b.WriteString(s)
			if rest = rest[n:]; n == 0 || len(rest) == 0 {
				return b.String(), nil
			}
		}
	case "pwd":
		dir := hc.Env.Get("PWD").String()
		for _, a := range args {
			switch a {
			case "-L":
				dir = hc.Env.Get("PWD").String()
			case "-P":
				real, err := filepath.EvalSymlinks(hc.Dir)
				if err != nil {
					return "", err
				}
				dir = real
			default:
				return "", fmt.Errorf("unknown option %q", a)
			}
		}
		return dir + "\n", nil
	}
	end, escapes := "\n", false
	for len(args) > 0 && (args[0] == "-n" || args[0] == "-e" || args[0] == "-E") {
		switch args[0] {
		case "-n":
			end = ""
		case "-e":
			escapes = true
		}
		args = args[1:]
	}
	out := slices.Clone(args)
	if escapes {
		for i := range out {
			out[i], _, _ = expand.Format(config, out[i], nil) // what is wrong stays as it is
		}
	}
	return strings.Join(out, " ") + end, nil
}
