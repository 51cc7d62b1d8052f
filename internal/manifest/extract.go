package manifest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/archive"
	"github.com/mkcdrec/mkcdrec/internal/progress"
)

func CleanPaths(args []string) []string {
	var out []string
	for _, a := range args {
		out = append(out, filepath.Clean("/"+a))
	}
	return out
}

// Selector matches what is at or below any of the absolute paths.
func Selector(mount string, paths []string) (func(string) bool, bool) {
	if len(paths) == 0 {
		return nil, true
	}
	any := false
	for _, p := range paths {
		// A path below the mount, or a directory above it.
		if mount == "/" || p == mount || strings.HasPrefix(p, mount+"/") || strings.HasPrefix(mount, strings.TrimSuffix(p, "/")+"/") {
			any = true
		}
	}
	return func(member string) bool {
		full := filepath.Join(mount, member)
		for _, p := range paths {
			if full == p || p == "/" || strings.HasPrefix(full, p+"/") {
				return true
			}
		}
		return false
	}, any
}

// asked are the paths that were asked for, and which of them were found.
type asked struct {
	paths []string
	found []bool
}

// selector is Selector, and keeps in mind which paths it found; nil takes all.
func (a *asked) selector(mount string) (func(string) bool, bool) {
	sel, any := Selector(mount, a.paths)
	if sel == nil {
		return nil, any
	}
	return func(member string) bool {
		if !sel(member) {
			return false
		}
		full := filepath.Join(mount, member)
		for i, p := range a.paths {
			if !a.found[i] && (full == p || p == "/" || strings.HasPrefix(full, p+"/")) {
				a.found[i] = true
			}
		}
		return true
	}, any
}

// missing are the paths that nothing in the set answers to.
func (a *asked) missing() (out []string) {
	for i, p := range a.paths {
		if !a.found[i] {
			out = append(out, archive.Quote(p)+": not in the set")
		}
	}
	return out
}

// part is what is taken out of one archive.
type part struct {
	Archive
	sel     func(string) bool
	parents func(string) bool // directories that are above what is taken out of others
}

// WarnRepaired warns if an archive was read whose object is damaged at its beginning.
func (s *Set) WarnRepaired(file string, rep progress.Reporter) {
	if x := s.decrypts(); x != nil && x.Repaired(file) {
		rep.Warn("%s, which has %s, is damaged at its beginning: it was read with the copy that the index has", x.Object(file), file)
	}
}

// ExtractPaths takes what matches paths, everything without paths, out of the
// set's archives. It appears below dest with its full path; the directories above
// it get what the set has for them where they are missing, and dest itself is made, or
// stays as it is. An archive never writes through a symbolic link that another has made.
//
// lost names, with the reason, what was asked for and is not there or not what it
// was: paths that are not in the set, members that a salvage could not read, that
// could not be made, attributes that could not be set.
func (s *Set) ExtractPaths(ctx context.Context, paths []string, dest string, opt archive.ExtractOptions, rep progress.Reporter) (members int64, lost []string, err error) {
	want := &asked{paths, make([]bool, len(paths))}
	parts, err := s.parts(want)
	if err != nil {
		return 0, nil, err
	}
	if len(parts) > 0 {
		if err := os.MkdirAll(dest, 0o755); err != nil {
			return 0, nil, fmt.Errorf("cannot extract: %w", err)
		}
	}
	missing := map[string]bool{}
	for _, ar := range parts {
		f, err := archive.OpenBelow(dest, ar.Mount, false)
		missing[ar.Mount] = errors.Is(err, os.ErrNotExist)
		if err == nil {
			f.Close()
		}
	}
	locks := 0
	for _, ar := range parts {
		opt.Select, opt.Parents = ar.sel, ar.parents
		opt.KeepUnlocked = true
		opt.Below, opt.KeepRoot, opt.NewRoot = ar.Mount, ar.Mount == "/", missing[ar.Mount]
		sum, err := s.Unpack(ctx, ar.File, dest, opt, func(total int64) progress.Counter { return rep.Phase("extracting "+ar.Mount, total) })
		if err != nil {
			return 0, nil, err
		}
		s.WarnRepaired(ar.File, rep)
		members += sum.Members
		locks += len(sum.Locks)
		for _, p := range sum.Problems {
			if p.Kind != archive.Lost {
				rep.Warn("%s/%v", strings.TrimSuffix(ar.Mount, "/"), p)
			}
		}
		for _, p := range sum.Incomplete() {
			lost = append(lost, filepath.Join(ar.Mount, archive.Quote(p.Path))+": "+p.Detail)
		}
	}
	if members == 0 && len(lost) == 0 {
		return 0, nil, fmt.Errorf("cannot extract: nothing in the set matches %s", strings.Join(paths, " "))
	}
	lost = append(lost, want.missing()...)
	if locks > 0 {
		rep.Note("%d files and directories are immutable or append-only in the set, and not so below %s, where they could not be removed", locks, dest)
	}
	return members, lost, nil
}

