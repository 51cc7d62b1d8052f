package builder

import (
	"encoding/json"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/layout"
)

// TestPlanDiff: whatever a plan has decided, the machine that it was made of has not changed.
func TestPlanDiff(t *testing.T) {
	data := t.TempDir()
	probed := func() *layout.Layout {
		l := twoDisks(data)
		l.Images = []layout.Image{{Device: "vdb9", Type: "ntfs", Size: 5}, {Device: "vdc9", Blank: true}}
		l.Crypts = []layout.Crypt{{Device: "vda5", Name: "crypt"}}
		l.SwapFiles = []layout.SwapFile{{Path: "/var/swap", Mount: "/", Size: 1 << 20}, {Path: data + "/swap", Mount: data, Size: 1 << 20}}
		return l
	}
	for what, c := range map[string]*Config{
		"everything":  {},
		"left out":    {ExcludeDevices: []string{"vdb", "vdc"}},
		"included":    {Include: []string{"/etc", data}},
		"a directory": {Include: []string{"/usr"}},
	} {
		l := probed()
		if _, err := NewPlan(c, l, nil, ""); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		plain, err := json.Marshal(probed())
		if err != nil {
			t.Fatal(err)
		}
		if b, err := json.Marshal(l); err != nil || string(b) == string(plain) {
			t.Errorf("%s: NewPlan has decided nothing, %v", what, err)
		}
		if got := layout.Diff(l, probed()); len(got) > 0 {
			t.Errorf("%s: Diff(plan, probe) = %v; want nothing", what, got)
		}
	}
}
