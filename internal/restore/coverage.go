package restore

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"github.com/mkcdrec/mkcdrec/internal/coverage"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/store"
)

// amounts shows how many bytes of the old disks the set does not have, and by which rules
// its archives leave files out. Sets of older versions have no report of that.
func (r *Restorer) amounts() {
	if r.set == nil {
		return
	}
	sum := r.set.Manifest.Sum(coverage.File)
	if sum.SHA256 == "" {
		return
	}
	b, err := store.ReadFile(r.set, coverage.File, manifest.MaxText)
	if got := sha256.Sum256(b); err == nil && hex.EncodeToString(got[:]) != sum.SHA256 {
		err = fmt.Errorf("cannot read %s: it is damaged", coverage.File)
	}
	var c *coverage.Report
	if err == nil {
		c, err = coverage.Read(bytes.NewReader(b))
	}
	if err != nil {
		r.Screen.Warn("the amounts that are not restored are not known: %v", err)
		return
	}
	for _, l := range c.Lost() {
		r.Screen.Note("%s", l)
	}
}
