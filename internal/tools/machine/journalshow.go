package machine

import (
	"encoding/json"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/mkcdrec/mkcdrec/internal/journal"
)

// formats are those of -o; of the short ones, how they begin a line.
var formats = map[string]string{
	"short": "Jan 02 15:04:05", "short-iso": "2006-01-02T15:04:05-0700", "short-precise": "Jan 02 15:04:05.000000", "short-iso-precise": "2006-01-02T15:04:05.000000-0700", "short-full": "Mon 2006-01-02 15:04:05 MST",
	"short-monotonic": "", "short-unix": "", "cat": "", "json": "", "json-pretty": "", "verbose": "Mon 2006-01-02 15:04:05.000000 MST",
}

func (r *logReader) show(x record) {
	switch r.format {
	case "cat":
		if x.has("MESSAGE") {
			r.Printf("%s\n", x.get("MESSAGE"))
		}
	case "json":
		b, err := json.Marshal(x.object(r.On("a")))
		if err != nil {
			r.Warn("%v", err)
		}
		r.Printf("%s\n", b)
	case "json-pretty":
		b, err := json.MarshalIndent(x.object(r.On("a")), "", "\t")
		if err != nil {
			r.Warn("%v", err)
		}
		r.Printf("%s\n", b)
	case "verbose":
		r.Printf("%s [%s]\n", r.at(x.Realtime, formats["verbose"]), x.cursor())
		for _, f := range x.fields {
			r.Printf("    %s=%s\n", f.Name, r.text(f.Value, 4+len(f.Name)+1))
		}
	default:
		r.short(x)
	}
}

func (x record) has(name string) bool {
	for _, f := range x.fields {
		if f.Name == name {
			return true
		}
	}
	return false
}

// short prints a line as syslog does.
func (r *logReader) short(x record) {
	if r.lastBoot != "" && r.lastBoot != x.Boot && !r.On("q") {
		r.Printf("-- Boot %s --\n", x.Boot)
	}
	r.lastBoot = x.Boot
	if !x.has("MESSAGE") {
		return
	}
	var head string
	switch r.format {
	case "short-monotonic":
		head = fmt.Sprintf("[%5d.%06d]", x.Monotonic/1e6, x.Monotonic%1e6)
	case "short-unix":
		head = fmt.Sprintf("%d.%06d", x.Realtime/1e6, x.Realtime%1e6)
	default:
		head = r.at(x.Realtime, formats[r.format])
	}
	if h := x.get("_HOSTNAME"); h != "" && !r.On("no-hostname") {
		head += " " + h
	}
	name := x.get("SYSLOG_IDENTIFIER")
	if name == "" {
		name = x.get("_COMM")
	}
	if name == "" {
		name = "unknown"
	}
	head += " " + name
	if pid := x.get("_PID"); pid != "" {
		head += "[" + pid + "]"
	} else if pid := x.get("SYSLOG_PID"); pid != "" {
		head += "[" + pid + "]"
	}
	r.Printf("%s: %s\n", head, r.text([]byte(x.get("MESSAGE")), utf8.RuneCountInString(head)+2))
}

// text is a value to be shown: further lines are indented, and what can't be shown is counted.
func (r *logReader) text(b []byte, indent int) string {
	s := strings.TrimRight(string(b), "\n")
	odd := !utf8.ValidString(s) || strings.IndexFunc(s, func(c rune) bool { return unicode.IsControl(c) && c != '\n' && c != '\t' }) >= 0
	if odd && !r.On("a") {
		return fmt.Sprintf("[%s blob data]", blobSize(len(b)))
	}
	return strings.ReplaceAll(s, "\n", "\n"+strings.Repeat(" ", indent))
}

func blobSize(n int) string {
	if n < 1024 {
		return fmt.Sprintf("%dB", n)
	}
	return fmt.Sprintf("%.1fK", float64(n*10/1024)/10)
}

func (x record) cursor() string {
	return fmt.Sprintf("s=%s;i=%x;b=%s;m=%x;t=%x;x=%x", x.file.SeqnumID, x.Seqnum, x.Boot, x.Monotonic, x.Realtime, x.Hash)
}

// object is an entry as JSON: a field with several values is an array, one that is not text
// an array of numbers, and one that is long null.
func (x record) object(all bool) map[string]any {
	out := map[string]any{"__CURSOR": x.cursor(), "__REALTIME_TIMESTAMP": fmt.Sprint(x.Realtime), "__MONOTONIC_TIMESTAMP": fmt.Sprint(x.Monotonic), "_BOOT_ID": x.Boot}
	several := map[string][]any{}
	for _, f := range x.fields {
		several[f.Name] = append(several[f.Name], jsonValue(f, all))
	}
	for name, v := range several {
		if out[name] = v; len(v) == 1 {
			out[name] = v[0]
		}
	}
	return out
}

func jsonValue(f journal.Field, all bool) any {
	const most = 4096
	switch s := string(f.Value); {
	case len(f.Name)+1+len(s) >= most && !all:
		return nil
	case utf8.ValidString(s) && strings.IndexFunc(s, func(c rune) bool { return c < ' ' && c != '\n' && c != '\t' || c == 0x7f }) < 0:
		return s
	}
	numbers := make([]int, len(f.Value))
	for i, c := range f.Value {
		numbers[i] = int(c)
	}
	return numbers
}
