package fleet

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mkcdrec/mkcdrec/internal/layout"
)

const goodRules = `
rules:
  - match: {mac: "52-54-00-00-00-01"}
    set: lab
    disks: {serial: S1}
    start: at once
  - match:
      serial: [CZC123, 5000123]
      address: 10.0.0.10-10.0.0.20
    set: lab
    disks: smallest
    hostname: srv-{serial}
  - match: {model: ["OptiPlex*", "*ThinkCentre M7?"]}
    set: two
    disks: {sda: smallest, sdb: {model: "Samsung*"}}
    hostname: lab-{n:02}
    identity: new
    afterwards: poweroff
    answers:
      fs-type: {/: xfs}
      size: {/: 20G}
      keep-sizes: true
  - match: {any: true}
    set: lab
    disks: only
    pxe: "4011"
`

func TestRules(t *testing.T) {
	r, err := ParseRules("r.yaml", []byte(goodRules))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Check([]Set{{Name: "lab", Disks: []SetDisk{{Name: "vda"}}}, {Name: "two", Disks: []SetDisk{{Name: "sda"}, {Name: "sdb"}}}}); err != nil {
		t.Error(err)
	}
	for _, c := range []struct {
		name   string
		reg    Registration
		at     string
		unique bool
		want   int
	}{
		{"by mac", Registration{MAC: "52:54:00:00:00:01"}, "10.0.0.15", true, 0},
		{"by serial and address", Registration{MAC: "52:54:00:00:00:02", Serial: "CZC123"}, "10.0.0.20", true, 1},
		{"a number is a serial number", Registration{MAC: "52:54:00:00:00:02", Serial: "5000123"}, "10.0.0.10", true, 1},
		{"a serial number of two machines", Registration{MAC: "52:54:00:00:00:02", Serial: "CZC123"}, "10.0.0.20", false, 3},
		{"another address", Registration{MAC: "52:54:00:00:00:02", Serial: "CZC123"}, "10.0.0.21", true, 3},
		{"model", Registration{MAC: "52:54:00:00:00:02", Vendor: "Dell Inc.", Model: "optiplex 7010"}, "10.0.0.21", true, 2},
		{"vendor and model", Registration{MAC: "52:54:00:00:00:02", Vendor: "LENOVO", Model: "ThinkCentre M70"}, "10.0.0.21", true, 2},
		{"an address in IPv6", Registration{MAC: "52:54:00:00:00:02", Serial: "CZC123"}, "::ffff:10.0.0.11", true, 1},
	} {
		if got := r.For(&c.reg, netip.MustParseAddr(c.at), c.unique); got != &r.Rules[c.want] {
			t.Errorf("%s: For = %+v; want rule %d", c.name, got, c.want)
		}
	}
	u := r.Rules[2]
	if got := strings.Join(u.Answers.options(), " "); got != "--size=/=20G --fs-type=/=xfs --keep-sizes" || u.After != PowerOff || r.Rules[3].After != Reboot || r.PXEFor("52:54:00:00:00:01") != PXEAuto || r.PXEFor("52:54:00:00:00:09") != PXE4011 {
		t.Errorf("rule 2: %s, %+v", got, u)
	}
}

