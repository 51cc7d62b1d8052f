package initramfs

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"os"
	"slices"
)

// Sum returns SHA-256 in hex of the tree's files: names, modes, links and content. group names
// the part of the tree that a path belongs to, each of which has a sum of its own; "" leaves the
// path out.
func (f *Files) Sum(group func(path string) string) (map[string]string, error) {
	sums := map[string]hash.Hash{}
	paths := f.Paths()
	slices.Sort(paths)
	for _, p := range paths {
		g := group(p)
		if g == "" {
			continue
		}
		if sums[g] == nil {
			sums[g] = sha256.New()
		}
		e := f.entries[p]
		fmt.Fprintf(sums[g], "%q %o %q %d:%d %d\n", p, e.mode, e.link, e.major, e.minor, e.size)
		if e.source == "" {
			sums[g].Write(e.content)
			continue
		}
		src, err := os.Open(e.source)
		if err == nil {
			_, err = io.Copy(sums[g], src)
			src.Close()
		}
		if err != nil {
			return nil, fmt.Errorf("cannot read what goes into the rescue system: %w", err)
		}
	}
	out := map[string]string{}
	for g, h := range sums {
		out[g] = hex.EncodeToString(h.Sum(nil))
	}
	return out, nil
}
