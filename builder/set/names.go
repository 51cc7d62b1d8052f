package set

import "strings"

// sumLine is a line of SHA256SUMS as sha256sum(1) writes it: a name with a
// backslash or a newline is escaped, and marked by a backslash before the digest.
// The names of a set's own files never need that.
func sumLine(digest, name string) string {
	quoted := strings.NewReplacer(`\`, `\\`, "\n", `\n`, "\r", `\r`).Replace(name)
	if quoted != name {
		digest = `\` + digest
	}
	return digest + "  " + quoted + "\n"
}
