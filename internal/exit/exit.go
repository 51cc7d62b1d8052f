// Package exit turns errors into the exit statuses that all commands share.
package exit

import (
	"context"
	"errors"
	"flag"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/interrupt"
)

// Exit statuses.
const (
	OK       = 0
	Failed   = 1
	BadUsage = 2
	Partial  = 3
	Refused  = 4
)

// Statuses are all exit statuses, as --help and the documents show them.
var Statuses = []struct {
	Code int
	Text string
}{
	{OK, "done"},
	{Failed, "failed, interrupted, or a check that found a difference"},
	{BadUsage, "wrong usage: an option, a word or the configuration; nothing was done"},
	{Partial, "done, but something that is listed is not covered"},
	{Refused, "refused for safety, or by a hook before the run; nothing was changed"},
}

type usage struct{ error }

func (u usage) Unwrap() error { return u.error }

// Usage marks an error as wrong usage.
func Usage(err error) error { return usage{err} }

type notCovered []string

func (n notCovered) Error() string {
	return "done, but this is not covered:\n" + strings.Join(n, "\n")
}

// NotCovered is the error of a run that is done, but incomplete.
func NotCovered(what []string) error { return notCovered(what) }

// Refusal is the error of what is refused for safety: nothing was touched.
type Refusal struct{ Reason string }

func (r *Refusal) Error() string { return "refused: " + r.Reason }

// Code gives the exit status for an error.
func Code(err error) int {
	var u usage
	var n notCovered
	var r *Refusal
	// A refusal in the middle of a restore: disks were touched before it.
	var late interface{ Touched() bool }
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return OK
	case errors.As(err, &late) && late.Touched(), interrupt.Is(err):
		return Failed
	case errors.As(err, &r):
		return Refused
	case errors.As(err, &n):
		return Partial
	case errors.As(err, &u):
		return BadUsage
	}
	return Failed
}

// Interrupted gives the error of a run that was interrupted a text that begins
// with "interrupted", and returns any other error as it is.
func Interrupted(err error) error {
	if interrupt.Is(err) && !strings.HasPrefix(err.Error(), "interrupted") {
		return interruption{err}
	}
	return err
}

type interruption struct{ error }

// Error leaves out what the library calls a cancelled context.
func (i interruption) Error() string {
	text := strings.TrimSuffix(strings.TrimSuffix(i.error.Error(), context.Canceled.Error()), ": ")
	return strings.TrimSuffix("interrupted: "+text, ": ")
}

func (i interruption) Unwrap() error { return i.error }

// Printer shows errors to people and to the reader of events.
type Printer interface {
	Error(name string, err error, hint string)
	// Plain prints an error where events can't be written.
	Plain(name string, err error)
	// Lost is the error of writing events, nil if their reader has them all.
	Lost() error
}

// Status prints the error, if any, and gives the exit status. A run whose events did
// not reach their reader has failed, even if all else worked. flag.ErrHelp is not an error.
func Status(p Printer, name string, err error, hint string) int {
	err = Interrupted(err)
	code := Code(err)
	if code == BadUsage && hint == "" {
		hint = "`" + name + " --help` lists words and options"
	}
	if code != OK {
		p.Error(name, err, hint)
	}
	if lost := p.Lost(); lost != nil {
		p.Plain(name, errors.Join(lost, err))
		if code == OK || code == Partial {
			code = Failed
		}
	}
	return code
}
