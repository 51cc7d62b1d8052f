package probe

import (
	"reflect"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/mkcdrec/mkcdrec/internal/layout"
)

// escape gives a string that layout.Text takes: what is not text in it is written as Go
// does, "\x1b".
func escape(s string) string {
	if layout.Text(s) {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		if layout.Text(s[:n]) {
			b.WriteString(s[:n])
		} else if r == utf8.RuneError {
			b.WriteString(`\x` + strconv.FormatUint(uint64(s[0])|0x100, 16)[1:])
		} else {
			q := strconv.QuoteToASCII(s[:n])
			b.WriteString(q[1 : len(q)-1])
		}
		s = s[n:]
	}
	return b.String()
}

// clean escapes what is not text in a layout: serial numbers, models, labels and names
// are for people, and whole files have their own rule. Labels keep their bytes beside.
// Names of partitions are not restored byte for byte then, which is listed.
func clean(l *layout.Layout) {
	for i := range l.Filesystems {
		if f := &l.Filesystems[i]; !layout.Text(f.Label) {
			f.LabelBytes = []byte(f.Label)
		}
	}
	for _, d := range l.Disks {
		if d.Table == nil {
			continue
		}
		for _, p := range d.Table.Partitions {
			if !layout.Text(p.Name) {
				l.LeftAlone = append(l.LeftAlone, layout.Unsupported{What: p.Device, Device: p.Device, Reason: "the partition's name is not text; it will be restored as " + escape(p.Name)})
			}
		}
	}
	for _, s := range l.Swap {
		if !layout.Text(s.Label) {
			l.LeftAlone = append(l.LeftAlone, layout.Unsupported{What: s.Device, Device: s.Device, Reason: "the label of the swap device is not text; it will be restored as " + escape(s.Label)})
		}
	}
	cleanValue(reflect.ValueOf(l).Elem(), "")
}

func cleanValue(v reflect.Value, field string) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			cleanValue(v.Elem(), field)
		}
	case reflect.Slice:
		for i := range v.Len() {
			cleanValue(v.Index(i), field)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			cleanValue(v.Field(i), v.Type().Field(i).Name)
		}
	case reflect.String:
		s := v.String()
		if field == "Fstab" || field == "Config" {
			lines := strings.SplitAfter(s, "\n")
			for i := range lines {
				line := strings.TrimSuffix(lines[i], "\n")
				words := strings.Split(line, "\t")
				for j := range words {
					words[j] = escape(words[j])
				}
				lines[i] = strings.Join(words, "\t") + lines[i][len(line):]
			}
			v.SetString(strings.Join(lines, ""))
			return
		}
		if e := escape(s); e != s {
			v.SetString(e)
		}
	}
}
