package builder

import (
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/coverage"
	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/manifest"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
)

// TestMarks: a report tells what a rule leaves out from what is not covered, by the marks
// of the plan.
func TestMarks(t *testing.T) {
	for name, c := range map[string]struct {
		config Config
		spoil  func(l *layout.Layout)
		dev    string
		state  coverage.State
		why    string
	}{
		"files":          {dev: "vda1", state: coverage.Files},
		"not mounted":    {dev: "vdc1", state: coverage.NotCovered, why: "not mounted"},
		"unsupported":    {dev: "vdd", state: coverage.NotCovered, why: "btrfs is not supported"},
		"excluded":       {config: Config{ExcludeDevices: []string{"/odd"}}, dev: "vdd", state: coverage.Excluded, why: "exclude_devices: /odd"},
		"excluded files": {config: Config{ExcludeDevices: []string{"/dev/disk/by-id/virtio-C"}}, dev: "vdc1", state: coverage.Excluded, why: "exclude_devices: disk/by-id/virtio-C"},
		"a stick":        {spoil: func(l *layout.Layout) { l.Disks[2].Loose = true }, dev: "vdc1", state: coverage.Excluded, why: manifest.RuleLoose},
		"an image": {spoil: func(l *layout.Layout) {
			l.Unsupported, l.Images = l.Unsupported[:1], []layout.Image{{Device: "vdd1", Type: "ntfs", Size: 1 << 29}}
		}, dev: "vdd1", state: coverage.Image},
		"blank": {spoil: func(l *layout.Layout) {
			l.Unsupported, l.Images = l.Unsupported[:1], []layout.Image{{Device: "vdd1", Size: 1 << 29, Blank: true}}
		}, dev: "vdd1", state: coverage.Excluded, why: manifest.RuleBlank},
	} {
		l := twoDisks("/no-such-mount")
		if c.spoil != nil {
			c.spoil(l)
		}
		p, err := NewPlan(&c.config, l, nil, "")
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		r, err := coverage.Of(p.Layout, p.Marks())
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		n := quantity.Size(0)
		for _, d := range r.Disks {
			for _, x := range d.Ranges {
				if x.Device == c.dev && x.State == c.state && x.Why == c.why {
					n += x.Size
				}
			}
		}
		if n < 1<<29 {
			t.Errorf("%s: %d bytes of %s are %s (%s); want all: %+v", name, n, c.dev, c.state, c.why, r.Disks)
		}
		if got, want := len(r.Lacks()) > 0, len(p.NotCovered) > 0; got != want {
			t.Errorf("%s: Lacks() = %q; the plan does not cover %q", name, r.Lacks(), p.NotCovered)
		}
	}
}
