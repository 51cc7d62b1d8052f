package fleet

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"

	"github.com/mkcdrec/mkcdrec/internal/regular"
	"github.com/mkcdrec/mkcdrec/internal/strictyaml"
)

// maxRules is the largest file of rules that is read, in bytes.
const maxRules = 1 << 20

// Rules say what a machine gets. The first one that matches a machine is the machine's.
type Rules struct {
	Rules []Rule `yaml:"rules"`
}

// Rule is what the machines that match it get. docs/FLEET.md has the words.
type Rule struct {
	Match    Match   `yaml:"match"`
	Set      string  `yaml:"set"`
	Disks    Disks   `yaml:"disks"`
	Hostname string  `yaml:"hostname"`
	Names    string  `yaml:"names"` // a CSV file; see Names
	Identity string  `yaml:"identity"`
	Answers  Answers `yaml:"answers"`
	After    string  `yaml:"afterwards"`
	Start    string  `yaml:"start"`
	PXE      string  `yaml:"pxe"`

	names *Names
	line  int
}

// Values of Rule.Start, PXE and After.
const (
	Wait   = "wait"    // for a person, the default
	AtOnce = "at once" // only for machines that the rule names

	PXEAuto   = "auto"   // the file in the offer, and port 4011 for a machine that does not take it
	PXEOffer  = "offer"  // the file is in the offer
	PXE4011   = "4011"   // the file is asked for on port 4011
	PXEHTTP   = "http"   // UEFI HTTP Boot only
	PXEIgnore = "ignore" // no file: the machine starts from its disk

	Reboot, PowerOff, Shell = "reboot", "poweroff", "shell"
)

// Match defines which machines are meant: all of its kinds must be true, one of each kind's
// values is enough.
type Match struct {
	Any     bool    `yaml:"any"`
	MAC     Strings `yaml:"mac"`
	Serial  Strings `yaml:"serial"`
	Model   Strings `yaml:"model"`   // "*" and "?" stand for any characters; case does not matter
	Address Strings `yaml:"address"` // an address, a network, or FIRST-LAST

	ranges []addresses
}

// Strings is one word or a list of them.
type Strings []string

// UnmarshalYAML implements yaml.InterfaceUnmarshaler.
func (s *Strings) UnmarshalYAML(unmarshal func(any) error) error {
	var one string
	if err := unmarshal(&one); err == nil {
		*s = Strings{one}
		return nil
	}
	var l []string
	if err := unmarshal(&l); err != nil {
		return err
	}
	*s = l
	return nil
}

// Disks has a rule for each disk of a set; that for "" is for the only one.
type Disks map[string]DiskRule

// DiskRule chooses a disk of a machine: the only one that there is, or the smallest, of
// those with a serial number or model if these are given.
type DiskRule struct {
	Serial   string `yaml:"serial"`
	Model    string `yaml:"model"`
	Smallest bool   `yaml:"smallest"`
}

func (d DiskRule) String() string {
	switch {
	case d.Serial != "":
		return "serial: " + d.Serial
	case d.Model != "" && d.Smallest:
		return "smallest, model: " + d.Model
	case d.Model != "":
		return "model: " + d.Model
	case d.Smallest:
		return "smallest"
	}
	return "only"
}

// UnmarshalYAML implements yaml.InterfaceUnmarshaler for "smallest", "only", and {serial: X} or {model: Y}.
func (d *DiskRule) UnmarshalYAML(unmarshal func(any) error) error {
	var any any
	if err := unmarshal(&any); err != nil {
		return err
	}
	if word, ok := any.(string); ok {
		if word != "smallest" && word != "only" {
			return fmt.Errorf("disk %q is not known; want smallest, only, {serial: X} or {model: Y}", word)
		}
		d.Smallest = word == "smallest"
		return nil
	}
	type words DiskRule // without this method
	var w words
	if err := unmarshal(&w); err != nil {
		return err
	}
	if *d = DiskRule(w); w == (words{}) || w.Serial != "" && (w.Model != "" || w.Smallest) {
		return errors.New("want one disk by {serial: X} or {model: Y}; smallest: true may be added to a model")
	}
	return nil
}

