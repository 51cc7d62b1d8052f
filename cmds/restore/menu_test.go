package main

import (
	"bufio"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/restore"
)

func TestMenu(t *testing.T) {
	for name, c := range map[string]struct {
		typed, calls string
		words        []string
	}{
		"quit":    {"q\n", "plan[]", []string{"nothing was changed"}},
		"nobody":  {"", "plan[]", nil},
		"restore": {"s /=20G\nt /home=xfs\nr\n", "plan[] plan[--size /=20G] plan[--size /=20G --fs-type /home=xfs] restore[--size /=20G --fs-type /home=xfs]", []string{"The same by: restore --size /=20G --fs-type /home=xfs"}},
		"asked":   {"m\nvda=sdb\nx\n\nd\nq\n", "plan[] plan[--map vda=sdb] dry[--map vda=sdb]", []string{"OLD=NEW: "}},
		"again":   {"s /=1G\ns /=2G\ns /srv=3G\nq\n", "plan[] plan[--size /=1G] plan[--size /=2G] plan[--size /=2G --size /srv=3G]", nil},
		"undo":    {"u\ns /=bad\nu\nk\nk\nu\np\nq\n", "plan[] plan[--size /=bad] plan[] plan[--keep-sizes] plan[] plan[--keep-sizes] plan[--keep-sizes]", []string{"there is nothing to undo", "bad size", "u undoes the last change"}},
		"typo":    {"y\n\nq\n", "plan[]", []string{`"y" is not one of these`}},
	} {
		var out strings.Builder
		var calls []string
		err := menu(bufio.NewReader(strings.NewReader(c.typed)), &out, restore.Request{}, func(w restore.Request, what int) error {
			calls = append(calls, fmt.Sprintf("%s[%s]", []string{"plan", "dry", "restore"}[what], w.Wishes()))
			if strings.Contains(w.Wishes(), "bad") {
				return errors.New("bad size")
			}
			return nil
		})
		if (err == nil) != (name != "nobody") || err != nil && err != errEnd || strings.Join(calls, " ") != c.calls {
			t.Errorf("%s: %v\n%s\nwant\n%s", name, err, strings.Join(calls, " "), c.calls)
		}
		for _, w := range c.words {
			if !strings.Contains(out.String(), w) {
				t.Errorf("%s: no %q in\n%s", name, w, out.String())
			}
		}
	}
	want := errors.New("it failed")
	if err := menu(bufio.NewReader(strings.NewReader("r\n")), &strings.Builder{}, restore.Request{}, func(_ restore.Request, what int) error {
		if what == doRestore {
			return want
		}
		return nil
	}); err != want {
		t.Errorf("a restore that fails: %v", err)
	}
}
