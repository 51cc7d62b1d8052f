package manifest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
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

// Selector matches what lies at or below any of the absolute paths.
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

// ExtractPaths takes what answers to paths, all when there are none, out of the
// set's archives. It appears below dest with its full path. lost is what a
// salvage could not read.
func (s *Set) ExtractPaths(ctx context.Context, paths []string, dest string, opt archive.ExtractOptions, rep progress.Reporter) (members int64, lost []string, err error) {
	locks := 0
	for _, ar := range s.Manifest.Archives {
		sel, ok := Selector(ar.Mount, paths)
		if !ok {
			continue
		}
		if sel != nil && s.Legacy == nil {
			r, err := s.Archive(ar.File)
			if err != nil {
				return 0, nil, err
			}
			hit := false
			if err := errors.Join(r.Entries(func(e archive.Entry) error { hit = hit || sel(e.Path); return nil }), r.Close()); err != nil {
				return 0, nil, err
			}
			if !hit {
				continue
			}
		}
		to := filepath.Join(dest, ar.Mount)
		if err := os.MkdirAll(to, 0o755); err != nil {
			return 0, nil, fmt.Errorf("cannot extract: %w", err)
		}
		opt.Select = sel
		opt.KeepUnlocked = true
		sum, err := s.Unpack(ctx, ar.File, to, opt, func(total int64) progress.Counter { return rep.Phase("extracting "+ar.Mount, total) })
		if err != nil {
			return 0, nil, err
		}
		members += sum.Members
		locks += len(sum.Locks)
		for _, p := range sum.Problems {
			if p.Kind == archive.Lost {
				lost = append(lost, filepath.Join(ar.Mount, archive.Quote(p.Path))+": "+p.Detail)
				continue
			}
			rep.Warn("%v", p)
		}
	}
	if members == 0 && len(lost) == 0 {
		return 0, nil, fmt.Errorf("cannot extract: nothing in the set answers to %s", strings.Join(paths, " "))
	}
	if locks > 0 {
		rep.Note("%d files and directories are immutable or append-only in the set, and are not below %s", locks, dest)
	}
	return members, lost, nil
}
