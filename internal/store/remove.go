package store

import (
	"cmp"
	"path"
	"slices"
	"strings"
)

// UnfinishedFile marks a set that is being written, or whose removal was interrupted: by it the
// next backup finds what it has to remove. builder/set writes it.
const UnfinishedFile = "unfinished.json"

// removal is what a kind of home does to remove a directory.
type removal struct {
	file func(name string) error // removes a file of the directory
	rest func(keep string) error // removes all in it but one file
	all  func() error            // removes the directory
}

// run removes the directory in which these files are: first what makes a set whole, so that an
// interruption leaves none that looks whole, and last the mark of unfinished sets.
func (r removal) run(names []string) error {
	for _, n := range removalOrder(names) {
		if removalWeight(n) > 1 {
			break
		}
		if err := r.file(n); err != nil {
			return err
		}
	}
	if err := r.rest(UnfinishedFile); err != nil {
		return err
	}
	return r.all()
}

// removalOrder sorts the names of a directory's files in the order in which they are removed.
func removalOrder(names []string) []string {
	slices.SortStableFunc(names, func(a, b string) int {
		return cmp.Or(removalWeight(a)-removalWeight(b), cmp.Compare(a, b))
	})
	return names
}

func removalWeight(name string) int {
	switch base := path.Base(name); {
	case name == UnfinishedFile:
		return 3
	case base == "manifest.json", base == "set.json":
		return 0
	case strings.HasPrefix(base, "manifest"):
		return 1
	}
	return 2
}
