package sysconf

import "strings"

// Cmdline is a kernel command line.
type Cmdline struct {
	Words []*Word
	text  string
}

// Word is a parameter of a kernel command line, without its quotes.
type Word struct {
	Name  string
	Value string
	// Assigned is set for one with an equals sign.
	Assigned bool

	all   span // in the text, with quotes
	value span // without quotes
	c     *Cmdline
}

// kernelSpace is the white space that divides parameters.
func kernelSpace(c byte) bool { return c == ' ' || c >= '\t' && c <= '\r' }

// ParseCmdline reads a kernel command line as the kernel does, next_arg() in
// lib/cmdline.c: white space between double quotes belongs to the word, and
// quotes around a word or its value are not part of it.
func ParseCmdline(text string) *Cmdline {
	c := &Cmdline{text: text}
	c.parse()
	return c
}

func (c *Cmdline) parse() {
	c.Words = nil
	s := c.text
	for i := 0; i < len(s); {
		if kernelSpace(s[i]) {
			i++
			continue
		}
		w := &Word{all: span{from: i}, c: c}
		quoted := s[i] == '"'
		if quoted {
			i++
		}
		from, equals, in := i, -1, quoted
		for ; i < len(s) && (in || !kernelSpace(s[i])); i++ {
			if s[i] == '=' && equals < 0 && i > from {
				equals = i
			}
			if s[i] == '"' {
				in = !in
			}
		}
		w.all.to = i
		end := i
		if quoted && end > from && s[end-1] == '"' {
			end--
		}
		w.split(s, from, end, equals)
		c.Words = append(c.Words, w)
	}
}

// split fills in name and value of the word at s[from:end], with its first equals sign at
// equals, or -1.
func (w *Word) split(s string, from, end, equals int) {
	w.Name, w.value = s[from:end], span{end, end}
	if equals < 0 || equals >= end {
		return
	}
	w.Name, w.Assigned = s[from:equals], true
	w.value = span{equals + 1, end}
	if w.value.from < end && s[w.value.from] == '"' {
		w.value.from++
		if w.value.to > w.value.from && s[w.value.to-1] == '"' {
			w.value.to--
		}
	}
	w.Value = s[w.value.from:w.value.to]
}

// String gives the text.
func (c *Cmdline) String() string { return c.text }

// Raw is the word as it is written, with its quotes.
func (w *Word) Raw() string { return w.c.text[w.all.from:w.all.to] }

// Is reports whether a word has one of the names given; the kernel takes - and _ for
// each other.
func (w *Word) Is(names ...string) bool {
	for _, n := range names {
		if strings.ReplaceAll(w.Name, "-", "_") == strings.ReplaceAll(n, "-", "_") {
			return true
		}
	}
	return false
}

// Set changes the value of a word that has one. Double quotes can't be written
// there, and are left out.
func (w *Word) Set(value string) {
	if !w.Assigned || value == w.Value {
		return
	}
	c := w.c
	value = strings.ReplaceAll(value, `"`, "")
	at := w.value
	if strings.Contains(w.Name+w.Value, `"`) {
		// Without one quote of a pair, words behind it would belong to this one.
		at = w.all
		if value = strings.ReplaceAll(w.Name, `"`, "") + "=" + value; strings.ContainsAny(value, " \t\n\v\f\r") {
			value = `"` + value + `"`
		}
	} else if strings.ContainsAny(value, " \t\n\v\f\r") {
		at = w.all // with quotes of its own
		if value = w.Name + `="` + value + `"`; strings.ContainsAny(w.Name, " \t\n\v\f\r") {
			value = `"` + strings.Replace(value, `"`, "", 1)
		}
	}
	c.text = c.text[:at.from] + value + c.text[at.to:]
	old := c.Words
	c.parse()
	for i := range min(len(old), len(c.Words)) { // those that a caller holds stay right
		*old[i] = *c.Words[i]
		c.Words[i] = old[i]
	}
}
