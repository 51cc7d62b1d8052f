package builder

import (
	"os"
	"path/filepath"
	"strings"
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

// TestSetCoverage: a set has a report that names what could not be read, and its sums have
// the report.
func TestSetCoverage(t *testing.T) {
	p := planFor("/dev/no-such-disk", t.TempDir(), "ext4")
	p.addDisk("no-other-disk", "/no/such/mount", "ext4")
	p.archives()
	dir, m := setOf(t, p)
	if m.Sum(coverage.File).SHA256 == "" {
		t.Errorf("the manifest does not list %s: %+v", coverage.File, m.Files)
	}
	f, err := os.Open(filepath.Join(dir, coverage.File))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := coverage.Read(f)
	if err != nil {
		t.Fatal(err)
	}
	if a, b := r.Disks[0].Ranges[0], r.Disks[1].Ranges[0]; a.State != coverage.Files || b.State != coverage.NotCovered || !strings.Contains(b.Why, "could not be read") || len(r.NotCovered) != len(m.NotCovered) {
		t.Errorf("the report has %+v, %+v, %q; want files, and what could not be read: %q", a, b, r.NotCovered, m.NotCovered)
	}
}
