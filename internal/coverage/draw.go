package coverage

import (
	"cmp"
	"embed"
	"fmt"
	"html/template"
	"io"
	"slices"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/printable"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
)

// barWidth is how many characters a disk has in a picture, columns the width of a line.
const barWidth, columns = 60, 80

// Draw draws each disk as a bar with the letters of States, and lists what is on it. Names
// are safe to show.
func (r *Report) Draw(w io.Writer) error {
	var b strings.Builder
	for i := range r.Disks {
		d := &r.Disks[i]
		wrap(&b, 0, 2, fmt.Sprintf("/dev/%s  %s  %s  serial %s", d.Name, d.Size, cmp.Or(d.Model, "none"), cmp.Or(d.Serial, "none")))
		fmt.Fprintf(&b, "  [%s]\n", d.bar())
		for _, s := range d.Sums {
			fmt.Fprintf(&b, "  %c %-20s %10s  %5.1f %%\n", States[max(s.State.rank(), 0)].Letter, s.State.Name(), s.Size, percent(s.Size, d.Size))
		}
		b.WriteByte('\n')
	}
	for _, i := range r.Items {
		size := ""
		if i.Size > 0 {
			size = i.Size.String()
		}
		wrap(&b, 0, 14, fmt.Sprintf("%c %-11s %-20s %10s  %s", States[max(i.State.rank(), 0)].Letter, i.Kind, i.Name, size, i.What))
		if i.Why != "" {
			wrap(&b, 14, 14, i.State.Name()+": "+i.Why)
		}
		if i.Kind == "filesystem" && len(i.Sums) > 0 {
			wrap(&b, 14, 14, i.inside())
		}
	}
	list := func(what string, lines []string) {
		for _, l := range lines {
			wrap(&b, 0, 14, what+": "+l)
		}
	}
	list("left out by rule", r.rules())
	list("left out", r.LeftOut)
	list("NOT COVERED", r.NotCovered)
	_, err := io.WriteString(w, b.String())
	return err
}

// inside describes the bytes of a file system.
func (i Item) inside() string {
	var out []string
	for _, s := range i.Sums {
		name := s.State.Name()
		if s.State == Unallocated {
			name = "free"
		}
		out = append(out, fmt.Sprintf("%s %s", name, s.Size))
	}
	return strings.Join(out, ", ")
}

// rules are the rules by which files are left out, with what they leave out where that was measured.
func (r *Report) rules() []string {
	if r.Omitted == nil {
		return r.Exclude
	}
	var out []string
	for _, o := range r.Omitted {
		out = append(out, fmt.Sprintf("%s: %s of %s, files: %d", o.Rule, o.Size, o.Device, o.Files))
	}
	for _, e := range r.Exclude {
		if !slices.ContainsFunc(r.Omitted, func(o Omitted) bool { return o.Rule == e }) {
			out = append(out, e+": nothing")
		}
	}
	return out
}

// wrap writes a line, broken at spaces: the first with an indent of first, others of next.
func wrap(b *strings.Builder, first, next int, text string) {
	rest := []rune(strings.TrimRight(printable.Clean(text), " "))
	for indent := first; ; indent = next {
		n := len(rest)
		if room := columns - indent; n > room {
			n = room
			for i := room; i > room/2; i-- {
				if rest[i] == ' ' {
					n = i
					break
				}
			}
		}
		b.WriteString(strings.Repeat(" ", indent) + strings.TrimRight(string(rest[:n]), " ") + "\n")
		for n < len(rest) && rest[n] == ' ' {
			n++
		}
		if rest = rest[n:]; len(rest) == 0 {
			return
		}
	}
}

func percent(n, of quantity.Size) float64 { return 100 * float64(n) / float64(max(of, 1)) }

// bar is a disk in barWidth letters. Each is the state of most of its bytes; what is not
// covered has a letter however small it is.
func (d *Disk) bar() string {
	var share [barWidth][]float64
	for i := range share {
		share[i] = make([]float64, len(States))
	}
	cell := max(float64(d.Size)/barWidth, 1)
	for _, r := range d.Ranges {
		k := r.State.rank()
		if k < 0 {
			continue
		}
		from, to := float64(r.Start), float64(r.Start+r.Size)
		for i := max(int(from/cell), 0); i < barWidth && float64(i)*cell < to; i++ {
			share[i][k] += min(to, float64(i+1)*cell) - max(from, float64(i)*cell)
		}
	}
	out := make([]byte, barWidth)
	for i, s := range share {
		most := len(States) - 1
		for k, n := range s {
			if n > s[most] || n > 0 && States[k].State == NotCovered {
				most = k
				if States[k].State == NotCovered {
					break
				}
			}
		}
		out[i] = States[most].Letter
	}
	return string(out)
}

//go:embed coverage.html
var page embed.FS

// HTML writes the report as one HTML page that needs no other file and no script.
func (r *Report) HTML(w io.Writer) error {
	t, err := template.New("coverage.html").Funcs(template.FuncMap{
		"name": State.Name, "percent": percent, "states": func() any { return States }, "rules": r.rules, "inside": Item.inside,
		"letter": func(s State) string { return string(States[max(s.rank(), 0)].Letter) },
	}).ParseFS(page, "coverage.html")
	if err != nil {
		return fmt.Errorf("cannot read the template of the page: %w", err)
	}
	var b strings.Builder
	if err := t.Execute(&b, r); err != nil {
		return err
	}
	// Names and labels may have what a terminal acts on; HTML only makes them harmless to a browser.
	_, err = io.WriteString(w, printable.CleanLines(b.String()))
	return err
}
