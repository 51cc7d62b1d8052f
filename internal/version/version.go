// Package version identifies this build.
package version

// number is the release. The Makefile sets it from the last tag vX.Y.Z, with the number
// of commits since ("0.2.0-5"), if the source is a git checkout that has one, and
// commit in any checkout.
var (
	number = "0.1.0"
	commit string
)

// String gives "0.1.0" or "0.1.0+abcdef123456".
func String() string {
	if commit != "" {
		return number + "+" + commit
	}
	return number
}
