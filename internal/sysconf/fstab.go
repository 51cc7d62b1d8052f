package sysconf

import (
	"slices"
	"strings"
)

// Fstab is the text of an fstab(5).
type Fstab struct {
	Entries []*FstabEntry // in the order of the text
	lines   []*line
}

// FstabEntry is a line of fstab(5) that is not a comment; its fields are decoded.
// Only the first two have to be there: systemd takes such lines, which mount(8)
// passes over.
type FstabEntry struct {
	Line    int // from 1
	Spec    string
	File    string
	Type    string
	Options string // "" without any
	Freq    string
	Pass    string

	l *line
}

// fill are the values of fields of fstab(5) that are not written.
func fill() []string { return []string{"none", "none", "auto", "defaults", "0", "0"} }

// ParseFstab reads an fstab(5). Lines with one field are kept, but are not entries.
func ParseFstab(text string) *Fstab {
	f := &Fstab{lines: splitLines(text)}
	for n, l := range tableLines(f.lines) {
		e := &FstabEntry{Line: n, l: l}
		e.read()
		f.Entries = append(f.Entries, e)
	}
	return f
}

func (e *FstabEntry) read() {
	e.l.decode(&e.Spec, &e.File, &e.Type, &e.Options, &e.Freq, &e.Pass)
}

// String gives the text.
func (f *Fstab) String() string { return joinLines(f.lines) }

// Append adds a line at the end.
func (f *Fstab) Append(spec, file, typ, options, freq, pass string) {
	f.lines = appendLine(f.lines, strings.Join([]string{Escape(spec), Escape(file), Escape(typ), Escape(options), freq, pass}, "\t"))
	l := f.lines[len(f.lines)-1]
	l.scan()
	e := &FstabEntry{Line: len(f.lines), l: l}
	e.read()
	f.Entries = append(f.Entries, e)
}

// appendLine adds a line with the end that the others have.
func appendLine(lines []*line, body string) []*line {
	end := "\n"
	if n := len(lines); n > 0 {
		if lines[0].end == "\r\n" {
			end = "\r\n"
		}
		if lines[n-1].end == "" {
			lines[n-1].end = end
		}
	}
	return append(lines, &line{body: body, end: end})
}

// At gives the entry that mounts on a path; nil if absent. Of several the
// last one counts.
func (f *Fstab) At(path string) *FstabEntry {
	for _, e := range slices.Backward(f.Entries) {
		if e.Path() == path {
			return e
		}
	}
	return nil
}

// Path is the mount point, clean of double and trailing slashes; "" for an entry
// that is not mounted at a path.
func (e *FstabEntry) Path() string {
	if !strings.HasPrefix(e.File, "/") {
		return ""
	}
	parts := slices.DeleteFunc(strings.Split(e.File, "/"), func(s string) bool { return s == "" || s == "." })
	return "/" + strings.Join(parts, "/")
}

// Raw is a field as it is written, for messages; 0 is the device.
func (e *FstabEntry) Raw(field int) string { return e.l.raw(field) }

// Swap reports an entry for swapping.
func (e *FstabEntry) Swap() bool { return e.Type == "swap" }

// NoAuto reports an entry that is not mounted at boot.
func (e *FstabEntry) NoAuto() bool { return lastOf(e.Options, "noauto", "auto") }

// NoFail reports an entry without which the system starts.
func (e *FstabEntry) NoFail() bool { return lastOf(e.Options, "nofail", "fail") }

// Bind reports an entry that mounts a directory or file again.
func (e *FstabEntry) Bind() bool {
	return e.Type == "bind" || HasOption(e.Options, "bind") || HasOption(e.Options, "rbind")
}

// SetSpec changes what is mounted.
func (e *FstabEntry) SetSpec(s string) { e.set(0, e.Spec, s) }

// SetType changes the type.
func (e *FstabEntry) SetType(s string) { e.set(2, e.Type, s) }

