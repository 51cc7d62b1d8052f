// Package hooks runs executables of the administrator before and after a backup or restore.
package hooks

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/interrupt"
	"github.com/mkcdrec/mkcdrec/internal/lazyregexp"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/regular"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

// Dir has a directory of hooks for each point. In the rescue system it is the only one.
const Dir = "/etc/mkcdrec/hooks.d"

// DefaultTimeout is how long one hook may run.
const DefaultTimeout = "5m"

// Points at which hooks run: the names of the directories below Config.Dir.
const (
	BeforeBackup   = "before-backup"
	BeforeSnapshot = "before-snapshot"
	AfterSnapshot  = "after-snapshot"
	AfterBackup    = "after-backup"
	BeforeRestore  = "before-restore"
	AfterRestore   = "after-restore"
)

// Points are all of them.
var Points = []string{BeforeBackup, BeforeSnapshot, AfterSnapshot, AfterBackup, BeforeRestore, AfterRestore}

// Config is where hooks are and how long each may run.
type Config struct {
	Dir     string `yaml:"dir"`
	Timeout string `yaml:"timeout"` // as time.ParseDuration takes it
}

// Limit is the time that one hook has.
func (c Config) Limit() (time.Duration, error) {
	d, err := time.ParseDuration(c.Timeout)
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("hooks.timeout: %q; want a time such as 30s, 5m or 1h", c.Timeout)
	}
	return d, nil
}

// Validate reports what is wrong with the configuration, all of it.
func (c Config) Validate() error {
	_, err := c.Limit()
	if !filepath.IsAbs(c.Dir) {
		err = errors.Join(err, fmt.Errorf("hooks.dir: %q; want a path from /", c.Dir))
	}
	return err
}

// passed are names that package managers and editors leave beside files.
var passed = lazyregexp.New(`^\.|~$|\.(bak|orig|swp|dpkg-\w+|ucf-\w+|rpm\w+)$`)

// List gives the hooks of a point in the order in which they run, by their paths. idle are
// files that are not executable. An error names what others than root could change.
func (c Config) List(point string) (hooks, idle []string, err error) {
	dir := filepath.Join(c.Dir, point)
	entries, err := os.ReadDir(dir) // by name
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("cannot list hooks: %w", err)
	}
	for _, e := range entries {
		file := filepath.Join(dir, e.Name())
		if passed().MatchString(e.Name()) {
			continue
		}
		st, err := os.Stat(file)
		switch {
		case err != nil:
			return nil, nil, &exit.Refusal{Reason: fmt.Sprintf("cannot use hook %s: %v", file, err)}
		case st.IsDir():
		case !st.Mode().IsRegular():
			return nil, nil, &exit.Refusal{Reason: fmt.Sprintf("hook %s is not a file", file)}
		case st.Mode()&0o111 == 0:
			idle = append(idle, file)
		default:
			hooks = append(hooks, file)
		}
	}
	for _, h := range hooks {
		if err := errors.Join(safe(h), canRun(h)); err != nil {
			return nil, nil, err
		}
	}
	return hooks, idle, nil
}

// safe refuses a hook that others than root, or the user who runs it, could change: itself,
// what a link leads to, or a directory above.
func safe(file string) error {
	real, err := filepath.EvalSymlinks(file)
	if err != nil {
		return fmt.Errorf("cannot use hook %s: %w", file, err)
	}
	for _, start := range slices.Compact([]string{file, real}) {
		for p := start; ; p = filepath.Dir(p) {
			st, err := os.Lstat(p)
			if err != nil {
				return fmt.Errorf("cannot use hook %s: %w", file, err)
			}
			if why := regular.Changeable(st); why != "" {
				return &exit.Refusal{Reason: fmt.Sprintf("hook %s would run as root, but %s %s", file, p, why)}
			}
			if p == "/" {
				break
			}
		}
	}
	return nil
}

// canRun refuses what the kernel can't start: a text without a first line that names its interpreter, or with one that is
// not there.
func canRun(file string) error {
	b, err := readStart(file)
	if err != nil {
		return fmt.Errorf("cannot use hook %s: %w", file, err)
	}
	program := interpreter(b)
	if program == "" {
		if !bytes.Contains(b, []byte{0}) {
			return &exit.Refusal{Reason: fmt.Sprintf("hook %s is a text without a first line such as #!/bin/sh, and can't be started", file)}
		}
		return nil
	}
	if _, err := exec.LookPath(program); err != nil {
		return &exit.Refusal{Reason: fmt.Sprintf("hook %s can't be started: its interpreter %s is not there, or is not executable", file, program)}
	}
	return nil
}

// readStart reads the first bytes of a file.
func readStart(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b := make([]byte, 256)
	n, _ := f.Read(b) // an empty file is not a script
	return b[:n], nil
}

