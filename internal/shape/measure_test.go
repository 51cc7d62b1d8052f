package main

import (
	"strings"
	"testing"
)

const sample = `package p

import "fmt"

// F is one thing.
func F(a, b bool) int {
	if a && b || fmt.Sprint() == "" { // three
		return 1
	}
	switch {
	case a:
		return 2
	default:
	}
	for range 3 {
		func() {
			if b {
			}
		}()
	}
	return 0
}

func (t *T[K]) m() {}
`

func TestParse(t *testing.T) {
	f, err := parse("a/b.go", []byte(sample))
	if err != nil {
		t.Fatal(err)
	}
	want := []function{{"a", "F", 17, 7}, {"a", "(*T).m", 1, 1}}
	if len(f.Functions) != 2 || f.Functions[0] != want[0] || f.Functions[1] != want[1] {
		t.Errorf("parse(sample).Functions = %+v; want %+v", f.Functions, want)
	}
	if f.Test || f.Room != "a" || f.Lines != strings.Count(sample, "\n") {
		t.Errorf("parse(sample) = test %v, room %q, %d lines", f.Test, f.Room, f.Lines)
	}
	for path, want := range map[string]bool{"a/b.go": false, "vmtest/a.go": true, "vmtest/guest/a.go": true, "internal/ptytest/a.go": true, "vmtest/a_test.go": false, "internal/vmtester/a.go": false} {
		if f, err := parse(path, []byte(sample)); err != nil || f.Helps != want {
			t.Errorf("parse(%s).Helps = %v, %v; want %v", path, f.Helps, err, want)
		}
	}
	if got, want := f.Code[0], (codeLine{6, "func F ( a , b bool ) int {"}); got != want {
		t.Errorf("parse(sample).Code[0] = %v; want %v", got, want)
	}
}

func TestDuplicates(t *testing.T) {
	const body = "a := 1\n b := 2 // why\n\nc := 3\nd := 4\ne := 5\nf := 6\n"
	const idle = "}\nif err != nil {\nreturn err\n}\n}\nreturn nil\n"
	for name, c := range map[string]struct {
		a, b string
		room string
		want int
	}{
		"other comments and indentation": {body, strings.ReplaceAll(body, "\n", "\n\t"), "b", 1},
		"one room":                       {body, body, "a", 0},
		"other code":                     {body, strings.Replace(body, "3", "4", 1), "b", 0},
		"grammar alone":                  {idle, idle, "b", 0},
	} {
		if got := len(duplicates([]file{{Room: "a", Code: code([]byte(c.a), 0)}, {Room: c.room, Code: code([]byte(c.b), 0)}}, 6)); got != c.want {
			t.Errorf("%s: duplicates = %d; want %d", name, got, c.want)
		}
	}
}

func TestPercentile(t *testing.T) {
	var fns []function
	for n := range 11 {
		fns = append(fns, function{Lines: n})
	}
	for p, want := range map[int]int{0: 0, 50: 5, 90: 9, 100: 10} {
		if got := percentile(fns, p); got != want {
			t.Errorf("percentile(0..10, %d) = %d; want %d", p, got, want)
		}
	}
}
