// Package lazyregexp compiles regular expressions when they are first asked
// for: every command of the multicall binary runs every package's start-up.
package lazyregexp

import (
	"regexp"
	"sync"
)

// New gives a function that gives the expression.
func New(expr string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expr) })
}