// Interpreter gives the program that runs a script, by its first line, and "" for one that
// is not a script. "env [OPTION|NAME=VALUE]... PROGRAM" is PROGRAM.
func Interpreter(file string) (string, error) {
	b, err := readStart(file)
	return interpreter(b), err
}

// interpreter is Interpreter for the first bytes of a file.
func interpreter(b []byte) string {
	line, _, _ := bytes.Cut(b, []byte("\n"))
	words := strings.Fields(strings.TrimPrefix(string(line), "#!"))
	if !bytes.HasPrefix(line, []byte("#!")) || len(words) == 0 {
		return ""
	}
	if filepath.Base(words[0]) == "env" {
		for _, w := range words[1:] {
			if !strings.HasPrefix(w, "-") && !strings.Contains(w, "=") { // env -S NAME=VALUE PROGRAM ...
				return w
			}
		}
	}
	return words[0]
}

// Set are the hooks around one backup or restore.
type Set struct {
	Config
	Run    tool.Runner
	Report progress.Reporter
	// Env describes the run: NAME=VALUE. Before and After add to it.
	Env []string
	// Said are the lines that hooks have printed, with their names, up to mostLines.
	Said []string
}

// mostLines is the most that is kept of what hooks print.
const mostLines = 10_000

// Before runs the hooks of a point in order. One that fails stops the run: the error is an
// exit.Refusal.
func (s *Set) Before(ctx context.Context, point string) error {
	hooks, idle, err := s.List(point)
	if err != nil {
		return err
	}
	for _, f := range idle {
		s.Report.Warn("hook %s is not executable and does not run: run chmod +x, or remove it", f)
	}
	for _, h := range hooks {
		if err := s.one(ctx, point, h); err != nil {
			if ctx.Err() != nil {
				return interrupt.Err(ctx, err)
			}
			return &exit.Refusal{Reason: err.Error() + "\nnothing was written"}
		}
	}
	return nil
}

// After runs the hooks of a point in order, all of them, also when the run was interrupted.
// failed is how the run ended, nil for well. An error has the hooks that failed.
func (s *Set) After(ctx context.Context, point string, failed error) error {
	hooks, _, err := s.List(point)
	if err != nil {
		return err
	}
	env := s.Env
	defer func() { s.Env = env }()
	s.Env = append(slices.Clone(env), fmt.Sprintf("MKCDREC_STATUS=%d", exit.Code(failed)))
	if failed != nil {
		s.Env = append(s.Env, "MKCDREC_ERROR="+text(failed))
	}
	var errs []error
	for _, h := range hooks {
		errs = append(errs, s.one(context.WithoutCancel(ctx), point, h))
	}
	return errors.Join(errs...)
}

// Plan returns which hooks of a point would run.
func Plan(c Config, point string, rep progress.Reporter) error {
	files, _, err := c.List(point)
	for _, f := range files {
		rep.Note("would run hook %s", f)
	}
	return err
}

// Join gives the error of a run and of the hooks after it: the run's exit status counts,
// unless that is one of a run that is done.
func Join(run, hooks error) error {
	if hooks != nil && exit.Code(run) == exit.Partial {
		return fmt.Errorf("%w\n%v", hooks, run)
	}
	return errors.Join(run, hooks)
}

// maxError is the most of an error that hooks get, in bytes: an environment has a limit.
const maxError = 16 << 10

func text(err error) string {
	t := strings.ReplaceAll(err.Error(), "\x00", "")
	return t[:min(len(t), maxError)]
}

// one runs a hook.
func (s *Set) one(ctx context.Context, point, file string) error {
	limit, err := s.Limit()
	if err != nil {
		return err
	}
	name := point + "/" + filepath.Base(file)
	s.Report.Phase("hook "+name, 0)
	c, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("it was killed after %v", limit))
	defer cancel()
	n := 0
	_, err = s.Run.Run(c, tool.Cmd{Args: []string{file}, Env: append(slices.Clone(s.Env), "MKCDREC_HOOK="+point), Line: func(l string) {
		switch n++; {
		case n < mostLines:
			s.say("%s: %s", name, l)
		case n == mostLines:
			s.say("%s: what it prints after %d lines is left out", name, n)
		}
	}})
	var e *tool.Error
	if errors.As(err, &e) {
		err = e.Err
	}
	if err != nil {
		return fmt.Errorf("hook %s failed: %w", file, err)
	}
	return nil
}

func (s *Set) say(format string, args ...any) {
	l := fmt.Sprintf(format, args...)
	s.Report.Note("%s", l)
	if len(s.Said) < mostLines {
		s.Said = append(s.Said, l)
	}
}
