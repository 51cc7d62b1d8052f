package builder

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/layout"
)

// checksList is the list of docs/CHECKS.md, each item in one line.
func checksList() string {
	var b strings.Builder
	for _, c := range AllChecks {
		scope := "all commands"
		if c.Scope != nil {
			scope = strings.Join(c.Scope, ", ")
		}
		fmt.Fprintf(&b, "- `%s`: %s\n  - for %s\n", c.ID, c.What, scope)
		if c.FAQ != "-" {
			fmt.Fprintf(&b, "  - FAQ: %s\n", c.FAQ)
		}
	}
	return b.String()
}

// TestChecksDocumented: the list in the documentation is the code's; its lines are wrapped.
func TestChecksDocumented(t *testing.T) {
	b, err := os.ReadFile("../docs/CHECKS.md")
	if err != nil {
		t.Fatal(err)
	}
	words := func(s string) string { return strings.Join(strings.Fields(s), " ") }
	if !strings.Contains(words(string(b)), words(checksList())) {
		t.Errorf("docs/CHECKS.md has another list than AllChecks; it should be, with lines of at most 120 columns:\n%s", checksList())
	}
}

// TestScopes: a check that a command does not need is not reported, and no
// check is reported that is not in the table.
func TestScopes(t *testing.T) {
	for _, c := range AllChecks {
		tt := &tester{scope: ForLocal}
		tt.add(c.ID, OK, "x", "")
		if want := c.Scope == nil || strings.Contains(strings.Join(c.Scope, " "), ForLocal); (len(tt.out) == 1) != want {
			t.Errorf("%s: reported for local: %v; want %v", c.ID, len(tt.out) == 1, want)
		}
	}
	for _, scope := range Scopes[4:] { // media: all that a backup needs, and their own
		path, own := &tester{scope: ForPath}, &tester{scope: scope}
		for _, c := range AllChecks {
			path.add(c.ID, OK, "x", "")
			own.add(c.ID, OK, "x", "")
		}
		if len(own.out) <= len(path.out) {
			t.Errorf("%s has %d checks, path %d", scope, len(own.out), len(path.out))
		}
	}
	tt := &tester{scope: ForOBDR}
	root := t.TempDir()
	if tt.media(nil, root); len(tt.out) != 2 || tt.out[0].Severity != Warning || tt.out[1].ID != "obdr" {
		t.Errorf("without a drive: %+v", tt.out)
	}
	if err := errors.Join(os.Mkdir(root+"/dev", 0o700), os.WriteFile(root+"/dev/nst0", nil, 0o600), os.WriteFile(root+"/dev/nst0a", nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	tt = &tester{scope: ForTape}
	if tt.media(nil, root); len(tt.out) != 1 || tt.out[0].Seen != root+"/dev/nst0" {
		t.Errorf("with a drive: %+v", tt.out)
	}
	tt = &tester{scope: ForKey}
	if tt.media(&Plan{Layout: &layout.Layout{Disks: []layout.Disk{{Name: "sda"}, {Name: "sdb", Removable: true}}}}, root); len(tt.out) != 1 || tt.out[0].Seen != "/dev/sdb" {
		t.Errorf("with a stick: %+v", tt.out)
	}
	tt = &tester{scope: ForPath}
	tt.add("nosuch", Error, "x", "")
	if len(tt.out) != 0 {
		t.Error("a check outside of the table is reported")
	}
}

// What of the boot loader a restore can't do is a warning of its own, and the run
// is exit 3, unless it is excluded by name.
func TestBootloaderCheck(t *testing.T) {
	plan := func(c *Config) *tester {
		t.Helper()
		l := twoDisks("/no-such-mount")
		l.Boot = layout.Boot{Firmware: layout.BIOS, Loader: layout.GRUB}
		l.Unsupported = append(l.Unsupported, layout.Unsupported{What: "vda1", Device: bootLoader, Reason: "GRUB is in its boot sector"})
		p, err := NewPlan(c, l, nil, "")
		if err != nil {
			t.Fatal(err)
		}
		tt := &tester{scope: ForPath}
		tt.coverage(p)
		tt.bootloader(p)
		return tt
	}
	tt := plan(&Config{})
	if c := tt.out[0]; c.ID != "coverage" || c.Severity != Warning || !strings.Contains(c.Seen, "vdc1") || strings.Contains(c.Seen, "GRUB") {
		t.Errorf("%+v", c)
	}
	if c := tt.out[1]; c.ID != "bootloader" || c.Severity != Warning || !strings.Contains(c.Seen, "vda1: GRUB is in its boot sector") {
		t.Errorf("%+v", c)
	}
	tt = plan(&Config{ExcludeDevices: []string{bootLoader, "vdc", "/odd"}})
	if tt.out[0].Severity != OK || tt.out[1].Severity != OK {
		t.Errorf("excluded by name: %+v", tt.out)
	}
}
