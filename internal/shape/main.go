// Shape counts what docs/CODING.md sets limits for: the lengths of functions and files,
// branches, duplicates and tests. It prints each count beside its goal; -v lists by room
// what exceeds a limit. With -budget it only checks the branches of each function.
package main

import (
	"bufio"
	"cmp"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
)

const (
	longFunction = 80  // lines
	manyBranches = 15  // per function
	longFile     = 700 // lines
	leastCopy    = 6   // lines of code that two rooms have both
	// budget is the number of branches that lint allows a function.
	budget = 20
	// exceptions lists the functions that may have more.
	exceptions = "internal/shape/exceptions"
)

func main() {
	verbose := flag.Bool("v", false, "list by room what exceeds a limit")
	check := flag.Bool("budget", false, fmt.Sprintf("only check that no function has more than %d branches, or than %s allows it", budget, exceptions))
	flag.Parse()
	files, err := read(".")
	if err == nil && *check {
		err = checkBudget(files)
	} else if err == nil {
		report(files, *verbose)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "shape:", err)
		os.Exit(1)
	}
}

// report prints the counts.
func report(files []file, verbose bool) {
	var lines, tests int
	var fns []function
	var programs, long []file
	for _, f := range files {
		if f.Lines > longFile {
			long = append(long, f)
		}
		if f.Test {
			tests += f.Lines
			continue
		}
		if f.Helps {
			tests += f.Lines
		} else {
			lines += f.Lines
		}
		fns = append(fns, f.Functions...)
		programs = append(programs, f)
	}
	copies := duplicates(programs, leastCopy)
	lengthy := filter(fns, func(f function) bool { return f.Lines > longFunction })
	branchy := filter(fns, func(f function) bool { return f.Branches > manyBranches })
	w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	row := func(what, now, goal string) { fmt.Fprintf(w, "%s\t%s\t%s\n", what, now, goal) }
	row("", "now", "goal")
	row("lines without tests", fmt.Sprint(lines), "not growing")
	row(fmt.Sprintf("functions over %d lines", longFunction), fmt.Sprint(len(lengthy)), "0")
	row(fmt.Sprintf("functions with over %d branches", manyBranches), fmt.Sprintf("%d of %d, %.1f %%", len(branchy), len(fns), 100*float64(len(branchy))/float64(len(fns))), "3 %")
	row(fmt.Sprintf("files over %d lines", longFile), fmt.Sprint(len(long)), "0")
	row(fmt.Sprintf("copies of %d lines or more between rooms", leastCopy), fmt.Sprint(len(copies)), "0")
	row("length of functions, p50/p90", fmt.Sprintf("%d/%d", percentile(fns, 50), percentile(fns, 90)), "12/38")
	row("lines of tests per line of code", fmt.Sprintf("%.2f", float64(tests)/float64(lines)), "0.50")
	w.Flush()
	if verbose {
		list(lengthy, branchy, long, copies)
	}
}

func filter(fns []function, keep func(function) bool) []function {
	return slices.DeleteFunc(slices.Clone(fns), func(f function) bool { return !keep(f) })
}

// list prints what exceeds a limit, by room.
func list(lengthy, branchy []function, long []file, copies []duplicate) {
	type entry struct{ room, text string }
	var all []entry
	for _, f := range lengthy {
		all = append(all, entry{f.Room, fmt.Sprintf("%d lines\t%s", f.Lines, f.Name)})
	}
	for _, f := range branchy {
		all = append(all, entry{f.Room, fmt.Sprintf("%d branches\t%s", f.Branches, f.Name)})
	}
	for _, f := range long {
		all = append(all, entry{f.Room, fmt.Sprintf("%d lines\t%s", f.Lines, f.Path)})
	}
	for _, d := range copies {
		all = append(all, entry{d.B.Room, fmt.Sprintf("%d copied lines\t%s:%d from %s:%d", d.Lines, d.B.Path, d.LineB, d.A.Path, d.LineA)})
	}
	slices.SortStableFunc(all, func(a, b entry) int { return cmp.Compare(a.room, b.room) })
	w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	for i, e := range all {
		room := e.room
		if i == 0 {
			fmt.Fprintln(w)
		} else if all[i-1].room == room {
			room = ""
		}
		fmt.Fprintf(w, "%s\t%s\n", room, e.text)
	}
	w.Flush()
}

// checkBudget refuses functions, except tests, with more branches than the budget or, for one that
// is listed in the exceptions, than stand there.
func checkBudget(files []file) error {
	allowed, err := readExceptions()
	if err != nil {
		return err
	}
	var over []string
	for _, f := range files {
		if f.Test {
			continue
		}
		for _, fn := range f.Functions {
			key := fn.Room + " " + fn.Name
			if fn.Branches > max(budget, allowed[key]) {
				over = append(over, fmt.Sprintf("%s: %s has %d branches; at most %d are allowed", f.Path, fn.Name, fn.Branches, max(budget, allowed[key])))
			}
			if fn.Branches > budget {
				delete(allowed, key)
			}
		}
	}
	for key := range allowed {
		fmt.Printf("%s: %s is within the budget: remove the line\n", exceptions, key)
	}
	if over != nil {
		return fmt.Errorf("functions to divide:\n%s", strings.Join(over, "\n"))
	}
	return nil
}

// readExceptions reads lines of room, function and branches.
func readExceptions() (map[string]int, error) {
	r, err := os.Open(exceptions)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	out := map[string]int{}
	s := bufio.NewScanner(r)
	for s.Scan() {
		if strings.HasPrefix(s.Text(), "#") {
			continue
		}
		var room, name string
		var n int
		if _, err := fmt.Sscan(s.Text(), &room, &name, &n); err != nil {
			return nil, fmt.Errorf("%s: %q: expected ROOM FUNCTION BRANCHES", exceptions, s.Text())
		}
		out[room+" "+name] = n
	}
	return out, s.Err()
}
