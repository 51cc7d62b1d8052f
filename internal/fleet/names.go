package fleet

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/lazyregexp"
	"github.com/mkcdrec/mkcdrec/internal/regular"
)

// Names are host names by MAC or serial number, as a CSV file has them. Its first line
// names the columns: hostname, and mac, serial, or both.
type Names struct {
	byMAC, bySerial map[string]string
}

// LoadNames reads a CSV file of names.
func LoadNames(file string) (*Names, error) {
	b, err := regular.ReadFile(file, maxRules)
	if err != nil {
		return nil, fmt.Errorf("cannot read names: %w", err)
	}
	return ParseNames(file, b)
}

// ParseNames reads names. Faults are all reported, with their lines: a name, MAC or
// serial number that is there twice is one.
func ParseNames(file string, b []byte) (*Names, error) {
	n := &Names{map[string]string{}, map[string]string{}}
	r := csv.NewReader(bytes.NewReader(bytes.TrimPrefix(b, []byte("\ufeff"))))
	r.TrimLeadingSpace, r.Comment = true, '#'
	head, err := r.Read()
	if err != nil {
		return nil, fmt.Errorf("cannot read names %s: %w", file, noEOF(err))
	}
	column, err := columns(head)
	if err != nil {
		return nil, fmt.Errorf("cannot read names %s: line 1: %w", file, err)
	}
	var errs []error
	seen := map[string]bool{}
	for {
		rec, err := r.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("cannot read names %s: %w", file, err)
		}
		line, _ := r.FieldPos(0)
		bad := func(format string, args ...any) {
			errs = append(errs, fmt.Errorf("%s:%d: %s", file, line, fmt.Sprintf(format, args...)))
		}
		get := func(c string) string {
			if i, ok := column[c]; ok {
				return strings.TrimSpace(rec[i])
			}
			return ""
		}
		host := get("hostname")
		if !ValidHostname(host) {
			bad("%q is not a host name", host)
			continue
		}
		if seen[strings.ToLower(host)] {
			bad("host name %q is there twice", host)
		}
		seen[strings.ToLower(host)] = true
		n.add(host, get("mac"), get("serial"), bad)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return n, nil
}

// columns gives the places of the columns that the first line names.
func columns(head []string) (map[string]int, error) {
	column := map[string]int{}
	for i, h := range head {
		h = strings.ToLower(strings.TrimSpace(h))
		if _, twice := column[h]; twice || !slices.Contains([]string{"mac", "serial", "hostname"}, h) {
			return nil, fmt.Errorf("column %q; want mac, serial and hostname, each once", h)
		}
		column[h] = i
	}
	_, mac := column["mac"]
	_, serial := column["serial"]
	if _, ok := column["hostname"]; !ok || !mac && !serial {
		return nil, errors.New("want the columns hostname, and mac or serial")
	}
	return column, nil
}

// add gives a host name to the machine with a MAC or serial number, and calls bad for faults of them.
func (n *Names) add(host, m, s string, bad func(string, ...any)) {
	if m == "" && s == "" {
		bad("host name %q has neither a MAC nor a serial number", host)
	}
	if m != "" {
		if m, err := ParseMAC(m); err != nil {
			bad("%v", err)
		} else if _, twice := n.byMAC[m]; twice {
			bad("MAC %s is there twice", m)
		} else {
			n.byMAC[m] = host
		}
	}
	if s != "" {
		if _, twice := n.bySerial[s]; twice || !Usable(s) {
			bad("serial number %q is there twice, or does not belong to one machine", s)
		}
		n.bySerial[s] = host
	}
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return errors.New("it is empty")
	}
	return err
}

// For gives a machine's name, "" if the file has none. A serial number that is not the
// machine's own alone names nothing.
func (n *Names) For(r *Registration, unique bool) string {
	if h := n.byMAC[r.MAC]; h != "" {
		return h
	}
	if unique {
		return n.bySerial[r.Serial]
	}
	return ""
}

// ValidHostname reports whether a text is a host name of one or more labels (RFC 1123,
// section 2.1), at most 64 bytes long, as Linux takes it.
func ValidHostname(s string) bool {
	if len(s) > 64 {
		return false
	}
	for _, l := range strings.Split(s, ".") {
		if l == "" || len(l) > 63 || l[0] == '-' || l[len(l)-1] == '-' || strings.ContainsFunc(l, func(r rune) bool {
			return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-')
		}) {
			return false
		}
	}
	return true
}

// fields finds {n}, {n:03}, {mac} and {serial} in a pattern.
var fields = lazyregexp.New(`\{([^{}]*)\}`)

// number is the field for a number.
var number = lazyregexp.New(`\{n(:0[1-9])?\}`)

// checkPattern checks a pattern of host names.
func checkPattern(p string) error {
	for _, m := range fields().FindAllStringSubmatch(p, -1) {
		if m[1] != "mac" && m[1] != "serial" && !number().MatchString(m[0]) {
			return fmt.Errorf("hostname %q: {%s} is not known; want {n}, {n:02}, {mac} or {serial}", p, m[1])
		}
	}
	if len(fields().FindAllString(p, -1)) == 0 {
		return fmt.Errorf("hostname %q is the same for all machines; want {n}, {n:02}, {mac} or {serial} in it", p)
	}
	if s := expand(p, 1, &Registration{MAC: "52:54:00:12:34:56", Serial: "A1"}); !ValidHostname(s) {
		return fmt.Errorf("hostname %q gives %q, which is not a host name", p, s)
	}
	return nil
}

// expand fills a pattern for a machine.
func expand(p string, n int, r *Registration) string {
	return fields().ReplaceAllStringFunc(p, func(f string) string {
		switch f {
		case "{mac}":
			return strings.ReplaceAll(r.MAC, ":", "")
		case "{serial}":
			return strings.ToLower(r.Serial)
		}
		width := 0
		if _, w, ok := strings.Cut(strings.Trim(f, "{}"), ":0"); ok {
			width, _ = strconv.Atoi(w) // checkPattern has seen it
		}
		return fmt.Sprintf("%0*d", width, n)
	})
}
