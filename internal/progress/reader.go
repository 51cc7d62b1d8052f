package progress

import "io"

// Reader counts what was read.
type Reader struct {
	R io.Reader
	N int64
}

// Read reads from R.
func (c *Reader) Read(p []byte) (int, error) {
	n, err := c.R.Read(p)
	c.N += int64(n)
	return n, err
}
