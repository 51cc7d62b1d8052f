package exit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/interrupt"
	"github.com/mkcdrec/mkcdrec/internal/plan"
	"github.com/mkcdrec/mkcdrec/internal/recreate"
)

// 4 says that no disk was touched: not when a later step of a restore is refused.
func TestCode(t *testing.T) {
	refused := &plan.Refused{Reason: "no"}
	for _, c := range []struct {
		err  error
		want int
	}{
		{nil, OK}, {errors.New("x"), Failed}, {Usage(errors.New("x")), BadUsage}, {NotCovered([]string{"x"}), Partial}, {fmt.Errorf("x: %w", refused), Refused},
		{&plan.Undecided{Refused: *refused}, Refused},
		{&recreate.StepError{Number: 1, Err: refused}, Refused},
		{&recreate.StepError{Number: 11, Err: refused}, Failed},
		{errors.Join(&recreate.StepError{Number: 1, Err: errors.New("EIO")}, errors.New("x")), Failed},
		{fmt.Errorf("x: %w", context.Canceled), Failed},
		{errors.Join(NotCovered([]string{"x"}), context.Canceled), Failed},
		{errors.Join(refused, &interrupt.Signal{Sig: os.Interrupt}), Failed},
	} {
		if got := Code(c.err); got != c.want {
			t.Errorf("%v: %d; want %d", c.err, got, c.want)
		}
	}
}

func TestInterrupted(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{fmt.Errorf("cannot verify x: %w", context.Canceled), "interrupted: cannot verify x: context canceled"},
		{&interrupt.Signal{Sig: os.Interrupt}, "interrupted"},
		{errors.New("damaged"), "damaged"},
	} {
		if got := Interrupted(c.err).Error(); got != c.want {
			t.Errorf("Interrupted(%v) = %q; want %q", c.err, got, c.want)
		}
	}
	if err := Interrupted(nil); err != nil {
		t.Errorf("Interrupted(nil) = %v", err)
	}
}
