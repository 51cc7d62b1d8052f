// Package progress is the small interface through which workers report. The
// printers that show it live in internal/ui; nil-safe helpers live here.
package progress

// Counter counts the work done. Its methods are called from several
// goroutines at once and must be cheap.
type Counter interface {
	// Add reports n further bytes of the phase's total.
	Add(n int64)
	// Item reports that one more named thing (a file) is being worked on.
	Item(name string)
}

// Waiter is a Counter that also shows what the work waits for: the shares of
// reading, writing and computing, which add up to 1.
type Waiter interface {
	Waits(read, write, processor float64)
}

// Reporter makes one Counter per phase of the work.
type Reporter interface {
	// Phase starts a phase; total is in bytes, 0 when unknown. The phase
	// before ends.
	Phase(name string, total int64) Counter
	// Note is a line for people that is not an error.
	Note(format string, args ...any)
	// Warn is a line about a problem.
	Warn(format string, args ...any)
}

// None discards everything.
type None struct{}

func (None) Add(int64)                   {}
func (None) Item(string)                 {}
func (None) Phase(string, int64) Counter { return None{} }
func (None) Note(string, ...any)         {}
func (None) Warn(string, ...any)         {}
