package tools

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/mkcdrec/mkcdrec/internal/lazyregexp"
)

// Options are the options of a command line, in their order.
type Options struct {
	list []Option
}

// Option is one that was given. Name is the first one of its names.
type Option struct{ Name, Value string }

// kind is an option that a command has.
type kind struct {
	names []string
	arg   byte // ':' has a value, '?' may have one, '~' may have a number in the next word, too
}

// kinds reads a command's description of its options: words such as "a/all", "w/width:"
// (with a value), "color?" (which may have one, behind "=" or in the same word), "boot~"
// (which may have a number or the word "all", in the next word, too).
func kinds(spec string) []kind {
	var out []kind
	for _, w := range strings.Fields(spec) {
		k := kind{}
		if c := w[len(w)-1]; strings.IndexByte(":?~", c) >= 0 && len(w) > 1 {
			k.arg, w = c, w[:len(w)-1]
		}
		k.names = strings.Split(w, "/")
		out = append(out, k)
	}
	return append(out, kind{names: []string{"help"}})
}

// Parse reads options as getopt_long does: anywhere among the operands, short ones in
// groups, long ones abbreviated, up to "--". A description that begins with "+" ends the
// options at the first operand; an option "0" takes those that are numbers, as in -20.
func Parse(spec string, args []string) (Options, []string, error) {
	spec, first := strings.CutPrefix(spec, "+")
	ks := kinds(spec)
	var o Options
	var rest []string
	for i := 0; i < len(args); i++ {
		a := args[i]
		if k, ok := waiting(ks, a); ok && i+1 < len(args) && number().MatchString(args[i+1]) {
			o.list = append(o.list, Option{k, args[i+1]})
			i++
			continue
		}
		var used bool
		var err error
		next := func() (string, bool) {
			if i+1 == len(args) {
				return "", false
			}
			i++
			return args[i], true
		}
		switch {
		case a == "--":
			return o, append(rest, args[i+1:]...), nil
		case strings.HasPrefix(a, "--"):
			err = o.long(ks, a[2:], next)
		case len(a) > 1 && a[0] == '-':
			err = o.short(ks, a[1:], next)
		default:
			used = true
		}
		if err != nil {
			return o, nil, err
		}
		if used {
			rest = append(rest, a)
			if first {
				return o, append(rest, args[i+1:]...), nil
			}
		}
	}
	return o, rest, nil
}

var number = lazyregexp.New(`^([-+]?\d+|[0-9a-f]{32}([-+]\d+)?|all)$`)

// waiting reports whether a word is an option that may have a number in the next word, and
// gives the option's name.
func waiting(ks []kind, a string) (string, bool) {
	for _, k := range ks {
		for _, n := range k.names {
			if k.arg == '~' && (a == "-"+n && len(n) == 1 || a == "--"+n && len(n) > 1) {
				return k.names[0], true
			}
		}
	}
	return "", false
}

func (o *Options) long(ks []kind, a string, next func() (string, bool)) error {
	name, val, has := strings.Cut(a, "=")
	var found []kind
	for _, k := range ks {
		for _, n := range k.names {
			if n == name && len(n) > 1 {
				found = []kind{k}
				goto one
			}
			if len(n) > 1 && strings.HasPrefix(n, name) {
				found = append(found, k)
			}
		}
	}
one:
	switch {
	case len(found) == 0:
		return fmt.Errorf("unrecognized option '--%s'", a)
	case len(found) > 1:
		return fmt.Errorf("option '--%s' is ambiguous", a)
	case has && found[0].arg == 0:
		return fmt.Errorf("option '--%s' doesn't allow an argument", name)
	case found[0].arg == ':' && !has:
		if val, has = next(); !has {
			return fmt.Errorf("option '--%s' requires an argument", name)
		}
	}
	o.list = append(o.list, Option{found[0].names[0], val})
	return nil
}

func (o *Options) short(ks []kind, a string, next func() (string, bool)) error {
	for i := 0; i < len(a); i++ {
		digits := len(a[i:]) - len(strings.TrimLeft(a[i:], "0123456789"))
		if _, ok := one(ks, "0"); ok && digits > 0 {
			o.list = append(o.list, Option{"0", a[i : i+digits]})
			i += digits - 1
			continue
		}
		k, ok := one(ks, a[i:i+1])
		switch {
		case !ok:
			return fmt.Errorf("invalid option -- '%c'", a[i])
		case k.arg == 0:
			o.list = append(o.list, Option{Name: k.names[0]})
			continue
		}
		val := a[i+1:]
		if val == "" && k.arg == ':' {
			if val, ok = next(); !ok {
				return fmt.Errorf("option requires an argument -- '%c'", a[i])
			}
		}
		o.list = append(o.list, Option{k.names[0], val})
		return nil
	}
	return nil
}

func one(ks []kind, name string) (kind, bool) {
	for _, k := range ks {
		for _, n := range k.names {
			if n == name {
				return k, true
			}
		}
	}
	return kind{}, false
}

// describe lists options for a usage message.
func describe(spec string) string {
	var out []string
	for _, k := range kinds(strings.TrimPrefix(spec, "+")) {
		for i, n := range k.names {
			if d := "--" + n; len(n) > 1 {
				k.names[i] = d
			} else {
				k.names[i] = "-" + n
			}
		}
		out = append(out, strings.Join(k.names, ",")+strings.Trim(map[byte]string{':': " VALUE", '?': "[=VALUE]", '~': "[=VALUE]"}[k.arg], "\x00"))
	}
	return strings.Join(out, "  ")
}

// Names lists the options of a description with their dashes; long ones with a value end
// with "=".
func Names(spec string) []string {
	var out []string
	for _, k := range kinds(strings.TrimPrefix(spec, "+")) {
		for _, n := range k.names {
			switch {
			case len(n) == 1:
				out = append(out, "-"+n)
			case k.arg == ':':
				out = append(out, "--"+n+"=")
			default:
				out = append(out, "--"+n)
			}
		}
	}
	return out
}

// On reports whether one of the options was given.
func (o Options) On(names ...string) bool { _, ok := o.Last(names...); return ok }

// Val is the value of an option, "" if it was not given.
func (o Options) Val(name string) string { x, _ := o.Last(name); return x.Value }

// Or is the value of an option, or another one if it was not given.
func (o Options) Or(name, other string) string {
	if x, ok := o.Last(name); ok {
		return x.Value
	}
	return other
}

// Last is the last one that was given of several options.
func (o Options) Last(names ...string) (Option, bool) {
	for i := len(o.list) - 1; i >= 0; i-- {
		for _, n := range names {
			if o.list[i].Name == n {
				return o.list[i], true
			}
		}
	}
	return Option{}, false
}

// Vals are all values of an option.
func (o Options) Vals(name string) []string {
	var out []string
	for _, x := range o.list {
		if x.Name == name {
			out = append(out, x.Value)
		}
	}
	return out
}

// And gives the options of two command lines.
func (o Options) And(more Options) Options {
	return Options{append(append([]Option(nil), o.list...), more.list...)}
}

// All are the options in their order.
func (o Options) All() []Option { return o.list }

// Int is the value of an option as a number, or other if it was not given.
func (o Options) Int(name string, other int) (int, error) {
	x, ok := o.Last(name)
	if !ok {
		return other, nil
	}
	n, err := strconv.Atoi(strings.TrimSpace(x.Value))
	if err != nil {
		return 0, Usage("invalid number '%s'", x.Value)
	}
	return n, nil
}
