package storage

import (
	"path/filepath"
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/kernel"
	"github.com/mkcdrec/mkcdrec/internal/sysconf"
)

// privateSuffix makes the directory beside the target that has what belongs at no path.
const privateSuffix = ".private"

// PrivateDir is where the root of a file system that was mounted nowhere as a whole
// (layout.Filesystem.Private) is mounted while it is restored or looked at; device is
// its name in the layout. It is beside the target, not below it.
func PrivateDir(target, device string) string {
	return filepath.Join(target+privateSuffix, strings.ReplaceAll(device, "/", "-"))
}

// Below reports whether something is mounted at or below the target, or in a PrivateDir.
func Below(target, at string) bool {
	return at == target || strings.HasPrefix(at, target+"/") || strings.HasPrefix(at, target+privateSuffix+"/")
}

// Mounted lists the mount points that are wanted, the last mounted first.
func Mounted(k kernel.Kernel, want func(at string) bool) ([]string, error) {
	all, err := sysconf.Mounts(k.Path("/"))
	if err != nil {
		return nil, err
	}
	var out []string
	for _, m := range slices.Backward(all) {
		if want(m.Path) {
			out = append(out, m.Path)
		}
	}
	return out, nil
}