// UnmarshalYAML implements yaml.InterfaceUnmarshaler: one disk rule, or one per disk of
// the set.
func (d *Disks) UnmarshalYAML(unmarshal func(any) error) error {
	var any map[string]any
	if err := unmarshal(&any); err == nil && any["serial"] == nil && any["model"] == nil && any["smallest"] == nil {
		var m map[string]DiskRule
		if err := unmarshal(&m); err != nil {
			return err
		}
		*d = m
		return nil
	}
	var one DiskRule
	if err := unmarshal(&one); err != nil {
		return err
	}
	*d = Disks{"": one}
	return nil
}

// Answers are those of restore's answers that make sense for a room: none that confirms,
// names a set or reads a file. The words are restore's.
type Answers struct {
	Size        map[string]string `yaml:"size" json:"size,omitempty"`
	FSType      map[string]string `yaml:"fs-type" json:"fsType,omitempty"`
	KeepSizes   bool              `yaml:"keep-sizes" json:"keepSizes,omitempty"`
	ExcludeDisk []string          `yaml:"exclude-disk" json:"excludeDisk,omitempty"`
	Unmirror    bool              `yaml:"unmirror" json:"unmirror,omitempty"`
	Firmware    string            `yaml:"firmware" json:"firmware,omitempty"`
	NoVerify    bool              `yaml:"no-verify" json:"noVerify,omitempty"`
}

func (a Answers) options() []string {
	var out []string
	for _, x := range a.ExcludeDisk {
		out = append(out, "--exclude-disk="+x)
	}
	for _, o := range []struct {
		name string
		m    map[string]string
	}{{"--size=", a.Size}, {"--fs-type=", a.FSType}} {
		for _, k := range slices.Sorted(maps.Keys(o.m)) {
			out = append(out, o.name+k+"="+o.m[k])
		}
	}
	if a.Firmware != "" {
		out = append(out, "--firmware="+a.Firmware)
	}
	for _, o := range []struct {
		name string
		on   bool
	}{{"--keep-sizes", a.KeepSizes}, {"--unmirror", a.Unmirror}, {"--no-verify", a.NoVerify}} {
		if o.on {
			out = append(out, o.name)
		}
	}
	return out
}

// DefaultRules are used where there is no file: every machine waits for a person, and
// gets the one set onto its only disk.
func DefaultRules() *Rules {
	r := &Rules{Rules: []Rule{{Match: Match{Any: true}}}}
	r.Rules[0].defaults()
	return r
}

func (r *Rule) defaults() {
	if r.Disks == nil {
		r.Disks = Disks{"": {}}
	}
	for _, d := range []struct {
		to   *string
		word string
	}{{&r.After, Reboot}, {&r.Start, Wait}, {&r.PXE, PXEAuto}} {
		if *d.to == "" {
			*d.to = d.word
		}
	}
}

// LoadRules reads a file of rules and the CSV files that it names, which are relative to it.
func LoadRules(file string) (*Rules, error) {
	b, err := regular.ReadFile(file, maxRules)
	if err != nil {
		return nil, fmt.Errorf("cannot read rules: %w", err)
	}
	r, err := ParseRules(file, b)
	if err != nil {
		return nil, err
	}
	var errs []error
	for i := range r.Rules {
		u := &r.Rules[i]
		if u.Names == "" {
			continue
		}
		names := u.Names
		if !filepath.IsAbs(names) {
			names = filepath.Join(filepath.Dir(file), names)
		}
		if u.names, err = LoadNames(names); err != nil {
			errs = append(errs, fmt.Errorf("%s:%d: %w", file, u.line, err))
		}
	}
	return r, errors.Join(errs...)
}

