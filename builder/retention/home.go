package retention

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/mkcdrec/mkcdrec/builder/set"
	"github.com/mkcdrec/mkcdrec/internal/store"
)

// PlanHome is Plan for a home.
func (k Keep) PlanHome(ctx context.Context, home store.Home, host string, made *Next, now time.Time) ([]Verdict, error) {
	sets, doubtful, err := set.ListHome(ctx, home, set.This(host))
	if err != nil {
		return nil, err
	}
	damage, err := set.DamagesIn(ctx, home, sets)
	if err != nil {
		return nil, err
	}
	out := k.verdicts(sets, damage, made, now)
	for i := range out {
		out[i].host = host
	}
	left, err := set.LeftoversIn(ctx, home, host)
	if err != nil {
		return nil, err
	}
	return append(append(out, leftovers(left, host, made.name())...), doubts(doubtful)...), nil
}

// ApplyHome is Apply for a home.
func ApplyHome(ctx context.Context, home store.Home, plan []Verdict, enough func() bool) (removed []string, err error) {
	for _, v := range inOrder(plan) {
		if enough != nil && enough() {
			break
		}
		if v.Set == "" || strings.ContainsRune(v.Set, '/') {
			return removed, errors.New("cannot remove a set without a name")
		}
		var err error
		if v.left {
			err = set.RemoveLeftoverIn(ctx, home, v.Set, v.host)
		} else if err = set.RetireIn(ctx, home, v.Set, v.host); err != nil {
			err = fmt.Errorf("cannot remove the old backup %s: %w", v.Set, err)
		}
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return removed, err
		}
		removed = append(removed, v.Set)
	}
	return removed, nil
}
