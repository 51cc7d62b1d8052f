package retention

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/mkcdrec/mkcdrec/builder/set"
	"github.com/mkcdrec/mkcdrec/internal/store"
)

// PlanHome is Plan for a home, without unfinished sets: the next backup removes those.
func (k Keep) PlanHome(ctx context.Context, home store.Home, host, made string, now time.Time) ([]Verdict, error) {
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
	return append(out, doubts(doubtful)...), nil
}

// ApplyHome is Apply for a home.
func ApplyHome(ctx context.Context, home store.Home, plan []Verdict) (removed []string, err error) {
	for _, v := range inOrder(plan) {
		if v.Set == "" || strings.ContainsRune(v.Set, '/') {
			return removed, errors.New("cannot remove a set without a name")
		}
		if err := set.RetireIn(ctx, home, v.Set, v.host); err != nil {
			return removed, fmt.Errorf("cannot remove the old backup %s: %w", v.Set, err)
		}
		removed = append(removed, v.Set)
	}
	return removed, nil
}