// Has reports whether one of these files of the system is in the set, or may be where that
// can't be known before it is read; paths are absolute.
func (s *Set) Has(paths ...string) (bool, error) {
	for _, a := range s.Manifest.Archives {
		rel := map[string]bool{}
		for _, p := range paths {
			if r, ok := strings.CutPrefix(p, strings.TrimSuffix(a.Mount, "/")+"/"); ok {
				rel[r] = true
			}
		}
		if len(rel) == 0 {
			continue
		}
		found, err := s.has(a, func(path string) bool { return rel[path] })
		if err != nil && s.Salvage {
			return true, nil // not known before it is read
		}
		if found || err != nil {
			return found, err
		}
	}
	return false, nil
}

// parts finds what to take out of which archive.
func (s *Set) parts(want *asked) ([]part, error) {
	var parts []part
	var hits []string // mount points of the archives that have something
	for _, ar := range s.Manifest.Archives {
		sel, ok := want.selector(ar.Mount)
		if sel != nil && ok {
			var err error
			if ok, err = s.has(ar, sel); err != nil && !s.Salvage {
				return nil, err
			} else if err != nil {
				ok = true // not known before it is read
			}
		}
		p := part{Archive: ar, sel: sel}
		if ok {
			hits = append(hits, ar.Mount)
		} else {
			p.sel = nil
		}
		if ok || s.Direct() { // no other disc is asked for only for these
			parts = append(parts, p)
		}
	}
	for i := range parts {
		p := &parts[i]
		p.parents = func(member string) bool { return s.above(hits, p.Mount, filepath.Join(p.Mount, member)) }
		if slices.Contains(hits, p.Mount) {
			continue
		}
		p.sel = func(string) bool { return false }
	}
	return slices.DeleteFunc(parts, func(p part) bool {
		if slices.Contains(hits, p.Mount) {
			return false
		}
		// Does a mount point belong to it, and what is above that?
		return !slices.ContainsFunc(hits, func(h string) bool {
			return h != "/" && s.owner(filepath.Dir(h)) == p.Mount
		})
	}), nil
}

// above reports whether dir, in the file system mounted on mount, is one of the mount
// points or above it.
func (s *Set) above(mounts []string, mount, dir string) bool {
	return dir != "/" && (dir == mount || s.owner(filepath.Dir(dir)) == mount) &&
		slices.ContainsFunc(mounts, func(m string) bool { return strings.HasPrefix(m+"/", dir+"/") })
}

// owner gives the mount point of the archive that has the path.
func (s *Set) owner(p string) string {
	best := ""
	for _, a := range s.Manifest.Archives {
		if (a.Mount == p || a.Mount == "/" || strings.HasPrefix(p, a.Mount+"/")) && len(a.Mount) > len(best) {
			best = a.Mount
		}
	}
	return best
}
