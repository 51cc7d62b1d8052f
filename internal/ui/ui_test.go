package ui

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/plan"
	"github.com/mkcdrec/mkcdrec/internal/progress"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
)

// hostile would clear the screen, set the title, hide text, turn its
// direction, and look like a line of ours.
const hostile = "WD\x1b[2J\x1b]0;x\a\u202e\u009b8m\xff\rSAFE\nwarning: type yes"

// harmless fails for output that a terminal would act on. ours are the
// sequences that the printer itself may write.
func harmless(t *testing.T, what, out string) {
	t.Helper()
	s := strings.ReplaceAll(out, "\r\x1b[K", "")
	if got := CleanLines(s); got != s {
		t.Errorf("%s: %q reaches the terminal", what, s)
	}
	for _, l := range strings.Split(s, "\n") {
		if strings.HasPrefix(l, "warning: type yes") {
			t.Errorf("%s: a name became a line of its own: %q", what, s)
		}
	}
	if !strings.Contains(out, "SAFE") {
		t.Errorf("%s: %q does not have the name at all", what, out)
	}
}

func TestPrinterIsHarmless(t *testing.T) {
	for _, tty := range []bool{false, true} {
		for name, print := range map[string]func(*Printer){
			"note":    func(p *Printer) { p.Note("disk %s", hostile) },
			"detail":  func(p *Printer) { p.Detail("disk %s", hostile) },
			"warning": func(p *Printer) { p.Warn("disk %s: %v", hostile, errors.New(hostile)) },
			"error":   func(p *Printer) { p.Error("mkcdrec", errors.New(hostile), hostile) },
			"phase":   func(p *Printer) { p.Phase(hostile, 10).Add(3); p.cur.show(); p.End() },
		} {
			for _, mode := range []Mode{Verbose, JSON} {
				var b, log bytes.Buffer
				p := &Printer{mode: mode, w: &b, out: &b, tty: tty}
				p.Log(&log)
				print(p)
				harmless(t, name, b.String())
				harmless(t, name+" in the log", log.String())
			}
		}
	}
}

// TestJSONIsExact: a program gets the name as it is, and a terminal that shows
// the line is not impressed.
func TestJSONIsExact(t *testing.T) {
	var b bytes.Buffer
	p := &Printer{mode: JSON, w: io.Discard, out: &b}
	name := "a\x1b[2J\u202e\u009b8m\U000e0001SAFE"
	p.Result("x", map[string]string{"name": name})
	p.Phase("x", 1).Item(name)
	p.mu.Lock()
	p.cur.show()
	p.mu.Unlock()
	p.End()
	harmless(t, "JSON", b.String())
	d := json.NewDecoder(&b)
	var e struct{ Data struct{ Name string } }
	if err := d.Decode(&e); err != nil || e.Data.Name != name {
		t.Errorf("the result is %q, %v; want %q", e.Data.Name, err, name)
	}
}

// TestLost: events that do not reach their reader are remembered, also when later
// ones do.
func TestLost(t *testing.T) {
	for name, print := range map[string]func(*Printer){
		"note":    func(p *Printer) { p.Note("x") },
		"phase":   func(p *Printer) { p.Phase("x", 1) },
		"result":  func(p *Printer) { p.Result("x", 1) },
		"error":   func(p *Printer) { p.Error("x", errors.New("x"), "") },
		"no JSON": func(p *Printer) { p.Result("x", func() {}) },
	} {
		w := &failsOnce{}
		p := &Printer{mode: JSON, w: io.Discard, out: w}
		if name == "no JSON" {
			w.done = true
		}
		if print(p); p.Lost() == nil {
			t.Errorf("%s: nothing is lost", name)
		}
		p.Note("y")
		p.End()
		if p.Lost() == nil {
			t.Errorf("%s: forgotten", name)
		}
	}
	p := &Printer{mode: JSON, w: io.Discard, out: io.Discard}
	if p.Result("x", 1); p.Lost() != nil {
		t.Error(p.Lost())
	}
}

type failsOnce struct{ done bool }

func (f *failsOnce) Write(b []byte) (int, error) {
	if !f.done {
		f.done = true
		return 0, errors.New("no space left on device")
	}
	return len(b), nil
}

