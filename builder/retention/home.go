package retention

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"time"

	"github.com/mkcdrec/mkcdrec/builder/set"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
	"github.com/mkcdrec/mkcdrec/internal/store"
	"github.com/mkcdrec/mkcdrec/internal/store/sealed"
)

// PlanHome is Plan for a home, without unfinished sets: the next backup removes those.
func (k Keep) PlanHome(ctx context.Context, home store.Home, host, made string, now time.Time) ([]Verdict, error) {
	sets, doubtful, err := set.ListHome(ctx, home, set.This(host))
	if err != nil {
		return nil, err
	}
	sizes := map[string]map[string]int64{}
	for _, s := range sets {
		files, err := home.Files(ctx, s.Name)
		if err != nil {
			return nil, err
		}
		sizes[s.Name] = map[string]int64{}
		for _, f := range files {
			sizes[s.Name][f.Name] = f.Size
		}
	}
	out := k.verdicts(sets, made, now, func(s set.Listed, name string) (int64, error) {
		if s.Head != nil { // the files that are known are within the objects
			return int64(s.Sum(name).Size), incomplete(s.Head, sizes[s.Name])
		}
		n, ok := sizes[s.Name][name]
		if !ok {
			return 0, fs.ErrNotExist
		}
		return n, nil
	})
	for i, s := range sets {
		if s.Head != nil {
			out[i].Size = quantity.Size(s.Head.Size)
		}
	}
	return append(out, doubts(doubtful)...), nil
}

// incomplete is what is wrong with the objects of an encrypted set, as far as its head knows.
func incomplete(h *sealed.Head, sizes map[string]int64) error {
	n, total := 0, int64(0)
	for name, size := range sizes {
		if path.Ext(name) == ".age" && name != sealed.IndexFile {
			n, total = n+1, total+size
		}
	}
	if _, ok := sizes[sealed.IndexFile]; !ok {
		return fmt.Errorf("%s is missing", sealed.IndexFile)
	}
	if n != h.Files || total != h.Size {
		return fmt.Errorf("it has %d objects of %d bytes, not %d of %d", n, total, h.Files, h.Size)
	}
	return nil
}

// ApplyHome is Apply for a home.
func ApplyHome(ctx context.Context, home store.Home, plan []Verdict) (removed []string, err error) {
	for _, v := range inOrder(plan) {
		if v.Set == "" || strings.ContainsRune(v.Set, '/') {
			return removed, errors.New("cannot remove a set without a name")
		}
		if err := home.Remove(ctx, v.Set); err != nil {
			return removed, fmt.Errorf("cannot remove the old backup %s: %w", v.Set, err)
		}
		removed = append(removed, v.Set)
	}
	return removed, nil
}
