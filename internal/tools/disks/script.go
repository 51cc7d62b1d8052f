package disks

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/blockdev"
	"github.com/mkcdrec/mkcdrec/internal/gpt"
	"github.com/mkcdrec/mkcdrec/internal/lazyregexp"
	"github.com/mkcdrec/mkcdrec/internal/mbr"
	"github.com/mkcdrec/mkcdrec/internal/tools"
	"github.com/mkcdrec/mkcdrec/internal/uuid"
)

// scriptLine is a partition of a script: 0 stands for what is not given.
type scriptLine struct {
	number, start, size    int64
	typ, uuid, name, attrs string
	active                 bool
}

// parsedScript is a script of sfdisk.
type parsedScript struct {
	label, id   string
	first, last int64
	length      int
	lines       []scriptLine
}

const alignment = 1 << 20

// parseScript reads a script or a dump, sfdisk(8), "INPUT FORMATS".
func parseScript(text string, ss int64) (*parsedScript, error) {
	s := &parsedScript{length: 128}
	for n, l := range strings.Split(text, "\n") {
		l = strings.TrimSpace(l)
		if l == "" || l[0] == '#' {
			continue
		}
		head, value, _ := strings.Cut(l, ":")
		value = strings.TrimSpace(value)
		var err error
		switch head {
		case "label":
			s.label = value
		case "label-id":
			s.id = value
		case "first-lba":
			s.first, err = strconv.ParseInt(value, 10, 64)
		case "last-lba":
			s.last, err = strconv.ParseInt(value, 10, 64)
		case "table-length":
			s.length, err = strconv.Atoi(value)
		case "device", "unit", "grain", "sector-size":
		default:
			var p scriptLine
			if p, err = parseLine(l, ss); err == nil {
				s.lines = append(s.lines, p)
			}
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n+1, err)
		}
	}
	return s, nil
}

func parseLine(l string, ss int64) (p scriptLine, err error) {
	if dev, rest, ok := strings.Cut(l, " : "); ok {
		digits := dev[len(strings.TrimRight(strings.TrimSpace(dev), "0123456789")):]
		p.number, err = strconv.ParseInt(strings.TrimSpace(digits), 10, 64)
		if err != nil {
			return p, fmt.Errorf("no partition number in '%s'", dev)
		}
		l = rest
	}
	for i, f := range splitFields(l) {
		k, v, ok := strings.Cut(f, "=")
		k, v = strings.TrimSpace(k), strings.Trim(strings.TrimSpace(v), `"`)
		if !ok && k != "bootable" && k != "*" { // "START,SIZE,TYPE,BOOTABLE"
			if i > 3 {
				return p, fmt.Errorf("unsupported field '%s'", f)
			}
			k, v = []string{"start", "size", "type", "bootable"}[i], k
		}
		if err := p.set(k, v, ok, ss); err != nil {
			return p, err
		}
	}
	return p, nil
}

// set sets one field; named is false for a value without its name.
func (p *scriptLine) set(k, v string, named bool, ss int64) (err error) {
	switch k {
	case "start":
		p.start, err = sectors(v, ss)
	case "size":
		p.size, err = sectors(v, ss)
	case "uuid":
		p.uuid = strings.ToUpper(v)
	case "type", "Id", "name", "attrs":
		*map[string]*string{"type": &p.typ, "Id": &p.typ, "name": &p.name, "attrs": &p.attrs}[k] = v
	case "bootable", "*":
		p.active = v == "" || v == "*" && !named
	default:
		err = fmt.Errorf("unsupported field '%s'", k)
	}
	return err
}

// splitFields divides at commas that are not in quotes.
func splitFields(s string) []string {
	var out []string
	quoted, from := false, 0
	for i := range len(s) {
		switch {
		case s[i] == '"':
			quoted = !quoted
		case s[i] == ',' && !quoted:
			out = append(out, s[from:i])
			from = i + 1
		}
	}
	return append(out, s[from:])
}