func TestBadRules(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"empty", "", "there is no rule"},
		{"unknown word", "rules:\n  - match: {any: true}\n    sett: x\n", `[3:5] unknown key "sett"`},
		{"unknown word in match", "rules:\n  - match: {maac: x}\n", "[2:13] unknown key"},
		{"no yaml", "rules: [", "r.yaml: [1:"},
		{"nothing matched", "rules:\n  - match: {any: true}\n  - set: x\n", "r.yaml:3: the rule matches nothing"},
		{"any and more", "rules:\n- match: {any: true, mac: 52:54:00:00:00:01}\n", "r.yaml:2: any: true goes with no other word"},
		{"mac", "rules:\n- match:\n    mac: [52:54:00:00:00]\n", "r.yaml:3: MAC"},
		{"group address", "rules:\n- match: {mac: 01:00:5e:00:00:01}\n", "r.yaml:2: MAC"},
		{"pxe by serial number", "rules:\n- match: {serial: CZC123}\n  pxe: http\n", "r.yaml:3: pxe http wants a match by mac only, or any"},
		{"pxe by mac and model", "rules:\n- match: {mac: \"52:54:00:00:00:01\", model: x}\n  pxe: http\n", "r.yaml:3: pxe http wants a match by mac only, or any"},
		{"placeholder", "rules:\n- match:\n    serial: To be filled by O.E.M.\n", "r.yaml:3: serial number"},
		{"address", "rules:\n- match:\n    address: 10.0.0.20-10.0.0.10\n", "r.yaml:3: address"},
		{"not named", "rules:\n- match: {any: true}\n  set: x\n  start: at once\n", "r.yaml:4: start at once wants machines that are named"},
		{"start", "rules:\n- match: {any: true}\n  start: now\n", `r.yaml:3: start "now" is not known`},
		{"afterwards", "rules:\n- match: {any: true}\n  afterwards: sleep\n", `r.yaml:3: afterwards "sleep"`},
		{"hostname", "rules:\n- match: {any: true}\n  hostname: lab_{n}\n", "r.yaml:3: hostname"},
		{"identity", "rules:\n- match: {any: true}\n  hostname: lab-{n}\n  identity: keep\n", "r.yaml:4: identity keep"},
		{"hostname of all", "rules:\n- match: {any: true}\n  hostname: lab\n", "the same for all"},
		{"hostname field", "rules:\n- match: {any: true}\n  hostname: lab-{x}\n", "{x} is not known"},
		{"disk", "rules:\n- match: {any: true}\n  disks: largest\n", `disk "largest" is not known`},
		{"disk with comma", "rules:\n- match: {any: true}\n  disks: {serial: \"a,b\"}\n", "r.yaml:3: disk serial number"},
		{"set", "rules:\n- match: {any: true}\n  set: ../x\n", "r.yaml:3: set"},
		{"answer", "rules:\n- match: {any: true}\n  answers: {confirm: [x]}\n", "unknown key"},
		{"answer with comma", "rules:\n- match: {any: true}\n  answers: {exclude-disk: [\"sda,sdb\"]}\n", "r.yaml:3: answer"},
		{"faults in the order of lines", "rules:\n- match: {any: true}\n  pxe: y\n  start: x\n  set: ../x\n", "r.yaml:3: pxe \"y\" is not known; want auto, offer, 4011, http, ignore\nr.yaml:4: start \"x\" is not known; want wait, at once\nr.yaml:5: set"},
	} {
		_, err := ParseRules("r.yaml", []byte(c.text))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want %q", c.name, err, c.want)
		}
	}
	for _, c := range []struct{ name, text, want string }{
		{"no such set", "rules:\n- match: {any: true}\n  set: x\n", `rule at line 2: there is no set "x"`},
		{"which set", "rules:\n- match: {any: true}\n", "there are 2 sets"},
		{"which disk", "rules:\n- match: {any: true}\n  set: two\n", "set two needs a disk for each of sda, sdb"},
		{"no such disk", "rules:\n- match: {any: true}\n  set: lab\n  disks: {vda: only, vdb: only}\n", `set lab has no disk "vdb"`},
	} {
		r, err := ParseRules("r.yaml", []byte(c.text))
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if err := r.Check([]Set{{Name: "lab", Disks: []SetDisk{{Name: "vda"}}}, {Name: "two", Disks: []SetDisk{{Name: "sda"}, {Name: "sdb"}}}}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want %q", c.name, err, c.want)
		}
	}
}

