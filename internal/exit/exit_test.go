package exit_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/interrupt"
	"github.com/mkcdrec/mkcdrec/internal/plan"
	"github.com/mkcdrec/mkcdrec/internal/recreate"
)

// 4 says that no disk was touched: not when a later step of a restore is refused.
func TestCode(t *testing.T) {
	refused := &exit.Refusal{Reason: "no"}
	for _, c := range []struct {
		err  error
		want int
	}{
		{nil, exit.OK}, {errors.New("x"), exit.Failed}, {exit.Usage(errors.New("x")), exit.BadUsage}, {exit.NotCovered([]string{"x"}), exit.Partial}, {fmt.Errorf("x: %w", refused), exit.Refused},
		{&plan.Undecided{Refusal: *refused}, exit.Refused},
		{&recreate.StepError{Number: 1, Err: refused}, exit.Refused},
		{&recreate.StepError{Number: 11, Err: refused}, exit.Failed},
		{errors.Join(&recreate.StepError{Number: 1, Err: errors.New("EIO")}, errors.New("x")), exit.Failed},
		{fmt.Errorf("x: %w", context.Canceled), exit.Failed},
		{errors.Join(exit.NotCovered([]string{"x"}), context.Canceled), exit.Failed},
		{errors.Join(refused, &interrupt.Signal{Sig: os.Interrupt}), exit.Failed},
	} {
		if got := exit.Code(c.err); got != c.want {
			t.Errorf("%v: %d; want %d", c.err, got, c.want)
		}
	}
}

func TestInterrupted(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{fmt.Errorf("cannot verify x: %w", context.Canceled), "interrupted: cannot verify x"},
		{context.Canceled, "interrupted"},
		{&interrupt.Signal{Sig: os.Interrupt}, "interrupted"},
		{errors.New("damaged"), "damaged"},
	} {
		if got := exit.Interrupted(c.err).Error(); got != c.want {
			t.Errorf("exit.Interrupted(%v) = %q; want %q", c.err, got, c.want)
		}
	}
	if err := exit.Interrupted(nil); err != nil {
		t.Errorf("exit.Interrupted(nil) = %v", err)
	}
}
