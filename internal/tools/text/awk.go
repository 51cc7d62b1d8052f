package text

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/benhoyt/goawk/interp"
	"github.com/benhoyt/goawk/lexer"
	"github.com/benhoyt/goawk/parser"

	"github.com/mkcdrec/mkcdrec/internal/tools"
)

func awkCommands() []tools.Command {
	return []tools.Command{{Name: "awk", Opts: "+F/field-separator: v/assign: f/file:", Synopsis: "{PROGRAM | -f FILE} [FILE]...", Run: awk}}
}

// awkProgram is the text of the program: of -f, or the first operand.
func awkProgram(e *tools.Env) (string, error) {
	var src bytes.Buffer
	for _, n := range e.Vals("f") {
		r, err := e.Open(n)
		if err != nil {
			return "", err
		}
		_, err = io.Copy(&src, r)
		r.Close()
		if err != nil {
			return "", fmt.Errorf("%s: %s", n, tools.Cause(err))
		}
		src.WriteByte('\n')
	}
	if !e.On("f") {
		if len(e.Args) == 0 {
			return "", tools.Usage("no program given")
		}
		src.WriteString(e.Args[0])
		e.Args = e.Args[1:]
	}
	return adaptAwk(src.String())
}

// awkVars are the variables that -F and -v set, with goawk's RS before them.
func awkVars(e *tools.Env) ([]string, error) {
	fs := e.Or("F", " ")
	if fs == "t" {
		fs = "\t"
	} else if u, err := lexer.Unescape(fs); err == nil {
		fs = u
	}
	vars := []string{"FS", fs, "RS", newlineRS}
	for _, v := range e.Vals("v") {
		name, value, ok := strings.Cut(v, "=")
		if !ok {
			return nil, fmt.Errorf("'%s' argument to '-v' not in 'var=value' form", v)
		}
		if u, err := lexer.Unescape(value); err == nil {
			value = u
		}
		switch name {
		case "RS":
			if value == "\n" {
				value = newlineRS
			}
		case "CONVFMT", "OFMT":
			if err := awkFormat(name, value); err != nil {
				return nil, err
			}
		}
		vars = append(vars, name, value)
	}
	return vars, nil
}

// awk runs goawk's interpreter.
func awk(e *tools.Env) error {
	text, err := awkProgram(e)
	if err != nil {
		return err
	}
	vars, err := awkVars(e)
	if err != nil {
		return err
	}
	funcs := awkFuncs()
	prog, err := parser.ParseProgram([]byte(text), &parser.ParserConfig{Funcs: funcs})
	if err != nil {
		return err
	}
	for i, a := range e.Args {
		if a == `RS=\n` || a == "RS=\n" {
			e.Args[i] = `RS=\\n`
		}
	}
	rc, err := interp.ExecProgram(prog, &interp.Config{Argv0: "awk", Stdin: e.In, Output: e.Out, Error: e.Err, Args: e.Args, Funcs: funcs, Chars: unicode(), Vars: vars})
	if err != nil && !errors.Is(err, io.EOF) {
		e.Fault(2, "fatal: %v", err)
		return nil
	}
	if rc != 0 {
		return tools.Status(rc)
	}
	return nil
}

// unicode reports whether the locale has UTF-8, whose characters are counted instead of bytes.
func unicode() bool {
	for _, v := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if l := strings.ToLower(os.Getenv(v)); l != "" {
			return strings.HasSuffix(l, "utf-8") || strings.HasSuffix(l, "utf8")
		}
	}
	return false
}
