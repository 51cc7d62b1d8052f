package plan

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/layout"
	"github.com/mkcdrec/mkcdrec/internal/quantity"
)

// TestGolden compares plans with every kind of step, as JSON and with their digests, with
// a golden file: journals, and programs that read --json, depend on both.
func TestGolden(t *testing.T) {
	var b bytes.Buffer
	seen := map[string]bool{}
	add := func(name string, p *Plan, err error) {
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		fmt.Fprintf(&b, "%s %s\n", name, p.Digest())
		text, err := json.Marshal(p)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var parts struct{ Disks, Devices, Steps json.RawMessage }
		var steps []json.RawMessage
		if err := json.Unmarshal(text, &parts); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(parts.Steps, &steps); err != nil || len(steps) != len(p.Steps) {
			t.Fatalf("%s: %d steps, %v", name, len(steps), err)
		}
		fmt.Fprintf(&b, "%s\n%s\n", parts.Disks, parts.Devices)
		for i, s := range steps {
			var head struct{ Kind, Text string }
			if err := json.Unmarshal(s, &head); err != nil || head.Text != p.Steps[i].String() {
				t.Errorf("%s: step %d is %q, and as JSON %q, %v", name, i+1, p.Steps[i], head.Text, err)
			}
			seen[head.Kind] = true
			fmt.Fprintf(&b, "%s\n", s)
		}
	}
	make := func(name string, l *layout.Layout, w Wish, change func(*Draft), sizes ...quantity.Size) {
		var have []layout.Present
		w.Map = map[string]string{}
		for i, n := range l.Needed() {
			p := disk(fmt.Sprintf("sd%c", 'p'+i), fmt.Sprint("SERIAL", i), sizes[i])
			have, w.Map[n] = append(have, p), p.Name
		}
		d, err := Prepare(l, have, w)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if change != nil {
			change(d)
		}
		p, err := d.Plan()
		add(name, p, err)
	}
	make("lvm", wanted(), Wish{}, nil, 20*gib)
	make("raid1", arrays(t, "raid1"), Wish{}, nil, 10*gib, 10*gib)
	degraded := arrays(t, "raid1")
	degraded.Arrays[0].Members = degraded.Arrays[0].Members[:1]
	make("degraded", degraded, Wish{}, nil, 10*gib, 10*gib)
	make("btrfs", raid1(), Wish{}, nil, 10*gib, 10*gib)
	swap := twoDisks()
	swap.SwapFiles = []layout.SwapFile{{Path: "/swapfile", Mount: "/", Size: 64 * mib, UUID: uid(9), Label: "file"}}
	swap.Mounted("/data").Excluded = "a rule"
	make("swap file", swap, Wish{}, nil, 10*gib, 10*gib)
	thin := machine(layout.GPT, []quantity.Size{20 * gib}, [][]part{{{512 * mib, "ext4 /boot", 90 * mib}, {19 * gib, "luks pv vg0", 0}}},
		map[string][]lvol{"vg0": {{"root", "ext4 /", 5 * gib, 2 * gib}, {"pool", "pool", 6 * gib, 0}, {"home", "thin pool xfs /home", 20 * gib, 2 * gib}, {"srv", "thin pool luks ext4 /srv", 3 * gib, gib}}})
	thin.Crypts[0].Header = "c2.luks.age"
	make("thin and LUKS", thin, Wish{}, nil, 20*gib)
	make("new LUKS", thin, Wish{NewLUKS: true}, nil, 20*gib)
	mbr := machine(layout.MBR, []quantity.Size{10 * gib}, [][]part{{{4 * gib, "ext4 /", gib}, {2 * gib, "raw", 0}, {gib, "swap", 0}}}, nil)
	mbr.Images = []layout.Image{{Device: "sda2", Type: "ntfs", UUID: "0123456789ABCDEF", Label: "Windows", Size: 2 * gib, File: "sda2.img.zst"}}
	make("image", mbr, Wish{}, nil, 10*gib)
	mbr.Boot.Disks = nil
	make("clone", mbr, Wish{}, func(d *Draft) {
		d.Blocks = map[string]string{"sda1": "the used blocks", "sda2": "all blocks"}
		d.Grow = map[string]bool{"sda2": true}
		d.Boot = map[string]*BootCode{"sda": {Sector: []byte("boot code")}}
	}, 20*gib)
	there := disk("sdb", "S1", 20*gib)
	p, err := Only(raid1(), Wish{}, "/boot/efi", "sdb2", 300*mib, []layout.Present{there})
	add("only", p, err)
	p, err = OnlyImage(&layout.Layout{Images: mbr.Images}, Wish{}, "sdb2", 3*gib, 8*mib, []layout.Present{there})
	add("only image", p, err)
	for _, k := range []string{"write-table", "make-array", "make-luks", "make-pv", "restore-vg", "make-thin", "make-fs", "make-swap", "put-image", "grow-fs", "make-subvolumes", "mount", "make-swap-file"} {
		if !seen[k] {
			t.Errorf("no step of the kind %s", k)
		}
	}
	const golden = "testdata/steps.golden"
	if *update {
		if err := os.WriteFile(golden, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	got, lines := bytes.Split(b.Bytes(), []byte("\n")), bytes.Split(want, []byte("\n"))
	for i := range max(len(got), len(lines)) {
		if i >= len(got) || i >= len(lines) || !bytes.Equal(got[i], lines[i]) {
			t.Fatalf("line %d differs; got %d lines; want %d\ngot  %s\nwant %s", i+1, len(got), len(lines), got[min(i, len(got)-1)], lines[min(i, len(lines)-1)])
		}
	}
}
