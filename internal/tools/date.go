package tools

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/lazyregexp"
)

var relative = lazyregexp.New(`^([+-]?\s*\d*)\s*(second|sec|minute|min|hour|day|week|fortnight|month|year)s?( ago)?$`)

// ParseDate reads what date -d takes: @seconds, ISO dates and times, "yesterday",
// "2 days ago", "next month", "last monday", and a date followed by such an offset.
func ParseDate(s string, now time.Time) (time.Time, error) {
	t, err := parseDate(s, now)
	if err == nil {
		return t, nil
	}
	text := strings.ToLower(s)
	m := weekday().FindStringSubmatchIndex(text)
	if m == nil {
		return now, err
	}
	day, perr := parseDate(strings.Join(strings.Fields(text[:m[0]]+" "+text[m[1]:]), " "), now)
	if perr != nil {
		return now, err
	}
	if day.Format(time.DateOnly) != now.Format(time.DateOnly) { // a date takes the place of the day
		return day, nil
	}
	word := ""
	if m[2] >= 0 {
		word = strings.TrimSpace(text[m[2]:m[3]])
	}
	days := (slices.Index(weekdays, text[m[4]:m[5]]) - int(day.Weekday()) + 7) % 7
	switch {
	case word == "last":
		days -= 7
	case word == "next" && days == 0:
		days = 7
	}
	return day.AddDate(0, 0, days), nil
}

var weekdays = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

// weekday is a day of the week, which is the first one from a date on, or the one before or
// behind it.
var weekday = lazyregexp.New(`\b(next |last |this )?(sun|mon|tue|wed|thu|fri|sat)(?:day|s|sday|nesday|r|rs|rsday|urday)?\b`)

func parseDate(s string, now time.Time) (time.Time, error) {
	bad := fmt.Errorf("invalid date '%s'", s)
	text := strings.ToLower(strings.Join(strings.Fields(s), " "))
	if n, ok := strings.CutPrefix(text, "@"); ok {
		whole, frac, _ := strings.Cut(n, ".")
		sec, err := strconv.ParseInt(whole, 10, 64)
		nano, err2 := strconv.ParseInt((frac + "000000000")[:9], 10, 64)
		if err != nil || err2 != nil {
			return now, bad
		}
		return time.Unix(sec, nano), nil
	}
	t, found := now, false
	for _, layout := range []string{
		"2006-01-02t15:04:05.999999999z07:00", "2006-01-02 15:04:05.999999999 -0700", "2006-01-02 15:04:05.999999999 z07:00", "2006-01-02 15:04:05 -0700", "2006-01-02 15:04 -0700", "2006-01-02 15:04:05 mst", "2006-01-02 15:04 mst", "2006-01-02t15:04:05.999999999", "2006-01-02 15:04:05.999999999", "2006-01-02 15:04", "2006-01-02t15:04", "2006-01-02", "20060102 15:04:05", "20060102 15:04", "20060102", "2006/01/02 15:04:05", "2006/01/02",
		"mon, 2 jan 2006 15:04:05 -0700", "mon, 2 jan 2006 15:04:05 mst", "mon jan 2 15:04:05 mst 2006", "mon jan 2 15:04:05 2006", "2 jan 2006 15:04:05", "2 jan 2006 15:04", "2 jan 2006", "jan 2 2006", "jan 2, 2006", "2 january 2006", "january 2, 2006", "01/02/2006", "15:04:05", "15:04",
	} {
		if n := longest(text, layout); n > 0 {
			p, _ := time.ParseInLocation(upper(layout), strings.ToUpper(text[:n]), now.Location()) // it was parsed before
			if layout[0] == '1' {
				p = time.Date(now.Year(), now.Month(), now.Day(), p.Hour(), p.Minute(), p.Second(), p.Nanosecond(), now.Location())
			}
			t, text, found = p, strings.TrimSpace(text[n:]), true
			break
		}
	}
	for text != "" {
		n, ok := shiftBy(&t, text, now)
		if !ok {
			return now, bad
		}
		text, found = strings.TrimSpace(text[n:]), true
	}
	if !found && s != "" {
		return now, bad
	}
	if s == "" {
		t = time.Date(now.Year(), now.Month(), now.Day(), 0, 0, 0, 0, now.Location())
	}
	return t, nil
}

func upper(layout string) string {
	return strings.NewReplacer("mst", "MST", "mon", "MON", "january", "JANUARY", "jan", "JAN", "t15", "T15", "z07", "Z07").Replace(layout)
}

// longest is the length of the longest beginning of s, ending at a blank, that the layout
// describes; 0 without one.
func longest(s, layout string) int {
	goLayout := strings.NewReplacer("MON", "Mon", "JANUARY", "January", "JAN", "Jan").Replace(upper(layout))
	for n := len(s); n > 0; n = strings.LastIndexByte(s[:n], ' ') {
		if _, err := time.Parse(goLayout, strings.ToUpper(s[:n])); err == nil {
			return n
		}
	}
	return 0
}

