// Package exit turns errors into the exit statuses that all commands share.
package exit

import (
	"errors"
	"fmt"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/interrupt"
	"github.com/mkcdrec/mkcdrec/internal/plan"
	"github.com/mkcdrec/mkcdrec/internal/ui"
)

// Exit statuses.
const (
	OK       = 0
	Failed   = 1
	BadUsage = 2
	Partial  = 3
	Refused  = 4
)

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

// Code gives the exit status for an error.
func Code(err error) int {
	var u usage
	var n notCovered
	var r *plan.Refused
	// A refusal in the middle of a restore: disks were touched before it.
	var late interface{ Touched() bool }
	switch {
	case err == nil:
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
		return fmt.Errorf("interrupted: %w", err)
	}
	return err
}

// Status prints the error, if any, and gives the exit status. A run whose events did
// not reach their reader has failed, whatever else it did.
func Status(p *ui.Printer, name string, err error, hint string) int {
	if err = Interrupted(err); err != nil {
		p.Error(name, err, hint)
	}
	code := Code(err)
	if lost := p.Lost(); lost != nil {
		p.Plain(name, errors.Join(lost, err))
		if code == OK || code == Partial {
			code = Failed
		}
	}
	return code
}
