package recreate

import (
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/inroot"
	"github.com/mkcdrec/mkcdrec/internal/plan"
)

// privateSuffix makes the directory beside the target that has what belongs at no path.
const privateSuffix = ".private"

// PrivateDir is where the root of a file system that was mounted nowhere as a whole
// (layout.Filesystem.Private) is mounted while it is restored or looked at; device is
// its name in the layout. It is beside the target, not below it.
func PrivateDir(target, device string) string {
	return filepath.Join(target+privateSuffix, strings.ReplaceAll(device, "/", "-"))
}

// Below tells whether something is mounted at or below the target, or in a PrivateDir.
func Below(target, at string) bool {
	return at == target || strings.HasPrefix(at, target+"/") || strings.HasPrefix(at, target+privateSuffix+"/")
}

// Place is where a MountFS step mounts, with links in the restored system followed in
// it. What is missing is made.
func (r *Recreator) Place(s *plan.MountFS) (string, error) {
	if s.Mount.Path == "" {
		dir := PrivateDir(r.Target, s.FS.Device)
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
