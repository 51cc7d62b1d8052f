// Package version tells which build this is.
package version

// number is the release; commit is set by the Makefile when the source is a
// git checkout.
const number = "0.1.0"

var commit string

// String gives "0.1.0" or "0.1.0+abcdef123456".
func String() string {
	if commit != "" {
		return number + "+" + commit
	}
	return number
}
