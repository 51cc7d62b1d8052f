package plan

import (
	"github.com/mkcdrec/mkcdrec/internal/fstype"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
)

// mkfsLeast is the least size of a device that a type's program takes with a geometry; 0
// where the geometry itself decides.
func mkfsLeast(f *layout.Filesystem) quantity.Size {
	if t := fstype.Of(f.Type); t.LeastMade != nil {
		return quantity.Size(t.LeastMade(f.FS()))
	}
	return 0
}