// ParseRules reads rules. Unknown words and wrong types are errors with line and column;
// values that make no sense are all reported, each with its line. The files that Names
// names are not read.
func ParseRules(file string, b []byte) (*Rules, error) {
	r := &Rules{}
	if err := strictyaml.Decode(b, r); err != nil {
		return nil, fmt.Errorf("cannot read rules %s: %s", file, strictyaml.Text(err))
	}
	if len(r.Rules) == 0 {
		return nil, fmt.Errorf("cannot use rules %s: there is no rule in it", file)
	}
	tree, err := parser.ParseBytes(b, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot read rules %s: %s", file, yaml.FormatError(err, false, true))
	}
	c := checker{file: file, tree: tree}
	for i := range r.Rules {
		c.rule(i, &r.Rules[i])
	}
	if len(c.errs) > 0 {
		return nil, errors.Join(c.inOrder()...)
	}
	return r, nil
}

// checker collects what is wrong with rules.
type checker struct {
	file string
	tree *ast.File
	errs []ruleError
}

// ruleError is an error with its line.
type ruleError struct {
	line int
	err  error
}

// inOrder gives the errors in the order of their lines.
func (c *checker) inOrder() []error {
	slices.SortStableFunc(c.errs, func(a, b ruleError) int { return cmp.Compare(a.line, b.line) })
	var out []error
	for _, e := range c.errs {
		out = append(out, e.err)
	}
	return out
}

// line is where a rule has a word; "" is the rule itself. 0 if not known.
func (c *checker) line(i int, word string) int {
	p := fmt.Sprintf("$.rules[%d]", i)
	for _, w := range strings.Split(word, ".") {
		if w != "" {
			p += "." + w
		}
	}
	path, err := yaml.PathString(p)
	if err != nil {
		return 0
	}
	n, err := path.FilterFile(c.tree)
	if err != nil || n == nil || n.GetToken() == nil || n.GetToken().Position == nil {
		return 0
	}
	return n.GetToken().Position.Line
}

func (c *checker) bad(i int, word, format string, args ...any) {
	l := c.line(i, word)
	if l == 0 {
		l = c.line(i, "")
	}
	c.errs = append(c.errs, ruleError{l, fmt.Errorf("%s:%d: %s", c.file, l, fmt.Sprintf(format, args...))})
}

// oneOf checks a word that has few values; "" is the default.
func (c *checker) oneOf(i int, word, got string, want ...string) {
	if got != "" && !slices.Contains(want, got) {
		c.bad(i, word, "%s %q is not known; want %s", word, got, strings.Join(want, ", "))
	}
}

func (c *checker) rule(i int, r *Rule) {
	r.line = c.line(i, "")
	c.match(i, &r.Match)
	if r.Set != "" && !ValidSetName(r.Set) {
		c.bad(i, "set", "set %q is not a name of a set: letters, digits, dot, dash and underscore, at most %d", r.Set, MaxSetName)
	}
	c.oneOf(i, "identity", r.Identity, "new", "keep")
	c.oneOf(i, "afterwards", r.After, Reboot, PowerOff, Shell)
	c.oneOf(i, "start", r.Start, Wait, AtOnce)
	c.oneOf(i, "pxe", r.PXE, PXEAuto, PXEOffer, PXE4011, PXEHTTP, PXEIgnore)
	if m := &r.Match; r.PXE != "" && !m.Any && (len(m.MAC) == 0 || len(m.Serial)+len(m.Model)+len(m.Address) > 0) {
		c.bad(i, "pxe", "pxe %s wants a match by mac only, or any: nothing else is known of a card that asks for its boot file", r.PXE)
	}
	c.oneOf(i, "answers.firmware", r.Answers.Firmware, "uefi", "bios")
	if r.Start == AtOnce && len(r.Match.MAC) == 0 && len(r.Match.Serial) == 0 {
		c.bad(i, "start", "start at once wants machines that are named by mac or serial: a model, an address or any names none")
	}
	if r.Identity == "keep" && (r.Hostname != "" || r.Names != "") {
		c.bad(i, "identity", "identity keep is for a machine that takes the place of the set's, and keeps its host name, too")
	}
	if r.Hostname != "" {
		if err := checkPattern(r.Hostname); err != nil {
			c.bad(i, "hostname", "%v", err)
		}
	}
	c.disks(i, r)
	c.answers(i, r)
	r.defaults()
}