// What is saved block by block, and what a rule leaves out of that.
func TestDrawImages(t *testing.T) {
	disk := func(n string) layout.Disk { return layout.Disk{Name: n, Size: quantity.GiB} }
	var b bytes.Buffer
	DrawLayout(&b, &layout.Layout{Disks: []layout.Disk{disk("sda"), disk("sdb")}, Images: []layout.Image{{Device: "sda", Type: "ntfs", File: "sda.img.zst"}, {Device: "sdb", Type: "ntfs", Excluded: "exclude_devices: sdb"}}})
	if got := b.String(); strings.Count(got, "ntfs, as it is") != 1 || !strings.Contains(got, "ntfs (left out: exclude_devices: sdb)") {
		t.Errorf("drawn:\n%s", got)
	}
}

func TestDrawIsHarmless(t *testing.T) {
	l := &layout.Layout{Hostname: hostile, Disks: []layout.Disk{{Name: "sda", Size: quantity.GiB, Model: hostile, Serial: hostile,
		Table: &layout.Table{Label: "dos", Partitions: []layout.Partition{{Device: "sda1", Start: quantity.MiB, Size: quantity.MiB}}}},
		{Name: "sr0", Table: &layout.Table{Label: "dos", Partitions: []layout.Partition{{Device: "sr0p1"}}}}}, // no medium
		Filesystems: []layout.Filesystem{{Device: "sda1", Type: "ext4", Label: hostile, Mounts: []layout.Mount{{Path: hostile}}}},
		VolumeGroup: []layout.VolumeGroup{{Name: hostile, LVs: []layout.LogicalVolume{{Name: hostile}}}},
		SwapFiles:   []layout.SwapFile{{Path: hostile}}, Unsupported: []layout.Unsupported{{What: hostile, Reason: hostile}}}
	l.Boot.Loader = hostile
	var b bytes.Buffer
	DrawLayout(&b, l)
	harmless(t, "layout", b.String())
	b.Reset()
	DrawPlan(&b, &plan.Plan{Layout: l, Disks: []plan.Disk{{Old: "sda", New: layout.Disk{Name: "sda", Model: hostile, Serial: hostile}, Now: hostile, Then: hostile}}, Steps: []plan.Step{&plan.MakeFS{Device: "sda1", FS: &layout.Filesystem{Type: "ext4", Label: hostile}}}}, &layout.Layout{})
	harmless(t, "plan", b.String())
	b.Reset()
	Table(&b, []string{"DISK"}, [][]string{{hostile}})
	harmless(t, "table", b.String())
}

func TestWriter(t *testing.T) {
	var b bytes.Buffer
	w := NewWriter(&b)
	for _, c := range []byte("ä日\u009b\x1b[2J\nSAFE\xff!") {
		if n, err := w.Write([]byte{c}); n != 1 || err != nil {
			t.Fatalf("Write = %d, %v", n, err)
		}
	}
	if got, want := b.String(), "ä日\\u009b\\x1b[2J\nSAFE\\xff!"; got != want {
		t.Errorf("a writer passed on %q; want %q", got, want)
	}
}

// A phase that is told of its bottleneck names it, to people and to programs.
func TestWaits(t *testing.T) {
	f := &phase{p: &Printer{}}
	if s := f.bottleneck(); s != "" {
		t.Errorf("%q", s)
	}
	var w progress.Waiter = f
	w.Waits(0.2, 0.78, 0.02)
	if s := f.bottleneck(); s != ", 78 % waiting to write" {
		t.Errorf("%q", s)
	}
}

// TestTotalTooSmall: what was done is never more than a total that is shown.
func TestTotalTooSmall(t *testing.T) {
	for n, want := range map[int64]string{50 << 20: "50.0 MiB of 100.0 MiB, 50 %", 100 << 20: "100.0 MiB of 100.0 MiB, 100 %", 150 << 20: "150.0 MiB, "} {
		f := &phase{total: 100 << 20, start: time.Now().Add(-time.Minute)}
		if got := f.text(n); !strings.HasPrefix(got, want) {
			t.Errorf("text(%d) = %q; want %q at its start", n, got, want)
		}
	}
}
