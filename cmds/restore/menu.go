package main

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"strings"
)

// wishes are what a person said about disks, in the words of the options.
type wishes struct {
	maps, sizes, types, exclude, mirror list
	keep, unmirror                      bool
}

func (w wishes) clone() wishes {
	return wishes{slices.Clone(w.maps), slices.Clone(w.sizes), slices.Clone(w.types), slices.Clone(w.exclude), slices.Clone(w.mirror), w.keep, w.unmirror}
}

// options are the wishes as they would be typed.
func (w wishes) options() string {
	var out []string
	for _, o := range []struct {
		name   string
		values list
	}{{"--map", w.maps}, {"--size", w.sizes}, {"--fs-type", w.types}, {"--exclude-disk", w.exclude}, {"--mirror", w.mirror}} {
		for _, v := range o.values {
			out = append(out, o.name+" "+v)
		}
	}
	if w.keep {
		out = append(out, "--keep-sizes")
	}
	if w.unmirror {
		out = append(out, "--unmirror")
	}
	return strings.Join(out, " ")
}

// What the menu has done.
const (
	showPlan = iota
	doDryRun
	doRestore
)

// menu shows the plan and lets a person change it, until it is carried out or
// given up. run does what is chosen; an error of a plan or a dry run is shown.
func menu(in *bufio.Reader, out io.Writer, w wishes, run func(w wishes, what int) error) error {
	var before []wishes
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
		if o := w.options(); o != "" {
			fmt.Fprintf(out, "\nThe same by: restore %s\n", o)
		}
		line, ok := ask("\n  r restore    d dry run on sparse files    p show the plan    q quit\n  s size /=20G    t type /home=xfs    m map OLD=NEW    x leave disk OLD alone\n  R put disk OLD on a mirror of two    1 no RAID1: one disk is enough    k keep sizes    u undo\n> ")
		if !ok {
			fmt.Fprintln(out)
			return stopped
		}
		key, value, _ := strings.Cut(line, " ")
		value = strings.TrimSpace(value)
		last := w.clone()
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
			w.keep = !w.keep
		case "1":
			w.unmirror = !w.unmirror
		case "s", "t", "m", "x", "R":
			if value == "" {
				if value, ok = ask(map[string]string{"s": "WHAT=SIZE: ", "t": "MOUNT=TYPE: ", "m": "OLD=NEW: ", "x": "OLD: ", "R": "OLD: "}[key]); !ok || value == "" {
					continue
				}
			}
			to := map[string]*list{"s": &w.sizes, "t": &w.types, "m": &w.maps, "x": &w.exclude, "R": &w.mirror}[key]
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