func (c *checker) disks(i int, r *Rule) {
	for d, w := range r.Disks {
		if w.Serial != "" && !confirmable(w.Serial) {
			c.bad(i, "disks", "disk serial number %q can't confirm a disk: it is empty, too long, or has commas or blanks", w.Serial)
		}
		if strings.ContainsAny(d, ",=") {
			c.bad(i, "disks", "disk %q is not the name of a disk", d)
		}
	}
}

func (c *checker) answers(i int, r *Rule) {
	for _, s := range slices.Concat(r.Answers.ExcludeDisk, slices.Collect(maps.Keys(r.Answers.Size)), slices.Collect(maps.Values(r.Answers.Size)), slices.Collect(maps.Keys(r.Answers.FSType)), slices.Collect(maps.Values(r.Answers.FSType))) {
		if s == "" || strings.ContainsAny(s, ",\x00") {
			c.bad(i, "answers", "answer %q is empty, or has a comma", s)
		}
	}
}

func (c *checker) match(i int, m *Match) {
	if !m.Any && len(m.MAC)+len(m.Serial)+len(m.Model)+len(m.Address) == 0 {
		c.bad(i, "match", "the rule matches nothing; want mac, serial, model, address, or any: true")
	}
	if m.Any && len(m.MAC)+len(m.Serial)+len(m.Model)+len(m.Address) > 0 {
		c.bad(i, "match", "any: true goes with no other word")
	}
	for j, s := range m.MAC {
		v, err := ParseMAC(s)
		if err != nil {
			c.bad(i, "match.mac", "%v", err)
			continue
		}
		m.MAC[j] = v
	}
	for _, s := range m.Serial {
		if !Usable(s) {
			c.bad(i, "match.serial", "serial number %q is a placeholder that many machines have; it names none", s)
		}
	}
	for _, s := range m.Model {
		if s == "" {
			c.bad(i, "match.model", "model is empty")
		}
	}
	for _, s := range m.Address {
		a, err := parseAddresses(s)
		if err != nil {
			c.bad(i, "match.address", "%v", err)
			continue
		}
		m.ranges = append(m.ranges, a)
	}
}

// addresses is a range of IPv4 or IPv6 addresses, both ends in it.
type addresses struct{ first, last netip.Addr }

// parseAddresses reads "10.0.0.7", "10.0.0.0/24" or "10.0.0.10-10.0.0.20".
func parseAddresses(s string) (addresses, error) {
	bad := fmt.Errorf("address %q is not an address, a network such as 10.0.0.0/24, or a range FIRST-LAST", s)
	if p, err := netip.ParsePrefix(s); err == nil {
		p = p.Masked()
		last := p.Addr().AsSlice()
		for i := p.Bits(); i < 8*len(last); i++ {
			last[i/8] |= 0x80 >> (i % 8)
		}
		a, _ := netip.AddrFromSlice(last)
		return addresses{p.Addr(), a}, nil
	}
	from, to, ok := strings.Cut(s, "-")
	if !ok {
		to = from
	}
	a, err := netip.ParseAddr(strings.TrimSpace(from))
	b, err2 := netip.ParseAddr(strings.TrimSpace(to))
	if err != nil || err2 != nil || a.Is4() != b.Is4() || b.Less(a) || a.Zone() != "" || b.Zone() != "" {
		return addresses{}, bad
	}
	return addresses{a, b}, nil
}

func (a addresses) has(x netip.Addr) bool {
	x = x.Unmap()
	return x.IsValid() && x.Is4() == a.first.Is4() && !x.Less(a.first) && !a.last.Less(x)
}

