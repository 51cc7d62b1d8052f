package recreate

import (
	"errors"
	"os"

	"github.com/mkcdrec/mkcdrec/internal/inroot"
	"github.com/mkcdrec/mkcdrec/internal/plan"
	"github.com/mkcdrec/mkcdrec/internal/storage"
)

// Place is where a MountFS step mounts, with links in the restored system followed in
// it. What is missing is made.
func (r *Recreator) Place(s *plan.MountFS) (string, error) {
	if s.Mount.Path == "" {
		dir := storage.PrivateDir(r.Target, s.FS.Device)
		return dir, os.MkdirAll(dir, 0o700)
	}
	return inroot.MkdirAll(r.Target, s.Mount.Path, 0o755)
}

// makePlace is Place for a target that may not be there.
func (r *Recreator) makePlace(s *plan.MountFS) (string, error) {
	err := os.MkdirAll(r.Target, 0o755)
	dir, err2 := r.Place(s)
	return dir, errors.Join(err, err2)
}
