package text

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/benhoyt/goawk/interp"
	"github.com/benhoyt/goawk/lexer"
	"github.com/benhoyt/goawk/parser"

	"github.com/mkcdrec/mkcdrec/internal/tools"
)

func awkCommands() []tools.Command {
	return []tools.Command{{Name: "awk", Opts: "+F/field-separator: v/assign: f/file:", Synopsis: "{PROGRAM | -f FILE} [FILE]...", Run: awk}}
}

// awk runs goawk's interpreter.
func awk(e *tools.Env) error {
	var src bytes.Buffer
	for _, n := range e.Vals("f") {
		r, err := e.Open(n)
		if err != nil {
			return err
		}
		_, err = io.Copy(&src, r)
		r.Close()
		if err != nil {
			return fmt.Errorf("%s: %s", n, tools.Cause(err))
		}
		src.WriteByte('\n')
	}
	if !e.On("f") {
		if len(e.Args) == 0 {
			return tools.Usage("no program given")
		}
		src.WriteString(e.Args[0])
		e.Args = e.Args[1:]
	}
	prog, err := parser.ParseProgram(src.Bytes(), nil)
	if err != nil {
		return err
	}
	c := &interp.Config{Argv0: "awk", Stdin: e.In, Output: e.Out, Error: e.Err, Args: e.Args, Vars: []string{"FS", e.Or("F", " ")}}
	for _, v := range e.Vals("v") {
		name, value, ok := strings.Cut(v, "=")
		if !ok {
			return fmt.Errorf("'%s' argument to '-v' not in 'var=value' form", v)
		}
		if u, err := lexer.Unescape(value); err == nil {
			value = u
		}
		c.Vars = append(c.Vars, name, value)
	}
	if fs := c.Vars[1]; fs == "t" {
		c.Vars[1] = "\t"
	} else if u, err := lexer.Unescape(fs); err == nil {
		c.Vars[1] = u
	}
	rc, err := interp.ExecProgram(prog, c)
	if err != nil && !errors.Is(err, io.EOF) {
		e.Fault(2, "fatal: %v", err)
		return nil
	}
	if rc != 0 {
		return tools.Status(rc)
	}
	return nil
}