// sectors reads a size: sectors, or bytes with a suffix; "" and "+" are 0, the default.
func sectors(v string, ss int64) (int64, error) {
	v = strings.TrimSpace(v)
	if v == "" || v == "+" || v == "-" {
		return 0, nil
	}
	v = strings.TrimPrefix(v, "+")
	if n, err := strconv.ParseInt(v, 10, 64); err == nil && n >= 0 {
		return n, nil
	}
	n, err := tools.Size(v)
	return n / ss, err
}

// script writes the table that standard input describes.
func script(e *tools.Env) error {
	path := e.Args[0]
	text, err := io.ReadAll(io.LimitReader(e.In, 1<<20))
	if err != nil {
		return err
	}
	f, err := openExclusive(path)
	if err != nil {
		return err
	}
	defer f.Close()
	size, ss, err := geometry(f)
	if err != nil {
		return err
	}
	s, err := parseScript(string(text), ss)
	if err != nil {
		return err
	}
	old, err := readDisk(path)
	if err != nil {
		return err
	}
	if s.label == "" {
		s.label = e.Or("X", map[bool]string{true: "gpt", false: "dos"}[old.gpt != nil])
	}
	prepare := map[string]func(*os.File, int64, int64) (func() error, error){"gpt": s.gpt, "dos": s.mbr, "mbr": s.mbr}[s.label]
	if prepare == nil {
		return fmt.Errorf("unsupported label '%s'", s.label)
	}
	write, err := prepare(f, ss, size)
	if err != nil || e.On("n") {
		return err
	}
	if err := errors.Join(write(), f.Sync()); err != nil {
		return err
	}
	if d, err := readDisk(path); err == nil && !e.On("q") {
		d.print(e)
	}
	if e.On("no-reread", "no-tell-kernel") {
		return nil
	}
	return reread(f)
}

// reread makes the kernel read the table of a disk; a file has none for it.
func reread(f *os.File) error {
	if st, err := f.Stat(); err != nil || st.Mode().IsRegular() {
		return err
	}
	return blockdev.Reread(context.Background(), f)
}

func (s *parsedScript) gpt(f *os.File, ss, size int64) (func() error, error) {
	reserved := (int64(s.length)*128 + ss - 1) / ss
	t := &gpt.Table{GUID: strings.ToUpper(s.id), Entries: s.length, FirstUsable: max(s.first, 2+reserved), LastUsable: s.last}
	if t.GUID == "" {
		t.GUID = strings.ToUpper(uuid.New())
	}
	if s.first == 0 {
		t.FirstUsable = max(alignment/ss, 2+reserved)
	}
	if end := size/ss - 2 - reserved; t.LastUsable == 0 || t.LastUsable > end {
		t.LastUsable = end
	}
	at := t.FirstUsable
	for i, l := range s.lines {
		start, count, err := place(l, &at, t.FirstUsable, t.LastUsable, ss)
		if err != nil {
			return nil, err
		}
		p := gpt.Partition{Number: i + 1, First: start, Last: start + count - 1, Name: l.name, GUID: l.uuid, Type: "0FC63DAF-8483-4772-8E79-3D69D8477DE4"}
		if l.number > 0 {
			p.Number = int(l.number)
		}
		if p.GUID == "" {
			p.GUID = strings.ToUpper(uuid.New())
		}
		if l.typ != "" {
			if p.Type, err = typeGUID(l.typ); err != nil {
				return nil, err
			}
		}
		if p.Attributes, err = parseAttributes(l.attrs); err != nil {
			return nil, err
		}
		t.Partitions = append(t.Partitions, p)
	}
	if err := t.Check(ss, size); err != nil {
		return nil, err
	}
	return func() error { return t.Write(f, ss, size) }, nil
}

