package manifest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"github.com/mkcdrec/mkcdrec/internal/coverage"
	"github.com/mkcdrec/mkcdrec/internal/store"
)

// Coverage gives the set's account of every byte of the old disks, compared with its checksum;
// nil in a set of an older version, which has none.
func (s *Set) Coverage() (*coverage.Report, error) {
	sum := s.Manifest.Sum(coverage.File)
	if sum.SHA256 == "" {
		return nil, nil
	}
	b, err := store.ReadFile(s, coverage.File, MaxText)
	if err != nil {
		return nil, err
	}
	if got := sha256.Sum256(b); hex.EncodeToString(got[:]) != sum.SHA256 {
		return nil, fmt.Errorf("cannot read %s: it is damaged", coverage.File)
	}
	return coverage.Read(bytes.NewReader(b))
}
