package restore

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/exit"
	"github.com/mkcdrec/mkcdrec/internal/hooks"
	"github.com/mkcdrec/mkcdrec/internal/machinetest"
	"github.com/mkcdrec/mkcdrec/internal/tool"
)

// withHooks gives the fake machine a hook before and one after a restore, which answer with
// the errors in fails. ran is what they saw.
func withHooks(t *testing.T, m *machinetest.Machine, s *typist, fails map[string]error) (set *hooks.Set, ran *[]string) {
	t.Helper()
	dir := t.TempDir()
	ran = new([]string)
	for _, point := range []string{hooks.BeforeRestore, hooks.AfterRestore} {
		file := filepath.Join(dir, point, "hook")
		if err := errors.Join(os.Mkdir(filepath.Dir(file), 0o755), os.WriteFile(file, []byte("#!/bin/sh\n"), 0o755)); err != nil {
			t.Fatal(err)
		}
		m.Programs[file] = func(c tool.Cmd) (string, error) {
			status := ""
			for _, e := range c.Env {
				if v, ok := strings.CutPrefix(e, "MKCDREC_STATUS="); ok {
					status = " " + v
				}
			}
			c.Line("output of " + point)
			*ran = append(*ran, fmt.Sprintf("%s%s, %d mounted, %d written", point, status, len(m.Mounted()), len(m.Did("open"))))
			return "", fails[point]
		}
	}
	return &hooks.Set{Config: hooks.Config{Dir: dir, Timeout: "1m"}, Run: m, Report: s}, ran
}

// Hooks run before anything is written, and when everything is restored and still mounted;
// those after it also after a failure. One before it that fails stops the restore.
func TestRestoreHooks(t *testing.T) {
	for name, c := range map[string]struct {
		fails  map[string]error
		change func(o *Options, m *machinetest.Machine)
		want   []string
		status int
		text   string
	}{
		"good":         {nil, nil, []string{"before-restore, 0 mounted, 0 written", "after-restore 0, 2 mounted"}, exit.OK, ""},
		"before fails": {map[string]error{"before-restore": errors.New("veto")}, nil, []string{"before-restore, 0 mounted, 0 written", "after-restore 4, 0 mounted, 0 written"}, exit.Refused, "failed: exit status 1"},
		"after fails":  {map[string]error{"after-restore": errors.New("broken hook")}, nil, []string{"before-restore, 0 mounted, 0 written", "after-restore 0, 2 mounted"}, exit.Failed, "everything was restored, but"},
		"restore fails": {nil, func(_ *Options, m *machinetest.Machine) { m.Fail["mount /dev/vda2"] = errors.New("broken disk") },
			[]string{"before-restore, 0 mounted, 0 written", "after-restore 1, 1 mounted"}, exit.Failed, "broken disk"},
		"refused": {nil, func(o *Options, _ *machinetest.Machine) { o.Sources = map[string]string{"vda": "it holds the set"} },
			[]string{"before-restore, 0 mounted, 0 written", "after-restore 4, 0 mounted, 0 written"}, exit.Refused, "it holds the set"},
		"without": {nil, func(o *Options, _ *machinetest.Machine) { o.NoHooks = true }, nil, exit.OK, ""},
		"plan":    {nil, func(o *Options, _ *machinetest.Machine) { o.PlanOnly = true }, nil, exit.OK, ""},
	} {
		t.Run(name, func(t *testing.T) {
			m, r, s := onFake(t, "vda")
			o := data(&files{l: simple()})
			set, ran := withHooks(t, m, s, c.fails)
			if o.Hooks = set; c.change != nil {
				c.change(&o, m)
			}
			_, err := r.Restore(t.Context(), o)
			if exit.Code(err) != c.status || c.text != "" && !strings.Contains(err.Error(), c.text) {
				t.Errorf("Restore() = %v; want status %d with %q", err, c.status, c.text)
			}
			if !slices.EqualFunc(*ran, c.want, strings.HasPrefix) {
				t.Errorf("hooks %q; want %q", *ran, c.want)
			}
			said := strings.Join(s.said, "\n")
			if strings.Contains(said, "before-restore/hook: output of before-restore") != (c.want != nil) || strings.Contains(said, "would run hook") != o.PlanOnly {
				t.Errorf("said\n%s", said)
			}
			if c.status == exit.OK && len(m.Mounted()) > 0 {
				t.Errorf("Mounted() = %q", m.Mounted())
			}
		})
	}
}