var guidForm = lazyregexp.New(`^(?i)[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// typeGUID is the type that a GUID, a name or a short name means.
func typeGUID(s string) (string, error) {
	if guidForm().MatchString(s) {
		return strings.ToUpper(s), nil
	}
	if alias, ok := map[string]string{"swap": "S", "uefi": "U", "lvm": "V", "raid": "R", "linux": "L", "home": "H"}[s]; ok {
		s = alias
	}
	for _, g := range gptTypes {
		if strings.EqualFold(s, g.short) || strings.EqualFold(s, g.name) {
			return g.guid, nil
		}
	}
	return "", fmt.Errorf("unsupported type '%s'", s)
}

// mbrType is the type that a hexadecimal number or a short name means.
func mbrType(s string) (byte, error) {
	short := map[string]string{"L": "83", "S": "82", "E": "5", "X": "85", "U": "ef", "R": "fd", "V": "8e", "swap": "82", "linux": "83"}
	n, err := strconv.ParseUint(strings.TrimPrefix(firstOf(short[s], s), "0x"), 16, 8)
	if err != nil {
		return 0, fmt.Errorf("invalid type '%s'", s)
	}
	return byte(n), nil
}

func parseAttributes(s string) (v uint64, err error) {
	for _, w := range strings.Fields(strings.ReplaceAll(s, ",", " ")) {
		known := false
		for _, a := range attributeNames {
			if a.name == w {
				v, known = v|1<<a.bit, true
			}
		}
		if n, ok := strings.CutPrefix(w, "GUID:"); ok {
			bit, err := strconv.ParseUint(n, 10, 6)
			if err != nil {
				return 0, err
			}
			v, known = v|1<<bit, true
		}
		if !known {
			return 0, fmt.Errorf("unsupported attribute '%s'", w)
		}
	}
	return v, nil
}

// signature is the label-id, or a random number.
func (s *parsedScript) signature() (uint32, error) {
	if s.id == "" {
		var b [4]byte
		_, err := rand.Read(b[:])
		return binary.BigEndian.Uint32(b[:]), err
	}
	n, err := strconv.ParseUint(s.id, 0, 32)
	if err != nil {
		return 0, fmt.Errorf("invalid label-id '%s'", s.id)
	}
	return uint32(n), nil
}

// mbrType reads a type in hexadecimal or sfdisk's short words; it is Linux without one.
func (l scriptLine) mbrType() (byte, error) {
	short := map[string]string{"": "83", "L": "83", "S": "82", "E": "5", "X": "85", "U": "ef", "R": "fd", "V": "8e", "swap": "82", "linux": "83"}
	n, err := strconv.ParseUint(strings.TrimPrefix(firstOf(short[l.typ], l.typ), "0x"), 16, 8)
	if err != nil {
		return 0, fmt.Errorf("invalid type '%s'", l.typ)
	}
	return byte(n), nil
}

func (s *parsedScript) mbr(f *os.File, ss, size int64) (func() error, error) {
	t := &mbr.Table{}
	var err error
	if t.Signature, err = s.signature(); err != nil {
		return nil, err
	}
	last := min(size/ss-1, 1<<32-1)
	at := alignment / ss
	next, logical, extEnd := 1, 5, int64(0)
	for _, l := range s.lines {
		p := mbr.Partition{Number: int(l.number), Active: l.active}
		if p.Type, err = l.mbrType(); err != nil {
			return nil, err
		}
		end := last
		if inside := extEnd > 0 && (l.number >= 5 || l.number == 0); inside {
			end = extEnd
			if l.start == 0 {
				at = at + alignment/ss // room for its own boot record
			}
			if p.Number == 0 {
				p.Number = logical
			}
			logical++
		} else if p.Number == 0 {
			p.Number = next
		}
		if p.Number < 5 {
			next = p.Number + 1
		}
		if p.Start, p.Count, err = place(l, &at, alignment/ss, end, ss); err != nil {
			return nil, err
		}
		if p.Number > 4 {
			p.EBR = p.Start - alignment/ss
		}
		if mbr.Extended(p.Type) {
			at, extEnd = p.Start, p.Start+p.Count-1
		}
		t.Partitions = append(t.Partitions, p)
	}
	if err := t.Check(size / ss); err != nil {
		return nil, err
	}
	return func() error { return t.Write(f, ss) }, nil
}
