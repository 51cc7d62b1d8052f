// Package version tells which build this is.
package version

import "runtime/debug"

// number is the release; builds between releases add the commit.
const number = "0.1.0"

// String gives "0.1.0" or "0.1.0+abcdef123456".
func String() string {
	if bi, ok := debug.ReadBuildInfo(); ok {
		for _, s := range bi.Settings {
			if s.Key == "vcs.revision" && len(s.Value) >= 12 {
				return number + "+" + s.Value[:12]
			}
		}
	}
	return number
}
