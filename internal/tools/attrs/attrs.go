// Package attrs has the commands of extended attributes, access control lists and file flags.
package attrs

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mkcdrec/mkcdrec/internal/tools"
)

// Commands are the commands of this package.
func Commands() []tools.Command {
	return []tools.Command{
		{Name: "getfattr", Opts: "n/name: d/dump e/encoding: h/no-dereference m/match: R/recursive absolute-names only-values P", Synopsis: "FILE...", Run: getfattr},
		{Name: "setfattr", Opts: "n/name: v/value: x/remove: h/no-dereference", Synopsis: "{-n NAME [-v VALUE] | -x NAME} FILE...", Bad: 2, Run: setfattr},
		{Name: "getfacl", Opts: "a/access d/default c/omit-header E/no-effective s/skip-base R/recursive n/numeric p/absolute-names P", Synopsis: "FILE...", Run: getfacl},
		{Name: "setfacl", Opts: "m/modify: x/remove: b/remove-all k/remove-default d/default R/recursive set: n/no-mask P", Synopsis: "{-m|-x|--set} ENTRIES FILE... | -b FILE...", Run: setfacl},
		{Name: "lsattr", Opts: "R a d", Synopsis: "[FILE]...", Run: lsattr},
		{Name: "chattr", Opts: "-", Synopsis: "[-R] [+-=FLAGS] FILE...", Run: chattr},
	}
}

// tree calls fn for the operands and, with -R, for all below them.
func tree(e *tools.Env, fn func(p string) error) {
	one := func(p string) {
		if err := fn(p); err != nil {
			e.Warn("%s: %s", p, tools.Cause(err))
		}
	}
	for _, p := range e.Args {
		if !e.On("R") {
			one(p)
			continue
		}
		_ = filepath.WalkDir(p, func(q string, _ fs.DirEntry, err error) error { // errors are reported here
			if err != nil {
				e.Warn("%s: %s", q, tools.Cause(err))
				return nil
			}
			one(q)
			return nil
		})
	}
}

func relative(e *tools.Env, p, option string) string {
	if e.On(option) {
		return p
	}
	return strings.TrimLeft(p, "/")
}

// encode writes a value as getfattr does: text in quotes, or base 64.
func encode(v []byte, how string) string {
	switch how {
	case "hex":
		return "0x" + hex.EncodeToString(v)
	case "base64":
		return "0s" + base64.StdEncoding.EncodeToString(v)
	}
	if how == "" && slices.ContainsFunc(v, func(c byte) bool { return c < 32 || c > 126 }) {
		return encode(v, "base64")
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\012`, "\r", `\015`).Replace(string(v)) + `"`
}

// wanted lists the attributes of a file that were named, or that match.
func wanted(e *tools.Env, p string) ([]string, error) {
	if e.On("n") {
		return e.Vals("n"), nil
	}
	match := e.Or("m", "^user\\.")
	prefix := strings.NewReplacer("^", "", `\`, "").Replace(match)
	have, err := tools.Xattrs(p, e.On("h"))
	return slices.DeleteFunc(have, func(n string) bool { return match != "-" && match != "." && !strings.HasPrefix(n, prefix) }), err
}

func getfattr(e *tools.Env) error {
	if err := e.Need(1, -1); err != nil {
		return tools.Usage("missing file")
	}
	tree(e, func(p string) error {
		list, err := wanted(e, p)
		if err != nil {
			return err
		}
		var lines []string
		for _, n := range list {
			v, err := tools.Xattr(p, n, e.On("h"))
			if err != nil {
				e.Warn("%s: %s: %s", p, n, strings.Replace(tools.Cause(err), "No data available", "No such attribute", 1))
				continue
			}
			switch {
			case e.On("only-values"):
				e.Out.Write(v)
			case e.On("d", "n") && len(v) == 0 && e.On("d"):
				lines = append(lines, n+`=""`)
			case e.On("d", "n"):
				lines = append(lines, n+"="+encode(v, e.Val("e")))
			default:
				lines = append(lines, n)
			}
		}
		if len(lines) > 0 {
			e.Printf("# file: %s\n%s\n\n", relative(e, p, "absolute-names"), strings.Join(lines, "\n"))
		}
		return nil
	})
	return nil
}

func setfattr(e *tools.Env) error {
	if err := e.Need(1, -1); err != nil || !e.On("n", "x") {
		return tools.Usage("missing name or file")
	}
	v := []byte(e.Val("v"))
	var err error
	switch s := e.Val("v"); {
	case strings.HasPrefix(s, "0x"), strings.HasPrefix(s, "0X"):
		v, err = hex.DecodeString(s[2:])
	case strings.HasPrefix(s, "0s"), strings.HasPrefix(s, "0S"):
		v, err = base64.StdEncoding.DecodeString(s[2:])
	case len(s) > 1 && s[0] == '"' && s[len(s)-1] == '"':
		v = []byte(strings.NewReplacer(`\\`, `\`, `\"`, `"`).Replace(s[1 : len(s)-1]))
	}
	if err != nil {
		return errors.New("bad input encoding")
	}
	tree(e, func(p string) error {
		set, remove := unix.Setxattr, unix.Removexattr
		if e.On("h") {
			set, remove = unix.Lsetxattr, unix.Lremovexattr
		}
		if x := e.Val("x"); x != "" {
			return remove(p, x)
		}
		return set(p, e.Val("n"), v, 0)
	})
	return nil
}