// shiftBy adds the offset at the begin of text, such as "2 days ago", and gives its length.
func shiftBy(t *time.Time, text string, now time.Time) (int, bool) {
	for _, w := range []struct {
		word string
		days int
	}{{"now", 0}, {"today", 0}, {"yesterday", -1}, {"tomorrow", 1}, {"midnight", 0}} {
		if text == w.word || strings.HasPrefix(text, w.word+" ") {
			*t = t.AddDate(0, 0, w.days)
			return len(w.word), true
		}
	}
	if slices.Contains([]string{"utc", "z", "gmt"}, text) {
		*t = time.Date(t.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), time.UTC)
		return len(text), true
	}
	for n := len(text); n > 0; n = strings.LastIndexByte(text[:n], ' ') {
		part := text[:n]
		for word, num := range map[string]string{"next ": "1 ", "last ": "-1 "} {
			if rest, ok := strings.CutPrefix(part, word); ok {
				part = num + rest
			}
		}
		m := relative().FindStringSubmatch(part)
		if m == nil {
			continue
		}
		digits := strings.ReplaceAll(m[1], " ", "")
		if strings.Trim(digits, "+-") == "" {
			digits += "1"
		}
		k, err := strconv.Atoi(digits)
		if err != nil {
			return 0, false
		}
		if m[3] != "" {
			k = -k
		}
		switch m[2] {
		case "month":
			*t = t.AddDate(0, k, 0)
		case "year":
			*t = t.AddDate(k, 0, 0)
		case "day", "week", "fortnight":
			*t = t.AddDate(0, 0, k*map[string]int{"day": 1, "week": 7, "fortnight": 14}[m[2]])
		default:
			*t = t.Add(time.Duration(k) * map[string]time.Duration{"second": time.Second, "sec": time.Second, "minute": time.Minute, "min": time.Minute, "hour": time.Hour}[m[2]])
		}
		return n, true
	}
	return 0, false
}

var conversion = lazyregexp.New(`%[-_0^#]*[0-9]*:*[a-zA-Z%+]`)

// Strftime writes a time as strftime(3) and date(1) do.
func Strftime(format string, t time.Time) string {
	return conversion().ReplaceAllStringFunc(format, func(c string) string {
		verb := c[len(c)-1]
		flags := c[1 : len(c)-1]
		s, pad := field(verb, flags, t)
		if s == "\x00" {
			return c
		}
		if strings.Contains(flags, "^") {
			s = strings.ToUpper(s)
		}
		width := regexp.MustCompile(`[1-9][0-9]*`).FindString(flags)
		switch {
		case strings.Contains(flags, "-") && pad > 0:
			if s = strings.TrimLeft(s, "0 "); s == "" {
				s = "0"
			}
		case strings.Contains(flags, "_") && pad > 0:
			s = fmt.Sprintf("%*s", pad, strings.TrimLeft(s[:len(s)-1], "0 ")+s[len(s)-1:])
		case strings.Contains(flags, "0") && pad > 0:
			s = strings.ReplaceAll(s, " ", "0")
		}
		if n, err := strconv.Atoi(width); err == nil && verb != 'N' {
			fill := " "
			if pad > 0 && !strings.Contains(flags, "_") {
				fill = "0"
			}
			s = strings.Repeat(fill, max(0, n-len(s))) + s
		}
		return s
	})
}

// layouts are the conversions that Go's time can do.
var layouts = map[byte]string{
	'a': "Mon", 'A': "Monday", 'b': "Jan", 'B': "January", 'h': "Jan", 'c': "Mon Jan _2 15:04:05 2006", 'D': "01/02/06", 'F': "2006-01-02", 'p': "PM", 'P': "pm", 'r': "03:04:05 PM", 'R': "15:04", 'T': "15:04:05", 'X': "15:04:05", 'x': "01/02/06", 'Z': "MST",
}

// padded are those that are numbers, with their widths.
var padded = map[byte]string{'d': "02", 'e': "_2", 'H': "15", 'I': "03", 'm': "01", 'M': "04", 'S': "05", 'y': "06", 'Y': "2006", 'j': "002"}

// field is one conversion and, for a number, its width; "\x00" if there is no such one.
func field(verb byte, flags string, t time.Time) (string, int) {
	if l, ok := layouts[verb]; ok {
		return t.Format(l), 0
	}
	if l, ok := padded[verb]; ok {
		s := t.Format(l)
		return s, len(s)
	}
	week := func(first time.Weekday) int { return (t.YearDay() + 6 - int(t.Weekday()-first+7)%7) / 7 }
	switch verb {
	case '%', 'n', 't':
		return map[byte]string{'%': "%", 'n': "\n", 't': "\t"}[verb], 0
	case 's':
		return strconv.FormatInt(t.Unix(), 10), 1
	case 'N':
		s := fmt.Sprintf("%09d", t.Nanosecond())
		if n, err := strconv.Atoi(strings.Trim(flags, "-_")); err == nil && n > 0 && n < 9 {
			s = s[:n]
		}
		return s, 0
	case 'z':
		return t.Format([]string{"-0700", "-07:00", "-07:00:00"}[min(2, strings.Count(flags, ":"))]), 0
	}
	year, iso := t.ISOWeek()
	n, ok := map[byte]int{
		'C': t.Year() / 100, 'k': t.Hour(), 'l': (t.Hour()+11)%12 + 1, 'u': (int(t.Weekday())+6)%7 + 1, 'w': int(t.Weekday()), 'q': (int(t.Month()) + 2) / 3,
		'U': week(time.Sunday), 'W': week(time.Monday), 'V': iso, 'g': year % 100, 'G': year,
	}[verb]
	if !ok {
		return "\x00", 0
	}
	format := "%02d"
	switch verb {
	case 'k', 'l':
		format = "%2d"
	case 'u', 'w', 'q':
		format = "%d"
	}
	s := fmt.Sprintf(format, n)
	return s, len(s)
}

// Confirm asks a question on standard error; an answer that begins with y agrees.
func Confirm(e *Env, format string, a ...any) bool {
	_ = e.Out.Flush() // an error stays in it
	fmt.Fprintf(e.Err, e.Name+": "+format, a...)
	answer := make([]byte, 0, 8)
	for b := make([]byte, 1); ; {
		n, err := e.In.Read(b)
		if n == 0 || err != nil || b[0] == '\n' {
			break
		}
		answer = append(answer, b[0])
	}
	return len(answer) > 0 && answer[0]|32 == 'y'
}
