//go:build vmtest

package vmtest

import (
	"testing"
)

// TestTape: an OBDR tape whose set continues on a second reel, in two drives.
// What a drive would present as a CD starts the machine that is restored.
// internal/store/tape has a model of a drive with all its faults.
func TestTape(t *testing.T) {
	long(t)
	t.Run("obdr-two-reels", func(t *testing.T) {
		runCircle(t, Circle{Kind: BIOSLVM, TargetSize: machines[BIOSLVM].larger, Tapes: []int{150, 200}})
	})
	t.Run("obdr-sealed", func(t *testing.T) {
		runCircle(t, Circle{Kind: BIOSLVM, TargetSize: machines[BIOSLVM].larger, Tapes: []int{150, 200}, Sealed: true})
	})
}
