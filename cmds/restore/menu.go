package main

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/restore"
)

// copied gives a request whose wishes can be changed without changing r.
func copied(r restore.Request) restore.Request {
	for _, l := range []*restore.Pairs{&r.Map, &r.Size, &r.FSType} {
		*l = slices.Clone(*l)
	}
	r.ExcludeDisk, r.Mirror = slices.Clone(r.ExcludeDisk), slices.Clone(r.Mirror)
	return r
}

// What the menu has done.
const (
	showPlan = iota
	doDryRun
	doRestore
)

// errEnd is the error of a menu whose input ends.
var errEnd = errors.New("nothing was chosen, and the input has ended: nothing was changed")

// menu shows the plan and lets a person change it, until it is carried out or
// given up. run does what is chosen; an error of a plan or a dry run is shown.
func menu(in *bufio.Reader, out io.Writer, w restore.Request, run func(w restore.Request, what int) error) error {
	var before []restore.Request
	show := func(err error) {
		if err != nil {
			fmt.Fprintf(out, "\n%v\n(u undoes the last change)\n", err)
		}
	}
	var stopped error // what ended the input, unless it is its end
	ask := func(prompt string) (string, bool) {
		fmt.Fprint(out, prompt)
		line, err := in.ReadString('\n')
		if err != io.EOF {
			stopped = err
		}
		return strings.TrimSpace(line), err == nil || line != ""
	}
	show(run(w, showPlan))
	for {
		if o := w.Wishes(); o != "" {
			fmt.Fprintf(out, "\nThe same by: restore %s\n", o)
		}
		line, ok := ask("\n  r restore    d dry run on sparse files    p show the plan    q quit\n  s size /=20G    t type /home=xfs    m map OLD=NEW    x leave disk OLD alone\n  R put disk OLD on a mirror of two    1 no RAID1: one disk is enough    k keep sizes    u undo\n> ")
		if !ok {
			fmt.Fprintln(out)
			return cmp.Or(stopped, errEnd)
		}
		key, value, _ := strings.Cut(line, " ")
		value = strings.TrimSpace(value)
		last := copied(w)
		switch key {
		case "":
			continue
		case "q":
			fmt.Fprintln(out, "nothing was changed")
			return nil
		case "r":
			return run(w, doRestore)
		case "d":
			show(run(w, doDryRun))
			continue
		case "p":
			show(run(w, showPlan))
			continue
		case "u":
			if len(before) == 0 {
				fmt.Fprintln(out, "there is nothing to undo")
				continue
			}
			w, before = before[len(before)-1], before[:len(before)-1]
			show(run(w, showPlan))
			continue
		case "k":
			w.KeepSizes = !w.KeepSizes
		case "1":
			w.Unmirror = !w.Unmirror
		case "s", "t", "m", "x", "R":
			if value == "" {
				if value, ok = ask(map[string]string{"s": "WHAT=SIZE: ", "t": "MOUNT=TYPE: ", "m": "OLD=NEW: ", "x": "OLD: ", "R": "OLD: "}[key]); !ok || value == "" {
					continue
				}
			}
			to := map[string]*[]string{"s": (*[]string)(&w.Size), "t": (*[]string)(&w.FSType), "m": (*[]string)(&w.Map), "x": (*[]string)(&w.ExcludeDisk), "R": (*[]string)(&w.Mirror)}[key]
			// A second one for the same thing replaces the first.
			name, _, _ := strings.Cut(value, "=")
			*to = append(slices.DeleteFunc(*to, func(v string) bool { n, _, _ := strings.Cut(v, "="); return n == name }), value)
		default:
			fmt.Fprintf(out, "%q is not one of these\n", key)
			continue
		}
		before = append(before, last)
		show(run(w, showPlan))
	}
}
