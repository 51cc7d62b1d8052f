// Package uuid makes UUIDs: random ones, and the same one for the same text.
package uuid

import (
	"crypto/rand"
	"crypto/sha256"
	"fmt"
)

// New returns a random UUID, version 4.
func New() string {
	var u [16]byte
	rand.Read(u[:]) // never fails, by its documentation
	return Random(u)
}

// Random returns the UUID of random bits, version 4.
func Random(u [16]byte) string { return format(u, 0x40) }

// From returns the same UUID for the same text, version 8.
func From(text string) string {
	s := sha256.Sum256([]byte(text))
	return format([16]byte(s[:16]), 0x80)
}

// format sets version and variant, RFC 9562 §4.
func format(u [16]byte, version byte) string {
	u[6] = u[6]&0x0f | version
	u[8] = u[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}