func TestNames(t *testing.T) {
	n, err := ParseNames("n.csv", []byte("\ufeffhostname, MAC, serial\nlab-a,52:54:00:00:00:01,\n# a comment\nlab-b,,CZC1\n"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		reg    Registration
		unique bool
		want   string
	}{
		{Registration{MAC: "52:54:00:00:00:01"}, false, "lab-a"},
		{Registration{MAC: "52:54:00:00:00:02", Serial: "CZC1"}, true, "lab-b"},
		{Registration{MAC: "52:54:00:00:00:02", Serial: "CZC1"}, false, ""},
		{Registration{MAC: "52:54:00:00:00:02"}, true, ""},
	} {
		if got := n.For(&c.reg, c.unique); got != c.want {
			t.Errorf("For(%+v) = %q; want %q", c.reg, got, c.want)
		}
	}
	for _, c := range []struct{ text, want string }{
		{"", "it is empty"},
		{"mac,name\n", `column "name"`},
		{"hostname\nx\n", "want the columns"},
		{"hostname,mac\na,52:54:00:00:00:01\nb,52:54:00:00:00:01\n", "n.csv:3: MAC 52:54:00:00:00:01 is there twice"},
		{"hostname,mac\na,52:54:00:00:00:01\nA,52:54:00:00:00:02\n", `n.csv:3: host name "A" is there twice`},
		{"hostname,serial\nx,None\n", `n.csv:2: serial number "None"`},
		{"hostname,serial\nx y,S1\n", `n.csv:2: "x y" is not a host name`},
		{"hostname,serial\nx,S1,3\n", "line 2"},
		{"hostname,serial\nx,\n", "neither"},
	} {
		if _, err := ParseNames("n.csv", []byte(c.text)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v; want %q", c.text, err, c.want)
		}
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "r.yaml")
	write(t, file, "rules:\n- match: {any: true}\n  names: n.csv\n")
	if _, err := LoadRules(file); err == nil || !strings.Contains(err.Error(), "r.yaml:2: cannot read names") {
		t.Errorf("without the file: %v", err)
	}
	write(t, filepath.Join(dir, "n.csv"), "hostname,mac\na,52:54:00:00:00:01\n")
	if r, err := LoadRules(file); err != nil || r.Rules[0].names == nil {
		t.Error(err)
	}
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestDiskRule(t *testing.T) {
	disks := []Disk{{Disk: layout.Disk{Name: "sda", Serial: "A", Model: "Samsung 1", Size: 200}}, {Disk: layout.Disk{Name: "sdb", Serial: "B", Model: "WDC", Size: 100}}, {Disk: layout.Disk{Name: "sdc", Serial: "C", Size: 50, Removable: true}}, {Disk: layout.Disk{Name: "sdd", Serial: "D", Size: 10}, Busy: "it is mounted"}}
	words := (&Registration{Disks: disks}).Words()
	if !slices.Equal(words, []string{"A", "B", "C", "D"}) {
		t.Fatal(words)
	}
	for _, c := range []struct {
		rule DiskRule
		want int // -1 for an error
	}{
		{DiskRule{}, -1}, // there are two
		{DiskRule{Smallest: true}, 1},
		{DiskRule{Model: "samsung*"}, 0},
		{DiskRule{Model: "*", Smallest: true}, 1},
		{DiskRule{Serial: "C"}, 2}, // named: a stick, too
		{DiskRule{Serial: "D"}, -1},
		{DiskRule{Serial: "E"}, -1},
	} {
		got, err := c.rule.pick(disks, words, map[int]bool{})
		if (err != nil) != (c.want < 0) || err == nil && got != c.want {
			t.Errorf("%v: %d, %v; want %d", c.rule, got, err, c.want)
		}
	}
	if _, err := (DiskRule{Smallest: true}).pick([]Disk{{Disk: layout.Disk{Name: "a", Size: 5}}, {Disk: layout.Disk{Name: "b", Size: 5}}}, []string{"x", "y"}, nil); err == nil || !strings.Contains(err.Error(), "a and b are the smallest") {
		t.Error(err)
	}
}

// FuzzRules: no file makes the reader panic, and what it takes can be asked about any machine.
func FuzzRules(f *testing.F) {
	f.Add(goodRules)
	f.Add("rules:\n- match: {model: \"***?*\"}\n  disks: {a: {b: c}}\n")
	f.Add("a: &a [*a]\nrules: *a")
	f.Fuzz(func(t *testing.T, text string) {
		r, err := ParseRules("r.yaml", []byte(text))
		if err != nil {
			return
		}
		reg := &Registration{MAC: "52:54:00:00:00:01", Serial: "x", Model: "y"}
		for i := range r.Rules {
			if u := &r.Rules[i]; u.Start == AtOnce && len(u.Match.MAC)+len(u.Match.Serial) == 0 {
				t.Error("a rule that names no machine starts at once")
			}
		}
		r.For(reg, netip.MustParseAddr("10.0.0.1"), true)
		_ = r.Check([]Set{{Name: "lab", Disks: []SetDisk{{Name: "vda"}}}})
	})
}

// FuzzNames: no CSV file makes the reader panic, and every name is a host name.
func FuzzNames(f *testing.F) {
	f.Add("hostname,mac,serial\na,52:54:00:00:00:01,S\n")
	f.Fuzz(func(t *testing.T, text string) {
		n, err := ParseNames("n.csv", []byte(text))
		if err != nil {
			return
		}
		for _, h := range n.byMAC {
			if !ValidHostname(h) {
				t.Errorf("%q", h)
			}
		}
	})
}
