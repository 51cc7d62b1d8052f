package ui

import (
	"io"
	"os"
	"unicode/utf8"

	"golang.org/x/term"
)

// Stdout is standard output for lists of names: safe to show when it is a
// terminal, byte for byte otherwise, as ls(1) does it.
func Stdout() io.Writer {
	if term.IsTerminal(1) {
		return NewWriter(os.Stdout)
	}
	return os.Stdout
}

// NewWriter returns a writer that passes text on to w with CleanLines. A
// character that is divided between two writes is kept until it is whole.
func NewWriter(w io.Writer) io.Writer { return &writer{w: w} }

type writer struct {
	w    io.Writer
	rest []byte // the beginning of a character, at most 3 bytes
}

// Write implements io.Writer.
func (c *writer) Write(p []byte) (int, error) {
	b := append(c.rest, p...)
	end := len(b)
	for i := 1; i < utf8.UTFMax && i <= len(b); i++ {
		if r := b[len(b)-i]; utf8.RuneStart(r) {
			if !utf8.FullRune(b[len(b)-i:]) {
				end = len(b) - i
			}
			break
		}
	}
	_, err := io.WriteString(c.w, CleanLines(string(b[:end])))
	c.rest = append([]byte(nil), b[end:]...)
	if err != nil {
		return 0, err
	}
	return len(p), nil
}