// SetFreq changes the field for dump(8).
func (e *FstabEntry) SetFreq(s string) { e.set(4, e.Freq, s) }

// SetPass changes the field for fsck(8).
func (e *FstabEntry) SetPass(s string) { e.set(5, e.Pass, s) }

func (e *FstabEntry) set(n int, old, s string) {
	if old == s && n < len(e.l.fields) {
		return
	}
	raw := Escape(s)
	if raw == "" {
		raw = fill()[n]
	}
	e.l.set(n, raw, fill())
	e.read()
}

// AddOption adds an option behind the others.
func (e *FstabEntry) AddOption(o string) {
	e.l.set(3, AppendOption(e.l.raw(3), o), fill())
	e.read()
}

// AppendOption gives options with one more behind them, or before them where a quote
// without an end would take it in. The options are as they are written.
func AppendOption(options, o string) string {
	switch o = Escape(o); {
	case options == "":
		return o
	case strings.Count(Unescape(options), `"`)%2 == 1:
		return o + "," + options
	case strings.HasSuffix(options, ","):
		return options + o
	default:
		return options + "," + o
	}
}

// DropOption removes the options for which drop is true; without any left the
// entry has "defaults".
func (e *FstabEntry) DropOption(drop func(o string) bool) {
	e.editOptions(func(o string) (string, bool) { return o, !drop(o) })
}

// ReplaceOption puts another option in the place of those with the name.
func (e *FstabEntry) ReplaceOption(name, by string) {
	e.editOptions(func(o string) (string, bool) {
		if k, _, _ := strings.Cut(o, "="); k == name {
			return by, true
		}
		return o, true
	})
}

// editOptions puts what edit makes of an option in its place, or nothing.
func (e *FstabEntry) editOptions(edit func(o string) (by string, keep bool)) {
	raw := e.l.raw(3)
	text, at := unescape(raw)
	var keep []string
	changed := false
	for _, s := range optionSpans(text) {
		o := text[s.from:s.to]
		by, ok := edit(o)
		changed = changed || !ok || by != o
		if ok && by != o {
			keep = append(keep, Escape(by))
		} else if ok {
			keep = append(keep, raw[at[s.from]:at[s.to]])
		}
	}
	if !changed {
		return
	}
	if len(keep) == 0 {
		keep = []string{"defaults"}
	}
	e.l.set(3, strings.Join(keep, ","), fill())
	e.read()
}

// optionSpans divides mount options at their commas, but for those between double
// quotes, as libmount does: SELinux contexts have commas. Empty ones are left out.
func optionSpans(s string) []span {
	var out []span
	from, quoted := 0, false
	for i := 0; i <= len(s); i++ {
		if i < len(s) && s[i] == '"' {
			quoted = !quoted
		}
		if i == len(s) || s[i] == ',' && !quoted {
			if i > from {
				out = append(out, span{from, i})
			}
			from = i + 1
		}
	}
	return out
}

// SplitOptions gives the single options of a field of mount options.
func SplitOptions(options string) []string {
	var out []string
	for _, s := range optionSpans(options) {
		out = append(out, options[s.from:s.to])
	}
	return out
}

// Option gives the value of an option, "" for one without; the last one counts.
func Option(options, name string) (value string, ok bool) {
	for _, o := range SplitOptions(options) {
		if k, v, _ := strings.Cut(o, "="); k == name {
			value, ok = strings.Trim(v, `"`), true
		}
	}
	return value, ok
}

// HasOption reports whether the options have one of that name.
func HasOption(options, name string) bool {
	_, ok := Option(options, name)
	return ok
}

// lastOf reports whether the last one of two options that undo each other is yes.
func lastOf(options, yes, no string) bool {
	is := false
	for _, o := range SplitOptions(options) {
		switch o {
		case yes:
			is = true
		case no:
			is = false
		}
	}
	return is
}
