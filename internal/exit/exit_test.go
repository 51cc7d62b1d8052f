package exit

import (
	"errors"
	"fmt"
	"testing"

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
	} {
		if got := Code(c.err); got != c.want {
			t.Errorf("%v: %d; want %d", c.err, got, c.want)
		}
	}
}