// matches reports whether a text is like a pattern, in which * stands for any characters
// and ? for one; case does not matter.
func matches(pattern, s string) bool {
	p, t := []rune(strings.ToLower(pattern)), []rune(strings.ToLower(s))
	i, j, star, mark := 0, 0, -1, 0
	for j < len(t) {
		switch {
		case i < len(p) && p[i] == '*':
			star, mark = i, j
			i++
		case i < len(p) && (p[i] == '?' || p[i] == t[j]):
			i++
			j++
		case star >= 0:
			mark++
			i, j = star+1, mark
		default:
			return false
		}
	}
	for i < len(p) && p[i] == '*' {
		i++
	}
	return i == len(p)
}

// matches reports whether a machine at an address is meant. unique reports whether the
// machine's serial number is its own alone: another one matches nothing.
func (m *Match) matches(r *Registration, at netip.Addr, unique bool) bool {
	if m.Any {
		return true
	}
	if len(m.MAC) > 0 && !slices.Contains(m.MAC, r.MAC) {
		return false
	}
	if len(m.Serial) > 0 && (!unique || !slices.Contains(m.Serial, r.Serial)) {
		return false
	}
	if len(m.Model) > 0 && !slices.ContainsFunc(m.Model, func(p string) bool {
		return matches(p, r.Model) || matches(p, r.Vendor+" "+r.Model)
	}) {
		return false
	}
	return len(m.Address) == 0 || slices.ContainsFunc(m.ranges, func(a addresses) bool { return a.has(at) })
}

// For gives the first rule that matches a machine, nil if none does.
func (r *Rules) For(reg *Registration, at netip.Addr, unique bool) *Rule {
	for i := range r.Rules {
		if r.Rules[i].Match.matches(reg, at, unique) {
			return &r.Rules[i]
		}
	}
	return nil
}

// PXEFor gives how a card is answered when it asks for a boot file; then nothing but its
// address is known.
func (r *Rules) PXEFor(mac string) string {
	for i := range r.Rules {
		if m := &r.Rules[i].Match; m.Any || slices.Contains(m.MAC, mac) && len(m.Serial)+len(m.Model)+len(m.Address) == 0 {
			return r.Rules[i].PXE
		}
	}
	return PXEAuto
}

// Check reports what rules want of sets that are not there, and disks of them that no
// rule decides. The only set is what a rule without one means.
func (r *Rules) Check(sets []Set) error {
	var errs []error
	for i := range r.Rules {
		u := &r.Rules[i]
		s, err := u.set(sets)
		if err != nil {
			errs = append(errs, u.at(err))
			continue
		}
		for _, d := range s.Disks {
			_, ok := u.Disks[d.Name]
			if !ok && len(s.Disks) == 1 {
				_, ok = u.Disks[""]
			}
			if !ok {
				errs = append(errs, u.at(fmt.Errorf("set %s needs a disk for each of %s: give disks: {%s: ...}", s.Name, diskNames(s.Disks), d.Name)))
			}
		}
		for n := range u.Disks {
			if n != "" && !slices.ContainsFunc(s.Disks, func(d SetDisk) bool { return d.Name == n }) {
				errs = append(errs, u.at(fmt.Errorf("set %s has no disk %q; it has %s", s.Name, n, diskNames(s.Disks))))
			}
		}
	}
	return errors.Join(errs...)
}

func diskNames(l []SetDisk) string {
	var out []string
	for _, d := range l {
		out = append(out, d.Name)
	}
	return strings.Join(out, ", ")
}

// at names the rule in an error.
func (r *Rule) at(err error) error {
	if r.line == 0 {
		return err
	}
	return fmt.Errorf("rule at line %d: %w", r.line, err)
}

// set gives the set that a rule means.
func (r *Rule) set(sets []Set) (Set, error) {
	if r.Set == "" {
		if len(sets) != 1 {
			return Set{}, fmt.Errorf("there are %d sets, and the rule names none", len(sets))
		}
		return sets[0], nil
	}
	for _, s := range sets {
		if s.Name == r.Set {
			return s, nil
		}
	}
	return Set{}, fmt.Errorf("there is no set %q", r.Set)
}
