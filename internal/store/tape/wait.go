package tape

import (
	"context"
	"time"
)

// Waiter asks for tapes and waits until one is put in.
type Waiter struct {
	Drives []Drive
	Say    func(format string, args ...any)
}

// lookEvery is how often drives are looked at while a tape is waited for.
const lookEvery = 2 * time.Second

// Ask is an Ask: it ejects what is in the first drive, prints what is wanted,
// and returns when a tape is in any drive that was empty.
func (w Waiter) Ask(ctx context.Context, d Drive, what string, problem error) error {
	if problem != nil {
		w.Say("%v", problem)
	}
	if err := d.Eject(); err != nil {
		w.Say("take the tape out of %v by hand (%v)", d, err)
	}
	w.Say("put in %s", what)
	empty := map[Drive]bool{}
	for first := true; ; first = false {
		for _, d := range w.Drives {
			if err := d.Reload(); err != nil {
				continue
			}
			p, err := d.Position()
			online := err == nil && p.Online
			if online && (empty[d] && !first) {
				return nil
			}
			empty[d] = !online
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(lookEvery):
		}
	}
}
